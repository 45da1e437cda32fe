"""Asking for prices: every answer that market_enqueue and its kin can give, and the plain INSERT."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from marketd.store.runs import RunStore
from queue_kit import (
    SKU,
    Connect,
    Connection,
    enqueue,
    enqueue_many,
    item,
    job,
    now,
    open_jobs,
    opened,
    plain_insert,
    settings,
    value,
)


async def _priced_now(db: Connection, age: str = "1 second") -> None:
    await db.execute(
        "insert into market_prices (provider, sku, size, currency, lowest_ask, observed_at, changed_at)"
        " values ('stockx', $1, '10', 'GBP', 200, clock_timestamp() - $2::text::interval, clock_timestamp())",
        SKU, age,
    )  # fmt: skip


async def _cools_until(db: Connection, hours: int = 5) -> None:
    """The target failed before and cools down."""
    await enqueue(db)
    await db.execute("delete from market_jobs")
    await db.execute(
        "update market_targets set retry_at = clock_timestamp() + make_interval(hours => $1),"
        " last_error_code = 'unknown_sku', last_error_message = 'no such shoe'",
        hours,
    )


# ------------------------------------------------------------------------------------------------ single calls


async def test_a_new_wish_is_queued(db: Connection) -> None:
    answer = await enqueue(db, user_id="ann")
    row = await job(db, answer["job_id"])
    assert answer["result"] == "queued"
    assert (row["status"], row["priority"], row["currency"], row["user_id"]) == ("pending", 100, "GBP", "ann")


async def test_ten_repeats_of_a_wish_are_one_job_and_all_tell_its_id(db: Connection) -> None:
    first = await enqueue(db)
    answers = [await enqueue(db, " dd1391 100 ", "US 10.0") for _ in range(10)]
    assert {(a["job_id"], a["result"]) for a in answers} == {(first["job_id"], "merged")}
    assert await open_jobs(db) == 1
    assert await value(db, "select count(*) from market_job_requests") == 11


async def test_an_urgent_repeat_raises_the_waiting_job(db: Connection) -> None:
    first = await enqueue(db)
    answer = await enqueue(db, priority=200)
    assert (answer["job_id"], answer["result"]) == (first["job_id"], "raised")
    assert (await job(db, first["job_id"]))["priority"] == 200


async def test_a_repeat_of_lower_priority_lowers_nothing(db: Connection) -> None:
    first = await enqueue(db, priority=200)
    assert (await enqueue(db, priority=100))["result"] == "merged"
    assert (await job(db, first["job_id"]))["priority"] == 200


@pytest.mark.parametrize("priority", [100, 150, 200, 1000])
async def test_a_fresh_price_makes_no_job_at_any_priority(db: Connection, priority: int) -> None:
    await _priced_now(db)
    answer = await enqueue(db, priority=priority)
    assert (answer["job_id"], answer["result"]) == (None, "fresh")
    assert await open_jobs(db) == 0


async def test_a_price_older_than_fresh_for_is_asked_for_again(db: Connection) -> None:
    await settings(db, fresh_for=timedelta(seconds=30))
    await _priced_now(db, "31 seconds")
    assert (await enqueue(db))["result"] == "queued"


async def test_sizes_currencies_and_accounts_are_different_targets(db: Connection) -> None:
    await db.execute(
        "insert into market_providers (provider, account, currency) values ('stockx', 'b', 'GBP')"
    )
    await db.execute("insert into market_account_users values ('stockx', 'bob', 'b')")
    for answer in (
        await enqueue(db),
        await enqueue(db, size="10.5"),
        await enqueue(db, currency="usd"),
        await enqueue(db, user_id="bob"),
    ):
        assert answer["result"] == "queued"
    assert await open_jobs(db) == 4


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"provider": "goat"}, "provider"),
        ({"provider": None}, "provider"),
        ({"sku": ""}, "sku is empty"),
        ({"sku": None}, "sku is empty"),
        ({"sku": " \t\n"}, "sku is empty"),
        ({"sku": "A" * 65}, "sku is longer"),
        ({"sku": "DD1391;100"}, "sku"),
        ({"sku": "id:"}, "sku"),
        ({"size": ""}, "size"),
        ({"size": "banana"}, "size"),
        ({"size": "99"}, "size"),
        ({"priority": -1}, "priority"),
        ({"priority": 1001}, "priority"),
        ({"currency": "POUND"}, "currency"),
        ({"currency": ""}, "currency"),
        ({"currency": "ZWL"}, "currency"),
        ({"provider": "ebay", "currency": "GBP"}, "currency GBP is not offered by ebay"),
        ({"user_id": "u" * 201}, "user_id"),
    ],
)
async def test_a_bad_argument_is_refused_with_22023_and_its_name(
    db: Connection, arguments: dict[str, Any], names: str
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match=names) as caught:
        await enqueue(db, **arguments)
    assert caught.value.sqlstate == "22023"
    assert await open_jobs(db) == 0


async def test_not_before_defers_until_its_time_and_an_earlier_repeat_pulls_it_forward(
    db: Connection,
) -> None:
    tomorrow = await now(db) + timedelta(days=1)
    first = await enqueue(db, not_before=tomorrow)
    row = await job(db, first["job_id"])
    assert (first["result"], row["status"], row["run_at"]) == ("queued", "deferred", tomorrow)
    assert (first["wait_reason"], first["eta"]) == ("not_before", tomorrow)
    await enqueue(db)
    row = await job(db, first["job_id"])
    assert row["status"] == "pending"
    assert row["run_at"] <= await now(db)


async def test_a_later_not_before_never_delays_a_job_that_is_due(db: Connection) -> None:
    first = await enqueue(db)
    tomorrow = await now(db) + timedelta(days=1)
    for priority in (150, 200):
        assert (await enqueue(db, priority=priority, not_before=tomorrow))["result"] == "raised"
    assert (await job(db, first["job_id"]))["status"] == "pending"


async def test_null_size_is_an_item_of_one_size(db: Connection) -> None:
    first = await enqueue(db, "name:charizard base set", None, provider="ebay")
    again = await enqueue(db, "NAME: Charizard  Base Set", "One Size", provider="ebay")
    assert (again["job_id"], again["result"]) == (first["job_id"], "merged")


# ------------------------------------------------------------------------------- cool-downs and backoff (9.2)


async def test_a_background_wish_for_a_cooling_target_waits_and_says_until_when(db: Connection) -> None:
    await _cools_until(db)
    answer = await enqueue(db)
    row = await job(db, answer["job_id"])
    assert (answer["result"], answer["wait_reason"], row["status"]) == ("queued", "cooldown", "deferred")
    assert answer["eta"] == row["retry_at"] == await value(db, "select retry_at from market_targets")


async def test_an_urgent_wish_looks_past_a_cool_down_once_in_fresh_for(db: Connection) -> None:
    await _cools_until(db)
    first = await enqueue(db, priority=200)
    assert (await job(db, first["job_id"]))["status"] == "pending"
    # It failed again: settling notes when the cool-down was overridden.
    await db.execute(
        "update market_jobs set status = 'failed', error_code = 'unknown_sku', completed_at = now()"
    )
    await db.execute("update market_targets set overridden_at = clock_timestamp()")
    second = await enqueue(db, priority=200)
    assert (await job(db, second["job_id"]))["status"] == "deferred"
    assert second["wait_reason"] == "cooldown"
    await db.execute("delete from market_jobs")
    await db.execute("update market_targets set overridden_at = clock_timestamp() - interval '11 minutes'")
    third = await enqueue(db, priority=200)
    assert (await job(db, third["job_id"]))["status"] == "pending"


async def _back_off(db: Connection, job_id: int) -> datetime:
    """The job's first attempt failed; it is tried again in an hour."""
    due: datetime = await db.fetchval(
        "update market_jobs set status = 'deferred', attempt = 1, error_code = 'timeout',"
        " retry_at = clock_timestamp() + interval '1 hour', run_at = clock_timestamp() + interval '1 hour'"
        " where id = $1 returning run_at",
        job_id,
    )
    return due


