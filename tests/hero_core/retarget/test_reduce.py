# SPDX-License-Identifier: GPL-3.0-or-later
"""Few keys stay within the tolerances, in every rotation mode; measured by forward kinematics of the curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import rig as make_rig
from skeletons import walk

from hero_core.retarget import BoneKeys, Rig, map_bones, solve
from hero_core.retarget.options import Options
from hero_core.retarget.reduce import Curves, every_pose, few_keys
from hero_core.retarget.rotations import EULER_ORDERS, continuous, to_matrix, to_quaternion

Array = npt.NDArray[Any]


def solved(joints: Array, rig: Rig) -> BoneKeys:
    return solve(joints, rig, map_bones(rig))


def matrices(curves: Curves, frames: Array) -> Array:
    """(N, 3, 3) the rotation that Blender would make of the channels."""
    values = curves.at(frames)
    count = len(frames)
    for name, angles in values.items():
        if name == "rotation_euler":
            turns = np.broadcast_to(np.eye(3), (count, 3, 3))
            for axis in range(3):  # XYZ: x first
                turns = about(axis, angles[:, axis]) @ turns
            return turns
        if name == "rotation_axis_angle":
            return about_any(angles[:, 1:], angles[:, 0])
        if name == "rotation_quaternion":
            return to_matrix(angles)
    return np.broadcast_to(np.eye(3), (count, 3, 3))


def about(axis: int, angles: Array) -> Array:
    return about_any(np.broadcast_to(np.eye(3)[axis], (len(angles), 3)), angles)


def about_any(axes: Array, angles: Array) -> Array:
    axes = axes / np.maximum(np.linalg.norm(axes, axis=-1, keepdims=True), 1e-12)
    return to_matrix(np.concatenate([np.cos(angles / 2)[:, None], np.sin(angles / 2)[:, None] * axes], -1))


def played(rig: Rig, curves: dict[str, Curves], frames: Array) -> tuple[Array, Array]:
    """(N, B, 3) heads in scene units and (N, B, 3, 3) rotations against the parent."""
    heads, turns = np.zeros((len(frames), len(rig.names), 3)), np.zeros((len(frames), len(rig.names), 3, 3))
    own = np.zeros_like(turns)
    for row, name in enumerate(rig.names):
        parent = int(rig.parents[row])
        above = turns[:, parent] if parent >= 0 else np.broadcast_to(np.eye(3), (len(frames), 3, 3))
        head = rig.heads[row] + np.zeros((len(frames), 3))
        if parent >= 0:
            head = heads[:, parent] + above @ (rig.heads[row] - rig.heads[parent])
        rest = rig.rotations[row]
        own[:, row] = np.eye(3)
        if name in curves:
            values = curves[name].at(frames)
            own[:, row] = matrices(curves[name], frames)
            if "location" in values:
                head = head + np.einsum("nij,nj->ni", above @ rest, values["location"])
        turns[:, row] = above @ rest @ own[:, row] @ rest.T
        heads[:, row] = head
    return heads @ rig.to_world[:3, :3].T, own


def differences(rig: Rig, few: dict[str, Curves], every: dict[str, Curves], frames: Array) -> tuple[float, float]:
    """Most degrees and most millimetres, the latter for a body of the motion's size."""
    (a, p), (b, q) = played(rig, few, frames), played(rig, every, frames)
    between = np.swapaxes(p, -1, -2) @ q
    sine = np.stack([between[..., 2, 1] - between[..., 1, 2], between[..., 0, 2] - between[..., 2, 0],
                     between[..., 1, 0] - between[..., 0, 1]], -1)  # fmt: skip
    angle = np.arctan2(np.linalg.norm(sine, axis=-1) / 2, (np.trace(between, axis1=-2, axis2=-1) - 1) / 2)
    return float(np.degrees(angle.max())), float(np.linalg.norm(a - b, axis=-1).max() * 1000)


@pytest.mark.parametrize("mode", ["QUATERNION", "XYZ", "AXIS_ANGLE"])
@pytest.mark.parametrize("step", [1.0, 1.2, 0.5, 3.0])
def test_few_keys_within_the_tolerances(mode: str, step: float) -> None:
    rig = make_rig(45.0)
    keys = solved(walk(100), rig)
    frames = 7 + step * np.arange(100)
    modes = dict.fromkeys(rig.names, mode)
    few, every = few_keys(keys, rig, modes, frames, Options()), every_pose(keys, modes, frames)
    degrees, millimetres = differences(rig, few, every, frames)
    assert degrees <= 0.501
    assert millimetres / keys.scale <= 5.2
    written = sum(values.size for each in few.values() for values in each.channels.values())
    poses = sum(values.size for each in every.values() for values in each.channels.values())
    assert written < 0.35 * poses


