"""The reader's own account: name, second factors, where they are signed in, appearance, and its end."""

import hashlib
import hmac
import re
import struct
import time
import uuid
from base64 import b32decode
from types import SimpleNamespace
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.contrib.sessions.models import Session
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import departure, sessions
from accounts.models import ApiKey, AuditEvent, Membership, Role, User
from accounts.signup import trust_email
from tests.conftest import PASSWORD, make_organization, make_user

pytestmark = pytest.mark.django_db

PAGE = "/platform/account/"
DELETE = "/platform/account/delete/"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Mobile/15E148 Safari/604.1"


def sign_in(user: Any, *, user_agent: str = FIREFOX) -> Client:
    address = "10." + ".".join(str(part) for part in uuid.uuid4().bytes[:3])
    client = Client(HTTP_USER_AGENT=user_agent, REMOTE_ADDR=address)
    client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    return client


def text(client: Client, path: str = PAGE) -> str:
    return client.get(path).content.decode()


def actions_of(user: Any) -> list[str]:
    return list(AuditEvent.objects.filter(actor_id=user.pk).order_by("id").values_list("action", flat=True))


# --- Name and appearance ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Grace Hopper", "<script>alert(1)</script>", "شهد", "x" * 120, ""])
def test_name_can_be_changed_and_is_text_everywhere(cast: SimpleNamespace, name: str) -> None:
    client = sign_in(cast.member)

    assert client.post(PAGE, {"name": name}).headers["Location"] == PAGE

    cast.member.refresh_from_db()
    assert cast.member.name == name
    assert "<script>alert" not in text(client)


@pytest.mark.parametrize("name", ["x" * 121, "nul\x00"])
def test_name_that_does_not_fit_is_refused_beside_its_field(cast: SimpleNamespace, name: str) -> None:
    answer = sign_in(cast.member).post(PAGE, {"name": name})

    assert answer.status_code == 400
    assert 'aria-invalid="true"' in answer.content.decode()
    cast.member.refresh_from_db()
    assert cast.member.name == "Member"


@pytest.mark.parametrize(("choice", "kept"), [("dark", "dark"), ("light", "light"), ("", ""), ("neon", "")])
def test_appearance_is_kept_without_scripts(cast: SimpleNamespace, choice: str, kept: str) -> None:
    client = sign_in(cast.member)

    client.post("/platform/account/appearance/", {"theme": choice})

    assert (f'data-theme="{kept}"' in text(client)) is bool(kept)
    assert client.cookies["theme"].value == kept


# --- Where somebody is signed in --------------------------------------------------------------------------------------


def test_page_lists_the_browsers_and_this_one_first(cast: SimpleNamespace) -> None:
    sign_in(cast.member, user_agent=IPHONE)
    here = sign_in(cast.member)

    page = text(here)

    assert page.index("Firefox on Linux") < page.index("Safari on iPhone")
    assert page.count("This one") == 1


def test_one_browser_can_be_signed_out(cast: SimpleNamespace) -> None:
    elsewhere, here = sign_in(cast.member, user_agent=IPHONE), sign_in(cast.member)
    row = UserSession.objects.get(session_key=elsewhere.session.session_key)

    here.post(f"/platform/account/sessions/{row.pk}/end/")

    assert elsewhere.get(PAGE).status_code == 302
    assert here.get(PAGE).status_code == 200
    assert actions_of(cast.member)[-1] == "user.session_ended"


def test_all_other_browsers_can_be_signed_out(cast: SimpleNamespace) -> None:
    others, here = [sign_in(cast.member) for _ in range(3)], sign_in(cast.member)

    here.post("/platform/account/sessions/end-others/")

    assert [other.get(PAGE).status_code for other in others] == [302] * 3
    assert here.get(PAGE).status_code == 200


def test_nobody_signs_somebody_else_out(cast: SimpleNamespace) -> None:
    theirs, mine = sign_in(cast.owner), sign_in(cast.member)
    row = UserSession.objects.get(session_key=theirs.session.session_key)

    assert mine.post(f"/platform/account/sessions/{row.pk}/end/").status_code == 404
    assert theirs.get(PAGE).status_code == 200


def test_page_costs_the_same_for_one_browser_and_for_thirty(cast: SimpleNamespace) -> None:
    client = sign_in(cast.member)
    with CaptureQueriesContext(connection) as few:
        client.get(PAGE)
    for _ in range(29):
        Client(HTTP_USER_AGENT=IPHONE).force_login(cast.member)
    with CaptureQueriesContext(connection) as many:
        page = text(client)

    assert page.count("Safari on iPhone, ") + page.count(">Sign out<span") >= 29
    assert len(many) == len(few)


