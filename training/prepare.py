# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips and reactions -> what the transformers and the evaluation read, with the frozen encoder and tokenizer:

    python -m training.prepare --stimuli build/stimuli,build/composites --maps build/maps --data DATA \
        --encoder build/runs/encoder --tokenizer build/runs/tokenizer --out build/pairs

Writes ``pairs.safetensors`` (``hero_core.train.pairs``), ``pairs.json`` (the classes of the clips, and which kinds of
reaction fit each) and ``reactions.safetensors`` with ``reactions.json``: the features of every reaction as it was
recorded, for the evaluation. Some clips of things that come nearer are there a second time, shown backwards: what goes
away is met calmly.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hero_core import humanml3d
from hero_core.errors import HeroError
from hero_core.output import whole_file
from hero_core.train import loop, motions
from hero_core.train.data import load_encoder, load_tokenizer, tokens
from hero_core.train.encoder import RETREAT
from hero_core.train.pairs import SPLITS
from training.look import before_event
from training.stimuli.catalogue import GOING, GROUPS, STIMULI
from training.stimuli.dataset import FRAMES, Stimuli
from training.stimuli.reactions import reactions

NEARER = ("approach", "vehicle")
BACKWARDS = 4  # one in so many of those clips is also there backwards
CUT, WALKS_UP = ("push", "hand_out", "punch", "kick"), "approach_calmly"
ABOUT = 0.3  # seconds between moments that count as the same
SHORT = 3  # one in so many of these clips is also there without what happens at its end


def clips_of(stimuli: Stimuli, rng: np.random.Generator, redraw: int = 0) -> list[dict[str, Any]]:
    """Records of a folder, and after them those of the clips that are also shown backwards, or cut short.

    redraw: so many reactions are chosen anew for each clip; 0 keeps those that were chosen when it was drawn.
    """
    records = list(stimuli.records)
    if redraw:
        for i, record in enumerate(records):
            stim = STIMULI[record["cls"]]
            if stim.reactions:  # a true pair keeps its reaction
                found = reactions(stimuli.motions, record["split"], stim, record["event"], rng, redraw)
                records[i] = record | {"reactions": found}
    turned = []
    for record in records:
        if record["cls"].startswith(NEARER) and rng.random() < 1 / BACKWARDS:
            found = reactions(stimuli.motions, record["split"], GOING, 0.0, rng)
            if found:
                turned.append(record | {"cls": RETREAT, "reactions": found, "backwards": True})
        last = before_event(record, FRAMES)
        if record["cls"] in CUT and 7 <= last < FRAMES - 1 and rng.random() < 1 / SHORT:
            found = reactions(stimuli.motions, record["split"], STIMULI[WALKS_UP], record["event"] * 0.6, rng)
            if found:
                turned.append(record | {"cls": WALKS_UP, "reactions": found, "last": last})
    return records + turned


def answered_alike(clip: dict[str, Any], classes: list[str]) -> int:
    """A number that clips of one class share in which it happens at about the same moment; -1 for a true pair."""
    if clip["cls"] in STIMULI and not STIMULI[clip["cls"]].reactions:
        return -1
    return classes.index(clip["cls"]) * 10 + min(int(clip["event"] / ABOUT), 9)


def write_reactions(
    all_clips: list[tuple[Stimuli, dict[str, Any]]], classes: list[str], kinds: list[str], out: Path
) -> dict[str, tuple[Tensor, Tensor]]:
    """Features of every reaction as it was recorded, and of its mirror image: what the evaluation reads.

    Returns them by their recipe.
    """
    known: dict[str, tuple[Tensor, Tensor]] = {}
    rows: list[Tensor] = []
    mirrored: list[Tensor] = []
    about: list[tuple[int, int, int, int]] = []  # kind, class, split, clip
    for index, (stimuli, clip) in enumerate(all_clips):
        for recipe in clip["reactions"]:
            key = json.dumps(recipe["parts"])
            if key not in known:
                joints = stimuli.motions.join(recipe["parts"])[: recipe["frames"]]
                known[key] = (motions.features(joints), motions.features(humanml3d.mirror(joints)))
            straight, turned = known[key][:: -1 if recipe["mirror"] else 1]
            rows.append(straight)
            mirrored.append(turned)
            split = SPLITS.index(clip["split"])
            about.append((kinds.index(recipe["label"]), classes.index(clip["cls"]), split, index))
    label, stimulus, split_of, owner = torch.tensor(about).T.contiguous()
    loop.save_weights(
        {
            "features": torch.cat(rows).half(),
            "features_mirrored": torch.cat(mirrored).half(),
            "offsets": torch.tensor(np.cumsum([0, *map(len, rows)])),
            "label": label,
            "stimulus": stimulus,
            "split": split_of,
            "clip": owner,
        },
        out / "reactions.safetensors",
    )
    return known


