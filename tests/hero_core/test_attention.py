# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hero_core
from hero_core import video
from hero_core.attention import Attention, look
from hero_core.config import TransformerConfig
from hero_core.errors import HeroError
from hero_core.masked import MaskedTransformer
from tests.models import write_tiny

SMALL = TransformerConfig(
    num_tokens=24, code_dim=16, num_quantizers=4, latent_dim=32, ff_size=48, n_layers=2, n_heads=4, clip_dim=32
)
IDS = torch.arange(7)


def small(**changes: object) -> MaskedTransformer:
    torch.manual_seed(0)
    model = MaskedTransformer(dataclasses.replace(SMALL, **changes)).eval().requires_grad_(False)  # type: ignore[arg-type]
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(5)
    return model


def seen(model: MaskedTransformer, local: Tensor) -> Attention:
    return look(model, local[None], local.mean(0)[None], IDS)


def check(attention: Attention, frames: int = 16) -> None:
    for array, shape in (
        (attention.frames, (frames,)),
        (attention.intention, (frames,)),
        (attention.tokens, (7, frames)),
    ):
        assert array.shape == shape and array.dtype == np.float32
        np.testing.assert_allclose(array.sum(-1), 1, atol=1e-5)
        assert (array >= 0).all()


@given(at=st.integers(0, 15), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_the_one_frame_that_differs_is_found(at: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    local = torch.randn(SMALL.clip_dim, generator=generator).expand(16, -1).clone()
    local[at] += torch.randn(SMALL.clip_dim, generator=generator)
    attention = seen(small(), local)
    check(attention)
    assert attention.frames.argmax() == attention.intention.argmax() == at


def keyed(model: MaskedTransformer, feature: int) -> None:
    """Every query of the frames asks for the same: a large value of one feature."""
    dim = SMALL.latent_dim
    model.cond_emb.weight.copy_(torch.eye(dim))
    for layer in model.layers:
        attn = layer.multihead_attn
        attn.in_proj_weight[:dim] = 0
        attn.in_proj_bias[:dim] = 3
        attn.in_proj_weight[dim : 2 * dim] = 0
        attn.in_proj_weight[dim : 2 * dim, feature] = 1


def test_of_two_that_differ_the_one_that_is_asked_for() -> None:
    """Both frames are as far from the rest; the layers ask for one of them. Hiding each agrees."""
    model = small()
    keyed(model, 0)
    local = torch.zeros(16, SMALL.clip_dim)
    local[4, 0] = local[11, 1] = 2.0
    attention = seen(model, local)
    assert attention.frames[4] > 4 * attention.frames[11] > 0

    def moved(frame: int) -> float:
        hidden = local.clone()
        hidden[frame] = 0
        one, other = (
            model(IDS[None], model.prepare(x[None], local.mean(0)[None])) for x in (local, hidden)
        )  # the intention stays
        return float((one - other).abs().mean())

    assert moved(4) > 2 * moved(11)


def test_frames_that_are_alike_share_evenly() -> None:
    attention = seen(small(), torch.ones(16, SMALL.clip_dim))
    check(attention)
    np.testing.assert_allclose(attention.frames, 1 / 16, atol=1e-6)


@pytest.mark.parametrize(("iie", "die"), [(True, False), (False, True), (False, False)])
def test_models_without_a_block(iie: bool, die: bool) -> None:
    local = torch.zeros(16, SMALL.clip_dim)
    local[3] = torch.randn(SMALL.clip_dim, generator=torch.Generator().manual_seed(1))
    attention = seen(small(use_iie=iie, use_die=die), local)
    check(attention)
    assert (attention.frames.argmax() == 3) == (iie or die)
    if not die:
        np.testing.assert_array_equal(attention.tokens[0], attention.intention)


def test_looking_changes_nothing() -> None:
    model = small()
    local = torch.randn(1, 16, SMALL.clip_dim)
    condition = model.prepare(local, local.mean(1))
    x = model.token_emb(IDS[None])
    watched: list[Tensor] = []
    with_eyes = model.run(x, None, condition, None, 4.0, seen=watched)
    assert torch.equal(with_eyes, model.run(x, None, condition, None, 4.0))
    assert len(watched) == SMALL.n_layers and watched[0].shape[0] == 2
    for weights in watched:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_of_a_take(tmp_path: Path) -> None:
    hero = hero_core.load(write_tiny(tmp_path), device="cpu", dtype="float32")
    features = hero.encode(np.random.default_rng(0).integers(0, 255, (20, 40, 60, 3), dtype=np.uint8))
    motion = hero.react(features, takes=2, length=28)
    check(hero.attention(features, motion, take=1))
    assert motion.tokens is not None
    by_tokens = hero.attention(features, torch.from_numpy(motion.tokens[1]).long())
    np.testing.assert_array_equal(by_tokens.frames, hero.attention(features, motion, take=1).frames)
    with pytest.raises(HeroError):
        hero.attention(features, torch.from_numpy(motion.tokens).long())


def test_shipped_model_with_a_late_event(shared: Path) -> None:
    """A still picture for three quarters, then a car: the last quarter counts more than its share.

    And the frames that are said to count are those that change the model's tokens when they are hidden.
    """
    hero = hero_core.load(device="cpu", dtype="float32")
    frames = video.read_video(shared / "videos" / "automobile_rushing_towards.mp4").frames
    event = frames[video.sample_indices(len(frames), 4)]
    features = hero.encode(np.concatenate((frames[:1].repeat(12, 0), event)))
    motion = hero.react(features, length=80)
    found = hero.attention(features, motion).frames
    assert found[12:].sum() > 0.3

    hidden = features.local.repeat(16, 1, 1)
    for t in range(16):
        hidden[t, t] = features.local[torch.arange(16) != t].mean(0)
    assert motion.tokens is not None
    ids = torch.from_numpy(motion.tokens[:, :, 0]).long()

    def chances(local: Tensor) -> Tensor:
        condition = hero.masked.prepare(local, local.mean(1))
        out: Tensor = hero.masked(ids.expand(len(local), -1), condition).log_softmax(-1)
        return out

    whole = chances(features.local[None])
    moved = (whole.exp() * (whole - chances(hidden))).sum(-1).mean(-1).numpy()
    assert np.corrcoef(found.argsort().argsort(), moved.argsort().argsort())[0, 1] > 0.2
