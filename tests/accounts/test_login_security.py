"""Getting in and staying in: guessing is slow, nobody learns who exists, sessions end at once, forms are ours."""

import http.cookiejar
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings as configured
from django.contrib.auth.hashers import Argon2PasswordHasher, make_password
from django.contrib.sessions.models import Session
from django.core import mail
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern, URLResolver, get_resolver

from accounts.models import AuditEvent, User
from tests.conftest import ARGON2, PASSWORD, make_user

pytestmark = pytest.mark.django_db

LOGIN = "/accounts/login/"
NEW_PASSWORD = "another long phrase"
INSIDE = "/platform/account/"


def an_address() -> str:
    """Return a client address of its own: guesses are counted for each."""
    return "10." + ".".join(str(part) for part in uuid.uuid4().bytes[:3])


def guess(email: str, *, address: str, password: str = "not this one", **extra: str) -> str:
    answer = Client().post(LOGIN, {"login": email, "password": password}, REMOTE_ADDR=address, **extra)
    return answer.content.decode()


def is_limited(page: str) -> bool:
    return "Too many failed attempts" in page


def signed_in(user: Any) -> Client:
    client = Client()
    answer = client.post(LOGIN, {"login": user.email, "password": PASSWORD}, REMOTE_ADDR=an_address())
    assert answer.status_code == 302
    return client


def is_inside(client: Client) -> bool:
    return client.get(INSIDE).status_code == 200


# --- Guessing ---------------------------------------------------------------------------------------------------------


def test_an_account_takes_five_guesses_wherever_they_come_from(cast: SimpleNamespace) -> None:
    pages = [guess(cast.owner.email, address=an_address()) for _ in range(6)]

    assert [is_limited(page) for page in pages] == [False] * 5 + [True]
    assert is_limited(guess(cast.owner.email.upper(), address=an_address(), password=PASSWORD))
    assert not is_limited(guess(cast.admin.email, address=an_address()))
    failed = AuditEvent.objects.filter(action="user.sign_in_failed", target=cast.owner.email)
    assert failed.count() == 5  # what a limit refuses fills no log


def test_another_name_of_the_host_gives_no_more_guesses(cast: SimpleNamespace) -> None:
    hosts = ["localhost:1", "localhost:2", "127.0.0.1:3", "localhost", "127.0.0.1", "localhost:4"]
    pages = [guess(cast.owner.email, address=an_address(), HTTP_HOST=host) for host in hosts]

    assert is_limited(pages[-1])


def test_an_address_takes_ten_guesses_whomever_they_are_about() -> None:
    address = an_address()
    pages = [guess(f"{uuid.uuid4().hex}@example.test", address=address) for _ in range(11)]

    assert [is_limited(page) for page in pages] == [False] * 10 + [True]


def test_who_knows_the_password_is_not_counted(cast: SimpleNamespace) -> None:
    address = an_address()
    for _ in range(12):
        answer = Client().post(LOGIN, {"login": cast.owner.email, "password": PASSWORD}, REMOTE_ADDR=address)
        assert answer.status_code == 302


def test_passwords_are_not_guessed_in_an_open_session_either(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)
    answers = [client.post("/platform/account/delete/", {"password": f"guess {n}"}) for n in range(6)]
    answers += [client.post("/platform/account/delete/", {"password": PASSWORD})]

    assert cast.organization.name in answers[0].content.decode()  # still needed: nothing is asked
    member = signed_in(cast.member)
    pages = [member.post("/platform/account/delete/", {"password": f"guess {n}"}).content.decode() for n in range(6)]
    assert [is_limited(page) for page in pages] == [False] * 5 + [True]
    member.post("/platform/account/delete/", {"password": PASSWORD})
    cast.member.refresh_from_db()
    assert cast.member.is_active


@pytest.mark.django_db(transaction=True)
def test_web_processes_count_together(running: Any, cast: SimpleNamespace) -> None:
    one, other = running(), running()
    pages = [_guess_at(server, cast.owner.email) for server in (one, other, one, other, one, other, one)]

    assert [is_limited(page) for page in pages] == [False] * 5 + [True] * 2


def _guess_at(server: Any, email: str) -> str:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    page = opener.open(server.base_url + LOGIN).read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token is not None
    form = {"login": email, "password": "not this one", "csrfmiddlewaretoken": token[1]}
    request = urllib.request.Request(server.base_url + LOGIN, urllib.parse.urlencode(form).encode())
    request.add_header("Origin", server.base_url)
    answer: bytes = opener.open(request).read()
    return answer.decode()


