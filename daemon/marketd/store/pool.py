"""Connections to Postgres: the only place where asyncpg's errors become ours.

Every call has a timeout. A statement that lost a fair fight (deadlock, serialization, a plan made stale by DDL) is run
again; anything that means "Postgres is not there" becomes DatabaseUnavailable, and the caller backs off; whatever else
it says is StatementRefused: for what is in the statement, or (DatabaseUnfit) for what the database lacks.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import asyncpg

from marketd.clock import full_jitter
from marketd.errors import DatabaseBusy, DatabaseUnavailable, DatabaseUnfit, StatementRefused
from marketd.store.addresses import address_of

_AGAIN = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.LockNotAvailableError,
)
#: Postgres is not there, or this connection to it is not any more
GONE = (
    OSError,  # TimeoutError and ConnectionError among them
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutdown, crash, terminated backend, statement timeout
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.ReadOnlySQLTransactionError,  # a standby after failover
    asyncpg.InternalClientError,
)
#: A right, a table or a column is missing: so it is for every such statement
_UNFIT = (
    asyncpg.SyntaxOrAccessError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,  # of a new connection, after a change of the password
)
_NO_RIGHT = (
    "; the daemon's login needs `grant market_daemon to ...`, and after an upgrade `marketd migrate --roles`"
)
_TRIES = 5
_CONNECT_S = 5.0
_CLOSE_S = 1.0
_LONGEST_STATEMENT = 65_536  #: what is longer is not kept prepared, but parsed and planned at each call
_SLACK_S = 0.5  #: a server that is still there has ended the statement by itself before we give it up


Statement: TypeAlias = tuple[str, Sequence[Any]]  #: SQL and its arguments
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


class _Connection(asyncpg.Connection):  # generic in the type stubs only
    def get_reset_query(self) -> str:
        """Nothing: our statements leave no session state, and a round trip per release is not free."""
        return ""


async def _set_up(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """A plan that is kept while a table is small does for what comes until the next ANALYZE; none is worth compiling.

    Our tables are in public, wherever the login's own search_path leads. By a statement, for a pooler in session mode
    refuses settings at the start that it does not know.
    """
    await connection.execute("set enable_seqscan = off; set jit = off; set search_path = public")


class Database:
    """A pool of connections with one way to run a statement.

    Of the connections that it took, one stays at hand: a statement that comes alone, as a daemon's first after a wake
    does, then needs no hand over by the pool, whose tasks would take it a sixth of a millisecond.
    """

    def __init__(
        self, dsn: str, *, size: int, timeout_s: float, pooled: bool = False, application: str = "marketd"
    ) -> None:
        """`timeout_s`: no statement runs longer, on the server's side too.

        `pooled`: the DSN leads through a transaction pooler, so no prepared statement outlives its call, and no
        session setting can be made.
        """
        self._dsn = dsn
        self._size = size
        self._timeout_s = timeout_s
        self._pooled = pooled
        self._application = application
        self._pool: Pool | None = None
        self._at_hand: Connection | None = None
        self._waiting = 0  #: statements that wait for a connection of the pool
        self._begun: dict[Connection, float] = {}  #: what runs, since when (monotonic)
        self._expired = 0  #: times that all connections were given up
        self.acquired = 0  #: connections taken since the start
        self.waited_s = 0.0  #: and how long that took, together
        self.refused = 0  #: statements that Postgres refused

    async def open(self) -> None:
        """Connect. Raises DatabaseUnavailable."""
        try:
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=1,
                max_size=self._size,
                timeout=min(_CONNECT_S, self._timeout_s),
                command_timeout=self._timeout_s + _SLACK_S,
                max_inactive_connection_lifetime=60,
                connection_class=_Connection,
                statement_cache_size=0 if self._pooled else 200,
                max_cacheable_statement_size=_LONGEST_STATEMENT,
                server_settings=None if self._pooled else self._session(),
                init=None if self._pooled else _set_up,
            )
        except (*GONE, asyncpg.PostgresError) as error:
            raise DatabaseUnavailable(unreachable(self._dsn, error)) from error

    def _session(self) -> dict[str, str]:
        # So that the locks of a daemon that was cut off are not held until the server's TCP gives up, hours later.
        limit_ms = str(round(self._timeout_s * 1000))
        return {
            "application_name": self._application,
            "statement_timeout": limit_ms,
            "idle_in_transaction_session_timeout": limit_ms,
        }

    async def close(self) -> None:
        """Close all connections, by force when they do not go within a second."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            async with asyncio.timeout(_CLOSE_S):
                if self._at_hand is not None:
                    await pool.release(self._at_hand)
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @property
    def size(self) -> tuple[int, int]:
        """(open connections, idle ones)."""
        if self._pool is None:
            return 0, 0
        at_hand = self._at_hand is not None and not _lost(self._at_hand)
        return self._pool.get_size(), self._pool.get_idle_size() + at_hand

    def longest_s(self) -> float:
        """For how long the oldest of the statements under way has run."""
        return time.monotonic() - min(self._begun.values(), default=time.monotonic())

    async def fetch(self, sql: str, *args: Any, patience_s: float | None = None) -> list[asyncpg.Record]:
        """Run one statement in a transaction of its own. Raises DatabaseUnavailable, StatementRefused.

        `patience_s`, where it is shorter than the usual timeout: for statements that double as a probe.
        """
        return await self._run([(sql, args)], patience_s)

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *args: Any) -> Any:
        row = await self.fetchrow(sql, *args)
        return None if row is None else row[0]

    async def together(self, statements: Sequence[Statement]) -> list[asyncpg.Record]:
        """Run several statements in one transaction; the rows of the last.

        Raises DatabaseUnavailable, StatementRefused.
        """
        return await self._run(statements)

    async def _run(
        self, statements: Sequence[Statement], patience_s: float | None = None
    ) -> list[asyncpg.Record]:
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._once(statements, patience_s)
            except _AGAIN as error:
                if attempt == _TRIES:
                    raise DatabaseUnavailable(f"gave up after {_TRIES} tries: {in_words(error)}") from error
                await asyncio.sleep(full_jitter(attempt, base_s=0.02, cap_s=0.5))
            except GONE as error:
                if isinstance(error, asyncpg.ReadOnlySQLTransactionError | TimeoutError) and self._pool:
                    await self._expire(self._pool)  # a standby now, or cut off
                if isinstance(error, asyncpg.QueryCanceledError):
                    raise DatabaseBusy(in_words(error)) from error
                raise DatabaseUnavailable(in_words(error)) from error
            except asyncpg.PostgresError as error:
                self.refused += 1
                kind = DatabaseUnfit if isinstance(error, _UNFIT) else StatementRefused
                cure = _NO_RIGHT if isinstance(error, asyncpg.InsufficientPrivilegeError) else ""
                raise kind(in_words(error) + cure) from error
        raise AssertionError("unreachable: the last try returns or raises")

    async def _once(self, statements: Sequence[Statement], patience_s: float | None) -> list[asyncpg.Record]:
        if (pool := self._pool) is None:
            raise DatabaseUnavailable("the pool is not open")
        began, expired = time.monotonic(), self._expired
        connection = await self._take(pool)
        self.acquired += 1
        self.waited_s += time.monotonic() - began
        self._begun[connection] = time.monotonic()
        try:
            rows = await _executed(connection, statements, patience_s)
        except TimeoutError as error:
            if not self._pooled:
                # Nobody is there who would hear a polite cancel; waiting for its answer would double the time.
                connection.terminate()
                await pool.release(connection)
            elif await _cancelled(pool, connection):
                raise DatabaseBusy("canceling statement due to timeout") from error
            raise
        except BaseException:
            await pool.release(connection)
            raise
        finally:
            del self._begun[connection]
        if self._at_hand or self._waiting or expired != self._expired or pool is not self._pool:
            await pool.release(connection)
        else:
            self._at_hand = connection
        return rows

    async def _take(self, pool: Pool) -> Connection:
        connection, self._at_hand = self._at_hand, None
        if connection is not None and not _lost(connection):
            return connection
        self._waiting += 1
        try:
            return await pool.acquire(timeout=self._timeout_s)
        except asyncpg.PostgresError as error:  # a login that is refused is no fault of the statement
            raise DatabaseUnavailable(unreachable(self._dsn, error)) from error
        finally:
            self._waiting -= 1

    async def _expire(self, pool: Pool) -> None:
        """Whatever befell one connection befell those that idle, too."""
        self._expired += 1
        await pool.expire_connections()
        if self._at_hand is not None:
            self._at_hand.terminate()
            self._at_hand = None


