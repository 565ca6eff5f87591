# SPDX-License-Identifier: GPL-3.0-or-later
"""The trained parts -> a model folder (config.json, model.safetensors in half precision):

    python -m training.assemble --runs build/runs --out hero_core/weights
    python -m training.assemble --runs build/runs --variant no_iie --out build/models/no_iie

``--variant`` takes the transformers of ``training.variants`` in place of ``masked`` and ``residual``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from hero_core import checkpoint
from hero_core.config import HeroConfig, LengthConfig, TransformerConfig
from hero_core.train import loop
from hero_core.train.data import load_encoder, load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of encoder, tokenizer, masked, residual")
    parser.add_argument("--variant", default="")
    parser.add_argument("--guidance", type=float, default=4.0, help="of the masked transformer, where nobody says")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    encoder = load_encoder(args.runs / "encoder")
    tokenizer, mean, std = load_tokenizer(args.runs / "tokenizer")
    configs, states = {}, {"encoder": encoder.state_dict(), "rvq": tokenizer.state_dict()}
    for stage in ("masked", "residual"):
        run = args.runs / (f"{stage}_{args.variant}" if args.variant else stage)
        configs[stage] = TransformerConfig(**json.loads((run / "model.json").read_text(encoding="utf-8")))
        states[stage] = loop.load_weights(run / "best.safetensors")
    length = None
    if not args.variant and (args.runs / "length").is_dir():
        values = json.loads((args.runs / "length" / "model.json").read_text(encoding="utf-8"))
        length = LengthConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        states["length"] = loop.load_weights(args.runs / "length" / "best.safetensors")
    config = HeroConfig(
        encoder=replace(encoder.cfg, always_float32=True),
        rvq=tokenizer.cfg,
        masked=configs["masked"],
        residual=configs["residual"],
        length=length,
        guidance=args.guidance,
        name=args.variant or "shipped",
    )
    parts = checkpoint.Parts(config, states, mean, std, args.runs)
    folder = checkpoint.write(parts, args.out, torch.float16)
    hero = checkpoint.load(folder, "cpu", "float32")  # it loads, or this fails
    size = (folder / checkpoint.WEIGHTS).stat().st_size
    print(f"{folder}: {size / 1e6:.1f} MB, reads features of width {hero.config.masked.clip_dim}")


if __name__ == "__main__":
    main()
