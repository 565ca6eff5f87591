# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on registers and unregisters cleanly, says what is missing, and its operators do the job."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

bpy = pytest.importorskip("bpy")

from characters import mixamo  # noqa: E402
from drawing import drawn  # noqa: E402

import hero_blender  # noqa: E402
from hero_blender import (  # noqa: E402
    bone_list,
    bone_map,
    compat,
    face_panel,
    operators,
    panels,
    preferences,
    presets,
    preview,
    properties,
    take_list,
    torch_folder,
    why,
)
from hero_core.retarget.options import Options  # noqa: E402

FIT = {
    "preserve", "pin_feet", "smooth", "limits", "root", "in_place", "controls", "reduce", "angle", "distance", "action",
}  # fmt: skip
PLACE = {
    "delay_unit", "delay", "delay_seconds", "time_scale", "face", "face_object", "begin", "mirror", "start_pose",
}  # fmt: skip
ADVANCED = {"model", "own_guidance", "guidance", "residual_guidance", "temperature", "choices"}
MODULES = (
    bone_list, bone_map, face_panel, operators, panels, preferences, presets, preview, properties, take_list, why,
)  # fmt: skip


@pytest.fixture
def addon(blend: Any) -> Iterator[Any]:
    hero_blender.register()
    yield blend
    hero_blender.unregister()


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    pytest.importorskip("av", reason="needs PyAV to make test movies")
    from movies import write_movie

    return write_movie(tmp_path / "clip.mp4", 30, size=(64, 48))


def handlers() -> dict[str, list[Any]]:
    return {
        name: list(found)
        for name in dir(bpy.app.handlers)
        if isinstance(found := getattr(bpy.app.handlers, name), list)
    }


def test_register_and_unregister_leave_nothing(blend: Any) -> None:
    before, types = handlers(), {name for name in dir(bpy.types) if name.upper().startswith("HERO")}
    for _ in range(3):
        hero_blender.register()
        assert hasattr(bpy.types.Scene, "hero")
        assert hasattr(bpy.types, "HERO_OT_react")
        assert len(handlers()["load_pre"]) == len(before["load_pre"]) + 2
        hero_blender.unregister()
        assert not hasattr(bpy.types.Scene, "hero")
        assert handlers() == before
        assert {name for name in dir(bpy.types) if name.upper().startswith("HERO")} == types


def test_every_class_is_registered_and_every_name_and_tip_is_there(addon: Any) -> None:
    registered = {cls for module in MODULES for cls in module.CLASSES}
    kinds = (
        bpy.types.Operator, bpy.types.Panel, bpy.types.PropertyGroup, bpy.types.AddonPreferences, bpy.types.Menu,
        bpy.types.UIList,
    )  # fmt: skip
    defined = set()
    for info in pkgutil.iter_modules(hero_blender.__path__):
        if info.name != "__main__":
            module = importlib.import_module(f"hero_blender.{info.name}")
            defined |= {
                value
                for value in vars(module).values()
                if isinstance(value, type) and issubclass(value, kinds) and value.__module__ == module.__name__
            }
    assert defined == registered
    for cls in defined:
        for prop in cls.bl_rna.properties:
            if prop.identifier in getattr(cls, "__annotations__", {}):
                assert prop.name
                assert prop.description and not prop.description.endswith(".")
        if issubclass(cls, bpy.types.Operator):
            assert cls.bl_idname.startswith("hero.")
            assert cls.__doc__ and not cls.__doc__.endswith(".")


def test_what_is_missing_is_said(addon: Any, movie: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_folder, "find", lambda chosen="": Path("somewhere"))
    context, scene = bpy.context, bpy.context.scene
    assert properties.missing(context) == "Select a movie strip in the sequencer"
    assert not bpy.ops.hero.react.poll()
    strip = compat.new_movie_strip(scene, "clip", str(movie), 1, 1)
    scene.sequence_editor.active_strip = strip
    assert properties.missing(context) == "Pick the character's armature"
    rig = mixamo(bpy)
    assert properties.missing(context) is None
    assert bpy.ops.hero.react.poll()
    context.view_layer.objects.active = None
    assert properties.missing(context) == "Pick the character's armature"
    scene.hero.armature = rig
    assert properties.missing(context) is None
    strip.mute = True
    assert properties.missing(context) == "The strip 'clip' is muted"
    strip.mute = False
    scene.hero.strip = "gone"
    assert properties.missing(context) == "There is no strip 'gone' any more"
    scene.hero.strip = "clip"
    monkeypatch.setattr(torch_folder, "find", lambda chosen="": None)
    assert "PyTorch is not installed" in (properties.missing(context) or "")
    monkeypatch.setattr(torch_folder, "find", lambda chosen="": Path("somewhere"))
    scene.hero.model = str(movie.parent / "nowhere")
    assert properties.missing(context) == "The folder of the weights is gone"
    scene.hero.model = ""
    scene.hero.armature = mixamo(bpy, "legless", "Leg")
    assert "eg" in (properties.missing(context) or "")
    scene.hero.armature = rig
    scene.hero.face = "CAMERA"
    assert properties.missing(context) == "The scene has no camera to face"
    scene.hero.face = "OBJECT"
    assert properties.missing(context) == "Choose the object that the character faces"
    scene.hero.face = "CHARACTER"
    scene.hero.source = "FILE"
    assert properties.missing(context) == "Choose a movie file"
    scene.hero.file = str(movie.parent / "gone.mp4")
    assert properties.missing(context) == "There is no file 'gone.mp4'"
    scene.hero.file = str(movie)
    assert properties.missing(context) is None
    assert ("label", "1.2 s, 25 fps, 30 frames") in drawn()


