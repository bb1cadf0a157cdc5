"""API keys: issue, change, rotate, revoke, verify. The one place where a presented key becomes a `Caller`.

A key is `rsp_live_` or `rsp_test_`, 32 random base 62 characters (190 bits) and 6 of CRC32 over what precedes, so junk
is refused without the database. Stored is HMAC-SHA256 under RESPAN_KEY_PEPPER; the key itself is shown once and kept
nowhere. A verified key is remembered in this process for 5 seconds, so a revocation or a change of what a key may do
reaches every process within them;
with the database down what was verified in the last 10 minutes stays good. Expiry is checked at every use.
Says what a caller may do (scopes), never checks it. Neighbours: `authentication.py` (headers and scopes),
`key_settings.py` (what of a key can be changed), `views.py` (pages), `respan.pool`.
"""

import asyncio
import hashlib
import hmac
import secrets
import string
import threading
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn

import psycopg
import structlog
from django.conf import settings
from django.db import DatabaseError, IntegrityError, InterfaceError, connection, transaction

from accounts import audit
from accounts.key_settings import Settings
from accounts.models import ApiKey, Environment, Organization, Scope, User, all_scopes
from respan import pool
from respan.errors import Error

log = structlog.get_logger(__name__)

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_PREFIXES = {Environment.PRODUCTION: "rsp_live_", Environment.TEST: "rsp_test_"}
_RANDOM_LENGTH = 32
_CHECK_LENGTH = 6
_PREFIX_LENGTH = 9
_LENGTH = _PREFIX_LENGTH + _RANDOM_LENGTH + _CHECK_LENGTH

FRESH_S = 5.0
STALE_S = 600.0
REFUSED_S = 2.0
DOWN_S = 2.0
USE_NOTED_EVERY_S = 60.0
_MAX_KNOWN = 20_000
_MAX_REFUSED = 4_096


class InvalidKey(Error):
    """A key that is malformed, unknown, revoked or expired."""

    status = 401
    code = "invalid_api_key"
    message = "This API key is not valid. Check it, or create a new one under API keys."


class KeyCheckUnavailable(Error):
    """The database cannot be asked, and this key was not verified lately."""

    status = 503
    code = "key_check_unavailable"
    message = "API keys cannot be checked at the moment. Try again in a moment."


class AlreadyIssued(Exception):
    """The same request was sent before; `api_key` is what it made. Its secret cannot be shown again."""

    def __init__(self, api_key: ApiKey) -> None:
        self.api_key = api_key
        super().__init__(api_key.public_id)


class AlreadyRevoked(Exception):
    """A revoked key cannot be rotated: there is nothing left to replace."""


class NoLongerChangeable(Exception):
    """A key that is revoked, expired or rotated stays what it was: to work on, it would have to come back to life."""


