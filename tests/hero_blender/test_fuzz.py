# SPDX-License-Identifier: GPL-3.0-or-later
"""A monkey at the panel: random buttons, properties, deletions, undo and reloads, and never an exception.

What is refused is refused in one sentence. ``HERO_FUZZ=500`` makes it longer, ``HERO_FUZZ_SEED`` another one.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

bpy = pytest.importorskip("bpy")
pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
pytest.importorskip("av", reason="needs PyAV to make test movies")

from characters import mixamo  # noqa: E402
from drawing import drawn  # noqa: E402
from models import write_tiny  # noqa: E402
from movies import write_movie  # noqa: E402

import hero_blender  # noqa: E402
from hero_blender import compare, compat, job, operators, panels, takes  # noqa: E402
from hero_blender.react import Reaction  # noqa: E402
from hero_core.errors import Cancelled, HeroError  # noqa: E402

ACTIONS = int(os.environ.get("HERO_FUZZ", "60"))
SEED = int(os.environ.get("HERO_FUZZ_SEED", "0"))
# Operators that open files or windows, install, or write outside of the test.
LEFT_OUT = ("install_", "remove_torch", "clear_cache", "export", "import", "map_keep")
PANELS = [cls for cls in panels.CLASSES if cls is not panels.HERO_PT_view3d_takes]


class Monkey:
    def __init__(self, seed: int, movie: Path, model: str, folder: Path) -> None:
        self.random = random.Random(seed)
        self.movie, self.model, self.folder = str(movie), model, folder
        self.reaction: Reaction | None = None
        self.done: list[str] = []
        self.finished = 0
        self.prepare()

    def prepare(self) -> None:
        """Something to play with in the file that is open."""
        scene = bpy.context.scene
        if not any(obj.type == "ARMATURE" for obj in scene.objects):
            mixamo(bpy, "character")
        if not list(compat.strips_of(scene)):
            scene.sequence_editor_create()
            scene.sequence_editor.active_strip = compat.new_movie_strip(scene, "clip", self.movie, 1, 1)
        chosen = scene.hero
        chosen.model, chosen.file = self.model, self.movie
        scene.render.resolution_x, scene.render.resolution_y = 64, 48
        bpy.ops.ed.undo_push(message="prepared")

    def act(self) -> None:
        kinds = [
            *[self.press] * 14, *[self.set] * 6, *[self.step] * 6, *[self.react] * 4, *[self.begin] * 3, self.click,
            self.click, self.undo, self.undo, self.redo, self.delete, self.reload, self.draw, self.draw, self.frame,
            self.toggle,
        ]  # fmt: skip
        kind = self.random.choice(kinds)
        self.done.append(kind.__name__)
        kind()

    # --- what it does ---

    def press(self) -> None:
        """Any operator, with random properties."""
        names = sorted(name for name in dir(bpy.ops.hero) if not any(part in name for part in LEFT_OUT))
        name = self.random.choice(names)
        operator = getattr(bpy.ops.hero, name)
        self.done[-1] = f"press {name}"
        values = {
            prop.identifier: value
            for prop in operator.get_rna_type().properties
            if prop.identifier != "rna_type" and self.random.random() < 0.5
            and (value := self.value(prop)) is not None
        }  # fmt: skip
        values = {key: value for key, value in values.items() if key not in {"count", "filepath", "directory"}}
        if name == "choose_file":
            values["filepath"] = self.random.choice([self.movie, "nowhere.mp4"])
        if name == "choose_weights":
            values["directory"] = self.random.choice([self.model, "", "/nowhere"])
        try:
            if operator.poll():
                operator("EXEC_DEFAULT", True, **values)
        except RuntimeError as err:  # a refusal: one sentence, no traceback
            assert "Traceback" not in str(err), str(err)

    def set(self) -> None:
        chosen = bpy.context.scene.hero
        prop = self.random.choice([p for p in chosen.bl_rna.properties if p.identifier not in {"rna_type", "name"}])
        if prop.type == "POINTER":
            setattr(chosen, prop.identifier, self.random.choice([None, *bpy.data.objects][:4]))
            return
        value = self.value(prop)
        if value is not None:
            setattr(chosen, prop.identifier, value)
        chosen.takes, chosen.length, chosen.seconds = min(chosen.takes, 2), "SECONDS", min(chosen.seconds, 1.0)

    def value(self, prop: Any) -> Any:
        if prop.type == "BOOLEAN":
            return self.random.random() < 0.5
        if prop.type == "INT":
            return self.random.randint(max(prop.hard_min, -50), min(prop.hard_max, 60))
        if prop.type == "FLOAT":
            return self.random.uniform(max(prop.hard_min, -2), min(prop.hard_max, 12))
        if prop.type == "ENUM":
            items = [item.identifier for item in prop.enum_items]
            return self.random.choice(items) if items else None
        if prop.type == "STRING":
            names = [action.name for action in bpy.data.actions]
            if prop.identifier == "take" and self.random.random() < 0.8:
                return self.random.choice(["", *names])
            return self.random.choice(["", "nobody", "clip", "Hüfte 'x'", self.movie, *names])
        return None

    def mend(self) -> None:
        """Do what the panel says is missing, so that something happens at all."""
        chosen = bpy.context.scene.hero
        if not any(obj.type == "ARMATURE" for obj in bpy.context.scene.objects) or not chosen.file:
            self.prepare()
        chosen.model, chosen.file = self.model, self.movie
        chosen.face, chosen.root, chosen.strip = "CHARACTER", "HIPS", ""
        chosen.source = self.random.choice(["FILE", "STRIP"]) if list(compat.strips_of(bpy.context.scene)) else "FILE"
        for strip in compat.strips_of(bpy.context.scene):
            strip.mute = False
        chosen.armature = next(obj for obj in bpy.context.scene.objects if obj.type == "ARMATURE")
        bpy.ops.hero.map_forget()

    def react(self) -> None:
        self.mend()
        if bpy.ops.hero.react.poll():
            try:
                bpy.ops.hero.react("EXEC_DEFAULT", True)
            except RuntimeError as err:
                assert "Traceback" not in str(err), str(err)

    def begin(self) -> None:
        """React as in a window: it goes on while other things happen."""
        if self.random.random() < 0.7:
            self.mend()
        if operators.Running.reaction is None and bpy.ops.hero.react.poll():
            try:
                operators.Running.reaction = operators.HERO_OT_react.begin(None, bpy.context)
            except HeroError:
                return
            self.reaction = operators.Running.reaction

    def step(self) -> None:
        """What the timer does."""
        for _ in range(self.random.choice([1, 3, 10, 400])):
            reaction = operators.Running.reaction
            if reaction is None:
                return
            try:
                reaction.step()
            except (Cancelled, HeroError):
                operators.close_current()
            else:
                if reaction.report is not None:
                    self.finished += 1
                    operators.close_current()
            time.sleep(0.005)

    def click(self) -> None:
        bpy.context.scene.hero.take = self.random.randint(0, max(0, len(bpy.data.actions) - 1))

    def undo(self) -> None:
        if bpy.ops.ed.undo.poll():
            bpy.ops.ed.undo()

    def redo(self) -> None:
        if bpy.ops.ed.redo.poll():
            bpy.ops.ed.redo()

    def delete(self) -> None:
        """Things go while they are used."""
        kind = self.random.choice(["objects", "actions", "strips", "scene", "armature"])
        if kind == "strips":
            for strip in list(compat.strips_of(bpy.context.scene)):
                compat.strips_of(bpy.context.scene).remove(strip)
        elif kind == "scene":
            if len(bpy.data.scenes) == 1:
                bpy.data.scenes.new("other")
        else:
            found = list(getattr(bpy.data, {"armature": "objects"}.get(kind, kind)))
            if found:
                getattr(bpy.data, {"armature": "objects"}.get(kind, kind)).remove(self.random.choice(found))
        bpy.ops.ed.undo_push(message="deleted")
        if self.random.random() < 0.7:
            self.prepare()

    def reload(self) -> None:
        path = str(self.folder / "monkey.blend")
        bpy.ops.wm.save_as_mainfile(filepath=path)
        if self.random.random() < 0.5:
            bpy.ops.wm.open_mainfile(filepath=path)
        else:
            bpy.ops.wm.read_homefile(use_empty=True)
        assert operators.Running.reaction is None
        assert compare.running() is None or self.folder
        self.prepare()

    def draw(self) -> None:
        for panel in PANELS:
            if not hasattr(panel, "poll") or panel.poll(bpy.context):
                drawn(panel)

    def frame(self) -> None:
        bpy.context.scene.frame_set(self.random.randint(-20, 60))

    def toggle(self) -> None:
        """The extension is disabled in the middle of something, and enabled again."""
        hero_blender.unregister()
        assert not job._alive
        hero_blender.register()
        self.prepare()


@pytest.fixture
def monkey(blend: Any, tmp_path: Path) -> Iterator[Monkey]:
    hero_blender.register()
    movie = write_movie(tmp_path / "clip.mp4", 20, size=(64, 48))
    yield Monkey(SEED, movie, str(write_tiny(tmp_path / "tiny")), tmp_path)
    hero_blender.unregister()


def test_random_actions(monkey: Monkey) -> None:
    for number in range(ACTIONS):
        try:
            monkey.act()
        except BaseException:
            print(f"action {number} of seed {SEED}; the last ones:", *monkey.done[-8:], sep="\n  ")
            raise
    operators.close_current()
    job.stop_all()
    assert not [scene for scene in bpy.data.scenes if scene.name not in {"Scene", "other"}]
    for action in bpy.data.actions:
        if takes.is_take(action):
            takes.read(action)
    print(f"{len(set(monkey.done))} kinds of actions, {monkey.finished} jobs finished in steps")
    assert len(set(monkey.done)) > min(ACTIONS, 60) // 6
