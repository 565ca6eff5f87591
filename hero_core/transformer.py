# SPDX-License-Identifier: GPL-3.0-or-later
"""What the masked and the residual transformer share: conditioning, layers, output head (HERO section 3.3).

A sequence [intention token ; motion tokens] goes through post-norm layers. Each decoder layer attends to
itself and then to the frames of the clip (the memory; DIE). All that depends on the clip alone is computed
once by :meth:`ConditionedTransformer.prepare` and kept in a :class:`Condition`: the intention token, and
the keys and values of the memory in each layer.

Classifier-free guidance is one batch: each sample is followed by its unconditional twin, whose intention
is zero. The twin keeps the memory (the official program's choice), so both attend to one copy of it, and
so do all takes of a clip.

Parameter names are those of the official checkpoints, which use torch's own transformer layers.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .config import TransformerConfig
from .errors import HeroError
from .intention import IntentionBlock


class Memory(NamedTuple):
    """The frames of C clips, folded into one layer's cross-attention (see ``MultiheadAttention.fold``)."""

    keys: Tensor  # (C, D, H*T)
    key_bias: Tensor  # (C, 1, H*T)
    values: Tensor  # (C, H*T, D)


@dataclass(frozen=True)
class Condition:
    """All that the motion transformer needs to know of C clips; each serves one or more samples in a row."""

    intention: Tensor  # (C, D), the prefix token
    null: Tensor  # (D,), the prefix token of the unconditional twin
    memory: list[Memory]  # one per layer; empty without DIE

    @property
    def clips(self) -> int:
        return self.intention.shape[0]

    def unconditional(self) -> Condition:
        return dataclasses.replace(self, intention=self.null.expand_as(self.intention))


def take(x: Tensor, rows: Tensor) -> Tensor:
    """x (B, n, D), rows (B, m) -> (B, m, D)."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def padding_of(lengths: Tensor, n: int) -> Tensor:
    """(B,) lengths -> (B, n), True where a token is padding."""
    return torch.arange(n, device=lengths.device) >= lengths[:, None]


class InputProcess(nn.Module):
    def __init__(self, code_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.poseEmbedding = nn.Linear(code_dim, latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.poseEmbedding(x)
        return out


class PositionalEncoding(nn.Module):
    """Sines in the even and cosines in the odd channels, added to the motion tokens only."""

    pe: Tensor

    def __init__(self, dim: int, dropout: float, max_len: int = 5000) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        # On the CPU by name, so that a model made on the meta device has its table all the same.
        place = torch.arange(max_len, dtype=torch.float32, device="cpu")[:, None]
        rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") * (-math.log(10000.0) / dim))
        pe = torch.zeros(max_len, dim, device="cpu")
        pe[:, 0::2] = torch.sin(place * rate)
        pe[:, 1::2] = torch.cos(place * rate)
        self.register_buffer("pe", pe[:, None])  # (max_len, 1, D), the official layout

    def forward(self, x: Tensor) -> Tensor:  # (B, n, D)
        out: Tensor = self.dropout(x + self.pe[: x.shape[1], 0])
        return out


class MultiheadAttention(nn.Module):
    """torch's nn.MultiheadAttention by its parameter names; either to itself or to a folded memory."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, mask: Tensor | None, rows: Tensor | None) -> Tensor:
        """Self-attention of x (B, S, D); mask: True = attend; rows (B, m): the queries wanted, None = all."""
        dim = x.shape[-1]
        if rows is None:
            qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
            q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, S, D/H)
        else:
            q = F.linear(take(x, rows), self.in_proj_weight[:dim], self.in_proj_bias[:dim])
            q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, m, D/H)
            kv = F.linear(x, self.in_proj_weight[dim:], self.in_proj_bias[dim:])
            k, v = kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        p = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected

    def fold(self, memory: Tensor) -> Memory:
        """Projections of queries and of the output, multiplied into the keys and values of (C, T, D).

        Per head, (x W_q) K^T = x (W_q K^T) and (a V) W_o = a (V W_o). With few frames (H T < D) the folded
        matrices are smaller than the projections that they stand for, and they serve every step.
        """
        dim = memory.shape[-1]
        kv = F.linear(memory, self.in_proj_weight[dim:], self.in_proj_bias[dim:])
        k, v = kv.unflatten(-1, (2, self.heads, -1)).unbind(2)  # (C, T, H, D/H)
        k = k * k.shape[-1] ** -0.5
        w_q = self.in_proj_weight[:dim].unflatten(0, (self.heads, -1))  # (H, D/H, D)
        b_q = self.in_proj_bias[:dim].unflatten(0, (self.heads, -1))
        w_o = self.out_proj.weight.unflatten(1, (self.heads, -1))  # (D, H, D/H)
        return Memory(
            keys=torch.einsum("cthi,hid->cdht", k, w_q).flatten(2),
            key_bias=torch.einsum("cthi,hi->cht", k, b_q).flatten(1)[:, None],
            values=torch.einsum("cthi,dhi->chtd", v, w_o).flatten(1, 2),
        )

    def attend(self, x: Tensor, memory: Memory, seen: list[Tensor] | None = None) -> Tensor:
        """x (B, S, D) attends the memory of C clips; B is a multiple of C. ``seen`` gets the weights (B, S, H, T)."""
        # Samples of the same clip line up as one long query, so its memory need not be repeated.
        rows = x.reshape(memory.keys.shape[0], -1, x.shape[-1])  # (C, B/C * S, D)
        logits = torch.baddbmm(memory.key_bias, rows, memory.keys)  # (C, B/C * S, H*T)
        weights = logits.unflatten(-1, (self.heads, -1)).softmax(dim=-1).flatten(-2)
        if seen is not None:
            seen.append(weights.view(*x.shape[:2], self.heads, -1))
        weights = F.dropout(weights, self.dropout, self.training)
        out = torch.baddbmm(self.out_proj.bias, weights.to(memory.values.dtype), memory.values)
        return out.view_as(x)


