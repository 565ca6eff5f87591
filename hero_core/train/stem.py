# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the video encoder's convolutional stem to see as a teacher does:

    python -m hero_core.train stem --config FILE --data FOLDER --teacher FILE --out FOLDER

The teacher is a network of the same layout in a safetensors file (``training.teachers`` writes it), and is needed
while training only. First every bottleneck learns alone, from the teacher's map before it to the one after it. Then
all of them learn as one network, each map towards the teacher's: on small parts of pictures, which is quick, and at
last on whole pictures, where the large maps at the front are left as they are. Data are frames, any number of
``*.npy`` files of uint8 (clips, frames, H, W, 3); every picture is also cropped, mirrored and recoloured, and the
teacher looks at the result.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hero_core.errors import HeroError
from hero_core.stem import ConvStem
from hero_core.train import loop

LARGE = 4  # stages whose map is 56 x 56 or larger
PHASES = ("apart", "parts", "whole")
USAGE = "python -m hero_core.train stem --config FILE --data FOLDER --teacher FILE --out FOLDER"


@dataclass(frozen=True)
class StemConfig:
    """How the stem learns. Shards whose name ends in a number that is 11 modulo ``validate_each`` only validate."""

    pictures: int = 16  # in a batch
    size: int = 224
    part: int = 128  # pixels of the parts
    validate_each: int = 12
    validation_pictures: int = 96


