# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the head that predicts how long a reaction is, from the intention of a trained masked transformer:

python -m hero_core.train length --config FILE --pairs FILE --masked RUN --out FOLDER

It is measured against the histogram of training lengths, which knows nothing of the clip. These numbers say
how well lengths are predicted and belong beside, not among, those of reactions with given lengths.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hero_core.config import LengthConfig, TransformerConfig
from hero_core.errors import HeroError
from hero_core.length import LengthEstimator, draw, median
from hero_core.masked import MaskedTransformer
from hero_core.motion import FPS
from hero_core.train import loop, pairs

USAGE = "python -m hero_core.train length --config FILE --pairs FILE --masked RUN --out FOLDER [--init FILE]"


@dataclass(frozen=True)
class DataConfig:
    batch: int = 64
    frames_per_token: int = 4
    # Noise of this share of the intentions' spread: few clips must not be learned by heart.
    noise: float = 0.0
    select_on_test: bool = False


def load_masked(run: Path) -> MaskedTransformer:
    """The trained masked transformer of a run folder (model.json, best.safetensors)."""
    try:
        cfg = TransformerConfig(**json.loads((run / "model.json").read_text(encoding="utf-8")))
    except (OSError, TypeError, json.JSONDecodeError) as err:
        raise HeroError(f"'{run}' is no finished run of the masked stage; train that first.") from err
    model = MaskedTransformer(cfg)
    loop.start_from(model, run / "best.safetensors", "masked")
    return model.eval().requires_grad_(False)


@torch.no_grad()
def intentions(model: MaskedTransformer, local: Tensor) -> Tensor:
    """(C, V, T, d_vl) features of clips -> (C, V, d_vl) intentions."""
    parts = [x.float() for x in local.flatten(0, 1).split(256)]
    return torch.cat([model.intention(x, x.mean(1)) for x in parts]).unflatten(0, local.shape[:2])


def histogram(tokens: Tensor, size: int) -> Tensor:
    """Logits (size,) of the share of each token count; each is counted once more, lest an unseen one be impossible."""
    return (torch.bincount(tokens - 1, minlength=size).float() + 1).log()


def interval(values: Tensor) -> list[float]:
    """Mean and half width of its 95 % interval (normal) of one number per clip."""
    spread = float(values.std()) if len(values) > 1 else math.nan
    return [float(values.mean()), 1.96 * spread / math.sqrt(len(values))]


@torch.no_grad()
def measure(
    model: LengthEstimator, e: Tensor, tokens: Tensor, clip: Tensor, plain: Tensor, seconds: float
) -> dict[str, list[float]]:
    """How well lengths of reactions are predicted, each number with its 95 % interval over clips.

    Args:
        e: (R, d_vl) intentions of the clips that R reactions belong to.
        tokens, clip: (R,) length and clip of each.
        plain: (K,) logits of the histogram of training lengths.
        seconds: of a token.

    Returns:
        Negative log-likelihood in nats of the model, of the histogram, and what the model gains; mean absolute
        error in seconds of the model's median, of the histogram's, and of lengths drawn as for takes.
    """
    logits = model.eval()(e)
    base = plain.expand_as(logits)
    errors = {
        "nll": F.cross_entropy(logits, tokens - 1, reduction="none"),
        "nll_histogram": F.cross_entropy(base, tokens - 1, reduction="none"),
        "error_s": (median(logits) - tokens).abs() * seconds,
        "error_s_histogram": (median(base) - tokens).abs() * seconds,
        "error_s_drawn": (torch.tensor(draw(logits, range(len(tokens)))) - tokens).abs() * seconds,
    }
    errors["nll_gain"] = errors["nll_histogram"] - errors["nll"]
    # Reactions to one clip are no independent measurements of it.
    clips, place = clip.unique(return_inverse=True)
    counts = torch.bincount(place)
    means = {k: torch.zeros(len(clips)).index_add_(0, place, v.float()) / counts for k, v in errors.items()}
    return {key: interval(value) for key, value in means.items()}


