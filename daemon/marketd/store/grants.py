"""What the answers of `take`, `take_block` and `move` mean on this machine's clock. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import asyncpg

from marketd.errors import NotGranted
from marketd.limiter import Grant, slack_s
from marketd.store.blocks import Block


class NotYet(Exception):
    """Nothing is charged; asking again after `wait_s` is better than giving the fetch up."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


def block(row: asyncpg.Record, asked: float, answered: float) -> Block:
    """It was charged between the two: nothing may leave too early by it, nor too late."""
    return Block(
        calls=row["calls"],
        urgent=row["urgent"],
        wake_priority=row["wake_priority"],
        granted_at=row["granted_at"],
        step_s=row["step_s"],
        due=answered + row["delay_s"],
        void_at=asked + row["hold_s"],
        valid_until=asked + row["valid_s"],
        receipt=row["receipt"],
        cost_window=row["cost_window"],
    )


def charged(row: asyncpg.Record, spent_s: float) -> Grant | Exception:
    """`spent_s`: from asking to the answer, which a batch gets together, and perhaps late."""
    if not row["granted"]:
        wait_s = row["wait_s"]
        return NotGranted(row["reason"], row["until"]) if wait_s is None else NotYet(wait_s)
    valid_s = row["valid_s"] - spent_s
    return Grant(
        granted_at=row["granted_at"],
        delay_s=row["delay_s"],
        valid_s=valid_s,
        receipt=row["receipt"],
        age_s=_age_s(row, spent_s),
        slack_s=0.0 if row["step_s"] is None else slack_s(row["step_s"], valid_s, usual_s=0.0),
        cost_window=row["cost_window"],
    )


def moved(missed: Sequence[Grant], rows: Sequence[asyncpg.Record], spent_s: float) -> list[Grant | Exception]:
    """The grants of a batch, each with its new moment."""
    answers: list[Grant | Exception] = []
    behind = 0  # those who have to ask again do so one by one, each when a moment is free for it
    for grant, row in zip(missed, rows, strict=True):
        if row["reason"] is not None:
            answers.append(NotGranted(row["reason"], row["until"]))
        elif row["wait_s"] is not None:
            answers.append(NotYet(row["wait_s"] + behind * row["step_s"]))
            behind += 1
        else:
            age_s = _age_s(row, spent_s)
            answers.append(replace(grant, granted_at=row["moment"], delay_s=row["delay_s"], age_s=age_s))
    return answers


def _age_s(row: asyncpg.Record, spent_s: float) -> float:
    """How long ago it may have been granted. What it waited for the row's lock before that makes it no later."""
    after_s: float = row["after_s"]
    return max(0.0, spent_s - max(0.0, after_s))
