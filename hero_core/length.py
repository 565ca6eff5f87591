# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a reaction should be, where nobody says: a distribution over token counts from the intention.

The paper gives the length and names its prediction as future work; the official program ships MoMask's
``LengthEstimator`` and never uses it. This is that network by its parameter names, fed with the intention of
the masked transformer (eq. 3). Its lengths are this project's own, so numbers with them are reported apart
from those with given lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from .config import LengthConfig

# Lengths and tokens of a take come from one seed; this keeps the two draws apart.
_OFFSET = 0x6C656E67


class LengthEstimator(nn.Module):
    """Intention (B, d_vl) -> logits (B, K); class k stands for k + 1 tokens, so that 200 frames have one too."""

    def __init__(self, cfg: LengthConfig) -> None:
        super().__init__()
        self.cfg = cfg
        layers: list[nn.Module] = []
        width = cfg.input_dim
        for i, hidden in enumerate(cfg.hidden):
            layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(0.2)]
            if i < len(cfg.hidden) - 1:
                layers.append(nn.Dropout(cfg.dropout))
            width = hidden
        self.output = nn.Sequential(*layers, nn.Linear(width, cfg.max_tokens))

    def forward(self, intention: Tensor) -> Tensor:
        out: Tensor = self.output(intention)
        return out


def draw(logits: Tensor, seeds: Sequence[int]) -> list[int]:
    """Token counts 1 .. K, one for each seed: logits (1, K) of one clip, or (len(seeds), K).

    A seed gives the same count whatever the others are.
    """
    chances = logits.detach().float().cpu().softmax(-1).expand(len(seeds), -1)
    out = []
    for row, seed in zip(chances, seeds, strict=True):
        generator = torch.Generator().manual_seed((int(seed) + _OFFSET) % 2**63)
        out.append(int(torch.multinomial(row, 1, generator=generator)) + 1)
    return out


def median(logits: Tensor) -> Tensor:
    """Median token counts (B,) of the distributions (B, K): the guess of the smallest mean absolute error."""
    return (logits.float().softmax(-1).cumsum(-1) < 0.5).sum(-1) + 1
