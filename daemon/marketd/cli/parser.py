"""The commands, their arguments and their help. Nothing heavy is imported, so that help is there at once.

A command names the function that does it as `module:function` of this package; it is imported when it is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from textwrap import dedent
from typing import TYPE_CHECKING

from marketd import __version__
from marketd.cli import words

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

BANDS = {"manual": 200, "hot": 150, "background": 100}
STATES = {
    "open": ("pending", "running", "deferred"),
    "pending": ("pending",),
    "running": ("running",),
    "deferred": ("deferred",),
    "done": ("done",),
    "failed": ("failed",),
}
_LARGEST_ID = 2**63 - 1


def build() -> argparse.ArgumentParser:
    """The parser of the whole command line; a command's `handler` says what does it."""
    parser = argparse.ArgumentParser(
        prog="marketd",
        description=dedent(words.MAIN).strip(),
        epilog=dedent(words.MAIN_END).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"marketd {__version__}")
    _add_config(parser, default=None)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _serving(commands)
    _reading(commands)
    _acting(commands)
    _setting_up(commands)
    return parser


def priority(text: str) -> int:
    """A band's name, or a number of 0 to 1000."""
    if text in BANDS:
        return BANDS[text]
    if not text.isascii() or not text.isdigit() or int(text) > 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is neither {', '.join(BANDS)} nor a number of 0 to 1000")
    return int(text)


def span(text: str) -> timedelta:
    """A duration as in config.yaml: `90s`, `15m`, `2h`, `7d`."""
    from marketd.config import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def deadline(text: str) -> timedelta:
    """A span in which a tick can do something."""
    found = span(text)
    if not timedelta(seconds=5) <= found <= timedelta(hours=24):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of 5s to 24h")
    return found


