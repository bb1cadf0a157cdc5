"""Pure: signatures that providers want in place of a key: AWS's (version 4) and RS256 tokens of Google accounts.

Responsible for what is signed, byte for byte, and for understanding what a person pastes as the secret of an AWS
account. The clock is an argument. Never stores or sends a secret, never puts one into an error or a `repr`.
Neighbours: `gateway.outgoing` (adds the headers to a call), `gateway.google_account` (tokens), `gateway.credentials`.

Sources: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html and its test
vectors, https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys.html, RFC 7515, RFC 7518 section 3.3.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

# Shorter keys are refused by those who would check the signature.
MIN_RSA_BITS = 2048

_ALGORITHM = "AWS4-HMAC-SHA256"
# What proxies on the way may change, or add, is not signed.
_UNSIGNED = frozenset(
    {
        "authorization",
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-amzn-trace-id",
    }
)
_SIGNED = ("content-type", "x-amz-")
_SPACES = re.compile(r"\s+")
_PORTS = {"https": 443, "http": 80}


# --- JSON Web Tokens ------------------------------------------------------------------------------------------------


def jwt_rs256(claims: Mapping[str, Any], private_key_pem: str, key_id: str | None) -> str:
    """Return the claims as a JSON Web Token signed with RSA and SHA-256.

    Raises: ValueError when the key is none, without a word of it in the message.
    """
    key = _rsa_key(private_key_pem)
    header = {"alg": "RS256", "typ": "JWT"} | ({"kid": key_id} if key_id else {})
    signed = f"{_segment(header)}.{_segment(claims)}"
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{_base64url(signature)}"


def _rsa_key(pem: str) -> rsa.RSAPrivateKey:
    """Return the key of a PEM text; `\\n` written out, as it is in a copied JSON file, counts as a line end."""
    try:
        key = serialization.load_pem_private_key(pem.replace("\\n", "\n").encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # `from None`: what went wrong may quote the text.
        raise ValueError("The private key is not an unencrypted key in PEM format.") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("The private key is not an RSA key.")
    if key.key_size < MIN_RSA_BITS:
        raise ValueError(f"The private key is shorter than {MIN_RSA_BITS} bits.")
    return key


def _segment(value: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# --- What a person pastes -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BearerKey:
    """A Bedrock API key: goes into `Authorization: Bearer`, nothing is signed."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An access key of an AWS account; `session_token` where it is a temporary one."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a signature of version 4 is valid."""

    region: str
    service: str


_KEY_ID = re.compile(r"(?:AKIA|ASIA)[A-Z0-9]{12,124}")
_SECRET = re.compile(r"[!-~]{1,8192}")
# Lines of a shell or of ~/.aws/credentials, as AWS's own pages offer them for copying.
_LINE = re.compile(
    r"^\s*(?:export\s+|set\s+|\$env:)?(aws_(?:access_key_id|secret_access_key|session_token|bearer_token_bedrock))"
    r"\s*=\s*[\"']?([^\s\"']*)[\"']?\s*;?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_EXPECTED = (
    'Paste a Bedrock API key, or an access key as JSON: {"access_key_id": "...", "secret_access_key": "..."}, '
    'with "session_token" if it is a temporary one.'
)
_REGION = re.compile(r"[a-z]{2,3}(?:-[a-z]+)+-\d{1,2}")
_SERVICE = re.compile(r"(bedrock(?:-mantle)?)(?:-runtime)?(?:-fips)?")


def aws_secret(text: str) -> BearerKey | AccessKey:
    """Understand what a person pasted: a Bedrock API key, an access key as JSON (also in the form `aws sts` prints it),
    or the lines AWS's pages offer for a shell or for `~/.aws/credentials`.

    Raises: ValueError that says what to paste, without a word of what was.
    """
    text = text.strip()
    if text.startswith("{"):
        return _from_names(_json_names(text))
    lines = {name.lower().removeprefix("aws_"): value for name, value in _LINE.findall(text)}
    if lines:
        return _from_names(lines)
    if _KEY_ID.fullmatch(text):
        raise ValueError(f"This is an access key ID without its secret access key. {_EXPECTED}")
    return _bearer(text)


def aws_scope(base_url: str) -> Scope:
    """Return region and service of an AWS host, for example `bedrock-runtime.us-east-1.amazonaws.com`.

    Raises: ValueError when the host names no region.
    """
    labels = (urlsplit(base_url).hostname or "").split(".")
    region = next((label for label in labels if _REGION.fullmatch(label)), None)
    if region is None:
        raise ValueError(
            "The base URL names no AWS region: it must look like https://bedrock-runtime.us-east-1.amazonaws.com"
        )
    services = [match[1] for label in labels if (match := _SERVICE.fullmatch(label))]
    return Scope(region, services[0] if services else "bedrock")


def _json_names(text: str) -> dict[str, str]:
    """Return the strings of a JSON object by their names in lower case without `aws_`, however they are spelled."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"This looks like JSON, but it is not valid. {_EXPECTED}") from None
    inner = value.get("Credentials")
    if isinstance(inner, dict):
        value = inner
    spelled = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().removeprefix("aws_"): name for name in value}
    return {name: value[given] for name, given in spelled.items() if isinstance(value[given], str)}


