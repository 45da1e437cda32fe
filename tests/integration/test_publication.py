"""Apps may publish marketd's tables (Supabase Realtime, a logical replica): no statement of marketd fails for it."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from marketd.outcome import Priced
from marketd.store.jobs import JobStore
from marketd.store.sqlfile import queries
from queue_kit import Connection, claim_one, enqueue, now, opened, plenty, quote, settings, value


async def test_with_all_tables_published_prices_change_views_are_folded_and_history_is_pruned(
    db: Connection, database: str
) -> None:
    await plenty(db)
    await settings(db, fresh_for=timedelta(0))
    # Nothing is sent at this wal_level; updates without a key are refused all the same.
    await db.execute("create publication everything for all tables")
    async with opened(database) as pool:
        jobs = JobStore(pool, uuid4())
        for ask in ("200", "190"):
            await enqueue(db)
            unit = await claim_one(jobs)
            priced = [(job, Priced(size=job.size)) for job in unit.jobs]
            await jobs.settle(unit, priced, [quote(ask=ask, at=await now(db))])
    assert await value(db, "select lowest_ask from market_prices") == 190
    await db.execute(queries("plan")["fold"])
    await db.execute("update market_signals set folded_at = folded_at - interval '1 hour'")
    await db.execute(queries("plan")["fold"])
    assert await value(db, "select count(*) from market_signals") == 0
    assert await value(db, queries("runs")["prune_history"], timedelta(0), 100) == 2


async def test_every_table_tells_its_rows_apart_for_who_follows_its_changes(db: Connection) -> None:
    nameless = await db.fetch("""
        select c.oid::regclass::text from pg_class c
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relreplident <> 'f'
           and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)""")
    assert nameless == []


async def test_prices_have_the_primary_key_without_which_supabase_realtime_sends_no_change(
    db: Connection,
) -> None:
    key = "select pg_get_indexdef(indexrelid) from pg_index where indrelid = 'market_prices'::regclass and indisprimary"
    assert str(await value(db, key)).endswith("(price_id)")
