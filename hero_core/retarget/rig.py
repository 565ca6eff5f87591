# SPDX-License-Identifier: GPL-3.0-or-later
"""What retargeting reads (Rig) and what it answers (BoneKeys), as plain arrays: no Blender, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import HeroError
from ..motion import FPS

Array = npt.NDArray[Any]

OBJECT = ""  # stands for the armature object where it is keyed like a bone; no bone has this name
_BODY = 1.39  # metres from the ankles over the hips up to the head, of a person of 1.7 m


@dataclass(frozen=True)
class Rig:
    """An armature at rest; B bones, parents before children.

    name                 what the user calls it
    names                B bone names
    parents              (B,) index of the parent, -1 for a root
    rest                 (B, 4, 4) rest matrices in armature space: rotation and head, no scale, units of the armature
    tails                (B, 3) where each bone ends at rest, armature space
    to_world             (4, 4) armature space to the world of hero_core: Y up; its lengths are those of the scene
    use_local_location   (B,) the location channel has the bone's own axes, not those of its parent
    connected            (B,) the bone is glued to its parent's tail, its location channel does nothing
    inherit_rotation     (B,) the bone turns with its parent
    owned                (B,) a constraint or a driver sets the bone: keys on it would be lost or fought over
    limits               (B, 3, 2) lowest and highest Euler angle about the bone's x, y, z (order XYZ, its own axes,
                         relative to rest) in radians, -inf and inf where it is free; None where nothing was read
    object_axes          (3, 3) what the location channels of the armature object move it by, scene units, Y up; None:
                         as the scene's axes
    """

    name: str
    names: tuple[str, ...]
    parents: Array
    rest: Array
    tails: Array
    to_world: Array
    use_local_location: Array
    connected: Array
    inherit_rotation: Array
    owned: Array
    limits: Array | None = None
    object_axes: Array | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise HeroError(f"The armature '{self.name}' has no bones; choose another armature.")
        if not (np.isfinite(self.rest).all() and np.isfinite(self.tails).all()):
            raise HeroError(f"The armature '{self.name}' has bones at NaN or infinity; repair its rest pose.")
        linear = self.to_world[:3, :3]
        lengths = np.linalg.norm(linear, axis=0)
        if not np.isfinite(self.to_world).all() or lengths.min() <= 1e-6 * lengths.max():
            raise HeroError(f"The armature '{self.name}' has a scale of zero; give it a scale above zero.")
        if np.linalg.det(linear / lengths) <= 0:
            raise HeroError(f"The armature '{self.name}' has a negative scale; apply its scale, then try again.")

    @cached_property
    def index(self) -> dict[str, int]:
        """Bone name to row."""
        return {name: row for row, name in enumerate(self.names)}

    @cached_property
    def rotations(self) -> Array:
        """(B, 3, 3) rest rotations in armature space."""
        return self.rest[:, :3, :3]

    @cached_property
    def heads(self) -> Array:
        """(B, 3) rest heads in armature space."""
        return self.rest[:, :3, 3]

    def line(self, bone: int) -> list[int]:
        """The bone and its ancestors, root last."""
        line = []
        while bone >= 0:
            line.append(bone)
            bone = int(self.parents[bone])
        return line

    def common(self, bones: Iterable[int]) -> int:
        """The nearest bone that is an ancestor of all ``bones``, or one of them; -1 where there is none."""
        lines = [self.line(bone) for bone in bones]
        shared = set(lines[0]).intersection(*lines[1:]) if lines else set()
        return next((bone for bone in lines[0] if bone in shared), -1) if lines else -1

    def between(self, top: int, end: int) -> list[int]:
        """Bones from ``top`` down to ``end``, without ``end``; empty where ``end`` does not hang below ``top``."""
        line = self.line(end)
        return line[line.index(top) : 0 : -1] if top in line else []


@dataclass(frozen=True)
class Reach:
    """A limb of two bones that a solver in the rig bends, so that it ends at a keyed target.

    target     the bone that is keyed for that
    carriers   keyed bones that carry the root of the limb
    root, tip  (N, 3) where the limb begins and ends, armature space
    lengths    of its two bones
    """

    target: str
    carriers: tuple[str, ...]
    root: Array
    tip: Array
    lengths: tuple[float, float]


@dataclass
class BoneKeys:
    """Keys of one take, one for each pose; values are those of Blender's pose channels (relative to rest).

    rotations   bone name -> (N, 4) quaternions (w, x, y, z), continuous in sign
    locations   bone name -> (N, 3) in units of the armature
    still       bones that the solve takes as unmoved; one key holds them at rest
    settings    (bone name, property, a custom one as '["name"]') -> value, keyed once
    scale       leg length of the rig over that of the motion, scene units over metres
    joints      HumanML3D joint -> bone whose head shows it, or None
    skipped     mapped bones left alone because a constraint or driver owns them
    travel      (N, 3) how far the armature object moves from where it stands, in scene units, Y up; None where it stays
    measures    what was measured on the way, name -> number, see ``Pose``
    contacts    name ("left_heel", "left_ball" ...) -> (first, end) of the poses in which it stands, half open; None
                where feet were not to be held
    limbs       those that the rig bends itself, for its targets to be keyed closely where a limb is nearly straight
    rate        poses for each second of the motion
    hangs       keyed bone -> keyed bone that carries it, where constraints of the rig have it so and not its parents
    pivots      keyed bone -> (3,) about which it turns what hangs on it, at rest, armature space; others: their heads
    shows       joint -> keyed bone that stands where the joint is, where ``joints`` has one that constraints move
    """

    rotations: dict[str, Array]
    locations: dict[str, Array]
    scale: float
    joints: dict[str, str | None]
    still: tuple[str, ...] = ()
    settings: dict[tuple[str, str], float] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    travel: Array | None = None
    measures: dict[str, float] = field(default_factory=dict)
    contacts: dict[str, list[tuple[int, int]]] | None = None
    limbs: tuple[Reach, ...] = ()
    rate: float = FPS
    hangs: dict[str, str] = field(default_factory=dict)
    pivots: dict[str, Array] = field(default_factory=dict)
    shows: dict[str, str] = field(default_factory=dict)

    @property
    def poses(self) -> int:
        """N, the number of poses."""
        return max(len(values) for values in (*self.rotations.values(), *self.locations.values()))


def size_of(rig: Rig, keys: BoneKeys) -> float:
    """How tall a rig is against a person of 1.7 m, in scene units for a metre: by legs and trunk together.

    That is about ``keys.scale``, but not where legs are very short or long. It is that where the rig has no head.
    """
    legs = [keys.joints.get(name) for name in ("left_hip", "left_knee", "left_ankle")]
    trunk = [keys.joints.get(name) for name in ("pelvis", "spine1", "spine2", "spine3", "neck", "head")]
    if None in legs or trunk[0] is None or trunk[-1] is None:
        return keys.scale
    lengths = 0.0
    for names in (legs, trunk):
        heads = rig.heads[[rig.index[name] for name in names if name is not None]] @ rig.to_world[:3, :3].T
        lengths += float(np.linalg.norm(np.diff(heads, axis=0), axis=-1).sum())
    return lengths / _BODY


def with_object(rig: Rig, keys: BoneKeys) -> tuple[Rig, BoneKeys]:
    """The armature object, where it carries the way, as one more bone above all others that has only a location.

    The values of ``OBJECT`` are those of the object's channels, from where it stands.
    """
    if keys.travel is None:
        return rig, keys
    axes = np.eye(3) if rig.object_axes is None else rig.object_axes

    def below(first: Any, others: Array) -> Array:
        return np.concatenate([np.asarray(first, others.dtype)[None], others])

    above = replace(
        rig,
        names=(OBJECT, *rig.names),
        parents=below(-1, rig.parents + 1),
        rest=below(np.eye(4), rig.rest),
        tails=below(np.zeros(3), rig.tails),
        use_local_location=below(True, rig.use_local_location),
        connected=below(False, rig.connected),
        inherit_rotation=below(True, rig.inherit_rotation),
        owned=below(False, rig.owned),
        limits=None if rig.limits is None else below(np.tile([-np.inf, np.inf], (3, 1)), rig.limits),
    )
    return above, replace(keys, locations={**keys.locations, OBJECT: keys.travel @ np.linalg.inv(axes).T}, travel=None)


def keyed_alone(rig: Rig, keys: BoneKeys) -> tuple[Rig, BoneKeys]:
    """Of a control rig the keyed bones alone, which hang on each other as ``keys.hangs`` has it; others as they are.

    A bone that hangs nowhere keeps its parent, which stands still.
    """
    if not keys.hangs:
        return rig, keys
    keyed = {*keys.rotations, *keys.locations}
    parents: dict[str, str | None] = {}
    for name in keyed:
        parent = int(rig.parents[rig.index[name]])
        parents[name] = rig.names[parent] if parent >= 0 else None
        if parents[name] is None or rig.use_local_location[rig.index[name]]:
            parents[name] = keys.hangs.get(name) or parents[name]
        else:  # its location is along the axes of the parent, which stands between it and what carries it
            parents.setdefault(rig.names[parent], keys.hangs.get(name))
    for name in {parent for parent in parents.values() if parent is not None} - set(parents):
        parents[name] = None

    def depth(name: str) -> int:
        above = parents[name]
        return 0 if above is None else 1 + depth(above)

    names = sorted(parents, key=lambda name: (depth(name), rig.index[name]))
    rows = np.array([rig.index[name] for name in names])
    at = {name: row for row, name in enumerate(names)}
    rest = rig.rest[rows].copy()
    for name, pivot in keys.pivots.items():
        rest[at[name], :3, 3] = pivot
    alone = replace(
        rig,
        names=tuple(names),
        parents=np.array([at.get(parents[name] or OBJECT, -1) for name in names], np.int64),
        rest=rest,
        tails=rig.tails[rows],
        use_local_location=rig.use_local_location[rows],
        connected=rig.connected[rows],
        inherit_rotation=rig.inherit_rotation[rows],
        owned=np.zeros(len(rows), bool),
        limits=None,
    )
    return alone, replace(keys, joints={joint: keys.shows.get(joint) for joint in keys.joints})
