# SPDX-License-Identifier: GPL-3.0-or-later
"""When, where and which way round the animator wants a reaction, and what that is in numbers for this character."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.errors import HeroError
from hero_core.place import Place, facing, heading, turn_to
from hero_core.retarget.solve import stand

from . import armature, bone_map, rigify
from .stance import Stance, at_frame

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Choice:
    """What can be chosen.

    delay_frames, delay_seconds  how much later than the clip it begins, in frames of the scene or in seconds; may be
                                 negative
    time_scale   how long it takes against how it was made
    face         as the character stands, towards the scene's camera, or towards an object
    target       name of the object to face
    begin        where the character stands, or at the scene's origin
    mirror       left and right exchanged
    start_pose   it follows the pose that the character has at its first frame, at that place and with that heading
    """

    delay_frames: int = 0
    delay_seconds: float = 0.0
    time_scale: float = 1.0
    face: Literal["character", "camera", "object"] = "character"
    target: str = ""
    begin: Literal["character", "origin"] = "character"
    mirror: bool = False
    start_pose: bool = False

    def first_frame(self, clip: int, scene: bpy.types.Scene) -> int:
        """The scene's frame at which a reaction to a clip that starts at frame ``clip`` begins."""
        return clip + self.delay_frames + round(self.delay_seconds * scene.render.fps / scene.render.fps_base)


def check(choice: Choice, scene: bpy.types.Scene) -> None:
    """Raise HeroError for what can be known before any work."""
    Place(time_scale=choice.time_scale)
    _target(choice, scene)


def resolve(
    choice: Choice, obj: bpy.types.Object, scene: bpy.types.Scene, frame: int, first: Array, stance: Stance | None
) -> Place:
    """The numbers for a motion whose first pose is ``first`` (22, 3), begun at a frame of the scene.

    ``stance`` is how the character stands then, if the motion was made to follow that. Raises HeroError where there is
    no camera or object to face, or it stands where the character does.
    """
    bpy.context.view_layer.update()
    rig = armature.read_rig(obj, frame)
    inner = rigify.skeleton(rig) if rigify.is_control_rig(obj) else rig
    rests, ahead = stand(inner, bone_map.find(obj, rig))
    start = np.zeros(3)
    if stance is not None:
        start = (stance.hips - rests) * [1.0, 0.0, 1.0]
        wanted = facing(stance.joints)
    else:
        if choice.begin == "origin":
            start = -rests
        wanted = heading(np.zeros(3), ahead) if np.linalg.norm(ahead) > 0.3 else 0.0
        target = _target(choice, scene)
        if target is not None:
            with at_frame(scene, frame):
                seen = target.evaluated_get(bpy.context.evaluated_depsgraph_get()).matrix_world.translation
                wanted = heading(rests + start, armature.Y_UP[:3, :3] @ np.array(seen))
    x, y, z = (float(value) for value in start)
    return Place(choice.mirror, turn_to(first, wanted, choice.mirror), (x, y, z), choice.time_scale)


def _target(choice: Choice, scene: bpy.types.Scene) -> bpy.types.Object | None:
    if choice.start_pose or choice.face == "character":
        return None
    if choice.face == "camera":
        if scene.camera is None:
            raise HeroError(f"The scene '{scene.name}' has no camera to face; add one, or choose another facing.")
        return scene.camera
    found = bpy.data.objects.get(choice.target)
    if found is None:
        told = f"There is no object '{choice.target}' to face" if choice.target else "Nothing was chosen to face"
        raise HeroError(f"{told}; choose an object, or another facing.")
    return found
