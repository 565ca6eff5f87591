# SPDX-License-Identifier: GPL-3.0-or-later
"""Which shape keys and control bones of a character show which part of a face: presets, and the map of one character.

A preset is a file of ``rigs/face`` (or of the user's folder) that says how a kind of face is named:

    name    what it is called
    about   a sentence for people
    sides   {"Left": ["Left", "_L"], "Right": ["Right", "_R"]}: what {side} stands for in names, the usual one first
    keys    [{"names": ["eyeBlink{side}"], "from": {"eyeBlink{side}": 1.0}}]: shape keys by their names (case,
            punctuation and a common prefix or suffix do not count) and the amounts of channels that move them; ``as``
            is what a user is told where none of the rows of that name is there
    bones   [{"bone": "jaw_master", "turn": {"jawOpen": [20, 0, 0]}}]: control bones by their exact names, and what
            channels do to them: ``turn`` degrees about, or ``move`` units along, the face's own axes (outward, that is
            to the person's left, mirrored for the right; up; forward), or ``close`` a share of the way to the bone
            ``to``, or ``slide`` along the bone's own axes, or ``look``: move the target of the eye ``to`` so that
            the eye turns by EYE_RANGE at 1
    unit    two bones whose distance is the unit of ``move``; without it the armature's unit
    expressions  {"happy": {"moodHappy": 1.0}}: what VRM's expressions are made of
    needs   names of which one must be there
    weight  the preset is preferred to others that fit as well where this is greater; default 1

A channel is one of ``CHANNELS``: ARKit's shapes, action units (AU12, AU12Left), emotions, or an expression ("vrm.joy").
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from hero_core.errors import HeroError
from hero_core.output import whole_file

from .reaction import ARKIT, AUS, EMOTIONS

SIDES = ("Left", "Right")
MOODS = ("moodHappy", "moodAngry", "moodSad", "moodSurprised", "moodRelaxed")
UNITS = tuple(f"AU{number}{side}" for number in AUS for side in ("", *SIDES))
CHANNELS = (*ARKIT, *UNITS, "valence", "arousal", *EMOTIONS, *MOODS)
_KNOWN = frozenset(CHANNELS)
VRM = "vrm."  # before the name of an expression of the character
WAYS = ("turn", "move", "close", "slide", "look")


@dataclass(frozen=True)
class KeyRow:
    """A shape key, and how much of which channels moves it."""

    names: tuple[str, ...]
    sources: Mapping[str, float]
    told: str = ""


@dataclass(frozen=True)
class BoneRow:
    """A control bone, and what channels do to it.

    way      one of WAYS
    sources  channel -> (3,) amounts, or (1,) for "close"
    to       the bone that "close" goes to, or the eye that "look" is the target of
    """

    bone: str
    way: str
    sources: Mapping[str, tuple[float, ...]]
    to: str = ""


@dataclass(frozen=True)
class FacePreset:
    """One way to name a face; see the module."""

    name: str
    keys: tuple[KeyRow, ...] = ()
    bones: tuple[BoneRow, ...] = ()
    unit: tuple[str, ...] = ()
    expressions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    weight: float = 1.0
    own: bool = False


@dataclass(frozen=True)
class Expression:
    """An expression of a VRM character: its value is made from channels, and it holds others down while it shows.

    overrides  "blink", "look" or "mouth" -> "block" (off while this one shows) or "blend" (the less, the more it shows)
    """

    name: str
    sources: Mapping[str, float]
    binary: bool = False
    overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FaceMap:
    """How one character's face is keyed.

    keys         shape key -> channel -> amount; the same names in several meshes are the same key
    bones        rows of control bones that the character has
    unit         the two bones of the unit, or ()
    expressions  those of a VRM character
    preset       where it is from
    found        names of the preset that the character has, and ``missing`` those it lacks
    """

    keys: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bones: tuple[BoneRow, ...] = ()
    unit: tuple[str, ...] = ()
    expressions: tuple[Expression, ...] = ()
    preset: str = ""
    found: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What a user should know: which names of the preset the character lacks."""
        if not self.missing:
            return []
        total = len(self.found) + len(self.missing)
        return [f"{len(self.found)} of {total} names of {self.preset} were found; missing: {', '.join(self.missing)}"]


