"""The Logs pages: the list with its filters in the address, what they choose from, its file, and one log in full.

Translates addresses into queries, reads, renders; holds no SQL and computes no cost. Everything shown was written by
strangers: it goes to the templates as text, and they escape it. Neighbours: `filters.py` (the address), `facets.py`,
`reading.py`, `detail.py`, `download.py`, `templates/traces/`, `respan/assets/logs.js`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db.models import Q
from django.http import Http404, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_safe

from accounts import audit
from accounts.models import ApiKey, Organization, Role
from accounts.tenancy import MemberRequest, require_role
from respan import charts
from respan.errors import Error
from respan.pages import render, wants_fragment
from traces import download, export, facets, query, reading, snippets
from traces.detail import detail
from traces.facets import FACETS, Facet
from traces.filters import FAILED, RANGES, Filters
from traces.query import SpanQuery

PAGE_SIZE: Final = 50
# More new calls than this are "99+".
MAX_NEW: Final = 100
_FAILED_WORD: Final = "Not OK"


@dataclass(frozen=True, slots=True)
class _Row:
    """A log as the list shows it; `share` and `first_share` are its time and its first token's, of 100."""

    log: reading.Log
    key_name: str
    share: float
    first_share: float | None


@dataclass(frozen=True, slots=True)
class _Choice:
    """A value of a facet in the popover: press it for only this one, or tick several."""

    value: str
    label: str
    calls: int | None
    is_chosen: bool
    address: str


@dataclass(frozen=True, slots=True)
class _Token:
    """A filter in force, and the address without it."""

    label: str
    value: str
    address: str


def _asked(request: MemberRequest) -> Filters:
    return Filters.read(request.GET, environment=request.environment)


def _key_rows(organization: Organization, filters: Filters) -> dict[str, list[int]]:
    """Return the row ids behind the public ids of the chosen API keys."""
    ids = _possible(filters.chosen["key"])
    keys = ApiKey.objects.filter(organization=organization, public_id__in=ids) if ids else ApiKey.objects.none()
    return {public_id: [pk] for public_id, pk in keys.values_list("public_id", "pk")}


def _possible(ids: Iterable[str]) -> list[str]:
    """Return those that can be public ids of API keys at all."""
    return [each for each in ids if len(each) <= 100 and each.isascii() and each.isprintable()][: query.MAX_VALUES]


def _key_names(organization: Organization, *, rows: Collection[int] = (), ids: Collection[str] = ()) -> dict[Any, str]:
    """Return the names of API keys, by row id and by public id."""
    possible = _possible(ids)
    if not rows and not possible:
        return {}
    keys = ApiKey.objects.filter(organization=organization)
    found = keys.filter(Q(pk__in=rows) | Q(public_id__in=possible))
    named = list(found.values_list("pk", "public_id", "name"))
    return {pk: name for pk, _, name in named} | {public_id: name for _, public_id, name in named}


# --- The list ---------------------------------------------------------------------------------------------------------


@require_safe
@require_role(Role.MEMBER)
def logs(request: MemberRequest) -> HttpResponse:
    """List the organization's logs, newest first."""
    organization = request.membership.organization
    filters, now = _asked(request), timezone.now()
    cursor = request.GET.get("cursor")
    page, problem, spans = reading.Page(()), None, None
    try:
        spans = filters.query(keys=_key_rows(organization, filters), now=now)
        page = reading.logs(organization_id=organization.pk, query=spans, cursor=cursor, limit=PAGE_SIZE)
    except Error as error:
        problem = error
    if not page.logs and problem is None and not reading.has_logs(organization_id=organization.pk):
        return render(request, "traces/no_logs.html", _first_call())
    names = _key_names(organization, rows={log.api_key_id for log in page.logs}, ids=filters.chosen["key"])
    is_live = problem is None and spans is not None and not cursor and not filters.until
    context = {
        "rows": _rows(page.logs, names),
        "problem": problem,
        "filters": filters,
        "tokens": list(_tokens(filters, names)),
        "facets": [(facet, _facet_address(facet, filters)) for facet in FACETS.values()],
        "ranges": [(name, label, filters.ranged(name).address()) for name, (label, _) in RANGES.items()],
        "strip": _strip(organization, spans, filters, now) if spans and not problem else None,
        "is_live": is_live,
        "new_address": _new_address(filters, page, spans, now) if is_live and spans else "",
        "older": filters.address(cursor=page.next) if page.next else "",
        "newer": filters.address(cursor=page.previous) if page.previous else "",
        "newest": f"{reverse('logs')}{filters.address()}",
        "max_rows": download.MAX_ROWS,
        "now": now,
    }
    return render(request, "traces/logs.html", context, status=problem.status if problem else 200)


