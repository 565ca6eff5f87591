# SPDX-License-Identifier: GPL-3.0-or-later
"""A part of one Action in another: outside of it the keys stay as they are, also those that somebody set by hand.

Few keys stand for the whole of a motion, and footprints and straight limbs look far to both sides, so two motions that
are equal outside of a part come onto a rig with keys that differ there. Here the keys outside are taken over as they
are. A curve that spans a border is cut there: both halves have its shape exactly. Inside stand the new keys, led to the
old curve at each border, in value and in slope, along a cubic that fades out within a few frames.

A rotation can be written in several ways. The new one is written as the old one is before the part, and where the old
one behind it is written otherwise by then, that is rewritten: the same rotation, with other signs or whole turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.errors import HeroError
from hero_core.retarget.rotations import EULER_ORDERS

from . import compat

Array = npt.NDArray[Any]

_CONSTANT, _LINEAR, _BEZIER = 0, 1, 2  # values of the enums as ``foreach_get`` gives them
_FREE = 0  # and 3 is in line; both stay where they are put
_POINTS = ("co", "handle_left", "handle_right")
_KINDS = ("handle_left_type", "handle_right_type", "interpolation", "type")
_EASING = ("easing", "back", "amplitude", "period")
_NEAR = 1e-3  # frames within which two keys are the same
_TRANSFORMS = ("location", "rotation_quaternion", "rotation_euler", "rotation_axis_angle", "scale")
_SIGNED = ("rotation_quaternion", "rotation_axis_angle")


@dataclass(frozen=True)
class Join:
    """Where a part lies in an Action.

    edit   number of the change in the take's record that made it
    left   last frame before it at which nothing changes; None: it begins with the take
    right  first frame behind it at which nothing changes; None: nothing behind it stays
    """

    edit: int
    left: float | None
    right: float | None


@dataclass(frozen=True)
class Keys:
    """The keys of one curve, by frame.

    points  (3, K, 2) place, left and right handle, as frame and value
    kinds   (5, K) types of the handles, interpolation, type of the key, and 1 where it is to stay as it is to the bit
    easing  (4, K) what shapes the other interpolations; () where there is none of them
    linear  the curve goes on straight outside of its keys
    """

    points: Array
    kinds: Array
    easing: Array = field(default_factory=lambda: np.zeros(0))
    linear: bool = False

    def __len__(self) -> int:
        return self.points.shape[1]

    def __getitem__(self, which: Any) -> Keys:
        easing = self.easing[:, which] if len(self.easing) else self.easing
        return replace(self, points=self.points[:, which], kinds=self.kinds[:, which], easing=easing)

    @property
    def frames(self) -> Array:
        return self.points[0, :, 0]

    def valued(self, scale: float, shift: float) -> Keys:
        """The same with other values."""
        if (scale, shift) == (1.0, 0.0):
            return self
        points = self.points.copy()
        points[..., 1] = scale * points[..., 1] + shift
        return replace(self, points=points)


def join(
    obj: bpy.types.Object, old: bpy.types.Action, new: bpy.types.Action, where: Join, fade: float
) -> bpy.types.Action:
    """``new`` between the borders and ``old`` outside of them: a copy of ``old``, which takes the place of ``new``.

    ``fade`` is how many frames behind each border the new curves are led. Curves that ``old`` alone has stay whole;
    those that ``new`` alone has are left out, unless they turn a bone whose rotation mode is another by now.
    """
    slot = _slot_of(obj, old)
    made = old.copy()
    for name in list(made.keys()):
        del made[name]  # what is recorded of the old take; the new one has its own
    try:
        if made.asset_data is not None:
            made.asset_clear()
        place = compat.place_of(made, obj, slot)
        curves = {(curve.data_path, curve.array_index): curve for curve in compat.curves_in(place)}
        coming = {(curve.data_path, curve.array_index): curve for curve in compat.fcurves_of(new, obj)}
        for bone in _by_owner([key for key in coming if key in curves]).values():
            _join_bone(obj, [curves[key] for key in bone], [coming[key] for key in bone], where, fade)
        for key, curve in coming.items():
            if key not in curves and _is_other_rotation(key[0], curves):
                _add(place, curve)
        if made.use_frame_range:
            made.frame_end = max(made.frame_end, float(new.frame_range[1]))
        name = new.name
        compat.assign_action(obj, None)
        compat.assign_action(obj, made, _same_slot(made, slot))
        bpy.data.actions.remove(new)
        made.name = name
    except BaseException:
        bpy.data.actions.remove(made)
        raise
    return made


def _slot_of(obj: bpy.types.Object, action: bpy.types.Action) -> Any | None:
    """The slot by which an action moves the object, where there are slots."""
    if not hasattr(action, "slots"):
        return None
    active, slot = compat.assigned_action(obj)
    if active == action and slot is not None:
        return slot
    return next((each for each in action.slots if each.target_id_type in {obj.id_type, "UNSPECIFIED"}), None)


def _same_slot(action: bpy.types.Action, slot: Any | None) -> Any | None:
    """The slot of a copy."""
    return None if slot is None else next((each for each in action.slots if each.handle == slot.handle), None)


def _by_owner(keys: list[tuple[str, int]]) -> dict[str, list[tuple[str, int]]]:
    """Curves of each bone together, for they are keyed on the same frames; other properties each by itself."""
    found: dict[str, list[tuple[str, int]]] = {}
    for path, index in keys:
        owner, _, channel = path.rpartition(".")
        found.setdefault(owner if channel in _TRANSFORMS else path, []).append((path, index))
    return found


def _is_other_rotation(path: str, curves: dict[tuple[str, int], Any]) -> bool:
    """Whether a curve turns something that so far is turned by another channel."""
    owner, _, channel = path.rpartition(".")
    dot = "." if owner else ""
    return channel.startswith("rotation_") and any(
        f"{owner}{dot}{other}" == known for other in _TRANSFORMS if other.startswith("rotation_") for known, _ in curves
    )


def _join_bone(obj: bpy.types.Object, curves: list[Any], coming: list[Any], where: Join, fade: float) -> None:
    olds, news = [_kept(_read(curve)) for curve in curves], [_read(curve) for curve in coming]
    if not all(len(keys) for keys in (*olds, *news)):
        return  # of baked samples, or empty
    if all(_same_constant(old, new) for old, new in zip(olds, news, strict=True)):
        return
    moving = curves[0].data_path.rpartition(".")[2] in _TRANSFORMS
    begins = [
        None if where.left is None else _cut(old, where.left, curve) for old, curve in zip(olds, curves, strict=True)
    ]
    ends = [
        None if where.right is None else _cut(old, where.right, curve) for old, curve in zip(olds, curves, strict=True)
    ]
    lefts = [None if cut is None else cut[0] for cut in begins]
    rights = [None if cut is None else cut[1] for cut in ends]
    inner = [_between(new, where) for new in news]
    if not moving:
        for curve, left, middle, right in zip(curves, lefts, inner, rights, strict=True):
            _write(curve, _switched(left, middle, right))
        return
    inner = _on_the_same_frames(inner, where, fade)
    inner, rights = _written_alike(obj, curves, lefts, inner, rights)
    for curve, left, middle, right in zip(curves, lefts, inner, rights, strict=True):
        _write(curve, _joined(left, _curved(middle), right, fade, curve.data_path == "location"))


# --- Reading and writing ---


def _read(curve: Any) -> Keys:
    keys = curve.keyframe_points
    count = len(keys)
    points, kinds = np.empty((3, 2 * count), np.float32), np.zeros((5, count), np.int32)
    for row, name in enumerate(_POINTS):
        keys.foreach_get(name, points[row])
    for row, name in enumerate(_KINDS):
        keys.foreach_get(name, kinds[row])
    easing = np.zeros(0)
    if (kinds[2] > _BEZIER).any():
        easing = np.empty((4, count), np.float32)
        codes = np.empty(count, np.int32)
        keys.foreach_get("easing", codes)
        easing[0] = codes
        for row, name in enumerate(_EASING[1:], 1):
            values = np.empty(count, np.float32)
            keys.foreach_get(name, values)
            easing[row] = values
    linear = curve.extrapolation == "LINEAR"
    return Keys(points.reshape(3, count, 2).astype(np.float64), kinds, easing, linear)


def _kept(keys: Keys) -> Keys:
    keys.kinds[4] = 1
    return keys


def _write(curve: Any, keys: Keys) -> None:
    """All keys of a curve anew.

    Blender puts handles in line again and rounds them anew each time, so they are set once more. A handle that it would
    have elsewhere, as one that is smoothed along all of the curve, is fixed where it was.
    """
    points, count = curve.keyframe_points, len(keys)
    points.clear()
    points.add(count)
    wanted = keys.points.astype(np.float32).reshape(3, 2 * count)
    kinds = keys.kinds.astype(np.int32)
    for row, name in enumerate(_KINDS):
        points.foreach_set(name, kinds[row])
    if len(keys.easing):
        points.foreach_set("easing", keys.easing[0].astype(np.int32))
        for row, name in enumerate(_EASING[1:], 1):
            points.foreach_set(name, keys.easing[row].astype(np.float32))
    for row, name in enumerate(_POINTS):
        points.foreach_set(name, wanted[row])
    curve.update()
    ends, found = wanted[1:].reshape(2, count, 2), np.empty((2, 2 * count), np.float32)
    for row, name in enumerate(_POINTS[1:]):
        points.foreach_get(name, found[row])
    away = np.abs(found.reshape(2, count, 2) - ends).max((0, 2)) > 1e-4 * (1 + np.abs(ends).max((0, 2)))
    moved = keys.kinds[4].astype(bool) & away
    fixed = keys.kinds[4].astype(bool) | (keys.kinds[:2] % 3 == _FREE).all(0)
    if moved.any():
        kinds[:2, moved] = _FREE
        for row, name in enumerate(_KINDS[:2]):
            points.foreach_set(name, kinds[row])
    for row, name in enumerate(_POINTS[1:]):
        points.foreach_set(name, np.where(fixed[:, None], ends[row], found[row].reshape(-1, 2)).ravel())


def _add(place: Any, curve: Any) -> None:
    keys = _read(curve)
    group = curve.group.name if curve.group is not None else ""
    _write(compat.new_fcurve(place, curve.data_path, curve.array_index, group), keys)


# --- Cutting ---


def _cut(keys: Keys, frame: float, curve: Any = None) -> tuple[Keys, Keys]:
    """The keys up to a frame and those from it on, with a key there in both; together they draw the same curve.

    ``curve`` is asked for the values between two keys that cannot be cut, for their interpolation or for long handles
    that overlap: there the whole frames are keyed.
    """
    after = int(np.searchsorted(keys.frames, frame - _NEAR))
    if after < len(keys) and abs(keys.frames[after] - frame) < _NEAR:
        return keys[: after + 1], keys[after:]
    if after in (0, len(keys)):
        return _cut_outside(keys, frame, after)
    kind = int(keys.kinds[2, after - 1])
    if kind > _BEZIER:
        return _cut_densely(keys, frame, after, curve)
    left, right = keys[:after], keys[after:]
    a, b = keys.points[:, after - 1], keys.points[:, after]
    if kind == _BEZIER:
        first, second = _halves(a, b, frame)
        if curve is not None and (first[1, 0] > frame + _NEAR or second[2, 0] < frame - _NEAR):
            return _cut_densely(keys, frame, after, curve)  # a half with handles that Blender would shorten
        left, right = _frozen(left, -1), _frozen(right, 0)
        left.points[2, -1], right.points[1, 0] = first[1], second[2]
        key = np.array([first[3], first[2], second[1]])
    else:
        share = (frame - a[0, 0]) / (b[0, 0] - a[0, 0]) if kind == _LINEAR else 0.0
        value = a[0, 1] + share * (b[0, 1] - a[0, 1])
        key = np.array([[frame, value]] * 3) + [[0.0, 0.0], [-0.3, 0.0], [0.3, 0.0]]
    one = _one(keys, key, kind, after - 1)
    return _chain(left, one), _chain(one, right)


def _cut_outside(keys: Keys, frame: float, after: int) -> tuple[Keys, Keys]:
    """Before the first key, or after the last one."""
    end = keys.points[:, 0 if after == 0 else -1]
    slope, kind = 0.0, keys.kinds[2, 0 if after == 0 else -1]
    if keys.linear and kind == _LINEAR and len(keys) > 1:
        slope = _slope_after(keys) if after == 0 else float(np.divide(*(keys.points[0, -1] - keys.points[0, -2])[::-1]))
    elif keys.linear and kind not in (_CONSTANT, _LINEAR):
        slope = _slope(end, 1 if after == 0 else 2)
    place = np.array([frame, end[0, 1] + slope * (frame - end[0, 0])])
    key = place + np.array([[0.0, 0.0], [-1.0, -slope], [1.0, slope]])
    one = _one(keys, key, _LINEAR, 0 if after == 0 else -1)
    if after == 0:
        return one, _chain(one, keys)
    last = replace(keys, kinds=keys.kinds.copy())
    last.kinds[2, -1] = _LINEAR
    return _chain(last, one), one


def _cut_densely(keys: Keys, frame: float, after: int, curve: Any) -> tuple[Keys, Keys]:
    a, b = keys.frames[after - 1], keys.frames[after]
    inside = [f for f in range(math.floor(a) + 1, math.ceil(b)) if abs(f - frame) > _NEAR]
    marks = sorted([*inside, frame])
    values = [curve.evaluate(f) for f in marks]
    steps = np.array([[f, v] for f, v in zip(marks, values, strict=True)])
    points = np.stack([steps, steps - [0.3, 0.0], steps + [0.3, 0.0]])
    kinds = np.repeat(keys.kinds[:, after - 1 : after], len(marks), 1)
    kinds[:2], kinds[2] = _FREE, _LINEAR
    easing = np.repeat(keys.easing[:, after - 1 : after], len(marks), 1) if len(keys.easing) else keys.easing
    dense = Keys(points, kinds, easing, keys.linear)
    left = replace(keys[:after], kinds=keys.kinds[:, :after].copy())
    left.kinds[2, -1] = _LINEAR
    cut = marks.index(frame)
    return _chain(left, dense[: cut + 1]), _chain(dense[cut:], keys[after:])


def _halves(a: Array, b: Array, frame: float) -> tuple[Array, Array]:
    """The Bezier curve between two keys (3, 2) in two, by de Casteljau: (4, 2) points of each half."""
    start, ahead, back, end = a[0], a[2], b[1], b[0]
    room = end[0] - start[0]  # Blender shortens a handle that reaches beyond the next key
    ahead = start + (ahead - start) * min(1.0, room / max(abs(ahead[0] - start[0]), 1e-9))
    back = end + (back - end) * min(1.0, room / max(abs(back[0] - end[0]), 1e-9))
    points = np.array([start, ahead, back, end])
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        if _bezier(points[:, 0], share) < frame:
            low = share
        else:
            high = share
    share = (low + high) / 2
    first, second, rows = [points[0]], [points[3]], points
    while len(rows) > 1:
        rows = rows[:-1] + share * (rows[1:] - rows[:-1])
        first.append(rows[0])
        second.append(rows[-1])
    first[3][0] = second[3][0] = frame
    return np.array(first), np.array(second[::-1])


def _bezier(p: Array, share: float) -> float:
    rest = 1 - share
    return float(rest**3 * p[0] + 3 * rest**2 * share * p[1] + 3 * rest * share**2 * p[2] + share**3 * p[3])


def _one(keys: Keys, points: Array, kind: int, like: int) -> Keys:
    """A single key (3, 2) among others."""
    kinds = np.array([[_FREE], [_FREE], [kind], [keys.kinds[3, like]], [0]], np.int32)
    easing = keys.easing[:, [like]] if len(keys.easing) else keys.easing
    return Keys(points[:, None, :], kinds, easing, keys.linear)


def _frozen(keys: Keys, row: int) -> Keys:
    """One key's handles stay where they are, whatever becomes of the keys beside it."""
    kinds = keys.kinds.copy()
    kinds[:2, row] = _FREE
    return replace(keys, points=keys.points.copy(), kinds=kinds)


