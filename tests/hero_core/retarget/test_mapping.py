# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from humans import Build, human
from skeletons import MIXAMO, rig

from hero_core.errors import HeroError
from hero_core.motion import JOINTS
from hero_core.retarget import Preset, Rig, load_presets, map_bones, mapping
from hero_core.retarget.mapping import partial_map, read_map, resolve, write_map
from hero_core.retarget.names import plain
from hero_core.retarget.vrm import read_vrm, vrm_map

PARTS = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")

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


def built(preset: Preset) -> tuple[Rig, dict[str, str]]:
    """A body whose bones have the first names of a preset, with bones between them that others have there, too."""
    build = Build(hand=2, arms=35, hip_helpers=True, root=True, face=True, twists=True)
    of, joints = human(build)
    new = {bone: preset.names[joint][0] for joint, bone in joints.items() if preset.names.get(joint)}
    spine = [joints[f"spine{number}"] for number in (1, 2, 3)]
    new |= dict(zip(spine, preset.spine, strict=False))
    free = [name for name in preset.needs if name not in new.values()]
    names = [new.get(name, f"zz{row}") for row, name in enumerate(of.names)]
    helpers = [row for row, name in enumerate(names) if name.startswith("zz")]
    for row, name in zip(helpers[-len(free) :] if free else [], free, strict=True):
        names[row] = name
    named = replace(of, names=tuple(names))
    return named, {joint: new[bone] for joint, bone in joints.items() if bone in new}


@pytest.mark.parametrize("prefix", ["", "Hero:", "Armature_"])
@pytest.mark.parametrize("preset", load_presets(), ids=lambda preset: preset.name)
def test_every_preset_finds_its_kind(preset: Preset, prefix: str) -> None:
    of, joints = built(preset)
    of = replace(of, names=tuple(prefix + name for name in of.names))
    bones = map_bones(of)
    got = {joint: of.names[row] for joint, row in bones.joints.items()}
    wanted = {joint: prefix + name for joint, name in joints.items()}
    assert {joint: got.get(joint) for joint in wanted} == wanted
    limbs = [joint for joint in got if joint in preset.names and not joint.startswith("spine")]
    assert {bones.how[joint] for joint in limbs} == {f"preset {preset.name}"}
    assert all(bones.sure[joint] > 0.95 for joint in limbs)


NAMES = {
    "Kinect": ("{Side}", ["Hip{s}", "Knee{s}", "Ankle{s}", "Foot{s}", None, "Shoulder{s}", "Elbow{s}", "Wrist{s}"]),
    "Maya": ("l", ["{s}_leg_hip_jnt", "{s}_leg_knee_jnt", "{s}_leg_ankle_jnt", "{s}_leg_ball_jnt",
                   "{s}_arm_clavicle_jnt", "{s}_arm_shoulder_jnt", "{s}_arm_elbow_jnt", "{s}_arm_wrist_jnt"]),
    "by hand": ("L", ["Leg_Upper.{s}", "Leg_Lower.{s}", "Foot.{s}", "Toes.{s}", "Shoulder.{s}", "Arm_Upper.{s}",
                      "Arm_Lower.{s}", "Hand.{s}"]),
    "short": ("l", ["{s}thigh", "{s}calf", "{s}foot", "{s}toe", "{s}clav", "{s}uparm", "{s}lowarm", "{s}hand"]),
    "Blender": ("L", ["leg.{s}", "shin.{s}", "ankle.{s}", "ball.{s}", "collarbone.{s}", "arm.{s}", "forearm.{s}",
                      "hand.{s}.001"]),
    "Japanese": ("左", ["{s}太もも", "{s}膝", "{s}足首", "{s}つま先", "{s}肩", "{s}上腕", "{s}前腕", "{s}手"]),
    "behind": ("左", ["大腿_{s}", "小腿_{s}", "脚_{s}", "脚趾_{s}", "锁骨_{s}", "上臂_{s}", "前臂_{s}", "手_{s}"]),
    "full width": ("左", ["ＵｐｐｅｒＬｅｇ{s}", "ＬｏｗｅｒＬｅｇ{s}", "Ｆｏｏｔ{s}", "Ｔｏｅ{s}",
                        "Ｓｈｏｕｌｄｅｒ{s}", "ＵｐｐｅｒＡｒｍ{s}", "Ｅｌｂｏｗ{s}", "Ｈａｎｄ{s}"]),
}  # fmt: skip


