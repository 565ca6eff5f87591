# SPDX-License-Identifier: GPL-3.0-or-later
"""Which 16 frames of a clip the model sees, and how they become 224x224 pictures; numpy only, PyAV for files.

The rule and the resize are those of the official program (TSN sampling in test mode, then cv2's bilinear
resize of uint8 straight to the square, aspect ratio not kept, no antialias), so that the weights see what they
were trained on.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import Cancelled, HeroError

if TYPE_CHECKING:
    import av
    import av.container
    import av.stream

Array = npt.NDArray[Any]
Progress = Callable[[int, int], bool]

NUM_FRAMES = 16
SIZE = 224


@dataclass(frozen=True)
class VideoClip:
    """What was read of a movie file.

    frames        (num, size, size, 3) uint8 RGB, in the order of time
    indices       (num,) which frames of the file they are
    total_frames  frames of the file that can be decoded
    fps           frames per second, the average where the rate varies
    duration      seconds from the start of the first frame to the end of the last
    damaged       the file is cut short or broken: what could be decoded was taken as the whole
    """

    frames: Array
    indices: Array
    total_frames: int
    fps: float
    duration: float
    damaged: bool = False


def sample_indices(total: int, num: int = NUM_FRAMES) -> Array:
    """(num,) int64: the middle frame of each of ``num`` equal parts; a clip shorter than ``num`` repeats frames.

    Frames are counted, not timed: a variable frame rate is ignored, as in the official program.
    """
    if total < 1:
        raise HeroError("The clip has no frames; choose one that has at least one.")
    step = total / num
    return np.minimum((np.arange(num) * step + step / 2).astype(np.int64), total - 1)


def _taps(source: int, target: int) -> tuple[Array, Array, Array, Array]:
    """Left and right neighbour of each target pixel and their weights in 1/2048, as cv2 rounds them."""
    place = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    left = np.floor(place).astype(np.int64)
    part = place - left
    part[(left < 0) | (left >= source - 1)] = 0
    left = left.clip(0, source - 1)
    right = np.minimum(left + 1, source - 1)
    return left, right, np.rint((1 - part) * 2048).astype(np.int32), np.rint(part * 2048).astype(np.int32)


def resize(image: Array, height: int = SIZE, width: int = SIZE) -> Array:
    """Bilinear, not antialiased: (H, W, C) uint8 -> (height, width, C) uint8, in cv2's 11-bit fixed point."""
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    top, bottom, top_weight, bottom_weight = _taps(image.shape[0], height)
    left, right, left_weight, right_weight = _taps(image.shape[1], width)

    def across(rows: Array) -> Array:  # (height, W, C) -> (height, width, C), 11 fraction bits
        mixed: Array = rows[:, left] * left_weight[:, None] + rows[:, right] * right_weight[:, None]
        return mixed

    upper = top_weight[:, None, None] * (across(image[top]) >> 4) >> 16
    lower = bottom_weight[:, None, None] * (across(image[bottom]) >> 4) >> 16
    resized: Array = ((upper + lower + 2) >> 2).astype(np.uint8)
    return resized


