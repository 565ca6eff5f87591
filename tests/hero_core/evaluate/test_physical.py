# SPDX-License-Identifier: GPL-3.0-or-later
"""Motions made up so that their skating, floating, jerk and the rest are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_core import humanml3d
from hero_core.errors import HeroError
from hero_core.evaluate import physical


def standing(frames: int = 30) -> torch.Tensor:
    """(N, 22, 3): the rest pose, its lowest joint at y = 0."""
    joints = torch.zeros(22, 3, dtype=torch.float64)
    for j in range(1, 22):
        joints[j] = joints[humanml3d.PARENTS[j]] + humanml3d.REFERENCE_OFFSETS[j]
    joints[:, 1] -= joints[:, 1].min()
    return joints.repeat(frames, 1, 1)


def test_standing_still_is_faultless() -> None:
    found = physical.measure(standing())
    assert set(found) == set(physical.MEASURES)
    nothing = "skating floating_cm penetration_cm deepest_cm jerk speed pelvis_moved_m".split()
    np.testing.assert_allclose([found[key] for key in nothing], 0, atol=1e-9)
    assert found["bone_error_cm"] < 1e-4 and found["seconds"] == 1.5
    assert (
        found["pelvis_lowest_m"] == pytest.approx(found["pelvis_mean_m"]) == pytest.approx(float(standing()[0, 0, 1]))
    )


def test_sliding_a_known_share_of_the_time() -> None:
    x = standing(41)
    x[20:, :, 0] += 0.03 * torch.arange(1, 22)[:, None]  # 3 cm a frame in the second half
    assert physical.skating(x) == pytest.approx(21 / 40)
    assert physical.measure(x)["pelvis_moved_m"] == pytest.approx(0.63)
    slow = standing(41)
    slow[:, :, 2] += 0.02 * torch.arange(41)[:, None]  # below what counts
    assert physical.skating(slow) == 0
    x[..., 1] += 0.06  # in the air nobody skates
    assert physical.skating(x) == 0


@given(st.floats(-0.5, 0.5))
@settings(max_examples=10)
def test_the_floor_stays_where_it_is(height: float) -> None:
    x = standing()
    x[..., 1] += height
    found = physical.measure(x)
    assert found["floating_cm"] == pytest.approx(max(height, 0) * 100, abs=1e-9)
    assert found["penetration_cm"] == pytest.approx(max(-height, 0) * 100, abs=1e-9)
    assert found["deepest_cm"] == pytest.approx(max(-height, 0) * 100, abs=1e-9)


@given(st.floats(0.1, 3), st.floats(-1, 1))
@settings(max_examples=10)
def test_jerk_and_speed_of_known_curves(rate: float, cubic: float) -> None:
    t = torch.arange(40, dtype=torch.float64) / 20
    x = standing(40)
    x[..., 2] += rate * t[:, None]
    found = physical.measure(x)
    assert found["speed"] == pytest.approx(rate) and found["jerk"] == pytest.approx(0, abs=1e-6)
    x[..., 0] += cubic * t[:, None] ** 3
    assert physical.measure(x)["jerk"] == pytest.approx(6 * abs(cubic), abs=1e-6)


def test_longer_bones_are_seen() -> None:
    x = standing()
    x[:, 15, 2] += 0.21  # the head, one bone of 21, lies ahead of the neck
    assert physical.measure(x)["bone_error_cm"] == pytest.approx(1, abs=1e-4)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(HeroError, match=r"\(N, 22, 3\)"):
        physical.measure(np.zeros((3, 22, 3)))


def test_average() -> None:
    assert physical.average([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0}]) == {"a": 2.0, "b": 2.0}
