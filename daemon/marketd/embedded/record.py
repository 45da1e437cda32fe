"""What an owner writes down for the next owner, and for other processes that want to attach."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from marketd.embedded.errors import EmbeddedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`elsewhere` holds the cluster where the data directory cannot; `socket_dir` the socket; both absolute.

    The data directory itself is not written down, so that it can be moved.
    """

    elsewhere: str | None
    socket_dir: str

    def home_of(self, data: Path) -> Path:
        """The directory with the cluster; `data` itself also when the other place is gone."""
        return Path(self.elsewhere) if self.elsewhere and Path(self.elsewhere).is_dir() else data


def read(data: Path) -> Record | None:
    """The record in `data`, or None where no server ever ran. Raises `EmbeddedError` if we may not look."""
    try:
        return Record(**json.loads((data / "server.json").read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise EmbeddedError(f"{data} belongs to another user") from error
    except (ValueError, TypeError) as error:
        raise EmbeddedError(f"{data / 'server.json'} is damaged ({error}); remove it") from error


def write(data: Path, record: Record) -> None:
    """Replace the record at once, so that a reader sees the old one or the new one."""
    fresh = data / "server.json.new"
    fresh.write_text(json.dumps(asdict(record)))
    fresh.replace(data / "server.json")


class OwnerLock:
    """Held by the one process that owns the server; the kernel drops it when that process dies."""

    def __init__(self, data: Path) -> None:
        self._path = data / "lock"
        self._fd: int | None = None

    def take(self) -> None:
        """Raises `EmbeddedError`, naming the owner, when another process holds it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise EmbeddedError(
                f"the Postgres in {self._path.parent} is owned by process {owner}; "
                "stop that one, or choose another state_dir"
            ) from error
        os.truncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Harmless when not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
