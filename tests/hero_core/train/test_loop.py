# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop by itself: interruptions, logs that stay whole, checkpoints of other runs, what a run says of itself."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hero_core.errors import HeroError
from hero_core.train import __main__ as train
from hero_core.train import loop
from hero_core.train.loop import LoopConfig

CFG = LoopConfig(iterations=12, lr=0.1, warmup=0, log_every=3, validate_every=4)


class Toy:
    """A model with a dropout, a loss that draws, and something that happens at a step."""

    def __init__(self, at: int = -1, what: Any = None) -> None:
        torch.manual_seed(7)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
        self.extra = torch.zeros(1)
        self.steps, self.at, self.what = 0, at, what

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        self.steps += 1
        if self.steps == self.at:
            self.what()
        x = torch.randn(8, 3, generator=generator)
        self.extra += 1
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"mean": float(x.mean())}

    def validate(self) -> dict[str, float]:
        return {"score": float(self.model(torch.ones(1, 3)).square())}

    def run(self, out: Path, cfg: LoopConfig = CFG) -> Path:
        def put(state: dict[str, Tensor]) -> None:
            self.extra = state["n"].clone()

        return loop.run(self.model, self.loss, self.validate, cfg, out, lambda: {"n": self.extra}, put)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("train.csv", "validation.csv"):
        assert rows(a / name) == rows(b / name)
    one, two = (torch.load(x / "latest.pt", weights_only=True) for x in (a, b))
    for part in ("model", "extra"):
        assert all(torch.equal(v, two[part][k]) for k, v in one[part].items())
    one, two = (loop.load_weights(x / "best.safetensors") for x in (a, b))
    assert all(torch.equal(v, two[k]) for k, v in one.items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_exactly(tmp_path: Path, number: signal.Signals) -> None:
    Toy().run(tmp_path / "a")
    former = signal.getsignal(number)
    with pytest.raises(loop.Stopped, match="step 5 of 12"):
        Toy(5, lambda: os.kill(os.getpid(), number)).run(tmp_path / "b")
    assert signal.getsignal(number) is former
    Toy().run(tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_the_second_signal_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Toy(5, twice).run(tmp_path)
    assert not (tmp_path / "latest.pt").exists()


def test_rows_past_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    """The machine goes down at step 11; the last checkpoint is of step 5."""
    Toy().run(tmp_path / "a")

    def crash() -> None:
        raise RuntimeError

    with pytest.raises(loop.Stopped):
        Toy(5, lambda: os.kill(os.getpid(), signal.SIGTERM)).run(tmp_path / "b")
    with pytest.raises(RuntimeError):
        Toy(6, crash).run(tmp_path / "b")
    assert [row["step"] for row in rows(tmp_path / "b" / "train.csv")] == ["3", "6", "9"]
    with (tmp_path / "b" / "train.csv").open("a") as file:
        file.write("12,0.1")  # cut off
    Toy().run(tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_run_without_a_checkpoint_starts_its_logs_again(tmp_path: Path) -> None:
    Toy().run(tmp_path)
    (tmp_path / "latest.pt").unlink()
    Toy().run(tmp_path)
    assert len(rows(tmp_path / "train.csv")) == 4


def test_a_number_may_join_the_log(tmp_path: Path) -> None:
    Toy().run(tmp_path)
    toy = Toy()
    plain = toy.loss
    toy.loss = lambda g: (lambda x: (x[0], {**x[1], "more": 1.0}))(plain(g))  # type: ignore[method-assign]
    toy.run(tmp_path, dataclasses.replace(CFG, iterations=15))
    found = rows(tmp_path / "train.csv")
    assert [row["more"] for row in found] == ["", "", "", "", "1"] and found[0]["step"] == "3"


def test_checkpoints_of_the_first_loop_still_go_on(tmp_path: Path) -> None:
    """They had neither the states of several processes nor the sums of an unfinished log line."""
    Toy().run(tmp_path / "a")
    Toy().run(tmp_path / "b", dataclasses.replace(CFG, iterations=6))
    path = tmp_path / "b" / "latest.pt"
    state = torch.load(path, weights_only=True)
    for key in ("rng_of_processes", "device_rng_of_processes", "sums", "count"):
        del state[key]
    torch.save(state, path)
    Toy().run(tmp_path / "b")
    assert rows(tmp_path / "a" / "train.csv") == rows(tmp_path / "b" / "train.csv")


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    Toy().run(tmp_path)
    model = torch.nn.Linear(2, 2)
    with pytest.raises(HeroError, match="another model"):
        loop.run(model, lambda g: (model.weight.sum(), {}), lambda: {"score": 0.0}, CFG, tmp_path)
    (tmp_path / "latest.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(HeroError, match="cannot be read"):
        Toy().run(tmp_path)


def test_a_score_that_is_no_number_is_said(tmp_path: Path) -> None:
    toy = Toy()
    toy.validate = lambda: {"score": float("nan")}  # type: ignore[method-assign]
    with pytest.raises(HeroError, match="never gave a number"):
        toy.run(tmp_path)


def test_tensorboard_where_it_is_and_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = dataclasses.replace(CFG, tensorboard=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(HeroError, match=r"'tensorboard' is not installed.*false"):
        Toy().run(tmp_path / "a", cfg)
    seen: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            seen.append((Path(folder).name, purge_step))

        def add_scalar(self, *row: Any) -> None:
            seen.append(row)

        def flush(self) -> None: ...

        def close(self) -> None:
            seen.append(("closed",))

    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    Toy().run(tmp_path / "b", cfg)
    assert seen[0] == ("tensorboard", 1) and seen[-1] == ("closed",)
    assert {row[0] for row in seen[1:-1]} == {"train/loss", "train/mean", "train/lr", "validation/score"}
    assert (tmp_path / "b" / "train.csv").exists()


def test_the_time_left(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After going on it is that of the speed now, not of the steps of an earlier sitting."""
    assert [loop.duration(s) for s in (3, 600, 12_000)] == ["3 s", "10 min", "3 h 20 min"]
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def slow(seconds: float) -> Toy:
        toy = Toy()
        plain = toy.loss

        def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
            now[0] += seconds
            return plain(generator)

        toy.loss = loss  # type: ignore[method-assign]
        return toy

    slow(1.0).run(tmp_path, dataclasses.replace(CFG, iterations=6, save_minutes=1e9))
    capsys.readouterr()
    slow(100.0).run(tmp_path, dataclasses.replace(CFG, iterations=12, save_minutes=1e9))
    first = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("9/12"))
    assert "0.01 it/s" in first and "5 min left" in first


def test_what_a_run_says_of_itself(tmp_path: Path) -> None:
    source = tmp_path / "data.bin"
    source.write_bytes(b"abc")
    loop.record(tmp_path / "o", loop.describe("toy", {"loop": CFG}, {"data": source}, select_on_test=True))
    Toy().run(tmp_path / "o")
    said = json.loads((tmp_path / "o" / "run.json").read_text())
    assert said["config"]["loop"]["seed"] == 0 and said["stage"] == "toy" and said["select_on_test"] is True
    assert said["files"]["data"]["name"] == "data.bin" and said["files"]["data"]["sha256"].startswith("ba7816bf")
    assert said["result"]["steps"] == 12 and said["result"]["best_score"] >= 0 and str(tmp_path) not in str(said)


def test_weights_to_start_from(tmp_path: Path) -> None:
    model, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    path = tmp_path / "w.safetensors"
    state = {f"masked.{k}": v.half() for k, v in other.state_dict().items()}
    loop.save_weights({**state, "mean": torch.ones(2), "rvq.x": torch.ones(1)}, path)
    assert set(loop.start_from(model, path, "masked")) == {"mean"}
    torch.testing.assert_close(model.weight, other.weight, atol=1e-3, rtol=1e-3)
    loop.save_weights({"weight": torch.ones(3, 3)}, path)
    with pytest.raises(HeroError, match=r"bias is missing.*shape \(3, 3\)"):
        loop.start_from(model, path, "masked")
    loop.save_weights({"weight": torch.full((3, 2), float("nan")), "bias": torch.ones(3)}, path)
    with pytest.raises(HeroError, match="weight holds NaN"):
        loop.start_from(model, path, "masked")
    path.write_bytes(b"no")
    with pytest.raises(HeroError, match="damaged"):
        loop.start_from(model, path, "masked")


def test_exit_codes_and_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([]) == 2 and train.main(["nothing"]) == 2
    said = capsys.readouterr().err
    assert all(stage in said for stage in train.STAGES)
    assert train.main(["--help"]) == 0 and "torchrun" in capsys.readouterr().out
    stage = types.ModuleType("stage")
    monkeypatch.setitem(sys.modules, "stage", stage)
    monkeypatch.setitem(train.STAGES, "masked", ("stage", ""))
    for error, code in ((loop.Stopped("Stopped at step 3"), 130), (KeyboardInterrupt(), 130), (HeroError("bad"), 1)):

        def fail(_: list[str], error: BaseException = error) -> int:
            raise error

        stage.main = fail  # type: ignore[attr-defined]
        assert train.main(["masked"]) == code
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
