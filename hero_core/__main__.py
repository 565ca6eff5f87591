# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m hero_core react VIDEO --out motion.npz`` and ``python -m hero_core convert FOLDER OUT``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .errors import HeroError, exit_code
from .output import check_output


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m hero_core", description="Human reactions to videos.")
    commands = root.add_subparsers(dest="command", required=True)
    react = commands.add_parser("react", help="generate reactions to a video file")
    react.add_argument("video", type=Path)
    react.add_argument("--out", type=Path, required=True, help="motion.npz")
    react.add_argument("--takes", type=int, default=1)
    length = react.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, help="length of the reaction")
    length.add_argument(
        "--length",
        choices=["clip", "model"],
        help="that of the video, or what the model finds right for each take; default: the latter where it can tell",
    )
    react.add_argument("--seed", type=int, default=0)
    react.add_argument("--model", help="folder of weights; default: those that ship")
    react.add_argument("--device", default="auto")
    react.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    convert = commands.add_parser("convert", help="write a checkpoint as safetensors + config.json")
    convert.add_argument("folder", type=Path)
    convert.add_argument("out", type=Path)
    convert.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    return root


def react(args: argparse.Namespace) -> None:
    from . import load, video

    check_output(args.out, ".npz")  # before the long work
    clip = video.read_video(args.video)
    hero = load(args.model, args.device, args.dtype)
    length: int | None = None
    if args.seconds is not None:
        length = round(args.seconds * 20)
    elif args.length == "model" and hero.length_head is None:
        raise HeroError("This model does not choose lengths; take --length clip, or say how many --seconds.")
    elif args.length == "clip" or hero.length_head is None:
        length = hero.length_for(clip.duration)

    def show(done: int, total: int) -> bool:
        print(f"\r{done}/{total}", end="", file=sys.stderr, flush=True)
        return True

    motion = hero.react(clip.frames, args.takes, length, args.seed, show)
    print(file=sys.stderr)
    motion.save(args.out)
    frames = ", ".join(str(n) for n in dict.fromkeys(motion.lengths.tolist()))
    print(f"{args.out}: {args.takes} take(s) of {frames} frames")


def convert(args: argparse.Namespace) -> None:
    import torch

    from .checkpoint import convert

    convert(args.folder, args.out, getattr(torch, args.dtype))
    print(f"{args.out}: converted")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return exit_code(lambda: react(args) if args.command == "react" else convert(args))


if __name__ == "__main__":
    sys.exit(main())
