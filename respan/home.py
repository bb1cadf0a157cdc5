"""The home page: the three steps from nothing to a traced call, each ticked off from facts.

Part of the roof: gathers one fact from each app and composes; decides nothing itself.
"""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from accounts.models import ApiKey, Role
from accounts.tenancy import require_role
from billing import ledger
from gateway import credentials
from respan.pages import render
from traces import reading


@require_role(Role.MEMBER)
def home(request: HttpRequest) -> HttpResponse:
    """Show the three steps and what of them is done."""
    organization = request.membership.organization  # type: ignore[attr-defined]
    now = timezone.now()
    has_key = ApiKey.objects.filter(organization=organization, revoked_at=None).exclude(expires_at__lt=now).exists()
    balance = ledger.balance(organization.pk)
    has_own_key = credentials.count(organization) > 0
    return render(
        request,
        "home.html",
        {
            "has_key": has_key,
            "can_pay": has_own_key or balance.available > 0,
            "has_own_key": has_own_key,
            "balance": balance,
            "has_called": reading.has_logs(organization_id=organization.pk),
            "base_url": f"{settings.RESPAN_BASE_URL}/api/",
        },
    )