def test_only_signing_in_touches_the_shared_counters(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)
    for path in ("/platform/", INSIDE, "/platform/api/api-keys/", "/accounts/2fa/", LOGIN):
        with CaptureQueriesContext(connection) as queries:
            client.get(path)
        assert [each["sql"] for each in queries if "shared_cache" in each["sql"]] == [], path
    with CaptureQueriesContext(connection) as queries:
        guess(cast.owner.email, address=an_address())
    assert any("shared_cache" in each["sql"] for each in queries)


def test_the_counters_are_not_in_this_process(cast: SimpleNamespace) -> None:
    cache.set(f"probe-{cast.owner.pk}", "x", 60)

    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM shared_cache WHERE cache_key LIKE %s", [f"%probe-{cast.owner.pk}"])
        assert cursor.fetchone() == (1,)
        cursor.execute("SELECT relpersistence FROM pg_class WHERE relname = 'shared_cache'")
        assert cursor.fetchone() == ("u",)  # unlogged: counting waits for no disk


def test_sweeping_forgets_what_is_over_and_nothing_else(cast: SimpleNamespace) -> None:
    from allauth.usersessions.models import UserSession
    from django.utils import timezone

    from accounts.tasks import forget_ended_sessions

    living, ended = signed_in(cast.owner), signed_in(cast.owner)
    Session.objects.filter(pk=ended.session.session_key).update(expire_date=timezone.now())
    cache.set(f"over-{cast.owner.pk}", "x", 0.001)
    cache.set(f"running-{cast.owner.pk}", "x", 600)
    time.sleep(1.1)  # the table keeps whole seconds

    forget_ended_sessions()

    assert is_inside(living)
    keys = UserSession.objects.filter(user=cast.owner).values_list("session_key", flat=True)
    assert list(keys) == [living.session.session_key]
    with connection.cursor() as cursor:
        cursor.execute("SELECT cache_key FROM shared_cache WHERE cache_key LIKE %s", [f"%-{cast.owner.pk}"])
        assert [key.rpartition(":")[2] for (key,) in cursor.fetchall()] == [f"running-{cast.owner.pk}"]


# --- Nobody learns who exists -----------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often a password was hashed: the one thing about a sign-in that takes long."""
    done: list[str] = []

    class Counting(Argon2PasswordHasher):
        def encode(self, password: str, salt: str) -> str:
            done.append("encode")
            return super().encode(password, salt)

        def verify(self, password: str, encoded: str) -> bool:
            done.append("verify")
            return super().verify(password, encoded)

    from django.contrib.auth import hashers

    monkeypatch.setattr(hashers, "get_hashers", lambda: [Counting()])
    monkeypatch.setattr(hashers, "get_hashers_by_algorithm", lambda: {"argon2": Counting()})
    return done


def test_an_unknown_address_costs_one_hash_like_a_known_one(cast: SimpleNamespace, hashed: list[str]) -> None:
    guess(cast.owner.email, address=an_address())
    assert len(hashed) == 1
    guess(f"{uuid.uuid4().hex}@example.test", address=an_address())
    assert len(hashed) == 2


def test_known_and_unknown_addresses_take_comparable_time(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shipped in ARGON2.items():
        monkeypatch.setattr(Argon2PasswordHasher, name, shipped)
    digest = make_password(PASSWORD)

    def took(email: str) -> float:
        began = time.perf_counter()
        guess(email, address=an_address())
        return time.perf_counter() - began

    known = [make_user("timed").email for _ in range(7)]
    User.objects.filter(email__in=known).update(password=digest)
    unknown = [f"{uuid.uuid4().hex}@example.test" for _ in range(7)]
    took(known[0])
    pairs = [(took(one), took(other)) for one, other in zip(known, unknown, strict=True)]
    ratio = statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)
    assert 0.5 < ratio < 2  # without the hash it would be ten or more


def test_a_switched_off_account_is_told_apart_only_by_who_knows_its_password(cast: SimpleNamespace) -> None:
    cast.member.is_active = False
    cast.member.save()

    def refusal(email: str) -> str:
        return re.sub(r'(value|content)="[^"]*"', "", guess(email, address=an_address()))

    assert refusal(cast.member.email) == refusal(f"{uuid.uuid4().hex}@example.test")