def test_each_problem_has_its_fix(addon: Any, movie: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_folder, "find", lambda chosen="": Path("somewhere"))
    scene, chosen = bpy.context.scene, bpy.context.scene.hero

    def fixes() -> list[str]:
        found = properties.problem(bpy.context)
        names = [name for name, _ in found.fixes] if found else []
        for name in names:
            assert ("operator", name) in drawn()
        return names

    assert fixes() == ["hero.choose_file"]
    with pytest.raises(RuntimeError, match="There is no file"):
        bpy.ops.hero.choose_file(filepath="nothing.mp4")
    assert bpy.ops.hero.choose_file(filepath=str(movie)) == {"FINISHED"}
    assert (chosen.source, chosen.file) == ("FILE", str(movie))
    assert fixes() == ["hero.pick_character"]
    rig = mixamo(bpy)
    bpy.context.view_layer.objects.active = None
    assert bpy.ops.hero.pick_character(armature="character") == {"FINISHED"}
    assert chosen.armature == rig
    assert fixes() == []
    chosen.source = "STRIP"
    strip = compat.new_movie_strip(scene, "clip", str(movie), 1, 1)
    scene.sequence_editor.active_strip = strip
    chosen.strip = "gone"
    assert fixes() == ["hero.forget_strip"]
    assert bpy.ops.hero.forget_strip() == {"FINISHED"}
    strip.mute = True
    assert fixes() == ["hero.unmute_strip"]
    assert bpy.ops.hero.unmute_strip() == {"FINISHED"}
    chosen.model = "//nowhere"
    assert fixes() == ["hero.choose_weights", "hero.show_preferences"]
    assert bpy.ops.hero.choose_weights(directory="") == {"FINISHED"}
    chosen.armature = mixamo(bpy, "legless", "Leg")
    assert fixes() == ["hero.map_auto"]
    chosen.armature = rig
    monkeypatch.setattr(torch_folder, "find", lambda chosen="": None)
    assert fixes() == ["hero.install_torch", "hero.show_preferences"]
    assert bpy.ops.hero.show_preferences() == {"FINISHED"}


def test_texts_can_be_translated(addon: Any) -> None:
    texts = {("*", "Watching the clip"): "Der Clip wird angesehen", ("*", "Cancel"): "Abbrechen"}
    bpy.app.translations.register("hero_test", {"de_DE": texts})
    view = bpy.context.preferences.view
    try:
        view.language, view.use_translate_interface = "de_DE", True
    except TypeError:
        bpy.app.translations.unregister("hero_test")
        pytest.skip("this Blender was built without translations")
    try:
        if bpy.app.translations.pgettext_iface("Watching the clip") == "Watching the clip":
            pytest.skip("this Blender translates nothing without a window")
        reaction = type("Reaction", (), {"stage": "Watching the clip", "left": 0.2})
        assert panels.progress(reaction) == "Der Clip wird angesehen…"
    finally:
        view.language = "en_US"
        bpy.app.translations.unregister("hero_test")


def test_settings_come_from_the_panel(addon: Any) -> None:
    chosen = bpy.context.scene.hero
    assert properties.settings_of(bpy.context).seconds is None
    chosen.length, chosen.seconds, chosen.takes, chosen.seed = "SECONDS", 3.2, 4, 9
    settings = properties.settings_of(bpy.context)
    assert settings.seconds == pytest.approx(3.2)
    assert (settings.takes, settings.seed, settings.model, settings.device) == (4, 9, None, "auto")
    assert not settings.model_length
    chosen.length = "MODEL"
    settings = properties.settings_of(bpy.context)
    assert settings.model_length and settings.seconds is None
    fit = settings.fit
    assert (fit.degrees, fit.millimetres) == (pytest.approx(0.5), pytest.approx(5.0))
    assert replace(fit, degrees=0.5, millimetres=5.0) == Options()
    chosen.root, chosen.action, chosen.controls, chosen.reduce, chosen.preserve = "OBJECT", "NLA", "FK", False, 0.25
    fit = properties.settings_of(bpy.context).fit
    assert (fit.root, fit.action, fit.controls, fit.reduce, fit.preserve) == ("object", "nla", "fk", False, 0.25)
    chosen.model = "//weights"
    assert properties.settings_of(bpy.context).model == bpy.path.abspath("//weights")


