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
from marketd.signals import Stop, go_deaf, handled, hold_hangups_back

async def main(stubborn):
    stop = Stop()
    with handled(stop, lambda: print("reload", flush=True)):
        print("ready", flush=True)
        await stop.wait()
        print("stop", stop.signal_name, flush=True)
        if stubborn:
            await asyncio.Event().wait()

def pause(word):
    print(word, flush=True)
    sys.stdin.readline()

if sys.argv[1] == "early":
    hold_hangups_back()
    pause("starting")
asyncio.run(main(sys.argv[1] == "stubborn"))
if sys.argv[1] == "late":
    go_deaf()
    pause("over")
"""


def _run(kind: str) -> subprocess.Popen[str]:
    daemon = str(Path(__file__).resolve().parents[2] / "daemon")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": daemon},
    )
    assert _line(process) == ("starting" if kind == "early" else "ready")
    return process


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


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


def test_a_hangup_before_anybody_listens_is_heard_as_soon_as_somebody_does() -> None:
    with _run("early") as process:
        process.send_signal(signal.SIGHUP)
        _go_on(process)
        assert sorted((_line(process), _line(process))) == ["ready", "reload"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_process_whose_work_is_over_ends_as_it_would_have() -> None:
    with _run("late") as process:
        process.send_signal(signal.SIGTERM)
        assert (_line(process), _line(process)) == ("stop SIGTERM", "over")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
        _go_on(process)
        assert process.wait(10) == 0


async def test_a_stop_cuts_off_what_is_under_way_and_nothing_that_has_ended() -> None:
    stop = Stop()

    async def fails() -> None:
        raise ValueError("of its own")

    assert await stop.cuts_off(asyncio.sleep(0)) is False
    with pytest.raises(ValueError, match="of its own"):
        await stop.cuts_off(fails())
    asyncio.get_running_loop().call_later(0.01, stop.set)
    assert await stop.cuts_off(asyncio.sleep(60)) is True


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
