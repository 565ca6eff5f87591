# SPDX-License-Identifier: GPL-3.0-or-later
"""React, Cancel, and what mends what React lacks: thin, the work is in react.py."""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import bpy
from bpy.app.handlers import persistent

from hero_core.errors import Cancelled, HeroError

from . import compat, handlers, properties, told
from .react import Reaction, straight

if TYPE_CHECKING:
    from bpy.stub_internal.rna_enums import OperatorReturnItems


class Running:
    """The reaction that is being made, if any. It belongs to the moment, so it is no property and in no file."""

    reaction: Reaction | None = None


class JobOperator:
    """What all jobs share: straight through in scripts, in the redo panel and without a window; else with a timer.

    A subclass says in ``begin`` what is to be done; its properties are those of the redo panel.
    """

    bl_options: ClassVar = {"REGISTER", "UNDO"}

    _timer: bpy.types.Timer | None = None

    def begin(self, context: bpy.types.Context) -> Reaction:
        """The job; raises HeroError where it cannot be begun."""
        raise NotImplementedError

    def execute(self, context: bpy.types.Context) -> "set[OperatorReturnItems]":
        """Straight through, for scripts and where there is no window."""
        wm = context.window_manager
        wm.progress_begin(0, 1)
        try:
            report = straight(self.begin(context), lambda done, total: wm.progress_update(done / total) is None)
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        finally:
            wm.progress_end()
        return self._tell(report)

    def invoke(self, context: bpy.types.Context, _: bpy.types.Event) -> "set[OperatorReturnItems]":
        """In a window: in steps, with a timer."""
        if bpy.app.background or context.window is None:
            return self.execute(context)
        try:
            Running.reaction = self.begin(context)
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        self._reaction = Running.reaction
        self._timer = context.window_manager.event_timer_add(0.03, window=context.window)
        context.window_manager.modal_handler_add(self)  # type: ignore[arg-type]
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> "set[OperatorReturnItems]":
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        reaction = Running.reaction
        _redraw(context)
        if reaction is None or getattr(self, "_reaction", reaction) is not reaction:
            self._end(context)  # the add-on was disabled, or another file was loaded
            return {"CANCELLED"}
        try:
            reaction.step()
        except Cancelled:
            self._end(context)
            self.report({"INFO"}, "Cancelled: nothing was changed")
            return {"CANCELLED"}
        except HeroError as err:
            self._end(context)
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        except BaseException:
            self._end(context)
            raise
        if reaction.report is None:
            return {"RUNNING_MODAL"}
        self._end(context)
        return self._tell(reaction.report)

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender itself ends the operator: the window is closed or another file is loaded."""
        self._end(context)

    def _end(self, context: bpy.types.Context) -> None:
        if getattr(self, "_reaction", None) in (None, Running.reaction):
            close_current()
        if self._timer is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None

    def _tell(self, report: dict[str, Any]) -> "set[OperatorReturnItems]":
        names = ", ".join(f"'{take['action']}'" for take in report["takes"])
        for note in report.get("face", {}).get("notes", ()):
            self.report({"WARNING"}, note[:1].upper() + note[1:])
        if not names:
            self.report({"INFO"}, f"'{report['armature']}' shows a preview; press Key It where you like what you see")
            return {"FINISHED"}
        alone = told.left_alone(report)
        if alone:
            self.report({"WARNING"}, alone)
        self.report({"INFO"}, f"'{report['armature']}' reacts from frame {report['first_frame']} on: {names}")
        return {"FINISHED"}


def busy(cls: Any) -> bool:
    """Whether a job is going on already; then the operator ``cls`` says so."""
    if Running.reaction is not None:
        cls.poll_message_set("A reaction is being made")
    return Running.reaction is not None


class HERO_OT_react(JobOperator, bpy.types.Operator):
    """Watch the clip and let the character react to it: one Action for each take, from the clip's first frame on"""

    bl_idname = "hero.react"
    bl_label = "React"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if busy(cls):
            return False
        reason = properties.missing(context)
        if reason:
            cls.poll_message_set(reason)
        return reason is None

    def begin(self, context: bpy.types.Context) -> Reaction:
        scene, obj = compat.sequencer_scene(context), properties.chosen_armature(context)
        clip, settings = properties.chosen_clip(context), properties.settings_of(context)
        if isinstance(clip, str):
            assert context.scene is not None
            body = Reaction(context.scene, clip, obj, settings, start=context.scene.frame_current)
        else:
            body = Reaction(scene, clip, obj, settings)
        from . import face_panel  # it builds on this module

        job: Reaction = face_panel.with_face(context, body, clip)
        return job


class HERO_OT_cancel(bpy.types.Operator):
    """Stop making the reaction; nothing is changed"""

    bl_idname = "hero.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _: bpy.types.Context) -> bool:
        return Running.reaction is not None

    def execute(self, context: bpy.types.Context) -> "set[OperatorReturnItems]":
        if Running.reaction is not None:
            Running.reaction.cancel()
        _redraw(context)
        return {"FINISHED"}


class HERO_OT_show_preferences(bpy.types.Operator):
    """Open the preferences of HERO"""

    bl_idname = "hero.show_preferences"
    bl_label = "Preferences"
    bl_options: ClassVar = {"INTERNAL"}

    def execute(self, _: bpy.types.Context) -> "set[OperatorReturnItems]":
        if __package__ in bpy.context.preferences.addons and not bpy.app.background:
            bpy.ops.preferences.addon_show(module=__package__)
        return {"FINISHED"}