def test_last_seen_is_written_once_in_a_while_not_with_every_page(cast: SimpleNamespace) -> None:
    client = sign_in(cast.member)
    row = UserSession.objects.get(session_key=client.session.session_key)
    with CaptureQueriesContext(connection) as queries:
        client.get("/platform/api/api-keys/")
    assert [each["sql"] for each in queries if "usersession" in each["sql"]] == []

    session = client.session
    session[sessions.SEEN_KEY] -= sessions.SEEN_EVERY_S + 1
    session.save()
    client.get("/platform/api/api-keys/", REMOTE_ADDR="192.0.2.44")

    later = UserSession.objects.get(pk=row.pk)
    assert later.last_seen_at > row.last_seen_at
    assert str(later.ip) == "192.0.2.44"


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (FIREFOX, "Firefox on Linux"),
        (IPHONE, "Safari on iPhone"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (Linux; Android 15) Chrome/140.0 Mobile Safari/537.36", "Chrome on Android"),
        ("curl/8.5.0", "curl"),
        ("<script>alert(1)</script>", "Unknown browser"),
        ("", "Unknown browser"),
    ],
)
def test_browser_is_named_in_words(user_agent: str, words: str) -> None:
    assert sessions.browser_of(user_agent) == words


# --- E-mail address ---------------------------------------------------------------------------------------------------


@pytest.fixture
def with_email(settings: Any) -> None:
    settings.EMAIL_IS_CONFIGURED = settings.ACCOUNT_CHANGE_EMAIL = settings.ACCOUNT_EMAIL_NOTIFICATIONS = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
    settings.ACCOUNT_MAX_EMAIL_ADDRESSES = 2
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"


@pytest.mark.usefixtures("with_email")
def test_address_changes_when_its_code_is_entered(cast: SimpleNamespace, settings: Any) -> None:
    trust_email(cast.member)
    client, before = sign_in(cast.member), cast.member.email
    new = f"new-{uuid.uuid4().hex[:8]}@example.test"
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})

    client.post("/accounts/email/", {"action_add": "", "email": new})

    cast.member.refresh_from_db()
    assert cast.member.email == before  # not before the code
    code = re.search(r"^([0-9A-Z-]{6,})$", str(mail.outbox[-1].body), re.MULTILINE)
    assert code is not None
    client.post("/accounts/confirm-email/", {"code": code[1]})
    cast.member.refresh_from_db()
    assert cast.member.email == new
    assert "user.email_changed" in actions_of(cast.member)
    assert before in {to for message in mail.outbox for to in message.to}  # who had it is told


@pytest.mark.usefixtures("with_email")
def test_address_is_not_changed_without_the_password(cast: SimpleNamespace) -> None:
    trust_email(cast.member)
    client = sign_in(cast.member)

    answer = client.post("/accounts/email/", {"action_add": "", "email": "stolen@example.test"})

    assert answer.headers["Location"].startswith("/accounts/reauthenticate/")
    assert mail.outbox == []


def test_without_email_the_address_cannot_change(cast: SimpleNamespace) -> None:
    client = sign_in(cast.member)
    assert "sends no e-mail" in text(client, "/accounts/email/")

    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    client.post("/accounts/email/", {"action_add": "", "email": "other@example.test"})

    assert cast.member.emailaddress_set.count() == 1


# --- Second factors ---------------------------------------------------------------------------------------------------


def code_of(secret: str, *, at: float | None = None) -> str:
    """Return what an authenticator app shows (RFC 6238)."""
    counter = struct.pack(">Q", int(at or time.time()) // 30)
    digest = hmac.new(b32decode(secret), counter, hashlib.sha1).digest()
    start = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[start : start + 4])[0] & 0x7FFFFFFF) % 10**6:06}"


def set_up_app(client: Client) -> str:
    """Set an authenticator app up the way a reader does; return its secret."""
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    page = text(client, "/accounts/2fa/totp/activate/")
    secret = re.search(r'id="secret" readonly value="([A-Z2-7]+)"', page)
    assert secret is not None
    assert 'src="data:image/svg+xml;base64,' in page
    answer = client.post("/accounts/2fa/totp/activate/", {"code": code_of(secret[1])})
    assert answer.headers["Location"] == "/accounts/2fa/recovery-codes/"
    return secret[1]


