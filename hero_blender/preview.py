# SPDX-License-Identifier: GPL-3.0-or-later
"""See a take before it is keyed: a skeleton on the character's place, the way of hips and feet, and where feet stand.

The skeleton is that of the solve, so it is where the character's joints will be when the take is keyed, feet held and
all, up to what few keys leave out. Where Blender has a window it is drawn over the 3D view (gpu) and the file knows
nothing of it. Where not, drawing is impossible, so it is a mesh in a collection of its own, which renders: moved when
the frame changes, taken out while the file is saved, and never left behind by undo.

What is shown belongs to the moment: it ends with the file, and it is in none.
"""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

import contextlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import bpy
import numpy as np
import numpy.typing as npt
from bpy.app.handlers import persistent

from hero_core import retarget
from hero_core.errors import HeroError
from hero_core.motion import JOINTS, PARENTS, Motion
from hero_core.place import Place, put
from hero_core.retarget import BoneMap, Pose, Rig
from hero_core.retarget.contacts import Contacts, find
from hero_core.retarget.options import Options

from . import armature, bone_map, handlers, properties, react, rigfile, rigify, takes, why
from .react import About
from .takes import Source

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from bpy.stub_internal.rna_enums import OperatorReturnItems

Array = npt.NDArray[Any]
_translations: Any = bpy.app.translations
rpt = _translations.pgettext_rpt

MARK = "hero_preview"  # custom property of the data-blocks that are ours
NAME = "HERO Preview"
_NONE = "There is no preview; make one first."
_J = {name: row for row, name in enumerate(JOINTS)}
_SIDES = ("left", "right")
_TRAILS = ("pelvis", "left_foot", "right_foot")
# Bones of one colour, by the joints at their ends.
_PARTS = {side: [name for name in JOINTS if name.startswith(f"{side}_")] for side in _SIDES}
_PARTS["body"] = [*(name for name in JOINTS[1:] if not name.startswith(_SIDES)), "crown"]
# Metres on a body of the motion's size: how thick limbs and trails are as a mesh, how high marks lie over the floor,
# half the width of a sole, how far it reaches beyond ankle and ball, and how high the head is.
_LIMB, _TRAIL, _MARK, _WIDE, _LONG, _CROWN = 0.018, 0.005, 0.004, 0.045, 0.05, 0.15
_LEAST = 1e-9


@dataclass
class Skeleton:
    """A take on the place of a character; N poses, Blender's world.

    points    (N, 22, 3) the joints
    frames    (N,) scene frames on which the poses stand
    stands    for each side the contacts: (first, end) of the poses in which the foot stands, half open
    size      scene units to a metre of the motion: what thickness goes by
    """

    points: Array
    frames: Array
    stands: tuple[list[tuple[int, int]], list[tuple[int, int]]]
    size: float

    def at(self, frame: float) -> Array:
        """(22, 3) the joints at a frame of the scene; before and after the take its first and last pose."""
        where = float(np.interp(frame, self.frames, np.arange(len(self.frames))))
        low = min(int(where), len(self.points) - 1)
        high = min(low + 1, len(self.points) - 1)
        return np.asarray(self.points[low] + (where - low) * (self.points[high] - self.points[low]))

    def bones(self, names: list[str], frame: float) -> Array:
        """(K, 2, 3) ends of the bones above these joints at a frame; "crown" is the top of the head, to tell up."""
        points = self.at(frame)
        head, neck = points[_J["head"]], points[_J["neck"]]
        up = (head - neck) / max(float(np.linalg.norm(head - neck)), _LEAST)
        crown = head + _CROWN * self.size * up
        return np.array([(head, crown) if name == "crown" else points[[PARENTS[_J[name]], _J[name]]] for name in names])

    def standing(self, frame: float) -> tuple[bool, bool]:
        """Whether the left and the right foot stand at a frame."""
        where = float(np.interp(frame, self.frames, np.arange(len(self.frames))))
        left, right = (any(first <= where <= end - 1 for first, end in runs) for runs in self.stands)
        return left, right

    @cached_property
    def marks(self) -> list[tuple[int, Array]]:
        """Where feet stand: side (0 left, 1 right) and (4, 3) corners of the sole, flat at the height of its lowest
        joint, for each contact."""
        found = []
        for side, runs in enumerate(self.stands):
            for first, end in runs:
                ankle, ball = (
                    np.median(self.points[first:end, _J[f"{_SIDES[side]}_{name}"]], axis=0)
                    for name in ("ankle", "foot")
                )
                ankle[2] = ball[2] = min(ankle[2], ball[2])
                ahead = ball - ankle
                length = float(np.linalg.norm(ahead))
                ahead = ahead / length if length > _LEAST else np.array([0.0, -1.0, 0.0])
                aside = np.array([-ahead[1], ahead[0], 0.0])
                wide, long = _WIDE * self.size * aside, _LONG * self.size * ahead
                corners = (ankle - long - wide, ankle - long + wide, ball + long + wide, ball + long - wide)
                found.append((side, np.array(corners)))
        return found

    def trails(self) -> dict[str, Array]:
        """Joint -> (N, 3) its way through the whole take."""
        return {name: self.points[:, _J[name]] for name in _TRAILS}


