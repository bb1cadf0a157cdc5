"""What the tests of money share: funded organizations, holds, and the look into the books. Holds no test."""

import asyncio
import uuid
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from django.utils import timezone

from accounts.models import Organization
from billing import ledger, verification
from billing.models import Entry, Grant, Hold
from respan import pool
from tests.conftest import make_organization

T = TypeVar("T")


def funded(nano: int, **fields: Any) -> Organization:
    """Return a new organization with this balance."""
    organization: Organization = make_organization("Funded", **fields)
    if nano:
        ledger.purchase(organization=organization, amount_nano=nano, reason="test", actor=None)
    return organization


def request(organization: Organization, amount_nano: int, **fields: Any) -> ledger.HoldRequest:
    """Return a hold to ask for; its deadline is ten minutes away."""
    values: dict[str, Any] = {
        "id": uuid.uuid4(),
        "organization_id": organization.pk,
        "amount_nano": amount_nano,
        "owner": "tests",
        "deadline_at": timezone.now() + timedelta(minutes=10),
    }
    return ledger.HoldRequest(**values | fields)


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario in a loop of its own, as a web process does, and close what it opened."""

    async def scenario_and_close() -> T:
        try:
            return await scenario
        finally:
            await pool.close()

    return asyncio.run(scenario_and_close())


def held(organization: Organization, amount_nano: int, **fields: Any) -> uuid.UUID:
    """Open a hold and return its id."""
    wanted = request(organization, amount_nano, **fields)
    run(ledger.hold(wanted))
    return wanted.id


def settlement(organization: Organization, hold_id: uuid.UUID, cost_nano: int, **fields: Any) -> ledger.Settlement:
    return ledger.Settlement(hold_id=hold_id, organization_id=organization.pk, cost_nano=cost_nano, **fields)


def settle(organization: Organization, hold_id: uuid.UUID, cost_nano: int) -> ledger.Settled | None:
    """Settle one call now."""
    return ledger.settle([settlement(organization, hold_id, cost_nano)], now=timezone.now()).get(hold_id)


def granted(organization: Organization, nano: int, days: float) -> Grant:
    """Give credits that expire in so many days."""
    expires_at = timezone.now() + timedelta(days=days)
    entry = ledger.grant(organization=organization, amount_nano=nano, reason="a", actor=None, expires_at=expires_at)
    assert entry.grant is not None
    return entry.grant


def state(hold_id: uuid.UUID) -> str:
    return Hold.objects.values_list("state", flat=True).get(pk=hold_id)


def kinds(organization: Organization) -> list[tuple[str, int]]:
    """Return what happened to a wallet, oldest first."""
    entries = Entry.objects.filter(wallet_id=organization.pk).order_by("number")
    return [(entry.kind, entry.amount) for entry in entries]


def books_are_right(*organizations: Organization) -> bool:
    """Tell whether the books hold for these organizations; prints what does not."""
    concerned = {organization.pk for organization in organizations}
    found = [each for each in verification.differences() if each.organization_id in concerned]
    print(*found, sep="\n")
    return not found


def connect() -> "psycopg.Connection[Any]":
    """Return a connection of somebody else."""
    return psycopg.connect(pool.dsn(), application_name="somebody else")