def _lost(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has noticed and taken it back
        return True


async def _cancelled(pool: Pool, connection: Connection) -> bool:
    """Whether the server could be told to end a statement whose time it does not know. Gives the connection back."""
    try:
        await pool.release(connection, timeout=_CLOSE_S)
    except (*GONE, asyncpg.PostgresError):
        return False
    return True


async def _executed(
    connection: Connection, statements: Sequence[Statement], patience_s: float | None
) -> list[asyncpg.Record]:
    if len(statements) > 1:
        return await _in_transaction(connection, statements, patience_s)
    [(sql, args)] = statements
    return await connection.fetch(sql, *args, timeout=patience_s)


async def _in_transaction(
    connection: Connection, statements: Sequence[Statement], patience_s: float | None
) -> list[asyncpg.Record]:
    transaction = connection.transaction()
    await transaction.start()
    rows: list[asyncpg.Record] = []
    try:
        for sql, args in statements:
            rows = await connection.fetch(sql, *args, timeout=patience_s)
    except TimeoutError:
        raise  # the connection is given up, and a rollback would wait on it
    except BaseException:
        await transaction.rollback()
        raise
    await transaction.commit()
    return rows


def unreachable(dsn: str, error: BaseException) -> str:
    """Where nobody was to be had, and why, in one line without a password."""
    return f"cannot connect to Postgres at {address_of(dsn)}: {in_words(error)}"


def in_words(error: BaseException) -> str:
    """The error in one line, without the DSN (asyncpg and the OS do not print it)."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused ({error.verify_message}): check sslrootcert and the host's name"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
