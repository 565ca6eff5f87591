# SPDX-License-Identifier: GPL-3.0-or-later
"""Render stimulus clips in Blender: 16 pictures of each, at the moments the model samples, packed in shards.

    python -m training.stimuli.render --data DATA --out build/stimuli --clips 800 --seed 0

Can be stopped at any time and started again: finished shards are kept, every file appears whole or not at all. A clip
depends on (seed, its number) alone. Several processes share the work with ``--worker I/N``.
Needs the bpy wheel and an EGL driver.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Vector
from numpy.typing import NDArray

from training.stimuli.actor import Body, Mesh
from training.stimuli.catalogue import STIMULI
from training.stimuli.dataset import Motions
from training.stimuli.scene import Library, Scene
from training.stimuli.scenes import write
from training.stimuli.shards import SHARD, missing_shards, split_of, write_shard
from training.stimuli.wardrobe import Wardrobe

# Classes whose people or things can stand before a photograph.
BEFORE_PHOTOS = [name for name, s in STIMULI.items() if (s.broad == "human" and name != "salsa") or s.broad == "animal"]
SIZE = 224  # what the encoder sees; drawn twice as large and halved


def quietly(call: Callable[[], Any]) -> None:
    """Blender prints several lines for each picture and each f-curve of an import: keep them out of the log."""
    sys.stdout.flush()
    kept, sink = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        call()
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(sink)


def to_blender(points: NDArray[Any]) -> NDArray[Any]:
    """(..., 3) Y up, +Z forward -> Z up, -Y forward."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], -1)


