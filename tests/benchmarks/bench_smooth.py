# SPDX-License-Identifier: GPL-3.0-or-later
"""Which filter takes the jitter out of generated joints and leaves fast moves alone.

    python -m tests.benchmarks.bench_smooth generated.npz ...

The files are reactions of the model (``python -m hero_core react``). Three questions to each filter:

* generated: how rough is what is left (jerk over acceleration, 1/s; recorded motion has 18 to 29, white noise 36), and
  how far were joints moved?
* recorded fast moves with the shaking of generated ones added: how far is the answer from the recording (left as it is:
  the first line), and how much of the peak speed of the four fastest joints is left, in the mean and at worst?
* the same moves as recorded: what does the filter take from a motion that needs none?

The recordings are punches, kicks, flips and jumps of the CMU and CC0 sets in the folder ``shared`` beside the checkout.
The best by this table is hero_core.retarget.smooth; the others live here alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hero_core.motion import FPS, Motion
from hero_core.retarget.smooth import despike, spline

Array = npt.NDArray[Any]
Filter = Callable[[Array], Array]

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
MOVES = {
    "cmu22": ("88_06", "humanoid3d_kick", "humanoid3d_backflip", "49_04", "13_41", "127_38", "martial_08", "07_08"),
    "cc0_actions22": ("M2M_Punch_Jab+idle", "M2M_Punch_Cross+idle"),
    "cmu_extra22": ("directing_traffic_1_p3",),
}


def savgol(points: Array, window: int, order: int) -> Array:
    """Savitzky and Golay 1964: a polynomial through each window; at the ends the first and the last one."""
    count, reach = len(points), window // 2
    powers = np.vander(np.arange(-reach, reach + 1.0), order + 1, increasing=True)
    fit = powers @ np.linalg.pinv(powers)
    flat = points.reshape(count, -1)
    out = np.zeros_like(flat)
    for shift in range(window):
        out[reach : count - reach] += fit[reach, shift] * flat[shift : count - window + shift + 1]
    out[:reach] = fit[:reach] @ flat[:window]
    out[count - reach :] = fit[reach + 1 :] @ flat[-window:]
    return out.reshape(points.shape)


def one_euro(points: Array, cut: float, beta: float) -> Array:
    """Casiez, Roussel and Vogel 2012, there and back so that nothing lags; cut in Hz, beta in Hz / (10 cm/s)."""

    def run(values: Array) -> Array:
        out, speed = np.empty_like(values), np.zeros(values.shape[1:])
        out[0] = values[0]
        slow = 1 / (1 + FPS / (2 * np.pi * 2.0))
        for now in range(1, len(values)):
            speed = speed + slow * ((values[now] - out[now - 1]) * FPS - speed)
            cutoff = cut + beta * np.linalg.norm(speed, axis=-1, keepdims=True) * 10
            out[now] = out[now - 1] + (values[now] - out[now - 1]) / (1 + FPS / (2 * np.pi * cutoff))
        return out

    return run(run(points)[::-1])[::-1]


def local_spline(points: Array, stiffness: float, bound: float) -> Array:
    """The spline with a stiffness for each frame and joint that falls where it accelerates: 22 systems of equations."""
    count, fitted = len(points), savgol(points, 5, 2)
    third = np.diff(np.eye(count), 3, axis=0)
    for _ in range(2):
        speeding = np.linalg.norm(np.diff(fitted, 2, axis=0), axis=-1) * FPS**2
        padded = np.pad(speeding, ((2, 2), (0, 0)), mode="edge")
        around = np.max([padded[shift : shift + count - 3] for shift in range(4)], 0)
        weight = stiffness / (1 + (around / bound) ** 4)
        fitted = np.stack(
            [
                np.linalg.solve(np.eye(count) + third.T @ (weight[:, joint, None] * third), points[:, joint])
                for joint in range(points.shape[1])
            ],
            1,
        )
    return fitted


FILTERS: dict[str, Filter] = {
    "none": lambda points: points,
    "Savitzky-Golay 5, 2": lambda points: savgol(points, 5, 2),
    "Savitzky-Golay 7, 3": lambda points: savgol(points, 7, 3),
    "Savitzky-Golay 9, 3": lambda points: savgol(points, 9, 3),
    "one-euro 3, 0.6": lambda points: one_euro(points, 3.0, 0.6),
    "one-euro 2, 1.5": lambda points: one_euro(points, 2.0, 1.5),
    "one-euro 2, 4": lambda points: one_euro(points, 2.0, 4.0),
    "spline": spline,
    "spline, local 3, 5": lambda points: local_spline(points, 3.0, 5.0),
    "spline, local 1, 5": lambda points: local_spline(points, 1.0, 5.0),
    "spline, bounded (used)": despike,
}


def derivative(joints: Array, order: int) -> float:
    return float(np.linalg.norm(np.diff(joints, order, axis=0), axis=-1).mean()) * FPS**order


def peaks(joints: Array) -> Array:
    """(22,) fastest speed of each joint."""
    return np.asarray(np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(0))


def recorded() -> list[Array]:
    moves = []
    for file, names in MOVES.items():
        with np.load(DATA / f"{file}.npz") as data:
            every = list(data["names"])
            for name in names:
                row = every.index(name)
                moves.append(data["joints"][data["offsets"][row] : data["offsets"][row + 1]][:196].astype(float))
    return moves


def main(files: list[str]) -> None:
    motions = [Motion.load(file) for file in files]
    generated = [np.asarray(each.take(take), float) for each in motions for take in range(len(each.lengths))]
    moves = recorded()
    shaking = [take - savgol(take, 9, 3) for take in generated]
    print(f"{len(generated)} generated takes, {len(moves)} recorded moves")
    print(f"{'':24}| generated             | recorded, shaken             | recorded              |")
    print(f"{'':24}| jerk rough. moved mm  | error mm jerk  peak   worst  | error mm peak   worst | ms")
    for name, filtered in FILTERS.items():
        started = time.process_time()
        smooth = [filtered(take) for take in generated]
        taken = (time.process_time() - started) / len(generated) * 1e3
        jerk = np.mean([derivative(each, 3) for each in smooth])
        rough = np.mean([derivative(each, 3) / derivative(each, 2) for each in smooth])
        moved = np.mean([np.linalg.norm(a - b, axis=-1).mean() for a, b in zip(smooth, generated, strict=True)])
        rows = []
        for number, move in enumerate(moves):
            shaken = filtered(move + shaking[number * 5 % len(shaking)][: len(move)])
            alone = filtered(move)
            fast = np.argsort(peaks(move))[-4:]
            kept, kept_alone = (peaks(each)[fast] / peaks(move)[fast] for each in (shaken, alone))
            error, error_alone = (np.linalg.norm(each - move, axis=-1).mean() * 1e3 for each in (shaken, alone))
            jerks = derivative(shaken, 3) / derivative(move, 3)
            rows.append([error, jerks, kept.mean(), kept.min(), error_alone, kept_alone.mean(), kept_alone.min()])
        table = np.array(rows)
        mean, worst = table.mean(0), table.min(0)
        print(
            f"{name:24}|{jerk:5.0f} {rough:6.1f} {moved * 1e3:9.2f}  |{mean[0]:9.2f} {mean[1]:5.2f} {mean[2]:6.3f} "
            f"{worst[3]:7.3f} |{mean[4]:9.2f} {mean[5]:6.3f} {worst[6]:6.3f} |{taken:6.1f}",
            flush=True,
        )


if __name__ == "__main__":
    if not sys.argv[1:] or not DATA.is_dir():
        sys.exit(
            "Give files of generated motion; the folder 'shared' with recorded ones must stand beside the checkout."
        )
    main(sys.argv[1:])
