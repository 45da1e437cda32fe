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

import asyncpg

from marketd import errors, http_client, logs, migrate, providers, systemd, wiring
from marketd.admin import Admin
from marketd.config import Config
from marketd.embedded import EmbeddedError, EmbeddedPostgres
from marketd.gauges import Gauges
from marketd.health import Health
from marketd.lane import Lane, Stores
from marketd.metrics import Metrics
from marketd.provider import Usage
from marketd.reconcile import Reconciler
from marketd.recorder import Recorder
from marketd.reload import Reloader
from marketd.scheduler import Poller, Scheduler
from marketd.signals import Stop, handled
from marketd.store.budgets import Circuits
from marketd.store.catalog import CatalogStore
from marketd.store.daemons import AccountLimits, DaemonStore
from marketd.store.jobs import JobStore, LaneState
from marketd.store.listener import Listener
from marketd.store.plan import PlanStore
from marketd.store.pool import Database
from marketd.store.runs import RunStore
from marketd.telemetry import Observer, Observers
from marketd.visits import Visits

_ENRICH_AT_MOST = 5  #: products a pass; they wait behind all other background work
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
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._lane_tasks: asyncio.TaskGroup | None = None
        self.metrics = Metrics()
        self.admin_port: int | None = None  #: where /metrics is served, once it is
        self.dsn: str | None = None  #: where the database is, once it is known

    async def serve(self, stop: Stop, *, on_ready: Callable[[], None] | None = None) -> None:
        """Work until `stop`.

        Raises ConfigError, SchemaError or DatabaseUnavailable when it cannot start, and an exception group when a
        task of it crashed.
        """
        async with AsyncExitStack() as stack:
            await self._open(stack)
            if not await self._may_enter():
                return
            await self._apply(None, self._config)
            self._reloaded(None)
            await self._run(stop, on_ready)

    @property
    def _log_stream(self) -> TextIO:
        return sys.stdout

    async def _may_enter(self) -> bool:
        return True

    async def _open(self, stack: AsyncExitStack) -> None:
        """Everything that must be there before work begins; `stack` closes it in the opposite order."""
        config = self._config
        self.dsn = await self._database(stack)
        await self._check_schema()
        pool = config.database
        self._db = Database(
            self.dsn,
            size=self._pool_size,
            timeout_s=pool.statement_timeout.total_seconds(),
            # A listen_dsn of its own means that the other one leads through a pooler.
            pooled=pool.listen_dsn is not None,
        )
        await self._db.open()
        stack.push_async_callback(self._db.close)
        self._session = await stack.enter_async_context(http_client.open_session())
        self._build()
        stack.push_async_callback(self._last_acts)
        await self._serve_http(stack)

    @property
    def _pool_size(self) -> int:
        return self._config.database.pool_size

    async def _serve_http(self, stack: AsyncExitStack) -> None:
        config = self._config
        self._admin = Admin(
            config.http.host, config.http.port, render=self.metrics.render, reasons=self._health.reasons
        )
        try:
            await self._admin.start()
        except OSError as error:
            where = f"{config.http.host}:{config.http.port}"
            raise errors.CannotListen(
                f"cannot serve /metrics on {where}: {error.strerror}; is another marketd running? (http.port)"
            ) from error
        stack.push_async_callback(self._admin.stop)
        self.admin_port = self._admin.port

    async def _database(self, stack: AsyncExitStack) -> str:
        database = self._config.database
        if database.dsn is not None:
            return database.dsn.get_secret_value()
        if not database.embedded:
            raise errors.ConfigError(
                [
                    "database.dsn: not set: give the address of your Postgres (MARKETD_DSN as shipped), "
                    "or set database.embedded: true to try things out"
                ]
            )
        server = EmbeddedPostgres(self._config.state_dir / "postgres")
        try:
            # In this thread on purpose: the server is told to die with the thread that started it.
            dsn = server.start()
        except EmbeddedError as error:
            raise errors.DatabaseUnavailable(str(error)) from error
        stack.callback(server.stop)
        await migrate.migrate(dsn)
        return dsn

    async def _check_schema(self) -> None:
        assert self.dsn is not None
        try:
            # No cache: behind a transaction pooler a prepared statement may be looked for on another server.
            connection = await asyncpg.connect(
                self.dsn, timeout=10, command_timeout=10, statement_cache_size=0
            )
        except (OSError, asyncpg.PostgresError) as error:
            raise errors.DatabaseUnavailable(f"cannot connect to Postgres: {error}") from error
        try:
            async with connection.transaction():
                await migrate.check(connection)
        finally:
            await connection.close(timeout=2)

    def _build(self) -> None:
        config, db = self._config, self._db
        circuits = Circuits(db)
        self._recorder = Recorder(circuits)
        self._reconciler = Reconciler(lambda: self._lanes, self._usage, circuits)
        self._observer = Observers(
            self.metrics, logs.LogObserver(), self._recorder, self._reconciler, *self._further_observers
        )
        self._reconciler.observer = self._observer
        self._stores = Stores(jobs=JobStore(db, self._daemon_id), catalog=CatalogStore(db), circuits=circuits)
        self._daemons = DaemonStore(db, self._daemon_id)
        self._visits = Visits(self._session, db, self._kinds, config.state_dir, self._observer)
        timing = wiring.timing_of(config)
        runs = RunStore(db)
        self._poller = Poller(timing, self._stores.jobs, self._wake_lane, self._observer)
        self._plans = PlanStore(db, lambda: self._scheduler.timing.interval)
        self._scheduler = Scheduler(
            timing, runs, self._stores.jobs, self._observer, chores=(self._enrich, self._plans.plan)
        )
        self._gauges = Gauges(
            self.metrics,
            runs,
            db,
            interval_s=lambda: self._scheduler.timing.interval.total_seconds(),
            echo_at=lambda: self._listener.last_echo,
        )
        listen_dsn = config.database.listen_dsn
        self._listener = Listener(
            listen_dsn.get_secret_value() if listen_dsn else self.dsn or "",
            on_notify=self._heard,
            on_connect=self._poller_and_lanes,
            on_change=self._listener_changed,
        )
        self._health = Health(self._lanes, self._poller, self._scheduler, self._listener)

    async def _apply(self, old: Config | None, new: Config) -> None:
        """Write what Postgres keeps in one transaction, then swap what runs; a fetch keeps what it began with.

        Raises ConfigError or DatabaseUnavailable, and then nothing has changed.
        """
        new = wiring.with_logins(new)
        accounts = wiring.accounts_of(new, self._kinds)
        await self._store(old, new, accounts)
        self._config = new
        logs.setup(new.log, stream=self._log_stream)
        logs.hide(
            new.secrets() | (old.secrets() if old else frozenset())
        )  # fetches under way still have those
        self.metrics.init_labels(new.providers)
        self.metrics.build(schema=str(migrate.version()))
        self._poller.timing = wiring.timing_of(new)
        self._poller.kick()
        self._scheduler.retime(wiring.timing_of(new))
        for account in accounts:
            if account.off_reason is not None:
                self._observer.event("provider_off", lane=account.lane, reason=account.off_reason)
                continue
            self._set_lane(account.provider, account.account)
        await self._compare_with_others(new)

    async def _store(self, old: Config | None, new: Config, accounts: Sequence[AccountLimits]) -> None:
        try:
            await self._daemons.apply(
                new.digest(shared=True),
                wiring.settings_of(new),
                accounts,
                alive_for=wiring.timing_of(new).alive_for,
                renewed=await self._renewed(old, new),
                further=[self._plans.dials_written(wiring.dials_of(new))],
            )
        except asyncpg.PostgresError as error:
            raise errors.ConfigError([f"Postgres refuses a value ({error.sqlstate}): {error}"]) from error

    async def _renewed(self, old: Config | None, new: Config) -> list[tuple[str, str]]:
        # Whoever loads a configuration may have mended credentials, here or at the provider: one probe each.
        return wiring.lanes_of(new)

    async def _compare_with_others(self, new: Config) -> None:
        try:
            others = await self._daemons.differing(new.digest(shared=True))
        except errors.DatabaseUnavailable:
            return  # what was to be applied is applied; the next reload compares again
        self.metrics.config_differs(bool(others))
        if others:
            self._observer.event("config_differs", daemons=others, hint="the lower limits hold")

    def _set_lane(self, provider: str, account: str) -> None:
        visit = self._visits.opener(self._config, provider, account)
        settings = wiring.lane_settings(self._config, provider, account, visit)
        lane = self._lanes.get((provider, account))
        if lane is not None:
            lane.reconfigure(settings)
            return
        lane = Lane(settings, self._stores, self._observer, self._poller.kick)
        self._lanes[provider, account] = lane
        if self._lane_tasks is not None:
            self._start_lane(lane)

    def _start_lane(self, lane: Lane) -> None:
        assert self._lane_tasks is not None
        name = f"lane {lane.settings.provider}/{lane.settings.account}"
        self._lane_tasks.create_task(lane.run(self._stop, self.grace_s), name=name)

    def grace_s(self) -> float:
        """How long fetches may go on after a stop was asked for."""
        return self._config.jobs.shutdown_grace.total_seconds()

    async def _run(self, stop: Stop, on_ready: Callable[[], None] | None) -> None:
        self._stop = stop
        reloader = self._reloader()
        with handled(stop, reloader.ask if reloader else lambda: None):
            async with asyncio.TaskGroup() as side:
                services: list[asyncio.Task[None]] = [
                    side.create_task(work(), name=name)
                    for name, work in (
                        *self._side_tasks(),
                        *([("reload", reloader.run)] if reloader else []),
                    )
                ]
                async with asyncio.TaskGroup() as lanes:
                    self._lane_tasks = lanes
                    # Holds the group open also when no lane runs yet.
                    lanes.create_task(stop.wait(), name="stop")
                    for lane in self._lanes.values():
                        self._start_lane(lane)
                    self._announce(on_ready)
                    await stop.wait()
                    systemd.stopping("draining")
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
            ("watchdog", self._health.feed_watchdog),
        )

    def _announce(self, on_ready: Callable[[], None] | None) -> None:
        lanes = [f"{lane.settings.provider}/{lane.settings.account}" for lane in self._lanes.values()]
        self._observer.event(
            "ready", lanes=lanes, metrics=f"http://{self._config.http.host}:{self.admin_port}/metrics"
        )
        systemd.ready(f"lanes: {', '.join(lanes) or 'none'}")
        if on_ready is not None:
            on_ready()

    def _reloader(self) -> Reloader | None:
        if self._path is None:
            return None
        types = wiring.provider_types()
        return Reloader(self._config, self._path, types, self._apply, self._observer, self._reloaded)

    def _reloaded(self, problem: str | None) -> None:
        self.metrics.reloaded(problem is None)
        self._gauges.trouble = f"the file is refused, the former one holds ({problem}); " if problem else ""

    async def _usage(self, provider: str, account: str) -> Usage | None:
        return await self._visits.usage(provider, account)

    async def _enrich(self) -> None:
        await self._stores.catalog.enrich(_ENRICH_AT_MOST)

    def _wake_lane(self, state: LaneState) -> None:
        if lane := self._lanes.get((state.provider, state.account)):
            lane.wake()

    def _poller_and_lanes(self) -> None:
        self._poller.kick()
        for lane in self._lanes.values():
            lane.wake()

    def _heard(self, payload: str) -> None:
        known = {provider for provider, _ in self._lanes}
        if payload == "run":
            self._scheduler.run_now()
        elif payload and payload not in known:
            self._observer.event("notification_ignored", payload=payload[:40])
            return
        for (provider, _), lane in self._lanes.items():
            if payload in ("", "run", provider):
                lane.wake()
                if payload == provider:
                    self.metrics.heard(provider)

    def _listener_changed(self, connected: bool, why: str) -> None:
        self._observer.event("listener_connected" if connected else "listener_lost", why=why)

    async def _last_acts(self) -> None:
        """Release what the lanes could not, write what is remembered, and sign off."""
        try:
            async with asyncio.timeout(_LAST_ACTS_S):
                await self._recorder.flush()
                released = await self._stores.jobs.release_all()
                await self._daemons.unregister()
            self._observer.event("stopped", released=released)
        except (errors.DatabaseUnavailable, TimeoutError) as error:
            # Leases and alive_until run out by themselves; nothing is lost, it only takes longer.
            self._observer.event("stopped", released=0, error=str(error) or "Postgres does not answer")
