"""Signing up, in and out, and getting a forgotten password back."""

import re
import threading
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.core import mail
from django.db import IntegrityError, connections, transaction
from django.test import Client

from accounts.models import AuditEvent, Membership, Organization, Role, User
from accounts.signin_forms import PASSWORD_RULES
from accounts.signup import create_organization, organization_created

PASSWORD = "correct horse battery"

pytestmark = pytest.mark.django_db


def fresh_address() -> str:
    return f"ada.lovelace-{uuid.uuid4().hex[:10]}@example.test"


def sign_up(client: Client, **fields: str) -> Any:
    # An address of its own for each sign-up: they are limited for each client.
    peer = f"10.{uuid.uuid4().int % 250}.{uuid.uuid4().int % 250}.{uuid.uuid4().int % 250}"
    return client.post("/accounts/signup/", {"password1": PASSWORD, **fields}, REMOTE_ADDR=peer)


def test_sign_up_makes_user_organization_and_owner(client: Client) -> None:
    email = fresh_address()

    answer = sign_up(client, email=email.upper(), organization="Analytical Engines")

    assert answer.status_code == 302
    assert answer["Location"] == "/platform/"
    user = User.objects.get(email=email)
    membership = Membership.objects.get(user=user)
    assert membership.role == Role.OWNER
    assert membership.organization.name == "Analytical Engines"
    assert client.get("/platform/api/api-keys/").status_code == 200
    assert AuditEvent.objects.filter(organization=membership.organization, action="organization.created").exists()


def test_organization_without_a_name_is_named_after_the_user(client: Client) -> None:
    email = fresh_address()

    sign_up(client, email=email)

    organization = Organization.objects.get(members__email=email)
    assert organization.name.startswith("Ada Lovelace-")
    assert organization.name.endswith("'s organization")


@pytest.mark.parametrize(
    "fields",
    [
        {"email": "not an address"},
        {"email": "a@example.test", "password1": "short"},
        {"email": "a@example.test", "password1": "password123"},
        {"email": "a@example.test\x00"},
        {"email": "a@example.test", "organization": "x" * 121},
        {},
    ],
)
def test_bad_sign_up_creates_nothing(client: Client, fields: dict[str, str]) -> None:
    users, organizations = User.objects.count(), Organization.objects.count()

    answer = sign_up(client, **fields)

    assert answer.status_code == 200
    assert "errorlist" in answer.content.decode()
    assert (User.objects.count(), Organization.objects.count()) == (users, organizations)


def test_rules_of_a_password_are_said_before_the_mistake(client: Client, settings: Any) -> None:
    page = client.get("/accounts/signup/").content.decode()

    assert PASSWORD_RULES in page
    least = next(each["OPTIONS"]["min_length"] for each in settings.AUTH_PASSWORD_VALIDATORS if "OPTIONS" in each)
    assert f"At least {least} characters" in PASSWORD_RULES


def test_taken_address_is_refused_in_any_case(client: Client, cast: SimpleNamespace) -> None:
    answer = sign_up(client, email=cast.owner.email.upper())

    assert "already registered" in answer.content.decode()
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create(email=cast.owner.email.upper(), password="!")


