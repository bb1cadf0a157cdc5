"""What the cache holds of an organization, for people and for the management API: listed, summed up, deleted.

Responsible for scoping every look and change to one organization, for deleting in Redis too, and for sweeping what has
expired or is too much. Never answers a call. Neighbours: `cache_store.py` (which keeps them), `cache_api.py`,
`cache_views.py`, `tasks.py`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from django.db import connection
from django.db.models import Count, F, Q, QuerySet, Sum
from django.db.models.functions import Now

from accounts import audit
from accounts.models import Organization, User
from gateway import cache_key, cache_store
from gateway.models import CachedAnswer
from respan import redis
from respan.api import Filter, InvalidFilter, MalformedRequest
from respan.errors import Error

# More than that of one organization, and its oldest answers go.
MAX_BYTES: Final = 1024**3
_SWEPT_AT_ONCE: Final = 5_000

# Fields of the API that can be filtered by -> the column.
FIELDS: Final = {
    "cache_key": "key",
    "cache_key_by_org_uuid": "key",
    "timestamp": "created_at",
    "updated_at": "updated_at",
    "expiry_date": "expires_at",
    "model": "model",
    "customer_identifier": "customer_identifier",
}
_TIMES: Final = frozenset({"created_at", "updated_at", "expires_at"})
_LOOKUPS: Final = {
    **{name: name for name in ("lt", "lte", "gt", "gte", "contains", "icontains", "startswith", "endswith")},
    "iexact": "iexact",
    **{f"not_{name}": name for name in ("contains", "startswith", "endswith")},
}


class CacheNotCleared(Error):
    """Redis is away: what is deleted in one place only would go on being answered from the other."""

    status = 503
    code = "cache_unavailable"
    message = "Nothing was changed: Redis, which holds these answers too, cannot be reached. Try again in a moment."


@dataclass(frozen=True, slots=True)
class Savings:
    """What answers and their hits come to."""

    entries: int
    hits: int
    saved_nano: int
    tokens: int
    saved_us: int
    bytes: int


def entries(organization_id: int, *, environment: str | None) -> QuerySet[CachedAnswer]:
    """Return the answers an organization can get again; `environment` None: of all."""
    found = CachedAnswer.objects.filter(organization_id=organization_id, body__isnull=False, expires_at__gt=Now())
    return found.filter(environment=environment) if environment else found


def savings(found: QuerySet[CachedAnswer]) -> Savings:
    """Sum up entries."""
    sums = found.order_by().aggregate(
        entries=Count("key"),
        hits=Sum("hit_count"),
        saved_nano=Sum(F("hit_count") * F("cost_nano")),
        tokens=Sum(F("hit_count") * (F("input_tokens") + F("output_tokens"))),
        saved_us=Sum(F("hit_count") * F("duration_us")),
        bytes=Sum("size"),
    )
    return Savings(**{name: int(value or 0) for name, value in sums.items()})


def key_of(text: str) -> bytes | None:
    """Return the key behind its public form."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        return None
    return key if len(key) == cache_key.SIZE and key.hex() == text else None


def text_of(kept: bytes | memoryview | None) -> Any:
    """Return kept JSON as an object, None where it is none."""
    try:
        return msgspec.json.decode(bytes(kept)) if kept is not None else None
    except (msgspec.DecodeError, RecursionError):
        return None


# --- Filters ----------------------------------------------------------------------------------------------------------


def filtered(found: QuerySet[CachedAnswer], filters: Iterable[Filter]) -> QuerySet[CachedAnswer]:
    """Return the entries that match every filter. Raises: InvalidFilter."""
    for each in filters:
        found = found.filter(_condition(each))
    return found


def _condition(asked: Filter) -> Q:
    column = FIELDS.get(asked.field)
    if column is None:
        raise InvalidFilter(f"Cached answers cannot be filtered by “{asked.field[:100]}”.", param=asked.field[:100])
    if asked.operator in {"isnull", "empty", "not_empty"}:
        nothing = Q(**{f"{column}__isnull": True})
        return ~nothing if asked.operator == "not_empty" else nothing
    values = [_value(asked.field, column, value) for value in asked.values]
    if asked.operator in {"in", "not_in"}:
        among = Q(**{f"{column}__in": values})
        return ~among if asked.operator == "not_in" else among
    is_text = column not in _TIMES and column != "key"
    if len(values) != 1 or (not is_text and asked.operator not in {"lt", "lte", "gt", "gte"}):
        raise InvalidFilter(f"“{asked.field}” cannot be asked so.", param=asked.field)
    condition = Q(**{f"{column}__{_LOOKUPS[asked.operator]}": values[0]})
    return ~condition if asked.operator.startswith("not_") else condition


def _value(field: str, column: str, value: Any) -> Any:
    if column == "key":
        return key_of(str(value)) or b""
    if column in _TIMES:
        return moment(value, field)
    return str(value).replace("\0", "")


