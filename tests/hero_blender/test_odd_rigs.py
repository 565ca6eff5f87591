# SPDX-License-Identifier: GPL-3.0-or-later
"""Rigs as they are found in shots: left posed, moved by what they are parented to, half driven, in some other mode."""

from __future__ import annotations

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

from characters import mixamo  # noqa: E402

from hero_blender import armature, compat, react, rigfile  # noqa: E402

Array = npt.NDArray[Any]
RAW = Options(pin_feet=False, smooth=False, reduce=False)
POSES = 13
PRE = "mixamorig:"


@pytest.fixture
def obj(blend: Any) -> Any:
    bpy.context.scene.render.fps = 20  # a pose on each frame
    return mixamo(bpy)


def put(obj: Any, options: Options = RAW) -> dict[str, Any]:
    return rigfile.retarget_motion(obj, Motion(walk(POSES)[None], None, np.array([POSES])), options=options)


def heads(obj: Any, report: dict[str, Any]) -> dict[str, Array]:
    """Joint -> (POSES, 3) in the scene, Y up."""
    found: dict[str, list[Any]] = {joint: [] for joint in report["map"]}
    for frame in range(POSES):
        bpy.context.scene.frame_set(1 + frame)
        shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get())
        for joint, bone in report["map"].items():
            x, y, z = shown.matrix_world @ shown.pose.bones[bone].head
            found[joint].append((x, z, -y))
    return {joint: np.array(points) for joint, points in found.items()}


def check(obj: Any, options: Options = RAW) -> dict[str, Any]:
    """The rig moves as the motion does, with limbs as long as they are at rest."""
    report, joints = put(obj, options), walk(POSES)
    at = heads(obj, report)
    size = np.linalg.norm(np.array(obj.matrix_world.col[0])[:3])
    for side in ("left", "right"):
        for a, b in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist")):
            limb = at[f"{side}_{b}"] - at[f"{side}_{a}"]
            want = unit(joints[:, J[f"{side}_{b}"]] - joints[:, J[f"{side}_{a}"]])
            assert np.degrees(np.arccos(np.sum(unit(limb) * want, -1).clip(-1, 1))).max() < 0.1
            bones = [obj.data.bones[report["map"][f"{side}_{joint}"]].head_local for joint in (a, b)]
            assert np.allclose(np.linalg.norm(limb, axis=-1), size * (bones[1] - bones[0]).length, rtol=1e-3)
    way = at["pelvis"] - at["pelvis"][0] - report["scale"] * (joints[:, 0] - joints[0, 0])
    assert np.abs(way).max() < 1e-3 * report["scale"]
    return report


def curves(obj: Any, report: dict[str, Any]) -> dict[tuple[str, int], Array]:
    found = compat.fcurves_of(bpy.data.actions[report["action"]], obj)
    return {(each.data_path, each.array_index): np.array([key.co for key in each.keyframe_points]) for each in found}


def test_what_was_left_posed_by_hand_does_not_bend_the_motion(obj: Any) -> None:
    obj.pose.bones[f"{PRE}LeftForeArm"].location = (0.3, 0.1, 0)
    obj.pose.bones[f"{PRE}RightLeg"].location = (0, 0, 0.2)
    bpy.context.view_layer.update()
    check(obj)


def test_a_size_set_by_hand_stays(obj: Any) -> None:
    obj.pose.bones[f"{PRE}Head"].scale = (1.5, 1.5, 1.5)
    report = check(obj)
    assert tuple(obj.pose.bones[f"{PRE}Head"].scale) == (1.5, 1.5, 1.5)
    assert not any(path.endswith("scale") for path, _ in curves(obj, report))


