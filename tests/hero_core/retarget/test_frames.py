# SPDX-License-Identifier: GPL-3.0-or-later
"""Poses at 20 a second on the whole frames of a scene, whatever its rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import rig as make_rig
from skeletons import walk

from hero_core.retarget import map_bones, solve
from hero_core.retarget.frames import between, on_frames, runs_on, whole_frames

Array = npt.NDArray[Any]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 50),
    a_pose=st.floats(0.3, 8.0),
    first=st.floats(-100, 100),
    few=st.booleans(),
)
def test_whole_frames_cover_the_motion(count: int, a_pose: float, first: float, few: bool) -> None:
    poses = first + a_pose * np.arange(count)
    frames = whole_frames(poses, few)
    assert np.array_equal(frames, np.round(frames))
    assert frames[0] == np.floor(poses[0] + 1e-4)
    assert frames[-1] == max(np.ceil(poses[-1] - 1e-4), frames[0])
    steps = np.diff(frames)
    assert (steps >= 1).all()
    assert (steps[:-1] == (max(1, int(a_pose + 1e-6)) if few else 1)).all() or count == 1
    if few and a_pose >= 1:
        assert len(frames) <= 2 * count + 1  # however many frames the scene has


@pytest.mark.parametrize(("rate", "step"), [(12, 1), (24, 1), (25, 1), (29.97, 1), (30, 1), (48, 2), (60, 3), (120, 6)])
def test_places_for_few_keys(rate: float, step: int) -> None:
    frames = whole_frames(1 + rate / 20 * np.arange(40), True)
    assert set(np.diff(frames)[:-1]) == {step}


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.floats(0.4, 5.0), st.integers(0, 2**32 - 1))
def test_a_cubic_through_the_poses(count: int, a_pose: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    poses = 3 + a_pose * np.arange(count)
    values = random.normal(size=(count, 2, 3))
    assert np.allclose(between(poses, values, poses), values)
    # What is even stays even; before and behind it is held.
    straight = poses[:, None] * random.normal(size=3) + 1
    frames = np.sort(random.uniform(poses[0], poses[-1], 20))
    assert np.allclose(between(poses, straight, frames), np.stack([np.interp(frames, poses, s) for s in straight.T], 1))
    assert np.allclose(between(poses, values, poses[[0, -1]] + [-2, 2]), values[[0, -1]])


def test_what_stands_in_two_poses_stands_between_them() -> None:
    values = np.array([0.0, 1.0, 3.0, 3.0, 3.0, 1.0, 0.0])[:, None]
    poses = 1.2 * np.arange(7)
    frames = np.linspace(0, poses[-1], 500)
    found = between(poses, values, frames)[:, 0]
    assert np.allclose(found[(frames >= poses[2]) & (frames <= poses[4])], 3.0, atol=1e-12)
    assert found.max() <= 3.0 + 1e-12


def test_a_pose_is_its_own_frame() -> None:
    rig = make_rig(45.0)
    keys = solve(walk(30), rig, map_bones(rig))
    assert on_frames(keys, 5.0 + np.arange(30), 5.0 + np.arange(30)) is keys
    # At 120 frames a second every sixth frame is a pose.
    dense = on_frames(keys, 5.0 + 6 * np.arange(30), whole_frames(5.0 + 6 * np.arange(30), False))
    assert dense.poses == 29 * 6 + 1
    assert dense.rate == pytest.approx(120.0)
    for name, quaternions in keys.rotations.items():
        assert np.allclose(dense.rotations[name][::6], quaternions, atol=1e-9), name
        assert np.allclose(np.linalg.norm(dense.rotations[name], axis=-1), 1.0), name
    for name, places in keys.locations.items():
        assert np.allclose(dense.locations[name][::6], places, atol=1e-9), name


def test_one_pose() -> None:
    rig = make_rig()
    keys = solve(walk(1), rig, map_bones(rig))
    frames = whole_frames(np.array([7.4]), True)
    assert frames.tolist() == [7.0, 8.0]  # it does not stand on a whole frame: both beside it show it
    found = on_frames(keys, np.array([7.4]), frames)
    assert found.poses == 2
    for name, quaternions in keys.rotations.items():
        assert np.allclose(found.rotations[name], np.repeat(quaternions, 2, 0), atol=1e-12)


def test_feet_stand_on_the_frames_between_the_poses_that_stand() -> None:
    poses = 1 + 1.2 * np.arange(20)  # 1, 2.2, 3.4, 4.6, 5.8, 7 ...
    runs = runs_on({"left_heel": [(1, 5), (5, 6), (7, 8)], "left_ball": []}, poses, whole_frames(poses, False))
    # Frames 3, 4 and 5 lie between the poses 1 and 4; pose 5 stands on frame 7, pose 7 on none.
    assert runs == {"left_heel": [(2, 5), (6, 7)], "left_ball": []}
