# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips and reactions -> pairs.safetensors, with the frozen encoder and tokenizer:

    python -m training.prepare --stimuli build/stimuli --data DATA --encoder build/runs/encoder \
        --tokenizer build/runs/tokenizer --out build/runs/pairs.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hero_core import humanml3d
from hero_core.config import RVQConfig, VideoEncoderConfig
from hero_core.rvq import RVQVAE
from hero_core.tc_clip import VideoEncoder
from hero_core.train import loop, motions
from hero_core.train.pairs import SPLITS
from training.stimuli.dataset import Stimuli

MAX_TOKENS = 50


def load_tokenizer(folder: Path) -> tuple[RVQVAE, Tensor, Tensor]:
    state = loop.load_weights(folder / "tokenizer.safetensors")
    config = RVQConfig(**json.loads((folder / "report.json").read_text())["model"])
    mean, std = state.pop("mean"), state.pop("std")
    model = RVQVAE(config)
    model.load_state_dict(state)
    return model.eval(), mean, std


def load_encoder(folder: Path) -> VideoEncoder:
    values = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))["encoder"]
    config = VideoEncoderConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    model = VideoEncoder(config)
    model.load_state_dict({k: v.float() for k, v in loop.load_weights(folder / "encoder.safetensors").items()})
    return model.eval()


def views(frames: np.ndarray, rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[int]]:
    """(16, S, S, 3) uint8 -> (2 * count, 16, S, S, 3): the clip and its mirror image, each also with
    other light, colour and framing, the same for all frames of a view."""
    out = []
    for i in range(count):
        x = frames.astype(np.float32)
        if i:
            gain = rng.uniform(0.75, 1.25, 3) * rng.uniform(0.8, 1.2)
            x = (x - 128) * rng.uniform(0.8, 1.2) + 128
            x = np.clip(x * gain, 0, 255)
            size = frames.shape[1]
            side = int(size * rng.uniform(0.82, 1.0))
            top, left = rng.integers(0, size - side + 1, 2)
            grid = (np.arange(size) * side // size).astype(int)
            x = x[:, top + grid][:, :, left + grid]
        x = x.astype(np.uint8)
        out += [x, x[:, :, ::-1]]
    return np.stack(out), [0, 1] * count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("stimuli", "data", "encoder", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--views", type=int, default=2, help="looks of each clip, each also mirrored")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer, mean, std = load_tokenizer(args.tokenizer)
    encoder = load_encoder(args.encoder)
    stimuli = Stimuli(args.stimuli, args.data)
    rng = np.random.default_rng(args.seed)
    local, split, ids, ids_mirrored, owner = [], [], [], [], []
    mirrored: list[int] = []
    known: dict[str, tuple[Tensor, Tensor]] = {}

    def tokens(joints: np.ndarray) -> Tensor:
        rows = motions.features(joints)
        n = min(len(rows) // 4, MAX_TOKENS)
        if n < 4:
            raise ValueError("too short")
        found = tokenizer.encode_tokens(((rows[: 4 * n] - mean) / std)[None])[0]
        return torch.nn.functional.pad(found, (0, 0, 0, MAX_TOKENS - n), value=-1)

    with torch.inference_mode():
        clips = [c for s in SPLITS for c in stimuli.clips(split=s)]
        for number, clip in enumerate(clips):
            looks, mirrored = views(stimuli.frames(clip), rng, args.views)
            features = [encoder(encoder.normalise(torch.from_numpy(look.copy())[None]))[0] for look in looks]
            local.append(torch.stack(features))
            split.append(SPLITS.index(clip["split"]))
            for recipe, (joints, flip) in zip(clip["reactions"], stimuli.reactions(clip), strict=True):
                key = json.dumps(recipe["parts"])
                if key not in known:
                    known[key] = (tokens(joints), tokens(humanml3d.mirror(joints)))
                straight, turned = known[key][:: -1 if flip else 1]
                ids.append(straight)
                ids_mirrored.append(turned)
                owner.append(number)
            if number % 50 == 0:
                print(f"{number}/{len(clips)} clips", flush=True)
    loop.save_weights(
        {
            "local": torch.stack(local).half(),
            "split": torch.tensor(split),
            "ids": torch.stack(ids),
            "ids_mirrored": torch.stack(ids_mirrored),
            "clip": torch.tensor(owner),
            "mirrored": torch.tensor(mirrored),
        },
        args.out,
    )
    print(f"{args.out}: {len(local)} clips, {len(ids)} reactions, {len(known)} different ones")


if __name__ == "__main__":
    main()
