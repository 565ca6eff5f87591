# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside a Blender with a window: an animator's first minutes with HERO, step by step, with pictures and times.

``blender --python driver.py -- FOLDER``: what was seen is written to FOLDER/seen.json, pictures of the whole screen to
FOLDER/NAME.xwd (a copy of the virtual screen's memory, HERO_SCREEN). A scenario is a generator that yields seconds to
wait, or a function that says when to go on; a timer of Blender's drives it, so the main loop runs as it does for a
person. The time between two calls of that timer is the time in which Blender's window was dead.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import bpy

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
OUT = Path(sys.argv[sys.argv.index("--") + 1])
PATIENCE = 180.0  # seconds that any step may take on a slow machine

Step = Iterator[float | Callable[[], bool]]
seen: dict[str, Any] = {"blender": bpy.app.version_string, "steps": [], "gaps": {}}


class Clock:
    """The largest gap between two calls, in seconds, for each thing that was going on."""

    last = time.perf_counter()
    worst: ClassVar[dict[str, float]] = {}

    @classmethod
    def tick(cls) -> None:
        now, doing = time.perf_counter(), stage()
        cls.worst[doing] = max(cls.worst.get(doing, 0.0), now - cls.last)
        cls.last = now

    @classmethod
    def take(cls) -> dict[str, float]:
        """The gaps since it was last asked, longest first."""
        worst, cls.worst = cls.worst, {}
        return {name: round(gap, 3) for name, gap in sorted(worst.items(), key=lambda item: -item[1])}


def stage() -> str:
    """What HERO is doing; "" when nothing."""
    operators = sys.modules.get("hero_blender.operators")
    reaction = operators.Running.reaction if operators else None
    return str(reaction.stage) if reaction is not None else ""


def area_of(kind: str) -> Any:
    return next(area for area in bpy.context.window_manager.windows[0].screen.areas if area.type == kind)


def region_of(area: Any, kind: str) -> Any:
    return next(region for region in area.regions if region.type == kind)


def there(kind: str = "VIEW_3D") -> Any:
    """A context as if the mouse were over an editor."""
    window, area = bpy.context.window_manager.windows[0], area_of(kind)
    return bpy.context.temp_override(window=window, area=area, region=region_of(area, "WINDOW"))


def press(operator: str, kind: str = "VIEW_3D", **arguments: Any) -> set[str]:
    """What a click on the operator's button does."""
    module, name = operator.split(".")
    with there(kind):
        return getattr(getattr(bpy.ops, module), name)("INVOKE_DEFAULT", True, **arguments)


def key(kind: str, text: str = "", **held: bool) -> None:
    """A key of the keyboard, pressed and let go over the 3D view."""
    window, area = bpy.context.window_manager.windows[0], area_of("VIEW_3D")
    x, y = area.x + area.width // 3, area.y + area.height // 2
    window.event_simulate(type="MOUSEMOVE", value="NOTHING", x=x, y=y)
    more = {"unicode": text} if text else {}
    window.event_simulate(type=kind, value="PRESS", x=x, y=y, **more, **held)
    window.event_simulate(type=kind, value="RELEASE", x=x, y=y, **held)


def picture(name: str, kind: str | None = None) -> Step:
    """Copy the screen once it is drawn; ``kind`` names the editor to which the picture is cut."""
    for area in bpy.context.window_manager.windows[0].screen.areas:
        area.tag_redraw()
    yield 0.5
    shutil.copy(os.environ["HERO_SCREEN"], OUT / f"{name}.xwd")
    seen["steps"].append({"picture": name, "cut": None if kind is None else box_of(kind)})


def box_of(kind: str) -> list[int]:
    """Left, top, width and height of an editor on the screen."""
    area, window = area_of(kind), bpy.context.window_manager.windows[0]
    return [area.x, window.height - area.y - area.height, area.width, area.height]


def note(name: str, value: Any) -> None:
    seen[name] = value
    print("GUI", name, value, flush=True)


def open_tabs() -> Step:
    """The HERO tab of both editors; a region knows its tabs once it was drawn."""
    for kind in ("VIEW_3D", "SEQUENCE_EDITOR"):
        area = area_of(kind)
        area.spaces[0].show_region_ui = True
        area.tag_redraw()
        end = time.perf_counter() + PATIENCE
        while time.perf_counter() < end:
            yield 0.1
            try:
                region_of(area, "UI").active_panel_category = "HERO"
            except (AttributeError, TypeError):
                continue
            break


def build_scene() -> Step:
    """The demo's clip in the sequencer, a Rigify human in the 3D view: what an animator has when HERO is opened."""
    from demo import mannequin
    from hero_blender import why

    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    if "DEFAULT_CLOSED" in why.HERO_PT_view3d_why.bl_options:
        open_panel(why.HERO_PT_view3d_why)
    yield 0.5
    window = bpy.context.window_manager.windows[0]
    bpy.ops.preferences.addon_enable(module="rigify")
    with there():
        bpy.ops.object.armature_basic_human_metarig_add()
        metarig = bpy.context.object
        bpy.ops.pose.rigify_generate()
        rig = bpy.context.object
    rig.name = rig.data.name = "Human"
    metarig.hide_set(True)
    mannequin.dress(rig)
    for obj in bpy.context.view_layer.objects:
        obj.select_set(obj == rig)
    bpy.context.view_layer.objects.active = rig
    with there():
        bpy.ops.screen.area_split(direction="HORIZONTAL", factor=0.28)
    yield 0.2
    views = [area for area in window.screen.areas if area.type == "VIEW_3D"]
    min(views, key=lambda area: area.y).ui_type = "SEQUENCE_EDITOR"
    yield 0.2
    from hero_blender import compat

    scene = bpy.context.scene
    scene.render.fps = 25
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = scene
    strip = compat.new_movie_strip(scene, "clip", str(ROOT / "demo" / "clip.mp4"), 3, 1)
    scene.sequence_editor.active_strip = strip
    scene.frame_end = 100  # the strip lies high enough for markers below it
    yield from open_tabs()
    area_of("VIEW_3D").spaces[0].overlay.show_bones = False  # the pictures are of HERO, not of Rigify's controls
    area_of("SEQUENCE_EDITOR").spaces[0].timeline_overlay.show_strip_source = False  # nor of somebody's folders
    view = area_of("VIEW_3D").spaces[0].region_3d
    view.view_distance, view.view_location = 6.0, (0.0, 0.0, 0.8)
    yield 0.3
    with there("SEQUENCE_EDITOR"):
        bpy.ops.sequencer.view_all()
    bpy.ops.ed.undo_push(message="Scene is ready")


def running() -> bool:
    from hero_blender import operators

    return operators.Running.reaction is not None


def rig_action() -> str | None:
    data = bpy.data.objects["Human"].animation_data
    return data.action.name if data and data.action else None


def load_torch() -> Step:
    """Its first import stops every Python program for a second or two; what counts is what comes after."""
    start = time.perf_counter()
    import torch

    note("torch", {"version": torch.__version__, "seconds": round(time.perf_counter() - start, 2)})
    yield 0.1


def react_cancelled() -> Step:
    press("hero.react")
    yield running
    yield 0.25
    yield from picture("running", None)
    start = time.perf_counter()
    press("hero.cancel")
    yield lambda: not running()
    note("cancel_seconds", round(time.perf_counter() - start, 3))
    note("after_cancel", rig_action())
    yield 0.2
    yield from picture("cancelled")


def react_once() -> Step:
    yield 1.0
    Clock.take()
    for area in bpy.context.window_manager.windows[0].screen.areas:
        area.tag_redraw()
    yield 0.3
    note("gap_of_a_whole_redraw", Clock.take())
    start = time.perf_counter()
    press("hero.react")
    yield running
    yield lambda: stage().startswith("Think") or not running()
    yield 0.2
    if running():
        shutil.copy(os.environ["HERO_SCREEN"], OUT / "thinking.xwd")
        seen["steps"].append({"picture": "thinking", "cut": box_of("VIEW_3D")})
    yield lambda: not running()
    note("first_take_seconds", round(time.perf_counter() - start, 2))
    note("gaps", Clock.take())
    note("after_react", rig_action())
    yield 0.3
    bpy.context.scene.frame_set(60)
    yield from picture("reacted", "VIEW_3D")


def react_again() -> Step:
    """A further take, with nothing on the screen that takes a software renderer long to draw.

    What is left of the gaps is what HERO does in Blender's thread, or takes of Python's lock.
    """
    bpy.context.scene.hero.seed = 1
    with there("SEQUENCE_EDITOR"):
        bpy.ops.screen.screen_full_area()
    yield 1.0
    Clock.take()
    for area in bpy.context.window_manager.windows[0].screen.areas:
        area.tag_redraw()
    yield 0.3
    note("gap_of_a_small_redraw", Clock.take())
    start = time.perf_counter()
    press("hero.react", "SEQUENCE_EDITOR")
    yield running
    yield lambda: not running()
    note("further_take_seconds", round(time.perf_counter() - start, 2))
    note("gaps_of_further_take", Clock.take())
    note("load", round(os.getloadavg()[0] / (os.cpu_count() or 1), 2))
    with there("SEQUENCE_EDITOR"):
        bpy.ops.screen.back_to_previous()
    bpy.context.scene.hero.seed = 0
    yield 0.5


def undone() -> Step:
    before = rig_action()
    key("Z", ctrl=True)
    yield 0.6
    note("after_undo", rig_action())
    yield from picture("undone")
    key("Z", ctrl=True, shift=True)
    yield 0.6
    note("after_redo", rig_action())
    note("redo_same", rig_action() == before)


def previewed() -> Step:
    """Two takes as a skeleton before anything is keyed; the second is chosen."""
    from hero_blender import preview

    chosen = bpy.context.scene.hero
    chosen.preview_first, chosen.takes, chosen.seed = True, 2, 8
    press("hero.react")
    yield running
    yield lambda: not running()
    bpy.context.scene.frame_set(1)
    yield from picture("preview_first")
    note("nothing_keyed_yet", [action.name for action in bpy.data.actions])
    bpy.context.scene.frame_set(45)
    Clock.take()
    yield from picture("preview", "VIEW_3D")
    note("gap_of_drawing_the_preview", Clock.take())
    press("hero.preview_turn", by=1)
    yield from picture("preview_second", "VIEW_3D")
    note("preview_shows", preview.takes_shown())
    press("hero.key_preview")
    yield 0.3
    note("keyed_from_preview", rig_action())
    note("preview_is_gone", preview.shown() is None)
    chosen.preview_first, chosen.takes = False, 1
    yield from picture("keyed")


def open_panel(cls: Any) -> None:
    """Panels that begin closed are opened by a click; a script has to register them as open ones."""
    bpy.utils.unregister_class(cls)
    cls.bl_options = set()
    bpy.utils.register_class(cls)


def changed() -> Step:
    """Switch takes, make a further one of the same clip, and one with another middle; take that back."""
    obj, scene = bpy.data.objects["Human"], bpy.context.scene
    now = rig_action()
    press("hero.take_step", by=1)
    yield 0.3
    note("after_step", [now, rig_action()])
    yield from picture("takes", "VIEW_3D")
    before = len(bpy.data.actions)
    start = time.perf_counter()
    press("hero.take_more")
    yield running
    yield lambda: not running()
    note("further_take_of_a_clip_seconds", round(time.perf_counter() - start, 2))
    note("made_by_more", len(bpy.data.actions) - before)
    old = places(obj, scene)
    press("hero.take_part", first=40, last=65)
    yield running
    yield lambda: not running()
    new = places(obj, scene)
    far = [max(abs(a - b) for a, b in zip(old[frame], new[frame], strict=True)) for frame in range(100)]
    note("changed_inside", round(max(far[42:62]), 4))
    note("changed_before", max(far[:38]))
    note("changed_after", max(far[68:]))
    note("changed_each_5", [round(max(far[frame : frame + 5]), 4) for frame in range(0, 100, 5)])
    scene.frame_set(52)
    yield from picture("changed_part", "VIEW_3D")
    name = rig_action()
    key("Z", ctrl=True)
    yield 0.6
    note("after_undo_of_change", [name, rig_action()])


def places(obj: Any, scene: Any) -> list[list[float]]:
    """Where both hands and the head are, for each frame."""
    found = []
    for frame in range(1, 101):
        scene.frame_set(frame)
        heads = [obj.pose.bones[name].head for name in ("ORG-hand.L", "ORG-hand.R", "ORG-spine.006")]
        found.append([value for head in heads for value in head])
    return found


def told_why() -> Step:
    markers = bpy.context.scene.timeline_markers
    press("hero.why")
    yield 0.2
    note("markers", {marker.name: marker.frame for marker in markers})
    yield from picture("markers", "SEQUENCE_EDITOR")
    with there():
        bpy.ops.screen.screen_full_area()
    yield 1.0
    yield from picture("why")
    with there():
        bpy.ops.screen.back_to_previous()
    yield 0.5
    press("hero.why_clear")
    note("markers_left", len(markers))


def disturbed() -> Step:
    """The character is deleted while its take is shown, the strip while it is watched, the file while a job runs."""
    from hero_blender import compat, preview

    scene = bpy.context.scene
    press("hero.preview")
    yield 0.3
    with there():
        bpy.ops.object.select_all(action="SELECT")
        bpy.ops.object.delete()
        bpy.ops.ed.undo_push(message="Delete")
    yield 0.3
    note("preview_without_character", preview.shown() is None)
    key("Z", ctrl=True)
    yield 0.6
    note("preview_with_it_again", preview.shown() is not None)
    press("hero.preview_end")
    scene = bpy.context.scene
    bpy.context.view_layer.objects.active = bpy.data.objects["Human"]
    before = len(bpy.data.actions)
    scene.hero.seed = 77
    press("hero.react")
    yield running
    yield 0.3
    strips = compat.strips_of(scene)
    strips.remove(strips["clip"])
    yield lambda: not running()
    note("made_without_strip", len(bpy.data.actions) - before)
    compat.new_movie_strip(scene, "clip", str(ROOT / "demo" / "clip.mp4"), 3, 1)
    scene.hero.strip = "clip"
    press("hero.react")
    yield running
    yield 0.3
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    yield 1.0
    note("running_after_load", running())


def left_running() -> Step:
    """Blender is quit in the middle of a job."""
    yield from build_scene()
    bpy.context.scene.hero.takes = 32  # one alone is there before anybody can quit
    press("hero.react")
    yield running
    yield 0.3
    note("running_at_the_end", running())


SCENARIO = (
    build_scene, load_torch, react_cancelled, react_once, undone, react_again, previewed, changed, told_why, disturbed,
    left_running,
)  # fmt: skip


def play() -> Step:
    yield 1.0
    for step in SCENARIO:
        print("GUI step", step.__name__, flush=True)
        yield from step()
        if step is build_scene:
            yield from picture("ready")


class Player:
    """Calls the scenario from a timer; ends Blender when it is over."""

    def __init__(self) -> None:
        self.scenario = play()
        self.until = 0.0
        self.ready: Callable[[], bool] | None = None

    def __call__(self) -> float | None:
        Clock.tick()
        now = time.perf_counter()
        if self.ready is not None:
            if not self.ready():
                if now > self.until:
                    return self.end(f"waited {PATIENCE:.0f} s in vain")
                return 0.01
            self.ready = None
        elif now < self.until:
            return 0.01
        try:
            answer = next(self.scenario)
        except StopIteration:
            return self.end(None)
        except BaseException:  # noqa: BLE001 - whatever it is, the test has to see it
            return self.end(traceback.format_exc())
        if callable(answer):
            self.ready, self.until = answer, now + PATIENCE
        else:
            self.until = now + answer
        return 0.01

    def end(self, error: str | None) -> None:
        seen["error"] = error
        (OUT / "seen.json").write_text(json.dumps(seen, indent=1) + "\n")
        bpy.ops.wm.quit_blender()


def start() -> None:
    import addon_utils

    view = bpy.context.preferences.view
    view.show_splash = False
    bpy.context.preferences.use_preferences_save = False
    if addon_utils.enable("hero_blender", default_set=True) is None:
        raise SystemExit("hero_blender cannot be enabled")
    bpy.app.timers.register(Player(), first_interval=0.5, persistent=True)


if __name__ == "__main__":
    start()
