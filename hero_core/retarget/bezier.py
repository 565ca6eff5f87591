# SPDX-License-Identifier: GPL-3.0-or-later
"""Bezier curves with handles of free length, and their least squares fit to poses.

Between two keys a curve of Blender's runs from (frame, value) to (frame, value), led by a handle at each end. A handle
lies along the slope that its key has; it reaches over a share of the way to the other key, between ``SHORT`` and
``LONG``. At a third the frame is the curve's own parameter t; else t is found for each pose by Newton's method.

Values, slopes and handles are fitted by Gauss and Newton's method, many curves at once. Handles belong to one segment
alone, so they are eliminated there; what is left is a chain of blocks of two, value and slope of each key.

Segments are short and many, and what numpy spends on each would be more than the sums themselves. So poses are laid out
across the segments, longest first: the first pose of each segment, then the second of each that has one, and so on.
To sum over segments is then to add a few long arrays, and what belongs to a segment is spread to poses by copying.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SHORT, LONG = 0.05, 0.5  # shares of a segment that a handle may reach over
_STEPS, _STEPS_NEAR = 5, 2  # of Newton's method, from nowhere, and from where the last step of the fit had t
_PULL = 3e-4  # of the slopes of the poses themselves, for keys side by side, whose slopes nothing else tells
_EVEN = 0.05  # tolerances squared for a handle that is a whole segment away from a third
_DAMPED, _TRUST = 1.2, 0.15  # handles are what is least linear
_UPPER = np.triu_indices(6, 0, 7)  # of a system of six, with its right side
_UPPER_LAST = np.array([4, 4, 4, 5, 5]), np.array([4, 5, 6, 5, 6])


def points_at(keyed: Array, values: Array, slopes: Array, reaches: Array | None, frames: Array) -> Array:
    """(N, C) values at N frames of C curves with K > 1 keys.

    keyed     (K,) frames
    values    (K, C)
    slopes    (K, 2, C) change for each frame before and after each key
    reaches   (K, 2, C) frames over which the handles before and after each key reach; None: a third of the way
    """
    here = np.clip(np.searchsorted(keyed, frames + 1e-9, side="right") - 1, 0, len(keyed) - 2)
    gap = np.diff(keyed)[here, None]
    share = np.clip((frames - keyed[here])[:, None] / gap, 0.0, 1.0)
    if reaches is None:
        first, last = np.full((2, *share.shape), 1 / 3)
    else:
        first, last = reaches[here, 1] / gap, reaches[here + 1, 0] / gap
    t = _parameter(share, _cubic(first, 1 - last, 1.0), None)
    v = 1 - t
    start, end = values[here], values[here + 1]
    near, far = start + first * gap * slopes[here, 1], end - last * gap * slopes[here + 1, 0]
    return np.asarray(v**3 * start + 3 * v * v * t * near + 3 * v * t * t * far + t**3 * end)


def _cubic(near: Array, far: Array, end: Array | float) -> tuple[Array, Array, Array]:
    """Factors of t, t^2 and t^3 in a Bezier segment that begins at 0."""
    return 3 * near, 3 * far - 6 * near, 3 * near - 3 * far + end


def _parameter(share: Array, cubic: tuple[Array, Array, Array], t: Array | None) -> Array:
    """t where the ``cubic`` is ``share``, by Newton's method from a ``t`` near by."""
    one, two, three = cubic
    two2, three3 = 2 * two, 3 * three
    steps = _STEPS if t is None else _STEPS_NEAR
    t = share if t is None else t
    for _ in range(steps):
        slope = three3 * t
        slope += two2
        slope *= t
        slope += one
        np.maximum(slope, 0.05, out=slope)
        over: Array = three * t
        over += two
        over *= t
        over += one
        over *= t
        over -= share
        over /= slope
        t = t - over
        np.maximum(t, 0.0, out=t)
        np.minimum(t, 1.0, out=t)
    return t


