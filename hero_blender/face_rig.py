# SPDX-License-Identifier: GPL-3.0-or-later
"""The face of a character as it is found in the file: meshes with shape keys, face controls, neck and head.

What moves what is data (``hero_core.face.rig``); what the VRM add-on or Faceit keep in the file comes before names.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.errors import HeroError
from hero_core.face.keys import Options
from hero_core.face.reaction import ARKIT
from hero_core.face.rig import (
    VRM,
    BoneRow,
    Expression,
    FaceMap,
    FacePreset,
    KeyRow,
    map_face,
    plain,
    read_preset,
    vrm_sources,
)
from hero_core.retarget import Rig
from hero_core.retarget.mapping import partial_map

from . import armature as armatures
from . import bone_map, rigify

Array = npt.NDArray[Any]
_DRIVEN = re.compile(r'key_blocks\["(.+)"\]\.value$')


@dataclass(frozen=True)
class Face:
    """What of a character can be keyed.

    meshes    objects whose shape keys are keyed; those that share a mesh come once
    armature  what carries neck, head and face controls, or None
    rig       its rest data, or None
    map       which key and which bone shows what
    head      bones that turn with the head, from the neck up: (name, share of the turn)
    axes      (3, 3) columns: the person's left, up and forward in the armature's space
    notes     what a user should know
    """

    meshes: tuple[bpy.types.Object, ...]
    armature: bpy.types.Object | None
    rig: Rig | None
    map: FaceMap
    head: tuple[tuple[str, float], ...] = ()
    axes: Array = field(default_factory=lambda: np.eye(3))
    notes: tuple[str, ...] = ()


def meshes_of(armature: bpy.types.Object | None, mesh: bpy.types.Object | None = None) -> list[bpy.types.Object]:
    """Objects with shape keys: the mesh alone, or all that belong to the armature and are not switched off."""
    if mesh is not None:
        return [mesh]
    if armature is None:
        return []
    scene = [obj for obj in bpy.data.objects if obj.type == "MESH" and obj.data.shape_keys is not None]
    return [obj for obj in scene if _belongs(obj, armature) and use_of(obj)]


def use_of(obj: bpy.types.Object) -> bool:
    """Whether the user left the mesh switched on."""
    kept = getattr(obj, "hero_face", None)
    return kept is None or not kept.skip


def _belongs(obj: bpy.types.Object, armature: bpy.types.Object) -> bool:
    if any(each.type == "ARMATURE" and each.object == armature for each in obj.modifiers):
        return True
    above = obj.parent
    while above is not None:
        if above == armature:
            return True
        above = above.parent
    return False


def find(
    armature: bpy.types.Object | None,
    mesh: bpy.types.Object | None = None,
    options: Options | None = None,
    file: Path | None = None,
) -> Face:
    """The face of a character: of the armature, of one mesh, or of both.

    Args:
        file: a face map or preset to use instead of what is found.

    Raises:
        HeroError: nothing can be keyed: no shape keys, no face controls and no head. It says what there is.
    """
    options = options or Options()
    if mesh is not None and mesh.type != "MESH":
        raise HeroError(f"'{mesh.name}' is no mesh; choose the mesh of the character's head.")
    if armature is None and mesh is None:
        raise HeroError("There is no character; choose the armature, or the mesh of the head.")
    notes: list[str] = []
    if armature is not None:
        armatures.check_writable(armature)
    rig = armatures.read_rig(armature) if armature is not None and armature.data.bones else None
    meshes, names = _usable(meshes_of(armature, mesh), notes)
    owner = owner_of(armature, mesh)
    found = _map(owner, armature, meshes, names, rig, options, file)
    notes += found.notes()
    head = _head(armature, rig, options, notes) if armature is not None and rig is not None else ()
    if not found.keys and not found.bones and not head:
        raise HeroError(_nothing(armature, mesh, meshes, names))
    if not found.keys and not found.bones:
        notes.append("no shape key and no face control is known by its name: only the head moves")
    axes = _axes(armature, rig) if armature is not None and rig is not None else np.eye(3)
    return Face(tuple(meshes), armature, rig, found, head, axes, tuple(dict.fromkeys(notes)))


def owner_of(armature: bpy.types.Object | None, mesh: bpy.types.Object | None) -> bpy.types.Object | None:
    """The object that keeps the character's own face map."""
    return armature or mesh


