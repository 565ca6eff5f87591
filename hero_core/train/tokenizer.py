# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the motion tokenizer (RVQ-VAE):

python -m hero_core.train tokenizer --config FILE --data FOLDER --out FOLDER [--init FILE]

``--init`` fine-tunes weights: a tokenizer.safetensors, whose ema.safetensors beside it is taken too, or a
converted model.safetensors. The codebooks go on from their moving averages, or from a guess of them where
they are not known (the official files); the official program instead starts the codebooks anew
(``reinit_codebooks_on_init``).
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
from hero_core.rvq import RVQVAE, Codebook, rvq_loss
from hero_core.train import loop, motions, parallel

USAGE = "python -m hero_core.train tokenizer --config FILE --data FOLDER --out FOLDER [--init FILE]"
EMA = "ema.safetensors"


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
    # The same with the root taken away: what a viewer sees of the pose, and what MPJPE measures. 0 = official.
    pose_weight: float = 0.0
    # With --init: True = the codebooks are made anew from the first batch, as happens to the official program,
    # which does not save their moving averages.
    reinit_codebooks_on_init: bool = False
    # With --init: normalise by the mean and std of the weights. False (official) = by those of the new data.
    keep_statistics: bool = False
    # The official program chooses its weights by the test list. Numbers on it then say too much.
    select_on_test: bool = False


def load(data: Path, cfg: DataConfig) -> dict[str, list[Tensor]]:
    """Features (N, 263) of every sequence, by split; training ones also mirrored and at other speeds."""
    out: dict[str, list[Tensor]] = {"train": [], "val": [], "test": []}
    for file in cfg.files:
        for name, split, joints, rows in motions.with_features(data / file):
            part = "train" if split == "" else split
            if name in cfg.held_out or name.split("#")[0] in cfg.held_out:
                continue
            if part not in out:
                raise HeroError(f"Sequence {name} of '{file}' has the unknown split '{part}'.")
            if part != "train":
                out[part].append(rows)
                continue
            for speed in cfg.speeds:
                paced = joints if speed == 1.0 else motions.resample(joints, speed)
                if len(paced) <= 16:
                    continue
                out[part].append(rows if speed == 1.0 else motions.features(paced))
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
    place = next(model.parameters()).device
    mean, std = mean.to(place), std.to(place)
    for row in rows:
        n = min(len(row), max_length) // model.cfg.frames_per_token * model.cfg.frames_per_token
        if n == 0:
            continue
        x = row[:n][None].to(place)
        back = model.decode_tokens(model.encode_tokens((x - mean) / std)) * std + mean
        a, b = humanml3d.to_joints(x), humanml3d.to_joints(back.float())
        difference = (a - a[..., :1, :]) - (b - b[..., :1, :])
        errors.append(float(difference.norm(dim=-1).mean()))
        frames.append(n)
    return float(np.average(errors, weights=frames)), errors


def books_of(model: RVQVAE) -> dict[str, Tensor]:
    """The moving averages of the codebooks, which the state_dict does not hold; the tensors themselves."""
    return {f"{i}.{k}": v for i, b in enumerate(model.quantizer.books()) for k, v in b.ema_state().items()}


def fill_books(model: RVQVAE, state: dict[str, Tensor]) -> None:
    for key, value in books_of(model).items():
        value.copy_(state[key])


def initialise(model: RVQVAE, path: Path, reinit: bool) -> dict[str, Tensor]:
    """Weights to fine-tune, and the state of their codebooks; returns mean and std if the file has them."""
    rest = loop.start_from(model, path, "rvq")
    if reinit:
        parallel.say("the codebooks are made anew from the first batch (reinit_codebooks_on_init)")
        return rest
    beside = path.parent / EMA
    if beside.is_file():
        state = loop.load_weights(beside)
        if {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in books_of(model).items()}:
            fill_books(model, state)
            if all(_belongs(book) for book in model.quantizer.books()):
                return rest
        parallel.say(f"'{beside}' is of other codebooks and is not used")
    for book in model.quantizer.books():
        book.warm_start()
    return rest


def _belongs(book: Codebook) -> bool:
    """Whether the codes that are in use are their moving averages."""
    alive = book.code_count >= 1.0
    mean = book.code_sum[alive] / book.code_count[alive, None]
    return bool(alive.any()) and torch.allclose(mean, book.codebook[alive], rtol=1e-2, atol=1e-2)


