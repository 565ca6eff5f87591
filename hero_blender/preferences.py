# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for all files: PyTorch, what to compute on, weights and rig presets; and the buttons that install them."""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import bpy
import numpy as np

from hero_core.errors import Cancelled, HeroError

from . import install_torch, install_weights, torch_folder, user_files
from .compat import BLEND_RELATIVE
from .job import Worker


class Running:
    """The installation that is going on, if any, and what came of the last one. It belongs to the moment."""

    job: install_torch.Installation | install_weights.Conversion | None = None
    worker: Worker[Path] | None = None
    message = ""
    failed = False


def _presets_moved(self: Any, _context: Any) -> None:
    from . import presets

    presets.look_in(self.presets_folder)


def _look_again(_self: Any, _context: Any) -> None:
    torch_folder.find.cache_clear()


class HeroPreferences(bpy.types.AddonPreferences):
    bl_idname = __package__

    torch_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Existing Folder",
        description="The folder that holds the folder 'torch', such as the site-packages of another Python of the "
        "same version. Used where Blender's own Python has no PyTorch",
        subtype="DIR_PATH",
        update=_look_again,
    )
    torch_kind: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Build",
        description="Which PyTorch to install",
        items=[
            ("AUTO", "What Fits This Machine", "By the graphics card and its driver"),
            ("CPU", "Processor", "For the processor alone; small"),
            ("CUDA", "CUDA", "For NVIDIA graphics cards; large"),
            ("ROCM", "ROCm", "For AMD graphics cards; very large"),
            ("XPU", "XPU", "For Intel graphics cards"),
            ("MPS", "Metal", "For Macs with Apple's chips"),
        ],
    )
    show_sources: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Sources", description="Show where packages are looked for", default=False
    )
    wheel_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Folder of Wheels",
        description="Install from the packages in this folder, without any network",
        subtype="DIR_PATH",
        options=BLEND_RELATIVE,
    )
    package_index: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Package Index",
        description="Address of the package index to install from, as PyTorch's site names it after --index-url; "
        "empty for the one that pip is set to",
        default=install_torch.PYTORCH_INDEX,
    )
    proxy: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Proxy",
        description="http://host:port, with user:password@ before the host if it wants them; empty for the system's",
    )
    device: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Device",
        description="What the model runs on",
        items=[
            ("AUTO", "Automatic", "The graphics card if PyTorch can use it, otherwise the processor"),
            ("CPU", "Processor", "The processor"),
            ("CUDA", "CUDA or ROCm", "An NVIDIA or AMD graphics card"),
            ("MPS", "Metal", "The graphics part of an Apple chip"),
        ],
    )
    precision: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Precision",
        description="How exactly the model computes",
        items=[
            ("AUTO", "Automatic", "bfloat16 where the device is fast at it, otherwise float32"),
            ("FLOAT32", "float32", "The same result on every device, within rounding"),
            ("BFLOAT16", "bfloat16", "Half the memory; fast on recent devices only"),
        ],
    )

    weights: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Weights",
        description="The folder of weights for all scenes that name none; empty for those that ship",
        subtype="DIR_PATH",
    )
    weights_source: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Install From",
        description="The 'checkpoints' folder of the official release, or a folder with model.safetensors",
        subtype="DIR_PATH",
    )

    rigs_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Rig Presets",
        description="The folder of your own bone maps; empty for one that Blender keeps for you",
        subtype="DIR_PATH",
    )

    presets_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Panel Presets",
        description="The folder of your presets of the panel; empty for Blender's own folder of presets",
        subtype="DIR_PATH",
        update=_presets_moved,
    )
    cache_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Cache",
        description="The folder that remembers what was seen of clips; empty for one that Blender keeps for you",
        subtype="DIR_PATH",
    )
    cache_megabytes: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Cache Limit",
        description="How large that folder may become, in megabytes; a clip takes about 17 kB. 0 for no folder",
        default=64,
        min=0,
        max=100000,
    )

    def draw(self, _: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        found = torch_folder.find(self.torch_folder)
        ours = found is not None and user_files.is_ours(found)
        if found is None:
            layout.label(text="PyTorch was not found: install it, or choose the folder that holds it", icon="ERROR")
        else:
            layout.label(text=_torch_line(found), icon="CHECKMARK")
        why = torch_folder.why_processor()
        if why:
            layout.label(text=f"The processor computes, because {why}", icon="INFO")
        if Running.job is None:
            row = layout.row(align=True)
            row.prop(self, "torch_kind")
            row.operator("hero.install_torch", icon="IMPORT")
            if ours:
                row.operator("hero.remove_torch", text="", icon="TRASH")
        else:
            worker = Running.worker
            factor = worker.done / max(1, worker.total) if worker is not None else 0.0
            row = layout.row(align=True)
            row.progress(factor=min(1.0, factor), text=f"{Running.job.stage}…")
            row.operator("hero.cancel_installation", text="", icon="X")
        if Running.message:
            layout.label(text=Running.message, icon="ERROR" if Running.failed else "CHECKMARK")
        layout.prop(self, "torch_folder", placeholder="As installed")
        layout.prop(self, "show_sources", icon="DISCLOSURE_TRI_DOWN" if self.show_sources else "DISCLOSURE_TRI_RIGHT")
        if self.show_sources:
            layout.prop(self, "wheel_folder", placeholder="From the network")
            layout.prop(self, "package_index", placeholder="As pip is set")
            layout.prop(self, "proxy", placeholder="As the system is set")
        layout.prop(self, "device")
        layout.prop(self, "precision")
        layout.prop(self, "weights", placeholder="As shipped")
        line = install_weights.describe(Path(self.weights)) if self.weights else ""
        if line:
            layout.label(text=line)
        row = layout.row(align=True)
        row.prop(self, "weights_source", placeholder="Official release, or a folder with model.safetensors")
        row.operator("hero.install_weights", text="", icon="IMPORT")
        layout.prop(self, "rigs_folder", placeholder="Kept by Blender")
        layout.prop(self, "presets_folder", placeholder="Kept by Blender")
        row = layout.row(align=True)
        row.prop(self, "cache_folder", placeholder="Kept by Blender")
        row.operator("hero.clear_cache", text="", icon="TRASH")
        layout.prop(self, "cache_megabytes")


def _torch_line(found: Path) -> str:
    known = user_files.about(found)
    if known:
        label = install_torch.KINDS[known["kind"]].label
        return f"PyTorch {known['torch']} for the {label}, {known['bytes'] / 1e9:.1f} GB: {found}"
    return f"PyTorch: {found}"


def preferences(context: bpy.types.Context) -> Any:
    """The add-on's preferences; their defaults where it runs without being enabled (from the command line)."""
    addon = context.preferences.addons.get(__package__)
    if addon is not None and addon.preferences is not None:
        return addon.preferences
    return SimpleNamespace(
        torch_folder="", torch_kind="AUTO", wheel_folder="", package_index=install_torch.PYTORCH_INDEX, proxy="",
        device="AUTO", precision="AUTO", weights="", weights_source="", rigs_folder="",
        presets_folder="", cache_folder="", cache_megabytes=0,
    )  # fmt: skip


def cache_folder(general: Any) -> Path:
    """Where what was seen of clips is remembered; the folder may not exist yet."""
    return Path(bpy.path.abspath(general.cache_folder)) if general.cache_folder else user_files.home() / "cache"


def installation(general: Any) -> install_torch.Installation:
    """What Install PyTorch would do with these preferences. Raises HeroError where it cannot begin."""
    kind = general.torch_kind.lower()
    fitting, why = install_torch.recommended()
    choice = install_torch.Choice(
        fitting if kind == "auto" else kind,
        bpy.path.abspath(general.wheel_folder) if general.wheel_folder else "",
        general.package_index.strip(),
        general.proxy.strip(),
    )
    online = bool(bpy.app.online_access)
    return install_torch.Installation(choice, torch_folder.root(), np.__version__, online, card=why)


def conversion(general: Any, accepted: bool) -> install_weights.Conversion:
    """What Install Weights would do with these preferences. Raises HeroError where it cannot begin."""
    found = install_weights.look(bpy.path.abspath(general.weights_source) if general.weights_source else "")
    torch_folder.make_importable(general.torch_folder)
    return install_weights.Conversion(found, user_files.home() / "weights", accepted)


class _Install:
    """What both installations share: straight through in scripts, watched by a timer where there is a window.

    The timer is Blender's, not a window's: the preferences may be closed meanwhile.
    """

    def _begin(self, job: Any, run: Any, done: Any) -> set[str]:
        Running.job, Running.message, Running.failed = job, "", False
        if bpy.app.background:
            try:
                done(run(None))
            except HeroError as err:
                self.report({"ERROR"}, str(err))
                return {"CANCELLED"}
            finally:
                Running.job = None
            self.report({"INFO"}, Running.message)
            return {"FINISHED"}
        Running.worker = Worker(run)
        bpy.app.timers.register(lambda: watch(done), first_interval=0.2, persistent=True)
        return {"FINISHED"}


def watch(done: Any) -> float | None:
    """Look after the installation; returns when to look again, None when it has ended."""
    worker = Running.worker
    if worker is None:
        return None
    redraw()
    if worker.running:
        return 0.2
    Running.job = Running.worker = None
    try:
        done(worker.result())
    except Cancelled:
        Running.message, Running.failed = "Cancelled: nothing was changed", False
    except HeroError as err:
        Running.message, Running.failed = str(err), True
    except Exception as err:
        Running.message, Running.failed = f"{type(err).__name__}: {err}", True
        redraw()
        raise
    redraw()
    return None


def redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"PREFERENCES", "VIEW_3D", "SEQUENCE_EDITOR"}:
                area.tag_redraw()


