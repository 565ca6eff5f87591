# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Blender with a window, on a screen that is only memory."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("driver.py")
SIZE = (1440, 1080)


@pytest.fixture(scope="session")
def blender() -> str:
    """The Blender to test; see tools/gui_setup.py."""
    program = os.environ.get("HERO_BLENDER")
    if not program:
        pytest.skip("needs a Blender with a window: HERO_BLENDER=/path/to/blender; tools.gui_setup makes one")
    if shutil.which("Xvfb") is None:
        pytest.skip("needs a virtual screen: Xvfb (Debian: apt-get install xvfb)")
    return program


@pytest.fixture(scope="session")
def session(blender: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the driver saw in one sitting. HERO_PICTURES=FOLDER keeps its pictures."""
    folder = tmp_path_factory.mktemp("gui")
    screen = folder / "screen"
    screen.mkdir()
    addons = folder / "profile" / "scripts" / "addons"
    addons.mkdir(parents=True)
    (addons / "hero_blender").symlink_to(ROOT / "hero_blender")
    reading, writing = os.pipe()
    size = f"{SIZE[0]}x{SIZE[1]}x24"
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", size, "-fbdir", str(screen), "-nolisten", "tcp"],
        pass_fds=(writing,),
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            display = pipe.readline().strip()
        environment = {
            **os.environ,
            "DISPLAY": f":{display}",
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "BLENDER_USER_RESOURCES": str(folder / "profile"),
            "HERO_SCREEN": str(screen / "Xvfb_screen0"),
        }
        window = ["--window-geometry", "0", "0", str(SIZE[0]), str(SIZE[1]), "--factory-startup"]
        command = [blender, *window, "--enable-event-simulate", "--python", str(DRIVER), "--", str(folder)]
        with (folder / "blender.log").open("w") as log:
            code = subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=580, check=False).returncode
    finally:
        server.terminate()
        server.wait()
    text = (folder / "blender.log").read_text()
    assert (folder / "seen.json").is_file(), text[-4000:]
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    kept = Path(os.environ["HERO_PICTURES"]) if os.environ.get("HERO_PICTURES") else folder
    kept.mkdir(parents=True, exist_ok=True)
    for step in seen["steps"]:
        write_png(kept / f"{step['picture']}.png", cut(read_screen(folder / f"{step['picture']}.xwd"), step["cut"]))
    (kept / "seen.json").write_text(json.dumps(seen, indent=1))
    yield {**seen, "log": text, "code": code, "folder": kept}


def read_screen(file: Path) -> Any:
    """(H, W, 3) uint8 RGB of an X window dump of 32 bits a pixel, as Xvfb keeps its screen."""
    data = file.read_bytes()
    header = struct.unpack(">25I", data[:100])
    size, width, height, line, colours = header[0], header[4], header[5], header[12], header[19]
    pixels = np.frombuffer(data, np.uint8, line * height, size + 12 * colours)
    return pixels.reshape(height, line // 4, 4)[:, :width, 2::-1]


def cut(image: Any, box: list[int] | None) -> Any:
    """The part of the picture at (x, y, width, height)."""
    if box is None:
        return image
    x, y, width, height = box
    return image[max(y, 0) : y + height, max(x, 0) : x + width]


def write_png(file: Path, image: Any) -> None:
    """(H, W, 3) uint8, small: each line as its difference from the one above."""
    height, width, _ = image.shape
    lines = np.ascontiguousarray(image).reshape(height, width * 3)
    up = np.diff(lines.astype(np.int16), axis=0, prepend=0).astype(np.uint8)
    raw = np.concatenate([np.full((height, 1), 2, np.uint8), up], 1).tobytes()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