# pelvis, hip, knee, ankle, foot, three of the spine, neck, head, collar, shoulder, elbow, wrist; then the sides.
WILD = {
    "LAFAN1": "Hips {}UpLeg {}Leg {}Foot {}Toe Spine Spine1 Spine2 Neck Head {}Shoulder {}Arm {}ForeArm {}Hand "
    "Left Right",
    "Bandai Namco": "Hips UpperLeg_{} LowerLeg_{} Foot_{} Toes_{} Spine Chest UpperChest Neck Head Shoulder_{} "
    "UpperArm_{} LowerArm_{} Hand_{} L R",
    "100STYLE": "Hips {}Hip {}Knee {}Ankle {}Toe Chest Chest2 Chest3 Neck Head {}Collar {}Shoulder {}Elbow {}Wrist "
    "Left Right",
    "Rokoko": "Hips {}Thigh {}Shin {}Foot {}Toe Spine1 Spine2 Spine3 Neck Head {}Shoulder {}Arm {}ForeArm {}Hand "
    "Left Right",
    "OptiTrack": "Hip {}Thigh {}Shin {}Foot {}Toe Ab Spine2 Chest Neck Head {}Shoulder {}UArm {}FArm {}Hand L R",
    "Source": "ValveBiped.Bip01_Pelvis ValveBiped.Bip01_{}_Thigh ValveBiped.Bip01_{}_Calf ValveBiped.Bip01_{}_Foot "
    "ValveBiped.Bip01_{}_Toe0 ValveBiped.Bip01_Spine ValveBiped.Bip01_Spine1 ValveBiped.Bip01_Spine2 "
    "ValveBiped.Bip01_Neck1 ValveBiped.Bip01_Head1 ValveBiped.Bip01_{}_Clavicle ValveBiped.Bip01_{}_UpperArm "
    "ValveBiped.Bip01_{}_Forearm ValveBiped.Bip01_{}_Hand L R",
    "Advanced Skeleton": "Root_M Hip_{} Knee_{} Ankle_{} Toes_{} Spine1_M Spine2_M Chest_M Neck_M Head_M Scapula_{} "
    "Shoulder_{} Elbow_{} Wrist_{} L R",
    "Maya": "C_pelvis_jnt {}_hip_jnt {}_knee_jnt {}_ankle_jnt {}_ball_jnt C_spine01_jnt C_spine02_jnt C_spine03_jnt "
    "C_neck_jnt C_head_jnt {}_clavicle_jnt {}_shoulder_jnt {}_elbow_jnt {}_wrist_jnt L R",
    "R15": "LowerTorso {}UpperLeg {}LowerLeg {}Foot {}ToeBase Waist UpperTorso Chest Neck Head {}Clavicle {}UpperArm "
    "{}LowerArm {}Hand Left Right",
    "Synty": "Hips UpperLeg_{} LowerLeg_{} Ankle_{} Ball_{} Spine_01 Spine_02 Spine_03 Neck Head Clavicle_{} "
    "Shoulder_{} Elbow_{} Hand_{} L R",
    "Quaternius": "Hips UpperLeg.{} LowerLeg.{} Foot.{} Toes.{} Abdomen Torso Chest Neck Head Shoulder.{} UpperArm.{} "
    "LowerArm.{} Palm.{} L R",
    "CAT": "CATPelvis CAT{}LegThigh CAT{}LegCalf CAT{}LegAnkle CAT{}LegToe CATSpine1 CATSpine2 CATRibcage CATNeck "
    "CATHead CAT{}ArmCollarbone CAT{}ArmUpperArm CAT{}ArmForearm CAT{}ArmPalm L R",
    "Human3.6M": "Hip {}Hip {}Knee {}Foot {}ToeBase Spine Spine1 Thorax Neck Head {}Collar {}Shoulder {}Elbow {}Wrist "
    "L R",
    "German": "Becken Oberschenkel_{} Unterschenkel_{} Fuss_{} Zehen_{} Wirbel1 Wirbel2 Brust Hals Kopf Schluessel_{} "
    "Oberarm_{} Unterarm_{} Hand_{} L R",
    "Spanish": "cadera muslo_{} pierna_{} pie_{} dedos_{} columna1 columna2 pecho cuello cabeza clavicula_{} brazo_{} "
    "antebrazo_{} mano_{} izq der",
    "mGear": "spine_C0_pelvis_jnt leg_{}0_0_jnt leg_{}0_1_jnt leg_{}0_end_jnt foot_{}0_0_jnt spine_C0_0_jnt "
    "spine_C0_1_jnt spine_C0_2_jnt neck_C0_0_jnt neck_C0_head_jnt shoulder_{}0_shoulder_jnt arm_{}0_0_jnt "
    "arm_{}0_1_jnt arm_{}0_end_jnt L R",
    "toes by name": "Pelvis_M Hip_{} Knee_{} Ankle_{} MiddleToe1_{} BackA_M BackB_M Chest_M Neck_M Head_M Scapula_{} "
    "Shoulder_{} Elbow_{} Wrist_{} L R",
    "said twice": "NPC_Pelvis NPC_{}_Thigh_[{}Thg] NPC_{}_Calf_[{}Clf] NPC_{}_Foot_[{}Foot] NPC_{}_Toe0_[{}Toe] "
    "NPC_Spine_[Spn0] NPC_Spine1_[Spn1] NPC_Spine2_[Spn2] NPC_Neck_[Neck] NPC_Head_[Head] NPC_{}_Clavicle_[{}Clv] "
    "NPC_{}_UpperArm_[{}Uar] NPC_{}_Forearm_[{}Lar] NPC_{}_Hand_[{}Hnd] L R",
    "short": "HIPS {}_UprLeg {}_LwrLeg {}_Foot {}_Ball SPINE1 SPINE2 SPINE3 NECK HEAD {}_Clav {}_UprArm {}_LoArm "
    "{}_Hand L R",
    "called Head": "Head_Pelvis Head_Thigh.{} Head_Leg.{} Head_Foot.{} Head_Toe.{} Head_Spine Head_Spine1 Head_Chest "
    "Head_Neck Head_Head Head_Shoulder.{} Head_Arm.{} Head_Forearm.{} Head_Hand.{} L R",
    "Chinese": "骨盆 {}大腿 {}小腿 {}脚 {}脚尖 脊椎1 脊椎2 胸 脖子 头 {}锁骨 {}上臂 {}前臂 {}手 左 右",
}