@pytest.mark.django_db(transaction=True)
def test_sign_up_sent_four_times_at_once_makes_one_account() -> None:
    email = fresh_address()
    answers: list[int] = []

    def send() -> None:
        try:
            answers.append(sign_up(Client(raise_request_exception=False), email=email).status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert User.objects.filter(email=email).count() == 1
    assert Organization.objects.filter(members__email=email).count() == 1
    assert len(answers) == 4
    assert set(answers) <= {200, 302}


@pytest.mark.django_db(transaction=True)
def test_receiver_that_fails_undoes_the_whole_sign_up(client: Client) -> None:
    email = fresh_address()

    def fail(**_: object) -> None:
        raise IntegrityError("the wallet cannot be made")

    organization_created.connect(fail)
    try:
        sign_up(client, email=email)
    finally:
        organization_created.disconnect(fail)

    assert not User.objects.filter(email=email).exists()
    assert not Organization.objects.filter(members__email=email).exists()


def test_closed_sign_up_says_so_and_creates_nothing(client: Client, settings: Any) -> None:
    settings.RESPAN_SIGNUP_OPEN = False
    email = fresh_address()

    answer = sign_up(client, email=email)

    assert "Sign-up is closed" in answer.content.decode()
    assert not User.objects.filter(email=email).exists()
    assert "/accounts/signup/" not in client.get("/accounts/login/").content.decode()


def test_sign_in_leads_to_where_the_reader_wanted_to_go(client: Client, cast: SimpleNamespace) -> None:
    url = "/accounts/login/?next=/platform/api/api-keys/"
    answer = client.post(
        url, {"login": cast.member.email.title(), "password": PASSWORD, "next": "/platform/api/api-keys/"}
    )

    assert answer["Location"] == "/platform/api/api-keys/"
    assert client.post("/accounts/logout/").status_code == 302
    assert client.get("/platform/api/api-keys/").status_code == 302


def test_sign_in_never_leads_elsewhere(client: Client, cast: SimpleNamespace) -> None:
    answer = client.post(
        "/accounts/login/", {"login": cast.member.email, "password": PASSWORD, "next": "https://evil.test/"}
    )

    assert answer["Location"] == "/platform/"


def test_wrong_password_and_unknown_address_are_answered_alike(client: Client, cast: SimpleNamespace) -> None:
    def refusal(email: str) -> str:
        page = client.post("/accounts/login/", {"login": email, "password": "not this one"}).content.decode()
        return re.sub(r'(value|content)="[^"]*"', "", page)

    assert refusal(cast.owner.email) == refusal(fresh_address())


def test_guessing_a_password_is_stopped(client: Client, cast: SimpleNamespace) -> None:
    pages = [
        client.post(
            "/accounts/login/", {"login": cast.owner.email, "password": f"guess {number}"}, REMOTE_ADDR="10.9.8.7"
        )
        for number in range(6)
    ]

    assert "Too many failed" in pages[-1].content.decode()
    right = client.post("/accounts/login/", {"login": cast.owner.email, "password": PASSWORD}, REMOTE_ADDR="10.9.8.8")
    assert right.status_code == 200  # the account is closed to guesses from everywhere


def test_switched_off_account_cannot_sign_in(client: Client, cast: SimpleNamespace) -> None:
    cast.member.is_active = False
    cast.member.save()

    client.post("/accounts/login/", {"login": cast.member.email, "password": PASSWORD})

    assert client.get("/platform/api/api-keys/").status_code == 302


@pytest.mark.parametrize(
    "path",
    [
        "/accounts/login/",
        "/accounts/signup/",
        "/accounts/password/reset/",
        "/accounts/password/reset/done/",
        "/accounts/password/reset/key/1-nonsense/",
        "/accounts/password/reset/key/done/",
        "/accounts/inactive/",
    ],
)
def test_pages_before_sign_in_have_our_frame_and_nothing_inline(client: Client, path: str) -> None:
    page = client.get(path)

    text = page.content.decode()
    assert page.status_code == 200
    assert 'href="/static/dist/respan.css?v=' in text
    assert text.count("<h1") == 1
    assert not re.search(r"<script(?![^>]*\bsrc=\"/static/)|<style|\sstyle=|\son\w+=", text)


@pytest.mark.parametrize(
    "path", ["/accounts/logout/", "/accounts/email/", "/accounts/password/change/", "/platform/account/"]
)
def test_pages_of_the_account_have_our_frame_and_nothing_inline(cast: SimpleNamespace, path: str) -> None:
    client = Client()
    client.force_login(cast.member)
    text = client.get(path).content.decode()

    assert 'href="/static/dist/respan.css?v=' in text
    assert text.count("<h1") == 1
    assert not re.search(r"<script(?![^>]*\bsrc=\"/static/)|<style|\sstyle=|\son\w+=", text)


def test_short_addresses_lead_to_the_sign_in_pages(client: Client) -> None:
    assert client.get("/login/?next=/platform/")["Location"] == "/accounts/login/?next=/platform/"
    assert client.get("/signup/")["Location"] == "/accounts/signup/"


def test_installation_without_email_does_not_pretend_to_send_a_link(client: Client, cast: SimpleNamespace) -> None:
    assert "sends no e-mail" in client.get("/accounts/password/reset/").content.decode()

    for email in (cast.owner.email, fresh_address()):
        answer = client.post("/accounts/password/reset/", {"email": email}, REMOTE_ADDR="10.1.1.1")
        assert answer.status_code == 503
        assert "Nothing was sent" in answer.content.decode()


@pytest.fixture
def with_email(settings: Any) -> None:
    settings.EMAIL_IS_CONFIGURED = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"


@pytest.mark.usefixtures("with_email")
def test_with_email_a_code_opens_the_account(client: Client) -> None:
    email = fresh_address()
    sign_up(client, email=email)
    assert client.get("/platform/api/api-keys/").status_code == 302  # not yet
    assert "Verify your e-mail address" in client.get("/accounts/confirm-email/").content.decode()

    code = re.search(r"^([0-9A-Z-]{6,})$", str(mail.outbox[-1].body), re.MULTILINE)
    assert code is not None
    client.post("/accounts/confirm-email/", {"code": code[1]})

    assert client.get("/platform/api/api-keys/").status_code == 200


@pytest.mark.usefixtures("with_email")
def test_with_email_a_link_resets_the_password(client: Client, cast: SimpleNamespace) -> None:
    answer = client.post("/accounts/password/reset/", {"email": cast.member.email}, REMOTE_ADDR="10.1.1.2")
    assert answer["Location"] == "/accounts/password/reset/done/"

    link = re.search(r"/accounts/password/reset/key/\S+", str(mail.outbox[-1].body))
    assert link is not None
    set_password(client, link[0], "another long phrase")

    assert client.login(email=cast.member.email, password="another long phrase")


def set_password(client: Client, link: str, password: str) -> Any:
    page = client.get(link, follow=True)
    return client.post(page.request["PATH_INFO"], {"password1": password, "password2": password})


def test_organization_can_be_created_for_an_owner(cast: SimpleNamespace) -> None:
    heard: list[Organization] = []

    def listen(organization: Organization, **_: object) -> None:
        heard.append(organization)

    organization_created.connect(listen)
    try:
        organization = create_organization(owner=cast.member, name="  Second ", is_demo=True)
    finally:
        organization_created.disconnect(listen)

    assert heard == [organization]
    assert organization.name == "Second"
    assert organization.is_demo
