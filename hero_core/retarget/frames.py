# SPDX-License-Identifier: GPL-3.0-or-later
"""From the poses of a motion, 20 a second, to the frames of a scene: whole frames are keyed, judged and seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_DENSE = 6.0  # frames for a pose, 120 a second: no curve bends so fast that more of them would tell anything
_STILL = 1e-6  # of a channel's range: by less than that it does not move


def whole_frames(poses: Array, few: bool) -> Array:
    """(F,) whole frames from the first of (N,) ``poses`` to the last, ascending, one at least.

    poses    where the poses stand, frames of the scene, ascending and evenly spaced
    few      for few keys: from 240 frames a second on every second is enough, from 360 on every third and so on
    """
    first, last = np.floor(poses[0] + 1e-4), np.ceil(poses[-1] - 1e-4)
    a_pose = (poses[-1] - poses[0]) / max(len(poses) - 1, 1)
    step = max(1, int(a_pose / _DENSE + 1e-6)) if few else 1
    return np.unique(np.append(np.arange(first, last + 1, step), max(first, last)))


def between(poses: Array, values: Array, frames: Array) -> Array:
    """(F, ...) what (N, ...) values at (N,) ascending poses are on (F,) frames.

    Between two poses every channel runs along a cubic (Catmull and Rom 1974); one that is the same in both stays so. A
    frame before the first or behind the last has that pose.
    """
    if len(poses) < 2:
        return np.repeat(values[:1], len(frames), 0)
    slopes = np.gradient(values, poses, axis=0)
    still = np.abs(np.diff(values, axis=0)) <= _STILL * np.ptp(values, axis=0)
    slopes[:-1][still] = slopes[1:][still] = 0.0
    inside = np.clip(frames, poses[0], poses[-1])
    row = np.clip(np.searchsorted(poses, inside, side="right") - 1, 0, len(poses) - 2)
    shape = (-1, *(1,) * (values.ndim - 1))
    gap = (poses[row + 1] - poses[row]).reshape(shape)
    u = (inside - poses[row]).reshape(shape) / gap
    v = 1 - u
    bent = u * v * gap * (v * slopes[row] - u * slopes[row + 1])
    return np.asarray((1 + 2 * u) * v * v * values[row] + u * u * (3 - 2 * u) * values[row + 1] + bent)
