# SPDX-License-Identifier: GPL-3.0-or-later
"""Read rendered stimulus clips and the reactions paired with them. numpy only.

A clip's record (one line of ``index.jsonl``) names its frames (``shard``, ``row``) and its ``reactions``; a reaction is
a list of windows (``parts``) of recorded motions that are joined one after the other: stand for a moment, then dodge.
Joints are (N, 22, 3) in metres, Y up, 20 fps, HumanML3D's order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Clip = dict[str, Any]

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
L_HIP, R_HIP, L_SHOULDER, R_SHOULDER = 1, 2, 16, 17
FADE = 6  # frames over which two parts are crossfaded
TURN = 12  # frames over which a turn at a joint of two parts is spread: 0.6 s, a quick pivot
FRAMES = 16  # pictures of a clip

# The two halves of a pair carry their own splits in cmu22.npz; a pair belongs to the stricter one.
PAIR_SPLIT = {"60_02+61_02": "test", "60_11+61_11": "val", "60_14+61_14": "val"}


def heading(joints: Array) -> NDArray[np.float64]:
    """Yaw of the body in radians per frame, 0 = facing +Z, positive turns towards +X. joints: (N, 22, 3) -> (N,)."""
    left = joints[:, L_HIP] - joints[:, R_HIP] + joints[:, L_SHOULDER] - joints[:, R_SHOULDER]  # (N, 3)
    # forward = left x up, so forward.x = -left.z and forward.z = left.x
    return np.unwrap(np.arctan2(-left[:, 2], left[:, 0]))


def yaw_matrix(angle: NDArray[Any] | float) -> NDArray[np.float64]:
    """Rotations about +Y that turn +Z towards +X. angle: (...,) radians -> (..., 3, 3)."""
    c, s = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(c), np.ones_like(c)
    rows = [np.stack(row, -1) for row in ((c, zero, s), (zero, one, zero), (-s, zero, c))]
    return np.stack(rows, -2)


def place(joints: Array, at: tuple[float, float] = (0.0, 0.0), yaw: float = 0.0) -> Array:
    """Move a motion so that its first frame stands over ``at`` (x, z) and faces ``yaw``; heights are kept."""
    origin = joints[0, 0] * (1, 0, 1)
    turned = (joints - origin) @ yaw_matrix(yaw - heading(joints[:2])[0]).T
    return (turned + (at[0], 0.0, at[1])).astype(np.float32)


def keep_bones(joints: Array, like: Array) -> Array:
    """Give every frame of ``joints`` (N, 22, 3) the bone lengths of the pose ``like`` (22, 3), hips outwards."""
    out = joints.copy()
    for j, p in enumerate(PARENTS[1:], start=1):
        bone = joints[:, j] - joints[:, p]
        length = np.linalg.norm(bone, axis=-1, keepdims=True)
        out[:, j] = out[:, p] + bone / np.maximum(length, 1e-6) * np.linalg.norm(like[j] - like[p])
    return out


def join(first: Array, second: Array, turn: float = 0.0) -> Array:
    """Play ``second`` after ``first``: hips path and heading go on, FADE frames are mixed, bones keep their length.

    turn: degrees that the body turns at the joint, spread over TURN frames (+ = to its left).
    Returns (len(first) + len(second) - FADE, 22, 3).
    """
    k, start = FADE, len(first) - FADE
    hips = first[start, 0]
    second = place(second, (float(hips[0]), float(hips[2])), float(heading(first)[start]))
    weight = np.linspace(0, 1, k + 2)[1:-1, None, None]
    weight = weight * weight * (3 - 2 * weight)
    mixed = keep_bones(first[start:] * (1 - weight) + second[:k] * weight, first[0])
    joined = np.concatenate([first[:start], mixed, second[k:]]).astype(np.float32)
    if turn:
        frames = np.arange(len(joined))
        ramp = np.clip((frames - start - k / 2) / TURN + 0.5, 0, 1)
        rotation = yaw_matrix(np.radians(turn) * ramp * ramp * (3 - 2 * ramp))  # (N, 3, 3)
        hips = joined[:, :1].astype(np.float64)  # (N, 1, 3)
        steps = np.diff(hips, axis=0, prepend=hips[:1])
        path = hips[:1] + np.cumsum(np.einsum("nij,nkj->nki", rotation, steps), axis=0)
        joined = (np.einsum("nij,nkj->nki", rotation, joined - hips) + path).astype(np.float32)
    return joined


def joined_length(lengths: list[int]) -> int:
    """Frames of parts of these lengths once joined."""
    return sum(lengths) - FADE * (len(lengths) - 1)


class Motions:
    """The recordings in a folder of npz files, by file and name."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[str, dict[str, Any]] = {}

    def _file(self, file: str) -> dict[str, Any]:
        if file not in self._files:
            with np.load(self.folder / f"{file}.npz") as data:
                self._files[file] = {key: data[key] for key in data.files}
            self._files[file]["row"] = {str(n): i for i, n in enumerate(self._files[file]["names"])}
        return self._files[file]

    def names(self, file: str) -> list[str]:
        """Names of the recordings in ``file``."""
        return list(self._file(file)["row"])

    def get(self, file: str, name: str) -> Array:
        """Joints (N, 22, 3) of one recording; a pair's halves are ``name#A`` and ``name#B``."""
        data = self._file(file)
        name, _, half = name.partition("#")
        row = data["row"][name]
        joints: Array = data[half or "joints"]
        return joints[data["offsets"][row] : data["offsets"][row + 1]]

    def split(self, file: str, name: str) -> str:
        """``train``, ``val`` or ``test``."""
        data = self._file(file)
        name = name.partition("#")[0]
        if "split" not in data:
            return PAIR_SPLIT.get(name, "train")
        return str(data["split"][data["row"][name]])

    def window(self, part: dict[str, Any]) -> Array:
        """Joints of one part of a reaction (or of an actor's motion)."""
        joints = self.get(part["file"], part["name"])[part["start"] : part["start"] + part["length"]]
        return joints[::-1] if part.get("reverse") else joints

    def join(self, parts: list[dict[str, Any]]) -> Array:
        """Joints of all parts, joined; the first frame over the origin, facing +Z."""
        joints = place(self.window(parts[0]))
        for part in parts[1:]:
            joints = join(joints, self.window(part), part.get("turn", 0.0))
        return place(joints)


