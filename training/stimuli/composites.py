# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips put together from photographs: real animals, vehicles and balls in front of real places.

    python -m training.stimuli.composites --pictures FOLDER --data DATA --out build/composites --clips 700 --seed 0

Rendered creatures are of few shapes and flat colours; these clips show the video encoder what the real ones look like.
A cut-out stands for a body at a distance: it grows as one over that distance, bobs as it runs, and is shown over a
photograph that a hand-held camera looks at. Half of the vehicles come by night, with their lamps on. Lions, bears and
bulls are given way to also when they only walk up. Records and shards are those of ``training.stimuli.render``.
Pictures of the validation split are shown in no training clip; there is no test split, rendered clips alone are tested.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.distil_data import SIDE, draw_factors, held_out, read_pictures, recolour
from training.stimuli.catalogue import STIMULI
from training.stimuli.dataset import FRAMES, Motions
from training.stimuli.reactions import reactions
from training.stimuli.scene import picture_times
from training.stimuli.shards import SHARD, missing_shards, write_shard

Array = NDArray[Any]
Cut = tuple[str, Image.Image]

# What of a picture's path says that it shows a beast, a vehicle or a ball.
BEASTS = ("animals/mammals", "animals/marsupials", "birds/ostrich", "birds/gander", "birds/nandou", "lizards")
VEHICLES = ("vehicles/auto", "vehicles/race", "vehicles/emergency", "masstransit", "construction", "garbagetruck")
VEHICLES += ("infantry-stryker", "military/vehicles/bradley", "wheel_tractor")
BALLS = ("sports/",)
NEVER = ("cartoon", "aquatic", "toys", "body_parts")
# Beasts that one gives way to also when they only walk up.
DANGEROUS = ("/cats/", "/bears/", "gorilla", "rhino", "elephant", "hippopotamus", "wildboar", "bull.", "bison", "dingo")
CLASSES = {"creature_charge": 0.34, "creature_calm": 0.19, "vehicle": 0.26, "quiet": 0.15, "ball": 0.06}


def pools(cuts: list[Cut]) -> dict[str, list[Cut]]:
    """Cut-outs by what they show."""
    kinds = {"beast": BEASTS, "vehicle": VEHICLES, "ball": BALLS}
    real = [cut for cut in cuts if not any(word in cut[0] for word in NEVER)]
    return {kind: [cut for cut in real if any(word in cut[0] for word in words)] for kind, words in kinds.items()}


def paths(cls: str, charge: bool, rng: np.random.Generator, near: float = 1.0) -> tuple[float, Array, Array, float]:
    """Seconds, size (T,) and place (T, 2) of the body, as shares of the frame, and when it happens.

    size is that of the longest side of the cut-out; ``charge``: it comes fast, until it is here. ``near``: how much
    larger what does not charge is seen than usual.
    """
    seconds = float(rng.uniform(1.2, 3.0) if charge else rng.uniform(2.0, 5.0))
    t = picture_times(seconds) / seconds  # (T,)
    if charge:
        far, near = rng.uniform(3.5, 9.0), rng.uniform(0.8, 1.6)
        start = rng.uniform(0, 0.25)
        gone = np.clip((t - start) / (1 - start), 0, 1)
        size = rng.uniform(0.9, 1.5) * near / (far + (near - far) * gone) / near * 1.1
        event = seconds * (start + (1 - start) * 0.6)
    else:
        far = rng.uniform(2.0, 4.0)
        last = far / rng.uniform(0.95, 1.9)
        size = near * rng.uniform(0.8, 1.4) / (far + (last - far) * t)
        event = seconds * rng.uniform(0.2, 0.6)
    first, last = rng.uniform((0.2, 0.45), (0.8, 0.65)), rng.uniform((0.35, 0.5), (0.65, 0.65))
    place = first + (size / size[-1])[:, None] * (last - first)  # what is far is near the vanishing point
    if cls != "vehicle":
        rate = rng.uniform(8, 16) if charge else rng.uniform(3, 6)
        place[:, 1] += np.abs(np.sin(t * seconds * rate)) * size * rng.uniform(0.01, 0.06)
    if cls == "ball":
        place[:, 1] -= rng.uniform(0.1, 0.35) * 4 * t * (1 - t)
        size *= rng.uniform(0.35, 0.6)
    return seconds, size, place, float(event)


