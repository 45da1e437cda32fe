"""Named SQL statements from `sql/queries/*.sql`, and the numbered migrations.

A query file is a sequence of `-- name: <name>` lines, each followed by comments and one statement.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)[ \t]*$", re.MULTILINE)
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One forward step of the schema; `sha256` guards it against later edits."""

    version: int
    name: str
    sql: str
    sha256: str


def parse(text: str, source: str) -> dict[str, str]:
    """Split one query file. Raises ValueError for a name given twice or text before the first name."""
    head, *rest = _NAME.split(text)
    if any(line and not line.startswith("--") for line in head.splitlines()):
        raise ValueError(f"{source}: a statement stands before the first '-- name:' line")
    found: dict[str, str] = {}
    for name, body in zip(rest[::2], rest[1::2], strict=True):
        if name in found:
            raise ValueError(f"{source}: the name {name} is given twice")
        found[name] = body.strip()
    return found


@cache
def queries(file: str) -> dict[str, str]:
    """The named statements of `sql/queries/<file>.sql`."""
    path = resources.files("marketd") / "sql" / "queries" / f"{file}.sql"
    return parse(path.read_text(encoding="utf-8"), path.name)


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations in order. Raises ValueError for a bad file name or a gap in the numbers."""
    found: list[Migration] = []
    folder = resources.files("marketd") / "sql" / "migrations"
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        match = _FILE.fullmatch(entry.name)
        if match is None:
            raise ValueError(f"{entry.name}: a migration is named 0001_some_words.sql")
        body = entry.read_bytes()
        found.append(Migration(int(match[1]), match[2], body.decode(), hashlib.sha256(body).hexdigest()))
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations do not run from 1 without a gap: {[m.version for m in found]}")
    return tuple(found)
