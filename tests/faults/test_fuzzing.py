"""Nonsense at every door: SQL functions, plain INSERT, notifications, command line, configuration.

What comes back is a right result or a clear refusal; never a crash, a traceback, or a job that no worker could end.
`MARKETD_FUZZ` says how many of each (the suite tries a few, `make soak` 10,000), `MARKETD_SEED` which.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import yaml

from faults.kit import QUICK_JOBS, Connection, ask, broken, ended, load
from harness import configured, running, until
from marketd import wiring
from marketd.cli import main
from marketd.config import ProviderTypes
from marketd.config import load as load_config
from marketd.errors import ConfigError
from marketd.outcome import Failed
from marketd.sandbox import Sandbox
from marketd.store.jobs import JobStore
from marketd.store.pool import Database
from queue_kit import plenty

MANY = int(os.environ.get("MARKETD_FUZZ", "40"))
SEED = os.environ.get("MARKETD_SEED", "1")
ROOT = Path(__file__).resolve().parents[2]
#: what a door may say to nonsense: a bad argument, text that Postgres itself cannot hold, a name that is not yours
REFUSALS = {"22023", "22021", "42501"}
TEXTS = (
    *(
        "",
        " ",
        "stockx",
        "alias",
        "ebay",
        "STOCKX",
        "goat",
        "DD1391-100",
        "id:abc",
        "id:",
        "name:Charizard PSA 10",
    ),
    *(
        "name:a",
        "10",
        "10.5",
        "7.5W",
        "UK 9",
        "EU 42 2/3",
        "EU 42 3/3",
        "PSA 10",
        "ONE SIZE",
        "999",
        "-1",
        "1e309",
    ),
    *(
        "NaN",
        "GBP",
        "usd",
        "£££",
        "x" * 65,
        "y" * 5000,
        "'; drop table market_jobs; --",
        "$1",
        "%s",
        "\\",
        "\x00",
    ),
    *(
        "\x01",
        "\u202e",
        "ß",
        "İ",
        "🥿",
        "a\nb",
        "null",
        "{}",
        "[]",
        '{"a":1}',
        "|",
        "a|b|c",
        "../../etc/passwd",
    ),
    *(
        "default",
        "run",
        "stockx;default;0;hour=0",
        "hour",
        "calls",
        "mints",
        "ok",
        "throttled",
        "unauthorized",
    ),
    *("errors", "infinity", "10" * 40),
)
NUMBERS = (0, 1, -1, 2, 49, 100, 150, 200, 999, 1000, 1001, 2**31 - 1, -(2**31))
FLOATS = (0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf"), 0.5, 3600.0)
#: as Postgres writes them, for its range is wider than Python's
TIMES = (
    "2026-01-01 00:00+00", "1934-09-25 00:00+00", "0001-01-02 00:00+00", "9999-12-30 00:00+00", "infinity", "-infinity",
    "294276-12-31 00:00+00", "4714-11-24 00:00:00+00 BC", "2026-10-25 01:30:00 Europe/London", "epoch",
    "now", "tomorrow",
)  # fmt: skip
INTERVALS = (
    "0",
    "-1 day",
    "5 s",
    "1000000000 s",
    "178000000 years",
    "-178000000 years",
    "1 month -1 day",
    "1 us",
)
#: texts that jsonb takes although they are nothing like items, or that only look like numbers in Python
ODD_JSON = (
    "1e309", "-1e30", "[1e309]", "[" * 200 + "]" * 200, '{"provider": ' * 50 + "1" + "}" * 50, "[" + "0," * 5000 + "0]",
    '[{"provider": "stockx", "sku": "AA1-1", "not_before": "-1e30"}, {"provider": "ebay", "sku": "A1", "size": 1e309}]',
    '[{"provider": "stockx", "sku": "AA1-1", "sku": "BB1-1"}]', '["\\u0000"]', '["\\ud800"]', "[1e400000]", "[NaN]",
    "",
)  # fmt: skip


class Nonsense:
    """Values of every type, drawn from a seed; `None` among them."""

    def __init__(self, name: str) -> None:
        self.dice = random.Random(f"{SEED} {name}")

    def text(self) -> str:
        if self.dice.random() < 0.8:
            return self.dice.choice(TEXTS)
        return "".join(chr(self.dice.choice((self.dice.randrange(1, 127), self.dice.randrange(160, 0xD7FF))))
                       for _ in range(self.dice.randrange(1, 30)))  # fmt: skip

    def json(self, depth: int = 0) -> Any:
        dice = self.dice
        kind = dice.randrange(9 if depth < 3 else 5)
        if kind < 5:
            return (None, True, dice.choice(NUMBERS), dice.choice((0.1, -1e30, 10.5)), self.text())[kind]
        if kind == 5:
            return [self.json(depth + 1) for _ in range(dice.randrange(4))]
        if kind == 6:
            keys = (
                "provider",
                "sku",
                "size",
                "currency",
                "priority",
                "not_before",
                "user_id",
                "views",
                self.text(),
            )
            return {key: self.json(depth + 1) for key in dice.sample(keys, dice.randrange(6))}
        return {"provider": dice.choice(("stockx", "alias", "ebay")), "sku": self.text(), "size": self.text()}

    def items(self) -> Any:
        return (
            [self.json(1) for _ in range(self.dice.randrange(6))] if self.dice.random() < 0.8 else self.json()
        )

    def of(self, kind: str) -> Any:
        """A value of a Postgres type as `_hole` takes it; None for a row of ours, which only others of ours give."""
        dice = self.dice
        if dice.random() < 0.15:
            return None
        if kind.endswith("[]"):
            return [self.of(kind[:-2]) for _ in range(dice.randrange(4))]
        draw: dict[str, Callable[[], Any]] = {
            "text": self.text,
            "integer": lambda: dice.choice(NUMBERS),
            "bigint": lambda: dice.choice((*NUMBERS, 2**63 - 1, -(2**63))),
            "double precision": lambda: dice.choice(FLOATS),
            "boolean": lambda: dice.random() < 0.5,
            "timestamp with time zone": lambda: dice.choice(TIMES),
            "interval": lambda: dice.choice(INTERVALS),
            "jsonb": lambda: dice.choice(ODD_JSON) if dice.random() < 0.1 else json.dumps(self.items()),
            "uuid": uuid4,
        }
        return draw.get(kind, lambda: None)()


def _hole(number: int, kind: str) -> str:
    """A parameter of that type; times go as text, since Python's own types hold only a part of them."""
    as_text = kind.startswith(("timestamp", "interval"))
    return (
        f"${number}{'::text[]' if as_text and kind.endswith('[]') else '::text' if as_text else ''}::{kind}"
    )


