# SPDX-License-Identifier: GPL-3.0-or-later
"""The model card's figure: for each class a held-out clip and what the model does.

    python -m training.figure --stimuli build/stimuli --data DATA --model hero_core/weights --out docs/reactions.jpg

Left, four frames of a clip of the test split (of the validation split where the test split has none); right, one take
as a stick figure at six moments, seen from a little to its side, with the path of its hips on the floor. Blue
is the figure's left. The first clip of each class is taken, and the take with seed 0: nothing is chosen by its looks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import hero_core
from hero_core.humanml3d import PARENTS
from training.stimuli.dataset import Stimuli

CELL = 112
FRAMES, POSES = 4, 6
LEFT = {1, 4, 7, 10, 13, 16, 18, 20}


def stick(draw: ImageDraw.ImageDraw, joints: NDArray[Any], path: NDArray[Any], corner: tuple[int, int]) -> None:
    """One pose (22, 3) in a cell, seen from 35 degrees to the side; path (N, 3) of the hips on the floor."""
    turn = np.radians(35)
    across = np.array([np.cos(turn), 0, -np.sin(turn)])
    into = np.array([np.sin(turn), 0, np.cos(turn)])

    def place(p: NDArray[Any]) -> tuple[float, float]:
        scale = CELL / 2.6
        x = corner[0] + CELL / 2 + float(p @ across) * scale
        y = corner[1] + CELL * 0.86 - (p[1] + 0.22 * float(p @ into)) * scale
        return x, y

    floor = path * (1, 0, 1)
    draw.line([place(p) for p in floor], fill=(200, 200, 200), width=2)
    for j in range(1, 22):
        colour = (40, 90, 200) if j in LEFT else (200, 70, 40) if j in {2, 5, 8, 11, 14, 17, 19, 21} else (60, 60, 60)
        draw.line([place(joints[PARENTS[j]]), place(joints[j])], fill=colour, width=3)
    x, y = place(joints[15] + (0, 0.1, 0))
    draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=(60, 60, 60))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stimuli", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    hero = hero_core.load(args.model, "cpu", "float32")
    stimuli = Stimuli(args.stimuli, args.data)
    first: dict[str, dict[str, Any]] = {}
    for split in ("test", "val", "train"):
        for clip in stimuli.clips(split=split):
            first.setdefault(clip["cls"], clip)
    width = CELL * (FRAMES + POSES) + 8
    picture = Image.new("RGB", (width, (CELL + 16) * len(first)), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(sorted(first)):
        clip, top = first[name], row * (CELL + 16)
        frames = stimuli.frames(clip)
        draw.text((4, top + 2), f"{name.replace('_', ' ')} ({clip['split']})", fill=(0, 0, 0))
        for i, f in enumerate(np.linspace(1, len(frames) - 1, FRAMES).astype(int)):
            picture.paste(Image.fromarray(frames[f]).resize((CELL, CELL)), (i * CELL, top + 14))
        joints = hero.react(frames, takes=1, length=96, seed=0).joints[0]
        for i, f in enumerate(np.linspace(0, len(joints) - 1, POSES).astype(int)):
            shown = joints[f] - joints[0, 0] * (1, 0, 1)
            stick(draw, shown, joints[:, 0] - joints[0, 0], (CELL * (FRAMES + i) + 8, top + 14))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.out, quality=85)
    print(args.out)


if __name__ == "__main__":
    main()
