# SPDX-License-Identifier: GPL-3.0-or-later
"""Feet that stand stay where they stand, the rest of the body hardly notices, and who lies is left in peace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import J, about, rig, walk

from hero_core.errors import HeroError
from hero_core.retarget import Pose, Rig, map_bones, pose
from hero_core.retarget.contacts import Contacts, find, runs
from hero_core.retarget.options import Options
from hero_core.retarget.rotations import unit

Array = npt.NDArray[Any]
FREE = Options(pin_feet=False, smooth=False)
HELD = Options(pin_feet=True, smooth=False)


def stand(count: int = 80, bend: float = 0.5) -> Array:
    """Somebody who stands with slightly bent knees, both feet level with each other."""
    joints = np.repeat(walk(6, bend=bend)[5:6], count, axis=0)
    for side in ("left", "right"):
        drop = joints[0, J[f"{side}_foot"], 1] - joints[0, [J["left_foot"], J["right_foot"]], 1].min()
        for part in ("ankle", "foot"):
            joints[:, J[f"{side}_{part}"], 1] -= drop
    return joints


def strides(count: int = 100) -> Array:
    """The walk, moved such that the lower foot stays where it is."""
    joints = walk(count)
    balls = joints[:, [J["left_foot"], J["right_foot"]]]
    lower = np.argmin(balls[:-1, :, 1] + balls[1:, :, 1], axis=1)
    slip = np.diff(balls, axis=0)[np.arange(count - 1), lower] * [1, 0, 1]
    return joints - np.concatenate([np.zeros((1, 3)), np.cumsum(slip, 0)])[:, None]


def at(solved: Pose, of: Rig, name: str) -> Array:
    """(N, 3) head of a bone in the world, Y up."""
    return solved.heads[:, of.index[f"mixamorig:{name}"]] @ of.to_world[:3, :3].T


def ball_speeds(solved: Pose, of: Rig, contacts: Contacts) -> Array:
    """cm/s of the balls of the feet from pose to pose in which they stand."""
    found = []
    for side, name in enumerate(("LeftToeBase", "RightToeBase")):
        both = contacts.ball[1:, side] & contacts.ball[:-1, side]
        found.append(np.linalg.norm(np.diff(at(solved, of, name), axis=0)[both][:, [0, 2]], axis=-1) * 2000)
    return np.concatenate(found) / solved.scale


def sliding(amount: float = 0.04, count: int = 80) -> Array:
    joints = stand(count)
    way = amount * np.sin(2 * np.pi * np.arange(count) / 40)
    feet = [J[f"{side}_{part}"] for side in ("left", "right") for part in ("ankle", "foot")]
    joints[:, feet, 0] += way[:, None]
    joints[:, feet, 2] += 0.5 * way[:, None]
    return joints


@settings(max_examples=15, deadline=None)
@given(
    arms=st.sampled_from([0.0, 45.0]),
    seed=st.integers(0, 2**31),
    size=st.sampled_from([0.01, 1.0, 170.0]),
    turn=st.floats(-180, 180),
    amount=st.floats(0.02, 0.07),
)
def test_sliding_feet_are_held_in_any_rig(arms: float, seed: int, size: float, turn: float, amount: float) -> None:
    world = np.eye(4)
    world[:3, :3] = about("z", turn) @ about("x", turn / 2) * 1.7
    of = rig(arms, np.random.default_rng(seed).uniform(-180, 180, 22), size, world)
    bones, joints = map_bones(of), sliding(amount)
    before, after = pose(joints, of, bones, FREE), pose(joints, of, bones, HELD)
    assert after.contacts is not None
    assert ball_speeds(before, of, after.contacts).mean() > 1.5
    assert ball_speeds(after, of, after.contacts).max() < 1.0
    assert after.measures["skating_after"] < 0.01 < after.measures["skating_before"]
    down = (at(before, of, "Hips") - at(after, of, "Hips")) / after.scale
    assert np.abs(down[:, [0, 2]]).max() < 1e-6 and down[:, 1].max() <= 0.03 + 1e-6 and down[:, 1].min() > -1e-6
    assert after.measures["hips_lowered"] == pytest.approx(max(down[:, 1].max(), 0), abs=1e-6)


def test_feet_that_stand_are_left_bit_for_bit() -> None:
    of, joints = rig(45.0), stand()
    joints[:, J["left_wrist"], 0] += np.linspace(0, 0.2, len(joints))
    first, second = pose(joints, of, map_bones(of), FREE), pose(joints, of, map_bones(of), HELD)
    assert np.array_equal(first.turns, second.turns)
    assert np.array_equal(first.heads, second.heads)


def test_soles_of_standing_feet_are_level_and_on_the_floor() -> None:
    of, joints = rig(), sliding()
    solved = pose(joints, of, map_bones(of), HELD)
    for name in ("LeftFoot", "RightFoot"):
        row = of.index[f"mixamorig:{name}"]
        up = solved.turns[:, row] @ np.array([0.0, 0.0, 1.0])
        assert np.degrees(np.arccos(np.clip(up[:, 2], -1, 1))).max() < 0.1
        assert np.abs(solved.heads[:, row, 2] - of.heads[row, 2]).max() < 5e-4


def test_a_walk_keeps_its_feet_knees_and_pace() -> None:
    of, joints = rig(45.0, np.linspace(-170, 170, 22)), strides()
    joints[:, :, 2] += 0.15 * np.sin(np.arange(100) / 15)[:, None]  # the floor under it slides
    bones = map_bones(of)
    free, held = pose(joints, of, bones, FREE), pose(joints, of, bones, HELD)
    assert held.contacts is not None and held.contacts.ball.any(0).all()
    assert ball_speeds(held, of, held.contacts).mean() < 1.0
    for name in ("LeftLeg", "RightLeg", "LeftFoot", "RightFoot"):
        fastest = [np.linalg.norm(np.diff(at(each, of, name), axis=0), axis=-1).max() for each in (free, held)]
        assert fastest[1] < 1.2 * fastest[0] + 0.005
    for side in ("Left", "Right"):
        hip, knee, ankle = (at(held, of, f"{side}{part}") for part in ("UpLeg", "Leg", "Foot"))
        axis = held.hinges[f"{side.lower()}_knee"] @ of.to_world[:3, :3].T
        bend = np.sum(np.cross(unit(knee - hip), unit(ankle - knee)) * axis, -1)
        assert np.degrees(np.arcsin(bend)).min() > -0.5
        assert (axis[:, 0] > 0.5).all()  # knees forward
    turned = np.einsum("nbij,nbkj->nbik", held.turns[1:], held.turns[:-1])
    angle = np.degrees(np.arccos(np.clip((np.trace(turned, axis1=-2, axis2=-1) - 1) / 2, -1, 1)))
    assert angle.max() < 60


def test_toes_stay_on_the_floor_while_the_heel_comes_up() -> None:
    of, joints = rig(), sliding(0.03, 60)
    for side in ("left", "right"):  # onto tiptoe from pose 20 to 40
        tilt = 35.0 * np.clip((np.arange(60) - 20) / 5, 0, 1) * np.clip((45 - np.arange(60)) / 5, 0, 1)
        ball, ankle = J[f"{side}_foot"], J[f"{side}_ankle"]
        arm = joints[:, ankle] - joints[:, ball]
        joints[:, ankle] = joints[:, ball] + np.einsum("nij,nj->ni", about("x", tilt), arm)
        lift = joints[:, ankle] - joints[:, ball] - arm
        for part in ("hip", "knee"):
            joints[:, J[f"{side}_{part}"]] += lift
    joints[:, [row for name, row in J.items() if not name.endswith(("hip", "knee", "ankle", "foot"))]] += lift[:, None]
    bones = map_bones(of)
    solved = pose(joints, of, bones, HELD)
    assert solved.contacts is not None
    tiptoe = solved.contacts.ball[:, 0] & ~solved.contacts.heel[:, 0] & (np.abs(np.arange(60) - 32) < 6)
    assert tiptoe.any()
    up = np.array([0.0, 0.0, 1.0])
    foot = (solved.turns[:, of.index["mixamorig:LeftFoot"]] @ up)[tiptoe, 2]
    toes = (solved.turns[:, of.index["mixamorig:LeftToeBase"]] @ up)[tiptoe, 2]
    assert np.degrees(np.arccos(foot)).min() > 15
    assert np.degrees(np.arccos(np.clip(toes, -1, 1))).max() < 1


@pytest.mark.parametrize("turn", [-90.0, 90.0])
def test_who_lies_or_kneels_does_so_on_the_floor(turn: float) -> None:
    lying = np.repeat(walk(1, bend=0.0), 60, axis=0) @ about("x", turn).T
    lying[:, J["left_foot"], 0] += 0.03 * np.sin(np.arange(60) / 5)
    kneeling = stand(60)
    for side in ("left", "right"):
        for part, place in (("ankle", [0, 0, -0.4]), ("foot", [0, -0.05, -0.5])):
            kneeling[:, J[f"{side}_{part}"]] = kneeling[:, J[f"{side}_knee"]] + place
    of = rig()
    for joints in (lying, kneeling):
        joints[..., 1] -= joints[..., 1].min()
        assert find(joints).plants == ((), ())
        first, second = pose(joints, of, map_bones(of), FREE), pose(joints, of, map_bones(of), HELD)
        along = (first.heads - second.heads)[:, map_bones(of).joints["pelvis"], :2]
        assert np.abs(along).max() < 1e-9
        low = {joint: second.heads[:, row, 2].min() for joint, row in map_bones(of).joints.items()}
        assert min(low[name] for name in ("pelvis", "head", "left_shoulder", "left_wrist")) > -0.005
        assert min(low["left_foot"], low["right_foot"]) > -0.035  # toes, which the knees hardly let higher


def test_feet_out_of_reach_are_let_go() -> None:
    """Hips far too high for legs that are to stand on the floor: no leg is torn off, and no contact is claimed."""
    joints = sliding()
    feet = [J[f"{side}_{part}"] for side in ("left", "right") for part in ("ankle", "foot")]
    others = [row for row in range(22) if row not in feet]
    joints[30:50, others, 1] += 0.25
    of = rig()
    solved = pose(joints, of, map_bones(of), HELD)
    assert solved.contacts is not None
    assert not solved.contacts.ball[35:45].any()
    assert solved.contacts.ball[:15].all()


def test_a_foot_that_slides_far_takes_steps() -> None:
    joints = stand(120)
    joints[..., 2] += np.linspace(0, 0.5, 120)[:, None]
    found = find(joints)
    assert len(found.plants[0]) >= 3
    for first, end in found.plants[0]:
        assert np.ptp(joints[first:end, J["left_foot"], 2]) < 0.21
    of = rig()
    solved = pose(joints, of, map_bones(of), HELD)
    assert solved.contacts is not None
    assert ball_speeds(solved, of, solved.contacts).max() < 1.0
    height = at(solved, of, "LeftToeBase")[:, 1]
    assert height.max() - height.min() > 0.01  # lifted from one place to the next


def test_contacts_by_height_and_speed() -> None:
    joints = strides(60)
    found = find(joints)
    for side in (0, 1):
        assert 0.2 < found.ball[:, side].mean() < 0.9
        assert len(found.plants[side]) >= 2
        for first, end in found.plants[side]:
            assert end - first >= 3
            assert (found.heel | found.ball)[first:end, side].all()
    assert not (found.heel & (joints[:, [J["left_ankle"], J["right_ankle"]], 1] > 0.25)).any()


def test_the_channels_of_the_model_rule_contacts_out() -> None:
    joints = stand(40)
    assert find(joints).ball.all()
    channels = np.ones((40, 4))
    channels[10:20, 1] = 0.0
    found = find(joints, channels)
    assert not found.ball[10:20, 0].any() and found.ball[:, 1].all()
    assert find(joints, np.ones((39, 4))).ball.all()  # the features have a row less
    with pytest.raises(HeroError, match="contacts have shape"):
        find(joints, np.ones((10, 4)))
    with pytest.raises(HeroError, match="contacts have shape"):
        pose(joints, rig(), map_bones(rig()), HELD, np.ones((40, 3)))


def test_runs() -> None:
    assert runs(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == [(0, 2), (3, 4), (6, 7)]
    assert runs(np.zeros(3, bool)) == []


def test_one_pose_and_two() -> None:
    of = rig()
    for count in (1, 2, 3, 4):
        solved = pose(sliding(count=80)[:count], of, map_bones(of), HELD)
        assert np.isfinite(solved.heads).all()


def test_solving_twice_gives_the_same_poses() -> None:
    of, joints = rig(45.0), sliding() + np.random.default_rng(0).normal(0, 0.003, (80, 22, 3))
    first, second = (pose(joints, of, map_bones(of), Options(preserve=0.5)) for _ in range(2))
    assert np.array_equal(first.turns, second.turns) and np.array_equal(first.heads, second.heads)


def test_recorded_motions(shared: Path) -> None:
    of = rig(45.0, np.linspace(-170, 170, 22), 1.1)
    bones = map_bones(of)
    with np.load(shared / "data" / "cmu22.npz") as data:
        every = list(data["names"])
        for name in ("07_08", "martial_08", "humanoid3d_getup_facedown", "humanoid3d_cartwheel", "06_02", "88_06"):
            row = every.index(name)
            joints = data["joints"][data["offsets"][row] : data["offsets"][row + 1]][:196].astype(float)
            solved = pose(joints, of, bones, HELD)
            assert solved.measures["skating_after"] < 0.01, name
            assert solved.measures["hips_lowered"] < 0.0301, name
            for side in ("left", "right"):
                for a, b, c, hinge in (("hip", "knee", "ankle", "knee"), ("shoulder", "elbow", "wrist", "elbow")):
                    p = [solved.heads[:, bones.joints[f"{side}_{joint}"]] for joint in (a, b, c)]
                    upper, lower = unit(p[1] - p[0]), unit(p[2] - p[1])
                    axis = solved.hinges[f"{side}_{hinge}"]
                    bend = np.arctan2(np.sum(np.cross(axis, upper) * lower, -1), np.sum(upper * lower, -1))
                    assert np.degrees(bend).min() > -3.0, (name, side, hinge)
            fastest = [np.linalg.norm(np.diff(each, axis=0), axis=-1).max() for each in (joints, solved.heads)]
            assert fastest[1] < 1.2 * solved.scale * fastest[0], name


def test_arms_that_are_longer_than_the_motions_do_not_reach_through_the_floor() -> None:
    joints, of = stand(60), rig()
    legs = [row for name, row in J.items() if name.endswith(("knee", "ankle", "foot"))]
    upper = [row for row in range(22) if row not in legs]
    pelvis = joints[:, :1].copy()
    bent = [row for row in upper if not list(J)[row].endswith(("hip", "pelvis"))]
    joints[:, bent] = (joints[:, bent] - pelvis) @ about("x", 80.0).T + pelvis
    joints[:, upper, 1] -= joints[0, 0, 1] - 0.36
    for side in ("left", "right"):
        joints[:, J[f"{side}_knee"], 1] = 0.4
        joints[:, J[f"{side}_knee"], 2] += 0.35
        shoulder = joints[:, J[f"{side}_shoulder"]]
        arm = (shoulder[:, 1:2] - 0.02) / 2  # both bones straight down, the hand just above the floor
        for part, bones_down in (("elbow", 1), ("wrist", 2)):
            joints[:, J[f"{side}_{part}"]] = shoulder - bones_down * arm * [0.0, 1.0, 0.0]
    joints[:, J["left_foot"], 0] += 0.03 * np.sin(np.arange(60) / 5)
    free, held = (pose(joints, of, map_bones(of), options) for options in (FREE, HELD))
    hands = [of.index["mixamorig:LeftHand"], of.index["mixamorig:RightHand"]]
    floor = min(of.heads[:, 2].min(), of.tails[:, 2].min())
    assert free.heads[:, hands, 2].max() < floor - 0.02
    assert held.heads[:, hands, 2].min() > floor - 0.001
