# SPDX-License-Identifier: GPL-3.0-or-later
"""What the animator chose, kept in the scene; and what of it is missing. Nothing of the moment is kept here."""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from hero_core.errors import HeroError
from hero_core.retarget.options import Options

from . import compat, map_state, takes, torch_folder
from .place import Choice
from .preferences import cache_folder, preferences
from .react import Settings

_FIT = Options()


def _shown_in(chosen: Any) -> bpy.types.Object | None:
    """The character of the scene to which the properties belong."""
    if chosen.armature is not None:
        return chosen.armature
    context = bpy.context
    active = context.view_layer.objects.active if context.scene == chosen.id_data else None
    return active if active is not None and active.type == "ARMATURE" else None


def _get_take(self: Any) -> int:
    action = takes.shown(_shown_in(self))
    return bpy.data.actions.find(action.name) if action is not None else -1


def _set_take(self: Any, index: int) -> None:
    """A click into the list of takes: the character plays that one."""
    obj = _shown_in(self)
    if obj is not None and 0 <= index < len(bpy.data.actions) and takes.belongs(bpy.data.actions[index], obj):
        with contextlib.suppress(HeroError):  # a linked armature cannot take an Action
            takes.show(obj, bpy.data.actions[index])


def _is_armature(_: bpy.types.PropertyGroup, item: bpy.types.Object) -> bool:
    return item.type == "ARMATURE"


