# SPDX-License-Identifier: GPL-3.0-or-later
"""Presets of the panel by Blender's own mechanism, in Blender's own folder or in one that the preferences name."""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

from pathlib import Path
from typing import Any, ClassVar

import bpy
from bl_operators.presets import AddPresetBase
from bl_ui.utils import PresetPanel

SUBDIR = "hero"
_NAMES = (
    "length", "seconds", "takes", "own_guidance", "guidance", "residual_guidance", "temperature", "choices",
    "delay_unit", "delay", "delay_seconds", "time_scale", "face", "begin", "mirror", "start_pose",
    "preserve", "pin_feet", "smooth", "limits", "root", "in_place", "controls", "reduce", "angle", "distance", "action",
)  # fmt: skip
_registered: list[str] = []


class HERO_MT_presets(bpy.types.Menu):
    bl_label = "Reaction Presets"
    preset_subdir = SUBDIR
    preset_operator = "script.execute_preset"
    draw = bpy.types.Menu.draw_preset  # type: ignore[assignment]


class HERO_PT_presets(PresetPanel, bpy.types.Panel):
    bl_label = "Reaction Presets"
    preset_subdir = SUBDIR
    preset_operator = "script.execute_preset"
    preset_add_operator = "hero.add_preset"


class HERO_OT_add_preset(AddPresetBase, bpy.types.Operator):
    """Keep the choices of the panel as a preset, or remove one; clip, character and seed are no part of it"""

    bl_idname = "hero.add_preset"
    bl_label = "Add Reaction Preset"
    preset_menu = "HERO_MT_presets"
    preset_subdir = SUBDIR
    preset_defines: ClassVar = ["chosen = bpy.context.scene.hero"]
    preset_values: ClassVar = [f"chosen.{name}" for name in _NAMES]

    def add(self, context: bpy.types.Context, filepath: str) -> None:
        """Blender's own way writes into its own folder only."""
        target = Path(filepath)
        if _registered:
            folder = Path(_registered[-1]) / "presets" / SUBDIR
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / target.name
        chosen = context.scene.hero
        lines = ["import bpy", *self.preset_defines, ""]
        lines += [f"chosen.{name} = {getattr(chosen, name)!r}" for name in _NAMES]
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def look_in(folder: str) -> None:
    """Look for presets in a folder (in it, below presets/hero), too; "" for Blender's own alone."""
    while _registered:
        bpy.utils.unregister_preset_path(_registered.pop())
    if folder:
        path = str(Path(bpy.path.abspath(folder)))
        if bpy.utils.register_preset_path(path):
            _registered.append(path)


def draw_header(layout: Any) -> None:
    HERO_PT_presets.draw_panel_header(layout)


CLASSES = (HERO_MT_presets, HERO_PT_presets, HERO_OT_add_preset)


def register() -> None:
    from .preferences import preferences

    look_in(preferences(bpy.context).presets_folder)


def unregister() -> None:
    look_in("")
