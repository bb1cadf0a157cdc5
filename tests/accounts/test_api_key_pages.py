"""The pages of API keys: who may do what, one key for one form, nothing of another organization."""

import html
import re
import subprocess
import sys
import threading
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey
from tests.servers import wait_until

URL = "/platform/api/api-keys/"
SECRET = re.compile(r"rsp_(?:live|test)_[0-9A-Za-z]{38}")

pytestmark = pytest.mark.django_db


def signed_in(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def form(**fields: Any) -> dict[str, Any]:
    return {"name": "Key", "environment": "production", "expiry": "never", "request_id": uuid.uuid4(), **fields}


def issue(organization: Any, created_by: Any = None, name: str = "Key") -> ApiKey:
    issued = keys.issue(organization=organization, name=name, environment="production", created_by=created_by)
    return issued.api_key


@pytest.mark.parametrize("who", ["owner", "admin", "member"])
def test_every_role_may_create_a_key_and_revoke_their_own(cast: SimpleNamespace, who: str, settings: Any) -> None:
    client = signed_in(getattr(cast, who))

    created = client.post(URL, form(name=f"Key of {who}"))

    api_key = ApiKey.objects.get(organization=cast.organization)
    assert created.status_code == 200
    assert created["Cache-Control"] == "private, no-store"
    assert f"{settings.RESPAN_BASE_URL}/api/chat/completions" in created.content.decode()
    assert api_key.created_by == getattr(cast, who)
    secrets = set(SECRET.findall(created.content.decode()))
    assert len(secrets) == 1
    assert keys.verify_sync(secrets.pop()).api_key_id == api_key.pk
    assert client.post(f"{URL}{api_key.public_id}/revoke/", {"name": api_key.name}).status_code == 302
    api_key.refresh_from_db()
    assert api_key.revoked_at is not None


def test_secret_is_shown_once(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)
    secret = SECRET.findall(client.post(URL, form()).content.decode())[0]

    pages = client.get(URL).content.decode() + client.get("/platform/account/").content.decode()

    assert secret not in pages
    assert f"{secret[:13]}…{secret[-4:]}" in pages
    assert secret not in str(dict(client.session))


@pytest.mark.parametrize(("who", "status"), [("owner", 302), ("admin", 302), ("member", 403), ("outsider", 404)])
def test_keys_of_others_are_revoked_by_admins_only(cast: SimpleNamespace, who: str, status: int) -> None:
    api_key = issue(cast.organization, created_by=cast.owner)
    client = signed_in(getattr(cast, who))

    asked = client.get(f"{URL}{api_key.public_id}/revoke/").status_code
    answered = client.post(f"{URL}{api_key.public_id}/revoke/", {"name": "Key"}).status_code

    assert (asked, answered) == (200 if status == 302 else status, status)
    api_key.refresh_from_db()
    assert (api_key.revoked_at is not None) == (status == 302)


def test_anonymous_readers_are_sent_to_sign_in(client: Client, cast: SimpleNamespace) -> None:
    api_key = issue(cast.organization)
    for answer in (client.get(URL), client.post(URL, form()), client.post(f"{URL}{api_key.public_id}/revoke/")):
        assert answer.status_code == 302
        assert answer["Location"].startswith("/accounts/login/?next=")
    api_key.refresh_from_db()
    assert api_key.revoked_at is None
    assert ApiKey.objects.filter(organization=cast.organization).count() == 1


def test_api_key_opens_no_page_and_creates_no_key(client: Client, cast: SimpleNamespace, api_key: str) -> None:
    answer = client.post(URL, form(), HTTP_AUTHORIZATION=f"Bearer {api_key}", HTTP_X_API_KEY=api_key)

    assert answer.status_code == 302
    assert ApiKey.objects.filter(organization=cast.organization).count() == 1


def test_list_shows_only_the_organizations_own_keys(cast: SimpleNamespace) -> None:
    issue(cast.organization, name="Ours")
    issue(cast.other_organization, name="Theirs")

    page = signed_in(cast.member).get(URL).content.decode()

    assert "Ours" in page
    assert "Theirs" not in page


def test_member_is_offered_to_revoke_only_their_own(cast: SimpleNamespace) -> None:
    own, foreign = issue(cast.organization, cast.member), issue(cast.organization, cast.owner)

    page = signed_in(cast.member).get(URL).content.decode()

    assert f"{own.public_id}/revoke/" in page
    assert f"{foreign.public_id}/revoke/" not in page


def test_form_sent_twice_creates_one_key(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)
    sent = form(name="Once")
    client.post(URL, sent)

    again = client.post(URL, sent, follow=True)

    assert ApiKey.objects.filter(organization=cast.organization).count() == 1
    assert "was created already" in again.content.decode()
    assert not SECRET.search(again.content.decode())


@pytest.mark.django_db(transaction=True)
def test_form_sent_eight_times_at_once_creates_one_key(cast: SimpleNamespace) -> None:
    sent = form()
    clients = [signed_in(cast.owner) for _ in range(8)]
    answers: list[int] = []

    def send(client: Client) -> None:
        try:
            answers.append(client.post(URL, sent).status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [302] * 7
    assert ApiKey.objects.filter(organization=cast.organization).count() == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 121},
        {"name": "a\x00b"},
        {"environment": "staging"},
        {"expiry": "soon"},
        {"expiry": "custom"},
        {"expiry": "custom", "expires_on": "2020-01-01"},
        {"expiry": "custom", "expires_on": "9999-12-31"},
        {"expiry": "custom", "expires_on": "tomorrow"},
        {"request_id": ""},
        {"request_id": "1"},
        {"scopes": "everything"},
        {"scopes": "logs,call"},
    ],
)
def test_bad_input_is_refused_and_creates_nothing(cast: SimpleNamespace, fields: dict[str, Any]) -> None:
    answer = signed_in(cast.owner).post(URL, form(**fields))

    assert answer.status_code == 400
    assert "errorlist" in answer.content.decode()
    assert not ApiKey.objects.filter(organization=cast.organization).exists()


