# SPDX-License-Identifier: GPL-3.0-or-later
"""What a reaction looks like, at a glance: clip and character over time, as a contact sheet (.png) or a movie (.mp4).

Drawn by Cycles in a scene of its own, in one grey: that needs neither a window nor a graphics card, takes a tenth of a
second a picture, and does not wait for the materials of a production. An armature without meshes is drawn as bones.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt
from mathutils import Matrix, Vector

from hero_core import picture
from hero_core.errors import HeroError
from hero_core.output import whole_file

from . import compat, export

Array = npt.NDArray[Any]

KINDS = {"sheet": ".png", "movie": ".mp4"}
SIZE = 240  # pixels
COLUMNS = 8
MOVIE_FPS = 12.0  # about; a whole number of scene frames lies between two pictures
SAMPLES = 4
_LENS, _SENSOR = 50.0, 36.0  # millimetres
_VIEW = math.radians(28.0)  # the camera stands this far to the character's left of its front


def make(
    rig: bpy.types.Object,
    scene: bpy.types.Scene,
    frames: tuple[int, int],
    clip: Path,
    targets: dict[str, Path],
    alone: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> None:
    """Write the previews: ``targets`` by kind. Everything that is made for them in the file is taken away again.

    ``alone()`` is entered for each picture: Blender crashes, now and then, where it renders while another thread runs
    Python. Raises HeroError.
    """
    rate = Fraction(scene.render.fps) / Fraction(scene.render.fps_base).limit_denominator(1001)
    shown = {kind: _shown(kind, frames, rate) for kind in targets}
    every = sorted({frame for numbers in shown.values() for frame in numbers})
    pictures = dict(zip(every, _drawn(rig, scene, every, alone), strict=True))
    for kind, target in targets.items():
        times = [float((frame - frames[0]) / rate) for frame in shown[kind]]
        seen = [pictures[frame] for frame in shown[kind]]
        try:
            size = (SIZE, SIZE) if kind == "sheet" else (SIZE * 4 // 3, SIZE)
            movie = picture.Clip(clip, size, trim=kind == "sheet")
            with whole_file(target) as part:
                if kind == "sheet":
                    columns = [(at, movie.at(at), each) for at, each in zip(times, seen, strict=True)]
                    picture.write_image(part, picture.contact_sheet(columns))
                else:
                    beside = [
                        picture.side_by_side(movie.at(at), each, at, times[-1])
                        for at, each in zip(times, seen, strict=True)
                    ]
                    step = shown[kind][1] - shown[kind][0] if len(seen) > 1 else 1
                    picture.write_movie(part, beside, rate / step)
        except (ValueError, IndexError) as err:
            raise HeroError(f"The preview '{target}' cannot be made ({err}).") from err


def _shown(kind: str, frames: tuple[int, int], rate: Fraction) -> list[int]:
    if kind == "movie":
        return list(range(frames[0], frames[1] + 1, max(1, round(float(rate) / MOVIE_FPS))))
    count = min(COLUMNS, frames[1] - frames[0] + 1)
    return [round(float(frame)) for frame in np.linspace(frames[0], frames[1], count)]


def _drawn(
    rig: bpy.types.Object, scene: bpy.types.Scene, frames: list[int], alone: Callable[[], Any]
) -> list[picture.Image]:
    """The character at those frames of its scene, from a camera that sees all of its way."""
    stage = bpy.data.scenes.new("HERO preview")
    made: list[Any] = []
    had = scene.frame_current
    try:
        skins = [obj for obj in export.body(rig) if not obj.hide_render]
        for obj in (rig, *skins):
            stage.collection.objects.link(obj)
        spread = _spread(rig, skins, scene, frames)
        if not skins:
            made += _bones(rig, stage)
        made += _surroundings(stage, np.concatenate(spread))
        views = _views(spread)
        _render_settings(stage)
        with tempfile.TemporaryDirectory(prefix="hero-preview-") as folder:
            stage.render.filepath = str(Path(folder) / "frame.png")
            out = []
            for frame, view in zip(frames, views, strict=True):
                stage.camera.matrix_world = view
                with alone(), bpy.context.temp_override(scene=stage):
                    stage.frame_set(frame)
                    bpy.ops.render.render(write_still=True)
                out.append(picture.read_image(Path(stage.render.filepath)))
        return out
    except RuntimeError as err:
        raise HeroError(f"The preview cannot be drawn: {str(err).strip()}") from err
    finally:
        # What the renderer keeps between pictures points into the scene, and Blender follows it when it is gone.
        stage.render.use_persistent_data = False
        bpy.data.scenes.remove(stage)
        for item in made[::-1]:
            with contextlib.suppress(ReferenceError):
                bpy.data.batch_remove([item])
        scene.frame_set(had)


def _spread(
    rig: bpy.types.Object, skins: list[bpy.types.Object], scene: bpy.types.Scene, frames: list[int]
) -> list[Array]:
    """For each frame (P, 3) where in the world the character is: its meshes' boxes, or else its bones, with room."""
    bones = [bone for bone in rig.pose.bones if bone.bone.use_deform] or list(rig.pose.bones)
    depsgraph = bpy.context.evaluated_depsgraph_get()
    places = []
    for frame in frames:
        scene.frame_set(frame)
        ends = np.array([end for bone in bones for end in (bone.head, bone.tail)])
        found = [_world(rig, ends)]
        for skin in skins:
            shown = skin.evaluated_get(depsgraph)
            found.append(_world(shown, np.array([corner[:] for corner in shown.bound_box])))
        places.append(np.concatenate(found))
    if skins:
        return places
    room = 0.06 * float(np.ptp(places[0], axis=0).max())
    sides = np.array([(x, y, z) for x in (-room, room) for y in (-room, room) for z in (-room / 2, room)])
    return [(each[:, None] + sides[None]).reshape(-1, 3) for each in places]