class ChangedMeanwhile(Exception):
    """The key is no longer what it was when its settings were read: somebody else was quicker."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What a verified key may act as.

    `expires_at` is a Unix time; `zero_retention`: nothing of what its calls say is kept; `scopes`: what it may do.
    """

    organization_id: int
    api_key_id: int
    environment: str
    organization_public_id: str
    is_demo: bool
    key_name: str
    expires_at: float | None
    zero_retention: bool
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key and its secret, which exists nowhere else."""

    api_key: ApiKey
    secret: str


def issue(
    *,
    organization: Organization,
    name: str,
    environment: str,
    created_by: User | None,
    expires_at: datetime | None = None,
    scopes: Sequence[str] | None = None,
    zero_retention: bool = False,
    address: str | None = None,
    request_id: uuid.UUID | None = None,
) -> Issued:
    """Create a key of an organization, with every scope unless some are named.

    The same `request_id` creates one key, however often it is sent.
    Raises: AlreadyIssued; ValueError for an unknown environment or scope.
    """
    secret = _new_secret(Environment(environment))
    allowed = all_scopes() if scopes is None else [Scope(scope).value for scope in scopes]
    try:
        with transaction.atomic():
            api_key = ApiKey.objects.create(
                organization=organization,
                name=name,
                digest=_digest(secret),
                prefix=secret[: _PREFIX_LENGTH + 4],
                last_four=secret[-4:],
                environment=environment,
                created_by=created_by,
                expires_at=expires_at,
                scopes=allowed,
                zero_retention=zero_retention,
                request_id=request_id,
            )
            audit.record(
                organization=organization,
                actor=created_by,
                action="api_key.created",
                target=api_key.public_id,
                detail={
                    "name": name,
                    "environment": environment,
                    "expires_at": expires_at and expires_at.isoformat(),
                    "scopes": allowed,
                    "zero_retention": zero_retention,
                },
                address=address,
            )
    except IntegrityError:
        earlier = ApiKey.objects.filter(organization=organization, request_id=request_id).first()
        if request_id is None or earlier is None:
            raise
        raise AlreadyIssued(earlier) from None
    return Issued(api_key=api_key, secret=secret)


def stand_in(
    *, organization: Organization, name: str, environment: str, request_id: uuid.UUID, now: datetime
) -> ApiKey:
    """Return a key nobody can present: no secret belongs to it, and it is revoked from the start. Idempotent.

    Calls that nobody made (sample data) are filed under it.
    """
    api_key, _ = ApiKey.objects.get_or_create(
        organization=organization,
        request_id=request_id,
        defaults={
            "name": name,
            "environment": environment,
            "digest": secrets.token_bytes(32),
            "prefix": f"{_PREFIXES[Environment(environment)]}none",
            "last_four": "none",
            "revoked_at": now,
            "scopes": [],
        },
    )
    return api_key


def rotate(
    *,
    api_key: ApiKey,
    overlap: timedelta,
    actor: User | None,
    now: datetime,
    address: str | None = None,
    request_id: uuid.UUID | None = None,
) -> Issued:
    """Put a new key with the same settings in a key's place.

    The old one goes on for `overlap`, never longer than it would have; the new one lives as long as the old one was
    meant to. Raises: AlreadyIssued (with the key that replaced it) when it was rotated before; AlreadyRevoked.
    """
    with transaction.atomic():
        old = ApiKey.objects.select_for_update().get(pk=api_key.pk)
        if old.replaced_by_id is not None:
            raise AlreadyIssued(ApiKey.objects.get(pk=old.replaced_by_id))
        if old.revoked_at is not None:
            raise AlreadyRevoked
        issued = issue(
            organization=api_key.organization,
            name=old.name,
            environment=old.environment,
            created_by=actor,
            expires_at=old.expires_at and now + (old.expires_at - old.created_at),
            scopes=old.scopes,
            zero_retention=old.zero_retention,
            address=address,
            request_id=request_id,
        )
        old.replaced_by = issued.api_key
        old.expires_at = min(old.expires_at or now + overlap, now + overlap)
        old.save(update_fields=["replaced_by", "expires_at"])
        audit.record(
            organization=api_key.organization,
            actor=actor,
            action="api_key.rotated",
            target=old.public_id,
            detail={
                "name": old.name,
                "replaced_by": issued.api_key.public_id,
                "expires_at": old.expires_at.isoformat(),
            },
            address=address,
        )
        transaction.on_commit(lambda: _forget(old.pk))
    return issued


def is_changeable(api_key: ApiKey, *, now: datetime) -> bool:
    """Tell whether a key's settings can still be changed: it works, and no other has taken its place."""
    is_over = api_key.revoked_at is not None or (api_key.expires_at is not None and api_key.expires_at <= now)
    return not is_over and api_key.replaced_by_id is None


def change(
    *, api_key: ApiKey, to: Settings, seen: str, actor: User | None, now: datetime, address: str | None = None
) -> bool:
    """Give a key other settings, if they are still those with the mark `seen`; tell whether anything was different.

    In force like a revocation: here at once, in every other process within 5 seconds.
    Raises: NoLongerChangeable; ChangedMeanwhile; ValueError for an unknown scope, none, or an end that is past.
    """
    scopes = {Scope(scope).value for scope in to.scopes}
    if not scopes or (to.expires_at is not None and to.expires_at <= now):
        raise ValueError("a key may do something, for some time")
    with transaction.atomic():
        row = ApiKey.objects.select_for_update().get(pk=api_key.pk)
        if not is_changeable(row, now=now):
            raise NoLongerChangeable
        before = Settings.of(row)
        if before.mark != seen:
            raise ChangedMeanwhile
        if to == before:
            return False
        row.name, row.scopes, row.expires_at = to.name, list(to.scopes), to.expires_at
        row.save(update_fields=["name", "scopes", "expires_at"])
        audit.record(
            organization=api_key.organization,
            actor=actor,
            action="api_key.changed",
            target=row.public_id,
            detail={"name": to.name, **to.beside(before)},
            address=address,
        )
        transaction.on_commit(lambda: _forget(row.pk))
    return True


