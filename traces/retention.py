"""What must not be kept any longer: logs beyond an organization's own days, and everything of a deleted one.

Runs in the worker every few minutes, for a bounded time, and says whether something is left. Idempotent: what it did
not reach, or what a call under way at the deletion still brings in, goes in a later run; so nothing hangs on a message.
The installation's own retention is older and cheaper: whole partitions (`store.partitions`). Neighbours:
`accounts.organizations` (the days, the deletion), `store/removal.py`.
"""

import time
from datetime import datetime, timedelta

from django.conf import settings

from accounts.models import Organization
from traces.store.removal import remove_rollups, remove_spans

BATCH = 2_000
# Well below the soft limit of a task (15 s).
BUDGET_S = 8.0
# The spool of a host that was down may bring calls of a deleted organization for so long.
_DELETED_WATCHED = timedelta(days=30)


def sweep(*, now: datetime, budget_s: float = BUDGET_S, batch: int = BATCH) -> bool:
    """Delete what is due, as far as the time allows; True when something may be left."""
    until = time.monotonic() + budget_s
    shorter = Organization.objects.filter(
        deleted_at=None, retention_days__isnull=False, retention_days__lt=settings.RESPAN_RETENTION_DAYS
    )
    for organization_id, days in shorter.order_by("pk").values_list("pk", "retention_days"):
        if not _remove_before(organization_id, now - timedelta(days=days or 0), until=until, batch=batch):
            return True
    deleted = Organization.objects.filter(deleted_at__gt=now - _DELETED_WATCHED)
    for organization_id in deleted.order_by("pk").values_list("pk", flat=True):
        # A day ahead: a clock that is fast does not save a span.
        if not _remove_before(organization_id, now + timedelta(days=1), until=until, batch=batch):
            return True
        remove_rollups(organization_id=organization_id)
    return False


def _remove_before(organization_id: int, before: datetime, *, until: float, batch: int) -> bool:
    """Delete the spans from before a moment; False when the time was up first."""
    while remove_spans(organization_id=organization_id, before=before, limit=batch) == batch:
        if time.monotonic() >= until:
            return False
    return True
