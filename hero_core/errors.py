# SPDX-License-Identifier: GPL-3.0-or-later
"""What hero_core raises on purpose."""

from __future__ import annotations

import sys
from collections.abc import Callable


class HeroError(Exception):
    """A problem that the user can solve; its text is one sentence that says what to do."""


class Cancelled(HeroError):
    """Raised when an ``on_progress`` callback returned False; nothing was written."""

    def __init__(self, message: str = "Cancelled: nothing was changed.") -> None:
        super().__init__(message)


def exit_code(command: Callable[[], int | None], stopped: str = "Cancelled: nothing was written.") -> int:
    """Run a command line's command: its own code or 0; 1 for a problem, 130 for Ctrl-C, told in one line on stderr."""
    try:
        return command() or 0
    except ModuleNotFoundError as err:
        print(f"error: the Python package '{err.name}' is not installed in this Python; install it.", file=sys.stderr)
        return 1
    except HeroError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return 130
