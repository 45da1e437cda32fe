"""`marketd demo` for people: live on a terminal, plain lines elsewhere, and a table at the end."""

from __future__ import annotations

import asyncio
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import TextIO

import asyncpg

from marketd.cli.access import DEMO, in_words, outline
from marketd.cli.exits import CommandError, Exit
from marketd.cli.live import Screen, screen
from marketd.cli.tables import Block, Table, age, amount, item, text
from marketd.demo import Lane, Plan, Row, Snapshot, run
from marketd.errors import SchemaError, StatementRefused

_WIDE = 120  #: columns from which on there is room for names


def demo(arguments: Namespace) -> int:
    """Run the demo until Ctrl-C, or with --once until all is settled; prints the final table."""
    plan = _plan(arguments)
    log_path = _log_file(plan.state_dir)
    out = sys.stdout
    with log_path.open("w", encoding="utf-8") as log, ExitStack() as stack:
        # Only the audience speaks to the terminal; the daemon's log goes where it does not garble the screen.
        stack.enter_context(redirect_stdout(log))
        try:
            seen = asyncio.run(run(plan, _Watching(out, stack)))
        except SchemaError as error:
            raise SchemaError(f"{error} (or, for the demo, delete {plan.state_dir})") from error
        except (StatementRefused, asyncpg.PostgresError) as error:
            raise in_words(error) from error
        except TimeoutError as error:
            raise CommandError(f"the demo did not come to its end: {error}; see {log_path}") from error
        except BaseExceptionGroup as group:
            first = _leaf(group)
            message = f"the daemon crashed: {type(first).__name__}: {first}; see {log_path}"
            raise CommandError(message) from group
    if seen is not None:
        print("\n" + text(final(seen)))
    print(f"\nended; the data stays in {plan.state_dir}")
    return Exit.OK


def _plan(arguments: Namespace) -> Plan:
    config = outline(arguments)
    state_dir = Path(arguments.state_dir).expanduser().absolute() if arguments.state_dir else None
    return Plan(
        state_dir=state_dir or config.state_dir / DEMO,
        host=config.http.host,
        port=config.http.port if arguments.port is None else arguments.port,
        once=arguments.once,
    )


def _log_file(state_dir: Path) -> Path:
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        path = state_dir / "demo.log"
        path.touch()
    except OSError as error:
        raise CommandError(
            f"cannot write in {state_dir} ({error.strerror}): choose another --state-dir"
        ) from error
    return path


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first


class _Watching:
    """Says lines until there is something to show; then the screen, or a line for each new answer."""

    def __init__(self, out: TextIO, stack: ExitStack) -> None:
        self._out = out
        self._stack = stack
        self._screen: Screen | None = None
        self._said: list[str] = []
        self._told: set[int] = set()

    def say(self, line: str) -> None:
        self._said.append(line)
        print(line, flush=True, file=self._out)

    def show(self, snapshot: Snapshot) -> None:
        if not self._out.isatty():
            self._tell(snapshot)
            return
        if self._screen is None:
            self._screen = self._stack.enter_context(screen(self._out))
        self._screen.show(
            [
                *live(snapshot),
                *self._said[-2:],
                "marketd status, why, jobs, enqueue: in another terminal; Ctrl-C ends",
            ]
        )

    def _tell(self, snapshot: Snapshot) -> None:
        for number, row in enumerate(snapshot.rows):
            if row.answered and number not in self._told:
                self._told.add(number)
                what = f"{row.item.provider:<7}{item(row.item.sku, row.item.size):<24}"
                print(f"{snapshot.elapsed_s:6.1f} s  {what} {_prices(row)}", flush=True, file=self._out)


def _prices(row: Row) -> str:
    if row.age_s is None:
        return _answer(row)
    last = f", last sale {amount(row.last_sale)}" if row.last_sale is not None else ""
    stale = "" if row.state in ("priced", "no_asks") else f" ({row.state})"
    quote = f"ask {amount(row.ask, 'none')}, bid {amount(row.bid, 'none')}{last}"
    return f"{row.currency} {quote}, {age(row.age_s)} old{stale}"


