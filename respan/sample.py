"""Sample data: two weeks of an imaginary shop's calls in an organization that has made none, and their removal.

Part of the roof: the calls come from `respan/samples`, are loaded by `traces.seeding` and filed under stand-in API keys
named “Sample” that nobody can present. Never touches a wallet: what calls would have cost is shown, nothing charged.
Neighbours: `templates/_sample.html` (the offer and the banner), `respan/home.py`, `manage.py demo`.
"""

import uuid
from dataclasses import dataclass
from random import Random
from typing import Final

from django.contrib import messages
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts import audit, keys
from accounts.models import ApiKey, Environment, Membership, Organization, Role, User
from accounts.tenancy import has_role, require_role
from billing.models import ModelRates
from respan.samples import calls
from traces import reading, seeding

CALLS: Final = 2_000
KEY_NAME: Final = "Sample"
# An advisory lock (any number, ours) beside the organization's: a second press of the button waits for the first.
_LOCK: Final = 7_274_002
_NAMESPACE: Final = uuid.UUID("6f1d3a52-5f0e-4b7e-9c55-0a8f4f6f6b11")


class AlreadyCalled(Exception):
    """Sample data goes into organizations without calls only: nobody should have to tell theirs from ours."""


@dataclass(frozen=True, slots=True)
class State:
    """What a page says of sample data to this reader."""

    is_there: bool
    may_fill: bool
    may_remove: bool


def state(membership: Membership, *, has_called: bool) -> State:
    """Tell whether the organization shows sample data and what this member may do about it. One query."""
    is_there = _keys(membership.organization).exists()
    is_admin = has_role(membership, Role.ADMIN)
    return State(
        is_there=is_there,
        may_fill=is_admin and not has_called and not is_there,
        may_remove=is_admin and is_there,
    )


@require_POST
@require_role(Role.ADMIN)
def fill_view(request: HttpRequest) -> HttpResponse:
    """Fill the reader's organization with sample data."""
    organization = request.membership.organization  # type: ignore[attr-defined]
    try:
        count = fill(organization, actor=_user(request), address=audit.client_address(request))
    except AlreadyCalled:
        messages.error(request, "Sample data is for organizations without calls; this one has made some.")
        return redirect("home")
    if count:
        messages.success(request, f"{count:,} sample calls of the last 14 days are here. Nothing was charged.")
    return redirect("home")


@require_POST
@require_role(Role.ADMIN)
def remove_view(request: HttpRequest) -> HttpResponse:
    """Take the sample data out of the reader's organization."""
    organization = request.membership.organization  # type: ignore[attr-defined]
    count = remove(organization, actor=_user(request), address=audit.client_address(request))
    if count:
        messages.success(request, f"The {count:,} sample calls are removed. Your own calls, if any, stayed.")
    return redirect("home")


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # noqa: S101  (`require_role` lets nobody else in)
    return request.user


@transaction.atomic
def fill(organization: Organization, *, actor: User | None, address: str | None = None, count: int = CALLS) -> int:
    """Put sample calls into an organization; return how many, 0 where they are there already.

    Raises: AlreadyCalled.
    """
    _wait_for_others(organization)
    if _keys(organization).exists():
        return 0
    if reading.has_logs(organization_id=organization.pk):
        raise AlreadyCalled
    now = timezone.now()
    stand_ins = {
        environment: keys.stand_in(
            organization=organization,
            name=KEY_NAME,
            environment=environment,
            request_id=_request_id(organization, environment),
            now=now,
        )
        for environment in Environment.values
    }
    scene = calls.Scene(
        organization_id=organization.pk,
        keys={environment: api_key.pk for environment, api_key in stand_ins.items()},
        rates=rates_in_force(),
        now=now,
    )
    made = calls.make(scene, dice=Random(organization.pk), count=count)  # noqa: S311  (no secrets)
    seeding.add(made, now=now)
    _record(organization, "sample_data.filled", len(made), actor, address)
    return len(made)


@transaction.atomic
def remove(organization: Organization, *, actor: User | None, address: str | None = None) -> int:
    """Take every sample call out of an organization, with its roll-ups and keys; return how many there were."""
    _wait_for_others(organization)
    found = list(_keys(organization))
    if not found:
        return 0
    count = seeding.remove(
        organization_id=organization.pk, api_key_ids=[api_key.pk for api_key in found], mark=calls.MARK
    )
    _keys(organization).delete()
    _record(organization, "sample_data.removed", count, actor, address)
    return count


def _wait_for_others(organization: Organization) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK, organization.public_id])


def _request_id(organization: Organization, environment: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, f"{organization.public_id}:{environment}")


def _keys(organization: Organization) -> models.QuerySet[ApiKey]:
    """Return the stand-in keys: known by the request ids only we can have given them, never by their name."""
    wanted = [_request_id(organization, environment) for environment in Environment.values]
    return ApiKey.objects.filter(organization=organization, request_id__in=wanted)


def rates_in_force() -> dict[tuple[str, str], int]:
    """Return the newest version of each model's rates."""
    newest = ModelRates.objects.order_by("provider", "model", "-id").distinct("provider", "model")
    return {(provider, model): pk for provider, model, pk in newest.values_list("provider", "model", "pk")}


def _record(organization: Organization, action: str, count: int, actor: User | None, address: str | None) -> None:
    audit.record(
        organization=organization,
        actor=actor,
        action=action,
        target=organization.public_id,
        detail={"calls": count},
        address=address,
    )
