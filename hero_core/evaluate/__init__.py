# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers for generated reactions: the paper's metrics, what an animator sees, whether a reaction fits its video."""
