"""The messages that systemd gets, on a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketd import systemd


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        listener.settimeout(5)
        yield listener


@pytest.fixture
def env(manager: socket.socket) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(manager.getsockname())}


def test_ready_carries_the_status_in_the_same_datagram(manager: socket.socket, env: dict[str, str]) -> None:
    assert systemd.ready("3 providers, 2 off", env=env)
    assert manager.recv(1000) == b"READY=1\nSTATUS=3 providers, 2 off"


def test_a_reload_is_stamped_with_the_monotonic_clock(manager: socket.socket, env: dict[str, str]) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert systemd.reloading(env=env)
    first, _, stamp = manager.recv(1000).decode().partition("\nMONOTONIC_USEC=")
    assert first == "RELOADING=1"
    assert before <= int(stamp) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_stopping_alive_and_extension_use_the_words_of_the_protocol(
    manager: socket.socket, env: dict[str, str]
) -> None:
    systemd.stopping("draining 2 fetches", env=env)
    systemd.alive(env=env)
    systemd.extend_timeout(12.5, env=env)
    assert [manager.recv(1000) for _ in range(3)] == [
        b"STOPPING=1\nSTATUS=draining 2 fetches",
        b"WATCHDOG=1",
        b"EXTEND_TIMEOUT_USEC=12500000",
    ]


def test_a_status_cannot_smuggle_in_further_fields(manager: socket.socket, env: dict[str, str]) -> None:
    systemd.status("config broken:\nWATCHDOG=trigger\r\n line 3", env=env)
    assert manager.recv(1000) == b"STATUS=config broken: WATCHDOG=trigger line 3"


def test_an_abstract_socket_is_reached() -> None:
    name = f"marketd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(5)
        assert systemd.alive(env={"NOTIFY_SOCKET": "@" + name})
        assert listener.recv(1000) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/nowhere/at/all"])
def test_nobody_listening_is_no_error(address: str | None) -> None:
    assert not systemd.ready("up", env={} if address is None else {"NOTIFY_SOCKET": address})


def test_a_full_socket_never_blocks(manager: socket.socket, env: dict[str, str]) -> None:
    sent = 0
    while systemd.alive(env=env):
        sent += 1
        assert sent < 100_000
    assert sent > 0


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_per_period(environment: dict[str, str], expected: float | None) -> None:
    assert systemd.watchdog_interval_s(environment) == expected
