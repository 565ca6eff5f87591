# SPDX-License-Identifier: GPL-3.0-or-later
"""The roll of a limb spread along it, over the parts of split limbs and over the twist bones that stand beside it.

The upper bone of a limb carries the whole roll that its joint needs below; at the shoulder or hip that would wring the
skin like a sweet's wrapper. So a bone at a share t of the way down gets a share t of the roll. The lower bone starts
with that of its joint and takes on what the foot is turned against it towards its end.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from .mapping import BoneMap
from .rig import Rig
from .rotations import about, swing, to_quaternion, unit

Array = npt.NDArray[Any]

_NAMED = re.compile(r"twist|roll|捩", re.IGNORECASE)
_NOTHING = np.radians(1.0)  # less roll than this is not worth a key


def roll(above: Array, turn: Array, direction: Array, outward: Array) -> Array:
    """(N,) radians by which a limb is rolled against the bone ``above`` it, without jumps.

    above, turn: (N, 3, 3) turns away from rest; direction: (3,) of the limb at rest; outward: (3,) the middle of where
    limbs of this kind point, from which the directions without roll are reached by the smallest rotations. At rest
    there is no roll.
    """
    local = np.swapaxes(above, -1, -2) @ turn
    free = swing(outward, local @ direction) @ swing(outward, direction).T
    return about_axis(np.swapaxes(free, -1, -2) @ local, direction)


def about_axis(rotations: Array, axis: Array) -> Array:
    """(N,) radians of the part of rotations (N, 3, 3) that is about the unit ``axis`` (swing and twist), unwrapped."""
    quaternions = to_quaternion(rotations)
    return np.asarray(np.unwrap(2 * np.arctan2(quaternions[:, 1:] @ axis, quaternions[:, 0])))


def spread(rig: Rig, bones: BoneMap, turns: dict[int, Array], outward: dict[str, Array]) -> None:
    """Change the parts of split limbs, and add the twist bones, in ``turns``: row -> (N, 3, 3) turns away from rest.

    outward: "arm" or "leg" and side ("left_arm") -> (3,) see ``roll``. Bones that a constraint or driver owns stay.
    """
    mapped = set(turns) | set(bones.joints.values())
    carrying = {up for row in mapped for up in rig.line(row)}
    for side in ("left", "right"):
        for kind, upper, lower, end in (("arm", "shoulder", "elbow", "wrist"), ("leg", "hip", "knee", "ankle")):
            for joint, below in ((upper, lower), (lower, end)):
                rows = bones.segments.get(f"{side}_{joint}", ())
                if not rows or rows[0] not in turns:
                    continue
                top = rig.heads[rows[0]]
                last = bones.joints.get(f"{side}_{below}")
                tip = rig.heads[last] if last is not None else rig.tails[rows[-1]]
                length = float(np.linalg.norm(tip - top))
                if length < 1e-9:
                    continue
                direction = unit(tip - top)
                beside = _beside(rig, rows, carrying, top, direction, length)
                if len(rows) == 1 and not beside:
                    continue
                turn = turns[rows[0]]
                if joint == upper:
                    parent = next((up for up in rig.line(rows[0])[1:] if up in turns), None)
                    if parent is None:
                        continue
                    angle = -roll(turns[parent], turn, direction, outward[f"{side}_{kind}"])
                elif last is not None and last in turns:
                    angle = about_axis(np.swapaxes(turn, -1, -2) @ turns[last], direction)
                else:
                    continue
                if np.abs(angle).max() < _NOTHING:
                    continue
                # Above, what is undone shrinks from all of it to nothing; below, what is added grows from nothing.
                parts = len(rows)
                for number, row in enumerate(rows):
                    share = 1 - (number + 1) / parts if joint == upper else number / parts
                    off = rig.heads[row] - top
                    if np.linalg.norm(off - (off @ direction) * direction) < 0.03 * length:
                        # About the part itself: parts are not quite in line, and what comes next must stay in place.
                        own = unit((rig.heads[rows[number + 1]] if number + 1 < parts else tip) - rig.heads[row])
                        turns[row] = turn @ about(own, share * angle)
                for row, place in beside.items():
                    turns[row] = turn @ about(direction, (1 - place if joint == upper else place) * angle)


def _beside(
    rig: Rig, rows: tuple[int, ...], carrying: set[int], top: Array, direction: Array, length: float
) -> dict[int, float]:
    """Twist bones of a segment: row -> how far down the segment they start, 0..1.

    They hang on the segment, nothing of the map hangs on them, they stand on its line and point along it; a name that
    says so excuses being a little off.
    """
    found = {}
    for row in range(len(rig.names)):
        if rig.owned[row] or row in carrying or int(rig.parents[row]) not in rows:
            continue
        off = rig.heads[row] - top
        place = float(off @ direction) / length
        aside = float(np.linalg.norm(off - (off @ direction) * direction)) / length
        slope = abs(float(unit(rig.tails[row] - rig.heads[row]) @ direction))
        named = _NAMED.search(rig.names[row]) is not None
        lies_on_it = 0.05 < place < 0.95 and aside < 0.02 and slope > 0.98
        if lies_on_it or (named and -0.05 <= place <= 1.0 and aside < 0.2):
            found[row] = min(max(place, 0.0), 1.0)
    return found
