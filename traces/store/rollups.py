"""Usage by the hour and the day: what dashboards and sums of spend are read from, always equal to the sum of the spans.

Three tables with the same measures: `traces_usage_hour` and `traces_usage_day` have a row for every combination of
environment, provider, model, key, status and payer; `traces_usage_part` has one for every value of one dimension alone
(and `all`, and `named` for all calls that name a customer, without histograms), which is what most questions are about.
Customers are found only there: they would multiply the rest. A fourth, `traces_usage_customer`, has each customer's
calls of a month as running counts by day, so that the most active of many are found by reading each of them once.
`RollUps` gathers the changes of a batch and writes them table by table, each sorted by key, so that two workers cannot
deadlock. Pure but for `save`, which is given a cursor. Neighbours: `postgres.py`, which tells it every span added or
taken out; `traces.figures` (reads).
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, count
from typing import Any, Final

import psycopg

from traces import spans

_Key = tuple[Any, ...]

_CROSS_KEY = ("organization_id", "bucket", "environment", "provider", "model", "api_key_id", "status", "paid_by")
_PART_KEY = ("organization_id", "dimension", "resolution", "bucket", "value", "environment")
_TYPES: Final = {"organization_id": "bigint", "bucket": "timestamptz", "api_key_id": "bigint"}
_TOKENS = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "reasoning_output_tokens",
)  # fmt: skip
_MONEY = ("cost_nano", "charged_nano")
_CACHE = ("cached_calls", "saved_nano")
_SUMS = ("n", "errors", *_TOKENS, *_MONEY, "duration_us_sum", *_CACHE)
_HISTOGRAMS = ("duration_histogram", "ttft_histogram")

# The columns of a span that its part in a roll-up is made of.
SPAN_COLUMNS = (
    "organization_id", "started_at", "environment", "provider", "request_model", "api_key_id", "status", "paid_by",
    "customer_identifier", *_TOKENS, *_MONEY, "duration_us", "ttft_us", "cached", "saved_nano",
)  # fmt: skip

HOUR, DAY = "h", "d"
NAMED: Final = "named"


def _bounds() -> list[int]:
    """Return the first microsecond of each bucket of `spans.histogram_bucket` but the first."""
    about = [int(1_000 * 2 ** (bucket / 2)) for bucket in range(1, spans.HISTOGRAM_BUCKETS)]
    return [
        next(us for us in count(low - 2) if spans.histogram_bucket(us) >= bucket) for bucket, low in enumerate(about, 1)
    ]


BOUNDS_US: Final = _bounds()


def _upsert(table: str, key: tuple[str, ...]) -> str:
    """Write the statement that adds lines to a table: one array per column, a histogram as its own text."""
    arrays = [*(f"%s::{_TYPES.get(name, 'text')}[]" for name in key), *["%s::bigint[]"] * len(_SUMS)]
    arrays += ["%s::text[]"] * len(_HISTOGRAMS)
    names = (*key, *_SUMS)
    return f"""
        INSERT INTO {table} AS usage ({", ".join((*names, *_HISTOGRAMS))})
        SELECT {", ".join((*names, *(f"{name}::int[]" for name in _HISTOGRAMS)))}
        FROM unnest({", ".join(arrays)}) AS line ({", ".join((*names, *_HISTOGRAMS))})
        ON CONFLICT ({", ".join(key)}) DO UPDATE SET
        {", ".join(f"{name} = usage.{name} + excluded.{name}" for name in _SUMS)},
        {", ".join(f"{name} = traces_sum(usage.{name}, excluded.{name})" for name in _HISTOGRAMS)}
    """  # noqa: S608  (constants)


def _delete_empty(table: str, key: tuple[str, ...], calls: str = "n") -> str:
    arrays = ", ".join(f"%s::{_TYPES.get(name, 'text')}[]" for name in key)
    same = " AND ".join(f"usage.{name} = line.{name}" for name in key)
    return (
        f"DELETE FROM {table} AS usage USING unnest({arrays}) AS line ({', '.join(key)}) WHERE {same} AND {calls} = 0"  # noqa: S608
    )


class _Table:
    """A roll-up's name, key, and the statements that write it."""

    __slots__ = ("delete_empty", "upsert")

    def __init__(self, name: str, key: tuple[str, ...]) -> None:
        self.upsert = _upsert(name, key)
        self.delete_empty = _delete_empty(name, key)


