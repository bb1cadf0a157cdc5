"""Provider keys: how they are sealed, which of them a call may use, how people add and change them.

A key is encrypted with AES-256-GCM under the first key of `RESPAN_KEYS`, bound by its associated data to organization,
provider, credential and origin: a row moved to another tenant, or a base URL that points elsewhere, does not open.
This is the only module that sees a provider key in the clear, as a `Secret` that no log, page or pickle can show.
Neighbours: `respan.sealing` (the envelope), `models.py` (the table), `routing.py` and `call.py` (which key pays),
`views.py` and `admin.py` (people), `rotation.py` (a new key ring), `probe.py` (a test call).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import psycopg
import structlog
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import audit
from accounts.models import Organization, User
from gateway import operator_keys
from gateway.entered import (
    NameTaken,
    SecretRequired,
    check_name,
    check_secret,
    check_weight,
    checked_base_url,
    checked_models,
    get_provider,
)
from gateway.entered import (
    Secret as Secret,
)
from gateway.models import Credential
from gateway.providers import catalog
from gateway.routing import CUSTOM
from respan import ids, pool, sealing
from respan.errors import Error
from respan.sealing import InvalidKeyRing as InvalidKeyRing
from respan.shared import Shared

log = structlog.get_logger(__name__)

FRESH_S = 5.0
STALE_S = 600.0
OPEN_S = 60.0
_MAX_CACHED = 10_000
_PURPOSE = "provider-key"
_FROM_ENVIRONMENT = "environment"


class CredentialUnreadable(Error):
    """A stored key does not open: its row was tampered with, or the key that sealed it is gone from RESPAN_KEYS."""

    status = 503
    code = "credential_unreadable"
    message = "This provider key cannot be read any more. Enter it again on the Integrations page."


class CredentialsUnavailable(Error):
    """The database cannot be asked which provider keys there are, and nothing recent enough is remembered."""

    status = 503
    code = "credentials_unavailable"
    message = "Provider keys cannot be read right now. Try again in a moment."


@dataclass(frozen=True, slots=True)
class Stored:
    """A credential as the gateway knows it: everything but the key, which `secret` opens when it is used."""

    public_id: str
    organization_id: int | None
    provider: str
    name: str
    base_url: str | None
    models: tuple[str, ...]
    sealed: str
    # Its share of the calls among the keys that could serve the same call.
    weight: int = 1

    @property
    def identity(self) -> str:
        """Return what tells it from every other key, in this process only."""
        return self.public_id

    def secret(self) -> Secret:
        """Open the key. An opened one is remembered for a minute, by everything it is bound to.

        Raises: CredentialUnreadable.
        """
        if self.sealed == _FROM_ENVIRONMENT:
            return _environment_secret(self.provider)
        opened = _opened.get(self)
        if opened is None or time.monotonic() >= opened[1]:
            if len(_opened) >= _MAX_CACHED:
                _opened.clear()
            opened = _opened[self] = (self._open(), time.monotonic() + OPEN_S)
        return opened[0]

    def _open(self) -> Secret:
        for base_url in self._base_urls():
            try:
                return unseal(self.sealed, _binding(self, base_url))
            except CredentialUnreadable:
                continue
        raise CredentialUnreadable

    def effective_base_url(self) -> str:
        """Return where its calls go: its own base URL, else the catalogue's."""
        return next(iter(self._base_urls()), "")

    def allows(self, model_id: str) -> bool:
        """Tell whether this credential may be used for a model."""
        return not self.models or model_id in self.models

    def _base_urls(self) -> tuple[str, ...]:
        if self.base_url:
            return (self.base_url,)
        provider = catalog().providers.get(self.provider)
        return (provider.base_url, *provider.former_base_urls) if provider else ()


_NO_SECRET = Secret("")


@dataclass(frozen=True, slots=True)
class GivenKey(Stored):
    """A key that came with the request itself: used for it and kept nowhere."""

    given: Secret = _NO_SECRET

    @property
    def identity(self) -> str:
        # What is known of how one of them fares says nothing of another.
        return f"{self.public_id}:{self.organization_id}:{hash(self.given.reveal())}"

    def secret(self) -> Secret:
        return self.given


