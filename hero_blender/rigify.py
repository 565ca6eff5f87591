# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated Rigify rigs: the animator's controls are keyed, hands and feet by IK, never the bones that deform.

The solve of hero_core runs on the skeleton inside the rig (its ORG- bones). What the controls must do so that this
skeleton follows is computed here in closed form; nothing is baked or read back frame by frame.

* torso, hips, chest: torso takes half of the turn between pelvis and chest, hips and chest take the rest; Rigify
  spreads theirs over the spine bones by "Copy Transforms" of a half each (``_shares``).
* shoulders, neck and head are FK controls; neck and head are set to follow the body, so that their parents are known.
* hand_ik, foot_ik: placed at wrist and ankle. Their location channel has the axes of the parent (use_local_location
  is off), and their parent is set to root.
* elbows and knees: pole targets, out from the bend plane of the joint, as far away as they are at rest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.errors import HeroError
from hero_core.motion import JOINTS
from hero_core.retarget import BoneKeys, BoneMap, Pose, Preset, Rig, load_presets, map_bones, pose
from hero_core.retarget.rotations import across, continuous, slerp, to_quaternion, unit
from hero_core.retarget.solve import location_channel

Array = npt.NDArray[Any]

_SIDES = ("left", "right")
# One control of a limb must not fight another: what the rig offers beyond IK and poles is switched off.
_LIMB_SETTINGS = {"IK_FK": 0.0, "IK_Stretch": 0.0, "IK_parent": 1, "pole_vector": 1, "pole_parent": 1}
_BODY_SETTINGS = {"torso_parent": 1, "neck_follow": 1.0, "head_follow": 1.0}


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


def solve(obj: bpy.types.Object, rig: Rig, joints: Array) -> BoneKeys:
    """Keys of the controls such that the skeleton inside moves as ``joints`` (N, 22, 3) do; see ``retarget.solve``.

    Raises HeroError as that does, and where the rig lacks a part of the spine.
    """
    inner = skeleton(rig)
    bones = map_bones(inner)
    if not bones.spine:
        raise HeroError(f"The Rigify rig '{obj.name}' has no spine; generate it from a human metarig.")
    return _Controls(obj, rig, inner, bones, pose(joints, inner, bones)).keys()


class _Controls:
    """One solve: what is known while the controls are worked out, from the torso outwards."""

    def __init__(self, obj: bpy.types.Object, rig: Rig, inner: Rig, bones: BoneMap, solved: Pose) -> None:
        self.obj, self.rig, self.inner, self.bones, self.solved = obj, rig, inner, bones, solved
        self.count = len(solved.heads)
        self.rotations: dict[str, Array] = {}
        self.locations: dict[str, Array] = {}
        self.basis: dict[int, Array] = {}  # row of a control -> (N, 3, 3) its rotation away from rest, own axes
        self.shares = _shares(obj, rig)
        self.shift = np.zeros((self.count, 3))  # of everything that hangs on the torso

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
        """Key the location of a control below unmoved parents."""
        row = self.rig.index[name]
        self.locations[name] = location_channel(self.rig, row, head - self.rig.heads[row])

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
        settings = self.settings(body["torso"], _BODY_SETTINGS)
        for side in _SIDES:
            settings |= self.limbs(side)
        still = [self.rig.names[row] for name in self.locations for row in self.rig.line(self.rig.index[name])[1:]]
        stale = [name for name in self.rig.names if name.startswith(("spine_fk", "foot_spin_ik", "foot_heel_ik"))]
        return BoneKeys(
            self.rotations,
            self.locations,
            self.solved.scale,
            {j: self.inner.names[self.bones.joints[j]] if j in self.bones.joints else None for j in JOINTS},
            still=tuple(dict.fromkeys(n for n in (*still, *stale) if not self.rig.owned[self.rig.index[n]])),
            settings=settings,
        )

    def limbs(self, side: str) -> dict[tuple[str, str], float]:
        controls = _controls(side)
        if controls["collar"] in self.rig.index and f"{side}_collar" in self.bones.joints:
            self.turn(controls["collar"], self.turn_of(f"{side}_collar", last=True))
            shoulder = self.collar_end(controls["collar"], side)
        else:
            shoulder = self.follow(self.row_of(f"{side}_shoulder"))[1]
        self.limb(side, ("shoulder", "elbow", "wrist"), shoulder, self.turn_of(f"{side}_elbow"))
        hip = self.follow(self.row_of(f"{side}_hip"))[1]
        self.limb(side, ("hip", "knee", "ankle"), hip, self.turn_of(f"{side}_ankle"))
        settings = self.settings(controls["arm"], _LIMB_SETTINGS) | self.settings(controls["leg"], _LIMB_SETTINGS)
        return settings | self.rigid(controls["elbow"]) | self.rigid(controls["knee"])

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
        chord = unit(end - root)
        out = np.cross(chord, across(self.solved.hinges[f"{side}_{joints[1]}"], chord))
        pole = controls[joints[1]]
        reach = np.linalg.norm(self.rig.heads[self.rig.index[pole]] - rest[1])
        self.place(pole, middle + reach * out)

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
