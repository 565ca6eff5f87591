# SPDX-License-Identifier: GPL-3.0-or-later
"""Every bone of real rigs, checked by hand; and a map that the animator corrects, keeps, shares and finds again."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from humans import disguised
from skeletons import walk

from hero_core.errors import HeroError
from hero_core.motion import JOINTS, Motion
from hero_core.retarget import Rig, map_bones

bpy = pytest.importorskip("bpy")

from characters import mixamo  # noqa: E402

import hero_blender  # noqa: E402
from hero_blender import armature, bone_list, bone_map, command, rigfile, rigify  # noqa: E402

MIDDLE = ("pelvis", "spine1", "spine2", "spine3", "neck", "head")
SIDED = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")

# File: bones of the middle, bones of a side ("-": the rig has none), the texts of the sides.
RIGS: dict[str, tuple[str, str, tuple[str, str]]] = {
    "mpfb_mixamo.blend": (
        "Hips Spine Spine1 Spine2 Neck Head", "{}UpLeg {}Leg {}Foot {}ToeBase {}Shoulder {}Arm {}ForeArm {}Hand",
        ("Left", "Right"),
    ),
    "mpfb_mixamo_unity.blend": (
        "Hips Spine Spine1 Spine2 Neck Head", "{}UpLeg {}Leg {}Foot {}ToeBase {}Shoulder {}Arm {}ForeArm {}Hand",
        ("Left", "Right"),
    ),
    "mpfb_cmu_mb.blend": (
        "Hips LowerBack Spine Spine1 Neck Head", "{}UpLeg {}Leg {}Foot {}ToeBase {}Shoulder {}Arm {}ForeArm {}Hand",
        ("Left", "Right"),
    ),
    "cmu_keijiro_Base.fbx": (
        "Neo_Hips Neo_Spine Neo_Spine1 Neo_Spine2 Neo_Neck Neo_Head",
        "Neo_{}UpLeg Neo_{}Leg Neo_{}Foot Neo_{}ToeBase Neo_{}Shoulder Neo_{}Arm Neo_{}ForeArm Neo_{}Hand",
        ("Left", "Right"),
    ),
    "mpfb_game_engine.blend": (
        "pelvis spine_01 spine_02 spine_03 neck_01 head",
        "thigh_{} calf_{} foot_{} ball_{} clavicle_{} upperarm_{} lowerarm_{} hand_{}", ("l", "r"),
    ),
    "m2m_human-male.glb": (
        "pelvis spine_01 spine_02 spine_03 neck_01 head",
        "thigh_{} calf_{} foot_{} ball_{} clavicle_{} upperarm_{} lowerarm_{} hand_{}", ("l", "r"),
    ),
    "m2m_human-female.glb": (
        "pelvis spine_01 spine_02 spine_03 neck_01 head",
        "thigh_{} calf_{} foot_{} ball_{} clavicle_{} upperarm_{} lowerarm_{} hand_{}", ("l", "r"),
    ),
    "mpfb_default.blend": (
        "root spine05 spine03 spine01 neck01 head",
        "upperleg01.{} lowerleg01.{} foot.{} toe1-1.{} clavicle.{} upperarm01.{} lowerarm01.{} wrist.{}", ("L", "R"),
    ),
    "mpfb_openpose.blend": (
        "MidHip - - - Neck -", "{}Knee {}Ankle {}BigToe {}SmallToe {}Shoulder {}Elbow {}Wrist -", ("L", "R"),
    ),
    "kaykit_Knight.glb": (
        "hips spine - chest - head", "upperleg.{} lowerleg.{} foot.{} toes.{} - upperarm.{} lowerarm.{} wrist.{}",
        ("l", "r"),
    ),
    "cmu_18_01.bvh": (
        "hip lowerback upperback thorax lowerneck head",
        "{}femur {}tibia {}foot {}toes {}clavicle {}humerus {}radius {}wrist", ("l", "r"),
    ),
    "cmu_002_01.bvh": (
        "CC_Base_Hip CC_Base_Waist CC_Base_Spine01 CC_Base_Spine02 CC_Base_NeckTwist01 CC_Base_Head",
        "CC_Base_{}_Thigh CC_Base_{}_Calf CC_Base_{}_Foot CC_Base_{}_ToeBase CC_Base_{}_Clavicle CC_Base_{}_Upperarm "
        "CC_Base_{}_Forearm CC_Base_{}_Hand", ("L", "R"),
    ),
}  # fmt: skip
RIGIFY = (
    "spine spine.001 spine.002 spine.003 spine.004 spine.006",
    "thigh.{} shin.{} foot.{} toe.{} shoulder.{} upper_arm.{} forearm.{} hand.{}", ("L", "R"),
)  # fmt: skip


def expected(entry: tuple[str, str, tuple[str, str]], prefix: str = "") -> dict[str, str]:
    middle, sided, sides = entry
    bones = dict(zip(MIDDLE, middle.split(), strict=True))
    for side, text in zip(("left", "right"), sides, strict=True):
        bones |= {f"{side}_{part}": bone.format(text) for part, bone in zip(SIDED, sided.split(), strict=True)}
    return {joint: "" if bones[joint] == "-" else prefix + bones[joint] for joint in JOINTS}


def without_names(rig: Rig, seed: int, turn: bool) -> dict[str, str]:
    """The map of the rig with meaningless names and its bones in another order, in true names."""
    hidden, true = disguised(rig, seed, turn)
    found = map_bones(hidden)
    assert set(found.how.values()) == {"structure"}
    return {joint: true.get(bone, "") for joint, bone in found.bones(hidden).items()}


@pytest.mark.parametrize("name", RIGS)
def test_real_rigs(blend: Any, shared: Path, name: str) -> None:
    obj = rigfile.load_rig(shared / "rigs" / name)
    bpy.context.view_layer.update()
    rig = armature.read_rig(obj)
    wanted = expected(RIGS[name], "mixamorig:" if "mixamo" in name else "")
    found = bone_map.find(obj, rig)
    assert found.bones(rig) == wanted
    assert all(how.startswith("preset ") for how in found.how.values())
    assert min(found.sure.values()) > 0.95
    # This one rests with arms and legs up beside the head; what is left can only be said by the scene.
    turn = name != "cmu_002_01.bvh"
    for seed in range(2):
        assert without_names(rig, seed, turn) == wanted


@pytest.mark.parametrize("kind", ["basic_human", "human"])
def test_rigify_meta_rigs_and_what_is_generated_from_them(blend: Any, kind: str) -> None:
    bpy.ops.preferences.addon_enable(module="rigify")
    getattr(bpy.ops.object, f"armature_{kind}_metarig_add")()
    meta = bpy.context.object
    rig = armature.read_rig(meta)
    assert bone_map.find(meta, rig).bones(rig) == expected(RIGIFY)
    assert without_names(rig, 0, True) == expected(RIGIFY)
    bpy.ops.pose.rigify_generate()
    obj = next(each for each in bpy.data.objects if each.type == "ARMATURE" and each != meta)
    rig = armature.read_rig(obj)
    assert bone_map.find(obj, rig).bones(rigify.skeleton(rig)) == expected(RIGIFY, "ORG-")


@pytest.mark.parametrize("kind", ["wolf", "horse", "cat", "bird", "shark"])
def test_creatures_are_told_from_humans(blend: Any, kind: str) -> None:
    bpy.ops.preferences.addon_enable(module="rigify")
    getattr(bpy.ops.object, f"armature_{kind}_metarig_add")()
    rig = armature.read_rig(bpy.context.object)
    for each in (rig, disguised(rig, 1)[0]):
        with pytest.raises(HeroError, match=r"has no left|stands on four legs"):
            map_bones(each)


# --- The list in the panel ---


@pytest.fixture
def addon(blend: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The add-on, with a preset folder of its own."""
    hero_blender.register()
    for module in (bone_map, bone_list):
        monkeypatch.setattr(module, "preset_folder", lambda create=False: tmp_path / "presets")
    yield blend
    hero_blender.unregister()


