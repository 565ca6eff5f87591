# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for all files: where PyTorch is, and what to compute on."""

# No "from __future__ import annotations" here: Blender reads the properties from the annotations.

from types import SimpleNamespace
from typing import Any

import bpy

from . import torch_folder


def _look_again(_self: Any, _context: Any) -> None:
    torch_folder.find.cache_clear()


class HeroPreferences(bpy.types.AddonPreferences):
    bl_idname = __package__

    torch_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="PyTorch Folder",
        description="The folder that holds the folder 'torch', such as the site-packages of another Python of the "
        "same version. Needed only where Blender's own Python has no PyTorch",
        subtype="DIR_PATH",
        update=_look_again,
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

    rigs_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Rig Presets",
        description="The folder of your own bone maps; empty for one that Blender keeps for you",
        subtype="DIR_PATH",
    )

    def draw(self, _: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        found = torch_folder.find(self.torch_folder)
        if found is None:
            layout.label(text="PyTorch was not found: choose the folder that holds it", icon="ERROR")
        else:
            layout.label(text=f"PyTorch: {found}", icon="CHECKMARK")
        layout.prop(self, "torch_folder")
        layout.prop(self, "device")
        layout.prop(self, "precision")
        layout.prop(self, "rigs_folder", placeholder="Kept by Blender")


def preferences(context: bpy.types.Context) -> Any:
    """The add-on's preferences; their defaults where it runs without being enabled (from the command line)."""
    addon = context.preferences.addons.get(__package__)
    if addon is not None and addon.preferences is not None:
        return addon.preferences
    return SimpleNamespace(torch_folder="", device="AUTO", precision="AUTO", rigs_folder="")


CLASSES = (HeroPreferences,)
