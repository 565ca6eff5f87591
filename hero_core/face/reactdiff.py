# SPDX-License-Identifier: GPL-3.0-or-later
"""ReactDiff: several faces that may listen to one speaker (arXiv 2505.14151), offline and online.

speaker's features -> latents (``behaviour``) -> windows, each the condition of a diffusion over the listener's latents
(``unet``, ``diffusion``) -> the listener's face (``behaviour``).

The official windows of 50 frames know nothing of each other. Here they overlap, share the noise of the frames that
they share, and are blended, so that no seam is seen. ``strict_official`` gives the official program's result instead:
windows side by side, latents scaled back by what is not the inverse of how they were scaled, and the decoder's dropout
left on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from hero_core.errors import Cancelled, HeroError

from .behaviour import Behaviour
from .config import ReactDiffConfig
from .diffusion import Schedule
from .reaction import FPS, Array, FaceReaction, centred
from .unet import LatentUNet

Progress = Callable[[int, int], bool]
SLACK = 1e-4  # keeps a latent dimension that never moves from dividing by zero


class Features(NamedTuple):
    """What is known of a speaker at 25 frames per second: video (T, va + au + fer), audio (T, mfcc + speech)."""

    video: Tensor
    audio: Tensor


class ReactDiff(nn.Module):
    """Both stages with the statistics of the latents.

    minimum, maximum  (S, latent): S = 1, or the frames of a clip where the official scaling is used
    mean_face         (58,), added to what the decoder gives
    centre, spread    (video + audio,), taken off the features and divided by; 0 and 1 with official features.
                      Without it the narrow streams of "curves" are learned many times more slowly
    """

    minimum: Tensor
    maximum: Tensor
    mean_face: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, cfg: ReactDiffConfig) -> None:
        super().__init__()
        if cfg.condition < 64:
            raise HeroError("The face model's condition must be 64 or more: its norm has 32 groups.")
        self.cfg = cfg
        self.behaviour = Behaviour(cfg)
        self.unet = LatentUNet(cfg)
        # The numbers of the parameters are those of the official program, which never saves them.
        self.linear = nn.Sequential(
            nn.Flatten(), nn.Linear(cfg.window * cfg.latent, cfg.condition), nn.GroupNorm(32, cfg.condition), nn.SiLU()
        )
        rows = cfg.clip if cfg.scaling == "official" else 1
        self.register_buffer("minimum", torch.full((rows, cfg.latent), -1.0))
        self.register_buffer("maximum", torch.ones(rows, cfg.latent))
        self.register_buffer("mean_face", torch.zeros(cfg.coefficients))
        self.register_buffer("centre", torch.zeros(cfg.video + cfg.audio))
        self.register_buffer("spread", torch.ones(cfg.video + cfg.audio))
        self.schedule = Schedule.cosine(cfg.steps)
        self.random_condition = False  # set where a file without the projection was loaded all the same

    # --- latents -----------------------------------------------------------------------------------------------

    def encode(self, features: Features) -> Tensor:
        """Latents (T, latent) of one person's clip.

        Raises:
            HeroError: widths other than the model's, video and sound of different lengths, or numbers not finite.
        """
        video, audio = (torch.as_tensor(x, dtype=self.minimum.dtype, device=self.minimum.device) for x in features)
        for name, x, width in (("video", video, self.cfg.video), ("sound", audio, self.cfg.audio)):
            if x.ndim != 2 or x.shape[1] != width or not len(x):
                raise HeroError(f"The {name} features have shape {tuple(x.shape)}; this model needs (T, {width}).")
            if not bool(torch.isfinite(x).all()):
                raise HeroError(f"The {name} features hold NaN or infinite values; make them again.")
        if len(video) != len(audio):
            raise HeroError(f"There are {len(video)} frames of video and {len(audio)} of sound; make them equal.")
        z: Tensor = self.behaviour.encode(*self.standardised(video[None], audio[None]))[0]
        return z

    def standardised(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Features (..., video) and (..., audio) as stage 1 sees them."""
        centre, spread = (x.split((self.cfg.video, self.cfg.audio)) for x in (self.centre, self.spread))
        return (video - centre[0]) / spread[0], (audio - centre[1]) / spread[1]

    def _range(self, start: int, frames: int) -> tuple[Tensor, Tensor]:
        """Minimum and maximum (frames, latent) or (1, latent) of the frames from ``start``."""
        if len(self.minimum) == 1:
            return self.minimum, self.maximum
        place = torch.arange(start, start + frames, device=self.minimum.device).clamp(min=0) % len(self.minimum)
        return self.minimum[place], self.maximum[place]

    def scaled(self, z: Tensor, start: int = 0) -> Tensor:
        """Latents (..., W, latent) whose first frame is ``start``, as the diffusion sees them."""
        low, high = self._range(start, z.shape[-2])
        span = high - low
        if self.cfg.scaling == "official":  # a bracket is missing
            return 2 * (z - low) + SLACK / (span + SLACK) - 1
        return 2 * (z - low) / (span + SLACK) - 1

    def unscaled(self, x: Tensor, start: int = 0, strict_official: bool = False) -> Tensor:
        """The inverse of :meth:`scaled`; with ``strict_official`` what the official program takes for it."""
        low, high = self._range(start, x.shape[-2])
        span = high - low
        if strict_official:
            return (x + 1) * span / 2 + low
        if self.cfg.scaling == "official":
            return (x + 1 - SLACK / (span + SLACK)) / 2 + low
        return (x + 1) * (span + SLACK) / 2 + low

    def denoise(self, x: Tensor, t: Tensor, windows: Tensor) -> Tensor:
        """What ``cfg.predicts`` of x (B, W, latent) at steps t (B,), given the speaker's scaled windows like x."""
        out: Tensor = self.unet(x, t, self.linear(windows))
        return out

    def sampled(self, noise: Tensor, windows: Tensor, on_step: Callable[[int], None] | None = None) -> Tensor:
        """Scaled latents of a listener (B, W, latent) from noise and the speaker's scaled windows like it."""
        condition = self.linear(windows)
        return self.schedule.ddim(lambda x, t: self.unet(x, t, condition), noise, on_step, self.cfg.predicts)

    # --- generation --------------------------------------------------------------------------------------------

    def noise(self, seed: int, take: int, start: int, frames: int) -> Tensor:
        """(frames, latent) noise that belongs to those frames, however they are cut into windows; start >= 0."""
        size = self.cfg.window
        first, last = start // size, (start + frames - 1) // size
        parts = []
        for block in range(first, last + 1):
            generator = torch.Generator().manual_seed(_mixed(seed, take, block))
            parts.append(torch.randn(size, self.cfg.latent, generator=generator))
        found = torch.cat(parts)[start - first * size :][:frames]
        return found.to(self.minimum.device, self.minimum.dtype)

    @torch.no_grad()
    def generate(
        self,
        z: Tensor,
        takes: int = 1,
        seed: int = 0,
        overlap: int | None = None,
        strict_official: bool = False,
        on_progress: Progress | None = None,
    ) -> Tensor:
        """Latents of K listeners: speaker's latents (T, latent) -> (takes, T, latent).

        Args:
            overlap: frames that neighbouring windows share and are blended over; None = a fifth of a window.
            on_progress: called after each denoising step; returning False raises Cancelled.
        """
        cfg, frames = self.cfg, len(z)
        overlap = 0 if strict_official else cfg.window // 5 if overlap is None else overlap
        if not 0 <= overlap < cfg.window:
            raise HeroError(f"Windows of {cfg.window} frames cannot overlap by {overlap}; give 0 .. {cfg.window - 1}.")
        starts = list(range(0, max(1, frames - overlap), cfg.window - overlap))
        if not strict_official:  # a condition that stands still at its end is none that training knows
            starts[-1] = max(0, min(starts[-1], frames - cfg.window))
        padded = torch.cat((z, z[-1:].expand(max(0, starts[-1] + cfg.window - frames), -1)))
        windows = torch.stack([self.scaled(padded[s : s + cfg.window], s) for s in starts])  # (n, W, latent)
        total, blended = takes * cfg.steps, []
        for take in range(takes):
            noise = torch.stack([self.noise(seed, take, s, cfg.window) for s in starts])

            def report(step: int, done: int = take * cfg.steps) -> None:
                if on_progress is not None and not on_progress(done + step, total):
                    raise Cancelled

            x = self.sampled(noise, windows, report)
            parts = [self.unscaled(w, s, strict_official) for w, s in zip(x, starts, strict=True)]
            blended.append(_blend(parts, starts)[:frames])
        return torch.stack(blended)

    @torch.no_grad()
    def decode(self, z: Tensor, seed: int = 0, strict_official: bool = False) -> tuple[Tensor, Tensor]:
        """Latents (takes, T, latent) -> coefficients (takes, T, 58) with the mean face, attributes (takes, T, 25).

        ``strict_official`` leaves the decoder's dropout on, which is jitter on a face.
        """
        if strict_official:
            with torch.random.fork_rng(devices=[z.device] if z.device.type == "cuda" else []):
                torch.manual_seed(seed)
                self.behaviour.reaction_decoder.train()
                try:
                    coefficients, attributes = self.behaviour.decode(z)
                finally:
                    self.behaviour.reaction_decoder.eval()
        else:
            coefficients, attributes = self.behaviour.decode(z)
        return coefficients + self.mean_face, attributes

    @torch.no_grad()
    def react(
        self,
        features: Features,
        takes: int = 1,
        seed: int = 0,
        online: bool = False,
        strict_official: bool = False,
        on_progress: Progress | None = None,
    ) -> FaceReaction:
        """K reactions to a speaker's clip, each of its length.

        Args:
            features: of the speaker at 25 frames per second.
            takes: K.
            online: use only what lies before each frame (:class:`hero_core.face.online.Stream`), as a model that was
                trained online always does; otherwise each frame knows the whole clip.
            strict_official: see the module. Needs the clip length of the checkpoint's statistics, or a shorter one.
                Online the speaker is then a window late, but latents still know the whole clip: attention spans it.
            on_progress: ``on_progress(done, total)``; returning False raises Cancelled.

        Raises:
            HeroError: features that do not fit the model, or fewer than 1 take.
        """
        if takes < 1:
            raise HeroError(f"{takes} takes cannot be generated; ask for at least one.")
        online = online or self.cfg.online
        if online and not strict_official:
            from .online import rerun

            coefficients, attributes = rerun(self, features, takes, seed, on_progress)
        else:
            if online:  # zeros first
                late = [torch.cat((torch.zeros_like(x[: self.cfg.window]), x))[: len(x)] for x in features]
                features = Features(*late)
            z = self.encode(features)
            if strict_official and self.cfg.scaling == "official" and len(z) > len(self.minimum):
                raise HeroError(f"The official program knows clips of {len(self.minimum)} frames; cut this one.")
            latents = self.generate(z, takes, seed, None, strict_official, on_progress)
            # One take at a time: attention over a long clip is large.
            pairs = [self.decode(take[None], seed + i, strict_official) for i, take in enumerate(latents)]
            coefficients, attributes = (torch.cat(parts).float().cpu() for parts in zip(*pairs, strict=True))
        return FaceReaction(
            face_of(coefficients.numpy()), bounded(attributes.numpy()), FPS, self.cfg.name, seed, self.notes()
        )

    def notes(self) -> tuple[str, ...]:
        """What a user should know of this model beside its reactions."""
        if self.random_condition:
            return ("The condition projection was not in the checkpoint and is random: the speaker does not matter.",)
        return ()


