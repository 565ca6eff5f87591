# SPDX-License-Identifier: GPL-3.0-or-later
"""The Face panel: what the face does, how it is keyed, what shows what. Thin; the work is in face.py."""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import bpy

from hero_core.errors import HeroError
from hero_core.face import listener
from hero_core.face.keys import Options
from hero_core.face.rig import CHANNELS, read_preset, write_map
from hero_core.output import check_output

from . import bone_map, compat, face, face_rig, operators, properties, torch_folder
from .preferences import preferences
from .sidebar import Sidebar
from .told import JsonFile, Told

if TYPE_CHECKING:
    from bpy.stub_internal.rna_enums import OperatorReturnItems

_KEYS = Options()
_RULES = listener.Options()


# --- what the animator chose ---------------------------------------------------------------------------------------


def _is_mesh(_: bpy.types.PropertyGroup, item: bpy.types.Object) -> bool:
    return item.type == "MESH" and item.data.shape_keys is not None


def _strength(name: str, what: str) -> Any:
    return bpy.props.FloatProperty(
        name=name, description=f"How strong {what}; 1 as generated, 0 off", default=1.0, min=0.0, soft_max=2.0, max=5.0
    )


class HeroFaceRow(bpy.types.PropertyGroup):
    kind: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Kind",
        description="What is keyed",
        items=[("KEY", "Shape Key", "A shape key by its name"), ("BONE", "Bone", "A face control of the armature")],
        override={"LIBRARY_OVERRIDABLE"},
    )
    target: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Target", description="The shape key or the bone that moves", override={"LIBRARY_OVERRIDABLE"}
    )
    source: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Source",
        description="What moves it: a shape of ARKit, an action unit such as AU12Left, an emotion such as moodHappy",
        override={"LIBRARY_OVERRIDABLE"},
        search=lambda _self, _context, text: [name for name in CHANNELS if text.lower() in name.lower()],
    )
    amount: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Amount",
        description="How far it moves where the source is at 1; of a bone, times what its preset says",
        default=1.0,
        soft_min=-1.0,
        soft_max=2.0,
        override={"LIBRARY_OVERRIDABLE"},
    )


class HeroFaceMap(bpy.types.PropertyGroup):
    """On objects: a mesh that is left out, and the map of a character."""

    skip: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Leave Out", description="Do not key the shape keys of this mesh", override={"LIBRARY_OVERRIDABLE"}
    )
    chosen: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Own Map",
        description="What shows what is in the list; otherwise it is found anew for each take",
        override={"LIBRARY_OVERRIDABLE"},
    )
    rows: bpy.props.CollectionProperty(  # type: ignore[valid-type]
        type=HeroFaceRow, name="Rows", description="What moves what, and how far", override={"LIBRARY_OVERRIDABLE"}
    )
    active: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Active Row", description="The row that is picked", override={"LIBRARY_OVERRIDABLE"}
    )
    bones: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Bones", description="How far bones move, as JSON", override={"LIBRARY_OVERRIDABLE"}
    )
    extra: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="More", description="Units and expressions, as JSON", override={"LIBRARY_OVERRIDABLE"}
    )
    told: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Found", description="What was found last", override={"LIBRARY_OVERRIDABLE"}
    )


