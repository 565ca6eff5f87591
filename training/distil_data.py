# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips with what the teachers say about every frame: the food of ``python -m hero_core.train encoder``.

    python -m training.distil_data pictures --teachers FOLDER --out FOLDER --source FOLDER --clips 8000
    python -m training.distil_data stimuli --teachers FOLDER --out FOLDER --source FOLDER

``pictures`` makes short clips of real photographs: a camera that pans and zooms over a strong crop, in
front of it up to two cut-outs (pictures with transparency: animals, vehicles, people, things) that come
nearer, go away or pass, all with changed colours. Any folder of photographs serves. ``stimuli`` labels the
clips that ``training.stimuli`` rendered. Changes are made before the teachers look, so that they describe
the picture that the encoder sees.

A shard is ``NAME.npy``, uint8 (clips, frames, 224, 224, 3), and ``NAME.npz`` with, for every frame, the
arrays of :class:`training.teachers.Teachers` (``person`` on a fixed orthogonal basis, kept in
``basis.npz``), and for every clip ``label`` (-1 = none), ``split`` (0 train, 1 validate, 2 test) and
``clip`` (its number in the source). ``labels.json`` lists the classes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from hero_core.errors import HeroError
from hero_core.train.loop import arguments
from training.stimuli.shards import write_arrays
from training.teachers import Teachers

SIDE = 224
SHARD = 250  # clips of a picture shard
FRAMES = 4  # frames of a picture clip
STIMULI_FRAMES = 8  # of the 16 that are rendered
LONGEST = 1600  # pixels; larger photographs are reduced when read
PERSON_BASIS = 64
# Cut-outs that a person would react to are drawn this much more often.
LIKELY = ("mammals", "vehicles", "people", "animals")
USAGE = "python -m training.distil_data {pictures,stimuli} --teachers FOLDER --out FOLDER --source FOLDER"

Array = NDArray[Any]


def held_out(name: str) -> bool:
    """One source picture in ten is for validation, chosen by its name."""
    return hashlib.sha256(name.encode()).digest()[0] < 26


def read_pictures(folder: Path) -> tuple[list[tuple[str, Image.Image]], list[tuple[str, Image.Image]]]:
    """All photographs (RGB) and cut-outs (RGBA, cropped to what is opaque) below a folder, with their names.

    Wallpaper packages hold one picture in many sizes, named WIDTHxHEIGHT: the largest is read.
    """
    photos, cuts = [], []
    largest: dict[Path, tuple[int, Path]] = {}
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")):
        size = path.stem.split("x")
        if len(size) == 2 and all(part.isdigit() for part in size):
            area = int(size[0]) * int(size[1])
            # Folders images/ and images_dark/ hold different pictures; portrait formats only crop them.
            largest[path.parent] = max(largest.get(path.parent, (0, path)), (area, path))
        elif path.stem != "screenshot":
            files.append(path)
    for path in sorted(files + [path for _, path in largest.values()]):
        try:
            file = Image.open(path)
            file.draft("RGB", (LONGEST, LONGEST))
            picture = file.convert("RGBA")
        except (OSError, ValueError):
            continue
        picture.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
        if min(picture.size) < 64:
            continue
        name = str(path.relative_to(folder))
        alpha = np.asarray(picture.getchannel("A"))
        if (alpha < 128).mean() > 0.05:
            box = picture.getchannel("A").point(lambda a: 255 if a > 64 else 0).getbbox()
            if box is not None:
                picture = picture.crop(box)
                picture.thumbnail((480, 480), Image.Resampling.BOX)
                cuts.append((name, picture))
        elif min(picture.size) >= 160:
            photos.append((name, picture.convert("RGB")))
    if not photos:
        raise HeroError(f"There is no photograph of at least 160 pixels in '{folder}'.")
    return photos, cuts


def recolour(picture: Image.Image, factors: Array) -> Image.Image:
    """Brightness, contrast, saturation, and a gain for each channel: factors (6,)."""
    picture = ImageEnhance.Brightness(picture).enhance(float(factors[0]))
    picture = ImageEnhance.Contrast(picture).enhance(float(factors[1]))
    picture = ImageEnhance.Color(picture).enhance(float(factors[2]))
    gains = [lambda v, g=float(gain): min(255, int(v * g)) for gain in factors[3:6]]
    return Image.merge("RGB", [band.point(gain) for band, gain in zip(picture.split(), gains, strict=True)])


