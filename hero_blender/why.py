# SPDX-License-Identifier: GPL-3.0-or-later
"""See why: which moments of the clip a take came from, as markers on the timeline and as a chart in the panel.

What the model attended to is computed with the take (6 ms each on a CPU, ``hero_core.attention``) and kept on its
Action, so it is there when the file is opened again, without the model or the clip. The moments are known as places in
the clip's picture, not as frames of the scene: a strip that was moved, trimmed or retimed since keeps its moments.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import bpy
import numpy as np
import numpy.typing as npt
from bpy.utils import previews

from hero_core.errors import HeroError
from hero_core.motion import Motion
from hero_core.video import sample_indices

from . import compat, takes
from .sidebar import Sidebar

if TYPE_CHECKING:
    from bpy.stub_internal.rna_enums import OperatorReturnItems

    from hero_core import Hero, VideoFeatures

Array = npt.NDArray[Any]

KEY = "hero_why"
VERSION = 1
MOST = 5  # moments that get a marker
_MORE = 1.2  # times an even share, from where on a frame is one that counted
_NAME = re.compile(r"HERO \d{1,3} %")
_CHART = (256, 256)  # pixels; icons are square


@dataclass(frozen=True)
class Why:
    """What a take came from.

    shares   (16,) how much each frame that the model saw counted; they sum to 1
    at       (16,) where they are: scene frames from the strip's first one
    start    scene frame of the strip's first one when it was watched
    content  scene frame at which its whole content began then, and how many frames that lasted
    keys     of its retiming: scene frames from ``content[0]`` on; () where it had none
    """

    shares: tuple[float, ...]
    at: tuple[int, ...]
    start: int
    content: tuple[float, float]
    keys: tuple[float, ...] = ()

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Why:
        """Raises HeroError where the text is none, or damaged."""
        try:
            data = json.loads(text)
            if data.pop("version") != VERSION:
                raise HeroError("Why this take came about was recorded by another version of HERO; make a new take.")
            shares = tuple(float(value) for value in data["shares"])
            at = tuple(int(value) for value in data["at"])
            start, content = int(data["start"]), tuple(float(value) for value in data["content"])
            keys = tuple(float(value) for value in data["keys"])
            if len(shares) != len(at) or not shares or len(content) != 2 or not np.isfinite(shares).all():
                raise ValueError("a value of another kind")
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise HeroError(f"Why this take came about is damaged ({err}); make a new take.") from err
        return cls(shares, at, start, (content[0], content[1]), keys)


@dataclass(frozen=True)
class Moment:
    """Frames next to each other that counted more than most: where they counted most, and what they sum to."""

    sample: int
    share: float


# --- Made with the take ---


def look(hero: Hero, features: VideoFeatures, motion: Motion) -> list[Array]:
    """(16,) shares for each take. In the thread of the job, no bpy; [] where it is not known, for no reaction fails
    because of it."""
    if motion.tokens is None:
        return []
    try:
        return [hero.attention(features, motion, take).frames for take in range(len(motion.lengths))]
    except HeroError:
        return []


def keep(action: bpy.types.Action, shares: Array, strip: Any | None, start: int, length: int) -> None:
    """Write down on a take what it came from.

    strip   that was watched; None for a file, whose ``length`` in scene frames counts from ``start`` then
    """
    content, keys = ((float(start), float(length)), ()) if strip is None else _shape(strip)
    at = tuple(int(index) for index in sample_indices(length, len(shares)))
    why = Why(tuple(round(float(share), 5) for share in shares), at, start, content, keys)
    action[KEY] = why.to_json()


def keep_all(report: dict[str, Any], shares: list[Array], source: takes.Source) -> None:
    """Write down what the takes of a report came from.

    A take that was changed, or made again, has its moments where another take of the same clip has them: the strip
    may be another by now.
    """
    scene = bpy.data.scenes.get(source.scene)
    strips = compat.all_strips_of(scene) if scene is not None and source.kind == "strip" else ()
    strip = strips.get(source.name) if strips else None
    if strip is not None:
        start, end = compat.strip_range(strip)
    else:
        rate = scene.render.fps / scene.render.fps_base if scene is not None else 25.0
        start, end = source.start, source.start + max(1, round(source.seconds * rate))
    for made, share in zip(report["takes"], shares, strict=False):
        action = bpy.data.actions[made["action"]]
        keep(action, share, strip, start, end - start)
        record = takes.read(action).record
        former = _of_clip(record.clip, action) if record is not None else None
        if former is not None:
            action[KEY] = replace(former, shares=Why.from_json(action[KEY]).shares).to_json()


def _of_clip(clip: str, but: bpy.types.Action) -> Why | None:
    """What another take of the same clip has recorded."""
    for action in bpy.data.actions:
        if action != but and has(action) and takes.is_take(action):
            try:
                record = takes.read(action).record
                if record is not None and record.clip == clip:
                    return read(action)
            except HeroError:
                continue
    return None


def has(action: bpy.types.Action | None) -> bool:
    return action is not None and isinstance(action.get(KEY), str)


def read(action: bpy.types.Action) -> Why:
    """What a take came from. Raises HeroError where that is not recorded, or damaged."""
    if not has(action):
        raise HeroError(f"What '{action.name}' came from is not known; make a new take, or make this one again.")
    return Why.from_json(action[KEY])


def _shape(strip: Any) -> tuple[tuple[float, float], tuple[float, ...]]:
    """Where a strip's content lies on the timeline, and its retiming keys relative to that."""
    begin, length = compat.strip_content(strip)
    return (begin, length), tuple(frame - begin for frame in compat.retiming_frames(strip))


