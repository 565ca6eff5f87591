# SPDX-License-Identifier: GPL-3.0-or-later
"""How far off curves are: what counts is not the channel but what it moves.

That is how far each bone turns away, and how far hands, feet and head are carried off by all bones above them together.
It is followed to the first order, by a linear map for each pose, bone and end, which is exact enough for errors of half
a degree. Feet that stand are watched at heel and ball: where they would slide, less is allowed to them. A limb that the
rig bends itself, towards a target, must have its ends as near to each other as its joint needs: the straighter it is,
the more exactly.

Errors are counted in tolerances. Arrays have their axes of space first, so that numpy runs along the poses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .options import Options
from .rig import OBJECT, BoneKeys, Reach, Rig, size_of
from .rotations import EULER_ORDERS, to_matrix, unit

Array = npt.NDArray[Any]

# An end that rests is seen to slide long before one that moves is seen to be off: (speed in m/s, share of tolerance).
_STILL, _MOVING = (0.01, 0.2), (0.08, 1.0)
_SLIDE = 0.0095  # m/s at which feet that stand may slide in the mean
_NO_WORSE = 1.2  # or this many times as fast as they do with all keys
_ENDS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in ("wrist", "ankle", "foot")) + ("head",)
_CLOSEST = 0.003  # of the tolerance, for the ends of a limb that is straight
_SWUNG = 0.7  # of the angle by which a limb may swing about its root; the bone that carries it may turn as well
_POLE = 0.6  # a pole target aims the plane of its limb: it is about as far from that as the end of the limb
_SHARE = 0.7  # of an error at an end counts for a single bone, where nothing is known of the others yet
_BLAME = 0.7  # of what the worst bone does to an end makes another as guilty


@dataclass(frozen=True)
class _Pull:
    """What an error of a source, which belongs to a track, does to an end.

    axes    (N, 3, 3) along which the error is, in armature space
    arm     (N, 3) from the bone that turns to the end, armature space; None where the error is a move
    """

    end: int
    source: int
    owner: int
    axes: Array
    arm: Array | None


class Carried:
    """T tracks, the bones that are reduced together, and what their errors do at N poses.

    Errors are those of T turns and then of L locations, about and along the axes of the bone that has them, (3, T + L,
    N). Each of E ends is pulled by some of these; there are P such pulls.

    names       of the tracks, parents before children
    modes       of the tracks: Blender's word for the rotation mode, "" where a bone does not turn
    placed      tracks that have a location
    heads       bone -> (N, 3) where it is, armature space
    frames_of   bone -> (N, 3, 3) the axes about which its own turns are
    """

    def __init__(
        self,
        keys: BoneKeys,
        rig: Rig,
        names: list[str],
        everyone: list[str],
        modes: list[str],
        values: Array,
        options: Options,
        for_feet: float,
        spent: dict[str, Array] | None,
        on_floor: dict[int, Array] | None = None,
    ) -> None:
        """``values`` (C, T, N) are those of the channels, location last; ``everyone``: all keyed bones.

        ``for_feet``: share of the tolerance that the tracks may take at the feet; ``spent``: bone -> (N,) radians of
        its tolerance that are used up already, None where legs are to make up later for what these tracks do;
        ``on_floor``: of another instance for the same motion, where ``keys`` are not quite the motion's any more.
        """
        self.names, self.modes, self.values, self.count = names, modes, values, keys.poses
        self.placed = [track for track, name in enumerate(names) if name in keys.locations]
        self._rate, self.angle = keys.rate, float(np.radians(options.degrees))
        nothing = np.zeros(self.count)
        self.angles = self.angle - np.array([(spent or {}).get(name, nothing) for name in names])  # (T, N)
        turned = np.zeros((len(names), self.count, 4))
        turned[..., 0] = 1.0
        for track, name in enumerate(names):
            if name in keys.rotations:
                turned[track] = keys.rotations[name]
        w, x, y, z = np.moveaxis(turned, -1, 0)
        self._back = np.array([[w, x, y, z], [-x, w, z, -y], [-y, -z, w, x], [-z, y, -x, w]])  # (4, 4, T, N)
        self._follow(keys, rig, everyone)
        self.on_floor: dict[int, Array] = {}  # where each point that may stand goes over the floor, (2, N) metres
        self._watch(keys, rig, options, for_feet, spent is None, on_floor or {})

    def _follow(self, keys: BoneKeys, rig: Rig, everyone: list[str]) -> None:
        """Where all keyed bones are."""
        self._rows = {name: rig.index[name] for name in everyone}
        name_of = {row: name for name, row in self._rows.items()}
        self.heads: dict[str, Array] = {}
        self.frames_of: dict[str, Array] = {}
        self._axes: dict[str, Array] = {}  # bone -> (N, 3, 3) of its location channels
        self._above: dict[str, str | None] = {}  # the keyed bone that carries each
        self._turns: dict[str, Array] = {}  # bone -> (N, 3, 3) away from rest
        still = np.broadcast_to(np.eye(3), (self.count, 3, 3))
        for name, row in self._rows.items():
            carrier = next((name_of[up] for up in rig.line(row)[1:] if up in name_of), None)
            self._above[name] = carrier
            base, head = still, np.broadcast_to(rig.heads[row], (self.count, 3))
            if carrier is not None:
                base = self._turns[carrier]
                head = self.heads[carrier] + base @ (rig.heads[row] - rig.heads[self._rows[carrier]])
            parent = int(rig.parents[row])
            if name in keys.locations:
                own = rig.rotations[row] if rig.use_local_location[row] else np.eye(3)
                if parent >= 0 and not rig.use_local_location[row]:
                    own = rig.rotations[parent]
                if name == OBJECT:
                    axes = np.eye(3) if rig.object_axes is None else rig.object_axes
                    own = np.linalg.inv(rig.to_world[:3, :3]) @ axes
                self._axes[name] = base @ own
                head = head + np.einsum("nij,nj->ni", self._axes[name], keys.locations[name])
            rest = rig.rotations[row]
            turn = (base if rig.inherit_rotation[row] else still) @ rest
            if name in keys.rotations:
                turn = turn @ to_matrix(keys.rotations[name])
            self.frames_of[name], self._turns[name], self.heads[name] = turn, turn @ rest.T, head

    def _watch(
        self, keys: BoneKeys, rig: Rig, options: Options, for_feet: float, first: bool, on_floor: dict[int, Array]
    ) -> None:
        """What is watched, and what pulls at it."""
        world = rig.to_world[:3, :3]
        size = size_of(rig, keys)
        tolerance = options.millimetres * 1e-3 * size  # scene units
        at_legs = tolerance * min(keys.scale / size, 1.0)  # very short ones cannot make up for more
        hips = [rig.index[bone] for side in ("left", "right") if (bone := keys.joints.get(f"{side}_hip")) in self._rows]
        # End, (N,) metres of its tolerance, poses that are followed, and (2, N) its place over the floor in metres.
        self._stands: list[tuple[int, Array, Array, Array]] = []
        begins: list[int] = []
        pulls: list[_Pull] = []
        into: list[Array] = []  # of each end, (N, 3, 3): armature space to tolerances
        for number, (carrier, row, share, place, standing) in enumerate(self._points(keys, rig)):
            end = self.heads[carrier] + self._turns[carrier] @ (place - rig.heads[self._rows[carrier]])
            speed = np.linalg.norm(np.gradient(end @ world.T, axis=0), axis=-1) * keys.rate / keys.scale
            rests = (np.clip(speed, _STILL[0], _MOVING[0]) - _STILL[0]) / (_MOVING[0] - _STILL[0])
            allowed = tolerance * share * (_STILL[1] + (_MOVING[1] - _STILL[1]) * rests)
            if for_feet < 1.0 and any(hip in rig.line(row) for hip in hips):
                # The body only has to leave the legs something that they can make up for; feet rest on the legs.
                limit = np.full(self.count, at_legs * for_feet)
                allowed = limit if first else np.minimum(allowed, limit)
            if standing:
                self.on_floor[number] = on_floor.get(number, (end @ world.T)[:, ::2].T / keys.scale)
            some = self._pulls(len(into), end, 1.0, self._line(carrier))
            if some:
                if standing and not (first and for_feet < 1.0):
                    self._stands.append((len(into), allowed / keys.scale, np.array(standing), self.on_floor[number]))
                begins.append(len(pulls))
                pulls += some
                into.append(world / allowed[:, None, None])
        for limb in keys.limbs:
            some = self._pulls(len(into), limb.tip, 1.0, self._line(limb.target if limb.target in self._rows else None))
            some += self._pulls(len(into), limb.root, -1.0, list(limb.carriers))
            if some:
                along = unit(limb.tip - limb.root)
                most = tolerance / float(np.cbrt(np.linalg.det(world)))
                begins.append(len(pulls))
                pulls += some
                line = along[:, :, None] * along[:, None, :]
                aside = _SWUNG * self.angle * np.linalg.norm(limb.tip - limb.root, axis=-1)
                into.append(
                    line / _bending(limb, self.angle, most)[:, None, None]
                    + (np.eye(3) - line) / np.maximum(aside, _CLOSEST * most)[:, None, None]
                )
        self._ends = np.array(begins)  # (E,) first pull at each
        self._end_of, self._sources, self._owners = (
            np.array([getattr(pull, name) for pull in pulls]) for name in ("end", "source", "owner")
        )
        self._maps = _maps(pulls, np.array(into))  # (3, 3, P, N) error of a source -> tolerances
        self._by_owner = np.argsort(self._owners, kind="stable")
        self._owner_rows, self._owner_starts = np.unique(self._owners[self._by_owner], return_index=True)

    def _points(self, keys: BoneKeys, rig: Rig) -> list[tuple[str, int, float, Array, list[int]]]:
        """(bone that carries it, row whose head it is, share of the tolerance, (3,) where at rest, poses it stands)."""
        name_of = {row: name for name, row in self._rows.items()}
        ends: dict[tuple[str, int], float] = {}
        carriers = set(self._above.values())
        for name, row in self._rows.items():
            if name not in carriers:
                ends[name, row] = 1.0 if name in keys.rotations else _POLE
        for joint in _ENDS:
            bone = keys.joints.get(joint)
            if bone is None or bone not in rig.index:
                continue
            line = rig.line(rig.index[bone])
            at = next((at for at, row in enumerate(line) if row in name_of), None)
            # What a constraint moves does not follow its parents.
            if at is not None and not rig.owned[line[:at]].any():
                ends[name_of[line[at]], line[0]] = 1.0
        points: list[tuple[str, int, float, Array, list[int]]] = [
            (carrier, row, share, rig.heads[row], []) for (carrier, row), share in ends.items()
        ]
        for name, runs in (keys.contacts or {}).items():
            foot = rig.index.get(keys.joints.get(name.replace("heel", "ankle").replace("ball", "foot")) or "")
            here = next((point for point in points if point[1] == foot and not point[4]), None)
            standing = [pose for start, end in runs for pose in range(start, min(end, self.count) - 1)]
            if here is not None and foot is not None:
                sole = to_sole(rig, foot) if name.endswith("heel") else 0.0
                points.append((*here[:3], here[3] + sole, standing))
        return points

    def _line(self, name: str | None) -> list[str]:
        """The keyed bones that carry something, lowest first."""
        line = []
        while name is not None:
            line.append(name)
            name = self._above[name]
        return line

    def _pulls(self, end: int, point: Array, sign: float, names: list[str]) -> list[_Pull]:
        """How the tracks among ``names`` pull at (N, 3) ``point``."""
        pulls = []
        track_of = {name: track for track, name in enumerate(self.names)}
        for name in names:
            track = track_of.get(name)
            if track is None:
                continue
            if self.modes[track]:
                pulls.append(_Pull(end, track, track, self.frames_of[name], sign * (point - self.heads[name])))
            if track in self.placed:
                source = len(self.names) + self.placed.index(track)
                pulls.append(_Pull(end, source, track, sign * self._axes[name], None))
        return pulls

    def gain(self) -> Array:
        """(2, T, N) tolerances that an error of 1 in the channels makes, those of the turn and of the place."""
        gain = np.zeros((2, len(self.names), self.count))
        each = np.array([2.0 if mode == "QUATERNION" else 1.0 for mode in self.modes])  # radians
        turned = np.array([bool(mode) for mode in self.modes])
        gain[0, turned] = each[turned, None] / self.angles[turned]
        sizes = np.sqrt(np.einsum("ijpn,ijpn->pn", self._maps, self._maps))
        for owner, source, size in zip(self._owners, self._sources, sizes, strict=True):
            place = int(source >= len(self.names))
            own = _SHARE * size / np.sqrt(3 if place else 2) * (1.0 if place else each[owner])
            gain[place, owner] = np.maximum(gain[place, owner], own)
        return gain

    def errors(self, fitted: Array) -> Array:
        """(3, T + L, N) small turns, in radians, and moves by which (C, T, N) channels are off."""
        turned = fitted[:4]
        if any(mode != "QUATERNION" for mode in self.modes):
            turned = turned.copy()
            for track, mode in enumerate(self.modes):
                if mode in EULER_ORDERS:
                    turned[:, track] = _from_euler(turned[:3, track], mode)
                elif mode == "AXIS_ANGLE":
                    turned[:, track] = _from_axis_angle(turned[:, track])
                elif not mode:
                    turned[:, track] = [[1.0], [0.0], [0.0], [0.0]]
        real, *turns = np.einsum("ijtn,jtn->itn", self._back, turned)
        scale = 2.0 / np.where(np.abs(real) > 1e-9, real, 1e-9)
        errors = np.empty((3, len(self.names) + len(self.placed), self.count), np.float32)
        for axis, turn in enumerate(turns):
            np.multiply(turn, scale, out=errors[axis, : len(self.names)], casting="same_kind")
        if self.placed:
            errors[:, len(self.names) :] = fitted[4:, self.placed] - self.values[4:, self.placed]
        return errors

    def off(self, errors: Array) -> Array:
        """(T, N) by how many tolerances each track is to blame for being off."""
        off = self._turned(errors)
        shares = self._shares(errors)
        moved = np.add.reduceat(shares, self._ends, axis=1)  # (3, E, N)
        size = np.sqrt(np.square(moved).sum(0))
        poses = np.flatnonzero(size.max(0) > 1.0)
        if len(poses):
            size, moved, shares = (array[..., poses] for array in (size, moved, shares))
            part = (shares * moved[:, self._end_of]).sum(0)  # (P, n)
            most = np.maximum.reduceat(part, self._ends, axis=0)[self._end_of]
            size = size[self._end_of]
            blame = np.where((part >= _BLAME * most) & (size > 1.0), size, 0.0)
            self._at_worst(off, poses, blame)
        return off

    def alone(self, errors: Array) -> Array:
        """(T, N) by how many tolerances each track would be off, were all others without error."""
        off = self._turned(errors)
        self._at_worst(off, np.arange(self.count), np.sqrt(np.square(self._shares(errors)).sum(0)))
        return off

    def _turned(self, errors: Array) -> Array:
        return np.asarray(np.sqrt(np.square(errors[:, : len(self.names)]).sum(0)) / self.angles)

    def _shares(self, errors: Array) -> Array:
        """(3, P, N) what each pull does to its end."""
        x, y, z = errors[:, self._sources]
        maps = self._maps
        return np.asarray(maps[:, 0] * x + maps[:, 1] * y + maps[:, 2] * z)

    def _at_worst(self, off: Array, poses: Array, pulls: Array) -> None:
        """Raise (T, N) ``off`` at some poses to the greatest of the (P, n) pulls that a track has."""
        worst = np.maximum.reduceat(pulls[self._by_owner], self._owner_starts, axis=0)
        at = np.ix_(self._owner_rows, poses)
        off[at] = np.maximum(off[at], worst)

    def hold(self, errors: Array) -> bool:
        """Whether standing feet slide more than they may; if so, less is allowed to them from now on."""
        if not self._stands:
            return False
        moved = np.add.reduceat(self._shares(errors), self._ends, axis=1)
        speeds: list[Array] = []
        before: list[Array] = []  # with all keys
        for end, metres, poses, whole in self._stands:
            for found, way in ((before, whole), (speeds, whole + moved[::2, end] * metres)):
                found.append(np.hypot(*(way[:, poses + 1] - way[:, poses])) * self._rate)
        mean = float(np.concatenate(speeds).mean())
        limit = max(_SLIDE, _NO_WORSE * float(np.concatenate(before).mean()))
        if mean <= limit:
            return False
        tighter = min(max(mean / limit, 1.1), 1.5)
        for (end, metres, poses, _), own in zip(self._stands, speeds, strict=True):
            if own.mean() > limit:
                standing = np.unique([poses, poses + 1])
                pulls = np.flatnonzero(self._end_of == end)
                self._maps[:, :, pulls[:, None], standing] *= tighter
                metres[standing] /= tighter
        return True

    def in_armature(self, errors: Array) -> dict[str, tuple[Array, Array]]:
        """Bone -> (N, 3) small turn and (N, 3) move by which it is off, armature space."""
        found = {}
        for track, name in enumerate(self.names):
            move = np.zeros((self.count, 3))
            if track in self.placed:
                place = errors[:, len(self.names) + self.placed.index(track)]
                move = np.einsum("nij,jn->ni", self._axes[name], place)
            found[name] = np.einsum("nij,jn->ni", self.frames_of[name], errors[:, track]), move
        return found


def _maps(pulls: list[_Pull], into: Array) -> Array:
    """(3, 3, P, N) what an error moves its end by, along the axes and in the units of (E, N, 3, 3) ``into``."""
    axes = np.moveaxis(np.array([pull.axes for pull in pulls], np.float32), (2, 3), (0, 1)).copy()
    turns = np.array([pull.arm is not None for pull in pulls])
    if turns.any():
        x, y, z = axes[:, :, turns]
        a, b, c = np.moveaxis(np.array([pull.arm for pull in pulls if pull.arm is not None], np.float32), 2, 0)
        axes[:, :, turns] = [y * c - z * b, z * a - x * c, x * b - y * a]
    into = np.moveaxis(into.astype(np.float32), (2, 3), (0, 1))[:, :, [pull.end for pull in pulls]]
    maps = np.empty_like(axes)
    for row, (x, y, z) in enumerate(into):
        maps[row] = x * axes[0] + y * axes[1] + z * axes[2]
    return maps


def to_sole(rig: Rig, foot: int) -> Array:
    """(3,) from the head of a foot's bone down to the floor on which the rig rests, armature space."""
    rows = [row for row in range(len(rig.names)) if foot in rig.line(row)]
    up = rig.to_world[1, :3]
    level, lowest = float(rig.heads[foot] @ up), float(min((rig.heads[rows] @ up).min(), (rig.tails[rows] @ up).min()))
    # The floor is at the armature's origin where the foot stands above that, else at the foot's lowest point.
    floor = 0.0 if 0.0 <= lowest < level else lowest
    return np.linalg.solve(rig.to_world[:3, :3], np.array([0.0, floor - level, 0.0]))


