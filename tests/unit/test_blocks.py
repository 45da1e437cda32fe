"""Calls charged ahead: asked for under load only, each handed out once, at its turn, and never when it is void."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import inf

import pytest

from marketd.store.blocks import Block, Blocks

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOW = 1000.0


def block(*, calls: int = 3, urgent: bool = True, step_s: float = 0.001, now: float = NOW) -> Block:
    return Block(
        calls=calls, urgent=urgent, wake_priority=150, granted_at=AT, step_s=step_s, due=now + 0.01,
        void_at=now + 0.06, valid_until=now + 4.0, receipt="r", cost_window=AT,
    )  # fmt: skip


def held(*blocks: Block) -> Blocks:
    blocks_held = Blocks()
    for one in blocks:
        blocks_held.hold(one)
    return blocks_held


def test_each_call_is_handed_out_once_and_at_its_turn() -> None:
    blocks = held(block())
    grants = [blocks.next(200, NOW) for _ in range(4)]
    assert grants[3] is None
    found = [(grant.granted_at - AT, round(grant.leave_at - NOW, 6)) for grant in grants if grant]
    assert found == [
        (timedelta(seconds=0), 0.01),
        (timedelta(seconds=0.001), 0.011),
        (timedelta(seconds=0.002), 0.012),
    ]


def test_a_call_that_is_asked_for_after_its_turn_is_granted_then_and_not_before() -> None:
    grant = held(block()).next(200, NOW + 0.05)
    assert grant is not None
    assert grant.granted_at == AT + timedelta(seconds=0.04)
    assert (grant.leave_at, grant.until) == (pytest.approx(NOW + 0.05), NOW + 4.0)


@pytest.mark.parametrize(("step_s", "slack_s"), [(0.001, 0.025), (0.0001, 0.025), (0.00001, inf)])
def test_only_where_the_pace_is_beyond_reach_a_call_may_leave_at_any_moment(
    step_s: float, slack_s: float
) -> None:
    grant = held(block(step_s=step_s)).next(200, NOW)
    assert grant is not None
    assert grant.slack_s == pytest.approx(slack_s)


@pytest.mark.parametrize("late_s", [0.06, 0.3, 100.0])
def test_what_is_void_is_handed_to_nobody(late_s: float) -> None:
    assert held(block()).next(200, NOW + late_s) is None


def test_a_block_serves_its_own_urgency_only() -> None:
    blocks = held(block(urgent=False, calls=9), block(urgent=True, calls=1))
    assert blocks.next(150, NOW) is not None
    assert blocks.next(150, NOW) is None
    assert blocks.next(149, NOW) is not None


def test_what_was_given_up_is_counted_once_and_handed_to_nobody() -> None:
    one = block(calls=5)
    blocks = held(one)
    blocks.next(200, NOW)
    assert (blocks.give_up(one), blocks.give_up(one)) == (4, 0)
    assert blocks.next(200, NOW) is None


def test_nothing_is_charged_ahead_for_a_lone_request_now_and_then() -> None:
    blocks = Blocks()
    for n in range(100):
        blocks.next(200, NOW + n * 0.05)
        assert blocks.wanted(NOW + n * 0.05) == 0


def test_under_load_as_many_are_wanted_as_the_next_moments_will_need_and_none_once_it_is_over() -> None:
    blocks = Blocks()
    for n in range(300):  # a thousand a second
        blocks.next(200, NOW + n / 1000)
    assert blocks.wanted(NOW + 0.3) == pytest.approx(40, abs=4)
    assert blocks.wanted(NOW + 1.3) == 0


def test_after_a_refusal_it_is_not_asked_for_again_at_once() -> None:
    blocks = Blocks()
    for _ in range(100):
        blocks.next(200, NOW)
    blocks.refused(NOW)
    assert blocks.wanted(NOW + 0.01) == 0
    for _ in range(100):
        blocks.next(200, NOW + 1.1)
    assert blocks.wanted(NOW + 1.1) > 0
