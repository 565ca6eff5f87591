# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job: a clip in, an Action for each take of the reaction on the armature out.

Three stages: *watch* (Blender renders the strip, main thread), *think* (torch, any thread, no bpy) and *write* (one
Action for each take, main thread). ``react_strip`` and ``react_video`` run them straight through; ``Reaction`` runs
them in steps while a window stays alive. The armature is touched by the last stage only, and either all takes are
written or nothing is.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bpy
import numpy.typing as npt

import hero_core
from hero_core.errors import Cancelled, HeroError
from hero_core.motion import FPS, Motion
from hero_core.retarget.options import Options
from hero_core.video import VideoClip

from . import compat, rigfile, torch_folder
from .job import Worker
from .strip import StripReading, read_strip

if TYPE_CHECKING:
    from hero_core import Hero, VideoFeatures

Array = npt.NDArray[Any]
Progress = Callable[[int, int], bool]


@dataclass(frozen=True)
class Settings:
    """What to generate, and with what.

    takes         how many reactions; take i is drawn from seed + i
    seconds       length of the reaction; None = as long as the clip, within what the model can make
    model_length  True = the model chooses a length for each take instead; not every model can
    model         folder of weights; None = those that ship
    torch         folder that holds PyTorch, if Blender's Python does not
    fit           how the motion is put on the rig
    """

    takes: int = 1
    seconds: float | None = None
    model_length: bool = False
    seed: int = 0
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    torch: str = ""
    fit: Options = field(default_factory=Options)


class _Kept:
    """The last model and the last clip: a further take of a clip loads and encodes nothing."""

    model: tuple[Any, Hero] | None = None
    features: tuple[bytes, VideoFeatures] | None = None


def load_model(settings: Settings) -> Hero:
    """The model of the settings; loaded again only where they, or its files, are others."""
    files = sorted(Path(settings.model).glob("*")) if settings.model else []
    state = [(file.name, file.stat().st_mtime_ns) for file in files]
    key = (settings.model, settings.device, settings.dtype, state)
    if _Kept.model is None or _Kept.model[0] != key:
        forget_model()  # before the new one takes memory
        torch_folder.load()
        _Kept.model = key, hero_core.load(settings.model, settings.device, settings.dtype)
    return _Kept.model[1]


def forget_model() -> None:
    """Free the memory that the model takes."""
    _Kept.model = _Kept.features = None


def length_of(hero: Hero, seconds: float, settings: Settings) -> int | None:
    """Frames of the reaction to a clip of so many seconds; None = the model chooses. Raises HeroError as ``think``."""
    if settings.model_length:
        if hero.length_head is None:
            raise HeroError("This model does not choose lengths; take that of the clip, or say how many seconds.")
        return None
    if settings.seconds is None:
        return hero.length_for(seconds)
    return hero.check_length(round(settings.seconds * FPS))


def think(frames: Array, seconds: float, settings: Settings, on_progress: Progress | None = None) -> Motion:
    """(16, 224, 224, 3) uint8 frames of a clip that lasts so many seconds -> the takes. May run in any thread.

    Raises HeroError where the length cannot be made, or the model is to choose it and does not know how.
    """
    hero = load_model(settings)
    length = length_of(hero, seconds, settings)
    if on_progress is not None and not on_progress(0, 1):
        raise Cancelled
    key = hashlib.blake2b(frames.tobytes()).digest()
    if _Kept.features is None or _Kept.features[0] != key:
        _Kept.features = key, hero.encode(frames)
    return hero.react(_Kept.features[1], settings.takes, length, settings.seed, on_progress)