@pytest.mark.django_db(transaction=True)  # it is recorded when the change is committed
def test_second_factor_is_asked_for_and_opens(cast: SimpleNamespace) -> None:
    secret = set_up_app(sign_in(cast.member))
    client = sign_in(cast.member)
    assert client.get(PAGE).status_code == 302  # the password alone opens nothing

    wrong = client.post("/accounts/2fa/authenticate/", {"code": "000000"}).content.decode()
    assert "wrong or was used already" in wrong
    assert client.get(PAGE).status_code == 302
    client.post("/accounts/2fa/authenticate/", {"code": code_of(secret)})

    assert client.get(PAGE).status_code == 200
    assert {"user.second_factor_added", "user.second_factor_failed"} <= set(actions_of(cast.member))


def test_a_code_works_once(cast: SimpleNamespace) -> None:
    secret = set_up_app(sign_in(cast.member))
    one, other, code = sign_in(cast.member), sign_in(cast.member), code_of(secret)

    one.post("/accounts/2fa/authenticate/", {"code": code})
    other.post("/accounts/2fa/authenticate/", {"code": code})

    assert (one.get(PAGE).status_code, other.get(PAGE).status_code) == (200, 302)


def test_recovery_code_stands_in_for_the_app_once(cast: SimpleNamespace) -> None:
    here = sign_in(cast.member)
    set_up_app(here)
    page = text(here, "/accounts/2fa/recovery-codes/")
    codes = re.findall(r"\b\d{8}\b", page)
    assert len(codes) == 10
    one, other = sign_in(cast.member), sign_in(cast.member)

    one.post("/accounts/2fa/authenticate/", {"code": codes[0]})
    other.post("/accounts/2fa/authenticate/", {"code": codes[0]})

    assert (one.get(PAGE).status_code, other.get(PAGE).status_code) == (200, 302)
    assert "9 recovery codes left" in text(one)


def test_codes_are_guessed_no_faster_than_passwords(cast: SimpleNamespace) -> None:
    secret = set_up_app(sign_in(cast.member))
    client = sign_in(cast.member)

    pages = [client.post("/accounts/2fa/authenticate/", {"code": f"00000{n}"}).content.decode() for n in range(6)]

    assert "Too many failed attempts" in pages[-1]
    client.post("/accounts/2fa/authenticate/", {"code": code_of(secret)})
    assert client.get(PAGE).status_code == 302


@pytest.mark.parametrize("path", ["totp/activate/", "recovery-codes/generate/", "webauthn/add/"])
def test_second_factors_are_changed_only_with_the_password(cast: SimpleNamespace, path: str) -> None:
    answer = sign_in(cast.member).get(f"/accounts/2fa/{path}")

    assert answer.headers["Location"].startswith("/accounts/reauthenticate/")
    assert not Authenticator.objects.filter(user=cast.member).exists()


def test_app_can_be_turned_off_again(cast: SimpleNamespace) -> None:
    client = sign_in(cast.member)
    set_up_app(client)

    client.post("/accounts/2fa/totp/deactivate/")

    assert not Authenticator.objects.filter(user=cast.member).exists()
    assert sign_in(cast.member).get(PAGE).status_code == 200
    assert "user.second_factor_removed" in actions_of(cast.member)


def test_console_shows_no_secret_of_a_second_factor(client: Client) -> None:
    operator = make_user("operator")
    operator.is_staff = operator.is_superuser = True
    operator.save()
    client.force_login(operator)

    for path in ("/admin/mfa/authenticator/", "/admin/usersessions/usersession/"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        PAGE,
        DELETE,
        "/accounts/2fa/",
        "/accounts/2fa/webauthn/",
        "/accounts/2fa/totp/activate/",
        "/accounts/2fa/webauthn/add/",
        "/accounts/2fa/recovery-codes/generate/",
        "/accounts/password/change/",
        "/accounts/email/",
    ],
)
def test_pages_hold_nothing_that_would_run_inline(cast: SimpleNamespace, path: str) -> None:
    client = sign_in(cast.member)
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    answer = client.get(path)
    page = answer.content.decode()

    assert answer.status_code == 200
    assert page.count("<h1") == 1
    runs = re.findall(
        r"<script(?![^>]*\bsrc=\"/static/)(?![^>]*type=\"application/json\")|<style|\sstyle=|\son\w+=", page
    )
    assert runs == []


