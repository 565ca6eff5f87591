# SPDX-License-Identifier: GPL-3.0-or-later
"""Armature object → Rig, BoneKeys → Action. The only place that turns Blender's Z-up world into hero_core's Y-up one.

Only an Action is ever written: rest data, transforms of the object and armatures of other files stay as they are.
"""

from __future__ import annotations

import re
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt
from mathutils import Euler, Matrix, Quaternion, Vector

from hero_core.errors import HeroError
from hero_core.retarget import BoneKeys, Rig
from hero_core.retarget.reduce import Curves, rotation_channel
from hero_core.retarget.rig import OBJECT

from . import compat

Array = npt.NDArray[Any]

# Blender (x right, y away, z up) → hero_core (x, up, towards the viewer): what faces -Y there faces +Z here.
Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])

# Constraints that take a bone out of the animator's hands; limits, for one, leave it there.
_OWNERS = {
    "COPY_ROTATION", "COPY_TRANSFORMS", "DAMPED_TRACK", "LOCKED_TRACK", "TRACK_TO", "STRETCH_TO", "IK", "SPLINE_IK",
    "ARMATURE", "TRANSFORM", "ACTION", "PIVOT",
}  # fmt: skip
_NO_TURN = np.array([[1.0, 0.0, 0.0, 0.0]])
_BEZIER, _FREE, _ALIGNED, _AUTO_CLAMPED = 2, 0, 3, 4  # values of the enums as ``foreach_set`` takes them


def check_writable(obj: bpy.types.Object | None) -> bpy.types.Object:
    """The object, if it is an armature on which an Action can be put; HeroError with what to do if not."""
    if obj is None:
        raise HeroError("There is no armature; select the character's armature or choose one.")
    if obj.type != "ARMATURE":
        raise HeroError(f"'{obj.name}' is no armature; select the armature of the character.")
    if obj.library is not None:
        raise HeroError(
            f"The armature '{obj.name}' is linked from '{obj.library.filepath}'; make a library override of it "
            "(Object > Library Override > Make), then try again."
        )
    if obj.mode == "EDIT" or obj.data.is_editmode:  # or another object that shares the bones
        raise HeroError(f"The armature '{obj.name}' is in Edit Mode; leave it, then try again.")
    if obj.animation_data is not None and obj.animation_data.use_tweak_mode:
        raise HeroError(
            f"An NLA strip of the armature '{obj.name}' is being tweaked; leave Tweak Mode (Tab in the Nonlinear "
            "Animation editor), then try again."
        )
    return obj


def read_rig(obj: bpy.types.Object, frame: float | None = None) -> Rig:
    """Rest data of an armature object as it stands in its scene now; nothing is changed.

    With ``frame`` an object that its own Action moves is taken where it stands at that frame, not where the scene
    happens to be: the same motion then gives the same keys whenever it is put on. Raises HeroError where the object
    cannot take an Action, or has no bones or a scale that is zero or negative.
    """
    check_writable(obj)
    if not obj.data.bones:
        raise HeroError(f"The armature '{obj.name}' has no bones; choose another armature.")
    bones = _parents_first(obj.data.bones)
    rows = {bone.name: row for row, bone in enumerate(bones)}
    return Rig(
        name=obj.name,
        names=tuple(rows),
        parents=np.array([rows[bone.parent.name] if bone.parent else -1 for bone in bones], np.int64),
        rest=np.array([bone.matrix_local for bone in bones], np.float64).reshape(-1, 4, 4),
        tails=np.array([bone.tail_local for bone in bones], np.float64).reshape(-1, 3),
        to_world=Y_UP @ np.array(_stand(obj, frame), np.float64),
        use_local_location=np.array([bone.use_local_location for bone in bones], bool),
        connected=np.array([bone.use_connect for bone in bones], bool),
        inherit_rotation=np.array([bone.use_inherit_rotation for bone in bones], bool),
        owned=np.isin(list(rows), sorted(_owned(obj))),
        limits=_limits(obj, list(rows)),
        object_axes=Y_UP[:3, :3] @ np.array(_above(obj, frame), np.float64)[:3, :3],
    )


def _parents_first(bones: Any) -> list[bpy.types.Bone]:
    ordered: list[bpy.types.Bone] = []
    waiting = [bone for bone in bones if bone.parent is None][::-1]
    while waiting:
        ordered.append(waiting.pop())
        waiting.extend(list(ordered[-1].children)[::-1])
    return ordered


def _owned(obj: bpy.types.Object) -> set[str]:
    """Names of the bones that a constraint or a driver sets."""
    owned: set[str] = set()
    for bone in obj.pose.bones:
        for constraint in bone.constraints:
            if constraint.type not in _OWNERS or constraint.mute or constraint.influence == 0.0:
                continue
            if not constraint.is_valid or getattr(constraint, "target", obj) is None:  # it moves nothing
                continue
            if constraint.type in {"IK", "SPLINE_IK"}:
                chain = [bone, *bone.parent_recursive]
                if constraint.type == "IK" and not constraint.use_tail:  # it bends what the bone hangs on
                    chain = chain[1:]
                owned.update(each.name for each in chain[: constraint.chain_count or None])
            else:
                owned.add(bone.name)
    drivers = obj.animation_data.drivers if obj.animation_data else ()
    for driver in drivers:
        found = re.match(r'pose\.bones\["(.+?)"\]\.(location|rotation_\w+)$', driver.data_path)
        if found is None or driver.mute:
            continue
        bone = obj.pose.bones.get(bpy.utils.unescape_identifier(found[1]))
        if bone is not None and found[2] in {"location", rotation_channel(bone.rotation_mode, _NO_TURN)[0]}:
            owned.add(bone.name)
    return owned


