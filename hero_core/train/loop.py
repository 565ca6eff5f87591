# SPDX-License-Identifier: GPL-3.0-or-later
"""The one training loop: optimiser, schedule, checkpoints by time, exact resume, logs, validation, early stop.

A stage gives a model and two functions; everything that decides the run is in ``LoopConfig``, the model
and one ``torch.Generator``, all of which a checkpoint holds. Several processes may share a run (``parallel``).
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
import os
import platform
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import hero_core
from hero_core.checkpoint import misfits
from hero_core.errors import HeroError
from hero_core.train import parallel


class Stopped(Exception):
    """The user or the system ended a run, whose checkpoint is written; says how to go on."""


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
    device: str = "cpu"  # cpu, cuda, cuda:1, mps, or auto: a GPU where there is one
    threads: int = 0  # 0 = torch's choice
    log_every: int = 50
    validate_every: int = 500
    patience: int = 0  # validations without a better result before the run stops; 0 = never
    save_minutes: float = 3.0
    tensorboard: bool = False  # beside the CSV files, which are always written


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
        if isinstance(out[name], LoopConfig):
            out[name] = dataclasses.replace(out[name], device=parallel.device(out[name].device))
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
    on_best: Callable[[], None] | None = None,
) -> Path:
    """Train ``model`` in place and return the file with the best weights (``best.safetensors``).

    ``loss_fn(generator)`` draws a batch and gives the loss and numbers to log; ``validate()`` gives
    numbers on the validation split, of which ``score`` (smaller is better) chooses the best weights.
    ``extra_state`` is what the state_dict does not hold (EMA sums); ``on_best`` is called when better weights
    were written. An interrupted run goes on from ``latest.pt`` in ``out`` bit for bit.

    Of several processes each has ``loss_fn`` give such a part that the mean of all is the loss of the batch;
    the first alone validates and writes.

    Raises:
        HeroError: the folder or its checkpoint cannot be used, or the loss is not finite.
        Stopped: Ctrl-C or SIGTERM came; the checkpoint is written.
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
    torch.manual_seed(cfg.seed + parallel.rank())  # dropout, which differs between processes
    step, best, since_best, spent = 0, math.inf, 0, 0.0
    sums, count = dict[str, float](), 0
    latest = folder / "latest.pt"
    if latest.exists():
        state = _read_checkpoint(latest)
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            if load_extra_state is not None:
                load_extra_state(state["extra"])
        except (RuntimeError, ValueError, KeyError) as err:
            raise HeroError(
                f"'{latest}' is of a run with another model; give another --out, or delete that file to start again."
            ) from err
        generator.set_state(state["generator"])
        _set_random(state, cfg.device)
        step, best, since_best, spent = state["step"], state["best"], state["since_best"], state["spent"]
        sums, count = state.get("sums", sums), state.get("count", count)
        parallel.say(f"going on from step {step} of {cfg.iterations}")
    parallel.same_everywhere(model.parameters())
    logs = _Logs(folder, step, cfg.tensorboard) if parallel.rank() == 0 else None
    started = saved = time.monotonic()

    def save() -> None:
        random = parallel.of_each(torch.get_rng_state())
        on_device = [] if _cuda(cfg.device) is None else parallel.of_each(torch.cuda.get_rng_state(cfg.device))
        if parallel.rank():
            return
        part = latest.with_suffix(".part")
        content = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
            "torch_rng": random[0],
            "rng_of_processes": random,
            "device_rng_of_processes": on_device,
            "extra": extra_state() if extra_state is not None else {},
            "step": step,
            "best": best,
            "since_best": since_best,
            "spent": spent + time.monotonic() - started,
            "sums": sums,
            "count": count,
        }
        try:
            torch.save(content, part)
            os.replace(part, latest)
        except (OSError, RuntimeError) as err:  # torch's writer raises RuntimeError where the disk is full
            part.unlink(missing_ok=True)
            raise HeroError(
                f"'{latest}' cannot be written: {err}; make room and start the same command again."
            ) from err

    # Speed is that of the last 20 log lines of this sitting, validations and checkpoints included.
    times = deque([(step, started)], maxlen=20)
    with _interruptions() as stop:
        while step < cfg.iterations and not (cfg.patience and since_best >= cfg.patience):
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(cfg, step)
            with torch.autocast(cfg.device.split(":")[0], torch.bfloat16, enabled=cfg.bf16):
                loss, numbers = loss_fn(generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            # Whoever wants to save or to stop says so with the gradients: all do it after the same step.
            wants_save = parallel.rank() == 0 and time.monotonic() - saved > cfg.save_minutes * 60
            total, save_now, stop_now = parallel.average_gradients(model, float(loss.detach()), wants_save, stop[0])
            total /= parallel.size()
            if not math.isfinite(total):
                raise HeroError(f"The loss is not finite at step {step}; lower lr in the config and start again.")
            if cfg.clip_grad:
                nn.utils.clip_grad_norm_(model.parameters(), cfg.clip_grad)
            optimizer.step()
            step += 1
            for key, value in {"loss": total, **numbers}.items():
                sums[key] = sums.get(key, 0.0) + value
            count += 1
            if step % cfg.log_every == 0 or step == cfg.iterations:
                row = parallel.mean({key: value / count for key, value in sums.items()})
                before, then = times[0]
                times.append((step, time.monotonic()))
                speed = (step - before) / max(1e-9, times[-1][1] - then)
                shown = "  ".join(f"{key} {value:.4f}" for key, value in row.items())
                eta = duration((cfg.iterations - step) / speed)
                parallel.say(f"{step}/{cfg.iterations}  {shown}  {speed:.2f} it/s  {eta} left")
                if logs is not None:
                    logs.write("train", {"step": step, "lr": optimizer.param_groups[0]["lr"], **row})
                sums, count = {}, 0
            if step % cfg.validate_every == 0 or step == cfg.iterations:
                model.eval()
                score = math.inf
                if logs is not None:
                    with torch.no_grad():
                        result = validate()
                    score = result["score"]
                    logs.write("validation", {"step": step, **result})
                    parallel.say(f"  validation  {'  '.join(f'{k} {v:.4f}' for k, v in result.items())}")
                score = parallel.from_first(score)
                since_best += 1
                if score < best:
                    best, since_best = score, 0
                    if logs is not None:
                        save_weights(model.state_dict(), folder / "best.safetensors")
                        if on_best is not None:
                            on_best()
            if save_now or stop_now:
                save()
                saved = time.monotonic()
            if stop_now and step < cfg.iterations:
                raise Stopped(
                    f"Stopped at step {step} of {cfg.iterations}; the checkpoint is written, "
                    "start the same command again to go on."
                )
    save()
    if step < cfg.iterations:
        parallel.say(f"no better validation for {since_best} times: stopped early at step {step}")
    record(folder, {"result": {"steps": step, "best_score": best, "seconds": spent + time.monotonic() - started}})
    if logs is not None:
        logs.close()
        if not (folder / "best.safetensors").exists():
            raise HeroError(f"'{folder}' has no best.safetensors: its validation never gave a number; start it anew.")
    return folder / "best.safetensors"


def duration(seconds: float) -> str:
    """30 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _cuda(device: str) -> torch.device | None:
    return torch.device(device) if device.startswith("cuda") else None


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as err:  # torch raises many kinds for damaged files
        raise HeroError(f"The checkpoint '{path}' cannot be read; delete it to start the run again.") from err


def _set_random(state: dict[str, Any], device: str) -> None:
    """torch's random state of this process; one that was not part of the run before starts from its seed."""
    mine = parallel.rank()
    random = state.get("rng_of_processes", [state["torch_rng"]])
    if mine < len(random):
        torch.set_rng_state(random[mine])
    if len(random) != parallel.size():
        parallel.say(f"the run had {len(random)} processes and has {parallel.size()} now: dropout will differ")
    on_device = state.get("device_rng_of_processes", [])
    if _cuda(device) is not None and mine < len(on_device):
        torch.cuda.set_rng_state(on_device[mine], device)


@contextmanager
def _interruptions() -> Iterator[list[bool]]:
    """[True] once Ctrl-C or SIGTERM came; the second one ends the program at once."""
    asked = [False]

    def note(*_: object) -> None:
        if asked[0]:
            if parallel.size() > 1:  # the terminal and torchrun both tell each process; torchrun ends who lingers
                return
            raise KeyboardInterrupt
        asked[0] = True
        # print() may be what the signal interrupted.
        os.write(2, b"Stopping after this step, to write a checkpoint; once more stops at once.\n")

    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield asked
        return
    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class _Logs:
    """train.csv and validation.csv, and TensorBoard's file where wanted; rows past the checkpoint are dropped."""

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        self.folder = folder
        self.columns: dict[str, list[str]] = {}
        for name in ("train", "validation"):
            rows = [row for row in self.read(name) if float(row["step"]) <= step]
            if rows:
                self.rewrite(name, list(rows[0]), rows)
            else:
                self.path(name).unlink(missing_ok=True)
        self.board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as err:
                raise HeroError(
                    "The Python package 'tensorboard' is not installed; install it or set loop.tensorboard to false."
                ) from err
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def read(self, name: str) -> list[dict[str, str]]:
        if not self.path(name).exists():
            return []
        with self.path(name).open(newline="", encoding="utf-8") as file:
            # A line that was cut off when the machine went down is no row.
            return [row for row in csv.DictReader(file, restval="") if row.get("step") and None not in row]

    def rewrite(self, name: str, columns: list[str], rows: list[dict[str, str]]) -> None:
        part = self.path(name).with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(part, self.path(name))
        self.columns[name] = columns

    def write(self, name: str, row: dict[str, float]) -> None:
        columns = self.columns.get(name, [])
        if not set(row) <= set(columns):  # the first row, or a number that the config switched on since
            self.rewrite(name, [*columns, *(key for key in row if key not in columns)], self.read(name))
        with self.path(name).open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns[name], restval="").writerow({k: f"{v:.6g}" for k, v in row.items()})
        if self.board is not None:
            for key, value in row.items():
                if key != "step":
                    self.board.add_scalar(f"{name}/{key}", value, int(row["step"]))
            self.board.flush()

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def describe(stage: str, config: dict[str, Any], files: dict[str, Path], **more: Any) -> dict[str, Any]:
    """What made a run, for its run.json: every setting with its default, files by name and content, versions."""
    used: dict[str, Any] = {}
    for name, path in files.items():
        with path.open("rb") as file:
            used[name] = {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    loop_cfg: LoopConfig = config["loop"]
    on = _cuda(loop_cfg.device)
    return {
        "stage": stage,
        "config": {name: dataclasses.asdict(section) for name, section in config.items()},
        "files": used,
        "processes": parallel.size(),
        "device": platform.machine() if on is None else torch.cuda.get_device_name(on),
        "versions": {
            "hero_core": hero_core.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **more,
    }


def warn_of_selection() -> None:
    """Said, and recorded in run.json, where weights are chosen by the test list."""
    if parallel.rank() == 0:
        print(
            "warning: select_on_test chooses the weights by the test list, as the official program does; "
            "numbers on that list are then no measure of new clips.",
            file=sys.stderr,
            flush=True,
        )


def record(out: Path, entries: dict[str, Any]) -> None:
    """Add entries to run.json in the run's folder."""
    if parallel.rank():
        return
    path = out / "run.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**known, **entries}, indent=1), encoding="utf-8")
        os.replace(part, path)
    except (OSError, json.JSONDecodeError) as err:
        raise HeroError(f"'{path}' cannot be written or read ({err}); give another --out.") from err


def save_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all."""
    part = path.with_suffix(".part")
    save_file({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, part)
    os.replace(part, path)


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a safetensors file."""
    if not Path(path).is_file():
        raise HeroError(f"There is no weights file '{path}'; train that stage first.")
    try:
        return load_file(path)
    except SafetensorError as err:
        raise HeroError(f"The weights file '{path}' is damaged ({err}); make it again.") from err


def start_from(model: nn.Module, path: str | os.PathLike[str], part: str) -> dict[str, Tensor]:
    """Fill a model from a weights file of its stage, or from its part in a whole model.safetensors.

    Returns the tensors of the file that are not the model's (mean and std of a tokenizer).

    Raises:
        HeroError: tensors are missing, of other shapes, or no finite numbers.
    """
    found = load_weights(path)
    if any(key.startswith(f"{part}.") for key in found):
        loose = {key: value for key, value in found.items() if "." not in key}
        found = {k.removeprefix(f"{part}."): v for k, v in found.items() if k.startswith(f"{part}.")} | loose
    wanted = model.state_dict()
    state = {key: value.float() if value.is_floating_point() else value for key, value in found.items()}
    problems = misfits(wanted, {k: v for k, v in state.items() if k in wanted})
    if problems:
        raise HeroError(f"'{path}' does not fit the model of the config: {'; '.join(problems[:5])}.")
    model.load_state_dict({k: v for k, v in state.items() if k in wanted}, strict=False)
    return {k: v for k, v in state.items() if k not in wanted}


def arguments(argv: list[str], usage: str) -> dict[str, str]:
    """``--key value`` pairs behind the stage's name."""
    rest = argv[1:]
    if "-h" in rest or "--help" in rest:
        print(usage)
        sys.exit(0)
    if len(rest) % 2 or any(not key.startswith("--") for key in rest[::2]):
        raise HeroError(f"The arguments are not understood; usage: {usage}")
    return {key[2:]: value for key, value in zip(rest[::2], rest[1::2], strict=True)}
