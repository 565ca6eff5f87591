# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a reaction fit its video? A classifier trained on real reactions says to which kind of video a reaction belongs.

Three questions: is it the class of the video, is it at least of its group, and is the kind of reaction one of those
that fit the class. Each answer comes with what chance gives: ``uniform`` (all answers alike), ``frequencies`` (answers
drawn as often as the classes come) and ``other_video`` (these very reactions, each beside a random video of the set).
The last one is what a model that ignores its video gets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hero_core.errors import HeroError

Ints = NDArray[np.int64]
RESAMPLES = 2000


@dataclass(frozen=True)
class Rate:
    """A share of reactions, its 95 % interval, and the shares that chance gives."""

    value: float
    low: float
    high: float
    uniform: float
    frequencies: float
    other_video: float


def wilson(hits: float, count: int) -> tuple[float, float]:
    """95 % interval of a share, Wilson 1927."""
    if count < 1:
        raise HeroError("A share needs at least one reaction.")
    z = 1.96
    p = hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * float(np.sqrt(p * (1 - p) / count + z * z / (4 * count * count)))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(hits: NDArray[np.bool_], seed: int = 0) -> tuple[float, float, float]:
    """Share of hits (repeats, clips) and its 95 % interval.

    Takes of one clip are no independent trials: with several repeats, clips are drawn anew (bootstrap); one repeat has
    the Wilson interval.
    """
    repeats, clips = hits.shape
    if repeats == 1:
        return float(hits.mean()), *wilson(float(hits.sum()), clips)
    each = hits.mean(0)
    drawn = np.random.default_rng(seed).integers(clips, size=(RESAMPLES, clips))
    low, high = np.quantile(each[drawn].mean(1), [0.025, 0.975])
    return float(each.mean()), float(low), float(high)


def judge(
    said: Ints,
    video: Ints,
    fits: NDArray[np.bool_],
    seed: int = 0,
) -> Rate:
    """Share of reactions of which what the classifier said fits the video.

    Args:
        said: (repeats, clips) answers in 0..K-1.
        video: (clips,) classes of the videos in 0..S-1.
        fits: (S, K) which answers are right for which class of video.
    """
    if said.ndim != 2 or said.shape[1] != len(video) or not said.size:
        raise HeroError(f"Answers of shape {said.shape} do not belong to {len(video)} videos.")
    classes, answers = fits.shape
    of_video = np.bincount(video, minlength=classes) / len(video)  # (S,)
    of_answers = np.bincount(said.ravel(), minlength=answers) / said.size  # (K,)
    value, low, high = share(fits[video, said], seed)
    # An answer drawn like the classes come: a random class of video, then any of the answers that fit it.
    weights = fits / np.maximum(fits.sum(1, keepdims=True), 1)
    return Rate(
        value,
        low,
        high,
        uniform=float(of_video @ fits.mean(1)),
        frequencies=float(of_video @ fits @ (of_video @ weights)),
        other_video=float(of_video @ fits @ of_answers),
    )


def same_class(said: Ints, video: Ints, classes: int, seed: int = 0) -> Rate:
    """Is the class that the reaction belongs to (repeats, clips) that of the video?"""
    return judge(said, video, np.eye(classes, dtype=bool), seed)


def same_group(said: Ints, video: Ints, groups: Ints, seed: int = 0) -> Rate:
    """Is it at least of the video's group? groups: (S,) the group of each class."""
    return judge(groups[said], groups[video], np.eye(int(groups.max()) + 1, dtype=bool), seed)
