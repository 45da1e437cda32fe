"""Reads and tidies the files by which a running Postgres is known: `postmaster.pid` and its socket."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from marketd.embedded.errors import EmbeddedError

PORT = 5432  # names the socket file; nothing listens on TCP
SOCKET_NAME = f".s.PGSQL.{PORT}"

_PID_LINE, _STATUS_LINE = 0, 7
_POLL_S = 0.02
_PROC = Path("/proc")


def pid_of(cluster: Path) -> int | None:
    """The pid written in `postmaster.pid`, alive or not."""
    lines = _pid_lines(cluster)
    try:
        return int(lines[_PID_LINE])
    except (IndexError, ValueError):
        return None


def is_ready(cluster: Path, pid: int) -> bool:
    """Has the postmaster with this pid announced that it accepts connections?"""
    lines = _pid_lines(cluster)
    return pid_of(cluster) == pid and len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready"


def is_alive(cluster: Path) -> bool:
    """Does the pid in `postmaster.pid` belong to a Postgres on this very cluster?

    "The pid exists" does not say so: after a crash it may be a zombie, or anyone else's by now.
    """
    pid = pid_of(cluster)
    if pid is None:
        return False
    state, command = _process(pid)
    return state not in ("", "Z") and f"/postgres -D {cluster} " in f"{command} "


def clear_leftovers(cluster: Path, socket_dirs: list[Path]) -> None:
    """Remove what a dead postmaster left, or Postgres trusts a pid that someone else has now.

    Only for the holder of the owner's lock, when `is_alive` is false.
    """
    (cluster / "postmaster.pid").unlink(missing_ok=True)
    for folder in socket_dirs:
        (folder / SOCKET_NAME).unlink(missing_ok=True)
        (folder / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)


def end_orphan(cluster: Path, timeout_s: float, log: Callable[[str], None]) -> None:
    """Stop a Postgres whose owner died, and wait until it is gone.

    On Linux it is shutting down by itself already; elsewhere nobody told it yet.
    """
    pid = pid_of(cluster)
    if pid is None or not is_alive(cluster):
        return
    log(f"waiting for Postgres {pid}, whose owner died, to stop")
    for signum in (signal.SIGINT, signal.SIGQUIT):
        _send(pid, signum)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not is_alive(cluster):
                return
            time.sleep(_POLL_S)
    raise EmbeddedError(f"Postgres {pid}, whose owner died, does not stop; end it by hand")


def wait_for_turn() -> None:
    """One short pause of a loop that waits for a file to change."""
    time.sleep(_POLL_S)


def _pid_lines(cluster: Path) -> list[str]:
    try:
        return (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _send(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return  # gone is what was wanted
    except PermissionError as error:
        raise EmbeddedError(f"Postgres {pid} is left over and belongs to another user") from error


def _process(pid: int) -> tuple[str, str]:
    """State letter and command line of a process; both empty when there is none."""
    if _PROC.joinpath("self").exists():
        return _process_from_proc(pid)
    command = ["ps", "-ww", "-o", "stat=,command=", "-p", str(pid)]
    state, _, line = subprocess.run(command, capture_output=True, text=True).stdout.strip().partition(" ")
    return state[:1], line.strip()


def _process_from_proc(pid: int) -> tuple[str, str]:
    try:
        stat = _PROC.joinpath(str(pid), "stat").read_text()
        arguments = _PROC.joinpath(str(pid), "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return "", ""
    return stat.rpartition(")")[2].split()[0], os.fsdecode(arguments).replace("\0", " ")
