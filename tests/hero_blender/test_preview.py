# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview stands where the keyed rig will stand, follows the frame, and goes without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

from characters import mixamo  # noqa: E402
from skeletons import walk as walk_joints  # noqa: E402

from hero_blender import compat, preview, react, rigfile, takes, why  # noqa: E402
from hero_blender.react import About  # noqa: E402
from hero_blender.takes import Source  # noqa: E402
from hero_core.errors import HeroError  # noqa: E402
from hero_core.motion import JOINTS, Motion  # noqa: E402
from hero_core.place import Place  # noqa: E402
from hero_core.retarget.options import Options  # noqa: E402

EVERY = Options(reduce=False)


def walk(count: int = 44) -> Motion:
    return Motion(walk_joints(count)[None], None, np.array([count]))


@pytest.fixture
def rig(blend: Any) -> Any:
    blend.context.scene.render.fps = 24
    return mixamo(bpy)


@pytest.fixture
def handlers(blend: Any) -> Iterator[None]:
    preview.register()
    yield
    preview.unregister()


def counts() -> dict[str, int]:
    """How many data-blocks of each kind there are, and how many handlers."""
    kinds = {
        name: len(blocks)
        for name in dir(bpy.data)
        if not name.startswith("_") and isinstance(blocks := getattr(bpy.data, name), bpy.types.bpy_prop_collection)
    }
    lists = {name: getattr(bpy.app.handlers, name) for name in dir(bpy.app.handlers)}
    return kinds | {f"handlers {name}": len(found) for name, found in lists.items() if isinstance(found, list)}


def body() -> Any:
    return next(obj for obj in bpy.data.objects if obj.get(preview.MARK) == "body")


def corners(obj: Any) -> Any:
    return np.array([vertex.co[:] for vertex in obj.data.vertices])


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("options", [EVERY, Options(reduce=False, in_place=True), Options(reduce=False, preserve=1.0)])
def test_it_stands_where_the_keyed_rig_will_stand(rig: Any, options: Options, scale: float) -> None:
    rig.location, rig.rotation_euler, rig.scale = (3.0, -2.0, 0.5), (0.0, 0.0, 0.7), [scale] * 3
    bpy.context.scene.render.fps = 20  # every pose stands on a frame
    bpy.context.view_layer.update()
    motion = walk()
    skeleton = preview.build(rig, motion, first_frame=5, options=options)
    report = rigfile.retarget_motion(rig, motion, first_frame=5, options=options)
    assert skeleton.frames[0] == 5
    assert skeleton.size == pytest.approx(report["scale"])
    for pose in (0, 11, len(skeleton.frames) - 1):
        whole = int(skeleton.frames[pose])
        bpy.context.scene.frame_set(whole, subframe=float(skeleton.frames[pose]) - whole)
        for joint, bone in report["map"].items():
            if bone is not None:
                head = rig.matrix_world @ rig.pose.bones[bone].head
                here = skeleton.points[pose, JOINTS.index(joint)]
                assert np.linalg.norm(np.array(head) - here) < 1e-4 + 1e-3 * scale, joint


def test_joints_that_the_rig_lacks_are_there_too(blend: Any) -> None:
    rig = mixamo(bpy, without="Spine1")
    for name in ("Hand", "ToeBase"):
        bpy.ops.object.mode_set(mode="EDIT")
        for bone in [each for each in rig.data.edit_bones if name in each.name]:
            rig.data.edit_bones.remove(bone)
        bpy.ops.object.mode_set(mode="OBJECT")
    skeleton = preview.build(rig, walk())
    assert np.isfinite(skeleton.points).all()
    lengths = np.linalg.norm(skeleton.bones(["left_wrist", "left_foot", "spine2"], 3.0)[:, 0]
                             - skeleton.bones(["left_wrist", "left_foot", "spine2"], 3.0)[:, 1], axis=-1)  # fmt: skip
    assert lengths[0] == pytest.approx(0.25, abs=1e-3)  # the forearm's own length
    assert (lengths > 0.01).all()


