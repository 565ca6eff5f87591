# SPDX-License-Identifier: GPL-3.0-or-later
"""Poses of a skeleton -> a BVH file that animation programs read: metres, Y up, rotations in the order Z, X, Y.

Blender's own exporter leaves the Z axis up, which lays characters on their backs elsewhere, and writes the controls of
a rig along with the bones that deform.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .motion import Array


def euler_zxy(turns: Array) -> Array:
    """Rotations (N, 3, 3) = Rz Rx Ry -> their angles (N, 3) z, x, y in radians, without jumps from frame to frame."""
    x = np.arcsin(np.clip(turns[:, 2, 1], -1.0, 1.0))
    z = np.arctan2(-turns[:, 0, 1], turns[:, 1, 1])
    y = np.arctan2(-turns[:, 2, 0], turns[:, 2, 2])
    locked = np.abs(turns[:, 2, 1]) > 1.0 - 1e-9  # z and y turn about one axis; all of it is said to be z
    z = np.where(locked, np.arctan2(turns[:, 1, 0], turns[:, 0, 0]), z)
    y = np.where(locked, 0.0, y)
    angles = np.stack([z, x, y], -1)
    for now in range(1, len(angles)):  # (z, x, y) and (z + pi, pi - x, y + pi) are the same turn
        other = angles[now] * (1, -1, 1) + np.pi
        choices = [each + 2 * np.pi * np.round((angles[now - 1] - each) / (2 * np.pi)) for each in (angles[now], other)]
        angles[now] = min(choices, key=lambda each: float(np.abs(each - angles[now - 1]).sum()))
    return angles


def write(
    path: Path,
    names: Sequence[str],
    parents: Sequence[int],
    rest: Array,
    tails: Array,
    places: Array,
    turns: Array,
    fps: float,
) -> None:
    """Write the file; J joints, parents before children. Raises OSError.

    rest    (J, 3) metres, Y up: where the joints are at rest
    tails   (J, 3) where the bone of a joint without children ends at rest
    places  (N, J, 3) where the joints are in each pose
    turns   (N, J, 3, 3) how they are turned from rest, in the world
    """
    count, joints = places.shape[:2]
    plain = [re.sub(r"\s+", "_", name) or "joint" for name in names]
    children: list[list[int]] = [[] for _ in range(joints)]
    roots: list[int] = []
    for joint, parent in enumerate(parents):
        (children[parent] if parent >= 0 else roots).append(joint)
    lines = ["HIERARCHY"]
    columns: list[Array] = []

    def put(joint: int, depth: int, kind: str) -> None:
        pad, parent = "\t" * depth, parents[joint]
        offset = rest[joint] - (rest[parent] if parent >= 0 else 0.0)
        lines.extend([f"{pad}{kind} {plain[joint]}", f"{pad}{{", f"{pad}\tOFFSET {_row(offset)}"])
        turn = turns[:, joint]
        if parent >= 0:
            turn = np.swapaxes(turns[:, parent], 1, 2) @ turn
            lines.append(f"{pad}\tCHANNELS 3 Zrotation Xrotation Yrotation")
        else:
            lines.append(f"{pad}\tCHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation")
            columns.append(places[:, joint])
        columns.append(np.degrees(euler_zxy(turn)))
        for child in children[joint]:
            put(child, depth + 1, "JOINT")
        if not children[joint]:
            end = _row(tails[joint] - rest[joint])
            lines.extend([f"{pad}\tEnd Site", f"{pad}\t{{", f"{pad}\t\tOFFSET {end}", f"{pad}\t}}"])
        lines.append(f"{pad}}}")

    for root in roots:
        put(root, 0, "ROOT")
    lines += ["MOTION", f"Frames: {count}", f"Frame Time: {1.0 / fps:.8f}"]
    values = np.concatenate(columns, 1)
    path.write_text("\n".join([*lines, *(_row(row) for row in values)]) + "\n", encoding="utf-8", newline="\n")


def _row(values: Array) -> str:
    return " ".join(f"{value + 0.0:.6f}" for value in np.round(values, 6))
