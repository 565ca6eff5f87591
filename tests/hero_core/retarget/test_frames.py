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

from hero_core.retarget import map_bones, pose, solve
from hero_core.retarget.contacts import Contacts
from hero_core.retarget.frames import between, whole_frames
from hero_core.retarget.options import Options

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
    assert (steps[:-1] == (max(1, int(a_pose / 6 + 1e-6)) if few else 1)).all() or count == 1
    if few:
        assert len(frames) <= 12 * count + 2  # however many frames the scene has


@pytest.mark.parametrize(("rate", "step"), [(12, 1), (24, 1), (29.97, 1), (60, 1), (120, 1), (240, 2), (480, 4)])
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
    bones = map_bones(rig)
    plain = solve(walk(30), rig, bones)
    same = solve(walk(30), rig, bones, at=np.arange(30.0))
    # At 120 frames a second every sixth frame is a pose.
    dense = solve(walk(30), rig, bones, at=np.arange(29 * 6 + 1) / 6)
    assert dense.poses == 29 * 6 + 1
    assert (plain.rate, dense.rate) == (20.0, pytest.approx(120.0))
    for channels, found, close in (
        (plain.rotations, same.rotations, dense.rotations),
        (plain.locations, same.locations, dense.locations),
    ):
        for name, values in channels.items():
            assert np.array_equal(found[name], values), name
            assert np.allclose(np.abs(close[name][::6]), np.abs(values), atol=1e-6), name
            assert np.abs(np.diff(close[name], axis=0)).max() < 0.5 * np.abs(np.diff(values, axis=0)).max() + 1e-9, name


@pytest.mark.parametrize("options", [Options(), Options(preserve=1.0), Options(pin_feet=False, smooth=False)])
def test_between_the_poses_limbs_are_on_the_way(options: Options) -> None:
    rig = make_rig(45.0)
    bones = map_bones(rig)
    joints = np.asarray(walk(40), float)
    at = np.linspace(0, 39, 391)
    posed, dense = pose(joints, rig, bones, options), pose(joints, rig, bones, options, at=at)
    for joint in ("left_ankle", "right_ankle", "left_wrist", "right_wrist", "head"):
        row = bones.joints[joint]
        way = between(np.arange(40.0), posed.heads[:, row], at)
        assert np.linalg.norm(dense.heads[:, row] - way, axis=-1).max() < 0.012, joint
        assert np.allclose(dense.heads[::10, row], posed.heads[:, row], atol=1e-6), joint
    lengths = np.linalg.norm(
        dense.heads[:, bones.joints["left_knee"]] - dense.heads[:, bones.joints["left_hip"]], axis=-1
    )
    assert np.ptp(lengths) < 1e-9


def test_feet_that_stand_do_so_between_the_poses() -> None:
    rig = make_rig(45.0)
    bones = map_bones(rig)
    joints = np.repeat(np.asarray(walk(1), float), 60, 0)
    joints[:, [7, 8], 1], joints[:, [10, 11], 1] = 0.08, 0.02
    joints[..., 0] += 0.03 * np.sin(np.arange(60) / 4)[:, None]  # all of it slides to and fro
    joints[:, 15:, 2] += 0.05 * np.sin(np.arange(60) / 2)[:, None]
    posed, dense = pose(joints, rig, bones), pose(joints, rig, bones, at=np.arange(0, 59.001, 1 / 3))
    assert posed.measures["skating_before"] > 0.01
    for found, most in ((posed, 0.002), (dense, 0.003)):
        assert found.contacts is not None
        runs = found.contacts.named()["left_heel"]
        assert sum(end - first for first, end in runs) > 0.8 * len(found.heads)
        ankle = found.heads[:, bones.joints["left_ankle"]] @ rig.to_world[:3, :3].T / found.scale
        ways = [np.diff(ankle[first:end], axis=0)[:, [0, 2]] for first, end in runs]
        assert np.linalg.norm(np.concatenate(ways), axis=-1).mean() * found.rate < most


def test_contacts_between_the_poses_that_stand() -> None:
    heel = np.zeros((10, 2), bool)
    heel[1:5, 0] = heel[5, 1] = True
    contacts = Contacts(heel, np.zeros((10, 2), bool), (((1, 5),), ((5, 6),)))
    at = np.array([0.0, 0.9, 1.0, 1.5, 3.9, 4.0, 4.2, 5.0, 5.2])
    found = contacts.at(at)
    assert found.heel[:, 0].tolist() == [False, False, True, True, True, True, False, False, False]
    assert np.flatnonzero(found.heel[:, 1]).tolist() == [7]
    assert found.plants == (((2, 6),), ((7, 8),))


def test_one_pose() -> None:
    rig = make_rig()
    bones = map_bones(rig)
    frames = whole_frames(np.array([7.4]), True)
    assert frames.tolist() == [7.0, 8.0]  # it does not stand on a whole frame: both beside it show it
    keys, found = solve(walk(1), rig, bones), solve(walk(1), rig, bones, at=np.zeros(2))
    assert found.poses == 2
    for name, quaternions in keys.rotations.items():
        assert np.allclose(found.rotations[name], np.repeat(quaternions, 2, 0), atol=1e-9), name
