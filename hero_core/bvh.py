# SPDX-License-Identifier: GPL-3.0-or-later
"""BVH motion capture files -> the 22 joints of HumanML3D, whatever the skeleton, its units and its up axis. numpy only.

Joints are found by name with the presets of ``rigs/*.json`` (Mixamo, CMU, LaFAN, Unreal ...), or by the names that
SMPL and classic BVH files use (left_hip, L_Hip, LeftKnee). What a skeleton lacks is placed from its neighbours.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .errors import HeroError
from .motion import FPS, JOINTS, Array
from .retarget.mapping import map_bones
from .retarget.names import plain
from .retarget.rig import Rig
from .retarget.rotations import across, unit

J = {name: row for row, name in enumerate(JOINTS)}
LEG = 0.821  # metres from hip to ankle in HumanML3D's reference skeleton
# Metres in a unit. CMU's is 1 / 0.45 inch: the recordings are in "ASF lengths".
UNITS = {
    "metre": 1.0, "centimetre": 0.01, "millimetre": 0.001, "inch": 0.0254, "foot": 0.3048, "cmu": 0.0254 / 0.45,
}  # fmt: skip
# Where SMPL has pelvis, spine1, spine2 and spine3 on the line from between the hips to the neck; its bone lengths.
_TORSO = np.cumsum([0.0850, 0.1316, 0.1432, 0.0574, 0.2194])
_TORSO = _TORSO[:4] / _TORSO[4]
_OTHER_NAMES = {"pelvis": ("hips", "hip", "root"), "foot": ("toe", "toebase", "toes")}


@dataclass(frozen=True)
class Bvh:
    """A file as it is: its own units, axes and rate; J joints, parents before children.

    names       J joint names, not necessarily unique
    parents     (J,) index of the parent, -1 for a root
    offsets     (J, 3) place in the parent's frame
    ends        joint without children -> offset (3,) of its end site, where the file has one
    channels    for each joint the names of its channels in order: "Xposition", "Zrotation" ...
    values      (N, C) numbers of each frame, channels of all joints in order; degrees and units
    frame_time  seconds
    """

    name: str
    names: tuple[str, ...]
    parents: Array
    offsets: Array
    ends: dict[int, Array]
    channels: tuple[tuple[str, ...], ...]
    values: Array
    frame_time: float

    @property
    def fps(self) -> float:
        """Frames per second; files write 1/30 as 0.0333, which means 30."""
        rate = 1.0 / self.frame_time
        return float(round(rate)) if round(rate) and abs(rate / round(rate) - 1) < 2e-3 else rate

    @cached_property
    def poses(self) -> tuple[Array, Array]:
        """Places (N, J, 3) and rotations (N, J, 3, 3) of all joints in the file's world.

        A position channel stands in place of the offset, as motion capture programs write it; rotations apply
        in the order of the channels, the first one outermost.
        """
        count = len(self.values)
        places = np.empty((count, len(self.names), 3))
        turns = np.empty((count, len(self.names), 3, 3))
        column = 0
        for joint, channels in enumerate(self.channels):
            local = np.tile(self.offsets[joint], (count, 1))
            turn = np.broadcast_to(np.eye(3), (count, 3, 3))
            for channel in channels:
                axis = "XYZ".index(channel[0])
                if channel.endswith("position"):
                    local[:, axis] = self.values[:, column]
                else:
                    turn = turn @ _about(axis, np.radians(self.values[:, column]))
                column += 1
            parent = int(self.parents[joint])
            if parent < 0:
                places[:, joint], turns[:, joint] = local, turn
            else:
                places[:, joint] = places[:, parent] + (turns[:, parent] @ local[..., None])[..., 0]
                turns[:, joint] = turns[:, parent] @ turn
        return places, turns

    def end(self, joint: int) -> Array | None:
        """(N, 3) where the bone of a joint without children ends, or None where the file does not say."""
        offset = self.ends.get(joint)
        if offset is None or not offset.any():
            return None
        places, turns = self.poses
        return np.asarray(places[:, joint] + turns[:, joint] @ offset)


def _about(axis: int, angle: Array) -> Array:
    """(N,) radians -> (N, 3, 3) rotations about x, y or z."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out = np.zeros((len(angle), 3, 3))
    out[:, axis, axis] = 1.0
    out[:, i, i] = out[:, j, j] = np.cos(angle)
    out[:, j, i] = np.sin(angle)
    out[:, i, j] = -out[:, j, i]
    return out


