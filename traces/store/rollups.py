"""Usage by the hour: what every dashboard and every sum of spend is read from, kept equal to the sum of the spans.

`RollUps` gathers the changes of a batch and writes them in one go, sorted by key, so that two workers cannot deadlock.
Pure but for `save`, which is given a cursor. Neighbours: `postgres.py`, which tells it every span added or taken out.
"""

from collections.abc import Mapping
from datetime import UTC
from typing import Any

import psycopg

from traces import spans

_KEY = ("organization_id", "bucket", "environment", "provider", "model", "api_key_id", "status", "paid_by")
_TOKENS = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "reasoning_output_tokens",
)  # fmt: skip
_SUMS = ("n", "errors", *_TOKENS, "cost_nano", "charged_nano", "duration_us_sum")
_HISTOGRAMS = ("duration_histogram", "ttft_histogram")
_ALL = (*_KEY, *_SUMS, *_HISTOGRAMS)

# The columns of a span that its part in a roll-up is made of.
SPAN_COLUMNS = (
    "organization_id", "started_at", "environment", "provider", "request_model", "api_key_id", "status", "paid_by",
    *_TOKENS, "cost_nano", "charged_nano", "duration_us", "ttft_us",
)  # fmt: skip

_UPSERT = f"""
    INSERT INTO traces_usage_hour AS usage ({", ".join(_ALL)}) VALUES ({", ".join(["%s"] * len(_ALL))})
    ON CONFLICT ({", ".join(_KEY)}) DO UPDATE SET
    {", ".join(f"{name} = usage.{name} + excluded.{name}" for name in _SUMS)},
    {", ".join(f"{name} = traces_sum(usage.{name}, excluded.{name})" for name in _HISTOGRAMS)}
"""  # noqa: S608  (constants)
_DELETE_EMPTY = f"DELETE FROM traces_usage_hour WHERE {' AND '.join(f'{name} = %s' for name in _KEY)} AND n = 0"  # noqa: S608


class _Line:
    """What one line of `traces_usage_hour` changes by."""

    __slots__ = ("histograms", "sums")

    def __init__(self) -> None:
        self.sums = dict.fromkeys(_SUMS, 0)
        self.histograms = {name: [0] * spans.HISTOGRAM_BUCKETS for name in _HISTOGRAMS}

    def count(self, span: Mapping[str, Any], sign: int) -> None:
        sums = self.sums
        sums["n"] += sign
        sums["errors"] += sign * (span["status"] != spans.OK)
        for name in (*_TOKENS, "cost_nano", "charged_nano"):
            sums[name] += sign * (span[name] or 0)
        sums["duration_us_sum"] += sign * span["duration_us"]
        self.histograms["duration_histogram"][spans.histogram_bucket(span["duration_us"])] += sign
        if span["ttft_us"] is not None:
            self.histograms["ttft_histogram"][spans.histogram_bucket(span["ttft_us"])] += sign


class RollUps:
    """The changes of one batch. A span is a mapping with at least `SPAN_COLUMNS`, as stored."""

    def __init__(self) -> None:
        self._lines: dict[tuple[Any, ...], _Line] = {}
        self._has_taken = False

    def add(self, span: Mapping[str, Any]) -> None:
        self._line(span).count(span, 1)

    def take_out(self, span: Mapping[str, Any]) -> None:
        self._has_taken = True
        self._line(span).count(span, -1)

    def charge(self, span: Mapping[str, Any], change_nano: int) -> None:
        self._line(span).sums["charged_nano"] += change_nano

    def _line(self, span: Mapping[str, Any]) -> _Line:
        bucket = span["started_at"].astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        # `provider` is '' for calls that reached none: a primary key has no NULL.
        key = (
            span["organization_id"], bucket, span["environment"], span["provider"] or "", span["request_model"],
            span["api_key_id"], span["status"], span["paid_by"],
        )  # fmt: skip
        return self._lines.setdefault(key, _Line())

    def save(self, cursor: "psycopg.Cursor[Any]") -> None:
        """Write the changes, in the order of their keys."""
        if not self._lines:
            return
        cursor.executemany(
            _UPSERT,
            [
                (*key, *line.sums.values(), *line.histograms.values())
                for key, line in sorted(self._lines.items(), key=lambda item: item[0])
            ],
        )
        if self._has_taken:
            cursor.executemany(_DELETE_EMPTY, sorted(self._lines))