class Layout:
    """Where keys stand, for R curves of N poses each.

    All M keys of all curves are counted through, curve by curve; the S segments between them, and the F = R N poses on
    these, are ordered as the module says.
    """

    def __init__(self, mask: Array, frames: Array) -> None:
        """``mask`` (R, N): True where there is a key, at the first and the last at least; ``frames`` (N,) ascending."""
        self.curve, self.place = np.nonzero(mask)  # (M,) each
        opens = np.flatnonzero(self.curve[1:] == self.curve[:-1])  # keys that begin a segment
        start, keyed = self.place, frames[self.place]
        # A segment has the pose of the key before it; the last also that of the key behind.
        counts = start[opens + 1] - start[opens] + (start[opens + 1] == len(frames) - 1)
        order = np.argsort(-counts, kind="stable")
        self.here = opens[order]  # (S,) key at which each segment begins
        self.after = self.here + 1
        self.gap = keyed[self.after] - keyed[self.here]  # (S,) frames
        # (M,) the segment after each key; S, where a curve ends
        self.follows = np.full(len(self.curve), len(opens))
        self.follows[self.here] = np.arange(len(opens))
        counts = counts[order]
        self._widths = np.searchsorted(-counts, -np.arange(counts[0])).tolist()  # segments with more poses than that
        most = np.repeat(np.arange(len(self._widths)), self._widths)  # (F,) poses of its segment before each
        poses = self.spread(start[self.here]) + most
        self.poses = poses + self.spread(self.curve[self.here]) * len(frames)  # (F,) in curves of N poses
        share = (frames[poses] - self.spread(keyed[self.here])) / self.spread(self.gap)
        self.share = np.clip(share, 0.0, 1.0).astype(np.float32)  # (F,) of the way from key to key

    def spread(self, values: Array) -> Array:
        """(..., F) what (..., S) values are at the poses."""
        return np.concatenate([values[..., :width] for width in self._widths], -1)

    def sums(self, values: Array) -> Array:
        """(..., S) the sums of (..., F) values over each segment."""
        found = np.zeros((*values.shape[:-1], len(self.here)), values.dtype)
        begin = 0
        for width in self._widths:
            found[..., :width] += values[..., begin : begin + width]
            begin += width
        return found


class Fit:
    """Curves of a layout on their way to what they are to be. Single precision will do: each pose counts from its key.

    values, slopes    (M,) at the keys; the same slope before and after
    handles           (2, S) shares over which the handle at the begin and that at the end of a segment reach
    """

    def __init__(self, layout: Layout, values: Array, slopes: Array, handles: Array) -> None:
        self.layout, self.values, self.slopes, self.handles = layout, values, slopes, handles
        self.t: Array | None = None  # (F,)
        self._shape()

    def points(self) -> Array:
        """(F,) the curves at the poses."""
        return np.asarray(self.layout.spread(self.values[self.layout.here]) + self._risen)

    def _shape(self) -> None:
        layout, (first, last) = self.layout, self.handles
        start, end = self.values[layout.here], self.values[layout.after]
        self.rise, self.fall = layout.gap * self.slopes[layout.here], layout.gap * self.slopes[layout.after]
        x = _cubic(first, 1 - last, 1.0)
        y = _cubic(first * self.rise, end - start - last * self.fall, end - start)
        spread = layout.spread(np.array([*x, *y], np.float32))
        self._x, self._y = tuple(spread[:3]), tuple(spread[3:])
        self.t = _parameter(layout.share, self._x, self.t)
        one, two, three = self._y
        self._risen = ((three * self.t + two) * self.t + one) * self.t  # (F,) from the value of the key before

    def _columns(self, wanted: Array, free: bool) -> Array:
        """(7, F) how points change with values and slopes before and after, and with both handles; what is missing."""
        layout, t = self.layout, self.t
        assert t is not None
        columns = np.empty((7, len(t)), np.float32)
        v = 1 - t
        three = 3 * v * t
        near, far = three * v, three * t
        rate, along = ((3 * c * t + 2 * b) * t + a for a, b, c in (self._y, self._x))
        rate /= np.maximum(along, 0.05)
        gap, first, last, rise, fall = layout.spread(
            np.array([layout.gap, *self.handles, self.rise, self.fall], np.float32)
        )
        if free:
            columns[2] = t * t * (3 - 2 * t)
            columns[0] = 1 - columns[2]
            columns[1], columns[3] = near * first * gap, -far * last * gap
        columns[4], columns[5] = near * (rise - rate), far * (rate - fall)
        columns[6] = wanted - layout.spread(self.values[layout.here]) - self._risen
        return columns

    def step(self, wanted: Array, weights: Array, drift: Array, free: bool = True) -> None:
        """Go a step towards the least squares fit to (F,) ``wanted`` with (F,) ``weights`` in single precision.

        ``drift``: (M,) slopes of the poses themselves, towards which slopes are drawn a little. With ``free`` False
        only the handles change.
        """
        layout = self.layout
        columns = self._columns(wanted, free)
        begin = 0 if free else 4
        products = np.empty((27 if free else 5, len(weights)), np.float32)
        at = 0
        for i in range(begin, 6):
            np.multiply(columns[i] * weights, columns[i:], out=products[at : at + 7 - i])
            at += 7 - i
        sums = layout.sums(products)
        square = np.empty((6, 7, sums.shape[-1]), np.float32)  # upper half, and the right side
        square[_UPPER if free else _UPPER_LAST] = sums
        square[1, 0] = square[3, 2] = 0.0
        right = square[:, 6]
        # A handle as short or as long as it may be does not count where it would go further.
        shut = ((self.handles <= SHORT) & (right[4:] < 0)) | ((self.handles >= LONG) & (right[4:] > 0))
        open_ = (~shut).astype(np.float32)
        right[4:] = (right[4:] + _EVEN * (1 / 3 - self.handles)) * open_
        p, r = square[[4, 5], [4, 5]] * open_ * _DAMPED + _EVEN
        q = square[4, 5] * open_[0] * open_[1]
        scale = 1 / (p * r - q * q)
        p, q, r = r * scale, -q * scale, p * scale
        change = np.array([p * right[4] + q * right[5], q * right[4] + r * right[5]])
        if free:
            across = square[:4, 4:6] * open_  # (4, 2, S)
            share = np.empty_like(across)
            share[:, 0] = across[:, 0] * p + across[:, 1] * q
            share[:, 1] = across[:, 0] * q + across[:, 1] * r
            right[:4] -= across[:, 0] * change[0] + across[:, 1] * change[1]
            for ends in (slice(0, 2), slice(0, 4)), (slice(2, 4), slice(2, 4)):
                mine, other = across[ends[0], None], share[None, ends[1]]
                square[ends] -= mine[:, :, 0] * other[:, :, 0] + mine[:, :, 1] * other[:, :, 1]
            both = self._solve(square, drift)
            here, after = both[:, layout.here], both[:, layout.after]
            change -= share[0] * here[0] + share[1] * here[1] + share[2] * after[0] + share[3] * after[1]
            self.values, self.slopes = self.values + both[0], self.slopes + both[1]
        change = np.minimum(np.maximum(change, -_TRUST), _TRUST)
        self.handles = np.minimum(np.maximum(self.handles + change, SHORT), LONG)
        self._shape()

    def _solve(self, square: Array, drift: Array) -> Array:
        """(2, M) changes of values and slopes, from what (6, 7, S) segments have to say, their handles eliminated."""
        rows = np.zeros((14, square.shape[-1] + 1))
        rows[:, :-1] = square[[0, 0, 1, 2, 2, 3, 0, 0, 1, 1, 0, 1, 2, 3], [0, 1, 1, 2, 3, 3, 2, 3, 2, 3, 6, 6, 6, 6]]
        rows = rows[:, self.layout.follows]  # by keys, (14, M)
        blocks, right = rows[:3].copy(), rows[10:12].copy()
        blocks[:, 1:] += rows[3:6, :-1]
        right[:, 1:] += rows[12:14, :-1]
        blocks[0] += 1e-6
        blocks[2] += _PULL
        right[1] += _PULL * (drift - self.slopes)
        return _chain(blocks[[0, 1, 1, 2]].reshape(2, 2, -1), rows[6:10].reshape(2, 2, -1), right)


