# SPDX-License-Identifier: GPL-3.0-or-later
"""Reactions for many clips and seeds, kept on disk, so that a stopped evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from hero_core.errors import HeroError
from hero_core.evaluate.evaluator import fingerprint
from hero_core.hero import Hero, VideoFeatures
from hero_core.train.loop import load_weights, save_weights


@dataclass(frozen=True)
class Sampling:
    """How reactions are drawn; None is what the model's config says, officially 4 and 5."""

    steps: int = 10
    guidance: float | None = None
    residual_guidance: float | None = None


def model_fingerprint(hero: Hero) -> str:
    """Of all that turns features into tokens and motion."""
    parts = {"rvq": hero.rvq, "masked": hero.masked, "residual": hero.residual}
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return fingerprint({**tensors, "mean": hero.mean, "std": hero.std})


class Generator:
    """Draws tokens in batches of similar length, says how long it will take, and remembers."""

    def __init__(self, folder: Path, sampling: Sampling, batch: int, planned: int) -> None:
        self.folder, self.sampling, self.batch = folder, sampling, batch
        self.left = planned  # samples that are still to come
        self.made, self.seconds, self.said = 0, 0.0, time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise HeroError(f"The folder '{folder}' for generated tokens cannot be made: {err.strerror}.") from err

    def tokens(
        self, hero: Hero, model: str, local: Tensor, lengths: Sequence[int], seeds: Sequence[int], what: str
    ) -> Tensor:
        """(C, n, Q) ids, -1 = pad, for clips with features (C, T, D), frames and seed of each."""
        defaults = [hero.config.guidance, hero.config.residual_guidance]
        settings = json.dumps([model, asdict(self.sampling), defaults, str(hero.dtype), list(lengths), list(seeds)])
        key = hashlib.sha256((settings + fingerprint({"local": local})).encode()).hexdigest()[:24]
        file = self.folder / f"{key}.safetensors"
        if file.is_file():
            self.left -= len(lengths)
            return load_weights(file)["ids"].long()
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])  # little padding in a batch
        out = torch.full((len(lengths), max(lengths) // hero.unit, hero.config.rvq.num_quantizers), -1)
        for i in range(0, len(order), self.batch):
            part = order[i : i + self.batch]
            started = time.monotonic()
            x = local[part].float()
            ids = hero.generate(
                VideoFeatures(x, x.mean(1)),
                [lengths[k] for k in part],
                self.sampling.steps,
                self.sampling.guidance,
                self.sampling.residual_guidance,
                seed=[seeds[k] for k in part],
            )
            out[part, : ids.shape[1]] = ids
            self._tell(what, len(part), time.monotonic() - started)
        save_weights({"ids": out.short()}, file)
        return out

    def _tell(self, what: str, count: int, seconds: float) -> None:
        self.made += count
        self.left -= count
        self.seconds += seconds
        if time.monotonic() - self.said > 10 or self.left <= 0:
            each = self.seconds / self.made
            print(f"  {what}: {each:.3f} s a reaction, {each * max(0, self.left) / 60:.1f} min left", flush=True)
            self.said = time.monotonic()


@torch.inference_mode()
def decode(hero: Hero, ids: Tensor, frames: int | None = None) -> list[Tensor]:
    """Tokens (C, n, Q) -> features (N_i, 263), each decoded without padding, as a user gets it.

    ``frames``: decode all with padding up to so many frames and leave what the decoder makes of it behind each end,
    as the official evaluation does.
    """
    lengths = (ids[..., 0] >= 0).sum(1)
    if frames is not None:
        n = max(frames // hero.unit, ids.shape[1])
        padded = torch.nn.functional.pad(ids, (0, 0, 0, n - ids.shape[1]), value=-1)
        return [row for part in padded.split(64) for row in hero.decode(part)]
    out: list[Tensor] = [torch.empty(0)] * len(ids)
    for n in lengths.unique().tolist():
        same = (lengths == n).nonzero()[:, 0]
        for part in same.split(64):
            for i, row in zip(part.tolist(), hero.decode(ids[part, :n]), strict=True):
                out[i] = row
    return out
