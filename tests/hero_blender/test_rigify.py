# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated Rigify rigs: the controls are keyed, and what deforms follows; measured on evaluated DEF bones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from skeletons import J, walk

from hero_core.errors import HeroError
from hero_core.motion import Motion
from hero_core.retarget.options import Options
from hero_core.retarget.rotations import unit

bpy = pytest.importorskip("bpy")

from hero_blender import compat, rigfile, rigify  # noqa: E402
from hero_blender.report import measured  # noqa: E402

Array = npt.NDArray[Any]
EXACT = Options(pin_feet=False, smooth=False, reduce=False)
DEFORM = {
    "shoulder": "DEF-upper_arm", "elbow": "DEF-forearm", "wrist": "DEF-hand", "hip": "DEF-thigh", "knee": "DEF-shin",
    "ankle": "DEF-foot",
}  # fmt: skip


def generate(kind: str = "basic_human") -> Any:
    """The control rig of a metarig that Blender brings along; the metarig stays in the scene, as it does for users."""
    bpy.context.scene.render.fps = 20  # every pose stands on a frame
    bpy.ops.preferences.addon_enable(module="rigify")
    getattr(bpy.ops.object, f"armature_{kind}_metarig_add")()
    meta = bpy.context.object
    bpy.ops.pose.rigify_generate()
    return next(obj for obj in bpy.data.objects if obj.type == "ARMATURE" and obj != meta)


def motion_of(joints: Array) -> Motion:
    return Motion(joints[None], None, np.array([len(joints)]))


def played(obj: Any, report: dict[str, Any], poses: range, bones: set[str]) -> dict[str, Array]:
    """Bone -> (len(poses), 3) evaluated heads in the world, Y up."""
    found: dict[str, list[Array]] = {name: [] for name in bones}
    for pose in poses:
        frame = report["first_frame"] + pose * report["frames_per_pose"]
        bpy.context.scene.frame_set(int(np.floor(frame)), subframe=frame - np.floor(frame))
        shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get())
        for name in bones:
            x, y, z = shown.matrix_world @ shown.pose.bones[name].head
            found[name].append(np.array([x, z, -y]))
    return {name: np.array(points) for name, points in found.items()}


def check(obj: Any, joints: Array, step: int = 7) -> dict[str, Any]:
    """Retarget, play, measure the deforming bones against the motion."""
    joints = np.asarray(joints, float)
    report = rigfile.retarget_motion(obj, motion_of(joints), options=EXACT)
    deform = {f"{s}_{j}": f"{bone}.{s[0].upper()}" for s in ("left", "right") for j, bone in DEFORM.items()}
    poses = range(0, len(joints), step)
    bones = {*deform.values(), *filter(None, report["map"].values())}
    points = played(obj, report, poses, bones)
    source = joints[list(poses)]
    errors = []
    for side in ("left", "right"):
        for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
            got = unit(points[deform[f"{side}_{b}"]] - points[deform[f"{side}_{a}"]])
            want = unit(source[:, J[f"{side}_{b}"]] - source[:, J[f"{side}_{a}"]])
            errors.append(np.degrees(np.arctan2(np.linalg.norm(np.cross(got, want), axis=-1), np.sum(got * want, -1))))
    assert np.mean(errors) < 0.5
    assert np.max([error.mean() for error in errors]) < 1.0
    hips = points[report["map"]["pelvis"]]
    path = hips - hips[0] - report["scale"] * (source[:, 0] - source[0, 0])
    assert np.linalg.norm(path, axis=-1).max() < 0.001  # 0.05 % of the height
    for joint, bone in deform.items():  # the map shows the joints where they are
        assert np.linalg.norm(points[bone] - points[report["map"][joint]], axis=-1).max() < 0.002
    return report


@pytest.fixture
def human(blend: Any) -> Any:
    return generate()


def real(shared: Path, name: str) -> Array:
    with np.load(shared / "data" / "cmu22.npz") as data:
        row = list(data["names"]).index(name)
        return np.asarray(data["joints"][data["offsets"][row] : data["offsets"][row + 1]][:120])


