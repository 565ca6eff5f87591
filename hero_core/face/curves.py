# SPDX-License-Identifier: GPL-3.0-or-later
"""Face curves from files: Live Link Face CSV, ARKit JSON, MediaPipe blend-shape CSV, OpenFace CSV; numpy only.

Columns are found by name, in any order and spelling (EyeBlinkLeft, eyeBlinkLeft, eyeBlink_L); rows by their time. What
is not in a file stays at rest and is said, and so are gaps, which are bridged by straight lines.
"""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hero_core.errors import HeroError

from .reaction import (
    ACTION_UNITS,
    ARKIT,
    AUS,
    COEFFICIENTS,
    EXPRESSION,
    FPS,
    INDEX,
    ROTATION,
    Array,
    attributes_of,
    expression_of,
    resampled,
    sides,
)

GAP = 0.2  # seconds without a row that are said
LONGEST = 24 * 3600.0


@dataclass
class FaceTrack:
    """One face over time at 25 frames per second, on the file's own clock from its first row.

    coefficients  (T, 58) as in ``reaction``; the head's rotation in radians, not yet relative to anything
    attributes    (T, 25); estimated from the shapes where the file has no action units
    known         names of the coefficients that the file has
    notes         what was missing, and where there were gaps
    """

    coefficients: Array
    attributes: Array
    known: frozenset[str]
    kind: str
    notes: tuple[str, ...] = ()
    fps: float = FPS

    @property
    def frames(self) -> int:
        return len(self.coefficients)

    def fitted(self, frames: int) -> FaceTrack:
        """The same cut to, or held up to, a number of frames."""

        def fit(x: Array) -> Array:
            return np.concatenate((x, np.repeat(x[-1:], max(0, frames - len(x)), 0)))[:frames]

        return FaceTrack(fit(self.coefficients), fit(self.attributes), self.known, self.kind, self.notes, self.fps)


KINDS = ("livelink", "arkit_json", "mediapipe", "openface")


def read(path: str | os.PathLike[str], kind: str = "auto", fps: float | None = None) -> FaceTrack:
    """Read a file of face curves.

    Args:
        kind: "auto" (from the columns), or one of KINDS.
        fps: rows per second of a file that has no times, and frames per second of a Live Link time code;
            None = 30, and what the time code tells.

    Raises:
        HeroError: the file is missing, no such file, has no row with numbers or no known column.
    """
    source = Path(path)
    if kind not in ("auto", *KINDS):
        raise HeroError(f"The kind of face curves '{kind}' is not known; use auto, {', '.join(KINDS)}.")
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise HeroError(f"A rate of {fps} frames per second cannot be; give one above 0.")
    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise HeroError(f"The face curves '{source}' cannot be read: {err.strerror or err}.") from err
    except UnicodeDecodeError as err:
        raise HeroError(f"'{source}' is no text file; give a CSV or JSON of face curves.") from err
    if kind == "arkit_json" or (kind == "auto" and text.lstrip()[:1] in ("{", "[")):
        return _json(text, source, fps)
    header, rows = _table(text, source)
    found = kind if kind != "auto" else _kind(header)
    if found == "openface":
        return _openface(header, rows, source, fps)
    return _shapes(header, rows, source, fps, found)


def _kind(header: list[str]) -> str:
    names = {_plain(h) for h in header}
    if any(re.fullmatch(r"au\d+[rc]", n) for n in names):
        return "openface"
    return "livelink" if "timecode" in names else "mediapipe"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BY_NAME = {_plain(name): i for i, name in enumerate(ARKIT)} | {
    # Live Link's names of the head.
    "headpitch": INDEX["headPitch"], "headyaw": INDEX["headYaw"], "headroll": INDEX["headRoll"],
}  # fmt: skip


def coefficient(name: str) -> int | None:
    """Index of the coefficient that a column is named after, in any spelling; None = of none."""
    plain = _plain(name)
    if plain in _BY_NAME:
        return _BY_NAME[plain]
    side = re.fullmatch(r"(.+?)[_. -]?([LR])", name.strip()) or re.fullmatch(r"(.+)[_. -]([lr])", name.strip())
    if side:
        return _BY_NAME.get(_plain(side[1]) + {"l": "left", "r": "right"}[side[2].lower()])
    return None


