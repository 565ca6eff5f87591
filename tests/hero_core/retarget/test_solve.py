# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys, read back by a plain forward kinematics as Blender evaluates channels, show the motion that went in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import J, about, rig, walk

from hero_core.errors import HeroError
from hero_core.retarget import BoneKeys, Rig, map_bones, pose, solve
from hero_core.retarget.options import Options
from hero_core.retarget.rotations import to_matrix, unit

Array = npt.NDArray[Any]
SEGMENTS = [
    (f"{side}_{a}", f"{side}_{b}")
    for side in ("left", "right")
    for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
]


def played(keys: BoneKeys, of: Rig) -> tuple[Array, Array]:
    """(N, B, 3) heads in the world and (N, B, 3, 3) rotations in armature space that the channels make."""
    count = keys.poses
    turns = np.empty((count, len(of.names), 3, 3))
    heads = np.empty((count, len(of.names), 3))
    for row, name in enumerate(of.names):
        parent = of.parents[row]
        above = np.broadcast_to(np.eye(4), (count, 4, 4)) if parent < 0 else None
        if above is None:
            offset = np.linalg.inv(of.rest[parent]) @ of.rest[row]
            base_turn = turns[:, parent] @ offset[:3, :3]
            base_head = heads[:, parent] + turns[:, parent] @ offset[:3, 3]
            axes = base_turn if of.use_local_location[row] else turns[:, parent]
        else:
            base_turn = np.broadcast_to(of.rest[row, :3, :3], (count, 3, 3))
            base_head = np.broadcast_to(of.rest[row, :3, 3], (count, 3))
            axes = base_turn if of.use_local_location[row] else np.broadcast_to(np.eye(3), (count, 3, 3))
        own = to_matrix(keys.rotations[name]) if name in keys.rotations else np.eye(3)
        turns[:, row] = base_turn @ own
        heads[:, row] = base_head
        if name in keys.locations:
            heads[:, row] += np.einsum("nij,nj->ni", axes, keys.locations[name])
    world = of.to_world
    return heads @ world[:3, :3].T + world[:3, 3], turns


def limb_errors(heads: Array, of: Rig, keys: BoneKeys, joints: Array) -> Array:
    """(N, 8) angles in degrees between the limbs of the rig and of the motion."""
    errors = []
    for a, b in SEGMENTS:
        got = unit(heads[:, of.index[keys.joints[b] or ""]] - heads[:, of.index[keys.joints[a] or ""]])
        want = unit(joints[:, J[b]] - joints[:, J[a]])
        sine = np.linalg.norm(np.cross(got, want), axis=-1)
        errors.append(np.degrees(np.arctan2(sine, np.sum(got * want, -1))))
    return np.stack(errors, 1)


AS_IT_IS = Options(pin_feet=False, smooth=False)


def keyed(joints: Array, of: Rig, options: Options = AS_IT_IS) -> BoneKeys:
    return solve(joints, of, map_bones(of), options)


def world_of(scale: float, turn: tuple[float, float, float], place: tuple[float, float, float]) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = about("z", turn[2]) @ about("y", turn[1]) @ about("x", turn[0]) * scale
    matrix[:3, 3] = place
    return matrix


angles = st.floats(-180, 180)


@settings(max_examples=40, deadline=None)
@given(
    arms=st.sampled_from([0.0, 45.0, 80.0, -80.0]),
    seed=st.integers(0, 2**31),
    size=st.sampled_from([0.01, 1.0, 170.0]),
    scale=st.floats(0.01, 100),
    turn=st.tuples(angles, angles, angles),
    place=st.tuples(*[st.floats(-50, 50)] * 3),
    heading=st.sampled_from([0.0, 90.0, 180.0, 270.0]),
)
def test_any_rest_pose_roll_unit_and_place_gives_the_same_motion(
    arms: float,
    seed: int,
    size: float,
    scale: float,
    turn: tuple[float, float, float],
    place: tuple[float, float, float],
    heading: float,
) -> None:
    rng = np.random.default_rng(seed)
    of = rig(arms, rng.uniform(-180, 180, 22), size, world_of(scale, turn, place), local=rng.random(22) < 0.5)
    joints = walk(24, heading)
    keys = keyed(joints, of)
    heads, _ = played(keys, of)
    assert limb_errors(heads, of, keys, joints).max() < 1e-3
    path = heads[:, 0] - heads[0, 0]
    wanted = keys.scale * (joints[:, 0] - joints[0, 0])
    assert np.abs(path - wanted).max() < 1e-6 * keys.scale + 1e-9 * np.abs(place).max()
    assert keys.scale == pytest.approx(size * scale, rel=1e-6)  # same leg length by construction
    for values in keys.rotations.values():
        assert np.allclose(np.linalg.norm(values, axis=1), 1)
        assert (np.sum(values[1:] * values[:-1], axis=1) > 0).all()


