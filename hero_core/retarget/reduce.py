# SPDX-License-Identifier: GPL-3.0-or-later
"""Fewer keys: Bezier curves through few poses that stay within a tolerance of the motion.

All channels of a bone are keyed at the same poses. At each key a channel has one slope, so its handles are in line and
the curve has no corners; how far each handle reaches is fitted, too, between a twentieth and a half of the way to the
next key. A quick turn, as that of a foot that comes to stand, is made by a short handle. With handles of a third of the
way the same takes half as many keys again, if there are to be no corners; corners beside that save hardly any.

1. Where keys stand at first is found for each bone by itself: the fewest segments that are near enough, by dynamic
   programming over all pairs of places at most ``_LONGEST`` poses apart.
2. Values, slopes and handles are the least squares fit to all poses, for all bones at once (Gauss-Newton steps: the
   handles are eliminated from each segment, which leaves one block tridiagonal system), with more weight where the fit
   is worst, so that the greatest error falls (Lawson 1961). Keys are added where it is still above the tolerance.
3. Keys are taken out where the curve between their neighbours, with handles fitted to that, would hardly be worse, and
   the fit begins again.

What counts is not the channel but what it moves: how far the bone turns away, and how far hands, feet and head are
carried off by all bones above them together. That is followed to the first order, which is exact enough for errors of
half a degree, so no forward kinematics is needed while the keys are chosen. Feet that stand are watched at heel and
ball: where they would slide, less is allowed to them. A limb that the rig bends itself, towards a target, must have its
ends as near to each other as its joint needs: the straighter it is, the more exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..motion import FPS
from .options import Options
from .rig import BoneKeys, Reach, Rig
from .rotations import EULER_ORDERS, continuous, to_axis_angle, to_euler, to_matrix, unit

Array = npt.NDArray[Any]

# An end that rests is seen to slide long before one that moves is seen to be off: (speed in m/s, share of tolerance).
_STILL, _MOVING = (0.01, 0.2), (0.08, 1.0)
_SLIDE = 0.009  # m/s at which feet that stand may slide in the mean
_NEAR_MISS = 1.35  # times the tolerance: other weights may still do, no key is needed yet
_ROUNDS = 60


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
        gaps = np.diff(self.frames)[:, None]
        for name, values in self.channels.items():
            slopes, count = self.slopes[name], values.shape[1]
            if self.reaches is None:
                shares = np.full((2, count, len(gaps)), 1 / 3)
            else:
                shares = np.stack([(self.reaches[name][:-1, 1] / gaps).T, (self.reaches[name][1:, 0] / gaps).T])
            layout = _Layout(np.ones((count, len(self.frames)), bool), self.frames, frames)
            before, after = slopes[:, 0].T.ravel(), slopes[:, 1].T.ravel()
            shape = _Shape(layout, values.T.ravel(), before, after, shares.reshape(2, -1))
            found[name] = shape.points.reshape(count, -1).T
        return found


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
    """Where keys stand, for R curves of G places for keys: (R, G) ``mask``, True at the first and the last at least.

    All keys of all curves are counted through, M of them, and all S segments between them; flat arrays over the N poses
    run through the curves, F = R N.
    """

    def __init__(self, mask: Array, places: Array, frames: Array) -> None:
        self.curve, self.place = np.nonzero(mask)  # (M,) each
        first = np.searchsorted(self.curve, np.arange(len(mask)))  # the first key of each curve
        self.frame = places[self.place]
        counts = np.cumsum(mask, 1)  # (R, G) keys so far
        # (R, N) the key at which the segment begins in which a pose lies; the last pose lies in the last segment
        before = np.maximum(np.searchsorted(places, frames + 1e-9, side="right") - 1, 0)
        inside = np.clip(counts[:, before] - 1, 0, counts[:, -1:] - 2)
        self.start = (inside + first[:, None]).ravel()  # (F,)
        self.segment = self.start - np.repeat(np.arange(len(mask)), len(frames))  # counted through, too
        self.gap = self.frame[self.start + 1] - self.frame[self.start]  # (F,)
        self.share = np.clip((np.tile(frames, len(mask)) - self.frame[self.start]) / self.gap, 0.0, 1.0)
        inner = np.ones(len(self.curve), bool)
        inner[np.append(first[1:], len(inner)) - 1] = False
        self.opens = np.flatnonzero(inner)  # (S,) keys that begin a segment
        begin = np.searchsorted(self.segment, np.arange(len(self.opens) + 1))
        self.empty = begin[:-1] == begin[1:]  # between two keys side by side there may be no pose
        self.full = not self.empty.any()
        self.begin = np.minimum(begin[:-1], len(self.segment) - 1)

    def sums(self, values: Array) -> Array:
        """(..., S) the sums of (..., F) values in each segment."""
        found = np.add.reduceat(values, self.begin, axis=-1)
        return found if self.full else np.where(self.empty, 0.0, found)

    def most(self, values: Array) -> Array:
        """(S,) the greatest of (F,) values in each segment, 0 where it holds no pose."""
        return np.where(self.empty, 0.0, np.maximum.reduceat(values, self.begin))


class _Shape:
    """Bezier segments at the poses, (F,) ``points``, and how these change with what shapes the segments.

    values (M,), slopes before and after each key (M,), handles (2, S): share of a segment over which the handle at its
    begin and that at its end reach, at most a half.
    """

    def __init__(
        self, layout: _Layout, values: Array, before: Array, after: Array, handles: Array, near: Array | None = None
    ) -> None:
        first, last = handles[:, layout.segment]
        # Where on the segment a frame is: u = 3 (1-t)^2 t first + 3 (1-t) t^2 (1 - last) + t^3, by Newton's method.
        one, two, three = 3 * first, 3 * (1 - last) - 6 * first, 3 * first - 3 * (1 - last) + 1
        u = layout.share
        t = u if near is None else near
        three3, two2 = 3 * three, 2 * two
        for _ in range(_NEWTON if near is None else _NEWTON_NEAR):
            slope = (three3 * t + two2) * t + one
            t = t - (((three * t + two) * t + one) * t - u) / np.maximum(slope, 0.05)
            np.minimum(np.maximum(t, 0.0, out=t), 1.0, out=t)
        v = 1 - t
        self.t, self.v = t, v
        self.along = np.maximum((three3 * t + two2) * t + one, 0.05)
        self.near, self.far = 3 * v * v * t, 3 * v * t * t  # what the two handles weigh
        start, end = values[layout.start], values[layout.start + 1]
        self.rise, self.fall = layout.gap * after[layout.start], layout.gap * before[layout.start + 1]
        self.corners = start, start + first * self.rise, end - last * self.fall, end
        self.from_start, self.from_end = v**3 + self.near, t**3 + self.far
        self.points = self.from_start * start + self.from_end * end
        self.by_rise, self.by_fall = self.near * first, -self.far * last
        self.points += self.by_rise * self.rise + self.by_fall * self.fall
        self.gap = layout.gap

    def by_handles(self) -> tuple[Array, Array]:
        """(F,) change of the points with each of the two handles."""
        a, b, c, d = self.corners
        rate = 3 * (self.v**2 * (b - a) + 2 * self.v * self.t * (c - b) + self.t**2 * (d - c)) / self.along
        return self.near * (self.rise - rate), -self.far * (self.fall - rate)

    def by_keys(self) -> tuple[Array, Array, Array, Array]:
        """(F,) change with value and slope at the begin and at the end."""
        return self.from_start, self.by_rise * self.gap, self.from_end, self.by_fall * self.gap


def _improve(
    layout: _Layout,
    wanted: Array,
    weights: Array,
    drift: Array,
    values: Array,
    slopes: Array,
    handles: Array,
    near: Array | None = None,
    free: bool = True,
) -> tuple[Array, Array, Array, Array]:
    """Values, slopes and handles after a step of Gauss and Newton towards the least squares fit to (F,) ``wanted``.

    ``weights``: (F,). ``drift``: (M,) slopes of the poses themselves, towards which slopes are drawn a little. With
    ``free`` False only the handles change.
    """
    shape = _Shape(layout, values, slopes, slopes, handles, near)
    rest = weights * (wanted - shape.points)
    columns = np.array([*shape.by_keys(), *shape.by_handles()])  # (6, F)
    pushes = list(layout.sums(columns * rest))
    for number, handle in ((4, handles[0]), (5, handles[1])):
        shut = ((handle <= _SHORT) & (pushes[number] < 0)) | ((handle >= _LONG) & (pushes[number] > 0))
        columns[number] *= ~shut[layout.segment]
        pushes[number] = np.where(shut, 0.0, pushes[number] + _EVEN_HANDLES * (1 / 3 - handle))
    square: dict[tuple[int, int], Array] = {}
    for i in range(0 if free else 4, 6):
        square |= {(i, i + j): sums for j, sums in enumerate(layout.sums(columns[i] * weights * columns[i:]))}
    # The handles belong to one segment alone: they are eliminated there, which leaves a chain of values and slopes.
    p, q, r = square[4, 4] * _DAMPED + _EVEN_HANDLES, square[4, 5], square[5, 5] * _DAMPED + _EVEN_HANDLES
    scale = 1 / (p * r - q * q)
    p, q, r = r * scale, -q * scale, p * scale
    first, last = p * pushes[4] + q * pushes[5], q * pushes[4] + r * pushes[5]
    if free:
        to_first = [p * square[k, 4] + q * square[k, 5] for k in range(4)]
        to_last = [q * square[k, 4] + r * square[k, 5] for k in range(4)]
        for i in range(4):
            pushes[i] = pushes[i] - square[i, 4] * first - square[i, 5] * last
            for j in range(i, 4):
                square[i, j] = square[i, j] - square[i, 4] * to_first[j] - square[i, 5] * to_last[j]
        here, after = layout.opens, layout.opens + 1
        blocks, beside, right = (np.zeros((size, len(values))) for size in (3, 4, 2))
        blocks[0], blocks[2], right[1] = 1e-6, _PULL, _PULL * (drift - slopes)
        for row, pair in enumerate(((0, 0), (0, 1), (1, 1))):
            blocks[row, here] += square[pair]
        for row, pair in enumerate(((2, 2), (2, 3), (3, 3))):
            blocks[row, after] += square[pair]
        for row, pair in enumerate(((0, 2), (0, 3), (1, 2), (1, 3))):
            beside[row, here] = square[pair]
        right[0, here] += pushes[0]
        right[1, here] += pushes[1]
        right[0, after] += pushes[2]
        right[1, after] += pushes[3]
        value, slope = _chain(blocks, beside, right)
        values, slopes = values + value, slopes + slope
        for k, change in enumerate((value[here], slope[here], value[after], slope[after])):
            first = first - to_first[k] * change
            last = last - to_last[k] * change
    change = np.minimum(np.maximum(np.stack([first, last]), -_TRUST), _TRUST)
    return values, slopes, np.minimum(np.maximum(handles + change, _SHORT), _LONG), shape.t


_NEWTON, _NEWTON_NEAR = 5, 2  # steps from nowhere, and from where the last fit had them
_PULL = 3e-4
_SHORT, _LONG = 0.05, 0.5
_EVEN_HANDLES = 0.05  # tolerances squared for a handle that is a whole segment away from a third
_DAMPED, _TRUST = 1.4, 0.15
_DEPTH = 3  # keys eight apart do not know of each other


def _chain(blocks: Array, beside: Array, right: Array, depth: int = 0) -> Array:
    """(2, M) solution of a symmetric block tridiagonal system with blocks of 2 x 2.

    (3, M) the blocks' upper halves, (4, M) the blocks right of them, row by row, (2, M) right side. Every other block
    is eliminated at once, again and again (cyclic reduction, Heller 1976), so that numpy does many in each step.
    """
    count = blocks.shape[-1]
    scale = 1 / (blocks[0] * blocks[2] - blocks[1] ** 2)
    if count == 1 or depth == _DEPTH:
        top = blocks[2] * right[0] - blocks[1] * right[1]
        return np.stack([top, blocks[0] * right[1] - blocks[1] * right[0]]) * scale
    p, q, r = blocks[2, 1::2] * scale[1::2], -blocks[1, 1::2] * scale[1::2], blocks[0, 1::2] * scale[1::2]
    lower, upper = beside[:, 0 : count - 1 : 2], beside[:, 1::2]  # an odd block with the one before and the one after
    odd, odd_right = lower.shape[-1], right[:, 1::2]
    kept, kept_right = blocks[:, ::2].copy(), right[:, ::2].copy()
    later = kept.shape[-1] - 1  # odd blocks that have one after them
    a, b, c, d = lower
    to_lower = a * p + b * q, a * q + b * r, c * p + d * q, c * q + d * r
    e, f, g, h = upper
    to_upper = e * p + g * q, e * q + g * r, f * p + h * q, f * q + h * r
    kept[0, :odd] -= to_lower[0] * a + to_lower[1] * b
    kept[1, :odd] -= to_lower[0] * c + to_lower[1] * d
    kept[2, :odd] -= to_lower[2] * c + to_lower[3] * d
    kept_right[0, :odd] -= to_lower[0] * odd_right[0] + to_lower[1] * odd_right[1]
    kept_right[1, :odd] -= to_lower[2] * odd_right[0] + to_lower[3] * odd_right[1]
    kept[0, 1:] -= (to_upper[0] * e + to_upper[1] * g)[:later]
    kept[1, 1:] -= (to_upper[0] * f + to_upper[1] * h)[:later]
    kept[2, 1:] -= (to_upper[2] * f + to_upper[3] * h)[:later]
    kept_right[0, 1:] -= (to_upper[0] * odd_right[0] + to_upper[1] * odd_right[1])[:later]
    kept_right[1, 1:] -= (to_upper[2] * odd_right[0] + to_upper[3] * odd_right[1])[:later]
    between = np.zeros((4, later + 1))
    between[0, :later] = -(to_lower[0] * e + to_lower[1] * g)[:later]
    between[1, :later] = -(to_lower[0] * f + to_lower[1] * h)[:later]
    between[2, :later] = -(to_lower[2] * e + to_lower[3] * g)[:later]
    between[3, :later] = -(to_lower[2] * f + to_lower[3] * h)[:later]
    even = _chain(kept, between, kept_right, depth + 1)
    solved = np.empty_like(right)
    solved[:, ::2] = even
    top = odd_right[0] - a * even[0, :odd] - c * even[1, :odd]
    low = odd_right[1] - b * even[0, :odd] - d * even[1, :odd]
    top[:later] -= e[:later] * even[0, 1:] + f[:later] * even[1, 1:]
    low[:later] -= g[:later] * even[0, 1:] + h[:later] * even[1, 1:]
    solved[0, 1::2], solved[1, 1::2] = p * top + q * low, q * top + r * low
    return solved


class _Reduction:
    """T tracks (bones with keys) of N poses, and the places (whole frames) where keys may stand."""

    state: Array  # (4, R, G) of the key at each place: value, slope, share of the handle after it and of that before it
    fitted: Array  # (T, N, C) the curves
    lean: Array  # (T, N) weight

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
        for name in last:
            ends[name, rows[name]] = 1.0 if name in keys.rotations else _POLE
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
        self.stands: list[tuple[int, Array, Array]] = []  # end, metres of its tolerance, poses from which it stands on
        points: list[tuple[str, int, float, Array, list[int]]] = [
            (carrier, row, share, rig.heads[row], []) for (carrier, row), share in ends.items()
        ]
        for name, runs in (keys.contacts or {}).items():
            foot = rig.index.get(keys.joints.get(name.replace("heel", "ankle").replace("ball", "foot")) or "")
            for carrier, row, share, place, standing in tuple(points):
                if row == foot and not standing:
                    standing = [pose for start, end in runs for pose in range(start, min(end, self.count) - 1)]
                    place = place + (_to_sole(rig, row) if name.endswith("heel") else 0.0)
                    points.append((carrier, row, share, place, standing))
                    break
        for carrier, row, share, place, standing in points:
            begin = len(maps)
            end = self.heads[carrier] + turns[carrier] @ (place - rig.heads[rows[carrier]])
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
                if standing and not (first and for_feet < 1.0):
                    self.stands.append((len(begins), allowed / keys.scale, np.array(standing)))
                begins.append(begin)
        for limb in keys.limbs:
            begin = len(maps)
            along = unit(limb.tip - limb.root)
            most = tolerance / float(np.cbrt(np.linalg.det(world)))
            into = along[:, :, None] * along[:, None, :] / _bending(limb, self.angle, most)[:, None, None]
            target: list[str] = []
            now = limb.target if limb.target in rows else None
            while now is not None:
                target.append(now)
                now = above[now]
            for sign, point, names in ((1.0, limb.tip, target), (-1.0, limb.root, limb.carriers)):
                for name in names:
                    track = track_of.get(name)
                    if track is not None and self.modes[track]:
                        maps.append(sign * into @ _across(point - self.heads[name]) @ self.frames_of[name])
                        sources.append(track)
                        owners.append(track)
                    if track is not None and track in self.placed:
                        maps.append(sign * into @ axes[name])
                        sources.append(len(self.names) + self.placed.index(track))
                        owners.append(track)
            if len(maps) > begin:
                begins.append(begin)
        self.maps = np.stack(maps)  # (P, N, 3, 3) error of a source -> what an end is off by, in tolerances
        self.sources, self.owners = np.array(sources), np.array(owners)
        self.ends = np.array(begins)
        self.end_of = np.repeat(np.arange(len(begins)), np.diff([*begins, len(maps)]))
        self.by_owner = np.argsort(self.owners, kind="stable")
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
        self._prepare()
        mask = self._spaced()
        self._refit(mask, np.ones(len(mask), bool), _STEPS[0])
        for _ in range(_THIN):
            mask = self._grow(mask, _HASTE)
            fewer = self._thinned(mask)
            self._refit(fewer, (fewer != mask).any(1), _STEPS[2])
            mask = fewer
        mask = self._grow(mask, _ROUNDS)
        return self._written(mask)

    def _prepare(self) -> None:
        """Channels one by one, R of them that move, in units in which the tolerance is about 1."""
        gain = self._gain()
        self.track, self.column = np.nonzero(np.ptp(self.values, axis=1) > 1e-9)  # (R,) each
        own = gain[(self.column >= 4).astype(int), self.track]  # (R, N)
        level = np.sqrt(np.mean(own**2, axis=1, keepdims=True))
        self.level = np.where(level > 0, level, 1.0)  # (R, 1)
        self.weights = (own / self.level) ** 2
        self.wanted = self.values[self.track, :, self.column] * self.level  # (R, N)
        self.drift = np.gradient(self.wanted, self.frames, axis=1)
        third = np.full((len(self.track), len(self.places)), 1 / 3)
        self.state = np.stack([self.wanted[:, self.pose], self.drift[:, self.pose], third, third])
        self.fitted = self.values.copy()
        self.lean = np.ones((len(self.names), self.count))

    def _refit(self, mask: Array, tracks: Array, steps: int) -> None:
        """Fit the curves of some of the (T,) tracks anew, from where they are."""
        rows = np.flatnonzero(tracks[self.track])
        if not len(rows):
            return
        layout = _Layout(mask[self.track[rows]], self.places, self.frames)
        row, place = rows[layout.curve], layout.place
        here, after = layout.opens, layout.opens + 1
        state = self.state[:, row, place]
        handles = np.stack([state[2, here], state[3, after]])
        wanted, weights, drift = self._aims(rows, layout)
        values, slopes, near = state[0], state[1], None
        for _ in range(steps):
            values, slopes, handles, near = _improve(layout, wanted, weights, drift, values, slopes, handles, near)
        self.state[:2, row, place] = values, slopes
        self.state[2, row[here], place[here]], self.state[3, row[after], place[after]] = handles
        self._show(self.fitted, rows, _Shape(layout, values, slopes, slopes, handles, near).points)

    def _aims(self, rows: Array, layout: _Layout) -> tuple[Array, Array, Array]:
        """(F,) what the curves of some rows are to be, (F,) its weights, (M,) slopes there."""
        weights = self.weights[rows] * self.lean[self.track[rows]]
        drift = self.drift[rows[layout.curve], self.pose[layout.place]]
        return self.wanted[rows].ravel(), weights.ravel(), drift

    def _show(self, fitted: Array, rows: Array, points: Array) -> None:
        fitted[self.track[rows], :, self.column[rows]] = points.reshape(len(rows), -1) / self.level[rows]

    def _grow(self, mask: Array, rounds: int) -> Array:
        """Add keys, and weight where the fit is too far off, until it is not."""
        mask = mask.copy()
        for turn in range(rounds):
            off = self._off(self.fitted)
            bad = off.max(1) > 1.0
            if not bad.any() and not self._hold():
                break
            self.lean[bad] = np.clip(self.lean[bad] * np.clip(off[bad], 0.5, 2.0), 0.05, 20.0)
            self._insert(mask, off, _NEAR_MISS if turn % 3 < 2 and turn < _PATIENCE else 1.0)
            self._refit(mask, bad, _STEPS[1])
        return mask

    def _hold(self) -> bool:
        """Whether standing feet slide more than they may; if so, less is allowed to them from now on."""
        moved = self._moved(self._errors(self.fitted))[1]
        speeds = []
        for end, metres, poses in self.stands:
            way = (moved[end] * metres[:, None])[:, [0, 2]]
            speeds.append(np.linalg.norm(way[poses + 1] - way[poses], axis=-1) * FPS)
        mean = float(np.concatenate(speeds).mean()) if speeds else 0.0
        if mean <= _SLIDE:
            return False
        tighter = min(max(mean / _SLIDE, 1.1), 1.5)
        for (end, metres, poses), own in zip(self.stands, speeds, strict=True):
            if own.mean() > _SLIDE:
                standing = np.unique([poses, poses + 1])
                self.maps[np.ix_(self.end_of == end, standing)] *= tighter
                metres[standing] /= tighter
        return True

    def _insert(self, mask: Array, off: Array, limit: float) -> None:
        """Set a key where each segment is worst."""
        bad = np.flatnonzero(off.max(1) > limit)
        if not len(bad):
            return
        layout = _Layout(mask[bad], self.places, self.frames)
        at_place, keyed = off[bad][:, self.pose], mask[bad]
        # A key that is off itself is helped by one beside it.
        at_key, open_place = np.where(keyed, at_place, 0.0), ~keyed
        at_place = np.where(keyed, 0.0, at_place)
        at_place[:, :-1] = np.maximum(at_place[:, :-1], at_key[:, 1:] * open_place[:, :-1])
        at_place[:, 1:] = np.maximum(at_place[:, 1:], at_key[:, :-1] * open_place[:, 1:])
        track, place = np.nonzero(at_place > limit)
        segment = layout.segment[track * self.count + self.pose[place]]
        order = np.lexsort((-at_place[track, place], segment))
        _, once = np.unique(segment[order], return_index=True)
        for track_number, at in zip(bad[track[order[once]]], place[order[once]], strict=True):
            keys = np.flatnonzero(mask[track_number])
            number = np.searchsorted(keys, at)
            rows = np.flatnonzero(self.track == track_number)
            self.state[0, rows, at] = self.wanted[rows, self.pose[at]]
            self.state[1, rows, at] = self.drift[rows, self.pose[at]]
            self.state[2:, rows, at] = 1 / 3
            self.state[2, rows, keys[number - 1]] = self.state[3, rows, keys[number]] = 1 / 3
            mask[track_number, at] = True

    def _thinned(self, mask: Array) -> Array:
        """The mask without keys that hardly do anything; never two in a row."""
        cost = np.full(mask.shape, np.inf)
        number = np.cumsum(mask, 1) - 1
        inner = mask.copy()
        inner[:, [0, -1]] = False
        for odd in (0, 1):
            out = inner & (number % 2 == odd)
            without = mask & ~out
            rows = np.flatnonzero(out.any(1)[self.track])
            if not len(rows):
                continue
            layout = _Layout(without[self.track[rows]], self.places, self.frames)
            values, slopes = self.state[:2, rows[layout.curve], layout.place]
            handles, near = np.full((2, len(layout.opens)), 1 / 3), None
            aims = self._aims(rows, layout)
            for _ in range(_STEPS[3]):
                *_, handles, near = _improve(layout, *aims, values, slopes, handles, near, free=False)
            fitted = self.fitted.copy()
            self._show(fitted, rows, _Shape(layout, values, slopes, slopes, handles, near).points)
            left = _Layout(without, self.places, self.frames)
            most = left.most(self._alone(fitted).ravel())
            track, place = np.nonzero(out)
            cost[track, place] = most[left.segment[track * self.count + self.pose[place]]]
        track, place = np.nonzero(mask)
        own = cost[track, place]
        lowest = (own < _DISPENSABLE) & (own <= np.append(own[1:], np.inf)) & (own < np.append(np.inf, own[:-1]))
        fewer = mask.copy()
        fewer[track[lowest], place[lowest]] = False
        return fewer

    def _written(self, mask: Array) -> dict[str, Curves]:
        """What the keys of ``mask`` are in Blender's channels."""
        row_of = {at: row for row, at in enumerate(zip(self.track.tolist(), self.column.tolist(), strict=True))}
        curves = {}
        for track, name in enumerate(self.names):
            here = np.flatnonzero(mask[track]) if track in self.track else np.zeros(1, int)
            gaps = np.diff(self.places[here]) if len(here) > 1 else np.ones(1)
            thirds = np.stack([np.append(gaps[:1], gaps), np.append(gaps, gaps[-1:])], -1)[: len(here)] / 3  # (K, 2)
            channels, slopes, reaches = {}, {}, {}
            for channel, dense in self.dense[name].channels.items():
                columns = self._columns(channel, dense)
                value = self.values[track, self.pose[here], columns]
                slope, reach = np.zeros((2, *value.shape)), np.repeat(thirds.T[..., None], value.shape[1], -1)
                for number, column in enumerate(range(columns.start, columns.stop)):
                    row = row_of.get((track, column))
                    if row is None:
                        continue
                    own = self.state[:, row, here]
                    value[:, number], slope[:, :, number] = own[:2] / self.level[row]
                    reach[0, 1:, number], reach[1, :-1, number] = own[3, 1:] * gaps, own[2, :-1] * gaps
                channels[channel] = value
                slopes[channel], reaches[channel] = np.moveaxis(slope, 0, 1), np.moveaxis(reach, 0, 1)
            curves[name] = Curves(self.places[here], channels, slopes, reaches)
        return curves

    def _spaced(self) -> Array:
        """(T, G) where keys stand if each segment by itself, with slopes of its own, is to be near enough.

        The fewest keys for that, and among equals those whose errors are even. Ends of segments lie on the motion, and
        their handles reach over a third of the way: two slopes are all there is to fit, so that the error is a fixed
        linear map of the poses, the same for all channels.
        """
        cost, longest = self._segments()
        count, everyone = len(self.places), np.arange(len(self.names))
        way, back = np.full((len(self.names), count), np.inf), np.ones((len(self.names), count), int)
        way[:, 0] = 0.0
        for place in range(1, count):
            lengths = np.arange(1, min(longest, place) + 1)
            total = way[:, place - lengths] + cost[:, lengths, place - lengths]
            best = total.argmin(1)
            way[:, place], back[:, place] = total[everyone, best], lengths[best]
        mask = np.zeros((len(self.names), count), bool)
        mask[:, [0, -1]] = True
        at = np.full(len(self.names), count - 1)
        while at.max() > 0:
            at = np.maximum(at - back[everyone, at], 0)
            mask[everyone, at] = True
        still = np.isin(everyone, self.track, invert=True)
        mask[still, 1:-1] = False
        return mask

    def _segments(self) -> tuple[Array, int]:
        """(T, length, G) what a segment of so many places costs that begins at a place, inf where it is too far off.

        Also the greatest length that is near enough anywhere.
        """
        places, frames, pose, count = self.places, self.frames, self.pose, len(self.places)
        wanted = np.ascontiguousarray(self.wanted.T, np.float32)  # (N, R)
        ends = np.ascontiguousarray(self._on_places().T, np.float32)  # (G, R)
        weights = np.ascontiguousarray(np.sqrt(self.weights).T / _AT_FIRST, np.float32)
        tracks = np.unique(self.track)
        most = min(_LONGEST, count - 1)
        cost = np.full((len(self.names), most + 1, count), np.inf)
        cost[:, 1, :-1] = 1.0
        for length in range(2, most + 1):
            if not len(tracks):
                return cost[:, :length], length - 1
            rows = np.isin(self.track, tracks)
            first = np.unique(self.track[rows], return_index=True)[1]
            y, e, w = (wanted, ends, weights) if rows.all() else (wanted[:, rows], ends[:, rows], weights[:, rows])
            for begin in range(0, count - length, _AT_ONCE):
                start = np.arange(begin, min(begin + _AT_ONCE, count - length))
                near = np.minimum(pose[start][:, None] + np.arange(length + 1), self.count - 1)  # (n, length + 1)
                u = (frames[near] - places[start][:, None]) / (places[start + length] - places[start])[:, None]
                inside = (u > 1e-9) & (u < 1 - 1e-9)
                u = np.where(inside, u, 0.0)
                v = 1 - u
                slopes = np.stack([u * v * v, u * u * v], 1)  # (n, 2, length + 1)
                across = np.swapaxes(slopes, 1, 2)
                left = np.eye(length + 1) - across @ np.linalg.solve(slopes @ across + 1e-6 * np.eye(2), slopes)
                share = ((1 + 2 * u) * v * v).astype(np.float32)[..., None]
                rest = y[near] - share * e[start][:, None] - (1 - share) * e[start + length][:, None]
                rest = ((left * inside[:, None]).astype(np.float32) @ rest) * w[near]
                rest *= rest
                off = np.add.reduceat(rest, first, axis=-1).max(1).T  # (tracks, n)
                cost[tracks[:, None], length, start] = np.where(off <= 1.0, 1.0 + _EVEN * off, np.inf)
            tracks = tracks[np.isfinite(cost[tracks, length]).any(1)] if length > 2 else tracks
        return cost, most

    def _on_places(self) -> Array:
        """(R, G) the motion at the whole frames, between the poses by cubics."""
        at = np.clip(np.searchsorted(self.frames, self.places, side="right") - 1, 0, self.count - 2)
        gap = self.frames[at + 1] - self.frames[at]
        u = (self.places - self.frames[at]) / gap
        v = 1 - u
        start, end = self.wanted[:, at], self.wanted[:, at + 1]
        slopes = u * v * v * self.drift[:, at] - u * u * v * self.drift[:, at + 1]
        return np.asarray((1 + 2 * u) * v * v * start + u * u * (3 - 2 * u) * end + gap * slopes)

    def _gain(self) -> Array:
        """(2, T, N) tolerances that an error of 1 in the channels makes, those of the turn and of the place."""
        gain = np.zeros((2, len(self.names), self.count))
        each = np.array([2.0 if mode == "QUATERNION" else 1.0 for mode in self.modes])  # radians
        turned = np.array([bool(mode) for mode in self.modes])
        gain[0, turned] = each[turned, None] / self.angles[turned]
        for owner, source, into in zip(self.owners, self.sources, self.maps, strict=True):
            place = int(source >= len(self.names))
            size = _SHARE * np.sqrt(np.einsum("nij,nij->n", into, into) / (3 if place else 2))
            gain[place, owner] = np.maximum(gain[place, owner], size * (1.0 if place else each[owner]))
        return gain

    def _errors(self, fitted: Array) -> Array:
        """(T + placed, N, 3) rotation vectors about the axes of the turned bone, then location errors."""
        turned = fitted[..., :4].copy()
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
        shares, moved = self._moved(errors)
        size = np.linalg.norm(moved, axis=-1)
        if size.max() <= 1.0:
            return np.asarray(off)
        part = np.einsum("pni,pni->pn", shares, moved[self.end_of])
        most = np.maximum.reduceat(part, self.ends, axis=0)[self.end_of]
        blame = np.where((part >= _BLAME * most) & (size[self.end_of] > 1.0), size[self.end_of], 0.0)
        worst = np.maximum.reduceat(blame[self.by_owner], self.owner_starts, axis=0)
        off[self.owner_rows] = np.maximum(off[self.owner_rows], worst)
        return np.asarray(off)

    def _moved(self, errors: Array) -> tuple[Array, Array]:
        """(P, N, 3) by how many tolerances each source moves an end, (E, N, 3) what that is together."""
        shares = np.einsum("pnij,pnj->pni", self.maps, errors[self.sources])
        return shares, np.add.reduceat(shares, self.ends, axis=0)

    def _alone(self, fitted: Array) -> Array:
        """(T, N) the same, were all other tracks without error."""
        errors = self._errors(fitted)
        off = np.linalg.norm(errors[: len(self.names)], axis=-1) / self.angles
        size = np.linalg.norm(np.einsum("pnij,pnj->pni", self.maps, errors[self.sources]), axis=-1)
        worst = np.maximum.reduceat(size[self.by_owner], self.owner_starts, axis=0)
        off[self.owner_rows] = np.maximum(off[self.owner_rows], worst)
        return np.asarray(off)


