"""Where answers are kept: rows of PostgreSQL, and Redis before them where there is one.

Responsible for the statements, for how long they may hold up a call, and for who fetches an answer that nobody has: its
row says so until a deadline, no lock is held. A database that is away or slow is never an error here: it knows nothing.
With Redis the answer itself and the leader stand there too; the row stays what is listed and counted. Never knows a
dialect or a call. Neighbours: `cache.py`, `cache_entries.py` (lists and deletions), `respan.pool`, `respan.redis`.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import msgspec
import psycopg
import structlog
from msgspec import Struct

from respan import pool, redis

log = structlog.get_logger(__name__)

# A call waits at most so long for what is kept; then the database is left alone for a second.
PATIENCE_S: Final = 0.15
AWAY_S: Final = 1.0
# How long hits are gathered before they are counted.
COUNTED_EVERY_S: Final = 1.0
SETTLED_WITHIN_S: Final = 5.0

T = TypeVar("T")
Lead = Literal["leads", "waits"]


class Kept(Struct, frozen=True, kw_only=True, array_like=True):
    """A kept answer. Times are Unix times."""

    body: bytes
    content_type: str
    events: bytes | None
    events_type: str
    include_usage: bool
    cost_nano: int | None
    log_id: UUID | None
    created_at: float
    expires_at: float


class Facts(Struct, frozen=True, kw_only=True):
    """What is listed of an answer beside it."""

    organization_id: int
    environment: str
    dialect: str
    model: str
    provider: str
    response_model: str
    customer_identifier: str | None
    request: bytes | None
    prompt_text: str
    answer_text: str
    input_tokens: int
    output_tokens: int
    duration_us: int


# --- Looking ----------------------------------------------------------------------------------------------------------

_FIND = """
    SELECT body, content_type, events, events_type, include_usage, cost_nano, log_id,
           extract(epoch FROM created_at)::float8, extract(epoch FROM expires_at)::float8
    FROM gateway_cachedanswer
    WHERE key = %s AND organization_id = %s AND expires_at > now() AND (body IS NOT NULL OR leader <> %s)
"""
# Whoever comes first, or after the deadline of who came first, or again.
_CLAIM = """
    INSERT INTO gateway_cachedanswer AS kept (
        key, organization_id, environment, dialect, model, provider, response_model, prompt_text, answer_text,
        content_type, events_type, include_usage, size, input_tokens, output_tokens, duration_us, hit_count,
        created_at, updated_at, expires_at, leader)
    VALUES (%(key)s, %(organization_id)s, '', '', '', '', '', '', '', '', '', false, 0, 0, 0, 0, 0,
        now(), now(), now() + make_interval(secs => %(lead_s)s), %(leader)s)
    ON CONFLICT (key) DO UPDATE SET body = NULL, events = NULL, request = NULL, leader = excluded.leader,
        expires_at = excluded.expires_at
    WHERE kept.expires_at <= now() OR (kept.body IS NULL AND kept.leader = excluded.leader)
    RETURNING true