def read_creature(path: Path, action: str, steps: int) -> Mesh:
    """A cycle of an animated glb as vertices (steps, V, 3), facing +Z, standing on y = 0, coloured by its texture."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    quietly(lambda: bpy.ops.import_scene.gltf(filepath=str(path)))
    rig = next(o for o in bpy.data.objects if o.type == "ARMATURE")
    rig.animation_data_create()
    rig.animation_data.action = bpy.data.actions[action]
    rig.animation_data.action_slot = bpy.data.actions[action].slots[0]
    obj = next(o for o in bpy.data.objects if o.type == "MESH" and o.parent == rig)
    span: Any = bpy.data.actions[action].frame_range
    verts = []
    for step in range(steps):
        bpy.context.scene.frame_set(round(span[0] + (span[1] - span[0]) * step / steps))
        shape = obj.evaluated_get(bpy.context.evaluated_depsgraph_get())
        flat = np.empty(len(shape.data.vertices) * 3)
        shape.data.vertices.foreach_get("co", flat)
        world = flat.reshape(-1, 3) @ np.array(shape.matrix_world)[:3, :3].T + np.array(shape.matrix_world)[:3, 3]
        verts.append(np.stack([world[:, 0], world[:, 2], -world[:, 1]], -1))
    loops = np.empty(len(obj.data.loops), np.int64)
    obj.data.loops.foreach_get("vertex_index", loops)
    uv = np.empty(len(loops) * 2)
    obj.data.uv_layers[0].data.foreach_get("uv", uv)
    image = next(n.image for n in obj.data.materials[0].node_tree.nodes if n.type == "TEX_IMAGE")
    width, height = image.size
    pixels = np.array(image.pixels[:]).reshape(height, width, 4)[..., :3]
    x, y = (uv.reshape(-1, 2) % 1 * (width - 1, height - 1)).astype(int).T
    colors = np.zeros((len(obj.data.vertices), 3))
    colors[loops] = pixels[y, x]
    cycle = np.array(verts)
    cycle -= (np.array([0, 1, 0]) * cycle[..., 1].min()) + cycle[0].mean(0) * (1, 0, 1)
    return Mesh(cycle, [tuple(p.vertices) for p in obj.data.polygons], colors)


def load_library(data: Path) -> Library:
    """Motions, body and creatures from the data folder."""
    creatures = {
        "beast": read_creature(data / "stimuli" / "scottp_quad-creature-animations.glb", "Walk", 16),
        "bird": read_creature(data / "stimuli" / "scottp_bird-animations.glb", "Fly", 20),
    }
    return Library(Motions(data), Body(data / "actor"), creatures)


def stage_blender(scene: Scene, resolution: tuple[int, int], file: Path) -> list[tuple[Mesh, Any]]:
    """An empty Blender file with the scene's meshes, camera and Workbench light; the pictures go to ``file``."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    space = bpy.context.scene
    pairs = []
    for mesh in scene.meshes:
        data = bpy.data.meshes.new("mesh")
        data.from_pydata(to_blender(mesh.verts[0]).tolist(), [], mesh.faces)
        data.shade_smooth() if mesh.smooth else data.shade_flat()
        layer = data.color_attributes.new("paint", "BYTE_COLOR", "POINT")  # Cycles keeps the name "color" for itself
        rgba = np.concatenate([np.clip(mesh.colors, 0, 1), np.ones((len(mesh.colors), 1))], 1)
        layer.data.foreach_set("color_srgb", rgba.astype(np.float32).ravel())
        obj = bpy.data.objects.new("mesh", data)
        space.collection.objects.link(obj)
        pairs.append((mesh, data))
    camera = bpy.data.objects.new("eyes", bpy.data.cameras.new("eyes"))
    camera.data.sensor_fit = "HORIZONTAL"
    camera.data.angle = np.radians(scene.fov)
    camera.data.clip_start = 0.03
    space.collection.objects.link(camera)
    space.camera = camera

    render = space.render
    render.engine = "BLENDER_WORKBENCH"
    render.resolution_x, render.resolution_y = resolution
    squeeze = scene.aspect * resolution[1] / resolution[0]  # the picture is square, what it shows is not
    render.pixel_aspect_x, render.pixel_aspect_y = max(1.0, squeeze), max(1.0, 1 / squeeze)
    render.film_transparent = True
    render.image_settings.file_format = "TARGA_RAW"
    render.image_settings.color_mode = "RGBA"
    render.filepath = str(file)
    space.view_settings.view_transform = "Standard"
    space.display.render_aa = "OFF"  # drawn at twice the size instead
    space.display.light_direction = Vector(scene.light["direction"]).normalized()
    shading = space.display.shading
    shading.light = "STUDIO"
    shading.studio_light = scene.light["studio"]
    shading.color_type = "VERTEX"
    shading.show_shadows = scene.light["shadows"]
    shading.shadow_intensity = 0.4
    shading.show_cavity = scene.light["cavity"]
    shading.show_specular_highlight = False
    shading.show_object_outline = False
    return pairs


def show(scene: Scene, pairs: list[tuple[Mesh, Any]], t: int) -> None:
    """Bring meshes and eyes to picture ``t``."""
    for mesh, data in pairs:
        if len(mesh.verts) > 1:
            data.vertices.foreach_set("co", to_blender(mesh.verts[t]).astype(np.float32).ravel())
            data.update()
    eye, look = Vector(to_blender(scene.eye[t]).tolist()), Vector(to_blender(scene.look[t]).tolist())
    camera: Any = bpy.context.scene.camera
    camera.location = eye
    camera.rotation_euler = (look - eye).to_track_quat("-Z", "Y").to_matrix().to_euler()
    camera.rotation_euler.rotate_axis("Z", float(scene.roll[t]))


def read_tga(file: Path, resolution: tuple[int, int]) -> NDArray[np.float32]:
    """RGBA in [0, 1], (H, W, 4), of an uncompressed 32-bit Targa."""
    raw = np.frombuffer(file.read_bytes(), np.uint8, resolution[0] * resolution[1] * 4, offset=18)
    return raw.reshape(resolution[1], resolution[0], 4)[::-1, :, [2, 1, 0, 3]].astype(np.float32) / 255


