# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics are the official programs', to their golden numbers, and the trivial listeners score what they must."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hero_core.errors import Cancelled, HeroError
from hero_core.face import metrics
from hero_core.face.baselines import BASELINES
from tests import official

CLOSE = {"rel": 1e-5, "abs": 1e-6}


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, Any], dict[str, Any], Any]:
    """(arrays, results by repository, appropriate sets)"""
    results = official.sidecar("face_metrics")["results"]
    arrays = {key: value.numpy() for key, value in official.arrays("face_metrics").items()}
    return arrays, results, metrics.sets_from_matrix(arrays["neighbour"])


def test_golden_parts(golden: Any) -> None:
    a, _, _ = golden
    ccc = np.stack([metrics.concordances(p, a["gt_listener"]) for p in a["pred"]])
    np.testing.assert_allclose(ccc, a["ccc_nkm"], rtol=1e-5, atol=1e-6)
    for i, (part, _) in enumerate(metrics.PARTS):
        found = [
            [metrics.dtw(np.repeat(p[None], 4, 0), a["gt_listener"][..., part]) for p in ps[..., part]]
            for ps in a["pred"][:2]
        ]
        np.testing.assert_allclose(found, a["dtw_parts_nkm"][:2, ..., i], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics.distances(a["pred"][3], a["gt_listener"]), a["dtw_nkm"][3], rtol=1e-5)
    curves = [metrics.lagged_correlations(p, s) for p, s in zip(a["pred"], a["speaker"], strict=True)]
    np.testing.assert_allclose(curves, a["tlcc_curve"], rtol=1e-5, atol=1e-6)
    found = [metrics.offsets(p, s) for p, s in zip(a["pred"], a["speaker"], strict=True)]
    assert np.array_equal(np.abs(found), np.abs(a["tlcc_offset"]))


def test_golden_numbers(golden: Any) -> None:
    a, results, sets = golden
    r = metrics.report(a["pred"], a["gt_listener"], a["speaker"], sets)
    for name in ("react2023", "react2024", "hunan_tiger", "perfrdiff"):
        wanted = results[name]
        assert r.frcorr == pytest.approx(wanted["FRC"], **CLOSE) == wanted["FRC_mp"]
        assert r.frdist == pytest.approx(wanted["FRD"], **CLOSE)
        assert r.frdvs == pytest.approx(wanted["FRDvs"], **CLOSE)
        assert r.frvar == pytest.approx(wanted["FRVar"], **CLOSE)
        assert r.frdiv == pytest.approx(wanted["FRDiv_s_mse"], **CLOSE)
        assert r.frsyn == pytest.approx(wanted["TLCC_all"], **CLOSE)
        assert r.frsyn_first_only == pytest.approx(wanted["TLCC_mp_first_pred_only"], **CLOSE)
        clean = metrics.frsyn(a["pred"], a["speaker_no_constant"])
        assert clean == pytest.approx(wanted["TLCC_all_no_constant_speaker"], **CLOSE)
    assert r.frcorr_per_prediction == pytest.approx(r.frcorr / 10) and r.frdist_per_prediction == r.frdist / 10
    assert "0.6511 per prediction" in r.lines()[1] and "not FRRea" in r.lines()[-1]


def test_golden_numbers_of_reactface(golden: Any) -> None:
    a, results, sets = golden
    wanted = results["reactface"]
    assert metrics.frcorr(a["pred"], a["gt_listener"], sets, epsilon=1e-50) == pytest.approx(wanted["FRC"], **CLOSE)
    assert metrics.frdist(a["pred"], a["gt_listener"], sets, weighted=False) == pytest.approx(wanted["FRD"], **CLOSE)
    assert metrics.frsyn(a["pred"], a["speaker_no_constant"]) == pytest.approx(wanted["FRSyn"], **CLOSE)
    first = metrics.frsyn(a["pred"], a["speaker_no_constant"], first_only=True)
    assert first == pytest.approx(wanted["FRSyn_mp"], **CLOSE)
    near = metrics.attribute_frechet(a["frechet_a"], a["frechet_b"])
    assert near == pytest.approx(wanted["frechet_from_activations"], **CLOSE)


def slow_dtw(a: Any, b: Any) -> float:
    sums = np.full((len(a) + 1, len(b) + 1), np.inf)
    sums[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            sums[i + 1, j + 1] = ((a[i] - b[j]) ** 2).sum() + min(sums[i, j + 1], sums[i + 1, j], sums[i, j])
    return float(np.sqrt(sums[-1, -1]))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 6), (7, 4), (5, 5)])