@pytest.fixture
def with_email(settings: Any) -> None:
    settings.EMAIL_IS_CONFIGURED = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"


@pytest.mark.usefixtures("with_email")
def test_password_reset_answers_known_and_unknown_addresses_alike(cast: SimpleNamespace) -> None:
    answers = []
    for email in (cast.owner.email, f"{uuid.uuid4().hex}@example.test"):
        answer = Client().post("/accounts/password/reset/", {"email": email}, REMOTE_ADDR=an_address())
        answers.append((answer.status_code, answer.headers["Location"], len(mail.outbox)))
    assert answers[0][:2] == answers[1][:2]
    assert [count for *_, count in answers] == [1, 2]  # the unknown one is written to as well: the same work


@pytest.mark.usefixtures("with_email")
def test_signing_up_with_a_taken_address_looks_like_any_sign_up(cast: SimpleNamespace) -> None:
    def sign_up(email: str) -> tuple[int, str]:
        form = {"email": email, "password1": NEW_PASSWORD}
        answer = Client().post("/accounts/signup/", form, REMOTE_ADDR=an_address())
        return answer.status_code, answer.headers["Location"]

    assert sign_up(cast.owner.email) == sign_up(f"{uuid.uuid4().hex}@example.test")


# --- Sessions ---------------------------------------------------------------------------------------------------------


def test_signing_in_changes_the_session_and_keeps_what_it_held(client: Client, cast: SimpleNamespace) -> None:
    session = client.session
    session["remembered"] = "before"
    session.save()
    client.cookies[configured.SESSION_COOKIE_NAME] = session.session_key
    before = session.session_key

    client.post(LOGIN, {"login": cast.owner.email, "password": PASSWORD}, REMOTE_ADDR=an_address())

    assert client.session.session_key != before
    assert client.session["remembered"] == "before"
    assert not Session.objects.filter(pk=before).exists()


def test_signing_out_ends_the_session_at_once(cast: SimpleNamespace) -> None:
    client = signed_in(cast.owner)
    stolen = Client()
    stolen.cookies = client.cookies.copy()
    assert is_inside(stolen)

    client.post("/accounts/logout/")

    assert not is_inside(stolen)
    assert not is_inside(client)


@pytest.mark.django_db(transaction=True)
def test_signing_out_at_one_web_process_is_known_to_the_others_within_a_second(
    running: Any, cast: SimpleNamespace
) -> None:
    server = running(web_processes=2)
    client = signed_in(cast.owner)
    cookie = f"{configured.SESSION_COOKIE_NAME}={client.session.session_key}"

    def seen() -> set[bool]:
        """Ask often enough to reach both processes."""
        url, headers = server.base_url + INSIDE, {"Cookie": cookie}
        asked = (urllib.request.Request(url, headers=headers) for _ in range(8))
        return {urllib.request.urlopen(each).geturl() == url for each in asked}

    assert seen() == {True}
    client.post("/accounts/logout/")
    assert seen() == {False}  # the first request already finds nobody


def test_changing_the_password_ends_every_other_session(cast: SimpleNamespace) -> None:
    here, elsewhere = signed_in(cast.owner), signed_in(cast.owner)
    form = {"oldpassword": PASSWORD, "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}

    answer = here.post("/accounts/password/change/", form)

    assert answer.headers["Location"] == INSIDE
    assert is_inside(here)
    assert not is_inside(elsewhere)
    assert not Session.objects.filter(pk=elsewhere.session.session_key).exists()
    page = here.get(INSIDE).content.decode()
    assert page.count("This one") == 1
    assert "Sign out everywhere else" not in page


@pytest.mark.usefixtures("with_email")
def test_resetting_the_password_ends_every_session(cast: SimpleNamespace) -> None:
    somewhere = signed_in(cast.owner)
    client = Client()
    client.post("/accounts/password/reset/", {"email": cast.owner.email}, REMOTE_ADDR=an_address())
    link = re.search(r"/accounts/password/reset/key/\S+", str(mail.outbox[-1].body))
    assert link is not None
    page = client.get(link[0], follow=True)

    client.post(page.request["PATH_INFO"], {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})

    assert not is_inside(somewhere)
    again = client.get(link[0], follow=True).content.decode()
    assert "This link does not work" in again  # it was good for once


def test_a_switched_off_account_is_out_with_its_next_request(cast: SimpleNamespace) -> None:
    client = signed_in(cast.member)
    cast.member.is_active = False
    cast.member.save()

    assert not is_inside(client)


# --- Cookies ----------------------------------------------------------------------------------------------------------


def test_cookies_are_out_of_reach_of_scripts_and_of_other_sites(client: Client, cast: SimpleNamespace) -> None:
    client.get(LOGIN)
    client.post(LOGIN, {"login": cast.owner.email, "password": PASSWORD}, REMOTE_ADDR=an_address())

    for name in (configured.SESSION_COOKIE_NAME, configured.CSRF_COOKIE_NAME):
        cookie = client.cookies[name]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "Lax", "/", "")


