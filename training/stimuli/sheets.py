# SPDX-License-Identifier: GPL-3.0-or-later
"""A contact sheet for each class of rendered clips: a clip in each row, every third of its pictures.

python -m training.stimuli.sheets --clips build/stimuli --out build/stimuli/sheets
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hero_core.picture import shrink, write_image


def sheet(rows: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Clips (16, H, W, 3) as rows of pictures half as large."""
    return np.concatenate([np.concatenate([shrink(picture, 2) for picture in clip[::3]], 1) for clip in rows])


def collect(clips: Path, rows: int, split: str | None) -> dict[str, list[NDArray[np.uint8]]]:
    """The first clips of each class, read shard by shard."""
    chosen: dict[str, list[NDArray[np.uint8]]] = {}
    for lines in sorted(clips.glob("shard_*.jsonl")):
        records: list[dict[str, Any]] = [json.loads(line) for line in lines.read_text().splitlines()]
        with np.load(lines.with_suffix(".npz")) as shard:
            frames = shard["frames"]
        for record in records:
            of_class = chosen.setdefault(record["cls"], [])
            if len(of_class) < rows and split in (None, record["split"]):
                of_class.append(frames[record["row"]].copy())
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--split", choices=("train", "val", "test"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for cls, rows in sorted(collect(args.clips, args.rows, args.split).items()):
        if rows:
            write_image(args.out / f"{cls}.png", sheet(rows))


if __name__ == "__main__":
    main()
