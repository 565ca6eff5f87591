# SPDX-License-Identifier: GPL-3.0-or-later
"""Few keys stay within the tolerances, in every rotation mode; measured by forward kinematics of the curves."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import rig as make_rig
from skeletons import walk

from hero_core.retarget import BoneKeys, Reach, Rig, map_bones, solve
from hero_core.retarget.bezier import Layout, _chain
from hero_core.retarget.carried import _from_euler
from hero_core.retarget.frames import whole_frames
from hero_core.retarget.options import Options
from hero_core.retarget.reduce import Curves, every_pose, few_keys
from hero_core.retarget.rig import keyed_alone
from hero_core.retarget.rotations import EULER_ORDERS, continuous, from_euler, to_matrix, to_quaternion

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
    few, every = few_keys(keys, rig, modes, frames, Options()), every_pose(keys, rig, modes, frames)
    degrees, millimetres = differences(rig, few, every, frames)
    assert degrees <= 0.501
    assert millimetres / keys.scale <= 5.2
    written = sum(values.size for each in few.values() for values in each.channels.values())
    poses = sum(values.size for each in every.values() for values in each.channels.values())
    assert written < 0.35 * poses


def test_keys_stand_on_whole_frames_from_end_to_end() -> None:
    rig = make_rig()
    poses = 31 + 1.2 * np.arange(50)
    frames = whole_frames(poses, True)
    keys = solve(walk(50), rig, map_bones(rig), at=(frames - 31) / 1.2)
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
    few, every = few_keys(keys, rig, {}, frames, Options()), every_pose(keys, rig, {}, frames)
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
        few, every = few_keys(keys, rig, {}, frames, Options()), every_pose(keys, rig, {}, frames)
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


def wandering(count: int, rng: np.random.Generator, step: float) -> Array:
    """(N, 3) a smooth random way, with kinks where it is pushed anew."""
    pushes = rng.normal(scale=step, size=(count, 3)) * (rng.random((count, 1)) < 0.15)
    drag = 0.8
    speed = np.zeros((count, 3))
    for pose in range(1, count):
        speed[pose] = drag * speed[pose - 1] + pushes[pose]
    return np.cumsum(speed, 0)


def wild(rig: Rig, count: int, seed: int, swing: float = 0.05) -> BoneKeys:
    """Every bone turns at random, the hips wander."""
    rng = np.random.default_rng(seed)
    rotations = {}
    for name in rig.names:
        turn = wandering(count, rng, swing)
        angle = np.linalg.norm(turn, axis=-1, keepdims=True) + 1e-12
        rotations[name] = continuous(np.concatenate([np.cos(angle / 2), np.sin(angle / 2) * turn / angle], -1))
    like = solved(walk(1), rig)
    hips = next(iter(like.locations))
    return replace(like, rotations=rotations, locations={hips: wandering(count, rng, 0.02)}, contacts=None)


@settings(max_examples=25)
@given(
    st.integers(0, 2**31),
    st.sampled_from([*EULER_ORDERS, "QUATERNION", "AXIS_ANGLE"]),
    st.sampled_from([0.5, 1.0, 1.2, 1.25, 2.4]),
    st.integers(1, 90),
    st.floats(-10.0, 80.0),
)
def test_any_motion_of_all_bones(seed: int, mode: str, step: float, count: int, arms: float) -> None:
    rig = make_rig(arms)
    keys = wild(rig, count, seed)
    frames = 3 + step * np.arange(count)
    modes = dict.fromkeys(rig.names, "QUATERNION") | {"mixamorig:LeftForeArm": mode, "mixamorig:RightLeg": mode}
    few, every = few_keys(keys, rig, modes, frames, Options()), every_pose(keys, rig, modes, frames)
    for name, curves in few.items():
        if modes[name] in EULER_ORDERS:  # ``played`` knows one order only
            assert turned_by(rig, name, modes[name], curves, keys, frames) <= 0.502
    plain = {name: each for name, each in few.items() if modes[name] not in EULER_ORDERS}
    degrees, millimetres = differences(rig, plain, {name: every[name] for name in plain}, frames)
    assert degrees <= 0.502
    if len(plain) == len(few):
        assert millimetres / keys.scale <= 5.3


def turned_by(rig: Rig, name: str, order: str, curves: Curves, keys: BoneKeys, frames: Array) -> float:
    """Most degrees by which the Euler curves of a bone are off."""
    angles = curves.at(frames)["rotation_euler"]
    turns = np.broadcast_to(np.eye(3), (len(frames), 3, 3))
    for letter in order:
        turns = about("XYZ".index(letter), angles[:, "XYZ".index(letter)]) @ turns
    off = to_quaternion(np.swapaxes(to_matrix(keys.rotations[name]), -1, -2) @ turns)
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(off[:, 1:], axis=-1), np.abs(off[:, 0]))).max())


def bezier(frame: float, points: Array) -> float:
    """What Blender shows of the segment of (4, 2) points at a frame; found by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        t = (low + high) / 2
        weights = np.array([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t * t, t**3])
        low, high = (t, high) if weights @ points[:, 0] < frame else (low, t)
    return float(weights @ points[:, 1])


