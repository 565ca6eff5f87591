# SPDX-License-Identifier: GPL-3.0-or-later
"""Face curves of four kinds of files, with columns in another order, other rates, gaps and rubbish."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hero_core.errors import HeroError
from hero_core.face import curves
from hero_core.face.reaction import ARKIT, AUS, INDEX

JAW, SMILE = INDEX["jawOpen"], INDEX["mouthSmileLeft"]


def pascal(name: str) -> str:
    return name[0].upper() + name[1:]


def live_link(folder: Path, rows: Sequence[int], rate: int = 60, order: Sequence[str] = ARKIT) -> Path:
    """Jaw and the head's yaw are seconds / 20; ``rows`` are the frame numbers that were recorded."""
    lines = [
        ",".join(["Timecode", "BlendShapeCount", *(pascal(n) for n in order), "HeadYaw", "HeadPitch", "LeftEyeYaw"])
    ]
    for n in rows:
        t = n / rate
        s, frame = 50 + n // rate, n % rate
        code = f"23:59:{s:02d}:{frame:02d}.500" if s < 60 else f"00:00:{s - 60:02d}:{frame:02d}.500"
        values = [f"{t / 20:.6f}" if name == "jawOpen" else "0.1" for name in order]
        lines.append(",".join([code, "61", *values, f"{t / 20:.6f}", "0.0", "0.0"]))
    path = folder / "face.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("rate", [24, 30, 60])
@pytest.mark.parametrize("order", [ARKIT, ARKIT[::-1]])
def test_live_link(tmp_path: Path, rate: int, order: Sequence[str]) -> None:
    """Any rate and order of columns, past midnight."""
    track = curves.read(live_link(tmp_path, range(rate * 15), rate, order))
    assert track.kind == "livelink" and abs(track.frames - 375) <= 1 and not track.notes
    np.testing.assert_allclose(track.coefficients[:, JAW], np.arange(track.frames) / 500, atol=1e-3)
    np.testing.assert_allclose(track.coefficients[:, 53], np.arange(track.frames) / 500, atol=2e-3)
    np.testing.assert_allclose(track.coefficients[:, SMILE], 0.1, atol=1e-6)
    assert "headYaw" in track.known and track.attributes.shape == (track.frames, 25)


def test_gaps_and_rubbish(tmp_path: Path) -> None:
    path = live_link(tmp_path, [*range(60), *range(120, 300)])
    lines = path.read_text().splitlines()
    lines.insert(5, "rubbish")
    lines.insert(9, lines[3])  # out of order
    lines[20] = lines[20].rpartition(",0.1")[0]  # cut off
    path.write_text("\ufeff" + "\n".join(lines) + "\n\n")
    track = curves.read(path)
    assert "2 of 242 rows were left out" in track.notes[0] and "1 gaps were bridged, the first of 1.0" in track.notes[1]
    np.testing.assert_allclose(track.coefficients[:, JAW], np.arange(track.frames) / 500, atol=1e-3)


def test_half_of_the_names(tmp_path: Path) -> None:
    track = curves.read(live_link(tmp_path, range(90), 30, [n for n in ARKIT if n.startswith("mouth")] + ["jawOpen"]))
    assert "browDownLeft" in track.notes[0] and "more" in track.notes[0] and "eyeBlinkLeft" not in track.known


def test_media_pipe(tmp_path: Path) -> None:
    for name, scale in (("timestamp_ms", 1000), ("timestamp", 1), ("timestamp", 1000), ("frame", 30)):
        lines = [f"{name},_neutral,jawOpen,mouthSmile_L"]
        lines += [f"{n / 30 * scale},0,{n / 300:.6f},0.25" for n in range(90)]
        (tmp_path / "m.csv").write_text("\n".join(lines))
        track = curves.read(tmp_path / "m.csv")
        assert track.kind == "mediapipe" and abs(track.frames - 75) <= 1
        np.testing.assert_allclose(track.coefficients[:-1, JAW], np.arange(track.frames - 1) / 250, atol=1e-4)
        assert track.coefficients[3, SMILE] == 0.25


