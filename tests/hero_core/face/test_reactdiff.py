# SPDX-License-Identifier: GPL-3.0-or-later
"""ReactDiff end to end at a tiny size: takes, seams, online, the official slips, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hero_core.errors import Cancelled, HeroError
from hero_core.face import checkpoint
from hero_core.face.config import ReactDiffConfig, small
from hero_core.face.online import Stream, rerun
from hero_core.face.reactdiff import Features, ReactDiff, ramp
from tests.hero_core.face import small as tiny


def test_takes_differ_and_seeds_repeat() -> None:
    model, speaker = tiny.model(), tiny.features(37)
    face = model.react(speaker, takes=3, seed=5)
    assert face.coefficients.shape == (3, 37, 58) and face.attributes.shape == (3, 37, 25)
    assert np.array_equal(face.coefficients, model.react(speaker, takes=3, seed=5).coefficients)
    assert np.abs(face.attributes[0] - face.attributes[1]).max() > 1e-4
    # A take does not depend on how many others were asked for.
    np.testing.assert_allclose(face.attributes[:1], model.react(speaker, takes=1, seed=5).attributes, atol=1e-6)
    assert not np.array_equal(face.attributes, model.react(speaker, takes=3, seed=6).attributes)
    other = model.react(tiny.features(37, seed=1), takes=3, seed=5)
    assert np.abs(face.attributes - other.attributes).max() > 1e-4
    shapes, p = face.coefficients[..., :52], face.attributes[..., 17:]
    assert shapes.min() >= 0 and shapes.max() <= 1
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 9, 10, 11, 18, 19])
@pytest.mark.parametrize("online", [False, True])
def test_any_length(frames: int, online: bool) -> None:
    face = tiny.model().react(tiny.features(frames), takes=2, online=online)
    assert face.coefficients.shape == (2, frames, 58)


def test_windows_are_blended() -> None:
    model, speaker = tiny.model(), tiny.features(60)
    z = model.encode(speaker)

    def jumps(overlap: int) -> tuple[float, float]:
        """Largest step of the latents at the window's ends, and elsewhere."""
        step = model.generate(z, 4, overlap=overlap).diff(dim=1).norm(dim=-1).mean(0)
        ends = torch.zeros(len(step), dtype=torch.bool)
        ends[[s - 1 for s in range(10 - overlap, 55, 10 - overlap)]] = True
        return float(step[ends].mean()), float(step[~ends].mean())

    at_ends, elsewhere = jumps(5)
    assert at_ends < 1.3 * elsewhere
    assert ramp(4).tolist() == pytest.approx((1 - ramp(4).flip(0)).tolist(), abs=1e-6)
    with pytest.raises(HeroError, match="cannot overlap by 10"):
        model.generate(z, overlap=10)


def test_noise_belongs_to_frames() -> None:
    model = tiny.model()
    whole = model.noise(3, 1, 0, 40)
    assert torch.equal(whole[7:29], model.noise(3, 1, 7, 22))
    assert not torch.equal(whole, model.noise(3, 0, 0, 40)) and abs(float(whole.std()) - 1) < 0.1


@pytest.mark.parametrize("scaling", ["minmax", "official"])
def test_scaling_has_an_inverse(scaling: str) -> None:
    model = tiny.model(scaling=scaling)
    z = torch.randn(10, 16)
    torch.testing.assert_close(model.unscaled(model.scaled(z, 10), 10), z, rtol=1e-4, atol=1e-5)
    if scaling == "official":
        slip = 2 * (z - model.minimum[10:20]) + 1e-4 / (model.maximum[10:20] - model.minimum[10:20] + 1e-4) - 1
        torch.testing.assert_close(model.scaled(z, 10), slip)
        back = (slip + 1) * (model.maximum[10:20] - model.minimum[10:20]) / 2 + model.minimum[10:20]
        torch.testing.assert_close(model.unscaled(slip, 10, strict_official=True), back)
        assert float((back - z).abs().max()) > 0.1


