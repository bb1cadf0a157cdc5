"""What a list of logs consists of: the values of each facet with their counts, and the calls over time of the strip.

Responsible for keeping both cheap whatever an organization's size: filters that the roll-ups know are answered from
them, exactly; everything else from the newest `SAMPLE` matching spans, and the answer says so. Never lists a log
and never knows a URL. Neighbours: `query.py` (filters to SQL), `reading.py` (runs it), `filters.py`, `views.py`.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from traces import query as queries
from traces import reading
from traces.query import SpanQuery

SAMPLE: Final = 20_000
MAX_VALUES: Final = 40
MAX_BARS: Final = 60
TIMEOUT_MS: Final = 1_500
_MICROSECOND: Final = timedelta(microseconds=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS: Final = tuple(
    timedelta(seconds=seconds)
    for seconds in (1, 5, 15, 30, 60, 120, 300, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 604_800, 2_592_000)
)
_YEAR: Final = timedelta(days=365)
_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Facet:
    """A property of calls that a list is narrowed by: its name in URLs, its words, its field and column.

    `choices` are all its values, in words, where there are few; without them values are found by typing.
    """

    name: str
    label: str
    field: str
    column: str
    choices: Mapping[str, str] | None = None


FACETS: Final[Mapping[str, Facet]] = {
    facet.name: facet
    for facet in (
        Facet(
            "status",
            "Status",
            "status",
            "status",
            {"ok": "OK", "error": "Error", "aborted": "Aborted", "interrupted": "Interrupted"},
        ),
        Facet("model", "Model", "model", "request_model"),
        Facet("provider", "Provider", "provider", "provider"),
        Facet("key", "API key", "organization_key_id", "api_key_id"),
        Facet("customer", "Customer", "customer_identifier", "customer_identifier"),
        Facet(
            "environment",
            "Environment",
            "environment",
            "environment",
            {"production": "Production", "test": "Test"},
        ),
        Facet(
            "paid_by",
            "Paid by",
            "paid_by",
            "paid_by",
            {"credits": "Credits", "own_key": "Own key", "free": "Free", "nobody": "Nobody"},
        ),
        # Not a column's values: a call may have been retried and answered by a fallback.
        Facet(
            "decision",
            "Decision",
            "decision",
            "",
            {"cache": "Cache hit", "fallback": "Fallback", "retried": "Retried", "limited": "Limited"},
        ),
    )
}
# What a line of the roll-ups by hour and day knows of its calls.
_ROLLED_FIELDS: Final = frozenset(
    {"status", "failed", "model", "provider", "organization_key_id", "environment", "paid_by"}
)
# What has a roll-up of its own, of far fewer lines: field -> (dimension, its value under the name of the column).
# Customers have one too, but as many lines as customers: their newest calls are fewer.
_PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "model": ("model", "value AS request_model"),
    "provider": ("provider", "NULLIF(value, '') AS provider"),
    "organization_key_id": ("key", "value::bigint AS api_key_id"),
}


@dataclass(frozen=True, slots=True)
class Count:
    """How many calls have a value; `value` is as stored (a row id, for API keys)."""

    value: Any
    calls: int


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a facet, most calls first; `is_sample`: only the newest calls were looked at."""

    counts: tuple[Count, ...]
    is_sample: bool
    has_more: bool


@dataclass(frozen=True, slots=True)
class Bucket:
    """The calls of one stretch of time, both ends included."""

    since: datetime
    until: datetime
    calls: int
    errors: int


@dataclass(frozen=True, slots=True)
class Strip:
    """Calls over time, oldest first; `is_sample`: only the newest calls were looked at."""

    step: timedelta
    buckets: tuple[Bucket, ...]
    is_sample: bool


