# SPDX-License-Identifier: GPL-3.0-or-later
"""Dyads on disk: the layouts of REACT 2023 and 2024, and of MARS (REACT 2025). Both data sets are given out by their
authors under agreements; none of them is here.

REACT 2023/24    FOLDER/{train,val,test}.csv (index, speaker, listener) and
                 FOLDER/SPLIT/{Emotion,3D_FV_files,Audio_files}/<path>.{csv,npy,wav}, neighbour_emotion_SPLIT.npy
MARS             FOLDER/SPLIT/{facial-attributes,coefficients,audio}/{speaker,listener}/sessionN/<name>.{npy,npy,wav}

Of REACT each pair counts twice, with the roles swapped: first all rows of the list, then all of them swapped, as the
matrix of appropriate faces is ordered.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hero_core.errors import Cancelled, HeroError

from . import metrics, sound
from .curves import FaceTrack
from .features import held, sound_rows, video_rows
from .reaction import COEFFICIENTS, FPS, Array, attributes_of, centred, resampled

SPLITS = ("train", "val", "test")
MARS_FPS = 30.0  # what the challenge's program assumes where nobody says
# Of NoXI the attributes name the persons otherwise than the rest does.
_PERSONS = {"Expert_video": "P1", "Novice_video": "P2"}
Progress = Callable[[int, int], bool]


@dataclass(frozen=True)
class Person:
    """Files of one person in one clip; sound may be absent."""

    attributes: Path
    coefficients: Path
    audio: Path | None

    def track(self, fps: float = FPS) -> FaceTrack:
        """The face at 25 frames per second, from files of ``fps`` rows per second."""
        shapes = _array(self.coefficients, 58)
        units = _array(self.attributes, 25) if self.attributes.exists() else attributes_of(shapes[:, :52])
        frames = min(len(shapes), len(units))
        rows = np.concatenate((shapes[:frames], units[:frames]), 1)
        if fps != FPS:
            rows[:, 52:55] = np.unwrap(rows[:, 52:55], axis=0)  # lest pi to -pi become a turn of the head
            rows = resampled(rows, np.arange(frames) / fps)
        return FaceTrack(rows[:, :58], rows[:, 58:], frozenset(COEFFICIENTS), "3DMM")


@dataclass(frozen=True)
class Dyad:
    name: str
    session: str  # listeners of the same session are appropriate for each other (MARS)
    speaker: Person
    listener: Person


@dataclass(frozen=True)
class Split:
    """Dyads in order, and where the data set says so the (N, N) matrix of appropriate faces."""

    dyads: tuple[Dyad, ...]
    matrix: Array | None
    layout: str  # "react" or "mars"
    fps: float  # rows per second of its files

    def sets(self, seed: int = 0) -> metrics.Sets:
        """For each dyad the listeners whose faces are appropriate; its own alone where nothing is said."""
        if self.matrix is not None:
            return metrics.sets_from_matrix(self.matrix)
        if self.layout == "mars":
            return metrics.sets_from_sessions([d.session for d in self.dyads], seed=seed)
        return [np.array([n]) for n in range(len(self.dyads))]


def _array(path: Path, width: int) -> npt.NDArray[np.float32]:
    """(T, width) of a .npy, or of a .csv with one header row."""
    try:
        if path.suffix == ".csv":
            found = np.loadtxt(path, np.float32, delimiter=",", skiprows=1, ndmin=2)
        else:
            found = np.load(path, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError) as err:
        raise HeroError(f"'{path}' cannot be read as numbers ({err}); copy it again.") from err
    if not found.size or found.size % width or not np.isfinite(found).all():
        raise HeroError(f"'{path}' has shape {found.shape} or numbers that are not finite; (T, {width}) is needed.")
    rows: npt.NDArray[np.float32] = found.reshape(-1, width)
    return rows


def read(folder: str | os.PathLike[str], split: str, fps: float | None = None) -> Split:
    """The dyads of one split. ``fps``: rows per second of its files; None = 25 (REACT 2023/24) or 30 (MARS).

    Raises:
        HeroError: no such split or layout, files that a list names are absent, or a matrix of another size.
    """
    root = Path(folder)
    if split not in SPLITS:
        raise HeroError(f"The split '{split}' is not known; use {', '.join(SPLITS)}.")
    if (root / f"{split}.csv").is_file():
        return _react(root, split, fps or FPS)
    if (root / split / "coefficients" / "listener").is_dir():
        return _mars(root, split, fps or MARS_FPS)
    raise HeroError(
        f"'{root}' holds neither {split}.csv (REACT 2023/24) nor {split}/coefficients/listener (MARS); give the data "
        "set's top folder."
    )


def _react(root: Path, split: str, fps: float) -> Split:
    with (root / f"{split}.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    # The header, where there is one, does not begin with a number.
    pairs = [row[1:3] for row in rows if len(row) >= 3 and row[0].isdigit()]
    if not pairs:
        raise HeroError(f"'{root / f'{split}.csv'}' has no rows of index, speaker, listener; check it.")
    missing: list[str] = []

    def person(path: str) -> Person:
        place = root / split
        other = "/".join(_PERSONS.get(part, part) for part in path.split("/"))
        emotion = [place / "Emotion" / f"{p}.csv" for p in (path, other)]
        shapes = place / "3D_FV_files" / f"{path}.npy"
        audio = place / "Audio_files" / f"{path}.wav"
        attributes = next((p for p in emotion if p.is_file()), emotion[0])
        missing.extend(str(p) for p in (attributes, shapes) if not p.is_file())
        return Person(attributes, shapes, audio if audio.is_file() else None)

    people = [(person(speaker), person(listener)) for speaker, listener in pairs]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise HeroError(
            f"Files that '{split}.csv' names are absent: {', '.join(missing[:3])}{more}; complete the data."
        )
    dyads = [Dyad(b, "", s, m) for (s, m), (_, b) in zip(people, pairs, strict=True)]
    dyads += [Dyad(a, "", m, s) for (s, m), (a, _) in zip(people, pairs, strict=True)]
    file_ = root / f"neighbour_emotion_{split}.npy"
    matrix = None
    if file_.is_file():
        try:
            matrix = np.load(file_, allow_pickle=False)
        except (OSError, ValueError) as err:
            raise HeroError(f"'{file_}' cannot be read ({err}); make it again.") from err
        if matrix.shape != (len(dyads), len(dyads)):
            raise HeroError(
                f"'{file_}' has shape {matrix.shape}; the list makes {len(dyads)} samples, both roles counted."
            )
    return Split(tuple(dyads), matrix, "react", fps)


def _mars(root: Path, split: str, fps: float) -> Split:
    place = root / split
    dyads = []
    for path in sorted((place / "coefficients" / "listener").glob("*/*.npy")):
        inner = path.relative_to(place / "coefficients" / "listener")

        def person(role: str, inner: Path = inner) -> Person:
            audio = (place / "audio" / role / inner).with_suffix(".wav")
            return Person(
                place / "facial-attributes" / role / inner,
                place / "coefficients" / role / inner,
                audio if audio.is_file() else None,
            )

        if (place / "coefficients" / "speaker" / inner).is_file():
            dyads.append(Dyad(inner.with_suffix("").as_posix(), inner.parts[0], person("speaker"), person("listener")))
    if not dyads:
        raise HeroError(f"'{place}' has no session whose speaker and listener bear the same name; complete the data.")
    return Split(tuple(dyads), None, "mars", fps)


@dataclass(frozen=True)
class Clips:
    """N dyads cut to, or held up to, T frames; features are of the kind "curves".

    speakers, listeners  (N, T, 25) attributes
    coefficients         (N, T, 58) of the listeners, the head relative to the clip's median
    video, audio         (2, N, T, 83) and (2, N, T, 46): of the speakers, then of the listeners
    """

    speakers: Array
    listeners: Array
    coefficients: Array
    video: Array
    audio: Array


def load(split: Split, frames: int, on_progress: Progress | None = None) -> Clips:
    """Everything of a split in memory, about 0.9 MB for each dyad of 750 frames."""
    parts: dict[str, list[Array]] = {"speakers": [], "listeners": [], "coefficients": [], "video": [], "audio": []}
    for number, dyad in enumerate(split.dyads):
        tracks = [person.track(split.fps).fitted(frames) for person in (dyad.speaker, dyad.listener)]
        sounds = [None if p.audio is None else sound.read(p.audio) for p in (dyad.speaker, dyad.listener)]
        parts["speakers"].append(tracks[0].attributes)
        parts["listeners"].append(tracks[1].attributes)
        parts["coefficients"].append(held(centred(tracks[1].coefficients), frames))
        parts["video"].append(np.stack([video_rows(track, frames) for track in tracks]))
        parts["audio"].append(np.stack([sound_rows(s, frames) for s in sounds]))
        if on_progress is not None and not on_progress(number + 1, len(split.dyads)):
            raise Cancelled
    made = {name: np.stack(rows) for name, rows in parts.items()}
    for name in ("video", "audio"):
        made[name] = made[name].swapaxes(0, 1)
    return Clips(**made)
