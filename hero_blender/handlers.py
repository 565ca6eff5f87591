# SPDX-License-Identifier: GPL-3.0-or-later
"""Functions that Blender calls when a file is saved, loaded or undone: name of the list in bpy.app.handlers -> one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import bpy


def add(handlers: Mapping[str, Callable[..., None]]) -> None:
    for name, handler in handlers.items():
        _calls(name).append(handler)


def remove(handlers: Mapping[str, Callable[..., None]]) -> None:
    for name, handler in handlers.items():
        _calls(name).remove(handler)


def _calls(name: str) -> Any:
    return getattr(bpy.app.handlers, name)
