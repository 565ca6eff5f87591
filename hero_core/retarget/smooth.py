# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated joints made clean before they are solved: jitter taken out, hovering bodies put down.

Jitter: a smoothing spline, given up wherever the motion accelerates beyond a bound, so that punches, kicks and landings
keep their peaks. ``tests/benchmarks/bench_smooth.py`` compares it with Savitzky-Golay and one-euro filters.

Hovering: generated hips rise and sink by a hand's width over seconds, and the feet with them. A jump is over within a
second, so what the lowest joint does not come down from for longer is no jump, and the body is let down by it.

Recorded and keyframed motion is recognised by how much rougher its jerk is than its acceleration, and not touched.
Bone lengths are a matter of the solve: limbs whose bones shrink and grow keep their ends there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..motion import FPS

Array = npt.NDArray[Any]

_STIFFNESS = 1.0  # weight of the squared third difference against the squared distance from the data
_BOUND = 7.0  # m/s^2; joints that accelerate more are left as they are
# jerk over acceleration, 1/s. White noise at 20 fps has 36, generated motion 32 to 33, recorded motion 18 to 29.
_ROUGH = 31.0
_WINDOW, _OVERLAP = 256, 32  # frames that are fitted at once; the spline forgets within a dozen
_FLIGHT = 21  # frames; what lasts longer is no jump
_ON_FLOOR = 0.02  # m; how high the lowest joint of somebody who stands may be


def clean(joints: Array) -> Array:
    """(N, 22, 3) joints in metres, Y up, 20 fps, without jitter and hovering; for motion that ``is_jittery``."""
    return joints - hover(joints)[:, None, None] * np.array([0.0, 1.0, 0.0]) + (despike(joints) - joints)


def is_jittery(joints: Array) -> bool:
    """Whether the joints shake more than those of recorded motion do, by the median over frames of each joint."""
    if len(joints) < 12:
        return False
    acceleration, jerk = (np.median(np.linalg.norm(np.diff(joints, n, axis=0), axis=-1), axis=0) for n in (2, 3))
    moving = acceleration > 5e-4  # 0.2 m/s^2; who stands still does not shake
    return bool(moving.any()) and float(jerk[moving].sum() / acceleration[moving].sum()) * FPS > _ROUGH


def despike(points: Array) -> Array:
    """(N, ..., 3) points by the acceleration-bounded spline."""
    if len(points) < 12:
        return points
    fitted = spline(points)
    # How fast each point really speeds up: measured on a fit that is too weak to hide it.
    rough = points.copy()
    rough[2:-2] = np.einsum("k,kn...->n...", _QUADRATIC, _shifted(points, 2))
    speeding = np.linalg.norm(np.diff(rough, 2, axis=0), axis=-1) * FPS**2  # (N - 2, ...)
    around = _shifted(np.pad(speeding, [(3, 3)] + [(0, 0)] * (speeding.ndim - 1), mode="edge"), 2).max(0)
    weight = 1.0 / (1.0 + (around / _BOUND) ** 4)
    weight = np.pad(weight, [(1, 1)] + [(0, 0)] * (weight.ndim - 1), mode="edge")
    weight = (weight[:-2] + 2 * weight[1:-1] + weight[2:]) / 4
    return np.asarray(points + weight[..., None] * (fitted - points))


_QUADRATIC = np.array([-3.0, 12.0, 17.0, 12.0, -3.0]) / 35  # middle of a parabola through five points


def _shifted(values: Array, reach: int) -> Array:
    """(2 reach + 1, N - 2 reach, ...) the frames around each frame that has them all."""
    return np.stack([values[k : len(values) - 2 * reach + k] for k in range(2 * reach + 1)])


def spline(points: Array) -> Array:
    """(N, ...) the smoothing spline of order three through the frames (Whittaker 1923), in windows that overlap."""
    count = len(points)
    flat = points.reshape(count, -1)
    if count <= _WINDOW + 2 * _OVERLAP:
        return (_fit(count) @ flat).reshape(points.shape)
    fitted = np.empty_like(flat)
    for start in range(0, count, _WINDOW):
        low, high = max(start - _OVERLAP, 0), min(start + _WINDOW + _OVERLAP, count)
        part = _fit(high - low) @ flat[low:high] if high - low > 3 else flat[low:high]
        fitted[start : start + _WINDOW] = part[start - low : start - low + _WINDOW]
    return fitted.reshape(points.shape)


@lru_cache(maxsize=8)
def _fit(count: int) -> Array:
    """(N, N) what the spline does to N frames."""
    third = np.diff(np.eye(count), 3, axis=0)
    return np.linalg.inv(np.eye(count) + _STIFFNESS * third.T @ third)


def hover(joints: Array) -> Array:
    """(N,) metres by which the whole body is off the floor for longer than a jump lasts, smooth in time."""
    lowest = gaussian(joints[..., 1].min(1), 1.5)
    reach = min(_FLIGHT // 2, (len(lowest) - 1) // 2)
    eroded = _extreme(lowest, reach, np.min)
    lasting = _extreme(eroded, reach, np.max)
    height = np.maximum(lasting - max(np.percentile(lowest, 5), 0.0) - _ON_FLOOR, 0.0)
    return gaussian(height, 5.0)


def _extreme(values: Array, reach: int, which: Any) -> Array:
    padded = np.pad(values, reach, mode="edge")
    return np.asarray(which(_shifted(padded, reach), axis=0))


def gaussian(values: Array, sigma: float) -> Array:
    """(N, ...) smoothed over the first axis; the ends are held."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.concatenate([values[:1].repeat(reach, 0), values, values[-1:].repeat(reach, 0)])
    smoothed = np.zeros_like(values)
    for shift, weight in enumerate(kernel / kernel.sum()):
        smoothed += weight * padded[shift : shift + len(values)]
    return smoothed
