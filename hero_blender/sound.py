# SPDX-License-Identifier: GPL-3.0-or-later
"""The sound of a strip as it is heard on the timeline: trims, offsets and speed count; mono at 16 kHz.

The strip is read in Blender's main thread (``plan``), which takes no time; its file is decoded wherever there is time
(``Plan.read``). Blender's own library aud decodes where the Blender has it, PyAV elsewhere; both give all channels,
which are averaged in one place, so that every Blender hears the same.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.errors import HeroError
from hero_core.face import sound as core
from hero_core.face.sound import RATE, Sound

from . import compat

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Plan:
    """What is to be heard, and when.

    path      file; None where the sound is packed into the .blend (then ``packed`` holds it)
    seconds   length of the strip on the timeline
    start     seconds of the file at the strip's first frame
    speed     seconds of the file for each second of the timeline
    volume    of the sound strip
    """

    name: str
    path: str | None
    seconds: float
    start: float
    speed: float
    volume: float = 1.0
    packed: bytes | None = None
    notes: tuple[str, ...] = ()

    def read(self) -> Sound:
        """Decode and cut; raises HeroError where the file has no sound or cannot be read."""
        heard = self._decoded()
        count = max(1, round(self.seconds * RATE))
        at = (self.start + np.arange(count) / RATE * self.speed) * RATE
        x = heard.samples
        inside = (at >= 0) & (at <= len(x) - 1)
        cut = np.where(inside, np.interp(at, np.arange(len(x)), x), 0.0).astype(np.float32) * self.volume
        notes = [*self.notes, *(note for note in heard.notes if note != "the sound is silent")]
        if float(np.abs(cut).max()) < 1e-4:
            notes.append("the sound is silent")
        return Sound(cut, RATE, tuple(notes))

    def _decoded(self) -> Sound:
        if self.packed is None:
            assert self.path is not None
            return decode(self.path)
        with tempfile.TemporaryDirectory(prefix="hero-") as folder:
            file = Path(folder) / ("sound" + Path(self.path or "sound.wav").suffix)
            file.write_bytes(self.packed)
            return decode(str(file))


def decode(path: str) -> Sound:
    """All of a file's sound, channels averaged, at 16 kHz; by aud where there is one that can read it, else by PyAV."""
    if not Path(path).is_file():
        raise HeroError(f"There is no file '{path}' to hear; find or replace it.")
    found = _by_aud(path)
    return found if found is not None else core.read(path)


def _by_aud(path: str) -> Sound | None:
    """None where this Blender has no aud, or aud cannot read the file: PyAV then says what is wrong with it."""
    try:
        import aud
    except ImportError:
        return None
    try:
        given: Any = aud.Sound(path)  # type: ignore[call-arg, unused-ignore]
        rate, channels = given.specs
        samples = np.asarray(given.data(), np.float32)
    except Exception:  # noqa: BLE001 - aud's own error, which is no subclass of anything useful
        return None
    if not samples.size or not channels:
        return None
    samples = samples.reshape(-1, int(channels))
    whole = core.mono(samples.clip(-4, 4), round(float(rate)))
    return Sound(core.resampled(whole.samples, whole.rate, RATE), RATE, whole.notes)


# --- strips --------------------------------------------------------------------------------------------------------


def plan(scene: bpy.types.Scene, strip: Any) -> Plan | None:
    """What is heard while the strip is seen; None where it has no sound that can be found.

    A movie strip is heard by the sound strip that lies beside it (of the same file, or the only one that spans the
    same time), unless that is muted; else by its own file. A sound strip is heard itself, a meta strip by the sound
    strips inside.
    """
    first, end = compat.strip_range(strip)
    if strip.type == "SOUND":
        return _of_sound(scene, strip, first, end)
    beside = _beside(scene, strip, first, end)
    if beside is not None:
        return None if beside.mute else _of_sound(scene, beside, first, end)
    if strip.type == "META":
        inner = [each for each in compat.strips_of(strip) if each.type == "SOUND" and not each.mute]
        longest = max(inner, key=lambda each: compat.strip_range(each)[1] - compat.strip_range(each)[0], default=None)
        return _of_sound(scene, longest, first, end) if longest is not None else None
    if strip.type != "MOVIE":
        return None
    return _of_movie(scene, strip, first, end)


def _rate(scene: bpy.types.Scene) -> float:
    return scene.render.fps / scene.render.fps_base