def test_sizes_and_places_of_the_action_before_do_not_stay(obj: Any) -> None:
    hips, arm = obj.pose.bones[f"{PRE}Hips"], obj.pose.bones[f"{PRE}LeftForeArm"]
    hips.scale, arm.location = (2, 2, 2), (0.3, 0, 0)
    hips.keyframe_insert("scale", frame=1)
    arm.keyframe_insert("location", frame=1)
    bpy.context.scene.frame_set(3)
    first = check(obj)
    again = check(obj)
    assert [np.array_equal(a, b) for a, b in zip(curves(obj, first).values(), curves(obj, again).values(), strict=True)]


def test_a_turned_root_that_carries_the_way_stands_up(obj: Any) -> None:
    bpy.context.view_layer.objects.active = obj
    bpy.ops.object.mode_set(mode="EDIT")
    root = obj.data.edit_bones.new("root")
    root.head, root.tail = (0, 0, 0), (0, 0.3, 0)
    obj.data.edit_bones[f"{PRE}Hips"].parent = root
    bpy.ops.object.mode_set(mode="OBJECT")
    obj.pose.bones["root"].rotation_quaternion = (0.8, 0.6, 0, 0)
    bpy.context.view_layer.update()
    check(obj, Options(pin_feet=False, smooth=False, reduce=False, root="root"))


def test_delta_transforms_and_a_keyed_place(obj: Any) -> None:
    obj.delta_rotation_euler.z, obj.delta_location.x, obj.delta_scale = 1.0, 2.0, (2, 2, 2)
    obj.rotation_euler.z = 0.5
    for frame, x in ((1, 0.0), (40, 3.0)):
        obj.location.x = x
        obj.keyframe_insert("location", frame=frame)
        obj.keyframe_insert("rotation_euler", frame=frame)
    bpy.context.scene.frame_set(30)
    check(obj)
    assert obj.location.x == 0.0


def test_below_a_moving_empty_the_frame_of_the_scene_does_not_matter(obj: Any) -> None:
    empty = bpy.data.objects.new("Empty", None)
    bpy.context.scene.collection.objects.link(empty)
    obj.parent, obj.location = empty, (1, 2, 0)
    for frame, angle in ((1, 0.3), (40, 2.0)):
        empty.rotation_euler.z, empty.location.x = angle, angle
        empty.keyframe_insert("rotation_euler", frame=frame)
        empty.keyframe_insert("location", frame=frame)
    bpy.context.scene.frame_set(1)
    first = curves(obj, put(obj))
    bpy.context.scene.frame_set(30)
    again = curves(obj, put(obj))
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[each], again[each]) for each in first)


@pytest.mark.parametrize("how", ["disabled", "eye", "excluded", "parent"])
def test_hidden_rigs_are_where_they_will_be_shown(obj: Any, how: str) -> None:
    obj.rotation_euler, obj.scale, obj.location = (0, 0, 1.5), (0.01, 0.01, 0.01), (1, 2, 3)
    layer = bpy.context.view_layer.layer_collection
    if how == "eye":
        obj.hide_set(True)
    elif how == "excluded":
        collection = bpy.data.collections.new("hidden")
        bpy.context.scene.collection.children.link(collection)
        collection.objects.link(obj)
        bpy.context.scene.collection.objects.unlink(obj)
        layer.children["hidden"].exclude = True
    else:
        obj.hide_viewport = True
    if how == "parent":
        obj.parent = bpy.data.objects.new("Empty", None)
        bpy.context.scene.collection.objects.link(obj.parent)
        obj.parent.rotation_euler, obj.parent.hide_viewport = (1.5, 0, 0), True
    report = put(obj)
    obj.hide_viewport = False
    if how == "eye":
        obj.hide_set(False)
    elif how == "excluded":
        layer.children["hidden"].exclude = False
    bpy.context.view_layer.update()
    at, joints = heads(obj, report), walk(POSES)
    way = at["pelvis"] - at["pelvis"][0] - report["scale"] * (joints[:, 0] - joints[0, 0])
    assert np.abs(way).max() < 1e-3 * report["scale"]


