# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses

import official
import pytest
import torch
from benchmarks import plain
from torch import Tensor

from hero_core.config import TransformerConfig
from hero_core.residual import ResidualTransformer
from hero_core.transformer import padding_of

NAMES = [f"{who}_res_transformer_{what}" for who in ("hero", "momask") for what in ("noshare", "shareweight")]
SMALL = TransformerConfig(
    num_tokens=24, code_dim=16, num_quantizers=4, latent_dim=32, ff_size=48, n_layers=2, n_heads=4, clip_dim=24
)


def small(share_weight: bool = False, dropout: float = 0.2) -> ResidualTransformer:
    torch.manual_seed(0)
    cfg = dataclasses.replace(SMALL, share_weight=share_weight, dropout=dropout)
    model = ResidualTransformer(cfg).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(5)
    return model


def clip(count: int = 2) -> tuple[Tensor, Tensor]:
    local = torch.randn(count, 6, SMALL.clip_dim, generator=torch.Generator().manual_seed(1))
    return local, local.mean(dim=1)


def tokens(batch: int = 2, n: int = 9) -> Tensor:
    return torch.randint(24, (batch, n, SMALL.num_quantizers), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", NAMES)
def test_official_forward(name: str) -> None:
    model, g, tol = official.transformer(name)
    condition, pads = model.prepare(g.get("in.memory"), g["in.cond"]), g["in.padding_mask"]
    ids = torch.where(pads[..., None], model.pad_id, g["in.all_ids"])
    for layer in range(1, model.cfg.num_quantizers):
        history = model.history(ids, layer)
        torch.testing.assert_close(history, g[f"out.layer{layer}.history_sum"], **tol)
        torch.testing.assert_close(model(history, layer, condition, pads).mT, g[f"out.layer{layer}.logits_BKn"], **tol)
        guided = model(history, layer, condition, pads, guidance=5.0)
        torch.testing.assert_close(guided.mT, g[f"out.layer{layer}.logits_cfg5"], **tol)


@pytest.mark.parametrize("name", NAMES)
def test_official_training_step(name: str) -> None:
    """A different layer for each sample in one pass."""
    model, g, tol = official.transformer(name)
    condition, pads = model.prepare(g.get("in.memory"), g["in.cond"]), g["in.padding_mask"]
    logits = model(g["train.history_sum"], g["train.active_layer"], condition, pads)
    torch.testing.assert_close(logits.mT, g["train.logits"], **tol)
    loss, accuracy = model.layer_loss(g["in.all_ids"], g["train.active_layer"], condition, g["in.lens"])
    torch.testing.assert_close(loss, g["train.loss"])
    assert accuracy.item() == pytest.approx(g["train.acc"].item())


@pytest.mark.parametrize(
    ("file", "cfg"),
    [
        ("hero_transformers_fullscale_keys", TransformerConfig()),
        (
            "momask_transformers_fullscale_keys",
            TransformerConfig(n_layers=8, use_iie=False, use_die=False, share_weight=True),
        ),
    ],
)
def test_official_names_and_shapes(file: str, cfg: TransformerConfig) -> None:
    info = official.sidecar(file)["residual"]
    with torch.device("meta"):
        model = ResidualTransformer(cfg)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == info["keys"]
    assert sum(p.numel() for p in model.parameters()) == info["params"]


def test_same_as_two_plain_passes() -> None:
    model, (local, pooled) = small(), clip()
    pads = padding_of(torch.tensor([9, 5]), 9)
    history = model.history(tokens(), 2)
    expected = plain.residual_logits(model, plain.torch_decoder(model), history, 2, local, pooled, pads, 3.0)
    logits = model(history, 2, model.prepare(local, pooled), pads, guidance=3.0)
    assert logits.std() > 0.1
    torch.testing.assert_close(logits[~pads], expected[~pads], atol=5e-5, rtol=5e-4)


@pytest.mark.parametrize("share", [True, False])
def test_one_layer_or_one_for_each_sample(share: bool) -> None:
    model, ids = small(share), tokens(batch=3)
    condition = model.prepare(*clip(3))
    layers = torch.tensor([3, 1, 2])
    history = torch.stack([model.history(one, int(q)) for one, q in zip(ids, layers, strict=True)])
    together = model(history, layers, condition)
    for i, q in enumerate(layers.tolist()):
        alone = model(history, q, condition)[i]
        torch.testing.assert_close(together[i], alone, atol=2e-5, rtol=2e-4)


def test_shared_tables_score_and_embed() -> None:
    model = small(share_weight=True)
    h = torch.eye(SMALL.code_dim)
    for layer in range(1, SMALL.num_quantizers - 1):
        torch.testing.assert_close(model.score(h, layer).t(), model.embedding(layer))


def test_separate_tables_count_twice() -> None:
    """The official program adds the product to itself, and its weights were trained so."""
    model = small()
    model.output_proj_bias.normal_()
    h = torch.randn(2, 3, SMALL.code_dim)
    expected = 2 * h @ model.output_proj_weight[1].t() + model.output_proj_bias[1]
    torch.testing.assert_close(model.score(h, 2), expected)


def test_layers_are_drawn_by_the_recipe() -> None:
    layers = ResidualTransformer(dataclasses.replace(SMALL, num_quantizers=6)).draw_layers(
        40000, torch.Generator().manual_seed(0)
    )
    share = torch.bincount(layers, minlength=6).float() / len(layers)
    # P(round(4 (1 - cos(pi u / 2))) = k), k = 0 .. 4, for uniform u
    edges = torch.tensor([0.0, 0.5, 1.5, 2.5, 3.5, 4.0])
    expected = torch.acos(1 - edges / 4).diff() * 2 / torch.pi
    assert share[0] == 0
    torch.testing.assert_close(share[1:], expected, atol=0.01, rtol=0.0)


@pytest.mark.parametrize("share", [True, False])
def test_learns(share: bool) -> None:
    model = small(share, dropout=0.0).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    local, pooled = clip()
    ids, lengths, g = tokens(), torch.tensor([9, 5]), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(120):
        loss, _accuracy = model.loss(ids, local, pooled, lengths, g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
