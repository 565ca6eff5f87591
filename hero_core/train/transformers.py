# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the masked or the residual transformer on pairs of frozen video features and tokens:

python -m hero_core.train {masked,residual} --config FILE --pairs FILE --out FOLDER
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hero_core.config import TransformerConfig
from hero_core.errors import HeroError
from hero_core.masked import MaskedTransformer
from hero_core.residual import ResidualTransformer
from hero_core.train import loop, pairs

USAGE = "python -m hero_core.train {masked,residual} --config FILE --pairs FILE --out FOLDER [--init FILE]"


@dataclass(frozen=True)
class DataConfig:
    batch: int = 64
    crop: bool = True  # a third of the samples lose a token, as in the official data set
    # Frame features times this, plus noise of this share of their spread: few clips must not be learned by heart.
    feature_noise: float = 0.0


def main(argv: list[str]) -> int:
    args = loop.arguments(argv, USAGE)
    if not {"config", "pairs", "out"} <= set(args):
        raise HeroError(f"Training a transformer needs --config, --pairs and --out; usage: {USAGE}")
    cfg = loop.read_config(args["config"], {"model": TransformerConfig, "data": DataConfig, "loop": loop.LoopConfig})
    model_cfg, data_cfg, loop_cfg = cfg["model"], cfg["data"], cfg["loop"]
    data = pairs.load(args["pairs"])
    if data.local.shape[-1] != model_cfg.clip_dim or data.ids.shape[-1] != model_cfg.num_quantizers:
        raise HeroError(
            f"The pairs have features of width {data.local.shape[-1]} and {data.ids.shape[-1]} token layers; the "
            f"config says clip_dim {model_cfg.clip_dim} and num_quantizers {model_cfg.num_quantizers}."
        )
    train, val = data.clips("train"), data.clips("val")
    if not len(train) or not len(val):
        raise HeroError(f"'{args['pairs']}' has no clips with reactions to train and validate on.")
    spread = data.local[train].float().std()
    out, device = Path(args["out"]), loop_cfg.device
    torch.manual_seed(loop_cfg.seed)
    model = (MaskedTransformer if argv[0] == "masked" else ResidualTransformer)(model_cfg).to(device)
    if "init" in args:
        model.load_state_dict(loop.load_weights(args["init"]))
    print(f"{len(train)} clips to train on, {len(val)} to validate; {len(data.ids)} reactions", flush=True)

    def loss_of(clips: Tensor, generator: torch.Generator, crop: bool) -> tuple[Tensor, Tensor]:
        local, pooled, ids, lengths = (x.to(device) for x in data.batch(clips, generator, crop))
        if crop and data_cfg.feature_noise:
            noise = torch.randn(local.shape, generator=generator).to(local)
            local = local + noise * (spread * data_cfg.feature_noise)
            pooled = local.mean(1)
        if isinstance(model, MaskedTransformer):
            return model.loss(ids[..., 0], local, pooled, lengths, generator)
        return model.loss(ids, local, pooled, lengths, generator)

    def loss_fn(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = torch.randint(len(train), (data_cfg.batch,), generator=generator)
        loss, accuracy = loss_of(train[pick], generator, data_cfg.crop)
        return loss, {"accuracy": float(accuracy)}

    def validate() -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)  # the same corruption each time
        losses = [loss_of(val, generator, False) for _ in range(max(1, 256 // len(val)))]
        mean = torch.stack([torch.stack(x) for x in losses]).mean(0)
        return {"score": float(mean[0]), "val_loss": float(mean[0]), "val_accuracy": float(mean[1])}

    best = loop.run(model, loss_fn, validate, loop_cfg, out)
    (out / "model.json").write_text(json.dumps(dataclasses.asdict(model_cfg), indent=1), encoding="utf-8")
    print(f"best weights: {best}", flush=True)
    return 0
