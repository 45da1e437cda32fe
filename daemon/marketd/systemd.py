"""Talks to systemd over `$NOTIFY_SOCKET`; silently does nothing where no service manager listens.

Protocol: sd_notify(3), sd_watchdog_enabled(3). One datagram a message, never blocking.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(*fields: str, env: Mapping[str, str] = os.environ) -> bool:
    """Sends `KEY=value` fields in one datagram; False when nobody took it."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        try:
            sender.sendto("\n".join(fields).encode(), target)
        except OSError:
            return False  # a full or vanished socket must never disturb the daemon
    return True


def _line(text: str) -> str:
    """`text` as one line, so that it cannot smuggle in further fields."""
    return " ".join(text.split())[:500]


def ready(status_text: str, *, env: Mapping[str, str] = os.environ) -> bool:
    """Start-up, or a reload, is complete."""
    return notify("READY=1", f"STATUS={_line(status_text)}", env=env)


def status(text: str, *, env: Mapping[str, str] = os.environ) -> bool:
    """The line that `systemctl status` shows."""
    return notify(f"STATUS={_line(text)}", env=env)


def reloading(*, env: Mapping[str, str] = os.environ) -> bool:
    """A reload begins; `ready` must follow. `Type=notify-reload` wants both fields in one datagram."""
    now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={now_us}", env=env)


def stopping(text: str = "stopping", *, env: Mapping[str, str] = os.environ) -> bool:
    """The daemon is on its way out."""
    return notify("STOPPING=1", f"STATUS={_line(text)}", env=env)


def alive(*, env: Mapping[str, str] = os.environ) -> bool:
    """Feeds the watchdog."""
    return notify("WATCHDOG=1", env=env)


def extend_timeout(seconds: float, *, env: Mapping[str, str] = os.environ) -> bool:
    """Asks for so many more seconds for the start or stop in progress."""
    return notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", env=env)


def watchdog_interval_s(env: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two calls of `alive` (half of WatchdogSec=); None if this process is not watched."""
    text, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        return None
    if pid and pid != str(os.getpid()):
        return None
    return int(text) / 1e6 / 2
