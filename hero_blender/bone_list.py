# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of the character's bones in the panel: look, pick, clear, mirror, keep as a preset, share as a file."""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import bpy

from hero_core.errors import HeroError
from hero_core.motion import JOINTS
from hero_core.output import check_output
from hero_core.retarget.mapping import write_map
from hero_core.retarget.names import mirror

from . import armature, properties
from .bone_map import fill, find, forget, label, preset_folder, saved, use_file
from .sidebar import Sidebar
from .told import JsonFile, Told

if TYPE_CHECKING:
    from bpy.stub_internal.rna_enums import OperatorReturnItems

_ORDER = (
    "pelvis", "spine1", "spine2", "spine3", "neck", "head",
    *(f"{side}_{part}" for side in ("left", "right") for part in (
        "collar", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "foot",
    )),
)  # fmt: skip


def _target(context: bpy.types.Context) -> bpy.types.Object:
    """The character, with a list to edit: one that was not touched yet is filled with what is found."""
    obj = armature.check_writable(properties.chosen_armature(context))
    if saved(obj) is None:
        fill(obj)
    return obj


class _MapOperator(Told):
    bl_options: ClassVar = {"REGISTER", "UNDO", "INTERNAL"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return properties.chosen_armature(context) is not None


class HERO_OT_map_auto(_MapOperator, bpy.types.Operator):
    """Find the bones and show them, so that you can correct them"""

    bl_idname = "hero.map_auto"
    bl_label = "Find Bones"

    def work(self, context: bpy.types.Context) -> str | None:
        obj = armature.check_writable(properties.chosen_armature(context))
        reason = fill(obj)
        if reason is not None:
            self.report({"WARNING"}, reason)
            return None
        return f"{sum(map(bool, (saved(obj) or {}).values()))} of {len(JOINTS)} joints have a bone"


class HERO_OT_map_pick(_MapOperator, bpy.types.Operator):
    """Take the active bone of the armature for this joint"""

    bl_idname = "hero.map_pick"
    bl_label = "Pick the Active Bone"

    joint: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Joint", description="The joint that gets the bone", options={"SKIP_SAVE"}
    )

    def work(self, context: bpy.types.Context) -> str | None:
        _check_joint(self.joint)
        obj = _target(context)
        bone = obj.data.bones.active
        if bone is None:
            raise HeroError(f"No bone of '{obj.name}' is active; click one in Pose Mode, then pick it.")
        taken = next((each for each, name in (saved(obj) or {}).items() if name == bone.name), None)
        setattr(obj.hero_map, self.joint, bone.name)
        if taken not in (None, self.joint):  # a bone shows one joint
            setattr(obj.hero_map, taken, "")
            return f"'{bone.name}' is the {label(self.joint)} now, no longer the {label(taken)}"
        return None


class HERO_OT_map_clear(_MapOperator, bpy.types.Operator):
    """Say that the rig has no bone for this joint"""

    bl_idname = "hero.map_clear"
    bl_label = "Clear"

    joint: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Joint", description="The joint that gets no bone; empty for all", options={"SKIP_SAVE"}
    )

    def work(self, context: bpy.types.Context) -> str | None:
        if self.joint:
            _check_joint(self.joint)
        obj = _target(context)
        for joint in [self.joint] if self.joint else JOINTS:
            setattr(obj.hero_map, joint, "")
        return None


class HERO_OT_map_mirror(_MapOperator, bpy.types.Operator):
    """Give one side the bones whose names are those of the other side, mirrored"""

    bl_idname = "hero.map_mirror"
    bl_label = "Mirror"

    source: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="From",
        description="The side that is right already",
        items=[
            ("left", "Left to Right", "The left side is right already"),
            ("right", "Right to Left", "The right side is right already"),
        ],
    )

    def work(self, context: bpy.types.Context) -> str | None:
        obj = _target(context)
        other = "right" if self.source == "left" else "left"
        bones, done, lost = saved(obj) or {}, 0, []
        for joint, name in bones.items():
            if not joint.startswith(f"{self.source}_"):
                continue
            partner = _partner(obj, name) if name else ""
            if partner is None:
                lost.append(name)
            else:
                setattr(obj.hero_map, joint.replace(self.source, other, 1), partner)
                done += 1
        if lost:
            self.report({"WARNING"}, f"No bone is named as the mirror image of {', '.join(map(repr, lost))}")
        return f"{done} joints mirrored"


def _partner(obj: bpy.types.Object, name: str) -> str | None:
    """The bone of the other side by Blender's rules for names, or by the words in them."""
    flipped = bpy.utils.flip_name(name)
    if flipped != name and flipped in obj.data.bones:
        return str(flipped)
    return mirror(name, obj.data.bones.keys())


class HERO_OT_map_forget(_MapOperator, bpy.types.Operator):
    """Drop this list and let the bones be found for each take"""

    bl_idname = "hero.map_forget"
    bl_label = "Back to Automatic"

    def work(self, context: bpy.types.Context) -> str | None:
        forget(armature.check_writable(properties.chosen_armature(context)))
        return None


