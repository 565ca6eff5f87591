# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bone is which joint where names say nothing: from places and hierarchy alone.

A human at rest is a mirror image of itself. The plane of the mirror is found first, by a vote of bones that could be
partners; what hangs wholly on one side of it is a branch, and branches come in pairs. One pair is the legs and one the
arms: those whose chains divide best into two long parts and an end, that hang right on each other, with legs that run
along the trunk. Every criterion is a cost without units, so size and place of the rig do not matter. Toes, knees and
elbows say where the front is, and so which side is left.

Nothing here looks at names, and the order of siblings does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .rig import Array, Rig
from .rotations import unit

_TOO_MUCH = 4.2  # cost of a human that is none; those of real rigs are below 2, with raised legs at 3
_MANY = 40  # branches of a side that are looked at, the farthest-reaching ones


@dataclass(frozen=True)
class Found:
    """joints: joint -> row; sure: 0..1 for all; facing: how clear it is which side is left, 0..1."""

    joints: dict[str, int]
    sure: float
    facing: float


@dataclass(frozen=True)
class _Limb:
    """A branch seen as a limb: ``top`` its first row, ``line`` rows of its main line, ``joints`` three rows of the
    line (the last -1 where only the tail of the second shows it), ``cost`` of that division."""

    top: int
    line: tuple[int, ...]
    joints: tuple[int, int, int]
    cost: float


class _Tree:
    """The rig with what the search asks for again and again; lengths in heights of the whole."""

    def __init__(self, rig: Rig) -> None:
        linear, heads = rig.to_world[:3, :3], rig.heads
        points = np.concatenate([heads, rig.tails]) @ linear.T
        middle = (points.min(0) + points.max(0)) / 2
        heads = heads @ linear.T
        self.size = float(np.linalg.norm(np.ptp(heads, axis=0)))
        scale = self.size if self.size > 0 else 1.0
        self.heads = (heads - middle) / scale
        self.tails = (rig.tails @ linear.T - middle) / scale
        self.parents = [int(parent) for parent in rig.parents]
        count = len(self.parents)
        self.children: list[list[int]] = [[] for _ in range(count)]
        self.roots = [row for row, parent in enumerate(self.parents) if parent < 0]
        for row, parent in enumerate(self.parents):
            if parent >= 0:
                self.children[parent].append(row)
        # What does not depend on the order of siblings or on rounding of a rotated rig decides between children.
        self.reach = np.zeros(count)  # longest way down by heads, then a bit for the tail
        self.weight = np.ones(count)
        self.sum = self.heads.copy()
        self.below: list[list[int]] = [[row] for row in range(count)]
        for row in range(count - 1, -1, -1):
            if not self.children[row]:
                self.reach[row] = 1e-3 * min(float(np.linalg.norm(self.tails[row] - self.heads[row])), 1.0)
            parent = self.parents[row]
            if parent >= 0:
                step = float(np.linalg.norm(self.heads[row] - self.heads[parent]))
                self.reach[parent] = max(self.reach[parent], step + self.reach[row])
                self.weight[parent] += self.weight[row]
                self.sum[parent] += self.sum[row]
                self.below[parent].extend(self.below[row])
        self.centre = self.sum / self.weight[:, None]

    def up(self, row: int) -> list[int]:
        """The row and its ancestors."""
        line = []
        while row >= 0:
            line.append(row)
            row = self.parents[row]
        return line

    def common(self, rows: list[int]) -> int:
        """Nearest common ancestor-or-self, -1 where there is none; rows may be -1."""
        if min(rows) < 0:
            return -1
        shared = set(self.up(rows[0]))
        for row in rows[1:]:
            shared &= set(self.up(row))
        return next((row for row in self.up(rows[0]) if row in shared), -1)


