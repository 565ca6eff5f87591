# SPDX-License-Identifier: GPL-3.0-or-later
"""Strip to keyed rig with the real architecture and small random weights: whole, or not at all."""

from __future__ import annotations

import sys
import time
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

from hero_blender import compat, react, rigfile, takes  # noqa: E402
from hero_blender.react import Reaction, Settings, react_strip, react_video  # noqa: E402
from hero_blender.strip import StripReading  # noqa: E402
from hero_core.errors import Cancelled, HeroError  # noqa: E402
from hero_core.video import read_video  # noqa: E402

COUNT = 75  # 3 s at 25 fps


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movie(tmp_path_factory.mktemp("movie") / "numbers.mp4", COUNT, size=(160, 120))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def choosing(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that chooses lengths."""
    return str(write_tiny(tmp_path_factory.mktemp("model") / "choosing", length_head=True))


@pytest.fixture
def scene(blend: Any) -> Any:
    blend.context.scene.render.fps = 25
    blend.context.scene.render.resolution_x, blend.context.scene.render.resolution_y = 160, 120
    return blend.context.scene


@pytest.fixture
def strip(scene: Any, movie: Path) -> Any:
    return compat.new_movie_strip(scene, "clip", str(movie), 1, 31)


@pytest.fixture
def rig(scene: Any) -> Any:
    return mixamo(bpy)


def curves(rig: Any, action: Any) -> dict[tuple[str, int], list[tuple[float, float]]]:
    return {
        (curve.data_path, curve.array_index): [tuple(key.co) for key in curve.keyframe_points]
        for curve in compat.fcurves_of(action, rig)
    }


def test_an_action_for_each_take_from_the_strips_start(scene: Any, strip: Any, rig: Any, model: str) -> None:
    report = react_strip(scene, strip, rig, Settings(takes=2, seed=7, model=model))
    names = [take["action"] for take in report["takes"]]
    assert names == ["clip take 1 seed 7", "clip take 2 seed 8"]
    assert [take["seed"] for take in report["takes"]] == [7, 8]
    assert report["action"] == names[0]
    action, slot = compat.assigned_action(rig)
    assert action.name == names[0]
    if bpy.app.version >= (4, 4):
        assert slot is not None
        assert slot in action.slots.values()
    assert report["first_frame"] == 31
    assert report["frames_per_pose"] == pytest.approx(25 / 20)
    assert report["takes"][0]["frames"] == 60  # 3 s at 20 fps
    assert action.frame_range[0] == pytest.approx(31)
    assert action.frame_range[1] == np.ceil(31 + 59 * 25 / 20)
    assert report["map"]["left_knee"] == "mixamorig:LeftLeg"
    assert {"watch", "load", "think", "write"} <= set(report["seconds"])
    first, second = (curves(rig, bpy.data.actions[name]) for name in names)
    assert first.keys() == second.keys()
    assert any(first[path] != second[path] for path in first)


def test_the_rig_moves(scene: Any, strip: Any, rig: Any, model: str) -> None:
    react_strip(scene, strip, rig, Settings(model=model))
    poses = []
    for frame in (31, 60, 100):
        scene.frame_set(frame)
        poses.append(np.array([bone.matrix for bone in rig.pose.bones]))
    assert np.abs(poses[0] - poses[1]).max() > 1e-3
    assert np.abs(poses[1] - poses[2]).max() > 1e-3


def test_same_seed_same_keys_and_a_take_alone_is_the_take_among_others(
    scene: Any, strip: Any, rig: Any, model: str
) -> None:
    many = react_strip(scene, strip, rig, Settings(takes=3, seed=4, model=model, dtype="float32"))
    alone = react_strip(scene, strip, rig, Settings(takes=1, seed=6, model=model, dtype="float32"))
    third, only = (curves(rig, bpy.data.actions[name]) for name in (many["takes"][2]["action"], alone["action"]))
    assert third.keys() == only.keys()
    for path, keys in third.items():
        np.testing.assert_allclose(keys, only[path], atol=1e-3)


def test_length_of_its_own(scene: Any, strip: Any, rig: Any, model: str) -> None:
    report = react_strip(scene, strip, rig, Settings(seconds=4.4, model=model))
    assert report["takes"][0]["frames"] == 88


def test_the_model_chooses_a_length_for_each_take(scene: Any, strip: Any, rig: Any, choosing: str) -> None:
    settings = Settings(takes=3, seed=5, model=choosing, model_length=True)
    report = react_strip(scene, strip, rig, settings)
    lengths = [take["frames"] for take in report["takes"]]
    assert len(set(lengths)) == 3
    for take in report["takes"]:
        first, last = bpy.data.actions[take["action"]].frame_range
        assert (first, last) == (31, np.ceil(31 + (take["frames"] - 1) * 25 / 20))
    assert compat.assigned_action(rig)[0].name == report["takes"][0]["action"]
    alone = react_strip(scene, strip, rig, replace(settings, takes=1, seed=7))
    assert alone["takes"][0]["frames"] == lengths[2]
    as_the_clip = react_strip(scene, strip, rig, replace(settings, model_length=False))
    assert [take["frames"] for take in as_the_clip["takes"]] == [60] * 3


def test_a_model_that_chooses_no_lengths_says_so(scene: Any, strip: Any, rig: Any, model: str) -> None:
    with unchanged(rig), pytest.raises(HeroError, match=r"does not choose lengths; take that of the clip"):
        react_strip(scene, strip, rig, Settings(model=model, model_length=True))


@pytest.mark.parametrize(("seconds", "nearest"), [(0, 4), (0.15, 4), (20, 200)])
def test_lengths_that_cannot_be_made(
    scene: Any, strip: Any, rig: Any, model: str, seconds: float, nearest: int
) -> None:
    with unchanged(rig), pytest.raises(HeroError, match=rf"4 to 200 frames.*nearest is {nearest}"):
        react_strip(scene, strip, rig, Settings(seconds=seconds, model=model))


class unchanged:  # noqa: N801 - reads as a sentence
    """The armature and the file are, after an error, what they were before."""

    def __init__(self, rig: Any) -> None:
        self.rig = rig

    def state(self) -> Any:
        bpy.context.view_layer.update()
        return (
            {name: len(getattr(bpy.data, name)) for name in ("actions", "scenes", "objects", "images", "armatures")},
            [action.name for action in bpy.data.actions],
            self.rig and compat.assigned_action(self.rig),
            self.rig and [tuple(np.array(bone.matrix_basis).ravel()) for bone in self.rig.pose.bones],
            self.rig and [bone.rotation_mode for bone in self.rig.pose.bones],
        )

    def __enter__(self) -> None:
        self.before = self.state()

    def __exit__(self, *_: object) -> None:
        assert self.state() == self.before


def test_former_action_comes_back_when_a_later_take_fails(
    scene: Any, strip: Any, rig: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = rigfile.Fitting.write

    def fails(self: Any, obj: Any, name: str) -> Any:
        if "take 3" in name:
            raise HeroError("take 3 is broken")
        return original(self, obj, name)

    monkeypatch.setattr(rigfile.Fitting, "write", fails)
    for first in (True, False):  # without and with a former action
        with unchanged(rig), pytest.raises(HeroError, match="take 3 is broken"):
            react_strip(scene, strip, rig, Settings(takes=3, seed=50, model=model))
        if first:
            react_strip(scene, strip, rig, Settings(model=model))


def test_what_can_be_known_before_the_work(scene: Any, strip: Any, rig: Any, model: str, tmp_path: Path) -> None:
    def forbidden(*_: Any) -> bool:
        raise AssertionError("work was begun")

    with pytest.raises(HeroError, match="no armature"):
        react_strip(scene, strip, None, Settings(model=model), forbidden)
    with pytest.raises(HeroError, match="At least 1 take"):
        react_strip(scene, strip, rig, Settings(takes=0, model=model), forbidden)
    legless, armless = mixamo(bpy, "legless", "Leg"), mixamo(bpy, "armless", "Arm")
    for broken in (legless, armless):
        with unchanged(broken), pytest.raises(HeroError):
            react_strip(scene, strip, broken, Settings(model=model), forbidden)
    library = tmp_path / "library.blend"
    bpy.data.libraries.write(str(library), {rig})
    with bpy.data.libraries.load(str(library), link=True) as (source, target):
        target.objects = source.objects
    linked = target.objects[0]
    scene.collection.objects.link(linked)
    with pytest.raises(HeroError, match="linked"):
        react_strip(scene, strip, linked, Settings(model=model), forbidden)


def test_no_torch_is_one_sentence(
    scene: Any, strip: Any, rig: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hero_blender import torch_folder

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    torch_folder.find.cache_clear()
    try:
        with unchanged(rig), pytest.raises(HeroError, match="PyTorch is not installed in Blender's Python; choose"):
            react_strip(scene, strip, rig, Settings(model=model))
    finally:
        torch_folder.find.cache_clear()


def test_torch_from_a_chosen_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hero_blender import torch_folder

    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    torch_folder.find.cache_clear()
    try:
        torch_folder.make_importable(str(tmp_path))
        assert sys.path[-1] == str(tmp_path)
    finally:
        torch_folder.find.cache_clear()


def test_missing_model_is_told(scene: Any, strip: Any, rig: Any, tmp_path: Path) -> None:
    with unchanged(rig), pytest.raises(HeroError):
        react_strip(scene, strip, rig, Settings(model=str(tmp_path / "nowhere")))


def test_a_further_take_neither_loads_nor_encodes(
    scene: Any, strip: Any, rig: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hero_core
    from hero_core.hero import Hero

    react_strip(scene, strip, rig, Settings(model=model))
    monkeypatch.setattr(Hero, "encode", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(hero_core, "load", lambda *_: pytest.fail("loaded again"), raising=False)
    react_strip(scene, strip, rig, Settings(model=model, seed=1))


def test_video_without_a_strip(scene: Any, rig: Any, model: str, movie: Path) -> None:
    report = react_video(scene, read_video(movie), "numbers", 5, rig, Settings(model=model))
    assert report["action"] == "numbers take 1 seed 0"
    assert bpy.data.actions[report["action"]].frame_range[0] == pytest.approx(5)
    assert report["takes"][0]["frames"] == 60


@pytest.mark.parametrize(("calls", "rendered"), [(0, False), (1, False), (2, False), (5, True), (18, True)])
def test_cancel_at_any_time(scene: Any, strip: Any, rig: Any, model: str, calls: int, rendered: bool) -> None:
    react.forget_model()
    strip.use_flip_x = rendered
    seen = 0

    def on_progress(done: int, total: int) -> bool:
        nonlocal seen
        seen += 1
        return seen <= calls

    with unchanged(rig), pytest.raises(Cancelled):
        react_strip(scene, strip, rig, Settings(model=model), on_progress)


def test_a_plain_strip_is_never_rendered(
    scene: Any, strip: Any, rig: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    react.forget_model()
    monkeypatch.setattr(StripReading, "step", lambda *_: pytest.fail("rendered"))
    assert react_strip(scene, strip, rig, Settings(model=model))["takes"]


def test_a_strip_is_watched_again_only_where_it_has_changed(
    scene: Any, strip: Any, rig: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    react.forget_model()
    strip.use_flip_x = True
    step, steps = StripReading.step, []

    def counted(reading: Any) -> None:
        steps.append(reading.name)
        step(reading)

    monkeypatch.setattr(StripReading, "step", counted)
    for change, rendered in ((None, 16), (None, 0), ("use_flip_y", 16), (None, 0)):
        steps.clear()
        if change:
            setattr(strip, change, True)
        report = react_strip(scene, strip, rig, Settings(model=model, dtype="float32"))
        assert len(steps) == rendered
        assert takes.read(bpy.data.actions[report["action"]]).source.seconds > 0


def run_through(reaction: Reaction) -> list[float]:
    fractions = []
    end = time.monotonic() + 60
    while reaction.report is None and time.monotonic() < end:
        reaction.step()
        fractions.append(reaction.fraction)
        time.sleep(0.002)
    return fractions


def test_in_steps_the_same_keys(scene: Any, strip: Any, rig: Any, model: str) -> None:
    settings = Settings(takes=2, seed=3, model=model, dtype="float32")
    straight = [curves(rig, bpy.data.actions[t["action"]]) for t in react_strip(scene, strip, rig, settings)["takes"]]
    reaction = Reaction(scene, strip, rig, settings)
    fractions = run_through(reaction)
    reaction.close()
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    assert len(bpy.data.scenes) == 1
    stepped = [curves(rig, bpy.data.actions[t["action"]]) for t in reaction.report["takes"]]
    assert [t["action"] for t in reaction.report["takes"]] == ["clip take 1 seed 3.001", "clip take 2 seed 4.001"]
    for a, b in zip(straight, stepped, strict=True):
        assert a == b


def test_in_steps_cancel_while_watching_and_while_thinking(scene: Any, strip: Any, rig: Any, model: str) -> None:
    for wanted in (0.1, 0.3):
        react.forget_model()
        with unchanged(rig):
            reaction = Reaction(scene, strip, rig, Settings(model=model))
            while reaction.fraction < wanted:
                reaction.step()
            reaction.cancel()
            with pytest.raises(Cancelled):
                run_through(reaction)
            reaction.close()


def test_in_steps_deleted_meanwhile(scene: Any, strip: Any, rig: Any, model: str) -> None:
    reaction = Reaction(scene, strip, rig, Settings(model=model))
    while reaction.stage.startswith("Watching"):
        reaction.step()
    bpy.data.objects.remove(rig)
    with unchanged(None), pytest.raises(HeroError, match="'character' was deleted or renamed"):
        run_through(reaction)
    rig = mixamo(bpy)
    react.forget_model()
    strip.use_flip_x = True  # so it has to be rendered; a file that is read does not need its strip any more
    reaction = Reaction(scene, strip, rig, Settings(model=model))
    reaction.step()
    compat.strips_of(scene).remove(strip)
    reaction.release()
    with unchanged(rig), pytest.raises(HeroError, match="strip 'clip' was deleted"):
        run_through(reaction)
    reaction.close()


def test_in_steps_another_file_meanwhile(scene: Any, strip: Any, rig: Any, model: str, movie: Path) -> None:
    for steps in (3, 17):
        reaction = Reaction(bpy.context.scene, compat.strips_of(bpy.context.scene)[0], rig, Settings(model=model))
        for _ in range(steps):
            reaction.step()
        bpy.ops.wm.read_factory_settings(use_empty=True)
        reaction.close()
        assert len(bpy.data.scenes) == 1
        assert not bpy.data.actions
        bpy.context.scene.render.fps = 25
        rig = mixamo(bpy)
        compat.new_movie_strip(bpy.context.scene, "clip", str(movie), 1, 31)
