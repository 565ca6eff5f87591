# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that knows Blender versions: 4.2 up to 5.x."""

from __future__ import annotations

import math
from typing import Any

import bpy
import numpy as np

# --- Properties ---

# Paths of properties may begin with "//"; before 4.5 nobody had to ask for it.
BLEND_RELATIVE: Any = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5) else set()

# --- Sequencer: "sequences" became "strips" in 4.4, times were renamed in 5.2, effects take a length from 5.0. ---


def sequencer_scene(context: bpy.types.Context) -> Any:
    """The scene that the sequencer shows; from 5.0 it may be another than that of the 3D view."""
    shown: Any = getattr(context, "sequencer_scene", None)
    return shown or context.scene


def strips_of(holder: Any) -> Any:
    """Collection of the strips directly in a scene, a sequence editor or a meta strip; () where there are none."""
    if isinstance(holder, bpy.types.Scene):
        holder = holder.sequence_editor
    if holder is None:
        return ()
    return holder.strips if hasattr(holder, "strips") else holder.sequences


def all_strips_of(scene: bpy.types.Scene) -> Any:
    """Collection of all strips of a scene by name, those inside metas too; () where there are none."""
    editor = scene.sequence_editor
    if editor is None:
        return ()
    return editor.strips_all if hasattr(editor, "strips_all") else editor.sequences_all


def active_strip(scene: bpy.types.Scene) -> Any | None:
    return scene.sequence_editor.active_strip if scene.sequence_editor else None


def strip_range(strip: Any) -> tuple[int, int]:
    """First scene frame of a strip, and the frame after its last one."""
    if hasattr(strip, "left_handle"):
        return int(strip.left_handle), int(strip.right_handle)
    return int(strip.frame_final_start), int(strip.frame_final_end)


def strip_content(strip: Any) -> tuple[float, float]:
    """Scene frame at which all that a strip holds begins, trimmed off or not, and how many frames it lasts untimed."""
    if hasattr(strip, "content_start"):
        return float(strip.content_start), float(strip.content_duration)
    return float(strip.frame_start), float(strip.frame_duration)


def retiming_frames(strip: Any) -> list[float]:
    """Scene frames of a strip's retiming keys; [] where it has none."""
    return [float(key.timeline_frame) for key in getattr(strip, "retiming_keys", ())]


def strip_inputs(strip: Any) -> list[Any]:
    """The strips from which an effect strip is made."""
    given = [getattr(strip, name, None) for name in ("input_1", "input_2")]
    return [item for item in given if item is not None]


def new_movie_strip(scene: bpy.types.Scene, name: str, filepath: str, channel: int, start: int) -> Any:
    """Add a movie strip that plays one frame of the file in each frame of the scene, fitted into the canvas."""
    return strips_of(scene.sequence_editor or scene.sequence_editor_create()).new_movie(
        name=name, filepath=filepath, channel=channel, frame_start=start, fit_method="FIT"
    )


def add_movie(scene: bpy.types.Scene, filepath: str, fps: float, start: int) -> Any:
    """Put a movie above all strips and make it the active one; at its own speed where a window allows that."""
    channel = max((strip.channel for strip in strips_of(scene)), default=0) + 1
    name = bpy.path.display_name_from_filepath(filepath)
    strip = new_movie_strip(scene, name, filepath, channel, start)
    scene.sequence_editor.active_strip = strip
    workspace = bpy.context.workspace
    if getattr(workspace, "sequencer_scene", scene) is None:
        workspace.sequencer_scene = scene  # 5.0: else the sequencer shows nothing
    speed = fps * scene.render.fps_base / scene.render.fps
    windows = bpy.context.window_manager.windows
    if abs(speed - 1) > 1e-3 and len(windows) and windows[0].scene == scene:
        _set_speed(windows[0], scene, speed)
    return strip


def _set_speed(window: bpy.types.Window, scene: bpy.types.Scene, speed: float) -> None:
    """Retime the active strip.

    By an operator, which wants a sequencer: ``retiming_keys.add`` crashes 4.5 and 5.0, and so does, from 5.0, the
    operator that adds a movie at its own speed.
    """
    area, workspace = window.screen.areas[0], window.workspace
    kind, shown = area.ui_type, getattr(workspace, "sequencer_scene", None)
    area.ui_type = "SEQUENCE_EDITOR"
    try:
        if hasattr(workspace, "sequencer_scene"):
            workspace.sequencer_scene = scene
        for other in strips_of(scene):
            other.select = other == active_strip(scene)
        region = next(region for region in area.regions if region.type == "WINDOW")
        with bpy.context.temp_override(window=window, area=area, region=region):
            bpy.ops.sequencer.retiming_segment_speed_set(speed=100 * speed)
    finally:
        area.ui_type = kind
        if hasattr(workspace, "sequencer_scene"):
            workspace.sequencer_scene = shown


def set_image_output(scene: bpy.types.Scene, file_format: str, color_mode: str) -> None:
    settings: Any = scene.render.image_settings
    if hasattr(settings, "media_type"):  # 5.0: the formats on offer depend on it
        settings.media_type = "IMAGE"
    settings.file_format = file_format
    settings.color_mode = color_mode
    settings.color_depth = "8"
    settings.color_management = "FOLLOW_SCENE"


# --- Actions: slots and layers begin with 4.4, ``Action.fcurves`` ends with 5.0; assigning an action binds no slot. ---


def new_action(name: str, owner: bpy.types.ID) -> tuple[bpy.types.Action, Any]:
    """A new action and the place for its curves (``new_fcurve``), with a slot for ``owner`` where there are slots."""
    action = bpy.data.actions.new(name)
    if not hasattr(action, "slots"):
        return action, action
    slot = action.slots.new(owner.id_type, owner.name)
    strip = action.layers.new("Layer").strips.new(type="KEYFRAME")
    return action, strip.channelbag(slot, ensure=True)


