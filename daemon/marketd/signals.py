"""SIGTERM and SIGINT ask for a stop, a second one ends the process at once; SIGHUP asks for a reload."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SAME_REQUEST_S = 0.5


class Stop(asyncio.Event):
    """Set when a stop is asked for. `signal_name` is None if something else than a signal asked."""

    def __init__(self) -> None:
        super().__init__()
        self.signal_name: str | None = None
        self._asked_at = 0.0

    def _on_signal(self, number: signal.Signals) -> None:
        # timeout(1) and some supervisors signal a process and then its group: that is one request, not two.
        if self.signal_name is not None and time.monotonic() - self._asked_at > _SAME_REQUEST_S:
            os._exit(128 + number)
        if self.signal_name is None:
            self.signal_name = number.name
            self._asked_at = time.monotonic()
        self.set()


@contextmanager
def handled(stop: Stop, on_reload: Callable[[], None]) -> Iterator[None]:
    """Inside, signals reach `stop` and `on_reload` on the running loop; a second stop exits 130 or 143."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop._on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_reload)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
