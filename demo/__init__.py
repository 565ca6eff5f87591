# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo: public functions of hero_blender, and what it takes to see the result."""
