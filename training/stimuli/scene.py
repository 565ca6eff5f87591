# SPDX-License-Identifier: GPL-3.0-or-later
"""What a clip is made of before it is drawn. numpy only.

The reactor stands at the origin and faces +Z; metres, Y up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hero_core.video import sample_indices
from training.stimuli.actor import Body, Mesh
from training.stimuli.dataset import FRAMES, Motions
from training.stimuli.wardrobe import Wardrobe

Array = NDArray[Any]
FPS = 20.0  # of the motions


@dataclass
class Scene:
    """One clip, ready to be drawn. T = FRAMES pictures."""

    seconds: float
    times: Array  # (T,) seconds
    meshes: list[Mesh] = field(default_factory=list)
    eye: Array = field(default_factory=lambda: np.zeros((FRAMES, 3)))
    look: Array = field(default_factory=lambda: np.zeros((FRAMES, 3)))
    roll: Array = field(default_factory=lambda: np.zeros(FRAMES))
    fov: float = 65.0  # degrees, across the picture before it is squeezed to a square
    aspect: float = 1.0  # width / height before it is squeezed
    sky: Array = field(default_factory=lambda: np.zeros((2, 3)))  # colour at the top and at the horizon
    light: dict[str, Any] = field(default_factory=dict)
    flash: Array = field(default_factory=lambda: np.zeros(FRAMES))  # light of an explosion
    flash_at: Array = field(default_factory=lambda: np.zeros(3))
    look_grade: dict[str, Any] = field(default_factory=dict)  # what the "lens and film" do
    photo: Array | None = None  # (H, W, 3) in [0, 1], stands behind in place of sky and surroundings
    flip: bool = False
    actors: list[str] = field(default_factory=list)
    reactions: list[dict[str, Any]] = field(default_factory=list)
    event: float = 0.0  # when it happens, seconds


@dataclass
class Library:
    """What all clips share. creatures: kind -> a cycle of poses."""

    motions: Motions
    body: Body
    creatures: dict[str, Mesh]
    wardrobe: Wardrobe | None = None
    # Photographs to stand behind, by split; empty = modelled surroundings always.
    photos: dict[str, list[Array]] = field(default_factory=dict)


def picture_times(seconds: float, fps: int = 25) -> Array:
    """When the 16 pictures of a clip of this duration are taken: the sampling rule of the model. (16,) seconds."""
    return sample_indices(max(1, round(seconds * fps)), FRAMES) / fps


def at_times(joints: Array, seconds: Array) -> Array:
    """Poses of a 20 fps motion at any times, held before its start and after its end. (T, 22, 3)."""
    x = np.clip(np.asarray(seconds) * FPS, 0, len(joints) - 1)
    low = np.minimum(x.astype(int), len(joints) - 2)
    w = (x - low)[:, None, None]
    return joints[low] * (1 - w) + joints[low + 1] * w
