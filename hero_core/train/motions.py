# SPDX-License-Identifier: GPL-3.0-or-later
"""Motion files for training: npz with ``joints`` (sum of lengths, 22, 3), ``offsets``, ``names``, ``split``.

A file with ``A`` and ``B`` in place of ``joints`` holds two-person recordings; each half is a motion. A file may also
hold ``features`` (sum of rows, 263) and ``feature_offsets``: rows that some motions came with, to be kept as they are.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hero_core import humanml3d
from hero_core.errors import HeroError
from hero_core.motion import Array


def sequences(path: str | os.PathLike[str]) -> Iterator[tuple[str, str, Array]]:
    """Name, split and joints (N, 22, 3) of every sequence of a file; split is "" where the file has none."""
    source = Path(path)
    try:
        data = np.load(source, allow_pickle=False)
    except (OSError, ValueError) as err:
        raise HeroError(f"The motion file '{source}' cannot be read: {err}.") from err
    with data:
        halves = [("", "joints")] if "joints" in data.files else [("#A", "A"), ("#B", "B")]
        offsets = data["offsets"]
        names = data["names"]
        split = data["split"] if "split" in data.files else np.full(len(names), "")
        for suffix, key in halves:
            joints = data[key]
            for i, name in enumerate(names):
                yield f"{name}{suffix}", str(split[i]), joints[offsets[i] : offsets[i + 1]]


def with_features(path: str | os.PathLike[str]) -> Iterator[tuple[str, str, Array, Tensor]]:
    """As ``sequences``, with the rows (n, 263) that the file keeps of a motion, or those that its joints make."""
    source = Path(path)
    found = sequences(source)
    first = next(found, None)
    if first is None:
        return
    with np.load(source, allow_pickle=False) as data:
        kept = data["features"] if "features" in data.files else None
        starts = data["feature_offsets"] if kept is not None else None
    for i, (name, split, joints) in enumerate(itertools.chain([first], found)):
        rows = kept[starts[i] : starts[i + 1]] if kept is not None and starts is not None else np.empty(0)
        yield name, split, joints, torch.from_numpy(rows.astype(np.float32)) if len(rows) else features(joints)


def resample(joints: Array, speed: float) -> Array:
    """The motion at ``speed`` times its pace, (N, 22, 3) -> (about N / speed, 22, 3), linear in time."""
    n = max(2, round((len(joints) - 1) / speed) + 1)
    t = np.linspace(0, len(joints) - 1, n)
    i = np.minimum(t.astype(np.int64), len(joints) - 2)
    w = (t - i)[:, None, None].astype(np.float32)
    out: Array = joints[i] * (1 - w) + joints[i + 1] * w
    return out


def features(joints: Array) -> Tensor:
    """(N, 22, 3) in any frame -> (N - 1, 263) float32 features on the reference skeleton."""
    x = torch.from_numpy(np.ascontiguousarray(joints, np.float32))
    out: Tensor = humanml3d.to_features(x, continuous_heading=True)
    return out
