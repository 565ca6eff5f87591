# SPDX-License-Identifier: GPL-3.0-or-later
"""A tiny ReactDiff with random weights and the real architecture, and features for it."""

from __future__ import annotations

from typing import Any

import torch

from hero_core.face.config import ReactDiffConfig
from hero_core.face.reactdiff import Features, ReactDiff

SIZES: dict[str, Any] = {
    "va": 6, "au": 52, "fer": 25, "mfcc": 6, "speech": 40, "hidden": 16, "latent": 16, "depth": 1, "window": 10,
    "clip": 30, "channels": 32, "multipliers": (1, 2), "blocks": 1, "attention_at": (2,), "condition": 64, "steps": 4,
}  # fmt: skip


def config(**changes: Any) -> ReactDiffConfig:
    return ReactDiffConfig(**{**SIZES, "name": "tiny", "features": "curves", **changes})


def model(seed: int = 0, **changes: Any) -> ReactDiff:
    """Zero-initialised layers get numbers too, so that the speaker and the noise matter."""
    torch.manual_seed(seed)
    made = ReactDiff(config(**changes))
    for p in made.parameters():
        if not bool(p.any()):
            torch.nn.init.normal_(p, 0, 0.1)
    made.minimum.copy_(torch.rand(made.minimum.shape) * -1 - 1)
    made.maximum.copy_(torch.rand(made.maximum.shape) + 1)
    return made.eval().requires_grad_(False)


def features(frames: int = 30, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features(torch.randn(frames, 83, generator=generator), torch.randn(frames, 46, generator=generator))
