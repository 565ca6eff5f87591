# SPDX-License-Identifier: GPL-3.0-or-later
"""What the table of ``hero_core.evaluate`` does not say: the tokenizer, the worth of the video, real videos, speed.

    python -m training.measure --data DATA --pairs build/pairs/pairs.safetensors --classifier build/runs/classifier \
        --videos FOLDER --out build/runs/report.json

* ``tokenizer``: error of held-out motion after coding and decoding.
* ``video``: cross-entropy of true held-out base tokens given their own clip and given a clip of another class.
* ``videos``: any video files; for each, eight takes: how far the pelvis ends from where it stood, how low it comes, how
  fast the body moves, and what kind of reaction the classifier takes each for.
* ``speed``: seconds of the first take of a video, of each further one, and the process's largest memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hero_core
from hero_core import video
from hero_core.evaluate import evaluator
from hero_core.evaluate.physical import measure
from hero_core.hero import Hero
from hero_core.train import motions, pairs, tokenizer

TAKES = 8


def interval(values: list[float]) -> list[float]:
    """Mean and half the width of its 95 % interval."""
    return [float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / len(values) ** 0.5)]


def tokenizer_error(hero: Hero, data: Path, files: list[str]) -> dict[str, Any]:
    """MPJPE of held-out sequences, root-aligned, cut to 200 frames."""
    by_file: dict[str, Any] = {}
    every: list[Tensor] = []
    for file in files:
        held_out = [motions.features(j) for _, split, j in motions.sequences(data / file) if split == "test"]
        if held_out:
            error, each = tokenizer.reconstruction_error(hero.rvq, held_out, hero.mean, hero.std)
            by_file[file] = {"mpjpe_cm": error * 100, "sequences": len(each), "worst_cm": max(each) * 100}
            every += held_out
    error, each = tokenizer.reconstruction_error(hero.rvq, every, hero.mean, hero.std)
    half = interval(each)[1] * 100
    return {"mpjpe_cm": error * 100, "sequences": len(each), "ci95_cm": half, "files": by_file}


def video_worth(hero: Hero, data: pairs.Pairs, clip_class: list[int], rounds: int = 8) -> dict[str, Any]:
    """Cross-entropy of true held-out base tokens, given their clip or a clip of another class; nats."""
    clips = data.clips("test")
    cls = torch.tensor(clip_class)[clips]
    gains, own = [], []
    with torch.inference_mode():
        for seed in range(rounds):
            generator = torch.Generator().manual_seed(seed)
            local, _, ids, lengths = data.batch(clips, generator, crop=False)
            other = torch.randperm(len(clips), generator=generator)
            for i in range(len(clips)):  # of another class
                while cls[other[i]] == cls[i]:
                    other[i] = torch.randint(len(clips), (), generator=generator)
            losses = []
            for look in (local, local[other]):
                same = torch.Generator().manual_seed(seed)
                loss, _ = hero.masked.loss(ids[..., 0], look, look.mean(1), lengths, same)
                losses.append(float(loss))
            own.append(losses[0])
            gains.append(losses[1] - losses[0])
    return {"own_clip": interval(own), "gain_over_other_class": interval(gains), "clips": len(clips)}


def watch(hero: Hero, path: Path, judge: evaluator.FeatureExtractor | None, length: int) -> dict[str, Any]:
    """Eight takes of one video."""
    features = hero.encode(video.read_video(path).frames)
    motion = hero.react(features, takes=TAKES, length=length, seed=0)
    numbers = [measure(torch.from_numpy(take)) for take in motion.joints]
    moved, lowest = [n["pelvis_moved_m"] for n in numbers], [n["pelvis_lowest_m"] for n in numbers]
    out: dict[str, Any] = {
        "pelvis_moved_m": [round(v, 2) for v in moved],
        "pelvis_lowest_m": [round(v, 2) for v in lowest],
        "speed": round(float(np.mean([n["speed"] for n in numbers])), 3),
        "gives_way": sum(m >= 0.5 or low < 0.55 for m, low in zip(moved, lowest, strict=True)),
    }
    if judge is not None:
        rows = [torch.from_numpy(f) for f in motion.features]
        kinds, classes = judge.classify(judge.embed(rows))
        out["kinds"] = dict(Counter(judge.reactions[int(i)] for i in kinds).most_common())
        out["as_if_class"] = dict(Counter(judge.stimuli[int(i)] for i in classes).most_common())
    return out


def speed(hero: Hero, path: Path) -> dict[str, float]:
    """From the file on disk to joints, and one more take."""
    started = time.perf_counter()
    features = hero.encode(video.read_video(path).frames)
    hero.react(features, takes=1, length=96)
    first = time.perf_counter() - started
    further = []
    for seed in range(1, 6):
        started = time.perf_counter()
        hero.react(features, takes=1, length=96, seed=seed)
        further.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"first_take_s": first, "further_take_s": float(np.median(further)), "peak_memory_gb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of weights; default: those that ship")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--length", type=int, default=96)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs" / "tokenizer.json")
    args = parser.parse_args()
    hero = hero_core.load(args.model, "cpu", "float32")
    report: dict[str, Any] = {}
    movies = []
    if args.videos is not None:
        movies = sorted(p for p in args.videos.iterdir() if p.suffix in (".mp4", ".mkv", ".avi", ".mov"))
        report["speed"] = speed(hero, movies[0])  # first, before other work takes memory
    if args.data is not None:
        files = json.loads(args.config.read_text(encoding="utf-8"))["data"]["files"]
        report["tokenizer"] = tokenizer_error(hero, args.data, files)
    if args.pairs is not None:
        clip_class = json.loads(args.pairs.with_suffix(".json").read_text(encoding="utf-8"))["clip_class"]
        report["video"] = video_worth(hero, pairs.load(args.pairs), clip_class)
    judge = None if args.classifier is None else evaluator.load(args.classifier)
    report["videos"] = {path.name: watch(hero, path, judge, args.length) for path in movies}
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
