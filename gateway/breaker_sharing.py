"""Breakers that opened in one web process, told to the others through Redis; without Redis each knows its own.

Responsible for the one hash in Redis and for reading it at most once a second. An outage of Redis costs a call nothing:
nobody waits for either. Never opens or closes a breaker by itself (`health.py`). Neighbours: `attempts.py` (tells),
the Integrations page (`refresh_now`).
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gateway import health
from gateway.health import Place
from respan import redis

if TYPE_CHECKING:
    from redis.asyncio import Redis

KEY = "respan:breakers"
REFRESH_S = 1.0
# Long enough for every breaker in it to have closed.
_KEPT_S = 120

_next_look = 0.0
_tasks: set[asyncio.Task[None]] = set()


def opened(place: Place) -> None:
    """Tell the other processes that a breaker has opened here. Never waits."""
    if redis.configured():
        _start(_tell(place, time.time() + health.OPEN_S))


def look(now: float) -> None:
    """Hear, now and then, of the breakers of other processes. Never waits; `now` is of `time.monotonic()`."""
    global _next_look
    if now >= _next_look:
        _next_look = now + REFRESH_S
        if redis.configured():
            _start(_refresh())


def refresh_now() -> None:
    """Hear of the breakers of other processes before a page shows them; what Redis does not say is not shown."""
    if redis.configured():
        with contextlib.suppress(redis.Unavailable):
            _take(redis.run_now(_ask))


async def _tell(place: Place, until: float) -> None:
    field = msgspec.json.encode(list(place))

    async def write(client: "Redis") -> None:
        pipeline = client.pipeline()
        pipeline.hset(KEY, field, repr(until))
        pipeline.expire(KEY, _KEPT_S)
        await pipeline.execute()

    await redis.run(write)


async def _refresh() -> None:
    _take(await redis.run(_ask))


async def _ask(client: "Redis") -> Mapping[Any, Any]:
    return await client.hgetall(KEY)


def _take(told: Mapping[Any, Any]) -> None:
    clock, now = time.time(), time.monotonic()
    for field, value in told.items():
        try:
            provider, region, model, credential = msgspec.json.decode(field, type=tuple[str, str, str, str | None])
            left = float(value) - clock
        except (msgspec.DecodeError, ValueError):
            continue  # somebody else's
        # No clock of another host keeps a breaker open for longer than our own would.
        if 0 < left <= health.OPEN_S:
            health.at(Place(provider, region, model, credential)).hold_open(now + left)


def _start(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(_quietly(work))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(redis.Unavailable):
        await work