"""


async def look(key: bytes, *, organization_id: int, leader: UUID, lead_s: float) -> "Kept | Lead":
    """Return what is kept; else whether `leader` fetches it, for at most `lead_s`, or another one does already.

    Within 150 ms: with the database away everybody leads.
    """
    if redis.configured():
        try:
            return await _look_in_redis(key, organization_id=organization_id, leader=leader, lead_s=lead_s)
        except redis.Unavailable:
            pass
    found = await _within(lambda: _look(key, organization_id, leader, lead_s))
    return "leads" if found is None else found


async def _look(key: bytes, organization_id: int, leader: UUID, lead_s: float) -> "Kept | Lead":
    async with pool.connection() as lent:
        cursor = await lent.execute(_FIND, (key, organization_id, leader), binary=True)
        if (row := await cursor.fetchone()) is not None:
            return _kept(row)
        claim = {"key": key, "organization_id": organization_id, "leader": leader, "lead_s": lead_s}
        cursor = await lent.execute(_CLAIM, claim)
        return "leads" if await cursor.fetchone() is not None else "waits"


async def _find(key: bytes, organization_id: int, leader: UUID) -> "Kept | Lead":
    async with pool.connection() as lent:
        cursor = await lent.execute(_FIND, (key, organization_id, leader), binary=True)
        row = await cursor.fetchone()
    return "leads" if row is None else _kept(row)


def _kept(row: tuple[Any, ...]) -> "Kept | Lead":
    body, content_type, events, events_type, include_usage, cost_nano, log_id, created_at, expires_at = row
    if body is None:
        return "waits"
    return Kept(
        body=body,
        content_type=content_type,
        events=events,
        events_type=events_type,
        include_usage=include_usage,
        cost_nano=cost_nano,
        log_id=log_id,
        created_at=created_at,
        expires_at=expires_at,
    )


# Until then the database is not asked: it did not answer in time a moment ago.
_away_until = 0.0


async def _within(ask: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
    """Return what the database says; None when it does not within 150 ms.

    What is late is not cancelled: a connection that is asked to cancel waits for the server once more.
    """
    global _away_until
    if time.monotonic() < _away_until:
        return None
    task = aside(ask())
    await asyncio.wait({task}, timeout=PATIENCE_S)
    if task.done() and not task.cancelled() and task.exception() is None:
        return task.result()
    _away_until = time.monotonic() + AWAY_S
    error = type(task.exception()).__name__ if task.done() and not task.cancelled() else "too slow"
    log.warning("cache not asked", error=error)
    return None


# --- Keeping ----------------------------------------------------------------------------------------------------------

_FILL = """
    INSERT INTO gateway_cachedanswer (
        key, organization_id, environment, dialect, model, provider, response_model, customer_identifier, request,
        prompt_text, answer_text, body, content_type, events, events_type, include_usage, size, input_tokens,
        output_tokens, cost_nano, duration_us, log_id, hit_count, created_at, updated_at, expires_at, leader)
    VALUES (
        %(key)s, %(organization_id)s, %(environment)s, %(dialect)s, %(model)s, %(provider)s, %(response_model)s,
        %(customer_identifier)s, %(request)s, %(prompt_text)s, %(answer_text)s, %(body)s, %(content_type)s, %(events)s,
        %(events_type)s, %(include_usage)s, %(size)s, %(input_tokens)s, %(output_tokens)s, %(cost_nano)s,
        %(duration_us)s, %(log_id)s, 0, now(), now(), now() + make_interval(secs => %(ttl_s)s), NULL)
    ON CONFLICT (key) DO UPDATE SET
        environment = excluded.environment, dialect = excluded.dialect, model = excluded.model,
        provider = excluded.provider, response_model = excluded.response_model,
        customer_identifier = excluded.customer_identifier, request = excluded.request,
        prompt_text = excluded.prompt_text, answer_text = excluded.answer_text, body = excluded.body,
        content_type = excluded.content_type, events = excluded.events, events_type = excluded.events_type,
        include_usage = excluded.include_usage, size = excluded.size, input_tokens = excluded.input_tokens,
        output_tokens = excluded.output_tokens, cost_nano = excluded.cost_nano, duration_us = excluded.duration_us,
        log_id = excluded.log_id, hit_count = 0, last_hit_at = NULL, created_at = excluded.created_at,
        updated_at = excluded.updated_at, expires_at = excluded.expires_at, leader = NULL
"""
_RELEASE = "DELETE FROM gateway_cachedanswer WHERE key = %s AND leader = %s AND body IS NULL"
_NOTE = """
    UPDATE gateway_cachedanswer AS kept SET hit_count = kept.hit_count + hits.number, last_hit_at = now()
    FROM unnest(%s::bytea[], %s::bigint[]) AS hits(key, number)
    WHERE kept.key = hits.key AND kept.body IS NOT NULL
