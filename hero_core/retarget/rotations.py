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
    length = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))[..., None]
    return np.asarray(vectors / np.maximum(length, 1e-12))


def across(vectors: Array, axis: Array) -> Array:
    """What is left of (..., 3) vectors perpendicular to the unit ``axis``, as unit vectors."""
    return unit(vectors - np.einsum("...i,...i->...", vectors, axis)[..., None] * axis)


def basis(first: Array, second: Array) -> Array:
    """(..., 3, 3) rotation with columns (first, second made perpendicular to it, their cross product)."""
    x = unit(first)
    y = across(second, x)
    frame = np.empty((*np.broadcast_shapes(x.shape, y.shape), 3))
    frame[..., 0], frame[..., 1], frame[..., 2] = x, y, cross(x, y)
    return frame


def cross(a: Array, b: Array) -> Array:
    """(..., 3) cross product; numpy's own takes twice as long for arrays of this size."""
    out = np.empty(np.broadcast_shapes(np.shape(a), np.shape(b)))
    out[..., 0] = a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1]
    out[..., 1] = a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2]
    out[..., 2] = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return out


def swing(start: Array, end: Array) -> Array:
    """(..., 3, 3) the smallest rotation that takes unit vector ``start`` to unit vector ``end``.

    For opposite vectors, where it is not unique, half a turn about some perpendicular axis.
    """
    start, end = np.broadcast_arrays(start, end)
    half = start + end
    size = np.einsum("...i,...i->...", half, half)  # 0 where opposite, 4 where equal
    # Two reflections make the rotation: first in the bisector's plane, then in that of ``end``.
    other = np.where(np.abs(start[..., :1]) < 0.7, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    opposite = across(other, start)
    quaternion = np.concatenate([np.sum(start * unit(half), -1, keepdims=True), cross(start, unit(half))], -1)
    fallback = np.concatenate([np.zeros_like(opposite[..., :1]), opposite], -1)
    return to_matrix(np.where(size[..., None] > 1e-12, quaternion, fallback))


def to_matrix(quaternion: Array) -> Array:
    """(..., 4) quaternions of any length to (..., 3, 3)."""
    q = np.asarray(quaternion)
    # Filled entry by entry: stacking nine arrays takes three times as long.
    w, x, y, z = q[..., 0], q[..., 1], q[..., 2], q[..., 3]
    double = 2.0 / (w * w + x * x + y * y + z * z)
    dx, dy, dz = double * x, double * y, double * z
    xx, yy, zz, xy, xz, yz = dx * x, dy * y, dz * z, dx * y, dx * z, dy * z
    wx, wy, wz = dx * w, dy * w, dz * w
    m = np.empty((*q.shape[:-1], 3, 3))
    m[..., 0, 0], m[..., 0, 1], m[..., 0, 2] = 1 - yy - zz, xy - wz, xz + wy
    m[..., 1, 0], m[..., 1, 1], m[..., 1, 2] = xy + wz, 1 - xx - zz, yz - wx
    m[..., 2, 0], m[..., 2, 1], m[..., 2, 2] = xz - wy, yz + wx, 1 - xx - yy
    return m


def to_quaternion(matrix: Array) -> Array:
    """(..., 3, 3) rotations to (..., 4), w >= 0.

    The largest of the four candidates is taken, which is exact for every rotation (Shepperd 1978).
    """
    m = np.asarray(matrix)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    zy, xz, yx = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz2, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    c = np.empty((*m.shape[:-2], 4, 4))  # four candidates
    c[..., 0, 0], c[..., 0, 1], c[..., 0, 2], c[..., 0, 3] = 1 + xx + yy + zz, zy, xz, yx
    c[..., 1, 0], c[..., 1, 1], c[..., 1, 2], c[..., 1, 3] = zy, 1 + xx - yy - zz, xy, xz2
    c[..., 2, 0], c[..., 2, 1], c[..., 2, 2], c[..., 2, 3] = xz, xy, 1 - xx + yy - zz, yz
    c[..., 3, 0], c[..., 3, 1], c[..., 3, 2], c[..., 3, 3] = yx, xz2, yz, 1 - xx - yy + zz
    best = np.argmax(np.einsum("...ii->...i", c), -1)
    q = np.take_along_axis(c, best[..., None, None], -2)[..., 0, :]
    q /= np.sqrt(np.einsum("...i,...i->...", q, q))[..., None]
    return np.asarray(np.where(q[..., :1] < 0, -q, q))


def product(a: Array, b: Array) -> Array:
    """(..., 4) quaternions: first b, then a."""
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def about(axis: Array, angle: Array) -> Array:
    """(..., 3, 3) rotation by ``angle`` (...,) radians about the unit ``axis`` (..., 3)."""
    half = np.asarray(angle)[..., None] / 2
    cosine, sine = np.broadcast_arrays(np.cos(half), np.sin(half) * axis)
    return to_matrix(np.concatenate([cosine[..., :1], sine], -1))


def slerp(start: Array, end: Array, fraction: Array | float) -> Array:
    """(..., 3, 3) the rotation ``fraction`` of the way from one to another, by the shorter road.

    ``fraction`` is a number or has a last axis of length 1.
    """
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


def from_euler(angles: Array, order: str) -> Array:
    """(..., 3) angles in radians about x, y, z to (..., 4) quaternions; the inverse of ``to_euler``."""
    first, second, third = (about(np.eye(3)["XYZ".index(axis)], angles[..., "XYZ".index(axis)]) for axis in order)
    return to_quaternion(third @ second @ first)


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
