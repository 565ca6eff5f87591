# SPDX-License-Identifier: GPL-3.0-or-later
"""What the shipped weights can and cannot do, in numbers, on clips and motions that never trained:

    python -m training.measure --data DATA --pairs build/runs/pairs.safetensors \
        --out build/runs/report.json

The video's worth is told by a control: the same model, given the features of another clip.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hero_core
from hero_core import humanml3d
from hero_core.hero import Hero, VideoFeatures
from hero_core.masked import MaskedTransformer
from hero_core.train import motions, pairs, tokenizer

FEET = list(humanml3d.CONTACT_JOINTS)


def body(joints: Tensor) -> dict[str, float]:
    """Is it a human standing on a floor? joints (N, 22, 3), metres, Y up."""
    lowest = joints[..., 1].amin(-1)  # (N,)
    bones = (joints[:, 1:] - joints[:, list(humanml3d.PARENTS[1:])]).norm(dim=-1)  # (N, 21)
    feet = joints[:, FEET]
    speed = (feet[1:] - feet[:-1])[..., [0, 2]].norm(dim=-1) * 20  # m/s
    low = (feet[1:, :, 1] < 0.05) & (feet[:-1, :, 1] < 0.05)
    return {
        "floor_cm": float(lowest.abs().mean() * 100),
        "lowest_cm": float(lowest.min() * 100),
        "bone_error_cm": float((bones - humanml3d.BONE_LENGTHS[1:]).abs().mean() * 100),
        "pelvis_m": float(joints[:, 0, 1].mean()),
        "head_above_pelvis_m": float((joints[:, 15, 1] - joints[:, 0, 1]).mean()),
        "skate_share": float(((speed > 0.5) & low).any(-1).float().mean()),
        "move_m": float((joints[1:] - joints[:-1]).norm(dim=-1).mean() * 20),
    }


def average(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def interval(values: list[float]) -> list[float]:
    """Mean and half the width of its 95 % interval."""
    return [float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / len(values) ** 0.5)]


def video_worth(hero: Hero, data: pairs.Pairs, rounds: int = 8) -> dict[str, Any]:
    """Cross-entropy of true held-out base tokens, given their clip, another clip, or no intention."""
    model: MaskedTransformer = hero.masked
    clips = data.clips("test")
    out: dict[str, list[float]] = {"own_clip": [], "other_clip": []}
    with torch.inference_mode():
        for seed in range(rounds):
            generator = torch.Generator().manual_seed(seed)
            local, _, ids, lengths = data.batch(clips, generator, crop=False)
            other = local.roll(1 + seed, 0)  # clips of a class are not neighbours
            for name, look in (("own_clip", local), ("other_clip", other)):
                same = torch.Generator().manual_seed(seed)
                loss, _ = model.loss(ids[..., 0], look, look.mean(1), lengths, same)
                out[name].append(float(loss))
    result: dict[str, Any] = {name: interval(values) for name, values in out.items()}
    gain = [a - b for a, b in zip(out["other_clip"], out["own_clip"], strict=True)]
    return {**result, "gain_of_own_clip": interval(gain), "clips": len(clips)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "pairs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", help="folder of weights; default: those that ship")
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs" / "tokenizer.json")
    args = parser.parse_args()
    hero = hero_core.load(args.model, "cpu", "float32")
    files = json.loads(args.config.read_text(encoding="utf-8"))["data"]["files"]

    by_file: dict[str, Any] = {}
    every: list[Tensor] = []
    for file in files:
        held_out = [motions.features(j) for _, split, j in motions.sequences(args.data / file) if split == "test"]
        if held_out:
            error, each = tokenizer.reconstruction_error(hero.rvq, held_out, hero.mean, hero.std)
            by_file[file] = {"mpjpe_cm": error * 100, "sequences": len(each), "worst_cm": max(each) * 100}
            every += held_out
    error, each = tokenizer.reconstruction_error(hero.rvq, every, hero.mean, hero.std)
    half_width = interval(each)[1]
    report: dict[str, Any] = {
        "tokenizer": {"mpjpe_cm": error * 100, "sequences": len(each), "ci95_cm": half_width * 100, "files": by_file}
    }

    data = pairs.load(args.pairs)
    report["video"] = video_worth(hero, data)
    generated, real, spread = [], [], []
    for clip in data.clips("test").tolist()[:40]:
        local = data.local[clip, 0].float()
        motion = hero.react(VideoFeatures(local, local.mean(0)), takes=2, length=96, seed=clip)
        joints = torch.from_numpy(motion.joints)
        generated += [body(take) for take in joints]
        spread.append(float((joints[0] - joints[1]).norm(dim=-1).mean()))
        row = int((data.clip == clip).nonzero()[0, 0])
        ids = data.ids[row]
        truth = hero.to_motion(ids[None, : int((ids[:, 0] >= 0).sum())])
        real.append(body(torch.from_numpy(truth.take(0))))
    report["generated"] = {**average(generated), "takes_apart_m": float(np.mean(spread)), "takes": len(generated)}
    report["reconstructed_truth"] = average(real)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
