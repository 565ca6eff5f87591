# SPDX-License-Identifier: GPL-3.0-or-later
"""Noise schedule, forward process and DDIM of ReactDiff (arXiv 2505.14151, section 3; Song et al. 2021).

Few steps of the cosine schedule of Nichol and Dhariwal 2021. The official network predicts the noise; ours the clean
latents (``config.ReactDiffConfig.predicts``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]  # x (B, ...), t (B,) int64 -> noise, or clean latents, like x


def cosine_betas(steps: int, largest: float = 0.999) -> Tensor:
    """(steps,) float64: 1 - f(t + 1) / f(t) with f(u) = cos^2((u / steps + 0.008) / 1.008 pi / 2)."""

    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    values = [min(1 - f((t + 1) / steps) / f(t / steps), largest) for t in range(steps)]
    return torch.tensor(values, dtype=torch.float64, device="cpu")  # also where models are made on meta


class Schedule:
    """What follows from the betas, each (steps,) float64; named as in Ho et al. 2020."""

    def __init__(self, betas: Tensor) -> None:
        one = torch.ones(1, dtype=torch.float64, device="cpu")
        self.betas = betas
        self.steps = len(betas)
        self.alphas_cumprod = (1 - betas).cumprod(0)
        self.alphas_cumprod_prev = torch.cat((one, self.alphas_cumprod[:-1]))
        self.alphas_cumprod_next = torch.cat((self.alphas_cumprod[1:], 0 * one))
        self.sqrt_alphas_cumprod = self.alphas_cumprod.sqrt()
        self.sqrt_one_minus_alphas_cumprod = (1 - self.alphas_cumprod).sqrt()
        self.sqrt_recip_alphas_cumprod = (1 / self.alphas_cumprod).sqrt()
        self.sqrt_recipm1_alphas_cumprod = (1 / self.alphas_cumprod - 1).sqrt()
        left = 1 - self.alphas_cumprod
        self.posterior_variance = betas * (1 - self.alphas_cumprod_prev) / left
        # The first is zero, whose logarithm is not; the second stands in for it.
        variance = torch.cat((self.posterior_variance[1:2], self.posterior_variance[1:]))
        self.posterior_log_variance_clipped = variance.log()
        self.posterior_mean_coef1 = betas * self.alphas_cumprod_prev.sqrt() / left
        self.posterior_mean_coef2 = (1 - self.alphas_cumprod_prev) * (1 - betas).sqrt() / left

    @classmethod
    def cosine(cls, steps: int) -> Schedule:
        return cls(cosine_betas(steps))

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """q(x_t | x_0): x0 and noise (B, ...), t (B,) -> like x0."""
        return _at(self.sqrt_alphas_cumprod, t, x0) * x0 + _at(self.sqrt_one_minus_alphas_cumprod, t, x0) * noise

    def clean(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The x_0 that x_t = x and that noise speak of."""
        return _at(self.sqrt_recip_alphas_cumprod, t, x) * x - _at(self.sqrt_recipm1_alphas_cumprod, t, x) * noise

    def posterior_mean(self, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0)."""
        return _at(self.posterior_mean_coef1, t, x) * x0 + _at(self.posterior_mean_coef2, t, x) * x

    def ddim_step(self, denoise: Denoiser, x: Tensor, t: int, predicts: str = "noise") -> tuple[Tensor, Tensor]:
        """One step of DDIM with eta 0 from x = x_t: (x_{t-1}, the x_0 that was predicted, held within -1 .. 1)."""
        times = torch.full((x.shape[0],), t, dtype=torch.long, device=x.device)
        found = denoise(x, times)
        x0 = (found if predicts == "clean" else self.clean(x, times, found)).clamp(-1, 1)
        left = _at(self.sqrt_recip_alphas_cumprod, times, x) * x - x0
        noise = left / _at(self.sqrt_recipm1_alphas_cumprod, times, x)
        before = _at(self.alphas_cumprod_prev, times, x)
        return x0 * before.sqrt() + (1 - before).sqrt() * noise, x0

    def ddim(
        self,
        denoise: Denoiser,
        noise: Tensor,
        on_step: Callable[[int], None] | None = None,
        predicts: str = "noise",
    ) -> Tensor:
        """All steps from pure noise; the result is the x_0 predicted at t = 0. ``on_step(done)`` after each."""
        x = x0 = noise
        for t in reversed(range(self.steps)):
            x, x0 = self.ddim_step(denoise, x, t, predicts)
            if on_step is not None:
                on_step(self.steps - t)
        return x0


def diffusion_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """10 mean|error| of the predicted noise or clean latents, the official weight."""
    return 10 * F.l1_loss(predicted, target)


def _at(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """values[t] as float32 (or the type of x), shaped to multiply x."""
    picked = values.to(like.dtype).to(t.device)[t]
    return picked.view(-1, *[1] * (like.ndim - 1))
