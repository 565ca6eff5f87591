# SPDX-License-Identifier: GPL-3.0-or-later
"""The trivial listeners of the REACT challenge, without which no number of a metric says anything.

What they score is known beforehand: Random has FRDiv = FRDvs = 1/6 and FRVar = 1/12; Mime, MeanSeq, MeanFr and GT have
FRDiv 0; MeanSeq and MeanFr FRDvs 0; MeanFr also FRVar 0 and, as nothing of it moves, FRSyn 49; GT has FRDist 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .reaction import Array


def random(speakers: Array, listeners: Array, train: Array, k: int = 10, seed: int = 0) -> Array:
    """Uniform in 0 .. 1, each number by itself."""
    n, frames, width = listeners.shape
    return np.random.default_rng(seed).random((n, k, frames, width), np.float32)


def mime(speakers: Array, listeners: Array, train: Array, k: int = 10, seed: int = 0) -> Array:
    """What the speaker does."""
    return np.repeat(np.asarray(speakers)[:, None], k, 1)


def mean_sequence(speakers: Array, listeners: Array, train: Array, k: int = 10, seed: int = 0) -> Array:
    """The mean listener of training, frame by frame, whoever speaks."""
    n, frames, _ = listeners.shape
    mean = np.asarray(train, np.float64).mean(0).astype(np.float32)[:frames]
    return np.broadcast_to(mean, (n, k, *mean.shape)).copy()


def mean_frame(speakers: Array, listeners: Array, train: Array, k: int = 10, seed: int = 0) -> Array:
    """The mean face of training, standing still."""
    n, frames, width = listeners.shape
    mean = np.asarray(train, np.float64).mean((0, 1)).astype(np.float32)
    return np.broadcast_to(mean, (n, k, frames, width)).copy()


def truth(speakers: Array, listeners: Array, train: Array, k: int = 10, seed: int = 0) -> Array:
    """What the listener really did, k times over."""
    return np.repeat(np.asarray(listeners)[:, None], k, 1)


# (speakers (N, T, 25), listeners (N, T, 25), train (M, T, 25), k, seed) -> (N, k, T, 25)
BASELINES: dict[str, Callable[..., Array]] = {
    "Random": random,
    "Mime": mime,
    "MeanSeq": mean_sequence,
    "MeanFr": mean_frame,
    "GT": truth,
}
