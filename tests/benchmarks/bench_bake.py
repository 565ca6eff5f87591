# SPDX-License-Identifier: GPL-3.0-or-later
"""How much faster a batch is than single runs, how its time grows with the clips, and its memory.

    python -m tests.benchmarks.bench_bake [--clips 64] [--singles 8] [--model FOLDER] [--rig FILE]

The shipped model on made-up clips of 5 seconds and a plain Mixamo skeleton, unless others are named; whole processes,
start to end, as a user meets them. Single runs (``react``, one process each) take the same time each, so only some of
them are run, spread over the measurement, and their median counts for all. To reach: 64 clips at least 4 times as fast
as 64 single runs; time that grows with the clips in a straight line; memory that does not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.movies import numbered, write_movie

ROOT = Path(__file__).resolve().parents[2]
SIZES = (8, 16, 32, 64)
_RIG = """
import os, sys
sys.path.insert(0, "tests")
import bpy
from characters import mixamo
bpy.ops.wm.read_factory_settings(use_empty=True)
mixamo(bpy, "knight")
bpy.ops.wm.save_as_mainfile(filepath=sys.argv[1])
os._exit(0)
"""


def timed(*words: object) -> tuple[float, float, float]:
    """Wall clock and processor time (s) of a process of the command line, and the MiB that it took at most."""
    start = time.perf_counter()
    call = [sys.executable, "-m", "hero_blender", *map(str, words)]
    process = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(told.decode(errors="replace"))
    memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, memory


def clips(folder: Path, count: int) -> Path:
    """Movies of 640x360 and 5 seconds, no two alike."""
    folder.mkdir()
    for number in range(count):
        images = [np.roll(numbered(i // 3, 640, 360), 9 * number, 1) for i in range(125)]
        write_movie(folder / f"{number:04}.mp4", images, fps=25, size=(640, 360))
    return folder


def part(source: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    for path in sorted(source.iterdir())[:count]:
        (folder / path.name).symlink_to(path)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--singles", type=int, default=8)
    parser.add_argument("--model", default=None)
    parser.add_argument("--rig", type=Path, default=None)
    options = parser.parse_args()
    model = ["--model", Path(options.model).resolve()] if options.model else []
    with tempfile.TemporaryDirectory(prefix="hero-bench-") as place:
        folder = Path(place)
        rig = options.rig.resolve() if options.rig else folder / "knight.blend"
        if not options.rig:
            subprocess.run([sys.executable, "-c", _RIG, rig], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        source = clips(folder / "all", options.clips)
        paths = sorted(source.iterdir())
        sizes = sorted({size for size in SIZES if size < options.clips} | {options.clips})
        singles: list[tuple[float, float]] = []
        batches: dict[int, tuple[float, float]] = {}
        for size in sizes:
            for _ in range(-(-options.singles // len(sizes))):
                if len(singles) < options.singles:
                    clip = paths[len(singles) * len(paths) // options.singles]
                    call: list[Any] = ["react", "--video", clip, "--rig", rig, "--out", folder / "single.blend", *model]
                    singles.append(timed(*call)[:2])
            out = folder / f"out{size}"
            call = ["bake", part(source, folder / f"in{size}", size), "--rig", rig, "--out", out, *model]
            *batches[size], memory = timed(*call)  # type: ignore[misc]
            stages = json.loads((out / "manifest.json").read_text())["tasks"]
            shares = {
                stage: statistics.median(task["seconds"].get(stage, 0.0) for task in stages)
                for stage in ("watch", "encode", "generate", "rig", "retarget", "blend", "all")
            }
            wall, processor = batches[size]
            told = ", ".join(f"{stage} {1e3 * seconds:.0f}" for stage, seconds in shares.items())
            print(
                f"{size:4} clips: {wall:6.1f} s (processor {processor:6.1f}), {memory:.0f} MiB; ms a clip: {told}",
                flush=True,
            )
    for which, name in enumerate(("wall clock", "processor")):
        single = statistics.median(each[which] for each in singles)
        spread = f"{min(each[which] for each in singles):.1f} to {max(each[which] for each in singles):.1f}"
        ratio = options.clips * single / batches[options.clips][which]
        print(f"{name}: single run {single:.1f} s (median of {len(singles)}, {spread});", end=" ")
        print(f"{options.clips} clips {ratio:.2f} x as fast as single runs   to reach 4.00")
        if len(sizes) > 2:
            taken = [batches[size][which] for size in sizes]
            slope, start = np.polyfit(sizes, taken, 1)
            off = max(abs(time - (start + slope * size)) / time for size, time in zip(sizes, taken, strict=True))
            print(f"{name}: {start:.1f} s + {slope:.3f} s a clip; off that line by {100 * off:.0f} % at most")


if __name__ == "__main__":
    main()
