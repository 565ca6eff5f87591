# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of takes and its buttons, as an animator uses them: through operators, with undo, save and reload."""

from __future__ import annotations

import time
from collections.abc import Iterator
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

import hero_blender  # noqa: E402
from hero_blender import compare, compat, operators, presets, react, takes  # noqa: E402
from hero_blender.react import Reaction, Settings  # noqa: E402
from hero_core.errors import Cancelled  # noqa: E402


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movie(tmp_path_factory.mktemp("movie") / "numbers.mp4", 40, size=(64, 48))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def scene(blend: Any, movie: Path, model: str) -> Iterator[Any]:
    """A file to watch, a character, and two takes of it."""
    hero_blender.register()
    scene = blend.context.scene
    chosen = scene.hero
    chosen.source, chosen.file, chosen.model = "FILE", str(movie), model
    chosen.length, chosen.seconds, chosen.takes, chosen.reduce = "SECONDS", 2.0, 2, False
    scene.frame_set(11)
    rig = mixamo(blend)
    cube = blend.data.objects.new("body", blend.data.meshes.new("body"))
    scene.collection.objects.link(cube)
    cube.parent = rig
    cube.modifiers.new("Armature", "ARMATURE").object = rig
    assert blend.ops.hero.react() == {"FINISHED"}
    yield scene
    hero_blender.unregister()


def rig() -> Any:
    return bpy.data.objects["character"]


def shown() -> str:
    action = takes.shown(rig())
    return action.name if action is not None else ""


def names() -> list[str]:
    return [action.name for action in takes.of(rig())]


ONE, TWO = "numbers take 1 seed 0", "numbers take 2 seed 1"


def test_the_list_is_the_files_actions(scene: Any) -> None:
    stray = bpy.data.actions.new("a stray action")
    assert names() == [ONE, TWO]
    assert bpy.data.actions[scene.hero.take].name == ONE == shown()
    scene.hero.take = bpy.data.actions.find(TWO)  # a click
    assert shown() == TWO
    scene.hero.take = bpy.data.actions.find(stray.name)
    assert shown() == TWO
    bpy.data.actions[TWO].name = "A"  # it is first now, and still the shown one
    assert bpy.data.actions[scene.hero.take].name == "A" == shown()
    compat.assign_action(rig(), stray)
    assert scene.hero.take == -1
    bpy.ops.hero.take_show(take=ONE)
    assert shown() == ONE
    other = mixamo(bpy, "other")
    scene.hero.armature = other
    assert scene.hero.take == -1
    assert not takes.of(other)


def test_show_step_keep_rename_delete(scene: Any) -> None:
    assert bpy.ops.hero.take_step() == {"FINISHED"}
    assert shown() == TWO
    bpy.ops.hero.take_step(by=-1)
    assert shown() == ONE
    bpy.ops.hero.take_keep(take=TWO)
    assert takes.read(bpy.data.actions[TWO]).kept
    bpy.ops.hero.take_rename(to="dodge")
    assert names() == ["dodge", TWO]
    with pytest.raises(RuntimeError, match="needs a name"):
        bpy.ops.hero.take_rename(to=" ")
    bpy.ops.hero.take_more(count=2)
    assert len(names()) == 4
    bpy.ops.hero.take_show(take="dodge", play=True)
    assert scene.frame_current == 11
    assert bpy.ops.hero.take_delete_others() == {"FINISHED"}
    assert names() == ["dodge", TWO]
    bpy.ops.hero.take_delete()
    assert names() == [TWO]
    assert shown() == TWO
    with pytest.raises(RuntimeError, match="no take 'dodge'"):
        bpy.ops.hero.take_show(take="dodge")
    bpy.ops.hero.take_delete()
    assert not bpy.ops.hero.take_delete.poll()
    assert not bpy.ops.hero.take_more.poll()


def test_jobs_on_takes_and_their_redo_properties(scene: Any) -> None:
    assert bpy.ops.hero.take_like(count=1) == {"FINISHED"}
    assert shown() == "numbers take 1 like 2"
    assert bpy.ops.hero.take_part(take=ONE, first=20, last=30) == {"FINISHED"}
    assert shown() == "numbers take 1 part 3"
    assert bpy.ops.hero.take_part(take=ONE, first=20, last=30, seed=3, replace=True) == {"FINISHED"}
    assert shown() == ONE
    np.testing.assert_array_equal(
        takes.motion_of(bpy.data.actions[ONE]).take(0),
        takes.motion_of(bpy.data.actions["numbers take 1 part 3"]).take(0),
    )
    assert bpy.ops.hero.take_extend(seconds=0.6) == {"FINISHED"}
    assert takes.read(takes.shown(rig())).frames == 40 + 12
    with pytest.raises(RuntimeError, match=r"not in the take, which goes from 11 to"):
        bpy.ops.hero.take_part(take=ONE, first=900, last=950)
    assert bpy.ops.hero.take_remake(take=TWO) == {"FINISHED"}
    assert shown() == f"{TWO}.001"
    assert bpy.ops.hero.take_fit(take=TWO) == {"FINISHED"}