_HOURS = _Table("traces_usage_hour", _CROSS_KEY)
_DAYS = _Table("traces_usage_day", _CROSS_KEY)
_PARTS = _Table("traces_usage_part", _PART_KEY)

_CUSTOMER_KEY = ("organization_id", "bucket", "customer", "environment")
_ADD_CUSTOMERS: Final = """
    INSERT INTO traces_usage_customer AS usage (organization_id, bucket, customer, environment, calls)
    SELECT organization_id, bucket, customer, environment, calls::int[]
    FROM unnest(%s::bigint[], %s::timestamptz[], %s::text[], %s::text[], %s::text[])
        AS line (organization_id, bucket, customer, environment, calls)
    ON CONFLICT (organization_id, bucket, customer, environment)
    DO UPDATE SET calls = traces_sum_days(usage.calls, excluded.calls)
"""
_LAST_DAY: Final = 31
_DELETE_CUSTOMERS: Final = _delete_empty("traces_usage_customer", _CUSTOMER_KEY, f"calls[{_LAST_DAY}]")

# What of a key of `traces_usage_hour` each dimension of `traces_usage_part` keeps, as text.
_DIMENSIONS: "Final[Mapping[str, Callable[[_Key], str]]]" = {
    "all": lambda key: "",
    "model": lambda key: key[4],
    "provider": lambda key: key[3],
    "key": lambda key: str(key[5]),
}


@dataclass(frozen=True, slots=True)
class _Line:
    """What one line of a roll-up changes by. Histograms are sparse here: most lines are a few calls."""

    sums: tuple[int, ...]
    durations: dict[int, int]
    ttfts: dict[int, int]

    def __add__(self, other: "_Line") -> "_Line":
        return _Line(
            tuple(map(operator.add, self.sums, other.sums)),
            _added(self.durations, other.durations),
            _added(self.ttfts, other.ttfts),
        )