def test_open_face(tmp_path: Path) -> None:
    names = [f" AU{n:02d}_r" for n in (*AUS[:11], 23, 25, 26, 45, 5)] + [" AU01_c", " gaze_angle_x", " gaze_angle_y"]
    lines = [",".join(["frame", " timestamp", " confidence", " success", *names, " pose_Rx", " pose_Ry"])]
    for n in range(90):
        units = ["5.0" if name == " AU12_r" else "2.5" if name == " AU45_r" else "0" for name in names[:-2]]
        bad = 30 <= n < 45
        cells = [f"{n + 1}", f"{n / 30:.4f}", "0.1" if bad else "0.98", "0" if bad else "1", *units, "0.2", "0.1"]
        lines.append(", ".join([*cells, "0.1", "9" if bad else "0.05"]))
    (tmp_path / "o.csv").write_text("\n".join(lines))
    track = curves.read(tmp_path / "o.csv")
    assert track.kind == "openface" and abs(track.frames - 75) <= 1
    assert "15 of 90 rows" in track.notes[0] and "AU24" in track.notes[-1]
    assert track.attributes[0, AUS.index(12)] == 1 and track.attributes[0, AUS.index(1)] == 0
    face = dict(zip(ARKIT, track.coefficients[40, :52], strict=True))
    assert face["mouthSmileLeft"] == pytest.approx(0.9) and face["eyeBlinkRight"] == 1
    assert face["eyeLookOutLeft"] > 0 == face["eyeLookInLeft"] and face["eyeLookDownLeft"] > 0
    np.testing.assert_allclose(track.coefficients[40, 52:55], [0.1, -0.05, 0], atol=1e-6)


def test_arkit_json(tmp_path: Path) -> None:
    jaws = [n / 500 for n in range(100)]
    frames = [{"time": n / 50, "blendShapes": {"jawOpen": jaw}} for n, jaw in enumerate(jaws)]
    listed = [
        {"timestamp": n / 50, "blendshapes": [{"categoryName": "jawOpen", "score": jaw}]} for n, jaw in enumerate(jaws)
    ]
    matrix = {"exportFps": 50, "facsNames": ["jawOpen", "other"], "weightMat": [[jaw, 0] for jaw in jaws]}
    for data in (frames, {"frames": frames}, listed, matrix):
        (tmp_path / "a.json").write_text(json.dumps(data))
        track = curves.read(tmp_path / "a.json")
        assert abs(track.frames - 50) <= 1
        np.testing.assert_allclose(track.coefficients[1:-1, JAW], np.arange(1, track.frames - 1) / 250, atol=3e-3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "a,b\n1,2", "no column named as an ARKit shape"),
        ("x.csv", "jawOpen", "no rows"),
        ("x.csv", "jawOpen\nx", "no row with a time and numbers"),
        ("x.csv", "jawOpen,JawOpen\n1,2", "two columns for jawOpen"),
        ("x.csv", "timestamp,jawOpen\n0,1\n1,1\n1e9,1", "spans"),
        ("x.json", "{", "not valid JSON"),
        ("x.json", "[1]", "no list of frames"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(HeroError, match=message):
        curves.read(tmp_path / name)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="cannot be read"):
        curves.read(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(HeroError, match="no text file"):
        curves.read(tmp_path / "b.csv")
    with pytest.raises(HeroError, match="is not known"):
        curves.read(tmp_path / "b.csv", kind="c3d")
    with pytest.raises(HeroError, match="above 0"):
        curves.read(tmp_path / "b.csv", fps=0)


@pytest.mark.parametrize("name", ["eyeBlink_L", "EyeBlinkLeft", "eyeBlinkL", "eyeblinkleft", "Eye_Blink_l"])
def test_spellings(name: str) -> None:
    assert curves.coefficient(name) == 8


def test_fitted(tmp_path: Path) -> None:
    track = curves.read(live_link(tmp_path, range(60)))
    assert track.fitted(10).frames == 10 and track.fitted(99).coefficients[98, JAW] == track.coefficients[-1, JAW]
