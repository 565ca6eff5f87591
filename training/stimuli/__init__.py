# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendered stimulus clips and the reactions that fit them."""
