# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from hero_core.retarget.rotations import (
    EULER_ORDERS,
    continuous,
    product,
    slerp,
    swing,
    to_axis_angle,
    to_euler,
    to_matrix,
    to_quaternion,
    unit,
)

Rotation = pytest.importorskip("scipy.spatial.transform", reason="scipy is the judge here").Rotation


def quaternions(count: int = 300, seed: int = 0) -> np.ndarray:
    q = np.random.default_rng(seed).normal(size=(count, 4))
    q[0], q[1], q[2], q[3] = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def test_matrices_as_scipy_makes_them_and_back() -> None:
    q = quaternions()
    expected = Rotation.from_quat(q[:, [1, 2, 3, 0]]).as_matrix()
    assert np.allclose(to_matrix(q), expected)
    again = to_quaternion(expected)
    assert np.allclose(np.abs(np.sum(again * q, -1)), 1)
    assert (again[:, 0] >= 0).all()


@pytest.mark.parametrize("order", EULER_ORDERS)
def test_eulers_give_the_rotation_and_do_not_jump(order: str) -> None:
    t = np.linspace(0, 12, 300)[:, None]
    vectors = np.concatenate([2.5 * np.sin(t), 2.0 * np.cos(0.7 * t), t], 1)
    q = Rotation.from_rotvec(vectors).as_quat()[:, [3, 0, 1, 2]]
    angles = to_euler(q, order)
    # Blender's XYZ turns about the fixed X first: scipy's lower-case order
    got = Rotation.from_euler(order.lower(), angles[:, ["XYZ".index(axis) for axis in order]])
    assert np.allclose(got.as_matrix(), to_matrix(q), atol=1e-9)
    assert np.abs(np.diff(to_euler(continuous(q), order), axis=0)).max() < 2.2


@pytest.mark.parametrize("order", EULER_ORDERS)
@pytest.mark.parametrize("middle", [90.0, -90.0])
def test_eulers_in_gimbal_lock(order: str, middle: float) -> None:
    matrix = Rotation.from_euler(order.lower(), [[20.0, middle, 35.0]], degrees=True).as_matrix()
    angles = to_euler(to_quaternion(matrix), order)
    got = Rotation.from_euler(order.lower(), angles[:, ["XYZ".index(axis) for axis in order]])
    assert np.allclose(got.as_matrix(), matrix, atol=1e-6)


def test_axis_angles_give_the_rotation_and_do_not_jump() -> None:
    t = np.linspace(-9, 9, 200)
    q = np.stack([np.cos(t / 2), 0 * t, np.sin(t / 2), 0 * t], 1)
    values = to_axis_angle(continuous(q))
    got = Rotation.from_rotvec(values[:, :1] * values[:, 1:]).as_matrix()
    assert np.allclose(got, to_matrix(q), atol=1e-9)
    assert np.abs(np.diff(values[:, 0])).max() < 0.2


def test_swing_is_the_smallest_rotation() -> None:
    rng = np.random.default_rng(3)
    a, b = unit(rng.normal(size=(200, 3))), unit(rng.normal(size=(200, 3)))
    turn = swing(a, b)
    assert np.allclose(np.einsum("nij,nj->ni", turn, a), b)
    assert np.allclose(np.linalg.det(turn), 1)
    angle = np.arccos(np.clip((np.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert np.allclose(angle, np.arccos(np.sum(a * b, -1)), atol=1e-6)
    opposite = swing(a, -a)
    assert np.allclose(np.einsum("nij,nj->ni", opposite, a), -a, atol=1e-9)


def test_products_turn_one_after_the_other() -> None:
    a, b = quaternions(seed=1), quaternions(seed=2)
    np.testing.assert_allclose(to_matrix(product(a, b)), to_matrix(a) @ to_matrix(b), atol=1e-12)


def test_slerp_halves_add_up() -> None:
    a, b = to_matrix(quaternions(50, 1)), to_matrix(quaternions(50, 2))
    half = slerp(a, b, 0.5)
    assert np.allclose(half @ np.swapaxes(a, 1, 2) @ half, b, atol=1e-9)
    assert np.allclose(slerp(a, b, 0.0), a)
    assert np.allclose(slerp(a, b, 1.0), b)


def test_continuous_never_takes_the_long_way() -> None:
    q = quaternions()
    smooth = continuous(q)
    assert (np.sum(smooth[1:] * smooth[:-1], -1) >= 0).all()
    assert np.allclose(to_matrix(smooth), to_matrix(q))
