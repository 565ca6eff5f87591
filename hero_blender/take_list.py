# SPDX-License-Identifier: GPL-3.0-or-later
"""The takes of the character in the panel: play, compare, keep, rename, delete; more of them, and other parts."""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

from typing import TYPE_CHECKING, Any, ClassVar

import bpy

from hero_core.errors import HeroError

from . import compare, edit_take, preview, properties, takes
from .operators import JobOperator, busy
from .react import Reaction, Settings
from .told import Told, left_alone

if TYPE_CHECKING:
    from bpy.stub_internal.rna_enums import OperatorReturnItems


def _name_property() -> Any:
    prop: Any = bpy.props.StringProperty
    return prop(name="Take", description="Name of the take; empty for the one that is shown", options={"SKIP_SAVE"})


def _seed_property() -> Any:
    prop: Any = bpy.props.IntProperty
    return prop(
        name="Seed",
        description="What is drawn; -1 for a seed that no take of the clip has",
        default=edit_take.NEXT,
        min=edit_take.NEXT,
        options={"SKIP_SAVE"},
    )


def _scene(context: bpy.types.Context) -> bpy.types.Scene:
    assert context.scene is not None
    return context.scene


def _character(context: bpy.types.Context) -> bpy.types.Object:
    obj = properties.chosen_armature(context)
    if obj is None:
        raise HeroError("Pick the character's armature first.")
    return obj


def _picked(context: bpy.types.Context, name: str) -> bpy.types.Action:
    """The take of that name, or the one that the character shows."""
    action = bpy.data.actions.get(name) if name else takes.shown(properties.chosen_armature(context))
    if action is None:
        raise HeroError(f"There is no take '{name}' any more." if name else "The character shows no take; click one.")
    takes.read(action)
    return action


class _TakeOperator(Told):
    """Something quick about a take."""

    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = properties.chosen_armature(context)
        return obj is not None and any(takes.belongs(action, obj) for action in bpy.data.actions)


class HERO_OT_take_show(_TakeOperator, bpy.types.Operator):
    """Let the character play this take"""

    bl_idname = "hero.take_show"
    bl_label = "Show Take"

    take: _name_property()  # type: ignore[valid-type]
    play: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Play", description="Play the animation from the take's first frame on", default=False
    )

    def work(self, context: bpy.types.Context) -> str | None:
        obj, action = _character(context), _picked(context, self.take)
        takes.show(obj, action)
        if self.play:
            context.scene.frame_set(edit_take.range_of(obj, action)[0])
            if not bpy.app.background and not context.screen.is_animation_playing:
                bpy.ops.screen.animation_play()
        return None


class HERO_OT_take_step(_TakeOperator, bpy.types.Operator):
    """Show the next or the previous take of the list"""

    bl_idname = "hero.take_step"
    bl_label = "Next Take"

    by: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="By", description="How many takes further; negative: back", default=1, options={"SKIP_SAVE"}
    )

    def work(self, context: bpy.types.Context) -> str | None:
        obj = _character(context)
        found, now = takes.of(obj), takes.shown(obj)
        at = found.index(now) + self.by if now in found else 0
        takes.show(obj, found[at % len(found)])
        return None


class HERO_OT_take_keep(_TakeOperator, bpy.types.Operator):
    """Keep this take when the others are deleted, or let it go with them"""

    bl_idname = "hero.take_keep"
    bl_label = "Keep Take"

    take: _name_property()  # type: ignore[valid-type]

    def work(self, context: bpy.types.Context) -> str | None:
        action = _picked(context, self.take)
        takes.change(action, kept=not takes.read(action).kept)
        return None


class HERO_OT_take_rename(_TakeOperator, bpy.types.Operator):
    """Give this take another name"""

    bl_idname = "hero.take_rename"
    bl_label = "Rename Take"

    take: _name_property()  # type: ignore[valid-type]
    to: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Name", description="The new name", options={"SKIP_SAVE"}
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> "set[OperatorReturnItems]":
        try:
            self.to = self.to or _picked(context, self.take).name
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        return context.window_manager.invoke_props_popup(self, event)

    def work(self, context: bpy.types.Context) -> str | None:
        takes.rename(_picked(context, self.take), self.to)
        return None


