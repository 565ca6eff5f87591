# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bone is which HumanML3D joint: presets in ``rigs/*.json``, found by names without prefixes and punctuation."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import HeroError
from ..motion import JOINTS
from .rig import Rig

_SIDES = ("left", "right")
_NEXT = {"hip": "knee", "knee": "ankle", "ankle": "foot", "collar": "shoulder", "shoulder": "elbow", "elbow": "wrist"}
_LIMBS = {"leg": ("hip", "knee"), "arm": ("shoulder", "elbow")}


@dataclass(frozen=True)
class Preset:
    """One bone-naming convention.

    names      joint -> names that its bone may have, the better one first
    controls   what to key where control bones move the rig: purpose -> exact bone name, {side} for the side's text
    sides      {"left": ".L", "right": ".R"}
    """

    name: str
    names: dict[str, tuple[str, ...]]
    controls: dict[str, str]
    sides: dict[str, str]


@dataclass(frozen=True)
class BoneMap:
    """Rows of the bones of a rig for the 22 joints and for the segments between them.

    joints     joint -> row, only those that the rig has; the head of the bone shows the joint
    segments   joint -> rows that turn as one from this joint to the next, top first; twist and helper bones that
               hang beside the line are not in it, they follow
    spine      rows above the pelvis up to the one that carries neck and arms
    """

    preset: Preset
    joints: dict[str, int]
    segments: dict[str, tuple[int, ...]]
    spine: tuple[int, ...]


def presets_folder() -> Path:
    """``rigs/`` inside the installed package, or at the top of the checkout."""
    packed = Path(__file__).parents[1] / "rigs"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "rigs"


@lru_cache
def load_presets(folder: Path | None = None) -> tuple[Preset, ...]:
    """All conventions of a folder of JSON files.

    A file holds ``name``, ``sides`` ({"left": "_l", "right": "_r"}) and ``joints``: a joint, or a joint without its
    side ("hip"), to bone names in which {side} stands for the text of the side; ``controls`` at will.
    Raises HeroError for a file that does not say this.
    """
    folder = folder or presets_folder()
    presets = []
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            names: dict[str, tuple[str, ...]] = {}
            for joint, bones in data["joints"].items():
                for side in _SIDES if joint not in JOINTS else ("",):
                    full = f"{side}_{joint}" if side else joint
                    if full not in JOINTS:
                        raise KeyError(f"no joint is called {joint}")
                    names[full] = tuple(bone.format(side=data["sides"].get(side, "")) for bone in bones)
            presets.append(Preset(data["name"], names, dict(data.get("controls", {})), dict(data["sides"])))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise HeroError(f"The rig preset '{path.name}' cannot be used ({err}); repair or remove it.") from err
    if not presets:
        raise HeroError(f"There are no rig presets in '{folder}'; install HERO again.")
    return tuple(presets)


def plain(name: str) -> str:
    """Bone name without namespace and punctuation: "mixamorig1:LeftUpLeg" -> "leftupleg", "thigh.L" -> "thighl"."""
    return re.sub(r"[\W_]", "", re.split(r"[:|]", name)[-1]).lower()


