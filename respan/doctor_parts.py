"""The parts of an installation that `manage.py doctor` asks: database, broker, Redis, spool, shipper, workers.

Reads and never repairs; the one thing it writes is an unnamed file in the spool, to know that it can. Neighbours:
`doctor.py` (everything else), `traces.watch` (spool and batches), `console.py` (shows the same to operators).
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from amqp.exceptions import AMQPError, ChannelError
from django.conf import settings
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Max
from django.utils import timezone

from billing.models import HoldOwner, Sweep
from respan import redis
from respan.celery import app
from respan.doctor import CONNECT_TIMEOUT_S, Finding, State
from respan.embedded import OLDEST_MAJOR
from traces import watch

if TYPE_CHECKING:
    from redis.asyncio import Redis

_SKEW_WARN_S: Final = 1.0
_SKEW_FAIL_S: Final = 10.0
_FEW_CONNECTIONS: Final = 10
_FREE_WARN_BYTES: Final = 1024**3
_LAG_WARN: Final = timedelta(seconds=30)
_LAG_FAIL: Final = timedelta(minutes=5)
# The worker sweeps every 30 s, a shipper reports every 5 s.
_SWEEP_LATE: Final = timedelta(seconds=90)
_SHIPPER_LATE: Final = timedelta(seconds=30)
_MANY_MESSAGES: Final = 1_000
_REDIS_TRIES: Final = 3
_OLDEST_REDIS: Final = (6, 2)
# What evicts only what has an end of its own, or nothing.
_POLICIES: Final = frozenset({"noeviction", "volatile-ttl"})


# --- Database ---------------------------------------------------------------------------------------------------------


def look_at_database() -> Iterator[Finding]:
    """Reachable, new enough, durable, with our tables, room for our connections, and our idea of the time."""
    try:
        connection.ensure_connection()
    except OperationalError as problem:
        where = f"{settings.DATABASES['default']['HOST']}:{settings.DATABASES['default']['PORT'] or 5432}"
        text = f"PostgreSQL at {where} cannot be used: {_reason(problem)}"
        yield Finding("database", "fail", text, "Check DATABASE_URL, the server, and the network between.")
        return
    yield version(_setting("server_version_num"))
    yield from _durability()
    yield from _migrations()
    yield _skew()
    yield from _room()


def _reason(problem: OperationalError) -> str:
    """Return what libpq says of its last attempt, which may name a host or a user but no password."""
    lines = str(problem).strip().splitlines()
    attempts = [line.rpartition("failed: ")[2] for line in lines if "failed: " in line]
    return (attempts or lines or ["it said nothing"])[-1].strip()[:200]


def _setting(name: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting(%s)", [name])
        return cursor.fetchone()[0]


def version(number: str) -> Finding:
    """Judge PostgreSQL's `server_version_num`."""
    major = int(number) // 10_000
    if major < OLDEST_MAJOR:
        text = f"PostgreSQL {major} is too old"
        return Finding("database", "fail", text, f"Upgrade it to {OLDEST_MAJOR} or newer.")
    return Finding("database", "ok", f"PostgreSQL {major}")


def _durability() -> Iterator[Finding]:
    for name in ("fsync", "full_page_writes"):
        if _setting(name) != "on":
            text = f"{name} is off: a crash of the database's machine can lose or corrupt the ledger"
            yield Finding("database", "fail", text, f"Set {name} = on.")
    if _setting("synchronous_commit") == "off":
        text = "synchronous_commit is off: a crash can lose holds and settlements that were confirmed"
        yield Finding("database", "fail", text, "Set synchronous_commit = on.")
    if _setting("server_encoding") != "UTF8":
        yield Finding("database", "fail", "the database is not in UTF8", "Make a new one with ENCODING 'UTF8'.")


def _migrations() -> Iterator[Finding]:
    executor = MigrationExecutor(connection)
    pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    unknown = set(executor.loader.applied_migrations) - set(executor.loader.disk_migrations or ())
    if pending:
        text = f"{len({(m.app_label, m.name) for m, _ in pending})} migrations are not applied"
        yield Finding("database", "fail", text, "Run `manage.py migrate` (or `manage.py up`, which does it).")
    elif unknown:
        text = f"{len(unknown)} migrations were made by another version of Respan"
        yield Finding("database", "warn", text, "Finish the upgrade on this host: its code is older than the tables.")
    else:
        yield Finding("database", "ok", "the tables are up to date")


