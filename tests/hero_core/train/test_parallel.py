# SPDX-License-Identifier: GPL-3.0-or-later
"""Two processes that share a run give what one gives."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hero_core.errors import HeroError
from hero_core.intention import IntentionBlock
from hero_core.stem import ConvStem
from hero_core.train import __main__ as train
from hero_core.train import loop, parallel
from tests.hero_core.train import test_encoder, test_evaluator
from tests.hero_core.train.test_training import MODEL, TRANSFORMER, some_pairs, swinging

LOOP = {"lr": 2e-3, "warmup": 2, "log_every": 1, "validate_every": 4, "threads": 1, "clip_grad": 1.0}
NO_DROPOUT = (8, 0.0)  # defaults of IntentionBlock, whose dropout no config reaches
STAGES = ("tokenizer", "masked", "residual", "encoder", "evaluator")


def write_stages(folder: Path) -> None:
    """A config of each stage, whole and half, with a batch of 7 that two processes cannot share evenly."""
    some_pairs(folder / "pairs.safetensors")
    parts = [swinging(30 + i, i) for i in range(8)]
    np.savez(
        folder / "some.npz",
        joints=np.concatenate(parts),
        offsets=np.cumsum([0, *map(len, parts)]),
        names=np.array([f"m{i}" for i in range(8)]),
        split=np.array(["train"] * 6 + ["val"] * 2),
    )
    clips, stem = folder / "clips", folder / "stem"
    clips.mkdir()
    stem.mkdir()
    test_encoder.write_shard(clips, "taught_0000", [0] * 8 + [1] * 4, [-1] * 12, 4, 1)
    test_encoder.write_shard(clips, "stimuli_0000", [0] * 9 + [1, 1, 2], [1, 2, 3] * 4, 16, 2)
    (clips / "labels.json").write_text('["retreat", "approach", "kick", "ball"]')
    loop.save_weights(ConvStem().state_dict(), stem / "stem.safetensors")
    test_evaluator.write_motions(folder / "motions.safetensors")
    model = {
        "tokenizer": {**MODEL, "dropout": 0.0},
        "encoder": test_encoder.CONFIG["model"],
        "evaluator": {**test_evaluator.MODEL, "dropout": 0.0},
    }
    data: dict[str, Any] = {
        "tokenizer": {"files": ["some.npz"], "window": 16, "batch": 7, "mirror": False, "pose_weight": 1.0},
        "masked": {"batch": 7, "feature_noise": 0.1, "drop_memory": 0.5},
        "residual": {"batch": 7, "frozen_batches": True},
        "encoder": {"clips": 7, "taught_clips": 3, "frames": 6, "classes": 4, "hide": 0.0},
        "evaluator": {"batch": 7, "shortest": 16, "noise": 0.1},
    }
    for stage in STAGES:
        for name, steps in (("half", 4), ("whole", 8)):
            sections = {
                "model": model.get(stage, {**TRANSFORMER, "dropout": 0.0}),
                "distil" if stage == "encoder" else "data": data[stage],
                "loop": {**LOOP, "iterations": steps},
            }
            (folder / f"{stage}_{name}.json").write_text(json.dumps(sections))


def arguments(folder: Path, stage: str, config: str, out: Path) -> list[str]:
    source = {
        "tokenizer": ["--data", str(folder)],
        "encoder": ["--data", str(folder / "clips"), "--stem", str(folder / "stem")],
        "evaluator": ["--motions", str(folder / "motions.safetensors")],
    }.get(stage, ["--pairs", str(folder / "pairs.safetensors")])
    return [stage, "--config", str(folder / f"{stage}_{config}.json"), *source, "--out", str(out)]


def one_of_two(rank: int, folder: Path) -> None:
    """Every stage in halves, so that going on is shared as well."""
    torch.set_num_threads(1)
    IntentionBlock.__init__.__defaults__ = NO_DROPOUT  # type: ignore[attr-defined]
    for stage in STAGES:
        for config in ("half", "whole"):
            meeting = f"file://{folder}/{stage}_{config}.meeting"
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
            assert train.main(arguments(folder, stage, config, folder / "two" / stage)) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_stages(folder)
    together = mp.start_processes(one_of_two, (folder,), nprocs=2, join=False, start_method="spawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IntentionBlock.__init__, "__defaults__", NO_DROPOUT)
        for stage in STAGES:
            assert train.main(arguments(folder, stage, "whole", folder / "one" / stage)) == 0
    while not together.join():
        pass
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_equal_one(runs: Path, stage: str) -> None:
    curves: dict[str, list[float]] = {}
    for name in ("one", "two"):
        with (runs / name / stage / "train.csv").open() as file:
            curves[name] = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(curves["one"]) == len(curves["two"]) == 8
    np.testing.assert_allclose(curves["two"], curves["one"], rtol=3e-6)
    one, two = (torch.load(runs / name / stage / "latest.pt", weights_only=True) for name in ("one", "two"))
    for part in ("model", "extra"):
        for key, value in one[part].items():
            if key.endswith("k_proj.bias"):  # softmax does not feel it: its gradient is rounding, which Adam scales
                continue
            torch.testing.assert_close(two[part][key], value, atol=2e-5, rtol=2e-4, msg=f"{part} {key}")
    assert one["best"] == pytest.approx(two["best"], rel=1e-5)
    assert json.loads((runs / "two" / stage / "run.json").read_text())["processes"] == 2


def test_shares_cover_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 2, 3, 7):
        monkeypatch.setattr(parallel, "size", lambda size=size: size)
        covered: list[int] = []
        for rank in range(size):
            monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
            covered += range(*parallel.share(7).indices(7))
        assert covered == list(range(7))
    monkeypatch.setattr(parallel, "size", lambda: 8)
    with pytest.raises(HeroError, match="8 processes"):
        parallel.share(7)


def test_stages_that_work_alone_say_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(parallel, "size", lambda: 2)
    assert train.main(["length", "--config", "c.json"]) == 1
    assert "one process" in capsys.readouterr().err


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [parallel.device(d) for d in ("auto", "cpu", "mps")] == ["cpu", "cpu", "mps"]
    with pytest.raises(HeroError, match="no GPU"):
        parallel.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    assert parallel.device("auto") == "cuda" and parallel.device("cuda:1") == "cuda:1"
    monkeypatch.setattr(parallel, "size", lambda: 3)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert parallel.device("auto") == "cuda:1"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(HeroError, match="--nproc-per-node 2"):
        parallel.device("cuda")


def test_a_config_gets_its_device(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"loop": {"device": "auto"}}')
    assert loop.read_config(path, {"loop": loop.LoopConfig})["loop"].device in ("cpu", "cuda")
