# SPDX-License-Identifier: GPL-3.0-or-later
"""Rigs with several chains for a limb, one for FK, one for IK and one that deforms: which of them moves the body now.

The names tell which bones are an arm, not which of its chains the switch of the rig is at. So where the bone that was
found copies another one in its place, that is taken instead; and where bones copy the one that was found, but now
follow another one, that is taken. The switch itself is the animator's and stays where it is.
"""

from __future__ import annotations

from dataclasses import replace

import bpy
import numpy as np

from hero_core.errors import HeroError
from hero_core.retarget import BoneMap, Rig, map_bones

_COPIES = {"COPY_TRANSFORMS", "COPY_ROTATION", "ARMATURE"}
_LIMBS = tuple(
    tuple(f"{side}_{joint}" for joint in joints)
    for side in ("left", "right")
    for joints in (("hip", "knee", "ankle", "foot"), ("shoulder", "elbow", "wrist"))
)

_Sources = dict[str, list[tuple[str, float]]]  # bone -> bones in its place that it copies, with the share of each now


def follow(obj: bpy.types.Object, rig: Rig, bones: BoneMap) -> BoneMap:
    """The map with the chains that move the body now; the same one where those were found."""
    sources = _sources(obj, rig)
    if not sources:
        return bones
    given: dict[str, str] = {}
    for joints in _LIMBS:
        there = [joint for joint in joints if joint in bones.joints]
        lines = {joint: _line(sources, rig.names[bones.joints[joint]]) for joint in there}
        if any(len(lines[joint]) == 1 for joint in joints[:2]):
            continue  # a foot alone may copy the control that its leg reaches for
        last = -1
        for joint in there:
            hanging = [name for name in lines[joint] if last < 0 or rig.between(last, rig.index[name])]
            given[joint] = hanging[-1] if hanging else ""
            last = rig.index[hanging[-1]] if hanging else last
    if not given:
        return bones
    try:
        found = map_bones(rig, {**bones.bones(rig), **given})
    except HeroError:  # what the switch is at does not hang together as a limb does
        return bones
    return replace(found, preset=bones.preset, how=bones.how, sure=bones.sure)


def _line(sources: _Sources, name: str) -> list[str]:
    """From the bone of that name to the one whose keys move now what it stands for."""
    line = [name]
    for follower in [each for each, copied in sources.items() if any(source == name for source, _ in copied)]:
        source = _source(sources, follower)
        if source not in {None, name}:
            line = [name, source]  # the switch of the follower is at another chain
            break
    while (source := _source(sources, line[-1])) is not None and source not in line:
        line.append(source)
    return line


def _source(sources: _Sources, name: str) -> str | None:
    """The bone that this one copies now: the last one of those that have most of the influence."""
    return next((source for source, share in sources.get(name, ())[::-1] if share > 0.5), None)


def _sources(obj: bpy.types.Object, rig: Rig) -> _Sources:
    found: _Sources = {}
    for bone in obj.pose.bones:
        for each in bone.constraints:
            if each.type not in _COPIES or each.mute:
                continue
            for target in each.targets if each.type == "ARMATURE" else [each]:
                share = each.influence * (target.weight if each.type == "ARMATURE" else 1.0)
                if target.target == obj and _same_place(rig, bone.name, target.subtarget):
                    found.setdefault(bone.name, []).append((target.subtarget, share))
    return found


def _same_place(rig: Rig, one: str, other: str) -> bool:
    if one == other or other not in rig.index:
        return False
    a, b = rig.index[one], rig.index[other]
    length = float(np.linalg.norm(rig.tails[a] - rig.heads[a]))
    return float(np.linalg.norm(rig.heads[a] - rig.heads[b])) < 0.02 * length
