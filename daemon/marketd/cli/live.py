"""A screen that is drawn again and again: with rich where it is installed, else with plain escape codes.

Where the output is no terminal, each drawing is plain text below the one before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol, TextIO

from marketd.cli.tables import Block, Table, text

_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


class Screen(Protocol):
    def show(self, blocks: Sequence[Block]) -> None:
        """Draw the blocks in place of what was shown before."""
        ...


@contextmanager
def screen(out: TextIO) -> Iterator[Screen]:
    """The best screen that `out` allows; what stood on the terminal is there again afterwards."""
    if not out.isatty():
        yield _Paper(out)
    elif find_spec("rich") is None:
        yield _Terminal(out)
    else:
        from rich.console import Console
        from rich.live import Live

        # Its own screen: a drawing taller than the terminal is cut, and does not scroll the terminal away.
        with Live(
            console=Console(file=out),
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            vertical_overflow="crop",
        ) as live:
            yield _Rich(live)


class _Paper:
    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, blocks: Sequence[Block]) -> None:
        print(text(blocks), end="\n\n", flush=True, file=self._out)


class _Terminal:
    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, blocks: Sequence[Block]) -> None:
        size = shutil.get_terminal_size()
        lines = text(blocks, size.columns).splitlines()[: size.lines - 1]
        print(_CLEAR + "\n".join(lines), flush=True, file=self._out)


class _Rich:
    def __init__(self, live: Any) -> None:
        self._live = live

    def show(self, blocks: Sequence[Block]) -> None:
        from rich.console import Group
        from rich.text import Text

        # Lines of ours, which a narrow terminal cuts at its edge. A table of rich's would shrink all columns, and of an
        # overview's names and numbers nothing would be left. Plain Text: brackets must not be read as markup.
        drawn: list[Text] = []
        after_table = False
        for block in blocks:
            if drawn and (after_table or isinstance(block, Table)):
                drawn.append(Text())
            for number, line in enumerate(text([block]).split("\n")):
                title = number == 0 and isinstance(block, Table)
                drawn.append(Text(line, style="bold" if title else "", no_wrap=True, overflow="ellipsis"))
            after_table = isinstance(block, Table)
        self._live.update(Group(*drawn), refresh=True)
