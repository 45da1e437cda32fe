"""The composition root: builds everything, owns its lifetime.

Order of life: embedded Postgres (if any), pool, schema check, configuration into Postgres, admin server, lanes and
side tasks. A stop goes the other way: lanes claim no more and drain; side tasks (leases are still kept, /metrics still
answers) end after them; what is left is released. A side task that crashes ends the process, and systemd restarts it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from marketd import database, errors, hearing, http_client, logs, migrate, providers, systemd, wiring
from marketd.admin import Admin
from marketd.agreement import Agreement
from marketd.config import Config
from marketd.enrichment import Enrichment
from marketd.fetch import LaneSettings
from marketd.fetching import Stores
from marketd.gauges import Gauges
from marketd.health import Health
from marketd.lanes import Lanes
from marketd.lock_watch import LockWatch
from marketd.metrics import Metrics
from marketd.reconcile import Reconciler
from marketd.recorder import Recorder
from marketd.reload import LoginWatch, Reloader
from marketd.scheduler import Poller, Scheduler
from marketd.signals import Stop, handled
from marketd.store.budgets import Circuits
from marketd.store.daemons import DaemonStore
from marketd.store.jobs import JobStore
from marketd.store.plan import PlanStore
from marketd.store.pool import Database
from marketd.store.runs import RunStore
from marketd.telemetry import Observer, Observers
from marketd.visits import Visits

_STOP_WITHIN_S = 15.0  #: after the grace period, before systemd may lose patience
_LAST_ACTS_S = 1.5  #: for releasing and unregistering at the end, also when Postgres hangs


class App:
    """One daemon. `serve` may be called once."""

    def __init__(
        self, config: Config, path: Path | None = None, *, observers: Sequence[Observer] = ()
    ) -> None:
        """`path`: the file to read again on SIGHUP. `observers` are told what metrics and log are told."""
        self._config = config
        self._path = path
        self._further_observers = observers
        self._daemon_id = uuid4()
        self._kinds = providers.discover()
        self._reload_asked = asyncio.Event()
        #: or what a reload has written would be taken for lost before it holds here
        self._agreeing = asyncio.Lock()
        self._entered = False
        self.metrics = Metrics()
        self.admin_port: int | None = None  #: where /metrics is served, once it is
        self.dsn: str | None = None  #: where the database is, once it is known

    async def serve(self, stop: Stop, *, on_ready: Callable[[], None] | None = None) -> None:
        """Work until `stop`, be it while this is still starting. Signals are heard from the first step to the last.

        Raises ConfigError, SchemaError or DatabaseUnavailable when it cannot start, and an exception group when a
        task of it crashed.
        """
        self._stop = stop
        with handled(stop, self._reload_asked.set):
            async with AsyncExitStack() as stack:
                if not await stop.cuts_off(self._start(stack)) and self._entered:
                    await self._run(stop, on_ready)

    async def _start(self, stack: AsyncExitStack) -> None:
        with database.fitting(lambda: self.dsn or ""):
            await self._open(stack)
            self._entered = await self._may_enter()
            if self._entered:
                self._logins = LoginWatch(self._config.state_dir, self._reload_asked)
                await self._apply(None, wiring.with_logins(self._config))
                self._reloaded(None)

    @property
    def _log_stream(self) -> TextIO:
        return sys.stdout

    async def _may_enter(self) -> bool:
        return True

    async def _open(self, stack: AsyncExitStack) -> None:
        """Everything that must be there before work begins; `stack` closes it in the opposite order."""
        config = self._config
        self.dsn = await self._database(stack)
        pool = config.database
        # A listen_dsn of its own means that the other one leads through a pooler.
        pooled = pool.listen_dsn is not None
        await database.check_schema(self.dsn, pooled=pooled)
        self._db = Database(
            self.dsn,
            size=self._pool_size,
            timeout_s=pool.statement_timeout.total_seconds(),
            pooled=pooled,
        )
        await self._db.open()
        stack.push_async_callback(self._db.close)
        self._session = await stack.enter_async_context(http_client.open_session())
        self._build()
        stack.push_async_callback(self._last_acts)
        await self._serve_http(stack)

    @property
    def _listen_dsn(self) -> str:
        own = self._config.database.listen_dsn
        return own.get_secret_value() if own else self.dsn or ""

    @property
    def _pool_size(self) -> int:
        return self._config.database.pool_size

    async def _serve_http(self, stack: AsyncExitStack) -> None:
        config = self._config
        self._admin = Admin(
            config.http.host, config.http.port, render=self.metrics.render, reasons=self._health.reasons
        )
        await self._admin.start()
        stack.push_async_callback(self._admin.stop)
        self.admin_port = self._admin.port

    async def _database(self, stack: AsyncExitStack) -> str:
        return await database.locate(self._config, stack)

    def _build(self) -> None:
        config, db = self._config, self._db
        timing = wiring.timing_of(config)
        runs = RunStore(db)
        self._build_observers(runs)
        jobs = JobStore(db, self._daemon_id)
        stores = Stores(jobs=jobs, circuits=self._circuits)
        self._stores = stores
        self._daemons = DaemonStore(db, self._daemon_id)
        self._visits = Visits(self._session, db, self._kinds, self._observer, self._daemon_id)
        self._poller = Poller(
            timing,
            jobs,
            lambda state: self._lanes.wake(state),
            self._observer,
            lambda: self._lanes.wake_all(),
        )
        self._lanes = Lanes(stores, self._observer, self._poller.kick)
        self._plans = PlanStore(db, lambda: self._scheduler.timing.interval, lambda: self._scheduler.turned())
        self._agreement = Agreement(self._daemons, self._plans, self._kinds, self.metrics, self._observer)
        self._scheduler = Scheduler(
            timing, runs, jobs, self._observer, chores=(Enrichment(jobs).enrich, self._plans.plan)
        )
        self._listener = hearing.listener(
            self._listen_dsn,
            self._daemons,
            self._lanes,
            self._poller,
            self._scheduler,
            self._gauges,
            self.metrics,
            self._observer,
        )
        limit = config.database.statement_timeout
        self._health = Health(self._lanes, self._poller, self._scheduler, self._listener, limit)

    def _build_observers(self, runs: RunStore) -> None:
        self._gauges = Gauges(
            self.metrics,
            runs,
            self._db,
            interval_s=lambda: self._scheduler.timing.interval.total_seconds(),
            echo_at=lambda: self._listener.last_echo,
            also=self._compare_with_others,
        )
        self._circuits = Circuits(self._db)
        self._recorder = Recorder(self._circuits)
        self._reconciler = Reconciler(
            lambda: self._lanes, lambda *lane: self._visits.usage(*lane), self._circuits
        )
        self._observer = Observers(
            self.metrics,
            logs.LogObserver(),
            self._recorder,
            self._reconciler,
            self._gauges,
            *self._further_observers,
        )
        self._reconciler.observer = self._gauges.observer = self._recorder.observer = self._observer

    async def _apply(self, old: Config | None, new: Config) -> None:
        """Write what Postgres keeps in one transaction, then swap what runs; a fetch keeps what it began with.

        Raises ConfigError or DatabaseUnavailable, and then nothing has changed.
        """
        accounts = wiring.accounts_of(new, self._kinds)
        on = {(a.provider, a.account) for a in accounts if a.off_reason is None}
        doors = self._visits.build(new, on)  # first, since a provider may refuse what the file says
        async with self._agreeing:
            await self._agreement.write(new, accounts, renewed=await self._renewed(old, new))
            self._config = new
        self._visits.use(doors)
        self._visits.void_blocks()
        logs.setup(new.log, stream=self._log_stream)
        # Fetches under way still have the former ones.
        logs.hide(new.secrets() | (old.secrets() if old else frozenset()))
        self.metrics.init_labels(new.providers)
        self.metrics.wake_priority = new.scheduler.wake_priority
        self.metrics.build(schema=str(migrate.version()))
        self._poller.timing = wiring.timing_of(new)
        self._poller.kick()
        self._scheduler.retime(wiring.timing_of(new))
        self._lanes.halt_all_but(on)
        for account in accounts:
            if account.off_reason is not None:
                self._observer.event("provider_off", lane=account.lane, reason=account.off_reason)
                continue
            self._lanes.put(self._lane_settings(account.provider, account.account))
        self._agreement.forget()
        await self._compare_with_others()

    async def _renewed(self, old: Config | None, new: Config) -> list[tuple[str, str]]:
        # Whoever loads a configuration may have mended credentials, here or at the provider: one probe each.
        return wiring.lanes_of(new)

    async def _compare_with_others(self) -> None:
        async with self._agreeing:
            await self._agreement.compare(self._config)

    def _lane_settings(self, provider: str, account: str) -> LaneSettings:
        visit = self._visits.opener(provider, account)
        ahead = self._visits.charged_ahead(provider, account)
        return wiring.lane_settings(self._config, provider, account, visit, ahead)

    def grace_s(self) -> float:
        """How long fetches may go on after a stop was asked for."""
        return self._config.jobs.shutdown_grace.total_seconds()

    async def _run(self, stop: Stop, on_ready: Callable[[], None] | None) -> None:
        async with asyncio.TaskGroup() as side:
            services: list[asyncio.Task[None]] = [
                side.create_task(work(), name=name)
                for name, work in (*self._side_tasks(), *self._reloading())
            ]
            async with asyncio.TaskGroup() as lanes:
                # Holds the group open also when no lane runs yet.
                lanes.create_task(stop.wait(), name="stop")
                self._lanes.start(lanes, stop, self.grace_s)
                self._announce(on_ready)
                await stop.wait()
                systemd.stopping("draining")
                systemd.extend_timeout(self.grace_s() + _STOP_WITHIN_S)
                self._health.draining = True
            for service in services:
                service.cancel()

    def _side_tasks(self) -> Sequence[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
        return (
            ("listener", self._listener.run),
            ("poller", self._poller.run),
            ("scheduler", self._scheduler.run),
            ("gauges", self._gauges.run),
            ("recorder", self._recorder.run),
            ("reconciler", self._reconciler.run),
            ("lock watch", LockWatch(self._db, self._observer).run),
            ("watchdog", self._health.feed_watchdog),
        )

    def _announce(self, on_ready: Callable[[], None] | None) -> None:
        lanes = self._lanes.names
        self._observer.event(
            "ready", lanes=lanes, metrics=f"http://{self._config.http.host}:{self.admin_port}/metrics"
        )
        systemd.ready(f"lanes: {', '.join(lanes) or 'none'}")
        if on_ready is not None:
            on_ready()

    def _reloading(self) -> Sequence[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
        if self._path is None:
            return ()
        types, asked = wiring.provider_types(), self._reload_asked
        told = (self._observer, self._reloaded, asked)
        reloader = Reloader(self._config, self._path, types, wiring.with_logins, self._apply, *told)
        return (("reload", reloader.run), ("logins", self._logins.run))

    def _reloaded(self, problem: str | None) -> None:
        self.metrics.reloaded(problem is None)
        self._agreement.refused = problem
        self._gauges.trouble = f"the file is refused, the former one holds ({problem}); " if problem else ""

    async def _last_acts(self) -> None:
        """Release what the lanes could not, write what is remembered, and sign off."""
        try:
            async with asyncio.timeout(_LAST_ACTS_S):
                await self._visits.close()
                await self._recorder.flush()
                released = await self._stores.jobs.release_all()
                await self._daemons.unregister()
            self._observer.event("stopped", released=released)
        except (errors.DatabaseError, TimeoutError) as error:
            # Leases and alive_until run out by themselves; nothing is lost, it only takes longer.
            self._observer.event("stopped", released=0, error=str(error) or "Postgres does not answer")
