# SPDX-License-Identifier: GPL-3.0-or-later
"""From the poses of a motion, 20 a second, to the frames of a scene: whole frames are keyed, judged and seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .rig import BoneKeys

Array = npt.NDArray[Any]
Runs = dict[str, list[tuple[int, int]]]  # of standing feet, as in ``BoneKeys.contacts``

_STILL = 1e-6  # of a channel's range: by less than that it does not move


def whole_frames(poses: Array, few: bool) -> Array:
    """(F,) whole frames from the first of (N,) ``poses`` to the last, ascending, one at least.

    poses    where the poses stand, frames of the scene, ascending and evenly spaced
    few      for few keys: with two frames for a pose every second is enough, with three every third, and the last
    """
    first, last = np.floor(poses[0] + 1e-4), np.ceil(poses[-1] - 1e-4)
    a_pose = (poses[-1] - poses[0]) / max(len(poses) - 1, 1)
    step = max(1, int(a_pose + 1e-6)) if few else 1
    return np.unique(np.append(np.arange(first, last + 1, step), max(first, last)))


def on_frames(keys: BoneKeys, poses: Array, frames: Array) -> BoneKeys:
    """The keys on (F,) ascending ``frames`` of the scene instead of the (N,) frames ``poses`` where they stand.

    Between two poses every channel runs along a cubic (Catmull and Rom 1974); one that is the same in both stays so. A
    frame before the first or behind the last has that pose.
    """
    if len(frames) == len(poses) and np.allclose(frames, poses, atol=1e-6):
        return keys

    def at_frames(values: Array) -> Array:
        return between(poses, values, frames)

    rotations = {name: at_frames(quaternions) for name, quaternions in keys.rotations.items()}
    for quaternions in rotations.values():
        quaternions /= np.linalg.norm(quaternions, axis=-1, keepdims=True)
    contacts = None
    if keys.contacts is not None:
        contacts = runs_on(keys.contacts, poses, frames)
    limbs = tuple(replace(limb, root=at_frames(limb.root), tip=at_frames(limb.tip)) for limb in keys.limbs)
    a_pose = (poses[-1] - poses[0]) / max(len(poses) - 1, 1)
    a_frame = (frames[-1] - frames[0]) / max(len(frames) - 1, 1)
    return replace(
        keys,
        rotations=rotations,
        locations={name: at_frames(values) for name, values in keys.locations.items()},
        travel=None if keys.travel is None else at_frames(keys.travel),
        contacts=contacts,
        limbs=limbs,
        rate=keys.rate * a_pose / a_frame if a_frame > 0 and a_pose > 0 else keys.rate,
    )


def runs_on(contacts: Runs, poses: Array, frames: Array) -> Runs:
    """``BoneKeys.contacts`` of (N,) ``poses`` by (F,) ``frames``: those on which the poses before and behind stand."""
    found = {}
    for name, runs in contacts.items():
        ends = (np.searchsorted(frames, (poses[first] - 1e-6, poses[end - 1] + 1e-6)) for first, end in runs)
        found[name] = [(int(first), int(end)) for first, end in ends if end > first]
    return found


def between(poses: Array, values: Array, frames: Array) -> Array:
    """(F, ...) what (N, ...) values at (N,) poses are on (F,) frames, along cubics, held before and behind."""
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
