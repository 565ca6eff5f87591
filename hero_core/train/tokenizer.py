# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the motion tokenizer (RVQ-VAE):

python -m hero_core.train tokenizer --config FILE --data FOLDER --out FOLDER
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hero_core import humanml3d
from hero_core.config import RVQConfig
from hero_core.errors import HeroError
from hero_core.rvq import RVQVAE, rvq_loss
from hero_core.train import loop, motions

USAGE = "python -m hero_core.train tokenizer --config FILE --data FOLDER --out FOLDER"


@dataclass(frozen=True)
class DataConfig:
    """Which motions, and how windows are drawn. ``held_out`` names never train, whatever their split says."""

    files: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    window: int = 64
    batch: int = 256
    feat_bias: float = 5.0
    mirror: bool = True
    speeds: tuple[float, ...] = (1.0,)
    max_length: int = 200
    # Metres of joint error after the root path is integrated, added to the official loss. 0 = official.
    joint_weight: float = 0.0


def load(data: Path, cfg: DataConfig) -> dict[str, list[Tensor]]:
    """Features (N, 263) of every sequence, by split; training ones also mirrored and at other speeds."""
    out: dict[str, list[Tensor]] = {"train": [], "val": [], "test": []}
    for file in cfg.files:
        for name, split, joints in motions.sequences(data / file):
            part = "train" if split == "" else split
            if name in cfg.held_out or name.split("#")[0] in cfg.held_out:
                continue
            if part not in out:
                raise HeroError(f"Sequence {name} of '{file}' has the unknown split '{part}'.")
            if part != "train":
                out[part].append(motions.features(joints))
                continue
            for speed in cfg.speeds:
                paced = joints if speed == 1.0 else motions.resample(joints, speed)
                if len(paced) <= 16:
                    continue
                out[part].append(motions.features(paced))
                if cfg.mirror:
                    out[part].append(motions.features(humanml3d.mirror(paced)))
    if not out["train"] or not out["val"]:
        raise HeroError(f"'{data}' holds no motions to train and validate on; name its files in the config.")
    return out


@torch.no_grad()
def reconstruction_error(
    model: RVQVAE, rows: list[Tensor], mean: Tensor, std: Tensor, max_length: int = 200
) -> tuple[float, list[float]]:
    """MPJPE in metres, root-aligned, of sequences cut to ``max_length``: mean over frames, and each one's."""
    errors, frames = [], []
    for row in rows:
        n = min(len(row), max_length) // model.cfg.frames_per_token * model.cfg.frames_per_token
        if n == 0:
            continue
        x = row[:n][None]
        back = model.decode_tokens(model.encode_tokens((x - mean) / std)) * std + mean
        a, b = humanml3d.to_joints(x), humanml3d.to_joints(back.float())
        difference = (a - a[..., :1, :]) - (b - b[..., :1, :])
        errors.append(float(difference.norm(dim=-1).mean()))
        frames.append(n)
    return float(np.average(errors, weights=frames)), errors


def main(argv: list[str]) -> int:
    args = loop.arguments(argv, USAGE)
    if not {"config", "data", "out"} <= set(args):
        raise HeroError(f"The tokenizer needs --config, --data and --out; usage: {USAGE}")
    cfg = loop.read_config(args["config"], {"model": RVQConfig, "data": DataConfig, "loop": loop.LoopConfig})
    model_cfg, data_cfg, loop_cfg = cfg["model"], cfg["data"], cfg["loop"]
    out = Path(args["out"])
    sets = load(Path(args["data"]), data_cfg)
    train = [x for x in sets["train"] if len(x) >= 16]
    mean, std = humanml3d.statistics(torch.cat(train), data_cfg.feat_bias)
    print(f"{len(train)} training sequences, {sum(map(len, train))} frames; {len(sets['val'])} to validate", flush=True)

    normal = torch.cat([(x - mean) / std for x in train])
    starts = torch.tensor(np.cumsum([0, *map(len, train)]))
    windows = torch.tensor([max(1, len(x) - data_cfg.window + 1) for x in train])
    window_ends = windows.cumsum(0)
    torch.manual_seed(loop_cfg.seed)
    model = RVQVAE(model_cfg).to(loop_cfg.device)
    mean_d, std_d = mean.to(loop_cfg.device), std.to(loop_cfg.device)

    def loss_fn(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = torch.randint(int(window_ends[-1]), (data_cfg.batch,), generator=generator)
        which = torch.searchsorted(window_ends, pick, right=True)
        first = starts[which] + pick - (window_ends[which] - windows[which])
        last = starts[which + 1] - 1
        rows = first[:, None] + torch.arange(data_cfg.window)
        batch = normal[rows.minimum(last[:, None])].to(loop_cfg.device)  # short ones hold their last row
        recon, commit, perplexity = model(batch, generator)
        recon = recon.float()
        loss = rvq_loss(recon, batch, commit)
        numbers = {"perplexity": float(perplexity), "commit": float(commit.detach())}
        if data_cfg.joint_weight:
            a = humanml3d.to_joints(batch * std_d + mean_d)
            b = humanml3d.to_joints(recon * std_d + mean_d)
            joints = (a - b).norm(dim=-1).mean()
            loss = loss + data_cfg.joint_weight * joints
            numbers["joints_m"] = float(joints.detach())
        return loss, numbers

    def validate() -> dict[str, float]:
        error, _ = reconstruction_error(model.cpu(), sets["val"], mean, std, data_cfg.max_length)
        model.to(loop_cfg.device)
        return {"score": error, "val_mpjpe_cm": error * 100}

    def ema() -> dict[str, Tensor]:
        return {f"{i}.{k}": v for i, b in enumerate(model.quantizer.books()) for k, v in b.ema_state().items()}

    def load_ema(state: dict[str, Tensor]) -> None:
        for key, value in ema().items():
            value.copy_(state[key])

    best = loop.run(model, loss_fn, validate, loop_cfg, out, ema, load_ema)
    model.load_state_dict(loop.load_weights(best))
    model.cpu().eval()
    with torch.no_grad():
        error, each = reconstruction_error(model, sets["test"], mean, std, data_cfg.max_length)
    loop.save_weights({**model.state_dict(), "mean": mean, "std": std}, out / "tokenizer.safetensors")
    report = {
        "model": dataclasses.asdict(model_cfg),
        "test_mpjpe_cm": error * 100,
        "test_sequences": len(each),
        "test_mpjpe_cm_worst": max(each) * 100,
    }
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(f"test: {error * 100:.2f} cm MPJPE over {len(each)} held-out sequences", flush=True)
    return 0
