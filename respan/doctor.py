"""What is wrong with an installation, and what to do about it: the findings of `manage.py doctor`.

Looks at settings, secrets, the address, provider keys and the catalogue; asks nobody but this installation's own
parts, changes nothing, and never shows a secret. A look that fails is a finding, never a traceback. Neighbours:
`doctor_parts.py` (database, broker, Redis, spool, processes), `checks.py` (what stops a start), and for their reader
`docs/operate/troubleshooting.md`.
"""

import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import ERROR
from django.core.exceptions import ImproperlyConfigured

from billing.models import ModelRates
from gateway import credentials
from gateway.models import Credential
from gateway.providers import FOLDER, catalog
from gateway.tables import CatalogError
from respan import checks, console, setup

State = Literal["ok", "warn", "fail"]
CONNECT_TIMEOUT_S: Final = 3.0
_CATALOGUE_MAX_AGE: Final = timedelta(days=90)
_CERTIFICATE_SOON: Final = timedelta(days=14)
# Secrets are random: one with so few different characters was typed.
_LEAST_VARIETY: Final = 8
_MAX_KEYS_OPENED: Final = 5_000
_PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what to do (always said where the state is not `ok`)."""

    area: str
    state: State
    text: str
    advice: str = ""


Look = Callable[[], Iterator[Finding]]


def examine(
    *, alone: list[Look], database: Look, tables: list[Look], only: frozenset[str] = frozenset()
) -> Iterator[Finding]:
    """Yield what each look finds, those named by `only` or all: `alone` need nothing, `tables` a sound database."""
    for look in (look_at_secrets, look_at_address, look_at_people, look_at_ways_out, *alone):
        if not only or area_of(look) in only:
            yield from guarded(look)
    wanted = [
        look
        for look in (*tables, look_at_provider_keys, look_at_catalogue, look_at_operator)
        if not only or area_of(look) in only
    ]
    if not wanted and "database" not in only:
        return
    found = list(guarded(database))
    yield from (finding for finding in found if not only or "database" in only or finding.state == "fail")
    if any(finding.state == "fail" for finding in found):
        text = f"not looked at: {', '.join(map(area_of, wanted))}"
        yield Finding("database", "warn", text, "Put the database right, then run this again.")
        return
    for look in wanted:
        yield from guarded(look)


def area_of(look: Look) -> str:
    """Return what a look is called in `--only`."""
    return look.__name__.removeprefix("look_at_").replace("_", "-")


def guarded(look: Look) -> Iterator[Finding]:
    """Yield what a look finds; one that breaks is a finding itself."""
    area = area_of(look)
    try:
        yield from look()
    except Exception as error:
        # Messages of drivers may quote what they were given: the type says enough.
        text = f"could not be looked at ({type(error).__name__})"
        yield Finding(area, "fail", text, "See the findings above first; the logs of the processes say more.")


# --- Secrets ----------------------------------------------------------------------------------------------------------


def look_at_secrets() -> Iterator[Finding]:
    """Present, long enough, not typed by hand, readable by nobody else, backed up."""
    wrong = [
        Finding("secrets", "fail" if found.level >= ERROR else "warn", str(found.msg), str(found.hint or ""))
        for found in checks.check_secrets(None)
    ]
    wrong += _typed_secrets()
    yield from wrong
    yield from _env_file()
    if not wrong:
        kids = [entry.partition(":")[0].strip() for entry in settings.RESPAN_KEYS.split(",")]
        text = f"SECRET_KEY, RESPAN_KEY_PEPPER and RESPAN_KEYS ({', '.join(kids)}) are set"
        yield Finding("secrets", "ok", text, "Keep a copy apart from the database: nothing can replace them.")


def _typed_secrets() -> Iterator[Finding]:
    values = {"SECRET_KEY": _secret_key(), "RESPAN_KEY_PEPPER": settings.RESPAN_KEY_PEPPER}
    for entry in filter(None, settings.RESPAN_KEYS.split(",")):
        kid, _, encoded = entry.partition(":")
        values[f"key {kid.strip()} of RESPAN_KEYS"] = encoded.strip()
    for name, value in values.items():
        if value and len(set(value)) < _LEAST_VARIETY:
            advice = "Make a random one: python -c 'import base64, secrets;" + (
                " print(base64.b64encode(secrets.token_bytes(32)).decode())'"
            )
            yield Finding("secrets", "fail", f"{name} is not random", advice)
    for value, count in Counter(filter(None, values.values())).items():
        if count > 1:
            names = " and ".join(name for name, other in values.items() if other == value)
            yield Finding("secrets", "fail", f"{names} have the same value", "Give each a value of its own.")


def _secret_key() -> str:
    try:
        return str(settings.SECRET_KEY)
    except ImproperlyConfigured:  # Django's word for an empty one; `check_secrets` reports it
        return ""


def _env_file() -> Iterator[Finding]:
    path = Path(os.environ.get("RESPAN_ENV_FILE") or settings.BASE_DIR / ".env")
    if not path.is_file():
        return
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        yield Finding("secrets", "warn", f"{path} can be read by others (mode {mode:03o})", f"chmod 600 {path}")


# --- The address ------------------------------------------------------------------------------------------------------


def look_at_address() -> Iterator[Finding]:
    """The address, what listens, TLS, and the proxy in front."""
    wrong = [
        Finding("address", "fail" if found.level >= ERROR else "warn", str(found.msg), str(found.hint or ""))
        for check in (checks.check_exposure, checks.check_networks, checks.check_figures)
        for found in check(None)
    ]
    yield from wrong
    yield from _listening()
    if settings.RESPAN_IS_HTTPS:
        yield from _proxy()
        yield from _certificate()
    if not wrong:
        yield Finding("address", "ok", f"people and SDKs use {settings.RESPAN_BASE_URL}")


def _listening() -> Iterator[Finding]:
    host = _ANY_HOST.get(settings.HOST, settings.HOST)
    where = f"{settings.HOST}:{settings.PORT}"
    try:
        with socket.create_connection((host, settings.PORT), timeout=CONNECT_TIMEOUT_S):
            yield Finding("address", "ok", f"something listens on {where}")
    except OSError:
        advice = "Start it (`manage.py up`, or the web unit), or run doctor with the web process's HOST and PORT."
        yield Finding("address", "warn", f"nobody listens on {where}", advice)


def _proxy() -> Iterator[Finding]:
    if settings.RESPAN_TRUSTED_PROXIES:
        yield Finding("address", "ok", f"proxies believed: {', '.join(settings.RESPAN_TRUSTED_PROXIES)}")
        return
    advice = "Set RESPAN_TRUSTED_PROXIES to the address of the proxy that terminates TLS."
    if settings.SECURE_SSL_REDIRECT:
        text = "every page redirects to itself: SECURE_SSL_REDIRECT is on and no proxy's word on https is believed"
        yield Finding("address", "fail", text, advice)
    else:
        text = "RESPAN_BASE_URL is https but no proxy is trusted: every caller seems to have the proxy's address"
        yield Finding("address", "warn", text, advice)


def _certificate() -> Iterator[Finding]:
    base = urlsplit(settings.RESPAN_BASE_URL)
    host, port = base.hostname or "", base.port or 443
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=host) as secured,
        ):
            ends = ssl.cert_time_to_seconds(str((secured.getpeercert() or {})["notAfter"]))
    except ssl.SSLCertVerificationError as error:
        text = f"the certificate of {host} is not valid here: {error.verify_message}"
        yield Finding("address", "fail", text, "Renew it, and let the proxy send the whole chain.")
    except (OSError, KeyError, ValueError):
        text = f"{settings.RESPAN_BASE_URL} could not be reached from here"
        yield Finding("address", "warn", text, "Fine where this host cannot call itself by that name; else check DNS.")
    else:
        left = datetime.fromtimestamp(ends, UTC) - datetime.now(UTC)
        text = f"the certificate of {host} is valid for {left.days} days"
        advice = "Renew it." if left < _CERTIFICATE_SOON else ""
        yield Finding("address", "warn" if advice else "ok", text, advice)


# --- People and the ways out ------------------------------------------------------------------------------------------


def look_at_people() -> Iterator[Finding]:
    """E-mail and who may sign up."""
    if settings.EMAIL_IS_CONFIGURED:
        yield Finding("people", "ok", "e-mail is configured: addresses are verified")
    elif not settings.RESPAN_IS_LOOPBACK:
        text = "no e-mail: addresses are not verified and nobody can reset a password"
        yield Finding("people", "warn", text, "Set EMAIL_URL.")
    if (
        settings.RESPAN_SIGNUP_OPEN
        and not settings.RESPAN_IS_LOOPBACK
        and _grant()
        and not settings.EMAIL_IS_CONFIGURED
    ):
        text = "anybody gets RESPAN_SIGNUP_GRANT_USD for each made-up address"
        yield Finding("people", "fail", text, "Set EMAIL_URL, RESPAN_SIGNUP_OPEN=false, or no grant.")


def _grant() -> bool:
    return bool(settings.RESPAN_SIGNUP_GRANT_USD.strip().strip("0."))


def look_at_ways_out() -> Iterator[Finding]:
    """Where calls may go besides the internet, and what looks as if it were obeyed but is not."""
    if opened := settings.RESPAN_UPSTREAM_ALLOW:
        text = f"provider keys may point at {', '.join(opened)}"
        yield Finding("ways-out", "ok", text, "Everybody who may store a provider key can reach these.")
    else:
        yield Finding("ways-out", "ok", "provider keys may point at public addresses only")
    found = [name for name in _PROXY_VARIABLES if os.environ.get(name) or os.environ.get(name.lower())]
    if found:
        text = f"{', '.join(found)} is set, but Respan calls providers directly and reads no proxy variable"
        yield Finding("ways-out", "warn", text, "Allow outgoing TCP 443 from the web hosts to the providers.")


# --- Provider keys and the catalogue ----------------------------------------------------------------------------------


def look_at_provider_keys() -> Iterator[Finding]:
    """The operator's keys belong to a provider whose name resolves; those and the customers' can be read."""
    yield from _mistyped_keys()
    yield from _platform_keys()
    yield from stored_keys()


def _mistyped_keys() -> Iterator[Finding]:
    prefix = settings.RESPAN_PLATFORM_KEY_PREFIX
    known = {each.upper().replace("-", "_") for each in catalog().providers}
    for name in sorted(os.environ):
        if name.startswith(prefix) and name.removeprefix(prefix).removesuffix("_FILE") not in known:
            advice = "The part after the prefix is the provider's id in capitals, - as _ (see the Models page)."
            yield Finding("provider-keys", "warn", f"{name} names no provider of the catalogue", advice)


def _platform_keys() -> Iterator[Finding]:
    try:
        offered = credentials.offered()
    except OSError as error:
        text = f"a key's file cannot be read: {error.filename}"
        yield Finding("provider-keys", "fail", text, "Check RESPAN_PLATFORM_KEY_..._FILE.")
        return
    if not offered:
        advice = "Set RESPAN_PLATFORM_KEY_... or enter one in the console, if customers should pay with credits."
        yield Finding("provider-keys", "ok", "no platform keys: credits pay for nothing but the sandbox", advice)
    for host in sorted({urlsplit(stored.effective_base_url()).hostname or "" for stored in offered}):
        try:
            socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
        except OSError:
            yield Finding("provider-keys", "warn", f"{host} does not resolve from here", "Check this host's DNS.")


def stored_keys() -> Iterator[Finding]:
    """Tell whether the stored provider keys open with RESPAN_KEYS, and whether a rotation is unfinished."""
    unreadable, count = list[str](), 0
    for row in Credential.objects.order_by("-pk")[:_MAX_KEYS_OPENED].iterator():
        count += 1
        try:
            credentials.of(row).secret()
        except credentials.CredentialUnreadable:
            unreadable.append(row.public_id)
    if unreadable:
        text = f"{len(unreadable)} of {count} stored provider keys do not open: {', '.join(unreadable[:5])}"
        yield Finding("provider-keys", "fail", text, "Put the RESPAN_KEYS that sealed them back, or enter them anew.")
    else:
        yield Finding("provider-keys", "ok", f"{count} stored provider keys open with RESPAN_KEYS")
    if old := Credential.objects.exclude(sealed__startswith=credentials.seals_with()).count():
        text = f"{old} provider keys are sealed under an older key of RESPAN_KEYS"
        yield Finding("provider-keys", "warn", text, "Run `manage.py rotate_keys`, then drop the old key.")


def look_at_catalogue() -> Iterator[Finding]:
    """Its files can be read, are not old, and what is sold has a price."""
    try:
        listed = catalog.listed()
    except CatalogError as error:
        yield Finding("catalogue", "fail", str(error), "Correct the file; `manage.py sync_catalog --check` reads it.")
        return
    yield _age(max(path.stat().st_mtime for path in FOLDER.glob("*.json")))
    wanted = {(model.provider, model.id) for model in listed.models() if model.rates is not None}
    if unpublished := len(wanted - set(ModelRates.objects.values_list("provider", "model").distinct())):
        text = f"{unpublished} prices of the catalogue are not published"
        yield Finding("catalogue", "warn", text, "Run `manage.py sync_catalog`.")
    if missing := console.unpriced_models():
        text = f"{len(missing)} models of providers with a platform key have no price: nobody can call them on credits"
        yield Finding("catalogue", "warn", text, "See Missing prices in the console.")


def _age(written_at: float) -> Finding:
    age = datetime.now(UTC) - datetime.fromtimestamp(written_at, UTC)
    count = sum(1 for _ in catalog().models())
    text = f"{len(catalog().providers)} providers, {count:,} models, files of {max(age.days, 0)} days ago"
    if age > _CATALOGUE_MAX_AGE:
        return Finding("catalogue", "warn", text, "Prices change: upgrade Respan, or add models in the console.")
    return Finding("catalogue", "ok", text)


def look_at_operator() -> Iterator[Finding]:
    """Somebody may enter the console."""
    if setup.has_operator():
        yield Finding("people", "ok", "there is an operator")
    else:
        yield Finding("people", "warn", "there is no operator yet", "Start Respan: it prints a set-up link.")
