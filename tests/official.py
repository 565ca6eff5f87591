# SPDX-License-Identifier: GPL-3.0-or-later
"""Golden numbers of the official programs, and the small models that they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from hero_core.config import TransformerConfig
from hero_core.masked import MaskedTransformer
from hero_core.residual import ResidualTransformer
from hero_core.sampling import Shape

FOLDER = Path(__file__).parents[2] / "shared" / "golden"


def sidecar(name: str) -> dict[str, Any]:
    if not (FOLDER / f"{name}.json").exists():
        pytest.skip("the official golden numbers are not beside this checkout")
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def arrays(name: str) -> dict[str, Tensor]:
    if not (FOLDER / f"{name}.npz").exists():
        pytest.skip("the official golden numbers are not beside this checkout")
    loaded = np.load(FOLDER / f"{name}.npz")
    return {key: torch.from_numpy(loaded[key]) for key in loaded.files}


class Case(NamedTuple):
    model: Any  # MaskedTransformer | ResidualTransformer
    numbers: dict[str, Tensor]
    tolerance: dict[str, float]


def transformer(name: str) -> Case:
    """A motion transformer of HERO or MoMask with its golden numbers."""
    info, numbers = sidecar(name), arrays(name)
    c = info["config"]
    hero = info["variant"] == "hero"
    cfg = TransformerConfig(
        num_tokens=c["num_tokens"],
        code_dim=c["code_dim"],
        num_quantizers=c["num_quantizers"],
        latent_dim=c["latent_dim"],
        ff_size=c["ff_size"],
        n_layers=c["num_layers"],
        n_heads=c["num_heads"],
        clip_dim=c["clip_dim"],
        share_weight=c.get("share_weight", False),
        use_iie=hero,
        use_die=hero,
    )
    masked = info["kind"] == "masked_transformer"
    model = (MaskedTransformer(cfg) if masked else ResidualTransformer(cfg)).eval().requires_grad_(False)
    state = {key[3:]: value for key, value in numbers.items() if key.startswith("sd.")}
    state["position_enc.pe"] = model.position_enc.pe  # left out of the files; a constant
    model.load_state_dict(state)
    return Case(model, numbers, info["tolerance"]["logits"])


class OfficialNoise:
    """The noise of the official programs after ``torch.manual_seed``: same draws, same order in memory."""

    def __init__(self, seed: int, model: MaskedTransformer | ResidualTransformer) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.masked = isinstance(model, MaskedTransformer)

    def __call__(self, kind: str, shape: Shape) -> Tensor:
        batch, n, classes = shape
        if kind == "categorical":
            return torch.empty(shape).exponential_(generator=self.generator)
        # Uniform noise follows the layout of the logits: tokens outermost in one model, classes in the other.
        if self.masked:
            return torch.empty(n, batch, classes).uniform_(generator=self.generator).transpose(0, 1)
        return torch.empty(batch, classes, n).uniform_(generator=self.generator).transpose(1, 2)
