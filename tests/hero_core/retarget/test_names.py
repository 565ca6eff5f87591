# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_core.retarget.names import Name, is_spine, joints_of, mirror, plain, split

CASES = {
    "mixamorig:LeftUpLeg": (("up", "leg"), "left", ()),
    "Armature|mixamorig1:RightHand": (("hand",), "right", ()),
    "lfemur": (("femur",), "left", ()),
    "rhumerus": (("humerus",), "right", ()),
    "J_Bip_L_UpperLeg": (("j", "bip", "upper", "leg"), "left", ()),
    "lThighBend": (("thigh", "bend"), "left", ()),
    "r_upperarm": (("upper", "arm"), "right", ()),
    "upperarm_r": (("upper", "arm"), "right", ()),
    "upperarm.R.001": (("upper", "arm"), "right", (1,)),
    "calfl": (("calf",), "left", ()),
    "Bip001 R Toe0": (("bip", "toe"), "right", (1, 0)),
    "LHipJoint": (("hip", "joint"), "left", ()),
    "左ひざ": (("ひざ",), "left", ()),
    "足.L": (("足",), "left", ()),
    "ＬｅｆｔＡｒｍ": (("arm",), "left", ()),
    "ArmRight": (("arm",), "right", ()),
    "hand-left": (("hand",), "left", ()),
    "LEFT_HAND": (("hand",), "left", ()),
    "CC_Base_NeckTwist01": (("cc", "base", "neck", "twist"), None, (1,)),
    "RL_BoneRoot": (("rl", "bone", "root"), None, ()),
    "collar": (("collar",), None, ()),
    "shoulder": (("shoulder",), None, ()),
    "ball": (("ball",), None, ()),
    "LeftRightRoll": (("roll",), None, ()),
    "muslo_izq": (("muslo",), "left", ()),
    "Oberschenkel rechts": (("oberschenkel",), "right", ()),
    "bigtoe_01_l": (("big", "toe"), "left", (1,)),
    "": ((), None, ()),
    "...": ((), None, ()),
}


@pytest.mark.parametrize("name", CASES)
def test_names_are_taken_apart(name: str) -> None:
    assert split(name) == Name(*CASES[name])


WAYS = [
    "{Side}{Word}", "{Word}{Side}", "{Side}_{Word}", "{word}_{l}", "{l}_{word}", "{word}.{L}", "{word}-{L}",
    "{L} {Word}",
    "{l}{Word}", "{Word}_{Side}", "{word}.{side}", "{sign}{word}", "{word}_{sign}", "rig:{Side}{Word}", "{l}{lower}",
    "{side}{lower}", "{word}.{L}.002", "{word}{L}", "X_{L}_{Word}",
]  # fmt: skip
PARTS = [
    "UpperArm",
    "ForeArm",
    "Hand",
    "Thigh",
    "Shin",
    "Foot",
    "Toe",
    "Clavicle",
    "UpLeg",
    "LowerLeg",
    "Knee",
    "Elbow",
]


@given(way=st.sampled_from(WAYS), part=st.sampled_from(PARTS), right=st.booleans())
def test_sides_in_every_convention(way: str, part: str, right: bool) -> None:
    def name(right: bool) -> str:
        side, short, sign = ("right", "r", "右") if right else ("left", "l", "左")
        snake = {"UpperArm": "upper_arm", "ForeArm": "fore_arm", "UpLeg": "up_leg", "LowerLeg": "lower_leg"}
        return way.format(
            Side=side.capitalize(), side=side, L=short.upper(), l=short, sign=sign, Word=part, lower=part.lower(),
            word=snake.get(part, part.lower()),
        )  # fmt: skip

    one, other = name(right), name(not right)
    assert split(one).side == ("right" if right else "left")
    assert split(one).words == split(other).words
    assert mirror(one, ["Hips", other, one]) == other
    assert mirror(one, [one, "Head"]) is None


@given(st.text())
def test_any_text_is_a_name(name: str) -> None:
    seen = split(name)
    assert seen.side in (None, "left", "right")
    assert all(word and word == word.lower() for word in seen.words) or not name.isascii()
    assert isinstance(plain(name), str)
    joints_of([name, name], [-1, 0])
    mirror(name, [name])


def test_the_partner_is_spelled_alike() -> None:
    assert mirror("hand_l", ["HandR", "hand_r", "HandL"]) == "hand_r"
    assert mirror("Spine", ["Spine"]) is None
    assert mirror("finger_01_l", ["finger_02_r", "finger_01_r"]) == "finger_01_r"


def joints(names: str) -> dict[str, str]:
    """Of a chain of bones."""
    listed = names.split(",")
    found = joints_of(listed, list(range(-1, len(listed) - 1)))
    return {joint: listed[row] for joint, (row, _) in found.items()}


def test_words_that_mean_one_bone_here_and_another_there() -> None:
    assert joints("L_Shoulder,L_Arm,L_Forearm,L_Hand") == {
        "left_collar": "L_Shoulder", "left_shoulder": "L_Arm", "left_elbow": "L_Forearm", "left_wrist": "L_Hand",
    }  # fmt: skip
    assert joints("L_Collar,L_Shoulder,L_Elbow") == {
        "left_collar": "L_Collar", "left_shoulder": "L_Shoulder", "left_elbow": "L_Elbow",
    }  # fmt: skip
    assert joints("arm left shoulder 1,arm left shoulder 2,arm left elbow,arm left wrist") == {
        "left_collar": "arm left shoulder 1", "left_shoulder": "arm left shoulder 2", "left_elbow": "arm left elbow",
        "left_wrist": "arm left wrist",
    }  # fmt: skip
    assert joints("L_UpLeg,L_Leg,L_Foot") == {"left_hip": "L_UpLeg", "left_knee": "L_Leg", "left_ankle": "L_Foot"}
    assert joints("L_Leg,L_Knee,L_Foot") == {"left_hip": "L_Leg", "left_knee": "L_Knee", "left_ankle": "L_Foot"}
    assert joints("L_Hip,L_Knee,L_Ankle,L_Foot") == {
        "left_hip": "L_Hip", "left_knee": "L_Knee", "left_ankle": "L_Ankle", "left_foot": "L_Foot",
    }  # fmt: skip
    assert joints("Hip,L_Thigh,L_Calf") == {"pelvis": "Hip", "left_hip": "L_Thigh", "left_knee": "L_Calf"}


def test_helpers_are_not_the_bones_that_they_help() -> None:
    names = "L_Thigh_Twist,L_Thigh,IK_Foot_L,L_Foot,L_Foot_Roll,HandIndex1.L,Hand.L,L_Toe_End,L_Toe,eye.L,forehead,head"
    assert set(joints(names).values()) == {"L_Thigh", "L_Foot", "Hand.L", "L_Toe", "head"}


def test_a_prefix_that_all_share_says_nothing_and_another_word_makes_it_less_sure() -> None:
    names = ["Bob_Hips", "Bob_L_Thigh", "Bob_L_Shin", "Bob_L_Shin_Fancy"]
    assert joints_of(names, [-1, 0, 1, 2])["left_knee"] == (2, 1.0)
    assert joints_of([*names[:2], names[3]], [-1, 0, 1])["left_knee"] == (2, 0.75)


def test_spine_words() -> None:
    assert all(is_spine(name) for name in ("Spine1", "chest", "UpperChest", "abdomenLower", "上半身2", "Bip01 Spine"))
    assert not any(is_spine(name) for name in ("Neck", "L_Hand", "breast.L", "Spine_Twist", ""))