def build(
    obj: bpy.types.Object,
    motion: Motion,
    take: int = 0,
    *,
    first_frame: float = 1,
    scene: bpy.types.Scene | None = None,
    options: Options | None = None,
    place: Place | None = None,
    stood: Array | None = None,
    rate: float | None = None,
) -> Skeleton:
    """The skeleton of a take as ``rigfile.retarget_motion`` would key it with the same arguments; nothing is changed.

    ``rate`` is the number of frames a second for which the keys were written; None = the scene's.

    Raises HeroError where the take cannot be put on this armature.
    """
    scene, place = scene or bpy.context.scene, place or Place()
    options = replace(options or Options(), start=place.start)
    bpy.context.view_layer.update()  # matrix_world of an object just moved or imported
    rig = armature.read_rig(obj, first_frame)
    if stood is not None:
        rig = replace(rig, to_world=np.asarray(stood, np.float64))
    bones = bone_map.find(obj, rig)
    if rigify.is_control_rig(obj):
        rig = rigify.skeleton(rig)
    joints, contacts = put(motion.take(take), rigfile.contacts_of(motion, take), place)
    solved = retarget.pose(joints, rig, bones, options, contacts)
    points = _joints_of(solved, rig, bones, joints)
    if options.in_place:
        points = points - solved.path[:, None]
    world = points @ rig.to_world[:3, :3].T + rig.to_world[:3, 3]  # Y up
    held = solved.contacts or find(np.asarray(joints, np.float64), contacts)
    step = (rate or scene.render.fps / scene.render.fps_base) / motion.fps * place.time_scale
    return Skeleton(
        world @ armature.Y_UP[:3, :3],
        first_frame + step * np.arange(len(world)),
        (_runs(held, 0), _runs(held, 1)),
        solved.scale,
    )


def _runs(contacts: Contacts, side: int) -> list[tuple[int, int]]:
    return [(first, end) for first, end in contacts.plants[side] if end > first]


def _joints_of(solved: Pose, rig: Rig, bones: BoneMap, joints: Array) -> Array:
    """(N, 22, 3) armature space: heads of the mapped bones; what the rig lacks stands where it would."""
    points = np.full((len(solved.heads), 22, 3), np.nan)
    for joint, row in bones.joints.items():
        points[:, _J[joint]] = solved.heads[:, row]
    into = np.linalg.inv(rig.to_world[:3, :3])
    for name, row in _J.items():
        if not np.isnan(points[0, row, 0]):
            continue
        parent = PARENTS[row]
        above = bones.joints.get(JOINTS[parent])
        ends = name.endswith(("wrist", "ankle", "_foot"))
        below = next((_J[each] for each in JOINTS if each in bones.joints and _hangs_on(_J[each], row)), None)
        if ends and above is not None:  # a bone without a child joint ends where it ends
            reach = rig.tails[above] - rig.heads[above]
            points[:, row] = solved.heads[:, above] + solved.turns[:, above] @ reach
        elif below is not None:  # a joint of the trunk that this rig does without
            points[:, row] = (points[:, parent] + points[:, below]) / 2
        else:
            way = np.asarray(joints, np.float64)[:, row] - np.asarray(joints, np.float64)[:, parent]
            points[:, row] = points[:, parent] + solved.scale * way @ into.T
    return points


