"""The operator's console as a whole: its facts, its way around, what its pages may load, who sees them."""

import re
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing import approvals, ledger
from respan import console as subject
from tests.conftest import make_organization, make_user
from tests.operators import make_operator, sign_in

pytestmark = pytest.mark.django_db

HEADER = "Content-Security-Policy"
STRICT = {"script-src 'self'", "style-src 'self'"}
PAGES = ["/admin/", "/admin/spool/", "/admin/missing-prices/"]


@pytest.fixture
def operator() -> Client:
    return sign_in(make_operator())


def linked(page: str) -> list[str]:
    return sorted(set(re.findall(r'href="(/admin/[^"#]*)"', page)))


def test_the_start_page_tells_how_the_installation_stands(operator: Client, cast: SimpleNamespace) -> None:
    page = operator.get("/admin/").content.decode()
    for label in (
        "Organizations", "Calls of the last hour", "Open holds", "Last beat", "Waiting for approval", "Absorbed",
        "Missing prices", "Spool to database", "Batches not done", "Dead letters", "Shipper heard",
    ):  # fmt: skip
        assert label in page
    assert 'href="/platform/"' in page


def test_every_place_the_start_page_leads_to_answers(operator: Client, cast: SimpleNamespace) -> None:
    places = linked(operator.get("/admin/").content.decode())
    assert len(places) > 18
    for place in places:
        assert operator.get(place.replace("&amp;", "&")).status_code == 200, place


@pytest.mark.parametrize("path", PAGES)
def test_pages_ask_as_much_for_many_organizations_as_for_one(operator: Client, path: str) -> None:
    make_organization("One")
    with CaptureQueriesContext(connection) as one:
        assert operator.get(path).status_code == 200
    owner = make_user("owner")
    for number in range(30):
        organization = make_organization(f"Many {number}", owner=owner)
        approvals.grant(organization=organization, amount_nano=10**12, reason="a", actor=owner)
    with CaptureQueriesContext(connection) as many:
        assert operator.get(path).status_code == 200
    assert len(many) <= len(one)


def test_what_waits_for_a_second_person_stands_in_the_navigation(operator: Client, cast: SimpleNamespace) -> None:
    approvals.adjust(organization=cast.organization, amount_nano=10**12, reason="a", actor=cast.owner)
    assert subject.waiting_approvals(None) >= 1  # type: ignore[arg-type]
    assert 'href="/admin/billing/pendingadjustment/?state__exact=waiting"' in operator.get("/admin/").content.decode()


@pytest.mark.parametrize("path", PAGES)
def test_only_operators_see_them(cast: SimpleNamespace, path: str) -> None:
    clerk = make_user("clerk")
    clerk.is_staff = True
    clerk.save()
    page = sign_in(clerk).get(path)
    assert page.status_code == (200 if path == "/admin/" else 403)
    assert "Open holds" not in page.content.decode()
    for client in (sign_in(cast.owner), Client()):
        assert client.get(path).status_code == 302


def test_models_without_rates_are_named_until_their_prices_are_published(operator: Client, settings: Any) -> None:
    from billing.models import ModelRates

    call_command("sync_catalog", verbosity=0)
    assert all(model.rates is None for model in subject.unpriced_models())
    assert ModelRates.objects.exists()
    assert operator.get("/admin/missing-prices/").status_code == 200


def test_pages_of_the_console_may_evaluate_and_style_and_no_other_page_may(
    operator: Client, cast: SimpleNamespace
) -> None:
    for path in (*PAGES, "/admin/billing/wallet/", f"/admin/billing/wallet/{cast.organization.pk}/grant/"):
        policy = operator.get(path).headers[HEADER]
        assert "script-src 'self' 'unsafe-eval'" in policy
        assert "style-src 'self' 'unsafe-inline'" in policy
        assert "script-src 'self' 'unsafe-eval' 'unsafe-inline'" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
    member = sign_in(cast.owner)
    for path in ("/platform/", "/platform/api/credits/", "/accounts/reauthenticate/", "/platform/admin/", "/healthz"):
        assert "unsafe" not in member.get(path).headers[HEADER], path
    assert set(member.get("/platform/").headers[HEADER].split("; ")) >= STRICT


def test_no_page_of_ours_writes_a_script_or_a_style_into_itself(operator: Client, cast: SimpleNamespace) -> None:
    for path in (*PAGES, f"/admin/billing/wallet/{cast.organization.pk}/adjust/"):
        main = operator.get(path).content.decode().partition('<main id="main"')[2].partition("</main>")[0]
        assert main
        # In tags alone: an organization's name may be anything, and stands there as text.
        assert not re.search(r"<script|<[a-zA-Z][^<>]*\s(style|on[a-z]+)\s*=", main)


def test_no_secret_stands_on_any_page(operator: Client, cast: SimpleNamespace, api_key: str) -> None:
    from accounts.models import ApiKey
    from gateway import credentials

    canary = f"sk-canary-{uuid.uuid4().hex}"
    row = credentials.store(
        organization=cast.organization, provider="openai", name="Theirs", secret=canary, actor=cast.owner, address=None
    )
    stored = ApiKey.objects.get(organization=cast.organization)
    places = linked(operator.get("/admin/").content.decode())
    places += [
        f"/admin/gateway/organizationcredential/{row.pk}/change/",
        f"/admin/accounts/apikey/{stored.pk}/change/",
        f"/admin/accounts/user/{cast.owner.pk}/change/",
        f"/admin/accounts/organization/{cast.organization.pk}/change/",
    ]
    hidden = (canary, row.sealed, api_key, bytes(stored.digest).hex(), cast.owner.password)
    for place in places:
        page = operator.get(place.replace("&amp;", "&")).content.decode()
        assert not [each for each in hidden if each in page], place


def test_no_money_can_be_deleted_or_written_anywhere_in_the_console(operator: Client, cast: SimpleNamespace) -> None:
    ledger.grant(organization=cast.organization, amount_nano=10**9, reason="a", actor=None)
    from django.contrib import admin
    from django.test import RequestFactory

    request = RequestFactory().get("/admin/")
    request.user = make_operator()
    tables = [table for model, table in admin.site._registry.items() if model._meta.app_label in ("billing", "traces")]
    assert len(tables) == 9
    for table in tables:
        assert not table.has_delete_permission(request)
        assert not table.has_change_permission(request)
        assert "delete_selected" not in table.get_actions(request)