async def test_a_background_repeat_keeps_the_backoff_and_an_urgent_one_breaks_it_once(db: Connection) -> None:
    job_id = (await enqueue(db))["job_id"]
    due = await _back_off(db, job_id)
    assert (await enqueue(db, priority=120))["result"] == "raised"
    row = await job(db, job_id)
    assert row["status"] == "deferred"
    assert abs(row["run_at"] - due) < timedelta(seconds=1)
    assert (await enqueue(db, priority=200))["result"] == "raised"
    row = await job(db, job_id)
    assert (row["status"], row["retry_at"]) == ("pending", None)
    await _back_off(db, job_id)
    assert (await enqueue(db, priority=300))["result"] == "raised"
    assert (await job(db, job_id))["status"] == "deferred"


# ------------------------------------------------------------------------------------------------ notifications


async def _heard(connect: Connect, acts: Any) -> list[str]:
    """Payloads on market_jobs while `acts(connection)` ran."""
    listener, actor = await connect(), await connect()
    payloads: list[str] = []
    mark = asyncio.Event()

    def note(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload == "end":
            mark.set()
        else:
            payloads.append(str(payload))

    await listener.add_listener("market_jobs", note)
    await acts(actor)
    await actor.execute("notify market_jobs, 'end'")
    await asyncio.wait_for(mark.wait(), 5)
    return payloads


async def test_only_urgent_new_rows_wake_the_daemon(connect: Connect) -> None:
    async def background(db: Connection) -> None:
        await enqueue(db)
        await plain_insert(db, "AA1-100")

    async def urgent(db: Connection) -> None:
        await enqueue(db, "BB1-100", priority=150)
        await plain_insert(db, "BB2-100", priority=200)
        await enqueue_many(db, [item(f"CC{i}-1") for i in range(20)], 200)
        await enqueue(db, "BB3-100", priority=200, not_before=await now(db) + timedelta(hours=1))

    assert await _heard(connect, background) == []
    assert await _heard(connect, urgent) == ["stockx", "stockx", "stockx"]


async def test_a_raise_across_wake_priority_wakes_once_and_further_repeats_do_not(connect: Connect) -> None:
    async def acts(db: Connection) -> None:
        await enqueue(db)
        await enqueue(db, priority=120)
        await enqueue(db, priority=150)
        await enqueue(db, priority=150)
        await enqueue(db, priority=200)

    assert await _heard(connect, acts) == ["stockx"]


async def test_a_merge_that_makes_a_deferred_job_due_wakes(connect: Connect) -> None:
    async def acts(db: Connection) -> None:
        await enqueue(db, not_before=await now(db) + timedelta(hours=1))
        await enqueue(db)

    assert await _heard(connect, acts) == ["stockx"]


# --------------------------------------------------------------------------------------------------- many items


async def test_many_items_are_answered_in_their_order_and_a_bad_one_stops_nobody(db: Connection) -> None:
    await _priced_now(db)
    rows = await enqueue_many(
        db,
        [
            item("ZZ9-1"),
            item(),
            item("AA1-1", priority=150),
            "no object",
            item("AA1-1"),
            item(size="enormous"),
            {"provider": "goat", "sku": "AA1-1"},
            item("BB1-1", price=3),
            item("BB1-1", not_before="soon"),
            item("BB1-1", not_before="infinity"),
            item("BB1-1", priority="-1"),
            {"provider": "stockx", "sku": 5},
            {**item("CC1-1"), "size": 10.5},
        ],
    )
    assert [row["ord"] for row in rows] == list(range(1, 14))
    assert [row["result"] for row in rows] == [
        "queued", "fresh", "queued", "refused", "merged", *["refused"] * 7, "queued",
    ]  # fmt: skip
    words = ["size", "provider", "unknown key", "not_before", "not_before", "priority", "sku"]
    for row, word in zip(rows[5:12], words, strict=True):
        assert row["error_code"] == "22023"
        assert word in row["error_message"]
    assert await open_jobs(db) == 3
    assert (await job(db, rows[12]["job_id"]))["size"] == "10.5"


@pytest.mark.parametrize(
    ("priority", "taken"),
    [("200.0", 200), ("200.00", 200), ("2e2", 200), ('"200"', 200), ("0.0", 0), ("1000.0", 1000)],
)
async def test_a_whole_priority_is_taken_however_the_number_is_written(
    db: Connection, priority: str, taken: int
) -> None:
    items = f'[{{"provider": "stockx", "sku": "AA1-1", "priority": {priority}}}]'
    [row] = await db.fetch("select * from market_enqueue_many($1)", items)
    assert (row["result"], row["error_message"]) == ("queued", None)
    assert await value(db, "select priority from market_jobs") == taken


@pytest.mark.parametrize(
    "priority", ["200.5", "-0.5", "-1.0", "1000.5", "1001.0", "1e400", '"200x0"', "true", "[]"]
)
async def test_what_is_no_whole_priority_in_range_is_refused(db: Connection, priority: str) -> None:
    items = f'[{{"provider": "stockx", "sku": "AA1-1", "priority": {priority}}}]'
    [row] = await db.fetch("select * from market_enqueue_many($1)", items)
    assert (row["result"], row["error_code"]) == ("refused", "22023")
    assert "priority" in row["error_message"]


@pytest.mark.parametrize(
    ("size", "taken"),
    [("9.50", "9.5"), ("9.500", "9.5"), ("10.0", "10"), ("10.00", "10"), ("1e1", "10"), ("95e-1", "9.5")],
)
async def test_a_size_that_is_a_number_is_read_by_its_value(db: Connection, size: str, taken: str) -> None:
    items = f'[{{"provider": "stockx", "sku": "AA1-1", "size": {size}}}]'
    [row] = await db.fetch("select * from market_enqueue_many($1)", items)
    assert (row["result"], row["error_message"]) == ("queued", None)
    assert await value(db, "select size from market_jobs") == taken


async def test_a_number_sent_as_text_with_all_its_digits_is_the_same_item(db: Connection) -> None:
    first = await enqueue(db, "AA1-1", "9.5")
    for size in ("9.50", '"9.50"', '"US 9.500"'):
        items = f'[{{"provider": "stockx", "sku": "AA1-1", "size": {size}}}]'
        [row] = await db.fetch("select * from market_enqueue_many($1)", items)
        assert (row["job_id"], row["result"]) == (first["job_id"], "merged"), size
    assert (await enqueue(db, "AA1-1", "9.50"))["job_id"] == first["job_id"]
    await db.execute(
        "insert into market_jobs (provider, sku, size) values ('stockx', 'AA1-1', 9.5::numeric(4, 2))"
    )
    assert await value(db, "select count(*) from market_jobs") == 1


@pytest.mark.parametrize("size", ["9.25", "9.55", "0.0", "-9.5", "100.0", "1e400", "true", "{}"])
async def test_a_number_that_is_no_size_is_refused(db: Connection, size: str) -> None:
    items = f'[{{"provider": "stockx", "sku": "AA1-1", "size": {size}}}]'
    [row] = await db.fetch("select * from market_enqueue_many($1)", items)
    assert (row["result"], row["error_code"]) == ("refused", "22023")
    assert "size" in row["error_message"]


@pytest.mark.parametrize("items", ["{}", "null", '"text"', None])
async def test_what_is_no_array_raises(db: Connection, items: str | None) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="not a JSON array"):
        await db.fetch("select * from market_enqueue_many($1)", items)


