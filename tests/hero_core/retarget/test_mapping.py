# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skeletons import MIXAMO, rig

from hero_core.errors import HeroError
from hero_core.motion import JOINTS
from hero_core.retarget import Rig, load_presets, map_bones, mapping
from hero_core.retarget.names import plain

UNREAL = {
    "pelvis": "pelvis", "left_hip": "thigh_l", "right_hip": "thigh_r", "spine1": "spine_01", "left_knee": "calf_l",
    "right_knee": "calf_r", "spine2": "spine_02", "left_ankle": "foot_l", "right_ankle": "foot_r",
    "spine3": "spine_03", "left_foot": "ball_l", "right_foot": "ball_r", "neck": "neck_01",
    "left_collar": "clavicle_l", "right_collar": "clavicle_r", "head": "head", "left_shoulder": "upperarm_l",
    "right_shoulder": "upperarm_r", "left_elbow": "lowerarm_l", "right_elbow": "lowerarm_r", "left_wrist": "hand_l",
    "right_wrist": "hand_r",
}  # fmt: skip
METARIG = {
    "pelvis": "spine", "left_hip": "thigh.L", "right_hip": "thigh.R", "spine1": "spine.001", "left_knee": "shin.L",
    "right_knee": "shin.R", "spine2": "spine.002", "left_ankle": "foot.L", "right_ankle": "foot.R",
    "spine3": "spine.003", "left_foot": "toe.L", "right_foot": "toe.R", "neck": "spine.004",
    "left_collar": "shoulder.L", "right_collar": "shoulder.R", "head": "spine.006", "left_shoulder": "upper_arm.L",
    "right_shoulder": "upper_arm.R", "left_elbow": "forearm.L", "right_elbow": "forearm.R", "left_wrist": "hand.L",
    "right_wrist": "hand.R",
}  # fmt: skip


def named(names: dict[str, str], prefix: str = "") -> Rig:
    return replace(rig(), names=tuple(prefix + names[joint] for joint in JOINTS))


def found(of: Rig) -> dict[str, str]:
    return {joint: of.names[row] for joint, row in map_bones(of).joints.items()}


@pytest.mark.parametrize("prefix", ["", "mixamorig:", "mixamorig1:", "mixamorig", "Hero|", "Neo_", "Bip01 ", "DEF-"])
@pytest.mark.parametrize("names", [MIXAMO, UNREAL, METARIG], ids=["mixamo", "unreal", "rigify"])
def test_all_22_joints_with_any_prefix(names: dict[str, str], prefix: str) -> None:
    of = named(names, prefix)
    assert found(of) == {joint: prefix + name for joint, name in names.items()}


def test_other_case_and_punctuation() -> None:
    of = named({joint: name.upper().replace("_", ".") for joint, name in UNREAL.items()})
    assert found(of)["left_hip"] == "THIGH.L"


def test_every_preset_names_only_joints_and_legs_and_arms() -> None:
    for preset in load_presets():
        assert {"left_hip", "right_knee", "left_shoulder", "right_elbow"} <= set(preset.names), preset.name
        assert set(preset.names) <= set(JOINTS), preset.name
        for names in preset.names.values():
            assert all(plain(name) for name in names), preset.name
    assert {"Mixamo", "Unreal mannequin", "Rigify"} <= {preset.name for preset in load_presets()}


def without(of: Rig, *names: str) -> Rig:
    """The rig without some bones; what hung on them hangs on their parents."""
    keep = [row for row, name in enumerate(of.names) if name not in names]
    place = {row: new for new, row in enumerate(keep)}
    parents = [next((place[up] for up in of.line(row)[1:] if up in place), -1) for row in keep]
    cut = {field: getattr(of, field)[keep] for field in ("rest", "tails", "use_local_location", "connected")}
    return replace(
        of,
        names=tuple(of.names[row] for row in keep),
        parents=np.array(parents),
        inherit_rotation=np.ones(len(keep), bool),
        owned=np.zeros(len(keep), bool),
        **cut,
    )


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["LeftUpLeg"], "left leg"),
        (["LeftUpLeg", "RightLeg"], "left leg and no right leg"),
        (["RightForeArm"], "right arm"),
    ],
)
def test_what_is_missing_is_named(missing: list[str], words: str) -> None:
    of = without(named(MIXAMO), *missing)
    with pytest.raises(HeroError, match=f"no {words}"):
        map_bones(of)


