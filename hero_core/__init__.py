# SPDX-License-Identifier: GPL-3.0-or-later
"""HERO: human reaction generation from videos (ICCV 2025), in plain PyTorch.

    hero = hero_core.load()                    # the weights that ship, or a folder
    motion = hero.react(frames, takes=3)       # uint8 (T, H, W, 3) RGB -> Motion

Importing the package needs numpy only; torch is imported when a model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import Cancelled, HeroError
from .motion import Motion
from .record import TakeRecord

if TYPE_CHECKING:
    from .checkpoint import load
    from .hero import Hero, VideoFeatures

__version__ = "0.1.0"
__all__ = ["Cancelled", "Hero", "HeroError", "Motion", "TakeRecord", "VideoFeatures", "load"]

_LAZY = {"load": "checkpoint", "Hero": "hero", "VideoFeatures": "hero"}
_ROOMS = {"cache", "humanml3d", "video", "retarget", "checkpoint", "sampling", "rvq", "tc_clip", "config"}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
    except ModuleNotFoundError as err:
        if err.name and err.name.split(".")[0] in {"torch", "safetensors"}:
            raise HeroError(
                f"The Python package '{err.name}' is not installed in this Python; install it to generate reactions."
            ) from err
        raise
    return getattr(module, name)
