# SPDX-License-Identifier: GPL-3.0-or-later
"""Pairs, and beside them windows of all training motions that react to nothing:

    python -m training.prepare_motions --pairs build/pairs/pairs.safetensors --data DATA \
        --tokenizer build/runs/tokenizer --out build/pairs/with_motions.safetensors

There are few reactions and much more motion. A window is paired with a clip whose features are zero, "no video": the
transformers learn from it how people move, and nothing about when.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from hero_core import humanml3d
from hero_core.config import RVQConfig
from hero_core.train import loop, motions, pairs
from hero_core.train.data import load_tokenizer
from hero_core.train.tokenizer import DataConfig

WINDOW, STRIDE = 32, 12  # tokens
SHARE = 0.25  # of the clips of the whole file that are "no video"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pairs", "data", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs" / "tokenizer.json")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, mean, std = load_tokenizer(args.tokenizer)
    paired = pairs.load(args.pairs)
    sections = {"model": RVQConfig, "data": DataConfig, "loop": loop.LoopConfig}
    config: DataConfig = loop.read_config(args.config, sections)["data"]
    ids, turned = [], []
    with torch.inference_mode():
        for file in config.files:
            for name, split, joints in motions.sequences(args.data / file):
                if (split or "train") != "train" or name in config.held_out or name.split("#")[0] in config.held_out:
                    continue
                both = []
                for look in (joints, humanml3d.mirror(joints)):
                    rows = (motions.features(look) - mean) / std
                    both.append(model.encode_tokens(rows[: len(rows) // 4 * 4][None])[0])  # (n, Q)
                for first in range(0, max(1, len(both[0]) - WINDOW // 2), STRIDE):
                    for target, tokens in zip((ids, turned), both, strict=True):
                        window = tokens[first : first + WINDOW]
                        width = paired.ids.shape[1]
                        target.append(torch.nn.functional.pad(window, (0, 0, 0, width - len(window)), value=-1))
    long_enough = [i for i, window in enumerate(ids) if int((window[:, 0] >= 0).sum()) >= 4]
    empty = round(int((paired.split == 0).sum()) * SHARE / (1 - SHARE))
    clips = len(paired.split)
    generator = torch.Generator().manual_seed(args.seed)
    owner = clips + torch.randperm(len(long_enough), generator=generator) % empty
    alike = {} if paired.alike is None else {"alike": torch.cat((paired.alike, torch.full((empty,), -1)))}
    loop.save_weights(
        {
            "local": torch.cat((paired.local, paired.local.new_zeros(empty, *paired.local.shape[1:]))),
            "split": torch.cat((paired.split, torch.zeros(empty, dtype=torch.int64))),
            "ids": torch.cat((paired.ids, torch.stack([ids[i] for i in long_enough]))),
            "ids_mirrored": torch.cat((paired.ids_mirrored, torch.stack([turned[i] for i in long_enough]))),
            "clip": torch.cat((paired.clip, owner)),
            "mirrored": paired.mirrored,
            **alike,
        },
        args.out,
    )
    print(f"{args.out}: {clips} clips, and {empty} without video that share {len(long_enough)} windows")


if __name__ == "__main__":
    main()
