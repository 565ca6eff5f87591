# SPDX-License-Identifier: GPL-3.0-or-later
"""What hero_core raises on purpose."""

from __future__ import annotations


class HeroError(Exception):
    """A problem that the user can solve; its text is one sentence that says what to do."""


class Cancelled(HeroError):
    """Raised when an ``on_progress`` callback returned False; nothing was written."""

    def __init__(self, message: str = "Cancelled: nothing was changed.") -> None:
        super().__init__(message)