@pytest.mark.parametrize("kind", WILD)
def test_conventions_that_have_no_preset(kind: str) -> None:
    *names, left, right = WILD[kind].split()
    middle = dict(zip(("spine1", "spine2", "spine3", "neck", "head"), names[5:10], strict=True))
    wanted = {"pelvis": names[0], **middle}
    for side, text in (("left", left), ("right", right)):
        for part, name in zip(PARTS, names[1:5] + names[10:], strict=True):
            wanted[f"{side}_{part}"] = name.replace("{}", text)
    assert found(named(wanted)) == wanted


@pytest.mark.parametrize("kind", NAMES)
def test_words_are_enough_without_a_preset(kind: str) -> None:
    tag, parts = NAMES[kind]
    other = {"{Side}": ("Left", "Right"), "l": ("l", "r"), "L": ("L", "R"), "左": ("左", "右")}[tag]
    of, joints = human(Build(hand=2, collars=parts[4] is not None))
    new = {joints["pelvis"]: "hips", joints["head"]: "head", joints["neck"]: "neck"}
    for side, text in zip(("left", "right"), other, strict=True):
        for part, name in zip(PARTS, parts, strict=True):
            if name is not None:
                new[joints[f"{side}_{part}"]] = name.format(s=text)
    of = replace(
        of, names=tuple(new.get(name, f"b{row}" if "finger" in name else name) for row, name in enumerate(of.names))
    )
    bones = map_bones(of)
    wanted = {joint: new.get(bone, bone) for joint, bone in joints.items()}
    assert {joint: of.names[row] for joint, row in bones.joints.items()} == wanted
    assert {bones.how[joint] for joint in joints if "_" in joint} == {"name"}
    assert all(0.8 < bones.sure[joint] < 1.0 for joint in joints if "_" in joint)


def test_a_head_and_hands_of_unusual_names_are_found_by_where_they_are() -> None:
    of = named({**MIXAMO, "head": "Kopf", "neck": "Hals", "left_wrist": "Pfote", "right_wrist": "Palm.R"})
    bones = map_bones(of)
    assert bones.bones(of)["head"] == "Kopf" and bones.bones(of)["neck"] == "Hals"
    assert bones.bones(of)["left_wrist"] == "Pfote" and bones.bones(of)["right_wrist"] == "Palm.R"
    assert [bones.how[joint] for joint in ("head", "left_wrist", "right_wrist")] == ["structure", "structure", "name"]


