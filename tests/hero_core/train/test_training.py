# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokenizer and transformers train, stop, go on exactly, and refuse what cannot work."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hero_core import humanml3d
from hero_core.config import RVQConfig, TransformerConfig
from hero_core.errors import HeroError
from hero_core.train import __main__ as train
from hero_core.train import loop, motions, pairs, tokenizer
from hero_core.train.loop import LoopConfig, learning_rate

MODEL = {"width": 16, "code_dim": 16, "nb_code": 16, "num_quantizers": 2}
TRANSFORMER = {
    "num_tokens": 16, "code_dim": 16, "num_quantizers": 3, "latent_dim": 16, "ff_size": 32, "n_layers": 1,
    "n_heads": 2, "clip_dim": 8, "iie_heads": 2,
}  # fmt: skip


def swinging(frames: int, seed: int) -> np.ndarray:
    """(N, 22, 3): the rest pose going forward with arms and legs swinging."""
    rng = np.random.default_rng(seed)
    bones = humanml3d.REFERENCE_OFFSETS.numpy()
    t = np.arange(frames) / 20
    joints = np.zeros((frames, 22, 3), np.float32)
    joints[:, 0] = np.stack([0 * t, 0.9 + 0 * t, rng.uniform(0.2, 1.5) * t], -1)
    rate = rng.uniform(3, 8)
    for j in range(1, 22):
        angle = rng.uniform(0, 0.6) * np.sin(rate * t + j) if j in (4, 5, 18, 19) else 0 * t
        x, y, z = bones[j]
        turned = np.stack([x + 0 * t, np.cos(angle) * y - np.sin(angle) * z, np.sin(angle) * y + np.cos(angle) * z], -1)
        joints[:, j] = joints[:, humanml3d.PARENTS[j]] + turned
    return joints


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    parts = [swinging(40 + 3 * i, i) for i in range(10)]
    np.savez(
        folder / "some.npz",
        joints=np.concatenate(parts),
        offsets=np.cumsum([0, *map(len, parts)]),
        names=np.array([f"m{i}" for i in range(10)]),
        split=np.array(["train"] * 6 + ["val"] * 2 + ["test"] * 2),
    )
    np.savez(
        folder / "two.npz", A=parts[0], B=parts[0][::-1], offsets=np.array([0, len(parts[0])]), names=np.array(["p"])
    )
    return folder


def config(path: Path, stage: dict[str, Any], data: dict[str, Any], steps: int, **more: Any) -> Path:
    settings = {
        "iterations": steps, "lr": 2e-3, "warmup": 2, "log_every": 5, "validate_every": 10, "threads": 1, **more,
    }  # fmt: skip
    path.write_text(json.dumps({"model": stage, "data": data, "loop": settings}))
    return path


def test_sequences_of_one_and_of_two_persons(data: Path) -> None:
    assert [n for n, _, _ in motions.sequences(data / "some.npz")] == [f"m{i}" for i in range(10)]
    assert [n for n, _, _ in motions.sequences(data / "two.npz")] == ["p#A", "p#B"]
    with pytest.raises(HeroError, match="nothing"):
        list(motions.sequences(data / "nothing.npz"))


def test_resampling_keeps_the_ends() -> None:
    joints = swinging(41, 0)
    for speed in (0.5, 1.0, 1.3):
        paced = motions.resample(joints, speed)
        assert len(paced) == round(40 / speed) + 1
        np.testing.assert_allclose(paced[[0, -1]], joints[[0, -1]], atol=1e-6)


def test_held_out_sequences_never_train(data: Path) -> None:
    files = ("some.npz", "two.npz")
    all_of_it = tokenizer.load(data, tokenizer.DataConfig(files=files, mirror=False))
    less = tokenizer.load(data, tokenizer.DataConfig(files=files, mirror=False, held_out=("m1", "p")))
    assert len(all_of_it["train"]) - len(less["train"]) == 3
    double = tokenizer.load(data, tokenizer.DataConfig(files=files))
    assert len(double["train"]) == 2 * len(all_of_it["train"]) and len(double["val"]) == len(all_of_it["val"])


