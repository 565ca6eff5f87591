# SPDX-License-Identifier: GPL-3.0-or-later
"""Rigs whose own IK constraints drive arms or legs: their targets and poles are keyed, and the limb follows.

A limb counts if its last bone before the hand or foot, or hand or foot itself by its head, has an IK constraint on the
limb whose target is a bone of the same armature. The target goes where the chain has to end, with the turn of hand or
foot; the pole goes out from the bend of the joint, at the angle at which it stands at rest, so that ``pole_angle``
keeps its meaning. What they hang on is held at rest, and so is the length of a limb that the IK may stretch. What
cannot be keyed (a target outside the armature, one that a constraint or driver owns, an IK that has only a part of the
influence or bends the body, too) is said and left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.retarget import BoneKeys, BoneMap, Pose, Reach, Rig
from hero_core.retarget.options import Options
from hero_core.retarget.rotations import across, continuous, to_matrix, to_quaternion, unit
from hero_core.retarget.solve import location_channel

Array = npt.NDArray[Any]

_LIMBS = tuple(
    (f"{side}_{root}", f"{side}_{middle}", f"{side}_{end}")
    for side in ("left", "right")
    for root, middle, end in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
)


@dataclass(frozen=True)
class Chain:
    """One limb with IK: rows of its joints' bones, of the bone that has the constraint, and of what steers it."""

    joints: tuple[str, str, str]
    owner: int
    target: int
    pole: int | None
    tip: Array  # (3,) where the chain ends at rest, armature space
    stretches: tuple[str, ...] = ()  # its bones that the IK may make longer
    follows: bool = False  # hand or foot turn with the target


def find(obj: bpy.types.Object, rig: Rig, bones: BoneMap) -> tuple[list[Chain], list[str]]:
    """The limbs whose IK can be keyed, and a sentence for each that cannot."""
    chains, told = [], []
    for joints in _LIMBS:
        root, middle, end = joints
        if root not in bones.joints or middle not in bones.joints:
            continue
        limb = {*bones.segments.get(root, ()), *bones.segments.get(middle, ())}
        ends = [bones.joints[end]] if end in bones.joints else []
        for row in (*ends, *(bones.segments.get(middle) or (bones.joints[middle],))[::-1]):
            constraint = next(
                (
                    each
                    for each in obj.pose.bones[rig.names[row]].constraints
                    if each.type == "IK" and each.target and each.is_valid and not each.mute and each.influence > 0
                ),
                None,
            )
            if constraint is None or (row in ends and constraint.use_tail):
                continue
            line = rig.line(row)[0 if constraint.use_tail else 1 :]
            reach = line[: constraint.chain_count or None]
            if not limb & {*reach}:
                continue
            reason = _cannot(obj, rig, constraint)
            if bones.joints["pelvis"] in reach:
                reason = f"bends the body up to '{rig.names[reach[-1]]}', too; shorten its chain"
            if reason:
                told.append(f"the IK of '{rig.names[row]}' {reason}")
                break
            tip = rig.tails[row] if constraint.use_tail else rig.heads[row]
            pole = rig.index.get(constraint.pole_subtarget) if constraint.pole_target == obj else None
            names = [rig.names[each] for each in reach] if constraint.use_stretch else []
            stretches = tuple(name for name in names if obj.pose.bones[name].ik_stretch > 0)
            follows = bool(ends) and _follows(obj, rig.names[ends[0]], constraint.subtarget)
            chains.append(Chain(joints, row, rig.index[constraint.subtarget], pole, tip, stretches, follows))
            break
    return chains, told


def _follows(obj: bpy.types.Object, name: str, target: str) -> bool:
    """Whether a bone copies the turn of the target of its limb's IK."""
    return any(
        each.type in {"COPY_ROTATION", "COPY_TRANSFORMS"}
        and each.target == obj
        and each.subtarget == target
        and not each.mute
        and each.influence == 1.0
        for each in obj.pose.bones[name].constraints
    )


def _cannot(obj: bpy.types.Object, rig: Rig, constraint: Any) -> str | None:
    if constraint.target != obj or constraint.subtarget not in rig.index:
        return "has its target outside the armature"
    if rig.owned[rig.index[constraint.subtarget]]:
        return f"has a target, '{constraint.subtarget}', that a constraint or driver owns"
    if constraint.pole_target is not None and constraint.pole_target != obj:
        return "has its pole outside the armature"
    if constraint.pole_target == obj and (
        constraint.pole_subtarget not in rig.index or rig.owned[rig.index[constraint.pole_subtarget]]
    ):
        return f"has a pole, '{constraint.pole_subtarget}', that a constraint or driver owns"
    for name in (constraint.subtarget, constraint.pole_subtarget if constraint.pole_target == obj else ""):
        carrier = _carrier(obj, name) if name else None
        if carrier is not None:
            return f"has '{name}' carried by the constraint '{carrier}'; set the influence of that to 0"
    if constraint.influence < 1.0:
        return f"has {constraint.influence:.0%} of the influence; give it all or none"
    return None


def _carrier(obj: bpy.types.Object, name: str) -> str | None:
    """A constraint that takes a bone along with something, so that its keys do not say where it is."""
    for each in obj.pose.bones[name].constraints:
        if each.type == "CHILD_OF" and not each.mute and each.influence > 0 and each.target is not None:
            return each.name
    return None


