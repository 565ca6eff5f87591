# SPDX-License-Identifier: GPL-3.0-or-later
"""The length head learns from the intention, and its report compares it with knowing nothing of the clip."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hero_core.config import LengthConfig, TransformerConfig
from hero_core.length import LengthEstimator
from hero_core.masked import MaskedTransformer
from hero_core.train import __main__ as train
from hero_core.train import length, loop
from tests.hero_core.train.test_training import TRANSFORMER

CONFIG = {
    "model": {"input_dim": 8, "hidden": [32, 16], "dropout": 0.0},
    "data": {"batch": 32, "noise": 0.1},
    "loop": {"iterations": 120, "lr": 5e-3, "warmup": 5, "validate_every": 40, "threads": 1},
}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Clips of two kinds, one with reactions of 5 or 6 tokens and one of 20 or 21; and a masked transformer."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(36) % 2
    local = torch.randn(36, 1, 16, 8, generator=generator) * 0.1 + kinds[:, None, None, None] * 2
    clip = torch.arange(36).repeat(2)
    ids = torch.zeros(72, 25, 3, dtype=torch.long)
    for row, (c, more) in enumerate(zip(clip.tolist(), [0] * 36 + [1] * 36, strict=True)):
        ids[row, 5 + 15 * (c % 2) + more :] = -1
    loop.save_weights(
        {
            "local": local, "split": torch.tensor([0] * 20 + [1] * 8 + [2] * 8), "ids": ids, "ids_mirrored": ids,
            "clip": clip, "mirrored": torch.tensor([0]),
        },
        tmp_path / "p.safetensors",
    )  # fmt: skip
    run = tmp_path / "masked"
    run.mkdir()
    torch.manual_seed(0)
    loop.save_weights(MaskedTransformer(TransformerConfig(**TRANSFORMER)).state_dict(), run / "best.safetensors")  # type: ignore[arg-type]
    (run / "model.json").write_text(json.dumps(TRANSFORMER))
    (tmp_path / "c.json").write_text(json.dumps(CONFIG))
    return tmp_path


def arguments(folder: Path) -> list[str]:
    named = {"config": "c.json", "pairs": "p.safetensors", "masked": "masked", "out": "o"}
    return ["length", *(part for key, name in named.items() for part in (f"--{key}", str(folder / name)))]


def test_it_learns_what_the_clip_tells(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments(made)) == 0
    report = json.loads((made / "o" / "report.json").read_text())
    test = report["test"]
    assert test["reactions"] == 16
    assert test["nll"][0] < test["nll_histogram"][0] - 0.5
    assert test["nll_gain"][0] == pytest.approx(test["nll_histogram"][0] - test["nll"][0], rel=1e-4)
    assert test["error_s"][0] <= 0.11 < 1 < test["error_s_histogram"][0]  # one of two neighbouring tokens is right
    assert "apart" in report["what"] and "test: negative log-likelihood" in capsys.readouterr().out
    model = LengthEstimator(LengthConfig(**json.loads((made / "o" / "model.json").read_text())))
    model.load_state_dict(loop.load_weights(made / "o" / "best.safetensors"))
    assert json.loads((made / "o" / "run.json").read_text())["files"]["masked"]["name"] == "best.safetensors"


def test_numbers_by_hand() -> None:
    """Two clips; a model that is sure of 2 tokens beside an even histogram of 4 counts."""

    class Sure(LengthEstimator):
        def forward(self, intention: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, math.log(97), 0.0, 0.0]]).expand(len(intention), -1)  # 97 % of 2 tokens

    model = Sure(LengthConfig(input_dim=1, hidden=(1,), max_tokens=4))
    tokens, clip = torch.tensor([2, 2, 4]), torch.tensor([7, 7, 9])
    found = length.measure(model, torch.zeros(3, 1), tokens, clip, torch.zeros(4), 0.2)
    assert found["nll"][0] == pytest.approx((-math.log(0.97) - math.log(0.01)) / 2, rel=1e-5)
    assert found["nll_histogram"] == pytest.approx([math.log(4), 0.0], abs=1e-6)
    assert found["error_s"][0] == pytest.approx(0.2)
    assert found["error_s"][1] == pytest.approx(1.96 * 0.4 / math.sqrt(2) / math.sqrt(2))
    plain = length.histogram(torch.tensor([1, 1, 4]), 4).softmax(-1)
    torch.testing.assert_close(plain, torch.tensor([3.0, 1, 1, 2]) / 7)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"input_dim": 9}, "input_dim is 9"), ({"max_tokens": 20}, "max_tokens 20"), (None, "masked stage")],
)
def test_what_does_not_fit(
    made: Path, change: dict[str, int] | None, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if change is None:
        (made / "masked" / "model.json").unlink()
    else:
        model = {**CONFIG["model"], **change}  # type: ignore[dict-item]
        (made / "c.json").write_text(json.dumps({**CONFIG, "model": model}))
    assert train.main(arguments(made)) == 1
    assert word in capsys.readouterr().err and not (made / "o").exists()