class HERO_OT_take_delete(_TakeOperator, bpy.types.Operator):
    """Remove this take from the file; the character shows the next one"""

    bl_idname = "hero.take_delete"
    bl_label = "Delete Take"

    take: _name_property()  # type: ignore[valid-type]

    def work(self, context: bpy.types.Context) -> str | None:
        return f"'{takes.delete([_picked(context, self.take)])[0]}' deleted"


class HERO_OT_take_delete_others(_TakeOperator, bpy.types.Operator):
    """Remove all takes of the character but the one that is shown and those that are kept"""

    bl_idname = "hero.take_delete_others"
    bl_label = "Delete Other Takes"

    def work(self, context: bpy.types.Context) -> str | None:
        obj = _character(context)
        shown = takes.shown(obj)
        gone = [action for action in takes.of(obj) if action != shown and not takes.read(action).kept]
        takes.delete(gone)
        return f"{len(gone)} takes deleted"


class HERO_OT_take_compare(_TakeOperator, bpy.types.Operator):
    """Put other takes beside the one that is shown, each on a copy of the character; again to remove them"""

    bl_idname = "hero.take_compare"
    bl_label = "Compare Takes"

    count: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Takes", description="How many other takes to show", default=3, min=1, max=16
    )
    distance: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Distance",
        description="How far the copies stand apart",
        default=1.5,
        min=0.01,
        soft_max=10.0,
        unit="LENGTH",
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return compare.running() is not None or _TakeOperator.poll.__func__(cls, context)

    def invoke(self, context: bpy.types.Context, _: bpy.types.Event) -> "set[OperatorReturnItems]":
        if compare.running() is not None:
            compare.stop()
            return {"FINISHED"}
        return self.execute(context)

    def work(self, context: bpy.types.Context) -> str | None:
        obj = _character(context)
        compare.start(_scene(context), obj, compare.others(obj, self.count), self.distance)
        return None


class HERO_OT_take_compare_end(bpy.types.Operator):
    """Remove the copies of the character that show other takes"""

    bl_idname = "hero.take_compare_end"
    bl_label = "End Comparison"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, _: bpy.types.Context) -> bool:
        return compare.running() is not None

    def execute(self, _: bpy.types.Context) -> "set[OperatorReturnItems]":
        compare.stop()
        return {"FINISHED"}


class HERO_OT_take_fit(_TakeOperator, bpy.types.Operator):
    """Put the motion of this take on the character once more, as Fit, Timing and Place say now; no model is needed"""

    bl_idname = "hero.take_fit"
    bl_label = "Fit Again"

    take: _name_property()  # type: ignore[valid-type]

    def work(self, context: bpy.types.Context) -> str | None:
        action = _picked(context, self.take)
        report = edit_take.fit_again(_scene(context), _character(context), action, properties.settings_of(context))
        alone = left_alone(report)
        if alone:
            self.report({"WARNING"}, alone)
        return f"'{report['action']}' from frame {report['first_frame']} on"


# --- Jobs ---


class _TakeJob(JobOperator):
    """Something that the model makes of a take."""

    take: str
    seed: int

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if busy(cls):
            return False
        if takes.shown(properties.chosen_armature(context)) is None:
            cls.poll_message_set("The character shows no take; click one in the list")
            return False
        return True

    def begin(self, context: bpy.types.Context) -> Reaction:
        obj, action = _character(context), _picked(context, self.take)
        return self.task(context, obj, action, properties.settings_of(context), _other_clip(context, action))

    def task(
        self, context: bpy.types.Context, obj: bpy.types.Object, action: bpy.types.Action, settings: Settings, clip: Any
    ) -> Reaction:
        raise NotImplementedError

    def drawn(self, obj: bpy.types.Object, action: bpy.types.Action) -> int:
        """The seed; the redo panel shows which it was."""
        if self.seed == edit_take.NEXT:
            self.seed = edit_take.next_seed(obj, takes.read(action))
        return self.seed


