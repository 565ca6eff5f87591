# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast joints become keys, against a skeleton fit and a key writer as programs of this field do them.

    python -m tests.benchmarks.bench_retarget        (from the project's root; needs bpy)

Both sides run in turn in one process; each line is a ratio of medians. The plain fit aligns each joint with the
directions to its children, 100 times over the whole body, with a fresh forward kinematics each time, as the official
program does to get from joints to a skeleton (its limbs are aimed but not twisted). The plain writer calls
``keyframe_insert`` for each bone and frame.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))

import bpy
from skeletons import MIXAMO, rest_points, tails_of, walk

from hero_blender import armature, rigfile
from hero_core.motion import JOINTS, PARENTS, Motion
from hero_core.retarget import BoneKeys, map_bones, solve
from hero_core.retarget.options import Options
from hero_core.retarget.reduce import every_pose

from .bench_model import interleaved, report

Array = npt.NDArray[Any]
FRAMES, BONES, ITERATIONS = 196, 60, 100


def multiply(a: Array, b: Array) -> Array:
    """(..., 4) quaternion products, (w, x, y, z)."""
    aw, bw, av, bv = a[..., :1], b[..., :1], a[..., 1:], b[..., 1:]
    w = aw * bw - np.sum(av * bv, -1, keepdims=True)
    return np.concatenate([w, aw * bv + bw * av + np.cross(av, bv)], -1)


def rotate(q: Array, v: Array) -> Array:
    t = 2 * np.cross(q[..., 1:], v)
    return np.asarray(v + q[..., :1] * t + np.cross(q[..., 1:], t))


def between(a: Array, b: Array) -> Array:
    """Unit quaternions that take directions ``a`` to ``b``."""
    size = np.sqrt(np.sum(a * a, -1) * np.sum(b * b, -1))[..., None]
    q = np.concatenate([size + np.sum(a * b, -1, keepdims=True), np.cross(a, b)], -1)
    return np.asarray(q / np.linalg.norm(q, axis=-1, keepdims=True))


def plain_fit(joints: Array, offsets: Array, iterations: int = ITERATIONS) -> Array:
    """(N, 22, 4) local rotations of a skeleton with these offsets (22, 3), fitted to (N, 22, 3) joints."""
    children = [[child for child, parent in enumerate(PARENTS) if parent == row] for row in range(22)]
    local = np.zeros((len(joints), 22, 4))
    local[..., 0] = 1
    for _ in range(iterations):
        for row in range(22):
            if not children[row]:
                continue
            turns, points = forward(joints[:, 0], local, offsets)
            aims = [
                between(points[:, child] - points[:, row], joints[:, child] - joints[:, row]) for child in children[row]
            ]
            mean = sum(aims)
            mean = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
            inverse = turns[:, PARENTS[row]] * [1, -1, -1, -1] if row else np.array([1.0, 0, 0, 0])
            local[:, row] = multiply(inverse, multiply(mean, turns[:, row]))
    return local


def forward(root: Array, local: Array, offsets: Array) -> tuple[Array, Array]:
    turns, points = np.empty_like(local), np.empty((*local.shape[:2], 3))
    turns[:, 0], points[:, 0] = local[:, 0], root
    for row in range(1, 22):
        parent = PARENTS[row]
        turns[:, row] = multiply(turns[:, parent], local[:, row])
        points[:, row] = points[:, parent] + rotate(turns[:, parent], offsets[row])
    return turns, points


def build() -> bpy.types.Object:
    """The synthetic character with fingers: 60 bones, A-pose."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    data = bpy.data.armatures.new("Walker")
    obj = bpy.data.objects.new("Walker", data)
    bpy.context.scene.collection.objects.link(obj)
    bpy.context.view_layer.objects.active = obj
    bpy.ops.object.mode_set(mode="EDIT")
    heads = rest_points(45.0)
    tails = tails_of(heads)
    for row, joint in enumerate(JOINTS):
        bone = data.edit_bones.new(MIXAMO[joint])
        bone.head, bone.tail = heads[joint], tails[joint]
        if row:
            bone.parent = data.edit_bones[MIXAMO[JOINTS[PARENTS[row]]]]
    for number in range(BONES - 22):
        bone = data.edit_bones.new(f"Finger{number}")
        bone.head, bone.tail = tails["left_wrist"], tails["left_wrist"] + np.array([0.02, 0, 0])
        bone.parent = data.edit_bones["LeftHand" if number % 2 else "RightHand"]
    bpy.ops.object.mode_set(mode="OBJECT")
    bpy.context.view_layer.update()
    return obj


def plain_write(obj: bpy.types.Object, keys: BoneKeys) -> None:
    """Set the pose and insert keys, bone by bone and frame by frame."""
    obj.animation_data_clear()
    for frame in range(keys.poses):
        for name, values in keys.rotations.items():
            obj.pose.bones[name].rotation_quaternion = values[frame]
            obj.pose.bones[name].keyframe_insert("rotation_quaternion", frame=frame + 1)
        for name, values in keys.locations.items():
            obj.pose.bones[name].location = values[frame]
            obj.pose.bones[name].keyframe_insert("location", frame=frame + 1)


def clear() -> None:
    for action in list(bpy.data.actions):
        bpy.data.actions.remove(action)


def main() -> None:
    obj = build()
    joints = walk(FRAMES)
    motion = Motion(joints[None], None, np.array([FRAMES]))
    rig = armature.read_rig(obj)
    bones = map_bones(rig)
    keys = solve(joints, rig, bones)
    print(f"bpy {bpy.app.version_string}, {len(rig.names)} bones, {FRAMES} frames, {len(keys.rotations)} bones keyed")

    rest = walk(1, bend=0.0)[0]
    offsets = np.array([rest[row] - rest[max(parent, 0)] for row, parent in enumerate(PARENTS)])
    fitted = forward(joints[:, 0], plain_fit(joints, offsets), offsets)[1]
    print(f"plain fit leaves {np.linalg.norm(fitted - joints, axis=-1).mean() * 1000:.1f} mm mean joint error")

    fit = interleaved({"plain": lambda: plain_fit(joints, offsets), "ours": lambda: solve(joints, rig, bones)}, 3)
    report("solve", fit, {})

    frames, every = 1.0 + np.arange(FRAMES), Options(reduce=False)

    def write() -> None:
        armature.write_action(obj, keys, "take", frames, every_pose(keys, rig, {}, frames))
        clear()

    writing = interleaved({"plain": lambda: plain_write(obj, keys), "ours": write}, 3)
    report("write keys", writing, {})
    clear()

    def whole(options: Options) -> None:
        rigfile.retarget_motion(obj, motion, options=options)
        clear()

    ours = interleaved({"every": lambda: whole(every), "few": lambda: whole(Options())}, 15)
    wall, cpu = ours["every"]
    plainly = fit["plain"][0] + writing["plain"][0], fit["plain"][1] + writing["plain"][1]
    report("joints to keys", {"plain": plainly, "ours": (wall, cpu)}, {})
    print(f"  joints to keys {wall * 1e3:.1f} ms, on the processor {cpu * 1e3:.1f} ms (to reach: under 60 ms)")
    print(f"  few keys {ours['few'][0] * 1e3:.1f} ms, on the processor {ours['few'][1] * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # Blender's own tear-down may hang
