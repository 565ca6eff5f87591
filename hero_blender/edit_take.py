# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be made of a take that is there: further takes, takes that begin alike, another part, more at its end.

Each is a ``react.Task`` for a ``react.Reaction``: it thinks with what was seen of the clip before, and writes new
Actions with the fit and the place of the take. What stays of a take stays to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import bpy
import numpy as np

from hero_core import place as places
from hero_core.errors import HeroError
from hero_core.motion import Motion
from hero_core.place import Place
from hero_core.record import Keep, TakeRecord, unpack_joints

from . import compat, rigfile, seam, takes
from .react import About, Progress, Reaction, Settings, Task, write_takes
from .seam import Join
from .takes import Take

if TYPE_CHECKING:
    from hero_core import Hero, VideoFeatures

NEXT = -1  # a seed that no take of the clip was drawn from yet


def more(
    scene: bpy.types.Scene, obj: bpy.types.Object, action: bpy.types.Action, count: int, settings: Settings,
    clip: Any = None,
) -> Reaction:  # fmt: skip
    """Further takes of the clip, as long and with the same settings, from the next seeds."""
    take, record = _known(action)
    seed, number = next_seed(obj, take), _next_number(obj, take)
    old = takes.motion_of(action).take(0)

    def make(hero: Hero, features: VideoFeatures, _: float, on_progress: Progress | None) -> Motion:
        start = unpack_joints(record.start) if record.start else None
        return hero.react(features, count, record.frames, seed, on_progress, start=start, **_draw(record))

    def place_of(motion: Motion) -> tuple[Place, ...]:
        """They begin where this take begins, facing as it does."""
        facing = places.facing(places.put(old, None, take.place)[0][0])
        firsts = [motion.take(index)[0] for index in range(len(motion.lengths))]
        mirror = take.place.mirror
        return tuple(replace(take.place, turn=places.turn_to(first, facing, mirror)) for first in firsts)

    return _reaction(scene, obj, action, settings, make, "", clip, number=number, places=place_of)


def more_like_this(
    scene: bpy.types.Scene, obj: bpy.types.Object, action: bpy.types.Action, count: int, settings: Settings,
    share: float = 1 / 3, seed: int = NEXT, clip: Any = None,
) -> Reaction:  # fmt: skip
    """Takes that begin as this one does, for that share of it, and go on otherwise."""
    take, record = _known(action)
    first = min(max(round(share * take.frames / 4) * 4, 4), take.frames - 4)
    drawn = next_seed(obj, take) if seed == NEXT else seed

    def make(hero: Hero, features: VideoFeatures, _: float, on_progress: Progress | None) -> Motion:
        motion = whole(hero, action_of())
        return hero.more_like_this(
            features, motion, count, drawn, first=first, on_progress=on_progress, **_draw(record)
        )

    action_of = _kept(action)
    return _reaction(scene, obj, action, settings, make, "like", clip)


def change_part(
    scene: bpy.types.Scene, obj: bpy.types.Object, action: bpy.types.Action, frames: tuple[int, int],
    settings: Settings, seed: int = NEXT, keep: Keep = "place", in_place_of_it: bool = False, clip: Any = None,
) -> Reaction:  # fmt: skip
    """Another version of the scene's frames first..last (both included) of a take; all others stay to the bit."""
    take, record = _known(action)
    part = poses_between(obj, action, *frames)
    drawn = next_seed(obj, take) if seed == NEXT else seed

    def make(hero: Hero, features: VideoFeatures, _: float, on_progress: Progress | None) -> Motion:
        return hero.regenerate(
            features,
            whole(hero, action_of()),
            part,
            drawn,
            keep=keep,
            on_progress=on_progress,
            **_draw(record),
        )

    action_of = _kept(action)
    ends = compat.frame_in_action(obj, action, min(frames) - 1), compat.frame_in_action(obj, action, max(frames) + 1)
    where = _borders(action, take, part, ends, keep)
    return _reaction(
        scene, obj, action, settings, make, "part", clip,
        replaces=action.name if in_place_of_it else "", joiner=_Part(action.name, take, where),
    )  # fmt: skip


def extend(
    scene: bpy.types.Scene, obj: bpy.types.Object, action: bpy.types.Action, seconds: float, settings: Settings,
    seed: int = NEXT, clip: Any = None,
) -> Reaction:  # fmt: skip
    """The take goes on for so many seconds more; what is there stays to the bit."""
    take, record = _known(action)
    drawn = next_seed(obj, take) if seed == NEXT else seed

    def make(hero: Hero, features: VideoFeatures, _: float, on_progress: Progress | None) -> Motion:
        frames = round(seconds * take.rate / take.place.time_scale / hero.unit) * hero.unit
        return hero.extend(
            features, whole(hero, action_of()), max(frames, hero.unit), drawn, on_progress=on_progress, **_draw(record)
        )

    action_of = _kept(action)
    end = math.floor(take.first_frame + (take.frames - 1) * _step(take) + 1e-4)
    joiner = _Part(action.name, take, Join(len(record.edits), end, None))
    return _reaction(scene, obj, action, settings, make, "longer", clip, joiner=joiner)