def _chain(blocks: Array, beside: Array, right: Array) -> Array:
    """(2, M) solution of a symmetric block tridiagonal system with blocks of 2 x 2, nearly.

    (2, 2, M) the blocks, (2, 2, M) those right of them, (2, M) right side. Every other block is eliminated, as in
    cyclic reduction (Heller 1976); what the others then have to do with each other, keys two apart, is little and left
    to the next step of the fit.
    """
    odd = right.shape[-1] // 2
    later = right.shape[-1] - 1 - odd  # odd blocks that have one after them; each has one before
    before, after = np.swapaxes(beside[..., : 2 * odd : 2], 0, 1), beside[..., 1 : 2 * later : 2]
    inverse = _inverse(blocks[..., 1::2])
    from_right = _times(inverse, right[:, None, 1::2])[:, 0]  # (2, odd)
    to_before, to_after = _times(inverse, before), _times(inverse[..., :later], after)
    even, even_right = blocks[..., ::2].copy(), right[:, ::2].copy()
    even[..., :odd] -= _times(np.swapaxes(before, 0, 1), to_before)
    even[..., 1:] -= _times(np.swapaxes(after, 0, 1), to_after)
    even_right[:, :odd] -= before[0] * from_right[0] + before[1] * from_right[1]
    even_right[:, 1:] -= after[0] * from_right[0, :later] + after[1] * from_right[1, :later]
    found = np.empty_like(right)
    found[:, ::2] = even = _times(_inverse(even), even_right[:, None])[:, 0]
    from_right -= to_before[:, 0] * even[0, :odd] + to_before[:, 1] * even[1, :odd]
    from_right[:, :later] -= to_after[:, 0] * even[0, 1:] + to_after[:, 1] * even[1, 1:]
    found[:, 1::2] = from_right
    return found


def _inverse(blocks: Array) -> Array:
    """(2, 2, M) the inverse of each symmetric block."""
    (a, b), (_, c) = blocks
    return np.array([[c, -b], [-b, a]]) / (a * c - b * b)


def _times(a: Array, b: Array) -> Array:
    """(2, K, M) products of (2, 2, M) and (2, K, M) blocks."""
    return np.asarray(a[:, 0, None] * b[0] + a[:, 1, None] * b[1])
