# SPDX-License-Identifier: GPL-3.0-or-later
"""A posed rig back to 22 joints: the way of the solve backwards, so that a reaction can follow what a character does.

Limbs have the directions that their bones show. Trunk, collars, neck, head and feet differ in shape from one skeleton
to the next, so they come from how far their bones are turned from rest, put on the posture at ease that the solve
takes them to have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..motion import JOINTS
from .mapping import BoneMap
from .rig import Rig
from .rotations import slerp, unit
from .solve import _FLAT_FOOT, _LIMBS, _SIDES, _Rest

Array = npt.NDArray[Any]

# Metres in the frame of pelvis or chest (left, up, forward): medians over 3,360 poses that the shipped model makes,
# both sides alike.
_PELVIS = {"left_hip": (0.082, -0.070, 0.006), "right_hip": (-0.082, -0.070, 0.006), "spine1": (0.0, 0.131, 0.0)}
_CHEST = {"left_collar": (0.068, 0.123, -0.004), "right_collar": (-0.068, 0.123, -0.004), "neck": (0.0, 0.221, 0.0)}
_SHOULDER, _HEAD = (0.123, 0.012, -0.001), (0.0, 0.101, 0.003)
_SPINE2, _SPINE3 = 0.143, 0.057
_BONES = {"arm": (0.260, 0.268), "leg": (0.392, 0.429)}  # HumanML3D's reference skeleton
_FOOT = 0.146


def pose_of(rig: Rig, bones: BoneMap, matrices: Array) -> Array:
    """(22, 3) joints in metres, Y up, of a body of HumanML3D's size that stands where the rig does and as it does.

    matrices: (B, 4, 4) pose matrices of the rig's bones in armature space, as Blender shows them. Distances from the
    origin of the scene are scaled like the body.
    """
    rest = _Rest(rig, bones)
    world = unit(rig.to_world[:3, :3].T).T
    rotations = matrices[:, :3, :3] / np.linalg.norm(matrices[:, :3, :3], axis=1, keepdims=True)
    turns = rotations @ np.swapaxes(rig.rotations, -1, -2)  # (B, 3, 3) away from rest, armature space

    def frame(joint: str, otherwise: Array) -> Array:
        rows = bones.segments.get(joint, ())
        return world @ turns[rows[-1]] @ rest.body if rows else otherwise

    def head(joint: str) -> Array:
        if joint in bones.joints:
            point = matrices[bones.joints[joint], :3, 3]
        else:  # where the bone above ends
            above = bones.joints[joint.replace("wrist", "elbow").replace("ankle", "knee")]
            point = matrices[above, :3, 3] + turns[above] @ (rig.tails[above] - rig.heads[above])
        return np.asarray((rig.to_world @ np.append(point, 1.0))[:3])

    pelvis = world @ turns[bones.joints["pelvis"]] @ rest.body
    chest = world @ turns[bones.spine[-1]] @ rest.body if bones.spine else pelvis
    middle = slerp(pelvis[None], chest[None], 0.5)[0]
    size = sum(_BONES["leg"]) / rest.leg
    at = {"pelvis": head("pelvis") * size}
    for joint, offset in _PELVIS.items():
        at[joint] = at["pelvis"] + pelvis @ offset
    at["spine2"] = at["spine1"] + _SPINE2 * middle[:, 1]
    at["spine3"] = at["spine2"] + _SPINE3 * chest[:, 1]
    for joint, offset in _CHEST.items():
        at[joint] = at["spine3"] + chest @ offset
    at["head"] = at["neck"] + frame("head", frame("neck", chest)) @ _HEAD
    for number, side in enumerate(_SIDES):
        collar = frame(f"{side}_collar", chest)
        at[f"{side}_shoulder"] = at[f"{side}_collar"] + collar @ (np.array(_SHOULDER) * [1 - 2 * number, 1, 1])
        for kind, root, joint, end in _LIMBS:
            points = [head(f"{side}_{name}") for name in (root, joint, end)]
            upper, lower = unit(points[1] - points[0]), unit(points[2] - points[1])
            at[f"{side}_{joint}"] = at[f"{side}_{root}"] + _BONES[kind][0] * upper
            at[f"{side}_{end}"] = at[f"{side}_{joint}"] + _BONES[kind][1] * lower
        ankle = bones.segments.get(f"{side}_ankle", ())
        sole = world @ turns[ankle[0]] @ rest.feet[side] if ankle else pelvis
        foot = np.cos(_FLAT_FOOT) * sole[:, 2] - np.sin(_FLAT_FOOT) * sole[:, 1]
        at[f"{side}_foot"] = at[f"{side}_ankle"] + _FOOT * foot
    return np.stack([at[name] for name in JOINTS])
