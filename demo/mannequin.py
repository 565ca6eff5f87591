# SPDX-License-Identifier: GPL-3.0-or-later
"""A body for Rigify's basic human: round limbs melted into one skin, weighted to the bones they were made from.

The skin is the zero level of a distance field. Each bone carries a few tapered capsules; a smooth minimum melts them
into each other, surface nets turn the field into quads, and the distance of a vertex to the capsules of each bone is
its weight. Everything is numpy; Blender only receives the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

VOXEL = 0.0125  # metres; vertices are then pulled onto the true surface, so fingers and feet stay round
SOFT_WEIGHT = 0.010  # metres over which the influence of a bone fades


@dataclass(frozen=True)
class Capsule:
    """A limb segment from ``a`` to ``b`` with radius ``ra`` to ``rb``, squeezed along ``axis`` by ``squeeze``."""

    bone: str
    a: tuple[float, float, float]
    b: tuple[float, float, float]
    ra: float
    rb: float
    melt: float = 0.02  # metres over which it flows into what is there already
    axis: tuple[float, float, float] = (0.0, 1.0, 0.0)
    squeeze: float = 1.0

    def distance(self, points: Array) -> Array:
        """(P, 3) -> (P,) metres, negative inside; a little short of exact where the radius changes."""
        a, b, axis = np.array(self.a), np.array(self.b), np.array(self.axis)
        p = points - a  # (P, 3)
        d = b - a
        if self.squeeze != 1.0:
            # Stretch space along the axis: a round capsule there is a flat one here.
            grow = 1.0 / self.squeeze - 1.0
            p = p + grow * (p @ axis)[:, None] * axis
            d = d + grow * (d @ axis) * axis
        along = np.clip(p @ d / max(float(d @ d), 1e-12), 0.0, 1.0)  # (P,)
        out: Array = np.linalg.norm(p - along[:, None] * d, axis=1) - (self.ra + along * (self.rb - self.ra))
        return out * min(self.squeeze, 1.0)


# Rigify's basic human in its rest pose: 1.98 m tall, facing -Y, its left on +X. One side; the other is mirrored.
MIDDLE = [
    Capsule("spine", (-0.080, 0.020, 1.075), (0.080, 0.020, 1.075), 0.100, 0.100),
    Capsule("spine.001", (-0.052, 0.012, 1.215), (0.052, 0.012, 1.215), 0.100, 0.100, 0.09),
    Capsule("spine.002", (-0.072, 0.012, 1.360), (0.072, 0.012, 1.360), 0.112, 0.112, 0.09),
    Capsule("spine.003", (-0.098, 0.022, 1.490), (0.098, 0.022, 1.490), 0.104, 0.104, 0.08),
    Capsule("spine.004", (0.0, 0.028, 1.615), (0.0, 0.006, 1.720), 0.074, 0.058, 0.075),
    Capsule("spine.005", (0.0, 0.004, 1.700), (0.0, -0.008, 1.780), 0.057, 0.057, 0.02),
    # skull, face and jaw
    Capsule("spine.006", (0.0, -0.003, 1.878), (0.0, -0.030, 1.866), 0.112, 0.107, 0.02, (1, 0, 0), 0.86),
    Capsule("spine.006", (0.0, -0.045, 1.828), (0.0, -0.072, 1.766), 0.085, 0.050, 0.035, (1, 0, 0), 0.84),
]
LEFT = [
    # seat and chest
    Capsule("spine", (0.070, 0.070, 1.035), (0.066, 0.050, 1.110), 0.078, 0.070, 0.09),
    Capsule("spine.003", (0.078, -0.036, 1.470), (0.060, -0.030, 1.450), 0.070, 0.070, 0.06),
    # leg
    Capsule("thigh", (0.098, 0.014, 1.050), (0.100, 0.000, 0.805), 0.092, 0.082, 0.03),
    Capsule("thigh.001", (0.100, 0.000, 0.805), (0.098, -0.022, 0.537), 0.082, 0.057, 0.01),
    Capsule("shin", (0.098, -0.022, 0.537), (0.099, 0.012, 0.400), 0.056, 0.059, 0.015),
    Capsule("shin", (0.099, 0.012, 0.400), (0.098, 0.010, 0.311), 0.059, 0.050, 0.015),
    Capsule("shin.001", (0.098, 0.010, 0.311), (0.098, 0.022, 0.090), 0.050, 0.036, 0.01),
    # foot: heel, instep, ball, toes
    Capsule("foot", (0.098, 0.050, 0.040), (0.098, 0.020, 0.070), 0.040, 0.042, 0.03),
    Capsule("foot", (0.098, 0.020, 0.070), (0.104, -0.095, 0.034), 0.044, 0.040, 0.03),
    Capsule("foot", (0.098, 0.045, 0.026), (0.104, -0.095, 0.026), 0.036, 0.044, 0.02),
    Capsule("toe", (0.104, -0.095, 0.026), (0.103, -0.172, 0.020), 0.042, 0.030, 0.02),
    # collar, arm
    Capsule("shoulder", (0.050, 0.034, 1.605), (0.170, 0.030, 1.598), 0.056, 0.050, 0.06),
    Capsule("upper_arm", (0.203, 0.028, 1.578), (0.319, 0.058, 1.517), 0.074, 0.057, 0.035),
    Capsule("upper_arm.001", (0.319, 0.058, 1.517), (0.442, 0.087, 1.449), 0.057, 0.044, 0.01),
    Capsule("forearm", (0.442, 0.087, 1.449), (0.500, 0.078, 1.411), 0.043, 0.047, 0.012),
    Capsule("forearm", (0.500, 0.078, 1.411), (0.551, 0.069, 1.378), 0.047, 0.042, 0.012),
    Capsule("forearm.001", (0.551, 0.069, 1.378), (0.655, 0.050, 1.309), 0.042, 0.029, 0.01),
]


# The hand hangs from the wrist along ALONG, the thumb side is ACROSS, the palm's normal is NORMAL.
WRIST = np.array((0.659, 0.049, 1.306))
ALONG = np.array((0.798, -0.100, -0.594))
ACROSS = np.array((-0.208, -0.970, -0.116))
NORMAL = np.cross(ALONG, ACROSS)
# where each finger starts across the palm, its length, how far it spreads
FINGERS = ((0.033, 0.070, 0.10), (0.011, 0.078, 0.03), (-0.011, 0.072, -0.04), (-0.032, 0.056, -0.12))


def _hand() -> list[Capsule]:
    """A palm, four fingers a little bent, and a thumb; all move with the one hand bone of the basic human."""

    def at(along: float, across: float, normal: float = 0.0) -> tuple[float, float, float]:
        x, y, z = WRIST + along * ALONG + across * ACROSS + normal * NORMAL
        return float(x), float(y), float(z)

    normal = (float(NORMAL[0]), float(NORMAL[1]), float(NORMAL[2]))
    parts = [
        Capsule("hand", at(0.010, 0.0), at(0.040, 0.0), 0.029, 0.036, 0.02, normal, 0.62),
        Capsule("hand", at(0.045, 0.012), at(0.082, 0.014), 0.030, 0.028, 0.02, normal, 0.52),
        Capsule("hand", at(0.045, -0.012), at(0.078, -0.016), 0.030, 0.027, 0.02, normal, 0.52),
        Capsule("hand", at(0.030, 0.022), at(0.066, 0.050, 0.006), 0.018, 0.0135, 0.014),
        Capsule("hand", at(0.066, 0.050, 0.006), at(0.098, 0.058, 0.012), 0.0135, 0.0105, 0.004),
    ]
    for across, length, spread in (
        (0.033, 0.070, 0.10),
        (0.011, 0.078, 0.03),
        (-0.011, 0.072, -0.04),
        (-0.032, 0.056, -0.12),
    ):
        knuckle, middle, tip = 0.094 - abs(across) * 0.25, 0.5 * length, length
        parts.append(
            Capsule(
                "hand",
                at(knuckle, across),
                at(knuckle + middle, across + spread * middle, 0.006),
                0.0125,
                0.0115,
                0.006,
            )
        )
        parts.append(
            Capsule(
                "hand",
                at(knuckle + middle, across + spread * middle, 0.006),
                at(knuckle + tip * 0.97, across + spread * tip, 0.020),
                0.0115,
                0.0095,
                0.003,
            )
        )
    return parts


def body() -> list[Capsule]:
    """All capsules, named by the deform bones of the generated rig without their ``DEF-``."""
    left = LEFT + _hand()

    def side(c: Capsule, end: str, sign: float) -> Capsule:
        def flip(v: tuple[float, float, float]) -> tuple[float, float, float]:
            return (sign * v[0], v[1], v[2])

        base, dot, number = c.bone.partition(".")
        bone = c.bone if base == "spine" else f"{base}.{end}{dot}{number}"
        return replace(c, bone=bone, a=flip(c.a), b=flip(c.b), axis=flip(c.axis))

    return MIDDLE + [side(c, "L", 1.0) for c in left] + [side(c, "R", -1.0) for c in left]


def field(parts: list[Capsule], points: Array) -> Array:
    """(P, 3) -> (P,) distance to the skin in metres, negative inside. Soles are cut flat at z = 0."""
    total = np.full(len(points), 10.0)
    for part in parts:
        reach = max(part.ra, part.rb) + 0.12
        low, high = np.minimum(part.a, part.b) - reach, np.maximum(part.a, part.b) + reach
        near = np.flatnonzero(((points > low) & (points < high)).all(axis=1))
        d, old = part.distance(points[near]), total[near]
        # polynomial smooth minimum (Quilez)
        h = np.maximum(part.melt - np.abs(d - old), 0.0) / part.melt
        total[near] = np.minimum(d, old) - 0.25 * h * h * part.melt
    return np.maximum(total, -points[:, 2])


def surface(parts: list[Capsule], voxel: float = VOXEL) -> tuple[Array, npt.NDArray[np.int64]]:
    """Vertices (V, 3) and quads (Q, 4) of the skin, by surface nets (Gibson 1998), pulled onto the true surface."""
    ends = np.array([p.a for p in parts] + [p.b for p in parts])
    low = ends.min(0) - 0.13
    shape = np.ceil((ends.max(0) + 0.13 - low) / voxel).astype(int)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)  # (X, Y, Z, 3)
    value = field(parts, (low + index * voxel).reshape(-1, 3)).reshape(shape)  # (X, Y, Z)

    # One vertex in each cell that the surface passes: the mean of the crossings of its 12 edges.
    cells = tuple(shape - 1)
    total, count = np.zeros((*cells, 3)), np.zeros(cells)
    crossed = []
    for axis in range(3):
        first, second = _slices(axis)
        a, b = value[first], value[second]
        cross = (a < 0) != (b < 0)
        crossed.append(cross)
        fraction = np.where(cross, a / np.where(cross, a - b, 1.0), 0.0)
        point = index[first] + fraction[..., None] * np.eye(3)[axis]
        u, v = (other for other in range(3) if other != axis)
        for du in (0, 1):
            for dv in (0, 1):
                # this edge seen from the cell that lies du, dv below it
                pick = [slice(None)] * 3
                pick[u] = slice(du, du + cells[u])
                pick[v] = slice(dv, dv + cells[v])
                mask = cross[tuple(pick)]
                total[mask] += point[tuple(pick)][mask]
                count[mask] += 1
    used = count > 0
    number = np.full(cells, -1)
    number[used] = np.arange(used.sum())
    vertices = low + voxel * total[used] / count[used][:, None]

    # One quad around each crossed edge, wound so that it faces outwards.
    quads = []
    for axis in range(3):
        u, v = ((1, 2), (2, 0), (0, 1))[axis]
        at = np.argwhere(crossed[axis])
        at = at[(at[:, u] > 0) & (at[:, v] > 0)]
        eu, ev = np.eye(3, dtype=int)[u], np.eye(3, dtype=int)[v]
        ring = np.stack([number[tuple((at - step).T)] for step in (eu * 0, eu, eu + ev, ev)], axis=1)  # (Q, 4)
        inside_first = value[tuple(at.T)] < 0
        ring[~inside_first] = ring[~inside_first, ::-1]
        quads.append(ring)
    for _ in range(2):
        vertices = vertices - field(parts, vertices)[:, None] * normals(parts, vertices)
    return vertices, np.concatenate(quads)


def _slices(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    first, second = [slice(None)] * 3, [slice(None)] * 3
    first[axis], second[axis] = slice(None, -1), slice(1, None)
    return tuple(first), tuple(second)


def normals(parts: list[Capsule], points: Array) -> Array:
    """(P, 3) unit gradient of the field."""
    step = 1e-4
    grad = np.stack(
        [field(parts, points + step * e) - field(parts, points - step * e) for e in np.eye(3)], axis=1
    )  # (P, 3)
    out: Array = grad / np.maximum(np.linalg.norm(grad, axis=1, keepdims=True), 1e-9)
    return out


def weights(parts: list[Capsule], points: Array) -> tuple[list[str], Array]:
    """Names of the bones and (P, bones) weights that sum to 1; at most four bones hold a vertex."""
    bones = sorted({part.bone for part in parts})
    distance = np.full((len(points), len(bones)), np.inf)
    for part in parts:
        column = bones.index(part.bone)
        distance[:, column] = np.minimum(distance[:, column], part.distance(points))
    share = np.exp(-(distance - distance.min(1, keepdims=True)) / SOFT_WEIGHT)  # (P, bones)
    share[share < np.sort(share, axis=1)[:, -4:-3]] = 0.0
    share[share < 0.01] = 0.0
    return bones, share / share.sum(1, keepdims=True)


def accent(points: Array) -> Array:
    """(P,) metres, positive where the accent colour is: a visor that shows where the head looks, and soles."""
    visor = 0.060 - np.sqrt(points[:, 0] ** 2 * 0.55 + ((points[:, 2] - 1.865) * 2.0) ** 2)
    visor = np.minimum(visor, -0.040 - points[:, 1])
    sole = 0.022 - points[:, 2]
    return np.maximum(visor, sole)


def dress(rig: Any, name: str = "Mannequin") -> Any:
    """Mesh object skinned to ``rig`` (Rigify's basic human as generated); returns the object."""
    parts = body()
    vertices, quads = surface(parts)
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices.tolist(), [], quads.tolist())
    mesh.polygons.foreach_set("use_smooth", [True] * len(mesh.polygons))
    layer = mesh.attributes.new("accent", "FLOAT", "POINT")
    layer.data.foreach_set("value", accent(vertices).astype(np.float32))
    mesh.update()
    skin = bpy.data.objects.new(name, mesh)
    rig.users_collection[0].objects.link(skin)
    skin.parent = rig
    bones, share = weights(parts, vertices)
    for column, bone in enumerate(bones):
        group = skin.vertex_groups.new(name=f"DEF-{bone}")
        for vertex in np.flatnonzero(share[:, column]):
            group.add([int(vertex)], float(share[vertex, column]), "REPLACE")
    modifier = skin.modifiers.new("Armature", "ARMATURE")
    modifier.object = rig
    return skin
