# SPDX-License-Identifier: GPL-3.0-or-later
"""Video features by content: a clip that was watched once is not watched again, in this run or in a later one.

A clip is known by the frames that the encoder sees of it, a model by its weights. The newest few are kept in memory,
all in a folder, one small safetensors file each, up to a size; the files that were not used for longest go first.
Several programs may use one folder at once: files appear whole, and any may vanish at any time. A cache only saves
time, so nothing that goes wrong in it is an error: what cannot be read, or is not what was written, is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from . import video
from .hero import VideoFeatures, clip_fingerprint
from .record import fingerprint

if TYPE_CHECKING:
    from .hero import Hero

LIMIT = 64 * 2**20  # bytes on the disk; some 3,800 clips of the model that ships
_SUFFIX = ".features.safetensors"
_PART = ".part"
_STALE = 3600.0  # seconds after which a file that was never finished is litter


class FeatureCache:
    """Features of clips. Safe to use from several threads.

    Args:
        folder: where files go, made when needed; None = memory only.
        limit: bytes on the disk at most.
        keep: clips in memory.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, limit: int = LIMIT, keep: int = 16) -> None:
        self.folder = None if folder is None else Path(folder)
        self.limit = limit
        self.keep = keep
        self._memory: OrderedDict[str, VideoFeatures] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, hero: Hero, frames: Any) -> VideoFeatures:
        """``hero.encode(frames)``, from the cache where it has been computed before. Raises as that does."""
        cfg = hero.config.encoder
        picked = video.prepare_frames(frames, cfg.num_frames, cfg.image_size)
        key = self.key(hero, clip_fingerprint(picked))
        found = self.get(key)
        if found is None:
            found = hero.encode(picked)
            self.put(key, found)
        return found

    @staticmethod
    def key(hero: Hero, clip: str) -> str:
        """Name of the features of a clip by a model, as computed on its kind of device."""
        return fingerprint(hero.fingerprint, clip, hero.device.type, str(hero.dtype))

    def get(self, key: str) -> VideoFeatures | None:
        """What :meth:`put` was given, to the bit, or None."""
        with self._lock:
            found = self._memory.get(key)
            if found is not None:
                self._memory.move_to_end(key)
        if found is None and self.folder is not None:
            found = self._read(self.folder / (key + _SUFFIX))
            if found is not None:
                self._remember(key, found)
        elif found is not None and self.folder is not None:
            _touch(self.folder / (key + _SUFFIX))
        return found

    def put(self, key: str, features: VideoFeatures) -> None:
        """Keep features; a disk that is full or write-protected is no error."""
        self._remember(key, features)
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            data = _pack(features)
            if len(data) > self.limit:
                return
            handle, part = tempfile.mkstemp(suffix=_SUFFIX + _PART, dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.replace(part, self.folder / (key + _SUFFIX))
            finally:
                Path(part).unlink(missing_ok=True)
            self.trim()

    def trim(self, limit: int | None = None) -> int:
        """Remove files, the longest unused first, until they fit the limit; returns the bytes that are left.

        Only files of this cache are touched, whatever else lies in the folder.
        """
        if self.folder is None:
            return 0
        limit = self.limit if limit is None else limit
        files: list[tuple[float, int, Path]] = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                with contextlib.suppress(OSError):  # another program may remove it meanwhile
                    state = path.stat()
                    if path.name.endswith(_SUFFIX):
                        files.append((state.st_mtime, state.st_size, path))
                    elif path.name.endswith(_SUFFIX + _PART) and time.time() - state.st_mtime > _STALE:
                        path.unlink()
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda file: file[:2]):
            if total <= limit:
                break
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                total -= size
        return total

    def clear(self) -> None:
        """Forget everything, in memory and on the disk."""
        with self._lock:
            self._memory.clear()
        self.trim(-1)

    def _remember(self, key: str, features: VideoFeatures) -> None:
        with self._lock:
            self._memory[key] = features
            self._memory.move_to_end(key)
            while len(self._memory) > self.keep:
                self._memory.popitem(last=False)

    def _read(self, path: Path) -> VideoFeatures | None:
        try:
            data = path.read_bytes()  # whole, for a file that is mapped cannot be replaced on Windows
        except OSError:
            return None
        features = _unpack(data)
        if features is None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        else:
            _touch(path)
        return features


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


def _pack(features: VideoFeatures) -> bytes:
    tensors = {"local": features.local.float().cpu().contiguous(), "pooled": features.pooled.float().cpu().contiguous()}
    return save(tensors, {"clip": features.clip, "check": _check(tensors, features.clip)})


def _unpack(data: bytes) -> VideoFeatures | None:
    """Features in a file's bytes, or None where they are not all there as they were written."""
    try:
        tensors = load(data)
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        clip, check = str(head["clip"]), head["check"]
        if set(tensors) != {"local", "pooled"} or check != _check(tensors, clip):
            return None
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return VideoFeatures(tensors["local"], tensors["pooled"], clip)


def _check(tensors: dict[str, Tensor], clip: str) -> str:
    parts: list[bytes | str] = [clip]
    for name in sorted(tensors):
        parts += [f"{name} {tuple(tensors[name].shape)}", tensors[name].numpy().tobytes()]
    return fingerprint(*parts)
