"""The Celery tasks of traces: each translates its message into one call. Idempotent and safe to deliver twice."""

import logging
from typing import Any
from uuid import UUID

from celery import Task, shared_task
from django.conf import settings
from django.db import close_old_connections
from django.utils import timezone

from traces import loading, retention
from traces.store.postgres import Store

logger = logging.getLogger(__name__)


@shared_task(name="traces.load_batch")
def load_batch(batch_id: str, **_: Any) -> None:
    """Load one batch of the spool into the store."""
    close_old_connections()
    try:
        loading.load(UUID(batch_id), now=timezone.now())
    except loading.OUTAGES as error:
        # Not this batch's fault and not worth a traceback: `nudge_batches` will send it again.
        logger.warning("batch %s waits, the database is in trouble: %s", batch_id, error)


@shared_task(name="traces.nudge_batches", bind=True)
def nudge_batches(self: "Task[[], None]", **_: Any) -> None:
    """Send the batches again whose message was lost."""
    for batch_id in loading.late(now=timezone.now()):
        self.app.send_task("traces.load_batch", [str(batch_id)])


@shared_task(name="traces.maintain_partitions")
def maintain_partitions(**_: Any) -> None:
    """Attach the partitions of the days to come, drop those beyond the retention, forget batches done long ago."""
    now = timezone.now()
    Store().maintain(now=now, retention_days=settings.RESPAN_RETENTION_DAYS)
    loading.prune(now=now)


@shared_task(name="traces.enforce_retention", bind=True)
def enforce_retention(self: "Task[[], None]", **_: Any) -> None:
    """Delete logs that their organization does not keep any longer, and those of deleted organizations."""
    close_old_connections()
    if retention.sweep(now=timezone.now()):
        self.app.send_task("traces.enforce_retention")