def test_turning_the_armature_object_does_not_turn_the_motion() -> None:
    joints = walk(30)
    straight = rig(45.0)
    turned = rig(45.0, world=world_of(1.0, (0, 0, 130.0), (3.0, -2.0, 0.0)))
    first, _ = played(keyed(joints, straight), straight)
    second, _ = played(keyed(joints, turned), turned)
    shift = second[0, 0] - first[0, 0]
    place = turned.to_world @ [*turned.heads[0], 1.0] - straight.to_world @ [*straight.heads[0], 1.0]
    assert np.allclose(shift, place[:3], atol=1e-9)
    assert np.allclose(second - shift, first, atol=1e-9)


def test_starts_over_the_rest_place_facing_forward_with_the_feet_on_the_floor() -> None:
    of = rig(30.0, size=1.3)
    joints = walk(80)
    joints[..., [0, 2]] += [5.0, -7.0]
    keys = keyed(joints, of)
    heads, _ = played(keys, of)
    rest = of.heads @ of.to_world[:3, :3].T
    assert np.allclose(heads[0, 0, [0, 2]], rest[0, [0, 2]], atol=1e-9)
    left = heads[0, of.index["mixamorig:LeftUpLeg"]] - heads[0, of.index["mixamorig:RightUpLeg"]]
    assert unit(left)[0] > 0.98  # its left is +X where it faces +Z (-Y in Blender)
    ankles = [of.index["mixamorig:LeftFoot"], of.index["mixamorig:RightFoot"]]
    lowest = heads[:, ankles, 1].min(axis=1)
    assert abs(np.percentile(lowest, 10) - rest[ankles, 1].mean()) < 0.02


def test_a_stretched_object_keeps_limb_directions() -> None:
    world = np.diag([1.0, 2.0, 0.5, 1.0])
    of = rig(45.0, np.linspace(0, 300, 22), world=world)
    joints = walk(20)
    keys = keyed(joints, of)
    heads, _ = played(keys, of)
    assert limb_errors(heads, of, keys, joints).max() < 1e-3


def turn_between_frames(keys: BoneKeys) -> float:
    """Largest rotation of any keyed bone from one pose to the next, degrees."""
    largest = 0.0
    for values in keys.rotations.values():
        dots = np.abs(np.sum(values[1:] * values[:-1], axis=1)).clip(0, 1)
        largest = max(largest, float(np.degrees(2 * np.arccos(dots)).max()))
    return largest


@pytest.mark.parametrize("arms", [0.0, 45.0])
@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_straight_limbs_do_not_flip(arms: float, noise: float) -> None:
    """Knees and elbows straight: no triangle tells how the limb is twisted, the memory must."""
    joints = walk(80, bend=0.0) + np.random.default_rng(1).normal(0, noise, (80, 22, 3))
    assert turn_between_frames(keyed(joints, rig(arms))) < 40


def test_a_limb_that_becomes_straight_keeps_its_twist() -> None:
    """The elbow bends, straightens for half a second and bends in the same plane: the arm must not roll meanwhile."""
    joints = np.repeat(walk(1, bend=0.0), 60, axis=0)
    bent = np.clip(np.abs(np.arange(60) - 30) - 10, 0, 8) * 6.0  # degrees; 0 from frame 20 to 40
    shoulder, elbow = joints[:, J["left_shoulder"]], joints[:, J["left_elbow"]]
    upper = unit(elbow - shoulder)
    aside = unit(np.cross(upper, [0.3, 0.2, 1.0]))
    fore = np.cos(np.radians(bent))[:, None] * upper + np.sin(np.radians(bent))[:, None] * np.cross(aside, upper)
    joints[:, J["left_wrist"]] = elbow + 0.27 * fore
    of = rig()
    hinge = pose(joints, of, map_bones(of), AS_IT_IS).hinges["left_elbow"] @ of.to_world[:3, :3].T
    assert np.degrees(np.arccos(np.sum(hinge[18:42] * aside[18:42], -1))).max() < 25


