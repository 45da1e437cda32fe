"""Who may do what: every role against every object and verb, and what row security lets a producer see."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from faults.kit import QUICK_JOBS, Connection, ask, ended, load
from harness import configured, running, until
from marketd import migrate
from marketd.cli import main
from marketd.cli.access import connected
from marketd.database import check_schema
from marketd.errors import DatabaseUnfit, SchemaError
from marketd.migrate import apply_roles
from marketd.sandbox import Sandbox
from marketd.store.sqlfile import queries
from queue_kit import opened

Login = Callable[..., Awaitable[Connection]]
SUPABASE = Path(__file__).resolve().parents[2] / "sql" / "supabase.sql"

ASKING = {
    "market_enqueue(text,text,text,integer,text,timestamp with time zone,text)",
    "market_enqueue_many(jsonb,integer,text)",
    "market_refresh(jsonb,text)",
    "market_watch(jsonb,text)",
    "market_unwatch(jsonb,text)",
    "market_viewed(jsonb,text)",
    "market_why(bigint)",
    "market_why(text,text,text,text)",
    "market__identity(text,name)",
    "market__trusted(name)",
}
READING = {
    "market_why(text,text,text,text)",
    "market__lane_state(market_providers)",
    "market__shown_quota(market_providers,text)",
    "market__shown_shares(market_providers,market_settings,text)",
    "market__shown_verdict(market_providers,market_settings,boolean)",
    "market__still(double precision,double precision,double precision)",
    "market__due_at(double precision,double precision,double precision,double precision,"
    "timestamp with time zone,double precision,timestamp with time zone)",
    "market__image_key(text)",
}
OPERATING = {
    "market_retry(text,text,bigint[])",
    "market_pause(text,text)",
    "market_resume(text)",
    "market_run_now()",
    "market_enrich(text,integer)",
    "market_plan(text,integer)",
}
PRICES = {
    "market_prices", "market_price_history", "market_products", "market_skus", "market_variants",
    "market_price_status", "market_catalog", "market_queue_status", "market_budget_status", "market_freshness",
    "stockx_market_prices",
}  # fmt: skip
DAEMON_WRITES = {
    "market_jobs", "market_job_requests", "market_fetches", "market_targets", "market_prices",
    "market_price_history", "market_products", "market_skus", "market_variants", "market_providers",
    "market_account_users", "market_daemons", "market_budgets", "market_grants", "market_requests", "market_job_runs",
    "market_provider_metrics", "market_signals", "market_units", "market_rates", "market_plans", "market_watches",
}  # fmt: skip
OWN = {"market_jobs", "market_job_requests"}
EVERYTHING = {"all of them"}
#: role -> verb -> objects; what is not here is not allowed
MAY: dict[str, dict[str, set[str]]] = {
    "market_producer": {"select": OWN, "insert": {"market_jobs"}, "execute": ASKING},
    "market_reader": {"select": PRICES, "execute": READING},
    "market_operator": {
        "select": EVERYTHING, "insert": {"market_jobs"}, "execute": ASKING | READING | OPERATING,
    },
    "market_daemon": {
        "select": EVERYTHING, "insert": DAEMON_WRITES, "update": DAEMON_WRITES | {"market_settings", "market_planner"},
        "delete": DAEMON_WRITES, "execute": EVERYTHING,
    },
    "nobody": {},
}  # fmt: skip


@pytest.fixture
async def login(db: Connection, database: str) -> AsyncIterator[Login]:
    """Opens connections of fresh logins that are members of the roles named; applies the roles first."""
    await apply_roles(database)
    made: list[tuple[str, Connection]] = []

    async def log_in(*roles: str, options: str = "") -> Connection:
        name, password = f"who_{secrets.token_hex(4)}", secrets.token_hex(8)
        members = f"in role {', '.join(roles)}" if roles else ""
        await db.execute(f"create role {name} login password '{password}' {options} {members}")
        await db.execute(f"grant usage on schema public to {name}")
        parts = urlsplit(database)
        place = parts.netloc.rpartition("@")[2]
        connection = await asyncpg.connect(
            f"{parts.scheme}://{name}:{password}@{place}{parts.path}?{parts.query}"
        )
        made.append((name, connection))
        return connection

    yield log_in
    for name, connection in made:
        await connection.close()
        await db.execute(f"drop owned by {name}; drop role {name}")


async def _user(connection: Connection) -> str:
    return str(await connection.fetchval("select session_user"))


async def _dsn(db: Connection, database: str, connection: Connection) -> str:
    """Of the same login, with a new password."""
    name, password = await _user(connection), secrets.token_hex(8)
    await db.execute(f"alter role {name} password '{password}'")
    parts = urlsplit(database)
    return f"{parts.scheme}://{name}:{password}@{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}"


@pytest.mark.parametrize("role", MAY)
async def test_a_role_may_do_what_is_written_here_and_nothing_else(
    db: Connection, login: Login, role: str
) -> None:
    connection = await (login() if role == "nobody" else login(role))
    tables = await connection.fetch("""
        select c.relname as name, v.verb from pg_class c
          cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) v(verb)
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
           and (has_table_privilege(c.oid, v.verb)
                or v.verb in ('select', 'insert', 'update', 'references')
                   and has_any_column_privilege(c.oid, v.verb))""")
    functions = await connection.fetch("""
        select p.oid::regprocedure::text as name from pg_proc p
         where p.pronamespace = 'public'::regnamespace and has_function_privilege(p.oid, 'execute')""")
    public = "'public'::regnamespace"
    everything = {
        verb: {row["name"] for row in await db.fetch(query)}
        for verb, query in (
            ("execute", f"select oid::regprocedure::text as name from pg_proc where pronamespace = {public}"),
            (
                "select",
                f"select relname as name from pg_class where relnamespace = {public} and relkind in ('r', 'v')",
            ),
        )
    }
    found: dict[str, set[str]] = {"execute": {row["name"] for row in functions}}
    for row in tables:
        found.setdefault(row["verb"], set()).add(row["name"])
    expected = {
        verb: everything[verb] if objects is EVERYTHING else objects for verb, objects in MAY[role].items()
    }
    assert {verb: names for verb, names in found.items() if names} == expected
    assert not await connection.fetchval("select has_schema_privilege('public', 'create')")


async def test_every_function_with_its_owners_rights_has_a_fixed_search_path(db: Connection) -> None:
    loose = await db.fetch("""
        select oid::regprocedure::text as name from pg_proc
         where prosecdef and pronamespace = 'public'::regnamespace
           and not coalesce('search_path=pg_catalog, public, pg_temp' = any (proconfig), false)""")
    assert loose == []


async def test_the_roles_may_be_applied_again_and_again(db: Connection, database: str) -> None:
    for _ in range(3):
        await apply_roles(database)
    assert await db.fetchval("select count(*) from pg_policy where polrelid = 'market_jobs'::regclass") == 4


async def test_applying_the_roles_gives_way_to_an_app_that_idles_in_a_transaction(
    db: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row security wants the whole table, and while it waits for that every other app waits behind it."""
    monkeypatch.setattr(migrate, "_LOCK_TIMEOUT", "set local lock_timeout = '50ms'")
    async with db.transaction():
        await db.fetch("select * from market_jobs")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await asyncio.wait_for(apply_roles(database), 10)


