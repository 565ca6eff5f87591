# SPDX-License-Identifier: GPL-3.0-or-later
"""Hero: the whole model behind its verbs: encode, generate, decode; react; regenerate, extend, more_like_this; make.

A take is played from its record (``hero_core.record``): a first draw, then edits. What is drawn depends on the record
and on the clip alone, not on the takes beside it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import attention, edit, humanml3d, length, sampling, video
from .attention import Attention
from .config import HeroConfig
from .errors import Cancelled, HeroError
from .masked import MaskedTransformer
from .motion import FPS, Motion
from .record import Draw, Edit, Keep, Sampling, TakeRecord, fingerprint, pack_joints, unpack_joints
from .residual import ResidualTransformer
from .rvq import RVQVAE
from .tc_clip import VideoEncoder

Progress = Callable[[int, int], bool]


@dataclass(frozen=True)
class VideoFeatures:
    """What the encoder saw; enough for any number of takes of a clip.

    local   (T, D) or (B, T, D), float32: one vector for each of the T = 16 frames (v_l)
    pooled  (D,) or (B, D), float32: their mean (v_g)
    clip    fingerprint of the frames that were encoded; "" = not known
    """

    local: Tensor
    pooled: Tensor
    clip: str = ""

    def batch(self) -> tuple[Tensor, Tensor]:
        """(B, T, D) and (B, D)."""
        if self.local.ndim == 2:
            return self.local[None], self.pooled[None]
        return self.local, self.pooled

    def clip_of(self, index: int) -> str:
        """What tells the clip of a sample from others: the fingerprint of its frames, or else of its features."""
        if self.clip:
            return self.clip
        local = self.batch()[0]
        return fingerprint(local[index % len(local)].float().contiguous().numpy().tobytes())


@dataclass
class _Take:
    """A take in the making: tokens (n, Q), features (4 n, 263) and joints (4 n, 22, 3)."""

    ids: Tensor
    rows: Tensor
    joints: Tensor


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
        self._fingerprint = ""
        self._batch_pays = False
        self._same_in_batch: dict[int, bool] = {}

    def to(self, device: torch.device, dtype: torch.dtype) -> Hero:
        """Move to a device; transformers and encoder compute in ``dtype``, the tokenizer stays in float32.

        The encoder stays in float32 too where its config says so (``always_float32``).
        """
        self.device, self.dtype = device, dtype
        self._batch_pays = device.type != "cpu"  # measured: not faster there, and off by some 1e-6
        self._same_in_batch = {}
        if self.encoder is not None:
            self.encoder.to(device, torch.float32 if self.config.encoder.always_float32 else dtype)
        self.masked.to(device, dtype)
        self.residual.to(device, dtype)
        self.rvq.to(device)
        if self.length_head is not None:
            self.length_head.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    @property
    def fingerprint(self) -> str:
        """Tells these weights from others, whatever device and precision they were moved to. Computed once.

        Of each tensor up to 4096 values count, evenly spaced: training moves them all.
        """
        if not self._fingerprint:
            # What only names the model, or stands in a record, is left out.
            sizes = dataclasses.replace(self.config, name="", guidance=0.0, residual_guidance=0.0, default_length=0)
            parts: list[bytes | str] = [json.dumps(dataclasses.asdict(sizes), sort_keys=True)]
            state: dict[str, Tensor] = {"mean": self.mean, "std": self.std}
            modules = (self.encoder, self.rvq, self.masked, self.residual, self.length_head)
            for name, module in zip(("encoder", "rvq", "masked", "residual", "length"), modules, strict=True):
                if module is not None:
                    state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
            for key in sorted(state):  # rounded to the coarsest precision that a model computes in
                value = state[key].flatten()
                value = value[:: max(1, value.numel() // 4096)].to(torch.bfloat16).cpu().contiguous()
                parts += [f"{key} {tuple(state[key].shape)}", value.view(torch.int16).numpy().tobytes()]
            self._fingerprint = fingerprint(*parts)
        return self._fingerprint

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

    # --- the verbs --------------------------------------------------------------------------------

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
        return VideoFeatures(local, local.mean(0), clip_fingerprint(picked))

    @torch.inference_mode()
    def encode_clips(self, clips: Sequence[Any]) -> list[VideoFeatures]:
        """Watch several clips; each comes out as :meth:`encode` has it, to the bit.

        In one pass where that is faster and the device computes the same in it, which is tried once for each number of
        clips; else one after the other.
        """
        if len(clips) < 2 or not self._batch_pays or self._same_in_batch.get(len(clips)) is False:
            return [self.encode(frames) for frames in clips]
        if self.encoder is None:
            raise HeroError("This checkpoint has no video encoder; load a HERO release to react to a video.")
        cfg = self.config.encoder
        picked = [video.prepare_frames(frames, cfg.num_frames, cfg.image_size) for frames in clips]
        batch = torch.from_numpy(np.stack(picked)).to(self.device)  # (B, T, H, W, 3) uint8
        local = self.encoder(self.encoder.normalise(batch)).float().cpu()  # (B, T, D)
        if len(clips) not in self._same_in_batch or not bool(torch.isfinite(local).all()):
            alone = [self.encode(frames) for frames in picked]
            same = all(torch.equal(one.local, many) for one, many in zip(alone, local, strict=True))
            self._same_in_batch[len(clips)] = same
            return alone
        return [
            VideoFeatures(own, own.mean(0), clip_fingerprint(seen)) for own, seen in zip(local, picked, strict=True)
        ]

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
        temperature: float = 1.0,
        topk: float = 0.9,
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
            temperature, topk: see ``record.Draw``; they count for "categorical".

        Returns:
            (B, n, Q) ids on the CPU, n tokens of the longest, -1 = pad.

        Raises:
            HeroError: a length or setting that is not possible. Cancelled: ``on_progress`` said so.
        """
        frames = [self.check_length(n) for n in ([lengths] if isinstance(lengths, int) else lengths)]
        if not frames:
            raise HeroError("At least one length is needed.")
        how = self._draw(steps, guidance, residual_guidance, sampling, temperature, topk)
        return self._fill(features, frames, seed, how, on_progress=on_progress)

    def _fill(
        self,
        features: VideoFeatures,
        frames: list[int],
        seed: int | Sequence[int],
        how: Draw,
        initial_ids: Tensor | None = None,
        edit_mask: Tensor | None = None,
        on_progress: Progress | None = None,
    ) -> Tensor:
        """Base, then residual layers: all tokens, or those of ``edit_mask`` (B, n) in ``initial_ids`` (B, n, Q)."""
        generators = _generators(seed, len(frames))
        done, total = 0, how.steps + self.config.rvq.num_quantizers - 1

        def tick(*_: int) -> bool:
            nonlocal done
            done += 1
            return on_progress is None or on_progress(done, total)

        local, pooled = self._condition(features, len(frames))
        base = _sampler.generate_base(
            self.masked,
            self.masked.prepare(local, pooled),
            torch.tensor([n // self.unit for n in frames]),
            steps=how.steps,
            guidance=how.guidance,
            sampling=how.sampling,
            temperature=how.temperature,
            topk=how.topk,
            generators=generators,
            initial_ids=None if initial_ids is None else initial_ids[..., 0],
            edit_mask=edit_mask,
            on_progress=tick,
        )
        ids = _sampler.generate_residual(
            self.residual,
            self.residual.prepare(local, pooled),
            base,
            guidance=how.residual_guidance,
            sampling=how.sampling,
            temperature=how.temperature,
            topk=how.topk,
            generators=generators,
            initial_ids=initial_ids,
            edit_mask=edit_mask,
            on_progress=tick,
        )
        return ids.cpu()

    def _draw(
        self,
        steps: int,
        guidance: float | None,
        residual_guidance: float | None,
        sampling: Sampling,
        temperature: float,
        topk: float,
    ) -> Draw:
        """Settings with the scales of the model's config where none are given; they are numbers in a record."""
        cfg = self.config
        return Draw(
            int(steps),
            float(cfg.guidance if guidance is None else guidance),
            float(cfg.residual_guidance if residual_guidance is None else residual_guidance),
            sampling,
            float(temperature),
            float(topk),
        )

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
        temperature: float = 1.0,
        topk: float = 0.9,
        start: Any = None,
    ) -> Motion:
        """Watch and react: frames (or features of them) in, takes of one reaction out.

        Args:
            frames_or_features: uint8 (T, H, W, 3) RGB, or what :meth:`encode` gave.
            takes: how many; take i is what ``seed=seed + i`` gives as the only take.
            length: frames at 20 fps, 4..200; None = what the model draws for each take, where its weights
                have a part for it (:meth:`predict_length`), else 88 (4.4 s).
            on_progress: called with (done, total) after each stage; returning False cancels.
            start: what the character was doing: a pose (22, 3) or its last frames (m, 22, 3) at 20 fps, metres, Y up,
                anywhere. They become the first tokens, and the first frames to the joint (directions of bones, on
                the model's skeleton, moved to the origin and turned to +Z; ``edit.place_of`` says from where), and
                count in ``length``. At most the last 20 frames; a single pose is held for a token.

        Raises:
            HeroError, Cancelled: see :meth:`encode` and :meth:`generate`.
        """
        if takes < 1:
            raise HeroError(f"At least 1 take is needed, not {takes}.")
        how = self._draw(steps, guidance, residual_guidance, sampling, temperature, topk)
        given = length is not None or self.length_head is None
        n = self.check_length(self.config.default_length if length is None else length)
        begun = None if start is None else edit.start_frames(start, self.unit)
        if begun is not None and given and n <= len(begun):
            raise HeroError(
                f"The start takes {len(begun)} frames, so the reaction must be longer than that, not {n} frames."
            )
        total = how.steps + self.config.rvq.num_quantizers + 1  # encode, steps, residual layers, decode

        def tick(done: int, _: int = 0) -> bool:
            return on_progress is None or on_progress(done, total)

        if isinstance(frames_or_features, VideoFeatures):
            features = frames_or_features
        else:
            features = self.encode(frames_or_features)
        if not tick(1):
            raise Cancelled
        frames = [n] * takes if given else self.predict_length(features, seed, takes)
        if begun is not None:
            frames = [max(count, len(begun) + self.unit) for count in frames]
        text = "" if begun is None else pack_joints(begun.numpy())
        model, device, dtype = self.fingerprint, self.device.type, _name(self.dtype)
        records = [
            TakeRecord(model, features.clip_of(i), device, dtype, frames[i], int(seed) + i, how, text)
            for i in range(takes)
        ]
        made = self._begin(features, records, lambda done, _: tick(done + 1))
        motion = self._pack(made, seed, records)
        if not tick(total):
            raise Cancelled
        return motion

    def regenerate(
        self,
        features: VideoFeatures,
        motion: Motion,
        frames: tuple[int, int],
        seed: int = 0,
        *,
        take: int = 0,
        takes: int = 1,
        keep: Keep = "place",
        blend: int = 6,
        steps: int = 10,
        guidance: float | None = None,
        residual_guidance: float | None = None,
        sampling: Sampling = "categorical",
        temperature: float = 1.0,
        topk: float = 0.9,
        on_progress: Progress | None = None,
    ) -> Motion:
        """Frames [first, last) of a take anew; those outside stay as they are, to the bit.

        The official release has no such mode; its loop is the same, with an edit mask over base and residual tokens.
        Every token that the range touches is drawn again, given all others.

        Args:
            features: of the clip that the take reacts to.
            motion: with tokens, as this class makes it.
            frames: first and last (excluded) frame at 20 fps, within the take.
            seed: new take i is drawn from ``seed + i``.
            take: which of the motion's takes.
            takes: how many versions.
            keep: what the frames after the range keep: "place", where they are, so that the new part is led there; or
                "path", their own way, carried along rigidly from where the new part ends. See ``edit.splice``.
            blend: frames at each end of the range in which the new part is led to the old.

        Returns:
            the new versions, without the motion's other takes.

        Raises:
            HeroError: the motion has no tokens, or those of other weights; a range outside of the take. Cancelled.
        """
        old, _ = self._open(motion, take)
        first, last = (_whole(frame) for frame in frames)
        if not 0 <= first < last <= len(old.rows):
            raise HeroError(
                f"The range {first}..{last} is not inside the take's {len(old.rows)} frames; choose another."
            )
        how = self._draw(steps, guidance, residual_guidance, sampling, temperature, topk)
        return self._edit(
            features, motion, take, takes, Edit(first, last, int(seed), keep, int(blend), how), on_progress
        )

    def extend(
        self,
        features: VideoFeatures,
        motion: Motion,
        frames: int,
        seed: int = 0,
        *,
        take: int = 0,
        takes: int = 1,
        redo: int = 0,
        blend: int = 6,
        steps: int = 10,
        guidance: float | None = None,
        residual_guidance: float | None = None,
        sampling: Sampling = "categorical",
        temperature: float = 1.0,
        topk: float = 0.9,
        on_progress: Progress | None = None,
    ) -> Motion:
        """Go on after the end of a take: ``frames`` more (whole tokens, rounded down), to 200 in all.

        The frames that are there stay as they are, to the bit, but for the last ``redo``, for an end that has come
        to rest. Everything else as in :meth:`regenerate`.
        """
        old, _ = self._open(motion, take)
        now = len(old.rows)
        room = (self.config.max_length - now) // self.unit * self.unit
        if not self.unit <= _whole(frames) <= room:
            raise HeroError(
                f"The take is {now} frames long and can grow by {self.unit} to {room}, not by {frames}."
                if room
                else f"The take has {now} frames already, the most that this model makes."
            )
        if not 0 <= redo < now:
            raise HeroError(f"Of the {now} frames the last 0 to {now - 1} can be made anew, not {redo}.")
        how = self._draw(steps, guidance, residual_guidance, sampling, temperature, topk)
        last = now + frames // self.unit * self.unit
        return self._edit(
            features, motion, take, takes, Edit(now - redo, last, int(seed), "place", int(blend), how), on_progress
        )

    def more_like_this(
        self,
        features: VideoFeatures,
        motion: Motion,
        takes: int = 3,
        seed: int = 0,
        *,
        take: int = 0,
        first: int | None = None,
        blend: int = 6,
        steps: int = 10,
        guidance: float | None = None,
        residual_guidance: float | None = None,
        sampling: Sampling = "categorical",
        temperature: float = 1.0,
        topk: float = 0.9,
        on_progress: Progress | None = None,
    ) -> Motion:
        """Takes that begin as this one: the same first tokens, and so the same first frames to the bit; a new rest.

        ``first`` frames are kept (whole tokens); None = a third of the take. Else as in :meth:`regenerate`.
        """
        old, _ = self._open(motion, take)
        n = len(old.rows)
        kept = (n // 3 if first is None else _whole(first)) // self.unit * self.unit
        kept = min(max(kept, self.unit), n - self.unit) if first is None else kept
        if not self.unit <= kept < n:
            raise HeroError(f"Of the {n} frames the first {self.unit} to {n - self.unit} can be kept, not {first}.")
        how = self._draw(steps, guidance, residual_guidance, sampling, temperature, topk)
        return self._edit(
            features, motion, take, takes, Edit(kept, n, int(seed), "place", int(blend), how), on_progress
        )

    def make(self, record: TakeRecord, features: VideoFeatures, on_progress: Progress | None = None) -> Motion:
        """The take of a record, bit for bit.

        Raises:
            HeroError: the record is of other weights or of another clip; or this computer draws other tokens, which
                another device or precision may do. Cancelled.
        """
        if record.model != self.fingerprint:
            raise HeroError("This take was made with other weights; load those to make it again.")
        if record.clip != features.clip_of(0):
            raise HeroError("This take reacts to another clip; encode that one to make it again.")
        if self.check_length(record.frames) != record.frames:
            raise HeroError(f"The record of the take has an impossible length of {record.frames} frames.")
        total = 1 + len(record.edits)

        def part(index: int) -> Progress:
            return lambda done, count: on_progress is None or on_progress(index * count + done, total * count)

        (made,) = self._begin(features, [record], part(0))
        for i, change in enumerate(record.edits):
            (made,) = self._apply(features, made, [change], part(i + 1))
        motion = self._pack([made], record.seed, [record])
        if record.tokens and motion.records[0].tokens != record.tokens:
            raise HeroError(
                f"This take was computed on {record.device} in {record.dtype} and comes out otherwise here "
                f"({self.device.type}, {_name(self.dtype)}); load the model that way, or keep the saved motion."
            )
        return motion

    @torch.inference_mode()
    def attention(self, features: VideoFeatures, motion: Motion | Tensor, take: int = 0) -> Attention:
        """Which of the clip's 16 frames told the model what to do in a take; see ``hero_core.attention``.

        ``motion`` has tokens, or is tokens (n, Q). One pass of the masked transformer, apart from generating.
        """
        ids = self._open(motion, take)[0].ids if isinstance(motion, Motion) else motion
        if ids.ndim != 2 or not len(ids) or int(ids[:, 0].min()) < 0:
            raise HeroError(f"Attention is that of one take's tokens (n, Q), not {tuple(ids.shape)}.")
        local, pooled = self._condition(features, 1)
        return attention.look(self.masked, local, pooled, ids[:, 0].to(self.device))

    def to_motion(self, ids: Tensor, seed: int = 0) -> Motion:
        """Decode tokens (B, n, Q) into a Motion with the lengths that the pads tell."""
        counts = (ids[..., 0] >= 0).sum(1).tolist()
        return self._pack([self._decoded(own[:n]) for own, n in zip(ids, counts, strict=True)], seed, [])

    # --- takes in the making ------------------------------------------------------------------------

    def _decoded(self, ids: Tensor) -> _Take:
        """One take (n, Q) by itself: a pad or a neighbour would change the last bits, or more."""
        rows = self.decode(ids[None])[0]
        return _Take(ids, rows, humanml3d.to_joints(rows))

    def _chunks(self, count: int) -> list[slice]:
        """Which samples to draw together: all where a sample comes out the same to the bit, else one by one."""
        together = self.device.type == "cpu" and self.dtype == torch.float32
        return [slice(0, count)] if together else [slice(i, i + 1) for i in range(count)]

    def _fill_all(
        self,
        features: VideoFeatures,
        frames: list[int],
        seeds: list[int],
        how: Draw,
        initial: Tensor | None,
        mask: Tensor | None,
        on_progress: Progress | None,
    ) -> list[Tensor]:
        """Tokens (n, Q) of each sample, n its own; ``initial`` (n, Q) and ``mask`` (n,) are the same for all."""
        out: list[Tensor] = []
        chunks = self._chunks(len(frames))
        for i, chunk in enumerate(chunks):
            b = len(frames[chunk])
            local, pooled = features.batch()
            own = features if len(local) == 1 else VideoFeatures(local[chunk], pooled[chunk])
            ids = self._fill(
                own, frames[chunk], seeds[chunk], how,
                None if initial is None else initial.expand(b, -1, -1),
                None if mask is None else mask.expand(b, -1),
                None if on_progress is None else _share(on_progress, i, len(chunks)),
            )  # fmt: skip
            out += [ids[k, : n // self.unit] for k, n in enumerate(frames[chunk])]
        return out

    @torch.inference_mode()
    def _begin(self, features: VideoFeatures, records: list[TakeRecord], on_progress: Progress | None) -> list[_Take]:
        """First draws; all records have the same settings and start."""
        frames, seeds, how = [r.frames for r in records], [r.seed for r in records], records[0].draw
        if not records[0].start:
            return [self._decoded(ids) for ids in self._fill_all(features, frames, seeds, how, None, None, on_progress)]
        begun, seen = edit.start_rows(torch.from_numpy(unpack_joints(records[0].start)))
        given = self._tokens_of(seen)[-len(begun) // self.unit :]
        longest = max(frames) // self.unit
        initial = torch.zeros(longest, given.shape[1], dtype=torch.long)
        initial[: len(given)] = given
        mask = torch.arange(longest) >= len(given)
        made = []
        for ids in self._fill_all(features, frames, seeds, how, initial, mask, on_progress):
            whole = self._decoded(ids)
            rows, joints = edit.splice(begun, humanml3d.to_joints(begun), whole.rows, len(begun), len(whole.rows))
            made.append(_Take(ids, rows, joints))
        return made

    def _tokens_of(self, rows: Tensor) -> Tensor:
        """Features (N, 263), N a multiple of 4, -> the tokenizer's tokens (N / 4, Q) on the CPU."""
        return self.rvq.encode_tokens(((rows.to(self.device) - self.mean) / self.std)[None])[0].cpu()

    def _open(self, motion: Motion, take: int) -> tuple[_Take, TakeRecord | None]:
        """A take of a motion as it was made, and its record."""
        if not 0 <= take < len(motion.lengths):
            raise HeroError(f"There is no take {take}; the motion has {len(motion.lengths)}, counted from 0.")
        if motion.tokens is None or motion.features is None:
            raise HeroError("This motion was stored without its tokens, so it cannot be changed; make a new take.")
        n = int(motion.lengths[take])
        ids = torch.from_numpy(motion.tokens[take].astype(np.int64))
        ids = ids[ids[:, 0] >= 0]
        record = motion.records[take] if motion.records else None
        fits = ids.shape[1] == self.config.rvq.num_quantizers and bool((ids < self.config.rvq.nb_code).all())
        if not fits or len(ids) * self.unit != n or (record is not None and record.model != self.fingerprint):
            raise HeroError("This take was made with other weights; load those to change it.")
        rows = torch.from_numpy(np.asarray(motion.features[take, :n], np.float32))
        return _Take(ids, rows, torch.from_numpy(motion.take(take).copy())), record

    def _edit(
        self,
        features: VideoFeatures,
        motion: Motion,
        take: int,
        takes: int,
        change: Edit,
        on_progress: Progress | None,
    ) -> Motion:
        if takes < 1:
            raise HeroError(f"At least 1 take is needed, not {takes}.")
        old, record = self._open(motion, take)
        if record is not None and record.clip != features.clip_of(0):
            raise HeroError("This take reacts to another clip; give the features of that one.")
        changes = [dataclasses.replace(change, seed=change.seed + i) for i in range(takes)]
        made = self._apply(features, old, changes, on_progress)
        records = [] if record is None else [dataclasses.replace(record, edits=(*record.edits, c)) for c in changes]
        return self._pack(made, change.seed, records)

    @torch.inference_mode()
    def _apply(
        self, features: VideoFeatures, old: _Take, changes: list[Edit], on_progress: Progress | None
    ) -> list[_Take]:
        """A take with each of several edits that differ in their seeds alone."""
        change = changes[0]
        if len(features.batch()[0]) != 1:
            raise HeroError("A take is changed with the features of its one clip.")
        n = -(-max(change.last, len(old.rows)) // self.unit)
        self.check_length(n * self.unit)
        initial = torch.zeros(n, old.ids.shape[1], dtype=torch.long)
        initial[: len(old.ids)] = old.ids
        mask = torch.zeros(n, dtype=torch.bool)
        mask[change.first // self.unit : -(-change.last // self.unit)] = True
        seeds = [c.seed for c in changes]
        made = []
        for ids in self._fill_all(
            features, [n * self.unit] * len(seeds), seeds, change.draw, initial, mask, on_progress
        ):
            new = self._decoded(ids)
            parts = edit.splice(old.rows, old.joints, new.rows, change.first, change.last, change.blend, change.keep)
            made.append(_Take(ids, *parts))
        return made

    def _pack(self, made: list[_Take], seed: int, records: list[TakeRecord]) -> Motion:
        """Takes of several lengths in one Motion; what follows a take is zero, or -1 for tokens."""
        lengths = np.array([len(one.rows) for one in made])
        n = max(int(lengths.max()), 1)
        joints = np.zeros((len(made), n, 22, 3), np.float32)
        rows = np.zeros((len(made), n, self.config.rvq.input_width), np.float32)
        tokens = np.full((len(made), n // self.unit, self.config.rvq.num_quantizers), -1, np.int32)
        for i, one in enumerate(made):
            if not bool(torch.isfinite(one.joints).all()):
                raise HeroError("The model generated NaN; load it with dtype float32.")
            joints[i, : len(one.joints)], rows[i, : len(one.rows)] = one.joints.numpy(), one.rows.numpy()
            tokens[i, : len(one.ids), : one.ids.shape[1]] = one.ids.numpy()
        kept = tuple(
            dataclasses.replace(record, tokens=fingerprint(one.ids.int().numpy().astype("<i4").tobytes()))
            for record, one in zip(records, made, strict=bool(records))
        )
        return Motion(joints, rows, lengths, FPS, seed, tokens, kept)


def clip_fingerprint(picked: Any) -> str:
    """Of the frames (T, H, W, 3) uint8 that ``video.prepare_frames`` picked: all that the encoder sees of a clip."""
    return fingerprint(str(picked.shape), np.ascontiguousarray(picked).tobytes())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _share(on_progress: Progress, index: int, count: int) -> Progress:
    """The progress of one of ``count`` equal parts, told on the scale of the part."""
    return lambda done, total: on_progress((index * total + done) // count, total)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise HeroError(f"Frames are whole numbers, not {value!r}.")
    return int(value)


# `generate` has a parameter named sampling and `react` one named length, as their callers write them.
_sampler, _lengths = sampling, length


def _generators(seed: int | Sequence[int], count: int) -> list[torch.Generator]:
    seeds = [seed + i for i in range(count)] if isinstance(seed, (int, np.integer)) else list(seed)
    if len(seeds) != count:
        raise HeroError(f"There are {len(seeds)} seeds for {count} samples.")
    return [torch.Generator().manual_seed(int(s) % 2**63) for s in seeds]
