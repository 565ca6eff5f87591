# SPDX-License-Identifier: GPL-3.0-or-later
"""What a video encoder's features are good for, on held-out rendered clips and on any video files.

    python -m training.probe_encoder --encoder RUN --stimuli FOLDER --data FOLDER [--videos FOLDER]

RUN is a folder of ``python -m hero_core.train encoder`` (encoder.safetensors and encoder.json). Printed as JSON:

* ``nearest``: share of val and test clips whose nearest training clip (cosine of the pooled features less their
  mean) has their class; ``linear``: the same by ridge regression on the training clips. Both beside the same encoder
  with random weights, and chance.
* ``order``: forward against reversed, ridge regression on the 16 frame features in order, on clips of the classes
  where something comes nearer. The pooled feature is the same both ways, whatever the encoder.
* ``bf16_cosine``: features in bfloat16 against float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hero_core import video
from hero_core.config import VideoEncoderConfig
from hero_core.errors import HeroError
from hero_core.tc_clip import VideoEncoder
from hero_core.train.loop import arguments, load_weights
from training.stimuli.dataset import Stimuli

USAGE = "python -m training.probe_encoder --encoder RUN --stimuli FOLDER --data FOLDER [--videos FOLDER]"
NEARER = ("approach", "creature", "vehicle", "ball", "throw")


@torch.inference_mode()
def encode(model: VideoEncoder, clips: list[np.ndarray[Any, Any]]) -> Tensor:
    """Clips of (16, H, W, 3) uint8 -> (n, 16, D)."""
    return torch.cat([model(model.normalise(torch.from_numpy(clip)[None])) for clip in clips])


def ridge(train: Tensor, target: Tensor, test: Tensor, strength: float = 10.0) -> Tensor:
    """Linear scores (m, classes) for one-hot ``target``; inputs are standardised by the training rows."""
    mean, std = train.mean(0), train.std(0) + 1e-5
    x, y = (train - mean) / std, target - target.mean(0)
    if len(x) < x.shape[1]:  # the dual form is the smaller system
        weights = x.T @ torch.linalg.solve(x @ x.T + strength * torch.eye(len(x)), y)
    else:
        weights = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1]), x.T @ y)
    return ((test - mean) / std) @ weights + target.mean(0)


def interval(right: Tensor) -> list[float]:
    """Share that is right, and its 95 % interval (Wilson)."""
    n, p, z = len(right), float(right.float().mean()), 1.96
    centre, half = (p + z * z / (2 * n)), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return [round(p, 3), round((centre - half) / (1 + z * z / n), 3), round((centre + half) / (1 + z * z / n), 3)]


def classes(train: Tensor, train_label: Tensor, test: Tensor, test_label: Tensor) -> dict[str, list[float]]:
    """Pooled features (n, D) and labels -> nearest-neighbour and linear accuracy."""
    mean = train.mean(0)
    near = (F.normalize(test - mean, dim=-1) @ F.normalize(train - mean, dim=-1).T).argmax(-1)
    linear = ridge(train, F.one_hot(train_label).float(), test).argmax(-1)
    return {
        "nearest": interval(train_label[near] == test_label),
        "linear": interval(linear == test_label),
    }


def main(argv: list[str]) -> int:
    args = arguments(["", *argv], USAGE)
    if not {"encoder", "stimuli", "data"} <= set(args):
        raise HeroError(f"The arguments are not understood; usage: {USAGE}")
    run = Path(args["encoder"])
    saved = json.loads((run / "encoder.json").read_text())["encoder"]
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
    cfg = VideoEncoderConfig(**values)
    torch.manual_seed(0)
    random = VideoEncoder(cfg).eval()
    model = VideoEncoder(cfg).eval()
    model.load_state_dict({key: value.float() for key, value in load_weights(run / "encoder.safetensors").items()})

    stimuli = Stimuli(args["stimuli"], args["data"])
    parts = {
        "train": list(stimuli.clips(split="train")),
        "test": [*stimuli.clips(split="val"), *stimuli.clips(split="test")],
    }
    frames = {part: [stimuli.frames(clip) for clip in rows] for part, rows in parts.items()}
    names = sorted({clip["cls"] for rows in parts.values() for clip in rows})
    label = {part: torch.tensor([names.index(clip["cls"]) for clip in rows]) for part, rows in parts.items()}
    result: dict[str, Any] = {"train_clips": len(label["train"]), "test_clips": len(label["test"])}
    result["chance"] = round(1 / len(names), 3)
    result["most_common"] = round(float(label["test"].bincount().max() / len(label["test"])), 3)
    features: dict[str, Tensor] = {}
    for title, network in (("trained", model), ("random weights", random)):
        found = {part: encode(network, clips) for part, clips in frames.items()}  # (n, 16, D)
        result[title] = classes(found["train"].mean(1), label["train"], found["test"].mean(1), label["test"])

        # A context shared by all frames does not know their order: reversing the clip reverses its features.
        near = {part: torch.tensor([c["cls"].startswith(NEARER) for c in rows]) for part, rows in parts.items()}
        both = {part: torch.cat((found[part][near[part]], found[part][near[part]].flip(1))) for part in parts}
        truth = {part: torch.arange(2).repeat_interleave(len(both[part]) // 2) for part in parts}
        said = ridge(both["train"].flatten(1), F.one_hot(truth["train"]).float(), both["test"].flatten(1), 1000.0)
        result[title]["order"] = interval(said.argmax(-1) == truth["test"])
        if network is model:
            features = found

    some = frames["test"][:16]
    half = VideoEncoder(cfg).eval()
    half.load_state_dict(model.state_dict())
    cosine = F.cosine_similarity(encode(half.bfloat16(), some), features["test"][: len(some)], dim=-1)
    result["bf16_cosine"] = {"mean": round(float(cosine.mean()), 4), "lowest": round(float(cosine.min()), 4)}
    result["feature_size"] = round(float(features["test"].norm(dim=-1).mean()), 3)

    if "videos" in args:
        pooled = features["train"].mean(1)
        centres = torch.stack([pooled[label["train"] == i].mean(0) for i in range(len(names))]) - pooled.mean(0)
        for path in sorted(Path(args["videos"]).iterdir()):
            if path.suffix not in (".mp4", ".mkv", ".avi", ".mov"):
                continue
            seen = encode(model, [video.read_video(path).frames]).mean(1)[0] - pooled.mean(0)
            scores = F.cosine_similarity(seen, centres, dim=-1)
            best = scores.argsort(descending=True)[:3].tolist()
            result.setdefault("videos", {})[path.name] = {names[i]: round(float(scores[i]), 3) for i in best}
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HeroError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(1)
