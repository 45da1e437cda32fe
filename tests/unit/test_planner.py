"""The mathematics of the plan, against numerical integration and over ten years of age."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner_model import Rate, first_value, gain, share, value, view_rate

TEN_YEARS_H = 87_600.0

beliefs = st.builds(Rate, st.floats(0.05, 10), st.floats(1e-3, 4320))
# Not subnormal: there floats themselves lose their digits.
ages = st.floats(0, TEN_YEARS_H, allow_subnormal=False)
gaps = st.floats(1 / 60, 2000)


def _integral(f: list[float], step: float) -> float:
    """Simpson's rule over an even number of steps."""
    return step / 3 * (f[0] + f[-1] + 4 * sum(f[1:-1:2]) + 2 * sum(f[2:-1:2]))


def _posterior_moments(rate: Rate, gap: float, changed: bool) -> tuple[float, float]:
    """Mean and second moment of the rate after one bit, integrated over u = ln(rate)."""
    n, low, high = 4000, -60.0, 12.0
    step = (high - low) / n
    weights, rates = [], []
    for k in range(n + 1):
        u = low + k * step
        x = math.exp(u) / rate.b
        prior = rate.a * u - math.exp(u)
        kept = -x * gap
        weights.append(math.exp(prior + kept) if not changed else math.exp(prior) * -math.expm1(kept))
        rates.append(x)
    whole = _integral(weights, step)
    first = _integral([w * x for w, x in zip(weights, rates, strict=True)], step) / whole
    second = _integral([w * x * x for w, x in zip(weights, rates, strict=True)], step) / whole
    return first, second


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize("gap", [0.2, 3, 40, 900])
@pytest.mark.parametrize("rate", [Rate(0.5, 12), Rate(3, 2), Rate(1, 100), Rate(9.5, 400)])
def test_one_bit_moves_the_belief_to_the_moments_of_the_true_posterior(
    rate: Rate, gap: float, changed: bool
) -> None:
    learned = rate.observed(gap, changed, cap=1e9, slowest_h=1e9)
    first, second = _posterior_moments(rate, gap, changed)
    assert learned.mean == pytest.approx(first, rel=1e-4)
    assert learned.a * (learned.a + 1) / learned.b**2 == pytest.approx(second, rel=1e-4)


@pytest.mark.parametrize("age", [0.1, 5, 300, 9000])
@pytest.mark.parametrize("rate", [Rate(0.5, 12), Rate(1, 12), Rate(1.0005, 12), Rate(0.9999, 30), Rate(7, 2)])
def test_the_time_a_price_was_right_is_the_integral_of_its_chance_to_be_right(rate: Rate, age: float) -> None:
    n = 4000
    top = math.log1p(age / rate.b)  # substitution: age = b (e^u - 1)
    step = top / n
    f = [math.exp(-rate.a * k * step) * rate.b * math.exp(k * step) for k in range(n + 1)]
    assert rate.right_time(age) == pytest.approx(_integral(f, step), rel=1e-6)


@given(beliefs, ages, ages, st.floats(1e-6, 1e4))
def test_value_never_falls_with_age(rate: Rate, one: float, other: float, views: float) -> None:
    young, old = sorted((one, other))
    younger, older = value(views, rate, young), value(views, rate, old)
    assert older >= younger - 1e-9 * max(1.0, abs(younger))


@given(beliefs, ages, st.floats(0, 1e6), st.floats(0, 1))
def test_no_age_gives_nan_infinity_or_a_negative_value(
    rate: Rate, age: float, views: float, kappa: float
) -> None:
    for number in (
        rate.still(age),
        rate.right_time(age),
        gain(views, rate, age),
        value(views, rate, age, kappa),
    ):
        assert math.isfinite(number)
        assert number >= 0
    assert rate.still(age) <= 1
    assert rate.right_time(age) <= age * (1 + 1e-9)


@given(st.lists(st.tuples(gaps, st.booleans()), max_size=40))
def test_any_history_leaves_a_belief_within_its_bounds(history: list[tuple[float, bool]]) -> None:
    rate = Rate()
    for gap, changed in history:
        rate = rate.observed(gap, changed)
    assert 0 < rate.a <= 10
    assert 1e-6 <= rate.b <= 4320 * 3  # a change moves both moments, so b may grow a little


