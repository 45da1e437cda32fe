"""Names and images: every provider's are kept, the best are shown, and what lacks an image gets one by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree

import asyncpg
import pytest

from harness import configured, running, until
from marketd import clock
from marketd.enrichment import Enrichment
from marketd.sandbox import Sandbox
from marketd.store.jobs import JobStore
from queue_kit import opened

Connection = asyncpg.Connection
PANDA = "DD1391-100"
SETTLED = "select not exists (select from market_jobs where status in ('pending', 'running', 'deferred'))"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}, products=30) as server:
        yield server


async def entry(db: Connection, sku: str) -> asyncpg.Record:
    row = await db.fetchrow("select * from market_catalog where sku = $1", sku)
    assert row is not None
    return row


async def ask(db: Connection, *wishes: tuple[str, str, str | None]) -> None:
    for provider, sku, size in wishes:
        await db.execute("select * from market_enqueue($1, $2, $3, 200)", provider, sku, size)
    await until(lambda: db.fetchval(SETTLED), what="the answers")


async def test_the_scheduler_brings_an_image_for_what_only_stockx_knows(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    providers = ("stockx", "alias", "ebay")
    async with running(configured(database, sandbox, tmp_path, providers=providers)):
        await ask(db, ("stockx", PANDA, "10"))

        async def pictured() -> bool:
            return not (await entry(db, PANDA))["image_is_fallback"]

        await until(pictured, what="the image")
    row = await entry(db, PANDA)
    assert row["image"] == row["image_url"]
    assert row["image"].startswith("https://image.goat.com/"), "as Alias gave it"
    assert row["name"] == "Nike Dunk Low Retro White Black Panda", "as StockX calls it"
    jobs = await db.fetch("select provider, priority from market_jobs where provider <> 'stockx'")
    assert [(job["provider"], job["priority"]) for job in jobs] == [("alias", 50)]
    assert sandbox.count("alias") == 2
    assert sandbox.count("ebay") == 0, "one image is enough"


async def test_looking_for_images_takes_a_hundredth_of_the_time_at_most(
    db: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)

    class Slow(JobStore):
        async def enrich(self, at_most: int, after: str) -> tuple[int, str | None]:
            nonlocal now
            now += 3
            return await super().enrich(at_most, after)

    looked = []
    async with opened(database) as pool:
        enrichment = Enrichment(Slow(pool, uuid4()))
        for minute in range(11):
            now = max(now, 60.0 * minute)
            sku = f"A-{minute:02}"  # in the order of the looks
            await db.execute(
                "insert into market_skus (provider, sku, product_id) values ('stockx', $1, $1)", sku
            )
            await enrichment.enrich()
            if await db.fetchval("select exists (select from market_jobs where sku = $1)", sku):
                looked.append(minute)
    assert looked == [0, 5, 10]


async def test_enriching_by_hand_tells_how_many_and_asks_nobody_twice(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(configured(database, sandbox, tmp_path, providers=("stockx",))):
        await ask(db, ("stockx", PANDA, "10"), ("stockx", "CP9366", "10.5"))
    await db.execute("update market_providers set enabled = true")
    assert await db.fetchval("select market_enrich('stockx')") == 0, "StockX tells no image"
    assert await db.fetchval("select market_enrich('alias', 1)") == 1
    assert await db.fetchval("select market_enrich()") == 1
    assert await db.fetchval("select market_enrich()") == 0, "both wait already"
    with pytest.raises(asyncpg.PostgresError, match="market_enrich: provider 'goat' is unknown"):
        await db.fetchval("select market_enrich('goat')")


async def test_what_alias_does_not_carry_is_looked_for_at_ebay_and_nowhere_in_vain(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    shoe = next(
        product
        for product in sandbox.world
        if product.style
        and product.chart
        and product.shelf
        and not product.alias_id
        and "/" not in product.style
        and not (product.quoted or "Y").endswith("Y")
    )
    assert shoe.style is not None
    async with running(configured(database, sandbox, tmp_path, providers=("stockx", "alias", "ebay"))):
        await ask(db, ("stockx", shoe.style, shoe.quoted))

        async def pictured() -> bool:
            return not (await entry(db, shoe.style or ""))["image_is_fallback"]

        await until(pictured, what="the image")
        row = await entry(db, shoe.style)
        assert row["image"].startswith("https://i.ebayimg.com/")
        assert row["name"] == shoe.title, "StockX' name is better than a seller's title"
        assert sandbox.count("alias") == 1, "unknown there, and not asked again"


async def test_each_category_has_a_fallback_image_of_our_own(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    box = next(product for product in sandbox.world if product.style is None and product.sizes == (None,))
    name = f"name:{box.title.lower()[:100]}"
    async with running(configured(database, sandbox, tmp_path)):
        await ask(db, ("stockx", PANDA, "10"), ("stockx", name, None))
    shown = {sku: (await entry(db, sku))["image"] for sku in (PANDA, name)}
    kinds = ("sneakers", "shoes", "trading_cards", "collectibles", "collectible", "handbags", None)
    keys = [await db.fetchval("select market__image_key($1)", kind) for kind in kinds]
    chosen = {
        await db.fetchval("select fallback_images ->> $1 from market_settings", key)
        for key in set(keys) - {None}
    }
    assert shown[PANDA] in chosen
    assert shown[name] in chosen
    assert len(chosen) == 4
    for image in chosen:
        file = files("marketd") / "images" / Path(image).name
        picture = ElementTree.fromstring(file.read_text())
        assert picture.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(file.read_bytes()) < 10_000


async def test_no_image_address_is_made_up(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(configured(database, sandbox, tmp_path)):
        await ask(db, *(("stockx", sku, size) for sku, size in ((PANDA, "10"), ("CP9366", "10.5"))))
    assert await db.fetchval("select count(image_url) from market_products") == 0, "StockX gives none"
