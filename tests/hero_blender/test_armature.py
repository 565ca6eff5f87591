# SPDX-License-Identifier: GPL-3.0-or-later
"""The Action moves the rig as the motion says: measured on the evaluated pose, in any object transform and mode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from skeletons import MIXAMO, J, rest_points, tails_of, walk

from hero_core.errors import HeroError
from hero_core.motion import JOINTS, PARENTS, Motion
from hero_core.retarget.frames import between, whole_frames
from hero_core.retarget.options import Options
from hero_core.retarget.rotations import unit

bpy = pytest.importorskip("bpy")

from hero_blender import armature, compat, rigfile  # noqa: E402

Array = npt.NDArray[Any]
EXACT = Options(pin_feet=False, smooth=False, reduce=False)
LIMBS = [
    (f"{side}_{a}", f"{side}_{b}")
    for side in ("left", "right")
    for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
]


def build(arm_angle: float = 45.0, roll: float = 0.0) -> Any:
    """The synthetic rig as an armature object in the open scene."""
    data = bpy.data.armatures.new("Walker")
    obj = bpy.data.objects.new("Walker", data)
    bpy.context.scene.collection.objects.link(obj)
    bpy.context.view_layer.objects.active = obj
    bpy.ops.object.mode_set(mode="EDIT")
    heads = rest_points(arm_angle)
    tails = tails_of(heads)
    for row, joint in enumerate(JOINTS):
        bone = data.edit_bones.new(MIXAMO[joint])
        bone.head, bone.tail, bone.roll = heads[joint], tails[joint], roll * row
        if row:
            bone.parent = data.edit_bones[MIXAMO[JOINTS[PARENTS[row]]]]
    finger = data.edit_bones.new("LeftHandIndex1")
    finger.head, finger.tail = tails["left_wrist"], tails["left_wrist"] + (tails["left_wrist"] - heads["left_wrist"])
    finger.parent = data.edit_bones["LeftHand"]
    bpy.ops.object.mode_set(mode="OBJECT")
    bpy.context.view_layer.update()
    return obj


def motion_of(joints: Array) -> Motion:
    return Motion(joints[None], None, np.array([len(joints)]))


def to_frame(report: dict[str, Any], pose: int) -> None:
    frame = report["first_frame"] + pose * report["frames_per_pose"]
    bpy.context.scene.frame_set(int(np.floor(frame)), subframe=frame - np.floor(frame))


def seen(obj: Any, report: dict[str, Any], poses: list[int]) -> dict[str, Array]:
    """Joint -> (len(poses), 3) world positions of the evaluated heads, turned to Y up."""
    found: dict[str, list[Array]] = {joint: [] for joint, bone in report["map"].items() if bone}
    for pose in poses:
        to_frame(report, pose)
        shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get())
        for joint in found:
            x, y, z = shown.matrix_world @ shown.pose.bones[report["map"][joint]].head
            found[joint].append(np.array([x, z, -y]))
    return {joint: np.array(points) for joint, points in found.items()}


def errors_of(points: dict[str, Array], joints: Array, scale: float) -> tuple[Array, float]:
    """Angles between limbs in degrees, and how far the hips leave their path in % of the height."""
    angles = []
    for a, b in LIMBS:
        if a not in points or b not in points:
            continue
        got, want = unit(points[b] - points[a]), unit(joints[:, J[b]] - joints[:, J[a]])
        angles.append(np.degrees(np.arctan2(np.linalg.norm(np.cross(got, want), axis=-1), np.sum(got * want, -1))))
    path = points["pelvis"] - points["pelvis"][0] - scale * (joints[:, 0] - joints[0, 0])
    legs = np.linalg.norm(points["left_knee"] - points["left_hip"], axis=-1).mean()
    legs += np.linalg.norm(points["left_ankle"] - points["left_knee"], axis=-1).mean()
    return np.stack(angles), float(np.linalg.norm(path, axis=-1).max() / (2 * legs) * 100)


def check(obj: Any, joints: Array, limit: float = 0.1, **options: Any) -> dict[str, Any]:
    """Retarget, play, measure; the report. Every pose stands on a frame."""
    bpy.context.scene.render.fps = 20
    report = rigfile.retarget_motion(obj, motion_of(joints), **{"options": EXACT, **options})
    poses = sorted({0, 1, len(joints) // 3, len(joints) // 2, len(joints) - 1})
    points = seen(obj, report, poses)
    angles, path = errors_of(points, np.asarray(joints, float)[poses], report["scale"])
    assert angles.mean() < limit
    assert path < 0.1
    return report


@pytest.fixture
def walker(blend: Any) -> Any:
    return build()


def test_the_rig_moves_and_the_slot_is_bound(walker: Any) -> None:
    joints = walk(30)
    report = check(walker, joints, name="clip take 1 seed 0", first_frame=7)
    action, slot = compat.assigned_action(walker)
    assert action is not None
    assert (action.name, report["action"], report["armature"]) == ("clip take 1 seed 0", "clip take 1 seed 0", "Walker")
    assert slot is not None or not hasattr(action, "slots")
    assert set(report["map"]) == set(JOINTS)
    to_frame(report, 0)
    first = walker.pose.bones["LeftUpLeg"].matrix.copy()
    to_frame(report, 5)
    assert first.to_quaternion().rotation_difference(walker.pose.bones["LeftUpLeg"].matrix.to_quaternion()).angle > 0.3


def test_keys_stand_where_the_report_says_in_groups_of_their_bones(walker: Any) -> None:
    bpy.context.scene.render.fps, bpy.context.scene.render.fps_base = 24, 1.001
    report = rigfile.retarget_motion(walker, motion_of(walk(20)), first_frame=31, options=EXACT)
    assert report["frames_per_pose"] == pytest.approx(24 / 1.001 / 20)
    curves = compat.fcurves_of(bpy.data.actions[report["action"]], walker)
    frames = [point.co[0] for point in curves[0].keyframe_points]
    assert frames == list(range(31, 31 + 24))  # 19 poses of 1.199 frames later: 53.8
    assert {curve.group.name for curve in curves} <= set(walker.data.bones.keys())
    assert all(len(curve.keyframe_points) == 24 for curve in curves)
    assert "LeftHandIndex1" not in {curve.group.name for curve in curves}


@pytest.mark.parametrize(("fps", "few"), [(12, False), (24, False), (24, True), (30, True), (60, False), (60, True)])
def test_whole_frames_show_the_motion_at_any_rate(walker: Any, fps: int, few: bool) -> None:
    joints = np.asarray(walk(40), float)
    bpy.context.scene.render.fps = fps
    options = replace(EXACT, reduce=few)
    report = rigfile.retarget_motion(walker, motion_of(joints), first_frame=9, options=options)
    poses = 9 + report["frames_per_pose"] * np.arange(40)
    frames = whole_frames(poses, False)
    keyed = {k.co[0] for c in compat.fcurves_of(bpy.data.actions[report["action"]], walker) for k in c.keyframe_points}
    assert keyed <= set(frames)
    assert few or keyed == set(frames)
    found: dict[str, list[Any]] = {joint: [] for joint in report["map"]}
    for frame in frames:
        bpy.context.scene.frame_set(int(frame))
        for joint, bone in report["map"].items():
            x, y, z = walker.matrix_world @ walker.pose.bones[bone].head
            found[joint].append((x, z, -y))
    points = {joint: np.array(places) for joint, places in found.items()}
    angles, path = errors_of(points, between(poses, joints, frames), report["scale"])
    assert angles.mean() < (0.35 if few else 0.15)
    assert angles.max() < (1.6 if few else 1.0)  # a shin follows two bones above it
    assert path < (0.6 if few else 0.1)


def test_scaled_turned_and_parented_object(walker: Any) -> None:
    empty = bpy.data.objects.new("Empty", None)
    bpy.context.scene.collection.objects.link(empty)
    empty.location, empty.rotation_euler, empty.scale = (3, -2, 1), (0.4, 0.3, 2.0), (2.0, 2.0, 2.0)
    walker.parent = empty
    walker.location, walker.rotation_euler, walker.scale = (0.5, 0, 0), (1.57, 0, 0.3), (0.01, 0.01, 0.01)
    matrix = [tuple(row) for row in walker.matrix_basis]
    report = check(walker, walk(20))
    assert report["scale"] == pytest.approx(0.02, rel=0.01)
    assert [tuple(row) for row in walker.matrix_basis] == matrix


@pytest.mark.parametrize("heading", [0.0, 90.0, 180.0, 270.0])
@pytest.mark.parametrize("arms", [0.0, 45.0])
def test_t_and_a_poses_at_four_headings(blend: Any, arms: float, heading: float) -> None:
    check(build(arms, roll=0.7), walk(20, heading))


@pytest.mark.parametrize("mode", ["XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX", "AXIS_ANGLE"])
def test_rotation_modes_stay_and_curves_do_not_jump(walker: Any, mode: str) -> None:
    for bone in walker.pose.bones:
        bone.rotation_mode = mode
    check(walker, walk(40, heading=170.0))
    assert {bone.rotation_mode for bone in walker.pose.bones} == {mode}
    action, _ = compat.assigned_action(walker)
    channel = "rotation_axis_angle" if mode == "AXIS_ANGLE" else "rotation_euler"
    for curve in compat.fcurves_of(action, walker):
        if curve.data_path.endswith(channel):
            values = np.array([point.co[1] for point in curve.keyframe_points])
            assert np.abs(np.diff(values)).max() < np.pi * 0.9, curve.data_path


def test_rest_data_and_other_bones_are_not_touched(walker: Any) -> None:
    rest = {bone.name: [tuple(row) for row in bone.matrix_local] for bone in walker.data.bones}
    walker.pose.bones["LeftHandIndex1"].rotation_quaternion = (0.9, 0.3, 0.3, 0.1)
    curled = tuple(walker.pose.bones["LeftHandIndex1"].rotation_quaternion)
    before = {
        name: len(getattr(bpy.data, name)) for name in ("objects", "armatures", "scenes", "collections", "meshes")
    }
    check(walker, walk(10))
    assert {bone.name: [tuple(row) for row in bone.matrix_local] for bone in walker.data.bones} == rest
    assert tuple(walker.pose.bones["LeftHandIndex1"].rotation_quaternion) == curled
    assert {name: len(getattr(bpy.data, name)) for name in before} == before


def test_what_the_former_action_moved_goes_back_to_rest(walker: Any) -> None:
    finger = walker.pose.bones["LeftHandIndex1"]
    finger.rotation_quaternion = (0.7, 0.7, 0.0, 0.0)
    finger.keyframe_insert("rotation_quaternion", frame=1)
    check(walker, walk(10))
    assert tuple(finger.rotation_quaternion) == (1.0, 0.0, 0.0, 0.0)


def test_a_posed_root_above_the_hips_is_keyed_at_rest(blend: Any) -> None:
    obj = build()
    bpy.ops.object.mode_set(mode="EDIT")
    root = obj.data.edit_bones.new("Root")
    root.head, root.tail = (0, 0, 0), (0, 0.3, 0)
    obj.data.edit_bones["Hips"].parent = root
    bpy.ops.object.mode_set(mode="OBJECT")
    obj.pose.bones["Root"].location = (1, 2, 3)
    obj.pose.bones["Root"].rotation_quaternion = (0.7, 0.7, 0, 0)
    check(obj, walk(12))


def test_hips_glued_to_their_parent_are_moved_by_it(blend: Any) -> None:
    obj = build()
    bpy.ops.object.mode_set(mode="EDIT")
    root = obj.data.edit_bones.new("Root")
    root.head, root.tail = (0, 0, 0), obj.data.edit_bones["Hips"].head
    obj.data.edit_bones["Hips"].parent = root
    obj.data.edit_bones["Hips"].use_connect = True
    bpy.ops.object.mode_set(mode="OBJECT")
    check(obj, walk(12))


def test_location_without_local_axes(blend: Any) -> None:
    obj = build(roll=1.1)
    obj.data.bones["Hips"].use_local_location = False
    check(obj, walk(12))


def test_twice_gives_the_same_and_keeps_the_first(walker: Any) -> None:
    first = check(walker, walk(15), name="take")
    second = check(walker, walk(15), name="take")
    assert (first["action"], second["action"]) == ("take", "take.001")

    def values(name: str) -> list[float]:
        curves = compat.fcurves_of(bpy.data.actions[name], walker)
        return [point.co[1] for curve in curves for point in curve.keyframe_points]

    assert values("take") == values("take.001")


def test_a_constraint_that_has_lost_its_target_owns_nothing(walker: Any) -> None:
    """Characters taken out of the scene that they were posed in; inverse kinematics would own a whole leg."""
    foot = walker.pose.bones["LeftFoot"].constraints.new("IK")
    foot.chain_count = 3
    walker.pose.bones["Head"].constraints.new("DAMPED_TRACK")
    hand = walker.pose.bones["LeftHand"].constraints.new("IK")
    hand.target, hand.subtarget = walker, "a bone that was deleted"
    assert not armature.read_rig(walker).owned.any()
    foot.target = bpy.data.objects.new("target", None)
    rig = armature.read_rig(walker)
    assert {rig.names[row] for row in np.flatnonzero(rig.owned)} == {"LeftFoot", "LeftLeg", "LeftUpLeg"}


def test_a_bone_that_a_constraint_owns_is_left_alone(walker: Any) -> None:
    empty = bpy.data.objects.new("Target", None)
    bpy.context.scene.collection.objects.link(empty)
    constraint = walker.pose.bones["Head"].constraints.new("DAMPED_TRACK")
    constraint.target = empty
    report = rigfile.retarget_motion(walker, motion_of(walk(10)))
    assert report["skipped"] == ["Head"]
    curves = compat.fcurves_of(bpy.data.actions[report["action"]], walker)
    assert not any('"Head"' in curve.data_path for curve in curves)


@pytest.mark.parametrize("case", ["none", "mesh", "edit mode", "no bones", "no legs"])
def test_what_cannot_take_a_motion_is_refused_with_nothing_written(blend: Any, case: str) -> None:
    obj = None
    if case == "mesh":
        obj = bpy.data.objects.new("Cube", bpy.data.meshes.new("Cube"))
    elif case != "none":
        obj = build()
        bpy.ops.object.mode_set(mode="EDIT")
        bones = obj.data.edit_bones
        gone = {"no bones": list(bones), "no legs": [bones["LeftUpLeg"], bones["RightUpLeg"]], "edit mode": []}[case]
        for bone in gone:
            bones.remove(bone)
        if case != "edit mode":
            bpy.ops.object.mode_set(mode="OBJECT")
    words = {
        "none": "no armature", "mesh": "no armature", "edit mode": "Edit Mode", "no bones": "no bones",
        "no legs": "no left leg and no right leg",
    }  # fmt: skip
    with pytest.raises(HeroError, match=words[case]):
        rigfile.check_armature(obj)
    if obj is not None:
        with pytest.raises(HeroError, match=words[case]):
            rigfile.retarget_motion(obj, motion_of(walk(5)))
    assert len(bpy.data.actions) == 0


def test_a_linked_armature_says_what_to_do_and_an_override_works(blend: Any, tmp_path: Path) -> None:
    build()
    library = tmp_path / "library.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(library))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    with bpy.data.libraries.load(str(library), link=True) as (_, to):
        to.objects = ["Walker"]
    linked = bpy.data.objects["Walker"]
    bpy.context.scene.collection.objects.link(linked)
    with pytest.raises(HeroError, match=r"linked from .*library\.blend.*library override"):
        rigfile.check_armature(linked)
    with pytest.raises(HeroError, match="linked"):
        rigfile.retarget_motion(linked, motion_of(walk(5)))
    assert len(bpy.data.actions) == 0
    override = linked.override_create(remap_local_usages=True)
    check(override, walk(10))


def test_an_error_while_writing_leaves_no_action(walker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(armature.compat, "new_fcurve", fail)
    with pytest.raises(MemoryError):
        rigfile.retarget_motion(walker, motion_of(walk(5)))
    assert len(bpy.data.actions) == 0


def test_rig_files_are_refused_for_a_reason(blend: Any, tmp_path: Path) -> None:
    with pytest.raises(HeroError, match=r"no rig that HERO reads"):
        rigfile.load_rig(tmp_path / "rig.max")
    with pytest.raises(HeroError, match="There is no rig file"):
        rigfile.load_rig(tmp_path / "rig.fbx")
    for suffix in (".fbx", ".glb", ".gltf", ".bvh", ".blend", ".vrm"):
        broken = tmp_path / f"broken{suffix}"
        broken.write_bytes(b"this is no rig")
        with pytest.raises(HeroError, match=r"cannot be read|no armature"):
            rigfile.load_rig(broken)


def test_several_armatures_need_a_name(blend: Any, tmp_path: Path) -> None:
    build()
    build().name = "Other"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "two.blend"))
    with pytest.raises(HeroError, match=r"--armature: 'Other', 'Walker'|--armature: 'Walker', 'Other'"):
        rigfile.load_rig(tmp_path / "two.blend")
    assert rigfile.load_rig(tmp_path / "two.blend", "Other").name == "Other"
    with pytest.raises(HeroError, match="no armature 'Third'"):
        rigfile.load_rig(tmp_path / "two.blend", "Third")


def test_a_rig_without_its_own_animation(blend: Any, tmp_path: Path) -> None:
    """Exported with an action, imported for ours: the file's own animation does not shine through."""
    obj = build()
    obj.pose.bones["LeftHandIndex1"].rotation_quaternion = (0.7, 0.7, 0.0, 0.0)
    obj.pose.bones["LeftHandIndex1"].keyframe_insert("rotation_quaternion", frame=1)
    bpy.ops.preferences.addon_enable(module="io_scene_gltf2")
    bpy.ops.export_scene.gltf(filepath=str(tmp_path / "rig.glb"))
    loaded = rigfile.load_rig(tmp_path / "rig.glb")
    finger = loaded.pose.bones["LeftHandIndex1"]
    assert finger.matrix_basis.to_quaternion().angle < 1e-4
    check(loaded, walk(12))