def draw_factors(rng: np.random.Generator, strength: float) -> Array:
    return np.exp(rng.uniform(-1, 1, 6) * strength * np.array([1.0, 1.0, 1.5, 0.4, 0.4, 0.4]))


def picture_clip(
    rng: np.random.Generator, photos: list[tuple[str, Image.Image]], cuts: list[tuple[str, Image.Image]], weight: Array
) -> Array:
    """One made-up clip, (FRAMES, 224, 224, 3) uint8."""
    _, photo = photos[rng.integers(len(photos))]
    width, height = photo.size

    def window() -> Array:  # centre x, y, half width, half height in pixels
        share = np.exp(rng.uniform(np.log(0.06), 0.0)) ** 0.5
        ratio = np.exp(rng.uniform(-0.35, 0.35))
        w = np.clip(share * min(width, height * 1.6) * ratio, 64, width)
        h = np.clip(share * height / ratio, 64, height)
        return np.array([rng.uniform(w / 2, width - w / 2), rng.uniform(h / 2, height - h / 2), w / 2, h / 2])

    first = window()
    # Most cameras hold nearly still; some move on to another part of the picture.
    last = window() if rng.random() < 0.25 else first * np.exp(rng.normal(0, 0.03, 4))
    flip, grey = rng.random() < 0.5, rng.random() < 0.04
    factors, blur = draw_factors(rng, 0.35), rng.uniform(0.4, 1.6) if rng.random() < 0.15 else 0.0
    noise = rng.uniform(2, 10) if rng.random() < 0.2 else 0.0

    actors = []
    for _ in range(rng.choice(3, p=[0.3, 0.55, 0.15]) if cuts else 0):
        cut = cuts[rng.choice(len(cuts), p=weight)][1]
        if rng.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        colour = recolour(cut.convert("RGB"), draw_factors(rng, 0.25))
        colour.putalpha(cut.getchannel("A"))
        size = np.exp(rng.uniform(np.log(0.15), np.log(1.5), 2))  # share of the frame, first and last
        if rng.random() < 0.4:
            size[1] = size[0] * np.exp(rng.normal(0, 0.1))
        place = rng.uniform(0.15, 0.85, (2, 2))
        if rng.random() < 0.5:
            place[1] = place[0] + rng.normal(0, 0.05, 2)
        actors.append((colour, size, place, rng.normal(0, 8)))

    frames = np.empty((FRAMES, SIDE, SIDE, 3), np.uint8)
    for i, s in enumerate(np.linspace(0.0, 1.0, FRAMES)):
        x, y, w, h = first + s * (last - first)
        w, h = min(w, width / 2), min(h, height / 2)
        x, y = np.clip(x, w, width - w), np.clip(y, h, height - h)
        box = (max(0.0, x - w), max(0.0, y - h), min(width, x + w), min(height, y + h))
        frame = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        for colour, size, place, turn in actors:
            longest = float(np.exp(np.log(size[0]) + s * (np.log(size[1]) - np.log(size[0])))) * SIDE
            scale = longest / max(colour.size)
            shape = (max(2, round(colour.size[0] * scale)), max(2, round(colour.size[1] * scale)))
            shown = colour.resize(shape, Image.Resampling.BILINEAR).rotate(turn, Image.Resampling.BILINEAR, True)
            centre = (place[0] + s * (place[1] - place[0])) * SIDE
            corner = (round(centre[0] - shown.size[0] / 2), round(centre[1] - shown.size[1] / 2))
            frame.paste(shown, corner, shown)
        frame = recolour(frame, factors)
        if grey:
            frame = frame.convert("L").convert("RGB")
        if blur:
            frame = frame.filter(ImageFilter.GaussianBlur(blur))
        pixels = np.asarray(frame, np.float32)
        if noise:
            pixels = pixels + rng.normal(0, noise, pixels.shape)
        frames[i] = np.clip(pixels, 0, 255).astype(np.uint8)
    return frames[:, :, ::-1] if flip else frames


def fit_basis(rows: Array, count: int) -> tuple[Array, Array]:
    """Mean and the first principal directions of rows (n, D): (D,), (D, count), scaled to mean variance 1."""
    mean = rows.mean(0)
    values, vectors = np.linalg.eigh(np.cov(rows - mean, rowvar=False))
    top = vectors[:, ::-1][:, :count]
    return mean, top / np.sqrt(values[::-1][:count].mean())