def write_takes(
    armature: bpy.types.Object,
    motion: Motion,
    clip: str,
    first_frame: int,
    scene: bpy.types.Scene,
    options: Options | None = None,
) -> dict[str, Any]:
    """One Action for each take, the first of them assigned; returns the report of the first with a list of all.

    Frames are those of ``scene``. What becomes of the former Action is the choice of ``options.action``. Raises
    HeroError; the armature has its former action then, and no new one is left.
    """
    options = options or Options()
    before = {action.name for action in bpy.data.actions}
    former, pose, place = compat.assigned_action(armature), _pose(armature), armature.matrix_basis.copy()
    reports: list[dict[str, Any]] = []
    tracks = [track.name for track in armature.animation_data.nla_tracks] if armature.animation_data else []
    try:
        for take in range(len(motion.lengths)):
            name = f"{clip[:32]} take {take + 1} seed {motion.seed + take}"
            reports.append(
                rigfile.retarget_motion(
                    armature, motion, take, first_frame=first_frame, name=name, scene=scene, options=options
                )
            )
        if len(reports) > 1:
            compat.assign_action(armature, bpy.data.actions[reports[0]["action"]])
        actions = [bpy.data.actions[report["action"]] for report in reports]
        _place(armature, former, actions, options)
    except BaseException:
        if armature.animation_data:
            for track in [each for each in armature.animation_data.nla_tracks if each.name not in tracks]:
                armature.animation_data.nla_tracks.remove(track)
        compat.assign_action(armature, *former)
        _put_back(armature, pose)
        armature.matrix_basis = place
        for action in [action for action in bpy.data.actions if action.name not in before]:
            bpy.data.actions.remove(action)
        raise
    takes = []
    for number, action in enumerate(actions):
        takes.append({"action": action.name, "seed": motion.seed + number, "frames": int(motion.lengths[number])})
    return {**reports[0], "action": actions[0].name, "clip": clip, "takes": takes}


def _place(
    armature: bpy.types.Object,
    former: tuple[bpy.types.Action | None, Any],
    actions: list[bpy.types.Action],
    options: Options,
) -> None:
    """Keep, remove or layer what was there before, and put the new takes into the NLA where that is asked for."""
    for action in actions:
        action.use_fake_user = True  # a take that is not assigned must outlive saving
    old = former[0]
    data = armature.animation_data
    data.action_blend_type, data.action_extrapolation = "REPLACE", "HOLD"
    if old is not None and options.action in {"layer", "nla"}:
        compat.push_down(armature, old, former[1], old.name)
    if old is not None and options.action == "keep":
        old.use_fake_user = True
    if options.action == "layer":
        data.action_extrapolation = "NOTHING"
    if options.action == "nla":
        compat.assign_action(armature, None)
        for action in actions[::-1]:  # the first take on top; the others wait, muted
            strip = compat.push_down(armature, action, None, action.name)
            strip.mute = action is not actions[0]
    if old is not None and options.action == "replace":
        _replace(old, actions)


def _replace(old: bpy.types.Action, actions: list[bpy.types.Action]) -> None:
    """Remove an Action that nothing else uses; a take that had to step aside for its name gets it."""
    if old.users - old.use_fake_user > 0 or old.library is not None:
        return
    name = old.name
    bpy.data.actions.remove(old)
    for action in actions:
        if re.fullmatch(re.escape(name) + r"\.\d{3,}", action.name):
            action.name = name


_CHANNELS = ("location", "rotation_quaternion", "rotation_euler", "rotation_axis_angle", "scale")


def _pose(armature: bpy.types.Object) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """What an evaluated action overwrites: transforms of the bones, and their properties that are numbers."""
    return {
        bone.name: (
            {channel: tuple(getattr(bone, channel)) for channel in _CHANNELS},
            {key: value for key, value in bone.items() if isinstance(value, (bool, int, float))},
        )
        for bone in (armature.pose.bones if armature.pose else ())
    }


