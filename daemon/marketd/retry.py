"""What becomes of a job: decided here, from values alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from marketd import clock, errors
from marketd.models import Job, Quote, Unit
from marketd.outcome import Failed, Outcome, Priced, Released, Retried
from marketd.provider import Answers, Found


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """`delay_s(attempt)` is the backoff before the next try; `cooldown` keeps background away after a final no."""

    delay_s: Callable[[int], float]
    cooldown: timedelta


def decide_found(unit: Unit, found: Found, policy: RetryPolicy) -> list[tuple[Job, Outcome]]:
    """One outcome per job of a fetch that came back. A size that the provider forgot to answer is our bug: retried."""
    quotes = {quote.size: quote for quote in found.quotes}
    return [(job, _answer(job, found.answers, quotes, policy)) for job in unit.jobs]


def _answer(
    job: Job,
    answers: Answers,
    quotes: Mapping[str | None, Quote],
    policy: RetryPolicy,
) -> Outcome:
    if job.size not in answers:
        return _retried(job, "no_answer", f"the fetch did not answer size {job.size}", policy)
    answer = answers[job.size]
    if isinstance(answer, errors.MarketdError):
        return decide_error(job, answer, policy)
    if answer is None and None not in quotes:
        return Priced(size=None, reason="all_sizes") if quotes else Priced(size=None, reason="no_asks")
    if answer not in quotes:
        return Priced(size=answer, reason="no_asks")
    return Priced(size=answer, reason="no_asks" if quotes[answer].lowest_ask is None else "priced")


def decide_error(job: Job, error: BaseException, policy: RetryPolicy) -> Outcome:
    """The outcome of one job when its fetch, or its part of it, raised."""
    match error:
        case errors.NotGranted(reason=reason):
            return Released(reason=reason)
        case errors.Throttled():
            return Released(reason="throttled")
        case errors.Unauthorized():
            return Released(reason="unauthorized")
        case errors.DatabaseUnfit():
            # Never the last attempt: no job is at fault, and a claim may well go on to succeed. Not at once, either.
            delay = timedelta(seconds=policy.delay_s(job.attempt))
            return Retried(delay=delay, error_code="internal", message=str(error)[:300])
        case errors.DatabaseUnavailable():
            return Released(reason="database")
        case errors.Unmatched(error_code=code) | errors.NotListed(error_code=code):
            return Failed(error_code=code, message=str(error), cooldown=policy.cooldown)
        case errors.Rejected(error_code=code):
            return Failed(error_code=code, message=str(error), cooldown=timedelta())
        case errors.ProviderError(error_code=code):
            return _retried(job, code, str(error), policy)
        case _:
            # Not an answer of the provider but a fault of ours; its traceback is in the log.
            return _retried(job, "internal", f"{type(error).__name__}: {error}"[:300], policy)


def database_backoff_s(failures: int, error: errors.DatabaseError) -> float:
    """Before the next try after so many in a row: away is over soon, a refusal a person has to mend."""
    refused = isinstance(error, errors.StatementRefused)
    return clock.full_jitter(failures, base_s=0.25, cap_s=30.0 if refused else 3.0)


def _retried(job: Job, code: str, message: str, policy: RetryPolicy) -> Outcome:
    if job.attempt >= job.max_attempts:
        return Failed(error_code=code, message=f"{message} (attempt {job.attempt})", cooldown=timedelta())
    return Retried(delay=timedelta(seconds=policy.delay_s(job.attempt)), error_code=code, message=message)
