# SPDX-License-Identifier: GPL-3.0-or-later
"""Masked transformer: predicts the base layer of motion tokens (HERO section 3.3, MoMask)."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .config import TransformerConfig
from .transformer import Condition, ConditionedTransformer, padding_of


class MaskedTransformer(ConditionedTransformer):
    """ids (B, n) of 0 .. K-1, ``mask_id`` = K or ``pad_id`` = K + 1 -> logits (B, n, K)."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__(cfg, out_dim=cfg.num_tokens)
        self.mask_id = cfg.num_tokens
        self.pad_id = cfg.num_tokens + 1
        self.token_emb = nn.Embedding(cfg.num_tokens + 2, cfg.code_dim)
        self.init_weights()

    def forward(
        self,
        ids: Tensor,
        condition: Condition,
        padding: Tensor | None = None,
        guidance: float = 1.0,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Logits of every token, or of some.

        Args:
            ids: (B, n).
            condition: from :meth:`prepare`, of C clips; B is a multiple of C.
            padding: (B, n), True at padding; None if there is none.
            guidance: scale of classifier-free guidance; 1 is the plain conditional pass.
            rows: (B, m), the places of the tokens that are wanted; None = all.

        Returns:
            (B, n, K) or (B, m, K) float32.
        """
        x = self.run(self.token_emb(ids), None, condition, padding, guidance, rows)
        logits: Tensor = self.output_process.poseFinal(x)
        return logits.float()

    def corrupt(self, ids: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The official training corruption, BERT style with a random share.

        A share cos(pi u / 2) of the padded sequence is chosen, u uniform for each sample. Of the chosen
        tokens 10 % become a random one, of the rest 88 % the mask; all are to be predicted.

        Args:
            ids: (B, n) true tokens; what lies past the length does not matter.
            lengths: (B,) tokens.
            generator: on the CPU.

        Returns:
            inputs (B, n), and labels (B, n) that hold ``mask_id`` where nothing is to be predicted.
        """
        batch, n = ids.shape

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).to(ids.device)

        padding = padding_of(lengths, n)
        share = torch.cos(uniform(batch) * (math.pi / 2))
        count = (n * share).round().clamp(min=1)  # half to even, as the official program rounds
        chosen = (uniform(batch, n).argsort(dim=-1) < count[:, None]) & ~padding
        labels = torch.where(chosen, ids, self.mask_id)
        inputs = torch.where(padding, self.pad_id, ids)
        wrong = chosen & (uniform(batch, n) < 0.1)
        other = torch.randint(self.cfg.num_tokens, (batch, n), generator=generator).to(ids.device)
        inputs = torch.where(wrong, other, inputs)
        masked = chosen & ~wrong & (uniform(batch, n) < 0.88)
        return torch.where(masked, self.mask_id, inputs), labels

    def loss(
        self,
        ids: Tensor,
        local: Tensor | None,
        pooled: Tensor,
        lengths: Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Training loss on true base tokens: mean cross-entropy of the chosen ones, and their accuracy.

        Args:
            ids: (B, n) base-layer tokens.
            local, pooled: (B, T, d_vl), (B, d_vl) video features.
            lengths: (B,) tokens.
            generator: on the CPU; draws the corruption and the dropped intentions.
        """
        drop = self.draw_drop(ids.shape[0], generator).to(ids.device)
        inputs, labels = self.corrupt(ids, lengths, generator)
        logits = self(inputs, self.prepare(local, pooled, drop), padding_of(lengths, ids.shape[1]))
        return masked_loss(logits, labels, ignore=self.mask_id)


def masked_loss(logits: Tensor, labels: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """logits (B, n, K), labels (B, n) -> cross-entropy and accuracy over labels other than ``ignore``."""
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=ignore)
    with torch.no_grad():
        counted = labels != ignore
        right = (logits.argmax(dim=-1) == labels) & counted
        accuracy = right.sum() / counted.sum()
    return loss, accuracy
