# SPDX-License-Identifier: GPL-3.0-or-later
"""``python build.py demo``: a character reacts to a clip, in real Blender, from a movie strip to keys on a Rigify rig.

Writes demo.blend, clip.mp4, preview.mp4, contact_sheet.png and report.json; either all of them or none.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

# Nobody's preferences may matter here, and nobody's may change.
_PROFILE = tempfile.mkdtemp(prefix="hero-demo-profile-")
os.environ["BLENDER_USER_RESOURCES"] = _PROFILE

import bpy  # noqa: E402
import numpy as np  # noqa: E402

from demo import mannequin, stage  # noqa: E402
from hero_blender import compat, react  # noqa: E402
from hero_core import picture  # noqa: E402
from hero_core.errors import HeroError  # noqa: E402
from hero_core.video import read_video  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "demo" / "clip.mp4"
FIRST = 1  # scene frame where the strip and the reaction begin
PREVIEW_FPS = 12.5  # about; a whole number of scene frames lies between two rendered ones
SIZE = 480  # of the character's picture, pixels
CLIP_SIZE = (640, SIZE)
COLUMNS = 8
MADE = {"demo.blend", "preview.mp4", "contact_sheet.png", "report.json"}  # and the clip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--video", type=Path, default=CLIP, help="clip to react to")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "demo", help="folder that is made anew")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--model", default=None, help="folder of weights (default: those that ship)")
    parser.add_argument("--samples", type=int, default=4, help="light paths for each pixel of the preview")
    parser.add_argument("--every", type=int, default=0, help="render every so many scene frames (0: about 12 a second)")
    options = parser.parse_args(argv)
    try:
        make(options)
    except HeroError as err:
        print(f"The demo stopped: {err}", file=sys.stderr)
        return 1
    return 0


def make(options: argparse.Namespace) -> None:
    """Make the folder ``options.out``; a former one is replaced when everything is there."""
    if not options.video.is_file():
        raise HeroError(f"There is no video '{options.video}'; name another with --video.")
    out: Path = options.out
    if out.exists() and not (
        out.is_dir() and {file.name for file in out.iterdir()} <= MADE | {file.name for file in out.glob("clip.*")}
    ):
        raise HeroError(f"'{out}' holds other things than a demo; name a folder that is new or empty.")
    part = out.with_name(out.name + ".part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    try:
        _make_in(part, options)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)
    print(f"\n{_short(out)}:")
    for file in sorted(out.iterdir()):
        print(f"  {file.name:20} {file.stat().st_size / 1e6:6.2f} MB")


def _make_in(part: Path, options: argparse.Namespace) -> None:
    """All files of the demo in the empty folder ``part``."""
    seconds: dict[str, float] = {}

    with _step(1, "Rigify human with a body", seconds):
        _open_file(part)
        rig = _rigify_human()
        skin = mannequin.dress(rig)
        stage.paint(skin)
        scene: Any = bpy.context.scene
    with _step(2, "Movie strip in the sequencer", seconds):
        strip = _add_strip(scene, options.video, part)
    with _step(3, "Watch the clip, generate the reaction, fit it to the rig", seconds), _quiet():
        # float32, so that the same seed is the same take on every machine.
        settings = react.Settings(seed=options.seed, model=options.model, dtype="float32")
        report = react.react_strip(scene, strip, rig, settings)
    last = max(int(np.ceil(bpy.data.actions[report["action"]].frame_range[1])), compat.strip_range(strip)[1] - 1)
    scene.frame_start, scene.frame_end = FIRST, last
    with _step(4, "Floor, lights, camera", seconds):
        points = stage.path_of(rig, scene, range(FIRST, last + 1, 4))
        centre = 0.5 * (points.min(0) + points.max(0))
        stage.floor(scene, centre)
        stage.lights(scene, centre)
        stage.camera(scene, points, 1.0)
        _set_render(scene, options.samples)
        _show(rig)
    scene.frame_set(FIRST)
    with _quiet():
        bpy.ops.wm.save_as_mainfile(filepath=str(part / "demo.blend"), compress=True)
    with _step(5, "Preview", seconds):
        _preview(scene, part, options.every)
    report["seconds"]["demo"] = {name: round(value, 2) for name, value in seconds.items()}
    report["video"], report["seed"] = "clip" + options.video.suffix, options.seed
    report["blender"] = bpy.app.version_string
    (part / "report.json").write_text(json.dumps(report, indent=1) + "\n")


def _open_file(part: Path) -> None:
    """An empty file with Blender's usual workspaces, saved once so that paths can be relative to it."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.preferences.filepaths.save_version = 0  # no demo.blend1
    with _quiet():
        bpy.ops.wm.save_as_mainfile(filepath=str(part / "demo.blend"))


