# SPDX-License-Identifier: GPL-3.0-or-later
"""The one training loop: optimiser, schedule, checkpoints by time, exact resume, CSV log, validation.

A stage gives a model and two functions; everything that decides the run is in ``LoopConfig``, the model
and one ``torch.Generator``, all of which a checkpoint holds.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn as nn
from safetensors.torch import load_file, save_file
from torch import Tensor

from hero_core.errors import HeroError

C = TypeVar("C")


@dataclass(frozen=True)
class LoopConfig:
    """How a run goes. ``milestones`` as the official program has them, or ``cosine`` decay to zero."""

    iterations: int = 10_000
    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 2000
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    cosine: bool = False
    clip_grad: float = 0.0  # 0 = off
    seed: int = 0
    bf16: bool = False  # autocast
    device: str = "cpu"
    threads: int = 0  # 0 = torch's choice
    log_every: int = 50
    validate_every: int = 500
    patience: int = 0  # validations without a better result before the run stops; 0 = never
    save_minutes: float = 3.0


def read_config(path: str | os.PathLike[str], kinds: dict[str, type[Any]]) -> dict[str, Any]:
    """JSON file whose sections are the given dataclasses; unknown sections and entries are errors."""
    try:
        text = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as err:
        raise HeroError(f"The config file '{path}' cannot be read: {err.strerror or err}.") from err
    except json.JSONDecodeError as err:
        raise HeroError(f"The config file '{path}' is not valid JSON ({err}).") from err
    unknown = sorted(set(text) - set(kinds))
    if unknown:
        raise HeroError(f"'{path}' has unknown sections {', '.join(unknown)}; known are {', '.join(kinds)}.")
    out: dict[str, Any] = {}
    for name, kind in kinds.items():
        values = text.get(name, {})
        known = {f.name for f in dataclasses.fields(kind)}
        wrong = sorted(set(values) - known)
        if wrong:
            raise HeroError(f"Section '{name}' of '{path}' has unknown entries {', '.join(wrong)}.")
        out[name] = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    return out


def learning_rate(cfg: LoopConfig, step: int) -> float:
    """Linear warm-up, then constant, stepped down at milestones, or cosine."""
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / (cfg.warmup + 1)
    if cfg.cosine:
        done = (step - cfg.warmup) / max(1, cfg.iterations - cfg.warmup)
        return cfg.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return float(cfg.lr * cfg.gamma ** sum(step >= m for m in cfg.milestones))


def run(
    model: nn.Module,
    loss_fn: Callable[[torch.Generator], tuple[Tensor, dict[str, float]]],
    validate: Callable[[], dict[str, float]],
    cfg: LoopConfig,
    out: str | os.PathLike[str],
    extra_state: Callable[[], dict[str, Tensor]] | None = None,
    load_extra_state: Callable[[dict[str, Tensor]], None] | None = None,
) -> Path:
    """Train ``model`` in place and return the file with the best weights (``best.safetensors``).

    ``loss_fn(generator)`` draws a batch and gives the loss and numbers to log; ``validate()`` gives
    numbers on the validation split, of which ``score`` (smaller is better) chooses the best weights.
    ``extra_state`` is what the state_dict does not hold (EMA sums). An interrupted run goes on from
    ``latest.pt`` in ``out`` bit for bit.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise HeroError(f"The output folder '{folder}' cannot be made: {err.strerror or err}.") from err
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay)
    generator = torch.Generator().manual_seed(cfg.seed)
    torch.manual_seed(cfg.seed)  # dropout
    step, best, since_best, spent = 0, math.inf, 0, 0.0
    latest = folder / "latest.pt"
    if latest.exists():
        state = torch.load(latest, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        step, best, since_best, spent = state["step"], state["best"], state["since_best"], state["spent"]
        if load_extra_state is not None:
            load_extra_state(state["extra"])
        print(f"going on from step {step} of {cfg.iterations}", flush=True)

    def save() -> None:
        part = latest.with_suffix(".part")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "generator": generator.get_state(),
                "torch_rng": torch.get_rng_state(),
                "extra": extra_state() if extra_state is not None else {},
                "step": step,
                "best": best,
                "since_best": since_best,
                "spent": spent + time.monotonic() - started,
            },
            part,
        )
        os.replace(part, latest)

    started = saved = time.monotonic()
    first, sums, count = step, dict[str, float](), 0
    while step < cfg.iterations and not (cfg.patience and since_best >= cfg.patience):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(cfg, step)
        with torch.autocast(cfg.device.split(":")[0], torch.bfloat16, enabled=cfg.bf16):
            loss, numbers = loss_fn(generator)
        if not math.isfinite(float(loss.detach())):
            raise HeroError(f"The loss is not finite at step {step}; lower lr in the config and start again.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if cfg.clip_grad:
            nn.utils.clip_grad_norm_(model.parameters(), cfg.clip_grad)
        optimizer.step()
        step += 1
        for key, value in {"loss": float(loss.detach()), **numbers}.items():
            sums[key] = sums.get(key, 0.0) + value
        count += 1
        if step % cfg.log_every == 0 or step == cfg.iterations:
            speed = (step - first) / (time.monotonic() - started)
            row = {key: value / count for key, value in sums.items()}
            eta = (cfg.iterations - step) / speed
            shown = "  ".join(f"{key} {value:.4f}" for key, value in row.items())
            print(f"{step}/{cfg.iterations}  {shown}  {speed:.2f} it/s  {eta / 60:.1f} min left", flush=True)
            _log(folder / "train.csv", {"step": step, "lr": optimizer.param_groups[0]["lr"], **row})
            sums, count = {}, 0
        if step % cfg.validate_every == 0 or step == cfg.iterations:
            model.eval()
            with torch.no_grad():
                result = validate()
            _log(folder / "validation.csv", {"step": step, **result})
            print(f"  validation  {'  '.join(f'{k} {v:.4f}' for k, v in result.items())}", flush=True)
            since_best += 1
            if result["score"] < best:
                best, since_best = result["score"], 0
                save_weights(model.state_dict(), folder / "best.safetensors")
        if time.monotonic() - saved > cfg.save_minutes * 60:
            save()
            saved = time.monotonic()
    save()
    return folder / "best.safetensors"


def _log(path: Path, row: dict[str, float]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow({key: f"{value:.6g}" for key, value in row.items()})


def save_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all."""
    part = path.with_suffix(".part")
    save_file({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, part)
    os.replace(part, path)


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a safetensors file."""
    if not Path(path).is_file():
        raise HeroError(f"There is no weights file '{path}'; train that stage first.")
    return load_file(path)


def arguments(argv: list[str], usage: str) -> dict[str, str]:
    """``--key value`` pairs behind the stage's name."""
    rest = argv[1:]
    if "-h" in rest or "--help" in rest:
        print(usage)
        sys.exit(0)
    if len(rest) % 2 or any(not key.startswith("--") for key in rest[::2]):
        raise HeroError(f"The arguments are not understood; usage: {usage}")
    return {key[2:]: value for key, value in zip(rest[::2], rest[1::2], strict=True)}
