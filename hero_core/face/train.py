# SPDX-License-Identifier: GPL-3.0-or-later
"""Train ReactDiff on dyads, both stages: ``python -m hero_core.face train --data FOLDER --out FOLDER``.

Stage 1 learns to see a listener's own video and sound in latents and to give the listener's face back; stage 2, with
stage 1 frozen, the listener's latents given the speaker's (arXiv 2505.14151, sections 3.1 and 3.2). Both go on where
they were stopped when the command is started again. Features are those of "curves" (``features``).
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from hero_core.errors import HeroError
from hero_core.train import loop

from . import checkpoint, data
from .behaviour import behaviour_loss
from .config import CORRECTED, ReactDiffConfig, small
from .diffusion import diffusion_loss
from .reactdiff import ReactDiff


@dataclass(frozen=True)
class DataConfig:
    batch: int = 16
    fps: float = 0.0  # rows per second of the data set's files; 0 = what its layout says
    drop_sense: float = 0.1  # share of samples of stage 1 without video, and of those without sound
    select_on_test: bool = False  # the official configs do; numbers on that split are then no measure


@dataclass(frozen=True)
class BehaviourLoop(loop.LoopConfig):
    """The official learning rate, weight decay and moving average of the weights."""

    lr: float = 1e-4
    weight_decay: float = 5e-4
    warmup: int = 100  # officially none
    betas: tuple[float, float] = (0.9, 0.999)
    average: float = 0.999  # how much of the average is left after a step, less in the first ones; 0 = off

    def __post_init__(self) -> None:
        if not 0 <= self.average < 1:
            raise HeroError(f"The average {self.average} of the weights must be from 0 (off) to below 1.")


@dataclass(frozen=True)
class DiffusionLoop(BehaviourLoop):
    lr: float = 5e-5
    average: float = 0.0


KINDS = {"model": ReactDiffConfig, "data": DataConfig, "behaviour": BehaviourLoop, "diffusion": DiffusionLoop}


def settings(path: Path | None) -> dict[str, Any]:
    """Sections of a config file; without a section "model", or without a file, the small model.

    A section "model" that does not speak of ``config.CORRECTED`` gets them: the official recipe is for who asks for it.
    """
    if path is None:
        fast = {"iterations": 20_000, "lr": 5e-4}
        return {
            "model": small(),
            "data": DataConfig(),
            "behaviour": BehaviourLoop(**fast),  # type: ignore[arg-type]
            "diffusion": DiffusionLoop(**fast),  # type: ignore[arg-type]
        }
    found = loop.read_config(path, KINDS)
    said = json.loads(path.read_text(encoding="utf-8")).get("model")
    if said is None:
        found["model"] = small()
    else:
        better = {name: value for name, value in CORRECTED.items() if name not in said}
        found["model"] = dataclasses.replace(found["model"], **better)
    return found


def train(folder: Path, out: Path, config: Path | None = None) -> Path:
    """Both stages; returns ``out``, which :func:`hero_core.face.checkpoint.load` takes.

    Raises:
        HeroError: data or config that cannot be used.
        hero_core.train.loop.Stopped: interrupted; the checkpoint is written.
    """
    cfg = settings(config)
    model_cfg: ReactDiffConfig = cfg["model"]
    data_cfg: DataConfig = cfg["data"]
    if model_cfg.features != "curves":
        raise HeroError(
            "Training needs model.features 'curves': the networks of the official features are not given out; "
            "set it, and va, au, fer, mfcc, speech to 6, 52, 25, 6, 40."
        )
    if (model_cfg.va, model_cfg.au, model_cfg.fer, model_cfg.mfcc, model_cfg.speech) != (6, 52, 25, 6, 40):
        raise HeroError("The features 'curves' have va, au, fer, mfcc, speech of 6, 52, 25, 6, 40; set them so.")
    chosen = "test" if data_cfg.select_on_test else "val"
    splits = {
        name: data.load(data.read(folder, name, data_cfg.fps or None), model_cfg.clip)
        for name in dict.fromkeys(("train", chosen))
    }
    if data_cfg.select_on_test:
        loop.warn_of_selection()
    torch.manual_seed(cfg["behaviour"].seed)
    model = ReactDiff(model_cfg)
    _behaviour(model, splits["train"], splits[chosen], cfg["behaviour"], data_cfg, out / "behaviour")
    latents = {name: _latents(model, clips) for name, clips in splits.items()}
    _statistics(model, latents["train"])
    _diffusion(model, latents["train"], latents[chosen], cfg["diffusion"], data_cfg, out / "diffusion")
    sections = {name: dataclasses.asdict(section) for name, section in cfg.items()}
    loop.record(out, {"config": sections, "clips": {name: len(c.listeners) for name, c in splits.items()}})
    return checkpoint.save(model.cpu(), out)


def _tensors(*arrays: Any) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]


class _Averaged(nn.Module):
    """A stage and the moving average of its weights, which is what validates and what is kept."""

    steps: Tensor

    def __init__(self, stage: nn.Module, decay: float) -> None:
        super().__init__()
        self.stage, self.decay = stage, decay
        self.average = copy.deepcopy(stage).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long, device=next(stage.parameters()).device))

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights of the step before; a young average must forget where it began."""
        count = int(self.steps)
        self.steps += 1
        decay = min(self.decay, (1 + count) / (10 + count))
        for kept, new in zip(self.average.parameters(), self.stage.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The stage with its averaged weights."""
        pairs = list(zip(self.stage.parameters(), self.average.parameters(), strict=True))

        def swap() -> None:
            for new, kept in pairs:
                new.data, kept.data = kept.data, new.data

        swap()
        try:
            yield
        finally:
            swap()


Losses = Callable[[torch.Generator], tuple[Tensor, dict[str, float]]]


def _run(
    stage: nn.Module, loss_fn: Losses, validate: Callable[[], dict[str, float]], cfg: BehaviourLoop, out: Path
) -> None:
    """Train a stage in place, up to its best weights."""
    if not cfg.average:
        stage.load_state_dict(loop.load_weights(loop.run(stage, loss_fn, validate, cfg, out)))
        return
    averaged = _Averaged(stage, cfg.average)

    def following(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        averaged.follow()
        return loss_fn(generator)

    def shown() -> dict[str, float]:
        with averaged.shown():
            return validate()

    best = loop.load_weights(loop.run(averaged, following, shown, cfg, out))
    prefix = "average."
    stage.load_state_dict({k.removeprefix(prefix): v for k, v in best.items() if k.startswith(prefix)})


def _behaviour(
    model: ReactDiff, train: data.Clips, val: data.Clips, cfg: BehaviourLoop, d: DataConfig, out: Path
) -> None:
    """Stage 1, in place."""
    where = cfg.device
    stage = model.behaviour.to(where)
    video, audio = _tensors(train.video[1], train.audio[1])
    coefficients, attributes = _tensors(train.coefficients, train.listeners)
    known = torch.cat((video, audio), -1).flatten(0, 1)
    # A column that hardly moves in training must not shout elsewhere.
    model.centre, model.spread = known.mean(0), known.std(0) + 0.05
    model.to(where)
    held_out = _tensors(val.video[1], val.audio[1], val.coefficients, val.listeners)

    def errors(v: Tensor, a: Tensor, c: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made, units = stage(*model.standardised(v, a))
        return behaviour_loss(made, units, c, e)

    def loss_fn(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(video), (d.batch,), generator=generator)
        kept = (torch.rand(2, d.batch, 1, 1, generator=generator) >= d.drop_sense).float()
        batch = video[rows] * kept[0], audio[rows] * kept[1], coefficients[rows], attributes[rows]
        loss, emotion, coefficient = errors(*(x.to(where) for x in batch))
        return loss, {"emotion": float(emotion.detach()), "coefficient": float(coefficient.detach())}

    def validate() -> dict[str, float]:
        sums = torch.zeros(3)
        for v, a, c, e in zip(*(x.split(d.batch) for x in held_out), strict=True):
            sums += len(v) * torch.stack(errors(*(x.to(where) for x in (v, a, c, e)))).cpu()
        score, emotion, coefficient = (sums / len(held_out[0])).tolist()
        return {"score": score, "emotion": emotion, "coefficient": coefficient}

    print(f"stage 1: {len(video)} clips of {video.shape[1]} frames", flush=True)
    _run(stage, loss_fn, validate, cfg, out)
    stage.eval().requires_grad_(False)


@torch.no_grad()
def _latents(model: ReactDiff, clips: data.Clips) -> tuple[Tensor, Tensor]:
    """z of speakers and of listeners, each (N, T, latent), on the CPU.

    Online, the speaker's z of window w comes of what lies before the window and no more than a stream remembers
    (``online.Stream``): (N, windows, W, latent), for windows that follow each other by half their length.
    """
    stage, where, size = model.behaviour, next(model.parameters()).device, model.cfg.window

    def encode(video: Tensor, audio: Tensor) -> Tensor:
        pairs = zip(video.split(8), audio.split(8), strict=True)
        return torch.cat([stage.encode(*model.standardised(v.to(where), a.to(where))).cpu() for v, a in pairs])

    video, audio = _tensors(clips.video, clips.audio)
    listeners = encode(video[1], audio[1])
    if not model.cfg.online:
        return encode(video[0], audio[0]), listeners
    before = [torch.cat((torch.zeros_like(x[0, :, :size]), x[0]), 1) for x in (video, audio)]
    parts = []
    for start in _starts(model.cfg, video.shape[2]):
        past = [x[:, max(0, start + size - 4 * size) : start + size] for x in before]
        parts.append(encode(past[0], past[1])[:, -size:])
    return torch.stack(parts, 1), listeners


def _starts(cfg: ReactDiffConfig, frames: int) -> range:
    return range(0, frames - cfg.window + 1, cfg.window // 2 or 1)


def _statistics(model: ReactDiff, latents: tuple[Tensor, Tensor]) -> None:
    """Minimum and maximum of both roles, over all frames or for each frame of a clip (the official scaling)."""
    width = model.cfg.latent
    flat = [z.reshape(-1, width) for z in latents]
    if model.cfg.scaling == "official" and not model.cfg.online:
        both = torch.cat(latents)
        model.minimum, model.maximum = both.amin(0).to(model.minimum), both.amax(0).to(model.minimum)
    else:
        both = torch.cat(flat)
        rows = len(model.minimum)
        model.minimum = both.amin(0).expand(rows, width).clone().to(model.minimum)
        model.maximum = both.amax(0).expand(rows, width).clone().to(model.minimum)


class _Denoiser(nn.Module):
    """What stage 2 trains: the UNet and the projection of its condition, which the official code forgets to save."""

    def __init__(self, model: ReactDiff) -> None:
        super().__init__()
        self.unet, self.linear = model.unet, model.linear


def _diffusion(
    model: ReactDiff,
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    cfg: DiffusionLoop,
    d: DataConfig,
    out: Path,
) -> None:
    """Stage 2, in place. The window of a sample begins at any frame, which officially is drawn and not used."""
    where, size, online = cfg.device, model.cfg.window, model.cfg.online
    model.to(where)

    def loss_of(latents: tuple[Tensor, Tensor], count: int, generator: torch.Generator) -> Tensor:
        speakers, listeners = latents
        rows = torch.randint(len(listeners), (count,), generator=generator).tolist()
        starts = _starts(model.cfg, listeners.shape[1])
        if online or model.cfg.scaling == "official":
            picks = torch.randint(len(starts), (count,), generator=generator).tolist()
        else:
            picks = torch.randint(listeners.shape[1] - size + 1, (count,), generator=generator).tolist()
        windows, targets = [], []
        for row, pick in zip(rows, picks, strict=True):
            start = starts[pick] if online or model.cfg.scaling == "official" else pick
            z = speakers[row, pick] if online else speakers[row, start : start + size]
            windows.append(model.scaled(z.to(where), start))
            targets.append(model.scaled(listeners[row, start : start + size].to(where), start))
        t = torch.randint(model.cfg.steps, (count,), generator=generator).to(where)
        x0 = torch.stack(targets)
        noise = torch.randn(x0.shape, generator=generator).to(where)
        predicted = model.denoise(model.schedule.noised(x0, t, noise), t, torch.stack(windows))
        return diffusion_loss(predicted, x0 if model.cfg.predicts == "clean" else noise)

    def validate() -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)  # the same noise each time
        return {"score": float(np.mean([float(loss_of(val, 32, generator)) for _ in range(4)]))}

    stage = _Denoiser(model)
    print(f"stage 2: windows of {size} frames of {len(train[1])} clips", flush=True)
    _run(stage, lambda generator: (loss_of(train, d.batch, generator), {}), validate, cfg, out)
    model.eval().requires_grad_(False)
