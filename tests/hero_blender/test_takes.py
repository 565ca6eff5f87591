# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes know what they were made from: made again, changed in part, shown, compared, deleted; to the bit where said."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
pytest.importorskip("av", reason="needs PyAV to make test movies")

from characters import mixamo  # noqa: E402
from models import write_tiny  # noqa: E402
from movies import write_movie  # noqa: E402

from hero_blender import compat, edit_take, react, takes  # noqa: E402
from hero_blender.place import Choice  # noqa: E402
from hero_blender.react import Settings, react_strip, react_video, straight  # noqa: E402
from hero_blender.seam import Join  # noqa: E402
from hero_core import place  # noqa: E402
from hero_core.errors import HeroError  # noqa: E402
from hero_core.retarget.options import Options  # noqa: E402

EVERY = Options(reduce=False, smooth=False, pin_feet=False)


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movie(tmp_path_factory.mktemp("movie") / "numbers.mp4", 60, size=(64, 48))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def scene(blend: Any) -> Any:
    blend.context.scene.render.fps = 20
    blend.context.scene.render.resolution_x, blend.context.scene.render.resolution_y = 64, 48
    return blend.context.scene


@pytest.fixture
def rig(scene: Any) -> Any:
    return mixamo(bpy)


@pytest.fixture
def made(scene: Any, rig: Any, model: str, movie: Path) -> Any:
    """The Action of a take of a file, keys on each pose at frames 11..70."""
    settings = Settings(seconds=3.0, seed=5, model=model, dtype="float32", fit=EVERY)
    report = react_video(scene, str(movie), "numbers", 11, rig, settings)
    return bpy.data.actions[report["action"]]


def curves(action: Any) -> dict[tuple[str, int], Any]:
    found = {}
    for curve in takes.curves(action):
        keys = np.empty(2 * len(curve.keyframe_points))
        curve.keyframe_points.foreach_get("co", keys)
        found[curve.data_path, curve.array_index] = keys.reshape(-1, 2)
    return found


def same_keys(a: Any, b: Any) -> None:
    one, other = curves(a), curves(b)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path])


def stays_outside(one: Any, other: Any, first: int, last: int) -> None:
    """All keys outside of a part are there, to the bit; a rotation behind it may have all its signs turned."""
    for path, keys in one.items():
        before, behind = keys[keys[:, 0] < first], keys[keys[:, 0] > last]
        now = other[path]
        np.testing.assert_array_equal(now[now[:, 0] < first], before)
        found = now[now[:, 0] > last]
        if path[0].endswith("quaternion"):
            behind, found = np.abs(behind), np.abs(found)
        np.testing.assert_array_equal(found, behind)


def action_of(report: dict[str, Any], index: int = 0) -> Any:
    return bpy.data.actions[report["takes"][index]["action"]]


def test_what_is_recorded(made: Any, rig: Any, movie: Path, model: str) -> None:
    take = takes.read(made)
    assert (take.character, take.seed, take.number, take.frames, take.first_frame) == (rig.name, 5, 1, 60, 11)
    assert (take.source.name, take.source.kind, take.source.path) == ("numbers", "file", str(movie))
    assert take.source.seconds == pytest.approx(60 / 25, abs=0.05)
    assert (take.model, take.dtype, take.scene_rate, take.rate) == (model, "float32", 20.0, 20.0)
    assert take.record is not None
    assert take.record.seed == 5 and len(take.record.clip) == 32 and len(take.record.model) == 32
    assert json.loads(made[takes.KEY])["version"] == 1
    motion, _ = react.last() or (None, None)
    assert motion is not None
    np.testing.assert_array_equal(takes.motion_of(made).take(0), motion.take(0))
    np.testing.assert_array_equal(takes.motion_of(made).features[..., 259:], motion.features[..., 259:])
    assert len(made[takes.MOTION]) * 4 < 70_000


def test_it_survives_saving_copying_and_a_rename(made: Any, rig: Any, tmp_path: Path) -> None:
    joints, text = takes.motion_of(made).take(0), made[takes.KEY]
    made.name, rig.name = "the good one", "Fred"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    action = bpy.data.actions["the good one"]
    np.testing.assert_array_equal(takes.motion_of(action).take(0), joints)
    assert action[takes.KEY] == text
    fred = bpy.data.objects["Fred"]
    assert takes.of(fred) == [action]
    assert takes.shown(fred) == action
    np.testing.assert_array_equal(takes.motion_of(action.copy()).take(0), joints)