@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_handles_are_in_line_and_the_curve_is_theirs(seed: int) -> None:
    """Keys of all channels of a bone stand together; no corners; handles that Blender does not have to shorten."""
    rig = make_rig()
    keys = wild(rig, 40, seed)
    frames = 1 + 1.2 * np.arange(40)
    for curves in few_keys(keys, rig, {}, frames, Options()).values():
        assert curves.slopes is not None and curves.reaches is not None
        at = curves.at(frames)
        gaps = np.diff(curves.frames)
        for channel, values in curves.channels.items():
            slopes, reaches = curves.slopes[channel], curves.reaches[channel]
            assert values.shape == slopes[:, 0].shape == reaches[:, 0].shape
            assert np.array_equal(slopes[:, 0], slopes[:, 1])
            if len(gaps) == 0:
                continue
            assert (reaches > 0).all()
            assert (reaches[:-1, 1] <= 0.5001 * gaps[:, None]).all()
            assert (reaches[1:, 0] <= 0.5001 * gaps[:, None]).all()
            for pose in (0, 7, 18, 39):
                k = int(np.clip(np.searchsorted(curves.frames, frames[pose], "right") - 1, 0, len(gaps) - 1))
                begin, end = np.stack([curves.frames, values[:, 0]], 1)[k : k + 2]
                points = np.stack(
                    [
                        begin,
                        begin + reaches[k, 1, 0] * np.array([1.0, slopes[k, 1, 0]]),
                        end - reaches[k + 1, 0, 0] * np.array([1.0, slopes[k + 1, 0, 0]]),
                        end,
                    ]
                )
                assert at[channel][pose, 0] == pytest.approx(bezier(frames[pose], points), abs=2e-5)


def test_standing_feet_hardly_slide() -> None:
    """A body that shifts its weight on feet that are told to stand: a centimetre a second in the mean at most."""
    rig = make_rig()
    count = 120
    joints = np.repeat(walk(1, bend=0.2), count, 0)
    rng = np.random.default_rng(3)
    sway = np.cumsum(np.cumsum(rng.normal(scale=0.002, size=count)))
    sway = 0.06 * (sway - np.linspace(sway[0], sway[-1], count)) / np.abs(sway).max()
    joints[..., 0] += sway[:, None] * np.clip(joints[0, :, 1] / 0.9, 0, 1)
    runs = [(0, count)]
    contacts = {f"{side}_{part}": runs for side in ("left", "right") for part in ("heel", "ball")}
    keys = replace(solved(joints, rig), contacts=contacts)
    frames = 1.2 * np.arange(count)
    few, every = few_keys(keys, rig, {}, frames, Options()), every_pose(keys, rig, {}, frames)
    off = played(rig, few, frames)[0] - played(rig, every, frames)[0]
    for name in ("LeftFoot", "RightFoot", "LeftToeBase", "RightToeBase"):
        way = np.diff(off[:, rig.index[f"mixamorig:{name}"]], axis=0)[:, [0, 2]] / keys.scale
        assert np.linalg.norm(way, axis=-1).mean() * 20 < 0.012
    assert len(few["mixamorig:LeftUpLeg"].frames) < 0.5 * count


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [3, 4, 30])
@pytest.mark.parametrize("runs", [None, [], [(0, 0)], [(0, 1)], [(2, 3)], [(1, 3)]])
def test_feet_that_hardly_or_never_stand(count: int, runs: list[tuple[int, int]] | None) -> None:
    """A body in the air: nothing to hold, and nothing to complain of."""
    rig = make_rig()
    joints = walk(count) + np.arange(count)[:, None, None] * np.array([0.0, 0.1, 0.02])
    contacts = (
        None if runs is None else {f"{side}_{part}": runs for side in ("left", "right") for part in ("heel", "ball")}
    )
    keys = replace(solved(joints, rig), contacts=contacts)
    frames = 1.2 * np.arange(count)
    few, every = few_keys(keys, rig, {}, frames, Options()), every_pose(keys, rig, {}, frames)
    degrees, millimetres = differences(rig, few, every, frames)
    assert degrees <= 0.502 and millimetres / keys.scale <= 5.3


