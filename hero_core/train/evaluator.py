# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the feature extractor in which FID is measured, and with another seed the classifier of plausibility:

    python -m hero_core.train evaluator --config FILE --motions FILE --out FOLDER [--name NAME]

The paper does not say how its extractor was trained. This one learns from real reactions to tell kinds of reaction and
classes of video apart by its embedding. Its numbers are not comparable to the paper's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from hero_core import humanml3d
from hero_core.errors import HeroError
from hero_core.evaluate import data as reactions
from hero_core.evaluate import evaluator as extractors
from hero_core.evaluate.evaluator import UNIT, Evaluator, EvaluatorConfig
from hero_core.evaluate.plausibility import wilson
from hero_core.train import loop, parallel

USAGE = "python -m hero_core.train evaluator --config FILE --motions FILE --out FOLDER [--name NAME]"


@dataclass(frozen=True)
class DataConfig:
    """How batches are drawn from the real reactions, and how much each question counts."""

    batch: int = 64
    longest: int = 200  # frames; the rest of a motion is not seen
    shortest: int = 24  # frames of the shortest crop
    crop_share: float = 0.5  # of the samples are cropped to a random stretch
    mirror: bool = True  # half of the samples, where the file has mirrored features
    noise: float = 0.0  # deviation of noise on the normalised features
    feat_bias: float = 1.0  # official statistics: 5, which makes the root's numbers 25 times as large
    label_smoothing: float = 0.1
    reaction_weight: float = 1.0
    stimulus_weight: float = 1.0


