# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the keys of each bone stand at first, found by dynamic programming for each bone by itself.

The fewest segments that are near enough, over all pairs of places at most ``_LONGEST`` apart; among equals those whose
errors are even. A segment is judged by itself: its ends lie on the motion and its handles reach over a third of the
way, so two slopes are all there is to fit, and the error is a fixed linear map of the poses, the same for all channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_AT_FIRST = 1.4  # by how many tolerances a segment may be off whose ends and handles are not fitted yet
_LONGEST = 14  # places in a segment
_EVEN = 0.1  # weight of even errors
_AT_ONCE = 512  # segments
_TELLING = np.sqrt(np.arange(2.0, 1000.0))


def first_keys(
    bones: int, track: Array, wanted: Array, drift: Array, weights: Array, places: Array, frames: Array
) -> Array:
    """(T, G) True where keys of ``bones`` T are to stand; one with no channel that moves has two, at the ends.

    track           (R,) ascending: the bone of each channel that moves
    wanted, drift   (R, N) values of the channels and their change for each frame
    weights         (R, N) such that an error is near enough where the weighted squares of a bone make 1 or less
    places, frames  (G,) where keys may stand, (N,) where the poses are, ascending
    """
    cost = _segments(bones, track, wanted, drift, weights, places, frames)
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


def _segments(
    bones: int, track: Array, wanted: Array, drift: Array, weights: Array, places: Array, frames: Array
) -> Array:
    """(T, length, G) what a segment of so many places costs that begins at a place, inf where it is too far off."""
    count, poses = len(places), len(frames)
    first = np.searchsorted(frames, places)  # the first pose that is not before a place
    values = np.concatenate([wanted.T, _on_places(wanted, drift, places, frames).T]).astype(np.float32)  # (N + G, R)
    weights = np.sqrt(weights.T / _AT_FIRST**2).astype(np.float32)  # (N, R)
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
            width = max(int((first[end] - first[start]).max()), 1)  # poses in a segment at most
            near = first[start][:, None] + np.arange(width)  # (n, width)
            beyond, near = near >= poses, np.minimum(near, poses - 1)
            u = (frames[near] - places[start][:, None]) / (places[end] - places[start])[:, None]
            inside = (u > 1e-9) & (u < 1 - 1e-9) & ~beyond
            u = np.where(inside, u, 0.0)
            # Where poses are even, few segments lie on them in a way of their own: by a number that tells them apart.
            _, one, alike = np.unique(np.round(u @ _TELLING[:width], 9), return_index=True, return_inverse=True)
            errors = (_left(u[one]) * inside[one, :, None]).astype(np.float32)[alike]  # of the poses and both ends
            columns = np.concatenate([near, poses + start[:, None], poses + end[:, None]], 1)
            off = (errors @ values[columns]) * weights[near]
            off *= off
            worst = np.add.reduceat(off, starts, axis=-1).max(1).T  # (tracks, n)
            cost[tracks[:, None], length, start] = np.where(worst <= 1.0, 1.0 + _EVEN * worst, np.inf)
        on = np.isfinite(cost[tracks, length]).any(1)
        if length > 2 and not on.all():  # with three poses no bone is given up: what is uneven may end in between
            rows = np.isin(track, tracks[on])
            track, values, weights = track[rows], values[:, rows], weights[:, rows]
            tracks, starts = np.unique(track, return_index=True)
    return cost


def _left(u: Array) -> Array:
    """(n, w, w + 2) what the best two slopes leave of w values at shares ``u`` (n, w) of n segments, and of their ends.

    Where ``u`` is 0 there is no pose.
    """
    v = 1 - u
    slopes = np.stack([u * v * v, u * u * v], 1)  # (n, 2, w)
    a, b, c = (np.einsum("nw,nw->n", slopes[:, i], slopes[:, j]) + 1e-6 * (i == j) for i, j in ((0, 0), (0, 1), (1, 1)))
    inverse = np.moveaxis(np.array([[c, -b], [-b, a]]) / (a * c - b * b), -1, 0)
    left = np.eye(u.shape[1]) - np.swapaxes(slopes, 1, 2) @ (inverse @ slopes)
    start = ((1 + 2 * u) * v * v)[..., None]
    return np.concatenate([left, left @ -start, left @ (start - 1)], -1)


def _on_places(wanted: Array, drift: Array, places: Array, frames: Array) -> Array:
    """(R, G) the motion at the places, between the poses by cubics."""
    at = np.clip(np.searchsorted(frames, places, side="right") - 1, 0, len(frames) - 2)
    gap = frames[at + 1] - frames[at]
    u = (places - frames[at]) / gap
    v = 1 - u
    slopes = u * v * v * drift[:, at] - u * u * v * drift[:, at + 1]
    return np.asarray((1 + 2 * u) * v * v * wanted[:, at] + u * u * (3 - 2 * u) * wanted[:, at + 1] + gap * slopes)
