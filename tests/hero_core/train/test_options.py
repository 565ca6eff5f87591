# SPDX-License-Identifier: GPL-3.0-or-later
"""Habits of the official program, each an option with a plain name, and what fine-tuning starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hero_core.config import RVQConfig
from hero_core.rvq import RVQVAE
from hero_core.train import __main__ as train
from hero_core.train import loop, pairs, tokenizer, transformers
from tests.hero_core.train.test_training import MODEL, TRANSFORMER, config, some_pairs, swinging

WHAT = {"files": ["some.npz"], "window": 16, "batch": 16, "mirror": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with motions and a tokenizer trained on them (out)."""
    folder = tmp_path_factory.mktemp("trained")
    parts = [swinging(40 + i, i) for i in range(8)]
    np.savez(
        folder / "some.npz",
        joints=np.concatenate(parts),
        offsets=np.cumsum([0, *map(len, parts)]),
        names=np.array([f"m{i}" for i in range(8)]),
        split=np.array(["train"] * 5 + ["val"] * 2 + ["test"]),
    )
    path = config(folder / "c.json", MODEL, WHAT, 12, validate_every=6)
    assert train.main(["tokenizer", "--config", str(path), "--data", str(folder), "--out", str(folder / "out")]) == 0
    return folder


def books(model: RVQVAE) -> torch.Tensor:
    return torch.stack([book.codebook for book in model.quantizer.books()])


def test_moving_averages_are_saved_with_the_weights_they_belong_to(trained: Path) -> None:
    weights = loop.load_weights(trained / "out" / "tokenizer.safetensors")
    ema = loop.load_weights(trained / "out" / "ema.safetensors")
    model = RVQVAE(RVQConfig(**MODEL))  # type: ignore[arg-type]
    given = tokenizer.initialise(model, trained / "out" / "tokenizer.safetensors", reinit=False)
    assert torch.equal(given["mean"], weights["mean"])
    assert all(torch.equal(v, ema[k]) for k, v in tokenizer.books_of(model).items())
    torch.testing.assert_close(books(model)[1], weights["quantizer.layers.1.codebook"])


def test_averages_of_other_codebooks_are_not_used(trained: Path, tmp_path: Path) -> None:
    weights = loop.load_weights(trained / "out" / "tokenizer.safetensors")
    weights = {k: v + 1 if k.endswith("codebook") else v for k, v in weights.items()}
    loop.save_weights(weights, tmp_path / "w.safetensors")
    loop.save_weights(loop.load_weights(trained / "out" / "ema.safetensors"), tmp_path / "ema.safetensors")
    model = RVQVAE(RVQConfig(**MODEL))  # type: ignore[arg-type]
    tokenizer.initialise(model, tmp_path / "w.safetensors", reinit=False)
    for book in model.quantizer.books():
        assert (book.code_count == 10).all()
        torch.testing.assert_close(book.code_sum, book.codebook * 10)


@pytest.mark.parametrize("reinit", [False, True])
def test_fine_tuning_keeps_or_remakes_the_codebooks(trained: Path, tmp_path: Path, reinit: bool) -> None:
    more = {"reinit_codebooks_on_init": reinit, "keep_statistics": True}
    path = config(tmp_path / "c.json", MODEL, {**WHAT, **more}, 1, lr=0.0, validate_every=1)
    start = trained / "out" / "tokenizer.safetensors"
    source = ["--data", str(trained), "--init", str(start), "--out", str(tmp_path / "o")]
    assert train.main(["tokenizer", "--config", str(path), *source]) == 0
    before, after = loop.load_weights(start), loop.load_weights(tmp_path / "o" / "tokenizer.safetensors")
    key = "quantizer.layers.0.codebook"
    moved = float((after[key] - before[key]).norm() / before[key].norm())
    assert moved > 0.3 if reinit else moved < 0.1
    assert torch.equal(after["mean"], before["mean"])
    said = json.loads((tmp_path / "o" / "run.json").read_text())
    assert said["config"]["data"]["reinit_codebooks_on_init"] is reinit
    assert said["files"]["init"]["name"] == "tokenizer.safetensors"