# --- the file -------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Bvh:
    """Read a file as it is.

    Raises:
        HeroError: the file is missing, is no BVH, breaks off, or holds NaN; says where.
    """
    source = Path(path)
    try:
        text = source.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as err:
        raise HeroError(f"'{source}' cannot be read ({err.strerror or err}); check the path.") from err
    try:
        return _parse(text, source.name)
    except (ValueError, IndexError) as err:
        raise HeroError(f"'{source}' is not a BVH file that can be read ({err}); export it again.") from err


def _parse(text: str, name: str) -> Bvh:
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float]] = []
    channels: list[tuple[str, ...]] = []
    ends: dict[int, Array] = {}
    stack: list[int] = []  # joints whose braces are open; -1 for an end site
    coming = -1
    lines = text.splitlines()
    first = len(lines)
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        opens = line.endswith("{")
        word, _, rest = line.rstrip("{").strip().replace("\t", " ").partition(" ")
        word, rest = word.upper(), rest.strip()
        if word in ("ROOT", "JOINT"):
            if -1 in stack:
                raise ValueError(f"line {number}: a joint inside an end site")
            coming = len(names)
            names.append(rest or f"joint{coming}")
            parents.append(stack[-1] if stack else -1)
            offsets.append([0.0, 0.0, 0.0])
            channels.append(())
        elif word == "END":
            coming = -1
        elif word == "OFFSET":
            offset = [float(x) for x in rest.split()]
            if len(offset) != 3 or not stack:
                raise ValueError(f"line {number}: an offset has 3 numbers and belongs to a joint")
            if stack[-1] < 0:
                ends[stack[-2]] = np.array(offset)
            else:
                offsets[stack[-1]] = offset
        elif word == "CHANNELS":
            found = tuple(x[:1].upper() + x[1:].lower() for x in rest.split()[1:])
            bad = [x for x in found if x[0] not in "XYZ" or x[1:] not in ("position", "rotation")]
            if bad or len(found) != int(rest.split()[0]) or not stack or stack[-1] < 0:
                raise ValueError(f"line {number}: channels that are not understood")
            channels[stack[-1]] = found
        elif word == "MOTION":
            first = number
            break
        elif word not in ("", "HIERARCHY", "}"):
            raise ValueError(f"line {number}: '{line[:40]}' is not understood")
        if opens:
            stack.append(coming)
        elif word == "}":
            stack.pop()
    if not names or stack:
        raise ValueError("it has no joints" if not names else "a brace is not closed")
    if not np.isfinite(np.concatenate([np.array(offsets), *(x[None] for x in ends.values())])).all():
        raise ValueError("an offset is NaN or infinite")

    frame_time, start = 0.0, first
    for start in range(first, len(lines)):
        key, colon, value = lines[start].partition(":")
        if not colon and key.strip():
            break
        if key.strip().lower() == "frame time":
            frame_time = float(value)
    if not 1e-5 < frame_time < 10:  # False for NaN too
        raise ValueError("it has no frame time" if first < len(lines) else "it has no motion")
    width = sum(map(len, channels))
    numbers = np.array(" ".join(lines[start:]).split(), np.float64)
    if not width or not len(numbers) or len(numbers) % width:
        raise ValueError(f"{len(numbers)} numbers do not make whole frames of {width}")
    values = numbers.reshape(-1, width)
    broken = ~np.isfinite(values).all(1)
    if broken.any():
        raise ValueError(f"frame {int(broken.argmax()) + 1} holds NaN or infinite values")
    return Bvh(
        name, tuple(names), np.array(parents), np.array(offsets), ends, tuple(channels), values, frame_time
    )  # fmt: skip


# --- 22 joints ------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], up: str = "auto", scale: float | None = None) -> Array:
    """A BVH file as a motion: (N, 22, 3) float32, metres, Y up, 20 poses a second.

    Args:
        up: "y", "z", or "auto": the axis along which the body stands most of the time.
        scale: metres in a unit of the file; None guesses it from the length of the legs.

    Raises:
        HeroError: the file cannot be read, or its joints have names that nobody knows.
    """
    bvh = read(path)
    return resampled(joints(bvh, up, scale), bvh.fps)


def resampled(motion: Array, fps: float) -> Array:
    """(N, ...) at ``fps`` -> (n, ...) float32 at 20 a second, linear in time; the first pose stays the first."""
    if not 1.0 <= fps <= 1000.0:
        raise HeroError(f"A motion of {fps:g} frames a second is not possible; give its rate.")
    t = np.arange(int((len(motion) - 1) * FPS / fps + 1e-6) + 1) * (fps / FPS)
    i = np.minimum(t.astype(np.int64), max(len(motion) - 2, 0))
    w = (t - i).reshape(-1, *[1] * (motion.ndim - 1))
    return np.asarray(motion[i] * (1 - w) + motion[np.minimum(i + 1, len(motion) - 1)] * w, np.float32)


