# SPDX-License-Identifier: GPL-3.0-or-later
"""Where, when and which way round a reaction takes place. A motion stays as the model made it; this is put on it when
it goes onto a rig. numpy only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import HeroError
from .motion import JOINTS

Array = npt.NDArray[Any]

_OTHER = {"left": "right", "right": "left"}
MIRROR = [
    JOINTS.index(f"{_OTHER[name.partition('_')[0]]}_{name.partition('_')[2]}" if "_" in name else name)
    for name in JOINTS
]
_CONTACTS = [2, 3, 0, 1]  # left ankle, left foot, right ankle, right foot


@dataclass(frozen=True)
class Place:
    """All numbers, so that a take can be put down again just as it was, whatever has moved since.

    mirror      left and right are exchanged, as in a mirror
    turn        radians about the vertical, from +Z to +X
    start       where the hips stand first, from where the rig's rest pose has them; x, y (up), z in scene units
    time_scale  how long it takes against how it was made; 2 = half as fast
    """

    mirror: bool = False
    turn: float = 0.0
    start: tuple[float, float, float] = (0.0, 0.0, 0.0)
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time_scale) and 0.1 <= self.time_scale <= 10.0):
            raise HeroError(f"The time scale is {self.time_scale}; choose from 0.1 (fast) to 10 (slow).")
        if not (math.isfinite(self.turn) and len(self.start) == 3 and all(map(math.isfinite, self.start))):
            raise HeroError("A place needs finite numbers; choose another object to face or to start at.")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Place:
        """Raises HeroError where something is missing or is no number."""
        try:
            start = tuple(float(value) for value in data["start"])
            return cls(bool(data["mirror"]), float(data["turn"]), start, float(data["time_scale"]))  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as err:
            raise HeroError(f"The place of the take is damaged ({err}); make a new take.") from err


def mirrored(joints: Array, contacts: Array | None = None) -> tuple[Array, Array | None]:
    """(..., 22, 3) joints and (..., 4) contacts as seen in a mirror at x = 0; twice gives the same to the bit."""
    flipped = np.asarray(joints)[..., MIRROR, :] * np.array([-1, 1, 1], np.asarray(joints).dtype)
    return flipped, None if contacts is None else np.asarray(contacts)[..., _CONTACTS]


def turned(joints: Array, angle: float) -> Array:
    """(..., 3) points turned about the vertical through the origin, from +Z to +X."""
    c, s = math.cos(angle), math.sin(angle)
    return np.asarray(np.asarray(joints) @ np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]]))


def facing(pose: Array) -> float:
    """Which way a pose (22, 3) faces: radians from +Z to +X, by hips and shoulders as HumanML3D has it."""
    pose = np.asarray(pose, np.float64)
    across = (pose[2] - pose[1]) + (pose[17] - pose[16])
    return math.atan2(across[2], -across[0])


def heading(start: Array, target: Array) -> float:
    """The yaw of a way (3,) -> (3,) along the floor, radians from +Z to +X. HeroError where they are at one place."""
    way = np.asarray(target, np.float64) - np.asarray(start, np.float64)
    if np.hypot(way[0], way[2]) < 1e-6:
        raise HeroError("What the character is to face stands right where the character does; move one of them.")
    return math.atan2(way[0], way[2])


def turn_to(pose: Array, wanted: float, mirror: bool = False) -> float:
    """The turn that makes a motion whose first pose is (22, 3) begin facing ``wanted``, once mirrored or not."""
    first = mirrored(pose)[0] if mirror else pose
    turn = wanted - facing(first)
    return math.remainder(turn, 2 * math.pi)


def put(joints: Array, contacts: Array | None, place: Place) -> tuple[Array, Array | None]:
    """What of a place is in the joints (N, 22, 3): mirrored, then turned about the vertical through the first hips.

    ``start`` and ``time_scale`` are for whoever writes keys. Untouched, to the bit, where there is nothing to do.
    """
    if place.mirror:
        joints, contacts = mirrored(joints, contacts)
    if place.turn:
        pivot = np.asarray(joints, np.float64)[0, 0] * [1.0, 0.0, 1.0]
        joints = turned(np.asarray(joints, np.float64) - pivot, place.turn) + pivot
    return joints, contacts
