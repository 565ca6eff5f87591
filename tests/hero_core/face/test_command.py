# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m hero_core.face``: faces from a clip, training in both stages, and the metrics of all listeners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hero_core.errors import HeroError
from hero_core.face import checkpoint, data
from hero_core.face.__main__ import main
from hero_core.face.reaction import FaceReaction
from hero_core.train import loop
from tests.hero_core.face import dyads
from tests.hero_core.face import small as tiny
from tests.hero_core.face.voices import talk, write_wav

SIZES = {**tiny.SIZES, "features": "curves"}
LOOP = {"iterations": 6, "lr": 1e-3, "validate_every": 3, "threads": 1}


def config(folder: Path, iterations: int = 6, **model: Any) -> Path:
    path = folder / "c.json"
    run = {**LOOP, "iterations": iterations}
    path.write_text(json.dumps({"model": {**SIZES, **model}, "data": {"batch": 4}, "behaviour": run, "diffusion": run}))
    return path


def test_react_by_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_wav(tmp_path / "a.wav", talk(4.0).samples)
    curves = tmp_path / "s.csv"
    curves.write_text("frame,jawOpen\n" + "\n".join(f"{n},0.2" for n in range(120)))
    out = tmp_path / "face.npz"
    assert (
        main(["react", str(clip), "--speaker", str(curves), "--out", str(out), "--takes", "2", "--valence", "1"]) == 0
    )
    face = FaceReaction.load(out)
    assert face.coefficients.shape == (2, 100, 58) and "rule-based" in face.source
    said = capsys.readouterr()
    assert "2 take(s) of 100 frames by the rule-based listener (not learned)" in said.out and "at rest" in said.err


def test_react_with_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_wav(tmp_path / "a.wav", talk(2.0).samples)
    folder, out = checkpoint.save(tiny.model(), tmp_path / "m"), tmp_path / "face.npz"
    for more in ([], ["--online"]):
        assert main(["react", str(clip), "--model", str(folder), "--out", str(out), "--device", "cpu", *more]) == 0
        assert FaceReaction.load(out).source == "tiny"
    assert main(["react", str(clip), "--model", str(folder), "--out", str(out), "--nods", "1"]) == 1
    assert "--nods are of the rules" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["react", "--out", "x.npz"], "Give a clip"),
        (["react", "none.wav", "--out", "x.npz"], "no file"),
        (["react", "a.wav", "--out", "x.fbx"], "must end in .npz"),
        (["react", "a.wav", "--out", "x.npz", "--online"], "are for --model"),
        (["react", "a.wav", "--out", "x.npz", "--valence", "3"], "valence is 3"),
        (["evaluate", "--data", "."], "holds neither"),
        (["train", "--data", ".", "--out", "o"], "holds neither"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


def test_layouts(tmp_path: Path) -> None:
    split = data.read(dyads.react(tmp_path / "r"), "val")
    assert len(split.dyads) == 6 and split.layout == "react" and len(split.sets()) == 6
    assert split.dyads[0].speaker == split.dyads[3].listener and split.dyads[0].listener == split.dyads[3].speaker
    clips = data.load(split, 70)
    assert clips.video.shape == (2, 6, 70, 83) and clips.audio.shape == (2, 6, 70, 46)
    np.testing.assert_array_equal(clips.speakers[0], clips.listeners[3])
    np.testing.assert_allclose(np.median(clips.coefficients[..., 52], axis=1), 0, atol=0.02)
    assert clips.audio.any()
    mars = data.read(dyads.mars(tmp_path / "m"), "test")
    assert [d.name for d in mars.dyads] == ["session0/a", "session0/b", "session1/a", "session1/b"]
    assert all(len(s) == 10 for s in mars.sets()) and set(mars.sets()[0]) == {0, 1}
    assert data.load(mars, 60).listeners.shape == (4, 60, 25) and mars.fps == 30
    assert mars.dyads[0].speaker.track(30.0).frames == 50 and data.read(tmp_path / "m", "test", 25.0).fps == 25


def test_incomplete_data(tmp_path: Path) -> None:
    root = dyads.react(tmp_path)
    np.save(root / "neighbour_emotion_val.npy", np.eye(3))
    with pytest.raises(HeroError, match="the list makes 6 samples"):
        data.read(root, "val")
    (root / "val/3D_FV_files/NoXI/chat0/Expert_video/1.npy").unlink()
    with pytest.raises(HeroError, match="names are absent"):
        data.read(root, "val")
    np.save(root / "test/3D_FV_files/NoXI/chat0/Expert_video/1.npy", np.zeros((5, 57)))
    with pytest.raises(HeroError, match=r"\(T, 58\) is needed"):
        data.load(data.read(root, "test"), 60)
    with pytest.raises(HeroError, match="split 'all' is not known"):
        data.read(root, "all")


@pytest.mark.parametrize("online", [False, True])
def test_train_and_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str], online: bool) -> None:
    root, out = dyads.react(tmp_path / "d"), tmp_path / "out"
    command = ["train", "--data", str(root), "--out", str(out), "--config", str(config(tmp_path, online=online))]
    assert main(command) == 0
    model = checkpoint.load(out, "cpu")
    assert (
        float(model.spread.std()) > 0.01 and model.cfg.online is online and bool((model.maximum > model.minimum).all())
    )
    assert json.loads((out / "run.json").read_text())["clips"] == {"train": 6, "val": 6}
    # Started again it is at its end and gives the same weights.
    before = loop.load_weights(out / "model.safetensors")
    assert main(command) == 0
    after = loop.load_weights(out / "model.safetensors")
    assert all(bool((before[key] == after[key]).all()) for key in before)
    if online:
        return
    report = tmp_path / "report.json"
    arguments = ["evaluate", "--data", str(root), "--model", str(out), "--rules", "--takes", "2", "--frames", "60"]
    assert main([*arguments, "--out", str(report), "--device", "cpu"]) == 0
    rows = json.loads(report.read_text())["rows"]
    assert list(rows) == ["Random", "Mime", "MeanSeq", "MeanFr", "GT", "rule-based listener (not learned)", "reactdiff"]
    assert rows["GT"]["frdist"] == 0 and rows["GT"]["frcorr_per_prediction"] == pytest.approx(1, rel=1e-3)
    assert rows["MeanFr"]["frsyn"] == 49 and rows["reactdiff"]["predictions"] == 2
    assert "per prediction" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """3 steps and then 3 more are the same as 6 at once."""
    root = dyads.react(tmp_path / "d", splits=("train", "val"))
    states = []
    for name, counts in (("once", (6,)), ("twice", (3, 6))):
        for count in counts:
            arguments = ["--data", str(root), "--out", str(tmp_path / name), "--config", str(config(tmp_path, count))]
            assert main(["train", *arguments]) == 0
        states.append(loop.load_weights(tmp_path / name / "behaviour" / "best.safetensors"))
    assert all(bool((states[0][key] == states[1][key]).all()) for key in states[0])


def test_features_that_cannot_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = dyads.react(tmp_path / "d", count=1)
    for change, message in (({"features": "official"}, "'curves'"), ({"au": 25088}, "6, 52, 25, 6, 40")):
        made = config(tmp_path, **change)
        assert main(["train", "--data", str(root), "--out", str(tmp_path / "o"), "--config", str(made)]) == 1
        assert message in capsys.readouterr().err
