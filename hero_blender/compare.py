# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes side by side: each on a copy of the character, in a collection of their own that goes again without a trace.

The copies share meshes and armature data with the character; nothing of it is touched. They are taken out of the file
while that is saved.
"""

from __future__ import annotations

from typing import Any

import bpy
from bpy.app.handlers import persistent
from mathutils import Matrix, Vector

from hero_core.errors import HeroError

from . import compat, handlers, takes

MARK = "hero_compare"  # on the collection: name of the character and the distance
NAME = "HERO Compare"


def start(scene: bpy.types.Scene, obj: bpy.types.Object, actions: list[bpy.types.Action], distance: float) -> None:
    """Show takes on copies of the character, each ``distance`` metres further to its left. Ends a comparison before.

    Raises HeroError where there is nothing to compare.
    """
    if not actions:
        raise HeroError("There is no other take to compare with; make more takes first.")
    stop()
    collection = bpy.data.collections.new(NAME)
    collection[MARK] = [obj.name, str(distance), *(action.name for action in actions)]
    scene.collection.children.link(collection)
    try:
        aside = obj.matrix_world.to_3x3() @ Vector((1.0, 0.0, 0.0))
        aside.z = 0.0
        aside = aside.normalized() if aside.length > 1e-6 else Vector((1.0, 0.0, 0.0))
        for number, action in enumerate(actions, 1):
            _copy(obj, action, collection, aside * distance * number)
    except BaseException:
        stop()
        raise


def _copy(obj: bpy.types.Object, action: bpy.types.Action, collection: bpy.types.Collection, offset: Vector) -> None:
    copies = {old: old.copy() for old in _hierarchy(obj)}
    for old, new in copies.items():
        collection.objects.link(new)
        _point_to(new, copies)
        if old.parent not in copies:
            place = old.matrix_world.copy()
            place.translation += offset
            new.matrix_world = place
    rig = copies[obj]
    rig.name, rig.show_name = action.name, True
    data = rig.animation_data or rig.animation_data_create()
    for track in data.nla_tracks:
        track.mute = True
    if any(curve.data_path in {"location", "rotation_euler", "rotation_quaternion"} for curve in takes.curves(action)):
        # The Action moves the object itself, so its place has to come from above.
        holder = bpy.data.objects.new(f"{action.name} place", None)
        collection.objects.link(holder)
        above = rig.parent.matrix_world @ rig.matrix_parent_inverse if rig.parent is not None else Matrix.Identity(4)
        holder.matrix_world = Matrix.Translation(offset) @ above
        rig.parent, rig.matrix_parent_inverse = holder, Matrix.Identity(4)
    data.action = None
    compat.assign_action(rig, action)


def _hierarchy(obj: bpy.types.Object) -> list[bpy.types.Object]:
    """The character: the armature, what hangs on it, and what it deforms."""
    found = [obj, *obj.children_recursive]
    deformed = [each for each in bpy.data.objects if any(_target(modifier) == obj for modifier in each.modifiers)]
    for each in deformed:
        if each not in found and each.users_collection:
            found.append(each)
    return [each for each in found if not _is_copy(each)]


def _target(modifier: bpy.types.Modifier) -> bpy.types.Object | None:
    return getattr(modifier, "object", None) if modifier.type == "ARMATURE" else None


def _is_copy(obj: bpy.types.Object) -> bool:
    return any(collection.get(MARK) for collection in obj.users_collection)


def _point_to(new: bpy.types.Object, copies: dict[bpy.types.Object, bpy.types.Object]) -> None:
    """What pointed to objects of the character points to their copies."""
    if new.parent in copies:
        inverse = new.matrix_parent_inverse.copy()
        new.parent = copies[new.parent]
        new.matrix_parent_inverse = inverse
    holders: list[Any] = [*new.modifiers, *new.constraints]
    for bone in new.pose.bones if new.pose else ():
        holders += bone.constraints
    for holder in holders:
        for each in (holder, *getattr(holder, "targets", ())):
            for name in ("object", "target", "pole_target", "mirror_object", "offset_object", "camera"):
                if getattr(each, name, None) in copies and not each.is_property_readonly(name):
                    setattr(each, name, copies[getattr(each, name)])
    for driver in new.animation_data.drivers if new.animation_data else ():
        for variable in driver.driver.variables:
            for target in variable.targets:
                if target.id in copies:
                    target.id = copies[target.id]


def running() -> bpy.types.Collection | None:
    """The collection of the comparison that is shown, if any."""
    return next((each for each in bpy.data.collections if each.get(MARK) and each.library is None), None)


def stop() -> None:
    """Remove all copies."""
    for collection in [each for each in bpy.data.collections if each.get(MARK) and each.library is None]:
        for obj in list(collection.objects):
            bpy.data.objects.remove(obj)
        bpy.data.collections.remove(collection)


def others(obj: bpy.types.Object, most: int) -> list[bpy.types.Action]:
    """The takes to compare the shown one with: those of the same clip first, the kept ones before the others."""
    shown = takes.shown(obj)
    name = takes.read(shown).source.name if shown is not None else None

    def rank(action: bpy.types.Action) -> tuple[bool, bool, str]:
        take = takes.read(action)
        return take.source.name != name, not take.kept, action.name

    return sorted((action for action in takes.of(obj) if action != shown), key=rank)[:most]


# --- A file is saved without it ---

_parted: list[tuple[str, list[str]]] = []  # scene and mark of the comparison that waits for the end of saving


@persistent  # type: ignore[untyped-decorator]
def _before_save(*_: Any) -> None:
    collection = running()
    if collection is not None:
        scene = next((each for each in bpy.data.scenes if collection.name in each.collection.children), None)
        _parted[:] = [(scene.name if scene else "", list(collection[MARK]))]
        stop()


@persistent  # type: ignore[untyped-decorator]
def _after_save(*_: Any) -> None:
    while _parted:
        scene_name, mark = _parted.pop()
        scene, obj = bpy.data.scenes.get(scene_name), bpy.data.objects.get(mark[0])
        actions = [bpy.data.actions[name] for name in mark[2:] if name in bpy.data.actions]
        if scene is not None and obj is not None and actions:
            start(scene, obj, actions, float(mark[1]))


_HANDLERS = {"save_pre": _before_save, "save_post": _after_save, "save_post_fail": _after_save}


def register() -> None:
    handlers.add(_HANDLERS)


def unregister() -> None:
    handlers.remove(_HANDLERS)
