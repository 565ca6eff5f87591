# SPDX-License-Identifier: GPL-3.0-or-later
"""Many clips in one go: which tasks there are, who works on which, and what became of each. No bpy, no torch.

A *task* is one clip on one rig. Any number of workers, on one machine or on many, share the folder of the results:

* each task has a chain of small files ``.hero_bake/<key>.<n>``, n = 0, 1, 2 …: "claimed", "failed" or "done". The next
  file of a chain can be made by one worker alone (a hard link, or ``O_EXCL``; no locks, which network folders often
  only pretend to have), and none is ever removed, so whoever makes it owns the task or has ended it.
* the owner touches its claim now and then. Where it stopped doing so, or its process is gone from this machine,
  another worker makes the next claim; the former owner, should it only have been slow, cannot end the task any more.
* files of a result are in place before "done" is written, so a worker may be killed at any moment.

``manifest.json`` is put together from the ends of all chains, and replaced whole.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import sys
import threading
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from .errors import HeroError

VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .qt .ts .webm .wmv".split()
)
COLUMNS = ("clip", "rig", "armature", "map", "takes", "seed", "seconds", "name")
STATE_FOLDER = ".hero_bake"
STALE = 300.0  # seconds without a sign of life after which another machine's claim is taken over
CRASHES = 3  # workers that a task may take with it before it counts as failed
_BEAT = 10.0
# The disk, not the clip, is what is wrong.
FULL = frozenset({errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)})

Record = dict[str, Any]


class UsageError(HeroError):
    """What was asked for cannot be begun: a list, a folder or a choice is wrong."""


class Stopped(HeroError):
    """The work cannot go on at all, whatever the clip: the disk is full, or the folder cannot be written."""


# --- Tasks --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One clip on one rig.

    position  of the list's row, from 0: what shards count, so that the rigs of a clip stay together
    name      of the results below the folder, without seed and suffix; "/" between folders
    seeds     one take is drawn from each
    seconds   length of the reaction; None = as ``length`` says
    length    "clip" or "model"
    """

    position: int
    name: str
    clip: Path
    rig: Path
    armature: str | None
    map: Path | None
    seeds: tuple[int, ...]
    seconds: float | None
    length: str = "clip"

    def stem(self, seed: int) -> str:
        """Where the files of a take go: below the folder, without the suffix."""
        return f"{self.name}_seed{seed}"

    @property
    def key(self) -> str:
        """Names the chain of the task: tasks that write the same files have the same."""
        text = "\n".join(sorted(self.stem(seed) for seed in self.seeds))
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Defaults:
    """What a row of the list does not say."""

    rigs: tuple[Path, ...] = ()
    armature: str | None = None
    map: Path | None = None
    takes: int = 1
    seeds: tuple[int, ...] = (0,)
    seconds: float | None = None
    length: str = "clip"


def read_tasks(source: Path, defaults: Defaults, out: Path) -> list[Task]:
    """The tasks of a folder of clips (and of the folders in it), or of a .csv, .json or .txt list.

    ``out`` is left out of a folder. The order, the names and so the shards are the same on every machine.
    Raises UsageError with the row and the column of what cannot be understood; clips are not looked at yet.
    """
    if source.is_dir():
        rows = [{"clip": str(clip)} for clip in _clips_in(source, out)]
        base, what = source, "The folder"
        if not rows:
            raise UsageError(f"The folder '{source}' has no clips ({', '.join(sorted(VIDEO_SUFFIXES))}).")
        where = [f"'{row['clip']}'" for row in rows]
    else:
        rows, where = _read_list(source)
        base, what = source.absolute().parent, "The list"
        if not rows:
            raise UsageError(f"{what} '{source}' has no clips; give one in each row.")
    tasks: list[Task] = []
    for position, (row, place) in enumerate(zip(rows, where, strict=True)):
        tasks += _tasks_of(row, place, position, base, defaults)
    return _distinct(tasks)