def test_keys_stand_on_whole_frames_from_end_to_end() -> None:
    rig = make_rig()
    keys = solved(walk(50), rig)
    frames = 31 + 1.2 * np.arange(50)
    for name, curves in few_keys(keys, rig, {}, frames, Options()).items():
        assert np.array_equal(curves.frames, np.round(curves.frames)), name
        assert (np.diff(curves.frames) > 0).all()
        assert curves.frames[0] == 31
        assert len(curves.frames) == 1 or curves.frames[-1] == np.ceil(frames[-1])
        assert curves.slopes is not None
        for channel, values in curves.channels.items():
            assert values.shape == (len(curves.frames), values.shape[1])
            assert curves.slopes[channel].shape == (len(curves.frames), 2, values.shape[1])


def test_finer_tolerance_more_keys() -> None:
    rig = make_rig()
    keys = solved(walk(80), rig)
    frames = np.arange(80.0)
    counts = [
        sum(len(each.frames) for each in few_keys(keys, rig, {}, frames, options).values())
        for options in (Options(degrees=2.0, millimetres=20.0), Options(), Options(degrees=0.1, millimetres=1.0))
    ]
    assert counts == sorted(counts)
    assert counts[0] < 0.7 * counts[2]


def test_feet_that_rest_stay() -> None:
    """A foot that stands still drifts by a fraction of the tolerance."""
    rig = make_rig()
    joints = np.repeat(walk(1, bend=0.2), 80, 0)
    sway = 0.04 * np.sin(np.arange(80) / 7)
    weights = np.clip(joints[0, :, 1] / 0.9, 0, 1)
    joints[..., 0] += sway[:, None] * weights
    keys = solved(joints, rig)
    frames = np.arange(80.0)
    few, every = few_keys(keys, rig, {}, frames, Options()), every_pose(keys, {}, frames)
    row = rig.index["mixamorig:LeftFoot"]
    off = played(rig, few, frames)[0][:, row] - played(rig, every, frames)[0][:, row]
    assert np.linalg.norm(off, axis=-1).max() < 0.0016


def test_a_still_motion_is_one_key_and_a_short_one_is_kept() -> None:
    rig = make_rig()
    still = solved(np.repeat(walk(1), 30, 0), rig)
    assert {len(each.frames) for each in few_keys(still, rig, {}, np.arange(30.0), Options()).values()} == {1}
    for count in (1, 2, 3):
        keys = solved(walk(count), rig)
        frames = 5 + 1.2 * np.arange(count)
        few, every = few_keys(keys, rig, {}, frames, Options()), every_pose(keys, {}, frames)
        degrees, millimetres = differences(rig, few, every, frames)
        assert degrees < 0.51 and millimetres < 5.1


def test_the_same_twice() -> None:
    rig = make_rig()
    keys = solved(walk(60), rig)
    one, two = (few_keys(keys, rig, {}, np.arange(60.0), Options()) for _ in range(2))
    for name, curves in one.items():
        assert np.array_equal(curves.frames, two[name].frames)
        for channel, values in curves.channels.items():
            assert np.array_equal(values, two[name].channels[channel])


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([*EULER_ORDERS, "QUATERNION", "AXIS_ANGLE"]))
def test_any_turning_of_one_bone(seed: int, mode: str) -> None:
    """Smooth random turns, gimbal lock and whole turns among them."""
    rng = np.random.default_rng(seed)
    count = 60
    rig = make_rig()
    pushes = np.cumsum(np.cumsum(rng.normal(scale=0.02, size=(count, 3)), 0), 0)
    angle = np.linalg.norm(pushes, axis=-1, keepdims=True) + 1e-12
    quaternions = continuous(np.concatenate([np.cos(angle / 2), np.sin(angle / 2) * pushes / angle], -1))
    name = "mixamorig:LeftForeArm"
    keys = BoneKeys({name: quaternions}, {}, 1.0, {})
    frames = np.arange(float(count))
    curves = few_keys(keys, rig, {name: mode}, frames, Options(millimetres=1e6))[name]
    got = curves.at(frames)
    if mode in EULER_ORDERS:
        turns = np.broadcast_to(np.eye(3), (count, 3, 3))
        for letter in mode:
            axis = "XYZ".index(letter)
            turns = about(axis, got["rotation_euler"][:, axis]) @ turns
    else:
        turns = matrices(curves, frames)
    off = to_quaternion(np.swapaxes(to_matrix(quaternions), -1, -2) @ turns)
    assert np.degrees(2 * np.arctan2(np.linalg.norm(off[:, 1:], axis=-1), off[:, 0])).max() < 0.51
