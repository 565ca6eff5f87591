# SPDX-License-Identifier: GPL-3.0-or-later
"""Two bones to a target, in closed form and for all poses at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .rotations import across, cross, swing, unit

Array = npt.NDArray[Any]

STRAIGHT = 0.99  # of its length to which a limb reaches exactly; then it gives way, so that the joint does not snap
_FLAT = 0.03  # of its length by which the middle must be off the line for its own plane to count in full


def two_bone(
    root: Array, middle: Array, end: Array, target: Array, hinge: Array, straight: float = STRAIGHT
) -> tuple[Array, Array, Array, Array]:
    """A limb whose end goes to the target: directions of both bones, the hinge and where the end is; (N, 3) each.

    The limb keeps its own plane, swung as its line is swung; one that is straight bends about its ``hinge`` (N, 3), a
    unit axis about which a positive turn bends the joint. Lengths are those given; targets farther away than the limb
    is long are approached, beginning at the share ``straight`` of its length, so that the joint does not snap; those
    nearer than it can fold are met as nearly as it folds (law of cosines).
    """
    first, second = np.linalg.norm(middle - root, axis=-1), np.linalg.norm(end - middle, axis=-1)  # (N,)
    line, wanted = end - root, target - root
    along = unit(line)
    aim = unit(wanted)
    aim = np.where(np.sum(aim * aim, -1, keepdims=True) > 0.5, aim, along)
    turn = swing(along, aim)
    hinge = np.einsum("nij,nj->ni", turn, hinge)
    off = middle - root
    off = np.einsum("nij,nj->ni", turn, off - np.sum(off * along, -1, keepdims=True) * along)
    natural = cross(aim, across(hinge, aim))
    # A knee that is a little on the wrong side of the line comes to the right one, not to where the two cancel out.
    wrong = np.minimum(np.sum(off * natural, -1, keepdims=True), 0.0)
    out = across(off + (_FLAT * (first + second)[:, None] - wrong) * natural, aim)
    reach = soft_reach(np.linalg.norm(wanted, axis=-1), first + second, straight)
    reach = np.maximum(reach, 1.02 * np.abs(first - second) + 1e-3 * (first + second))
    cosine = np.clip((first**2 + reach**2 - second**2) / (2 * first * reach), -1.0, 1.0)
    sine = np.sqrt(1.0 - cosine**2)
    to_middle = first[:, None] * (cosine[:, None] * aim + sine[:, None] * out)
    to_end = reach[:, None] * aim
    return unit(to_middle), unit(to_end - to_middle), hinge, root + to_end


def soft_reach(distance: Array, length: Array, straight: float = STRAIGHT) -> Array:
    """How far a limb of ``length`` goes out to something at ``distance``; it never becomes quite straight."""
    exact = straight * length
    rest = length - exact
    return np.where(distance > exact, exact + rest * (1 - np.exp(-np.maximum(distance - exact, 0) / rest)), distance)
