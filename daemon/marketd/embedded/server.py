"""The server: made on first use, started as a child, stopped with us or by our death.

Layout of the data directory: `lock` (who owns it), `server.json` (where to attach), and, here or at the place
that the record names, `cluster/` (what Postgres calls its data directory), `socket/` and `server.log`.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from marketd.embedded import binaries, identity, postmaster, record
from marketd.embedded import cluster as clusters
from marketd.embedded.cluster import DATABASE, USER
from marketd.embedded.errors import EmbeddedError

# For tests only: a crash of the machine loses everything, and nothing is ever vacuumed.
TEST_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "shared_buffers": "32MB",
}

_START_S = 60.0  # a crash recovery on a slow disk is included
_STOP_S = 30.0
_LOG_LIMIT = 5_000_000
_SOCKET_PATH_LIMIT = 103  # bytes; Linux allows 107, macOS 103
_SOCKET_PREFIX = "marketd-pg-"
_IN_USE = "shared memory block"  # backends of a killed postmaster have not noticed its end yet


def _silent(_: str) -> None:
    """The default for `log`."""


class EmbeddedPostgres:
    """Owner of one Postgres server below `data`; everyone on this machine who may enter it is trusted.

    The server ends with `stop()`, with a normal exit, and on Linux also when this process is killed.
    """

    def __init__(
        self, data: Path, settings: Mapping[str, str] | None = None, log: Callable[[str], None] = _silent
    ) -> None:
        self._data = data.expanduser().absolute()
        self._settings = dict(settings or {})
        self._log = log
        self._lock: record.OwnerLock | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir: Path | None = None
        self._owner_pid = os.getpid()

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The postmaster's pid while it runs, else None (never started, stopped, or dead)."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> str:
        """Start the server, make its cluster if there is none, and return the DSN of database `marketd`.

        Blocks until it accepts connections: well under a second, longer for a crash recovery. A server that
        died since the last start is started anew. Raises `EmbeddedError`: no programs, another owner,
        a cluster of another version or user, or whatever Postgres itself says.
        """
        if self.pid is not None:
            return self.dsn()
        if threading.current_thread() is not threading.main_thread():
            # The kernel ties the child to the thread that starts it: it would stop when that one ends.
            raise EmbeddedError("start the embedded Postgres from the main thread")
        self._forget_dead()
        try:
            self._take_ownership()
            self._start_owned()
        except OSError as error:
            self.stop()
            raise EmbeddedError(f"the embedded Postgres in {self._data} cannot start: {error}") from error
        except BaseException:
            self.stop()
            raise
        atexit.register(self.stop)
        return self.dsn()

    def stop(self) -> None:
        """Shut down fast but cleanly; harmless when it does not run, and in a fork of the owner."""
        if os.getpid() != self._owner_pid:
            return
        atexit.unregister(self.stop)
        if self._process is not None:
            _end(self._process)
        self._forget_dead()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def dsn(self, database: str = DATABASE) -> str:
        """Address of a database of this server. Raises `EmbeddedError` before `start`."""
        if self._socket_dir is None:
            raise EmbeddedError("the embedded Postgres is not running")
        return _dsn(self._socket_dir, database)

    @classmethod
    def attach(cls, data: Path, database: str = DATABASE) -> str | None:
        """DSN of a server below `data` that another process owns and that is ready, else None.

        Raises `EmbeddedError` when `data` belongs to a user whose server we may not use.
        """
        known = record.read(data.expanduser().absolute())
        if known is None:
            return None
        cluster = known.home_of(data.expanduser().absolute()) / "cluster"
        try:
            pid = postmaster.pid_of(cluster)
            if pid is None or not postmaster.is_alive(cluster) or not postmaster.is_ready(cluster, pid):
                return None
        except PermissionError as error:
            raise EmbeddedError(f"the Postgres in {data} belongs to another user") from error
        return _dsn(Path(known.socket_dir), database)

    def _take_ownership(self) -> None:
        if (self._data / "PG_VERSION").exists():
            raise EmbeddedError(f"{self._data} is a Postgres cluster that marketd did not make; left alone")
        self._data.mkdir(parents=True, exist_ok=True, mode=0o711)
        if self._lock is None:
            lock = record.OwnerLock(self._data)
            lock.take()
            self._lock = lock

    def _start_owned(self) -> None:
        began = time.monotonic()
        bin_dir = binaries.pg_bin()
        major, full = binaries.version(bin_dir)
        known = record.read(self._data)
        home = known.home_of(self._data) if known else self._data
        old_socket_dirs = [Path(known.socket_dir)] if known else []
        postmaster.end_orphan(home / "cluster", _STOP_S, self._log)
        place = identity.place(bin_dir, home, log=self._log)
        cluster = place.home / "cluster"
        if cluster.exists():
            clusters.check_version(cluster, major)
        else:
            self._log(f"creating a Postgres {full} database in {cluster}")
            clusters.create(place, cluster, major, sync=self._settings.get("fsync") != "off")
        postmaster.clear_leftovers(cluster, old_socket_dirs)
        self._socket_dir = _make_socket_dir(place, old_socket_dirs)
        elsewhere = None if place.home == self._data else str(place.home)
        record.write(self._data, record.Record(elsewhere=elsewhere, socket_dir=str(self._socket_dir)))
        self._process = self._launch(place, cluster, self._socket_dir)
        self._log(f"Postgres {full} is up after {time.monotonic() - began:.1f} s")

    def _launch(self, place: identity.Placement, cluster: Path, socket_dir: Path) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "",
            "port": str(postmaster.PORT),
            "unix_socket_directories": f'"{socket_dir}"',
            "unix_socket_permissions": "0700",
            "logging_collector": "off",
        } | self._settings
        command: list[str | Path] = [place.bin_dir / "postgres", "-D", cluster]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + _START_S
        while True:
            process, said = _spawn(place, command, place.home / "server.log", deadline)
            if process is not None:
                return process
            if _IN_USE not in said or time.monotonic() > deadline:
                raise EmbeddedError(f"Postgres did not start: {said.strip() or 'it said nothing'}")
            postmaster.wait_for_turn()

    def _forget_dead(self) -> None:
        self._process = None
        if self._socket_dir is not None and self._socket_dir.name.startswith(_SOCKET_PREFIX):
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._socket_dir = None


def _dsn(socket_dir: Path, database: str) -> str:
    # The port is named, or a client would take PGPORT from its environment.
    where = f"host={quote(str(socket_dir), safe='/')}&port={postmaster.PORT}"
    return f"postgresql://{USER}@/{quote(database, safe='')}?{where}"


def _make_socket_dir(place: identity.Placement, old: list[Path]) -> Path:
    """A private directory for the socket, whose path fits into a socket address and into a DSN."""
    for folder in old:
        if folder.name.startswith(_SOCKET_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)
    wanted = place.home / "socket"
    length = len(os.fsencode(wanted / postmaster.SOCKET_NAME))
    if length <= _SOCKET_PATH_LIMIT and not set(str(wanted)) & set(',"\\'):
        if not wanted.exists():
            wanted.mkdir(mode=0o700)
            place.run_as.own(wanted)
        return wanted
    short = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir="/tmp"))  # TMPDIR may be long itself
    place.run_as.own(short)
    return short


def _spawn(
    place: identity.Placement, command: list[str | Path], log_path: Path, deadline: float
) -> tuple[subprocess.Popen[bytes] | None, str]:
    """Start it and wait until it is ready; None and its last words when it ended instead."""
    cluster = place.home / "cluster"
    log_path.touch(mode=0o600)
    mode = "wb" if log_path.stat().st_size > _LOG_LIMIT else "ab"
    with log_path.open(mode) as log:
        written = log.tell()
        process = subprocess.Popen(
            place.run_as.argv(command),
            env=identity.environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C on the terminal is for us, not for it
        )
    try:
        while process.poll() is None:
            if postmaster.is_ready(cluster, process.pid):
                return process, ""
            if time.monotonic() > deadline:
                raise EmbeddedError(f"Postgres is not ready after {_START_S:.0f} s, see {log_path}")
            postmaster.wait_for_turn()
    except BaseException:
        _end(process)
        raise
    with log_path.open("rb") as log:
        log.seek(written)
        return None, log.read()[-2000:].decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(signum)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            continue
