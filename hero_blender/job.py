# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in a thread, watched from Blender's main loop: progress, cancel, one result or one error.

Threading model: the work touches neither bpy nor operators; it shares this plain object alone. The main thread polls
it from a timer. Nothing waits except ``join``. Blender aborts, or hangs, if it ends while such a thread lives, so
``stop_all`` is called when the add-on is disabled and when Python ends.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from hero_core.errors import Cancelled

T = TypeVar("T")
Progress = Callable[[int, int], bool]

_alive: set[Worker[Any]] = set()


class Worker(Generic[T]):
    """Runs ``work(on_progress)`` in a thread, at once.

    ``work`` calls ``on_progress(done, total)`` often and stops, by raising Cancelled, when that returns False.
    """

    def __init__(self, work: Callable[[Progress], T]) -> None:
        self.done, self.total = 0, 1
        self._work = work
        self._stop = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None
        # A daemon: Python would otherwise wait for the end of the work before it lets stop_all end it.
        self._thread = threading.Thread(target=self._run, name="hero", daemon=True)
        reap()
        _alive.add(self)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._work(self._on_progress))
        except BaseException as err:  # noqa: BLE001 - whatever it is, the main thread raises it again
            self._error = err

    def _on_progress(self, done: int, total: int) -> bool:
        self.done, self.total = done, total
        return not self._stop.is_set()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def cancel(self) -> None:
        """Ask the work to stop; it does so at its next ``on_progress``. Nobody needs to wait: see ``reap``."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Until it has ended, but no longer than that."""
        self._thread.join(seconds)

    def join(self) -> None:
        self._thread.join()
        _alive.discard(self)

    def result(self) -> T:
        """What the work returned; raises what it raised, or Cancelled where it was told to stop."""
        self.join()
        if self._stop.is_set():
            raise Cancelled
        if self._error is not None:
            raise self._error
        return self._result[0]


def busy() -> bool:
    """Whether a thread of ours is running, one that was cancelled and has not come to its end, too."""
    return any(worker.running for worker in _alive)


def reap() -> None:
    """Join the threads that have ended by themselves after they were cancelled."""
    for worker in [each for each in _alive if not each.running]:
        worker.join()


def stop_all() -> None:
    """Cancel all work and wait until no thread is left."""
    for worker in list(_alive):
        worker.cancel()
    for worker in list(_alive):
        worker.join()


atexit.register(stop_all)