class Pictures:
    """Frames of all shards of some folders, read from disk as they are asked for."""

    def __init__(self, folders: list[Path], cfg: StemConfig) -> None:
        self.train: list[NDArray[Any]] = []
        self.val: list[NDArray[Any]] = []
        for path in sorted(p for folder in folders for p in folder.glob("*.npy") if ".part" not in p.name):
            digits = "".join(c for c in path.stem if c.isdigit()) or "0"
            held_out = int(digits) % cfg.validate_each == cfg.validate_each - 1
            (self.val if held_out else self.train).append(np.load(path, mmap_mode="r"))
        if not self.train or not self.val:
            raise HeroError(
                f"The stem needs frames to train on and to validate on: at least {cfg.validate_each} shards (*.npy)."
            )
        self.weights = torch.tensor([float(len(shard) * shard.shape[1]) for shard in self.train])

    def draw(self, cfg: StemConfig, size: int, generator: torch.Generator) -> Tensor:
        """A batch of altered pictures, (N, 3, size, size) in -1..1: parts of that size, or whole."""

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        out = []
        for shard in torch.multinomial(self.weights, cfg.pictures, True, generator=generator).tolist():
            frames = self.train[shard]
            clip = int(torch.randint(len(frames), (), generator=generator))
            frame = frames[clip, int(torch.randint(frames.shape[1], (), generator=generator))]
            x = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float()
            side = x.shape[-1]
            if size < cfg.size or uniform(0, 1) < 0.7:  # a part of the picture, most often seen larger
                crop = int(side * uniform(0.35, 1.0) ** 0.7 * size / cfg.size)
                top, left = (int(uniform(0, side - crop + 0.99)) for _ in range(2))
                x = x[..., top : top + crop, left : left + crop]
            if x.shape[-1] != size:
                x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
            if uniform(0, 1) < 0.5:
                x = x.flip(-1)
            gain = torch.tensor([uniform(0.85, 1.15) for _ in range(3)])[:, None, None] * uniform(0.6, 1.4)
            middle = x.mean((-1, -2), keepdim=True)
            x = ((x - middle) * uniform(0.6, 1.3) + middle) * gain
            out.append(x.clamp(0, 255))
        return torch.cat(out) / 127.5 - 1

    def fixed(self, cfg: StemConfig) -> Tensor:
        """Unaltered validation pictures, spread evenly: (N, 3, S, S)."""
        every = [(shard, i) for shard, frames in enumerate(self.val) for i in range(len(frames))]
        chosen = every[:: max(1, len(every) // cfg.validation_pictures)]
        x = torch.from_numpy(np.stack([self.val[shard][i, 0] for shard, i in chosen])).permute(0, 3, 1, 2).float()
        if x.shape[-1] != cfg.size:
            x = F.interpolate(x, (cfg.size, cfg.size), mode="bilinear", antialias=True)
        return x / 127.5 - 1


def map_error(said: Tensor, target: Tensor) -> Tensor:
    """Squared error of a map (N, C, H, W) as a share of each channel's variance, averaged; dead channels count less."""
    target = target.float()
    variance = target.var((0, 2, 3))  # (C,)
    error = (said.float() - target).square().mean((0, 2, 3))
    return (error / (variance + 0.1 * variance.mean() + 1e-6)).mean()


def apart_errors(student: ConvStem, pixels: Tensor, teacher: list[Tensor], generator: torch.Generator) -> Tensor:
    """Each stage on the teacher's map before it: errors (18,).

    Of large maps a quarter is enough: their stages have few weights. What the cut's border touches is not compared.
    """
    errors = []
    for stage, before, after in zip((student.enter, *student.blocks), (pixels, *teacher[:-1]), teacher, strict=True):
        margin = 0
        if before.shape[-1] > 32:
            side, stride = before.shape[-1] // 2, before.shape[-1] // after.shape[-1]
            top, left = (int(v) * 2 for v in torch.randint(side // 2 + 1, (2,), generator=generator))
            before = before[..., top : top + side, left : left + side]
            top, left, side, margin = top // stride, left // stride, side // stride, 1
            after = after[..., top : top + side, left : left + side]
        keep = slice(margin, after.shape[-1] - margin)
        errors.append(map_error(stage(before)[..., keep, keep], after[..., keep, keep]))
    return torch.stack(errors)


def joint_errors(student: ConvStem, pixels: Tensor, teacher: list[Tensor], known: int) -> Tensor:
    """The stages as one network, each map towards the teacher's: errors. The first ``known`` maps learn no more."""
    errors, x = [], pixels
    for i, (stage, target) in enumerate(zip((student.enter, *student.blocks), teacher, strict=True)):
        with torch.set_grad_enabled(i >= known and torch.is_grad_enabled()):
            x = stage(x)
        if i >= known:
            errors.append(map_error(x, target))
    return torch.stack(errors)


def main(argv: list[str]) -> int:
    args = loop.arguments(argv, USAGE)
    if not {"config", "data", "teacher", "out"} <= set(args):
        raise HeroError(f"The stem needs --config, --data, --teacher and --out; usage: {USAGE}")
    cfg = loop.read_config(args["config"], {"stem": StemConfig, **dict.fromkeys(PHASES, loop.LoopConfig)})
    stem_cfg, loop_cfg = cfg["stem"], cfg["whole"]
    pictures = Pictures([Path(part) for part in args["data"].split(",")], stem_cfg)
    teacher = ConvStem()
    try:
        teacher.load_state_dict(loop.load_weights(args["teacher"]))
    except RuntimeError as err:
        raise HeroError(f"'{args['teacher']}' is not a teacher of the stem's layout; write it again.") from err
    teacher.to(loop_cfg.device).eval().requires_grad_(False)
    torch.manual_seed(loop_cfg.seed)
    student = ConvStem()
    for module in student.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            torch.nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    student.to(loop_cfg.device)
    held_out = pictures.fixed(stem_cfg)
    print(f"{int(pictures.weights.sum())} frames to train on, {len(held_out)} to validate on", flush=True)

    def loss(generator: torch.Generator, phase: str) -> tuple[Tensor, dict[str, float]]:
        size = stem_cfg.part if phase == "parts" else stem_cfg.size
        x = pictures.draw(stem_cfg, size, generator).to(loop_cfg.device).to(memory_format=torch.channels_last)
        with torch.no_grad():
            target = teacher.maps(x)
        if phase == "apart":
            errors = apart_errors(student, x, target, generator)
        else:
            errors = joint_errors(student, x, target, LARGE if phase == "whole" else 0)
        return errors.sum(), {"mean": float(errors.detach().mean()), "last": float(errors[-1].detach())}

    def validate() -> dict[str, float]:
        """Errors of the whole network, its own map behind its own map."""
        sums = torch.zeros(len(student.blocks) + 1)
        cosine = 0.0
        for x in held_out.split(16):
            x = x.to(loop_cfg.device).to(memory_format=torch.channels_last)
            with torch.autocast(loop_cfg.device.split(":")[0], torch.bfloat16, enabled=loop_cfg.bf16):
                target, said = teacher.maps(x), student.maps(x)
            sums += torch.stack([map_error(a, b).cpu() for a, b in zip(said, target, strict=True)]) * len(x)
            a, b = said[-1].float().mean((2, 3)), target[-1].float().mean((2, 3))
            cosine += float(F.cosine_similarity(a - b.mean(0), b - b.mean(0)).sum())
        errors = sums / len(held_out)
        named = {f"map{i}": float(errors[i]) for i in (0, 3, 6, 10, 13, 16, 17)}
        return {"score": float(errors[[13, 17]].sum()), "cosine": cosine / len(held_out), **named}

    out = Path(args["out"])
    for phase in PHASES:
        best = loop.run(student, functools.partial(loss, phase=phase), validate, cfg[phase], out / phase)
        student.load_state_dict(loop.load_weights(best))
    loop.save_weights(student.state_dict(), out / "stem.safetensors")
    print(f"wrote {out / 'stem.safetensors'}", flush=True)
    return 0