async def test_more_than_ten_thousand_items_raise(db: Connection) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="10001 entries"):
        await db.fetch("select * from market_enqueue_many($1)", json.dumps([1] * 10_001))


async def test_refresh_asks_at_200(db: Connection) -> None:
    first = await enqueue(db)
    rows = await db.fetch("select * from market_refresh($1)", json.dumps([item(), item("AA1-1")]))
    assert [(row["job_id"] == first["job_id"], row["result"]) for row in rows] == [
        (True, "raised"),
        (False, "queued"),
    ]
    assert await value(db, "select min(priority) from market_jobs") == 200


async def test_calls_with_many_items_in_opposite_order_do_not_deadlock(connect: Connect) -> None:
    items = [item(f"AA{i}-1") for i in range(60)]
    connections = [await connect() for _ in range(4)]
    answers = await asyncio.gather(
        *(enqueue_many(c, items if i % 2 else items[::-1]) for i, c in enumerate(connections))
    )
    assert {row["result"] for rows in answers for row in rows} == {"queued", "merged"}
    assert await open_jobs(connections[0]) == 60


# ------------------------------------------------------------------------------------------------- plain INSERT


async def test_a_plain_insert_is_normalised_and_repeats_merge_without_an_error(db: Connection) -> None:
    assert await plain_insert(db, " dd1391 100", "us 10") == "INSERT 0 1"
    assert await plain_insert(db, priority=200) == "INSERT 0 0"
    row = await db.fetchrow("select * from market_jobs")
    assert row is not None
    assert (row["sku"], row["size"], row["priority"], row["max_attempts"]) == (SKU, "10", 200, 5)
    assert await value(db, "select count(*) from market_job_requests where job_id = $1", row["id"]) == 2


