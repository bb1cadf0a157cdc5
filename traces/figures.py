"""The door to what calls add up to: totals, series over time and breakdowns, always of one organization.

Reads the roll-ups (`store/rollups.py`), so that a million calls cost as much as a thousand; only a customer together
with another dimension is read from the spans themselves. Windows are whole hours of UTC: `start` is rounded down and
`end` up. Amounts are nano-USD. Latencies come from histograms whose buckets are a factor of sqrt(2) wide: a percentile
lies in the same bucket as the exact one, so it is off by less than that factor, and by a few per cent as a rule.
Never writes, never shows content. Neighbours: `dashboard_views.py`, the Credits page, the home page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Any, Final, Literal

from traces import spans
from traces.reading import run
from traces.store.rollups import BOUNDS_US, DAY, HOUR

Bucket = Literal["hour", "day", "week"]
Dimension = Literal["model", "provider", "key", "customer"]

_SLOTS: Final = range(1, spans.HISTOGRAM_BUCKETS + 1)
_SUMS: Final = (
    "n", "errors", "input_tokens", "output_tokens", "cache_read_input_tokens", "cost_nano", "charged_nano",
    "duration_us_sum", "cached_calls", "saved_nano",
)  # fmt: skip
_HISTOGRAMS: Final = ("duration_histogram", "ttft_histogram")
# A dimension's column in `traces_usage_hour` and `traces_usage_day`, and in `traces_span`.
_CROSS_COLUMNS: Final = {"model": "model", "provider": "provider", "key": "api_key_id::text"}
_SPAN_COLUMNS: Final = {
    "model": "request_model",
    "provider": "coalesce(provider, '')",
    "key": "api_key_id::text",
    "customer": "customer_identifier",
}
LENGTHS: Final[dict[str, timedelta]] = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many calls took how long, by the buckets of `spans.histogram_bucket`."""

    counts: tuple[int, ...] = ()

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram(tuple(a + b for a, b in zip_longest(self.counts, other.counts, fillvalue=0)))

    def percentile_us(self, share: float) -> float | None:
        """Return the microseconds that this share of the calls (0.95, say) did not exceed; None without calls."""
        total = sum(self.counts)
        if total <= 0:
            return None
        place, below = share * total, 0
        for bucket, count in enumerate(self.counts):
            if count > 0 and below + count >= place:
                return _within(bucket, (place - below) / count)
            below += count
        return None

    def percentile_ms(self, share: float) -> float | None:
        """Return the same in milliseconds."""
        found = self.percentile_us(share)
        return None if found is None else found / 1000


