"""The Logs pages: the list with its filters in the URL, and one log in full.

Translates the URL into a SpanQuery, reads, renders; holds no SQL and computes no cost. Everything shown was written by
strangers: it goes to the templates as text, and they escape it. Neighbours: `query.py`, `reading.py`, `export.py`,
`templates/traces/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.http import Http404, HttpResponse, QueryDict
from django.utils import timezone

from accounts.models import ApiKey, Role
from accounts.tenancy import MemberRequest, require_role
from billing import prices, usage
from respan.errors import Error
from respan.pages import render
from traces import export, query, reading
from traces.query import SpanQuery

PAGE_SIZE: Final = 50
RANGES: Final[Mapping[str, tuple[str, timedelta]]] = {
    "1h": ("Last hour", timedelta(hours=1)),
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
    "30d": ("Last 30 days", timedelta(days=30)),
}
DEFAULT_RANGE: Final = "24h"
STATUSES: Final = {
    "ok": "OK",
    "failed": "Not OK",
    "error": "Error",
    "aborted": "Aborted",
    "interrupted": "Interrupted",
}
ENVIRONMENTS: Final = {"production": "Production", "test": "Test"}
# Controls of the filter form -> the field and operator they filter by.
_FILTERS: Final = {
    "model": ("model", "icontains"),
    "provider": ("provider", "in"),
    "key": ("organization_key_id", "in"),
    "customer": ("customer_identifier", "in"),
}
_CONTROLS: Final = ("range", "from", "to", "status", *_FILTERS, "environment", "text")


@dataclass(frozen=True, slots=True)
class _Row:
    """A log as the list shows it."""

    log: reading.Log
    key_name: str


@require_role(Role.MEMBER)
def logs(request: MemberRequest) -> HttpResponse:
    """List the organization's logs, newest first."""
    organization = request.membership.organization
    keys = list(ApiKey.objects.filter(organization=organization))
    asked = _asked(request.GET)
    now = timezone.now()
    page, problem = reading.Page(()), None
    try:
        spans = _query(asked, keys=keys, now=now)
        cursor = request.GET.get("cursor")
        page = reading.logs(organization_id=organization.pk, query=spans, cursor=cursor, limit=PAGE_SIZE)
    except Error as error:
        problem = error
    names = {key.pk: key.name for key in keys}
    is_new = not page.logs and problem is None and not reading.has_logs(organization_id=organization.pk)
    context = {
        "rows": [_Row(log, names.get(log.api_key_id, "")) for log in page.logs],
        "problem": problem,
        "asked": asked,
        "is_filtered": any(asked.values()),
        "is_new": is_new,
        "keys": keys,
        "unknown_key": asked["key"] if asked["key"] not in {key.public_id for key in keys} else "",
        "ranges": {name: label for name, (label, _) in RANGES.items()},
        "default_range": DEFAULT_RANGE,
        "statuses": STATUSES,
        "environments": ENVIRONMENTS,
        "older": _link(asked, page.next),
        "newer": _link(asked, page.previous),
        "now": now,
        "base_url": f"{settings.RESPAN_BASE_URL}/api/",
    }
    return render(request, "traces/logs.html", context, status=problem.status if problem else 200)


def _asked(params: QueryDict) -> dict[str, str]:
    """Return what the filter form asks for: each control's text, empty where it was left alone."""
    return {name: params.get(name, "").strip() for name in _CONTROLS}


def _query(asked: Mapping[str, str], *, keys: list[ApiKey], now: datetime) -> SpanQuery:
    """Return the form as a query. Raises: query.InvalidQuery."""
    filters: list[tuple[str, str, list[Any], str]] = [
        (field, operator, [asked[name]], "AND") for name, (field, operator) in _FILTERS.items() if asked[name]
    ]
    if asked["status"] == "failed":
        filters.append(("failed", "in", [True], "AND"))
    elif asked["status"]:
        filters.append(("status", "in", [asked["status"]], "AND"))
    if asked["environment"]:
        filters.append(("environment", "in", [asked["environment"]], "AND"))
    since, until = _window(asked, now)
    return SpanQuery(
        since=since,
        until=until,
        conditions=query.parse_conditions(filters, api_keys={key.public_id: [key.pk] for key in keys}),
        text=asked["text"],
    )


