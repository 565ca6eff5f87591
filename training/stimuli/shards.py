# SPDX-License-Identifier: GPL-3.0-or-later
"""Shards of rendered clips: which are missing, and how they are written so that a stop at any time does no harm."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARD = 50  # clips in a shard


def split_of(clip: int) -> str:
    """The split of a clip by its number: 85 % train, 5 % val, 10 % test in any stretch of 20."""
    return "test" if clip % 10 == 9 else "val" if clip % 20 == 8 else "train"


def atomic(path: Path, save: Callable[[Path], object]) -> None:
    """Let ``save`` write a file that appears under its name only when it is whole."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_shard(folder: Path, number: int, clips: Iterable[tuple[NDArray[np.uint8], dict[str, Any]]]) -> None:
    """Write one shard, its records, and the index of all shards so far; each file whole or not at all."""
    frames, records = zip(*clips, strict=True)
    name = f"shard_{number:04d}"
    for row, record in enumerate(records):
        record |= {"shard": f"{name}.npz", "row": row}
    ids = np.array([record["id"] for record in records])

    def save(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, frames=np.stack(frames), ids=ids)

    atomic(folder / f"{name}.npz", save)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    atomic(folder / f"{name}.jsonl", lambda path: path.write_text(lines))
    write_index(folder)


def write_arrays(folder: Path, name: str, array: NDArray[Any], rest: dict[str, Any]) -> None:
    """``NAME.npy``, and after it ``NAME.npz``: a reader that sees the second finds the first whole."""
    atomic(folder / f"{name}.npy", lambda path: np.save(path, array))
    atomic(folder / f"{name}.npz", lambda path: np.savez(path, **rest))


def write_index(folder: Path) -> None:
    """``index.jsonl`` = the records of all finished shards."""
    lines = "".join(path.read_text() for path in sorted(folder.glob("shard_*.jsonl")))
    atomic(folder / "index.jsonl", lambda path: path.write_text(lines))


def missing_shards(folder: Path, clips: int, shard: int = SHARD) -> list[range]:
    """Clip numbers of each shard that is not finished yet."""
    ranges = [range(start, min(start + shard, clips)) for start in range(0, clips, shard)]
    done = {path.stem for path in folder.glob("shard_*.jsonl")}
    return [r for r in ranges if f"shard_{r.start // shard:04d}" not in done]
