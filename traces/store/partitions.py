"""The day partitions of spans and bodies: attached two days ahead, dropped whole beyond the retention.

A day that has no partition lands in the default one: nothing is refused, and `attach_partitions` moves it out later.
Never reads or changes a span's content. Neighbours: `traces.tasks` (hourly), `traces.apps` (after `migrate`).
"""

import logging
import re
from datetime import UTC, date, datetime, timedelta

from django.db import OperationalError, connection, transaction

logger = logging.getLogger(__name__)

TABLES = ("traces_span", "traces_body")
DAYS_AHEAD = 2
# One maintainer at a time: beat, a second beat by mistake, and `migrate`.
_ADVISORY_LOCK = 0x7261636573
_NAME = re.compile(r"^(traces_(?:span|body))_(\d{8})$")


def attach_partitions(*, now: datetime, days_ahead: int = DAYS_AHEAD, days_back: int = 1) -> list[str]:
    """Attach the missing partitions from yesterday to two days ahead; return the names of those made.

    A table that is busy for two seconds is left for the next run.
    """
    made = []
    today = now.astimezone(UTC).date()
    for table in TABLES:
        for day in range(-days_back, days_ahead + 1):
            try:
                name = _attach(table, today + timedelta(days=day))
            except OperationalError:
                logger.warning("partition of %s not attached: the table is busy", table)
                continue
            if name is not None:
                made.append(name)
    return made


def drop_partitions(*, now: datetime, retention_days: int) -> list[str]:
    """Drop the partitions whose every span is beyond the retention; return their names."""
    oldest_kept = (now - timedelta(days=retention_days)).astimezone(UTC).date()
    dropped = []
    for table in TABLES:
        for name, day in _partitions(table):
            if day < oldest_kept and _drop(name):
                dropped.append(name)
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table}_default WHERE started_at < %s", [_midnight(oldest_kept)])  # noqa: S608
    return dropped


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _partitions(table: str) -> list[tuple[str, date]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", [table])
        names = [name for (name,) in cursor.fetchall()]
    return [
        (name, datetime.strptime(found[2], "%Y%m%d").replace(tzinfo=UTC).date())
        for name in names
        if (found := _NAME.match(name))
    ]


def _attach(table: str, day: date) -> str | None:
    """Make and attach the partition of a day, with what the default one holds of it. None: it was there."""
    name = f"{table}_{day:%Y%m%d}"
    bounds = [_midnight(day), _midnight(day + timedelta(days=1))]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [name])
        if cursor.fetchone()[0]:
            return None
        cursor.execute("SET LOCAL lock_timeout = '2s'")
        cursor.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
        # Whoever writes this day while we attach would write it to the default partition: wait for them, hold the next.
        cursor.execute(f"LOCK TABLE {table}_default IN ACCESS EXCLUSIVE MODE")
        cursor.execute(
            f"""WITH moved AS (DELETE FROM {table}_default WHERE started_at >= %s AND started_at < %s RETURNING *)
                INSERT INTO {name} SELECT * FROM moved""",  # noqa: S608  (names are ours)
            bounds,
        )
        cursor.execute(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM (%s) TO (%s)", bounds)
    return name


def _drop(name: str) -> bool:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            cursor.execute(f"DROP TABLE IF EXISTS {name}")
    except OperationalError:
        logger.warning("partition %s not dropped: it is in use", name)
        return False
    return True
