# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers of a retarget, measured on the rig as Blender evaluates it, with all its constraints, frame by frame."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.motion import Motion
from hero_core.retarget import Rig
from hero_core.retarget.contacts import find
from hero_core.retarget.frames import between, whole_frames
from hero_core.retarget.measure import cost, measure
from hero_core.retarget.options import Options

from . import armature, compat, rigfile

Array = npt.NDArray[Any]


def measured(
    obj: bpy.types.Object,
    motion: Motion,
    take: int,
    report: dict[str, Any],
    scene: bpy.types.Scene,
    options: Options,
) -> dict[str, Any]:
    """What the rig shows of a take whose Action is the active one; ``report`` is that of ``retarget_motion``.

    It is looked at where it is seen, on the whole frames of the scene; so is the motion, between its poses on cubics.
    The scene comes back to the frame at which it was. With few keys the motion is put on once more with all keys, for
    what the reduction costs; that Action is removed again.
    """
    former, at = compat.assigned_action(obj), scene.frame_current_final
    joints = motion.take(take)
    poses = report["first_frame"] + report["frames_per_pose"] * np.arange(len(joints))
    frames = whole_frames(poses, False)
    contacts = {
        name: [(int(first - frames[0]), int(last - frames[0]) + 1) for first, last in runs]
        for name, runs in (report["contacts"] or {}).items()
    }
    if not contacts:
        places = np.clip((frames - report["first_frame"]) / report["frames_per_pose"], 0, len(joints) - 1)
        contacts = find(joints, rigfile.contacts_of(motion, take)).at(places).named()
    joints = between(poses, joints.astype(np.float64), frames)
    rig = armature.read_rig(obj, report["first_frame"])
    bones = {joint: bone for joint, bone in report["map"].items() if bone}
    rest = {joint: (rig.to_world @ np.append(rig.heads[rig.index[bone]], 1.0))[:3] for joint, bone in bones.items()}
    floor = float(rig.to_world[1, 3])
    rest = {joint: point - [0.0, floor, 0.0] for joint, point in rest.items()}
    try:
        shown, world, local = _played(obj, scene, bones, frames)
        for points in shown.values():
            points[:, 1] -= floor
        standing = {**shown, **_heels(rig, rest, shown, world, list(dict.fromkeys(bones.values())), bones)}
        rate = motion.fps * report["frames_per_pose"]  # frames for each second of the motion
        numbers = measure(joints, standing, world, rest, report["scale"], contacts, options.in_place, rate)
        share = report["keys"]["written"] / max(report["keys"]["every_frame"], 1)
        numbers["keys"] = {**report["keys"], "share": share}
        if options.reduce:
            every, every_local = _with_all_keys(obj, motion, take, report, scene, options, bones, frames)
            for points in every.values():
                points[:, 1] -= floor
            numbers["keys"]["cost"] = cost(shown, every, local, every_local, report["size"])
    finally:
        compat.assign_action(obj, *former)
        scene.frame_set(int(at // 1), subframe=at % 1)
    numbers["mapped"] = len(bones)
    numbers["milliseconds"] = {stage: 1000 * seconds for stage, seconds in report["seconds"].items()}
    return numbers


def _heels(
    rig: Rig, rest: dict[str, Array], shown: dict[str, Array], world: Array, names: list[str], bones: dict[str, str]
) -> dict[str, Array]:
    """ "left_heel", "right_heel" -> (N, 3) the point of the sole that is right below the ankle at rest."""
    heels = {}
    for side in ("left", "right"):
        ankle = f"{side}_ankle"
        if ankle in bones:
            at_rest = _rotation(rig.to_world @ rig.rest[rig.index[bones[ankle]]])
            # The floor is at the armature's origin where the foot stands above that, else at the foot's lowest point.
            foot = [row for row in range(len(rig.names)) if rig.index[bones[ankle]] in rig.line(row)]
            points = np.concatenate([rig.heads[foot], rig.tails[foot]]) @ rig.to_world[1, :3]
            level, lowest = float(rest[ankle][1]), float(points.min())
            down = np.array([0.0, (0.0 if 0.0 <= lowest < level else lowest) - level, 0.0])
            heels[f"{side}_heel"] = shown[ankle] + world[:, names.index(bones[ankle])] @ (at_rest.T @ down)
    return heels


def _with_all_keys(
    obj: bpy.types.Object,
    motion: Motion,
    take: int,
    report: dict[str, Any],
    scene: bpy.types.Scene,
    options: Options,
    bones: dict[str, str],
    frames: Array,
) -> tuple[dict[str, Array], Array]:
    """Where the rig is, and its turns, with a key on every frame; as ``_played``."""
    dense = rigfile.retarget_motion(
        obj, motion, take, first_frame=report["first_frame"], name="HERO all keys", scene=scene,
        options=replace(options, reduce=False),
    )  # fmt: skip
    try:
        every, _, local = _played(obj, scene, bones, frames)
    finally:
        bpy.data.actions.remove(bpy.data.actions[dense["action"]])
    return every, local


def _played(
    obj: bpy.types.Object, scene: bpy.types.Scene, bones: dict[str, str], frames: Array
) -> tuple[dict[str, Array], Array, Array]:
    """Joint -> (F, 3) heads in the scene, Y up, (F, B, 3, 3) orientations there, and those against the parent."""
    names = list(dict.fromkeys(bones.values()))
    matrices = np.empty((len(frames), len(names), 4, 4))
    parents = np.empty((len(frames), len(names), 4, 4))
    world = np.empty((len(frames), 4, 4))
    for pose, frame in enumerate(frames):
        scene.frame_set(int(frame))
        shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get())
        world[pose] = armature.Y_UP @ np.array(shown.matrix_world)
        for number, name in enumerate(names):
            bone = shown.pose.bones[name]
            matrices[pose, number] = bone.matrix
            parents[pose, number] = bone.parent.matrix if bone.parent else np.eye(4)
    placed = world[:, None] @ matrices
    heads = {joint: placed[:, names.index(bone), :3, 3].copy() for joint, bone in bones.items()}
    local = np.linalg.inv(_rotation(parents)) @ _rotation(matrices)
    return heads, _rotation(placed), local


def _rotation(matrices: Array) -> Array:
    """(..., 3, 3) the rotation of matrices with scale."""
    columns = matrices[..., :3, :3]
    return np.asarray(columns / np.linalg.norm(columns, axis=-2, keepdims=True))
