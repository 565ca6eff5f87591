# SPDX-License-Identifier: GPL-3.0-or-later
"""Pairs of clips and reactions as the transformers train on them: frozen video features and tokens.

The file is one safetensors file, so that any tool can write it:

    local     (C, V, T, D) float   features of C clips in V views each (augmented, or just one)
    split     (C,) int64           0 train, 1 validation, 2 test
    ids       (R, n, Q) int64      tokens of R reactions, -1 = pad
    clip      (R,) int64           whose reaction it is
    mirrored  (V,) int64           1 where a view is mirrored: it goes with ``ids_mirrored``
    ids_mirrored (R, n, Q) int64   tokens of the mirrored reactions
    alike     (C,) int64, optional clips of the same number are answered alike: what one calls for, the others do, too;
                                   -1 = like no other
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from hero_core.errors import HeroError
from hero_core.train.loop import load_weights

SPLITS = ("train", "val", "test")


@dataclass
class Pairs:
    local: Tensor
    split: Tensor
    ids: Tensor
    ids_mirrored: Tensor
    clip: Tensor
    mirrored: Tensor
    alike: Tensor | None = None

    @functools.cached_property
    def lengths(self) -> Tensor:
        """(R,) tokens of each reaction."""
        return (self.ids[..., 0] >= 0).sum(1)

    @functools.cached_property
    def reactions(self) -> list[Tensor]:
        """Rows of the reactions of each clip."""
        order = self.clip.argsort(stable=True)
        counts = torch.bincount(self.clip, minlength=len(self.split))
        return list(order.split(counts.tolist()))

    @functools.cached_property
    def shared(self) -> list[Tensor]:
        """Rows of the reactions that suit each clip: of all clips that are alike, in its own split."""
        if self.alike is None:
            return self.reactions
        own = torch.where(self.alike < 0, -1 - torch.arange(len(self.split)), self.alike * len(SPLITS) + self.split)
        _, group = own.unique(return_inverse=True)  # (C,)
        of_reaction = group[self.clip]
        order = of_reaction.argsort(stable=True)
        rows = order.split(torch.bincount(of_reaction, minlength=int(group.max()) + 1).tolist())
        return [rows[i] for i in group.tolist()]

    def clips(self, split: str) -> Tensor:
        """Indices of the clips of a split that have a reaction."""
        mine = (self.split == SPLITS.index(split)).nonzero()[:, 0]
        return mine[torch.isin(mine, self.clip)]

    def batch(
        self, clips: Tensor, generator: torch.Generator, crop: bool = True, share: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One random reaction and view for each clip (B,).

        Returns local (B, T, D), pooled (B, D), ids (B, n, Q) padded with -1 to
        the longest, and lengths (B,). With ``crop``
        a third of the samples lose a token at one end, as in the official data set. ``share``: so many of the
        reactions are those of any clip that is alike.
        """
        views = torch.randint(self.local.shape[1], (len(clips),), generator=generator)
        local = self.local[clips, views].float()
        rows = torch.empty(len(clips), dtype=torch.long)
        for i, clip in enumerate(clips.tolist()):
            any_alike = share > 0 and float(torch.rand((), generator=generator)) < share
            choices = self.shared[clip] if any_alike else self.reactions[clip]
            rows[i] = choices[torch.randint(len(choices), (), generator=generator)]
        ids = torch.where(self.mirrored[views].bool()[:, None, None], self.ids_mirrored[rows], self.ids[rows])
        lengths = self.lengths[rows].clone()
        if crop:
            shorter = (torch.rand(len(clips), generator=generator) < 1 / 3) & (lengths > 4)
            late = torch.rand(len(clips), generator=generator) < 0.5
            for i in shorter.nonzero()[:, 0].tolist():
                n = int(lengths[i])
                if late[i]:
                    ids[i, : n - 1] = ids[i, 1:n].clone()
                ids[i, n - 1] = -1
                lengths[i] = n - 1
        longest = int(lengths.max())  # nobody trains on padding that all share
        return local, local.mean(1), ids[:, :longest], lengths


def load(path: str | os.PathLike[str]) -> Pairs:
    data = load_weights(path)
    needed = {"local", "split", "ids", "ids_mirrored", "clip", "mirrored"}
    if set(data) - {"alike"} != needed:
        raise HeroError(f"'{path}' must hold {', '.join(sorted(needed))}; prepare the pairs again.")
    return Pairs(**data)