@pytest.fixture
def rig(addon: Any) -> Any:
    obj = mixamo(bpy)
    bpy.context.view_layer.objects.active = obj
    return obj


def pick(obj: Any, bone: str, joint: str) -> None:
    obj.data.bones.active = obj.data.bones[bone]
    assert bpy.ops.hero.map_pick(joint=joint) == {"FINISHED"}


def used(obj: Any) -> dict[str, str]:
    read = armature.read_rig(obj)
    return bone_map.find(obj, read).bones(read)


def report(obj: Any) -> dict[str, Any]:
    joints = walk(8)
    return rigfile.retarget_motion(obj, Motion(joints[None], None, np.array([len(joints)])))


def test_nothing_is_kept_until_it_is_asked_for(rig: Any) -> None:
    report(rig)
    assert bone_map.saved(rig) is None
    assert not rig.hero_map.chosen


def test_find_pick_clear_mirror_and_back(rig: Any) -> None:
    assert bpy.ops.hero.map_auto() == {"FINISHED"}
    kept = bone_map.saved(rig)
    assert kept is not None and all(kept.values())
    assert kept["left_hip"] == "mixamorig:LeftUpLeg"
    assert json.loads(rig.hero_map.found)["left_hip"] == ["mixamorig:LeftUpLeg", "preset Mixamo", 1.0]

    pick(rig, "mixamorig:LeftToeBase", "left_ankle")  # it was the foot, and is that no more
    assert (rig.hero_map.left_ankle, rig.hero_map.left_foot) == ("mixamorig:LeftToeBase", "")
    assert bpy.ops.hero.map_clear(joint="neck") == {"FINISHED"}
    assert bpy.ops.hero.map_mirror(source="left") == {"FINISHED"}
    assert (rig.hero_map.right_ankle, rig.hero_map.right_foot) == ("mixamorig:RightToeBase", "")
    got = used(rig)
    assert (got["left_ankle"], got["right_ankle"], got["neck"]) == (
        "mixamorig:LeftToeBase", "mixamorig:RightToeBase", "",
    )  # fmt: skip
    assert report(rig)["map"]["right_ankle"] == "mixamorig:RightToeBase"
    assert report(rig)["map"]["neck"] is None

    assert bpy.ops.hero.map_clear() == {"FINISHED"}
    with pytest.raises(HeroError, match=r"no left leg.*bone map"):
        rigfile.check_armature(rig)
    assert bpy.ops.hero.map_forget() == {"FINISHED"}
    assert bone_map.saved(rig) is None
    assert used(rig)["neck"] == "mixamorig:Neck"


