# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics of the REACT challenge (Song et al. 2023, "Multiple appropriate facial reaction generation"); numpy only.

Arrays of attributes (``reaction.ATTRIBUTES``): predictions P (N, K, T, 25), listeners G (N, T, 25) and speakers
S (N, T, 25) at 25 frames per second. The numbers are those of the official programs of 2023 and 2024; what others
compute under the same names is said where it differs. FRCorr and FRDist are sums over the K predictions there, so
FRCorr lies in -K .. K: an FRCorr of 0.26 with K = 10 is a mean concordance of 0.026. :func:`report` gives both.

FRRea needs a renderer of faces that is not free. :func:`attribute_frechet` is no substitute that may bear its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hero_core.errors import Cancelled, HeroError
from hero_core.evaluate.metrics import fid

from .reaction import ACTION_UNITS, AROUSAL, FPS, PROBABILITIES, VALENCE, Array

Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int], bool]
Sets = Sequence[npt.NDArray[np.int64]]  # for each sample n the listeners m whose faces are appropriate
SYNC_LAGS = int(2 * FPS)  # lags -49 .. 49
EPSILON = 1e-8


# --- appropriate faces ----------------------------------------------------------------------------------------------


def sets_from_matrix(matrix: Array) -> list[npt.NDArray[np.int64]]:
    """REACT 2023 and 2024: row n of an (N, N) matrix of 0 and 1 names the faces that are appropriate for sample n.

    Raises:
        HeroError: the matrix is not square, or a row is empty.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise HeroError(f"The matrix of appropriate faces has shape {matrix.shape}; (N, N) is needed.")
    found = [np.flatnonzero(row != 0) for row in matrix]
    empty = [str(n) for n, row in enumerate(found) if not len(row)]
    if empty:
        raise HeroError(
            f"Samples {', '.join(empty[:5])} have no appropriate face, not even their own; check the matrix."
        )
    return found


def sets_from_sessions(sessions: Sequence[str], count: int = 10, seed: int = 0) -> list[npt.NDArray[np.int64]]:
    """REACT 2025: who listened in the same session is appropriate; the sample's own face and ``count`` - 1 others.

    Drawn without replacement where there are enough others, with replacement otherwise; the official draw has no
    seed, so its metrics differ from run to run.
    """
    names = np.asarray(sessions)
    rng, found = np.random.default_rng(seed), []
    for n, name in enumerate(names):
        others = np.flatnonzero((names == name) & (np.arange(len(names)) != n))
        if len(others):
            drawn = rng.choice(others, count - 1, replace=len(others) < count - 1)
        else:
            drawn = np.full(count - 1, n)
        found.append(np.concatenate(([n], drawn)).astype(np.int64))
    return found


# --- concordance ----------------------------------------------------------------------------------------------------


def concordance(a: Array, b: Array, epsilon: float = EPSILON) -> Floats:
    """Lin's concordance along axis -2 of (..., T, D) arrays that broadcast: (..., D).

    2 r sa sb / (sa^2 + sb^2 + (ma - mb)^2 + epsilon) with population variances; r is 0 where one does not move, so that
    a face that never uses an action unit scores 0 there even against itself.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    mean_a, mean_b = a.mean(-2), b.mean(-2)
    da, db = a - mean_a[..., None, :], b - mean_b[..., None, :]
    sa, sb = np.sqrt((da**2).mean(-2)), np.sqrt((db**2).mean(-2))
    still = (np.ptp(a, axis=-2) == 0) | (np.ptp(b, axis=-2) == 0)
    covariance = np.einsum("...td,...td->...d", da, db) / a.shape[-2]
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.clip(np.where(still, 0.0, covariance / (sa * sb)), -1, 1)
    found: Floats = 2 * r * sa * sb / (sa**2 + sb**2 + (mean_a - mean_b) ** 2 + epsilon)
    return found


def concordances(predictions: Array, targets: Array, epsilon: float = EPSILON) -> Floats:
    """(K, T, D) and (M, T, D) -> (K, M) concordance, mean over D."""
    return np.stack([concordance(p[None], targets, epsilon).mean(-1) for p in predictions])


def frcorr(P: Array, G: Array, sets: Sets, epsilon: float = EPSILON, on_progress: Progress | None = None) -> float:
    """FRCorr: mean over samples of the SUM over predictions of the best concordance with an appropriate face.

    ReactFace takes an epsilon of 1e-50 and ten times the mean, which is the same for K = 10; its program for several
    processes multiplies the sum by ten once more.
    """
    _check(P, G, sets)
    best = []
    for n, members in enumerate(sets):
        best.append(concordances(P[n], G[members], epsilon).max(1).sum())
        _tell(on_progress, n + 1, len(sets))
    return float(np.mean(best))


# --- dynamic time warping -------------------------------------------------------------------------------------------


