# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo: a body that holds together on the rig, a camera that sees all of it, and files that stand on their own."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytest.importorskip("av", reason="needs PyAV to read and write movies")

from movies import write_movie  # noqa: E402

from demo import mannequin, stage  # noqa: E402
from hero_core import picture  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def skin() -> tuple[list[mannequin.Capsule], Any, Any]:
    parts = mannequin.body()
    return parts, *mannequin.surface(parts, voxel=0.02)


def test_the_skin_is_closed_and_faces_outwards(skin: Any) -> None:
    _, vertices, quads = skin
    edges = np.concatenate([quads[:, [i, (i + 1) % 4]] for i in range(4)])
    _, forward = np.unique(edges, axis=0, return_counts=True)
    assert (np.unique(np.sort(edges, axis=1), axis=0, return_counts=True)[1] % 2 == 0).all()
    assert forward.max() <= 2
    a, b, c, d = (vertices[quads[:, i]] for i in range(4))
    volume = (np.einsum("qi,qi", a, np.cross(b, c)) + np.einsum("qi,qi", a, np.cross(c, d))) / 6
    assert 0.06 < volume < 0.12  # cubic metres: a slim adult of 1.98 m
    assert vertices[:, 2].min() > -1e-3
    assert vertices[:, 2].max() == pytest.approx(1.98, abs=0.03)


def test_left_and_right_are_alike(skin: Any) -> None:
    parts, vertices, _ = skin
    mirrored = vertices * (-1, 1, 1)
    assert np.abs(mannequin.field(parts, mirrored)).max() < 5e-3


def test_each_vertex_hangs_on_bones_of_the_rig(blend: Any, skin: Any) -> None:
    from demo.__main__ import _rigify_human

    rig = _rigify_human()
    bones, share = mannequin.weights(*skin[:2])
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-6)
    assert ((share > 0).sum(1) <= 4).all()
    deform = {bone.name for bone in rig.data.bones if bone.use_deform}
    assert {f"DEF-{bone}" for bone in bones} <= deform
    # a hand follows the hand, a foot the foot
    for bone in ("hand.L", "hand.R", "foot.L", "spine.006"):
        middle = rig.data.bones[f"DEF-{bone}"].tail_local
        nearest = int(np.linalg.norm(skin[1] - np.array(middle), axis=1).argmin())
        assert share[nearest, bones.index(bone)] > 0.5


@pytest.mark.parametrize("aspect", [1.0, 16 / 9])
def test_the_camera_sees_every_point_and_no_more_than_it_must(blend: Any, aspect: float) -> None:
    from bpy_extras.object_utils import world_to_camera_view
    from mathutils import Vector

    scene = blend.context.scene
    scene.render.resolution_x, scene.render.resolution_y = round(900 * aspect), 900
    points = np.random.default_rng(0).normal((0.5, -1.0, 1.0), (0.8, 1.5, 0.4), (200, 3))
    eye = stage.camera(scene, points, aspect)
    blend.context.view_layer.update()
    seen = np.array([world_to_camera_view(scene, eye, Vector(point)) for point in points])
    assert (seen[:, 2] > 0).all()
    assert seen[:, :2].min() > -1e-3 and seen[:, :2].max() < 1 + 1e-3
    assert max(np.ptp(seen[:, 0]), np.ptp(seen[:, 1])) > 0.9


def test_pictures_of_a_clip_by_time(tmp_path: Path) -> None:
    pictures = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(10)]
    picture.write_movie(tmp_path / "clip.mp4", pictures, Fraction(25, 2))
    clip = picture.Clip(tmp_path / "clip.mp4", (64, 48))
    assert [round(clip.at(i / 12.5).mean() / 20) for i in range(10)] == list(range(10))
    assert clip.at(0.079).mean() == pytest.approx(0, abs=4)  # not before its time
    assert clip.at(5.0).mean() == pytest.approx(0.35 * 180, abs=4)  # over: the last one, darker
    sheet = picture.contact_sheet([(0.5 * i, p, p) for i, p in enumerate(pictures[:3])])
    picture.write_image(tmp_path / "sheet.png", sheet)
    np.testing.assert_array_equal(picture.read_image(tmp_path / "sheet.png"), sheet)


def test_the_whole_demo_with_a_small_model(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
    from models import write_tiny

    model, movie, out = write_tiny(tmp_path / "model"), write_movie(tmp_path / "see.mp4", 50), tmp_path / "demo"
    arguments = ["--model", str(model), "--video", str(movie), "--out", str(out), "--samples", "1", "--every", "25"]
    result = subprocess.run(
        [sys.executable, "-m", "demo", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    made = {"clip.mp4", "contact_sheet.png", "demo.blend", "preview.mp4", "report.json"}
    assert {file.name for file in out.iterdir()} == made
    assert not (tmp_path / "demo.part").exists()
    report = json.loads((out / "report.json").read_text())
    assert str(tmp_path) not in json.dumps(report) and str(ROOT) not in json.dumps(report)

    bpy.ops.wm.open_mainfile(filepath=str(out / "demo.blend"))
    rig, scene = bpy.data.objects[report["armature"]], bpy.context.scene
    assert rig.animation_data.action.name == report["action"]
    assert [Path(path).name for path in bpy.utils.blend_paths()] == ["clip.mp4"]
    assert all(path.startswith("//") for path in bpy.utils.blend_paths(absolute=False))
    body = bpy.data.objects["Mannequin"]
    shapes = []
    for frame in (scene.frame_start, scene.frame_start + 20):
        scene.frame_set(frame)
        mesh = body.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
        shapes.append(np.array([vertex.co for vertex in mesh.vertices]))
    assert np.abs(shapes[0] - shapes[1]).max() > 1e-3
    assert picture.read_image(out / "contact_sheet.png").std() > 10


def test_a_demo_without_its_clip_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "demo", "--video", str(tmp_path / "none.mp4"), "--out", str(tmp_path / "demo")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "There is no video" in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_is_not_replaced(tmp_path: Path) -> None:
    from demo.__main__ import main

    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["--out", str(tmp_path)]) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
