# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels in the sidebars of the 3D view and of the sequencer: drawing alone, in the order of the work."""

from __future__ import annotations

from typing import Any, ClassVar

import bpy

from . import clip_facts, compat, map_state, operators, presets, preview, properties, take_list, takes
from .sidebar import Sidebar

_translations: Any = bpy.app.translations
iface, rpt = _translations.pgettext_iface, _translations.pgettext_rpt


class _ReactPanel(Sidebar):
    bl_label = "HERO Reaction"

    def draw_header_preset(self, _: bpy.types.Context) -> None:
        presets.draw_header(self.layout)

    def draw(self, context: bpy.types.Context) -> None:
        layout, chosen = self.layout, context.scene.hero
        layout.use_property_split = True
        layout.use_property_decorate = False

        layout.row().prop(chosen, "source", expand=True)
        _draw_clip(layout, context)
        armature = properties.chosen_armature(context)
        layout.prop(chosen, "armature", icon="ARMATURE_DATA")
        if armature is not None:
            if chosen.armature is None:
                _quiet(layout, rpt("Active: %s") % armature.name)
            known = map_state.of(armature)
            _quiet(layout, iface("Looking for its bones…") if known is None else "" if known.reason else known.line)
        layout.prop(chosen, "controls")

        column = layout.column(align=True)
        column.prop(chosen, "length")
        if chosen.length == "SECONDS":
            column.prop(chosen, "seconds")
        column = layout.column(align=True)
        column.prop(chosen, "takes")
        column.prop(chosen, "seed")
        layout.prop(chosen, "preview_first")

        reaction = operators.Running.reaction
        if reaction is not None:
            layout.progress(factor=reaction.fraction, text=progress(reaction))
            layout.operator("hero.cancel", icon="X")
            return
        problem = properties.problem(context)
        if problem is not None:
            _draw_problem(layout, problem)
        row = layout.row()
        row.scale_y = 1.6
        row.operator("hero.react", icon="PLAY")
        preview.draw(layout)


def progress(reaction: Any) -> str:
    """Stage and time left."""
    text, left = f"{iface(reaction.stage)}…", reaction.left
    return f"{text} {rpt('%d s left') % round(left)}" if left >= 1.5 else text


