# SPDX-License-Identifier: GPL-3.0-or-later
"""A strip of the sequencer as the animator sees it: 16 frames at 224x224, with nothing left behind in the file.

Blender itself renders the strip, in a private copy of the scene in which every other channel is muted, so trim,
offset, retiming, crop, flip, transform, modifiers and colour settings count, and so do strips of any kind. What is
not part of a strip does not count: strips that lie over it, and effects or adjustment layers made from it (pick
such an effect strip itself and its inputs are drawn into it). A fade is seen over black.

The picture is what of the strip can be seen in the canvas, stretched to the square as the model was taught: the
letterbox around a strip, or the place of a small one, are not part of it. A strip that moves over the canvas is
seen in the smallest box that holds all its places. Colours are those of the footage (view transform Standard).

A strip that shows a movie file as it is (``plain_movie``) need not be rendered: the same frames are read from the file,
in any thread. While Blender renders, no other thread may run Python: it crashes then.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from hero_core.errors import Cancelled, HeroError
from hero_core.video import NUM_FRAMES, SIZE, Movie, read_frames, resize, sample_indices

from . import compat

Array = npt.NDArray[Any]
Box = tuple[int, int, int, int]  # top, bottom, left, right

# Rendering beyond this many pixels of width or height costs time and shows the model nothing more.
LARGEST_CANVAS = 4096


@dataclass(frozen=True)
class StripClip:
    """What was read of a strip.

    frames   (num, size, size, 3) uint8 RGB
    start    scene frame at which the strip begins
    end      scene frame after its last one
    seconds  its length on the timeline
    """

    name: str
    frames: Array
    start: int
    end: int
    seconds: float


def read_strip(
    scene: bpy.types.Scene,
    strip: Any,
    num: int = NUM_FRAMES,
    size: int = SIZE,
    on_progress: Callable[[int, int], bool] | None = None,
) -> StripClip:
    """``num`` frames of the strip, at the middles of ``num`` equal parts of its time on the timeline.

    ``on_progress(done, total)`` is called before each frame; returning False raises Cancelled. Whatever happens,
    the file is as it was. Raises HeroError where the strip has no picture to show (see ``check_strip``).
    """
    reading = StripReading(scene, strip, num, size)
    try:
        while not reading.done:
            if on_progress is not None and not on_progress(reading.count, num):
                raise Cancelled
            reading.step()
    finally:
        reading.release()
    return reading.clip()


@dataclass(frozen=True)
class PlainMovie:
    """A strip that shows the frames of a movie file as they are: they can be read in a thread, without Blender.

    frames   which frames of the file the strip shows when it is looked at; () where it is retimed
    shares   where it is retimed: how far it is then between its two retiming keys, 0..1, which are the file's ends
    content  frames that the strip says its file has
    rate     frames a second of the scene
    canvas   (width, height) and middle and scale of the strip on it, in pixels
    """

    path: str
    frames: tuple[int, ...]
    content: int
    rate: float
    canvas: tuple[int, int]
    middle: tuple[float, float]
    scale: tuple[float, float]
    shares: tuple[float, ...] = ()

    def read(self, size: int = SIZE, on_progress: Callable[[int, int], bool] | None = None) -> Array | None:
        """(num, size, size, 3) uint8; None where the file is such that only Blender knows what it shows of it."""
        return read_frames(self.path, self._choose, size, on_progress, upright=_NEW_DECODER, accurate=_NEW_DECODER)

    def _choose(self, movie: Movie) -> list[int] | None:
        if not (movie.ordinary and movie.steady and (self.shares or movie.frames == self.content)):
            return None
        if abs(movie.fps - self.rate) > 1e-4 and abs(movie.frames * self.rate / movie.fps - movie.frames) < 1:
            return None  # nearly the scene's rate: it may be played at its own, a frame earlier or later
        for length, file, middle, scale in zip(
            self.canvas, (movie.width, movie.height), self.middle, self.scale, strict=True
        ):
            if abs(middle) + file * scale / 2 > length / 2 + 0.51:
                return None  # the canvas cuts something off
        last = movie.frames - 1
        whole = last + (bpy.app.version >= (5, 0))  # where the last key stands: behind the last frame, or on it
        return list(self.frames) or [min(int(share * whole + 0.5), last) for share in self.shares]


_NEW_DECODER = bpy.app.version >= (4, 5)  # turns movies upright, and makes their colours without a bias

# What must be so of a strip, if only its file is to decide about its picture.
_PLAIN = {
    "use_flip_x": False, "use_flip_y": False, "use_reverse_frames": False, "use_deinterlace": False,
    "use_float": False, "use_multiview": False, "use_proxy": False, "color_multiply": 1.0, "color_saturation": 1.0,
    "multiply_alpha": False, "blend_alpha": 1.0, "animation_offset_start": 0, "animation_offset_end": 0,
    "content_trim_start": 0, "content_trim_end": 0, "stream_index": 0,
}  # fmt: skip


def plain_movie(scene: bpy.types.Scene, strip: Any, num: int = NUM_FRAMES) -> PlainMovie | None:
    """How to read a strip without rendering it; None where anything is done to its picture or to its time."""
    if strip.type != "MOVIE" or strip not in list(compat.strips_of(scene)):
        return None
    if any(getattr(strip, name, value) != value for name, value in _PLAIN.items()):
        return None
    keys = compat.retiming_frames(strip)
    if len(strip.modifiers) or strip.strobe > 1 or len(keys) not in {0, 2}:
        return None
    crop, transform = strip.crop, strip.transform
    if crop.min_x or crop.max_x or crop.min_y or crop.max_y or transform.rotation:
        return None
    if (
        transform.scale_x <= 0
        or transform.scale_y <= 0
        or tuple(getattr(transform, "origin", (0.5, 0.5))) != (0.5, 0.5)
    ):
        return None
    if strip.colorspace_settings.name != "sRGB" or scene.sequencer_colorspace_settings.name != "sRGB":
        return None
    if _is_animated(scene):
        return None
    begin, content = compat.strip_content(strip)
    start, end = compat.strip_range(strip)
    at = [start + int(i) for i in sample_indices(end - start, num)]
    frames: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    if keys:  # two: played faster or slower throughout, as a file is whose rate is not the scene's
        if not keys[0] <= start < end <= keys[1] + 1:
            return None
        shares = tuple((frame - keys[0]) / (keys[1] - keys[0]) for frame in at)
    else:
        if begin != round(begin) or not begin <= start < end <= begin + content:
            return None  # stretched in time, or a frame that is held
        offsets = (start - begin) + (begin + content - end)
        if abs(end - start + offsets - content) > 1e-3:
            return None
        frames = tuple(int(frame - begin) for frame in at)
    path = bpy.path.abspath(strip.filepath, library=scene.library)
    render = scene.render
    return PlainMovie(
        path, frames, int(content), render.fps / render.fps_base, (render.resolution_x, render.resolution_y),
        (transform.offset_x, transform.offset_y), (transform.scale_x, transform.scale_y), shares,
    )  # fmt: skip


# --- Has a strip changed since it was watched? ---

_IDLE = {"rna_type", "select", "select_left_handle", "select_right_handle", "show_retiming_keys", "show_expanded"}
_MOST_FILES = 1000


class _Unknown(Exception):
    """What a strip shows hangs on more than can be compared."""


def picture_key(scene: bpy.types.Scene, strip: Any) -> tuple[Any, ...] | None:
    """Equal as long as a strip shows the same frames; None where nobody can tell cheaply: then it is watched again."""
    if _is_animated(scene) or strip not in list(compat.strips_of(scene)):
        return None
    render = scene.render
    size = (render.resolution_x, render.resolution_y, render.resolution_percentage, render.fps, render.fps_base)
    try:
        values = _values(strip, 0)
        files = tuple((path, *_state(path)) for path in _files(scene, strip, 0))
    except (_Unknown, OSError):
        return None
    return size, scene.sequencer_colorspace_settings.name, values, files


def _values(item: Any, depth: int) -> tuple[Any, ...]:
    """All that RNA knows of a strip, of its modifiers and of its inputs."""
    if depth > 8:
        raise _Unknown
    found: list[Any] = [type(item).__name__]
    for prop in item.bl_rna.properties:
        name = prop.identifier
        if name in _IDLE:
            continue
        value = getattr(item, name)
        if prop.type == "COLLECTION":
            found.append((name, tuple(_values(each, depth + 1) for each in value)))
        elif prop.type == "POINTER":
            if isinstance(value, bpy.types.ID):
                raise _Unknown
            found.append((name, None if value is None else _values(value, depth + 1)))
        elif getattr(prop, "is_array", False):
            found.append((name, tuple(np.ravel([list(row) if hasattr(row, "__len__") else row for row in value]))))
        else:
            found.append((name, frozenset(value) if isinstance(value, set) else value))
    return tuple(found)


def _files(scene: bpy.types.Scene, strip: Any, depth: int) -> list[str]:
    """The files from which a strip and its inputs are made."""
    if strip.type == "MOVIE":
        files = [strip.filepath]
    elif strip.type == "IMAGE":
        files = [f"{strip.directory}/{element.filename}" for element in strip.elements]
    elif compat.strip_inputs(strip) or strip.type == "COLOR":
        files = []
    else:
        raise _Unknown
    files = [bpy.path.abspath(file, library=scene.library) for file in files]
    for given in compat.strip_inputs(strip) if depth < 8 else ():
        files += _files(scene, given, depth + 1)
    if len(files) > _MOST_FILES:
        raise _Unknown
    return files


def _state(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_size, found.st_mtime_ns


def _is_animated(scene: bpy.types.Scene) -> bool:
    """Whether keys or drivers may change what is in the sequencer."""
    data = scene.animation_data
    if data is None:
        return False
    curves = [*compat.fcurves_of(data.action, scene), *data.drivers]
    return bool(len(data.nla_tracks)) or any(curve.data_path.startswith("sequence_editor") for curve in curves)


class StripReading:
    """The same in steps of one frame, so that a window stays alive.

    Between the steps a private copy of the scene is kept, for it holds the opened movie. ``release`` removes it: at
    the end, and before the file is saved, undone or left in between; the next step makes a new one.
    """

    def __init__(self, scene: bpy.types.Scene, strip: Any, num: int = NUM_FRAMES, size: int = SIZE) -> None:
        check_strip(scene, strip)
        self._scene, self.name, self.size = scene.name, strip.name, size
        self.start, self.end = compat.strip_range(strip)
        self.seconds = (self.end - self.start) * scene.render.fps_base / scene.render.fps
        self._at = [self.start + int(i) for i in sample_indices(self.end - self.start, num)]
        self._images: list[Array] = []
        self._boxes: list[Box | None] = []
        self._one_box: Box | None = None  # for all frames, once the strip is known to move over the canvas
        self._private: bpy.types.Scene | None = None

    @property
    def scene(self) -> bpy.types.Scene:
        """By its name: undo makes references invalid."""
        found = bpy.data.scenes.get(self._scene)
        if found is None:
            raise HeroError("The scene of the strip was deleted; nothing was changed.")
        return found

    @property
    def count(self) -> int:
        return len(self._images)

    @property
    def fraction(self) -> float:
        return self.count / len(self._at)

    @property
    def done(self) -> bool:
        return self.count == len(self._at)

    def step(self) -> None:
        """Render the next frame."""
        number = self.count
        if number and self._at[number] == self._at[number - 1]:  # a strip of fewer frames than are asked for
            image, box = self._images[-1], self._boxes[-1]
        else:
            canvas = self._render(self._at[number])
            box = _visible(canvas)
            top, bottom, left, right = self._one_box or box or (0, canvas.shape[0], 0, canvas.shape[1])
            alpha = canvas[top:bottom, left:right, 3:].astype(np.uint16)
            colour = (canvas[top:bottom, left:right, :3] * alpha + 127) // 255  # over black
            image = resize(colour.astype(np.uint8), self.size, self.size)
        self._images.append(image)
        self._boxes.append(box)
        if self.done and self._one_box is None:
            self._settle()

    def _settle(self) -> None:
        seen = [box for box in self._boxes if box is not None]
        if not seen:
            raise HeroError(
                f"The strip '{self.name}' shows nothing; check its file, its opacity and its place in the canvas."
            )
        if len(set(seen)) > 1:  # it moves: start again with one box for all
            tops, bottoms, lefts, rights = zip(*seen, strict=True)
            self._one_box = (min(tops), max(bottoms), min(lefts), max(rights))
            self._images, self._boxes = [], []

    def _render(self, frame: int) -> Array:
        """The canvas at a scene frame with the strip alone: (H, W, 4) uint8 RGBA, not multiplied by its alpha."""
        results = {image.name for image in bpy.data.images if image.type == "RENDER_RESULT"}
        try:
            with _quiet_handlers(), tempfile.TemporaryDirectory(prefix="hero-") as folder:
                if self._private is None:
                    self._private = self.scene.copy()
                    _show_alone(self._private, self.name)
                    self._private.view_layers[0].update()  # else the first frame_set does not animate the strip
                file = Path(folder) / "frame.tga"
                _set_plain_output(self._private, file)
                # A render of scene= would take the sequencer's frame from the window's scene.
                with bpy.context.temp_override(scene=self._private):
                    self._private.frame_set(frame)
                    bpy.ops.render.render(write_still=True)
                return _read_targa(file)
        except BaseException as err:
            self.release()
            if isinstance(err, RuntimeError):  # Blender's own complaint
                reason = str(err).strip().removeprefix("Error: ")
                raise HeroError(f"Blender cannot render the strip '{self.name}': {reason}") from err
            raise
        finally:
            for image in [i for i in bpy.data.images if i.type == "RENDER_RESULT" and i.name not in results]:
                bpy.data.images.remove(image)

    def release(self) -> None:
        """Take the private scene out of the file."""
        private, self._private = self._private, None
        if private is not None:
            with contextlib.suppress(ReferenceError), _quiet_handlers():  # the whole file may be gone
                bpy.data.scenes.remove(private)

    def clip(self) -> StripClip:
        return StripClip(self.name, np.stack(self._images), self.start, self.end, self.seconds)


def check_strip(scene: bpy.types.Scene, strip: Any) -> None:
    """Raise HeroError, with what to do, where a strip has no picture that can be shown."""
    if strip.type == "SOUND":
        raise HeroError(f"'{strip.name}' is a sound strip; select the strip that holds the picture.")
    for holder, inner in _levels(scene, strip):
        if inner.mute:
            raise HeroError(f"The strip '{inner.name}' is muted; unmute it (Alt H) and try again.")
        channel = _channel_of(holder, inner)
        if channel is not None and channel.mute:
            raise HeroError(f"'{channel.name}', on which '{inner.name}' lies, is muted; unmute the channel.")
    start, end = compat.strip_range(strip)
    if end <= start:
        raise HeroError(f"The strip '{strip.name}' has no length; drag one of its handles out.")
    _check_source(scene, strip)


def _check_source(scene: bpy.types.Scene, strip: Any) -> None:
    """The files and data-blocks that a strip, its inputs and its inner strips are made from."""
    files: list[str] = []
    if strip.type == "MOVIE":
        files = [strip.filepath]
    elif strip.type == "IMAGE":
        files = [f"{strip.directory}/{element.filename}" for element in strip.elements]
    elif strip.type == "MOVIECLIP":
        if strip.clip is None:
            raise HeroError(f"The strip '{strip.name}' has no movie clip; choose one in its Source panel.")
        files = [strip.clip.filepath]
    elif strip.type == "SCENE":
        if strip.scene is None:
            raise HeroError(f"The strip '{strip.name}' has no scene; choose one in its Source panel.")
        if strip.scene_input == "CAMERA" and strip.scene_camera is None and strip.scene.camera is None:
            raise HeroError(f"The scene '{strip.scene.name}' of the strip '{strip.name}' has no camera; add one.")
    elif strip.type == "META":
        for inner in compat.strips_of(strip):
            if inner.type != "SOUND" and not inner.mute:
                _check_source(scene, inner)
    for given in compat.strip_inputs(strip):
        _check_source(scene, given)
    for file in files:
        path = Path(bpy.path.abspath(file, library=scene.library))
        if not path.is_file():
            raise HeroError(f"The strip '{strip.name}' is offline: there is no file '{path}'; find or replace it.")
        if not path.stat().st_size:
            raise HeroError(f"The file '{path}' of the strip '{strip.name}' is empty; copy or export it again.")


def _levels(scene: bpy.types.Scene, strip: Any) -> list[tuple[Any, Any]]:
    """From the strip outwards through the metas that hold it: (what holds it, the strip)."""

    def search(holder: Any) -> list[tuple[Any, Any]] | None:
        for inner in compat.strips_of(holder):
            if inner == strip:
                return [(holder, inner)]
            if inner.type == "META" and (found := search(inner)):
                return [*found, (holder, inner)]
        return None

    levels = search(scene.sequence_editor) if scene.sequence_editor else None
    if not levels:
        raise HeroError(f"The strip '{strip.name}' is not in the sequencer of the scene '{scene.name}'.")
    return levels


def _channel_of(holder: Any, strip: Any) -> Any | None:
    channels = holder.channels
    return channels[strip.channel] if strip.channel < len(channels) else None


def _show_alone(private: bpy.types.Scene, name: str) -> None:
    """Mute what is not the strip. Nothing is removed: that would delete animation, which the copy shares."""
    for child in list(private.collection.children):  # the objects would be evaluated for nothing
        private.collection.children.unlink(child)
    for item in list(private.collection.objects):
        private.collection.objects.unlink(item)
    editor = private.sequence_editor
    editor.display_stack(None)  # the animator may be inside a meta strip
    editor.show_missing_media = False
    strip = compat.all_strips_of(private).get(name)
    if strip is None:
        raise HeroError(f"The strip '{name}' was deleted or renamed meanwhile; nothing was changed.")
    for holder, inner in _levels(private, strip):
        for number, channel in enumerate(holder.channels):
            channel.mute = number != inner.channel
        if hasattr(inner, "blend_type"):
            inner.blend_type = "ALPHA_OVER"  # others, such as Multiply, need something below
    render = private.render
    scale = max(abs(strip.transform.scale_x), abs(strip.transform.scale_y), 1e-3) if strip.transform else 1.0
    room = LARGEST_CANVAS // max(render.resolution_x, render.resolution_y)
    # Footage that is drawn smaller than it is keeps its own pixels; whole factors keep them exact.
    render.resolution_percentage = 100 * max(1, min(math.ceil(1 / scale - 1e-3), room))


def _set_plain_output(private: bpy.types.Scene, file: Path) -> None:
    """Bytes as the footage has them, in a format that numpy reads by itself."""
    compat.set_image_output(private, "TARGA_RAW", "RGBA")
    render, view = private.render, private.view_settings
    render.filepath = str(file)
    render.use_file_extension = False
    render.use_sequencer, render.use_compositing = True, False
    render.use_border = render.use_stamp = render.use_multiview = False
    render.dither_intensity = 0
    private.display_settings.display_device = "sRGB"
    view.view_transform, view.look = "Standard", "None"
    view.exposure, view.gamma, view.use_curve_mapping = 0, 1, False


@contextlib.contextmanager
def _quiet_handlers() -> Iterator[None]:
    """Other add-ons' handlers of rendering and frame changes must not take the private scene for the user's."""
    kept = {
        name: list(functions)
        for name in dir(bpy.app.handlers)
        if name.startswith(("render_", "frame_change_", "depsgraph_update_", "composite_"))
        and isinstance(functions := getattr(bpy.app.handlers, name), list)
    }
    try:
        for name in kept:
            getattr(bpy.app.handlers, name).clear()
        yield
    finally:
        for name, functions in kept.items():
            getattr(bpy.app.handlers, name)[:] = functions


def _read_targa(file: Path) -> Array:
    """(H, W, 4) RGBA of an uncompressed 32-bit Targa file."""
    try:
        data = file.read_bytes()
    except OSError as err:
        raise HeroError(f"Blender wrote no frame to '{file.parent}' ({err.strerror}); is the disk full?") from err
    width, height = int.from_bytes(data[12:14], "little"), int.from_bytes(data[14:16], "little")
    pixels = np.frombuffer(data, np.uint8, height * width * 4, 18 + data[0]).reshape(height, width, 4)  # BGRA
    if not data[17] & 0x20:  # rows from the bottom
        pixels = pixels[::-1]
    return pixels[..., [2, 1, 0, 3]]


def _visible(canvas: Array) -> Box | None:
    """Smallest box around what can be seen; a soft edge counts where it is more than half as dense as the rest."""
    alpha = canvas[..., 3]
    seen = alpha > alpha.max() // 2
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not len(rows):
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