def _world(obj: bpy.types.Object, points: Array) -> Array:
    """(P, 3) in the object's space -> in the world."""
    matrix = np.array(obj.matrix_world)
    out: Array = points @ matrix[:3, :3].T + matrix[:3, 3]
    return out


def _bones(rig: bpy.types.Object, stage: bpy.types.Scene) -> list[Any]:
    """A slim body for each bone that deforms."""
    made: list[Any] = []
    bones = [bone for bone in rig.data.bones if bone.use_deform] or list(rig.data.bones)
    tall = max(float(np.ptp(np.array([bone.head_local for bone in bones]), axis=0).max()), 1e-6)
    for bone in bones:
        high = min(bone.length, 0.3 * tall)
        wide = max(0.09 * high, 0.01 * tall)
        ring = [(wide, 0.2 * high, 0.0), (0.0, 0.2 * high, wide), (-wide, 0.2 * high, 0.0), (0.0, 0.2 * high, -wide)]
        mesh = bpy.data.meshes.new("HERO bone")
        faces = [(0, 1 + i, 1 + (i + 1) % 4) for i in range(4)] + [(5, 1 + (i + 1) % 4, 1 + i) for i in range(4)]
        mesh.from_pydata([(0.0, 0.0, 0.0), *ring, (0.0, high, 0.0)], [], faces)
        obj = bpy.data.objects.new("HERO bone", mesh)
        stage.collection.objects.link(obj)
        obj.parent, obj.parent_type, obj.parent_bone = rig, "BONE", bone.name
        obj.matrix_parent_inverse = Matrix.Translation((0.0, -bone.length, 0.0))  # children stand at a bone's tail
        made += [mesh, obj]
    return made


