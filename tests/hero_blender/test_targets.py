# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the motion goes: few keys with handles, the Action that was there, root motion, and rigs of every standing."""

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
from hero_core.retarget.frames import whole_frames
from hero_core.retarget.options import Options
from hero_core.retarget.reduce import few_keys
from hero_core.retarget.rotations import unit

bpy = pytest.importorskip("bpy")

from characters import mixamo  # noqa: E402

from hero_blender import armature, bone_map, compat, react, rigfile  # noqa: E402
from hero_core import retarget  # noqa: E402

Array = npt.NDArray[Any]
RAW = Options(pin_feet=False, smooth=False, reduce=False)
ENDS = ("LeftHand", "RightHand", "LeftFoot", "RightFoot")


def motion(count: int = 24, takes: int = 1, seed: int = 0) -> Motion:
    return Motion(np.stack([walk(count, 30.0 * take) for take in range(takes)]), None, np.full(takes, count), seed=seed)


def put(obj: Any, options: Options, count: int = 24, **more: Any) -> dict[str, Any]:
    return rigfile.retarget_motion(obj, motion(count), options=options, **more)


def write(obj: Any, options: Options, seed: int = 0, takes: int = 1) -> dict[str, Any]:
    return react.write_takes(obj, motion(24, takes, seed), "clip", 5, bpy.context.scene, options)


def place(obj: Any, bone: str, frame: float) -> Array:
    """(3,) evaluated head in the scene, Y up."""
    bpy.context.scene.frame_set(int(frame // 1), subframe=frame % 1)
    shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get())
    x, y, z = shown.matrix_world @ shown.pose.bones[bone].head
    return np.array([x, z, -y])


def values(obj: Any, action: Any) -> dict[tuple[str, int], list[tuple[float, ...]]]:
    return {
        (curve.data_path, curve.array_index): [
            (*key.co, *key.handle_left, *key.handle_right) for key in curve.keyframe_points
        ]
        for curve in compat.fcurves_of(action, obj)
    }


# --- Few keys ---


@pytest.mark.parametrize("mode", ["QUATERNION", "ZXY", "AXIS_ANGLE"])
def test_blender_draws_the_curves_that_were_fitted(blend: Any, mode: str) -> None:
    obj = mixamo(bpy)
    for bone in obj.pose.bones:
        bone.rotation_mode = mode
    rig = armature.read_rig(obj)
    frames = whole_frames(11 + 1.25 * np.arange(50), True)
    keys = retarget.solve(walk(50), rig, bone_map.find(obj, rig), RAW, at=(frames - 11) / 1.25)
    curves = few_keys(keys, rig, dict.fromkeys(rig.names, mode), frames, Options())
    action = armature.write_action(obj, keys, "few", frames, curves)
    for curve in compat.fcurves_of(action, obj):
        name, channel = curve.data_path.split('"')[1], curve.data_path.rpartition(".")[2]
        wanted = curves[name].at(frames)[channel][:, curve.array_index]
        got = np.array([curve.evaluate(frame) for frame in frames])
        assert np.abs(got - wanted).max() < 2e-5 * max(1.0, np.abs(wanted).max())
        for key in curve.keyframe_points:
            assert key.co[0] == round(key.co[0])
            assert key.interpolation == "BEZIER"
            assert key.handle_left_type == key.handle_right_type


def test_channels_of_a_bone_are_keyed_together(blend: Any) -> None:
    obj = mixamo(bpy)
    report = put(obj, replace(RAW, reduce=True), 60)
    frames: dict[str, set[tuple[float, ...]]] = {}
    for curve in compat.fcurves_of(bpy.data.actions[report["action"]], obj):
        frames.setdefault(curve.group.name, set()).add(tuple(key.co[0] for key in curve.keyframe_points))
    assert all(len(each) == 1 for each in frames.values())
    assert report["keys"]["written"] < 0.4 * report["keys"]["every_frame"]


# --- The Action that was there ---


def with_action(obj: Any) -> Any:
    """A finger-like bone that the takes do not move, and an Action of the animator's on it and on an arm."""
    bone = obj.pose.bones["mixamorig:RightToeBase"]
    bone.rotation_mode = "XYZ"
    for frame, angle in ((1, 0.0), (30, 1.0)):
        bone.rotation_euler = (angle, 0, 0)
        bone.keyframe_insert("rotation_euler", frame=frame)
    action = obj.animation_data.action
    action.name = "mine"
    return action


def test_keep(blend: Any) -> None:
    obj = mixamo(bpy)
    old = with_action(obj)
    before = values(obj, old)
    report = write(obj, RAW)
    assert report["action"] == "clip take 1 seed 0"
    assert old.use_fake_user and bpy.data.actions["mine"] == old
    assert values(obj, old) == before
    assert compat.assigned_action(obj)[0].name == report["action"]


def test_replace_and_the_same_name_again(blend: Any) -> None:
    obj = mixamo(bpy)
    with_action(obj)
    first = write(obj, replace(RAW, action="replace"))
    assert [action.name for action in bpy.data.actions] == [first["action"]]
    kept = values(obj, bpy.data.actions[first["action"]])
    bpy.context.scene.frame_set(17)
    second = write(obj, replace(RAW, action="replace"))
    assert second["action"] == first["action"] == second["takes"][0]["action"]
    assert [action.name for action in bpy.data.actions] == [first["action"]]
    assert values(obj, bpy.data.actions[second["action"]]) == kept
    other = mixamo(bpy, "other")
    compat.assign_action(other, bpy.data.actions[first["action"]])
    write(obj, replace(RAW, action="replace"), seed=4)
    assert first["action"] in bpy.data.actions  # somebody else uses it


def test_layer_and_nla(blend: Any) -> None:
    for how in ("layer", "nla"):
        bpy.ops.wm.read_factory_settings(use_empty=True)
        obj = mixamo(bpy)
        with_action(obj)
        plain = mixamo(bpy, "plain")
        report = write(obj, replace(RAW, action=how), takes=2)
        put(plain, RAW, first_frame=5)
        tracks = obj.animation_data.nla_tracks
        assert tracks[0].name == "mine"
        assert tracks[0].strips[0].action.name == "mine"
        if bpy.app.version >= (4, 4):
            assert all(strip.action_slot is not None for track in tracks for strip in track.strips)
        active = compat.assigned_action(obj)[0]
        assert (active.name if active else None) == (report["action"] if how == "layer" else None)
        if how == "nla":
            assert [track.name for track in tracks] == ["mine", "clip take 2 seed 1", "clip take 1 seed 0"]
            assert [track.strips[0].mute for track in tracks] == [False, True, False]
        for frame in (5, 12, 20):
            for bone in ("mixamorig:LeftHand", "mixamorig:RightFoot", "mixamorig:Hips"):
                a, b = place(obj, bone, frame), place(plain, bone, frame)
                assert np.linalg.norm(a - b) < 1e-4, (how, frame, bone)
        bpy.context.scene.frame_set(20)
        shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get()).pose.bones["mixamorig:RightToeBase"]
        assert shown.rotation_euler[0] > 0.2  # what the take does not key shows through


