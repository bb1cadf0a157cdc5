"""The Limits page: which limits an organization has set and how far each is used up; and a key's limits on its page.

Every member reads it, owners and admins change it; every query starts at the reader's organization, so a foreign id is
a 404. Each view translates in, makes one domain call, translates out. Neighbours: `limit_changes.py`, `limit_forms.py`,
`limit_events.py`, `templates/accounts/_api_key_row.html` (whose cells `key_limits` fills).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from accounts import audit
from accounts.models import ApiKey, Role
from accounts.tenancy import MemberRequest, has_role, require_role
from gateway import limit_changes, limit_events, limits
from gateway.limit_changes import Standing
from gateway.limit_events import Event
from gateway.limit_forms import LimitForm, initial, is_simple
from gateway.models import LimitPolicy
from respan import pages
from respan.errors import Error

_MOST_KEYS: Final = 100
_EACH: Final = {
    "api_key_id": "each API key",
    "customer_identifier": "each customer",
    "model": "each model",
    "endpoint": "each endpoint",
}
_ONE: Final = {"api_key_id": "API key", "customer_identifier": "customer", "model": "model", "endpoint": "endpoint"}
# Fields of the form by what a refusal calls them.
_FIELDS: Final = {"scope_value": "value", "compose": "whom", "rules": "most"}


@dataclass(frozen=True, slots=True)
class Line:
    """A limit as a page shows it."""

    row: LimitPolicy
    amount: str
    warns: str
    whom: str
    used: str
    # In hundredths of what is allowed, at most 100; None: not known, or counted for each by itself.
    percent: int | None
    ends_ms: int | None
    is_simple: bool
    # What it did lately, by its name: two limits that are called the same are told together.
    event: Event | None = None

    @property
    def state(self) -> str:
        """Return how a badge says it: `off`, `reached` or empty."""
        if not self.row.is_active:
            return "off"
        return "reached" if self.percent is not None and self.percent >= 100 else ""


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.MEMBER)
def limits_page(request: MemberRequest) -> HttpResponse:
    """List the limits; a POST sets one."""
    organization = request.membership.organization
    if request.method != "POST":
        rows, now = limit_changes.listed(organization), timezone.now()
        lately = limit_events.lately(organization, now=now) if rows else None
        context = {
            "lines": lines(limit_changes.standings(rows), lately.events if lately else {}),
            "lately": lately,
            "may_change": has_role(request.membership, Role.ADMIN),
            "now": now,
        }
        return pages.render(request, "gateway/limits.html", context)
    if not has_role(request.membership, Role.ADMIN):
        raise PermissionDenied("Owners and admins set limits.")
    form = LimitForm(request.POST, organization=organization)
    if not form.is_valid():
        return _form_page(request, form, status=HTTPStatus.BAD_REQUEST)
    try:
        row = limit_changes.create(
            organization=organization,
            draft=form.draft(),
            actor=request.user,
            address=audit.client_address(request),
            submission=form.cleaned_data["submission"],
        )
    except Error as error:
        _put(form, error)
        return _form_page(request, form, status=HTTPStatus.BAD_REQUEST)
    messages.success(request, f"“{row.name}” is set. Calls meet it within 5 seconds.")
    return redirect("limits")


@require_safe
@require_role(Role.ADMIN)
def new_limit(request: MemberRequest) -> HttpResponse:
    """Show the form of a new limit, perhaps of the API key the address names."""
    organization = request.membership.organization
    shown: dict[str, Any] = {"metric": limits.REQUESTS, "period": "minute"}
    public_id = request.GET.get("key", "").replace("\x00", "")
    api_key = ApiKey.objects.filter(organization=organization, public_id=public_id).first() if public_id else None
    if api_key is not None:
        shown |= {"whom": "api_key_id", "key": api_key.public_id, "name": f"Requests of {api_key.name}"[:120]}
    return _form_page(request, LimitForm(initial=shown, organization=organization))


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
def limit(request: MemberRequest, public_id: str) -> HttpResponse:
    """Change a limit."""
    row = _found(request, public_id)
    if not is_simple(row):
        raise Http404("This limit has more rules than the form shows: it is changed through the API.")
    base = limit_changes.draft_of(row)
    organization = request.membership.organization
    if request.method != "POST":
        return _form_page(request, LimitForm(initial=initial(base), organization=organization, row=row))
    form = LimitForm(request.POST, initial=initial(base), organization=organization, row=row)
    if not form.is_valid():
        return _form_page(request, form, status=HTTPStatus.BAD_REQUEST)
    try:
        limit_changes.change(row=row, draft=form.draft(base), actor=request.user, address=audit.client_address(request))
    except Error as error:
        _put(form, error)
        return _form_page(request, form, status=HTTPStatus.BAD_REQUEST)
    messages.success(request, f"“{form.cleaned_data['name']}” is changed. Calls meet it within 5 seconds.")
    return redirect("limits")


@require_http_methods(["GET", "HEAD", "POST"])
@require_role(Role.ADMIN)
def remove_limit(request: MemberRequest, public_id: str) -> HttpResponse:
    """Ask, then lift a limit."""
    row = _found(request, public_id)
    if request.method != "POST":
        [line] = lines(limit_changes.standings([row]))
        return pages.render(request, "gateway/limit_remove.html", {"line": line})
    limit_changes.remove(row=row, actor=request.user, address=audit.client_address(request))
    messages.success(request, f"“{row.name}” is deleted. Calls stop meeting it within 5 seconds.")
    return redirect("limits")


@require_safe
@never_cache
@require_role(Role.MEMBER)
def key_limits(request: MemberRequest) -> HttpResponse:
    """Answer what the page of keys says of the limits of the API keys named."""
    organization = request.membership.organization
    shown = [public_id.replace("\x00", "") for public_id in request.GET.getlist("key")[:_MOST_KEYS]]
    found = ApiKey.objects.filter(organization=organization, public_id__in=shown).only("public_id", "name")
    about: dict[int, list[LimitPolicy]] = {}
    for row in limit_changes.listed(organization):
        if row.is_active and (key := row.scope_values.get("api_key_id")):
            for each in limit_changes.heirs(organization, int(key)):
                about.setdefault(each, []).append(row)
    cells = [(api_key, lines(limit_changes.standings(about.get(api_key.pk, [])))) for api_key in found]
    context = {"cells": cells, "may_change": has_role(request.membership, Role.ADMIN)}
    return render(request, "gateway/_key_limits.html", context)


def _found(request: MemberRequest, public_id: str) -> LimitPolicy:
    return get_object_or_404(
        LimitPolicy.objects.select_related("organization"),
        organization=request.membership.organization,
        public_id=public_id.replace("\x00", ""),
    )


def _form_page(request: MemberRequest, form: LimitForm, *, status: int = HTTPStatus.OK) -> HttpResponse:
    return pages.render(request, "gateway/limit.html", {"form": form, "row": form.row}, status=status)


def _put(form: LimitForm, error: Error) -> None:
    """Show a refusal beside the field it is about."""
    name = _FIELDS.get(error.param or "", error.param)
    if name == "value" and form.cleaned_data.get("whom") == "api_key_id":
        name = "key"
    form.add_error(name if name in form.fields else None, error.message)


# --- Words ------------------------------------------------------------------------------------------------------------


def lines(standings: Sequence[Standing], events: Mapping[str, Event] | None = None) -> list[Line]:
    """Return limits as a page shows them; `events` are what they did lately."""
    wanted = {int(key) for each in standings if (key := each.row.scope_values.get("api_key_id"))}
    organizations = {each.row.organization_id for each in standings}
    names = dict(ApiKey.objects.filter(pk__in=wanted, organization__in=organizations).values_list("pk", "name"))
    known = events or {}
    return [_line(standing, names, known.get(standing.row.name)) for standing in standings]


def _line(standing: Standing, names: Mapping[int, str], event: Event | None) -> Line:
    row, policy = standing.row, standing.policy
    most, used = policy.most, standing.used
    bound = most if most is not None else max(policy.soft, default=0)
    percent = None if used is None else 100 if not bound else min(used * 100 // bound, 100)
    return Line(
        row=row,
        amount=f"{amount(row.metric, most)}{limits.per(policy)}" if most is not None else "nothing is refused",
        warns=f"warns from {amount(row.metric, policy.soft[0])}" if policy.soft else "",
        whom=" and ".join(_whom(scope, row, names) for scope in row.compose),
        used="" if used is None else amount(row.metric, used),
        percent=percent,
        ends_ms=standing.ends_ms if row.period and used is not None else None,
        is_simple=is_simple(row),
        event=event,
    )


def _whom(scope: str, row: LimitPolicy, names: Mapping[int, str]) -> str:
    if scope == "organization_id":
        return "the organization"
    value = row.scope_values.get(scope)
    if value is None:
        return _EACH[scope]
    return f"{_ONE[scope]} “{names.get(int(value), 'deleted') if scope == 'api_key_id' else value}”"


def amount(metric: str, value: int) -> str:
    """Return an amount with its unit."""
    shown = limits.shown(metric, value)
    if metric == limits.COST:
        whole, point, rest = str(shown).partition(".")
        return f"${int(whole):,}{point}{rest}"
    unit = {"request_count": "request", "token_count": "token", "concurrency": "call"}[metric]
    text = f"{shown:,} {unit}{'' if shown == 1 else 's'}"
    return f"{text} at once" if metric == limits.CONCURRENCY else text