def test_panel_draws_in_every_state(addon: Any, movie: Path) -> None:
    for panel in (panels.HERO_PT_view3d, panels.HERO_PT_sequencer):
        assert ("operator", "hero.react") in drawn(panel)
    for panel in (panels.HERO_PT_view3d_fit, panels.HERO_PT_sequencer_fit):
        assert {name for _, name in drawn(panel)} == FIT - {"controls"}
    assert ("label", "Select a movie strip in the sequencer") in drawn()
    scene = bpy.context.scene
    scene.sequence_editor_create()
    strip = compat.new_movie_strip(scene, "clip", str(movie), 1, 1)
    scene.sequence_editor.active_strip = strip
    mixamo(bpy)
    found = drawn()
    assert ("label", "Active: clip") in found
    assert ("label", "1.2 s, 24 fps, frames 1 to 30") in found
    assert ("label", "Active: character") in found
    assert ("label", "22 of 22 joints: Mixamo") in found
    assert ("prop", "controls") in found
    assert ("prop", "seconds") not in found
    scene.hero.length = "SECONDS"
    assert ("prop", "seconds") in drawn()
    for panel in (panels.HERO_PT_view3d_place, panels.HERO_PT_sequencer_place):
        assert {name for _, name in drawn(panel)} == PLACE - {"delay_seconds", "face_object"}
    scene.hero.delay_unit, scene.hero.face = "SECONDS", "OBJECT"
    assert {name for _, name in drawn(panels.HERO_PT_view3d_place)} == PLACE - {"delay"}
    for panel in (panels.HERO_PT_view3d_advanced, panels.HERO_PT_sequencer_advanced):
        assert {name for _, name in drawn(panel)} == ADVANCED
    scene.hero.length = "MODEL"
    assert ("prop", "length") in drawn() and ("prop", "seconds") not in drawn()


def test_panel_shows_progress_and_cancel(addon: Any, movie: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
    from models import write_tiny

    from hero_blender.react import Reaction, Settings
    from hero_core.errors import Cancelled

    scene = bpy.context.scene
    strip = compat.new_movie_strip(scene, "clip", str(movie), 1, 1)
    strip.use_flip_x = True  # so it has to be rendered
    model = str(write_tiny(tmp_path / "tiny"))
    operators.Running.reaction = reaction = Reaction(scene, strip, mixamo(bpy), Settings(model=model))
    found = drawn()
    assert any(kind == "progress" and text.startswith("Watching the clip…") for kind, text in found)
    assert ("operator", "hero.cancel") in found
    assert ("operator", "hero.react") not in found
    assert not bpy.ops.hero.react.poll()
    reaction.step()
    assert len(bpy.data.scenes) == 2
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "saved.blend"))  # save_pre takes the private scene out
    assert len(bpy.data.scenes) == 1
    assert bpy.ops.hero.cancel() == {"FINISHED"}
    with pytest.raises(Cancelled):
        reaction.step()
    operators.close_current()
    assert not bpy.ops.hero.cancel.poll()
    assert ("operator", "hero.react") in drawn()

    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "saved.blend"))
    assert operators.Running.reaction is None
    assert ("operator", "hero.react") in drawn()


