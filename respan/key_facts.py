"""What the page of API keys shows of other apps: what each key's calls cost, and whether a new key was called with yet.

Part of the roof: two fragments, fetched by the page where scripts run; without them it links to the logs. Never changes
anything. Neighbours: `accounts/views.py` (the page), `traces.reading`, `templates/_first_call.html`.
"""

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.models import ApiKey, Role
from accounts.tenancy import require_role
from respan import ids
from traces import query, reading
from traces.query import Condition, SpanQuery

SPENT_DAYS: Final = 30
MOST_KEYS: Final = 100
# A page that is left open asks no longer than this for the first call.
ASKED_FOR: Final = timedelta(minutes=5)


@require_safe
@never_cache
@require_role(Role.MEMBER)
def spend(request: HttpRequest) -> HttpResponse:
    """Answer the cells of the column “30 days” for the keys named: what their calls cost, whoever paid."""
    organization = request.membership.organization  # type: ignore[attr-defined]
    since = timezone.now() - timedelta(days=SPENT_DAYS)
    costs = reading.cost_by_key(organization_id=organization.pk, since=since)
    shown = [public_id.replace("\x00", "") for public_id in request.GET.getlist("key")[:MOST_KEYS]]
    found = ApiKey.objects.filter(organization=organization, public_id__in=shown).only("public_id")
    cells = [(api_key.public_id, costs.get(api_key.pk, 0)) for api_key in found]
    return render(request, "_key_spend.html", {"cells": cells})


@require_safe
@never_cache
@require_role(Role.MEMBER)
def first_call(request: HttpRequest, public_id: str) -> HttpResponse:
    """Answer the line that waits for a new key's first call; in five minutes it stops asking."""
    organization = request.membership.organization  # type: ignore[attr-defined]
    api_key = get_object_or_404(ApiKey, organization=organization, public_id=public_id)
    now = timezone.now()
    log_id = _first_log(api_key, now=now) if api_key.last_used_at is not None else ""
    if log_id:
        state = "called"
    elif now - api_key.created_at > ASKED_FOR:
        state = "quiet"
    else:
        state = "waiting" if api_key.last_used_at is None else "used"
    if state == request.GET.get("seen"):
        return HttpResponse(status=HTTPStatus.NO_CONTENT)  # nothing to announce: the line stays and asks again
    return render(request, "_first_call.html", {"state": state, "public_id": public_id, "log_id": log_id})


def _first_log(api_key: ApiKey, *, now: datetime) -> str:
    """Return the public id of the key's first log; empty while it is not loaded."""
    asked = SpanQuery(
        since=api_key.created_at,
        until=now,
        conditions=(Condition("organization_key_id", "in", (api_key.pk,)),),
        sort=query.Sort(descending=False),
    )
    found = reading.logs(organization_id=api_key.organization_id, query=asked, limit=1).logs
    return ids.encode("log", found[0].id) if found else ""
