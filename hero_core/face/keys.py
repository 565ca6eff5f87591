# SPDX-License-Identifier: GPL-3.0-or-later
"""From a face to curves on a rig: channels, amplitudes, the scene's frames, few keys; numpy only.

Curves are cubics between keys on whole frames, with one slope at each key, which is what Blender makes of a Bezier
segment whose handles reach over a third of it. Slopes are those of the motion (Fritsch and Carlson 1980), level at
peaks, so that a curve does not overshoot and its handles stay aligned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from hero_core.errors import HeroError

from .reaction import ARKIT, AUS, BLINKS, EMOTIONS, EXPRESSION, GAZE, INDEX, ROTATION, Array, FaceReaction, mirrored
from .reaction import action_units_of as units_of
from .rig import CHANNELS, MOODS, VRM, Expression, plain, vrm_kind

REGIONS = ("brows", "eyes", "blinks", "gaze", "cheeks", "mouth", "jaw")


@dataclass(frozen=True)
class Options:
    """How a face is put on a rig.

    brows .. head  how strong each part is, 1 = as it was generated; the head's is of its turns
    mirror         left and right swapped
    smooth         0 .. 1: how much jitter is taken out; blinks and the jumps of the eyes are spared
    reduce         few keys with handles, otherwise one for each frame
    tolerance      how far a shape key may be off where keys are left out
    degrees        the same of a bone's turn
    neck           0 .. 1: how much of the head's turn the neck takes
    prefer         "auto", "keys" or "bones": what is keyed where a character has shape keys and face bones
    """

    brows: float = 1.0
    eyes: float = 1.0
    blinks: float = 1.0
    gaze: float = 1.0
    cheeks: float = 1.0
    mouth: float = 1.0
    jaw: float = 1.0
    head: float = 1.0
    mirror: bool = False
    smooth: float = 0.0
    reduce: bool = True
    tolerance: float = 0.01
    degrees: float = 0.2
    neck: float = 0.4
    prefer: str = "auto"

    def __post_init__(self) -> None:
        limits = {"smooth": (0.0, 1.0), "neck": (0.0, 1.0), "tolerance": (1e-4, 0.5), "degrees": (1e-3, 45.0)}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, (bool, str)):
                continue
            low, high = limits.get(each.name, (0.0, 5.0))
            if not (math.isfinite(value) and low <= value <= high):
                raise HeroError(f"The face's {each.name} is {value}; give {low:g} to {high:g}.")
        if self.prefer not in ("auto", "keys", "bones"):
            raise HeroError(f"'{self.prefer}' is no way to key a face; use auto, keys or bones.")


def region(name: str) -> str:
    """The region of an ARKit shape."""
    for start, found in (
        ("brow", "brows"), ("eyeBlink", "blinks"), ("eyeLook", "gaze"), ("eye", "eyes"), ("jaw", "jaw"),
        ("cheek", "cheeks"), ("nose", "cheeks"),
    ):  # fmt: skip
        if name.startswith(start):
            return found
    return "mouth"


# --- frames --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Play:
    """A take on the frames of a scene.

    frames     (M,) whole frames
    channels   (M, len(names)) what moves shape keys and face bones
    names      of the channels
    head       (M, 3) rotation about x, y, z in radians, as in ``reaction``
    """

    frames: Array
    channels: Array
    names: tuple[str, ...]
    head: Array

    def column(self, name: str) -> Array:
        found: Array = self.channels[:, self.names.index(name)]
        return found

    def mixed(self, sources: Mapping[str, float]) -> Array:
        """(M,) the sum of channels by their amounts; channels that there are not count nothing."""
        out = np.zeros(len(self.frames))
        for name, amount in sources.items():
            if name in self.names:
                out += amount * self.column(name)
        return out


def play(
    face: FaceReaction,
    take: int = 0,
    first_frame: float = 1,
    fps: float = 25.0,
    options: Options | None = None,
    expressions: Sequence[Expression] = (),
) -> Play:
    """A take as it is to be seen in a scene of ``fps`` frames per second, from ``first_frame`` on.

    Raises HeroError where there is no such take.
    """
    options = options or Options()
    if not 0 <= take < face.takes:
        raise HeroError(f"There is no take {take + 1}; the face has {face.takes}.")
    x = face.coefficients[take].astype(np.float64)
    attributes = face.attributes[take].astype(np.float64)
    if options.mirror:
        x = np.asarray(mirrored(x))
    x = smoothed(x, options.smooth * face.fps / 25.0)
    attributes = _blurred(attributes, 2 * options.smooth * face.fps / 25.0)
    for i, name in enumerate(ARKIT):
        x[:, i] *= getattr(options, region(name))
    shapes = x[:, EXPRESSION].clip(0, 1)
    frames, at = _places(len(x), face.fps, first_frame, fps)
    shapes = _at(shapes, at, peaks=BLINKS, width=face.fps / fps)
    rotation = _at(x[:, ROTATION], at) * options.head
    names, channels = _channels(shapes, _at(attributes, at))
    if expressions:
        spoken = expressed(Play(frames, channels, names, rotation), expressions)
        names = (*names, *(VRM + each.name for each in expressions))
        channels = np.concatenate((channels, spoken), 1)
    return Play(frames, channels, names, rotation)


def _channels(shapes: Array, attributes: Array) -> tuple[tuple[str, ...], Array]:
    """All of CHANNELS, (M, C)."""
    one = [shapes.copy(), shapes.copy()]
    for i, name in enumerate(ARKIT):  # a face of which both sides do what one side does
        if name.endswith("Left"):
            one[1][:, i] = shapes[:, INDEX[name[:-4] + "Right"]]
        elif name.endswith("Right"):
            one[0][:, i] = shapes[:, INDEX[name[:-5] + "Left"]]
    both, left, right = (units_of(each) for each in (shapes, *one))
    units = np.stack((both, left, right), -1).reshape(len(shapes), 3 * len(AUS))
    rest = attributes[:, 15:]
    return CHANNELS, np.concatenate((shapes, units, rest, moods(attributes)), 1)


def moods(attributes: Array) -> Array:
    """(N, 5) amounts of VRM's emotions, which together are 1 at most, from attributes (N, 25)."""
    valence = attributes[:, 15]
    p = dict(zip(EMOTIONS, attributes[:, 17:].T, strict=True))
    found = np.stack(
        [
            p["Happy"],
            p["Anger"] + 0.5 * p["Disgust"] + 0.3 * p["Contempt"],
            p["Sad"] + 0.3 * p["Fear"],
            p["Surprise"] + 0.5 * p["Fear"],
            0.6 * p["Neutral"] * valence.clip(0),
        ],
        -1,
    ).clip(0, 1)
    scaled: Array = found / np.maximum(1, found.sum(1, keepdims=True))
    return scaled