def face_of(coefficients: Array) -> Array:
    """What the decoder gives as coefficients for a rig: shapes in 0 .. 1, the head relative to its own median."""
    out = centred(coefficients)
    out[..., :52] = out[..., :52].clip(0, 1)
    return out


def bounded(attributes: Array) -> Array:
    """Attributes within their ranges: units 0 .. 1, valence and arousal -1 .. 1, probabilities that sum to 1."""
    out = np.array(attributes, np.float32)
    out[..., :15] = out[..., :15].clip(0, 1)
    out[..., 15:17] = out[..., 15:17].clip(-1, 1)
    p = out[..., 17:].clip(1e-6, None)
    out[..., 17:] = p / p.sum(-1, keepdims=True)
    return out


def ramp(overlap: int) -> Tensor:
    """(overlap,) weights of the later of two windows, from just above 0 to just below 1, smooth at both ends."""
    place = (torch.arange(overlap, dtype=torch.float32) + 1) / (overlap + 1)
    return 0.5 - 0.5 * torch.cos(torch.pi * place)


def _blend(windows: list[Tensor], starts: list[int]) -> Tensor:
    """Windows (W, latent) laid over each other -> (T, latent)."""
    out = windows[0]
    for window, start in zip(windows[1:], starts[1:], strict=True):
        overlap = len(out) - start
        if overlap:
            later = ramp(overlap).to(out)[:, None]
            shared = out[start : start + overlap] * (1 - later) + window[:overlap] * later
            out = torch.cat((out[:start], shared, window[overlap:]))
        else:
            out = torch.cat((out, window))
    return out


def _mixed(seed: int, take: int, block: int) -> int:
    """One number for each seed, take and block of frames (SplitMix64's mixing)."""
    x = 0
    for value in (seed, take, block):
        x = (x + value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 31
    return x & 0x7FFFFFFFFFFFFFFF
