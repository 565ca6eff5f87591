# SPDX-License-Identifier: GPL-3.0-or-later
"""Joints to rig: ``map_bones`` finds the bones, ``solve`` turns them. numpy only."""

from .mapping import BoneMap, Preset, load_presets, map_bones
from .rig import BoneKeys, Reach, Rig
from .solve import Pose, pose, solve

__all__ = ["BoneKeys", "BoneMap", "Pose", "Preset", "Reach", "Rig", "load_presets", "map_bones", "pose", "solve"]
