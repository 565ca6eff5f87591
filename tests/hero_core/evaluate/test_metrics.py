# SPDX-License-Identifier: GPL-3.0-or-later
"""FID, Diversity, MultiModality against the official numbers and against what must hold for any numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official import arrays

from hero_core.errors import HeroError
from hero_core.evaluate import metrics


def test_official_numbers() -> None:
    g = {key: value.numpy() for key, value in arrays("metrics").items()}
    mean, cov = metrics.statistics(g["in.real"])
    np.testing.assert_allclose(mean, g["out.mu_real"], rtol=1e-10)
    np.testing.assert_allclose(cov, g["out.cov_real"], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(metrics.fid(g["in.real"], g["in.gen"]), g["out.fid"], rtol=1e-9)
    assert abs(metrics.fid(g["in.real"], g["in.real"])) < 1e-6
    few = metrics.fid(g["in.real"][:20], g["in.gen"][:20])
    np.testing.assert_allclose(few, g["out.fid_rank_deficient_first20"], rtol=1e-6)
    first, second = g["in.div_first"], g["in.div_second"]
    np.testing.assert_allclose(metrics.pair_distance(g["in.real"], first, second), g["out.diversity_300"], rtol=1e-10)
    first, second = g["in.mm_first"], g["in.mm_second"]
    many = metrics.pair_distance(g["in.mm"], first, second)
    np.testing.assert_allclose(many, g["out.multimodality_10"], rtol=1e-10)
    mean_of, half = metrics.interval(g["in.reps20"])
    np.testing.assert_allclose([mean_of, half], [g["out.mean"], g["out.conf"]], rtol=1e-10)


def test_fid_is_what_scipy_says() -> None:
    scipy_linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(90, 8)), rng.normal(size=(70, 8)) @ rng.normal(size=(8, 8)) + 1
    (m1, c1), (m2, c2) = metrics.statistics(a), metrics.statistics(b)
    official = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy_linalg.sqrtm(c1 @ c2).real)
    np.testing.assert_allclose(metrics.fid(a, b), official, rtol=1e-9)


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(3, 40))
@settings(max_examples=10)
def test_fid_of_a_set_with_itself_shifted_and_shuffled(seed: int, width: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    x, shift = rng.normal(size=(count, width)), rng.normal(size=width)
    assert abs(metrics.fid(x, x)) < 1e-6
    np.testing.assert_allclose(metrics.fid(x, x + shift), shift @ shift, atol=1e-6)
    y = rng.normal(size=(count + 3, width))
    np.testing.assert_allclose(metrics.fid(x, y), metrics.fid(y, x), atol=1e-6)
    np.testing.assert_allclose(metrics.fid(x, y), metrics.fid(rng.permutation(x), rng.permutation(y)), atol=1e-6)
    assert metrics.fid(x, y) > -1e-6


@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_diversity_is_a_mean_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 5))
    assert metrics.diversity(np.zeros((7, 5)), rng) == 0
    every = np.linalg.norm(x[:, None] - x[None], axis=-1).mean()  # pairs may coincide, as in the draws
    many = np.mean([metrics.diversity(x, rng) for _ in range(60)])
    assert abs(many - every) < 0.1 * every
    np.testing.assert_allclose(metrics.diversity(3 * x, np.random.default_rng(1)),
                               3 * metrics.diversity(x, np.random.default_rng(1)))  # fmt: skip


def test_how_many_pairs_are_drawn() -> None:
    assert [metrics.diversity_draws(n) for n in (5, 300, 301)] == [5, 300, 300]
    assert [metrics.diversity_draws(n, official=True) for n in (5, 300, 301)] == [5, 13, 300]


def test_multimodality_of_two_points() -> None:
    takes = np.zeros((4, 2, 3))
    takes[:, 1, 0] = 2.0
    assert metrics.multimodality(takes) == 2.0
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 30, 4))
    drawn = np.mean([metrics.multimodality(x, rng) for _ in range(300)])
    # 1 of 30 draws falls on itself.
    np.testing.assert_allclose(drawn, metrics.multimodality(x) * 29 / 30, rtol=0.02)


def test_too_little_is_said() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(HeroError, match="at least 2"):
        metrics.fid(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(HeroError, match="cannot draw 9 of 5"):
        metrics.diversity(np.zeros((5, 3)), rng, 9)
    with pytest.raises(HeroError, match="takes"):
        metrics.multimodality(np.zeros((5, 1, 3)))
    with pytest.raises(HeroError, match="cannot draw 10 of 4"):
        metrics.multimodality(np.zeros((5, 4, 3)), rng)
