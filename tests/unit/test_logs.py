"""What is written to the log, and what never is."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog

from marketd import logs
from marketd.config import Log
from marketd.models import Job, JobId, Unit
from marketd.outcome import Failed, Outcome, Priced, Retried
from marketd.telemetry import FetchReport, Observer, RequestReport

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SECRET = 'hunter2/"quoted"\\word'


class _Sink(io.StringIO):
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def line(self) -> dict[str, Any]:
        [only] = self.lines()
        return only


@pytest.fixture
def sink() -> Iterator[_Sink]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = _Sink()
    logs.setup(Log(level="debug", format="json"), stream=stream, env={})
    yield stream
    logs.hide(())
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _unit(account: str = "default", *jobs: tuple[str, int]) -> Unit:
    return Unit(
        key="k",
        lease_id=UUID(int=1),
        claimed_at=NOW,
        provider="stockx",
        account=account,
        sku="DD1391-100",
        currency="GBP",
        jobs=tuple(
            Job(
                id=JobId(number),
                size=size,
                priority=priority,
                attempt=1,
                max_attempts=5,
                due_at=NOW,
            )
            for number, (size, priority) in enumerate(jobs or (("10", 200), ("9", 100), ("10", 100)), 1)
        ),
    )


def _report(*outcomes: Outcome, **more: Any) -> FetchReport:
    values: dict[str, Any] = {
        "unit": _unit(),
        "outcomes": outcomes,
        "requests": 1,
        "quotes": 14,
        "changed": 3,
        "wait_s": 0.12345,
        "fetch_s": 1.0,
        "settle_s": 0.004,
    }
    return FetchReport(**values | more)


# --- the lines ---------------------------------------------------------------------------------------------


def test_a_fetch_is_one_canonical_line(sink: _Sink) -> None:
    observer: Observer = logs.LogObserver()
    failed = Failed(error_code="size_not_offered", message="no 9", cooldown=timedelta(days=1))
    observer.fetches_done([_report(Priced(size="10"), failed, Priced(size="10"))])
    line = sink.line()
    assert list(line)[:4] == ["ts", "level", "event", "logger"]
    assert datetime.fromisoformat(line.pop("ts")).tzinfo is not None
    assert line == {
        "level": "info",
        "event": "fetch_done",
        "logger": "marketd",
        "provider": "stockx",
        "sku": "DD1391-100",
        "sizes": ["10", "9"],
        "priorities": {"200": 1, "100": 2},
        "jobs": [1, 2, 3],
        "outcomes": {"priced": 2, "failed:size_not_offered": 1},
        "requests": 1,
        "quotes": 14,
        "changed": 3,
        "wait_s": 0.123,
        "fetch_s": 1.0,
        "settle_s": 0.004,
    }


def test_a_lost_lease_is_a_warning_and_an_unexpected_error_an_error(sink: _Sink) -> None:
    observer = logs.LogObserver()
    observer.fetches_done([_report(end="lease_lost", unit=_unit("shop2"))])
    observer.fetches_done(
        [_report(Retried(delay=timedelta(1), error_code="internal", message=""), error=ValueError("odd"))]
    )
    lost, odd = sink.lines()
    assert (lost["level"], lost["lease_lost"], lost["account"]) == ("warning", True, "shop2")
    assert (odd["level"], odd["outcomes"]) == ("error", {"retried:internal": 1})
    assert odd["exception"][0]["exc_type"] == "ValueError"


def test_requests_are_told_at_debug_only(sink: _Sink) -> None:
    report = RequestReport(
        provider="alias",
        account="default",
        endpoint="availabilities",
        priority=150,
        status_class="timeout",
        http_status=None,
        granted_at=NOW,
        took_s=60.00049,
    )
    observer = logs.LogObserver()
    observer.request_done(report)
    line = sink.line()
    assert (line["level"], line["event"], line["answer"], line["took_s"]) == (
        "debug",
        "request_done",
        "timeout",
        60.0,
    )
    logging.getLogger().setLevel(logging.INFO)
    observer.request_done(report)
    assert len(sink.lines()) == 1


def test_events_are_told_by_their_weight(sink: _Sink) -> None:
    observer = logs.LogObserver()
    observer.event("listener_lost", error="reset", level="x", event="y")
    observer.event("run_done", result="ok")
    observer.event("run_over", result="failed")
    observer.event("refused", provider="stockx", reason="budget")
    levels = {line["event"]: line["level"] for line in sink.lines()}
    assert levels == {
        "listener_lost": "warning",
        "run_done": "info",
        "run_over": "warning",
        "refused": "debug",
    }
    assert (sink.lines()[0]["level_"], sink.lines()[0]["event_"]) == ("x", "y")


def test_records_of_libraries_go_through_the_same_formatter(sink: _Sink) -> None:
    logging.getLogger("some.library").warning("lost %s of %d", "one", 3, extra={"peer": "a"})
    line = sink.line()
    assert (line["event"], line["level"], line["logger"], line["peer"]) == (
        "lost one of 3",
        "warning",
        "some.library",
        "a",
    )


def test_a_value_that_json_does_not_know_becomes_text(sink: _Sink) -> None:
    logs.LogObserver().event("odd", at=NOW, path=Path("/x"), text="größer\nzweite")
    line = sink.line()
    assert (line["at"], line["path"], line["text"]) == (str(NOW), "/x", "größer\nzweite")


async def test_context_is_kept_per_task(sink: _Sink) -> None:
    async def work(number: int) -> None:
        with structlog.contextvars.bound_contextvars(job_id=number):
            await asyncio.sleep(0)
            structlog.stdlib.get_logger("marketd").info("worked", number=number)

    await asyncio.gather(work(1), work(2))
    assert all(line["job_id"] == line["number"] for line in sink.lines())


# --- secrets -----------------------------------------------------------------------------------------------


def test_a_hidden_text_is_masked_wherever_it_turns_up(sink: _Sink) -> None:
    logs.hide({SECRET, "tok"})
    observer = logs.LogObserver()
    observer.event("odd", text=f"a {SECRET} b", nested={"list": [SECRET]}, **{SECRET: 1})
    try:
        raise RuntimeError(f"refused {SECRET}")
    except RuntimeError as error:
        observer.fetches_done([_report(error=error)])
    logging.getLogger("lib").error("sent %r", SECRET)
    assert "hunter2" not in sink.getvalue()
    assert sink.lines()[0]["text"] == f"a {logs.MASK} b"


def test_a_short_text_is_not_hidden_because_it_would_garble_the_log(sink: _Sink) -> None:
    logs.hide({"a", "event", ""})
    logs.LogObserver().event("a_name")
    assert sink.line()["event"] == "a_name"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdef.ghijkl-hunter2",
        "headers {'authorization': 'Basic aHVudGVyMg==hunter2'}",
        "postgresql://marketd:hunter2@db/market refused",
        "body grant_type=refresh_token&refresh_token=hunter2&x=1",
        'body {"access_token": "hunter2", "expires_in": 3}',
        "x-api-key: hunter2",
        "password=hunter2",
    ],
)
def test_what_looks_like_a_credential_is_masked_unasked(sink: _Sink, text: str) -> None:
    logging.getLogger("lib").warning(text)
    logs.LogObserver().event("odd", text=text)
    assert "hunter2" not in sink.getvalue()
    assert all(logs.MASK in json.dumps(line) for line in sink.lines())


@pytest.mark.parametrize("kind", ["json", "console"])
def test_no_traceback_shows_local_variables(sink: _Sink, kind: Any) -> None:
    logs.setup(Log(format=kind), stream=sink, env={})

    def fails() -> None:
        local_value = "secret" + "-in-a-local"
        raise LookupError(str(len(local_value)))

    try:
        fails()
    except LookupError:
        logging.getLogger("lib").exception("library failed")
        structlog.stdlib.get_logger("marketd").exception("we failed")
    assert "LookupError" in sink.getvalue()
    assert "secret-in-a-local" not in sink.getvalue()


# --- where it goes -----------------------------------------------------------------------------------------


def test_format_auto_is_json_where_nobody_looks(sink: _Sink) -> None:
    logs.setup(Log(), stream=sink, env={})
    logs.LogObserver().event("started")
    assert sink.line()["event"] == "started"


def test_the_console_form_is_for_people(sink: _Sink) -> None:
    logs.setup(Log(format="console"), stream=sink, env={})
    logs.LogObserver().event("started", port=9464)
    assert re.search(r"\[info +\] started .*port=9464", sink.getvalue())


PROGRAM = """
import logging, os, sys
from marketd import logs
from marketd.config import Log
stat = os.fstat(1)
env = {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}" if sys.argv[1] == "ours" else "1:2"}
logs.setup(Log(level="debug", format=sys.argv[2]), env=env)
observer = logs.LogObserver()
observer.event("started")
observer.event("refused")
observer.event("listener_lost")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("lib").exception("two\\nlines")
"""


def _piped(journal: str, form: str) -> list[str]:
    daemon = str(Path(__file__).resolve().parents[2] / "daemon")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, journal, form],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": daemon},
    )
    return done.stdout.splitlines()


def test_the_journal_gets_a_priority_before_each_json_line() -> None:
    lines = _piped("ours", "auto")
    assert [line[:3] for line in lines] == ["<6>", "<7>", "<4>", "<3>"]
    assert [json.loads(line[3:])["event"] for line in lines] == [
        "started",
        "refused",
        "listener_lost",
        "two\nlines",
    ]


def test_each_line_of_a_text_keeps_its_priority_in_the_journal() -> None:
    lines = _piped("ours", "console")
    assert len(lines) > 5
    assert all(line.startswith("<3>") for line in lines[3:])


def test_a_journal_variable_inherited_by_a_redirected_process_is_ignored() -> None:
    assert all(line.startswith("{") for line in _piped("someone else's", "auto"))
