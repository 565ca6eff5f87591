# SPDX-License-Identifier: GPL-3.0-or-later
"""HERO for Blender: your character watches the movie strip and reacts to it."""

from __future__ import annotations

from typing import Any

_commands: list[Any] = []


def register() -> None:
    import bpy

    from . import (
        bone_list,
        bone_map,
        command,
        compare,
        face_panel,
        operators,
        panels,
        preferences,
        presets,
        preview,
        properties,
        take_list,
        torch_folder,
        why,
    )

    for module in (preferences, properties, operators, presets, take_list, panels, preview, why, bone_list, face_panel):
        for cls in module.CLASSES:
            bpy.utils.register_class(cls)
    bone_map.register()
    properties.register()
    face_panel.register()
    operators.register()
    presets.register()
    compare.register()
    preview.register()
    torch_folder.clean_up()
    _commands.append(bpy.utils.register_cli_command("hero", command.main))  # type: ignore[func-returns-value]


def unregister() -> None:
    import bpy

    from . import (
        bone_list,
        bone_map,
        compare,
        face_panel,
        job,
        operators,
        panels,
        preferences,
        presets,
        preview,
        properties,
        react,
        take_list,
        why,
    )

    while _commands:
        bpy.utils.unregister_cli_command(_commands.pop())
    preview.unregister()
    why.unregister()
    compare.unregister()
    presets.unregister()
    operators.unregister()
    job.stop_all()
    react.forget_model()
    face_panel.unregister()
    properties.unregister()
    bone_map.unregister()
    for module in (face_panel, bone_list, why, preview, panels, take_list, presets, operators, properties, preferences):
        for cls in reversed(module.CLASSES):
            bpy.utils.unregister_class(cls)
