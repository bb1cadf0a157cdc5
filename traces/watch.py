"""What an operator watches: spools of this host not yet in the database, batches that wait, calls of unknown cost.

Counts and times only: never a body, never a customer's word, and nothing is changed, locked or read for long.
Neighbours: `spool.py` and `folders.py` (the files), `loading.py` (batches), `respan/console.py` (the pages).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from django.db import connection
from django.db.models import Count, Max, Min, Q, Sum

from traces import reading, spans, spool
from traces.models import DeadLetter, IngestBatch
from traces.spans import Accepted

# A page looks at no more of a folder than this; a shipper that lives leaves less.
_MAX_BLOCK: Final = 4 * 1024 * 1024
_MAX_SEGMENTS: Final = 50
_MAX_OWNERS: Final = 200
_UNPRICED_TIMEOUT_MS: Final = 1_500


@dataclass(frozen=True, slots=True)
class Spool:
    """An owner's folder: what of it is in no batch yet. `since`: how long the oldest of it waits at least."""

    owner: str
    segments: int
    size: int
    waiting: int
    open_calls: int
    since: datetime | None

    def lag_s(self, now: datetime) -> float:
        return max((now - self.since).total_seconds(), 0.0) if self.since else 0.0


@dataclass(frozen=True, slots=True)
class Queue:
    """The batches of all hosts."""

    waiting: int
    oldest_at: datetime | None
    retried: int
    dead_letters: int
    last_done_at: datetime | None
    calls_last_hour: int


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A model whose calls were recorded without a cost."""

    provider: str
    model: str
    calls: int
    last_at: datetime


def spools(root: Path) -> list[Spool]:
    """Return the folders of this host's spool, those with the most to ship first."""
    found = [_look(root / owner) for owner in spool.owners(root)[:_MAX_OWNERS]]
    return sorted((each for each in found if each is not None), key=lambda each: (-each.waiting, each.owner))


def _look(folder: Path) -> Spool | None:
    try:
        names = spool.segments(folder)
    except OSError:
        return None  # its owner is gone, and so is the folder
    size = waiting = open_calls = 0
    since = None
    for name in names[:_MAX_SEGMENTS]:
        path = folder / str(name)
        try:
            content, written_at = _unshipped(path)
            size += path.stat().st_size
        except OSError:
            continue
        kinds = [isinstance(spans.outline(record.data), Accepted) for record in spool.scan(content)]
        finished = kinds.count(False)
        waiting += finished
        open_calls += kinds.count(True) - finished
        if finished and since is None:
            since = written_at
    return Spool(folder.name, len(names), size, waiting, max(open_calls, 0), since)


def _unshipped(path: Path) -> tuple[bytes, datetime]:
    """Return what of a segment stands behind the last range of its manifest, and when it was written last."""
    end = 0
    manifest = path.with_suffix(".ranges")
    if manifest.exists():
        for line in manifest.read_text("ascii", errors="replace").splitlines():
            numbers = line.split()
            if len(numbers) == 3 and numbers[1].isdecimal():
                end = max(end, int(numbers[1]))
    with path.open("rb") as file:
        file.seek(end)
        content = file.read(_MAX_BLOCK)
    return content, datetime.fromtimestamp(path.stat().st_mtime, UTC)


def queue(*, now: datetime) -> Queue:
    """Return how the batches of all hosts stand."""
    waits = IngestBatch.objects.filter(done_at=None).aggregate(
        n=Count("pk"), oldest=Min("created_at"), retried=Count("pk", filter=Q(attempts__gt=1))
    )
    done = IngestBatch.objects.filter(done_at__gt=now - timedelta(hours=1)).aggregate(n=Sum("records"))
    return Queue(
        waiting=waits["n"],
        oldest_at=waits["oldest"],
        retried=waits["retried"],
        dead_letters=DeadLetter.objects.count(),
        last_done_at=IngestBatch.objects.filter(done_at__isnull=False).aggregate(at=Max("done_at"))["at"],
        calls_last_hour=done["n"] or 0,
    )


def messages_waiting() -> int | None:
    """Return how many messages wait in the queue of this database; None where the broker is another one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('pgmq.q_respan') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return None
        cursor.execute("SELECT count(*) FROM pgmq.q_respan")
        return int(cursor.fetchone()[0])


def unpriced(*, now: datetime, limit: int = 50) -> list[Unpriced]:
    """Return the models whose calls of the last day have no known cost, the most called first.

    Of all organizations, so only as sums. Raises: reading.SearchTooSlow where there are too many calls to look at.
    """
    rows = reading.run(
        "SELECT coalesce(provider, ''), coalesce(response_model, request_model), count(*), max(started_at)"
        " FROM traces_span WHERE started_at > %s AND cost_nano IS NULL AND status = 'ok'"
        " GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT %s",
        [now - timedelta(days=1), limit],
        timeout_ms=_UNPRICED_TIMEOUT_MS,
    )
    return [Unpriced(*row) for row in rows]