# --- The envelope ----------------------------------------------------------------------------------------------------


_opened: "dict[Stored, tuple[Secret, float]]" = {}


def seal(secret: Secret, binding: bytes) -> str:
    """Encrypt under the first key of the ring. Raises: InvalidKeyRing."""
    return sealing.seal(secret.reveal(), purpose=_PURPOSE, binding=binding)


def unseal(sealed: str, binding: bytes) -> Secret:
    """Decrypt what `seal` made for the same binding.

    Raises: CredentialUnreadable, whatever is wrong.
    """
    try:
        return Secret(sealing.unseal(sealed, purpose=_PURPOSE, binding=binding))
    except sealing.Unreadable:
        raise CredentialUnreadable from None


def seals_with() -> str:
    """Return what every text sealed under the first key of the ring begins with. Raises: InvalidKeyRing."""
    return sealing.begins_with(_PURPOSE)


def reseal(stored: Stored) -> str:
    """Return the key of a credential sealed anew, under the first key of the ring. Raises: CredentialUnreadable."""
    return seal(stored.secret(), _binding(stored, stored.effective_base_url()))


def _binding(stored: Stored, base_url: str) -> bytes:
    """Return the associated data of a credential at a server."""
    owner = "platform" if stored.organization_id is None else str(stored.organization_id)
    return sealing.binding(_PURPOSE, sealing.FORMAT, owner, stored.provider, stored.public_id, origin(base_url))


@lru_cache(maxsize=2_000)
def origin(base_url: str) -> str:
    """Return `scheme://host:port` of a URL, in lower case and with the port written out."""
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


# --- What a call may use ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Cached:
    stored: tuple[Stored, ...]
    read_at: float
    # When the database is to be asked again; later than `read_at` + FRESH_S while it does not answer.
    ask_at: float


_cache: dict[int | None, _Cached] = {}
_fetches: Shared[tuple[int | None, int], tuple[Stored, ...]] = Shared()
# Counts local changes: an answer that was under way during one is not kept.
_changes = 0

_SELECT = (
    "SELECT public_id, organization_id, provider, name, base_url, allowed_models, sealed, weight"
    " FROM gateway_credential"
)


async def usable(organization_id: int, *, now: float | None = None) -> tuple[Stored, ...]:
    """Return the organization's own credentials, at most 5 s old (10 minutes while the database is down).

    `now` is in seconds of `time.monotonic()`. Raises: CredentialsUnavailable.
    """
    return await _read(organization_id, time.monotonic() if now is None else now)


async def platform(*, now: float | None = None) -> tuple[Stored, ...]:
    """Return the operator's credentials, those of the environment first; of the same age as `usable`.

    Raises: CredentialsUnavailable, unless the environment names some.
    """
    return await _read(None, time.monotonic() if now is None else now)


async def _read(organization_id: int | None, now: float) -> tuple[Stored, ...]:
    cached = _cache.get(organization_id)
    if cached is not None and now < cached.ask_at:
        return cached.stored
    seen = _changes
    try:
        stored = await _fetches.get((organization_id, seen), lambda: _fetch(organization_id))
    except psycopg.Error as error:
        log.warning("credentials_not_read", error=type(error).__name__)
        return _remembered(organization_id, cached, now)
    if seen == _changes:
        _remember(organization_id, stored, now)
    return stored


def _remember(organization_id: int | None, stored: tuple[Stored, ...], now: float) -> None:
    if len(_cache) >= _MAX_CACHED:
        _cache.clear()
    _cache[organization_id] = _Cached(stored, now, now + FRESH_S)


def _remembered(organization_id: int | None, cached: _Cached | None, now: float) -> tuple[Stored, ...]:
    """Return what was last read, and spare the calls of the next seconds a wait for the database."""
    if cached is not None and now - cached.read_at <= STALE_S:
        cached.ask_at = now + FRESH_S
        return cached.stored
    if organization_id is None and (from_environment := _environment_credentials()):
        return from_environment
    raise CredentialsUnavailable(headers={"Retry-After": "1"}) from None