RIGS = [
    "cmu_002_01.bvh", "cmu_18_01.bvh", "cmu_keijiro_Base.fbx", "kaykit_Knight.glb", "m2m_human-female.glb",
    "m2m_human-male.glb", "mpfb_cmu_mb.blend", "mpfb_default.blend",
    "mpfb_game_engine.blend", "mpfb_mixamo.blend", "mpfb_mixamo_unity.blend", "mpfb_openpose.blend",
]  # fmt: skip


@pytest.fixture(scope="module")
def real_motions(shared: Path) -> dict[str, Array]:
    wanted = ["07_08", "martial_08", "humanoid3d_getup_facedown", "humanoid3d_cartwheel", "01_01"]
    with np.load(shared / "data" / "cmu22.npz") as data:
        names = list(data["names"])
        ranges = {name: data["offsets"][names.index(name) : names.index(name) + 2] for name in wanted}
        return {name: data["joints"][start:end][:120] for name, (start, end) in ranges.items()}


@pytest.mark.parametrize("file", RIGS)
def test_rigs_of_other_people(blend: Any, shared: Path, real_motions: dict[str, Array], file: str) -> None:
    obj = rigfile.load_rig(shared / "rigs" / file)
    mapped = {}
    for joints in real_motions.values():
        mapped = check(obj, joints)["map"]
    has_all = not any(word in file for word in ("kaykit", "openpose"))
    assert has_all == all(mapped.values())


def test_a_cc0_character_stands_on_the_floor(blend: Any, shared: Path, real_motions: dict[str, Array]) -> None:
    """The lowest point of the skinned mesh is at the floor in most frames of a walk, not under it, not above it."""
    obj = rigfile.load_rig(shared / "rigs" / "m2m_human-male.glb")
    body = bpy.data.objects["Mannequin"]
    report = rigfile.retarget_motion(obj, motion_of(real_motions["07_08"]), options=EXACT)
    lowest = []
    for pose in range(0, len(real_motions["07_08"]), 4):
        to_frame(report, pose)
        shown = body.evaluated_get(bpy.context.evaluated_depsgraph_get())
        mesh = shown.to_mesh()
        points = np.empty(len(mesh.vertices) * 3, np.float32)
        mesh.vertices.foreach_get("co", points)
        world = np.array(shown.matrix_world)
        lowest.append((points.reshape(-1, 3) @ world[2, :3]).min() + world[2, 3])
        shown.to_mesh_clear()
    assert abs(np.median(lowest)) < 0.04
    assert min(lowest) > -0.1