def test_a_place_moves_turns_mirrors_and_slows_it(rig: Any) -> None:
    motion = walk()
    plain = preview.build(rig, motion)
    there = preview.build(rig, motion, place=Place(start=(1.0, 0.5, 2.0), time_scale=2.0))
    assert there.points == pytest.approx(plain.points + [1.0, -2.0, 0.5], abs=1e-9)  # Y up against Z up
    assert np.diff(there.frames) == pytest.approx(2 * np.diff(plain.frames))
    turned = preview.build(rig, motion, place=Place(turn=np.pi / 2))
    way, other = (each.points[-1, 0] - each.points[0, 0] for each in (plain, turned))
    assert other[:2] == pytest.approx([-way[1], way[0]], abs=2e-3)  # seen from above, to the left


def test_the_mesh_follows_the_frame(rig: Any) -> None:
    skeleton = preview.show(bpy.context.scene, rig, walk(), first_frame=10)
    bpy.context.scene.frame_set(10)
    first = corners(body())
    bpy.context.scene.frame_set(30)
    later = corners(body())
    travel = skeleton.at(30)[0] - skeleton.at(10)[0]
    assert np.linalg.norm(travel) > 0.3
    assert later.mean(0) - first.mean(0) == pytest.approx(travel, abs=0.1)
    half = skeleton.at((skeleton.frames[3] + skeleton.frames[4]) / 2)
    assert half == pytest.approx((skeleton.points[3] + skeleton.points[4]) / 2)
    assert skeleton.at(-100) == pytest.approx(skeleton.points[0])
    assert skeleton.at(1e6) == pytest.approx(skeleton.points[-1])
    preview.remove()


