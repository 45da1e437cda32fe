"""What the daemons of one database go by: written at start and reload, compared again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd import errors, wiring
from marketd.config import Config
from marketd.metrics import Metrics
from marketd.providers import Plugin
from marketd.store.daemons import AccountLimits, DaemonStore
from marketd.store.plan import PlanStore
from marketd.telemetry import Observer


class Agreement:
    """Brings a configuration into force for all, and tells of daemons that have another one."""

    def __init__(
        self,
        daemons: DaemonStore,
        plans: PlanStore,
        kinds: Mapping[str, type[Plugin]],
        metrics: Metrics,
        observer: Observer,
    ) -> None:
        self._daemons = daemons
        self._plans = plans
        self._kinds = kinds
        self._metrics = metrics
        self._observer = observer
        self.refused: str | None = None  #: the first fault of a newer file, while the former one holds
        self._differing: list[str] = []  #: other live daemons with other settings, as told last

    async def write(
        self, config: Config, accounts: Sequence[AccountLimits], *, renewed: Sequence[tuple[str, str]]
    ) -> None:
        """All in one transaction; lanes of `renewed` may be probed once. Raises ConfigError, DatabaseUnavailable."""
        try:
            await self._daemons.apply(
                config.digest(shared=True),
                wiring.settings_of(config),
                accounts,
                alive_for=wiring.timing_of(config).alive_for,
                renewed=renewed,
                further=[self._plans.dials_written(wiring.dials_of(config))],
            )
        except errors.DatabaseUnfit:
            raise  # a right or a table is missing: no fault of what is written
        except errors.StatementRefused as error:
            raise errors.ConfigError([f"Postgres refuses a value: {error}"]) from error

    def forget(self) -> None:
        """Our own settings are new: who differs from them is to be told anew, and no file is refused any more."""
        self._differing, self.refused = [], None

    async def compare(self, config: Config) -> None:
        """Tell of other live daemons with other settings, once for each set of them; they come and go.

        What the last to come has written stays in force only as long as somebody lives who is configured so; and whom a
        restored database does not know signs on again, as does who never heard that a reload was committed.
        """
        ours = config.digest(shared=True)
        try:
            if await self._daemons.is_lost(ours):
                await self.write(config, wiring.accounts_of(config, self._kinds), renewed=())
            others = await self._daemons.differing(ours, self.refused)
        except (errors.StatementRefused, errors.ConfigError) as error:
            self._observer.event("database_refuses", error=str(error), part="settings")
            return
        except errors.DatabaseUnavailable:
            return  # what is not told now is told the next time
        self._metrics.config_differs(bool(others))
        if others and others != self._differing:
            self._observer.event("config_differs", daemons=others, hint="the lower limits hold")
        self._differing = others
