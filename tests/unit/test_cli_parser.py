"""The command line as typed: commands, arguments, help and usage errors."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError, _SubParsersAction
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from marketd.cli import handler, main, parser

READS = ("status", "why", "jobs", "migrate", "check-config", "version")


def _commands() -> dict[str, ArgumentParser]:
    actions = parser.build()._actions
    return next(dict(action.choices) for action in actions if isinstance(action, _SubParsersAction))


@pytest.mark.parametrize("name", _commands())
def test_every_command_has_a_function_that_does_it(name: str) -> None:
    assert callable(handler(_commands()[name].get_default("handler")))


@pytest.mark.parametrize("name", _commands())
def test_the_help_of_every_command_explains_it_and_shows_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"  marketd {name}" in text.partition("Examples:")[2]
    assert len(text.partition("\n\n")[2]) > 200
    assert "--config FILE" in text


@pytest.mark.parametrize("name", READS)
def test_every_read_can_answer_in_json(name: str) -> None:
    assert "--json" in _commands()[name].format_help()


def test_the_main_help_lists_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in _commands():
        assert re.search(rf"^ +{name}\s+\S", text, re.MULTILINE), name
    assert "75" in text
    assert "78" in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["run", "--nonsense"],
        ["enqueue", "stockx"],
        ["enqueue", "stockx", "A-1", "--priority", "soon"],
        ["enqueue", "stockx", "A-1", "--priority", "1001"],
        ["enqueue", "stockx", "A-1", "--not-before", "tomorrow"],
        ["retry", "12", "x"],
        ["retry", "-1"],
        ["jobs", "--state", "lost"],
        ["jobs", "--limit", "0"],
        ["jobs", "--older", "5"],
        ["status", "--json", "--live"],
        ["status", "--live", "--every", "0s"],
        ["demo", "--port", "70000"],
        ["why"],
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "usage: marketd" in told.err
    assert "error:" in told.err


@pytest.mark.parametrize(
    ("text", "number"), [("manual", 200), ("hot", 150), ("background", 100), ("0", 0), ("1000", 1000)]
)
def test_a_priority_is_a_band_or_a_number(text: str, number: int) -> None:
    assert parser.priority(text) == number


def test_a_due_time_is_a_time_in_utc_unless_it_says_otherwise_or_a_span() -> None:
    assert parser.due("2026-01-31T18:00") == datetime(2026, 1, 31, 18, tzinfo=UTC)
    assert parser.due("2026-01-31T18:00+01:00") == datetime(2026, 1, 31, 17, tzinfo=UTC)
    assert parser.due("15m") == timedelta(minutes=15)


@pytest.mark.parametrize("text", ["", "0", "-3", "٣", "1e3", str(2**63)])
def test_what_is_no_job_id_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        parser.job_id(text)


def test_config_may_stand_before_or_after_the_command() -> None:
    build = parser.build()
    assert build.parse_args(["--config", "a.yaml", "status"]).config == "a.yaml"
    assert build.parse_args(["status", "--config", "b.yaml"]).config == "b.yaml"
    assert build.parse_args(["status"]).config is None


def test_why_takes_a_job_or_an_item() -> None:
    assert parser.subjects(["12"]) == (12, ())
    assert parser.subjects(["stockx", "DD1391-100"]) == (None, ("stockx", "DD1391-100"))
    assert parser.subjects(["stockx", "DD1391-100", "UK 9"]) == (None, ("stockx", "DD1391-100", "UK 9"))
    with pytest.raises(ValueError, match="quotes"):
        parser.subjects(["stockx", "DD1391-100", "UK", "9"])


def test_help_is_there_without_loading_database_http_or_configuration() -> None:
    code = (
        "import sys; from marketd.cli import main; main(['--help']); "
        "sys.exit(', '.join({'asyncpg', 'aiohttp', 'pydantic', 'rich', 'structlog'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _commands_of_the_documents() -> list[str]:
    """Every `marketd ...` of a shell block, without what the shell adds to it."""
    root = Path(__file__).resolve().parents[2]
    found = []
    for name in ("README.md", "docs/OPERATIONS.md", "docs/INTEGRATION.md"):
        for block in re.findall(r"```sh\n(.*?)```", (root / name).read_text(), re.DOTALL):
            for line in block.splitlines():
                for part in line.partition(" #")[0].split("&&"):
                    if (command := part.strip()).startswith("marketd "):
                        found.append(command)
    return found


def test_what_the_documents_tell_an_operator_to_type_can_be_typed() -> None:
    commands = _commands_of_the_documents()
    assert len(commands) >= 12
    for command in commands:
        assert parser.build().parse_args(shlex.split(command)[1:]).handler, command
