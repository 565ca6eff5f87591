# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of every part of the model: ``python -m hero_core.train STAGE --config FILE``."""
