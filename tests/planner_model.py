"""What one more look at a price is worth: the mathematics of the background order, as values alone.

The same formulas stand in sql/migrations/0006_planner.sql, where they run over a whole watchlist at once; a test holds
the two together. Times are hours, rates are per hour.

Model: a price changes as a Poisson process of unknown rate. What is known of the rate is a Gamma distribution, and a
fetch teaches one bit: the price is still the old one, or not. `still` is the chance that the stored price is right,
`right_time` its integral over the age. Refreshing the unit with the largest `value` first is optimal for
views that see a present price (Cho and Garcia-Molina 2003; Azar and others 2018 have the fluid optimum).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_LEAST_B = 1e-6
_LOWEST_EXPONENT = -600.0  # Postgres raises where Python rounds to 0


@dataclass(frozen=True, slots=True)
class Rate:
    """Gamma(a, b) belief in a change rate: `a` changes seen in `b` hours."""

    a: float = 0.5
    b: float = 12.0

    @property
    def mean(self) -> float:
        """Expected changes an hour."""
        return self.a / self.b

    def still(self, age_h: float) -> float:
        """Probability that nothing changed in `age_h` hours, 0 to 1."""
        return math.exp(max(_LOWEST_EXPONENT, self.a * self._log_ratio(age_h)))

    def right_time(self, age_h: float) -> float:
        """Expected hours, of the last `age_h`, in which the stored price was right."""
        log_ratio = self._log_ratio(age_h)
        x = (self.a - 1) * log_ratio
        if abs(x) < 1e-4:  # a = 1 is no special case of the world, only of the closed form
            return -self.b * log_ratio * (1 + x / 2 + x * x / 6)
        return self.b / (self.a - 1) * (1 - math.exp(max(_LOWEST_EXPONENT, x)))

    def observed(self, gap_h: float, changed: bool, *, cap: float = 10.0, slowest_h: float = 4320.0) -> Rate:
        """The belief after a fetch `gap_h` hours after the one before.

        Exact for "not changed"; for "changed" the Gamma with the first two moments of the true posterior.
        At most `cap` changes are remembered, and no rate below a change in `slowest_h` per shape is believed.
        """
        if gap_h <= 0:
            return self
        if not changed:
            return Rate(self.a, min(self.b + gap_h, max(slowest_h, self.b)))
        a, b = self._moments(gap_h)
        if a > cap:
            a, b = cap, b * cap / a
        return Rate(a, max(b, _LEAST_B))

    def _moments(self, gap_h: float) -> tuple[float, float]:
        a, b = self.a, self.b
        ratio = b / (b + gap_h)
        unchanged = self.still(gap_h)
        if 1 - unchanged < 1e-6:
            return a + 1, b
        scale = 1 / (1 - unchanged)
        first = a / b * (1 - unchanged * ratio) * scale
        variance = a * (a + 1) / (b * b) * (1 - unchanged * ratio * ratio) * scale - first * first
        return first * first / variance, first / variance

    def _log_ratio(self, age_h: float) -> float:
        return -math.log1p(max(0.0, age_h) / self.b)


def first_value(
    views_per_h: float, rate: Rate, memory_h: float = 168.0, kappa: float = 0.05
) -> tuple[float, float]:
    """(gain, value) of a call for a unit that has no price yet: all its views are wrong now.

    The price will be right for `rate.right_time` of the next `memory_h` hours; for longer the rate of views is not
    believed. A price that does not hold an hour brings little even where there was none.
    """
    right_h = rate.right_time(memory_h)
    return views_per_h * right_h, views_per_h * (right_h + kappa * max(0.0, memory_h - right_h))


def gain(views_per_h: float, rate: Rate, age_h: float) -> float:
    """Views that a call now turns from a wrong to a right price, against leaving the unit as it is."""
    return views_per_h * max(0.0, rate.right_time(age_h) - age_h * rate.still(age_h))


def value(views_per_h: float, rate: Rate, age_h: float, kappa: float = 0.05) -> float:
    """The order of the plan: `gain`, and `kappa` times the wrong time, so that nothing fast is given up for lost."""
    wrong_h = max(0.0, age_h - rate.right_time(age_h))
    return gain(views_per_h, rate, age_h) + kappa * views_per_h * wrong_h


def view_rate(
    views: float,
    sizes: int,
    tracked_h: float,
    *,
    typical: float,
    memory_h: float = 168.0,
    size_weight: float = 0.2,
) -> float:
    """Expected views an hour of a unit.

    `views` fade with the time constant `memory_h`, `tracked_h` says for how long they were counted, `typical` is the
    mean rate of one size, and `size_weight` how many views that prior is worth.
    """
    counted_h = memory_h * -math.expm1(-max(0.0, tracked_h) / memory_h)
    return (views + size_weight * max(1, sizes)) / (size_weight / typical + counted_h)


def share(calls_left: float, usable_s: float, interval_s: float) -> float:
    """Calls of the next interval when what is left is spread evenly over the seconds that are left."""
    if calls_left <= 0:
        return 0.0
    return calls_left * min(1.0, interval_s / usable_s) if usable_s > 0 else calls_left
