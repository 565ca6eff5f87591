# SPDX-License-Identifier: GPL-3.0-or-later
"""Fewer keys: Bezier curves through few poses that stay within a tolerance of the motion.

All channels of a bone are keyed at the same poses. At each key a channel has one slope, so its handles are in line and
the curve has no corners; how far each handle reaches is fitted, too. A quick turn, as that of a foot that comes to
stand, is made by a short handle. With handles of a third of the way the same takes half as many keys again, if there
are to be no corners; corners beside that save hardly any.

1. Where keys stand at first is found for each bone by itself (``first_keys``).
2. Values, slopes and handles are the least squares fit to all poses, for all bones at once (``bezier``), with more
   weight where the fit is worst, so that the greatest error falls (Lawson 1961). Keys are added where it is still above
   the tolerance; what is counted there is where bones and the ends of limbs get to (``carried``).
3. Keys are taken out where the curve between their neighbours, with handles fitted to that, would hardly be worse, and
   the fit begins again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .bezier import Fit, Layout, points_at
from .carried import Carried
from .first_keys import first_keys
from .legs import hangs_on, keep_feet, legs_of
from .options import Options
from .rig import OBJECT, BoneKeys, Rig, keyed_alone, with_object
from .rotations import EULER_ORDERS, to_axis_angle, to_euler

Array = npt.NDArray[Any]

# Steps of the fit: at first, after adding keys in haste and in the end, after taking some out, and of the handles alone
# to see which.
_STEPS, _STEPS_HASTE, _STEPS_ADDED, _STEPS_FEWER, _STEPS_THIN = 5, 1, 2, 3, 2
_AT_FIRST = 24.0  # poses a second, about, among which the first keys are looked for
_THIN, _HASTE, _ROUNDS = 4, 6, 60  # times that keys are taken out; rounds of adding keys before each, and at the end
_DISPENSABLE = 1.8  # tolerances by which a curve may be off without a key that is taken out
_NEAR_MISS, _PATIENCE = 1.5, 4  # in the first rounds, where other weights may still do, no key is needed below that
_WEIGHED, _WEIGHTS = (0.9, 1.5), (0.2, 5.0)  # how much a weight may change in a round, and what it may be
_FOR_LEGS = 0.5  # of the tolerance at the feet; what the body takes of it legs make up for


@dataclass(frozen=True)
class Curves:
    """The keys of one bone: K of them, at the same frames for all its channels.

    frames     (K,) frames of the scene that are keyed, ascending
    channels   Blender's name of a channel -> (K, C) values
    slopes     the same names -> (K, 2, C) change for each frame before and after the key, by which the handles lie;
               None for automatic handles
    reaches    the same names -> (K, 2, C) frames over which the handles before and after the key reach; None: a third
               of the way to the next key
    """

    frames: Array
    channels: dict[str, Array]
    slopes: dict[str, Array] | None = None
    reaches: dict[str, Array] | None = None

    def at(self, frames: Array) -> dict[str, Array]:
        """Channel -> (N, C) values at N ascending frames, where there are slopes or a key at each of the frames."""
        if len(self.frames) == 1:
            return {name: np.repeat(values, len(frames), 0) for name, values in self.channels.items()}
        if self.slopes is None:
            rows = np.searchsorted(self.frames, frames - 1e-6)
            return {name: values[rows] for name, values in self.channels.items()}
        found = {}
        for name, values in self.channels.items():
            reaches = None if self.reaches is None else self.reaches[name]
            found[name] = points_at(self.frames, values, self.slopes[name], reaches, frames)
        return found


def rotation_channel(mode: str, quaternions: Array) -> tuple[str, Array]:
    """Name of the channel that a rotation mode has and (N, 3 or 4) values for it, unwrapped."""
    if mode in EULER_ORDERS:
        return "rotation_euler", to_euler(quaternions, mode)
    if mode == "AXIS_ANGLE":
        return "rotation_axis_angle", to_axis_angle(quaternions)
    return "rotation_quaternion", quaternions


def every_pose(keys: BoneKeys, rig: Rig, modes: dict[str, str], frames: Array) -> dict[str, Curves]:
    """Curves with a key for each pose, in the rotation mode that each bone has; handles are automatic.

    Where the armature object moves, its own are among them as ``OBJECT``, from where it stands.


    modes    bone name -> Blender's word for its rotation mode; quaternions where it is missing
    frames   (N,) where the poses stand
    """
    _, keys = with_object(rig, keys)
    return {name: Curves(frames, _channels(keys, name, modes)) for name in (keys.rotations | keys.locations)}


def _channels(keys: BoneKeys, name: str, modes: dict[str, str]) -> dict[str, Array]:
    """Channel -> (N, C) values of a bone."""
    channels = {}
    if name in keys.rotations:
        channel, values = rotation_channel(modes.get(name, "QUATERNION"), keys.rotations[name])
        channels[channel] = values
    if name in keys.locations:
        channels["location"] = keys.locations[name]
    return channels


def few_keys(keys: BoneKeys, rig: Rig, modes: dict[str, str], frames: Array, options: Options) -> dict[str, Curves]:
    """Curves with few keys, which stand at poses; arguments as in ``every_pose``.

    At the poses no bone turns away by more than ``options.degrees`` from where ``keys`` turn it against its parent, and
    no end of a limb is carried off by more than ``options.millimetres`` (for a character of 1.7 m; by less while it
    rests). Where that needs a key for each pose, that is what it gets.
    """
    if len(frames) < 3:
        return every_pose(keys, rig, modes, frames)
    rig, keys = with_object(*keyed_alone(rig, keys))
    bones = set(keys.rotations) | set(keys.locations)
    legs = legs_of(keys, rig)
    if not legs:
        return _Reduction(keys, rig, modes, frames, options, bones).curves()
    # The body may sway by a little, but then feet would slide: legs make up for it before they are reduced themselves.
    below = {name for upper, foot in legs for top in upper[-1:] for name in bones if hangs_on(rig, name, top)}
    trunk = _Reduction(keys, rig, modes, frames, options, bones - below, _FOR_LEGS)
    curves = trunk.curves()
    keys, spent = keep_feet(keys, rig, legs, trunk.carried, trunk.fitted)
    on_floor = trunk.carried.on_floor
    curves |= _Reduction(keys, rig, modes, frames, options, below, 1.0 - _FOR_LEGS, spent, on_floor).curves()
    return curves


class _Reduction:
    """T tracks (bones that are reduced together) of N poses.

    The R channels of theirs that move are fitted one by one, in units in which the tolerance is about 1.

    values, fitted   (C, T, N) what the channels are to be, location last, and what they are
    state            (4, R, N) of the key at each pose: value, slope, share of the handle after it and of that before
    lean             (T, N) by how much each pose is to count
    """

    def __init__(
        self,
        keys: BoneKeys,
        rig: Rig,
        modes: dict[str, str],
        frames: Array,
        options: Options,
        active: set[str],
        for_feet: float = 1.0,
        spent: dict[str, Array] | None = None,
        on_floor: dict[int, Array] | None = None,
    ) -> None:
        """``active``: the bones to reduce; ``for_feet``, ``spent`` and ``on_floor`` as in ``Carried``."""
        everyone = sorted(keys.rotations | keys.locations, key=lambda name: rig.index[name])  # parents before children
        self.names = [name for name in everyone if name in active]
        self.channels = {name: _channels(keys, name, modes) for name in self.names}
        self.count, self.frames = keys.poses, frames
        self.coarse = max(1, round(keys.rate / _AT_FIRST))
        turning = ["" if name not in keys.rotations else modes.get(name, "QUATERNION") for name in self.names]
        placed = any("location" in channels for channels in self.channels.values())
        self.values = np.zeros((7 if placed else 4, len(self.names), self.count))
        for track, name in enumerate(self.names):
            for channel, values in self.channels[name].items():
                self.values[_columns(channel, values), track] = values.T
        self.carried = Carried(
            keys, rig, self.names, everyone, turning, self.values, options, for_feet, spent, on_floor
        )
        self.fitted = self.values.copy()
        self.lean = np.ones((len(self.names), self.count))
        self._single_out()

    def _single_out(self) -> None:
        """The channels that move, one by one."""
        gain = self.carried.gain()
        self.track, self.column = np.nonzero(np.ptp(self.values, axis=2).T > 1e-9)  # (R,) each
        self.rows = np.searchsorted(self.track, np.arange(len(self.names) + 1))  # where those of each track begin
        own = gain[(self.column >= 4).astype(int), self.track]  # (R, N)
        level = np.sqrt(np.mean(own**2, axis=1, keepdims=True))
        self.level = np.where(level > 0, level, 1.0)  # (R, 1)
        self.weights = (own / self.level) ** 2
        # The object begins where it stands, so that the same motion put on once more begins there too.
        self.weights[[self.names[track] == OBJECT for track in self.track], 0] *= 1e4
        self.wanted = self.values[self.column, self.track] * self.level  # (R, N)
        self.drift = np.gradient(self.wanted, self.frames, axis=1)
        third = np.full(self.wanted.shape, 1 / 3)
        self.state = np.stack([self.wanted, self.drift, third, third])

    def curves(self) -> dict[str, Curves]:
        """Keys are put in and taken out a few times; the last word has the tolerance."""
        mask = np.zeros((len(self.names), self.count), bool)  # (T, N) where keys stand
        some = np.unique(np.append(np.arange(0, self.count, self.coarse), self.count - 1))
        mask[:, some] = first_keys(
            len(self.names), self.track, self.wanted[:, some], self.weights[:, some], self.frames[some]
        )
        self._refit(mask, np.ones(len(mask), bool), _STEPS)
        for _ in range(_THIN):
            mask = self._grow(mask, _HASTE, _STEPS_HASTE)
            fewer = self._thinned(mask)
            self._refit(fewer, (fewer != mask).any(1), _STEPS_FEWER)
            mask = fewer
        mask = self._grow(mask, _ROUNDS, _STEPS_ADDED)
        return self._written(mask)

    def _refit(self, mask: Array, tracks: Array, steps: int) -> None:
        """Fit the curves of some of the (T,) tracks anew, from where they are."""
        rows = np.flatnonzero(tracks[self.track])
        if not len(rows):
            return
        layout = Layout(mask[self.track[rows]], self.frames)
        row, place = rows[layout.curve], layout.place
        state = self.state[:, row, place]
        fit = Fit(layout, state[0], state[1], np.stack([state[2, layout.here], state[3, layout.after]]))
        aims = self._aims(rows, layout)
        for _ in range(steps):
            fit.step(*aims)
        state[:2], state[2, layout.here], state[3, layout.after] = (fit.values, fit.slopes), *fit.handles
        self.state[:, row, place] = state
        self._show(self.fitted, rows, layout, fit)

    def _aims(self, rows: Array, layout: Layout) -> tuple[Array, Array, Array]:
        """(F,) what the curves of some rows are to be, (F,) its weights, (M,) slopes there."""
        weights = self.weights[rows] * self.lean[self.track[rows]]
        drift = self.drift[rows[layout.curve], layout.place]
        return self.wanted[rows].take(layout.poses), weights.astype(np.float32).take(layout.poses), drift

    def _show(self, fitted: Array, rows: Array, layout: Layout, fit: Fit) -> None:
        points = np.empty(len(layout.poses))
        points[layout.poses] = fit.points()
        fitted[self.column[rows], self.track[rows]] = points.reshape(len(rows), -1) / self.level[rows]

    def _grow(self, mask: Array, rounds: int, steps: int) -> Array:
        """Add keys, and weight where the fit is too far off, until it is not."""
        mask = mask.copy()
        for turn in range(rounds):
            errors = self.carried.errors(self.fitted)
            off = self.carried.off(errors)
            most = off.max(1)
            bad = most > 1.0
            if not bad.any() and not self.carried.hold(errors):
                break
            self.lean[bad] = np.clip(self.lean[bad] * np.clip(off[bad], *_WEIGHED), *_WEIGHTS)
            limit = _NEAR_MISS if turn % 3 < 2 and turn < _PATIENCE else 1.0
            if (most > limit).any():
                self._insert(mask, off, limit)
            self._refit(mask, bad, steps)
        return mask

    def _insert(self, mask: Array, off: Array, limit: float) -> None:
        """Set a key where each segment is worst."""
        at_place = off.copy()
        # A key that is off itself is helped by one beside it.
        at_key = np.where(mask, at_place, 0.0)
        at_place[:, :-1] = np.maximum(at_place[:, :-1], at_key[:, 1:])
        at_place[:, 1:] = np.maximum(at_place[:, 1:], at_key[:, :-1])
        track, place = np.nonzero((at_place > limit) & ~mask)
        number = np.cumsum(mask, 1)  # keys so far
        segment = track * mask.shape[1] + number[track, place]
        order = np.lexsort((-at_place[track, place], segment))
        _, once = np.unique(segment[order], return_index=True)
        track, place = track[order[once]], place[order[once]]
        # The handles of a segment that is cut in two begin at a third again.
        keyed = np.flatnonzero(mask)
        before = np.searchsorted(keyed, track * mask.shape[1] + place) - 1
        count = self.rows[track + 1] - self.rows[track]
        row = np.repeat(self.rows[track], count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        place_of, before = np.repeat(place, count), np.repeat(before, count)
        self.state[0, row, place_of] = self.wanted[row, place_of]
        self.state[1, row, place_of] = self.drift[row, place_of]
        self.state[2:, row, place_of] = 1 / 3
        self.state[2, row, keyed[before] % mask.shape[1]] = 1 / 3
        self.state[3, row, keyed[before + 1] % mask.shape[1]] = 1 / 3
        mask[track, place] = True

    def _thinned(self, mask: Array) -> Array:
        """The mask without keys that hardly do anything; never two in a row."""
        track, place = np.nonzero(mask)
        inner = np.zeros(len(track), bool)
        inner[1:-1] = (track[:-2] == track[1:-1]) & (track[1:-1] == track[2:])
        cost = np.full(len(track) + 2, np.inf)[1:-1]
        for odd in (0, 1):
            out = np.flatnonzero(inner & ((np.cumsum(mask, 1) % 2 == odd)[track, place]))
            rows = np.flatnonzero(np.isin(self.track, track[out]))
            if not len(rows):
                continue
            without = mask.copy()
            without[track[out], place[out]] = False
            layout = Layout(without[self.track[rows]], self.frames)
            values, slopes = self.state[:2, rows[layout.curve], layout.place]
            fit = Fit(layout, values, slopes, np.full((2, len(layout.here)), 1 / 3))
            aims = self._aims(rows, layout)
            for _ in range(_STEPS_THIN):
                fit.step(*aims, free=False)
            fitted = self.fitted.copy()
            self._show(fitted, rows, layout, fit)
            alone = np.append(self.carried.alone(self.carried.errors(fitted)), 0.0)
            # The worst between the keys on either side.
            start, end = (track[out] * self.count + place[out + side] for side in (-1, 1))
            cost[out] = np.maximum.reduceat(alone, np.stack([start, end], 1).ravel())[::2]
        neighbours = np.minimum(np.append(np.inf, cost[:-1]), np.append(cost[1:], np.inf))
        lowest = (cost < _DISPENSABLE) & (cost <= neighbours)
        lowest[1:] &= cost[1:] < cost[:-1]
        fewer = mask.copy()
        fewer[track[lowest], place[lowest]] = False
        return fewer

    def _written(self, mask: Array) -> dict[str, Curves]:
        """What the keys of ``mask`` are in Blender's channels."""
        curves = {}
        for track, name in enumerate(self.names):
            mine = np.arange(self.rows[track], self.rows[track + 1])  # of the R rows
            here = np.flatnonzero(mask[track]) if len(mine) else np.zeros(1, int)
            gaps = np.diff(self.frames[here]) if len(here) > 1 else np.ones(1)
            value = self.values[:, track, here].T  # (K, C)
            slope = np.zeros((len(here), 2, value.shape[1]))
            third = np.stack([np.append(gaps[:1], gaps), np.append(gaps, gaps[-1:])], -1)[: len(here)] / 3  # (K, 2)
            reach = np.repeat(third[..., None], value.shape[1], -1)
            own = self.state[:, mine[:, None], here].transpose(0, 2, 1)  # (4, K, moving)
            column, level = self.column[mine], self.level[mine, 0]
            value[:, column], slope[:, :, column] = own[0] / level, (own[1] / level)[:, None]
            reach[1:, 0, column], reach[:-1, 1, column] = own[3, 1:] * gaps[:, None], own[2, :-1] * gaps[:, None]
            if name == OBJECT:
                value[0] = self.values[:, track, here[0]]
            each = {channel: _columns(channel, values) for channel, values in self.channels[name].items()}
            curves[name] = Curves(
                self.frames[here],
                {channel: value[:, columns] for channel, columns in each.items()},
                {channel: slope[..., columns] for channel, columns in each.items()},
                {channel: reach[..., columns] for channel, columns in each.items()},
            )
        return curves


def _columns(channel: str, values: Array) -> slice:
    """Where the (N, C) values of a channel are among those of its track."""
    return slice(4, 7) if channel == "location" else slice(0, values.shape[1])
