# SPDX-License-Identifier: GPL-3.0-or-later
"""The command lines: the result is there and opens, or an error line, exit code 1 and nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
addon_utils = pytest.importorskip("addon_utils")
pytest.importorskip("av", reason="needs PyAV to make test movies")

from characters import mixamo  # noqa: E402
from movies import write_movie, write_sound  # noqa: E402

from hero_blender import command, compat  # noqa: E402
from hero_core.motion import JOINTS  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rig_file(blend: Any, tmp_path: Path) -> Path:
    mixamo(bpy, "knight")
    blend.context.scene.render.fps = 24
    path = tmp_path / "rig.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    return path


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    return write_movie(tmp_path / "clip.mp4", 60, fps=30, size=(160, 120))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "out.blend"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
    from models import write_tiny

    return str(write_tiny(tmp_path_factory.mktemp("model") / "tiny"))


def run(*args: object) -> int:
    return command.main([str(arg) for arg in args], standalone=True)


def walking(frames: int = 40) -> Any:
    """(N, 22, 3) joints of a figure that stands upright and sways."""
    heights = [0.95, 0.87, 0.87, 1.05, 0.48, 0.48, 1.18, 0.08, 0.08, 1.24, 0.02, 0.02, 1.45, 1.36, 1.36, 1.55,
               1.40, 1.40, 1.12, 1.12, 0.87, 0.87]  # fmt: skip
    sides = [0, 0.06, -0.06, 0, 0.1, -0.1, 0, 0.09, -0.09, 0, 0.11, -0.11, 0, 0.08, -0.08, 0, 0.17, -0.17,
             0.2, -0.2, 0.22, -0.22]  # fmt: skip
    rest = np.stack([sides, heights, np.zeros(22)], -1)
    rest[[10, 11], 2] = 0.13
    joints = np.repeat(rest[None], frames, 0)
    joints[..., 0] += 0.05 * np.sin(np.arange(frames) / 5)[:, None] * joints[..., 1]
    return joints.astype(np.float32)


def test_react_writes_a_file_that_opens_and_moves(
    rig_file: Path, movie: Path, out: Path, model: str, tmp_path: Path
) -> None:
    report_file = tmp_path / "report.json"
    code = run("react", "--video", movie, "--rig", rig_file, "--out", out, "--takes", 2, "--seed", 5, "--model", model,
               "--report", report_file)  # fmt: skip
    assert code == 0
    report = json.loads(report_file.read_text())
    assert report["armature"] == "knight"
    assert report["action"] == "clip take 1 seed 5"
    assert report["first_frame"] == 1
    assert report["frames_per_pose"] == pytest.approx(24 / 20)
    assert report["scale"] > 0
    assert set(report["map"]) == set(JOINTS)
    assert report["map"]["pelvis"] == "mixamorig:Hips"
    assert {"watch", "think", "write"} <= set(report["seconds"])
    assert [path.name for path in out.parent.iterdir()] == ["out.blend"]

    bpy.ops.wm.open_mainfile(filepath=str(out))
    scene, rig = bpy.context.scene, bpy.data.objects["knight"]
    action, slot = compat.assigned_action(rig)
    assert action.name == report["action"]
    assert len(bpy.data.actions) == 2
    if bpy.app.version >= (4, 4):
        assert slot is not None
    assert scene.render.fps == 24
    scene.frame_set(1)
    before = np.array([bone.matrix for bone in rig.pose.bones])
    scene.frame_set(40)
    assert np.abs(np.array([bone.matrix for bone in rig.pose.bones]) - before).max() > 1e-3
    strip = compat.strips_of(scene)[0]
    assert strip.type == "MOVIE"
    assert Path(bpy.path.abspath(strip.filepath)).resolve() == movie
    start, end = compat.strip_range(strip)
    assert start == 1
    assert end - start == pytest.approx(60 * 24 / 30, abs=1)  # at its own speed, not one frame for one


def test_the_model_chooses_the_lengths(
    rig_file: Path, movie: Path, out: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of takes of different lengths the longest is on the timeline whole; models that cannot choose say so."""
    from models import write_tiny

    bpy.ops.wm.open_mainfile(filepath=str(rig_file))
    addon_utils.enable("io_anim_bvh")
    bpy.ops.object.select_all(action="DESELECT")
    bpy.context.view_layer.objects.active = bpy.data.objects["knight"]
    bpy.ops.export_anim.bvh(filepath=str(tmp_path / "knight.bvh"), frame_start=1, frame_end=2)
    call = ["react", "--video", movie, "--rig", tmp_path / "knight.bvh", "--out", out, "--length", "model"]
    assert run(*call, "--model", model) == 1
    assert "does not choose lengths" in capsys.readouterr().err
    assert not list(out.parent.iterdir())
    assert run(*call, "--seconds", 3) == 2
    report_file = tmp_path / "report.json"
    choosing = write_tiny(tmp_path / "choosing", length_head=True)
    assert run(*call, "--model", choosing, "--takes", 4, "--report", report_file) == 0
    report = json.loads(report_file.read_text())
    lengths = [take["frames"] for take in report["takes"]]
    assert max(lengths) > 60 and lengths[0] < max(lengths)  # the clip has 60; the first take is not the longest
    bpy.ops.wm.open_mainfile(filepath=str(out))
    assert bpy.context.scene.frame_end == np.ceil(1 + (max(lengths) - 1) * 30 / 20)