def test_an_error_while_placing_leaves_all_as_it_was(blend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    obj = mixamo(bpy)
    old = with_action(obj)

    def fail(*_: Any) -> None:
        raise HeroError("no")

    monkeypatch.setattr(compat, "push_down", fail)
    with pytest.raises(HeroError, match="no"):
        write(obj, replace(RAW, action="layer"))
    assert compat.assigned_action(obj)[0] == old
    assert [action.name for action in bpy.data.actions] == ["mine"]
    assert not obj.animation_data.nla_tracks


# --- Who carries the way ---


@pytest.mark.parametrize("turned", [False, True])
def test_the_object_carries_the_way_and_twice_gives_the_same(blend: Any, turned: bool) -> None:
    obj = mixamo(bpy)
    if turned:
        empty = bpy.data.objects.new("Empty", None)
        bpy.context.scene.collection.objects.link(empty)
        empty.rotation_euler, empty.scale = (0.3, 0.2, 1.0), (2.0, 2.0, 2.0)
        obj.parent, obj.location, obj.scale = empty, (1.0, 2.0, 0.0), (0.5, 0.5, 0.5)
        obj.rotation_euler = (1.57, 0, 0)
    stood = tuple(obj.location)
    bpy.context.scene.render.fps = 20  # every pose stands on a frame
    options = replace(RAW, root="object")
    report = put(obj, options, first_frame=3)
    joints = walk(24)
    hips = np.array([place(obj, "mixamorig:Hips", 3 + i * report["frames_per_pose"]) for i in range(0, 24, 6)])
    way = report["scale"] * (joints[::6, 0] - joints[0, 0])
    assert np.abs(hips - hips[0] - way).max() < 0.003 * report["scale"]
    path = values(obj, bpy.data.actions[report["action"]])
    assert np.allclose([path["location", axis][0][1] for axis in range(3)], stood, atol=1e-5)
    bpy.context.scene.frame_set(20)
    assert (np.array(obj.location) - stood).any()
    again = put(obj, options, first_frame=3)
    twice = values(obj, bpy.data.actions[again["action"]])
    assert twice.keys() == path.keys()
    assert all(np.allclose(twice[curve], path[curve], atol=1e-5) for curve in path)
    back = put(obj, RAW, first_frame=3)
    assert np.allclose(obj.location, stood, atol=1e-5)
    assert not any(path == "location" for path, _ in values(obj, bpy.data.actions[back["action"]]))


@pytest.mark.parametrize("turned", [False, True])
def test_few_keys_on_the_object_too(blend: Any, turned: bool) -> None:
    obj = mixamo(bpy)
    if turned:
        obj.location, obj.rotation_euler, obj.scale = (1.0, 2.0, 0.0), (0.2, 0.1, 2.0), (0.01, 0.01, 0.01)
    options = replace(RAW, root="object")

    def shown(report: dict[str, Any]) -> dict[str, Array]:
        frames = range(3, 3 + 71, 2)
        return {end: np.array([place(obj, f"mixamorig:{end}", frame) for frame in frames]) for end in ENDS}

    every = put(obj, options, 60, first_frame=3)
    before = shown(every)
    few = put(obj, replace(options, reduce=True), 60, first_frame=3)
    after = shown(few)
    path = values(obj, bpy.data.actions[few["action"]])
    assert len(path["location", 0]) == len(path["location", 2]) < 30  # of 72 frames
    for end in ENDS:
        off = np.linalg.norm(after[end] - before[end], axis=-1).max() / few["size"]
        assert off < 0.0056, end
    # Once more, from where the rig stands now: the same to the bit.
    again = put(obj, replace(options, reduce=True), 60, first_frame=3)
    assert values(obj, bpy.data.actions[again["action"]]) == path


# --- Rigs of every standing ---


def test_an_override_of_a_linked_rig_takes_an_action_and_nothing_else(blend: Any, tmp_path: Path) -> None:
    mixamo(bpy, "hero")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "library.blend"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    with bpy.data.libraries.load(str(tmp_path / "library.blend"), link=True) as (_, to):
        to.objects = ["hero"]
    override = bpy.data.objects["hero"].override_create(remap_local_usages=True)
    bpy.context.scene.collection.objects.link(override)
    report = write(override, Options(action="layer"))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    obj = next(each for each in bpy.data.objects if each.type == "ARMATURE" and each.override_library)
    assert obj.data.library is not None
    assert compat.assigned_action(obj)[0].name == report["action"]
    a, b = place(obj, "mixamorig:LeftFoot", 5), place(obj, "mixamorig:LeftFoot", 15)
    assert np.linalg.norm(a - b) > 0.2


def test_a_bone_that_a_driver_owns_is_said_and_left_alone(blend: Any) -> None:
    obj = mixamo(bpy)
    obj.pose.bones["mixamorig:Head"].rotation_mode = "XYZ"
    driver = obj.driver_add('pose.bones["mixamorig:Head"].rotation_euler', 0)
    driver.driver.expression = "0.5"
    report = put(obj, Options())
    assert report["skipped"] == ["mixamorig:Head"]
    assert not any('"mixamorig:Head"' in path for path, _ in values(obj, bpy.data.actions[report["action"]]))


@pytest.mark.parametrize("case", ["negative scale", "no bones", "NaN"])
def test_what_cannot_be_is_one_sentence(blend: Any, case: str) -> None:
    if case == "no bones":
        obj = bpy.data.objects.new("Empty", bpy.data.armatures.new("Empty"))
        bpy.context.scene.collection.objects.link(obj)
    else:
        obj = mixamo(bpy)
    if case == "negative scale":
        obj.scale = (1.0, -1.0, 1.0)
    take = motion()
    if case == "NaN":
        take.joints[0, 3, 5, 1] = np.nan
    with pytest.raises(HeroError, match=case):
        react.write_takes(obj, take, "clip", 1, bpy.context.scene, Options())
    assert not bpy.data.actions


def test_limits_are_read_and_respected(blend: Any) -> None:
    obj = mixamo(bpy)
    knee = obj.pose.bones["mixamorig:LeftLeg"]
    knee.use_ik_limit_x, knee.ik_min_x, knee.ik_max_x = True, -0.2, 0.3
    limit = obj.pose.bones["mixamorig:RightLeg"].constraints.new("LIMIT_ROTATION")
    limit.owner_space, limit.use_limit_x, limit.min_x, limit.max_x = "LOCAL", True, -0.1, 0.1
    rig = armature.read_rig(obj)
    assert rig.limits is not None
    assert rig.limits[rig.index["mixamorig:LeftLeg"], 0] == pytest.approx([-0.2, 0.3])
    assert rig.limits[rig.index["mixamorig:RightLeg"], 0] == pytest.approx([-0.1, 0.1])
    assert np.isinf(rig.limits[rig.index["mixamorig:LeftLeg"], 1:]).all()
    report = put(obj, replace(RAW, limits=True))
    for bone in ("LeftLeg", "RightLeg"):
        curves = [
            [key.co[1] for key in curve.keyframe_points]
            for curve in compat.fcurves_of(bpy.data.actions[report["action"]], obj)
            if f":{bone}" in curve.data_path
        ]
        assert 2 * np.degrees(np.arcsin(np.abs(np.array(curves)[1]).max())) < 20


def test_scale_of_a_hundredth_and_a_quarter_turn_as_fbx_has_it(blend: Any) -> None:
    obj = mixamo(bpy)
    obj.scale, obj.rotation_euler = (0.01, 0.01, 0.01), (np.pi / 2, 0, 0)
    bpy.context.view_layer.update()
    joints = walk(24)
    report = put(obj, Options(pin_feet=False, smooth=False))
    for pose in (0, 9, 20):
        frame = 1 + pose * report["frames_per_pose"]
        got = unit(place(obj, "mixamorig:LeftLeg", frame) - place(obj, "mixamorig:LeftUpLeg", frame))
        want = unit(joints[pose, J["left_knee"]] - joints[pose, J["left_hip"]])
        assert np.degrees(np.arccos(np.clip(got @ want, -1, 1))) < 1.5


def test_a_preset_switches_the_rig_over_to_the_bones_that_are_keyed(blend: Any) -> None:
    """Auto-Rig Pro: FK controls are keyed, so its limbs have to follow them and not the IK controls."""
    obj = mixamo(blend)
    names = {"Hips": "c_root_master.x", "Neck": "c_neck.x", "Head": "c_head.x"}
    names |= {f"Spine{number or ''}": f"c_spine_0{number + 1}.x" for number in range(3)}
    for side, ending in (("Left", ".l"), ("Right", ".r")):
        for own, theirs in (
            ("Shoulder", "c_shoulder"), ("Arm", "c_arm_fk"), ("ForeArm", "c_forearm_fk"), ("Hand", "c_hand_fk"),
            ("UpLeg", "c_thigh_fk"), ("Leg", "c_leg_fk"), ("Foot", "c_foot_fk"), ("ToeBase", "c_toes_fk"),
        ):  # fmt: skip
            names[side + own] = theirs + ending
    for bone in list(obj.data.bones):
        bone.name = names.get(bone.name.removeprefix("mixamorig:"), bone.name)
    bpy.context.view_layer.objects.active = obj
    bpy.ops.object.mode_set(mode="EDIT")
    for name in ("c_hand_ik.l", "c_hand_ik.r", "c_foot_ik.l"):
        added = obj.data.edit_bones.new(name)
        added.head, added.tail = (0, 1, 0), (0, 1, 0.1)
    bpy.ops.object.mode_set(mode="OBJECT")
    for name in ("c_hand_ik.l", "c_foot_ik.l"):
        obj.pose.bones[name]["ik_fk_switch"] = 0.0
    report = put(obj, RAW)
    assert {each["how"] for each in report["found"].values()} == {"preset Auto-Rig Pro, FK controls"}
    bpy.context.scene.frame_set(int(report["first_frame"]))
    assert obj.pose.bones["c_hand_ik.l"]["ik_fk_switch"] == obj.pose.bones["c_foot_ik.l"]["ik_fk_switch"] == 1.0
    assert "ik_fk_switch" not in obj.pose.bones["c_hand_ik.r"]