# --- Where the moments are ---


def moments(why: Why) -> list[Moment]:
    """The strongest moments, in the order of the clip; several frames in a row that counted are one."""
    shares = np.array(why.shares)
    above = shares > _MORE / len(shares)
    above[np.argmax(shares)] = True  # where nothing stands out there is still a strongest one
    edges = np.flatnonzero(np.diff(np.concatenate([[False], above, [False]]).astype(int)))
    found = []
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        found.append(Moment(int(first + np.argmax(shares[first:end])), float(shares[first:end].sum())))
    strongest = sorted(found, key=lambda moment: -moment.share)[:MOST]
    return sorted(strongest, key=lambda moment: moment.sample)


def frames_of(why: Why, strip: Any | None) -> list[int | None]:
    """Scene frame of each of the 16 now; None for those that the strip does not show any more.

    With a strip that is gone (None) they are where they were.
    """
    then = [why.start + offset for offset in why.at]
    if strip is None:
        return [int(frame) for frame in then]
    (begin, length), keys = _shape(strip)
    first, end = compat.strip_range(strip)
    # Retiming keys hold on to the picture, so between them time is stretched; without any there is one stretch.
    before = np.array(why.keys if len(why.keys) > 1 else (0.0, why.content[1]))
    after = np.array(keys if len(keys) > 1 else (0.0, length))
    if len(before) != len(after):  # keys were added or removed, and Blender does not tell which: one stretch over all
        before, after = before[[0, -1]], after[[0, -1]]
    found: list[int | None] = []
    for frame in then:
        inside = frame - why.content[0]
        if len(after) == 2 and abs(np.ptp(after) - np.ptp(before)) < 1e-6:
            now = inside + after[0] - before[0]
        else:
            now = float(np.interp(inside, before, after))
        place = round(begin + now)
        found.append(place if first <= place < end else None)
    return found


def strip_of(action: bpy.types.Action) -> Any | None:
    """The strip that a take reacts to, where it is still there."""
    scene = scene_of(action)
    strips = compat.all_strips_of(scene) if scene is not None else ()
    return strips.get(takes.read(action).source.name) if strips else None


def scene_of(action: bpy.types.Action) -> bpy.types.Scene | None:
    return bpy.data.scenes.get(takes.read(action).source.scene)


# --- Markers ---


def mark(action: bpy.types.Action) -> list[bpy.types.TimelineMarker]:
    """Put markers where the strongest moments are, instead of those that were there; returns them.

    Raises HeroError where nothing is recorded, or the scene or all of the moments are gone.
    """
    why, scene = read(action), scene_of(action)
    if scene is None:
        raise HeroError(f"The scene '{takes.read(action).source.scene}' of the clip is not in this file any more.")
    places = frames_of(why, strip_of(action))
    seen = [(places[moment.sample], moment.share) for moment in moments(why)]
    shown = [(frame, share) for frame, share in seen if frame is not None]
    if not shown:
        raise HeroError("The strip shows none of the moments that counted any more; it was trimmed since.")
    unmark(scene)
    return [scene.timeline_markers.new(f"HERO {share:.0%}".replace("%", " %"), frame=frame) for frame, share in shown]


def marks(scene: bpy.types.Scene) -> list[bpy.types.TimelineMarker]:
    """Our markers: by their names, for markers can hold nothing else; one that was renamed is the animator's."""
    return [marker for marker in scene.timeline_markers if _NAME.fullmatch(marker.name) and marker.camera is None]


def unmark(scene: bpy.types.Scene) -> int:
    """Take our markers away; how many there were."""
    found = marks(scene)
    for marker in found:
        scene.timeline_markers.remove(marker)
    return len(found)


# --- Chart ---


