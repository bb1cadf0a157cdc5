"""Which rows answer a question about figures: the narrowest roll-up that knows its filters, else the calls themselves.

Writes SQL and reads nothing. Windows are whole hours of UTC: `start` is rounded down and `end` up; whole days are read
by the day. Every statement names the organization first. Neighbours: `figures.py` (asks), `store/rollups.py` (writes
these tables).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from traces import spans
from traces.measures import SUMS
from traces.store.rollups import BOUNDS_US, DAY, HOUR

Bucket = Literal["hour", "day", "week"]
Dimension = Literal["model", "provider", "key", "customer"]

_SLOTS: Final = range(1, spans.HISTOGRAM_BUCKETS + 1)
LATENCY: Final = "duration_histogram"
TTFT: Final = "ttft_histogram"
# A dimension's column in `traces_usage_hour` and `traces_usage_day`, and in `traces_span`.
_CROSS_COLUMNS: Final = {"model": "model", "provider": "provider", "key": "api_key_id::text"}
_SPAN_COLUMNS: Final = {
    "model": "request_model",
    "provider": "coalesce(provider, '')",
    "key": "api_key_id::text",
    "customer": "customer_identifier",
}
_ARRAY: Final = f"{{{','.join(map(str, BOUNDS_US))}}}"
LENGTHS: Final[dict[str, timedelta]] = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What narrows the calls: each dimension to one value. `api_key_id` is a key's row id."""

    model: str | None = None
    provider: str | None = None
    api_key_id: int | None = None
    customer: str | None = None

    def values(self) -> dict[str, str]:
        """Return the value of each dimension that is narrowed, as the roll-ups write it."""
        found = {"model": self.model, "provider": self.provider, "customer": self.customer}
        if self.api_key_id is not None:
            found["key"] = str(self.api_key_id)
        return {name: value for name, value in found.items() if value is not None}


NO_FILTERS: Final = Filters()


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose calls, and which of them. `environment` "" is all of them.

    `is_open`: there are no calls behind its end yet, so that its last day is read whole where hours need not be told
    apart.
    """

    organization_id: int
    start: datetime
    end: datetime
    environment: str = ""
    filters: Filters = NO_FILTERS
    is_open: bool = False


def starts(start: datetime, end: datetime, bucket: Bucket) -> list[datetime]:
    """Return the beginning of each hour, day or week (from Monday) of UTC that a window touches."""
    at = floor(start.astimezone(UTC), bucket)
    found = []
    while at < end:
        found.append(at)
        at += LENGTHS[bucket]
    return found


def floor(moment: datetime, bucket: Bucket) -> datetime:
    """Return the beginning of the hour, day or week of UTC that a moment is in."""
    hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if bucket == "hour":
        return hour
    day = hour.replace(hour=0)
    return day if bucket == "day" else day - timedelta(days=day.weekday())


def start_of(bucket: Bucket) -> str:
    """Return the SQL of the second a row's hour, day or week begins at."""
    return f"extract(epoch FROM date_trunc('{bucket}', bucket, 'UTC'))::bigint"


def _whole_hours(scope: Scope) -> tuple[datetime, datetime]:
    return floor(scope.start, "hour"), floor(scope.end - timedelta(microseconds=1), "hour") + timedelta(hours=1)


def pieces(scope: Scope) -> list[tuple[str, datetime, datetime]]:
    """Cut a window: whole days are read by the day, its ends by the hour. (resolution, from, before)"""
    start, end = _whole_hours(scope)
    first, last = floor(start + timedelta(hours=23), "day"), floor(end, "day")
    if scope.is_open and last < end:
        last, end = (last + timedelta(days=1),) * 2
    if first >= last:
        return [(HOUR, start, end)]
    cut = [(HOUR, start, first), (DAY, first, last), (HOUR, last, end)]
    return [piece for piece in cut if piece[1] < piece[2]]