def test_a_prop_is_no_human() -> None:
    whole = replace(rig(), names=tuple(f"Bone.{row:03d}" for row in range(22)))
    of = without(whole, *whole.names[10:])
    with pytest.raises(HeroError, match="left arm and no right arm"):
        map_bones(of)


def test_missing_toes_collars_neck_and_spine_bones_are_left_out() -> None:
    names = ["LeftToeBase", "RightToeBase", "LeftShoulder", "RightShoulder", "Neck", "Spine1"]
    of = without(named(MIXAMO), *names)
    joints = found(of)
    assert set(JOINTS) - set(joints) == {
        "left_foot", "right_foot", "left_collar", "right_collar", "neck", "spine2",
    }  # fmt: skip
    assert (joints["spine1"], joints["spine3"]) == ("Spine", "Spine2")


def test_a_limb_that_hangs_elsewhere_is_refused() -> None:
    of = named(MIXAMO)
    parents = of.parents.copy()
    parents[of.index["LeftLeg"]] = of.index["Head"]
    with pytest.raises(HeroError, match="'LeftLeg' does not hang below 'LeftUpLeg'"):
        map_bones(replace(of, parents=parents))


def test_split_limbs_and_long_spines_turn_as_segments() -> None:
    """Bones between two mapped ones belong to the upper segment: two-part thighs, six spine bones."""
    of = named(MIXAMO)
    names, parents = list(of.names), list(of.parents)
    rows = list(range(22))

    def insert(name: str, above: str) -> None:  # a bone between ``above`` and its mapped child
        child = {"LeftUpLeg": "LeftLeg", "Spine2": None}[above]
        names.append(name)
        parents.append(names.index(above))
        rows.append(names.index(above))
        if child:
            parents[names.index(child)] = len(names) - 1

    insert("LeftUpLegPart2", "LeftUpLeg")
    insert("Belly", "Spine2")
    order = [*range(2), 22, *range(2, 22), 23]  # parents first
    place = {old: new for new, old in enumerate(order)}
    of = replace(
        of,
        names=tuple(names[o] for o in order),
        parents=np.array([place[parents[o]] if parents[o] >= 0 else -1 for o in order]),
        **{f: getattr(of, f)[[rows[o] for o in order]] for f in ("rest", "tails", "use_local_location", "connected")},
        inherit_rotation=np.ones(24, bool),
        owned=np.zeros(24, bool),
    )
    bones = map_bones(of)
    assert [of.names[row] for row in bones.segments["left_hip"]] == ["LeftUpLeg", "LeftUpLegPart2"]
    assert [of.names[row] for row in bones.spine] == ["Spine", "Spine1", "Spine2"]


def test_a_broken_preset_says_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{", encoding="utf-8")
    with pytest.raises(HeroError, match=r"mine\.json"):
        load_presets(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps({"name": "x", "joints": {"tail": ["Tail"]}}), encoding="utf-8")
    with pytest.raises(HeroError, match="no joint is called tail"):
        load_presets(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps({"name": "x", "joints": {"hip": "Thigh"}}), encoding="utf-8")
    with pytest.raises(HeroError, match="no list"):
        load_presets(tmp_path)


def test_a_folder_of_ones_own_may_be_empty_and_the_shipped_one_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_presets(tmp_path) == ()
    monkeypatch.setattr(mapping, "presets_folder", lambda: tmp_path)
    with pytest.raises(HeroError, match="no rig presets"):
        load_presets()
