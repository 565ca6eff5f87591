# SPDX-License-Identifier: GPL-3.0-or-later
"""A nod, a smile and a blink as they are seen: rendered, and found again in the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

from heads import BLACK, COLOURS, EYES, LIPS, MOUTH, head  # noqa: E402

from hero_blender import face_keys, face_rig  # noqa: E402
from hero_core.face.reaction import INDEX, FaceReaction, attributes_of  # noqa: E402

SIZE = 240
REST, SMILE, BLINK, NOD = 5, 13, 21, 31


def acted() -> FaceReaction:
    c = np.zeros((1, 50, 58), np.float32)
    for side in ("Left", "Right"):
        c[0, 9:17, INDEX[f"mouthSmile{side}"]] = 0.8
        c[0, 20, INDEX[f"eyeBlink{side}"]] = 1.0
    c[0, 28:34, 52] = np.radians(12)
    return FaceReaction(c, attributes_of(c[..., :52]), source="test")


def shown(scene: Any, folder: Path, frame: int) -> Any:
    """(H, W, 3) flat colours of a frame, top row first."""
    scene.frame_set(frame)
    scene.render.filepath = str(folder / f"{frame}.png")
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(scene.render.filepath)
    pixels = np.array(image.pixels[:]).reshape(SIZE, SIZE, -1)[::-1, :, :3]
    bpy.data.images.remove(image)
    return pixels


def near(pixels: Any, colour: int) -> Any:
    """(H, W) where the picture has a colour of the head."""
    from mathutils import Color

    wanted = np.array(Color(COLOURS[colour]).from_scene_linear_to_srgb())
    return np.abs(pixels - wanted).max(-1) < 0.06


def test_it_can_be_seen(blend: Any, tmp_path: Path) -> None:
    scene = blend.context.scene
    scene.render.fps = 25
    rig, _ = head(bpy, others=True)
    face_keys.write_face(face_rig.find(rig), acted(), "clip", 1, scene)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    camera.location, camera.rotation_euler = (0, -1, MOUTH[2] + 0.04), (np.pi / 2, 0, 0)
    camera.data.type, camera.data.ortho_scale = "ORTHO", 0.3
    scene.camera = camera
    scene.render.engine = "BLENDER_WORKBENCH"
    scene.display.shading.light, scene.display.shading.color_type = "FLAT", "MATERIAL"
    scene.render.resolution_x = scene.render.resolution_y = SIZE
    scene.view_settings.view_transform = "Standard"
    pictures = {frame: shown(scene, tmp_path, frame) for frame in (REST, SMILE, BLINK, NOD)}
    lips = {frame: np.argwhere(near(each, LIPS)) for frame, each in pictures.items()}
    assert all(len(each) > 20 for each in lips.values())

    def corners(frame: int) -> tuple[float, float]:
        """How wide the mouth is, and how far its ends lie above its middle, in pixels."""
        rows, columns = lips[frame].T
        ends = (columns <= columns.min() + 2) | (columns >= columns.max() - 2)
        middle = np.abs(columns - columns.mean()) < 3
        return float(np.ptp(columns)), float(rows[middle].mean() - rows[ends].mean())

    assert corners(SMILE)[0] > 1.06 * corners(REST)[0] and corners(SMILE)[1] > corners(REST)[1] + 4
    pupils = {frame: int(near(each, BLACK).sum()) for frame, each in pictures.items()}
    assert pupils[REST] > 30 and pupils[BLINK] < 0.1 * pupils[REST] and pupils[SMILE] > 0.8 * pupils[REST]
    assert lips[NOD][:, 0].mean() > lips[REST][:, 0].mean() + 3  # the mouth goes down and back
    assert len(EYES) == 2
