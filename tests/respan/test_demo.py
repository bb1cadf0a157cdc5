"""`manage.py demo`: an organization worth looking at, safe to repeat, not where others can reach it."""

import io
import json
import stat
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from accounts.models import ApiKey, Invitation, Organization, User
from billing import ledger
from billing.models import Entry, Hold
from gateway.models import Credential
from respan import demo
from traces import reading

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("demo")]


def run(*options: str) -> str:
    said = io.StringIO()
    call_command("demo", *options, stdout=said)
    return said.getvalue()


def counts() -> dict[str, int]:
    northwind = Organization.objects.get(name="Northwind Labs")
    return {
        "organizations": Organization.objects.filter(name="Northwind Labs").count(),
        "members": northwind.memberships.count(),
        "keys": ApiKey.objects.filter(organization=northwind).count(),
        "invitations": Invitation.objects.filter(organization=northwind).count(),
        "credentials": Credential.objects.filter(organization=northwind).count(),
        "entries": Entry.objects.filter(wallet_id=northwind.pk).count(),
        "posted": ledger.balance(northwind.pk).posted,
    }


def test_demo_is_complete_and_repeating_it_changes_nothing() -> None:
    said = run()
    northwind = Organization.objects.get(name="Northwind Labs")
    first = counts()

    assert {place.role for place in northwind.memberships.all()} == {"owner", "admin", "member"}
    assert first["invitations"] == 2
    assert first["credentials"] >= 2
    kinds = set(Entry.objects.filter(wallet_id=northwind.pk).values_list("kind", flat=True))
    assert kinds == {"grant", "purchase", "usage"}
    assert len({entry.created_at.date() for entry in Entry.objects.filter(wallet_id=northwind.pk, kind="usage")}) > 5
    assert not Hold.objects.filter(wallet_id=northwind.pk, state="open").exists()
    assert reading.has_logs(organization_id=northwind.pk)
    call_command("verify_ledger", stdout=io.StringIO())

    assert run() == said
    assert counts() == first


def test_printed_logins_sign_in_and_are_kept_for_their_owner_only() -> None:
    said = run()
    kept = json.loads(demo.logins_file().read_text())

    assert stat.S_IMODE(demo.logins_file().stat().st_mode) == 0o600
    for email, password in kept.items():
        assert email in said
        assert password in said
        client = Client()
        signed_in = client.post("/accounts/login/", {"login": email, "password": password})
        assert signed_in.status_code == 302
        assert "Northwind Labs" in client.get("/platform/").content.decode()
    assert not User.objects.filter(email__in=kept, is_staff=True).exists()


def test_installation_that_others_can_reach_is_refused(settings: Any) -> None:
    settings.RESPAN_IS_LOOPBACK = False
    before = Organization.objects.count()

    with pytest.raises(CommandError, match="--force"):
        run()

    assert Organization.objects.count() == before
