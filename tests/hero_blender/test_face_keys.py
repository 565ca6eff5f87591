# SPDX-License-Identifier: GPL-3.0-or-later
"""A face on characters in real Blender: shape keys, expressions, face controls, head; slots, rates, layers, errors."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

from heads import head  # noqa: E402

from hero_blender import compat, face_keys, face_panel, face_rig  # noqa: E402
from hero_core.errors import HeroError  # noqa: E402
from hero_core.face import listener  # noqa: E402
from hero_core.face.keys import Options  # noqa: E402
from hero_core.face.reaction import ARKIT, INDEX, FaceReaction, attributes_of  # noqa: E402
from hero_core.face.rig import CHANNELS, write_map  # noqa: E402


@pytest.fixture
def scene(blend: Any) -> Iterator[Any]:
    blend.context.scene.render.fps = 25
    yield blend.context.scene


@pytest.fixture
def kept(scene: Any) -> Iterator[None]:
    """Maps can be kept on objects."""
    for cls in (face_panel.HeroFaceRow, face_panel.HeroFaceMap, face_panel.HeroFaceProperties):
        bpy.utils.register_class(cls)
    face_panel.register()
    yield
    face_panel.unregister()
    for cls in (face_panel.HeroFaceProperties, face_panel.HeroFaceMap, face_panel.HeroFaceRow):
        bpy.utils.unregister_class(cls)


def acted(count: int = 50, takes: int = 1, **shapes: tuple[int, int, float]) -> FaceReaction:
    """A face at rest but for shapes (both sides where the name has none): name=(first row, row after, value)."""
    c = np.zeros((takes, count, 58), np.float32)
    for name, (start, end, value) in shapes.items():
        for full in (name, f"{name}Left", f"{name}Right"):
            if full in INDEX:
                c[:, start:end, INDEX[full]] = value
    return FaceReaction(c, attributes_of(c[..., :52]), source="test", seed=5)


def value(obj: Any, name: str, frame: int) -> float:
    bpy.context.scene.frame_set(frame)
    return float(obj.data.shape_keys.key_blocks[name].value)


def turn_of(rig: Any, name: str, frame: int) -> Any:
    """(3, 3) orientation of a bone in the world."""
    bpy.context.scene.frame_set(frame)
    shown = rig.evaluated_get(bpy.context.evaluated_depsgraph_get())
    return np.array((shown.matrix_world @ shown.pose.bones[name].matrix).to_3x3())


def test_all_meshes_of_a_character_and_its_head(scene: Any) -> None:
    rig, mesh = head(bpy, others=True)
    found = face_rig.find(rig)
    assert [obj.name for obj in found.meshes] == ["Eyes", "Head", "Teeth"]
    assert found.map.preset == "ARKit" and set(found.map.keys) == set(ARKIT) and not found.notes
    face = acted(takes=2, mouthSmile=(10, 20, 0.6), jawOpen=(20, 30, 0.5), eyeLookUp=(30, 40, 1.0))
    report = face_keys.write_face(found, face, "clip", 11, scene)
    assert [(row["take"], row["seed"], row["action"]) for row in report["takes"]][:4] == [
        (1, 5, "clip take 1 seed 5 Eyes"), (1, 5, "clip take 1 seed 5 Head"), (1, 5, "clip take 1 seed 5 Teeth"),
        (1, 5, "clip take 1 seed 5"),
    ]  # fmt: skip
    assert all(bpy.data.actions[row["action"]].use_fake_user for row in report["takes"])
    assert len(report["takes"]) == 8
    for obj in found.meshes:
        key = obj.data.shape_keys
        action, slot = compat.assigned_action(key)
        assert action is not None and action.name.startswith("clip take 1")
        if bpy.app.version >= (4, 4):
            assert slot is not None and slot.target_id_type == "KEY"
    assert value(mesh, "mouthSmileLeft", 26) == pytest.approx(0.6, abs=0.011)
    assert value(bpy.data.objects["Teeth"], "jawOpen", 36) == pytest.approx(0.5, abs=0.011)
    assert value(bpy.data.objects["Eyes"], "eyeLookUpLeft", 46) == pytest.approx(1.0, abs=0.011)
    assert value(mesh, "mouthSmileLeft", 15) == pytest.approx(0.0, abs=0.011)


@pytest.mark.parametrize("spell", [str.upper, lambda n: f"blendShape1.{n}_Head", lambda n: f"ARKit_{n}"])
def test_spellings(scene: Any, spell: Any) -> None:
    _, mesh = head(bpy, spell=spell, armature=False)
    found = face_rig.find(None, mesh)
    assert len(found.map.keys) == 52
    face_keys.write_face(found, acted(eyeBlink=(10, 12, 1.0)), "clip", 1, scene)
    assert value(mesh, spell("eyeBlinkLeft"), 11) == pytest.approx(1.0, abs=0.011)


def test_half_of_the_names_are_missing_which_is_said(scene: Any) -> None:
    _, mesh = head(bpy, names=ARKIT[::2], armature=False)
    found = face_rig.find(None, mesh)
    assert len(found.map.keys) == 26
    assert "26 of 52 names of ARKit" in found.notes[0] and all(name in found.notes[0] for name in ARKIT[1::2])
    report = face_keys.write_face(found, acted(), "clip", 1, scene)
    assert found.notes[0] in report["notes"]


def test_nothing_to_key_is_an_error(scene: Any) -> None:
    _, bare = head(bpy, names=(), armature=False)
    with pytest.raises(HeroError, match="has no shape keys"):
        face_rig.find(None, bare)
    _, odd = head(bpy, names=("Key 1", "Key 2"), armature=False)
    with pytest.raises(HeroError, match=r"'Key 1'.*face map"):
        face_rig.find(None, odd)
    with pytest.raises(HeroError, match="no character"):
        face_rig.find(None, None)
    rig, _ = head(bpy, names=("Key 1",))
    assert "only the head moves" in " ".join(face_rig.find(rig).notes)


def test_action_units_and_ranges(scene: Any) -> None:
    _, mesh = head(bpy, names=("AU12_l", "au_12_R", "AU45"), armature=False)
    mesh.data.shape_keys.key_blocks["AU45"].slider_max = 0.5
    found = face_rig.find(None, mesh)
    c = acted(30).coefficients
    c[0, 10:20, INDEX["mouthSmileLeft"]] = 0.9
    c[0, 10:20, 8:10] = 1.0
    face_keys.write_face(found, FaceReaction(c, attributes_of(c[..., :52])), "clip", 1, scene)
    assert value(mesh, "AU12_l", 16) == pytest.approx(1.0, abs=0.011)
    assert value(mesh, "au_12_R", 16) == pytest.approx(0.0, abs=0.011)
    curves = compat.fcurves_of(compat.assigned_action(mesh.data.shape_keys)[0], mesh.data.shape_keys)
    lids = next(curve for curve in curves if "AU45" in curve.data_path)
    assert max(key.co[1] for key in lids.keyframe_points) == pytest.approx(0.5)  # the slider's end, in the key itself


@pytest.mark.parametrize("fps", [12, 24, 30, 60])
def test_blinks_close_at_every_rate(scene: Any, fps: int) -> None:
    scene.render.fps = fps
    _, mesh = head(bpy, armature=False)
    face = listener.listen(None, None, 1, 3, listener.Options(blinks=2.0), frames=500)
    for options in (Options(), Options(smooth=1.0)):
        face_keys.write_face(face_rig.find(None, mesh), face, "clip", 1, scene, options)
        key = mesh.data.shape_keys
        curves = {c.data_path: c for c in compat.fcurves_of(compat.assigned_action(key)[0], key)}
        lids = curves['key_blocks["eyeBlinkLeft"].value']
        x = face.coefficients[0, :, 8]
        closed = [i for i in range(1, len(x) - 1) if x[i] > 0.95 and x[i] >= x[i - 1] and x[i] > x[i + 1]]
        assert len(closed) > 5
        for row in closed:
            near = [lids.evaluate(1 + row * fps / 25 + d) for d in np.linspace(-0.6, 0.6, 7)]
            assert max(near) > 0.93
        assert all(abs(k.co[0] - round(k.co[0])) < 1e-3 for k in lids.keyframe_points)


def test_curves_stay_within_the_tolerance(scene: Any) -> None:
    _, mesh = head(bpy, armature=False)
    face = listener.listen(None, None, 1, 0, frames=400)
    reports = [
        face_keys.write_face(face_rig.find(None, mesh), face, "clip", 1, scene, options)
        for options in (Options(reduce=False), Options())
    ]
    assert reports[1]["takes"][0]["keys"] < 0.1 * reports[0]["takes"][0]["keys"]
    key = mesh.data.shape_keys
    for curve in compat.fcurves_of(compat.assigned_action(key)[0], key):
        name = curve.data_path.split('"')[1]
        got = np.array([curve.evaluate(1 + row) for row in range(400)])
        assert np.abs(got - face.coefficients[0, :, INDEX[name]]).max() < 0.0105
        kinds = {point.interpolation for point in curve.keyframe_points}
        assert kinds == {"BEZIER"}


def test_the_head_turns_as_it_should(scene: Any) -> None:
    rig, _ = head(bpy)
    for axis, row in ((0, [1, 0, 0]), (1, [0, 0, 1]), (2, [0, -1, 0])):  # the face's x, y, z in Blender's world
        face = acted()
        face.coefficients[0, 20:30, 52 + axis] = np.radians(20)
        face_keys.write_face(face_rig.find(rig), face, "clip", 1, scene)
        turn = turn_of(rig, "head", 26) @ turn_of(rig, "head", 1).T
        angle = np.degrees(np.arccos((np.trace(turn) - 1) / 2))
        vector = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        assert angle == pytest.approx(20, abs=0.5)
        assert np.allclose(vector / np.linalg.norm(vector), row, atol=0.02)
        neck = turn_of(rig, "neck", 26) @ turn_of(rig, "neck", 1).T
        assert np.degrees(np.arccos((np.trace(neck) - 1) / 2)) == pytest.approx(8, abs=0.5)


def body_take(rig: Any, name: str = "body take 1 seed 0") -> Any:
    """A turn of 40 degrees to the left by frame 30 and a hip that moves."""
    action, place = compat.new_action(name, rig)
    for bone, angle in (("neck", 0.3), ("head", 0.4)):
        path = rig.pose.bones[bone].path_from_id("rotation_quaternion")
        for i, values in enumerate(([1, np.cos(angle / 2)], [0, 0], [0, np.sin(angle / 2)], [0, 0])):
            curve = compat.new_fcurve(place, path, i, bone)
            for frame, each in zip((1, 30), values, strict=True):
                curve.keyframe_points.insert(frame, each)
    curve = compat.new_fcurve(place, rig.pose.bones["spine"].path_from_id("location"), 0, "spine")
    curve.keyframe_points.insert(1, 0.2)
    compat.assign_action(rig, action)
    return action


def _dumped(rig: Any, action: Any) -> dict[Any, Any]:
    return {
        (c.data_path, c.array_index): [(*k.co, *k.handle_left, *k.handle_right) for k in c.keyframe_points]
        for c in compat.fcurves_of(action, rig)
    }


def test_on_top_of_the_body_and_off_again(scene: Any) -> None:
    rig, _ = head(bpy)
    action = body_take(rig)
    before = _dumped(rig, action)
    still, moved = turn_of(rig, "head", 10), turn_of(rig, "head", 40)
    face = acted(60)
    face.coefficients[0, 35:45, 52] = np.radians(15)
    for _ in range(2):  # a second face takes the place of the first
        report = face_keys.write_face(face_rig.find(rig), face, "clip", 1, scene, body=[action.name])
        assert compat.assigned_action(rig)[0] == action
        assert [row["action"] for row in report["takes"] if row["kind"] == "OBJECT"] == [action.name]
        assert np.allclose(turn_of(rig, "head", 10), still, atol=0.01)
        nod = moved.T @ turn_of(rig, "head", 41)
        assert np.degrees(np.arccos((np.trace(nod) - 1) / 2)) == pytest.approx(15, abs=0.7)
    bones = {path for path, _ in _dumped(rig, action)}
    assert 'pose.bones["spine"].location' in bones
    assert face_keys.take_out(action, rig)
    after = _dumped(rig, action)
    assert after.keys() == before.keys()
    for name in before:
        assert np.allclose(after[name], before[name], atol=1e-4)
    assert not face_keys.take_out(action, rig)


def test_an_action_of_the_animators_is_copied_and_stays(scene: Any) -> None:
    rig, _ = head(bpy)
    action = body_take(rig, "my own")
    before = _dumped(rig, action)
    face = acted(60, takes=2)
    face.coefficients[:, 35:45, 52] = np.radians(15)
    report = face_keys.write_face(face_rig.find(rig), face, "clip", 1, scene)
    names = [row["action"] for row in report["takes"] if row["kind"] == "OBJECT"]
    assert names == ["clip take 1 seed 5", "clip take 2 seed 6"]
    assert compat.assigned_action(rig)[0].name == names[0]
    assert action.use_fake_user and _dumped(rig, action) == before
    for name in names:
        assert 'pose.bones["spine"].location' in {path for path, _ in _dumped(rig, bpy.data.actions[name])}


@pytest.mark.parametrize("mode", ["XYZ", "ZXY", "AXIS_ANGLE"])
def test_rotation_modes(scene: Any, mode: str) -> None:
    rig, _ = head(bpy)
    rig.pose.bones["head"].rotation_mode = mode
    face = acted()
    face.coefficients[0, 20:30, 52] = np.radians(20)
    face_keys.write_face(face_rig.find(rig), face, "clip", 1, scene)
    turn = turn_of(rig, "head", 26) @ turn_of(rig, "head", 1).T
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(20, abs=0.6)


def test_an_error_leaves_everything_as_it_was(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, mesh = head(bpy)
    action = body_take(rig)
    before, names = _dumped(rig, action), {each.name for each in bpy.data.actions}
    written = face_keys.write_curve

    def fail(place: Any, path: str, *rest: Any) -> Any:
        if "head" in path and "rotation" in path:
            raise HeroError("the disk is full")
        return written(place, path, *rest)

    monkeypatch.setattr(face_keys, "write_curve", fail)
    with pytest.raises(HeroError, match="full"):
        face_keys.write_face(face_rig.find(rig), acted(), "clip", 1, scene, body=[action.name])
    assert {each.name for each in bpy.data.actions} == names
    assert compat.assigned_action(rig)[0] == action
    assert compat.assigned_action(mesh.data.shape_keys)[0] is None
    after = _dumped(rig, action)
    assert after.keys() == before.keys() and all(np.allclose(after[n], before[n], atol=1e-4) for n in before)


def test_driven_and_linked_keys_are_left_alone(scene: Any) -> None:
    _, mesh = head(bpy, armature=False)
    mesh.data.shape_keys.key_blocks["jawOpen"].driver_add("value")
    found = face_rig.find(None, mesh)
    assert "jawOpen" not in found.map.keys and "1 keys of 'Head' are left to their drivers: jawOpen" in found.notes


def test_regions_and_mirror(scene: Any) -> None:
    _, mesh = head(bpy, armature=False)
    face = acted(mouthSmileLeft=(10, 20, 0.8), browInnerUp=(10, 20, 0.4))
    found = face_rig.find(None, mesh)
    face_keys.write_face(found, face, "clip", 1, scene, Options(mouth=0.5, brows=2.0, mirror=True))
    assert value(mesh, "mouthSmileRight", 16) == pytest.approx(0.4, abs=0.011)
    assert value(mesh, "mouthSmileLeft", 16) == pytest.approx(0.0, abs=0.011)
    assert value(mesh, "browInnerUp", 16) == pytest.approx(0.8, abs=0.011)


# --- VRM and Faceit ------------------------------------------------------------------------------------------------


def _expression(name: str, key: str, **more: Any) -> Any:
    bind = SimpleNamespace(index=key, weight=1.0)
    return SimpleNamespace(custom_name=name, morph_target_binds=[bind], is_binary=False, **more)


def test_vrm_one(scene: Any) -> None:
    rig, mesh = head(bpy, names=("Joy", "Wink L", "Wink R", "Open"))
    preset = SimpleNamespace(
        happy=_expression("happy", "Joy", override_blink="block"),
        blink_left=_expression("", "Wink L"),
        blink_right=_expression("", "Wink R"),
        aa=_expression("", "Open"),
    )
    extension = SimpleNamespace(
        spec_version="1.0", vrm1=SimpleNamespace(expressions=SimpleNamespace(preset=preset, custom=[]))
    )
    shown = SimpleNamespace(data=SimpleNamespace(vrm_addon_extension=extension, get=lambda _: None))
    found = face_rig.vrm_map(shown, [mesh])  # type: ignore[arg-type]
    assert found is not None and found.preset == "VRM" and set(found.keys) == {"Joy", "Wink L", "Wink R", "Open"}
    from dataclasses import replace

    face = acted(60, eyeBlink=(10, 12, 1.0), jawOpen=(20, 30, 0.5), mouthSmile=(40, 55, 0.9), cheekSquint=(40, 55, 0.9))
    face.coefficients[0, 45:47, 8:10] = 1.0  # a blink in the middle of a smile that blocks it
    face_keys.write_face(replace(face_rig.find(rig), map=found), face, "clip", 1, scene)
    assert value(mesh, "Wink L", 11) == pytest.approx(1.0, abs=0.011)
    assert value(mesh, "Open", 26) == pytest.approx(0.5, abs=0.011)
    assert value(mesh, "Joy", 50) > 0.5
    assert value(mesh, "Wink L", 46) == pytest.approx(0.0, abs=0.011)


def test_vrm_zero_as_items_of_an_add_on_that_is_off(scene: Any) -> None:
    rig, mesh = head(bpy, names=("F_Joy", "F_Blink", "F_A"))
    groups = [
        {"name": name, "binds": [{"mesh": {}, "index": key, "weight": 1.0}]}
        for name, key in (("Joy", "F_Joy"), ("Blink", "F_Blink"), ("A", "F_A"))
    ]
    rig.data["vrm_addon_extension"] = {"vrm0": {"blend_shape_master": {"blend_shape_groups": groups}}}
    found = face_rig.find(rig)
    assert found.map.preset == "VRM" and set(found.map.keys) == {"F_Joy", "F_Blink", "F_A"}
    face_keys.write_face(found, acted(eyeBlink=(10, 12, 1.0)), "clip", 1, scene)
    assert value(mesh, "F_Blink", 11) == pytest.approx(1.0, abs=0.011)


def test_faceit_targets(scene: Any) -> None:
    _, mesh = head(bpy, names=("my smile", "blink a", "blink b"), armature=False)
    rows = [
        {"name": "mouthSmileLeft", "amplify": 0.5, "target_shapes": [{"name": "my smile"}]},
        {"name": "eyeBlinkLeft", "amplify": 1.0, "target_shapes": [{"name": "blink a"}, {"name": "blink b"}]},
        {"name": "jawOpen", "amplify": 1.0, "target_shapes": []},
    ]
    scene["faceit_arkit_retarget_shapes"] = rows
    found = face_rig.find(None, mesh)
    assert found.map.preset == "Faceit"
    assert found.map.keys["my smile"] == {"mouthSmileLeft": 0.5} and "blink b" in found.map.keys
    assert "jawOpen" in found.notes[0]


# --- the map of the user's -----------------------------------------------------------------------------------------


def test_a_map_is_kept_edited_exported_and_imported(scene: Any, kept: None, tmp_path: Any) -> None:
    _, mesh = head(bpy, names=("Grin", "Lids", *ARKIT[:20]), armature=False)
    found = face_rig.find(None, mesh)
    assert "Grin" not in found.map.keys
    face_rig.store(mesh, found.map)
    row = mesh.hero_face.rows.add()
    row.target, row.source, row.amount = "Grin", "mouthSmileLeft", 0.5
    own = face_rig.find(None, mesh)
    assert own.map.keys["Grin"] == {"mouthSmileLeft": 0.5} and len(own.map.keys) == 21
    file = tmp_path / "map.json"
    write_map(file, "mine", own.map)
    face_rig.forget(mesh)
    assert "Grin" not in face_rig.find(None, mesh).map.keys
    back = face_rig.find(None, mesh, file=file)
    assert back.map.keys == own.map.keys
    assert all(source in CHANNELS for sources in back.map.keys.values() for source in sources)
    mesh.hero_face.skip = True
    rig, other = head(bpy)
    assert [obj.name for obj in face_rig.find(rig).meshes] == [other.name]
