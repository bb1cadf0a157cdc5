"""Refuses unsafe configuration before anything is served: `manage.py up` and `manage.py check` stop at these errors.

Reads settings only, never the database. Each message says what to set. Neighbours: `settings.py`, `.env.example`.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured

_KID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_TIMEOUTS = ("BODY", "WRITE_STALL", "CONNECT", "FIRST_BYTE", "GAP", "TOTAL")


@register(Tags.security)
def check_secrets(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """The three secrets exist and are strong enough."""
    found: list[CheckMessage] = []
    hint = "`manage.py up` makes it in .env on a first start; elsewhere set it from your secret store."
    least = 1 if settings.RESPAN_IS_LOOPBACK else 32
    if len(_secret_key()) < least:
        found.append(Error("SECRET_KEY is missing or shorter than 32 characters.", hint=hint, id="respan.E001"))
    if len(settings.RESPAN_KEY_PEPPER) < least:
        found.append(Error("RESPAN_KEY_PEPPER is missing or shorter than 32 characters.", hint=hint, id="respan.E002"))
    problem = _key_ring_problem(settings.RESPAN_KEYS)
    if problem:
        found.append(
            Error(f"RESPAN_KEYS {problem}.", hint=f"Form: kid:base64 of 32 bytes[,...]. {hint}", id="respan.E003")
        )
    return found


def _secret_key() -> str:
    try:
        return str(settings.SECRET_KEY)
    except ImproperlyConfigured:  # Django's word for an empty one
        return ""


def _key_ring_problem(text: str) -> str | None:
    """Say what is wrong with a key ring, never showing a key."""
    if not text:
        return "is missing"
    kids = set()
    for position, entry in enumerate(text.split(","), start=1):
        kid, _, encoded = entry.strip().partition(":")
        if not _KID.fullmatch(kid):
            return f"entry {position} has no key id"
        if kid in kids:
            return f"names the key id {kid} twice"
        kids.add(kid)
        try:
            length = len(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            return f"key {kid} is not base64"
        if length != 32:
            return f"key {kid} has {length} bytes instead of 32"
    return None


@register(Tags.security)
def check_exposure(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """What others than this machine can reach is served without debug pages, over TLS, under its own name."""
    found: list[CheckMessage] = []
    base = urlsplit(settings.RESPAN_BASE_URL)
    if base.scheme not in {"http", "https"} or not base.hostname or base.path or base.query or base.username:
        hint = "Form: https://respan.example.com (no path)."
        return [Error("RESPAN_BASE_URL is not an address.", hint=hint, id="respan.E004")]
    if settings.DEBUG and not settings.RESPAN_IS_LOOPBACK:
        found.append(Error("DEBUG is on although others can reach this server.", hint="Unset DEBUG.", id="respan.E005"))
    if base.scheme == "http" and base.hostname not in _LOOPBACK and not settings.RESPAN_ALLOW_HTTP:
        hint = (
            "Passwords and API keys would cross the network readable. Put a TLS proxy in front and set"
            " RESPAN_BASE_URL=https://..., or, in a network you trust, RESPAN_ALLOW_HTTP=true."
        )
        found.append(Error("RESPAN_BASE_URL is plain http on a public name.", hint=hint, id="respan.E006"))
    if "*" in settings.ALLOWED_HOSTS and not settings.RESPAN_IS_LOOPBACK:
        hint = "Name the hosts: password reset links are built from them."
        found.append(Error("ALLOWED_HOSTS allows every host.", hint=hint, id="respan.E007"))
    if base.hostname in _LOOPBACK and not settings.RESPAN_IS_LOOPBACK:
        hint = "Set RESPAN_BASE_URL to the address people use; any other Host is refused."
        found.append(Warning("HOST is not loopback but RESPAN_BASE_URL is.", hint=hint, id="respan.W001"))
    return found


@register(Tags.security)
def check_networks(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Trusted proxies, allowed upstream addresses and Redis are what they look like."""
    return [*_check_proxies(), *_check_allowed_upstreams(), *_check_redis()]


def _check_proxies() -> Iterator[CheckMessage]:
    for text in settings.RESPAN_TRUSTED_PROXIES:
        try:
            network = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            yield Error(f"RESPAN_TRUSTED_PROXIES: {text!r} is no address or CIDR range.", id="respan.E008")
            continue
        if network.prefixlen == 0:
            hint = "Anybody could then choose the address that is logged for them."
            yield Error("RESPAN_TRUSTED_PROXIES trusts every address.", hint=hint, id="respan.E009")


def _check_allowed_upstreams() -> Iterator[CheckMessage]:
    for text in settings.RESPAN_UPSTREAM_ALLOW:
        match = _HOST_PORT.fullmatch(text.strip())
        if match is None or not 0 < int(match[2]) < 65536:
            hint = "Form: host:port[,...], for example 10.0.0.5:8000."
            yield Error(f"RESPAN_UPSTREAM_ALLOW: {text!r} is not host:port.", hint=hint, id="respan.E010")
        elif match[1] == "169.254.169.254":
            hint = "It hands out the machine's own credentials to whoever can make this server ask."
            yield Error("RESPAN_UPSTREAM_ALLOW opens the cloud's metadata service.", hint=hint, id="respan.E011")


def _check_redis() -> Iterator[CheckMessage]:
    if settings.REDIS_URL and urlsplit(settings.REDIS_URL).scheme not in {"redis", "rediss", "unix"}:
        hint = "Form: redis://host:6379/0, rediss:// for TLS, or unix:///path. Unset it to do without Redis."
        yield Error("REDIS_URL is not an address of a Redis.", hint=hint, id="respan.E014")


@register(Tags.security)
def check_figures(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Time-outs, sizes and amounts are sane."""
    from billing.usage import nano_from_usd

    found: list[CheckMessage] = []
    names = [f"RESPAN_{name}_TIMEOUT_S" for name in _TIMEOUTS]
    names += ["RESPAN_MAX_BODY_BYTES", "RESPAN_POOL_SIZE", "RESPAN_RETENTION_DAYS", "RESPAN_WEB_PROCESSES"]
    found += [Error(f"{name} must be above 0.", id="respan.E012") for name in names if getattr(settings, name) <= 0]
    try:
        if nano_from_usd(settings.RESPAN_SIGNUP_GRANT_USD) < 0:
            raise ValueError
    except ValueError:
        found.append(Error("RESPAN_SIGNUP_GRANT_USD is not an amount such as 0 or 2.50.", id="respan.E013"))
    return found