def map_bones(rig: Rig, folder: Path | None = None) -> BoneMap:
    """Find the convention that names most of the rig's bones, whatever prefix they share.

    Raises HeroError where no convention finds two legs and two arms; it says what is missing.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(rig.names):
        rows.setdefault(plain(name), row)
    best: tuple[int, Preset, dict[str, int]] | None = None
    for preset in load_presets(folder):
        found = _by_names(rows, preset)
        if best is None or len(found) > best[0]:
            best = (len(found), preset, found)
    assert best is not None
    _, preset, found = best
    missing = _missing(found)
    if missing:
        raise HeroError(
            f"The armature '{rig.name}' has no {' and no '.join(missing)} that HERO knows; choose the character's "
            "armature, or add its bone names as a file to the folder rigs."
        )
    return _line_up(rig, preset, found)


def _missing(found: dict[str, int]) -> list[str]:
    return [
        f"{side} {limb}"
        for limb, joints in _LIMBS.items()
        for side in _SIDES
        if not all(f"{side}_{joint}" in found for joint in joints)
    ]


def _by_names(rows: dict[str, int], preset: Preset) -> dict[str, int]:
    """Joints found with the prefix that finds most; a prefix is what stands before a known name in some bone."""
    aliases = {joint: [plain(name) for name in names] for joint, names in preset.names.items()}
    prefixes = {""}
    for alias in aliases["left_hip"]:
        prefixes.update(name[: -len(alias)] for name in rows if name.endswith(alias))
    best: dict[str, int] = {}
    for prefix in sorted(prefixes, key=len):
        found = {}
        for joint, names in aliases.items():
            row = next((rows[prefix + name] for name in names if prefix + name in rows), None)
            if row is not None:
                found[joint] = row
        if len(found) > len(best):
            best = found
    return best


def _line_up(rig: Rig, preset: Preset, found: dict[str, int]) -> BoneMap:
    """Pelvis, spine and segments from the hierarchy; joints whose bone hangs elsewhere are dropped or refused."""
    joints = dict(found)
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
            if lower in joints and not (upper in joints and rig.between(joints[upper], joints[lower])):
                del joints[lower]
        if f"{side}_collar" in joints and not rig.between(joints[f"{side}_collar"], joints[f"{side}_shoulder"]):
            del joints[f"{side}_collar"]
    if "head" in joints and "neck" in joints and not rig.between(joints["neck"], joints["head"]):
        del joints["neck"]

    # Arms and neck hang on the chest, chest and legs on the pelvis, whatever these bones are called.
    tops = [joints.get(f"{side}_collar", joints[f"{side}_shoulder"]) for side in _SIDES]
    tops += [joints[name] for name in ("neck", "head") if name in joints][:1]
    hips = [joints["left_hip"], joints["right_hip"]]
    chest = rig.common(int(rig.parents[row]) for row in tops) if all(rig.parents[row] >= 0 for row in tops) else -1
    pelvis = rig.common([*hips, *tops])
    named = joints.get("pelvis", -1)
    if named >= 0 and all(rig.between(named, row) for row in [*hips, *tops]):
        pelvis = named
    elif pelvis < 0:
        pelvis = named if named >= 0 else chest if chest >= 0 else hips[0]
    joints["pelvis"] = pelvis
    spine = tuple(rig.line(chest)[: rig.line(chest).index(pelvis)][::-1]) if pelvis in rig.line(chest) else ()
    spine = tuple(row for row in spine if row != pelvis)
    for joint, row in zip(_spine_joints(len(spine)), _spread(spine), strict=True):
        joints[joint] = row

    segments: dict[str, tuple[int, ...]] = {}
    for side in _SIDES:
        for upper, lower in _NEXT.items():
            if (top := joints.get(f"{side}_{upper}")) is not None:
                end = joints.get(f"{side}_{lower}")
                segments[f"{side}_{upper}"] = tuple(rig.between(top, end)) if end is not None else (top,)
    if "neck" in joints:
        segments["neck"] = tuple(rig.between(joints["neck"], joints["head"])) if "head" in joints else (joints["neck"],)
    if "head" in joints:
        segments["head"] = (joints["head"],)
    return BoneMap(preset, joints, segments, spine)


def _spine_joints(count: int) -> tuple[str, ...]:
    return {0: (), 1: ("spine1",), 2: ("spine1", "spine3")}.get(count, ("spine1", "spine2", "spine3"))


def _spread(spine: tuple[int, ...]) -> tuple[int, ...]:
    """First, middle and last of a long spine; a short one as it is."""
    return spine if len(spine) < 3 else (spine[0], spine[len(spine) // 2], spine[-1])
