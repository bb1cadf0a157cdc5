"""The tables of ingestion: batches on their way into the store, and records that could not be stored.

Spans and bodies are not models: they live in partitioned tables that only `traces.store` writes and `traces.reading`
reads (`migrations/0002_store.py`). Private to this app.
"""

from typing import ClassVar

from django.db import models
from django.utils import timezone


class IngestBatch(models.Model):
    """A range of a spool segment on its way into the store: this row is the truth, the Celery message a nudge.

    `blob` is dropped when the batch is done. `attempts` counts loads that began and never reported back.
    """

    id = models.UUIDField(primary_key=True)
    blob = models.BinaryField(null=True)
    records = models.IntegerField()
    created_at = models.DateTimeField(default=timezone.now)
    attempts = models.SmallIntegerField(default=0)
    claimed_at = models.DateTimeField(null=True)
    nudged_at = models.DateTimeField(null=True)
    done_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "batch"
        verbose_name_plural = "batches"
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["created_at"], name="batch_waiting", condition=models.Q(done_at__isnull=True)),
            models.Index(fields=["done_at"], name="batch_done", condition=models.Q(done_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"batch {self.id} of {self.records}"


class DeadLetter(models.Model):
    """A record (or, with `is_blob`, a whole compressed batch) that could not be stored, kept with the reason."""

    batch_id = models.UUIDField()
    raw = models.BinaryField()
    is_blob = models.BooleanField(default=False)
    reason = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["batch_id"], name="dead_letter_by_batch"),
        ]

    def __str__(self) -> str:
        return f"dead letter {self.pk} of batch {self.batch_id}"
