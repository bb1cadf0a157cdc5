"""Loading a batch: its records become spans, costs, roll-ups and settled holds in one transaction, once.

Responsible for the order of that transaction: the batch's row is locked, spans and roll-ups are written, the blob is
dropped, and wallets are locked last (`ledger.settle`). A record that cannot be stored becomes a dead letter, never a
reason to lose its neighbours. Called by the worker (`traces.tasks`) and, without a broker, by the shipper.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import django.db
import msgspec
import psycopg
from django.db import connection, transaction

from billing import ledger, prices
from billing.ledger import Settlement
from billing.usage import Rates
from traces import counting, spans
from traces.models import DeadLetter, IngestBatch
from traces.spans import Finished
from traces.store.postgres import Store
from traces.store.protocol import Charge, Row, TraceStore

logger = logging.getLogger(__name__)

MOST_ATTEMPTS = 5
# Two deliveries within this time are one attempt. Safety does not hang on it: the row lock decides who loads.
CLAIM_S = 5.0
LATE_AFTER_S = 20.0
NUDGE_AGAIN_AFTER_S = 30.0
DONE_KEPT_DAYS = 7
# The database's troubles, not the batch's.
OUTAGES = (
    django.db.OperationalError,
    django.db.InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)


@dataclass(slots=True)
class _Reading:
    """What became of a batch's records."""

    rows: list[Row] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)


def load(batch_id: UUID, *, now: datetime) -> bool:
    """Load a batch; False when there was nothing to do (done, unknown, or another process is at it).

    Raises: whatever kept it from being loaded; it stays where it is and will be tried again.
    """
    attempts = _claim(batch_id, now=now)
    if attempts is None:
        return False
    try:
        with transaction.atomic():
            # It was there a moment ago: SKIP LOCKED only passes over what another process is loading now.
            batch = IngestBatch.objects.select_for_update(skip_locked=True).filter(id=batch_id, done_at=None).first()
            if batch is None:
                return False
            if attempts > MOST_ATTEMPTS:
                _bury(batch, f"given up after {MOST_ATTEMPTS} attempts", now=now)
            else:
                _load(batch, Store(), now=now)
    except OUTAGES:
        _give_back(batch_id)
        raise
    return True


def _claim(batch_id: UUID, *, now: datetime) -> int | None:
    """Count an attempt in a transaction of its own, so that one that kills the worker counts too.

    Returns: the number of attempts with this one; None when there is nothing to load.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE traces_ingestbatch SET attempts = attempts + 1, claimed_at = %(now)s
            WHERE id = (
                SELECT id FROM traces_ingestbatch
                WHERE id = %(id)s AND done_at IS NULL AND (claimed_at IS NULL OR claimed_at <= %(free_before)s)
                FOR UPDATE SKIP LOCKED
            )
            RETURNING attempts
            """,
            {"id": batch_id, "now": now, "free_before": now - timedelta(seconds=CLAIM_S)},
        )
        found = cursor.fetchone()
        return found[0] if found else None


def _give_back(batch_id: UUID) -> None:
    """Take an attempt back that failed for reasons outside the batch. Best effort: the database is in trouble."""
    try:
        if not connection.in_atomic_block:
            connection.close()
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE traces_ingestbatch SET attempts = greatest(attempts - 1, 0), claimed_at = NULL WHERE id = %s",
                [batch_id],
            )
    except OUTAGES:
        logger.warning("batch %s: the attempt stays counted, the database is away", batch_id)


def _load(batch: IngestBatch, store: TraceStore, *, now: datetime) -> None:
    try:
        records = spans.unpack(bytes(batch.blob or b""))
    except ValueError as error:
        _bury(batch, str(error), now=now)
        return
    reading = _read(batch.id, records)
    for refused in store.write(reading.rows):
        record = refused.row.record
        _give_up(reading, DeadLetter(batch_id=batch.id, raw=spans.encode(record), reason=refused.reason), record)
    DeadLetter.objects.bulk_create(reading.dead)
    _finish(batch, now=now)
    charges = _settle(reading, now=now)
    if charges:
        store.correct(charges, reading.rows)


def _finish(batch: IngestBatch, *, now: datetime) -> None:
    IngestBatch.objects.filter(id=batch.id).update(blob=None, done_at=now)


# --- Records to rows -------------------------------------------------------------------------------------------------


def _read(batch_id: UUID, records: Sequence[bytes]) -> _Reading:
    """Decode and cost the records. What fails becomes a dead letter whose hold is released."""
    reading = _Reading()
    finished: list[tuple[bytes, Finished]] = []
    for raw in records:
        try:
            finished.append((raw, spans.decode_finished(raw)))
        except msgspec.DecodeError as error:
            _give_up(reading, DeadLetter(batch_id=batch_id, raw=raw, reason=str(error)), spans.identify(raw))
    finished = _once(finished)
    rates = prices.by_id({record.rates_id for _, record in finished if record.rates_id is not None})
    for raw, record in finished:
        try:
            row = _costed(record, rates)
        except Exception as error:
            # Whatever is wrong with one record's text or numbers is no reason to stop.
            logger.exception("call %s cannot be costed", record.id)
            _give_up(reading, DeadLetter(batch_id=batch_id, raw=raw, reason=f"{type(error).__name__}: {error}"), record)
            continue
        reading.rows.append(row)
        if record.held:
            reading.settlements.append(_settlement(row))
    return reading