def test_tokenizer_learns_and_goes_on_exactly(data: Path, tmp_path: Path) -> None:
    what = {"files": ["some.npz", "two.npz"], "window": 16, "batch": 16, "joint_weight": 1.0}
    whole = config(tmp_path / "whole.json", MODEL, what, 80, lr=5e-3)
    half = config(tmp_path / "half.json", MODEL, what, 40, lr=5e-3)
    arguments = ["--data", str(data), "--out"]
    assert train.main(["tokenizer", "--config", str(whole), *arguments, str(tmp_path / "a")]) == 0
    assert train.main(["tokenizer", "--config", str(half), *arguments, str(tmp_path / "b")]) == 0
    assert train.main(["tokenizer", "--config", str(whole), *arguments, str(tmp_path / "b")]) == 0
    one, two = (torch.load(tmp_path / x / "latest.pt", weights_only=True) for x in "ab")
    assert one["step"] == two["step"] == 80
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]), key
    assert one["extra"] and all(torch.equal(v, two["extra"][k]) for k, v in one["extra"].items())
    with (tmp_path / "a" / "train.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.85 * losses[0]
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["test_sequences"] == 2
    weights = loop.load_weights(tmp_path / "a" / "tokenizer.safetensors")
    model = tokenizer.RVQVAE(RVQConfig(**report["model"]))
    model.load_state_dict({k: v for k, v in weights.items() if k not in ("mean", "std")})
    rows = [motions.features(j) for _, split, j in motions.sequences(data / "some.npz") if split == "test"]
    error, _ = tokenizer.reconstruction_error(model.eval(), rows, weights["mean"], weights["std"])
    assert error * 100 == pytest.approx(report["test_mpjpe_cm"], rel=1e-4)


def some_pairs(path: Path) -> Path:
    """Clips whose features tell which of two reactions belongs to them."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(24) % 2
    local = torch.randn(24, 2, 16, 8, generator=generator) * 0.1 + kinds[:, None, None, None] * 2
    ids = torch.full((24, 50, 3), -1)
    ids[:, :10] = (kinds[:, None, None] * 5 + torch.arange(10)[:, None] // 2) % 16
    loop.save_weights(
        {
            "local": local,
            "split": torch.tensor([0] * 16 + [1] * 6 + [2] * 2),
            "ids": ids,
            "ids_mirrored": torch.where(ids >= 0, (ids + 8) % 16, -1),
            "clip": torch.arange(24),
            "mirrored": torch.tensor([0, 1]),
        },
        path,
    )
    return path


def test_a_mirrored_view_goes_with_the_mirrored_reaction(tmp_path: Path) -> None:
    data = pairs.load(some_pairs(tmp_path / "p.safetensors"))
    generator = torch.Generator().manual_seed(1)
    local, pooled, ids, lengths = data.batch(data.clips("train"), generator, crop=False)
    for i, clip in enumerate(data.clips("train").tolist()):
        view = int((local[i] == data.local[clip, 1]).all())
        table = data.ids_mirrored if view else data.ids
        assert torch.equal(ids[i], table[clip, :10])  # cut to the longest
    assert ids.shape == (16, 10, 3) and (lengths == 10).all()
    torch.testing.assert_close(pooled, local.mean(1))


def test_clips_that_are_alike_share_their_reactions(tmp_path: Path) -> None:
    found = some_pairs(tmp_path / "p.safetensors")
    kinds = torch.arange(24) % 3
    kinds[5] = -1  # like no other
    loop.save_weights(
        loop.load_weights(found) | {"alike": kinds, "ids": torch.arange(24)[:, None, None].repeat(1, 50, 3)}, found
    )
    data = pairs.load(found)
    assert data.shared[5].tolist() == [5]
    assert data.shared[0].tolist() == data.shared[3].tolist() == [0, 3, 6, 9, 12, 15]  # those of the training split
    assert data.shared[18].tolist() == [18, 21]
    generator = torch.Generator().manual_seed(0)
    own = data.batch(torch.zeros(64, dtype=torch.long), generator, crop=False)[2][:, 0, 0]
    shared = data.batch(torch.zeros(64, dtype=torch.long), generator, crop=False, share=1.0)[2][:, 0, 0]
    assert own.unique().tolist() == [0] or set(own.unique().tolist()) <= {0, 8}
    assert len(shared.unique()) >= 6


def test_cropping_drops_one_token_at_an_end(tmp_path: Path) -> None:
    data = pairs.load(some_pairs(tmp_path / "p.safetensors"))
    _, _, ids, lengths = data.batch(data.clips("train").repeat(20), torch.Generator().manual_seed(0))
    share = float((lengths == 9).float().mean())
    assert 0.2 < share < 0.45 and set(lengths.tolist()) == {9, 10}
    assert ((ids[..., 0] >= 0).sum(1) == lengths).all()
    assert len({tuple(row[:9, 0].tolist()) for row in ids[lengths == 9]}) == 8  # 2 kinds, 2 views, 2 ends


@pytest.mark.parametrize("stage", ["masked", "residual"])
def test_transformers_learn_from_the_video(tmp_path: Path, stage: str) -> None:
    found = some_pairs(tmp_path / "p.safetensors")
    path = config(tmp_path / "c.json", TRANSFORMER, {"batch": 16}, 120, lr=5e-3)
    assert train.main([stage, "--config", str(path), "--pairs", str(found), "--out", str(tmp_path / "o")]) == 0
    with (tmp_path / "o" / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["val_loss"]) < 0.6 * float(rows[0]["val_loss"])
    TransformerConfig(**json.loads((tmp_path / "o" / "model.json").read_text()))


@pytest.mark.parametrize(
    ("change", "word"),
    [({"model": {"nope": 1}}, "nope"), ({"models": {}}, "models"), ({"model": {"clip_dim": 9}}, "width 8")],
)
def test_configs_that_do_not_fit(
    tmp_path: Path, change: dict[str, Any], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"model": TRANSFORMER, **change}))
    found = some_pairs(tmp_path / "p.safetensors")
    assert train.main(["masked", "--config", str(path), "--pairs", str(found), "--out", str(tmp_path / "o")]) == 1
    assert word in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_loss_that_explodes_stops_the_run(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)

    def broken(_: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        return model.weight.sum() * float("nan"), {}

    with pytest.raises(HeroError, match="not finite"):
        loop.run(model, broken, lambda: {"score": 0.0}, LoopConfig(iterations=3), tmp_path / "o")


def test_early_stop_and_schedule(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    scores = iter([3.0, 1.0, 2.0, 2.0, 0.0])
    cfg = LoopConfig(iterations=100, validate_every=10, patience=2, log_every=100)
    loop.run(model, lambda g: (model.weight.square().sum(), {}), lambda: {"score": next(scores)}, cfg, tmp_path / "o")
    assert torch.load(tmp_path / "o" / "latest.pt", weights_only=True)["step"] == 40
    official = LoopConfig(lr=1.0, warmup=4, milestones=(10, 20), gamma=0.1)
    assert [learning_rate(official, s) for s in (0, 3, 4, 10, 20)] == pytest.approx([0.2, 0.8, 1.0, 0.1, 0.01])
    cosine = LoopConfig(lr=1.0, warmup=0, iterations=10, cosine=True)
    assert learning_rate(cosine, 0) == 1.0 and learning_rate(cosine, 10) == pytest.approx(0.0)