def _hangs_on(row: int, top: int) -> bool:
    while row > top:
        row = PARENTS[row]
    return row == top


# --- What is shown ---


@dataclass
class _Shown:
    """What is shown, and of whom. Data-blocks are known by number, for undo makes references invalid.

    shares   what each take came from, see ``why.look``
    """

    skeleton: Skeleton
    armature: tuple[str, int]
    scene: tuple[str, int]
    motion: Motion
    take: int
    first_frame: float
    options: Options
    about: About
    shares: list[Array]
    as_objects: bool
    action: str = ""
    drawn: "_Drawing | None" = None


class _State:
    shown: _Shown | None = None
    away: bool = False  # the objects are out of the file for as long as it is saved
    following: bool = False


def show(
    scene: bpy.types.Scene,
    obj: bpy.types.Object,
    motion: Motion,
    take: int = 0,
    first_frame: float = 1,
    options: Options | None = None,
    about: About | None = None,
    *,
    shares: list[Array] | None = None,
    action: str = "",
    rate: float | None = None,
    as_objects: bool | None = None,
) -> Skeleton:
    """Show a take on a character, instead of what was shown before, and keep the motion for ``key``.

    about       where the takes come from and are to be put, as ``react.write_takes`` takes it
    action      name of the Action that has this take already
    rate        see ``build``
    as_objects  as a mesh that renders instead of a drawing over the 3D view; None = where there is no window

    Raises HeroError, with nothing changed, where the take cannot be put on this armature.
    """
    options, about = options or Options(), about or About(Source("preview"))
    stood = None if about.stood is None else np.array(about.stood).reshape(4, 4)
    place = about.place(take)
    skeleton = build(
        obj, motion, take,
        first_frame=first_frame, scene=scene, options=options, place=place, stood=stood, rate=rate,
    )  # fmt: skip
    remove()
    objects = bpy.app.background if as_objects is None else as_objects
    shown = _Shown(
        skeleton, _number(obj), _number(scene), motion, take, first_frame, options, about, shares or [], objects, action
    )
    _State.shown = shown
    if action:
        bpy.app.handlers.depsgraph_update_post.append(_follow)
    if objects:
        _put_objects()
    else:
        shown.drawn = _Drawing(shown)
    _redraw()
    return skeleton


def turn_to(take: int) -> Skeleton:
    """Show another take of the motion that is shown; beyond the last comes the first. Raises HeroError as ``show``."""
    obj, scene, shown = armature_of(), _scene_of(), _State.shown
    if shown is None or obj is None or scene is None:
        raise HeroError(_NONE)
    take %= len(shown.motion.lengths)
    return show(
        scene, obj, shown.motion, take, shown.first_frame, shown.options, shown.about,
        shares=shown.shares, as_objects=shown.as_objects,
    )  # fmt: skip


def show_action(scene: bpy.types.Scene, obj: bpy.types.Object, action: bpy.types.Action) -> Skeleton:
    """Show a take that was keyed, where its keys have it. Raises HeroError where it has no motion any more."""
    take = takes.read(action)
    about = About(take.source, places=(take.place,), stood=take.stood)
    motion, rate = takes.motion_of(action), take.scene_rate
    return show(scene, obj, motion, 0, take.first_frame, take.fit, about, action=action.name, rate=rate)


def remove() -> None:
    """Take it away, without a trace."""
    shown, _State.shown, _State.away = _State.shown, None, False
    if shown is not None and shown.drawn is not None:
        shown.drawn.close()
    for called, ours in (
        (bpy.app.handlers.frame_change_post, _frame_changed),
        (bpy.app.handlers.depsgraph_update_post, _follow),
    ):
        if ours in called:
            called.remove(ours)
    _remove_objects()
    if shown is not None:
        _redraw()


def shown() -> Skeleton | None:
    """What is shown; None too where its character is gone (undo may bring it back)."""
    return _State.shown.skeleton if _State.shown is not None and armature_of() is not None else None


def armature_of() -> bpy.types.Object | None:
    """The character of what is shown; None where it is in no scene any more, even if something still refers to it."""
    obj = _by_number(bpy.data.objects, _State.shown.armature) if _State.shown is not None else None
    return obj if obj is not None and obj.users_scene else None


