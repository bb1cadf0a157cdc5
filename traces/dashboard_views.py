"""The Dashboard: what the organization's calls add up to in a stretch of time, next to the stretch before it.

Everything it shows is in its address, so that it can be shared and Back works; days and hours are those of UTC. All
figures come from one report; where that has to read thousands of calls one by one, the page is sent without it and asks
for itself again. Translates the address, asks `figures.py`, and writes numbers as words; holds no SQL. Neighbours:
`figures.py`, `tiles.py`, `filters.py` (the same for Logs, where every row and bar leads),
`templates/traces/dashboard.html`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, get_args
from urllib.parse import urlencode

from django.http import HttpResponse, QueryDict
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import ApiKey, Organization, Role
from accounts.tenancy import MemberRequest, require_role
from respan import charts
from respan.charts import Series, written
from respan.errors import Error
from respan.pages import render
from traces import figures, query, reading
from traces.figures import Breakdown, Bucket, Dimension, Figures, Filters, Point, Scope
from traces.tiles import counted, tiles

RANGES: Final[Mapping[str, tuple[str, int]]] = {
    "24h": ("24 hours", 1),
    "7d": ("7 days", 7),
    "30d": ("30 days", 30),
}
DEFAULT_RANGE: Final = "7d"
CUSTOM: Final = "custom"
BUCKETS: Final[Mapping[Bucket, str]] = {"hour": "Hour", "day": "Day", "week": "Week"}
DIMENSIONS: Final[Mapping[Dimension, str]] = {
    "model": "Model",
    "provider": "Provider",
    "key": "API key",
    "customer": "Customer",
}
MAX_DAYS: Final = 366
# In the address: wait for what takes long. The page comes at once and asks for the rest with it.
PATIENT: Final = "wait"
# Calls that are read one by one before a page is sent.
_AT_ONCE: Final = 2_000
# More bars than this are no chart any more.
_MOST_DAYS: Final[Mapping[Bucket, int]] = {"hour": 3, "day": 62, "week": MAX_DAYS + 1}
_LISTED: Final = 20
_MODELS_IN_CHART: Final = 5
_TONES: Final = ("1", "2", "3", "4", "5")
_NAME_CHARS: Final = 60
_SECOND: Final = "%Y-%m-%dT%H:%M:%S"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the address asks for, as it stands there."""

    range: str
    since: str
    until: str
    bucket: str
    by: str
    model: str
    provider: str
    key: str
    customer: str
    # None: it is not in the address, and the switch of the rail decides.
    environment: str | None
    # Calls are read one by one, however many there are.
    is_patient: bool = False

    @classmethod
    def read(cls, params: QueryDict) -> "_Asked":
        words = {name: params.get(name, "").strip() for name in ("range", "bucket", "by", "model", "provider", "key")}
        return cls(
            **words,
            since=params.get("from", "").strip(),
            until=params.get("to", "").strip(),
            customer=params.get("customer", "").strip(),
            environment=params.get("environment"),
            is_patient=params.get(PATIENT) == "1",
        )

    def pairs(self, *without: str) -> list[tuple[str, str]]:
        """Return the names and values of the address but these, as a form would send them."""
        named = {
            "range": self.range, "from": self.since, "to": self.until, "bucket": self.bucket, "by": self.by,
            "model": self.model, "provider": self.provider, "key": self.key, "customer": self.customer,
        }  # fmt: skip
        found = [(name, value) for name, value in named.items() if value]
        if self.environment is not None:
            found.append(("environment", self.environment))
        return [(name, value) for name, value in found if name not in without]

    def address(self, **changed: str) -> str:
        """Return the query string with some of it changed; what a page waits for is not part of it."""
        changes: dict[str, Any] = dict(changed)
        return f"?{urlencode(replace(self, **changes).pairs())}"

    @property
    def is_narrowed(self) -> bool:
        return bool(self.model or self.provider or self.key or self.customer)


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of whole hours, and the one before it that it is compared with."""

    start: datetime
    end: datetime
    length: timedelta
    is_custom: bool
    # It ends with the hour that is passing: nothing lies behind it yet.
    is_open: bool

    @property
    def days(self) -> int:
        return max(1, -(-(self.end - self.start) // timedelta(days=1)))

    @property
    def previous(self) -> tuple[datetime, datetime]:
        return self.start - self.length, self.end - self.length

    @property
    def before(self) -> str:
        """Return the earlier stretch in words: `the 7 days before`."""
        days = self.length // timedelta(days=1)
        return "the 24 hours before" if days == 1 and not self.is_custom else f"the {counted(days, 'day')} before"


@dataclass(frozen=True, slots=True)
class _Line:
    """One row of the breakdown: its words, where it leads, and its share of all calls in per cent."""

    label: str
    is_text: bool
    address: str
    figures: Figures
    errors: str
    spend: str
    p95: str
    share: float


@require_safe
@require_role(Role.MEMBER)
def dashboard(request: MemberRequest) -> HttpResponse:
    """Show what the calls add up to; with htmx only the part below the frame."""
    organization, now = request.membership.organization, timezone.now()
    asked = _Asked.read(request.GET)
    keys = list(ApiKey.objects.filter(organization=organization).order_by("revoked_at", "name", "pk"))
    context = _choices(asked, keys) | {"organization": organization, "now": now}
    try:
        window = _window(asked, now)
        environment = request.environment if asked.environment is None else asked.environment
        context |= _shown(organization, asked, window, keys, environment)
    except Error as error:
        return render(request, "traces/dashboard.html", {**context, "problem": error}, status=error.status)
    return render(request, "traces/dashboard.html", context)


# --- The address ------------------------------------------------------------------------------------------------------


def _window(asked: _Asked, now: datetime) -> _Window:
    """Return the stretch of time asked for. Raises: query.InvalidQuery."""
    end = figures.floor(now, "hour") + timedelta(hours=1)
    if asked.range == CUSTOM or (not asked.range and (asked.since or asked.until)):
        return _custom(asked, end)
    found = RANGES.get(asked.range or DEFAULT_RANGE)
    if found is None:
        raise query.InvalidQuery("Choose one of the offered time ranges.", param="range")
    length = timedelta(days=found[1])
    # A day is compared by the hour, weeks by the day: today is part of them as far as it goes.
    start = end - length if found[1] == 1 else figures.floor(now, "day") - length + timedelta(days=1)
    return _Window(start, end, length, is_custom=False, is_open=True)


def _custom(asked: _Asked, end_of_now: datetime) -> _Window:
    until = _day(asked.until, "to") if asked.until else end_of_now.date()
    since = _day(asked.since, "from") if asked.since else until
    if since > until:
        raise query.InvalidQuery("The first day lies after the last one.", param="from")
    length = until - since + timedelta(days=1)
    if length > timedelta(days=MAX_DAYS):
        raise query.InvalidQuery(f"Choose at most {MAX_DAYS} days.", param="from")
    start, end = _midnight(since), _midnight(until) + timedelta(days=1)
    # Days that are still to come would be compared with days that are over.
    return _Window(
        start,
        max(min(end, end_of_now), start + timedelta(hours=1)),
        length,
        is_custom=True,
        is_open=end >= end_of_now,
    )


def _day(text: str, name: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise query.InvalidQuery("Write days like 2026-11-22.", param=name) from None
    if not 2000 <= day.year < 9000:
        raise query.InvalidQuery("This day lies too far off.", param=name)
    return day


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _bucket(asked: _Asked, window: _Window) -> Bucket:
    """Return the length of a bar: the one asked for where it makes a readable chart, else the finest that does."""
    possible = _buckets(window)
    for bucket in possible:
        if bucket == asked.bucket:
            return bucket
    return "hour" if window.days <= 2 else "day" if "day" in possible else "week"


def _buckets(window: _Window) -> list[Bucket]:
    return [
        bucket for bucket, most in _MOST_DAYS.items() if window.days <= most and (bucket != "week" or window.days > 7)
    ]


def _by(asked: _Asked) -> Dimension:
    return next((dimension for dimension in get_args(Dimension) if dimension == asked.by), "model")


def _filters(asked: _Asked, keys: Sequence[ApiKey]) -> Filters:
    """Return what narrows the calls; an unknown key narrows them to none. Raises: query.InvalidQuery."""
    named = (("model", asked.model), ("provider", asked.provider), ("customer_identifier", asked.customer))
    query.parse_conditions([(name, "in", [value], "AND") for name, value in named], api_keys={})
    # No API key has the id 0.
    key = next((key.pk for key in keys if key.public_id == asked.key), 0) if asked.key else None
    return Filters(
        model=asked.model or None, provider=asked.provider or None, api_key_id=key, customer=asked.customer or None
    )


def _choices(asked: _Asked, keys: Sequence[ApiKey]) -> dict[str, Any]:
    """Return what the controls offer, whatever comes of the question."""
    is_custom = asked.range == CUSTOM or bool(not asked.range and (asked.since or asked.until))
    return {
        "asked": asked,
        "keys": keys,
        "unknown_key": asked.key if asked.key not in {key.public_id for key in keys} else "",
        "is_custom": is_custom,
        "ranges": [
            (
                label,
                asked.address(range=name, since="", until=""),
                not is_custom and name == (asked.range or DEFAULT_RANGE),
            )
            for name, (label, _) in RANGES.items()
        ],
        "cleared": asked.address(model="", provider="", key="", customer=""),
    }


# --- What is shown ----------------------------------------------------------------------------------------------------


def _shown(
    organization: Organization, asked: _Asked, window: _Window, keys: Sequence[ApiKey], environment: str
) -> dict[str, Any]:
    """Read and write everything below the controls. Raises: Error."""
    bucket, by, filters = _bucket(asked, window), _by(asked), _filters(asked, keys)
    scope = Scope(organization.pk, window.start, window.end, environment, filters, is_open=window.is_open)
    leads = _Logs(asked, window, environment)
    shown = {
        "window": window,
        "environment_shown": environment,
        "buckets": [(BUCKETS[each], asked.address(bucket=each), each == bucket) for each in _buckets(window)],
        "dimensions": [(label, asked.address(by=name), name == by) for name, label in DIMENSIONS.items()],
        "models": _offered((), asked.model),
        "providers": _offered((), asked.provider),
        "by": by,
        "by_label": DIMENSIONS[by],
        "logs_address": leads.address(),
    }
    if not asked.is_patient and (calls := figures.calls_to_read(scope, by)) > _AT_ONCE:
        return shown | {"calls_to_read": calls, "complete": f"{asked.address()}&{PATIENT}=1"}
    found = figures.report(scope, before=window.previous, bucket=bucket, by=by, limit=_LISTED, models=_MODELS_IN_CHART)
    total = sum((point.figures for point in found.points), Figures())
    broken_down = found.breakdown or Breakdown((), Figures(), 0)
    return shown | {
        "models": _offered(found.values["model"], asked.model),
        "providers": _offered(found.values["provider"], asked.provider),
        "total": total,
        "is_new": not total.calls and not reading.has_logs(organization_id=organization.pk),
        "tiles": tiles(total, found.previous, window.before),
        "charts": _charts(found.points, found.spend, bucket, leads),
        "lines": _lines(broken_down, by, total.calls, keys, leads),
        "others": _others(broken_down, by, total.calls),
        "unnamed": _unnamed(broken_down, total) if by == "customer" and found.breakdown else 0,
        "is_too_slow": found.breakdown is None,
    }


def _offered(values: Sequence[str], chosen: str) -> list[str]:
    return [*values, chosen] if chosen and chosen not in values else list(values)


class _Logs:
    """Where the calls behind a figure are listed."""

    def __init__(self, asked: _Asked, window: _Window, environment: str) -> None:
        self._window = window
        self._path = reverse("logs")
        self._kept = dict(asked.pairs("range", "from", "to", "bucket", "by", "environment"))
        if asked.environment is not None:
            self._kept["environment"] = environment

    def address(
        self, *, since: datetime | None = None, until: datetime | None = None, more: Mapping[str, str] | None = None
    ) -> str:
        """Return the address of the calls in a part of the window, with these values on top of the filters."""
        since = max(since or self._window.start, self._window.start)
        until = min(until or self._window.end, self._window.end) - timedelta(seconds=1)
        params = self._kept | dict(more or {}) | {"from": f"{since:{_SECOND}}", "to": f"{until:{_SECOND}}"}
        return f"{self._path}?{urlencode(params)}"


def _charts(
    points: Sequence[Point], spend: figures.SeriesOverTime, bucket: Bucket, leads: _Logs
) -> dict[str, charts.Chart]:
    form = {"hour": "%-d %b %H:00", "day": "%a %-d %b", "week": "%-d %b"}[bucket]
    labels = [f"{point.start:{form}}" for point in points]
    length = figures.LENGTHS[bucket]
    every = f"per {bucket}"
    each = [point.figures for point in points]
    links = [
        leads.address(since=point.start, until=point.start + length) if point.figures.calls else "" for point in points
    ]

    def latency(name: str, share: float, tone: str, *, first: bool = False) -> Series:
        histograms = (one.ttft if first else one.latency for one in each)
        return Series(name, [histogram.percentile_ms(share) for histogram in histograms], tone)

    return {
        "calls": charts.bars(
            f"Calls {every}",
            labels,
            [
                Series("OK", [one.calls - one.errors for one in each], "1"),
                Series("Not OK", [one.errors for one in each], "error"),
            ],
            links=links,
        ),
        "spend": charts.bars(
            f"Spend {every}, by model",
            labels,
            [
                Series("All others" if one.is_rest else _short(one.value), one.points, "rest" if one.is_rest else tone)
                for one, tone in zip(spend.series, (*_TONES, "rest"), strict=False)
            ],
            unit="usd",
        ),
        "tokens": charts.bars(
            f"Tokens {every}",
            labels,
            [
                Series("In", [one.input_tokens for one in each], "2"),
                Series("Out", [one.output_tokens for one in each], "4"),
            ],
        ),
        "latency": charts.lines(
            f"Latency {every}",
            labels,
            [latency("p50", 0.5, "2"), latency("p95", 0.95, "1"), latency("p99", 0.99, "5")],
            unit="ms",
        ),
        "ttft": charts.lines(
            f"Time to first token {every}",
            labels,
            [latency("p50", 0.5, "2", first=True), latency("p95", 0.95, "1", first=True)],
            unit="ms",
        ),
    }


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 1]}…"


def _lines(found: Breakdown, by: Dimension, calls: int, keys: Sequence[ApiKey], leads: _Logs) -> list[_Line]:
    named = {str(key.pk): key for key in keys}
    lines = []
    for share in found.shares:
        label, address = share.value, leads.address(more={by: share.value}) if share.value else ""
        if by == "key":
            key = named.get(share.value)
            label, address = (
                (key.name, leads.address(more={"key": key.public_id})) if key else ("A key that is gone", "")
            )
        if not share.value:
            label = "No provider was reached"
        lines.append(_line(label, address, share.figures, calls, is_text=by in {"key", "customer"} or not share.value))
    return lines


def _line(label: str, address: str, of: Figures, calls: int, *, is_text: bool) -> _Line:
    return _Line(
        label,
        is_text,
        address,
        of,
        written(of.errors_percent, "percent"),
        written(of.cost_nano, "usd"),
        written(of.latency.percentile_ms(0.95), "ms"),
        round(100 * of.calls / calls, 1) if calls else 0,
    )


def _others(found: Breakdown, by: Dimension, calls: int) -> _Line | None:
    if not found.other_values:
        return None
    noun = {"model": "model", "provider": "provider", "key": "key", "customer": "customer"}[by]
    return _line(counted(found.other_values, f"other {noun}"), "", found.others, calls, is_text=True)


def _unnamed(found: Breakdown, total: Figures) -> int:
    """Return how many calls named no customer."""
    return total.calls - found.others.calls - sum(share.figures.calls for share in found.shares)
