"""What a job waits for, until when, and what the views say: one test per word."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from queue_kit import (
    SKU,
    Connection,
    Row,
    daemon,
    enqueue,
    enqueue_many,
    item,
    limits,
    now,
    plenty,
    settings,
    value,
)


@pytest.fixture(autouse=True)
async def lively(db: Connection) -> None:
    """A daemon lives and nothing stands in the way; a test puts one thing there."""
    await plenty(db)
    await daemon(db)


async def why(db: Connection, job_id: int) -> Row:
    row = await db.fetchrow("select * from market_why($1::bigint)", job_id)
    assert row is not None
    return row


async def asked(db: Connection, priority: int = 100, **wish: Any) -> tuple[Row, Row]:
    """What enqueue says of a new job, and what market_why says of it."""
    answer = await enqueue(db, priority=priority, **wish)
    told = await why(db, answer["job_id"])
    assert (told["waiting_for"], told["eta"] is None) == (answer["wait_reason"], answer["eta"] is None)
    return answer, told


async def known(db: Connection, sku: str, provider: str = "stockx") -> None:
    """As if a fetch had found this product."""
    await db.execute("insert into market_skus (provider, sku, product_id) values ($1, $2, $2)", provider, sku)


async def eta_s(db: Connection, job_id: int) -> float:
    """Seconds from now to when the fetch of this job is expected to begin."""
    return float((await why(db, job_id))["eta"].timestamp() - (await now(db)).timestamp())


async def test_rank_says_how_many_are_ahead_and_guesses_when(db: Connection) -> None:
    await limits(db, pace_s=1)
    await enqueue_many(db, [item(f"AA{i}-1") for i in range(4)], 200)
    await enqueue_many(db, [item(f"BB{i}-1") for i in range(3)], 100)
    for i in range(4):
        await known(db, f"AA{i}-1")
    _, told = await asked(db)
    # To find a product costs StockX three calls, one that is known costs one.
    assert (told["state"], told["waiting_for"]) == ("pending", "rank")
    assert told["detail"] == "7 jobs ahead (13 calls)"
    assert timedelta(seconds=13) < told["eta"] - await now(db) < timedelta(seconds=15)
    first = await value(db, "select min(id) from market_jobs")
    assert (await why(db, first))["detail"] == "next in line"


async def test_sizes_of_one_product_share_their_calls_and_go_when_the_first_of_them_goes(
    db: Connection,
) -> None:
    await limits(db, pace_s=1)
    first = (await enqueue(db, "AA1-1", "9", 200))["job_id"]
    for size in ("9.5", "10", "10.5"):
        await enqueue(db, "AA1-1", size, 200)
    other = (await enqueue(db, "BB1-1", "9", 200))["job_id"]
    mate = (await enqueue(db, "AA1-1", "11", 100))["job_id"]
    assert (await why(db, other))["detail"] == "4 jobs ahead (3 calls)"
    assert await eta_s(db, other) == pytest.approx(3.3, abs=0.3)
    assert await eta_s(db, first) == pytest.approx(0, abs=0.3)
    assert await eta_s(db, mate) == pytest.approx(0, abs=0.3)


async def test_where_each_size_is_a_call_each_counts(db: Connection) -> None:
    await limits(db, "ebay", pace_s=1)
    for size in ("9", "9.5", "10"):
        last = await enqueue(db, "AA1-1", size, 200, provider="ebay")
    assert await eta_s(db, last["job_id"]) == pytest.approx(2.2, abs=0.3)


async def test_background_waits_for_urgent_calls_at_their_pace_and_for_its_own_at_the_spread(
    db: Connection,
) -> None:
    # A tenth of the hour is over: 85 calls are spread over 85 % of it.
    await limits(db, quota_hour=100, pace_s=1, reserve=0)
    await db.execute(
        "insert into market_budgets (provider, window_kind, window_start, window_end, used) select p.provider, 'hour',"
        " w.starts, w.ends, 15 from market_providers p, market_settings s,"
        " market__window(p, s, 'hour', clock_timestamp()) w where p.provider = 'stockx'"
    )
    share = await db.fetchrow(
        "select * from market_budget_status where provider = 'stockx' and window_kind = 'hour'"
    )
    assert share is not None
    spacing_s = (share["resets_in_s"] - 0.05 * 3600) / 85
    for i in range(10):
        await known(db, f"AA{i}-1")
        await known(db, f"BB{i}-1")
    await enqueue_many(db, [item(f"AA{i}-1") for i in range(10)], 200)
    await enqueue_many(db, [item(f"BB{i}-1") for i in range(10)], 100)
    _, told = await asked(db)
    expected_s = 10 * 1.1 + 10 * spacing_s
    assert (told["eta"] - await now(db)).total_seconds() == pytest.approx(expected_s, rel=0.05)


async def test_a_slow_provider_is_no_quicker_than_its_answers(db: Connection) -> None:
    await limits(db, "ebay", pace_s=1)
    await db.execute(
        "update market_daemons set quotas = jsonb_build_object('ebay/default', jsonb_build_object('slots', 2))"
    )
    await db.execute(
        "insert into market_provider_metrics (provider, window_start, requests, took_s)"
        " values ('ebay', date_trunc('hour', clock_timestamp(), 'UTC'), 10, 300)"
    )
    for size in ("9", "9.5", "10"):
        last = await enqueue(db, "AA1-1", size, 200, provider="ebay")
    # Half a minute each, two at a time.
    assert await eta_s(db, last["job_id"]) == pytest.approx(30, abs=1)


async def test_beyond_this_days_calls_the_eta_is_tomorrow(db: Connection) -> None:
    await limits(db, "ebay", quota_hour=50, quota_day=10)
    for i in range(12):
        last = await enqueue(db, f"AA{i}-1", "9", 200, provider="ebay")
    told = await why(db, last["job_id"])
    ends = await value(
        db,
        "select window_end from market_budget_status where provider = 'ebay' and window_kind = 'day'",
    )
    assert ends <= told["eta"] < ends + timedelta(minutes=1)


@pytest.mark.parametrize("held", ["not_before", "backoff", "target"])
async def test_what_is_deferred_is_told_no_time_at_which_its_lane_is_closed(
    db: Connection, held: str
) -> None:
    due = await now(db) + timedelta(seconds=20)
    job_id = (await enqueue(db, not_before=due))["job_id"]
    if held != "not_before":
        await db.execute(
            "update market_jobs set retry_at = $1, not_before = null, attempt = $2",
            due, 1 if held == "backoff" else 0,
        )  # fmt: skip
    told = await why(db, job_id)
    assert (told["until"], told["eta"]) == (due, due)
    await db.execute("select market_report('stockx', 'default', 'throttled', 90, false, 'HTTP 429')")
    told = await why(db, job_id)
    opens = await value(db, "select circuit_until from market_providers where provider = 'stockx'")
    assert (told["until"], told["eta"]) == (due, opens)
    assert told["detail"].endswith("; and then: the provider throttles us: HTTP 429")
    await db.execute("select market_pause('stockx', 'stock taking')")
    told = await why(db, job_id)
    assert (told["until"], told["eta"]) == (due, None)
    assert told["detail"].endswith("; and then: paused by an operator: stock taking")


@pytest.mark.parametrize("reason", ["budget", "pace", "cooldown", "circuit"])
async def test_the_eta_counts_from_when_the_lane_opens(db: Connection, reason: str) -> None:
    await limits(db, pace_s=10)
    if reason == "budget":
        await limits(db, quota_hour=2)
        for _ in range(2):
            await db.execute("update market_providers set next_request_at = '-infinity'")
            await db.execute("select market_take('stockx', 'default', 200)")
    elif reason == "pace":
        await db.execute("select market_take('stockx', 'default', 200)")
    else:
        kind = {"cooldown": "throttled", "circuit": "errors"}[reason]
        await limits(db, circuit_after=1)
        await db.execute("select market_report('stockx', 'default', $1, 60)", kind)
    await known(db, "AA1-1")
    await enqueue(db, "AA1-1", priority=200)
    _, told = await asked(db, 200)
    assert told["waiting_for"] == reason
    assert (told["eta"] - told["until"]).total_seconds() == pytest.approx(11, abs=0.1)


async def test_the_place_in_a_long_queue_is_not_counted_out(db: Connection) -> None:
    await enqueue_many(db, [item(f"AA{i}-1") for i in range(1002)], 200)
    answer = await enqueue(db)
    told = await why(db, answer["job_id"])
    assert (answer["wait_reason"], answer["eta"]) == ("rank", None)
    assert (told["detail"], told["eta"]) == ("more than 1000 jobs ahead", None)


async def test_budget_says_what_is_left_and_until_when(db: Connection) -> None:
    await limits(db, quota_hour=0)
    _, told = await asked(db, 200)
    assert told["waiting_for"] == "budget"
    assert "0 calls left for urgent work" in told["detail"]
    assert timedelta(0) < told["until"] - await now(db) <= timedelta(hours=1)
    assert told["eta"] is None  # with a quota of none there is no telling


async def test_a_spent_budget_names_the_start_of_the_next_window(db: Connection) -> None:
    await limits(db, quota_hour=2)
    for _ in range(2):
        await db.execute("select market_take('stockx', 'default', 200)")
    _, told = await asked(db, 200)
    ends = await value(db, "select window_end from market_budgets")
    assert (told["waiting_for"], told["until"], told["eta"]) == ("budget", ends, ends)


async def test_pace(db: Connection) -> None:
    await limits(db, pace_s=10)
    await db.execute("select market_take('stockx', 'default', 200)")
    _, told = await asked(db, 200)
    assert told["waiting_for"] == "pace"
    assert timedelta(seconds=8) < told["until"] - await now(db) < timedelta(seconds=11)


async def test_cooldown_of_the_lane_says_why(db: Connection) -> None:
    await db.execute("select market_report('stockx', 'default', 'throttled', 60, false, 'HTTP 429')")
    _, told = await asked(db, 200)
    assert told["waiting_for"] == "cooldown"
    assert told["detail"].startswith("the provider throttles us: HTTP 429")
    assert told["until"] == await value(
        db, "select circuit_until from market_providers where provider = 'stockx'"
    )


async def test_cooldown_of_the_target_names_its_last_error(db: Connection) -> None:
    await enqueue(db)
    await db.execute(
        "delete from market_jobs; update market_targets set retry_at = now() + interval '1 hour',"
        " last_error_code = 'unknown_sku', last_error_message = 'no such shoe'"
    )
    _, told = await asked(db)
    assert (told["state"], told["waiting_for"]) == ("deferred", "cooldown")
    assert told["detail"] == "the target cools down: unknown_sku: no such shoe"
    assert told["until"] == await value(db, "select retry_at from market_targets")


async def test_circuit(db: Connection) -> None:
    for _ in range(5):
        await db.execute("select market_report('stockx', 'default', 'errors', null, false, 'HTTP 503')")
    _, told = await asked(db, 200)
    assert (told["waiting_for"], told["detail"]) == ("circuit", "the provider fails: HTTP 503; next in line")


async def test_paused_names_the_operators_reason_and_no_time(db: Connection) -> None:
    await db.execute("select market_pause('stockx', 'stock taking')")
    _, told = await asked(db, 200)
    assert (told["waiting_for"], told["until"], told["eta"]) == ("paused", None, None)
    assert "paused by an operator: stock taking" in told["detail"]


async def test_off_gives_the_reason_of_the_configuration(db: Connection) -> None:
    await limits(db, enabled=False, off_reason="no credentials")
    _, told = await asked(db, 200)
    assert (told["waiting_for"], told["detail"]) == ("off", "no credentials")


async def test_not_before(db: Connection) -> None:
    due = await now(db) + timedelta(hours=1)
    answer, told = await asked(db, not_before=due)
    assert (told["waiting_for"], told["until"], told["eta"], answer["eta"]) == ("not_before", due, due, due)
    await db.execute(
        "update market_jobs set attempt = 2, error_code = 'timeout', retry_at = $1, not_before = null", due
    )
    told = await why(db, answer["job_id"])
    assert (told["waiting_for"], told["detail"]) == (
        "not_before",
        "attempt 2 of 5 failed (timeout); next try then",
    )


async def test_running_of_itself_and_of_a_fetch_of_the_same_product(db: Connection) -> None:
    answer, _ = await asked(db, size="9")
    await db.execute(
        "insert into market_fetches select unit_key, provider, account, sku, currency, gen_random_uuid(),"
        " now() + interval '1 minute', gen_random_uuid(), now() from market_jobs"
    )
    await db.execute(
        "update market_jobs set status = 'running', attempt = 1, lease_id = gen_random_uuid(),"
        " lease_expires_at = now() + interval '1 minute'"
    )
    told = await why(db, answer["job_id"])
    assert (told["state"], told["waiting_for"]) == ("running", "running")
    assert "attempt 1 of 5" in told["detail"]
    _, mate = await asked(db, size="10")
    assert (mate["state"], mate["waiting_for"]) == ("pending", "running")
    assert abs(mate["until"] - told["until"]) < timedelta(seconds=1)


async def test_no_daemon(db: Connection) -> None:
    await db.execute("update market_daemons set alive_until = now() - interval '1 second'")
    _, told = await asked(db, 200)
    assert (told["waiting_for"], told["eta"]) == ("no_daemon", None)
    assert told["detail"] == "no daemon is running: start marketd"


async def test_without_a_daemon_what_would_hold_the_job_next_is_told_too(db: Connection) -> None:
    await db.execute("update market_daemons set alive_until = now() - interval '1 second'")
    await db.execute("select market_pause('stockx', 'prices look odd')")
    _, told = await asked(db, 200)
    assert (told["waiting_for"], told["until"]) == ("no_daemon", None)
    assert told["detail"].endswith("start marketd; and then: paused by an operator: prices look odd")


async def test_nothing_of_a_finished_job_an_unknown_one_and_a_priced_item(db: Connection) -> None:
    job_id = (await enqueue(db))["job_id"]
    await db.execute(
        "update market_jobs set status = 'failed', error_code = 'unknown_sku', error_message = 'gone',"
        " completed_at = now()"
    )
    told = await why(db, job_id)
    assert (told["state"], told["waiting_for"], told["detail"]) == ("failed", "nothing", "unknown_sku: gone")
    assert (await why(db, 999))["state"] == "unknown"
    without = await db.fetchrow("select * from market_why(null::bigint)")
    assert (without["state"], without["waiting_for"]) == ("unknown", "nothing")
    assert "no job id was given" in without["detail"]


async def test_an_item_can_be_asked_about_by_its_own_words(db: Connection) -> None:
    async def ask(size: str = "10") -> Row:
        row = await db.fetchrow("select * from market_why('StockX', 'dd1391 100', $1)", size)
        assert row is not None
        return row

    assert (await ask())["state"] == "never_asked"
    await db.execute(
        "insert into market_prices (provider, sku, size, currency, observed_at, changed_at)"
        " values ('stockx', $1, '10', 'GBP', now(), now())",
        SKU,
    )
    assert (await ask())["state"] == "priced"
    await enqueue(db, size="11")
    assert ((await ask("11"))["state"], (await ask("11"))["waiting_for"]) == ("pending", "rank")
    with pytest.raises(asyncpg.InvalidParameterValueError, match="size"):
        await ask("huge")


@pytest.mark.parametrize("quota", [None, 10, 1])
async def test_etas_never_lie_in_the_past_and_grow_with_the_place(db: Connection, quota: int | None) -> None:
    await limits(db, quota_hour=quota, pace_s=1)
    etas = [(await enqueue(db, f"AA{i}-1", priority=p))["eta"] for p in (200, 100) for i in range(p, p + 15)]
    start = await now(db) - timedelta(seconds=5)
    assert all(eta > start for eta in etas)
    assert etas[:15] == sorted(etas[:15])
    assert etas[15:] == sorted(etas[15:])


# -------------------------------------------------------------------------------------------------------- views


async def _status(db: Connection, size: str = "10") -> Row:
    row = await db.fetchrow("select * from market_price_status where sku = $1 and size = $2", SKU, size)
    assert row is not None
    return row


async def test_price_status_tells_price_age_error_and_what_is_under_way(db: Connection) -> None:
    await enqueue(db)
    row = await _status(db)
    assert (row["state"], row["queued"], row["running"], row["observed_at"]) == ("queued", True, False, None)
    await db.execute(
        "delete from market_jobs; insert into market_prices (provider, sku, size, currency, lowest_ask, observed_at,"
        " changed_at) values ('stockx', $sku$DD1391-100$sku$, '10', 'GBP', 210, now() - interval '90 seconds', now())"
    )
    row = await _status(db)
    assert (row["state"], row["lowest_ask"], row["queued"]) == ("priced", 210, None)
    assert 89 < row["age_s"] < 120
    await db.execute(
        "update market_targets set last_error_at = now(), last_error_code = 'size_not_offered',"
        " last_error_message = 'm'"
    )
    assert (await _status(db))["state"] == "size_not_offered"
    await db.execute(
        "update market_targets set last_error_at = null; update market_prices set lowest_ask = null"
    )
    assert (await _status(db))["state"] == "no_asks"
    await limits(db, enabled=False)
    await db.execute("delete from market_prices")
    assert (await _status(db))["state"] == "account_not_connected"


async def test_price_status_says_that_an_account_is_not_connected_also_of_an_old_price(
    db: Connection,
) -> None:
    await enqueue(db)
    await db.execute(
        "insert into market_prices (provider, sku, size, currency, lowest_ask, observed_at, changed_at)"
        " values ('stockx', $sku$DD1391-100$sku$, '10', 'GBP', 210, now() - interval '1 day', now())"
    )
    await limits(db, enabled=False)
    assert (await _status(db))["state"] == "account_not_connected"


@pytest.mark.parametrize("code", ["server_error", "timeout", "connection"])
async def test_price_status_says_provider_down_of_what_failed_for_it(db: Connection, code: str) -> None:
    await enqueue(db)
    await db.execute("delete from market_jobs")
    await db.execute("update market_targets set last_error_at = now(), last_error_code = $1", code)
    row = await _status(db)
    assert (row["state"], row["last_error_code"]) == ("provider_down", code)


async def test_price_status_says_rate_limited_until_when(db: Connection) -> None:
    await enqueue(db)
    await db.execute("select market_report('stockx', 'default', 'throttled', 60)")
    row = await _status(db)
    assert (row["state"], row["rate_limited_until"] > await now(db)) == ("rate_limited", True)


async def test_queue_status_counts_by_band(db: Connection) -> None:
    for i, priority in enumerate((100, 100, 150, 200)):
        await enqueue(db, f"AA{i}-1", priority=priority)
    rows = await db.fetch("select band, jobs, oldest_ready_s from market_queue_status order by band")
    assert [(row["band"], row["jobs"]) for row in rows] == [("background", 2), ("hot", 1), ("manual", 1)]
    assert all(0 <= row["oldest_ready_s"] < 60 for row in rows)


async def test_budget_status_has_a_row_per_limited_window(db: Connection) -> None:
    await limits(db, quota_hour=100, quota_day=1000)
    await db.execute("select market_take('stockx', 'default', 200)")
    rows = await db.fetch(
        "select window_kind, quota, used, remaining, lane_state from market_budget_status order by window_kind desc"
    )
    assert [tuple(row) for row in rows] == [("hour", 100, 1, 99, "ready"), ("day", 1000, 1, 999, "ready")]


async def test_catalog_gives_the_best_name_and_image_or_a_fallback(db: Connection) -> None:
    await db.execute(
        "insert into market_products (provider, product_id, name, category, image_url) values"
        " ('stockx', 's', 'Panda', 'sneakers', null), ('alias', 'a', 'Dunk Low', 'shoes', 'https://i/x.png'),"
        " ('stockx', 't', 'Pikachu', 'trading_cards', null)"
    )
    await db.execute(
        "insert into market_skus (provider, sku, product_id) values ('stockx', 'DD1391-100', 's'),"
        " ('alias', 'DD1391-100', 'a'), ('stockx', 'name:pikachu', 't')"
    )
    await settings(db, fallback_images='{"trading_cards": "cards.svg", "default": "any.svg"}')
    rows = await db.fetch("select sku, name, image, image_is_fallback from market_catalog order by sku")
    assert [tuple(row) for row in rows] == [
        ("DD1391-100", "Panda", "https://i/x.png", False),
        ("name:pikachu", "Pikachu", "cards.svg", True),
    ]


async def test_the_old_name_of_the_stockx_prices_can_be_read(db: Connection) -> None:
    await db.execute(
        "insert into market_prices (provider, sku, size, currency, lowest_ask, observed_at, changed_at)"
        " values ('stockx', 'AA1-1', '10', 'GBP', 1, now(), now()), ('alias', 'AA1-1', '10', 'USD', 2, now(), now())"
    )
    assert [row["lowest_ask"] for row in await db.fetch("select * from stockx_market_prices")] == [1]