def test_strict_official() -> None:
    """Windows side by side, and a decoder whose dropout is on."""
    model, speaker = tiny.model(scaling="official"), tiny.features(30)
    z = model.encode(speaker)
    latents = model.generate(z, strict_official=True)
    noise = torch.stack([model.noise(0, 0, s, 10) for s in (0, 10, 20)])
    condition = model.linear(torch.stack([model.scaled(z[s : s + 10], s) for s in (0, 10, 20)]))
    x = model.schedule.ddim(lambda x, t: model.unet(x, t, condition), noise)
    wanted = torch.cat([model.unscaled(x[i], 10 * i, strict_official=True) for i in range(3)])
    torch.testing.assert_close(latents[0], wanted)
    first, again = model.decode(latents, 0, strict_official=True), model.decode(latents, 1, strict_official=True)
    assert float((first[1] - again[1]).abs().max()) > 1e-3
    assert torch.equal(model.decode(latents)[1], model.decode(latents, 1)[1])
    assert not model.behaviour.reaction_decoder.training
    late = Features(*(torch.cat((torch.zeros_like(x[:10]), x[:-10])) for x in speaker))
    wanted_late = model.react(late, strict_official=True).attributes
    assert np.array_equal(model.react(speaker, online=True, strict_official=True).attributes, wanted_late)
    with pytest.raises(HeroError, match="clips of 30 frames"):
        model.react(tiny.features(31), strict_official=True)


@pytest.mark.parametrize("trained_online", [False, True])
def test_online_sees_no_future(trained_online: bool) -> None:
    """Every frame stays what it was when all later frames of the speaker are replaced by noise."""
    model, speaker = tiny.model(online=trained_online, time_bias=True), tiny.features(40)
    coefficients, attributes = rerun(model, speaker, 1, 4)
    for now in (1, 27):
        other = tiny.features(40, seed=9)
        mixed = Features(*(torch.cat((a[:now], b[now:])) for a, b in zip(speaker, other, strict=True)))
        changed, changed_too = rerun(model, mixed, 1, 4)
        assert torch.equal(coefficients[:, : now + 1], changed[:, : now + 1])
        assert torch.equal(attributes[:, : now + 1], changed_too[:, : now + 1])
        # ... and what the speaker did is answered at the stated latency at the latest.
        until = now + Stream(model).hop + 1
        assert not torch.equal(coefficients[:, :until], changed[:, :until])


def test_stream_frame_by_frame_is_the_rerun() -> None:
    model, speaker = tiny.model(online=True), tiny.features(33)
    stream = Stream(model, takes=2, seed=1)
    assert (stream.latency, stream.latency_seconds) == (5, 0.2) and Stream(tiny.model()).latency == 15
    frames = [stream.push(v, a) for v, a in zip(speaker.video, speaker.audio, strict=True)]
    coefficients, _ = rerun(model, speaker, 2, 1)
    assert torch.equal(torch.stack([c for c, _ in frames], 1), coefficients)
    step = coefficients.diff(dim=1).norm(dim=-1).mean(0)
    seams = torch.zeros(32, dtype=torch.bool)
    seams[4::5] = True
    assert float(step[seams].mean()) < 1.3 * float(step[~seams].mean())
    with pytest.raises(HeroError, match="video features have shape"):
        stream.push(torch.zeros(3), speaker.audio[0])
    with pytest.raises(HeroError, match="or NaN"):
        stream.push(speaker.video[0] * torch.nan, speaker.audio[0])
    with pytest.raises(HeroError, match="a hop of 1 to 10"):
        Stream(model, hop=11)


def test_progress_and_cancel() -> None:
    model, seen = tiny.model(), list[tuple[int, int]]()

    def note(done: int, total: int) -> bool:
        seen.append((done, total))
        return done < 5

    with pytest.raises(Cancelled):
        model.react(tiny.features(), takes=2, on_progress=note)
    assert seen == [(i, 8) for i in range(1, 6)]
    with pytest.raises(Cancelled):
        model.react(tiny.features(), online=True, on_progress=lambda *_: False)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (Features(torch.zeros(5, 84), torch.zeros(5, 46)), r"video features have shape \(5, 84\)"),
        (Features(torch.zeros(5, 83), torch.zeros(5, 45)), "sound features have shape"),
        (Features(torch.zeros(5, 83), torch.zeros(6, 46)), "5 frames of video and 6 of sound"),
        (Features(torch.zeros(0, 83), torch.zeros(0, 46)), "video features have shape"),
        (Features(torch.full((5, 83), torch.nan), torch.zeros(5, 46)), "NaN"),
    ],
)
def test_bad_features_are_named(features: Features, message: str) -> None:
    with pytest.raises(HeroError, match=message):
        tiny.model().react(features)