def test_the_walk(human: Any) -> None:
    report = check(human, walk(40), step=3)
    assert all(report["map"].values())
    keyed = {curve.group.name for curve in compat.fcurves_of(bpy.data.actions[report["action"]], human)}
    controls = {"torso", "hips", "chest", "neck", "head", "hand_ik.L", "foot_ik.R", "thigh_ik_target.L", "shoulder.R"}
    assert controls <= keyed
    assert not any(name.startswith(("DEF-", "ORG-")) for name in keyed)


@pytest.mark.parametrize("name", ["martial_08", "humanoid3d_getup_facedown", "humanoid3d_cartwheel", "01_01"])
def test_real_motions(human: Any, shared: Path, name: str) -> None:
    check(human, real(shared, name), step=12)


def test_the_full_human_with_its_face(blend: Any) -> None:
    check(generate("human"), walk(24), step=6)


def test_scaled_and_turned(human: Any) -> None:
    human.scale, human.rotation_euler, human.location = (0.5, 0.5, 0.5), (0, 0, 1.0), (4, 5, 0)
    report = rigfile.retarget_motion(human, motion_of(walk(10)), options=EXACT)
    points = played(human, report, range(0, 10, 3), {"DEF-thigh.L", "DEF-shin.L"})
    got = unit(points["DEF-shin.L"] - points["DEF-thigh.L"])
    want = unit((walk(10)[:, J["left_knee"]] - walk(10)[:, J["left_hip"]])[::3])
    assert np.degrees(np.arccos(np.sum(got * want, -1).clip(-1, 1))).max() < 1.5


def test_knees_and_elbows_bend_to_their_side(human: Any) -> None:
    joints = walk(40)
    report = rigfile.retarget_motion(human, motion_of(joints), options=EXACT)
    names = {
        f"DEF-{part}.{side}" for part in ("thigh", "shin", "foot", "upper_arm", "forearm", "hand") for side in "LR"
    }
    points = played(human, report, range(0, 40, 4), names)
    for side in "LR":
        for chain, sense in ((("thigh", "shin", "foot"), 1.0), (("upper_arm", "forearm", "hand"), -1.0)):
            a, b, c = (points[f"DEF-{part}.{side}"] for part in chain)
            # Facing +Z with the left at +X: a knee turns about +X, an elbow of a hanging arm about -X.
            assert (sense * np.cross(unit(b - a), unit(c - b))[:, 0] > -0.01).all()


def test_limbs_keep_their_length(human: Any) -> None:
    report = rigfile.retarget_motion(human, motion_of(walk(20)), options=EXACT)
    points = played(human, report, range(0, 20, 5), {"DEF-thigh.L", "DEF-shin.L", "DEF-forearm.R", "DEF-hand.R"})
    bones = human.data.bones
    for a, b in (("DEF-thigh.L", "DEF-shin.L"), ("DEF-forearm.R", "DEF-hand.R")):
        rest = (bones[b].head_local - bones[a].head_local).length
        assert np.linalg.norm(points[b] - points[a], axis=-1) == pytest.approx(rest, rel=2e-3)


def test_controls_left_posed_do_not_shift_the_result(human: Any) -> None:
    human.pose.bones["root"].location = (1, 1, 1)
    human.pose.bones["root"].rotation_quaternion = (0.8, 0, 0.6, 0)
    human.pose.bones["spine_fk.002"].rotation_quaternion = (0.8, 0.6, 0, 0)
    human.pose.bones["foot_heel_ik.L"].rotation_euler = (0.5, 0, 0)
    human.pose.bones["thigh_parent.L"]["IK_FK"] = 1.0
    check(human, walk(20))


def test_the_control_rig_is_chosen_beside_its_metarig(human: Any, tmp_path: Path) -> None:
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "human.blend"))
    chosen = rigfile.load_rig(tmp_path / "human.blend")
    assert rigify.is_control_rig(chosen)
    check(chosen, walk(12))


def test_the_metarig_itself_takes_the_motion(blend: Any) -> None:
    bpy.ops.preferences.addon_enable(module="rigify")
    bpy.ops.object.armature_basic_human_metarig_add()
    meta = bpy.context.object
    assert not rigify.is_control_rig(meta)
    joints = walk(20)
    report = rigfile.retarget_motion(meta, motion_of(joints), options=EXACT)
    assert all(report["map"].values())
    points = played(meta, report, range(0, 20, 4), {"thigh.L", "shin.L"})
    got, want = unit(points["shin.L"] - points["thigh.L"]), unit((joints[:, 4] - joints[:, 1])[::4])
    assert np.degrees(np.arccos(np.sum(got * want, -1).clip(-1, 1))).max() < 0.1