def torch_is_there(folder: Path) -> None:
    torch_folder.find.cache_clear()
    known = user_files.about(folder)
    Running.message = f"PyTorch {known['torch']} is installed"
    if "torch" in sys.modules:
        Running.message += "; start Blender anew to use it"


def weights_are_there(folder: Path) -> None:
    preferences(bpy.context).weights = str(folder)
    Running.message = install_weights.describe(folder)


class HERO_OT_install_torch(_Install, bpy.types.Operator):
    """Load PyTorch into a folder of HERO's own, with pip; Blender and its Python stay as they are"""

    bl_idname = "hero.install_torch"
    bl_label = "Install PyTorch"
    bl_options: ClassVar = {"INTERNAL"}

    @classmethod
    def poll(cls, _: bpy.types.Context) -> bool:
        if Running.job is not None:
            cls.poll_message_set("Something is being installed already")
        return Running.job is None

    def invoke(self, context: bpy.types.Context, _: bpy.types.Event) -> Any:
        try:
            installation(preferences(context))
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        return context.window_manager.invoke_props_dialog(self, width=480)

    def draw(self, context: bpy.types.Context) -> None:
        for line in what_will_happen(installation(preferences(context)).choice):
            self.layout.label(text=line)

    def execute(self, context: bpy.types.Context) -> Any:
        try:
            job = installation(preferences(context))
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        return self._begin(job, job.run, torch_is_there)


