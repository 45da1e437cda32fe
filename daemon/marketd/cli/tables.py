"""Tables, ages and amounts as plain text, and answers as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

GAP = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text below a title. `right` names the columns of numbers; `empty` is said when there is no row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[str] = frozenset()
    empty: str = "none"


#: A table, or a line of text between tables.
Block: TypeAlias = Table | str


def text(blocks: Iterable[Block], width: int | None = None) -> str:
    """The blocks one below the other; lines longer than `width` are cut with an ellipsis."""
    lines: list[str] = []
    for block in blocks:
        lines += [
            *([""] if lines else []),
            *(_lines(block) if isinstance(block, Table) else [one_line(block)]),
        ]
    return "\n".join(
        line if width is None or len(line) <= width else line[: width - 1] + "…" for line in lines
    )


def _lines(table: Table) -> list[str]:
    if not table.rows:
        return [f"{table.title}: {table.empty}"]
    cells = [[one_line(cell) for cell in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(table.columns, *cells, strict=True)]
    sides = [str.rjust if name in table.right else str.ljust for name in table.columns]
    return [table.title] + [
        GAP
        + GAP.join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)).rstrip()
        for row in ([*table.columns], *cells)
    ]


def one_line(value: str) -> str:
    """Text from outside, made harmless for a terminal: no control characters, no line ends."""
    return "".join(char if char.isprintable() else " " for char in value)


def age(seconds: float | None) -> str:
    """A span in its largest fitting unit: `0.4 s`, `12 s`, `3 min`, `5.2 h`, `3 d`; `-` for none."""
    if seconds is None:
        return "-"
    for unit, length, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < limit:
            value = seconds / length
            return f"{value:.1f} {unit}" if value < 10 and unit != "min" else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def moment(at: datetime | None, now: datetime) -> str:
    """A time and how far it is off: `14:00:00 UTC (in 12 min)`, with its date if that is another day."""
    if at is None:
        return "-"
    at, now = at.astimezone(UTC), now.astimezone(UTC)
    clock = f"{at:%H:%M:%S} UTC" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M:%S} UTC"
    away = (at - now).total_seconds()
    return f"{clock} (in {age(away)})" if away >= 0 else f"{clock} ({age(-away)} ago)"


def amount(value: Decimal | None, none: str = "-") -> str:
    """An amount without needless digits; two decimals where it has any."""
    if value is None:
        return none
    return f"{value:.0f}" if value == value.to_integral_value() else f"{value:.2f}"


def item(sku: str, size: str | None) -> str:
    """`DD1391-100 size 10`, or the bare sku of what has one size only."""
    return sku if size is None else f"{sku} size {size}"


def lane(provider: str, account: str) -> str:
    """`stockx`, or `stockx/shop2` for a further account."""
    return provider if account == "default" else f"{provider}/{account}"


def as_json(value: object) -> str:
    """Times as ISO 8601 in UTC, amounts as text (no digit is lost), spans in seconds."""
    return json.dumps(value, default=_plain, indent=2, ensure_ascii=False)


def _plain(value: object) -> str | float:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def counted(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def changed(number: int, noun: str) -> str:
    """What an action reports at its end: `2 lanes changed`."""
    return f"{counted(number, noun)} changed"