def _from_names(names: Mapping[str, str]) -> BearerKey | AccessKey:
    names = {name: value.strip() for name, value in names.items() if value.strip()}
    key_id, secret = names.get("access_key_id"), names.get("secret_access_key")
    bearer = names.get("bearer_token_bedrock") or names.get("api_key")
    if bearer and not (key_id or secret):
        return _bearer(bearer)
    for name, value in (("access_key_id", key_id), ("secret_access_key", secret)):
        if not value:
            raise ValueError(f"{name} is missing. {_EXPECTED}")
    token = names.get("session_token")
    for name, value in (("access_key_id", key_id), ("secret_access_key", secret), ("session_token", token)):
        if value and not _SECRET.fullmatch(value):
            raise ValueError(f"{name} has spaces or characters that no key has. {_EXPECTED}")
    return AccessKey(key_id or "", secret or "", token)


def _bearer(text: str) -> BearerKey:
    if not _SECRET.fullmatch(text):
        raise ValueError(f"This is no Bedrock API key. {_EXPECTED}")
    return BearerKey(text)


def aws_headers(text: str, *, url: str, headers: Mapping[str, str], body: bytes, now: datetime) -> dict[str, str]:
    """Return the headers to add to a POST for what a person pasted: a Bearer key, or a signature for the URL's region.

    Of `headers` only the content type and AWS's own are signed: what is not signed may change on its way.
    Raises: ValueError (see `aws_secret` and `aws_scope`).
    """
    secret = aws_secret(text)
    if isinstance(secret, BearerKey):
        return {"Authorization": f"Bearer {secret.key}"}
    scope = aws_scope(url)
    return sigv4(
        method="POST",
        url=url,
        headers={name: value for name, value in headers.items() if name.lower().startswith(_SIGNED)},
        body=body,
        access_key_id=secret.access_key_id,
        secret_access_key=secret.secret_access_key,
        session_token=secret.session_token,
        region=scope.region,
        service=scope.service,
        now=now,
    )


# --- AWS Signature Version 4 ----------------------------------------------------------------------------------------


def sigv4(
    *,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    access_key_id: str,
    secret_access_key: str,
    session_token: str | None,
    region: str,
    service: str,
    now: datetime,
) -> dict[str, str]:
    """Return the headers to add to a request: its date, its session token and its signature.

    `url` is the address exactly as it goes over the wire: a path that is already percent-encoded is encoded once more
    for the signature (`:` is `%3A` in the path and `%253A` in what is signed), as every service but S3 wants it.
    `headers` are signed too, except those a proxy may change. `now` must know its time zone. Raises: ValueError.
    """
    if now.tzinfo is None:
        raise ValueError("The time of a signature needs its time zone.")
    date = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    added = {"X-Amz-Date": date} | ({"X-Amz-Security-Token": session_token} if session_token else {})
    signed = _signed_headers({"host": _host(url)}, headers, added)
    canonical = _canonical_request(method, url, signed, body)
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    to_sign = f"{_ALGORITHM}\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(_signing_key(secret_access_key, scope), to_sign.encode(), hashlib.sha256).hexdigest()
    added["Authorization"] = (
        f"{_ALGORITHM} Credential={access_key_id}/{scope}, SignedHeaders={';'.join(signed)}, Signature={signature}"
    )
    return added


def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _signed_headers(*sources: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that are signed, sorted; a later source wins over an earlier one."""
    merged = {name.lower(): _SPACES.sub(" ", value.strip()) for source in sources for name, value in source.items()}
    return {name: merged[name] for name in sorted(merged) if name not in _UNSIGNED}


def _canonical_request(method: str, url: str, headers: Mapping[str, str], body: bytes) -> str:
    parts = urlsplit(url)
    lines = [
        method.upper(),
        _canonical_path(parts.path),
        "&".join("=".join(pair) for pair in _pairs(parts.query)),
        *(f"{name}:{value}" for name, value in headers.items()),
        "",
        ";".join(headers),
        hashlib.sha256(body).hexdigest(),
    ]
    return "\n".join(lines)


def _canonical_path(path: str) -> str:
    """Return a path without `.`, `..` and empty segments, encoded once more than it is on the wire."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    slash = "/" if kept and path.endswith("/") else ""
    return quote("/" + "/".join(kept) + slash, safe="/~")


def _pairs(query: str) -> list[tuple[str, str]]:
    """Return names and values as they are on the wire (there they are encoded already), sorted by name, then value."""
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return sorted((name, value) for name, _, value in pairs)


def _host(url: str) -> str:
    """Return the host header a client sends for an address: without a port that is the scheme's own."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.port is not None and parts.port == _PORTS.get(parts.scheme):
        host = host.rpartition(":")[0]
    return host