# --- The end ----------------------------------------------------------------------------------------------------------


def refused(client: Client, user: Any, *words: str) -> None:
    answer = client.post(DELETE, {"password": PASSWORD})
    page = answer.content.decode()
    assert answer.status_code == 409
    assert all(word in page for word in words), page
    user.refresh_from_db()
    assert user.is_active
    assert client.get(PAGE).status_code == 200
    assert "user.deleted" not in actions_of(user)


def test_last_owner_of_others_has_to_hand_over_first(cast: SimpleNamespace) -> None:
    refused(sign_in(cast.owner), cast.owner, "only owner", cast.organization.name)
    assert Membership.objects.filter(organization=cast.organization, user=cast.owner).exists()


def test_who_is_alone_has_to_delete_the_organization_first(cast: SimpleNamespace) -> None:
    refused(sign_in(cast.outsider), cast.outsider, "alone in", cast.other_organization.name)


def test_last_operator_cannot_go(db: None) -> None:
    User.objects.filter(is_superuser=True).update(is_superuser=False)
    operator = make_user("operator")
    operator.is_superuser = operator.is_staff = True
    operator.save()
    refused(sign_in(operator), operator, "only operator")


def test_wrong_password_deletes_nothing(cast: SimpleNamespace) -> None:
    client = sign_in(cast.member)

    answer = client.post(DELETE, {"password": "not this one"})

    assert answer.status_code == 400
    assert "This is not your password." in answer.content.decode()
    assert client.get(PAGE).status_code == 200
    cast.member.refresh_from_db()
    assert cast.member.is_active


def test_deleted_account_is_out_everywhere_and_forgotten(cast: SimpleNamespace) -> None:
    from accounts import keys

    issued = keys.issue(organization=cast.organization, name="Kept", environment="test", created_by=cast.member)
    elsewhere, here, email = sign_in(cast.member), sign_in(cast.member), cast.member.email
    set_up_app(here)

    answer = here.post(DELETE, {"password": PASSWORD})

    assert answer.headers["Location"] == "/accounts/login/"
    assert (here.get(PAGE).status_code, elsewhere.get(PAGE).status_code) == (302, 302)
    gone = User.objects.get(pk=cast.member.pk)
    assert (gone.is_active, gone.name, gone.has_usable_password()) == (False, "Deleted account", False)
    assert not User.objects.filter(email=email).exists()
    for table in (Membership, Authenticator, UserSession):
        assert not table._default_manager.filter(user=gone).exists()
    assert not gone.emailaddress_set.exists()
    assert Session.objects.filter(pk=elsewhere.session.session_key or "").count() == 0
    assert ApiKey.objects.get(pk=issued.api_key.pk).revoked_at is None  # it is the organization's
    assert {"member.left", "user.deleted"} <= set(actions_of(gone))
    assert sign_in(SimpleNamespace(email=email)).get(PAGE).status_code == 302


def test_the_address_is_free_again(cast: SimpleNamespace, client: Client) -> None:
    email = cast.member.email
    sign_in(cast.member).post(DELETE, {"password": PASSWORD})

    client.post("/accounts/signup/", {"email": email, "password1": "another long phrase"}, REMOTE_ADDR="10.77.0.1")

    assert User.objects.get(email=email).pk != cast.member.pk


def test_an_owner_beside_another_owner_may_go(cast: SimpleNamespace) -> None:
    Membership.objects.filter(organization=cast.organization, user=cast.admin).update(role=Role.OWNER)

    sign_in(cast.owner).post(DELETE, {"password": PASSWORD})

    owners = Membership.objects.filter(organization=cast.organization, role=Role.OWNER)
    assert [each.user_id for each in owners] == [cast.admin.pk]


@pytest.mark.django_db(transaction=True)
def test_two_owners_who_go_at_once_leave_one() -> None:
    import threading

    from django.db import connections

    one, other = make_user("one"), make_user("other")
    organization = make_organization("Both", owner=one)
    Membership.objects.create(organization=organization, user=other, role=Role.OWNER)
    Membership.objects.create(organization=organization, user=make_user("third"), role=Role.MEMBER)
    outcomes: list[str] = []

    def go(user: Any) -> None:
        try:
            departure.delete_account(user, now=timezone.now())
            outcomes.append("gone")
        except departure.StillNeeded:
            outcomes.append("needed")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=go, args=[user]) for user in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["gone", "needed"]
    assert Membership.objects.filter(organization=organization, role=Role.OWNER).count() == 1
