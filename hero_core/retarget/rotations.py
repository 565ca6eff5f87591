# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotations as arrays: quaternions are (w, x, y, z), matrices act on column vectors, any leading axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

EULER_ORDERS = ("XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX")


def unit(vectors: Array) -> Array:
    """(..., 3) vectors of length 1; a vector without length stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 1e-12, length, 1.0))


def across(vectors: Array, axis: Array) -> Array:
    """What is left of (..., 3) vectors perpendicular to the unit ``axis``, as unit vectors."""
    return unit(vectors - np.sum(vectors * axis, -1, keepdims=True) * axis)


def basis(first: Array, second: Array) -> Array:
    """(..., 3, 3) rotation with columns (first, second made perpendicular to it, their cross product)."""
    x = unit(first)
    y = across(second, x)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def swing(start: Array, end: Array) -> Array:
    """(..., 3, 3) the smallest rotation that takes unit vector ``start`` to unit vector ``end``.

    For opposite vectors, where it is not unique, half a turn about some perpendicular axis.
    """
    start, end = np.broadcast_arrays(start, end)
    half = start + end
    size = np.sum(half * half, -1)  # 0 where opposite, 4 where equal
    # Two reflections make the rotation: first in the bisector's plane, then in that of ``end``.
    other = np.where(np.abs(start[..., :1]) < 0.7, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    opposite = across(other, start)
    quaternion = np.concatenate([np.sum(start * unit(half), -1, keepdims=True), np.cross(start, unit(half))], -1)
    fallback = np.concatenate([np.zeros_like(opposite[..., :1]), opposite], -1)
    return to_matrix(np.where(size[..., None] > 1e-12, quaternion, fallback))


def to_matrix(quaternion: Array) -> Array:
    """(..., 4) quaternions of any length to (..., 3, 3)."""
    q = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    w, x, y, z = np.moveaxis(q, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def to_quaternion(matrix: Array) -> Array:
    """(..., 3, 3) rotations to (..., 4), w >= 0.

    The largest of the four candidates is taken, which is exact for every rotation (Shepperd 1978).
    """
    m = np.asarray(matrix)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    zy, xz, yx = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz2, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    candidates = np.stack(
        [
            np.stack([1 + xx + yy + zz, zy, xz, yx], -1),
            np.stack([zy, 1 + xx - yy - zz, xy, xz2], -1),
            np.stack([xz, xy, 1 - xx + yy - zz, yz], -1),
            np.stack([yx, xz2, yz, 1 - xx - yy + zz], -1),
        ],
        -2,
    )  # (..., 4 candidates, 4)
    best = np.argmax(np.stack([xx + yy + zz, xx, yy, zz], -1), -1)
    q = np.take_along_axis(candidates, best[..., None, None], -2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.asarray(np.where(q[..., :1] < 0, -q, q))


def slerp(start: Array, end: Array, fraction: float) -> Array:
    """(..., 3, 3) the rotation ``fraction`` of the way from one to another, by the shorter road."""
    step = to_quaternion(np.swapaxes(start, -1, -2) @ end)  # w >= 0: the shorter road
    sine = np.linalg.norm(step[..., 1:], axis=-1, keepdims=True)
    angle = np.arctan2(sine, step[..., :1]) * fraction
    part = np.concatenate([np.cos(angle), unit(step[..., 1:]) * np.sin(angle)], -1)
    return np.asarray(start @ to_matrix(part))


def continuous(quaternion: Array) -> Array:
    """(N, ..., 4) the same rotations with signs such that neighbours in time never take the long way round."""
    dots = np.sum(quaternion[1:] * quaternion[:-1], -1, keepdims=True)
    signs = np.cumprod(np.where(dots < 0, -1.0, 1.0), axis=0)
    return np.concatenate([quaternion[:1], quaternion[1:] * signs])


def to_euler(quaternion: Array, order: str) -> Array:
    """(N, 4) quaternions to (N, 3) angles in radians about x, y, z for one of ``EULER_ORDERS``, without jumps.

    ``order`` is Blender's: "XYZ" turns about x first. Of the two triples that give the same rotation the one
    nearer to the frame before is taken, and whole turns are added, so that the curves can be edited.
    """
    i, j, k = ("XYZ".index(axis) for axis in order)
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    m = to_matrix(quaternion)
    cosine = np.hypot(m[:, i, i], m[:, j, i])
    locked = cosine < 1e-6
    first = np.where(locked, np.arctan2(-sign * m[:, j, k], m[:, j, j]), np.arctan2(sign * m[:, k, j], m[:, k, k]))
    second = np.arctan2(-sign * m[:, k, i], cosine)
    third = np.where(locked, 0.0, np.arctan2(sign * m[:, j, i], m[:, i, i]))
    angles = np.empty((len(m), 3))
    angles[:, i], angles[:, j], angles[:, k] = first, second, third
    other = np.empty_like(angles)
    other[:, i], other[:, j], other[:, k] = first + np.pi, np.pi - second, third + np.pi
    turn = 2 * np.pi
    for frame in range(1, len(angles)):
        near = [a - turn * np.round((a - angles[frame - 1]) / turn) for a in (angles[frame], other[frame])]
        away = [np.abs(a - angles[frame - 1]).sum() for a in near]
        angles[frame] = near[0] if away[0] <= away[1] else near[1]
    return angles


def to_axis_angle(quaternion: Array) -> Array:
    """(N, 4) continuous quaternions to (N, 4) angle in radians and unit axis, without jumps."""
    sine = np.linalg.norm(quaternion[:, 1:], axis=-1)
    angle = 2 * np.arctan2(sine, quaternion[:, 0])
    axis = np.where(sine[:, None] > 1e-8, unit(quaternion[:, 1:]), [0.0, 1.0, 0.0])
    turn = 2 * np.pi
    for frame in range(1, len(angle)):
        if axis[frame] @ axis[frame - 1] < 0:
            angle[frame], axis[frame] = -angle[frame], -axis[frame]
        angle[frame] -= turn * np.round((angle[frame] - angle[frame - 1]) / turn)
    return np.concatenate([angle[:, None], axis], 1)