@pytest.mark.parametrize(
    ("column", "bad"),
    [("provider", "goat"), ("sku", ""), ("size", "banana"), ("priority", 5000), ("currency", "ZWL")],
)
async def test_a_plain_insert_is_checked_like_a_call(db: Connection, column: str, bad: Any) -> None:
    row = {"provider": "stockx", "sku": SKU, "size": "10", "priority": 100, "currency": "GBP", column: bad}
    with pytest.raises(asyncpg.InvalidParameterValueError, match=column):
        await db.execute(
            "insert into market_jobs (provider, sku, size, priority, currency) values ($1, $2, $3, $4, $5)",
            *row.values(),
        )


async def test_the_same_target_twice_in_one_statement_is_one_job(db: Connection) -> None:
    tag = await db.execute(
        "insert into market_jobs (provider, sku, size, priority) values"
        " ('stockx', 'DD1391-100', '10', 100), ('stockx', 'dd1391 100', 'US 10', 200), ('stockx', 'AA1-1', '9', 100)"
    )
    assert tag == "INSERT 0 2"
    assert await value(db, "select priority from market_jobs where sku = $1", SKU) == 200


async def test_columns_that_old_apps_name_are_overwritten(db: Connection) -> None:
    row = await db.fetchrow(
        "insert into market_jobs (provider, sku, size, currency, priority, status, dedupe_key, attempt, rescues,"
        " outcome, lease_id, completed_at, error_code, rank)"
        " values ('stockx', $1, '10', 'GBP', 100, 'done', 'mine', 7, 7, 'priced', gen_random_uuid(),"
        " now(), 'x', 9) returning *",
        SKU,
    )
    assert row is not None
    assert (row["status"], row["attempt"], row["rescues"], row["rank"]) == ("pending", 0, 0, 0)
    assert (row["outcome"], row["lease_id"], row["completed_at"], row["error_code"]) == (
        None,
        None,
        None,
        None,
    )
    assert row["dedupe_key"] == f"stockx|default|{SKU}|GBP|10"
    assert (await enqueue(db))["job_id"] == row["id"]