def _chain(*parts: Keys) -> Keys:
    easing = np.zeros(0)
    if any(len(part.easing) for part in parts):
        blank = np.array([[0.0], [1.70158], [0.8], [4.1]])
        easing = np.concatenate([p.easing if len(p.easing) else np.repeat(blank, len(p), 1) for p in parts], 1)
    points, kinds = (np.concatenate([getattr(part, name) for part in parts], 1) for name in ("points", "kinds"))
    return Keys(points, kinds, easing, parts[0].linear)


def _between(new: Keys, where: Join) -> Keys:
    if where.left is not None:
        new = _cut(new, where.left)[1]
    return new if where.right is None else _cut(new, where.right)[0]


# --- Joining ---


def _slope(key: Array, side: int) -> float:
    """Change for each frame at a key (3, 2), before (1) or after it (2), as its handle says."""
    way = key[side] - key[0]
    return float(way[1] / way[0]) if abs(way[0]) > _NEAR else 0.0


def _slope_before(keys: Keys) -> float:
    """How a curve comes to its last key."""
    if len(keys) > 1 and keys.kinds[2, -2] != _BEZIER:
        if keys.kinds[2, -2] == _CONSTANT:
            return 0.0
        step = keys.points[0, -1] - keys.points[0, -2]
        return float(step[1] / step[0])
    return _slope(keys.points[:, -1], 1) if len(keys) > 1 else 0.0