@pytest.mark.parametrize(("expiry", "days"), [("never", None), ("14", 14), ("30", 30), ("90", 90)])
def test_presets_of_the_expiry(cast: SimpleNamespace, expiry: str, days: int | None) -> None:
    signed_in(cast.owner).post(URL, form(expiry=expiry))

    expires_at = ApiKey.objects.get(organization=cast.organization).expires_at
    if days is None:
        assert expires_at is None
    else:
        assert expires_at is not None
        assert abs((expires_at - timezone.now()).total_seconds() - days * 86400) < 60


def test_key_with_an_expiry_date_works_until_the_end_of_that_day(cast: SimpleNamespace) -> None:
    today = timezone.now().date()
    signed_in(cast.owner).post(URL, form(expiry="custom", expires_on=today.isoformat()))

    expires_at = ApiKey.objects.get(organization=cast.organization).expires_at
    assert expires_at is not None
    assert 0 < (expires_at - timezone.now()).total_seconds() <= 86400


def test_names_are_escaped(cast: SimpleNamespace) -> None:
    hostile = "<script>alert(1)</script>'\"&"
    cast.organization.name = hostile
    cast.organization.save()
    client = signed_in(cast.owner)
    created = client.post(URL, form(name=hostile)).content.decode()
    api_key = ApiKey.objects.get(organization=cast.organization)

    for page in (
        created,
        client.get(URL).content.decode(),
        client.get(f"{URL}{api_key.public_id}/revoke/").content.decode(),
        client.get("/platform/account/").content.decode(),
        client.get(f"{URL}{api_key.public_id}/rotate/").content.decode(),
        client.post(f"{URL}{api_key.public_id}/revoke/", {"name": "no"}).content.decode(),
        client.post(f"{URL}{api_key.public_id}/revoke/", {"name": hostile}, follow=True).content.decode(),
        client.get("/platform/api/api-keys/new/").content.decode(),
    ):
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("public_id", ["nothing", "key_%00", "..%2f", "key_01' OR 1=1"])
def test_unknown_key_is_a_404(cast: SimpleNamespace, public_id: str) -> None:
    assert signed_in(cast.owner).post(f"{URL}{public_id}/revoke/").status_code == 404


def test_forms_without_a_csrf_token_are_refused(cast: SimpleNamespace) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(cast.owner)

    assert client.post(URL, form()).status_code == 403
    assert not ApiKey.objects.filter(organization=cast.organization).exists()


def test_pages_load_nothing_inline_and_nothing_foreign(cast: SimpleNamespace) -> None:
    page = signed_in(cast.owner).get(URL)

    text = page.content.decode()
    assert "script-src 'self'" in page["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=\"/static/)|<style|\sstyle=|\son\w+=|https?://", text)


