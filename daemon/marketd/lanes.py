"""The lanes of one daemon: one for each provider account that is on; made, changed, started and woken here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import replace

from marketd.fetch import LaneSettings
from marketd.fetching import Stores
from marketd.lane import Lane
from marketd.signals import Stop
from marketd.store.jobs import LaneState
from marketd.telemetry import Observer

Key = tuple[str, str]  #: provider, account


class Lanes(Mapping[Key, Lane]):
    """Grows with the configuration. A lane that is switched off stays, without slots."""

    def __init__(self, stores: Stores, observer: Observer, kick: Callable[[], None]) -> None:
        """`kick` makes the poller look at once."""
        self._stores = stores
        self._observer = observer
        self._kick = kick
        self._lanes: dict[Key, Lane] = {}
        self._start: Callable[[Lane], object] | None = None

    def __getitem__(self, key: Key) -> Lane:
        return self._lanes[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._lanes)

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def names(self) -> list[str]:
        """As logs and `systemctl status` tell them."""
        return [f"{provider}/{account}" for provider, account in self._lanes]

    def put(self, settings: LaneSettings) -> None:
        """Change the lane of these settings, or make it; it runs if the others do."""
        key = settings.provider, settings.account
        if (lane := self._lanes.get(key)) is not None:
            lane.reconfigure(settings)
            return
        lane = self._lanes[key] = Lane(settings, self._stores, self._observer, self._kick)
        if self._start is not None:
            self._start(lane)

    def halt_all_but(self, running: Container[Key]) -> None:
        """No more claims in other lanes: they were switched off here, and may be on in another daemon."""
        for key, lane in self._lanes.items():
            if key not in running:
                lane.reconfigure(replace(lane.settings, concurrency=0))

    def start(self, tasks: asyncio.TaskGroup, stop: Stop, grace_s: Callable[[], float]) -> None:
        """Run all in `tasks`, also those that a reload adds later, until `stop` and at most `grace_s` longer."""

        def start(lane: Lane) -> None:
            name = f"lane {lane.settings.provider}/{lane.settings.account}"
            tasks.create_task(lane.run(stop, grace_s), name=name)

        self._start = start
        for lane in self._lanes.values():
            start(lane)

    @property
    def busy(self) -> bool:
        """Whether a fetch is under way in any of them."""
        return any(lane.busy for lane in self._lanes.values())

    def wake(self, state: LaneState) -> None:
        """The poll found work for this one."""
        if lane := self._lanes.get((state.provider, state.account)):
            lane.wake()

    def wake_all(self) -> None:
        """Something may have changed for any of them."""
        for lane in self._lanes.values():
            lane.wake()

    def heard(self, payload: str) -> str | None:
        """A notification for all (empty) or for one provider. Returns the provider that it named and woke, if any."""
        if not payload:
            self.wake_all()
            return None
        named = [lane for (provider, _), lane in self._lanes.items() if provider == payload]
        for lane in named:
            lane.wake()
        return payload if named else None
