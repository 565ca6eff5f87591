# SPDX-License-Identifier: GPL-3.0-or-later
"""Rigs of anybody whose own IK drives arms and legs: their targets and poles are keyed and the limbs follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from skeletons import J, walk

from hero_core.motion import Motion
from hero_core.retarget.options import Options
from hero_core.retarget.rotations import unit

bpy = pytest.importorskip("bpy")

from characters import mixamo, rest_angle  # noqa: E402

from hero_blender import compat, rigfile  # noqa: E402

Array = npt.NDArray[Any]
RAW = Options(pin_feet=False, smooth=False, reduce=False)
CHAINS = {
    "UpLeg": ("hip", "knee", "ankle", "Leg", "Foot", -1),
    "Arm": ("shoulder", "elbow", "wrist", "ForeArm", "Hand", 1),
}


def with_ik(poles: bool = True, under_root: bool = False, turned: float = 0.0, copies: bool = True) -> Any:
    """The Mixamo character with a target and a pole for each limb; ``turned`` puts poles aside, with a pole angle."""
    obj = mixamo(bpy)
    bpy.context.scene.render.fps = 20  # every pose stands on a frame
    bpy.context.view_layer.objects.active = obj
    bpy.ops.object.mode_set(mode="EDIT")
    bones = obj.data.edit_bones
    if under_root:
        root = bones.new("root")
        root.head, root.tail = (0, 0, 0), (0, 0.3, 0)
        bones["mixamorig:Hips"].parent = root
    for side in ("Left", "Right"):
        for bone, end in ((f"{side}Arm", "tail"), (f"{side}ForeArm", "head")):  # riggers bend what is to bend
            point = getattr(bones[f"mixamorig:{bone}"], end)
            setattr(bones[f"mixamorig:{bone}"], end, (point[0], 0.02, point[2]))
        for upper, (_, _, _, lower, end, ahead) in CHAINS.items():
            last = bones[f"mixamorig:{side}{end}"]
            target = bones.new(f"IK_{side}{end}")
            target.head, target.tail, target.roll = last.head, last.tail, 0.6
            bend = bones[f"mixamorig:{side}{lower}"].head.copy()
            pole = bones.new(f"Pole_{side}{upper}")
            out = np.array([0.0, np.cos(turned), np.sin(turned) if end == "Hand" else 0.0])
            out[0] = np.sin(turned) if end == "Foot" else 0.0
            pole.head = bend + type(bend)(0.5 * ahead * out)
            pole.tail = pole.head + type(bend)((0, 0, 0.1))
            if under_root:
                target.parent = pole.parent = bones["root"]
    bpy.ops.object.mode_set(mode="POSE")
    for side in ("Left", "Right"):
        for upper, (_, _, _, lower, end, _) in CHAINS.items():
            ik = obj.pose.bones[f"mixamorig:{side}{lower}"].constraints.new("IK")
            ik.target, ik.subtarget, ik.chain_count = obj, f"IK_{side}{end}", 2
            if poles:
                ik.pole_target, ik.pole_subtarget = obj, f"Pole_{side}{upper}"
                ik.pole_angle = rest_angle(
                    obj, f"mixamorig:{side}{upper}", f"mixamorig:{side}{lower}", ik.pole_subtarget
                )
            if copies:
                copy = obj.pose.bones[f"mixamorig:{side}{end}"].constraints.new("COPY_ROTATION")
                copy.target, copy.subtarget = obj, f"IK_{side}{end}"
                copy.target_space = copy.owner_space = "WORLD"
                matching(obj, f"mixamorig:{side}{end}", f"IK_{side}{end}")
    bpy.ops.object.mode_set(mode="OBJECT")
    bpy.context.view_layer.update()
    return obj


def matching(obj: Any, end: str, target: str) -> None:
    """A copied rotation needs the same rest orientation."""
    bpy.ops.object.mode_set(mode="EDIT")
    obj.data.edit_bones[target].roll = obj.data.edit_bones[end].roll
    bpy.ops.object.mode_set(mode="POSE")


def heads(obj: Any, report: dict[str, Any], poses: range) -> dict[str, Array]:
    found: dict[str, list[Any]] = {joint: [] for joint in report["map"]}
    for pose in poses:
        frame = report["first_frame"] + pose * report["frames_per_pose"]
        bpy.context.scene.frame_set(int(frame // 1), subframe=frame % 1)
        shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get())
        for joint, bone in report["map"].items():
            x, y, z = shown.matrix_world @ shown.pose.bones[bone].head
            found[joint].append((x, z, -y))
    return {joint: np.array(points) for joint, points in found.items()}


def worst(obj: Any, options: Options) -> tuple[dict[str, Any], float]:
    """The report and most degrees by which a limb's direction is off."""
    joints, poses = walk(24), range(0, 24, 3)
    bpy.context.scene.render.fps = 20  # a pose on each frame
    report = rigfile.retarget_motion(obj, Motion(joints[None], None, np.array([24])), options=options)
    at = heads(obj, report, poses)
    off = []
    for side in ("left", "right"):
        for a, b in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist")):
            got = unit(at[f"{side}_{b}"] - at[f"{side}_{a}"])
            want = unit(joints[::3, J[f"{side}_{b}"]] - joints[::3, J[f"{side}_{a}"]])
            off.append(np.degrees(np.arccos(np.sum(got * want, -1).clip(-1, 1))).max())
    return report, float(max(off))


