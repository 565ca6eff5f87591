# SPDX-License-Identifier: GPL-3.0-or-later
"""How well a rig shows a motion, from where its joints are seen to be; nothing here knows how the rig was moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..motion import FPS, JOINTS
from .rotations import unit

Array = npt.NDArray[Any]

_SIDES = ("left", "right")
_SEGMENTS = tuple(
    (f"{side}_{a}", f"{side}_{b}")
    for side in _SIDES
    for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
)
_LIMBS = tuple(
    (f"{side}_{a}", f"{side}_{b}", f"{side}_{c}")
    for side in _SIDES
    for a, b, c in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
)
_STRAIGHT = 0.998  # of its length: from there on a limb is at its end
_BENT = 20.0  # degrees from which a knee or elbow shows the plane in which it bends


def measure(
    joints: Array,
    shown: dict[str, Array],
    turns: Array,
    rest: dict[str, Array],
    scale: float,
    contacts: dict[str, list[tuple[int, int]]],
    in_place: bool = False,
    rate: float = FPS,
) -> dict[str, Any]:
    """Numbers of one take on one rig.

    joints     (N, 22, 3) the motion in metres, Y up
    shown      joint -> (N, 3) where the rig has it at these poses, scene units, Y up; only joints that it has; also
               "left_heel", "right_heel", the points of the soles below the ankles
    turns      (N, B, 3, 3) orientations of the mapped bones in the scene
    rest       joint -> (3,) where the rig has it at rest on its floor
    scale      scene units for a metre of the motion
    contacts   when heels and balls of the feet stand, as ``BoneKeys`` has them
    in_place   the way through the scene was left out on purpose: the path of the hips is not measured,
               nor is skating, for feet go back then below a body that stays
    rate       poses for each second of the motion

    Angles are in degrees, lengths in the motion's metres (or millimetres, centimetres, % of the height where it says
    so), whatever the size of the rig; height is twice the length of the legs.
    """
    joints = np.asarray(joints, np.float64)
    source = {name: joints[:, row] for row, name in enumerate(JOINTS)}
    seen = {name: np.asarray(points, np.float64) / scale for name, points in shown.items()}
    low = {name: float(point[1]) / scale for name, point in rest.items()}
    legs = [
        _length(source, ("left_hip", "left_knee", "left_ankle")),
        _length(source, ("right_hip", "right_knee", "right_ankle")),
    ]
    height = 2 * float(np.mean(legs))

    angles = [_angle(seen[b] - seen[a], source[b] - source[a]) for a, b in _SEGMENTS if a in seen and b in seen]
    result: dict[str, Any] = {"limb_direction_degrees": _spread(np.stack(angles)) if angles else None}

    ends, inverted = [], 0
    for a, b, c in _LIMBS:
        if not all(name in seen for name in (a, b, c)):
            continue
        own, theirs = _length(seen, (a, b, c)), _length(source, (a, b, c))
        off = (seen[c] - seen[a]) * (theirs / own) - (source[c] - source[a])
        ends.append(np.linalg.norm(off, axis=-1) / height * 100)
        inverted += _inverted(seen, source, (a, b, c))
    result["ends_of_limbs_percent_of_height"] = _spread(np.stack(ends)) if ends else None
    places, within = _places(seen, source)
    places = places / height * 100
    result["hands_and_feet_percent_of_height"] = _spread(places) if len(places) else None
    # A limb that is stretched out and does not get there is too short: no fit could do better.
    result["hands_and_feet_within_reach_percent_of_height"] = _spread(places[within]) if within.any() else None
    result["hands_and_feet_out_of_reach_percent_of_poses"] = float(100 * (1 - within.mean())) if len(places) else None
    result["inverted_knees_and_elbows"] = inverted

    if "pelvis" in seen and not in_place:
        off = (seen["pelvis"] - seen["pelvis"][0]) - (source["pelvis"] - source["pelvis"][0])
        along = off * [1.0, 0.0, 1.0]
        result["hips_path_percent_of_height"] = float(np.linalg.norm(along, axis=-1).max() / height * 100)
        result["hips_height_percent_of_height"] = float(np.abs(off[:, 1]).max() / height * 100)

    result["skating_cm_per_second"] = {
        "before": _skating(source, contacts, rate),
        "after": None if in_place else _skating(seen, contacts, rate),
    }
    result["floor_penetration_cm"] = _penetration(seen, low)
    common = [name for name in JOINTS if name in seen]
    result["jerk_metres_per_second_cubed"] = {
        "before": _jerk(np.stack([source[name] for name in common], 1), rate),
        "after": _jerk(np.stack([seen[name] for name in common], 1), rate),
    }
    steps, shown_steps = (
        [_angle((at[b] - at[a])[1:], (at[b] - at[a])[:-1]) for a, b in _SEGMENTS if a in at and b in at]
        for at in (source, seen)
    )
    result["largest_step_degrees"] = {
        "source_limbs": _most(steps),
        "rig_limbs": _most(shown_steps),
        "rig_bones": float(apart(turns[1:], turns[:-1]).max()) if len(turns) > 1 else 0.0,
    }
    return result


def cost(
    few: dict[str, Array], every: dict[str, Array], few_turns: Array, every_turns: Array, scale: float
) -> dict[str, float]:
    """What leaving out keys has cost: how far joints and turns are from where all keys have them.

    Arguments as ``shown`` and ``turns`` of ``measure``, but turns against the parent bone.
    """
    ends = [name for name in few if name.endswith(("wrist", "ankle", "foot")) or name == "head"]
    off = np.stack([np.linalg.norm(few[name] - every[name], axis=-1) for name in ends]) / scale * 1000
    angle = apart(few_turns, every_turns)
    return {
        "degrees_most": float(angle.max()),
        "degrees_mean": float(angle.mean()),
        "millimetres_most": float(off.max()),
        "millimetres_mean": float(off.mean()),
    }


def apart(a: Array, b: Array) -> Array:
    """(...,) degrees between (..., 3, 3) rotations."""
    turn = np.swapaxes(a, -1, -2) @ b
    axis = [turn[..., 2, 1] - turn[..., 1, 2], turn[..., 0, 2] - turn[..., 2, 0], turn[..., 1, 0] - turn[..., 0, 1]]
    sine = np.linalg.norm(np.stack(axis, -1), axis=-1)
    return np.asarray(np.degrees(np.arctan2(sine, np.trace(turn, axis1=-2, axis2=-1) - 1)))


def _angle(a: Array, b: Array) -> Array:
    a, b = unit(a), unit(b)
    return np.asarray(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), np.sum(a * b, -1))))


def _length(at: dict[str, Array], chain: tuple[str, str, str]) -> float:
    a, b, c = (at[name] for name in chain)
    return float(np.median(np.linalg.norm(b - a, axis=-1)) + np.median(np.linalg.norm(c - b, axis=-1)))


def _spread(values: Array) -> dict[str, float]:
    return {"mean": float(values.mean()), "p95": float(np.percentile(values, 95)), "most": float(values.max())}


def _most(steps: list[Array]) -> float:
    return max((float(step.max()) for step in steps if len(step)), default=0.0)


def _places(seen: dict[str, Array], source: dict[str, Array]) -> tuple[Array, Array]:
    """(E, N) how far hands are off about the middle between the shoulders, feet about the hips, as ``preserve`` has it.

    Hands in the scale of the span of the arms, feet in that of the legs; ankles may be higher by the same throughout.
    Also (E, N) whether the limb of the rig is bent, so that the end is where it was to be and not as far as it gets.
    """
    off, bent = [], []
    shoulders = [f"{side}_shoulder" for side in _SIDES]
    arms = [name for name in ("left_wrist", "right_wrist") if name in seen]
    if len(arms) == 2 and all(name in seen for name in (*shoulders, "left_elbow", "right_elbow")):
        spans, middles = [], []
        for at in (seen, source):
            across = float(np.median(np.linalg.norm(at[shoulders[0]] - at[shoulders[1]], axis=-1)))
            spans.append(across + sum(_length(at, _LIMBS[row]) for row in (0, 2)))
            middles.append((at[shoulders[0]] + at[shoulders[1]]) / 2)
        off += [(seen[name] - middles[0]) * (spans[1] / spans[0]) - (source[name] - middles[1]) for name in arms]
        bent += [_stretched(seen, limb) < _STRAIGHT for limb in (_LIMBS[0], _LIMBS[2])]
    for name in ("left_ankle", "right_ankle"):
        if name in seen and "pelvis" in seen:
            away = (seen[name] - seen["pelvis"]) - (source[name] - source["pelvis"])
            limb = next(limb for limb in _LIMBS if limb[2] == name)
            reached = np.ones(len(away), bool)
            if all(joint in seen for joint in limb):
                reached = _stretched(seen, limb) < _STRAIGHT
            higher = float(np.median(away[reached if reached.any() else slice(None), 1]))
            off.append(away - [0.0, higher, 0.0])
            bent.append(reached)
    if not off:
        return np.zeros((0, 0)), np.zeros((0, 0), bool)
    return np.linalg.norm(off, axis=-1), np.array(bent)


def _stretched(at: dict[str, Array], limb: tuple[str, str, str]) -> Array:
    """(N,) how far the ends of a limb are apart, of its length."""
    return np.asarray(np.linalg.norm(at[limb[2]] - at[limb[0]], axis=-1) / _length(at, limb))


def _inverted(seen: dict[str, Array], source: dict[str, Array], chain: tuple[str, str, str]) -> int:
    """Poses in which a joint that is clearly bent bends to the other side than in the motion."""
    normals, bent = [], np.ones(len(seen[chain[0]]), bool)
    for at in (seen, source):
        a, b, c = (at[name] for name in chain)
        normals.append(np.cross(b - a, c - b))
        bent &= _angle(b - a, c - b) > _BENT
    return int((bent & (np.sum(normals[0] * normals[1], -1) < 0)).sum())


def _skating(at: dict[str, Array], contacts: dict[str, list[tuple[int, int]]], rate: float) -> float | None:
    """Mean speed over the floor, in cm/s, of heels and balls of feet while they stand; None where none does."""
    speeds = []
    for name, runs in contacts.items():
        joint = name.replace("ball", "foot")
        joint = joint if joint in at else joint.replace("heel", "ankle")
        for first, end in runs if joint in at else ():
            way = np.diff(at[joint][first:end], axis=0)[:, [0, 2]]
            speeds.append(np.linalg.norm(way, axis=-1) * rate * 100)
    found = np.concatenate(speeds) if speeds else np.zeros(0)
    return float(found.mean()) if len(found) else None


def _penetration(seen: dict[str, Array], low: dict[str, float]) -> dict[str, float] | None:
    """How deep ankles and balls of the feet are below where they are when the rig stands at rest."""
    depths = [
        np.maximum(low[f"{side}_{joint}"] - seen[f"{side}_{joint}"][:, 1], 0.0) * 100
        for side in _SIDES
        for joint in ("ankle", "foot")
        if f"{side}_{joint}" in seen
    ]
    if not depths:
        return None
    deepest = np.max(depths, axis=0)
    return {"mean": float(deepest.mean()), "most": float(deepest.max())}


def _jerk(points: Array, rate: float) -> float:
    """Mean size of the third derivative of (N, J, 3) points in m/s^3."""
    if len(points) < 4:
        return 0.0
    return float(np.linalg.norm(np.diff(points, n=3, axis=0), axis=-1).mean() * rate**3)