def main(argv: list[str]) -> int:
    args = loop.arguments(argv, USAGE)
    if not {"config", "pairs", "masked", "out"} <= set(args):
        raise HeroError(f"The length head needs --config, --pairs, --masked and --out; usage: {USAGE}")
    cfg = loop.read_config(args["config"], {"model": LengthConfig, "data": DataConfig, "loop": loop.LoopConfig})
    model_cfg, data_cfg, loop_cfg = cfg["model"], cfg["data"], cfg["loop"]
    data = pairs.load(args["pairs"])
    masked = load_masked(Path(args["masked"]))
    if not data.local.shape[-1] == masked.cfg.clip_dim == model_cfg.input_dim:
        raise HeroError(
            f"The pairs have features of width {data.local.shape[-1]}, the masked transformer reads "
            f"{masked.cfg.clip_dim}, and the config's input_dim is {model_cfg.input_dim}; they must be the same."
        )
    tokens = data.lengths
    if not len(tokens) or int(tokens.max()) > model_cfg.max_tokens:
        raise HeroError(f"'{args['pairs']}' has no reactions, or longer ones than max_tokens {model_cfg.max_tokens}.")
    parts = {split: torch.isin(data.clip, data.clips(split)).nonzero()[:, 0] for split in pairs.SPLITS}
    chosen = "test" if data_cfg.select_on_test else "val"
    if not len(parts["train"]) or not len(parts[chosen]):
        raise HeroError(f"'{args['pairs']}' has no clips with reactions to train and validate on.")
    if data_cfg.select_on_test:
        loop.warn_of_selection()
    e = intentions(masked, data.local)  # (C, V, D)
    spread = e[data.clip[parts["train"]]].std((0, 1))
    plain = histogram(tokens[parts["train"]], model_cfg.max_tokens)
    seconds = data_cfg.frames_per_token / FPS
    out, device = Path(args["out"]), loop_cfg.device
    torch.manual_seed(loop_cfg.seed)
    model = LengthEstimator(model_cfg)
    if "init" in args:
        loop.start_from(model, args["init"], "length")
    model.to(device)
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in parts.items())
    print(f"reactions: {counts}", flush=True)

    def loss_fn(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        train = parts["train"]
        rows = train[torch.randint(len(train), (data_cfg.batch,), generator=generator)]
        views = torch.randint(e.shape[1], (len(rows),), generator=generator)
        x = e[data.clip[rows], views]
        if data_cfg.noise:
            x = x + torch.randn(x.shape, generator=generator) * spread * data_cfg.noise
        return F.cross_entropy(model(x.to(device)), (tokens[rows] - 1).to(device)), {}

    def examine(split: str) -> dict[str, list[float]]:
        rows = parts[split]
        model.cpu()
        numbers = measure(model, e[data.clip[rows], 0], tokens[rows], data.clip[rows], plain, seconds)
        model.to(device)
        return numbers

    def validate() -> dict[str, float]:
        numbers = examine(chosen)
        return {"score": numbers["nll"][0], **{key: value[0] for key, value in numbers.items()}}

    files = {"config": Path(args["config"]), "pairs": Path(args["pairs"]), "masked": Path(args["masked"])}
    files["masked"] /= "best.safetensors"
    if "init" in args:
        files["init"] = Path(args["init"])
    loop.record(out, loop.describe("length", cfg, files, select_on_test=data_cfg.select_on_test))
    best = loop.run(model, loss_fn, validate, loop_cfg, out)
    model.load_state_dict(loop.load_weights(best))
    (out / "model.json").write_text(json.dumps(dataclasses.asdict(model_cfg), indent=1), encoding="utf-8")
    report = {
        "what": "predicted lengths, to be reported apart from reactions with given lengths; [mean, half 95 % interval]",
        "select_on_test": data_cfg.select_on_test,
        **{split: {"reactions": len(rows), **examine(split)} for split, rows in parts.items() if len(rows)},
    }
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    for split in ("val", "test"):
        if len(parts[split]):
            print(f"{split}: {_line(examine(split))}", flush=True)
    return 0


def _line(n: dict[str, list[float]]) -> str:
    def one(key: str) -> str:
        return f"{n[key][0]:.2f} ± {n[key][1]:.2f}"

    return (
        f"negative log-likelihood {one('nll')} nats (histogram {one('nll_histogram')}, gain {one('nll_gain')}), "
        f"error of the median {one('error_s')} s (histogram {one('error_s_histogram')}), drawn {one('error_s_drawn')} s"
    )