def find(rig: Rig) -> Found | None:
    """Joints of a human in a rig; None where there is no human in it.

    Joints that the rig does not show (toes, collars, neck) are left out; pelvis and spine are the caller's, from the
    hierarchy. The rest pose is expected to be a T, an A or one with raised arms.
    """
    if len(rig.names) < 7 or not (np.isfinite(rig.heads).all() and np.isfinite(rig.tails).all()):
        return None
    if (np.asarray(rig.parents) >= np.arange(len(rig.names))).any():  # the search goes down the rows
        return None
    tree = _Tree(rig)
    if tree.size <= 0:
        return None
    mirror = _mirror(tree)
    if mirror is None:
        return None
    normal, offset = mirror
    sides = _branches(tree, normal, offset)
    pairs = _pairs(tree, sides, normal, offset)
    # Among the limbs of a body no pair is tiny; hair and wings may be longer than they are.
    length = {top: _length(tree, _main_line(tree, top)) for pair in pairs for top in pair}
    longest = max(length.values(), default=0.0)
    pairs = [pair for pair in pairs if min(length[top] for top in pair) > 0.3 * longest]
    best: tuple[float, tuple[_Limb, _Limb], tuple[_Limb, _Limb]] | None = None
    legs = [limbs for pair in pairs if (limbs := _limbs(tree, pair, "leg")) is not None]
    arms = [limbs for pair in pairs if (limbs := _limbs(tree, pair, "arm")) is not None]
    for leg in legs:
        postures = [(arm, _posture(tree, leg, arm)) for arm in arms if arm[0].top != leg[0].top]
        postures = [(arm, posture) for arm, posture in postures if posture < math.inf]
        nearest = min((float(np.linalg.norm(_trunk(tree, leg, arm))) for arm, _ in postures), default=1.0)
        for arm, posture in postures:
            cost = leg[0].cost + leg[1].cost + arm[0].cost + arm[1].cost + posture
            cost += 0.5 * sum(math.log(longest / length[limb.top]) for limb in (leg[0], arm[0]))
            # Hair hangs above the arms.
            cost += 2.0 * math.log(float(np.linalg.norm(_trunk(tree, leg, arm))) / nearest)
            if best is None or cost < best[0] - 1e-9:
                best = cost, leg, arm
    if best is None or best[0] > _TOO_MUCH:
        return None
    return _label(tree, best[0], best[1], best[2], normal)


def _mirror(tree: _Tree) -> tuple[Array, float] | None:
    """Unit normal and offset of the plane that makes the rig its own mirror image."""
    candidates: list[tuple[float, Array, float]] = []
    for siblings in [tree.roots, *tree.children]:
        rows = sorted(siblings, key=lambda row: -tree.reach[row])[:12]
        for at, one in enumerate(rows):
            for two in rows[at + 1 :]:
                less, more = sorted((tree.reach[one], tree.reach[two]))
                if more < 0.02 or less < 0.6 * more:
                    continue
                apart = tree.centre[one] - tree.centre[two]
                length = float(np.linalg.norm(apart))
                if length > 0.01:
                    normal = apart / length
                    middle = (tree.centre[one] + tree.centre[two]) / 2
                    candidates.append((less, normal, float(middle @ normal)))
    candidates.sort(key=lambda each: -each[0])
    points = np.unique(np.round(tree.heads, 4), axis=0)
    best: tuple[float, Array, float] | None = None
    for _, normal, offset in candidates[:16]:
        image = points - 2 * (points @ normal - offset)[:, None] * normal
        gaps = np.linalg.norm(image[:, None] - points[None], axis=-1).min(1)
        score = float(np.minimum(gaps / 0.03, 1.0).mean())
        if best is None or score < best[0] - 1e-6:
            best = score, normal, offset
    if best is None or best[0] > 0.6:
        return None
    return best[1], best[2]


