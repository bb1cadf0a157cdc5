"""What the gateway does from time to time, at beat's word: each task makes one call into its domain.

Neighbours: `cache_entries.py`, `idempotency.py`, `counters.py`, `respan/celery.py` (when).
"""

from celery import shared_task
from django.db import close_old_connections

from gateway import cache_entries, counters, idempotency


@shared_task(name="gateway.sweep_cache")
def sweep_cache() -> None:
    """Delete cached answers that have expired, and the oldest of organizations that keep too many."""
    close_old_connections()
    cache_entries.sweep()


@shared_task(name="gateway.forget_idempotent_calls")
def forget_idempotent_calls() -> None:
    """Delete calls whose key or retry nobody will send any more."""
    close_old_connections()
    idempotency.forget_expired()


@shared_task(name="gateway.forget_limit_counters")
def forget_limit_counters() -> None:
    """Delete what limits counted in times that are long over."""
    close_old_connections()
    counters.forget_ended()