def _slope_after(keys: Keys) -> float:
    """How a curve goes from its first key."""
    if len(keys) > 1 and keys.kinds[2, 0] != _BEZIER:
        if keys.kinds[2, 0] == _CONSTANT:
            return 0.0
        step = keys.points[0, 1] - keys.points[0, 0]
        return float(step[1] / step[0])
    return _slope(keys.points[:, 0], 2) if len(keys) > 1 else 0.0


def _same_constant(old: Keys, new: Keys) -> bool:
    values = np.concatenate([keys.points[..., 1].ravel() for keys in (old, new)])
    return bool(np.ptp(values) <= 1e-7)


def _on_the_same_frames(inner: list[Keys], where: Join, fade: float) -> list[Keys]:
    """The channels of a bone with keys at all frames at which one has them, and at one where the old has faded out."""
    frames = sorted({round(float(frame), 3) for keys in inner for frame in keys.frames})
    first = -math.inf if where.left is None else where.left
    last = math.inf if where.right is None else where.right
    for border, sign in ((where.left, 1), (where.right, -1)):
        mark = round(border + sign * fade) if border is not None else None
        if mark is not None and first + 1 < mark < last - 1 and min(abs(mark - frame) for frame in frames) > fade / 2:
            frames.append(float(mark))
    return [_with(keys, sorted(frames)) for keys in inner]