def test_mirroring_says_what_has_no_partner(rig: Any) -> None:
    rig.data.bones["mixamorig:RightHand"].name = "claw"
    assert bpy.ops.hero.map_auto() == {"FINISHED"}
    rig.hero_map.right_wrist = "claw"
    assert bpy.ops.hero.map_mirror(source="left") == {"FINISHED"}
    assert (rig.hero_map.right_wrist, rig.hero_map.right_elbow) == ("claw", "mixamorig:RightForeArm")
    rig.data.bones["mixamorig:LeftHand"].name = "左手首"
    rig.data.bones["claw"].name = "右手首"
    rig.hero_map.left_wrist = "左手首"
    assert bpy.ops.hero.map_mirror(source="left") == {"FINISHED"}
    assert rig.hero_map.right_wrist == "右手首"


def test_a_rig_that_is_not_known_gets_a_list_to_fill(addon: Any) -> None:
    obj = mixamo(bpy, without="Arm")
    assert bpy.ops.hero.map_auto() == {"FINISHED"}  # with a warning that says what is missing
    assert rig_map(obj)["left_hip"] == "mixamorig:LeftUpLeg"
    assert rig_map(obj)["left_elbow"] == ""
    with pytest.raises(RuntimeError, match="There is no joint 'tail'"):
        bpy.ops.hero.map_pick(joint="tail")
    obj.data.bones.active = None
    with pytest.raises(RuntimeError, match="No bone of 'character' is active"):
        bpy.ops.hero.map_pick(joint="head")


