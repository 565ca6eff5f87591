# SPDX-License-Identifier: GPL-3.0-or-later
"""Small models with random weights and the real architecture, for tests that do not look at the motion's quality."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hero_core import checkpoint
from hero_core.config import HeroConfig, LengthConfig, RVQConfig, TransformerConfig, VideoEncoderConfig
from hero_core.length import LengthEstimator
from hero_core.masked import MaskedTransformer
from hero_core.residual import ResidualTransformer
from hero_core.rvq import RVQVAE
from hero_core.tc_clip import VideoEncoder

_SIZES = {
    "num_tokens": 64, "code_dim": 32, "num_quantizers": 3, "latent_dim": 32, "ff_size": 48, "n_layers": 2,
    "n_heads": 2, "clip_dim": 24, "iie_heads": 8,
}  # fmt: skip


def tiny_config() -> HeroConfig:
    transformer = TransformerConfig(**_SIZES)  # type: ignore[arg-type]
    return HeroConfig(
        encoder=VideoEncoderConfig(
            image_size=224, patch_size=32, width=64, layers=2, heads=1, output_dim=24, context_tokens=96
        ),
        rvq=RVQConfig(width=32, code_dim=32, nb_code=64, num_quantizers=3),
        masked=transformer,
        residual=transformer,
        name="tiny",
    )


def tiny_states(seed: int = 0, config: HeroConfig | None = None) -> dict[str, dict[str, Tensor]]:
    cfg = config or tiny_config()
    torch.manual_seed(seed)
    modules = {
        "encoder": VideoEncoder(cfg.encoder),
        "rvq": RVQVAE(cfg.rvq),
        "masked": MaskedTransformer(cfg.masked),
        "residual": ResidualTransformer(cfg.residual),
    }
    for book in modules["rvq"].quantizer.books():  # type: ignore[union-attr, operator]
        book.codebook.normal_()
    return {name: module.state_dict() for name, module in modules.items()}


def tiny_parts(seed: int = 0) -> checkpoint.Parts:
    return checkpoint.Parts(tiny_config(), tiny_states(seed), torch.zeros(263), torch.full((263,), 0.05), Path("tiny"))


def with_length_head(parts: checkpoint.Parts, config: LengthConfig | None = None) -> checkpoint.Parts:
    """The same with a head that chooses lengths, of random weights: nearly any length is as likely as the others."""
    config = config or LengthConfig(input_dim=parts.config.masked.clip_dim, hidden=(16, 8))
    torch.manual_seed(3)
    head = LengthEstimator(config).state_dict()
    return dataclasses.replace(
        parts, config=dataclasses.replace(parts.config, length=config), states={**parts.states, "length": head}
    )


def write_tiny(folder: str | os.PathLike[str], seed: int = 0, length_head: bool = False) -> Path:
    """A folder that ``hero_core.load`` takes; the weights are random, so the motion means nothing."""
    parts = tiny_parts(seed)
    return checkpoint.write(with_length_head(parts) if length_head else parts, folder)


def write_official(folder: Path, config: HeroConfig | None = None, seed: int = 0) -> Path:
    """The layout of the official release around random weights; returns its checkpoints folder."""
    cfg = config or tiny_config()
    states = tiny_states(seed, cfg)
    root = folder / "checkpoints"
    m = cfg.masked
    names = {"rvq": "rvq_x", "masked": "mtrans_x", "residual": "rtrans_x"}
    options: dict[str, dict[str, object]] = {
        "rvq": {
            "code_dim": cfg.rvq.code_dim, "nb_code": cfg.rvq.nb_code, "width": cfg.rvq.width, "depth": cfg.rvq.depth,
            "down_t": 2, "stride_t": 2, "dilation_growth_rate": 3, "vq_act": "relu", "vq_norm": None,
            "num_quantizers": cfg.rvq.num_quantizers, "shared_codebook": False, "quantize_dropout_prob": 0.2,
            "mu": 0.99, "lr": 2e-4, "output_emb_width": cfg.rvq.code_dim,
        },
    }  # fmt: skip
    options["masked"] = {
        "vq_name": names["rvq"], "latent_dim": m.latent_dim, "ff_size": m.ff_size, "n_layers": m.n_layers,
        "n_heads": m.n_heads, "dropout": 0.2, "cond_drop_prob": 0.1, "milestones": [6000],
    }  # fmt: skip
    options["residual"] = {**options["masked"], "share_weight": False}
    keys = {"rvq": "vq_model", "masked": "t2m_transformer", "residual": "res_transformer"}
    for kind, name in names.items():
        place = root / "vimo" / name
        (place / "model").mkdir(parents=True)
        lines = [f"{k}: {v}" for k, v in sorted({"dataset_name": "vimo", "name": name, **options[kind]}.items())]
        text = "\n".join(["------------ Options -------------", *lines, "-------------- End ----------------"])
        (place / "opt.txt").write_text(text + "\n")
        torch.save({keys[kind]: states[kind], "ep": 3}, place / "model" / "net_best_fid.tar")
    meta = root / "vimo" / names["rvq"] / "meta"
    meta.mkdir()
    np.save(meta / "mean.npy", np.zeros(263, np.float32))
    np.save(meta / "std.npy", np.full(263, 0.05, np.float32))
    (root / "tcclip").mkdir()
    encoder = {f"module.image_encoder.{k}": v for k, v in states["encoder"].items()}
    encoder["module.logit_scale"] = torch.zeros(())
    torch.save({"model": encoder, "epoch": 9}, root / "tcclip" / "zero_shot_k400_tc_clip_newkeys.pth")
    return root
