# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes: Actions that know what they came from, so that they can be made again, changed, shown and compared.

Each holds two custom properties: ``hero``, a JSON text of what it reacts to and how it was made, and ``hero_motion``,
the motion itself, packed. So a take can be put on a rig again, or changed, in a file that comes from elsewhere. Nothing
else is kept: which takes a character has, and which one it shows, is read from the Actions each time.
"""

from __future__ import annotations

import array
import dataclasses
import functools
import io
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.errors import HeroError
from hero_core.motion import Motion
from hero_core.place import Place
from hero_core.record import TakeRecord
from hero_core.retarget.options import Options

from . import compat
from .seam import Join

Array = npt.NDArray[Any]

KEY, MOTION = "hero", "hero_motion"
VERSION = 1
CONTACTS = slice(259, 263)


@dataclass(frozen=True)
class Source:
    """The clip that a take reacts to.

    kind   "strip", "file", or "" where only its name is known
    start  scene frame at which the clip starts
    """

    name: str = ""
    kind: str = ""
    path: str = ""
    scene: str = ""
    start: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Take:
    """All that is recorded of a take but its motion.

    character, armature  names of the object and of its data, by which a take is found to be a character's
    number, seed         which take it was, and what it was drawn from
    frames               poses at ``rate`` a second (20)
    first_frame          where it begins, and the ``scene_rate`` for which its keys were written
    model, device, dtype folder of the weights ("" = as shipped) and what was asked to compute them
    stood                (16) ``Rig.to_world`` of the armature when the keys were written
    kept                 it is not deleted with the others
    record               how its motion is made; None where that is not known
    joins                which of its changes left the keys outside of a part as they were, and where
    """

    character: str
    armature: str
    source: Source
    number: int
    seed: int
    frames: int
    rate: float
    first_frame: int
    scene_rate: float
    stood: tuple[float, ...]
    model: str = ""
    device: str = "auto"
    dtype: str = "auto"
    fit: Options = field(default_factory=Options)
    place: Place = field(default_factory=Place)
    kept: bool = False
    record: TakeRecord | None = None
    joins: tuple[Join, ...] = ()

    def to_json(self) -> str:
        data = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        data["source"], data["fit"] = dataclasses.asdict(self.source), dataclasses.asdict(self.fit)
        data["place"] = self.place.to_dict()
        data["joins"] = [dataclasses.asdict(join) for join in self.joins]
        data["record"] = None if self.record is None else json.loads(self.record.to_json())
        return json.dumps({"version": VERSION, **data})

    @classmethod
    def from_json(cls, text: str) -> Take:
        """Raises HeroError where the text is none, or damaged, or of a newer version."""
        try:
            data = json.loads(text)
            if data.pop("version") != VERSION:
                raise HeroError("This take was made by a newer version of HERO; update HERO to change it.")
            data["source"] = Source(**data["source"])
            fit = data["fit"]
            data["fit"] = Options(**{**fit, "start": tuple(fit["start"])})
            data["place"] = Place.from_dict(data["place"])
            data["stood"] = tuple(float(value) for value in data["stood"])
            data["joins"] = tuple(Join(**join) for join in data.get("joins", ()))
            record = data["record"]
            data["record"] = None if record is None else TakeRecord.from_json(json.dumps(record))
            take = cls(**data)
            if len(take.stood) != 16 or not isinstance(take.frames, int) or not isinstance(take.character, str):
                raise ValueError("a value of another kind")
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise HeroError(f"What is recorded of this take is damaged ({err}); make a new take.") from err
        return take


# --- On Actions ---


def keep(action: bpy.types.Action, take: Take, motion: Motion, index: int) -> None:
    """Write down what a take is, on its Action."""
    action[KEY] = take.to_json()
    action.pop(MOTION, None)  # Blender writes beyond the end of an array that is given more items than it has
    action[MOTION] = _packed(motion, index)


def is_take(action: bpy.types.Action | None) -> bool:
    return action is not None and isinstance(action.get(KEY), str)


def read(action: bpy.types.Action) -> Take:
    """What is recorded of a take. Raises HeroError where the Action is none, or its record is damaged."""
    if not is_take(action):
        raise HeroError(f"The Action '{action.name}' is no take of HERO; choose one of the list.")
    return _parsed(action[KEY])


_parsed = functools.lru_cache(maxsize=512)(Take.from_json)  # lists ask for it at each redraw


def change(action: bpy.types.Action, **values: Any) -> None:
    """Write down other values of a take."""
    action[KEY] = dataclasses.replace(read(action), **values).to_json()


def motion_of(action: bpy.types.Action) -> Motion:
    """The motion of a take as it was made, before it was placed and put on the rig: one take, to the bit.

    Its features are whole where the take was changed after it was drawn; else their contacts alone are there, and the
    others, which ``hero.decode`` makes from the tokens, are 0. Raises HeroError where the Action has no motion.
    """
    take = read(action)
    data = _unpacked(action)
    joints = data["joints"]
    features = data.get("features")
    if features is None and "contacts" in data:
        features = np.zeros((len(joints), CONTACTS.stop), np.float32)
        features[:, CONTACTS] = data["contacts"]
    tokens = data.get("tokens")
    return Motion(
        joints[None],
        None if features is None else features[None],
        np.array([len(joints)]),
        take.rate,
        take.seed,
        None if tokens is None else tokens[None].astype(np.int32),
        () if take.record is None else (take.record,),
    )


def has_all_features(action: bpy.types.Action) -> bool:
    return "features" in _unpacked(action)


def _packed(motion: Motion, index: int) -> Any:
    """One take of a motion in an array of integers, which Blender's own list of properties does not spell out."""
    n = int(motion.lengths[index])
    data: dict[str, Array] = {"joints": motion.take(index)}
    record = motion.records[index] if motion.records else None
    if motion.tokens is not None:
        tokens = motion.tokens[index]
        data["tokens"] = tokens[tokens[:, 0] >= 0].astype(np.int16)
    if motion.features is not None:
        rows = np.asarray(motion.features[index, :n], np.float32)
        drawn = record is not None and not record.edits and not record.start
        data |= {"contacts": rows[:, CONTACTS]} if drawn or motion.tokens is None else {"features": rows}
    file = io.BytesIO()
    np.savez_compressed(file, **data)
    raw = file.getvalue()
    raw = len(raw).to_bytes(4, "little") + raw
    return array.array("i", raw + bytes(-len(raw) % 4))