def pause(text: str) -> timedelta:
    """A span between two drawings that leaves Postgres alone meanwhile."""
    found = span(text)
    if not timedelta(milliseconds=100) <= found <= timedelta(hours=1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of 100ms to 1h")
    return found


def due(text: str) -> datetime | timedelta:
    """A time (`2026-01-31T18:00Z`; UTC where no zone is given), or a duration from now."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    try:
        return span(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a time (2026-01-31T18:00Z) nor a duration from now (15m)"
        ) from None


def job_id(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= _LARGEST_ID:
        raise argparse.ArgumentTypeError(f"{text!r} is not a job's id (a whole number; see `marketd jobs`)")
    return int(text)


def count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 to 100000")
    return int(text)


def port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535; 0 takes a free one)")
    return int(text)


def _serving(commands: Commands) -> None:
    _command(commands, "run", "serving:run", words.RUN)
    tick = _command(commands, "tick", "serving:tick", words.TICK)
    tick.add_argument(
        "--within",
        type=deadline,
        default=timedelta(seconds=50),
        metavar="TIME",
        help="the end, whatever happens; at least 5s (default: 50s)",
    )
    _add_json(tick)
    demo = _command(commands, "demo", "showing:demo", words.DEMO)
    demo.add_argument("--once", action="store_true", help="end as soon as every item is settled")
    demo.add_argument(
        "--state-dir", metavar="DIR", help="keep the demo's data here (default: state_dir/demo)"
    )
    demo.add_argument(
        "--port", type=port, metavar="N", help="where /metrics is served (default: http.port, or a free one)"
    )
    sandbox = _command(commands, "sandbox", "serving:sandbox", words.SANDBOX)
    sandbox.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    sandbox.add_argument("--port", type=port, default=9470, metavar="N", help="default: %(default)s")
    sandbox.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same prices")
    sandbox.add_argument(
        "--products", type=int, default=0, metavar="N", help="so many made-up shoes besides the fixed ones"
    )
    sandbox.add_argument(
        "--move-every", type=span, default=None, metavar="TIME", help="how often prices move (default: never)"
    )
    sandbox.add_argument("--no-limits", action="store_true", help="allow any number of calls")


def _reading(commands: Commands) -> None:
    status = _command(commands, "status", "reading:status", words.STATUS)
    shape = status.add_mutually_exclusive_group()
    _add_json(shape)
    shape.add_argument("--live", action="store_true", help="refresh until Ctrl-C")
    status.add_argument(
        "--every",
        type=pause,
        default=timedelta(seconds=2),
        metavar="TIME",
        help="pause of --live (default: 2s)",
    )
    why = _command(commands, "why", "reading:why", words.WHY)
    why.add_argument("subject", nargs="+", metavar="JOB_ID | PROVIDER SKU [SIZE]", help="a job, or an item")
    why.add_argument("--currency", metavar="CODE", help="default: the provider's configured one")
    _add_json(why)
    jobs = _command(commands, "jobs", "reading:jobs", words.JOBS)
    jobs.add_argument("--state", choices=STATES, help="`open` is pending, running and deferred")
    jobs.add_argument("--provider", metavar="NAME")
    jobs.add_argument("--error", metavar="CODE", help="last error, such as unknown_sku or timeout")
    jobs.add_argument("--band", choices=BANDS, help="how urgent; see `marketd status --help`")
    jobs.add_argument("--oldest", action="store_true", help="those first that have been due for longest")
    jobs.add_argument("--older", type=span, metavar="TIME", help="asked for longer ago than this")
    jobs.add_argument("--limit", type=count, default=50, metavar="N", help="default: %(default)s")
    _add_json(jobs)
    plan = _command(commands, "plan", "planning:plan", words.PLAN)
    plan.add_argument("--provider", metavar="NAME", help="only this provider's")
    plan.add_argument("--limit", type=count, default=20, metavar="N", help="default: %(default)s")
    _add_json(plan)


def _acting(commands: Commands) -> None:
    enqueue = _command(commands, "enqueue", "acting:enqueue", words.ENQUEUE)
    enqueue.add_argument("provider", metavar="PROVIDER")
    enqueue.add_argument("sku", metavar="SKU", help="DD1391-100, id:<product id> or name:<words>")
    enqueue.add_argument(
        "size", nargs="?", metavar="SIZE", help="10, 7.5W, 5Y, 'UK 9'; none for single-size items"
    )
    enqueue.add_argument(
        "--priority", type=priority, default=100, metavar="N", help="manual, hot, background or 0 to 1000"
    )
    enqueue.add_argument("--currency", metavar="CODE", help="default: the provider's configured one")
    enqueue.add_argument(
        "--not-before", type=due, metavar="WHEN", help="a time (UTC), or a duration from now"
    )
    enqueue.add_argument("--user", metavar="ID", help="for whom it is asked")
    _add_json(enqueue)
    for name, help_text in (("watch", words.WATCH), ("unwatch", words.UNWATCH)):
        command = _command(commands, name, f"planning:{name}", help_text)
        command.add_argument("provider", metavar="PROVIDER")
        command.add_argument("sku", metavar="SKU", help="DD1391-100, id:<product id> or name:<words>")
        command.add_argument("size", nargs="?", metavar="SIZE", help="none for single-size items")
        command.add_argument("--currency", metavar="CODE", help="default: the provider's configured one")
        command.add_argument("--user", metavar="ID", help="whose watchlist")
        _add_json(command)
    retry = _command(commands, "retry", "acting:retry", words.RETRY)
    retry.add_argument("ids", nargs="*", type=job_id, metavar="ID", help="only these jobs")
    retry.add_argument("--provider", metavar="NAME", help="only this provider's")
    retry.add_argument("--error", metavar="CODE", help="only those that failed with it")
    _add_json(retry)
    pause = _command(commands, "pause", "acting:pause", words.PAUSE)
    pause.add_argument("provider", metavar="PROVIDER")
    pause.add_argument("reason", nargs="*", metavar="REASON", help="shown wherever somebody asks why")
    _add_json(pause)
    resume = _command(commands, "resume", "acting:resume", words.RESUME)
    resume.add_argument("provider", metavar="PROVIDER")
    _add_json(resume)


def _setting_up(commands: Commands) -> None:
    migrate = _command(commands, "migrate", "setup:migrate", words.MIGRATE)
    migrate.add_argument("--plan", action="store_true", help="only tell what would be done")
    migrate.add_argument(
        "--roles",
        action="store_true",
        help="create and grant the roles of sql/roles.sql, too; wants CREATEROLE",
    )
    _add_json(migrate)
    check = _command(commands, "check-config", "setup:check_config", words.CHECK_CONFIG)
    check.add_argument("--schema", action="store_true", help="print the file's JSON Schema, for editors")
    _add_json(check)
    auth = _command(commands, "auth", "auth:auth", words.AUTH)
    auth.add_argument("provider", choices=("stockx",), metavar="PROVIDER", help="stockx")
    auth.add_argument("--account", default="default", metavar="NAME", help="one of the provider's `accounts`")
    auth.add_argument(
        "--redirect-uri",
        default="http://localhost:8976/callback",
        metavar="URI",
        help="as registered for the application (default: %(default)s)",
    )
    auth.add_argument("--paste", action="store_true", help="paste the address that the browser ends at")
    version = _command(commands, "version", "setup:version", words.VERSION)
    _add_json(version)


def _command(commands: Commands, name: str, handler: str, help_text: str) -> argparse.ArgumentParser:
    """A command whose help begins with one line, then teaches; examples follow after `Examples:`."""
    summary, _, rest = dedent(help_text).strip().partition("\n")
    body, mark, examples = rest.partition("Examples:")
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary}\n{body.rstrip()}",
        epilog=mark + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(parser, default=argparse.SUPPRESS)
    parser.set_defaults(handler=handler)
    return parser


def _add_config(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--config",
        default=default,
        metavar="FILE",
        help="default: $MARKETD_CONFIG, else ./config.yaml, else /etc/marketd/config.yaml",
    )


def _add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="answer in JSON, for programs")


def subjects(words_given: Sequence[str]) -> tuple[int | None, tuple[str, ...]]:
    """What `why` was asked: a job's id, or provider, sku and perhaps size. ValueError for anything else."""
    if len(words_given) == 1:
        return job_id(words_given[0]), ()
    if len(words_given) > 3:
        raise ValueError("expected PROVIDER SKU [SIZE]; a size of two words needs quotes: 'UK 9'")
    return None, tuple(words_given)