def test_small_runs_on_a_cpu() -> None:
    torch.manual_seed(0)
    model = ReactDiff(small()).eval()
    assert sum(p.numel() for p in model.parameters()) < 3e6
    assert model.react(tiny.features(50)).frames == 50


@pytest.mark.parametrize("change", [{"hidden": 15}, {"channels": 33}, {"scaling": "x"}, {"window": 7}, {"latent": 0}])
def test_sizes_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(HeroError, match="face model"):
        tiny.config(**change)


# --- files ----------------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = tiny.model()
    loaded = checkpoint.load(checkpoint.save(model, tmp_path / "m"), "cpu")
    assert loaded.cfg == model.cfg
    wanted = model.react(tiny.features(), seed=2).coefficients
    assert np.array_equal(loaded.react(tiny.features(), seed=2).coefficients, wanted)
    (tmp_path / "m" / "config.json").write_text(tiny.config(latent=32).to_json())
    with pytest.raises(HeroError, match=r"does not fit ReactDiff: .* has shape"):
        checkpoint.load(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"later": 1}')
    with pytest.raises(HeroError, match="unknown entries later"):
        checkpoint.load(tmp_path / "m")


def write_official(folder: Path, model: ReactDiff, projection: bool) -> Path:
    """Both stages as the official code saves them, dead weights and all."""
    stage1 = {k: v.clone() for k, v in model.behaviour.state_dict().items()}
    for key in [k for k in stage1 if k.endswith(("norm1.weight", "norm1.bias")) and k.startswith("Behaviour")]:
        stage1[key.replace("norm1", "norm2")] = torch.ones_like(stage1[key])
    stage1["reaction_decoder.encoder.MLP.0.weight"] = torch.zeros(32, 16)
    stage2 = dict(model.unet.state_dict())
    if projection:
        stage2 |= {f"linear.{k}": v for k, v in model.linear.state_dict().items()}
    statistics = {"min": model.minimum, "max": model.maximum, "mean": model.minimum, "std": model.maximum}
    folder.mkdir(parents=True)
    torch.save({"epoch": 3, "state_dict": stage1, "optimizer": {}, "statistics": statistics}, folder / "mmt.pth")
    torch.save({"epoch": 3, "state_dict": stage2, "optimizer": {"state": {}}}, folder / "diffusion.pth")
    np.save(folder / "mean_face.npy", model.mean_face.numpy())
    return folder


def test_checkpoints_of_the_official_code(tmp_path: Path) -> None:
    model = tiny.model(scaling="official", features="official")
    model.mean_face.normal_(0, 0.1)
    loaded = checkpoint.load(write_official(tmp_path / "whole", model, projection=True), "cpu")
    assert loaded.cfg == tiny.config(scaling="official", features="official", name=loaded.cfg.name, steps=20)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_a_missing_projection_is_said(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "bare", tiny.model(scaling="official"), projection=False)
    with pytest.raises(HeroError, match=r"lacks the condition projection .* could not depend on the speaker"):
        checkpoint.load(folder)
    with pytest.warns(UserWarning, match="no condition projection"):
        loaded = checkpoint.load(folder, "cpu", strict_official=True)
    assert "the speaker does not matter" in loaded.react(tiny.features(10)).notes[0]


def test_bad_official_files(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "x", tiny.model(scaling="official"), projection=True)
    stage1 = torch.load(folder / "mmt.pth", weights_only=True)
    torch.save({k: v for k, v in stage1.items() if k != "statistics"}, folder / "mmt.pth")
    with pytest.raises(HeroError, match="lacks the statistics"):
        checkpoint.load(folder)
    del stage1["state_dict"]["reaction_encoder.MLP.0.weight"]
    torch.save(stage1, folder / "mmt.pth")
    with pytest.raises(HeroError, match=r"behaviour\.reaction_encoder.* is missing"):
        checkpoint.load(folder)
    (folder / "mmt.pth").unlink()
    with pytest.raises(HeroError, match="stage 1 of the official ReactDiff"):
        checkpoint.load(folder)
    torch.save({"x": Path("code")}, folder / "evil.pth")
    with pytest.raises(HeroError, match="more than tensors"):
        checkpoint.load(folder)


def test_paper_scale_is_the_default() -> None:
    cfg = ReactDiffConfig()
    assert (cfg.video, cfg.audio) == (26560, 1562)
    assert ReactDiffConfig.from_json(cfg.to_json()) == cfg and ReactDiffConfig.from_json(small().to_json()) == small()
