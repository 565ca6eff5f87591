# SPDX-License-Identifier: GPL-3.0-or-later
"""Faces that listen:

python -m hero_core.face react CLIP --out face.npz [--speaker CURVES] [--model FOLDER]
python -m hero_core.face train --data FOLDER --out FOLDER [--config FILE]
python -m hero_core.face evaluate --data FOLDER [--model FOLDER] [--rules] [--split test] [--out report.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hero_core.errors import HeroError, exit_code
from hero_core.output import check_output, whole_file

from . import curves, features, listener, metrics, sound
from .baselines import BASELINES
from .reaction import Array, FaceReaction

if TYPE_CHECKING:
    from .data import Clips, Split
    from .reactdiff import ReactDiff


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m hero_core.face", description="The face of a listener.")
    commands = root.add_subparsers(dest="command", required=True)
    react = commands.add_parser("react", help="make the faces of listeners to a clip's sound and a speaker's face")
    react.add_argument("clip", type=Path, nargs="?", help="movie or sound file; may be left out with --speaker")
    react.add_argument("--out", type=Path, required=True, help="face.npz")
    react.add_argument("--speaker", type=Path, help="face curves: Live Link, MediaPipe or OpenFace CSV, ARKit JSON")
    react.add_argument("--model", type=Path, help="folder of ReactDiff weights; default: rules, which are not learned")
    react.add_argument("--takes", type=int, default=1)
    react.add_argument("--seed", type=int, default=0)
    react.add_argument("--online", action="store_true", help="each frame knows only what came before (with --model)")
    react.add_argument("--strict-official", action="store_true", help="with the official slips (with --model)")
    react.add_argument("--device", default="auto")
    for field in dataclasses.fields(listener.Options):
        react.add_argument(f"--{field.name}", type=float, help=f"of the rules, default {field.default}")
    train = commands.add_parser("train", help="train ReactDiff on dyads in the layout of REACT 2023/24 or MARS")
    train.add_argument("--data", type=Path, required=True)
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--config", type=Path, help="JSON with model, data, behaviour, diffusion; default: small")
    evaluate = commands.add_parser("evaluate", help="the REACT metrics of a model and of the trivial listeners")
    evaluate.add_argument("--data", type=Path, required=True)
    evaluate.add_argument("--split", default="test")
    evaluate.add_argument("--model", type=Path, help="folder of ReactDiff weights")
    evaluate.add_argument("--rules", action="store_true", help="also the rule-based listener")
    evaluate.add_argument("--takes", type=int, default=10, help="K")
    evaluate.add_argument("--frames", type=int, default=750)
    evaluate.add_argument("--fps", type=float, help="rows per second of the data; default: 25, or 30 of MARS")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--online", action="store_true")
    evaluate.add_argument("--strict-official", action="store_true")
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument("--out", type=Path, help="report.json")
    return root


def show(done: int, total: int) -> bool:
    print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    return True


def react(args: argparse.Namespace) -> None:
    check_output(args.out, ".npz")
    if args.clip is None and args.speaker is None:
        raise HeroError("Give a clip with sound, or --speaker with face curves.")
    chosen = {
        f.name: value for f in dataclasses.fields(listener.Options) if (value := getattr(args, f.name)) is not None
    }
    if args.model is not None and chosen:
        raise HeroError(f"{', '.join(f'--{name}' for name in chosen)} are of the rules; leave them out with --model.")
    if args.model is None and (args.online or args.strict_official):
        raise HeroError("--online and --strict-official are for --model; the rules never look ahead.")
    options = listener.Options(**chosen)
    heard = None if args.clip is None else sound.read(args.clip)
    track = None if args.speaker is None else curves.read(args.speaker)
    for note in track.notes if track is not None else ():
        print(f"note: {args.speaker.name}: {note}", file=sys.stderr)
    face: FaceReaction
    if args.model is None:
        face = listener.listen(heard, track, args.takes, args.seed, options)
    else:
        model = _load(args)
        frames = heard.frames if heard is not None else None
        known = features.curves(heard, track, frames)
        face = model.react(known, args.takes, args.seed, args.online, args.strict_official, show)
    for note in face.notes:
        print(f"note: {note}", file=sys.stderr)
    face.save(args.out)
    print(f"{args.out}: {face.takes} take(s) of {face.frames} frames by the {face.source}")


def _load(args: argparse.Namespace) -> ReactDiff:
    from . import checkpoint

    model = checkpoint.load(args.model, args.device, args.strict_official)
    if model.cfg.features != "curves":
        raise HeroError(
            f"'{args.model}' needs features of the official networks, which are not given out; call "
            "hero_core.face.checkpoint.load(...).react(features) from Python with features of your own."
        )
    return model


def generated(model: ReactDiff, clips: Clips, k: int, args: argparse.Namespace) -> Array:
    """(N, K, T, 25)"""
    import torch

    from .reactdiff import Features

    rows = []
    for n, (video, audio) in enumerate(zip(clips.video[0], clips.audio[0], strict=True)):
        speaker = Features(torch.from_numpy(video), torch.from_numpy(audio))
        rows.append(model.react(speaker, k, args.seed + n, args.online, args.strict_official).attributes)
        show(n + 1, len(clips.speakers))
    return np.stack(rows)


def by_rules(split: Split, frames: int, k: int, seed: int) -> Array:
    rows = []
    for n, dyad in enumerate(split.dyads):
        heard = None if dyad.speaker.audio is None else sound.read(dyad.speaker.audio)
        rows.append(listener.listen(heard, dyad.speaker.track(split.fps), k, seed + n, frames=frames).attributes)
        show(n + 1, len(split.dyads))
    return np.stack(rows)


def evaluate(args: argparse.Namespace) -> None:
    from . import data

    if args.out is not None:
        check_output(args.out, ".json")
    model = None if args.model is None else _load(args)
    split = data.read(args.data, args.split, args.fps)
    print(f"reading {len(split.dyads)} dyads", file=sys.stderr, flush=True)
    clips = data.load(split, args.frames, show)
    train = clips.listeners
    if args.split != "train":
        others = data.read(args.data, "train", args.fps)
        people = [dyad.listener.track(others.fps).fitted(args.frames) for dyad in others.dyads]
        train = np.stack([track.attributes for track in people])
    sets = split.sets(args.seed)
    # Rows are made one after the other: all of them together may not fit into memory.
    rows: dict[str, Any] = {
        name: lambda make=make: make(clips.speakers, clips.listeners, train, args.takes, args.seed)
        for name, make in BASELINES.items()
    }
    if args.rules:
        rows["rule-based listener (not learned)"] = lambda: by_rules(split, args.frames, args.takes, args.seed)
    if model is not None:
        rows[model.cfg.name] = lambda: generated(model, clips, args.takes, args)
    results = {}
    for name, make in rows.items():
        print(f"== {name}", flush=True)
        report = metrics.report(make(), clips.listeners, clips.speakers, sets, show)
        results[name] = dataclasses.asdict(report)
        print("\n".join(report.lines()), flush=True)
    if args.out is not None:
        about = {
            "what": "REACT metrics; frcorr and frdist are sums over the K predictions, as the official programs print",
            "split": args.split, "layout": split.layout, "seed": args.seed, "frames": args.frames, "rows": results,
        }  # fmt: skip
        with whole_file(args.out) as part:
            part.write_text(json.dumps(about, indent=1), encoding="utf-8")


def train(args: argparse.Namespace) -> int:
    from hero_core.train import loop

    from .train import train

    try:
        print(f"{train(args.data, args.out, args.config)}: trained")
    except loop.Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    commands: dict[str, Callable[[argparse.Namespace], int | None]] = {
        "react": react, "evaluate": evaluate, "train": train,
    }  # fmt: skip
    return exit_code(lambda: commands[args.command](args))


if __name__ == "__main__":
    sys.exit(main())
