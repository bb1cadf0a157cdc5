"""The async PostgreSQL pool of the hot path, opened at its first use.

Serves the gateway's few hand-written statements (key look-up, holds, credentials, rates). Django's ORM keeps its own
connections. One pool for each running event loop: a server has one, tests have one a test.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from django.conf import settings
from psycopg import AsyncConnection, OperationalError
from psycopg_pool import AsyncConnectionPool

_pools: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncConnectionPool[AsyncConnection[Any]]]"
_pools = weakref.WeakKeyDictionary()

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


async def close() -> None:
    """Close this loop's pool, if one was opened (lifespan shutdown, end of a test)."""
    pool = _pools.pop(asyncio.get_running_loop(), None)
    if pool is not None:
        await pool.close()
