# SPDX-License-Identifier: GPL-3.0-or-later
"""The face of a listener: rule-based, or learned with ReactDiff; offline and online.

    from hero_core import face
    sound = face.sound.read("clip.mp4")
    speaker = face.curves.read("speaker.csv")                           # where there is one
    reaction = face.listener.listen(sound, speaker, takes=3, seed=0)    # rule-based, not learned
    model = face.checkpoint.load("folder of ReactDiff weights")
    reaction = model.react(face.features.curves(sound, speaker), takes=3)
    reaction.save("face.npz")

Importing the package, its readers, sound features, rules and metrics needs numpy only; ReactDiff needs torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from .reaction import ARKIT, ATTRIBUTES, COEFFICIENTS, FaceReaction

__all__ = ["ARKIT", "ATTRIBUTES", "COEFFICIENTS", "FaceReaction"]

_ROOMS = {
    "baselines", "checkpoint", "config", "curves", "features", "listener", "metrics", "online", "reactdiff",
    "reaction", "sound",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