async def test_a_plain_insert_of_a_fresh_target_is_done_at_once(db: Connection) -> None:
    await _priced_now(db)
    assert await plain_insert(db, priority=200) == "INSERT 0 1"
    row = await db.fetchrow("select status, outcome, completed_at from market_jobs")
    assert row is not None
    assert (row["status"], row["outcome"], row["completed_at"] is not None) == ("done", "fresh", True)


async def test_returning_gives_the_new_row_and_nothing_for_a_merge(db: Connection) -> None:
    statement = (
        "insert into market_jobs (provider, sku, size) values ('stockx', $1, '10') returning id, status"
    )
    assert [row["status"] for row in await db.fetch(statement, SKU)] == ["pending"]
    assert await db.fetch(statement, SKU) == []


async def test_copy_merges_as_well(db: Connection) -> None:
    await enqueue(db)
    await db.copy_records_to_table(
        "market_jobs",
        columns=["provider", "sku", "size"],
        records=[("stockx", SKU, "10"), ("stockx", SKU, "11")],
    )
    assert await open_jobs(db) == 2


# -------------------------------------------------------------------------------------------------------- races


async def test_of_two_racing_inserts_the_second_merges_when_the_first_commits(connect: Connect) -> None:
    first, second, watcher = [await connect() for _ in range(3)]
    from queue_kit import until, waits_for_lock

    begun = first.transaction()
    await begun.start()
    assert await plain_insert(first) == "INSERT 0 1"
    racing = asyncio.create_task(plain_insert(second, priority=200))
    pid = second.get_server_pid()
    await until(lambda: waits_for_lock(watcher, pid))
    await begun.commit()
    assert await racing == "INSERT 0 0"
    assert await open_jobs(watcher) == 1
    assert await value(watcher, "select priority from market_jobs") == 200


