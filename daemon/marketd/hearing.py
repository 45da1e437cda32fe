"""What a notification sets in motion. A hint only: the poll finds the same work a little later."""

from __future__ import annotations

import re

from marketd.gauges import Gauges
from marketd.lanes import Lanes
from marketd.metrics import Metrics
from marketd.scheduler import Poller, Scheduler
from marketd.store.listener import Listener
from marketd.telemetry import Observer

_RUN = re.compile(r"run( (?P<at>[0-9]{1,11}(\.[0-9]{1,9})?))?")
_SHOWN = 40  #: characters of a payload that nobody understands


def listener(
    dsn: str,
    lanes: Lanes,
    poller: Poller,
    scheduler: Scheduler,
    gauges: Gauges,
    metrics: Metrics,
    observer: Observer,
) -> Listener:
    """Listens at `dsn`: `run` means a pass now, `fold` a poll, empty all lanes, a provider's name its lanes.

    After `run` there may be when it was asked for, in seconds since 1970. Others are counted.
    """

    def on_notify(payload: str) -> None:
        if (run := _RUN.fullmatch(payload)) is not None:
            scheduler.run_now(float(run["at"]) if run["at"] else None)
            lanes.wake_all()
        elif payload == "fold":
            poller.kick()  # an urgent request met a row in somebody's hands
        elif (provider := lanes.heard(payload)) is not None:
            metrics.heard(provider)
        elif not payload:
            gauges.hurry()  # an operator has paused a lane, or resumed one
        else:
            observer.event("notification_ignored", payload=payload[:_SHOWN])

    def on_connect() -> None:
        # Whatever was notified while nobody listened.
        poller.kick()
        lanes.wake_all()

    def on_change(connected: bool, why: str) -> None:
        observer.event("listener_connected" if connected else "listener_lost", why=why)

    return Listener(dsn, on_notify=on_notify, on_connect=on_connect, on_change=on_change)