@pytest.mark.parametrize("order", EULER_ORDERS)
def test_euler_angles_turn_as_they_do_elsewhere(order: str) -> None:
    angles = np.random.default_rng(1).uniform(-4, 4, (3, 50))
    assert np.abs(to_matrix(from_euler(angles.T, order)) - to_matrix(_from_euler(angles, order).T)).max() < 1e-12


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(3, 60), st.floats(0.1, 0.9))
def test_sums_over_segments(seed: int, count: int, share: float) -> None:
    """However keys stand: each pose counts in the segment between the keys around it, in Layout's own order."""
    rng = np.random.default_rng(seed)
    frames = np.cumsum(rng.uniform(0.5, 3.0, count))
    mask = rng.random((3, count)) < share
    mask[:, [0, -1]] = True
    layout = Layout(mask, frames)
    values = rng.normal(size=3 * count)
    sums = layout.sums(values[layout.poses])
    keyed = frames[layout.place]
    for segment, key in enumerate(layout.here):
        inside = (frames >= keyed[key]) & (frames < keyed[key + 1])
        inside[-1] = layout.place[key + 1] == count - 1
        own = values.reshape(3, -1)[layout.curve[key]][inside]
        assert sums[segment] == pytest.approx(own.sum())
    assert np.array_equal(np.sort(layout.poses), np.arange(3 * count))
    assert len(layout.here) == mask.sum() - 3


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_chains_are_nearly_solved(seed: int, count: int) -> None:
    """Exactly up to two keys; beyond, all but for what keys two apart have to do with each other."""
    rng = np.random.default_rng(seed)
    blocks, beside = np.zeros((2, 2, count)), 0.3 * rng.normal(size=(2, 2, count))
    blocks[0, 0], blocks[1, 1], blocks[0, 1], blocks[1, 0] = 3, 3, 0.5, 0.5
    beside[..., -1] = 0.0
    right = rng.normal(size=(2, count))
    whole = np.zeros((2 * count, 2 * count))
    for key in range(count):
        whole[2 * key : 2 * key + 2, 2 * key : 2 * key + 2] = blocks[..., key]
        if key + 1 < count:
            whole[2 * key : 2 * key + 2, 2 * key + 2 : 2 * key + 4] = beside[..., key]
            whole[2 * key + 2 : 2 * key + 4, 2 * key : 2 * key + 2] = beside[..., key].T
    exact = np.linalg.solve(whole, right.T.ravel()).reshape(-1, 2).T
    found = _chain(blocks, beside, right)
    if count <= 2:
        assert found == pytest.approx(exact)
    else:
        assert np.abs(found - exact).max() < 0.4 * np.abs(exact).max()