def test_each_is_one_undo_step(scene: Any) -> None:
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.hero.take_like("EXEC_DEFAULT", True)
    assert len(names()) == 3
    bpy.ops.hero.take_delete("EXEC_DEFAULT", True, take=ONE)
    assert len(names()) == 2
    bpy.ops.ed.undo()
    assert len(names()) == 3
    assert takes.motion_of(bpy.data.actions[ONE]).lengths[0] == 40
    bpy.ops.ed.undo()
    assert names() == [ONE, TWO]
    assert shown() == ONE
    bpy.ops.ed.redo()
    assert len(names()) == 3
    bpy.ops.hero.take_compare("EXEC_DEFAULT", True)
    assert compare.running() is not None
    bpy.ops.ed.undo()
    assert compare.running() is None


def blocks() -> dict[str, list[str]]:
    kinds = ("objects", "meshes", "armatures", "actions", "collections", "scenes", "materials", "images")
    return {kind: sorted(block.name for block in getattr(bpy.data, kind)) for kind in kinds}


def test_compare_leaves_no_trace(scene: Any, tmp_path: Path) -> None:
    bpy.ops.hero.take_more()
    before, users = blocks(), {action.name: action.users for action in bpy.data.actions}
    rig().location, rig().rotation_euler.z = (1, 2, 0), 1.0
    bpy.context.view_layer.update()
    assert bpy.ops.hero.take_compare(count=2, distance=2.0) == {"FINISHED"}
    collection = compare.running()
    copies = [obj for obj in collection.objects if obj.type == "ARMATURE"]
    assert len(copies) == 2
    bodies = [obj for obj in collection.objects if obj.type == "MESH"]
    for body in bodies:
        assert body.parent in copies
        assert body.modifiers[0].object == body.parent
        assert body.data == bpy.data.objects["body"].data
    scene.frame_set(30)
    bpy.context.view_layer.update()
    poses = [np.array([bone.matrix for bone in obj.pose.bones]) for obj in (rig(), *copies)]
    assert all(np.abs(poses[a] - poses[b]).max() > 1e-3 for a, b in ((0, 1), (0, 2), (1, 2)))
    away = [(obj.matrix_world.translation - rig().matrix_world.translation).length for obj in copies]
    assert sorted(away) == pytest.approx([2.0, 4.0], abs=1e-4)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"), copy=True)
    assert compare.running() is not None  # here, and not in the file
    with bpy.data.libraries.load(str(tmp_path / "a.blend")) as (inside, _):
        assert not [name for name in inside.collections if name.startswith(compare.NAME)]
        assert len(list(inside.objects)) == len(before["objects"])
    bpy.ops.hero.take_compare(count=1, distance=1.0)
    assert len([obj for obj in compare.running().objects if obj.type == "ARMATURE"]) == 1
    assert bpy.ops.hero.take_compare_end() == {"FINISHED"}
    assert blocks() == before
    assert {action.name: action.users for action in bpy.data.actions} == users
    assert not bpy.ops.hero.take_compare_end.poll()


