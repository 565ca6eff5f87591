# SPDX-License-Identifier: GPL-3.0-or-later
"""A face onto a character: one Action for each take and data-block, written whole or not at all.

Shape keys get Actions of their own. Neck, head and face controls are bones of the armature, so they are in the Action
of the body's take where there is one: the head's turn is added to what the body does with it, about the head's own
axes, and can be taken out again, for the Action keeps the body's own curves of neck and head.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.errors import HeroError
from hero_core.face import keys as core
from hero_core.face.curves import EYE_RANGE
from hero_core.face.keys import Keys, Options, Play
from hero_core.face.reaction import FaceReaction
from hero_core.retarget import Rig
from hero_core.retarget.reduce import rotation_channel
from hero_core.retarget.rotations import about, continuous, from_euler, to_matrix, to_quaternion
from hero_core.retarget.solve import location_channel

from . import armature as armatures
from . import compat, rigify
from .face_rig import Face

Array = npt.NDArray[Any]
UNDER = "hero_face_under"  # custom property of an Action: the curves of neck and head below the face's turn


def write_face(
    found: Face,
    face: FaceReaction,
    clip: str,
    first_frame: float,
    scene: bpy.types.Scene,
    options: Options | None = None,
    body: Sequence[str] = (),
) -> dict[str, Any]:
    """Key all takes; the first is assigned. Returns the report.

    Args:
        body: names of the Actions of the body's takes, into which bones are keyed: take for take, in turn where there
            are fewer. Without it an Action that the armature has is copied for each take and stays what it was.

    Raises:
        HeroError: with every data-block as it was, and no new Action left.
    """
    started = time.perf_counter()
    options = options or Options()
    keyed: list[Any] = [obj.data.shape_keys for obj in found.meshes] if found.map.keys else []
    owners: list[bpy.types.ID] = [*keyed, *([found.armature] if found.armature is not None else [])]
    former = [(owner, *compat.assigned_action(owner)) for owner in owners]
    values = [(key, [(block.name, block.value) for block in key.key_blocks]) for key in keyed]
    before = {action.name for action in bpy.data.actions}
    kept_curves: list[tuple[bpy.types.Action, dict[str, Any]]] = []
    rows: list[dict[str, Any]] = []
    fps = scene.render.fps / scene.render.fps_base
    base = compat.assigned_action(found.armature) if found.armature is not None and not body else (None, None)
    try:
        for take in range(face.takes):
            shown = core.play(face, take, first_frame, fps, options, found.map.expressions)
            name = f"{clip[:32]} take {take + 1} seed {face.seed + take}"
            for obj, key in zip(found.meshes, keyed, strict=bool(keyed)):
                rows.append(_write_keys(obj, key, found, shown, f"{name} {obj.name}"[:63], options, take, face))
            if found.armature is not None and found.rig is not None and (found.head or found.map.bones):
                into = bpy.data.actions.get(body[take % len(body)]) if body else None
                if body and into is not None and take < len(body):
                    kept_curves.append((into, _snapshot(into, found.armature)))
                elif body:
                    continue  # more faces than bodies: the shape keys alone
                rows.append(_write_bones(found, shown, into, base, name, options, take, face))
        for owner, action, _ in former:
            mine = [row for row in rows if row["datablock"] == owner.name and row["kind"] == owner.id_type]
            if mine and not (body and owner == found.armature):
                if action is not None:
                    action.use_fake_user = True  # it is no longer assigned, and may be somebody's work
                compat.assign_action(owner, bpy.data.actions[mine[0]["action"]])
        for row in rows:
            bpy.data.actions[row["action"]].use_fake_user = True
        _rest(keyed, former, found)
    except BaseException:
        for owner, action, slot in former:
            compat.assign_action(owner, action, slot)
        for action, curves in kept_curves:
            _restore(action, found.armature, curves)
        for action in [action for action in bpy.data.actions if action.name not in before]:
            bpy.data.actions.remove(action)
        for key, blocks in values:
            for block, value in blocks:
                key.key_blocks[block].value = value
        raise
    notes = [*face.notes, *found.notes]
    return {
        "source": face.source,
        "seed": face.seed,
        "frames": face.frames,
        "first_frame": first_frame,
        "map": found.map.preset,
        "takes": rows,
        "notes": notes,
        "seconds": {"write": time.perf_counter() - started},
    }


def _row(
    take: int, face: FaceReaction, owner: bpy.types.ID, action: bpy.types.Action, curves: int, keys: int
) -> dict[str, Any]:
    return {
        "take": take + 1, "seed": face.seed + take, "kind": owner.id_type, "datablock": owner.name,
        "action": action.name, "curves": curves, "keys": keys,
    }  # fmt: skip


# --- shape keys ----------------------------------------------------------------------------------------------------


def _write_keys(
    obj: bpy.types.Object,
    key: bpy.types.Key,
    found: Face,
    shown: Play,
    name: str,
    options: Options,
    take: int,
    face: FaceReaction,
) -> dict[str, Any]:
    """An Action for the shape keys of a mesh, not yet assigned."""
    from .face_rig import driven_keys

    driven = driven_keys(key)
    blocks = [
        block
        for block in key.key_blocks
        if block.name in found.map.keys and block.name not in driven and block != key.reference_key
    ]
    low = np.array([block.slider_min for block in blocks])
    high = np.array([block.slider_max for block in blocks])
    mixed = np.stack([shown.mixed(found.map.keys[block.name]) for block in blocks]) if blocks else np.zeros((0, 1))
    tracks = np.clip(mixed, low[:, None], high[:, None])[..., None]
    made = core.few_keys(tracks, options.tolerance) if options.reduce else core.every_frame(tracks)
    action, place = compat.new_action(name, key)
    for block, each in zip(blocks, made, strict=True):
        write_curve(place, block.path_from_id("value"), 0, key.name, shown.frames[each.rows], each.values[:, 0],
                    each.slopes[:, 0])  # fmt: skip
    return _row(take, face, key, action, len(blocks), sum(len(each.rows) for each in made))


_BEZIER, _ALIGNED, _AUTO_CLAMPED = 2, 3, 4  # values of the enums as ``foreach_set`` takes them


def write_curve(
    place: Any, path: str, index: int, group: str, frames: Array, values: Array, slopes: Array
) -> bpy.types.FCurve:
    """A curve through keys (K,) whose handles lie along the slopes and reach over a third of the way."""
    curve = compat.new_fcurve(place, path, index, group)
    count = len(frames)
    points = curve.keyframe_points
    points.add(count)
    pairs = np.empty((count, 2), np.float32)
    pairs[:, 0], pairs[:, 1] = frames, values
    points.foreach_set("co", pairs.ravel())
    points.foreach_set("interpolation", np.full(count, _BEZIER, np.int32))
    kind = np.full(count, _ALIGNED if count > 1 else _AUTO_CLAMPED, np.int32)
    points.foreach_set("handle_left_type", kind)
    points.foreach_set("handle_right_type", kind)
    if count > 1:
        third = np.diff(frames) / 3
        for side, reach in (("left", -np.append(third[0], third)), ("right", np.append(third, third[-1]))):
            pairs[:, 0], pairs[:, 1] = frames + reach, values + slopes * reach
            points.foreach_set(f"handle_{side}", pairs.ravel())
    curve.update()
    return curve


def _rest(
    keyed: list[bpy.types.Key],
    former: list[tuple[bpy.types.ID, bpy.types.Action | None, Any]],
    found: Face,
) -> None:
    """Shape keys that the Action before moved, and this one does not, go back to rest."""
    for owner, action, _ in former:
        if owner not in keyed or action is None:
            continue
        paths = {curve.data_path for curve in compat.fcurves_of(action, owner)}
        for block in owner.key_blocks:
            if block.path_from_id("value") in paths and block.name not in found.map.keys:
                block.value = 0.0


# --- bones ---------------------------------------------------------------------------------------------------------


def _write_bones(
    found: Face,
    shown: Play,
    into: bpy.types.Action | None,
    base: tuple[bpy.types.Action | None, Any],
    name: str,
    options: Options,
    take: int,
    face: FaceReaction,
) -> dict[str, Any]:
    """Key neck, head and face controls into an Action: the body's, a copy of the one that is there, or a new one."""
    obj, rig = found.armature, found.rig
    assert obj is not None and rig is not None
    if into is not None:
        action, place = into, compat.place_of(into, obj)
    elif base[0] is not None:
        action = base[0].copy()
        action.name = name
        place = compat.place_of(action, obj, base[1])
    else:
        action, place = compat.new_action(name, obj)
    take_out(action, obj, place)
    written = keys = 0
    under: dict[str, Any] = {}
    curves = {(curve.data_path, curve.array_index): curve for curve in compat.curves_in(place)}
    for bone_name, share in _shares(found, obj, curves):
        bone = obj.pose.bones[bone_name]
        turn = _turned(shown.head * share, found.axes, rig, bone_name)  # (M, 4)
        frames, quaternions = _added(bone, curves, shown.frames, turn)
        channel, values = rotation_channel(bone.rotation_mode, quaternions)
        path = bone.path_from_id(channel)
        under[path] = [_dump(curves[path, i]) for i in range(values.shape[1]) if (path, i) in curves]
        for i in range(values.shape[1]):
            if (path, i) in curves:
                place.fcurves.remove(curves.pop((path, i)))
        written, keys = _tally(written, keys, _put(place, path, bone_name, frames, values, options))
    for bone_name, channels in _controls(found, shown, rig).items():
        bone = obj.pose.bones[bone_name]
        for kind, values in channels.items():
            if kind == "rotation":
                kind, values = rotation_channel(bone.rotation_mode, values)
            path = bone.path_from_id(kind)
            for i in range(values.shape[1]):
                if (path, i) in curves:
                    place.fcurves.remove(curves.pop((path, i)))
            written, keys = _tally(written, keys, _put(place, path, bone_name, shown.frames, values, options, rig))
    action[UNDER] = json.dumps(under)
    return _row(take, face, obj, action, written, keys)