def test_no_legs_is_said(human: Any) -> None:
    bpy.context.view_layer.objects.active = human
    bpy.ops.object.mode_set(mode="EDIT")
    human.data.edit_bones.remove(human.data.edit_bones["ORG-thigh.L"])
    bpy.ops.object.mode_set(mode="OBJECT")
    with pytest.raises(HeroError, match="no left leg"):
        rigfile.check_armature(human)


def switched(obj: Any, report: dict[str, Any], poses: range, **settings: float) -> Array:
    """(len(poses), B, 4, 4) evaluated skeleton bones with the custom properties of the limbs set to other values."""
    for curve in compat.fcurves_of(bpy.data.actions[report["action"]], obj):
        for name, value in settings.items():
            if curve.data_path.endswith(f'["{name}"]'):
                curve.keyframe_points[0].co[1] = value
                curve.update()
    found = []
    for pose in poses:
        frame = report["first_frame"] + pose * report["frames_per_pose"]
        bpy.context.scene.frame_set(int(np.floor(frame)), subframe=frame - np.floor(frame))
        shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get())
        found.append([np.array(bone.matrix) for bone in shown.pose.bones if bone.name.startswith("ORG-")])
    return np.array(found)


def apart(a: Array, b: Array) -> tuple[float, float]:
    """Most degrees and metres between two sets of matrices."""
    turn = np.swapaxes(a[..., :3, :3], -1, -2) @ b[..., :3, :3]
    angle = np.arccos(((np.trace(turn, axis1=-2, axis2=-1) - 1) / 2).clip(-1, 1))
    return float(np.degrees(angle.max())), float(np.linalg.norm(a[..., 3] - b[..., 3], axis=-1).max())


def apart_by_pose(a: Array, b: Array) -> tuple[Array, Array]:
    """(N,) degrees and (N,) metres between (N, 4, 4) matrices."""
    pairs = [apart(*pair) for pair in zip(a, b, strict=True)]
    return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])


def test_ik_and_fk_show_the_same_at_any_frame(human: Any) -> None:
    """Blender's IK stops when its angles change by less than 0.06 degrees a round, up to a millimetre from its target.

    A limb that is nearly straight takes that millimetre by bending by another two degrees; so the bend is looked at.
    """
    joints, poses = walk(30), range(0, 30, 3)
    report = rigfile.retarget_motion(human, motion_of(joints), options=EXACT)
    shown = [
        switched(human, report, poses, IK_FK=ik_fk, pole_vector=pole) for ik_fk, pole in ((0.0, 1), (1.0, 1), (0.0, 0))
    ]
    names = [bone.name for bone in human.pose.bones if bone.name.startswith("ORG-")]
    limbs = {
        f"{bone}.{side[0].upper()}": [J[f"{side}_{joint}"] for joint in chain]
        for side in ("left", "right")
        for bone, chain in (
            ("ORG-upper_arm", ("shoulder", "elbow", "wrist")), ("ORG-forearm", ("shoulder", "elbow", "wrist")),
            ("ORG-thigh", ("hip", "knee", "ankle")), ("ORG-shin", ("hip", "knee", "ankle")),
        )
    }  # fmt: skip
    # Without a pole target the solver turns the limb about itself too until it stops.
    for other, fine in ((shown[1], 0.3), (shown[2], 1.5)):
        for row, name in enumerate(names):
            degrees, metres = apart_by_pose(shown[0][:, row], other[:, row])
            if name in limbs:
                a, b, c = (joints[list(poses)][:, joint] for joint in limbs[name])
                straight = np.sum(unit(b - a) * unit(c - b), -1) > np.cos(np.radians(20))
                assert (degrees[straight] < 1.5).all() and (metres[straight] < 0.009).all(), name
                degrees, metres = degrees[~straight], metres[~straight]
            assert (degrees < fine).all() and (metres < 0.01 * fine).all(), name
    keyed = {curve.data_path.split('"')[-2] for curve in compat.fcurves_of(bpy.data.actions[report["action"]], human)}
    assert {"IK_FK", "IK_parent", "pole_parent", "IK_Stretch", "pole_vector", "FK_limb_follow"} <= keyed
    assert {"neck_follow", "head_follow", "torso_parent"} <= keyed


