# SPDX-License-Identifier: GPL-3.0-or-later
"""A rig from a file, and a motion onto a rig: the two things that every way in needs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import addon_utils
import bpy
import numpy as np
import numpy.typing as npt

from hero_core import retarget
from hero_core.errors import HeroError
from hero_core.motion import Motion
from hero_core.place import Place
from hero_core.place import put as place_on
from hero_core.retarget import BoneKeys
from hero_core.retarget.frames import whole_frames
from hero_core.retarget.options import Options
from hero_core.retarget.reduce import Curves, every_pose, few_keys
from hero_core.retarget.rig import size_of
from hero_core.retarget.solve import to_keys
from hero_core.retarget.vrm import read_vrm

from . import armature, bone_map, ik_rig, rigify

Array = npt.NDArray[Any]

RIG_SUFFIXES = (".blend", ".glb", ".gltf", ".vrm", ".fbx", ".bvh")


def load_rig(path: Path, name: str | None = None) -> bpy.types.Object:
    """Open a rig's file and return its armature object.

    A .blend becomes the open file, with its scene; any other kind is imported into an empty one, without the
    animations that it brings. Raises HeroError for a file that is missing, unreadable or of another kind, and for one
    without an armature, or with several and none of them ``name``.
    """
    path = Path(path)
    if path.suffix.lower() not in RIG_SUFFIXES:
        raise HeroError(f"'{path.name}' is no rig that HERO reads; give one of {', '.join(RIG_SUFFIXES)}.")
    if not path.is_file():
        raise HeroError(f"There is no rig file '{path}'.")
    try:
        if path.suffix.lower() == ".blend":
            bpy.ops.wm.open_mainfile(filepath=str(path))
        else:
            bpy.ops.wm.read_factory_settings(use_empty=True)
            _import(path)
    except (RuntimeError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as err:
        # Importers are add-ons of many hands and raise whatever a broken file makes them raise.
        reason = str(err).strip().splitlines()[-1:] or [type(err).__name__]
        raise HeroError(f"The rig '{path}' cannot be read ({reason[0]}); open it in Blender and save it anew.") from err
    return pick_armature(name, path.name)


def _import(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix == ".bvh":
        addon_utils.enable("io_anim_bvh")
        bpy.ops.import_anim.bvh(filepath=str(path), global_scale=1.0)
    elif suffix == ".fbx":
        addon_utils.enable("io_scene_fbx")
        bpy.ops.import_scene.fbx(filepath=str(path), use_anim=False)
    else:
        addon_utils.enable("io_scene_gltf2")
        bpy.ops.import_scene.gltf(filepath=str(path))
    for obj in bpy.data.objects:
        if obj.type == "ARMATURE" and obj.animation_data:
            obj.animation_data_clear()
            for bone in obj.pose.bones:
                bone.matrix_basis.identity()
        if obj.type == "ARMATURE" and path.suffix.lower() in {".vrm", ".glb", ".gltf"}:
            bone_map.remember_file_map(obj, read_vrm(path))
    bpy.context.view_layer.update()


def pick_armature(name: str | None, where: str) -> bpy.types.Object:
    """The armature of the open file by its name, or the only one of the scene."""
    found = [obj for obj in bpy.context.scene.objects if obj.type == "ARMATURE"]
    found = found or [obj for obj in bpy.data.objects if obj.type == "ARMATURE"]
    names = ", ".join(f"'{obj.name}'" for obj in found)
    if name is not None:
        chosen = next((obj for obj in found if obj.name == name), None)
        if chosen is None:
            raise HeroError(f"'{where}' has no armature '{name}'; it has {names or 'none'}.")
        return chosen
    if not found:
        raise HeroError(f"'{where}' has no armature; give the file of a rigged character.")
    controls = [obj for obj in found if rigify.is_control_rig(obj)]
    if len(found) > 1 and len(controls) == 1:  # beside it stands the metarig from which it was generated
        return controls[0]
    if len(found) > 1:
        raise HeroError(f"'{where}' has several armatures; choose one with --armature: {names}.")
    return found[0]


def check_writable(obj: bpy.types.Object | None) -> None:
    """Raise HeroError where this object cannot take an Action."""
    armature.check_writable(obj)


def check_armature(obj: bpy.types.Object | None) -> None:
    """Raise HeroError where a motion cannot be put on this object; cheap enough to call before long work."""
    checked = armature.check_writable(obj)
    bone_map.find(checked, armature.read_rig(checked))


def retarget_motion(
    obj: bpy.types.Object,
    motion: Motion,
    take: int = 0,
    *,
    first_frame: float = 1,
    name: str = "HERO reaction",
    scene: bpy.types.Scene | None = None,
    options: Options | None = None,
    place: Place | None = None,
    stood: Array | None = None,
) -> dict[str, Any]:
    """Put one take on an armature as a new Action, assigned and bound; returns the report.

    The poses of the 20 fps motion stand at first_frame + i * frames_per_pose, by the rate of ``scene`` (the open one
    where it is not given); keys stand on the whole frames between the first and the last. ``place`` turns, moves and
    slows the motion; ``stood`` (4, 4) is the ``Rig.to_world`` for which it is done, where that is not where the
    armature stands now. Raises HeroError with nothing written.
    """
    fitting = Fitting(obj, motion, take, first_frame, scene, options, place, stood)
    fitting.work()
    return fitting.write(obj, name)


class Fitting:
    """One take on its way to an armature, in three parts: reading (here), ``work`` in any thread, and ``write``.

    For a control rig all of the solve is done while reading, for it looks at the rig's constraints.
    """

    def __init__(
        self,
        obj: bpy.types.Object,
        motion: Motion,
        take: int = 0,
        first_frame: float = 1,
        scene: bpy.types.Scene | None = None,
        options: Options | None = None,
        place: Place | None = None,
        stood: Array | None = None,
        rate: float | None = None,
    ) -> None:
        """Arguments as in ``retarget_motion``; ``rate``: frames a second for which keys are made, None: the scene's."""
        started = time.perf_counter()
        scene, place = scene or bpy.context.scene, place or Place()
        self.options = replace(options or Options(), start=place.start)
        bpy.context.view_layer.update()  # matrix_world of an object just moved or imported
        self.rig = armature.read_rig(obj, first_frame)
        if stood is not None:
            self.rig = replace(self.rig, to_world=np.asarray(stood, np.float64))
        read = time.perf_counter()
        self._joints, self._contacts = place_on(motion.take(take), contacts_of(motion, take), place)
        self.bones = bone_map.find(obj, self.rig)
        self._modes = {bone.name: bone.rotation_mode for bone in obj.pose.bones}
        self._chains, self._left_alone = [], []  # type: ignore[var-annotated]
        self._unseen = armature.unseen(obj)
        self._keys: BoneKeys | None = None
        self.first_frame = first_frame
        self.frames_per_pose = (rate or scene.render.fps / scene.render.fps_base) / motion.fps * place.time_scale
        poses = first_frame + self.frames_per_pose * np.arange(max(len(self._joints), 1))
        self._frames, self._whole = whole_frames(poses, self.options.reduce), len(whole_frames(poses, False))
        self._at = np.clip((self._frames - first_frame) / self.frames_per_pose, 0, len(poses) - 1)
        if rigify.is_control_rig(obj):
            self._keys = rigify.solve(obj, self.rig, self._joints, self.bones, self.options, self._contacts, self._at)
        else:
            self._chains, self._left_alone = ik_rig.find(obj, self.rig, self.bones)
        self._curves: dict[str, Curves] | None = None
        self._seconds = {"read_rig": read - started, "solve": time.perf_counter() - read}

    def work(self) -> None:
        """The solve, and the keys; no bpy."""
        started = time.perf_counter()
        if self._keys is None:
            posed = retarget.pose(self._joints, self.rig, self.bones, self.options, self._contacts, self._at)
            self._keys = to_keys(posed, self.rig, self.bones, self.options)
            if self._chains:
                self._keys = ik_rig.steer(self._chains, self.rig, self.bones, posed, self._keys, self.options)
        solved = time.perf_counter()
        modes = {name: self._modes[name] for name in (*self._keys.rotations, *self._keys.locations)}
        if self.options.reduce:
            self._curves = few_keys(self._keys, self.rig, modes, self._frames, self.options)
        else:
            self._curves = every_pose(self._keys, self.rig, modes, self._frames)
        self._seconds["solve"] += solved - started
        self._seconds["reduce_keys"] = time.perf_counter() - solved

    def write(self, obj: bpy.types.Object, name: str) -> dict[str, Any]:
        """The new Action, assigned and bound; returns the report. ``work`` has been done."""
        keys, curves, bones, started = self._keys, self._curves, self.bones, time.perf_counter()
        assert keys is not None and curves is not None
        for bone, mode in self._modes.items():
            if bone in curves and (bone not in obj.pose.bones or obj.pose.bones[bone].rotation_mode != mode):
                raise HeroError(f"The rig '{obj.name}' was changed meanwhile; nothing was written, try again.")
        action = armature.write_action(obj, keys, name, self._frames, curves)
        told = [*self._left_alone, *(told for bone, told in self._unseen.items() if bone in keys.locations)]
        if obj.data.pose_position == "REST":
            told.append("it is shown in its Rest Position; choose Pose Position in the properties of the armature")
        if any(track.is_solo for track in obj.animation_data.nla_tracks):
            told.append("it shows nothing but the NLA track that is soloed; click the star of that track")
        return {
            "armature": obj.name,
            "action": action.name,
            "first_frame": self.first_frame,
            "frames_per_pose": self.frames_per_pose,
            "scale": keys.scale,
            "size": size_of(self.rig, keys),
            "map": keys.joints,
            "found": {joint: {"how": bones.how[joint], "sure": round(bones.sure[joint], 2)} for joint in bones.joints},
            "measures": keys.measures,
            "contacts": self._standing(keys),
            "skipped": list(keys.skipped),
            "left_alone": told,
            "keys": {
                "every_frame": sum(
                    self._whole * each.shape[1] for curve in curves.values() for each in curve.channels.values()
                ),
                "written": sum(each.size for curve in curves.values() for each in curve.channels.values()),
            },
            "seconds": {**self._seconds, "write_keys": time.perf_counter() - started},
        }

    def _standing(self, keys: BoneKeys) -> dict[str, list[tuple[int, int]]] | None:
        """Heel or ball of a foot -> (first, last) frames of the scene between which it stands; None: not looked at."""
        if keys.contacts is None:
            return None
        return {
            name: [(int(self._frames[first]), int(self._frames[end - 1])) for first, end in runs]
            for name, runs in keys.contacts.items()
        }


def contacts_of(motion: Motion, take: int) -> Array | None:
    """(N, 4) how sure the model is that left ankle, left foot, right ankle and right foot touch the floor, 0..1."""
    if motion.features is None:
        return None
    return np.clip(motion.features[take, : motion.lengths[take], -4:], 0.0, 1.0)
