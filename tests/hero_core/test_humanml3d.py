# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_core import humanml3d
from hero_core.errors import HeroError

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "motion_process.safetensors"


def walker(frames: int = 60, turn: float = 0.0, seed: int = 0) -> torch.Tensor:
    """A plausible moving skeleton: rest pose, arms and legs swinging, root moving along a curve."""
    generator = torch.Generator().manual_seed(seed)
    directions = humanml3d.REFERENCE_OFFSETS.repeat(frames, 1, 1).clone()
    t = torch.arange(frames) / 20.0
    phase = 6.0 * t + torch.rand((), generator=generator)
    for joints, sign in (((4, 7), 1), ((5, 8), -1), ((18, 20), -1), ((19, 21), 1)):
        swing = 0.5 * torch.sin(phase) * sign
        length = humanml3d.BONE_LENGTHS[list(joints)]
        for j, bone in zip(joints, length, strict=True):
            directions[:, j, 1] = -swing.cos() * bone
            directions[:, j, 2] = swing.sin() * bone
    heading = turn * t
    q = torch.stack((torch.cos(heading / 2), 0 * t, torch.sin(heading / 2), 0 * t), -1)
    directions = humanml3d.qrot(q[:, None], directions)
    root = torch.stack((0.1 * t, 0.9 + 0.02 * torch.sin(2 * phase), 1.1 * t), -1)
    out = [root]
    for j in range(1, 22):
        out.append(out[humanml3d.PARENTS[j]] + directions[:, j])
    return torch.stack(out, 1)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    if not GOLDEN.exists():
        pytest.skip("the official golden numbers are not beside this checkout")
    from safetensors.torch import load_file

    return load_file(GOLDEN)


@pytest.mark.parametrize("name", ["bvh", "walk"])
def test_official_features(golden: dict[str, torch.Tensor], name: str) -> None:
    ours = humanml3d.canonicalise(golden[f"{name}.positions"], golden["tgt_offsets"])
    torch.testing.assert_close(ours, golden[f"{name}.global_positions"], atol=1e-4, rtol=1e-4)
    features = humanml3d.to_features(ours, canonical=True)
    expected = golden[f"{name}.features"]
    torch.testing.assert_close(features[:, :259], expected[:, :259], atol=1e-4, rtol=1e-4)
    # Contacts are thresholded: a rounding may flip a value that lies on the threshold.
    assert (features[:, 259:] != expected[:, 259:]).float().mean() < 0.005


@pytest.mark.parametrize("name", ["bvh", "walk"])
def test_official_recovery(golden: dict[str, torch.Tensor], name: str) -> None:
    features = golden[f"{name}.features"]
    joints = humanml3d.to_joints(features)
    torch.testing.assert_close(joints, golden[f"{name}.recover_from_ric"], atol=1e-4, rtol=1e-4)
    joints = humanml3d.to_joints_by_rotations(features, golden["tgt_offsets"])
    torch.testing.assert_close(joints, golden[f"{name}.recover_from_rot"], atol=1e-4, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(turn=st.floats(-1.0, 1.0), seed=st.integers(0, 99), frames=st.integers(4, 80))
def test_round_trip(turn: float, seed: int, frames: int) -> None:
    joints = humanml3d.canonicalise(walker(frames, turn, seed).double())
    features = humanml3d.to_features(joints, canonical=True)
    assert features.shape == (frames - 1, 263)
    back = humanml3d.to_joints(features)
    # Heading of frame 0 is forced to identity, so a smoothed heading leaves a small constant turn.
    lengths = (back[:, 1:] - back[:, list(humanml3d.PARENTS[1:])]).norm(dim=-1)
    torch.testing.assert_close(lengths, humanml3d.BONE_LENGTHS[1:].double().expand_as(lengths), atol=2e-5, rtol=0)
    torch.testing.assert_close(back[..., 1], joints[:-1, :, 1], atol=1e-5, rtol=0)


def test_continuous_heading_survives_a_full_turn() -> None:
    joints = humanml3d.canonicalise(walker(160, turn=1.2).double())
    features = humanml3d.to_features(joints, canonical=True, continuous_heading=True)
    back = humanml3d.to_joints(features)
    official = humanml3d.to_joints(humanml3d.to_features(joints, canonical=True))
    # The yaw of the first step also takes up the smoothed heading of frame 0, a rigid turn of the rest.
    a, b = joints[-2, 0] - joints[1, 0], back[-1, 0] - back[1, 0]
    assert abs(float(a.norm() - b.norm())) < 1e-3
    assert abs(float(a.norm() - (official[-1, 0] - official[1, 0]).norm())) > 1e-2


def test_numpy_in_numpy_out_and_batches() -> None:
    joints = walker(40).numpy()
    features = humanml3d.to_features(joints)
    assert isinstance(features, np.ndarray)
    both = humanml3d.to_joints(np.stack([features, features])[None])
    assert isinstance(both, np.ndarray) and both.shape == (1, 2, 39, 22, 3)
    np.testing.assert_array_equal(both[0, 0], humanml3d.to_joints(features))


def test_mirror_is_its_own_inverse_and_keeps_heights() -> None:
    joints = walker(10)
    once = humanml3d.mirror(joints)
    assert not torch.equal(once, joints)
    torch.testing.assert_close(humanml3d.mirror(once), joints)
    torch.testing.assert_close(once[:, 1, 1], joints[:, 2, 1])


@pytest.mark.parametrize("bad", [torch.zeros(5, 21, 3), torch.zeros(5, 22, 3), torch.full((5, 22, 3), float("nan"))])
def test_bad_joints_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(HeroError):
        humanml3d.to_features(bad)


def test_statistics_average_in_groups() -> None:
    rows = torch.randn(500, 263, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 3, 263) + 1
    mean, std = humanml3d.statistics(rows)
    torch.testing.assert_close(mean, rows.mean(0))
    assert torch.equal(std[4:67], std[4].expand(63))
    torch.testing.assert_close(std[3] * 25, rows[:, 3].std(correction=0))