def main(argv: list[str]) -> int:
    args = loop.arguments(argv, USAGE)
    if not {"config", "data", "out"} <= set(args):
        raise HeroError(f"The tokenizer needs --config, --data and --out; usage: {USAGE}")
    cfg = loop.read_config(args["config"], {"model": RVQConfig, "data": DataConfig, "loop": loop.LoopConfig})
    model_cfg, data_cfg, loop_cfg = cfg["model"], cfg["data"], cfg["loop"]
    out, device = Path(args["out"]), loop_cfg.device
    mine = parallel.share(data_cfg.batch)
    # With several processes, each one's share counts by its size.
    weight = parallel.size() * (mine.stop - mine.start) / data_cfg.batch
    sets = load(Path(args["data"]), data_cfg)
    train, val = [x for x in sets["train"] if len(x) >= 16], sets["val"]
    if data_cfg.select_on_test:
        val = sets["test"]
        if not val:
            raise HeroError("select_on_test is set and the data have no test split; set it to false.")
        loop.warn_of_selection()
    torch.manual_seed(loop_cfg.seed)
    model = RVQVAE(model_cfg)
    given: dict[str, Tensor] = {}
    if "init" in args:
        given = initialise(model, Path(args["init"]), data_cfg.reinit_codebooks_on_init)
    model.to(device)
    if data_cfg.keep_statistics:
        if not {"mean", "std"} <= set(given):
            raise HeroError("keep_statistics needs --init with a tokenizer.safetensors or model.safetensors.")
        mean, std = given["mean"], given["std"]
    else:
        mean, std = humanml3d.statistics(torch.cat(train), data_cfg.feat_bias)
    parallel.say(f"{len(train)} training sequences, {sum(map(len, train))} frames; {len(val)} to validate")

    normal = torch.cat([(x - mean) / std for x in train])
    starts = torch.tensor(np.cumsum([0, *map(len, train)]))
    windows = torch.tensor([max(1, len(x) - data_cfg.window + 1) for x in train])
    window_ends = windows.cumsum(0)
    mean_d, std_d = mean.to(device), std.to(device)

    def loss_fn(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = torch.randint(int(window_ends[-1]), (data_cfg.batch,), generator=generator)[mine]
        which = torch.searchsorted(window_ends, pick, right=True)
        first = starts[which] + pick - (window_ends[which] - windows[which])
        last = starts[which + 1] - 1
        rows = first[:, None] + torch.arange(data_cfg.window)
        batch = normal[rows.minimum(last[:, None])].to(device)  # short ones hold their last row
        # Codebooks learn from the whole batch, which is cheap beside the convolutions: every process sees the
        # latents of all and quantises the same, so neither their statistics nor their restarts need merging.
        latents = parallel.whole(model.encoder(batch.transpose(1, 2)), data_cfg.batch)
        with parallel.same_random(generator):
            quantized, _, commit, perplexity = model.quantizer(latents, generator)
        parallel.same_everywhere(model.quantizer.buffers())  # sums on a GPU differ in the last bits
        recon = model.decoder(quantized[mine]).transpose(1, 2).float()
        numbers = {"perplexity": float(perplexity), "commit": float(commit.detach())}
        # That loss is of the whole batch too, but its gradient reaches only the own latents.
        commit = commit * parallel.size() - commit.detach() * (parallel.size() - 1)
        loss = weight * rvq_loss(recon, batch, commit / weight)
        if data_cfg.joint_weight or data_cfg.pose_weight:
            a = humanml3d.to_joints(batch * std_d + mean_d)
            b = humanml3d.to_joints(recon * std_d + mean_d)
            joints = weight * (a - b).norm(dim=-1).mean()
            pose = weight * ((a - a[..., :1, :]) - (b - b[..., :1, :])).norm(dim=-1).mean()
            loss = loss + data_cfg.joint_weight * joints + data_cfg.pose_weight * pose
            numbers |= {"joints_m": float(joints.detach()), "pose_m": float(pose.detach())}
        return loss, numbers

    def validate() -> dict[str, float]:
        error, _ = reconstruction_error(model, val, mean, std, data_cfg.max_length)
        return {"score": error, "val_mpjpe_cm": error * 100}

    def save_books() -> None:
        loop.save_weights(books_of(model), out / EMA)

    files = {"config": Path(args["config"]), **{name: Path(args["data"]) / name for name in data_cfg.files}}
    if "init" in args:
        files["init"] = Path(args["init"])
    loop.record(out, loop.describe("tokenizer", cfg, files, select_on_test=data_cfg.select_on_test))
    best = loop.run(
        model, loss_fn, validate, loop_cfg, out,
        lambda: books_of(model), lambda state: fill_books(model, state), save_books,
    )  # fmt: skip
    if parallel.rank():
        return 0
    model.load_state_dict(loop.load_weights(best))
    model.cpu().eval()
    loop.save_weights({**model.state_dict(), "mean": mean, "std": std}, out / "tokenizer.safetensors")
    report: dict[str, object] = {"model": dataclasses.asdict(model_cfg), "select_on_test": data_cfg.select_on_test}
    if sets["test"]:
        with torch.no_grad():
            error, each = reconstruction_error(model, sets["test"], mean, std, data_cfg.max_length)
        report |= {
            "test_mpjpe_cm": error * 100,
            "test_sequences": len(each),
            "test_mpjpe_cm_worst": max(each) * 100,
        }
        print(f"test: {error * 100:.2f} cm MPJPE over {len(each)} held-out sequences", flush=True)
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0