def what_will_happen(choice: install_torch.Choice) -> list[str]:
    """Lines to agree to before anything is loaded."""
    kind = install_torch.KINDS[choice.kind]
    fitting, why = install_torch.recommended()
    lines = [f"PyTorch for the {kind.label}" + (f": {why}" if fitting == choice.kind else "")]
    if choice.wheels:
        lines.append(f"From {choice.wheels}, without a network")
    else:
        lines.append(f"About {kind.load:.1f} GB are loaded from {choice.index or 'the package index of pip'}")
    lines.append(f"It takes about {kind.disk:.1f} GB in {torch_folder.root()}")
    lines.append("The terms are PyTorch's (BSD) and those of the libraries that come with it")
    return lines


class HERO_OT_remove_torch(bpy.types.Operator):
    """Remove the PyTorch that HERO installed, at the next start of Blender"""

    bl_idname = "hero.remove_torch"
    bl_label = "Remove PyTorch"
    bl_options: ClassVar = {"INTERNAL"}

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> Any:
        return context.window_manager.invoke_confirm(self, event)

    def execute(self, _: bpy.types.Context) -> Any:
        try:
            folder = torch_folder.remove()
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        Running.message, Running.failed = f"{folder.name} is removed when Blender starts the next time", False
        self.report({"INFO"}, Running.message)
        return {"FINISHED"}


class HERO_OT_install_weights(_Install, bpy.types.Operator):
    """Check the weights of a folder, convert them once, and use them where a scene names none"""

    bl_idname = "hero.install_weights"
    bl_label = "Install Weights"
    bl_options: ClassVar = {"INTERNAL"}

    accept: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="I accept these terms", description="Without this nothing is installed", default=False
    )

    @classmethod
    def poll(cls, _: bpy.types.Context) -> bool:
        if Running.job is not None:
            cls.poll_message_set("Something is being installed already")
        return Running.job is None

    def invoke(self, context: bpy.types.Context, _: bpy.types.Event) -> Any:
        self.accept = False
        try:
            conversion(preferences(context), accepted=True)
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}
        return context.window_manager.invoke_props_dialog(self, width=560)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        found = install_weights.look(bpy.path.abspath(preferences(context).weights_source))
        kind = "Official release" if found.official else "Converted weights"
        layout.label(text=f"{kind}, {found.bytes / 1e6:.0f} MB: {found.folder}")
        for line in found.terms:
            layout.label(text=line)
        layout.prop(self, "accept")

    def execute(self, context: bpy.types.Context) -> Any:
        try:
            job = conversion(preferences(context), self.accept)
        except HeroError as err:
            self.report({"ERROR"}, str(err))
            return {"CANCELLED"}

        def run(on_progress: Any) -> Path:
            torch_folder.load()
            return job.run(on_progress)

        return self._begin(job, run, weights_are_there)


class HERO_OT_cancel_installation(bpy.types.Operator):
    """Stop installing; nothing is left of it"""

    bl_idname = "hero.cancel_installation"
    bl_label = "Cancel"
    bl_options: ClassVar = {"INTERNAL"}

    @classmethod
    def poll(cls, _: bpy.types.Context) -> bool:
        return Running.worker is not None

    def execute(self, _: bpy.types.Context) -> Any:
        if Running.worker is not None:
            Running.worker.cancel()
        return {"FINISHED"}


class HERO_OT_clear_cache(bpy.types.Operator):
    """Forget what was seen of clips; the next take of each watches it again"""

    bl_idname = "hero.clear_cache"
    bl_label = "Clear Cache"
    bl_options: ClassVar = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> Any:
        from . import react

        bytes_left, count = react.clear_cache(cache_folder(preferences(context)))
        self.report({"INFO"}, f"{count} clips forgotten" + (", some could not be" if bytes_left else ""))
        return {"FINISHED"}


CLASSES = (
    HeroPreferences,
    HERO_OT_clear_cache,
    HERO_OT_install_torch,
    HERO_OT_remove_torch,
    HERO_OT_install_weights,
    HERO_OT_cancel_installation,
)
