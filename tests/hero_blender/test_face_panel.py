# SPDX-License-Identifier: GPL-3.0-or-later
"""Strip to face in real Blender: what is heard, the panel's operators, the body's reaction with a face on top."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytest.importorskip("av", reason="needs PyAV to make test movies")

from heads import head  # noqa: E402
from movies import write_movie  # noqa: E402

import hero_blender  # noqa: E402
from hero_blender import command, compat, face, face_keys, face_rig, sound  # noqa: E402
from hero_core.errors import Cancelled, HeroError  # noqa: E402
from hero_core.face import sound as core  # noqa: E402

RATE = 16000


@pytest.fixture
def addon(blend: Any) -> Iterator[Any]:
    hero_blender.register()
    blend.context.scene.render.fps = 25
    yield blend
    hero_blender.unregister()


def write_wave(path: Path, samples: Any, rate: int = 48000) -> Path:
    """16-bit samples (N, channels) of -1 .. 1."""
    samples = np.atleast_2d(np.asarray(samples).T).T
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return path


def beeps(seconds: float, rate: int = 48000) -> Any:
    """A beep of 0.2 s at the begin of each second, louder from second to second: it tells where one is."""
    t = np.arange(int(seconds * rate)) / rate
    return np.where(t % 1 < 0.2, 0.05 * (1 + np.floor(t)) * np.sin(2 * np.pi * 440 * t), 0)


def loudness(heard: Any, second: float) -> float:
    start = int((second + 0.05) * RATE)
    return float(np.abs(heard.samples[start : start + RATE // 10]).max())


def sound_strip(scene: Any, path: Path, channel: int, start: int) -> Any:
    editor = scene.sequence_editor or scene.sequence_editor_create()
    try:
        return compat.strips_of(editor).new_sound(name="sound", filepath=str(path), channel=channel, frame_start=start)
    except RuntimeError:
        pytest.skip("this Blender was built without sound, and has no sound strips")


def movie_strip(scene: Any, folder: Path, seconds: int, start: int, samples: Any = None) -> Any:
    """A movie strip of beeps, which every Blender has."""
    path = movie_with(folder / "sound.mp4", seconds, beeps(seconds) if samples is None else samples)
    return compat.new_movie_strip(scene, "sound", str(path), 1, start)


def movie_with(path: Path, seconds: int, samples: Any, rate: int = 48000) -> Path:
    """A movie with the sound of the samples."""
    import av

    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=rate, layout="mono")
        for _ in range(25 * seconds):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(picture.encode(None))
        for start in range(0, len(samples) - 1023, 1024):
            frame = av.AudioFrame.from_ndarray(
                samples[None, start : start + 1024].astype(np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = rate, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


# --- sound ---------------------------------------------------------------------------------------------------------


def test_trims_and_offsets_of_a_sound_strip(addon: Any, tmp_path: Path) -> None:
    scene = addon.context.scene
    strip = sound_strip(scene, write_wave(tmp_path / "a.wav", beeps(8)), 1, 11)
    strip.frame_offset_start = 50  # two seconds cut off
    strip.frame_offset_end = 25
    plan = sound.plan(scene, strip)
    assert plan is not None
    heard = plan.read()
    assert heard.duration == pytest.approx(5.0, abs=0.05)
    assert [loudness(heard, s) for s in range(5)] == pytest.approx([0.05 * (3 + s) for s in range(5)], rel=0.1)


def test_a_scene_of_another_rate(addon: Any, tmp_path: Path) -> None:
    scene = addon.context.scene
    scene.render.fps = 30
    strip = sound_strip(scene, write_wave(tmp_path / "a.wav", beeps(4)), 1, 1)
    strip.frame_offset_start = 30
    heard = sound.plan(scene, strip).read()  # type: ignore[union-attr]
    assert loudness(heard, 0) == pytest.approx(0.1, rel=0.1) and loudness(heard, 1) == pytest.approx(0.15, rel=0.1)


def test_a_movie_strip_is_heard_by_its_file_or_by_the_sound_beside_it(addon: Any, tmp_path: Path) -> None:
    scene = addon.context.scene
    path = movie_with(tmp_path / "m.mp4", 4, beeps(4))
    movie = compat.new_movie_strip(scene, "m", str(path), 1, 1)
    movie.frame_offset_start = 25
    alone = sound.plan(scene, movie)
    assert alone is not None
    assert [loudness(alone.read(), s) for s in (0, 1, 2)] == pytest.approx([0.1, 0.15, 0.2], rel=0.15)
    beside = sound_strip(scene, path, 2, 26)  # of the same file, slipped by a second
    heard = sound.plan(scene, movie)
    assert heard is not None and heard.name == beside.name
    assert loudness(heard.read(), 0) == pytest.approx(0.05, rel=0.15)
    beside.volume = 0.5
    assert loudness(sound.plan(scene, movie).read(), 0) == pytest.approx(0.025, rel=0.2)  # type: ignore[union-attr]
    beside.mute = True
    assert sound.plan(scene, movie) is None


def test_a_movie_that_plays_frame_by_frame_in_a_faster_scene(addon: Any, tmp_path: Path) -> None:
    scene = addon.context.scene
    scene.render.fps = 50  # 25 frames per second of footage then take half as long
    movie = compat.new_movie_strip(scene, "m", str(movie_with(tmp_path / "m.mp4", 4, beeps(4))), 1, 1)
    plan = sound.plan(scene, movie)
    assert plan is not None and plan.speed == pytest.approx(2.0)
    heard = plan.read()
    assert heard.duration == pytest.approx(2.0, abs=0.05)
    assert loudness(heard, 0.5) == pytest.approx(0.1, rel=0.2) and loudness(heard, 1.0) == pytest.approx(0.15, rel=0.2)


@pytest.mark.parametrize(("channels", "rate"), [(1, 16000), (2, 44100), (8, 48000)])
def test_both_decoders_mix_alike(addon: Any, tmp_path: Path, channels: int, rate: int) -> None:
    t = np.arange(rate) / rate
    samples = np.stack([0.3 * np.sin(2 * np.pi * 200 * (k + 1) * t) for k in range(channels)], 1)
    path = write_wave(tmp_path / "a.wav", samples, rate)
    ours = core.read(path)
    blenders = sound._by_aud(str(path))
    if blenders is None:
        pytest.skip("this Blender has no aud; PyAV alone is used")
    count = min(len(ours.samples), len(blenders.samples))
    assert abs(len(ours.samples) - len(blenders.samples)) <= 1
    assert np.abs(ours.samples[:count] - blenders.samples[:count]).max() < 2e-3
    assert ("channels were averaged" in " ".join(blenders.notes)) == (channels > 2)


def test_both_decoders_hear_a_movie_at_the_same_time(addon: Any, tmp_path: Path) -> None:
    path = movie_with(tmp_path / "m.mp4", 3, beeps(3))
    blenders = sound._by_aud(str(path))
    if blenders is None:
        pytest.skip("this Blender has no aud; PyAV alone is used")
    ours = core.read(path)
    begins = [int(np.flatnonzero(np.abs(x.samples) > 0.02)[0]) for x in (ours, blenders)]
    assert abs(begins[0] - begins[1]) < RATE // 25  # less than a frame


def test_silence_clipping_and_no_sound_are_said(addon: Any, tmp_path: Path) -> None:
    scene = addon.context.scene
    settings = face.FaceSettings()
    notes = {}
    for name, samples in (("silent", np.zeros(48000 * 2)), ("clipped", 5 * np.sin(np.arange(96000) * 0.05))):
        strip = movie_strip(scene, tmp_path, 2, 1, samples)
        made = face.face_take(sound.plan(scene, strip), 2.0, settings)
        notes[name] = " ".join(made.notes)
        assert made.frames == 50 and np.isfinite(made.coefficients).all()
        compat.strips_of(scene).remove(strip)
    assert "silent" in notes["silent"] and "clipped" in notes["clipped"]
    mute = compat.new_movie_strip(scene, "m", str(write_movie(tmp_path / "m.mp4", 25, size=(64, 48))), 1, 1)
    assert sound.plan(scene, mute) is None
    assert "no sound" in " ".join(face.face_take(None, 1.0, settings).notes)


def test_a_sound_that_is_packed_into_the_file(addon: Any, tmp_path: Path) -> None:
    scene = addon.context.scene
    path = write_wave(tmp_path / "a.wav", beeps(2))
    strip = sound_strip(scene, path, 1, 1)
    strip.sound.pack()
    path.unlink()
    assert loudness(sound.plan(scene, strip).read(), 1) == pytest.approx(0.1, rel=0.1)  # type: ignore[union-attr]


def test_a_file_that_is_gone_is_an_error(addon: Any, tmp_path: Path) -> None:
    scene = addon.context.scene
    path = write_wave(tmp_path / "a.wav", beeps(2))
    strip = sound_strip(scene, path, 1, 1)
    path.unlink()
    with pytest.raises(HeroError, match="no file"):
        sound.plan(scene, strip).read()  # type: ignore[union-attr]


# --- the job -------------------------------------------------------------------------------------------------------


def test_the_operator_keys_the_face_alone(addon: Any, tmp_path: Path) -> None:
    scene = addon.context.scene
    rig, mesh = head(bpy, others=True)
    strip = movie_strip(scene, tmp_path, 4, 21)
    scene.hero_face.kind = "RULES"
    scene.hero.strip, scene.hero.armature, scene.hero.takes, scene.hero.seed = strip.name, rig, 2, 3
    assert bpy.ops.hero.react_face() == {"FINISHED"}
    action, _ = compat.assigned_action(mesh.data.shape_keys)
    assert action.name == "sound take 1 seed 3 Head" and action.frame_range[0] == 21
    assert "sound take 2 seed 4 Head" in bpy.data.actions
    assert "ARKit" in rig.hero_face.told
    again = {take: bpy.data.actions[f"sound take {take} seed {2 + take} Head"] for take in (1, 2)}
    scene.hero.takes, scene.hero.seed = 1, 4
    assert bpy.ops.hero.react_face() == {"FINISHED"}  # seed 4 alone is take 2 of seed 3
    fresh, _ = compat.assigned_action(mesh.data.shape_keys)
    pairs = [compat.fcurves_of(each, mesh.data.shape_keys) for each in (again[2], fresh)]
    for a, b in zip(*pairs, strict=True):
        assert a.data_path == b.data_path
        assert [tuple(key.co) for key in a.keyframe_points] == [tuple(key.co) for key in b.keyframe_points]


def test_what_is_missing_is_said(addon: Any, tmp_path: Path) -> None:
    from hero_blender import face_panel

    scene = addon.context.scene
    assert "what makes" in str(face_panel.missing(addon.context))
    scene.hero_face.kind = "RULES"
    assert "strip" in str(face_panel.missing(addon.context))
    strip = movie_strip(scene, tmp_path, 2, 1)
    scene.sequence_editor.active_strip = strip
    assert "head" in str(face_panel.missing(addon.context))
    _, bare = head(bpy, names=(), armature=False)
    addon.context.view_layer.objects.active = bare
    assert face_panel.missing(addon.context) is None
    with pytest.raises(RuntimeError, match="no shape keys"):
        bpy.ops.hero.react_face()
    scene.hero_face.kind = "MODEL"
    assert "weights" in str(face_panel.missing(addon.context))


def test_map_operators(addon: Any, tmp_path: Path) -> None:
    _, mesh = head(bpy, armature=False)
    addon.context.view_layer.objects.active = mesh
    assert bpy.ops.hero.face_map_find() == {"FINISHED"}
    assert mesh.hero_face.chosen and len(mesh.hero_face.rows) == 52
    mesh.hero_face.active = 3
    gone = mesh.hero_face.rows[3].target
    assert bpy.ops.hero.face_map_remove() == {"FINISHED"}
    assert bpy.ops.hero.face_map_export(filepath=str(tmp_path / "map.json")) == {"FINISHED"}
    assert bpy.ops.hero.face_map_forget() == {"FINISHED"}
    assert gone in face_rig.find(None, mesh).map.keys
    assert bpy.ops.hero.face_map_import(filepath=str(tmp_path / "map.json")) == {"FINISHED"}
    assert gone not in face_rig.find(None, mesh).map.keys
    assert bpy.ops.hero.face_map_add() == {"FINISHED"}
    mesh.hero_face.rows[-1].target, mesh.hero_face.rows[-1].source = gone, "AU12Left"
    assert face_rig.find(None, mesh).map.keys[gone] == {"AU12Left": 1.0}
    assert bpy.ops.hero.face_map_keep(preset="mine") == {"FINISHED"}
    assert (face_rig.folders()[0] / "mine.json").is_file()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(RuntimeError, match="cannot be used"):
        bpy.ops.hero.face_map_import(filepath=str(tmp_path / "bad.json"))


def test_cancel_leaves_nothing(addon: Any, tmp_path: Path) -> None:
    scene = addon.context.scene
    rig, mesh = head(bpy)
    strip = movie_strip(scene, tmp_path, 4, 1)
    job = face.FaceJob(scene, strip, rig, None, face.FaceSettings(takes=50))
    job.cancel()
    with pytest.raises(Cancelled):
        job.step()
    job.close()
    assert not bpy.data.actions and compat.assigned_action(mesh.data.shape_keys)[0] is None
    with pytest.raises(Cancelled):
        face.react_face(scene, strip, rig, None, face.FaceSettings(takes=50), lambda _done, _total: False)


def test_a_file_is_heard_from_the_frame_that_is_said(addon: Any, tmp_path: Path) -> None:
    _, mesh = head(bpy, armature=False)
    path = movie_with(tmp_path / "m.mp4", 2, beeps(2))
    report = face.react_face(addon.context.scene, str(path), None, mesh, face.FaceSettings(), start=31)
    assert report["first_frame"] == 31 and report["frames"] == 50
    assert report["source"] == "rule-based listener (not learned)"


def test_the_speakers_curves_are_mimicked(addon: Any, tmp_path: Path) -> None:
    rows = ["Timecode,BlendShapeCount,MouthSmileLeft,MouthSmileRight"]
    rows += [f"00:00:{i // 30:02d}:{i % 30:02d}.000,61,{s},{s}" for i, s in enumerate([0.0] * 30 + [0.9] * 60)]
    (tmp_path / "face.csv").write_text("\n".join(rows))
    faces = [
        face.face_take(None, 4.0, face.FaceSettings(speaker=speaker)) for speaker in ("", str(tmp_path / "face.csv"))
    ]
    smiles = [each.coefficients[0, 60:, 43].mean() for each in faces]
    assert smiles[1] > smiles[0] + 0.1
    with pytest.raises(HeroError, match="no file"):
        face.check(None, None, face.FaceSettings(speaker="nowhere.csv"))


# --- beside the body -----------------------------------------------------------------------------------------------


def actor(folder: Path) -> tuple[Any, Any]:
    """A character with a body, and a head of shape keys on it."""
    pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")
    from characters import mixamo

    rig = mixamo(bpy)
    _, mesh = head(bpy, armature=False)
    mesh.parent = rig
    return rig, mesh


def test_body_and_face_together(addon: Any, tmp_path: Path) -> None:
    scene = addon.context.scene
    rig, mesh = actor(tmp_path)
    from models import write_tiny

    strip = movie_strip(scene, tmp_path, 3, 11)
    scene.hero.strip, scene.hero.armature, scene.hero.takes, scene.hero.seed = strip.name, rig, 2, 4
    scene.hero.model = str(write_tiny(tmp_path / "tiny"))
    assert bpy.ops.hero.react() == {"FINISHED"}
    alone = compat.assigned_action(rig)[0]
    names = {curve.data_path for curve in compat.fcurves_of(alone, rig)}
    assert compat.assigned_action(mesh.data.shape_keys)[0] is None
    scene.hero_face.kind = "RULES"
    assert bpy.ops.hero.react() == {"FINISHED"}
    both = compat.assigned_action(rig)[0]
    assert both != alone and both.get(face_keys.UNDER) and not alone.get(face_keys.UNDER)
    assert {curve.data_path for curve in compat.fcurves_of(both, rig)} >= names
    action, _ = compat.assigned_action(mesh.data.shape_keys)
    assert action.name.startswith("sound take 1 seed 4 Head")
    assert any(each.name.startswith("sound take 2 seed 5 Head") for each in bpy.data.actions)
    assert both.frame_range[0] == action.frame_range[0] == 11
    face_keys.take_out(both, rig)  # the body's own again
    for a, b in zip(compat.fcurves_of(alone, rig), sorted_like(alone, both, rig), strict=True):
        assert np.allclose([k.co for k in a.keyframe_points], [k.co for k in b.keyframe_points], atol=1e-4)


def sorted_like(first: Any, second: Any, rig: Any) -> list[Any]:
    """Curves of the second Action in the order of the first."""
    found = {(curve.data_path, curve.array_index): curve for curve in compat.fcurves_of(second, rig)}
    return [found[curve.data_path, curve.array_index] for curve in compat.fcurves_of(first, rig)]


def test_from_a_command_line(blend: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    actor(tmp_path)
    from models import write_tiny

    model = write_tiny(tmp_path / "tiny")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "rig.blend"))
    movie = movie_with(tmp_path / "clip.mp4", 3, beeps(3))
    given = ["react", "--video", movie, "--rig", tmp_path / "rig.blend", "--out", tmp_path / "out.blend",
             "--report", tmp_path / "report.json", "--model", model, "--takes", 2]  # fmt: skip

    def run(*more: object) -> int:
        return command.main([str(each) for each in (*given, *more)], standalone=True)

    assert run("--face", "rules", "--face-emotion", 0.5, "--face-strength", "mouth=0.5", "head=2") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["face"]["source"] == "rule-based listener (not learned)" and report["face"]["map"] == "ARKit"
    assert {row["kind"] for row in report["face"]["takes"]} == {"KEY", "OBJECT"}
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "out.blend"))
    key = bpy.data.objects["Head"].data.shape_keys
    assert compat.assigned_action(key)[0].name == "clip take 1 seed 0 Head"
    bpy.ops.wm.read_factory_settings(use_empty=True)
    (tmp_path / "out.blend").unlink()
    capsys.readouterr()
    for more, told in (
        (("--face", "nowhere"), "ReactDiff weights"),
        (("--face", "off", "--face-emotion", "1"), "--face rules"),
        (("--face", "rules", "--face-strength", "nose=1"), "nose=1"),
        (("--face", "rules", "--face-attentiveness", "7"), "attentiveness"),
        (("--face", "rules", "--face-mesh", "Nobody"), "Nobody"),
    ):
        assert run(*more) == 1
        assert told in capsys.readouterr().err
        assert not (tmp_path / "out.blend").exists()
    assert run("--face", "off") == 0


def test_in_a_batch(blend: Any, tmp_path: Path) -> None:
    actor(tmp_path)
    from models import write_tiny

    model = write_tiny(tmp_path / "tiny")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "rig.blend"))
    (tmp_path / "clips").mkdir()
    movie_with(tmp_path / "clips" / "clip.mp4", 3, beeps(3))
    given = ["bake", tmp_path / "clips", "--rig", tmp_path / "rig.blend", "--out", tmp_path / "out", "--model", model]

    def run(*more: object) -> int:
        return command.main([str(each) for each in (*given, *more)], standalone=True)

    assert run("--face", "nowhere") != 0
    assert run() == 0
    (made,) = (tmp_path / "out").rglob("*.blend")
    before = made.read_bytes()
    assert run("--face", "rules") == 0  # other choices: it is made anew
    (made,) = (tmp_path / "out").rglob("*.blend")
    assert made.read_bytes() != before
    bpy.ops.wm.open_mainfile(filepath=str(made))
    key = bpy.data.objects["Head"].data.shape_keys
    assert compat.assigned_action(key)[0].name == "clip take 1 seed 0 Head"
