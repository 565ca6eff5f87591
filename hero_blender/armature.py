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

from hero_core.errors import HeroError
from hero_core.retarget import BoneKeys, Rig
from hero_core.retarget.rotations import EULER_ORDERS, to_axis_angle, to_euler

from . import compat

Array = npt.NDArray[Any]

# Blender (x right, y away, z up) → hero_core (x, up, towards the viewer): what faces -Y there faces +Z here.
_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])

# Constraints that take a bone out of the animator's hands; limits, for one, leave it there.
_OWNERS = {
    "COPY_ROTATION", "COPY_TRANSFORMS", "DAMPED_TRACK", "LOCKED_TRACK", "TRACK_TO", "STRETCH_TO", "IK", "SPLINE_IK",
    "ARMATURE", "TRANSFORM", "ACTION", "PIVOT",
}  # fmt: skip
_BEZIER, _AUTO_CLAMPED = 2, 4  # values of the enums as ``foreach_set`` takes them


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
    if obj.mode == "EDIT":
        raise HeroError(f"The armature '{obj.name}' is in Edit Mode; leave it, then try again.")
    return obj


def read_rig(obj: bpy.types.Object) -> Rig:
    """Rest data of an armature object as it stands in its scene now; nothing is changed.

    Raises HeroError where the object cannot take an Action, or has no bones or a scale that is zero or negative.
    """
    check_writable(obj)
    bones = _parents_first(obj.data.bones)
    rows = {bone.name: row for row, bone in enumerate(bones)}
    return Rig(
        name=obj.name,
        names=tuple(rows),
        parents=np.array([rows[bone.parent.name] if bone.parent else -1 for bone in bones], np.int64),
        rest=np.array([bone.matrix_local for bone in bones], np.float64).reshape(-1, 4, 4),
        tails=np.array([bone.tail_local for bone in bones], np.float64).reshape(-1, 3),
        to_world=_Y_UP @ np.array(obj.matrix_world, np.float64),
        use_local_location=np.array([bone.use_local_location for bone in bones], bool),
        connected=np.array([bone.use_connect for bone in bones], bool),
        inherit_rotation=np.array([bone.use_inherit_rotation for bone in bones], bool),
        owned=np.isin(list(rows), sorted(_owned(obj))),
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
    owned = set()
    for bone in obj.pose.bones:
        for constraint in bone.constraints:
            if constraint.type not in _OWNERS or constraint.mute or constraint.influence == 0.0:
                continue
            owned.add(bone.name)
            if constraint.type in {"IK", "SPLINE_IK"}:
                chain = [bone, *bone.parent_recursive]
                owned.update(each.name for each in chain[: constraint.chain_count or None])
    drivers = obj.animation_data.drivers if obj.animation_data else ()
    for driver in drivers:
        found = re.match(r'pose\.bones\["(.+?)"\]\.(location|rotation_\w+)$', driver.data_path)
        if found:
            owned.add(bpy.utils.unescape_identifier(found[1]))
    return owned


def write_action(
    obj: bpy.types.Object, keys: BoneKeys, name: str, first_frame: float, frames_per_pose: float
) -> bpy.types.Action:
    """A new Action with all keys, made the active one of the armature, slot bound. Its name is ``name`` or follows it.

    The poses stand at first_frame + i * frames_per_pose, in the rotation mode that each bone has. Bones that the
    Action before has moved and that this one leaves alone go back to rest. Raises HeroError, with nothing written,
    where the object cannot take an Action.
    """
    check_writable(obj)
    bones = obj.pose.bones
    frames = first_frame + frames_per_pose * np.arange(keys.poses)
    action, place = compat.new_action(name, obj)
    try:
        for bone_name, quaternions in keys.rotations.items():
            channel, values = _rotation_channel(bones[bone_name].rotation_mode, quaternions)
            _write_curves(place, bones[bone_name].path_from_id(channel), bone_name, frames, values)
        for bone_name, values in keys.locations.items():
            _write_curves(place, bones[bone_name].path_from_id("location"), bone_name, frames, values)
        for bone_name in keys.still:
            bone = bones[bone_name]
            if not np.allclose(np.array(bone.matrix_basis), np.eye(4), atol=1e-6) or _moved_by(obj, {bone_name}):
                channel, values = _rotation_channel(bone.rotation_mode, np.array([[1.0, 0.0, 0.0, 0.0]]))
                _write_curves(place, bone.path_from_id(channel), bone_name, frames[:1], values)
                _write_curves(place, bone.path_from_id("location"), bone_name, frames[:1], np.zeros((1, 3)))
        for (bone_name, setting), value in keys.settings.items():
            path = bones[bone_name].path_from_id() + (setting if setting.startswith("[") else f".{setting}")
            _write_curves(place, path, bone_name, frames[:1], np.array([[value]]))
    except BaseException:
        bpy.data.actions.remove(action)
        raise
    keyed = {*keys.rotations, *keys.locations, *keys.still}
    for bone_name in _moved_by(obj, None) - keyed:
        bones[bone_name].matrix_basis.identity()
    compat.assign_action(obj, action)
    return action


def _moved_by(obj: bpy.types.Object, among: set[str] | None) -> set[str]:
    """Bones that the active Action moves."""
    data = obj.animation_data
    found = set()
    for curve in compat.fcurves_of(data.action if data else None, obj):
        match = re.match(r'pose\.bones\["(.+?)"\]\.(?:location|rotation_\w+|scale)$', curve.data_path)
        if match:
            found.add(bpy.utils.unescape_identifier(match[1]))
    found &= set(obj.pose.bones.keys())
    return found if among is None else found & among


def _rotation_channel(mode: str, quaternions: Array) -> tuple[str, Array]:
    """Name of the channel of a rotation mode and (N, 3 or 4) values."""
    if mode in EULER_ORDERS:
        return "rotation_euler", to_euler(quaternions, mode)
    if mode == "AXIS_ANGLE":
        return "rotation_axis_angle", to_axis_angle(quaternions)
    return "rotation_quaternion", quaternions


def _write_curves(place: Any, path: str, group: str, frames: Array, values: Array) -> None:
    """One curve for each column of (N, C) values, all keys at once: keyframe_insert is 20 times slower."""
    count = len(frames)
    kinds = np.full(count, _BEZIER, np.int32)
    handles = np.full(count, _AUTO_CLAMPED, np.int32)
    points = np.empty((count, 2), np.float32)
    points[:, 0] = frames
    for index in range(values.shape[1]):
        points[:, 1] = values[:, index]
        curve = compat.new_fcurve(place, path, index, group)
        curve.keyframe_points.add(count)
        curve.keyframe_points.foreach_set("co", points.ravel())
        curve.keyframe_points.foreach_set("interpolation", kinds)
        curve.keyframe_points.foreach_set("handle_left_type", handles)
        curve.keyframe_points.foreach_set("handle_right_type", handles)
        curve.update()
