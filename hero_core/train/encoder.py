# SPDX-License-Identifier: GPL-3.0-or-later
"""Train a small video encoder behind its frozen stem:

    python -m hero_core.train encoder --config FILE --data FOLDER --stem RUN --out FOLDER

The encoder of the paper starts from CLIP and is frozen. This one has the same architecture at a small size. Its stem
learned from a teacher to see (``hero_core.train stem``); what is learned here is what the frames of a clip mean
together: the class of what happens, from the mean of the frame features (the pooled feature v_g that the reaction
model reads), and of single frames what other networks say: features of an image classifier, body keypoints, facial
expression. A clip of something that comes nearer is now and then shown backwards, and then its class is ``retreat``:
that is how the order of the frames is learned. All heads are thrown away in the end.

The data are shards of ``training.look``: the stem's maps, made once.
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
from hero_core.train import loop, parallel

USAGE = "python -m hero_core.train encoder --config FILE --data FOLDER --stem RUN --out FOLDER"
SPLITS = {"train": 0, "val": 1, "test": 2}
TAUGHT = ("features", "person", "keypoints", "expression", "face")  # what teachers said of frames
RETREAT = "retreat"  # the class of a clip of something that comes nearer, shown backwards


@dataclass(frozen=True)
class DistilConfig:
    """What a batch holds, and how much each of the things learned counts. A weight of 0 leaves it out."""

    clips: int = 16  # with a class, in a batch
    taught_clips: int = 8  # that teachers described, in a batch
    classes: int = 32  # places of the class head; at least as many as labels.json names
    nearer: tuple[str, ...] = ("approach", "vehicle")  # beginnings of names of what comes nearer
    reversed_share: float = 0.2  # of the clips of those classes, shown backwards
    # Who walks up to strike has, until then, walked up: this share of these classes is cut short and of that class.
    cut: tuple[str, ...] = ("push", "hand_out", "punch", "kick")
    cut_share: float = 0.4
    cut_class: str = "approach_calmly"
    # Beginnings of names of classes that are shown twice as often, and half as often, as they come.
    often: tuple[str, ...] = ()
    seldom: tuple[str, ...] = ()
    frames: int = 8  # of each clip, drawn at random and shown in order
    hide: float = 0.15  # share of the stem's channels that are hidden from a clip
    smoothing: float = 0.1  # of the class
    label: float = 1.0
    features: float = 0.5
    person: float = 0.5
    keypoints: float = 1.0
    expression: float = 0.1
    validation_clips: int = 256
    # The validation clips are rendered; what the encoder learns of real pictures they do not see. True keeps the
    # weights of the last step, False those that do best on them.
    keep_last: bool = False


Batch = dict[str, Tensor]
Drawn = tuple[int, int, NDArray[np.int64]]  # a clip, a view of it, and which frames


class Clips:
    """The shards of a folder, read from disk as they are asked for."""

    def __init__(self, folder: Path) -> None:
        names = sorted(p.stem for p in folder.glob("*.npz") if ".part" not in p.name)
        if not names:
            raise HeroError(f"There are no clips in '{folder}'; make them with training.look first.")
        self.maps: list[NDArray[np.float16]] = []
        self.rest: list[dict[str, NDArray[Any]]] = []
        rows: list[tuple[int, int, int, int]] = []  # shard, row, split, label
        for shard, name in enumerate(names):
            self.maps.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
            with np.load(folder / f"{name}.npz") as file:
                lacking = sorted({"label", "split", "times"} - set(file.files))
                if lacking:
                    raise HeroError(f"'{name}.npz' has no {', '.join(lacking)}; make the clips again.")
                self.rest.append({key: file[key] for key in file.files})
            rest = self.rest[-1]
            rows += [
                (shard, i, int(s), int(c)) for i, (s, c) in enumerate(zip(rest["split"], rest["label"], strict=True))
            ]
        self.rows = torch.tensor(rows)  # (clips, 4)
        labels = folder / "labels.json"
        self.labels: list[str] = json.loads(labels.read_text(encoding="utf-8")) if labels.exists() else [RETREAT]

    def select(self, split: str, labelled: bool) -> Tensor:
        """Numbers of the clips of a split, with a class or without."""
        return ((self.rows[:, 2] == SPLITS[split]) & ((self.rows[:, 3] >= 0) == labelled)).nonzero()[:, 0]

    def draw(self, clips: Tensor, generator: torch.Generator, frames: int, last: Tensor | None = None) -> list[Drawn]:
        """A random view of each clip and at most ``frames`` random frames, in order, none behind ``last`` (B,)."""
        drawn = []
        for i, clip in enumerate(clips.tolist()):
            maps = self.maps[int(self.rows[clip, 0])]
            view = int(torch.randint(maps.shape[1], (), generator=generator))
            count = maps.shape[2] if last is None else min(maps.shape[2], int(last[i]) + 1)
            keep = torch.randperm(count, generator=generator)[:frames].sort().values.numpy()
            drawn.append((clip, view, keep))
        return drawn

    def before_event(self, clips: Tensor) -> Tensor:
        """(B,) the last frame before anything happens, where that is known; else the last of all."""
        out = []
        for shard, row in self.rows[clips, :2].tolist():
            last = self.maps[shard].shape[2] - 1
            out.append(int(self.rest[shard]["before"][row]) if "before" in self.rest[shard] else last)
        return torch.tensor(out)

    def whole(self, clips: Tensor) -> list[Drawn]:
        """The first view of each clip with all of its frames."""
        return [(clip, 0, np.arange(self.maps[int(self.rows[clip, 0])].shape[2])) for clip in clips.tolist()]

    def read(self, drawn: list[Drawn]) -> Batch:
        """``maps`` (B, F, C, 7, 7) float16, ``times`` (B, F), ``label`` (B,), and what teachers said, (B, F, ...).

        All clips of a batch come with a class, or none of them.
        """
        out: dict[str, list[NDArray[Any]]] = {}
        for clip, view, keep in drawn:
            shard, row = self.rows[clip, :2].tolist()
            rest = self.rest[shard]
            out.setdefault("maps", []).append(self.maps[shard][row][view][keep])
            out.setdefault("times", []).append(rest["times"][row][keep])
            out.setdefault("label", []).append(rest["label"][row])
            for key in TAUGHT:
                if key in rest:
                    out.setdefault(key, []).append(rest[key][row][keep].astype(np.float32))
        return {key: torch.from_numpy(np.stack(value)) for key, value in out.items()}

    def sums(self, drawn: list[Drawn]) -> tuple[float, float]:
        """Sums over a batch of the weights that keypoints and faces count with."""
        points = faces = 0.0
        for clip, _, keep in drawn:
            shard, row = self.rows[clip, :2].tolist()
            points += float(self.rest[shard]["keypoints"][row][keep][..., 2].astype(np.float32).sum())
            faces += float(self.rest[shard]["face"][row][keep].astype(np.float32).sum())
        return points, faces


class Student(nn.Module):
    """The encoder behind its stem, and the heads that ask it for the class and for what the teachers said."""

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, cfg: VideoEncoderConfig, distil: DistilConfig, person: int) -> None:
        super().__init__()
        if not cfg.conv_stem:
            raise HeroError("This encoder is trained behind a stem; set conv_stem and patch_size 32 in the config.")
        self.distil = distil
        self.encoder = VideoEncoder(cfg)
        self.encoder.stem.requires_grad_(False)
        self.heads = nn.ModuleDict(
            {
                "features": nn.Linear(cfg.output_dim, 1280),
                "person": nn.Linear(cfg.output_dim, person),
                "keypoints": nn.Linear(cfg.output_dim, 17 * 3),
                "expression": nn.Linear(cfg.output_dim, 7),
                "label": nn.Linear(cfg.output_dim, distil.classes),
            }
        )
        self.register_buffer("feature_mean", torch.zeros(1280))
        self.register_buffer("feature_std", torch.ones(1280))

    def see(self, batch: Batch) -> Tensor:
        """Frame features (B, F, D). Of fewer frames than the encoder reads later, the same share of context is kept."""
        maps, cfg = batch["maps"].float(), self.encoder.cfg
        if self.training and self.distil.hide:
            maps = F.dropout(maps.new_ones(len(maps), 1, maps.shape[2], 1, 1), self.distil.hide) * maps
        context = max(1, round(cfg.context_tokens * maps.shape[1] / cfg.num_frames))
        return self.encoder.contextualise(maps, batch["times"], None, context)

    def class_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the class of each clip, and the share that is right."""
        said = self.heads["label"](self.see(batch).mean(1)).float()  # (B, classes)
        label = F.cross_entropy(said, batch["label"], label_smoothing=self.distil.smoothing)
        return {"label": label, "right": (said.argmax(-1) == batch["label"]).float().mean()}

    def taught_losses(self, batch: Batch, sums: tuple[float, float] | None = None) -> dict[str, Tensor]:
        """Each loss, unweighted, and ``cosine``: standardised teacher features against what the student says.

        sums: of the weights of keypoints and of faces, where the batch is part of a larger one.
        """
        features = self.see(batch)
        said = {key: head(features).float() for key, head in self.heads.items() if key != "label"}
        target = (batch["features"] - self.feature_mean) / self.feature_std
        cosine = F.cosine_similarity(said["features"], target, dim=-1).mean()
        points = said["keypoints"].unflatten(-1, (17, 3))  # (B, F, 17, 3)
        score = batch["keypoints"][..., 2:]
        seen, faces = sums or (float(score.sum()), float(batch["face"].sum()))
        place = ((points[..., :2] - batch["keypoints"][..., :2]).abs() * score).sum() / max(1.0, 2 * seen)
        expression = F.kl_div(
            said["expression"].log_softmax(-1), batch["expression"].clamp(min=1e-4), reduction="none"
        ).sum(-1)
        return {
            "features": 1 - cosine + 0.5 * F.smooth_l1_loss(said["features"], target),
            "person": F.mse_loss(said["person"], batch["person"]),
            "keypoints": place + F.mse_loss(points[..., 2:], score),
            "expression": (expression * batch["face"]).sum() / max(1.0, faces),
            "cosine": cosine,
            "place": place,
        }

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        weights = dataclasses.asdict(self.distil)
        return torch.stack([weights[key] * losses[key] for key in self.heads if key in losses]).sum()


