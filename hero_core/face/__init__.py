# SPDX-License-Identifier: GPL-3.0-or-later
"""The face of a listener, learned with ReactDiff; offline and online.

    from hero_core import face
    model = face.checkpoint.load("folder of ReactDiff weights")
    reaction = model.react(features, takes=3)
    reaction.save("face.npz")

Importing the package needs numpy only; ReactDiff needs torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from .reaction import ARKIT, ATTRIBUTES, COEFFICIENTS, FaceReaction

__all__ = ["ARKIT", "ATTRIBUTES", "COEFFICIENTS", "FaceReaction"]

_ROOMS = {
    "baselines", "checkpoint", "config", "curves", "metrics", "online", "reactdiff", "reaction",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