def _other_clip(context: bpy.types.Context, action: bpy.types.Action) -> Any | None:
    """The clip of the panel, where that of the take is not there any more."""
    if takes.clip_of(takes.read(action).source) is not None:
        return None
    clip = properties.chosen_clip(context)
    return clip if isinstance(clip, str) or (clip is not None and clip.type != "SOUND") else None


class HERO_OT_take_more(_TakeJob, bpy.types.Operator):
    """Further takes of this take's clip, with its settings and the next seeds; the clip is not watched again"""

    bl_idname = "hero.take_more"
    bl_label = "More Takes"

    take: _name_property()  # type: ignore[valid-type]
    count: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Takes", description="How many further takes", default=1, min=1, soft_max=8, max=64
    )

    def task(self, context, obj, action, settings, clip) -> Reaction:  # type: ignore[no-untyped-def]
        return edit_take.more(context.scene, obj, action, self.count, settings, clip)


class HERO_OT_take_like(_TakeJob, bpy.types.Operator):
    """Takes that begin as this one does and go on otherwise"""

    bl_idname = "hero.take_like"
    bl_label = "More Like This"

    take: _name_property()  # type: ignore[valid-type]
    count: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Takes", description="How many takes", default=1, min=1, soft_max=8, max=64
    )
    share: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Same Start",
        description="How much of this take stays",
        default=33.0,
        min=1.0,
        max=99.0,
        subtype="PERCENTAGE",
    )
    seed: _seed_property()  # type: ignore[valid-type]

    def task(self, context, obj, action, settings, clip) -> Reaction:  # type: ignore[no-untyped-def]
        return edit_take.more_like_this(
            context.scene, obj, action, self.count, settings, self.share / 100, self.drawn(obj, action), clip
        )


class HERO_OT_take_part(_TakeJob, bpy.types.Operator):
    """Make a part of this take anew: the preview range, the selected keys, or a second around the playhead"""

    bl_idname = "hero.take_part"
    bl_label = "Change Part"

    take: _name_property()  # type: ignore[valid-type]
    first: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="First Frame", description="Where the part begins", default=0, options={"SKIP_SAVE"}
    )
    last: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Last Frame", description="Where the part ends", default=0, options={"SKIP_SAVE"}
    )
    keep: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="What Follows",
        description="What becomes of the frames after the part",
        items=[
            ("PLACE", "Stays in Place", "It stays as it is; the new part is led to where it begins"),
            ("PATH", "Follows", "It follows from where the new part ends, turned and moved as a whole"),
        ],
    )
    replace: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Replace", description="The new take takes the place and the name of this one", default=False
    )
    seed: _seed_property()  # type: ignore[valid-type]

    def task(self, context, obj, action, settings, clip) -> Reaction:  # type: ignore[no-untyped-def]
        if not (self.properties.is_property_set("first") or self.properties.is_property_set("last")):
            self.first, self.last = edit_take.proposed_range(context, obj, action)
        return edit_take.change_part(
            context.scene, obj, action, (self.first, self.last), settings, self.drawn(obj, action),
            self.keep.lower(), self.replace, clip,
        )  # fmt: skip


class HERO_OT_take_extend(_TakeJob, bpy.types.Operator):
    """Let this take go on after its end, up to ten seconds in all"""

    bl_idname = "hero.take_extend"
    bl_label = "Extend"

    take: _name_property()  # type: ignore[valid-type]
    seconds: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Seconds", description="How much longer it becomes", default=1.0, min=0.2, max=10.0, step=20, precision=1
    )
    seed: _seed_property()  # type: ignore[valid-type]

    def task(self, context, obj, action, settings, clip) -> Reaction:  # type: ignore[no-untyped-def]
        return edit_take.extend(context.scene, obj, action, self.seconds, settings, self.drawn(obj, action), clip)