def _branches(tree: _Tree, normal: Array, offset: float) -> tuple[list[int], list[int]]:
    """Rows at which what hangs below is wholly on one side, while what is above is not; one list for each side."""
    aside = tree.heads @ normal - offset
    ends = tree.tails @ normal - offset
    sides: tuple[list[int], list[int]] = ([], [])
    lateral = np.zeros(len(aside), bool)
    for row in range(len(aside)):
        below = tree.below[row]
        leaves = [each for each in below if not tree.children[each]]
        values = np.concatenate([aside[below], 0.5 * ends[leaves]])
        total = float(np.abs(values).sum())
        share = float(values.sum()) / total if total > 0 else 0.0
        lateral[row] = abs(share) > 0.8 and total / len(values) > 0.008
        parent = tree.parents[row]
        if lateral[row] and not (parent >= 0 and lateral[parent]):
            sides[0 if share > 0 else 1].append(row)
    first, second = (sorted(side, key=lambda row: -tree.reach[row])[:_MANY] for side in sides)
    return first, second


def _pairs(tree: _Tree, sides: tuple[list[int], list[int]], normal: Array, offset: float) -> list[tuple[int, int]]:
    """Branches that are each other's mirror image, by where they start, where they lie and how far they reach."""
    pairs = []
    for one in sides[0]:
        if tree.reach[one] < 0.05:
            continue

        def image(point: Array) -> Array:
            return point - 2 * (point @ normal - offset) * normal

        def unlike(two: int, one: int = one) -> float:
            starts = float(np.linalg.norm(image(tree.heads[one]) - tree.heads[two]))
            lies = float(np.linalg.norm(image(tree.centre[one]) - tree.centre[two]))
            reaches = abs(float(np.log((tree.reach[one] + 1e-3) / (tree.reach[two] + 1e-3))))
            return starts + 0.3 * lies + 0.1 * min(reaches, 1.5)

        partner = min(sides[1], key=unlike, default=None)
        if partner is not None and unlike(partner) < 0.2:
            pairs.append((one, partner))
    return pairs


def _main_line(tree: _Tree, top: int) -> list[int]:
    """From the top down, always to the child that reaches farthest."""
    line = [top]
    while tree.children[line[-1]]:
        here = tree.heads[line[-1]]
        line.append(
            max(
                tree.children[line[-1]],
                key=lambda row: (
                    round(float(np.linalg.norm(tree.heads[row] - here) + tree.reach[row]), 6),
                    tree.weight[row],
                ),
            )
        )
    return line


def _fork(tree: _Tree, line: list[int], whole: float) -> int:
    """Place in the line where fingers part, its length where they do not; twist bones beside the line do not count."""
    beyond = max(_length(tree, line) - whole, 0.0)
    for at in range(1, len(line) - 1):
        following = line[at + 1]
        if tree.reach[line[at]] > 0.4 * whole + beyond:  # a hand is short
            continue
        step = _apart(tree, line[at], following)
        for row in tree.children[line[at]]:
            if row == following:
                continue
            far = _apart(tree, line[at], row) + float(tree.reach[row])
            if not tree.children[row]:  # a thumb of one bone, but no helper at a further joint
                tail = float(np.linalg.norm(tree.tails[row] - tree.heads[row]))
                later = [each for each in line[at + 1 :] if _apart(tree, line[at], each) > 0.02 * whole]
                if any(_apart(tree, row, each) < 0.02 * whole for each in later):
                    continue
                far += tail if tail < 0.1 * whole else 0.0
            # A thumb may end before the knuckles do, but it leaves the line, which twist bones do not.
            if far > step + 0.03 * whole or (far > 0.5 * step and _leaves(tree, row, line[at:]) > 0.04 * whole):
                return at
    return len(line)


def _leaves(tree: _Tree, row: int, line: list[int]) -> float:
    """How far the joints below a row, which has some, are from a line; 0 for a single bone."""
    points = tree.heads[line]
    away = 0.0
    for each in tree.below[row][1:]:
        starts, along = points[:-1], np.diff(points, axis=0)
        squared = np.maximum((along * along).sum(1), 1e-12)
        share = np.clip(((tree.heads[each] - starts) * along).sum(1) / squared, 0.0, 1.0)
        away = max(away, float(np.linalg.norm(starts + share[:, None] * along - tree.heads[each], axis=1).min()))
    return away