class HERO_OT_map_keep(_MapOperator, bpy.types.Operator):
    """Keep this map as a preset: it is found again for the next rig of this kind"""

    bl_idname = "hero.map_keep"
    bl_label = "Save as Preset"

    preset: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Name", description="What the kind of rig is called; a preset of the same name is replaced"
    )

    def invoke(self, context: bpy.types.Context, _: bpy.types.Event) -> set["OperatorReturnItems"]:
        obj = properties.chosen_armature(context)
        self.preset = self.preset or (obj.name if obj else "")
        return context.window_manager.invoke_props_dialog(self)

    def work(self, context: bpy.types.Context) -> str | None:
        obj = _target(context)
        name = self.preset.strip() or obj.name
        find(obj, armature.read_rig(obj))  # a map that cannot be used is no preset
        try:
            folder = preset_folder(create=True)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise HeroError(f"The folder for presets cannot be made ({err}); choose one in the preferences.") from err
        path = check_output(folder / f"{bpy.path.clean_name(name)}.json", ".json")
        write_map(path, name, saved(obj) or {})
        return f"Saved as '{path}'"


class _MapFile(JsonFile, _MapOperator):
    def suggested(self, context: bpy.types.Context) -> str:
        return bpy.path.clean_name(_target(context).name) + ".json"


class HERO_OT_map_export(_MapFile, bpy.types.Operator):
    """Write this map to a file that other people can import"""

    bl_idname = "hero.map_export"
    bl_label = "Export"

    def work(self, context: bpy.types.Context) -> str | None:
        obj = _target(context)
        path = Path(bpy.path.ensure_ext(bpy.path.abspath(self.filepath), ".json"))
        write_map(check_output(path, ".json"), obj.name, saved(obj) or {})
        return f"Written to '{path}'"


class HERO_OT_map_import(_MapFile, bpy.types.Operator):
    """Read a map or a preset from a file"""

    bl_idname = "hero.map_import"
    bl_label = "Import"

    def work(self, context: bpy.types.Context) -> str | None:
        obj = armature.check_writable(properties.chosen_armature(context))
        use_file(obj, Path(bpy.path.abspath(self.filepath)))
        return None


def _check_joint(joint: str) -> None:
    if joint not in JOINTS:
        raise HeroError(f"There is no joint '{joint}'; the joints are {', '.join(JOINTS)}.")


class HERO_PT_bones(Sidebar, bpy.types.Panel):
    bl_label = "Bones"
    bl_order = 2
    bl_space_type = "VIEW_3D"
    bl_parent_id = "HERO_PT_view3d"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return properties.chosen_armature(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, obj = self.layout, properties.chosen_armature(context)
        assert obj is not None
        kept = obj.hero_map
        if not kept.chosen:
            layout.label(text="Found anew for each take", icon="AUTO")
            layout.operator("hero.map_auto", text="Show and Correct", icon="VIEWZOOM")
            layout.operator("hero.map_import", icon="IMPORT")
            return
        row = layout.row(align=True)
        row.operator("hero.map_auto", icon="VIEWZOOM")
        row.operator_menu_enum("hero.map_mirror", "source", icon="MOD_MIRROR")
        row.operator("hero.map_forget", text="", icon="LOOP_BACK")
        found = _found(kept)
        column = layout.column(align=True)
        for joint in _ORDER:
            _draw_joint(column, obj, kept, joint, found.get(joint))
        row = layout.row(align=True)
        row.operator("hero.map_keep", icon="PRESET")
        row.operator("hero.map_import", text="", icon="IMPORT")
        row.operator("hero.map_export", text="", icon="EXPORT")
        row.operator("hero.map_clear", text="", icon="TRASH").joint = ""


def _draw_joint(
    column: bpy.types.UILayout, obj: bpy.types.Object, kept: Any, joint: str, found: list[Any] | None
) -> None:
    name = getattr(kept, joint)
    row = column.row(align=True)
    row.alert = bool(name) and name not in obj.data.bones
    split = row.split(factor=0.27, align=True)
    split.label(text=label(joint))
    split.prop_search(kept, joint, obj.data, "bones", text="", icon="BONE_DATA")
    told = row.row(align=True)
    told.ui_units_x = 2.2
    told.alignment = "RIGHT"
    told.active = False
    told.label(text="" if not name else f"{found[2]:.0%}" if found and found[0] == name else "yours")
    row.operator("hero.map_pick", text="", icon="EYEDROPPER").joint = joint
    row.operator("hero.map_clear", text="", icon="X").joint = joint


def _found(kept: Any) -> dict[str, list[Any]]:
    try:
        found = json.loads(kept.found or "{}")
    except ValueError:
        return {}
    return {joint: each for joint, each in found.items() if isinstance(each, list) and len(each) == 3}


CLASSES = (
    HERO_OT_map_auto, HERO_OT_map_pick, HERO_OT_map_clear, HERO_OT_map_mirror, HERO_OT_map_forget, HERO_OT_map_keep,
    HERO_OT_map_export, HERO_OT_map_import, HERO_PT_bones,
)  # fmt: skip