def _surroundings(stage: Any, points: Array) -> list[Any]:
    """Floor with a line each metre, sun, sky, one material for all, and the camera."""
    tall = float(np.ptp(points[:, 2]))
    clay = bpy.data.materials.new("HERO clay")
    clay.use_nodes = True
    shader = next(node for node in clay.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Roughness"].default_value = 0.8
    which = clay.node_tree.nodes.new("ShaderNodeObjectInfo")  # floor and lines are told by their colour
    shade = clay.node_tree.nodes.new("ShaderNodeMix")
    shade.data_type, shade.blend_type = "RGBA", "MULTIPLY"
    shade.inputs["Factor"].default_value = 1.0
    shade.inputs["A"].default_value = (0.62, 0.46, 0.34, 1.0)
    clay.node_tree.links.new(which.outputs["Color"], shade.inputs["B"])
    clay.node_tree.links.new(shade.outputs["Result"], shader.inputs["Base Color"])
    stage.view_layers[0].material_override = clay
    x, y = 0.5 * (points[:, :2].min(0) + points[:, :2].max(0))
    size = 30.0 * tall
    floor = _mesh("HERO floor", [(x - size, y - size, x + size, y + size)], -0.002 * tall, (0.16, 0.24, 0.36, 1.0))
    reach = range(-12, 13)
    lines = [(x + i - 0.01, y - 12, x + i + 0.01, y + 12) for i in np.round(x) - x + reach]
    lines += [(x - 12, y + i - 0.01, x + 12, y + i + 0.01) for i in np.round(y) - y + reach]
    grid = _mesh("HERO grid", lines, -0.001 * tall, (0.5, 0.7, 1.0, 1.0))
    light = bpy.data.lights.new("HERO sun", "SUN")
    light.energy, light.angle = 3.0, math.radians(4.0)
    sun = bpy.data.objects.new("HERO sun", light)
    sun.rotation_euler = (math.radians(40.0), math.radians(18.0), 0.0)
    world = bpy.data.worlds.new("HERO sky")
    world.use_nodes = True
    sky = next(node for node in world.node_tree.nodes if node.type == "BACKGROUND")
    sky.inputs["Color"].default_value = (0.20, 0.22, 0.25, 1.0)
    stage.world = world
    lens = bpy.data.cameras.new("HERO camera")
    lens.lens, lens.sensor_fit, lens.sensor_width = _LENS, "HORIZONTAL", _SENSOR
    lens.clip_start, lens.clip_end = 0.01 * tall, 100.0 * tall
    camera = bpy.data.objects.new("HERO camera", lens)
    for obj in (floor, grid, sun, camera):
        stage.collection.objects.link(obj)
    stage.camera = camera
    return [clay, floor.data, floor, grid.data, grid, light, sun, world, lens, camera]


def _mesh(name: str, quads: list[Any], height: float, colour: tuple[float, ...]) -> Any:
    """An object of level rectangles (x0, y0, x1, y1)."""
    corners = [(x, y, height) for a, b, c, d in quads for x, y in ((a, b), (c, b), (c, d), (a, d))]
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(corners, [], [tuple(range(4 * i, 4 * i + 4)) for i in range(len(quads))])
    obj: Any = bpy.data.objects.new(name, mesh)
    obj.color = colour
    return obj


def _views(spread: list[Array]) -> list[Matrix]:
    """Where the camera stands at each frame: still where it sees all of the way, beside the character on long ways."""
    middles = np.array([0.5 * (each.min(0) + each.max(0)) for each in spread])
    tall = max(float(np.ptp(each[:, 2])) for each in spread)
    if np.ptp(middles, axis=0)[:2].max() < 2.0 * tall:
        return [_view(np.concatenate(spread))] * len(spread)
    around = np.concatenate([each - middle for each, middle in zip(spread, middles, strict=True)])
    view = _view(around)
    return [Matrix.Translation(middle) @ view for middle in middles]


def _view(points: Array) -> Matrix:
    """Where a camera stands that sees all points in a square picture."""
    half = 0.5 * _SENSOR / _LENS
    back = Vector((math.sin(_VIEW), -math.cos(_VIEW), 0.16)).normalized()
    turn = back.to_track_quat("Z", "Y").to_matrix()
    local = points @ np.array(turn)  # (P, 3) right, up, back
    high = (local[:, :2] + half * local[:, 2:]).max(0)
    low = (-local[:, :2] + half * local[:, 2:]).max(0)
    middle = (high - low) / 2.0
    spot = Vector((*middle, float((high + low).max() / (2.0 * half))))
    return Matrix.Translation(turn @ spot) @ turn.to_4x4()


def _render_settings(stage: Any) -> None:
    stage.render.engine = "CYCLES"
    stage.cycles.device = "CPU"
    stage.cycles.samples = SAMPLES
    stage.cycles.use_adaptive_sampling = stage.cycles.use_denoising = False
    stage.cycles.max_bounces = 1
    stage.cycles.seed = 0
    stage.render.use_persistent_data = True
    stage.render.resolution_x = stage.render.resolution_y = SIZE
    stage.render.resolution_percentage = 100
    stage.render.use_file_extension = True
    stage.view_settings.view_transform = "Standard"
    compat.set_image_output(stage, "PNG", "RGB")