async def test_a_producer_sees_its_own_jobs_and_those_that_it_joined_and_no_others(
    db: Connection, login: Login
) -> None:
    ann, bob = await login("market_producer"), await login("market_producer")
    hers = await ask(ann, "stockx", "AA1-1", "10")
    his = await ask(bob, "stockx", "BB1-1", "10")
    shared = await ask(ann, "stockx", "CC1-1", "10")
    assert await ask(bob, "stockx", "CC1-1", "10") == shared

    async def seen(connection: Connection) -> tuple[set[int], set[str]]:
        jobs = await connection.fetch("select id from market_jobs")
        users = await connection.fetch("select user_id from market_job_requests")
        return {row["id"] for row in jobs}, {row["user_id"] for row in users}

    assert await seen(ann) == ({hers, shared}, {await _user(ann)})
    assert await seen(bob) == ({his, shared}, {await _user(bob)})
    opener = await bob.fetchval("select user_id from market_jobs where id = $1", shared)
    assert opener == await _user(ann), "docs/INTEGRATION.md says so"
    await db.execute("revoke select on market_jobs from market_producer")
    assert await ask(bob, "stockx", "CC1-1", "10") == shared, "and that asking does not need it"
    assert (await bob.fetchrow("select * from market_why($1::bigint)", shared))["state"] == "pending"
    assert (await bob.fetchrow("select * from market_why($1::bigint)", hers))["state"] == "unknown"
    by_item = await bob.fetchrow("select * from market_why('stockx', 'AA1-1', '10')")
    assert by_item["state"] == "pending", "of an item everybody may know what it waits for"