class Stimuli:
    """Rendered clips and their reactions.

    folder: what ``training.stimuli.render`` wrote; may still be growing. data: the folder of motion npz files.
    """

    def __init__(self, folder: str | Path, data: str | Path) -> None:
        self.folder = Path(folder)
        self.motions = Motions(data)
        lines = (self.folder / "index.jsonl").read_text().splitlines()
        self.records: list[Clip] = [json.loads(line) for line in lines]
        self._shard: tuple[str, NDArray[np.uint8]] | None = None

    def clips(self, split: str | None = None) -> Iterator[Clip]:
        """Records in the order of the shards, of one split or all."""
        return (clip for clip in self.records if split in (None, clip["split"]))

    def frames(self, clip: Clip) -> NDArray[np.uint8]:
        """(16, 224, 224, 3) RGB; the shard read last is kept in memory."""
        if self._shard is None or self._shard[0] != clip["shard"]:
            with np.load(self.folder / clip["shard"]) as data:
                self._shard = (clip["shard"], data["frames"])
        return self._shard[1][clip["row"]]

    def reactions(self, clip: Clip) -> list[tuple[Array, bool]]:
        """Every reaction of a clip as (joints (N, 22, 3), mirror); ``mirror`` is left for the caller to apply."""
        return [
            (self.motions.join(reaction["parts"])[: reaction["frames"]], bool(reaction["mirror"]))
            for reaction in clip["reactions"]
        ]
