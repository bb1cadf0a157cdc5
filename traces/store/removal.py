"""Taking one organization's spans out before their partition goes: spans and bodies in batches, roll-ups at an end.

A partition that is dropped whole costs nothing; this is for an organization that keeps its logs for fewer days than the
installation, or that was deleted. Roll-ups outlive the spans they count, as they do beyond the installation's
retention. Neighbours: `partitions.py`, `traces.retention` (says when).
"""

from datetime import datetime
from typing import Final

from django.db import connection, transaction

ROLLUPS: Final = ("traces_usage_hour", "traces_usage_day", "traces_usage_part", "traces_usage_customer")

# Oldest first: a batch then lies in a partition or two, and the bounds of time keep the deletes to those.
_OLDEST = """
    SELECT id, started_at FROM traces_span WHERE organization_id = %s AND started_at < %s
    ORDER BY started_at, id LIMIT %s
"""
_THESE = "WHERE organization_id = %s AND started_at BETWEEN %s AND %s AND id = ANY(%s)"


def remove_spans(*, organization_id: int, before: datetime, limit: int) -> int:
    """Delete at most `limit` spans that started before a moment, with their bodies; return how many went."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_OLDEST, [organization_id, before, limit])
        found = cursor.fetchall()
        if not found:
            return 0
        these = [organization_id, found[0][1], found[-1][1], [id_ for id_, _ in found]]
        cursor.execute(f"DELETE FROM traces_body {_THESE}", these)  # noqa: S608  (constants)
        cursor.execute(f"DELETE FROM traces_span {_THESE}", these)  # noqa: S608  (constants)
    return len(found)


def remove_rollups(*, organization_id: int) -> int:
    """Delete all that is counted of an organization; return how many rows went."""
    gone = 0
    with transaction.atomic(), connection.cursor() as cursor:
        for table in ROLLUPS:
            cursor.execute(f"DELETE FROM {table} WHERE organization_id = %s", [organization_id])  # noqa: S608
            gone += cursor.rowcount
    return gone