def _draw_clip(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    chosen = context.scene.hero
    if chosen.source == "FILE":
        layout.prop(chosen, "file")
        if chosen.file:
            _quiet(layout, clip_facts.of_file(bpy.path.abspath(chosen.file)))
            _quiet(layout, rpt("Starts at frame %d") % context.scene.frame_current)
        return
    scene = compat.sequencer_scene(context)
    editor = scene.sequence_editor
    strip = properties.chosen_strip(context)
    if editor is not None:
        names = "strips_all" if hasattr(editor, "strips_all") else "sequences_all"
        layout.prop_search(chosen, "strip", editor, names, icon="SEQUENCE", text="Clip")
    if strip is not None:
        if not chosen.strip:
            _quiet(layout, rpt("Active: %s") % strip.name)
        _quiet(layout, clip_facts.of_strip(scene, strip))


def _draw_problem(layout: bpy.types.UILayout, problem: properties.Problem) -> None:
    """What is missing, and the buttons that mend it."""
    column = layout.column(align=True)
    lines = _wrapped(iface(problem.text))
    for number, line in enumerate(lines):
        column.label(text=line, icon="BLANK1" if number else "INFO", translate=False)
    for name, values in problem.fixes:
        if name == "hero.pick_character":
            column.operator_menu_enum(name, "armature", icon="ARMATURE_DATA")
            continue
        button = column.operator(name)
        for key, value in values.items():
            setattr(button, key, value)


def _wrapped(text: str, most: int = 44) -> list[str]:
    """A sentence in lines that a sidebar has room for."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _quiet(layout: bpy.types.UILayout, text: str) -> None:
    if not text:
        return
    row = layout.row()
    row.active = False
    row.alignment = "RIGHT"
    row.label(text=text, translate=False)


class _TakesPanel(Sidebar):
    bl_label = "Takes"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = properties.chosen_armature(context)
        return obj is not None and any(takes.belongs(action, obj) for action in bpy.data.actions)

    def draw(self, context: bpy.types.Context) -> None:
        take_list.draw(self.layout, context)


class _PlacePanel(Sidebar):
    bl_label = "Timing and Place"
    bl_order = 1
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, chosen = self.layout, context.scene.hero
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column(align=True)
        column.prop(chosen, "delay" if chosen.delay_unit == "FRAMES" else "delay_seconds")
        column.prop(chosen, "delay_unit", text="In")
        layout.prop(chosen, "time_scale")
        layout.prop(chosen, "start_pose")
        column = layout.column()
        column.active = not chosen.start_pose
        column.prop(chosen, "begin")
        column.prop(chosen, "face")
        if chosen.face == "OBJECT":
            column.prop(chosen, "face_object", text="Object")
        layout.prop(chosen, "mirror")


class _AdvancedPanel(Sidebar):
    bl_label = "Advanced"
    bl_order = 1
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, chosen = self.layout, context.scene.hero
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(chosen, "model", placeholder="As shipped")
        layout.prop(chosen, "own_guidance")
        column = layout.column(align=True)
        column.active = chosen.own_guidance
        column.prop(chosen, "guidance")
        column.prop(chosen, "residual_guidance")
        column = layout.column(align=True)
        column.prop(chosen, "temperature")
        column.prop(chosen, "choices", slider=True)


class _FitPanel(Sidebar):
    bl_label = "Fit"
    bl_order = 1
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, chosen = self.layout, context.scene.hero
        layout.use_property_split = True
        layout.use_property_decorate = False

        layout.prop(chosen, "preserve", slider=True)
        column = layout.column(heading="Motion")
        column.prop(chosen, "pin_feet")
        column.prop(chosen, "smooth")
        column.prop(chosen, "limits")
        column = layout.column()
        row = column.row()
        row.active = not chosen.in_place
        row.prop(chosen, "root")
        column.prop(chosen, "in_place")
        column = layout.column(heading="Keys")
        column.prop(chosen, "reduce")
        inner = column.column(align=True)
        inner.active = chosen.reduce
        inner.prop(chosen, "angle")
        inner.prop(chosen, "distance")
        layout.prop(chosen, "action")


class HERO_PT_view3d(_ReactPanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"


class HERO_PT_sequencer(_ReactPanel, bpy.types.Panel):
    bl_space_type = "SEQUENCE_EDITOR"


class HERO_PT_view3d_takes(_TakesPanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_parent_id = "HERO_PT_view3d"


class HERO_PT_sequencer_takes(_TakesPanel, bpy.types.Panel):
    bl_space_type = "SEQUENCE_EDITOR"
    bl_parent_id = "HERO_PT_sequencer"


class HERO_PT_view3d_place(_PlacePanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_parent_id = "HERO_PT_view3d"


class HERO_PT_sequencer_place(_PlacePanel, bpy.types.Panel):
    bl_space_type = "SEQUENCE_EDITOR"
    bl_parent_id = "HERO_PT_sequencer"


class HERO_PT_view3d_fit(_FitPanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_parent_id = "HERO_PT_view3d"


class HERO_PT_sequencer_fit(_FitPanel, bpy.types.Panel):
    bl_space_type = "SEQUENCE_EDITOR"
    bl_parent_id = "HERO_PT_sequencer"


class HERO_PT_view3d_advanced(_AdvancedPanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_parent_id = "HERO_PT_view3d"


class HERO_PT_sequencer_advanced(_AdvancedPanel, bpy.types.Panel):
    bl_space_type = "SEQUENCE_EDITOR"
    bl_parent_id = "HERO_PT_sequencer"


CLASSES = (
    HERO_PT_view3d, HERO_PT_sequencer, HERO_PT_view3d_takes, HERO_PT_sequencer_takes, HERO_PT_view3d_place,
    HERO_PT_sequencer_place, HERO_PT_view3d_fit, HERO_PT_sequencer_fit, HERO_PT_view3d_advanced,
    HERO_PT_sequencer_advanced,
)  # fmt: skip