class HERO_OT_take_remake(_TakeJob, bpy.types.Operator):
    """Make this take once more from its record alone; the keys are the same to the bit"""

    bl_idname = "hero.take_remake"
    bl_label = "Make Again"

    take: _name_property()  # type: ignore[valid-type]

    def task(self, context, obj, action, settings, clip) -> Reaction:  # type: ignore[no-untyped-def]
        return edit_take.remake(context.scene, obj, action, settings, clip)


# --- The list ---


class HERO_UL_takes(bpy.types.UIList):
    """Actions of the file that are takes of the character; a click shows one."""

    def draw_item(self, _context, layout, _data, item, _icon, _active_data, _active, _index=0, _flag=0) -> None:  # type: ignore[no-untyped-def]
        row = layout.row(align=True)
        row.prop(item, "name", text="", emboss=False, icon="ACTION")
        try:
            take = takes.read(item)
        except HeroError:
            row.label(text="", icon="ERROR")
            return
        told = row.row(align=True)
        told.alignment = "RIGHT"
        told.active = False
        told.label(text=f"{take.frames / take.rate * take.place.time_scale:.1f} s", translate=False)
        icon = "SOLO_ON" if take.kept else "SOLO_OFF"
        row.operator("hero.take_keep", text="", icon=icon, emboss=False).take = item.name

    def filter_items(self, context: bpy.types.Context, data: Any, name: str) -> Any:
        actions, obj = getattr(data, name), properties.chosen_armature(context)
        flags: Any = [self.bitflag_filter_item] * len(actions)
        if self.filter_name:
            flags = bpy.types.UI_UL_list.filter_items_by_name(
                self.filter_name, self.bitflag_filter_item, actions, "name"
            )
        for index, action in enumerate(actions):
            if obj is None or not takes.belongs(action, obj):
                flags[index] &= ~self.bitflag_filter_item
        return flags, []


class HERO_MT_takes(bpy.types.Menu):
    bl_label = "Takes"

    def draw(self, _: bpy.types.Context) -> None:
        layout = self.layout
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("hero.take_rename", icon="GREASEPENCIL")
        layout.operator("hero.take_fit", icon="CON_ARMATURE")
        layout.operator("hero.take_remake", icon="FILE_REFRESH")
        layout.separator()
        layout.operator("hero.take_delete_others", icon="TRASH")


def draw(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The list with its buttons; for the panels."""
    obj = properties.chosen_armature(context)
    row = layout.row()
    row.template_list("HERO_UL_takes", "", bpy.data, "actions", context.scene.hero, "take", rows=4)
    column = row.column(align=True)
    column.operator("hero.take_more", text="", icon="ADD")
    column.operator("hero.take_delete", text="", icon="REMOVE")
    column.separator()
    column.menu("HERO_MT_takes", text="", icon="DOWNARROW_HLT")
    column.separator()
    if compare.running() is None:
        column.operator("hero.take_compare", text="", icon="MOD_ARRAY")
    else:
        column.operator("hero.take_compare_end", text="", icon="PANEL_CLOSE")
    action = takes.shown(obj)
    if action is None:
        return
    try:
        text = takes.label(action)
    except HeroError as err:
        layout.label(text=str(err), icon="ERROR")
        return
    told = layout.row()
    told.active = False
    told.label(text=text, translate=False)
    row = layout.row(align=True)
    row.operator("hero.take_show", text="Play", icon="PLAY").play = True
    row.operator("hero.take_like", icon="DUPLICATE")
    row = layout.row(align=True)
    row.operator("hero.take_part", icon="ACTION_TWEAK")
    row.operator("hero.take_extend", icon="FORWARD")
    preview.draw_toggle(layout)


CLASSES = (
    HERO_UL_takes, HERO_MT_takes,
    HERO_OT_take_show, HERO_OT_take_step, HERO_OT_take_keep, HERO_OT_take_rename, HERO_OT_take_delete,
    HERO_OT_take_delete_others, HERO_OT_take_compare, HERO_OT_take_compare_end, HERO_OT_take_fit, HERO_OT_take_more,
    HERO_OT_take_like, HERO_OT_take_part, HERO_OT_take_extend, HERO_OT_take_remake,
)  # fmt: skip
