# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker ends in one of three ways, and no thread is ever left."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("bpy")

from hero_blender import job
from hero_blender.job import Progress, Worker
from hero_core.errors import Cancelled, HeroError


def slow(on_progress: Progress) -> str:
    for i in range(1000):
        time.sleep(0.005)
        if not on_progress(i, 1000):
            raise Cancelled
    return "done"


def threads() -> int:
    return sum(thread.name == "hero" for thread in threading.enumerate())


def test_result_and_progress() -> None:
    seen = []

    def work(on_progress: Progress) -> int:
        seen.append(on_progress(3, 8))
        return 42

    worker = Worker(work)
    assert worker.result() == 42
    assert seen == [True]
    assert (worker.done, worker.total) == (3, 8)
    assert not worker.running
    assert threads() == 0


def test_error_is_raised_where_the_result_is_asked_for() -> None:
    def work(on_progress: Progress) -> None:
        raise HeroError("choose another")

    worker = Worker(work)
    with pytest.raises(HeroError, match="choose another"):
        worker.result()


def test_cancel_is_quick_and_wins_over_a_late_result() -> None:
    worker = Worker(slow)
    time.sleep(0.02)
    start = time.perf_counter()
    worker.cancel()
    with pytest.raises(Cancelled):
        worker.result()
    assert time.perf_counter() - start < 0.5
    late = Worker(lambda on_progress: "too late")
    late.cancel()
    with pytest.raises(Cancelled):
        late.result()
    assert threads() == 0


def test_stop_all_joins_every_thread() -> None:
    workers = [Worker(slow) for _ in range(3)]
    assert threads() == 3
    job.stop_all()
    assert threads() == 0
    assert not any(worker.running for worker in workers)
    job.stop_all()


def test_python_ends_although_work_is_going_on() -> None:
    code = (
        "import bpy, time\n"
        "from hero_blender.job import Worker\n"
        "def work(on_progress):\n"
        "    while on_progress(0, 1): time.sleep(0.01)\n"
        "    print('stopped', flush=True)\n"
        "Worker(work)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert "stopped" in done.stdout
    assert done.returncode == 0, done.stderr