class Layer(nn.Module):
    """Post-norm layer: self-attention, attention to the memory (with DIE), feed-forward."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        dim = cfg.latent_dim
        self.self_attn = MultiheadAttention(dim, cfg.n_heads, cfg.dropout)
        if cfg.use_die:
            self.multihead_attn = MultiheadAttention(dim, cfg.n_heads, cfg.dropout)
        self.linear1 = nn.Linear(dim, cfg.ff_size)
        self.linear2 = nn.Linear(cfg.ff_size, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        if cfg.use_die:
            self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(
        self,
        x: Tensor,
        memory: Memory | None,
        mask: Tensor | None,
        rows: Tensor | None = None,
        seen: list[Tensor] | None = None,
    ) -> Tensor:
        """x (B, S, D) -> (B, S, D), or (B, m, D) of the wanted rows (B, m) alone."""
        attended = self.self_attn(x, mask, rows)
        x = self.norm1((x if rows is None else take(x, rows)) + self.dropout(attended))
        if memory is not None:
            x = self.norm2(x + self.dropout(self.multihead_attn.attend(x, memory, seen)))
        last = self.norm2 if memory is None else self.norm3
        h = self.linear2(self.dropout(F.gelu(self.linear1(x))))
        out: Tensor = last(x + self.dropout(h))
        return out


class Stack(nn.Module):
    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.n_layers))


class OutputProcess(nn.Module):
    """Head: Linear, GELU, LayerNorm, and a last Linear that guidance comes before."""

    def __init__(self, latent_dim: int, out_dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(latent_dim, latent_dim)
        self.LayerNorm = nn.LayerNorm(latent_dim, eps=1e-12)
        self.poseFinal = nn.Linear(latent_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(F.gelu(self.dense(x)))
        return out


class ConditionedTransformer(nn.Module):
    """Base of the masked and the residual transformer.

    ``use_iie`` False: the pooled feature is the intention. ``use_die`` False: no memory (encoder layers).
    """

    def __init__(self, cfg: TransformerConfig, out_dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.input_process = InputProcess(cfg.code_dim, cfg.latent_dim)
        self.position_enc = PositionalEncoding(cfg.latent_dim, cfg.dropout)
        if cfg.use_iie:
            self.global_local_crossatt_block = IntentionBlock(cfg.clip_dim, cfg.iie_heads)
        if cfg.memory_frames:
            self.memory_time = nn.Parameter(0.02 * torch.randn(cfg.memory_frames, cfg.latent_dim))
        self.stack_name = "seqTransDecoder" if cfg.use_die else "seqTransEncoder"
        self.add_module(self.stack_name, Stack(cfg))
        self.cond_emb = nn.Linear(cfg.clip_dim, cfg.latent_dim)
        self.output_process = OutputProcess(cfg.latent_dim, out_dim)

    def init_weights(self) -> None:
        """The official start: N(0, 0.02), biases 0 (attention's in_proj keeps torch's Xavier)."""
        if next(self.parameters()).is_meta:  # made to be filled from a file
            return
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, 0.0, 0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @property
    def layers(self) -> list[Layer]:
        return list(cast(Stack, self.get_submodule(self.stack_name)).layers)  # type: ignore[arg-type]

    def intention(self, local: Tensor | None, pooled: Tensor) -> Tensor:
        """The fused embedding e: local (C, T, d_vl), pooled (C, d_vl) -> (C, d_vl)."""
        if not self.cfg.use_iie:
            return pooled
        out: Tensor = self.global_local_crossatt_block(pooled, local)
        return out

    def prepare(self, local: Tensor | None, pooled: Tensor, drop: Tensor | None = None) -> Condition:
        """What the clip contributes, computed once.

        Args:
            local: (C, T, d_vl) features of the frames; None is allowed without IIE and DIE.
            pooled: (C, d_vl), their mean.
            drop: (C,) bool, True = train this sample unconditionally (its intention becomes zero).

        Raises:
            HeroError: another number of frames than those whose places in time are learned.
        """
        dtype = self.cond_emb.weight.dtype
        pooled = pooled.to(dtype)
        local = None if local is None else local.to(dtype)
        e = self.intention(local, pooled)
        if drop is not None:
            e = e * ~drop[:, None]
        memory: list[Memory] = []
        if self.cfg.use_die:
            frames = self.cond_emb(local)  # the same Linear as the intention's; officially without positions
            if self.cfg.memory_frames:
                if frames.shape[1] != self.cfg.memory_frames:
                    raise HeroError(
                        f"This model needs features of exactly {self.cfg.memory_frames} frames; got {frames.shape[1]}."
                    )
                frames = frames + self.memory_time
            memory = [layer.multihead_attn.fold(frames) for layer in self.layers]
        return Condition(self.cond_emb(e), self.cond_emb.bias, memory)

    def draw_drop(self, batch: int, generator: torch.Generator | None) -> Tensor:
        """(B,) bool: the samples of a training batch that lose their intention."""
        return torch.rand(batch, generator=generator) < self.cfg.cond_drop_prob

    def run(
        self,
        x: Tensor,
        prefix: Tensor | None,
        condition: Condition,
        padding: Tensor | None,
        guidance: float,
        rows: Tensor | None = None,
        seen: list[Tensor] | None = None,
    ) -> Tensor:
        """The sequence through all layers and the head, but for its last Linear.

        Guidance a + s (c - a) comes before that Linear: the same numbers, since the factors add up to 1,
        for half the work.

        Args:
            x: (B, n, code_dim) embedded tokens.
            prefix: (B, D) or (D,), a second prefix token.
            condition: C clips, B a multiple of C.
            padding: (B, n), True at padding; None if there is none.
            guidance: scale s; 1 computes the conditional half alone.
            rows: (B, m), the tokens that are wanted; None = all. The last layer leaves out the others.
            seen: gets from each layer how the sequence, prefix first, attends to the frames: (B, S, H, T).

        Returns:
            (B, n, D) or (B, m, D).
        """
        x = self.position_enc(self.input_process(x))
        batch, n, dim = x.shape
        first = condition.intention.repeat_interleave(batch // condition.clips, dim=0)  # (B, D)
        second = [] if prefix is None else [prefix.expand(batch, dim)[:, None]]
        x = torch.cat((first[:, None], *second, x), dim=1)  # (B, p + n, D)
        skip = x.shape[1] - n
        if rows is None:
            rows = torch.arange(n, device=x.device).expand(batch, n)
        rows = rows + skip
        mask = None
        if padding is not None:
            mask = F.pad(~padding, (skip, 0), value=True)[:, None, None]  # (B, 1, 1, p + n)
        if guidance != 1:
            twin = x.clone()
            twin[:, 0] = condition.null
            x = torch.stack((x, twin), dim=1).flatten(0, 1)  # (2B, p + n, D): each sample, then its twin
            rows = rows.repeat_interleave(2, dim=0)
            mask = None if mask is None else mask.repeat_interleave(2, dim=0)
        layers = self.layers
        memory: list[Memory] | list[None] = condition.memory or [None] * len(layers)
        for layer, frames in zip(layers[:-1], memory[:-1], strict=True):
            x = layer(x, frames, mask, None, seen)
        x = self.output_process(layers[-1](x, memory[-1], mask, rows, seen))
        if guidance != 1:
            c, a = x.float().unflatten(0, (batch, 2)).unbind(1)
            x = torch.lerp(a, c, guidance).to(x.dtype)
        return x
