# SPDX-License-Identifier: GPL-3.0-or-later
"""The map that a VRM file brings along: which of its nodes are which bones of a human.

VRM 0: https://github.com/vrm-c/vrm-specification/tree/master/specification/0.0, extension "VRM";
VRM 1: the same repository, specification/VRMC_vrm-1.0/humanoid.md, extension "VRMC_vrm".
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import HeroError

# VRM's human bones that are joints of HumanML3D; the spine is found by the hierarchy, as VRM leaves parts of it out.
_JOINTS = {
    "hips": "pelvis", "neck": "neck", "head": "head",
    **{
        f"{side}{bone}": f"{side}_{joint}"
        for side in ("left", "right")
        for bone, joint in (
            ("UpperLeg", "hip"), ("LowerLeg", "knee"), ("Foot", "ankle"), ("Toes", "foot"), ("Shoulder", "collar"),
            ("UpperArm", "shoulder"), ("LowerArm", "elbow"), ("Hand", "wrist"),
        )
    },
}  # fmt: skip


def humanoid(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Joint -> bone name from VRM's pairs of human bone ("leftUpperLeg" or "left_upper_leg") and bone name."""
    found = {}
    for human, bone in pairs:
        first, *others = human.split("_")
        joint = _JOINTS.get(first + "".join(word.capitalize() for word in others))
        if joint is not None and bone:
            found[joint] = bone
    return found


def vrm_map(gltf: Mapping[str, Any]) -> dict[str, str]:
    """Joint -> node name from the JSON of a glTF file with the extension VRM (0) or VRMC_vrm (1); {} without one.

    Raises HeroError where the extension is there and does not say what its specification asks for.
    """
    extensions = gltf.get("extensions") or {}
    try:
        if "VRMC_vrm" in extensions:
            bones = extensions["VRMC_vrm"]["humanoid"]["humanBones"]
            numbers = [(human, int(bone["node"])) for human, bone in bones.items()]
        elif "VRM" in extensions:
            bones = extensions["VRM"]["humanoid"]["humanBones"]
            numbers = [(str(bone["bone"]), int(bone["node"])) for bone in bones]
        else:
            return {}
        nodes = gltf["nodes"]
        return humanoid((human, str(nodes[node].get("name", ""))) for human, node in numbers if node >= 0)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as err:
        raise HeroError(f"The VRM file's map of human bones is broken ({err}); export the character again.") from err


def read_vrm(source: bytes | Path) -> dict[str, str]:
    """``vrm_map`` of a .vrm, .glb or .gltf file, or of its bytes; {} where it holds no VRM extension.

    Raises HeroError for what is no glTF file.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        if data[:4] == b"glTF":  # header of 12 bytes, then chunks: length, kind, content; the first one is the JSON
            length, kind = struct.unpack_from("<I4s", data, 12)
            if kind != b"JSON":
                raise ValueError("no JSON chunk")
            data = data[20 : 20 + length]
        gltf = json.loads(data)
        if not isinstance(gltf, dict):
            raise ValueError("no glTF object")
    except (OSError, ValueError, struct.error) as err:
        name = "These bytes are" if isinstance(source, bytes) else f"'{source}' is"
        raise HeroError(f"{name} no glTF or VRM file ({err}); export the character again.") from err
    return vrm_map(gltf)
