"""As whom Postgres runs, and where its files can be then.

Postgres refuses to run as root. Root therefore starts it as `nobody`, or, where `nobody` cannot reach the
programs or the data (a checkout under /root), in a user namespace of its own, or, where a container forbids
namespaces too, from copies that `nobody` can reach. No existing file changes its mode or its owner, and no
user is created.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from marketd.embedded import binaries
from marketd.embedded.errors import EmbeddedError

_LAUNCHER = Path(__file__).with_name("launch.py")
_OVERFLOW_ID = 65534  # the kernel's "nobody", where the user database has none
_SYSTEM_STATE = Path("/var/lib")

# Nothing else of ours: it may hold the providers' keys, and PG* variables change what Postgres does.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAs:
    """One way to run a program: as ourselves, as another user, or as "not root" in a user namespace."""

    mode: str
    uid: int
    gid: int

    def argv(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` this way and ties it to our process."""
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), self.mode]
        return [*launcher, *map(str, command)]

    def own(self, path: Path) -> None:
        """Give a directory that we have just made to the user who runs Postgres."""
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)

    def can(self, *command: str | Path) -> bool:
        """Does the command succeed when run this way?"""
        done = subprocess.run(
            self.argv(command),
            env=environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        return done.returncode == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The outcome: how to run, with which programs, and below which directory the cluster lives."""

    run_as: RunAs
    bin_dir: Path
    home: Path


def environment() -> dict[str, str]:
    """The few variables that Postgres is started with."""
    return _ENVIRONMENT | {name: os.environ[name] for name in _KEPT if name in os.environ}


def place(
    bin_dir: Path,
    home: Path,
    *,
    namespaces: bool = True,
    system_state: Path = _SYSTEM_STATE,
    log: Callable[[str], None],
) -> Placement:
    """Decide for `home`, our own existing directory; what a cluster in it already is decides first.

    With `namespaces=False` the second way is left out, as it is in containers. Raises `EmbeddedError` when
    no way works.
    """
    cluster = home / "cluster"
    owner = cluster.stat().st_uid if cluster.exists() else None
    if os.geteuid() != 0:
        return Placement(run_as=_ourselves(owner, cluster), bin_dir=bin_dir, home=home)
    other = _user(owner) if owner else _nobody()
    reads_programs = other.can(bin_dir / "postgres", "--version")
    reaches_home = other.can("/bin/sh", "-c", 'cd "$0"', home)
    if owner != 0 and reads_programs and reaches_home:
        return Placement(run_as=other, bin_dir=bin_dir, home=home)
    inside = RunAs(mode="namespace", uid=0, gid=0)
    if owner in (None, 0) and namespaces and inside.can(bin_dir / "postgres", "--version"):
        return Placement(run_as=inside, bin_dir=bin_dir, home=home)
    if owner == 0:
        raise EmbeddedError(
            f"{cluster} belongs to root and this system forbids user namespaces; choose another state_dir"
        )
    if not reaches_home:
        home = _reachable_home(home, system_state, log)
    if not reads_programs:
        log(f"copying the Postgres programs to {home}, since user {other.uid} cannot read {bin_dir}")
        bin_dir = binaries.copy_to(home / f"programs-{binaries.version(bin_dir)[1]}", bin_dir)
    return Placement(run_as=other, bin_dir=bin_dir, home=home)


def _reachable_home(home: Path, system_state: Path, log: Callable[[str], None]) -> Path:
    if (home / "cluster").exists():
        raise EmbeddedError(f"the owner of {home / 'cluster'} cannot enter {home}; choose another state_dir")
    elsewhere = Path(tempfile.mkdtemp(prefix="marketd-embedded-", dir=system_state))
    elsewhere.chmod(0o711)
    log(f"the database lives in {elsewhere}, since no other user than root may enter {home}")
    return elsewhere


def _ourselves(owner: int | None, cluster: Path) -> RunAs:
    if owner not in (None, os.geteuid()):
        raise EmbeddedError(f"{cluster} belongs to user {owner}; choose another state_dir")
    return RunAs(mode="self", uid=os.geteuid(), gid=os.getegid())


def _nobody() -> RunAs:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return RunAs(mode=f"user:{_OVERFLOW_ID}:{_OVERFLOW_ID}", uid=_OVERFLOW_ID, gid=_OVERFLOW_ID)
    return RunAs(mode=f"user:{entry.pw_uid}:{entry.pw_gid}", uid=entry.pw_uid, gid=entry.pw_gid)


def _user(uid: int) -> RunAs:
    try:
        gid = pwd.getpwuid(uid).pw_gid
    except KeyError:
        gid = uid
    return RunAs(mode=f"user:{uid}:{gid}", uid=uid, gid=gid)
