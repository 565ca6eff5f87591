# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes small movies whose frames can be told apart exactly, so that tests know which frame they got."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

BITS = 16


def numbered(number: int, width: int = 320, height: int = 240, value: int | None = None) -> Any:
    """(H, W, 3) uint8: the number in 16 black and white bars, lowest bit left, in the lower half of the picture.

    The upper half is red on the left and blue on the right, so that a flip or a turn shows.
    """
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (200, 30, 30)
    image[: height // 2, width // 2 :] = (30, 30, 200)
    for bit in range(BITS):
        if number >> bit & 1:
            image[height // 2 :, bit * width // BITS : (bit + 1) * width // BITS] = 235 if value is None else value
    return image


def number_of(image: Any) -> int:
    """What ``numbered`` wrote, read from a picture of any size that shows it whole."""
    height, width = image.shape[:2]
    row = image[height * 5 // 8 : height * 7 // 8].mean((0, 2))  # (W,)
    middles = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return int(sum(1 << bit for bit in range(BITS) if row[middles[bit]] > 118))


def write_movie(
    path: Path,
    images: Sequence[Any] | int,
    fps: int = 25,
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    sound: bool = False,
    size: tuple[int, int] = (320, 240),
) -> Path:
    """Write a movie of the pictures, or of that many numbered ones; ``times`` in 1/1000 s for a variable rate."""
    import av

    if isinstance(images, int):
        images = [numbered(i, *size) for i in range(images)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = options or {}
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=48000) if sound else None
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            write_tone(container, audio, len(images) / fps)
    return path


def write_tone(container: Any, stream: Any, seconds: float) -> None:
    import av

    for start in range(0, int(seconds * 48000), 1024):
        wave = np.sin((start + np.arange(1024)) * 0.05).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_sound(path: Path, seconds: float = 1.0) -> Path:
    """A file with sound alone."""
    import av

    with av.open(str(path), "w") as container:
        write_tone(container, container.add_stream("aac", rate=48000, layout="mono"), seconds)
    return path


def turn_metadata(path: Path, degrees: int) -> Path:
    """Make the file say that it is to be shown turned clockwise, as phones do: the matrix in the mp4's tkhd box."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version, times, id, duration, layer, volume: 40 bytes for version 0
    one = 1 << 16
    cos, sin = {90: (0, one), 180: (-one, 0), 270: (0, -one)}[degrees]
    matrix = [cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30]
    data[place : place + 36] = b"".join((entry & 0xFFFFFFFF).to_bytes(4, "big") for entry in matrix)
    path.write_bytes(data)
    return path