def _unpacked(action: bpy.types.Action) -> dict[str, Array]:
    try:
        raw = np.frombuffer(action[MOTION], np.int32).tobytes()
        size = int.from_bytes(raw[:4], "little")
        with np.load(io.BytesIO(raw[4 : 4 + size]), allow_pickle=False) as loaded:
            data = {key: loaded[key] for key in loaded.files}
        if data["joints"].ndim != 3 or data["joints"].shape[1:] != (22, 3):
            raise ValueError("joints of another shape")
    except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as err:
        raise HeroError(f"The take '{action.name}' has lost its motion ({err}); make a new take.") from err
    return data


# --- Their clips ---


def clip_of(source: Source) -> Any | None:
    """The strip that a take reacts to, or the path of its file; None where it is not there any more."""
    if source.kind == "strip":
        scene = bpy.data.scenes.get(source.scene)
        strips = compat.all_strips_of(scene) if scene is not None else ()
        return strips.get(source.name) if strips else None
    if source.kind == "file" and source.path:
        path = bpy.path.abspath(source.path)
        return path if Path(path).is_file() else None
    return None


# --- Of a character ---


def belongs(action: bpy.types.Action, obj: bpy.types.Object) -> bool:
    """Whether an Action is a take of this character; also after one of its names has changed."""
    if not is_take(action):
        return False
    try:
        take = read(action)
    except HeroError:
        return False
    return take.character == obj.name or take.armature == obj.data.name


def of(obj: bpy.types.Object) -> list[bpy.types.Action]:
    """The takes of a character, by name."""
    return [action for action in bpy.data.actions if belongs(action, obj)]


