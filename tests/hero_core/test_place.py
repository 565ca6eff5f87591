# SPDX-License-Identifier: GPL-3.0-or-later
"""Mirrored, turned, moved: what a place does to a motion, and that it does nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skeletons import about, rig, walk

from hero_core import place
from hero_core.errors import HeroError
from hero_core.place import Place
from hero_core.retarget import map_bones, pose, solve
from hero_core.retarget.options import Options
from hero_core.retarget.solve import stand

angles = st.floats(-math.pi, math.pi)
numbers = st.floats(-20, 20)


def world_of(scale: float, degrees: float, at: tuple[float, float, float]) -> Any:
    """Blender's matrix_world (Z up) of an object at ``at`` (Y up), turned about the vertical."""
    matrix = np.eye(4)
    matrix[:3, :3] = about("z", degrees) * scale
    matrix[:3, 3] = at[0], -at[2], at[1]
    return matrix


def near(a: float, b: float) -> bool:
    return abs(math.remainder(a - b, 2 * math.pi)) < 1e-6


def motion(heading: float) -> Any:
    joints = walk(30, heading=math.degrees(heading)).astype(np.float32)
    contacts = np.random.default_rng(1).random((30, 4)).astype(np.float32)
    return joints, contacts


@given(angles)
def test_a_mirror_twice_is_the_same_to_the_bit(heading: float) -> None:
    joints, contacts = motion(heading)
    once = place.mirrored(joints, contacts)
    assert once[0].dtype == joints.dtype
    twice = place.mirrored(*once)
    np.testing.assert_array_equal(twice[0], joints)
    np.testing.assert_array_equal(twice[1], contacts)
    assert near(place.facing(once[0][0]), -place.facing(joints[0]))


def test_a_mirror_exchanges_the_sides() -> None:
    joints, contacts = motion(0.0)
    flipped, feet = place.mirrored(joints, contacts)
    np.testing.assert_array_equal(flipped[:, 20] * [-1, 1, 1], joints[:, 21])  # the left wrist is the right one's image
    np.testing.assert_array_equal(flipped[:, 15] * [-1, 1, 1], joints[:, 15])  # the head
    np.testing.assert_array_equal(feet[:, :2], contacts[:, 2:])


def test_the_torch_version_mirrors_alike() -> None:
    humanml3d = pytest.importorskip("hero_core.humanml3d", reason="this Python has no torch", exc_type=ImportError)
    joints, _ = motion(0.7)
    np.testing.assert_array_equal(humanml3d.mirror(joints), place.mirrored(joints)[0])
    edit = pytest.importorskip("hero_core.edit", exc_type=ImportError)
    assert near(edit.place_of(joints[0])[1], place.facing(joints[0]))


@given(angles, angles, st.booleans())
def test_a_turned_motion_faces_where_it_was_to(heading: float, wanted: float, mirror: bool) -> None:
    joints, contacts = motion(heading)
    there = Place(mirror, place.turn_to(joints[0], wanted, mirror))
    made, _ = place.put(joints, contacts, there)
    assert near(place.facing(made[0]), wanted)
    np.testing.assert_allclose(
        made[0, 0, [0, 2]], place.mirrored(joints)[0][0, 0, [0, 2]] if mirror else joints[0, 0, [0, 2]], atol=1e-6
    )
    np.testing.assert_allclose(made[..., 1], (place.mirrored(joints)[0] if mirror else joints)[..., 1], atol=1e-6)
    bones = [np.linalg.norm(each[:, 4] - each[:, 1], axis=-1) for each in (made, joints)]
    np.testing.assert_allclose(*bones, atol=1e-5)


@given(numbers, numbers, numbers, numbers)
def test_a_heading_points_at_the_target(x: float, z: float, tx: float, tz: float) -> None:
    start, target = np.array([x, 0.3, z]), np.array([tx, 2.0, tz])
    if math.hypot(tx - x, tz - z) < 1e-3:
        return
    way = place.turned(np.array([0.0, 0.0, 1.0]), place.heading(start, target))
    aim = (target - start) * [1, 0, 1]
    np.testing.assert_allclose(way, aim / np.linalg.norm(aim), atol=1e-6)


def test_nothing_to_do_changes_nothing() -> None:
    joints, contacts = motion(0.4)
    made = place.put(joints, contacts, Place())
    assert made[0] is joints
    assert made[1] is contacts


def test_what_is_no_place_is_refused() -> None:
    with pytest.raises(HeroError, match="time scale"):
        Place(time_scale=0.0)
    with pytest.raises(HeroError, match="finite"):
        Place(turn=math.nan)
    with pytest.raises(HeroError, match="stands right where"):
        place.heading(np.zeros(3), np.array([0.0, 5.0, 0.0]))
    with pytest.raises(HeroError, match="damaged"):
        Place.from_dict({"mirror": False})
    whole = Place(True, 0.1234567890123, (1.0, 2.0, 3.3), 1.5)
    assert Place.from_dict(whole.to_dict()) == whole


@pytest.mark.parametrize("root", ["hips", "object"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_start_moves_all_and_turns_nothing(root: str, in_place: bool) -> None:
    one = rig(size=100.0, world=world_of(0.01, 40.0, (3.0, 0.0, -2.0)))
    world = one.to_world
    bones = map_bones(one)
    joints, usual = walk(40), Options(root=root, in_place=in_place)  # type: ignore[arg-type]
    moved = Options(root=root, in_place=in_place, start=(1.0, 0.5, -2.0))  # type: ignore[arg-type]
    plain, away = pose(joints, one, bones, usual), pose(joints, one, bones, moved)
    np.testing.assert_array_equal(plain.turns, away.turns)
    step = (away.heads - plain.heads) @ world[:3, :3].T
    np.testing.assert_allclose(step, np.broadcast_to([1.0, 0.5, -2.0], step.shape), atol=1e-9)
    keys, there = solve(joints, one, bones, usual), solve(joints, one, bones, moved)
    for name, values in keys.rotations.items():
        np.testing.assert_array_equal(values, there.rotations[name])
    if root == "object" and not in_place:
        assert keys.travel is not None and there.travel is not None
        np.testing.assert_allclose(there.travel - keys.travel, np.broadcast_to([1.0, 0.5, -2.0], (40, 3)), atol=1e-9)


def test_where_a_rig_stands_and_faces() -> None:
    for degrees in (0.0, 90.0, -140.0):
        one = rig(size=100.0, world=world_of(0.01, degrees, (3.0, 0.25, -2.0)))
        floor = min(one.heads[:, 2].min(), one.tails[:, 2].min()) / 100
        where, ahead = stand(one, map_bones(one))
        hips = (one.to_world @ np.append(one.heads[map_bones(one).joints["pelvis"]], 1.0))[:3]
        np.testing.assert_allclose(where[[0, 2]], hips[[0, 2]], atol=1e-9)
        assert where[1] == pytest.approx(0.25 + floor, abs=1e-6)
        assert near(math.atan2(ahead[0], ahead[2]), math.radians(degrees))