async def test_a_look_at_one_job_costs_a_producer_no_walk_through_all_requests(
    db: Connection, login: Login
) -> None:
    ann, bob = await login("market_producer"), await login("market_producer")
    hers = await ask(ann, "stockx", "AA1-1", "10")
    await db.execute(
        "insert into market_job_requests (job_id, user_id, priority)"
        " select $1 + i, $2, 100 from generate_series(1, 100000) i",
        hers, await _user(ann),
    )  # fmt: skip
    await db.execute("analyze market_job_requests")
    await bob.fetch("select id from market_jobs")  # a session reads the catalogue once
    explained = await bob.fetchval(
        f"explain (analyze, buffers, format json) select * from market_jobs where id = {hers}"
    )
    plan = json.loads(explained)[0]["Plan"]
    assert plan["Actual Rows"] == 0, "it is not his"
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 50, explained


async def test_rights_hold_whatever_the_search_path_of_who_asks(db: Connection, login: Login) -> None:
    ann, reader = await login("market_producer"), await login("market_reader")
    for connection in (ann, reader):
        await connection.execute("set search_path = ''")
    hers = await ann.fetchval("select job_id from public.market_enqueue('stockx', 'AA1-1', '10')")
    await ann.execute("insert into public.market_jobs (provider, sku, size) values ('stockx', 'BB1-1', '10')")
    await ask(db, "stockx", "CC1-1", "10")
    assert hers in [row["id"] for row in await ann.fetch("select id from public.market_jobs")]
    assert await ann.fetchval("select count(*) from public.market_job_requests") == 2
    assert (await ann.fetchrow("select * from public.market_why($1::bigint)", hers))["state"] == "pending"
    for name in sorted(PRICES):
        await reader.fetch(f"select * from public.{name}")


async def test_a_plain_insert_of_a_producer_is_signed_and_returned_to_it(
    db: Connection, login: Login
) -> None:
    ann = await login("market_producer")
    row = await ann.fetchrow(
        "insert into market_jobs (provider, sku, size, dedupe_key, status)"
        " values ('stockx', 'AA1-1', '10', 'x', 'done') returning id, user_id, status, dedupe_key"
    )
    assert (row["user_id"], row["status"]) == (await _user(ann), "pending")
    assert row["dedupe_key"] == "stockx|default|AA1-1|GBP|10"
    assert await ann.execute("insert into market_jobs (provider, sku, size) values ('stockx', 'AA1-1', '10')")
    assert await ann.fetchval("select count(*) from market_job_requests") == 2