# --- Scopes, environment, what the list shows -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "scopes"),
    [("call,logs", ["call", "logs"]), ("call", ["call"]), ("logs", ["logs"]), ("", ["call", "logs"])],
)
def test_key_gets_the_scopes_that_were_chosen(cast: SimpleNamespace, chosen: str, scopes: list[str]) -> None:
    signed_in(cast.owner).post(URL, form(scopes=chosen, zero_retention="on"))

    api_key = ApiKey.objects.get(organization=cast.organization)
    assert api_key.scopes == scopes
    assert api_key.zero_retention


def test_form_that_asks_for_no_scopes_gives_all_of_them(cast: SimpleNamespace) -> None:
    signed_in(cast.owner).post(URL, form())

    api_key = ApiKey.objects.get(organization=cast.organization)
    assert api_key.scopes == ["call", "logs"]
    assert not api_key.zero_retention


def test_revoking_needs_the_keys_name(cast: SimpleNamespace) -> None:
    api_key = issue(cast.organization, cast.owner, name="Checkout  service")
    client = signed_in(cast.owner)

    for typed in ({}, {"name": ""}, {"name": "checkout service"}, {"name": "Checkout"}):
        refused = client.post(f"{URL}{api_key.public_id}/revoke/", typed)
        assert refused.status_code == 400
        assert "errorlist" in refused.content.decode()
    api_key.refresh_from_db()
    assert api_key.revoked_at is None

    assert client.post(f"{URL}{api_key.public_id}/revoke/", {"name": " Checkout service "}).status_code == 302
    api_key.refresh_from_db()
    assert api_key.revoked_at is not None


def test_environment_switch_filters_the_list_and_the_address_overrules_it(cast: SimpleNamespace) -> None:
    keys.issue(organization=cast.organization, name="Live one", environment="production", created_by=None)
    keys.issue(organization=cast.organization, name="Test one", environment="test", created_by=None)
    client = signed_in(cast.member)
    client.post("/platform/environment/", {"environment": "test"})

    switched = client.get(URL).content.decode()
    asked = client.get(f"{URL}?environment=production").content.decode()
    everything = client.get(f"{URL}?environment=").content.decode()

    assert ("Live one" in switched, "Test one" in switched) == (False, True)
    assert ("Live one" in asked, "Test one" in asked) == (True, False)
    assert ("Live one" in everything, "Test one" in everything) == (True, True)


def test_organization_without_keys_is_told_what_to_do(cast: SimpleNamespace) -> None:
    client = signed_in(cast.member)

    assert "No keys yet" in client.get(URL).content.decode()
    assert "No test keys" in client.get(f"{URL}?environment=test").content.decode()
    assert "No revoked or expired keys" in client.get(f"{URL}?state=gone").content.decode()


def test_keys_that_stopped_working_are_folded_away(cast: SimpleNamespace) -> None:
    revoked = issue(cast.organization, name="Revoked one")
    keys.revoke(api_key=revoked, actor=None, now=timezone.now())
    expired = issue(cast.organization, name="Expired one")
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    issue(cast.organization, name="Working one")

    page = signed_in(cast.owner).get(URL).content.decode()

    working, _, gone = page.partition('<details class="section folded">')
    assert "Working one" in working
    assert "Revoked one" not in working
    assert "Expired one" not in working
    assert "Revoked one" in gone
    assert "Expired one" in gone
    assert f"{revoked.public_id}/revoke/" not in page


@pytest.mark.parametrize("gone", [False, True])
def test_list_costs_the_same_queries_for_one_key_and_for_thirty(cast: SimpleNamespace, gone: bool) -> None:
    client = signed_in(cast.owner)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get(URL).status_code == 200
        return len(captured)

    def add() -> None:
        made = issue(cast.organization, cast.owner)
        replacement = issue(cast.organization, cast.admin)
        ApiKey.objects.filter(pk=made.pk).update(replaced_by=replacement, revoked_at=timezone.now() if gone else None)

    add()
    client.get(URL)
    for_one = queries()
    for _ in range(29):
        add()
    assert queries() == for_one
    assert for_one <= 10


def test_hundred_and_fifty_keys_come_in_pages(cast: SimpleNamespace) -> None:
    for number in range(150):
        issue(cast.organization, name=f"Key number {number:03}")
    client = signed_in(cast.owner)

    first, second = client.get(URL).content.decode(), client.get(f"{URL}?page=2").content.decode()

    assert first.count("data-row>") == 100
    assert second.count("data-row>") == 50
    assert client.get(f"{URL}?page=nonsense").status_code == 200


