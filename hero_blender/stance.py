# SPDX-License-Identifier: GPL-3.0-or-later
"""How a character stands at a frame, read from the rig as Blender shows it; nothing of the scene is changed by it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.retarget.read import pose_of

from . import armature, bone_map, rigify

Array = npt.NDArray[Any]

_CHANNELS = ("location", "rotation_quaternion", "rotation_euler", "rotation_axis_angle", "scale")
Pose = dict[str, tuple[dict[str, Any], dict[str, Any]]]


@dataclass(frozen=True)
class Stance:
    """joints (22, 3) as ``pose_of`` gives them; hips (3,) where they are in the scene, Y up."""

    joints: Array
    hips: Array


def read_stance(obj: bpy.types.Object, scene: bpy.types.Scene, frame: int) -> Stance:
    """How the character stands at a frame of the scene, as it is shown there. Raises HeroError as the bone map does."""
    with at_frame(scene, frame):
        rig = armature.read_rig(obj)
        shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get())
        world = armature.Y_UP @ np.array(shown.matrix_world, np.float64)
        matrices = np.array([shown.pose.bones[name].matrix for name in rig.names], np.float64).reshape(-1, 4, 4)
    bones = bone_map.find(obj, rig)
    inner = rigify.skeleton(rig) if rigify.is_control_rig(obj) else rig
    matrices = matrices[[rig.index[name] for name in inner.names]]
    pelvis = matrices[bones.joints["pelvis"], :3, 3]
    return Stance(pose_of(replace(inner, to_world=world), bones, matrices), (world @ np.append(pelvis, 1.0))[:3])


@contextlib.contextmanager
def at_frame(scene: bpy.types.Scene, frame: int) -> Iterator[None]:
    """The scene at a frame for a moment. Poses that were set and not keyed are there again afterwards."""
    now = scene.frame_current_final
    if now == frame:
        bpy.context.view_layer.update()
        yield
        return
    kept = [(each, pose_of_object(each)) for each in scene.objects if each.type == "ARMATURE"]
    try:
        scene.frame_set(frame)
        yield
    finally:
        scene.frame_set(int(now // 1), subframe=now % 1)
        for each, pose in kept:
            put_back(each, pose)


def pose_of_object(obj: bpy.types.Object) -> Pose:
    """What an evaluated action overwrites: transforms of the bones, and their properties that are numbers."""
    return {
        bone.name: (
            {channel: tuple(getattr(bone, channel)) for channel in _CHANNELS},
            {key: value for key, value in bone.items() if isinstance(value, (bool, int, float))},
        )
        for bone in (obj.pose.bones if obj.pose else ())
    }


def put_back(obj: bpy.types.Object, pose: Pose) -> None:
    """Give an armature the pose of ``pose_of_object`` again, to the bit; what is as it was is not touched."""
    for name, (channels, properties) in pose.items():
        bone = obj.pose.bones.get(name)
        if bone is None:
            continue
        for channel, value in channels.items():
            if tuple(getattr(bone, channel)) != value:
                setattr(bone, channel, value)
        for key, value in properties.items():
            if bone.get(key) != value:
                bone[key] = value
