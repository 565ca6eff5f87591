# SPDX-License-Identifier: GPL-3.0-or-later
"""What the name of a bone says: its side, its number and the part of the body, in the words that riggers use.

A name is cut into words ("mixamorig:LeftUpLeg" -> left, up, leg), words that were written together are cut with the
vocabulary below ("lfemur" -> l, femur), sides and numbers are taken out, and what is left is looked up. Some words mean
one bone here and another there: a "shoulder" is the collarbone where there also is an arm, and the upper arm where
there is a collar. ``joints_of`` decides these by what else the same side of the rig has.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

SIDES = ("left", "right")

_SIDE_WORDS = {
    "left": "left", "l": "left", "lft": "left", "lf": "left", "lt": "left",
    "right": "right", "r": "right", "rgt": "right", "rf": "right", "rt": "right", "rght": "right",
    "izq": "left", "izquierda": "left", "izquierdo": "left", "gauche": "left", "links": "left", "linke": "left",
    "linker": "left", "esq": "left", "esquerda": "left", "esquerdo": "left", "sinistra": "left", "sinistro": "left",
    "sx": "left", "derecha": "right", "derecho": "right", "droite": "right", "droit": "right", "rechts": "right",
    "rechte": "right", "rechter": "right", "direita": "right", "direito": "right", "destra": "right",
    "destro": "right", "dx": "right",
}  # fmt: skip
_SIDE_SIGNS = {"左": "left", "右": "right", "왼쪽": "left", "오른쪽": "right"}

# Part of the body -> the ways to say it, words in any order. A part is a joint without its side.
_PARTS: dict[str, tuple[str, ...]] = {
    "pelvis": ("pelvis", "hips", "lower torso", "hip root", "root hips", "下半身", "腰", "골반"),
    "neck": ("neck", "neck base", "neck lower", "lower neck", "首", "목"),
    "head": ("head", "skull", "頭", "머리"),
    "collar": ("clavicle", "clav", "collar", "collar bone", "scapula", "鎖骨", "锁骨"),
    "shoulder": (
        "upper arm", "up arm", "upr arm", "humerus", "bicep", "biceps", "shoulder bend", "upper arm bend", "腕",
        "上腕", "上臂", "大臂",
    ),
    "elbow": (
        "fore arm", "lower arm", "low arm", "lo arm", "lwr arm", "elbow", "radius", "ulna", "fore arm bend", "ひじ",
        "肘", "前腕", "前臂", "小臂",
    ),
    "wrist": ("hand", "wrist", "手首", "手", "手腕"),
    "hip": (
        "thigh", "upper leg", "up leg", "upr leg", "femur", "thigh bend", "太もも", "太腿", "大腿", "足",
    ),
    "knee": (
        "calf", "shin", "lower leg", "low leg", "lo leg", "lwr leg", "knee", "tibia", "ひざ", "膝", "すね", "小腿",
    ),
    "ankle": ("ankle", "foot", "足首", "脚踝", "脚"),
    "foot": ("toe", "toes", "toe base", "ball", "foot ball", "toe root", "つま先", "爪先", "脚趾", "脚尖", "足先"),
    # These depend on what else there is.
    "?shoulder": ("shoulder", "shldr", "肩", "어깨"),
    "?arm": ("arm", "팔"),
    "?leg": ("leg", "다리"),
    "?hip": ("hip",),
    "?palm": ("palm", "fist"),
    "spine": (
        "spine", "chest", "torso", "upper torso", "thorax", "abdomen", "waist", "belly", "back", "lower back",
        "upper back", "lower spine", "upper spine", "upper chest", "lower chest", "spine lower", "spine upper",
        "spine middle", "abdomen lower", "abdomen upper", "chest lower", "chest upper", "rib cage", "stomach", "ribs",
        "上半身", "胸", "腹", "脊椎", "spine base",
    ),
}  # fmt: skip

# Words that say nothing about the part.
_NOISE = set(
    """bone joint jnt jt bn skel skeleton rig char character def org bip bip01 bip001 biped valve mixamorig cc base
    actor armature deform bind jnts bones sk c m b j x mid center centre model human body avatar daz rl mesh anim skin
    root ボーン""".split()
)
# Words that say that the bone is something else than the part it is named after.
_OTHER = set(
    """twist roll ik pole target tgt ctrl control ctl con helper share end nub tip leaf offset corrective correct mch
    vis tweak parent adjust half muscle bulge wing tail hair skirt cloth weapon prop slot attach dummy fin finger thumb
    index middle ring pinky little metacarpal carpal digit fingers thumbs eyeball
    eye eyes jaw ear brow lid lip tongue teeth nose cheek
    breast boob pec butt buttock glute face forehead temple chin front rear hind feather spin heel rock pivot
    swing cape coat sleeve collider socket handle holder grip sword shield gun strap belt bag pouch pocket tie scarf
    hat helmet pad armor armour guard cuff ribbon bow spring phys physics jiggle sub dir effector stretch vector
    scale d ex orbit hook metatarsals metatarsal inner outer in out cap pack top
    捩 捩れ 先 親 指 親指 人指 中指 薬指 小指 髪 スカート 目 ＩＫ 補助 つま""".split()
)
# "fk", "ref", "part": fine if there is nothing plainer.
_LESSER = {"fk", "ref", "main", "driver", "part", "seg", "segment"}

# Rigs with all toes: the words of fingers say which one; any of them shows the ball of the foot.
_TOES = {"toe", "toes"}
_WHICH_TOE = {"big", "thumb", "index", "middle", "ring", "pinky", "little"}


@dataclass(frozen=True)
class Name:
    """A name taken apart: ``words`` without side and numbers, lower case, in their order."""

    words: tuple[str, ...]
    side: str | None
    numbers: tuple[int, ...]


def _vocabulary() -> set[str]:
    known = {word for ways in _PARTS.values() for way in ways for word in way.split()}
    known |= _NOISE | _OTHER | _LESSER | _WHICH_TOE | {"left", "right"}
    return {word for word in known if len(word) > 1 or not word.isascii()}


_KNOWN = _vocabulary()
_TOKENS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_A-Za-z]+")


@lru_cache(maxsize=8192)
def plain(name: str) -> str:
    """Bone name without namespace and punctuation: "mixamorig1:LeftUpLeg" -> "leftupleg", "thigh.L" -> "thighl"."""
    return re.sub(r"[\W_]", "", re.split(r"[:|]", name)[-1]).lower()


@lru_cache(maxsize=4096)
def split(name: str) -> Name:
    """Words, side and numbers of a bone name, whatever the convention; a name that says both sides has none."""
    text = unicodedata.normalize("NFKC", re.split(r"[:|]", name)[-1])
    sides = []
    for sign, side in _SIDE_SIGNS.items():
        if sign in text:
            sides.append(side)
            text = text.replace(sign, " ")
    words: list[str] = []
    numbers: list[int] = []
    for token in _TOKENS.findall(text):
        if token.isdigit():
            numbers.append(int(token[:9]))
        elif token.lower() in _SIDE_WORDS:
            sides.append(_SIDE_WORDS[token.lower()])
        elif token in ("LU", "RU"):  # LUArm
            sides.append(_SIDE_WORDS[token[0].lower()])
            words.append("upper")
        else:
            for word in _cut(token.lower()):
                if word in ("left", "right") or (len(word) == 1 and word in _SIDE_WORDS):
                    sides.append(_SIDE_WORDS[word])
                else:
                    words.append(word)
    return Name(tuple(words), sides[0] if len(set(sides)) == 1 else None, tuple(numbers))


@lru_cache(maxsize=4096)
def _cut(word: str) -> tuple[str, ...]:
    """A word that is several written together, cut into the fewest known ones; l or r may stand at either end."""
    if word in _KNOWN or len(word) < 3:
        return (word,)
    best: list[tuple[str, ...] | None] = [(), *[None] * len(word)]
    for end in range(1, len(word) + 1):
        for start in range(end):
            piece, before = word[start:end], best[start]
            side = piece in "lr" and len(piece) == 1 and (start == 0 or end == len(word))
            if before is None or not (piece in _KNOWN or side):
                continue
            found = best[end]
            if found is None or len(before) + 1 < len(found):
                best[end] = (*before, piece)
    found = best[-1]
    return found if found is not None and any(len(piece) > 1 for piece in found) else (word,)


def mirror(name: str, names: Iterable[str]) -> str | None:
    """The name among ``names`` that says the same of the other side; None where there is none."""
    own = split(name)
    if own.side is None:
        return None
    other_side = SIDES[own.side == "left"]
    wanted = Name(own.words, other_side, own.numbers)
    partners = [other for other in names if split(other) == wanted]
    # "hand_l" may have the partners "hand_r" and, in another chain, "HandR": the one that is spelled alike.
    return max(partners, key=lambda other: SequenceMatcher(None, name, other).ratio(), default=None)


def _part(name: str, said_often: set[str]) -> tuple[str, float] | None:
    """Part of the body and how clearly the name says it (0..1); None for other bones."""
    words = [word for word in split(name).words if word not in said_often]
    lesser = _LESSER | _WHICH_TOE if _TOES.intersection(words) else _LESSER
    if any(word in _OTHER and word not in lesser for word in words):
        return None
    clear = 1.0 - 0.25 * sum(word in lesser for word in words)
    words = [word for word in dict.fromkeys(words) if word not in _NOISE and word not in lesser]
    known = [word for word in words if word in _KNOWN]
    clear -= 0.25 * (len(words) - len(known))
    for drop in ((), ("arm",), ("leg",)):  # "arm elbow" is an elbow, "leg knee" a knee
        part = _LOOK_UP.get(tuple(sorted(word for word in known if word not in drop)))
        if part is not None:
            return part, max(clear, 0.1)
    return None


_LOOK_UP = {tuple(sorted(way.split())): part for part, ways in _PARTS.items() for way in ways}


# Part of a limb -> the part above it, from the top down.
_ABOVE = {"hip": "", "knee": "hip", "ankle": "knee", "foot": "ankle", "shoulder": "", "elbow": "shoulder",
          "wrist": "elbow", "collar": ""}  # fmt: skip


def joints_of(names: Sequence[str], parents: Sequence[int]) -> dict[str, tuple[int, float]]:
    """Joint -> row of the bone whose name says it, and how clearly it does (0..1).

    names: of B bones; parents: rows, -1 for a root. Spine joints are not told apart here: the
    hierarchy does that.
    """
    said = Counter(word for name in names for word in set(split(name).words) if word not in _OTHER)
    often = {word: (0.7 if word in _KNOWN else 0.3) * len(names) for word in said}  # the character is called "Head"?
    said_often = {word for word, count in said.items() if count >= max(3, often[word])}
    depth = [0] * len(names)
    for row in range(len(names)):
        above = parents[row]
        while above >= 0:
            depth[row] += 1
            above = parents[above]
    found: dict[str | None, dict[str, list[tuple[float, int]]]] = {None: {}, "left": {}, "right": {}}
    for row, name in enumerate(names):
        said_part = _part(name, said_often)
        if said_part is not None:
            found[split(name).side].setdefault(said_part[0], []).append((said_part[1], row))

    def best(candidates: list[tuple[float, int]]) -> tuple[int, float]:
        clear, row = max(candidates, key=lambda each: (each[0], -depth[each[1]], -each[1]))
        return row, clear

    joints: dict[str, tuple[int, float]] = {}
    for part in ("pelvis", "neck", "head"):
        candidates = found[None].get(part, []) or (found[None].get("?hip", []) if part == "pelvis" else [])
        if candidates:
            joints[part] = best(candidates)
    for side in SIDES:
        parts = _settle(found[side], parents)
        for part, upper in _ABOVE.items():
            candidates = parts.get(part, [])
            if f"{side}_{upper}" in joints:  # not the target or pole of the same name, if another hangs there
                top = joints[f"{side}_{upper}"][0]
                hanging = [each for each in candidates if _hangs_below(each[1], top, parents)]
                candidates = hanging or ([] if part in ("wrist", "foot") else candidates)
            if candidates:
                joints[f"{side}_{part}"] = best(candidates)
    return joints


def is_spine(name: str) -> bool:
    """Whether the name says spine, chest or the like."""
    part = _part(name, set())
    return part is not None and part[0] == "spine"


def is_other(name: str) -> bool:
    """Whether the name says that the bone is no joint of the body: an end, a twist bone, a prop, a finger."""
    found = set(split(name).words)
    return bool(found & _OTHER) and not found & _TOES


def _settle(seen: Mapping[str, list[tuple[float, int]]], parents: Sequence[int]) -> dict[str, list[tuple[float, int]]]:
    """The parts of one side with the words decided that depend on the others."""
    parts = {part: list(rows) for part, rows in seen.items() if not part.startswith("?")}
    shoulder, arm, palm, leg, hip = (seen.get(f"?{part}", []) for part in ("shoulder", "arm", "palm", "leg", "hip"))
    arms = (*parts.get("shoulder", []), *shoulder, *arm)
    for part, roots, other in (
        ("knee", (*parts.get("hip", []), *hip), leg),
        ("elbow", parts.get("shoulder", []), arm),
        ("wrist", arms, palm),
    ):

        def hang(rows: Sequence[tuple[float, int]], roots: Sequence[tuple[float, int]] = tuple(roots)) -> bool:
            return any(_hangs_below(row, top, parents) for _, row in rows for _, top in roots)

        if part in parts and not hang(parts[part]) and hang(other):
            del parts[part]  # poles of a thigh and a leg, of an upper arm and an arm; the target of a fist
    if arm and "shoulder" not in parts:
        parts["shoulder"] = arm
    elif arm and "elbow" not in parts:
        parts["elbow"] = arm
    if shoulder:
        if "shoulder" in parts and "collar" not in parts:
            parts["collar"] = shoulder
        elif "shoulder" not in parts:
            clearest = [each for each in shoulder if each[0] >= max(shoulder)[0]]  # no "shoulder part 2"
            below = [each for each in clearest if any(_hangs_below(each[1], other[1], parents) for other in clearest)]
            if below and "collar" not in parts:  # "shoulder 1" carries "shoulder 2", the arm
                parts["collar"] = [each for each in clearest if each not in below]
                parts["shoulder"] = below
            else:
                parts["shoulder"] = shoulder
    if palm and "wrist" not in parts:
        parts["wrist"] = palm
    if hip and "hip" not in parts:
        parts["hip"] = hip
    if leg and "hip" in parts and "knee" not in parts:
        parts["knee"] = leg
    elif leg and "hip" not in parts:
        parts["hip"] = leg
    ankles = parts.get("ankle", [])
    below = [each for each in ankles if any(_hangs_below(each[1], other[1], parents) for other in ankles)]
    if below and "foot" not in parts:  # ankle and foot: the foot is the ball of it
        parts["foot"] = below
        parts["ankle"] = [each for each in ankles if each not in below]
    return parts


def _hangs_below(row: int, top: int, parents: Sequence[int]) -> bool:
    row = parents[row]
    while row >= 0:
        if row == top:
            return True
        row = parents[row]
    return False
