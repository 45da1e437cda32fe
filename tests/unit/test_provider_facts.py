"""docs/PROVIDERS.md names tests that exist, one at least for each row."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "PROVIDERS.md"


def _rows() -> list[list[str]]:
    held = PAGE.read_text().partition("## Left alone")[0]
    lines = [
        line
        for line in held.splitlines()
        if line.startswith("| ") and not line.startswith(("| fact", "| behaviour"))
    ]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_row_names_a_test_that_exists() -> None:
    defined = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    rows = _rows()
    assert len(rows) > 90
    for row in rows:
        assert len(row) == 3, row
        named = re.findall(r"`(test_\w+)`", row[2])
        assert named, row
        assert set(named) <= defined, (row[0], set(named) - defined)
