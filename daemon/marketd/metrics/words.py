"""The closed sets that labels are made of, and how reports become their words."""

from __future__ import annotations

from typing import Final

from marketd.outcome import Failed, Outcome, Priced, Released, Retried, Snoozed

BANDS: Final = ("manual", "hot", "background")
#: of market_enqueue; `fresh` and refused ones leave no trace in the database and are not counted
REQUEST_RESULTS: Final = ("queued", "merged", "raised")
#: of open jobs; finished ones are not counted, for they only grow until they are pruned
STATUSES: Final = ("pending", "running", "deferred")
OUTCOMES: Final = ("priced", "no_asks", "all_sizes", "retried", "released", "snoozed", "failed")
LANE_STATES: Final = ("ready", "paused", "cooldown", "circuit", "off")
REFUSALS: Final = ("budget", "pace", "cooldown", "circuit", "paused", "off")
PRICE_RESULTS: Final = ("changed", "same")
WINDOWS: Final = ("hour", "day")
TARGET_STATES: Final = ("fresh", "stale", "never", "cooling")
AGE_PERCENTILES: Final = ("50", "95", "100")
RUN_RESULTS: Final = ("ok", "failed", "skipped")
#: what an operator should look into; these count against the error budget
TROUBLES: Final = (
    "timeout",
    "connection",
    "server_error",
    "bad_payload",
    "bad_json",
    "too_large",
    "content_type",
    "no_answer",
    "rejected",
    "internal",
    "other",
)
#: precise answers to what was asked; the asker has to ask for something else
REFUSED_ITEMS: Final = (
    "unknown_sku",
    "mapping_broken",
    "ambiguous_product",
    "ambiguous_size",
    "size_not_offered",
    "size_required",
    "size_system",
    "currency",
    "forbidden",
)
ERRORS: Final = TROUBLES + REFUSED_ITEMS
REQUEST_CLASSES: Final = (
    "ok",
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "throttled",
    "server_error",
    "timeout",
    "connection",
    "bad_payload",
    "other",
)


def band(priority: int, wake_priority: int) -> str:
    """The band of a priority, as in SQL: `manual` from 200, `hot` from `wake_priority`, else `background`."""
    if priority >= 200:
        return "manual"
    return "hot" if priority >= wake_priority else "background"


def error_word(outcome: Outcome) -> str | None:
    """The label of what went wrong, one of `ERRORS`; None when nothing did."""
    match outcome:
        case Retried(error_code=code) | Failed(error_code=code):
            return code if code in ERRORS else "other"
        case _:
            return None


def outcome_word(outcome: Outcome) -> str:
    """The label of an outcome, one of `OUTCOMES`."""
    match outcome:
        case Priced(reason=reason):
            return reason if reason in OUTCOMES else "priced"
        case Retried():
            return "retried"
        case Released():
            return "released"
        case Snoozed():
            return "snoozed"
        case Failed():
            return "failed"
