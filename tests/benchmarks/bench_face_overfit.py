# SPDX-License-Identifier: GPL-3.0-or-later
"""Can ReactDiff learn 8 clips by heart? Both stages on made-up dyads, then FRCorr of what it generates for them.

    python -m tests.benchmarks.bench_face_overfit FOLDER [--behaviour 600] [--diffusion 4000] [--official] [--threads 1]

FRCorr is a sum over K = 10 predictions: 10 is the most, of listeners that move in every attribute. What is learned is
noise made by us; it says that the training works and nothing of how people listen. A run that was stopped goes on.

With the defaults the auto-encoder gave 9.99 and what was generated 9.77, in 3 minutes of one core of a 2-core cloud
machine; --official, the diffusion as published after as many steps, gave -0.01.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from hero_core.face import checkpoint, data, metrics
from hero_core.face.__main__ import generated
from hero_core.face.config import small
from hero_core.face.train import train
from tests.hero_core.face import dyads

FRAMES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--behaviour", type=int, default=600, help="steps of the auto-encoder")
    parser.add_argument("--diffusion", type=int, default=4000, help="steps of the diffusion")
    parser.add_argument("--official", action="store_true", help="diffusion as officially, which does not learn them")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    root, out = args.folder / "dyads", args.folder / "run"
    if not root.exists():
        dyads.react(root, count=4, frames=FRAMES, splits=("train",))  # each is heard both ways round
        shutil.copytree(root / "train", root / "val")
        shutil.copy(root / "train.csv", root / "val.csv")
    model = dataclasses.asdict(small()) | {"clip": FRAMES, "window": FRAMES // 2, "dropout": 0.0}
    if args.official:
        model |= {"predicts": "noise", "positions": False}
    stage = {"lr": 1e-3, "validate_every": 500, "log_every": 250, "cosine": True, "weight_decay": 0.0}
    stage["threads"] = args.threads
    config = args.folder / "config.json"
    config.write_text(
        json.dumps(
            {
                "model": model,
                "data": {"batch": 8, "drop_sense": 0.0},
                "behaviour": {**stage, "iterations": args.behaviour},
                "diffusion": {**stage, "lr": 2e-3, "iterations": args.diffusion},
            }
        )
    )
    begun = time.perf_counter()
    train(root, out, config)
    trained = time.perf_counter() - begun
    clips = data.load(data.read(root, "train"), FRAMES)
    learned = checkpoint.load(out, "cpu")
    sets = [np.array([n]) for n in range(len(clips.speakers))]
    with torch.no_grad():
        video, audio = (torch.from_numpy(np.ascontiguousarray(x[1])) for x in (clips.video, clips.audio))
        _, attributes = learned.behaviour(*learned.standardised(video, audio))
    k = 10
    print(f"{len(sets)} clips, {trained:.0f} s of training")
    alone = metrics.frcorr(np.repeat(attributes[:, None].numpy(), k, 1), clips.listeners, sets)
    print(f"auto-encoder alone: FRCorr {alone:.3f} of {k}")
    options = argparse.Namespace(seed=0, online=False, strict_official=False)
    report = metrics.report(generated(learned, clips, k, options), clips.listeners, clips.speakers, sets)
    print("\n".join(report.lines()))


if __name__ == "__main__":
    main()