def _skew() -> Finding:
    before = time.time()
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())")
        theirs = float(cursor.fetchone()[0])
    after = time.time()
    # Their moment lies somewhere between ours: only what lies outside is certain.
    skew = theirs - after if theirs > after else min(theirs - before, 0.0)
    if abs(skew) < _SKEW_WARN_S:
        return Finding("database", "ok", "its clock agrees with this host's")
    text = f"its clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this host's"
    return Finding("database", "fail" if abs(skew) > _SKEW_FAIL_S else "warn", text, "Run NTP on both hosts.")


def _room() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        used = int(cursor.fetchone()[0])
    most = int(_setting("max_connections"))
    if most - used < _FEW_CONNECTIONS:
        text = f"{used} of {most} connections are in use"
        yield Finding("database", "warn", text, "Raise max_connections, or lower RESPAN_POOL_SIZE.")


# --- Broker -----------------------------------------------------------------------------------------------------------


def look_at_broker() -> Iterator[Finding]:
    """Reachable, and not full of messages nobody takes."""
    scheme = urlsplit(settings.CELERY_BROKER_URL).scheme
    if scheme == "pgmq":
        yield _depth("the same PostgreSQL (pgmq)", watch.messages_waiting() or 0)
    elif scheme in {"amqp", "amqps"}:
        yield _rabbitmq()
    else:
        text = f"CELERY_BROKER_URL is {scheme}://, which is not supported"
        yield Finding("broker", "fail", text, "Use amqp:// (RabbitMQ), or unset it for PostgreSQL.")


def _rabbitmq() -> Finding:
    where = urlsplit(settings.CELERY_BROKER_URL).hostname
    with app.connection_for_write(connect_timeout=CONNECT_TIMEOUT_S) as broker:
        try:
            broker.connect()
        except (OSError, AMQPError) as error:  # a wrong password is an AMQPError too
            text = f"RabbitMQ at {where} cannot be used ({type(error).__name__})"
            return Finding("broker", "fail", text, "Check CELERY_BROKER_URL: host, user, password, virtual host.")
        name = f"RabbitMQ {broker.connection.server_properties.get('version', '')} at {where}"
        channel: Any = broker.default_channel
        try:
            count = channel.queue_declare(app.conf.task_default_queue, passive=True).message_count
        except ChannelError as error:
            if getattr(error, "code", 0) == 404:
                text = f"{name} has no queue {app.conf.task_default_queue!r} yet"
                return Finding("broker", "warn", text, "Start a worker: it makes the queue.")
            return Finding("broker", "fail", f"{name} refuses: {error}", "Delete the queue once, with workers stopped.")
        except (OSError, AMQPError) as error:
            return Finding("broker", "fail", f"{name} broke off ({type(error).__name__})", "Its own log says why.")
    return _depth(name, count)


def _depth(name: str, count: int) -> Finding:
    text = f"{name}; {count:,} messages wait"
    if count > _MANY_MESSAGES:
        return Finding("broker", "warn", text, "Start more workers, or look why they take nothing.")
    return Finding("broker", "ok", text)


# --- Redis ------------------------------------------------------------------------------------------------------------


def look_at_redis() -> Iterator[Finding]:
    """Reachable as fast as calls need it, new enough, one server, and evicting no counter; where one is configured."""
    if not redis.configured():
        yield Finding("redis", "ok", "not used: limits are counted and answers kept in PostgreSQL")
        return
    where = urlsplit(settings.REDIS_URL).hostname or "its socket"
    try:
        told = _redis_info()
    except ValueError:
        text = "REDIS_URL is no address of a Redis"
        yield Finding("redis", "fail", text, "Write redis://, rediss:// or unix://, or unset it for PostgreSQL.")
        return
    except redis.Unavailable as problem:
        text = f"Redis at {where} cannot be used: {type(problem.__cause__ or problem).__name__}"
        advice = "Check REDIS_URL (host, password, TLS): until then each web process allows its share of a limit."
        yield Finding("redis", "fail", text, advice)
        return
    yield from judged(told, where)


def _redis_info() -> Mapping[str, Any]:
    """Ask Redis about itself. Raises: Unavailable; ValueError for an address that is none."""
    for _ in range(_REDIS_TRIES - 1):
        with suppress(redis.Unavailable):
            return redis.run_now(_info)
    return redis.run_now(_info)


async def _info(client: "Redis") -> Mapping[str, Any]:
    told: Mapping[str, Any] = await client.info()
    return told


