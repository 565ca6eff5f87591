# SPDX-License-Identifier: GPL-3.0-or-later
"""Many clips in one go: the files are right and always the same, bad clips stop nothing, and no end loses anything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
addon_utils = pytest.importorskip("addon_utils")
pytest.importorskip("av", reason="needs PyAV to make test movies")
pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")

from characters import mixamo  # noqa: E402
from models import write_tiny  # noqa: E402
from movies import numbered, write_movie, write_sound  # noqa: E402

from hero_blender import bake_preview, command, compat, export  # noqa: E402
from hero_core import batch, bvh, bvh_out, picture  # noqa: E402

ROOT = Path(__file__).parents[2]

# Minutes in all Blenders, and nothing in it depends on Blender's version.
once = pytest.mark.skipif(bpy.app.version[:2] != (4, 5), reason="looked at in Blender 4.5 alone")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a rig as .blend with a body and as .fbx, and clips of different rates."""
    folder = tmp_path_factory.mktemp("bake")
    write_tiny(folder / "tiny")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    rig = mixamo(bpy, "knight")
    bpy.context.scene.render.fps = 24
    add_body(rig)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "knight.blend"))
    addon_utils.enable("io_scene_fbx")
    bpy.ops.export_scene.fbx(filepath=str(folder / "squire.fbx"), add_leaf_bones=False, bake_anim=False)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    for number in range(8):
        clip(folder / "clips" / f"{number:02}.mp4", number, 24 if number % 2 else 30)
    return folder


def add_body(rig: Any) -> None:
    """A box on the hips, so that there is a mesh to export."""
    mesh = bpy.data.meshes.new("Body")
    mesh.from_pydata([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 2)], [], [(0, 1, 3, 2), (4, 6, 7, 5)])
    obj = bpy.data.objects.new("Body", mesh)
    bpy.context.scene.collection.objects.link(obj)
    obj.parent = rig
    obj.vertex_groups.new(name="mixamorig:Hips").add(range(8), 1.0, "REPLACE")
    obj.modifiers.new("Armature", "ARMATURE").object = rig


def clip(path: Path, number: int = 0, fps: int = 25, frames: int = 50) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [np.roll(numbered(i, 96, 64), 7 * number, 1) for i in range(frames)]
    return write_movie(path, images, fps=fps, size=(96, 64))


def bake(*args: object) -> int:
    return command.main(["bake", *map(str, args)], standalone=True)


def usual(place: Path, out: Path, *args: object) -> list[object]:
    rig = [] if "--rig" in args else ["--rig", place / "knight.blend"]
    return ["--out", out, "--model", place / "tiny", "--seconds", "1", *rig, *args]