def test_timing_and_place(rig_file: Path, movie: Path, model: str, out: Path) -> None:
    args = ("react", "--video", movie, "--rig", rig_file, "--out", out, "--model", model, "--every-frame")
    assert run(*args, "--delay", "-3", "--time-scale", "2", "--mirror", "--at-origin", "--face-to", "knight") == 1
    assert not out.exists()  # it cannot face itself
    assert run(*args, "--delay=-0.5s", "--time-scale", "2", "--mirror", "--at-origin") == 0
    bpy.ops.wm.open_mainfile(filepath=str(out))
    action, _ = compat.assigned_action(bpy.data.objects["knight"])
    first, last = action.frame_range
    assert first == 1 - 12
    assert last == np.ceil(first + 39 * 24 / 20 * 2)
    assert run(*args, "--delay", "soon") == 1
    assert run(*args, "--face-to", "camera") == 1


def test_react_in_the_opened_file_watches_its_strip(rig_file: Path, movie: Path, model: str) -> None:
    bpy.ops.wm.open_mainfile(filepath=str(rig_file))
    scene = bpy.context.scene
    compat.new_movie_strip(scene, "picked", str(movie), 3, 21)
    bpy.ops.wm.save_mainfile()
    assert command.main(["react", "--strip", "picked", "--armature", "knight", "--model", model]) == 0
    bpy.ops.wm.open_mainfile(filepath=str(rig_file))
    action, _ = compat.assigned_action(bpy.data.objects["knight"])
    assert action.name == "picked take 1 seed 0"
    assert action.frame_range[0] == pytest.approx(21)


def test_retarget_a_motion_and_bare_joints(rig_file: Path, out: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "sway.npy", walking())
    assert run("retarget", "--motion", tmp_path / "sway.npy", "--rig", rig_file, "--out", out) == 0
    bpy.ops.wm.open_mainfile(filepath=str(out))
    action, _ = compat.assigned_action(bpy.data.objects["knight"])
    assert action.name.startswith("sway take 1")
    assert action.frame_range[1] == np.ceil(1 + 39 * 24 / 20)


def test_what_is_left_alone_is_said(
    rig_file: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bpy.ops.wm.open_mainfile(filepath=str(rig_file))
    rig = bpy.data.objects["knight"]
    owner = rig.pose.bones["mixamorig:Head"].constraints.new("COPY_ROTATION")
    owner.target, owner.subtarget = rig, "mixamorig:Hips"
    ik = rig.pose.bones["mixamorig:LeftLeg"].constraints.new("IK")
    ik.target, ik.chain_count = bpy.data.objects.new("Empty", None), 2
    bpy.context.scene.collection.objects.link(ik.target)
    bpy.ops.wm.save_mainfile()
    np.save(tmp_path / "sway.npy", walking())
    assert run("retarget", "--motion", tmp_path / "sway.npy", "--rig", rig_file, "--out", out) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Left alone in 'knight'"))
    assert "constraints or drivers own" in line and "'mixamorig:Head'" in line
    assert "the IK of 'mixamorig:LeftLeg' has its target outside the armature" in line


def test_existing_output_is_replaced_or_kept_whole(rig_file: Path, out: Path, tmp_path: Path) -> None:
    out.write_bytes(b"former")
    np.save(tmp_path / "bad.npy", np.full((10, 22, 3), np.nan))
    assert run("retarget", "--motion", tmp_path / "bad.npy", "--rig", rig_file, "--out", out) == 1
    assert out.read_bytes() == b"former"
    np.save(tmp_path / "good.npy", walking())
    assert run("retarget", "--motion", tmp_path / "good.npy", "--rig", rig_file, "--out", out) == 0
    assert out.stat().st_size > 10_000
    assert [path.name for path in out.parent.iterdir()] == ["out.blend"]


def bad_calls(tmp_path: Path, rig: Path, movie: Path, out: Path) -> dict[str, tuple[list[object], str]]:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "empty.blend").touch()
    np.save(tmp_path / "shape.npy", np.zeros((10, 21, 3)))
    react: list[object] = ["react", "--rig", rig, "--out", out]
    return {
        "no video": ([*react, "--video", tmp_path / "none.mp4"], "There is no video file"),
        "empty video": ([*react, "--video", tmp_path / "empty.mp4"], "is empty"),
        "sound alone": ([*react, "--video", write_sound(tmp_path / "s.m4a")], "no video in it"),
        "no rig": (["react", "--video", movie, "--rig", tmp_path / "none.blend", "--out", out], "There is no rig file"),
        "rig of no kind": (["react", "--video", movie, "--rig", movie, "--out", out], "no rig that HERO reads"),
        "no such armature": ([*react, "--video", movie, "--armature", "nobody"], "no armature 'nobody'"),
        "no takes": ([*react, "--video", movie, "--takes", "0"], "At least 1 take"),
        "no folder": (["react", "--video", movie, "--rig", rig, "--out", tmp_path / "none/o.blend"], "no folder"),
        "out of another kind": (
            ["react", "--video", movie, "--rig", rig, "--out", tmp_path / "o.txt"],
            "end in .blend",
        ),
        "report of another kind": ([*react, "--video", movie, "--report", tmp_path / "o.txt"], "end in .json"),
        "motion of another shape": (
            ["retarget", "--motion", tmp_path / "shape.npy", "--rig", rig, "--out", out],
            "22, 3",
        ),
        "no motion": (["retarget", "--motion", tmp_path / "n.npz", "--rig", rig, "--out", out], "no motion file"),
    }