def test_another_file_ends_the_reaction(addon: Any, movie: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
    from hero_blender.react import Reaction, Settings

    strip = compat.new_movie_strip(bpy.context.scene, "clip", str(movie), 1, 1)
    operators.Running.reaction = reaction = Reaction(bpy.context.scene, strip, mixamo(bpy), Settings())
    reaction.step()
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert operators.Running.reaction is None
    assert len(bpy.data.scenes) == 1


def test_operator_without_a_window_runs_straight_through(addon: Any, movie: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
    from models import write_tiny

    scene = bpy.context.scene
    compat.new_movie_strip(scene, "clip", str(movie), 1, 1)
    scene.hero.strip, scene.hero.armature = "clip", mixamo(bpy)
    scene.hero.model = str(write_tiny(tmp_path / "tiny"))
    scene.hero.takes = 2
    for call in ("EXEC_DEFAULT", "INVOKE_DEFAULT"):
        assert bpy.ops.hero.react(call) == {"FINISHED"}
    assert len(bpy.data.actions) == 4
    assert compat.assigned_action(scene.hero.armature)[0].name == "clip take 1 seed 0.001"
    scene.hero.model = str(tmp_path / "nowhere")
    with pytest.raises(RuntimeError, match="folder of the weights is gone"):
        bpy.ops.hero.react()
    (tmp_path / "nowhere").mkdir()
    properties._seen.clear()
    with pytest.raises(RuntimeError, match="nowhere"):
        bpy.ops.hero.react()
    assert len(bpy.data.actions) == 4


class Modal:
    """The operator as Blender's event loop holds it, which Blender's module does not have."""

    _timer = None
    _end = operators.HERO_OT_react._end
    _tell = operators.HERO_OT_react._tell

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def report(self, kind: set[str], text: str) -> None:
        self.told.append((kind.pop(), text))

    def run(self, limit: float = 120) -> set[str]:
        import time

        end, answer = time.monotonic() + limit, {"RUNNING_MODAL"}
        while answer == {"RUNNING_MODAL"} and time.monotonic() < end:
            assert operators.HERO_OT_react.modal(self, bpy.context, event("MOUSEMOVE")) == {"PASS_THROUGH"}
            answer = operators.HERO_OT_react.modal(self, bpy.context, event("TIMER"))
            time.sleep(0.002)
        return answer


def event(kind: str) -> Any:
    return type("Event", (), {"type": kind})()


def test_modal_ends_in_every_way(addon: Any, movie: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
    from models import write_tiny

    from hero_blender.react import Reaction, Settings

    scene = bpy.context.scene
    strip = compat.new_movie_strip(scene, "clip", str(movie), 1, 1)
    rig, model = mixamo(bpy), str(write_tiny(tmp_path / "tiny"))

    def start(model: str) -> Modal:
        operators.Running.reaction = Reaction(scene, strip, rig, Settings(model=model))
        return Modal()

    done = start(model)
    assert done.run() == {"FINISHED"}
    assert done.told[0] == ("INFO", "'character' reacts from frame 1 on: 'clip take 1 seed 0'")

    cancelled = start(model)
    operators.HERO_OT_react.modal(cancelled, bpy.context, event("TIMER"))
    bpy.ops.hero.cancel()
    assert cancelled.run() == {"CANCELLED"}
    assert cancelled.told == [("INFO", "Cancelled: nothing was changed")]

    failed = start(str(tmp_path / "nowhere"))
    assert failed.run() == {"CANCELLED"}
    assert failed.told[0][0] == "ERROR"
    assert "nowhere" in failed.told[0][1]

    ended = start(model)
    operators.HERO_OT_react.modal(ended, bpy.context, event("TIMER"))
    operators.close_current()  # the add-on is disabled
    assert ended.run() == {"CANCELLED"}

    assert operators.Running.reaction is None
    assert len(bpy.data.actions) == 1
    assert len(bpy.data.scenes) == 1

    owner = rig.pose.bones["mixamorig:Head"].constraints.new("COPY_ROTATION")
    owner.target, owner.subtarget = rig, "mixamorig:Hips"
    partly = start(model)
    assert partly.run() == {"FINISHED"}
    said = ("WARNING", "Left alone in 'character': constraints or drivers own 'mixamorig:Head'.")
    assert partly.told[0] == said


def test_one_undo_step(addon: Any, movie: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
    from models import write_tiny

    scene = bpy.context.scene
    compat.new_movie_strip(scene, "clip", str(movie), 1, 1)
    scene.hero.strip, scene.hero.armature = "clip", mixamo(bpy)
    scene.hero.model, scene.hero.takes = str(write_tiny(tmp_path / "tiny")), 2
    bpy.ops.ed.undo_push(message="before")
    assert bpy.ops.hero.react("EXEC_DEFAULT", True) == {"FINISHED"}
    assert len(bpy.data.actions) == 2
    bpy.ops.ed.undo()
    assert not bpy.data.actions
    assert compat.assigned_action(bpy.data.objects["character"])[0] is None
    bpy.ops.ed.redo()
    assert len(bpy.data.actions) == 2
    assert compat.assigned_action(bpy.data.objects["character"])[0].name == "clip take 1 seed 0"


def test_choices_are_saved_and_the_moment_is_not(addon: Any, tmp_path: Path) -> None:
    bpy.context.scene.hero.seed = 12
    path = str(tmp_path / "kept.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=path)
    assert bpy.context.scene.hero.seed == 12
    names = {prop.identifier for prop in bpy.context.scene.hero.bl_rna.properties} - {"rna_type", "name"}
    moment = {"take"}  # read from the character each time, and kept nowhere
    clip = {"source", "strip", "file", "armature"}
    assert names == clip | {"takes", "seed", "length", "seconds", "preview_first"} | FIT | PLACE | ADVANCED | moment