class HeroFaceProperties(bpy.types.PropertyGroup):
    kind: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Face",
        description="What makes the face react",
        items=[
            ("OFF", "Off", "The face does nothing"),
            (
                "RULES",
                "Rule-Based Listener",
                "Nods, smiles, brows, blinks and gaze by rules of conversation, from the clip's sound. Not learned",
            ),
            ("MODEL", "ReactDiff Weights", "A ReactDiff model that you trained"),
        ],
    )
    model: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Weights", description="Folder of ReactDiff weights", subtype="DIR_PATH", options=compat.BLEND_RELATIVE
    )
    online: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Only the Past", description="Each frame knows only what came before it, as in a live conversation"
    )
    speaker: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Speaker",
        description="Face curves of the person in the clip, who is then mimicked: Live Link, MediaPipe or OpenFace "
        "CSV, ARKit JSON",
        subtype="FILE_PATH",
        options=compat.BLEND_RELATIVE,
    )
    emotion: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Emotion", description="From gloomy to friendly", default=_RULES.valence, min=-1.0, max=1.0,
        subtype="FACTOR",
    )  # fmt: skip
    energy: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Energy", description="From sleepy to excited", default=_RULES.arousal, min=-1.0, max=1.0,
        subtype="FACTOR",
    )  # fmt: skip
    attentiveness: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Attentiveness",
        description="How many of the moments to answer are answered, and how little the eyes look away",
        default=_RULES.attentiveness,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    mesh: bpy.props.PointerProperty(  # type: ignore[valid-type]
        name="Mesh",
        description="The one mesh whose shape keys are keyed; empty for all of the character",
        type=bpy.types.Object,
        poll=_is_mesh,
    )
    prefer: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Key",
        description="What is keyed where a character has shape keys and face controls",
        items=[
            ("AUTO", "Automatic", "Shape keys, and face controls for what no shape key shows"),
            ("KEYS", "Shape Keys", "Shape keys alone"),
            ("BONES", "Face Controls", "Bones alone"),
        ],
    )
    brows: _strength("Brows", "brows move")  # type: ignore[valid-type]
    eyes: _strength("Eyes", "eyes widen and squint")  # type: ignore[valid-type]
    blinks: _strength("Blinks", "blinks close the eyes")  # type: ignore[valid-type]
    gaze: _strength("Gaze", "eyes turn")  # type: ignore[valid-type]
    cheeks: _strength("Cheeks", "cheeks and nose move")  # type: ignore[valid-type]
    mouth: _strength("Mouth", "the mouth moves")  # type: ignore[valid-type]
    jaw: _strength("Jaw", "the jaw moves")  # type: ignore[valid-type]
    head: _strength("Head", "the head turns, on top of the body")  # type: ignore[valid-type]
    neck: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Neck", description="How much of the head's turn the neck takes", default=_KEYS.neck, min=0.0, max=1.0,
        subtype="FACTOR",
    )  # fmt: skip
    mirror: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Mirror", description="Swap left and right"
    )
    smooth: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Smooth", description="Take out jitter; blinks and jumps of the eyes are spared", default=_KEYS.smooth,
        min=0.0, max=1.0, subtype="FACTOR",
    )  # fmt: skip
    reduce: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Few Keys", description="Only the keys that are needed, with fitted handles", default=_KEYS.reduce
    )
    tolerance: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Tolerance", description="How far a shape key may be off where keys are left out",
        default=_KEYS.tolerance, min=0.0001, soft_max=0.1, max=0.5, precision=3,
    )  # fmt: skip


def settings_of(context: bpy.types.Context) -> face.FaceSettings:
    """What the panel says; takes and seed are those of the body."""
    chosen, body, general = context.scene.hero_face, context.scene.hero, preferences(context)
    return face.FaceSettings(
        kind=chosen.kind,
        model=bpy.path.abspath(chosen.model),
        takes=body.takes,
        seed=body.seed,
        rules=listener.Options(
            valence=chosen.emotion, arousal=chosen.energy, attentiveness=chosen.attentiveness
        ),
        speaker=bpy.path.abspath(chosen.speaker),
        online=chosen.online,
        device=general.device.lower(),
        torch=general.torch_folder,
        keys=Options(
            **{
                name: getattr(chosen, name)
                for name in (
                    "brows", "eyes", "blinks", "gaze", "cheeks", "mouth", "jaw", "head", "neck", "mirror", "smooth",
                    "reduce", "tolerance",
                )
            },
            prefer=chosen.prefer.lower(),
        ),
    )  # fmt: skip


def character(context: bpy.types.Context) -> tuple[bpy.types.Object | None, bpy.types.Object | None]:
    """The armature and the mesh of the panel; without an armature the active mesh."""
    armature, mesh = properties.chosen_armature(context), context.scene.hero_face.mesh
    active = context.view_layer.objects.active
    if armature is None and mesh is None and active is not None and active.type == "MESH":
        mesh = active
    if mesh is not None and armature is None:
        armature = mesh.find_armature()
    return armature, mesh


def missing(context: bpy.types.Context) -> str | None:
    """What has to be done before the face can react alone; None when it can. Cheap."""
    chosen = context.scene.hero_face
    if chosen.kind == "OFF":
        return "Choose what makes the face react"
    if properties.chosen_clip(context) is None:
        return "Select a movie or sound strip in the sequencer, or choose a file"
    if character(context) == (None, None):
        return "Pick the character's armature, or the mesh of its head"
    if chosen.kind == "MODEL":
        if not chosen.model:
            return "Choose a folder of ReactDiff weights"
        if torch_folder.find(preferences(context).torch_folder) is None:
            return "PyTorch is not installed: see the preferences of HERO"
    return None


# --- operators -----------------------------------------------------------------------------------------------------