# --- files ---------------------------------------------------------------------------------------------------------


def presets_folder() -> Path:
    """``rigs/face`` inside the installed package, or at the top of the checkout."""
    packed = Path(__file__).parents[1] / "rigs" / "face"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "rigs" / "face"


def load_presets(folder: Path | None = None) -> tuple[FacePreset, ...]:
    """All presets of a folder; the shipped ones if none is given. Raises HeroError for a file that is no preset."""
    own, folder = folder is not None, folder or presets_folder()
    try:
        files = sorted(path for path in folder.glob("*.json") if path.is_file())
        state = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    except OSError as err:
        raise HeroError(f"The folder '{folder}' of face presets cannot be read ({err}); choose another one.") from err
    if not files and not own:
        raise HeroError(f"There are no face presets in '{folder}'; install HERO again.")
    return tuple(_read(path, own, time, size) for path, time, size in state)


def read_preset(path: Path) -> FacePreset:
    """A preset, or a map that ``write_map`` wrote, from a file anywhere."""
    if not path.is_file():
        raise HeroError(f"There is no face map '{path}'; export one from the panel.")
    return _read(path, True, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=256)
def _read(path: Path, own: bool, _time: int, _size: int) -> FacePreset:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or not ({"keys", "bones", "expressions"} & set(data)):
            raise ValueError("it has neither keys nor bones nor expressions")
        sides = {side: tuple(map(str, _list(data.get("sides", {}).get(side, [side])))) for side in SIDES}
        keys, bones = [], []
        for row in data.get("keys", ()):
            for side in _sides(row):
                names = [str(name).replace("{side}", text) for name in _list(row["names"]) for text in sides[side]]
                sources = {_sided(name, side): _number(amount) for name, amount in row["from"].items()}
                keys.append(KeyRow(tuple(dict.fromkeys(names)), _checked(sources), str(row.get("as") or names[0])))
        for row in data.get("bones", ()):
            ways = [way for way in WAYS if way in row]
            if len(ways) != 1:
                raise ValueError(f"the bone '{row.get('bone')}' needs one of {', '.join(WAYS)}")
            for side in _sides(row):
                bones.append(_bone_row(row, ways[0], side, sides[side][0]))
        expressions = {str(n): _checked(_numbers(s)) for n, s in data.get("expressions", {}).items()}
        unit = tuple(map(str, _list(data.get("unit", []))))
        if len(unit) not in (0, 2):
            raise ValueError("unit is not two bones")
        return FacePreset(
            str(data["name"]), tuple(keys), tuple(bones), unit, expressions,
            tuple(map(str, _list(data.get("needs", [])))), _number(data.get("weight", 1.0)), own,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as err:
        raise HeroError(f"The face preset '{path.name}' cannot be used ({err}); repair or remove it.") from err


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): _number(value) for name, value in row.items()}


def _sides(row: Mapping[str, Any]) -> tuple[str, ...]:
    return SIDES if "{side}" in json.dumps(row) else SIDES[:1]


def _sided(name: str, side: str) -> str:
    other = SIDES[1 - SIDES.index(side)]
    return str(name).replace("{side}", side).replace("{other}", other)


def _checked(sources: dict[str, float]) -> dict[str, float]:
    for name in sources:
        if name not in _KNOWN and not name.startswith(VRM):
            raise ValueError(f"there is no channel '{name}'")
    return sources


def _bone_row(row: Mapping[str, Any], way: str, side: str, text: str) -> BoneRow:
    """One side of a row: what goes outward goes to the other side on the right."""
    flip = -1.0 if side == "Right" and "{side}" in str(row["bone"]) else 1.0
    sources: dict[str, tuple[float, ...]] = {}
    for name, amounts in row[way].items():
        if way == "close":
            sources[_sided(name, side)] = (_number(amounts),)
            continue
        numbers = [_number(amount) for amount in _list(amounts)]
        if len(numbers) != 3:
            raise ValueError(f"'{name}' of the bone '{row['bone']}' needs 3 numbers")
        x, y, z = numbers
        sources[_sided(name, side)] = (x, flip * y, flip * z) if way == "turn" else (flip * x, y, z)
    _checked(dict.fromkeys(sources, 0.0))
    if way in ("close", "look") and not row.get("to"):
        raise ValueError(f"the bone '{row['bone']}' needs 'to'")
    return BoneRow(
        str(row["bone"]).replace("{side}", text), way, sources, str(row.get("to", "")).replace("{side}", text)
    )