async def test_of_two_racing_inserts_the_second_inserts_when_the_first_rolls_back(connect: Connect) -> None:
    first, second, watcher = [await connect() for _ in range(3)]
    from queue_kit import until, waits_for_lock

    begun = first.transaction()
    await begun.start()
    await plain_insert(first)
    racing = asyncio.create_task(enqueue(second))
    pid = second.get_server_pid()
    await until(lambda: waits_for_lock(watcher, pid))
    await begun.rollback()
    assert (await racing)["result"] == "queued"
    assert await open_jobs(watcher) == 1


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_higher_isolation_may_be_told_to_try_again_but_never_sees_a_duplicate(
    connect: Connect, isolation: Any
) -> None:
    first, second = await connect(), await connect()
    begun = second.transaction(isolation=isolation)
    await begun.start()
    await second.fetchval("select count(*) from market_jobs")  # its snapshot is taken
    await plain_insert(first)
    with pytest.raises(asyncpg.SerializationError):
        await plain_insert(second)
    await begun.rollback()
    assert await plain_insert(second) == "INSERT 0 0"


async def test_sixteen_apps_at_once_make_one_job(connect: Connect) -> None:
    apps = [await connect() for _ in range(16)]
    answers = await asyncio.gather(*(enqueue(app, priority=100 + i) for i, app in enumerate(apps)))
    assert sorted({a["result"] for a in answers} - {"raised"}) in (["merged", "queued"], ["queued"])
    assert len({a["job_id"] for a in answers}) == 1
    assert await open_jobs(apps[0]) == 1


async def test_a_request_that_meets_a_locked_job_is_folded_in_later(connect: Connect) -> None:
    holder, app, daemon = [await connect() for _ in range(3)]
    job_id = (await enqueue(app))["job_id"]
    begun = holder.transaction()
    await begun.start()
    await enqueue(holder, priority=120)  # holds the row until it commits
    assert (await enqueue(app, priority=200))["result"] == "merged"
    assert await value(daemon, "select market_fold_requests()") == 0
    await begun.commit()
    assert await value(daemon, "select market_fold_requests()") == 1
    assert (await job(app, job_id))["priority"] == 200
    assert await value(daemon, "select market_fold_requests()") == 0


async def test_requests_for_what_one_app_holds_keep_no_other_from_its_job(connect: Connect) -> None:
    holder, app, daemon = [await connect() for _ in range(3)]
    items = [item(f"AA{n}-100") for n in range(600)]
    await enqueue_many(app, items)
    last = (await enqueue(app, "ZZ1-100"))["job_id"]
    held, brief = holder.transaction(), holder.transaction()
    await held.start()
    await holder.execute("select from market_jobs where id <> $1 for update", last)
    await brief.start()
    await holder.execute("select from market_jobs where id = $1 for update", last)
    await enqueue_many(app, items, priority=200)
    for priority in (120, 200, 150):
        assert (await enqueue(app, "ZZ1-100", priority=priority))["result"] == "merged"
    await brief.rollback()
    assert await value(daemon, "select market_fold_requests()") == 3
    assert (await job(app, last))["priority"] == 200
    assert await value(daemon, "select market_fold_requests()") == 0
    await held.rollback()
    assert await value(daemon, "select market_fold_requests()") == 500
    assert await value(daemon, "select market_fold_requests()") == 100
    assert await value(daemon, "select min(priority) from market_jobs") == 200


async def test_earlier_times_that_met_a_locked_job_are_folded_in_together(connect: Connect) -> None:
    holder, app = [await connect() for _ in range(2)]
    soon = await now(app) + timedelta(hours=1)
    job_id = (await enqueue(app, not_before=soon + timedelta(hours=5)))["job_id"]
    held = holder.transaction()
    await held.start()
    await holder.execute("select from market_jobs for update")
    for later in (2, 0, 1):
        await enqueue(app, not_before=soon + timedelta(hours=later))
    await held.rollback()
    assert await value(app, "select market_fold_requests()") == 3
    row = await job(app, job_id)
    assert (row["status"], row["run_at"]) == ("deferred", soon)


