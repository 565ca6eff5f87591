# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated Rigify rigs: the animator's controls are keyed, those of IK and of FK, never the bones that deform.

The solve of hero_core runs on the skeleton inside the rig (its ORG- bones). What the controls must do so that this
skeleton follows is computed here in closed form; nothing is baked or read back frame by frame.

* torso, hips, chest: torso takes half of the turn between pelvis and chest, hips and chest take the rest; Rigify
  spreads theirs over the spine bones by "Copy Transforms" of a half each (``_shares``).
* shoulders, neck and head are FK controls; neck and head are set to follow the body, so that their parents are known.
* hand_ik, foot_ik: placed at wrist and ankle. Their location channel has the axes of the parent (use_local_location
  is off), and their parent is set to root.
* elbows and knees: pole targets, out from the bend plane of the joint, as far away as they are at rest; and the arrows
  at the top of the limb that do the same where pole targets are switched off.
* the FK controls of arms and legs get what the IK ones make of the limb, twist included: its upper bone keeps its roll
  against the plane of the limb. So IK and FK can be switched at any frame and the pose stays.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.errors import HeroError
from hero_core.motion import JOINTS
from hero_core.retarget import BoneKeys, BoneMap, Pose, Preset, Reach, Rig, load_presets, map_bones, pose
from hero_core.retarget.options import Options
from hero_core.retarget.rotations import across, basis, continuous, slerp, swing, to_quaternion, unit
from hero_core.retarget.solve import location_channel

Array = npt.NDArray[Any]

_SIDES = ("left", "right")
# One control of a limb must not fight another: what the rig offers beyond IK and poles is switched off.
_LIMB_SETTINGS = {
    "IK_FK": 0.0, "IK_Stretch": 0.0, "IK_parent": 1, "pole_vector": 1, "pole_parent": 1, "FK_limb_follow": 0.0,
}  # fmt: skip
_BODY_SETTINGS = {"torso_parent": 1, "neck_follow": 1.0, "head_follow": 1.0}


@lru_cache
def _preset() -> Preset:
    return next(preset for preset in load_presets() if preset.controls)


def _controls(side: str | None = None) -> dict[str, str]:
    """Purpose -> bone name; with ``side``, those of that side."""
    preset = _preset()
    paired = {key: name for key, name in preset.controls.items() if "{side}" in name}
    if side is None:
        return {key: name for key, name in preset.controls.items() if key not in paired}
    return {key: name.format(side=preset.sides[side]) for key, name in paired.items()}


def is_control_rig(obj: bpy.types.Object) -> bool:
    """A generated Rigify human: it has the controls that are keyed here (a metarig has none of them)."""
    body = [name for key, name in _controls().items() if key in {"torso", "hips", "chest"}]
    limbs = [_controls(side)[key] for side in _SIDES for key in ("wrist", "elbow", "ankle", "knee", "arm", "leg")]
    return obj.type == "ARMATURE" and all(name in obj.data.bones for name in (*body, *limbs))


def skeleton(rig: Rig) -> Rig:
    """The skeleton inside the controls as a rig of its own: ORG- bones, hung on each other as in the metarig."""
    prefix = _controls()["skeleton"]
    rows = [row for row, name in enumerate(rig.names) if name.startswith(prefix)]
    names = [rig.names[row] for row in rows]
    # In the generated rig the spine hangs on its controls from the middle; in the metarig each bone on the one below.
    above = {}
    for name in names:
        stem, _, number = name.rpartition(".")
        below = f"{stem}.{int(number) - 1:03d}" if number.isdigit() and int(number) > 1 else stem
        if stem == f"{prefix}spine":
            above[name] = below
    parents = []
    for row, name in zip(rows, names, strict=True):
        found = above.get(name) or next((rig.names[up] for up in rig.line(row)[1:] if rig.names[up] in names), None)
        parents.append(found)
    order = sorted(range(len(rows)), key=lambda at: _depth(names[at], dict(zip(names, parents, strict=True))))
    place = {names[at]: new for new, at in enumerate(order)}
    picked = np.array([rows[at] for at in order])
    return replace(
        rig,
        names=tuple(names[at] for at in order),
        parents=np.array([place.get(parents[at] or "", -1) for at in order], np.int64),
        rest=rig.rest[picked],
        tails=rig.tails[picked],
        use_local_location=rig.use_local_location[picked],
        connected=rig.connected[picked],
        inherit_rotation=np.ones(len(order), bool),
        owned=np.zeros(len(order), bool),
    )