def test_feet_and_toes_of_unusual_names_are_found_on_legs_that_look_as_they_are_named() -> None:
    of = named({**UNREAL, "left_ankle": "UpperFoot.L", "right_ankle": "UpperFoot.R", "left_foot": "LowerFoot.L",
                "right_foot": "LowerFoot.R"})  # fmt: skip
    bones = map_bones(of)
    for side, text in (("left", "L"), ("right", "R")):
        for joint, name in (("ankle", "UpperFoot"), ("foot", "LowerFoot")):
            assert bones.bones(of)[f"{side}_{joint}"] == f"{name}.{text}"
            assert bones.how[f"{side}_{joint}"] == "structure" and bones.sure[f"{side}_{joint}"] < 0.85


@pytest.mark.parametrize("name", ["foot_end_{}", "foot_{}_leaf", "heel_helper_{}", "foot_{}_nub"])
def test_the_end_of_a_foot_is_no_toe(name: str) -> None:
    words = {**UNREAL, "left_hip": "Thigh L", "right_hip": "Thigh R"}
    of = named({**words, "left_foot": name.format("l"), "right_foot": name.format("r")})
    assert not {"left_foot", "right_foot"} & set(map_bones(of).joints)


def test_a_neck_that_holds_the_face_is_the_head() -> None:
    of, joints = human(Build(hand=2, face=True))
    new = {joints["neck"]: "Root_T", joints["head"]: "Neck"}
    bones = map_bones(replace(of, names=tuple(new.get(name, name) for name in of.names)))
    assert (of.names[bones.joints["neck"]], of.names[bones.joints["head"]]) == ("neck1", "head")
    assert bones.how["head"] == "structure" and bones.sure["head"] < 0.85


def test_parts_of_a_shoulder_are_no_arm() -> None:
    of, joints = human(Build(hand=2, split=2, collars=False))
    new = {joint: joint for joint in joints.values()}
    for side in ("left", "right"):
        new[f"{side}_upper_arm"], new[f"{side}_upper_arm_part1"] = f"Shoulder_{side}", f"ShoulderPart1_{side}"
        new[f"{side}_forearm"], new[f"{side}_forearm_part1"] = f"Elbow_{side}", f"ElbowPart1_{side}"
    of = replace(of, names=tuple(new.get(name, name) for name in of.names))
    for side in ("left", "right"):
        assert found(of)[f"{side}_shoulder"] == f"Shoulder_{side}"
        assert found(of)[f"{side}_elbow"] == f"Elbow_{side}"
        assert f"{side}_collar" not in found(of)


@pytest.mark.parametrize(("left", "right"), [("L", "R"), ("izq", "derecha"), ("links", "rechts"), ("gauche", "droite")])
def test_sides_that_names_say_go_before_those_that_the_body_shows(left: str, right: str) -> None:
    """A body without toes and as flat as a board, turned away from the viewer, and a word for the side in its names."""
    of, joints = human(Build(toes=False))
    rest, turn = of.rest.copy(), np.diag([-1.0, 0.0, 1.0])
    rest[:, :3, 3] = of.heads @ turn
    text = {"left": left, "right": right}
    names = [f"Bone.{row:03d}." + text.get(name.split("_")[0], "") for row, name in enumerate(of.names)]
    bones = map_bones(replace(of, names=tuple(names), rest=rest, tails=of.tails @ turn))
    assert {joint: of.names[row] for joint, row in bones.joints.items()} == joints
    assert set(bones.how.values()) == {"structure"} and bones.sure["left_hip"] > 0.5


def moved(of: Rig, parents: dict[str, str | None], *more: tuple[str, str | None, Any]) -> Rig:
    """The rig with other parents, and with more bones: name, parent, where; parents before children."""
    names = [*of.names, *(name for name, *_ in more)]
    above = {name: of.names[row] if row >= 0 else None for name, row in zip(of.names, of.parents, strict=True)}
    above |= {name: parent for name, parent, _ in more} | parents
    order: list[str] = []
    while len(order) < len(names):
        order += [name for name in names if name not in order and (above[name] is None or above[name] in order)]
    rest = np.tile(np.eye(4), (len(names), 1, 1))
    rest[:, :3, 3] = [*of.heads, *(np.array(at, float) for *_, at in more)]
    tails = np.array([*of.tails, *(np.array(at, float) + [0, 0, 0.1] for *_, at in more)])
    rows = [names.index(name) for name in order]
    yes = np.ones(len(rows), bool)
    return replace(
        of,
        names=tuple(order),
        parents=np.array([order.index(str(above[name])) if above[name] else -1 for name in order]),
        rest=rest[rows],
        tails=tails[rows],
        use_local_location=yes,
        connected=~yes,
        inherit_rotation=yes,
        owned=~yes,
    )