def _table(text: str, source: Path) -> tuple[list[str], list[list[str]]]:
    lines = [line for line in csv.reader(text.splitlines()) if any(cell.strip() for cell in line)]
    if len(lines) < 2:
        raise HeroError(f"'{source}' has no rows below a header; give a CSV of face curves.")
    return [h.strip() for h in lines[0]], lines[1:]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan


def _numbers(rows: list[list[str]], columns: list[int]) -> Array:
    """(rows, columns) float64, NaN where a cell is empty, no number, or cut off."""
    return np.array([[_number(row[c]) if c < len(row) else np.nan for c in columns] for row in rows], np.float64)


def time_code(text: str, rate: float) -> float:
    """Seconds of HH:MM:SS:FF.fff; NaN where it is none."""
    match = re.fullmatch(r"\s*(\d+):(\d+):(\d+)[:;](\d+(?:\.\d+)?)\s*", text)
    if not match:
        return np.nan
    h, m, s, frame = (float(part) for part in match.groups())
    return h * 3600 + m * 60 + s + frame / rate


def _code_rate(codes: list[str]) -> float:
    """Frames per second of time codes: the lowest usual rate that has room for their largest frame number."""
    frames = [float(m[1]) for code in codes if (m := re.search(r"[:;](\d+(?:\.\d+)?)\s*$", code))]
    # Less than a second of them need not show the largest.
    seconds = {code.rpartition(":")[0] for code in codes}
    largest = max(frames, default=0) if len(seconds) > 2 else 59
    return next((rate for rate in (24.0, 25.0, 30.0, 60.0) if largest < rate), 120.0)


def _times(header: list[str], rows: list[list[str]], fps: float | None) -> Array:
    """(rows,) seconds by a time code, a column of times or of frame numbers, or the rate alone."""
    names = [_plain(h) for h in header]
    if "timecode" in names:
        column = names.index("timecode")
        codes = [row[column] if column < len(row) else "" for row in rows]
        rate = fps or _code_rate(codes)
        times = np.array([time_code(code, rate) for code in codes])
        back = np.nan_to_num(np.diff(times, prepend=times[:1]))
        return times + 86400.0 * np.cumsum(back < -43200)  # past midnight
    for name, scale in (
        ("timestampms", 1e-3), ("timems", 1e-3), ("timestampus", 1e-6), ("timestamp", 1.0), ("time", 1.0),
        ("timesec", 1.0), ("seconds", 1.0),
    ):  # fmt: skip
        if name in names:
            times = _numbers(rows, [names.index(name)])[:, 0] * scale
            # Whole numbers that rise by more than one a row are milliseconds, whatever the column is called.
            step = np.nanmedian(np.diff(times)) if len(times) > 1 else 0.0
            return times * 1e-3 if scale == 1.0 and step > 2 else times
    for name in ("frame", "framenumber", "frameindex"):
        if name in names:
            return _numbers(rows, [names.index(name)])[:, 0] / (fps or 30.0)
    return np.arange(len(rows)) / (fps or 30.0)


def _steady(times: Array, values: Array, source: Path) -> tuple[Array, list[str]]:
    """Values (rows, C) at 25 frames per second from the first good row on, and what is to be said of them.

    Rows that do not advance, or without any number, are left out; single numbers that lack are bridged.
    """
    notes: list[str] = []
    good = np.isfinite(times) & np.isfinite(values).any(1)
    latest = np.maximum.accumulate(np.where(good, times, -np.inf))
    good[1:] &= times[1:] > latest[:-1]
    if not good.any():
        raise HeroError(f"'{source}' has no row with a time and numbers; export it again.")
    dropped = int((~good).sum())
    if dropped:
        notes.append(f"{dropped} of {len(times)} rows were left out: no numbers, or out of order")
    times, values = times[good] - times[good][0], values[good]
    if times[-1] > LONGEST:
        raise HeroError(f"'{source}' spans {times[-1] / 3600:.0f} hours; check its times or its rate.")
    for c in range(values.shape[1]):
        known = np.isfinite(values[:, c])
        if not known.all():
            values[:, c] = np.interp(times, times[known], values[known, c]) if known.any() else 0.0
    gaps = np.diff(times)
    usual = float(np.median(gaps)) if len(gaps) else 1 / FPS
    wide = gaps > max(GAP, 3 * usual)
    if wide.any():
        first = float(times[:-1][wide][0])
        notes.append(f"{int(wide.sum())} gaps were bridged, the first of {gaps[wide][0]:.2f} s at {first:.2f} s")
    if usual < 0.75 / FPS:  # faster than 25: means over a frame, lest every other row be ignored
        edges = np.floor(times * FPS + 0.5).astype(np.int64)
        start = np.unique(edges, return_index=True)[1]
        counts = np.diff(np.append(start, len(values)))
        values, times = np.add.reduceat(values, start) / counts[:, None], np.add.reduceat(times, start) / counts
    return resampled(values, times), notes