def prepare_frames(frames: Array, num: int = NUM_FRAMES, size: int = SIZE) -> Array:
    """What the encoder sees of a clip: (T, H, W, 3) uint8 RGB, any T >= 1 -> (num, size, size, 3) uint8.

    Raises HeroError where the array is not such a clip.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise HeroError(
            f"The frames are {frames.dtype} of shape {frames.shape}; give uint8 RGB of shape (T, height, width, 3)."
        )
    if 0 in frames.shape:
        raise HeroError(f"The frames have shape {frames.shape}, so there is no picture; give at least one frame.")
    return np.stack([resize(frames[i], size, size) for i in sample_indices(len(frames), num)])


def read_video(
    path: str | os.PathLike[str],
    num_frames: int = NUM_FRAMES,
    size: int = SIZE,
    on_progress: Progress | None = None,
) -> VideoClip:
    """Read ``num_frames`` frames of a movie file by the official rule, turned upright if the file says so.

    The file is walked twice: once over its packets, which tells how many frames there are and where one can
    seek to, then decoding from the key frame before each wanted frame. Memory is that of a few frames, whatever
    the length. A file whose packets do not tell the order of its frames, or that is damaged, is decoded from
    start to end instead; damaged frames at its end are left out, and it counts as that much shorter.

    ``on_progress(done, total)`` is called often; returning False raises Cancelled.
    Raises HeroError where the file is missing, empty, holds no video, or nothing of it can be decoded.
    """
    source = Path(path)
    _check_file(source)
    try:
        import av
    except ImportError as err:
        raise HeroError("Reading a video file needs PyAV; install it with: pip install av") from err

    def report(done: int) -> None:
        if on_progress is not None and not on_progress(done, num_frames):
            raise Cancelled

    try:
        walk = _walk_packets(source, report)
        total, fps, damaged = len(walk.stamps), walk.fps, walk.damaged
        images: dict[int, Array] = {}
        if total and not damaged:
            wanted = sample_indices(total, num_frames)
            images = _decode_at(source, walk, sorted(set(wanted.tolist())), size, report)
        if not images:
            total = _count_frames(source, report)
            damaged |= 0 < total < len(walk.stamps)
            if not total:
                raise HeroError(f"Nothing of '{source}' can be decoded; the file is damaged, export it again.")
            wanted = sample_indices(total, num_frames)
            images = _decode_through(source, sorted(set(wanted.tolist())), size, report)
    except av.FFmpegError as err:
        raise HeroError(f"'{source}' is not a video that can be read ({err.strerror}); choose another file.") from err
    report(num_frames)
    if total > 1 and len(walk.stamps) == total:
        seconds = float((walk.stamps[-1] - walk.stamps[0]) * walk.base)
        fps = (total - 1) / seconds  # the last frame is taken to last as long as the mean one
    return VideoClip(np.stack([images[i] for i in wanted]), wanted, total, fps, total / fps, damaged)


@dataclass(frozen=True)
class Movie:
    """What a movie file says of itself.

    frames         how many can be decoded
    width, height  pixels, turned upright if the file says so and that is asked for
    steady         all frames last equally long
    ordinary       opaque, progressive 8-bit video of the usual range of brightness
    """

    frames: int
    width: int
    height: int
    fps: float
    steady: bool
    ordinary: bool


def read_frames(
    path: str | os.PathLike[str],
    choose: Callable[[Movie], list[int] | None],
    size: int = SIZE,
    on_progress: Progress | None = None,
    upright: bool = True,
    accurate: bool = False,
) -> Array | None:
    """The frames of a movie file that ``choose`` names when it knows the file: (num, size, size, 3) uint8 RGB.

    None where it names none, and where the file cannot be sought through frame by frame: it is damaged, or its packets
    do not tell the order of its frames. ``accurate`` makes the colours without swscale's bias of one grey level.
    ``on_progress(done, total)`` is called often; returning False raises Cancelled. Raises HeroError where the file is
    missing, empty or no video.
    """
    source = Path(path)
    _check_file(source)
    try:
        import av
    except ImportError:
        return None

    def report(done: int) -> None:
        if on_progress is not None and not on_progress(done, NUM_FRAMES):
            raise Cancelled

    try:
        walk = _walk_packets(source, report)
        movie = None if walk.damaged or not walk.stamps else _movie(source, walk, upright)
        chosen = choose(movie) if movie is not None else None
        if chosen is None:
            return None

        def picture(frame: av.VideoFrame) -> Array:
            return _picture(frame, size, upright, accurate)

        images = _decode_at(source, walk, sorted(set(chosen)), size, report, picture)
    except av.FFmpegError as err:
        raise HeroError(f"'{source}' is not a video that can be read ({err.strerror}); choose another file.") from err
    report(NUM_FRAMES)
    return np.stack([images[i] for i in chosen]) if images else None


_ORDINARY = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12"}
_BRIGHT_TRANSFERS = {16, 18}  # PQ and HLG


def _movie(source: Path, walk: _Walk, upright: bool) -> Movie | None:
    container, stream = _open(source)
    with container:
        frame = next(iter(container.decode(stream)), None)
        if frame is None:
            return None
        width, height = frame.width, frame.height
        if upright and round(frame.rotation / 90) % 2:
            width, height = height, width
        ordinary = frame.format.name in _ORDINARY and not frame.interlaced_frame
        ordinary &= int(getattr(stream.codec_context, "color_trc", 0) or 0) not in _BRIGHT_TRANSFERS
    steps = np.diff(np.array(walk.stamps, np.int64))
    steady = len(steps) == 0 or bool(steps.max() - steps.min() <= 1)
    return Movie(len(walk.stamps), width, height, walk.fps, steady, ordinary)


def _check_file(source: Path) -> None:
    if source.is_dir():
        raise HeroError(f"'{source}' is a folder; choose a video file.")
    if not source.exists():
        raise HeroError(f"There is no video file '{source}'; check the path.")
    try:
        with source.open("rb") as file:
            empty = not file.read(1)
    except OSError as err:
        raise HeroError(f"'{source}' cannot be opened ({err.strerror}); check its permissions.") from err
    if empty:
        raise HeroError(f"'{source}' is empty (0 bytes); copy or export the video again.")


def _open(source: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    """The container and its first moving picture; a cover picture of a song is none."""
    import av

    container = av.open(str(source))
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            stream.thread_type = "AUTO"
            return container, stream
    container.close()
    raise HeroError(f"'{source}' has no video in it, only sound or other data; choose a video file.")


@dataclass(frozen=True)
class _Walk:
    """What the packets of a file say. ``stamps`` is empty where they carry no or repeated time stamps."""

    stamps: list[int]  # of each frame, in the order of display
    keys: list[int]  # indices of the frames that decoding can start from
    base: Fraction  # seconds in one unit of the stamps
    fps: float
    damaged: bool


def _walk_packets(source: Path, report: Callable[[int], None]) -> _Walk:
    """Read all packets without decoding them."""
    import av

    stamps: list[int] = []
    keys: set[int] = set()
    hidden, ordered, damaged = 0, True, False
    container, stream = _open(source)
    with container:
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        base = stream.time_base or 1 / rate
        try:
            for number, packet in enumerate(container.demux(stream)):
                if number % 256 == 0:
                    report(0)
                if packet.size == 0:  # the flush at the end
                    continue
                damaged |= packet.is_corrupt
                if packet.is_discard:  # decoded, but hidden by an edit list
                    hidden += 1
                elif packet.pts is None:
                    ordered = False
                else:
                    stamps.append(packet.pts)
                    if packet.is_keyframe:
                        keys.add(packet.pts)
        except av.FFmpegError:
            damaged = True
        damaged |= len(stamps) + hidden < stream.frames and ordered  # a cut file still promises all in its header
    stamps.sort()
    if not ordered or len(set(stamps)) < len(stamps):
        stamps = []
    return _Walk(stamps, [i for i, stamp in enumerate(stamps) if stamp in keys], base, float(rate), damaged)


_ACCURATE = 2 | 0x40000 | 0x2000  # bilinear, accurate rounding, full chroma


def _picture(frame: av.VideoFrame, size: int, upright: bool = True, accurate: bool = False) -> Array:
    """(size, size, 3) RGB, upright. swscale's plain flags give the pixels that the official decoder gives."""
    if accurate:
        image = frame.reformat(format="rgb24", interpolation=_ACCURATE).to_ndarray()
    else:
        image = frame.to_ndarray(format="rgb24")  # (H, W, 3)
    return resize(np.rot90(image, round(frame.rotation / 90) if upright else 0), size, size)