def steer(chains: list[Chain], rig: Rig, bones: BoneMap, solved: Pose, keys: BoneKeys, options: Options) -> BoneKeys:
    """The keys with those of targets and poles, such that the limbs are where ``solved`` has them."""
    rotations, locations = dict(keys.rotations), dict(keys.locations)
    heads = solved.heads
    if options.in_place or options.root == "object":
        heads = heads - solved.path[:, None]
    steered: set[str] = set()
    limbs: list[Reach] = []
    wanted: list[tuple[int, Array, Array, Array | None]] = []  # see ``_key``
    for chain in chains:
        root, end = bones.joints[chain.joints[0]], bones.joints.get(chain.joints[2])
        steered |= {rig.names[row] for joint in chain.joints[:2] for row in bones.segments.get(joint, ())}
        if chain.follows:
            steered.add(rig.names[bones.joints[chain.joints[2]]])
        tip = heads[:, chain.owner] + solved.turns[:, chain.owner] @ (chain.tip - rig.heads[chain.owner])
        turn = solved.turns[:, end if end is not None else chain.owner]
        wanted.append((chain.target, tip, chain.tip, turn))
        middle = rig.heads[bones.joints[chain.joints[1]]]
        carriers = tuple(name for row in rig.line(root)[1:] if (name := rig.names[row]) in keys.rotations)
        lengths = float(np.linalg.norm(middle - rig.heads[root])), float(np.linalg.norm(chain.tip - middle))
        limbs.append(Reach(rig.names[chain.target], carriers, heads[:, root], tip, lengths))
        if chain.pole is not None:
            hinge = solved.hinges[chain.joints[1]]
            place = _pole(rig, chain, root, heads[:, root], tip, solved.turns[:, root], hinge)
            wanted.append((chain.pole, place, rig.heads[chain.pole], None))
    above: set[int] = set()
    for row, place, rest_place, own in sorted(wanted, key=lambda each: len(rig.line(each[0]))):
        _key(row, rig, place, rest_place, own, rotations, locations)  # from the root down: a pole may hang on a target
        above.update(rig.line(row)[1:])
    held = [*keys.still, *(rig.names[row] for row in sorted(above) if not rig.owned[row])]
    return replace(
        keys,
        rotations=rotations,
        locations=locations,
        skipped=tuple(name for name in keys.skipped if name not in steered),
        still=tuple(name for name in dict.fromkeys(held) if name not in rotations and name not in locations),
        settings=keys.settings | {(name, "ik_stretch"): 0.0 for chain in chains for name in chain.stretches},
        limbs=tuple(limbs),
    )


def _pole(rig: Rig, chain: Chain, root: int, start: Array, tip: Array, turn: Array, hinge: Array) -> Array:
    """(N, 3) where the pole has to be for the limb to have the roll that it is to have.

    Blender turns the limb about the line from its root to its tip until the pole is at a fixed angle about that line
    against the bone; so what the angle is at rest, measured from the axis of the joint, it has to be in each pose.
    """
    assert chain.pole is not None
    line = chain.tip - rig.heads[root]
    away = rig.heads[chain.pole] - rig.heads[root]
    along = unit(line)
    axis = across(np.median(np.einsum("nji,nj->ni", turn, hinge), axis=0), along)
    aside = away - (away @ along) * along
    cosine, sine = float(aside @ axis), float(aside @ np.cross(along, axis))
    chord = unit(tip - start)
    now = across(hinge, chord)
    share = float(away @ line) / float(line @ line)
    return np.asarray(start + share * (tip - start) + cosine * now + sine * np.cross(chord, now))


def _key(
    row: int,
    rig: Rig,
    place: Array,
    rest_place: Array,
    turn: Array | None,
    rotations: dict[str, Array],
    locations: dict[str, Array],
) -> None:
    """Location and, with ``turn``, rotation keys of a steering bone that hangs on bones that are keyed or still.

    ``place``: (N, 3) where the point is to be that is at ``rest_place`` at rest.
    """
    name = rig.names[row]
    above, head = _carried(rig, rotations, locations, row, len(place))
    moved = turn if turn is not None else above
    wanted = place + np.einsum("nij,j->ni", moved, rig.heads[row] - rest_place)
    # Location channels act before the bone's own turn, in the frame of what carries it.
    off = np.einsum("nji,nj->ni", above, wanted - head)
    locations[name] = location_channel(rig, row, off)
    if turn is not None:
        own = rig.rotations[row]
        follow = np.swapaxes(above, -1, -2) @ turn if rig.inherit_rotation[row] else turn
        rotations[name] = continuous(to_quaternion(own.T @ follow @ own))


def _carried(
    rig: Rig, rotations: dict[str, Array], locations: dict[str, Array], row: int, count: int
) -> tuple[Array, Array]:
    """(N, 3, 3) turn and (N, 3) place of a bone's rest head as the keyed bones above it carry it."""
    turn, head = np.broadcast_to(np.eye(3), (count, 3, 3)), np.broadcast_to(rig.heads[row], (count, 3))
    line = rig.line(row)[1:][::-1]
    if not line:
        return turn, head
    at = np.broadcast_to(rig.heads[line[0]], (count, 3))
    for number, up in enumerate(line):
        name = rig.names[up]
        if number:
            at = at + turn @ (rig.heads[up] - rig.heads[line[number - 1]])
        if name in locations:
            parent = int(rig.parents[up])
            above = rig.rotations[parent] if parent >= 0 else np.eye(3)
            axes = rig.rotations[up] if rig.use_local_location[up] else above
            at = at + np.einsum("nij,nj->ni", turn @ axes, locations[name])
        if not rig.inherit_rotation[up]:
            turn = np.broadcast_to(np.eye(3), (count, 3, 3))
        if name in rotations:
            own = rig.rotations[up]
            turn = turn @ own @ to_matrix(rotations[name]) @ own.T
    return turn, at + turn @ (rig.heads[row] - rig.heads[line[-1]])
