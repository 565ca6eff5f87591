# SPDX-License-Identifier: GPL-3.0-or-later
"""Rigs with an FK chain, an IK chain and a chain that copies either: what the switch is at is moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skeletons import J, walk

from hero_core.motion import Motion
from hero_core.retarget.options import Options
from hero_core.retarget.rotations import unit

bpy = pytest.importorskip("bpy")

from characters import mixamo, rest_angle  # noqa: E402

from hero_blender import bone_map, compat, rigfile  # noqa: E402

POSES = 24
NAMES = {
    "Hips": "hips", "Spine": "spine", "Spine1": "spine.001", "Spine2": "chest", "Neck": "neck", "Head": "head",
    "Shoulder": "clavicle", "Arm": "upper_arm", "ForeArm": "forearm", "Hand": "hand", "UpLeg": "thigh", "Leg": "shin",
    "Foot": "foot", "ToeBase": "toe",
}  # fmt: skip
CHAINS = {("thigh", "shin", "foot", "toe"): -0.5, ("upper_arm", "forearm", "hand"): 0.5}


def rig_with_switch(at: float, deform: str, fk: str, ik: str) -> Any:
    """The small character with three chains for each limb; the property IK of the object switches all of them."""
    obj = mixamo(bpy)
    bpy.ops.object.mode_set(mode="EDIT")
    bones = obj.data.edit_bones
    for bone in bones:
        name = bone.name.removeprefix("mixamorig:")
        side = next((each for each in ("Left", "Right") if name.startswith(each)), "")
        bone.name = NAMES[name.removeprefix(side)] + (f".{side[0]}" if side else "")
    for side in "LR":
        bones[f"forearm.{side}"].head.y = bones[f"upper_arm.{side}"].tail.y = 0.02
        for chain, ahead in CHAINS.items():
            chest_or_hips, originals = bones[f"{chain[0]}.{side}"].parent, [bones[f"{each}.{side}"] for each in chain]
            for each, bone in zip(chain, originals, strict=True):
                bone.name = f"{deform}{each}.{side}" if deform else f"{each}.{side}"
            for prefix in (fk, ik):
                parent = chest_or_hips
                for each, bone in zip(chain, originals, strict=True):
                    copy = bones.new(f"{prefix}{each}.{side}")
                    copy.head, copy.tail, copy.roll, copy.parent = bone.head, bone.tail, bone.roll, parent
                    parent = copy
            end = originals[2]
            control, pole = bones.new(f"CTRL-{chain[2]}.{side}"), bones.new(f"POLE-{chain[2]}.{side}")
            control.head, control.tail, control.roll = end.head, end.tail, end.roll
            pole.head = originals[1].head + type(end.head)((0, ahead, 0))
            pole.tail = pole.head + type(end.head)((0, 0, 0.1))
    bpy.ops.object.mode_set(mode="OBJECT")
    obj["IK"] = at
    pose = obj.pose.bones
    for side in "LR":
        for chain in CHAINS:
            names = f"{ik}{chain[0]}.{side}", f"{ik}{chain[1]}.{side}", f"POLE-{chain[2]}.{side}"
            solver = pose[names[1]].constraints.new("IK")
            solver.target = solver.pole_target = obj
            solver.subtarget, solver.pole_subtarget, solver.chain_count = f"CTRL-{chain[2]}.{side}", names[2], 2
            solver.pole_angle = rest_angle(obj, *names)
            turn = pose[f"{ik}{chain[2]}.{side}"].constraints.new("COPY_ROTATION")
            turn.target, turn.subtarget = obj, f"CTRL-{chain[2]}.{side}"
            for each in chain:
                for prefix in (fk, ik):
                    copy = pose[f"{deform}{each}.{side}"].constraints.new("COPY_TRANSFORMS")
                    copy.target, copy.subtarget = obj, f"{prefix}{each}.{side}"
                driver = copy.driver_add("influence").driver
                variable = driver.variables.new()
                variable.name = driver.expression = "ik"
                variable.targets[0].id, variable.targets[0].data_path = obj, '["IK"]'
    obj.update_tag()
    bpy.context.view_layer.update()
    return obj


@pytest.mark.parametrize("at", [0.0, 1.0])
@pytest.mark.parametrize("prefixes", [("DEF-", "FK-", "IK-"), ("", "FK-", "IK-"), ("DEF-", "ctl_", "MCH-IK-")])
def test_the_chain_that_moves_the_body_is_keyed(blend: Any, at: float, prefixes: tuple[str, str, str]) -> None:
    obj = rig_with_switch(at, *prefixes)
    bpy.context.scene.render.fps = 20  # a pose on each frame
    joints = walk(POSES)
    report = rigfile.retarget_motion(
        obj, Motion(joints[None], None, np.array([POSES])), options=Options(pin_feet=False, smooth=False, reduce=False)
    )
    keyed = {curve.data_path.split('"')[1] for curve in compat.fcurves_of(bpy.data.actions[report["action"]], obj)}
    assert ("CTRL-foot.L" in keyed) == (at == 1.0)
    assert not any(name.startswith("DEF-") for name in keyed)
    assert not report["skipped"] and not report["left_alone"]
    assert all(report["map"].values())
    for pose in range(0, POSES, 3):
        bpy.context.scene.frame_set(1 + pose)
        shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get()).pose.bones
        for side in ("left", "right"):
            for chain, parts in zip(CHAINS, (("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist")), strict=True):
                at_joints = [shown[f"{prefixes[0]}{each}.{side[0].upper()}"].head for each in chain[:3]]
                for n in (0, 1):
                    x, y, z = at_joints[n + 1] - at_joints[n]
                    want = joints[pose, J[f"{side}_{parts[n + 1]}"]] - joints[pose, J[f"{side}_{parts[n]}"]]
                    assert np.degrees(np.arccos(unit(np.array([x, z, -y])) @ unit(want))) < 1.5


def test_what_the_user_says_is_not_followed(blend: Any) -> None:
    obj = rig_with_switch(1.0, "DEF-", "FK-", "IK-")
    found = {joint: bone for joint, (bone, _, _) in bone_map.table(obj).items()}
    assert found["left_knee"] == "IK-shin.L" and found["left_ankle"] == "IK-foot.L"
    given = {joint: bone.replace("IK-", "FK-") for joint, bone in found.items()}
    bone_map.store(obj, given)
    assert {joint: bone for joint, (bone, _, _) in bone_map.table(obj).items()} == given
