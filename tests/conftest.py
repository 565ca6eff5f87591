# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: where the house stands, and the optional folder of large test material."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Two cores are the machine that the suite is made for. Threads that spin while they wait make a busy machine crawl.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The same examples in each run, so that a failure is the change's and not the day's; a slow machine is no failure.
hypothesis.settings.register_profile("house", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("house")


@pytest.fixture(scope="session")
def root() -> Path:
    """Top folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real clips, rigs, motions and golden numbers beside the checkout; skips where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder 'shared' beside the checkout (real clips, rigs, golden numbers)")
    return folder
