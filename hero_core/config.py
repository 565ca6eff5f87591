# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes of each module. The defaults are the paper scale of the official release; JSON in and out."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .errors import HeroError

T = TypeVar("T")


@dataclass(frozen=True)
class VideoEncoderConfig:
    """TC-CLIP image tower (ViT-B/16 with temporal contextualisation)."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    output_dim: int = 512  # d_vl, width of the frame features
    num_frames: int = 16  # T
    context_tokens: int = 96  # k, tokens shared by all frames after merging
    seed_ratio: float = 0.3  # share of the patches of a frame that seed the context
    merge_r: int = 100  # tokens merged in one round of bipartite matching
    # Official: (197, width), the same for every frame. "joint" gives each frame its own table; "space_time" adds
    # one vector for each of the T places in time, so that approach and retreat differ.
    positional_embedding: str = "space"
    # Official: one convolution cuts the patches. True puts ``hero_core.stem`` before it (patch_size 32).
    conv_stem: bool = False
    local_global_bias: bool = True
    # Which tokens merge hangs on small differences. Where rounding to bfloat16 changes the features more than
    # it gains in speed (small encoders), they are computed in float32 whatever the rest is.
    always_float32: bool = False
    # RGB statistics on the 0..255 scale (ImageNet's, as the official input pipeline uses them).
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def seeds(self) -> int:
        return int(self.patches * self.seed_ratio)


@dataclass(frozen=True)
class RVQConfig:
    """Motion tokenizer: residual vector-quantised VAE over 263-d HumanML3D features."""

    input_width: int = 263
    width: int = 512
    code_dim: int = 512
    nb_code: int = 512
    num_quantizers: int = 6
    down_t: int = 2
    stride_t: int = 2
    depth: int = 3
    dilation_growth_rate: int = 3
    activation: str = "relu"  # relu | silu | gelu
    norm: str | None = None  # None | LN | GN | BN
    shared_codebook: bool = False
    dropout: float = 0.2
    quantize_dropout_prob: float = 0.2
    mu: float = 0.99  # EMA decay of the codebooks
    sample_codebook_temp: float = 0.5  # Gumbel temperature of the assignment in training

    @property
    def frames_per_token(self) -> int:
        return self.stride_t**self.down_t


@dataclass(frozen=True)
class TransformerConfig:
    """Masked or residual transformer; the residual one also reads ``share_weight``."""

    num_tokens: int = 512
    code_dim: int = 512
    num_quantizers: int = 6
    latent_dim: int = 384
    ff_size: int = 1024
    n_layers: int = 6
    n_heads: int = 6
    dropout: float = 0.2
    clip_dim: int = 512  # d_vl of the video features
    iie_heads: int = 8
    cond_drop_prob: float = 0.1
    share_weight: bool = False  # residual transformer only
    # Ablations of the paper's table: intention extraction (IIE) and motion-frame cross-attention (DIE).
    # Both False is MoMask's architecture with a video prefix.
    use_iie: bool = True
    use_die: bool = True
    # Off in the official weights, whose frames have no order: a learned vector for each of so many places in time
    # is added where the frames' memory enters. 0 = off.
    memory_frames: int = 0


@dataclass(frozen=True)
class LengthConfig:
    """The head that says how long a reaction is (MoMask's sizes); official releases have none."""

    input_dim: int = 512  # of the masked transformer's intention, its clip_dim
    hidden: tuple[int, ...] = (512, 256, 128)
    max_tokens: int = 50
    dropout: float = 0.2


@dataclass(frozen=True)
class HeroConfig:
    """Everything that ``config.json`` beside the weights says."""

    encoder: VideoEncoderConfig = field(default_factory=VideoEncoderConfig)
    rvq: RVQConfig = field(default_factory=RVQConfig)
    masked: TransformerConfig = field(default_factory=TransformerConfig)
    residual: TransformerConfig = field(default_factory=TransformerConfig)
    name: str = "hero"
    max_length: int = 200  # frames at 20 fps
    default_length: int = 88
    # Scales of classifier-free guidance where the caller names none; these are the official program's.
    guidance: float = 4.0
    residual_guidance: float = 5.0
    length: LengthConfig | None = None  # None: no such head, lengths are given

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> HeroConfig:
        try:
            return _build(cls, json.loads(text), "config")
        except json.JSONDecodeError as err:
            raise HeroError(f"config.json is not valid JSON ({err}); convert the checkpoint again.") from err


def _build(cls: type[T], data: Any, where: str) -> T:
    """Dataclass from a JSON object; unknown keys are an error, absent keys take their default."""
    if not isinstance(data, dict):
        raise HeroError(f"{where} in config.json must be an object; convert the checkpoint again.")
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise HeroError(
            f"{where} in config.json has unknown entries {', '.join(unknown)}; "
            "it was written by a newer version, update HERO."
        )
    nested = {
        "encoder": VideoEncoderConfig,
        "rvq": RVQConfig,
        "masked": TransformerConfig,
        "residual": TransformerConfig,
        "length": LengthConfig,
    }
    values: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and key in nested:
            value = _build(nested[key], value, key)
        elif isinstance(value, list):
            value = tuple(value)
        values[key] = value
    return cls(**values)