def test_the_spine_begins_below_all_bones_that_carry_legs_and_chest() -> None:
    """MikuMikuDance: 全ての親, センター and グルーブ above 腰, the waist; 下半身 holds the legs beside the spine."""
    of, joints = human(Build(hand=2))
    above = [
        ("全ての親", None, (0, 0, 0)),
        ("センター", "全ての親", (0, 0, 0.6)),
        ("グルーブ", "センター", (0, 0, 0.62)),
    ]
    of = moved(of, {"spine0": "腰", "pelvis": "腰"}, *above, ("腰", "グルーブ", (0, 0, 0.95)))
    preset = next(each for each in load_presets() if each.name == "MikuMikuDance")
    new = {bone: preset.names[joint][0] for joint, bone in joints.items() if "_" in joint or joint in ("neck", "head")}
    new |= {"pelvis": "下半身", "spine0": "上半身", "spine1": "上半身2", "spine2": "上半身3"}
    for waist in ("腰", "W"):
        named = replace(of, names=tuple({**new, "腰": waist}.get(name, name) for name in of.names))
        bones = map_bones(named)
        got = found(named)
        assert [got[f"spine{number}"] for number in (1, 2, 3)] == ["上半身", "上半身2", "上半身3"]
        assert got["pelvis"] == ("腰" if waist == "腰" else "センター")
        assert len(bones.joints) == 22


@pytest.mark.parametrize("root", [True, False])
def test_hips_that_hold_only_the_legs_beside_the_spine(root: bool) -> None:
    of, joints = human(Build(hand=2, root=root))
    of = moved(of, {"spine0": "root" if root else None})
    assert found(of) == joints


def test_the_lowest_piece_of_the_spine_is_the_pelvis_where_legs_hang_on_nothing() -> None:
    of, joints = human(Build(hand=2))
    of = without(moved(of, {"left_thigh": None, "right_thigh": None, "spine0": None}), "pelvis")
    got = found(of)
    assert (got["pelvis"], got["spine1"], got["spine3"]) == ("spine0", "spine1", "spine2")
    assert {joint: bone for joint, bone in got.items() if "_" in joint} == {
        joint: bone for joint, bone in joints.items() if "_" in joint
    }


LOW_POLY = {
    "pelvis": "Hips", "spine0": "Abdomen", "spine1": "Torso", "spine2": "Chest", "neck1": "Neck", "head": "Head",
    **{
        f"{side}_{bone}": f"{name}.{text}"
        for side, text in (("left", "L"), ("right", "R"))
        for bone, name in (("thigh", "UpperLeg"), ("shin", "LowerLeg"), ("foot", "Foot"), ("toe", "Toes"),
                           ("collar", "Shoulder"), ("upper_arm", "UpperArm"), ("forearm", "LowerArm"), ("hand", "Fist"))
    },
}  # fmt: skip


def low_poly(*more: tuple[str, str | None, Any], **parents: str | None) -> tuple[Rig, dict[str, str]]:
    of, joints = human(Build(arms=40, root=True))
    of = moved(of, dict(parents), *more)
    return replace(of, names=tuple(LOW_POLY.get(name, name) for name in of.names)), {
        joint: LOW_POLY.get(bone, bone) for joint, bone in joints.items()
    }


def test_feet_that_hang_on_the_root_are_feet_where_the_legs_end() -> None:
    of, joints = low_poly(left_foot="root", right_foot="root")
    bones = map_bones(of)
    assert found(of) == joints
    assert [of.names[row] for row in bones.segments["left_knee"]] == ["LowerLeg.L"]


def test_feet_that_hang_on_the_root_elsewhere_are_none() -> None:
    of, joints = low_poly(left_foot="root", right_foot="root")
    rest = of.rest.copy()
    for row, name in enumerate(of.names):
        if name.startswith(("Foot", "Toes")):
            rest[row, 2, 3] += 1.5
    got = found(replace(of, rest=rest))
    assert set(joints) - set(got) == {f"{side}_{part}" for side in ("left", "right") for part in ("ankle", "foot")}
    owned = np.array([name.startswith("Foot") for name in of.names])
    assert "left_ankle" not in found(replace(of, owned=owned))