def test_warping(rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows)
    a, b = rng.random((3, rows, 2), np.float32), rng.random((3, columns, 2), np.float32)
    np.testing.assert_allclose(metrics.dtw(a, b), [slow_dtw(x, y) for x, y in zip(a, b, strict=True)], rtol=1e-6)


@pytest.fixture(scope="module")
def scores() -> dict[str, metrics.Report]:
    """Each trivial listener on made-up people, of whom each alone is appropriate for itself."""
    rng = np.random.default_rng(0)
    speakers, listeners, train = (rng.random((4, 100, 25), np.float32) for _ in range(3))
    sets = metrics.sets_from_matrix(np.eye(4))
    made = {name: make(speakers, listeners, train, 10, 0) for name, make in BASELINES.items()}
    return {name: metrics.report(P, listeners, speakers, sets) for name, P in made.items()}


def test_trivial_listeners(scores: dict[str, metrics.Report]) -> None:
    r = scores["Random"]
    assert r.frdiv == pytest.approx(1 / 6, rel=0.02) and r.frdvs == pytest.approx(1 / 6, rel=0.02)
    assert r.frvar == pytest.approx(1 / 12, rel=0.02)
    assert scores["Mime"].frdiv == 0 and scores["Mime"].frsyn == 0
    for name in ("MeanSeq", "MeanFr"):
        assert scores[name].frdiv == scores[name].frdvs == 0
    assert scores["MeanFr"].frvar == 0 and scores["MeanFr"].frsyn == 49 and scores["MeanFr"].frcorr == 0
    truth = scores["GT"]
    assert truth.frdist == truth.frdiv == 0
    assert truth.frcorr == pytest.approx(10, rel=1e-5) and truth.frcorr_per_prediction == pytest.approx(1, rel=1e-5)
    assert truth.attribute_frechet == pytest.approx(0, abs=1e-4)


def test_the_truth_loses_where_a_unit_rests() -> None:
    """An action unit that never shows scores 0 even against itself: 24 of 25 attributes are left."""
    G = np.random.default_rng(0).random((1, 60, 25), np.float32)
    G[..., 3] = 0
    corr = metrics.frcorr(np.repeat(G[:, None], 10, 1), G, [np.array([0])])
    assert corr == pytest.approx(10 * 24 / 25, rel=1e-5)


def test_sessions() -> None:
    sets = metrics.sets_from_sessions(["a"] * 12 + ["b"] * 3 + ["c"], seed=1)
    assert all(len(s) == 10 and s[0] == n for n, s in enumerate(sets))
    assert all(len(set(s)) == 10 and s.max() < 12 for s in sets[:12])
    assert set(sets[12]) <= {12, 13, 14} and set(sets[15]) == {15}
    again = metrics.sets_from_sessions(["a"] * 12 + ["b"] * 3 + ["c"], seed=1)
    assert all(np.array_equal(x, y) for x, y in zip(sets, again, strict=True))


def test_bad_input() -> None:
    with pytest.raises(HeroError, match="Samples 1 have no appropriate face"):
        metrics.sets_from_matrix(np.array([[1, 0], [0, 0]]))
    with pytest.raises(HeroError, match=r"shape \(2, 3\)"):
        metrics.sets_from_matrix(np.zeros((2, 3)))
    G = np.zeros((2, 60, 25))
    one = [np.array([0]), np.array([1])]
    with pytest.raises(HeroError, match="Predictions of shape"):
        metrics.frcorr(np.zeros((2, 3, 59, 25)), G, one)
    with pytest.raises(HeroError, match="1 sets of appropriate faces for 2"):
        metrics.frcorr(np.zeros((2, 3, 60, 25)), G, one[:1])
    with pytest.raises(HeroError, match="NaN"):
        metrics.frdist(np.full((2, 3, 60, 25), np.nan), G, one)
    with pytest.raises(HeroError, match="at least 51 frames"):
        metrics.frsyn(np.zeros((2, 3, 50, 25)), G[:, :50])
    with pytest.raises(HeroError, match="at least two"):
        metrics.frdvs(np.zeros((1, 3, 60, 25)))
    assert metrics.frdiv(np.ones((2, 1, 60, 25))) == 0
    with pytest.raises(Cancelled):
        metrics.report(np.zeros((2, 3, 60, 25)), G, G, one, lambda *_: False)
