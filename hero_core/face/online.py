# SPDX-License-Identifier: GPL-3.0-or-later
"""A listener that sees no future: frame by frame, or a whole clip as it would have gone frame by frame.

Every ``hop`` frames the model looks at the speaker's past and generates a window of the listener that begins now.
It is blended into what the window before had planned for the same frames, so that the face has no seams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hero_core.errors import Cancelled, HeroError

from .reactdiff import Features, Progress, ReactDiff, ramp
from .reaction import FPS


class Stream:
    """Takes the speaker's frames one at a time and gives the listener's.

        stream = Stream(model, takes=1)
        for video, audio in frames:                       # (va + au + fer,), (mfcc + speech,)
            coefficients, attributes = stream.push(video, audio)   # (takes, 58), (takes, 25)

    What the speaker does acts on the listener at the next multiple of ``hop`` frames: 1 to ``latency`` frames later,
    and is blended in over ``blend`` frames. A model that was not trained for online use answers the frames of the
    window before, so the delay that it learned is a window longer. The first frame of each hop takes the time of
    one generation; the others take none.

    Args:
        hop: frames between two looks; None = half a window.
        context: frames of the past that latents are computed from, at least a window; None = four windows.

    Attributes:
        latency: frames after which, at the latest, the listener begins to answer.
        latency_seconds: the same in seconds, without the time that a generation takes.
    """

    def __init__(
        self, model: ReactDiff, takes: int = 1, seed: int = 0, hop: int | None = None, context: int | None = None
    ) -> None:
        cfg = model.cfg
        self.model, self.takes, self.seed = model, takes, seed
        self.hop = cfg.window // 2 if hop is None else hop
        self.context = 4 * cfg.window if context is None else context
        if takes < 1 or not 1 <= self.hop <= cfg.window or self.context < cfg.window:
            raise HeroError(f"A stream needs at least 1 take, a hop of 1 to {cfg.window} frames, and no less context.")
        self.blend = min(cfg.window - self.hop, self.hop)
        self.latency = self.hop if cfg.online else self.hop + cfg.window
        self.latency_seconds = self.latency / FPS
        # Before the first frame there was nobody: zeros, as in the official program.
        zeros = {"dtype": model.minimum.dtype, "device": model.minimum.device}
        self.video = torch.zeros(cfg.window, cfg.video, **zeros)  # type: ignore[call-overload]
        self.audio = torch.zeros(cfg.window, cfg.audio, **zeros)  # type: ignore[call-overload]
        self.said = torch.zeros(takes, 0, cfg.latent, **zeros)  # type: ignore[call-overload]
        self.frame = 0
        self.planned: tuple[Tensor, Tensor] | None = None  # (takes, W, 58) and (takes, W, 25) from the last look on

    @torch.no_grad()
    def push(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """The listener's frame that is shown with this frame of the speaker: (takes, 58), (takes, 25).

        It depends on what was pushed before, not on this frame. Coefficients are those of the decoder and the mean
        face: the head is not yet relative to its median, which only a whole clip has.
        """
        for name, x, width in (("video", video, self.model.cfg.video), ("sound", audio, self.model.cfg.audio)):
            if x.shape != (width,) or not bool(torch.isfinite(x).all()):
                raise HeroError(
                    f"A frame's {name} features have shape {tuple(x.shape)}, or NaN; ({width},) finite ones are needed."
                )
        place = self.frame % self.hop
        if place == 0:
            self._look()
        if self.planned is None:
            raise HeroError("The stream has no plan; make a new one.")
        self.video = torch.cat((self.video, video[None].to(self.video)))[-self.context :]
        self.audio = torch.cat((self.audio, audio[None].to(self.audio)))[-self.context :]
        self.frame += 1
        return self.planned[0][:, place], self.planned[1][:, place]

    def _look(self) -> None:
        """Plan a window from this frame on, and lead over to it from what was planned."""
        model, cfg, start = self.model, self.model.cfg, self.frame
        z = model.encode(Features(self.video, self.audio))[-cfg.window :]
        # The condition is of the window before, whose place among the clip's frames the official scaling asks for.
        condition = model.scaled(z, start if cfg.online else max(0, start - cfg.window))
        noise = torch.stack([model.noise(self.seed, take, start, cfg.window) for take in range(self.takes)])
        windows = condition.expand(self.takes, -1, -1)
        latents = model.unscaled(model.sampled(noise, windows), start)
        coefficients, attributes = (
            part[:, -cfg.window :] for part in model.decode(torch.cat((self.said, latents), dim=1))
        )
        if self.planned is not None and self.blend:
            later = ramp(self.blend).to(coefficients)[None, :, None]
            for new, old in ((coefficients, self.planned[0]), (attributes, self.planned[1])):
                rest = old[:, self.hop : self.hop + self.blend]
                new[:, : self.blend] = rest * (1 - later) + new[:, : self.blend] * later
        self.planned = coefficients, attributes
        self.said = torch.cat((self.said, latents[:, : self.hop]), dim=1)[:, -self.context :]


@torch.no_grad()
def rerun(
    model: ReactDiff, features: Features, takes: int, seed: int, on_progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """A whole clip as a stream would have gone: (takes, T, 58), (takes, T, 25). Future frames change nothing."""
    video, audio = (torch.as_tensor(x, dtype=torch.float32) for x in features)
    if len(video) != len(audio) or not len(video):
        raise HeroError(f"There are {len(video)} frames of video and {len(audio)} of sound; make them equal.")
    stream = Stream(model, takes, seed)
    out = []
    for i, (v, a) in enumerate(zip(video, audio, strict=True)):
        out.append(stream.push(v, a))
        if on_progress is not None and not on_progress(i + 1, len(video)):
            raise Cancelled
    coefficients, attributes = (torch.stack(parts, dim=1).float().cpu() for parts in zip(*out, strict=True))
    return coefficients, attributes