def _put_back(armature: bpy.types.Object, pose: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for name, (channels, properties) in pose.items():
        bone = armature.pose.bones[name]
        for channel, value in channels.items():
            setattr(bone, channel, value)
        for key, value in properties.items():
            bone[key] = value


def check(armature: bpy.types.Object | None, settings: Settings) -> bpy.types.Object:
    """The armature; raises HeroError for what can be known before any work. For the main thread."""
    if settings.takes < 1:
        raise HeroError(f"At least 1 take is needed, not {settings.takes}.")
    rigfile.check_armature(armature)
    torch_folder.make_importable(settings.torch)
    assert armature is not None
    return armature


def react_strip(
    scene: bpy.types.Scene,
    strip: Any,
    armature: bpy.types.Object | None,
    settings: Settings,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Watch a strip, think, and write the takes onto the armature, from the strip's first frame on."""
    armature = check(armature, settings)
    start = time.perf_counter()
    clip = read_strip(scene, strip, on_progress=on_progress)
    watched = time.perf_counter()
    motion = think(clip.frames, clip.seconds, settings, on_progress)
    thought = time.perf_counter()
    return _write(armature, motion, clip.name, clip.start, scene, settings.fit, watched - start, thought - watched)


def react_video(
    scene: bpy.types.Scene,
    clip: VideoClip,
    name: str,
    first_frame: int,
    armature: bpy.types.Object | None,
    settings: Settings,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """The same for a movie file that ``hero_core.video.read_video`` has read."""
    armature = check(armature, settings)
    start = time.perf_counter()
    motion = think(clip.frames, clip.duration, settings, on_progress)
    return _write(armature, motion, name, first_frame, scene, settings.fit, 0.0, time.perf_counter() - start)


def _write(
    armature: bpy.types.Object,
    motion: Motion,
    clip: str,
    first_frame: int,
    scene: bpy.types.Scene,
    fit: Options,
    watch: float,
    think: float,
) -> dict[str, Any]:
    start = time.perf_counter()
    report = write_takes(armature, motion, clip, first_frame, scene, fit)
    stages = {"watch": watch, "think": think, "write": time.perf_counter() - start}
    return {**report, "seconds": {**report["seconds"], **stages}}


class Reaction:
    """``react_strip`` in steps: call ``step`` from a timer until ``report`` is there.

    Data-blocks are remembered by name, for undo and deletion make references invalid.
    """

    def __init__(
        self, scene: bpy.types.Scene, strip: Any, armature: bpy.types.Object | None, settings: Settings
    ) -> None:
        armature = check(armature, settings)
        self.report: dict[str, Any] | None = None
        self.stage = "Watching the strip"
        self._scene, self._armature = scene.name, armature.name
        self._settings = settings
        self._reading = StripReading(scene, strip)
        self._worker: Worker[Motion] | None = None
        self._cancelled = False
        self._watch = self._began = time.perf_counter()

    @property
    def fraction(self) -> float:
        """How much is done, 0..1."""
        if self._worker is None:
            return 0.3 * self._reading.fraction
        return 0.3 + 0.7 * self._worker.done / self._worker.total

    def step(self) -> None:
        """Do a little. Raises HeroError, or Cancelled once the thread has come to its end."""
        if self._worker is None:
            self._watch_a_frame()
        elif not self._worker.running:
            self._finish(self._worker.result())

    def _watch_a_frame(self) -> None:
        if self._cancelled:
            raise Cancelled
        try:
            self._reading.step()
        except ReferenceError as err:
            raise HeroError("The scene of the strip was deleted; nothing was changed.") from err
        if self._reading.done:
            self._reading.release()
            clip, settings = self._reading.clip(), self._settings
            self._watch = time.perf_counter() - self._began
            self._began = time.perf_counter()
            self.stage = "Thinking of a reaction"
            self._worker = Worker(lambda on_progress: think(clip.frames, clip.seconds, settings, on_progress))

    def _finish(self, motion: Motion) -> None:
        scene, armature = bpy.data.scenes.get(self._scene), bpy.data.objects.get(self._armature)
        if scene is None or armature is None:
            gone = self._scene if scene is None else self._armature
            raise HeroError(f"'{gone}' was deleted or renamed meanwhile; nothing was changed.")
        clip, thought = self._reading, time.perf_counter() - self._began
        fit = self._settings.fit
        self.report = _write(armature, motion, clip.name, clip.start, scene, fit, self._watch, thought)

    def cancel(self) -> None:
        """Ask it to stop; a later ``step`` raises Cancelled."""
        self._cancelled = True
        self.stage = "Cancelling"
        if self._worker is not None:
            self._worker.cancel()

    def release(self) -> None:
        """Leave nothing in the file for now (before it is saved or undone); the next step goes on."""
        self._reading.release()

    def close(self) -> None:
        """Stop, and wait until no thread is left."""
        self.cancel()
        self.release()
        if self._worker is not None:
            self._worker.join()