def _scene_of() -> bpy.types.Scene | None:
    return _by_number(bpy.data.scenes, _State.shown.scene) if _State.shown is not None else None


def _number(block: bpy.types.ID) -> tuple[str, int]:
    return block.name, block.session_uid


def _by_number(blocks: Any, known: tuple[str, int]) -> Any | None:
    """The data-block, by its former name first, for it is asked for at each redraw."""
    block = blocks.get(known[0])
    if block is not None and block.session_uid == known[1]:
        return block
    return next((block for block in blocks if block.session_uid == known[1]), None)


def key() -> dict[str, Any]:
    """Write the take that is shown as an Action on its character, and take the preview away; returns the report.

    Raises HeroError, with the preview still there, where nothing is shown or it cannot be written.
    """
    obj, scene, shown = armature_of(), _scene_of(), _State.shown
    if shown is None or obj is None or scene is None:
        raise HeroError(_NONE)
    motion, index, about = _one_take(shown.motion, shown.take), shown.take, shown.about
    about = replace(
        about, number=about.number + index, places=(about.place(index),), names=about.names and (about.names[index],)
    )
    name = about.source.name
    report = react.write_takes(obj, motion, name, round(shown.first_frame), scene, shown.options, about)
    why.keep_all(report, shown.shares[index : index + 1], about.source)
    remove()
    return report


def _one_take(motion: Motion, take: int) -> Motion:
    """The motion with this take alone."""
    part = slice(take, take + 1)
    return Motion(
        motion.joints[part],
        motion.features[part] if motion.features is not None else None,
        motion.lengths[part],
        motion.fps,
        motion.seed + take,
        motion.tokens[part] if motion.tokens is not None else None,
        motion.records[part],
    )


def _redraw() -> None:
    manager = bpy.context.window_manager
    for window in manager.windows if manager else ():
        for area in window.screen.areas:
            if area.type in {"VIEW_3D", "SEQUENCE_EDITOR"}:
                area.tag_redraw()


# --- Drawn, where there is a window ---


def colours() -> dict[str, tuple[float, float, float]]:
    """As the theme has it for poses, what comes and what was; feet as left and right are painted in rigs."""
    theme = bpy.context.preferences.themes[0]
    view, sets = theme.view_3d, theme.bone_color_sets
    was = getattr(view, "before_current_frame", None) or (0.8, 0.3, 0.1)
    comes = getattr(view, "after_current_frame", None) or (0.1, 0.6, 0.3)
    return {
        "body": _plain(view.bone_pose_active),
        "left": _plain(sets[3].active),
        "right": _plain(sets[0].active),
        "before": _plain(was),
        "after": _plain(comes),
    }


def _plain(colour: Any) -> tuple[float, float, float]:
    return float(colour[0]), float(colour[1]), float(colour[2])


class _Drawing:
    """A draw handler of the 3D view."""

    def __init__(self, shown: _Shown) -> None:
        self.shown = shown
        self.still: list[tuple[str, Any, Any]] | None = None  # what does not move: kind, batch, where it belongs
        self.handler: Any = bpy.types.SpaceView3D.draw_handler_add(self.draw, (), "WINDOW", "POST_VIEW")

    def close(self) -> None:
        if self.handler is not None:
            bpy.types.SpaceView3D.draw_handler_remove(self.handler, "WINDOW")
            self.handler = None
        self.still = None

    def draw(self) -> None:
        """Nothing here may raise: it would do so at each redraw."""
        context = bpy.context
        scene, space = context.scene, context.space_data
        obj = armature_of()
        # The sequencer may belong to another scene than the character; what counts is where that is seen.
        if obj is None or scene not in obj.users_scene or not space.overlay.show_overlays:
            return
        import gpu

        paint = colours()
        frame = scene.frame_current_final
        gpu.state.blend_set("ALPHA")
        try:
            # What the character hides is seen through it, faintly.
            for test, alpha in (("GREATER", 0.25), ("LESS_EQUAL", 1.0)):
                gpu.state.depth_test_set(test)
                self._draw_still(paint, frame, alpha)
                self._draw_bones(paint, frame, alpha)
        finally:
            gpu.state.depth_test_set("NONE")
            gpu.state.blend_set("NONE")

    def _draw_still(self, paint: dict[str, Any], frame: float, alpha: float) -> None:
        skeleton = self.shown.skeleton
        now = int(np.searchsorted(skeleton.frames, frame))
        for way in skeleton.trails().values():
            _lines(way[: now + 1], paint["before"], 0.7 * alpha, 1.5, strip=True)
            _lines(way[now:], paint["after"], 0.7 * alpha, 1.5, strip=True)
        stands = skeleton.standing(frame)
        for side, corners in skeleton.marks:
            colour = paint[_SIDES[side]]
            loop = corners[[0, 1, 1, 2, 2, 3, 3, 0]]
            _lines(loop, colour, alpha, 1.5)
        feet = skeleton.at(frame)
        for side, name in enumerate(_SIDES):
            if stands[side]:
                mark = min(
                    (corners for each, corners in skeleton.marks if each == side),
                    key=lambda corners: float(np.linalg.norm(corners.mean(0) - feet[_J[f"{name}_ankle"]])),
                )
                _faces(mark, paint[name], 0.5 * alpha)

    def _draw_bones(self, paint: dict[str, Any], frame: float, alpha: float) -> None:
        for part, names in _PARTS.items():
            _lines(self.shown.skeleton.bones(names, frame).reshape(-1, 3), paint[part], alpha, 4.0)