def joints(bvh: Bvh, up: str = "auto", scale: float | None = None) -> Array:
    """(N, 22, 3) float64 in metres, Y up, at the rate of the file; see ``load``.

    A skeleton with SMPL's own 22 joints is taken as it is. Others have their hips and spine elsewhere (LaFAN's
    hips lie between the legs, CMU's collars in the neck), so that the joints between the hips and the shoulders
    are placed where SMPL has them on that skeleton's own curve; knees, feet, elbows, hands and head are its own.
    """
    rows, of, exact = _find(bvh)
    places = bvh.poses[0]
    out = np.empty((len(places), 22, 3))
    if exact:
        out[:] = places[:, [rows[name] for name in JOINTS]]
    else:
        _fill(out, bvh, of, rows)
    return y_up(out, up) * (unit_scale(out) if scale is None else scale)


def y_up(motion: Array, up: str = "auto") -> Array:
    """(N, 22, 3) turned so that Y is up; "auto" takes the axis along which the head is away from the feet."""
    if up == "auto":
        body = np.median(motion[:, J["head"]] - motion[:, [J["left_ankle"], J["right_ankle"]]].mean(1), axis=0)
        axis = int(np.abs(body).argmax())
        up = ("-" if body[axis] < 0 else "") + "xyz"[axis]
    turns = {
        "y": (0, 1, 2, 1, 1, 1), "-y": (0, 1, 2, 1, -1, -1), "z": (0, 2, 1, 1, 1, -1), "-z": (0, 2, 1, 1, -1, 1),
        "x": (1, 0, 2, -1, 1, 1), "-x": (1, 0, 2, 1, -1, 1),
    }  # fmt: skip
    if up not in turns:
        raise HeroError(f"The up axis can be auto, x, y or z, not '{up}'.")
    i, j, k, *signs = turns[up]
    return np.asarray(motion[..., [i, j, k]] * np.array(signs, motion.dtype))


def unit_scale(motion: Array) -> float:
    """Metres in a unit of (N, 22, 3), from the length of the legs.

    The known unit with which the legs come nearest to those of an adult; where none gives a human, what makes
    the legs as long as those of the reference skeleton.
    """
    legs = [
        np.linalg.norm(motion[:, J[f"{side}_{a}"]] - motion[:, J[f"{side}_{b}"]], axis=-1)
        for side in ("left", "right")
        for a, b in (("hip", "knee"), ("knee", "ankle"))
    ]
    length = float(np.median(np.sum(legs, 0))) / 2
    if length < 1e-9:
        raise HeroError("The legs of the skeleton have no length, so it is not a body; export the motion again.")
    best = min(UNITS.values(), key=lambda metres: abs(np.log(length * metres / LEG)))
    return best if 0.6 < length * best / LEG < 1.5 else LEG / length


def _find(bvh: Bvh) -> tuple[dict[str, int], Rig, bool]:
    """Rows of the joints that names tell, the hierarchy, and whether these are SMPL's own 22 joints."""
    count = len(bvh.names)
    rest = np.tile(np.eye(4), (count, 1, 1))
    yes = np.ones(count, bool)
    of = Rig(bvh.name, bvh.names, bvh.parents, rest, rest[:, :3, 3], np.eye(4), yes, ~yes, yes, ~yes)
    rows = _by_anatomy(bvh.names)
    if rows:
        return rows, of, len(rows) == 22
    try:
        return dict(map_bones(of).joints), of, False
    except HeroError as err:
        some = ", ".join(bvh.names[:6])
        raise HeroError(
            f"The joints of '{bvh.name}' ({some} ...) have no names that HERO knows; name them as Mixamo, CMU or "
            "SMPL do, or add their names as a file to the folder rigs."
        ) from err