def _track(coefficients: Array, known: list[str], kind: str, notes: list[str], units: Array | None = None) -> FaceTrack:
    coefficients = coefficients.astype(np.float32)
    coefficients[:, EXPRESSION] = coefficients[:, EXPRESSION].clip(0, 1)
    attributes = attributes_of(coefficients[:, EXPRESSION])
    if units is not None:
        attributes[:, ACTION_UNITS] = units
    missing = [name for name in ARKIT if name not in known]
    if missing and kind != "openface":
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        notes.append(f"not in the file and at rest: {', '.join(missing[:6])}{more}")
    return FaceTrack(coefficients, attributes, frozenset(known), kind, tuple(notes))


def _shapes(header: list[str], rows: list[list[str]], source: Path, fps: float | None, kind: str) -> FaceTrack:
    """Live Link Face and MediaPipe: a column for each shape."""
    places = [(column, index) for column, name in enumerate(header) if (index := coefficient(name)) is not None]
    if not any(index < 52 for _, index in places):
        raise HeroError(
            f"'{source}' has no column named as an ARKit shape (EyeBlinkLeft ...); give a CSV of face curves."
        )
    twice = sorted({COEFFICIENTS[i] for _, i in places if sum(j == i for _, j in places) > 1})
    if twice:
        raise HeroError(f"'{source}' has two columns for {', '.join(twice)}; leave one of each.")
    values, notes = _steady(_times(header, rows, fps), _numbers(rows, [c for c, _ in places]), source)
    coefficients = np.zeros((len(values), 58), np.float32)
    coefficients[:, [i for _, i in places]] = values
    return _track(coefficients, [COEFFICIENTS[i] for _, i in places], kind, notes)


def _json(text: str, source: Path, fps: float | None) -> FaceTrack:
    """Frames with named shapes, or names and a matrix of weights (as Audio2Face writes them).

    {"frames": [{"time": 0.0, "blendShapes": {"jawOpen": 0.1, ...}}, ...]}, a list of such frames or of plain
    {"jawOpen": ...}; {"facsNames": [...], "weightMat": [[...], ...], "exportFps": 30}.
    """
    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as err:
        raise HeroError(f"'{source}' is not valid JSON ({err}); export it again.") from err
    rate = fps
    if isinstance(data, dict):

        def entry(*keys: str, of: Any = list) -> Any:
            return next((data[key] for key in keys if isinstance(data.get(key), of)), None)

        rate = fps or entry("exportFps", "fps", "frameRate", of=int | float) or None
        names, matrix = entry("facsNames", "names", "blendShapeNames"), entry("weightMat", "weights", "frames")
        if names is not None and matrix and all(isinstance(row, list) for row in matrix):
            cells = [[str(value) for value in row] for row in matrix]
            return _shapes([str(name) for name in names], cells, source, rate, "arkit_json")
        data = entry("frames", "data", "keyframes")
    if not isinstance(data, list) or not data or not all(isinstance(frame, dict) for frame in data):
        raise HeroError(f"'{source}' holds no list of frames with named ARKit shapes; export it again.")
    flat = []
    for frame in data:
        inner = next((frame[k] for k in ("blendShapes", "blendshapes", "shapes") if k in frame), None)
        if isinstance(inner, list):  # [{"categoryName": "jawOpen", "score": 0.1}], as MediaPipe's results are
            pairs = [(e.get("categoryName", e.get("name")), e.get("score", e.get("value"))) for e in inner]
            inner = {str(name): value for name, value in pairs}
        rest = {k: v for k, v in frame.items() if isinstance(v, int | float | str)}
        flat.append({**rest, **(inner if isinstance(inner, dict) else {})})
    header = list(dict.fromkeys(key for frame in flat for key in frame))
    return _shapes(header, [[str(frame.get(key, "")) for key in header] for frame in flat], source, rate, "arkit_json")


