# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the bones of the character are known, in a line for the panel. Looked up apart from drawing, remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bpy

from hero_core.errors import HeroError
from hero_core.motion import JOINTS

from . import armature, bone_map, rigify

_MOST = 32
_known: dict[Any, State | None] = {}  # of the moment, in no file; None while it is waited for


@dataclass(frozen=True)
class State:
    """joints  how many of 22 have a bone; reason  why the rig cannot be used, "" if it can; line  for the panel."""

    joints: int
    reason: str
    line: str


def of(obj: bpy.types.Object) -> State | None:
    """What is known of the character; None as long as it is being looked up. Cheap: panels ask at each redraw."""
    key = _key(obj)
    if key not in _known:
        while len(_known) >= _MOST:
            _known.pop(next(iter(_known)))
        if bpy.app.background:
            _known[key] = look(obj)
        else:
            _known[key] = None
            name = obj.name
            bpy.app.timers.register(lambda: _look(name, key), first_interval=0.0)
    return _known[key]


def forget() -> None:
    _known.clear()


def look(obj: bpy.types.Object) -> State:
    """The bones of a character as they would be found now."""
    try:
        rig = armature.read_rig(obj)
        found = bone_map.find(obj, rig)
    except HeroError as err:
        return State(0, str(err), str(err))
    count = len(found.joints)
    kind = "Rigify controls" if rigify.is_control_rig(obj) else found.preset.name
    own = "own map" if bone_map.saved(obj) is not None else kind
    return State(count, "", f"{count} of {len(JOINTS)} joints: {own}")


def _look(name: str, key: Any) -> None:
    obj = bpy.data.objects.get(name)
    if obj is not None and obj.type == "ARMATURE" and _key(obj) == key:
        _known[key] = look(obj)
    else:
        _known.pop(key, None)
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"VIEW_3D", "SEQUENCE_EDITOR"}:
                area.tag_redraw()


def _key(obj: bpy.types.Object) -> Any:
    """What changes when another answer is to be expected."""
    kept = bone_map.saved(obj)
    scale = tuple(round(value, 4) for value in obj.scale)
    return obj.name, obj.data.name, len(obj.data.bones), obj.mode == "EDIT", scale, tuple((kept or {}).values())
