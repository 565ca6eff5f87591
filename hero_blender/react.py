# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job: a clip in, an Action for each take of the reaction on the armature out.

Stages: *watch* (a file, and a strip that shows one as it is, are read in a thread; other strips Blender renders in the
main thread), *load* the model and *think* (torch, in a thread, no bpy), *fit* (numpy, in a thread) and *write* (one
Action for each take, main thread).
``Reaction`` runs them in steps while a window stays alive; ``react_strip`` and ``react_video`` run the same steps
straight through. The armature is touched by the last stage only, and either all takes are written or nothing is.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import bpy
import numpy as np
import numpy.typing as npt

import hero_core
from hero_core.errors import Cancelled, HeroError
from hero_core.motion import FPS, Motion
from hero_core.place import Place
from hero_core.retarget.options import Options
from hero_core.video import VideoClip, read_video

from . import compat, place, rigfile, takes, torch_folder, why
from .job import Worker, busy, reap
from .place import Choice
from .seam import Join
from .stance import Stance, pose_of_object, put_back, read_stance
from .strip import PlainMovie, StripReading, picture_key, plain_movie
from .takes import Source

if TYPE_CHECKING:
    from hero_core import Hero, VideoFeatures
    from hero_core.cache import FeatureCache

Array = npt.NDArray[Any]
Progress = Callable[[int, int], bool]