def write_tokens(
    all_clips: list[tuple[Stimuli, dict[str, Any]]],
    recorded: dict[str, tuple[Tensor, Tensor]],
    run: Path,
    out: Path,
) -> None:
    """Tokens of every reaction and of its mirror image, and whose it is."""
    tokenizer, mean, std = load_tokenizer(run)
    ids, ids_mirrored, owner = [], [], []
    known: dict[str, tuple[Tensor, Tensor]] = {}
    for index, (_, clip) in enumerate(all_clips):
        for recipe in clip["reactions"]:
            key = json.dumps(recipe["parts"])
            if key not in known:
                straight, turned = (tokens(tokenizer, look, mean, std) for look in recorded[key])
                known[key] = (straight, turned)
            straight, turned = known[key][:: -1 if recipe["mirror"] else 1]
            ids.append(straight)
            ids_mirrored.append(turned)
            owner.append(index)
    loop.save_weights(
        {"ids": torch.stack(ids), "ids_mirrored": torch.stack(ids_mirrored), "clip": torch.tensor(owner)}, out
    )
    print(f"{len(ids)} reactions, {len(known)} different ones", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stimuli", required=True, help="folders of clips, separated by commas")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("maps", "encoder", "tokenizer"):
        parser.add_argument(
            f"--{name}", type=Path, help="without them only the reactions, or those and their tokens, are written"
        )
    parser.add_argument("--bf16", action="store_true", help="watch the clips in bfloat16")
    parser.add_argument("--redraw", type=int, default=0, help="choose so many reactions anew for each clip")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    classes = sorted([*STIMULI, RETREAT])
    kinds = sorted({kind for s in (*STIMULI.values(), GOING) for kind in s.reactions} | {"partner"})
    all_clips: list[tuple[Stimuli, dict[str, Any]]] = []
    for folder in args.stimuli.split(","):
        stimuli = Stimuli(folder, args.data)
        all_clips += [(stimuli, clip) for clip in clips_of(stimuli, rng, args.redraw)]
    if not all_clips:
        raise HeroError(f"There are no clips in {args.stimuli}.")
    clip_class = [classes.index(clip["cls"]) for _, clip in all_clips]
    fitting = {name: sorted(s.reactions) or ["partner"] for name, s in (*STIMULI.items(), (RETREAT, GOING))}
    coded = args.out / "tokens.safetensors"
    if not coded.exists():
        recorded = write_reactions(all_clips, classes, kinds, args.out)
    for file, content in (
        ("pairs.json", {"classes": classes, "clip_class": clip_class, "groups": GROUPS, "fitting": fitting}),
        ("reactions.json", {"reactions": kinds, "stimuli": classes, "groups": GROUPS, "fitting": fitting}),
    ):
        with whole_file(args.out / file) as path:
            path.write_text(json.dumps(content), encoding="utf-8")
    if args.tokenizer is None:
        return
    if not coded.exists():
        write_tokens(all_clips, recorded, args.tokenizer, coded)
    if args.encoder is None:
        return

    encoder = load_encoder(args.encoder)
    local: list[Tensor] = []
    opened: tuple[str, Any] = ("", None)
    began = time.monotonic()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        for index, (stimuli, clip) in enumerate(all_clips):
            name = f"{stimuli.folder.name}_{Path(clip['shard']).stem}"
            if opened[0] != name:
                opened = (name, np.load(args.maps / f"{name}.npy", mmap_mode="r"))
            maps = torch.from_numpy(opened[1][clip["row"]].astype(np.float32))  # (V, F, C, 7, 7)
            if clip.get("backwards"):
                maps = maps.flip(1)
            if "last" in clip:
                maps = maps[:, np.linspace(0, clip["last"], FRAMES).round().astype(int)]
            local.append(encoder.contextualise(maps).half())
            if index % 200 == 199:
                left = (time.monotonic() - began) / len(local) * (len(all_clips) - index)
                print(f"{index + 1}/{len(all_clips)} clips, {left / 60:.1f} min to go", flush=True)
    loop.save_weights(
        {
            "local": torch.stack(local),
            "split": torch.tensor([SPLITS.index(clip["split"]) for _, clip in all_clips]),
            "mirrored": torch.tensor([0, 1]),
            "alike": torch.tensor([answered_alike(clip, classes) for _, clip in all_clips]),
            **loop.load_weights(coded),
        },
        args.out / "pairs.safetensors",
    )
    print(f"{args.out}: {len(local)} clips")


if __name__ == "__main__":
    main()
