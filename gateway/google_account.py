"""Access tokens of Google service accounts: what calls of Vertex AI are signed with.

Responsible for understanding the JSON key that a person pastes, for asking Google for a token, and for keeping it until
shortly before it expires; callers who want the same token at the same time share one request. Never stores a key, never
puts one (or a token) into an error, a log or a `repr`. Neighbours: `gateway.signing` (signs), `gateway.outgoing` (adds
the token to a call), `gateway.credentials` (checks what was pasted).

Source: https://developers.google.com/identity/protocols/oauth2/service-account#httprest (2026-11).
"""

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from gateway import signing, upstream
from gateway.dialects.openai_answer import lenient
from respan.errors import Error
from respan.outbound import Policy
from respan.shared import Shared

TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105  (an address)
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# Google gives no more.
_LIFETIME_S = 3600
# A token is renewed so long before it expires: it must outlive the call it is used for.
RENEW_BEFORE_S = 300
_TIMEOUT_S = 10.0
_LIMITS = {"connect": 5.0, "first_byte": _TIMEOUT_S, "read": _TIMEOUT_S, "total": _TIMEOUT_S}
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_ACCOUNT_CHARACTERS = 20_000
_MAX_CACHED = 2_000


class InvalidGoogleAccount(Error):
    """What was given as a service account's key is none."""

    status = 400
    code = "invalid_google_account"


class GoogleAccountRefused(Error):
    """Google gives no token for a service account: its key was revoked, say."""

    status = 424
    code = "google_account_refused"


@dataclass(frozen=True, slots=True)
class Account:
    """A service account, as its JSON key describes it."""

    project_id: str
    client_email: str
    private_key: str = field(repr=False)
    private_key_id: str | None = None
    token_uri: str = TOKEN_URI


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    expires_at: float  # seconds since the epoch


# By the digest of the whole key: whoever can give it may have its token.
_tokens: dict[bytes, _Token] = {}
_asking: Shared[bytes, _Token] = Shared()


def account_fields(account_json: str) -> Account:
    """Check the JSON key that a person pasted, its private key included. Raises: InvalidGoogleAccount, what to mend."""
    account = _parsed(account_json)
    _signed(account, now=0)
    return account


async def token(account_json: str, *, transport: httpx.AsyncBaseTransport, now: float) -> str:
    """Return an access token; `now` is in seconds since the epoch.

    Raises: InvalidGoogleAccount; GoogleAccountRefused; upstream.UpstreamError where Google cannot be asked.
    """
    key = hashlib.sha256(account_json.encode()).digest()
    known = _tokens.get(key)
    if known is not None and now < known.expires_at - RENEW_BEFORE_S:
        return known.text
    try:
        fresh = await _asking.get(key, lambda: _fetch(account_json, transport, now))
    except upstream.UpstreamError:
        if known is not None and now < known.expires_at - _TIMEOUT_S:
            return known.text  # it is still good for this call
        raise
    if len(_tokens) >= _MAX_CACHED:
        _tokens.clear()
    _tokens[key] = fresh
    return fresh.text


def _parsed(account_json: str) -> Account:
    try:
        value = json.loads(account_json) if len(account_json) <= _MAX_ACCOUNT_CHARACTERS else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidGoogleAccount("Paste the whole JSON file of a service account's key: it begins with {.")
    if value.get("type") != "service_account":
        raise InvalidGoogleAccount('This is no key of a service account: its "type" must be "service_account".')
    for name in ("project_id", "client_email", "private_key"):
        if not isinstance(value.get(name), str) or not value[name].strip():
            raise InvalidGoogleAccount(f"The service account's key has no {name}. Paste the whole JSON file.")
    if "@" not in value["client_email"]:
        raise InvalidGoogleAccount("The service account's client_email is no e-mail address.")
    key_id, uri = value.get("private_key_id"), value.get("token_uri")
    return Account(
        project_id=value["project_id"],
        client_email=value["client_email"],
        private_key=value["private_key"],
        private_key_id=key_id if isinstance(key_id, str) and key_id else None,
        token_uri=uri if isinstance(uri, str) and uri else TOKEN_URI,
    )


def _signed(account: Account, *, now: float) -> str:
    """Return the request for a token that the account signs."""
    issued = int(now)
    claims: dict[str, Any] = {
        "iss": account.client_email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": issued,
        "exp": issued + _LIFETIME_S,
    }
    try:
        return signing.jwt_rs256(claims, account.private_key, account.private_key_id)
    except ValueError:
        # `from None`: what went wrong may quote the key.
        raise InvalidGoogleAccount(
            "The service account's private_key cannot be read. Paste the whole JSON file, unchanged."
        ) from None


async def _fetch(account_json: str, transport: httpx.AsyncBaseTransport, now: float) -> _Token:
    account = _parsed(account_json)
    _check_token_uri(account.token_uri, transport)
    # Reading an RSA key takes tens of milliseconds: not on the loop.
    assertion = await asyncio.to_thread(_signed, account, now=now)
    request = upstream.post(
        str(httpx.URL(account.token_uri)),
        headers={"content-type": "application/x-www-form-urlencoded", "accept": "application/json"},
        body=urlencode({"grant_type": _GRANT, "assertion": assertion}).encode(),
        limits=_LIMITS,
    )
    response = await upstream.send(request, transport=transport, deadline=time.monotonic() + _TIMEOUT_S)
    body = await upstream.read(response, _MAX_ANSWER_BYTES)
    return _read(response.status_code, lenient(body), now)


def _check_token_uri(uri: str, transport: httpx.AsyncBaseTransport) -> None:
    """Refuse to send a signed request anywhere but to Google, or to a server that the operator allowed by hand."""
    if uri == TOKEN_URI:
        return
    try:
        parts = urlsplit(uri)
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        parts, port = urlsplit(""), 0
    policy = getattr(transport, "policy", None)
    allowed: frozenset[str] = policy.allow if isinstance(policy, Policy) else frozenset()
    if parts.scheme not in ("http", "https") or f"{(parts.hostname or '').lower()}:{port}" not in allowed:
        raise InvalidGoogleAccount(f"The service account's token_uri must be {TOKEN_URI}.")


def _read(status: int, value: Any, now: float) -> _Token:
    answered = value if isinstance(value, dict) else {}
    if status == 429 or status >= 500:
        raise upstream.UpstreamError(f"Google's token endpoint answered {status}.")
    text, lifetime = answered.get("access_token"), answered.get("expires_in")
    if status != 200:
        raise GoogleAccountRefused(f"Google refused the service account's key ({_reason(answered, status)}).")
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or not text:
        raise upstream.UpstreamInvalid("Google's token endpoint gave no access token.")
    seconds = lifetime if isinstance(lifetime, int) and 0 < lifetime <= 86_400 else _LIFETIME_S
    return _Token(text, now + seconds)


def _reason(answered: dict[str, Any], status: int) -> str:
    """Return Google's word for a refusal, such as `invalid_grant`: its sentences may name the account."""
    word = answered.get("error")
    return word if isinstance(word, str) and word.isidentifier() and len(word) <= 50 else str(status)