def judged(told: Mapping[str, Any], where: str) -> Iterator[Finding]:
    """Judge what Redis says of itself (INFO)."""
    name = f"Redis {told.get('redis_version', '')} at {where}"
    version = tuple(int(part) for part in str(told.get("redis_version", "0")).split(".")[:2])
    if version < _OLDEST_REDIS:
        yield Finding("redis", "fail", f"{name} is too old", "Upgrade it to 6.2 or newer.")
        return
    if told.get("cluster_enabled"):
        yield Finding("redis", "fail", f"{name} is a cluster", "Use one server, or a replicated one.")
        return
    policy = str(told.get("maxmemory_policy", "noeviction"))
    if told.get("maxmemory") and policy not in _POLICIES:
        text = f"{name} evicts by {policy}: an evicted counter of a limit begins anew"
        yield Finding("redis", "warn", text, "Set maxmemory-policy to noeviction or volatile-ttl.")
        return
    yield Finding("redis", "ok", name)


# --- Spool ------------------------------------------------------------------------------------------------------------


def look_at_spool() -> Iterator[Finding]:
    """Writable, with room, read by nobody else, and shipped."""
    folder = Path(settings.RESPAN_SPOOL_DIR)
    if not folder.is_dir():
        yield Finding("spool", "warn", f"{folder} does not exist", "Normal before a first start on this host.")
        return
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"respan")
    except OSError as problem:
        text = f"{folder} cannot be written ({problem.strerror})"
        yield Finding("spool", "fail", text, "Calls are refused until it can: check owner, mount and free space.")
        return
    yield _free(folder)
    if (mode := folder.stat().st_mode & 0o777) & 0o077:
        yield Finding("spool", "warn", f"{folder} can be read by others (mode {mode:03o})", f"chmod 700 {folder}")
    yield _unshipped(folder, timezone.now())


def _free(folder: Path) -> Finding:
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    text = f"{free / 1024**3:.1f} GiB are free for {folder}"
    if free < settings.RESPAN_MAX_BODY_BYTES:
        return Finding("spool", "fail", text, "Calls are refused: make room on this disk.")
    if free < _FREE_WARN_BYTES:
        return Finding("spool", "warn", text, "Make room: without it calls are refused.")
    return Finding("spool", "ok", text)


def _unshipped(folder: Path, now: datetime) -> Finding:
    spools = watch.spools(folder)
    lag = timedelta(seconds=max((spool.lag_s(now) for spool in spools), default=0.0))
    waiting = sum(spool.waiting for spool in spools)
    text = f"{waiting:,} records wait, the oldest for {lag.total_seconds():.0f} s"
    return Finding(
        "spool", _late(lag), text, "Is a shipper running on this host? Its log says more." * (lag > _LAG_WARN)
    )


def _late(lag: timedelta) -> State:
    return "fail" if lag > _LAG_FAIL else "warn" if lag > _LAG_WARN else "ok"


# --- Shipper and workers ----------------------------------------------------------------------------------------------


def look_at_workers() -> Iterator[Finding]:
    """When the reaper ran last, what waits for a worker, and what could not be stored."""
    now = timezone.now()
    yield _reaper(now)
    queue = watch.queue(now=now)
    lag = now - queue.oldest_at if queue.oldest_at else timedelta()
    text = f"{queue.waiting:,} batches wait for a worker, the oldest for {lag.total_seconds():.0f} s"
    yield Finding("workers", _late(lag), text, "Is a worker running? Its log says why it fails." * (lag > _LAG_WARN))
    if queue.dead_letters:
        text = f"{queue.dead_letters:,} batches could not be stored (dead letters)"
        yield Finding("workers", "fail", text, "Read their error in the console, then replay them.")


def look_at_shipper() -> Iterator[Finding]:
    """When one was heard of last, of any host; this host's spool tells of its own."""
    now = timezone.now()
    at = HoldOwner.objects.aggregate(at=Max("seen_at"))["at"]
    if at is None:
        yield Finding("shipper", "warn", "no shipper was ever heard of", "Start one on each host that runs web.")
    elif now - at > _SHIPPER_LATE:
        text = f"no shipper was heard of since {at:%Y-%m-%d %H:%M:%S} UTC"
        yield Finding("shipper", "fail", text, "Start one on each host that runs web.")
    else:
        yield Finding("shipper", "ok", "a shipper was heard of in the last 30 s")


def _reaper(now: datetime) -> Finding:
    at = Sweep.objects.aggregate(at=Max("ran_at"))["at"]
    if at is None:
        return Finding("workers", "warn", "the reaper of holds has never run", "Start beat (one) and a worker.")
    if now - at > _SWEEP_LATE:
        text = f"the reaper of holds last ran at {at:%Y-%m-%d %H:%M:%S} UTC"
        return Finding("workers", "fail", text, "Start beat (one) and a worker: holds of lost hosts stay held.")
    return Finding("workers", "ok", "the reaper of holds ran in the last 90 s")
