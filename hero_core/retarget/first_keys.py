# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the keys of each bone stand at first, found by dynamic programming for each bone by itself.

The fewest segments that are near enough, over all pairs of poses at most ``_LONGEST`` apart; among equals those whose
errors are even. A segment is judged by itself: its ends lie on the motion and its handles reach over a third of the
way, so two slopes are all there is to fit, and the error is a fixed linear map of the poses, the same for all channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LONGEST = 18  # poses in a segment
_EVEN = 0.1  # weight of even errors
_AT_ONCE = 512  # segments
_TELLING = np.sqrt(np.arange(2.0, 1000.0))


def first_keys(bones: int, track: Array, wanted: Array, weights: Array, frames: Array) -> Array:
    """(T, N) True where keys of ``bones`` T are to stand; one with no channel that moves has two, at the ends.

    track     (R,) ascending: the bone of each channel that moves
    wanted    (R, N) values of the channels
    weights   (R, N) such that an error is near enough where the weighted squares of a bone make 1 or less
    frames    (N,) where the poses are, ascending
    """
    cost = _segments(bones, track, wanted, weights, frames)
    longest, count = cost.shape[1:]
    everyone = np.arange(bones)
    way, back = np.full((bones, count), np.inf), np.ones((bones, count), int)
    way[:, 0] = 0.0
    lengths = np.arange(1, longest)
    for place in range(1, count):
        some = lengths[:place]
        total = way[:, place - some] + cost[:, some, place - some]
        best = total.argmin(1)
        way[:, place], back[:, place] = total[everyone, best], some[best]
    mask = np.zeros((bones, count), bool)
    mask[:, [0, -1]] = True
    at = np.full(bones, count - 1)
    while at.max() > 0:
        at = np.maximum(at - back[everyone, at], 0)
        mask[everyone, at] = True
    mask[np.isin(everyone, track, invert=True), 1:-1] = False
    return mask


def _segments(bones: int, track: Array, wanted: Array, weights: Array, frames: Array) -> Array:
    """(T, length, N) what a segment of so many poses costs that begins at a pose, inf where it is too far off."""
    count = len(frames)
    values = wanted.T.astype(np.float32)  # (N, R)
    weights = np.sqrt(weights.T).astype(np.float32)  # (N, R)
    tracks, starts = np.unique(track, return_index=True)
    most = min(_LONGEST, count - 1)
    cost = np.full((bones, most + 1, count), np.inf)
    cost[:, 1, :-1] = 1.0
    for length in range(2, most + 1):
        if not len(tracks):
            return cost[:, :length]
        for begin in range(0, count - length, _AT_ONCE):
            start = np.arange(begin, min(begin + _AT_ONCE, count - length))
            end = start + length
            near = start[:, None] + np.arange(1, length)  # (n, length - 1)
            u = (frames[near] - frames[start][:, None]) / (frames[end] - frames[start])[:, None]
            # Where poses are even, segments lie on them all in one way: by a number that tells ways apart.
            _, one, alike = np.unique(np.round(u @ _TELLING[: length - 1], 9), return_index=True, return_inverse=True)
            errors = _left(u[one]).astype(np.float32)[alike]  # of the poses and both ends
            columns = np.concatenate([near, start[:, None], end[:, None]], 1)
            off = (errors @ values[columns]) * weights[near]
            off *= off
            worst = np.add.reduceat(off, starts, axis=-1).max(1).T  # (tracks, n)
            cost[tracks[:, None], length, start] = np.where(worst <= 1.0, 1.0 + _EVEN * worst, np.inf)
        on = np.isfinite(cost[tracks, length]).any(1)
        if not on.all():
            rows = np.isin(track, tracks[on])
            track, values, weights = track[rows], values[:, rows], weights[:, rows]
            tracks, starts = np.unique(track, return_index=True)
    return cost


def _left(u: Array) -> Array:
    """(n, w, w + 2) what the best two slopes leave of w values at shares ``u`` (n, w) of n segments and their ends."""
    v = 1 - u
    slopes = np.stack([u * v * v, u * u * v], 1)  # (n, 2, w)
    a, b, c = (np.einsum("nw,nw->n", slopes[:, i], slopes[:, j]) + 1e-6 * (i == j) for i, j in ((0, 0), (0, 1), (1, 1)))
    inverse = np.moveaxis(np.array([[c, -b], [-b, a]]) / (a * c - b * b), -1, 0)
    left = np.eye(u.shape[1]) - np.swapaxes(slopes, 1, 2) @ (inverse @ slopes)
    start = ((1 + 2 * u) * v * v)[..., None]
    return np.concatenate([left, left @ -start, left @ (start - 1)], -1)
