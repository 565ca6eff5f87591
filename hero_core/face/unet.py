# SPDX-License-Identifier: GPL-3.0-or-later
"""The denoiser of ReactDiff: a one-dimensional UNet (Dhariwal and Nichol 2021) over windows of latents.

The frames of a window are its channels, and the latent dimensions are the axis that it convolves. Parameter names are
those of the official checkpoints.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .config import ReactDiffConfig


def time_embedding(t: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width) float32: cosines, then sines, of t times 10000^(-i / (width / 2))."""
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000) / half))
    angles = t[:, None].float() * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class ResBlock(nn.Module):
    """Two convolutions around which the input is carried; the embedding is added between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv1d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs), nn.SiLU(), nn.Identity(), nn.Conv1d(outputs, outputs, 3, padding=1)
        )
        nn.init.zeros_(self.out_layers[3].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.out_layers[3].bias)  # type: ignore[arg-type]
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(embedding)[..., None]
        out: Tensor = self.skip_connection(x) + self.out_layers(h)
        return out


class AttentionBlock(nn.Module):
    """Self-attention of one head along the latent axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:  # (B, C, L)
        q, k, v = self.qkv(self.norm(x)).transpose(1, 2).chunk(3, dim=-1)  # (B, L, C)
        out: Tensor = x + self.proj_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))
        return out


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv1d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return out


class Stage(nn.ModuleList):
    """Layers in a row, of which the residual blocks read the embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


class LatentUNet(nn.Module):
    """x (B, window, latent), t (B,), condition (B, condition) -> the noise in x, or x without it."""

    def __init__(self, cfg: ReactDiffConfig) -> None:
        super().__init__()
        base = self.base = cfg.channels
        self.time_embed = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
        embedding = 4 * base + cfg.condition

        def stage(inputs: int, outputs: int, factor: int) -> Stage:
            block: list[nn.Module] = [ResBlock(inputs, outputs, embedding)]
            if factor in cfg.attention_at:
                block.append(AttentionBlock(outputs))
            return Stage(block)

        self.input_blocks = nn.ModuleList([Stage([nn.Conv1d(cfg.window, base, 3, padding=1)])])
        width, factor = base, 1
        self.position = nn.Parameter(0.5 * torch.randn(base, cfg.latent)) if cfg.positions else None
        widths = [base]
        for level, multiplier in enumerate(cfg.multipliers):
            if level:
                self.input_blocks.append(Stage([Downsample(width)]))
                widths.append(width)
                factor *= 2
            for _ in range(cfg.blocks):
                self.input_blocks.append(stage(width, base * multiplier, factor))
                width = base * multiplier
                widths.append(width)
        self.middle_block = Stage(
            [ResBlock(width, width, embedding), AttentionBlock(width), ResBlock(width, width, embedding)]
        )
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(cfg.multipliers))):
            for index in range(cfg.blocks + 1):
                block = stage(width + widths.pop(), base * multiplier, factor)
                width = base * multiplier
                if level and index == cfg.blocks:
                    block.append(Upsample(width))
                    factor //= 2
                self.output_blocks.append(block)
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv1d(width, cfg.window, 3, padding=1))
        nn.init.zeros_(self.out[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.out[2].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        time = self.time_embed(time_embedding(t, self.base).to(x.dtype))
        embedding = torch.cat((time, condition), dim=-1)
        skips = []
        for number, block in enumerate(self.input_blocks):
            x = block(x, embedding)
            if number == 0 and self.position is not None:
                x = x + self.position
            skips.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat((x, skips.pop()), dim=1), embedding)
        out: Tensor = self.out(x)
        return out