OPENFACE_SCALE = 5.0  # of its intensities


def _openface(header: list[str], rows: list[list[str]], source: Path, fps: float | None) -> FaceTrack:
    """Action units (intensities 0 .. 5, else presence), gaze and head pose.

    Its camera looks along +z with y down; our axes follow from that (pitch the same, yaw and roll the other way
    round). AU5, AU20 and AU45 are eyeWide, mouthStretch and the blink.
    """
    names = {_plain(h): i for i, h in enumerate(header)}
    picked = {
        number: (names[f"au{number:02d}{how}"], scale)
        for number in (*AUS, 5, 20, 45)
        for how, scale in (("c", 1.0), ("r", OPENFACE_SCALE))  # intensities win
        if f"au{number:02d}{how}" in names
    }
    if not picked:
        raise HeroError(f"'{source}' has no column AU01_r or AU01_c; give a CSV of OpenFace with action units.")
    others = [n for n in ("gazeanglex", "gazeangley", "poserx", "posery", "poserz") if n in names]
    values = _numbers(rows, [column for column, _ in picked.values()] + [names[n] for n in others])
    values[:, : len(picked)] /= [scale for _, scale in picked.values()]
    for name, least in (("success", 0.5), ("confidence", 0.5)):
        if name in names:
            values[_numbers(rows, [names[name]])[:, 0] < least] = np.nan
    values, notes = _steady(_times(header, rows, fps), values, source)
    columns = dict(zip([*picked, *others], values.T, strict=True))
    units = np.zeros((len(values), len(AUS)), np.float32)
    for place, number in enumerate(AUS):
        if number in picked:
            units[:, place] = columns[number].clip(0, 1)
    coefficients = np.zeros((len(values), 58), np.float32)
    attributes = np.zeros((len(values), 25), np.float32)
    attributes[:, ACTION_UNITS] = units
    coefficients[:, EXPRESSION] = expression_of(attributes)
    for number, shape in ((5, "eyeWide"), (20, "mouthStretch"), (45, "eyeBlink")):
        if number in picked:
            blink = 2.0 if number == 45 and picked[45][1] > 1 else 1.0  # a full blink seldom passes 2.5 of 5
            coefficients[:, sides(shape)] = (blink * columns[number]).clip(0, 1)[:, None]
    look(coefficients, columns.get("gazeanglex", 0.0), -np.asarray(columns.get("gazeangley", 0.0)))
    for name, place, sign in (("poserx", 0, 1), ("posery", 1, -1), ("poserz", 2, -1)):
        if name in columns:
            coefficients[:, ROTATION.start + place] = sign * columns[name]
    missing = [f"AU{n}" for n in AUS if n not in picked]
    if missing:
        notes.append(f"not in the file and at rest: {', '.join(missing)}")
    known = [COEFFICIENTS[i] for i in np.flatnonzero(np.abs(coefficients).max(0) > 0)]
    return _track(coefficients, known, "openface", notes, units)


EYE_RANGE = np.radians(30.0)  # angle at which an eyeLook shape is at 1


def look(coefficients: Array, left: Any, up: Any) -> None:
    """Set the gaze shapes of (T, 58) in place from angles in radians to the person's left and up."""
    x, y = np.asarray(left) / EYE_RANGE, np.asarray(up) / EYE_RANGE
    for name, value in (
        ("eyeLookOutLeft", x), ("eyeLookInRight", x), ("eyeLookInLeft", -x), ("eyeLookOutRight", -x),
        ("eyeLookUpLeft", y), ("eyeLookUpRight", y), ("eyeLookDownLeft", -y), ("eyeLookDownRight", -y),
    ):  # fmt: skip
        coefficients[:, INDEX[name]] = np.clip(value, 0, 1)