@pytest.mark.parametrize("turned", [0.0, 0.5])
@pytest.mark.parametrize("under_root", [False, True])
def test_targets_and_poles_are_keyed_and_the_limbs_follow(blend: Any, turned: float, under_root: bool) -> None:
    obj = with_ik(turned=turned, under_root=under_root)
    report, degrees = worst(obj, RAW)
    assert degrees < 1.5
    keyed = {curve.data_path.split('"')[1] for curve in compat.fcurves_of(bpy.data.actions[report["action"]], obj)}
    assert {"IK_LeftFoot", "IK_RightHand", "Pole_LeftUpLeg", "Pole_RightArm"} <= keyed
    assert "mixamorig:LeftLeg" not in keyed
    assert not report["left_alone"]
    assert not report["skipped"]  # feet and hands, too, turn with their targets


@pytest.mark.parametrize("root", ["root", "object", "in place"])
def test_who_carries_the_way(blend: Any, root: str) -> None:
    obj = with_ik(under_root=True)
    options = replace(RAW, in_place=True) if root == "in place" else replace(RAW, root=root)
    assert worst(obj, options)[1] < 1.5


def test_without_poles_feet_and_hands_are_where_they_should(blend: Any) -> None:
    obj = with_ik(poles=False)
    joints = walk(24)
    report = rigfile.retarget_motion(obj, Motion(joints[None], None, np.array([24])), options=RAW)
    plain = mixamo(bpy, "plain")
    again = rigfile.retarget_motion(plain, Motion(joints[None], None, np.array([24])), options=RAW)
    a, b = heads(obj, report, range(0, 24, 4)), heads(plain, again, range(0, 24, 4))
    for joint in ("left_ankle", "right_wrist"):
        assert np.linalg.norm(a[joint] - b[joint], axis=-1).max() < 0.005


def test_targets_elsewhere_are_said_and_left_alone(blend: Any) -> None:
    obj = with_ik()
    empty = bpy.data.objects.new("Empty", None)
    bpy.context.scene.collection.objects.link(empty)
    obj.pose.bones["mixamorig:LeftLeg"].constraints["IK"].target = empty
    owner = obj.pose.bones["IK_RightHand"].constraints.new("COPY_TRANSFORMS")
    owner.target = empty
    report = rigfile.retarget_motion(obj, Motion(walk(12)[None], None, np.array([12])), options=RAW)
    assert any("LeftLeg" in each and "outside the armature" in each for each in report["left_alone"])
    assert any("RightForeArm" in each and "owns" in each for each in report["left_alone"])
    assert {"mixamorig:LeftUpLeg", "mixamorig:LeftLeg", "mixamorig:RightArm"} <= set(report["skipped"])
    keyed = {curve.data_path.split('"')[1] for curve in compat.fcurves_of(bpy.data.actions[report["action"]], obj)}
    assert not {"IK_LeftFoot", "IK_RightHand", "mixamorig:LeftLeg"} & keyed


def test_few_keys_on_targets(blend: Any) -> None:
    obj = with_ik()
    report, degrees = worst(obj, replace(RAW, reduce=True))
    assert report["keys"]["written"] < report["keys"]["every_frame"]
    assert degrees < 6.0  # an elbow that is nearly straight moves far when the hand moves little


def above_targets(obj: Any, what: dict[str, str]) -> Any:
    """The character with other parents for its targets and poles."""
    bpy.context.view_layer.objects.active = obj
    bpy.ops.object.mode_set(mode="EDIT")
    bones = obj.data.edit_bones
    for child, parent in what.items():
        if parent not in bones:
            control = bones.new(parent)
            control.head, control.tail = bones[child].head + bones[child].y_axis * 0.1, bones[child].head
            control.parent = bones[child].parent
        bones[child].parent = bones[parent]
    bpy.ops.object.mode_set(mode="OBJECT")
    return obj


def test_poles_below_targets_and_targets_below_the_chest(blend: Any) -> None:
    parents = {"IK_LeftHand": "mixamorig:Spine2", "Pole_LeftUpLeg": "IK_LeftFoot", "Pole_RightArm": "mixamorig:Hips"}
    assert worst(above_targets(with_ik(), parents), RAW)[1] < 1.5


def test_a_posed_control_above_a_target_is_held_at_rest(blend: Any) -> None:
    obj = above_targets(with_ik(under_root=True), {"IK_LeftFoot": "Foot control", "IK_RightHand": "Hand control"})
    obj.pose.bones["Foot control"].location = (0.2, 0, 0)
    obj.pose.bones["Hand control"].rotation_quaternion = (0.8, 0.6, 0, 0)
    bpy.context.view_layer.update()
    assert worst(obj, RAW)[1] < 1.5


