# SPDX-License-Identifier: GPL-3.0-or-later
"""Motion tokenizer: a residual vector-quantised VAE (HERO section 3.2, MoMask's RVQ-VAE).

A convolutional encoder shortens 263-d features by 4 in time; each latent is written as the sum of Q
codes, one from each codebook, every layer coding what the layers before it left over. Parameter names
are those of the official checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .config import RVQConfig
from .errors import HeroError
from .humanml3d import RIC

_ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


def _norm(kind: str | None, width: int) -> nn.Module:
    if kind is None or kind == "None":
        return nn.Identity()
    if kind == "LN":
        return _ChannelLayerNorm(width)
    if kind == "GN":
        return nn.GroupNorm(32, width, eps=1e-6)
    if kind == "BN":
        return nn.BatchNorm1d(width, eps=1e-6)
    raise HeroError(f"The tokenizer's norm '{kind}' is unknown; use None, LN, GN or BN.")


class _ChannelLayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:  # (B, C, N)
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ResBlock(nn.Module):
    """x + dropout(conv1x1(act(dilated conv3(act(x)))))."""

    def __init__(self, width: int, dilation: int, activation: str, norm: str | None, dropout: float) -> None:
        super().__init__()
        self.norm1 = _norm(norm, width)
        self.norm2 = _norm(norm, width)
        self.activation = _ACTIVATIONS[activation]()
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.activation(self.norm1(x)))
        return x + self.dropout(self.conv2(self.activation(self.norm2(h))))


class ResNet1D(nn.Module):
    """Residual blocks, the widest dilation first (9, 3, 1)."""

    def __init__(self, cfg: RVQConfig) -> None:
        super().__init__()
        dilations = [cfg.dilation_growth_rate**i for i in reversed(range(cfg.depth))]
        self.model = nn.Sequential(*(ResBlock(cfg.width, d, cfg.activation, cfg.norm, cfg.dropout) for d in dilations))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class Encoder(nn.Module):
    """(B, 263, N) -> (B, code_dim, N / 4)."""

    def __init__(self, cfg: RVQConfig) -> None:
        super().__init__()
        w, s = cfg.width, cfg.stride_t
        self.model = nn.Sequential(
            nn.Conv1d(cfg.input_width, w, 3, padding=1),
            nn.ReLU(),
            *(
                nn.Sequential(nn.Conv1d(w, w, 2 * s, stride=s, padding=s // 2), ResNet1D(cfg))
                for _ in range(cfg.down_t)
            ),
            nn.Conv1d(w, cfg.code_dim, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class Decoder(nn.Module):
    """(B, code_dim, n) -> (B, 263, 4 n)."""

    def __init__(self, cfg: RVQConfig) -> None:
        super().__init__()
        w = cfg.width
        self.model = nn.Sequential(
            nn.Conv1d(cfg.code_dim, w, 3, padding=1),
            nn.ReLU(),
            *(
                nn.Sequential(
                    ResNet1D(cfg),
                    nn.Upsample(scale_factor=cfg.stride_t, mode="nearest"),
                    nn.Conv1d(w, w, 3, padding=1),
                )
                for _ in range(cfg.down_t)
            ),
            nn.Conv1d(w, w, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(w, cfg.input_width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class Codebook(nn.Module):
    """One layer of the quantiser; learned by exponential moving averages, with dead codes replaced.

    ``code_sum`` and ``code_count`` are the averages. The official checkpoints lack them; without them
    (count 0) the first training batch would rewrite the codebook, so ``warm_start`` builds them.
    """

    codebook: Tensor
    code_sum: Tensor
    code_count: Tensor

    def __init__(self, nb_code: int, code_dim: int, mu: float) -> None:
        super().__init__()
        self.mu = mu
        self.register_buffer("codebook", torch.zeros(nb_code, code_dim))
        self.register_buffer("code_sum", torch.zeros(nb_code, code_dim), persistent=False)
        self.register_buffer("code_count", torch.zeros(nb_code), persistent=False)

    def ema_state(self) -> dict[str, Tensor]:
        return {"code_sum": self.code_sum, "code_count": self.code_count}

    def warm_start(self, count: float = 10.0) -> None:
        """Pretend that every code was seen ``count`` times, to fine-tune weights that lack EMA state."""
        self.code_count.fill_(count)
        self.code_sum.copy_(self.codebook * count)

    @torch.no_grad()
    def init_from(self, rows: Tensor) -> None:
        """Codes = first rows of the batch, (M, D)."""
        self.codebook.copy_(self._tile(rows))
        self.code_sum.copy_(self.codebook)
        self.code_count.fill_(1.0)

    def _tile(self, rows: Tensor) -> Tensor:
        nb_code, dim = self.codebook.shape
        if len(rows) < nb_code:
            rows = rows.repeat(-(-nb_code // len(rows)), 1)
            rows = rows + torch.randn_like(rows) * (0.01 / dim**0.5)
        return rows[:nb_code]

    def distances(self, rows: Tensor) -> Tensor:
        """Squared distances (M, K) of rows (M, D) to the codes."""
        c = self.codebook
        return rows.square().sum(-1, keepdim=True) - 2 * rows @ c.T + c.square().sum(-1)

    @torch.no_grad()
    def update(self, rows: Tensor, index: Tensor) -> None:
        """One EMA step with the rows (M, D) and their codes (M,); codes seen less than once are reset."""
        nb_code = len(self.codebook)
        batch_sum = torch.zeros_like(self.code_sum).index_add_(0, index, rows)
        batch_count = torch.bincount(index, minlength=nb_code).to(rows)
        self.code_sum.mul_(self.mu).add_(batch_sum, alpha=1 - self.mu)
        self.code_count.mul_(self.mu).add_(batch_count, alpha=1 - self.mu)
        alive = self.code_count[:, None] >= 1.0
        mean = self.code_sum / self.code_count.clamp_min(1e-12)[:, None]
        self.codebook.copy_(torch.where(alive, mean, self._tile(rows)))


class ResidualVQ(nn.Module):
    """Q codebooks in a row; each codes the residual of those before it."""

    def __init__(self, cfg: RVQConfig) -> None:
        super().__init__()
        self.cfg = cfg
        layers = [Codebook(cfg.nb_code, cfg.code_dim, cfg.mu) for _ in range(cfg.num_quantizers)]
        if cfg.shared_codebook:
            layers = layers[:1] * cfg.num_quantizers
        self.layers = nn.ModuleList(layers)

    def books(self) -> list[Codebook]:
        return [layer for layer in self.layers if isinstance(layer, Codebook)]

    def encode(self, z: Tensor) -> Tensor:
        """(B, D, n) latents -> (B, n, Q) indices of the nearest codes."""
        residual = z.transpose(1, 2).flatten(0, 1).float()  # (B * n, D)
        out = []
        for book in self.books():
            index = book.distances(residual).argmin(-1)
            residual = residual - book.codebook[index]
            out.append(index)
        return torch.stack(out, -1).unflatten(0, (z.shape[0], z.shape[2]))

    def decode(self, ids: Tensor) -> Tensor:
        """(B, n, q <= Q) indices, -1 = no code, -> (B, D, n) summed codes."""
        total: Tensor | None = None
        for layer, book in zip(ids.unbind(-1), self.books(), strict=False):
            # A row of zeros behind the codes is what -1 picks.
            codes = F.embedding(layer % (len(book.codebook) + 1), F.pad(book.codebook, (0, 0, 0, 1)))
            total = codes if total is None else total + codes
        assert total is not None
        return total.transpose(1, 2)

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training pass on latents (B, D, n).

        Returns the quantised latents with straight-through gradient (B, D, n), indices (B, n, Q) with -1
        for dropped layers, the commitment loss and the perplexity, averaged over the layers used.
        In training mode codes are drawn with Gumbel noise, upper layers dropped at random, and the
        codebooks updated.
        """
        cfg = self.cfg
        shape = (z.shape[0], z.shape[2])
        rows = z.transpose(1, 2).flatten(0, 1).float()  # (B * n, D)
        books = self.books()
        last = len(books) - 1
        if self.training and float(torch.rand((), generator=generator)) < cfg.quantize_dropout_prob:
            last = int(torch.randint(0, len(books), (), generator=generator))
        residual, total = rows, torch.zeros_like(rows)
        indices, commits, perplexities = [], [], []
        for q, book in enumerate(books):
            if q > last:
                indices.append(torch.full((len(rows),), -1, device=z.device))
                continue
            with torch.no_grad():
                if self.training and float(book.code_count.max()) == 0.0:
                    book.init_from(residual)
                score = -book.distances(residual)
                if self.training and cfg.sample_codebook_temp > 0:
                    noise = torch.rand(score.shape, generator=generator).to(score)
                    score = score / cfg.sample_codebook_temp - (-noise.clamp_min(1e-20).log()).clamp_min(1e-20).log()
                index = score.argmax(-1)
                code = book.codebook[index]
                if self.training:
                    book.update(residual.detach(), index)
                share = torch.bincount(index, minlength=cfg.nb_code).float() / len(index)
                perplexities.append(torch.exp(-(share * (share + 1e-7).log()).sum()))
            commits.append(F.mse_loss(residual, code))
            total = total + residual + (code - residual).detach()
            residual = residual - code
            indices.append(index)
        ids = torch.stack(indices, -1).unflatten(0, shape)
        quantized = total.unflatten(0, shape).transpose(1, 2)
        return quantized, ids, torch.stack(commits).mean(), torch.stack(perplexities).mean()


