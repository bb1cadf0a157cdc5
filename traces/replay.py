"""Putting back what could not be stored: a batch that was given up, a record set aside as a dead letter.

A replay goes the way of every batch: a row of `IngestBatch`, then a nudge to the workers. Doing it twice does nothing
more, and what was charged or released at the first attempt stays so (`ledger.settle` resolves a hold once). Never
shows or changes a record. Neighbours: `loading.py` (what becomes of a batch), `admin.py` (the buttons).
"""

import uuid
from datetime import datetime

from celery.app import app_or_default
from django.db import transaction

from traces import spans
from traces.models import DeadLetter, IngestBatch

_NAMESPACE = uuid.UUID("0d1c1c5f-6c0b-45a6-9a0e-8d55b4c4d7b4")


def batch(batch_id: uuid.UUID, *, now: datetime) -> bool:
    """Let a batch that is not done begin anew, with all its attempts; False when there is nothing to do."""
    with transaction.atomic():
        waits = IngestBatch.objects.filter(pk=batch_id, done_at=None).select_for_update(skip_locked=True)
        # Whoever is loading it now holds the row: then it needs no help.
        if not list(waits.values_list("pk")):
            return False
        IngestBatch.objects.filter(pk=batch_id).update(attempts=0, claimed_at=None, nudged_at=now)
        _nudge(batch_id)
    return True


def letter(letter_id: int, *, now: datetime) -> uuid.UUID | None:
    """Make a dead letter a batch again; None when another replay took it before.

    Returns: the id of the batch. What fails again comes back as another dead letter, with the new reason.
    """
    with transaction.atomic():
        dead = DeadLetter.objects.select_for_update().filter(pk=letter_id).first()
        if dead is None:
            return None
        raw = bytes(dead.raw)
        batch_id = uuid.uuid5(_NAMESPACE, f"{dead.batch_id}/{dead.pk}")
        IngestBatch.objects.create(
            id=batch_id,
            blob=raw if dead.is_blob else spans.pack([raw]),
            # How many a whole batch has is known when it opens.
            records=_count(raw) if dead.is_blob else 1,
            created_at=now,
            nudged_at=now,
        )
        dead.delete()
        _nudge(batch_id)
    return batch_id


def _count(blob: bytes) -> int:
    try:
        return len(spans.unpack(blob))
    except ValueError:
        return 0


def _nudge(batch_id: uuid.UUID) -> None:
    """Tell the workers, once it is written. A message that is lost is made up for: batches that wait are nudged."""

    def send() -> None:
        app_or_default().send_task("traces.load_batch", [str(batch_id)])

    transaction.on_commit(send, robust=True)