def unseen(obj: bpy.types.Object) -> dict[str, str]:
    """Bones whose place a constraint sets although they turn as they are keyed -> what there is to say of that."""
    found = {}
    for bone in obj.pose.bones:
        for each in bone.constraints:
            if each.type not in {"COPY_LOCATION", "FOLLOW_PATH"} or each.mute or each.target is None:
                continue
            if each.influence > 0 and not getattr(each, "use_offset", False):
                found[bone.name] = f"the way of '{bone.name}' is not seen, for the constraint '{each.name}' places it"
    return found


def _limits(obj: bpy.types.Object, names: list[str]) -> Array | None:
    """(B, 3, 2) radians from Limit Rotation constraints, or else from the IK limits; None where there are none."""
    limits = np.tile([-np.inf, np.inf], (len(names), 3, 1))
    for row, name in enumerate(names):
        bone = obj.pose.bones[name]
        for axis, letter in enumerate("xyz"):
            if getattr(bone, f"use_ik_limit_{letter}"):
                limits[row, axis] = getattr(bone, f"ik_min_{letter}"), getattr(bone, f"ik_max_{letter}")
        for each in bone.constraints:
            if each.type == "LIMIT_ROTATION" and not each.mute and each.influence > 0 and each.owner_space == "LOCAL":
                for axis, letter in enumerate("xyz"):
                    if getattr(each, f"use_limit_{letter}"):
                        limits[row, axis] = getattr(each, f"min_{letter}"), getattr(each, f"max_{letter}")
    return limits if np.isfinite(limits).any() else None


def _stand(obj: bpy.types.Object, frame: float | None) -> Matrix:
    """The object's matrix_world, with its own channels, and those of what it is parented to, as they are at ``frame``.

    It is worked out here as far as that goes: of an object that is hidden Blender does not know where it stands.
    """
    return _above(obj, frame) @ _own(obj, frame)


def _above(obj: bpy.types.Object, frame: float | None) -> Matrix:
    """What the object's own channels hang on in the world."""
    parent = obj.parent
    plain = parent is None or (obj.parent_type == "OBJECT" and parent.type in {"EMPTY", "MESH", "ARMATURE"})
    if not plain or any(not each.mute for each in obj.constraints) or obj.rigid_body is not None:
        return obj.matrix_world @ obj.matrix_basis.inverted_safe()
    return Matrix() if parent is None else _stand(parent, frame) @ obj.matrix_parent_inverse


def _own(obj: bpy.types.Object, frame: float | None) -> Matrix:
    """The object's matrix_basis, with the channels that its Action moves as they are at ``frame``."""
    channels = _object_channels(obj, frame)
    if not channels:
        return obj.matrix_basis
    at = {channel: channels.get(channel, tuple(getattr(obj, channel))) for channel in _PLACE}
    turn = Quaternion()
    if obj.rotation_mode == "QUATERNION":
        rotation = Quaternion(at["rotation_quaternion"]).normalized()
        turn = obj.delta_rotation_quaternion.normalized()
    elif obj.rotation_mode == "AXIS_ANGLE":
        rotation = Quaternion(at["rotation_axis_angle"][1:], at["rotation_axis_angle"][0])
    else:
        rotation = Euler(at["rotation_euler"], obj.rotation_mode).to_quaternion()
        turn = Euler(obj.delta_rotation_euler[:], obj.rotation_mode).to_quaternion()
    size = Vector(np.multiply(at["scale"], obj.delta_scale[:]).tolist())
    shift = Vector(np.add(at["location"], obj.delta_location[:]).tolist())
    return Matrix.LocRotScale(shift, turn @ rotation, size)


_PLACE = ("location", "rotation_euler", "rotation_quaternion", "rotation_axis_angle", "scale")


def _object_channels(obj: bpy.types.Object, frame: float | None) -> dict[str, tuple[float, ...]]:
    """Channels of the object itself that its Action moves, as they are at ``frame``."""
    data = obj.animation_data
    if frame is None or data is None or data.action is None:
        return {}
    found: dict[str, list[float]] = {}
    for curve in compat.fcurves_of(data.action, obj):
        if curve.data_path in _PLACE:
            values = found.setdefault(curve.data_path, list(getattr(obj, curve.data_path)))
            values[curve.array_index] = curve.evaluate(frame)
    return {channel: tuple(values) for channel, values in found.items()}