def _lines(points: Array, colour: Any, alpha: float, width: float, strip: bool = False) -> None:
    if len(points) < 2:
        return
    import gpu
    from gpu_extras.batch import batch_for_shader

    shader = gpu.shader.from_builtin("POLYLINE_UNIFORM_COLOR")
    batch = batch_for_shader(shader, "LINE_STRIP" if strip else "LINES", {"pos": points.astype(np.float32).tolist()})
    size: Any = gpu.state.viewport_get()  # type: ignore[func-returns-value]
    shader.uniform_float("viewportSize", size[2:])
    shader.uniform_float("lineWidth", width * bpy.context.preferences.system.ui_scale)
    shader.uniform_float("color", (*colour, alpha))
    batch.draw(shader)


def _faces(corners: Array, colour: Any, alpha: float) -> None:
    import gpu
    from gpu_extras.batch import batch_for_shader

    shader = gpu.shader.from_builtin("UNIFORM_COLOR")
    points = corners[[0, 1, 2, 0, 2, 3]].astype(np.float32).tolist()
    shader.uniform_float("color", (*colour, alpha))
    batch_for_shader(shader, "TRIS", {"pos": points}).draw(shader)


# --- As objects, where there is none ---


def _put_objects() -> None:
    """The collection with the skeleton, which moves, and trails and marks, which do not."""
    shown, obj = _State.shown, armature_of()
    if shown is None or obj is None:
        return
    scene = obj.users_scene[0]
    skeleton, paint = shown.skeleton, colours()
    holder = bpy.data.collections.new(NAME)
    holder[MARK] = "collection"
    scene.collection.children.link(holder)
    count = len(skeleton.points)
    pieces: list[tuple[str, Any, tuple[Array, Array]]] = []
    for part in _PARTS:
        pieces.append((part, paint[part], _limbs(skeleton, part, float(scene.frame_current_final))))
    for name, way in skeleton.trails().items():
        ends = np.stack([way[:-1], way[1:]], 1) if count > 1 else np.empty((0, 2, 3))
        pieces.append((f"trail {name}", paint["after"], _tubes(ends, _TRAIL * skeleton.size)))
    for side, name in enumerate(_SIDES):
        corners = np.array([each for where, each in skeleton.marks if where == side]).reshape(-1, 3)
        corners = corners + [0.0, 0.0, _MARK * skeleton.size]
        pieces.append((f"contacts {name}", paint[name], (corners, np.arange(len(corners)).reshape(-1, 4))))
    for name, colour, (points, faces) in pieces:
        mesh = bpy.data.meshes.new(f"{NAME} {name}")
        mesh.from_pydata(points.tolist(), [], faces.tolist())
        material = bpy.data.materials.new(f"{NAME} {name}")
        material.diffuse_color = (*colour, 1.0)
        mesh.materials.append(material)
        item = bpy.data.objects.new(f"{NAME} {name}", mesh)
        item.color = (*colour, 1.0)
        item.hide_select = True
        for block in (mesh, material, item):
            block[MARK] = name
        holder.objects.link(item)
    if _frame_changed not in bpy.app.handlers.frame_change_post:
        bpy.app.handlers.frame_change_post.append(_frame_changed)


