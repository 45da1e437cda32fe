"""Signals, sent to a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marketd.signals import Stop, handled

PROGRAM = """
import asyncio, sys
from marketd.signals import Stop, handled

async def main(stubborn):
    stop = Stop()
    with handled(stop, lambda: print("reload", flush=True)):
        print("ready", flush=True)
        await stop.wait()
        print("stop", stop.signal_name, flush=True)
        if stubborn:
            await asyncio.Event().wait()

asyncio.run(main(sys.argv[1] == "stubborn"))
"""


def _run(kind: str) -> subprocess.Popen[str]:
    daemon = str(Path(__file__).resolve().parents[2] / "daemon")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": daemon},
    )
    assert _line(process) == "ready"
    return process


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_for_a_stop_and_the_process_ends_by_itself(number: signal.Signals) -> None:
    with _run("willing") as process:
        process.send_signal(number)
        assert _line(process) == f"stop {number.name}"
        assert process.wait(10) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_a_stuck_process_at_once(number: signal.Signals, code: int) -> None:
    with _run("stubborn") as process:
        process.send_signal(signal.SIGTERM)
        assert _line(process) == "stop SIGTERM"
        deadline = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(number)
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        assert process.wait(10) == code


def test_the_same_request_sent_to_process_and_group_is_one_stop() -> None:
    with _run("stubborn") as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert _line(process).startswith("stop SIG")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()


def test_hangup_asks_for_a_reload_and_stops_nothing() -> None:
    with _run("willing") as process:
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            assert _line(process) == "reload"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


async def test_a_stop_may_be_asked_for_without_a_signal() -> None:
    stop = Stop()
    waiting = asyncio.create_task(stop.wait())
    stop.set()
    await asyncio.wait_for(waiting, 5)
    assert stop.is_set()
    assert stop.signal_name is None


async def test_afterwards_the_signals_are_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with handled(Stop(), lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) == before
