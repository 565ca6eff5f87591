# SPDX-License-Identifier: GPL-3.0-or-later
"""Made-up dyads in the layouts of the data sets; they say nothing of how people listen."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hero_core.face.reaction import Array
from tests.hero_core.face.voices import RATE, voice, write_wav

HEADER = ",".join(f"c{i}" for i in range(25))


def waves(rng: np.random.Generator, frames: int, width: int) -> Array:
    """(frames, width) slow curves in 0 .. 1."""
    t = np.arange(frames)[:, None] / 25
    rates, phases = rng.uniform(0.3, 1.5, (2, width)), rng.uniform(0, 6, width)
    return (0.5 + 0.4 * np.sin(2 * np.pi * rates[0] * t + phases) * np.cos(rates[1] * t)).astype(np.float32)


def person(rng: np.random.Generator, frames: int) -> tuple[Array, Array]:
    """coefficients (frames, 1, 58) as FaceVerse's files are, attributes (frames, 25): all of them mix 4 slow curves.

    Attributes keep to their ranges, valence and arousal to -1 .. 1 and the expressions to a sum of 1, since whatever is
    generated is brought into them.
    """
    sources = waves(rng, frames, 4)
    mixed = [sources @ np.random.default_rng(0).dirichlet(np.full(4, 0.3), width).T for width in (58, 25)]
    shapes, units = (x.astype(np.float32) for x in mixed)
    shapes[:, 52] += np.pi
    units[:, 15:17] = 2 * units[:, 15:17] - 1
    chances = np.exp(6 * units[:, 17:])
    units[:, 17:] = chances / chances.sum(1, keepdims=True)
    return shapes[:, None], units


def react(root: Path, count: int = 3, frames: int = 60, splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    for number, split in enumerate(splits):
        rng = np.random.default_rng(number)
        rows = [",speaker,listener"]
        for n in range(count):
            paths = [f"NoXI/chat{n}/{who}/1" for who in ("Expert_video", "Novice_video")]
            rows.append(f"{n},{paths[0]},{paths[1]}")
            for path in paths:
                shapes, units = person(rng, frames)
                emotion = path.replace("Expert_video", "P1").replace("Novice_video", "P2")
                for kind, name in (("3D_FV_files", path), ("Emotion", emotion), ("Audio_files", path)):
                    (root / split / kind / name).parent.mkdir(parents=True, exist_ok=True)
                np.save(root / split / "3D_FV_files" / f"{path}.npy", shapes)
                np.savetxt(root / split / "Emotion" / f"{emotion}.csv", units, "%.6f", ",", header=HEADER, comments="")
                sound = voice([(0.2, frames / 25 - 0.4)], frames / 25, n)
                write_wav(root / split / "Audio_files" / f"{path}.wav", sound.samples, RATE)
        (root / f"{split}.csv").write_text("\n".join(rows))
        np.save(root / f"neighbour_emotion_{split}.npy", np.eye(2 * count, dtype=np.uint8))
    return root


def mars(root: Path, frames: int = 60) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for session in ("session0", "session1"):
            for role in ("speaker", "listener"):
                for name in ("a", "b"):
                    shapes, units = person(rng, frames + 7 * (name == "b"))
                    for kind, x in (("coefficients", shapes[:, 0]), ("facial-attributes", units)):
                        path = root / split / kind / role / session / f"{name}.npy"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        np.save(path, x)
    return root
