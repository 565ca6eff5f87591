# SPDX-License-Identifier: GPL-3.0-or-later
"""FID, Diversity and MultiModality as Guo et al. 2022 (text-to-motion) define them and the paper uses them (section 5).

All take embeddings of a feature extractor as float arrays and draw from the generator that they are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hero_core.errors import HeroError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
REPEATS = 20
DRAWS = 300


def statistics(x: Floats) -> tuple[Floats, Floats]:
    """(M, D) embeddings -> mean (D,) and covariance (D, D), divided by M - 1."""
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise HeroError(f"FID needs at least 2 embeddings of shape (M, D), not {x.shape}; evaluate more clips.")
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))


def frechet_distance(mean1: Floats, cov1: Floats, mean2: Floats, cov2: Floats) -> float:
    """|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)), Heusel et al. 2017.

    The official programs take scipy's ``sqrtm(C1 @ C2)``, add 1e-6 to the diagonals where that is not finite, and
    drop the imaginary part. Only its trace is wanted: the sum of the roots of the eigenvalues, which are those of the
    symmetric R C2 R with R R = C1. That is the same number, and exact where sqrtm gets lost in singular covariances
    (fewer motions than dimensions).
    """
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    product = root @ cov2 @ root
    shared = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0.0)).sum()
    difference = mean1 - mean2
    return float(difference @ difference + np.trace(cov1) + np.trace(cov2) - 2 * shared)


def fid(real: Floats, generated: Floats) -> float:
    """Frechet distance of two sets of embeddings, (M, D) and (K, D)."""
    return frechet_distance(*statistics(real), *statistics(generated))


def diversity_draws(count: int, official: bool = False) -> int:
    """How many pairs Diversity draws among ``count`` motions.

    ``official``: 300, or 13 where there are not more than 300 (as the HERO release has it). Ours: 300, or as many as
    there are: 13 pairs of a small test set say little.
    """
    if official:
        return DRAWS if count > DRAWS else min(13, count)
    return min(DRAWS, count)


def pair_distance(x: Floats, first: Ints, second: Ints) -> float:
    """Mean distance of x[..., first, :] and x[..., second, :]."""
    x = np.asarray(x, np.float64)
    return float(np.linalg.norm(x[..., first, :] - x[..., second, :], axis=-1).mean())


def diversity(x: Floats, rng: np.random.Generator, draws: int | None = None) -> float:
    """Mean distance of two independent draws without replacement from (M, D)."""
    count = diversity_draws(len(x)) if draws is None else draws
    if not 0 < count <= len(x):
        raise HeroError(f"Diversity cannot draw {count} of {len(x)} motions; evaluate more clips.")
    return pair_distance(x, *(rng.choice(len(x), count, replace=False) for _ in range(2)))


def multimodality(x: Floats, rng: np.random.Generator | None = None, draws: int = 10) -> float:
    """How far takes of one video lie apart, (videos, takes, D); mean over videos.

    With ``rng`` as the official programs do: two independent draws of take numbers, the same for all videos. The draws
    may coincide, which counts as no distance, so 30 or more takes are needed. Without: all pairs of different takes.
    """
    takes = x.shape[1]
    if x.ndim != 3 or takes < 2:
        raise HeroError(f"MultiModality needs (videos, at least 2 takes, D), not {x.shape}.")
    if rng is None:
        return pair_distance(x, *np.triu_indices(takes, 1))
    if draws > takes:
        raise HeroError(f"MultiModality cannot draw {draws} of {takes} takes; generate more takes.")
    return pair_distance(x, *(rng.choice(takes, draws, replace=False) for _ in range(2)))


def interval(values: Sequence[float] | Floats) -> tuple[float, float]:
    """Mean and half the width of the 95 % interval over repeats: 1.96 std / sqrt(repeats), std with ddof 0."""
    v = np.asarray(values, np.float64)
    return float(v.mean()), float(1.96 * v.std() / np.sqrt(len(v)))
