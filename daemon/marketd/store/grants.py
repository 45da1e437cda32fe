"""What the answers of `take`, `take_block` and `move` mean on this machine's clock. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import asyncpg

from marketd.errors import NotGranted
from marketd.limiter import Grant, slack_s
from marketd.store.blocks import Block
from marketd.store.server_clock import ServerClock


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


def charged(
    rows: Sequence[asyncpg.Record], clock: ServerClock, asked: float, answered: float
) -> list[Grant | Exception]:
    """The grants of a batch. What it waited for the account's row on the way is no part of the way."""
    return [
        Grant(
            granted_at=row["granted_at"],
            leave_at=_leave_at(row, row["granted_at"], clock, asked, answered),
            until=asked + row["valid_s"],
            receipt=row["receipt"],
            slack_s=0.0 if row["step_s"] is None else slack_s(row["step_s"], usual_s=0.0),
            cost_window=row["cost_window"],
        )
        if row["granted"]
        else NotGranted(row["reason"], row["until"])
        if row["wait_s"] is None
        else NotYet(_in_time(row["wait_s"], clock))
        for row in rows
    ]


def moved(
    missed: Sequence[Grant],
    rows: Sequence[asyncpg.Record],
    clock: ServerClock,
    asked: float,
    answered: float,
) -> list[Grant | Exception]:
    """The grants of a batch, each with its new moment."""
    answers: list[Grant | Exception] = []
    behind = 0  # those who have to ask again do so one by one, each when a moment is free for it
    for grant, row in zip(missed, rows, strict=True):
        if row["reason"] is not None:
            answers.append(NotGranted(row["reason"], row["until"]))
        elif row["wait_s"] is not None:
            answers.append(NotYet(_in_time(row["wait_s"] + behind * row["step_s"], clock)))
            behind += 1
        else:
            leave_at = _leave_at(row, row["moment"], clock, asked, answered)
            answers.append(replace(grant, granted_at=row["moment"], leave_at=leave_at))
    return answers


def _leave_at(
    row: asyncpg.Record, moment: datetime, clock: ServerClock, asked: float, answered: float
) -> float:
    """The moment on this machine's clock; the row also tells when the server gave it, which bounds its clock."""
    delay_s: float = row["delay_s"]
    clock.read(moment.timestamp() - delay_s, asked + max(0.0, row["after_s"]), answered)
    return clock.local(moment.timestamp())


def _in_time(wait_s: float, clock: ServerClock) -> float:
    """The wait, less what the answer and the next question take on their ways."""
    return max(0.0, wait_s - clock.way_s)
