# SPDX-License-Identifier: GPL-3.0-or-later
"""Pairs without the reactions that are too strong to be wrong about:

    python -m training.temper --pairs build/pairs/with_motions.safetensors \
        --reactions build/pairs/reactions.safetensors --out build/pairs/tempered.safetensors

The encoder learned people from rendered ones, and takes some real ones who only stand near for attackers. A guard or a
flinch is a small mistake then, a fall is not. So the last pass of the masked transformer is shown attacks by people
that are met on the spot.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from hero_core.train import loop, pairs

ATTACKS = ("punch", "kick", "push", "hand_out")
TOO_STRONG = ("fall", "jump back", "dodge aside", "step back", "fight back", "walk to meet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pairs", "reactions", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    data = pairs.load(args.pairs)
    about = loop.load_weights(args.reactions)
    names = json.loads(args.reactions.with_suffix(".json").read_text(encoding="utf-8"))
    attack = torch.tensor([name in ATTACKS for name in names["stimuli"]])[about["stimulus"]]
    strong = torch.tensor([name in TOO_STRONG for name in names["reactions"]])[about["label"]]
    keep = torch.ones(len(data.clip), dtype=torch.bool)  # behind the reactions come windows of plain motion
    keep[: len(attack)] = ~(attack & strong & (about["split"] == 0))
    loop.save_weights(
        {
            "local": data.local,
            "split": data.split,
            "ids": data.ids[keep],
            "ids_mirrored": data.ids_mirrored[keep],
            "clip": data.clip[keep],
            "mirrored": data.mirrored,
        },
        args.out,
    )
    print(f"{args.out}: {int((~keep).sum())} of {len(keep)} reactions left out")


if __name__ == "__main__":
    main()