def _depth(name: str, parents: dict[str, str | None]) -> int:
    depth, above = 0, parents.get(name)
    while above is not None:
        depth, above = depth + 1, parents.get(above)
    return depth


def solve(
    obj: bpy.types.Object,
    rig: Rig,
    joints: Array,
    bones: BoneMap | None = None,
    options: Options | None = None,
    contacts: Array | None = None,
    at: Array | None = None,
) -> BoneKeys:
    """Keys of the controls such that the skeleton inside moves as ``joints`` (N, 22, 3) do; see ``retarget.solve``.

    bones: the map of ``skeleton(rig)``; found where it is not given.

    Raises HeroError as that does, and where the rig lacks a part of the spine.
    """
    inner = skeleton(rig)
    bones, options = bones or map_bones(inner), options or Options()
    if not bones.spine:
        raise HeroError(f"The Rigify rig '{obj.name}' has no spine; generate it from a human metarig.")
    return _Controls(obj, rig, inner, bones, pose(joints, inner, bones, options, contacts, at), options).keys()


class _Controls:
    """One solve: what is known while the controls are worked out, from the torso outwards."""

    def __init__(
        self, obj: bpy.types.Object, rig: Rig, inner: Rig, bones: BoneMap, solved: Pose, options: Options
    ) -> None:
        self.obj, self.rig, self.inner, self.bones, self.solved, self.options = obj, rig, inner, bones, solved, options
        self.count = len(solved.heads)
        self.rotations: dict[str, Array] = {}
        self.locations: dict[str, Array] = {}
        self.basis: dict[int, Array] = {}  # row of a control -> (N, 3, 3) its rotation away from rest, own axes
        self.shares = _shares(obj, rig)
        self.reaches: list[Reach] = []
        self.hangs: dict[str, str] = {}
        self.shows: dict[str, str] = {}
        self.shift = np.zeros((self.count, 3))  # of everything that hangs on the torso
        hips_carry = options.root == "hips" and not options.in_place
        # (N, 3) the way that the controls do not go themselves, because the root or the object does, or nothing
        self.carried = np.zeros((self.count, 3)) if hips_carry else solved.path

    def turn_of(self, joint: str, last: bool = False) -> Array:
        """(N, 3, 3) wanted turn of the bone of a joint, or of the last bone of its segment."""
        segment = self.bones.segments.get(joint, ())
        return self.solved.turns[:, segment[-1] if last and segment else self.bones.joints[joint]]

    def row_of(self, joint: str) -> int:
        """Row of a joint's skeleton bone in the whole rig."""
        return self.rig.index[self.inner.names[self.bones.joints[joint]]]

    def follow(self, row: int) -> tuple[Array, Array]:
        """(N, 3, 3) turn and (N, 3) head of a bone below the torso as the controls keyed so far carry it."""
        parent = int(self.rig.parents[row])
        if parent < 0:
            turn, head = (
                np.broadcast_to(np.eye(3), (self.count, 3, 3)),
                np.broadcast_to(self.rig.heads[row], (self.count, 3)),
            )
        else:
            turn, head = self.follow(parent)
            head = head + turn @ (self.rig.heads[row] - self.rig.heads[parent])
        if row == self.rig.index[_controls()["torso"]]:
            head = head + self.shift
        own = self.basis.get(row)
        if row in self.shares:
            control, share = self.shares[row]
            if control in self.basis:
                own = slerp(np.broadcast_to(np.eye(3), (self.count, 3, 3)), self.basis[control], share)
        if own is not None:
            rest = self.rig.rotations[row]
            turn = turn @ rest @ own @ rest.T
        return turn, head

    def turn(self, name: str, wanted: Array, above: Array | None = None) -> None:
        """Key the rotation of a control so that it is turned by ``wanted``; ``above`` is the turn of its parent."""
        row = self.rig.index[name]
        if above is None:
            parent = int(self.rig.parents[row])
            above = self.follow(parent)[0] if parent >= 0 else np.broadcast_to(np.eye(3), (self.count, 3, 3))
        rest = self.rig.rotations[row]
        own = rest.T @ np.swapaxes(above, -1, -2) @ wanted @ rest
        self.basis[row] = own
        self.rotations[name] = continuous(to_quaternion(own))

    def place(self, name: str, head: Array) -> None:
        """Key the location of a control below parents that go no way but the one that is not the controls' own."""
        row = self.rig.index[name]
        self.locations[name] = location_channel(self.rig, row, head - self.carried - self.rig.heads[row])

    def keys(self) -> BoneKeys:
        body = _controls()
        pelvis, chest = self.turn_of("pelvis"), self.solved.turns[:, self.bones.spine[-1]]
        self.turn(body["torso"], slerp(pelvis, chest, 0.5))
        self.turn(body["hips"], pelvis)
        self.turn(body["chest"], chest)
        self.shift = self.solved.heads[:, self.bones.joints["pelvis"]] - self.follow(self.row_of("pelvis"))[1]
        self.place(body["torso"], self.rig.heads[self.rig.index[body["torso"]]] + self.shift)
        for joint in ("neck", "head"):
            if joint in self.bones.joints and body[joint] in self.rig.index:
                self.turn(body[joint], self.turn_of(joint, last=True))
                self.hangs[body[joint]] = next(
                    body[above] for above in ("neck", "chest") if above != joint and body[above] in self.rotations
                )
                self.shows[joint] = body[joint]
        settings = self.settings(body["torso"], _BODY_SETTINGS)
        for side in _SIDES:
            settings |= self.limbs(side)
        still = [self.rig.names[row] for name in self.locations for row in self.rig.line(self.rig.index[name])[1:]]
        still += [name for name in (body.get("root", ""),) if name in self.rig.index]  # constraints tie controls to it
        stale = [name for name in self.rig.names if name.startswith(("spine_fk", "foot_spin_ik", "foot_heel_ik"))]
        travel = None
        if self.options.root == "root" and not self.options.in_place:
            root = body.get("root", "")
            if root not in self.rig.index:
                raise HeroError(f"The Rigify rig '{self.obj.name}' has no root control; let the hips carry the way.")
            self.hangs |= dict.fromkeys(self.locations, root)
            self.locations[root] = location_channel(self.rig, self.rig.index[root], self.carried)
        elif self.options.root == "object" and not self.options.in_place:
            travel = self.carried @ self.rig.to_world[:3, :3].T
        free = [name for name in dict.fromkeys((*still, *stale)) if name not in self.locations]
        return BoneKeys(
            self.rotations,
            self.locations,
            self.solved.scale,
            {j: self.inner.names[self.bones.joints[j]] if j in self.bones.joints else None for j in JOINTS},
            still=tuple(name for name in free if not self.rig.owned[self.rig.index[name]]),
            settings=settings,
            travel=travel,
            measures=dict(self.solved.measures),
            contacts=self.solved.contacts.named() if self.solved.contacts is not None else None,
            limbs=tuple(self.reaches),
            rate=self.solved.rate,
            hangs={name: up for name, up in self.hangs.items() if up in self.rotations or up in self.locations},
            pivots=self.pivots(),
            shows=self.shows,
        )

    def pivots(self) -> dict[str, Array]:
        """Where controls turn what hangs on them: several bones of the spine take a share of each."""
        found = {}
        for control in {control for control, _ in self.shares.values()}:
            rows, shares = zip(
                *((row, share) for row, (of, share) in self.shares.items() if of == control), strict=True
            )
            if self.rig.names[control] in self.rotations:
                found[self.rig.names[control]] = np.average(self.rig.heads[list(rows)], axis=0, weights=shares)
        return found

    def limbs(self, side: str) -> dict[tuple[str, str], float]:
        controls = _controls(side)
        if controls["collar"] in self.rig.index and f"{side}_collar" in self.bones.joints:
            self.turn(controls["collar"], self.turn_of(f"{side}_collar", last=True))
            self.hangs[controls["collar"]] = _controls()["chest"]
            shoulder = self.collar_end(controls["collar"], side)
        else:
            shoulder = self.follow(self.row_of(f"{side}_shoulder"))[1]
        self.limb(side, ("shoulder", "elbow", "wrist"), shoulder, self.turn_of(f"{side}_elbow"))
        hip = self.follow(self.row_of(f"{side}_hip"))[1]
        self.limb(side, ("hip", "knee", "ankle"), hip, self.turn_of(f"{side}_ankle"))
        self.toe(side)
        chosen = {**_LIMB_SETTINGS, "IK_FK": 1.0 if self.options.controls == "fk" else 0.0}
        settings = self.settings(controls["arm"], chosen) | self.settings(controls["leg"], chosen)
        return settings | self.rigid(controls["elbow"]) | self.rigid(controls["knee"])

    def toe(self, side: str) -> None:
        """The toes, where the solve turns them; both their controls hang on the foot."""
        row = self.bones.joints.get(f"{side}_foot")
        for purpose in ("foot", "fk_foot"):
            name = _controls(side).get(purpose, "")
            if name in self.rig.index and row is not None and row in self.solved.turned:
                self.turn(name, self.solved.turns[:, row], above=self.turn_of(f"{side}_ankle"))
                if purpose == "fk_foot" and (foot := self.shows.get(f"{side}_ankle")):
                    self.hangs[name], self.shows[f"{side}_foot"] = foot, name

    def collar_end(self, control: str, side: str) -> Array:
        """(N, 3) where the shoulder joint is, carried by the collar control."""
        row = self.rig.index[control]
        turn, head = self.follow(row)
        return head + turn @ (self.rig.heads[self.row_of(f"{side}_shoulder")] - self.rig.heads[row])

    def limb(self, side: str, joints: tuple[str, str, str], root: Array, end_turn: Array) -> None:
        """Put IK control and pole of an arm or leg that starts at ``root`` (N, 3)."""
        rest = [self.rig.heads[self.row_of(f"{side}_{joint}")] for joint in joints]
        middle = root + self.turn_of(f"{side}_{joints[0]}") @ (rest[1] - rest[0])
        end = middle + self.turn_of(f"{side}_{joints[1]}") @ (rest[2] - rest[1])
        controls = _controls(side)
        self.turn(controls[joints[2]], end_turn, above=np.eye(3))
        self.place(controls[joints[2]], end)
        body = _controls()
        carriers = (controls["collar"], body["chest"]) if joints[0] == "shoulder" else (body["hips"],)
        carriers = tuple(name for name in (*carriers, body["torso"]) if name in self.rotations)
        upper_length, lower_length = (float(np.linalg.norm(rest[k + 1] - rest[k])) for k in (0, 1))
        self.reaches.append(Reach(controls[joints[2]], carriers, root, end, (upper_length, lower_length)))
        chord = unit(end - root)
        out = np.cross(chord, across(self.solved.hinges[f"{side}_{joints[1]}"], chord))
        pole = controls[joints[1]]
        pole_rest = self.rig.heads[self.rig.index[pole]]
        self.place(pole, middle + np.linalg.norm(pole_rest - rest[1]) * out)
        # What Rigify makes of it: the limb keeps its roll against the plane of root, end and pole.
        plane, plane_rest = np.cross(chord, out), unit(np.cross(rest[2] - rest[0], pole_rest - rest[0]))
        upper = basis(middle - root, plane) @ basis(rest[1] - rest[0], plane_rest).T
        lower = basis(end - middle, plane) @ basis(rest[2] - rest[1], plane_rest).T
        above = self.follow(self.row_of(f"{side}_{joints[0]}"))[0] if joints[0] == "hip" else self.collar_turn(side)
        names = [controls.get(f"fk_{joint}", "") for joint in joints]
        if all(name in self.rig.index for name in names):
            self.turn(names[0], upper, above=above)
            self.turn(names[1], lower, above=upper)
            self.turn(names[2], end_turn, above=lower)
            self.hangs |= dict(zip(names, (next(iter(carriers), ""), *names), strict=False))
            self.shows |= {f"{side}_{joint}": name for joint, name in zip(joints, names, strict=True)}
        self.arrow(controls.get(f"swing_{joints[0]}", ""), above, chord, plane, plane_rest)

    def collar_turn(self, side: str) -> Array:
        """(N, 3, 3) turn of what an arm hangs on."""
        control = _controls(side)["collar"]
        row = self.rig.index[control] if control in self.basis_names() else self.row_of(f"{side}_shoulder")
        return self.follow(row)[0]

    def basis_names(self) -> set[str]:
        return {self.rig.names[row] for row in self.basis}

    def arrow(self, name: str, above: Array, chord: Array, plane: Array, plane_rest: Array) -> None:
        """Key the control that turns a limb about itself without a pole target; its parent swings towards the end."""
        if name not in self.rig.index:
            return
        row = self.rig.index[name]
        swinging = int(self.rig.parents[row])
        if swinging < 0:
            return
        rest_along = self.rig.rotations[swinging][:, 1]
        carried = swing(above @ rest_along, chord) @ above
        along = carried @ self.rig.rotations[row][:, 1]
        had, wanted = across(carried @ plane_rest, along), across(plane, along)
        angle = np.arctan2(np.sum(np.cross(had, wanted) * along, -1), np.sum(had * wanted, -1))
        half = np.unwrap(angle)[:, None] / 2
        turn = np.concatenate([np.cos(half), 0 * half, np.sin(half), 0 * half], -1)
        self.rotations[name] = continuous(turn)

    def settings(self, bone: str, wanted: dict[str, float]) -> dict[tuple[str, str], float]:
        """Those of the wanted custom properties that this rig has."""
        if bone not in self.rig.index:
            return {}
        have = set(self.obj.pose.bones[bone].keys())
        return {(bone, f'["{prop}"]'): value for prop, value in wanted.items() if prop in have}

    def rigid(self, pole: str) -> dict[tuple[str, str], float]:
        """Stretch off in the IK chain that uses this pole: with it the solver shrinks a limb by 3 % before it bends."""
        return {
            (each.name, "ik_stretch"): 0.0
            for bone in self.obj.pose.bones
            for constraint in bone.constraints
            if constraint.type == "IK" and constraint.pole_subtarget == pole
            for each in [bone, *bone.parent_recursive][: constraint.chain_count]
        }


def _shares(obj: bpy.types.Object, rig: Rig) -> dict[int, tuple[int, float]]:
    """Spine bones that take a share of a control's own rotation: row -> (row of the control, share)."""
    shares = {}
    wanted = {_controls()["hips"], _controls()["chest"]}
    for bone in obj.pose.bones:
        for constraint in bone.constraints:
            if (
                constraint.type == "COPY_TRANSFORMS"
                and constraint.subtarget in wanted
                and constraint.owner_space == constraint.target_space == "LOCAL"
            ):
                shares[rig.index[bone.name]] = (rig.index[constraint.subtarget], float(constraint.influence))
    return shares