def draw(scene: Scene, size: tuple[int, int] = (SIZE, SIZE), seed: int = 0) -> NDArray[np.uint8]:
    """Render every picture of a scene: (T, H, W, 3) uint8, graded, flipped where the scene says so. size: (W, H)."""
    rng = np.random.default_rng(seed)
    resolution = (2 * size[0], 2 * size[1])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.tga"
        pairs = stage_blender(scene, resolution, file)
        pictures = []
        for t in range(len(scene.times)):
            show(scene, pairs, t)
            quietly(lambda: bpy.ops.render.render(write_still=True))
            picture = read_tga(file, resolution)
            up = np.linspace(0, 1, resolution[1], dtype=np.float32)[:, None, None]
            sky = (scene.sky[0] * (1 - up) + scene.sky[1] * up).astype(np.float32)  # (2 H, 1, 3)
            behind = sky if scene.photo is None else backdrop(scene, t, resolution)
            rgb = picture[..., :3] * picture[..., 3:] + behind * (1 - picture[..., 3:])
            rgb = (rgb[::2, ::2] + rgb[1::2, ::2] + rgb[::2, 1::2] + rgb[1::2, 1::2]) * 0.25  # (H, W, 3)
            if scene.flash[t] > 0.01:
                rgb = rgb + glow(scene, t, size) + 0.35 * scene.flash[t]
            pictures.append(rgb)
    # exposed for the first picture, so that a flash blinds
    gain = np.clip(scene.look_grade["exposure"] / max(float(pictures[0].mean()), 1e-3), 0.5, 3.0)
    frames = np.stack([grade(rgb * gain, scene.look_grade, rng) for rgb in pictures])
    return np.ascontiguousarray(frames[:, :, ::-1] if scene.flip else frames)


def backdrop(scene: Scene, t: int, resolution: tuple[int, int]) -> NDArray[np.float32]:
    """The photograph as if far away: it moves as the eyes turn. (H, W, 3) in [0, 1]."""
    assert scene.photo is not None
    high, wide = scene.photo.shape[:2]
    ahead = scene.look - scene.eye  # (T, 3)
    turn = np.degrees(np.stack([np.arctan2(ahead[:, 0], ahead[:, 2]), np.arctan2(ahead[:, 1], ahead[:, 2])], -1))
    share = (turn[t] - turn.mean(0)) / scene.fov * (-1, -1)
    half = 0.36 * np.array([wide, high])
    x, y = np.clip(np.array([wide, high]) / 2 + share * 2 * half * (1, 1), half, np.array([wide, high]) - half)
    columns = np.linspace(x - half[0], x + half[0] - 1, resolution[0]).astype(int)
    rows = np.linspace(y - half[1], y + half[1] - 1, resolution[1]).astype(int)
    out: NDArray[np.float32] = scene.photo[rows][:, columns]
    return out


def glow(scene: Scene, t: int, size: tuple[int, int]) -> NDArray[Any]:
    """Light of the explosion around where it is in the picture, (H, W, 3)."""
    bpy.context.view_layer.update()
    from bpy_extras.object_utils import world_to_camera_view

    space: Any = bpy.context.scene
    seen: Any = world_to_camera_view(space, space.camera, Vector(to_blender(scene.flash_at).tolist()))
    u, v = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(1, 0, size[1]))
    near = np.exp(-np.hypot(u - seen[0], v - seen[1]) * max(seen[2], 1.0) * 0.7)
    return 2.5 * scene.flash[t] * near[..., None] * np.array([1.0, 0.85, 0.55])


