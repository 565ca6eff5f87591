# SPDX-License-Identifier: GPL-3.0-or-later
"""A character with its active Action as a file for other programs: .blend, .fbx, .glb or .bvh.

The same file comes out each time, byte for byte, but for .blend, which holds addresses in memory.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import addon_utils
import bpy
import numpy as np

from hero_core import bvh_out
from hero_core.errors import HeroError
from hero_core.output import whole_file

from . import rigify
from .armature import Y_UP, read_rig

FORMATS = ("blend", "fbx", "glb", "bvh")


def write(kind: str, target: Path, rig: bpy.types.Object, scene: bpy.types.Scene, frames: tuple[int, int]) -> None:
    """Write the file, whole or not at all. ``frames`` are the first and the last of the reaction, in ``scene``.

    fbx and glb hold the armature and the meshes that follow it, bvh the bones alone. Raises HeroError; an OSError that
    tells why the disk could not be written is its cause where there is one.
    """
    with whole_file(target) as part:
        try:
            if kind == "blend":
                bpy.ops.wm.save_as_mainfile(filepath=str(part), copy=True, check_existing=False)
            elif kind == "bvh":
                _bvh(part, rig, scene, frames)
            else:
                with _alone(rig, scene, frames):
                    (_fbx if kind == "fbx" else _glb)(part, rig)
        except RuntimeError as err:  # an operator that failed
            left = part.with_name(part.name + "@")  # what Blender was writing
            left.unlink(missing_ok=True)
            raise HeroError(f"Blender cannot write '{target}': {_reason(err)}.") from err
        if not part.is_file() or not part.stat().st_size:
            raise HeroError(f"Blender wrote nothing to '{target}'; export the character by hand to see why.")


def _reason(err: RuntimeError) -> str:
    """The line that says it: an operator's error may be a whole traceback, and where that was told."""
    lines = [line for line in str(err).splitlines() if line.strip() and not line.startswith((" ", "Location:"))]
    text = lines[-1].strip() if lines else ""
    return text.removeprefix("Error: ").removeprefix("RuntimeError: ").rstrip(".") or "it does not tell why"


def body(rig: bpy.types.Object) -> list[bpy.types.Object]:
    """The meshes that an armature moves."""
    found = []
    for obj in bpy.data.objects:
        if obj.type != "MESH" or not obj.users_scene:
            continue
        bound = any(each.type == "ARMATURE" and each.object == rig for each in obj.modifiers)
        above = obj.parent
        while above is not None and not bound:
            bound, above = above == rig, above.parent
        if bound and not any(each.custom_shape == obj for each in rig.pose.bones):
            found.append(obj)
    return found


@contextlib.contextmanager
def _alone(rig: bpy.types.Object, scene: bpy.types.Scene, frames: tuple[int, int]) -> Iterator[None]:
    """The character selected, and nothing else; the frame range that of the reaction. Put back afterwards."""
    layer = bpy.context.view_layer
    if layer.objects.get(rig.name) != rig:
        raise HeroError(f"The armature '{rig.name}' is in no visible collection of its scene; show it, then try again.")
    had = scene.frame_start, scene.frame_end, scene.frame_current
    active = layer.objects.active
    selected = [obj for obj in layer.objects if obj.select_get()]
    wanted = [rig, *(obj for obj in body(rig) if layer.objects.get(obj.name) == obj)]
    hidden = [(obj, obj.hide_get(), obj.hide_viewport, obj.hide_select) for obj in wanted]
    try:
        scene.frame_start, scene.frame_end = frames
        for obj in selected:
            obj.select_set(False)
        for obj in wanted:
            obj.hide_viewport = obj.hide_select = False
            obj.hide_set(False)
            obj.select_set(True)
        layer.objects.active = rig
        yield
    finally:
        for obj, hide, viewport, select in hidden:
            obj.select_set(False)
            obj.hide_set(hide)
            obj.hide_viewport, obj.hide_select = viewport, select
        for obj in selected:
            obj.select_set(True)
        layer.objects.active = active
        scene.frame_start, scene.frame_end = had[:2]
        scene.frame_set(had[2])


