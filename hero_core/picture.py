# SPDX-License-Identifier: GPL-3.0-or-later
"""Clip and character side by side: as a movie and as a contact sheet. numpy and PyAV alone."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB

BACK = (18, 20, 24)
INK = (214, 218, 224)
ACCENT = (238, 110, 36)
# Rows of dots for what a time is written with.
GLYPHS = {
    "0": "### #.# #.# #.# ###".split(),
    "1": ".#. ##. .#. .#. ###".split(),
    "2": "### ..# ### #.. ###".split(),
    "3": "### ..# .## ..# ###".split(),
    "4": "#.# #.# ### ..# ..#".split(),
    "5": "### #.. ### ..# ###".split(),
    "6": "### #.. ### #.# ###".split(),
    "7": "### ..# .#. .#. .#.".split(),
    "8": "### #.# ### #.# ###".split(),
    "9": "### #.# ### ..# ###".split(),
    ".": ". . . . #".split(),
    "s": "... ... .## .#. ##.".split(),
    " ": "... ... ... ... ...".split(),
}


class Clip:
    """All pictures of a movie at the size they are shown at, found by time."""

    def __init__(self, path: Path, size: tuple[int, int], trim: bool = False) -> None:
        """size: (W, H) that the pictures are fitted into, with their shape kept. trim: no bars above and below."""
        import av  # not before it is needed: the extension is enabled without it

        self.times: list[float] = []
        self.pictures: list[Image] = []
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            scale = min(size[0] / stream.width, size[1] / stream.height)
            width, height = (max(2, round(scale * side / 2) * 2) for side in (stream.width, stream.height))
            if trim:
                size = (size[0], height)
            for frame in container.decode(stream):
                self.times.append(float(frame.time or 0.0))
                small: Any = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
                self.pictures.append(place(small.to_ndarray(), size))
        first = self.times[0]
        self.times = [moment - first for moment in self.times]

    def at(self, seconds: float) -> Image:
        """The picture that is on screen then; the last one stays, darker, when the clip is over."""
        index = max(0, bisect.bisect_right(self.times, seconds + 1e-6) - 1)
        step = self.times[-1] / max(1, len(self.times) - 1)
        picture = self.pictures[index]
        if seconds > self.times[-1] + 1.5 * step:
            return (picture * 0.35).astype(np.uint8)
        return picture


def place(picture: Image, size: tuple[int, int]) -> Image:
    """The picture in the middle of a canvas of (W, H)."""
    canvas = np.empty((size[1], size[0], 3), np.uint8)
    canvas[:] = BACK
    top, left = (size[1] - picture.shape[0]) // 2, (size[0] - picture.shape[1]) // 2
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def read_image(path: Path) -> Image:
    """(H, W, 3) of an image file."""
    import av

    with av.open(str(path)) as container:
        frame: Any = next(container.decode(video=0))
        out: Image = frame.to_ndarray(format="rgb24")
        return out


def write_image(path: Path, picture: Image) -> None:
    import av

    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream: Any = container.add_stream("png")
        stream.height, stream.width, stream.pix_fmt = picture.shape[0], picture.shape[1], "rgb24"
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *stream.encode(None)]:
            container.mux(packet)


def write_movie(path: Path, pictures: Iterable[Image], fps: Fraction) -> None:
    """H.264 that every player and web browser shows."""
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream: Any = None
        for picture in pictures:
            if stream is None:
                stream = container.add_stream("libx264", rate=fps, options={"crf": "20", "preset": "slow"})
                stream.height, stream.width, stream.pix_fmt = picture.shape[0], picture.shape[1], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def side_by_side(clip: Image, character: Image, seconds: float, total: float) -> Image:
    """Clip left, character right, below them a line that fills with time and the time itself."""
    row = np.concatenate([clip, character], axis=1)
    foot = np.empty((40, row.shape[1], 3), np.uint8)
    foot[:] = BACK
    end = row.shape[1] - 110
    foot[19:21, 16:end] = (60, 64, 70)
    foot[18:22, 16 : 16 + round((end - 16) * min(1.0, seconds / max(total, 1e-6)))] = ACCENT
    _write(foot, f"{seconds:4.1f}s", row.shape[1] - 92, 10, 4)
    return np.concatenate([row, foot], axis=0)


def contact_sheet(columns: list[tuple[float, Image, Image]]) -> Image:
    """One column for each (seconds, clip, character), from left to right."""
    gap, label = 6, 34
    width = max(image.shape[1] for _, *images in columns for image in images)
    heights = [columns[0][1].shape[0], columns[0][2].shape[0]]
    sheet = np.empty((sum(heights) + label + 3 * gap, (width + gap) * len(columns) + gap, 3), np.uint8)
    sheet[:] = BACK
    for index, (seconds, clip, character) in enumerate(columns):
        x = gap + index * (width + gap)
        y = gap
        for image, height in zip((clip, character), heights, strict=True):
            sheet[y : y + height, x : x + width] = place(image, (width, height))
            y += height + gap
        _write(sheet, f"{seconds:.1f}s", x + 4, y + 4, 4)
    return sheet


def shrink(picture: Image, factor: int) -> Image:
    """Mean of blocks of factor x factor dots."""
    height, width = (side // factor * factor for side in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return np.round(blocks.mean(axis=(1, 3))).astype(np.uint8)


def _write(canvas: Image, text: str, x: int, y: int, dot: int) -> None:
    """Draw digits, a point and an s with dots of so many pixels."""
    for letter in text:
        rows = GLYPHS[letter]
        mask = np.array([[bit == "#" for bit in row] for row in rows])
        block = np.kron(mask, np.ones((dot, dot), bool))
        canvas[y : y + block.shape[0], x : x + block.shape[1]][block] = INK
        x += block.shape[1] + dot