def test_influence_that_was_turned_down_comes_back(obj: Any) -> None:
    obj.pose.bones[f"{PRE}Head"].keyframe_insert("rotation_quaternion", frame=1)
    data = obj.animation_data
    compat.push_down(obj, data.action, None, "strip")
    data.action, data.action_influence = None, 0.3
    motion = Motion(walk(POSES)[None], None, np.array([POSES]))
    react.write_takes(obj, motion, "clip", 1, bpy.context.scene, RAW)
    assert data.action_influence == 1.0


def test_what_does_nothing_owns_nothing(obj: Any) -> None:
    obj.pose.bones[f"{PRE}LeftArm"].constraints.new("COPY_ROTATION")  # of nobody
    obj.pose.bones[f"{PRE}LeftLeg"].constraints.new("IK").chain_count = 2
    for channel, mute in (("rotation_euler", False), ("rotation_quaternion", True)):  # the bone turns by quaternions
        driver = obj.driver_add(f'pose.bones["{PRE}RightArm"].{channel}', 0)
        driver.driver.expression, driver.mute = "0.5", mute
    assert not check(obj)["skipped"]


def test_an_ik_from_the_head_of_its_bone_bends_what_it_hangs_on(obj: Any) -> None:
    ik = obj.pose.bones[f"{PRE}LeftFoot"].constraints.new("IK")
    ik.target, ik.subtarget, ik.chain_count, ik.use_tail = obj, f"{PRE}Head", 2, False
    rig = armature.read_rig(obj)
    assert {rig.names[row] for row in np.flatnonzero(rig.owned)} == {f"{PRE}LeftUpLeg", f"{PRE}LeftLeg"}


def test_tweak_mode_is_said_and_nothing_is_left(obj: Any) -> None:
    obj.pose.bones[f"{PRE}Head"].keyframe_insert("rotation_quaternion", frame=1)
    data = obj.animation_data
    compat.push_down(obj, data.action, None, "strip")
    data.action = None
    data.nla_tracks.active = data.nla_tracks[0]
    data.nla_tracks[0].strips[0].select = True
    data.use_tweak_mode = True
    before = list(bpy.data.actions)
    motion = Motion(walk(POSES)[None], None, np.array([POSES]))
    for write in (put, lambda obj: react.write_takes(obj, motion, "clip", 1, bpy.context.scene, RAW)):
        with pytest.raises(HeroError, match="Tweak Mode"):
            write(obj)
        assert list(bpy.data.actions) == before
        assert data.use_tweak_mode


def test_another_object_edits_the_same_bones(obj: Any) -> None:
    other = bpy.data.objects.new("other", obj.data)
    bpy.context.scene.collection.objects.link(other)
    bpy.context.view_layer.objects.active = obj
    bpy.ops.object.mode_set(mode="EDIT")
    try:
        with pytest.raises(HeroError, match="Edit Mode"):
            put(other)
        assert not bpy.data.actions
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")


def test_what_hides_the_motion_is_said(obj: Any) -> None:
    empty = bpy.data.objects.new("Empty", None)
    bpy.context.scene.collection.objects.link(empty)
    obj.pose.bones[f"{PRE}Hips"].constraints.new("COPY_LOCATION").target = empty
    obj.data.pose_position = "REST"
    assert not any("solo" in each for each in put(obj)["left_alone"])
    obj.animation_data.nla_tracks.new().is_solo = True
    told = put(obj)["left_alone"]
    assert any("solo" in each for each in told)
    assert any("Hips" in each and "Copy Location" in each for each in told)
    assert any("Rest Position" in each for each in told)


def test_an_asset_is_not_removed(obj: Any) -> None:
    obj.pose.bones[f"{PRE}Head"].keyframe_insert("rotation_quaternion", frame=1)
    pose = obj.animation_data.action
    pose.asset_mark()
    motion = Motion(walk(POSES)[None], None, np.array([POSES]))
    react.write_takes(obj, motion, "clip", 1, bpy.context.scene, Options(action="replace"))
    assert pose.name in bpy.data.actions