def values(*, organization_id: int, facet: Facet, query: SpanQuery, now: datetime, find: str = "") -> Values:
    """Count a facet's values within a query that does not filter by it itself.

    `find` keeps the values that contain it. Raises: queries.InvalidQuery; reading.SearchTooSlow.
    """
    if not facet.column:
        return _decisions(organization_id, facet, query, now)
    if find:
        query = narrowed(query, facet.field, "icontains", find)
    source = _source(organization_id, query, now=now, fields={facet.field})
    rows = reading.run(
        f"SELECT {facet.column}, {source.calls}, sum({source.calls}) OVER () FROM {source.sql}"  # noqa: S608
        " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %s",
        [*source.params, MAX_VALUES + 2],
        timeout_ms=TIMEOUT_MS,
    )
    # Calls without a value are no choice, but they fill a sample too.
    counts = tuple(Count(value, int(calls)) for value, calls, _ in rows if value is not None)
    is_sample = source.is_sample and bool(rows) and int(rows[0][2]) >= SAMPLE
    return Values(counts[:MAX_VALUES], is_sample=is_sample, has_more=len(counts) > MAX_VALUES)


def _decisions(organization_id: int, facet: Facet, query: SpanQuery, now: datetime) -> Values:
    """Count the calls of each decision among those that have one at all, which an index knows."""
    names = list(facet.choices or ())
    added = queries.parse_conditions([(facet.field, "in", names, "AND")], api_keys={})
    source = _source(organization_id, replace(query, conditions=(*added, *query.conditions)), now=now)
    each = ", ".join(f"count(*) FILTER (WHERE {queries.DECISIONS[name]})" for name in names)
    sql = f"SELECT count(*), {each} FROM {source.sql}"  # noqa: S608
    [(total, *calls)] = reading.run(sql, source.params, timeout_ms=TIMEOUT_MS)
    counts = sorted(map(Count, names, calls), key=lambda count: -count.calls)
    return Values(tuple(counts), is_sample=total >= SAMPLE, has_more=False)


def narrowed(query: SpanQuery, field: str, operator: str, value: str) -> SpanQuery:
    """Return the query with one more filter in front (conditions join from left to right). Raises: InvalidQuery."""
    added = queries.parse_conditions([(field, operator, [value], "AND")], api_keys={})
    return replace(query, conditions=(*added, *query.conditions))


def strip(*, organization_id: int, query: SpanQuery, now: datetime) -> Strip:
    """Count the calls of a query over its window. Raises: reading.SearchTooSlow."""
    since, end = _within(query, now=now)
    # A window without a sensible start shows its last year.
    since, until = max(since, end - _YEAR), end - _MICROSECOND
    is_rolled = _is_rolled(query, now=now)
    step = _step(until - since, least=_HOUR if is_rolled else _STEPS[0])
    source = _source(organization_id, query, now=now, by_day=step >= _DAY)
    origin = _floor(since, step)
    rows = reading.run(
        f"SELECT date_bin(%s, started_at, %s), {source.calls}, {source.errors} FROM {source.sql} GROUP BY 1",  # noqa: S608
        [step, origin, *source.params],
        timeout_ms=TIMEOUT_MS,
    )
    found = {at.astimezone(UTC): (int(calls), int(errors)) for at, calls, errors in rows}
    is_sample = source.is_sample and sum(calls for calls, _ in found.values()) >= SAMPLE
    return Strip(step, _buckets(found, origin=origin, since=since, until=until, step=step), is_sample)


def _buckets(
    found: Mapping[datetime, tuple[int, int]], *, origin: datetime, since: datetime, until: datetime, step: timedelta
) -> tuple[Bucket, ...]:
    buckets, at = [], origin
    while at <= until:
        calls, errors = found.get(at, (0, 0))
        end = at + step - _MICROSECOND
        buckets.append(Bucket(max(at, since), end, calls, errors))
        at += step
    return tuple(buckets)


def _floor(at: datetime, step: timedelta) -> datetime:
    return at - (at - _EPOCH) % step


def _step(length: timedelta, *, least: timedelta) -> timedelta:
    return next((step for step in _STEPS if step >= least and length / step <= MAX_BARS), _STEPS[-1])