def write_map(path: Path, name: str, found: FaceMap) -> None:
    """Save a character's map as a preset with its exact names, a line for each row; whole or not at all."""
    rows = [
        json.dumps({"names": [key], "from": {n: round(a, 4) for n, a in sources.items()}}, ensure_ascii=False)
        for key, sources in found.keys.items()
    ]
    bones = []
    for row in found.bones:
        amounts: dict[str, Any] = {
            n: round(a[0], 5) if row.way == "close" else [round(x, 5) for x in a] for n, a in row.sources.items()
        }
        extra = {"to": row.to} if row.to else {}
        bones.append(json.dumps({"bone": row.bone, row.way: amounts, **extra}, ensure_ascii=False))
    parts = [f' "name": {json.dumps(name, ensure_ascii=False)}', ' "sides": {}']
    if found.unit:
        parts.append(f' "unit": {json.dumps(list(found.unit))}')
    parts += [f' "{title}": [\n  {joined}\n ]' for title, lines in (("keys", rows), ("bones", bones))
              if (joined := ",\n  ".join(lines))]  # fmt: skip
    if not rows and not bones:
        parts.append(' "keys": []')
    with whole_file(path) as part:
        part.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


# --- matching ------------------------------------------------------------------------------------------------------


def plain(name: str) -> str:
    """A name without punctuation and case."""
    return re.sub(r"[\W_]", "", name).lower()


def match_keys(names: Iterable[str], preset: FacePreset) -> dict[str, Mapping[str, float]]:
    """Shape keys by a preset: key -> channel -> amount.

    Names are compared without case and punctuation. What stands before or after the preset's name in most of the
    keys that hold one ("blendShape1.", "_Head") does not count.
    """
    rows = {plain(name): row for row in reversed(preset.keys) for name in reversed(row.names)}
    given = [(name, plain(name)) for name in names]
    found = {name: rows[text].sources for name, text in given if text in rows}
    affix = _affix([text for name, text in given if name not in found], rows)
    if affix is not None:
        head, tail = affix
        for name, text in given:
            inner = text[len(head) : len(text) - len(tail)] if text.startswith(head) and text.endswith(tail) else ""
            if name not in found and inner in rows:
                found[name] = rows[inner].sources
    return {name: found[name] for name, _ in given if name in found}


def _affix(texts: Sequence[str], rows: Mapping[str, KeyRow]) -> tuple[str, str] | None:
    """What most of the names have around those of a preset; None where fewer than three agree."""
    votes: Counter[tuple[str, str]] = Counter()
    for text in texts:
        # The longest name is meant: "mouthLeft" is no "mouthLeftCorner".
        held = [row for row in rows if len(row) > 3 and row in text]
        longest = max(map(len, held), default=0)
        for row in held:
            if len(row) == longest:
                at = text.index(row)
                votes[text[:at], text[at + len(row) :]] += 1
    if not votes:
        return None
    affix, count = votes.most_common(1)[0]
    return affix if count >= 3 else None