def test_an_ik_that_may_stretch_is_kept_from_it(blend: Any) -> None:
    obj = with_ik()
    for bone in obj.pose.bones:
        bone.ik_stretch = 0.1
    report, degrees = worst(obj, RAW)
    assert degrees < 1.5
    paths = {curve.data_path for curve in compat.fcurves_of(bpy.data.actions[report["action"]], obj)}
    assert 'pose.bones["mixamorig:LeftLeg"].ik_stretch' in paths


def test_half_an_ik_and_one_that_bends_the_body_are_said(blend: Any) -> None:
    obj = with_ik()
    obj.pose.bones["mixamorig:LeftLeg"].constraints["IK"].influence = 0.5
    obj.pose.bones["mixamorig:RightLeg"].constraints["IK"].chain_count = 0
    report = rigfile.retarget_motion(obj, Motion(walk(6)[None], None, np.array([6])), options=RAW)
    assert any("LeftLeg" in each and "50% of the influence" in each for each in report["left_alone"])
    assert any("RightLeg" in each and "up to 'mixamorig:Hips'" in each for each in report["left_alone"])


def test_a_target_that_is_carried_is_said(blend: Any) -> None:
    obj = with_ik()
    for name, influence in (("IK_LeftHand", 1.0), ("Pole_RightUpLeg", 1.0), ("IK_RightHand", 0.0)):
        carrier = obj.pose.bones[name].constraints.new("CHILD_OF")
        carrier.target, carrier.subtarget, carrier.influence = obj, "mixamorig:Spine2", influence
    report = rigfile.retarget_motion(obj, Motion(walk(6)[None], None, np.array([6])), options=RAW)
    assert len(report["left_alone"]) == 2
    assert all("carried by the constraint 'Child Of'" in each for each in report["left_alone"])


def test_an_ik_on_the_foot_itself_and_one_that_reaches_for_nothing(blend: Any) -> None:
    obj = with_ik(poles=False, copies=False)
    for side in ("Left", "Right"):
        obj.pose.bones[f"mixamorig:{side}Leg"].constraints["IK"].target = None
        ik = obj.pose.bones[f"mixamorig:{side}Foot"].constraints.new("IK")
        ik.target, ik.subtarget, ik.chain_count, ik.use_tail = obj, f"IK_{side}Foot", 2, False
    bpy.context.scene.render.fps = 20
    report = rigfile.retarget_motion(obj, Motion(walk(6)[None], None, np.array([6])), options=RAW)
    keyed = {curve.data_path.split('"')[1] for curve in compat.fcurves_of(bpy.data.actions[report["action"]], obj)}
    assert {"IK_LeftFoot", "IK_RightFoot"} <= keyed
    assert not report["left_alone"]
    joints = heads(obj, report, range(6))
    knees = np.linalg.norm(joints["left_ankle"] - joints["left_hip"], axis=-1)
    wanted = np.linalg.norm((walk(6)[:, J["left_ankle"]] - walk(6)[:, J["left_hip"]]) * report["scale"], axis=-1)
    assert np.abs(knees - wanted).max() < 0.03


@pytest.mark.parametrize("constrained", [True, False])
def test_targets_that_are_the_feet_themselves(blend: Any, constrained: bool) -> None:
    """Low-poly packs: the foot hangs on the root and draws the leg, or did before the file was exported."""
    obj = mixamo(bpy)
    bpy.context.view_layer.objects.active = obj
    bpy.ops.object.mode_set(mode="EDIT")
    for side in ("Left", "Right"):
        obj.data.edit_bones[f"mixamorig:{side}Foot"].parent = None
    bpy.ops.object.mode_set(mode="OBJECT")
    for side in ("Left", "Right") if constrained else ():
        ik = obj.pose.bones[f"mixamorig:{side}Leg"].constraints.new("IK")
        ik.target, ik.subtarget, ik.chain_count = obj, f"mixamorig:{side}Foot", 2
    motion = Motion(walk(24)[None], None, np.array([24]))
    report = rigfile.retarget_motion(obj, motion, options=RAW)
    assert report["map"]["left_ankle"] == "mixamorig:LeftFoot" and report["map"]["left_foot"] == "mixamorig:LeftToeBase"
    plain = mixamo(bpy, "plain")
    rigfile.retarget_motion(plain, motion, options=RAW)
    for frame in range(report["first_frame"], report["first_frame"] + 24, 5):
        bpy.context.scene.frame_set(frame)
        for bone in ("mixamorig:LeftFoot", "mixamorig:RightToeBase"):
            one, two = obj.pose.bones[bone].matrix, plain.pose.bones[bone].matrix
            np.testing.assert_allclose(np.array(one), np.array(two), atol=1e-3)