@pytest.mark.parametrize(
    "statement",
    [
        "update market_jobs set priority = 1000",
        "delete from market_jobs",
        "truncate market_jobs",
        "insert into market_jobs (provider, sku, size, account) values ('stockx', 'AA1-1', '10', 'other')",
        "insert into market_jobs (provider, sku, size, unit_key) values ('stockx', 'AA1-1', '10', 'mine')",
        "insert into market_jobs (provider, sku, size, lease_id) values ('stockx', 'AA1-1', '10', gen_random_uuid())",
        "insert into market_job_requests (job_id, priority) values (1, 1000)",
        "update market_budgets set used = 0",
        "select * from market_budgets",
        "select * from market_providers",
        "update market_providers set quota_hour = 1000000",
        "select * from market_prices",
        "update market_prices set lowest_ask = 1",
        "select * from market_dead_letters",
        "select * from market_watches",
        "select * from market_take('stockx', 'default', 200)",
        "select market_give_back('stockx;default;0;hour=0')",
        "select * from market_report('stockx', 'default', 'unauthorized')",
        "select * from market_pause('stockx')",
        "select * from market_resume('stockx')",
        "select market_retry()",
        "select market_run_now()",
        "alter table market_jobs disable row level security",
        "drop function market_run_now()",
        "create table public.mine (n int)",
        "create function public.market__upper(x varchar) returns text language sql as 'select null::text'",
    ],
)
async def test_a_producer_is_refused_whatever_is_not_asking(login: Login, statement: str) -> None:
    ann = await login("market_producer")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await ann.fetch(statement)


async def test_nobody_asks_in_another_name_but_operators_and_the_owner(db: Connection, login: Login) -> None:
    ann, boss = await login("market_producer"), await login("market_operator")
    me = await _user(ann)
    items = json.dumps([{"provider": "stockx", "sku": "AA1-1", "size": "10"}])
    in_bobs_name = [
        ("select * from market_enqueue('stockx', 'AA1-1', '10', user_id => 'bob')", ()),
        ("select * from market_enqueue_many($1::jsonb, user_id => 'bob')", (items,)),
        ("select * from market_refresh($1::jsonb, 'bob')", (items,)),
        ("select * from market_watch($1::jsonb, 'bob')", (items,)),
        ("select * from market_unwatch($1::jsonb, 'bob')", (items,)),
        ("select * from market_viewed($1::jsonb, 'bob')", (items,)),
        (
            "insert into market_jobs (provider, sku, size, user_id) values ('stockx', 'AA1-1', '10', 'bob')",
            (),
        ),
    ]
    for statement, arguments in in_bobs_name:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="'bob' is not yours") as refused:
            await ann.fetch(statement, *arguments)
        assert "market_operator" in str(refused.value.hint)
    assert await db.fetchval("select count(*) from market_jobs") == 0
    await ann.fetch("select * from market_enqueue('stockx', 'AA1-1', '10', user_id => $1)", me)
    for connection in (boss, db):
        for statement, arguments in in_bobs_name:
            await connection.fetch(statement, *arguments)
    users = await db.fetch("select distinct user_id from market_job_requests")
    assert {row["user_id"] for row in users} == {me, "bob"}


async def test_a_server_that_asks_for_many_names_each_by_the_setting(db: Connection, login: Login) -> None:
    shop = await login("market_producer")
    for user in ("ann", "bob"):
        async with shop.transaction():
            await shop.execute("select set_config('marketd.user_id', $1, true)", user)
            await ask(shop, "stockx", f"{user.upper()}-1", "10")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with shop.transaction():
                    await shop.fetch(
                        "select * from market_enqueue('stockx', 'X-1', '10', user_id => $1)", "somebody else"
                    )
            assert await shop.fetchval("select count(*) from market_jobs") == 1
    assert await shop.fetchval("select count(*) from market_jobs") == 0, "the login itself asked for nothing"


