# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage 1 of ReactDiff: a person's video and sound to latents, and latents to a face (arXiv 2505.14151, section 3.1).

Intra-class attention joins the streams of one sense, inter-class attention the two senses. Parameter names are those
of the official checkpoints. Called TransformerVAE there; nothing in it is variational.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .config import ReactDiffConfig

# Tensors of official checkpoints that nothing reads.
UNUSED = ("norm2.weight", "norm2.bias")  # of the cross-attention
UNUSED_PREFIX = "reaction_decoder.encoder."


class CrossAttention(nn.Module):
    """LayerNorm(attention + projected query). query (B, T, dq), keys (B, S, dk) -> (B, T, h).

    A projection is left out where its widths are equal. No feed-forward, no positions.
    """

    def __init__(self, query: int, key: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Identity() if query == hidden else nn.Linear(query, hidden)
        self.k = nn.Identity() if key == hidden else nn.Linear(key, hidden)
        self.v = nn.Identity() if key == hidden else nn.Linear(key, hidden)
        self.attention = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.norm1 = nn.LayerNorm(hidden)

    def forward(self, query: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        """bias: (heads, T, S), added to the attention's logits; None = none."""
        q, k, v = self.q(query), self.k(keys), self.v(keys)
        mask = None if bias is None else bias.repeat(q.shape[0], 1, 1)  # (B heads, T, S)
        attended, _ = self.attention(q, k, v, need_weights=False, attn_mask=mask)
        out: Tensor = self.norm1(attended + q)
        return out


class Cycle(nn.Module):
    """What is joined so far attends to a second and a third stream."""

    def __init__(self, hidden: int, second: int, third: int, heads: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(hidden, second, hidden, heads)
        self.attn2 = CrossAttention(hidden, third, hidden, heads)

    def forward(self, x: Tensor, second: Tensor, third: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = self.attn2(self.attn1(x, second, bias), third, bias)
        return out


class VideoFusion(nn.Module):
    """Intra-class attention of video: (B, T, va + au + fer) -> (B, T, hidden)."""

    def __init__(self, cfg: ReactDiffConfig) -> None:
        super().__init__()
        self.widths = [cfg.va, cfg.au, cfg.fer]
        self.fusion_0 = CrossAttention(cfg.au, cfg.au, cfg.hidden, cfg.heads)
        self.fusion_cyc = nn.ModuleList(Cycle(cfg.hidden, cfg.fer, cfg.va, cfg.heads) for _ in range(cfg.depth))

    def forward(self, video: Tensor, bias: Tensor | None = None) -> Tensor:
        va, au, fer = video.split(self.widths, dim=-1)
        x: Tensor = self.fusion_0(au, au, bias)
        for cycle in self.fusion_cyc:
            x = cycle(x, fer, va, bias)
        return x


def head(inputs: int, outputs: int, middle: int) -> nn.Sequential:
    """Linear, LayerNorm, SiLU, Linear."""
    return nn.Sequential(nn.Linear(inputs, middle), nn.LayerNorm(middle), nn.SiLU(), nn.Linear(middle, outputs))


class Fusion(nn.Module):
    """Intra-class attention of both senses, then inter-class attention: -> (B, T, latent)."""

    def __init__(self, cfg: ReactDiffConfig) -> None:
        super().__init__()
        self.widths = [cfg.mfcc, cfg.speech]
        self.video_features_fusion = VideoFusion(cfg)
        self.audio_feature_fusion = CrossAttention(cfg.speech, cfg.mfcc, cfg.hidden, cfg.heads)
        self.video_audio_fusion = nn.ModuleList(
            CrossAttention(cfg.hidden, cfg.hidden, cfg.hidden, cfg.heads) for _ in range(cfg.depth)
        )
        self.video_audio_fusion_map_layer = head(cfg.hidden, cfg.latent, 2 * cfg.hidden)

    def forward(self, video: Tensor, audio: Tensor, bias: Tensor | None = None) -> Tensor:
        mfcc, speech = audio.split(self.widths, dim=-1)
        x = self.video_features_fusion(video, bias)
        sound = self.audio_feature_fusion(speech, mfcc, bias)
        for layer in self.video_audio_fusion:
            x = layer(x, sound, bias)
        out: Tensor = self.video_audio_fusion_map_layer(x)
        return out


class ReactionEncoder(nn.Module):
    def __init__(self, cfg: ReactDiffConfig) -> None:
        super().__init__()
        self.MLP = head(cfg.latent, cfg.latent, 2 * cfg.latent)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.MLP(x)
        return out


class ReactionDecoder(nn.Module):
    """Latents (B, T, latent) -> face coefficients (B, T, 58) and attributes (B, T, 25), both without bounds."""

    def __init__(self, cfg: ReactDiffConfig) -> None:
        super().__init__()
        width = cfg.latent

        def stack() -> nn.TransformerDecoder:
            layer = nn.TransformerDecoderLayer(width, cfg.heads, 2 * width, cfg.dropout, batch_first=True)
            return nn.TransformerDecoder(layer, 2)

        self.listener_reaction_decoder_1 = stack()
        self.listener_reaction_decoder_2 = stack()
        self.listener_reaction_3dmm_map_layer = head(width, cfg.coefficients, 2 * width)
        self.listener_reaction_emotion_map_layer = head(width, cfg.attributes, 2 * width)

    def forward(self, z: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mask = None if bias is None else bias.repeat(z.shape[0], 1, 1)
        x = self.listener_reaction_decoder_1(z, z, tgt_mask=mask, memory_mask=mask)
        x = self.listener_reaction_decoder_2(x, x, tgt_mask=mask, memory_mask=mask)
        return self.listener_reaction_3dmm_map_layer(x), self.listener_reaction_emotion_map_layer(x)


class Behaviour(nn.Module):
    """Stage 1: encodes what a person does and decodes the face of a reaction."""

    def __init__(self, cfg: ReactDiffConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.Behaviour_features_fusion = Fusion(cfg)
        self.reaction_encoder = ReactionEncoder(cfg)
        self.reaction_decoder = ReactionDecoder(cfg)

    def bias(self, frames: int, like: Tensor) -> Tensor | None:
        """(heads, T, T): minus the distance in time, in windows, steeper from head to head; None where it is off.

        The slopes fall by 4 from head to head, as those of Press et al. 2022 (ALiBi) do for 4 heads.
        """
        if not self.cfg.time_bias:
            return None
        place = torch.arange(frames, device=like.device, dtype=like.dtype)
        slopes = 4.0 ** -torch.arange(self.cfg.heads, device=like.device, dtype=like.dtype)
        return -slopes[:, None, None] * (place[:, None] - place).abs()

    def encode(self, video: Tensor, audio: Tensor) -> Tensor:
        """video (B, T, va + au + fer), audio (B, T, mfcc + speech) -> z (B, T, latent)."""
        fused = self.Behaviour_features_fusion(video, audio, self.bias(video.shape[1], video))
        z: Tensor = self.reaction_encoder(fused)
        return z

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, T, latent) -> coefficients (B, T, 58), attributes (B, T, 25)."""
        coefficients, attributes = self.reaction_decoder(z, self.bias(z.shape[1], z))
        return coefficients, attributes

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.decode(self.encode(video, audio))


def behaviour_loss(
    coefficients: Tensor, attributes: Tensor, true_coefficients: Tensor, true_attributes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """10 mean|attributes| + 10 mean(coefficients^2) of the errors, and both means alone (section 3.1)."""
    emotion = F.l1_loss(attributes, true_attributes)
    coefficient = F.mse_loss(coefficients, true_coefficients)
    return 10 * emotion + 10 * coefficient, emotion, coefficient