def headlights(frame: Image.Image, at: Array, size: float, warmth: float) -> Image.Image:
    """Two lamps that shine at us, and their light on the road. size: of the vehicle, as a share of the frame."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    light = np.zeros((SIDE, SIDE), np.float32)
    radius = max(1.2, 0.11 * size * SIDE)
    for side in (-1, 1):
        gap = (x - at[0] - side * 0.3 * size * SIDE) ** 2 + (y - at[1] - 0.08 * size * SIDE) ** 2
        light += 1.2 * np.exp(-gap / radius**2) + 0.35 * np.exp(-np.sqrt(gap) / (3.5 * radius))
    below = np.clip((y - at[1]) / (0.9 * size * SIDE + 20), 0, None)
    light += 0.5 * np.exp(-(((x - at[0]) / (0.4 * size * SIDE + 3)) ** 2)) * np.exp(-2 * below) * (below > 0.1)
    shine = light[..., None] * np.array([1.0, 0.97 - 0.15 * warmth, 0.9 - 0.4 * warmth]) * 255
    return Image.fromarray(np.clip(np.asarray(frame, np.float32) + shine, 0, 255).astype(np.uint8))


def compose(
    cls: str,
    photo: Image.Image,
    cut: Image.Image | None,
    charge: bool,
    rng: np.random.Generator,
    followed: bool = False,
) -> tuple[Array, Any]:
    """Frames (16, 224, 224, 3) uint8 of one clip, and its (seconds, event).

    followed: the camera backs away as fast as it comes, so that it hardly grows.
    """
    walks_up = cls == "creature_charge" and not charge
    seconds, size, place, event = paths(cls, charge, rng, 2.0 if walks_up else 1.0)
    if followed:
        size = rng.uniform(0.5, 1.1) * np.linspace(1.0, rng.uniform(0.95, 1.25), FRAMES)
        place = 0.5 + (place - place.mean(0)) * rng.uniform(0.0, 0.4) + rng.normal(0, (0.08, 0.04))
    night = cls == "vehicle" and rng.random() < 0.5
    if night:  # what one sees of a car at night are its lamps, and those from far away
        size = size * rng.uniform(0.15, 1.0)
    warmth, bulk = rng.random(), 0.25 if night else 1.0
    # A wide picture is squeezed to a square one; and who walks up is seen from the front, which is narrow.
    squeeze = rng.uniform(0.35, 0.9) if walks_up else rng.uniform(0.6, 1.15)
    width, height = photo.size
    share = rng.uniform(0.35, 0.95)
    w, h = share * width / 2, share * height / 2
    centre = np.array([rng.uniform(w, width - w), rng.uniform(h, height - h)])
    t = np.linspace(0, 1, FRAMES)
    back = np.linspace(rng.uniform(0.6, 1.0), 1.0, FRAMES) if followed else np.ones(FRAMES)  # more of the place is seen
    shake = sum(np.sin(t[:, None] * rng.uniform(2, 14, 2) + rng.uniform(0, 6, 2)) for _ in range(3))
    eyes = centre + shake * (w, h) * rng.gamma(1.5, 0.012)  # (T, 2)
    factors, contrast = draw_factors(rng, 0.3), draw_factors(rng, 0.2)
    blur = rng.uniform(0, 6) if rng.random() < 0.2 else 0.0
    turn = rng.normal(0, 3)
    lean = rng.normal(0, 3) * np.sin(t * rng.uniform(5, 30))
    if cut is not None and rng.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    colour = None
    if cut is not None:
        colour = recolour(cut.convert("RGB"), contrast)
        colour.putalpha(cut.getchannel("A"))
    frames = np.empty((FRAMES, SIDE, SIDE, 3), np.uint8)
    for i in range(FRAMES):
        x, y = np.clip(eyes[i], (w, h), (width - w, height - h))
        box = tuple(float(v) for v in (x - w * back[i], y - h * back[i], x + w * back[i], y + h * back[i]))
        frame = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        if colour is not None:
            scale = size[i] * SIDE / max(colour.size)
            shape = (max(3, round(colour.size[0] * scale * squeeze)), max(3, round(colour.size[1] * scale)))
            shown = colour.resize(shape, Image.Resampling.BILINEAR)
            shown = shown.rotate(turn + lean[i], Image.Resampling.BILINEAR, True)
            at = place[i] * SIDE
            if night:
                shown = Image.merge(
                    "RGBA",
                    [band.point(lambda v: int(v * bulk)) for band in shown.split()[:3]] + [shown.getchannel("A")],
                )
                frame = frame.point(lambda v: int(v * 0.5 * bulk + 6))
            frame.paste(shown, (round(at[0] - shown.size[0] / 2), round(at[1] - shown.size[1] / 2)), shown)
            if night:
                frame = headlights(frame, at, float(size[i]), warmth)
        frame = recolour(frame, factors)
        pixels = np.asarray(frame, np.float32)
        if blur:
            pixels = pixels + rng.normal(0, blur, pixels.shape)
        frames[i] = np.clip(pixels, 0, 255).astype(np.uint8)
    return frames, (seconds, event)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of photographs and cut-outs")
    parser.add_argument("--data", type=Path, required=True, help="folder of motions")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wild", action="store_true", help="only dangerous beasts that walk up")
    parser.add_argument("--followed", action="store_true", help="the camera backs away from half of them")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    photos, cuts = read_pictures(args.pictures)
    motions = Motions(args.data)
    by_split: dict[str, tuple[list[Cut], dict[str, list[Cut]]]] = {}
    for split, out in (("train", False), ("val", True)):
        places = [p for p in photos if held_out(p[0]) == out and min(p[1].size) >= 300]
        by_split[split] = (places, pools([c for c in cuts if held_out(c[0]) == out]))
        print(split, len(places), {kind: len(pool) for kind, pool in by_split[split][1].items()}, flush=True)
    names, weights = list(CLASSES), np.array(list(CLASSES.values()))
    for clips in missing_shards(args.out, args.clips):
        rendered = []
        for number in clips:
            rng = np.random.default_rng([args.seed, 31, number])
            split = "val" if number % 14 == 13 else "train"
            places, pool = by_split[split]
            cls = "creature_charge" if args.wild else str(rng.choice(names, p=weights / weights.sum()))
            kind = {"vehicle": "vehicle", "ball": "ball", "quiet": ""}.get(cls, "beast")
            if kind and not pool[kind]:
                cls, kind = "quiet", ""
            charge = cls in ("creature_charge", "vehicle", "ball")
            cuts_of = pool.get(kind, [])
            if kind == "beast":  # of those that are dangerous some only walk up; the others are calm or charge
                fierce = [c for c in cuts_of if any(word in c[0] for word in DANGEROUS)]
                wild = cls == "creature_charge" and bool(fierce) and (args.wild or rng.random() < 0.75)
                tame = [c for c in cuts_of if c not in fierce]
                cuts_of = fierce if wild else tame
                charge = charge and (not wild or (not args.wild and rng.random() < 0.5))
            cut = cuts_of[rng.integers(len(cuts_of))] if kind else None
            photo = places[rng.integers(len(places))]
            frames, (seconds, event) = compose(
                cls, photo[1], cut[1] if cut else None, charge, rng, args.followed and number % 2 == 0
            )
            record = {
                "id": number,
                "cls": cls,
                "broad": STIMULI[cls].broad,
                "split": split,
                "seed": args.seed,
                "seconds": round(seconds, 3),
                "event": round(event, 3),
                "flip": False,
                "actors": [cut[0]] if cut else [],
                "reactions": reactions(motions, split, STIMULI[cls], event, rng),
            }
            rendered.append((frames, record))
        write_shard(args.out, clips.start // SHARD, rendered)
        print(f"{clips.stop}/{args.clips}", flush=True)


if __name__ == "__main__":
    main()