def manifest(out: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return data


def some(place: Path, folder: Path, count: int) -> Path:
    """A folder with the first clips."""
    folder.mkdir()
    for path in sorted((place / "clips").iterdir())[:count]:
        os.link(path, folder / path.name)
    return folder


def files(out: Path) -> dict[str, bytes]:
    """Content by name, without what tells of the work."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and batch.STATE_FOLDER not in path.parts and path.name != "manifest.json"
    }


# --- What is written ---


def heads(rig: Any, frames: list[int]) -> Any:
    """(N, J, 3) where the bones are in the world, in the order of their names."""
    out = []
    for frame in frames:
        bpy.context.scene.frame_set(frame)
        world = np.array(rig.matrix_world)
        bones = sorted(rig.pose.bones, key=lambda bone: bone.name)
        out.append(np.array([bone.head for bone in bones]) @ world[:3, :3].T + world[:3, 3])
    return np.array(out)


def test_all_formats_hold_the_same_motion(place: Path, tmp_path: Path) -> None:
    clips = some(place, tmp_path / "clips", 1)
    out = tmp_path / "out"
    assert bake(clips, *usual(place, out, "--format", *export.FORMATS, "--seconds", "2", "--seed", "3")) == 0
    assert set(files(out)) == {f"00_knight_seed3.{kind}" for kind in export.FORMATS}

    bpy.ops.wm.open_mainfile(filepath=str(out / "00_knight_seed3.blend"))
    scene, rig = bpy.context.scene, bpy.data.objects["knight"]
    action, _ = compat.assigned_action(rig)
    first, last = (round(frame) for frame in action.frame_range)
    assert (first, scene.render.fps) == (1, 24)
    assert last == int(np.ceil(1 + 39 * 24 / 20))
    assert compat.strips_of(scene)[0].type == "MOVIE"
    shown = [1, 9, 20, last]
    wanted = heads(rig, shown)
    names = sorted(bone.name for bone in rig.pose.bones)
    assert np.abs(wanted - wanted[0]).max() > 0.05

    read = bvh.read(out / "00_knight_seed3.bvh")
    assert read.fps == 24.0 and len(read.values) == last - first + 1
    order = [read.names.index(name) for name in names]
    places = read.poses[0][:, order][np.array(shown) - 1]
    assert np.abs(places @ [[1, 0, 0], [0, 0, 1], [0, -1, 0]] - wanted).max() < 1e-3  # Y up there, Z up here

    for kind in ("fbx", "glb"):
        bpy.ops.wm.read_factory_settings(use_empty=True)
        bpy.context.scene.render.fps = 24
        if kind == "fbx":
            bpy.ops.import_scene.fbx(filepath=str(out / "00_knight_seed3.fbx"))
        else:
            bpy.ops.import_scene.gltf(filepath=str(out / "00_knight_seed3.glb"))
        (back,) = [obj for obj in bpy.data.objects if obj.type == "ARMATURE"]
        assert [obj for obj in bpy.data.objects if obj.type == "MESH" and obj.find_armature() == back], kind
        assert sorted(bone.name for bone in back.pose.bones) == names, kind
        begin = compat.assigned_action(back)[0].frame_range[0]
        later = [round(begin) + frame - 1 for frame in shown]
        assert np.abs(heads(back, later) - wanted).max() < 2e-3, kind


def test_a_batch_writes_what_single_runs_write(place: Path, tmp_path: Path) -> None:
    """Neither neighbours nor their order nor the process matter: bytes where the format has no addresses in it."""
    clips, out, other = some(place, tmp_path / "clips", 3), tmp_path / "out", tmp_path / "other"
    choices = ["--delay", "5", "--mirror", "--start-pose"]
    assert bake(clips, *usual(place, out, "--format", *export.FORMATS, "--takes", "2", *choices)) == 0
    rows = [{"clip": f"clips/{number:02}.mp4", "seed": seed} for number in (2, 0, 1) for seed in (1, 0)]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    call = [sys.executable, "-m", "hero_blender", "bake", tmp_path / "list.json"]
    call += usual(place, other, "--format", *export.FORMATS, *choices)
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    assert (
        subprocess.run([str(part) for part in call], cwd=ROOT, env=env, capture_output=True, check=False).returncode
        == 0
    )
    first, second = files(out), files(other)
    assert {Path(name).name for name in second} == set(first) and len(first) == 24
    for name, data in second.items():
        if not name.endswith(".blend"):
            assert data == first[Path(name).name], name
    # And the .blend holds what ``react`` makes.
    call = ["react", "--video", clips / "01.mp4", "--rig", place / "knight.blend", "--out", tmp_path / "single.blend"]
    call += ["--model", place / "tiny", "--seconds", "1", "--seed", "1", *choices]
    assert command.main([str(part) for part in call], standalone=True) == 0
    states = []
    for path in (tmp_path / "single.blend", out / "01_knight_seed1.blend", next(other.rglob("01_knight_seed1.blend"))):
        bpy.ops.wm.open_mainfile(filepath=str(path))
        states.append(content())
    assert states[0] == states[1] == states[2]


def content() -> Any:
    """What the open file holds: its blocks, the curves, the poses, the scene."""
    scene = bpy.context.scene
    rig = next(obj for obj in scene.objects if obj.type == "ARMATURE")
    action, _ = compat.assigned_action(rig)
    curves = [
        (curve.data_path, curve.array_index, [(*k.co, *k.handle_left, *k.handle_right) for k in curve.keyframe_points])
        for curve in compat.fcurves_of(action, rig)
    ]  # fmt: skip
    kinds = (
        "actions",
        "objects",
        "meshes",
        "armatures",
        "scenes",
        "cameras",
        "lights",
        "materials",
        "worlds",
        "images",
    )
    blocks = [[block.name for block in getattr(bpy.data, kind)] for kind in kinds]
    times = scene.frame_start, scene.frame_end, scene.frame_current, scene.render.fps, scene.render.fps_base
    strips = [(strip.name, *compat.strip_range(strip)) for strip in compat.strips_of(scene)]
    pose = [tuple(bone.matrix_basis.row[i]) for bone in rig.pose.bones for i in range(4)]
    return json.loads(json.dumps([curves, blocks, times, strips, [list(map(float, row)) for row in pose]]))


def test_rigs_takes_and_previews(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rigs, one of them imported, two takes, and pictures; nothing of the pictures is in the files."""
    clips, out = some(place, tmp_path / "clips", 1), tmp_path / "out"
    rigs = place / "knight.blend", place / "squire.fbx"
    assert bake(clips, *usual(place, out, "--takes", 2, "--rig", *rigs)) == 0
    pictured = tmp_path / "pictured"
    monkeypatch.setattr(bake_preview, "SIZE", 80)
    assert bake(clips, *usual(place, pictured, "--preview", "sheet", "movie", "--rig", rigs[1])) == 0
    stems = [f"00_{rig}_seed{seed}" for rig in ("knight", "squire") for seed in (0, 1)]
    assert set(files(out)) == {f"{stem}.blend" for stem in stems}
    assert set(files(pictured)) == {f"00_squire_seed0{suffix}" for suffix in (".blend", ".png", ".mp4")}
    sheet = picture.read_image(pictured / "00_squire_seed0.png")
    below = sheet[-114:-34, 80:]
    assert sheet.shape[1] == 8 * 86 + 6 and below.std() > 8  # somebody stands there
    assert len(picture.Clip(pictured / "00_squire_seed0.mp4", (186, 120)).pictures) == 15  # 29 frames at 15 a second
    for path, fps in ((out / "00_knight_seed0.blend", 24), (pictured / "00_squire_seed0.blend", 30)):
        bpy.ops.wm.open_mainfile(filepath=str(path))
        assert bpy.context.scene.render.fps == fps  # that of the clip where the rig has none
        assert len(bpy.data.actions) == len(bpy.data.scenes) == 1
        assert not bpy.data.cameras and not bpy.data.worlds
        assert len(compat.strips_of(bpy.context.scene)) == 1
    entry = manifest(out)["tasks"][1]
    assert (entry["name"], entry["state"], len(entry["files"])) == ("00_squire", "done", 2)
    assert [take["seed"] for take in entry["takes"]] == [0, 1]


def test_a_rig_that_moves_already_is_read_anew(place: Path, tmp_path: Path) -> None:
    clips, out = some(place, tmp_path / "clips", 2), tmp_path / "out"
    bpy.ops.wm.open_mainfile(filepath=str(place / "knight.blend"))
    rig = bpy.data.objects["knight"]
    rig.pose.bones["mixamorig:Hips"].keyframe_insert("location", frame=1)
    compat.assigned_action(rig)[0].name = "Walk"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "walker.blend"))
    call = ["--rig", tmp_path / "walker.blend", "--action", "nla", "--format", "blend", "glb"]
    assert bake(clips, *usual(place, out, *call)) == 0
    for number in (0, 1):
        bpy.ops.wm.open_mainfile(filepath=str(out / f"{number:02}_walker_seed0.blend"))
        tracks = [track.name for track in bpy.data.objects["knight"].animation_data.nla_tracks]
        assert tracks == ["Walk", f"{number:02} take 1 seed 0"]
        assert len(bpy.data.actions) == 2
        wanted = heads(bpy.data.objects["knight"], [3, 20])
        bpy.ops.wm.read_factory_settings(use_empty=True)
        bpy.context.scene.render.fps = 24
        bpy.ops.import_scene.gltf(filepath=str(out / f"{number:02}_walker_seed0.glb"))
        (back,) = [obj for obj in bpy.data.objects if obj.type == "ARMATURE"]
        begin = round(compat.assigned_action(back)[0].frame_range[0])
        assert np.abs(heads(back, [begin + 2, begin + 19]) - wanted).max() < 2e-3


