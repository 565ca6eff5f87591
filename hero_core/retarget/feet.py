# SPDX-License-Identifier: GPL-3.0-or-later
"""Feet that stand are held where they stand: footprints, the roll over heel and ball, hips that come down to reach.

A foot is one rigid thing that is turned about the point which is on the floor. While the ball is down it is held;
while only the heel is, the heel is held; with both down the sole is level. Each contact has one footprint: the median
place and the mean heading of the foot in it. Before and after a contact the foot goes over into its own motion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..motion import FPS
from .contacts import Contacts
from .rotations import about, cross, slerp, unit
from .smooth import gaussian

Array = npt.NDArray[Any]

CLEAN = 0.01  # m/s; feet that slide by less than this while they stand are left alone
LOWERED = 0.03  # m; most by which the hips come down for a leg that does not reach
_BLEND = 5  # poses over which a foot goes into its footprint and out of it
_PIVOT = np.radians(25.0)  # a foot that turns further than this while it stands is meant to turn
_ROLL = np.radians(70.0)  # most by which a foot rolls over its ball or heel
_TOES = 1.0  # poses, standard deviation, over which toes begin to bend and leave off
_LIFT = np.radians(40.0)  # most by which a heel comes up for a leg that does not reach
_STRETCH = 0.992  # of its length to which a standing leg is stretched
_STEP_HEIGHT = 0.25, 0.04  # how high a foot is lifted in a step that is put in: of its length, and at most, m


@dataclass
class Foot:
    """One foot over N poses, in armature space.

    ankle     (N, 3) where the ankle is to be
    sole      (N, 3, 3) columns left, up, forward of the sole
    ball      (3,) from the ankle to the ball in axes of the sole
    heel      (3,) from the ankle to the heel, the point of the sole below it
    planted   (N,) 0..1 how much it is held
    toes      (N, 3, 3) sole of the toes, which stay on the floor while the foot rolls over the ball
    pivots    (N,) bool, it turns on its ball
    """

    ankle: Array
    sole: Array
    ball: Array
    heel: Array
    planted: Array
    toes: Array
    pivots: Array

    def points(self) -> tuple[Array, Array]:
        """(N, 3) heel and (N, 3) ball."""
        return self.ankle + self.sole @ self.heel, self.ankle + self.sole @ self.ball


@dataclass(frozen=True)
class Floor:
    """The plane on which the rig stands: ``up`` is one scene unit upwards in armature space."""

    up: Array
    level: Callable[[Array], Any]  # (..., 3) -> (...,) height above the armature's origin, scene units
    height: float  # of the floor, in the same units

    def over(self, points: Array) -> Any:
        """(...,) how high (..., 3) points are above the floor, scene units."""
        return self.level(points) - self.height

    def put(self, points: Array, height: Array | float) -> Array:
        """(..., 3) the points moved straight up or down to a height above the floor, scene units."""
        return points + (height - self.over(points))[..., None] * self.up


def skating(feet: list[Foot], contacts: Contacts, to_world: Array, scale: float) -> float:
    """Mean speed in m/s, for a body of the motion's size, of heels and balls from pose to pose while they stand."""
    speeds = []
    for side, foot in enumerate(feet):
        for point, flags in zip(foot.points(), (contacts.heel[:, side], contacts.ball[:, side]), strict=True):
            both = flags[1:] & flags[:-1]
            step = np.diff(point, axis=0)[both] @ to_world[:3, :3].T
            speeds.append(np.linalg.norm(step[:, [0, 2]], axis=-1) * FPS / scale)
    every = np.concatenate(speeds)
    return float(every.mean()) if len(every) else 0.0


