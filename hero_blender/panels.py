# SPDX-License-Identifier: GPL-3.0-or-later
"""The same small panel in the sidebars of the 3D view and of the sequencer."""

from __future__ import annotations

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


class HERO_PT_view3d(_ReactPanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"


class HERO_PT_sequencer(_ReactPanel, bpy.types.Panel):
    bl_space_type = "SEQUENCE_EDITOR"


CLASSES = (HERO_PT_view3d, HERO_PT_sequencer)