class HeroProperties(bpy.types.PropertyGroup):
    source: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Watch",
        description="Where the clip comes from",
        items=[
            ("STRIP", "Strip", "A strip of the sequencer, as it is shown there: trimmed, cropped, graded"),
            ("FILE", "File", "A movie file that needs no strip; the reaction starts at the playhead"),
        ],
    )
    file: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Clip",
        description="The movie file that the character watches",
        subtype="FILE_PATH",
        options=compat.BLEND_RELATIVE,
    )
    strip: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Clip", description="The strip that the character watches; empty for the active strip"
    )
    armature: bpy.props.PointerProperty(  # type: ignore[valid-type]
        name="Character",
        description="The armature that reacts; empty for the active object",
        type=bpy.types.Object,
        poll=_is_armature,
    )
    model: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Model",
        description="Folder of the weights; empty for those that ship",
        subtype="DIR_PATH",
        options=compat.BLEND_RELATIVE,
    )
    takes: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Takes",
        description="How many reactions to make, one Action for each",
        default=1,
        min=1,
        soft_max=8,
        max=64,
    )
    seed: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Seed", description="Another seed gives another reaction; take 2 has the next seed", default=0, min=0
    )
    length: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Length",
        description="How long the reaction is",
        items=[
            ("CLIP", "As the Clip", "As long as the clip is on the timeline, from 2 to 10 seconds"),
            ("AUTO", "Automatic", "What the model finds right where it can tell; otherwise as the clip"),
            ("SECONDS", "Seconds", "A length of your own"),
            ("MODEL", "Model's Choice", "What the model finds right, for each take anew; older models cannot tell"),
        ],
    )
    seconds: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Seconds",
        description="Length of the reaction; it is made in steps of a fifth of a second",
        default=4.4,
        min=0.2,
        max=10.0,
        step=20,
        precision=1,
    )
    preview_first: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Preview First",
        description="Show the takes as a skeleton in the viewport; nothing is keyed until you press Key It",
        default=False,
    )
    own_guidance: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Own Guidance",
        description="Say how closely the reaction keeps to the clip; otherwise it is as the model wants it",
        default=False,
    )
    guidance: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Base",
        description="How closely the coarse motion keeps to the clip: 1 does not mind it much, high values exaggerate",
        default=4.0,
        min=1.0,
        soft_max=10.0,
        max=50.0,
        precision=1,
    )
    residual_guidance: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Residual",
        description="How closely the fine motion keeps to the clip",
        default=5.0,
        min=1.0,
        soft_max=10.0,
        max=50.0,
        precision=1,
    )
    temperature: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Variation",
        description="How much takes differ: below 1 the likely moves are preferred even more, above 1 less",
        default=1.0,
        min=0.05,
        soft_max=2.0,
        max=10.0,
        precision=2,
    )
    choices: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Choices",
        description="Share of the moves, the likeliest ones, among which each is drawn",
        default=10.0,
        min=0.5,
        max=100.0,
        subtype="PERCENTAGE",
        precision=0,
    )
    delay_unit: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Delay In",
        description="What the delay is counted in",
        items=[
            ("FRAMES", "Frames", "Frames of the scene"),
            ("SECONDS", "Seconds", "Seconds, whatever the rate of the scene"),
        ],
    )
    delay: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Delay",
        description="How many frames after the clip's start the reaction starts; negative: before it",
        default=0,
        soft_min=-100,
        soft_max=100,
        min=-100000,
        max=100000,
    )
    delay_seconds: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Delay",
        description="How many seconds after the clip's start the reaction starts; negative: before it",
        default=0.0,
        soft_min=-5.0,
        soft_max=5.0,
        min=-3600.0,
        max=3600.0,
        precision=2,
    )
    time_scale: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Time Scale",
        description="How long the reaction takes against how it was made: 2 is half as fast",
        default=1.0,
        min=0.1,
        soft_min=0.5,
        soft_max=2.0,
        max=10.0,
        precision=2,
    )
    face: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Facing",
        description="Which way the character faces when it starts to react",
        items=[
            ("CHARACTER", "As It Stands", "The way the armature faces in the scene"),
            ("CAMERA", "Camera", "Towards the camera of the scene"),
            ("OBJECT", "Object", "Towards an object of your choice"),
        ],
    )
    face_object: bpy.props.PointerProperty(  # type: ignore[valid-type]
        name="Face Object", description="The object that the character faces when it starts", type=bpy.types.Object
    )
    begin: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Start At",
        description="Where the character starts to react",
        items=[
            ("CHARACTER", "Character", "Where the armature stands in the scene"),
            ("ORIGIN", "Scene Origin", "At the middle of the scene, on its floor"),
        ],
    )
    mirror: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Mirror", description="Exchange left and right of the reaction", default=False
    )
    start_pose: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Start from Current Pose",
        description="Follow the pose that the character has at the reaction's first frame: from there, with that "
        "heading",
        default=False,
    )
    take: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Take",
        description="The take that the character shows",
        get=_get_take,
        set=_set_take,
        options={"SKIP_SAVE"},
    )
    preserve: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Preserve",
        description="What stays where the character's proportions differ: 0 keeps the directions of the limbs, "
        "1 the places of hands and feet",
        default=_FIT.preserve,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    pin_feet: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Pin Feet", description="Hold feet that stand, where the motion slides", default=_FIT.pin_feet
    )
    smooth: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Smooth", description="Take out jitter, without slowing fast moves", default=_FIT.smooth
    )
    limits: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Respect Limits",
        description="Keep to the rotation limits that the armature has, even where the motion goes beyond",
        default=_FIT.limits,
    )
    root: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Root Motion",
        description="What carries the character through the scene",
        items=[
            ("HIPS", "Hips", "The hips move; root and object stay where they are"),
            ("ROOT", "Root Bone", "The bone at the top of the rig moves along the floor, as games like it"),
            ("OBJECT", "Object", "The armature object moves along the floor"),
        ],
    )
    in_place: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="In Place", description="Leave the way through the scene out", default=_FIT.in_place
    )
    controls: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Controls",
        description="Which limbs of a Rigify rig are switched on; both are keyed, so switching keeps the pose",
        items=[
            ("AUTO", "Automatic", "IK for arms and legs"),
            ("IK", "IK", "Hands and feet by IK controls and poles"),
            ("FK", "FK", "Arms and legs by their FK controls"),
        ],
    )
    reduce: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Few Keys",
        description="Only the keys that are needed, on whole frames, with fitted handles; otherwise one on each frame",
        default=_FIT.reduce,
    )
    angle: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Angle",
        description="How far a bone may turn away where keys are left out",
        default=math.radians(_FIT.degrees),
        min=math.radians(0.01),
        soft_max=math.radians(5.0),
        max=math.radians(45.0),
        subtype="ANGLE",
        precision=2,
    )
    distance: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Distance",
        description="How far hands, feet and head may be off where keys are left out, in millimetres on a character "
        "of 1.7 m",
        default=_FIT.millimetres,
        min=0.1,
        soft_max=50.0,
        max=500.0,
        precision=1,
    )
    action: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Old Action",
        description="What becomes of the Action that the character has",
        items=[
            ("KEEP", "Keep", "It stays in the file, beside the new one"),
            ("REPLACE", "Replace", "It is removed, if nothing else uses it"),
            ("LAYER", "Layer", "It goes below the new one as an NLA strip; what the take does not key shows through"),
            ("NLA", "Push to NLA", "It becomes an NLA strip, and so do the new takes above it"),
        ],
    )


def chosen_strip(context: bpy.types.Context) -> Any | None:
    """The picked strip, or the active one of the sequencer."""
    scene = compat.sequencer_scene(context)
    name = context.scene.hero.strip
    if not name:
        return compat.active_strip(scene)
    strips = compat.all_strips_of(scene)
    return strips.get(name) if strips else None


def chosen_clip(context: bpy.types.Context) -> Any | None:
    """The strip, or the path of the file; None where there is none."""
    if context.scene.hero.source == "FILE":
        return bpy.path.abspath(context.scene.hero.file) or None
    return chosen_strip(context)


def chosen_armature(context: bpy.types.Context) -> bpy.types.Object | None:
    """The picked armature, or the active object if it is one."""
    active = context.view_layer.objects.active
    return context.scene.hero.armature or (active if active and active.type == "ARMATURE" else None)


@dataclass(frozen=True)
class Problem:
    """What has to be done before React can be pressed, and the operators that do it, with their properties."""

    text: str
    fixes: tuple[tuple[str, dict[str, Any]], ...] = ()


_OPEN_PREFERENCES: tuple[str, dict[str, Any]] = ("hero.show_preferences", {})


