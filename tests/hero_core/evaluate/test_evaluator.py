# SPDX-License-Identifier: GPL-3.0-or-later
"""The feature extractor against the official one, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official import FOLDER, arrays, sidecar
from safetensors.torch import save_file

from hero_core.errors import HeroError
from hero_core.evaluate import evaluator
from hero_core.evaluate.evaluator import Evaluator, EvaluatorConfig

TINY = EvaluatorConfig(movement_hidden=8, movement_latent=8, motion_hidden=8, out=6)


def rows(*lengths: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(n, 263) for n in lengths]


def official(folder: Path, **content: Any) -> Path:
    """The layout of the official release around random weights; returns finest.tar."""
    torch.manual_seed(3)
    model = Evaluator(TINY)
    file = folder / "vimo" / "text_mot_match" / "model" / "finest.tar"
    file.parent.mkdir(parents=True)
    parts = {name: getattr(model, name).state_dict() for name in ("movement_encoder", "motion_encoder")}
    torch.save({**parts, "epoch": 7, **content}, file)
    for name, std in (("rvq_bs256", 0.5), ("Comp_v6_KLD005", 2.0)):
        meta = folder / "vimo" / name / "meta"
        meta.mkdir(parents=True)
        np.save(meta / "mean.npy", np.zeros(263, np.float32))
        np.save(meta / "std.npy", np.full(263, std, np.float32))
    return file


def own(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    folder.mkdir()
    state = dict(Evaluator(TINY).state_dict())
    for key, size in (("reaction", 2), ("stimulus", 3)):
        state |= {f"heads.{key}.{k}": v for k, v in torch.nn.Linear(6, size).state_dict().items()}
    save_file({**state, "mean": torch.zeros(263), "std": torch.ones(263)}, folder / evaluator.WEIGHTS)
    info = evaluator.describe(TINY, "tiny", ["flee", "greet"], ["ball", "lion", "friend"])
    (folder / evaluator.CONFIG).write_text(json.dumps(info))
    return folder


def test_official_embeddings() -> None:
    info, g = sidecar("evaluator"), arrays("evaluator")
    c, tolerance = info["config"], info["tolerance"]
    cfg = EvaluatorConfig(
        c["dim_pose_minus4"], c["movement_hidden"], c["movement_latent"], c["motion_hidden"], c["out"]
    )
    model = Evaluator(cfg).eval()
    model.load_state_dict({k: v for k, v in g.items() if k.startswith("mo")})
    with torch.no_grad():
        movements = model.movement_encoder(g["in.motions"][..., :259])
        torch.testing.assert_close(movements, g["out.movements"], **tolerance)
        falling = model(g["in.motions"], g["in.lens"], "longest first")
        torch.testing.assert_close(falling, g["out.embeddings_sorted_by_length_desc"], **tolerance)
        mine = model(g["in.motions"], g["in.lens"])
        torch.testing.assert_close(mine[g["out.sort_order"]], falling)


def test_full_scale_names_and_shapes() -> None:
    path = FOLDER / "evaluator_fullscale_keys.json"
    if not path.exists():
        pytest.skip("the official golden numbers are not beside this checkout")
    expected = json.loads(path.read_text())
    with torch.device("meta"):
        model = Evaluator(EvaluatorConfig())
    for name, count in zip(("movement_encoder", "motion_encoder"), expected["params"], strict=True):
        module = getattr(model, name)
        assert {k: list(v.shape) for k, v in module.state_dict().items()} == expected[name]
        assert sum(p.numel() for p in module.parameters()) == count


def test_an_embedding_does_not_hang_on_its_batch(tmp_path: Path) -> None:
    extractor = evaluator.load(own(tmp_path / "own"))
    many = rows(40, 64, 20, 53, 64)
    together = extractor.embed(many)
    assert together.shape == (5, 6)
    for i, row in enumerate(many):
        torch.testing.assert_close(extractor.embed([row])[0], together[i], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(extractor.embed(many, batch=2), together, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(extractor.embed([many[3][:52]])[0], together[3], atol=1e-6, rtol=1e-5)
    with pytest.raises(HeroError, match="3 frames"):
        extractor.embed([many[0][:3]], [3])


def test_own_files(tmp_path: Path) -> None:
    first, second = evaluator.load(own(tmp_path / "a")), evaluator.load(own(tmp_path / "b", seed=1))
    assert first.identity.startswith("tiny (") and first.identity != second.identity
    assert first.identity == evaluator.load(tmp_path / "a").identity
    kind, stimulus = first.classify(first.embed(rows(40, 24)))
    assert kind.shape == stimulus.shape == (2,) and int(kind.max()) < 2 and int(stimulus.max()) < 3
    assert first.stimuli == ("ball", "lion", "friend")


def test_official_file(tmp_path: Path) -> None:
    file = official(tmp_path)
    extractor = evaluator.load(file)
    assert float(extractor.std[0]) == 0.5  # the tokenizer's, as the HERO release feeds it
    assert evaluator.load(file.parent.parent).identity == extractor.identity
    other = evaluator.load(file, tmp_path / "vimo" / "Comp_v6_KLD005" / "meta")
    assert other.identity != extractor.identity
    # A motion that fills all 200 frames has nothing behind it, as in the official program.
    (long,) = rows(200)
    direct = extractor.model(long[None] / 0.5, torch.tensor([200]))
    torch.testing.assert_close(extractor.embed([long]), direct)
    with pytest.raises(HeroError, match="--classifier"):
        extractor.classify(direct)


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="no evaluator"):
        evaluator.load(tmp_path / "nothing")
    torch.save({"net": {}}, tmp_path / "finest.tar")
    with pytest.raises(HeroError, match="no movement_encoder"):
        evaluator.load(tmp_path)
    file = official(tmp_path / "bad", text_encoder={})
    content = torch.load(file, weights_only=True)
    content["motion_encoder"]["hidden"][:] = float("nan")
    torch.save(content, file)
    with pytest.raises(HeroError, match="NaN"):
        evaluator.load(file)
    folder = own(tmp_path / "own")
    (folder / evaluator.CONFIG).unlink()
    with pytest.raises(HeroError, match="incomplete"):
        evaluator.load(folder)


def test_a_file_that_could_run_code_is_refused(tmp_path: Path) -> None:
    file = official(tmp_path, opt=Path("x"))
    with pytest.raises(HeroError, match="code"):
        evaluator.load(file)
