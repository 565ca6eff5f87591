# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hero_core.config import RVQConfig
from hero_core.rvq import RVQVAE, ResidualVQ, rvq_loss

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
SMALL = RVQConfig(width=16, code_dim=16, nb_code=12, num_quantizers=3, sample_codebook_temp=0.0)


def golden(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not (GOLDEN / f"{name}.npz").exists():
        pytest.skip("the official golden numbers are not beside this checkout")
    sidecar = json.loads((GOLDEN / f"{name}.json").read_text())
    arrays = np.load(GOLDEN / f"{name}.npz")
    return sidecar, {k: torch.from_numpy(arrays[k]) for k in arrays.files}


@pytest.mark.parametrize("name", ["rvq_a", "rvq_b_shared_silu"])
def test_official_tokenizer(name: str) -> None:
    sidecar, g = golden(name)
    config = {k: v for k, v in sidecar["config"].items() if k != "nearest_code_margin"}
    model = RVQVAE(RVQConfig(**config)).eval()
    model.load_state_dict({k[3:]: v for k, v in g.items() if k.startswith("sd.")})
    tol = {"atol": sidecar["tolerance"]["atol"], "rtol": sidecar["tolerance"]["rtol"]}
    with torch.no_grad():
        latents = model.encoder(g["in.motion"].transpose(1, 2))
        torch.testing.assert_close(latents, g["out.encoder"], **tol)
        ids = model.encode_tokens(g["in.motion"])
        assert torch.equal(ids, g["out.indices"])
        torch.testing.assert_close(model.decode_tokens(ids), g["out.forward_decoder"], **tol)
        masked = model.decode_tokens(g["in.indices_masked"])
        torch.testing.assert_close(masked, g["out.forward_decoder_masked"], **tol)
        base = model.decode_tokens(ids[..., :1])
        torch.testing.assert_close(base, g["out.forward_decoder_base_only"], **tol)
        recon, commit, perplexity = model(g["in.motion"])
        torch.testing.assert_close(recon, g["out.recon"], **tol)
        torch.testing.assert_close(commit, g["out.commit"], **tol)
        torch.testing.assert_close(perplexity, g["out.perplexity"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(rvq_loss(recon, g["in.motion"], commit), g["out.loss_total"], **tol)


def test_official_codebook_updates() -> None:
    sidecar, g = golden("rvq_ema_training_warm")
    c = sidecar["config"]
    quantizer = ResidualVQ(
        RVQConfig(
            nb_code=c["nb_code"], code_dim=c["code_dim"], num_quantizers=c["num_quantizers"],
            sample_codebook_temp=0.0, quantize_dropout_prob=0.0,
        )
    ).train()  # fmt: skip
    for i, book in enumerate(quantizer.books()):
        for key in ("codebook", "code_sum", "code_count"):
            getattr(book, key).copy_(g[f"in.layer{i}.{key}"])
    for step in range(3):
        quantized, ids, commit, perplexity = quantizer(g[f"in.step{step}.x_BCT"])
        assert torch.equal(ids, g[f"out.step{step}.indices"])
        torch.testing.assert_close(quantized, g[f"out.step{step}.quantized"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(commit, g[f"out.step{step}.commit"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(perplexity, g[f"out.step{step}.perplexity"], atol=1e-3, rtol=1e-4)
        for i, book in enumerate(quantizer.books()):
            for key in ("codebook", "code_sum", "code_count"):
                torch.testing.assert_close(
                    getattr(book, key), g[f"out.step{step}.layer{i}.{key}"], atol=1e-5, rtol=1e-4
                )


def test_full_scale_names_and_shapes() -> None:
    path = GOLDEN / "rvq_fullscale_keys.json"
    if not path.exists():
        pytest.skip("the official golden numbers are not beside this checkout")
    expected = json.loads(path.read_text())
    with torch.device("meta"):
        model = RVQVAE(RVQConfig())
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == expected["keys"]
    assert sum(p.numel() for p in model.parameters()) == expected["params"]


def test_minus_one_is_a_zero_code_and_missing_layers_are_too() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVQ(SMALL)
    for book in quantizer.books():
        book.codebook.normal_()
    ids = torch.randint(0, 12, (2, 5, 3))
    base = quantizer.decode(ids[..., :1])
    ids[..., 1:] = -1
    assert torch.equal(quantizer.decode(ids), base)
    assert not quantizer.decode(torch.full((1, 4, 3), -1)).any()


def test_more_layers_never_reconstruct_worse() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVQ(SMALL).train()
    z = torch.randn(4, 16, 40)
    for _ in range(30):
        quantizer(z)
    quantizer.eval()
    ids = quantizer.encode(z)
    errors = [float((quantizer.decode(ids[..., : q + 1]) - z).square().mean()) for q in range(3)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] < float(z.square().mean())


def test_training_learns_and_warm_start_keeps_codes() -> None:
    torch.manual_seed(0)
    model = RVQVAE(RVQConfig(width=32, code_dim=16, nb_code=32, num_quantizers=2, dropout=0.0)).train()
    x = torch.randn(8, 16, 263).cumsum(1) * 0.1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        recon, commit, _ = model(x)
        loss = rvq_loss(recon, x, commit)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    codes = model.quantizer.books()[0].codebook.clone()
    fresh = RVQVAE(model.cfg).train()
    fresh.load_state_dict(model.state_dict())
    for book in fresh.quantizer.books():
        book.warm_start(50.0)
    fresh(x)
    moved = (fresh.quantizer.books()[0].codebook - codes).norm() / codes.norm()
    assert moved < 0.2
