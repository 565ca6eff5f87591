# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bone is which HumanML3D joint.

Asked in this order, and the first that knows legs and arms wins: what the user said, the map of the file itself (VRM),
presets (``rigs/*.json`` and the user's own), the words in the names (names.py), places and hierarchy alone
(structure.py). Pelvis and spine come from the hierarchy in any case. Of each joint is told how it was found and how
sure that is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from ..errors import HeroError
from ..motion import JOINTS
from ..output import whole_file
from . import names as words
from . import structure
from .names import plain
from .rig import Array, Rig

_SIDES = ("left", "right")
_NEXT = {"hip": "knee", "knee": "ankle", "ankle": "foot", "collar": "shoulder", "shoulder": "elbow", "elbow": "wrist"}
_LIMBS = {"leg": ("hip", "knee"), "arm": ("shoulder", "elbow")}
_MUST = tuple(f"{side}_{joint}" for side in _SIDES for joints in _LIMBS.values() for joint in joints)
# Limb -> what ends it and what must be known of it for its end to be told by its looks; feet after ankles.
_ENDS = {
    "leg": (("left_ankle", "right_ankle", "left_foot", "right_foot"), ("hip", "knee")),
    "arm": (("left_wrist", "right_wrist", "neck", "head"), ("shoulder", "elbow")),
}
_FEW = 6  # joints: what names tell about fewer may be an accident
# Joints that hang on each other, from the top down.
_CHAINS = (
    ("pelvis", "spine1", "spine2", "spine3", "neck", "head"),
    *(("pelvis", *(f"{side}_{joint}" for joint in ("hip", "knee", "ankle", "foot"))) for side in _SIDES),
    *(tuple(f"{side}_{joint}" for joint in ("collar", "shoulder", "elbow", "wrist")) for side in _SIDES),
)


@dataclass(frozen=True)
class Preset:
    """One bone-naming convention.

    names      joint -> names that its bone may have, the better one first; none: rigs of this kind have no such bone
    controls   what to key where control bones move the rig: purpose -> exact bone name, {side} for the side's text
    sides      {"left": ".L", "right": ".R"}
    spine      names that spine bones may have
    needs      names that rigs of this kind have, and others with the same names for the limbs do not
    own        it is the user's: it wins over the shipped ones
    settings   (bone name, custom property) -> value that switches the rig over to the bones that are keyed
    """

    name: str
    names: dict[str, tuple[str, ...]]
    controls: dict[str, str]
    sides: dict[str, str]
    spine: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    own: bool = False
    settings: dict[tuple[str, str], float] = field(default_factory=dict)

    @cached_property
    def aliases(self) -> dict[str, tuple[str, ...]]:
        """``names`` without punctuation, and those of the spine."""
        return {
            joint: tuple(plain(name) for name in names)
            for joint, names in (*self.names.items(), ("spine", self.spine), ("needs", self.needs))
        }


@dataclass(frozen=True)
class BoneMap:
    """Rows of the bones of a rig for the 22 joints and for the segments between them.

    joints     joint -> row, only those that the rig has; the head of the bone shows the joint
    segments   joint -> rows that turn as one from this joint to the next, top first; twist and helper bones that
               hang beside the line are not in it, they follow; only a foot may hang on another bone
    spine      rows above the pelvis up to the one that carries neck and arms
    how        joint -> "user", "VRM", "preset NAME", "name" or "structure"
    sure       joint -> 0..1
    """

    preset: Preset
    joints: dict[str, int]
    segments: dict[str, tuple[int, ...]]
    spine: tuple[int, ...]
    how: dict[str, str] = field(default_factory=dict)
    sure: dict[str, float] = field(default_factory=dict)

    def bones(self, rig: Rig) -> dict[str, str]:
        """Joint -> bone name for all 22 joints in their order, "" for those that the rig does not have."""
        return {joint: rig.names[self.joints[joint]] if joint in self.joints else "" for joint in JOINTS}


_NO_PRESET = Preset("", {}, {}, {})


def presets_folder() -> Path:
    """``rigs/`` inside the installed package, or at the top of the checkout."""
    packed = Path(__file__).parents[1] / "rigs"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "rigs"


def load_presets(folder: Path | None = None) -> tuple[Preset, ...]:
    """All conventions of a folder of JSON files; the shipped ones if none is given.

    A file holds ``name``, ``sides`` ({"left": "_l", "right": "_r"}) and ``joints``: a joint, or a joint without its
    side ("hip"), to bone names in which {side} stands for the text of the side ({{ and }} for braces); ``spine``,
    ``needs``, ``controls`` and ``settings`` (bone name to custom property to number) at will. Files are read again when
    they have changed.
    Raises HeroError for a file that does not say this.
    """
    own, folder = folder is not None, folder or presets_folder()
    try:
        files = sorted(path for path in folder.glob("*.json") if path.is_file())
        state = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    except OSError as err:
        raise HeroError(f"The folder '{folder}' of rig presets cannot be read ({err}); choose another one.") from err
    presets = tuple(_read_preset(path, own, time, size) for path, time, size in state)
    if not presets and not own:
        raise HeroError(f"There are no rig presets in '{folder}'; install HERO again.")
    return presets


@lru_cache(maxsize=512)
def _read_preset(path: Path, own: bool, _time: int, _size: int) -> Preset:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        sides = {str(side): str(text) for side, text in dict(data.get("sides", {})).items()}
        names: dict[str, tuple[str, ...]] = {}
        for joint, bones in data["joints"].items():
            for side in _SIDES if joint not in JOINTS else ("",):
                full = f"{side}_{joint}" if side else joint
                if full not in JOINTS:
                    raise KeyError(f"no joint is called {joint}")
                if isinstance(bones, str):
                    raise TypeError(f"the bones of {joint} are no list")
                names[full] = tuple(bone.format(side=sides.get(side, "")) for bone in bones)
        lists = [tuple(str(bone) for bone in data.get(key, ())) for key in ("spine", "needs")]
        settings = {
            (bone.format(side=side), str(key)): float(value)
            for bone, properties in data.get("settings", {}).items()
            for key, value in properties.items()
            for side in sides.values() or ("",)
        }
        return Preset(
            str(data["name"]), names, dict(data.get("controls", {})), sides, lists[0], lists[1], own, settings
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as err:
        raise HeroError(f"The rig preset '{path.name}' cannot be used ({err}); repair or remove it.") from err


def read_map(path: Path) -> Preset:
    """A preset from a file anywhere, such as ``write_map`` makes; raises HeroError as ``load_presets`` does."""
    if not path.is_file():
        raise HeroError(f"There is no map file '{path}'; export one from the panel or with the command map.")
    return _read_preset(path, True, path.stat().st_mtime_ns, path.stat().st_size)


def write_map(path: Path, name: str, bones: Mapping[str, str]) -> None:
    """Save joint -> bone name ("" where there is none) as a preset file, whole or not at all; raises HeroError."""
    rows = []
    for joint in (each for each in JOINTS if each in bones):
        names = [bones[joint].replace("{", "{{").replace("}", "}}")] if bones[joint] else []
        rows.append(f"  {json.dumps(joint)}: {json.dumps(names, ensure_ascii=False)}")
    title, text = json.dumps(name, ensure_ascii=False), ",\n".join(rows)  # a line for each joint, to be read by people
    with whole_file(path) as part:
        part.write_text(f'{{\n "name": {title},\n "sides": {{}},\n "joints": {{\n{text}\n }}\n}}\n', encoding="utf-8")


def resolve(preset: Preset, rig: Rig) -> dict[str, str]:
    """Joint -> bone name of this rig as a preset says, "" for joints that it says to have none.

    Raises HeroError where the rig has none of the preset's bones.
    """
    found, _ = _by_names(_plain_rows(rig), preset, rig)
    if not found:
        raise HeroError(f"The armature '{rig.name}' has no bones of the map '{preset.name}'; choose a map of its kind.")
    lacking = [joint for joint, names in preset.names.items() if names and joint not in found]
    if preset.own and any(joint in _MUST for joint in lacking):
        gone = ", ".join(f"'{preset.names[joint][0]}'" for joint in lacking)
        raise HeroError(f"The armature '{rig.name}' lacks {gone} of the map '{preset.name}'; choose a map of its kind.")
    empty = {joint: "" for joint, names in preset.names.items() if not names}
    return {joint: rig.names[row] for joint, row in found.items()} | empty


def map_bones(
    rig: Rig,
    given: Mapping[str, str] | None = None,
    folders: Sequence[Path] = (),
    own: Mapping[str, str] | None = None,
) -> BoneMap:
    """Find the joints of a human among the bones of a rig.

    given     joint -> bone name by the user, "" for a joint that is to have no bone; it goes before all else
    folders   of the user's own presets, which go before the shipped ones
    own       joint -> bone name as the file itself says (VRM)
    Raises HeroError, one sentence that says what to do: legs or arms that cannot be found, a creature on four legs, a
    bone that is not there or given twice, bones that do not hang on each other as the joints do, limbs of no length.
    """
    _check_rig(rig)
    fixed = _check_given(rig, given or {})
    none = {joint for joint, name in (given or {}).items() if not name}
    guess = _guess(rig, folders, own or {})
    joints = {joint: row for joint, row in guess.joints.items() if joint not in none}
    taken = set(fixed.values())
    joints = {joint: row for joint, row in joints.items() if row not in taken or fixed.get(joint) == row} | fixed
    how = {joint: "user" if joint in fixed else guess.how[joint] for joint in joints}
    sure = {joint: 1.0 if joint in fixed else guess.sure[joint] for joint in joints}
    _drop_crossing(rig, joints, fixed)
    missing = _missing(joints)
    if missing:
        raise HeroError(
            f"The armature '{rig.name}' has no {' and no '.join(missing)} that HERO knows; choose the character's "
            "armature, or say in the bone map which bones these are."
        )
    return _line_up(rig, guess.preset, joints, how, sure, fixed, none)


def partial_map(
    rig: Rig, folders: Sequence[Path] = (), own: Mapping[str, str] | None = None
) -> tuple[dict[str, str], dict[str, str], dict[str, float]]:
    """What can be said of a rig that ``map_bones`` refuses, for a user to complete: joint -> bone name ("" where
    nothing is known), how it was found and how sure that is."""
    _check_rig(rig)
    guess = _guess(rig, folders, own or {})
    bones = {joint: rig.names[guess.joints[joint]] if joint in guess.joints else "" for joint in JOINTS}
    return bones, guess.how, guess.sure


@dataclass
class _Guess:
    preset: Preset
    joints: dict[str, int]
    how: dict[str, str]
    sure: dict[str, float]


def _check_rig(rig: Rig) -> None:
    above = np.asarray(rig.parents)
    for _ in range(len(above)):  # one step up for all at once; who is not at a root after B steps never gets there
        if (above < 0).all():
            return
        above = np.where(above >= 0, rig.parents[above], -1)
    if (above >= 0).any():
        raise HeroError(f"The bones of the armature '{rig.name}' hang on each other in a circle; parent them anew.")


def _check_given(rig: Rig, given: Mapping[str, str]) -> dict[str, int]:
    """Rows of a map by the user, as it was given; raises HeroError for what cannot be."""
    fixed: dict[str, int] = {}
    users: dict[str, str] = {}
    for joint, name in given.items():
        if joint not in JOINTS:
            raise HeroError(
                f"The bone map names a joint '{joint}' that there is not; the joints are {', '.join(JOINTS)}."
            )
        if not name:
            continue
        if name not in rig.index:
            raise HeroError(
                f"The armature '{rig.name}' has no bone '{name}' for the {_said(joint)}; "
                "pick another one in the bone map."
            )
        if name in users:
            raise HeroError(
                f"The bone '{name}' is given twice, as {_said(users[name])} and as {_said(joint)}; "
                "give each joint a bone of its own."
            )
        users[name] = joint
        fixed[joint] = rig.index[name]
    for chain in _CHAINS:
        there = [joint for joint in chain if joint in fixed]
        for at, upper in enumerate(there):
            for lower in there[at + 1 :]:
                if fixed[lower] in rig.line(fixed[upper])[1:]:
                    raise HeroError(
                        f"The bone '{rig.names[fixed[upper]]}' of the {_said(upper)} hangs below "
                        f"'{rig.names[fixed[lower]]}' of the {_said(lower)}; swap them in the bone map."
                    )
    return fixed


def _said(joint: str) -> str:
    return joint.replace("_", " ")


def _missing(found: Mapping[str, int]) -> list[str]:
    return [
        f"{side} {limb}"
        for limb, joints in _LIMBS.items()
        for side in _SIDES
        if not all(f"{side}_{joint}" in found for joint in joints)
    ]


def _hang(rig: Rig, found: Mapping[str, int]) -> bool:
    """Whether knees hang below hips and elbows below shoulders."""
    return all(
        rig.between(found[f"{side}_{upper}"], found[f"{side}_{lower}"])
        for side in _SIDES
        for upper, lower in _LIMBS.values()
    )


def _guess(rig: Rig, folders: Sequence[Path], own: Mapping[str, str]) -> _Guess:
    """What is found without the user, from the first source that knows legs and arms; gaps are filled by names."""
    preset, by_preset = _best_preset(rig, folders)
    by_file = {joint: rig.index[name] for joint, name in own.items() if joint in JOINTS and name in rig.index}
    said = words.joints_of(rig.names, [int(parent) for parent in rig.parents])
    by_word = {joint: row for joint, (row, _) in said.items()}
    share = len(by_preset) / max(sum(bool(names) for names in preset.names.values()), 1)
    sources: list[tuple[str, dict[str, int]]] = [
        ("VRM", by_file), (f"preset {preset.name}", by_preset), ("name", by_word),
    ]  # fmt: skip

    def sureness(source: str, joint: str) -> float:
        if source == "structure":
            assert shape is not None
            return shape.sure * (0.6 + 0.4 * shape.facing if "_" in joint else 1.0)
        if source == "name":
            return 0.9 * said[joint][1]
        return 1.0 if source == "VRM" else 0.85 + 0.15 * share

    shape: structure.Found | None = None
    base = next((each for each in sources if not _missing(each[1]) and _hang(rig, each[1])), None)
    if base is None:
        shape = _structure(rig)
        base = max(sources, key=lambda each: (len(set(each[1]) & set(_MUST)), len(each[1])))
        if shape is not None and len(base[1]) < _FEW:
            base = "structure", shape.joints
    joints = dict(base[1])
    for side in _SIDES:  # "Foot" is the ball of it where there is an ankle, and the ankle where there is not
        ankle, foot = f"{side}_ankle", f"{side}_foot"
        if ankle not in joints and foot in joints and by_word.get(ankle) == joints[foot]:
            joints[ankle] = joints.pop(foot)
        elbow, wrist = joints.get(f"{side}_elbow", -1), joints.get(f"{side}_wrist", -1)
        if min(elbow, wrist) >= 0 and not rig.between(elbow, wrist):  # the target of a hand, not the hand
            del joints[f"{side}_wrist"]
    how = dict.fromkeys(joints, base[0])
    sure = {joint: sureness(base[0], joint) for joint in joints}
    empty = {joint for joint, names in preset.names.items() if not names} if base[1] is by_preset else set()
    if shape is not None:  # names that know a part of it: what they lack, but never another name for their bones
        sources.append(("structure", shape.joints))
    for source, found in sources if base[0] != "structure" else ():
        for joint, row in found.items():
            if joint in joints or joint in empty or row in joints.values() or not _fits(rig, joints, joint, row):
                continue
            joints[joint], how[joint], sure[joint] = row, source, sureness(source, joint)
    lacking = [joint for ends, _ in _ENDS.values() for joint in ends if joint not in (*joints, *empty)]
    if base[0] != "structure" and set(lacking) - {"neck"}:
        shape = shape or _structure(rig)
        if shape is not None:  # a head, hand or foot of an unusual name, on limbs that look as they are named
            _add_ends(rig, shape, lacking, joints, how, sure, sureness)
    return _Guess(preset if base[1] is by_preset else _NO_PRESET, joints, how, sure)


def _add_ends(
    rig: Rig,
    shape: structure.Found,
    lacking: Sequence[str],
    joints: dict[str, int],
    how: dict[str, str],
    sure: dict[str, float],
    sureness: Callable[[str, str], float],
) -> None:
    """Heads, hands and feet that names do not tell, from the looks of limbs of which they tell the rest."""

    def take(joint: str, row: int) -> None:
        joints[joint], how[joint], sure[joint] = row, "structure", sureness("structure", joint)

    for ends, roots in _ENDS.values():
        if any(joints.get(f"{side}_{part}") != shape.joints.get(f"{side}_{part}") for side in _SIDES for part in roots):
            continue
        for side in _SIDES:  # "foot" may be the ball of it, below an ankle of another name
            knee, ankle, foot = (f"{side}_{part}" for part in ("knee", "ankle", "foot"))
            above = shape.joints.get(ankle, -1)
            if (
                foot in lacking
                and foot in ends
                and how[knee] == "structure"
                and above >= 0
                and above not in joints.values()
                and shape.joints.get(foot) == joints.get(ankle, -2)
            ):
                joints[foot], how[foot], sure[foot] = joints[ankle], how[ankle], sure[ankle]
                take(ankle, above)
        if "head" in lacking and "head" in ends and shape.joints.get("head") == joints.get("neck", -2):
            below = shape.joints.get("neck", -1)  # what is called a neck holds the face, and hangs on another neck
            if below >= 0 and below not in joints.values():
                take("head", joints["neck"])
                take("neck", below)
        for joint in ends:
            row = shape.joints.get(joint, -1)
            if joint not in lacking or joint in joints or row < 0 or row in joints.values():
                continue
            if joint == "neck" and "head" not in lacking:
                continue
            if joint.endswith("foot"):
                ankle = joint.replace("foot", "ankle")
                if joints.get(ankle) != shape.joints.get(ankle) or words.is_other(rig.names[row]):
                    continue
            if _fits(rig, joints, joint, row):
                take(joint, row)


def _fits(rig: Rig, joints: Mapping[str, int], joint: str, row: int) -> bool:
    """Whether a further joint hangs where it should among those that are known."""
    for chain in _CHAINS:
        if joint not in chain or joint == "pelvis":
            continue
        at = chain.index(joint)
        above = next((joints[each] for each in reversed(chain[:at]) if each in joints and each != "pelvis"), None)
        below = next((joints[each] for each in chain[at + 1 :] if each in joints), None)
        if above is not None and not rig.between(above, row):
            return False
        if below is not None and not rig.between(row, below):
            return False
        if above is None and below is None and joint not in ("neck", "head"):
            return False
    if joint.endswith("collar"):
        other = joints.get(("right" if joint.startswith("left") else "left") + "_shoulder")
        return other is None or not rig.between(row, other)
    return True


_shapes: dict[bytes, structure.Found | None] = {}


def _structure(rig: Rig) -> structure.Found | None:
    """``structure.find``, with left and right as the names say where they say a side and nothing else.

    It is kept for the next take on the same rig: it is the slow one of the sources.
    """
    key = b"".join(np.ascontiguousarray(each).tobytes() for each in (rig.parents, rig.heads, rig.tails, rig.to_world))
    if key not in _shapes:
        while len(_shapes) >= 8:
            _shapes.pop(next(iter(_shapes)))
        _shapes[key] = structure.find(rig)
    shape = _shapes[key]
    if shape is None:
        return None
    sides = [(joint.split("_")[0], words.split(rig.names[row]).side) for joint, row in shape.joints.items()]
    agree = sum(seen == said for seen, said in sides)
    contrary = sum({seen, said} == set(_SIDES) for seen, said in sides)
    if max(agree, contrary) < len(_MUST) or min(agree, contrary) > 0:
        return shape
    if not contrary:
        return replace(shape, facing=1.0)
    swap = {"left": "right", "right": "left"}
    swapped = {
        "_".join([swap.get(part, part) for part in joint.split("_")]): row for joint, row in shape.joints.items()
    }
    return replace(shape, joints=swapped, facing=1.0)


def _plain_rows(rig: Rig) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, name in enumerate(rig.names):
        rows.setdefault(plain(name), row)
    return rows


def _best_preset(rig: Rig, folders: Sequence[Path]) -> tuple[Preset, dict[str, int]]:
    """The convention that names most of the rig's bones, whatever prefix they share; the user's own go first."""
    rows = _plain_rows(rig)
    best: tuple[tuple[bool, bool, int, int, float], Preset, dict[str, int]] | None = None
    presets = [preset for folder in folders if folder.is_dir() for preset in load_presets(folder)]
    for preset in [*presets, *load_presets()]:
        found, spine = _by_names(rows, preset, rig)
        asked = max(sum(bool(names) for names in preset.names.values()), 1)
        complete = not _missing(found)
        rank = (preset.own and complete and len(found) >= 0.9 * asked, complete, len(found), spine, len(found) / asked)
        if best is None or rank > best[0]:
            best = rank, preset, found
    assert best is not None
    return best[1], best[2]


def _by_names(rows: Mapping[str, int], preset: Preset, rig: Rig) -> tuple[dict[str, int], int]:
    """Joints found with the prefix that finds most, and how many spine bones; a prefix is what stands before a known
    name in some bone.

    Of prefixes that find as many ("ORG-", "DEF-") the one whose bones nothing else moves.
    """
    aliases = preset.aliases
    prefixes = {""}
    for alias in aliases.get("left_hip", ()):
        prefixes.update(name[: -len(alias)] for name in rows if name.endswith(alias))
    best: dict[str, int] = {}
    best_rank = (0, 0)
    best_prefix = ""
    for prefix in sorted(prefixes, key=lambda each: (len(each), each)):
        if not all(prefix + name in rows for name in aliases["needs"]):
            continue
        found = {}
        for joint in preset.names:
            row = next((rows[prefix + name] for name in aliases[joint] if prefix + name in rows), None)
            if row is not None:
                found[joint] = row
        rank = len(found), -int(np.count_nonzero(rig.owned[list(found.values())]))
        if found and rank > best_rank:
            best, best_rank, best_prefix = found, rank, prefix
    return best, sum(best_prefix + name in rows for name in aliases["spine"])


def _drop_crossing(rig: Rig, joints: dict[str, int], fixed: Mapping[str, int]) -> None:
    """Take out what was found where it does not hang as it must beside what the user gave."""
    if not fixed:
        return
    for chain in _CHAINS:
        there = [joint for joint in chain if joint in joints]
        for at, upper in enumerate(there):
            for lower in there[at + 1 :]:
                if upper in joints and lower in joints and joints[lower] in rig.line(joints[upper])[1:]:
                    for joint in (lower, upper):
                        if joint not in fixed:
                            joints.pop(joint, None)
                            break


def _line_up(
    rig: Rig,
    preset: Preset,
    found: dict[str, int],
    how: dict[str, str],
    sure: dict[str, float],
    fixed: Mapping[str, int],
    none: set[str],
) -> BoneMap:
    """Pelvis, spine and segments from the hierarchy; joints whose bone hangs elsewhere are dropped or refused."""
    joints = {joint: row for joint, row in found.items() if not joint.startswith("spine")}
    for side in _SIDES:
        for upper, lower in ((f"{side}_hip", f"{side}_knee"), (f"{side}_shoulder", f"{side}_elbow")):
            if not rig.between(joints[upper], joints[lower]):
                raise HeroError(
                    f"In the armature '{rig.name}' the bone '{rig.names[joints[lower]]}' does not hang below "
                    f"'{rig.names[joints[upper]]}'; parent it there, or choose another armature."
                )
        for upper, lower in (
            (f"{side}_knee", f"{side}_ankle"),
            (f"{side}_ankle", f"{side}_foot"),
            (f"{side}_elbow", f"{side}_wrist"),
        ):
            if lower not in joints or (upper in joints and rig.between(joints[upper], joints[lower])):
                continue
            if not (upper.endswith("knee") and _floats(rig, joints, side)):
                _drop(rig, joints, lower, upper, fixed)
        collar, shoulder = f"{side}_collar", f"{side}_shoulder"
        if collar in joints and not rig.between(joints[collar], joints[shoulder]):
            _drop(rig, joints, collar, shoulder, fixed)
    if "head" in joints and "neck" in joints and not rig.between(joints["neck"], joints["head"]):
        _drop(rig, joints, "neck" if "neck" not in fixed else "head", "head", fixed)
    _check_lengths(rig, joints)
    if not fixed:
        _check_upright(rig, joints)

    # Arms and neck hang on the chest, chest and legs on the pelvis, whatever these bones are called.
    tops = [joints.get(f"{side}_collar", joints[f"{side}_shoulder"]) for side in _SIDES]
    tops += [joints[name] for name in ("neck", "head") if name in joints][:1]
    hips = [joints["left_hip"], joints["right_hip"]]
    chest = rig.common(int(rig.parents[row]) for row in tops) if all(rig.parents[row] >= 0 for row in tops) else -1
    pelvis = _pelvis(rig, joints, hips, tops, chest, fixed)
    if pelvis != joints.get("pelvis"):
        how["pelvis"], sure["pelvis"] = "structure", 0.8
    joints["pelvis"] = pelvis
    top = max(
        (fixed[f"spine{n}"] for n in (1, 2, 3) if f"spine{n}" in fixed), key=lambda row: len(rig.line(row)), default=-1
    )
    if chest < 0 or pelvis not in rig.line(chest) or (top >= 0 and top not in rig.line(chest)):
        chest = top if top >= 0 else chest
    line = rig.line(chest) if chest >= 0 else []
    # Where more bones carry all of it ("center" above "groove" above "waist"), the spine begins below the last; and
    # where the pelvis holds only the legs, beside the spine.
    carries = rig.common([*hips, *tops])
    above = pelvis not in line or (carries in line and pelvis in rig.line(carries))
    below = carries if above else pelvis
    line = line[: line.index(below)] if below in line else line
    spine = tuple(row for row in line[::-1] if row not in joints.values())
    _name_spine(rig, preset, spine, joints, how, sure, fixed, none)

    segments: dict[str, tuple[int, ...]] = {}
    for side in _SIDES:
        for upper, lower in _NEXT.items():
            if (row := joints.get(f"{side}_{upper}")) is not None:
                end = joints.get(f"{side}_{lower}")
                segments[f"{side}_{upper}"] = tuple(rig.between(row, end) if end is not None else ()) or (row,)
    if "neck" in joints:
        segments["neck"] = tuple(rig.between(joints["neck"], joints["head"])) if "head" in joints else (joints["neck"],)
    if "head" in joints:
        segments["head"] = (joints["head"],)
    ordered = {joint: joints[joint] for joint in JOINTS if joint in joints}
    return BoneMap(
        preset, ordered, segments, spine, {joint: how[joint] for joint in ordered}, {j: sure[j] for j in ordered}
    )


def _floats(rig: Rig, joints: Mapping[str, int], side: str) -> bool:
    """Whether a foot that hangs on no leg lies where the lower leg ends, and no other bone does.

    Low-poly packs come so: a target of inverse kinematics that deforms the foot, parented to the root, with or without
    the constraint, which is lost in most files.
    """
    hip, knee, ankle = (joints.get(f"{side}_{part}", -1) for part in ("hip", "knee", "ankle"))
    if knee < 0 or rig.owned[ankle]:
        return False
    if {row for joint, row in joints.items() if joint != "pelvis" and row != ankle}.intersection(rig.line(ankle)):
        return False
    upper, lower = rig.heads[knee] - rig.heads[hip], rig.heads[ankle] - rig.heads[knee]
    lengths = float(np.linalg.norm(upper)), float(np.linalg.norm(lower))
    if not 0.4 < lengths[1] / max(lengths[0], 1e-12) < 2.5 or float(upper @ lower) < 0.5 * lengths[0] * lengths[1]:
        return False
    near = np.flatnonzero(np.linalg.norm(rig.heads - rig.heads[ankle], axis=1) < 0.1 * lengths[1])
    return not any(rig.between(knee, int(row)) and not words.is_other(rig.names[row]) for row in near)


def _drop(rig: Rig, joints: dict[str, int], joint: str, other: str, fixed: Mapping[str, int]) -> None:
    """Leave out a joint that hangs elsewhere; one that the user gave is refused."""
    if joint in fixed and other in joints:
        raise HeroError(
            f"In the armature '{rig.name}' the bones '{rig.names[joints[joint]]}' ({_said(joint)}) and "
            f"'{rig.names[joints[other]]}' ({_said(other)}) do not hang on each other; correct the bone map."
        )
    del joints[joint]


def _check_lengths(rig: Rig, joints: Mapping[str, int]) -> None:
    size = float(np.linalg.norm(np.ptp(rig.heads, axis=0)))
    if size <= 0.0:  # only names and hierarchy are known, as of a file without a rest pose
        return
    for side in _SIDES:
        for upper, lower in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist")):
            one, two = joints.get(f"{side}_{upper}"), joints.get(f"{side}_{lower}")
            if one is None or two is None:
                continue
            if np.linalg.norm(rig.heads[one] - rig.heads[two]) < 1e-6 * size:
                raise HeroError(
                    f"In the armature '{rig.name}' the bones '{rig.names[one]}' and '{rig.names[two]}' start at the "
                    f"same place, so there is no length from {side} {upper} to {lower}; correct the bone map or the "
                    "rest pose."
                )


def _check_upright(rig: Rig, joints: Mapping[str, int]) -> None:
    """Refuse what walks on four legs, even if its bones have the names of a human's."""
    at = rig.heads @ rig.to_world[:3, :3].T

    def middle(*parts: str) -> Array:
        return np.asarray(np.mean([at[joints[f"{side}_{part}"]] for side in _SIDES for part in parts], 0))

    trunk = middle("shoulder") - middle("hip")
    ends = [part if f"left_{part}" in joints and f"right_{part}" in joints else instead
            for part, instead in (("ankle", "knee"), ("wrist", "elbow"))]  # fmt: skip
    leg, arm = middle(ends[0]) - middle("hip"), middle(ends[1]) - middle("shoulder")
    lengths = [float(np.linalg.norm(each)) for each in (trunk, leg, arm)]
    if min(lengths) <= 1e-6 * max(lengths, default=0.0) or max(lengths) <= 0.0:
        return
    along = abs(float(trunk @ leg)) / (lengths[0] * lengths[1])
    alike = float(leg @ arm) / (lengths[1] * lengths[2])
    if along < 0.6 and alike > 0.75:
        raise HeroError(
            f"The armature '{rig.name}' stands on four legs, and HERO moves humans; choose the armature of a human, or "
            "say in the bone map which bones are legs and arms."
        )


def _pelvis(
    rig: Rig, joints: Mapping[str, int], hips: list[int], tops: list[int], chest: int, fixed: Mapping[str, int]
) -> int:
    """The bone that carries legs and spine; where none does near the hips, the one that carries the legs alone, and
    where each leg hangs by itself the piece of the spine that is nearest."""
    if "pelvis" in fixed:
        return fixed["pelvis"]
    named = joints.get("pelvis", -1)
    if named >= 0 and all(rig.between(named, row) for row in [*hips, *tops]):
        return named
    pelvis = rig.common([*hips, *tops])
    # A root on the floor that holds legs and spine side by side is no pelvis: it would turn the body about its feet.
    middle = rig.heads[hips].mean(0)

    def away(row: int) -> float:
        return float(np.linalg.norm(rig.heads[row] - middle))

    leg = max(
        float(np.linalg.norm(rig.heads[joints[f"{side}_knee"]] - rig.heads[joints[f"{side}_hip"]])) for side in _SIDES
    )
    if pelvis >= 0 and (away(pelvis) <= 1.2 * leg or leg <= 0.0 or chest < 0 or pelvis not in rig.line(chest)):
        return pelvis
    legs = rig.common(hips)
    if legs >= 0 and legs != pelvis and away(legs) <= 1.2 * leg:
        return legs
    line = rig.line(chest) if chest >= 0 else []
    line = line[: line.index(pelvis)] if pelvis in line else line
    near = min([*line, *([named] if named >= 0 else [])], key=away, default=hips[0])
    return near if pelvis < 0 or away(near) < 0.5 * away(pelvis) else pelvis


def _name_spine(
    rig: Rig,
    preset: Preset,
    spine: tuple[int, ...],
    joints: dict[str, int],
    how: dict[str, str],
    sure: dict[str, float],
    fixed: Mapping[str, int],
    none: set[str],
) -> None:
    """Give spine joints to the spine bones, as the user says or spread over them."""
    known = preset.aliases["spine"]
    by_user = {joint: row for joint, row in fixed.items() if joint.startswith("spine")}
    joints.update(by_user)
    if by_user:
        return
    for joint, row in zip(_spine_joints(len(spine)), _spread(spine), strict=True):
        if joint in none:
            continue
        joints[joint] = row
        name = plain(rig.names[row])
        if any(name.endswith(alias) for alias in known):
            how[joint], sure[joint] = f"preset {preset.name}", 1.0
        elif words.is_spine(rig.names[row]):
            how[joint], sure[joint] = "name", 0.9
        else:
            how[joint], sure[joint] = "structure", 0.8


def _spine_joints(count: int) -> tuple[str, ...]:
    return {0: (), 1: ("spine1",), 2: ("spine1", "spine3")}.get(count, ("spine1", "spine2", "spine3"))


def _spread(spine: tuple[int, ...]) -> tuple[int, ...]:
    """First, middle and last of a long spine; a short one as it is."""
    return spine if len(spine) < 3 else (spine[0], spine[len(spine) // 2], spine[-1])
