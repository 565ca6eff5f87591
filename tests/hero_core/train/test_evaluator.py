# SPDX-License-Identifier: GPL-3.0-or-later
"""The feature extractor trains, goes on exactly, and writes what the evaluation loads."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hero_core.errors import HeroError
from hero_core.evaluate import data, evaluator
from hero_core.train import evaluator as stage

MODEL = {"movement_hidden": 12, "movement_latent": 12, "motion_hidden": 12, "out": 8}
KINDS, CLASSES = ("flee", "greet", "watch"), ("lion", "friend")


def write_motions(path: Path, count: int = 40, **more: torch.Tensor) -> Path:
    """Noise of which a few dimensions tell the labels."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 44, (count,), generator=g)
    offsets = torch.cat((torch.zeros(1, dtype=torch.long), lengths.cumsum(0)))
    label, stimulus = torch.arange(count) % 3, torch.arange(count) % 2
    features = torch.randn(int(offsets[-1]), 263, generator=g) * 0.3
    owner = torch.repeat_interleave(torch.arange(count), lengths)
    features[torch.arange(len(owner)), 10 + label[owner]] += 2
    features[torch.arange(len(owner)), 90 + stimulus[owner]] += 2
    split = torch.tensor([2 if i % 5 == 4 else 1 if i % 5 == 3 else 0 for i in range(count)])
    tensors = {"features": features, "offsets": offsets, "label": label, "stimulus": stimulus, "split": split, **more}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path)
    path.with_suffix(".json").write_text(json.dumps({"reactions": KINDS, "stimuli": CLASSES}))
    return path


def config(path: Path, steps: int, **more: Any) -> Path:
    settings = {
        "iterations": steps, "lr": 5e-3, "warmup": 2, "log_every": 5, "validate_every": 12, "threads": 1,
    }  # fmt: skip
    values = {"model": MODEL, "data": {"batch": 12, "shortest": 16, **more}, "loop": settings}
    path.write_text(json.dumps(values))
    return path


def train(config_file: Path, motions: Path, out: Path) -> None:
    arguments = ["--config", config_file, "--motions", motions, "--out", out, "--name", "small"]
    assert stage.main(["evaluator", *map(str, arguments)]) == 0


def test_it_learns_and_goes_on_exactly(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(1)
    first = write_motions(tmp_path / "first.safetensors")
    frames = len(data.load_motions(first).features)
    motions = write_motions(tmp_path / "m.safetensors", features_mirrored=torch.randn(frames, 263, generator=g))
    whole, half = config(tmp_path / "whole.json", 24, noise=0.1), config(tmp_path / "half.json", 12, noise=0.1)
    train(whole, motions, tmp_path / "a")
    train(half, motions, tmp_path / "b")
    train(whole, motions, tmp_path / "b")
    one, two = (torch.load(tmp_path / x / "latest.pt", weights_only=True) for x in "ab")
    assert one["step"] == two["step"] == 24
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]), key
    with (tmp_path / "a" / "train.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.85 * losses[0]

    extractor = evaluator.load(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "run.json").read_text())["config"]["data"]["noise"] == 0.1
    assert extractor.name == "small" and extractor.reactions == KINDS and extractor.stimuli == CLASSES
    loaded = data.load_motions(motions)
    rows = loaded.rows("test")
    kind, stimulus = extractor.classify(extractor.embed([loaded.get(int(i)) for i in rows]))
    report = json.loads((tmp_path / "a" / evaluator.CONFIG).read_text())
    for said, true, key in ((kind, loaded.label, "reaction"), (stimulus, loaded.stimulus, "stimulus")):
        assert float((said == true[rows]).float().mean()) == pytest.approx(report["test"][f"{key}_accuracy"])
        assert report["test"][f"{key}_low"] <= report["test"][f"{key}_accuracy"] <= report["test"][f"{key}_high"]


def test_unknown_labels_teach_nothing() -> None:
    logits = torch.randn(4, 3)
    known = torch.tensor([0, -1, 2, -1])
    entropy, right, count = stage.answers(logits, known, 0.1)
    apart, _, _ = stage.answers(logits[[0, 2]], known[[0, 2]], 0.1)
    assert int(count) == 2 and int(right) <= 2
    torch.testing.assert_close(entropy, apart)
    assert float(stage.answers(logits, torch.full((4,), -1), 0.0)[0]) == 0


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    good = write_motions(tmp_path / "m.safetensors")
    settings = config(tmp_path / "c.json", 1)
    with pytest.raises(HeroError, match="--motions"):
        stage.main(["evaluator", "--config", str(settings)])
    good.with_suffix(".json").write_text(json.dumps({"reactions": ["flee"], "stimuli": CLASSES}))
    with pytest.raises(HeroError, match="label goes up to 2, 1 names"):
        data.load_motions(good)
    good.with_suffix(".json").unlink()
    with pytest.raises(HeroError, match=r"m\.json"):
        data.load_motions(good)
    bad = write_motions(tmp_path / "bad.safetensors", offsets=torch.arange(41))
    with pytest.raises(HeroError, match="offsets"):
        data.load_motions(bad)
    short = write_motions(tmp_path / "short.safetensors", split=torch.zeros(40, dtype=torch.long))
    with pytest.raises(HeroError, match="validate"):
        train(settings, short, tmp_path / "o")
