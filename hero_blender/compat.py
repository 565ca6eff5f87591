# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that knows Blender versions: 4.2 up to 5.x."""

from __future__ import annotations

from typing import Any

import bpy

# --- Sequencer: "sequences" became "strips" in 4.4, times were renamed in 5.2, effects take a length from 5.0. ---


def sequencer_scene(context: bpy.types.Context) -> bpy.types.Scene:
    """The scene that the sequencer shows; from 5.0 it may be another than that of the 3D view."""
    return getattr(context, "sequencer_scene", None) or context.scene


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


def strip_inputs(strip: Any) -> list[Any]:
    """The strips from which an effect strip is made."""
    given = [getattr(strip, name, None) for name in ("input_1", "input_2")]
    return [item for item in given if item is not None]


def new_movie_strip(scene: bpy.types.Scene, name: str, filepath: str, channel: int, start: int) -> Any:
    """Add a movie strip that plays one frame of the file in each frame of the scene."""
    return strips_of(scene.sequence_editor or scene.sequence_editor_create()).new_movie(
        name=name, filepath=filepath, channel=channel, frame_start=start
    )


def set_image_output(scene: bpy.types.Scene, file_format: str, color_mode: str) -> None:
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):  # 5.0: the formats on offer depend on it
        settings.media_type = "IMAGE"
    settings.file_format = file_format
    settings.color_mode = color_mode
    settings.color_depth = "8"
    settings.color_management = "FOLLOW_SCENE"
