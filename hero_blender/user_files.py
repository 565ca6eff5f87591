# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders that HERO makes for itself, for PyTorch and for weights, beside Blender's other data of the user.

Not in ``extension_path_user``: Blender deletes that when the extension is uninstalled, and an update meets files there
that Windows has locked. What is made here carries a mark, and nothing without the mark is ever deleted. No bpy below
``home``, so that all of it can run in a thread and be tested without Blender.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hero_core.errors import HeroError

ABOUT = "hero.json"
_MADE_BY = "HERO for Blender"
_REMOVE = "remove-at-next-start"
_PART = ".part-"
_GONE = ".gone-"


def home() -> Path:
    """The folder of HERO among the user's data of this Blender version; it may not exist yet."""
    import bpy

    return Path(bpy.utils.user_resource("DATAFILES", path="hero_blender"))


def python_tag() -> str:
    """What this Python's compiled packages are for: 'cp311'."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}"


# --- Locks between processes ---


class Lock:
    """A lock on a file, which the system frees when its holder ends, however it ends.

    ``held`` is False where another process has it. Disks that know no locks (some network drives) count as free.
    """

    def __init__(self, path: Path, shared: bool = False) -> None:
        self._file: IO[bytes] | None = None
        self.held = True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            _lock(self._file, shared)
        except BlockingIOError:
            self.held = False
            self.release()
        except OSError:
            self.held = os.name != "nt" or self._file is None
            if not self.held:
                self.release()

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _lock(file: IO[bytes], shared: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        # Knows no shared locks: there, the libraries that a Blender has loaded keep their folder from being renamed.
        if not shared:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


@contextlib.contextmanager
def only_one(root: Path, what: str) -> Iterator[None]:
    """Hold the root for one process. Raises HeroError where another Blender has it, or it cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as err:
        raise HeroError(
            f"The folder '{root}' cannot be written ({err.strerror}); allow it, or set BLENDER_USER_RESOURCES to a "
            "folder of your own."
        ) from err
    lock = Lock(root / "install.lock")
    if not lock.held:
        raise HeroError(f"Another Blender is installing {what} right now; wait until it has finished.")
    try:
        yield
    finally:
        lock.release()


_used: dict[Path, Lock] = {}


def use(folder: Path) -> None:
    """Keep other Blenders from deleting a folder of ours for as long as this process lives."""
    if is_ours(folder) and folder not in _used:
        _used[folder] = Lock(folder / "in-use.lock", shared=True)


# --- Making, finding and removing ---


def about(folder: Path) -> dict[str, Any]:
    """What was written down when a folder was made; {} where it is not ours."""
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("made_by") == _MADE_BY else {}


def is_ours(folder: Path) -> bool:
    """Whether HERO made this folder: a real folder, with the mark that names its place."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return about(folder).get("place") == folder.parent.name


def write_about(folder: Path, content: dict[str, Any]) -> None:
    """The mark, with what else there is to know. It is written whole or not at all."""
    place = folder.parent.name
    text = json.dumps({"made_by": _MADE_BY, "place": place, **content}, indent=1)
    part = folder / (ABOUT + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, folder / ABOUT)


def new_part(root: Path) -> Path:
    """An empty marked folder to work in; ``keep`` makes it a real one, ``delete`` and ``clean`` remove it."""
    part = root / f"{_PART}{os.getpid()}-{time.time_ns()}"
    part.mkdir(parents=True)
    try:
        write_about(part, {})
    except OSError:
        shutil.rmtree(part, ignore_errors=True)  # made a moment ago, and without a mark nobody would remove it
        raise
    return part


def keep(part: Path, name: str) -> Path:
    """Give a finished part its name, or that with the next free number; returns where it is now."""
    for number in range(1, 10000):
        target = part.with_name(name if number == 1 else f"{name}-{number}")
        if target.exists():
            continue
        for wait in (0.1, 0.5, 2.0, 0.0):  # on Windows a virus scanner may still look at the files
            try:
                return part.rename(target)
            except PermissionError:
                if not wait:
                    raise
                time.sleep(wait)
    raise HeroError(f"The folder '{part.parent}' is full of folders named {name}; remove some.")


def complete(root: Path) -> list[Path]:
    """Finished folders of ours that are not marked for removal, the newest first."""
    if not root.is_dir():
        return []
    found = [p for p in root.iterdir() if not p.name.startswith(".") and is_ours(p) and not (p / _REMOVE).exists()]
    return sorted(found, key=lambda p: (about(p).get("time", 0), p.name), reverse=True)


def remove_at_next_start(folder: Path, root: Path) -> None:
    """Mark a folder of ours; ``clean`` deletes it when no Blender uses it any more.

    Raises HeroError for any folder that HERO did not make below ``root``.
    """
    if folder.parent.resolve() != root.resolve() or not is_ours(folder):
        raise HeroError(f"'{folder}' was not made by HERO, so HERO does not remove it; remove it by hand.")
    try:
        (folder / _REMOVE).touch()
    except OSError as err:
        raise HeroError(f"'{folder}' cannot be marked for removal ({err.strerror}); remove it by hand.") from err


def to_clean(root: Path) -> bool:
    """Whether ``clean`` would find something to look at."""
    if not root.is_dir():
        return False
    return any(item.name.startswith((_PART, _GONE)) or (item / _REMOVE).exists() for item in root.iterdir())


def clean(root: Path) -> list[str]:
    """Delete what is marked and what a process that ended left unfinished; returns the names. Never raises."""
    if not root.is_dir():
        return []
    removed: list[str] = []
    with contextlib.suppress(OSError):
        lock = Lock(root / "install.lock")
        try:
            for folder in sorted(root.iterdir()):
                unfinished = folder.name.startswith((_PART, _GONE)) and lock.held
                if is_ours(folder) and (unfinished or (folder / _REMOVE).exists()) and delete(folder):
                    removed.append(folder.name)
        finally:
            lock.release()
    return removed


def delete(folder: Path) -> bool:
    """Delete a folder of ours, unless a Blender uses it. Renamed first, so that a half of it is never taken for all."""
    if not is_ours(folder):
        return False
    lock = Lock(folder / "in-use.lock")
    lock.release()
    if not lock.held:
        return False
    gone = folder if folder.name.startswith(_GONE) else folder.with_name(f"{_GONE}{os.getpid()}-{folder.name}")
    try:
        if gone != folder:
            folder.rename(gone)
        # The mark goes last: what is left of an interrupted deletion is still known as ours.
        for item in gone.iterdir():
            if item.name == ABOUT:
                continue
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()
        (gone / ABOUT).unlink()
        gone.rmdir()
    except OSError:
        return False
    return True


def size(folder: Path) -> int:
    """Bytes of all files below a folder; those that vanish meanwhile count nothing."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(base, name)).st_size  # noqa: PTH118 - thousands of files
    return total


def check_space(root: Path, gigabytes: float, what: str) -> None:
    """Raises HeroError where the disk of ``root`` has less free space than that."""
    place = root
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    if free < gigabytes:
        raise HeroError(
            f"{what} needs {gigabytes:.1f} GB on the disk of '{place}', and {free:.1f} GB are free; make room first."
        )