def test_over_https_cookies_stay_on_it_and_on_this_host() -> None:
    names = "SESSION_COOKIE_NAME CSRF_COOKIE_NAME SESSION_COOKIE_SECURE CSRF_COOKIE_SECURE SECURE_HSTS_SECONDS"
    script = f"from respan import settings; print(*(getattr(settings, name) for name in {names.split()}))"
    env = {**os.environ, "RESPAN_BASE_URL": "https://respan.example.com"}
    told = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["__Host-session", "__Host-csrf", "True", "True", "31536000"]


# --- Where a form leads -----------------------------------------------------------------------------------------------

ELSEWHERE = [
    "https://evil.test/",
    "//evil.test/",
    "///evil.test",
    "/\\evil.test",
    "\\\\evil.test",
    "https:evil.test",
    "https:///evil.test",
    "javascript:alert(1)",
    "\thttps://evil.test",
    "/%0d%0aLocation:https://evil.test",
    "http://testserver@evil.test/",
]


def _leads_elsewhere(location: str) -> bool:
    return not re.match(r"/(?![/\\])", location) or "\n" in location or "\r" in location


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_no_form_leads_to_another_site(cast: SimpleNamespace, elsewhere: str) -> None:
    wanted = {"next": elsewhere}
    answers = [
        Client().post(LOGIN, {"login": cast.owner.email, "password": PASSWORD, **wanted}, REMOTE_ADDR=an_address()),
        signed_in(cast.owner).post("/accounts/logout/", wanted),
        signed_in(cast.owner).post("/accounts/reauthenticate/", {"password": PASSWORD, **wanted}),
        signed_in(cast.owner).post("/platform/environment/", {"environment": "test", **wanted}),
        signed_in(cast.owner).get(LOGIN, wanted),
        signed_in(cast.owner).post("/platform/account/appearance/", {"theme": "dark", **wanted}),
    ]
    for answer in answers:
        assert answer.status_code == 302
        assert not _leads_elsewhere(answer.headers["Location"]), answer.headers["Location"]


# --- Forms of other sites ---------------------------------------------------------------------------------------------


def _patterns(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        if isinstance(pattern, URLResolver):
            yield from _patterns(pattern.url_patterns, prefix + str(pattern.pattern))
        elif isinstance(pattern, URLPattern):
            yield prefix + str(pattern.pattern), pattern.callback


def _filled(route: str) -> str:
    """Return an address that the route matches."""
    filled = re.sub(r"<(int):[^>]+>", "1", route)
    filled = re.sub(r"<(?:[a-z]+:)?[^>]+>", "x", re.sub(r"\(\?P<[^>]+>[^)]*\)+\+?\)?", "x", filled))
    filled = re.sub(r"\(\?:[^)]*\)\?", "", filled)
    return "/" + filled.replace("^", "").replace("/?$", "").replace("$", "").replace("\\", "")


def test_no_route_takes_a_form_of_another_site() -> None:
    """Every route of the URLconf is posted to from an operator's own session without the token of a form."""
    user = make_user("operator")
    user.is_staff = user.is_superuser = True
    user.save()
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(user)
    refused, open_to_keys = 0, 0
    for route, view in _patterns():
        answer = client.post(_filled(route))
        if getattr(view, "csrf_exempt", False):
            # Opened by an API key in a header, which no other site can make a browser send; a session opens nothing.
            assert re.search(r"api/|v1/", route), route
            assert answer.status_code in {401, 404, 405}, (route, answer.status_code)
            open_to_keys += 1
        else:
            assert answer.status_code == 403, (route, _filled(route), answer.status_code)
            assert "The form was too old" in answer.content.decode(), route
            refused += 1
    assert refused > 40
    assert open_to_keys >= 4
    assert client.get(INSIDE).status_code == 200  # signed in all the time: it was the token that was missing
