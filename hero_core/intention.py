# SPDX-License-Identifier: GPL-3.0-or-later
"""Intention extraction (IIE, HERO section 3.3, eq. 3): the pooled video feature looks at every frame.

The released program adds to the paper's formula 8 heads, pre-layer-norm, biases, an output projection and
a residual from the pooled feature; this is that block, with the official parameter names.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.key = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """x (B, S, D) attends memory (B, T, D) -> (B, S, D)."""

        def heads(z: Tensor) -> Tensor:  # (B, n, D) -> (B, H, n, D/H)
            return z.view(*z.shape[:2], self.heads, -1).transpose(1, 2)

        out = F.scaled_dot_product_attention(
            heads(self.query(x)),
            heads(self.key(memory)),
            heads(self.value(memory)),
            dropout_p=self.dropout if self.training else 0.0,
        )
        out = self.proj(out.transpose(1, 2).flatten(2))  # (B, S, D)
        dropped: Tensor = F.dropout(out, self.dropout, self.training)
        return dropped

    def contributions(self, x: Tensor, memory: Tensor) -> Tensor:
        """What each of memory (B, T, D) adds to each of x (B, S, D), as lengths; see ``hero_core.attention``.

        Returns:
            (B, S, T), the mean over the heads of weight times how far the frame's value is from the mean of all.
        """
        q, k, v = (
            z.unflatten(-1, (self.heads, -1)).float() for z in (self.query(x), self.key(memory), self.value(memory))
        )
        weights = (torch.einsum("bshd,bthd->bhst", q, k) * q.shape[-1] ** -0.5).softmax(dim=-1)
        out = self.proj.weight.unflatten(1, (self.heads, -1)).float()  # (D, H, D/H)
        values = torch.einsum("bthd,ehd->bhte", v - v.mean(dim=1, keepdim=True), out)
        return torch.einsum("bhst,bht->bst", weights, values.norm(dim=-1)) / self.heads


class IntentionBlock(nn.Module):
    """Fuse the pooled (global) and the per-frame (local) video features into the intention."""

    def __init__(self, dim: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.ln2 = nn.LayerNorm(dim)
        self.ln3 = nn.LayerNorm(dim)
        self.attn = CrossAttention(dim, heads, dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout))

    def forward(self, pooled: Tensor, local: Tensor) -> Tensor:
        """pooled (B, D), local (B, T, D) -> intention (B, D)."""
        x: Tensor = pooled[:, None]
        x = x + self.attn(self.ln1(x), self.ln3(local))
        x = x + self.mlp(self.ln2(x))  # (B, 1, D)
        return x.squeeze(1)

    def contributions(self, pooled: Tensor, local: Tensor) -> Tensor:
        """What each frame of local (B, T, D) adds to the intention of pooled (B, D) -> (B, T), as lengths."""
        return self.attn.contributions(self.ln1(pooled[:, None]), self.ln3(local))[:, 0]