@dataclass(frozen=True)
class Settings:
    """What to generate, and with what.

    takes         how many reactions; take i is drawn from seed + i
    seconds       length of the reaction; None = as long as the clip, within what the model can make
    model_length  True = the model chooses a length for each take instead; not every model can
    auto_length   True = the model chooses where it can, else as the clip
    model         folder of weights; None = those that ship
    torch         folder that holds PyTorch, if Blender's Python does not
    fit           how the motion is put on the rig
    guidance, residual_guidance  how closely it keeps to the clip; None = as the model wants
    temperature, topk            see ``hero_core.record.Draw``
    place         when, where and which way round
    preview_first  the takes are shown as a skeleton, and only what is chosen then is keyed
    cache         folder of what was seen of clips, ``cache_megabytes`` large at most; None = memory only
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
    auto_length: bool = False
    guidance: float | None = None
    residual_guidance: float | None = None
    temperature: float = 1.0
    topk: float = 0.9
    place: Choice = field(default_factory=Choice)
    cache: str | None = None
    cache_megabytes: int = 64
    preview_first: bool = False

    def draw(self) -> dict[str, Any]:
        """What all verbs of ``Hero`` take."""
        return {
            "guidance": self.guidance,
            "residual_guidance": self.residual_guidance,
            "temperature": self.temperature,
            "topk": self.topk,
        }


class _Kept:
    """The last model, what was seen of the last clips, the last result: a further take loads and encodes nothing."""

    model: tuple[Any, Hero] | None = None
    cache: tuple[Any, FeatureCache] | None = None
    last: tuple[Motion, VideoFeatures] | None = None
    watched: tuple[tuple[Any, ...], Array] | None = None  # what a strip looked like, and what was seen of it
    loading = threading.Lock()


def load_model(settings: Settings) -> Hero:
    """The model of the settings; loaded again only where they, or its files, are others. May run in any thread."""
    with _Kept.loading:
        files = sorted(Path(settings.model).glob("*")) if settings.model else []
        state = [(file.name, file.stat().st_mtime_ns) for file in files]
        key = (settings.model, settings.device, settings.dtype, state)
        if _Kept.model is None or _Kept.model[0] != key:
            _Kept.model = None  # before the new one takes memory
            torch_folder.load()
            _Kept.model = key, hero_core.load(settings.model, settings.device, settings.dtype)
        return _Kept.model[1]


def features_cache(settings: Settings) -> FeatureCache:
    """What was seen of clips, in memory and in the folder of the settings. Needs torch."""
    from hero_core.cache import FeatureCache

    key = (settings.cache, settings.cache_megabytes)
    if _Kept.cache is None or _Kept.cache[0] != key:
        _Kept.cache = key, FeatureCache(settings.cache, settings.cache_megabytes * 2**20)
    return _Kept.cache[1]


def clear_cache(folder: Path) -> tuple[int, int]:
    """Forget what was seen of clips; returns the bytes that are left of it and how many clips are gone."""
    _Kept.cache = None
    files = list(folder.glob("*.features.safetensors")) if folder.is_dir() else []
    for file in files:
        file.unlink(missing_ok=True)
    left = sum(file.stat().st_size for file in files if file.exists())
    return left, sum(not file.exists() for file in files)


def forget_model() -> None:
    """Free the memory that the model takes."""
    _Kept.model = _Kept.cache = _Kept.last = _Kept.watched = None


def last() -> tuple[Motion, VideoFeatures] | None:
    """What the last job made, and what it saw; for those who show more of it. None after the model was forgotten."""
    return _Kept.last


def think(frames: Array, seconds: float, settings: Settings, on_progress: Progress | None = None) -> Motion:
    """(16, 224, 224, 3) uint8 frames of a clip that lasts so many seconds -> the takes. May run in any thread.

    Raises HeroError where the length cannot be made, or the model is to choose it and does not know how.
    """
    hero = load_model(settings)
    length_of(hero, seconds, settings)  # before the clip is watched
    return _react(settings, None)(hero, _encode(hero, frames, settings, on_progress), seconds, on_progress)


def _encode(hero: Hero, frames: Array, settings: Settings, on_progress: Progress | None) -> VideoFeatures:
    if on_progress is not None and not on_progress(0, 1):
        raise Cancelled
    return features_cache(settings).encode(hero, frames)


def length_of(hero: Hero, seconds: float, settings: Settings) -> int | None:
    """Frames of the reaction; None: the model chooses."""
    if settings.model_length and hero.length_head is None:
        raise HeroError("This model does not choose lengths; take that of the clip, or say how many seconds.")
    if settings.model_length or (settings.auto_length and hero.length_head is not None):
        return None
    if settings.seconds is None:
        return hero.length_for(seconds)
    return hero.check_length(round(settings.seconds * FPS))


Make = Callable[["Hero", "VideoFeatures", float, "Progress | None"], Motion]


def _react(settings: Settings, stance: Stance | None) -> Make:
    """How takes are made of what was seen of a clip, and of how many seconds it lasts."""

    def make(hero: Hero, features: VideoFeatures, seconds: float, on_progress: Progress | None) -> Motion:
        length, start = length_of(hero, seconds, settings), None if stance is None else stance.joints
        motion = hero.react(
            features, settings.takes, length, settings.seed, on_progress, start=start, **settings.draw()
        )
        _Kept.last = motion, features
        return motion

    return make


@dataclass(frozen=True)
class About:
    """What is written down of takes besides their motion, and what of it decides about their keys.

    names   of the Actions; None: after clip, number and seed
    places  one for each take; () = the motion as it is
    stood   the ``Rig.to_world`` for which keys are made; None = where the armature stands
    rate    frames a second of the scene for which keys are made; None = the scene's
    joins   what ``Take.joins`` will say
    join    makes the take's Action of the one that holds its motion alone; None = that is it
    """

    source: Source
    settings: Settings | None = None
    number: int = 1
    names: tuple[str, ...] | None = None
    places: tuple[Place, ...] = ()
    stood: tuple[float, ...] | None = None
    kept: bool = False
    rate: float | None = None
    joins: tuple[Join, ...] = ()
    join: Callable[[bpy.types.Object, bpy.types.Action], bpy.types.Action] | None = None

    def place(self, index: int) -> Place:
        return self.places[index] if self.places else Place()

    def name(self, motion: Motion, index: int) -> str:
        if self.names is not None:
            return self.names[index]
        return f"{self.source.name[:32]} take {self.number + index} seed {_seed(motion, index)}"


def _seed(motion: Motion, index: int) -> int:
    """What a take was drawn from."""
    if not motion.records:
        return motion.seed + index
    record = motion.records[index]
    return record.edits[-1].seed if record.edits else record.seed


def fit(
    armature: bpy.types.Object, motion: Motion, first_frame: int, scene: bpy.types.Scene, options: Options, about: About
) -> Iterator[rigfile.Fitting]:
    """Each take on its way to the armature; nothing is changed yet."""
    stood = None if about.stood is None else np.array(about.stood).reshape(4, 4)
    for take in range(len(motion.lengths)):
        place = about.place(take)
        yield rigfile.Fitting(armature, motion, take, first_frame, scene, options, place, stood, about.rate)


def write_takes(
    armature: bpy.types.Object,
    motion: Motion,
    clip: str,
    first_frame: int,
    scene: bpy.types.Scene,
    options: Options | None = None,
    about: About | None = None,
    fittings: list[rigfile.Fitting] | None = None,
) -> dict[str, Any]:
    """One Action for each take, the first of them assigned; returns the report of the first with a list of all.

    Frames are those of ``scene``. What becomes of the former Action is the choice of ``options.action``. ``fittings``
    have been worked out already. Raises HeroError; the armature has its former action then, and no new one is left.
    """
    rigfile.check_writable(armature)
    options, about = options or Options(), about or About(Source(clip))
    before = {action.name for action in bpy.data.actions}
    former, pose, place = compat.assigned_action(armature), pose_of_object(armature), armature.matrix_basis.copy()
    reports: list[dict[str, Any]] = []
    tracks = [track.name for track in armature.animation_data.nla_tracks] if armature.animation_data else []
    try:
        if fittings is None:
            fittings = list(fit(armature, motion, first_frame, scene, options, about))
            for fitting in fittings:
                fitting.work()
        for take, fitting in enumerate(fittings):
            report = fitting.write(armature, about.name(motion, take))
            action = bpy.data.actions[report["action"]]
            if about.join is not None:
                action = about.join(armature, action)
                report["action"] = action.name
            reports.append(report)
            takes.keep(action, _take(armature, motion, take, fitting, scene, about), motion, take)
        if len(reports) > 1:
            compat.assign_action(armature, bpy.data.actions[reports[0]["action"]])
        actions = [bpy.data.actions[report["action"]] for report in reports]
        _put_away(armature, former, actions, options)
    except BaseException:
        if armature.animation_data:
            for track in [each for each in armature.animation_data.nla_tracks if each.name not in tracks]:
                armature.animation_data.nla_tracks.remove(track)
        compat.assign_action(armature, *former)
        put_back(armature, pose)
        armature.matrix_basis = place
        for action in [action for action in bpy.data.actions if action.name not in before]:
            bpy.data.actions.remove(action)
        raise
    made = []
    for number, action in enumerate(actions):
        made.append({"action": action.name, "seed": _seed(motion, number), "frames": int(motion.lengths[number])})
    return {**reports[0], "action": actions[0].name, "clip": clip, "takes": made}


def _take(
    armature: bpy.types.Object,
    motion: Motion,
    index: int,
    fitting: rigfile.Fitting,
    scene: bpy.types.Scene,
    about: About,
) -> takes.Take:
    settings = about.settings or Settings()
    return takes.Take(
        character=armature.name,
        armature=armature.data.name,
        source=about.source,
        number=about.number + index,
        seed=_seed(motion, index),
        frames=int(motion.lengths[index]),
        rate=motion.fps,
        first_frame=int(fitting.first_frame),
        scene_rate=about.rate or scene.render.fps / scene.render.fps_base,
        stood=tuple(float(value) for value in fitting.rig.to_world.ravel()),
        model=settings.model or "",
        device=settings.device,
        dtype=settings.dtype,
        fit=fitting.options,
        place=about.place(index),
        kept=about.kept,
        record=motion.records[index] if motion.records else None,
        joins=about.joins,
    )


def _put_away(
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
    data.action_blend_type, data.action_extrapolation, data.action_influence = "REPLACE", "HOLD", 1.0
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
    """Remove an Action that nothing else uses, no asset; a take that had to step aside for its name gets it."""
    if old.users - old.use_fake_user > 0 or old.library is not None or old.asset_data is not None:
        return
    name = old.name
    bpy.data.actions.remove(old)
    for action in actions:
        if re.fullmatch(re.escape(name) + r"\.\d{3,}", action.name):
            action.name = name


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
    return straight(Reaction(scene, strip, armature, settings), on_progress)


def react_video(
    scene: bpy.types.Scene,
    clip: VideoClip | str,
    name: str,
    first_frame: int,
    armature: bpy.types.Object | None,
    settings: Settings,
    on_progress: Progress | None = None,
    path: str = "",
) -> dict[str, Any]:
    """The same for a movie file, or for what ``hero_core.video.read_video`` has read of the one at ``path``."""
    return straight(Reaction(scene, clip, armature, settings, name=name, start=first_frame, path=path), on_progress)


def straight(reaction: Reaction, on_progress: Progress | None = None) -> dict[str, Any]:
    """All steps of a reaction, one after the other, where no window has to stay alive; returns its report."""
    try:
        while reaction.report is None:
            if on_progress is not None and not on_progress(round(1000 * reaction.fraction), 1000):
                raise Cancelled
            reaction.step(patience=0.02)
        if on_progress is not None:
            on_progress(1000, 1000)
        return reaction.report
    finally:
        reaction.close()


@dataclass(frozen=True)
class Task:
    """What else than React a ``Reaction`` can do, with the clip of a take that is there.

    clip      fingerprint of the clip: where it was seen before it is not watched again
    make      the motion
    about     what is written down; places and names follow when the motion is there
    replaces  name of the take that goes when the new one is there; "" = none
    """

    name: str
    clip: str
    make: Make
    about: About
    first_frame: int
    replaces: str
    places: Callable[[Motion], tuple[Place, ...]]
    names: Callable[[Motion], tuple[str, ...] | None]
    joiner: Joiner | None = None


class Joiner(Protocol):
    """How the keys of a take come from more than its own motion.

    earlier   (main thread, when the motion is there) motions that have to be fitted, too
    join      (main thread, when all are fitted) the take's Action; see ``About.join``
    """

    def earlier(self) -> list[Motion]: ...

    def join(
        self, obj: bpy.types.Object, new: bpy.types.Action, earlier: list[rigfile.Fitting]
    ) -> bpy.types.Action: ...


# Seconds that the stages last, to begin with; what they last here is learnt.
_pace = {
    "Loading the model": 3.0,
    "Watching the clip": 1.0,
    "Thinking of a reaction": 1.0,
    "Fitting it to the rig": 0.3,
}
_LOAD, _WATCH, _THINK, _FIT = _pace


class Reaction:
    """React, or another ``Task``, in steps: call ``step`` from a timer until ``report`` is there.

    ``clip`` is a strip, the path of a movie file, or what was read of one; with a task it may be None as long as the
    clip was seen before. Data-blocks are remembered by name, for undo and deletion make references invalid.
    """

    def __init__(
        self,
        scene: bpy.types.Scene,
        clip: Any,
        armature: bpy.types.Object | None,
        settings: Settings,
        *,
        name: str = "",
        start: int = 0,
        path: str = "",
        task: Task | None = None,
    ) -> None:
        armature = check(armature, settings)
        place.check(settings.place, scene)
        self.report: dict[str, Any] | None = None
        self.stage = _WATCH if task is None else _LOAD
        self._scene, self._armature = scene.name, armature.name
        self._settings, self._task = settings, task
        self._video = clip if isinstance(clip, VideoClip) else None
        self._file = clip if isinstance(clip, str) else None
        self._reading: StripReading | None = None
        self._plain: PlainMovie | None = None
        self._picture: tuple[Any, ...] | None = None
        if not isinstance(clip, (VideoClip, str, type(None))):
            self._reading = StripReading(scene, clip)
            self._plain, self._picture = plain_movie(scene, clip), picture_key(scene, clip)
        self._loading: Worker[Hero] | None = None
        self._source = self._source_of(name, start, path)
        self._first_frame = task.first_frame if task else settings.place.first_frame(self._source.start, scene)
        self._stance: Stance | None = None
        if task is None and settings.place.start_pose:
            self._stance = read_stance(armature, scene, self._first_frame)
        self._worker: Worker[Any] | None = None
        self._others: list[Worker[Any]] = []
        self._cancelled = False
        self._done: dict[str, float] = {}
        self._begun = time.perf_counter()
        self._furthest = 0.0
        self._shares: list[Array] = []
        self._steps = self._run()

    def _source_of(self, name: str, start: int, path: str) -> Source:
        if self._task is not None:
            return self._task.about.source
        if self._reading is not None:
            reading = self._reading
            return Source(reading.name, "strip", "", self._scene, reading.start, reading.seconds)
        path = path or self._file or ""
        seconds = self._video.duration if self._video is not None else 0.0
        return Source(name or Path(path).stem, "file", path, self._scene, start, seconds)

    # --- how far it is ---

    @property
    def fraction(self) -> float:
        """How much is done, 0..1; it never goes back."""
        past, now, rest = self._expected()
        total = past + now + rest
        if self.report is not None:
            return 1.0
        self._furthest = max(self._furthest, min(0.99, (past + now * self._part()) / total))
        return self._furthest

    def _part(self) -> float:
        """How much of the stage is done."""
        if self.stage == _WATCH and self._reading is not None and self._worker is None:
            return self._reading.fraction
        if self._worker is not None and self._worker.done:
            return min(1.0, self._worker.done / max(1, self._worker.total))
        return min(0.9, (time.perf_counter() - self._begun) / max(_pace.get(self.stage, 1.0), 1e-3))

    @property
    def left(self) -> float:
        """Seconds that it will still take, as far as one knows."""
        _, now, rest = self._expected()
        return rest + max(0.0, now * (1 - self._part()))

    def _expected(self) -> tuple[float, float, float]:
        """Seconds that stages last which are done, going on, and to come."""
        past = sum(_pace[stage] for stage in self._done if stage in _pace and stage != self.stage)
        rest = sum(_pace[stage] for stage in _pace if stage not in self._done and stage != self.stage)
        return past, _pace.get(self.stage, 0.0), rest

    def _enter(self, stage: str) -> None:
        self._leave()
        self.stage = stage

    def _leave(self) -> None:
        spent = time.perf_counter() - self._begun
        self._done[self.stage] = self._done.get(self.stage, 0.0) + spent
        self._begun = time.perf_counter()

    # --- steps ---

    def step(self, patience: float = 0.0) -> None:
        """Do a little, or wait for the thread as long as ``patience`` (s).

        Raises HeroError, or Cancelled, at once: a thread that is in the middle of something ends by itself later.
        """
        if self._cancelled:
            raise Cancelled
        if self._worker is not None and self._worker.running:
            self._worker.wait(patience)
            return
        next(self._steps, None)

    def _run(self) -> Iterator[None]:
        task, settings = self._task, self._settings
        features: VideoFeatures | None = None
        if task is not None and task.clip:
            hero = yield from self._load()
            features = features_cache(settings).get(_key(hero, task.clip))
            if features is None and self._reading is None and self._file is None and self._video is None:
                raise HeroError(
                    f"The clip '{self._source.name}' has to be watched again, and it is not there any more; choose its "
                    "strip or its file as the clip."
                )
        frames: Array | None = None
        seconds = self._source.seconds
        if features is None:
            self._enter(_WATCH)
            if self._plain is not None or self._file is not None:
                self._begin_loading()  # it need not wait for the main thread
            frames, seconds = yield from self._watch()
            self._source = replace(self._source, seconds=seconds)
        self._enter(_LOAD)
        hero = yield from self._load()
        self._enter(_THINK)
        motion = yield from self._think(hero, features, frames, seconds)
        self._enter(_FIT)
        if settings.preview_first and task is None:
            self._show(motion)
        else:
            yield from self._write(motion)

    def _wait(self, worker: Worker[Any]) -> Iterator[None]:
        self._worker = worker
        while worker.running:
            yield
        self._worker = None

    def _begin_loading(self) -> Worker[Hero]:
        if self._loading is None:
            settings = self._settings
            self._loading = Worker(lambda _: load_model(settings))
            self._others.append(self._loading)
        return self._loading

    def _load(self) -> Generator[None, None, Hero]:
        worker = self._begin_loading()
        self._loading = None
        yield from self._wait(worker)
        return worker.result()

    def _watch(self) -> Generator[None, None, tuple[Array, float]]:
        if self._video is not None:
            return self._video.frames, self._video.duration
        if self._file is not None:
            path = self._file
            worker = Worker(lambda on_progress: read_video(path, on_progress=on_progress))
            self._others.append(worker)
            yield from self._wait(worker)
            video = worker.result()
            return video.frames, video.duration
        reading = self._reading
        assert reading is not None
        frames = yield from self._seen()
        if frames is not None:
            return frames, reading.seconds
        while not reading.done:
            if busy():  # Blender crashes where it renders while another thread runs Python
                time.sleep(0.005)
            else:
                reading.step()
            yield
        reading.release()
        clip = reading.clip()
        self._remember(clip.frames)
        return clip.frames, clip.seconds

    def _seen(self) -> Generator[None, None, Array | None]:
        """The frames of a strip that need no rendering: seen before, or as its file has them."""
        if self._picture is not None and _Kept.watched is not None and _Kept.watched[0] == self._picture:
            return _Kept.watched[1]
        plain = self._plain
        if plain is None:
            return None
        worker = Worker(lambda on_progress: plain.read(on_progress=on_progress))
        self._others.append(worker)
        yield from self._wait(worker)
        try:
            frames = worker.result()
        except Cancelled:
            raise
        except HeroError:  # Blender may know how to read it, and says what is wrong if not
            frames = None
        if frames is not None:
            self._remember(frames)
        return frames

    def _remember(self, frames: Array) -> None:
        if self._picture is not None:
            _Kept.watched = self._picture, frames

    def _think(
        self, hero: Hero, features: VideoFeatures | None, frames: Array | None, seconds: float
    ) -> Generator[None, None, Motion]:
        settings, task = self._settings, self._task
        make = task.make if task is not None else _react(settings, self._stance)

        def work(on_progress: Progress) -> Motion:
            seen = features
            if task is None:
                length_of(hero, seconds, settings)
            if seen is None:
                assert frames is not None
                seen = _encode(hero, frames, settings, on_progress)
            if task is not None and task.clip and seen.clip != task.clip:
                raise HeroError(
                    f"The clip '{self._source.name}' is no longer the one that the take reacts to; choose that as the "
                    "clip, or press React for a new take."
                )
            motion = make(hero, seen, seconds, on_progress)
            _Kept.last = motion, seen
            self._shares = why.look(hero, seen, motion)
            return motion

        worker = Worker(work)
        self._others.append(worker)
        yield from self._wait(worker)
        return worker.result()

    def _write(self, motion: Motion) -> Iterator[None]:
        settings, task = self._settings, self._task
        scene, armature = self._blocks()
        if task is not None:
            about = replace(task.about, places=task.places(motion), names=task.names(motion))
        else:
            about = About(self._source, settings, places=self._places(motion, scene, armature))
        joiner = task.joiner if task is not None else None
        earlier: list[rigfile.Fitting] = []
        for former in joiner.earlier() if joiner is not None else ():
            earlier += fit(armature, former, self._first_frame, scene, settings.fit, about)
            yield
            scene, armature = self._blocks()
        fittings: list[rigfile.Fitting] = []
        for fitting in fit(armature, motion, self._first_frame, scene, settings.fit, about):
            fittings.append(fitting)
            yield
            scene, armature = self._blocks()
        if joiner is not None:
            about = replace(about, join=lambda obj, action: joiner.join(obj, action, earlier))

        def work(on_progress: Progress) -> None:
            for done, fitting in enumerate([*earlier, *fittings]):
                if not on_progress(done, len(earlier) + len(fittings)):
                    raise Cancelled
                fitting.work()

        worker = Worker(work)
        self._others.append(worker)
        yield from self._wait(worker)
        worker.result()
        scene, armature = self._blocks()
        name = self._source.name
        report = write_takes(armature, motion, name, self._first_frame, scene, settings.fit, about, fittings)
        why.keep_all(report, self._shares, self._source)
        if task is not None and task.replaces:
            report = _instead(task.replaces, report)
        self._leave()
        times = {"watch": self._done.get(_WATCH, 0.0), "load": self._done.get(_LOAD, 0.0)}
        times |= {"think": self._done.get(_THINK, 0.0), "write": self._done.get(_FIT, 0.0)}
        for stage, spent in self._done.items():
            _pace[stage] = max(0.02, spent)
        self.report = {**report, "seconds": {**report["seconds"], **times}}

    def _show(self, motion: Motion) -> None:
        from . import preview

        scene, armature = self._blocks()
        about = About(self._source, self._settings, places=self._places(motion, scene, armature))
        fit = self._settings.fit
        preview.show(scene, armature, motion, 0, self._first_frame, fit, about, shares=self._shares)
        self.report = {"armature": armature.name, "first_frame": self._first_frame, "takes": [], "seconds": {}}

    def _places(self, motion: Motion, scene: bpy.types.Scene, armature: bpy.types.Object) -> tuple[Place, ...]:
        return tuple(
            place.resolve(self._settings.place, armature, scene, self._first_frame, motion.take(take)[0], self._stance)
            for take in range(len(motion.lengths))
        )

    def _blocks(self) -> tuple[bpy.types.Scene, bpy.types.Object]:
        scene, armature = bpy.data.scenes.get(self._scene), bpy.data.objects.get(self._armature)
        if scene is None or armature is None:
            gone = self._scene if scene is None else self._armature
            raise HeroError(f"'{gone}' was deleted or renamed meanwhile; nothing was changed.")
        return scene, armature

    def cancel(self) -> None:
        """Stop: the next ``step`` raises Cancelled, and the threads come to their ends by themselves."""
        self._cancelled = True
        self.stage = "Cancelling"
        for worker in self._others:
            worker.cancel()

    def release(self) -> None:
        """Leave nothing in the file for now (before it is saved or undone); the next step goes on."""
        if self._reading is not None:
            self._reading.release()

    def close(self) -> None:
        """Stop; nobody waits for threads. ``job.stop_all`` does, before the add-on or Blender goes."""
        self.cancel()
        self.release()
        reap()


def _key(hero: Hero, clip: str) -> str:
    from hero_core.cache import FeatureCache

    return FeatureCache.key(hero, clip)


def _instead(former: str, report: dict[str, Any]) -> dict[str, Any]:
    """The first new take under the name of the take that it replaces."""
    old, new = bpy.data.actions.get(former), bpy.data.actions[report["action"]]
    if old is not None and old != new:
        takes.delete([old])
        new.name = former
        report["takes"][0]["action"] = report["action"] = new.name
    return report
