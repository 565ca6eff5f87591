# SPDX-License-Identifier: GPL-3.0-or-later
"""One Blender for each test process: a profile of its own, factory settings before a test, an end that cannot hang."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

# Before bpy is imported: nobody's preferences and extensions may matter, and nobody's may be written.
_PROFILE = tempfile.mkdtemp(prefix="hero-blender-profile-")
os.environ["BLENDER_USER_RESOURCES"] = _PROFILE

_HAVE_BPY = importlib.util.find_spec("bpy") is not None
collect_ignore_glob = [] if _HAVE_BPY else ["test_*.py"]
_exit_status: list[int] = []


@pytest.fixture
def blend() -> Iterator[Any]:
    """bpy with an empty file and factory preferences; the end of the test leaves an empty file again."""
    bpy = pytest.importorskip("bpy", reason="needs the bpy wheel: python build.py test --blender 4.5")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    yield bpy
    bpy.ops.wm.read_factory_settings(use_empty=True)
    _forget_rigify(bpy)


def _forget_rigify(bpy: Any) -> None:
    """Rigify leaves handlers behind when it is switched off; in 5.0 they complain whenever a file is loaded."""
    for name in dir(bpy.app.handlers):
        handlers = getattr(bpy.app.handlers, name)
        if isinstance(handlers, list):
            handlers[:] = [each for each in handlers if not getattr(each, "__module__", "").startswith("rigify")]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    _exit_status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave without Blender's own tear-down: a live thread or a pending timer hangs or aborts it there."""
    shutil.rmtree(_PROFILE, ignore_errors=True)
    if "bpy" not in sys.modules:
        return
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    # A crash before pytest came to its end must not look like success.
    os._exit(_exit_status[-1] if _exit_status else 3)