def grade(rgb: NDArray[Any], how: dict[str, Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    """White balance, gamma, contrast, blur and noise of some camera. (H, W, 3) in [0, 1] -> uint8."""
    rgb = np.clip(rgb * np.array(how["white"]), 0, 1) ** how["gamma"]
    rgb = 0.5 + (rgb - 0.5) * how["contrast"]
    if how["blur"]:
        w = how["blur"] / 4
        for axis in (0, 1):
            rgb = rgb * (1 - 2 * w) + w * (np.roll(rgb, 1, axis) + np.roll(rgb, -1, axis))
    noise = how["noise"] * rng.standard_normal(rgb.shape, np.float32) if how["noise"] > 0.5 else 0.0
    return np.clip(rgb * 255 + noise + 0.5, 0, 255).astype(np.uint8)


def read_photos(folder: Path) -> dict[str, list[NDArray[np.float32]]]:
    """Photographs of a folder, those for validation and test apart."""
    from training.distil_data import held_out, read_pictures

    pools: dict[str, list[NDArray[np.float32]]] = {"train": [], "held out": []}
    for name, picture in read_pictures(folder)[0]:
        if min(picture.size) >= 300:
            picture.thumbnail((800, 800))
            pools["held out" if held_out(name) else "train"].append(np.asarray(picture, np.float32) / 255)
    return pools


def script(lib: Library, seed: int, clip: int, only: tuple[str, ...] = ()) -> tuple[str, str, Scene]:
    """Class, split and scene of clip number ``clip``: classes take turns, but those the split has no recordings for."""
    split, names = split_of(clip), [name for name in STIMULI if not lib.photos or name in BEFORE_PHOTOS]
    names = [name for name in names if not only or name in only]
    order = np.random.default_rng([seed, 7, clip // len(names)]).permutation(len(names))
    for shift in range(len(names)):
        cls = names[order[(clip + shift) % len(names)]]
        scene = write(lib, cls, split, np.random.default_rng([seed, clip, shift]))
        if scene is not None and scene.reactions:
            return cls, split, scene
    raise RuntimeError(f"no class has recordings in the {split} split")


def render_clip(
    lib: Library, seed: int, clip: int, only: tuple[str, ...] = ()
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Pictures (16, 224, 224, 3) and the record of one clip."""
    cls, split, scene = script(lib, seed, clip, only)
    frames = draw(scene, seed=clip)
    record = {
        "id": clip,
        "cls": cls,
        "broad": STIMULI[cls].broad,
        "split": split,
        "seed": seed,
        "seconds": round(scene.seconds, 3),
        "event": round(scene.event, 3),
        "flip": scene.flip,
        "actors": sorted(set(scene.actors)),
        "camera": {
            "height": round(float(scene.eye[0, 1]), 3),
            "fov": round(scene.fov, 1),
            "aspect": round(scene.aspect, 3),
        },
        "reactions": scene.reactions,
    }
    return frames, record


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of motions, actor and stimuli")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photos", type=Path, help="photographs to stand behind people and creatures")
    parser.add_argument("--wardrobe", type=Path, help="photographed skin, clothes and hair: see wardrobe.py")
    parser.add_argument("--only", default="", help="these classes alone, separated by commas")
    parser.add_argument("--worker", default="0/1", help="this process takes every N-th shard: I/N")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    worker, workers = map(int, args.worker.split("/"))
    lib = load_library(args.data)
    if args.photos is not None:
        lib.photos = read_photos(args.photos)
    if args.wardrobe is not None:
        lib.wardrobe = Wardrobe(args.wardrobe)
    only = tuple(name for name in args.only.split(",") if name)
    work = [r for r in missing_shards(args.out, args.clips) if (r.start // SHARD) % workers == worker]
    began, done, total = time.monotonic(), 0, sum(map(len, work))
    for clips in work:
        rendered = []
        for clip in clips:
            rendered.append(render_clip(lib, args.seed, clip, only))
            done += 1
            spent = time.monotonic() - began
            if done % 10 == 0:
                minutes = spent / done * (total - done) / 60
                print(
                    f"{done}/{total} clips, {spent / done:.2f} s each, {minutes:.0f} min to go",
                    flush=True,
                )
        write_shard(args.out, clips.start // SHARD, rendered)
    print(f"{args.out}: {args.clips} clips", flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a bpy process may hang in its own exit handlers
