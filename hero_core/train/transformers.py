# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the masked or the residual transformer on pairs of frozen video features and tokens:

python -m hero_core.train {masked,residual} --config FILE --pairs FILE --out FOLDER [--init FILE]

``--init`` starts from weights: best.safetensors of another run, or a converted model.safetensors.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hero_core.config import TransformerConfig
from hero_core.errors import HeroError
from hero_core.masked import MaskedTransformer, masked_loss
from hero_core.residual import ResidualTransformer
from hero_core.train import loop, pairs, parallel
from hero_core.transformer import padding_of

USAGE = "python -m hero_core.train {masked,residual} --config FILE --pairs FILE --out FOLDER [--init FILE]"
ALL = slice(None)
Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # local, pooled, ids, lengths: see Pairs.batch


@dataclass(frozen=True)
class DataConfig:
    batch: int = 64
    crop: bool = True  # a third of the samples lose a token, as in the official data set
    # Frame features times this, plus noise of this share of their spread: few clips must not be learned by heart.
    feature_noise: float = 0.0
    # Share of the samples that get the reaction of another clip that is alike, where the pairs say which are: what is
    # learned then is what such clips call for, not which recording happened to be put beside this one.
    share_reactions: float = 0.0
    # Of the samples that lose their intention (cond_drop_prob), this share loses the frames in the memory as well.
    # The official program and guidance in the sampler keep the frames; so this only teaches to do without.
    drop_memory: float = 0.0
    # The official program reads its data once: which samples share a batch, their reaction, crop and view then
    # stay as they are for all epochs, and so does the order of the batches.
    frozen_batches: bool = False
    # The official program chooses its weights by the test list. Numbers on it then say too much.
    select_on_test: bool = False
    # The validation loss asks for the very recordings of other people, and likes best a model that hardly moves. True
    # keeps the weights of the last step in place of those that please it most.
    keep_last: bool = False


