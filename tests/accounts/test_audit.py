"""The audit log: append-only, complete, and true about addresses."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import Client, RequestFactory

from accounts import audit
from accounts.models import AuditEvent

PASSWORD = "correct horse battery"


def actions_about(target: str) -> list[str]:
    return list(AuditEvent.objects.filter(target=target).order_by("id").values_list("action", flat=True))


@pytest.mark.django_db
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts_auditevent SET action = 'nothing.happened' WHERE id = %(id)s",
        "DELETE FROM accounts_auditevent WHERE id = %(id)s",
        "TRUNCATE accounts_auditevent",
        "TRUNCATE accounts_auditevent RESTART IDENTITY CASCADE",
    ],
)
def test_database_refuses_to_change_the_log(organization: Any, statement: str) -> None:
    event = audit.record(organization=organization, actor=None, action="api_key.created", target="key_1")

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, {"id": event.pk})

    assert AuditEvent.objects.get(pk=event.pk).action == "api_key.created"


@pytest.mark.django_db
def test_events_outlive_the_user_who_caused_them(organization: Any, cast: SimpleNamespace) -> None:
    event = audit.record(organization=organization, actor=cast.member, action="api_key.created")
    member_id = cast.member.pk

    cast.member.delete()

    kept = AuditEvent.objects.select_related("actor").get(pk=event.pk)
    assert kept.actor_id == member_id
    assert kept.actor is None


@pytest.mark.parametrize("action", ["", "created", "Api Key", "api_key.created.twice"])
def test_action_reads_noun_and_verb(action: str) -> None:
    with pytest.raises(ValueError, match=r"noun\.verb"):
        audit.record(organization=None, actor=None, action=action)


def test_documented_actions_read_noun_and_verb() -> None:
    assert all(audit._ACTION.fullmatch(action) for action in audit.ACTIONS)


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "address"),
    [
        ([], "192.0.2.7", "203.0.113.9", "192.0.2.7"),  # nobody is trusted
        (["10.0.0.0/8"], "192.0.2.7", "203.0.113.9", "192.0.2.7"),  # the peer is no proxy of ours
        (["10.0.0.0/8"], "10.0.0.1", "203.0.113.9", "203.0.113.9"),
        (["10.0.0.0/8"], "10.0.0.1", "1.2.3.4, 203.0.113.9", "203.0.113.9"),  # the first is the client's invention
        (["10.0.0.0/8"], "10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),  # two proxies
        (["10.0.0.0/8"], "10.0.0.1", "", "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "203.0.113.9, junk", "10.0.0.1"),
        (["::1"], "::1", "2001:db8::1", "2001:db8::1"),
        (["127.0.0.1"], "::ffff:127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ([], "", "203.0.113.9", None),
        ([], "fe80::1%eth0", "", "fe80::1"),
    ],
)
def test_client_address_believes_only_trusted_proxies(
    settings: Any, proxies: list[str], peer: str, forwarded: str, address: str | None
) -> None:
    settings.RESPAN_TRUSTED_PROXIES = proxies
    request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=forwarded)

    assert audit.client_address(request) == address


@pytest.mark.django_db
def test_sign_in_sign_out_and_refused_sign_in_are_recorded(client: Client, cast: SimpleNamespace) -> None:
    email = cast.owner.email
    client.post("/accounts/login/", {"login": email, "password": "wrong password"}, REMOTE_ADDR="192.0.2.1")
    client.post("/accounts/login/", {"login": email, "password": PASSWORD}, REMOTE_ADDR="192.0.2.1")
    client.post("/accounts/logout/", REMOTE_ADDR="192.0.2.1")

    events = AuditEvent.objects.filter(target=email).order_by("id")
    assert [event.action for event in events] == ["user.sign_in_failed", "user.signed_in", "user.signed_out"]
    assert {event.address for event in events} == {"192.0.2.1"}
    assert events[0].actor is None
    assert events[1].organization == cast.organization
    assert "wrong password" not in str([event.detail for event in events])


@pytest.mark.django_db
def test_changed_password_is_recorded(client: Client, cast: SimpleNamespace) -> None:
    client.force_login(cast.member)
    client.post(
        "/accounts/password/change/",
        {"oldpassword": PASSWORD, "password1": "another long phrase", "password2": "another long phrase"},
    )

    assert "user.password_changed" in actions_about(cast.member.email)
    assert client.get("/platform/account/").status_code == 200  # this session stays