def test_a_knee_that_bends_backwards_by_noise_is_made_straight() -> None:
    joints = walk(40, bend=0.0)
    back = unit(joints[:, J["left_foot"]] - joints[:, J["left_ankle"]]) * [1, 0, 1]
    joints[:, J["left_knee"]] -= 0.02 * unit(back)  # 2 cm behind the line of hip and ankle: bent back by 6 degrees
    of = rig()
    bones = map_bones(of)
    solved = pose(joints, of, bones, AS_IT_IS)
    hip, knee, ankle = (solved.heads[:, bones.joints[f"left_{name}"]] for name in ("hip", "knee", "ankle"))
    bend = np.cross(unit(knee - hip), unit(ankle - knee))
    across = np.sum(bend * solved.hinges["left_knee"], -1)
    assert np.degrees(np.arcsin(across)).min() > -0.5
    assert (solved.hinges["left_knee"][:, 0] > 0.5).all()  # the knee axis still points to the left


def test_knees_and_elbows_bend_the_natural_way() -> None:
    of = rig(45.0, np.linspace(-170, 170, 22))
    joints = walk(60)
    keys = keyed(joints, of)
    heads, turns = played(keys, of)
    rest_left = np.array([1.0, 0.0, 0.0])
    for side in ("Left", "Right"):
        rows = [of.index[f"mixamorig:{side}{part}"] for part in ("UpLeg", "Leg", "Foot")]
        thigh, shin = heads[:, rows[1]] - heads[:, rows[0]], heads[:, rows[2]] - heads[:, rows[1]]
        thigh_left = turns[:, rows[0]] @ of.rotations[rows[0]].T @ rest_left  # what was left at rest, armature space
        bend = np.cross(unit(thigh), unit(shin))  # world, Y up
        assert (np.sum(bend * (thigh_left @ of.to_world[:3, :3].T), -1) > 0).all()
    assert turn_between_frames(keys) < 45


def test_unmapped_fingers_follow_and_stay_unkeyed() -> None:
    of = rig()
    assert "mixamorig:LeftHand" not in keyed(walk(10), of).rotations
    assert "mixamorig:LeftToeBase" not in keyed(walk(10), of).rotations


def test_standing_feet_are_level_whatever_the_slope_of_the_motion() -> None:
    """Skeletons differ in how steep ankle to ball is; a foot that stands is flat on the floor in every one."""
    of = rig()
    for height in (0.03, 0.06, 0.1):
        joints = np.repeat(walk(1, bend=0.3), 30, axis=0)
        for side in ("left", "right"):
            ankle = joints[:, J[f"{side}_ankle"]]
            joints[:, J[f"{side}_foot"]] = ankle + [0.0, -height, 0.13]
        joints[..., 1] -= joints[:, [10, 11], 1].min()
        _, turns = played(keyed(joints, of), of)
        row = of.index["mixamorig:LeftFoot"]
        turned_up = turns[:, row] @ of.rotations[row].T @ np.array([0.0, 0.0, 1.0])
        assert np.degrees(np.arccos(turned_up[:, 2])).max() < 1.0


@pytest.mark.parametrize("options", [AS_IT_IS, Options()])
def test_a_foot_that_hangs_on_nothing_stays_at_the_end_of_its_leg(options: Options) -> None:
    """Targets of inverse kinematics that deform the foot, in files that have lost the constraint."""
    whole = rig(30.0)
    loose = whole.parents.copy()
    for joint in ("left_ankle", "right_ankle"):
        loose[J[joint]] = -1
    of = replace(whole, parents=loose)
    joints = walk(40)
    keys, same = keyed(joints, of, options), keyed(joints, whole, options)
    assert keys.joints == same.joints
    heads, turns = played(keys, of)
    others, other_turns = played(same, whole)
    np.testing.assert_allclose(heads, others, atol=1e-6)
    np.testing.assert_allclose(turns, other_turns, atol=1e-6)


def test_one_pose_is_enough() -> None:
    of = rig(45.0)
    joints = walk(1)
    keys = keyed(joints, of)
    heads, _ = played(keys, of)
    assert keys.poses == 1
    assert limb_errors(heads, of, keys, joints).max() < 1e-3


@pytest.mark.parametrize("shape", [(0, 22, 3), (5, 24, 3), (22, 3)])
def test_joints_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    of = rig()
    with pytest.raises(HeroError, match="shape"):
        keyed(np.zeros(shape), of)


def test_nan_is_refused() -> None:
    joints = walk(5)
    joints[2, 3, 1] = np.nan
    with pytest.raises(HeroError, match="NaN"):
        keyed(joints, rig())