def _within(bucket: int, part: float) -> float:
    """Return the latency at this part of a bucket, as if its calls were spread evenly on the logarithmic scale."""
    if bucket == 0:
        return BOUNDS_US[0] * part
    low = BOUNDS_US[bucket - 1]
    high = BOUNDS_US[bucket] if bucket < len(BOUNDS_US) else low
    return float(low * (high / low) ** part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What some calls add up to. `cost_nano` is what they cost, `charged_nano` what of it was paid from credits.

    `cached_calls` are those that the response cache answered, `saved_nano` what they would have cost.
    """

    calls: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_nano: int = 0
    charged_nano: int = 0
    duration_us_sum: int = 0
    cached_calls: int = 0
    saved_nano: int = 0
    latency: Histogram = field(default_factory=Histogram)
    ttft: Histogram = field(default_factory=Histogram)

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def errors_percent(self) -> float | None:
        return 100 * self.errors / self.calls if self.calls else None

    @property
    def cached_percent(self) -> float | None:
        return 100 * self.cached_calls / self.calls if self.calls else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What narrows the calls: each dimension to one value. `api_key_id` is a key's row id."""

    model: str | None = None
    provider: str | None = None
    api_key_id: int | None = None
    customer: str | None = None

    def _values(self) -> dict[str, str]:
        found = {"model": self.model, "provider": self.provider, "customer": self.customer}
        if self.api_key_id is not None:
            found["key"] = str(self.api_key_id)
        return {name: value for name, value in found.items() if value is not None}


NO_FILTERS: Final = Filters()


@dataclass(frozen=True, slots=True)
class Point:
    """The figures of one stretch of time, from its start."""

    start: datetime
    figures: Figures


@dataclass(frozen=True, slots=True)
class Series:
    """One value's numbers over time; with `is_rest` those of all values that have no series of their own."""

    value: str
    points: tuple[float | None, ...]
    is_rest: bool = False


@dataclass(frozen=True, slots=True)
class SeriesOverTime:
    """Series that share their stretches of time; the one with the most comes first, the rest last."""

    starts: tuple[datetime, ...]
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """One value of a dimension and what its calls add up to. A key's value is its row id."""

    value: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The values with the most calls; `others` are the remaining `other_values`, without latencies."""

    shares: tuple[Share, ...]
    others: Figures
    other_values: int


Metric = Literal[
    "calls", "errors", "cost", "charged", "tokens", "input_tokens", "output_tokens", "cached_tokens",
    "p50", "p95", "p99", "ttft_p50", "ttft_p95",
]  # fmt: skip
# Metrics that add up, by their SQL.
_SUMMED: Final = {
    "calls": "n",
    "errors": "errors",
    "cost": "cost_nano",
    "charged": "charged_nano",
    "tokens": "input_tokens + output_tokens",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_tokens": "cache_read_input_tokens",
}
_LATENCIES: "Final[dict[str, Callable[[Figures], float | None]]]" = {
    "p50": lambda figures: figures.latency.percentile_ms(0.5),
    "p95": lambda figures: figures.latency.percentile_ms(0.95),
    "p99": lambda figures: figures.latency.percentile_ms(0.99),
    "ttft_p50": lambda figures: figures.ttft.percentile_ms(0.5),
    "ttft_p95": lambda figures: figures.ttft.percentile_ms(0.95),
}


# --- Questions --------------------------------------------------------------------------------------------------------


def totals(
    *, organization_id: int, start: datetime, end: datetime, environment: str = "", filters: Filters = NO_FILTERS
) -> Figures:
    """Return what the calls of a window add up to. `environment` "" is all of them. Raises: SearchTooSlow."""
    source = _Source(organization_id, start, end, environment, filters)
    rows = run(f"SELECT {source.measures()} FROM {source.rows()}", source.params)  # noqa: S608  (names are ours)
    return _figures(rows[0]) if rows else Figures()


def timeline(
    *,
    organization_id: int,
    start: datetime,
    end: datetime,
    bucket: Bucket,
    environment: str = "",
    filters: Filters = NO_FILTERS,
) -> list[Point]:
    """Return the figures of each hour, day or week of a window, the empty ones too. Raises: SearchTooSlow."""
    source = _Source(organization_id, start, end, environment, filters, by_hour=bucket == "hour")
    sql = f"SELECT {_start_of(bucket)}, {source.measures()} FROM {source.rows()} GROUP BY 1"  # noqa: S608
    found = {row[0].astimezone(UTC): _figures(row[1:]) for row in run(sql, source.params)}
    return [Point(at, found.get(at, Figures())) for at in starts(start, end, bucket)]


def series(
    *,
    organization_id: int,
    start: datetime,
    end: datetime,
    metric: Metric,
    bucket: Bucket,
    group_by: Dimension | None = None,
    limit: int = 5,
    environment: str = "",
    filters: Filters = NO_FILTERS,
) -> SeriesOverTime:
    """Return one metric over time, of all calls or of the `limit` values with the most of it and of the rest.

    Amounts are nano-USD, latencies milliseconds (None where there were no calls). Latencies do not add up: they come
    without `group_by`. Raises: ValueError for latencies by a dimension; SearchTooSlow.
    """
    if metric in _LATENCIES:
        if group_by is not None:
            raise ValueError("latencies have no series by dimension")
        points = timeline(
            organization_id=organization_id,
            start=start,
            end=end,
            bucket=bucket,
            environment=environment,
            filters=filters,
        )
        values = tuple(_LATENCIES[metric](point.figures) for point in points)
        return SeriesOverTime(tuple(point.start for point in points), (Series("", values),))
    source = _Source(organization_id, start, end, environment, filters, group_by, by_hour=bucket == "hour")
    sql = f"""
        WITH points AS (
            SELECT {_start_of(bucket)} AS start, {source.group()} AS value, sum({_SUMMED[metric]}) AS amount
            FROM {source.rows()} GROUP BY 1, 2
        ), ranked AS (
            SELECT value, row_number() OVER (ORDER BY sum(amount) DESC, value) AS place FROM points GROUP BY value
        )
        SELECT least(place, %s), min(value), start, sum(amount) FROM points JOIN ranked USING (value)
        GROUP BY least(place, %s), start ORDER BY 1
    """  # noqa: S608  (names are ours)
    beginnings = starts(start, end, bucket)
    lines: dict[int, tuple[str, dict[datetime, float]]] = {}
    for place, value, at, amount in run(sql, [*source.params, limit + 1, limit + 1]):
        lines.setdefault(place, (value, {}))[1][at.astimezone(UTC)] = int(amount)
    return SeriesOverTime(
        tuple(beginnings),
        tuple(
            Series(
                "" if place > limit else value,
                tuple(amounts.get(at, 0) for at in beginnings),
                is_rest=place > limit,
            )
            for place, (value, amounts) in lines.items()
        ),
    )


def breakdown(
    *,
    organization_id: int,
    start: datetime,
    end: datetime,
    by: Dimension,
    limit: int = 20,
    environment: str = "",
    filters: Filters = NO_FILTERS,
) -> Breakdown:
    """Return the values of a dimension with the most calls, and what the others add up to. Raises: SearchTooSlow."""
    source = _Source(organization_id, start, end, environment, filters, by)
    sums = ", ".join(f"sum({name}) AS {name}" for name in _SUMS)
    over_all = ", ".join(f"sum({name}) OVER ()" for name in _SUMS)
    sql = f"""
        WITH each AS (SELECT {source.group()} AS value, {sums} FROM {source.rows()} GROUP BY 1)
        SELECT value, count(*) OVER (), {", ".join(_SUMS)}, {over_all} FROM each ORDER BY n DESC, value LIMIT %s
    """  # noqa: S608  (names are ours)
    rows = run(sql, [*source.params, limit])
    if not rows:
        return Breakdown((), Figures(), 0)
    listed = [row[0] for row in rows]
    width = len(_SUMS)
    histograms = _histograms(_Source(organization_id, start, end, environment, filters, by, among=listed))
    shares = tuple(Share(row[0], _figures([*row[2 : 2 + width], *histograms.get(row[0], ())])) for row in rows)
    left = [int(rows[0][2 + width + i]) - sum(int(row[2 + i]) for row in rows) for i in range(width)]
    return Breakdown(shares, _figures(left), int(rows[0][1]) - len(rows))


def values(
    *, organization_id: int, start: datetime, end: datetime, environment: str = "", limit: int = 200
) -> dict[str, list[str]]:
    """Return the models and providers that were called in a window, those with the most calls first."""
    source = _Source(organization_id, start, end, environment, NO_FILTERS, dimensions=("model", "provider"))
    sql = f"SELECT dimension, value FROM {source.rows()} WHERE value <> '' GROUP BY 1, 2 ORDER BY sum(n) DESC, value"  # noqa: S608
    found: dict[str, list[str]] = {"model": [], "provider": []}
    for dimension, value in run(sql, source.params):
        if len(found[dimension]) < limit:
            found[dimension].append(value)
    return found


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


# --- Where the rows come from -----------------------------------------------------------------------------------------


def _start_of(bucket: Bucket) -> str:
    return f"date_trunc('{bucket}', bucket, 'UTC')"


class _Source:
    """The rows that answer a question, from the narrowest table that holds them, and their parameters."""

    def __init__(
        self,
        organization_id: int,
        start: datetime,
        end: datetime,
        environment: str,
        filters: Filters,
        group: Dimension | None = None,
        *,
        by_hour: bool = False,
        among: Sequence[str] | None = None,
        dimensions: tuple[str, ...] = (),
    ) -> None:
        self.params: list[Any] = []
        self._organization_id = organization_id
        self._start = floor(start, "hour")
        self._end = floor(end - timedelta(microseconds=1), "hour") + timedelta(hours=1)
        self._environment = environment
        self._by_hour = by_hour
        self._group = group
        self._asked: dict[str, list[str]] = {name: [value] for name, value in filters._values().items()}
        if among is not None and group is not None:
            self._asked[group] = list(among)
        self._dimensions = dimensions
        concerned = {*filters._values(), *([group] if group else [])}
        self._is_spans = "customer" in concerned and len(concerned) > 1
        self._is_cross = not self._is_spans and len(concerned) > 1
        if not dimensions:
            self._dimensions = tuple(concerned) or ("all",)

    def group(self) -> str:
        """Return the column of the dimension the rows are grouped by; '' where there is none."""
        return "value" if self._group else "''"

    def measures(self) -> str:
        """Return the aggregates that `_figures` reads."""
        sums = [f"coalesce(sum({name}), 0)" for name in _SUMS]
        return ", ".join([*sums, *self.histograms()])

    def histograms(self) -> list[str]:
        if self._is_spans:
            # Numbers of ours, not parameters: the same list would be sent eighty times.
            return [
                f"ARRAY[{', '.join(f'count(*) FILTER (WHERE {slot} = {i - 1})' for i in _SLOTS)}]"
                for slot in ("duration_slot", "ttft_slot")
            ]
        return [f"ARRAY[{', '.join(f'sum({name}[{i}])' for i in _SLOTS)}]::bigint[]" for name in _HISTOGRAMS]

    def rows(self) -> str:
        """Return the rows as an item of FROM, filling `params`."""
        self.params = []
        if self._is_spans:
            return f"({self._from_spans()}) AS usage"
        pieces = [self._from_rollup(*piece) for piece in self._pieces()]
        return f"({' UNION ALL '.join(pieces)}) AS usage"

    def _pieces(self) -> list[tuple[str, datetime, datetime]]:
        """Cut the window: whole days are read by the day, its ends (or, by the hour, all of it) by the hour."""
        first, last = floor(self._start + timedelta(hours=23), "day"), floor(self._end, "day")
        if self._by_hour or first >= last:
            return [(HOUR, self._start, self._end)]
        pieces = [(HOUR, self._start, first), (DAY, first, last), (HOUR, last, self._end)]
        return [piece for piece in pieces if piece[1] < piece[2]]

    def _from_rollup(self, resolution: str, start: datetime, end: datetime) -> str:
        measures = ", ".join((*_SUMS, *_HISTOGRAMS))
        self.params.append(self._organization_id)
        if self._is_cross:
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
        sql = ""
        for name, wanted in self._asked.items():
            sql += f" AND {columns[name]} = ANY(%s)"
            self.params.append(wanted)
        if self._environment:
            sql += " AND environment = %s"
            self.params.append(self._environment)
        if self._asked and not self._is_cross:
            # One look-up for each value and bucket, instead of every value of the window.
            length: Bucket = "hour" if resolution == HOUR else "day"
            self.params.append(starts(start, end, length))
            return f"{sql} AND bucket = ANY(%s)"
        self.params += [start, end]
        return f"{sql} AND bucket >= %s AND bucket < %s"

    def _from_spans(self) -> str:
        self.params = [self._organization_id, self._start, self._end]
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
        for name, wanted in self._asked.items():
            sql += f" AND {_SPAN_COLUMNS[name]} = ANY(%s)"
            self.params.append(wanted)
        if self._environment:
            sql += " AND environment = %s"
            self.params.append(self._environment)
        return sql


_ARRAY: Final = f"{{{','.join(map(str, BOUNDS_US))}}}"


def _histograms(source: _Source) -> dict[str, list[Any]]:
    sql = f"SELECT value, {', '.join(source.histograms())} FROM {source.rows()} GROUP BY 1"  # noqa: S608
    return {row[0]: list(row[1:]) for row in run(sql, source.params)}


def _figures(row: Sequence[Any]) -> Figures:
    """Make figures of the sums of `_SUMS` and, where they follow, the two histograms."""
    calls, errors, input_tokens, output_tokens, cached, cost, charged, duration, hits, saved, *histograms = row
    latency, ttft = histograms or ((), ())
    return Figures(
        calls=int(calls),
        errors=int(errors),
        input_tokens=int(input_tokens or 0),
        output_tokens=int(output_tokens or 0),
        cached_tokens=int(cached or 0),
        cost_nano=int(cost or 0),
        charged_nano=int(charged or 0),
        duration_us_sum=int(duration or 0),
        cached_calls=int(hits or 0),
        saved_nano=int(saved or 0),
        latency=Histogram(tuple(int(count or 0) for count in latency)),
        ttft=Histogram(tuple(int(count or 0) for count in ttft)),
    )