def _rigify_human() -> Any:
    """Rigify's basic human, generated as an animator would do it; the meta-rig is kept, hidden."""
    with contextlib.redirect_stdout(io.StringIO()):
        bpy.ops.preferences.addon_enable(module="rigify")
        bpy.ops.object.armature_basic_human_metarig_add()
        metarig = bpy.context.object
        bpy.ops.pose.rigify_generate()
    rig = bpy.context.object
    rig.name = rig.data.name = "Human"
    metarig.hide_set(True)
    metarig.hide_render = True
    return rig


def _add_strip(scene: Any, video: Path, part: Path) -> Any:
    """A copy of the clip beside the .blend, as a strip that plays at the clip's own speed."""
    clip = Path(shutil.copy(video, part / f"clip{video.suffix}"))
    rate = Fraction(read_video(clip, num_frames=1, size=1).fps).limit_denominator(1001)
    scene.render.fps = max(1, round(rate))
    scene.render.fps_base = scene.render.fps / float(rate)
    strip = compat.new_movie_strip(scene, "clip", str(clip), 1, FIRST)
    strip.filepath = f"//{clip.name}"
    return strip


def _set_render(scene: Any, samples: int) -> None:
    """Cycles: the one engine that draws without a graphics card or a window, the same on every machine."""
    scene.render.engine = "CYCLES"
    scene.cycles.samples = samples
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.use_denoising = True
    scene.cycles.denoising_prefilter = "NONE"
    if hasattr(scene.cycles, "denoising_quality"):
        scene.cycles.denoising_quality = "FAST"
    scene.cycles.max_bounces = 1
    scene.render.use_persistent_data = True
    scene.render.resolution_x = scene.render.resolution_y = SIZE
    scene.render.image_settings.file_format = "PNG"
    scene.render.filepath = "//"
    # F12 shows the character, not the movie strip of the same scene.
    scene.render.use_sequencer = False


def _show(rig: Any) -> None:
    """What an animator meets when the file is opened: the rig selected, seen through the camera."""
    for other in bpy.context.view_layer.objects:
        other.select_set(other == rig)
    bpy.context.view_layer.objects.active = rig
    for screen in bpy.data.screens:
        for area in screen.areas:
            if area.type == "VIEW_3D":
                area.spaces.active.region_3d.view_perspective = "CAMERA"


def _preview(scene: Any, part: Path, every: int) -> None:
    rate = Fraction(scene.render.fps) / Fraction(scene.render.fps_base).limit_denominator(1001)
    every = every or max(1, round(float(rate) / PREVIEW_FPS))
    frames = list(range(scene.frame_start, scene.frame_end + 1, every))
    total = float((frames[-1] - FIRST) / rate)
    clip = picture.Clip(next(part.glob("clip.*")), CLIP_SIZE)
    characters = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hero-demo-") as folder:
        image = Path(folder) / "frame.png"
        for done, frame in enumerate(frames):
            scene.frame_set(frame)
            scene.render.filepath = str(image)
            with _quiet():
                bpy.ops.render.render(write_still=True)
            characters.append(picture.read_image(image))
            left = (time.monotonic() - started) / (done + 1) * (len(frames) - done - 1)
            _progress(f"frame {done + 1} of {len(frames)}, {left:.0f} s left", done + 1 == len(frames))
    times = [float((frame - FIRST) / rate) for frame in frames]
    pairs = [(moment, clip.at(moment), character) for moment, character in zip(times, characters, strict=True)]
    movie = [picture.side_by_side(left, right, moment, total) for moment, left, right in pairs]
    picture.write_movie(part / "preview.mp4", movie, rate / every)
    small = picture.Clip(next(part.glob("clip.*")), (SIZE // 2, SIZE // 2), trim=True)
    chosen = [pairs[round(i)] for i in np.linspace(0, len(pairs) - 1, min(COLUMNS, len(pairs)))]
    sheet = [(moment, small.at(moment), picture.shrink(character, 2)) for moment, _, character in chosen]
    picture.write_image(part / "contact_sheet.png", picture.contact_sheet(sheet))


@contextlib.contextmanager
def _step(number: int, title: str, seconds: dict[str, float]) -> Iterator[None]:
    print(f"[{number}/5] {title} ...", flush=True)
    started = time.perf_counter()
    yield
    seconds[title] = time.perf_counter() - started
    print(f"      {seconds[title]:.1f} s", flush=True)


def _progress(text: str, last: bool) -> None:
    if sys.stdout.isatty():
        print(f"      {text:60}", end="\n" if last else "\r", flush=True)
    elif last:
        print(f"      {text}", flush=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Blender's lines about each rendered frame, which C code writes past sys.stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _short(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - said below, and the process has to end either way
        traceback.print_exc()
    shutil.rmtree(_PROFILE, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Blender's own tear-down can hang while a thread of torch lives.
    os._exit(code)
