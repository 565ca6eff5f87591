# SPDX-License-Identifier: GPL-3.0-or-later
"""What quick operators share: they do their work at once, and tell in one sentence what came of it."""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

from typing import TYPE_CHECKING, Any

import bpy

from hero_core.errors import HeroError

if TYPE_CHECKING:
    from bpy.stub_internal.rna_enums import OperatorReturnItems


def left_alone(report: dict[str, Any]) -> str | None:
    """One sentence on what of a rig was not moved, and why; None where all was. For reports of ``react``."""
    reasons = list(report.get("left_alone", ()))
    if report.get("skipped"):
        names = [f"'{name}'" for name in report["skipped"]]
        names = [*names[:4], f"{len(names) - 4} more"] if len(names) > 5 else names
        reasons.insert(0, f"constraints or drivers own {', '.join(names)}")
    return f"Left alone in '{report['armature']}': {'; '.join(reasons)}." if reasons else None


class Told:
    """An operator whose ``work`` returns what to say; a HeroError ends it with its sentence, and changes nothing."""

    def execute(self, context: bpy.types.Context) -> set["OperatorReturnItems"]:
        try:
            told = self.work(context)
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        if told:
            self.report({"INFO"}, told)
        return {"FINISHED"}

    def work(self, context: bpy.types.Context) -> str | None:
        raise NotImplementedError


class JsonFile(Told):
    """One that asks for a .json file first; ``suggested`` is the name that the browser begins with."""

    filepath: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="File", description="The .json file", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )
    filter_glob: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Filter", description="Files to show", default="*.json", options={"HIDDEN"}
    )

    def invoke(self, context: bpy.types.Context, _: bpy.types.Event) -> set["OperatorReturnItems"]:
        if not self.filepath:
            self.filepath = self.suggested(context)
        context.window_manager.fileselect_add(self)  # type: ignore[arg-type]
        return {"RUNNING_MODAL"}

    def suggested(self, context: bpy.types.Context) -> str:
        raise NotImplementedError
