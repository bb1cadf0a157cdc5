"""The door for calls that nobody made: sample data goes in by the way of real calls and goes out without a trace.

Responsible for loading finished records at once (batches, costs, roll-ups: `traces.loading`) and for taking the calls
of given API keys out again, roll-ups included. Never decides what is a sample: the caller marks its records.
Neighbours: `traces.loading` (in), `traces.store` (what is taken out).
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from django.db import transaction

from respan import ids
from traces import loading, spans
from traces.models import DeadLetter, IngestBatch
from traces.spans import Finished
from traces.store.postgres import raw_cursor
from traces.store.rollups import SPAN_COLUMNS, RollUps

_IN_A_BATCH: Final = 500
_DELETE_SPANS: Final = f"""
    DELETE FROM traces_span WHERE organization_id = %s AND api_key_id = ANY(%s) AND metadata @> %s::jsonb
    RETURNING id, {", ".join(SPAN_COLUMNS)}
"""  # noqa: S608  (constants)
_DELETE_BODIES: Final = """
    DELETE FROM traces_body WHERE organization_id = %s AND id = ANY(%s) AND started_at BETWEEN %s AND %s
"""


class NotSeeded(Exception):
    """A record could not be stored; nothing of its kind was."""


@transaction.atomic
def add(records: Sequence[Finished], *, now: datetime) -> None:
    """Load finished calls, all or none. Raises: NotSeeded."""
    for part in _parts(records):
        batch = IngestBatch.objects.create(
            id=ids.new_uuid(), blob=spans.pack([spans.encode(record) for record in part]), records=len(part)
        )
        loading.load(batch.id, now=now)
        letter = DeadLetter.objects.filter(batch_id=batch.id).first()
        if letter is not None:
            raise NotSeeded(letter.reason)


def _parts(records: Sequence[Finished]) -> Iterator[Sequence[Finished]]:
    for start in range(0, len(records), _IN_A_BATCH):
        yield records[start : start + _IN_A_BATCH]


@transaction.atomic
def remove(*, organization_id: int, api_key_ids: Collection[int], mark: dict[str, str]) -> int:
    """Take out the calls of these API keys whose metadata holds the mark, their bodies and their part of the roll-ups.

    Returns: how many calls there were.
    """
    rollups = RollUps()
    with raw_cursor() as cursor:
        cursor.execute(_DELETE_SPANS, [organization_id, list(api_key_ids), msgspec.json.encode(mark).decode()])
        taken: list[tuple[Any, ...]] = cursor.fetchall()
        if not taken:
            return 0
        gone = []
        for id_, *values in taken:
            span = dict(zip(SPAN_COLUMNS, values, strict=True))
            rollups.take_out(span)
            gone.append((id_, span["started_at"].astimezone(UTC)))
        times = [at for _, at in gone]
        cursor.execute(_DELETE_BODIES, [organization_id, [id_ for id_, _ in gone], min(times), max(times)])
        rollups.save(cursor)
    return len(taken)