def test_a_take_is_made_again_bit_for_bit(scene: Any, rig: Any, made: Any, model: str) -> None:
    react.forget_model()  # the clip has to be watched again, too
    rig.location.x = 3.0
    bpy.context.view_layer.update()
    again = action_of(straight(edit_take.remake(scene, rig, made, Settings())))
    assert again != made
    same_keys(again, made)
    np.testing.assert_array_equal(takes.motion_of(again).take(0), takes.motion_of(made).take(0))
    assert takes.read(again).record == takes.read(made).record


def test_a_changed_part_leaves_the_rest_to_the_bit(scene: Any, rig: Any, made: Any) -> None:
    before = takes.motion_of(made).take(0)
    report = straight(edit_take.change_part(scene, rig, made, (31, 50), Settings()))
    new = action_of(report)
    after = takes.motion_of(new).take(0)
    np.testing.assert_array_equal(after[:20], before[:20])
    np.testing.assert_array_equal(after[40:], before[40:])
    assert np.abs(after[20:40] - before[20:40]).max() > 1e-3
    assert made.name in bpy.data.actions
    stays_outside(curves(made), curves(new), 31, 50)
    assert takes.read(new).joins == (Join(0, 30.0, 51.0),)
    # A second change builds on the first, and both are made again from the record alone.
    twice = action_of(straight(edit_take.change_part(scene, rig, new, (15, 20), Settings(), keep="path")))
    np.testing.assert_array_equal(takes.motion_of(twice).take(0)[:4], after[:4])
    stays_outside(curves(new), curves(twice), 15, 1000)
    assert len(takes.read(twice).record.edits) == len(takes.read(twice).joins) == 2
    again = action_of(straight(edit_take.remake(scene, rig, twice, Settings())))
    same_keys(again, twice)


def test_keys_set_by_hand_outlive_a_change(scene: Any, rig: Any, made: Any) -> None:
    mine = next(curve for curve in takes.curves(made) if "LeftArm" in curve.data_path and curve.array_index == 1)
    for frame in (20.5, 60.5):
        mine.keyframe_points.insert(frame, 0.77)
    new = action_of(straight(edit_take.change_part(scene, rig, made, (31, 50), Settings())))
    stays_outside(curves(made), curves(new), 31, 50)
    longer = action_of(straight(edit_take.extend(scene, rig, new, 1.0, Settings())))
    stays_outside(curves(new), curves(longer), 71, 1000)
    whole = action_of(straight(edit_take.change_part(scene, rig, made, (11, 70), Settings())))
    assert takes.read(whole).joins[-1].left is None and takes.read(whole).joins[-1].right is None


def test_a_take_that_is_gone_when_its_part_is_ready(scene: Any, rig: Any, made: Any) -> None:
    reaction = edit_take.change_part(scene, rig, made, (31, 50), Settings())
    takes.delete([made])
    with pytest.raises(HeroError, match="was deleted or renamed meanwhile"):
        straight(reaction)
    assert not bpy.data.actions


def test_replacing_keeps_the_name_and_only_one(scene: Any, rig: Any, made: Any) -> None:
    name, count = made.name, len(bpy.data.actions)
    report = straight(edit_take.change_part(scene, rig, made, (31, 50), Settings(), in_place_of_it=True))
    assert report["action"] == name
    assert len(bpy.data.actions) == count
    assert takes.shown(rig) == bpy.data.actions[name]
    assert takes.read(bpy.data.actions[name]).record.edits


def test_more_at_the_end_leaves_what_is_there(scene: Any, rig: Any, made: Any) -> None:
    before = takes.motion_of(made).take(0)
    longer = action_of(straight(edit_take.extend(scene, rig, made, 1.0, Settings())))
    after = takes.motion_of(longer).take(0)
    assert len(after) == len(before) + 20
    np.testing.assert_array_equal(after[: len(before)], before)
    assert longer.frame_range[1] == pytest.approx(made.frame_range[1] + 20)
    with pytest.raises(HeroError, match="can grow by"):
        straight(edit_take.extend(scene, rig, made, 30.0, Settings()))


def test_more_like_this_begins_alike(scene: Any, rig: Any, made: Any) -> None:
    report = straight(edit_take.more_like_this(scene, rig, made, 2, Settings()))
    before = takes.motion_of(made).take(0)
    made_of = [takes.motion_of(action_of(report, i)).take(0) for i in range(2)]
    for one in made_of:
        np.testing.assert_array_equal(one[:20], before[:20])
        assert np.abs(one[20:] - before[20:]).max() > 1e-3
    assert np.abs(made_of[0] - made_of[1]).max() > 1e-3
    seeds = [take["seed"] for take in report["takes"]]
    assert seeds == [6, 7]
    assert [take["action"] for take in report["takes"]] == [f"numbers take 1 like {seed}" for seed in seeds]


