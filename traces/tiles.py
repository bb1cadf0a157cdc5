"""Figures as tiles: one number in the room there is, what it consists of, and how it moved since the time before.

Pure words: reads nothing. Up is not always good: `tone` says which way is which, and never by colour alone. Neighbours:
`figures.py` (the numbers), `dashboard_views.py` and the home page (which show them).
"""

from collections.abc import Callable
from dataclasses import dataclass

from respan.charts import written
from traces.figures import Figures


@dataclass(frozen=True, slots=True)
class Change:
    """How a figure differs from the stretch before: an arrow, words, and whether that is `good`, `bad` or neither."""

    icon: str
    text: str
    tone: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure; `exact` is what hovering it tells."""

    name: str
    figure: str
    exact: str
    note: str
    change: Change | None


def counted(number: int, noun: str) -> str:
    """Write `1 call`, `1,204 calls`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def tiles(total: Figures, previous: Figures, before: str) -> list[Tile]:
    """Return calls, errors, spend, cache savings, tokens and latencies; `before` names the earlier time in words."""
    p95, ttft = total.latency.percentile_ms(0.95), total.ttft.percentile_ms(0.5)

    def change(of: Callable[[Figures], float | None], more: str, less: str, *, tone: str = "") -> Change | None:
        return _change(of(total), of(previous), more, less, before, up_is=tone) if total.calls else None

    return [
        Tile("Calls", compact(total.calls), f"{total.calls:,}", "", change(lambda each: each.calls, "more", "fewer")),
        Tile(
            "Errors",
            written(total.errors_percent, "percent"),
            f"{total.errors:,} of {total.calls:,} calls",
            f"{counted(total.errors, 'call')} not OK" if total.calls else "",
            change(lambda each: each.errors_percent, "more often", "less often", tone="bad"),
        ),
        Tile(
            "Spend",
            written(total.cost_nano, "usd"),
            f"{total.cost_nano:,} nano-USD",
            f"{written(total.charged_nano, 'usd')} of it from credits" if total.cost_nano else "",
            change(lambda each: each.cost_nano, "more", "less"),
        ),
        Tile(
            "Cache savings",
            written(total.saved_nano, "usd"),
            f"{total.saved_nano:,} nano-USD, {counted(total.cached_calls, 'call')} answered from the cache",
            f"{written(total.cached_percent, 'percent')} of calls were hits" if total.cached_calls else "No cache hits",
            change(lambda each: each.saved_nano, "more", "less", tone="good"),
        ),
        Tile(
            "Tokens",
            compact(total.tokens),
            f"{total.tokens:,}",
            f"{compact(total.input_tokens)} in, {compact(total.output_tokens)} out" if total.tokens else "",
            change(lambda each: each.tokens, "more", "fewer"),
        ),
        Tile(
            "Latency, p95",
            written(p95, "ms"),
            "95 of 100 calls took no longer",
            f"p50 {written(total.latency.percentile_ms(0.5), 'ms')}" if total.calls else "",
            change(lambda each: each.latency.percentile_ms(0.95), "slower", "faster", tone="bad"),
        ),
        Tile(
            "First token, p50",
            written(ttft, "ms"),
            "Half of the streamed answers began no later",
            f"p95 {written(total.ttft.percentile_ms(0.95), 'ms')}" if ttft is not None else "No streamed answers",
            change(lambda each: each.ttft.percentile_ms(0.5), "later", "sooner", tone="bad"),
        ),
    ]


def _change(
    now: float | None, then: float | None, more: str, less: str, before: str, *, up_is: str = ""
) -> Change | None:
    """Say how a figure moved. None where there is nothing to compare."""
    if now is None or then is None:
        return None
    if then == 0:
        return (
            Change("minus", f"the same as {before}", "") if now == 0 else Change("arrow-up", f"none in {before}", up_is)
        )
    percent = 100 * (now - then) / then
    if abs(percent) < 0.5:
        return Change("minus", f"the same as {before}", "")
    size = f"{abs(percent):.0f} %" if percent < 1000 else f"{now / then:,.0f} times"
    if percent > 0:
        return Change("arrow-up", f"{size} {more} than {before}", up_is)
    return Change("arrow-down", f"{size} {less} than {before}", {"bad": "good", "good": "bad"}.get(up_is, ""))


def compact(number: int) -> str:
    """Write a count in the room of a tile: `9,500`, `12.4 k`, `3.1 M`."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 10 * size or (number >= size and unit != "k"):
            value = number / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{number:,}"
