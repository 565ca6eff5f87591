# SPDX-License-Identifier: GPL-3.0-or-later
"""What the trained stem sees in clips: the food of ``python -m hero_core.train encoder``.

    python -m training.look --stem build/runs/stem --stimuli build/stimuli,build/composites --distil build/distil/data \
        --photos PICTURES --out build/maps

The stem is frozen from here on, so its maps are made once. Clips with a class (``--stimuli``, folders of
``training.stimuli``) give their 16 frames in two views: the clip as it is, and its mirror image in another light,
colour and framing, with a photograph's grain, blur and compression. Clips that the teachers described (``--distil``,
shards of ``training.distil_data``) give four frames once, with the teachers' words. A shard is ``NAME.npy``, float16
(clips, V, F, 704, 7, 7), and ``NAME.npz`` with ``label`` (-1 = none), ``split``, ``clip``, ``times`` (clips, F),
``before`` (the last frame before anything happens) and what the teachers said. ``labels.json`` names the classes.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hero_core.stem import ConvStem
from hero_core.train import loop
from hero_core.train.encoder import RETREAT, SPLITS, TAUGHT
from training.stimuli.shards import write_arrays

# People who only come up or talk: films show them closer than eyes do, and being close must not look like an attack.
NEAR = ("approach", "chat", "wave")
TAUGHT_FRAMES = 4  # of a clip that teachers described


def load_stem(run: Path) -> ConvStem:
    """The frozen stem of a run of ``hero_core.train stem``."""
    stem = ConvStem()
    stem.load_state_dict(loop.load_weights(run / "stem.safetensors"))
    return stem.to(memory_format=torch.channels_last).eval().requires_grad_(False)


@torch.inference_mode()
def look(stem: ConvStem, frames: NDArray[Any]) -> NDArray[np.float16]:
    """(N, S, S, 3) uint8 -> (N, 704, 7, 7)."""
    out = []
    for some in np.array_split(frames, max(1, len(frames) // 4)):  # few at a time stay in the cache
        x = torch.from_numpy(np.ascontiguousarray(some)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            out.append(stem(x).float().clamp(-6e4, 6e4).half().numpy())
    return np.concatenate(out)


def worn(frames: NDArray[np.uint8], texture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Frames with the grain of a photograph over them, blurred and compressed: rendered surfaces are too smooth.

    texture: (2 S, 2 S) about 1; it slides over the frames, so that it says nothing about how things move.
    """
    from PIL import Image, ImageFilter

    size = frames.shape[1]
    start, way = rng.uniform(0, size, 2), rng.normal(0, 30, 2)
    strength, blur, quality = rng.uniform(0, 0.8), rng.uniform(0, 1.3), int(rng.integers(25, 90))
    out = []
    for i, frame in enumerate(frames):
        top, left = np.clip(start + way * i / len(frames), 0, size).astype(int)
        grain = texture[top : top + size, left : left + size, None]
        x = np.clip(frame * (1 + strength * (grain - 1)), 0, 255).astype(np.uint8)
        picture = Image.fromarray(x)
        if blur > 0.7:
            picture = picture.filter(ImageFilter.GaussianBlur(blur - 0.4))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(file)))
    return np.stack(out)


def read_textures(folder: Path, size: int) -> list[NDArray[np.float32]]:
    """Brightness of photographs, relative to its surroundings: (2 S, 2 S) about 1."""
    from PIL import ImageFilter

    from training.distil_data import held_out, read_pictures

    out = []
    for name, picture in read_pictures(folder)[0]:
        if not held_out(name) and min(picture.size) >= 300:
            grey = picture.convert("L").resize((2 * size, 2 * size))
            around = np.asarray(grey.filter(ImageFilter.GaussianBlur(25)), np.float32) + 8
            out.append(np.clip((np.asarray(grey, np.float32) + 8) / around, 0.3, 1.9))
    return out


