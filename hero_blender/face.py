# SPDX-License-Identifier: GPL-3.0-or-later
"""The face's part of the main job: the sound and face of a speaker in, the face of a listener on a character out.

``face_take`` may run in any thread and touches no bpy; ``prepare`` before it and ``write`` after it run in the main
thread. ``FaceReaction`` is generated at 25 frames per second whatever the scene's rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from hero_core.errors import Cancelled, HeroError
from hero_core.face import curves, listener
from hero_core.face.keys import Options
from hero_core.face.reaction import FPS, FaceReaction
from hero_core.face.sound import Sound

from . import compat, face_keys, face_rig, sound, torch_folder
from .job import Worker

Progress = Callable[[int, int], bool]
OFF, RULES, MODEL = "OFF", "RULES", "MODEL"


@dataclass(frozen=True)
class FaceSettings:
    """What the face does, and how it is keyed.

    kind      OFF, RULES (the rule-based listener, which is not learned) or MODEL (ReactDiff)
    model     folder of ReactDiff weights
    takes     take i is drawn from seed + i
    rules     sliders of the rule-based listener
    speaker   file of the speaker's face curves, or ""
    online    MODEL: each frame knows only what came before
    file      face map or preset to use instead of what is found, or ""
    torch     folder that holds PyTorch, if Blender's Python does not
    """

    kind: str = RULES
    model: str = ""
    takes: int = 1
    seed: int = 0
    rules: listener.Options = field(default_factory=listener.Options)
    speaker: str = ""
    online: bool = False
    device: str = "auto"
    file: str = ""
    torch: str = ""
    keys: Options = field(default_factory=Options)

    @property
    def on(self) -> bool:
        return self.kind != OFF


class _Kept:
    model: tuple[Any, Any] | None = None


def forget_model() -> None:
    """Free the memory that the face's model takes."""
    _Kept.model = None


def _load(settings: FaceSettings) -> Any:
    files = sorted(Path(settings.model).glob("*"))
    key = (settings.model, settings.device, [(file.name, file.stat().st_mtime_ns) for file in files])
    if _Kept.model is None or _Kept.model[0] != key:
        forget_model()
        torch_folder.load()
        from hero_core.face import checkpoint

        model = checkpoint.load(Path(settings.model), settings.device)
        if model.cfg.features != "curves":
            raise HeroError(
                f"'{settings.model}' needs features of the official networks, which are not given out; choose weights "
                "that were trained on curves."
            )
        _Kept.model = key, model
    return _Kept.model[1]


def face_take(
    plan: sound.Plan | Sound | None, seconds: float, settings: FaceSettings, on_progress: Progress | None = None
) -> FaceReaction:
    """The listener's face for a clip of so many seconds. For any thread: no bpy.

    Args:
        plan: the speaker's sound, read or still to be read; None: the clip has none.

    Raises:
        HeroError: a file that cannot be read, a model that does not fit, or one that has nothing to go by.
        Cancelled: ``on_progress(done, total)`` returned False.
    """
    if settings.kind not in (RULES, MODEL):
        raise HeroError("The face is switched off; choose the rule-based listener or ReactDiff weights.")
    if settings.takes < 1:
        raise HeroError(f"At least 1 take is needed, not {settings.takes}.")
    total = settings.takes

    def tell(done: int, of: int) -> None:
        if on_progress is not None and not on_progress(done, of):
            raise Cancelled

    tell(0, total)
    frames = max(1, round(seconds * FPS))
    voice = plan.read() if isinstance(plan, sound.Plan) else plan
    track = curves.read(settings.speaker) if settings.speaker else None
    notes = list(track.notes) if track is not None else []
    if voice is None:
        notes.append(
            "the clip has no sound: nothing is answered" if settings.kind == RULES else "the clip has no sound"
        )
    faces = []
    tell(0, total)
    model = _load(settings) if settings.kind == MODEL else None
    known = None
    if model is not None:
        from hero_core.face import features

        known = features.curves(voice, track, frames)
    for take in range(total):
        seed = settings.seed + take
        if model is None:
            faces.append(listener.listen(voice, track, 1, seed, settings.rules, frames))
            tell(take + 1, total)
        else:

            def inner(done: int, of: int, take: int = take) -> bool:
                return on_progress is None or on_progress(take * of + done, total * of)

            faces.append(model.react(known, 1, seed, settings.online, on_progress=inner))
    notes += [note for each in faces[:1] for note in each.notes]
    return FaceReaction(
        np.concatenate([each.coefficients for each in faces]),
        np.concatenate([each.attributes for each in faces]),
        FPS,
        faces[0].source,
        settings.seed,
        tuple(dict.fromkeys(notes)),
    )