assert len(MOODS) == 5


def expressed(shown: Play, expressions: Sequence[Expression]) -> Array:
    """(M, E) values of a VRM character's expressions: those that are on or off, and those that hold others down."""
    values = np.stack([shown.mixed(each.sources).clip(0, 1) for each in expressions], 1)
    for i, each in enumerate(expressions):
        if each.binary:
            values[:, i] = values[:, i] > 0.5
    held = {kind: np.ones(len(values)) for kind in ("blink", "look", "mouth")}
    for i, each in enumerate(expressions):
        for kind, how in each.overrides.items():
            if kind in held and how in ("block", "blend"):
                held[kind] *= (values[:, i] <= 0) if how == "block" else 1 - values[:, i]
    for i, each in enumerate(expressions):
        kind = vrm_kind(each.name)
        # An expression that says of itself that it holds its kind down is not held.
        if kind and plain(each.name) and kind not in each.overrides:
            values[:, i] *= held[kind]
    return np.asarray(values)


def smoothed(x: Array, amount: float) -> Array:
    """Coefficients (N, 58) with less jitter; lids and eyes, whose speed is their meaning, as they were."""
    if amount <= 0:
        return x
    out = _blurred(x, 2 * amount)
    out[:, list(BLINKS)] = x[:, list(BLINKS)]
    out[:, GAZE] = x[:, GAZE]
    return out


def _blurred(x: Array, sigma: float) -> Array:
    """Rows (N, C) under a bell of ``sigma`` frames, which delays nothing."""
    if sigma <= 0.05 or len(x) < 2:
        return x
    reach = max(1, math.ceil(3 * sigma))
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    bell /= bell.sum()
    padded = np.concatenate((np.repeat(x[:1], reach, 0), x, np.repeat(x[-1:], reach, 0)))
    return np.stack([np.convolve(column, bell, "valid") for column in padded.T], 1)


def _places(count: int, source: float, first: float, fps: float) -> tuple[Array, Array]:
    """(M,) whole frames of the scene, and where in the rows each of them lies."""
    start, last = math.floor(first + 1e-4), math.ceil(first + (count - 1) * fps / source - 1e-4)
    frames = np.arange(start, max(start, last) + 1, dtype=np.float64)
    return frames, ((frames - first) * source / fps).clip(0, count - 1)


def _at(x: Array, at: Array, peaks: Sequence[int] = (), width: float = 1.0) -> Array:
    """Rows (N, C) at places (M,), by straight lines; columns ``peaks`` keep the height of a peak between places."""
    low = np.floor(at).astype(np.int64).clip(0, len(x) - 1)
    high = np.minimum(low + 1, len(x) - 1)
    part = (at - low)[:, None]
    out: Array = x[low] * (1 - part) + x[high] * part
    for column in peaks:
        curve = x[:, column]
        top = np.flatnonzero((curve[1:-1] >= curve[:-2]) & (curve[1:-1] > curve[2:])) + 1
        for row in top:  # the nearest place takes the peak, where it is within half a frame of the scene
            nearest = int(np.abs(at - row).argmin())
            if abs(at[nearest] - row) <= width / 2 + 1e-6:
                out[nearest, column] = max(out[nearest, column], curve[row])
    return out


# --- keys ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """Keys of a curve of C columns: rows (K,) of the frames that are keyed, values (K, C), slopes (K, C) per frame."""

    rows: Array
    values: Array
    slopes: Array