def rig_map(obj: Any) -> dict[str, str]:
    return bone_map.saved(obj) or {}


def test_a_renamed_bone_and_one_given_twice_are_said(rig: Any) -> None:
    bpy.ops.hero.map_auto()
    rig.data.bones["mixamorig:Head"].name = "Kopf"
    with pytest.raises(HeroError, match="no bone 'mixamorig:Head' for the head; pick another"):
        rigfile.check_armature(rig)
    rig.hero_map.head = rig.hero_map.neck
    with pytest.raises(HeroError, match="given twice, as neck and as head"):
        rigfile.check_armature(rig)
    former = rig.animation_data
    with pytest.raises(HeroError):
        report(rig)
    assert rig.animation_data == former and not bpy.data.actions


def test_kept_as_a_preset_it_is_found_for_the_next_rig_of_the_kind(rig: Any, tmp_path: Path) -> None:
    bpy.ops.hero.map_auto()
    bpy.ops.hero.map_clear(joint="left_foot")
    assert bpy.ops.hero.map_keep(preset="My: kind") == {"FINISHED"}
    (file,) = (tmp_path / "presets").iterdir()
    assert json.loads(file.read_text(encoding="utf-8"))["name"] == "My: kind"
    other = mixamo(bpy, "another")
    read = armature.read_rig(other)
    found = bone_map.find(other, read)
    assert found.preset.name == "My: kind" and "left_foot" not in found.joints
    assert found.how["left_hip"] == "preset My: kind"
    bpy.ops.hero.map_clear()
    with pytest.raises(RuntimeError, match="no left leg"):  # what cannot be used is no preset
        bpy.ops.hero.map_keep(preset="Nonsense")
    assert len(list((tmp_path / "presets").iterdir())) == 1


def test_a_map_travels_as_a_file(rig: Any, tmp_path: Path) -> None:
    bpy.ops.hero.map_auto()
    bpy.ops.hero.map_clear(joint="head")
    assert bpy.ops.hero.map_export(filepath=str(tmp_path / "him")) == {"FINISHED"}
    other = mixamo(bpy, "another")
    bpy.context.view_layer.objects.active = other
    assert bpy.ops.hero.map_import(filepath=str(tmp_path / "him.json")) == {"FINISHED"}
    assert rig_map(other) == rig_map(rig)
    strange = mixamo(bpy, "strange")
    for number, bone in enumerate(strange.data.bones):
        bone.name = f"b{number}"
    bpy.context.view_layer.objects.active = strange
    with pytest.raises(RuntimeError, match="has no bones of the map"):
        bpy.ops.hero.map_import(filepath=str(tmp_path / "him.json"))
    assert bone_map.saved(strange) is None
    with pytest.raises(RuntimeError, match="There is no map file"):
        bpy.ops.hero.map_import(filepath=str(tmp_path / "nothing.json"))


def test_the_map_is_saved_with_the_file_and_on_library_overrides(rig: Any, tmp_path: Path) -> None:
    bpy.ops.hero.map_auto()
    bpy.ops.hero.map_clear(joint="neck")
    library, scene = tmp_path / "rig.blend", tmp_path / "scene.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(library))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    with bpy.data.libraries.load(str(library), link=True) as (_, wanted):
        wanted.objects = ["character"]
    linked = bpy.data.objects["character"]
    assert rig_map(linked)["neck"] == "" and rig_map(linked)["head"] == "mixamorig:Head"  # the rigger's work
    own = linked.override_create(remap_local_usages=True)
    bpy.context.scene.collection.objects.link(own)
    bpy.context.view_layer.objects.active = own
    pick(own, "mixamorig:Neck", "neck")
    pick(own, "mixamorig:LeftHand", "left_elbow")
    bpy.ops.wm.save_as_mainfile(filepath=str(scene))
    bpy.ops.wm.open_mainfile(filepath=str(scene))
    again = next(obj for obj in bpy.data.objects if obj.library is None)
    assert (rig_map(again)["neck"], rig_map(again)["left_elbow"]) == ("mixamorig:Neck", "mixamorig:LeftHand")
    assert rig_map(again)["left_wrist"] == ""


