# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Mixamo-named character for tests that need some rig and not a particular one."""

from __future__ import annotations

from typing import Any

import numpy as np

# Bone: parent, head and tail in metres; left side and middle, a T-pose that faces -Y.
MIDDLE = {
    "Hips": (None, (0, 0, 1.0), (0, 0, 1.1)),
    "Spine": ("Hips", (0, 0, 1.1), (0, 0, 1.2)),
    "Spine1": ("Spine", (0, 0, 1.2), (0, 0, 1.32)),
    "Spine2": ("Spine1", (0, 0, 1.32), (0, 0, 1.48)),
    "Neck": ("Spine2", (0, 0, 1.48), (0, 0, 1.58)),
    "Head": ("Neck", (0, 0, 1.58), (0, 0, 1.78)),
}
LEFT = {
    "Shoulder": ("Spine2", (0.04, 0, 1.44), (0.17, 0, 1.44)),
    "Arm": ("Shoulder", (0.17, 0, 1.44), (0.44, 0, 1.44)),
    "ForeArm": ("Arm", (0.44, 0, 1.44), (0.69, 0.0, 1.44)),
    "Hand": ("ForeArm", (0.69, 0, 1.44), (0.8, 0, 1.44)),
    "UpLeg": ("Hips", (0.09, 0, 0.95), (0.09, -0.01, 0.52)),
    "Leg": ("UpLeg", (0.09, -0.01, 0.52), (0.09, 0.02, 0.09)),
    "Foot": ("Leg", (0.09, 0.02, 0.09), (0.09, -0.1, 0.03)),
    "ToeBase": ("Foot", (0.09, -0.1, 0.03), (0.09, -0.18, 0.03)),
}


def mixamo(bpy: Any, name: str = "character", without: str = "nothing") -> Any:
    """An armature object in the scene; bones whose name holds ``without`` are left out."""
    data = bpy.data.armatures.new(name)
    rig = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bones: dict[str, Any] = dict(MIDDLE)
    for side, sign in (("Left", 1), ("Right", -1)):
        for bone, (parent, head, tail) in LEFT.items():
            above = parent if parent in MIDDLE else side + parent
            bones[side + bone] = (above, (sign * head[0], *head[1:]), (sign * tail[0], *tail[1:]))
    bpy.ops.object.mode_set(mode="EDIT")
    for bone, (_, head, tail) in bones.items():
        if without not in bone:
            edit = data.edit_bones.new(f"mixamorig:{bone}")
            edit.head, edit.tail = head, tail
    for bone, (above, _, _) in bones.items():
        edit = data.edit_bones.get(f"mixamorig:{bone}")
        if edit is not None and above is not None:
            edit.parent = data.edit_bones.get(f"mixamorig:{above}")
    bpy.ops.object.mode_set(mode="OBJECT")
    return rig


def rest_angle(obj: Any, upper: str, lower: str, pole: str) -> float:
    """The pole angle with which the limb stays at rest: what a rigger finds by turning the number until it fits."""
    bones = obj.data.bones
    a, b = bones[upper], bones[lower]
    normal = (b.tail_local - a.head_local).cross(bones[pole].head_local - a.head_local)
    axes = a.matrix_local.to_3x3()
    projected = normal.cross(axes.col[1])
    return -float(np.arctan2(axes.col[0].cross(projected).dot(axes.col[1]), axes.col[0].dot(projected)))
