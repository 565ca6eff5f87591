# SPDX-License-Identifier: GPL-3.0-or-later
"""A session of an animator, measured: button to keyed rig, the pauses of the main loop, and a hundred runs in a row.

    python -m tests.benchmarks.bench_session [--runs 100] [--rig FILE] [--video FILE]

All in one process with the model that ships, as a window would do it: a step each time the timer ticks (0.03 s).
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bpy
from characters import mixamo

import hero_blender
from hero_blender import compat, edit_take, properties, react, takes
from hero_blender.react import Reaction

ROOT = Path(__file__).resolve().parents[2]
TICK = 0.03


def run(reaction: Reaction) -> tuple[float, list[tuple[float, str]]]:
    """Seconds to the end, and how long the main loop was held at each step, with the stage.

    That is by the step itself, or by a thread that keeps Python's lock when the next step is due.
    """
    gaps, start = [], time.perf_counter()
    while reaction.report is None:
        stage, begun = reaction.stage, time.perf_counter()
        reaction.step()
        held = time.perf_counter() - begun
        rest = max(0.0, TICK - held)
        time.sleep(rest)
        late = time.perf_counter() - begun - held - rest
        gaps.append((max(held, late), stage))
    reaction.close()
    return time.perf_counter() - start, gaps


def rss() -> float:
    """Megabytes of this process that are in memory."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def counts() -> tuple[dict[str, int], int]:
    """Data-blocks of each kind, and handlers."""
    blocks = {
        name: len(found)
        for name in dir(bpy.data)
        if isinstance(found := getattr(bpy.data, name), bpy.types.bpy_prop_collection) and len(found)
    }
    handlers = sum(
        len(found) for name in dir(bpy.app.handlers) if isinstance(found := getattr(bpy.app.handlers, name), list)
    )
    return blocks, handlers


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--runs", type=int, default=100)
    args.add_argument("--video", type=Path, default=ROOT / "demo" / "clip.mp4")
    args.add_argument("--rig", type=Path, help="a character's file instead of a small Mixamo skeleton")
    given = args.parse_args()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    hero_blender.register()
    scene = bpy.context.scene
    if given.rig is None:
        rig: Any = mixamo(bpy)
    else:
        from hero_blender import rigfile

        rig = rigfile.load_rig(given.rig)
        scene = bpy.context.scene
    scene.hero.armature = rig
    strip = compat.add_movie(scene, str(given.video.resolve()), 25.0, 1)
    frames = strip.frame_final_duration
    print(f"Blender {bpy.app.version_string}, {given.video.name}: {frames} frames, {os.cpu_count()} cores")

    print("\n| button to keyed rig | seconds | longest pause of the main loop |")
    print("|---|---|---|")

    def show(what: str, reaction: Reaction) -> None:
        seconds, gaps = run(reaction)
        longest, stage = max(gaps)
        print(f"| {what} | {seconds:.2f} | {1000 * longest:.0f} ms ({stage.lower()}) |", flush=True)

    settings = properties.settings_of(bpy.context)
    show("first take of a strip, torch and model not loaded yet", Reaction(scene, strip, rig, settings))
    show("the strip once more", Reaction(scene, strip, rig, settings))
    show("a further take", edit_take.more(scene, rig, takes.shown(rig), 1, settings))
    shown = takes.shown(rig)
    first, last = edit_take.range_of(rig, shown)
    middle = (first + last) // 2
    show("another part of it", edit_take.change_part(scene, rig, shown, (middle - 10, middle + 10), settings))
    show("first take of a file", Reaction(scene, str(given.video), rig, settings))

    scene.hero.action = "REPLACE"
    settings = properties.settings_of(bpy.context)
    takes.delete(takes.of(rig))
    rng, history = np.random.default_rng(0), []
    start = time.perf_counter()
    for number in range(given.runs):
        scene.hero.seed = int(rng.integers(1000))
        bpy.ops.hero.react()
        gc.collect()
        history.append((rss(), counts()))
        if number in (0, 9) or number + 1 == given.runs:
            print(f"run {number + 1}: {history[-1][0]:.0f} MB, {sum(history[-1][1][0].values())} data-blocks")
    warm = min(10, len(history) - 1)
    grown = history[-1][0] - history[warm][0]
    same = "the same" if history[-1][1] == history[0][1] else "changed"
    print(f"\n{given.runs} runs in {time.perf_counter() - start:.0f} s; since run {warm + 1}: {grown:+.1f} MB")
    print(f"data-blocks and handlers: {same}")
    sys.stdout.flush()
    hero_blender.unregister()
    react.forget_model()
    os._exit(0)


if __name__ == "__main__":
    main()