class Frozen:
    """Batches that are drawn once and then come round in the same order."""

    def __init__(self, data: pairs.Pairs, clips: Tensor, cfg: DataConfig, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        parts = clips[torch.randperm(len(clips), generator=generator)].split(cfg.batch)
        if len(parts) > 1 and len(parts[-1]) < cfg.batch:
            parts = parts[:-1]  # the official loader drops what does not fill a batch
        self.batches = [data.batch(part, generator, cfg.crop) for part in parts]
        self.place = 0

    def next(self) -> Batch:
        batch = self.batches[self.place % len(self.batches)]
        self.place += 1
        return batch


def main(argv: list[str]) -> int:
    args = loop.arguments(argv, USAGE)
    if not {"config", "pairs", "out"} <= set(args):
        raise HeroError(f"Training a transformer needs --config, --pairs and --out; usage: {USAGE}")
    cfg = loop.read_config(args["config"], {"model": TransformerConfig, "data": DataConfig, "loop": loop.LoopConfig})
    model_cfg, data_cfg, loop_cfg = cfg["model"], cfg["data"], cfg["loop"]
    data = pairs.load(args["pairs"])
    if data.local.shape[-1] != model_cfg.clip_dim or data.ids.shape[-1] != model_cfg.num_quantizers:
        raise HeroError(
            f"The pairs have features of width {data.local.shape[-1]} and {data.ids.shape[-1]} token layers; the "
            f"config says clip_dim {model_cfg.clip_dim} and num_quantizers {model_cfg.num_quantizers}."
        )
    train, val = data.clips("train"), data.clips("test" if data_cfg.select_on_test else "val")
    if data_cfg.share_reactions and data.alike is None:
        parallel.say(f"'{args['pairs']}' does not say which clips are alike: each keeps its own reactions.")
    if not len(train) or not len(val):
        raise HeroError(f"'{args['pairs']}' has no clips with reactions to train and validate on.")
    if data_cfg.select_on_test:
        loop.warn_of_selection()
    spread = data.local[train].float().std()
    out, device = Path(args["out"]), loop_cfg.device
    torch.manual_seed(loop_cfg.seed)
    model = (MaskedTransformer if argv[0] == "masked" else ResidualTransformer)(model_cfg)
    if "init" in args:
        loop.start_from(model, args["init"], argv[0])
    model.to(device)
    frozen = Frozen(data, train, data_cfg, loop_cfg.seed) if data_cfg.frozen_batches else None
    parallel.say(f"{len(train)} clips to train on, {len(val)} to validate; {len(data.ids)} reactions")

    def loss_of(batch: Batch, generator: torch.Generator, mine: slice, drop_memory: float) -> tuple[Tensor, Tensor]:
        """What ``model.loss`` gives for a batch, but drawn for all of it and computed for ``mine`` alone.

        Of several processes, loss and accuracy are weighted so that their mean is that of the whole batch.
        """
        local, pooled, ids, lengths = batch
        drop = model.draw_drop(len(ids), generator)
        if drop_memory:
            lost = drop & (torch.rand(len(ids), generator=generator) < drop_memory)
            local = local * ~lost[:, None, None]  # the intention that sees them is dropped as well
        condition = model.prepare(local[mine].to(device), pooled[mine].to(device), drop[mine].to(device))
        if isinstance(model, MaskedTransformer):
            inputs, labels = model.corrupt(ids[..., 0], lengths, generator)
            padding = padding_of(lengths, ids.shape[1])
            logits = model(inputs[mine].to(device), condition, padding[mine].to(device))
            counted = (labels != model.mask_id).sum(1)
            if not int(counted[mine].sum()):  # nothing to predict in this share
                return logits.sum() * 0.0, torch.zeros((), device=device)
            loss, accuracy = masked_loss(logits, labels[mine].to(device), ignore=model.mask_id)
        else:
            layer = model.draw_layers(len(ids), generator)
            counted = lengths
            own = (x[mine].to(device) for x in (ids, layer, lengths))
            ids_m, layer_m, lengths_m = own
            loss, accuracy = model.layer_loss(ids_m, layer_m, condition, lengths_m)
        parts = 1 if mine == ALL else parallel.size()
        weight = parts * float(counted[mine].sum()) / float(counted.sum())
        return loss * weight, accuracy * weight

    def loss_fn(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        if frozen is None:
            pick = torch.randint(len(train), (data_cfg.batch,), generator=generator)
            batch = data.batch(train[pick], generator, data_cfg.crop, data_cfg.share_reactions)
        else:
            batch = frozen.next()
        if data_cfg.feature_noise:
            local = batch[0] + torch.randn(batch[0].shape, generator=generator) * (spread * data_cfg.feature_noise)
            batch = (local, local.mean(1), *batch[2:])
        loss, accuracy = loss_of(batch, generator, parallel.share(len(batch[2])), data_cfg.drop_memory)
        return loss, {"accuracy": float(accuracy)}

    def validate() -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)  # the same corruption each time
        rounds = range(max(1, 256 // len(val)))
        losses = [loss_of(data.batch(val, generator, False), generator, ALL, 0.0) for _ in rounds]
        mean = torch.stack([torch.stack(x) for x in losses]).mean(0)
        return {"score": float(mean[0]), "val_loss": float(mean[0]), "val_accuracy": float(mean[1])}

    def place() -> dict[str, Tensor]:
        return {} if frozen is None else {"place": torch.tensor(frozen.place)}

    def set_place(state: dict[str, Tensor]) -> None:
        if frozen is not None:
            frozen.place = int(state["place"])

    files: dict[str, Path] = {name: Path(args[name]) for name in ("config", "pairs", "init") if name in args}
    loop.record(out, loop.describe(argv[0], cfg, files, select_on_test=data_cfg.select_on_test))
    best = loop.run(model, loss_fn, validate, loop_cfg, out, place, set_place)
    if parallel.rank():
        return 0
    if data_cfg.keep_last:
        loop.save_weights(model.state_dict(), best)
    (out / "model.json").write_text(json.dumps(dataclasses.asdict(model_cfg), indent=1), encoding="utf-8")
    print(f"best weights: {best}", flush=True)
    return 0
