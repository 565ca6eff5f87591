# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import official
import pytest
import torch
from benchmarks import plain
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hero_core.config import VideoEncoderConfig
from hero_core.errors import HeroError
from hero_core.stem import CHANNELS
from hero_core.tc_clip import BlockTrace, VideoEncoder, merge_schedule, merge_tokens

SMALL = VideoEncoderConfig(
    image_size=32,
    patch_size=8,
    width=32,
    layers=3,
    heads=4,
    output_dim=16,
    num_frames=4,
    context_tokens=5,
    merge_r=4,
)


def small(cfg: VideoEncoderConfig = SMALL, seed: int = 0) -> VideoEncoder:
    torch.manual_seed(seed)
    model = VideoEncoder(cfg).eval()
    for name, parameter in model.named_parameters():
        if "bias_table" in name:
            torch.nn.init.normal_(parameter)
    return model


def video(batch: int = 2, frames: int = 4, side: int = 32, seed: int = 1) -> Tensor:
    return torch.randn(batch, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["tcclip_a_T4", "tcclip_b_T16", "tcclip_c_res64", "tcclip_e_res224_uint8"])
def test_official_encoder(name: str) -> None:
    """Features, and which patches and tokens each block chose."""
    info, g = official.sidecar(name), official.arrays(name)
    c, tol = info["config"], info["tolerance"]
    cfg = VideoEncoderConfig(
        image_size=c["resolution"],
        patch_size=c["patch"],
        width=c["width"],
        layers=c["layers"],
        heads=c["heads"],
        output_dim=c["output_dim"],
        num_frames=c["T"],
        context_tokens=c["context_k"],
        merge_r=c["tome_r"],
    )
    assert (cfg.patches, cfg.seeds) == (c["num_patches"], c["seeds_per_frame"])
    assert merge_schedule(c["T"] * cfg.seeds, cfg.context_tokens, cfg.merge_r) == c["r_schedule"]
    model = VideoEncoder(cfg).eval()
    model.load_state_dict({key[3:]: value for key, value in g.items() if key.startswith("sd.")})
    frames = g["in.video"] if "in.video" in g else model.normalise(g["in.frames_uint8_THWC_rgb"][None])
    trace: list[BlockTrace] = []
    with torch.inference_mode():
        features = model(frames)
        traced = model(frames, trace)
    torch.testing.assert_close(features, g["out.frame_features"], **tol)
    torch.testing.assert_close(features.mean(dim=1), g["out.global"], **tol)
    torch.testing.assert_close(traced, g["out.frame_features"], **tol)
    assert len(trace) == cfg.layers
    for i, block in enumerate(trace):
        assert torch.equal(block["seeds"].int(), g[f"out.layer{i}.seed_index"])
        torch.testing.assert_close(block["context"], g[f"out.layer{i}.context_tokens_preFFN"], **tol)


def test_official_names_and_shapes() -> None:
    keys = official.sidecar("tcclip_vitb16_keys")["keys"]
    with torch.device("meta"):
        state = VideoEncoder(VideoEncoderConfig()).state_dict()
    assert {f"image_encoder.{key}": list(value.shape) for key, value in state.items()} == keys


@pytest.mark.parametrize("frames", [1, 2, 4, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_same_as_the_plain_computation(frames: int, bias: bool) -> None:
    """Full attention matrices, context repeated for each frame, the last block in full: any number of frames."""
    model = small(dataclasses.replace(SMALL, local_global_bias=bias))
    x = video(frames=frames)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), plain.encode(model, x), atol=1e-5, rtol=1e-5)


