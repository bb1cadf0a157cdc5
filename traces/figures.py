"""The door to what calls add up to: totals, series over time and breakdowns, always of one organization.

Reads the roll-ups (`store/rollups.py`), so that a million calls cost as much as a thousand; only a customer together
with another dimension is read from the spans themselves. Windows are whole hours of UTC: `start` is rounded down and
`end` up. Amounts are nano-USD. Any number of questions is one statement: a page asks for all it shows at once.
Never writes, never shows content. Neighbours: `rollup_source.py` (which rows), `measures.py` (what comes out),
`dashboard_views.py`, the Credits page, the home page.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec
from django.db import connection, transaction

from traces.measures import SUMS, Figures, Histogram, figures_of
from traces.reading import SearchTooSlow, run
from traces.rollup_source import (
    LATENCY,
    LENGTHS,
    NO_FILTERS,
    TTFT,
    Bucket,
    Dimension,
    Filters,
    Scope,
    Source,
    customers,
    floor,
    start_of,
    starts,
)
from traces.store.rollups import NAMED

__all__ = [
    "LENGTHS", "Breakdown", "Bucket", "Dimension", "Figures", "Filters", "Histogram", "Metric", "Point", "Report",
    "Scope", "Series", "SeriesOverTime", "Share", "breakdown", "calls_to_read", "floor", "report", "series", "starts",
    "timeline", "totals", "values",
]  # fmt: skip

_Answer = TypeVar("_Answer")
# To start another process or to compile takes longer than a few ten thousand rows of a roll-up.
_SHORT: Final = "SELECT set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true)"
# How many models and providers a page offers to choose from.
_OFFERED: Final = 200


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
    """One value of a dimension and what its calls add up to, without first tokens. A key's value is its row id."""

    value: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The values with the most calls; `others` are the remaining `other_values`, without latencies."""

    shares: tuple[Share, ...]
    others: Figures
    other_values: int


@dataclass(frozen=True, slots=True)
class Report:
    """All that a page shows of a window. `breakdown` is None where it took too long."""

    points: list[Point]
    previous: Figures
    spend: SeriesOverTime
    values: dict[str, list[str]]
    breakdown: Breakdown | None


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


def totals(
    *, organization_id: int, start: datetime, end: datetime, environment: str = "", filters: Filters = NO_FILTERS
) -> Figures:
    """Return what the calls of a window add up to. `environment` "" is all of them. Raises: SearchTooSlow."""
    return _answer(_totals(Scope(organization_id, start, end, environment, filters)))


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
    return _answer(_timeline(Scope(organization_id, start, end, environment, filters), bucket))


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
    scope = Scope(organization_id, start, end, environment, filters)
    if metric in _LATENCIES:
        if group_by is not None:
            raise ValueError("latencies have no series by dimension")
        points = _answer(_timeline(scope, bucket))
        values = tuple(_LATENCIES[metric](point.figures) for point in points)
        return SeriesOverTime(tuple(point.start for point in points), (Series("", values),))
    return _answer(_series(scope, metric, bucket, group_by, limit))


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
    return _answer(_breakdown(Scope(organization_id, start, end, environment, filters), by, limit))


def values(
    *, organization_id: int, start: datetime, end: datetime, environment: str = "", limit: int = _OFFERED
) -> dict[str, list[str]]:
    """Return the models and providers that were called in a window, those with the most calls first."""
    return _answer(_values(Scope(organization_id, start, end, environment), limit))


def calls_to_read(scope: Scope, by: Dimension) -> int:
    """Return how many calls a report reads one by one: none, unless a customer meets another dimension."""
    narrowed = scope.filters.values()
    if "customer" not in narrowed and not (narrowed and by == "customer"):
        return 0
    # The index of calls knows customers alone: whatever else narrows them is looked for in all calls of the time.
    return _answer(_totals(replace(scope, filters=Filters(customer=scope.filters.customer)))).calls


def report(
    scope: Scope,
    *,
    before: tuple[datetime, datetime],
    bucket: Bucket,
    by: Dimension,
    limit: int = 20,
    models: int = 5,
) -> Report:
    """Return all that a page shows of a window, and the totals of the window before it. Raises: SearchTooSlow.

    `limit` values of the breakdown and `models` in the spend over time have figures of their own.
    """
    questions: list[_Question[Any]] = [
        _timeline(scope, bucket),
        _totals(replace(scope, start=before[0], end=before[1], is_open=False)),
        _series(scope, "cost", bucket, "model", models),
        _values(replace(scope, filters=NO_FILTERS), _OFFERED),
    ]
    broken_down = _breakdown(scope, by, limit)
    if not Source(scope, by).is_spans:
        return Report(*_answers(*questions, broken_down))
    points, previous, spend, values = _answers(*questions)
    try:
        return Report(points, previous, spend, values, _answer(broken_down))
    except SearchTooSlow:
        return Report(points, previous, spend, values, None)


# --- Questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Question(Generic[_Answer]):
    """A statement whose rows are one JSON array each, and what to make of them."""

    sql: str
    params: list[Any]
    read: Callable[[list[Any]], _Answer]
    # Calls are read one by one.
    is_long: bool = False


def _answers(*questions: _Question[Any]) -> list[Any]:
    """Ask the database once for all of it. Raises: SearchTooSlow."""
    columns = ", ".join(
        f"(SELECT coalesce(json_agg(line), '[]') FROM ({each.sql}) AS found)::text"  # noqa: S608  (names are ours)
        for each in questions
    )
    params = [value for each in questions for value in each.params]
    if any(each.is_long for each in questions):
        [row] = run(f"SELECT {columns}", params)
    else:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_SHORT)
            [row] = run(f"SELECT {columns}", params)
    return [each.read(msgspec.json.decode(text)) for each, text in zip(questions, row, strict=True)]


def _answer(question: _Question[_Answer]) -> _Answer:
    [answer] = _answers(question)
    found: _Answer = answer
    return found


def _line(*columns: str) -> str:
    return f"SELECT json_build_array({', '.join(columns)}) AS line"


def _measures(source: Source) -> list[str]:
    """Return the aggregates that `figures_of` reads."""
    return [*(f"coalesce(sum({name}), 0)" for name in SUMS), source.histogram(LATENCY), source.histogram(TTFT)]


def _totals(scope: Scope) -> _Question[Figures]:
    source = Source(scope)
    sql = f"{_line(*_measures(source))} FROM {source.rows()}"
    return _Question(sql, source.params, lambda lines: figures_of(lines[0]))


def _timeline(scope: Scope, bucket: Bucket) -> _Question[list[Point]]:
    source = Source(scope, by_hour=bucket == "hour")
    at = start_of(bucket)
    sql = f"{_line(at, *_measures(source))} FROM {source.rows()} GROUP BY {at}"

    def read(lines: list[Any]) -> list[Point]:
        found = {line[0]: figures_of(line[1:]) for line in lines}
        return [Point(at, found.get(int(at.timestamp()), Figures())) for at in starts(scope.start, scope.end, bucket)]

    return _Question(sql, source.params, read)


def _series(
    scope: Scope, metric: Metric, bucket: Bucket, group_by: Dimension | None, limit: int
) -> _Question[SeriesOverTime]:
    source = Source(scope, group_by, by_hour=bucket == "hour")
    sql = f"""
        WITH points AS (
            SELECT {start_of(bucket)} AS start, {source.group()} AS value, sum({_SUMMED[metric]}) AS amount
            FROM {source.rows()} GROUP BY 1, 2
        ), ranked AS (
            SELECT value, row_number() OVER (ORDER BY sum(amount) DESC, value) AS place FROM points GROUP BY value
        )
        {_line("least(place, %s)", "min(value)", "start", "sum(amount)")}
        FROM points JOIN ranked USING (value) GROUP BY least(place, %s), start ORDER BY least(place, %s)
    """  # noqa: S608  (names are ours)

    def read(lines: list[Any]) -> SeriesOverTime:
        beginnings = starts(scope.start, scope.end, bucket)
        found: dict[int, tuple[str, dict[int, int]]] = {}
        for place, value, at, amount in lines:
            found.setdefault(place, (value, {}))[1][at] = int(amount)
        return SeriesOverTime(
            tuple(beginnings),
            tuple(
                Series(
                    "" if place > limit else value,
                    tuple(amounts.get(int(at.timestamp()), 0) for at in beginnings),
                    is_rest=place > limit,
                )
                for place, (value, amounts) in found.items()
            ),
        )

    return _Question(sql, [*source.params, *[limit + 1] * 3], read)


def _breakdown(scope: Scope, by: Dimension, limit: int) -> _Question[Breakdown]:
    if by == "customer" and not scope.filters.values():
        return _by_customer(scope, limit)
    source = Source(scope, by)
    listed = Source(scope, by, among="ARRAY(SELECT value FROM top)")
    sums = ", ".join(f"sum({name}) AS {name}" for name in SUMS)
    over_all = ", ".join(f"sum({name}) OVER () AS all_{name}" for name in SUMS)
    columns = ("value", "found", *SUMS, *(f"all_{name}" for name in SUMS), "latency")
    if source.is_cross:
        # Few values of many rows: reading them twice costs more than the latencies of values that are not listed.
        sql = f"""
            WITH each AS (
                SELECT {source.group()} AS value, {sums}, {source.histogram(LATENCY)} AS latency
                FROM {source.rows()} GROUP BY 1
            ),
            top AS (
                SELECT value, count(*) OVER () AS found, {", ".join(SUMS)}, {over_all}, latency
                FROM each ORDER BY n DESC, value LIMIT %s
            )
            {_line(*columns)} FROM top ORDER BY n DESC, value
        """  # noqa: S608  (names are ours)
        return _Question(sql, [*source.params, limit], _read_breakdown)
    sql = f"""
        WITH each AS (SELECT {source.group()} AS value, {sums} FROM {source.rows()} GROUP BY 1),
        top AS MATERIALIZED (
            SELECT value, count(*) OVER () AS found, {", ".join(SUMS)}, {over_all}
            FROM each ORDER BY n DESC, value LIMIT %s
        ),
        latencies AS (SELECT value, {listed.histogram(LATENCY)} AS latency FROM {listed.rows()} GROUP BY 1)
        {_line(*columns)}
        FROM top LEFT JOIN latencies USING (value) ORDER BY n DESC, value
    """  # noqa: S608  (names are ours)
    return _Question(sql, [*source.params, limit, *listed.params], _read_breakdown, source.is_spans)


def _by_customer(scope: Scope, limit: int) -> _Question[Breakdown]:
    """Ask for the customers with the most calls: of ten thousand only the calls are added up, of those listed all."""
    calls, params = customers(scope)
    listed = Source(scope, "customer", among="ARRAY(SELECT value FROM top)")
    named = Source(scope, dimensions=(NAMED,))
    sql = f"""
        WITH each AS (SELECT value, sum(n) AS calls FROM {calls} GROUP BY 1 HAVING sum(n) > 0),
        top AS MATERIALIZED (
            SELECT value, count(*) OVER () AS found, calls FROM each ORDER BY calls DESC, value LIMIT %s
        ),
        listed AS (
            SELECT value, {", ".join(f"sum({name}) AS {name}" for name in SUMS)}, {listed.histogram(LATENCY)} AS latency
            FROM {listed.rows()} GROUP BY 1
        ),
        named AS (SELECT {", ".join(f"sum({name}) AS all_{name}" for name in SUMS)} FROM {named.rows()})
        {_line("value", "found", *SUMS, *(f"all_{name}" for name in SUMS), "latency")}
        FROM top JOIN listed USING (value) CROSS JOIN named ORDER BY calls DESC, value
    """  # noqa: S608  (names are ours)
    return _Question(sql, [*params, limit, *listed.params, *named.params], _read_breakdown)


def _read_breakdown(lines: list[Any]) -> Breakdown:
    """Read lines of a value, the number of values, the value's sums, the sums of all values and its latencies."""
    if not lines:
        return Breakdown((), Figures(), 0)
    width = len(SUMS)
    shares = tuple(Share(line[0], figures_of([*line[2 : 2 + width], line[-1] or ()])) for line in lines)
    left = [int(lines[0][2 + width + i]) - sum(int(line[2 + i]) for line in lines) for i in range(width)]
    return Breakdown(shares, figures_of(left), int(lines[0][1]) - len(lines))


def _values(scope: Scope, limit: int) -> _Question[dict[str, list[str]]]:
    source = Source(scope, dimensions=("model", "provider"))
    sql = (
        f"{_line('dimension', 'value')} FROM {source.rows()} WHERE value <> ''"
        " GROUP BY dimension, value ORDER BY sum(n) DESC, value"
    )

    def read(lines: list[Any]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {"model": [], "provider": []}
        for dimension, value in lines:
            if len(found[dimension]) < limit:
                found[dimension].append(value)
        return found

    return _Question(sql, source.params, read)