def _beside(scene: bpy.types.Scene, strip: Any, first: int, end: int) -> Any | None:
    """The sound strip of a movie strip: of the same file first, else the one that spans the same time."""
    sounds = []
    for other in compat.all_strips_of(scene):
        if other.type != "SOUND" or other.sound is None:
            continue
        start, stop = compat.strip_range(other)
        shared = min(end, stop) - max(first, start)
        if shared > 0:
            same = strip.type == "MOVIE" and _path(scene, strip.filepath) == _path(scene, other.sound.filepath)
            spans = abs(start - first) <= 1 and abs(stop - end) <= 2
            if same or spans:
                sounds.append((same, not other.mute, shared, other))
    return max(sounds, key=lambda each: each[:3])[3] if sounds else None


def _path(scene: bpy.types.Scene, path: str) -> str:
    return str(Path(bpy.path.abspath(path, library=scene.library)).absolute())


def _of_sound(scene: bpy.types.Scene, strip: Any, first: int, end: int) -> Plan:
    """A sound strip as heard from ``first`` to ``end``; it plays in real time, or at the speed it was given."""
    rate = _rate(scene)
    if strip.sound is None:
        raise HeroError(f"The sound strip '{strip.name}' has no sound; choose one in its Source panel.")
    packed = bytes(strip.sound.packed_file.data) if strip.sound.packed_file is not None else None
    speed, notes = _sound_speed(strip)
    offset = float(getattr(strip, "sound_offset", 0.0) or 0.0)
    trimmed = int(getattr(strip, "animation_offset_start", 0))
    content = float(strip.frame_start)
    start = ((first - content) * speed + trimmed) / rate - offset
    return Plan(
        strip.name, _path(scene, strip.sound.filepath), (end - first) / rate, start, speed, float(strip.volume), packed,
        notes,
    )  # fmt: skip


def _sound_speed(strip: Any) -> tuple[float, tuple[str, ...]]:
    """How fast a sound strip plays: its keys of retiming tell how long its content is now."""
    keys = [float(key.timeline_frame) for key in getattr(strip, "retiming_keys", ())]
    if len(keys) < 2 or keys[-1] <= keys[0]:
        return 1.0, ()
    whole = _content_frames(strip)
    notes = ("the strip has several speeds: their mean is heard",) if len(keys) > 2 else ()
    return (whole / (keys[-1] - keys[0]) if whole else 1.0), notes


def _content_frames(strip: Any) -> float:
    """Frames of the scene that a sound lasts at its own speed, from its file; 0 where it cannot be told."""
    seconds = media_seconds(_path(strip.id_data, strip.sound.filepath))
    return seconds * _rate(strip.id_data) if seconds else 0.0


def _of_movie(scene: bpy.types.Scene, strip: Any, first: int, end: int) -> Plan | None:
    """A movie strip by the sound of its own file, which runs as the picture does."""
    path = _path(scene, strip.filepath)
    if not Path(path).is_file() or not has_sound(path):
        return None
    rate, fps = _rate(scene), float(strip.fps or 0.0) or _rate(scene)
    content, shown = float(strip.frame_start), float(strip.frame_duration)
    notes: tuple[str, ...] = ()
    keys = [float(key.timeline_frame) for key in getattr(strip, "retiming_keys", ())]
    trims = int(getattr(strip, "animation_offset_start", 0)), int(getattr(strip, "animation_offset_end", 0))
    frames = shown
    if len(keys) >= 2 and keys[-1] > keys[0]:
        whole = media_seconds(path)
        frames = (whole * fps - sum(trims)) if whole else shown
        shown = keys[-1] - keys[0] + 1
        if len(keys) > 2:
            notes = ("the strip has several speeds: their mean is heard",)
    per_frame = frames / max(shown, 1.0)  # frames of the file in each frame of the scene
    start = ((first - content) * per_frame + trims[0]) / fps
    return Plan(strip.name, path, (end - first) / rate, start, per_frame * rate / fps, 1.0, None, notes)


def has_sound(path: str) -> bool:
    """Whether a movie file has a sound stream."""
    try:
        import av
    except ImportError:
        return _by_aud(path) is not None
    try:
        with av.open(path) as container:
            return bool(container.streams.audio)
    except Exception:  # noqa: BLE001 - PyAV raises many kinds for damaged files
        return False


def file_plan(path: str) -> Plan | None:
    """All of a file; None where it has no sound."""
    return Plan(Path(path).stem, path, media_seconds(path), 0.0, 1.0) if has_sound(path) else None


def media_seconds(path: str) -> float:
    """How long the picture, or else the sound, of a file lasts."""
    try:
        import av

        with av.open(path) as container:
            for stream in (*container.streams.video, *container.streams.audio):
                if stream.duration and stream.time_base:
                    return float(stream.duration * stream.time_base)
            return float(container.duration or 0) / 1e6
    except Exception:  # noqa: BLE001 - PyAV raises many kinds for damaged files
        return 0.0
