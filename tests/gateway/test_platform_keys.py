"""The operator's provider keys: the admin console adds, replaces, tests and removes them, and never shows one."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import AuditEvent
from gateway import credentials
from gateway.credentials import Secret, of
from gateway.models import Credential
from tests.operators import confirm, make_operator, sign_in

pytestmark = pytest.mark.django_db
KEY = "sk-canary-0123456789abcdef"
LIST = "/admin/gateway/credential/"


@pytest.fixture
def operator(db: None) -> Client:
    return sign_in(make_operator())


@pytest.fixture
def row() -> Iterator[Credential]:
    """A key of the platform, gone afterwards: every organization of the run could use it."""
    stored = credentials.store(
        organization=None,
        provider="openai",
        name=f"Platform {uuid.uuid4().hex[:8]}",
        secret=Secret(KEY),
        models=["gpt-4o-mini"],
        actor=None,
        address=None,
    )
    yield stored
    credentials.remove(credential=stored, actor=None, address=None)


def form(**fields: Any) -> dict[str, Any]:
    name = f"Platform {uuid.uuid4().hex[:8]}"
    return {"provider": "groq", "name": name, "secret": KEY, "base_url": "", "models": "", **fields}


def audited(public_id: str) -> list[str]:
    return [event.action for event in AuditEvent.objects.filter(target=public_id).order_by("pk")]


def test_an_operator_adds_a_key_that_every_organization_may_pay_for(operator: Client) -> None:
    fields = form(models="openai/gpt-oss-20b")
    assert operator.post(f"{LIST}add/", fields).status_code == 302
    row = Credential.objects.get(name=fields["name"])
    assert row.organization_id is None
    assert of(row).secret().reveal() == KEY
    assert row.allowed_models == ["openai/gpt-oss-20b"]
    assert audited(row.public_id) == ["credential.created"]
    credentials.remove(credential=row, actor=None, address=None)


def test_the_key_is_write_only(operator: Client, row: Credential) -> None:
    for path in (LIST, f"{LIST}{row.pk}/change/", f"{LIST}{row.pk}/history/", f"{LIST}{row.pk}/delete/"):
        page = operator.get(path)
        assert page.status_code == 200
        assert KEY not in page.content.decode()
        assert row.sealed not in page.content.decode()


def test_saving_without_a_key_keeps_the_stored_one(operator: Client, row: Credential) -> None:
    fields = {"secret": "", "base_url": "", "models": "gpt-4o"}
    assert operator.post(f"{LIST}{row.pk}/change/", fields).status_code == 302
    row.refresh_from_db()
    assert row.allowed_models == ["gpt-4o"]
    assert of(row).secret().reveal() == KEY
    assert operator.post(f"{LIST}{row.pk}/change/", {**fields, "secret": "sk-second-0123456789"}).status_code == 302
    row.refresh_from_db()
    assert of(row).secret().reveal() == "sk-second-0123456789"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"secret": ""}, "Paste the provider"),
        ({"provider": "sandbox"}, "valid choice"),
        ({"provider": "custom"}, "valid choice"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "not a public address"),
    ],
)
def test_a_wrong_form_is_refused_and_stores_nothing(fields: dict[str, Any], said: str, operator: Client) -> None:
    before = Credential.objects.count()
    answer = operator.post(f"{LIST}add/", form(**fields))
    assert answer.status_code == 200
    assert said in answer.content.decode()
    assert KEY not in answer.content.decode()
    assert Credential.objects.count() == before


def test_a_name_is_taken_once(operator: Client, row: Credential) -> None:
    answer = operator.post(f"{LIST}add/", form(provider="openai", name=row.name))
    assert "with this name already" in answer.content.decode()
    assert Credential.objects.filter(name=row.name).count() == 1


def test_another_server_without_the_key_is_refused(operator: Client, row: Credential) -> None:
    fields = {"secret": "", "base_url": "https://proxy.example.com/v1", "models": ""}
    answer = operator.post(f"{LIST}{row.pk}/change/", fields)
    assert "Enter the key again" in answer.content.decode()
    assert Credential.objects.get(pk=row.pk).base_url == ""
    assert audited(row.public_id) == ["credential.created"]


def test_the_console_does_not_list_or_open_keys_of_organizations(
    operator: Client, organization: Any, cast: Any
) -> None:
    theirs = credentials.store(
        organization=organization, provider="openai", name="Theirs", secret=Secret(KEY), actor=cast.owner, address=None
    )
    assert b"Theirs" not in operator.get(LIST).content
    assert operator.post(f"{LIST}{theirs.pk}/change/", {"secret": "sk-x", "base_url": ""}).status_code == 302
    theirs.refresh_from_db()
    assert of(theirs).secret().reveal() == KEY


def test_an_operator_removes_a_key(operator: Client, row: Credential) -> None:
    assert operator.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Credential.objects.filter(pk=row.pk).exists()
    assert "credential.removed" in audited(row.public_id)


def test_who_is_no_operator_is_kept_out(cast: Any, row: Credential) -> None:
    client = Client()
    client.force_login(cast.owner)
    for path in (LIST, f"{LIST}add/", f"{LIST}{row.pk}/change/"):
        assert client.post(path, form()).status_code in (302, 403)
        assert row.name not in client.get(path, follow=True).content.decode()
    assert audited(row.public_id) == ["credential.created"]


def test_an_organizations_pages_never_show_the_platforms_keys(cast: Any, row: Credential) -> None:
    client = Client()
    client.force_login(cast.owner)
    assert row.name not in client.get(reverse("integrations")).content.decode()
    assert client.get(reverse("integration", args=[row.public_id])).status_code == 404
    assert client.post(reverse("integration-remove", args=[row.public_id])).status_code == 404
    assert Credential.objects.filter(pk=row.pk).exists()


def test_testing_a_key_from_the_console_tells_what_came_of_it(operator: Client, settings: Any) -> None:
    """An operator may allow an address by hand; nothing listens on this one."""
    settings.RESPAN_UPSTREAM_ALLOW = ["127.0.0.1:9"]
    fields = form(base_url="http://127.0.0.1:9/v1")
    operator.post(f"{LIST}add/", fields)
    row = Credential.objects.get(name=fields["name"])
    answer = operator.post(LIST, {"action": "test_keys", "_selected_action": [row.pk]}, follow=True)
    assert "cannot be reached" in answer.content.decode()
    row.refresh_from_db()
    assert row.test_passed is False
    assert audited(row.public_id) == ["credential.created", "credential.tested"]
    credentials.remove(credential=row, actor=None, address=None)


@pytest.mark.parametrize("path", ["add/", "{}/change/", "{}/delete/", "{}/test/"])
def test_an_old_sign_in_neither_sees_nor_changes_a_key(row: Credential, path: str) -> None:
    client, address = sign_in(make_operator(), seconds_ago=601), LIST + path.format(row.pk)
    before = Credential.objects.count()
    for answer in (client.get(address), client.post(address, {**form(), "post": "yes"})):
        assert answer.headers["Location"].startswith("/accounts/reauthenticate/?next=")
    assert client.post(LIST, {"action": "test_keys", "_selected_action": [row.pk]}).status_code == 302
    assert Credential.objects.count() == before
    assert audited(row.public_id) == ["credential.created"]
    assert confirm(client, address).headers["Location"] == address
    assert client.get(address).status_code == 200


def test_keys_of_organizations_are_listed_without_the_key_and_changed_by_nobody_here(
    operator: Client, organization: Any, cast: Any
) -> None:
    theirs = credentials.store(
        organization=organization, provider="openai", name="Theirs", secret=Secret(KEY), actor=cast.owner, address=None
    )
    listed = "/admin/gateway/organizationcredential/"
    for path in (listed, f"{listed}{theirs.pk}/change/"):
        page = operator.get(path).content.decode()
        assert "Theirs" in page
        assert KEY not in page
        assert theirs.sealed not in page
    for path in (f"{listed}{theirs.pk}/change/", f"{listed}{theirs.pk}/delete/", f"{listed}add/"):
        assert operator.post(path, {"name": "Stolen", "post": "yes"}).status_code == 403
    assert operator.post(f"{LIST}{theirs.pk}/test/").status_code == 404
    assert audited(theirs.public_id) == ["credential.created"]


def test_the_environments_keys_are_named_and_not_shown(operator: Client, monkeypatch: Any) -> None:
    monkeypatch.setenv("RESPAN_PLATFORM_KEY_GROQ", "gsk-canary-of-the-environment")
    page = operator.get(LIST).content.decode()
    assert "From the environment" in page
    assert "gsk-canary" not in page


def test_lists_of_keys_ask_as_much_for_thirty_as_for_one(operator: Client, cast: Any) -> None:
    asked = []
    for count in (1, 30):
        for _ in range(count):
            name = f"Key {uuid.uuid4().hex[:8]}"
            credentials.store(
                organization=cast.organization,
                provider="openai",
                name=name,
                secret=Secret(KEY),
                actor=None,
                address=None,
            )
        with CaptureQueriesContext(connection) as queries:
            assert operator.get("/admin/gateway/organizationcredential/").status_code == 200
        asked.append(len(queries))
    assert asked[1] <= asked[0]