def _bending(limb: Reach, angle: float, most: float) -> Array:
    """(N,) by how much both ends of a limb may come nearer or go apart for its joint to turn by no more than an angle.

    Between a share of ``most`` and ``most``: a straight limb bends by degrees where its ends come nearer by hairs.
    """
    upper, lower = limb.lengths
    squares, product = upper**2 + lower**2, 2 * upper * lower
    apart = np.linalg.norm(limb.tip - limb.root, axis=-1)
    bend = np.arccos(np.clip((apart**2 - squares) / product, -1.0, 1.0))
    nearer, further = (np.sqrt(squares + product * np.cos(np.clip(bend + way, 0.0, np.pi))) for way in (angle, -angle))
    here = np.sqrt(squares + product * np.cos(bend))
    allowed = np.minimum(here - nearer, np.where(bend > angle, further - here, np.inf))
    return np.asarray(np.clip(allowed, _CLOSEST * most, most))


def _from_euler(angles: Array, order: str) -> Array:
    """(4, N) what ``rotations.from_euler`` gives, without a detour through matrices: each round asks for this."""
    turned = np.zeros((4, angles.shape[1]))
    turned[0] = 1.0
    for letter in order:
        axis = "XYZ".index(letter)
        cosine, sine = np.cos(angles[axis] / 2), np.sin(angles[axis] / 2)
        after, before = 1 + (axis + 1) % 3, 1 + (axis + 2) % 3
        # The turn about one axis times what there was.
        w, x, y, z = turned[0], turned[1 + axis], turned[after], turned[before]
        turned[[0, 1 + axis, after, before]] = [
            cosine * w - sine * x,
            cosine * x + sine * w,
            cosine * y - sine * z,
            cosine * z + sine * y,
        ]
    return turned


def _from_axis_angle(values: Array) -> Array:
    """(4, N) quaternions of angle and axis."""
    return np.concatenate([np.cos(values[:1] / 2), np.sin(values[:1] / 2) * unit(values[1:].T).T])