def moment(value: Any, param: str) -> datetime:
    """Read a moment in ISO 8601 with its time zone. Raises: MalformedRequest."""
    try:
        found = msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        found = None
    if found is None or found.tzinfo is None:
        raise MalformedRequest(f"“{param}” is a moment such as 2026-10-01T00:00:00Z.", param=param)
    return found


# --- Changes ----------------------------------------------------------------------------------------------------------


def delete(found: QuerySet[CachedAnswer]) -> int:
    """Delete entries of one organization, in Redis first. Returns how many. Raises: CacheNotCleared."""
    keys = [bytes(key) for key in found.order_by().values_list("key", flat=True)]
    _drop(keys)
    return sum(CachedAnswer.objects.filter(key__in=some).delete()[0] for some in _in_parts(keys))


def expire(entry: CachedAnswer, *, at: datetime, now: datetime) -> None:
    """Give an entry another end. Raises: CacheNotCleared."""
    _drop([bytes(entry.key)])  # Redis takes it from the row again
    entry.expires_at, entry.updated_at = at, now
    entry.save(update_fields=["expires_at", "updated_at"])


def remove(entry: CachedAnswer, *, actor: User, address: str | None) -> None:
    """Delete one entry at somebody's word. Raises: CacheNotCleared."""
    if not delete(CachedAnswer.objects.filter(organization_id=entry.organization_id, key=entry.key)):
        return
    audit.record(
        organization=entry.organization,
        actor=actor,
        action="cached_answer.deleted",
        target=bytes(entry.key).hex(),
        detail={"name": entry.model, "note": f"environment: {entry.environment}"},
        address=address,
    )


def clear(*, organization: Organization, environment: str | None, actor: User, address: str | None) -> int:
    """Delete all that is kept of an organization in one environment, or in all. Raises: CacheNotCleared."""
    number = delete(entries(organization.pk, environment=environment))
    audit.record(
        organization=organization,
        actor=actor,
        action="cache.cleared",
        target=organization.public_id,
        detail={"name": organization.name, "note": f"{number} answers, environment: {environment or 'all'}"},
        address=address,
    )
    return number


def _drop(keys: list[bytes]) -> None:
    if not keys or not redis.configured():
        return
    try:
        redis.run_now(lambda client: cache_store.drop(client, keys))
    except redis.Unavailable as error:
        raise CacheNotCleared(headers={"Retry-After": "1"}) from error


def _in_parts(keys: list[bytes], size: int = 1_000) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


_EXPIRED = """
    DELETE FROM gateway_cachedanswer WHERE key IN (
        SELECT key FROM gateway_cachedanswer WHERE expires_at < now() ORDER BY expires_at LIMIT %s
        FOR UPDATE SKIP LOCKED)
"""
_TOO_MUCH = """
    DELETE FROM gateway_cachedanswer WHERE key IN (
        SELECT key FROM (
            SELECT key, sum(size) OVER (PARTITION BY organization_id ORDER BY created_at DESC, key) AS kept
            FROM gateway_cachedanswer
            WHERE organization_id IN (
                SELECT organization_id FROM gateway_cachedanswer GROUP BY organization_id HAVING sum(size) > %s)
        ) AS counted WHERE kept > %s LIMIT %s)
"""


def sweep() -> int:
    """Delete some of what has expired or is too much; returns how many there were."""
    with connection.cursor() as cursor:
        cursor.execute(_EXPIRED, [_SWEPT_AT_ONCE])
        expired = cursor.rowcount
        cursor.execute(_TOO_MUCH, [MAX_BYTES, MAX_BYTES, _SWEPT_AT_ONCE])
        return int(expired + cursor.rowcount)


def forget(organization_id: int) -> None:
    """Delete all of an organization that is being deleted. With Redis the rest ends with its lifetime."""
    CachedAnswer.objects.filter(organization_id=organization_id).delete()


def listed(entry: CachedAnswer) -> Mapping[str, Any]:
    """Return an entry as the management API shows it."""
    request, answer = text_of(entry.request), text_of(entry.body)
    request = request if isinstance(request, dict) else {}
    messages = next((request[name] for name in ("messages", "input", "contents") if name in request), None)
    return {
        "cache_key": bytes(entry.key).hex(),
        "environment": "prod" if entry.environment == "production" else entry.environment,
        "model": entry.model,
        "response_model": entry.response_model,
        "provider_id": entry.provider,
        "customer_identifier": entry.customer_identifier,
        "prompt_content": entry.prompt_text,
        "response_content": entry.answer_text,
        "request_content": entry.prompt_text[:100],
        "prompt_messages": _messages(messages),
        "full_response": answer if isinstance(answer, dict) else None,
        "is_stream": entry.events is not None,
        "hit_count": entry.hit_count,
        "cost": (entry.cost_nano or 0) / 1e9,
        "prompt_tokens": entry.input_tokens,
        "completion_tokens": entry.output_tokens,
        "response_time": entry.duration_us / 1e6,
        "timestamp": entry.created_at,
        "updated_at": entry.updated_at,
        "expiry_date": entry.expires_at,
    }


def _messages(value: Any) -> list[Any] | None:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else None