def check(armature: bpy.types.Object | None, mesh: bpy.types.Object | None, settings: FaceSettings) -> face_rig.Face:
    """The face of the character; raises HeroError for what can be known before any work. For the main thread."""
    if settings.kind == MODEL:
        if not settings.model or not Path(settings.model).is_dir():
            raise HeroError(f"There is no folder '{settings.model}' of ReactDiff weights; choose one, or the rules.")
        torch_folder.make_importable(settings.torch)
    if settings.speaker and not Path(settings.speaker).is_file():
        raise HeroError(f"There is no file '{settings.speaker}' of the speaker's face; choose another or none.")
    found = face_rig.find(armature, mesh, settings.keys, Path(settings.file) if settings.file else None)
    face_keys.check(found)
    return found


def write(
    armature: bpy.types.Object | None,
    mesh: bpy.types.Object | None,
    made: FaceReaction,
    clip: str,
    first_frame: float,
    scene: bpy.types.Scene,
    settings: FaceSettings,
    body: Sequence[str] = (),
) -> dict[str, Any]:
    """Key a face on a character; the report of ``face_keys.write_face``. For the main thread.

    Args:
        body: names of the Actions of the body's takes on the armature.
    """
    return face_keys.write_face(check(armature, mesh, settings), made, clip, first_frame, scene, settings.keys, body)


class FaceJob:
    """The face alone in steps, as ``react.Reaction`` is: call ``step`` from a timer until ``report`` is there.

    The clip is a strip or the path of a movie or sound file. Data-blocks are kept by name. With ``body`` names of
    takes it is keyed into those (see ``face_keys.write_face``); ``hold`` makes it wait for that.
    """

    def __init__(
        self,
        scene: bpy.types.Scene,
        clip: Any,
        armature: bpy.types.Object | None,
        mesh: bpy.types.Object | None,
        settings: FaceSettings,
        start: float = 1,
        hold: bool = False,
    ) -> None:
        if clip is None:
            raise HeroError("There is no clip; select a movie or sound strip in the sequencer, or choose a file.")
        if not settings.on:
            raise HeroError("The face is switched off; choose the rule-based listener or ReactDiff weights.")
        check(armature, mesh, settings)
        plan: sound.Plan | None
        if isinstance(clip, str):
            self.start, self.clip = start, Path(clip).stem
            plan = sound.file_plan(clip)
            seconds = sound.media_seconds(clip)
            if not seconds:
                raise HeroError(f"'{clip}' cannot be heard or seen; choose a movie or sound file.")
        else:
            first, end = compat.strip_range(clip)
            if end <= first:
                raise HeroError(f"The strip '{clip.name}' has no length; drag one of its handles out.")
            self.start, self.clip = first, clip.name
            seconds = (end - first) * scene.render.fps_base / scene.render.fps
            plan = sound.plan(scene, clip)
        self.report: dict[str, Any] | None = None
        self.stage = "Listening"
        self.made: FaceReaction | None = None
        self._hold = hold
        self._scene, self._settings = scene.name, settings
        self._armature = armature.name if armature is not None else None
        self._mesh = mesh.name if mesh is not None else None
        self._begun, self._thought = time.perf_counter(), 0.0
        self._cancelled = False
        self._worker = Worker(lambda tell: face_take(plan, seconds, settings, tell))

    @property
    def fraction(self) -> float:
        """How much is done, 0..1."""
        return min(1.0, self._worker.done / max(1, self._worker.total))

    @property
    def left(self) -> float:
        """Seconds that it will still take, as far as one knows."""
        done = self.fraction
        return (time.perf_counter() - self._begun) * (1 - done) / done if done > 0.02 else 0.0

    def step(self, patience: float = 0.0) -> None:
        """Do a little, or wait for the thread as long as ``patience`` (s). Raises HeroError, or Cancelled."""
        if self._cancelled:
            raise Cancelled
        if self._worker.running:
            self._worker.wait(patience)
            return
        if self.made is None:
            self.made = self._worker.result()
            self._thought = time.perf_counter() - self._begun
        if not self._hold and self.report is None:
            self.write(self.start)

    def write(self, first_frame: float, body: Sequence[str] = ()) -> dict[str, Any]:
        """Key what was made; raises HeroError with nothing changed."""
        assert self.made is not None
        scene = bpy.data.scenes.get(self._scene)
        armature = bpy.data.objects.get(self._armature) if self._armature else None
        mesh = bpy.data.objects.get(self._mesh) if self._mesh else None
        for name, there in ((self._scene, scene), (self._armature, armature), (self._mesh, mesh)):
            if name and there is None:
                raise HeroError(f"'{name}' was deleted or renamed meanwhile; nothing was changed.")
        assert scene is not None
        report = write(armature, mesh, self.made, self.clip, first_frame, scene, self._settings, body)
        report["seconds"]["think"] = self._thought
        self.report = report
        return report

    def cancel(self) -> None:
        """Ask it to stop; a later ``step`` raises Cancelled."""
        self.stage, self._cancelled = "Cancelling", True
        self._worker.cancel()

    def release(self) -> None:
        """Nothing of this job is in the file before its end."""

    def close(self) -> None:
        """Stop, and wait until no thread is left."""
        self._worker.cancel()
        self._worker.join()