def test_a_control_rig_is_mapped_by_its_skeleton(addon: Any) -> None:
    bpy.ops.preferences.addon_enable(module="rigify")
    bpy.ops.object.armature_basic_human_metarig_add()
    meta = bpy.context.object
    bpy.ops.pose.rigify_generate()
    obj = next(each for each in bpy.data.objects if each.type == "ARMATURE" and each != meta)
    bpy.context.view_layer.objects.active = obj
    assert bpy.ops.hero.map_auto() == {"FINISHED"}
    assert rig_map(obj) == expected(RIGIFY, "ORG-")
    report(obj)
    obj.hero_map.left_wrist = "hand_ik.L"
    with pytest.raises(HeroError, match=r"ORG- bones; take 'hand_ik\.L' out"):
        report(obj)


class Layout:
    """Stands for bpy's UILayout, which only a window has: checks names and icons and records what is drawn."""

    def __init__(self, drawn: list[tuple[str, str]]) -> None:
        self.drawn = drawn

    def __getattr__(self, name: str) -> Any:
        function = bpy.types.UILayout.bl_rna.functions[name]

        def call(*values: Any, **given: Any) -> Any:
            assert set(given) <= set(function.parameters.keys())
            assert "icon" not in given or given["icon"] in function.parameters["icon"].enum_items
            if name.startswith("operator"):
                properties = getattr(bpy.ops.hero, values[0].split(".")[1]).get_rna_type().properties
                assert len(values) < 2 or values[1] in properties
            elif name == "prop_search":
                assert values[1] in values[0].bl_rna.properties and values[3] in values[2].bl_rna.properties
            said = given["text"] if name == "label" else values[1] if len(values) > 1 else next(iter(values), "")
            self.drawn.append((name, said))
            return Layout(self.drawn)

        return call


def drawn() -> list[tuple[str, str]]:
    class Drawing:
        layout = Layout([])

    bone_list.HERO_PT_bones.draw(Drawing, bpy.context)  # type: ignore[arg-type]
    return Drawing.layout.drawn


def test_the_panel_draws_the_list(rig: Any) -> None:
    assert bone_list.HERO_PT_bones.poll(bpy.context)
    assert ("operator", "hero.map_auto") in drawn()
    assert not [said for kind, said in drawn() if kind == "prop_search"]
    bpy.ops.hero.map_auto()
    assert {said for kind, said in drawn() if kind == "prop_search"} == set(JOINTS)
    texts = [said for kind, said in drawn() if kind == "label"]
    assert texts[:4] == ["Pelvis", "100%", "Spine 1", "100%"] and "yours" not in texts
    pick(rig, "mixamorig:LeftToeBase", "left_ankle")
    assert "yours" in [said for kind, said in drawn() if kind == "label"]
    rig.hero_map.found = "["
    assert ("label", "yours") in drawn()


# --- VRM ---


def test_the_map_of_the_vrm_add_on_is_read_without_it(rig: Any) -> None:
    one = {"spec_version": "1.0", "vrm1": {"humanoid": {"human_bones": {
        "hips": {"node": {"bone_name": "mixamorig:Hips"}},
        "left_upper_leg": {"node": {"bone_name": "mixamorig:LeftLeg"}},
        "left_lower_leg": {"node": {"bone_name": ""}},
    }}}}  # fmt: skip
    rig.data["vrm_addon_extension"] = one
    assert bone_map.own_map(rig) == {"pelvis": "mixamorig:Hips", "left_hip": "mixamorig:LeftLeg"}
    zero = {"spec_version": "0.0", "vrm0": {"humanoid": {"human_bones": [
        {"bone": "rightHand", "node": {"bone_name": "mixamorig:RightHand"}},
        {"bone": "jaw", "node": {"bone_name": "x"}},
    ]}}}  # fmt: skip
    rig.data["vrm_addon_extension"] = zero
    assert bone_map.own_map(rig) == {"right_wrist": "mixamorig:RightHand"}
    del rig.data["vrm_addon_extension"]
    assert bone_map.own_map(rig) == {}


