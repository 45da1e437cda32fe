"""What may be told of a Postgres URL: where it leads and as whom, never the password."""

from __future__ import annotations

import getpass
import os
from urllib.parse import parse_qs, unquote, urlsplit

from marketd.values import value

_PORT = "5432"
_HIDDEN = "the configured address (not shown: a special character in it is not percent-encoded)"


@value
class Address:
    """`str()` of it is `host:port (database NAME, user NAME)`."""

    place: str
    database: str
    user: str

    def __str__(self) -> str:
        return f"{self.place} (database {self.database}, user {self.user})" if self.database else self.place


def address_of(dsn: str) -> Address:
    """Where `dsn` leads, by the rules of libpq; what it leaves out comes from PGHOST and the like."""
    parts = urlsplit(dsn)
    if parts.fragment or "@" in parts.path + parts.query:
        return Address(place=_HIDDEN, database="", user=user_of(dsn))  # part of a password may stand there
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    hosts = (
        unquote(parts.netloc.rpartition("@")[2])
        or options.get("host")
        or os.environ.get("PGHOST", "localhost")
    )
    port = options.get("port") or os.environ.get("PGPORT", _PORT)
    user = user_of(dsn)
    database = unquote(parts.path.lstrip("/")) or options.get("dbname") or options.get("database")
    return Address(
        place=",".join(_with_port(host, port) for host in hosts.split(",")),
        database=database or os.environ.get("PGDATABASE") or user,
        user=user,
    )


def user_of(dsn: str) -> str:
    """Who logs in."""
    parts = urlsplit(dsn)
    named = unquote(parts.username or "") or "".join(parse_qs(parts.query).get("user", [])[-1:])
    return named or os.environ.get("PGUSER") or _own_name()


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return str(os.getuid())


def _with_port(host: str, port: str) -> str:
    bare = host.startswith("/") or ":" not in host.rpartition("]")[2]
    return f"{host}:{port}" if bare else host