def _with(keys: Keys, frames: list[float]) -> Keys:
    for frame in frames:
        if np.abs(keys.frames - frame).min() >= 2 * _NEAR:
            keys = _chain_at(*_cut(keys, frame))
    return keys


def _chain_at(left: Keys, right: Keys) -> Keys:
    """Two parts that share a key: what is before it comes from the one, what is behind it from the other."""
    key = right[:1]
    points, kinds = key.points.copy(), key.kinds.copy()
    points[1], kinds[0] = left.points[1, -1], left.kinds[0, -1]
    if (kinds[0, 0] == _FREE) != (kinds[1, 0] == _FREE):
        kinds[:2] = _FREE
    return _chain(left[:-1], replace(key, points=points, kinds=kinds), right[1:])


def _written_alike(
    obj: bpy.types.Object, curves: list[Any], lefts: list[Any], inner: list[Keys], rights: list[Any]
) -> tuple[list[Keys], list[Any]]:
    """The new rotations written as those before them are, and those behind them as the new ones come out then."""
    inner, rights = list(inner), list(rights)
    channels: dict[str, list[int]] = {}
    for row, curve in enumerate(curves):
        channels.setdefault(curve.data_path, []).append(row)
    for path, rows in channels.items():
        way = _ways(obj, path, [curves[row].array_index for row in rows])
        if way is None:
            continue
        if lefts[rows[0]] is not None:
            known = np.array([lefts[row].points[0, -1, 1] for row in rows])
            scale, shift = way(known, np.array([inner[row].points[0, 0, 1] for row in rows]))
        elif rights[rows[0]] is not None:
            known = np.array([rights[row].points[0, 0, 1] for row in rows])
            scale, shift = way(known, np.array([inner[row].points[0, -1, 1] for row in rows]))
        else:
            continue
        for row, s, t in zip(rows, scale, shift, strict=True):
            inner[row] = inner[row].valued(float(s), float(t))
        if rights[rows[0]] is not None:
            known = np.array([inner[row].points[0, -1, 1] for row in rows])
            scale, shift = way(known, np.array([rights[row].points[0, 0, 1] for row in rows]))
            for row, s, t in zip(rows, scale, shift, strict=True):
                rights[row] = rights[row].valued(float(s), float(t))
    return inner, rights