def _by_anatomy(names: tuple[str, ...]) -> dict[str, int]:
    """Rows by names that say the joint (left_hip, L_Hip, LeftHip), any prefix; empty where legs or arms lack."""
    known: dict[str, int] = {}
    for number, name in enumerate(names):
        known.setdefault(plain(name), number)
    best: dict[str, int] = {}
    for left, right in (("left", "right"), ("l", "r")):
        for prefix in {name[: -len(left + "hip")] for name in known if name.endswith(left + "hip")}:
            found: dict[str, int] = {}
            for joint in JOINTS:
                side, _, rest = joint.rpartition("_")
                tag = {"left": left, "right": right, "": ""}[side]
                aliases = [prefix + tag + alias for alias in (rest, *_OTHER_NAMES.get(rest, ()))]
                row = next((known[alias] for alias in aliases if alias in known), -1)
                if row >= 0:
                    found[joint] = row
            limbs = {f"{s}_{x}" for s in ("left", "right") for x in ("hip", "knee", "ankle", "shoulder", "elbow")}
            if limbs <= set(found) and len(found) > len(best):
                best = found
    return best


def _fill(out: Array, bvh: Bvh, of: Rig, rows: dict[str, int]) -> None:
    """The 22 joints (N, 22, 3) from those of another skeleton; says nothing about units and axes."""
    places = bvh.poses[0]

    def at(name: str) -> Array:
        return out[:, J[name]]

    missing = [name for name in JOINTS if name not in rows]
    for name in JOINTS:
        if name in rows:
            out[:, J[name]] = places[:, rows[name]]
    shoulders = (at("left_shoulder") + at("right_shoulder")) / 2
    hips = (at("left_hip") + at("right_hip")) / 2
    for side in ("left", "right"):
        for above, before, name in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")):
            above, before, name = (f"{side}_{x}" for x in (above, before, name))
            if name in missing:  # the end of the lower bone, or as far as the upper one is long
                end = bvh.end(rows[before])
                out[:, J[name]] = 2 * at(before) - at(above) if end is None else end

    # The torso's own curve: from between the hips over the bones of the spine to the neck.
    pelvis = rows.get("pelvis", -1)
    if pelvis < 0:
        pelvis = of.common([rows["left_hip"], rows["right_hip"], rows["left_shoulder"], rows["right_shoulder"]])
    top = rows.get("neck", rows.get("head", -1))
    if "neck" in missing:
        out[:, J["neck"]] = shoulders if "head" in missing else 0.65 * shoulders + 0.35 * at("head")
    spine = of.between(pelvis, top)
    curve = np.stack([hips, *(places[:, row] for row in spine), at("neck")], 1)  # (N, points, 3)
    # A bone that is not between the two (hips below the legs' joints, a root at the feet) is no part of it.
    height = np.median(((curve - hips[:, None]) * unit(at("neck") - hips)[:, None]).sum(-1), axis=0)
    between = [i for i in range(1, len(height) - 1) if 0.01 * height[-1] < height[i] < 0.99 * height[-1]]
    curve = curve[:, [0, *between, len(height) - 1]]
    for name, share in zip(("pelvis", "spine1", "spine2", "spine3"), _TORSO, strict=True):
        out[:, J[name]] = _along(curve, share)

    if "head" in missing:
        out[:, J["head"]] = at("neck") + 0.4 * (at("neck") - at("spine3"))
    breast = (at("spine3") + at("neck")) / 2
    ahead = unit(np.cross(at("left_hip") - at("right_hip"), at("neck") - hips))
    for side in ("left", "right"):
        out[:, J[f"{side}_collar"]] = breast + 0.4 * (at(f"{side}_shoulder") - breast)
        if f"{side}_foot" in missing:
            # The end of the ankle's bone, or ahead at a right angle to the shin.
            shin = at(f"{side}_ankle") - at(f"{side}_knee")
            length = np.linalg.norm(shin, axis=-1, keepdims=True)
            end = bvh.end(rows[f"{side}_ankle"]) if f"{side}_ankle" in rows else None
            toes = 0.32 * length * across(ahead, unit(shin)) + 0.12 * shin
            out[:, J[f"{side}_foot"]] = at(f"{side}_ankle") + toes if end is None else end


def _along(curve: Array, share: float) -> Array:
    """(N, points, 3) -> (N, 3) at that share of the length of each curve."""
    pieces = np.linalg.norm(np.diff(curve, axis=1), axis=-1)  # (N, points - 1)
    walked = np.concatenate([np.zeros((len(curve), 1)), pieces.cumsum(1)], 1)
    goal = share * walked[:, -1:]
    i = np.clip((walked[:, :-1] <= goal).sum(1) - 1, 0, pieces.shape[1] - 1)
    n = np.arange(len(curve))
    w = ((goal[:, 0] - walked[n, i]) / np.maximum(pieces[n, i], 1e-12))[:, None]
    return np.asarray(curve[n, i] * (1 - w) + curve[n, i + 1] * w)