def test_statistics_to_keep_need_weights(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path / "c.json", MODEL, {**WHAT, "keep_statistics": True}, 1)
    assert train.main(["tokenizer", "--config", str(path), "--data", str(trained), "--out", str(tmp_path / "o")]) == 1
    assert "--init" in capsys.readouterr().err


def test_selection_on_the_test_list_is_said_and_recorded(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path / "t.json", MODEL, {**WHAT, "select_on_test": True}, 1, validate_every=1)
    out = tmp_path / "t"
    assert train.main(["tokenizer", "--config", str(path), "--data", str(trained), "--out", str(out)]) == 0
    assert "warning: select_on_test" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["select_on_test"] is True
    report = json.loads((out / "report.json").read_text())
    with (out / "validation.csv").open() as file:
        score = float(file.read().splitlines()[1].split(",")[1])
    assert report["select_on_test"] is True and score * 100 == pytest.approx(report["test_mpjpe_cm"], rel=1e-3)
    found = some_pairs(tmp_path / "p.safetensors")
    path = config(tmp_path / "m.json", TRANSFORMER, {"batch": 4, "select_on_test": True}, 1)
    assert train.main(["masked", "--config", str(path), "--pairs", str(found), "--out", str(tmp_path / "m")]) == 0
    assert json.loads((tmp_path / "m" / "run.json").read_text())["select_on_test"] is True
    assert "2 to validate" in capsys.readouterr().out


def test_frozen_batches_come_round_unchanged(tmp_path: Path) -> None:
    data = pairs.load(some_pairs(tmp_path / "p.safetensors"))
    frozen = transformers.Frozen(data, data.clips("train"), transformers.DataConfig(batch=6), seed=3)
    assert len(frozen.batches) == 2  # 16 clips: the last 4 fill no batch
    first, second, third = (frozen.next() for _ in range(3))
    assert all(a is b for a, b in zip(first, third, strict=True)) and first is not second
    again = transformers.Frozen(data, data.clips("train"), transformers.DataConfig(batch=6), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(again.next(), first, strict=True))


def run(stage: str, folder: Path, out: Path, data: dict[str, Any], steps: int, *more: str) -> dict[str, Any]:
    path = config(folder / f"{steps}.json", TRANSFORMER, data, steps, validate_every=1000)
    found = folder / "p.safetensors"
    if not found.exists():
        some_pairs(found)
    assert train.main([stage, "--config", str(path), "--pairs", str(found), "--out", str(out), *more]) == 0
    state: dict[str, Any] = torch.load(out / "latest.pt", weights_only=True)
    return state


def test_frozen_batches_go_on_where_they_were(tmp_path: Path) -> None:
    data = {"batch": 6, "frozen_batches": True, "drop_memory": 0.5}
    whole = run("masked", tmp_path, tmp_path / "a", data, 5)
    run("masked", tmp_path, tmp_path / "b", data, 3)
    parts = run("masked", tmp_path, tmp_path / "b", data, 5)
    assert int(parts["extra"]["place"]) == 5
    assert all(torch.equal(v, parts["model"][k]) for k, v in whole["model"].items())


def test_transformers_start_from_weights(tmp_path: Path) -> None:
    run("residual", tmp_path, tmp_path / "a", {"batch": 4}, 2)
    start = tmp_path / "a" / "best.safetensors"
    path = config(tmp_path / "c.json", TRANSFORMER, {"batch": 4}, 1, lr=0.0)
    source = ["--pairs", str(tmp_path / "p.safetensors"), "--init", str(start), "--out", str(tmp_path / "b")]
    assert train.main(["residual", "--config", str(path), *source]) == 0
    one, two = loop.load_weights(start), loop.load_weights(tmp_path / "b" / "best.safetensors")
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    assert train.main(["masked", "--config", str(path), *source[:-1], str(tmp_path / "c")]) == 1