def test_poles_and_targets_with_the_names_of_joints_are_none() -> None:
    """Riggers call them "Knee.L", "Hand.L": what hangs where the joint does is the joint."""
    targets = [
        (f"{name}.{text}", None, (sign * x, y, z))
        for sign, text in ((1, "L"), (-1, "R"))
        for name, x, y, z in (
            ("Knee", 0.1, -1, 0.5),
            ("Elbow", 0.4, 1, 1.2),
            ("Hand", 0.5, 0, 1),
            ("Ankle", 0.1, 0, 0.1),
        )
    ]
    of, joints = low_poly(*targets)
    assert found(of) == joints
    names = {"UpperLeg": "Thigh", "LowerLeg": "Leg", "UpperArm": "Bicep", "LowerArm": "Arm", "Fist": "Palm"}

    def other(name: str) -> str:
        return names.get(name[:-2], name[:-2]) + name[-2:] if name[-2:] in (".L", ".R") else name

    of = replace(of, names=tuple(other(name) for name in of.names))
    assert found(of) == {joint: other(bone) for joint, bone in joints.items()}


def test_openpose_names_bones_after_their_ends_and_others_do_not() -> None:
    of, joints = human(Build(hand=0, collars=False))
    parts = {"hip": "Hip", "knee": "Knee", "ankle": "Ankle", "foot": "BigToe", "shoulder": "Shoulder", "elbow": "Elbow"}
    new = {
        joints[f"{side}_{part}"]: f"{side[0].upper()}{name}"
        for side in ("left", "right")
        for part, name in parts.items()
    }
    of = replace(of, names=tuple(new.get(name, name) for name in of.names))
    assert of.names[map_bones(of).joints["left_hip"]] == "LHip"


def test_the_more_a_preset_knows_the_surer() -> None:
    whole, cut = named(MIXAMO), without(named(MIXAMO), "LeftToeBase", "RightToeBase", "Neck")
    assert map_bones(whole).sure["left_hip"] == 1.0
    assert 0.9 < map_bones(cut).sure["left_hip"] < 1.0


def test_bones_that_nothing_else_moves_go_first() -> None:
    """A rig with a deforming and a control chain of the same names but for the prefix."""
    one = named(UNREAL, "DEF-")
    rows = np.arange(22)
    both = replace(
        one,
        names=(*one.names, *(name.replace("DEF-", "FK-") for name in one.names)),
        parents=np.concatenate([one.parents, np.where(one.parents < 0, -1, one.parents + 22)]),
        owned=np.repeat([True, False], 22),
        **{each: getattr(one, each)[np.tile(rows, 2)] for each in (
            "rest", "tails", "use_local_location", "connected", "inherit_rotation")},
    )  # fmt: skip
    assert found(both)["left_hip"] == "FK-thigh_l"


# --- A map by the user ---


def test_what_the_user_says_goes_first() -> None:
    of, joints = human(Build(hand=2, split=2))
    given = {"left_wrist": "left_finger0_1", "neck": "", "left_elbow": "left_forearm_part1"}
    bones = map_bones(of, given)
    got = {joint: of.names[row] for joint, row in bones.joints.items()}
    assert got == {**{j: b for j, b in joints.items() if j != "neck"}, "left_wrist": "left_finger0_1",
                   "left_elbow": "left_forearm_part1"}  # fmt: skip
    assert bones.how["left_wrist"] == "user" and bones.sure["left_wrist"] == 1.0
    assert bones.how["right_wrist"] != "user"
    assert [of.names[row] for row in bones.segments["left_shoulder"]] == [
        "left_upper_arm", "left_upper_arm_part1", "left_forearm",
    ]  # fmt: skip


def test_the_spine_is_the_users_too() -> None:
    of, _ = human(Build(spine=6))
    bones = map_bones(of, {"spine1": "spine1", "spine2": "spine2", "spine3": "spine4"})
    assert [of.names[bones.joints[f"spine{n}"]] for n in (1, 2, 3)] == ["spine1", "spine2", "spine4"]
    assert [of.names[row] for row in bones.spine] == [f"spine{n}" for n in range(6)]