# --- In a dialog ------------------------------------------------------------------------------------------------------


def test_dialog_ends_with_the_secret_and_refreshes_the_list(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)

    asked = client.get(f"{URL}new/", HTTP_HX_REQUEST="true").content.decode()
    refused = client.post(URL, form(name=""), HTTP_HX_REQUEST="true")
    created = client.post(URL, form(), HTTP_HX_REQUEST="true")

    assert "<html" not in asked + refused.content.decode() + created.content.decode()
    assert refused.status_code == 400
    assert created["HX-Trigger"] == "api-keys-changed"
    assert len(set(SECRET.findall(created.content.decode()))) == 1
    assert "<html" not in client.get(URL, HTTP_HX_REQUEST="true").content.decode()


def test_dialog_that_revokes_sends_the_whole_page_back_to_the_list(cast: SimpleNamespace) -> None:
    api_key = issue(cast.organization, cast.owner)
    client = signed_in(cast.owner)

    answer = client.post(f"{URL}{api_key.public_id}/revoke/", {"name": "Key"}, HTTP_HX_REQUEST="true")

    assert (answer.status_code, answer["HX-Redirect"]) == (204, URL)
    assert "is revoked" in client.get(URL).content.decode()


def test_key_that_may_only_read_logs_is_shown_how_to_read_logs(cast: SimpleNamespace, settings: Any) -> None:
    created = signed_in(cast.owner).post(URL, form(scopes="logs")).content.decode()

    assert f"{settings.RESPAN_BASE_URL}/api/request-logs/list/" in created
    assert "chat/completions" not in created


# --- The snippets, run as they stand ----------------------------------------------------------------------------------


def snippet(page: str, language: str) -> str:
    found = re.search(rf'id="snippet-{language}">(.*?)</pre>', page, re.DOTALL)
    assert found
    return html.unescape(found[1])


@pytest.mark.django_db(transaction=True)
def test_snippets_of_a_new_key_make_a_call_and_the_page_finds_its_log(
    cast: SimpleNamespace, server: Any, settings: Any
) -> None:
    settings.RESPAN_BASE_URL = server.base_url
    client = signed_in(cast.owner)
    page = client.post(URL, form()).content.decode()
    api_key = ApiKey.objects.get(organization=cast.organization)
    waiting = f"{URL}{api_key.public_id}/first-call/"
    assert "Waiting for the first call" in client.get(waiting).content.decode()

    with_curl = subprocess.run(["sh", "-c", snippet(page, "curl")], capture_output=True, timeout=30, check=True)
    with_python = subprocess.run(
        [sys.executable, "-c", snippet(page, "python")], capture_output=True, timeout=60, check=True
    )

    assert b'"chat.completion"' in with_curl.stdout
    assert with_python.stdout.strip()
    assert snippet(page, "typescript").count(server.base_url) == 1
    wait_until(lambda: "open its log" in client.get(waiting).content.decode(), what="the first call on the page")
    shown = client.get(waiting).content.decode()
    assert "hx-trigger" not in shown
    link = re.search(r'href="(/platform/logs/log_[^"]+)"', shown)
    assert link
    assert client.get(link[1]).status_code == 200


def test_page_stops_asking_for_the_first_call_after_five_minutes(cast: SimpleNamespace) -> None:
    api_key = issue(cast.organization, cast.owner)
    client = signed_in(cast.member)
    assert "hx-trigger" in client.get(f"{URL}{api_key.public_id}/first-call/").content.decode()
    assert client.get(f"{URL}{api_key.public_id}/first-call/?seen=waiting").status_code == 204

    ApiKey.objects.filter(pk=api_key.pk).update(created_at=timezone.now() - timedelta(minutes=6))

    assert "hx-trigger" not in client.get(f"{URL}{api_key.public_id}/first-call/?seen=waiting").content.decode()


def test_first_call_and_spend_of_another_organization_are_not_told(cast: SimpleNamespace) -> None:
    api_key = issue(cast.organization, cast.owner)
    stranger = signed_in(cast.outsider)

    assert stranger.get(f"{URL}{api_key.public_id}/first-call/").status_code == 404
    assert api_key.public_id not in stranger.get(f"{URL}spend/?key={api_key.public_id}").content.decode()
    assert (
        f"spend-{api_key.public_id}"
        in signed_in(cast.member).get(f"{URL}spend/?key={api_key.public_id}").content.decode()
    )
