"""The budget ledger as a small model: every interleaving of its steps, and what each rule of it is there for.

`market__charge` and `market_give_back` in words: a charge happens under the account's row lock and only below the
limit; it holds for the window that it was made in; what was not sent by then is given back, once; what may have been
sent never is. A block is several calls charged at once, which are handed out without another look at the ledger.
The model is searched whole: all orders of takers' steps, crashes, window changes and limit changes. Each rule can be
left out, and then the search must find the request too many: else the search would prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import pytest

WINDOWS = 2
BLOCK = 2  #: calls
IDLE, LOOKED, CHARGED, SENDING, SENT, DEAD = "idle", "looked", "charged", "sending", "sent", "dead"


@dataclass(frozen=True)
class Rules:
    """What holds. Every one left out is a bug that the search has to find."""

    check_and_charge_at_once: bool = True
    void_after_its_window: bool = True
    give_back_once: bool = True
    keep_the_doubtful: bool = True
    read_the_limit_when_charging: bool = True
    a_block_fits_whole: bool = True
    hand_out_once: bool = True
    return_a_block_once: bool = True


@dataclass(frozen=True)
class Taker:
    """One request on its way. `saw`: the limit that it read; `window`: what it was charged to."""

    at: str = IDLE
    window: int = -1
    saw: int = -1


@dataclass(frozen=True)
class World:
    takers: tuple[Taker, ...]
    limit: int
    now: int = 0  #: the present window
    used: tuple[int, ...] = (0,) * WINDOWS
    wire: tuple[int, ...] = (0,) * WINDOWS  #: what the provider counts
    allowed: tuple[int, ...] = (0,) * WINDOWS  #: the highest limit that held in each window
    changes: int = 1  #: changes of the limit that may still come
    blocks: int = 1  #: blocks that may still be taken
    ahead: int = 0  #: calls of a block that nobody has yet
    ahead_window: int = -1  #: what they were charged to


def _put(values: tuple[int, ...], at: int, by: int) -> tuple[int, ...]:
    return (*values[:at], max(0, values[at] + by), *values[at + 1 :])


def _allowing(world: World) -> World:
    more = max(0, world.limit - world.allowed[world.now])
    return replace(world, allowed=_put(world.allowed, world.now, more))


def _moved(world: World, n: int, taker: Taker, **changes: object) -> World:
    takers = (*world.takers[:n], taker, *world.takers[n + 1 :])
    return replace(world, takers=takers, **changes)  # type: ignore[arg-type]


def _charge(world: World, n: int, limit: int) -> Iterator[World]:
    if world.used[world.now] < limit:
        yield _moved(world, n, Taker(CHARGED, world.now), used=_put(world.used, world.now, 1))


def _steps(world: World, rules: Rules) -> Iterator[World]:
    if world.now + 1 < WINDOWS:
        yield _allowing(replace(world, now=world.now + 1))
    if world.changes:
        for limit in (world.limit + 1, world.limit - 1):
            yield _allowing(replace(world, limit=limit, changes=world.changes - 1))
    yield from _steps_of_a_block(world, rules)
    for n, taker in enumerate(world.takers):
        yield from _steps_of(world, n, taker, rules)


def _steps_of_a_block(world: World, rules: Rules) -> Iterator[World]:
    room = world.limit - world.used[world.now]
    if world.blocks and not world.ahead and room >= (BLOCK if rules.a_block_fits_whole else 1):
        used = _put(world.used, world.now, BLOCK)
        yield replace(world, blocks=world.blocks - 1, ahead=BLOCK, ahead_window=world.now, used=used)
    if world.ahead:
        yield replace(world, ahead=0)  # kill -9: it stays charged
        back = _put(world.used, world.ahead_window, -world.ahead)
        yield replace(world, ahead=0, used=back)
        if not rules.return_a_block_once:
            yield replace(world, used=back)


def _hand_out(world: World, n: int, rules: Rules) -> Iterator[World]:
    if world.ahead and (world.ahead_window == world.now or not rules.void_after_its_window):
        left = world.ahead - rules.hand_out_once
        yield _moved(world, n, Taker(CHARGED, world.ahead_window), ahead=left)


def _steps_of(world: World, n: int, taker: Taker, rules: Rules) -> Iterator[World]:
    if taker.at in (IDLE, LOOKED, CHARGED, SENDING):
        yield _moved(world, n, replace(taker, at=DEAD))  # kill -9: whatever is charged stays charged
    if taker.at == IDLE:
        yield from _hand_out(world, n, rules)
    match taker.at:
        case "idle" if rules.check_and_charge_at_once and rules.read_the_limit_when_charging:
            yield from _charge(world, n, world.limit)
        case "idle" if world.used[world.now] < world.limit:
            yield _moved(world, n, Taker(LOOKED, world.now, world.limit))
        case "looked" if rules.check_and_charge_at_once:
            yield from _charge(world, n, taker.saw)
        case "looked":
            yield _moved(world, n, Taker(CHARGED, world.now), used=_put(world.used, world.now, 1))
        case "charged":
            yield from _leave_or_give_back(world, n, taker, rules)
        case "sending":
            arrived = _put(world.wire, world.now, 1)
            yield _moved(world, n, replace(taker, at=SENT), wire=arrived)
            if not rules.keep_the_doubtful:  # it arrived, but the answer was lost: "surely it did not"
                yield _moved(world, n, Taker(), wire=arrived, used=_put(world.used, taker.window, -1))


def _leave_or_give_back(world: World, n: int, taker: Taker, rules: Rules) -> Iterator[World]:
    if taker.window == world.now or not rules.void_after_its_window:
        yield _moved(world, n, replace(taker, at=SENDING))  # from here on nobody can tell whether it arrives
    back = _put(world.used, taker.window, -1)  # no connection, cancelled, or void
    yield _moved(world, n, Taker(), used=back)
    if not rules.give_back_once:
        yield _moved(world, n, Taker(), used=_put(back, taker.window, -1))


def _broken(world: World) -> bool:
    """More charged, or more at the provider, than was allowed at any time of the window."""
    return any(
        max(used, wire) > allowed
        for used, wire, allowed in zip(world.used, world.wire, world.allowed, strict=True)
    )


def _search(start: World, rules: Rules) -> tuple[int, World | None]:
    """How many states there are, and the first that breaks the promise."""
    seen, todo = {start}, [start]
    while todo:
        world = todo.pop()
        if _broken(world):
            return len(seen), world
        for step in _steps(world, rules):
            # Who is who does not matter: one order of takers stands for all.
            step = replace(step, takers=tuple(sorted(step.takers, key=repr)))
            # A request that was sent before its window's end arrives in it: the guard second sees to that.
            late = any(t.at == SENDING and t.window < step.now for t in step.takers)
            if step not in seen and not (late and rules.void_after_its_window):
                seen.add(step)
                todo.append(step)
    return len(seen), None


def _world(takers: int, limit: int, changes: int = 1, blocks: int = 1) -> World:
    return _allowing(World(takers=(Taker(),) * takers, limit=limit, changes=changes, blocks=blocks))


@pytest.mark.parametrize(
    ("takers", "limit", "changes", "blocks"),
    [(2, 1, 2, 0), (3, 1, 1, 0), (3, 2, 1, 1), (4, 2, 1, 0), (3, 3, 1, 2)],
)
def test_no_order_of_takers_blocks_crashes_and_changes_sends_one_too_many(
    takers: int, limit: int, changes: int, blocks: int
) -> None:
    states, found = _search(_world(takers, limit, changes, blocks), Rules())
    assert found is None, found
    assert states > 400


@pytest.mark.parametrize("rule", [field.name for field in fields(Rules)])
def test_without_any_one_rule_the_search_finds_a_request_too_many(rule: str) -> None:
    _, found = _search(_world(3, 2), replace(Rules(), **{rule: False}))
    assert found is not None