@pytest.mark.parametrize("claims", ["not json", '{"sub": ', "\\u0000"])
async def test_claims_that_are_no_json_are_refused_in_words(login: Login, claims: str) -> None:
    ann = await login("market_producer")
    await ann.execute("select set_config('request.jwt.claims', $1, false)", claims)
    with pytest.raises(asyncpg.InvalidParameterValueError, match=r"request\.jwt\.claims is not JSON"):
        await ask(ann, "stockx", "AA1-1", "10")


async def test_why_tells_a_daemons_login_of_every_job_and_a_producers_of_its_own(
    db: Connection, login: Login
) -> None:
    job = await ask(db, "stockx", "AA1-1", "10")
    why = "select state, detail from market_why($1::bigint)"
    worker, shop = await login("market_daemon"), await login("market_producer")
    assert (await worker.fetchrow(why, job))["state"] == "pending"
    told = await shop.fetchrow(why, job)
    assert (told["state"], told["detail"]) == (
        "unknown",
        f"no job {job} that you may see: finished jobs are pruned after some days, others' jobs are not shown",
    )


async def test_an_item_of_somebody_elses_is_refused_and_the_others_are_asked(db: Connection) -> None:
    items = [
        {"provider": "stockx", "sku": f"AA{n}-1", "user_id": user}
        for n, user in enumerate(["ann", "bob", None])
    ]
    rows = await db.fetch(
        "select result, error_message from market_enqueue_many($1, user_id => 'ann') order by ord",
        json.dumps(items),
    )
    assert [row["result"] for row in rows] == ["queued", "refused", "queued"]
    assert rows[1]["error_message"] == "user_id 'bob' is not that of the call"


async def test_a_daemons_login_without_its_role_is_told_which_to_grant(
    db: Connection, login: Login, database: str
) -> None:
    daemon = await login()
    dsn = await _dsn(db, database, daemon)
    what = r"permission denied for \w+ market_\w+; .*`grant market_daemon to .*marketd migrate --roles"
    with pytest.raises(SchemaError, match="`grant market_daemon to"):
        await check_schema(dsn, pooled=False)
    async with opened(dsn) as pool:
        for statement in ("select count(*) from market_jobs", "select market_reopen()"):
            with pytest.raises(DatabaseUnfit, match=what):
                await pool.fetch(statement)
    await db.execute(f"grant market_daemon to {await _user(daemon)}")
    await check_schema(dsn, pooled=False)


async def test_a_login_that_may_not_look_into_the_schema_is_not_told_to_migrate(
    db: Connection, login: Login, database: str
) -> None:
    daemon = await login()
    await db.execute("revoke usage on schema public from public")
    await db.execute(f"revoke usage on schema public from {await _user(daemon)}")
    dsn = await _dsn(db, database, daemon)
    for pooled in (False, True):
        with pytest.raises(SchemaError, match=r"no right to the schema public.*market_daemon"):
            await check_schema(dsn, pooled=pooled)
        with pytest.raises(SchemaError, match=r"no right to the schema public.*market_operator"):
            async with connected(dsn, pooled=pooled):
                pass


async def test_a_reader_reads_every_view_that_is_his(db: Connection, login: Login) -> None:
    reader = await login("market_reader")
    await ask(db, "stockx", "AA1-1", "10")
    for name in sorted(PRICES):
        await reader.fetch(f"select * from {name}")
    assert await reader.fetchval("select count(*) from market_price_status") == 1
    assert await reader.fetchval("select sum(jobs) from market_queue_status") == 1
    hourly = "select quota from market_budget_status where provider = 'stockx' and window_kind = 'hour'"
    assert await reader.fetchval(hourly) == 100
    columns = await db.fetch(
        "select table_name from information_schema.columns where column_name = 'user_id' and table_name = any ($1)",
        list(PRICES),
    )
    assert columns == [], "nothing that a reader reads names a user"