def _limbs(tree: _Tree, pair: tuple[int, int], kind: str) -> tuple[_Limb, _Limb] | None:
    """Both branches divided as limbs, in the same way where their lines are alike; None where they are no limbs."""
    lines = [_main_line(tree, top) for top in pair]
    # What one side has more at its end (a sword in the hand) is no part of the limb.
    whole = min(_length(tree, line) for line in lines)
    tables = [_divisions(tree, line, kind, whole) for line in lines]
    shared = [key for key in tables[0] if key in tables[1]]
    if shared:
        keys = [min(shared, key=lambda each: (round(tables[0][each] + tables[1][each], 6), each))] * 2
    elif all(tables):
        keys = [min(table, key=lambda each: (round(table[each], 6), each)) for table in tables]
    else:
        return None
    limbs = []
    for line, table, key in zip(lines, tables, keys, strict=True):
        rows = tuple(line[at] if at < len(line) else -1 for at in key)
        limbs.append(_Limb(line[0], tuple(line), (rows[0], rows[1], rows[2]), table[key]))
    return limbs[0], limbs[1]


def _length(tree: _Tree, line: list[int]) -> float:
    """From the first head to the last, and to the last tail where that is not far away."""
    heads = float(np.linalg.norm(np.diff(tree.heads[line], axis=0), axis=1).sum())
    tail = float(np.linalg.norm(tree.tails[line[-1]] - tree.heads[line[-1]]))
    return heads + min(tail, 0.3 * heads if len(line) > 2 else heads)


def _divisions(tree: _Tree, line: list[int], kind: str, whole: float) -> dict[tuple[int, int, int], float]:
    """Cost of each way to take a root, a middle and an end joint from a line; the end may be the last tail.

    whole: length of the line, as far as the other side has it, too.
    """
    points = np.concatenate([tree.heads[line], tree.tails[line[-1:]]])
    fork = _fork(tree, line, whole) if kind == "arm" else len(line)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    way = [0.0, *np.cumsum(np.diagonal(apart, 1)).tolist()]  # from the top on
    far: list[list[float]] = apart.tolist()
    whole = max(whole, 1e-6)
    costs: dict[tuple[int, int, int], float] = {}
    for k in range(2, min(len(line), 14) + 1):
        if k > fork:
            break
        left = max(min(whole, way[len(line) - 1]) - way[min(k, len(line) - 1)], 0.0)
        for j in range(1, k):
            lower = far[j][k]
            if lower < 0.02:
                continue
            for i in range(min(j, 6)):
                upper = far[i][j]
                both = upper + lower
                if upper < 0.02 or not 0.3 < upper / lower < 3.3 or both < 0.3 * whole:
                    continue
                cost = abs(math.log(upper / lower)) + 0.5 * math.log(whole / min(both, whole))
                cost += 2.0 * _bulge(points[i : j + 1]) + 2.0 * _bulge(points[j : k + 1])
                cost += 0.8 * _bend(points[i], points[j], points[k])
                cost += max(way[i] / both - 0.35, 0.0)
                if kind == "arm" and fork < len(line):
                    cost += 1.5 * (way[fork] - way[k]) / both - 0.4  # fingers: that is a hand
                elif kind == "arm":
                    cost += min(max(left / both - 0.45, 0.0), 0.5)
                else:
                    cost += 1.5 * min(max(left / both - 0.45, 0.0), 0.5)
                    if left > 0.08 * both and k < len(line) and _bend(points[j], points[k], points[k + 1]) > 0.4:
                        cost -= 0.3  # a foot turns away from the shin; the end of a skirt or of hair does not
                if k == len(line):  # a tail is a weaker witness than a head
                    cost += 0.25
                # Of bones that lie in one place the first is the joint.
                costs[i, j, k] = cost + 1e-3 * (i + j + k)
    return costs


def _bend(one: Array, two: Array, three: Array) -> float:
    """How far the way turns at the second point, in right angles."""
    first, second = two - one, three - two
    lengths = math.sqrt(float(first @ first) * float(second @ second))
    return math.acos(min(max(float(first @ second) / lengths, -1.0), 1.0)) / (math.pi / 2) if lengths > 0 else 0.0