def describe(clips: Array, teachers: Teachers, out: Path) -> dict[str, Array]:
    """Targets of clips (n, F, 224, 224, 3); the basis is fitted on the first call for ``out`` and then kept."""
    said: dict[str, list[Array]] = {}
    for clip in clips:
        rows = [teachers(frame) for frame in clip]
        for key in rows[0]:
            said.setdefault(key, []).append(np.stack([row[key] for row in rows]))
    targets = {key: np.stack(value) for key, value in said.items()}
    where = out / "basis.npz"
    if not where.exists():
        flat = targets["person"].reshape(-1, targets["person"].shape[-1])
        mean, basis = fit_basis(flat[:: max(1, len(flat) // 12_000)].astype(np.float64), PERSON_BASIS)
        np.savez(where, person_mean=mean.astype(np.float32), person_basis=basis.astype(np.float32))
    with np.load(where) as basis_file:
        targets["person"] = (targets["person"] - basis_file["person_mean"]) @ basis_file["person_basis"]
    return {key: value.astype(np.float16) for key, value in targets.items()}


def pictures(source: Path, out: Path, teachers: Teachers, clips: int, first: int, step: int) -> None:
    """Make and label picture clips, ``SHARD`` at a time; shard i holds the same clips whoever makes it."""
    photos, cuts = read_pictures(source)
    print(f"{len(photos)} photographs, {len(cuts)} cut-outs", flush=True)
    pools = []
    for test in (False, True):
        some = [c for c in cuts if held_out(c[0]) == test]
        weight = np.array([6.0 if any(word in name for word in LIKELY) else 1.0 for name, _ in some])
        pools.append(([p for p in photos if held_out(p[0]) == test], some, weight / max(1.0, weight.sum())))
    if not pools[1][0]:
        raise HeroError(f"'{source}' holds too few photographs to keep some for validation; add more.")
    shards = -(-clips // SHARD)
    for i in range(first, shards, step):
        name = f"pictures_{i:04d}"
        if (out / f"{name}.npz").exists():
            continue
        started = time.monotonic()
        split = int(i % 12 == 11)  # whole shards validate, from sources that never train
        rng = np.random.default_rng([17, i])
        frames = np.stack([picture_clip(rng, *pools[split]) for _ in range(SHARD)])
        targets = describe(frames, teachers, out)
        targets |= {
            "label": np.full(SHARD, -1, np.int64),
            "split": np.full(SHARD, split, np.int64),
            "clip": np.arange(SHARD) + i * SHARD,
        }
        write_arrays(out, name, frames, targets)
        print(f"{name} of {shards}: {time.monotonic() - started:.0f} s", flush=True)


def stimuli(source: Path, out: Path, teachers: Teachers) -> None:
    """Label the rendered clips that ``source/index.jsonl`` lists and that are not labelled yet."""
    index = source / "index.jsonl"
    if not index.is_file():
        raise HeroError(f"'{source}' holds no index.jsonl; render the stimuli first.")
    lines = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines() if line]
    known = out / "labels.json"
    names: list[str] = json.loads(known.read_text()) if known.exists() else []
    names += sorted({line["cls"] for line in lines} - set(names))
    known.write_text(json.dumps(names))
    for shard in sorted({line["shard"] for line in lines}):
        name = f"stimuli_{Path(shard).stem}"
        if (out / f"{name}.npz").exists():
            continue
        rows = [line for line in lines if line["shard"] == shard]
        with np.load(source / shard) as file:
            every = file["frames"].shape[1] // STIMULI_FRAMES
            frames = np.ascontiguousarray(file["frames"][[row["row"] for row in rows], ::every])
        targets = describe(frames, teachers, out)
        splits = {"train": 0, "val": 1, "test": 2}
        targets |= {
            "label": np.array([names.index(row["cls"]) for row in rows]),
            "split": np.array([splits[row["split"]] for row in rows]),
            "clip": np.array([row["id"] for row in rows]),
        }
        write_arrays(out, name, frames, targets)
        print(name, flush=True)


def main(argv: list[str]) -> int:
    args = arguments(argv, USAGE)
    if not argv or argv[0] not in ("pictures", "stimuli") or not {"teachers", "out", "source"} <= set(args):
        raise HeroError(f"The arguments are not understood; usage: {USAGE}")
    out = Path(args["out"])
    out.mkdir(parents=True, exist_ok=True)
    teachers = Teachers(Path(args["teachers"]))
    if argv[0] == "stimuli":
        stimuli(Path(args["source"]), out, teachers)
    else:
        first, _, step = args.get("part", "0/1").partition("/")
        pictures(Path(args["source"]), out, teachers, int(args.get("clips", "8000")), int(first), int(step))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HeroError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(1)