def _fbx(part: Path, rig: bpy.types.Object) -> None:
    addon_utils.enable("io_scene_fbx")
    with _same_each_time():
        bpy.ops.export_scene.fbx(
            filepath=str(part),
            check_existing=False,
            use_selection=True,
            object_types={"ARMATURE", "MESH"},
            add_leaf_bones=False,
            use_armature_deform_only=rigify.is_control_rig(rig),
            bake_anim=True,
            bake_anim_use_all_actions=False,
            bake_anim_use_nla_strips=False,
            bake_anim_force_startend_keying=True,
            bake_anim_simplify_factor=0.0,
        )


@contextlib.contextmanager
def _same_each_time() -> Iterator[None]:
    """Blender's FBX exporter without the time of day, and with numbers that do not differ between processes."""
    from io_scene_fbx import export_fbx_bin, fbx_utils  # type: ignore[import-not-found]

    then = datetime.datetime(2000, 1, 1)
    had = export_fbx_bin.datetime
    export_fbx_bin.datetime = SimpleNamespace(datetime=SimpleNamespace(now=lambda: then))
    for numbers in ("_keys_to_uuids", "_uuids_to_keys"):  # those of earlier files decide about later ones
        getattr(fbx_utils, numbers, {}).clear()
    fbx_utils.hash = _stable_hash  # stands before the built-in one, which Python seeds anew in each process
    try:
        yield
    finally:
        export_fbx_bin.datetime = had
        del fbx_utils.hash


def _stable_hash(key: Any) -> int:
    if not isinstance(key, (str, bytes, tuple)):
        return hash(key)
    return int.from_bytes(hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _glb(part: Path, rig: bpy.types.Object) -> None:
    addon_utils.enable("io_scene_gltf2")
    bpy.ops.export_scene.gltf(
        filepath=str(part),
        check_existing=False,
        export_format="GLB",
        use_selection=True,
        export_animations=True,
        # With NLA tracks it is all of them that is seen, not the active Action alone.
        export_animation_mode="SCENE" if rig.animation_data and rig.animation_data.nla_tracks else "ACTIVE_ACTIONS",
        export_anim_slide_to_zero=True,
        export_def_bones=rigify.is_control_rig(rig),
        export_optimize_animation_size=False,
    )


def _bvh(part: Path, rig: bpy.types.Object, scene: bpy.types.Scene, frames: tuple[int, int]) -> None:
    """Bones that deform, or all where none does, hung under the nearest such bone above them; one pose each frame."""
    whole = read_rig(rig)
    deforms = np.array([rig.data.bones[name].use_deform for name in whole.names])
    rows = np.flatnonzero(deforms if deforms.any() else ~deforms)
    names = [whole.names[row] for row in rows]
    parents = []
    for row in rows:
        above = int(whole.parents[row])
        while above >= 0 and above not in rows:
            above = int(whole.parents[above])
        parents.append(int(np.searchsorted(rows, above)) if above >= 0 else -1)
    pose = [rig.pose.bones[name] for name in names]
    had = scene.frame_current
    places, matrices = [], []
    for frame in range(frames[0], frames[1] + 1):
        scene.frame_set(frame)
        world = Y_UP @ np.array(rig.matrix_world)
        matrices.append(world[:3, :3] @ np.array([bone.matrix for bone in pose])[:, :3, :3])  # (J, 3, 3)
        places.append(np.array([bone.head for bone in pose]) @ world[:3, :3].T + world[:3, 3])
    scene.frame_set(had)
    stand = whole.to_world[:3, :3]
    at_rest = _rotation(stand @ whole.rest[rows, :3, :3])
    turns = _rotation(np.array(matrices)) @ np.swapaxes(at_rest, 1, 2)[None]  # (N, J, 3, 3)
    rest, tails = whole.rest[rows, :3, 3] @ stand.T, whole.tails[rows] @ stand.T
    fps = scene.render.fps / scene.render.fps_base
    bvh_out.write(part, names, parents, rest, tails, np.array(places), turns, fps)


def _rotation(matrices: Any) -> Any:
    """The nearest rotations to (…, 3, 3): without scale and shear."""
    left, _, right = np.linalg.svd(matrices)
    turned = left @ right
    left[..., -1] *= np.sign(np.linalg.det(turned))[..., None]
    return left @ right


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what Blender and its exporters print, much of it from C and past sys.stdout."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is no such output
        yield
        return
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