def _shares(
    found: Face, obj: bpy.types.Object, curves: Mapping[tuple[str, int], bpy.types.FCurve]
) -> list[tuple[str, float]]:
    """How much neck and head turn. In a Rigify rig the head follows the neck as far as a setting says, or its key."""
    shares = list(found.head)
    torso = obj.pose.bones.get("torso")
    if len(shares) < 2 or torso is None or not rigify.is_control_rig(obj) or "head_follow" not in torso.keys():  # noqa: SIM118
        return shares
    keyed = curves.get((torso.path_from_id() + '["head_follow"]', 0))
    follows = keyed.evaluate(0) if keyed is not None else torso["head_follow"]
    return [*shares[:-1], (shares[-1][0], 1 - follows * sum(share for _, share in shares[:-1]))]


def _tally(written: int, keys: int, added: tuple[int, int]) -> tuple[int, int]:
    return written + added[0], keys + added[1]


def _put(
    place: Any, path: str, group: str, frames: Array, values: Array, options: Options, rig: Rig | None = None
) -> tuple[int, int]:
    """Curves for (M, C) values at consecutive whole frames, all with keys at the same frames."""
    tolerance = np.radians(options.degrees) / 2
    if path.endswith("rotation_euler"):
        tolerance *= 2
    elif path.endswith("location"):
        tolerance = max(float(np.ptp(values, axis=0).max()) * options.tolerance, 1e-7)
    tracks = values[None]
    made: Keys = (core.few_keys(tracks, tolerance) if options.reduce else core.every_frame(tracks))[0]
    for i in range(values.shape[1]):
        write_curve(place, path, i, group, frames[made.rows], made.values[:, i], made.slopes[:, i])
    return values.shape[1], values.shape[1] * len(made.rows)