def test_fk_controls_on_request(human: Any) -> None:
    report = rigfile.retarget_motion(human, motion_of(walk(12)), options=replace(EXACT, controls="fk"))
    bpy.context.scene.frame_set(5)
    assert human.pose.bones["thigh_parent.L"]["IK_FK"] == 1.0
    points = played(human, report, range(0, 12, 4), {"DEF-thigh.L", "DEF-shin.L"})
    got, want = unit(points["DEF-shin.L"] - points["DEF-thigh.L"]), unit((walk(12)[:, 4] - walk(12)[:, 1])[::4])
    assert np.degrees(np.arccos(np.sum(got * want, -1).clip(-1, 1))).max() < 0.5


@pytest.mark.parametrize("root", ["root", "object"])
def test_the_root_or_the_object_carries_the_way(human: Any, root: str) -> None:
    joints = walk(20)
    report = rigfile.retarget_motion(human, motion_of(joints), options=replace(EXACT, root=root))
    points = played(human, report, range(0, 20, 5), {report["map"]["pelvis"], "root", "DEF-foot.L"})
    way = report["scale"] * (joints[::5, 0] - joints[0, 0])
    hips = points[report["map"]["pelvis"]]
    assert np.abs(hips - hips[0] - way).max() < 0.002
    assert np.abs(points["root"] - points["root"][0] - way * [1, 0, 1]).max() < 0.002
    foot = points["DEF-foot.L"] - points["DEF-foot.L"][0] - report["scale"] * (joints[::5, 7] - joints[0, 7])
    assert np.linalg.norm(foot, axis=-1).max() < 0.08  # the rig's legs have other proportions


def test_in_place(human: Any) -> None:
    report = rigfile.retarget_motion(human, motion_of(walk(20)), options=replace(EXACT, in_place=True))
    hips = played(human, report, range(0, 20, 5), {report["map"]["pelvis"]})[report["map"]["pelvis"]]
    assert np.abs((hips - hips[0])[:, [0, 2]]).max() < 0.001


def test_few_keys_on_controls(human: Any) -> None:
    joints = walk(60)
    every = rigfile.retarget_motion(human, motion_of(joints), options=EXACT)
    exact = switched(human, every, range(0, 60, 5))
    few = rigfile.retarget_motion(human, motion_of(joints), options=replace(EXACT, reduce=True))
    degrees, metres = apart(exact, switched(human, few, range(0, 60, 5)))
    assert few["keys"]["written"] < 0.4 * few["keys"]["every_frame"], (degrees, metres)
    assert degrees < 1.5 and metres < 0.008


def swaying(count: int) -> Array:
    """Feet stand, everything above sways over them."""
    joints = np.repeat(np.asarray(walk(1), float), count, 0)
    joints[:, [J["left_ankle"], J["right_ankle"]], 1] = 0.08
    joints[:, [J["left_foot"], J["right_foot"]], 1] = 0.02
    feet = [J[f"{side}_{joint}"] for side in ("left", "right") for joint in ("ankle", "foot")]
    time = np.arange(count)[:, None]
    away = 0.07 * np.concatenate([np.sin(time / 1.5), 0.6 * np.cos(time / 1.9) - 0.9, np.sin(time / 2 + 1)], 1)
    share = np.ones(22)
    share[feet] = 0.0
    share[[J["left_knee"], J["right_knee"]]] = 0.5
    return joints + share[:, None] * away[:, None]


@pytest.mark.parametrize(("controls", "root"), [("ik", "hips"), ("ik", "root"), ("fk", "hips"), ("fk", "object")])
def test_feet_stand_with_few_keys(human: Any, controls: Any, root: Any) -> None:
    motion = motion_of(swaying(80))
    bpy.context.scene.render.fps = 24
    options = Options(controls=controls, root=root, smooth=False)
    report = rigfile.retarget_motion(human, motion, options=options)
    found = measured(human, motion, 0, report, bpy.context.scene, options)
    assert sum(last - first for first, last in report["contacts"]["left_heel"]) > 60
    assert found["skating_cm_per_second"]["after"] < 1.0
    assert found["keys"]["share"] < 0.4
    assert found["keys"]["cost"]["degrees_most"] < 0.6