async def test_a_request_of_a_job_that_is_gone_is_not_looked_at_again(db: Connection) -> None:
    await db.execute(
        "insert into market_job_requests (job_id, priority, folded, loose) values (77, 100, false, true)"
    )
    assert await value(db, "select market_fold_requests()") == 1
    assert await value(db, "select market_fold_requests()") == 0


async def test_who_joined_a_job_that_waits_for_long_is_pruned_and_what_it_has_not_heard_is_not(
    database: str, db: Connection
) -> None:
    job_id = (await enqueue(db, user_id="ann"))["job_id"]
    for _ in range(30):
        await enqueue(db, user_id="bob")
    await db.execute("update market_job_requests set requested_at = now() - interval '60 days'")
    await db.execute(
        "insert into market_job_requests (job_id, user_id, priority, requested_at, folded, loose, served)"
        " select $1, state, 100, now() - interval '60 days', state <> 'unfolded', true, state = 'served'"
        " from unnest(array['unfolded', 'unserved', 'served']) state",
        job_id,
    )
    await enqueue(db, user_id="cid")
    long = timedelta(days=14)
    async with opened(database) as pool:
        await RunStore(pool).prune(jobs=long, history=long, requests=long, batch=10)
    users = await db.fetch("select user_id from market_job_requests order by request_id")
    assert [row["user_id"] for row in users] == ["ann", "unfolded", "unserved", "cid"]
    assert (await job(db, job_id))["status"] == "pending"


async def _cooled(db: Connection) -> None:
    """The target failed for good a while ago, and an urgent wish has just looked past that."""
    await db.execute("""
        insert into market_targets
          (provider, account, sku, size, currency, dedupe_key, unit_key, retry_at, overridden_at)
        values ('stockx', 'default', 'DD1391-100', '10', 'GBP', 'stockx|default|DD1391-100|GBP|10',
                'stockx|default|DD1391-100|GBP', clock_timestamp() + interval '7 days', clock_timestamp())""")


@pytest.mark.parametrize("many", [False, True], ids=["enqueue", "enqueue_many"])
async def test_clicks_look_past_a_cool_down_once_in_fresh_for_also_when_they_meet_the_job_that_waits(
    db: Connection, many: bool
) -> None:
    await _cooled(db)
    for _ in range(3):
        answer = (await enqueue_many(db, [item()], 200))[0] if many else await enqueue(db, priority=200)
        waiting = await job(db, answer["job_id"])
        assert (waiting["status"], answer["wait_reason"]) == ("deferred", "cooldown")
    assert waiting["run_at"] > waiting["created_at"] + timedelta(days=6)


@pytest.mark.parametrize("how", ["enqueue", "enqueue_many", "insert"])
async def test_what_is_fresh_because_a_mate_brought_it_is_seen_from_then_on(db: Connection, how: str) -> None:
    await db.execute("""
        insert into market_prices (provider, sku, size, currency, lowest_ask, observed_at, changed_at)
        values ('stockx', 'DD1391-100', '10', 'GBP', 111, clock_timestamp(), clock_timestamp())""")
    if how == "insert":
        await plain_insert(db)
    else:
        answer = (await enqueue_many(db, [item()]))[0] if how == "enqueue_many" else await enqueue(db)
        assert answer["result"] == "fresh"
    asks = await db.fetch("select lowest_ask from market_price_status where sku = 'DD1391-100'")
    assert [row["lowest_ask"] for row in asks] == [111]
    assert await open_jobs(db) == 0


async def test_asking_in_different_ways_for_the_same_new_items_never_deadlocks(
    connect: Connect, db: Connection
) -> None:
    watcher, asker = await connect(), await connect()
    for turn in range(5):
        items = [item(f"DL{turn}{number:03}-100") for number in range(150)]

        async def ask_for_each(items: list[dict[str, Any]] = items) -> None:
            async with asker.transaction():
                for one in items:
                    await enqueue(asker, one["sku"])

        await asyncio.gather(
            watcher.fetch("select * from market_watch($1)", json.dumps(items)), ask_for_each()
        )
    assert await open_jobs(db) == 750