def write_action(
    obj: bpy.types.Object, keys: BoneKeys, name: str, frames: Array, curves: dict[str, Curves]
) -> bpy.types.Action:
    """A new Action, made the active one of the armature, slot bound. Its name is ``name`` or follows it.

    frames   (N,) where the poses of ``keys`` stand
    curves   bone name -> its keys, in the rotation mode that it has; ``OBJECT`` for the armature object
    Bones that the Action before has moved and that this one leaves alone go back to rest; the object goes back to where
    that had it at the first frame. Raises HeroError, with nothing written, where the object cannot take an Action.
    """
    check_writable(obj)
    bones = obj.pose.bones
    former = _object_channels(obj, float(frames[0]))
    action, place = compat.new_action(name, obj)
    try:
        for bone_name, curve in curves.items():
            for channel, values in curve.channels.items():
                slopes = curve.slopes[channel] if curve.slopes is not None else None
                reaches = curve.reaches[channel] if curve.reaches is not None else None
                path, group = channel, "Object Transforms"
                if bone_name != OBJECT:
                    path, group = bones[bone_name].path_from_id(channel), bone_name
                else:
                    values = values + np.array(former.get(channel) or obj.location[:], np.float64)
                _write_curves(place, path, group, curve.frames, values, slopes, reaches)
        moved = _channels_of(obj)
        for bone_name in dict.fromkeys((*keys.rotations, *keys.locations, *keys.still)):
            bone = bones[bone_name]
            channel, values = rotation_channel(bone.rotation_mode, _NO_TURN)
            rest = {channel: values[0], "location": np.zeros(3), "scale": np.ones(3)}
            keyed_here = curves[bone_name].channels if bone_name in curves else {}
            for channel, value in rest.items():
                # What was left by hand or by the Action before would bend the motion. Only a size set by hand stays.
                was = channel != "scale" and not np.allclose(getattr(bone, channel), value, atol=1e-6)
                if channel not in keyed_here and (was or (bone_name, channel) in moved):
                    _write_curves(place, bone.path_from_id(channel), bone_name, frames[:1], value[None])
        for (bone_name, setting), value in keys.settings.items():
            if setting.startswith("[") and bones[bone_name].get(setting[2:-2]) is None:
                continue  # a preset may know of more than this rig has
            path = bones[bone_name].path_from_id() + (setting if setting.startswith("[") else f".{setting}")
            _write_curves(place, path, bone_name, frames[:1], np.array([[value]]))
        keyed = {*keys.rotations, *keys.locations, *keys.still}
        for bone_name in {name for name, _ in moved} - keyed:
            bones[bone_name].matrix_basis.identity()
        for channel, stood in former.items():
            setattr(obj, channel, stood)
        compat.assign_action(obj, action)
    except BaseException:
        bpy.data.actions.remove(action)
        raise
    return action


def _channels_of(obj: bpy.types.Object) -> set[tuple[str, str]]:
    """Bones and those of their channels that the active Action moves."""
    data = obj.animation_data
    found = set()
    for curve in compat.fcurves_of(data.action if data else None, obj):
        match = re.match(r'pose\.bones\["(.+?)"\]\.(location|rotation_\w+|scale)$', curve.data_path)
        if match:
            found.add((bpy.utils.unescape_identifier(match[1]), match[2]))
    return {each for each in found if each[0] in obj.pose.bones}


def _write_curves(
    place: Any,
    path: str,
    group: str,
    frames: Array,
    values: Array,
    slopes: Array | None = None,
    reaches: Array | None = None,
) -> None:
    """One curve for each column of (K, C) values, all keys at once: keyframe_insert is 20 times slower.

    With (K, 2, C) ``slopes`` handles lie along them and reach over (K, 2, C) ``reaches`` frames, or without those over
    a third of the way to the next key. They are aligned where the slopes before and after a key are the same.
    """
    count = len(frames)
    automatic = slopes is None or count < 2
    kinds = np.full(count, _BEZIER, np.int32)
    handles = np.full(count, _AUTO_CLAMPED if automatic else _ALIGNED, np.int32)
    if slopes is not None and not automatic:
        corners = (slopes[:, 0] != slopes[:, 1]).any(-1)
        corners[[0, -1]] = False
        handles[corners] = _FREE
    points = np.empty((count, 2), np.float32)
    points[:, 0] = frames
    gaps = np.diff(frames) / 3 if count > 1 else np.ones(1)
    thirds = np.stack([np.append(gaps[:1], gaps), np.append(gaps, gaps[-1:])], 1)
    for index in range(values.shape[1]):
        points[:, 1] = values[:, index]
        curve = compat.new_fcurve(place, path, index, group)
        keys = curve.keyframe_points
        keys.add(count)
        keys.foreach_set("co", points.ravel())
        keys.foreach_set("interpolation", kinds)
        keys.foreach_set("handle_left_type", handles)
        keys.foreach_set("handle_right_type", handles)
        if slopes is not None and not automatic:
            for number, (side, sign) in enumerate((("left", -1), ("right", 1))):
                reach = sign * (reaches[:, number, index] if reaches is not None else thirds[:, number])
                ends = np.stack([frames + reach, values[:, index] + slopes[:, number, index] * reach], -1)
                keys.foreach_set(f"handle_{side}", ends.astype(np.float32).ravel())
        curve.update()