async def _fetch(organization_id: int | None) -> tuple[Stored, ...]:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            f"{_SELECT} WHERE organization_id IS NOT DISTINCT FROM %s ORDER BY id", [organization_id]
        )
        rows = tuple(_stored(*row) for row in await cursor.fetchall())
    return (*_environment_credentials(), *rows) if organization_id is None else rows


def _stored(
    public_id: str,
    organization_id: int | None,
    provider: str,
    name: str,
    base_url: str,
    models: list[str],
    sealed: str,
    weight: int,
) -> Stored:
    return Stored(public_id, organization_id, provider, name, base_url or None, tuple(models), sealed, weight)


def of(credential: Credential) -> Stored:
    """Return a row as the gateway knows it."""
    return _stored(
        credential.public_id,
        credential.organization_id,
        credential.provider,
        credential.name,
        credential.base_url,
        credential.allowed_models,
        credential.sealed,
        credential.weight,
    )


def forget(organization_id: int | None) -> None:
    """Drop what this process remembers of an organization's (None: the platform's) credentials."""
    global _changes
    _changes += 1
    _cache.pop(organization_id, None)
    _opened.clear()


def _environment_credentials() -> tuple[Stored, ...]:
    """Return a credential for each provider with `RESPAN_PLATFORM_KEY_<ID>` (or `..._FILE`) in the environment."""
    found = []
    for provider in catalog().providers.values():
        if "api_key" in provider.credential_fields and provider.id != CUSTOM and operator_keys.key(provider.id):
            base_url = operator_keys.base_url(provider.id)
            found.append(
                Stored(f"env_{provider.id}", None, provider.id, "environment", base_url or None, (), _FROM_ENVIRONMENT)
            )
    return tuple(found)


def _environment_secret(provider_id: str) -> Secret:
    value = operator_keys.key(provider_id)
    if not value:
        raise CredentialUnreadable("The platform's key is gone from the environment.")
    return Secret(value)


def from_environment() -> tuple[Stored, ...]:
    """Return the operator's credentials that stand in the environment: no row, nothing to change in a page."""
    return _environment_credentials()


def offered() -> tuple[Stored, ...]:
    """Return what `platform` returns, for a page: it may wait for the database."""
    return (*_environment_credentials(), *map(of, Credential.objects.filter(organization=None)))


def count(organization: Organization) -> int:
    """Return how many provider keys an organization has."""
    return Credential.objects.filter(organization=organization).count()


# --- Storing ---------------------------------------------------------------------------------------------------------


def check(
    *,
    organization: Organization | None,
    provider: str,
    name: str,
    secret: Secret | None,
    base_url: str | None,
    models: Sequence[str],
    weight: int | None = None,
    replaces: Stored | None = None,
) -> tuple[str, list[str]]:
    """Return the base URL and the models as they would be kept; `replaces` is the credential that is changed.

    Raises: InvalidCredential naming the field (SecretRequired when the server changes and no key is given);
    respan.outbound.ForbiddenAddress.
    """
    facts = get_provider(provider)
    base_url = checked_base_url(facts, base_url, organization)
    if replaces is None:
        check_name(facts, name)
        if Credential.objects.filter(organization=organization, provider=provider, name=name).exists():
            raise NameTaken(param="name")
    elif secret is None and origin(base_url or facts.base_url) != origin(replaces.effective_base_url()):
        raise SecretRequired(param="secret")
    if secret is not None or replaces is None:
        check_secret(facts, secret or Secret(""))
    if weight is not None:
        check_weight(weight)
    return base_url, checked_models(facts, models)