def test_feet_that_stand_are_marked_where_they_stand(rig: Any) -> None:
    still = np.repeat(walk_joints(20)[[0, 10]], 20, 0)  # on the one foot, then on the other
    skeleton = preview.build(rig, Motion(still[None], None, np.array([40])))
    assert {side for side, _ in skeleton.marks} == {0, 1}
    for side in (0, 1):
        (first, end), *_ = skeleton.stands[side]
        assert skeleton.standing(float(skeleton.frames[(first + end) // 2]))[side]
    for side, sole in skeleton.marks:
        assert np.ptp(sole[:, 2]) == pytest.approx(0.0, abs=1e-6)
        assert abs(sole[:, 2].mean()) < 0.06
        feet = skeleton.points[:, JOINTS.index(f"{('left', 'right')[side]}_foot"), :2]
        assert np.linalg.norm(feet - sole[2:, :2].mean(0), axis=-1).min() < 0.1


def test_it_goes_without_a_trace(rig: Any) -> None:
    before = counts()
    for _ in range(3):
        preview.show(bpy.context.scene, rig, walk())
        assert preview.shown() is not None
        assert len(bpy.data.collections) == before["collections"] + 1
    preview.remove()
    assert counts() == before
    assert preview.shown() is None
    preview.remove()


def test_a_take_that_does_not_fit_leaves_what_was_shown(rig: Any) -> None:
    preview.show(bpy.context.scene, rig, walk())
    other = mixamo(bpy, "other", without="Leg")
    with pytest.raises(HeroError):
        preview.show(bpy.context.scene, other, walk())
    assert preview.shown() is not None
    assert preview.armature_of() == rig
    preview.remove()


def test_keying_it_writes_the_take_that_was_shown(rig: Any) -> None:
    turned = walk_joints(44, heading=70.0)
    both = Motion(np.stack([walk_joints(44), turned]), None, np.array([44, 44]), seed=7)
    about = About(Source("lion"), number=4)
    skeleton = preview.show(bpy.context.scene, rig, both, take=1, first_frame=3, options=EVERY, about=about)
    report = preview.key()
    assert preview.shown() is None
    assert rig.animation_data.action.name == report["action"]
    assert report["action"] == "lion take 5 seed 8"
    bpy.context.scene.frame_set(3 + 24)  # a second later: pose 20
    head = rig.matrix_world @ rig.pose.bones[report["map"]["pelvis"]].head
    assert np.array(head) == pytest.approx(skeleton.points[20, 0], abs=1e-3)
    with pytest.raises(HeroError, match="no preview"):
        preview.key()


def test_it_is_never_in_a_file(rig: Any, handlers: None, tmp_path: Path) -> None:
    names = ("objects", "meshes", "materials", "collections")
    before = {name: set(getattr(bpy.data, name).keys()) for name in names}
    preview.show(bpy.context.scene, rig, walk())
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    assert body() is not None  # it is back
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    assert {name: set(getattr(bpy.data, name).keys()) for name in names} == before
    assert preview.shown() is None
    assert not [obj for obj in bpy.data.objects if preview.MARK in obj]
    assert preview._frame_changed not in bpy.app.handlers.frame_change_post


def test_undo_neither_loses_it_nor_brings_it_back(rig: Any, handlers: None) -> None:
    bpy.ops.ed.undo_push(message="before")
    preview.show(bpy.context.scene, rig, walk())
    bpy.ops.ed.undo_push(message="shown")
    bpy.data.objects["character"].location.x = 1.0
    bpy.ops.ed.undo_push(message="moved")
    bpy.ops.ed.undo()
    assert preview.shown() is not None
    assert len([obj for obj in bpy.data.objects if preview.MARK in obj]) == 8
    bpy.ops.ed.undo()  # to before it was made: it is no part of the file, so it stays
    assert len([obj for obj in bpy.data.objects if preview.MARK in obj]) == 8
    preview.remove()
    bpy.ops.ed.redo()  # a step in which it was there
    assert not [block for kind in (bpy.data.objects, bpy.data.meshes, bpy.data.collections) for block in kind
                if preview.MARK in block]  # fmt: skip


def test_its_character_may_be_deleted_or_renamed(rig: Any, handlers: None) -> None:
    preview.show(bpy.context.scene, rig, walk())
    rig.name = "another name"
    assert preview.armature_of() == rig
    bpy.data.objects.remove(rig)
    assert preview.shown() is None
    with pytest.raises(HeroError, match="no preview"):
        preview.key()
    bpy.context.scene.frame_set(12)
    preview.remove()
    assert not [obj for obj in bpy.data.objects if preview.MARK in obj]


def test_a_character_that_is_in_no_scene_any_more_is_gone(rig: Any, handlers: None) -> None:
    rig.use_fake_user = True
    preview.show(bpy.context.scene, rig, walk())
    bpy.context.scene.collection.objects.unlink(rig)
    assert preview.shown() is None
    bpy.context.scene.collection.objects.link(rig)
    assert preview.shown() is not None
    preview.remove()


def test_the_sequencer_may_be_that_of_another_scene(rig: Any, handlers: None) -> None:
    edit, scene = bpy.data.scenes.new("Edit"), bpy.context.scene
    edit.render.fps = 24
    preview.show(edit, rig, walk(), first_frame=10)
    assert body().name in scene.objects
    assert body().name not in edit.objects
    scene.frame_set(10)
    first = corners(body())
    scene.frame_set(40)
    assert np.abs(corners(body()) - first).max() > 0.3
    preview.remove()


def test_it_may_be_deleted_by_hand(rig: Any, handlers: None) -> None:
    preview.show(bpy.context.scene, rig, walk())
    for obj in [each for each in bpy.data.objects if preview.MARK in each][:4]:
        bpy.data.objects.remove(obj)
    bpy.context.scene.frame_set(9)
    preview.remove()
    assert not [mesh for mesh in bpy.data.meshes if preview.MARK in mesh]


def test_one_take_after_the_other(rig: Any) -> None:
    joints = np.stack([walk_joints(44), walk_joints(44, heading=40.0), walk_joints(44, heading=80.0)])
    preview.show(bpy.context.scene, rig, Motion(joints, None, np.array([44, 44, 40])))
    ways = []
    for take in (1, 2, 3):
        skeleton = preview.turn_to(take)
        assert preview.takes_shown() == (take % 3, 3)
        ways.append(np.round(skeleton.points[-1, 0] - skeleton.points[0, 0], 2).tolist())
    assert len({str(way) for way in ways}) == 3
    assert len([obj for obj in bpy.data.objects if preview.MARK in obj]) == 8
    preview.remove()


def test_a_keyed_take_is_shown_where_its_keys_have_it(rig: Any) -> None:
    scene, place = bpy.context.scene, Place(mirror=True, turn=0.5, start=(2.0, 0.0, 1.0), time_scale=1.5)
    react.write_takes(rig, walk(), "clip", 7, scene, EVERY, About(Source("clip"), places=(place,)))
    rig.location.x = 5.0  # it has been moved since; the keys have not
    scene.render.fps = 60
    skeleton = preview.show_action(scene, rig, rig.animation_data.action)
    rig.location.x = 0.0
    scene.frame_set(7)
    bone = rig.pose.bones["mixamorig:LeftFoot"]
    assert np.array(rig.matrix_world @ bone.head) == pytest.approx(skeleton.at(7)[JOINTS.index("left_ankle")], abs=2e-3)
    scene.frame_set(31)
    assert np.array(rig.matrix_world @ bone.head) == pytest.approx(
        skeleton.at(31)[JOINTS.index("left_ankle")], abs=0.02
    )
    with pytest.raises(HeroError, match="no take"):
        preview.show_action(scene, rig, bpy.data.actions.new("something else"))
    preview.remove()


def test_it_follows_when_another_take_is_picked(rig: Any) -> None:
    scene = bpy.context.scene
    joints = np.stack([walk_joints(44), walk_joints(44, heading=60.0)])
    react.write_takes(rig, Motion(joints, None, np.array([44, 44])), "clip", 1, scene, EVERY)
    first, second = (bpy.data.actions[f"clip take {number} seed {number - 1}"] for number in (1, 2))
    one = preview.show_action(scene, rig, first).points
    takes.show(rig, second)
    bpy.context.view_layer.update()
    two = preview.shown()
    assert two is not None
    assert np.abs(two.points - one).max() > 0.3
    assert len([obj for obj in bpy.data.objects if preview.MARK in obj]) == 8
    preview.remove()
    assert preview._follow not in bpy.app.handlers.depsgraph_update_post
    preview.show(scene, rig, walk())  # one that is not keyed yet stays what it is
    takes.show(rig, first)
    bpy.context.view_layer.update()
    assert preview.takes_shown() == (0, 1)
    assert preview._State.shown is not None
    assert preview._State.shown.action == ""
    preview.remove()


@pytest.fixture
def addon(blend: Any) -> Iterator[Any]:
    import hero_blender

    hero_blender.register()
    yield blend
    hero_blender.unregister()


def test_react_with_preview_first_keys_nothing_until_it_is_told_to(addon: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
    pytest.importorskip("av", reason="needs PyAV to make test movies")
    from models import write_tiny
    from movies import write_movie

    scene = bpy.context.scene
    scene.render.fps = 25
    rig = mixamo(bpy)
    strip = compat.new_movie_strip(
        scene, "clip", str(write_movie(tmp_path / "clip.mp4", 50, size=(64, 48))), 1, 11
    )  # fmt: skip
    scene.sequence_editor.active_strip = strip
    scene.hero.armature, scene.hero.strip, scene.hero.takes = rig, "clip", 2
    scene.hero.model = str(write_tiny(tmp_path / "tiny"))
    scene.hero.preview_first = True
    assert bpy.ops.hero.react() == {"FINISHED"}
    assert not bpy.data.actions
    assert preview.takes_shown() == (0, 2)
    assert bpy.ops.hero.preview_turn(by=1) == {"FINISHED"}
    skeleton = preview.shown()
    assert skeleton is not None
    assert skeleton.frames[0] == 11
    assert bpy.ops.hero.key_preview() == {"FINISHED"}
    action = rig.animation_data.action
    assert action.name == "clip take 2 seed 1"
    assert takes.read(action).source.name == "clip"
    assert sum(why.read(action).shares) == pytest.approx(1, abs=1e-3)
    assert why.frames_of(why.read(action), strip)[0] >= 11
    assert bpy.ops.hero.why() == {"FINISHED"}
    assert why.marks(scene)
    assert bpy.ops.hero.why_clear() == {"FINISHED"}
    assert not scene.timeline_markers
    assert bpy.ops.hero.preview(action=action.name) == {"FINISHED"}
    assert bpy.ops.hero.preview_end() == {"FINISHED"}
    assert preview.shown() is None
    scene.hero.preview_first = False
    assert bpy.ops.hero.react() == {"FINISHED"}
    assert len(bpy.data.actions) == 3
    assert all(why.has(action) for action in bpy.data.actions)
