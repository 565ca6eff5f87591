# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows of all training motions as pairs that belong to no clip, to learn motion before learning reactions:

    python -m training.prepare_motions --pairs build/runs/pairs.safetensors --data DATA \
        --tokenizer build/runs/tokenizer --out build/runs/motions.safetensors

Each window gets the features of a random clip of its split, so that nothing can be learned from them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from hero_core import humanml3d
from hero_core.config import RVQConfig
from hero_core.train import loop, motions, pairs
from hero_core.train.tokenizer import DataConfig
from training.prepare import load_tokenizer

WINDOW, STRIDE = 32, 12  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("pairs", "data", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs" / "tokenizer.json")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, mean, std = load_tokenizer(args.tokenizer)
    paired = pairs.load(args.pairs)
    sections = {"model": RVQConfig, "data": DataConfig, "loop": loop.LoopConfig}
    config: DataConfig = loop.read_config(args.config, sections)["data"]
    generator = torch.Generator().manual_seed(args.seed)
    ids, turned, owner = [], [], []
    with torch.inference_mode():
        for file in config.files:
            for name, split, joints in motions.sequences(args.data / file):
                part = split or "train"
                if part == "test" or name in config.held_out or name.split("#")[0] in config.held_out:
                    continue
                both = []
                for look in (joints, humanml3d.mirror(joints)):
                    rows = (motions.features(look) - mean) / std
                    both.append(model.encode_tokens(rows[: len(rows) // 4 * 4][None])[0])  # (n, Q)
                clips = paired.clips(part)
                for first in range(0, max(1, len(both[0]) - WINDOW // 2), STRIDE):
                    for target, tokens in zip((ids, turned), both, strict=True):
                        window = tokens[first : first + WINDOW]
                        target.append(torch.nn.functional.pad(window, (0, 0, 0, WINDOW - len(window)), value=-1))
                    owner.append(int(clips[torch.randint(len(clips), (), generator=generator)]))
    loop.save_weights(
        {
            "local": paired.local,
            "split": paired.split,
            "ids": torch.stack(ids),
            "ids_mirrored": torch.stack(turned),
            "clip": torch.tensor(owner),
            "mirrored": paired.mirrored,
        },
        args.out,
    )
    print(f"{args.out}: {len(ids)} windows")


if __name__ == "__main__":
    main()
