"""Keeps the names in sql/legacy.sql those that sql/schema.sql takes; `make schema` runs it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

SQL = Path(__file__).resolve().parents[1] / "sql"
_CREATES = re.compile(
    r"^create (?:or replace )?(?:table|view|function|type)\s+(\w+)", re.MULTILINE | re.IGNORECASE
)
_LIST = re.compile(r"(?<=trim\('\n)[^']*(?=\n  ')")


def rewritten(legacy: str, schema: str) -> str:
    """`legacy` with the names that `schema` takes, but for the ledger of migrations."""
    names = sorted(set(_CREATES.findall(schema)) - {"market_schema"})
    listed = textwrap.fill(" ".join(names), width=116, initial_indent="    ", subsequent_indent="    ")
    return _LIST.sub(listed, legacy, count=1)


if __name__ == "__main__":
    script = SQL / "legacy.sql"
    script.write_text(rewritten(script.read_text(), (SQL / "schema.sql").read_text()))