def revoke(*, api_key: ApiKey, actor: User | None, now: datetime, address: str | None = None) -> None:
    """Revoke a key for ever; revoking it again changes nothing."""
    with transaction.atomic():
        if not ApiKey.objects.filter(pk=api_key.pk, revoked_at=None).update(revoked_at=now):
            return
        audit.record(
            organization=api_key.organization,
            actor=actor,
            action="api_key.revoked",
            target=api_key.public_id,
            detail={"name": api_key.name},
            address=address,
        )
        transaction.on_commit(lambda: _forget(api_key.pk))


def _new_secret(environment: Environment) -> str:
    head = _PREFIXES[environment] + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return head + _check(head)


def _check(head: str) -> str:
    number = zlib.crc32(head.encode("ascii"))
    digits = []
    for _ in range(_CHECK_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _digest(secret: str) -> bytes:
    return hmac.digest(settings.RESPAN_KEY_PEPPER.encode(), secret.encode("ascii"), "sha256")


@dataclass(slots=True)
class _Known:
    caller: Caller
    read_at: float
    fresh_until: float


# Both are keyed by the SHA-256 of the whole key: never by a part of it, and no key stays in memory in clear.
_known: dict[bytes, _Known] = {}
_refused: dict[bytes, tuple[float, str]] = {}
_writing = threading.Lock()
# Until then a look-up failed a moment ago: what is stale answers at once, and the look-up goes on behind it.
_down_until = 0.0

_SELECT = """
    SELECT o.id, k.id, k.environment, o.public_id, o.is_demo, k.name,
           extract(epoch FROM k.expires_at)::float8, k.zero_retention OR o.zero_retention, k.scopes,
           k.revoked_at IS NOT NULL OR o.deleted_at IS NOT NULL
    FROM accounts_apikey k JOIN accounts_organization o ON o.id = k.organization_id
    WHERE k.digest = %s
"""


def _remember(name: bytes, row: tuple[Any, ...] | None, read_at: float) -> _Known | None:
    """Keep what the database said of a key; returns None when it said no."""
    global _down_until
    _down_until = 0.0
    with _writing:
        if row is None or row[-1]:
            message = "This API key is not known here." if row is None else "This API key was revoked."
            _known.pop(name, None)
            _refused[name] = (time.monotonic() + REFUSED_S, f"{message} Create a new one under API keys.")
            _drop_oldest(_refused, _MAX_REFUSED)
            return None
        *facts, scopes, _ = row
        caller = Caller(*(*facts, frozenset(scopes)))
        known = _known[name] = _Known(caller, read_at, read_at + FRESH_S)
        _refused.pop(name, None)
        _drop_oldest(_known, _MAX_KNOWN)
        return known


def _drop_oldest(entries: dict[bytes, Any], limit: int) -> None:
    while len(entries) > limit:
        del entries[next(iter(entries))]


def _forget(api_key_id: int) -> None:
    with _writing:
        for name in [name for name, known in _known.items() if known.caller.api_key_id == api_key_id]:
            del _known[name]


def forget_everything() -> None:
    """Forget every verified and refused key of this process (they are asked for again)."""
    with _writing:
        _known.clear()
        _refused.clear()


async def verify(secret: str) -> Caller:
    """Return whom a presented key acts for.

    Raises: InvalidKey; KeyCheckUnavailable.
    """
    name = _name(secret)
    known = _known.get(name)
    if known is None or time.monotonic() >= known.fresh_until:
        known = await _renewed(name, secret, known)
    return _unexpired(known.caller)


def verify_sync(secret: str) -> Caller:
    """Return whom a presented key acts for, asking through Django's connection.

    Raises: InvalidKey; KeyCheckUnavailable.
    """
    name = _name(secret)
    known = _known.get(name)
    if known is None or time.monotonic() >= known.fresh_until:
        digest = _digest_worth_asking(name, secret)
        read_at = time.monotonic()
        try:
            with connection.cursor() as cursor:
                cursor.execute(_SELECT, [digest])
                row = cursor.fetchone()
        except (DatabaseError, InterfaceError):
            known = _stale(name)
        else:
            known = _remember(name, row, read_at) or _refuse(name)
            _note_use_sync(known.caller.api_key_id)
    return _unexpired(known.caller)


def _name(secret: str) -> bytes:
    if len(secret) != _LENGTH or not secret.isascii():
        raise InvalidKey("This is not an API key of Respan: those read rsp_live_… or rsp_test_….")
    return hashlib.sha256(secret.encode("ascii")).digest()


def _digest_worth_asking(name: bytes, secret: str) -> bytes:
    """Return the stored form of a key that may exist; refuse junk and what was refused a moment ago."""
    head = secret[:-_CHECK_LENGTH]
    is_ours = secret.startswith(tuple(_PREFIXES.values())) and secret[_PREFIX_LENGTH:].isalnum()
    if not is_ours or not hmac.compare_digest(_check(head), secret[-_CHECK_LENGTH:]):
        raise InvalidKey("This API key is mistyped or cut off: its check characters do not fit.")
    refused = _refused.get(name)
    if refused is not None and time.monotonic() < refused[0]:
        raise InvalidKey(refused[1])
    return _digest(secret)


def _unexpired(caller: Caller) -> Caller:
    if caller.expires_at is not None and time.time() >= caller.expires_at:
        raise InvalidKey("This API key has expired. Create a new one under API keys.")
    return caller


def _refuse(name: bytes) -> NoReturn:
    refused = _refused.get(name)
    raise InvalidKey(refused[1] if refused else None)


def _stale(name: bytes) -> _Known:
    """Return what is remembered although it is not fresh: the database cannot be asked.

    Raises: KeyCheckUnavailable.
    """
    global _down_until
    _down_until = time.monotonic() + DOWN_S
    known = _known.get(name)
    if known is None or time.monotonic() - known.read_at >= STALE_S:
        raise KeyCheckUnavailable(headers={"Retry-After": "1"})
    return known


# One look-up at a time for a key: a thousand calls that find it stale ask once.
_asking: dict[bytes, "asyncio.Task[bool]"] = {}


async def _renewed(name: bytes, secret: str, known: _Known | None) -> _Known:
    digest = _digest_worth_asking(name, secret)
    task = _asking.get(name)
    if task is None or task.get_loop() is not asyncio.get_running_loop():
        task = _asking[name] = asyncio.create_task(_ask(name, digest))
        task.add_done_callback(lambda done: _asking.pop(name) if _asking.get(name) is done else None)
    if known is not None and time.monotonic() < min(_down_until, known.read_at + STALE_S):
        return known
    # Shielded: a caller who leaves must not take the answer away from the others.
    answered = await asyncio.shield(task)
    return (_known.get(name) or _refuse(name)) if answered else _stale(name)


async def _ask(name: bytes, digest: bytes) -> bool:
    """Ask the database for a key and remember what it says; returns whether it answered."""
    global _down_until
    read_at = time.monotonic()
    try:
        async with pool.connection() as lent:
            row = await (await lent.execute(_SELECT, (digest,))).fetchone()
    except (psycopg.Error, OSError) as error:
        _down_until = time.monotonic() + DOWN_S
        log.warning("an API key cannot be checked", error=type(error).__name__)
        return False
    known = _remember(name, row, read_at)
    if known is not None:
        _note_use(known.caller.api_key_id)
    return True


# A key in use is looked up every 5 seconds: those are the moments noted, so the hot path pays nothing for it.
_noted: dict[int, float] = {}
_due: set[int] = set()
_flushes: "set[asyncio.Task[None]]" = set()

_UPDATE = """
    UPDATE accounts_apikey SET last_used_at = now() WHERE id IN (
        SELECT id FROM accounts_apikey
        WHERE id = ANY(%s) AND (last_used_at IS NULL OR last_used_at < now() - interval '30 seconds')
        ORDER BY id FOR UPDATE SKIP LOCKED)
"""


def _is_due(api_key_id: int) -> bool:
    now = time.monotonic()
    if now - _noted.get(api_key_id, -USE_NOTED_EVERY_S) < USE_NOTED_EVERY_S:
        return False
    if len(_noted) >= _MAX_KNOWN:
        _noted.clear()
    _noted[api_key_id] = now
    return True


def _note_use(api_key_id: int) -> None:
    if not _is_due(api_key_id):
        return
    _due.add(api_key_id)
    loop = asyncio.get_running_loop()
    if not any(task.get_loop() is loop for task in _flushes):
        task = loop.create_task(_flush_soon())
        _flushes.add(task)
        task.add_done_callback(_flushes.discard)


async def _flush_soon() -> None:
    await asyncio.sleep(1.0)
    await flush_last_used()


async def flush_last_used() -> None:
    """Write the noted uses with one UPDATE; without a database they are dropped (also called at shutdown)."""
    due = sorted(_due)
    _due.difference_update(due)
    if not due:
        return
    try:
        async with pool.connection() as lent:
            await lent.execute(_UPDATE, (due,))
    except (psycopg.Error, OSError) as error:
        log.warning("last uses of API keys were not written", error=type(error).__name__)


def _note_use_sync(api_key_id: int) -> None:
    if not _is_due(api_key_id):
        return
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_UPDATE, [[api_key_id]])
    except DatabaseError as error:
        log.warning("the last use of an API key was not written", error=type(error).__name__)
