# SPDX-License-Identifier: GPL-3.0-or-later
"""How well motions sit on rigs: numbers of ``--report`` for each pair, and a picture of each rig in motion.

    python -m tests.benchmarks.bench_rigs --out FOLDER [--rigs FOLDER] [--data FOLDER] [--motions a.npz ...] [--only X]

(from the project's root; needs bpy). Rigs are the files of a folder and generated Rigify ones; motions are recorded
ones of ``--data`` and what the shipped model makes of clips, or files. The folder gets rigs.json, rigs.txt, and for
each rig a PNG (Workbench): six poses from the front, and the same from the side; all.png has them all, ours.png those
of rigs that Blender generates.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt
from mathutils import Matrix, Vector

from hero_blender import compat, rigfile, rigify
from hero_blender.report import measured
from hero_core.errors import HeroError
from hero_core.motion import JOINTS, PARENTS, Motion
from hero_core.retarget.options import Options

Array = npt.NDArray[Any]
# A walk, kicks, getting up from the floor, a cartwheel, jumps, salsa and a dance with the arms.
RECORDED = (
    "07_08", "martial_08", "humanoid3d_getup_facedown", "humanoid3d_cartwheel", "01_01", "60_01", "indian_06"
)  # fmt: skip
FRAMES, SHOWN = 196, 6
OPTIONS = {
    "as it comes": Options(),
    "directions": Options(pin_feet=False, smooth=False, reduce=False),
    "positions": Options(pin_feet=False, smooth=False, reduce=False, preserve=1.0),
}
COLUMNS = (
    ("joints", "mapped"), ("limb °", "limb_direction_degrees.mean"),
    ("ends %", "hands_and_feet_percent_of_height.mean"),
    ("reach", "hands_and_feet_within_reach_percent_of_height.mean"),
    ("path %", "hips_path_percent_of_height"), ("skate", "skating_cm_per_second.before"),
    ("after", "skating_cm_per_second.after"), ("floor", "floor_penetration_cm.most"),
    ("jerk", "jerk_metres_per_second_cubed.before"), ("after", "jerk_metres_per_second_cubed.after"),
    ("step °", "largest_step_degrees.source_limbs"), ("rig °", "largest_step_degrees.rig_limbs"),
    ("flips", "inverted_knees_and_elbows"), ("keys %", "keys.share"), ("cost °", "keys.cost.degrees_most"),
    ("mm", "keys.cost.millimetres_most"), ("solve", "milliseconds.solve"), ("reduce", "milliseconds.reduce_keys"),
    ("write", "milliseconds.write_keys"),
)  # fmt: skip


def generated(kind: str) -> bpy.types.Object:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.preferences.addon_enable(module="rigify")
    getattr(bpy.ops.object, f"armature_{kind}_metarig_add")()
    bpy.ops.pose.rigify_generate()
    return next(obj for obj in bpy.data.objects if obj.type == "ARMATURE" and rigify.is_control_rig(obj))


def motions(data: Path, files: list[Path]) -> dict[str, Motion]:
    found = {}
    if (data / "cmu22.npz").is_file():
        with np.load(data / "cmu22.npz") as loaded:
            names = list(loaded["names"])
            for name in RECORDED:
                start, end = loaded["offsets"][names.index(name) : names.index(name) + 2]
                joints = loaded["joints"][start : min(end, start + FRAMES)]
                found[name] = Motion(joints[None], None, np.array([len(joints)]))
    for file in files:
        found[file.stem] = Motion.load(file)
    return found


def made() -> dict[str, Motion]:
    """Three takes of the shipped model on pictures of nothing: what matters here is how its joints move."""
    import hero_core

    hero = hero_core.load()
    frames = np.random.default_rng(0).integers(0, 255, (16, 224, 224, 3), np.uint8)
    motion = hero.react(hero.encode(frames), 2, hero.check_length(FRAMES), 0, None)
    return {f"generated {take}": Motion(motion.joints[take : take + 1],
            motion.features[take : take + 1] if motion.features is not None else None,
            motion.lengths[take : take + 1]) for take in range(2)}  # fmt: skip


def value(numbers: dict[str, Any], path: str) -> float | None:
    found: Any = numbers
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def line(name: str, numbers: dict[str, Any]) -> str:
    cells = []
    for _, path in COLUMNS:
        number = value(numbers, path)
        number = number * 100 if number is not None and path == "keys.share" else number
        cells.append("-".rjust(7) if number is None else f"{number:7.2f}" if number < 100 else f"{number:7.0f}")
    return name.ljust(58) + " ".join(cells)


# --- Pictures ---


def bodies(obj: bpy.types.Object) -> list[bpy.types.Object]:
    """The meshes that the armature deforms."""
    return [
        each
        for each in bpy.context.scene.objects
        if each.type == "MESH" and each.visible_get() and each.find_armature() == obj
    ]


def still(obj: bpy.types.Object, bones: dict[str, str]) -> bpy.types.Mesh:
    """The character at this frame as one mesh in the scene: its skin, or where it has none its bones.

    bones: joint -> bone name. A bone is drawn to the next joint's, for tails are often nowhere; the last to their tail.
    """
    graph = bpy.context.evaluated_depsgraph_get()
    points: list[Array] = []
    faces: list[list[int]] = []
    for body in bodies(obj):
        shown = body.evaluated_get(graph)
        mesh = shown.to_mesh()
        start = sum(map(len, points))
        points.append(np.array([shown.matrix_world @ vertex.co for vertex in mesh.vertices]))
        faces += [[start + index for index in face.vertices] for face in mesh.polygons]
        shown.to_mesh_clear()
    if not points:
        rig = obj.evaluated_get(graph)
        ends: dict[str, list[str]] = {joint: [] for joint in bones}
        for joint in bones:
            above = PARENTS[JOINTS.index(joint)]
            while above >= 0 and JOINTS[above] not in bones:
                above = PARENTS[above]
            if above >= 0:
                ends[JOINTS[above]].append(joint)
        for joint, below in ends.items():
            bone = rig.pose.bones[bones[joint]]
            heads = [rig.matrix_world @ rig.pose.bones[bones[each]].head for each in below]
            for end in heads or [rig.matrix_world @ bone.tail]:
                start = sum(map(len, points))
                points.append(_octahedron(rig.matrix_world @ bone.matrix, end))
                faces += [[start + index for index in face] for face in _FACES]
    mesh = bpy.data.meshes.new("still")
    mesh.from_pydata(np.concatenate(points).tolist(), [], faces)
    return mesh


_FACES = [[0, a, b] for a, b in ((1, 2), (2, 3), (3, 4), (4, 1))] + [
    [5, b, a] for a, b in ((1, 2), (2, 3), (3, 4), (4, 1))
]


def _octahedron(matrix: Matrix, end: Vector) -> Array:
    """A bone as Blender draws it from its head to ``end``, flatter along its z, so that its roll is seen."""
    start = matrix.to_translation()
    along = end - start
    x = matrix.to_3x3().col[0].normalized()
    across = x - along * (x @ along / max(along.length_squared, 1e-12))
    across = across.normalized() * 0.2 * along.length
    beside = along.normalized().cross(across) * 0.75
    middle = start + 0.15 * along
    return np.array([start, middle + across, middle + beside, middle - across, middle - beside, end])


def picture(obj: bpy.types.Object, report: dict[str, Any], poses: int, path: Path) -> None:
    scene = bpy.context.scene
    meshes = []
    for pose in np.linspace(0, poses - 1, SHOWN):
        scene.frame_set(round(report["first_frame"] + pose * report["frames_per_pose"]))
        meshes.append(still(obj, {joint: bone for joint, bone in report["map"].items() if bone}))
    studio = bpy.data.scenes.new("studio")
    height = 1.1 * max(np.ptp(_points(mesh), axis=0).max() for mesh in meshes)
    floor = min(_points(mesh)[:, 2].min() for mesh in meshes)
    for row, turn in enumerate((0.0, np.pi / 2)):
        for column, mesh in enumerate(meshes):
            points = _points(mesh)
            shown = bpy.data.objects.new("still", mesh)
            middle = (points.min(0) + points.max(0)) / 2
            aside = Matrix.Translation(Vector((column * height, 0, -row * 1.15 * height)))
            turned = Matrix.Rotation(turn, 4, "Z") @ Matrix.Translation(Vector((-middle[0], -middle[1], -floor)))
            shown.matrix_world = aside @ turned
            studio.collection.objects.link(shown)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.type, camera.data.ortho_scale = "ORTHO", SHOWN * height
    camera.data.clip_end = 1000 * height
    camera.location = ((SHOWN - 1) / 2 * height, -20 * height, -0.09 * height)
    camera.rotation_euler = (np.pi / 2, 0, 0)
    studio.collection.objects.link(camera)
    studio.camera = camera
    studio.render.engine = "BLENDER_WORKBENCH"
    studio.render.resolution_x, studio.render.resolution_y = 1200, 480
    studio.display.shading.light, studio.display.shading.show_cavity = "STUDIO", True
    studio.display.shading.color_type, studio.display.shading.single_color = "SINGLE", (0.35, 0.42, 0.55)
    studio.display.shading.background_type = "WORLD"
    studio.world = bpy.data.worlds.new("studio")
    studio.world.color = (0.6, 0.6, 0.6)
    compat.set_image_output(studio, "PNG", "RGB")
    studio.render.filepath = str(path)
    bpy.ops.render.render(write_still=True, scene=studio.name)
    bpy.data.scenes.remove(studio)


def joined(pictures: list[Path], path: Path) -> None:
    """One picture under the other."""
    parts = []
    for picture in pictures:
        image = bpy.data.images.load(str(picture))
        pixels = np.empty(4 * image.size[0] * image.size[1], np.float32)
        image.pixels.foreach_get(pixels)
        parts.append(pixels.reshape(image.size[1], image.size[0], 4))
        bpy.data.images.remove(image)
    if not parts:
        return
    whole = np.concatenate(parts[::-1])  # rows go upwards
    sheet = bpy.data.images.new("sheet", whole.shape[1], whole.shape[0])
    sheet.pixels.foreach_set(np.ascontiguousarray(whole).ravel())
    sheet.filepath_raw, sheet.file_format = str(path), "PNG"
    sheet.save()


def _points(mesh: bpy.types.Mesh) -> Array:
    points = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", points)
    return points.reshape(-1, 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(__file__).resolve().parents[3] / "shared"
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rigs", type=Path, default=shared / "rigs")
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--motions", type=Path, nargs="*", help="files; default: what the shipped model makes")
    parser.add_argument("--only", help="rigs and motions whose 'rig / motion' holds this")
    parser.add_argument("--quick", action="store_true", help="only with the usual options")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files = sorted(file for file in args.rigs.glob("*") if file.suffix in rigfile.RIG_SUFFIXES)
    takes = motions(args.data, args.motions or [])
    takes |= made() if args.motions is None else {}
    results: dict[str, Any] = {}
    head = "".ljust(58) + " ".join(title.rjust(7) for title, _ in COLUMNS)
    text = [head]
    print(head)
    pictures: list[Path] = []
    for rig in ["rigify basic_human", "rigify human", *(file.name for file in files)]:
        path = args.out / f"{Path(rig).stem.replace(' ', '_')}.png"
        pictured = False
        for name, motion in takes.items():
            if args.only and args.only not in f"{rig} / {name}":
                continue
            try:
                obj = generated(rig.split()[1]) if rig.startswith("rigify ") else rigfile.load_rig(args.rigs / rig)
                for title, options in list(OPTIONS.items())[: 1 if args.quick else None]:
                    scene = bpy.context.scene
                    report = rigfile.retarget_motion(obj, motion, name=name, options=options)
                    numbers = measured(obj, motion, 0, report, scene, options)
                    results[f"{rig} / {name} / {title}"] = numbers
                    text.append(line(f"{rig} / {name} / {title}", numbers))
                    print(text[-1], flush=True)
                    if not pictured and title == "as it comes" and name != next(iter(takes)):
                        picture(obj, report, int(motion.lengths[0]), path)
                        pictures.append(path)
                        pictured = True
            except HeroError as err:
                text.append(f"{rig} / {name}: {err}")
                print(text[-1], flush=True)
    joined(pictures, args.out / "all.png")
    joined([path for path in pictures if path.stem.startswith("rigify")], args.out / "ours.png")
    (args.out / "rigs.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (args.out / "rigs.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except BaseException:  # noqa: BLE001 - Blender hangs where Python ends by itself
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)