def _limbs(skeleton: Skeleton, part: str, frame: float) -> tuple[Array, Array]:
    """Vertices and faces of the bones of one side, or of the body."""
    return _tubes(skeleton.bones(_PARTS[part], frame), _LIMB * skeleton.size)


def _tubes(ends: Array, radius: float) -> tuple[Array, Array]:
    """(K, 2, 3) lines -> vertices (8 K, 3) and faces (6 K, 4) of four-sided bars."""
    if not len(ends):
        return np.empty((0, 3)), np.empty((0, 4), np.int64)
    way = ends[:, 1] - ends[:, 0]
    along = way / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), _LEAST)
    other = np.where(np.abs(along[:, 2:]) < 0.9, np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0]))
    right = np.cross(along, other)
    right /= np.maximum(np.linalg.norm(right, axis=-1, keepdims=True), _LEAST)
    corners = np.stack([right, np.cross(along, right), -right, -np.cross(along, right)], 1) * radius  # (K, 4, 3)
    points = (ends[:, :, None] + corners[:, None]).reshape(-1, 3)
    around = [(i, (i + 1) % 4, (i + 1) % 4 + 4, i + 4) for i in range(4)]
    box = np.array([*around, (3, 2, 1, 0), (4, 5, 6, 7)])
    faces = (np.arange(len(ends))[:, None, None] * 8 + box).reshape(-1, 4)
    return points, faces


def _ours(blocks: Any) -> list[Any]:
    return [block for block in blocks if block.library is None and MARK in block]


def _remove_objects() -> None:
    """Whatever bears our mark, in whatever file: undo and copies of scenes bring some back."""
    data = bpy.data
    for blocks in (data.objects, data.meshes, data.materials, data.collections):
        for block in _ours(blocks):
            blocks.remove(block)


def _move_objects(scene: bpy.types.Scene) -> None:
    shown = _State.shown
    if shown is None:
        return
    frame = float(scene.frame_current_final)
    for item in _ours(bpy.data.objects):
        if item[MARK] in _PARTS:
            points, _ = _limbs(shown.skeleton, item[MARK], frame)
            if len(item.data.vertices) == len(points):
                item.data.vertices.foreach_set("co", points.astype(np.float32).ravel())
                item.data.update()


@persistent  # type: ignore[untyped-decorator]
def _frame_changed(scene: bpy.types.Scene, *_: Any) -> None:
    obj = armature_of()
    if obj is not None and scene == obj.users_scene[0]:
        _move_objects(scene)


@persistent  # type: ignore[untyped-decorator]
def _follow(*_: Any) -> None:
    """Another take of the character was picked: show that one, as long as it is a take that is shown."""
    state, obj, scene = _State.shown, armature_of(), _scene_of()
    if state is None or obj is None or scene is None or _State.following:
        return
    action = takes.shown(obj)
    if action is None or action.name == state.action:
        return
    _State.following = True
    try:
        show_action(scene, obj, action)
    except HeroError:
        remove()
    finally:
        _State.following = False


@persistent  # type: ignore[untyped-decorator]
def _before_save(*_: Any) -> None:
    if _State.shown is not None and _State.shown.as_objects:
        _State.away = True
        _remove_objects()


@persistent  # type: ignore[untyped-decorator]
def _after_save(*_: Any) -> None:
    if _State.away:
        _State.away = False
        _put_objects()


@persistent  # type: ignore[untyped-decorator]
def _after_undo(*_: Any) -> None:
    """A step of undo may hold objects of a preview that is over, or lack those of the one that is shown."""
    _remove_objects()
    if _State.shown is not None and _State.shown.as_objects:
        _put_objects()
    if _State.shown is not None:
        _redraw()


@persistent  # type: ignore[untyped-decorator]
def _before_another_file(*_: Any) -> None:
    with contextlib.suppress(ReferenceError):
        remove()


_HANDLERS = {
    "save_pre": _before_save,
    "save_post": _after_save,
    "save_post_fail": _after_save,
    "undo_post": _after_undo,
    "redo_post": _after_undo,
    "load_pre": _before_another_file,
}


