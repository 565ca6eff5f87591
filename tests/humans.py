# SPDX-License-Identifier: GPL-3.0-or-later
"""Characters of many builds as plain data, with what each of their bones is: what finding the bones is tested on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from skeletons import about

from hero_core.retarget import Rig

Array = npt.NDArray[Any]
Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass
class Build:
    """What a character is made of; metres, Z up, facing -Y.

    arms      degrees below the horizontal, negative: raised
    spine     bones from pelvis to chest, without these
    neck      bones
    split     parts of each limb bone
    hand      0 none, 1 a hand, 2 with fingers, 3 with a bone for their ends
    """

    arms: float = 0.0
    spine: int = 3
    neck: int = 1
    split: int = 1
    hand: int = 1
    collars: bool = True
    toes: bool = True
    leaves: bool = False
    twists: bool = False
    face: bool = False
    hair: bool = False
    skirt: bool = False
    tail: bool = False
    weapon: bool = False
    root: bool = False
    hip_helpers: bool = False
    head_size: float = 1.0
    leg_size: float = 1.0


@dataclass
class _Bones:
    rows: list[tuple[str, str | None, Array, Array]] = field(default_factory=list)

    def add(self, name: str, parent: str | None, head: Any, tail: Any) -> str:
        self.rows.append((name, parent, np.array(head, float), np.array(tail, float)))
        return name

    def chain(self, name: str, parent: str, points: list[Any]) -> str:
        """A bone between each two points; the name of the last."""
        for at, (head, tail) in enumerate(pairwise(points), 1):
            parent = self.add(f"{name}{at}", parent, head, tail)
        return parent


def human(build: Build | None = None) -> tuple[Rig, dict[str, str]]:
    """The rig and joint -> bone name for the joints that it has."""
    it, bones = build or Build(), _Bones()
    joints: dict[str, str] = {}
    legs = it.leg_size
    hip_height = 0.1 + 0.8 * legs
    low, high = np.array([0, 0.02, hip_height + 0.05]), np.array([0, 0.01, hip_height + 0.5])
    root = bones.add("root", None, (0, 0, 0), (0, 0.3, 0)) if it.root else None
    points = [low + (high - low) * t for t in np.linspace(0, 1, it.spine + 2)]
    above = joints["pelvis"] = bones.add("pelvis", root, points[0], points[1])
    spine = []
    for at in range(it.spine):
        above = bones.add(f"spine{at}", above, points[at + 1], points[at + 2])
        spine.append(above)
    names = {0: (), 1: ("spine1",), 2: ("spine1", "spine3")}.get(it.spine, ("spine1", "spine2", "spine3"))
    picked = spine if it.spine < 3 else [spine[0], spine[it.spine // 2], spine[-1]]
    joints |= dict(zip(names, picked, strict=True))
    chest = above

    at_neck = high + [0, 0.01, 0.04]
    at_head = at_neck + np.array([0, -0.02, 0.1])
    top = at_head + np.array([0, 0, 0.2 * it.head_size])
    if it.neck:
        steps = [at_neck + (at_head - at_neck) * t for t in np.linspace(0, 1, it.neck + 1)]
        joints["neck"] = "neck1"
        above = bones.chain("neck", chest, steps)
    head = joints["head"] = bones.add("head", above, at_head, top)
    if it.leaves:
        bones.add("head_end", head, top, top + [0, 0, 0.2 * it.head_size])
    if it.face:
        face = bones.add("face", head, at_head, at_head + [0, -0.05, 0.05])
        bones.add("jaw", face, at_head + [0, -0.03, 0], at_head + [0, -0.1, -0.03])
        for sign in (1, -1):
            for number in range(3):
                spot = at_head + [sign * (0.02 + 0.01 * number), -0.1, 0.05 + 0.02 * number]
                bones.add(f"face{sign}{number}", face, spot, spot + [0, -0.02, 0])
    if it.hair:
        for sign, name in ((1, "l"), (-1, "r")):
            start = top + [sign * 0.08, 0.05, -0.05]
            bones.chain(f"hair_{name}", head, [start + np.array([sign * 0.02, 0.03, -0.13]) * n for n in range(6)])
        bones.chain("pony", head, [top + np.array([0, 0.05, -0.1]) * n for n in range(5)])

    for sign, side in ((1, "left"), (-1, "right")):
        _leg(it, bones, joints, side, sign, legs, hip_height)
        _arm(it, bones, joints, side, sign, chest, high)
    if it.skirt:
        for number, angle in enumerate(np.radians([30, 90, 150, 210, 270, 330])):
            out = np.array([np.sin(angle), np.cos(angle), 0])
            points = [low + 0.13 * out + (0.03 * out + [0, 0, -0.12]) * n for n in range(4)]
            bones.chain(f"skirt{number}_", "pelvis", points)
    if it.tail:
        bones.chain("tail", "pelvis", [low + np.array([0, 0.12 * n, -0.05 * n]) for n in range(7)])
    return _rig(bones), joints


def _parts(name: str, count: int) -> list[str]:
    return [name if at == 0 else f"{name}_part{at}" for at in range(count)]


def _segment(bones: _Bones, it: Build, name: str, parent: str, start: Array, end: Array) -> str:
    """A limb bone in its parts, with twist bones beside it; the name of the last part."""
    steps = [start + (end - start) * t for t in np.linspace(0, 1, it.split + 1)]
    for part, head, tail in zip(_parts(name, it.split), steps[:-1], steps[1:], strict=True):
        parent = bones.add(part, parent, head, tail)
    if it.twists:
        middle = (start + end) / 2
        bones.add(f"{name}_twist1", name, start, middle)
        bones.add(f"{name}_twist2", f"{name}_twist1", middle, middle + (end - start) * 0.1)
        bones.add(f"{name}_share", name, end, end + [0, 0, 0.01])
    return parent


def _leg(
    it: Build, bones: _Bones, joints: dict[str, str], side: str, sign: int, size: float, hip_height: float
) -> None:
    hip = np.array([sign * 0.09, 0.01, hip_height])
    knee, ankle = hip + [sign * 0.01, -0.015, -0.4 * size], hip + [sign * 0.01, 0.015, -0.8 * size]
    ball = np.array([ankle[0] + sign * 0.01, ankle[1] - 0.14, 0.02])
    above = "pelvis"
    if it.hip_helpers:
        above = bones.add(f"{side}_hipjoint", "pelvis", (0, 0.02, hip_height + 0.05), hip)
    above = _segment(bones, it, f"{side}_thigh", above, hip, knee)
    above = _segment(bones, it, f"{side}_shin", above, knee, ankle)
    above = bones.add(f"{side}_foot", above, ankle, ball)
    joints[f"{side}_hip"], joints[f"{side}_knee"] = f"{side}_thigh", f"{side}_shin"
    joints[f"{side}_ankle"] = above
    if it.toes:
        tip = ball + [0, -0.08, 0]
        above = joints[f"{side}_foot"] = bones.add(f"{side}_toe", above, ball, tip)
        if it.leaves:
            bones.add(f"{side}_toe_end", above, tip, tip + [0, -0.08, 0])


def _arm(it: Build, bones: _Bones, joints: dict[str, str], side: str, sign: int, chest: str, high: Array) -> None:
    down = np.radians(it.arms)
    along = np.array([sign * np.cos(down), 0, -np.sin(down)])
    shoulder = high + [sign * 0.17, 0.0, -0.02]
    elbow = shoulder + 0.27 * along + [0, 0.01, 0]
    wrist = shoulder + 0.52 * along + [0, -0.01, 0]
    above = chest
    if it.collars:
        above = joints[f"{side}_collar"] = bones.add(
            f"{side}_collar", chest, high + [sign * 0.03, -0.03, -0.02], shoulder
        )
    above = _segment(bones, it, f"{side}_upper_arm", above, shoulder, elbow)
    above = _segment(bones, it, f"{side}_forearm", above, elbow, wrist)
    joints[f"{side}_shoulder"], joints[f"{side}_elbow"] = f"{side}_upper_arm", f"{side}_forearm"
    if not it.hand:
        return
    hand = joints[f"{side}_wrist"] = bones.add(f"{side}_hand", above, wrist, wrist + 0.08 * along)
    if it.hand > 1:
        for number, across in enumerate((-0.03, -0.01, 0.01, 0.03)):
            start = wrist + 0.09 * along + [0, across, 0]
            joints_of_finger = 4 + (it.hand > 2)
            points = [start + 0.03 * along * n for n in range(joints_of_finger)]
            bones.chain(f"{side}_finger{number}_", hand, points)
        start = wrist + 0.02 * along + [0, -0.03, -0.01]
        bones.chain(f"{side}_thumb", hand, [start + (0.02 * along + [0, -0.02, 0]) * n for n in range(4)])
    if it.weapon and side == "right":
        bones.chain("sword", hand, [wrist + 0.07 * along + np.array([0, -0.3 * n, 0]) for n in range(4)])


def _rig(bones: _Bones) -> Rig:
    names = [name for name, *_ in bones.rows]
    count = len(names)
    rest = np.tile(np.eye(4), (count, 1, 1))
    rest[:, :3, 3] = [head for _, _, head, _ in bones.rows]
    yes = np.ones(count, bool)
    return Rig(
        name="Somebody",
        names=tuple(names),
        parents=np.array([names.index(parent) if parent else -1 for _, parent, _, _ in bones.rows]),
        rest=rest,
        tails=np.array([tail for *_, tail in bones.rows]),
        to_world=Y_UP.copy(),
        use_local_location=yes,
        connected=~yes,
        inherit_rotation=yes,
        owned=~yes,
    )


def disguised(of: Rig, seed: int, turn: bool = True) -> tuple[Rig, dict[str, str]]:
    """The rig with meaningless names, siblings in another order, of another size, in another place and turned; and
    new name -> old name."""
    rng = np.random.default_rng(seed)
    children: dict[int, list[int]] = {}
    for row, parent in enumerate(of.parents):
        children.setdefault(int(parent), []).append(row)
    order: list[int] = []
    waiting = list(rng.permutation(children[-1]))
    while waiting:
        order.append(int(waiting.pop()))
        waiting.extend(rng.permutation(children.get(order[-1], [])))
    place = {row: new for new, row in enumerate(order)}
    letters = np.array(list("bdfghjkmnpqstvwxyz"))
    names = [f"{''.join(rng.choice(letters, 6))}{new}" for new in range(len(order))]
    move = np.eye(4)
    if turn:
        move[:3, :3] = about("x", rng.uniform(-180, 180)) @ about("z", rng.uniform(-180, 180))
        move[:3, :3] *= np.exp(rng.uniform(-4, 4))
        move[:3, 3] = rng.uniform(-5, 5, 3)
    new = replace(
        of,
        names=tuple(names),
        parents=np.array([place.get(int(of.parents[row]), -1) for row in order]),
        to_world=move @ of.to_world,
        **{
            each: getattr(of, each)[order]
            for each in ("rest", "tails", "use_local_location", "connected", "inherit_rotation", "owned")
        },
    )
    return new, {name: of.names[row] for name, row in zip(names, order, strict=True)}
