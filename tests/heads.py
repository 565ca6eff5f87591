# SPDX-License-Identifier: GPL-3.0-or-later
"""A head that can be seen to act: skull, lids, brows, lips and eyes built from numbers, with ARKit's shape keys.

Metres, Blender's axes: the face looks along -Y, its left is +X. Other names than ARKit's may be given to its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from hero_core.face.reaction import ARKIT

Array = npt.NDArray[Any]
UP = 1.6  # of the head's middle
EYES = {"Left": np.array([0.034, -0.088, UP + 0.02]), "Right": np.array([-0.034, -0.088, UP + 0.02])}
BALL = 0.02
MOUTH = np.array([0.0, -0.104, UP - 0.055])
SKIN, HAIR, LIPS, WHITE, BLACK, TEETH = range(6)
COLOURS = {
    SKIN: (0.75, 0.52, 0.42), HAIR: (0.12, 0.07, 0.05), LIPS: (0.6, 0.16, 0.17), WHITE: (0.95, 0.95, 0.95),
    BLACK: (0.02, 0.02, 0.03), TEETH: (0.95, 0.93, 0.88),
}  # fmt: skip


class _Build:
    """Vertices and faces of several parts, each with a colour."""

    def __init__(self) -> None:
        self.points: list[Array] = []
        self.faces: list[tuple[int, ...]] = []
        self.colours: list[int] = []
        self.parts: dict[str, slice] = {}
        self.count = 0

    def grid(self, name: str, points: Array, colour: int, around: bool) -> None:
        """Points (rows, columns, 3) as quads; ``around``: the last column meets the first."""
        rows, columns = points.shape[:2]
        start = self.count
        for i in range(rows - 1):
            for j in range(columns if around else columns - 1):
                k = (j + 1) % columns
                a, b, c, d = (start + r * columns + s for r, s in ((i, j), (i, k), (i + 1, k), (i + 1, j)))
                self.faces.append((a, b, c, d))
                self.colours.append(colour)
        self.points.append(points.reshape(-1, 3))
        self.count += rows * columns
        self.parts[name] = slice(start, self.count)

    def all(self) -> Array:
        return np.concatenate(self.points)


def _ball(centre: Array, radii: tuple[float, float, float], rows: int = 24, columns: int = 32) -> Array:
    tall, wide = np.linspace(0.02, np.pi - 0.02, rows), np.linspace(0, 2 * np.pi, columns, endpoint=False)
    x = np.sin(tall)[:, None] * np.sin(wide)
    y = -np.sin(tall)[:, None] * np.cos(wide)
    z = np.cos(tall)[:, None] * np.ones(columns)
    return centre + np.stack([x, y, z], -1) * np.array(radii)


def _about_x(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _about_z(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _lid(centre: Array, upper: bool) -> Array:
    """A part of a ball around the eye: the upper lid from behind to its edge above the pupil, or the lower one."""
    radius = 1.12 * BALL
    reach = np.linspace(np.radians(-80), np.radians(80), 14)  # across
    down = (
        np.linspace(np.radians(110), np.radians(38), 8) if upper else np.linspace(np.radians(-110), np.radians(-40), 8)
    )
    x = radius * np.sin(reach)
    rest = radius * np.cos(reach)
    y = -rest * np.cos(down)[:, None]
    z = rest * np.sin(down)[:, None]
    return centre + np.stack([np.broadcast_to(x, y.shape), y, z], -1)


def head(
    bpy: Any,
    names: Iterable[str] = ARKIT,
    spell: Callable[[str], str] = lambda name: name,
    armature: bool = True,
    others: bool = False,
) -> tuple[Any, Any]:
    """The armature (or None) and the mesh "Head"; ``others`` adds "Eyes" and "Teeth" with keys of the same names."""
    built = _Build()
    built.grid("skull", _ball(np.array([0, 0, UP]), (0.088, 0.11, 0.13), 30, 40), SKIN, True)
    built.grid("nose", _ball(np.array([0, -0.112, UP - 0.016]), (0.011, 0.014, 0.018), 10, 14), SKIN, True)
    for side, centre in EYES.items():
        built.grid(f"brow{side}", _ball(centre + [0, -0.018, 0.034], (0.021, 0.005, 0.0042), 10, 24), HAIR, True)
        built.grid(f"lidT{side}", _lid(centre, True), SKIN, False)
        built.grid(f"lidB{side}", _lid(centre, False), SKIN, False)
        built.grid(f"cheek{side}", _ball(centre + [0.012 * np.sign(centre[0]), 0.004, -0.04], (0.02, 0.016, 0.014),
                                         10, 16), SKIN, True)  # fmt: skip
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    middle = np.stack([0.027 * np.cos(turn), 0.012 * np.cos(turn) ** 2, 0.0048 * np.sin(turn)], -1)
    out = np.stack([np.cos(turn), np.zeros(48), np.sin(turn)], -1)
    tube = MOUTH + middle + 0.0042 * (np.cos(ring)[:, None, None] * out + np.sin(ring)[:, None, None] * [0, -1, 0])
    built.grid("lips", np.concatenate([tube, tube[:1]]), LIPS, True)
    points = built.all()
    shapes = {name: _shape(name, built, points, turn) for name in names if name in ARKIT}
    rig = _armature(bpy) if armature else None
    mesh = _object(bpy, "Head", built, points, {name: shapes.get(name) for name in names}, spell, rig)
    if others:
        _eyes(bpy, names, spell, rig)
        _teeth(bpy, names, spell, rig)
    return rig, mesh


def _shape(name: str, built: _Build, points: Array, turn: Array) -> Array:
    """(V, 3) offsets of an ARKit shape."""
    out = np.zeros_like(points)
    side = "Left" if name.endswith("Left") else "Right"
    sign = 1.0 if side == "Left" else -1.0

    def part(key: str) -> slice:
        return built.parts[key]

    def across(key: str) -> Array:
        """0 at the inner end of a part, 1 at the outer."""
        x = np.abs(points[part(key), 0])
        return (x - x.min()) / np.ptp(x)

    lips = part("lips")
    angle = np.tile(turn, 11)
    corner = np.abs(np.cos(angle)) ** 2 * (np.sign(np.cos(angle)) == sign)
    corners = np.abs(np.cos(angle)) ** 2
    upper, lower = np.clip(np.sin(angle), 0, 1), np.clip(-np.sin(angle), 0, 1)
    if name.startswith("brow"):
        for each in (side,) if name != "browInnerUp" else ("Left", "Right"):
            key = f"brow{each}"
            if name == "browInnerUp":
                out[part(key), 2] = 0.016 * (1 - across(key))
            elif name.startswith("browOuterUp"):
                out[part(key), 2] = 0.015 * across(key)
            else:
                out[part(key), 2] = -0.012 * (1.2 - across(key))
    elif name.startswith(("eyeBlink", "eyeSquint", "eyeWide")):
        amount = {"Bl": 1.0, "Sq": 0.45, "Wi": -0.35}[name[3:5]]
        centre = EYES[side]
        for key, angle_x in ((f"lidT{side}", 66 * amount), (f"lidB{side}", -8 * amount)):
            rest = points[part(key)] - centre
            out[part(key)] = rest @ _about_x(np.radians(angle_x)).T - rest
    elif name.startswith("cheekSquint"):
        out[part(f"cheek{side}")] = [0, -0.004, 0.008]
    elif name == "cheekPuff":
        for each in ("Left", "Right"):
            out[part(f"cheek{each}"), 1] = -0.012
    elif name.startswith("noseSneer"):
        out[part("nose"), 2] = 0.002
    elif name == "jawOpen":
        out[lips, 2] = -0.03 * lower - 0.006 * corners
    elif name in ("jawLeft", "jawRight"):
        out[lips, 0] = sign * 0.01 * lower
    elif name in ("mouthLeft", "mouthRight"):
        out[lips, 0] = sign * 0.012
    elif name.startswith("mouthSmile"):
        out[lips, 2], out[lips, 0], out[lips, 1] = 0.017 * corner, sign * 0.013 * corner, 0.008 * corner
    elif name.startswith("mouthFrown"):
        out[lips, 2] = -0.013 * corner
    elif name.startswith(("mouthStretch", "mouthDimple")):
        out[lips, 0] = sign * 0.009 * corner
    elif name in ("mouthPucker", "mouthFunnel"):
        out[lips, 0], out[lips, 1] = -0.5 * (points[lips, 0] - MOUTH[0]), -0.008
        if name == "mouthFunnel":
            out[lips, 2] = 0.006 * upper - 0.006 * lower
    elif name.startswith("mouthUpperUp"):
        out[lips, 2] = 0.007 * upper
    elif name.startswith("mouthLowerDown"):
        out[lips, 2] = -0.007 * lower
    elif name.startswith(("mouthPress", "mouthRoll", "mouthShrug", "mouthClose")):
        out[lips, 2] = -0.002 * upper + 0.002 * lower
    return out


def _eyes(bpy: Any, names: Iterable[str], spell: Callable[[str], str], rig: Any) -> None:
    built = _Build()
    for side, centre in EYES.items():
        ball = _ball(np.zeros(3), (BALL, BALL, BALL), 24, 32) @ _about_x(np.pi / 2).T  # its pole looks ahead
        built.grid(side, ball + centre, WHITE, True)
        for k in range(32 * 5):
            built.colours[len(built.colours) - 23 * 32 + k] = BLACK
    points = built.all()
    shapes = {}
    for name in (each for each in names if each.startswith("eyeLook")):
        side = "Left" if name.endswith("Left") else "Right"
        out = np.zeros_like(points)
        rest = points[built.parts[side]] - EYES[side]
        aside = 30.0 if ("Out" in name) == (side == "Left") else -30.0
        how = _about_x(np.radians(30 if "Down" in name else -30)) if "Up" in name or "Down" in name else _about_z(
            np.radians(aside)
        )  # fmt: skip
        out[built.parts[side]] = rest @ how.T - rest
        shapes[name] = out
    _object(bpy, "Eyes", built, points, shapes, spell, rig)


def _teeth(bpy: Any, names: Iterable[str], spell: Callable[[str], str], rig: Any) -> None:
    built = _Build()
    built.grid("lower", _ball(MOUTH + [0, 0.016, -0.006], (0.018, 0.006, 0.004), 8, 16), TEETH, True)
    points = built.all()
    keys = {name: np.tile([0, 0, -0.025], (len(points), 1)) for name in names if name == "jawOpen"}
    _object(bpy, "Teeth", built, points, keys, spell, rig)


def _object(
    bpy: Any, name: str, built: _Build, points: Array, shapes: dict[str, Any], spell: Callable[[str], str], rig: Any
) -> Any:
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(points.tolist(), [], built.faces)
    for colour in sorted(COLOURS):
        material = bpy.data.materials.get(f"test {colour}") or bpy.data.materials.new(f"test {colour}")
        material.diffuse_color = (*COLOURS[colour], 1)
        mesh.materials.append(material)
    mesh.polygons.foreach_set("material_index", np.array(built.colours, np.int32))
    mesh.polygons.foreach_set("use_smooth", np.ones(len(built.faces), bool))
    obj = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(obj)
    if shapes:
        obj.shape_key_add(name="Basis")
    for key, offsets in shapes.items():
        block = obj.shape_key_add(name=spell(key), from_mix=False)
        if offsets is not None:
            block.data.foreach_set("co", (points + offsets).astype(np.float32).ravel())
    if rig is not None:
        obj.parent = rig
        obj.vertex_groups.new(name="head").add(list(range(len(points))), 1.0, "REPLACE")
        obj.modifiers.new("Armature", "ARMATURE").object = rig
    return obj


def _armature(bpy: Any) -> Any:
    data = bpy.data.armatures.new("Puppet")
    rig = bpy.data.objects.new("Puppet", data)
    bpy.context.scene.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    above = None
    for name, low, high in (("spine", 1.0, 1.38), ("neck", 1.38, 1.5), ("head", 1.5, 1.75)):
        bone = data.edit_bones.new(name)
        bone.head, bone.tail, bone.parent = (0, 0.02, low), (0, 0.02, high), above
        above = bone
    bpy.ops.object.mode_set(mode="OBJECT")
    return rig