def _turned(rotation: Array, axes: Array, rig: Rig, bone: str) -> Array:
    """(M, 4) quaternions by which a bone turns in its own axes, from (M, 3) rotations about the face's x, y, z."""
    angles = np.asarray(rotation, np.float64)
    rest = rig.rest[rig.index[bone], :3, :3]
    rest = rest / np.linalg.norm(rest, axis=0)
    local = rest.T @ axes  # the face's axes as the bone sees them
    faced = to_matrix(from_euler(angles, "XYZ"))
    return continuous(to_quaternion(local @ faced @ local.T))


def _added(
    bone: bpy.types.PoseBone, curves: Mapping[tuple[str, int], bpy.types.FCurve], frames: Array, turn: Array
) -> tuple[Array, Array]:
    """Whole frames and (M, 4) quaternions of a bone that does what its curves say, and then turns."""
    channel = rotation_channel(bone.rotation_mode, np.array([[1.0, 0.0, 0.0, 0.0]]))[0]
    path = bone.path_from_id(channel)
    mine = [curves.get((path, i)) for i in range(len(getattr(bone, channel)))]
    there = [curve for curve in mine if curve is not None and len(curve.keyframe_points)]
    if there:
        first = min(frames[0], *(np.floor(curve.range()[0] + 1e-4) for curve in there))
        last = max(frames[-1], *(np.ceil(curve.range()[1] - 1e-4) for curve in there))
        whole = np.arange(first, last + 1)
        still = np.array([[1.0, 0.0, 0.0, 0.0]])
        before, after = int(frames[0] - first), int(last - frames[-1])
        turn = np.concatenate([np.repeat(still, before, 0), turn, np.repeat(still, after, 0)])
        frames = whole
    rest = getattr(bone, channel)
    values = np.stack(
        [
            [curve.evaluate(frame) for frame in frames] if curve is not None and curve in there
            else np.full(len(frames), rest[i])
            for i, curve in enumerate(mine)
        ],
        -1,
    )  # fmt: skip
    if channel == "rotation_quaternion":
        body = to_matrix(np.where(np.abs(values).sum(-1, keepdims=True) > 1e-9, values, [1.0, 0.0, 0.0, 0.0]))
    elif channel == "rotation_euler":
        body = to_matrix(from_euler(values, bone.rotation_mode))
    else:
        body = about(values[:, 1:], values[:, 0])
    return frames, continuous(to_quaternion(body @ to_matrix(turn)))


