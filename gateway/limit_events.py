"""What limits did lately: how many calls each refused or warned of, and when last, as the organization's logs say.

A soft limit refuses nothing: without this only whoever opens a log learns that it was reached. Responsible for adding
up what is on the logs already; nothing is written for it while a call waits. Looks at the newest `MOST` such calls of
a day, and says since when. Never counts for a limit (`counters.py`). Neighbours: `throttle.py` (names the limit on the
log), `limit_views.py` (shows this), `traces.reading`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from accounts.models import Organization
from gateway.throttle import LimitReached
from respan import ids
from traces import reading
from traces.query import Condition, SpanQuery

DAY: Final = timedelta(days=1)
MOST: Final = 500


@dataclass(frozen=True, slots=True)
class Event:
    """What one limit did: `log_id` is the newest call it refused or warned of."""

    refused: int
    warned: int
    last_at: datetime
    log_id: str


@dataclass(frozen=True, slots=True)
class Lately:
    """What an organization's limits did since a moment, by their names; `is_day` says that it is a day ago."""

    since: datetime
    is_day: bool
    events: Mapping[str, Event] = field(default_factory=dict)


def lately(organization: Organization, *, now: datetime, most: int = MOST) -> Lately | None:
    """Return what an organization's limits did in a day; None where its logs cannot be searched in time."""
    query = SpanQuery(since=now - DAY, until=now, conditions=(Condition("decision", "in", ("limited",)),))
    try:
        page = reading.logs(organization_id=organization.pk, query=query, limit=most)
    except reading.SearchTooSlow:
        return None
    events: dict[str, Event] = {}
    for log in page.logs:  # the newest first
        if log.limit_name is None:
            continue
        is_refused = log.error_code == LimitReached.code
        known = events.get(log.limit_name) or Event(0, 0, log.started_at, ids.encode("log", log.id))
        events[log.limit_name] = Event(
            known.refused + is_refused, known.warned + (not is_refused), known.last_at, known.log_id
        )
    return Lately(page.logs[-1].started_at if page.has_next else now - DAY, not page.has_next, events)