def problem(context: bpy.types.Context) -> Problem | None:
    """What is missing, the first thing first; None when React can be pressed. Cheap: panels ask at each redraw."""
    chosen, general = context.scene.hero, preferences(context)
    if chosen.source == "FILE":
        if not chosen.file:
            return Problem("Choose a movie file", (("hero.choose_file", {}),))
        if not _is_file(bpy.path.abspath(chosen.file)):
            return Problem(f"There is no file '{Path(chosen.file).name}'", (("hero.choose_file", {}),))
    else:
        strip = chosen_strip(context)
        if strip is None:
            if chosen.strip:
                return Problem(f"There is no strip '{chosen.strip}' any more", (("hero.forget_strip", {}),))
            return Problem("Select a movie strip in the sequencer", (("hero.choose_file", {}),))
        if strip.type == "SOUND":
            return Problem("Select the strip with the picture, not its sound")
        if strip.mute:
            return Problem(f"The strip '{strip.name}' is muted", (("hero.unmute_strip", {}),))
    obj = chosen_armature(context)
    if obj is None:
        return Problem("Pick the character's armature", (("hero.pick_character", {}),))
    if torch_folder.find(general.torch_folder) is None:
        return Problem(
            "PyTorch is not installed: see the preferences of HERO", (("hero.install_torch", {}), _OPEN_PREFERENCES)
        )
    weights = chosen.model or general.weights
    if weights and not _is_folder(bpy.path.abspath(weights)):
        return Problem("The folder of the weights is gone", (("hero.choose_weights", {}), _OPEN_PREFERENCES))
    known = map_state.of(obj)
    if known is not None and known.reason:
        return Problem(known.reason, (("hero.map_auto", {}),))
    if chosen.face == "CAMERA" and context.scene.camera is None and not chosen.start_pose:
        return Problem("The scene has no camera to face")
    if chosen.face == "OBJECT" and chosen.face_object is None and not chosen.start_pose:
        return Problem("Choose the object that the character faces")
    return None


def missing(context: bpy.types.Context) -> str | None:
    """What has to be done before React can be pressed; None when it can."""
    found = problem(context)
    return found.text if found is not None else None


_seen: dict[tuple[str, bool], tuple[float, bool]] = {}  # so that a slow disk is asked twice a second at most


def _exists(path: str, folder: bool) -> bool:
    known = _seen.get((path, folder))
    if known is None or time.monotonic() - known[0] > 0.5:
        if len(_seen) > 64:
            _seen.clear()
        place = Path(path)
        known = _seen[path, folder] = time.monotonic(), place.is_dir() if folder else place.is_file()
    return known[1]


def _is_file(path: str) -> bool:
    return _exists(path, False)


def _is_folder(path: str) -> bool:
    return _exists(path, True)


def settings_of(context: bpy.types.Context) -> Settings:
    chosen, general = context.scene.hero, preferences(context)
    return Settings(
        takes=chosen.takes,
        seconds=chosen.seconds if chosen.length == "SECONDS" else None,
        model_length=chosen.length == "MODEL",
        auto_length=chosen.length == "AUTO",
        seed=chosen.seed,
        model=bpy.path.abspath(chosen.model or general.weights) or None,
        device=general.device.lower(),
        dtype=general.precision.lower(),
        torch=general.torch_folder,
        fit=fit_of(chosen),
        guidance=chosen.guidance if chosen.own_guidance else None,
        residual_guidance=chosen.residual_guidance if chosen.own_guidance else None,
        temperature=round(chosen.temperature, 4),
        topk=round(1 - chosen.choices / 100, 4),
        place=place_of(chosen),
        cache=str(cache_folder(general)) if general.cache_megabytes else None,
        cache_megabytes=general.cache_megabytes,
        preview_first=chosen.preview_first,
    )


def place_of(chosen: Any) -> Choice:
    """The choices of the panel Timing and Place."""
    return Choice(
        delay_frames=chosen.delay if chosen.delay_unit == "FRAMES" else 0,
        delay_seconds=chosen.delay_seconds if chosen.delay_unit == "SECONDS" else 0.0,
        time_scale=round(chosen.time_scale, 4),
        face=chosen.face.lower(),
        target=chosen.face_object.name if chosen.face_object is not None else "",
        begin=chosen.begin.lower(),
        mirror=chosen.mirror,
        start_pose=chosen.start_pose,
    )


def fit_of(chosen: Any) -> Options:
    """The choices of the panel Fit."""
    return Options(
        preserve=chosen.preserve,
        pin_feet=chosen.pin_feet,
        smooth=chosen.smooth,
        limits=chosen.limits,
        root=chosen.root.lower(),
        in_place=chosen.in_place,
        controls=chosen.controls.lower(),
        reduce=chosen.reduce,
        degrees=math.degrees(chosen.angle),
        millimetres=chosen.distance,
        action=chosen.action.lower(),
    )


CLASSES = (HeroProperties,)


def register() -> None:
    bpy.types.Scene.hero = bpy.props.PointerProperty(type=HeroProperties)  # type: ignore[func-returns-value]


def unregister() -> None:
    del bpy.types.Scene.hero