def _first_call() -> dict[str, Any]:
    """Return what a page without any log shows: the call that will be the first."""
    request = {"model": "sandbox/echo", "messages": [{"role": "user", "content": "Hello"}]}
    base_url = _base_url()
    return {"base_url": base_url, "snippets": snippets.snippets(request, base_url=base_url)}


def _base_url() -> str:
    return f"{settings.RESPAN_BASE_URL}/api/"


def _rows(logs: Iterable[reading.Log], names: Mapping[Any, str]) -> list[_Row]:
    """Return the rows; the slowest call of the page is the whole length of the latency bar."""
    shown = list(logs)
    longest = max((log.duration_us for log in shown), default=0) or 1
    return [
        _Row(
            log,
            names.get(log.api_key_id, ""),
            round(max(1.5, 100 * log.duration_us / longest), 1),
            None if log.ttft_us is None else round(min(100 * log.ttft_us / longest, 98.5), 1),
        )
        for log in shown
    ]


def _tokens(filters: Filters, names: Mapping[Any, str]) -> Iterable[_Token]:
    for name, values in filters.chosen.items():
        for value in values:
            yield _Token(FACETS[name].label, _word(FACETS[name], value, names), filters.without(name, value).address())
    if filters.text:
        yield _Token("Text", filters.text, filters.searching("").address())
    if filters.since or filters.until:
        window = f"{filters.since or '…'} to {filters.until or 'now'}".replace("T", " ")
        yield _Token("Time (UTC)", window, filters.ranged(filters.range).address())


def _word(facet: Facet, value: str, names: Mapping[Any, str]) -> str:
    if facet.name == "key":
        return names.get(value) or "Unknown key"
    if facet.name == "status" and value == FAILED:
        return _FAILED_WORD
    return (facet.choices or {}).get(value, value)


def _facet_address(facet: Facet, filters: Filters) -> str:
    return f"{reverse('logs-facet', args=[facet.name])}{filters.address()}"


def _new_address(filters: Filters, page: reading.Page, spans: SpanQuery, now: datetime) -> str:
    start = reading.start_cursor(page, spans, now=now)
    return f"{reverse('logs-new')}{filters.address(after=start)}"