Way = Callable[[Array, Array], tuple[Array, Array]]


def _ways(obj: bpy.types.Object, path: str, indices: list[int]) -> Way | None:
    """How values of a rotation are to be scaled and shifted to lie nearest to known ones, as the same rotation."""
    owner, _, channel = path.rpartition(".")
    if channel in _SIGNED and len(indices) == 4:
        return _nearest_sign
    if channel == "rotation_euler" and len(indices) == 3:
        try:
            mode = (obj.path_resolve(owner) if owner else obj).rotation_mode
        except (ValueError, AttributeError):
            return None
        if mode in EULER_ORDERS:
            middle = indices.index("XYZ".index(mode[1]))
            return lambda known, values: _nearest_turn(known, values, middle)
    return None


def _nearest_sign(known: Array, values: Array) -> tuple[Array, Array]:
    sign = -1.0 if np.sum((known + values) ** 2) < np.sum((known - values) ** 2) else 1.0
    return np.full(4, sign), np.zeros(4)


def _nearest_turn(known: Array, values: Array, middle: int) -> tuple[Array, Array]:
    """Euler angles turn by whole turns, or all three by half a turn with the middle one the other way."""
    flip = np.ones(3)
    flip[middle] = -1.0
    best: tuple[float, Array, Array] | None = None
    for scale, shift in ((np.ones(3), np.zeros(3)), (flip, np.full(3, math.pi))):
        turned = shift + 2 * math.pi * np.round((known - (scale * values + shift)) / (2 * math.pi))
        away = float(np.abs(known - (scale * values + turned)).sum())
        if best is None or away < best[0] - 1e-3:
            best = away, scale, turned
    assert best is not None
    return best[1], best[2]


