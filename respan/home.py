"""The home page: the three steps from nothing to a traced call, then today's figures beside yesterday's.

Part of the roof: gathers facts from each app and composes; every form on it is sent to the page that owns it, and each
step ticks itself off from facts. Decides nothing itself. Neighbours: `traces.figures`, `billing.spending`, `sample.py`,
`templates/home.html`.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.forms import ApiKeyForm
from accounts.models import ApiKey, Membership, Organization, Role
from accounts.tenancy import MemberRequest, has_role, require_role
from billing import ledger, spending
from billing.forms import RedeemForm
from gateway import credentials
from gateway.forms import NewCredentialForm
from respan import charts, sample
from traces import figures, query, reading, snippets
from traces.figures import Figures
from traces.query import Condition, SpanQuery
from traces.tiles import tiles

_LISTED: Final = 5
_LOGS_DAYS: Final = 30
# How many of those who may manage keys and credits a member is told.
_NAMED: Final = 5


@require_safe
@never_cache
@require_role(Role.MEMBER)
def home(request: HttpRequest) -> HttpResponse:
    """Show the three steps, or once there are calls what came of them."""
    asked: MemberRequest = request  # type: ignore[assignment]
    organization, now = asked.membership.organization, timezone.now()
    has_called = reading.has_logs(organization_id=organization.pk)
    facts = _figures(asked, organization, now) if has_called else _steps(asked, organization, now)
    context = {
        "has_called": has_called,
        "sample": sample.state(asked.membership, has_called=has_called),
        "balance": ledger.balance(organization.pk),
        "now": now,
    }
    return render(request, "home.html", context | facts)


@require_safe
@never_cache
@require_role(Role.MEMBER)
def first_call(request: HttpRequest) -> HttpResponse:
    """Answer what waits for the first call: which steps are done, and the call once it is there."""
    organization, now = request.membership.organization, timezone.now()  # type: ignore[attr-defined]
    context = (
        _done(organization, now) | _waiting(_logs(organization, now=now, limit=1)) | {"now": now, "is_answer": True}
    )
    return render(request, "_home_waiting.html", context)


# --- Before the first call --------------------------------------------------------------------------------------------


def _done(organization: Organization, now: datetime) -> dict[str, Any]:
    """Return which of the steps are done."""
    working = ApiKey.objects.filter(organization=organization, revoked_at=None).exclude(expires_at__lt=now)
    own_keys = credentials.count(organization)
    return {
        "has_key": working.exists(),
        "own_keys": own_keys,
        "can_pay": own_keys > 0 or ledger.balance(organization.pk).available > 0,
    }


def _steps(request: MemberRequest, organization: Organization, now: datetime) -> dict[str, Any]:
    base_url = f"{settings.RESPAN_BASE_URL}/api/"
    hello = {"model": "sandbox/echo", "messages": [{"role": "user", "content": "Hello"}]}
    offered = {each.name: each for each in snippets.snippets(hello, base_url=base_url)}
    may_pay = has_role(request.membership, Role.ADMIN)
    return {
        **_done(organization, now),
        "key_form": ApiKeyForm(auto_id="key_%s", initial={"name": "First key"}),
        "provider_form": NewCredentialForm(auto_id="provider_%s") if may_pay else None,
        "redeem_form": RedeemForm(auto_id="redeem_%s") if may_pay else None,
        "managers": [] if may_pay else _managers(organization),
        "base_url": base_url,
        "snippets": [offered[name] for name in ("python", "typescript", "curl")],
        **_waiting(()),
    }


def _managers(organization: Organization) -> list[str]:
    """Return whom a member can ask: addresses of owners and admins."""
    rows = Membership.objects.filter(organization=organization, role__in=[Role.OWNER, Role.ADMIN], user__is_active=True)
    return list(rows.order_by("created_at").values_list("user__email", flat=True)[:_NAMED])


def _waiting(newest: tuple[reading.Log, ...]) -> dict[str, Any]:
    return {"newest": newest, "log": newest[0] if newest else None}


def _logs(
    organization: Organization, *, now: datetime, limit: int, environment: str = "", only_failed: bool = False
) -> tuple[reading.Log, ...]:
    """Return the newest logs, at most a few."""
    asked = SpanQuery(
        since=now - timedelta(days=_LOGS_DAYS),
        until=now,
        environment=environment or None,
        conditions=(Condition("failed", "in", (True,)),) if only_failed else (),
        sort=query.Sort(),
    )
    return reading.logs(organization_id=organization.pk, query=asked, limit=limit).logs


# --- Afterwards -------------------------------------------------------------------------------------------------------


def _figures(request: MemberRequest, organization: Organization, now: datetime) -> dict[str, Any]:
    """Return today's figures, and yesterday's until the end of this hour."""
    environment = request.environment
    end = figures.floor(now, "hour") + timedelta(hours=1)
    midnight, day = figures.floor(now, "day"), timedelta(days=1)
    # Both days at once: the chart's 24 hours lie in them too.
    points = figures.timeline(
        organization_id=organization.pk, start=midnight - day, end=end, bucket="hour", environment=environment
    )
    today = sum((point.figures for point in points if point.start >= midnight), Figures())
    yesterday = sum((point.figures for point in points if point.start < end - day), Figures())
    available = ledger.balance(organization.pk).available
    burn = spending.burn(organization.pk, available_nano=available, now=now)
    return {
        "tiles": tiles(
            today, yesterday, f"yesterday by {end:%H:%M}" if end > midnight + timedelta(hours=1) else "then"
        ),
        "chart": _chart([point for point in points if point.start >= end - day]),
        "burn": burn,
        "lasts": spending.lasting(burn.lasts) if burn and burn.lasts is not None else "",
        "latest": _logs(organization, now=now, limit=_LISTED, environment=environment),
        "failed": _logs(organization, now=now, limit=_LISTED, environment=environment, only_failed=True),
        "own_keys": credentials.count(organization),
    }


def _chart(points: list[figures.Point]) -> charts.Chart:
    return charts.bars(
        "Calls in the last 24 hours (UTC)",
        [f"{point.start:%H:00}" for point in points],
        [
            charts.Series("OK", [point.figures.calls - point.figures.errors for point in points], "1"),
            charts.Series("Not OK", [point.figures.errors for point in points], "error"),
        ],
    )
