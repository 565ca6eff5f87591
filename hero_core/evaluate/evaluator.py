# SPDX-License-Identifier: GPL-3.0-or-later
"""The feature extractor of Guo et al. 2022 in which FID is measured: movement encoder, then motion encoder.

Architecture and parameter names are those of the official release, so that its ``finest.tar`` loads; our own, trained
by ``python -m hero_core.train evaluator``, is a folder with evaluator.safetensors and evaluator.json. Numbers of two
extractors mean nothing beside each other: each has an ``identity`` that every table carries.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from hero_core.checkpoint import load_pickle
from hero_core.errors import HeroError
from hero_core.humanml3d import DIM

UNIT = 4  # frames of a movement
OFFICIAL_FRAMES = 200  # the official programs pad every motion to this
WEIGHTS, CONFIG = "evaluator.safetensors", "evaluator.json"
Order = Literal["input", "longest first"]


@dataclass(frozen=True)
class EvaluatorConfig:
    """Sizes; the defaults are those of the official release."""

    input_width: int = 259  # 263 without the contacts
    movement_hidden: int = 512
    movement_latent: int = 512
    motion_hidden: int = 1024
    out: int = 512
    dropout: float = 0.2  # of the movement encoder, in training


class MovementEncoder(nn.Module):
    """(B, N, 259) -> (B, N / 4, latent)."""

    def __init__(self, cfg: EvaluatorConfig) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv1d(cfg.input_width, cfg.movement_hidden, 4, 2, 1),
            nn.Dropout(cfg.dropout),
            nn.LeakyReLU(0.2),
            nn.Conv1d(cfg.movement_hidden, cfg.movement_latent, 4, 2, 1),
            nn.Dropout(cfg.dropout),
            nn.LeakyReLU(0.2),
        )
        self.out_net = nn.Linear(cfg.movement_latent, cfg.movement_latent)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out_net(self.main(x.transpose(1, 2)).transpose(1, 2))
        return out


class MotionEncoder(nn.Module):
    """(B, n, latent) and lengths (B,) in movements -> (B, out): both ends of a GRU that reads both ways."""

    def __init__(self, cfg: EvaluatorConfig) -> None:
        super().__init__()
        width = cfg.motion_hidden
        self.input_emb = nn.Linear(cfg.movement_latent, width)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.output_net = nn.Sequential(
            nn.Linear(2 * width, width), nn.LayerNorm(width), nn.LeakyReLU(0.2), nn.Linear(width, cfg.out)
        )
        self.hidden = nn.Parameter(torch.randn(2, 1, width))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.input_emb(x), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        start = self.hidden.expand(-1, len(x), -1).contiguous()
        _, last = self.gru(packed, start)  # (2, B, width)
        out: Tensor = self.output_net(torch.cat((last[0], last[1]), -1))
        return out


class Evaluator(nn.Module):
    """Normalised features to embeddings."""

    def __init__(self, cfg: EvaluatorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.movement_encoder = MovementEncoder(cfg)
        self.motion_encoder = MotionEncoder(cfg)

    def forward(self, motions: Tensor, lengths: Tensor, order: Order = "input") -> Tensor:
        """(B, N, 263) normalised features and lengths (B,) in frames -> (B, out).

        ``order`` "longest first" gives the rows as the official wrapper leaves them: sorted by falling length.
        """
        if int(lengths.min()) < UNIT:
            raise HeroError(f"A motion of {int(lengths.min())} frames cannot be evaluated; {UNIT} or more are needed.")
        movements = self.movement_encoder(motions[..., : self.cfg.input_width])
        embeddings: Tensor = self.motion_encoder(movements, lengths // UNIT)
        if order == "longest first":
            # The reverse of a rising sort, as there: of equal lengths the later comes first.
            falling = np.argsort(lengths.cpu().numpy())[::-1].copy()
            embeddings = embeddings[torch.from_numpy(falling).to(embeddings.device)]
        return embeddings


def pad(rows: Sequence[Tensor], frames: int | None = None) -> Tensor:
    """Normalised features of several lengths -> (B, N, 263), zero behind each.

    The second convolution sees up to three frames behind the end. So that a motion's embedding does not hang on what
    it is batched with, there are always at least four: N is the longest + 4, or ``frames`` where that is more.
    """
    longest = max(len(row) for row in rows)
    n = longest + UNIT if frames is None else max(frames, longest)
    out = rows[0].new_zeros(len(rows), n - n % UNIT, rows[0].shape[-1])
    for i, row in enumerate(rows):
        out[i, : min(len(row), out.shape[1])] = row[: out.shape[1]]
    return out


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """12 hexadecimal digits that tell two sets of weights apart."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach().cpu()
        value = value.float() if value.is_floating_point() else value.long()
        digest.update(f"{key} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@dataclass
class FeatureExtractor:
    """An evaluator that is ready to measure: its weights, the statistics that it reads features with, its names."""

    model: Evaluator
    mean: Tensor  # (263,)
    std: Tensor
    name: str
    official: bool = False  # official programs pad to 200 frames, and embed what the decoder made behind the end
    heads: nn.ModuleDict | None = None  # "reaction" and "stimulus" classifiers on the embedding
    reactions: tuple[str, ...] = ()
    stimuli: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        if self.heads is not None:
            self.heads.eval().requires_grad_(False)
        self.fingerprint = fingerprint({**self.model.state_dict(), "mean": self.mean, "std": self.std})

    @property
    def identity(self) -> str:
        """Name and fingerprint, for tables."""
        return f"{self.name} ({self.fingerprint})"

    @torch.inference_mode()
    def embed(self, rows: Sequence[Tensor], lengths: Sequence[int] | None = None, batch: int = 64) -> Tensor:
        """De-normalised features, (N_i, 263) each, -> (M, out) in the order of the input.

        ``lengths`` in frames, default all of each row, down to a multiple of 4. Frames of a row behind its length are
        padding that the last movement sees a little of; leave them away unless the official behaviour is wanted.
        """
        sizes = [len(row) for row in rows] if lengths is None else list(lengths)
        out = []
        for i in range(0, len(rows), batch):
            part = [(row.float() - self.mean) / self.std for row in rows[i : i + batch]]
            if lengths is None:
                part = [row[: len(row) // UNIT * UNIT] for row in part]
            motions = pad(part, OFFICIAL_FRAMES if self.official else None)
            out.append(self.model(motions, torch.tensor(sizes[i : i + batch])))
        return torch.cat(out)

    @torch.inference_mode()
    def classify(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(M, out) -> kinds of reaction (M,) and classes of video (M,) that the heads say."""
        if self.heads is None:
            raise HeroError(
                f"The evaluator '{self.name}' has no classifier; train one with 'python -m hero_core.train evaluator' "
                "and give it as --classifier."
            )
        return self.heads["reaction"](embeddings).argmax(-1), self.heads["stimulus"](embeddings).argmax(-1)


def load(path: str | os.PathLike[str], statistics: str | os.PathLike[str] | None = None) -> FeatureExtractor:
    """A folder made by the training stage, or the official ``finest.tar``.

    Args:
        path: folder with evaluator.safetensors and evaluator.json; or finest.tar, or the folder that holds it.
        statistics: folder with mean.npy and std.npy for the official file. Default: as the HERO release does, those of
            its tokenizer (rvq*/meta in the data set's folder), else of Comp_v6_KLD005/meta.

    Raises:
        HeroError: files are missing, damaged, unsafe or do not fit.
    """
    source = Path(path)
    if (source / WEIGHTS).is_file() or (source / CONFIG).is_file():
        return _load_own(source)
    for file in (source, source / "finest.tar", source / "model" / "finest.tar"):
        if file.is_file():
            return _load_official(file, None if statistics is None else Path(statistics))
    raise HeroError(f"'{path}' is no evaluator; give a folder with {WEIGHTS}, or the official finest.tar.")


def _load_own(folder: Path) -> FeatureExtractor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        info: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS)
        cfg = EvaluatorConfig(**info["model"])
        reactions, stimuli = tuple(info["reactions"]), tuple(info["stimuli"])
        mean, std = state.pop("mean"), state.pop("std")
    except (OSError, SafetensorError, json.JSONDecodeError, KeyError, TypeError) as err:
        raise HeroError(f"The evaluator in '{folder}' is incomplete or damaged ({err}); train it again.") from err
    heads = nn.ModuleDict(
        {"reaction": nn.Linear(cfg.out, len(reactions)), "stimulus": nn.Linear(cfg.out, len(stimuli))}
    )
    model = Evaluator(cfg)
    _fill(model, {k: v for k, v in state.items() if not k.startswith("heads.")}, folder)
    _fill(heads, {k.removeprefix("heads."): v for k, v in state.items() if k.startswith("heads.")}, folder)
    return FeatureExtractor(model, mean, std, str(info.get("name", folder.name)), False, heads, reactions, stimuli)


def _load_official(file: Path, statistics: Path | None) -> FeatureExtractor:
    content = load_pickle(file)
    parts = [content.get(key) for key in ("movement_encoder", "motion_encoder")]
    if not all(isinstance(part, dict) for part in parts):
        raise HeroError(f"'{file}' holds no movement_encoder and motion_encoder; it is no official evaluator.")
    state = {
        f"{name}.{key}": value
        for name, part in zip(("movement_encoder", "motion_encoder"), parts, strict=True)
        for key, value in part.items()  # type: ignore[union-attr]
    }
    try:
        cfg = EvaluatorConfig(
            input_width=state["movement_encoder.main.0.weight"].shape[1],
            movement_hidden=state["movement_encoder.main.0.weight"].shape[0],
            movement_latent=state["movement_encoder.out_net.weight"].shape[0],
            motion_hidden=state["motion_encoder.input_emb.weight"].shape[0],
            out=state["motion_encoder.output_net.3.weight"].shape[0],
        )
    except (KeyError, AttributeError, IndexError) as err:
        raise HeroError(f"'{file}' lacks {err}; it is no official evaluator.") from err
    model = Evaluator(cfg)
    _fill(model, state, file)
    folder = _find_statistics(file) if statistics is None else statistics
    try:
        mean, std = (
            torch.from_numpy(np.load(folder / f"{name}.npy", allow_pickle=False).astype(np.float32))
            for name in ("mean", "std")
        )
    except (OSError, ValueError) as err:
        raise HeroError(f"'{folder}' has no mean.npy and std.npy for the evaluator; give their folder.") from err
    if mean.shape != (DIM,) or std.shape != (DIM,) or not bool((std > 0).all()):
        raise HeroError(f"mean.npy and std.npy in '{folder}' must hold 263 numbers each, std above zero.")
    return FeatureExtractor(model, mean, std, f"official {file.name}, {folder.parent.name}", official=True)


def _find_statistics(file: Path) -> Path:
    parents = file.absolute().parents
    if len(parents) >= 3:
        # <data set>/text_mot_match/model/finest.tar
        tokenizers = [p for p in sorted(parents[2].glob("rvq*/meta")) if (p / "mean.npy").is_file()]
        if len(tokenizers) == 1:
            return tokenizers[0]
        if not tokenizers and (parents[2] / "Comp_v6_KLD005" / "meta" / "mean.npy").is_file():
            return parents[2] / "Comp_v6_KLD005" / "meta"
    raise HeroError(f"It is not clear which mean.npy and std.npy belong to '{file}'; give --statistics FOLDER.")


def _fill(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as err:
        raise HeroError(f"'{source}' does not fit the evaluator: {' '.join(str(err).split())}") from err
    if not all(bool(torch.isfinite(value).all()) for value in module.state_dict().values()):
        raise HeroError(f"'{source}' holds NaN or infinite values; train or download it again.")


def describe(cfg: EvaluatorConfig, name: str, reactions: Sequence[str], stimuli: Sequence[str]) -> dict[str, Any]:
    """What evaluator.json holds at least."""
    return {"name": name, "model": dataclasses.asdict(cfg), "reactions": list(reactions), "stimuli": list(stimuli)}
