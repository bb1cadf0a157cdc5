"""Windows of time in which a limit counts: when the one under way began and when it ends. Pure.

Times are Unix time in milliseconds, UTC. Never reads a clock. Neighbours: `limits.py` (which window a limit has),
`counters.py` (who counts in it).
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

# No end: further away than any clock counts, and still a BIGINT.
NEVER_MS = 1 << 60
NAMED_S = {"minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800}
PERIODS = (*NAMED_S, "month")
MAX_SECONDS = 366 * 86_400
# 1970 began on a Thursday, weeks begin on a Monday.
_FIRST_MONDAY_MS = 4 * 86_400_000


class Window(NamedTuple):
    """From `starts_ms` until before `ends_ms`."""

    starts_ms: int
    ends_ms: int


FOREVER = Window(0, NEVER_MS)


def parsed(text: str) -> str | None:
    """Return a period as it is kept (a name, or whole seconds), or None where it is none."""
    if text in PERIODS:
        return text
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_SECONDS:
        return str(int(text))
    return None


def window(period: str, now_ms: int, *, anchor_ms: int | None = None, first_event: bool = False) -> Window:
    """Return the window that `now_ms` lies in.

    An empty `period` never ends. Windows begin with the calendar's, else at `anchor_ms` and every period after it; with
    `first_event` one begins now, for whoever finds none under way.
    """
    if not period:
        return FOREVER
    if first_event:
        return Window(now_ms, _after(now_ms, period))
    if period == "month":
        return _month(now_ms, anchor_ms)
    length = _seconds(period) * 1000
    origin = anchor_ms if anchor_ms is not None else _FIRST_MONDAY_MS if period == "week" else 0
    starts = origin + (now_ms - origin) // length * length
    return Window(starts, starts + length)


def _seconds(period: str) -> int:
    return NAMED_S.get(period) or int(period)


def _after(starts_ms: int, period: str) -> int:
    if period != "month":
        return starts_ms + _seconds(period) * 1000
    return _ms(_months_later(_moment(starts_ms), 1))


def _month(now_ms: int, anchor_ms: int | None) -> Window:
    now = _moment(now_ms)
    anchor = _moment(anchor_ms) if anchor_ms is not None else datetime(1970, 1, 1, tzinfo=UTC)
    count = (now.year - anchor.year) * 12 + now.month - anchor.month
    if _months_later(anchor, count) > now:
        count -= 1
    return Window(_ms(_months_later(anchor, count)), _ms(_months_later(anchor, count + 1)))


def _months_later(moment: datetime, count: int) -> datetime:
    """Return the same day `count` months later, or the last of a month that has no such day."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + count, 12)
    first = moment.replace(year=year, month=month + 1, day=1)
    return min(first + timedelta(days=moment.day - 1), _next_month(first) - timedelta(days=1))


def _next_month(first: datetime) -> datetime:
    return (first + timedelta(days=32)).replace(day=1)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000
