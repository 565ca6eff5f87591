# SPDX-License-Identifier: GPL-3.0-or-later
"""Bones are found from places and hierarchy alone: names are meaningless here, siblings in any order."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from humans import Build, disguised, human
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import rig as walker

from hero_core.errors import HeroError
from hero_core.motion import JOINTS
from hero_core.retarget import Rig, map_bones, structure


def found(of: Rig, seed: int = 0, turn: bool = True) -> dict[str, str]:
    """Joint -> true name of the bone that is found for it."""
    hidden, true = disguised(of, seed, turn)
    bones = map_bones(hidden)
    assert set(bones.how.values()) == {"structure"}
    assert all(0.0 < sure < 1.0 for sure in bones.sure.values())
    return {joint: true[hidden.names[row]] for joint, row in bones.joints.items()}


BUILDS = {
    "T": Build(),
    "A": Build(arms=45),
    "arms hanging": Build(arms=80),
    "arms raised": Build(arms=-88),
    "fingers": Build(hand=2, face=True),
    "fingers and ends": Build(hand=3, leaves=True),
    "A with fingers, ends and twist bones": Build(arms=40, hand=3, leaves=True, twists=True),
    "raised with fingers and twist bones": Build(arms=-88, hand=2, twists=True),
    "split limbs": Build(split=2, hand=2),
    "limbs in three parts": Build(split=3, arms=30),
    "no toes": Build(toes=False),
    "no hands": Build(hand=0),
    "no collars": Build(collars=False),
    "no collars, fingers": Build(collars=False, hand=2, arms=20),
    "no neck": Build(neck=0),
    "three neck bones": Build(neck=3, face=True),
    "no spine": Build(spine=0),
    "one spine bone": Build(spine=1),
    "seven spine bones": Build(spine=7),
    "a root": Build(root=True),
    "helpers of the hips": Build(hip_helpers=True, hand=2),
    "a face and hair": Build(face=True, hair=True, hand=2),
    "a skirt": Build(skirt=True, hand=2),
    "a tail": Build(tail=True),
    "a sword": Build(weapon=True, hand=2),
    "a sword without fingers": Build(weapon=True),
    "all at once": Build(
        35, 5, 2, 2, 3, leaves=True, twists=True, face=True, hair=True, skirt=True, tail=True, weapon=True, root=True
    ),
    "a dwarf": Build(leg_size=0.45, head_size=2.0),
    "long legs": Build(leg_size=1.4, arms=50, hand=2),
}  # fmt: skip


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())
def test_any_build(build: Build) -> None:
    of, joints = human(build)
    for seed in range(3):
        assert found(of, seed) == joints


@settings(max_examples=25)
@given(
    build=st.builds(
        Build,
        arms=st.floats(-85, 75),
        spine=st.integers(0, 7),
        neck=st.integers(0, 3),
        split=st.integers(1, 2),
        hand=st.integers(0, 3),
        head_size=st.floats(0.8, 1.5),
        leg_size=st.floats(0.7, 1.3),
        **{each.name: st.booleans() for each in fields(Build) if each.type == "bool"},
    ),
    seed=st.integers(0, 2**31),
)
def test_any_mixture_of_parts(build: Build, seed: int) -> None:
    if not build.hand:  # where forearms end is a guess then, and helpers there are as good as a hand
        build = replace(build, split=1, twists=False)
    of, joints = human(build)
    got = found(of, seed)
    # A single bone above the chest may be either; of two the upper may mark the end of a head.
    sure = {joint for joint in JOINTS if joint not in ("neck", "head")}
    if build.neck and (build.neck < 3 or build.face) and not (build.leaves and not build.face):
        sure |= {"neck", "head"}
    assert {j: b for j, b in got.items() if j in sure} == {j: b for j, b in joints.items() if j in sure}


def test_left_is_where_the_toes_say() -> None:
    """A character that faces away from the viewer, by its own bones and not by a turned object."""
    of, joints = human(Build(hand=2))
    turn = np.diag([-1.0, -1.0, 1.0])
    rest = of.rest.copy()
    rest[:, :3, 3] = of.heads @ turn
    away = replace(of, rest=rest, tails=of.tails @ turn)
    assert found(away, turn=False) == joints


def test_without_a_front_the_viewer_is_faced_and_it_is_said() -> None:
    of, joints = human(Build(toes=False, hand=1))
    flat = of.rest.copy()
    flat[:, 1, 3] = 0.0
    tails = of.tails * [1, 0, 1]
    hidden, true = disguised(replace(of, rest=flat, tails=tails), 1, turn=False)
    bones = map_bones(hidden)
    assert {joint: true[hidden.names[row]] for joint, row in bones.joints.items()} == joints
    assert bones.sure["left_hip"] < 0.5 < bones.sure["head"]


def test_noise_of_the_rest_pose_does_no_harm() -> None:
    of, joints = human(Build(hand=2, face=True, twists=True))
    rng = np.random.default_rng(0)
    rest, noise = of.rest.copy(), rng.normal(0, 0.004, of.tails.shape)
    rest[:, :3, 3] += noise
    assert found(replace(of, rest=rest, tails=of.tails + noise)) == joints


def test_tails_that_point_anywhere_do_no_harm() -> None:
    """FBX files know no tails; importers let them point along an axis."""
    of, joints = human(Build(hand=2, arms=30))
    assert found(replace(of, tails=of.heads + [0, 0.05, 0])) == joints


def test_a_mitten_is_a_hand() -> None:
    """All fingers in one chain, far from the wrist, and a thumb that ends before they begin."""
    of, joints = human(Build(hand=2))
    tops = [f"{side}_finger{number}_1" for side in ("left", "right") for number in (0, 2, 3)]
    of = without(of, *tops)
    rest, tails = of.rest.copy(), of.tails.copy()
    for row, name in enumerate(of.names):
        if "finger" in name:
            rest[row, 0, 3] += 0.07 if name.startswith("left") else -0.07
            tails[row, 0] += 0.07 if name.startswith("left") else -0.07
    for seed in range(3):
        assert found(replace(of, rest=rest, tails=tails), seed) == joints


def test_zero_length_bones_do_no_harm() -> None:
    of, joints = human(Build(hand=2))
    assert found(replace(of, tails=of.heads.copy())) == joints


def test_the_body_of_the_motions_themselves() -> None:
    of = walker(45.0)
    got = found(of)
    assert len(got) == 22
    assert got["left_wrist"] == "mixamorig:LeftHand"


def without(of: Rig, *tops: str) -> Rig:
    """The rig without these bones and what hangs on them."""
    gone = {row for row in range(len(of.names)) if {of.names[up] for up in of.line(row)} & set(tops)}
    keep = [row for row in range(len(of.names)) if row not in gone]
    place = {row: new for new, row in enumerate(keep)}
    cut = ("rest", "tails", "use_local_location", "connected", "inherit_rotation", "owned")
    return replace(
        of,
        names=tuple(of.names[row] for row in keep),
        parents=np.array([place.get(int(of.parents[row]), -1) for row in keep]),
        **{each: getattr(of, each)[keep] for each in cut},
    )


@pytest.mark.parametrize(
    "tops",
    [
        ["left_thigh"],
        ["right_thigh"],
        ["left_thigh", "right_thigh"],
        ["left_shin"],
        ["right_collar"],
        ["left_collar", "right_collar"],
    ],
)
def test_a_limb_that_is_not_there_is_said(tops: list[str]) -> None:
    of, _ = human(Build(hand=2, face=True, hair="collar" not in tops[0]))
    hidden, _ = disguised(without(of, *tops), 3)
    with pytest.raises(HeroError, match=r"has no (left|right) (leg|arm).* that HERO knows; choose"):
        map_bones(hidden)


@pytest.mark.parametrize("top", ["left_collar", "left_upper_arm", "left_forearm", "left_hand"])
@pytest.mark.parametrize("arms", [-80, 0, 40, 80])
def test_an_arm_alone_is_no_human(top: str, arms: float) -> None:
    """Its fingers lie as the limbs of somebody do."""
    of, _ = human(Build(hand=2, arms=arms))
    rows = [row for row in range(len(of.names)) if of.index[top] in of.line(row)]
    place = {row: new for new, row in enumerate(rows)}
    cut = ("rest", "tails", "use_local_location", "connected", "inherit_rotation", "owned")
    alone = replace(
        of,
        names=tuple(of.names[row] for row in rows),
        parents=np.array([place.get(int(of.parents[row]), -1) for row in rows]),
        **{each: getattr(of, each)[rows] for each in cut},
    )
    for each in (alone, *(disguised(alone, seed)[0] for seed in range(3))):
        with pytest.raises(HeroError, match="no left leg and no right leg"):
            map_bones(each)


def test_what_is_no_human_is_not_found() -> None:
    of, _ = human(Build(hand=2))
    snake = without(of, "left_thigh", "right_thigh", "left_collar", "right_collar")
    assert structure.find(snake) is None
    dot = replace(of, rest=np.tile(np.eye(4), (len(of.names), 1, 1)), tails=np.zeros_like(of.tails))
    assert structure.find(dot) is None


def test_four_legs_are_no_human() -> None:
    """The trunk lies level: legs and arms stand on the floor."""
    of, _ = human(Build(arms=88, hand=1))
    rest, tails = of.rest.copy(), of.tails.copy()
    legs = {
        row for row in range(len(of.names)) if {of.names[up] for up in of.line(row)} & {"left_thigh", "right_thigh"}
    }
    pivot = np.array([0.0, 0.0, 0.9])
    for row in range(len(of.names)):
        if row in legs:
            continue
        bend = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # forward by a right angle, about the hips
        rest[row, :3, 3] = (of.heads[row] - pivot) @ bend.T + pivot
        tails[row] = (of.tails[row] - pivot) @ bend.T + pivot
    for side in ("left", "right"):  # the arms hang straight down from there
        top = of.names.index(f"{side}_upper_arm")
        here = rest[top, :3, 3].copy()
        for row in range(len(of.names)):
            if top in of.line(row):
                rest[row, :3, 3] = here + (of.heads[row] - of.heads[top])
                tails[row] = here + (of.tails[row] - of.heads[top])
    horse = replace(of, rest=rest, tails=tails)
    assert structure.find(horse) is None
    with pytest.raises(HeroError, match="stands on four legs"):  # though its bones have the names of a human's
        map_bones(horse)
