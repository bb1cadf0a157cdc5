"""The optional Redis: one async client for each running event loop, never waited for longer than 50 ms.

Responsible for the connection and for what an outage of it costs: after five failures in a row it is left alone for
ten seconds, and `Unavailable` is raised at once. Keeps nothing that must be true (money and settings are in
PostgreSQL); whoever asks has an answer of his own for when it is away. Part of the floor; knows no key of anybody's.
Neighbours: `respan.pool`, which does the same for the database.
"""

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from django.conf import settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")
Operation = Callable[["Redis"], Awaitable[T]]

log = structlog.get_logger(__name__)

# An operation waits for five ticks: while our own loop is held up only one passes, however long that takes.
TICK_S = 0.01
TICKS = 5
FAILURES = 5
OPEN_S = 10.0
MAX_CONNECTIONS = 16


class Unavailable(Exception):
    """Redis is not configured, did not answer within 50 ms, or did not lately. No refusal: nobody is shown it."""


def configured() -> bool:
    """Tell whether there is a Redis to ask."""
    return bool(settings.REDIS_URL)


async def run(operation: Operation[T]) -> T:
    """Return what `operation` returns when it is given the client. Raises: Unavailable, within 50 ms."""
    if not settings.REDIS_URL:
        raise Unavailable("REDIS_URL is not set")
    return await _here().run(operation)


def run_now(operation: Operation[T]) -> T:
    """Do the same outside of an event loop, on a connection of its own (pages). Raises: Unavailable."""
    if not settings.REDIS_URL:
        raise Unavailable("REDIS_URL is not set")
    return asyncio.run(_alone(operation))


async def close() -> None:
    """Close this loop's connections (lifespan shutdown, end of a test)."""
    here = _loops.pop(asyncio.get_running_loop(), None)
    if here is not None:
        await here.close()


async def _alone(operation: Operation[T]) -> T:
    here = _Here(settings.REDIS_URL)
    try:
        return await here.run(operation)
    finally:
        await here.close()


class _Here:
    """What belongs to one event loop: the client, and how often it failed lately."""

    def __init__(self, url: str) -> None:
        # Takes a fifth of a second: not for those who have no Redis.
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self.url = url
        # A connection that Redis closed in the meantime is replaced once.
        self.pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=None,
            protocol=2,
            driver_info=None,
            retry=Retry(NoBackoff(), 1),
        )
        self.client: Redis = Redis(connection_pool=self.pool)
        self.failures = 0
        self.ask_at = 0.0

    async def run(self, operation: Operation[T]) -> T:
        from redis.exceptions import RedisError

        if self.failures >= FAILURES:
            now = time.monotonic()
            if now < self.ask_at:
                raise Unavailable("Redis did not answer lately")
            self.ask_at = now + OPEN_S  # one finds out, the others stay away
        try:
            answer = await _within(operation(self.client))
        except (RedisError, OSError) as error:  # TimeoutError among them
            self._failed(error)
            raise Unavailable(f"Redis did not answer: {type(error).__name__}") from error
        self.failures = 0
        return answer

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == FAILURES:
            self.ask_at = time.monotonic() + OPEN_S
            log.warning("redis_left_alone", error=type(error).__name__, seconds=OPEN_S)

    async def close(self) -> None:
        await self.client.aclose()
        await self.pool.disconnect()


_loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Here]" = weakref.WeakKeyDictionary()


def _here() -> _Here:
    loop = asyncio.get_running_loop()
    here = _loops.get(loop)
    if here is None or here.url != settings.REDIS_URL:
        here = _loops[loop] = _Here(settings.REDIS_URL)
    return here


async def _within(operation: Awaitable[T]) -> T:
    """Wait for an operation. Raises: TimeoutError; what is left undone is given up, its connection closed."""
    task: asyncio.Future[T] = asyncio.ensure_future(operation)
    try:
        for _ in range(TICKS):
            await asyncio.wait({task}, timeout=TICK_S)
            if task.done():
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.add_done_callback(_seen)
            task.cancel()


def _seen(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()