def test_a_map_of_all_joints_needs_nothing_else() -> None:
    """Names and places that say nothing or the wrong thing do not matter then."""
    of, joints = human(Build(hand=0, toes=False))
    rng = np.random.default_rng(0)
    of = replace(of, rest=of.rest + np.pad(rng.normal(0, 0.5, (len(of.names), 3, 1)), ((0, 0), (0, 1), (3, 0))))
    of = replace(of, names=tuple(f"Bone.{row:03d}" for row in range(len(of.names))))
    plainly, _ = human(Build(hand=0, toes=False))
    given = {joint: of.names[plainly.index[joints[joint]]] if joint in joints else "" for joint in JOINTS}
    bones = map_bones(of, given)
    assert bones.bones(of) == given
    assert set(bones.how.values()) == {"user"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"left_hip": "nothing"}, "no bone 'nothing' for the left hip; pick another"),
        ({"tail": "LeftUpLeg"}, "names a joint 'tail'"),
        ({"left_hip": "LeftUpLeg", "right_hip": "LeftUpLeg"}, "given twice, as left hip and as right hip"),
        ({"left_hip": "LeftLeg", "left_knee": "LeftUpLeg"}, "'LeftLeg' of the left hip hangs below 'LeftUpLeg'.*swap"),
        ({"pelvis": "LeftLeg", "left_hip": "LeftUpLeg"}, "of the pelvis hangs below"),
        ({"spine1": "Spine2", "spine3": "Spine"}, "'Spine2' of the spine1 hangs below"),
        ({"left_elbow": "RightForeArm"}, "no right arm"),
        ({"left_ankle": "RightFoot"}, r"'RightFoot' \(left ankle\).*do not hang on each other"),
        ({"left_hip": ""}, "no left leg"),
    ],
)
def test_a_map_that_cannot_be_is_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(HeroError, match=words):
        map_bones(named(MIXAMO), given)


def test_bones_in_a_circle_are_said() -> None:
    of = named(MIXAMO)
    parents = of.parents.copy()
    parents[0] = of.index["Head"]
    with pytest.raises(HeroError, match="in a circle"):
        map_bones(replace(of, parents=parents))


def test_a_limb_without_length_is_said() -> None:
    of = named(MIXAMO)
    rest = of.rest.copy()
    rest[of.index["LeftLeg"], :3, 3] = rest[of.index["LeftUpLeg"], :3, 3]
    with pytest.raises(HeroError, match="no length from left hip to knee"):
        map_bones(replace(of, rest=rest))


def test_bones_of_no_length_are_fine_where_no_limb_hangs_on_them() -> None:
    of = named(MIXAMO)
    assert map_bones(replace(of, tails=of.heads.copy())).bones(of) == map_bones(of).bones(of)


def test_a_rig_that_is_not_known_can_be_completed(tmp_path: Path) -> None:
    of = named(
        {
            joint: (name if "Leg" in name or "Up" in name else f"b{row}")
            for row, (joint, name) in enumerate(MIXAMO.items())
        }
    )
    flat = replace(of, rest=np.tile(np.eye(4), (22, 1, 1)), tails=np.zeros((22, 3)))
    with pytest.raises(HeroError, match="no left arm and no right arm"):
        map_bones(flat)
    bones, how, sure = partial_map(flat)
    assert bones["left_hip"] == "LeftUpLeg" and bones["left_elbow"] == "" and set(bones) == set(JOINTS)
    assert set(how) == set(sure) == {joint for joint, name in bones.items() if name}


# --- Map files, presets of the user's own ---


def test_a_map_is_written_and_read_again(tmp_path: Path) -> None:
    of = named({joint: f"{{{name}}} 足" for joint, name in MIXAMO.items()})
    given = dict(zip(JOINTS, of.names, strict=True)) | {"neck": ""}
    write_map(tmp_path / "mine.json", 'a "kind"', given)
    preset = read_map(tmp_path / "mine.json")
    assert preset.name == 'a "kind"'
    assert resolve(preset, of) == given
    with pytest.raises(HeroError, match=r"has no bones of the map 'a \"kind\"'"):
        resolve(preset, named(UNREAL))
    with pytest.raises(HeroError, match=r"lacks '\{LeftUpLeg\} 足'"):
        resolve(preset, without(of, "{LeftUpLeg} 足"))
    with pytest.raises(HeroError, match="no map file"):
        read_map(tmp_path / "nothing.json")


def test_a_preset_of_the_users_is_found_again_and_wins(tmp_path: Path) -> None:
    of, joints = human(Build(hand=2))
    strange = {name: f"qx{row}" for row, name in enumerate(of.names)}
    mine = replace(of, names=tuple(strange.values()))
    given = {joint: strange[bone] for joint, bone in joints.items()} | {"left_wrist": strange["left_finger0_1"]}
    write_map(tmp_path / "mine.json", "mine", given)
    bones = map_bones(mine, folders=[tmp_path / "not there", tmp_path])
    assert bones.bones(mine) == {joint: given.get(joint, "") for joint in JOINTS}
    assert bones.how["left_hip"] == "preset mine" and bones.preset.own
    # The next rig of that kind: another namespace, and a bone fewer.
    twin = replace(mine, names=tuple(f"Hero2:{name}" for name in mine.names))
    assert map_bones(twin, folders=[tmp_path]).how["left_hip"] == "preset mine"
    # It wins over a shipped one that knows more, also in what it leaves out.
    of = named(MIXAMO)
    chosen = dict(zip(JOINTS, of.names, strict=True)) | {"neck": "", "left_foot": ""}
    write_map(tmp_path / "other.json", "other", chosen)
    got = map_bones(of, folders=[tmp_path])
    assert got.preset.name == "other" and "neck" not in got.joints and "left_foot" not in got.joints
    # And it stays away from other kinds.
    assert map_bones(named(UNREAL), folders=[tmp_path]).preset.name == "Unreal mannequin"
    (tmp_path / "other.json").write_text("[]", encoding="utf-8")
    with pytest.raises(HeroError, match=r"other\.json"):
        map_bones(of, folders=[tmp_path])