"""


async def fill(key: bytes, kept: Kept, facts: Facts, *, leader: UUID) -> None:
    """Keep an answer and let who waits for it have it. Never raises: what cannot be kept is fetched again."""
    row = {"key": key, **msgspec.structs.asdict(kept), **msgspec.structs.asdict(facts)}
    row["ttl_s"] = kept.expires_at - kept.created_at  # by the database's clock: hosts may disagree
    row["size"] = sum(len(part) for part in (kept.body, kept.events, facts.request) if part)
    try:
        async with pool.connection() as lent:
            await lent.execute(_FILL, row)
        if redis.configured():
            await redis.run(lambda client: _put(client, key, kept, leader))
    except redis.Unavailable:
        pass
    except (psycopg.Error, OSError) as error:
        log.warning("answer not kept", error=type(error).__name__)
        await release(key, leader=leader)


async def release(key: bytes, *, leader: UUID) -> None:
    """Let another one fetch the answer. Never raises: a leader that is gone is one until its deadline."""
    try:
        if redis.configured():
            await redis.run(lambda client: _drop_lead(client, key, leader))
    except redis.Unavailable:
        pass
    try:
        async with pool.connection() as lent:
            await lent.execute(_RELEASE, (key, leader))
    except (psycopg.Error, OSError) as error:
        log.warning("cache row not released", error=type(error).__name__)


_hits: dict[bytes, int] = {}
_counting: "set[asyncio.Task[Any]]" = set()


def note_hit(key: bytes) -> None:
    """Count a hit, within a second and together with others."""
    _hits[key] = _hits.get(key, 0) + 1
    loop = asyncio.get_running_loop()
    if not any(task.get_loop() is loop for task in _counting):
        task = loop.create_task(_count_soon())
        _counting.add(task)
        task.add_done_callback(_counting.discard)


async def _count_soon() -> None:
    await asyncio.sleep(COUNTED_EVERY_S)
    await count_hits()


async def count_hits() -> None:
    """Write the hits that were noted; without a database they are forgotten."""
    hits = sorted(_hits.items())
    _hits.clear()
    if not hits:
        return
    try:
        async with pool.connection() as lent:
            await lent.execute(_NOTE, ([key for key, _ in hits], [number for _, number in hits]))
    except (psycopg.Error, OSError) as error:
        log.warning("cache hits not counted", error=type(error).__name__)


_aside: "set[asyncio.Task[Any]]" = set()


def aside(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Let something happen that nobody has to wait for."""
    task = asyncio.get_running_loop().create_task(work)
    _aside.add(task)
    task.add_done_callback(_done)
    return task


async def settled() -> None:
    """Wait for what goes on aside in this loop, at most five seconds."""
    loop = asyncio.get_running_loop()
    until = time.monotonic() + SETTLED_WITHIN_S
    while (mine := [task for task in _aside if task.get_loop() is loop]) and time.monotonic() < until:
        await asyncio.wait(mine, timeout=SETTLED_WITHIN_S)


def _done(task: "asyncio.Task[Any]") -> None:
    _aside.discard(task)
    if not task.cancelled():
        task.exception()  # seen: whoever wanted to know has asked


# --- Redis ------------------------------------------------------------------------------------------------------------

_pack = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_unpack = msgspec.msgpack.Decoder(Kept).decode
_DROP_LEAD = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


def names(key: bytes) -> tuple[str, str]:
    """Return what an answer and its leader are called in Redis."""
    return f"respan:cache:{key.hex()}", f"respan:cache:{key.hex()}:lead"


async def _look_in_redis(key: bytes, *, organization_id: int, leader: UUID, lead_s: float) -> "Kept | Lead":
    """Do as `look`. A row that Redis has lost is put back. Raises: redis.Unavailable."""
    found = await redis.run(lambda client: _get_or_lead(client, key, leader, lead_s))
    if found != "leads":
        return found
    row = await _within(lambda: _find(key, organization_id, leader))
    if isinstance(row, Kept):
        aside(_put_back(key, row, leader))
        return row
    return row or "leads"


async def _get_or_lead(client: Any, key: bytes, leader: UUID, lead_s: float) -> "Kept | Lead":
    answer, lead = names(key)
    kept = await client.get(answer)
    if kept is not None:
        try:
            return _unpack(kept)
        except msgspec.DecodeError:
            pass  # of another version
    if await client.set(lead, leader.bytes, nx=True, px=int(lead_s * 1000)):
        return "leads"
    return "leads" if await client.get(lead) == leader.bytes else "waits"


async def _put(client: Any, key: bytes, kept: Kept, leader: UUID) -> None:
    answer, _ = names(key)
    left_ms = int((kept.expires_at - time.time()) * 1000)
    if left_ms > 0:
        await client.set(answer, _pack(kept), px=left_ms)
    await _drop_lead(client, key, leader)


async def _put_back(key: bytes, kept: Kept, leader: UUID) -> None:
    with contextlib.suppress(redis.Unavailable):
        await redis.run(lambda client: _put(client, key, kept, leader))


async def _drop_lead(client: Any, key: bytes, leader: UUID) -> None:
    await client.eval(_DROP_LEAD, 1, names(key)[1], leader.bytes)


async def drop(client: Any, keys: list[bytes]) -> None:
    """Take answers out of Redis."""
    for start in range(0, len(keys), 500):
        await client.delete(*(names(key)[0] for key in keys[start : start + 500]))
