"""The async PostgreSQL pool of the hot path, opened at its first use.

Serves the gateway's few hand-written statements (key look-up, holds, credentials, rates): `connection` lends one for
any of them, `ask` keeps one for a single statement that every call waits for. Django's ORM keeps its own connections.
One pool for each running event loop: a server has one, tests have one a test.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from django.conf import settings
from psycopg import AsyncConnection, Error, OperationalError, pq
from psycopg.errors import error_from_result
from psycopg_pool import AsyncConnectionPool, PoolTimeout

_pools: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncConnectionPool[AsyncConnection[Any]]]"
_pools = weakref.WeakKeyDictionary()
_lines: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Line]]" = weakref.WeakKeyDictionary()

# A caller waits at most this long for a connection: with the database down a credits call is refused within it.
ACQUIRE_TIMEOUT_S = 1.0


def dsn() -> str:
    """Return the connection string of Django's default database."""
    from psycopg.conninfo import make_conninfo

    config = settings.DATABASES["default"]
    return make_conninfo(
        dbname=config["NAME"],
        user=config["USER"] or None,
        password=config["PASSWORD"] or None,
        host=config["HOST"] or None,
        port=config["PORT"] or None,
        connect_timeout=2,
        tcp_user_timeout=3_000,  # a dead network frees its connections
        application_name="respan-gateway",
    )


async def _configure(connection: AsyncConnection[Any]) -> None:
    await connection.set_autocommit(True)
    # One locked wallet must not stall the process, nor one slow statement the pool.
    await connection.execute("SET lock_timeout = '800ms'; SET statement_timeout = '2s'; SET timezone = 'UTC'")


async def _pool() -> AsyncConnectionPool[AsyncConnection[Any]]:
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = AsyncConnectionPool(
            dsn(),
            min_size=1,
            max_size=settings.RESPAN_POOL_SIZE,
            open=False,
            configure=_configure,
            timeout=ACQUIRE_TIMEOUT_S,
            reconnect_timeout=0,
            kwargs={"prepare_threshold": 1},
        )
        _pools[loop] = pool
        await pool.open(wait=False)
    return pool


@asynccontextmanager
async def connection() -> AsyncIterator[AsyncConnection[Any]]:
    """Lend an autocommit connection.

    Raises: psycopg_pool.PoolTimeout within a second when none can be had; psycopg.OperationalError when it breaks.
    """
    pool = await _pool()
    async with pool.connection() as lent:
        yield lent


async def warm_up() -> None:
    """Open the pool before the first call needs it; a database that is away does not matter yet."""
    try:
        async with connection():
            pass
    except OperationalError:
        pass


async def ask(statement: str, parameters: Sequence[bytes]) -> list[bytes | None]:
    """Run a statement that returns one row, and return that row; everything is in PostgreSQL's text format.

    It is prepared on a connection of its own, which takes a third of the CPU of a lent one. Meant for one caller at a
    time: who comes while it is busy gets a new one, as if the old one were stuck.

    Raises: psycopg_pool.PoolTimeout within a second when no connection can be had; psycopg.Error.
    """
    lines = _lines.setdefault(asyncio.get_running_loop(), [])
    for line in lines:
        if line.is_free and line.statement == statement:
            return await line.ask(parameters)
    opened = await _Line.open(statement)
    for line in lines:
        if line.statement == statement:
            line.retire()
    lines[:] = [*(line for line in lines if not line.is_closed), opened]
    return await opened.ask(parameters)


class _Line:
    """A connection for one prepared statement, on libpq itself.

    Its socket stays watched by the event loop: setting that up and taking it down around each statement costs as much
    as the statement.
    """

    __slots__ = ("_answer", "_connection", "_loop", "_result", "_retired", "_socket", "is_closed", "statement")

    def __init__(self, statement: str, connection: AsyncConnection[Any]) -> None:
        self.statement = statement
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[pq.abc.PGresult] | None = None
        self._result: pq.abc.PGresult | None = None
        self._retired = False
        self.is_closed = False
        # Sending waits for nobody all the same: one statement at a time fits into the socket's buffer.
        connection.pgconn.nonblocking = 0
        self._socket = connection.pgconn.socket  # libpq forgets it when the connection is lost
        self._loop.add_reader(self._socket, self._take)

    @classmethod
    async def open(cls, statement: str) -> Self:
        connection: AsyncConnection[Any] | None = None
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                connection = await AsyncConnection.connect(dsn())
                await _configure(connection)
                await connection.execute("SET plan_cache_mode = force_generic_plan")
                await connection.execute(f"PREPARE line AS {statement}".encode())
            return cls(statement, connection)
        except BaseException as error:
            if connection is not None:
                await connection.close()
            if isinstance(error, TimeoutError):
                raise PoolTimeout("no connection could be had in time") from error
            raise

    @property
    def is_free(self) -> bool:
        return self._answer is None and not self._retired and not self.is_closed

    async def ask(self, parameters: Sequence[bytes]) -> list[bytes | None]:
        answer = self._answer = self._loop.create_future()
        try:
            self._connection.pgconn.send_query_prepared(b"line", parameters)
        except Error as error:
            self._lose(error)
        result = await answer
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise error_from_result(result)
        return [result.get_value(0, column) for column in range(result.nfields)]

    def _take(self) -> None:
        """Read what has come; the answer is there when libpq has no further result."""
        connection = self._connection.pgconn
        try:
            connection.consume_input()
            while not connection.is_busy():
                result = connection.get_result()
                if result is None:
                    break
                self._result = result
            else:
                return
        except Error as error:
            self._lose(error)
            return
        answer, self._answer = self._answer, None
        result, self._result = self._result, None
        if answer is not None and result is not None and not answer.done():
            answer.set_result(result)
        if self._retired:
            self.close()

    def _lose(self, error: Error) -> None:
        answer, self._answer = self._answer, None
        self.close()
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def retire(self) -> None:
        """Close when what was asked is answered."""
        self._retired = True
        if self._answer is None:
            self.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._loop.remove_reader(self._socket)
            self._connection.pgconn.finish()


async def close() -> None:
    """Close this loop's pool and lines, if any were opened (lifespan shutdown, end of a test)."""
    for line in _lines.pop(asyncio.get_running_loop(), []):
        line.close()
    pool = _pools.pop(asyncio.get_running_loop(), None)
    if pool is not None:
        await pool.close()
