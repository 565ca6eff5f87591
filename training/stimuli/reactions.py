# SPDX-License-Identifier: GPL-3.0-or-later
"""Choose the reactions of a clip and write them down as windows of recordings. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.stimuli.catalogue import REACTIONS, WAITING, Source, Stimulus
from training.stimuli.dataset import FADE, Motions, joined_length
from training.stimuli.scene import FPS

LONGEST = 196  # frames of a reaction
# Seconds of waiting at most. Who sees a car come does not stand until it is there; and a model that learns from
# mostly waiting people waits.
LATEST = 1.2


def available(motions: Motions, sources: tuple[Source, ...], split: str) -> list[Source]:
    """Those of ``sources`` that belong to the split."""
    return [s for s in sources if motions.split(s.file, s.name) == split]


def part(motions: Motions, source: Source, start: int | None = None, length: int | None = None) -> dict[str, Any]:
    """A source as the record of a window."""
    n = len(motions.get(source.file, source.name))
    start = source.start if start is None else start
    length = min(length or source.length or n, n - start)
    record: dict[str, Any] = {"file": source.file, "name": source.name, "start": int(start), "length": int(length)}
    record["reverse"] = source.reverse
    if source.turn:
        record["turn"] = source.turn
    return record


def reaction(
    motions: Motions, split: str, label: str, source: Source, delay: float, rng: np.random.Generator
) -> dict[str, Any]:
    """One reaction: wait for ``delay`` seconds if the split has somebody waiting, then do it, two seconds or more."""
    parts = []
    waiting = available(motions, WAITING, split)
    lead = int(delay * FPS) + FADE
    if waiting and (source.turn or (lead >= 2 * FADE and label != "stand")):
        pick = waiting[rng.integers(len(waiting))]
        n = len(motions.get(pick.file, pick.name))
        lead = min(max(lead, 2 * FADE), n - 2)
        parts.append(part(motions, pick, int(rng.integers(0, n - lead)), lead))
    n = len(motions.get(source.file, source.name))
    room = LONGEST - (parts[0]["length"] if parts else 0)
    if n > 130:
        length = int(rng.integers(60, 131))
        main = part(motions, source, int(rng.integers(0, n - length + 1)), min(length, room))
    else:
        main = part(motions, source, length=min(n, room))
    if source.turn:
        side = rng.choice([-1.0, 1.0])
        main["turn"] = float(side * np.clip(rng.normal(source.turn, 15), 60, 180))
    parts.append(main)
    joints = motions.window(main)
    travels = np.linalg.norm((joints[-1, 0] - joints[0, 0])[[0, 2]]) > 1.0
    wanted = int(rng.integers(48, 72)) if travels or n < 40 else 40
    again = {k: v for k, v in main.items() if k != "turn"}
    while joined_length([p["length"] for p in parts]) < wanted and len(parts) < 8:
        # who travels goes on; who holds a pose sways back into it
        again = again if travels else again | {"reverse": not again["reverse"]}
        parts.append(dict(again))
    frames = min(joined_length([p["length"] for p in parts]), LONGEST) // 4 * 4
    return {"label": label, "mirror": bool(rng.random() < 0.5), "frames": frames, "parts": parts}


def reactions(
    motions: Motions, split: str, stimulus: Stimulus, event: float, rng: np.random.Generator, count: int = 4
) -> list[dict[str, Any]]:
    """So many reactions that the split can show, the fitting kinds more often."""
    kinds = {k: w for k, w in stimulus.reactions.items() if available(motions, REACTIONS[k], split)}
    if not kinds:
        return []
    names, weights = list(kinds), np.array(list(kinds.values()), float)
    chosen = rng.choice(len(names), count, p=weights / weights.sum())
    out = []
    for i in chosen:
        sources = available(motions, REACTIONS[names[i]], split)
        delay = float(np.clip(event + rng.uniform(-0.45, 0.2), 0.0, LATEST))
        out.append(reaction(motions, split, names[i], sources[rng.integers(len(sources))], delay, rng))
    return [r for r in out if r["frames"] >= 40]