def every_frame(tracks: Array) -> list[Keys]:
    """A key for each row of tracks (T, N, C)."""
    rows = np.arange(tracks.shape[1])
    return [Keys(rows, track, slope) for track, slope in zip(tracks, _slopes(tracks), strict=True)]


def few_keys(tracks: Array, tolerance: float | Array) -> list[Keys]:
    """Keys such that tracks (T, N, C) are met within a tolerance, (T,) or one for all; a track's columns share keys.

    A track that stays within half of its tolerance gets one key.
    """
    tracks = np.asarray(tracks, np.float64)
    count, length, _ = tracks.shape
    limits = np.broadcast_to(np.asarray(tolerance, np.float64), (count,))
    middle = (tracks.max(1) + tracks.min(1)) / 2
    still = (np.abs(tracks - middle[:, None]).max((1, 2)) <= 0.5 * limits) | (length < 2)
    out: list[Keys | None] = [None] * count
    for i in np.flatnonzero(still):
        out[i] = Keys(np.zeros(1, np.int64), tracks[i, :1], np.zeros_like(tracks[i, :1]))
    moving = np.flatnonzero(~still)
    if len(moving):
        x, limit = tracks[moving], limits[moving]
        slopes = _slopes(x)
        mask = _reduced(x, slopes, limit)
        for row, i in enumerate(moving):
            rows = np.flatnonzero(mask[row])
            out[i] = Keys(rows, x[row, rows], slopes[row, rows])
    return [keys for keys in out if keys is not None]


def _slopes(x: Array) -> Array:
    """(T, N, C) slopes per frame: the harmonic mean of those before and after, 0 where they disagree."""
    steps = np.diff(x, axis=1)
    out = np.zeros_like(x)
    if x.shape[1] > 1:
        before, after = steps[:, :-1], steps[:, 1:]
        same = before * after > 0
        total = np.where(same, before + after, 1.0)
        out[:, 1:-1] = np.where(same, 2 * before * after / total, 0.0)
        out[:, 0], out[:, -1] = steps[:, 0], steps[:, -1]
    return out


def _errors(x: Array, slopes: Array, mask: Array) -> tuple[Array, Array]:
    """(T, N) how far the cubics through the keys are off, and for each row the number of its segment, of all tracks."""
    count, length, columns = x.shape
    flat = x.reshape(-1, columns)
    tangent = slopes.reshape(-1, columns)
    keys = np.flatnonzero(mask)  # ends of tracks are keys, so that no segment lies between two tracks
    segment = np.cumsum(mask.ravel()) - 1
    segment = np.minimum(segment, len(keys) - 2)
    left = keys[segment]
    right = keys[segment + 1]
    place = np.arange(count * length)
    reach = (right - left).astype(np.float64)
    u = ((place - left) / reach)[:, None]
    v, r = 1 - u, reach[:, None]
    cubic = (1 + 2 * u) * v * v * flat[left] + u * u * (3 - 2 * u) * flat[right]
    cubic += r * u * v * (v * tangent[left] - u * tangent[right])
    off = np.abs(cubic - flat).max(1)
    off[keys] = 0.0
    return off, segment


def _reduced(x: Array, slopes: Array, limits: Array) -> Array:
    """(T, N) where keys stand."""
    count, length, _ = x.shape
    limit = np.repeat(limits, length)
    mask = np.zeros((count, length), bool)
    mask[:, [0, -1]] = True
    if length > 2:
        mask[:, 1:-1] = _corners(x, limits)
    for _ in range(length):
        off, segment = _errors(x, slopes, mask)
        over = off > limit
        if not over.any():
            break
        starts = np.flatnonzero(np.diff(segment, prepend=-1))
        worst = np.maximum.reduceat(off, starts)
        chosen = over & (off >= worst[np.searchsorted(starts, np.arange(len(off)), side="right") - 1])
        mask.ravel()[chosen] = True
    for parity in (1, 0, 1):  # neighbours are never tried together
        order = np.cumsum(mask, 1)
        inner = mask.copy()
        inner[:, [0, -1]] = False
        tried = inner & (order % 2 == parity)
        without = mask & ~tried
        off, segment = _errors(x, slopes, without)
        starts = np.flatnonzero(np.diff(segment, prepend=-1))
        worst = np.maximum.reduceat(off / limit, starts)
        bad = worst[np.searchsorted(starts, np.arange(len(off)), side="right") - 1] > 1
        mask = without | (tried & bad.reshape(mask.shape))
    return mask


def _corners(x: Array, limits: Array) -> Array:
    """(T, N - 2) peaks, valleys and ends of rests: where a person would set a key first."""
    steps = np.diff(x, axis=1)
    small = 0.05 * limits[:, None, None]
    before, after = steps[:, :-1], steps[:, 1:]
    turns = (before * after < 0) & (np.maximum(np.abs(before), np.abs(after)) > small)
    rests = (np.abs(before) <= 1e-9) != (np.abs(after) <= 1e-9)
    found: Array = (turns | (rests & (np.abs(after - before) > small))).any(-1)
    return found