def _refused(error: asyncpg.PostgresError, internal: bool, *told: Any) -> str:
    """Checks that it is a clear refusal; functions that only the daemon calls may also trip over bad data."""
    known = error.sqlstate in REFUSALS or (internal and error.sqlstate[:2] in ("22", "23"))
    assert known, (error.sqlstate, str(error), *told)
    assert str(error).strip(), told
    return f"refused {error.sqlstate}"


async def _functions(db: Connection) -> list[tuple[str, str, list[str]]]:
    """Name, call and types of every function that is ours and no trigger."""
    rows = await db.fetch("""
        select p.oid::regprocedure::text as name, p.proname,
               array(select format_type(t, null) from unnest(p.proargtypes) with ordinality u(t, n) order by n) as types
          from pg_proc p
         where p.pronamespace = 'public'::regnamespace and p.proname like 'market\\_%'
           and p.prorettype <> 'trigger'::regtype order by 1""")
    found = []
    for row in rows:
        holes = ", ".join(_hole(n, kind) for n, kind in enumerate(row["types"], 1))
        found.append((row["name"], f"select x::text from {row['proname']}({holes}) x", list(row["types"])))
    return found


async def _all_json(db: Connection, types: Sequence[str], values: Sequence[Any]) -> bool:
    """Whether jsonb itself takes what a function is given as such; what it refuses never gets to the function."""
    for kind, value in zip(types, values, strict=True):
        if kind == "jsonb":
            try:
                await db.fetchval("select $1::jsonb is null", value)
            except asyncpg.PostgresError:
                return False
    return True


async def _every_open_job_can_end(db: Connection, database: str) -> None:
    """Claimed and settled by an ordinary worker, once their time has come; else one would be stuck."""
    await plenty(db)
    await db.execute("""
        update market_providers set enabled = true, off_reason = null, paused_at = null, circuit = 'closed',
          circuit_reason = null, circuit_until = null, circuit_failures = 0, next_request_at = '-infinity';
        update market_jobs set run_at = now() where status = 'deferred'
          -- What was opened at a moment that no clock will ever tell, by a function that is given the present.
          or status = 'pending' and run_at not between '0001-01-02' and '9999-12-30'""")
    pool = Database(database, size=2, timeout_s=10)
    await pool.open()
    try:
        jobs = JobStore(pool, uuid4())
        no = Failed(error_code="unknown_sku", message="not there", cooldown=timedelta(0))
        idle = 0
        while idle < 3:
            await jobs.poll(timedelta(minutes=1))
            units = [
                unit
                for provider in ("stockx", "alias", "ebay")
                for unit in await jobs.claim(provider, "default", units=50, lease=timedelta(minutes=1))
            ]
            for unit in units:
                await jobs.settle(unit, [(job, no) for job in unit.jobs])
            idle = 0 if units else idle + 1
    finally:
        await pool.close()
    left = await db.fetch("select * from market_jobs where status in ('pending', 'running', 'deferred')")
    assert left == []
    assert await broken(db) == {}


