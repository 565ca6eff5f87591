# SPDX-License-Identifier: GPL-3.0-or-later
"""The bone map of a character, as the solve asks for it: found, or kept on the armature object.

Without a map of the user's own the bones are found anew for each take. A map that was touched is kept in properties of
the armature object that a library override may change, too; in it an empty row means that the joint has no bone.
"""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import bpy

from hero_core.errors import HeroError
from hero_core.motion import JOINTS
from hero_core.retarget import BoneMap, Rig, map_bones
from hero_core.retarget.mapping import partial_map, read_map, resolve
from hero_core.retarget.vrm import humanoid

from . import armature, rigify, switched, user_files
from .preferences import preferences

_FILE_MAP = "hero_file_map"  # custom property: joint -> bone as the file that was imported says


def label(joint: str) -> str:
    """How the panel calls a joint."""
    side, _, part = joint.rpartition("_")
    part = f"Spine {part[-1]}" if part.startswith("spine") else {"foot": "Toes"}.get(part, part.capitalize())
    return f"{part} {side[0].upper()}" if side else part


def _rows() -> dict[str, Any]:
    string: Any = bpy.props.StringProperty
    truth: Any = bpy.props.BoolProperty
    rows: dict[str, Any] = {
        joint: string(
            name=label(joint),
            description=f"The bone whose head is the {joint.replace('_', ' ')}; empty where the rig has none",
            override={"LIBRARY_OVERRIDABLE"},
        )
        for joint in JOINTS
    }
    rows["chosen"] = truth(
        name="Own Map",
        description="The bones are those of the list; otherwise they are found anew for each take",
        override={"LIBRARY_OVERRIDABLE"},
    )
    rows["found"] = string(
        name="Found", description="How the bones were found and how sure that is", override={"LIBRARY_OVERRIDABLE"}
    )
    return rows


HeroBoneMap = type("HeroBoneMap", (bpy.types.PropertyGroup,), {"__annotations__": _rows(), "__module__": __name__})


# --- What the solve asks ---


def saved(obj: bpy.types.Object) -> dict[str, str] | None:
    """Joint -> bone name, "" for none, of the map kept on the object; None where the bones are to be found."""
    kept = getattr(obj, "hero_map", None)
    return {joint: getattr(kept, joint) for joint in JOINTS} if kept is not None and kept.chosen else None


def store(obj: bpy.types.Object, bones: Mapping[str, str], found: Mapping[str, Any] | None = None) -> None:
    """Keep a map on the object; joints that are not in it have no bone."""
    armature.check_writable(obj)
    register()
    kept = obj.hero_map
    for joint in JOINTS:
        setattr(kept, joint, bones.get(joint, ""))
    kept.found = json.dumps(found or {})
    kept.chosen = True


def forget(obj: bpy.types.Object) -> None:
    """Let the bones be found anew for each take."""
    kept = getattr(obj, "hero_map", None)
    if kept is not None:
        kept.chosen = False
        for joint in JOINTS:
            setattr(kept, joint, "")
        kept.found = ""


def find(obj: bpy.types.Object, rig: Rig, given: Mapping[str, str] | None = None) -> BoneMap:
    """The map of an armature by ``given``, else by the one kept on it, else found; of the skeleton inside a Rigify rig.

    rig: what ``armature.read_rig`` read of the object. Raises HeroError as ``map_bones`` does.
    """
    given = saved(obj) if given is None else given
    if rigify.is_control_rig(obj):
        inner = rigify.skeleton(rig)
        alien = [name for name in (given or {}).values() if name in rig.index and name not in inner.index]
        if alien:
            raise HeroError(
                f"HERO moves the controls of the Rigify rig '{obj.name}' itself and maps its ORG- bones; "
                f"take '{alien[0]}' out of the bone map, or let the bones be found."
            )
        return map_bones(inner, given, folders(), own_map(obj))
    found = map_bones(rig, given, folders(), own_map(obj))
    return found if given else switched.follow(obj, rig, found)


def folders() -> tuple[Path, ...]:
    """Where the user's presets are."""
    return (preset_folder(),)


