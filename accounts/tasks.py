"""What accounts does from time to time: forgets sessions that are over and counters that have run out.

Never signs anybody out. Neighbours: `sessions.py`, the table of `CACHES` (migration 0003), `respan/celery.py` (when).
"""

from celery import shared_task
from django.db import connection
from django.utils import timezone

from accounts import sessions


@shared_task(name="accounts.forget_ended_sessions")
def forget_ended_sessions() -> None:
    """Drop ended sessions, and counters of sign-in attempts that have run out."""
    now = timezone.now()
    sessions.forget_ended(now=now)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM shared_cache WHERE expires < %s", [now])