def customers(scope: Scope) -> tuple[str, list[Any]]:
    """Return an item of FROM with the number of calls of each customer, in a row or a few, and its parameters."""
    branches, params = [], []
    environment = " AND environment = %s" if scope.environment else ""
    named = [scope.environment] if scope.environment else []
    for sign, resolution, start, end in _signed(pieces(scope)):
        if resolution == HOUR:
            branches.append(
                f"SELECT value, {sign}n AS n FROM traces_usage_part WHERE organization_id = %s"  # noqa: S608  (ours)
                f" AND dimension = 'customer' AND resolution = '{HOUR}' AND bucket >= %s AND bucket < %s{environment}"
            )
            params += [scope.organization_id, start, end, *named]
            continue
        for month, before, until in _months(start, end):
            # Running counts: what was called until the last day, less what was called before the first one.
            calls = f"coalesce(calls[{until}], 0) - coalesce(calls[{before}], 0)"
            branches.append(
                f"SELECT customer AS value, {calls} AS n FROM traces_usage_customer"  # noqa: S608  (numbers are ours)
                f" WHERE organization_id = %s AND bucket = %s{environment} AND {calls} > 0"
            )
            params += [scope.organization_id, month, *named]
    return f"({' UNION ALL '.join(branches)}) AS calls", params


def _signed(cut: list[tuple[str, datetime, datetime]]) -> Iterator[tuple[str, str, datetime, datetime]]:
    """Yield pieces with their sign: most of a day is the day less its other hours, which are fewer rows."""
    for resolution, start, end in cut:
        midnight = floor(start, "day")
        if resolution == DAY or end - start <= timedelta(hours=12) or end - midnight > timedelta(days=1):
            yield "", resolution, start, end
            continue
        yield "", DAY, midnight, midnight + timedelta(days=1)
        for first, last in ((midnight, start), (end, midnight + timedelta(days=1))):
            if first < last:
                yield "-", HOUR, first, last


def _months(start: datetime, end: datetime) -> Iterator[tuple[datetime, int, int]]:
    """Yield each month of some days: its beginning, the day before the first and the last of them."""
    while start < end:
        month = start.replace(day=1)
        following = (month + timedelta(days=31)).replace(day=1)
        until = min(end, following)
        yield month, start.day - 1, (until - timedelta(days=1)).day
        start = until