def _usable(meshes: list[bpy.types.Object], notes: list[str]) -> tuple[list[bpy.types.Object], list[str]]:
    """Meshes that can be keyed, each data-block once, and the names of their free keys."""
    kept: list[bpy.types.Object] = []
    names: dict[str, None] = {}
    seen = set()
    for obj in sorted(meshes, key=lambda each: each.name):
        key = obj.data.shape_keys
        if key is None or key.name in seen:
            continue
        seen.add(key.name)
        if key.library is not None or obj.data.library is not None:
            notes.append(f"'{obj.name}' is linked: make its mesh local, or a library override of it")
            continue
        if not key.use_relative:
            notes.append(f"the shape keys of '{obj.name}' are absolute: switch on Relative")
            continue
        driven = driven_keys(key)
        free = [block.name for block in key.key_blocks if block != key.reference_key and block.name not in driven]
        if driven:
            some = ", ".join(sorted(driven)[:4]) + (" …" if len(driven) > 4 else "")
            notes.append(f"{len(driven)} keys of '{obj.name}' are left to their drivers: {some}")
        if free:
            kept.append(obj)
            names.update(dict.fromkeys(free))
    return kept, list(names)


def driven_keys(key: bpy.types.Key) -> set[str]:
    """Shape keys that a driver sets, as a control rig does: keys on them would do nothing."""
    drivers = key.animation_data.drivers if key.animation_data else ()
    found = (_DRIVEN.match(driver.data_path) for driver in drivers if not driver.mute)
    return {bpy.utils.unescape_identifier(each[1]) for each in found if each}


def _nothing(
    armature: bpy.types.Object | None, mesh: bpy.types.Object | None, meshes: list[bpy.types.Object], names: list[str]
) -> str:
    who = (mesh or armature).name if mesh or armature else ""
    if not meshes:
        if mesh is not None:
            return f"The mesh '{who}' has no shape keys that can be keyed; add some, or choose the mesh of the head."
        return f"No mesh of '{who}' has shape keys, and it has no face controls and no head; choose another character."
    some = ", ".join(f"'{name}'" for name in names[:5])
    return (
        f"No shape key of '{who}' has a name that HERO knows ({some} …); say in the face map which key shows what, "
        "or import a map."
    )


# --- the map -------------------------------------------------------------------------------------------------------


def _map(
    owner: bpy.types.Object | None,
    armature: bpy.types.Object | None,
    meshes: list[bpy.types.Object],
    names: list[str],
    rig: Rig | None,
    options: Options,
    file: Path | None,
) -> FaceMap:
    bones = [name for name in rig.names if armature is None or _free(armature, name)] if rig is not None else []
    if file is not None:
        found = map_face(names, bones, own=read_preset(file), prefer=options.prefer)
        if not found.keys and not found.bones:
            raise HeroError(f"No shape key and no bone of the character is in the face map '{file}'; take another one.")
        return found
    kept = saved(owner, names, bones) if owner is not None else None
    if kept is not None:
        return kept
    found = map_face(names, bones, folders(), prefer=options.prefer)
    if options.prefer != "bones":
        for other in (faceit_map(names), vrm_map(armature, meshes)):
            # ARKit's shapes say more than an emotion: expressions are taken where there are few of them.
            if other is not None and len(other.keys) and len(found.keys) < len(ARKIT) // 2:
                rest = map_face([], bones, folders(), prefer=options.prefer)
                taken = {c for sources in other.keys.values() for c in sources if not c.startswith(VRM)}
                taken |= {c for each in other.expressions for c in each.sources}
                rows = tuple(row for row in rest.bones if not taken.intersection(row.sources))
                return FaceMap(
                    other.keys, rows, rest.unit if rows else (), other.expressions, other.preset, other.found,
                    other.missing,
                )  # fmt: skip
    return found


def _free(armature: bpy.types.Object, name: str) -> bool:
    return name in armature.pose.bones


def folders() -> tuple[Path, ...]:
    """Where the user's face presets are."""
    return (bone_map.preset_folder() / "face",)


def saved(owner: bpy.types.Object, names: list[str], bones: list[str]) -> FaceMap | None:
    """The map that the user edited, kept on the object; None where it is to be found."""
    kept = getattr(owner, "hero_face", None)
    if kept is None or not kept.chosen:
        return None
    keys: dict[str, dict[str, float]] = {}
    factors: dict[tuple[str, str], float] = {}
    lost: dict[str, None] = {}
    for row in kept.rows:
        if row.kind == "BONE":
            factors[row.target, row.source] = row.amount
        elif row.target in names:
            keys.setdefault(row.target, {})[row.source] = row.amount
        elif row.target:
            lost[row.target] = None
    rows = []
    for each in _stored_bones(kept.bones):
        sources = {
            name: tuple(x * factors[each.bone, name] for x in amounts)
            for name, amounts in each.sources.items()
            if factors.get((each.bone, name))
        }
        if sources and each.bone in bones and (not each.to or each.to in bones):
            rows.append(BoneRow(each.bone, each.way, sources, each.to))
        elif sources:
            lost[each.bone] = None
    unit: tuple[str, ...] = ()
    expressions: tuple[Expression, ...] = ()
    with contextlib.suppress(ValueError, TypeError):
        data = json.loads(kept.extra or "{}")
        unit = tuple(data.get("unit", ()))
        expressions = tuple(
            Expression(e["name"], e["sources"], e["binary"], e["overrides"]) for e in data.get("expressions", ())
        )
    if unit and not set(unit) <= set(bones):
        unit = ()
    return FaceMap(keys, tuple(rows), unit, expressions, "your map", tuple(keys), tuple(lost))


