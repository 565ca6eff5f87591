# SPDX-License-Identifier: GPL-3.0-or-later
"""What a video encoder's features are good for, on rendered clips of the test split and on any video files.

    python -m training.probe_encoder --encoder RUN --maps FOLDER --pairs PAIRS [--videos FOLDER]

RUN is a folder of ``python -m hero_core.train encoder``. Printed as JSON, shares with their 95 % intervals:

* ``class``: clips whose class its class head finds; beside it chance, and the nearest training clip (cosine).
* ``order``: of test clips of things that come nearer, those that are not taken for ``retreat``; and of the same clips
  shown backwards, those that are.
* ``bf16_cosine``: features in bfloat16 against float32.
* ``videos``: the classes that each video looks like, forwards and backwards.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hero_core import video
from hero_core.evaluate.plausibility import wilson
from hero_core.train import loop, pairs
from hero_core.train.data import load_encoder
from hero_core.train.encoder import RETREAT, Clips

NEARER = ("approach", "creature", "vehicle")


def share(right: Tensor) -> list[float]:
    """A share, and its 95 % interval (Wilson)."""
    low, high = wilson(float(right.sum()), len(right))
    return [round(float(right.float().mean()), 3), round(low, 3), round(high, 3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("encoder", "maps", "pairs"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--videos", type=Path)
    args = parser.parse_args()
    encoder = load_encoder(args.encoder)
    labels: list[str] = json.loads((args.encoder / "encoder.json").read_text(encoding="utf-8"))["labels"]
    head = loop.load_weights(args.encoder / "label_head.safetensors")

    def classes(local: Tensor) -> Tensor:
        """(B, T, D) -> (B, classes) probabilities."""
        return F.linear(local.mean(1), head["weight"], head["bias"])[:, : len(labels)].softmax(-1)

    clips = Clips(args.maps)
    test = clips.select("test", labelled=True)
    truth = clips.rows[test, 3]
    result: dict[str, Any] = {"test_clips": len(test), "chance": round(1 / len(truth.unique()), 3)}
    forth, back = [], []
    with torch.inference_mode():
        for clip in test:
            maps = clips.read(clips.whole(clip[None]))["maps"].float()
            forth.append(encoder.contextualise(maps))
            back.append(encoder.contextualise(maps.flip(1)))
        seen, seen_back = torch.cat(forth), torch.cat(back)
        result["class"] = share(classes(seen).argmax(-1) == truth)

        data = pairs.load(args.pairs)
        about = json.loads(args.pairs.with_suffix(".json").read_text(encoding="utf-8"))
        names = torch.tensor(about["clip_class"])
        pooled = data.local[:, 0].float().mean(1)
        train, held_out = data.clips("train"), data.clips("test")
        mean = pooled[train].mean(0)
        near = (F.normalize(pooled[held_out] - mean, dim=-1) @ F.normalize(pooled[train] - mean, dim=-1).T).argmax(-1)
        result["nearest_training_clip"] = share(names[train][near] == names[held_out])

        nearer = torch.tensor([labels[int(i)].startswith(NEARER) for i in truth])
        retreat = labels.index(RETREAT)
        result["order"] = {
            "clips": int(nearer.sum()),
            "forwards": share(classes(seen[nearer]).argmax(-1) != retreat),
            "backwards": share(classes(seen_back[nearer]).argmax(-1) == retreat),
            "told_apart": share(classes(seen_back[nearer])[:, retreat] > classes(seen[nearer])[:, retreat]),
        }
        half = load_encoder(args.encoder).bfloat16()
        some = clips.read(clips.whole(test[:16]))["maps"]
        cosine = F.cosine_similarity(half.contextualise(some.bfloat16()), seen[:16], dim=-1)
        result["bf16_cosine"] = {"mean": round(float(cosine.mean()), 4), "lowest": round(float(cosine.min()), 4)}
        for path in sorted(args.videos.iterdir()) if args.videos else []:
            if path.suffix not in (".mp4", ".mkv", ".avi", ".mov"):
                continue
            frames = video.prepare_frames(video.read_video(path).frames, encoder.cfg.num_frames, encoder.cfg.image_size)
            for way, shown in (("forwards", frames), ("backwards", np.ascontiguousarray(frames[::-1]))):
                said = classes(encoder(encoder.normalise(torch.from_numpy(shown)[None])))[0]
                best = said.argsort(descending=True)[:3].tolist()
                result.setdefault("videos", {}).setdefault(path.name, {})[way] = {
                    labels[i]: round(float(said[i]), 2) for i in best
                }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