def _answer(row: Row) -> str:
    """The state in full: `waits: budget for 12 min: 0 calls left for urgent work`."""
    span = f" for {age(row.waits_s)}" if row.waits_s and row.state.startswith("waits") else ""
    return ": ".join(part for part in (row.state + span, row.detail) if part)


def live(snapshot: Snapshot) -> Sequence[Block]:
    """The providers side by side, one line a product."""
    providers = [lane.provider for lane in snapshot.lanes]
    width = len(providers)
    rows = [snapshot.rows[start : start + width] for start in range(0, len(snapshot.rows), width)]
    wide = shutil.get_terminal_size().columns >= _WIDE
    return [
        _progress(snapshot),
        Table(
            title="lowest ask / highest bid, age",
            columns=("product", "size", *(_column(provider, snapshot) for provider in providers)),
            rows=[
                (_product(row[0], wide), row[0].item.size or "-", *(_cell(cell) for cell in row))
                for row in rows
            ],
        ),
        budgets(snapshot),
    ]


def _column(provider: str, snapshot: Snapshot) -> str:
    currency = next(
        (row.currency for row in snapshot.rows if row.item.provider == provider and row.currency), ""
    )
    return f"{provider} {currency}".strip()


def _product(row: Row, wide: bool) -> str:
    return f"{row.item.sku}  {row.item.name[:36]}" if wide else row.item.sku


def _cell(row: Row) -> str:
    if row.age_s is None:
        return row.state
    under_way = "" if row.answered else " …"
    return f"{amount(row.ask, 'none')} / {amount(row.bid, 'none')}, {age(row.age_s)}{under_way}"


def _progress(snapshot: Snapshot) -> str:
    calls = sum(lane.calls for lane in snapshot.lanes)
    return (
        f"marketd demo: {snapshot.answered} of {len(snapshot.rows)} answered, {calls} calls, "
        f"{age(snapshot.elapsed_s)}; background: {snapshot.done} done, {snapshot.waiting} waiting"
        + (f", {snapshot.failed} failed" if snapshot.failed else "")
    )


def budgets(snapshot: Snapshot) -> Table:
    """What each provider was asked since the start and gave in all, and its budget of the running hour."""
    return Table(
        title="calls sent, prices stored, budget of this hour",
        columns=("provider", "calls", "prices", "this hour", "left", "anew", "lane", "background"),
        right=frozenset({"calls", "prices", "this hour", "left", "anew"}),
        rows=[
            (
                lane.provider,
                str(lane.calls),
                str(lane.prices),
                f"{lane.used} of {lane.quota}",
                str(lane.left),
                f"in {age(lane.resets_in_s)}",
                lane.state,
                _background(lane),
            )
            for lane in snapshot.lanes
        ],
    )


def _background(lane: Lane) -> str:
    if lane.waiting == 0:
        return "none waits"
    when = (
        "next now" if lane.background_waits_s is None else f"next in {age(max(0.0, lane.background_waits_s))}"
    )
    return f"{lane.waiting} wait, {when}"


def final(snapshot: Snapshot) -> Sequence[Block]:
    """Every item with its price, or the reason why there is none."""
    return [
        Table(
            title="prices",
            columns=("product", "sku", "size", "source", "ask", "bid", "last sale", "age", "answer"),
            right=frozenset({"ask", "bid", "last sale", "age"}),
            rows=[
                (
                    row.item.name,
                    row.item.sku,
                    row.item.size or "-",
                    row.item.provider,
                    *(_money(row, value) for value in (row.ask, row.bid, row.last_sale)),
                    age(row.age_s),
                    _answer(row),
                )
                for row in snapshot.rows
            ],
        ),
        budgets(snapshot),
        _progress(snapshot),
    ]


def _money(row: Row, value: object) -> str:
    return f"{row.currency} {amount(value)}" if isinstance(value, Decimal) else "-"
