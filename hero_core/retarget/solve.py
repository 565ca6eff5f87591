# SPDX-License-Identifier: GPL-3.0-or-later
"""22 joints to bone rotations: analytic, all frames at once.

Every segment of the body gets a frame of three axes from the joints of the motion, and the same frame from the joints
of the rig at rest; the bone turns by what lies between the two. So the direction of a limb is exact whatever the rest
pose, the roll of the bones, the units or the place of the armature, and nothing iterates.

Directions alone do not say how a limb is twisted. Here the twist is that of the hinge: the knee and elbow axis is the
normal of the triangle of its three joints; where the limb is straight, so that there is no triangle, it is remembered
from the frames around and drawn to where it rests (the foot also tells for the leg). The 6D rotations of the HumanML3D
features are no help: they are the smallest rotations that aim each bone, so they hold nothing that the joints do not.

Spine, collars, neck, head and feet differ in shape from one skeleton to the next even when both stand at ease, so these
turn by their change from the motion's own posture at ease, not to its absolute direction.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import HeroError
from ..motion import FPS, JOINTS
from . import feet as standing
from .contacts import Contacts, find, floor_of, speeds
from .feet import Floor, Foot
from .frames import between
from .ik import STRAIGHT, two_bone
from .limits import clamp
from .mapping import BoneMap
from .options import Options
from .rig import BoneKeys, Rig
from .rotations import across, basis, continuous, cross, slerp, swing, to_matrix, to_quaternion, unit
from .smooth import clean, gaussian, is_jittery
from .twist import spread

Array = npt.NDArray[Any]

_J = {name: row for row, name in enumerate(JOINTS)}
_SIDES = ("left", "right")
_LIMBS = (("arm", "shoulder", "elbow", "wrist"), ("leg", "hip", "knee", "ankle"))
_FLAT_FOOT = np.radians(25.0)  # slope of ankle to ball in a foot that stands, where the motion never shows one
# How far a hinge may turn about its limb between two poses: where the triangle is flat, and where it is clear.
_TURN_LIMITS = np.radians([25.0, 60.0])
_ROLLS = 1.5  # poses, standard deviation, over which the roll of a foot is smoothed
_REACHED = 0.9999  # of its length to which a limb reaches for where it has been found to reach already
_TRUNK = ("pelvis", "left_shoulder", "right_shoulder", "head")  # what must not sink into the floor
_NEAR_FLOOR = 0.06  # m; what comes lower in the motion may come as low on the rig
_FOLDED = (0.2, 0.45)  # of the arm's length; nearer to the shoulder than that a hand does not keep its place


@dataclass
class Pose:
    """The rig over time in armature space; N poses, B bones.

    turns    (N, B, 3, 3) rotation of each bone away from rest (bones that are not turned follow their parent)
    heads    (N, B, 3) where the heads are
    turned   rows that the solve turns itself
    roots    rows among them that also move
    scale    leg length of the rig over that of the motion, scene units over metres
    hinges   "left_knee", "right_knee", "left_elbow", "right_elbow" -> (N, 3) unit axis of the joint
    path     (N, 3) the way of the hips along the floor since the first pose, armature space
    contacts   when heels and balls of the feet stand; None where feet are not to be held
    measures   "skating_before", "skating_after": mean speed in m/s of standing feet, for a body of the motion's size;
             "hips_lowered": most by which the hips came down for feet to stay, m likewise; only where feet are held
    rate     poses for each second of the motion
    """

    turns: Array
    heads: Array
    turned: tuple[int, ...]
    roots: tuple[int, ...]
    scale: float
    hinges: dict[str, Array]
    path: Array
    contacts: Contacts | None = None
    measures: dict[str, float] = field(default_factory=dict)
    rate: float = FPS


@dataclass
class _Limb:
    """An arm or a leg over time, armature space, (N, 3) each; ``hinge`` as ``_limb`` has it."""

    upper: Array
    lower: Array
    hinge: Array


def solve(
    joints: Array,
    rig: Rig,
    bones: BoneMap,
    options: Options | None = None,
    contacts: Array | None = None,
    at: Array | None = None,
) -> BoneKeys:
    """Keys that make the rig move as the joints do.

    joints: (N, 22, 3) metres, Y up, HumanML3D order. The first pose stands over the armature's rest place; headings
    are kept (a motion that faces +Z faces -Y in Blender, however the armature object is turned), hips travel by the
    leg-length ratio, and the height is such that the feet of the rig reach the floor on which it rests.
    contacts: (N, 4) in 0..1, the last four HumanML3D features, or None; they help to find feet that stand.
    at: as in ``pose``.
    Raises HeroError for joints that are not finite or of another shape, and for a rig with limbs of no length.
    """
    options = options or Options()
    return to_keys(pose(joints, rig, bones, options, contacts, at), rig, bones, options)


def pose(
    joints: Array,
    rig: Rig,
    bones: BoneMap,
    options: Options | None = None,
    contacts: Array | None = None,
    at: Array | None = None,
) -> Pose:
    """The solve without the channels: what an adaptor for control rigs starts from. Arguments as in ``solve``.

    at: (F,) ascending places, counted in poses from 0, at which the rig is posed instead: frames of a scene, which lie
    between the poses. Everything runs along cubics there, and limbs reach for where their ends are on these: a foot
    that stands in two poses stands between them.
    ``options.limits``, ``root`` and ``in_place`` are matters of channels and are looked at by ``to_keys``.
    """
    options = options or Options()
    solved = _pose(joints, rig, bones, options, contacts, at)
    # Odd proportions, hardly any leg for one, may make of footprints what is worse than what they were to mend.
    if solved.measures.get("skating_after", 0.0) > solved.measures.get("skating_before", 0.0):
        without = _pose(joints, rig, bones, replace(options, pin_feet=False), contacts, at)
        before = solved.measures["skating_before"]
        without.measures = {"skating_before": before, "skating_after": before, "hips_lowered": 0.0}
        without.contacts = solved.contacts
        solved = without
    return _begun_at(solved, rig, options)


def _begun_at(solved: Pose, rig: Rig, options: Options) -> Pose:
    """The pose where ``options.start`` wants it. In place that is no way through the scene, so it stays."""
    if not any(options.start):
        return solved
    away = np.linalg.inv(rig.to_world[:3, :3]) @ np.asarray(options.start, np.float64)
    return replace(solved, heads=solved.heads + away, path=solved.path if options.in_place else solved.path + away)


def stand(rig: Rig, bones: BoneMap) -> tuple[Array, Array]:
    """Where a rig stands at rest: (3,) the floor below its hips, and (3,) the way it faces, scene, Y up.

    The latter lies along the floor and has no length to speak of where the rest pose lies on its back or face.
    """
    rest = _Rest(rig, bones)
    place = (rig.to_world @ np.append(rig.heads[bones.joints["pelvis"]], 1.0))[:3]
    place[1] = rig.to_world[1, 3] + rest.floor
    return place, unit(rig.to_world[:3, :3] @ rest.body[:, 2]) * [1.0, 0.0, 1.0]


def _pose(
    joints: Array, rig: Rig, bones: BoneMap, options: Options, contacts: Array | None, places: Array | None
) -> Pose:
    joints = np.asarray(joints, np.float64)
    if joints.ndim != 3 or joints.shape[1:] != (22, 3) or not len(joints):
        raise HeroError(f"The motion has joints of shape {joints.shape}; (N, 22, 3) with at least one pose is needed.")
    if not np.isfinite(joints).all():
        raise HeroError("The motion holds NaN or infinite joints; generate it again or repair the file.")
    rest = _Rest(rig, bones)
    jittery = options.smooth and is_jittery(joints)
    if jittery:
        joints = clean(joints)
    # Everything is solved in armature space, where rotations stay rotations even below a stretched object.
    into = np.linalg.inv(rig.to_world[:3, :3])
    at: dict[str, Array] = {name: joints[:, row] @ into.T for name, row in _J.items()}  # (N, 3) each
    up = into[:, 1]  # one unit of the scene, upwards

    # A trunk has inertia, and its bones are short: what the joints still shake by after cleaning turns it by degrees.
    hips, pelvis_up, shoulders, chest_up = (
        gaussian(each, 1.0) if jittery else each
        for each in (
            at["left_hip"] - at["right_hip"],
            at["spine1"] - at["pelvis"],
            at["left_collar"] - at["right_collar"] + at["left_shoulder"] - at["right_shoulder"],
            at["neck"] - at["spine3"],
        )
    )
    pelvis_frame = basis(hips, pelvis_up)
    chest_frame = basis(across(shoulders, unit(chest_up)), chest_up)
    pelvis_turn = pelvis_frame @ rest.body.T
    chest_turn = chest_frame @ rest.body.T

    turns: dict[int, Array] = {bones.joints["pelvis"]: pelvis_turn}
    for number, row in enumerate(bones.spine, 1):
        turns[row] = slerp(pelvis_turn, chest_turn, number / len(bones.spine))
    head_turn = _follow(chest_frame, at["head"] - at["neck"], _ease_of_head(chest_frame, at)) @ rest.body.T
    neck = bones.segments.get("neck", ())
    for number, row in enumerate(neck, 1):
        turns[row] = slerp(chest_turn, head_turn, number / len(neck))
    for row in bones.segments.get("head", ()):
        turns[row] = head_turn

    limbs: dict[str, _Limb] = {}
    soles: dict[str, Array] = {}
    floors = _near_floor(joints)
    for side in _SIDES:
        collar: Array = at[f"{side}_shoulder"] - at[f"{side}_collar"]
        collar_turn = _follow(chest_frame, collar, _ease(chest_frame, collar)) @ rest.body.T
        for row in bones.segments.get(f"{side}_collar", ()):
            turns[row] = collar_turn
        foot: Array = at[f"{side}_foot"] - at[f"{side}_ankle"]
        references = {"arm": _arm_reference(side, chest_frame), "leg": _leg_reference(pelvis_frame)}
        for kind, *names in _LIMBS:
            top, middle, end = (at[f"{side}_{name}"] for name in names)
            limb = _Limb(*_limb(top, middle, end, references[kind], foot if kind == "leg" else None, jittery))
            limbs[f"{side}_{kind}"] = limb
            if jittery:
                _even_limb(limb, top, middle, end)
        if f"{side}_ankle" in bones.segments:
            soles[side] = _foot(joints, side, foot, limbs[f"{side}_leg"].hinge, unit(up), *floors[side])
    _turn_limbs(turns, limbs, bones, rest)
    _turn_feet(turns, soles, bones, rest)

    # A rig in several pieces: a piece that does not hang on the pelvis is carried along as if it did, and a foot
    # that is not parented to its leg as if it were.
    pelvis = bones.joints["pelvis"]
    pieces = [row for row in turns if row != pelvis and not any(up_row in turns for up_row in rig.line(row)[1:])]
    carriers = dict.fromkeys(pieces, pelvis)
    for side in _SIDES:
        if (row := bones.joints.get(f"{side}_ankle", -1)) in carriers:
            carriers[row] = bones.segments[f"{side}_knee"][-1]
    pieces.sort(key=lambda row: carriers[row] != pelvis)  # legs before what they carry

    scale = rest.leg / _leg_length(joints)
    way = joints[:, 0] * scale  # (N, 3) scene units, Y up
    way = way - way[0] * [1.0, 0.0, 1.0]
    start = rig.heads[pelvis] + (rest.floor - rest.level(rig.heads[pelvis])) * up
    path = start + way @ into.T
    ends = [bones.joints[f"{side}_{name}"] for side in _SIDES for name in ("hip", "shoulder")]
    ends += [bones.joints["head"]] if "head" in bones.joints else []
    ends += [bones.joints[name] for name in ("left_ankle", "right_ankle") if name in bones.joints]
    ends += carriers.values()
    _, heads = _forward(rig, turns, pelvis, path, pieces, carriers, {up for row in ends for up in rig.line(row)})
    gap: Any = _height_over_floor(floors, heads, rest, bones)
    floor = Floor(up, rest.level, rest.floor)
    if options.pin_feet:
        trunk = [name for name in _TRUNK if name in bones.joints]
        points = [heads[:, bones.joints[name]] - gap * up for name in trunk]
        gap = gap - standing.lift_body(points, [_clearance(joints, name, scale) for name in trunk], floor)[:, None]
    path = path - gap * up
    roots = {
        f"{side}_{kind}": heads[:, bones.joints[f"{side}_{top}"]] - gap * up
        for side in _SIDES
        for kind, top, *_ in _LIMBS
    }

    targets = _targets(joints, at, floors, limbs, roots, rest, options.preserve, path, up, scale)
    found = None
    measures: dict[str, float] = {}
    if options.pin_feet and len(soles) == 2:
        found = find(joints, contacts)
        feet = _feet(soles, targets, limbs, roots, rest, rig, bones)
        before = standing.skating(feet, found, rig.to_world, scale)
        measures = {"skating_before": before, "skating_after": before, "hips_lowered": 0.0}
        if before > standing.CLEAN:
            feet, found, lowered = _hold(feet, found, floor, roots, rest, scale)
            drop = lowered[:, None] * unit(up)
            path = path - drop
            for name, target in targets.items():
                roots[name] = roots[name] - drop
                targets[name] = None if target is None else target - drop
            for side, foot_now in zip(_SIDES, feet, strict=True):
                soles[side] = foot_now.sole
                toes = bones.joints.get(f"{side}_foot")
                if toes is not None:
                    turns[toes] = foot_now.toes @ rest.feet[side].T
            measures["hips_lowered"] = float(lowered.max() / np.linalg.norm(up) / scale)
        stands = (found.heel | found.ball).T
        for side, foot_now, down in zip(_SIDES, feet, stands, strict=True):
            if standing.clear(foot_now, down, floor) or before > standing.CLEAN:
                targets[f"{side}_leg"] = foot_now.ankle
        for side in _SIDES:  # arms that are longer than the motion's would reach through the floor
            hand = targets[f"{side}_arm"]
            if hand is None:
                hand = _ends(limbs[f"{side}_arm"], roots[f"{side}_arm"], rest.lengths[f"{side}_arm"])[1]
            lack = _clearance(joints, f"{side}_wrist", scale) - floor.over(hand)
            if lack.max() > 0:
                targets[f"{side}_arm"] = hand + np.maximum(lack, 0.0)[:, None] * up
    reached = _reach(limbs, roots, targets, rest)
    if found is not None and measures["skating_before"] > standing.CLEAN:
        for side, foot_now in zip(_SIDES, feet, strict=True):
            foot_now.ankle = reached[f"{side}_leg"]
        measures["skating_after"] = standing.skating(feet, found, rig.to_world, scale)
    rate = FPS
    if places is not None and not np.array_equal(places, np.arange(len(joints))):
        poses = np.arange(len(joints), dtype=np.float64)
        rate = FPS * (len(places) - 1) / (places[-1] - places[0]) if places[-1] > places[0] else FPS
        path, way = between(poses, path, places), between(poses, way, places)
        found = found.at(places) if found is not None else None
        _to_places(poses, places, turns, limbs, soles, bones)
        _turn_limbs(turns, limbs, bones, rest)
        _turn_feet(turns, soles, bones, rest)
        _, heads = _forward(rig, turns, pelvis, path, pieces, carriers, {up for row in ends for up in rig.line(row)})
        for side in _SIDES:
            for kind, joint, *_ in _LIMBS:
                name = f"{side}_{kind}"
                roots[name] = heads[:, bones.joints[f"{side}_{joint}"]]
                targets[name] = None if targets[name] is None else between(poses, reached[name], places)
        if found is not None:
            for number, (side, foot_now) in enumerate(zip(_SIDES, feet, strict=True)):
                if (ankle := targets[f"{side}_leg"]) is None:
                    continue
                # A foot that rolls does so about what stands: the ankle goes along an arc round that.
                for offset, flags in ((foot_now.heel, found.heel), (foot_now.ball, found.ball)):
                    point = between(poses, reached[f"{side}_leg"] + foot_now.sole @ offset, places)
                    rolls = flags[:, number]
                    ankle[rolls] = (point - soles[side] @ offset)[rolls]
        _reach(limbs, roots, targets, rest, _REACHED)
    _turn_limbs(turns, limbs, bones, rest)
    _turn_feet(turns, soles, bones, rest)
    left = rest.body[:, 0]
    outward = {"left_arm": left, "right_arm": -left, "left_leg": -rest.body[:, 1], "right_leg": -rest.body[:, 1]}
    spread(rig, bones, turns, outward)

    all_turns, heads = _forward(rig, turns, pelvis, path, pieces, carriers)
    hinges = {f"{side}_elbow": limbs[f"{side}_arm"].hinge for side in _SIDES}
    hinges |= {f"{side}_knee": limbs[f"{side}_leg"].hinge for side in _SIDES}
    along = (way * [1.0, 0.0, 1.0]) @ into.T
    return Pose(all_turns, heads, tuple(turns), (pelvis, *pieces), float(scale), hinges, along, found, measures, rate)


def _to_places(
    poses: Array,
    places: Array,
    turns: dict[int, Array],
    limbs: dict[str, _Limb],
    soles: dict[str, Array],
    bones: BoneMap,
) -> None:
    """Trunk, limbs and soles of (N,) poses at (F,) places between them; what limbs and soles turn is left to these."""

    def turned(matrices: Array) -> Array:
        return to_matrix(unit(between(poses, continuous(to_quaternion(matrices)), places)))

    theirs = {f"{side}_{joint}" for side in _SIDES for _, top, middle, _ in _LIMBS for joint in (top, middle)}
    theirs |= {f"{side}_ankle" for side in soles}
    rows = sorted(set(turns) - {row for joint in theirs for row in bones.segments.get(joint, ())})
    trunk = turned(np.stack([turns[row] for row in rows], 1))
    for number, row in enumerate(rows):
        turns[row] = trunk[:, number]
    for limb in limbs.values():
        limb.upper, limb.lower, limb.hinge = (
            unit(between(poses, each, places)) for each in (limb.upper, limb.lower, limb.hinge)
        )
    for side, sole in soles.items():
        soles[side] = turned(sole)


def _even_limb(limb: _Limb, root: Array, middle: Array, end: Array) -> None:
    """Where the bones of a generated limb shrink or grow its directions mean little: let it reach for its end instead.

    A forearm of 27 cm that is 8 cm long in some poses sweeps round like a whip if its direction is taken.
    """
    lengths = np.linalg.norm(middle - root, axis=-1), np.linalg.norm(end - middle, axis=-1)
    usual = float(np.median(lengths[0])), float(np.median(lengths[1]))
    if min(usual) <= 0:
        return
    off = np.maximum(*(np.abs(length / own - 1) for length, own in zip(lengths, usual, strict=True)))
    weight = gaussian(_smoothstep(off, 0.15, 0.4), 1.0)[:, None]
    own_middle, own_end = _ends(limb, root, usual)
    upper, lower, hinge, _ = two_bone(root, own_middle, own_end, end, limb.hinge)
    limb.upper, limb.lower, limb.hinge = (
        unit(old + weight * (new - old)) for old, new in ((limb.upper, upper), (limb.lower, lower), (limb.hinge, hinge))
    )


def _turn_limbs(turns: dict[int, Array], limbs: dict[str, _Limb], bones: BoneMap, rest: _Rest) -> None:
    for side in _SIDES:
        for kind, root, middle, _ in _LIMBS:
            limb = limbs[f"{side}_{kind}"]
            for joint, direction in ((f"{side}_{root}", limb.upper), (f"{side}_{middle}", limb.lower)):
                turn = basis(direction, limb.hinge) @ rest.limbs[joint].T
                for row in bones.segments[joint]:
                    turns[row] = turn


def _turn_feet(turns: dict[int, Array], soles: dict[str, Array], bones: BoneMap, rest: _Rest) -> None:
    for side, sole in soles.items():
        for row in bones.segments[f"{side}_ankle"]:
            turns[row] = sole @ rest.feet[side].T


def _ends(limb: _Limb, root: Array, lengths: tuple[float, float]) -> tuple[Array, Array]:
    """(N, 3) middle and end of a limb of the rig."""
    middle = root + lengths[0] * limb.upper
    return middle, middle + lengths[1] * limb.lower


def _targets(
    joints: Array,
    at: dict[str, Array],
    floors: dict[str, tuple[Array, Array]],
    limbs: dict[str, _Limb],
    roots: dict[str, Array],
    rest: _Rest,
    preserve: float,
    path: Array,
    up: Array,
    scale: float,
) -> dict[str, Array | None]:
    """Where hands and feet are to be, (N, 3) each; None where they are to stay where the directions put them.

    Feet keep their place about the hips and over the floor, in the scale of the legs, so that steps keep their length.
    Hands keep their place about the middle between the shoulders, in the scale of the span of the arms, so that hands
    that meet still meet, and those that touch the head or the chest still do so. Only near its own shoulder, where a
    centimetre turns the whole arm round, a hand goes where the directions put it.
    """
    targets: dict[str, Array | None] = dict.fromkeys(limbs)
    if preserve == 0.0:
        return targets
    span = _span({name: joints[:, row] for name, row in _J.items()})
    hands = rest.span / span
    middle = (roots["left_arm"] + roots["right_arm"]) / 2
    source_middle = (at["left_shoulder"] + at["right_shoulder"]) / 2
    wanted = {}
    for side in _SIDES:
        wanted[f"{side}_arm"] = middle + hands * (at[f"{side}_wrist"] - source_middle)
        wanted[f"{side}_leg"] = path + scale * (at[f"{side}_ankle"] - at["pelvis"])
    by_direction = {name: _ends(limb, roots[name], rest.lengths[name])[1] for name, limb in limbs.items()}
    # The ankle of a foot that stands is over the floor by its own height, not by that of the motion's: once for all.
    gaps, stands = [], []
    for side in _SIDES:
        gaps.append(rest.level(wanted[f"{side}_leg"]) - rest.level(rest.points[f"{side}_ankle"]))
        stands.append(floors[side][1])
    gap, stand = np.concatenate(gaps), np.concatenate(stands)
    high = float(np.median(gap[stand])) if stand.sum() >= 3 else float(np.percentile(gap, 2))
    for side in _SIDES:
        wanted[f"{side}_leg"] = wanted[f"{side}_leg"] - high * up
    for name, points in by_direction.items():
        away = np.linalg.norm(wanted[name] - roots[name], axis=-1, keepdims=True) / sum(rest.lengths[name])
        share = preserve * _smoothstep(away, *_FOLDED) if name.endswith("arm") else preserve
        targets[name] = points + share * (wanted[name] - points)
    return targets


def _clearance(joints: Array, name: str, scale: float) -> Array:
    """(N,) how high above the floor a joint is to stay, scene units: as in the motion where that is near it."""
    return np.clip(joints[:, _J[name], 1] - floor_of(joints), 0.0, _NEAR_FLOOR) * scale


def _span(at: dict[str, Array]) -> float:
    """From hand to hand through both shoulders, arms stretched out."""
    pairs = [("left_shoulder", "right_shoulder")]
    pairs += [(f"{side}_{a}", f"{side}_{b}") for side in _SIDES for a, b in (("shoulder", "elbow"), ("elbow", "wrist"))]
    return float(sum(np.median(np.linalg.norm(at[a] - at[b], axis=-1)) for a, b in pairs))


def _feet(
    soles: dict[str, Array],
    targets: dict[str, Array | None],
    limbs: dict[str, _Limb],
    roots: dict[str, Array],
    rest: _Rest,
    rig: Rig,
    bones: BoneMap,
) -> list[Foot]:
    feet = []
    for side, sole in soles.items():
        target = targets[f"{side}_leg"]
        if target is None:
            target = _ends(limbs[f"{side}_leg"], roots[f"{side}_leg"], rest.lengths[f"{side}_leg"])[1]
        ankle = rest.points[f"{side}_ankle"]
        down = (rest.level(ankle) - rest.floor) / max(float(np.linalg.norm(rig.to_world[1, :3])), 1e-12)
        ball = rest.feet[side].T @ (rest.balls[side] - ankle)
        heel, never = np.array([0.0, -down, 0.0]), np.zeros(len(sole), bool)
        feet.append(Foot(target, sole, ball, heel, never.astype(float), sole, never))
    return feet


def _hold(
    feet: list[Foot], contacts: Contacts, floor: Floor, roots: dict[str, Array], rest: _Rest, scale: float
) -> tuple[list[Foot], Contacts, Array]:
    """Feet in their footprints, the contacts that came about, and (N,) by how much the hips come down, along ``up``.

    A foot that its leg cannot bring to the floor, hips lowered and heel raised, does not stand there after all.
    """
    hips = [roots[f"{side}_leg"] for side in _SIDES]
    lengths = [sum(rest.lengths[f"{side}_leg"]) for side in _SIDES]
    up = unit(floor.up)
    one_metre = scale * float(np.linalg.norm(floor.up))
    for last in (False, True):
        planted = [standing.plant(foot, side, contacts, floor, scale) for side, foot in enumerate(feet)]
        lowered = standing.lower_hips(hips, planted, lengths, up, standing.LOWERED * one_metre)
        raised, missed = [], []
        for hip, foot, length in zip(hips, planted, lengths, strict=True):
            hip = hip - lowered[:, None] * up
            raised.append(foot.pivots | (standing.raise_heels(foot, hip, length) > np.radians(2.0)))
            missed.append(np.linalg.norm(hip - foot.ankle, axis=-1) > length + 0.005 * one_metre)
        miss = np.stack(missed, 1)
        if last or not (miss & (contacts.heel | contacts.ball)).any():
            break
        contacts = contacts.without(miss, miss)
    return planted, contacts.without(np.stack(raised, 1), np.zeros_like(miss)), lowered


def _reach(
    limbs: dict[str, _Limb],
    roots: dict[str, Array],
    targets: dict[str, Array | None],
    rest: _Rest,
    straight: float = STRAIGHT,
) -> dict[str, Array]:
    """Bend limbs so that their ends are at the targets; returns (N, 3) where they are. Poses without a move stay."""
    reached = {}
    for name, limb in limbs.items():
        middle, end = _ends(limb, roots[name], rest.lengths[name])
        target = targets[name]
        reached[name] = end
        if target is None:
            continue
        moved = np.linalg.norm(target - end, axis=-1) > 1e-6 * sum(rest.lengths[name])
        if moved.any():
            rows = np.flatnonzero(moved)
            upper, lower, hinge, ends = two_bone(
                roots[name][rows], middle[rows], end[rows], target[rows], limb.hinge[rows], straight
            )
            for old, new in ((limb.upper, upper), (limb.lower, lower), (limb.hinge, hinge), (end, ends)):
                old[rows] = new
    return reached


class _Rest:
    """What the rig looks like at rest, seen with the eyes of the solve (armature space)."""

    def __init__(self, rig: Rig, bones: BoneMap) -> None:
        heads, joints = rig.heads, bones.joints
        at = {joint: heads[row] for joint, row in joints.items()}
        for side in _SIDES:  # bones without a child joint end where they end
            for joint, above in (("ankle", "knee"), ("wrist", "elbow")):
                at.setdefault(f"{side}_{joint}", rig.tails[joints[f"{side}_{above}"]])
        hips, shoulders = at["left_hip"] - at["right_hip"], at["left_shoulder"] - at["right_shoulder"]
        rise = at["left_shoulder"] + at["right_shoulder"] - at["left_hip"] - at["right_hip"]
        # A character stands along an axis of its armature; a stoop of the spine is no reason to lean.
        nearest = np.zeros(3)
        nearest[np.argmax(np.abs(rise))] = np.sign(rise[np.argmax(np.abs(rise))])
        upward = nearest if unit(rise) @ nearest > np.cos(np.radians(30)) else unit(rise)
        left = across(unit(hips) + unit(shoulders), upward)
        self.body = np.stack([left, upward, cross(left, upward)], -1)  # (3, 3) columns left, up, forward

        self.limbs: dict[str, Array] = {}
        self.lengths: dict[str, tuple[float, float]] = {}  # "left_arm" ... -> of both bones, armature units
        for side in _SIDES:
            for kind, (_, root, middle, end) in enumerate(_LIMBS):
                a, b, c = (at[f"{side}_{joint}"] for joint in (root, middle, end))
                self.lengths[f"{side}_{_LIMBS[kind][0]}"] = float(np.linalg.norm(b - a)), float(np.linalg.norm(c - b))
        self.span = _span({name: point[None] @ rig.to_world[:3, :3].T for name, point in at.items()})
        for side in _SIDES:
            for root, middle, end, reference in (
                ("shoulder", "elbow", "wrist", _arm_reference(side, self.body[None])),
                ("hip", "knee", "ankle", _leg_reference(self.body[None])),
            ):
                a, b, c = (at[f"{side}_{joint}"] for joint in (root, middle, end))
                if min(np.linalg.norm(b - a), np.linalg.norm(c - b)) < 1e-6 * np.linalg.norm(rise):
                    raise HeroError(
                        f"In the armature '{rig.name}' the {side} {middle} has no distance to its neighbours; "
                        "correct the map or the rest pose of its bones."
                    )
                upper, lower = unit(b - a), unit(c - b)
                hint = reference(upper[None])[0]
                normal = cross(upper, lower)
                bend = np.degrees(np.arctan2(np.linalg.norm(normal), upper @ lower))
                # A rest pose that is clearly bent shows its hinge; in a straight one the plane is an accident.
                trust = _smoothstep(bend, 4.0, 15.0) * (unit(normal) @ hint > 0.3)
                hinge = across(trust * unit(normal) + (1 - trust) * hint, upper)
                self.limbs[f"{side}_{root}"] = basis(upper, hinge)
                self.limbs[f"{side}_{middle}"] = basis(lower, hinge)

        self.feet: dict[str, Array] = {}
        self.balls: dict[str, Array] = {}
        for side in _SIDES:
            if f"{side}_ankle" not in bones.segments:
                continue
            ball = self.balls[side] = at.get(f"{side}_foot", rig.tails[joints[f"{side}_ankle"]])
            ahead = ball - at[f"{side}_ankle"]
            flat = ahead - (ahead @ upward) * upward
            forward = unit(flat) if np.linalg.norm(flat) > 0.3 * np.linalg.norm(ahead) else self.body[:, 2]
            left_of_foot = cross(upward, forward)
            self.feet[side] = np.stack([left_of_foot, upward, forward], -1)

        world = rig.to_world[:3, :3]
        self.leg = float(
            np.mean(
                [
                    np.linalg.norm(world @ (at[f"{side}_knee"] - at[f"{side}_hip"]))
                    + np.linalg.norm(world @ (at[f"{side}_ankle"] - at[f"{side}_knee"]))
                    for side in _SIDES
                ]
            )
        )
        # The floor is the plane of the armature's origin where the feet stand on it, else the lowest point of the feet.
        self._gravity = world[1]
        feet = [row for side in _SIDES for row in _below(rig, joints.get(f"{side}_ankle", joints[f"{side}_knee"]))]
        lowest = float(min(self.level(rig.heads[feet]).min(), self.level(rig.tails[feet]).min()))
        self.floor = 0.0 if 0.0 <= lowest < 0.12 * self.leg else lowest
        self.points = at

    def level(self, points: Array) -> Any:
        """(...,) how high (..., 3) points of the armature are above its origin, scene units."""
        return points @ self._gravity


def _below(rig: Rig, top: int) -> list[int]:
    return [row for row in range(len(rig.names)) if top in rig.line(row)]


def _smoothstep(x: Any, low: float, high: float) -> Any:
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def _ease(frame: Array, directions: Array) -> Array:
    """(3,) the usual direction of a segment in its frame (N, 3, 3): the median, which a few big moves do not shift."""
    local = np.einsum("nji,nj->ni", frame, unit(directions))
    return unit(np.median(local, axis=0))


def _ease_of_head(chest: Array, at: dict[str, Array]) -> Array:
    """Skeletons put the head joint from right above the neck to 40 degrees before it; a head at ease is upright."""
    direction = _ease(chest, at["head"] - at["neck"])
    lean = np.clip(np.arctan2(direction[2], direction[1]), 0.0, np.radians(40))
    return np.array([0.0, np.cos(lean), np.sin(lean)])


def _follow(frame: Array, directions: Array, ease: Array) -> Array:
    """(N, 3, 3) the frame swung as the segment has swung from its direction at ease."""
    local = np.einsum("nji,nj->ni", frame, unit(directions))
    # These segments are 10 to 14 cm long, so a centimetre of noise in a joint is a nod; a head has inertia.
    return frame @ swing(ease, unit(gaussian(local, 2.0)))


def _arm_reference(side: str, chest: Array) -> Any:
    """Where the elbow axis is when nothing else tells: as in an arm held low and aside, which bends forward."""
    ease = unit(np.array([0.6 if side == "left" else -0.6, -0.8, 0.0]))
    axis = np.cross(ease, [0.0, 0.0, 1.0])

    def reference(upper: Array) -> Array:
        local = np.einsum("nji,nj->ni", chest, upper)
        return np.einsum("nij,njk,k->ni", chest, swing(ease, local), axis)

    return reference


def _leg_reference(pelvis: Array) -> Any:
    """Where the knee axis is when nothing else tells: to the left, as in a leg that hangs from the hips."""

    def reference(upper: Array) -> Array:
        local = np.einsum("nji,nj->ni", pelvis, upper)
        return np.einsum("nij,njk,k->ni", pelvis, swing(np.array([0.0, -1.0, 0.0]), local), np.array([1.0, 0.0, 0.0]))

    return reference


def _limb(
    root: Array, middle: Array, end: Array, reference: Any, foot: Array | None, jittery: bool
) -> tuple[Array, Array, Array]:
    """Directions of the two segments and the axis about which the joint between them bends; (N, 3) each.

    The axis is such that a positive turn about it bends the limb the natural way. With ``foot`` (ankle to ball) the
    limb is a leg: the foot points where the shin faces. In ``jittery`` motion the plane of a bent limb is noise too.
    """
    first, second = middle - root, end - middle
    lengths = np.linalg.norm(first, axis=-1, keepdims=True), np.linalg.norm(second, axis=-1, keepdims=True)
    upper, lower = unit(first), unit(second)
    normal = cross(upper, lower)
    bend = np.degrees(np.arctan2(np.linalg.norm(normal, axis=-1), np.sum(upper * lower, -1)))  # (N,)
    hint = reference(upper)
    if foot is not None:
        aside = cross(unit(foot), lower)  # left of the shin; vanishes where the foot is stretched along it
        tells = _smoothstep(np.linalg.norm(aside, axis=-1), 0.2, 0.7)[:, None]
        tells = tells * (np.sum(unit(aside) * hint, -1, keepdims=True) > -0.2)
        hint = across(unit((1 - 0.7 * tells) * hint + 0.7 * tells * unit(aside)), upper)
    # The axis as an angle about the upper segment, from the hint.
    third = cross(upper, hint)
    angle = np.arctan2(np.sum(normal * third, -1), np.sum(normal * hint, -1))
    # The flatter the triangle, the less its normal means: a centimetre of noise turns that of a limb bent by 10 degrees
    # by 25. So flat ones lean on the frames around, weighed by how much they are bent, and at last on the hint.
    seen = np.minimum(np.sin(np.radians(np.minimum(bend, 90.0))), 0.6) ** 2 * np.exp(1j * angle)
    if foot is not None:  # a knee that bends the wrong way by a little is straight and noisy
        seen = np.where(np.abs(angle) > np.pi / 2, _smoothstep(bend, 25.0, 45.0), 1.0) * seen
    around = gaussian(seen, 2.5) + 0.1 * gaussian(seen, 10.0) + 0.0015
    clear = _smoothstep(bend, 8.0, 30.0) * (np.abs(seen) > 0)
    plane = np.exp(1j * np.angle(gaussian(seen, 1.5))) if jittery else np.exp(1j * angle)
    angle = np.angle((1 - clear) * around / np.abs(around) + clear * plane)
    hinge = _turn_limited(upper, hint, angle, _TURN_LIMITS[0] + clear * (_TURN_LIMITS[1] - _TURN_LIMITS[0]))
    return (*_unbend(upper * lengths[0], lower * lengths[1], hinge, bend), hinge)


def _turn_limited(upper: Array, hint: Array, angle: Array, limit: Array) -> Array:
    """(N, 3) the hinge at ``angle`` (N,) from the hint about the limb, turning by at most ``limit`` (N,) a pose.

    What counts is the turn against the hinge of the pose before carried along by the limb's swing: the hint itself may
    spin where the limb points away from where it rests.
    """
    third = cross(upper, hint)
    carried = np.einsum("nij,nj->ni", swing(upper[:-1], upper[1:]), hint[:-1])
    drift = np.arctan2(np.sum(carried * third[1:], -1), np.sum(carried * hint[1:], -1))
    turned = angle.tolist()
    for now, (slip, most) in enumerate(zip(drift.tolist(), limit[1:].tolist(), strict=True), 1):
        before = turned[now - 1] + slip
        step = (turned[now] - before + np.pi) % (2 * np.pi) - np.pi
        turned[now] = before + min(max(step, -most), most)
    turns = np.array(turned)[:, None]
    return np.asarray(np.cos(turns) * hint + np.sin(turns) * third)


def _unbend(first: Array, second: Array, hinge: Array, bend: Array) -> tuple[Array, Array]:
    """Directions of the two segments with a knee or elbow that bends backwards a little made straight, ends in line.

    One that bends far against its hinge (``bend`` in degrees) is meant so; its directions stay.
    """
    chord = unit(first + second)
    back = cross(across(hinge, chord), chord)  # the side to which the joint never goes
    amount = np.where(np.sum(first * back, -1) > 0, 1 - _smoothstep(bend, 15.0, 30.0), 0.0)[:, None]
    first, second = (each - amount * np.sum(each * back, -1, keepdims=True) * back for each in (first, second))
    return unit(first), unit(second)


def _foot(joints: Array, side: str, foot: Array, hinge: Array, up: Array, near: Array, standing: Array) -> Array:
    """(N, 3, 3) columns left, up, forward of the sole: level where the foot stands."""
    ankle, ball = joints[:, _J[f"{side}_ankle"]], joints[:, _J[f"{side}_foot"]]
    slopes = np.arcsin(np.clip((ankle - ball)[:, 1] / np.maximum(np.linalg.norm(ankle - ball, axis=-1), 1e-9), -1, 1))
    slope = float(np.median(slopes[standing])) if standing.sum() >= 3 else _FLAT_FOOT
    forward = unit(foot)
    in_air, on_floor = across(hinge, forward), unit(cross(up, forward))
    # A sole on the floor is level; the foot of somebody who lies is near the floor too, but not on its sole.
    level = near * _smoothstep(np.sum(in_air * on_floor, -1, keepdims=True), 0.5, 0.9)
    left = across((1 - level) * in_air + level * on_floor, forward)
    # Only the plane of the knee tells the roll of a foot in the air, and that turns fast where the leg is straight.
    left = across(gaussian(left, _ROLLS), forward)
    upward = cross(forward, left)
    cosine, sine = np.cos(slope), np.sin(slope)
    # Turned up about its own left by the slope of a standing foot.
    return np.stack([left, cosine * upward - sine * forward, cosine * forward + sine * upward], -1)


def _near_floor(joints: Array) -> dict[str, tuple[Array, Array]]:
    """Side -> (N, 1) how near the floor the foot is, 0..1, and (N,) where it stands flat and still."""
    floor = np.percentile(joints[:, [_J[f"{s}_{j}"] for s in _SIDES for j in ("ankle", "foot")], 1].min(1), 5)
    found = {}
    for side in _SIDES:
        ankle, ball = joints[:, _J[f"{side}_ankle"]], joints[:, _J[f"{side}_foot"]]
        high = ball[:, 1] - floor
        near = gaussian(1 - _smoothstep(high, 0.03, 0.09), 1.0)[:, None]
        still = (high < 0.06) & (speeds(ball) < 0.3)
        if still.any():  # with the heel down, not on tiptoe
            still &= ankle[:, 1] <= np.median(ankle[still, 1]) + 0.01
        found[side] = near, still
    return found


def _leg_length(joints: Array) -> float:
    legs = [
        np.linalg.norm(joints[:, _J[f"{side}_{a}"]] - joints[:, _J[f"{side}_{b}"]], axis=-1)
        for side in _SIDES
        for a, b in (("hip", "knee"), ("knee", "ankle"))
    ]
    length = float(np.median(legs[0] + legs[1] + legs[2] + legs[3]) / 2)
    if length < 1e-6:
        raise HeroError("The motion's legs have no length; its joints must be (N, 22, 3) in metres, HumanML3D order.")
    return length


def _forward(
    rig: Rig,
    turns: dict[int, Array],
    pelvis: int,
    path: Array,
    pieces: list[int],
    carriers: dict[int, int],
    only: set[int] | None = None,
) -> tuple[Array, Array]:
    """(N, B, 3, 3) turns and (N, B, 3) heads of all bones; the pelvis follows ``path`` (N, 3).

    pieces, carriers: rows that hang on no bone that turns, and for each the row that carries it as if it hung there
    only: rows that are wanted, with all that they hang on; the others stay unset.
    """
    count = len(path)
    identity = np.broadcast_to(np.eye(3), (count, 3, 3))
    all_turns = np.empty((count, len(rig.names), 3, 3))
    heads = np.empty((count, len(rig.names), 3))
    for row, parent in enumerate(rig.parents):
        if only is not None and row not in only:
            continue
        follow = all_turns[:, parent] if parent >= 0 else identity
        if row in turns:
            all_turns[:, row] = turns[row]
        else:
            all_turns[:, row] = follow if rig.inherit_rotation[row] else identity
        if row == pelvis:
            heads[:, row] = path
        elif parent >= 0:
            heads[:, row] = heads[:, parent] + follow @ (rig.heads[row] - rig.heads[parent])
        else:
            heads[:, row] = rig.heads[row]
    for row in pieces:  # moved as a whole, with what hangs on it
        if only is not None and row not in only:
            continue
        carrier = carriers[row]
        shift = heads[:, carrier] + all_turns[:, carrier] @ (rig.heads[row] - rig.heads[carrier]) - heads[:, row]
        for below in _below(rig, row):
            heads[:, below] += shift
    return all_turns, heads


def _height_over_floor(floors: dict[str, tuple[Array, Array]], heads: Array, rest: _Rest, bones: BoneMap) -> float:
    """How much too high (scene units) the rig is, once for the whole motion, so that the hips keep their path."""
    gaps, stands = [], []
    for side in _SIDES:
        if f"{side}_ankle" in bones.joints:
            ankle = rest.level(heads[:, bones.joints[f"{side}_ankle"]])
            gaps.append(ankle - rest.level(rest.points[f"{side}_ankle"]))
            stands.append(floors[side][1])
    if not gaps:
        return 0.0
    gap, stand = np.concatenate(gaps), np.concatenate(stands)
    return float(np.median(gap[stand])) if stand.sum() >= 3 else float(np.percentile(gap, 2))


def to_keys(solved: Pose, rig: Rig, bones: BoneMap, options: Options | None = None) -> BoneKeys:
    """Pose channels of the bones that the solve turns; constraints are not looked at.

    Raises HeroError where the root bone is to carry the way and there is none above the hips.
    """
    options = options or Options()
    rotations: dict[str, Array] = {}
    locations: dict[str, Array] = {}
    skipped = []
    still = set()
    movers = {}
    for row in solved.roots:  # a bone glued to its parent cannot move, then its parents carry it
        movers[row] = next((line for line in rig.line(row) if not rig.connected[line] or rig.parents[line] < 0), row)
    for row in solved.turned:
        still.update(rig.line(row)[1:])
        if rig.owned[row]:
            skipped.append(rig.names[row])
            continue
        parent = int(rig.parents[row])
        own = rig.rotations[row]
        turn = solved.turns[:, row]
        if parent >= 0 and rig.inherit_rotation[row]:
            turn = np.swapaxes(solved.turns[:, parent], -1, -2) @ turn
        keys = continuous(to_quaternion(own.T @ turn @ own))
        if options.limits and rig.limits is not None:
            keys = clamp(keys, rig.limits[row])
        rotations[rig.names[row]] = keys
    heads, root, travel = split_path(solved, rig, bones, options)
    for row, mover in movers.items():
        locations[rig.names[mover]] = location_channel(rig, mover, heads[:, row] - rig.heads[row])
    if root is not None:
        locations[rig.names[root[0]]] = location_channel(rig, root[0], root[1])
    still -= set(solved.turned) | {rig.index[name] for name in locations}
    return BoneKeys(
        rotations,
        locations,
        solved.scale,
        {joint: rig.names[bones.joints[joint]] if joint in bones.joints else None for joint in JOINTS},
        still=tuple(rig.names[row] for row in sorted(still) if not rig.owned[row]),
        skipped=tuple(skipped),
        settings={
            (bone, f'["{key}"]'): value for (bone, key), value in bones.preset.settings.items() if bone in rig.index
        },
        travel=travel,
        measures=dict(solved.measures),
        contacts=solved.contacts.named() if solved.contacts is not None else None,
        rate=solved.rate,
    )


def split_path(
    solved: Pose, rig: Rig, bones: BoneMap, options: Options
) -> tuple[Array, tuple[int, Array] | None, Array | None]:
    """Who carries the way through the scene: the heads without what others carry, the root bone, the object.

    Returns (N, B, 3) heads in armature space as the bones below the carrier are to have them, the row and (N, 3)
    move of the root bone in armature space or None, and (N, 3) the travel of the object in scene units, Y up, or None.
    The way is that of the hips along the floor; heights and turns stay with the hips. In place it is left out, so the
    carrier stays too. Raises HeroError where the root bone is to carry it and there is none.
    """
    if options.root == "hips" and not options.in_place:
        return solved.heads, None, None
    heads = solved.heads - solved.path[:, None]
    if options.in_place:
        return heads, None, None
    if options.root == "object":
        return heads, None, solved.path @ rig.to_world[:3, :3].T
    pelvis = bones.joints["pelvis"]
    above = [row for row in rig.line(pelvis)[1:] if not rig.owned[row]]
    if not above:
        raise HeroError(
            f"The armature '{rig.name}' has no root bone above '{rig.names[pelvis]}' that can be keyed; let the hips "
            "or the object carry the way."
        )
    # Other pieces of a rig hang elsewhere: they go their own way, as the root bone does not take them along.
    for row in solved.roots:
        if above[-1] not in rig.line(row):
            heads[:, row] = solved.heads[:, row]
    return heads, (above[-1], solved.path), None


def location_channel(rig: Rig, row: int, move: Array) -> Array:
    """(N, 3) location keys of a bone below unmoved parents from its displacement in armature space."""
    parent = int(rig.parents[row])
    if rig.use_local_location[row]:
        axes = rig.rotations[row]
    else:
        axes = rig.rotations[parent] if parent >= 0 else np.eye(3)
    return move @ axes
