# SPDX-License-Identifier: GPL-3.0-or-later
"""What ReactDiff is trained on it can learn by heart, in both stages; tests/benchmarks holds the same with 8 clips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hero_core.errors import HeroError
from hero_core.face import checkpoint, data, metrics
from hero_core.face import train as training
from hero_core.face.config import CORRECTED, ReactDiffConfig, small
from hero_core.face.reactdiff import Features, ReactDiff
from hero_core.face.train import settings, train
from tests.hero_core.face import dyads
from tests.hero_core.face import small as tiny


def test_one_clip_is_learned_by_heart(tmp_path: Path) -> None:
    """Both roles of one dyad: FRCorr near K of what is generated for each of the two speakers."""
    root = dyads.react(tmp_path / "d", count=1, frames=20, splits=("train",))
    shutil.copytree(root / "train", root / "val")
    shutil.copy(root / "train.csv", root / "val.csv")
    sizes = {"clip": 20, "window": 20, "hidden": 32, "steps": 20, "dropout": 0.0, "time_bias": True}
    stage = {"lr": 3e-3, "warmup": 20, "cosine": True, "weight_decay": 0.0, "threads": 1, "validate_every": 400}
    sections = {
        "model": tiny.SIZES | sizes | {"features": "curves"},
        "data": {"batch": 2, "drop_sense": 0.0},
        "behaviour": stage | {"iterations": 400},
        "diffusion": stage | {"iterations": 250},
    }
    path = tmp_path / "c.json"
    path.write_text(json.dumps(sections))
    model = checkpoint.load(train(root, tmp_path / "o", path), "cpu")
    clips = data.load(data.read(root, "train"), 20)
    k = 3
    made = [
        model.react(Features(torch.from_numpy(v), torch.from_numpy(a)), k).attributes
        for v, a in zip(clips.video[0], clips.audio[0], strict=True)
    ]
    sets = [np.array([n]) for n in range(2)]
    assert metrics.frcorr(np.stack(made), clips.listeners, sets) > 0.9 * k
    # It is the speaker who decides: with the other one's listeners nothing fits.
    assert metrics.frcorr(np.stack(made), clips.listeners[::-1].copy(), sets) < 0.5 * k


def test_every_frame_and_every_latent_is_learned(tmp_path: Path) -> None:
    """Latents of a clip that is no whole number of windows are learned to its last frame.

    They are as many as the small model has: of fewer, a UNet without positions still sees the edges everywhere.
    """
    t = torch.arange(24)[:, None] / 25
    generator = torch.Generator().manual_seed(0)
    rates, phases = torch.rand(2, 2, 1, 64, generator=generator)
    speaker, listener = torch.sin(6 * (1.5 * rates * t + phases))
    latents = speaker[None], listener[None]
    torch.manual_seed(0)
    model = ReactDiff(tiny.config(steps=20, latent=64, **CORRECTED))
    training._statistics(model, latents)
    cfg = training.DiffusionLoop(
        iterations=250, lr=3e-3, warmup=20, cosine=True, validate_every=250, threads=1, weight_decay=0.0
    )
    training._diffusion(model, latents, latents, cfg, training.DataConfig(batch=8), tmp_path)
    wrong = (model.generate(speaker, 3) - listener).pow(2).mean((0, 2)).sqrt() / listener.std()
    assert float(wrong.max()) < 0.6 and float(wrong.mean()) < 0.25


def test_a_last_window_ends_with_the_clip() -> None:
    model = tiny.model(**CORRECTED)
    z = model.encode(tiny.features(17))
    whole = model.generate(z, overlap=0)[0]
    windows = torch.stack([model.scaled(z[s : s + 10]) for s in (0, 7)])
    noise = torch.stack([model.noise(0, 0, s, 10) for s in (0, 7)])
    first, last = model.unscaled(model.sampled(noise, windows))
    torch.testing.assert_close(whole[:7], first[:7])
    torch.testing.assert_close(whole[10:], last[3:])
    assert len(whole) == 17 and not torch.equal(whole[7:10], first[7:])


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (None, small()),
        (dict(tiny.SIZES), tiny.config(name="reactdiff", features="official", **CORRECTED)),
        ({**tiny.SIZES, "predicts": "noise"}, tiny.config(name="reactdiff", features="official", positions=True)),
    ],
)
def test_trainings_are_corrected_unless_they_say_otherwise(
    tmp_path: Path, model: dict[str, object] | None, wanted: ReactDiffConfig
) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({} if model is None else {"model": model}))
    assert settings(path)["model"] == wanted
    assert (ReactDiffConfig().predicts, ReactDiffConfig().positions) == ("noise", False)  # as in the paper
    assert {"predicts": small().predicts, "positions": small().positions} == CORRECTED


def test_the_average_of_the_weights_is_kept(tmp_path: Path) -> None:
    """It follows what the optimiser does, forgets where it began, validates, and leaves the training as it was."""
    steps = 30
    cfg = training.BehaviourLoop(
        iterations=steps, lr=0.1, warmup=0, validate_every=steps, threads=1, weight_decay=0.0, average=0.9
    )
    went, seen = list[float](), list[float]()
    stage = torch.nn.Linear(1, 1, bias=False)

    def loss_fn(_: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        went.append(float(stage.weight.detach()))
        return (stage.weight - 5).square().sum(), {}

    def validate() -> dict[str, float]:
        seen.append(float(stage.weight.detach()))
        return {"score": 0.0}

    training._run(stage, loss_fn, validate, cfg, tmp_path / "a")
    wanted = went[0]
    for n, weight in enumerate(went):
        decay = min(0.9, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * weight
    assert seen == [pytest.approx(wanted, rel=1e-5)] == [float(stage.weight.detach())]
    assert went[0] < wanted < went[-1]
    with pytest.raises(HeroError, match=r"average 1\.0 of the weights"):
        training.BehaviourLoop(average=1.0)