def _clips_in(folder: Path, out: Path) -> list[Path]:
    """Movie files, sorted by their place below the folder; hidden ones and links that lead in circles left out."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or real == os.path.realpath(out):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES:
                found.append(Path(place) / name)
    return sorted(found, key=lambda path: _order(path.relative_to(folder).as_posix()))


def _order(name: str) -> tuple[str, bytes]:
    return unicodedata.normalize("NFC", name).casefold(), name.encode("utf-8", "surrogateescape")


def _read_list(source: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows with string keys, and how to call each in a sentence."""
    if not source.is_file():
        raise UsageError(f"There is no folder or list '{source}'.")
    kind = source.suffix.lower()
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"The list '{source}' cannot be read ({reason}).") from err
    if kind == ".csv":
        return _read_csv(source, text)
    if kind == ".txt":
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
        return [{"clip": line} for _, line in lines], [f"line {number}" for number, _ in lines]
    if kind == ".json":
        return _read_json(source, text)
    raise UsageError(f"'{source.name}' is no list; give a folder of clips, or a .csv, .json or .txt.")


def _read_csv(source: Path, text: str) -> tuple[list[dict[str, Any]], list[str]]:
    head = text.lstrip().splitlines()[:1] or [""]
    delimiter = max(",;\t", key=head[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, where = [], []
    try:
        columns = [(name or "").strip().lower() for name in reader.fieldnames or []]
        _check_columns(source, columns)
        reader.fieldnames = columns
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"'{source.name}', line {reader.line_num}: there are not {len(columns)} columns.")
            if any(value.strip() for value in row.values()):
                rows.append({key: value.strip() for key, value in row.items()})
                where.append(f"line {reader.line_num}")
    except csv.Error as err:
        raise UsageError(f"'{source.name}', line {reader.line_num}: {err}.") from err
    return rows, where


def _read_json(source: Path, text: str) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        data = json.loads(text)
    except ValueError as err:
        raise UsageError(f"'{source.name}' is not JSON ({err}).") from err
    if isinstance(data, dict):
        data = data.get("clips")
    if not isinstance(data, list):
        raise UsageError(f"'{source.name}' has to be a list of clips, or an object whose 'clips' are one.")
    rows = []
    for number, row in enumerate(data, 1):
        row = {"clip": row} if isinstance(row, str) else row
        if not isinstance(row, dict):
            raise UsageError(f"'{source.name}', clip {number}: give a path, or an object with a 'clip'.")
        _check_columns(source, [str(key) for key in row])
        rows.append({key: value for key, value in row.items() if value is not None})
    return rows, [f"clip {number}" for number in range(1, len(rows) + 1)]


def _check_columns(source: Path, names: Sequence[str]) -> None:
    wrong = [name for name in names if name not in COLUMNS]
    if wrong or "clip" not in names:
        reason = f"'{wrong[0]}' is none" if wrong else "'clip' is missing"
        raise UsageError(f"'{source.name}': the columns are {', '.join(COLUMNS)}; {reason}.")
    if len(set(names)) < len(names):
        raise UsageError(f"'{source.name}' has a column twice; name each once.")


def _tasks_of(row: dict[str, Any], place: str, position: int, base: Path, defaults: Defaults) -> list[Task]:
    def path(column: str) -> Path | None:
        value = row.get(column, "")
        if not isinstance(value, str) or "\0" in value:
            raise UsageError(f"{place}: '{column}' is a path, not {value!r}.")
        return base / Path(value).expanduser() if value else None

    clip = path("clip")
    if clip is None:
        raise UsageError(f"{place} names no clip.")
    rig = path("rig")
    rigs = (rig,) if rig else defaults.rigs
    if not rigs:
        raise UsageError(f"{place} names no rig; add a column 'rig', or give one for all with --rig.")
    takes = _whole(row.get("takes", ""), place, "takes")
    seed = _whole(row.get("seed", ""), place, "seed")
    takes = defaults.takes if takes is None else takes
    if takes < 1:
        raise UsageError(f"{place}: at least 1 take is needed, not {takes}.")
    first = defaults.seeds if seed is None else (seed,)
    seeds = tuple(dict.fromkeys(start + i for start in first for i in range(takes)))
    seconds, length = _seconds(row.get("seconds", ""), place, defaults)
    given = row.get("name", "")
    if not isinstance(given, str):
        raise UsageError(f"{place}: 'name' is text, not {given!r}.")
    armature = row.get("armature", "") or defaults.armature
    inside = clip.is_relative_to(base) and ".." not in clip.relative_to(base).parts
    shown = clip.relative_to(base) if inside else Path(clip.name)
    name = given or shown.parent.joinpath(shown.stem).as_posix()
    tasks = []
    for rig in rigs:
        whole = _safe(name if given and len(rigs) == 1 else f"{name}_{rig.stem}")
        tasks.append(
            Task(position, whole, clip, rig, armature, path("map") or defaults.map, seeds, seconds, length)
        )  # fmt: skip
    return tasks


def _whole(value: Any, place: str, column: str) -> int | None:
    if value == "":
        return None
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d+", str(value)):
        raise UsageError(f"{place}: '{column}' is a whole number, not {value!r}.")
    return int(value)


def _seconds(value: Any, place: str, defaults: Defaults) -> tuple[float | None, str]:
    if value == "":
        return defaults.seconds, defaults.length
    if value in ("clip", "model"):
        return None, value
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds <= 0:
        raise UsageError(f"{place}: 'seconds' is a number above 0, 'clip' or 'model', not {value!r}.")
    return seconds, "clip"


def _safe(name: str) -> str:
    """A name that every system can write, with what it had of folders."""
    parts = []
    for part in name.encode("utf-8", "replace").decode().split("/"):
        part = re.sub(r'[<>:"\\|?*\x00-\x1f\x7f]', "_", part).strip(" .")
        if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", part):
            part = f"_{part}"
        while len(part.encode()) > 150:  # of 255, with room for the seed, the suffix and the name while it is written
            part = part[:-1]
        if part:
            parts.append(part)
    return "/".join(parts) or "clip"


def _distinct(tasks: list[Task]) -> list[Task]:
    """No two tasks write the same file, also where upper and lower case are the same.

    Clips that differ in their suffix alone get that into their names; whatever is still the same is numbered.
    """
    plain: dict[str, set[str]] = {}
    for task in tasks:
        plain.setdefault(_fold(task.name), set()).add(os.path.normcase(task.clip))
    used: set[str] = set()
    out = []
    for task in tasks:
        clips = plain[_fold(task.name)]
        same_stem = {Path(clip).with_suffix("") for clip in clips}
        if len(clips) > 1 and len(same_stem) == 1:
            task = replace(task, name=_safe(f"{task.name}_{task.clip.suffix[1:]}"))
        name, number = task.name, 1
        while used & {_fold(task.stem(seed)) for seed in task.seeds}:
            number += 1
            task = replace(task, name=f"{name}-{number}")
        used |= {_fold(task.stem(seed)) for seed in task.seeds}
        out.append(task)
    return out


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def read_shard(text: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8): the second of eight."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"A shard is given as 1/8 to 8/8, not '{text}'.")
    return int(found[1]), int(found[2])


def shard(tasks: Iterable[Task], index: int, count: int) -> list[Task]:
    """Every ``count``-th row, from the ``index``-th on, counted from 1: long and short clips mix."""
    return [task for task in tasks if task.position % count == index - 1]


# --- What a file is -----------------------------------------------------------------------------------


def sample_of(path: Path) -> str:
    """Tells a file's content from others without reading all of it: its size and 64 places spread over it.

    Raises OSError.
    """
    digest = hashlib.blake2b(digest_size=12)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        block = 4096
        places = range(0, size, block) if size <= 64 * block else [i * (size - block) // 63 for i in range(64)]
        for place in places:
            file.seek(place)
            digest.update(file.read(block))
    return digest.hexdigest()


def content_of(path: Path) -> str:
    """Of all of a file. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe(path: Path) -> Record:
    """An input as a record keeps it; a file that is not there is described as that."""
    try:
        state = path.stat()
        return {"path": str(path), "bytes": state.st_size, "time": state.st_mtime_ns, "sample": sample_of(path)}
    except OSError as err:
        return {"path": str(path), "missing": err.strerror or str(err)}


def unchanged(was: Any, path: Path) -> bool:
    """Whether a file is what ``describe`` said of it, wherever it lies by now; cheap where nobody touched it."""
    if not isinstance(was, dict) or "sample" not in was:
        return False
    try:
        state = path.stat()
        if state.st_size != was.get("bytes"):
            return False
        return bool(state.st_mtime_ns == was.get("time") or sample_of(path) == was["sample"])
    except OSError:
        return False


def result_of(path: Path, out: Path) -> Record:
    """A file of a result as a record keeps it. Raises OSError."""
    state = path.stat()
    name = path.relative_to(out).as_posix()
    return {"file": name, "bytes": state.st_size, "time": state.st_mtime_ns, "hash": content_of(path)}


def there(results: Any, out: Path) -> bool:
    """Whether all files of a result are as they were written."""
    try:
        for result in results:
            path = out / result["file"]
            state = path.stat()
            if state.st_size != result["bytes"]:
                return False
            if state.st_mtime_ns != result["time"] and content_of(path) != result["hash"]:
                return False
    except (OSError, KeyError, TypeError):
        return False
    return True


# --- Who works on what --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """That this worker has a task: file ``number`` of its chain."""

    task: Task
    number: int


class Board:
    """The chains of all tasks in one folder, for one worker. ``close`` it, or its thread stays.

    Raises Stopped wherever the folder cannot be written.
    """

    def __init__(self, out: Path, stale: float = STALE, beat: float = _BEAT, began: float | None = None) -> None:
        self.out = out
        self.folder = out / STATE_FOLDER
        self.stale = stale
        self.id = uuid.uuid4().hex[:16]
        self.host = host_id()
        self._owned: dict[str, Claim] = {}
        self._known: dict[str, int] = {}
        self._ended: dict[str, tuple[int, Record]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sign = self.folder / f"worker-{self.id}"
        with _written(out):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sign.write_bytes(b"")
        self.began = self._now() if began is None else began
        self._beat = min(beat, stale / 4)
        self._signed = time.monotonic()
        self._begin()

    def _begin(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._live, name="hero-bake-beat", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def without_thread(self) -> Iterator[None]:
        """No thread of this board for a moment, which has to be shorter than a claim lives without a sign."""
        self._stop.set()
        self._thread.join()
        try:
            yield
        finally:
            self._begin()

    def close(self) -> None:
        """Give back what is still claimed, and end."""
        self._stop.set()
        self._thread.join()
        for claim in list(self._owned.values()):
            self.release(claim)
        with contextlib.suppress(OSError):
            self._sign.unlink(missing_ok=True)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the chain --

    def end_of(self, task: Task) -> tuple[int, Record | None]:
        """Number and content of the newest file of a chain; (-1, None) where nobody began."""
        known = self._ended.get(task.key)
        number, record = known or (self._known.get(task.key, -1), None)
        if record is None and number >= 0:
            record = self._read(task, number)
        while (newer := self._read(task, number + 1)) is not None:
            number, record = number + 1, newer
        self._known[task.key] = number
        if record is not None and record.get("state") in ("done", "failed"):
            self._ended[task.key] = number, record
        return number, record

    def state(self, task: Task, valid: Callable[[Record], bool]) -> tuple[str, int, Record | None]:
        """ "done", "failed", "busy" or "free", with the end of the chain.

        ``valid(record)`` tells whether a "done" is still about the same inputs, and its files are there. A failure
        counts only while somebody is at work who was so then: the next start tries again.
        """
        number, record = self.end_of(task)
        if record is None:
            return "free", number, None
        kind = record.get("state")
        if kind == "done" and valid(record):
            return "done", number, record
        if kind == "failed" and (self._time(task, number) >= self.began or self._at_work(record)):
            return "failed", number, record
        if kind not in ("done", "failed") and self._lives(task, number, record):
            return "busy", number, record
        return "free", number, record

    def claim(self, task: Task, valid: Callable[[Record], bool]) -> Claim | None:
        """Take a free task; None where it is done, failed or another worker's."""
        while True:
            kind, number, _ = self.state(task, valid)
            if kind != "free":
                return None
            if self._add(task, number + 1, {"state": "claimed"}):
                claim = Claim(task, number + 1)
                with self._lock:
                    self._owned[task.key] = claim
                return claim

    def crashes(self, claim: Claim) -> int:
        """How many workers before this one were lost, one after the other, while they had the task."""
        count = 0
        for number in range(claim.number - 1, -1, -1):
            record = self._read(claim.task, number)
            if record is None or record.get("state") != "claimed" or self._time(claim.task, number) < 1.0:
                break
            count += 1
        return count

    def end(self, claim: Claim, record: Record) -> bool:
        """Write "done" or "failed"; False where the task was taken over meanwhile."""
        with self._lock:
            self._owned.pop(claim.task.key, None)
        mine = self._add(claim.task, claim.number + 1, record)
        if mine:
            self._known[claim.task.key] = claim.number + 1
            self.end_of(claim.task)
        return mine

    def release(self, claim: Claim) -> None:
        """Give a task back at once: a claim without any sign of life."""
        with self._lock:
            self._owned.pop(claim.task.key, None)
        with contextlib.suppress(OSError):
            os.utime(self._path(claim.task, claim.number), (0, 0))

    # -- files --

    def _path(self, task: Task, number: int) -> Path:
        return self.folder / f"{task.key}.{number}"

    def _read(self, task: Task, number: int) -> Record | None:
        try:
            data = json.loads(self._path(task, number).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # half written, on a disk without links: its owner is at it
            return {"state": "claimed", "worker": {}}
        return data if isinstance(data, dict) else {"state": "claimed", "worker": {}}

    def _add(self, task: Task, number: int, record: Record) -> bool:
        nonce = uuid.uuid4().hex
        who = {
            "id": self.id,
            "host": self.host,
            "name": platform.node(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
        }
        data = json.dumps({**record, "task": task.name, "worker": who, "nonce": nonce}).encode()
        path = self._path(task, number)
        with _written(self.out):
            if create(path, data, self.id):
                return True
        # An answer that a network lost: the file may be ours all the same.
        found = self._read(task, number)
        return found is not None and found.get("nonce") == nonce

    # -- signs of life --

    def _live(self) -> None:
        while True:
            if time.monotonic() - self._signed >= self._beat:
                self._signed = time.monotonic()
                with self._lock:
                    paths = [self._path(claim.task, claim.number) for claim in self._owned.values()]
                    for path in (self._sign, *paths):
                        with contextlib.suppress(OSError):
                            os.utime(path)
            if self._stop.wait(self._beat):
                return

    def _now(self) -> float:
        """What time it is on the clock that stamps the files of the folder."""
        try:
            os.utime(self._sign)
            return self._sign.stat().st_mtime
        except OSError:
            return time.time()

    def _time(self, task: Task, number: int) -> float:
        try:
            return self._path(task, number).stat().st_mtime
        except OSError:
            return 0.0

    def _lives(self, task: Task, number: int, record: Record) -> bool:
        who = record.get("worker") or {}
        with self._lock:
            if self._owned.get(task.key) == Claim(task, number):
                return True
        if who.get("host") == self.host and not alive(who.get("pid"), who.get("born")):
            return False
        return self._now() - self._time(task, number) < self.stale

    def _at_work(self, record: Record) -> bool:
        """Whether the worker that wrote a record has not ended yet."""
        who = record.get("worker") or {}
        if who.get("host") == self.host and not alive(who.get("pid"), who.get("born")):
            return False
        try:
            return self._now() - (self.folder / f"worker-{who.get('id')}").stat().st_mtime < self.stale
        except OSError:
            return False

    def tidy(self) -> None:
        """Remove signs of workers that are long gone."""
        now = self._now()
        for path in self.folder.glob("worker-*"):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > 10 * self.stale:
                    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(out: Path) -> Any:
    try:
        yield
    except OSError as err:
        raise Stopped(cannot_write(out, err)) from err


def cannot_write(out: Path, err: OSError) -> str:
    """One sentence for why a folder cannot be written."""
    if err.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return f"The disk of '{out}' is full; make room and start again, it goes on where it was."
    return f"The folder '{out}' cannot be written ({err.strerror or err}); choose another, or change that."


def create(path: Path, data: bytes, worker: str) -> bool:
    """Make a file with that content, at once and whole; False where there is one already. Raises OSError."""
    part = path.with_name(f"{path.name}.{worker}.{threading.get_ident()}.part")
    try:
        part.write_bytes(data)
        try:
            if os.name == "nt":
                part.rename(path)  # refuses to replace a file there
            else:
                os.link(part, path)
            return True
        except FileExistsError:
            return False
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES) and os.name != "nt":
                raise
        # A disk without links: the name is taken at once, the content follows.
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        return True
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def put(path: Path, data: bytes, worker: str) -> None:
    """Replace a file by another, whole. Raises OSError."""
    part = path.with_name(f".{path.name}.{worker}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def host_id() -> str:
    """Names this machine, this start of it, and the process numbers that can be looked up here."""
    parts = [platform.node(), hex(uuid.getnode()) if os.name == "nt" else ""]
    for file in ("/proc/sys/kernel/random/boot_id",):
        with contextlib.suppress(OSError):
            parts.append(Path(file).read_text().strip())
    with contextlib.suppress(OSError):  # containers on one machine count their processes apart
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - no file has that name
    return " ".join(part for part in parts if part)


def _born(pid: int) -> str:
    """When a process started, in the system's own count; "" where that cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def alive(pid: Any, born: Any = "") -> bool:
    """Whether a process of this machine still runs; True where that cannot be told."""
    if not isinstance(pid, int) or pid <= 0:
        return True
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = kernel.OpenProcess(0x00100000, False, pid)  # SYNCHRONIZE
        if not handle:
            return ctypes.get_last_error() != 87  # ERROR_INVALID_PARAMETER: there is no such process
        try:
            return bool(kernel.WaitForSingleObject(handle, 0) == 258)  # WAIT_TIMEOUT: it has not ended
        finally:
            kernel.CloseHandle(handle)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with contextlib.suppress(OSError, IndexError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return state[0] not in "ZX" and (not born or state[19] == born)
    return True


# --- What is told ---------------------------------------------------------------------------------------


class Manifest:
    """``manifest.json``: every task of the list with what became of it, put together from the board."""

    def __init__(self, board: Board, tasks: Sequence[Task], head: Record) -> None:
        self.path = board.out / "manifest.json"
        self._board, self._tasks, self._head = board, tasks, head
        self._cost, self._last = 0.0, 0.0

    def entries(self) -> list[Record]:
        out = []
        for task in self._tasks:
            _, record = self._board.end_of(task)
            state = str(record.get("state")) if record else "waiting"
            out.append(
                {
                    "name": task.name, "clip": str(task.clip), "rig": str(task.rig), "state": state,
                    **{key: value for key, value in (record or {}).items() if key in _TOLD},
                }
            )  # fmt: skip
        return out

    def write(self, now: bool = False) -> None:
        """Replace the file; without ``now`` so that all of its writing takes a twentieth of the time at most."""
        start = time.monotonic()
        if not now and start - self._last < 20 * self._cost:
            return
        while True:
            entries = self.entries()
            counts: dict[str, int] = {}
            for entry in entries:
                counts[entry["state"]] = counts.get(entry["state"], 0) + 1
            data = json.dumps({**self._head, "counts": counts, "tasks": entries}, indent=1).encode()
            with _written(self._board.out):
                put(self.path, data, self._board.id)
            # Another worker may have ended a task, and written, between the look and the writing.
            if [entry["state"] for entry in self.entries()] == [entry["state"] for entry in entries]:
                break
        self._last = time.monotonic()
        self._cost = self._last - start


_TOLD = ("files", "takes", "error", "seconds", "ended", "inputs")


class ProgressBar:
    """How much is done and how long the rest takes, on stderr: a line that moves, or one now and then."""

    def __init__(self, total: int, done: int, stream: TextIO | None = None, every: float = 30.0) -> None:
        self.total = total
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._every = 0.2 if self._live else every
        self._start = self._shown = time.monotonic()
        self._first = done
        self._width = 0
        self._text = ""

    def show(self, done: int, failed: int = 0, what: str = "", last: bool = False) -> None:
        """``done`` of all tasks are ended, ``failed`` of them badly."""
        now = time.monotonic()
        if not last and now - self._shown < self._every and self._text:
            return
        self._shown = now
        made = done - self._first
        left = (now - self._start) / made * (self.total - done) if made else math.nan
        filled = round(20 * done / max(1, self.total))
        text = f"[{'#' * filled}{'.' * (20 - filled)}] {done}/{self.total}"
        text += f", {failed} failed" if failed else ""
        if done < self.total:
            text += f", {clock(left)} left" if math.isfinite(left) else ", time left not known yet"
            text += f"  {what}" if what else ""
        self._text = text
        if self._live:
            text = text[:110]
            self._write("\r" + text.ljust(self._width) + ("\n" if last else ""))
            self._width = 0 if last else len(text)
        else:
            self._write(text + "\n")

    def end(self) -> None:
        """Leave the line, so that something else can be told."""
        if self._width:
            self._write("\n")
        self._width = 0

    def say(self, text: str) -> None:
        """A line of its own."""
        self._write(("\r" + " " * self._width + "\r" if self._width else "") + text + "\n")
        self._width = 0

    def _write(self, text: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()


def clock(seconds: float) -> str:
    """1:02:03, or 02:03."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes:02d}:{whole % 60:02d}"
