# SPDX-License-Identifier: GPL-3.0-or-later
"""The one loop that fills masked tokens, and the loop over residual layers (MoMask's sampling; HERO 3.3).

A whole motion, a new middle part and one more take are the same call: tokens inside ``edit_mask`` are
filled, the others are given and never change.

Noise is drawn on the CPU, for each sample from its own generator and in an amount that depends on its own
length only. So a seed means the same take on every device, whatever else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import Cancelled, HeroError
from .masked import MaskedTransformer
from .residual import ResidualTransformer
from .transformer import Condition, padding_of, take

SAMPLING = ("categorical", "gumbel", "argmax")
Shape = tuple[int, int, int]  # (B, n, K)
# One generator for each sample, or a function of the sampling and a shape that gives recorded noise.
Generators = Sequence[torch.Generator] | Callable[[str, Shape], Tensor] | None
Progress = Callable[[int, int], bool] | None
_KEEP = 1e5  # score of a token that must not be masked again


def mask_counts(step: int, steps: int, editable: Tensor) -> Tensor:
    """How many tokens are masked when a step begins: cosine schedule from all to one.

    Args:
        step: 0 .. steps-1.
        steps: forward passes in all.
        editable: (B,) tokens to fill.

    Returns:
        (B,) at least 1; halves round to even, as in the official program.
    """
    share = torch.cos(torch.linspace(0, 1, steps)[step] * (math.pi / 2))
    return (share.to(editable.device) * editable).round().clamp(min=1).long()


def draw_noise(sampling: str, shape: Shape, lengths: Tensor, generators: Generators) -> Tensor | None:
    """What :func:`draw` needs to be random: (B, n, K) on the CPU, exponential or (for gumbel) uniform.

    Each sample draws for its own length (B,) only; past it stands a constant.
    """
    if sampling == "argmax":
        return None
    if generators is None:
        raise HeroError("Random sampling needs generators; pass one for each sample, or sampling='argmax'.")
    if callable(generators):
        return generators(sampling, shape)
    noise = torch.full(shape, 0.5)
    for own, length, generator in zip(noise, lengths.tolist(), generators, strict=True):
        if sampling == "gumbel":
            own[:length].uniform_(generator=generator)
        else:
            own[:length].exponential_(generator=generator)
    return noise


def draw(logits: Tensor, noise: Tensor | None, sampling: str, topk: float = 0.9, temperature: float = 1.0) -> Tensor:
    """Choose a class from each row of logits.

    Args:
        logits: (B, n, K).
        noise: (B, n, K) from :func:`draw_noise`; None for argmax.
        sampling: "categorical", "gumbel" (both from the softmax; they differ in the noise they consume,
            as the official programs do) or "argmax".
        topk: share of the classes to leave out, the least likely ones; ceil((1 - topk) K) stay.
        temperature: divides the logits.

    Returns:
        (B, n) class indices.
    """
    if noise is None:
        return logits.argmax(dim=-1)
    best, index = logits.topk(math.ceil((1 - topk) * logits.shape[-1]), dim=-1)  # (B, n, k)
    noise = noise.gather(-1, index).clamp(min=1e-20)  # float32 can draw 0, an infinite preference
    if sampling == "categorical":
        # The largest p / e with exponential e is a draw from p.
        choice = ((best / temperature).softmax(dim=-1) / noise).argmax(dim=-1, keepdim=True)
    else:
        choice = (best / max(temperature, 1e-10) - noise.log().neg().log()).argmax(dim=-1, keepdim=True)
    return index.gather(-1, choice)[..., 0]


def generate_base(
    model: MaskedTransformer,
    condition: Condition,
    lengths: Tensor,
    *,
    steps: int = 10,
    guidance: float = 4.0,
    sampling: str = "categorical",
    topk: float = 0.9,
    temperature: float = 1.0,
    generators: Generators = None,
    initial_ids: Tensor | None = None,
    edit_mask: Tensor | None = None,
    on_progress: Progress = None,
) -> Tensor:
    """Fill the base layer: start from all masked; each step predicts, keeps the surest, masks the rest again.

    Args:
        model: in eval mode.
        condition: ``model.prepare(...)`` of C clips; B is a multiple of C, the takes of a clip in a row.
        lengths: (B,) tokens of each sample, at least 1.
        steps: forward passes.
        guidance: classifier-free guidance scale; 1 turns it off.
        sampling, topk, temperature: see :func:`draw`.
        generators: on the CPU, one for each sample; not needed for argmax.
        initial_ids: (B, n) tokens to keep where ``edit_mask`` is False; -1 is allowed at padding.
        edit_mask: (B, n), True where a token is to be filled; None fills all.
        on_progress: called with (steps done, steps) after each; False stops.

    Returns:
        (B, n) with n the largest length; -1 at padding.

    Raises:
        Cancelled: ``on_progress`` returned False.
        HeroError: ``edit_mask`` without ``initial_ids``, or random sampling without generators.
    """
    device = condition.intention.device
    lengths = lengths.to(device)
    batch, n = len(lengths), int(lengths.max()) if initial_ids is None else initial_ids.shape[1]
    padding = padding_of(lengths, n)  # (B, n)
    editable = ~padding
    if edit_mask is not None:
        if initial_ids is None:
            raise HeroError("Filling a part of a motion needs its tokens; pass initial_ids with edit_mask.")
        editable &= edit_mask.to(device)
    with torch.inference_mode():
        ids = torch.full_like(padding, model.mask_id, dtype=torch.long)
        if initial_ids is not None:
            ids = torch.where(editable, ids, initial_ids.to(device))
        ids = torch.where(padding, model.pad_id, ids)
        scores = torch.where(editable, 0.0, _KEEP)
        pads = padding if bool(padding.any()) else None
        for step in range(steps):
            count = mask_counts(step, steps, editable.sum(dim=1))
            # The least sure tokens, as many as the sample with the most to fill has.
            rows = scores.argsort(dim=-1, stable=True)[:, : int(count.max())]  # (B, m)
            masked = (torch.arange(rows.shape[1], device=device) < count[:, None]) & editable.gather(1, rows)
            ids = ids.scatter(1, rows, torch.where(masked, model.mask_id, ids.gather(1, rows)))
            logits = model(ids, condition, pads, guidance, rows)  # (B, m, K)
            noise = draw_noise(sampling, (batch, n, logits.shape[-1]), lengths, generators)
            noise = None if noise is None else take(noise.to(device), rows)
            chosen = draw(logits, noise, sampling, topk, temperature)
            ids = ids.scatter(1, rows, torch.where(masked, chosen, ids.gather(1, rows)))
            # How sure the model is: without the filter, and without the temperature.
            sure = logits.softmax(dim=-1).gather(-1, chosen[..., None])[..., 0]
            scores = torch.full_like(scores, _KEEP).scatter(1, rows, torch.where(masked, sure, _KEEP))
            if on_progress is not None and not on_progress(step + 1, steps):
                raise Cancelled
        ids = torch.where(padding, -1, ids)
    return ids.clone()


def generate_residual(
    model: ResidualTransformer,
    condition: Condition,
    base_ids: Tensor,
    *,
    guidance: float = 5.0,
    sampling: str = "gumbel",
    topk: float = 0.9,
    temperature: float = 1.0,
    generators: Generators = None,
    initial_ids: Tensor | None = None,
    edit_mask: Tensor | None = None,
    on_progress: Progress = None,
) -> Tensor:
    """Add layers 1 .. Q-1 to the base tokens, one forward pass each.

    Args:
        model: in eval mode.
        condition: ``model.prepare(...)`` (the residual model's own) of C clips; B is a multiple of C.
        base_ids: (B, n), -1 at padding, which must come last.
        guidance, sampling, topk, temperature, generators: as in :func:`generate_base`.
        initial_ids: (B, n, Q) tokens to keep where ``edit_mask`` is False.
        edit_mask: (B, n), True where tokens are to be filled; None fills all.
        on_progress: called with (layers done, Q - 1) after each; False stops.

    Returns:
        (B, n, Q); -1 at padding and where the model says that a layer has no code.

    Raises:
        Cancelled: ``on_progress`` returned False.
        HeroError: ``edit_mask`` without ``initial_ids``, or random sampling without generators.
    """
    if edit_mask is not None and initial_ids is None:
        raise HeroError("Filling a part of a motion needs its tokens; pass initial_ids with edit_mask.")
    device = condition.intention.device
    base_ids = base_ids.to(device)
    batch, n = base_ids.shape
    padding = base_ids < 0
    lengths = (~padding).sum(dim=1)
    last = model.cfg.num_quantizers - 1
    with torch.inference_mode():
        pads = padding if bool(padding.any()) else None
        ids = torch.where(padding, model.pad_id, base_ids)  # (B, n) of the current layer
        layers = [ids]
        history: Tensor = torch.zeros((), device=device)
        for layer in range(1, last + 1):
            history = history + model.embedding(layer - 1)[ids]  # (B, n, code_dim)
            logits = model(history, layer, condition, pads, guidance)  # (B, n, K + 1)
            noise = draw_noise(sampling, (batch, n, logits.shape[-1]), lengths, generators)
            ids = draw(logits, None if noise is None else noise.to(device), sampling, topk, temperature)
            if edit_mask is not None and initial_ids is not None:
                given = initial_ids[..., layer].to(device)
                ids = torch.where(edit_mask.to(device), ids, torch.where(given < 0, model.pad_id, given))
            ids = torch.where(padding, model.pad_id, ids)
            layers.append(ids)
            if on_progress is not None and not on_progress(layer, last):
                raise Cancelled
        out = torch.stack(layers, dim=-1)
        out = torch.where(out == model.pad_id, -1, out)
    return out.clone()
