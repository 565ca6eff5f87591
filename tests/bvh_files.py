# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes BVH files of any skeleton, so that tests know what stands in them."""

from __future__ import annotations

import numpy as np

from hero_core.motion import JOINTS, PARENTS, Array

J = {name: row for row, name in enumerate(JOINTS)}


def text_of(
    names: list[str],
    parents: list[int],
    offsets: Array,
    rows: Array,
    frame_time: float,
    order: str = "ZYX",
    ends: dict[int, Array] | None = None,
    every: bool = False,
) -> str:
    """A BVH file; ``rows`` (N, C): the root's place, then the angles of each joint. ``every``: places for all."""
    out = ["HIERARCHY"]

    def joint(row: int, depth: int) -> None:
        pad = "\t" * depth
        out.append(f"{pad}{'JOINT' if parents[row] >= 0 else 'ROOT'} {names[row]}")
        out.append(f"{pad}{{")
        out.append(f"{pad}\tOFFSET {offsets[row][0]:.9f} {offsets[row][1]:.9f} {offsets[row][2]:.9f}")
        place = "Xposition Yposition Zposition " if every or parents[row] < 0 else ""
        angles = " ".join(f"{axis}rotation" for axis in order)
        out.append(f"{pad}\tCHANNELS {6 if place else 3} {place}{angles}")
        children = [i for i, p in enumerate(parents) if p == row]
        for child in children:
            joint(child, depth + 1)
        if not children:
            end = (ends or {}).get(row, np.zeros(3))
            out.append(f"{pad}\tEnd Site\n{pad}\t{{\n{pad}\t\tOFFSET {end[0]} {end[1]} {end[2]}\n{pad}\t}}")
        out.append(f"{pad}}}")

    for row, parent in enumerate(parents):
        if parent < 0:
            joint(row, 0)
    out += ["MOTION", f"Frames: {len(rows)}", f"Frame Time: {frame_time:.7f}"]
    out += [" ".join(f"{value:.9f}" for value in row) for row in rows]
    return "\n".join(out) + "\n"


def depth_first(parents: list[int]) -> list[int]:
    def below(row: int) -> list[int]:
        return [row, *(x for child, parent in enumerate(parents) if parent == row for x in below(child))]

    return [x for row, parent in enumerate(parents) if parent < 0 for x in below(row)]


def places_only(names: dict[str, str], motion: Array, fps: float = 20.0) -> str:
    """A file that says a motion (N, 22, 3) through position channels of each joint, with rotations of zero."""
    kept = [name for name in JOINTS if name in names]
    parents = []
    for name in kept:
        parent = PARENTS[J[name]]
        while parent >= 0 and JOINTS[parent] not in kept:
            parent = PARENTS[parent]
        parents.append(kept.index(JOINTS[parent]) if parent >= 0 else -1)
    x = motion[:, [J[name] for name in kept]]
    local = np.stack([x[:, i] - (x[:, p] if p >= 0 else 0) for i, p in enumerate(parents)], 1)
    rows = [np.concatenate([local[:, i], np.zeros((len(x), 3))], 1) for i in depth_first(parents)]
    return text_of(
        [names[n] for n in kept], parents, local[0], np.concatenate(rows, 1), 1 / fps, every=True
    )  # fmt: skip
