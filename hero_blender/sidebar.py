# SPDX-License-Identifier: GPL-3.0-or-later
"""Where all panels stand: the HERO tab of a sidebar; which editor's is for each panel to say."""

from __future__ import annotations

import bpy


class Sidebar:
    bl_region_type = "UI"
    bl_category = "HERO"

    layout: bpy.types.UILayout