class HERO_OT_react_face(operators.JobOperator, bpy.types.Operator):
    """Let the face alone react to the clip's sound: an Action for each take of shape keys, neck and head"""

    bl_idname = "hero.react_face"
    bl_label = "React with the Face"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if operators.busy(cls):
            return False
        reason = missing(context)
        if reason:
            cls.poll_message_set(reason)
        return reason is None

    def begin(self, context: bpy.types.Context) -> Any:
        clip = properties.chosen_clip(context)
        scene: Any = context.scene if isinstance(clip, str) else compat.sequencer_scene(context)
        return face.FaceJob(scene, clip, *character(context), settings_of(context), start=context.scene.frame_current)

    def _tell(self, report: dict[str, Any]) -> "set[OperatorReturnItems]":
        tell_owner(bpy.context, report)
        for note in report["notes"]:
            self.report({"WARNING"}, note[:1].upper() + note[1:])
        self.report(
            {"INFO"}, f"{report['source']}: {len(report['takes'])} Actions from frame {report['first_frame']} on"
        )
        return {"FINISHED"}


def with_face(context: bpy.types.Context, body: Any, clip: Any) -> Any:
    """The body's job, with the face on top where the panel asks for it; closed where that raises HeroError."""
    settings = settings_of(context)
    if not settings.on:
        return body
    try:
        scene: Any = context.scene if isinstance(clip, str) else compat.sequencer_scene(context)
        job = face.FaceJob(scene, clip, *character(context), settings, hold=True)
    except HeroError:
        body.close()
        raise
    return face.Together(body, job)


def tell_owner(context: bpy.types.Context, report: dict[str, Any]) -> None:
    """Keep for the panel what was found."""
    owner = face_rig.owner_of(*character(context))
    if owner is not None and owner.library is None:
        owner.hero_face.told = json.dumps({"map": report["map"], "notes": report["notes"][:8]})


class _FaceMap(Told):
    bl_options: ClassVar = {"REGISTER", "UNDO", "INTERNAL"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return character(context) != (None, None)


def _owner(context: bpy.types.Context) -> bpy.types.Object:
    owner = face_rig.owner_of(*character(context))
    if owner is None:
        raise HeroError("There is no character; choose the armature, or the mesh of the head.")
    if owner.library is not None:
        raise HeroError(f"'{owner.name}' is linked; make a library override of it, then edit its face map.")
    return owner


def _found(context: bpy.types.Context, file: Path | None = None) -> face_rig.Face:
    return face_rig.find(*character(context), settings_of(context).keys, file)


def _count(found: face_rig.Face) -> str:
    return f"{len(found.map.keys)} shape keys and {len({row.bone for row in found.map.bones})} bones"


class HERO_OT_face_map_find(_FaceMap, bpy.types.Operator):
    """Find what shows what and put it into the list, so that you can correct it"""

    bl_idname = "hero.face_map_find"
    bl_label = "Find"

    def work(self, context: bpy.types.Context) -> str | None:
        owner = _owner(context)
        kept = owner.hero_face.chosen
        owner.hero_face.chosen = False
        try:
            found = _found(context)
        except HeroError:
            owner.hero_face.chosen = kept
            raise
        face_rig.store(owner, found.map)
        owner.hero_face.told = json.dumps({"map": found.map.preset, "notes": list(found.notes)[:8]})
        for note in found.notes:
            self.report({"WARNING"}, note[:1].upper() + note[1:])
        return f"{_count(found)} by {found.map.preset}"


class HERO_OT_face_map_forget(_FaceMap, bpy.types.Operator):
    """Drop the list and let it be found anew for each take"""

    bl_idname = "hero.face_map_forget"
    bl_label = "Back to Automatic"

    def work(self, context: bpy.types.Context) -> str | None:
        face_rig.forget(_owner(context))
        return None


class HERO_OT_face_map_add(_FaceMap, bpy.types.Operator):
    """Add a row: a shape key, what moves it, and how far"""

    bl_idname = "hero.face_map_add"
    bl_label = "Add Row"

    def work(self, context: bpy.types.Context) -> str | None:
        kept = _owner(context).hero_face
        kept.rows.add()
        kept.active = len(kept.rows) - 1
        kept.chosen = True
        return None


class HERO_OT_face_map_remove(_FaceMap, bpy.types.Operator):
    """Remove the picked row: its target no longer moves with this source"""

    bl_idname = "hero.face_map_remove"
    bl_label = "Remove Row"

    def work(self, context: bpy.types.Context) -> str | None:
        kept = _owner(context).hero_face
        if not 0 <= kept.active < len(kept.rows):
            raise HeroError("No row is picked; click one in the list, then remove it.")
        kept.rows.remove(kept.active)
        kept.active = min(kept.active, len(kept.rows) - 1)
        return None


class HERO_OT_face_map_keep(_FaceMap, bpy.types.Operator):
    """Keep this map as a preset: it is found again for the next face of this kind"""

    bl_idname = "hero.face_map_keep"
    bl_label = "Save as Preset"

    preset: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Name", description="What the kind of face is called; a preset of the same name is replaced"
    )

    def invoke(self, context: bpy.types.Context, _: bpy.types.Event) -> set["OperatorReturnItems"]:
        owner = face_rig.owner_of(*character(context))
        self.preset = self.preset or (owner.name if owner else "")
        return context.window_manager.invoke_props_dialog(self)

    def work(self, context: bpy.types.Context) -> str | None:
        name = self.preset.strip() or _owner(context).name
        folder = bone_map.preset_folder(create=True) / "face"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise HeroError(f"The folder for presets cannot be made ({err}); choose one in the preferences.") from err
        path = check_output(folder / f"{bpy.path.clean_name(name)}.json", ".json")
        write_map(path, name, _found(context).map)
        return f"Saved as '{path}'"


