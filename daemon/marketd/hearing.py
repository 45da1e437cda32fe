"""What a notification sets in motion. A hint only: the poll finds the same work a little later."""

from __future__ import annotations

from marketd.gauges import Gauges
from marketd.lanes import Lanes
from marketd.metrics import Metrics
from marketd.scheduler import Poller, Scheduler
from marketd.store.daemons import DaemonStore
from marketd.store.listener import Listener
from marketd.telemetry import Observer

_SHOWN = 40  #: characters of a payload that nobody understands


def listener(
    dsn: str,
    daemons: DaemonStore,
    lanes: Lanes,
    poller: Poller,
    scheduler: Scheduler,
    gauges: Gauges,
    metrics: Metrics,
    observer: Observer,
) -> Listener:
    """Listens at `dsn`: `run` means a pass now, empty a poll and all lanes, a provider's name its lanes.

    Others are counted.
    """

    def on_notify(payload: str) -> None:
        if payload == "run":
            scheduler.run_now()
            lanes.wake_all()
        elif (provider := lanes.heard(payload)) is not None:
            metrics.heard(provider)
        elif not payload:
            # An operator has paused a lane, or resumed one; or an urgent request met a row in somebody's hands.
            gauges.hurry()
            poller.kick()
        else:
            observer.event("notification_ignored", payload=payload[:_SHOWN])

    def on_connect() -> None:
        # Whatever was notified while nobody listened.
        poller.kick()
        lanes.wake_all()

    def on_change(connected: bool, why: str) -> None:
        observer.event("listener_connected" if connected else "listener_lost", why=why)

    return Listener(dsn, on_notify=on_notify, on_connect=on_connect, on_change=on_change, knock=daemons.knock)