def new_fcurve(place: Any, path: str, index: int, group: str) -> bpy.types.FCurve:
    """Add a curve to the place that ``new_action`` gave, in the group of that name."""
    if isinstance(place, bpy.types.Action):
        return place.fcurves.new(path, index=index, action_group=group)
    curve = place.fcurves.new(path, index=index)
    curve.group = place.groups.get(group) or place.groups.new(group)
    return curve


def assigned_action(owner: bpy.types.ID) -> tuple[bpy.types.Action | None, Any | None]:
    """The active action of ``owner`` and the slot bound to it."""
    data = owner.animation_data
    return (data.action, getattr(data, "action_slot", None)) if data else (None, None)


def assign_action(owner: bpy.types.ID, action: bpy.types.Action | None, slot: Any | None = None) -> None:
    """Make it the active action of ``owner`` and bind ``slot``, or one that fits, without which nothing moves."""
    data = owner.animation_data or owner.animation_data_create()
    data.action = action
    if action is not None and hasattr(data, "action_slot"):
        if slot is None and data.action_slot is None:
            slot = next(iter(data.action_suitable_slots), None)
        if slot is not None:
            data.action_slot = slot


def fcurves_of(action: bpy.types.Action | None, owner: bpy.types.ID) -> list[bpy.types.FCurve]:
    """The curves by which an action moves ``owner``; an empty list without an action."""
    if action is None:
        return []
    if not hasattr(action, "slots"):
        return list(action.fcurves)
    active, slot = assigned_action(owner)
    if active != action or slot is None:
        slot = next((each for each in action.slots if each.target_id_type == owner.id_type), None)
    if slot is None:
        return []
    bags = (strip.channelbag(slot) for layer in action.layers for strip in layer.strips)
    return [curve for bag in bags if bag is not None for curve in bag.fcurves]


def place_of(action: bpy.types.Action, owner: bpy.types.ID, slot: Any | None = None) -> Any:
    """Where an action keeps the curves that move ``owner``; made where it has none, as for ``new_fcurve``."""
    if not hasattr(action, "slots"):
        return action
    active, bound = assigned_action(owner)
    slot = slot or (bound if active == action else None)
    slot = slot or next((each for each in action.slots if each.target_id_type in {owner.id_type, "UNSPECIFIED"}), None)
    if slot is not None:
        slot = next((each for each in action.slots if each.handle == slot.handle), None)  # of a copy: its own
    slot = slot or action.slots.new(owner.id_type, owner.name)
    layer = action.layers[0] if action.layers else action.layers.new("Layer")
    strip = layer.strips[0] if layer.strips else layer.strips.new(type="KEYFRAME")
    return strip.channelbag(slot, ensure=True)


def curves_in(place: Any) -> list[bpy.types.FCurve]:
    """The curves in a place that ``new_action`` or ``place_of`` gave."""
    return list(place.fcurves)


def push_down(owner: bpy.types.ID, action: bpy.types.Action, slot: Any | None, name: str) -> bpy.types.NlaStrip:
    """A strip of the action on a new NLA track above the others; outside of its keys it does nothing."""
    data = owner.animation_data or owner.animation_data_create()
    track = data.nla_tracks.new()
    track.name = name
    first, last = float(action.frame_range[0]), float(action.frame_range[1])
    strip = track.strips.new(name, math.floor(first + 1e-4), action)
    if hasattr(strip, "action_slot"):
        strip.action_slot = slot or next(iter(strip.action_suitable_slots), None)
    strip.name = name  # 4.3 to 4.4 call it after the action
    strip.action_frame_start, strip.action_frame_end = first, last
    strip.frame_start, strip.frame_end = first, max(last, first + 1)
    strip.extrapolation = "NOTHING"
    return strip


def _clip_strip(owner: bpy.types.ID, action: bpy.types.Action) -> bpy.types.NlaStrip | None:
    """The NLA strip by which an action is played, where it is not the active one."""
    data = owner.animation_data
    if data is None or data.action == action:
        return None
    strips = [strip for track in data.nla_tracks for strip in track.strips if strip.action == action]
    return next((strip for strip in strips if not strip.mute), strips[0] if strips else None)


def frame_in_action(owner: bpy.types.ID, action: bpy.types.Action, frame: float) -> float:
    """The frame of an action that is played at a frame of the scene."""
    strip = _clip_strip(owner, action)
    if strip is None:
        return frame
    return strip.action_frame_start + (frame - strip.frame_start) / (strip.scale or 1.0)


def frame_in_scene(owner: bpy.types.ID, action: bpy.types.Action, frame: float) -> float:
    """The frame of the scene at which a frame of an action is played."""
    strip = _clip_strip(owner, action)
    if strip is None:
        return frame
    return strip.frame_start + (frame - strip.action_frame_start) * (strip.scale or 1.0)


def selected_key_frames(action: bpy.types.Action, owner: bpy.types.ID) -> Any:
    """(K,) frames of the selected keys of an action; none where all are, as all new ones are."""
    found, everything = [np.zeros(0)], 0
    for curve in fcurves_of(action, owner):
        count = len(curve.keyframe_points)
        places, chosen = np.empty(2 * count), np.zeros(count, bool)
        curve.keyframe_points.foreach_get("co", places)
        curve.keyframe_points.foreach_get("select_control_point", chosen)
        found.append(places[::2][chosen])
        everything += count
    frames = np.concatenate(found)
    return frames if len(frames) < everything else found[0]
