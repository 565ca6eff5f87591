# SPDX-License-Identifier: GPL-3.0-or-later
"""What a data set is made from: lists and folders of (video, motion) pairs, and motion files of any kind.

Nothing here gives up on a bad file: it is reported (``Bad``) and the rest goes on.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from hero_core import bvh, humanml3d
from hero_core.errors import HeroError
from hero_core.motion import Array
from hero_core.train import motions
from hero_core.train.pairs import SPLITS

VIDEOS = frozenset(".mp4 .mov .mkv .avi .webm .m4v .mpg .mpeg .wmv .flv .gif .mts .ts .ogv .3gp".split())
MOTIONS = frozenset((".npy", ".npz", ".bvh"))
OTHER_SKELETONS = (24, 52, 55)  # SMPL, SMPL-H, SMPL-X: their first 22 joints are ours
MIN_ROWS = 16  # 4 tokens, the least that training crops
_SPLIT_NAMES = {"": "", "training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}


@dataclass(frozen=True)
class Bad:
    """A file, line or pair that is left out, and why."""

    kind: str  # video, motion, pair, line
    file: str
    reason: str


@dataclass(frozen=True)
class Pair:
    """A video and one motion file; ``member`` picks a motion inside an npz, "" = all that it holds.

    ``kind`` is the class of the video and ``reaction`` that of the motion, "" where nothing says them.
    """

    video: Path
    motion: Path
    member: str = ""
    split: str = ""
    kind: str = ""
    reaction: str = ""


@dataclass
class Found:
    """Pairs of a source, what was left out, and the statistics that came with an official data set."""

    root: Path
    pairs: list[Pair] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    statistics: tuple[Array, Array] | None = None


@dataclass(frozen=True)
class Sequence:
    """One motion: ``joints`` (N, 22, 3) in HumanML3D's canonical frame; ``rows`` (n, 263), ``given`` by the file or
    made from the joints; ``split`` where the file says one."""

    member: str
    joints: Array
    rows: torch.Tensor
    given: bool
    split: str = ""


def find(source: str | os.PathLike[str]) -> Found:
    """Pairs of a folder in ViMo's layout (train.txt, test.txt), of a list (.csv, .json, .txt), or of a folder in
    which videos and motions belong together by name (clip.mp4 with clip.npy, clip_1.bvh ...).

    Raises:
        HeroError: there is no such folder or file, or nothing in it that could be a pair.
    """
    path = Path(source)
    if path.is_dir():
        lists = [path / f"{name}.txt" for name in SPLITS if (path / f"{name}.txt").is_file()]
        found = _official(path, lists) if lists else _by_names(path)
    elif path.is_file():
        if path.suffix.lower() == ".json":
            found = _json_list(path)
        elif path.suffix.lower() in (".csv", ".tsv"):
            found = _csv_list(path)
        elif path.suffix.lower() == ".txt":
            found = Found(path.parent)
            _lines(found, path, "")
        else:
            raise HeroError(f"'{path}' is no list of pairs; give a folder, or a .csv, .json or .txt list.")
    else:
        raise HeroError(f"There is no data '{path}'; give a folder or a list of pairs.")
    if not found.pairs and not found.bad:
        raise HeroError(
            f"'{path}' holds no pairs; give ViMo's folder, a list with video and motion, or motions named as videos."
        )
    found.pairs = list(dict.fromkeys(found.pairs))
    return found


# --- lists ----------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as err:
        raise HeroError(f"The list '{path}' cannot be read ({err.strerror or err}); check its permissions.") from err
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as err:
        raise HeroError(f"The list '{path}' is not UTF-8 text ({err.reason}); save it as UTF-8.") from err


def _official(folder: Path, lists: list[Path]) -> Found:
    found = Found(folder)
    for path in lists:
        _lines(found, path, path.stem)
    files = [folder / "Mean.npy", folder / "Std.npy"]
    if all(path.is_file() for path in files):
        try:
            mean, std = (np.load(path, allow_pickle=False).astype(np.float32).reshape(-1) for path in files)
            if mean.shape != (263,) or std.shape != (263,) or not np.isfinite([mean, std]).all() or (std <= 0).any():
                raise ValueError("263 finite numbers, Std above zero, are needed")
            found.statistics = mean, std
        except (OSError, ValueError, EOFError) as err:
            found.bad.append(Bad("motion", "Mean.npy, Std.npy", f"they cannot be used ({err})"))
    return found


def _lines(found: Found, path: Path, split: str) -> None:
    """``<video> <motion>`` lines; where paths hold spaces, the place is taken at which both files are there."""
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        cuts = [(line[: m.start()], line[m.end() :]) for m in re.finditer(r"\s+", line)]
        if not cuts:
            found.bad.append(Bad("line", f"{path.name}:{number}", f"'{line}' is not a video and a motion"))
            continue
        there = [cut for cut in cuts if _place(found.root, cut[0]).is_file() and _motion(found.root, cut[1]).is_file()]
        # Nothing there: guess by the video's suffix, so that the report names the file that is missing.
        guess = [cut for cut in cuts if Path(cut[0]).suffix.lower() in VIDEOS]
        video, motion = (there or guess or cuts)[0]
        found.pairs.append(Pair(_place(found.root, video), _motion(found.root, motion), _member(motion), split))


def _csv_list(path: Path) -> Found:
    found = Found(path.parent)
    text = _read_text(path)
    head = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    if not rows:
        return found
    names = [cell.strip().lower() for cell in rows[0]]
    titled = "video" in names and "motion" in names
    columns = ("video", "motion", "split", "class", "reaction")
    places = [names.index(x) if x in names else -1 for x in columns] if titled else [0, 1, 2, 3, 4]
    for number, row in enumerate(rows[titled:], 1 + titled):
        cells = [row[i].strip() if 0 <= i < len(row) else "" for i in places]
        if any(cells):
            _add(found, f"{path.name}:{number}", *cells)
    return found


def _json_list(path: Path) -> Found:
    found = Found(path.parent)
    try:
        data = json.loads(_read_text(path))
    except json.JSONDecodeError as err:
        raise HeroError(f"The list '{path}' is not valid JSON ({err}); repair it.") from err
    if isinstance(data, dict) and "pairs" not in data:  # video -> its motions
        data = {"pairs": [{"video": clip, "motion": motion} for clip, motion in data.items()]}
    entries = data["pairs"] if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise HeroError(f"The list '{path}' must hold objects with video, motion and, if known, split.")
    for number, entry in enumerate(entries, 1):
        where = f"{path.name}:{number}"
        if not isinstance(entry, dict):
            found.bad.append(Bad("line", where, "it is not an object with video and motion"))
            continue
        many = entry.get("motions", entry.get("motion", ""))
        for motion in many if isinstance(many, list) and many else [many or ""]:
            more = (entry.get(key) for key in ("split", "class", "reaction"))
            _add(found, where, *(str(x or "") for x in (entry.get("video"), motion, *more)))
    return found


def _add(found: Found, where: str, video: str, motion: str, split: str, kind: str, reaction: str) -> None:
    split = _SPLIT_NAMES.get(split.lower(), split.lower())
    if not video or not motion:
        found.bad.append(Bad("line", where, "it names no video" if not video else "it names no motion"))
    elif split and split not in SPLITS:
        found.bad.append(Bad("line", where, f"the split '{split}' is not train, val or test"))
    else:
        files = _place(found.root, video), _motion(found.root, motion)
        found.pairs.append(Pair(*files, _member(motion), split, kind, reaction))


def _place(root: Path, name: str) -> Path:
    """The file of a list; a path written on Windows, or with accents composed differently, is found too."""
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    for text in (name, *forms, *(form.replace("\\", "/") for form in (name, *forms))):
        if (root / text).is_file():
            return root / text
    return root / name.replace("\\", "/")


def _member(motion: str) -> str:
    """What stands behind # in ``file.npz#name``."""
    return motion.partition(".npz#")[2]