def altered(frames: NDArray[np.uint8], rng: np.random.Generator, near: bool = False) -> NDArray[np.uint8]:
    """The mirror image in another light, colour and framing, the same for all frames: (F, S, S, 3) uint8.

    near: through a longer lens, often; the middle of the upper part fills the frame.
    """
    size = frames.shape[1]
    side = int(size * rng.uniform(0.8, 1.0))
    top, left = rng.integers(0, size - side + 1, 2)
    if near and rng.random() < 0.8:
        side = int(size * rng.uniform(0.4, 0.8))
        left = int(np.clip((size - side) / 2 + rng.normal(0, 0.06) * size, 0, size - side))
        top = int(np.clip(rng.uniform(0.0, 0.5) * (size - side), 0, size - side))
    grid = (np.arange(size) * side // size).astype(int)
    out = frames[:, top + grid][:, :, (left + grid)[::-1]]
    contrast, gain = rng.uniform(0.75, 1.25), rng.uniform(0.75, 1.25, 3) * rng.uniform(0.8, 1.2)
    levels = np.clip(((np.arange(256)[:, None] - 128) * contrast + 128) * gain, 0, 255).astype(np.uint8)  # (256, 3)
    return np.stack([levels[:, c][out[..., c]] for c in range(3)], -1)


def before_event(record: dict[str, Any], frames: int) -> int:
    """The last frame that is well before what happens in a clip."""
    return int(np.clip((record["event"] - 0.25) / record["seconds"] * (frames - 1), 0, frames - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stem", type=Path, required=True)
    parser.add_argument("--stimuli", default="", help="folders with index.jsonl, separated by commas")
    parser.add_argument("--distil", type=Path)
    parser.add_argument("--photos", type=Path, help="photographs whose grain is laid over the altered view")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stem = load_stem(args.stem)
    textures = read_textures(args.photos, 224) if args.photos else []
    folders = [Path(part) for part in args.stimuli.split(",") if part]
    known = args.out / "labels.json"
    names: list[str] = json.loads(known.read_text()) if known.exists() else [RETREAT]
    for folder in folders:
        lines = (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        names += sorted({r["cls"] for r in records} - set(names))
        known.write_text(json.dumps(names))
        for shard in sorted({r["shard"] for r in records}):
            name = f"{folder.name}_{Path(shard).stem}"
            if (args.out / f"{name}.npz").exists():
                continue
            rows = [r for r in records if r["shard"] == shard]
            rng = np.random.default_rng([args.seed, *name.encode()])
            with np.load(folder / shard) as file:
                clips = file["frames"]
            maps = []
            for r in rows:
                frames = clips[r["row"]]
                other = altered(frames, rng, r["cls"].startswith(NEAR))
                if textures:
                    other = worn(other, textures[rng.integers(len(textures))], rng)
                maps.append(np.stack([look(stem, frames), look(stem, other)]))
            rest = {
                "label": np.array([names.index(r["cls"]) for r in rows]),
                "split": np.array([SPLITS[r["split"]] for r in rows]),
                "clip": np.array([r["id"] for r in rows]),
                "times": np.tile(np.arange(clips.shape[1]), (len(rows), 1)),
                "before": np.array([before_event(r, clips.shape[1]) for r in rows]),
            }
            write_arrays(args.out, name, np.stack(maps), rest)
            print(name, flush=True)
    if args.distil is None:
        return
    for path in sorted(args.distil.glob("*.npz")):
        name = f"taught_{path.stem}"
        if path.stem == "basis" or ".part" in path.name or (args.out / f"{name}.npz").exists():
            continue
        frames = np.load(path.with_suffix(".npy"), mmap_mode="r")
        with np.load(path) as file:
            rest = {key: file[key] for key in (*TAUGHT, "split", "clip")}
        step = frames.shape[1] // TAUGHT_FRAMES
        frames = np.ascontiguousarray(frames[:, ::step])
        rest |= {key: rest[key][:, ::step] for key in TAUGHT}
        count = frames.shape[1]
        maps_of = look(stem, frames.reshape(-1, *frames.shape[2:]))
        rest["label"] = np.full(len(frames), -1)
        rest["times"] = np.tile((np.arange(count) * 16 + 8) // count, (len(frames), 1))
        write_arrays(args.out, name, maps_of.reshape(len(frames), 1, count, -1, 7, 7), rest)
        print(name, flush=True)


if __name__ == "__main__":
    main()
