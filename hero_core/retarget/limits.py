# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation limits that the armature has, respected without a jolt where they are met."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .rotations import continuous, from_euler, to_euler

Array = npt.NDArray[Any]

_SOFT = np.radians(8.0)  # before a limit a turn slows down; a joint does not hit it like a wall


def clamp(quaternions: Array, limits: Array) -> Array:
    """(N, 4) rotations of a bone away from rest, kept between ``limits``; the same array where none is near.

    limits: (3, 2) least and most angle about x, y and z of the bone, radians, as XYZ Euler angles; -inf and inf where
    the axis is free.
    """
    free = ~np.isfinite(limits).any()
    if free:
        return quaternions
    angles = to_euler(quaternions, "XYZ")
    kept = np.stack([_between(angles[:, axis], *limits[axis]) for axis in range(3)], -1)
    if np.array_equal(kept, angles):
        return quaternions
    return continuous(from_euler(kept, "XYZ"))


def _between(angle: Array, low: float, high: float) -> Array:
    """Angles below ``high`` and above ``low`` that begin to give way a little before either."""
    if not low < high:  # a locked axis has no room
        return np.full_like(angle, low)
    soft = min(_SOFT, (high - low) / 4)
    over = np.maximum(angle - (high - soft), 0.0)
    under = np.maximum(low + soft - angle, 0.0)
    return np.where(
        over > 0,
        high - soft * np.exp(-over / soft),
        np.where(under > 0, low + soft * np.exp(-under / soft), angle),
    )
