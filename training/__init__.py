# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes that make the data and the weights that ship; not part of the wheel."""
