# SPDX-License-Identifier: GPL-3.0-or-later
"""Train a small video encoder by distillation.

    python -m hero_core.train encoder --config FILE --data FOLDER --out FOLDER

The encoder of the paper starts from CLIP and is frozen. This one has the same architecture at a small size
and learns from what other networks say about each frame (``training.distil_data`` writes it down): the
features, classes and 7x7 feature map of an image classifier, body keypoints, facial expression. Where a
clip has a class, the mean of its features is also asked for that. All heads are thrown away in the end.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hero_core.config import VideoEncoderConfig
from hero_core.errors import HeroError
from hero_core.tc_clip import VideoEncoder
from hero_core.train import loop

USAGE = "python -m hero_core.train encoder --config FILE --data FOLDER --out FOLDER"
GRID = 7  # side of the classifier's feature map
SPLITS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class DistilConfig:
    """What a batch holds, and how much each of the things learned counts. A weight of 0 leaves it out."""

    clips: int = 48  # in a batch
    frames: int = 4  # of each clip, drawn in order
    labelled_share: float = 0.5  # of a batch that has a class, where there are such clips
    classes: int = 32  # places of the class head; at least as many as labels.json names
    features: float = 1.0
    logits: float = 0.5
    grid: float = 1.0
    person: float = 0.5
    keypoints: float = 2.0
    expression: float = 0.1
    label: float = 0.5
    temperature: float = 2.0  # of the class probabilities
    validation_clips: int = 256


Batch = dict[str, Tensor]


class Clips:
    """The shards of a folder, read from disk as they are asked for."""

    TARGETS = ("features", "logits", "grid", "person", "keypoints", "expression", "face", "label")

    def __init__(self, folder: Path) -> None:
        names = sorted(p.stem for p in folder.glob("*.npz") if p.name != "basis.npz" and ".part" not in p.name)
        if not names:
            raise HeroError(f"There are no clips in '{folder}'; make them with training.distil_data first.")
        self.frames: list[NDArray[np.uint8]] = []
        self.targets: list[dict[str, NDArray[Any]]] = []
        rows: list[tuple[int, int, int, int]] = []  # shard, row, split, label
        for shard, name in enumerate(names):
            self.frames.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
            with np.load(folder / f"{name}.npz") as file:
                lacking = sorted(set(self.TARGETS) - set(file.files))
                if lacking:
                    raise HeroError(f"'{name}.npz' has no {', '.join(lacking)}; make the clips again.")
                self.targets.append({key: file[key] for key in self.TARGETS})
                rows += [
                    (shard, i, int(s), int(c))
                    for i, (s, c) in enumerate(zip(file["split"], file["label"], strict=True))
                ]
        self.rows = torch.tensor(rows)  # (clips, 4)
        labels = folder / "labels.json"
        self.labels: list[str] = json.loads(labels.read_text(encoding="utf-8")) if labels.exists() else []

    def select(self, split: str, labelled: bool | None = None) -> Tensor:
        """Numbers of the clips of a split, with a class, without, or both."""
        keep = self.rows[:, 2] == SPLITS[split]
        if labelled is not None:
            keep &= (self.rows[:, 3] >= 0) == labelled
        return keep.nonzero()[:, 0]

    def read(self, clips: Tensor, frames: int, generator: torch.Generator | None) -> Batch:
        """Frames and targets of clips (B,); ``frames`` of each, drawn in order, or spread evenly without generator.

        ``frames`` uint8 (B, T, H, W, 3); the rest float32 with (B, T) in front, ``label`` int64 (B,).
        """
        out: dict[str, list[NDArray[Any]]] = {key: [] for key in ("frames", *self.TARGETS)}
        for shard, row in self.rows[clips, :2].tolist():
            have = len(self.frames[shard][row])
            if generator is None:
                take = (np.arange(frames) * have + have // 2) // frames
            else:
                # One draw in each of ``frames`` equal stretches of the clip.
                within = torch.rand(frames, generator=generator).numpy()
                take = ((np.arange(frames) + within) * have / frames).astype(int)
            take = take.clip(0, have - 1)
            out["frames"].append(self.frames[shard][row][take])
            for key in self.TARGETS:
                value = self.targets[shard][key][row]
                out[key].append(value if key == "label" else value[take].astype(np.float32))
        return {key: torch.from_numpy(np.stack(value)) for key, value in out.items()}


class Student(nn.Module):
    """The encoder and the heads that ask it what the teachers said."""

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, cfg: VideoEncoderConfig, distil: DistilConfig, grid: int, person: int) -> None:
        super().__init__()
        if cfg.layers < 2 or cfg.image_size // cfg.patch_size < GRID:
            raise HeroError("Give the encoder at least 2 layers and 7 x 7 patches; the feature map is learned there.")
        self.distil = distil
        self.encoder = VideoEncoder(cfg)
        self.heads = nn.ModuleDict(
            {
                "features": nn.Linear(cfg.output_dim, 1280),
                "logits": nn.Linear(cfg.output_dim, 1001),
                "person": nn.Linear(cfg.output_dim, person),
                "keypoints": nn.Linear(cfg.output_dim, 17 * 3),
                "expression": nn.Linear(cfg.output_dim, 7),
                "label": nn.Linear(cfg.output_dim, distil.classes),
                "grid": nn.Sequential(nn.LayerNorm(cfg.width), nn.Linear(cfg.width, grid)),
            }
        )
        self.register_buffer("feature_mean", torch.zeros(1280))
        self.register_buffer("feature_std", torch.ones(1280))

    def see(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, T, H, W, 3) -> features (B, T, D), patches of the last block but one (B, T, 49, width).

        The last block only makes class tokens, so the block before it is where patches are asked.
        """
        kept: list[Tensor] = []
        blocks = self.encoder.transformer.resblocks
        hook = blocks[-2].register_forward_hook(lambda _module, _inputs, out: kept.append(out))
        try:
            features = self.encoder(self.encoder.normalise(frames))
        finally:
            hook.remove()
        batch, count = features.shape[:2]
        cfg = self.encoder.cfg
        side = cfg.image_size // cfg.patch_size
        patches = kept[0][:, : count * (1 + cfg.patches)].reshape(batch * count, 1 + cfg.patches, -1)[:, 1:]
        if side != GRID:
            patches = patches.transpose(1, 2).unflatten(2, (side, side))  # (B*T, width, side, side)
            patches = F.adaptive_avg_pool2d(patches, GRID).flatten(2).transpose(1, 2)  # (B*T, 49, width)
        return features, patches.unflatten(0, (batch, count))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Each loss, unweighted, and ``cosine``: standardised teacher features against what the student says."""
        features, patches = self.see(batch["frames"])
        said = {key: head(patches if key == "grid" else features).float() for key, head in self.heads.items()}
        target = (batch["features"] - self.feature_mean) / self.feature_std
        cosine = F.cosine_similarity(said["features"], target, dim=-1).mean()
        t = self.distil.temperature
        points = said["keypoints"].unflatten(-1, (17, 3))  # (B, T, 17, 3)
        score = batch["keypoints"][..., 2:]
        place = ((points[..., :2] - batch["keypoints"][..., :2]).abs() * score).sum() / (2 * score.sum()).clamp(min=1)
        expression = F.kl_div(
            said["expression"].log_softmax(-1), batch["expression"].clamp(min=1e-4), reduction="none"
        ).sum(-1)
        pooled = self.heads["label"](features.mean(1)).float()  # (B, classes)
        known = batch["label"] >= 0
        label = F.cross_entropy(pooled, batch["label"].clamp(min=0), reduction="none", label_smoothing=0.1)
        right = (pooled.argmax(-1) == batch["label"]).float()
        count = known.sum().clamp(min=1)
        return {
            "features": 1 - cosine + 0.5 * F.smooth_l1_loss(said["features"], target),
            "logits": F.kl_div(
                (said["logits"] / t).log_softmax(-1).flatten(0, 1),
                (batch["logits"] / t).log_softmax(-1).flatten(0, 1),
                reduction="batchmean",
                log_target=True,
            ),
            "grid": F.mse_loss(said["grid"], batch["grid"].flatten(2, 3)),
            "person": F.mse_loss(said["person"], batch["person"]),
            "keypoints": place + F.mse_loss(points[..., 2:], score),
            "expression": (expression * batch["face"]).sum() / batch["face"].sum().clamp(min=1),
            "label": (label * known).sum() / count,
            "cosine": cosine,
            "agree": (said["logits"].argmax(-1) == batch["logits"].argmax(-1)).float().mean(),
            "place": place,
            "right": (right * known).sum() / count,
        }

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        weights = dataclasses.asdict(self.distil)
        return torch.stack([weights[key] * losses[key] for key in self.heads]).sum()


def standardise(student: Student, clips: Clips) -> None:
    """Mean and deviation of the teacher's features over the training clips, kept with the weights."""
    chosen = clips.select("train")
    some = clips.rows[chosen[:: max(1, len(chosen) // 4000)], :2].tolist()
    rows = np.concatenate([clips.targets[shard]["features"][row] for shard, row in some]).astype(np.float32)
    student.feature_mean.copy_(torch.from_numpy(rows.mean(0)))
    student.feature_std.copy_(torch.from_numpy(rows.std(0)).clamp(min=0.05))


def main(argv: list[str]) -> int:
    args = loop.arguments(argv, USAGE)
    if not {"config", "data", "out"} <= set(args):
        raise HeroError(f"The encoder needs --config, --data and --out; usage: {USAGE}")
    cfg = loop.read_config(
        args["config"], {"model": VideoEncoderConfig, "distil": DistilConfig, "loop": loop.LoopConfig}
    )
    model_cfg, distil, loop_cfg = cfg["model"], cfg["distil"], cfg["loop"]
    out = Path(args["out"])
    clips = Clips(Path(args["data"]))
    if len(clips.labels) > distil.classes:
        raise HeroError(f"The clips have {len(clips.labels)} classes; set distil.classes to at least that.")
    pools = [clips.select("train", labelled) for labelled in (False, True)]
    held_out = [clips.select("val", labelled) for labelled in (False, True)]
    if not len(pools[0]) + len(pools[1]) or not len(held_out[0]) + len(held_out[1]):
        raise HeroError(f"'{args['data']}' needs clips to train on and clips to validate on; make more.")
    print(f"training clips: {len(pools[0])} pictures, {len(pools[1])} with a class", flush=True)
    share = distil.labelled_share if len(pools[0]) and len(pools[1]) else float(len(pools[1]) > 0)
    counts = [distil.clips - round(share * distil.clips), round(share * distil.clips)]

    torch.manual_seed(loop_cfg.seed)
    sizes = [clips.targets[0][key].shape[-1] for key in ("grid", "person")]
    # The context has its full size at ``num_frames``; of fewer frames the same share of the seeds is kept.
    context = max(1, round(model_cfg.context_tokens * distil.frames / model_cfg.num_frames))
    shorter = dataclasses.replace(model_cfg, context_tokens=context)
    student = Student(shorter, distil, *sizes).to(loop_cfg.device)
    standardise(student, clips)

    def losses_of(chosen: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        batch = clips.read(chosen, distil.frames, generator)
        return student.losses({key: value.to(loop_cfg.device) for key, value in batch.items()})

    def loss_fn(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.cat(
            [
                pool[torch.randint(len(pool), (n,), generator=generator)]
                for pool, n in zip(pools, counts, strict=True)
                if n
            ]
        )
        losses = losses_of(chosen, generator)
        return student.total(losses), {key: float(value.detach()) for key, value in losses.items()}

    def validate() -> dict[str, float]:
        """Pictures and labelled clips apart, as the two say different things; agreement with the teacher decides."""
        result, score = dict[str, float](), list[float]()
        for name, pool in zip(("pictures", "clips"), held_out, strict=True):
            if not len(pool):
                continue
            pool = pool[:: max(1, len(pool) // distil.validation_clips)]
            sums, seen = dict[str, float](), 0
            for part in pool.split(distil.clips):
                with torch.autocast(loop_cfg.device.split(":")[0], torch.bfloat16, enabled=loop_cfg.bf16):
                    losses = losses_of(part, None)
                for key, value in losses.items():
                    sums[key] = sums.get(key, 0.0) + float(value) * len(part)
                seen += len(part)
            if seen:
                score.append(1 - sums["cosine"] / seen)
                result |= {f"{name}_{key}": sums[key] / seen for key in ("cosine", "agree", "place", "right", "grid")}
        return {"score": sum(score) / len(score), **result}

    best = loop.run(student, loss_fn, validate, loop_cfg, out)
    state = loop.load_weights(best)
    encoder = {key.removeprefix("encoder."): value.half() for key, value in state.items() if key.startswith("encoder.")}
    loop.save_weights(encoder, out / "encoder.safetensors")
    student.load_state_dict(state)
    student.eval()
    with torch.no_grad():
        report = {"encoder": dataclasses.asdict(model_cfg), "labels": clips.labels, "validation": validate()}
    (out / "encoder.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(f"wrote {out / 'encoder.safetensors'}", flush=True)
    return 0
