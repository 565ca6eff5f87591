# SPDX-License-Identifier: GPL-3.0-or-later
"""What a clip is, in a line: its length, rate and frames. Files are looked at in a thread, not while a panel draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from hero_core.errors import HeroError

from . import compat
from .job import Worker

# By path and the time of its last change; None while it is being looked at. Of the moment, in no file.
_known: dict[tuple[str, int], Facts | str | None] = {}
_MOST = 64


@dataclass(frozen=True)
class Facts:
    """seconds; frames a second; how many frames, 0 where the file does not say; width and height."""

    seconds: float
    fps: float
    frames: int
    size: tuple[int, int] = (0, 0)

    def line(self) -> str:
        told = [f"{self.seconds:.1f} s", f"{self.fps:.4g} fps"]
        if self.frames:
            told.append(f"{self.frames} frames")
        return ", ".join(told)


def of_strip(scene: bpy.types.Scene, strip: Any) -> str:
    """Length, rate and frame range of a strip; cheap."""
    start, end = compat.strip_range(strip)
    rate = scene.render.fps / scene.render.fps_base
    return f"{(end - start) / rate:.1f} s, {rate:.4g} fps, frames {start} to {end - 1}"


def of_file(path: str) -> str:
    """The same of a movie file, or "" as long as it is being looked at; what is wrong with it if something is."""
    try:
        key = path, Path(path).stat().st_mtime_ns
    except OSError:
        return f"There is no file '{Path(path).name}'"
    if key not in _known:
        while len(_known) >= _MOST:
            _known.pop(next(iter(_known)))
        _known[key] = None
        worker = Worker(lambda _: read(path))
        if bpy.app.background:
            _take(key, worker)
        else:
            bpy.app.timers.register(lambda: _look(key, worker), first_interval=0.05)
    found = _known.get(key)
    return found.line() if isinstance(found, Facts) else found or ""


def _look(key: tuple[str, int], worker: Worker[Facts]) -> float | None:
    if worker.running:
        return 0.05
    _take(key, worker)
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"VIEW_3D", "SEQUENCE_EDITOR"}:
                area.tag_redraw()
    return None


def _take(key: tuple[str, int], worker: Worker[Facts]) -> None:
    try:
        _known[key] = worker.result()
    except Exception as err:  # noqa: BLE001 - told in the panel; whoever presses React hears it again
        _known[key] = str(err)


def read(path: str) -> Facts:
    """What the header of a movie file says; no frame is decoded. Raises HeroError where it is none."""
    try:
        import av
    except ImportError as err:
        raise HeroError("Reading a video file needs PyAV; add the file as a strip instead.") from err
    try:
        with av.open(path) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise HeroError(f"'{Path(path).name}' has no video in it; choose another file.")
            fps = float(stream.average_rate or stream.guessed_rate or 25)
            if stream.duration and stream.time_base:
                seconds = float(stream.duration * stream.time_base)
            else:
                seconds = float(container.duration or 0) / 1e6
            frames = stream.frames or round(seconds * fps)
            return Facts(seconds or frames / fps, fps, frames, (stream.width, stream.height))
    except (av.FFmpegError, OSError) as err:
        raise HeroError(f"'{Path(path).name}' is not a video that can be read; choose another file.") from err