def preset_folder(create: bool = False) -> Path:
    """The folder of the preferences, or one beside Blender's other data of the user, which outlives the extension."""
    chosen = getattr(preferences(bpy.context), "rigs_folder", "")
    if chosen:
        return Path(bpy.path.abspath(chosen))
    folder = user_files.home() / "rigs"
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def own_map(obj: bpy.types.Object) -> dict[str, str]:
    """Joint -> bone as the character's file says: VRM, by the add-on that imported it or by our own reading."""
    kept = obj.get(_FILE_MAP)
    if isinstance(kept, str):
        try:
            return {str(joint): str(bone) for joint, bone in json.loads(kept).items()}
        except (ValueError, AttributeError):
            return {}
    extension = getattr(obj.data, "vrm_addon_extension", None) or obj.data.get("vrm_addon_extension")
    return humanoid(_vrm_bones(extension)) if extension else {}


def remember_file_map(obj: bpy.types.Object, bones: Mapping[str, str]) -> None:
    """Keep what the imported file says of its bones."""
    if bones:
        obj[_FILE_MAP] = json.dumps(dict(bones), ensure_ascii=False)


def _vrm_bones(extension: Any) -> Iterator[tuple[str, str]]:
    """Pairs of human bone and bone name in the VRM add-on's data, whether it is enabled (attributes) or not (items)."""

    def get(data: Any, *keys: str) -> Any:
        for key in keys:
            data = getattr(data, key, None) if not hasattr(data, "keys") or hasattr(data, key) else data.get(key)
            if data is None:
                return None
        return data

    one = str(get(extension, "spec_version") or "").startswith("1")
    bones = get(extension, "vrm1" if one else "vrm0", "humanoid", "human_bones")
    if bones is None:
        return
    if one:
        names = [f"{side}_{part}" for side in ("left", "right") for part in (
            "upper_leg", "lower_leg", "foot", "toes", "shoulder", "upper_arm", "lower_arm", "hand",
        )]  # fmt: skip
        for human in ("hips", "neck", "head", *names):
            yield human, str(get(bones, human, "node", "bone_name") or "")
    else:
        for each in bones:
            yield str(get(each, "bone") or ""), str(get(each, "node", "bone_name") or "")


def fill(obj: bpy.types.Object) -> str | None:
    """Put what is found into the list; the reason where that is not a whole map."""
    rig = armature.read_rig(obj)
    try:
        found = find(obj, rig, {})
        inner = rigify.skeleton(rig) if rigify.is_control_rig(obj) else rig
        bones, how, sure = found.bones(inner), found.how, found.sure
        reason = None
    except HeroError as err:
        bones, how, sure = partial_map(rig, folders(), own_map(obj))
        reason = str(err)
    store(obj, bones, {joint: [bones[joint], how[joint], round(sure[joint], 2)] for joint in how if bones[joint]})
    return reason


def use_file(obj: bpy.types.Object, path: Path) -> None:
    """Keep the map of a file on the object; raises HeroError, with nothing changed, where it does not fit."""
    rig = armature.read_rig(obj)
    if rigify.is_control_rig(obj):
        rig = rigify.skeleton(rig)
    found = map_bones(rig, resolve(read_map(path), rig), folders(), own_map(obj))
    store(obj, found.bones(rig), {j: [rig.names[row], found.how[j], found.sure[j]] for j, row in found.joints.items()})


def table(obj: bpy.types.Object) -> dict[str, tuple[str, str, float]]:
    """Joint -> bone ("" for none), how it was found and how sure that is, in the order of the joints."""
    rig = armature.read_rig(obj)
    found = find(obj, rig)
    bones = found.bones(rigify.skeleton(rig) if rigify.is_control_rig(obj) else rig)
    return {joint: (bone, found.how.get(joint, ""), found.sure.get(joint, 0.0)) for joint, bone in bones.items()}


CLASSES = (HeroBoneMap,)


def register() -> None:
    """What keeps maps on objects; also for a Blender in which the add-on is not enabled, and more than once."""
    if not hasattr(bpy.types.Object, "hero_map"):
        if not hasattr(bpy.types, "HeroBoneMap"):
            bpy.utils.register_class(HeroBoneMap)
        bpy.types.Object.hero_map = bpy.props.PointerProperty(  # type: ignore[func-returns-value]
            type=HeroBoneMap, override={"LIBRARY_OVERRIDABLE"}
        )


def unregister() -> None:
    if hasattr(bpy.types.Object, "hero_map"):
        del bpy.types.Object.hero_map
        bpy.utils.unregister_class(HeroBoneMap)