def test_bad_input_is_one_line_and_leaves_nothing(
    rig_file: Path, movie: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (call, sentence) in bad_calls(tmp_path, rig_file, movie, out).items():
        capsys.readouterr()
        assert run(*call) == 1, name
        error = capsys.readouterr().err
        assert error.startswith("error: "), name
        assert sentence in error, name
        assert error.count("\n") == 1, name
        assert not list(out.parent.iterdir()), name


@pytest.mark.parametrize("seconds", ["0", "0.15", "20"])
def test_lengths_that_cannot_be_made(
    rig_file: Path, movie: Path, out: Path, model: str, seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["react", "--video", movie, "--rig", rig_file, "--out", out, "--model", model, "--seconds", seconds]
    assert run(*call) == 1
    assert "4 to 200 frames" in capsys.readouterr().err
    assert not list(out.parent.iterdir())


def test_place_that_cannot_be_written_is_told_before_the_work(
    rig_file: Path, movie: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hero_blender.react.react_video", lambda *_: pytest.fail("work was begun"))
    monkeypatch.setattr("hero_blender.rigfile.load_rig", lambda *_: pytest.fail("the rig was loaded"))
    (tmp_path / "file").touch()
    place = Path("/proc/hero.blend") if Path("/proc/self").exists() else tmp_path / "file" / "out.blend"
    assert run("react", "--video", movie, "--rig", rig_file, "--out", place) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_failed_save_leaves_nothing(
    rig_file: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "good.npy", walking())
    report = tmp_path / "out" / "report.json"

    def fails(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    call = ["retarget", "--motion", tmp_path / "good.npy", "--rig", rig_file, "--out", out, "--report", report]
    assert run(*call) == 1
    assert "No space left" in capsys.readouterr().err
    assert not list(out.parent.iterdir())


def test_strip_has_to_be_named_where_there_are_several(
    rig_file: Path, movie: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bpy.ops.wm.open_mainfile(filepath=str(rig_file))
    scene = bpy.context.scene
    assert command.main(["react", "--out", str(out)]) == 1
    assert "the sequencer has: none" in capsys.readouterr().err
    for channel, name in enumerate(("one", "two"), 1):
        compat.new_movie_strip(scene, name, str(movie), channel, 1)
    scene.sequence_editor.active_strip = None
    assert command.main(["react", "--out", str(out)]) == 1
    assert "'one', 'two'" in capsys.readouterr().err
    assert command.main(["react", "--out", str(out), "--strip", "three"]) == 1
    assert "no strip 'three'" in capsys.readouterr().err


def test_as_a_process(rig_file: Path, out: Path, tmp_path: Path) -> None:
    """Exit codes, one line, and an end that neither hangs nor aborts."""
    np.save(tmp_path / "good.npy", walking())
    base = [sys.executable, "-m", "hero_blender"]
    good = [*base, "retarget", "--motion", str(tmp_path / "good.npy"), "--rig", str(rig_file), "--out", str(out)]
    done = subprocess.run(good, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert out.is_file()
    bad = [*good[:-1], str(tmp_path / "none" / "out.blend")]
    done = subprocess.run(bad, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: There is no folder")
    done = subprocess.run([*base, "dance"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
