# SPDX-License-Identifier: GPL-3.0-or-later
"""When the feet stand: by height and speed with hysteresis, and by what the model says where it says it.

The model's own contact channels are weak evidence: in its training data a foot is "in contact" below 0.9 m/s, at
whatever height. They can rule a contact out; they cannot make one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import HeroError
from ..motion import FPS
from .smooth import clean, is_jittery

Array = npt.NDArray[Any]

ANKLES, BALLS, KNEES, HIPS = (7, 8), (10, 11), (4, 5), (1, 2)  # left, right

# A foot comes to stand below the first of each pair, and goes on standing below the second.
_HEIGHT = {"ball": (0.05, 0.08), "heel": (0.03, 0.045)}  # m above where it stands; the heel comes up early
_SPEED = (0.35, 0.6)  # m/s; generated feet slide at up to that while they stand
_SHIN = 0.5  # cosine of the shin to the vertical: who kneels or lies does not stand on that foot
_CROUCH = 0.2  # of the leg by which the hips are above the ankles of who stands, however low
_SHORTEST, _GAP = 3, 2  # frames of a contact, and of a break in it that is none
_DRIFT = 0.1  # m; a foot that has slid further than this from where it stands has stepped
_STEP = (4, 10)  # frames of a step that is put in for that
_PACE = 0.025  # m in a frame; a step may be that fast even where the foot never is


@dataclass(frozen=True)
class Contacts:
    """N poses; columns are left and right.

    heel    (N, 2) bool, the heel is on the floor
    ball    (N, 2) bool, the ball of the foot is on the floor
    plants  for each side (first, end) of the poses in which the foot does not leave its place; half open, in order
    """

    heel: Array
    ball: Array
    plants: tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]

    def named(self) -> dict[str, list[tuple[int, int]]]:
        """ "left_heel", "left_ball" ... -> (first, end) of the poses in which it is on the floor, half open."""
        return {
            f"{side}_{name}": runs(flags[:, column])
            for name, flags in (("heel", self.heel), ("ball", self.ball))
            for column, side in enumerate(("left", "right"))
        }

    def at(self, places: Array) -> Contacts:
        """The same at (F,) ascending places, counted in poses: what stands in the poses before and behind stands."""
        last = len(self.heel) - 1
        before, behind = (
            np.clip(pose, 0, last).astype(int) for pose in (np.floor(places + 1e-6), np.ceil(places - 1e-6))
        )
        plants = []
        for side in self.plants:
            ends = [np.searchsorted(places, (first - 1e-6, end - 1 + 1e-6)).tolist() for first, end in side]
            plants.append(tuple((first, end) for first, end in ends if end > first))
        return Contacts(
            self.heel[before] & self.heel[behind], self.ball[before] & self.ball[behind], (plants[0], plants[1])
        )

    def without(self, heel: Array, ball: Array) -> Contacts:
        """The same without the poses in which (N, 2) ``heel`` and ``ball`` say so; what is too short then goes too."""
        heel, ball = self.heel & ~heel, self.ball & ~ball
        plants = []
        for side in (0, 1):
            kept = np.zeros(len(heel), bool)
            parts = []
            for first, end in self.plants[side]:
                here = np.zeros(len(heel), bool)
                here[first:end] = (heel | ball)[first:end, side]
                parts += [run for run in runs(here) if run[1] - run[0] >= _SHORTEST]
            for first, end in parts:
                kept[first:end] = True
            heel[:, side] &= kept
            ball[:, side] &= kept
            plants.append(tuple(parts))
        return Contacts(heel, ball, (plants[0], plants[1]))


def find(joints: Array, channels: Array | None = None) -> Contacts:
    """Contacts of (N, 22, 3) joints in metres, Y up, 20 fps.

    channels: (N, 4) in 0..1 for left ankle, left foot, right ankle, right foot, as the last four of the HumanML3D
    features; None where only joints are known. A row less than poses is taken, as HumanML3D has it.
    Jittery joints are cleaned first: raw, they shake and hover too much to stand anywhere.
    Raises HeroError for channels of another shape.
    """
    count = len(joints)
    if is_jittery(joints):
        joints = clean(joints)
    allowed = np.ones((count, 4), bool)
    if channels is not None:
        channels = np.asarray(channels, np.float64)
        if channels.ndim != 2 or channels.shape[1] != 4 or not count - 1 <= len(channels) <= count:
            raise HeroError(f"The contacts have shape {channels.shape}; ({count}, 4) is needed for {count} poses.")
        allowed = np.nan_to_num(np.concatenate([channels, channels[-1:]])[:count]) > 0.3 if len(channels) else allowed
    floor = floor_of(joints)
    shin, thigh = joints[:, KNEES] - joints[:, ANKLES], joints[:, HIPS] - joints[:, KNEES]  # (N, 2, 3)
    shin_length, thigh_length = np.linalg.norm(shin, axis=-1), np.linalg.norm(thigh, axis=-1)
    upright = shin[..., 1] > _SHIN * shin_length
    upright &= shin[..., 1] + thigh[..., 1] > _CROUCH * (shin_length + thigh_length)
    columns: dict[str, Array] = {}
    for name, rows, which in (("ball", BALLS, [1, 3]), ("heel", ANKLES, [0, 2])):
        points = joints[:, rows]
        height = points[..., 1] - floor
        if name == "heel":  # the ankle of a standing foot is above its ball by what it mostly is when that stands
            gap = np.clip(_standing(joints, columns["ball"]), 0.0, 0.2)
            height = height - gap
        speed = speeds(points)
        near = allowed[:, which] & upright
        come = near & (height < _HEIGHT[name][0]) & (speed < _SPEED[0])
        stay = near & (height < _HEIGHT[name][1]) & (speed < _SPEED[1])
        columns[name] = np.stack([_hysteresis(come[:, side], stay[:, side]) for side in (0, 1)], 1)
    heel, ball = columns["heel"], columns["ball"]
    steps = np.linalg.norm(np.diff(joints[:, BALLS], axis=0), axis=-1)
    pace = np.maximum(np.percentile(steps, 95, axis=0), _PACE) if len(steps) else np.full(2, _PACE)
    plants = []
    for side in (0, 1):
        parts: list[tuple[int, int]] = []
        for first, end in runs(heel[:, side] | ball[:, side]):
            parts += _split(joints[first:end, BALLS[side]][:, [0, 2]], first, pace[side])
        inside = np.zeros(count, bool)
        for first, end in parts:
            inside[first:end] = True
        heel[:, side] &= inside
        ball[:, side] &= inside
        plants.append(tuple(parts))
    return Contacts(heel, ball, (plants[0], plants[1]))


def floor_of(joints: Array) -> float:
    """Height of the floor in metres, once for the whole motion: where the balls of the feet are when lowest."""
    return float(np.percentile(joints[:, BALLS, 1].min(1), 5))


def speeds(points: Array) -> Array:
    """(N, ...) speed in m/s of (N, ..., 3) points over the frames before and after; halved jitter, nothing missed."""
    if len(points) < 2:
        return np.zeros(points.shape[:-1])
    return np.asarray(np.linalg.norm(np.gradient(points, axis=0), axis=-1) * FPS)


def _standing(joints: Array, ball: Array) -> Array:
    """(2,) metres by which the ankles are above the floor while the balls of the feet are on it, heels down."""
    floor = floor_of(joints)
    return np.array(
        [
            np.percentile(joints[ball[:, side], ANKLES[side], 1], 35) - floor if ball[:, side].any() else 0.08
            for side in (0, 1)
        ]
    )


def runs(flags: Array) -> list[tuple[int, int]]:
    """(first, end) of each run of True, half open."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def _hysteresis(come: Array, stay: Array) -> Array:
    """Runs of ``stay`` in which it once has come to stand, with short breaks closed and short runs left out."""
    closed = stay.copy()
    for first, end in runs(~stay):
        if first > 0 and end < len(stay) and end - first <= _GAP:
            closed[first:end] = True
    flags = np.zeros_like(stay)
    for first, end in runs(closed):
        if end - first >= _SHORTEST and come[first:end].any():
            flags[first:end] = True
    return flags


