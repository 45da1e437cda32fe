"""Logging: one line an event, as JSON or for a terminal, for our own records and for libraries'.

Keys come in a fixed order: `ts` (ISO 8601, UTC), `level`, `event` (a constant in snake case), `logger`, then
the fields. Under systemd each line starts with `<N>`, which the journal turns into its priority.
No traceback holds local variables, and `hide` masks secrets in whatever is about to be written.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from marketd import masking
from marketd.config import Log
from marketd.models import DEFAULT_ACCOUNT
from marketd.outcome import Failed, Outcome, Priced, Released, Retried, Snoozed
from marketd.telemetry import FetchReport, RequestReport

MASK = "**********"
SHORTEST_SECRET = 6  #: shorter texts are not hidden: they would garble every other line

_SYSLOG = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_FIRST = ("ts", "level", "event", "logger")
_MOST_LISTED = 20
_ALWAYS = "marketd.config"  #: a logger with a level of its own

# What must not be printed even if nobody told us that it is a secret: header, URL and form shapes.
_SHAPES = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/._~=-]{8,}"), rf"\1 {MASK}"),
    (re.compile(r"(://[^\s/:@\"]*):[^\s/@\"]+@"), rf"\1:{MASK}@"),
    (
        re.compile(
            r"(?i)\b(access_token|refresh_token|id_token|client_secret|x-api-key|api_key|password)"
            r"(\\?[\"']?\s*[=:]\s*\\?[\"']?)[^\s\"'&,;})\\]+"
        ),
        rf"\1\2{MASK}",
    ),
)

_hidden: re.Pattern[str] | None = None


def hide(secrets: Iterable[str]) -> None:
    """From now on masks these texts in every line; replaces what was hidden before."""
    global _hidden
    _hidden = masking.pattern(secret for secret in secrets if len(secret) >= SHORTEST_SECRET)


def masked(line: str) -> str:
    """`line` without the hidden texts, and without what looks like a credential."""
    if _hidden is not None:
        line = _hidden.sub(MASK, line)
    for shape, replacement in _SHAPES:
        line = shape.sub(replacement, line)
    return line


def setup(settings: Log, *, stream: TextIO | None = None, env: Mapping[str, str] = os.environ) -> None:
    """Sends all logging of the process to `stream` (stdout); may be called again after a reload."""
    stream = stream if stream is not None else sys.stdout
    journal = _is_journal(stream, env)
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty() and not journal)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_for_terminal(stream) if console else _for_machines()),
                _Finish(journal),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    logging.getLogger(_ALWAYS).setLevel(logging.INFO)
    # Each request and each statement of a library belongs to debugging of that library, not of ours.
    for noisy in ("aiohttp.access", "asyncio", "asyncpg"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _is_journal(stream: TextIO, env: Mapping[str, str]) -> bool:
    """Whether `stream` is the very pipe that systemd named; a redirected child inherits the variable too."""
    named = env.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def _for_machines() -> list[structlog.typing.Processor]:
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
    return [
        structlog.processors.ExceptionRenderer(tracebacks),
        _ordered,
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]


def _for_terminal(stream: TextIO) -> list[structlog.typing.Processor]:
    return [
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            timestamp_key="ts",
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]


def _ordered(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    first = {key: fields[key] for key in _FIRST if key in fields}
    return {**first, **{key: value for key, value in fields.items() if key not in first}}


class _Finish:
    """The last processor: masks the rendered text and gives each line its syslog priority."""

    def __init__(self, journal: bool) -> None:
        self._journal = journal

    def __call__(self, _logger: WrappedLogger, method: str, rendered: EventDict) -> str:
        text = masked(str(rendered))
        if not self._journal:
            return text
        prefix = f"<{_SYSLOG.get(method, 6)}>"
        return "\n".join(prefix + line for line in text.splitlines())


class LogObserver:
    """Tells reports as lines: a fetch at info, a request at debug, events at info or warning."""

    #: events after which the process ends, that only a bug of ours explains, or that a person has to mend
    ERRORS = frozenset({"cannot_start", "crashed", "database_refuses", "fetch_crashed"})
    #: events that an operator should look at; every other event is told at info
    WARNINGS = frozenset(
        {
            "config_differs",
            "config_needs_restart",
            "config_rejected",
            "database_unavailable",
            "gauges_failed",
            "give_back_failed",
            "lane_closed",
            "lease_extension_failed",
            "listener_lost",
            "lock_held",
            "provider_off",
            "rescued",
            "settle_given_up",
            "stale_completion",
        }
    )
    #: told at any level: who set it to warning still has to see that the reload was taken
    ALWAYS = frozenset({"config_reloaded"})
    #: events that come with every refused request, or as often as somebody likes
    QUIET = frozenset({"refused", "notification_ignored"})

    def __init__(self) -> None:
        self._log = structlog.stdlib.get_logger("marketd")
        self._always = structlog.stdlib.get_logger(_ALWAYS)

    def request_done(self, report: RequestReport) -> None:
        if not logging.getLogger().isEnabledFor(logging.DEBUG):
            return
        self._log.debug(
            "request_done",
            provider=report.provider,
            **_account(report.account),
            endpoint=report.endpoint,
            priority=report.priority,
            answer=report.status_class,
            http_status=report.http_status,
            took_s=round(report.took_s, 3),
            **({"given_back": True} if report.given_back else {}),
        )

    def fetches_done(self, reports: Sequence[FetchReport]) -> None:
        all_of_them = logging.getLogger().isEnabledFor(logging.INFO)
        for report in reports:
            if all_of_them or report.end != "settled" or report.error is not None:
                self._fetch_done(report)

    def _fetch_done(self, report: FetchReport) -> None:
        unit = report.unit
        fields = {
            "provider": unit.provider,
            **_account(unit.account),
            "sku": unit.sku,
            "sizes": list(unit.sizes[:_MOST_LISTED]),
            "priorities": dict(Counter(str(job.priority) for job in unit.jobs)),
            "jobs": [int(job.id) for job in unit.jobs[:_MOST_LISTED]],
            "outcomes": dict(Counter(_word(outcome) for outcome in report.outcomes)),
            "requests": report.requests,
            "quotes": report.quotes,
            "changed": report.changed,
            "wait_s": round(report.wait_s, 3),
            "fetch_s": round(report.fetch_s, 3),
            "settle_s": round(report.settle_s, 3),
        }
        if report.error is not None:
            self._log.error("fetch_done", **fields, exc_info=report.error)
        elif report.end != "settled":
            self._log.warning("fetch_done", **fields, **{report.end: True})
        else:
            self._log.info("fetch_done", **fields)

    def event(self, name: str, **fields: object) -> None:
        clash = fields.keys() & {"event", "level", "logger", "ts"}
        log = self._always if name in self.ALWAYS else self._log
        log.log(
            self._level(name, fields),
            name,
            **{f"{key}_" if key in clash else key: value for key, value in fields.items()},
        )

    def _level(self, name: str, fields: Mapping[str, object]) -> int:
        if name in self.ERRORS:
            return logging.ERROR
        if name in self.WARNINGS or fields.get("result") == "failed":
            return logging.WARNING
        return logging.DEBUG if name in self.QUIET else logging.INFO


def _account(name: str) -> dict[str, str]:
    return {} if name == DEFAULT_ACCOUNT else {"account": name}


def _word(outcome: Outcome) -> str:
    """An outcome with its reason or error code, as `retried:timeout`."""
    match outcome:
        case Priced(reason=reason):
            return reason
        case Retried(error_code=code):
            return f"retried:{code}"
        case Released(reason=reason):
            return f"released:{reason}"
        case Snoozed(reason=reason):
            return f"snoozed:{reason}"
        case Failed(error_code=code):
            return f"failed:{code}"
