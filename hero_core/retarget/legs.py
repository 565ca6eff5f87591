# SPDX-License-Identifier: GPL-3.0-or-later
"""Legs that make up for what fewer keys take from the body, so that feet stay where they are.

The body may sway by a little without being seen to. Were legs keyed as they were for a body that does not sway, feet
would slide with it; so they are turned to the first order by what carries the feet back, before they are reduced.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .carried import Carried
from .rig import BoneKeys, Rig
from .rotations import continuous, cross, product

Array = npt.NDArray[Any]


def legs_of(keys: BoneKeys, rig: Rig) -> list[tuple[list[str], str]]:
    """Of each leg the keyed bones that place its ankle, lowest first, and its foot; empty where they do not do so."""
    legs = []
    for side in ("left", "right"):
        hip, ankle = (keys.joints.get(f"{side}_{joint}") for joint in ("hip", "ankle"))
        if hip is None or ankle is None or hip not in keys.rotations or ankle not in keys.rotations:
            return []
        line = rig.between(rig.index[hip], rig.index[ankle])[::-1]
        upper = [rig.names[row] for row in line if rig.names[row] in keys.rotations]
        if not line or any(rig.names[row] in keys.locations for row in (*line, rig.index[ankle])):
            return []
        if not all(rig.inherit_rotation[row] for row in (*line, rig.index[ankle])):
            return []
        legs.append((upper, ankle))
    return legs


def hangs_on(rig: Rig, name: str, top: str) -> bool:
    """Whether a bone is ``top`` or hangs below it."""
    return rig.index[top] in rig.line(rig.index[name])


def keep_feet(
    keys: BoneKeys, rig: Rig, legs: list[tuple[list[str], str]], trunk: Carried, fitted: Array
) -> tuple[BoneKeys, dict[str, Array]]:
    """The keys with legs that hold the feet where they are although the body is where (C, T, N) ``fitted`` have it.

    Also (N,) radians by which each bone of a leg is turned for that. A leg does not do more than half of the tolerance.
    """
    errors = trunk.in_armature(trunk.errors(fitted))
    rotations, spent = dict(keys.rotations), {}
    for upper, foot in legs:
        point = trunk.heads[foot]
        turned, moved = np.zeros((trunk.count, 3)), np.zeros((trunk.count, 3))
        for name in (rig.names[row] for row in rig.line(rig.index[upper[-1]])[1:]):
            if name in trunk.names:
                turn, move = errors[name]
                turned += turn
                moved += cross(turn, point - trunk.heads[name]) + move
        arms = [point - trunk.heads[name] for name in upper]
        maps = np.concatenate([_across(arm) for arm in arms], -1)  # (N, 3, 3 K)
        length = float(np.linalg.norm(arms[-1], axis=-1).max())
        square = maps @ np.swapaxes(maps, -1, -2) + (0.1 * length) ** 2 * np.eye(3)
        steps = np.swapaxes(maps, -1, -2) @ np.linalg.solve(square, -moved[..., None])
        turns = dict(zip(upper, np.moveaxis(steps.reshape(trunk.count, -1, 3), 1, 0), strict=True))
        turns[foot] = -turned - sum(turns.values())
        most = np.max([np.linalg.norm(turn, axis=-1) for turn in turns.values()], axis=0)
        share = np.minimum(1.0, 0.5 * trunk.angle / np.maximum(most, 1e-12))[:, None]
        for name, turn in turns.items():
            own = share * np.einsum("nji,nj->ni", trunk.frames_of[name], turn)
            spent[name] = np.linalg.norm(own, axis=-1)
            rotations[name] = continuous(
                product(keys.rotations[name], np.concatenate([np.ones_like(share), own / 2], -1))
            )
            rotations[name] /= np.linalg.norm(rotations[name], axis=-1, keepdims=True)
    return replace(keys, rotations=rotations), spent


def _across(arms: Array) -> Array:
    """(N, 3, 3) matrices that take a small turn w to w x arm."""
    x, y, z = np.moveaxis(arms, -1, 0)
    o = np.zeros_like(x)
    return np.stack([np.stack([o, z, -y], -1), np.stack([-z, o, x], -1), np.stack([y, -x, o], -1)], -2)