def _controls(found: Face, shown: Play, rig: Rig) -> dict[str, dict[str, Array]]:
    """Face control -> its channels: "location" (M, 3), "rotation" (M, 4)."""
    unit = 1.0
    if found.map.unit:
        a, b = (rig.rest[rig.index[name], :3, 3] for name in found.map.unit)
        unit = float(np.linalg.norm(a - b)) or 1.0
    moves: dict[str, Array] = {}
    turns: dict[str, Array] = {}
    slides: dict[str, Array] = {}
    for row in found.map.bones:
        place = rig.rest[rig.index[row.bone], :3, 3]
        total = np.zeros((len(shown.frames), 3))
        for source, amounts in row.sources.items():
            value = shown.mixed({source: 1.0})[:, None]
            if row.way == "close":
                total += value * amounts[0] * (rig.rest[rig.index[row.to], :3, 3] - place)
            else:
                total += value * np.array(amounts)
        if row.way == "turn":
            turns[row.bone] = turns.get(row.bone, 0.0) + np.radians(total)
        elif row.way == "slide":
            slides[row.bone] = slides.get(row.bone, 0.0) + total
        elif row.way == "close":
            moves[row.bone] = moves.get(row.bone, 0.0) + total
        else:
            reach = unit
            if row.way == "look":
                reach = float(np.linalg.norm(rig.rest[rig.index[row.to], :3, 3] - place)) * np.tan(EYE_RANGE)
            moves[row.bone] = moves.get(row.bone, 0.0) + reach * total @ found.axes.T
    out: dict[str, dict[str, Array]] = {}
    for name, move in moves.items():
        out.setdefault(name, {})["location"] = location_channel(rig, rig.index[name], move)
    for name, slide in slides.items():
        out.setdefault(name, {})["location"] = slide + out.get(name, {}).get("location", 0.0)
    for name, angles in turns.items():
        out.setdefault(name, {})["rotation"] = _turned(angles, found.axes, rig, name)
    return out