async def test_an_operator_does_all_that_the_command_line_does(db: Connection, login: Login) -> None:
    boss = await login("market_operator")
    job = await ask(db, "stockx", "AA1-1", "10")
    arguments: dict[str, tuple[Any, ...]] = {
        "jobs": (None, None, None, None, None, 50, False),
        "why_job": (job,),
        "why_item": ("stockx", "AA1-1", "10", None),
        "enqueue": ("stockx", "BB1-1", "10", 200, "ann", None, None, None),
        "not_failed": ([job],),
        "retry": (None, None, None),
        "pause": ("stockx", "to see"),
        "resume": ("stockx",),
    }
    for name, statement in queries("cli").items():
        await boss.fetch(statement, *arguments.get(name, ()))
    for statement in ("select market_run_now()", "select market_enrich()", "select * from market_plan()",
                      "select * from market_dead_letters", "select * from market_request_audit"):  # fmt: skip
        await boss.fetch(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await boss.execute("update market_budgets set used = 0")


async def test_a_daemon_that_owns_nothing_does_its_whole_work(
    db: Connection, login: Login, database: str, tmp_path: Path
) -> None:
    worker = await login("market_daemon")
    dsn = await _dsn(db, database, worker)
    async with Sandbox(seed=7, products=20, limits={"*": None}) as sandbox:
        items = [
            {**item, "provider": p} for p in ("stockx", "alias") for item in load(sandbox, 3, provider=p)
        ]
        await db.fetch("select * from market_watch($1::jsonb)", json.dumps(items[:2]))
        quick = {**QUICK_JOBS, "keep_finished": "1s", "keep_requests": "1s"}
        async with running(
            configured(dsn, sandbox, tmp_path, providers=("stockx", "alias", "ebay"), jobs=quick)
        ) as app:
            ids = [await ask(db, item["provider"], item["sku"], item["size"]) for item in items]
            ids.append(await ask(db, "stockx", "NONE-1", "9"))
            rows = await ended(db, ids)
            await db.execute("select market_run_now()")
            passes = "select count(*) from market_job_runs where completed_at is not null and error is null"
            await until(lambda: db.fetchval(f"select ({passes}) >= 2"), what="two passes without an error")
            assert app.dsn == dsn
    assert sorted(row["status"] for row in rows.values()) == ["done"] * 6 + ["failed"]
    failed = await db.fetch("select error from market_job_runs where error is not null")
    assert failed == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await worker.execute("alter table market_jobs add column n int")


@pytest.fixture
async def api(db: Connection, database: str) -> AsyncIterator[Callable[..., Awaitable[Connection]]]:
    """A session as PostgREST opens it, on a database with Supabase's roles and its open-handed defaults."""
    for role in ("anon", "authenticated", "service_role"):
        if not await db.fetchval("select to_regrole($1)", role):
            await db.execute(f"create role {role} nologin noinherit")
    if not await db.fetchval("select to_regrole('authenticator')"):
        await db.execute("create role authenticator login noinherit password 'pgrst'")
    await db.execute("grant anon, authenticated, service_role to authenticator")
    await db.execute("grant all on all tables in schema public to anon, authenticated, service_role")
    await db.execute("grant all on all functions in schema public to anon, authenticated, service_role")
    await db.execute("grant all on all sequences in schema public to anon, authenticated, service_role")
    await db.execute("grant usage on schema public to anon, authenticated, service_role")
    await apply_roles(database)
    await db.execute(SUPABASE.read_text())
    parts = urlsplit(database)
    opened: list[Connection] = []

    async def session(role: str, sub: str | None = None) -> Connection:
        place = parts.netloc.rpartition("@")[2]
        connection = await asyncpg.connect(
            f"{parts.scheme}://authenticator:pgrst@{place}{parts.path}?{parts.query}"
        )
        opened.append(connection)
        await connection.execute(f"set role {role}")
        claims = json.dumps({"role": role, **({"sub": sub} if sub else {})})
        await connection.execute("select set_config('request.jwt.claims', $1, false)", claims)
        return connection

    yield session
    for connection in opened:
        await connection.close()


async def test_supabase_users_ask_as_themselves_and_see_their_own(
    db: Connection, api: Callable[..., Awaitable[Connection]]
) -> None:
    ann, bob = await api("authenticated", "ann"), await api("authenticated", "bob")
    hers, his = await ask(ann, "stockx", "AA1-1", "10"), await ask(bob, "stockx", "BB1-1", "10")
    assert [row["id"] for row in await ann.fetch("select id from market_jobs")] == [hers]
    assert [row["id"] for row in await bob.fetch("select id from market_jobs")] == [his]
    assert await ann.fetchval("select count(*) from market_price_status") == 2
    await ann.execute("insert into market_jobs (provider, sku, size) values ('stockx', 'DD1-1', '9')")
    assert await ann.fetchval("select count(*) from market_jobs where user_id = 'ann'") == 2
    for refused in ("select * from market_enqueue('stockx', 'X-1', '1', user_id => 'bob')",
                    "update market_jobs set priority = 1000", "select * from market_budgets",
                    "select * from market_pause('stockx')", "select * from market_targets"):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await ann.fetch(refused)


async def test_tokens_that_name_nobody_ask_for_nobody_and_see_nobodys_jobs(
    api: Callable[..., Awaitable[Connection]],
) -> None:
    nameless, server = await api("authenticated"), await api("service_role")
    assert await ask(server, "stockx", "AA1-1", "10")
    for refused in ("select * from market_enqueue('stockx', 'AA1-1', '10')", "select * from market_jobs"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="the JWT has no sub"):
            await nameless.fetch(refused)


async def test_supabase_gives_nothing_to_who_is_not_signed_in(
    api: Callable[..., Awaitable[Connection]],
) -> None:
    nobody = await api("anon")
    rights = await nobody.fetch("""
        select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')
           and (has_any_column_privilege(oid, 'select, insert, update') or has_table_privilege(oid, 'delete, truncate'))
        union all
        select oid::regprocedure::text from pg_proc
         where pronamespace = 'public'::regnamespace and has_function_privilege(oid, 'execute')""")
    assert rights == []


async def test_migrate_warns_until_supabases_default_rights_are_taken_away(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(f"database: {{dsn: '{empty_database}'}}\n")
    connection = await asyncpg.connect(empty_database)

    async def warnings() -> str:
        assert await asyncio.to_thread(main, ["migrate", "--roles"]) == 0
        return capsys.readouterr().err

    for role in ("anon", "authenticated", "service_role"):
        if not await connection.fetchval("select to_regrole($1)", role):
            await connection.execute(f"create role {role} nologin noinherit")
        for kind in ("tables", "functions", "sequences"):
            await connection.execute(
                f"alter default privileges in schema public grant all on {kind} to {role}"
            )
    told = await warnings()
    assert told.startswith("warning: anon, whom anybody may be, has rights on market__")
    assert "sql/supabase.sql" in told
    await connection.execute(SUPABASE.read_text())
    assert await warnings() == ""
    await connection.execute("grant select on market_prices to public")
    assert await asyncio.to_thread(main, ["migrate"]) == 0
    assert (
        "everybody who may log in has rights on market_prices: `marketd migrate --roles`"
        in capsys.readouterr().err
    )
    assert await warnings() == ""
    await connection.close()


async def test_supabases_service_role_asks_for_anybody_and_operates(
    db: Connection, api: Callable[..., Awaitable[Connection]]
) -> None:
    server = await api("service_role")
    await server.fetch("select * from market_enqueue('stockx', 'AA1-1', '10', user_id => 'ann')")
    assert await server.fetchval("select user_id from market_jobs") == "ann"
    assert (await server.fetchrow("select * from market_pause('stockx', 'maintenance')"))["state"] == "paused"
    await server.fetch("select * from market_dead_letters")