class RVQVAE(nn.Module):
    """Features in, tokens out, and back. Features are normalised by the caller (Mean, Std)."""

    def __init__(self, cfg: RVQConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)
        self.quantizer = ResidualVQ(cfg)

    def encode_tokens(self, features: Tensor) -> Tensor:
        """(B, N, 263) normalised features, N a multiple of 4, -> (B, N / 4, Q) token ids."""
        return self.quantizer.encode(self.encoder(features.transpose(1, 2)))

    def decode_tokens(self, ids: Tensor) -> Tensor:
        """(B, n, q <= Q) ids, -1 = nothing, -> (B, 4 n, 263) normalised features."""
        dtype = next(self.decoder.parameters()).dtype
        out: Tensor = self.decoder(self.quantizer.decode(ids).to(dtype))
        return out.transpose(1, 2)

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 263) -> reconstruction (B, N, 263), commitment loss, perplexity."""
        quantized, _, commit, perplexity = self.quantizer(self.encoder(features.transpose(1, 2)), generator)
        out: Tensor = self.decoder(quantized)
        return out.transpose(1, 2), commit, perplexity


def rvq_loss(reconstruction: Tensor, features: Tensor, commit: Tensor) -> Tensor:
    """Equation 1 as the official program has it: SmoothL1 on all, half of it again on positions, 0.02 commit."""
    loss = F.smooth_l1_loss(reconstruction, features)
    positions = F.smooth_l1_loss(reconstruction[..., RIC], features[..., RIC])
    return loss + 0.5 * positions + 0.02 * commit
