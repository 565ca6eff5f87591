# SPDX-License-Identifier: GPL-3.0-or-later
"""Many clips in one go: ``hero bake`` of the command line.

One process loads the model once and each rig once, reads clips ahead in a thread, and writes the files of each take.
Which tasks there are, who has which, and how a stopped batch goes on is ``hero_core.batch``'s; several of these
processes, started by ``--jobs`` or by a farm, share one folder.

Exit codes: 0 all is there, 1 some clips failed, 2 it could not begin (arguments, list, folder, model), 3 it had to stop
in the middle (disk full), 130 Ctrl-C, 143 SIGTERM. After 3, 130, 143 and SIGKILL the same command goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bpy
import numpy as np

import hero_core
from hero_core import batch
from hero_core.batch import Board, Claim, Manifest, ProgressBar, Record, Stopped, Task, UsageError
from hero_core.errors import Cancelled, HeroError
from hero_core.motion import Motion
from hero_core.video import VideoClip, read_video

from . import bake_preview, bone_map, compat, export, face_command, place, react, rigfile
from .face import OFF, FaceSettings
from .stance import Stance, pose_of_object, put_back, read_stance
from .takes import Source

if TYPE_CHECKING:
    from hero_core import Hero, VideoFeatures

AHEAD = 4  # clips that are read before they are needed, for each rig
_BEGAN = "HERO_BAKE_BEGAN"  # when the batch was begun, for the processes of --jobs
_RESTARTS = 20  # of processes of --jobs that were lost


class _Signal(BaseException):
    """Ctrl-C, or a farm's request to end. No Exception: it is nobody's failure."""

    last: _Signal | None = None  # Blender's operators turn what is raised in them into errors of their own

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def run(args: argparse.Namespace, settings: react.Settings) -> int:
    """Do what the arguments say, as far as it can be done; the exit code. Raises UsageError, Stopped."""
    out: Path = args.out.absolute()
    formats = tuple(dict.fromkeys(args.format or ["blend"]))
    tasks = _tasks(args, out)
    mine = batch.shard(tasks, *batch.read_shard(args.shard)) if args.shard else tasks
    model = _model(settings)
    face = face_command.settings_of(args, 1, 0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):  # permission bits do not tell of read-only disks
            pass
    except OSError as err:
        raise UsageError(batch.cannot_write(out, err)) from err
    began = float(os.environ[_BEGAN]) if os.environ.get(_BEGAN) else None
    with _signals(), contextlib.closing(Board(out, args.stale, began=began)) as board:
        board.tidy()
        run = _Run(board, tasks, mine, formats, tuple(dict.fromkeys(args.preview or [])), settings, model,
                   face, args.face_mesh)  # fmt: skip
        return _Parent(run, args).run() if args.jobs > 1 else _Worker(run, args.worker).run()


def _tasks(args: argparse.Namespace, out: Path) -> list[Task]:
    rigs = [path.absolute() for path in args.rig or []]
    if not rigs and bpy.data.filepath:
        rigs = [Path(bpy.data.filepath)]
    for rig in rigs:
        if not rig.is_file():
            raise UsageError(f"There is no rig file '{rig}'.")
    if args.takes < 1:
        raise UsageError(f"At least 1 take is needed, not {args.takes}.")
    if args.jobs < 1 or args.stale <= 0:
        raise UsageError("--jobs and --stale are numbers above 0.")
    defaults = batch.Defaults(
        tuple(rigs), args.armature, args.map and args.map.absolute(), args.takes, tuple(args.seed or [0]), args.seconds,
        args.length,
    )  # fmt: skip
    return batch.read_tasks(args.clips.absolute(), defaults, out)


def _model(settings: react.Settings) -> Record:
    """What tells the model from others, on every machine; raises UsageError where there is none."""
    folder = Path(settings.model).absolute() if settings.model else Path(hero_core.__file__).parent / "weights"
    if not folder.is_dir():
        raise UsageError(f"There is no folder of weights '{folder}'.")
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in {".safetensors", ".json", ".tar", ".pth", ".npy"}
    )
    try:
        return {path.relative_to(folder).as_posix(): batch.sample_of(path) for path in files}
    except OSError as err:
        raise UsageError(f"The weights in '{folder}' cannot be read ({err.strerror}).") from err


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the work in order; Blender's own handler for Ctrl-C would never tell Python."""

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        _Signal.last = _Signal(number)
        raise _Signal.last

    _Signal.last = None
    had: dict[int, Any] = {}
    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        with contextlib.suppress(ValueError, OSError):  # not the main thread
            had[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in had.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@dataclasses.dataclass
class _Run:
    """A batch as one process sees it."""

    board: Board
    tasks: list[Task]  # the whole list
    mine: list[Task]  # those of the shard
    formats: tuple[str, ...]
    previews: tuple[str, ...]
    settings: react.Settings
    model: Record
    face: FaceSettings = dataclasses.field(default_factory=lambda: FaceSettings(OFF))
    face_mesh: str | None = None

    def __post_init__(self) -> None:
        self._made: dict[str, tuple[int, bool]] = {}
        self._settled: dict[str, str] = {}
        self._looked = self._cost = 0.0
        version = bpy.app.version_string
        head = {"hero": hero_core.__version__, "blender": version, "formats": self.formats, "previews": self.previews}
        self.manifest = Manifest(self.board, self.tasks, head)

    def choices(self, task: Task) -> Record:
        """All that decides a result beside the files that are read."""
        settings = dataclasses.asdict(dataclasses.replace(self.settings, torch="", model=None))
        settings |= {"takes": 1, "seed": 0, "seconds": task.seconds, "model_length": task.length == "model"}
        choices = {
            **settings, "seeds": list(task.seeds), "armature": task.armature, "weights": self.model,
            "formats": list(self.formats), "previews": list(self.previews),
        }  # fmt: skip
        if self.face.on:
            choices["face"] = {**dataclasses.asdict(self.face), "torch": "", "mesh": self.face_mesh}
        out: Record = json.loads(json.dumps(choices, default=str))  # as it comes back from a file
        return out

    def valid(self, task: Task) -> Callable[[Record], bool]:
        """Whether a result is about what the task's files and choices are now, and is still there."""

        def check(record: Record) -> bool:
            inputs = record.get("inputs") or {}
            same = inputs.get("choices") == self.choices(task)
            same = (
                same and batch.unchanged(inputs.get("clip"), task.clip) and batch.unchanged(inputs.get("rig"), task.rig)
            )
            same = same and (task.map is None or batch.unchanged(inputs.get("map"), task.map))
            return same and batch.there(record.get("files"), self.board.out)

        def remembered(record: Record) -> bool:
            known = self._made.get(task.key)
            if known is None or known[0] != id(record):
                known = self._made[task.key] = id(record), check(record)
            return known[1]

        return remembered

    def state(self, task: Task) -> str:
        """ "done" and "failed" are final for this process; else "busy" or "free"."""
        if task.key not in self._settled:
            kind = self.board.state(task, self.valid(task))[0]
            if kind not in ("done", "failed"):
                return kind
            self._settled[task.key] = kind
        return self._settled[task.key]

    def ends(self, now: bool = False) -> tuple[int, int]:
        """How many tasks of the shard are ended, and how many of those failed.

        What others did is looked up so that it takes a twentieth of the time at most, or ``now``.
        """
        start = time.monotonic()
        if now or start - self._looked > 20 * self._cost:
            for task in self.mine:
                self.state(task)
            self._looked = time.monotonic()
            self._cost = self._looked - start
        states = list(self._settled.values())
        return len(states), states.count("failed")

    def finish(self, before: int, started: float) -> int:
        """Write the manifest, tell what there is, and return the exit code."""
        self.manifest.write(now=True)
        ended, failed = self.ends(now=True)
        files = 0
        for task in self.mine:
            kind, _, record = self.board.state(task, self.valid(task))
            if kind == "failed" and record is not None:
                _print(f"failed: {task.clip} on {task.rig.name}: {record.get('error')}", sys.stderr)
            files += len(record.get("files", ())) if kind == "done" and record else 0
        done = ended - failed
        parts = [f"{done} of {len(self.mine)} done ({min(before, done)} before)", f"{failed} failed"]
        if ended < len(self.mine):
            parts.append(f"{len(self.mine) - ended} left")
        took = batch.clock(time.monotonic() - started)
        _print(f"{self.board.out}: {', '.join(parts)}; {files} files; {took}", sys.stdout)
        return 0 if done == len(self.mine) else 1


def _print(text: str, stream: Any) -> None:
    encoding = stream.encoding or "utf-8"
    with contextlib.suppress(OSError, ValueError):
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


# --- One process that works -----------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class _Seen:
    """A clip that is read, or about to be."""

    before: Record  # the file as it was when its reading began
    clip: Future[VideoClip]
    features: VideoFeatures | None = None

    def ready(self) -> bool:
        """It has been read, and not been encoded yet."""
        done = self.clip.done() and not self.clip.cancelled()
        return self.features is None and done and self.clip.exception() is None


@dataclasses.dataclass(eq=False)
class _Held:
    """A task that this process has."""

    claim: Claim
    seen: _Seen
    before: Record  # the input files as they were


class _Worker:
    """Takes tasks, in the order of the list, until none is left that it could do."""

    def __init__(self, run: _Run, silent: bool) -> None:
        self.run_, self.board = run, run.board
        self.silent = silent
        self._held: list[_Held] = []
        self._tried: set[str] = set()
        self._cursor = 0
        self._stage = _Stage(reuse=not run.face.on)  # a face keys more than the armature
        self._hero: Hero | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hero-bake-read")
        self._reading = threading.Lock()
        self._clips: dict[str, _Seen] = {}
        self._stop = False

    def run(self) -> int:
        started = time.monotonic()
        ended, failed = self.run_.ends(now=True)
        before = ended - failed
        bar = ProgressBar(len(self.run_.mine), ended)
        try:
            with export.quiet():
                while True:
                    if not self.silent:
                        bar.show(ended, failed, self._held[0].claim.task.name if self._held else "")
                    self._take(ended)
                    if self._held:
                        self._do(self._next())
                        ended, failed = self.run_.ends()
                        self.run_.manifest.write()
                        continue
                    ended, failed = self.run_.ends(now=True)
                    if ended >= len(self.run_.mine) or not self._busy():
                        break
                    time.sleep(min(1.0, self.board.stale / 4))  # others have the rest; one of them may be lost
            if self.silent:
                self.run_.manifest.write(now=True)
                return 1 if failed else 0
            bar.show(ended, failed, last=True)
            return self.run_.finish(before, started)
        except _Signal as stop:
            bar.end()
            self._give_back()
            if not self.silent:
                self._told_of_stop(ended, failed)
            return stop.code
        except BaseException:
            bar.end()
            self._give_back()
            raise
        finally:
            self._stop = True
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _told_of_stop(self, ended: int, failed: int) -> None:
        with contextlib.suppress(HeroError):
            self.run_.manifest.write(now=True)
        left = len(self.run_.mine) - ended
        _print(f"Stopped: {ended - failed} done, {failed} failed, {left} left; the same command goes on.", sys.stderr)

    def _give_back(self) -> None:
        for held in self._held:
            self.board.release(held.claim)
        self._held.clear()

    def _busy(self) -> bool:
        """Whether others have tasks that might come back."""
        return any(self.run_.state(task) == "busy" for task in self.run_.mine)

    def _take(self, ended: int) -> None:
        """Claim what comes next, and let its clips be read."""
        rigs = len({task.rig for task in self.run_.mine})
        left = len(self.run_.mine) - ended
        # Few at the end, so that the last ones are shared by all who work on them.
        want = max(1, min(AHEAD * rigs, left // 8))
        if len(self._held) >= want:
            return
        todo = self.run_.mine
        if self._cursor >= len(todo) and not self._held:
            self._cursor = 0  # once more, for what others had and have lost
        while self._cursor < len(todo) and len(self._held) < want:
            task = todo[self._cursor]
            self._cursor += 1
            if task.key in self._tried or self.run_.state(task) != "free":
                continue
            claim = self.board.claim(task, self.run_.valid(task))
            if claim is None:
                continue
            self._tried.add(task.key)
            before = {"clip": batch.describe(task.clip), "rig": batch.describe(task.rig)}
            if task.map is not None:
                before["map"] = batch.describe(task.map)
            path = str(task.clip)
            seen = self._clips.get(path)
            if seen is None or seen.before != before["clip"]:
                seen = self._clips[path] = _Seen(before["clip"], self._pool.submit(self._read, task.clip))
            self._held.append(_Held(claim, seen, before))

    def _read(self, path: Path) -> VideoClip:
        with self._reading:
            return read_video(path, on_progress=lambda *_: not self._stop)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread of this process runs Python."""
        with self._reading, self.board.without_thread():
            yield

    def _next(self) -> _Held:
        """The next task: one of the rig that is open, if there is any, or else the first."""
        first = self._held[0]
        same = [held for held in self._held if self._stage.has(held.claim.task)]
        return same[0] if same else first

    def _do(self, held: _Held) -> None:
        """One task from its clip to its end on the board."""
        task, started = held.claim.task, time.perf_counter()
        crashes = self.board.crashes(held.claim)
        record: Record
        try:
            if crashes >= batch.CRASHES:
                raise HeroError(f"{crashes} processes ended without a word at this clip; try it alone.")
            if held.claim.number:
                _clear_away(task, self.board.out)
            files, takes, seconds = self._make(held)
            record = {"state": "done", "files": files, "takes": takes, "seconds": seconds}
        except (Stopped, Cancelled):
            raise
        except Exception as err:  # one clip must not stop the rest, whatever is wrong with it
            if _Signal.last is not None:
                raise _Signal.last from err
            self._check_disk(err)
            plain = isinstance(err, HeroError)
            record = {"state": "failed", "error": str(err) if plain else f"{type(err).__name__}: {err}"}
            if not plain:
                self._stage.forget()
        record["inputs"] = {**held.before, "choices": self.run_.choices(task)}
        record["ended"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record.setdefault("seconds", {})["all"] = round(time.perf_counter() - started, 3)
        self.board.end(held.claim, record)
        self.run_.state(task)
        self._held.remove(held)
        while len(self._clips) > AHEAD + 1 + len({str(each.claim.task.clip) for each in self._held}):
            self._clips.pop(next(iter(self._clips)))  # another rig of the newest few may come

    def _check_disk(self, err: BaseException) -> None:
        """Raise Stopped where it is the disk that is wrong, not the clip: the next one would fail as well."""
        cause: BaseException | None = err
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in batch.FULL:
                raise Stopped(batch.cannot_write(self.board.out, cause)) from err
            cause = cause.__cause__
        for number in batch.FULL:  # Blender's operators have no more than words
            if os.strerror(number) in str(err):
                raise Stopped(batch.cannot_write(self.board.out, OSError(number, os.strerror(number)))) from err
        try:
            with tempfile.TemporaryFile(dir=self.board.out) as file:
                file.write(b"\0" * 2**20)
                file.flush()
        except OSError as problem:
            raise Stopped(batch.cannot_write(self.board.out, problem)) from err

    def _make(self, held: _Held) -> tuple[list[Record], list[Record], Record]:
        """The files of a task as records of them, its takes, and the seconds of each stage."""
        task, laps = held.claim.task, _Laps()
        clip = held.seen.clip.result()
        laps.end("watch")
        settings = dataclasses.replace(
            self.run_.settings, seconds=task.seconds, model_length=task.length == "model"
        )  # fmt: skip
        if self._hero is None:
            self._hero = react.load_model(settings)
            laps.end("load")
        hero = self._hero
        length = react.length_of(hero, clip.duration, settings)
        features = self._features(held.seen, hero)
        laps.end("encode")
        stance = self._prepare(task, clip, settings)
        laps.end("rig")
        start = None if stance is None else stance.joints
        motions = [
            one
            for first, count in _runs(task.seeds)
            for one in _takes(hero.react(features, count, length, first, start=start, **settings.draw()))
        ]
        laps.end("generate")
        files: list[Record] = []
        takes: list[Record] = []
        for seed, motion in zip(task.seeds, motions, strict=True):
            if takes:
                self._prepare(task, clip, settings)
            made, take = self._write(task, dataclasses.replace(settings, seed=seed), motion, clip, stance, laps)
            files += made
            takes.append(take)
        self._stage.leave()
        return files, takes, laps.seconds

    def _prepare(self, task: Task, clip: VideoClip, settings: react.Settings) -> Stance | None:
        """The rig as its file has it, in a scene of the clip's rate; its pose where the reaction is to follow that."""
        rig, scene = self._stage.set(task)
        if self._stage.imported:
            match_rate(scene, clip.fps)
        place.check(settings.place, scene)
        if not settings.place.start_pose:
            return None
        return read_stance(rig, scene, settings.place.first_frame(scene.frame_start, scene))

    def _features(self, seen: _Seen, hero: Hero) -> VideoFeatures:
        """Of this clip, and together with it of all that are read by now."""
        if seen.features is None:
            group = {id(seen): seen} | {id(held.seen): held.seen for held in self._held if held.seen.ready()}
            encoded = hero.encode_clips([each.clip.result().frames for each in group.values()])
            for each, features in zip(group.values(), encoded, strict=True):
                each.features = features
        assert seen.features is not None
        return seen.features

    def _write(
        self, task: Task, settings: react.Settings, motion: Motion, clip: VideoClip, stance: Stance | None, laps: _Laps
    ) -> tuple[list[Record], Record]:
        """One take onto the rig, and from there into its files."""
        rig, scene = self._stage.rig, _scene()
        start = scene.frame_start
        first = settings.place.first_frame(start, scene)
        spot = place.resolve(settings.place, rig, scene, first, motion.take(0)[0], stance)
        path = str(task.clip.absolute())
        source = Source(task.clip.stem, "file", path, scene.name, start, clip.duration)
        about = react.About(source, settings, places=(spot,))
        report = react.write_takes(rig, motion, task.clip.stem, first, scene, settings.fit, about)
        path = str(task.clip.absolute())
        report = face_command.add(self.run_.face, self.run_.face_mesh, report, path, rig, scene)
        last = round(bpy.data.actions[report["action"]].frame_range[1])
        laps.end("retarget")
        out, stem = self.board.out, task.stem(settings.seed)
        targets = {kind: out / f"{stem}.{kind}" for kind in self.run_.formats}
        pictures = {kind: out / f"{stem}{bake_preview.KINDS[kind]}" for kind in self.run_.previews}
        (out / stem).parent.mkdir(parents=True, exist_ok=True)
        for kind in sorted(targets, key=lambda kind: kind == "blend"):  # the strip comes last, into the .blend alone
            if kind == "blend":
                strip = compat.add_movie(scene, path, clip.fps, start)
                if self._stage.imported:
                    scene.frame_end = max(compat.strip_range(strip)[1] - 1, last)
            export.write(kind, targets[kind], rig, scene, (first, last))
            laps.end(kind)
        if pictures:
            bake_preview.make(rig, scene, (first, last), task.clip, pictures, self._alone)
            laps.end("preview")
        made = [batch.result_of(path, out) for path in (*targets.values(), *pictures.values())]
        take = {
            "seed": settings.seed,
            "frames": int(motion.lengths[0]),
            "action": report["action"],
            "skipped": report["skipped"],
        }
        return made, take


def _runs(seeds: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(0, 1, 2, 7) -> (0, 3), (7, 1): what one call can draw."""
    for _, group in itertools.groupby(enumerate(seeds), key=lambda pair: pair[1] - pair[0]):
        numbers = [seed for _, seed in group]
        yield numbers[0], len(numbers)


def _takes(motion: Motion) -> Iterator[Motion]:
    """Each take as a motion of its own, as if it had been drawn alone."""
    for i, frames in enumerate(motion.lengths):
        yield Motion(
            motion.joints[i : i + 1, :frames],
            None if motion.features is None else motion.features[i : i + 1, :frames],
            np.array([frames]),
            motion.fps,
            motion.seed + i,
            None if motion.tokens is None else motion.tokens[i : i + 1],
            motion.records[i : i + 1],
        )


def _clear_away(task: Task, out: Path) -> None:
    """Remove what a worker before was writing when it was lost."""
    for seed in task.seeds:
        target = out / task.stem(seed)
        for left in target.parent.glob(f".{_literal(target.name)}.*.part*"):
            with contextlib.suppress(OSError):
                left.unlink()


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


class _Laps:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: Record = {}
        self._last = time.perf_counter()

    def end(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 3)
        self._last = now


class _Stage:
    """The rig that is open, brought back to how its file has it between takes.

    Reading a rig takes longer than all else, so it is read once, and what was added since is removed. A rig that brings
    an Action or NLA tracks of its own is read again each time: what becomes of those is the fit's choice.
    """

    def __init__(self, reuse: bool = True) -> None:
        self._reuse = reuse
        self._key: tuple[Any, ...] | None = None
        self._broken: dict[tuple[Any, ...], str] = {}
        self._had: dict[str, Any] = {}
        self._rig = ""
        self._clean = False
        self.imported = False

    def has(self, task: Task) -> bool:
        return self._key == self._of(task)

    @staticmethod
    def _of(task: Task) -> tuple[Any, ...]:
        return task.rig, task.armature, task.map

    def forget(self) -> None:
        """Read the rig again before it is used the next time."""
        self._key = None

    @property
    def rig(self) -> bpy.types.Object:
        return bpy.data.objects[self._rig]

    def set(self, task: Task) -> tuple[bpy.types.Object, bpy.types.Scene]:
        """The armature of a task and its scene. Raises HeroError."""
        key = self._of(task)
        if self._key != key:
            if key in self._broken:
                raise HeroError(self._broken[key])
            self._key = None
            try:
                rig = rigfile.load_rig(task.rig, task.armature)
                if task.map is not None:
                    bone_map.use_file(rig, task.map)
                rigfile.check_armature(rig)
            except HeroError as err:
                self._broken[key] = str(err)
                raise
            self.imported = task.rig.suffix.lower() != ".blend"
            self._rig = rig.name
            self._had = _snapshot(rig)
            self._key = key
        else:
            self.leave()
            if self._key is None:
                return self.set(task)
        self._clean = False
        return self.rig, _scene()

    def leave(self) -> None:
        """Take away what was added since the rig was read."""
        if self._key is None or self._clean:
            return
        self._clean = True
        rig = bpy.data.objects.get(self._rig)
        if rig is None or not self._had["bare"] or not self._reuse:
            self.forget()
            return
        _restore(rig, self._had)


def match_rate(scene: bpy.types.Scene, fps: float) -> None:
    """Give a scene that was made for an imported character the rate of the video, so that the strip is exact."""
    scene.render.fps = max(1, round(fps))
    scene.render.fps_base = scene.render.fps / fps if abs(fps - round(fps)) > 1e-3 else 1.0


def _scene() -> bpy.types.Scene:
    scene = bpy.context.scene
    assert scene is not None
    return scene


def _blocks() -> dict[str, set[int]]:
    """All data-blocks of the file, by kind."""
    out = {}
    for prop in bpy.data.bl_rna.properties:
        if prop.type == "COLLECTION":
            out[prop.identifier] = {block.as_pointer() for block in getattr(bpy.data, prop.identifier)}
    return out


def _snapshot(rig: bpy.types.Object) -> dict[str, Any]:
    scene, data = _scene(), rig.animation_data
    return {
        "bare": data is None or (data.action is None and not len(data.nla_tracks)),
        "data": data is not None,
        "blocks": _blocks(),
        "pose": pose_of_object(rig),
        "place": rig.matrix_basis.copy(),
        "scene": (scene.render.fps, scene.render.fps_base, scene.frame_start, scene.frame_end, scene.frame_current),
        "sequencer": scene.sequence_editor is not None,
        "strips": {strip.name for strip in compat.strips_of(scene)},
    }


def _restore(rig: bpy.types.Object, had: dict[str, Any]) -> None:
    scene = _scene()
    if rig.animation_data is not None:
        compat.assign_action(rig, None)
        for track in list(rig.animation_data.nla_tracks):
            rig.animation_data.nla_tracks.remove(track)
        if not had["data"]:
            rig.animation_data_clear()
    if not had["sequencer"]:
        if scene.sequence_editor is not None:
            scene.sequence_editor_clear()
    else:
        strips = compat.strips_of(scene)
        for strip in [strip for strip in strips if strip.name not in had["strips"]]:
            strips.remove(strip)
    render = scene.render
    render.fps, render.fps_base, scene.frame_start, scene.frame_end = had["scene"][:4]
    added = []
    for kind, pointers in had["blocks"].items():
        added += [block for block in getattr(bpy.data, kind) if block.as_pointer() not in pointers]
    bpy.data.batch_remove(added)
    put_back(rig, had["pose"])
    rig.matrix_basis = had["place"]
    scene.frame_set(had["scene"][4])


# --- Several processes on this machine ------------------------------------------------------------------


class _Parent:
    """``--jobs``: starts that many workers, shows how far they are, and starts another where one is lost."""

    def __init__(self, run: _Run, args: argparse.Namespace) -> None:
        self.run_ = run
        self._args = args
        self._workers: list[subprocess.Popen[str]] = []

    def run(self) -> int:
        started = time.monotonic()
        ended, failed = self.run_.ends(now=True)
        before, lost, stopped = ended - failed, 0, 0
        bar = ProgressBar(len(self.run_.mine), ended)
        if ended == len(self.run_.mine) and not failed:
            return self.run_.finish(before, started)
        log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed below
        try:
            self._workers = [self._start(log) for _ in range(min(self._args.jobs, len(self.run_.mine) - ended))]
            while self._workers:
                bar.show(ended, failed)
                time.sleep(0.3)
                for worker in [each for each in self._workers if each.poll() is not None]:
                    self._workers.remove(worker)
                    if worker.returncode in (2, 3):
                        stopped = worker.returncode
                        self._end(self._workers)
                    elif worker.returncode not in (0, 1) and not stopped and lost < _RESTARTS:
                        lost += 1
                        bar.say(f"A process ended without a word ({worker.returncode}); another goes on.")
                        self._workers.append(self._start(log))
                ended, failed = self.run_.ends()
                self.run_.manifest.write()
        except _Signal as stop:
            bar.end()
            self._end(self._workers)
            ended, failed = self.run_.ends()
            with contextlib.suppress(HeroError):
                self.run_.manifest.write(now=True)
            left = len(self.run_.mine) - ended
            _print(
                f"Stopped: {ended - failed} done, {failed} failed, {left} left; the same command goes on.", sys.stderr
            )
            return stop.code
        finally:
            self._end(self._workers)
            log.seek(0)
            told = log.read()[-4000:]
            log.close()
        bar.show(ended, failed, last=True)
        if stopped:
            last = [line for line in told.splitlines() if line.startswith("error: ")]
            raise Stopped(last[-1].removeprefix("error: ") if last else f"A process ended with code {stopped}.")
        if lost >= _RESTARTS:
            _print(told, sys.stderr)
        return self.run_.finish(before, started)

    def _start(self, log: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, _BEGAN: repr(self.run_.board.began)}
        threads = max(1, (os.cpu_count() or 1) // self._args.jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        return subprocess.Popen(
            [*_program(), *_arguments(self._args)], stdout=subprocess.DEVNULL, stderr=log, stdin=subprocess.DEVNULL,
            env=environment, text=True,
        )  # fmt: skip

    @staticmethod
    def _end(workers: list[subprocess.Popen[str]]) -> None:
        """Ask them to end, wait, and see to it."""
        for worker in workers:
            worker.terminate()
        until = time.monotonic() + 30.0
        for worker in workers:
            try:
                worker.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        workers.clear()


def _program() -> list[str]:
    """How to start another process like this one."""
    if bpy.app.binary_path:
        opened = [bpy.data.filepath] if bpy.data.filepath else []
        return [bpy.app.binary_path, "--background", *opened, "--command", "hero"]
    # -P would hide a package that is only found because of where the program was started.
    return [sys.executable, "-m", __package__ or "hero_blender"]


def _arguments(args: argparse.Namespace) -> list[str]:
    """The same command for one process, which shows nothing."""
    given: list[str] = list(args.argv)
    return [*given, "--jobs", "1", "--worker"]
