# SPDX-License-Identifier: GPL-3.0-or-later
"""The choices of a retarget, in one place: what the panel, the command line and the solve share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import HeroError


@dataclass(frozen=True)
class Options:
    """How a motion is put on a rig.

    preserve      what stays where proportions differ: 0 limb directions, 1 hand and foot positions, between: a blend
    pin_feet      feet that stand are held, where the motion is measured to slide; the hips come down by 3 cm at most
    smooth        jitter of the joints is taken out, and a body that hovers put down, where there is more of the former
                  than in recorded motion
    limits        rotation limits that the armature has are respected
    root          what carries the way through the scene: the hips, the root bone or the armature object
    in_place      the way through the scene is left out
    controls      of a control rig: its IK controls, its FK controls, or what suits ("auto")
    reduce        keys that are not needed are left out; else every frame is keyed
    degrees       how far a bone may turn away by that
    millimetres   how far a hand, foot or the head may move away by that, for a character of 1.7 m
    action        what becomes of the Action that the armature has: it is kept beside the new one ("keep"), removed if
                  nothing else uses it ("replace"), goes below the new one as an NLA strip ("layer"), or the same with
                  the new one as a strip, too ("nla")
    start         where the hips stand first, from where the armature's rest pose has them: x, y (up), z, scene units
    """

    preserve: float = 0.0
    pin_feet: bool = True
    smooth: bool = True
    limits: bool = False
    root: Literal["hips", "root", "object"] = "hips"
    in_place: bool = False
    controls: Literal["auto", "ik", "fk"] = "auto"
    reduce: bool = True
    degrees: float = 0.5
    millimetres: float = 5.0
    action: Literal["keep", "replace", "layer", "nla"] = "keep"
    start: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0.0 <= self.preserve <= 1.0:
            raise HeroError(f"'preserve' is {self.preserve}; choose from 0 (directions) to 1 (positions).")
        if not (self.degrees > 0.0 and self.millimetres > 0.0):
            raise HeroError("The tolerances for keys must be above zero; write every key by switching reduction off.")