def _decode_at(
    source: Path,
    walk: _Walk,
    wanted: list[int],
    size: int,
    report: Callable[[int], None],
    picture: Callable[[av.VideoFrame], Array] | None = None,
) -> dict[int, Array]:
    """Pictures of the wanted frames, by seeking; empty where the file does not do what its packets promise."""
    stamps, keys = walk.stamps, walk.keys
    wanted_stamps = {stamps[i] for i in wanted}
    images: dict[int, Array] = {}
    container, stream = _open(source)
    with container:
        frames: Iterator[av.VideoFrame] = iter(())
        coming = -1  # index of the frame that comes next, -1 before the first seek
        for target in wanted:
            key = keys[max(bisect.bisect_right(keys, target) - 1, 0)] if keys else 0
            if coming < 0 or key > coming:
                container.seek(stamps[key], stream=stream)
                frames = _decoded(container, stream, wanted_stamps)
            for frame in frames:
                report(len(images))
                if frame.pts is None or frame.pts >= stamps[target]:
                    break
            else:
                return {}
            if frame.pts != stamps[target] or frame.is_corrupt:
                return {}
            images[target] = picture(frame) if picture is not None else _picture(frame, size)
            coming = target + 1
    return images


def _decoded(container: Any, stream: Any, wanted_stamps: set[int]) -> Iterator[Any]:
    """Decode on from here. A frame that no other frame needs is skipped unless it is wanted itself."""
    for packet in container.demux(stream):
        stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted_stamps else "NONREF"
        yield from packet.decode()


def _frames_to_the_end(source: Path, report: Callable[[int], None], done: Callable[[], int]) -> Iterator[Any]:
    """Every whole frame; what is damaged is left out. Ends where the file breaks off."""
    import av

    container, stream = _open(source)
    with container:
        packets = container.demux(stream)
        while True:
            report(done())
            try:
                packet = next(packets)
                if not packet.is_corrupt:
                    yield from (frame for frame in packet.decode() if not frame.is_corrupt)
            except StopIteration:
                return
            except av.InvalidDataError:
                continue
            except av.FFmpegError:
                return


def _count_frames(source: Path, report: Callable[[int], None]) -> int:
    return sum(1 for _ in _frames_to_the_end(source, report, lambda: 0))


def _decode_through(source: Path, wanted: list[int], size: int, report: Callable[[int], None]) -> dict[int, Array]:
    """Pictures of the wanted frames, by decoding the file from its start."""
    images: dict[int, Array] = {}
    if wanted:
        for number, frame in enumerate(_frames_to_the_end(source, report, lambda: len(images))):
            if number in set(wanted):
                images[number] = _picture(frame, size)
            if number >= wanted[-1]:
                break
    return images