def store(
    *,
    organization: Organization | None,
    provider: str,
    name: str,
    secret: Secret | str | None,
    base_url: str | None = None,
    models: Sequence[str] = (),
    weight: int | None = None,
    actor: User | None,
    address: str | None,
    submission: UUID | None = None,
) -> Credential:
    """Seal and keep a provider key; None as organization makes it the platform's, None as weight means 1.

    The same `submission` (a form sent twice) stores one credential and returns it both times. Raises: as `check`.
    """
    secret = secret if isinstance(secret, Secret) else Secret(secret or "")
    credential = Credential(
        organization=organization, provider=provider, name=name, weight=weight or 1, created_by=actor
    )
    if submission is not None:
        credential.public_id = _public_id(organization, submission)
        if twin := Credential.objects.filter(public_id=credential.public_id).first():
            return twin
    credential.base_url, credential.allowed_models = check(
        organization=organization,
        provider=provider,
        name=name,
        secret=secret,
        base_url=base_url,
        models=models,
        weight=weight,
    )
    _seal_into(credential, secret)
    try:
        with transaction.atomic():
            credential.save(force_insert=True)
            _record(credential, "credential.created", actor, address)
    except IntegrityError:
        if twin := Credential.objects.filter(public_id=credential.public_id).first():
            return twin
        raise NameTaken(param="name") from None
    return credential


def change(
    *,
    credential: Credential,
    secret: Secret | None,
    base_url: str | None = None,
    models: Sequence[str] = (),
    weight: int | None = None,
    actor: User | None,
    address: str | None,
) -> Credential:
    """Replace a credential's key and weight (None keeps either), base URL and allowed models. Raises: as `check`."""
    with transaction.atomic():
        row = Credential.objects.select_for_update(of=("self",)).select_related("organization").get(pk=credential.pk)
        row.base_url, row.allowed_models = check(
            organization=row.organization,
            provider=row.provider,
            name=row.name,
            secret=secret,
            base_url=base_url,
            models=models,
            weight=weight,
            replaces=of(row),
        )
        row.weight = row.weight if weight is None else weight
        if secret is not None:
            _seal_into(row, secret)
            row.tested_at = row.test_passed = row.test_latency_ms = None
            row.test_note = ""
        row.save()
        _record(row, "credential.changed", actor, address, secret_replaced=secret is not None)
    return row


def remove(*, credential: Credential, actor: User | None, address: str | None) -> None:
    """Delete a credential; calls stop using it within 5 s on every host, at once on this one."""
    with transaction.atomic():
        deleted, _ = Credential.objects.filter(pk=credential.pk).delete()
        if deleted:
            _record(credential, "credential.removed", actor, address)


def note_test(
    *,
    credential: Credential,
    passed: bool,
    latency_ms: int,
    note: str,
    actor: User | None,
    address: str | None,
    now: datetime,
) -> None:
    """Keep the outcome of a test call beside the key it was made with."""
    with transaction.atomic():
        # A key replaced in the meantime was not the one tested.
        kept = Credential.objects.filter(pk=credential.pk, sealed_at=credential.sealed_at).update(
            tested_at=now, test_passed=passed, test_latency_ms=latency_ms, test_note=note[:400]
        )
        if kept:
            _record(credential, "credential.tested", actor, address, passed=passed)


def _record(credential: Credential, action: str, actor: User | None, address: str | None, **detail: Any) -> None:
    audit.record(
        organization=credential.organization,
        actor=actor,
        action=action,
        target=credential.public_id,
        detail={
            "provider": credential.provider,
            "name": credential.name,
            "base_url": credential.base_url,
            "weight": credential.weight,
            **detail,
        },
        address=address,
    )
    organization_id = credential.organization_id
    transaction.on_commit(lambda: forget(organization_id))


def _seal_into(credential: Credential, secret: Secret) -> None:
    value = secret.reveal()
    stored = of(credential)
    credential.sealed = seal(secret, _binding(stored, stored.effective_base_url()))
    credential.last_four = value[-4:] if len(value) >= 16 else ""
    credential.sealed_at = timezone.now()


def _public_id(organization: Organization | None, submission: UUID) -> str:
    """Return an id that only this organization's form can produce."""
    return ids.encode("cred", uuid5(submission, organization.public_id if organization else "platform"))
