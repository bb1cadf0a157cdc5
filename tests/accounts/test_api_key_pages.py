"""The pages of API keys: who may do what, one key for one form, nothing of another organization."""

import re
import threading
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey

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
    assert client.post(f"{URL}{api_key.public_id}/revoke/").status_code == 302
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
    answered = client.post(f"{URL}{api_key.public_id}/revoke/").status_code

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
    ],
)
def test_bad_input_is_refused_and_creates_nothing(cast: SimpleNamespace, fields: dict[str, Any]) -> None:
    answer = signed_in(cast.owner).post(URL, form(**fields))

    assert answer.status_code == 400
    assert "errorlist" in answer.content.decode()
    assert not ApiKey.objects.filter(organization=cast.organization).exists()


@pytest.mark.parametrize(("expiry", "days"), [("never", None), ("14", 14), ("30", 30)])
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
        client.post(f"{URL}{api_key.public_id}/revoke/", follow=True).content.decode(),
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
