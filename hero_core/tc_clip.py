# SPDX-License-Identifier: GPL-3.0-or-later
"""Video encoder: CLIP's image tower with temporal contextualisation (TC-CLIP, ECCV 2024; HERO section 3.1).

Every frame attends to its own patches and to a few context tokens that all frames share. Each block makes
the context anew: the patches that the class token looks at most (seeds) are merged by similarity, as in
ToMe, until ``context_tokens`` are left. Parameter names are those of the official checkpoints without the
``image_encoder.`` prefix.

The arithmetic is the official program's, less what cannot change the features: the full attention matrix
is never built (only its class-token row is needed, for the seeds), and the last block computes nothing but
the class tokens.
"""

from __future__ import annotations

from typing import TypedDict, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .config import VideoEncoderConfig
from .errors import HeroError
from .stem import CHANNELS, STRIDE, ConvStem


class BlockTrace(TypedDict):
    """What a block chose; for tests and for looking inside."""

    seeds: Tensor  # (B, T, seeds) patch indices, the most attended first
    context: Tensor  # (B, k, D) merged tokens, before the block's MLP


def merge_schedule(start: int, keep: int, r: int) -> list[int]:
    """How many tokens each merging round removes to bring ``start`` tokens down to ``keep``.

    Rounds of ``r`` while whole ones fit, then what is left; a round can remove half of the tokens at most.
    """
    rounds: list[int] = []
    count = start
    for _ in range(max(0, (start - keep) // r)):
        rounds.append(min(r, count // 2))
        count -= rounds[-1]
    while count > keep:
        rounds.append(min(count - keep, count // 2))
        count -= rounds[-1]
    return rounds


def merge_tokens(tokens: Tensor, rounds: list[int]) -> Tensor:
    """Merge the most similar tokens, round by round (bipartite soft matching of ToMe).

    In a round the tokens at even places each find the most similar one at an odd place; the best ``r`` pairs
    become their mean, weighted by how many tokens each already stands for.

    Args:
        tokens: (B, n, D).
        rounds: tokens to remove in each round, see :func:`merge_schedule`.

    Returns:
        (B, n - sum(rounds), D): each round leaves the unmerged even tokens, most similar
        first, then the odd ones.
    """
    size = tokens.new_ones(tokens.shape[0], tokens.shape[1], 1)
    for r in rounds:
        with torch.no_grad():  # which tokens merge is not differentiated, only their mean
            unit = tokens / tokens.norm(dim=-1, keepdim=True)
            similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)  # (B, even, odd)
            best, partner = similarity.max(dim=-1)
            order = best.argsort(dim=-1, descending=True)
            partner = partner.gather(1, order[:, :r])  # (B, r)
        even, odd = tokens[:, ::2] * size[:, ::2], tokens[:, 1::2] * size[:, 1::2]
        even, even_size = _take(even, order), _take(size[:, ::2], order)
        odd = odd.scatter_add(1, partner[..., None].expand(-1, -1, odd.shape[-1]), even[:, :r])
        odd_size = size[:, 1::2].scatter_add(1, partner[..., None], even_size[:, :r])
        size = torch.cat((even_size[:, r:], odd_size), dim=1)
        tokens = torch.cat((even[:, r:], odd), dim=1) / size
    return tokens


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x (B, n, D), index (B, m) -> (B, m, D)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


class LayerNorm(nn.LayerNorm):
    """Layer norm in float32: the residual stream stays float32 when the weights are half precision."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)


class Attention(nn.Module):
    """Attention of each frame to its own tokens (local) and to the context tokens of all frames (global)."""

    def __init__(self, width: int, heads: int, bias_table: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        # Per head, added to the logits of the local and of the global keys.
        self.local_global_bias_table = nn.Parameter(torch.zeros(heads, 1, 2)) if bias_table else None

    def key_bias(self, tokens: int, context: int) -> Tensor | None:
        """(H, 1, tokens + context); softmax ignores a constant, so only the context has an offset."""
        if self.local_global_bias_table is None or context == 0:
            return None
        local, world = self.local_global_bias_table.unbind(-1)  # (H, 1)
        return F.pad((world - local)[..., None].expand(-1, -1, context), (tokens, 0))

    def forward(self, x: Tensor, frames: int, tokens: int) -> tuple[Tensor, Tensor]:
        """x (B, T*N + k, D) -> attended frame tokens (B, T*N, D), class attention (B, T, N - 1)."""
        batch, _, width = x.shape
        heads, local = self.heads, frames * tokens

        def per_frame(z: Tensor) -> Tensor:  # (B, T*N + k, D) -> (B*T, H, N + k, D/H)
            z = z.view(batch, -1, heads, width // heads)
            own = z[:, :local].reshape(batch, frames, tokens, heads, -1)
            if z.shape[1] > local:
                shared = z[:, None, local:].expand(-1, frames, -1, -1, -1)
                own = torch.cat((own, shared), dim=2)
            return own.flatten(0, 1).transpose(1, 2)

        q = self.q_proj(x[:, :local])
        q = q.view(batch * frames, tokens, heads, -1).transpose(1, 2)  # (B*T, H, N, D/H)
        k, v = per_frame(self.k_proj(x)), per_frame(self.v_proj(x))
        bias = self.key_bias(tokens, x.shape[1] - local)
        if bias is not None:
            bias = bias[None].to(q.dtype)  # (1, H, 1, N + k): fused attention on the CPU wants all four axes
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = self.out_proj(out.transpose(1, 2).reshape(batch, local, width))
        with torch.no_grad():
            row = (q[:, :, :1].float() * (width // heads) ** -0.5) @ k.float().transpose(-2, -1)
            row = (row if bias is None else row + bias.float()).softmax(dim=-1)  # (B*T, H, 1, N + k)
            seen = row[:, :, 0, 1:tokens].mean(dim=1).view(batch, frames, tokens - 1)
        return out, seen

    def class_tokens(self, x: Tensor, frames: int, tokens: int) -> Tensor:
        """The same for the class token of each frame alone: (B, T*N + k, D) -> (B, T, D).

        With one query a frame it is cheaper to carry the query through W_k to the tokens, and the attended
        mean through W_v, than to project every token. The bias of W_k is constant over keys and drops out;
        the weights sum to 1, so the bias of W_v is added whole.
        """
        batch, _, width = x.shape
        heads, local, size = self.heads, frames * tokens, width // self.heads
        own = x[:, :local].reshape(batch, frames, tokens, width)  # (B, T, N, D)
        shared = x[:, None, local:]  # (B, 1, k, D)
        q = self.q_proj(own[:, :, 0]).view(batch, frames, heads, size) * size**-0.5
        w_k = self.k_proj.weight.view(heads, size, width)
        q = torch.einsum("bthi,hid->bthd", q, w_k)  # (B, T, H, D)
        row = torch.cat((q @ own.transpose(2, 3), q @ shared.transpose(2, 3)), dim=-1)  # (B, T, H, N + k)
        bias = self.key_bias(tokens, shared.shape[2])
        row = row.float() if bias is None else row.float() + bias.float()[:, 0]
        row = row.softmax(dim=-1).to(own.dtype)
        mean = row[..., :tokens] @ own + row[..., tokens:] @ shared  # (B, T, H, D)
        w_v = self.v_proj.weight.view(heads, size, width)
        out = torch.einsum("bthd,hid->bthi", mean, w_v).flatten(2) + self.v_proj.bias
        attended: Tensor = self.out_proj(out)
        return attended


class MLP(nn.Module):
    """Linear, QuickGELU (x * sigmoid(1.702 x)), Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        # QuickGELU(h) = silu(1.702 h) / 1.702; both factors ride on the products, which leaves one pass in
        # place over the widest tensor of the encoder instead of three.
        flat = x.flatten(0, -2)  # (B*n, D)
        h = torch.addmm(self.c_fc.bias, flat, self.c_fc.weight.t(), beta=1.702, alpha=1.702)
        h = F.silu(h, inplace=not torch.is_grad_enabled())
        out = torch.addmm(self.c_proj.bias, h, self.c_proj.weight.t(), alpha=1 / 1.702)
        return out.view_as(x)


class Block(nn.Module):
    """Attention with context tokens, their renewal, MLP."""

    def __init__(self, cfg: VideoEncoderConfig, first: bool) -> None:
        super().__init__()
        self.cfg = cfg
        self.attn = Attention(cfg.width, cfg.heads, bias_table=cfg.local_global_bias and not first)
        self.ln_1 = LayerNorm(cfg.width)
        self.mlp = MLP(cfg.width)
        self.ln_2 = LayerNorm(cfg.width)

    def forward(
        self, x: Tensor, frames: int, tokens: int, trace: list[BlockTrace] | None = None, context_tokens: int = 0
    ) -> Tensor:
        """x (B, T*N + k, D): frame tokens, then the context of the block before. Returns the same layout."""
        batch, local, dtype = x.shape[0], frames * tokens, self.attn.out_proj.weight.dtype
        attended, seen = self.attn(self.ln_1(x).to(dtype), frames, tokens)
        x = x[:, :local] + attended
        seeds = seen.topk(self.cfg.seeds, dim=-1).indices  # (B, T, seeds)
        frame_start = torch.arange(frames, device=x.device)[:, None] * tokens
        context = _take(x, (seeds + frame_start + 1).view(batch, -1))  # (B, T*seeds, D); + 1: class token
        rounds = merge_schedule(context.shape[1], context_tokens or self.cfg.context_tokens, self.cfg.merge_r)
        context = merge_tokens(context, rounds)
        if trace is not None:
            trace.append({"seeds": seeds, "context": context})
        x = torch.cat((x, context), dim=1)
        out: Tensor = x + self.mlp(self.ln_2(x).to(dtype))
        return out

    def class_tokens(self, x: Tensor, frames: int, tokens: int) -> Tensor:
        """What the block makes of the class tokens: (B, T*N + k, D) -> (B, T, D)."""
        dtype = self.attn.out_proj.weight.dtype
        y = x[:, : frames * tokens : tokens] + self.attn.class_tokens(self.ln_1(x).to(dtype), frames, tokens)
        out: Tensor = y + self.mlp(self.ln_2(y).to(dtype))
        return out


class Transformer(nn.Module):
    def __init__(self, cfg: VideoEncoderConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(cfg, first=i == 0) for i in range(cfg.layers))

    def forward(
        self, x: Tensor, frames: int, tokens: int, trace: list[BlockTrace] | None = None, context_tokens: int = 0
    ) -> Tensor:
        """x (B, T*N, D) -> class tokens (B, T, D)."""
        for block in self.resblocks[:-1]:
            x = block(x, frames, tokens, trace, context_tokens)
        last = cast(Block, self.resblocks[-1])
        if trace is not None:  # the last block's choices have no effect; computed to be looked at only
            x = last(x, frames, tokens, trace, context_tokens)
            return x[:, : frames * tokens : tokens]
        return last.class_tokens(x, frames, tokens)


class VideoEncoder(nn.Module):
    """Frames to one feature vector each: ``local`` features; their mean over time is the pooled one."""

    def __init__(self, cfg: VideoEncoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        scale = cfg.width**-0.5
        table: tuple[int, ...] = (1 + cfg.patches, cfg.width)
        if cfg.positional_embedding not in ("space", "joint", "space_time"):
            raise HeroError(f"positional_embedding is space, joint or space_time, not '{cfg.positional_embedding}'.")
        if cfg.positional_embedding == "joint":
            table = (cfg.num_frames, *table)
        if cfg.conv_stem:
            if cfg.patch_size != STRIDE:
                raise HeroError(f"A video encoder with a convolutional stem has patch_size {STRIDE}.")
            self.stem = ConvStem()
            self.ln_stem = LayerNorm(CHANNELS)
            self.conv1 = nn.Conv2d(CHANNELS, cfg.width, 1, bias=False)
        else:
            self.conv1 = nn.Conv2d(3, cfg.width, cfg.patch_size, stride=cfg.patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(cfg.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(table))
        if cfg.positional_embedding == "space_time":
            self.temporal_embedding = nn.Parameter(scale * torch.randn(cfg.num_frames, cfg.width))
        self.ln_pre = LayerNorm(cfg.width)
        self.transformer = Transformer(cfg)
        self.ln_post = LayerNorm(cfg.width)
        self.proj = nn.Parameter(scale * torch.randn(cfg.width, cfg.output_dim))

    def normalise(self, frames: Tensor) -> Tensor:
        """RGB uint8 (B, T, H, W, 3) -> float (B, T, 3, H, W), the input of ``forward``."""
        # Not buffers: those would be rounded with the weights, and 255 levels do not fit bfloat16's 8 bits.
        mean = torch.tensor(self.cfg.pixel_mean, device=frames.device)
        std = torch.tensor(self.cfg.pixel_std, device=frames.device)
        return ((frames.float() - mean) * (1.0 / std)).movedim(-1, -3)

    def look(self, frames: Tensor) -> Tensor:
        """What the stem sees: frames (N, 3, H, W), normalised -> maps (N, 704, H/32, W/32)."""
        dtype = self.conv1.weight.dtype
        if frames.device.type == "cpu" and not torch.is_grad_enabled():  # a few frames' maps fit into the cache
            return torch.cat([self.stem(some.to(dtype)) for some in frames.split(4)])
        out: Tensor = self.stem(frames.to(dtype))
        return out

    def forward(self, frames: Tensor, trace: list[BlockTrace] | None = None) -> Tensor:
        """Features of each frame.

        Args:
            frames: (B, T, 3, H, W), RGB, normalised; H = W = ``cfg.image_size``, any T.
            trace: a list that receives the choices of each block.

        Returns:
            (B, T, output_dim) float32, not L2-normalised.

        Raises:
            HeroError: the frames have another size, or another number where each place in time is learned.
        """
        cfg = self.cfg
        batch, count, side = frames.shape[0], frames.shape[1], cfg.image_size
        if frames.shape[2:] != (3, side, side):
            raise HeroError(f"Resize the frames to {side} x {side} RGB; got {tuple(frames.shape[2:])}.")
        if cfg.positional_embedding != "space" and count != cfg.num_frames:
            raise HeroError(f"This video encoder needs exactly {cfg.num_frames} frames; got {count}.")
        flat = frames.flatten(0, 1)
        flat = self.look(flat) if cfg.conv_stem else flat
        return self.contextualise(flat.unflatten(0, (batch, count)), None, trace)

    def contextualise(
        self,
        maps: Tensor,
        times: Tensor | None = None,
        trace: list[BlockTrace] | None = None,
        context_tokens: int = 0,
    ) -> Tensor:
        """The encoder behind its stem: what :meth:`look` gave, (B, T, C, h, w), -> (B, T, output_dim) float32.

        Args:
            maps: of the frames; without a stem the normalised frames themselves.
            times: (B, T) or (T,) places in time 0 .. num_frames - 1 of the frames; None = the first T.
            trace: a list that receives the choices of each block.
            context_tokens: tokens to keep when there are fewer frames than the config has; 0 = as it says.
        """
        batch, count = maps.shape[:2]
        dtype = self.conv1.weight.dtype
        x = maps.flatten(0, 1)
        if self.cfg.conv_stem:
            x = self.ln_stem(x.movedim(1, -1)).movedim(-1, 1)
        patches = self.conv1(x.to(dtype))  # (B*T, D, H/p, W/p)
        patches = patches.flatten(2).transpose(1, 2).unflatten(0, (batch, count))  # (B, T, patches, D)
        cls = self.class_embedding.to(patches.dtype).expand(batch, count, 1, -1)
        x = torch.cat((cls, patches), dim=2).float() + self.positional_embedding  # (B, T, N, D)
        if self.cfg.positional_embedding == "space_time":
            when = self.temporal_embedding[:count] if times is None else self.temporal_embedding[times]
            x = x + when[..., None, :]  # (T, 1, D) or (B, T, 1, D)
        x = self.ln_pre(x.flatten(1, 2))  # (B, T*N, D)
        x = self.transformer(x, count, 1 + self.cfg.patches, trace, context_tokens)  # (B, T, D)
        features: Tensor = self.ln_post(x).to(self.proj.dtype) @ self.proj
        return features.float()
