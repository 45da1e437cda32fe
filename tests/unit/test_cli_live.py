"""Screens: rich, plain escape codes, or paper."""

from __future__ import annotations

from io import StringIO

import pytest

from marketd.cli import live
from marketd.cli.tables import Block, Table

_BLOCKS: list[Block] = [
    "a line",
    Table(title="lanes", columns=("lane", "why"), rows=[("stockx", "[bold]no\x1b[2J")]),
]


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_where_there_is_no_terminal_each_drawing_is_plain_text_below_the_last() -> None:
    out = StringIO()
    with live.screen(out) as screen:
        screen.show(["one"])
        screen.show(["two"])
    assert out.getvalue() == "one\n\ntwo\n\n"


def test_without_rich_a_terminal_is_cleared_and_a_drawing_cut_to_its_height(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "find_spec", lambda name: None)
    monkeypatch.setenv("LINES", "4")
    monkeypatch.setenv("COLUMNS", "6")
    out = _Terminal()
    with live.screen(out) as screen:
        screen.show(["much too long", "b", "c"])
    assert out.getvalue() == "\x1b[H\x1b[2J\x1b[3Jmuch …\n\nb\n"


def test_with_rich_a_narrow_terminal_cuts_at_its_edge_and_loses_no_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("LINES", "10")
    out = _Terminal()
    with live.screen(out) as screen:
        columns = ("lane", "window", "used", "of", "starts anew")
        row = ("stockx", "hour", "42", "100", "13:00:00 UTC (in 29 min)")
        screen.show([Table(title="budgets", columns=columns, rows=[row])])
    assert "stockx  hour    42" in out.getvalue()


def test_with_rich_cells_are_shown_as_they_are_and_cannot_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    out = _Terminal()
    with live.screen(out) as screen:
        screen.show(_BLOCKS)
    drawn = out.getvalue()
    assert "a line" in drawn
    assert "[bold]no [2J" in drawn
    assert "\x1b[?1049l" in drawn  # the terminal's own screen is back