def plant(foot: Foot, side: int, contacts: Contacts, floor: Floor, scale: float) -> Foot:
    """The foot held in its footprints; ``scale`` is scene units over metres of the motion."""
    plants = contacts.plants[side]
    ball_now = foot.ankle + foot.sole @ foot.ball
    up = unit(floor.up)
    own_ankle, own_sole = foot.ankle, foot.sole
    ahead = own_sole[..., 2]
    flat_ahead: Array = ahead - (ahead @ up)[:, None] * up
    pitch = np.arctan2(ahead @ up, np.linalg.norm(flat_ahead, axis=-1))
    scene = float(np.linalg.norm(floor.up))  # armature units in one of the scene
    ball_height = (foot.ball[1] - foot.heel[1]) / scene
    count = len(pitch)
    inside, heel, ball = np.zeros(count, bool), contacts.heel[:, side].copy(), contacts.ball[:, side]
    headings, prints = np.tile([0.0, 0.0, 1.0], (count, 1)), np.zeros((count, 3))
    edges, fade, pivots = np.zeros(count, np.int64), np.zeros(count), np.zeros(count, bool)
    ahead_unit = unit(flat_ahead)
    for number, (first, end) in enumerate(plants):
        here = slice(first, end)
        inside[here] = True
        # Over from heel to ball through a pose with both, so that the foot does not leave its print.
        heel[first + 1 : end] |= ball[first + 1 : end] & ~ball[first : end - 1]
        heel[first : end - 1] |= ball[first : end - 1] & ~ball[first + 1 : end]
        headings[here] = unit(flat_ahead[here].sum(0))
        # A foot that points down, as when it pushes off, has no heading to speak of.
        turned = np.arccos(np.clip(ahead_unit[here] @ headings[first], -1, 1)) * (np.abs(pitch[here]) < _ROLL / 2)
        if turned.max() > _PIVOT:  # on the ball; the heel goes round
            headings[here] = unit(gaussian(flat_ahead[here], 1.5))
            pivots[here] = True
        prints[here] = np.median(ball_now[here][ball[here]] if ball[here].any() else ball_now[here], axis=0)
        # Half of the way to the plants before and after belongs to this one.
        before = first - plants[number - 1][1] if number else 2 * _BLEND
        after = plants[number + 1][0] - end if number + 1 < len(plants) else 2 * _BLEND
        for edge, steps, there, way in (
            (first, min(_BLEND, before // 2), first, -1),
            (end - 1, min(_BLEND, after - after // 2), count - end, 1),
        ):
            poses = np.arange(1, min(steps, there) + 1)
            away = edge + way * poses
            t = 1 - poses / (steps + 1)
            edges[away], fade[away] = edge, t * t * (3 - 2 * t)

    # While the heel is down the toes cannot point below the floor, nor above it while the ball is.
    heel_down, ball_down = _weight(heel), _weight(ball)
    roll = np.clip(pitch, -_ROLL * (1 - heel_down), _ROLL * (1 - ball_down))
    level = np.stack([cross(up, headings), np.broadcast_to(up, headings.shape), headings], -1)
    sole = level @ about(np.array([-1.0, 0.0, 0.0]), roll)
    print_ball = floor.put(prints, ball_height)
    print_heel = floor.put(print_ball + level @ (foot.heel - foot.ball), 0.0)
    ankle = np.where(ball[:, None], print_ball - sole @ foot.ball, print_heel - sole @ foot.heel)

    # What a foot was moved and turned by at the edge of a contact fades, so that the swing keeps its pace.
    share = fade[:, None]
    own_back = np.swapaxes(own_sole[edges], -1, -2)
    none = np.broadcast_to(np.eye(3), own_sole.shape)
    fading_ankle = own_ankle + share * (ankle[edges] - own_ankle[edges])
    fading_sole = slerp(none, sole[edges] @ own_back, share) @ own_sole
    held = inside[:, None]
    new_sole = np.where(held[..., None], sole, np.where(share[..., None] > 0, fading_sole, own_sole))
    flat = np.where(inside, ball_down * roll, fade * ball_down[edges] * roll[edges])
    foot = Foot(
        np.where(held, ankle, np.where(share > 0, fading_ankle, own_ankle)),
        new_sole,
        foot.ball,
        foot.heel,
        np.where(inside, 1.0, fade),
        new_sole @ about(np.array([1.0, 0.0, 0.0]), gaussian(flat, _TOES)),
        pivots,
    )
    for number in range(1, len(plants)):
        if plants[number][0] - plants[number - 1][1] <= 2 * _BLEND:
            _lift(foot, plants[number - 1][1], plants[number][0], floor, scale)
    return foot


def clear(foot: Foot, stands: Array, floor: Floor) -> bool:
    """Lift a foot out of the floor where it does not stand, (N,) bool; returns whether it ever was in it."""
    heel, ball = foot.points()
    ball_height = (foot.ball[1] - foot.heel[1]) / float(np.linalg.norm(floor.up))
    sunk = np.maximum(-floor.over(heel), ball_height - floor.over(ball))
    sunk = np.where(stands | (foot.planted == 1), 0.0, np.maximum(sunk, 0.0))
    foot.ankle = foot.ankle + sunk[:, None] * floor.up
    return bool(sunk.any())


def _weight(flags: Array) -> Array:
    """(n,) 1 where the flags are and down to 0 over three poses to either side, where they turn."""
    near = np.pad(flags.astype(float), 3, mode="edge")
    fall = (0.15, 0.5, 0.85, 1.0, 0.85, 0.5, 0.15)
    return np.asarray(np.max([w * near[k : k + len(flags)] for k, w in enumerate(fall)], axis=0))


def _lift(foot: Foot, start: int, end: int, floor: Floor, scale: float) -> None:
    """A foot that changes its place within a few poses and along the floor makes a step instead."""
    ball = foot.ankle + foot.sole @ foot.ball
    if start < 1 or end >= len(ball) or end - start < 2:
        return
    way = floor.put(ball[end], 0.0) - floor.put(ball[start - 1], 0.0)
    most = min(_STEP_HEIGHT[0] * float(np.linalg.norm(way)), _STEP_HEIGHT[1] * scale * float(np.linalg.norm(floor.up)))
    t = (np.arange(start, end) - start + 1) / (end - start + 1)
    wanted = most * np.sin(np.pi * t) ** 2
    up = unit(floor.up)
    base = np.linspace(ball[start - 1] @ up, ball[end] @ up, end - start + 2)[1:-1]
    lack = np.maximum(base + wanted - ball[start:end] @ up, 0.0)
    foot.ankle[start:end] += lack[:, None] * up


def lower_hips(hips: list[Array], feet: list[Foot], lengths: list[float], up: Array, most: float) -> Array:
    """(N,) how far the hips must come down along the unit ``up`` for planted feet to be in reach of the legs.

    At most ``most``, and smoothly. hips: (N, 3) hip joints of each side.
    """
    needed = np.zeros(len(hips[0]))
    for hip, foot, length in zip(hips, feet, lengths, strict=True):
        way = hip - foot.ankle
        height = way @ up
        aside = np.sum(way * way, -1) - height**2
        lack = height - np.sqrt(np.maximum((_STRETCH * length) ** 2 - aside, 0.0))
        needed = np.maximum(needed, foot.planted * np.maximum(lack, 0.0))
    if needed.max() <= 0:
        return needed
    needed = np.minimum(needed, most)
    return smoothly(needed)


def lift_body(points: list[Array], clearances: list[Array], floor: Floor) -> Array:
    """(N,) how far, in scene units, a body must come up for (N, 3) points to have their (N,) clearances; smoothly.

    Somebody who lies is as high above the floor as the legs are long, which is too little for a trunk that is longer.
    """
    lack = [clearance - floor.over(point) for point, clearance in zip(points, clearances, strict=True)]
    needed = np.maximum(np.max(lack, axis=0), 0.0)
    return smoothly(needed) if needed.max() > 0 else needed


def smoothly(needed: Array) -> Array:
    """(N,) at least what is needed, hardly more, and without haste."""
    reach = 3
    padded = np.pad(needed, reach, mode="edge")
    around = np.max([padded[k : k + len(needed)] for k in range(2 * reach + 1)], axis=0)
    return gaussian(around, 2.0)


def raise_heels(foot: Foot, hip: Array, length: float) -> Array:
    """Where a leg is still too short for its footprint the heel comes up about the ball, as far as it must.

    The ankle goes round the ball in the plane of the foot until it is within reach of the hip (a circle and a sphere).
    Returns (N,) radians by which the heel was raised.
    """
    raised = np.zeros(len(hip))
    reach = _STRETCH * length
    far = (np.linalg.norm(hip - foot.ankle, axis=-1) > reach) & (foot.planted > 0)
    if not far.any():
        return raised
    rows = np.flatnonzero(far)
    sole, ball = foot.sole[rows], (foot.ankle + foot.sole @ foot.ball)[rows]
    seen = np.einsum("nji,nj->ni", sole, hip[rows] - ball)  # the hip from the ball, in axes of the sole
    arm = -foot.ball  # ball to ankle; the part along the left does not turn
    radius = np.hypot(arm[1], arm[2])
    now = np.arctan2(arm[1], arm[2])  # angle from forward towards up
    way = np.hypot(seen[:, 1], seen[:, 2])
    # |seen - arm(angle)| = reach
    cosine = (way**2 + radius**2 + (seen[:, 0] - arm[0]) ** 2 - reach**2) / (2 * radius * np.maximum(way, 1e-9))
    wanted = np.arctan2(seen[:, 1], seen[:, 2]) + np.arccos(np.clip(cosine, -1.0, 1.0))
    turn = np.clip(now - wanted, 0.0, _LIFT) * foot.planted[rows]
    # Towards up from behind is a negative turn from forward to up: the toes go down.
    turned = sole @ about(np.array([1.0, 0.0, 0.0]), turn)
    foot.sole[rows] = turned
    foot.ankle[rows] = ball - turned @ foot.ball
    raised[rows] = turn
    return raised