def dtw(a: Array, b: Array) -> Floats:
    """Dynamic time warping of pairs: (B, T, D) and (B, S, D) -> (B,), the root of the least sum of squared distances.

    No band; computed along anti-diagonals, all pairs at once.
    """
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    batch, rows, columns = len(a), a.shape[1], b.shape[1]
    cost = np.zeros((batch, rows, columns))
    for d in range(a.shape[2]):
        cost += (a[:, :, None, d] - b[:, None, :, d]).astype(np.float64) ** 2
    # before[i] and last[i] are the sums at rows i of the two anti-diagonals before; row 0 is outside.
    before = np.full((batch, rows + 1), np.inf)
    last = before.copy()
    for diagonal in range(rows + columns - 1):
        low, high = max(0, diagonal - columns + 1), min(rows - 1, diagonal)
        i = np.arange(low, high + 1)
        step = np.minimum(np.minimum(last[:, i + 1], last[:, i]), before[:, i])
        if diagonal == 0:
            step[:] = 0
        now = np.full((batch, rows + 1), np.inf)
        now[:, i + 1] = cost[:, i, diagonal - i] + step
        before, last = last, now
    found: Floats = np.sqrt(last[:, rows])
    return found


PARTS = ((ACTION_UNITS, 1 / 15), (slice(VALENCE, AROUSAL + 1), 1.0), (PROBABILITIES, 1 / 8))


def distances(predictions: Array, targets: Array, weighted: bool = True) -> Floats:
    """(K, T, 25) and (M, T, 25) -> (K, M) distances: action units / 15 + valence and arousal + expressions / 8.

    ``weighted`` False: one warping over all 25, as ReactFace does.
    """
    k, m = len(predictions), len(targets)
    pairs = [(i, j) for i in range(k) for j in range(m)]
    size = max(1, int(2e7) // (predictions.shape[1] * targets.shape[1]))
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), size):
        left, right = zip(*pairs[start : start + size], strict=True)
        a, b = predictions[list(left)], targets[list(right)]
        if weighted:
            found[start : start + size] = sum(dtw(a[..., part], b[..., part]) * weight for part, weight in PARTS)
        else:
            found[start : start + size] = dtw(a, b)
    return found.reshape(k, m)


def frdist(P: Array, G: Array, sets: Sets, weighted: bool = True, on_progress: Progress | None = None) -> float:
    """FRDist: mean over samples of the SUM over predictions of the distance to the nearest appropriate face."""
    _check(P, G, sets)
    best = []
    for n, members in enumerate(sets):
        best.append(distances(P[n], G[np.unique(members)], weighted).min(1).sum())
        _tell(on_progress, n + 1, len(sets))
    return float(np.mean(best))


# --- variety --------------------------------------------------------------------------------------------------------


def _between(x: Floats) -> Floats:
    """Sum over ordered pairs along axis 0 of the squared distances: (A, ...) -> (...)."""
    x = x - x.mean(0)
    found: Floats = 2 * len(x) * (x**2).sum(0) - 2 * x.sum(0) ** 2
    return found


def frdiv(P: Array) -> float:
    """FRDiv: mean squared difference of two predictions for one sample; 0 for K = 1."""
    P = np.asarray(P, np.float64)
    k = P.shape[1]
    if k == 1:
        return 0.0
    return float(np.mean([_between(p).mean() / (k * (k - 1)) for p in P]))


def frvar(P: Array) -> float:
    """FRVar: variance over time (divided by T - 1), mean over samples, predictions and attributes."""
    return float(np.asarray(P, np.float64).var(axis=2, ddof=1).mean())


def frdvs(P: Array) -> float:
    """FRDvs: mean squared difference of the predictions for two samples. The challenge of 2025 dropped it."""
    P = np.asarray(P, np.float64)
    n = len(P)
    if n < 2:
        raise HeroError("FRDvs compares samples; evaluate at least two.")
    return float(_between(P).mean() / (n * (n - 1)))


# --- synchrony ------------------------------------------------------------------------------------------------------