def chart(shares: Array, size: tuple[int, int] = _CHART) -> Array:
    """(H, W, 4) float32 RGBA, lowest line first: a bar for each frame, in order; those above the mean are lit."""
    width, height = size
    picture = np.zeros((height, width, 4), np.float32)
    count = len(shares)
    tallest = max(float(np.max(shares)), 1e-6)
    even = 1.0 / count
    for bar, share in enumerate(shares):
        left, right = bar * width // count, (bar + 1) * width // count - max(1, width // count // 5)
        top = max(1, round(float(share) / tallest * (height - 1)))
        picture[:top, left:right] = (*_LIT, 1.0) if share > _MORE * even else (*_DIM, 1.0)
    return picture


_LIT, _DIM = (0.28, 0.55, 0.95), (0.45, 0.45, 0.45)


class _Icons:
    """Charts that were drawn; panels ask for them at each redraw."""

    previews: Any | None = None


def icon(action: bpy.types.Action) -> int:
    """Number of the icon that shows a take's chart; 0 where there is none, or no window."""
    if bpy.app.background or not has(action):
        return 0
    if _Icons.previews is None:
        _Icons.previews = previews.new()
    text = action[KEY]
    known = _Icons.previews.get(text)
    if known is None:
        try:
            shares = np.array(Why.from_json(text).shares)
        except HeroError:
            return 0
        known = _Icons.previews.new(text)
        known.image_size = known.icon_size = _CHART
        known.image_pixels_float = known.icon_pixels_float = chart(shares).ravel()
    return int(known.icon_id)


# --- Buttons ---


def picked(context: bpy.types.Context) -> bpy.types.Action | None:
    """The take that the chosen character shows."""
    from . import properties

    return takes.shown(properties.chosen_armature(context))


class HERO_OT_why(bpy.types.Operator):
    """Put markers on the timeline where the clip told the character what to do: in how far, in percent"""

    bl_idname = "hero.why"
    bl_label = "Mark on Timeline"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if has(picked(context)):
            return True
        cls.poll_message_set("The character shows no take of which it is known what it came from")
        return False

    def execute(self, context: bpy.types.Context) -> set[OperatorReturnItems]:
        action = picked(context)
        try:
            made = mark(action) if action is not None else []
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        frames = ", ".join(str(marker.frame) for marker in made)
        self.report({"INFO"}, f"What counted for '{action.name}' happens at frame {frames}")
        return {"FINISHED"}


class HERO_OT_why_clear(bpy.types.Operator):
    """Take HERO's markers off the timeline; those that were renamed stay"""

    bl_idname = "hero.why_clear"
    bl_label = "Clear Markers"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if any(marks(scene) for scene in bpy.data.scenes):
            return True
        cls.poll_message_set("There are no markers of HERO")
        return False

    def execute(self, _: bpy.types.Context) -> set[OperatorReturnItems]:
        count = sum(unmark(scene) for scene in bpy.data.scenes)
        self.report({"INFO"}, f"{count} marker{'s' if count != 1 else ''} taken away")
        return {"FINISHED"}


class _WhyPanel(Sidebar):
    bl_label = "Why"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has(picked(context))

    def draw(self, context: bpy.types.Context) -> None:
        layout, action = self.layout, picked(context)
        if action is None:
            return
        try:
            why = read(action)
        except HeroError as err:
            layout.label(text=str(err), icon="ERROR")
            return
        number = icon(action)
        column = layout.column(align=True)
        if number:
            column.template_icon(icon_value=number, scale=6.0)
        row = column.row()
        row.active = False
        row.label(text="Start of the clip")
        end = row.row()
        end.alignment = "RIGHT"
        end.label(text="End")
        column = layout.column(align=True)
        places = frames_of(why, strip_of(action))
        for moment in moments(why):
            frame = places[moment.sample]
            where = "trimmed off" if frame is None else f"frame {frame}"
            column.progress(factor=moment.share, text=f"{moment.share:.0%} at {where}".replace("%", " %"))
        row = layout.row(align=True)
        row.operator("hero.why", icon="MARKER_HLT")
        row.operator("hero.why_clear", icon="X", text="")


class HERO_PT_view3d_why(_WhyPanel, bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_parent_id = "HERO_PT_view3d"


class HERO_PT_sequencer_why(_WhyPanel, bpy.types.Panel):
    bl_space_type = "SEQUENCE_EDITOR"
    bl_parent_id = "HERO_PT_sequencer"


CLASSES = (HERO_OT_why, HERO_OT_why_clear, HERO_PT_view3d_why, HERO_PT_sequencer_why)


def unregister() -> None:
    charts, _Icons.previews = _Icons.previews, None
    if charts is not None:
        previews.remove(charts)