def _bulge(points: Array) -> float:
    """How far the points between the first and the last leave the line between these, by its length."""
    if len(points) < 3:
        return 0.0
    along = points[-1] - points[0]
    inner = points[1:-1] - points[0]
    squared = float(along @ along)
    away = inner - np.clip(inner @ along / squared, 0.0, 1.0)[:, None] * along
    return math.sqrt(float((away * away).sum(1).max()) / squared)


def _end(tree: _Tree, limb: _Limb) -> Array:
    return tree.heads[limb.joints[2]] if limb.joints[2] >= 0 else tree.tails[limb.line[-1]]


def _trunk(tree: _Tree, legs: tuple[_Limb, _Limb], arms: tuple[_Limb, _Limb]) -> Array:
    """From between the hips to between the shoulders."""
    return _between(tree, arms) - _between(tree, legs)


def _between(tree: _Tree, limbs: tuple[_Limb, _Limb]) -> Array:
    """The middle of the roots of a pair of limbs."""
    return np.asarray(tree.heads[[limb.joints[0] for limb in limbs]].mean(0))


def _posture(tree: _Tree, legs: tuple[_Limb, _Limb], arms: tuple[_Limb, _Limb]) -> float:
    """Cost of a pair being the legs and another the arms; infinite for what no human is."""
    trunk = _trunk(tree, legs, arms)
    leg = [_end(tree, limb) - tree.heads[limb.joints[0]] for limb in legs]
    arm = [_end(tree, limb) - tree.heads[limb.joints[0]] for limb in arms]
    leg_length = float(np.mean([np.linalg.norm(each) for each in leg]))
    arm_length = float(np.mean([np.linalg.norm(each) for each in arm]))
    long = float(np.linalg.norm(trunk))
    if min(leg_length, arm_length) < 1e-3 or not 0.3 < long / leg_length < 3.0:
        return math.inf
    up = trunk / long
    down = -float(np.mean([unit(each) @ up for each in leg]))
    if abs(down) < 0.6 or not 0.25 < arm_length / leg_length < 3.0:
        return math.inf
    cost = 1.5 * (1.0 - abs(down)) + (2.0 if down < 0 else 0.0)
    cost += 0.5 * max(float(np.log(arm_length / leg_length)), 0.0)
    # Legs hang at the root of the trunk, arms farther up, and above the arms there is a head.
    low, high = (tree.common([tree.parents[limb.top] for limb in pair]) for pair in (legs, arms))
    if low >= 0 and high >= 0:
        meeting = tree.common([low, high])
        # A root stands on the floor; but fingers hang on a whole arm.
        above = tree.heads[tree.up(meeting)] if meeting >= 0 else tree.heads[:0]
        if float(np.linalg.norm(np.diff(above, axis=0), axis=1).sum()) > 2.5 * leg_length:
            return math.inf
        if meeting == high != low:
            cost += 2.0 if down > 0 else math.inf
        elif meeting not in (low, high):
            hips, shoulders = (_between(tree, pair) for pair in (legs, arms))
            here = tree.heads[meeting]
            cost += 0.2 if np.linalg.norm(hips - here) < np.linalg.norm(shoulders - here) else 1.0
        spine = tree.heads[high] - tree.heads[low]
        lengths = float(np.linalg.norm(spine))
        if lengths > 0.2 * long and float(spine @ up) < 0.6 * lengths:  # a bird: the legs stand, the trunk does not
            return math.inf
    width = float(np.linalg.norm(tree.heads[arms[0].joints[0]] - tree.heads[arms[1].joints[0]]))
    cost += 0.7 * max(math.log(0.45 * long / max(width, 1e-6)), 0.0)
    head = _above(tree, high, up, {limb.top for limb in (*legs, *arms)})
    tops = np.concatenate([tree.heads[head], tree.tails[head]]) - tree.heads[high]
    if not head or float((tops @ up).max()) < 0.2 * long:
        cost += 2.5
    return cost


