"""Commands against a real Postgres: what they print, what they change, how they end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
import yaml

from harness import until
from marketd.cli import main
from marketd.migrate import version

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
#: what a command printed and how it ended
Told = tuple[int, str, str]
Run = Callable[..., Awaitable[Told]]

_SHOE = ("stockx", "DD1391-100", "10")


@pytest.fixture
def env(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The test's own database as the shipped configuration finds it, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARKETD_CONFIG", raising=False)
    monkeypatch.setenv("MARKETD_DSN", database)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    return dict(os.environ)


@pytest.fixture
def run(env: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command in a thread: it has an event loop of its own."""

    async def one(*arguments: str) -> Told:
        code = await asyncio.to_thread(main, arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return one


async def _json(run: Run, *arguments: str) -> Any:
    code, out, err = await run(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


async def _fail_all(db: Connection, code: str = "unknown_sku") -> None:
    await db.execute(
        "update market_jobs set status = 'failed', outcome = 'failed', completed_at = now(), error_code = $1, "
        "error_message = 'not there' where status = 'pending'",
        code,
    )


async def test_enqueue_tells_what_became_of_the_request(run: Run, db: Connection) -> None:
    first = await _json(run, "enqueue", *_SHOE)
    assert first["result"] == "queued"
    assert first["wait_reason"] == "no_daemon"
    code, out, _ = await run("enqueue", *_SHOE)
    assert (code, out.split(":")[0]) == (0, "merged")
    code, out, _ = await run("enqueue", *_SHOE, "--priority", "manual")
    assert out.startswith(f"raised: job {first['job_id']}, stockx DD1391-100 size 10; waits for no_daemon")
    assert await db.fetchval("select priority from market_jobs") == 200


async def test_enqueue_of_a_fresh_item_makes_no_job_and_says_why(run: Run, db: Connection) -> None:
    await db.execute(
        "insert into market_prices (provider, sku, size, currency, observed_at, changed_at) "
        "values ('stockx', 'DD1391-100', '10', 'GBP', now(), now())"
    )
    code, out, _ = await run("enqueue", *_SHOE)
    assert (code, out.split(":")[0]) == (0, "fresh")
    assert await db.fetchval("select count(*) from market_jobs") == 0


async def test_enqueue_takes_a_time_a_currency_and_a_user(run: Run, db: Connection) -> None:
    await run("enqueue", *_SHOE, "--not-before", "15m", "--currency", "eur", "--user", "alice")
    row = await db.fetchrow("select *, not_before - now() as away from market_jobs")
    assert row is not None
    assert 880 < row["away"].total_seconds() < 901
    assert (row["currency"], row["user_id"], row["status"]) == ("EUR", "alice", "deferred")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("enqueue", "nosuch", "A-1"), "provider 'nosuch' is unknown"),
        (("enqueue", "stockx", "A-1", "gigantic"), "size"),
        (("enqueue", "stockx", "A-1", "--currency", "BTC"), "currency"),
        (("why", "nosuch", "A-1"), "provider 'nosuch' is unknown"),
        (("why", "12a"), "12a"),
        (("pause", "nosuch"), "provider 'nosuch' is unknown"),
        (("resume", "nosuch"), "provider 'nosuch' is unknown"),
    ],
)
async def test_a_bad_argument_exits_2_with_one_line_that_names_it(
    run: Run, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = await run(*arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("marketd: ")
    assert said in err


async def test_why_tells_what_a_job_and_an_item_wait_for(run: Run) -> None:
    job = (await _json(run, "enqueue", *_SHOE))["job_id"]
    code, out, _ = await run("why", str(job))
    assert (code, out.splitlines()[0]) == (0, f"job {job} (stockx DD1391-100 size 10): pending")
    assert "waits for: no_daemon" in out
    told = await _json(run, "why", *_SHOE)
    assert (told["state"], told["waiting_for"], told["sku"]) == ("pending", "no_daemon", "DD1391-100")
    assert (await _json(run, "why", "stockx", "CP9366", "9"))["state"] == "never_asked"


async def test_why_of_an_unknown_job_fails(run: Run) -> None:
    code, out, _ = await run("why", "4711")
    assert (code, out.splitlines()[0]) == (1, "job 4711: unknown")


async def test_jobs_lists_what_the_filters_let_through(run: Run, db: Connection) -> None:
    for sku in ("A-1", "A-2", "A-3"):
        await run("enqueue", "stockx", sku, "9")
    await _fail_all(db)
    await run("enqueue", "alias", "B-1", "9")
    await db.execute("update market_jobs set created_at = now() - interval '2 hours' where sku = 'A-1'")

    async def skus(*arguments: str) -> list[str]:
        return [job["sku"] for job in await _json(run, "jobs", *arguments)]

    assert await skus() == ["B-1", "A-3", "A-2", "A-1"]
    assert await skus("--state", "open") == ["B-1"]
    assert await skus("--state", "failed", "--limit", "2") == ["A-3", "A-2"]
    assert await skus("--provider", "alias") == ["B-1"]
    assert await skus("--error", "unknown_sku", "--older", "1h") == ["A-1"]
    assert await skus("--state", "done") == []
    await run("enqueue", "alias", "B-2", "9", "--priority", "manual")
    await db.execute("update market_settings set wake_priority = 120")
    await run("enqueue", "alias", "B-3", "9", "--priority", "130")
    await db.execute("update market_jobs set run_at = now() - interval '1 hour' where sku = 'B-3'")
    assert await skus("--state", "open", "--oldest") == ["B-3", "B-1", "B-2"]
    assert await skus("--band", "hot") == ["B-3"]
    assert await skus("--band", "manual", "--oldest", "--limit", "1") == ["B-2"]
    assert await skus("--state", "open", "--band", "background") == ["B-1"]
    code, out, _ = await run("jobs", "--oldest", "--limit", "1")
    assert (code, "only the oldest 1 are shown" in out) == (0, True)
    await db.execute("delete from market_jobs where sku in ('B-2', 'B-3')")
    code, out, _ = await run("jobs", "--limit", "2")
    assert code == 0
    assert "unknown_sku: not there" in out
    assert "only the newest 2 are shown" in out


async def test_jobs_of_a_mistyped_provider_are_no_empty_list(run: Run) -> None:
    code, out, told = await run("jobs", "--provider", "stokx")
    assert (code, out) == (2, "")
    assert told == (
        "marketd: provider 'stokx' is unknown (known: alias, ebay, stockx); did you mean 'stockx'?\n"
    )


async def test_a_mistyped_error_is_no_empty_list_and_no_retry_of_nothing(run: Run, db: Connection) -> None:
    await run("enqueue", *_SHOE)
    await _fail_all(db, "word_of_a_plugin")
    for command in ("jobs", "retry"):
        code, out, told = await run(command, "--error", "timout")
        assert (code, out) == (2, "")
        assert told.startswith("marketd: error 'timout' is unknown (known: ambiguous_product, ")
        assert "word_of_a_plugin" in told
        assert told.endswith("did you mean 'timeout'?\n")
        assert (await run(command, "--error", "timeout"))[0] == 0
        assert (await run(command, "--error", "poison"))[0] == 0
    assert (await run("retry", "--provider", "stokx"))[0] == 2
    assert (await _json(run, "retry", "--error", "word_of_a_plugin")) == {"jobs": 1}


async def test_retry_puts_failed_jobs_back_and_says_how_many(run: Run, db: Connection) -> None:
    for sku in ("A-1", "A-2", "A-3"):
        await run("enqueue", "stockx", sku, "9")
    await _fail_all(db)
    assert await _json(run, "retry", "--provider", "alias") == {"jobs": 0}
    assert await _json(run, "retry", "--error", "timeout") == {"jobs": 0}
    first = await db.fetchval("select min(id) from market_jobs")
    code, out, _ = await run("retry", str(first))
    assert (code, out) == (0, "1 failed job put back into the queue\n")
    assert (await run("retry"))[1] == "2 failed jobs put back into the queue\n"
    assert await db.fetchval("select count(*) from market_jobs where status = 'pending'") == 3


async def test_retry_of_a_job_that_did_not_fail_says_so_and_fails(run: Run, db: Connection) -> None:
    await run("enqueue", "stockx", "A-1", "9")
    await _fail_all(db)
    await db.execute(
        "insert into market_jobs (provider, sku, size, currency, status, outcome, completed_at, dedupe_key, unit_key) "
        "select provider, sku, size, currency, 'done', 'priced', now(), dedupe_key, unit_key from market_jobs"
    )
    await run("enqueue", "stockx", "A-2", "9")
    await _fail_all(db)
    await run("enqueue", "stockx", "A-3", "9")
    older, _, failed, waiting = await db.fetchval("select array_agg(id order by id) from market_jobs")
    code, out, told = await run("retry", *map(str, (older, failed, waiting, 4711)))
    assert (code, out) == (1, "1 failed job put back into the queue\n")
    assert told.splitlines() == [
        f"marketd: job {older} is left: a later job of the same item has ended since",
        f"marketd: job {waiting} has not failed: it is pending",
        "marketd: job 4711 is unknown: finished jobs are pruned after some days",
    ]


async def test_pause_and_resume_hold_a_lane_and_let_it_go(run: Run, db: Connection) -> None:
    code, out, _ = await run("pause", "stockx", "new", "credentials")
    assert (code, out) == (0, "stockx: paused\n1 lane changed\n")
    status = await _json(run, "status")
    lane = next(lane for lane in status["lanes"] if lane["provider"] == "stockx")
    assert (lane["state"], lane["reason"], lane["urgent_waits_for"]) == (
        "paused",
        "new credentials",
        "paused",
    )
    assert await _json(run, "resume", "stockx") == [{"account": "default", "state": "ready"}]
    assert await db.fetchval("select paused_at from market_providers where provider = 'stockx'") is None
    code, out, _ = await run("resume", "stockx")
    assert (code, out) == (0, "0 lanes changed\n")


async def test_status_shows_queue_budgets_lanes_runs_errors_and_daemons(run: Run, db: Connection) -> None:
    await run("enqueue", "stockx", "A-1", "9")
    await _fail_all(db, "timeout")
    await run("enqueue", *_SHOE, "--priority", "hot")
    await run("pause", "ebay", "holidays")
    await db.execute("insert into market_job_runs (completed_at, jobs_selected) values (now(), 5)")
    code, out, err = await run("status")
    assert (code, err) == (0, "")
    assert "nothing is fetched: start `marketd run`" in out
    for part in ("holidays", "hot", "budgets", "5000", "timer", "timeout", "not there"):
        assert part in out
    await db.execute(
        "insert into market_daemons (daemon_id, host, pid, version, config_hash, alive_until) "
        "values (gen_random_uuid(), 'box', 42, '1.2', repeat('ab', 32), now() + interval '1 minute')"
    )
    told = await _json(run, "status")
    assert set(told) >= {"now", "schema_version", "daemons", "lanes", "queue", "budgets", "errors", "runs"}
    assert [daemon["pid"] for daemon in told["daemons"]] == [42]
    assert told["queue"][0] | {"oldest_ready_s": 0} == {
        "provider": "stockx", "account": "default", "band": "hot", "pending": 1, "running": 0, "deferred": 0,
        "oldest_ready_s": 0,
    }  # fmt: skip
    assert (told["errors"][0]["error_code"], told["errors"][0]["failed"]) == ("timeout", 1)


async def test_an_unmigrated_database_exits_78_and_names_the_command(
    run: Run, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETD_DSN", empty_database)
    for arguments in (("status",), ("enqueue", *_SHOE), ("jobs",)):
        code, out, err = await run(*arguments)
        assert (code, out) == (78, "")
        assert "marketd migrate" in err


async def test_migrate_plans_applies_and_then_has_nothing_to_do(
    run: Run, empty_database: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(f"database: {{dsn: '{empty_database}'}}\n")
    plan = await _json(run, "migrate", "--plan")
    assert len(plan["steps"]) == version()
    assert (await run("status"))[0] == 78
    code, out, _ = await run("migrate")
    assert (code, out.count("done: ")) == (0, version())
    assert await _json(run, "migrate") == {
        "plan": False, "steps": [], "schema_version": version(), "open_to": {},
    }  # fmt: skip
    assert (await run("status"))[0] == 0


async def test_migrate_does_not_reach_postgres_exits_75(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("database: {dsn: 'postgresql://me:hidden@127.0.0.1:1/x'}\n")
    code, _, err = await run("migrate")
    assert code == 75
    assert "hidden" not in err


async def test_a_newer_schema_is_left_alone(
    run: Run, db: Connection, env: dict[str, str], tmp_path: Path
) -> None:
    await db.execute("insert into market_schema values (9999, 'future', 'x', now(), 1)")
    (tmp_path / "config.yaml").write_text(f"database: {{dsn: '{env['MARKETD_DSN']}'}}\n")
    code, _, err = await run("migrate")
    assert code == 78
    assert "newer than this program" in err


async def test_of_another_schema_every_command_says_so_instead_of_guessing(run: Run, db: Connection) -> None:
    commands = (("status",), ("jobs",), ("why", "1"), ("enqueue", *_SHOE), ("retry",), ("pause", "stockx"))
    await db.execute("insert into market_schema values (9999, 'future', 'x', now(), 1)")
    for arguments in commands:
        code, out, err = await run(*arguments)
        assert (code, out, err.count("\n")) == (78, "", 1), arguments
        assert "newer than this program" in err
    await db.execute("delete from market_schema where version >= $1", version())
    for arguments in commands:
        code, out, err = await run(*arguments)
        assert (code, out, err.count("\n")) == (78, "", 1), arguments
        assert f"is old (at {version() - 1}, this program needs {version()}): run `marketd migrate`" in err
    assert await db.fetchval("select count(*) from market_jobs") == 0


async def test_a_role_without_the_right_is_told_which_it_needs(
    run: Run, db: Connection, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"nobody_{os.getpid()}"
    await db.execute(f"create role {role} login")
    try:
        monkeypatch.setenv("MARKETD_DSN", env["MARKETD_DSN"].replace("marketd@", f"{role}@"))
        for command, needed in (("retry",), "market_operator"), (("enqueue", *_SHOE), "market_producer"):
            code, _, err = await run(*command)
            assert code == 1
            assert f"`grant {needed} to " in err
    finally:
        await db.execute(f"drop role {role}")


def test_a_reader_who_has_seen_enough_is_no_error(env: dict[str, str]) -> None:
    command = f"'{sys.executable}' -m marketd status | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env=env, capture_output=True, text=True, check=False, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_live_status_refreshes_until_ctrl_c_and_leaves_no_traceback(env: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "marketd", "status", "--live", "--every", "100ms",
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    seen = 0

    async def twice() -> bool:
        nonlocal seen
        assert process.stdout is not None
        seen += b"marketd at" in await process.stdout.readline()
        return seen == 2

    await until(twice, what="the second drawing")
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, err) == (130, b"")


def test_run_on_a_taken_port_fails_with_one_line(env: dict[str, str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "config.yaml"
        config.write_text(f"database: {{dsn: '{env['MARKETD_DSN']}'}}\nhttp: {{port: {port}}}\n")
        done = subprocess.run(
            [sys.executable, "-m", "marketd", "run", "--config", str(config)],
            env=env, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if '"cannot_start"' in line]
    assert f"cannot serve /metrics on 127.0.0.1:{port}" in json.loads(line)["problem"]
    assert done.stderr == ""


def test_the_sandbox_prints_the_settings_that_lead_to_it_and_ends_with_sigterm(env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "marketd", "sandbox", "--port", "0"]
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[3].rstrip(",")
        process.terminate()
        out = process.stdout.read()
    assert process.returncode == 0
    told = yaml.safe_load(out)["providers"]
    assert set(told) >= {"stockx", "alias", "ebay"}
    assert told["stockx"]["base_url"].startswith(url)