def test_presets_are_blenders_own(scene: Any, tmp_path: Path) -> None:
    chosen = scene.hero
    for folder in ("", str(tmp_path / "own")):
        presets.look_in(folder)
        chosen.time_scale, chosen.face, chosen.delay, chosen.takes = 1.5, "CAMERA", -7, 4
        assert bpy.ops.hero.add_preset(name="slow one") == {"FINISHED"}
        found = bpy.utils.preset_find("slow_one", presets.SUBDIR, ext=".py")
        assert found and (not folder or found.startswith(folder))
        chosen.time_scale, chosen.face, chosen.delay, chosen.takes, chosen.seed = 1.0, "CHARACTER", 0, 1, 77
        assert bpy.ops.script.execute_preset(filepath=found, menu_idname="HERO_MT_presets") == {"FINISHED"}
        assert (chosen.time_scale, chosen.face, chosen.delay, chosen.takes, chosen.seed) == (1.5, "CAMERA", -7, 4, 77)
        assert bpy.ops.hero.add_preset(name="slow_one", remove_name=True) == {"FINISHED"}
        assert not Path(found).exists()
    presets.look_in("")
    known = {prop.identifier for prop in chosen.bl_rna.properties}
    assert set(presets._NAMES) <= known


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("stage", ["load", "encode"])
def test_cancel_within_half_a_second_even_where_nothing_asks(
    scene: Any, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The operator ends at once; the thread, which asks nobody while it loads or encodes, is joined later."""
    from hero_blender import job
    from hero_core.hero import Hero

    react.forget_model()
    slow = {"load": (react.hero_core, "load"), "encode": (Hero, "encode")}[stage]
    original, begun = getattr(*slow), []

    def sleepy(*given: Any) -> Any:
        begun.append(time.perf_counter())
        time.sleep(1.2)
        return original(*given)

    monkeypatch.setattr(*slow, sleepy)
    before = blocks()
    operators.Running.reaction = reaction = Reaction(
        scene, scene.hero.file, rig(), Settings(model=scene.hero.model, seconds=1.0)
    )

    def started() -> bool:
        reaction.step()
        return bool(begun)

    wait_for(started)
    start = time.perf_counter()
    bpy.ops.hero.cancel()
    with pytest.raises(Cancelled):
        reaction.step()
    operators.close_current()
    assert time.perf_counter() - start < 0.5
    assert operators.Running.reaction is None
    assert job.busy()
    assert blocks() == before
    # The next one waits for it where it must, and works.
    monkeypatch.undo()
    scene.hero.takes = 1
    assert bpy.ops.hero.react() == {"FINISHED"}
    wait_for(lambda: not job.busy())
    job.reap()
    assert not job._alive


def test_the_main_loop_stays_alive(scene: Any) -> None:
    """Steps are short once torch is loaded: what is long happens in the thread."""
    gaps = []
    reaction = Reaction(scene, scene.hero.file, rig(), Settings(model=scene.hero.model, seconds=5.0, takes=2))
    while reaction.report is None:
        start = time.perf_counter()
        reaction.step()
        gaps.append(time.perf_counter() - start)
        time.sleep(0.005)
    reaction.close()
    assert np.median(gaps) < 0.01
    assert max(gaps) < 1.0  # a busy machine; see tests/benchmarks/bench_session.py for the figure


def test_time_left_shrinks_and_ends(scene: Any) -> None:
    reaction = Reaction(scene, scene.hero.file, rig(), Settings(model=scene.hero.model, seconds=2.0))
    first = reaction.left
    fractions = []
    while reaction.report is None:
        fractions.append(reaction.fraction)
        assert reaction.left >= 0
        reaction.step(0.01)
    assert first > 0
    assert reaction.fraction == 1.0
    assert fractions == sorted(fractions)


def test_runs_in_a_row_leave_nothing_behind(scene: Any) -> None:
    """The short form of tests/benchmarks/bench_session.py, which also watches the memory."""

    def state() -> Any:
        handlers = {
            name: len(found)
            for name in dir(bpy.app.handlers)
            if isinstance(found := getattr(bpy.app.handlers, name), list)
        }
        return blocks(), handlers, len(list(scene.hero.bl_rna.properties))

    bpy.ops.hero.take_delete_others()
    scene.hero.takes, scene.hero.action, scene.hero.seconds = 1, "REPLACE", 0.6
    bpy.ops.hero.react()
    before = state()
    for _ in range(5):
        assert bpy.ops.hero.react() == {"FINISHED"}
        bpy.ops.hero.take_show()
    assert state() == before


def test_the_cache_is_where_the_preferences_say_and_can_be_emptied(
    scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from hero_blender import preferences, properties

    usual = vars(preferences.preferences(bpy.context))
    general = SimpleNamespace(**{**usual, "cache_folder": str(tmp_path / "seen"), "cache_megabytes": 1})
    for module in (preferences, properties):
        monkeypatch.setattr(module, "preferences", lambda _: general)
    react.forget_model()
    assert bpy.ops.hero.react() == {"FINISHED"}
    files = list((tmp_path / "seen").iterdir())
    assert len(files) == 1
    (tmp_path / "seen" / "mine.txt").touch()
    assert bpy.ops.hero.clear_cache() == {"FINISHED"}
    assert [file.name for file in (tmp_path / "seen").iterdir()] == ["mine.txt"]
    general.cache_megabytes = 0
    assert bpy.ops.hero.react() == {"FINISHED"}
    assert [file.name for file in (tmp_path / "seen").iterdir()] == ["mine.txt"]
