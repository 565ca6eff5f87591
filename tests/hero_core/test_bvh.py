# SPDX-License-Identifier: GPL-3.0-or-later
"""BVH files of any skeleton become the 22 joints: names, units, axes, rates, and what a broken file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bvh_files import J, depth_first, places_only, text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import MIXAMO, about, walk

from hero_core import bvh, humanml3d
from hero_core.errors import HeroError
from hero_core.motion import JOINTS

SMPL_SHORT = {name: name.replace("left_", "L_").replace("right_", "R_").capitalize() for name in JOINTS}
LAFAN = MIXAMO | {"left_foot": "LeftToe", "right_foot": "RightToe"}
CMU = {
    "pelvis": "hip", "left_hip": "lfemur", "right_hip": "rfemur", "spine1": "lowerback", "left_knee": "ltibia",
    "right_knee": "rtibia", "spine2": "upperback", "left_ankle": "lfoot", "right_ankle": "rfoot", "spine3": "thorax",
    "left_foot": "ltoes", "right_foot": "rtoes", "neck": "lowerneck", "left_collar": "lclavicle",
    "right_collar": "rclavicle", "head": "head", "left_shoulder": "lhumerus", "right_shoulder": "rhumerus",
    "left_elbow": "lradius", "right_elbow": "rradius", "left_wrist": "lwrist", "right_wrist": "rwrist",
}  # fmt: skip
CLASSIC = {
    "pelvis": "Hips", "left_hip": "LeftHip", "right_hip": "RightHip", "spine3": "Chest", "left_knee": "LeftKnee",
    "right_knee": "RightKnee", "left_ankle": "LeftAnkle", "right_ankle": "RightAnkle", "neck": "Neck",
    "left_collar": "LeftCollar", "right_collar": "RightCollar", "head": "Head", "left_shoulder": "LeftShoulder",
    "right_shoulder": "RightShoulder", "left_elbow": "LeftElbow", "right_elbow": "RightElbow",
    "left_wrist": "LeftWrist", "right_wrist": "RightWrist",
}  # fmt: skip


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@st.composite
def skeletons(draw: Any) -> tuple[list[int], str, int]:
    count = draw(st.integers(1, 9))
    parents = [-1, *(draw(st.integers(0, i - 1)) for i in range(1, count))]
    return parents, draw(st.sampled_from(["XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX"])), draw(st.integers(0, 2**31))


@settings(max_examples=25)
@given(skeletons(), st.booleans())
def test_forward_kinematics_of_any_tree_and_order(
    tmp_path_factory: pytest.TempPathFactory, tree: tuple[list[int], str, int], windows: bool
) -> None:
    """What is written and read again stands where an independent walk down the tree puts it."""
    parents, order, seed = tree
    rng = np.random.default_rng(seed)
    count, frames = len(parents), 3
    offsets = rng.normal(size=(count, 3))
    angles = rng.uniform(-180, 180, (frames, count, 3))  # in the order of the channels
    root = rng.normal(size=(frames, 3))
    listed = depth_first(parents)
    rows = np.concatenate([root, *(angles[:, i] for i in listed)], 1)
    ends = {i: rng.normal(size=3) for i in range(count) if i not in parents}
    text = text_of([f"a joint {i}" for i in range(count)], parents, offsets, rows, 1 / 30, order, ends)
    path = tmp_path_factory.mktemp("bvh") / "größe 1.bvh"
    found = bvh.read(write(path, text.replace("\n", "\r\n") if windows else text))
    assert found.names == tuple(f"a joint {i}" for i in listed) and found.fps == 30
    places, turns = found.poses
    for frame in range(frames):
        for new, row in enumerate(listed):
            at, line = np.zeros(3), []
            while row >= 0:
                line.append(row)
                row = parents[row]
            turn = np.eye(3)
            for step in line[::-1]:
                at = root[frame] if parents[step] < 0 else at + turn @ offsets[step]
                for axis, angle in zip(order.lower(), angles[frame, step], strict=True):
                    turn = turn @ about(axis, angle)
            np.testing.assert_allclose(places[frame, new], at, atol=1e-5)
            np.testing.assert_allclose(turns[frame, new], turn, atol=1e-6)
            end = found.end(new)
            if listed[new] in ends:
                assert end is not None
                np.testing.assert_allclose(end[frame], at + turn @ ends[listed[new]], atol=1e-5)


@pytest.mark.parametrize("names", [{n: n for n in JOINTS}, SMPL_SHORT], ids=["smpl", "short"])
@pytest.mark.parametrize("unit", ["metre", "centimetre", "inch", "cmu", "millimetre"])
def test_smpl_names_come_back_exactly_in_any_unit(tmp_path: Path, names: dict[str, str], unit: str) -> None:
    motion = walk(40)
    path = write(tmp_path / "x.bvh", places_only(names, motion / bvh.UNITS[unit]))
    np.testing.assert_allclose(bvh.load(path), motion, atol=1e-5)
    np.testing.assert_allclose(bvh.load(path, scale=bvh.UNITS[unit] * 2), motion * 2, atol=2e-5)


@pytest.mark.parametrize("prefix", ["", "mixamorig:", "Armature|"])
@pytest.mark.parametrize("names", [MIXAMO, LAFAN, CMU], ids=["mixamo", "lafan", "cmu"])
def test_other_skeletons_keep_limbs_and_get_smpls_torso(tmp_path: Path, names: dict[str, str], prefix: str) -> None:
    motion = walk(40)
    path = write(tmp_path / "x.bvh", places_only({k: prefix + v for k, v in names.items()}, motion))
    found = bvh.load(path)
    limbs = [J[f"{s}_{x}"] for s in ("left", "right") for x in "hip knee ankle foot shoulder elbow wrist".split()]
    np.testing.assert_allclose(found[:, limbs], motion[:, limbs], atol=1e-5)
    # The motion stands on SMPL's own bones, so the torso that is made is near the one that was.
    assert np.linalg.norm(found - motion, axis=-1).max() < 0.05


def test_hips_between_the_legs_and_missing_joints(tmp_path: Path) -> None:
    motion = walk(40)
    low = motion.copy()
    low[:, 0] = (low[:, 1] + low[:, 2]) / 2 - [0, 0.01, 0]
    few = {k: v for k, v in CLASSIC.items() if "collar" not in k and k != "neck"}
    for names in (LAFAN, CLASSIC, few):
        found = bvh.load(write(tmp_path / "x.bvh", places_only(names, low)))
        assert np.isfinite(found).all()
        wrong = np.linalg.norm(found - motion, axis=-1).max(0)
        assert wrong.max() < 0.09, dict(zip(JOINTS, wrong, strict=True))
        features = humanml3d.to_features(found)
        assert np.isfinite(features).all()


@pytest.mark.parametrize("turn", ["y", "-y", "z", "-z", "x", "-x"])
def test_the_up_axis_is_seen(turn: str) -> None:
    motion = walk(30)
    towards = {
        "y": motion, "-y": motion * [1, -1, -1], "z": motion[..., [0, 2, 1]] * [1, -1, 1],
        "-z": motion[..., [0, 2, 1]] * [1, 1, -1], "x": motion[..., [1, 0, 2]] * [1, -1, 1],
        "-x": motion[..., [1, 0, 2]] * [-1, 1, 1],
    }  # fmt: skip
    np.testing.assert_allclose(bvh.y_up(towards[turn]), motion, atol=1e-12)
    np.testing.assert_allclose(bvh.y_up(towards[turn], turn), motion, atol=1e-12)


@pytest.mark.parametrize("fps", [20.0, 30.0, 60.0, 120.0, 24.0, 10.0])
def test_every_rate_becomes_20(tmp_path: Path, fps: float) -> None:
    dense = walk(61)  # any motion that is straight in time between its samples
    t = np.arange(int(3 * fps)) / fps * 20
    i = t.astype(int)
    seen = dense[i] * (1 - t + i)[:, None, None] + dense[i + 1] * (t - i)[:, None, None]
    found = bvh.load(write(tmp_path / "x.bvh", places_only({n: n for n in JOINTS}, seen, fps)))
    assert abs(len(found) - (len(seen) - 1) / fps * 20) <= 1
    if fps % 20 == 0:
        np.testing.assert_allclose(found, dense[: len(found)], atol=1e-5)
    else:
        assert np.linalg.norm(found - dense[: len(found)], axis=-1).max() < 0.1


def test_resampling_a_single_pose_and_a_senseless_rate() -> None:
    assert bvh.resampled(walk(1), 30).shape == (1, 22, 3)
    with pytest.raises(HeroError, match="rate"):
        bvh.resampled(walk(5), 0.0)


def test_legs_of_no_known_unit_are_made_human() -> None:
    motion = walk(5)
    assert bvh.unit_scale(motion * 37.0 / 0.82) != 1.0
    odd = motion * 1e6
    legs = np.linalg.norm((odd * bvh.unit_scale(odd))[0, 1] - (odd * bvh.unit_scale(odd))[0, 4])
    assert 0.3 < legs < 0.5
    with pytest.raises(HeroError, match="no length"):
        bvh.unit_scale(motion * 0)


GOOD = places_only({n: n for n in JOINTS}, walk(4))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.replace("MOTION", "MOTIONS"), "not understood"),
        (lambda t: t[: t.index("MOTION")], "no motion"),
        (lambda t: t[: t.index("Frame Time")], "frame time|no motion"),
        (lambda t: t[:-40], "whole frames"),
        (lambda t: t[: t.rindex("\n", 0, -2)].rsplit(" ", 1)[0] + " nan\n", "frame 3 holds NaN"),
        (lambda t: t.replace("}", "", 1), "not closed|inside an end site|not understood"),
        (lambda t: t.replace("OFFSET", "OFFSET 1", 1), "3 numbers"),
        (lambda t: t.replace("Zrotation", "Wrotation", 1), "channels"),
        (lambda t: t.replace("Frame Time: 0.05", "Frame Time: 0.0 "), "frame time|whole|not a BVH"),
        (lambda t: "", "no joints"),
        (lambda t: "solid teapot\n", "not understood"),
        (lambda t: t.replace("left_", "bone_").replace("right_", "bone_"), "no names that HERO knows"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path: Path, change: Any, says: str) -> None:
    path = write(tmp_path / "broken.bvh", change(GOOD))
    with pytest.raises(HeroError, match=says) as error:
        bvh.load(path)
    assert "broken.bvh" in str(error.value)


def test_a_missing_file_and_a_wrong_axis(tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="cannot be read"):
        bvh.read(tmp_path / "no.bvh")
    with pytest.raises(HeroError, match="up axis"):
        bvh.y_up(walk(3), "w")


def test_real_recordings(shared: Path) -> None:
    """A CMU file in its own unit, and an iClone one in centimetres with 100 bones, 60 fps and crossed rest axes."""
    for name, frames in (("cmu_18_01", 202), ("cmu_002_01", 57)):
        found = bvh.load(shared / "rigs" / f"{name}.bvh")
        assert found.shape == (frames, 22, 3) and np.isfinite(found).all()
        tall = np.median(found[..., 1].max(1) - found[..., 1].min(1))
        assert 1.2 < tall < 1.75
        lengths = np.linalg.norm(found[:, 4] - found[:, 7], axis=-1)
        assert 0.35 < lengths.mean() < 0.52
        knees = found[:, [4, 5], 1].mean()
        assert found[:, [7, 8], 1].mean() < knees < found[:, [1, 2], 1].mean() < found[:, 15, 1].mean()
        canonical = humanml3d.canonicalise(found)
        assert np.isfinite(canonical).all()