def test_limbs_that_reach_for_a_target() -> None:
    """What the rig's own solver makes of few keys turns its middle joint by no more than the tolerance, or a little."""
    rig = make_rig()
    hips, foot = "mixamorig:Hips", "mixamorig:LeftFoot"
    count = 80
    phase = np.arange(count) / 1.9
    still = np.zeros((count, 4))
    still[:, 0] = 1.0
    leg = [rig.index[f"mixamorig:Left{name}"] for name in ("UpLeg", "Leg", "Foot")]
    ends = rig.heads[leg]
    upper, lower = (float(np.linalg.norm(ends[k + 1] - ends[k])) for k in (0, 1))
    # The hips dip and come up until the leg is hardly bent; the foot, which hangs on nothing, nearly stays.
    dip = np.zeros((count, 3))
    dip[:, 2] = -0.003 - 0.003 * np.sin(phase) * np.cos(phase / 7)
    free = replace(rig, parents=np.where(np.arange(len(rig.names)) == leg[2], -1, rig.parents))
    root, tip = rig.heads[leg[0]] + dip, np.repeat(rig.heads[leg[2]][None], count, 0)
    location = np.einsum("ji,nj->ni", rig.rotations[rig.index[hips]], root - rig.heads[leg[0]])
    locations = {hips: location, foot: np.zeros((count, 3)) + 0.001 * np.sin(phase / 2)[:, None]}
    tip = tip + locations[foot] @ rig.rotations[leg[2]].T
    keys = BoneKeys({hips: still, foot: still}, locations, 1.0, {})
    keys = replace(keys, limbs=(Reach(foot, (hips,), root, tip, (upper, lower)),))

    def bend(curves: dict[str, Curves]) -> Array:
        frames = np.arange(float(count))
        a = rig.heads[leg[0]] + curves[hips].at(frames)["location"] @ rig.rotations[rig.index[hips]].T
        b = rig.heads[leg[2]] + curves[foot].at(frames)["location"] @ rig.rotations[leg[2]].T
        apart = np.linalg.norm(b - a, axis=-1)
        cosine = (apart**2 - upper**2 - lower**2) / (2 * upper * lower)
        return np.degrees(np.arccos(np.clip(cosine, -1, 1)))

    every = bend(every_pose(keys, free, {}, np.arange(float(count))))
    few = few_keys(keys, free, {}, np.arange(float(count)), Options())
    assert np.abs(bend(few) - every).max() < 0.6
    without = few_keys(replace(keys, limbs=()), free, {}, np.arange(float(count)), Options())
    assert np.abs(bend(without) - every).max() > 1.0
    assert sum(len(each.frames) for each in few.values()) < 2 * count


def test_time_grows_no_faster_than_the_motion() -> None:
    rig = make_rig()
    spent = []
    for count in (300, 2400):
        keys = solved(walk(count), rig)
        frames = 1.2 * np.arange(count)
        began = time.process_time()
        few = few_keys(keys, rig, {}, frames, Options())
        spent.append(time.process_time() - began)
        assert sum(len(each.frames) for each in few.values()) < 0.3 * count * len(few)
    assert spent[1] < 20 * spent[0] + 0.5


def test_keys_of_a_walk() -> None:
    """Of a smooth walk hardly a sixth of the keys is left."""
    rig = make_rig()
    keys = solved(walk(196), rig)
    frames = 1 + 1.2 * np.arange(196)
    few = few_keys(keys, rig, {}, frames, Options())
    assert sum(len(each.frames) for each in few.values()) < 0.2 * 196 * len(few)


def test_what_constraints_hang_on_each_other_counts_as_parents_do() -> None:
    """A rig whose bones all stand alone, as controls do, with what carries each: the keys of the rig that hangs."""
    rig = make_rig(45.0)
    keys = solved(walk(60), rig)
    frames = np.arange(60.0)
    carriers: dict[str, str] = {}
    for name in (*keys.rotations, *keys.locations):
        above = [rig.names[row] for row in rig.line(rig.index[name])[1:]]
        carrier = next((up for up in above if up in keys.rotations), None)
        if carrier is not None:
            carriers[name] = carrier
    loose = replace(rig, parents=np.full(len(rig.names), -1))
    shows = {joint: bone for joint, bone in keys.joints.items() if bone in keys.rotations}
    hanging = few_keys(replace(keys, hangs=carriers, shows=shows), loose, {}, frames, Options())
    alone = few_keys(keys, loose, {}, frames, Options())
    every = every_pose(keys, rig, {}, frames)
    degrees, millimetres = differences(rig, hanging, every, frames)
    assert degrees < 0.51 and millimetres / keys.scale < 5.2
    assert differences(rig, alone, every, frames)[1] / keys.scale > 5.4


def test_a_pivot_elsewhere() -> None:
    rig = make_rig()
    keys = solved(walk(20), rig)
    hips = keys.joints["pelvis"]
    assert hips is not None
    pivot = np.array([0.0, 2.0, 0.0])
    alone, turned = keyed_alone(rig, replace(keys, hangs={keys.joints["left_hip"]: hips}, pivots={hips: pivot}))  # type: ignore[dict-item]
    assert np.array_equal(alone.heads[alone.index[hips]], pivot)
    assert not np.array_equal(rig.heads[rig.index[hips]], pivot)
    assert set(keys.rotations) <= set(alone.names)
    assert (alone.parents < np.arange(len(alone.names))).all()
    assert turned.rotations is keys.rotations