# --- taking it out again -------------------------------------------------------------------------------------------


def take_out(action: bpy.types.Action, obj: bpy.types.Object, place: Any | None = None) -> bool:
    """Give neck and head of an Action the curves back that they had below the face; whether there was one."""
    text = action.get(UNDER)
    if not isinstance(text, str):
        return False
    place = place or compat.place_of(action, obj)
    try:
        under = json.loads(text)
    except ValueError:
        return False
    _restore_curves(place, under)
    del action[UNDER]
    return True


def _restore_curves(place: Any, under: Mapping[str, Any]) -> None:
    curves = {(curve.data_path, curve.array_index): curve for curve in compat.curves_in(place)}
    for path, kept in under.items():
        for key in [key for key in curves if key[0] == path]:
            place.fcurves.remove(curves.pop(key))
        for each in kept:
            _load(place, path, each)


_FIELDS = ("co", "handle_left", "handle_right")
_KINDS = ("interpolation", "handle_left_type", "handle_right_type")


def _dump(curve: bpy.types.FCurve) -> dict[str, Any]:
    """All of a curve's keys, to be written down."""
    count = len(curve.keyframe_points)
    out: dict[str, Any] = {"index": curve.array_index, "group": curve.group.name if curve.group else ""}
    for name in _FIELDS:
        values = np.empty(2 * count, np.float32)
        curve.keyframe_points.foreach_get(name, values)
        out[name] = [round(float(value), 6) for value in values]
    for name in _KINDS:
        kinds = np.empty(count, np.int32)
        curve.keyframe_points.foreach_get(name, kinds)
        out[name] = kinds.tolist()
    return out


def _load(place: Any, path: str, kept: Mapping[str, Any]) -> None:
    curve = compat.new_fcurve(place, path, int(kept["index"]), str(kept["group"] or "Face"))
    points = curve.keyframe_points
    points.add(len(kept["co"]) // 2)
    points.foreach_set("co", np.array(kept["co"], np.float32))
    for name in _KINDS:
        points.foreach_set(name, np.array(kept[name], np.int32))
    for name in _FIELDS[1:]:
        points.foreach_set(name, np.array(kept[name], np.float32))
    curve.update()


def _snapshot(action: bpy.types.Action, obj: bpy.types.Object) -> dict[str, Any]:
    """All curves of an Action, for the way back after an error."""
    out: dict[str, list[Any]] = {}
    for curve in compat.curves_in(compat.place_of(action, obj)):
        out.setdefault(curve.data_path, []).append(_dump(curve))
    return {"curves": out, "under": action.get(UNDER)}


def _restore(action: bpy.types.Action, obj: bpy.types.Object | None, kept: Mapping[str, Any]) -> None:
    if obj is None:
        return
    place = compat.place_of(action, obj)
    for curve in list(compat.curves_in(place)):
        if curve.data_path not in kept["curves"]:
            place.fcurves.remove(curve)
    _restore_curves(place, kept["curves"])
    if kept["under"] is None:
        if action.get(UNDER) is not None:
            del action[UNDER]
    else:
        action[UNDER] = kept["under"]


def check(found: Face) -> None:
    """Raise HeroError where the character cannot take Actions, before any work."""
    if found.armature is not None:
        armatures.check_writable(found.armature)
    if found.map.keys and not found.meshes:
        raise HeroError("No mesh of the character has shape keys that can be keyed; choose the mesh of the head.")
