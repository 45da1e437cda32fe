"""The tables of docs/INTEGRATION.md have every word that the code can tell an app, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from marketd.metrics import words

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "INTEGRATION.md").read_text()
SQL = "\n".join(file.read_text() for file in sorted((ROOT / "sql" / "migrations").glob("*.sql")))
SETTLE = (ROOT / "sql" / "queries" / "jobs.sql").read_text()
CODE = [file for file in (ROOT / "daemon" / "marketd").rglob("*.py") if "sandbox" not in file.parts]
#: of the daemon's own errors: they pause the lane and fail no job
OF_THE_LANE = {"unauthorized", "invalid_grant", "invalid_scope", "throttled"}


def _column(table: str, number: int = 0) -> set[str]:
    """The words in a column of the table whose head begins so."""
    rows = GUIDE.partition(f"| {table} |")[2].partition("\n\n")[0].splitlines()[2:]
    return {word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[number + 1])}


def _texts(pattern: str, text: str = SQL) -> set[str]:
    """The quoted words of what matches."""
    return {word for found in re.findall(pattern, text, re.DOTALL) for word in re.findall(r"'(\w+)'", found)}


def test_every_result() -> None:
    told = (
        _texts(r"\bresult := ('\w+')") | _texts(r"('\w+') as result") | _texts(r"case when d\.bad (.*?) end")
    )
    told |= _texts(r"return case when (?:held|p_priority) [^;]*? then 'raised' else ('\w+') end;")
    told |= _texts(r"return case when p_priority > j\.priority then ('\w+')")
    told |= _texts(r"market__answers\(asked,\s(.*?), (?:true|false)\)")
    assert _column("result") == told >= set(words.REQUEST_RESULTS)


def test_every_status_and_outcome() -> None:
    assert (
        _column("status")
        == _texts(r"constraint status_known check \(status in \((.*?)\)\)")
        > set(words.STATUSES)
    )
    of_runs = {"retried", "released", "snoozed"}
    assert _column("status", 1) == set(words.OUTCOMES) - of_runs | _texts(r"new\.outcome := ('\w+')")


def test_every_reason_to_wait() -> None:
    told = (
        _texts(r"\bwaiting_for := (.*?);")
        | _texts(r"\bwait_reason := (.*?);")
        | _texts(r"('\w+') as waiting_for")
    )
    assert _column("word") == told - {"retry_at"} | set(words.REFUSALS) | _texts(r"rest ->> .*?, ('\w+')\)")


def test_every_error_code() -> None:
    written = (
        {
            code
            for file in CODE
            for code in re.findall(r'\bcode(?:: ClassVar\[str\])? ?= ?"(\w+)"', file.read_text())
            + re.findall(r'_retried\(job, "(\w+)"', file.read_text())
        }
        - {"provider_error"}
        - OF_THE_LANE
    )  # the first is of the base class alone
    assert written == set(words.ERRORS) - {"other"}
    assert _column("error_code") == written | _texts(r"error_code = (case when e\.poison.*?end)", SETTLE)


def test_every_state_of_a_price() -> None:
    view = (
        SQL.partition("create view market_price_status")[2]
        .partition("end as state")[0]
        .rpartition("       case\n")[2]
    )
    told = set(re.findall(r"(?:then|else) '(\w+)'", view))
    line = re.search(r"^`state` of `market_price_status` is (.*?), or the", GUIDE, re.MULTILINE | re.DOTALL)
    assert line is not None
    assert set(re.findall(r"`(\w+)`", line[1])) == told