def _fade(left: float, slope: float, length: float, frames: Array) -> tuple[Array, Array]:
    """(N,) values and slopes, so many frames away from a border, of what fades from a value and a slope there to 0."""
    s = np.clip(frames / length, 0.0, 1.0)
    value = left * ((2 * s - 3) * s * s + 1) + slope * length * (((s - 2) * s + 1) * s)
    change = left * 6 * (s - 1) * s / length + slope * ((3 * s - 4) * s + 1)
    return value, change


def _curved(keys: Keys) -> Keys:
    """With straight pieces drawn by handles, so that they can be bent."""
    straight = np.flatnonzero(keys.kinds[2, :-1] == _LINEAR)
    if not len(straight):
        return keys
    points, kinds = keys.points.copy(), keys.kinds.copy()
    third = (keys.points[0, straight + 1] - keys.points[0, straight]) / 3
    points[2, straight], points[1, straight + 1] = points[0, straight] + third, points[0, straight + 1] - third
    kinds[2, straight] = _BEZIER
    kinds[:2, straight] = kinds[:2, straight + 1] = _FREE
    return replace(keys, points=points, kinds=kinds)


def _joined(left: Keys | None, inner: Keys, right: Keys | None, fade: float, travels: bool) -> Keys:
    """One curve of three pieces. With ``travels`` only that fades in which the two borders differ."""
    frames, length = inner.frames, min(fade, float(np.ptp(inner.frames)) or 1.0)
    gaps = [] if left is None else [left.points[0, -1, 1] - inner.points[0, 0, 1]]
    gaps += [] if right is None else [right.points[0, 0, 1] - inner.points[0, -1, 1]]
    stays = min(gaps, key=abs, default=0.0) if travels and min(gaps, default=0.0) * max(gaps, default=0.0) > 0 else 0.0
    offset, change = np.full(len(inner), stays), np.zeros(len(inner))
    if left is not None:
        gap = gaps[0] - stays
        value, slope = _fade(gap, _slope_before(left) - _slope_after(inner), length, frames - frames[0])
        offset, change = offset + value, change + slope
    if right is not None:
        gap = gaps[-1] - stays
        value, slope = _fade(gap, _slope_before(inner) - _slope_after(right), length, frames[-1] - frames)
        offset, change = offset + value, change - slope
    points = inner.points.copy()
    points[..., 1] += offset + change * (points[..., 0] - frames)
    inner = replace(inner, points=points)
    if left is not None:
        inner = _chain_at_old(left, inner)
    if right is not None:
        inner = _chain_to_old(inner, right)
    return inner