def remake(
    scene: bpy.types.Scene, obj: bpy.types.Object, action: bpy.types.Action, settings: Settings, clip: Any = None
) -> Reaction:
    """The take once more from its record alone: the same motion to the bit, and the same keys.

    Keys that were set by hand are not in the record.
    """
    take, record = _known(action)
    stages = _Stages(take)

    def make(hero: Hero, features: VideoFeatures, _: float, on_progress: Progress | None) -> Motion:
        stages.motions = [
            hero.make(replace(record, edits=record.edits[:count], tokens=""), features, on_progress)
            for count in stages.counts
        ]
        return hero.make(record, features, on_progress)

    return _reaction(scene, obj, action, settings, make, None, clip, joiner=stages if take.joins else None)


def fit_again(
    scene: bpy.types.Scene, obj: bpy.types.Object, action: bpy.types.Action, settings: Settings
) -> dict[str, Any]:
    """The motion of a take put on the character as the panel says now; no model is needed. Returns the report."""
    from . import place

    take, motion = takes.read(action), takes.motion_of(action)
    rigfile.check_armature(obj)
    choice = replace(settings.place, start_pose=False)
    first = choice.first_frame(take.source.start, scene)
    there = place.resolve(choice, obj, scene, first, motion.take(0)[0], None)
    about = About(take.source, _settings(take, settings), take.number, (action.name,), (there,))
    return write_takes(obj, motion, take.source.name, first, scene, settings.fit, about)


# --- Frames ---


def poses_between(obj: bpy.types.Object, action: bpy.types.Action, first: int, last: int) -> tuple[int, int]:
    """Poses [a, b) of a take that lie in the scene's frames first..last; HeroError where none does."""
    take = takes.read(action)
    step = _step(take)
    begin, end = (compat.frame_in_action(obj, action, frame) for frame in (min(first, last), max(first, last)))
    a = max(0, math.ceil((begin - take.first_frame) / step - 1e-6))
    b = min(take.frames, math.floor((end - take.first_frame) / step + 1e-6) + 1)
    if a >= b:
        shown = take.first_frame, round(take.first_frame + (take.frames - 1) * step)
        raise HeroError(
            f"The frames {first} to {last} are not in the take, which goes from {shown[0]} to {shown[1]}; choose "
            "others."
        )
    return a, b


def range_of(obj: bpy.types.Object, action: bpy.types.Action) -> tuple[int, int]:
    """First and last frame of the scene of a take as it is played."""
    take = takes.read(action)
    step = _step(take)
    ends = take.first_frame, take.first_frame + (take.frames - 1) * step
    first, last = (compat.frame_in_scene(obj, action, frame) for frame in ends)
    return round(first), round(last)


def proposed_range(context: bpy.types.Context, obj: bpy.types.Object, action: bpy.types.Action) -> tuple[int, int]:
    """The frames that somebody means who names none: preview range, else selected keys, else around the playhead."""
    scene, (first, last) = context.scene, range_of(obj, action)
    if scene.use_preview_range:
        a, b = scene.frame_preview_start, scene.frame_preview_end
    else:
        chosen = compat.selected_key_frames(action, obj)
        if len(chosen) and chosen.max() - chosen.min() >= 1:
            a, b = (round(compat.frame_in_scene(obj, action, float(end))) for end in (chosen.min(), chosen.max()))
        else:
            half = round(scene.render.fps / scene.render.fps_base / 2)
            a, b = scene.frame_current - half, scene.frame_current + half
    a, b = max(a, first), min(b, last)
    return (a, b) if a < b else (first, last)


def _step(take: Take) -> float:
    """Frames of its Action from one pose of a take to the next."""
    return take.scene_rate / take.rate * take.place.time_scale


# --- Keys that stay ---

FADE = 0.25  # seconds in which new curves are led to old ones


def _borders(
    action: bpy.types.Action, take: Take, part: tuple[int, int], ends: tuple[float, float], keep: Keep
) -> Join:
    """Between which frames of an Action another version of the poses [a, b) is put; see ``seam.Join``.

    Where the part reaches to an end of the take, nothing has to be met there, unless somebody has set keys beyond it.
    With "path" what follows is elsewhere, so all of it is new.
    """
    first, last = take.first_frame, take.first_frame + (take.frames - 1) * _step(take)
    begun, ended = (float(frame) for frame in action.frame_range)
    left = ends[0] if part[0] > 0 or begun < min(math.floor(first + 1e-4), ends[0] + 1) - 0.5 else None
    right = ends[1] if part[1] < take.frames or ended > max(math.ceil(last - 1e-4), ends[1] - 1) + 0.5 else None
    edits = len(take.record.edits) if take.record is not None else 0
    return Join(edits, left, None if keep == "path" else right)


class _Part:
    """The keys of an Action outside of a part."""

    def __init__(self, name: str, take: Take, where: Join) -> None:
        self._name, self._where, self._fade = name, where, FADE * take.scene_rate
        self.joins = (*take.joins, where)

    def earlier(self) -> list[Motion]:
        return []

    def join(self, obj: bpy.types.Object, new: bpy.types.Action, earlier: list[rigfile.Fitting]) -> bpy.types.Action:
        return seam.join(obj, seam.check_there(self._name), new, self._where, self._fade)


