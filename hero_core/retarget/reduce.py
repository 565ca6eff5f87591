# SPDX-License-Identifier: GPL-3.0-or-later
"""Fewer keys: Bezier curves through few poses that stay within a tolerance of the motion.

All channels of a bone are keyed at the same poses. Between two keys each channel is a cubic with a slope at each key,
which is what Blender makes of a Bezier segment whose handles reach over a third of it. Values and slopes are the least
squares fit to all poses, for all bones at once (one tridiagonal system), with more weight where the fit is worst, so
that the greatest error falls (Lawson 1961). Keys are added where that is still above the tolerance and taken out again
where they turn out not to be needed. The slopes before and after a key may differ, as feet that come to stand have
corners in their motion; at the end they are made the same wherever the tolerance allows it.

What counts is not the channel but what it moves: how far the bone turns away, and how far hands, feet and head are
carried off by all bones above them together. That is followed to the first order, which is exact enough for errors of
half a degree, so no forward kinematics is needed while the keys are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..motion import FPS
from .options import Options
from .rig import BoneKeys, Rig
from .rotations import EULER_ORDERS, continuous, to_axis_angle, to_euler, to_matrix, unit

Array = npt.NDArray[Any]

# An end that rests is seen to slide long before one that moves is seen to be off: (speed in m/s, share of tolerance).
_STILL, _MOVING = (0.01, 0.2), (0.08, 1.0)
_NEAR_MISS = 1.35  # times the tolerance: other weights may still do, no key is needed yet
_ROUNDS = 16


@dataclass(frozen=True)
class Curves:
    """The keys of one bone: K of them, at the same frames for all its channels.

    frames     (K,) frames of the scene that are keyed, ascending
    channels   Blender's name of a channel -> (K, C) values
    slopes     the same names -> (K, 2, C) change for each frame before and after the key, by which the handles lie;
               None for automatic handles
    """

    frames: Array
    channels: dict[str, Array]
    slopes: dict[str, Array] | None = None

    def at(self, frames: Array) -> dict[str, Array]:
        """Channel -> (N, C) values at N ascending frames, where there are slopes or a key at each of the frames."""
        if len(self.frames) == 1:
            return {name: np.repeat(values, len(frames), 0) for name, values in self.channels.items()}
        if self.slopes is None:
            rows = np.searchsorted(self.frames, frames - 1e-6)
            return {name: values[rows] for name, values in self.channels.items()}
        layout = _Layout(np.ones((1, len(self.frames)), bool), self.frames, frames)
        return {name: _evaluate(layout, values, self.slopes[name])[0] for name, values in self.channels.items()}


def rotation_channel(mode: str, quaternions: Array) -> tuple[str, Array]:
    """Name of the channel that a rotation mode has and (N, 3 or 4) values for it, unwrapped."""
    if mode in EULER_ORDERS:
        return "rotation_euler", to_euler(quaternions, mode)
    if mode == "AXIS_ANGLE":
        return "rotation_axis_angle", to_axis_angle(quaternions)
    return "rotation_quaternion", quaternions


def every_pose(keys: BoneKeys, modes: dict[str, str], frames: Array) -> dict[str, Curves]:
    """Curves with a key for each pose, in the rotation mode that each bone has; handles are automatic.

    modes    bone name -> Blender's word for its rotation mode; quaternions where it is missing
    frames   (N,) where the poses stand
    """
    curves: dict[str, Curves] = {}
    for name in dict.fromkeys((*keys.rotations, *keys.locations)):
        channels = {}
        if name in keys.rotations:
            channel, values = rotation_channel(modes.get(name, "QUATERNION"), keys.rotations[name])
            channels[channel] = values
        if name in keys.locations:
            channels["location"] = keys.locations[name]
        curves[name] = Curves(frames, channels)
    return curves


def few_keys(keys: BoneKeys, rig: Rig, modes: dict[str, str], frames: Array, options: Options) -> dict[str, Curves]:
    """Curves with few keys on whole frames; arguments as in ``every_pose``.

    At the poses no bone turns away by more than ``options.degrees`` from where ``keys`` turn it against its parent, and
    no end of a limb is carried off by more than ``options.millimetres`` (for a character of 1.7 m; by less while it
    rests). Where that needs a key for each pose, that is what it gets.
    """
    dense = every_pose(keys, modes, frames)
    grid = _whole(frames)
    if len(grid) < 3:
        return dense
    legs = _legs(keys, rig)
    if not legs:
        return _Reduction(keys, rig, modes, frames, grid, options, set(dense)).curves()
    # The body may sway by a little, but then feet would slide: legs make up for it before they are reduced themselves.
    below = {name for upper, foot in legs for top in upper[-1:] for name in dense if _hangs_on(rig, name, top)}
    trunk = _Reduction(keys, rig, modes, frames, grid, options, set(dense) - below, _FOR_LEGS)
    curves = trunk.curves()
    keys, spent = _keep_feet(keys, rig, legs, trunk, curves)
    curves |= _Reduction(keys, rig, modes, frames, grid, options, below, 1.0 - _FOR_LEGS, spent).curves()
    return curves


def _legs(keys: BoneKeys, rig: Rig) -> list[tuple[list[str], str]]:
    """Of each leg the keyed bones that place its ankle, lowest first, and its foot; empty where they do not do so."""
    legs = []
    for side in ("left", "right"):
        hip, ankle = (keys.joints.get(f"{side}_{joint}") for joint in ("hip", "ankle"))
        if hip is None or ankle is None or hip not in keys.rotations or ankle not in keys.rotations:
            return []
        line = rig.between(rig.index[hip], rig.index[ankle])[::-1]
        upper = [rig.names[row] for row in line if rig.names[row] in keys.rotations]
        if not line or any(rig.names[row] in keys.locations for row in (*line, rig.index[ankle])):
            return []
        if not all(rig.inherit_rotation[row] for row in (*line, rig.index[ankle])):
            return []
        legs.append((upper, ankle))
    return legs


def _hangs_on(rig: Rig, name: str, top: str) -> bool:
    return rig.index[top] in rig.line(rig.index[name])


def _keep_feet(
    keys: BoneKeys, rig: Rig, legs: list[tuple[list[str], str]], trunk: _Reduction, curves: dict[str, Curves]
) -> tuple[BoneKeys, dict[str, Array]]:
    """The keys with legs that hold the feet where they are although the body is where ``curves`` have it.

    Also (N,) radians by which each bone of a leg is turned for that. A leg does not do more than half of the tolerance.
    """
    errors = trunk.errors_of(curves)
    rotations, spent = dict(keys.rotations), {}
    for upper, foot in legs:
        point = trunk.heads[foot]
        turned, moved = np.zeros((trunk.count, 3)), np.zeros((trunk.count, 3))
        for name in (rig.names[row] for row in rig.line(rig.index[upper[-1]])[1:]):
            if name in trunk.names:
                turn, move = errors[name]
                turned += turn
                moved += np.cross(turn, point - trunk.heads[name]) + move
        arms = [point - trunk.heads[name] for name in upper]
        maps = np.concatenate([_across(arm) for arm in arms], -1)  # (N, 3, 3 K)
        length = float(np.linalg.norm(arms[-1], axis=-1).max())
        square = maps @ np.swapaxes(maps, -1, -2) + (0.1 * length) ** 2 * np.eye(3)
        steps = np.swapaxes(maps, -1, -2) @ np.linalg.solve(square, -moved[..., None])
        turns = dict(zip(upper, np.moveaxis(steps.reshape(trunk.count, -1, 3), 1, 0), strict=True))
        turns[foot] = -turned - sum(turns.values())
        most = np.max([np.linalg.norm(turn, axis=-1) for turn in turns.values()], axis=0)
        share = np.minimum(1.0, 0.5 * trunk.angle / np.maximum(most, 1e-12))[:, None]
        for name, turn in turns.items():
            own = share * np.einsum("nji,nj->ni", trunk.frames_of[name], turn)
            spent[name] = np.linalg.norm(own, axis=-1)
            rotations[name] = continuous(
                _product(keys.rotations[name], np.concatenate([np.ones_like(share), own / 2], -1))
            )
            rotations[name] /= np.linalg.norm(rotations[name], axis=-1, keepdims=True)
    return replace(keys, rotations=rotations), spent


def _whole(frames: Array) -> Array:
    """(N,) the whole frame nearest to each pose, from end to end; poses denser than frames stay where they are."""
    if frames[-1] - frames[0] < len(frames) - 1.001:
        return frames
    grid = np.round(frames)
    grid[0], grid[-1] = np.floor(frames[0] + 1e-4), np.ceil(frames[-1] - 1e-4)
    return grid


class _Layout:
    """Where keys stand, for T tracks of G places for keys: (T, G) ``mask``, True at the first and the last at least.

    All keys of all tracks are counted through, M of them; flat arrays over the N poses run through the tracks, F = T N.
    """

    def __init__(self, mask: Array, places: Array, frames: Array) -> None:
        self.tracks, self.length = len(mask), len(frames)
        self.track, self.place = np.nonzero(mask)  # (M,) each
        self.first = np.searchsorted(self.track, np.arange(self.tracks))  # the first key of each track
        self.frame = places[self.place]
        counts = np.cumsum(mask, 1)  # (T, G) keys so far
        # (T, N) the key at which the segment begins in which a pose lies; the last pose lies in the last segment
        before = np.maximum(np.searchsorted(places, frames + 1e-9, side="right") - 1, 0)
        inside = np.clip(counts[:, before] - 1, 0, counts[:, -1:] - 2)
        self.start = (inside + self.first[:, None]).ravel()  # (F,)
        self.segment = self.start - np.repeat(np.arange(self.tracks), self.length)  # counted through, too
        reach = self.frame[self.start + 1] - self.frame[self.start]
        # (4, F) what the two values and slopes of its segment add to a pose
        u = (np.tile(frames, self.tracks) - self.frame[self.start]) / reach
        v = 1.0 - u
        self.basis = np.stack(
            [(1 + 2 * u) * v * v, reach * u * v * v, u * u * (3 - 2 * u), -reach * u * u * v]
        )  # (4, F)
        inner = np.ones(len(self.track), bool)
        inner[np.append(self.first[1:], len(inner)) - 1] = False
        self.opens = np.flatnonzero(inner)  # keys that begin a segment
        begin = np.searchsorted(self.segment, np.arange(len(self.opens) + 1))
        self.empty = begin[:-1] == begin[1:]  # between two keys side by side there may be no pose
        self.begin = np.minimum(begin[:-1], len(self.segment) - 1)
        # (M,) a pose beside each key, in the flat arrays
        self.nearest = self.track * self.length + np.minimum(
            np.searchsorted(frames, self.frame - 1e-9), self.length - 1
        )

    def most(self, values: Array) -> Array:
        """(S,) the greatest of (F,) values in each segment, 0 where it holds no pose."""
        return np.where(self.empty, 0.0, np.maximum.reduceat(values, self.begin))


def _evaluate(layout: _Layout, values: Array, slopes: Array) -> Array:
    """(T, N, C) the curves at each pose from (M, C) values and (M, 2, C) slopes."""
    a, b, c, d = layout.basis[:, :, None]
    here, after = layout.start, layout.start + 1
    flat = a * values[here]
    flat += b * slopes[here, 1]
    flat += c * values[after]
    flat += d * slopes[after, 0]
    return np.asarray(flat.reshape(layout.tracks, layout.length, -1))


def _fit(layout: _Layout, wanted: Array, weights: Array, drift: Array) -> tuple[Array, Array]:
    """(M, C) values and (M, 2, C) slopes before and after of the least squares fit to (F, C) ``wanted``.

    ``weights``: (F,). ``drift``: (M, C) slopes of the poses themselves, towards which slopes are drawn a little:
    between two keys side by side nothing else tells them, and a curve has corners only where they are worth it.
    """
    columns = wanted.shape[1]
    weighted = layout.basis * weights  # (4, F)
    products = np.empty((10 + 4 * columns, len(weights)))
    for row, (i, j) in enumerate(_PAIRS):
        np.multiply(weighted[i], layout.basis[j], out=products[row])
    np.multiply(weighted[:, None], wanted.T, out=products[10:].reshape(4, columns, -1))
    sums = np.where(layout.empty, 0.0, np.add.reduceat(products, layout.begin, axis=1))
    square = {pair: sums[row] for row, pair in enumerate(_PAIRS)}  # value, slope, value, slope
    first, slope_first, last, slope_last = sums[10:].reshape(4, columns, -1)  # (C, S) each
    here, after = layout.opens, layout.opens + 1
    # The slopes belong to one segment alone: they are eliminated there, which leaves a chain of values.
    p, q, r = square[1, 1] + _PULL, square[1, 3], square[3, 3] + _PULL
    scale = 1.0 / (p * r - q * q)
    p, q, r = p * scale, q * scale, r * scale  # inverse is [[r, -q], [-q, p]]
    one, two = slope_first + _PULL * drift[here].T, slope_last + _PULL * drift[after].T
    one, two = r * one - q * two, p * two - q * one
    b0, d0, b1, d1 = square[0, 1], square[0, 3], square[1, 2], square[2, 3]
    to_b0, to_d0, to_b1, to_d1 = r * b0 - q * d0, p * d0 - q * b0, r * b1 - q * d1, p * d1 - q * b1
    count = len(layout.track)
    diagonal, beside, right = np.full(count, 1e-9), np.zeros(count), 1e-9 * wanted[layout.nearest].T
    diagonal[here] += square[0, 0] - b0 * to_b0 - d0 * to_d0
    diagonal[after] += square[2, 2] - b1 * to_b1 - d1 * to_d1
    beside[here] = square[0, 2] - b0 * to_b1 - d0 * to_d1
    right[:, here] += first - b0 * one - d0 * two
    right[:, after] += last - b1 * one - d1 * two
    values = _chain(diagonal, beside, right)
    slopes = np.zeros((2, columns, count))
    slopes[1][:, here] = one - to_b0 * values[:, here] - to_b1 * values[:, after]
    slopes[0][:, after] = two - to_d0 * values[:, here] - to_d1 * values[:, after]
    return values.T, np.moveaxis(slopes, -1, 0)


_PAIRS = [(i, j) for i in range(4) for j in range(i, 4)]
_PULL = 3e-4


def _chain(diagonal: Array, beside: Array, right: Array) -> Array:
    """(C, M) solution of a symmetric tridiagonal system: (M,) diagonal, (M,) what is right of it, (C, M) right side.

    Every other unknown is eliminated at once, again and again (cyclic reduction, Heller 1976), so that numpy does many
    in each step.
    """
    count = len(diagonal)
    if count == 1:
        return right / diagonal
    lower, upper = beside[0 : count - 1 : 2], beside[1::2]  # an odd unknown with the one before and the one after it
    to_lower, to_upper = lower / diagonal[1::2], upper / diagonal[1::2]
    odd_right = right[:, 1::2]
    kept, kept_right = diagonal[::2].copy(), right[:, ::2].copy()
    odd = len(to_lower)
    kept[:odd] -= to_lower * lower
    kept_right[:, :odd] -= to_lower * odd_right
    later = len(kept) - 1  # odd unknowns that have one after them
    kept[1:] -= (to_upper * upper)[:later]
    kept_right[:, 1:] -= (to_upper * odd_right)[:, :later]
    between = np.zeros_like(kept)
    between[:later] = -to_lower[:later] * upper[:later]
    even = _chain(kept, between, kept_right)
    solved = np.empty_like(right)
    solved[:, ::2] = even
    rest = odd_right - lower * even[:, :odd]
    rest[:, :later] -= upper[:later] * even[:, 1:]
    solved[:, 1::2] = rest / diagonal[1::2]
    return solved


class _Reduction:
    """T tracks (bones with keys) of N poses, and the places (whole frames) where keys may stand."""

    def __init__(
        self,
        keys: BoneKeys,
        rig: Rig,
        modes: dict[str, str],
        frames: Array,
        grid: Array,
        options: Options,
        active: set[str],
        for_feet: float = 1.0,
        spent: dict[str, Array] | None = None,
    ) -> None:
        """``active``: the bones to reduce; ``for_feet``: share of the tolerance that they may take at the feet.

        ``spent``: (N,) radians of their tolerance that bones have used up already.
        """
        dense = every_pose(keys, modes, frames)
        self.all = sorted(dense, key=lambda name: rig.index[name])  # parents before children
        self.names = [name for name in self.all if name in active]
        self.dense, self.count, self.frames = dense, keys.poses, frames
        self.places, self.pose = np.unique(grid, return_index=True)  # (G,) each
        self.pose[-1] = self.count - 1
        self.modes = ["" if name not in keys.rotations else modes.get(name, "QUATERNION") for name in self.names]
        self.quaternions = np.zeros((len(self.names), self.count, 4))
        self.quaternions[..., 0] = 1.0
        self.values = np.zeros((len(self.names), self.count, 7))
        self.placed = [track for track, name in enumerate(self.names) if name in keys.locations]
        for track, name in enumerate(self.names):
            if name in keys.rotations:
                self.quaternions[track] = keys.rotations[name]
            for channel, values in dense[name].channels.items():
                self.values[track, :, self._columns(channel, values)] = values
        self.values = self.values[..., : 7 if self.placed else 4]
        self.drift = np.gradient(self.values, frames, axis=1)
        self.angle = np.radians(options.degrees)
        nothing = np.zeros(self.count)
        self.angles = self.angle - np.array([(spent or {}).get(name, nothing) for name in self.names])  # (T, N)
        self._follow(keys, rig, options, for_feet, spent is None)

    @staticmethod
    def _columns(channel: str, values: Array) -> slice:
        return slice(4, 7) if channel == "location" else slice(0, values.shape[1])

    def _follow(self, keys: BoneKeys, rig: Rig, options: Options, for_feet: float, first: bool) -> None:
        """What an error of each track does to the ends of the limbs, in tolerances: linear maps for each pose."""
        rows = {name: rig.index[name] for name in self.all}
        name_of = {row: name for name, row in rows.items()}
        track_of = {name: track for track, name in enumerate(self.names)}
        turns: dict[str, Array] = {}
        self.heads: dict[str, Array] = {}  # (N, 3) armature space
        self.frames_of: dict[str, Array] = {}  # (N, 3, 3) the axes about which a bone's own turns are
        axes: dict[str, Array] = {}  # of the location channels
        above: dict[str, str | None] = {}  # the keyed bone that carries each
        still = np.broadcast_to(np.eye(3), (self.count, 3, 3))
        for name, row in rows.items():
            carrier = next((name_of[up] for up in rig.line(row)[1:] if up in name_of), None)
            above[name] = carrier
            base, head = still, np.broadcast_to(rig.heads[row], (self.count, 3))
            if carrier is not None:
                base = turns[carrier]
                head = self.heads[carrier] + base @ (rig.heads[row] - rig.heads[rows[carrier]])
            parent = int(rig.parents[row])
            own = rig.rotations[row] if rig.use_local_location[row] or parent < 0 else rig.rotations[parent]
            if not rig.use_local_location[row] and parent < 0:
                own = np.eye(3)
            axes[name] = base @ own
            if name in keys.locations:
                head = head + np.einsum("nij,nj->ni", axes[name], keys.locations[name])
            rest = rig.rotations[row]
            turns[name] = (base if rig.inherit_rotation[row] else still) @ rest
            if name in keys.rotations:
                turns[name] = turns[name] @ to_matrix(keys.rotations[name])
            self.frames_of[name] = turns[name]
            turns[name] = turns[name] @ rest.T
            self.heads[name] = head
        self.axes = axes

        ends: dict[tuple[str, int], float] = {}  # (bone that carries it, row whose head it is) -> tolerances
        last = [name for name in rows if name not in above.values()]
        # Both ends of a limb that reaches for a target: where the trunk carries it, and the target.
        share = _TARGET if any(name in keys.locations and name in keys.rotations for name in last) else 1.0
        for name in last:
            ends[name, rows[name]] = share if name in keys.rotations else _POLE
        for joint in _ENDS:
            bone = keys.joints.get(joint)
            if bone is None or bone not in rig.index:
                continue
            line = rig.line(rig.index[bone])
            at = next((at for at, row in enumerate(line) if row in name_of), None)
            # What a constraint moves does not follow its parents.
            if at is not None and not rig.owned[line[:at]].any():
                ends[name_of[line[at]], line[0]] = 1.0
        hips = [rig.index[bone] for side in ("left", "right") if (bone := keys.joints.get(f"{side}_hip")) in rows]

        world = rig.to_world[:3, :3]
        tolerance = options.millimetres * 1e-3 * keys.scale  # scene units
        maps: list[Array] = []
        sources: list[int] = []
        owners: list[int] = []
        begins: list[int] = []
        for (carrier, row), share in ends.items():
            begin = len(maps)
            end = self.heads[carrier] + turns[carrier] @ (rig.heads[row] - rig.heads[rows[carrier]])
            speed = np.linalg.norm(np.gradient(end @ world.T, axis=0), axis=-1) * FPS / keys.scale
            rests = (np.clip(speed, _STILL[0], _MOVING[0]) - _STILL[0]) / (_MOVING[0] - _STILL[0])
            allowed = tolerance * share * (_STILL[1] + (_MOVING[1] - _STILL[1]) * rests)
            if for_feet < 1.0 and any(hip in rig.line(row) for hip in hips):
                # The body only has to leave the legs something that they can make up for; feet rest on the legs.
                limit = np.full(self.count, tolerance * for_feet)
                allowed = limit if first else np.minimum(allowed, limit)
            into = world / allowed[:, None, None]  # (N, 3, 3)
            now: str | None = carrier
            while now is not None:
                track = track_of.get(now)
                if track is not None and self.modes[track]:
                    maps.append(into @ _across(end - self.heads[now]) @ self.frames_of[now])
                    sources.append(track)
                    owners.append(track)
                if track is not None and track in self.placed:
                    maps.append(into @ axes[now])
                    sources.append(len(self.names) + self.placed.index(track))
                    owners.append(track)
                now = above[now]
            if len(maps) > begin:
                begins.append(begin)
        self.maps = np.stack(maps)  # (P, N, 3, 3) error of a source -> what an end is off by, in tolerances
        self.sources, self.owners = np.array(sources), np.array(owners)
        self.ends = np.array(begins)
        self.end_of = np.repeat(np.arange(len(begins)), np.diff([*begins, len(maps)]))
        self.by_owner = np.argsort(self.owners, kind="stable")
        self.weights = np.full((len(self.names), self.count), self.angle**-2)
        for owner, source, each in zip(self.owners, self.sources, self.maps, strict=True):
            if source < len(self.names):
                self.weights[owner] += np.sum(each * each, (1, 2)) / 3
            elif not self.modes[owner]:
                self.weights[owner] = np.sum(each * each, (1, 2)) / 3
        self.weights /= self.weights.mean(1, keepdims=True)
        self.owner_rows, self.owner_starts = np.unique(self.owners[self.by_owner], return_index=True)

    def errors_of(self, curves: dict[str, Curves]) -> dict[str, tuple[Array, Array]]:
        """Bone -> (N, 3) small turn and (N, 3) move by which its curves are off, armature space."""
        fitted = np.zeros_like(self.values)
        for track, name in enumerate(self.names):
            for channel, values in curves[name].at(self.frames).items():
                fitted[track, :, self._columns(channel, values)] = values
        errors = self._errors(fitted)
        found = {}
        for track, name in enumerate(self.names):
            move = np.zeros((self.count, 3))
            if track in self.placed:
                place = errors[len(self.names) + self.placed.index(track)]
                move = np.einsum("nij,nj->ni", self.axes[name], place)
            found[name] = np.einsum("nij,nj->ni", self.frames_of[name], errors[track]), move
        return found

    def curves(self) -> dict[str, Curves]:
        """Keys are put in and taken out a few times; the last word has the tolerance."""
        mask = np.zeros((len(self.names), len(self.places)), bool)
        mask[:, ::_FIRST_STEP] = True
        mask[:, [0, -1]] = True
        mask[np.ptp(self.values, axis=1).max(-1) < 1e-9, 1:-1] = False
        self.lean = np.ones((len(mask), self.count))
        for rounds in _PLAN:
            mask, fitted = self._grow(mask, rounds)
            mask = self._thinned(mask, *fitted)
        mask, (values, slopes) = self._grow(mask, _ROUNDS)
        curves = {}
        layout = _Layout(mask, self.places, self.frames)
        slopes = self._aligned(layout, values, slopes)
        last = np.append(layout.first[1:], len(slopes)) - 1
        slopes[layout.first, 0], slopes[last, 1] = slopes[layout.first, 1], slopes[last, 0]
        for track, name in enumerate(self.names):
            here = np.flatnonzero(layout.track == track)
            if np.ptp(self.values[track], axis=0).max() < 1e-9:
                here = here[:1]
            columns = {channel: self._columns(channel, v) for channel, v in self.dense[name].channels.items()}
            curves[name] = Curves(
                layout.frame[here],
                {channel: values[here, at] for channel, at in columns.items()},
                {channel: slopes[here][:, :, at] for channel, at in columns.items()},
            )
        return curves

    def _grow(self, mask: Array, rounds: int) -> tuple[Array, tuple[Array, Array]]:
        """Fit, and add keys where the fit is too far off, until it is not or the rounds are over."""
        mask, patience = mask.copy(), _PATIENCE
        for turn in range(rounds):
            layout = _Layout(mask, self.places, self.frames)
            weights = (self.weights * self.lean).ravel()
            drift = self.drift[layout.track, self.pose[layout.place]]
            fitted = _fit(layout, self.values.reshape(weights.size, -1), weights, drift)
            off = self._off(_evaluate(layout, *fitted))
            worst = off.max(1)
            if worst.max() <= 1.0 or turn == rounds - 1:
                break
            limit = _NEAR_MISS if patience > 0 and turn < _ROUNDS // 2 else 1.0
            patience = patience - 1 if worst.max() <= limit else _PATIENCE
            bad = worst > 1.0
            self.lean[bad] = np.clip(self.lean[bad] * np.clip(off[bad], 0.5, 2.0), 0.05, 20.0)
            if worst.max() > limit:
                self._insert(mask, layout, off, limit)
        return mask, fitted

    def _aligned(self, layout: _Layout, values: Array, slopes: Array) -> Array:
        """Slopes that are the same before and after a key, wherever the tolerance does not need a corner there."""
        # The longer segment knows its slope better.
        reach = np.zeros((len(values), 2, 1))
        reach[layout.opens + 1, 0, 0] = reach[layout.opens, 1, 0] = np.diff(layout.frame)[layout.opens]
        mean = (reach * slopes).sum(1) / reach.sum(1)
        keep = np.ones(len(values), bool)
        limit = np.maximum(self._off(_evaluate(layout, values, slopes)), 1.0).ravel()
        for _ in range(_ALIGNMENTS):
            tried = np.where(keep[:, None, None], mean[:, None], slopes)
            bad = layout.most((self._off(_evaluate(layout, values, tried)).ravel() > limit).astype(float)) > 0
            if not bad.any():
                return tried
            keep[layout.opens[bad]] = keep[layout.opens[bad] + 1] = False
        return slopes

    def _insert(self, mask: Array, layout: _Layout, off: Array, limit: float) -> None:
        """Set a key where each segment is worst."""
        at_place = off[:, self.pose]
        # A key that is off itself is helped by one beside it.
        at_key, open_place = np.where(mask, at_place, 0.0), ~mask
        at_place = np.where(mask, 0.0, at_place)
        at_place[:, :-1] = np.maximum(at_place[:, :-1], at_key[:, 1:] * open_place[:, :-1])
        at_place[:, 1:] = np.maximum(at_place[:, 1:], at_key[:, :-1] * open_place[:, 1:])
        track, place = np.nonzero(at_place > limit)
        segment = layout.segment[track * self.count + self.pose[place]]
        order = np.lexsort((-at_place[track, place], segment))
        _, once = np.unique(segment[order], return_index=True)
        chosen = order[once]
        mask[track[chosen], place[chosen]] = True

    def _thinned(self, mask: Array, values: Array, slopes: Array) -> Array:
        """The mask without keys that hardly do anything; never two in a row."""
        layout = _Layout(mask, self.places, self.frames)
        number = np.arange(len(layout.track)) - layout.first[layout.track]
        inner = np.ones(len(layout.track), bool)
        inner[layout.first] = inner[np.append(layout.first[1:], len(inner)) - 1] = False
        cost = np.full(len(layout.track), np.inf)
        for odd in (0, 1):
            out = inner & (number % 2 == odd)
            without = mask.copy()
            without[layout.track[out], layout.place[out]] = False
            left = _Layout(without, self.places, self.frames)
            off = left.most(self._alone(_evaluate(left, values[~out], slopes[~out])).ravel())
            cost[out] = off[left.segment[layout.track[out] * self.count + self.pose[layout.place[out]]]]
        lowest = (cost < _DISPENSABLE) & (cost <= np.append(cost[1:], np.inf)) & (cost < np.append(np.inf, cost[:-1]))
        fewer = mask.copy()
        fewer[layout.track[lowest], layout.place[lowest]] = False
        return fewer

    def _errors(self, fitted: Array) -> Array:
        """(T + placed, N, 3) rotation vectors about the axes of the turned bone, then location errors."""
        turned = fitted[..., :4]
        for track, mode in enumerate(self.modes):
            if mode in EULER_ORDERS:
                turned[track] = _from_euler(fitted[track, :, :3], mode)
            elif mode == "AXIS_ANGLE":
                turned[track] = _from_axis_angle(fitted[track, :, :4])
            elif not mode:
                turned[track] = [1.0, 0.0, 0.0, 0.0]
        w, x, y, z = np.moveaxis(self.quaternions, -1, 0)
        a, b, c, d = np.moveaxis(turned, -1, 0)
        real = w * a + x * b + y * c + z * d
        scale = 2.0 / np.where(np.abs(real) > 1e-9, real, 1e-9)
        vector = [w * b - x * a - y * d + z * c, w * c - y * a - z * b + x * d, w * d - z * a - x * c + y * b]
        errors = np.empty((len(self.names) + len(self.placed), self.count, 3))
        for axis, each in enumerate(vector):
            errors[: len(self.names), :, axis] = each * scale
        if self.placed:
            errors[len(self.names) :] = fitted[self.placed, :, 4:] - self.values[self.placed, :, 4:]
        return errors

    def _off(self, fitted: Array) -> Array:
        """(T, N) by how many tolerances each track is to blame for being off."""
        errors = self._errors(fitted)
        off = np.linalg.norm(errors[: len(self.names)], axis=-1) / self.angles
        shares = np.einsum("pnij,pnj->pni", self.maps, errors[self.sources])
        moved = np.add.reduceat(shares, self.ends, axis=0)  # (E, N, 3)
        size = np.linalg.norm(moved, axis=-1)
        if size.max() <= 1.0:
            return np.asarray(off)
        part = np.einsum("pni,pni->pn", shares, moved[self.end_of])
        most = np.maximum.reduceat(part, self.ends, axis=0)[self.end_of]
        blame = np.where((part >= _BLAME * most) & (size[self.end_of] > 1.0), size[self.end_of], 0.0)
        worst = np.maximum.reduceat(blame[self.by_owner], self.owner_starts, axis=0)
        off[self.owner_rows] = np.maximum(off[self.owner_rows], worst)
        return np.asarray(off)

    def _alone(self, fitted: Array) -> Array:
        """(T, N) the same, were all other tracks without error."""
        errors = self._errors(fitted)
        off = np.linalg.norm(errors[: len(self.names)], axis=-1) / self.angles
        size = np.linalg.norm(np.einsum("pnij,pnj->pni", self.maps, errors[self.sources]), axis=-1)
        worst = np.maximum.reduceat(size[self.by_owner], self.owner_starts, axis=0)
        off[self.owner_rows] = np.maximum(off[self.owner_rows], worst)
        return np.asarray(off)


_ENDS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in ("wrist", "ankle", "foot")) + ("head",)
_TARGET = 0.35  # the middle of a nearly straight limb moves by some times what its IK target or its root moves
_POLE = 1.5  # a pole target is far from the joint that it aims, which moves by a fraction of what it moves
_FIRST_STEP, _PATIENCE, _DISPENSABLE, _BLAME = 6, 0, 2.5, 0.7
_ALIGNMENTS = 4  # tries to do without corners
_FOR_LEGS = 0.5  # of the tolerance at the feet; what the body takes of it legs make up for
_PLAN = (3, 2)  # rounds of adding before each taking out


def _across(arms: Array) -> Array:
    """(N, 3, 3) matrices that take a small turn w to w x arm."""
    x, y, z = np.moveaxis(arms, -1, 0)
    o = np.zeros_like(x)
    return np.stack([np.stack([o, z, -y], -1), np.stack([-z, o, x], -1), np.stack([y, -x, o], -1)], -2)


def _from_euler(angles: Array, order: str) -> Array:
    """``rotations.from_euler`` without a detour through matrices: this is asked for in each round."""
    turned = None
    for axis in order:
        half = angles[:, "XYZ".index(axis)] / 2
        one = np.zeros((len(angles), 4))
        one[:, 0], one[:, 1 + "XYZ".index(axis)] = np.cos(half), np.sin(half)
        turned = one if turned is None else _product(one, turned)
    return np.asarray(turned)


def _from_axis_angle(values: Array) -> Array:
    half = values[:, :1] / 2
    return np.concatenate([np.cos(half), np.sin(half) * unit(values[:, 1:])], -1)


def _product(a: Array, b: Array) -> Array:
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )
