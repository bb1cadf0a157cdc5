"""The operator's console: who enters, what is shown, what is recorded."""

import re
import uuid
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import invitations, keys
from accounts.models import ApiKey, AuditEvent, Membership, Role, User
from tests.conftest import make_organization, make_user
from tests.operators import confirm, make_operator, sign_in

PASSWORD = "correct horse battery"

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> User:
    return User.objects.create_superuser(f"operator-{uuid.uuid4().hex[:10]}@example.test", PASSWORD)


@pytest.fixture
def console(operator: User) -> Client:
    return sign_in(operator)


def test_operator_enters_with_email_and_password(client: Client, operator: User) -> None:
    assert client.get("/admin/")["Location"].startswith("/admin/login/")
    login = client.get("/admin/login/?next=/admin/")
    assert login["Location"].startswith("/accounts/login/?next=")

    answer = client.post("/accounts/login/", {"login": operator.email, "password": PASSWORD, "next": "/admin/"})

    assert answer["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_operator_enters_although_email_does_not_work(client: Client, operator: User, settings: Any) -> None:
    settings.EMAIL_IS_CONFIGURED = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True

    client.post("/accounts/login/", {"login": operator.email, "password": PASSWORD, "next": "/admin/"})

    assert client.get("/admin/").status_code == 200


@pytest.mark.parametrize("who", ["owner", "member"])
def test_customers_do_not_enter(cast: SimpleNamespace, who: str) -> None:
    client = Client()
    client.force_login(getattr(cast, who))

    assert client.get("/admin/").status_code == 302
    assert client.get("/admin/", follow=True).status_code == 403


def test_staff_who_are_no_operators_see_nothing_of_accounts(cast: SimpleNamespace) -> None:
    cast.member.is_staff = True
    cast.member.save()
    client = Client()
    client.force_login(cast.member)

    for table in ("user", "organization", "apikey", "auditevent"):
        assert client.get(f"/admin/accounts/{table}/").status_code == 403


@pytest.mark.parametrize("table", ["user", "organization", "apikey", "auditevent"])
def test_every_table_lists_and_searches(console: Client, cast: SimpleNamespace, api_key: str, table: str) -> None:
    assert console.get(f"/admin/accounts/{table}/").status_code == 200
    assert console.get(f"/admin/accounts/{table}/?q=acme").status_code == 200


def test_key_is_shown_without_its_digest_and_cannot_be_changed(
    console: Client, cast: SimpleNamespace, api_key: str
) -> None:
    stored = ApiKey.objects.get(organization=cast.organization)
    url = f"/admin/accounts/apikey/{stored.pk}/change/"

    page = console.get(url).content.decode()

    assert stored.public_id in page
    assert bytes(stored.digest).hex() not in page
    assert api_key not in page
    assert console.post(url, {"name": "Changed"}).status_code == 403
    assert console.get("/admin/accounts/apikey/add/").status_code == 403
    assert console.post(f"/admin/accounts/apikey/{stored.pk}/delete/", {"post": "yes"}).status_code == 403
    assert ApiKey.objects.get(pk=stored.pk).name == stored.name


@pytest.mark.django_db(transaction=True)
def test_operator_revokes_keys(console: Client, operator: User, cast: SimpleNamespace, api_key: str) -> None:
    keys.verify_sync(api_key)
    stored = ApiKey.objects.get(organization=cast.organization)

    console.post("/admin/accounts/apikey/", {"action": "revoke", "_selected_action": [stored.pk]})

    with pytest.raises(keys.InvalidKey):
        keys.verify_sync(api_key)
    event = AuditEvent.objects.get(action="api_key.revoked", target=stored.public_id)
    assert event.actor == operator


def test_operator_makes_a_reset_link_that_works_once(
    console: Client, operator: User, cast: SimpleNamespace, client: Client, settings: Any
) -> None:
    answer = console.post("/admin/accounts/user/", {"action": "make_reset_links", "_selected_action": [cast.member.pk]})

    link = re.search(rf"{settings.RESPAN_BASE_URL}(/accounts/password/reset/key/[^<\s]+)", answer.content.decode())
    assert link is not None
    assert "no-store" in answer["Cache-Control"]
    event = AuditEvent.objects.get(action="user.reset_link_made", target=cast.member.email)
    assert event.actor == operator
    assert link[1] not in str(event.detail)

    page = client.get(link[1], follow=True)
    client.post(page.request["PATH_INFO"], {"password1": "another long phrase", "password2": "another long phrase"})
    assert client.login(email=cast.member.email, password="another long phrase")
    assert AuditEvent.objects.filter(action="user.password_reset", target=cast.member.email).exists()
    again = Client().get(link[1], follow=True)
    assert "This link does not work" in again.content.decode()


def test_operator_adds_a_user_and_it_is_recorded(console: Client, operator: User) -> None:
    email = f"new-{uuid.uuid4().hex[:10]}@example.test"

    answer = console.post(
        "/admin/accounts/user/add/",
        {"email": email, "name": "New", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD},
    )

    assert answer.status_code == 302
    assert Client().login(email=email, password=PASSWORD)
    assert AuditEvent.objects.get(action="admin.added", target=f"user {email}").actor == operator


def test_change_in_the_console_is_recorded(console: Client, operator: User, cast: SimpleNamespace) -> None:
    console.post(
        f"/admin/accounts/user/{cast.member.pk}/change/",
        {"email": cast.member.email, "name": "Renamed", "is_active": "on"},
    )

    cast.member.refresh_from_db()
    assert cast.member.name == "Renamed"
    event = AuditEvent.objects.get(action="admin.changed", target=f"user {cast.member.email}")
    assert event.actor == operator
    assert "Name" in str(event.detail)


def test_operator_changes_an_address_and_the_user_signs_in_with_it(console: Client, cast: SimpleNamespace) -> None:
    old, new = cast.member.email, f"New-{uuid.uuid4().hex[:10]}@Example.test"
    Client().post("/accounts/login/", {"login": old, "password": PASSWORD})  # the old address is a primary one now

    fields = {"email": new, "name": "", "is_active": "on"}
    answer = console.post(f"/admin/accounts/user/{cast.member.pk}/change/", fields)

    assert answer.status_code == 302
    cast.member.refresh_from_db()
    assert cast.member.email == new.lower()
    signed_in = Client().post("/accounts/login/", {"login": new, "password": PASSWORD})
    assert signed_in.status_code == 302


def test_address_of_somebody_else_is_refused_in_any_case(console: Client, cast: SimpleNamespace) -> None:
    fields = {"email": cast.owner.email.upper(), "name": "", "is_active": "on"}
    answer = console.post(f"/admin/accounts/user/{cast.member.pk}/change/", fields)

    assert answer.status_code == 200
    assert "already exists" in answer.content.decode() or "exists already" in answer.content.decode()


def test_users_and_organizations_are_never_deleted(console: Client, cast: SimpleNamespace) -> None:
    for url in (
        f"/admin/accounts/user/{cast.member.pk}/delete/",
        f"/admin/accounts/organization/{cast.organization.pk}/delete/",
    ):
        assert console.post(url, {"post": "yes"}).status_code == 403
    assert User.objects.filter(pk=cast.member.pk).exists()


def test_operator_changes_memberships(console: Client, cast: SimpleNamespace) -> None:
    organization = cast.organization
    memberships = list(Membership.objects.filter(organization=organization).order_by("pk"))
    fields: dict[str, Any] = {
        "name": "Renamed",
        "memberships-TOTAL_FORMS": len(memberships),
        "memberships-INITIAL_FORMS": len(memberships),
    }
    for number, membership in enumerate(memberships):
        fields |= {
            f"memberships-{number}-id": membership.pk,
            f"memberships-{number}-organization": organization.pk,
            f"memberships-{number}-user": membership.user_id,
            f"memberships-{number}-role": Role.ADMIN if membership.user == cast.member else membership.role,
        }

    assert console.post(f"/admin/accounts/organization/{organization.pk}/change/", fields).status_code == 302

    assert Membership.objects.get(user=cast.member).role == Role.ADMIN
    assert AuditEvent.objects.filter(organization=organization, action="admin.changed").exists()


def test_events_are_read_only(console: Client, cast: SimpleNamespace) -> None:
    event = AuditEvent.objects.filter(organization=cast.organization).latest("id")

    assert console.get(f"/admin/accounts/auditevent/{event.pk}/change/").status_code == 200
    assert console.post(f"/admin/accounts/auditevent/{event.pk}/change/", {"action": "x"}).status_code == 403
    assert console.post(f"/admin/accounts/auditevent/{event.pk}/delete/", {"post": "yes"}).status_code == 403
    assert event.created_at <= timezone.now()


# --- A fresh sign-in --------------------------------------------------------------------------------------------------


def test_an_old_sign_in_is_asked_again_before_a_key_is_revoked_and_comes_back(
    cast: SimpleNamespace, api_key: str
) -> None:
    operator = make_operator()
    stored, client = ApiKey.objects.get(organization=cast.organization), sign_in(operator, seconds_ago=601)
    path = f"/admin/accounts/apikey/{stored.pk}/revoke/"
    question = f"/accounts/reauthenticate/?next={quote(path, safe='')}"

    for answer in (client.get(path), client.post(path)):
        assert (answer.status_code, answer["Location"]) == (302, question)
    listed = client.post("/admin/accounts/apikey/", {"action": "revoke", "_selected_action": [stored.pk]})
    assert listed["Location"].startswith("/accounts/reauthenticate/?next=")
    stored.refresh_from_db()
    assert stored.revoked_at is None
    assert not AuditEvent.objects.filter(action="api_key.revoked", target=stored.public_id).exists()

    assert confirm(client, path)["Location"] == path
    assert "Revoke this key" in client.get(path).content.decode()
    assert client.post(path).status_code == 302
    stored.refresh_from_db()
    assert stored.revoked_at is not None
    assert AuditEvent.objects.get(action="api_key.revoked", target=stored.public_id).actor == operator


def test_what_an_old_sign_in_sends_is_dropped_and_not_kept_in_the_session(cast: SimpleNamespace) -> None:
    client = sign_in(make_operator(), seconds_ago=601)

    client.post("/admin/gateway/credential/add/", {"provider": "openai", "name": "x", "secret": "sk-canary-in-a-form"})

    assert "sk-canary-in-a-form" not in str(dict(client.session))


@pytest.mark.parametrize("seconds_ago", [601, -60])
def test_reset_links_are_not_made_by_an_old_sign_in(cast: SimpleNamespace, seconds_ago: int) -> None:
    client = sign_in(make_operator(), seconds_ago=seconds_ago)
    chosen = {"action": "make_reset_links", "_selected_action": [cast.member.pk]}

    assert client.post("/admin/accounts/user/", chosen)["Location"].startswith("/accounts/reauthenticate/")

    assert not AuditEvent.objects.filter(action="user.reset_link_made", target=cast.member.email).exists()


def test_an_old_sign_in_changes_no_user_and_no_password(cast: SimpleNamespace) -> None:
    client, before = sign_in(make_operator(), seconds_ago=601), cast.member.password
    page = f"/admin/accounts/user/{cast.member.pk}/"

    assert client.get(f"{page}change/").status_code == 200
    for path, fields in (
        (f"{page}change/", {"email": cast.member.email, "is_active": "on", "is_superuser": "on"}),
        (f"{page}password/", {"password1": "another long phrase", "password2": "another long phrase"}),
        ("/admin/accounts/user/add/", {"email": "new@example.test", "password1": PASSWORD, "password2": PASSWORD}),
    ):
        assert client.post(path, fields)["Location"].startswith("/accounts/reauthenticate/")

    cast.member.refresh_from_db()
    assert (cast.member.is_superuser, cast.member.password) == (False, before)
    assert not User.objects.filter(email="new@example.test").exists()


# --- Lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["user", "organization", "invitation", "apikey", "auditevent"])
def test_a_list_asks_as_much_for_thirty_rows_as_for_one(console: Client, table: str) -> None:
    _fill(1)
    with CaptureQueriesContext(connection) as one:
        assert console.get(f"/admin/accounts/{table}/?q=few-1").status_code == 200
    _fill(30)
    with CaptureQueriesContext(connection) as many:
        assert console.get(f"/admin/accounts/{table}/").status_code == 200
    assert len(many) <= len(one)


def _fill(count: int) -> None:
    now = timezone.now()
    for number in range(count):
        owner = make_user("owner")
        made = make_organization(f"Few-{number}", owner=owner)
        keys.issue(organization=made, name=f"few-{number}", environment="test", created_by=owner)
        invitations.invite(organization=made, role=Role.MEMBER, actor=owner, now=now, email=f"x{number}@example.test")


def test_an_invitation_is_shown_without_its_digest(console: Client, cast: SimpleNamespace) -> None:
    made = invitations.invite(
        organization=cast.organization, role=Role.ADMIN, actor=cast.owner, now=timezone.now(), email="x@example.test"
    )
    page = console.get(f"/admin/accounts/invitation/{made.invitation.pk}/change/").content.decode()

    assert "x@example.test" in page
    assert bytes(made.invitation.digest).hex() not in page
    assert (
        console.post(f"/admin/accounts/invitation/{made.invitation.pk}/change/", {"role": "owner"}).status_code == 403
    )


def test_a_name_that_is_markup_stays_text(console: Client) -> None:
    name = '<script>alert(1)</script><img src=x onerror=alert(1) x-data="{a: alert(1)}">'
    organization = make_organization(name)

    for path in ("organization/", f"organization/{organization.pk}/change/", "apikey/", "auditevent/"):
        page = console.get(f"/admin/accounts/{path}").content.decode()
        assert "<script>alert" not in page
        assert "<img src=x" not in page
