"""config.yaml: read, substituted, validated whole, every fault told at once with its place.

`load` and `parse` raise `ConfigError` whose problems read `file:line:col: key: reason`.
"""

from __future__ import annotations

from marketd.config.changes import RESTART_ONLY, Change, diff, restart_only
from marketd.config.durations import format_duration, parse_duration
from marketd.config.loading import from_mapping, json_schema, keep_running_parts, load, parse
from marketd.config.providers import (
    Account,
    Budget,
    Circuit,
    DayStart,
    Pace,
    Provider,
    ProviderTypes,
    Reserve,
)
from marketd.config.schema import (
    Backoff,
    Catalog,
    Config,
    Database,
    FallbackImages,
    Http,
    Jobs,
    Log,
    Planner,
    Prior,
    Scheduler,
    Testing,
)

__all__ = [
    "RESTART_ONLY",
    "Account",
    "Backoff",
    "Budget",
    "Catalog",
    "Change",
    "Circuit",
    "Config",
    "Database",
    "DayStart",
    "FallbackImages",
    "Http",
    "Jobs",
    "Log",
    "Pace",
    "Planner",
    "Prior",
    "Provider",
    "ProviderTypes",
    "Reserve",
    "Scheduler",
    "Testing",
    "diff",
    "format_duration",
    "from_mapping",
    "json_schema",
    "keep_running_parts",
    "load",
    "parse",
    "parse_duration",
    "restart_only",
]