_ENDS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in ("wrist", "ankle", "foot")) + ("head",)
_CLOSEST = 0.01  # of the tolerance, for the ends of a limb that is straight
_POLE = 0.6  # a pole target aims the plane of its limb: it is about as far from that as the end of the limb
_FOR_LEGS = 0.5  # of the tolerance at the feet; what the body takes of it legs make up for
# The first keys: by how many tolerances a segment may be off whose ends and handles are not fitted yet; what part of an
# error at an end counts for a single bone; most poses in a segment; weight of even errors; segments at a time.
_AT_FIRST, _SHARE, _LONGEST, _EVEN, _AT_ONCE = 1.4, 0.7, 14, 0.1, 512
_STEPS = (5, 2, 3, 3)  # of the fit: at first, after adding keys, after taking out; of handles before taking out
_THIN, _HASTE = 2, 4  # times that keys are taken out; rounds of adding keys before each
_DISPENSABLE, _BLAME, _PATIENCE = 1.8, 0.7, 4


def _to_sole(rig: Rig, foot: int) -> Array:
    """(3,) from the head of a foot's bone down to the floor on which the rig rests, armature space."""
    rows = [row for row in range(len(rig.names)) if foot in rig.line(row)]
    up = rig.to_world[1, :3]
    level, lowest = float(rig.heads[foot] @ up), float(min((rig.heads[rows] @ up).min(), (rig.tails[rows] @ up).min()))
    # The floor is at the armature's origin where the foot stands above that, else at the foot's lowest point.
    floor = 0.0 if 0.0 <= lowest < level else lowest
    return np.linalg.solve(rig.to_world[:3, :3], np.array([0.0, floor - level, 0.0]))


def _bending(limb: Reach, angle: float, most: float) -> Array:
    """(N,) by how much both ends of a limb may come nearer or go apart for its joint to turn by no more than an angle.

    Between a share of ``most`` and ``most``: a straight limb bends by degrees where its ends come nearer by hairs.
    """
    upper, lower = limb.lengths
    squares, product = upper**2 + lower**2, 2 * upper * lower
    apart = np.linalg.norm(limb.tip - limb.root, axis=-1)
    bend = np.arccos(np.clip((apart**2 - squares) / product, -1.0, 1.0))
    nearer, further = (np.sqrt(squares + product * np.cos(np.clip(bend + way, 0.0, np.pi))) for way in (angle, -angle))
    here = np.sqrt(squares + product * np.cos(bend))
    allowed = np.minimum(here - nearer, np.where(bend > angle, further - here, np.inf))
    return np.asarray(np.clip(allowed, _CLOSEST * most, most))


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
