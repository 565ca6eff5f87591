# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be known to make a take again, bit for bit: a small record that travels with it. No torch here.

A take is a chain: a first draw, then edits in the order in which they were made. ``Hero.react``, ``regenerate``,
``extend`` and ``more_like_this`` write the records, ``Hero.make`` plays them.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import HeroError

Sampling = Literal["categorical", "argmax"]
Keep = Literal["place", "path"]
VERSION = 1


@dataclass(frozen=True)
class Draw:
    """How tokens are drawn: passes of the masked transformer, the two scales of guidance, and the choice.

    temperature  below 1 the likely tokens are preferred even more, above 1 less
    topk         share of the tokens, the least likely ones, that are never drawn
    """

    steps: int = 10
    guidance: float = 4.0
    residual_guidance: float = 5.0
    sampling: Sampling = "categorical"
    temperature: float = 1.0
    topk: float = 0.9

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise HeroError(f"At least 1 step is needed, not {self.steps}.")
        if self.sampling not in ("categorical", "argmax"):
            raise HeroError(f"Sampling is 'categorical' or 'argmax', not '{self.sampling}'.")
        if not 0.05 <= self.temperature <= 10.0:
            raise HeroError(f"A temperature lies between 0.05 and 10, not at {self.temperature}; 1 is the usual one.")
        if not 0.0 <= self.topk < 1.0:
            raise HeroError(f"From 0 to nearly 1 of the tokens can be left out, not {self.topk}; 0.9 is usual.")


@dataclass(frozen=True)
class Edit:
    """Frames [first, last) drawn again; ``last`` past the end makes the take longer. See ``edit.splice``."""

    first: int
    last: int
    seed: int
    keep: Keep = "place"
    blend: int = 6
    draw: Draw = field(default_factory=Draw)

    def __post_init__(self) -> None:
        if self.keep not in ("place", "path"):
            raise HeroError(f"What follows keeps its 'place' or its 'path', not '{self.keep}'.")
        if self.blend < 0:
            raise HeroError(f"A blend lasts 0 frames or more, not {self.blend}.")


@dataclass(frozen=True)
class TakeRecord:
    """One take.

    model, clip    fingerprints of the weights and of what the encoder saw
    device, dtype  what computed it; others may round a draw the other way
    frames, seed   of the first draw
    start          the motion that it follows, as :func:`pack_joints` writes it; "" = none
    edits          what was changed since, in order
    tokens         fingerprint of the tokens that came out, to tell whether they came out again
    """

    model: str
    clip: str
    device: str
    dtype: str
    frames: int
    seed: int
    draw: Draw = field(default_factory=Draw)
    start: str = ""
    edits: tuple[Edit, ...] = ()
    tokens: str = ""

    def edited(self, edit: Edit, tokens: str) -> TakeRecord:
        return dataclasses.replace(self, edits=(*self.edits, edit), tokens=tokens)

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> TakeRecord:
        """Raises HeroError where the text is no record, or one of a newer version."""
        try:
            data = json.loads(text)
        except (TypeError, ValueError) as err:
            raise HeroError("This is no record of a take; take the text that was stored with it, whole.") from err
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise HeroError("This record of a take is none that this version knows; update HERO.")
        del data["version"]
        try:
            edits = tuple(_build(Edit, {**e, "draw": _build(Draw, e["draw"])}) for e in data["edits"])
            return _build(cls, {**data, "draw": _build(Draw, data["draw"]), "edits": edits})
        except (KeyError, TypeError, AttributeError) as err:
            raise HeroError(f"The record of the take is incomplete or damaged ({err}); make a new take.") from err


# Types of the entries by their annotations, which are strings here.
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "Draw": (Draw,),
    "tuple[Edit, ...]": (tuple,),
}


def _build(cls: Any, values: Any) -> Any:
    for item in dataclasses.fields(cls):
        if item.name in _LATER and item.name not in values:
            continue
        value = values[item.name]
        if not isinstance(value, _TYPES.get(str(item.type), (str,))) or isinstance(value, bool):
            raise TypeError(f"{item.name} is {value!r}")
    return cls(**values)


_LATER = {"temperature", "topk"}  # records that were written before these have their usual values


def fingerprint(*parts: bytes | str) -> str:
    """32 hexadecimal digits that tell contents apart."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def pack_joints(joints: npt.NDArray[Any]) -> str:
    """(m, 22, 3) -> text of 352 letters for each frame that gives the same float32 numbers again."""
    return base64.b64encode(np.ascontiguousarray(joints, "<f4").tobytes()).decode()


def unpack_joints(text: str) -> npt.NDArray[np.float32]:
    """The joints of :func:`pack_joints`. Raises HeroError where the text is damaged."""
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(-1, 22, 3).astype(np.float32)
    except (binascii.Error, ValueError) as err:
        raise HeroError("The start pose in the record of the take is damaged; make a new take.") from err