def _above(tree: _Tree, chest: int, up: Array, limbs: set[int]) -> list[int]:
    """Neck and head: the bones that go on from the chest upwards and hold no limb."""
    if chest < 0:
        return []
    line: list[int] = []
    here = chest
    while True:
        rows = [row for row in tree.children[here] if row not in limbs and not limbs.intersection(tree.below[row])]
        pairs = _have_partners(tree, rows, up)
        rows = [row for row in rows if row not in pairs]
        if line and (pairs or len(rows) > 2):  # eyes, ears, jaw: that is a head
            return line
        start = tree.heads[here]

        def rise(row: int, start: Array = start) -> float:
            ends = [each for each in tree.below[row] if not tree.children[each]]
            return max(float((tree.tails[each] - start) @ up) for each in ends)

        rows = [row for row in rows if _goes_up(tree, here, row, up)]
        if not rows:
            return line
        here = max(rows, key=lambda row: (round(rise(row), 5), tree.weight[row]))
        line.append(here)


def _goes_up(tree: _Tree, above: int, row: int, up: Array) -> bool:
    """Whether a bone, from its parent or to its end, goes upwards."""
    ways = [tree.heads[row] - tree.heads[above], tree.centre[row] - tree.heads[row]]
    if not tree.children[row]:
        ways.append(tree.tails[row] - tree.heads[row])
    return any(np.linalg.norm(way) > 1e-3 and float(unit(way) @ up) > 0.5 for way in ways)


def _have_partners(tree: _Tree, rows: list[int], up: Array) -> set[int]:
    """Rows that lie beside each other: eyes, ears, breasts."""
    found: set[int] = set()
    for at, one in enumerate(rows):
        for two in rows[at + 1 :]:
            apart = tree.centre[one] - tree.centre[two]
            length = float(np.linalg.norm(apart))
            alike = abs(float(tree.weight[one] - tree.weight[two])) <= 0.3 * float(tree.weight[one])
            if alike and length > 0.01 and abs(float(apart @ up)) < 0.2 * length:
                found |= {one, two}
    return found


def _label(tree: _Tree, cost: float, legs: tuple[_Limb, _Limb], arms: tuple[_Limb, _Limb], normal: Array) -> Found:
    """Names for the joints, with left and right by where the body looks."""
    up = unit(_trunk(tree, legs, arms))
    ahead, facing = _forward(tree, legs, arms, up, normal)
    left = np.cross(up, ahead)
    joints: dict[str, int] = {}
    chest = tree.common([tree.parents[limb.top] for limb in arms])
    for limbs, parts in ((legs, ("hip", "knee", "ankle")), (arms, ("shoulder", "elbow", "wrist"))):
        on_left = 0 if float((tree.centre[limbs[0].top] - tree.centre[limbs[1].top]) @ left) > 0 else 1
        for side, limb in (("left", limbs[on_left]), ("right", limbs[1 - on_left])):
            for part, row in zip(parts, limb.joints, strict=True):
                if row >= 0:
                    joints[f"{side}_{part}"] = row
            if parts[0] == "hip" and limb.joints[2] >= 0:
                toe = _toe(tree, limb, normal)
                if toe >= 0:
                    joints[f"{side}_foot"] = toe
            if parts[0] == "shoulder" and limb.top != limb.joints[0]:
                joints[f"{side}_collar"] = limb.top
    head_line = _above(tree, chest, up, {limb.top for limb in (*legs, *arms)})
    joints |= _neck_and_head(tree, head_line, legs, arms, up)
    return Found(joints, float(np.clip(0.85 - 0.1 * cost, 0.3, 0.8)), facing)


