"""What the gateway does from time to time, at beat's word: each task makes one call into its domain.

Each loads its domain when it runs: together they would make a worker's start half a second longer. Neighbours:
`cache_entries.py`, `idempotency.py`, `counters.py`, `respan/celery.py` (when).
"""

from celery import shared_task
from django.db import close_old_connections


@shared_task(name="gateway.sweep_cache")
def sweep_cache() -> None:
    """Delete cached answers that have expired, and the oldest of organizations that keep too many."""
    from gateway import cache_entries

    close_old_connections()
    cache_entries.sweep()


@shared_task(name="gateway.forget_idempotent_calls")
def forget_idempotent_calls() -> None:
    """Delete calls whose key or retry nobody will send any more."""
    from gateway import idempotency

    close_old_connections()
    idempotency.forget_expired()


@shared_task(name="gateway.forget_limit_counters")
def forget_limit_counters() -> None:
    """Delete what limits counted in times that are long over."""
    from gateway import counters

    close_old_connections()
    counters.forget_ended()
