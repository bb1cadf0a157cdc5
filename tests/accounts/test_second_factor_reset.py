"""An operator takes the second factors of somebody who has lost them: who may, what is ended, who learns of it."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from django.contrib.sessions.models import Session
from django.core import mail
from django.test import Client

from accounts import history
from accounts.models import AuditEvent, Membership, Organization, User
from tests.conftest import PASSWORD, make_organization
from tests.operators import confirm, make_operator, sign_in

REASON = "Called back on the number we have; showed her badge"

pytestmark = pytest.mark.django_db


def with_factors(user: User) -> User:
    """Give a user an authenticator app and recovery codes."""
    TOTP.activate(user, generate_totp_secret())
    RecoveryCodes.activate(user)
    return user


def path(user: User) -> str:
    return f"/admin/accounts/user/{user.pk}/second-factors/"


def state(user: User) -> tuple[int, int, int]:
    """Return what a reset would change: factors, sessions of the user, events about it."""
    keys = [session for session in Session.objects.all() if session.get_decoded().get("_auth_user_id") == str(user.pk)]
    events = AuditEvent.objects.filter(action="user.second_factors_reset", target=user.email).count()
    return Authenticator.objects.filter(user=user).count(), len(keys), events


def signed_in_browser(user: User) -> Client:
    browser = Client()
    browser.force_login(user)
    assert browser.get("/platform/account/").status_code == 200
    return browser


def test_factors_go_sessions_end_and_every_organization_learns_why(cast: SimpleNamespace) -> None:
    second = make_organization("Second", owner=cast.member)
    deleted = make_organization("Deleted", owner=cast.member)
    Organization.objects.filter(pk=deleted.pk).update(deleted_at=deleted.created_at)
    user, operator = with_factors(cast.member), make_operator()
    console, browsers = sign_in(operator), [signed_in_browser(user), signed_in_browser(user)]
    assert "Remove the second factors" in console.get(f"/admin/accounts/user/{user.pk}/change/").content.decode()

    answer = console.post(path(user), {"reason": REASON}, follow=True)

    assert "was signed out of 2 browsers" in answer.content.decode()
    assert state(user)[:2] == (0, 0)
    for browser in browsers:
        assert browser.get("/platform/account/").status_code == 302
    events = AuditEvent.objects.filter(action="user.second_factors_reset", target=user.email)
    assert {event.organization_id for event in events} == {None, cast.organization.pk, second.pk}
    assert {event.actor for event in events} == {operator}
    assert events[0].detail == {
        "name": user.email,
        "reason": REASON,
        "factors": ["recovery_codes", "totp"],
        "browsers": 2,
    }
    row = history.page(organization=second, filters=history.Filters(action="user.second_factors_reset")).rows[0]
    assert (row.what, row.note) == ("Removed somebody's second factors (operator)", REASON)
    # The password alone is enough now.
    assert Client().post("/accounts/login/", {"login": user.email, "password": PASSWORD})["Location"] == "/platform/"


def test_before_the_reset_the_password_alone_is_not_enough(cast: SimpleNamespace) -> None:
    user = with_factors(cast.member)
    answer = Client().post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    assert answer["Location"].startswith("/accounts/2fa/authenticate/")


def test_an_operator_cannot_do_it_to_themself(cast: SimpleNamespace) -> None:
    operator = with_factors(make_operator())
    console = sign_in(operator)
    before = state(operator)

    answers = [console.get(path(operator)), console.post(path(operator), {"reason": REASON})]

    assert [answer.status_code for answer in answers] == [403, 403]
    page = console.get(f"/admin/accounts/user/{operator.pk}/change/").content.decode()
    assert "Remove the second factors" not in page
    assert state(operator) == before


def test_a_reason_is_asked_for(cast: SimpleNamespace) -> None:
    user, console = with_factors(cast.member), sign_in(make_operator())
    before = state(user)

    asked = console.get(path(user))
    for reason in ("", "   ", "x" * 501):
        assert console.post(path(user), {"reason": reason}).status_code == 400

    assert asked.status_code == 200
    assert user.email in asked.content.decode()
    assert state(user) == before


def test_an_old_sign_in_is_asked_again_and_changes_nothing(cast: SimpleNamespace) -> None:
    user, console = with_factors(cast.member), sign_in(make_operator(), seconds_ago=601)
    before = state(user)

    for answer in (console.get(path(user)), console.post(path(user), {"reason": REASON})):
        assert answer["Location"].startswith("/accounts/reauthenticate/?next=")
    assert state(user) == before

    assert confirm(console, path(user))["Location"] == path(user)
    assert console.post(path(user), {"reason": REASON}).status_code == 302
    assert state(user)[0] == 0


@pytest.mark.parametrize("who", ["owner", "admin", "staff"])
def test_nobody_but_an_operator_may(cast: SimpleNamespace, who: str) -> None:
    user, asker = with_factors(cast.member), cast.admin if who == "staff" else getattr(cast, who)
    if who == "staff":
        User.objects.filter(pk=asker.pk).update(is_staff=True)
    client = sign_in(asker)
    before = state(user)

    statuses = {client.get(path(user)).status_code, client.post(path(user), {"reason": REASON}).status_code}

    assert statuses == {403 if who == "staff" else 302}
    assert state(user) == before


def test_somebody_without_factors_has_nothing_to_lose(cast: SimpleNamespace) -> None:
    browser, console = signed_in_browser(cast.member), sign_in(make_operator())
    before = state(cast.member)

    page = console.get(f"/admin/accounts/user/{cast.member.pk}/change/").content.decode()
    answer = console.post(path(cast.member), {"reason": REASON}, follow=True)

    assert "Remove the second factors" not in page
    assert "has no second factor: nothing was changed" in answer.content.decode()
    assert state(cast.member) == before
    assert browser.get("/platform/account/").status_code == 200


def test_nobody_of_that_number_is_not_found(cast: SimpleNamespace) -> None:
    assert sign_in(make_operator()).get("/admin/accounts/user/0/second-factors/").status_code == 404


@pytest.mark.django_db(transaction=True)
def test_the_user_is_told_by_email(cast: SimpleNamespace, settings: Any) -> None:
    settings.EMAIL_IS_CONFIGURED = True
    user, console = with_factors(cast.member), sign_in(make_operator())

    console.post(path(user), {"reason": REASON})

    message = mail.outbox[-1]
    assert (message.to, message.subject) == ([user.email], "Your second factors on Respan were removed")
    assert f"{settings.RESPAN_BASE_URL}/accounts/2fa/" in message.body
    assert REASON not in message.body


@pytest.mark.django_db(transaction=True)
def test_without_an_email_server_nothing_is_sent(cast: SimpleNamespace, settings: Any) -> None:
    settings.EMAIL_IS_CONFIGURED = False
    user, sent = with_factors(cast.member), len(mail.outbox)

    assert sign_in(make_operator()).post(path(user), {"reason": REASON}).status_code == 302

    assert (state(user)[0], len(mail.outbox)) == (0, sent)


@pytest.mark.django_db(transaction=True)
def test_an_email_server_that_is_down_keeps_nothing_back(cast: SimpleNamespace, settings: Any) -> None:
    settings.EMAIL_IS_CONFIGURED = True
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    user = with_factors(cast.member)

    with socket.socket() as nobody:  # bound, not listening
        nobody.bind(("127.0.0.1", 0))
        settings.EMAIL_HOST, settings.EMAIL_PORT = nobody.getsockname()
        assert sign_in(make_operator()).post(path(user), {"reason": REASON}).status_code == 302

    assert state(user)[0] == 0
    assert Membership.objects.filter(user=user).exists()
