# SPDX-License-Identifier: GPL-3.0-or-later
"""Hero: the whole model behind five verbs: encode, generate, decode, react, regenerate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from . import humanml3d, length, sampling, video
from .config import HeroConfig
from .errors import Cancelled, HeroError
from .masked import MaskedTransformer
from .motion import FPS, Motion
from .residual import ResidualTransformer
from .rvq import RVQVAE
from .tc_clip import VideoEncoder

Progress = Callable[[int, int], bool]
Sampling = Literal["categorical", "argmax"]


@dataclass(frozen=True)
class VideoFeatures:
    """What the encoder saw; enough for any number of takes of a clip.

    local   (T, D) or (B, T, D), float32: one vector for each of the T = 16 frames (v_l)
    pooled  (D,) or (B, D), float32: their mean (v_g)
    """

    local: Tensor
    pooled: Tensor

    def batch(self) -> tuple[Tensor, Tensor]:
        """(B, T, D) and (B, D)."""
        if self.local.ndim == 2:
            return self.local[None], self.pooled[None]
        return self.local, self.pooled


class Hero:
    """A loaded model. Make one with :func:`hero_core.load`."""

    def __init__(
        self,
        config: HeroConfig,
        encoder: VideoEncoder | None,
        rvq: RVQVAE,
        masked: MaskedTransformer,
        residual: ResidualTransformer,
        mean: Tensor,
        std: Tensor,
        length_head: length.LengthEstimator | None = None,
    ) -> None:
        self.config = config
        self.encoder = encoder
        self.rvq = rvq
        self.masked = masked
        self.residual = residual
        self.mean = mean  # (263,)
        self.std = std
        self.length_head = length_head
        self.device = torch.device("cpu")
        self.dtype = torch.float32

    def to(self, device: torch.device, dtype: torch.dtype) -> Hero:
        """Move to a device; transformers and encoder compute in ``dtype``, the tokenizer stays in float32.

        The encoder stays in float32 too where its config says so (``always_float32``).
        """
        self.device, self.dtype = device, dtype
        if self.encoder is not None:
            self.encoder.to(device, torch.float32 if self.config.encoder.always_float32 else dtype)
        self.masked.to(device, dtype)
        self.residual.to(device, dtype)
        self.rvq.to(device)
        if self.length_head is not None:
            self.length_head.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    # --- lengths ----------------------------------------------------------------------------------

    @property
    def unit(self) -> int:
        """Frames of a token (4)."""
        return self.config.rvq.frames_per_token

    def check_length(self, frames: int) -> int:
        """A length that the model can make: whole tokens, rounded down as the official program does.

        Raises:
            HeroError: outside of 4..200 frames; says what is allowed and the nearest that is.
        """
        low, high = self.unit, self.config.max_length
        if isinstance(frames, bool) or int(frames) != frames:
            raise HeroError(f"A length is a whole number of frames, not {frames!r}.")
        if not low <= frames <= high:
            nearest = low if frames < low else high
            raise HeroError(
                f"A reaction can be {low} to {high} frames long ({low / FPS:g} to {high / FPS:g} seconds at "
                f"{FPS:g} frames a second); {int(frames)} is not possible, the nearest is {nearest}."
            )
        return int(frames) // self.unit * self.unit

    def length_for(self, seconds: float) -> int:
        """The nearest length in frames for a clip of so many seconds, kept to 2..10 seconds."""
        low, high = 10 * self.unit, self.config.max_length
        frames = round(max(0.0, seconds) * FPS / self.unit) * self.unit
        return int(min(max(frames, low), high))

    @torch.inference_mode()
    def predict_length(self, features: VideoFeatures, seed: int = 0, takes: int = 1) -> list[int]:
        """Lengths in frames that the model draws for takes of one clip; take i from ``seed + i``.

        Raises:
            HeroError: these weights have no part that knows lengths (``length_head`` is None).
        """
        if self.length_head is None:
            raise HeroError("These weights do not predict lengths; give one.")
        local, pooled = self._condition(features, takes)
        logits = self.length_head(self.masked.intention(local, pooled).float())  # (1 or takes, K)
        return [n * self.unit for n in _lengths.draw(logits, [seed + i for i in range(takes)])]

    # --- the five verbs ---------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, frames: Any) -> VideoFeatures:
        """Watch a clip: uint8 (T, H, W, 3) RGB, any T >= 1, -> features of 16 frames (section 3.1).

        Frames are picked and resized as the official program does (``hero_core.video``).
        """
        if self.encoder is None:
            raise HeroError("This checkpoint has no video encoder; load a HERO release to react to a video.")
        cfg = self.config.encoder
        picked = video.prepare_frames(frames, cfg.num_frames, cfg.image_size)
        batch = torch.from_numpy(picked)[None].to(self.device)  # (1, T, H, W, 3) uint8
        local = self.encoder(self.encoder.normalise(batch))[0].float().cpu()  # (T, D)
        if not bool(torch.isfinite(local).all()):
            raise HeroError("The video encoder gave NaN for this clip; load the model with dtype float32.")
        return VideoFeatures(local, local.mean(0))

    @torch.inference_mode()
    def generate(
        self,
        features: VideoFeatures,
        lengths: Sequence[int] | int,
        steps: int = 10,
        guidance: float | None = None,
        residual_guidance: float | None = None,
        sampling: Sampling = "categorical",
        seed: int | Sequence[int] = 0,
        on_progress: Progress | None = None,
    ) -> Tensor:
        """Tokens of reactions to a clip.

        Args:
            features: of one clip (shared by all samples) or of one clip for each sample.
            lengths: frames of each sample, 4..200.
            steps: passes of the masked transformer.
            guidance, residual_guidance: classifier-free guidance scales; 1 switches guidance off, None takes those
                of the model's config (officially 4 and 5).
            sampling: "categorical" draws among the likely tokens, "argmax" takes the likeliest.
            seed: sample i is drawn from ``seed + i``, whatever batch it is in; or one seed for each.

        Returns:
            (B, n, Q) ids on the CPU, n tokens of the longest, -1 = pad.

        Raises:
            HeroError: a length or setting that is not possible. Cancelled: ``on_progress`` said so.
        """
        frames = [self.check_length(n) for n in ([lengths] if isinstance(lengths, int) else lengths)]
        if not frames:
            raise HeroError("At least one length is needed.")
        return self._fill(features, frames, seed, steps, guidance, residual_guidance, sampling, on_progress=on_progress)

    def _fill(
        self,
        features: VideoFeatures,
        frames: list[int],
        seed: int | Sequence[int],
        steps: int,
        guidance: float | None,
        residual_guidance: float | None,
        sampling: Sampling,
        initial_ids: Tensor | None = None,
        edit_mask: Tensor | None = None,
        on_progress: Progress | None = None,
    ) -> Tensor:
        """Base, then residual layers: all tokens, or those of ``edit_mask`` (B, n) in ``initial_ids`` (B, n, Q)."""
        if steps < 1:
            raise HeroError(f"At least 1 step is needed, not {steps}.")
        if sampling not in ("categorical", "argmax"):
            raise HeroError(f"Sampling is 'categorical' or 'argmax', not '{sampling}'.")
        generators = _generators(seed, len(frames))
        done, total = 0, steps + self.config.rvq.num_quantizers - 1

        def tick(*_: int) -> bool:
            nonlocal done
            done += 1
            return on_progress is None or on_progress(done, total)

        local, pooled = self._condition(features, len(frames))
        base = _sampler.generate_base(
            self.masked,
            self.masked.prepare(local, pooled),
            torch.tensor([n // self.unit for n in frames]),
            steps=steps,
            guidance=self.config.guidance if guidance is None else guidance,
            sampling=sampling,
            generators=generators,
            initial_ids=None if initial_ids is None else initial_ids[..., 0],
            edit_mask=edit_mask,
            on_progress=tick,
        )
        ids = _sampler.generate_residual(
            self.residual,
            self.residual.prepare(local, pooled),
            base,
            guidance=self.config.residual_guidance if residual_guidance is None else residual_guidance,
            sampling=sampling,
            generators=generators,
            initial_ids=initial_ids,
            edit_mask=edit_mask,
            on_progress=tick,
        )
        return ids.cpu()

    def _condition(self, features: VideoFeatures, count: int) -> tuple[Tensor, Tensor]:
        local, pooled = features.batch()
        if local.shape[-1] != self.config.masked.clip_dim:
            raise HeroError(
                f"These video features have width {local.shape[-1]}, this model reads {self.config.masked.clip_dim}; "
                "encode the clip with the same model."
            )
        if len(local) not in (1, count):
            raise HeroError(f"There are features of {len(local)} clips for {count} samples; give 1 or {count}.")
        return local.to(self.device, self.dtype), pooled.to(self.device, self.dtype)

    @torch.inference_mode()
    def decode(self, ids: Tensor) -> Tensor:
        """(B, n, Q) ids, -1 = pad, -> (B, 4 n, 263) de-normalised HumanML3D features, float32 on the CPU."""
        if ids.ndim != 3 or ids.shape[-1] > self.config.rvq.num_quantizers or ids.shape[1] < 1:
            raise HeroError(f"Tokens must have shape (B, n, {self.config.rvq.num_quantizers}), not {tuple(ids.shape)}.")
        if int(ids.min()) < -1 or int(ids.max()) >= self.config.rvq.nb_code:
            raise HeroError(f"Tokens must lie in -1..{self.config.rvq.nb_code - 1}.")
        features = self.rvq.decode_tokens(ids.to(self.device)) * self.std + self.mean
        return features.float().cpu()

    def react(
        self,
        frames_or_features: Any,
        takes: int = 1,
        length: int | None = None,
        seed: int = 0,
        on_progress: Progress | None = None,
        *,
        steps: int = 10,
        guidance: float | None = None,
        residual_guidance: float | None = None,
        sampling: Sampling = "categorical",
    ) -> Motion:
        """Watch and react: frames (or features of them) in, takes of one reaction out.

        Args:
            frames_or_features: uint8 (T, H, W, 3) RGB, or what :meth:`encode` gave.
            takes: how many; take i is what ``seed=seed + i`` gives as the only take.
            length: frames at 20 fps, 4..200; None = what the model draws for each take, where its weights
                have a part for it (:meth:`predict_length`), else 88 (4.4 s).
            on_progress: called with (done, total) after each stage; returning False cancels.

        Raises:
            HeroError, Cancelled: see :meth:`encode` and :meth:`generate`.
        """
        if takes < 1:
            raise HeroError(f"At least 1 take is needed, not {takes}.")
        given = length is not None or self.length_head is None
        n = self.check_length(self.config.default_length if length is None else length)
        total = steps + self.config.rvq.num_quantizers + 1  # encode, steps, residual layers, decode

        def tick(done: int, _: int = 0) -> bool:
            return on_progress is None or on_progress(done, total)

        if isinstance(frames_or_features, VideoFeatures):
            features = frames_or_features
        else:
            features = self.encode(frames_or_features)
        if not tick(1):
            raise Cancelled
        ids = self.generate(
            features,
            [n] * takes if given else self.predict_length(features, seed, takes),
            steps,
            guidance,
            residual_guidance,
            sampling,
            seed,
            on_progress=lambda done, _: tick(done + 1),
        )
        motion = self.to_motion(ids, seed)
        if not tick(total):
            raise Cancelled
        return motion

    @torch.inference_mode()
    def regenerate(
        self,
        features: VideoFeatures,
        ids: Tensor,
        frames: tuple[int, int],
        seed: int = 0,
        *,
        steps: int = 10,
        guidance: float | None = None,
        residual_guidance: float | None = None,
        sampling: Sampling = "categorical",
        on_progress: Progress | None = None,
    ) -> Tensor:
        """New tokens for a range of frames of one take (1, n, Q); tokens outside stay as they are.

        The official release has no such mode; the loop is the same, with an edit mask.
        """
        if ids.ndim != 3 or len(ids) != 1:
            raise HeroError(f"Regenerate works on one take, (1, n, Q) tokens, not {tuple(ids.shape)}.")
        first, last = frames[0] // self.unit, -(-frames[1] // self.unit)
        n = int((ids[0, :, 0] >= 0).sum())
        if not 0 <= first < last <= n:
            raise HeroError(f"The range {frames[0]}..{frames[1]} is not inside the take's {n * self.unit} frames.")
        edit = torch.zeros(1, ids.shape[1], dtype=torch.bool)
        edit[:, first:last] = True
        length = [n * self.unit]
        return self._fill(features, length, seed, steps, guidance, residual_guidance, sampling, ids, edit, on_progress)

    def to_motion(self, ids: Tensor, seed: int = 0) -> Motion:
        """Decode tokens (B, n, Q) into a Motion with the lengths that the pads tell."""
        lengths = (ids[..., 0] >= 0).sum(1) * self.unit
        features = torch.zeros(len(ids), ids.shape[1] * self.unit, self.config.rvq.input_width)
        # The decoder's view is wide: pads would change the end of a take, and so would the takes beside it.
        for n in lengths.unique().tolist():
            if n:
                features[lengths == n, :n] = self.decode(ids[lengths == n, : n // self.unit])
        joints = humanml3d.to_joints(features)
        if not bool(torch.isfinite(joints).all()):
            raise HeroError("The model generated NaN; load it with dtype float32.")
        valid = torch.arange(features.shape[1]) < lengths[:, None]  # (B, N)
        return Motion(
            (joints * valid[..., None, None]).numpy(),
            (features * valid[..., None]).numpy(),
            lengths.numpy(),
            FPS,
            seed,
        )


# `generate` has a parameter named sampling and `react` one named length, as their callers write them.
_sampler, _lengths = sampling, length


def _generators(seed: int | Sequence[int], count: int) -> list[torch.Generator]:
    seeds = [seed + i for i in range(count)] if isinstance(seed, (int, np.integer)) else list(seed)
    if len(seeds) != count:
        raise HeroError(f"There are {len(seeds)} seeds for {count} samples.")
    return [torch.Generator().manual_seed(int(s) % 2**63) for s in seeds]