def _toe(tree: _Tree, limb: _Limb, normal: Array) -> int:
    """The bone at the ball of the foot; of several toes the big one. -1 where there is none."""
    ankle = limb.joints[2]
    at = limb.line.index(ankle)
    if at + 1 >= len(limb.line):
        return -1
    main = limb.line[at + 1]
    length = float(np.linalg.norm(tree.heads[main] - tree.heads[ankle]))
    toes = [
        row
        for row in tree.children[ankle]
        if float(np.linalg.norm(tree.heads[row] - tree.heads[ankle])) > 0.7 * length
        and tree.reach[row] >= 0.4 * tree.reach[main]
        and tree.weight[row] >= 0.5 * tree.weight[main]
    ]
    side = np.sign(float((tree.centre[limb.top] - tree.heads.mean(0)) @ normal))
    if len(toes) >= 4:
        return min(toes, key=lambda row: float(side * (tree.heads[row] @ normal)))
    return main


def _forward(
    tree: _Tree, legs: tuple[_Limb, _Limb], arms: tuple[_Limb, _Limb], up: Array, normal: Array
) -> tuple[Array, float]:
    """Where the body looks, level and in the mirror plane, and how clearly (0..1)."""
    axis = unit(np.cross(normal, up))
    said = 0.0
    for limb in legs:
        hip, knee = (tree.heads[row] for row in limb.joints[:2])
        ankle = _end(tree, limb)
        length = float(np.linalg.norm(ankle - hip))
        if limb.joints[2] >= 0:
            rest = limb.line[limb.line.index(limb.joints[2]) :]
            ends = [tree.heads[row] for row in rest[1:]] or [tree.tails[rest[0]]]
            said += (
                3.0
                * float(max(ends, key=lambda end: float(np.linalg.norm(end - ankle))) @ axis - ankle @ axis)
                / length
            )
        said += float((knee - (hip + ankle) / 2) @ axis) / length
    for limb in arms:
        shoulder, elbow = (tree.heads[row] for row in limb.joints[:2])
        hand = _end(tree, limb)
        length = float(np.linalg.norm(hand - shoulder))
        said += 0.5 * float(((shoulder + hand) / 2 - elbow) @ axis) / length
    clear = min(abs(said) / 0.3, 1.0)
    if clear < 0.1:  # nothing tells: as characters usually stand, facing the viewer
        said = float(axis[2]) if abs(axis[2]) > 0.1 else 1.0
    return (axis if said >= 0 else -axis), clear


def _neck_and_head(
    tree: _Tree, line: list[int], legs: tuple[_Limb, _Limb], arms: tuple[_Limb, _Limb], up: Array
) -> dict[str, int]:
    """The first bone above the chest is the neck and the last the head, unless it only marks the end of one."""
    if not line:
        return {}
    hips = _between(tree, legs)
    long = float(np.linalg.norm(_trunk(tree, legs, arms)))
    if len(line) == 1:
        level = float((tree.heads[line[0]] - hips) @ up) / long
        return {"head" if level > 1.1 else "neck": line[0]}
    line = [line[0], *[row for before, row in pairwise(line) if _apart(tree, before, row) > 0.006]]
    if len(line) > 2 and not tree.children[line[-1]]:
        last, before = _apart(tree, line[-2], line[-1]), _apart(tree, line[-3], line[-2])
        tail = float(np.linalg.norm(tree.tails[line[-1]] - tree.heads[line[-1]]))
        # Importers give a bone without children the length of its parent; and a head is longer than a piece of neck.
        if abs(tail - last) < 1e-4 * last or last > 1.4 * before or _toes_end(tree, legs):
            line = line[:-1]
    return {"neck": line[0], "head": line[-1]} if len(line) > 1 else {"head": line[0]}


def _apart(tree: _Tree, one: int, two: int) -> float:
    return float(np.linalg.norm(tree.heads[one] - tree.heads[two]))


def _toes_end(tree: _Tree, legs: tuple[_Limb, _Limb]) -> bool:
    """Whether the feet go on in single file beyond the ball: then the chains of this rig have a bone for their end."""
    for limb in legs:
        if limb.joints[2] < 0:
            return False
        rest = limb.line[limb.line.index(limb.joints[2]) + 1 :]
        if len(rest) != 2 or len(tree.children[limb.line[limb.line.index(rest[0]) - 1]]) != 1:
            return False
    return True