def _motion(root: Path, name: str) -> Path:
    if ".npz#" in name:
        name = name.partition(".npz#")[0] + ".npz"
    tries = [_place(root, text) for text in (name, f"{name}.npy", f"vector_263/{name}", f"vector_263/{name}.npy")]
    return next((path for path in tries if path.is_file()), tries[0])


# --- by name --------------------------------------------------------------------------------------


def plain(name: str) -> str:
    """A name in which accents and case do not matter for comparison."""
    return unicodedata.normalize("NFC", name).casefold()


def _by_names(folder: Path) -> Found:
    found = Found(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    videos: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in VIDEOS:
            videos.setdefault(plain(path.stem), []).append(path)
    used: set[Path] = set()

    def belongs(name: str, to: Path) -> Path | None:
        """The video of that name, or of the longest part of it that ends before a mark (clip of clip_2)."""
        cut = [plain(name), *(plain(name[: m.start()]) for m in reversed(list(re.finditer(r"[\s_.\-#(+]+", name))))]
        for stem in cut:
            if stem in videos:
                return _nearest(folder, videos[stem], to)
        return None

    for path in files:
        if path.suffix.lower() not in MOTIONS or path.name in ("Mean.npy", "Std.npy", "mean.npy", "std.npy"):
            continue
        try:
            video = belongs(path.stem, path)
            pairs = [Pair(video, path)] if video else []
            if not video and path.suffix.lower() == ".npz":  # one file for many videos, which names its motions
                for member in _members(path):
                    video = belongs(Path(member).stem if Path(member).suffix else member, path)
                    if video:
                        pairs.append(Pair(video, path, member))
            if not pairs:
                raise HeroError("there is no video of that name")
            found.pairs += pairs
            used.update(pair.video for pair in pairs)
        except HeroError as err:
            found.bad.append(Bad("motion", relative(folder, path), str(err)))
    for path in (path for same in videos.values() for path in same if path not in used):
        found.bad.append(Bad("video", relative(folder, path), "there is no motion of that name"))
    return found


def _nearest(folder: Path, videos: list[Path], to: Path) -> Path:
    """Of videos with the same name the one in the motion's folder, or in the folder that mirrors it."""

    def below(path: Path) -> tuple[str, ...]:  # videos/a/clip.mp4 and motions/a/clip.npy are both a/clip
        return path.relative_to(folder).parent.parts[1:]

    same = [path for path in videos if path.parent == to.parent] or videos
    if len(same) > 1:
        same = [path for path in same if below(path) == below(to)] or same
    if len(same) > 1:
        raise HeroError(f"{len(same)} videos have that name; put pairs into one folder, or give a list")
    return same[0]


def relative(folder: Path, path: Path) -> str:
    """Path below the folder with slashes; as it is where it lies elsewhere."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()


# --- motions --------------------------------------------------------------------------------------


def _load(path: Path) -> dict[str, Array]:
    """Arrays of an npy ("" is its name) or npz file; the last one is kept, as lists name its members one by one."""
    state = path.stat()
    return _loaded(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)
def _loaded(path: Path, _size: int, _time: int) -> dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as err:
        raise HeroError(f"it cannot be read ({err})") from err


def _members(path: Path) -> list[str]:
    data = _load(path)
    if not {"offsets", "names"} <= set(data):
        return []
    return [f"{name}{half}" for half in ([""] if "joints" in data else ["#A", "#B"]) for name in data["names"]]


def read_motion(
    path: Path, member: str = "", fps: float = 20.0, up: str = "auto", scale: float | None = None
) -> Iterator[Sequence | Bad]:
    """Motions of a file, or what is wrong with them.

    Args:
        member: the motion inside an npz; "" = all.
        fps: poses per second of joint arrays that do not say it themselves; BVH files always do.
        up: "y", "z" or "auto" (BVH: seen from the motion; arrays: y).
        scale: metres in a unit of a BVH file; None guesses.
    """
    name = path.name
    if not path.is_file():
        yield Bad("motion", name, "the file is missing")
        return
    if path.stat().st_size == 0:
        yield Bad("motion", name, "the file is empty (0 bytes)")
        return
    try:
        raw = list(_arrays(path, member, fps, up, scale))
    except HeroError as err:
        yield Bad("motion", name, str(err))
        return
    except (OSError, ValueError, TypeError, IndexError, MemoryError) as err:  # arrays that do not fit each other
        yield Bad("motion", name, f"it cannot be used ({err})")
        return
    for key, split, array, rate in raw:
        try:
            yield _sequence(key, split, array, rate, "y" if path.suffix.lower() == ".bvh" or up == "auto" else up)
        except HeroError as err:
            yield Bad("motion", f"{name}#{key}" if key else name, str(err))


def _arrays(
    path: Path, member: str, fps: float, up: str, scale: float | None
) -> Iterator[tuple[str, str, Array, float]]:
    """Member, split, array of joints or features, and its rate."""
    kind = path.suffix.lower()
    if kind == ".bvh":
        yield "", "", bvh.load(path, up, scale), 20.0
        return
    if kind not in MOTIONS:
        raise HeroError(f"motions are .npy, .npz or .bvh, not '{kind}'")
    data = _load(path)
    if kind == ".npy" or "" in data:
        yield "", "", data[""], fps
        return
    rate = float(data["fps"]) if "fps" in data and data["fps"].size == 1 else fps
    if {"offsets", "names"} <= set(data):
        offsets, names, split = data["offsets"], data["names"], data.get("split")
        halves = [("", "joints")] if "joints" in data else [("#A", "A"), ("#B", "B")]
        if not all(key in data for _, key in halves):
            raise HeroError("it has names, but no joints")
        all_of_it = [
            (f"{n}{half}", "" if split is None else str(split[i]), data[key][offsets[i] : offsets[i + 1]], rate)
            for half, key in halves
            for i, n in enumerate(names)
        ]
    elif "joints" in data and data["joints"].ndim == 4:
        lengths = data.get("lengths", np.full(len(data["joints"]), data["joints"].shape[1]))
        all_of_it = [
            (str(i), "", take[:n], rate) for i, (take, n) in enumerate(zip(data["joints"], lengths, strict=False))
        ]
    else:
        key = next((key for key in ("joints", "features", "motion") if key in data), "")
        if not key:
            raise HeroError(f"it has no array named joints or features, only {', '.join(data) or 'nothing'}")
        all_of_it = [("", "", data[key], rate)]
    chosen = [x for x in all_of_it if member in ("", x[0])]
    if not chosen:
        raise HeroError(f"it holds no motion named '{member}'")
    yield from chosen


def _sequence(member: str, split: str, array: Array, fps: float, up: str) -> Sequence:
    if array.dtype.kind not in "fiu":
        raise HeroError(f"it holds {array.dtype}, not numbers")
    x: Array = np.asarray(array, np.float32)
    while x.ndim > 2 and x.shape[0] == 1:
        x = x[0]
    if x.ndim == 2 and x.shape[1] in (66, *(3 * n for n in OTHER_SKELETONS)):
        x = x.reshape(len(x), -1, 3)
    if x.ndim == 3 and x.shape[1] in OTHER_SKELETONS:
        x = x[:, :22]
    features = x.ndim == 2 and x.shape[1] == humanml3d.DIM
    if not features and x.shape[1:] != (22, 3):
        raise HeroError(f"it has shape {tuple(array.shape)}; (N, 22, 3) joints or (N, 263) features are needed")
    broken = ~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    if broken.any():
        raise HeroError(f"{int(broken.sum())} of {len(x)} frames hold NaN or infinite values, first {broken.argmax()}")
    if features:
        contacts = x[:, humanml3d.CONTACT]
        if len(x) and (contacts.min() < -0.5 or contacts.max() > 1.5):
            raise HeroError("its foot contacts are not 0..1, so the features are normalised; give them as they were")
        if len(x) < MIN_ROWS:
            raise HeroError(f"it has {len(x)} rows; at least {MIN_ROWS} are needed")
        joints = np.asarray(humanml3d.to_joints(x), np.float32)
        return Sequence(member, joints, torch.from_numpy(x), True, _known(split))
    count = len(x)
    x = bvh.resampled(bvh.y_up(x, up), fps) if count else x
    if len(x) <= MIN_ROWS:
        raise HeroError(
            f"it has {count} poses, {len(x)} at 20 a second; at least {MIN_ROWS + 1} ({MIN_ROWS / 20:g} s) are needed"
        )
    joints = np.asarray(humanml3d.canonicalise(x), np.float32)
    return Sequence(member, joints, motions.features(joints), False, _known(split))


def _known(split: str) -> str:
    name = _SPLIT_NAMES.get(split.lower(), split.lower())
    return name if name in SPLITS else ""
