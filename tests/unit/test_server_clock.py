"""The server's clock, told from answers: never further off than the quickest of them took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.store.server_clock import ServerClock

BEHIND_S = 1_796_000_000.0  #: this machine's monotonic clock, behind the server's

ways = st.tuples(st.floats(0.0001, 2.0), st.floats(0.0001, 2.0), st.floats(0.0, 30.0))


@given(st.lists(ways, min_size=1, max_size=30))
def test_it_is_wrong_by_half_of_the_quickest_answer_at_most(
    answers: list[tuple[float, float, float]],
) -> None:
    clock, now = ServerClock(), 1000.0
    for there_s, back_s, idle_s in answers:
        read = now + there_s
        clock.read(read + BEHIND_S, now, read + back_s)
        now = read + back_s + idle_s
    quickest_s = min(there_s + back_s for there_s, back_s, _ in answers)
    drift_s = 1e-4 * (now - 1000.0)
    assert clock.local(5000.0 + BEHIND_S) == pytest.approx(5000.0, abs=quickest_s / 2 + drift_s + 1e-6)
    assert clock.way_s <= max(there_s + back_s for there_s, back_s, _ in answers) + 1e-6


@given(st.floats(0.5, 1e6), st.booleans())
def test_a_clock_that_was_set_is_believed_at_once(by_s: float, forward: bool) -> None:
    clock = ServerClock()
    behind_s = BEHIND_S
    for asked in (1000.0, 1001.0):
        clock.read(asked + 0.01 + behind_s, asked, asked + 0.02)
    behind_s += by_s if forward else -by_s
    clock.read(1002.01 + behind_s, 1002.0, 1002.02)
    assert clock.local(2000.0 + behind_s) == pytest.approx(2000.0, abs=0.011)


def test_a_way_that_became_longer_is_known_after_some_answers_and_a_shorter_one_at_once() -> None:
    clock, now = ServerClock(), 1000.0

    def answered(after_s: float) -> float:
        nonlocal now
        clock.read(now + after_s / 2 + BEHIND_S, now, now + after_s)
        now += 1
        return clock.way_s

    assert answered(0.1) == pytest.approx(0.1)
    assert answered(0.5) < 0.2  # one that was slow
    for _ in range(60):
        answered(0.5)
    assert answered(0.5) == pytest.approx(0.5, rel=0.05)
    assert answered(0.02) == pytest.approx(0.02)