def _added(histogram: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    total = dict(histogram)
    for bucket, n in other.items():
        total[bucket] = total.get(bucket, 0) + n
    return total


def _of(span: Mapping[str, Any], sign: int) -> _Line:
    """Return what one span changes a line by."""
    ttft_us = span["ttft_us"]
    return _Line(
        (
            sign,
            sign * (span["status"] != spans.OK),
            *(sign * (span[name] or 0) for name in _TOKENS),
            *(sign * (span[name] or 0) for name in _MONEY),
            sign * span["duration_us"],
            sign * bool(span["cached"]),
            sign * (span["saved_nano"] or 0),
        ),
        {spans.histogram_bucket(span["duration_us"]): sign},
        {} if ttft_us is None else {spans.histogram_bucket(ttft_us): sign},
    )


def _array(items: Iterable[str]) -> str:
    """Write an array of numbers (or of quoted histograms) as PostgreSQL reads it: psycopg takes thrice as long."""
    return f"{{{','.join(items)}}}"


def _text(histogram: Mapping[int, int]) -> str:
    """Write a histogram from its first bucket to its last one: most lines of customers are a single call."""
    if not histogram:
        return "{}"
    first, last = min(histogram), max(histogram)
    counts = _array(str(histogram.get(bucket, 0)) for bucket in range(first, last + 1))
    return f"[{first + 1}:{last + 1}]={counts}"  # PostgreSQL counts from one


def _running(days: Mapping[int, int]) -> str:
    """Write the calls of a month's days as running counts, from the first day with any to the last of the month."""
    first = min(days)
    counts = accumulate(days.get(day, 0) for day in range(first, _LAST_DAY + 1))
    return f"[{first}:{_LAST_DAY}]={_array(map(str, counts))}"


def _day(hour: datetime) -> datetime:
    return hour.replace(hour=0)


class RollUps:
    """The changes of one batch. A span is a mapping with at least `SPAN_COLUMNS`, as stored."""

    def __init__(self) -> None:
        self._lines: dict[_Key, _Line] = {}
        # By organization, hour, environment and customer.
        self._customers: dict[_Key, _Line] = {}
        self._has_taken = False

    def add(self, span: Mapping[str, Any]) -> None:
        self._merge(span, _of(span, 1))

    def take_out(self, span: Mapping[str, Any]) -> None:
        self._has_taken = True
        self._merge(span, _of(span, -1))

    def charge(self, span: Mapping[str, Any], change_nano: int) -> None:
        self._merge(span, _Line(tuple(change_nano * (name == "charged_nano") for name in _SUMS), {}, {}))

    def _merge(self, span: Mapping[str, Any], change: _Line) -> None:
        organization_id, environment = span["organization_id"], span["environment"]
        bucket = span["started_at"].astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        # `provider` is '' for calls that reached none: a primary key has no NULL.
        key = (
            organization_id, bucket, environment, span["provider"] or "", span["request_model"], span["api_key_id"],
            span["status"], span["paid_by"],
        )  # fmt: skip
        _add_to(self._lines, key, change)
        if customer := span["customer_identifier"]:
            _add_to(self._customers, (organization_id, bucket, environment, customer), change)

    def save(self, cursor: "psycopg.Cursor[Any]") -> None:
        """Write the changes, table by table, in the order of their keys."""
        if not self._lines:
            return
        for table, lines in ((_HOURS, self._lines), (_DAYS, self._by_day()), (_PARTS, self._by_part())):
            keys = sorted(lines)
            columns = [list(column) for column in zip(*keys, strict=True)]
            ordered = [lines[key] for key in keys]
            measures = [_array(map(str, column)) for column in zip(*(line.sums for line in ordered), strict=True)]
            histograms = [
                _array(f'"{_text(line.durations)}"' for line in ordered),
                _array(f'"{_text(line.ttfts)}"' for line in ordered),
            ]
            cursor.execute(table.upsert, [*columns, *measures, *histograms])
            if self._has_taken:
                cursor.execute(table.delete_empty, columns)
        self._save_customers(cursor)

    def _save_customers(self, cursor: "psycopg.Cursor[Any]") -> None:
        months: dict[_Key, dict[int, int]] = {}
        for (organization_id, bucket, environment, customer), line in self._customers.items():
            if calls := line.sums[0]:
                days = months.setdefault((organization_id, _day(bucket).replace(day=1), customer, environment), {})
                days[bucket.day] = days.get(bucket.day, 0) + calls
        if not months:
            return
        keys = sorted(months)
        columns = [list(column) for column in zip(*keys, strict=True)]
        cursor.execute(_ADD_CUSTOMERS, [*columns, _array(f'"{_running(months[key])}"' for key in keys)])
        if self._has_taken:
            cursor.execute(_DELETE_CUSTOMERS, columns)

    def _by_day(self) -> dict[_Key, _Line]:
        days: dict[_Key, _Line] = {}
        for (organization_id, bucket, *rest), line in self._lines.items():
            _add_to(days, (organization_id, _day(bucket), *rest), line)
        return days

    def _by_part(self) -> dict[_Key, _Line]:
        parts: dict[_Key, _Line] = {}
        for organization_id, dimension, bucket, value, environment, line in self._values():
            _add_to(parts, (organization_id, dimension, HOUR, bucket, value, environment), line)
            _add_to(parts, (organization_id, dimension, DAY, _day(bucket), value, environment), line)
        return parts

    def _values(self) -> Iterator[tuple[int, str, datetime, str, str, _Line]]:
        """Yield every line once for each dimension it has a value of."""
        for key, line in self._lines.items():
            for dimension, value in _DIMENSIONS.items():
                yield key[0], dimension, key[1], value(key), key[2], line
        for (organization_id, bucket, environment, customer), line in self._customers.items():
            yield organization_id, "customer", bucket, customer, environment, line
            yield organization_id, NAMED, bucket, "", environment, _Line(line.sums, {}, {})


def _add_to(lines: dict[_Key, _Line], key: _Key, change: _Line) -> None:
    line = lines.get(key)
    lines[key] = change if line is None else line + change