class _Stages:
    """The keys of a take that was changed in part, made again: one change after the other."""

    def __init__(self, take: Take) -> None:
        self.joins, self._fade = take.joins, FADE * take.scene_rate
        self.counts = [join.edit for join in take.joins]
        self.motions: list[Motion] = []

    def earlier(self) -> list[Motion]:
        return self.motions

    def join(self, obj: bpy.types.Object, new: bpy.types.Action, earlier: list[rigfile.Fitting]) -> bpy.types.Action:
        action: bpy.types.Action | None = None
        for number, fitting in enumerate(earlier):
            stage = bpy.data.actions[fitting.write(obj, "HERO stage")["action"]]
            action = stage if action is None else self._onto(obj, action, stage, number - 1)
        assert action is not None
        return self._onto(obj, action, new, len(earlier) - 1)

    def _onto(
        self, obj: bpy.types.Object, old: bpy.types.Action, new: bpy.types.Action, number: int
    ) -> bpy.types.Action:
        made = seam.join(obj, old, new, self.joins[number], self._fade)
        name = made.name
        bpy.data.actions.remove(old)
        made.name = name
        return made


# --- Shared ---


def whole(hero: Hero, motion: Motion) -> Motion:
    """A take's motion with all its features, as the model needs it to change it."""
    import torch

    if motion.tokens is None or motion.features is None:
        raise HeroError("This take was stored without its tokens, so it cannot be changed; make a new take.")
    if np.any(motion.features[..., : takes.CONTACTS.start]):
        return motion
    ids = torch.from_numpy(motion.tokens.astype(np.int64))
    if ids.shape[-1] != hero.config.rvq.num_quantizers or int(ids.max()) >= hero.config.rvq.nb_code:
        raise HeroError("This take was made with other weights; load those to change it.")
    return replace(motion, features=hero.decode(ids).numpy())


def _kept(action: bpy.types.Action) -> Callable[[], Motion]:
    """The motion, read now: a thread may not look at Actions."""
    motion = takes.motion_of(action)
    return lambda: motion


def _known(action: bpy.types.Action) -> tuple[Take, TakeRecord]:
    take = takes.read(action)
    if take.record is None:
        raise HeroError(f"How '{action.name}' was made is not known, so nothing can be made of it; press React.")
    return take, take.record


def _draw(record: TakeRecord) -> dict[str, Any]:
    draw = record.draw
    return {
        "steps": draw.steps,
        "guidance": draw.guidance,
        "residual_guidance": draw.residual_guidance,
        "sampling": draw.sampling,
        "temperature": draw.temperature,
        "topk": draw.topk,
    }


def _siblings(obj: bpy.types.Object, take: Take) -> list[Take]:
    """Takes of the character that react to the same clip."""
    clip = take.record.clip if take.record else None
    found = [takes.read(action) for action in takes.of(obj)]
    return [each for each in found if each.record is not None and each.record.clip == clip]


def next_seed(obj: bpy.types.Object, take: Take) -> int:
    seeds = [take.seed]
    for each in _siblings(obj, take):
        assert each.record is not None
        seeds += [each.seed, each.record.seed, *(edit.seed for edit in each.record.edits)]
    return max(seeds) + 1


def _next_number(obj: bpy.types.Object, take: Take) -> int:
    return max([take.number, *(each.number for each in _siblings(obj, take))]) + 1


def _settings(take: Take, settings: Settings) -> Settings:
    """The model and the fit of the take; the rest is the user's."""
    return replace(
        settings,
        model=take.model or None,
        device=take.device,
        dtype=take.dtype,
        fit=replace(take.fit, action=settings.fit.action),
        takes=1,
    )


def _reaction(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    action: bpy.types.Action,
    settings: Settings,
    make: Any,
    word: str | None,
    clip: Any,
    number: int | None = None,
    places: Callable[[Motion], tuple[Place, ...]] | None = None,
    replaces: str = "",
    joiner: _Part | _Stages | None = None,
) -> Reaction:
    """``word`` says in the names what was done; "" = they are takes as React makes them, None = the same name."""
    take, record = _known(action)
    kept = _settings(take, settings)
    about = About(take.source, kept, number or take.number, stood=take.stood)
    if joiner is not None:
        about = replace(about, rate=take.scene_rate, joins=joiner.joins)
    name = action.name

    def names(motion: Motion) -> tuple[str, ...] | None:
        if word is None:
            return (name,)
        if not word:
            return None
        seeds = [each.edits[-1].seed for each in motion.records]
        return tuple(f"{take.source.name[:32]} take {take.number} {word} {seed}" for seed in seeds)

    def stays(motion: Motion) -> tuple[Place, ...]:
        return (take.place,) * len(motion.lengths)

    task = Task(word or "take", record.clip, make, about, take.first_frame, replaces, places or stays, names, joiner)
    if clip is None:
        clip = takes.clip_of(take.source)
    return Reaction(scene, clip, obj, kept, task=task)
