# SPDX-License-Identifier: GPL-3.0-or-later
"""Faces of generated Rigify humans, the legacy and the modular one: what deforms is where the face wants it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

from hero_blender import compat, face_keys, face_rig  # noqa: E402
from hero_core.face.reaction import INDEX, FaceReaction, attributes_of  # noqa: E402

SMILE, BLINK, JAW, BROWS, UP, NOD = 13, 23, 33, 43, 53, 63
REST = 5


def generated(modular: bool) -> Any:
    bpy.ops.preferences.addon_enable(module="rigify")
    bpy.ops.object.armature_human_metarig_add()
    meta = bpy.context.object
    if modular:
        bpy.ops.pose.rigify_upgrade_face()
    bpy.ops.pose.rigify_generate()
    return next(obj for obj in bpy.data.objects if obj.type == "ARMATURE" and obj != meta)


def acted() -> FaceReaction:
    c = np.zeros((1, 70, 58), np.float32)
    for start, names in (
        (10, ("mouthSmileLeft",)),
        (20, ("eyeBlinkLeft", "eyeBlinkRight")),
        (30, ("jawOpen",)),
        (40, ("browInnerUp", "browOuterUpLeft", "browOuterUpRight")),
        (50, ("eyeLookUpLeft", "eyeLookUpRight")),
    ):
        for name in names:
            c[0, start : start + 5, INDEX[name]] = 1.0
    c[0, 60:65, 52] = np.radians(10)
    return FaceReaction(c, attributes_of(c[..., :52]), source="test")


def bones(rig: Any, frame: int) -> dict[str, Any]:
    """Bone -> (4, 4) evaluated, in the armature's space."""
    bpy.context.scene.frame_set(frame)
    shown = rig.evaluated_get(bpy.context.evaluated_depsgraph_get())
    return {bone.name: np.array(bone.matrix) for bone in shown.pose.bones}


@pytest.mark.parametrize("modular", [False, True])
def test_controls(blend: Any, modular: bool) -> None:
    blend.context.scene.render.fps = 25
    rig = generated(modular)
    found = face_rig.find(rig)
    assert found.map.preset == ("Rigify Skin Face" if modular else "Rigify Face")
    assert not found.map.missing and not found.notes
    assert [name for name, _ in found.head] == ["neck", "head"]
    report = face_keys.write_face(found, acted(), "clip", 1, blend.context.scene)
    action, slot = compat.assigned_action(rig)
    assert [row["action"] for row in report["takes"]] == [action.name]
    if bpy.app.version >= (4, 4):
        assert slot is not None and slot.target_id_type == "OBJECT"
    at = {frame: bones(rig, frame) for frame in (REST, SMILE, BLINK, JAW, BROWS, UP, NOD)}
    gaps: list[Any] = []

    def place(name: str, frame: int) -> Any:
        return at[frame][name][:3, 3]

    def moved(name: str, frame: int) -> Any:
        return place(name, frame) - place(name, REST)

    for side in "LR":  # the lids meet, and do not cross, along the whole eye
        for upper, lower in (("001", "003"), ("002", "002"), ("003", "001")):
            gaps.append(place(f"DEF-lid.T.{side}.{upper}", BLINK) - place(f"DEF-lid.B.{side}.{lower}", BLINK))
            assert moved(f"DEF-lid.T.{side}.{upper}", BLINK)[2] < -0.008
    assert max(abs(gap[2]) for gap in gaps) < 0.0025, gaps  # of 1.9 m
    corner = "lip_end.L.001" if modular else "lips.L"
    assert moved(corner, SMILE)[0] > 0.004 and moved(corner, SMILE)[2] > 0.006  # outward and up
    assert np.abs(moved(corner.replace(".L", ".R"), SMILE)).max() < 1e-4
    assert moved("DEF-lip.B.L", JAW)[2] < -0.02 and abs(moved("DEF-lip.T.L", JAW)[2]) < 0.012
    rises = [moved(f"DEF-brow.T.L.{number}", BROWS)[2] for number in ("001", "002", "003")]
    assert min(rises) > 0.004 and max(rises) < 0.013  # evenly, not the middle twice
    eye = "ORG-eye.L"
    turn = at[UP][eye][:3, :3] @ at[REST][eye][:3, :3].T
    if np.abs(turn - np.eye(3)).max() < 1e-3:  # the bone that aims is another one in the legacy face
        eye = "MCH-eye.L"
        turn = at[UP][eye][:3, :3] @ at[REST][eye][:3, :3].T
    angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    assert angle == pytest.approx(30, abs=6)
    assert turn[2, 1] - turn[1, 2] < 0  # up: about -X, for the face looks along -Y
    nod = at[NOD]["ORG-spine.006"][:3, :3] @ at[REST]["ORG-spine.006"][:3, :3].T
    assert np.degrees(np.arccos((np.trace(nod) - 1) / 2)) == pytest.approx(10, abs=0.6)
    assert nod[2, 1] - nod[1, 2] > 0  # down
