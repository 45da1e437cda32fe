"""SIGTERM and SIGINT ask for a stop, a second one ends the process at once; SIGHUP asks for a reload.

A process that begins holds SIGHUP back until `handled` stands, and one that has ended its work is deaf.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

_SAME_REQUEST_S = 0.5
_ALL = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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

    async def cuts_off(self, work: Coroutine[Any, Any, None]) -> bool:
        """Await the work, which a stop cancels. Whether it did."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            working.cancel()
            await asyncio.wait({working})
        if not working.cancelled():
            working.result()
        return working.cancelled()


def hold_hangups_back() -> None:
    """A SIGHUP that comes too early waits for `handled`, instead of ending the process. Before any thread starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


def go_deaf() -> None:
    """For a process whose work is over: no signal shall turn its orderly end into another one."""
    for number in _ALL:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def handled(stop: Stop, on_reload: Callable[[], None]) -> Iterator[None]:
    """Inside, signals reach `stop` and `on_reload` on the running loop; a second stop exits 130 or 143."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop._on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
    try:
        yield
    finally:
        for number in _ALL:
            loop.remove_signal_handler(number)
