"""Settings: the name, what is kept, and the end of an organization."""

import html
import re
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts import invitations, keys, members, organizations
from accounts.models import ApiKey, AuditEvent, Invitation, Membership, Organization, Role
from accounts.organizations import organization_deleted
from billing import ledger
from gateway import credentials
from gateway.models import Credential
from respan.errors import Error

URL = "/platform/settings/"

pytestmark = pytest.mark.django_db


def signed_in(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def fresh(organization: Any) -> Organization:
    return Organization.objects.get(pk=organization.pk)


def actions(organization: Any) -> list[str]:
    found = AuditEvent.objects.filter(organization=organization, action__startswith="organization.").order_by("pk")
    return [event.action for event in found if event.action != "organization.created"]


def test_member_reads_and_changes_nothing(cast: SimpleNamespace) -> None:
    client = signed_in(cast.member)
    page = client.get(URL).content.decode()

    refused = [
        client.post(URL, {"name": "Mine"}).status_code,
        client.post(f"{URL}retention/", {"retention_days": "1"}).status_code,
        client.post(f"{URL}delete/", {"name": "Acme"}).status_code,
    ]

    assert cast.organization.public_id in page
    assert "<form" not in page.partition("<main")[2].partition("</main>")[0]
    assert refused == [403, 403, 403]
    assert (fresh(cast.organization).name, fresh(cast.organization).retention_days) == ("Acme", None)
    assert actions(cast.organization) == []


def test_admin_renames_the_organization(cast: SimpleNamespace) -> None:
    answer = signed_in(cast.admin).post(URL, {"name": "  <b>Acme</b>\n &  Söhne "}, follow=True)

    assert fresh(cast.organization).name == "<b>Acme</b> & Söhne"
    assert "<b>Acme" not in answer.content.decode()
    [event] = AuditEvent.objects.filter(organization=cast.organization, action="organization.renamed")
    assert (event.actor, event.detail["from"]) == (cast.admin, "Acme")


@pytest.mark.parametrize("name", ["", "   ", "x" * 121, "a\x00b"])
def test_bad_name_is_refused(cast: SimpleNamespace, name: str) -> None:
    answer = signed_in(cast.owner).post(URL, {"name": name})

    assert answer.status_code == 400
    assert "errorlist" in answer.content.decode()
    assert fresh(cast.organization).name == "Acme"


def test_same_name_again_is_no_event(cast: SimpleNamespace) -> None:
    signed_in(cast.owner).post(URL, {"name": "Acme"})

    assert actions(cast.organization) == []


# --- What is kept -----------------------------------------------------------------------------------------------------


def test_shorter_retention_asks_first(cast: SimpleNamespace) -> None:
    client = signed_in(cast.admin)

    asked = client.post(f"{URL}retention/", {"retention_days": "7", "zero_retention": "on"})
    between = fresh(cast.organization).retention_days
    done = client.post(f"{URL}retention/", {"retention_days": "7", "zero_retention": "on", "confirmed": "on"})

    assert "Keep logs for 7 days only?" in asked.content.decode()
    assert between is None
    assert done["Location"] == URL
    kept = fresh(cast.organization)
    assert (kept.retention_days, kept.zero_retention) == (7, True)
    assert actions(cast.organization) == ["organization.retention_changed", "organization.zero_retention_on"]


def test_longer_retention_and_zero_retention_ask_nothing(cast: SimpleNamespace) -> None:
    Organization.objects.filter(pk=cast.organization.pk).update(retention_days=7)

    answer = signed_in(cast.owner).post(f"{URL}retention/", {"retention_days": "", "zero_retention": "on"})

    assert answer.status_code == 302
    kept = fresh(cast.organization)
    assert (kept.retention_days, kept.zero_retention, organizations.kept_days(kept)) == (None, True, 30)


@pytest.mark.parametrize("days", ["0", "-1", "31", "99999999999999999999", "a week", "1.5"])
def test_retention_the_installation_does_not_have_is_refused(cast: SimpleNamespace, days: str) -> None:
    answer = signed_in(cast.owner).post(f"{URL}retention/", {"retention_days": days, "confirmed": "on"})

    assert answer.status_code == 400
    assert "errorlist" in answer.content.decode()
    assert fresh(cast.organization).retention_days is None


def test_domain_holds_the_limit_too(cast: SimpleNamespace) -> None:
    with pytest.raises(Error) as refused:
        organizations.keep(organization=cast.organization, days=31, zero_retention=False, actor=cast.owner)
    assert refused.value.code == "retention_too_long"
    assert fresh(cast.organization).retention_days is None


def test_installation_that_keeps_less_wins(cast: SimpleNamespace, settings: Any) -> None:
    Organization.objects.filter(pk=cast.organization.pk).update(retention_days=20)
    settings.RESPAN_RETENTION_DAYS = 5

    assert organizations.kept_days(fresh(cast.organization)) == 5


# --- The end ----------------------------------------------------------------------------------------------------------


def make_all_of_it(cast: SimpleNamespace) -> str:
    """Give the organization a key, an invitation, a provider key and credits; return the key."""
    secret = keys.issue(
        organization=cast.organization, name="Live", environment="production", created_by=cast.member
    ).secret
    invitations.invite(organization=cast.organization, role=Role.MEMBER, actor=cast.owner, now=timezone.now())
    credentials.store(
        organization=cast.organization,
        provider="openai",
        name="Ours",
        secret="sk-of-acme-0123456789",
        actor=cast.owner,
        address=None,
    )
    ledger.grant(organization=cast.organization, amount_nano=5 * 10**9, reason="welcome", actor=None)
    return secret


def test_page_offers_what_can_be_taken_along_and_each_link_works(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)
    page = client.get(f"{URL}delete/").content.decode()

    links = [html.unescape(link) for link in re.findall(r'href="([^"]*(?:export|csv)[^"]*)"', page)]
    assert len(links) == 4
    for link in links:
        answer = client.get(link)
        assert (answer.status_code, "attachment" in answer["Content-Disposition"]) == (200, True), link
        answer.getvalue()  # a stream is read to its end


def test_owner_deletes_the_organization_by_typing_its_name(cast: SimpleNamespace) -> None:
    secret = make_all_of_it(cast)
    balance = ledger.balance(cast.organization.pk).posted
    client = signed_in(cast.owner)

    wrong = client.post(f"{URL}delete/", {"name": "acme inc"})
    assert (wrong.status_code, fresh(cast.organization).deleted_at) == (400, None)
    right = client.post(f"{URL}delete/", {"name": "Acme"})

    assert right["Location"] == "/platform/account/"
    assert fresh(cast.organization).deleted_at is not None
    assert not Membership.objects.filter(organization=cast.organization).exists()
    assert not ApiKey.objects.filter(organization=cast.organization, revoked_at=None).exists()
    assert not Invitation.objects.filter(organization=cast.organization, revoked_at=None).exists()
    assert not Credential.objects.filter(organization=cast.organization).exists()
    assert ledger.balance(cast.organization.pk).posted == balance  # on the books
    assert AuditEvent.objects.filter(organization=cast.organization, action="organization.deleted").exists()
    keys.forget_everything()
    with pytest.raises(keys.InvalidKey):
        keys.verify_sync(secret)
    assert "is deleted" in client.get("/platform/account/").content.decode()
    assert client.get(URL).status_code == 403


@pytest.mark.parametrize("who", ["admin", "member", "outsider"])
def test_nobody_but_an_owner_deletes(cast: SimpleNamespace, who: str) -> None:
    answer = signed_in(getattr(cast, who)).post(f"{URL}delete/", {"name": "Acme"})

    assert answer.status_code == (400 if who == "outsider" else 403)  # the outsider's own has another name
    assert fresh(cast.organization).deleted_at is None
    with pytest.raises(members.RoleTooLow):
        organizations.delete(organization=cast.organization, actor=getattr(cast, who), now=timezone.now())
    assert fresh(cast.organization).deleted_at is None


def test_deleting_twice_is_refused_the_second_time(cast: SimpleNamespace) -> None:
    organizations.delete(organization=cast.organization, actor=cast.owner, now=timezone.now())

    with pytest.raises(members.RoleTooLow):
        organizations.delete(organization=cast.organization, actor=cast.owner, now=timezone.now())
    assert actions(cast.organization) == ["organization.deleted"]


def test_receiver_that_fails_undoes_the_deletion(cast: SimpleNamespace) -> None:
    make_all_of_it(cast)

    def fail(**_: object) -> None:
        raise RuntimeError("its logs cannot be found")

    organization_deleted.connect(fail)
    try:
        with pytest.raises(RuntimeError):
            organizations.delete(organization=cast.organization, actor=cast.owner, now=timezone.now())
    finally:
        organization_deleted.disconnect(fail)

    assert fresh(cast.organization).deleted_at is None
    assert Membership.objects.filter(organization=cast.organization).count() == 3
    assert Credential.objects.filter(organization=cast.organization).count() == 1
    assert ApiKey.objects.filter(organization=cast.organization, revoked_at=None).exists()
    assert connection.is_usable()
