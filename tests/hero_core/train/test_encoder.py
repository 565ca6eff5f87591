# SPDX-License-Identifier: GPL-3.0-or-later
"""Stem and encoder: they learn, go on exactly where they stopped, and say what is wrong with their input."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hero_core.config import VideoEncoderConfig
from hero_core.errors import HeroError
from hero_core.stem import CHANNELS, ConvStem
from hero_core.tc_clip import VideoEncoder
from hero_core.train import encoder, loop, stem

CONFIG: dict[str, Any] = {
    "model": {
        "image_size": 64, "patch_size": 32, "width": 32, "layers": 2, "heads": 2, "output_dim": 16, "context_tokens": 8,
        "conv_stem": True, "positional_embedding": "space_time",
    },
    "distil": {"clips": 8, "taught_clips": 4, "frames": 6, "classes": 4},
    "loop": {
        "iterations": 30, "lr": 0.003, "warmup": 2, "log_every": 1, "validate_every": 10, "threads": 1,
        "clip_grad": 1.0,
    },
}  # fmt: skip


def write_shard(folder: Path, name: str, split: list[int], label: list[int], frames: int, seed: int) -> None:
    """Maps that drift in the direction of their class, and teachers' words that depend on the map."""
    rng = np.random.default_rng(seed)
    count = len(split)
    ways = np.random.default_rng(99).normal(size=(4, CHANNELS))
    drift = np.linspace(-1, 1, frames)[None, :, None] * ways[np.maximum(label, 0)][:, None]  # (clips, F, C)
    means = drift + rng.normal(0, 0.2, (count, frames, CHANNELS))
    maps = np.repeat(means[:, None, :, :, None], 4, -1).reshape(count, 1, frames, CHANNELS, 2, 2)
    mix = np.random.default_rng(98)

    def say(*shape: int) -> np.ndarray:
        flat = means[..., :8] @ mix.normal(size=(8, int(np.prod(shape))))
        return flat.reshape(count, frames, *shape).astype(np.float16)

    taught: dict[str, Any] = {}
    if label[0] < 0:
        expression = np.exp(say(7).astype(np.float32))
        taught = {
            "features": say(1280),
            "person": say(5),
            "keypoints": np.clip(say(17, 3) / 4 + 0.5, 0, 1),
            "expression": (expression / expression.sum(-1, keepdims=True)).astype(np.float16),
            "face": np.ones((count, frames), np.float16),
        }
    np.save(folder / f"{name}.npy", maps.astype(np.float16))
    times = np.tile((np.arange(frames) * 16 + 8) // frames, (count, 1))
    np.savez(folder / f"{name}.npz", label=np.array(label), split=np.array(split), times=times, **taught)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    write_shard(folder, "taught_0000", [0] * 8 + [1] * 4, [-1] * 12, 4, 1)
    write_shard(folder, "stimuli_0000", [0] * 9 + [1, 1, 2], [1, 2, 3] * 4, 16, 2)
    (folder / "labels.json").write_text('["retreat", "approach", "kick", "ball"]')
    return folder


@pytest.fixture
def stem_run(tmp_path: Path) -> Path:
    run = tmp_path / "stem"
    run.mkdir()
    loop.save_weights(ConvStem().state_dict(), run / "stem.safetensors")
    return run


def train(clips: Path, stem_run: Path, out: Path, **changes: dict[str, Any]) -> None:
    config = {section: values | changes.get(section, {}) for section, values in CONFIG.items()}
    file = out.parent / f"{out.name}.json"
    file.write_text(json.dumps(config))
    where = ["--config", str(file), "--data", str(clips), "--stem", str(stem_run), "--out", str(out)]
    assert encoder.main(["encoder", *where]) == 0


def losses(out: Path) -> list[float]:
    with (out / "train.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_loss_falls_and_the_encoder_is_written(clips: Path, stem_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(clips, stem_run, out)
    seen = losses(out)
    assert len(seen) == 30
    assert np.mean(seen[-5:]) < 0.8 * np.mean(seen[:5])
    report = json.loads((out / "encoder.json").read_text())
    assert report["labels"][0] == encoder.RETREAT
    assert {"pictures_cosine", "clips_right", "backwards_right"} <= set(report["validation"])
    # What is written is a whole VideoEncoder and nothing else; its stem is the one that was given.
    model = VideoEncoder(VideoEncoderConfig(**CONFIG["model"]))
    model.load_state_dict({k: v.float() for k, v in loop.load_weights(out / "encoder.safetensors").items()})
    given = loop.load_weights(stem_run / "stem.safetensors")
    assert all(torch.equal(value.half(), model.stem.state_dict()[key].half()) for key, value in given.items())
    frames = torch.zeros(1, 16, 64, 64, 3, dtype=torch.uint8)
    assert model(model.normalise(frames)).shape == (1, 16, 16)


def test_a_stopped_run_goes_on_exactly(
    clips: Path, stem_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(clips, stem_run, tmp_path / "whole", loop={"iterations": 8})

    # Stop after 5 steps, with a checkpoint just written: what a lost machine leaves.
    steps = 0
    original = encoder.Student.total

    def total_until(self: encoder.Student, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps > 5:
            raise RuntimeError("lost")
        return original(self, losses)

    with monkeypatch.context() as patch:
        patch.setattr(encoder.Student, "total", total_until)
        with pytest.raises(RuntimeError, match="lost"):
            train(clips, stem_run, tmp_path / "parts", loop={"iterations": 8, "save_minutes": 0.0})
    train(clips, stem_run, tmp_path / "parts", loop={"iterations": 8})
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole = loop.load_weights(tmp_path / "whole" / "encoder.safetensors")
    parts = loop.load_weights(tmp_path / "parts" / "encoder.safetensors")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_frames_are_drawn_in_order_or_all_of_them(clips: Path) -> None:
    data = encoder.Clips(clips)
    chosen = data.select("train", labelled=True)
    assert len(chosen) == 9 and len(data.select("test", labelled=True)) == 1
    whole = data.read(data.whole(chosen))
    assert torch.equal(whole["times"][0], torch.arange(16))
    drawn = data.read(data.draw(chosen, torch.Generator().manual_seed(0), 6))
    assert drawn["maps"].shape[:2] == (9, 6)
    assert bool((drawn["times"].diff(dim=1) > 0).all())
    for i in range(9):
        assert torch.equal(drawn["maps"][i], whole["maps"][i][drawn["times"][i]])


def test_backwards_is_what_a_reversed_clip_gives(clips: Path) -> None:
    """The features of a clip shown backwards are those of its frames in the other order at their own times."""
    torch.manual_seed(0)
    model = VideoEncoder(VideoEncoderConfig(**CONFIG["model"])).eval()
    data = encoder.Clips(clips)
    batch = data.read(data.whole(torch.tensor([0, 1])))
    turned = encoder.backwards(batch, torch.tensor([True, False]), 0, 16)
    assert turned["label"].tolist() == [0, int(batch["label"][1])]
    with torch.no_grad():
        said = model.contextualise(turned["maps"].float(), turned["times"])
        straight = model.contextualise(batch["maps"].float())
        other = model.contextualise(batch["maps"][:1].float().flip(1))
    torch.testing.assert_close(said[1], straight[1])
    torch.testing.assert_close(said[0], other[0])


def test_a_clip_cut_short_ends_before_its_event(clips: Path) -> None:
    """Its frames are spread over the whole time, and none is from after the cut."""
    with np.load(clips / "stimuli_0000.npz") as file:
        values = dict(file)
    np.savez(clips / "stimuli_0000.npz", **values, before=np.full(12, 8))
    data = encoder.Clips(clips)
    pick = data.select("train", labelled=True)
    last = data.before_event(pick)
    assert last.tolist() == [8] * 9
    drawn = data.draw(pick, torch.Generator().manual_seed(0), 6, last)
    assert max(int(keep.max()) for _, _, keep in drawn) == 8
    which = torch.arange(9) < 4
    batch = data.read(drawn)
    short = encoder.cut_short(batch, which, last, 3, 16)
    assert torch.equal(short["times"][4:], batch["times"][4:]) and torch.equal(short["maps"], batch["maps"])
    assert torch.equal(short["times"][:4], (batch["times"][:4] * 15 / 8).round().long())
    assert short["label"][:4].tolist() == [3] * 4 and torch.equal(short["label"][4:], batch["label"][4:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"conv_stem": False}}, "set conv_stem"),
        ({"model": {"patch_size": 16}}, "patch_size 32"),
        ({"distil": {"classes": 2}}, "4 classes"),
        ({"distil": {"clip": 2}}, "unknown entries clip"),
    ],
)
def test_a_wrong_config_says_what_to_change(
    clips: Path, stem_run: Path, tmp_path: Path, changes: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(HeroError, match=message):
        train(clips, stem_run, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_missing_clips_and_arguments(clips: Path, stem_run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(HeroError, match="no clips"):
        train(empty, stem_run, tmp_path / "run")
    with pytest.raises(HeroError, match="--data"):
        encoder.main(["encoder", "--config", "x.json"])
    with np.load(clips / "stimuli_0000.npz") as file:
        values = dict(file)
    np.savez(clips / "stimuli_0000.npz", **(values | {"split": np.zeros(12, int)}))
    with pytest.raises(HeroError, match="validate"):
        train(clips, stem_run, tmp_path / "run")
    del values["times"]
    np.savez(clips / "stimuli_0000.npz", **values)
    with pytest.raises(HeroError, match="has no times"):
        train(clips, stem_run, tmp_path / "run")


def phases(iterations: int) -> dict[str, Any]:
    return {
        "iterations": iterations, "lr": 0.003, "warmup": 1, "log_every": 1, "validate_every": iterations, "threads": 1,
    }  # fmt: skip


def test_the_stem_learns_its_teacher(tmp_path: Path) -> None:
    torch.manual_seed(1)
    loop.save_weights(ConvStem().state_dict(), tmp_path / "teacher.safetensors")
    rng = np.random.default_rng(0)
    data = tmp_path / "pictures"
    data.mkdir()
    for shard in (0, 1):
        np.save(data / f"pictures_{shard:04d}.npy", rng.integers(0, 256, (3, 2, 64, 64, 3), dtype=np.uint8))
    config = {
        "stem": {"pictures": 2, "size": 64, "part": 32, "validate_each": 2},
        "apart": phases(12), "parts": phases(2), "whole": phases(2),
    }  # fmt: skip
    (tmp_path / "stem.json").write_text(json.dumps(config))
    where = ["--data", str(data), "--teacher", str(tmp_path / "teacher.safetensors"), "--out", str(tmp_path / "run")]
    assert stem.main(["stem", "--config", str(tmp_path / "stem.json"), *where]) == 0
    seen = losses(tmp_path / "run" / "apart")
    assert np.mean(seen[-3:]) < 0.9 * np.mean(seen[:3])
    ConvStem().load_state_dict(loop.load_weights(tmp_path / "run" / "stem.safetensors"))
    with pytest.raises(HeroError, match="at least 9 shards"):
        (tmp_path / "stem.json").write_text(json.dumps(config | {"stem": {"validate_each": 9}}))
        stem.main(["stem", "--config", str(tmp_path / "stem.json"), *where])


def test_stages_apart_have_no_error_where_the_student_is_the_teacher() -> None:
    """Also of cut maps: what their border touches is left out."""
    torch.manual_seed(0)
    teacher = ConvStem().eval()
    x = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        target = teacher.maps(x)
        for seed in range(4):
            errors = stem.apart_errors(teacher, x, target, torch.Generator().manual_seed(seed))
            assert len(errors) == 18 and float(errors.max()) < 1e-6
        assert float(stem.joint_errors(teacher, x, target, 4).max()) < 1e-6
        tokens = teacher(x)
    assert tokens.shape == (2, CHANNELS, 4, 4)
    torch.testing.assert_close(tokens[:, 384:], target[-1], atol=1e-4, rtol=1e-4)
