# SPDX-License-Identifier: GPL-3.0-or-later
"""Shares, their intervals and their chance levels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_core.errors import HeroError
from hero_core.evaluate import plausibility


def test_wilson_against_published_values() -> None:
    """8 of 10: 0.490 to 0.943; 0 of 10: 0 to 0.278 (Brown, Cai, DasGupta 2001 give the formula)."""
    np.testing.assert_allclose(plausibility.wilson(8, 10), (0.4902, 0.9433), atol=1e-4)
    np.testing.assert_allclose(plausibility.wilson(0, 10), (0, 0.2775), atol=1e-4)
    with pytest.raises(HeroError):
        plausibility.wilson(0, 0)


@given(st.integers(0, 2**31), st.integers(2, 12))
@settings(max_examples=10)
def test_answers_without_regard_to_the_video_are_at_chance(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    video = rng.integers(classes, size=200)
    said = rng.integers(classes, size=(5, 200))
    rate = plausibility.same_class(said, video, classes)
    assert rate.uniform == pytest.approx(1 / classes)
    # What is expected beside another video is what comes out, and is counted exactly.
    assert abs(rate.value - rate.other_video) < 0.12
    every = np.mean([(said == v).mean() for v in video])
    assert rate.other_video == pytest.approx(every)
    assert rate.low <= rate.value <= rate.high


def test_frequent_classes_are_easier_by_chance() -> None:
    video = np.array([0] * 80 + [1] * 20)
    said = video[None].copy()
    rate = plausibility.same_class(said, video, 4)
    assert rate.value == 1 and rate.uniform == 0.25
    assert rate.frequencies == pytest.approx(0.8**2 + 0.2**2)
    always_the_first = plausibility.same_class(np.zeros((1, 100), np.int64), video, 4)
    assert always_the_first.value == always_the_first.other_video == pytest.approx(0.8)


def test_groups_forgive_what_classes_do_not() -> None:
    video, said = np.array([0, 1, 2, 3]), np.array([[1, 0, 3, 0]])
    groups = np.array([0, 0, 1, 1])
    assert plausibility.same_class(said, video, 4).value == 0
    rate = plausibility.same_group(said, video, groups)
    assert rate.value == 0.75 and rate.uniform == 0.5


def test_kinds_that_fit() -> None:
    fits = np.array([[True, True, False], [False, False, True]])
    video, said = np.array([0, 0, 1, 1]), np.array([[0, 1, 2, 0]])
    rate = plausibility.judge(said, video, fits)
    assert rate.value == 0.75
    assert rate.uniform == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert rate.other_video == pytest.approx(0.5 * 3 / 4 + 0.5 * 1 / 4)
    assert rate.frequencies == pytest.approx(0.5)


def test_takes_of_a_clip_are_not_counted_as_independent() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random((1, 50)) < 0.5
    once = plausibility.share(hits)
    again = plausibility.share(hits.repeat(20, axis=0))
    assert once[0] == again[0]
    assert again[2] - again[1] == pytest.approx(once[2] - once[1], rel=0.15)


def test_answers_must_belong_to_the_videos() -> None:
    with pytest.raises(HeroError, match="3 videos"):
        plausibility.same_class(np.zeros((2, 4), np.int64), np.zeros(3, np.int64), 2)