# --- VRM ---


def gltf(version: int, names: dict[str, str]) -> dict[str, Any]:
    """The JSON of a VRM file whose node ``name`` is the human bone of ``names``."""
    nodes = [{"name": name} for name in names.values()]
    if version == 0:
        bones: Any = [{"bone": human, "node": row} for row, human in enumerate(names)]
        return {
            "nodes": nodes,
            "extensions": {"VRM": {"humanoid": {"humanBones": [*bones, {"bone": "jaw", "node": -1}]}}},
        }
    bones = {human: {"node": row} for row, human in enumerate(names)}
    return {"nodes": nodes, "extensions": {"VRMC_vrm": {"specVersion": "1.0", "humanoid": {"humanBones": bones}}}}


VRM_BONES = {
    "hips": "pelvis", "head": "head", "neck": "neck",
    **{f"{side}{bone}": f"{side}_{joint}" for side in ("left", "right") for bone, joint in {
        "UpperLeg": "hip", "LowerLeg": "knee", "Foot": "ankle", "Toes": "foot", "Shoulder": "collar",
        "UpperArm": "shoulder", "LowerArm": "elbow", "Hand": "wrist"}.items()},
}  # fmt: skip


def glb(data: dict[str, Any]) -> bytes:
    text = json.dumps(data).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<4sII", b"glTF", 2, 20 + len(text)) + struct.pack("<I4s", len(text), b"JSON") + text


@pytest.mark.parametrize("version", [0, 1])
def test_the_map_of_a_vrm_file(version: int, tmp_path: Path) -> None:
    of, joints = human(Build(hand=2))
    strange = {name: f"n{row}" for row, name in enumerate(of.names)}
    of = replace(of, names=tuple(strange.values()))
    bones = {human_bone: strange[joints[joint]] for human_bone, joint in VRM_BONES.items()} | {
        "leftThumbProximal": "n9"
    }
    data = gltf(version, bones)
    wanted = {VRM_BONES[human_bone]: name for human_bone, name in bones.items() if human_bone in VRM_BONES}
    assert vrm_map(data) == read_vrm(glb(data)) == wanted
    (tmp_path / "him.vrm").write_bytes(glb(data))
    (tmp_path / "him.gltf").write_text(json.dumps(data), encoding="utf-8")
    assert read_vrm(tmp_path / "him.vrm") == read_vrm(tmp_path / "him.gltf") == wanted
    found_bones = map_bones(of, own=wanted)
    assert {of.names[row] for row in found_bones.joints.values()} == {strange[bone] for bone in joints.values()}
    assert found_bones.how["left_hip"] == "VRM" and found_bones.sure["left_hip"] == 1.0
    assert found_bones.how["spine1"] == "structure"
    # What the user says goes first, here too; and a map of other bones is none.
    assert map_bones(of, {"neck": ""}, own=wanted).joints.get("neck") is None
    assert map_bones(named(MIXAMO), own=wanted).preset.name == "Mixamo"


def test_what_is_no_vrm_is_said(tmp_path: Path) -> None:
    assert vrm_map({"nodes": []}) == read_vrm(glb({"nodes": []})) == {}
    for data in (b"", b"glTF", b"glTF" + bytes(30), b"[]", b"\xff\xfe"):
        with pytest.raises(HeroError, match="no glTF or VRM file"):
            read_vrm(data)
    with pytest.raises(HeroError, match="nothing"):
        read_vrm(tmp_path / "nothing.vrm")
    broken = gltf(0, {"hips": "a"})
    broken["extensions"]["VRM"]["humanoid"]["humanBones"][0]["node"] = 7
    with pytest.raises(HeroError, match="map of human bones is broken"):
        vrm_map(broken)


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