class Together:
    """A body's reaction and its face as one job: the face is made first, the body is written, then the face on top.

    ``body`` is a ``react.Reaction``; what a window asks of that is asked of this. Where the body is only previewed
    nothing is keyed of the face either.
    """

    def __init__(self, body: Any, made: FaceJob) -> None:
        self._body, self._face = body, made
        self.report: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    @property
    def stage(self) -> str:
        return self._face.stage if self._face.made is None else str(self._body.stage)

    @property
    def fraction(self) -> float:
        """How much is done, 0..1."""
        share = 0.1 if self._face._settings.kind == RULES else 0.4
        return share * (1.0 if self._face.made is not None else self._face.fraction) + (1 - share) * self._body.fraction

    def step(self, patience: float = 0.0) -> None:
        """Do a little. Raises HeroError, or Cancelled."""
        if self._face.made is None:
            self._face.step(patience)
            return
        if self._body.report is None:
            self._body.step(patience)
        if self._body.report is not None:
            self.report = finish(self._body.report, self._face)

    def cancel(self) -> None:
        """Ask both to stop."""
        self._face.cancel()
        self._body.cancel()

    def close(self) -> None:
        """Stop, and wait until no thread is left."""
        self._face.close()
        self._body.close()


def finish(report: dict[str, Any], made: FaceJob) -> dict[str, Any]:
    """The report of a body's takes with that of the face, which is keyed into them; the body stays where it fails."""
    names = [take["action"] for take in report.get("takes", ())]
    if not names:
        return report
    try:
        told = made.write(report.get("first_frame", made.start), names)
    except HeroError as err:
        return {**report, "face": {"error": str(err), "takes": [], "notes": [f"the face was not keyed: {err}"]}}
    return {**report, "face": told}


def react_face(
    scene: bpy.types.Scene,
    clip: Any,
    armature: bpy.types.Object | None,
    mesh: bpy.types.Object | None,
    settings: FaceSettings,
    on_progress: Progress | None = None,
    start: float = 1,
) -> dict[str, Any]:
    """The face alone, straight through: hear the clip, generate, key."""
    return run(FaceJob(scene, clip, armature, mesh, settings, start), on_progress)


def run(made: FaceJob, on_progress: Progress | None = None) -> dict[str, Any]:
    """All steps, one after the other; the report, or {} of one that holds for a body."""
    try:
        while made.report is None and not (made._hold and made.made is not None):
            if on_progress is not None and not on_progress(round(1000 * made.fraction), 1000):
                raise Cancelled
            made.step(patience=0.02)
        return made.report or {}
    finally:
        made.close()


def with_body(settings: FaceSettings, takes: int, seed: int) -> FaceSettings:
    """The same takes and seeds as the body."""
    return replace(settings, takes=takes, seed=seed)