class Source:
    """The rows that answer a question, from the narrowest table that holds them, and their parameters.

    `among` is the SQL of an array: only these values of the dimension the rows are grouped by.
    """

    def __init__(
        self,
        scope: Scope,
        group: Dimension | None = None,
        *,
        by_hour: bool = False,
        among: str = "",
        dimensions: tuple[str, ...] = (),
    ) -> None:
        self.params: list[Any] = []
        self._scope = scope
        self._start, self._end = _whole_hours(scope)
        self._by_hour = by_hour
        self._group = group
        self._among = among
        self._asked = scope.filters.values()
        concerned = {*self._asked, *([group] if group else [])}
        self.is_spans = "customer" in concerned and len(concerned) > 1
        self.is_cross = not self.is_spans and len(concerned) > 1
        self._dimensions = dimensions or tuple(concerned) or ("all",)

    def group(self) -> str:
        """Return the column of the dimension the rows are grouped by; '' where there is none."""
        return "value" if self._group else "''"

    def histogram(self, name: str) -> str:
        """Return the aggregate that adds up a histogram: `LATENCY` or `TTFT`."""
        if self.is_spans:
            slot = name.replace("histogram", "slot")
            # Numbers of ours, not parameters: the same list would be sent forty times.
            return f"ARRAY[{', '.join(f'count(*) FILTER (WHERE {slot} = {i - 1})' for i in _SLOTS)}]"
        return f"ARRAY[{', '.join(f'sum({name}[{i}])' for i in _SLOTS)}]"

    def rows(self) -> str:
        """Return the rows as an item of FROM, filling `params`."""
        self.params = []
        if self.is_spans:
            return f"({self._from_spans()}) AS usage"
        return f"({' UNION ALL '.join(self._from_rollup(*piece) for piece in self._pieces())}) AS usage"

    def _pieces(self) -> list[tuple[str, datetime, datetime]]:
        """Cut the window: whole days are read by the day, its ends (or, by the hour, all of it) by the hour."""
        if self._by_hour:
            return [(HOUR, self._start, self._end)]
        return pieces(self._scope)

    def _from_rollup(self, resolution: str, start: datetime, end: datetime) -> str:
        measures = ", ".join((*SUMS, LATENCY, TTFT))
        self.params.append(self._scope.organization_id)
        if self.is_cross:
            table = "traces_usage_hour" if resolution == HOUR else "traces_usage_day"
            value = _CROSS_COLUMNS[self._group] if self._group else "''"
            sql = f"SELECT bucket, {value} AS value, {measures} FROM {table} WHERE organization_id = %s"  # noqa: S608
            return sql + self._narrowed(_CROSS_COLUMNS, resolution, start, end)
        self.params += [list(self._dimensions), resolution]
        sql = (
            f"SELECT dimension, bucket, value, {measures} FROM traces_usage_part"  # noqa: S608
            " WHERE organization_id = %s AND dimension = ANY(%s) AND resolution = %s"
        )
        return sql + self._narrowed(dict.fromkeys(_SPAN_COLUMNS, "value"), resolution, start, end)

    def _narrowed(self, columns: dict[str, str], resolution: str, start: datetime, end: datetime) -> str:
        sql = self._conditions(columns)
        if self.is_cross and not self._asked.keys().isdisjoint(("model", "provider")):
            return sql + self._along_the_key(resolution, start, end)
        is_looked_up = self._asked or (self._among and self._group == "customer")
        if is_looked_up and not self.is_cross:
            # One look-up for each value and bucket, instead of every value of the window.
            length: Bucket = "hour" if resolution == HOUR else "day"
            self.params.append(starts(start, end, length))
            return f"{sql} AND bucket = ANY(%s)"
        self.params += [start, end]
        return f"{sql} AND bucket >= %s AND bucket < %s"

    def _along_the_key(self, resolution: str, start: datetime, end: datetime) -> str:
        """Name what the primary key has before the value that is asked for: it is looked up then, not searched."""
        self.params.append(starts(start, end, "hour" if resolution == HOUR else "day"))
        sql = " AND bucket = ANY(%s)"
        known = ["environment"] if not self._scope.environment else []
        known += ["provider"] if "provider" not in self._asked else []
        for name in known:
            column, dimension = ("value", "provider") if name == "provider" else ("environment", "all")
            sql += (
                f" AND {name} = ANY(ARRAY(SELECT DISTINCT {column} FROM traces_usage_part WHERE organization_id = %s"  # noqa: S608
                f" AND dimension = '{dimension}' AND resolution = '{resolution}' AND bucket >= %s AND bucket < %s))"
            )
            self.params += [self._scope.organization_id, start, end]
        return sql

    def _conditions(self, columns: dict[str, str]) -> str:
        sql = ""
        for name, value in self._asked.items():
            is_number = name == "key" and columns[name].startswith("api_key_id")
            sql += " AND api_key_id = %s::bigint" if is_number else f" AND {columns[name]} = %s"
            self.params.append(value)
        if self._among and self._group:
            sql += f" AND {columns[self._group]} = ANY({self._among})"
        if self._scope.environment:
            sql += " AND environment = %s"
            self.params.append(self._scope.environment)
        return sql

    def _from_spans(self) -> str:
        self.params = [self._scope.organization_id, self._start, self._end]
        sql = f"""
            SELECT started_at AS bucket, {_SPAN_COLUMNS[self._group] if self._group else "''"} AS value, 1 AS n,
                (status <> 'ok')::int AS errors, coalesce(input_tokens, 0) AS input_tokens,
                coalesce(output_tokens, 0) AS output_tokens,
                coalesce(cache_read_input_tokens, 0) AS cache_read_input_tokens,
                coalesce(cost_nano, 0) AS cost_nano, charged_nano, duration_us AS duration_us_sum,
                cached::int AS cached_calls, coalesce(saved_nano, 0) AS saved_nano,
                width_bucket(duration_us, '{_ARRAY}'::bigint[]) AS duration_slot,
                width_bucket(ttft_us, '{_ARRAY}'::bigint[]) AS ttft_slot
            FROM traces_span WHERE organization_id = %s AND started_at >= %s AND started_at < %s
        """  # noqa: S608  (names are ours)
        if self._group == "customer":
            sql += " AND customer_identifier <> ''"
        return sql + self._conditions(_SPAN_COLUMNS)