class _File(JsonFile, _FaceMap):
    def suggested(self, context: bpy.types.Context) -> str:
        return bpy.path.clean_name(_owner(context).name) + "_face.json"


class HERO_OT_face_map_export(_File, bpy.types.Operator):
    """Write the face map to a file that other people can import"""

    bl_idname = "hero.face_map_export"
    bl_label = "Export"

    def work(self, context: bpy.types.Context) -> str | None:
        path = Path(bpy.path.ensure_ext(bpy.path.abspath(self.filepath), ".json"))
        write_map(check_output(path, ".json"), _owner(context).name, _found(context).map)
        return f"Written to '{path}'"


class HERO_OT_face_map_import(_File, bpy.types.Operator):
    """Read a face map or a preset from a file"""

    bl_idname = "hero.face_map_import"
    bl_label = "Import"

    def work(self, context: bpy.types.Context) -> str | None:
        path = Path(bpy.path.abspath(self.filepath))
        read_preset(path)
        found = _found(context, path)
        face_rig.store(_owner(context), found.map)
        for note in found.notes:
            self.report({"WARNING"}, note[:1].upper() + note[1:])
        return _count(found)


# --- panels --------------------------------------------------------------------------------------------------------


class HERO_UL_face_map(bpy.types.UIList):
    """Rows of a face map."""

    def draw_item(
        self,
        context: bpy.types.Context | None,
        layout: bpy.types.UILayout,
        data: Any,
        item: Any,
        icon: int | None,
        active_data: Any,
        active_property: str | None,
        index: int | None = 0,
        flt_flag: int | None = 0,
    ) -> None:
        row = layout.row(align=True)
        row.prop(item, "target", text="", emboss=False, icon="SHAPEKEY_DATA" if item.kind == "KEY" else "BONE_DATA")
        row.prop(item, "source", text="", emboss=False)
        last = row.row(align=True)
        last.ui_units_x = 3
        last.prop(item, "amount", text="", emboss=False)

    def filter_items(self, context: Any, data: Any, property: str) -> Any:  # noqa: A002
        rows = getattr(data, property)
        text = self.filter_name.lower()
        if not text:
            return [], []
        shown = [text in row.target.lower() or text in row.source.lower() for row in rows]
        return [self.bitflag_filter_item if each != self.use_filter_invert else 0 for each in shown], []


class _FacePanel(Sidebar):
    bl_label = "Face"
    bl_order = 2
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, chosen = self.layout, context.scene.hero_face
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(chosen, "kind")
        if chosen.kind == "OFF":
            return
        if chosen.kind == "MODEL":
            layout.prop(chosen, "model")
            layout.prop(chosen, "online")
        else:
            column = layout.column(align=True)
            column.prop(chosen, "emotion", slider=True)
            column.prop(chosen, "energy", slider=True)
            column.prop(chosen, "attentiveness", slider=True)
        layout.prop(chosen, "speaker")
        layout.prop(chosen, "mesh", icon="MESH_DATA")
        layout.prop(chosen, "prefer")
        reason = missing(context)
        if reason is not None:
            layout.label(text=reason, icon="INFO")
        layout.operator("hero.react_face", text="React with the Face Alone", icon="PLAY")