def _chain_at_old(left: Keys, inner: Keys) -> Keys:
    """The key at the border is the old one, with the new handle behind it."""
    key = _frozen(left, -1)
    key.points[2, -1], key.kinds[2, -1] = inner.points[2, 0], inner.kinds[2, 0]
    return _chain(key, inner[1:])


def _chain_to_old(inner: Keys, right: Keys) -> Keys:
    key = _frozen(right, 0)
    key.points[1, 0] = inner.points[1, -1]
    return _chain(inner[:-1], key)


def _switched(left: Keys | None, inner: Keys, right: Keys | None) -> Keys:
    """A property changes at once behind the one border, and back at the other: halves of a switch mean nothing."""
    if left is not None:
        start = inner.frames[0]
        inner = _cut(inner, start + 1)[1]
        hold = _frozen(left, -1)
        hold.kinds[2, -1] = _CONSTANT
        inner = _chain(hold, inner[inner.frames > start + _NEAR])
    if right is not None:
        inner = inner[inner.frames < right.frames[0] - _NEAR]
        kinds = inner.kinds.copy()
        kinds[2, -1:] = _CONSTANT
        inner = _chain(replace(inner, kinds=kinds), right)
    return inner


def check_there(name: str) -> bpy.types.Action:
    action = bpy.data.actions.get(name)
    if action is None:
        raise HeroError(f"The take '{name}' was deleted or renamed meanwhile; nothing was changed.")
    return action