def test_more_takes_watch_nothing_again(
    scene: Any, rig: Any, made: Any, movie: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hero_core.hero import Hero

    monkeypatch.setattr(Hero, "encode", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(react, "read_video", lambda *_, **__: pytest.fail("read again"))
    report = straight(edit_take.more(scene, rig, made, 2, Settings()))
    assert [take["action"] for take in report["takes"]] == ["numbers take 2 seed 6", "numbers take 3 seed 7"]
    assert {take["frames"] for take in report["takes"]} == {60}
    further = straight(edit_take.more(scene, rig, action_of(report), 1, Settings()))
    assert further["takes"][0]["action"] == "numbers take 4 seed 8"
    monkeypatch.undo()
    alone = react_video(
        scene,
        str(movie),
        "numbers",
        11,
        rig,
        replace(Settings(seconds=3.0, dtype="float32", fit=EVERY), model=takes.read(made).model, seed=7),
    )
    np.testing.assert_array_equal(
        takes.motion_of(action_of(alone)).take(0), takes.motion_of(action_of(report, 1)).take(0)
    )


def test_a_clip_that_is_not_there_any_more(scene: Any, rig: Any, made: Any, tmp_path: Path) -> None:
    react.forget_model()
    takes.change(made, source=replace(takes.read(made).source, path=str(tmp_path / "gone.mp4")))
    with pytest.raises(HeroError, match="has to be watched again, and it is not there"):
        straight(edit_take.more(scene, rig, made, 1, Settings()))
    other = write_movie(tmp_path / "other.mp4", 33, size=(48, 64))
    with pytest.raises(HeroError, match="no longer the one that the take reacts to"):
        straight(edit_take.more(scene, rig, made, 1, Settings(), clip=str(other)))


def test_features_on_the_disk_outlive_the_session(
    scene: Any, rig: Any, model: str, movie: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hero_core.hero import Hero

    settings = Settings(seconds=1.0, model=model, cache=str(tmp_path / "cache"))
    action = action_of(react_video(scene, str(movie), "numbers", 1, rig, settings))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    react.forget_model()
    monkeypatch.setattr(Hero, "encode", lambda *_: pytest.fail("encoded again"))
    straight(edit_take.more(scene, rig, action, 1, settings))


def test_other_weights_are_told(scene: Any, rig: Any, made: Any, tmp_path: Path) -> None:
    takes.change(made, model=str(write_tiny(tmp_path / "other", seed=9)))
    with pytest.raises(HeroError, match="other weights"):
        straight(edit_take.change_part(scene, rig, made, (31, 50), Settings()))
    assert len(bpy.data.actions) == 1


def test_fit_again_needs_no_model(scene: Any, rig: Any, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(react, "load_model", lambda *_: pytest.fail("loaded"))
    settings = Settings(fit=EVERY, place=Choice(delay_frames=5))
    again = action_of(edit_take.fit_again(scene, rig, made, settings))
    one, other = curves(made), curves(again)
    for path in one:
        np.testing.assert_array_equal(one[path][:, 1], other[path][:, 1])
        np.testing.assert_array_equal(one[path][:, 0] + 5, other[path][:, 0])


def test_frames_of_the_scene(scene: Any, rig: Any, made: Any) -> None:
    assert edit_take.range_of(rig, made) == (11, 70)
    assert edit_take.poses_between(rig, made, 11, 70) == (0, 60)
    assert edit_take.poses_between(rig, made, 31, 40) == (20, 30)
    assert edit_take.poses_between(rig, made, -50, 12) == (0, 2)
    with pytest.raises(HeroError, match="goes from 11 to 70"):
        edit_take.poses_between(rig, made, 80, 90)
    context = bpy.context
    scene.frame_current = 40
    assert edit_take.proposed_range(context, rig, made) == (30, 50)
    scene.frame_current = 500
    assert edit_take.proposed_range(context, rig, made) == (11, 70)
    scene.frame_current = 40
    for curve in takes.curves(made):  # of new keys all are selected, which means nothing
        for key in curve.keyframe_points:
            key.select_control_point = 20 <= key.co[0] <= 28
    assert edit_take.proposed_range(context, rig, made) == (20, 28)
    scene.use_preview_range, scene.frame_preview_start, scene.frame_preview_end = True, 5, 30
    assert edit_take.proposed_range(context, rig, made) == (11, 30)


def test_in_the_nla_frames_and_takes_are_found(scene: Any, rig: Any, model: str, movie: Path) -> None:
    settings = Settings(takes=2, seconds=2.0, model=model, fit=replace(EVERY, action="nla"))
    report = react_video(scene, str(movie), "numbers", 11, rig, settings)
    first, second = (action_of(report, i) for i in range(2))
    assert rig.animation_data.action is None
    assert takes.shown(rig) == first
    takes.show(rig, second)
    assert takes.shown(rig) == second
    strip = next(s for t in rig.animation_data.nla_tracks for s in t.strips if s.action == second)
    strip.frame_start_ui, _ = 111, strip.frame_end
    assert edit_take.range_of(rig, second) == (111, 150)
    assert edit_take.poses_between(rig, second, 121, 130) == (10, 20)


def test_show_plays_it(scene: Any, rig: Any, made: Any) -> None:
    report = straight(edit_take.more(scene, rig, made, 1, Settings()))
    other = action_of(report)
    assert takes.shown(rig) == other

    def pose() -> Any:
        scene.frame_set(40)
        bpy.context.view_layer.update()
        return np.array([bone.matrix for bone in rig.pose.bones])

    second = pose()
    takes.show(rig, made)
    first = pose()
    assert np.abs(first - second).max() > 1e-3
    takes.show(rig, other)
    np.testing.assert_array_equal(pose(), second)


def test_delete_shows_the_next(scene: Any, rig: Any, made: Any) -> None:
    other = action_of(straight(edit_take.more(scene, rig, made, 1, Settings())))
    name = made.name
    takes.delete([other])
    assert takes.shown(rig) == bpy.data.actions[name]
    takes.delete([bpy.data.actions[name]])
    assert not bpy.data.actions
    assert takes.shown(rig) is None
    assert all(np.allclose(bone.matrix_basis, np.eye(4)) for bone in rig.pose.bones)


def test_damaged_records_are_told(made: Any, rig: Any) -> None:
    text, motion = made[takes.KEY], list(made[takes.MOTION])
    for broken in ("", "{", "[]", '{"version": 1}', text.replace('"frames": 60', '"frames": "x"', 1)):
        made[takes.KEY] = broken
        with pytest.raises(HeroError):
            takes.read(made)
        assert not takes.belongs(made, rig)
    made[takes.KEY] = text.replace('"version": 1', '"version": 2', 1)
    with pytest.raises(HeroError, match="newer version"):
        takes.read(made)
    made[takes.KEY] = text
    made[takes.MOTION] = motion[: len(motion) // 2]
    with pytest.raises(HeroError, match="lost its motion"):
        takes.motion_of(made)


# --- place ---


def world_joint(rig: Any, frame: int, bone: str) -> Any:
    bpy.context.scene.frame_set(frame)
    bpy.context.view_layer.update()
    return np.array((rig.matrix_world @ rig.pose.bones[f"mixamorig:{bone}"].matrix).translation)


def faces(rig: Any, frame: int) -> float:
    """Degrees from -Y, as seen from above: what the hips and shoulders say."""
    across = world_joint(rig, frame, "LeftUpLeg") - world_joint(rig, frame, "RightUpLeg")
    across = across + world_joint(rig, frame, "LeftArm") - world_joint(rig, frame, "RightArm")
    return math.degrees(math.atan2(across[1], across[0]))


def facing_of(motion: Any) -> float:
    return math.degrees(place.facing(motion.take(0)[0]))


def test_as_the_character_stands(scene: Any, rig: Any, movie: Path) -> None:
    parent = bpy.data.objects.new("carrier", None)
    scene.collection.objects.link(parent)
    parent.location, parent.rotation_euler.z = (4, -2, 1), math.radians(30)
    rig.parent, rig.rotation_euler.z, rig.location = parent, math.radians(70), (1, 0, 0)
    bpy.context.view_layer.update()
    settings = Settings(seconds=1.0, fit=EVERY)
    react_video(scene, str(movie), "numbers", 1, rig, settings)
    assert abs((faces(rig, 1) - 100 + 180) % 360 - 180) < 3
    stands = np.array(rig.matrix_world @ rig.data.bones["mixamorig:Hips"].head_local)
    np.testing.assert_allclose(world_joint(rig, 1, "Hips")[:2], stands[:2], atol=1e-3)


def test_towards_the_camera_and_objects_at_the_origin(scene: Any, rig: Any, movie: Path) -> None:
    rig.location, rig.rotation_euler.z, rig.scale = (5, 1, 0.5), 1.0, (1.2, 1.2, 1.2)
    target = bpy.data.objects.new("fire", None)
    scene.collection.objects.link(target)
    target.location = (-3, 4, 2)
    target.keyframe_insert("location", frame=1)
    target.location = (40, 40, 2)
    target.keyframe_insert("location", frame=30)
    scene.frame_set(30)  # it is where it is at the first frame that counts
    settings = Settings(seconds=1.0, fit=EVERY, place=Choice(face="object", target="fire", begin="origin"))
    react_video(scene, str(movie), "numbers", 1, rig, settings)
    assert scene.frame_current == 30
    hips = world_joint(rig, 1, "Hips")
    np.testing.assert_allclose(hips[:2], 0, atol=1e-3)
    ankles = min(world_joint(rig, 1, f"{side}Foot")[2] for side in ("Left", "Right"))
    assert -0.2 < ankles < 1.0  # on the floor of the scene, not half a metre above it
    assert abs((faces(rig, 1) - math.degrees(math.atan2(-3, -4)) + 180) % 360 - 180) < 3
    with pytest.raises(HeroError, match="no camera to face"):
        react_video(scene, str(movie), "x", 1, rig, replace(settings, place=Choice(face="camera")))
    with pytest.raises(HeroError, match="no object 'nobody'"):
        react_video(scene, str(movie), "x", 1, rig, replace(settings, place=Choice(face="object", target="nobody")))


def test_delay_and_time_scale(scene: Any, rig: Any, movie: Path) -> None:
    strip = compat.new_movie_strip(scene, "clip", str(movie), 1, 31)
    there = Choice(delay_frames=3, delay_seconds=-0.5, time_scale=2.0)
    action = action_of(react_strip(scene, strip, rig, Settings(seconds=1.0, fit=EVERY, place=there)))
    assert tuple(action.frame_range) == (24, 24 + 19 * 2)
    assert takes.read(action).source.start == 31
    assert edit_take.poses_between(rig, action, 24, 34) == (0, 6)


def test_mirrored(scene: Any, rig: Any, movie: Path) -> None:
    settings = Settings(seconds=1.0, fit=EVERY)
    plain = action_of(react_video(scene, str(movie), "numbers", 1, rig, settings))
    left = world_joint(rig, 15, "LeftHand") - world_joint(rig, 15, "Hips")
    react_video(scene, str(movie), "numbers", 1, rig, replace(settings, place=Choice(mirror=True)))
    right = world_joint(rig, 15, "RightHand") - world_joint(rig, 15, "Hips")
    np.testing.assert_allclose(right, left * [-1, 1, 1], atol=0.02)
    assert takes.read(plain).record.tokens == takes.read(takes.shown(rig)).record.tokens


def test_it_follows_the_pose_that_the_character_has(scene: Any, rig: Any, movie: Path) -> None:
    rig.location, rig.rotation_euler.z = (2, 3, 0), 0.8
    hips, arm = rig.pose.bones["mixamorig:Hips"], rig.pose.bones["mixamorig:LeftArm"]
    hips.location = (0.4, 0.0, 0.7)
    arm.rotation_mode, arm.rotation_euler = "XYZ", (0.9, 0.2, -0.4)
    scene.frame_set(1)
    bpy.context.view_layer.update()
    before = {b: world_joint(rig, 1, b) for b in ("Hips", "LeftForeArm", "LeftHand", "LeftUpLeg", "LeftLeg", "LeftArm")}
    heading = faces(rig, 1)
    euler = tuple(arm.rotation_euler)
    settings = Settings(seconds=2.0, fit=EVERY, place=Choice(start_pose=True))
    action = action_of(react_video(scene, str(movie), "numbers", 1, rig, settings))
    after = {b: world_joint(rig, 1, b) for b in before}
    np.testing.assert_allclose(after["Hips"][:2], before["Hips"][:2], atol=0.02)
    assert abs((faces(rig, 1) - heading + 180) % 360 - 180) < 5
    for a, b in (("LeftArm", "LeftForeArm"), ("LeftForeArm", "LeftHand"), ("LeftUpLeg", "LeftLeg")):
        was, now = (at[b] - at[a] for at in (before, after))
        angle = math.degrees(math.acos(np.clip(was @ now / np.linalg.norm(was) / np.linalg.norm(now), -1, 1)))
        assert angle < 8, (a, b, angle)
    assert takes.read(action).record.start
    again = action_of(straight(edit_take.remake(scene, rig, action, Settings())))
    same_keys(again, action)
    assert euler != (0, 0, 0)
