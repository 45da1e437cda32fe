"""The app's side of the demo: as polite as any other app, it asks by SQL functions and reads views."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import asyncpg

from marketd.sandbox.product import Product
from marketd.store.pool import Database
from marketd.store.sqlfile import queries

_LONG_WAIT_S = 20.0  #: what waits longer is shown with its reason, and not waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One price that the demo asks for."""

    provider: str
    sku: str
    size: str | None
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known of an item. `answered`: nothing is under way, or it waits for long; `state` tells which."""

    item: Item
    currency: str | None
    ask: Decimal | None
    bid: Decimal | None
    last_sale: Decimal | None
    age_s: float | None  #: None: there is no price
    answered: bool
    state: str  #: `priced`, `no_asks`, an error code, `running`, or `waits: <what for>`
    waits_s: float | None  #: until when it waits, where that is known
    detail: str  #: the same in words, where there are any


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One provider: the requests that reached it since the start, and its hourly budget."""

    provider: str
    calls: int
    prices: int  #: stored, of all sizes that its answers held
    used: int
    quota: int
    left: int
    resets_in_s: float
    state: str
    waiting: int  #: open background jobs
    background_waits_s: float | None  #: None: a background call may leave now


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that is shown at one moment."""

    elapsed_s: float
    rows: Sequence[Row]
    lanes: Sequence[Lane]
    done: int  #: background jobs that ended since the start, well or not
    failed: int
    waiting: int

    @property
    def answered(self) -> int:
        return sum(row.answered for row in self.rows)

    @property
    def settled(self) -> bool:
        """Every item is answered, and background work is done or has to wait for its share of the budget."""
        return self.answered == len(self.rows) and all(
            lane.waiting == 0 or (lane.background_waits_s or 0) > 1 for lane in self.lanes
        )


def items(products: Sequence[Product], providers: Sequence[str]) -> tuple[Item, ...]:
    """Each product at each provider, in the size that is always quoted."""
    return tuple(
        Item(provider=provider, sku=product.search_code, size=product.quoted, name=product.title)
        for product in products
        for provider in providers
    )


class Asker:
    """Asks for prices, and looks what became of it. `calls` tells how many requests reached a provider."""

    def __init__(self, db: Database, wanted: Sequence[Item], calls: Callable[[str], int]) -> None:
        self._db = db
        self._sql = queries("demo")
        self._wanted = wanted
        self._calls = calls
        self._providers = list(dict.fromkeys(item.provider for item in wanted))
        self._refused: dict[int, str] = {}
        self._began = time.monotonic()
        self._since: datetime | None = None

    async def urgently(self) -> None:
        """Ask for the wanted items at the highest priority."""
        self._since = await self._db.fetchval(self._sql["clock"])
        answers = await self._db.fetch(self._sql["refresh"], _json(self._wanted))
        self._refused = {
            row["ord"] - 1: row["error_message"] for row in answers if row["result"] == "refused"
        }

    async def in_background(self, further: Sequence[Item] = ()) -> None:
        """Ask for the wanted items, and further ones, when there is time; what is fresh costs nothing."""
        await self._db.fetch(self._sql["enqueue_many"], _json([*self._wanted, *further]))

    async def snapshot(self) -> Snapshot:
        """What is known now. Raises DatabaseUnavailable."""
        rows = await self._db.fetch(self._sql["rows"], _json(self._wanted))
        lanes = await self._db.fetch(self._sql["lanes"], self._providers)
        background = (await self._db.fetch(self._sql["background"], self._since))[0]
        return Snapshot(
            elapsed_s=time.monotonic() - self._began,
            rows=[self._row(number, row) for number, row in enumerate(rows)],
            lanes=[self._lane(row) for row in lanes],
            done=background["done"],
            failed=background["failed"],
            waiting=background["waiting"],
        )

    def _row(self, number: int, row: asyncpg.Record) -> Row:
        answered, state, detail = _standing(row, self._refused.get(number))
        return Row(
            item=self._wanted[number],
            currency=row["currency"],
            ask=row["lowest_ask"],
            bid=row["highest_bid"],
            last_sale=row["last_sale"],
            age_s=row["age_s"],
            answered=answered,
            state=state,
            waits_s=row["waits_s"],
            detail=detail,
        )

    def _lane(self, row: asyncpg.Record) -> Lane:
        return Lane(
            provider=row["provider"],
            calls=self._calls(row["provider"]),
            prices=row["prices"],
            used=row["used"],
            quota=row["quota"],
            left=row["remaining"],
            resets_in_s=row["resets_in_s"],
            state=row["lane_state"],
            waiting=row["waiting"],
            background_waits_s=(row["background_waits_s"] or 0.0) if row["background_waits_for"] else None,
        )


def _standing(row: asyncpg.Record, refused: str | None) -> tuple[bool, str, str]:
    """Whether an item is answered, what the answer is or what it waits for, and that in words."""
    if refused is not None:
        return True, "refused", refused
    if row["job_status"] is not None:
        long = (row["waits_s"] or 0.0) > _LONG_WAIT_S or row["waiting_for"] in ("paused", "off")
        waits = row["waiting_for"] not in ("running", "rank", "pace")
        return (
            long and waits,
            "running" if row["waiting_for"] == "running" else f"waits: {row['waiting_for']}",
            (row["detail"] or ""),
        )
    if row["state"] in (None, "unknown"):
        return False, "not asked yet", ""
    failed = row["state"] == row["last_error_code"]
    return True, row["state"], (row["last_error_message"] or "") if failed else ""


def _json(wanted: Sequence[Item]) -> str:
    return json.dumps([{"provider": item.provider, "sku": item.sku, "size": item.size} for item in wanted])