_UNITS: Final = (
    (timedelta(days=30), "month"), (timedelta(days=7), "week"), (timedelta(days=1), "day"),
    (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute"), (timedelta(seconds=1), "second"),
)  # fmt: skip


def _strip(organization: Organization, spans: SpanQuery, filters: Filters, now: datetime) -> charts.Chart | None:
    """Return the chart of calls over time, or None where it would take too long; a bar leads to its time."""
    try:
        strip = facets.strip(organization_id=organization.pk, query=spans, now=now)
    except reading.SearchTooSlow:
        return None
    length, unit = next((each for each in _UNITS if strip.step >= each[0]), _UNITS[-1])
    count = strip.step // length
    every = f"per {unit}" if count == 1 else f"per {count} {unit}s"
    sample = f", the newest {facets.SAMPLE:,}" if strip.is_sample else ""
    form = (
        "%-d %b"
        if strip.step >= timedelta(days=1)
        else "%-d %b %H:%M"
        if strip.step >= timedelta(hours=1)
        else "%H:%M:%S"
    )
    return charts.bars(
        f"Calls {every}{sample} (UTC)",
        [f"{bucket.since:{form}}" for bucket in strip.buckets],
        [
            charts.Series("OK", [bucket.calls - bucket.errors for bucket in strip.buckets], "1"),
            charts.Series(_FAILED_WORD, [bucket.errors for bucket in strip.buckets], "error"),
        ],
        links=[f"{reverse('logs')}{filters.within(bucket.since, bucket.until).address()}" for bucket in strip.buckets],
    )


@require_safe
@require_role(Role.MEMBER)
def new(request: MemberRequest) -> HttpResponse:
    """Tell how many calls a list is behind; on the page without any call, whether the first has come."""
    organization = request.membership.organization
    filters = _asked(request)
    newest = f"{reverse('logs')}{filters.address()}"
    if not wants_fragment(request):
        return redirect(newest)
    if "waiting" in request.GET:
        answer = HttpResponse()
        if reading.has_logs(organization_id=organization.pk):
            answer["HX-Refresh"] = "true"
        return answer
    try:
        spans = filters.query(keys=_key_rows(organization, filters), now=timezone.now())
        after = request.GET.get("after", "")
        count = reading.count_newer(organization_id=organization.pk, query=spans, cursor=after, limit=MAX_NEW)
    except Error:
        count = 0  # the list itself says what is wrong
    return render(request, "traces/new.html", {"count": count, "is_many": count >= MAX_NEW, "newest": newest})


# --- What a list is filtered by ---------------------------------------------------------------------------------------


@require_safe
@require_role(Role.MEMBER)
def facet(request: MemberRequest, name: str) -> HttpResponse:
    """Offer the values of a facet with their counts under the other filters."""
    found = FACETS.get(name)
    if found is None:
        raise Http404("There is no such filter.")
    organization = request.membership.organization
    filters, find = _asked(request), request.GET.get("find", "").strip()
    values, problem = facets.Values((), is_sample=False, has_more=False), None
    try:
        now = timezone.now()
        spans = filters.query(keys=_key_rows(organization, filters), now=now, beside=name)
        # A key is found by its name, which logs do not have.
        text = "" if name == "key" else find
        values = facets.values(organization_id=organization.pk, facet=found, query=spans, now=now, find=text)
    except Error as error:
        problem = error
    context = {
        "facet": found,
        "filters": filters,
        "find": find,
        "choices": _choices(organization, found, filters, values, find),
        "others": list(filters.pairs(without={name})),
        "address": f"{reverse('logs-facet', args=[name])}",
        "any_address": filters.choosing(name).address(),
        "values": values,
        "sample": facets.SAMPLE,
        "problem": problem,
    }
    return render(request, "traces/facet.html", context, status=problem.status if problem else 200)


def _choices(
    organization: Organization, facet: Facet, filters: Filters, values: facets.Values, find: str
) -> list[_Choice]:
    """Return the values to choose from: what is chosen first, then what there is, most calls first."""
    counts = {str(each.value): each.calls for each in values.counts}
    names: Mapping[Any, str] = {}
    if facet.name == "key":
        counts, names = _keys_by_public_id(organization, counts)
        names = {**_key_names(organization, ids=filters.chosen["key"]), **names}
    if facet.name == "status":
        counts = {FAILED: sum(calls for value, calls in counts.items() if value != "ok"), **counts}
    chosen = filters.chosen[facet.name]
    every = dict.fromkeys((*chosen, *counts, *(facet.choices or ())))
    shown = [value for value in every if value in chosen or _matches(_word(facet, value, names), find)]
    return [
        _Choice(
            value,
            _word(facet, value, names),
            counts.get(value, 0 if facet.choices else None),
            value in chosen,
            filters.choosing(facet.name, value).address(),
        )
        for value in shown
    ]


def _matches(word: str, find: str) -> bool:
    return find.casefold() in word.casefold()


def _keys_by_public_id(organization: Organization, counts: Mapping[str, int]) -> tuple[dict[str, int], dict[str, str]]:
    """Return counts and names of API keys by public id; keys that are gone for good are left out."""
    keys = ApiKey.objects.filter(organization=organization, pk__in=[int(row) for row in counts])
    found = {str(pk): (public_id, name) for pk, public_id, name in keys.values_list("pk", "public_id", "name")}
    by_id = {found[row][0]: calls for row, calls in counts.items() if row in found}
    return by_id, dict(found.values())


# --- The file ---------------------------------------------------------------------------------------------------------


@require_GET
@require_role(Role.MEMBER)  # type: ignore[arg-type]  # a stream is no HttpResponse
def export_logs(request: MemberRequest) -> HttpResponseBase:
    """Send the filtered list as a file, and write down that it was taken."""
    organization = request.membership.organization
    filters, now = _asked(request), timezone.now()
    format = request.GET.get("format", "")
    if format not in download.FORMATS:
        raise Http404("There is no such format.")
    try:
        spans = filters.query(keys=_key_rows(organization, filters), now=now)
        count = reading.count(organization_id=organization.pk, query=spans, limit=download.MAX_ROWS + 1)
    except Error:
        return redirect(f"{reverse('logs')}{filters.address()}")  # which says what is wrong
    audit.record(
        organization=organization,
        actor=request.user,
        action="logs.exported",
        detail={"format": format, "filters": filters.address()[:1_000], "rows": min(count.value, download.MAX_ROWS)},
        address=audit.client_address(request),
    )
    # Under ASGI a synchronous stream would be gathered in memory first.
    chunks = download.chunks_async if hasattr(request, "scope") else download.chunks
    answer = StreamingHttpResponse(
        chunks(organization=organization, query=spans, format=format), content_type=download.FORMATS[format]
    )
    part = f"-newest-{download.MAX_ROWS}" if count.value > download.MAX_ROWS else ""
    answer["Content-Disposition"] = f'attachment; filename="logs-{now:%Y%m%d-%H%M%S}{part}.{format}"'
    answer["Cache-Control"] = "private, no-store"
    return answer


# --- One log ----------------------------------------------------------------------------------------------------------


def _found(request: MemberRequest, log_id: str) -> reading.LogDetail | None:
    found_id = query.parse_log_id(log_id)
    return reading.log(organization_id=request.membership.organization.pk, id=found_id) if found_id else None


@require_safe
@require_role(Role.MEMBER)
def log(request: MemberRequest, log_id: str) -> HttpResponse:
    """Show one log in full: a page, or the content of the drawer."""
    is_drawer = wants_fragment(request)
    found = _found(request, log_id)
    if found is None:
        if is_drawer:
            return render(request, "traces/no_log.html", {}, status=404)
        raise Http404("There is no such log.")
    row = found.log
    context = {
        "log": row,
        "body": found.body,
        "detail": detail(row, found.body, base_url=_base_url()),
        "key": ApiKey.objects.filter(organization=request.membership.organization, pk=row.api_key_id).first(),
        "is_drawer": is_drawer,
        "now": timezone.now(),
    }
    return render(request, "traces/log.html", context)


@require_safe
@require_role(Role.MEMBER)
def log_body(request: MemberRequest, log_id: str, part: str) -> HttpResponse:
    """Send the stored request or response of a log as a file."""
    found = _found(request, log_id)
    body = found.body if found else None
    content = {"request": body.request, "response": body.response}.get(part) if body else None
    if found is None or content is None:
        raise Http404("There is no such content.")
    answer = HttpResponse(content, content_type="application/json; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{export.public_id(found.log)}-{part}.json"'
    answer["Cache-Control"] = "private, no-store"
    return answer