def map_face(
    names: Iterable[str],
    bones: Iterable[str] = (),
    folders: Sequence[Path] = (),
    own: FacePreset | None = None,
    prefer: str = "auto",
) -> FaceMap:
    """The map of a character by the names of its shape keys and bones.

    The preset with the most names wins, by its weight; presets of the user's folders before those that ship. Control
    bones and eye bones are taken for what no shape key shows.

    Args:
        own: a preset that is to be taken whatever others fit.
        prefer: "auto" (shape keys first), "keys" (no bones) or "bones" (no shape keys).
    """
    if prefer not in ("auto", "keys", "bones"):
        raise HeroError(f"'{prefer}' is no way to key a face; use auto, keys or bones.")
    names, have = list(dict.fromkeys(names)), set(bones)
    presets = [own] if own is not None else [*(p for f in folders for p in load_presets(f)), *load_presets()]
    there = {plain(name) for name in (*names, *have)}
    fitting = [p for p in presets if p is not None and (not p.needs or any(plain(n) in there for n in p.needs))]
    keyed = [(preset, match_keys(names, preset)) for preset in fitting if preset.keys and prefer != "bones"]
    best, keys = max(keyed, key=lambda pair: _worth(len(pair[1]), pair[0]), default=(None, {}))
    if own is None and len(keys) < 2:  # a single name may be an accident
        best, keys = None, {}
    moved = {channel for sources in keys.values() for channel in sources}
    boned = [(preset, [row for row in preset.bones if _has(row, have)]) for preset in fitting if prefer != "keys"]
    boned = [(preset, rows) for preset, rows in boned if rows and have.issuperset(preset.unit)]
    chosen, rows = max(boned, key=lambda pair: _worth(len(pair[1]), pair[0]), default=(None, []))
    rows = [row for row in rows if not moved.issuperset(row.sources) and not _shown(row, moved)]
    if chosen is not None and rows:
        others = [row.bone for row in chosen.bones if row.bone not in have]
    else:
        others = []
    missing: list[str] = []
    found: list[str] = []
    if best is not None:
        hit = {id(sources) for sources in keys.values()}
        found = list(dict.fromkeys(row.told for row in best.keys if id(row.sources) in hit))
        missing = [told for told in dict.fromkeys(row.told for row in best.keys) if told not in found]
    elif chosen is not None and rows:
        found, missing = list(dict.fromkeys(row.bone for row in rows)), list(dict.fromkeys(others))
    titles = [p.name for p in (best, chosen if rows else None) if p is not None]
    return FaceMap(
        {name: dict(sources) for name, sources in keys.items()}, tuple(rows), chosen.unit if chosen and rows else (),
        (), " and ".join(dict.fromkeys(titles)), tuple(found), tuple(missing),
    )  # fmt: skip


def _worth(count: int, preset: FacePreset) -> tuple[float, bool]:
    return count * preset.weight, preset.own


def _has(row: BoneRow, have: set[str]) -> bool:
    return row.bone in have and (not row.to or row.to in have)


def _shown(row: BoneRow, moved: set[str]) -> bool:
    """Whether shape keys show already what most of the row's channels do: two of them would do it twice."""
    return bool(row.sources) and sum(name in moved for name in row.sources) * 2 > len(row.sources)


# --- VRM -----------------------------------------------------------------------------------------------------------

# Kinds of expressions that others may hold down.
VRM_KINDS = {
    "blink": ("blink", "blinkleft", "blinkright", "blinkl", "blinkr"),
    "look": ("lookup", "lookdown", "lookleft", "lookright"),
    "mouth": ("aa", "ih", "ou", "ee", "oh", "a", "i", "u", "e", "o"),
}


def vrm_kind(name: str) -> str:
    """What others may hold down: "blink", "look", "mouth", or "" for other expressions."""
    return next((kind for kind, names in VRM_KINDS.items() if plain(name) in names), "")


def vrm_sources(names: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """Expression -> channels that make it, for the expressions that a VRM character has.

    A character whose expressions have the names of ARKit's shapes ("Perfect Sync") gets those and no others. One that
    has a blink for each eye does not also blink with both.
    """
    shapes = {plain(name): name for name in ARKIT}
    direct: dict[str, Mapping[str, float]] = {
        name: {shapes[plain(name)]: 1.0} for name in names if plain(name) in shapes
    }
    if len(direct) >= len(ARKIT) // 2:
        return direct
    known = {plain(n): s for preset in load_presets() for n, s in preset.expressions.items()}
    found = {name: known[plain(name)] for name in names if plain(name) in known}
    texts = {plain(name) for name in found}
    if {"blinkleft", "blinkright"} <= texts or {"blinkl", "blinkr"} <= texts:
        found = {name: sources for name, sources in found.items() if plain(name) != "blink"}
    return found
