# SPDX-License-Identifier: GPL-3.0-or-later
"""What the animator chose, kept in the scene; and what of it is missing. Nothing of the moment is kept here."""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

import math
from typing import Any

import bpy

from hero_core.retarget.options import Options

from . import compat, torch_folder
from .preferences import preferences
from .react import Settings

_FIT = Options()


def _is_armature(_: bpy.types.PropertyGroup, item: bpy.types.Object) -> bool:
    return item.type == "ARMATURE"


class HeroProperties(bpy.types.PropertyGroup):
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
            ("AUTO", "As the Clip", "As long as the clip is on the timeline, from 2 to 10 seconds"),
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
        description="Only the keys that are needed, on whole frames, with fitted handles; otherwise one for each pose",
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


def chosen_armature(context: bpy.types.Context) -> bpy.types.Object | None:
    """The picked armature, or the active object if it is one."""
    active = context.view_layer.objects.active
    return context.scene.hero.armature or (active if active and active.type == "ARMATURE" else None)


def missing(context: bpy.types.Context) -> str | None:
    """What has to be done before React can be pressed; None when it can. Cheap: panels ask at each redraw."""
    strip, chosen = chosen_strip(context), context.scene.hero.strip
    if strip is None:
        return f"There is no strip '{chosen}' any more" if chosen else "Select a movie strip in the sequencer"
    if strip.type == "SOUND":
        return "Select the strip with the picture, not its sound"
    if strip.mute:
        return f"The strip '{strip.name}' is muted"
    if chosen_armature(context) is None:
        return "Pick the character's armature"
    if torch_folder.find(preferences(context).torch_folder) is None:
        return "PyTorch is not installed: see the preferences of HERO"
    return None


def settings_of(context: bpy.types.Context) -> Settings:
    chosen, general = context.scene.hero, preferences(context)
    return Settings(
        takes=chosen.takes,
        seconds=chosen.seconds if chosen.length == "SECONDS" else None,
        model_length=chosen.length == "MODEL",
        seed=chosen.seed,
        model=bpy.path.abspath(chosen.model or general.weights) or None,
        device=general.device.lower(),
        dtype=general.precision.lower(),
        torch=general.torch_folder,
        fit=fit_of(chosen),
        preview_first=chosen.preview_first,
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
