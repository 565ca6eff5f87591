# SPDX-License-Identifier: GPL-3.0-or-later
"""Where PyTorch is. It is not packed: it is far larger than everything else, and the right one depends on the GPU."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from pathlib import Path

import bpy

from hero_core.errors import HeroError

MISSING = "PyTorch is not installed in Blender's Python; choose the folder that holds it in the preferences of HERO."


def user_folder() -> Path | None:
    """The extension's own folder, which outlives its updates; None where it does not run as an extension."""
    try:
        return Path(bpy.utils.extension_path_user(__package__, path="site-packages"))
    except ValueError:
        return None


@functools.cache
def find(chosen: str = "") -> Path | None:
    """The folder that holds torch: Python's own, the chosen one, or the extension's; None if no place has it.

    The answer is remembered, for panels ask at each redraw; ``find.cache_clear()`` looks again.
    """
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parents[1]
    for folder in (Path(bpy.path.abspath(chosen)) if chosen else None, user_folder()):
        if folder is not None and (folder / "torch" / "__init__.py").is_file():
            return folder
    return None


def make_importable(chosen: str = "") -> None:
    """Let ``import torch`` work; raises HeroError where torch is nowhere. For the main thread."""
    if "torch" in sys.modules:
        return
    find.cache_clear()
    folder = find(chosen)
    if folder is None:
        raise HeroError(MISSING)
    if importlib.util.find_spec("torch") is None:
        sys.path.append(str(folder))  # at the end: Blender's own numpy must stay the first
        if os.name == "nt":
            os.add_dll_directory(str(folder / "torch" / "lib"))  # type: ignore[attr-defined, unused-ignore]
