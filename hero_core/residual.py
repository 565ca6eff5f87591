# SPDX-License-Identifier: GPL-3.0-or-later
"""Residual transformer: token layers 1 .. Q-1, each from the sum of those before it (HERO 3.3, MoMask)."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .config import TransformerConfig
from .masked import masked_loss
from .transformer import Condition, ConditionedTransformer, padding_of


class ResidualTransformer(ConditionedTransformer):
    """History of layers 0 .. q-1 -> logits (B, n, K + 1) of layer q; class K is ``pad_id`` (no code).

    With ``share_weight`` the table that scores layer q also embeds it; without (the official HERO) the two
    are separate and, as in the official program whose weights were trained that way, the product with the
    scoring table counts twice: 2 W h + b.
    """

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__(cfg, out_dim=cfg.code_dim)
        layers, rows, dim = cfg.num_quantizers - 1, cfg.num_tokens + 1, cfg.code_dim
        self.pad_id = cfg.num_tokens
        self.quant_emb = nn.Linear(cfg.num_quantizers, cfg.latent_dim)
        self.init_weights()

        def table(count: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(count, rows, dim) * 0.02)

        if cfg.share_weight:
            self.embed_proj_shared_weight = table(layers - 1)
            self.token_embed_weight_ = table(1)
            self.output_proj_weight_ = table(1)
        else:
            self.output_proj_weight = table(layers)
            # One row more than is used: the official shape.
            self.output_proj_bias = nn.Parameter(torch.zeros(layers + 1, rows))
            self.token_embed_weight = table(layers)

    def embedding(self, layer: int) -> Tensor:
        """(K + 1, code_dim): what a token of this layer, 0 .. Q-2, adds to the history."""
        if not self.cfg.share_weight:
            return self.token_embed_weight[layer]
        return self.token_embed_weight_[0] if layer == 0 else self.embed_proj_shared_weight[layer - 1]

    def history(self, ids: Tensor, layer: int) -> Tensor:
        """Sum of the embeddings of layers 0 .. layer-1: ids (B, n, >= layer) -> (B, n, code_dim)."""
        return sum((self.embedding(i)[ids[..., i]] for i in range(1, layer)), self.embedding(0)[ids[..., 0]])

    def score(self, h: Tensor, layer: int) -> Tensor:
        """Logits of a layer 1 .. Q-1: h (..., code_dim) -> (..., K + 1)."""
        if self.cfg.share_weight:
            last = layer == self.cfg.num_quantizers - 1
            table = self.output_proj_weight_[0] if last else self.embed_proj_shared_weight[layer - 1]
            return F.linear(h, table)
        bias, table = self.output_proj_bias[layer - 1], self.output_proj_weight[layer - 1]
        return torch.addmm(bias, h.flatten(0, -2), table.t(), alpha=2).view(*h.shape[:-1], -1)

    def forward(
        self,
        history: Tensor,
        layer: int | Tensor,
        condition: Condition,
        padding: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Logits of one layer.

        Args:
            history: (B, n, code_dim), see :meth:`history`.
            layer: 1 .. Q-1, for all samples or (B,) for each.
            condition: from :meth:`prepare`, of C clips; B is a multiple of C.
            padding: (B, n), True at padding; None if there is none.
            guidance: scale of classifier-free guidance; 1 is the plain conditional pass.

        Returns:
            (B, n, K + 1) float32.
        """
        # A column of the weight is the Linear of a one-hot layer number. (D,) or (B, D)
        token = self.quant_emb.weight[:, layer].t() + self.quant_emb.bias
        x = self.run(history, token, condition, padding, guidance)
        h = self.output_process.poseFinal(x)
        if isinstance(layer, int):
            return self.score(h, layer).float()
        logits = torch.empty(*h.shape[:2], self.cfg.num_tokens + 1, device=h.device)
        for q in layer.unique().tolist():
            logits[layer == q] = self.score(h[layer == q], q).float()
        return logits

    def draw_layers(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """(B,) layers 1 .. Q-1 to train, the official way: the last ones less often than the middle ones."""
        share = 1 - torch.cos(torch.rand(batch, generator=generator) * (math.pi / 2))
        layers: Tensor = (share * (self.cfg.num_quantizers - 2)).round().long() + 1
        return layers

    def loss(
        self,
        ids: Tensor,
        local: Tensor | None,
        pooled: Tensor,
        lengths: Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Training loss of one random layer per sample given the true ones before it, and the accuracy.

        Args:
            ids: (B, n, Q) tokens of all layers.
            local, pooled: (B, T, d_vl), (B, d_vl) video features.
            lengths: (B,) tokens.
            generator: on the CPU; draws the layers and the dropped intentions.
        """
        drop = self.draw_drop(ids.shape[0], generator).to(ids.device)
        layer = self.draw_layers(ids.shape[0], generator).to(ids.device)
        return self.layer_loss(ids, layer, self.prepare(local, pooled, drop), lengths)

    def layer_loss(self, ids: Tensor, layer: Tensor, condition: Condition, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy of the given layers (B,), over the tokens within the lengths."""
        padding = padding_of(lengths, ids.shape[1])
        ids = torch.where(padding[..., None], self.pad_id, ids)
        history = torch.stack([self.history(one, int(q)) for one, q in zip(ids, layer, strict=True)])
        labels = ids.gather(2, layer[:, None, None].expand(-1, ids.shape[1], 1))[..., 0]
        return masked_loss(self(history, layer, condition, padding), labels, ignore=self.pad_id)