class _ChooseFile:
    """A file is chosen in Blender's browser."""

    bl_options: ClassVar = {"REGISTER", "UNDO", "INTERNAL"}

    def invoke(self, context: bpy.types.Context, _: bpy.types.Event) -> "set[OperatorReturnItems]":
        context.window_manager.fileselect_add(self)  # type: ignore[arg-type]
        return {"RUNNING_MODAL"}


class HERO_OT_choose_file(_ChooseFile, bpy.types.Operator):
    """Choose a movie file to watch; it needs no strip"""

    bl_idname = "hero.choose_file"
    bl_label = "Choose Movie"

    filepath: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="File", description="The movie file to watch", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )
    filter_movie: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Movies", description="Show movie files", default=True, options={"HIDDEN", "SKIP_SAVE"}
    )
    filter_folder: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Folders", description="Show folders", default=True, options={"HIDDEN", "SKIP_SAVE"}
    )

    def execute(self, context: bpy.types.Context) -> "set[OperatorReturnItems]":
        if not Path(bpy.path.abspath(self.filepath)).is_file():
            self.report({"ERROR"}, f"There is no file '{self.filepath}'; choose a movie.")
            return {"CANCELLED"}
        context.scene.hero.file, context.scene.hero.source = self.filepath, "FILE"
        return {"FINISHED"}


class HERO_OT_choose_weights(_ChooseFile, bpy.types.Operator):
    """Choose the folder of the weights for this scene; none for those that ship"""

    bl_idname = "hero.choose_weights"
    bl_label = "Choose Weights"

    directory: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Folder", description="The folder of the weights", subtype="DIR_PATH", options={"SKIP_SAVE"}
    )
    filter_folder: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Folders", description="Show folders", default=True, options={"HIDDEN", "SKIP_SAVE"}
    )

    def execute(self, context: bpy.types.Context) -> "set[OperatorReturnItems]":
        context.scene.hero.model = self.directory
        return {"FINISHED"}


class HERO_OT_forget_strip(bpy.types.Operator):
    """Take the active strip again, for the picked one is gone"""

    bl_idname = "hero.forget_strip"
    bl_label = "Use the Active Strip"
    bl_options: ClassVar = {"REGISTER", "UNDO", "INTERNAL"}

    def execute(self, context: bpy.types.Context) -> "set[OperatorReturnItems]":
        context.scene.hero.strip = ""
        return {"FINISHED"}


class HERO_OT_unmute_strip(bpy.types.Operator):
    """Unmute the strip that the character is to watch"""

    bl_idname = "hero.unmute_strip"
    bl_label = "Unmute"
    bl_options: ClassVar = {"REGISTER", "UNDO", "INTERNAL"}

    def execute(self, context: bpy.types.Context) -> "set[OperatorReturnItems]":
        strip = properties.chosen_strip(context)
        if strip is None:
            return {"CANCELLED"}
        strip.mute = False
        return {"FINISHED"}


_names: list[tuple[str, str, str]] = []  # Blender keeps no reference to the texts of a list that changes


def _armatures(_: Any, context: bpy.types.Context | None) -> list[tuple[str, str, str]]:
    scene = (context or bpy.context).scene
    found = [obj.name for obj in scene.objects if obj.type == "ARMATURE"] if scene is not None else []
    _names[:] = [(name, name, "") for name in found] or [("", "No Armature in the Scene", "")]
    return _names


class HERO_OT_pick_character(bpy.types.Operator):
    """Pick the armature that reacts"""

    bl_idname = "hero.pick_character"
    bl_label = "Pick Character"
    bl_options: ClassVar = {"REGISTER", "UNDO", "INTERNAL"}

    armature: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Character", description="The armature that reacts", items=_armatures, options={"SKIP_SAVE"}
    )

    def execute(self, context: bpy.types.Context) -> "set[OperatorReturnItems]":
        obj = bpy.data.objects.get(self.armature)
        if obj is None or obj.type != "ARMATURE":
            self.report({"ERROR"}, "There is no armature in the scene; add the character first.")
            return {"CANCELLED"}
        context.scene.hero.armature = obj
        return {"FINISHED"}


def _redraw(context: bpy.types.Context) -> None:
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"VIEW_3D", "SEQUENCE_EDITOR"}:
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


def close_current() -> None:
    """Stop the reaction that is being made; its thread ends by itself."""
    reaction, Running.reaction = Running.reaction, None
    if reaction is not None:
        reaction.close()


@persistent  # type: ignore[untyped-decorator]
def _before_the_file_is_kept(*_: Any) -> None:
    if Running.reaction is not None:
        Running.reaction.release()


@persistent  # type: ignore[untyped-decorator]
def _before_another_file(*_: Any) -> None:
    close_current()


_HANDLERS = {
    "save_pre": _before_the_file_is_kept,
    "undo_pre": _before_the_file_is_kept,
    "redo_pre": _before_the_file_is_kept,
    "load_pre": _before_another_file,
}

CLASSES = (
    HERO_OT_react,
    HERO_OT_cancel,
    HERO_OT_show_preferences,
    HERO_OT_choose_file,
    HERO_OT_choose_weights,
    HERO_OT_forget_strip,
    HERO_OT_unmute_strip,
    HERO_OT_pick_character,
)


def register() -> None:
    handlers.add(_HANDLERS)


def unregister() -> None:
    handlers.remove(_HANDLERS)
    close_current()