def _window(asked: Mapping[str, str], now: datetime) -> tuple[datetime, datetime]:
    """Return the window of time: the custom one where it is given, else the chosen range until now."""
    length = RANGES.get(asked["range"] or DEFAULT_RANGE)
    if length is None:
        raise query.InvalidQuery("Choose one of the offered time ranges.", param="range")
    until = query.parse_moment(asked["to"], "to") if asked["to"] else now
    if asked["from"]:
        return query.parse_moment(asked["from"], "from"), until
    try:
        return until - length[1], until
    except OverflowError as error:
        raise query.InvalidQuery("This time lies too far back.", param="to") from error


def _link(asked: Mapping[str, str], cursor: str | None) -> str:
    """Return the query string of a neighbouring page, or nothing."""
    if cursor is None:
        return ""
    params = QueryDict(mutable=True)
    params.update({name: value for name, value in asked.items() if value} | {"cursor": cursor})
    return params.urlencode()


@require_role(Role.MEMBER)
def log(request: MemberRequest, log_id: str) -> HttpResponse:
    """Show one log in full."""
    organization = request.membership.organization
    found_id = query.parse_log_id(log_id)
    detail = reading.log(organization_id=organization.pk, id=found_id) if found_id else None
    if detail is None:
        raise Http404("There is no such log.")
    row, body = detail.log, detail.body
    context = {
        "log": row,
        "body": body,
        "public_id": export.public_id(row),
        "key": ApiKey.objects.filter(organization=organization, pk=row.api_key_id).first(),
        # As pairs: a template would look up the customer's own key `items` before the method.
        "metadata": [(name, _text(value)) for name, value in row.metadata.items()],
        "attempts": [_attempt(attempt, row) for attempt in row.attempts],
        "cost_lines": _cost_lines(row),
        "turns": export.conversation(export.parsed(body.request), export.parsed(body.response)) if body else [],
        "raw_request": export.readable(body.request) if body else "",
        "raw_response": export.readable(body.response) if body else "",
        "now": timezone.now(),
    }
    return render(request, "traces/log.html", context)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else export.pretty(value)


def _attempt(attempt: Mapping[str, Any], row: reading.Log) -> dict[str, Any]:
    """Return an attempt for its table; members that hold their default are not stored."""
    started_us = int(row.started_at.timestamp()) * 1_000_000 + row.started_at.microsecond
    return {
        "reason": attempt.get("reason", "first"),
        "provider": attempt.get("provider"),
        "model": attempt.get("model"),
        "credential": attempt.get("credential"),
        "status": attempt.get("status"),
        "error": attempt.get("error"),
        "duration_us": attempt.get("duration_us"),
        "after_us": max(0, attempt.get("started_us", started_us) - started_us),
    }


def _cost_lines(row: reading.Log) -> list[usage.Line]:
    """Return the arithmetic of a log's cost, or nothing where it would not add up to it (a cost of 0 by rule, say)."""
    if row.rates_id is None or row.cost_nano is None or row.input_tokens is None:
        return []
    rates = prices.by_id([row.rates_id]).get(row.rates_id)
    used = usage.Usage(
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens or 0,
        cache_read_input_tokens=row.cache_read_input_tokens or 0,
        cache_creation_input_tokens=row.cache_creation_input_tokens or 0,
        reasoning_output_tokens=row.reasoning_output_tokens or 0,
    )
    if rates is None or usage.cost(used, rates) != row.cost_nano:
        return []
    return usage.explain(used, rates)
