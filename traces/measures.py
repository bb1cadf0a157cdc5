"""What calls add up to, as values: sums, histograms of latencies and the percentiles that come out of them.

Pure: reads nothing and knows no SQL beyond the names of the roll-ups' columns. Latencies come from histograms whose
buckets are a factor of sqrt(2) wide: a percentile lies in the same bucket as the exact one, so it is off by less than
that factor, and by a few per cent as a rule. Neighbours: `figures.py` (reads them), `store/rollups.py` (writes them),
`tiles.py` and `dashboard_views.py` (show them).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate, zip_longest
from typing import Any, Final

from traces.store.rollups import BOUNDS_US

# Columns of the roll-ups, in the order in which `figures_of` takes their sums.
SUMS: Final = (
    "n", "errors", "input_tokens", "output_tokens", "cache_read_input_tokens", "cost_nano", "charged_nano",
    "duration_us_sum", "cached_calls", "saved_nano",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many calls took how long, by the buckets of `spans.histogram_bucket`."""

    counts: tuple[int, ...] = ()

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram(tuple(a + b for a, b in zip_longest(self.counts, other.counts, fillvalue=0)))

    def percentile_us(self, share: float) -> float | None:
        """Return the microseconds that this share of the calls (0.95, say) did not exceed; None without calls."""
        below = list(accumulate(self.counts))
        if not below or below[-1] <= 0:
            return None
        place = share * below[-1]
        bucket = bisect_left(below, place)
        count = self.counts[bucket]
        return _within(bucket, (place - below[bucket] + count) / count if count else 0)

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
        return Figures(**{name: getattr(self, name) + getattr(other, name) for name in _FIELDS})

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def errors_percent(self) -> float | None:
        return 100 * self.errors / self.calls if self.calls else None

    @property
    def cached_percent(self) -> float | None:
        return 100 * self.cached_calls / self.calls if self.calls else None


_FIELDS: Final = tuple(each.name for each in fields(Figures))


def figures_of(row: Sequence[Any]) -> Figures:
    """Make figures of the sums of `SUMS` and, where they follow, the histograms of latencies and of first tokens."""
    calls, errors, input_tokens, output_tokens, cached, cost, charged, duration, hits, saved, *histograms = row
    latency, ttft = (*histograms, (), ())[:2]
    return Figures(
        calls=int(calls or 0),
        errors=int(errors or 0),
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