def test_nothing_is_left_behind(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many clips: the file that is open holds the rig and no more."""
    clips, out = some(place, tmp_path / "clips", 2), tmp_path / "out"
    monkeypatch.setattr(bake_preview, "SIZE", 80)
    assert bake(clips, *usual(place, out, "--format", *export.FORMATS, "--preview", "sheet")) == 0
    left = content()
    bpy.ops.wm.open_mainfile(filepath=str(place / "knight.blend"))
    rig = bpy.data.objects["knight"]
    rig.animation_data_create()
    assert left == content()


# --- Bad clips, bad calls ---


def test_bad_clips_are_told_and_stop_nothing(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips, out = tmp_path / "clïps und mehr", tmp_path / "öut put"
    for name in ("a/same name.mp4", "b/same name.mp4", "ü.mp4"):
        clip(clips / name, frames=20)
    (clips / "empty.mp4").touch()
    (clips / "noise.mp4").write_bytes(os.urandom(5000))
    write_sound(clips / "sound.m4a").rename(clips / "sound.mp4")
    (clips / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert bake(clips, *usual(place, out, "--format", "bvh")) == 1
    told = capsys.readouterr()
    good = {"a/same name_knight_seed0.bvh", "b/same name_knight_seed0.bvh", "ü_knight_seed0.bvh"}
    assert set(files(out)) == good
    for name, sentence in (
        ("empty", "is empty"),
        ("noise", "not a video"),
        ("sound", "no video in it"),
        ("gone", "no video file"),
    ):
        line = next(line for line in told.err.splitlines() if line.startswith("failed: ") and f"{name}.mp4" in line)
        assert sentence in line
    assert "3 of 7 done (0 before), 4 failed; 3 files" in told.out
    assert manifest(out)["counts"] == {"done": 3, "failed": 4}
    # Mended clips are all that the next start works on.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.bvh")}
    (clips / "gone.mp4").unlink()
    for name in ("empty", "noise", "sound", "gone"):
        clip(clips / f"{name}.mp4", frames=20)
    assert bake(clips, *usual(place, out, "--format", "bvh")) == 0
    assert "7 of 7 done (3 before), 0 failed" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


def test_only_what_changed_is_made_again(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips, out = some(place, tmp_path / "clips", 4), tmp_path / "out"
    call = usual(place, out, "--format", "bvh")
    assert bake(clips, *call) == 0
    (out / "00_knight_seed0.bvh").unlink()
    (out / "01_knight_seed0.bvh").write_text("spoilt")
    (clips / "02.mp4").unlink()
    clip(clips / "02.mp4", 77)
    clip(clips / "99.mp4", 8)
    kept = (out / "03_knight_seed0.bvh").stat().st_mtime_ns
    capsys.readouterr()
    assert bake(clips, *call) == 0
    assert "5 of 5 done (1 before)" in capsys.readouterr().out
    assert (out / "03_knight_seed0.bvh").stat().st_mtime_ns == kept
    assert bake(clips, *call, "--no-smooth") == 0  # another choice is another result
    assert "5 of 5 done (0 before)" in capsys.readouterr().out


def test_a_bad_rig_in_a_list(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.glb").write_bytes(b"glTF" + bytes(40))
    rows = [(place / "clips/00.mp4", "broken.glb"), (place / "clips/00.mp4", place / "knight.blend"),
            (place / "clips/01.mp4", "none.fbx"), (place / "clips/02.mp4", "broken.glb")]  # fmt: skip
    (tmp_path / "list.csv").write_text("clip,rig\n" + "".join(f"{a},{b}\n" for a, b in rows))
    out = tmp_path / "out"
    assert bake(tmp_path / "list.csv", "--out", out, "--model", place / "tiny", "--format", "glb") == 1
    error = capsys.readouterr().err
    assert error.count("cannot be read") == 2 and error.count("There is no rig file") == 1
    assert list(files(out)) == ["00_knight_seed0.glb"]


def test_calls_that_cannot_be_begun(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips, out = place / "clips", tmp_path / "out"
    (tmp_path / "file").touch()
    (tmp_path / "bad.csv").write_text("film\na.mp4\n")
    nowhere = Path("/proc/hero") if Path("/proc/self").exists() else tmp_path / "file" / "out"
    calls = {
        "no list": ([tmp_path / "none.csv", *usual(place, out)], "no folder or list"),
        "bad list": ([tmp_path / "bad.csv", *usual(place, out)], "the columns are"),
        "no rig": ([clips, *usual(place, out, "--rig", tmp_path / "none.fbx")], "There is no rig file"),
        "no takes": ([clips, *usual(place, out, "--takes", "0")], "At least 1 take"),
        "no such delay": ([clips, *usual(place, out, "--delay", "soon")], "A delay is a number"),
        "no such shard": ([clips, *usual(place, out, "--shard", "5/4")], "A shard is given as"),
        "no model": ([clips, *usual(place, out), "--model", tmp_path / "no"], "no folder of weights"),
        "a file as folder": ([clips, *usual(place, tmp_path / "file")], "cannot be written"),
        "read-only": ([clips, *usual(place, nowhere)], "cannot be written"),
    }  # fmt: skip
    for name, (call, sentence) in calls.items():
        capsys.readouterr()
        assert bake(*call) == 2, name
        error = capsys.readouterr().err
        assert error.startswith("error: ") and sentence in error and error.count("\n") == 1, name
        assert not out.exists(), name
    assert bake(clips, "--format", "exe", "--out", out) == 2


def test_shards_do_their_parts(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips, out = some(place, tmp_path / "clips", 5), tmp_path / "out"
    call = usual(place, out, "--format", "bvh")
    assert bake(clips, *call, "--shard", "2/2") == 0
    assert sorted(files(out)) == ["01_knight_seed0.bvh", "03_knight_seed0.bvh"]
    assert manifest(out)["counts"] == {"waiting": 3, "done": 2}
    assert bake(clips, *call, "--shard", "1/2") == 0
    assert "3 of 3 done (0 before)" in capsys.readouterr().out
    assert manifest(out)["counts"] == {"done": 5}


# --- Ends ---


def start(place: Path, clips: Path, out: Path, *args: object) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "hero_blender", "bake", clips, *usual(place, out, "--format", "bvh", *args)]
    pipe = subprocess.PIPE
    return subprocess.Popen([str(part) for part in call], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def chains(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The files of each task's chain, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    paths = [path for path in (out / batch.STATE_FOLDER).glob("*.*") if path.suffix[1:].isdigit()]
    for path in sorted(paths, key=lambda path: int(path.suffix[1:])):
        found.setdefault(path.stem, []).append(json.loads(path.read_text()))
    return found


def until(condition: Any, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def at_work(out: Path, pid: int) -> bool:
    return any(chain[-1]["state"] == "claimed" and chain[-1]["worker"]["pid"] == pid for chain in chains(out).values())


def test_four_processes_and_one_is_killed(place: Path, tmp_path: Path) -> None:
    """Every clip is done once, and the one that the killed process had by another."""
    clips, out = place / "clips", tmp_path / "out"
    workers = [start(place, clips, out) for _ in range(4)]
    lost = workers[1]
    until(lambda: at_work(out, lost.pid))
    lost.send_signal(signal.SIGSTOP)  # so that it has not just ended its task
    if not at_work(out, lost.pid):
        lost.send_signal(signal.SIGCONT)
        until(lambda: at_work(out, lost.pid))
        lost.send_signal(signal.SIGSTOP)
    lost.kill()
    for worker in workers:
        _, error = worker.communicate(timeout=200)
        assert worker.returncode == (-signal.SIGKILL if worker is lost else 0), error
    found = chains(out)
    assert len(found) == len(files(out)) == 8
    for chain in found.values():
        states = [link["state"] for link in chain]
        assert states.count("done") == 1 and states[-1] == "done"
        claims = [link["worker"]["pid"] for link in chain if link["state"] == "claimed"]
        assert all(pid == lost.pid for pid in claims[:-1]) and claims[-1] == chain[-1]["worker"]["pid"]
    assert any(len(chain) == 3 for chain in found.values())
    assert manifest(out)["counts"] == {"done": 8}
    assert not list(out.rglob("*.part*"))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=once)])
def test_stopped_and_started_again(place: Path, tmp_path: Path, number: signal.Signals) -> None:
    clips, out = place / "clips", tmp_path / "out"
    worker = start(place, clips, out, "--takes", "2")
    until(lambda: len(list(out.glob("*.bvh"))) >= 3)
    worker.send_signal(number)
    told, error = worker.communicate(timeout=60)
    assert worker.returncode == 128 + number
    assert "the same command goes on" in error and not told
    done = [name["file"] for chain in chains(out).values() for name in chain[-1].get("files", ())]
    before = {name: (out / name).stat().st_mtime_ns for name in done}
    assert len(done) >= 2 and not list(out.rglob("*.part*"))
    assert bake(clips, *usual(place, out, "--format", "bvh", "--takes", "2")) == 0
    assert len(files(out)) == 16 and all((out / name).stat().st_mtime_ns == stamp for name, stamp in before.items())


@once
def test_jobs(place: Path, tmp_path: Path) -> None:
    """Two processes, one of which is killed: another takes its place, and the end is that of one process."""
    clips, out, alone = place / "clips", tmp_path / "out", tmp_path / "alone"
    parent = start(place, clips, out, "--jobs", "2")

    def at_work() -> list[int]:
        return [chain[-1]["worker"]["pid"] for chain in chains(out).values() if chain[-1]["state"] == "claimed"]

    until(lambda: out.exists() and at_work())
    os.kill(at_work()[0], signal.SIGKILL)
    told, error = parent.communicate(timeout=200)
    assert parent.returncode == 0, error
    assert "another goes on" in error and "8 of 8 done (0 before), 0 failed; 8 files" in told
    assert bake(clips, *usual(place, alone, "--format", "bvh")) == 0
    assert files(alone) == files(out)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("needs to mount a small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("kind", ["blend", *(pytest.param(kind, marks=once) for kind in ("fbx", "glb", "bvh"))])
def test_a_full_disk(place: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    clips = some(place, tmp_path / "clips", 4)
    with small_disk(tmp_path / "disk", "256k" if kind in ("bvh", "glb") else "1m") as out:
        call = usual(place, out, "--format", kind, "--takes", "3")
        assert bake(clips, *call) == 3
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: The disk of") and "start again" in error
        names = [path.name for path in out.iterdir() if path.name not in (batch.STATE_FOLDER, "manifest.json")]
        assert all(name.endswith(f".{kind}") and not name.startswith(".") for name in names)
        subprocess.run(["mount", "-o", "remount,size=64m", out], check=True)
        assert bake(clips, *call) == 0
        assert len(files(out)) == 12


def test_a_disk_that_is_read_only(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", "8m") as out:
        subprocess.run(["mount", "-o", "remount,ro", out], check=True)
        assert bake(place / "clips", *usual(place, out)) == 2
        assert "cannot be written" in capsys.readouterr().err


# --- BVH ---


def test_bvh_angles_are_those_of_the_turns() -> None:
    rng = np.random.default_rng(0)
    quaternions = np.cumsum(rng.normal(0, 0.1, (200, 4)), 0) + [1, 0, 0, 0]
    quaternions[100] = [0.5**0.5, 0.5**0.5, 0, 0]  # x = 90 degrees, where z and y are one
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    turns = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]).transpose(2, 0, 1)  # fmt: skip
    angles = bvh_out.euler_zxy(turns)
    made = bvh._about(2, angles[:, 0]) @ bvh._about(0, angles[:, 1]) @ bvh._about(1, angles[:, 2])
    assert np.abs(made - turns).max() < 1e-6
