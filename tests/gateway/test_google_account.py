"""Promises of `gateway.google_account`: tokens of service accounts, asked for once, kept, and never in an error."""

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gateway import google_account
from gateway.google_account import GoogleAccountRefused, InvalidGoogleAccount, account_fields, token
from gateway.upstream import UpstreamError
from respan import outbound

NOW = 1_800_000_000.0
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


class Google:
    """A token endpoint over real HTTP: answers what `answers` says, tokens that are counted otherwise."""

    def __init__(self) -> None:
        self.requests: list[dict[str, list[str]]] = []
        self.answers: list[tuple[int, Any]] = []
        google = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                google.requests.append(parse_qs(body))
                number = len(google.requests)
                usual = (200, {"access_token": f"ya29.{number}", "expires_in": 3600, "token_type": "Bearer"})
                status, answer = google.answers.pop(0) if google.answers else usual
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.origin = f"127.0.0.1:{self.server.server_port}"
        self.transport = outbound.transport(outbound.Policy(allow=frozenset({self.origin})))

    async def token(self, account: str, now: float = NOW) -> str:
        return await token(account, transport=self.transport, now=now)


@pytest.fixture
def google() -> Iterator[Google]:
    server = Google()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(autouse=True)
async def _sessions_are_closed():
    yield
    with contextlib.suppress(RuntimeError):
        await outbound.close()


def account(google: Google | None = None, **members: Any) -> str:
    value = {
        "type": "service_account",
        "project_id": "my-project",
        "private_key_id": "key-1",
        "private_key": PEM,
        "client_email": "robot@my-project.iam.gserviceaccount.com",
        "token_uri": f"http://{google.origin}/token" if google else google_account.TOKEN_URI,
    }
    return json.dumps({name: item for name, item in (value | members).items() if item is not None})


def part(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


# --- what a person pastes -------------------------------------------------------------------------------------------


def test_a_key_tells_its_project_and_account():
    found = account_fields(account())

    assert (found.project_id, found.client_email) == ("my-project", "robot@my-project.iam.gserviceaccount.com")
    assert "PRIVATE KEY" not in repr(found)


@pytest.mark.parametrize(
    ("pasted", "word"),
    [
        ("AIzaSyExample", "whole JSON file"),
        ("[]", "whole JSON file"),
        ("{" * 30_000, "whole JSON file"),
        (account(type="authorized_user"), "service_account"),
        (account(project_id=None), "project_id"),
        (account(client_email="robot"), "client_email"),
        (account(private_key=""), "private_key"),
        (account(private_key=PEM[:200] + "SECRETSECRET"), "private_key"),
    ],
    ids=["a word", "a list", "brackets", "another type", "no project", "no address", "no key", "a broken key"],
)
def test_what_is_no_key_is_refused_with_what_to_mend(pasted, word):
    with pytest.raises(InvalidGoogleAccount) as caught:
        account_fields(pasted)
    assert word in caught.value.message
    assert "SECRET" not in caught.value.message


# --- tokens ---------------------------------------------------------------------------------------------------------


async def test_a_token_is_asked_for_with_a_signed_assertion(google):
    assert await google.token(account(google)) == "ya29.1"

    (form,) = google.requests
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    header, claims, signature = form["assertion"][0].split(".")
    KEY.public_key().verify(
        base64.urlsafe_b64decode(signature + "=="), f"{header}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    assert part(header) == {"alg": "RS256", "typ": "JWT", "kid": "key-1"}
    assert part(claims) == {
        "iss": "robot@my-project.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "aud": f"http://{google.origin}/token",
        "iat": int(NOW),
        "exp": int(NOW) + 3600,
    }


async def test_a_token_is_kept_until_shortly_before_it_expires(google):
    key = account(google)

    tokens = [await google.token(key, NOW + after) for after in (0, 3299, 3301, 3400)]

    assert tokens == ["ya29.1", "ya29.1", "ya29.2", "ya29.2"]


async def test_callers_at_the_same_time_share_one_request(google):
    key = account(google)

    tokens = await asyncio.gather(*[google.token(key) for _ in range(20)])

    assert set(tokens) == {"ya29.1"}
    assert len(google.requests) == 1


async def test_two_accounts_never_share_a_token(google):
    first, second = account(google), account(google, client_email="other@my-project.iam.gserviceaccount.com")

    assert await google.token(first) != await google.token(second)


async def test_a_token_that_is_still_good_outlives_a_failure_of_google(google):
    key = account(google)
    await google.token(key)
    google.answers = [(503, b"later")]

    assert await google.token(key, NOW + 3400) == "ya29.1"


@pytest.mark.parametrize(
    ("status", "answer", "error", "word"),
    [
        (400, {"error": "invalid_grant", "error_description": "Bad robot@x"}, GoogleAccountRefused, "invalid_grant"),
        (401, b"<html>", GoogleAccountRefused, "401"),
        (503, b"later", UpstreamError, "503"),
        (429, b"slow", UpstreamError, "429"),
        (200, {}, UpstreamError, "no access token"),
        (200, {"access_token": "bad\r\nx: y"}, UpstreamError, "no access token"),
    ],
)  # fmt: skip
async def test_a_refusal_says_why_without_secrets(google, status, answer, error, word):
    google.answers = [(status, answer)]
    with pytest.raises(error) as caught:
        await google.token(account(google))

    assert word in caught.value.message
    assert "robot" not in caught.value.message


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/token",
        "https://oauth2.googleapis.com.evil.example/token",
        "http://127.0.0.1:1/",
        "x",
        "http://[",
        "file:///etc/passwd",
    ],
)
async def test_a_signed_request_goes_nowhere_but_to_google(google, uri):
    with pytest.raises(InvalidGoogleAccount) as caught:
        await google.token(account(token_uri=uri))

    assert google_account.TOKEN_URI in caught.value.message
    assert google.requests == []


async def test_a_key_that_cannot_sign_is_refused_without_its_text(google):
    with pytest.raises(InvalidGoogleAccount) as caught:
        await google.token(
            account(google, private_key="-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----")
        )

    assert "SECRET" not in caught.value.message
