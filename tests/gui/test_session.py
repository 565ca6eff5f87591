# SPDX-License-Identifier: GPL-3.0-or-later
"""An animator's first minutes with HERO in a Blender with a window; what ``driver.py`` did and saw."""

from __future__ import annotations

from typing import Any


def test_no_step_failed_and_blender_came_to_a_good_end(session: dict[str, Any]) -> None:
    assert session["error"] is None, session["error"] + session["log"][-3000:]
    assert session["code"] == 0, session["log"][-3000:]
    parts = session["log"].split("Traceback (most recent call last)")[1:]  # Debian's Blender may have some of its own
    ours = [part for part in parts if "hero_" in part or "/driver.py" in part]
    assert not ours, ours[0][:3000]


def test_cancel_comes_within_half_a_second_and_changes_nothing(session: dict[str, Any]) -> None:
    assert session["cancel_seconds"] <= 0.5
    assert session["after_cancel"] is None


def test_a_take_is_keyed_and_undo_takes_it_back(session: dict[str, Any]) -> None:
    assert session["after_react"] is not None
    assert session["after_undo"] is None
    assert session["after_redo"] == session["after_react"]