# --- Buttons ---


def _current(context: bpy.types.Context) -> bpy.types.Scene:
    scene = context.scene
    assert scene is not None
    return scene


class HERO_OT_preview(bpy.types.Operator):
    """Show the take of the character as a skeleton with the way of its hips and feet, and where they stand"""

    bl_idname = "hero.preview"
    bl_label = "Show Skeleton and Trails"

    action: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Take", description="The take to show; empty for the one that the character plays", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if properties.chosen_armature(context) is not None:
            return True
        cls.poll_message_set("Pick the character's armature")
        return False

    def execute(self, context: bpy.types.Context) -> "set[OperatorReturnItems]":
        obj: Any = properties.chosen_armature(context)
        action = bpy.data.actions.get(self.action) if self.action else takes.shown(obj)
        try:
            if action is None:
                raise HeroError(
                    f"There is no take '{self.action}' to show." if self.action else "There is no take yet."
                )
            show_action(_current(context), obj, action)
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        return {"FINISHED"}


class HERO_OT_preview_end(bpy.types.Operator):
    """Take the preview away; nothing is keyed"""

    bl_idname = "hero.preview_end"
    bl_label = "Discard Preview"

    @classmethod
    def poll(cls, _: bpy.types.Context) -> bool:
        return _State.shown is not None

    def execute(self, _: bpy.types.Context) -> "set[OperatorReturnItems]":
        remove()
        return {"FINISHED"}


class HERO_OT_preview_turn(bpy.types.Operator):
    """Show the next of the takes that were made"""

    bl_idname = "hero.preview_turn"
    bl_label = "Next Take"

    by: bpy.props.IntProperty(name="By", description="How many takes further; negative: back", default=1)  # type: ignore[valid-type]

    @classmethod
    def poll(cls, _: bpy.types.Context) -> bool:
        return shown() is not None and takes_shown()[1] > 1

    def execute(self, _: bpy.types.Context) -> "set[OperatorReturnItems]":
        try:
            turn_to(takes_shown()[0] + self.by)
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        return {"FINISHED"}


class HERO_OT_key_preview(bpy.types.Operator):
    """Write the take that is shown onto the character, as an Action"""

    bl_idname = "hero.key_preview"
    bl_label = "Key It"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, _: bpy.types.Context) -> bool:
        if shown() is None:
            cls.poll_message_set("There is no preview")
        return shown() is not None

    def execute(self, _: bpy.types.Context) -> "set[OperatorReturnItems]":
        try:
            report = key()
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        self.report({"INFO"}, f"'{report['armature']}' has the take '{report['action']}'")
        return {"FINISHED"}


def takes_shown() -> tuple[int, int]:
    """Which take of how many is shown."""
    return (0, 0) if _State.shown is None else (_State.shown.take, len(_State.shown.motion.lengths))


def draw(layout: bpy.types.UILayout) -> None:
    """What can be done with takes that are not keyed yet; below React."""
    state, obj = _State.shown, armature_of()
    if state is None or obj is None or state.action:
        return
    take, count = takes_shown()
    column = layout.box().column()
    row = column.row(align=True)
    row.label(text=rpt("Preview of take %d of %d") % (take + 1, count), icon="HIDE_OFF", translate=False)
    if count > 1:
        row.operator("hero.preview_turn", text="", icon="TRIA_LEFT").by = -1
        row.operator("hero.preview_turn", text="", icon="TRIA_RIGHT").by = 1
    row = column.row(align=True)
    row.operator("hero.key_preview", icon="KEYINGSET")
    row.operator("hero.preview_end", icon="X", text="")


def draw_toggle(layout: bpy.types.UILayout) -> None:
    """Skeleton and trails of the take that the character plays, on or off; in the panel of takes."""
    state = _State.shown
    if state is not None and state.action and armature_of() is not None:
        layout.operator("hero.preview_end", icon="HIDE_ON", text="Hide Skeleton and Trails")
    else:
        layout.operator("hero.preview", icon="HIDE_OFF")


CLASSES = (HERO_OT_preview, HERO_OT_preview_end, HERO_OT_preview_turn, HERO_OT_key_preview)


def register() -> None:
    handlers.add(_HANDLERS)


def unregister() -> None:
    handlers.remove(_HANDLERS)
    remove()