@pytest.mark.timeout(7200)
async def test_every_sql_function_answers_or_refuses(db: Connection, database: str) -> None:
    told: Counter[str] = Counter()
    defined = await db.fetch("""
        select oid::regprocedure::text as name from pg_proc
         where prosecdef and pronamespace = 'public'::regnamespace and proname not like 'market\\_\\_%'""")
    public = {row["name"] for row in defined}
    for name, call, types in await _functions(db):
        nonsense, statement = Nonsense(name), await db.prepare(call)
        for number in range(MANY if types else 3):
            values = [nonsense.of(kind) for kind in types]
            try:
                await statement.fetch(*values, timeout=20)
                told["answered"] += 1
            except asyncpg.PostgresError as error:
                if await _all_json(db, types, values):
                    told[_refused(error, name not in public, name, number, values)] += 1
                else:
                    told["no JSON for Postgres"] += 1
        assert await db.fetchval("select 1") == 1, name
    print(f"\nSQL functions: {dict(told)}")
    assert len(public) >= 13
    await _every_open_job_can_end(db, database)


COLUMNS = {
    "provider": "text", "account": "text", "sku": "text", "size": "text", "currency": "text", "priority": "integer",
    "status": "text", "not_before": "timestamp with time zone", "retry_at": "timestamp with time zone",
    "run_at": "timestamp with time zone", "rank": "double precision", "turn": "bigint", "attempt": "integer",
    "max_attempts": "integer", "rescues": "integer", "suspect_since": "timestamp with time zone", "lead": "boolean",
    "lease_id": "uuid", "lease_expires_at": "timestamp with time zone", "locked_by": "uuid", "user_id": "text",
    "error_code": "text", "error_message": "text", "outcome": "text", "overridden_at": "timestamp with time zone",
    "created_at": "timestamp with time zone", "started_at": "timestamp with time zone",
    "completed_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "dedupe_key": "text",
}  # fmt: skip


@pytest.mark.timeout(7200)
async def test_every_plain_insert_is_taken_or_refused(db: Connection, database: str) -> None:
    columns = {row["column_name"] for row in await db.fetch(
        "select column_name from information_schema.columns where table_name = 'market_jobs'")}  # fmt: skip
    assert columns - {"id", "unit_key"} == set(COLUMNS), "a new column wants nonsense, too"
    nonsense, told = Nonsense("insert"), Counter[str]()
    for number in range(MANY * 5):
        names = nonsense.dice.sample(sorted(COLUMNS), nonsense.dice.randrange(1, 12))
        row = {name: nonsense.of(COLUMNS[name]) for name in names}
        row |= {"provider": "stockx", "sku": f"ZZ{number}-1", "account": "default"} if number % 2 else {}
        holes = ", ".join(_hole(n, COLUMNS[name]) for n, name in enumerate(row, 1))
        try:
            await db.execute(f"insert into market_jobs ({', '.join(row)}) values ({holes})", *row.values())
            told["taken"] += 1
        except asyncpg.PostgresError as error:
            told[_refused(error, False, row)] += 1
    print(f"\nplain INSERT: {dict(told)}")
    assert told["taken"] > 0
    await _every_open_job_can_end(db, database)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, products=10, limits={"*": None}) as server:
        yield server


