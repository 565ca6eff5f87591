# SPDX-License-Identifier: GPL-3.0-or-later
"""The encoder's distillation: it learns, goes on exactly where it stopped, and says what is wrong with its input."""

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
from hero_core.tc_clip import VideoEncoder
from hero_core.train import encoder, loop

CONFIG: dict[str, Any] = {
    "model": {
        "image_size": 56, "patch_size": 8, "width": 32, "layers": 2, "heads": 2, "output_dim": 16, "context_tokens": 8,
    },
    "distil": {"clips": 8, "frames": 2, "classes": 4},
    "loop": {
        "iterations": 30, "lr": 0.003, "warmup": 2, "log_every": 1, "validate_every": 10, "threads": 1,
        "clip_grad": 1.0,
    },
}  # fmt: skip


def write_shard(folder: Path, name: str, split: list[int], label: list[int], seed: int) -> None:
    """Clips of one colour each, whose targets depend on the colour: easy to learn, not constant."""
    rng = np.random.default_rng(seed)
    count, frames = len(split), 3
    colour = rng.integers(0, 256, (count, frames, 1, 1, 3))
    mix = np.random.default_rng(99)

    def say(*shape: int) -> np.ndarray:
        flat = (colour.reshape(count, frames, 3) / 128.0 - 1.0) @ mix.normal(size=(3, int(np.prod(shape))))
        return flat.reshape(count, frames, *shape).astype(np.float16)

    np.save(folder / f"{name}.npy", np.broadcast_to(colour, (count, frames, 56, 56, 3)).astype(np.uint8))
    expression = np.exp(say(7).astype(np.float32))
    np.savez(
        folder / f"{name}.npz",
        features=say(1280),
        logits=say(1001),
        grid=say(7, 7, 6),
        person=say(5),
        keypoints=np.clip(say(17, 3) / 4 + 0.5, 0, 1),
        expression=(expression / expression.sum(-1, keepdims=True)).astype(np.float16),
        face=np.ones((count, frames), np.float16),
        label=np.array(label),
        split=np.array(split),
        clip=np.arange(count),
    )


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    write_shard(folder, "pictures_0000", [0] * 8 + [1] * 4, [-1] * 12, 1)
    write_shard(folder, "stimuli_0000", [0] * 6 + [1, 2], [0, 1, 2, 0, 1, 2, 1, 2], 2)
    (folder / "labels.json").write_text('["approach", "kick", "ball"]')
    return folder


def train(clips: Path, out: Path, **changes: dict[str, Any]) -> None:
    config = {section: values | changes.get(section, {}) for section, values in CONFIG.items()}
    file = out.parent / f"{out.name}.json"
    file.write_text(json.dumps(config))
    assert encoder.main(["encoder", "--config", str(file), "--data", str(clips), "--out", str(out)]) == 0


def losses(out: Path) -> list[float]:
    with (out / "train.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_loss_falls_and_the_encoder_is_written(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(clips, out)
    seen = losses(out)
    assert len(seen) == 30
    assert np.mean(seen[-5:]) < 0.8 * np.mean(seen[:5])
    report = json.loads((out / "encoder.json").read_text())
    assert report["labels"] == ["approach", "kick", "ball"]
    assert {"pictures_cosine", "clips_right"} <= set(report["validation"])
    # What is written is a whole VideoEncoder and nothing else.
    model = VideoEncoder(VideoEncoderConfig(**CONFIG["model"]))
    model.load_state_dict({k: v.float() for k, v in loop.load_weights(out / "encoder.safetensors").items()})
    frames = torch.zeros(1, 2, 56, 56, 3, dtype=torch.uint8)
    assert model(model.normalise(frames)).shape == (1, 2, 16)


def test_a_stopped_run_goes_on_exactly(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"loop": {"iterations": 8}}
    train(clips, tmp_path / "whole", **changes)

    # Stop after 5 steps, with a checkpoint just written: what a lost machine leaves.
    steps = 0
    original = encoder.Student.losses

    def losses_until(self: encoder.Student, batch: encoder.Batch) -> dict[str, torch.Tensor]:
        nonlocal steps
        steps += 1
        if steps > 5:
            raise KeyboardInterrupt
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(encoder.Student, "losses", losses_until)
        with pytest.raises(KeyboardInterrupt):
            train(clips, tmp_path / "parts", loop={"iterations": 8, "save_minutes": 0.0})
    train(clips, tmp_path / "parts", **changes)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole = loop.load_weights(tmp_path / "whole" / "encoder.safetensors")
    parts = loop.load_weights(tmp_path / "parts" / "encoder.safetensors")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_frames_are_drawn_in_order_and_evenly_without_a_generator(clips: Path) -> None:
    data = encoder.Clips(clips)
    chosen = data.select("train", labelled=True)
    assert len(chosen) == 6 and len(data.select("test")) == 1
    batch = data.read(chosen, 3, None)
    assert torch.equal(batch["frames"][2], torch.from_numpy(np.load(clips / "stimuli_0000.npy")[2].copy()))
    drawn = data.read(chosen, 2, torch.Generator().manual_seed(0))
    every = batch["features"]
    for i in range(len(chosen)):
        places = [int((every[i] - row).abs().sum(-1).argmin()) for row in drawn["features"][i]]
        assert places == sorted(places)


def test_patches_are_those_of_their_place(clips: Path) -> None:
    """The feature map is asked of the right frame and patch: a changed patch changes its own row most."""
    cfg = VideoEncoderConfig(**CONFIG["model"])
    torch.manual_seed(0)
    student = encoder.Student(cfg, encoder.DistilConfig(classes=4), 6, 5).eval()
    frames = torch.randint(0, 256, (1, 2, 56, 56, 3), dtype=torch.uint8)
    other = frames.clone()
    other[0, 1, 8:16, 24:32] = 255 - other[0, 1, 8:16, 24:32]  # second frame, row 1, column 3
    with torch.no_grad():
        change = (student.see(frames)[1] - student.see(other)[1]).norm(dim=-1)[0]  # (T, 49)
    assert int(change.flatten().argmax()) == 49 + 1 * 7 + 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"layers": 1}}, "at least 2 layers"),
        ({"model": {"patch_size": 28}}, "7 x 7 patches"),
        ({"distil": {"classes": 2}}, "3 classes"),
        ({"distil": {"clip": 2}}, "unknown entries clip"),
    ],
)
def test_a_wrong_config_says_what_to_change(
    clips: Path, tmp_path: Path, changes: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(HeroError, match=message):
        train(clips, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_missing_clips_and_arguments(clips: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(HeroError, match="no clips"):
        train(empty, tmp_path / "run")
    with pytest.raises(HeroError, match="--data"):
        encoder.main(["encoder", "--config", "x.json"])
    for file in clips.glob("stimuli*"):
        file.unlink()
    with np.load(clips / "pictures_0000.npz") as file_:
        values = dict(file_)
    np.savez(clips / "pictures_0000.npz", **(values | {"split": np.zeros(12, int)}))
    with pytest.raises(HeroError, match="validate"):
        train(clips, tmp_path / "run")
    del values["grid"]
    np.savez(clips / "pictures_0000.npz", **values)
    with pytest.raises(HeroError, match="has no grid"):
        train(clips, tmp_path / "run")
