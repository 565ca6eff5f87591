# SPDX-License-Identifier: GPL-3.0-or-later
"""A walking motion and a rig with Mixamo's names, made from formulas: what retargeting tests need everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hero_core.motion import JOINTS, PARENTS
from hero_core.retarget import Rig
from hero_core.retarget.rotations import basis, to_matrix

Array = npt.NDArray[Any]
J = {name: row for row, name in enumerate(JOINTS)}

# HumanML3D's own bone lengths, and a human who stands at ease with the arms aside; metres, Y up, facing +Z.
_STAND = {
    "pelvis": (0, 0.93, 0), "left_hip": (0.06, -0.08, 0), "right_hip": (-0.06, -0.08, 0), "spine1": (0, 0.13, 0),
    "left_knee": (0.02, -0.39, 0), "right_knee": (-0.02, -0.39, 0), "spine2": (0, 0.14, 0),
    "left_ankle": (0, -0.43, 0), "right_ankle": (0, -0.43, 0), "spine3": (0, 0.057, 0),
    "left_foot": (0.02, -0.06, 0.13), "right_foot": (-0.02, -0.06, 0.13), "neck": (0, 0.22, 0),
    "left_collar": (0.06, 0.12, 0), "right_collar": (-0.06, 0.12, 0), "head": (0, 0.1, 0.02),
    "left_shoulder": (0.12, 0.03, 0), "right_shoulder": (-0.12, 0.03, 0), "left_elbow": (0.26, 0, 0),
    "right_elbow": (-0.26, 0, 0), "left_wrist": (0.27, 0, 0), "right_wrist": (-0.27, 0, 0),
}  # fmt: skip

MIXAMO = {
    "pelvis": "Hips", "left_hip": "LeftUpLeg", "right_hip": "RightUpLeg", "spine1": "Spine", "left_knee": "LeftLeg",
    "right_knee": "RightLeg", "spine2": "Spine1", "left_ankle": "LeftFoot", "right_ankle": "RightFoot",
    "spine3": "Spine2", "left_foot": "LeftToeBase", "right_foot": "RightToeBase", "neck": "Neck",
    "left_collar": "LeftShoulder", "right_collar": "RightShoulder", "head": "Head", "left_shoulder": "LeftArm",
    "right_shoulder": "RightArm", "left_elbow": "LeftForeArm", "right_elbow": "RightForeArm",
    "left_wrist": "LeftHand", "right_wrist": "RightHand",
}  # fmt: skip


def about(axis: str, degrees: Array | float) -> Array:
    """(..., 3, 3) rotation about x, y or z."""
    half = np.radians(np.asarray(degrees, float)) / 2
    q = np.zeros((*half.shape, 4))
    q[..., 0], q[..., 1 + "xyz".index(axis)] = np.cos(half), np.sin(half)
    return to_matrix(q)


def walk(count: int = 60, heading: float = 0.0, bend: float = 1.0) -> Array:
    """(N, 22, 3) a walk at 20 fps by forward kinematics; ``bend`` 0 keeps knees and elbows straight.

    ``heading`` in degrees about the vertical; 0 faces +Z.
    """
    phase = 2 * np.pi * np.arange(count) / 20.0
    turns = {name: np.broadcast_to(np.eye(3), (count, 3, 3)) for name in JOINTS}
    sway = about("y", 6 * np.sin(phase)) @ about("z", 3 * np.cos(phase))
    turns["pelvis"] = about("y", np.full(count, heading)) @ sway
    turns["spine2"] = about("y", -10 * np.sin(phase)) @ about("x", np.full(count, 4.0))
    turns["neck"] = about("x", 5 * np.cos(phase))
    for side, sign, offset in (("left", 1, 0.0), ("right", -1, np.pi)):
        swing = np.sin(phase + offset)
        turns[f"{side}_hip"] = about("x", -28 * swing) @ about("z", np.full(count, 3.0 * sign))
        turns[f"{side}_knee"] = about("x", bend * (8 + 50 * np.clip(np.cos(phase + offset), 0, 1)))
        turns[f"{side}_ankle"] = about("x", -8 + 10 * swing)
        turns[f"{side}_shoulder"] = about("x", 30 * swing) @ about("z", np.full(count, -70.0 * sign))
        turns[f"{side}_elbow"] = about("y", -sign * bend * (15 + 25 * np.clip(-swing, 0, 1)))
    joints = np.zeros((count, 22, 3))
    world = {}
    for row, name in enumerate(JOINTS):
        offset = np.array(_STAND[name])
        if row == 0:
            joints[:, 0] = offset
            world[row] = turns[name]
            continue
        above = PARENTS[row]
        joints[:, row] = joints[:, above] + world[above] @ offset
        world[row] = world[above] @ turns[name]
    ahead = about("y", heading)[:, 2]
    joints += (np.arange(count) / 20.0 * 1.2)[:, None, None] * ahead
    joints[..., 1] -= joints[:, [10, 11], 1].min(axis=1)[:, None]
    return joints


def rest_points(arm_angle: float = 0.0) -> dict[str, Array]:
    """Rest heads of the rig (armature space, Z up, facing -Y), arms ``arm_angle`` degrees below the horizontal."""
    points: dict[str, Array] = {}
    for row, name in enumerate(JOINTS):
        offset = np.array(_STAND[name], float)
        side = 1 if name.startswith("left") else -1
        if name.endswith(("elbow", "wrist")):
            offset = about("z", -side * arm_angle) @ offset
        if name.endswith("knee"):
            offset = about("x", -3.0) @ offset
        if name.endswith("elbow"):
            offset = about("y", side * 3.0) @ offset
        points[name] = offset + (points[JOINTS[PARENTS[row]]] if row else 0)
    return {name: np.array([p[0], -p[2], p[1]]) for name, p in points.items()}


def tails_of(points: dict[str, Array]) -> dict[str, Array]:
    """Where each bone ends: at its main child, or a little further on."""
    tails = {}
    for row, name in enumerate(JOINTS):
        children = [JOINTS[c] for c, p in enumerate(PARENTS) if p == row]
        main = next((c for c in children if c.startswith("spine") or c == "neck"), children[0] if children else None)
        tails[name] = points[main] if main else points[name] + (points[name] - points[JOINTS[PARENTS[row]]]) * 0.4
    return tails


def rig(
    arm_angle: float = 0.0,
    rolls: Array | None = None,
    size: float = 1.0,
    world: Array | None = None,
    prefix: str = "mixamorig:",
    local: Array | None = None,
) -> Rig:
    """The synthetic rig as plain data.

    rolls   (22,) degrees by which each bone is rolled about itself
    size    armature units in a metre
    world   (4, 4) Blender's matrix_world; identity if not given
    local   (22,) use_local_location
    """
    points = {name: point * size for name, point in rest_points(arm_angle).items()}
    tails = {name: point * size for name, point in tails_of(rest_points(arm_angle)).items()}
    rest = np.tile(np.eye(4), (22, 1, 1))
    for row, name in enumerate(JOINTS):
        along = tails[name] - points[name]
        other = np.array([0.0, 0, 1]) if abs(along[2]) < 0.9 * np.linalg.norm(along) else np.array([0.0, -1, 0])
        frame = basis(along, other)[:, [1, 0, 2]] * [1, 1, -1]  # the bone points along its Y
        turn = about("y", 0.0 if rolls is None else float(rolls[row]))
        rest[row, :3, :3] = frame @ turn
        rest[row, :3, 3] = points[name]
    y_up = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    return Rig(
        name="Walker",
        names=tuple(prefix + MIXAMO[name] for name in JOINTS),
        parents=np.array(PARENTS),
        rest=rest,
        tails=np.array([tails[name] for name in JOINTS]),
        to_world=y_up @ (np.eye(4) if world is None else world),
        use_local_location=np.ones(22, bool) if local is None else local,
        connected=np.zeros(22, bool),
        inherit_rotation=np.ones(22, bool),
        owned=np.zeros(22, bool),
    )