@pytest.mark.timeout(7200)
async def test_notifications_of_any_form_disturb_nobody(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    nonsense = Nonsense("notify")
    async with running(configured(database, sandbox, tmp_path, jobs=QUICK_JOBS)) as app:
        listening = lambda: asyncio.sleep(0, b"marketd_listener_connected 1.0" in app.metrics.render()[0])  # noqa: E731
        await until(listening, what="the listener")
        for _ in range(MANY * 5):
            payload = nonsense.text().replace("\x00", "")[: nonsense.dice.choice((10, 7000))]
            await db.execute(
                "select pg_notify('market_jobs', $1)", payload.encode()[:7900].decode(errors="ignore")
            )
        job = await ask(db, "stockx", load(sandbox, 1)[0]["sku"], None)
        assert (await ended(db, [job]))[job]["status"] == "done"
        assert b"marketd_notifications_ignored_total 0.0" not in app.metrics.render()[0]


#: those that end by themselves, `run` for want of a file; `demo`, `sandbox` and `status --live` would stay
QUICK = tuple(
    [
        "run",
        "tick",
        "migrate",
        "auth",
        "check-config",
        "enqueue",
        "watch",
        "unwatch",
        "plan",
        "status",
        "why",
        "jobs",
        "retry",
        "pause",
        "resume",
        "version",
    ]
)
WORDS = (
    *QUICK,
    *[
        "--json",
        "--config",
        "--provider",
        "--error",
        "--priority",
        "--user",
        "--size",
        "--currency",
        "--help",
        "--limit",
        "--state",
        "--older",
    ],
    *[
        "--not-before",
        "--plan",
        "--roles",
        "--within",
        "--schema",
        "-h",
        "--",
        "stockx",
        "DD1391-100",
        "10",
        "-1",
    ],
)
#: commands as they are meant to be called, but for the values
FORMS = """
    enqueue stockx ? ?
    enqueue ? ? --priority ?
    enqueue stockx AA1-1 9 --not-before ?
    enqueue ebay ? ? --currency ?
    enqueue stockx AA1-1 --user ?
    watch stockx ? ?
    unwatch alias ? ?
    why ?
    why stockx ? ?
    jobs --state ?
    jobs --provider ? --error ?
    jobs --limit ?
    jobs --older ?
    retry ?
    retry --provider ? --error ?
    pause ? ?
    resume ?
    plan --provider ? --limit ?
    status --json
    status --every ?
    tick --within ?
    auth ? --account ?
    check-config --config ?
    migrate --config ?
    version --json
""".strip().splitlines()


def _command_line(nonsense: Nonsense) -> list[str]:
    dice = nonsense.dice
    if dice.random() < 0.6:
        words = [nonsense.text() if word == "?" else word for word in dice.choice(FORMS).split()]
    else:
        words = [dice.choice(QUICK)]
        words += [
            dice.choice(WORDS) if dice.random() < 0.6 else nonsense.text() for _ in range(dice.randrange(6))
        ]
    return [word.replace("\x00", "").replace("--live", "--json") for word in words]


@pytest.mark.timeout(7200)
async def test_every_command_line_ends_with_a_known_code_and_no_traceback(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKETD_DSN", database)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    nonsense, told = Nonsense("cli"), Counter[int]()
    for _ in range(MANY):
        arguments = _command_line(nonsense)
        try:
            code = await asyncio.to_thread(main, arguments)
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        said = capsys.readouterr()
        assert code in (0, 1, 2, 75, 78), (arguments, code, said)
        assert "Traceback" not in said.out + said.err, (arguments, said)
        assert code == 0 or said.out + said.err, arguments
        told[code] += 1
    with capsys.disabled():
        print(f"\ncommand lines by exit code: {dict(told)}")


def _twisted(nonsense: Nonsense, data: Any) -> Any:
    """The shipped file with something in it replaced, removed, renamed or added."""
    dice = nonsense.dice
    if not isinstance(data, dict) or not data or dice.random() < 0.15:
        values = (
            None,
            True,
            -1,
            0,
            1e309,
            float("nan"),
            "",
            "30s",
            "-5s",
            "1 year",
            "${X",
            "${X:-}",
            [],
            {},
            nonsense.json(),
        )
        return dice.choice((*values, nonsense.text()))
    key = dice.choice(list(data))
    changed = dict(data)
    match dice.randrange(4):
        case 0:
            del changed[key]
        case 1:
            changed[nonsense.text()] = changed[key]
        case _:
            changed[key] = _twisted(nonsense, data[key])
    return changed


def _problems(path: Path, types: Mapping[str, ProviderTypes]) -> list[str]:
    """What is wrong with the file; empty when it loads."""
    try:
        assert load_config(path, types).digest()
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.timeout(7200)
def test_every_configuration_loads_or_is_refused_in_words(tmp_path: Path) -> None:
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text())
    nonsense, told, types = Nonsense("config"), Counter[str](), wiring.provider_types()
    path = tmp_path / "config.yaml"
    for _ in range(MANY):
        data = shipped
        for _ in range(nonsense.dice.randrange(1, 4)):
            data = _twisted(nonsense, data)
        path.write_text(yaml.safe_dump(data, allow_unicode=True))
        problems = _problems(path, types)
        assert all(problem.strip() and "Traceback" not in problem for problem in problems), data
        told["refused" if problems else "loaded"] += 1
    print(f"\nconfigurations: {dict(told)}")
    assert told["refused"]