def _split(place: Array, first: int, pace: float) -> list[tuple[int, int]]:
    """Parts of a contact between which a foot that slides along must step; place: (n, 2) on the floor.

    A step takes as many frames as it must so that the foot moves by about ``pace`` metres a frame at most.
    """
    count = len(place)
    spread = np.linalg.norm(place - np.median(place, axis=0), axis=-1).max()
    if spread <= _DRIFT or count < 2 * _SHORTEST + _STEP[0]:
        return [(first, first + count)]
    # Two places instead of one: where that explains most of the way (least squares by running sums).
    sums, squares = np.cumsum(place, 0), np.cumsum(np.sum(place * place, -1))
    margin = _SHORTEST + _STEP[0] // 2
    before = np.arange(margin, count - margin + 1)
    left = squares[before - 1] - np.sum(sums[before - 1] ** 2, -1) / before
    rest = sums[-1] - sums[before - 1]
    right = squares[-1] - squares[before - 1] - np.sum(rest**2, -1) / (count - before)
    cut = int(before[np.argmin(left + right)])
    way = float(np.linalg.norm(rest[cut - margin] / (count - cut) - sums[cut - 1] / cut))
    frames = min(max(int(np.ceil(1.9 * way / pace)), _STEP[0]), _STEP[1])
    low = max(cut - frames // 2, _SHORTEST)
    high = min(cut - frames // 2 + frames, count - _SHORTEST)
    return _split(place[:low], first, pace) + _split(place[high:], first + high, pace)