@dataclass(frozen=True, slots=True)
class _Source:
    """Where to count: roll-ups, or a sample of the spans; both under the names of the spans' columns."""

    is_sample: bool
    sql: str
    params: Sequence[Any]
    calls: str
    errors: str


def _source(
    organization_id: int,
    query: SpanQuery,
    *,
    now: datetime,
    fields: Set[str] = frozenset(),
    by_day: bool = True,
) -> _Source:
    """Choose where a query is counted, and these fields with it; `by_day` says that hours need not be told apart."""
    where = queries.where(query)
    if not (fields <= _ROLLED_FIELDS and _is_rolled(query, now=now)):
        newest = f"{where.sql} ORDER BY {queries.order(query.sort)} LIMIT {SAMPLE}"
        sql = f"(SELECT * FROM traces_span WHERE organization_id = %s AND {newest}) AS counted"  # noqa: S608
        errors = "count(*) FILTER (WHERE status <> 'ok')"
        return _Source(True, sql, [organization_id, *where.params], "count(*)", errors)
    known = {condition.field for condition in query.conditions} | fields
    branches, params = [], []
    for resolution, since, before in _stretches(query, now=now, by_day=by_day):
        lines = _lines(known - {"environment"}, resolution)
        branches.append(
            f"SELECT * FROM ({lines}) AS spans WHERE organization_id = %s"  # noqa: S608
            f" AND started_at >= %s AND started_at < %s AND {where.sql}"
        )
        params += [organization_id, since, before, *where.params]
    return _Source(False, f"({' UNION ALL '.join(branches)}) AS counted", params, "sum(n)", "sum(errors)")


def _lines(fields: Set[str], resolution: str) -> str:
    """Write the statement that reads the smallest roll-up that knows these fields (environments all of them know)."""
    if len(fields) <= 1 and fields <= _PARTS.keys():
        dimension, value = _PARTS[next(iter(fields))] if fields else ("all", "value")
        return f"""
            SELECT organization_id, bucket AS started_at, environment, {value}, n, errors
            FROM traces_usage_part WHERE dimension = '{dimension}' AND resolution = '{resolution}'
        """  # noqa: S608  (constants)
    return f"""
        SELECT organization_id, bucket AS started_at, environment, NULLIF(provider, '') AS provider,
            model AS request_model, api_key_id, status, paid_by, n, errors
        FROM traces_usage_{"day" if resolution == "d" else "hour"}
    """  # noqa: S608  (constants)


def _stretches(query: SpanQuery, *, now: datetime, by_day: bool) -> list[tuple[str, datetime, datetime]]:
    """Part a window into whole days and the hours before and after them: (resolution, from, before)."""
    since, end = _within(query, now=now)
    first, last = _floor(since + _DAY - _MICROSECOND, _DAY), _floor(end, _DAY)
    if not by_day or first >= last:
        return [("h", since, end)]
    parts = [("h", since, first), ("d", first, last), ("h", last, end)]
    return [part for part in parts if part[1] < part[2]]


def _within(query: SpanQuery, *, now: datetime) -> tuple[datetime, datetime]:
    """Return the window without what lies before any log or after the present: (from, before)."""
    since = min(max(query.since, _LONG_AGO), now)
    return since, max(min(query.until, now), since) + _MICROSECOND


def _is_rolled(query: SpanQuery, *, now: datetime) -> bool:
    """Tell whether the roll-ups answer a query exactly: filters they know, a window of whole hours (or until now)."""
    if query.text or not {condition.field for condition in query.conditions} <= _ROLLED_FIELDS:
        return False
    is_until_now = query.until >= now
    ends_with_an_hour = is_until_now or (query.until - _EPOCH) % _HOUR == _HOUR - _MICROSECOND
    return (query.since - _EPOCH) % _HOUR == timedelta() and ends_with_an_hour
