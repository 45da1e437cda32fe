"""A seeded world for one provider: products, sizes, views, price changes, and what users ask for urgently.

Times are hours since the world began. All events are drawn before the run, so every policy sees the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_SPAN = 1e7  #: larger than any time; record * _SPAN + time sorts by record, then by time


@dataclass(frozen=True)
class Shape:
    """What kind of world: `correlated` popularity and change, `spiky` releases and bursty changes."""

    items: int
    days: int
    seed: int
    correlated: bool = True
    spiky: bool = False


@dataclass(frozen=True)
class World:
    """One provider's part. A record is one (product, size); `unit_of` says which call refreshes it."""

    provider: str
    quota: int
    unit_of: Ints  #: record -> unit
    product_of: Ints  #: unit -> product
    born: Floats  #: record -> when it was added
    view_rate: Floats  #: record -> true views an hour
    change_rate: Floats  #: record -> true changes an hour
    changes: Floats  #: record * _SPAN + time, sorted
    view_at: Floats
    view_of: Ints  #: record of each view, in order of time
    ask_at: Floats  #: urgent requests
    ask_of: Ints  #: their records
    hours: float

    @property
    def units(self) -> int:
        return len(self.product_of)

    def versions(self, records: Ints, at: Floats | float) -> Ints:
        """How many changes each record has seen by that time, as a number that only differences mean anything of."""
        return np.searchsorted(self.changes, records * _SPAN + at, side="right")


def make(shape: Shape, provider: str, quota: int, *, coalesced: bool) -> World:
    """The world of one provider; `coalesced`: one call returns all sizes of a product."""
    draw = np.random.default_rng([shape.seed, shape.items, 1])  # the same items for all providers
    n = shape.items // 3
    product = _products(draw, n)
    products = int(product[-1]) + 1
    popularity = (draw.permutation(products) + 1.0) ** -1.0
    part = draw.exponential(size=n)
    part /= np.bincount(product, part)[product]
    view_rate = popularity[product] * part * (draw.random(n) > 0.25)
    view_rate *= n / 24 / view_rate.sum()
    standard = (np.log(popularity) - np.log(popularity).mean()) / np.log(popularity).std()
    mix = 0.4 if shape.correlated else 0.0
    speed = 1.2 * (mix * standard + np.sqrt(1 - mix * mix) * draw.normal(size=products))
    change_rate = np.exp(speed[product] + 0.8 * draw.normal(size=n)) / 12
    hours = shape.days * 24.0
    own = np.random.default_rng([shape.seed, shape.items, 2, quota])
    born = np.where(own.random(n) < 0.15, _bursts(own, n, hours), 0.0)
    spikes = _spikes(own, products, hours) if shape.spiky else None
    changes = _changes(own, change_rate, product, hours, spikes)
    view_at, view_of = _views(own, view_rate, born, product, hours, spikes)
    ask_at, ask_of = _asks(own, view_rate, born, hours)
    unit_of = product if coalesced else np.arange(n)
    product_of = np.arange(products) if coalesced else product
    return World(provider, quota, unit_of, product_of, born, view_rate, change_rate, changes, view_at, view_of,
                 ask_at, ask_of, hours)  # fmt: skip


def _products(draw: np.random.Generator, n: int) -> Ints:
    sizes = np.clip(np.round(np.exp(draw.normal(np.log(4), 0.8, n))), 1, 20).astype(int)
    return np.repeat(np.arange(n), sizes)[:n]


def _bursts(draw: np.random.Generator, n: int, hours: float) -> Floats:
    """When later items are added: in imports of eight on average."""
    starts = draw.random(max(1, n * 15 // 100 // 8)) * hours
    return starts[draw.integers(len(starts), size=n)]


def _spikes(draw: np.random.Generator, products: int, hours: float) -> Floats:
    """Each product's release, 36 hours of much interest and much movement; most have none (infinity)."""
    return np.where(draw.random(products) < hours / 24 / 60, draw.random(products) * hours, np.inf)


def _changes(
    draw: np.random.Generator, rate: Floats, product: Ints, hours: float, spikes: Floats | None
) -> Floats:
    """Poisson; a third of the moves is common to a product. In a spiky world bursts and calms alternate."""
    common = 0.33 * np.minimum.reduceat(rate, np.flatnonzero(np.diff(product, prepend=-1)))
    events = [_poisson(draw, rate - common[product], np.arange(len(rate)), hours)]
    shared_of, shared_at = _split(_poisson(draw, common, np.arange(len(common)), hours))
    members = np.flatnonzero(np.diff(product, prepend=-1))
    counts = np.bincount(product)
    repeated = np.repeat(np.arange(len(shared_of)), counts[shared_of])
    offset = np.arange(len(repeated)) - np.repeat(
        np.cumsum(counts[shared_of]) - counts[shared_of], counts[shared_of]
    )
    events.append((members[shared_of][repeated] + offset) * _SPAN + shared_at[repeated])
    if spikes is not None:
        of, at = _split(np.concatenate(events))
        busy = (np.sin(at / 7.0 + of * 2.4) > 0.6) | (draw.random(len(at)) < 0.25)
        events = [(of * _SPAN + at)[busy]]
        of, at = _split(_poisson(draw, 4 * rate, np.arange(len(rate)), hours))
        inside = (at >= spikes[product[of]]) & (at < spikes[product[of]] + 36)
        events.append((of * _SPAN + at)[inside])
    return np.sort(np.concatenate(events))


def _poisson(draw: np.random.Generator, rate: Floats, of: Ints, hours: float) -> Floats:
    number = draw.poisson(np.maximum(rate, 0) * hours)
    return np.repeat(of, number) * _SPAN + draw.random(int(number.sum())) * hours


def _split(events: Floats) -> tuple[Ints, Floats]:
    of = (events // _SPAN).astype(np.int64)
    return of, events - of * _SPAN


def _views(
    draw: np.random.Generator,
    rate: Floats,
    born: Floats,
    product: Ints,
    hours: float,
    spikes: Floats | None,
) -> tuple[Floats, Ints]:
    """Poisson with a day's sine, nine times as many at 18:00 as at 06:00; none before an item was added."""
    events = _poisson(draw, rate * 1.8, np.arange(len(rate)), hours)
    of, at = _split(events)
    keep = draw.random(len(at)) < (1 + 0.8 * np.sin((at - 12) / 24 * 2 * np.pi)) / 1.8
    if spikes is not None:
        more_of, more_at = _split(_poisson(draw, rate * 29, np.arange(len(rate)), hours))
        inside = (more_at >= spikes[product[more_of]]) & (more_at < spikes[product[more_of]] + 36)
        of, at = np.concatenate([of[keep], more_of[inside]]), np.concatenate([at[keep], more_at[inside]])
        keep = np.ones(len(of), dtype=bool)
    keep &= at >= born[of]
    order = np.argsort(at[keep])
    return at[keep][order], of[keep][order]


def _asks(draw: np.random.Generator, rate: Floats, born: Floats, hours: float) -> tuple[Floats, Ints]:
    """Twelve manual refreshes an hour, by popularity, and a first fetch of every item that is added."""
    number = draw.poisson(12 * hours)
    at = draw.random(number) * hours
    of = draw.choice(len(rate), size=number, p=rate / rate.sum())
    new = np.flatnonzero(born > 0)
    at, of = np.concatenate([at, born[new]]), np.concatenate([of, new])
    keep = at >= born[of]
    order = np.argsort(at[keep], kind="stable")
    return at[keep][order], of[keep][order]