def lagged_correlations(predictions: Array, speaker: Array, lags: int = SYNC_LAGS) -> Floats:
    """(K, T, D) and (T, D) -> (K, 2 lags - 1): Pearson at lags -(lags - 1) .. lags - 1, mean over D.

    At a lag above 0 the prediction comes later. NaN where any attribute does not move, as officially.
    """
    P, S = np.asarray(predictions, np.float64), np.asarray(speaker, np.float64)[None]
    frames = P.shape[1]
    if frames < lags + 1:
        raise HeroError(f"FRSyn looks {lags - 1} frames back and forth; it needs clips of at least {lags + 1} frames.")
    curves = []
    for lag in range(1 - lags, lags):
        a = P[:, max(0, lag) : frames + min(0, lag)]
        b = S[:, max(0, -lag) : frames - max(0, lag)]
        da, db = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        still = (np.ptp(a, axis=1) == 0) | (np.ptp(b, axis=1) == 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            r = (da * db).sum(1) / np.sqrt((da**2).sum(1) * (db**2).sum(1))
        curves.append(np.where(still, np.nan, r).mean(-1))
    return np.stack(curves, -1)


def offsets(predictions: Array, speaker: Array, lags: int = SYNC_LAGS) -> npt.NDArray[np.int64]:
    """(K,) signed frames at which each prediction and the speaker correlate most; 49 where there is no number."""
    best: npt.NDArray[np.int64] = lags - 1 - lagged_correlations(predictions, speaker, lags).argmax(-1)
    return best


def frsyn(P: Array, S: Array, first_only: bool = False, on_progress: Progress | None = None) -> float:
    """FRSyn: mean of |offset| in frames, smaller is better.

    ``first_only`` looks at the first prediction of each sample, as the official program for several processes does,
    whose numbers are those of the papers.
    """
    if np.asarray(P).shape[0] != np.asarray(S).shape[0]:
        raise HeroError(f"There are predictions of {len(P)} samples and {len(S)} speakers; give as many of both.")
    found = []
    for n, speaker in enumerate(S):
        found.append(np.abs(offsets(P[n][:1] if first_only else P[n], speaker)).mean())
        _tell(on_progress, n + 1, len(S))
    return float(np.mean(found))


def attribute_frechet(real: Array, generated: Array) -> float:
    """Frechet distance of frames, (M, D) and (K, D) attributes or coefficients. This is not FRRea."""
    return fid(np.asarray(real, np.float64), np.asarray(generated, np.float64))


# --- all together ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """FRCorr and FRDist as the official programs print them, and divided by K; see the module."""

    samples: int
    predictions: int
    frcorr: float
    frcorr_per_prediction: float
    frdist: float
    frdist_per_prediction: float
    frdiv: float
    frvar: float
    frdvs: float
    frsyn: float
    frsyn_first_only: float
    attribute_frechet: float

    def lines(self) -> list[str]:
        k = self.predictions
        return [
            f"{self.samples} samples, K = {k}",
            f"FRCorr  {self.frcorr:.4f}  (sum over K, {-k} .. {k}; {self.frcorr_per_prediction:.4f} per prediction)",
            f"FRDist  {self.frdist:.4f}  (sum over K; {self.frdist_per_prediction:.4f} per prediction)",
            f"FRDiv   {self.frdiv:.6f}",
            f"FRVar   {self.frvar:.6f}",
            f"FRDvs   {self.frdvs:.6f}",
            f"FRSyn   {self.frsyn:.2f} frames  (first prediction alone, as published: {self.frsyn_first_only:.2f})",
            f"attribute Frechet distance  {self.attribute_frechet:.4f}  (not FRRea, which needs a renderer)",
        ]


def report(P: Array, G: Array, S: Array, sets: Sets, on_progress: Progress | None = None) -> Report:
    """All metrics of P (N, K, T, 25) against listeners G and speakers S (N, T, 25).

    ``on_progress(done, total)`` counts samples, three times; returning False raises Cancelled.
    """
    _check(P, G, sets)
    n, k = P.shape[:2]

    def part(number: int) -> Progress:
        return lambda done, total: on_progress is None or on_progress(number * n + done, 3 * n)

    corr, dist = frcorr(P, G, sets, on_progress=part(0)), frdist(P, G, sets, on_progress=part(1))
    return Report(
        samples=n,
        predictions=k,
        frcorr=corr,
        frcorr_per_prediction=corr / k,
        frdist=dist,
        frdist_per_prediction=dist / k,
        frdiv=frdiv(P),
        frvar=frvar(P),
        frdvs=frdvs(P) if n > 1 else float("nan"),
        frsyn=frsyn(P, S, on_progress=part(2)),
        frsyn_first_only=frsyn(P, S, first_only=True),
        attribute_frechet=attribute_frechet(np.asarray(G).reshape(-1, G.shape[-1]), P.reshape(-1, P.shape[-1])),
    )


def _check(P: Array, G: Array, sets: Sets) -> None:
    P, G = np.asarray(P), np.asarray(G)
    if P.ndim != 4 or G.ndim != 3 or P.shape[0] != G.shape[0] or P.shape[2:] != G.shape[1:]:
        raise HeroError(f"Predictions of shape {P.shape} need listeners of shape (N, T, D), not {G.shape}.")
    if len(sets) != len(P) or not all(len(s) and s.max() < len(G) for s in sets):
        raise HeroError(f"There are {len(sets)} sets of appropriate faces for {len(P)} samples; give one for each.")
    if not (np.isfinite(P).all() and np.isfinite(G).all()):
        raise HeroError("The attributes hold NaN or infinite values; generate or read them again.")


def _tell(on_progress: Progress | None, done: int, total: int) -> None:
    if on_progress is not None and not on_progress(done, total):
        raise Cancelled