def _stored_bones(text: str) -> list[BoneRow]:
    try:
        return [
            BoneRow(e["bone"], e["way"], {n: tuple(a) for n, a in e["sources"].items()}, e["to"])
            for e in json.loads(text or "[]")
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def store(owner: bpy.types.Object, found: FaceMap) -> None:
    """Keep a map on the object as the user's own, to be edited."""
    kept = owner.hero_face
    kept.rows.clear()
    for name, sources in found.keys.items():
        for source, amount in sources.items():
            row = kept.rows.add()
            row.kind, row.target, row.source, row.amount = "KEY", name, source, amount
    for each in found.bones:
        for source in each.sources:
            row = kept.rows.add()
            row.kind, row.target, row.source, row.amount = "BONE", each.bone, source, 1.0
    kept.bones = json.dumps(
        [{"bone": e.bone, "way": e.way, "sources": {n: list(a) for n, a in e.sources.items()}, "to": e.to}
         for e in found.bones]
    )  # fmt: skip
    kept.extra = json.dumps(
        {
            "unit": list(found.unit),
            "expressions": [
                {"name": e.name, "sources": dict(e.sources), "binary": e.binary, "overrides": dict(e.overrides)}
                for e in found.expressions
            ],
        }
    )
    kept.chosen = True


def forget(owner: bpy.types.Object) -> None:
    """Let the map be found anew."""
    kept = owner.hero_face
    kept.rows.clear()
    kept.bones = kept.extra = ""
    kept.chosen = False


def as_preset(found: FaceMap) -> FacePreset:
    """The map as a preset, for tests and comparison."""
    return FacePreset(found.preset, tuple(KeyRow((n,), s, n) for n, s in found.keys.items()), found.bones, found.unit)


# --- what other add-ons keep in the file -----------------------------------------------------------------------------


def _get(data: Any, *keys: str) -> Any:
    """A property of another add-on's data, whether it is enabled (attributes) or not (items)."""
    for key in keys:
        # A group of items has attributes of its own, such as "name", which are not meant.
        if hasattr(data, key) and not (hasattr(data, "keys") and not isinstance(data, bpy.types.bpy_struct)):
            data = getattr(data, key)
        elif hasattr(data, "get"):
            data = data.get(key)
        else:
            return None
    return data


def faceit_map(names: list[str]) -> FaceMap | None:
    """The targets that Faceit keeps in the scene: ARKit's shape -> the keys that show it, and its amplification."""
    scene: Any = bpy.context.scene
    rows = _get(scene, "faceit_arkit_retarget_shapes")
    shapes = {plain(name): name for name in ARKIT}
    have = set(names)
    keys: dict[str, dict[str, float]] = {}
    lost = []
    for row in rows or ():
        shape = shapes.get(plain(str(_get(row, "name") or "")))
        if shape is None:
            continue
        amount = _get(row, "amplify")
        targets = [str(_get(target, "name") or "") for target in _get(row, "target_shapes") or ()]
        hit = [target for target in targets if target in have]
        for target in hit:
            keys.setdefault(target, {})[shape] = 1.0 if amount is None else float(amount)
        if not hit:
            lost.append(shape)
    if not keys:
        return None
    return FaceMap(keys, (), (), (), "Faceit", tuple(keys), tuple(lost))


def vrm_map(armature: bpy.types.Object | None, meshes: list[bpy.types.Object]) -> FaceMap | None:
    """Expressions of the VRM add-on's data, by the shape keys that they move."""
    if armature is None:
        return None
    extension = getattr(armature.data, "vrm_addon_extension", None) or armature.data.get("vrm_addon_extension")
    if not extension:
        return None
    bound = [each for each in _vrm_expressions(extension) if each[1]]
    sources = vrm_sources([name for name, _, _, _ in bound])
    have = {block.name for obj in meshes for block in obj.data.shape_keys.key_blocks}
    keys: dict[str, dict[str, float]] = {}
    expressions = []
    for name, binds, binary, overrides in bound:
        if name not in sources:
            continue
        expressions.append(Expression(name, sources[name], binary, overrides))
        for target, weight in binds:
            if target in have:
                row = keys.setdefault(target, {})
                row[VRM + name] = row.get(VRM + name, 0.0) + weight
    if not keys:
        return None
    return FaceMap(keys, (), (), tuple(expressions), "VRM", tuple(e.name for e in expressions), ())


_HOLDS = {"blink": "override_blink", "look": "override_look_at", "mouth": "override_mouth"}


def _vrm_expressions(extension: Any) -> Iterator[tuple[str, list[tuple[str, float]], bool, Mapping[str, str]]]:
    """Name, (shape key, weight) pairs, whether it is on or off, and what it holds down."""
    one = str(_get(extension, "spec_version") or "").startswith("1")
    if not one:
        for group in _get(extension, "vrm0", "blend_shape_master", "blend_shape_groups") or ():
            preset = _get(group, "preset_name")
            named = preset if isinstance(preset, str) and preset not in ("", "unknown") else _get(group, "name")
            binds = [(str(_get(b, "index") or ""), float(_get(b, "weight") or 0.0)) for b in _get(group, "binds") or ()]
            yield str(named or ""), binds, bool(_get(group, "is_binary")), {}
        return
    expressions = _get(extension, "vrm1", "expressions")
    preset = _get(expressions, "preset")
    names = (
        "happy", "angry", "sad", "relaxed", "surprised", "neutral", "blink", "blink_left", "blink_right", "look_up",
        "look_down", "look_left", "look_right", "aa", "ih", "ou", "ee", "oh",
    )  # fmt: skip
    given = [(name, _get(preset, name)) for name in names]
    given += [(str(_get(each, "custom_name") or ""), each) for each in _get(expressions, "custom") or ()]
    for name, each in given:
        if each is None:
            continue
        binds = [
            (str(_get(b, "index") or ""), float(1.0 if _get(b, "weight") is None else _get(b, "weight")))
            for b in _get(each, "morph_target_binds") or ()
        ]
        holds = {kind: how for kind, key in _HOLDS.items() if (how := _get(each, key)) in ("block", "blend")}
        yield name, binds, bool(_get(each, "is_binary")), holds


# --- head ----------------------------------------------------------------------------------------------------------


def _head(
    obj: bpy.types.Object, rig: Rig, options: Options, notes: list[str]
) -> tuple[tuple[str, float], ...]:  # fmt: skip
    """Neck and head, or their controls, and how much each turns."""
    if rigify.is_control_rig(obj):
        names = [name for name in ("neck", "head") if name in rig.index]
    else:
        kept = bone_map.saved(obj)
        if kept is None:
            try:
                kept = partial_map(rig, bone_map.folders(), bone_map.own_map(obj))[0]
            except HeroError:
                kept = {}
        names = [name for name in (kept.get("neck"), kept.get("head")) if name and name in rig.index]
        if not names:
            by_name = {plain(name): name for name in reversed(rig.names)}
            names = [by_name[name] for name in ("neck", "head") if name in by_name]
    free = [name for name in names if not rig.owned[rig.index[name]]]
    if not free:
        notes.append("the armature has no free neck or head: the head does not turn")
        return ()
    if len(free) == 1:
        return ((free[0], 1.0),)
    return tuple((name, share) for name, share in zip(free, (options.neck, 1 - options.neck), strict=True) if share)


def _axes(obj: bpy.types.Object, rig: Rig) -> Array:
    """(3, 3) columns: the person's left, up and forward in the armature's space, from the limbs where it has some."""
    up = np.linalg.inv(rig.to_world[:3, :3]) @ np.array([0.0, 1.0, 0.0])
    up /= np.linalg.norm(up)
    left = np.linalg.inv(rig.to_world[:3, :3]) @ np.array([1.0, 0.0, 0.0])
    pairs = [("upper_arm_fk.L", "upper_arm_fk.R"), ("thigh_fk.L", "thigh_fk.R")]
    if not rigify.is_control_rig(obj):
        try:
            found = bone_map.saved(obj) or partial_map(rig, bone_map.folders(), bone_map.own_map(obj))[0]
        except HeroError:
            found = {}
        pairs = [(found.get(f"left_{j}", ""), found.get(f"right_{j}", "")) for j in ("shoulder", "hip", "collar")]
    for a, b in pairs:
        if a in rig.index and b in rig.index:
            left = rig.rest[rig.index[a], :3, 3] - rig.rest[rig.index[b], :3, 3]
            break
    left = left - up * (left @ up)
    length = float(np.linalg.norm(left))
    if length < 1e-6:
        left, length = np.array([1.0, 0.0, 0.0]), 1.0
    left /= length
    return np.stack([left, up, np.cross(left, up)], 1)
