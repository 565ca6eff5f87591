# SPDX-License-Identifier: GPL-3.0-or-later
"""The masked transformer, and with it the conditioning that it shares with the residual one."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import official
import pytest
import torch
from benchmarks import plain
from torch import Tensor

from hero_core.config import TransformerConfig
from hero_core.errors import HeroError
from hero_core.masked import MaskedTransformer, masked_loss
from hero_core.residual import ResidualTransformer
from hero_core.transformer import ConditionedTransformer, padding_of, take

SMALL = TransformerConfig(
    num_tokens=24, code_dim=16, num_quantizers=4, latent_dim=32, ff_size=48, n_layers=2, n_heads=4, clip_dim=24
)
LENGTHS = torch.tensor([9, 5])


def small(cfg: TransformerConfig = SMALL, spread: float = 5.0, model_class: type = MaskedTransformer) -> Any:
    """Weights larger than at the start of training, so that every part has an effect."""
    torch.manual_seed(0)
    model = model_class(cfg).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(spread)
    return model


def clip(count: int = 2, frames: int = 6) -> tuple[Tensor, Tensor]:
    local = torch.randn(count, frames, SMALL.clip_dim, generator=torch.Generator().manual_seed(1))
    return local, local.mean(dim=1)


def tokens(batch: int = 2, n: int = 9) -> Tensor:
    return torch.randint(SMALL.num_tokens + 1, (batch, n), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["hero_mask_transformer", "momask_mask_transformer"])
def test_official_forward(name: str) -> None:
    model, g, tol = official.transformer(name)
    condition = model.prepare(g.get("in.memory"), g["in.cond"])
    ids, pads = g["in.ids"], g["in.padding_mask"]
    assert torch.equal(padding_of(g["in.lens"], ids.shape[1]), pads)
    torch.testing.assert_close(model.position_enc.pe[:64, 0], g["out.pe_first64"])
    if "out.intention" in g:
        torch.testing.assert_close(model.intention(g["in.memory"], g["in.cond"]), g["out.intention"], **tol)
    torch.testing.assert_close(model(ids, condition, pads).mT, g["out.logits_BKn"], **tol)
    torch.testing.assert_close(model(ids, condition.unconditional(), pads).mT, g["out.logits_uncond"], **tol)
    torch.testing.assert_close(model(ids, condition, pads, guidance=4.0).mT, g["out.logits_cfg4"], **tol)


@pytest.mark.parametrize("name", ["hero_mask_transformer", "momask_mask_transformer"])
def test_official_training_step(name: str) -> None:
    model, g, tol = official.transformer(name)
    condition = model.prepare(g.get("in.memory"), g["in.cond"])
    logits = model(g["train.corrupted_ids"], condition, g["in.padding_mask"])
    torch.testing.assert_close(logits.mT, g["train.logits"], **tol)
    loss, accuracy = masked_loss(logits, g["train.labels_ignore_mask_id"], ignore=model.mask_id)
    torch.testing.assert_close(loss, g["train.loss"])
    assert accuracy.item() == pytest.approx(g["train.acc"].item())


@pytest.mark.parametrize(
    ("file", "part", "cfg"),
    [
        ("hero_transformers_fullscale_keys", "mask", TransformerConfig()),
        ("momask_transformers_fullscale_keys", "mask", TransformerConfig(n_layers=8, use_iie=False, use_die=False)),
    ],
)
def test_official_names_and_shapes(file: str, part: str, cfg: TransformerConfig) -> None:
    info = official.sidecar(file)[part]
    with torch.device("meta"):
        model = MaskedTransformer(cfg)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == info["keys"]
    assert sum(p.numel() for p in model.parameters()) == info["params"]


def test_same_as_two_plain_passes() -> None:
    """Guidance as one batch, and everything of the clip computed once: torch's own layers give the same."""
    model, (local, pooled), ids = small(), clip(), tokens()
    pads = padding_of(LENGTHS, 9)
    expected = plain.masked_logits(model, plain.torch_decoder(model), ids, local, pooled, pads, 3.0)
    logits = model(ids, model.prepare(local, pooled), pads, guidance=3.0)
    assert logits.std() > 0.1
    torch.testing.assert_close(logits[~pads], expected[~pads], atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize(("iie", "die"), list(itertools.product([True, False], repeat=2)))
def test_ablations(iie: bool, die: bool) -> None:
    """Each switch removes its part and what the logits owe to it."""
    model = small(dataclasses.replace(SMALL, use_iie=iie, use_die=die))
    names = [name for name, _ in model.named_parameters()]
    assert any("global_local_crossatt_block" in name for name in names) == iie
    assert any("multihead_attn" in name for name in names) == die
    local, pooled = clip()
    shuffled = local.flip(0)  # other frames, the same pooled feature
    ids = tokens()
    logits = model(ids, model.prepare(local, pooled))
    sees_frames = not torch.allclose(logits, model(ids, model.prepare(shuffled, pooled)), atol=1e-4)
    assert sees_frames == (iie or die)
    assert not torch.allclose(logits, model(ids, model.prepare(local, pooled.flip(0))), atol=1e-4)
    null = model.prepare(local, pooled).unconditional()
    null_shuffled = model.prepare(shuffled, pooled).unconditional()
    # Without intention the frames are still seen, through the memory alone.
    assert torch.allclose(model(ids, null), model(ids, null_shuffled), atol=1e-4) == (not die)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("model_class", [MaskedTransformer, ResidualTransformer])
def test_places_in_time_tell_forward_from_backward(model_class: type, guidance: float) -> None:
    """Without them the frames have no order, whatever the order is; with them, and with DIE, they do."""
    local, pooled = clip()
    orders = {"backward": torch.arange(5, -1, -1), "mixed": torch.tensor([3, 0, 5, 1, 4, 2])}
    for frames, die in ((0, True), (6, True), (6, False)):
        model = small(dataclasses.replace(SMALL, memory_frames=frames, use_die=die), model_class=model_class)

        def logits(order: Tensor, model: ConditionedTransformer = model) -> Tensor:
            condition = model.prepare(local[:, order], pooled)
            if isinstance(model, ResidualTransformer):
                ids = torch.stack([tokens() % SMALL.num_tokens] * SMALL.num_quantizers, dim=-1)
                out: Tensor = model(model.history(ids, 2), 2, condition, guidance=guidance)
            else:
                out = model(tokens(), condition, guidance=guidance)
            return out

        straight = logits(torch.arange(6))
        for order in orders.values():
            assert torch.allclose(logits(order), straight, atol=1e-4, rtol=1e-4) == (not frames or not die)


def test_places_in_time_are_so_many() -> None:
    model = small(dataclasses.replace(SMALL, memory_frames=6))
    assert model.memory_time.shape == (6, SMALL.latent_dim)
    assert not hasattr(small(), "memory_time")
    for frames in (1, 5):
        with pytest.raises(HeroError, match=f"exactly 6 frames; got {frames}"):
            model.prepare(*clip(frames=frames))


def test_guidance_extrapolates_from_the_unconditional_pass() -> None:
    model, ids = small(), tokens()
    condition = model.prepare(*clip())
    full, null = model(ids, condition), model(ids, condition.unconditional())
    torch.testing.assert_close(model(ids, condition, guidance=2.5), null + 2.5 * (full - null), atol=2e-5, rtol=2e-4)
    torch.testing.assert_close(model(ids, condition, guidance=0.0), null, atol=2e-5, rtol=2e-4)


def test_takes_of_a_clip_share_its_condition() -> None:
    model, ids = small(), tokens(batch=6)
    local, pooled = clip()
    shared = model(ids, model.prepare(local, pooled), guidance=3.0)
    repeated = model.prepare(local.repeat_interleave(3, dim=0), pooled.repeat_interleave(3, dim=0))
    torch.testing.assert_close(shared, model(ids, repeated, guidance=3.0), atol=2e-5, rtol=2e-4)


def test_padding_does_not_reach_a_sample() -> None:
    model, ids = small(), tokens()
    pads = padding_of(LENGTHS, 9)
    local, pooled = clip()
    logits = model(ids, model.prepare(local, pooled), pads, guidance=3.0)
    alone = model(ids[1:, :5], model.prepare(local[1:], pooled[1:]), guidance=3.0)
    torch.testing.assert_close(logits[1, :5], alone[0], atol=2e-5, rtol=2e-4)


def test_wanted_rows_are_those_of_all() -> None:
    model, ids = small(), tokens()
    condition, pads = model.prepare(*clip()), padding_of(LENGTHS, 9)
    rows = torch.tensor([[3, 0, 8], [4, 4, 1]])
    logits = model(ids, condition, pads, 3.0, rows)
    everything = model(ids, condition, pads, 3.0)
    torch.testing.assert_close(logits, take(everything, rows), atol=2e-5, rtol=2e-4)


def test_bfloat16_is_close() -> None:
    ids, (local, pooled) = tokens(), clip()
    exact, half = small(spread=3.0), small(spread=3.0).bfloat16()
    logits = exact(ids, exact.prepare(local, pooled), guidance=4.0)
    lower = half(ids, half.prepare(local, pooled), guidance=4.0)
    assert lower.dtype == torch.float32
    assert torch.cosine_similarity(logits, lower, dim=-1).min() > 0.99


def test_corruption_follows_the_recipe() -> None:
    """Shares of the official recipe, on many tokens; never a pad, never an unlabelled change."""
    model = small()
    batch, n = 4000, 20
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(SMALL.num_tokens, (batch, n), generator=g)
    lengths = torch.randint(1, n + 1, (batch,), generator=g)
    inputs, labels = model.corrupt(ids, lengths, g)
    pads, chosen = padding_of(lengths, n), labels != model.mask_id
    assert bool((inputs[pads] == model.pad_id).all()) and not bool((chosen & pads).any())
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(inputs[~chosen & ~pads], ids[~chosen & ~pads])
    # E[cos(pi u / 2)] = 2 / pi of the tokens
    assert chosen[~pads].float().mean().item() == pytest.approx(0.637, abs=0.01)
    masked = (inputs[chosen] == model.mask_id).float().mean().item()
    kept = (inputs[chosen] == labels[chosen]).float().mean().item()
    assert masked == pytest.approx(0.9 * 0.88, abs=0.01)
    assert kept == pytest.approx(0.9 * 0.12 + 0.1 / SMALL.num_tokens, abs=0.01)
    again = model.corrupt(ids, lengths, torch.Generator().manual_seed(5))
    assert torch.equal(again[0], model.corrupt(ids, lengths, torch.Generator().manual_seed(5))[0])


def test_dropped_intentions_are_the_unconditional_token() -> None:
    model, (local, pooled) = small(), clip()
    condition = model.prepare(local, pooled, drop=torch.tensor([True, False]))
    plain_condition = model.prepare(local, pooled)
    assert torch.equal(condition.intention[0], plain_condition.unconditional().intention[0])
    torch.testing.assert_close(condition.intention[1], plain_condition.intention[1])
    share = model.draw_drop(20000, torch.Generator().manual_seed(0)).float().mean().item()
    assert share == pytest.approx(SMALL.cond_drop_prob, abs=0.01)


@pytest.mark.parametrize("autocast", [False, True])
def test_learns(autocast: bool) -> None:
    """A few steps on two clips: the loss falls, and every weight gets a gradient."""
    torch.manual_seed(0)
    model = MaskedTransformer(dataclasses.replace(SMALL, dropout=0.0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    local, pooled = clip()
    ids, g = torch.randint(SMALL.num_tokens, (2, 9)), torch.Generator().manual_seed(0)
    losses = []
    for step in range(80):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss, accuracy = model.loss(ids, local, pooled, LENGTHS, g)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert 0.0 <= accuracy.item() <= 1.0
