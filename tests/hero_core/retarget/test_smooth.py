# SPDX-License-Identifier: GPL-3.0-or-later
"""Jitter goes and fast moves stay; hovering goes and jumps stay; what is clean is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from skeletons import J, rig, walk

from hero_core.retarget import map_bones, pose, solve
from hero_core.retarget.options import Options
from hero_core.retarget.smooth import clean, despike, hover, is_jittery, spline

Array = npt.NDArray[Any]


def jerk(joints: Array) -> float:
    return float(np.linalg.norm(np.diff(joints, 3, axis=0), axis=-1).mean() * 8000)


def noisy(joints: Array, size: float = 0.003) -> Array:
    return joints + np.random.default_rng(0).normal(0, size, joints.shape)


def stand(count: int = 80) -> Array:
    return np.repeat(walk(1, bend=0.3), count, axis=0)


def test_jitter_is_told_from_motion() -> None:
    assert not is_jittery(walk(100))
    assert not is_jittery(stand())
    assert is_jittery(noisy(walk(100), 0.01))
    assert is_jittery(noisy(stand()))


def test_jitter_goes_and_the_motion_stays() -> None:
    joints = stand(120)
    t = np.arange(120)[:, None] / 20.0
    joints[:, J["left_wrist"]] += 0.15 * np.sin(2 * np.pi * 0.5 * t) * [1, 0.5, 0]
    shaken = noisy(joints)
    smooth = despike(shaken)
    assert jerk(smooth) < 0.2 * jerk(shaken)
    assert np.linalg.norm(smooth - joints, axis=-1).mean() < 0.7 * np.linalg.norm(shaken - joints, axis=-1).mean()


def test_a_punch_keeps_its_peak() -> None:
    joints = stand(80)
    thrust = np.zeros(80)
    thrust[40:48] = [0.05, 0.2, 0.45, 0.55, 0.55, 0.4, 0.2, 0.05]
    joints[:, J["right_wrist"], 2] += thrust
    wrist = joints[:, J["right_wrist"]]
    peak = np.linalg.norm(np.diff(wrist, axis=0), axis=-1).max()
    kept = despike(noisy(joints, 0.002))[:, J["right_wrist"]]
    assert np.linalg.norm(np.diff(kept, axis=0), axis=-1).max() == pytest.approx(peak, rel=0.05)
    assert np.abs(kept - wrist)[38:50].max() < 0.02


def test_hovering_bodies_come_down_and_jumps_stay() -> None:
    joints = stand(160)
    floating = joints.copy()
    rise = 0.12 * np.clip((np.arange(160) - 40) / 20, 0, 1) * np.clip((140 - np.arange(160)) / 20, 0, 1)
    floating[..., 1] += rise[:, None]
    left = rise - hover(floating)
    assert np.abs(left[[0, 20, 100, 150]]).max() < 0.025
    jump = np.zeros(160)
    jump[60:72] = 4.9 * 0.3**2 - 4.9 * (np.arange(12) / 20 - 0.275) ** 2  # 44 cm, 0.6 s in the air
    joints[..., 1] += np.maximum(jump, 0)[:, None]
    assert hover(joints).max() < 0.01


def test_long_motions_are_fitted_in_windows_as_if_at_once() -> None:
    points = np.cumsum(np.random.default_rng(1).normal(size=(700, 4)), 0)
    third = np.diff(np.eye(700), 3, axis=0)
    at_once = np.linalg.solve(np.eye(700) + third.T @ third, points)
    assert np.allclose(spline(points), at_once, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11, 12, 13])
def test_short_motions(count: int) -> None:
    joints = noisy(walk(count))
    assert clean(joints).shape == joints.shape
    assert np.isfinite(clean(joints)).all()
    of = rig()
    assert solve(joints, of, map_bones(of)).poses == count


def test_clean_motion_is_left_bit_for_bit() -> None:
    of, joints = rig(45.0), walk(60)
    bones = map_bones(of)
    first = solve(joints, of, bones, Options(pin_feet=False, smooth=True))
    second = solve(joints, of, bones, Options(pin_feet=False, smooth=False))
    assert all(np.array_equal(first.rotations[name], second.rotations[name]) for name in first.rotations)
    assert all(np.array_equal(first.locations[name], second.locations[name]) for name in first.locations)


def test_a_forearm_that_shrinks_does_not_whip_round() -> None:
    """Generated arms lose most of their length in some poses; the hand must not sweep by what that direction says."""
    joints = noisy(stand(60))
    wrist, elbow = J["left_wrist"], J["left_elbow"]
    joints[30:34, wrist] = joints[30:34, elbow] + np.array([[0.04, 0, 0], [0, 0, 0.04], [-0.04, 0, 0], [0, 0, -0.04]])
    of = rig()
    bones = map_bones(of)

    def fastest(options: Options) -> float:
        hand = pose(joints, of, bones, options).heads[:, bones.joints["left_wrist"]]
        return float(np.linalg.norm(np.diff(hand[29:35], axis=0), axis=-1).max())

    assert fastest(Options(pin_feet=False)) < 0.75 * fastest(Options(pin_feet=False, smooth=False))