def test_a_vrm_file_tells_its_bones(blend: Any, shared: Path, tmp_path: Path) -> None:
    data = (shared / "rigs" / "m2m_human-male.glb").read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    gltf, rest = json.loads(data[20 : 20 + length]), data[20 + length :]
    rows = {node.get("name"): row for row, node in enumerate(gltf["nodes"])}
    wanted = expected(RIGS["m2m_human-male.glb"])
    parts = dict(zip(SIDED, ("UpperLeg", "LowerLeg", "Foot", "Toes", "Shoulder", "UpperArm", "LowerArm", "Hand"),
                     strict=True))  # fmt: skip
    bones = {"hips": "pelvis", "neck": "neck", "head": "head"}
    bones |= {side + human: f"{side}_{part}" for side in ("left", "right") for part, human in parts.items()}
    humans = {human: {"node": rows[wanted[joint]]} for human, joint in bones.items()}
    for row, node in enumerate(gltf["nodes"]):
        node["name"] = f"n{row}"
    gltf.setdefault("extensions", {})["VRMC_vrm"] = {"specVersion": "1.0", "humanoid": {"humanBones": humans}}
    text = json.dumps(gltf).encode()
    text += b" " * (-len(text) % 4)
    whole = struct.pack("<I4s", len(text), b"JSON") + text + rest
    (tmp_path / "him.vrm").write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(whole)) + whole)

    obj = rigfile.load_rig(tmp_path / "him.vrm")
    bpy.context.view_layer.update()
    rig = armature.read_rig(obj)
    found = bone_map.find(obj, rig)
    assert found.bones(rig) == {joint: f"n{rows[bone]}" for joint, bone in wanted.items()}
    assert found.how["left_hip"] == "VRM"


# --- The command line ---


def test_the_command_prints_and_takes_a_map(rig: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "rig.blend", tmp_path / "map.json"
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    assert command.main(["map", "--rig", str(file), "--out", str(out)], standalone=True) == 0
    told = capsys.readouterr().out
    assert "left_hip" in told and "mixamorig:LeftUpLeg" in told and "preset Mixamo" in told and "22 of 22" in told
    data = json.loads(out.read_text(encoding="utf-8"))
    assert data["joints"]["left_hip"] == ["mixamorig:LeftUpLeg"]

    data["joints"]["head"] = []
    out.write_text(json.dumps(data), encoding="utf-8")
    np.save(tmp_path / "walk.npy", walk(8))
    arguments = ["--rig", str(file), "--motion", str(tmp_path / "walk.npy"), "--map", str(out)]
    result, told_file = tmp_path / "out.blend", tmp_path / "report.json"
    arguments += ["--out", str(result), "--report", str(told_file)]
    assert command.main(["retarget", *arguments], standalone=True) == 0
    assert json.loads(told_file.read_text())["map"]["head"] is None
    bpy.ops.wm.open_mainfile(filepath=str(result))  # it is kept with the character
    assert rig_map(bpy.data.objects["character"])["head"] == ""
    capsys.readouterr()

    data["joints"]["left_hip"] = ["mixamorig:LeftFoot"]
    out.write_text(json.dumps(data), encoding="utf-8")
    assert command.main(["map", "--rig", str(file), "--map", str(out)], standalone=True) == 1
    assert "given twice" in capsys.readouterr().err
    out.write_text("{", encoding="utf-8")
    assert command.main(["map", "--rig", str(file), "--map", str(out)], standalone=True) == 1
    assert "map.json" in capsys.readouterr().err
