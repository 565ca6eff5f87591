# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read back from a rig is what was put on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import J, about, rig, walk

from hero_core.motion import JOINTS, PARENTS
from hero_core.place import facing
from hero_core.retarget import map_bones, pose
from hero_core.retarget.options import Options
from hero_core.retarget.read import pose_of
from hero_core.retarget.rotations import unit

LIMBS = [f"{side}_{name}" for side in ("left", "right") for name in ("knee", "ankle", "elbow", "wrist")]


def shown(one: Any, bones: Any, joints: Any, frame: int) -> Any:
    """(B, 4, 4) pose matrices that the solve gives."""
    solved = pose(joints, one, bones, Options(pin_feet=False, smooth=False))
    matrices = np.tile(np.eye(4), (len(one.names), 1, 1))
    matrices[:, :3, :3] = solved.turns[frame] @ one.rotations
    matrices[:, :3, 3] = solved.heads[frame]
    return matrices


def directions(joints: Any) -> Any:
    return unit(joints[1:] - joints[list(PARENTS[1:])])


@settings(max_examples=20)
@given(st.floats(-180, 180), st.floats(-180, 180), st.integers(0, 39), st.sampled_from([0.0, 45.0, 80.0]))
def test_the_way_back(heading: float, yaw: float, frame: int, arms: float) -> None:
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = about("z", yaw) * 0.01, (4.0, -3.0, 0.5)
    one = rig(arm_angle=arms, size=100.0, world=world, rolls=np.arange(22) * 17.0)
    bones, joints = map_bones(one), walk(40, heading)
    back = pose_of(one, bones, shown(one, bones, joints, frame))
    off = np.degrees(np.arccos(np.clip(np.sum(directions(back) * directions(joints[frame]), -1), -1, 1)))
    by_name = dict(zip(JOINTS[1:], off, strict=True))
    assert max(by_name[name] for name in LIMBS) < 0.1
    assert off.max() < 20  # trunk and collars have the shape of the model's bodies there, not of this walker
    turn = np.degrees(facing(back) - facing(joints[frame]))
    assert abs((turn + 180) % 360 - 180) < 6


def test_it_stands_where_the_rig_stands() -> None:
    one = rig()
    bones = map_bones(one)
    joints = walk(40)
    first, later = (pose_of(one, bones, shown(one, bones, joints, frame)) for frame in (0, 39))
    way = (later - first)[J["pelvis"]]
    wanted = (joints[39] - joints[0])[J["pelvis"]]
    np.testing.assert_allclose(way[[0, 2]], wanted[[0, 2]], rtol=0.1, atol=0.02)
    assert first[[J["left_foot"], J["right_foot"]], 1].min() < first[J["pelvis"], 1] - 0.7


def test_without_feet_hands_and_head() -> None:
    one = rig()
    keep = [row for row, name in enumerate(JOINTS) if not name.endswith(("foot", "collar"))]
    rows = {row: new for new, row in enumerate(keep)}
    parents = []
    for row in keep:
        above = int(one.parents[row])
        while above >= 0 and above not in rows:
            above = int(one.parents[above])
        parents.append(rows.get(above, -1))
    from dataclasses import replace

    less = replace(
        one, names=tuple(one.names[row] for row in keep), parents=np.array(parents), rest=one.rest[keep],
        tails=one.tails[keep], use_local_location=one.use_local_location[keep], connected=one.connected[keep],
        inherit_rotation=one.inherit_rotation[keep], owned=one.owned[keep],
    )  # fmt: skip
    bones = map_bones(less)
    back = pose_of(less, bones, shown(less, bones, walk(30), 7))
    assert back.shape == (22, 3)
    assert np.isfinite(back).all()
    lengths = np.linalg.norm(back[1:] - back[list(PARENTS[1:])], axis=-1)
    assert lengths.min() > 0.03
    assert pytest.approx(0.392, abs=1e-6) == lengths[J["left_knee"] - 1]
