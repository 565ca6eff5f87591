# SPDX-License-Identifier: GPL-3.0-or-later
"""React and Cancel: thin, the work is in react.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import bpy
from bpy.app.handlers import persistent

from hero_core.errors import Cancelled, HeroError

from . import compat, properties
from .react import Reaction, react_strip

if TYPE_CHECKING:
    from bpy.stub_internal.rna_enums import OperatorReturnItems


class Running:
    """The reaction that is being made, if any. It belongs to the moment, so it is no property and in no file."""

    reaction: Reaction | None = None


class HERO_OT_react(bpy.types.Operator):
    """Watch the clip and let the character react to it: one Action for each take, from the strip's first frame on"""

    bl_idname = "hero.react"
    bl_label = "React"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    _timer: bpy.types.Timer | None = None

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = "A reaction is being made" if Running.reaction else properties.missing(context)
        if reason:
            cls.poll_message_set(reason)
        return reason is None

    def execute(self, context: bpy.types.Context) -> set[OperatorReturnItems]:
        """Straight through, for scripts and where there is no window."""
        wm = context.window_manager
        wm.progress_begin(0, 1)
        try:
            report = react_strip(
                compat.sequencer_scene(context),
                properties.chosen_strip(context),
                properties.chosen_armature(context),
                properties.settings_of(context),
                lambda done, total: wm.progress_update(done / total) is None,
            )
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        finally:
            wm.progress_end()
        return self._tell(report)

    def invoke(self, context: bpy.types.Context, _: bpy.types.Event) -> set[OperatorReturnItems]:
        """In a window: in steps, with a timer."""
        if bpy.app.background or context.window is None:
            return self.execute(context)
        try:
            Running.reaction = Reaction(
                compat.sequencer_scene(context),
                properties.chosen_strip(context),
                properties.chosen_armature(context),
                properties.settings_of(context),
            )
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        self._timer = context.window_manager.event_timer_add(0.03, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[OperatorReturnItems]:
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        reaction = Running.reaction
        _redraw(context)
        if reaction is None:  # the add-on was disabled, or another file was loaded
            self._end(context)
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
        close_current()
        if self._timer is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None

    def _tell(self, report: dict[str, Any]) -> set[OperatorReturnItems]:
        names = ", ".join(f"'{take['action']}'" for take in report["takes"])
        if not names:
            self.report({"INFO"}, f"'{report['armature']}' shows a preview; press Key It where you like what you see")
            return {"FINISHED"}
        self.report({"INFO"}, f"'{report['armature']}' reacts from frame {report['first_frame']} on: {names}")
        return {"FINISHED"}


class HERO_OT_cancel(bpy.types.Operator):
    """Stop making the reaction; nothing is changed"""

    bl_idname = "hero.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _: bpy.types.Context) -> bool:
        return Running.reaction is not None

    def execute(self, context: bpy.types.Context) -> set[OperatorReturnItems]:
        if Running.reaction is not None:
            Running.reaction.cancel()
        _redraw(context)
        return {"FINISHED"}


def _redraw(context: bpy.types.Context) -> None:
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"VIEW_3D", "SEQUENCE_EDITOR"}:
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


def close_current() -> None:
    """Stop the reaction that is being made, and wait for its thread."""
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

CLASSES = (HERO_OT_react, HERO_OT_cancel)


def register() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
    close_current()