def _once(finished: "list[tuple[bytes, Finished]]") -> "list[tuple[bytes, Finished]]":
    """Leave one record of each call: the first finished one, else the interrupted one."""
    chosen: dict[tuple[int, UUID], tuple[bytes, Finished]] = {}
    for raw, record in finished:
        key = record.organization_id, record.id
        if key not in chosen or spans.supersedes(record.status, chosen[key][1].status):
            chosen[key] = raw, record
    return list(chosen.values())


def _costed(record: Finished, rates: dict[int, Rates]) -> Row:
    usage, source = counting.usage_of(record)
    cost = counting.cost_of(record, usage, rates.get(record.rates_id) if record.rates_id is not None else None)
    return Row(
        record=record,
        usage=usage,
        usage_source=source,
        cost_nano=cost,
        charged_nano=cost if cost is not None and record.held and record.paid_by == "credits" else 0,
    )


def _settlement(row: Row) -> Settlement:
    record = row.record
    return Settlement(
        hold_id=record.id,
        organization_id=record.organization_id,
        cost_nano=row.charged_nano,
        rates_id=record.rates_id,
        description=record.request_model,
    )


def _release(one: "Finished | spans.Identity") -> Settlement:
    return Settlement(hold_id=one.id, organization_id=one.organization_id, cost_nano=0)


def _give_up(reading: _Reading, letter: DeadLetter, identity: "Finished | spans.Identity | None") -> None:
    """Put a record aside. What is not in the traces is not charged: its hold is released."""
    letter.reason = letter.reason.replace("\0", "\ufffd")[:2_000]
    reading.dead.append(letter)
    logger.error("batch %s: a record became a dead letter: %s", letter.batch_id, letter.reason)
    if identity is None:
        return
    reading.rows = [row for row in reading.rows if row.record.id != identity.id]
    reading.settlements = [other for other in reading.settlements if other.hold_id != identity.id]
    if identity.held:
        reading.settlements.append(_release(identity))


def _settle(reading: _Reading, *, now: datetime) -> dict[UUID, Charge]:
    """Resolve the holds; return the charges that came out differently from what the rows say."""
    if not reading.settlements:
        return {}
    settled = ledger.settle(reading.settlements, now=now)
    planned = {row.record.id: row.charged_nano for row in reading.rows if row.record.held}
    return {
        id_: Charge(found.charged_nano, found.absorbed_nano)
        for id_, expected in planned.items()
        if (found := settled.get(id_)) is not None and (found.charged_nano != expected or found.absorbed_nano)
    }


def _bury(batch: IngestBatch, reason: str, *, now: datetime) -> None:
    """Give a whole batch up: its blob is kept as a dead letter, its holds are released."""
    logger.error("batch %s became a dead letter: %s", batch.id, reason)
    DeadLetter.objects.create(batch_id=batch.id, raw=batch.blob or b"", is_blob=True, reason=reason)
    _finish(batch, now=now)
    try:
        identities = [spans.identify(raw) for raw in spans.unpack(bytes(batch.blob or b""))]
    except ValueError:
        return
    held = [_release(one) for one in identities if one is not None and one.held]
    if held:
        ledger.settle(held, now=now)


# --- Batches that wait -----------------------------------------------------------------------------------------------


def late(*, now: datetime, limit: int = 1_000) -> list[UUID]:
    """Return the batches that should have been loaded by now and were not pointed out lately, marking them so."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE traces_ingestbatch SET nudged_at = %(now)s
            WHERE id IN (
                SELECT id FROM traces_ingestbatch
                WHERE done_at IS NULL AND created_at < %(late)s AND (nudged_at IS NULL OR nudged_at < %(again)s)
                ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
            )
            RETURNING id
            """,
            {
                "now": now,
                "late": now - timedelta(seconds=LATE_AFTER_S),
                "again": now - timedelta(seconds=NUDGE_AGAIN_AFTER_S),
                "limit": limit,
            },
        )
        return [id_ for (id_,) in cursor.fetchall()]


def waiting(*, created_before: datetime, limit: int = 100) -> list[UUID]:
    """Return the oldest batches that are not loaded, oldest first."""
    rows = IngestBatch.objects.filter(done_at=None, created_at__lt=created_before).order_by("created_at")
    return list(rows.values_list("id", flat=True)[:limit])


def prune(*, now: datetime) -> int:
    """Delete the rows of batches that were done a week ago; return how many."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM traces_ingestbatch WHERE done_at < %s", [now - timedelta(days=DONE_KEPT_DAYS)])
        return int(cursor.rowcount)