def shown(obj: bpy.types.Object | None) -> bpy.types.Action | None:
    """The take that a character shows: its active Action, or the one that its NLA plays."""
    data = obj.animation_data if obj is not None else None
    if obj is None or data is None:
        return None
    if data.action is not None:
        return data.action if is_take(data.action) else None
    return next((strip.action for strip in _strips(obj) if not strip.mute), None)


def _strips(obj: bpy.types.Object) -> list[bpy.types.NlaStrip]:
    """NLA strips of takes, the top one first."""
    tracks = obj.animation_data.nla_tracks if obj.animation_data else ()
    return [strip for track in tracks for strip in track.strips if strip.type == "CLIP" and is_take(strip.action)][::-1]


def show(obj: bpy.types.Object, action: bpy.types.Action) -> None:
    """Let a character play a take: as its active Action, or by its strip in the NLA where it has one.

    Raises HeroError where the Action is no take or the armature cannot take one.
    """
    from . import armature

    read(action)
    armature.check_writable(obj)
    strips = _strips(obj)
    for strip in strips:
        strip.mute = strip.action != action
    own = next((strip for strip in strips if strip.action == action), None)
    data = obj.animation_data
    if own is not None:
        if data.action is not None and is_take(data.action):
            data.action = None
        return
    former = data.action if data is not None else None
    if former != action:
        _rest(obj, former, action)
        compat.assign_action(obj, None)  # a slot of the one before is none of this one's
        compat.assign_action(obj, action)


def _rest(obj: bpy.types.Object, former: bpy.types.Action | None, coming: bpy.types.Action | None) -> None:
    """Bones that the former Action has moved and that the coming one leaves alone go to rest."""
    if former is None:
        return
    before = {curve.data_path for curve in compat.fcurves_of(former, obj)}
    after = {curve.data_path for curve in curves(coming)} if coming is not None else set()
    for path in before - after:
        try:
            bone = obj.path_resolve(path.rpartition(".")[0])
        except ValueError:
            continue
        if isinstance(bone, bpy.types.PoseBone):
            bone.matrix_basis.identity()


def curves(action: bpy.types.Action) -> list[bpy.types.FCurve]:
    if not hasattr(action, "slots"):
        return list(action.fcurves)
    bags = [bag for layer in action.layers for strip in layer.strips for bag in strip.channelbags]
    return [curve for bag in bags for curve in bag.fcurves]


def delete(actions: list[bpy.types.Action]) -> list[str]:
    """Remove takes from the file, with the NLA strips that play them; returns their names.

    A character that shows one of them gets the next of its takes that stays.
    """
    names = [action.name for action in actions]
    for obj in [each for each in bpy.data.objects if each.type == "ARMATURE" and each.library is None]:
        data = obj.animation_data
        if data is None:
            continue
        showing = shown(obj)
        for track in list(data.nla_tracks):
            gone = [strip for strip in track.strips if strip.type == "CLIP" and strip.action in actions]
            for strip in gone:
                track.strips.remove(strip)
            if gone and not track.strips:
                data.nla_tracks.remove(track)
        if showing in actions:
            others = [action for action in of(obj) if action not in actions]
            if others:
                show(obj, others[-1])
            elif data.action is not None:
                _rest(obj, data.action, None)
                compat.assign_action(obj, None)
    for name in names:
        action = bpy.data.actions.get(name)
        if action is not None and action.library is None:
            bpy.data.actions.remove(action)
    return names


def rename(action: bpy.types.Action, name: str) -> str:
    """Give a take another name; Blender may add a number to it. Raises HeroError for an empty one."""
    if not name.strip():
        raise HeroError("A take needs a name.")
    action.name = name.strip()
    return action.name


def label(action: bpy.types.Action) -> str:
    """A line about a take."""
    take = read(action)
    changed = len(take.record.edits) if take.record else 0
    told = f"{take.source.name or 'a clip'}, seed {take.seed}, {take.frames / take.rate:.1f} s"
    return told + (f", changed {changed}×" if changed else "")
