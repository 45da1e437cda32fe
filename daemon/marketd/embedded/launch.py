"""Becomes another program after giving up root, tied to the life of its parent.

Run as a script by path, in an isolated interpreter, never imported by marketd: what happens between fork and
exec must not run in a copy of a process with threads. Arguments: the parent's pid, how to run (`self`,
`user:<uid>:<gid>` or `namespace`), then the command.

On Linux the command gets SIGINT (for Postgres: a fast shutdown) when its parent dies, however it dies. The
order matters: the kernel forgets that wish whenever credentials change, and keeps it over exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
INNER_ID = 1000  # anything but 0: Postgres refuses to run as what looks like root


def _libc_call(name: str, *args: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _become(mode: str) -> None:
    kind, _, ids = mode.partition(":")
    if kind == "user":
        uid, gid = map(int, ids.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    elif kind == "namespace":
        uid, gid = os.geteuid(), os.getegid()
        _libc_call("unshare", CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{INNER_ID} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{INNER_ID} {gid} 1")


def main() -> None:
    """Never returns: the process becomes the command, or ends with status 127."""
    parent, mode, *command = sys.argv[1:]
    try:
        _become(mode)
        if sys.platform == "linux":
            _libc_call("prctl", PR_SET_PDEATHSIG, signal.SIGINT)
            if os.getppid() != int(parent):  # it died before the wish was made
                sys.exit(127)
        os.umask(0o077)
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]} as {mode}: {error}")


if __name__ == "__main__":
    main()