class Classifier(nn.Module):
    """An evaluator and two linear heads on its embedding."""

    def __init__(self, cfg: EvaluatorConfig, reactions: int, stimuli: int) -> None:
        super().__init__()
        self.evaluator = Evaluator(cfg)
        self.heads = nn.ModuleDict({"reaction": nn.Linear(cfg.out, reactions), "stimulus": nn.Linear(cfg.out, stimuli)})

    def forward(self, motions: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        embedding = self.evaluator(motions, lengths)
        return {key: head(embedding) for key, head in self.heads.items()}


def answers(logits: Tensor, label: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the samples with a label (-1 = none): cross-entropy, right answers, samples."""
    known = label >= 0
    entropy = F.cross_entropy(logits.float(), label, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
    return entropy, ((logits.argmax(-1) == label) & known).sum(), known.sum()


def main(argv: list[str]) -> int:
    args = loop.arguments(argv, USAGE)
    if not {"config", "motions", "out"} <= set(args):
        raise HeroError(f"The evaluator needs --config, --motions and --out; usage: {USAGE}")
    cfg = loop.read_config(args["config"], {"model": EvaluatorConfig, "data": DataConfig, "loop": loop.LoopConfig})
    model_cfg, data_cfg, loop_cfg = cfg["model"], cfg["data"], cfg["loop"]
    out, device = Path(args["out"]), loop_cfg.device
    motions = reactions.load_motions(args["motions"])
    train, val, test = (motions.rows(split) for split in ("train", "val", "test"))
    if not len(train) or not len(val):
        raise HeroError(f"'{args['motions']}' has no motions to train and validate on; 16 frames are the least.")
    mean, std = humanml3d.statistics(torch.cat([motions.get(int(i)) for i in train]), data_cfg.feat_bias)
    labels = {"reaction": motions.label, "stimulus": motions.stimulus}
    weights = {"reaction": data_cfg.reaction_weight, "stimulus": data_cfg.stimulus_weight}
    torch.manual_seed(loop_cfg.seed)
    model = Classifier(model_cfg, max(1, len(motions.reactions)), max(1, len(motions.stimuli))).to(device)
    parallel.say(
        f"{len(train)} reactions to train on, {len(val)} to validate, {len(test)} to test; "
        f"{len(motions.reactions)} kinds, {len(motions.stimuli)} classes of video"
    )

    def ask(rows: Tensor, generator: torch.Generator | None) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """What the heads say of motions (B,): random stretches with a generator, else whole ones."""
        parts: list[Tensor] = []
        draws = None if generator is None else torch.rand(len(rows), 4, generator=generator).tolist()
        for i, row in enumerate(rows.tolist()):
            mirrored = draws is not None and data_cfg.mirror and draws[i][0] < 0.5
            x = (motions.get(row, mirrored) - mean) / std
            n = min(len(x), data_cfg.longest) // UNIT * UNIT
            start = 0
            if draws is not None and draws[i][1] < data_cfg.crop_share and n > data_cfg.shortest:
                least, most = data_cfg.shortest // UNIT, n // UNIT
                n = (least + int(draws[i][2] * (most - least + 1))) * UNIT
                start = int(draws[i][3] * (len(x) - n + 1))
            parts.append(x[start : start + n])
        batch = extractors.pad(parts)
        if generator is not None and data_cfg.noise:
            noise = data_cfg.noise * torch.randn(batch.shape, generator=generator)
            batch = batch + noise * (batch != 0).any(-1, keepdim=True)
        mine = slice(0, len(rows)) if generator is None else parallel.share(len(rows))
        said = model(batch[mine].to(device), torch.tensor([len(x) for x in parts[mine]]))
        smoothing = 0.0 if generator is None else data_cfg.label_smoothing
        return {key: answers(logits, labels[key][rows[mine]].to(device), smoothing) for key, logits in said.items()}

    def loss_fn(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = train[torch.randint(len(train), (data_cfg.batch,), generator=generator)]
        sums = ask(rows, generator)
        # Means over the whole batch, of which the sums are this process's share.
        known = {key: max(1, int((labels[key][rows] >= 0).sum())) / parallel.size() for key in sums}
        losses = [weights[key] * entropy / known[key] for key, (entropy, _, _) in sums.items()]
        numbers = {f"{key}_accuracy": float(right / known[key]) for key, (_, right, _) in sums.items()}
        return torch.stack(losses).sum(), numbers

    def examine(rows: Tensor) -> dict[str, float]:
        totals = {key: torch.zeros(3) for key in weights}
        for part in rows.split(data_cfg.batch):
            for key, sums in ask(part, None).items():
                totals[key] += torch.stack([x.float().cpu() for x in sums])
        score = sum(weights[key] * float(t[0] / t[2].clamp(min=1)) for key, t in totals.items())
        return {"score": score} | {f"{key}_accuracy": float(t[1] / t[2].clamp(min=1)) for key, t in totals.items()}

    files = {"config": Path(args["config"]), "motions": Path(args["motions"])}
    loop.record(out, loop.describe("evaluator", cfg, files))
    best = loop.run(model, loss_fn, lambda: examine(val), loop_cfg, out)
    if parallel.rank():
        return 0
    model.load_state_dict(loop.load_weights(best))
    model.eval()
    state = {**model.evaluator.state_dict(), "mean": mean, "std": std}
    state |= {f"heads.{key}": value for key, value in model.heads.state_dict().items()}
    report = extractors.describe(
        model_cfg,
        args.get("name", f"own evaluator, seed {loop_cfg.seed}"),
        motions.reactions or ("unknown",),
        motions.stimuli or ("unknown",),
    )
    with torch.no_grad():
        for name, rows in (("validation", val), ("test", test)):
            if len(rows):
                found = examine(rows)
                for key in weights:
                    hits = found[f"{key}_accuracy"]
                    count = int((labels[key][rows] >= 0).sum())
                    if count:
                        found[f"{key}_low"], found[f"{key}_high"] = wilson(hits * count, count)
                report[name] = found
                print(f"{name}: " + "  ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
    loop.save_weights(state, out / extractors.WEIGHTS)
    (out / extractors.CONFIG).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out / extractors.WEIGHTS}", flush=True)
    return 0
