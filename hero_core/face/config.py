# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes of ReactDiff. The defaults are those of the paper (arXiv 2505.14151); ``small`` runs on a CPU."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from hero_core.errors import HeroError


@dataclass(frozen=True)
class ReactDiffConfig:
    """Both stages: the auto-encoder of behaviour, and the diffusion over windows of its latents."""

    name: str = "reactdiff"
    # Which features a clip is described by: "official" are the frozen networks' of the paper, "curves" are ours
    # (``hero_core.face.features``): face curves, log-mel and prosody.
    features: str = "official"
    # Widths of the streams of a frame, in the order of the official columns. Video is [va, au, fer], sound is
    # [mfcc, speech]; what they hold with "curves" is said in ``features``.
    va: int = 64
    au: int = 25088
    fer: int = 1408
    mfcc: int = 26
    speech: int = 1536
    coefficients: int = 58
    attributes: int = 25
    # Stage 1.
    hidden: int = 1024
    latent: int = 256
    depth: int = 2
    heads: int = 4
    dropout: float = 0.1  # of the decoder
    # Officially attention knows no order of frames. True makes it prefer frames that are near in time.
    time_bias: bool = False
    # Stage 2.
    window: int = 50  # frames of one diffusion
    clip: int = 750  # frames of a training clip
    channels: int = 256  # of the first level of the UNet
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    blocks: int = 2  # residual blocks of a level
    attention_at: tuple[int, ...] = (1, 2, 4)  # down-sampling factors whose levels attend
    condition: int = 1024
    steps: int = 20
    # The condition is of the window before the one that is generated, so that nothing of the future is needed.
    online: bool = False
    # How latents are scaled for the diffusion: "minmax" to -1 .. 1 for each latent dimension; "official" as the
    # official program does for each frame of the clip and dimension, where a bracket is missing.
    scaling: str = "minmax"
    # What the UNet predicts: officially the "noise". At the first of 20 cosine steps an error of a hundredth in it is
    # one of 4 in the latents, which are then cut to -1 .. 1: even a single window is not learned by heart. "clean"
    # latents have no such step.
    predicts: str = "noise"
    # Officially the UNet convolves over the latent dimensions and cannot tell which of them it sees: as long as there
    # is only noise, it can do no better than their common mean. True adds a learned number for each.
    positions: bool = False

    def __post_init__(self) -> None:
        whole = [f.name for f in dataclasses.fields(self) if f.type == "int"]
        small = [name for name in whole if not isinstance(getattr(self, name), int) or getattr(self, name) < 1]
        if small:
            raise HeroError(f"The face model's config needs whole numbers above 0 for {', '.join(small)}.")
        if self.hidden % self.heads or self.latent % self.heads:
            raise HeroError(f"The face model's hidden and latent widths must be multiples of its {self.heads} heads.")
        if self.latent % 2 ** (len(self.multipliers) - 1):
            raise HeroError("The face model's latent width must halve evenly at each level of its UNet.")
        if any(self.channels * m % 32 for m in self.multipliers) or self.condition % 32:
            raise HeroError("The face model's channels and condition must be multiples of 32, the groups of its norms.")
        if self.clip % self.window:
            raise HeroError(f"The face model's clip must be a whole number of windows of {self.window} frames.")
        choices = {
            "features": ("official", "curves"),
            "scaling": ("minmax", "official"),
            "predicts": ("noise", "clean"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise HeroError(
                    f"The face model's {name} '{getattr(self, name)}' is not known; use {' or '.join(known)}."
                )

    @property
    def video(self) -> int:
        """Width of a frame's video features."""
        return self.va + self.au + self.fer

    @property
    def audio(self) -> int:
        """Width of a frame's sound features."""
        return self.mfcc + self.speech

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReactDiffConfig:
        """Raises HeroError at entries that this version does not know, and at sizes that cannot be."""
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise HeroError(f"The face model's config has unknown entries {', '.join(unknown)}; update HERO.")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    @classmethod
    def from_json(cls, text: str) -> ReactDiffConfig:
        try:
            values = json.loads(text)
        except json.JSONDecodeError as err:
            raise HeroError(f"The face model's config.json is not valid JSON ({err}); copy it again.") from err
        if not isinstance(values, dict):
            raise HeroError("The face model's config.json must be an object; copy it again.")
        return cls.from_dict(values)


# Without these the diffusion cannot learn even a handful of clips. Trainings have them unless their config says no.
CORRECTED: dict[str, Any] = {"predicts": "clean", "positions": True}


def small() -> ReactDiffConfig:
    """A configuration that trains and runs on a CPU, on features that need no other network."""
    return ReactDiffConfig(
        name="reactdiff-small",
        features="curves",
        va=6,
        au=52,
        fer=25,
        mfcc=6,
        speech=40,
        hidden=128,
        latent=64,
        depth=1,
        time_bias=True,
        channels=64,
        multipliers=(1, 2),
        blocks=1,
        attention_at=(2,),
        condition=128,
        **CORRECTED,
    )
