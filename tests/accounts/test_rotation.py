"""Rotating API keys: a new key in the old one's place, an overlap during which both work, one rotation for one form."""

import threading
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey, AuditEvent
from tests.accounts.test_api_key_pages import SECRET, URL, issue, signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    keys.forget_everything()


def rotate(api_key: ApiKey, *, hours: int = 24, **fields: Any) -> keys.Issued:
    return keys.rotate(api_key=api_key, overlap=timedelta(hours=hours), actor=None, now=timezone.now(), **fields)


def form(overlap: str = "24", **fields: Any) -> dict[str, Any]:
    return {"overlap": overlap, "request_id": uuid.uuid4(), **fields}


def test_new_key_has_the_settings_of_the_old_one(organization: Any) -> None:
    old = keys.issue(
        organization=organization,
        name="App",
        environment="test",
        created_by=None,
        scopes=["call"],
        zero_retention=True,
        expires_at=timezone.now() + timedelta(days=30),
    ).api_key

    new = rotate(old).api_key

    assert (new.name, new.environment, new.scopes, new.zero_retention) == ("App", "test", ["call"], True)
    assert new.digest != old.digest
    assert new.expires_at is not None
    assert abs((new.expires_at - timezone.now()) - timedelta(days=30)) < timedelta(minutes=1)
    old.refresh_from_db()
    assert old.replaced_by == new


def test_both_keys_work_during_the_overlap(organization: Any) -> None:
    old = keys.issue(organization=organization, name="App", environment="production", created_by=None)

    new = rotate(old.api_key)

    assert keys.verify_sync(old.secret).api_key_id == old.api_key.pk
    assert keys.verify_sync(new.secret).api_key_id == new.api_key.pk
    old.api_key.refresh_from_db()
    assert old.api_key.expires_at is not None
    assert abs(old.api_key.expires_at - timezone.now() - timedelta(hours=24)) < timedelta(minutes=1)


@pytest.mark.django_db(transaction=True)
def test_without_overlap_the_old_key_is_refused_at_once(organization: Any) -> None:
    old = keys.issue(organization=organization, name="App", environment="production", created_by=None)
    keys.verify_sync(old.secret)

    rotate(old.api_key, hours=0)

    with pytest.raises(keys.InvalidKey, match="expired"):
        keys.verify_sync(old.secret)


def test_overlap_never_lengthens_a_keys_life(organization: Any) -> None:
    soon = timezone.now() + timedelta(hours=2)
    old = keys.issue(organization=organization, name="A", environment="test", created_by=None, expires_at=soon).api_key

    rotate(old, hours=168)

    old.refresh_from_db()
    assert old.expires_at == soon


def test_rotated_and_revoked_keys_are_not_rotated_again(organization: Any) -> None:
    rotated, revoked = issue(organization), issue(organization)
    new = rotate(rotated).api_key
    keys.revoke(api_key=revoked, actor=None, now=timezone.now())
    before = ApiKey.objects.filter(organization=organization).count()

    with pytest.raises(keys.AlreadyIssued) as repeated:
        rotate(rotated)
    with pytest.raises(keys.AlreadyRevoked):
        rotate(revoked)

    assert repeated.value.api_key == new
    assert ApiKey.objects.filter(organization=organization).count() == before


def test_rotation_is_audited_without_a_secret(cast: SimpleNamespace) -> None:
    old = issue(cast.organization, cast.owner)
    page = signed_in(cast.owner).post(f"{URL}{old.public_id}/rotate/", form()).content.decode()

    event = AuditEvent.objects.get(organization=cast.organization, action="api_key.rotated")
    old.refresh_from_db()
    assert old.replaced_by is not None
    assert (event.actor, event.target, event.detail["replaced_by"]) == (
        cast.owner,
        old.public_id,
        old.replaced_by.public_id,
    )
    assert SECRET.findall(page)[0] not in str(list(AuditEvent.objects.values_list("detail", flat=True)))


@pytest.mark.parametrize("overlap", ["0", "24", "168"])
def test_page_shows_the_new_key_once_and_the_list_what_replaced_the_old(cast: SimpleNamespace, overlap: str) -> None:
    old = issue(cast.organization, cast.owner, name="App")
    client = signed_in(cast.owner)

    shown = client.post(f"{URL}{old.public_id}/rotate/", form(overlap)).content.decode()

    secrets = set(SECRET.findall(shown))
    assert len(secrets) == 1
    secret = secrets.pop()
    listed = client.get(URL).content.decode()
    assert f'replaced by <span class="mono">{secret[:13]}…{secret[-4:]}' in listed
    assert secret not in listed
    assert f"{old.public_id}/rotate/" not in listed


@pytest.mark.parametrize(("who", "status"), [("owner", 200), ("admin", 200), ("member", 403), ("outsider", 404)])
def test_keys_of_others_are_rotated_by_admins_only(cast: SimpleNamespace, who: str, status: int) -> None:
    old = issue(cast.organization, cast.owner)
    client = signed_in(getattr(cast, who))

    assert client.get(f"{URL}{old.public_id}/rotate/").status_code == status
    assert client.post(f"{URL}{old.public_id}/rotate/", form()).status_code == status
    assert ApiKey.objects.filter(organization=cast.organization).count() == (2 if status == 200 else 1)


@pytest.mark.parametrize("fields", [{"overlap": "1"}, {"overlap": ""}, {"request_id": ""}, {"overlap": "-24"}])
def test_bad_input_rotates_nothing(cast: SimpleNamespace, fields: dict[str, str]) -> None:
    old = issue(cast.organization, cast.owner)

    assert signed_in(cast.owner).post(f"{URL}{old.public_id}/rotate/", form(**fields)).status_code == 400

    assert ApiKey.objects.filter(organization=cast.organization).count() == 1


@pytest.mark.django_db(transaction=True)
def test_form_sent_eight_times_at_once_rotates_once(cast: SimpleNamespace) -> None:
    old, sent = issue(cast.organization, cast.owner), form()
    answers: list[int] = []

    def send(client: Client) -> None:
        try:
            answers.append(client.post(f"{URL}{old.public_id}/rotate/", sent).status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send, args=(signed_in(cast.owner),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [302] * 7
    assert ApiKey.objects.filter(organization=cast.organization).count() == 2