def test_a_clip_does_not_see_the_others_of_its_batch() -> None:
    model, x = small(), video(batch=3)
    with torch.inference_mode():
        together = model(x)
        alone = torch.cat([model(clip[None]) for clip in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_frames_exchange_context() -> None:
    """Temporal contextualisation: another frame's content reaches this frame's feature."""
    model, x = small(), video(batch=1)
    other = x.clone()
    other[:, 3] = video(batch=1, frames=1, seed=9)[:, 0]
    with torch.inference_mode():
        assert (model(x)[:, 0] - model(other)[:, 0]).abs().max() > 1e-3


def test_joint_positions_belong_to_a_number_of_frames() -> None:
    model = small(dataclasses.replace(SMALL, positional_embedding="joint"))
    assert model.positional_embedding.shape == (4, 17, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(video()), plain.encode(model, video()), atol=1e-5, rtol=1e-5)
    with pytest.raises(HeroError, match="exactly 4 frames; got 3"):
        model(video(frames=3))


TIMED = dataclasses.replace(SMALL, positional_embedding="space_time", context_tokens=16)  # so many that none merge
STEM = dataclasses.replace(TIMED, image_size=64, patch_size=32, seed_ratio=0.5, conv_stem=True)


def with_stem(seed: int = 0) -> VideoEncoder:
    """Weights that carry the picture through all the convolutions; torch's own first ones let it fade."""
    model = small(STEM, seed)
    for module in model.stem.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
            torch.nn.init.normal_(module.bias, 0.0, 0.1)
    return model


@torch.inference_mode()
def test_places_in_time_tell_an_order() -> None:
    """A clip shown backwards has the same features in the other order, unless each place in time has its own vector."""
    x, backwards = video(), video().flip(1)
    plain_space = small(dataclasses.replace(TIMED, positional_embedding="space"))
    torch.testing.assert_close(plain_space(backwards), plain_space(x).flip(1), atol=1e-5, rtol=1e-5)
    model = small(TIMED)
    assert model.temporal_embedding.shape == (4, 32)
    assert (model(backwards) - model(x).flip(1)).abs().max() > 0.05
    times = torch.arange(4)
    torch.testing.assert_close(model.contextualise(x, times), model(x))
    torch.testing.assert_close(model.contextualise(backwards, times.flip(0)), model(x).flip(1), atol=1e-5, rtol=1e-5)
    each = torch.stack((times, times.flip(0)))  # every clip at its own times
    mixed = model.contextualise(torch.stack((x[0], backwards[1])), each)
    torch.testing.assert_close(mixed, torch.stack((model(x)[0], model(x)[1].flip(0))), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cfg", [TIMED, STEM])
def test_places_in_time_belong_to_a_number_of_frames(cfg: VideoEncoderConfig) -> None:
    for frames in (3, 5):
        with pytest.raises(HeroError, match=f"exactly 4 frames; got {frames}"):
            small(cfg)(video(frames=frames, side=cfg.image_size))
    with pytest.raises(HeroError, match="not 'time'"):
        VideoEncoder(dataclasses.replace(SMALL, positional_embedding="time"))


def test_a_stem_has_its_patch_size() -> None:
    with pytest.raises(HeroError, match="patch_size 32"):
        VideoEncoder(dataclasses.replace(STEM, patch_size=16))
    assert with_stem().look(video(1, 2, 64)[0]).shape == (2, CHANNELS, 2, 2)


def test_stem() -> None:
    """Frames looked at a few at a time are frames looked at together; bfloat16 is close; every weight learns."""
    model, x = with_stem(), video(side=64)
    together = model(x)
    with torch.inference_mode():
        exact = model(x)
        lower = with_stem().bfloat16()(x)
        other = model(video(side=64, seed=2))
    torch.testing.assert_close(exact, together.detach(), atol=1e-4, rtol=1e-4)
    assert lower.dtype == torch.float32
    assert 4 * (lower - exact).norm() < (other - exact).norm()
    assert torch.cosine_similarity(exact, lower, dim=-1).min() > 0.99
    together.square().sum().backward()
    learned = ("stem.conv.weight", "stem.blocks.0.depthwise.weight", "ln_stem.weight", "temporal_embedding")
    for name, parameter in model.named_parameters():
        if name.startswith("stem.") or name in learned:
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
            assert name not in learned or parameter.grad.abs().max() > 0, name


def test_wrong_size_is_refused() -> None:
    with pytest.raises(HeroError, match="32 x 32"):
        small()(video(side=40))


def test_normalise() -> None:
    model = small()
    frames = torch.randint(0, 256, (1, 4, 32, 32, 3), dtype=torch.uint8)
    x = model.normalise(frames)
    assert x.shape == (1, 4, 3, 32, 32)
    mean, std = SMALL.pixel_mean[2], SMALL.pixel_std[2]
    torch.testing.assert_close(x[0, 1, 2], (frames[0, 1, ..., 2].float() - mean) / std, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.bfloat16().normalise(frames), x)  # exact whatever the weights' precision


def test_bfloat16_is_close() -> None:
    model, x = small(), video()
    with torch.inference_mode():
        exact, lower = model(x), small().bfloat16()(x)
    assert lower.dtype == torch.float32
    assert torch.cosine_similarity(exact, lower, dim=-1).min() > 0.99


def test_gradients() -> None:
    """Every weight learns; the shortcut of the last block and the bias of the keys have the right slope."""
    model, x = small(), video()

    def loss() -> Tensor:
        out: Tensor = model(x).square().sum()
        return out

    loss().backward()
    unused = "transformer.resblocks.2.attn.k_proj.bias"  # constant over the keys of a softmax
    for name, parameter in model.named_parameters():
        assert name == unused or (parameter.grad is not None and bool(parameter.grad.isfinite().all())), name
    last, first = model.transformer.resblocks[2], model.transformer.resblocks[1]
    for parameter in (last.attn.v_proj.weight, last.attn.k_proj.weight, first.attn.local_global_bias_table):
        flat, grad, eps = parameter.data.view(-1), parameter.grad, 1e-2
        with torch.no_grad():
            old = flat[0].item()
            flat[0] = old + eps
            up = loss()
            flat[0] = old - eps
            down = loss()
            flat[0] = old
        assert grad is not None
        assert (up - down).item() / (2 * eps) == pytest.approx(grad.view(-1)[0].item(), rel=0.05, abs=0.02)


def test_trains_under_autocast() -> None:
    model, x = small().train(), video()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(x).square().mean()
    loss.backward()
    assert model.conv1.weight.grad is not None and bool(model.conv1.weight.grad.isfinite().all())


def test_official_merge_schedule() -> None:
    assert merge_schedule(928, 96, 100) == [100] * 8 + [32]
    assert merge_schedule(58, 96, 100) == []


@given(start=st.integers(1, 3000), keep=st.integers(1, 300), r=st.integers(1, 400))
def test_merge_schedule(start: int, keep: int, r: int) -> None:
    rounds, count = merge_schedule(start, keep, r), start
    for removed in rounds:
        assert 0 < removed <= count // 2  # each round pairs every other token
        count -= removed
    assert count == min(start, keep)


@given(count=st.integers(4, 30), keep=st.integers(2, 12), seed=st.integers(0, 2**31))
def test_merge_tokens_step_by_step(count: int, keep: int, seed: int) -> None:
    """Against the definition, one token at a time."""
    tokens = torch.randn(1, count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rounds = merge_schedule(count, keep, 5)
    groups = [[i] for i in range(count)]  # which tokens each merged one stands for
    for r in rounds:
        means = [tokens[0, group].mean(dim=0) for group in groups]
        unit = [m / m.norm() for m in means]
        even, odd = range(0, len(groups), 2), range(1, len(groups), 2)
        partner = {a: max(odd, key=lambda b, a=a: float(unit[a] @ unit[b])) for a in even}
        order = sorted(even, key=lambda a: -float(unit[a] @ unit[partner[a]]))
        merged = {b: list(groups[b]) for b in odd}
        for a in order[:r]:
            merged[partner[a]] += groups[a]
        groups = [groups[a] for a in order[r:]] + [merged[b] for b in odd]
    expected = torch.stack([tokens[0, group].mean(dim=0) for group in groups])
    torch.testing.assert_close(merge_tokens(tokens, rounds)[0], expected)


def test_official_normalisation(shared: Path) -> None:
    golden = np.load(shared / "golden/video_preprocess.npz")
    frame = torch.from_numpy(golden["out.resized0"])[None, None]  # (1, 1, H, W, 3) uint8
    with torch.device("meta"):
        model = VideoEncoder(VideoEncoderConfig(width=64, layers=1, heads=1))
    ours = model.normalise(frame)[0, 0].permute(1, 2, 0)
    torch.testing.assert_close(ours, torch.from_numpy(golden["out.normalised0"]), atol=1e-5, rtol=0)
