# SPDX-License-Identifier: GPL-3.0-or-later
"""What an animator chooses: directions or positions, who carries the way, limits; and the roll along a limb."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import J, about, rig, walk

from hero_core.errors import HeroError
from hero_core.retarget import Rig, map_bones, pose, solve
from hero_core.retarget.limits import clamp
from hero_core.retarget.options import Options
from hero_core.retarget.rotations import from_euler, swing, to_euler, to_matrix, to_quaternion, unit
from hero_core.retarget.twist import about_axis

Array = npt.NDArray[Any]
ENDS = ("left_wrist", "right_wrist", "left_ankle", "right_ankle")


def choose(**choices: Any) -> Options:
    return Options(**{"pin_feet": False, "smooth": False, **choices})


def other_proportions(joints: Array, arms: float, legs: float) -> Array:
    """The motion of somebody with other forearms and shins."""
    joints = joints.copy()
    for side in ("left", "right"):
        for middle, ends, factor in (("elbow", ("wrist",), arms), ("knee", ("ankle", "foot"), legs)):
            shift = (factor - 1) * (joints[:, J[f"{side}_{ends[0]}"]] - joints[:, J[f"{side}_{middle}"]])
            for end in ends:
                joints[:, J[f"{side}_{end}"]] += shift
    return joints


def ends(joints: Array, of: Rig, preserve: float) -> tuple[dict[str, Array], Array, float]:
    """Ends of the limbs and the joints between the shoulders in the world; scale."""
    bones = map_bones(of)
    solved = pose(joints, of, bones, choose(preserve=preserve))
    world = of.to_world[:3, :3]
    points = {name: solved.heads[:, bones.joints[name]] @ world.T for name in (*ENDS, "pelvis")}
    shoulders = [solved.heads[:, bones.joints[f"{side}_shoulder"]] @ world.T for side in ("left", "right")]
    return points, (shoulders[0] + shoulders[1]) / 2, solved.scale


@settings(max_examples=20, deadline=None)
@given(
    arms=st.floats(0.8, 1.15),
    legs=st.floats(0.9, 1.1),
    size=st.sampled_from([0.01, 1.0, 150.0]),
    turn=st.floats(0, 360),
)
def test_hands_and_feet_keep_their_places(arms: float, legs: float, size: float, turn: float) -> None:
    world = np.eye(4)
    world[:3, :3] = about("z", turn) * 0.7
    of = rig(45.0, size=size, world=world)
    joints = other_proportions(walk(30), arms, legs)
    points, middle, scale = ends(joints, of, 1.0)
    height = 2 * 0.82 * size * 0.7
    source_middle = (joints[:, J["left_shoulder"]] + joints[:, J["right_shoulder"]]) / 2
    span = (0.24 + 2 * (0.26 + 0.27)) * size * 0.7 / (0.24 + 2 * (0.26 + 0.27 * arms))
    for side in ("left", "right"):
        want = span * (joints[:, J[f"{side}_wrist"]] - source_middle)
        assert np.linalg.norm(points[f"{side}_wrist"] - middle - want, axis=-1).max() < 0.005 * height
        want = scale * (joints[:, J[f"{side}_ankle"]] - joints[:, 0])
        off = points[f"{side}_ankle"] - points["pelvis"] - want
        off[:, 1] -= np.median(off[:, 1])  # the ankle stands over the floor at the rig's height, not the motion's
        assert np.linalg.norm(off, axis=-1).max() < 0.005 * height


def test_half_way_is_between() -> None:
    of, joints = rig(45.0), other_proportions(walk(20), 0.8, 1.1)
    directions, half, positions = (ends(joints, of, preserve)[0] for preserve in (0.0, 0.5, 1.0))
    for name in ENDS:
        between = (directions[name] + positions[name]) / 2
        assert np.abs(half[name] - between).max() < 0.01
        assert np.abs(directions[name] - positions[name]).max() > 0.005


def test_hands_too_far_away_are_reached_for_as_far_as_arms_go() -> None:
    of = rig()
    bones = map_bones(of)
    joints = walk(20)
    joints[8:12, J["left_wrist"]] = joints[8:12, J["left_shoulder"]] + [0.7, 0.1, 0.0]
    solved = pose(joints, of, bones, choose(preserve=1.0))
    shoulder, elbow, wrist = (
        solved.heads[8:12, bones.joints[f"left_{name}"]] for name in ("shoulder", "elbow", "wrist")
    )
    assert (np.linalg.norm(wrist - shoulder, axis=-1) < 0.531).all()
    assert (np.sum(unit(elbow - shoulder) * unit(wrist - elbow), -1) > 0.95).all()


def rooted(**changes: Any) -> Rig:
    """The rig below a root bone at the origin."""
    of = rig(45.0, **changes)
    extend = {name: np.concatenate([getattr(of, name)[:1], getattr(of, name)]) for name in (
        "rest", "tails", "use_local_location", "connected", "inherit_rotation", "owned")}  # fmt: skip
    extend["rest"][0] = np.eye(4)
    extend["tails"][0] = [0, 0.3, 0]
    return replace(of, names=("root", *of.names), parents=np.concatenate([[-1], of.parents + 1]), **extend)


def world_path(of: Rig, moves: Array) -> Array:
    return moves @ of.to_world[:3, :3].T


@pytest.mark.parametrize("turn", [0.0, 70.0])
def test_the_way_is_carried_by_who_is_chosen(turn: float) -> None:
    world = np.eye(4)
    world[:3, :3] = about("z", turn) * 0.5
    of, joints = rooted(world=world), walk(40, 30.0)
    bones = map_bones(of)
    flat = np.array([1.0, 0.0, 1.0])
    solved = pose(joints, of, bones, choose())
    hips = of.names[bones.joints["pelvis"]]
    way = solved.scale * (joints[:, 0] - joints[0, 0]) * flat
    rest = of.rest[of.index[hips], :3, :3]
    keys = {root: solve(joints, of, bones, choose(root=root)) for root in ("hips", "root", "object")}

    def hips_move(root: str) -> Array:
        return world_path(of, keys[root].locations[hips] @ rest.T)

    whole = hips_move("hips")
    assert np.allclose(whole * flat, way, atol=1e-9)
    assert "root" not in keys["hips"].locations and keys["hips"].travel is None
    carried = world_path(of, keys["root"].locations["root"])
    assert np.allclose(carried, way, atol=1e-9)
    assert np.allclose(hips_move("root") + carried, whole, atol=1e-9)
    assert np.allclose(hips_move("root") * flat, 0, atol=1e-9)
    travel = keys["object"].travel
    assert travel is not None
    assert np.allclose(travel, way, atol=1e-9)
    assert np.allclose(hips_move("object") + travel, whole, atol=1e-9)
    for root in ("hips", "root", "object"):
        still = solve(joints, of, bones, choose(root=root, in_place=True))
        assert still.travel is None and "root" not in still.locations
        assert np.allclose(world_path(of, still.locations[hips] @ rest.T), whole * [0, 1, 0], atol=1e-9)


def test_a_rig_without_a_root_bone_says_so() -> None:
    of = rig()
    with pytest.raises(HeroError, match="no root bone above 'mixamorig:Hips'"):
        solve(walk(10), of, map_bones(of), choose(root="root"))


def twisted(name: str, above: str, place: float) -> Rig:
    """The rig with a twist bone beside a limb, ``place`` of the way down."""
    of = rig()
    top, end = of.index[f"mixamorig:{above}"], of.index[f"mixamorig:{above}"] + 2
    child = next(row for row in range(len(of.names)) if of.parents[row] == top)
    end = child
    head = of.heads[top] + place * (of.heads[end] - of.heads[top])
    rest = of.rest[top].copy()
    rest[:3, 3] = head
    more = {"rest": rest[None], "tails": (head + 0.2 * (of.heads[end] - of.heads[top]))[None]}
    more |= {"use_local_location": np.ones(1, bool), "connected": np.zeros(1, bool)}
    more |= {"inherit_rotation": np.ones(1, bool), "owned": np.zeros(1, bool)}
    joined = {field: np.concatenate([getattr(of, field), value]) for field, value in more.items()}
    return replace(of, names=(*of.names, name), parents=np.append(of.parents, top), **joined)


def rolling_arm(count: int = 40) -> Array:
    """The left arm hangs aside and rolls about itself: the bent forearm sweeps from forward to up."""
    joints = np.repeat(walk(1, bend=0.0), count, axis=0)
    upper = np.array([1.0, 0.0, 0.0])
    elbow = joints[:, J["left_shoulder"]] + 0.26 * upper
    angle = np.linspace(0, -80, count)
    fore = np.einsum("nij,j->ni", about("x", angle), np.array([0.3, 0.0, 1.0]))
    joints[:, J["left_elbow"]] = elbow
    joints[:, J["left_wrist"]] = elbow + 0.27 * unit(fore)
    return joints


@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.75])
def test_the_roll_of_the_upper_arm_is_spread_along_it(place: float) -> None:
    of = twisted("mixamorig:LeftArmTwist", "LeftArm", place)
    bones = map_bones(of)
    solved = pose(rolling_arm(), of, bones, choose())
    arm, twist = of.index["mixamorig:LeftArm"], of.index["mixamorig:LeftArmTwist"]
    along = unit(of.heads[of.index["mixamorig:LeftForeArm"]] - of.heads[arm])
    assert np.allclose(solved.turns[:, arm] @ along, solved.turns[:, twist] @ along, atol=1e-9)
    rolled = [
        about_axis(np.swapaxes(solved.turns[:1, row], 1, 2) @ solved.turns[:, row], along) for row in (arm, twist)
    ]
    assert abs(rolled[0][-1]) > np.radians(60)
    assert np.allclose(rolled[1], place * rolled[0], atol=np.radians(3))


def test_twist_bones_that_something_owns_or_that_have_nothing_to_do_get_no_keys() -> None:
    of = twisted("mixamorig:LeftArmTwist", "LeftArm", 0.5)
    owned = of.owned.copy()
    owned[-1] = True
    assert "mixamorig:LeftArmTwist" in solve(rolling_arm(), of, map_bones(of), choose()).rotations
    held = replace(of, owned=owned)
    assert "mixamorig:LeftArmTwist" not in solve(rolling_arm(), held, map_bones(held), choose()).rotations
    aside = twisted("mixamorig:Holster", "LeftUpLeg", 0.3)
    rest = aside.rest.copy()
    rest[-1, :3, 3] += [0.1, 0, 0]
    aside = replace(aside, rest=rest)
    assert "mixamorig:Holster" not in solve(walk(20), aside, map_bones(aside), choose()).rotations


def test_the_calf_takes_on_the_turn_of_the_foot() -> None:
    joints = np.repeat(walk(1, bend=0.3), 30, axis=0)
    ankle, ball = J["left_ankle"], J["left_foot"]
    joints[:, ball] = joints[:, ankle] + np.einsum(
        "nij,nj->ni", about("y", np.linspace(0, 50, 30)), joints[:, ball] - joints[:, ankle]
    )
    of = twisted("mixamorig:LeftLegTwist", "LeftLeg", 0.5)
    solved = pose(joints, of, map_bones(of), choose())
    shin, twist = of.index["mixamorig:LeftLeg"], of.index["mixamorig:LeftLegTwist"]
    along = unit(of.heads[of.index["mixamorig:LeftFoot"]] - of.heads[shin])
    local = np.swapaxes(solved.turns[:, shin], 1, 2) @ solved.turns[:, twist]
    assert np.allclose(local @ along, along, atol=1e-9)
    assert 8 < np.degrees(np.ptp(about_axis(local, along))) < 40


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(0.05, 1.5))
def test_limits_are_kept(angles: list[float], limit: float) -> None:
    limits = np.array([[-limit, limit], [-0.2, limit], [-np.inf, np.inf]])
    t = np.linspace(0, 1, 50)[:, None]
    quaternions = from_euler(t * np.array(angles), "XYZ")
    kept = to_euler(clamp(quaternions, limits), "XYZ")
    # Both triples of a rotation are allowed; the one with the smaller middle angle is compared.
    assert (kept[:, 0] < limit + 1e-6).all() or (np.abs(kept[:, 1]) > np.pi / 2 - 1e-6).any()
    assert (kept[:, 1] > -0.2 - 1e-6).all() or (np.abs(kept[:, 1]) > np.pi / 2 - 1e-6).any()


def test_limits_do_nothing_far_away_and_meet_softly() -> None:
    angle = np.linspace(-0.5, 1.5, 200)
    quaternions = from_euler(np.stack([angle, 0 * angle, 0 * angle], -1), "XYZ")
    assert clamp(quaternions, np.array([[-np.inf, np.inf]] * 3)) is quaternions
    assert clamp(quaternions, np.array([[-2.0, 3.0]] * 3)) is quaternions
    kept = to_euler(clamp(quaternions, np.array([[-1.0, 1.0], [-1, 1], [-1, 1]])), "XYZ")[:, 0]
    assert kept.max() < 1.0
    assert np.allclose(kept[angle < 0.85], angle[angle < 0.85])
    assert np.abs(np.diff(np.diff(kept))).max() < 0.002  # no corner
    locked = to_euler(clamp(quaternions, np.array([[0.0, 0.0], [-1, 1], [-1, 1]])), "XYZ")
    assert np.allclose(locked, 0, atol=1e-9)


def test_limits_of_the_rig_are_respected_on_request() -> None:
    of = rig(45.0)
    limits = np.tile([-np.inf, np.inf], (22, 3, 1))
    knee = of.index["mixamorig:LeftLeg"]
    limits[knee] = np.radians([[-20, 20], [-20, 20], [-20, 20]])
    of = replace(of, limits=limits)
    bones = map_bones(of)

    def bend(options: Options) -> float:
        keys = solve(walk(40), of, bones, options).rotations["mixamorig:LeftLeg"]
        return float(np.degrees(np.abs(to_euler(keys, "XYZ")).max()))

    assert bend(choose()) > 30
    assert bend(choose(limits=True)) < 20.001


def test_eulers_there_and_back() -> None:
    angles = np.random.default_rng(0).uniform(-1.4, 1.4, (50, 3))
    for order in ("XYZ", "ZYX", "YXZ"):
        again = from_euler(to_euler(from_euler(angles, order), order), order)
        assert np.allclose(to_matrix(again), to_matrix(from_euler(angles, order)), atol=1e-9)


def test_roll_of_swings_alone_is_none() -> None:
    a, b = np.array([0.0, 1.0, 0.0]), unit(np.random.default_rng(0).normal(size=(30, 3)))
    b[:, 1] = np.abs(b[:, 1])
    assert np.abs(about_axis(swing(a, b), a)).max() < 1e-6
    assert to_quaternion(np.eye(3)).tolist() == [1, 0, 0, 0]


def test_a_rig_at_nan_is_refused() -> None:
    of = rig()
    rest = of.rest.copy()
    rest[3, 0, 3] = np.nan
    with pytest.raises(HeroError, match="NaN or infinity"):
        replace(of, rest=rest)


def test_a_rig_that_rests_as_the_source_does_shows_the_same_joints() -> None:
    of, joints = rig(), walk(40)
    bones = map_bones(of)
    solved = pose(joints, of, bones, choose())
    got = np.stack([solved.heads[:, bones.joints[name]] for name in ("pelvis", *ENDS, "neck", "left_knee")], 1)
    want = joints[:, [J[name] for name in ("pelvis", *ENDS, "neck", "left_knee")]]
    off = got @ of.to_world[:3, :3].T - want
    assert np.abs(off - off[0]).max() < 5e-4