def backwards(batch: Batch, which: Tensor, label: int, frames: int) -> Batch:
    """The batch with the clips ``which`` (B,) bool shown from last frame to first, as of class ``label``."""
    times = torch.where(which[:, None], frames - 1 - batch["times"].flip(1), batch["times"])
    maps = torch.where(which[:, None, None, None, None], batch["maps"].flip(1), batch["maps"])
    return {**batch, "maps": maps, "times": times, "label": batch["label"].masked_fill(which, label)}


def cut_short(batch: Batch, which: Tensor, last: Tensor, label: int, frames: int) -> Batch:
    """The batch with the clips ``which`` (B,) bool as if they ended at frame ``last`` (B,), as of class ``label``."""
    stretched = (batch["times"] * ((frames - 1) / last.clamp(min=1))[:, None]).round().long()
    times = torch.where(which[:, None], stretched, batch["times"])
    return {**batch, "times": times, "label": batch["label"].masked_fill(which, label)}


def standardise(student: Student, clips: Clips) -> None:
    """Mean and deviation of the teacher's features over the training clips, kept with the weights."""
    chosen = clips.select("train", labelled=False)
    if not len(chosen):
        return
    some = clips.rows[chosen[:: max(1, len(chosen) // 4000)], :2].tolist()
    rows = np.concatenate([clips.rest[shard]["features"][row] for shard, row in some]).astype(np.float32)
    student.feature_mean.copy_(torch.from_numpy(rows.mean(0)))
    student.feature_std.copy_(torch.from_numpy(rows.std(0)).clamp(min=0.05))


def main(argv: list[str]) -> int:
    args = loop.arguments(argv, USAGE)
    if not {"config", "data", "stem", "out"} <= set(args):
        raise HeroError(f"The encoder needs --config, --data, --stem and --out; usage: {USAGE}")
    cfg = loop.read_config(
        args["config"], {"model": VideoEncoderConfig, "distil": DistilConfig, "loop": loop.LoopConfig}
    )
    model_cfg, distil, loop_cfg = cfg["model"], cfg["distil"], cfg["loop"]
    out, device = Path(args["out"]), loop_cfg.device
    clips = Clips(Path(args["data"]))
    if len(clips.labels) > distil.classes:
        raise HeroError(f"The clips have {len(clips.labels)} classes; set distil.classes to at least that.")
    train, val = clips.select("train", True), clips.select("val", True)
    taught, taught_val = clips.select("train", False), clips.select("val", False)
    if not len(train) or not len(val):
        raise HeroError(f"'{args['data']}' needs clips with a class to train on and to validate on; make more.")
    parallel.say(f"training clips: {len(train)} with a class, {len(taught)} that teachers described")
    nearer = torch.tensor([name.startswith(distil.nearer) for name in clips.labels])
    often, seldom = (
        [float(name.startswith(names)) for name in clips.labels] for names in (distil.often, distil.seldom)
    )
    share = torch.tensor(often) - torch.tensor(seldom) / 2 + 1
    retreat = clips.labels.index(RETREAT)
    can_cut = torch.tensor([name in distil.cut and distil.cut_class in clips.labels for name in clips.labels])
    cut_class = clips.labels.index(distil.cut_class) if bool(can_cut.any()) else 0

    torch.manual_seed(loop_cfg.seed)
    person = next((rest["person"].shape[-1] for rest in clips.rest if "person" in rest), 1)
    student = Student(model_cfg, distil, person)
    student.encoder.stem.load_state_dict(loop.load_weights(Path(args["stem"]) / "stem.safetensors"))
    standardise(student, clips)
    student.to(device)

    def to_device(batch: Batch) -> Batch:
        return {key: value.to(device) for key, value in batch.items()}

    def loss_fn(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = train[torch.multinomial(share[clips.rows[train, 3]], distil.clips, True, generator=generator)]
        before = clips.before_event(pick)
        short = (torch.rand(len(pick), generator=generator) < distil.cut_share) & can_cut[clips.rows[pick, 3]]
        short &= (before >= distil.frames - 1) & (before < model_cfg.num_frames - 1)
        last = torch.where(short, before, model_cfg.num_frames - 1)
        drawn = clips.draw(pick, generator, distil.frames, last)
        turned = (torch.rand(len(pick), generator=generator) < distil.reversed_share) & nearer[clips.rows[pick, 3]]
        mine = parallel.share(len(pick))
        batch = backwards(clips.read(drawn[mine]), turned[mine], retreat, model_cfg.num_frames)
        batch = cut_short(batch, short[mine], last[mine], cut_class, model_cfg.num_frames)
        part = (mine.stop - mine.start) * parallel.size() / len(pick)  # a share's mean -> its part of the mean of all
        losses = {key: value * part for key, value in student.class_losses(to_device(batch)).items()}
        if len(taught) and distil.taught_clips:
            pick = taught[torch.randint(len(taught), (distil.taught_clips,), generator=generator)]
            drawn = clips.draw(pick, generator, distil.frames)
            mine = parallel.share(len(pick))
            part = (mine.stop - mine.start) * parallel.size() / len(pick)
            points, faces = clips.sums(drawn)
            scaled = (points * part / parallel.size(), faces * part / parallel.size())
            found = student.taught_losses(to_device(clips.read(drawn[mine])), scaled)
            losses |= {key: value * part for key, value in found.items()}
        return student.total(losses), {key: float(value.detach()) for key, value in losses.items()}

    def average(pool: Tensor, kind: str) -> dict[str, float]:
        sums = dict[str, float]()
        pool = pool[:: max(1, len(pool) // distil.validation_clips)]
        by_frames = sorted(pool.tolist(), key=lambda clip: clips.maps[int(clips.rows[clip, 0])].shape[2])
        parts: list[list[int]] = []
        for clip in by_frames:  # a batch holds clips of as many frames
            same = (
                parts
                and clips.maps[int(clips.rows[parts[-1][0], 0])].shape[2]
                == (clips.maps[int(clips.rows[clip, 0])].shape[2])
            )
            parts[-1].append(clip) if same and len(parts[-1]) < 32 else parts.append([clip])
        for part in parts:
            batch = clips.read(clips.whole(torch.tensor(part)))
            if kind == "backwards":
                batch = backwards(batch, torch.ones(len(part), dtype=torch.bool), retreat, model_cfg.num_frames)
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=loop_cfg.bf16):
                batch = to_device(batch)
                losses = student.taught_losses(batch) if kind == "taught" else student.class_losses(batch)
            for key, value in losses.items():
                sums[key] = sums.get(key, 0.0) + float(value) * len(part) / len(pool)
        return sums

    def validate() -> dict[str, float]:
        """Whole clips of the validation split; the class decides."""
        result = {f"clips_{key}": value for key, value in average(val, "class").items()}
        turned = val[nearer[clips.rows[val, 3]]]
        if len(turned):
            result["backwards_right"] = average(turned, "backwards")["right"]
        if len(taught_val):
            said = average(taught_val, "taught")
            result |= {"pictures_cosine": said["cosine"], "pictures_place": said["place"]}
        return {"score": result["clips_label"], **result}

    files = {"config": Path(args["config"]), "stem": Path(args["stem"]) / "stem.safetensors"}
    loop.record(out, loop.describe("encoder", cfg, files))
    best = loop.run(student, loss_fn, validate, loop_cfg, out)
    if parallel.rank():
        return 0
    if not distil.keep_last:
        student.load_state_dict(loop.load_weights(best))
    state = student.state_dict()
    encoder = {key.removeprefix("encoder."): value.half() for key, value in state.items() if key.startswith("encoder.")}
    loop.save_weights(encoder, out / "encoder.safetensors")
    student.eval()
    with torch.no_grad():
        report = {"encoder": dataclasses.asdict(model_cfg), "labels": clips.labels, "validation": validate()}
    (out / "encoder.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    loop.save_weights(
        {key.removeprefix("heads.label."): value for key, value in state.items() if key.startswith("heads.label.")},
        out / "label_head.safetensors",
    )
    print(f"wrote {out / 'encoder.safetensors'}", flush=True)
    return 0
