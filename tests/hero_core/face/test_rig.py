# SPDX-License-Identifier: GPL-3.0-or-later
"""Which shape key shows what: presets, spellings, maps as files, VRM's expressions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_core.errors import HeroError
from hero_core.face import rig
from hero_core.face.reaction import ARKIT
from hero_core.face.rig import CHANNELS, BoneRow, FaceMap, map_face, match_keys, read_preset, write_map

PRESETS = {preset.name: preset for preset in rig.load_presets()}


def test_what_ships_is_sound() -> None:
    assert {"ARKit", "Rigify Face", "Rigify Skin Face", "MetaHuman", "VRM", "VRoid", "Action Units"} <= PRESETS.keys()
    for preset in PRESETS.values():
        names = [rig.plain(name) for row in preset.keys for name in row.names]
        assert len(names) == len(set(names)), preset.name  # a key shows one thing
        for each in (*preset.keys, *preset.bones):
            assert each.sources and set(each.sources) <= set(CHANNELS)
    assert {name for row in PRESETS["ARKit"].keys for name in row.sources} == set(ARKIT)
    for name in ("MetaHuman", "Character Creator"):
        shown = {source for row in PRESETS[name].keys for source in row.sources}
        assert len(shown & set(ARKIT)) >= 48, name


@given(
    before=st.text("abcXYZ019_.:", max_size=12),
    after=st.text("abcXYZ019_.", max_size=8),
    case=st.sampled_from([str, str.upper, str.lower, lambda n: n[0].upper() + n[1:]]),
    side=st.sampled_from([lambda n: n, lambda n: n.replace("Left", "_L").replace("Right", "_R")]),
)
def test_any_case_prefix_and_suffix(before: str, after: str, case: Any, side: Any) -> None:
    spelled = {name: before + case(side(name)) + after for name in ARKIT}
    found = match_keys(spelled.values(), PRESETS["ARKit"])
    assert len(found) == 52
    for name, text in spelled.items():
        assert found[text] == {name: 1.0}


@pytest.mark.parametrize(
    ("names", "preset"),
    [
        (["CTRL_expressions_browDownL", "CTRL_expressions_mouthCornerPullR", "CTRL_expressions_jawOpen"], "MetaHuman"),
        (["head_lod0_mesh__brow_down_L", "head_lod0_mesh__eye_blink_R", "head_lod0_mesh__jaw_open"], "MetaHuman"),
        (["Brow_Raise_Inner_L", "Mouth_Smile_L", "Eye_Blink_L", "Mouth_Up_Upper_R"], "Character Creator"),
        (["Face.M_F00_Fcl_EYE_Close_L", "Face.M_F00_Fcl_MTH_A", "Face.M_F00_Fcl_BRW_Angry"], "VRoid"),
        (["AU01", "au_12_r", "AU45 left", "au4"], "Action Units"),
        (["EyeBlinkLeft", "JawOpen", "MouthSmile_R"], "ARKit"),
    ],
)  # fmt: skip
def test_kinds_of_faces(names: list[str], preset: str) -> None:
    found = map_face(names)
    assert found.preset == preset and set(found.keys) == set(names)


def test_names_that_only_hold_others_are_not_taken() -> None:
    assert not match_keys(["mouthLeftCornerFix", "my_jawOpen_old2"], PRESETS["ARKit"])
    assert not map_face(["Key 1", "Key 2", "smile"]).keys
    assert not map_face(["jawOpen", "Key 2"]).keys  # one name may be an accident


def test_what_is_missing_is_said() -> None:
    found = map_face(ARKIT[:26])
    assert set(found.missing) == set(ARKIT[26:]) and all(name in found.notes()[0] for name in ARKIT[26:])
    units = map_face(["AU12_L", "AU12_R", "AU1", "AU45"])
    assert "AU12" in units.found and "AU12" not in units.missing and "AU6" in units.missing


def test_bones_for_what_no_key_shows() -> None:
    bones = [row.bone for row in PRESETS["Rigify Face"].bones] + ["master_eye.L"]
    assert map_face([], bones).preset == "Rigify Face"
    both = map_face(ARKIT, bones)
    assert both.preset == "ARKit" and not both.bones
    some = map_face([name for name in ARKIT if not name.startswith("eyeLook")], bones)
    assert {row.bone for row in some.bones} == {"eyes"}
    assert not map_face(ARKIT, bones, prefer="bones").keys and not map_face([], bones, prefer="keys").bones
    game = map_face([name for name in ARKIT if not name.startswith("eyeLook")], ["LeftEye", "RightEye", "jaw"])
    assert {row.bone for row in game.bones} == {"LeftEye", "RightEye"}  # the jaw is shown by its key


def test_right_is_left_mirrored() -> None:
    rows = {(row.bone, row.way): row.sources for row in PRESETS["Rigify Face"].bones}
    left, right = rows["lips.L", "move"]["mouthSmileLeft"], rows["lips.R", "move"]["mouthSmileRight"]
    assert np.allclose(np.array(left) * [-1, 1, 1], right)
    assert rows["lips.L", "move"]["mouthRight"] == (-0.1, 0, 0) and rows["lips.R", "move"]["mouthRight"] == (-0.1, 0, 0)


def test_a_map_is_a_file(tmp_path: Path) -> None:
    found = FaceMap(
        {"Grin é": {"mouthSmileLeft": 0.5, "AU12": 0.25}},
        (BoneRow("eyes", "look", {"AU1": (0.0, 0.5, 0.0)}, "m"), BoneRow("lid", "close", {"AU7": (1.0,)}, "b")),
        ("a", "b"),
    )  # fmt: skip
    write_map(tmp_path / "map.json", "mine", found)
    back = read_preset(tmp_path / "map.json")
    assert [(row.names, row.sources) for row in back.keys] == [(("Grin é",), found.keys["Grin é"])]
    assert back.bones == found.bones and back.unit == ("a", "b")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "neither"),
        ({"name": "x", "keys": [{"names": "a", "from": {}}]}, "list"),
        ({"name": "x", "keys": [{"names": ["a"], "from": {"smile": 1}}]}, "no channel 'smile'"),
        ({"name": "x", "keys": [{"names": ["a"], "from": {"AU1": "much"}}]}, "no number"),
        ({"name": "x", "bones": [{"bone": "a", "turn": {"AU1": [1, 2]}}]}, "3 numbers"),
        ({"name": "x", "bones": [{"bone": "a"}]}, "needs one of"),
        ({"name": "x", "bones": [{"bone": "a", "close": {"AU1": 1}}]}, "needs 'to'"),
        ({"name": "x", "keys": [], "unit": ["a"]}, "two bones"),
        ({"keys": []}, "name"),
        ([], "neither"),
    ],
)
def test_bad_presets(tmp_path: Path, data: Any, told: str) -> None:
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(HeroError, match=told):
        read_preset(tmp_path / "bad.json")
    with pytest.raises(HeroError, match=r"bad\.json"):
        rig.load_presets(tmp_path)
    with pytest.raises(HeroError, match="no face map"):
        read_preset(tmp_path / "none.json")


def test_the_users_presets_come_first(tmp_path: Path) -> None:
    data = {"name": "mine", "keys": [{"names": [name], "from": {"jawOpen": 1}} for name in ARKIT], "weight": 1.1}
    (tmp_path / "mine.json").write_text(json.dumps(data))
    assert map_face(ARKIT, folders=[tmp_path]).preset == "mine"


def test_expressions_of_vrm() -> None:
    both = rig.vrm_sources(["happy", "blink", "blink_left", "blink_right", "aa", "mine"])
    assert set(both) == {"happy", "blink_left", "blink_right", "aa"}
    assert set(rig.vrm_sources(["Joy", "Blink", "A"])) == {"Joy", "Blink", "A"}
    perfect = rig.vrm_sources(["happy", *(name.upper() for name in ARKIT)])
    assert len(perfect) == 52 and perfect["JAWOPEN"] == {"jawOpen": 1.0}