class _StrengthPanel(Sidebar):
    bl_label = "Strength"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.scene.hero_face.kind != "OFF"

    def draw(self, context: bpy.types.Context) -> None:
        layout, chosen = self.layout, context.scene.hero_face
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column(align=True)
        for name in ("brows", "eyes", "blinks", "gaze", "cheeks", "mouth", "jaw", "head"):
            column.prop(chosen, name, slider=True)
        layout.prop(chosen, "neck", slider=True)
        layout.prop(chosen, "mirror")
        layout.prop(chosen, "smooth", slider=True)
        column = layout.column(heading="Keys")
        column.prop(chosen, "reduce")
        inner = column.column()
        inner.active = chosen.reduce
        inner.prop(chosen, "tolerance")


class _MapPanel(Sidebar):
    bl_label = "Face Map"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.scene.hero_face.kind != "OFF" and character(context) != (None, None)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        armature, mesh = character(context)
        owner = face_rig.owner_of(armature, mesh)
        assert owner is not None
        for obj in face_meshes(armature, mesh):
            row = layout.row()
            row.prop(obj.hero_face, "skip", text=obj.name, invert_checkbox=True, icon="MESH_DATA")
        kept = owner.hero_face
        for line in _told(kept):
            layout.label(text=line, icon="INFO")
        if not kept.chosen:
            layout.label(text="Found anew for each take", icon="AUTO")
            layout.operator("hero.face_map_find", text="Show and Correct", icon="VIEWZOOM")
            layout.operator("hero.face_map_import", icon="IMPORT")
            return
        row = layout.row()
        row.template_list("HERO_UL_face_map", "", kept, "rows", kept, "active", rows=6)
        column = row.column(align=True)
        column.operator("hero.face_map_add", text="", icon="ADD")
        column.operator("hero.face_map_remove", text="", icon="REMOVE")
        column.separator()
        column.operator("hero.face_map_find", text="", icon="VIEWZOOM")
        column.operator("hero.face_map_forget", text="", icon="LOOP_BACK")
        row = layout.row(align=True)
        row.operator("hero.face_map_keep", icon="PRESET")
        row.operator("hero.face_map_import", text="", icon="IMPORT")
        row.operator("hero.face_map_export", text="", icon="EXPORT")


def face_meshes(armature: bpy.types.Object | None, mesh: bpy.types.Object | None) -> list[bpy.types.Object]:
    """Meshes with shape keys to show with a switch: children of the armature, which is quick to find."""
    if mesh is not None or armature is None:
        return [] if mesh is None else [mesh]
    return [each for each in armature.children if each.type == "MESH" and each.data.shape_keys is not None][:12]


def _told(kept: Any) -> list[str]:
    try:
        told = json.loads(kept.told or "{}")
        lines = [f"Last: {told['map']}"] if told.get("map") else []
        return [*lines, *(str(note) for note in told.get("notes", ()))][:5]
    except (ValueError, AttributeError, TypeError):
        return []


class HERO_PT_view3d_face(_FacePanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_parent_id = "HERO_PT_view3d"


class HERO_PT_sequencer_face(_FacePanel, bpy.types.Panel):
    bl_space_type = "SEQUENCE_EDITOR"
    bl_parent_id = "HERO_PT_sequencer"


class HERO_PT_view3d_face_strength(_StrengthPanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_parent_id = "HERO_PT_view3d_face"


class HERO_PT_sequencer_face_strength(_StrengthPanel, bpy.types.Panel):
    bl_space_type = "SEQUENCE_EDITOR"
    bl_parent_id = "HERO_PT_sequencer_face"


class HERO_PT_view3d_face_map(_MapPanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_parent_id = "HERO_PT_view3d_face"


CLASSES = (
    HeroFaceRow, HeroFaceMap, HeroFaceProperties, HERO_OT_react_face, HERO_OT_face_map_find, HERO_OT_face_map_forget,
    HERO_OT_face_map_add, HERO_OT_face_map_remove, HERO_OT_face_map_keep, HERO_OT_face_map_export,
    HERO_OT_face_map_import, HERO_UL_face_map, HERO_PT_view3d_face, HERO_PT_sequencer_face,
    HERO_PT_view3d_face_strength, HERO_PT_sequencer_face_strength, HERO_PT_view3d_face_map,
)  # fmt: skip


def register() -> None:
    """After the classes."""
    bpy.types.Scene.hero_face = bpy.props.PointerProperty(type=HeroFaceProperties)  # type: ignore[func-returns-value]
    bpy.types.Object.hero_face = bpy.props.PointerProperty(  # type: ignore[func-returns-value]
        type=HeroFaceMap, override={"LIBRARY_OVERRIDABLE"}
    )


def unregister() -> None:
    face.forget_model()
    del bpy.types.Object.hero_face
    del bpy.types.Scene.hero_face