@given(beliefs, gaps)
def test_a_change_raises_the_believed_rate_and_no_change_lowers_it(rate: Rate, gap: float) -> None:
    assert rate.observed(gap, True).mean >= rate.mean * (1 - 1e-6)
    assert rate.observed(gap, False).mean <= rate.mean * (1 + 1e-12)


@given(beliefs, st.floats(-10, 0), st.booleans())
def test_two_looks_at_the_same_moment_teach_nothing(rate: Rate, gap: float, changed: bool) -> None:
    assert rate.observed(gap, changed) == rate


def test_a_belief_follows_a_market_that_changes_its_ways() -> None:
    rate = Rate()
    for _ in range(200):
        rate = rate.observed(1, True)
    busy = rate.mean
    for _ in range(40):
        rate = rate.observed(24, False)
    assert rate.mean < busy / 20


@given(beliefs, st.floats(1e-4, 1e3))
def test_everything_watched_becomes_worth_a_call_at_last(rate: Rate, views: float) -> None:
    assert value(views, rate, TEN_YEARS_H) > 0
    assert value(views, rate, TEN_YEARS_H) >= value(views, rate, TEN_YEARS_H / 2)


def test_a_fast_price_is_not_given_up_for_lost_when_kappa_is_above_zero() -> None:
    fast = Rate(10, 0.01)
    assert value(1, fast, 100, kappa=0) == pytest.approx(value(1, fast, 10, kappa=0), rel=1e-2)
    assert value(1, fast, 100, kappa=0.05) > 5 * value(1, fast, 10, kappa=0.05)


@given(beliefs, st.floats(1e-3, 1e3), st.floats(1, 8760))
def test_a_first_price_is_worth_more_than_any_later_one_of_the_same_age(
    rate: Rate, views: float, memory_h: float
) -> None:
    first_gain, first = first_value(views, rate, memory_h)
    assert first_gain >= gain(views, rate, memory_h) * (1 - 1e-9)
    assert first >= value(views, rate, memory_h) * (1 - 1e-9)
    assert first_gain <= views * memory_h * (1 + 1e-9)


def test_a_first_price_that_will_not_hold_does_not_crowd_out_what_is_viewed() -> None:
    """Units without any price once counted as a year old, and a long list of them took the whole budget."""
    fleeting, steady, viewed = Rate(9, 9), Rate(0.5, 400), Rate(2, 12)
    assert first_value(1, fleeting)[1] < value(5, viewed, 12) < first_value(1, steady)[1]


def test_a_new_unit_is_expected_to_be_viewed_as_often_as_others() -> None:
    assert view_rate(0, 3, 0, typical=0.05) == pytest.approx(0.15)


@given(st.floats(0, 1e4), st.integers(0, 50), st.floats(0, 1e5), st.floats(1e-4, 10))
def test_expected_views_are_positive_and_finite(
    views: float, sizes: int, hours: float, typical: float
) -> None:
    expected = view_rate(views, sizes, hours, typical=typical)
    assert 0 < expected < math.inf


def test_the_share_of_an_interval_is_what_is_left_spread_evenly() -> None:
    assert share(60, 3600, 60) == pytest.approx(1)
    assert share(60, 30, 60) == 60
    assert share(60, 0, 60) == 60
    assert share(-3, 100, 60) == 0


def test_the_example_of_the_document_is_what_the_formulas_say() -> None:
    page = Path(__file__).parents[2] / "docs" / "FRESHNESS.md"
    rows = re.findall(
        r"^\| (\d+) \| (\S+)(?: a one)? in (\d+) h \| (\d+) h ago \| (\d+) % \| ([\d.]+) \|",
        page.read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 4
    for views, changes, hours, age, still, worth in rows:
        rate = Rate(0.5 if changes == "half" else float(changes), float(hours))
        assert round(100 * rate.still(float(age))) == int(still)
        assert f"{gain(float(views) / 24, rate, float(age)):.2f}" == worth
