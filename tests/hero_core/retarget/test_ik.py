# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_core.retarget.ik import soft_reach, two_bone
from hero_core.retarget.rotations import swing, unit

Array = npt.NDArray[Any]


def chain(first: float, second: float, bend: float, count: int = 1) -> tuple[Array, Array, Array, Array]:
    """Root, middle and end of a limb that hangs down and is bent forward by so many radians; its hinge."""
    root = np.zeros((count, 3))
    middle = root + [0.0, -first, 0.0]
    end = middle + second * np.array([0.0, -np.cos(bend), -np.sin(bend)])
    return root, middle, end, np.tile([1.0, 0.0, 0.0], (count, 1))


@settings(max_examples=60, deadline=None)
@given(
    first=st.floats(0.1, 2.0),
    ratio=st.floats(0.5, 2.0),
    bend=st.floats(0.0, 2.5),
    share=st.floats(0.05, 0.985),
    seed=st.integers(0, 2**31),
)
def test_targets_in_reach_are_met_with_the_lengths_kept(
    first: float, ratio: float, bend: float, share: float, seed: int
) -> None:
    second = first * ratio
    root, middle, end, hinge = chain(first, second, bend)
    nearest, farthest = 1.02 * abs(first - second) + 1e-3 * (first + second), 0.99 * (first + second)
    target = unit(np.random.default_rng(seed).normal(size=(1, 3))) * (nearest + share * (farthest - nearest))
    upper, lower, axis, reached = two_bone(root, middle, end, target, hinge)
    assert np.allclose(reached, target, atol=1e-9)
    assert np.allclose(first * upper + second * lower, target, atol=1e-6 * first)
    assert np.sum(np.cross(upper, lower) * axis) > -1e-6  # bends about its hinge, never backwards
    assert np.allclose(np.linalg.norm(axis, axis=-1), 1)


def test_targets_out_of_reach_are_approached_and_nothing_snaps() -> None:
    count = 200
    root, middle, end, hinge = chain(0.4, 0.4, 0.3, count)
    target = np.zeros((count, 3))
    target[:, 1] = -np.linspace(0.6, 1.0, count)
    upper, _, _, reached = two_bone(root, middle, end, target, hinge)
    assert (np.diff(reached[:, 1]) <= 1e-12).all()
    assert (-reached[:, 1] < 0.8).all()
    turned = np.degrees(np.arccos(np.clip(np.sum(upper[1:] * upper[:-1], -1), -1, 1)))
    assert turned.max() < 1.0  # for steps of 2 mm
    assert np.abs(np.cross(unit(reached), unit(target))).max() < 1e-9


def test_a_straight_limb_bends_about_its_hinge() -> None:
    root, middle, end, _ = chain(0.4, 0.4, 0.0)
    for angle in np.linspace(0, 2 * np.pi, 12):
        hinge = np.array([[np.cos(angle), 0.0, np.sin(angle)]])
        upper, lower, _, _ = two_bone(root, middle, end, np.array([[0.0, -0.6, 0.0]]), hinge)
        assert np.allclose(unit(np.cross(upper, lower)), hinge, atol=1e-9)


def test_a_limb_that_is_a_little_bent_back_comes_to_the_right_side() -> None:
    for back in np.linspace(-0.2, 0.2, 41):
        root, middle, end, hinge = chain(0.4, 0.4, back)
        upper, lower, axis, _ = two_bone(root, middle, end, np.array([[0.0, -0.7, 0.0]]), hinge)
        assert np.sum(np.cross(upper, lower) * axis) > 0


def test_the_plane_goes_along_with_the_limb() -> None:
    root, middle, end, hinge = chain(0.4, 0.35, 0.8)
    target = np.array([[0.3, -0.2, 0.4]])
    upper, lower, axis, _ = two_bone(root, middle, end, target, hinge)
    turn = swing(unit(end), unit(target))
    assert np.allclose(axis, np.einsum("nij,nj->ni", turn, hinge))
    assert np.allclose(unit(np.cross(upper, lower)), axis, atol=1e-9)


def test_reach_is_exact_until_nearly_straight() -> None:
    distance = np.linspace(0, 2, 100)
    reached = soft_reach(distance, np.ones(100))
    assert np.array_equal(reached[distance < 0.99], distance[distance < 0.99])
    assert (reached <= 1).all() and (np.diff(reached) >= 0).all()