def test_collapsed_joints_are_refused() -> None:
    with pytest.raises(HeroError, match="no length"):
        keyed(np.zeros((5, 22, 3)), rig())


def test_negative_and_zero_scale_are_refused() -> None:
    with pytest.raises(HeroError, match="negative scale"):
        rig(world=np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(HeroError, match="scale of zero"):
        rig(world=np.diag([0.0, 1, 1, 1]))


def test_solving_twice_gives_the_same_keys() -> None:
    of, joints = rig(45.0), walk(20)
    first, second = keyed(joints, of), keyed(joints, of)
    assert all(np.array_equal(first.rotations[name], second.rotations[name]) for name in first.rotations)


def motions(shared: Path) -> list[tuple[str, Array]]:
    wanted = {
        "cmu22": ["07_08", "martial_08", "humanoid3d_getup_facedown", "humanoid3d_cartwheel", "01_01", "06_02"],
        "cc0_actions22": ["KK11_Lie_Down", "M2M_Greeting"],
    }
    found = []
    for file, names in wanted.items():
        with np.load(shared / "data" / f"{file}.npz") as data:
            every = list(data["names"])
            for name in names:
                row = every.index(name)
                found.append((name, data["joints"][data["offsets"][row] : data["offsets"][row + 1]][:200]))
    return found


def test_real_motions_noise_and_all(shared: Path) -> None:
    of = rig(45.0, np.linspace(-170, 170, 22), 1.1)
    rng = np.random.default_rng(0)
    for name, clean in motions(shared):
        # Noise bends straight knees back, and those are made straight again: that is what is left of the error.
        for joints, limit in ((clean, 0.2), (clean + rng.normal(0, 0.004, clean.shape), 1.0)):
            keys = keyed(joints, of)
            heads, _ = played(keys, of)
            errors = limb_errors(heads, of, keys, np.asarray(joints, float))
            assert errors.mean() < limit, name
            assert turn_between_frames(keys) < 90, name
            bones = map_bones(of)
            solved = pose(joints, of, bones, AS_IT_IS)
            for hinge, (a, b, c) in {"knee": ("hip", "knee", "ankle"), "elbow": ("shoulder", "elbow", "wrist")}.items():
                for side in ("left", "right"):
                    points = [solved.heads[:, bones.joints[f"{side}_{joint}"]] for joint in (a, b, c)]
                    upper, lower = unit(points[1] - points[0]), unit(points[2] - points[1])
                    axis = solved.hinges[f"{side}_{hinge}"]
                    bend = np.degrees(np.arctan2(np.sum(np.cross(axis, upper) * lower, -1), np.sum(upper * lower, -1)))
                    assert bend.min() > -3.0, (name, side, hinge)


def test_a_hand_at_its_own_shoulder_keeps_its_directions() -> None:
    """Where hands keep their places, those of wider shoulders would turn round a joint that they come too near to."""
    joints, of = walk(40, bend=0.0), rig()
    shoulder = joints[:, J["left_shoulder"]]
    wrist = shoulder + np.stack([np.linspace(0.25, 0.02, 40), np.full(40, -0.03), np.full(40, 0.03)], -1)
    joints[:, J["left_wrist"]] = wrist
    half = np.linalg.norm(wrist - shoulder, axis=-1) / 2
    joints[:, J["left_elbow"]] = (shoulder + wrist) / 2 - np.sqrt(0.26**2 - half**2)[:, None] * [0.0, 1.0, 0.0]
    arm = [row for row in range(len(of.names)) if any("LeftArm" in of.names[up] for up in of.line(row))]
    rest, tails = of.rest.copy(), of.tails.copy()
    rest[arm, 0, 3] += 0.05
    tails[arm, 0] += 0.05
    of = replace(of, rest=rest, tails=tails)
    bones = map_bones(of)
    solved = pose(joints, of, bones, Options(pin_feet=False, smooth=False, preserve=1.0))
    rows = [bones.joints[f"left_{name}"] for name in ("shoulder", "elbow", "wrist")]
    theirs = [joints[:, J[f"left_{name}"]] for name in ("shoulder", "elbow", "wrist")]
    for number in range(2):
        own = unit(solved.heads[:, rows[number + 1]] - solved.heads[:, rows[number]])
        source = unit(theirs[number + 1] - theirs[number])[:, [0, 2, 1]] * [1.0, -1.0, 1.0]
        off = np.degrees(np.arccos(np.clip((own * source).sum(-1), -1, 1)))
        assert off[-1] < 1e-3 and off[0] > 1.0
