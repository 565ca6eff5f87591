# SPDX-License-Identifier: GPL-3.0-or-later
"""The same small panel in the sidebars of the 3D view and of the sequencer."""

from __future__ import annotations

from typing import ClassVar

import bpy

from . import compat, operators, properties


class _ReactPanel:
    bl_label = "HERO Reaction"
    bl_region_type = "UI"
    bl_category = "HERO"

    layout: bpy.types.UILayout

    def draw(self, context: bpy.types.Context) -> None:
        layout, chosen = self.layout, context.scene.hero
        layout.use_property_split = True
        layout.use_property_decorate = False

        editor = compat.sequencer_scene(context).sequence_editor
        strip, armature = properties.chosen_strip(context), properties.chosen_armature(context)
        if editor is not None:
            names = "strips_all" if hasattr(editor, "strips_all") else "sequences_all"
            layout.prop_search(chosen, "strip", editor, names, icon="SEQUENCE", text="Clip")
        if strip is not None and not chosen.strip:
            _quiet(layout, f"Active: {strip.name}")
        layout.prop(chosen, "armature", icon="ARMATURE_DATA")
        if armature is not None and chosen.armature is None:
            _quiet(layout, f"Active: {armature.name}")
        layout.prop(chosen, "model", placeholder="As shipped")

        column = layout.column(align=True)
        column.prop(chosen, "length")
        if chosen.length == "SECONDS":
            column.prop(chosen, "seconds")
        column = layout.column(align=True)
        column.prop(chosen, "takes")
        column.prop(chosen, "seed")

        reaction = operators.Running.reaction
        if reaction is not None:
            layout.progress(factor=reaction.fraction, text=f"{reaction.stage}…")
            layout.operator("hero.cancel", icon="X")
            return
        reason = properties.missing(context)
        if reason is not None:
            layout.label(text=reason, icon="INFO")
        row = layout.row()
        row.scale_y = 1.6
        row.operator("hero.react", icon="PLAY")


def _quiet(layout: bpy.types.UILayout, text: str) -> None:
    row = layout.row()
    row.active = False
    row.alignment = "RIGHT"
    row.label(text=text)


class _FitPanel:
    bl_label = "Fit"
    bl_region_type = "UI"
    bl_category = "HERO"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    layout: bpy.types.UILayout

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
        layout.prop(chosen, "controls")
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


class HERO_PT_view3d_fit(_FitPanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_parent_id = "HERO_PT_view3d"


class HERO_PT_sequencer_fit(_FitPanel, bpy.types.Panel):
    bl_space_type = "SEQUENCE_EDITOR"
    bl_parent_id = "HERO_PT_sequencer"


CLASSES = (HERO_PT_view3d, HERO_PT_sequencer, HERO_PT_view3d_fit, HERO_PT_sequencer_fit)
