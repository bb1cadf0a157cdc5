"""The limits of an organization: what each allows, whom it counts, and which of them a call meets.

Responsible for what this process remembers of them: at most 5 s old, ten minutes while the database is away. Never
counts and never refuses. Neighbours: `models.LimitPolicy`, `limit_changes.py` (who writes), `throttle.py` (who acts),
`windows.py` (when a limit begins anew).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import psycopg
import structlog

from gateway import windows
from gateway.providers import catalog
from gateway.windows import Window
from respan import pool
from respan.shared import Shared

log = structlog.get_logger(__name__)

# What a limit may count apart, in the order in which the values stand in a counter's name.
SCOPES: Final = ("organization_id", "api_key_id", "customer_identifier", "model", "endpoint")
REQUESTS, TOKENS, COST, CONCURRENCY = "request_count", "token_count", "cost", "concurrency"
HARD, SOFT = "hard", "soft"

FRESH_S: Final = 5.0
STALE_S: Final = 600.0
_MAX_CACHED: Final = 10_000
_MAX_MODEL: Final = 200


class Facts(NamedTuple):
    """What limits look at in a call."""

    organization_id: int
    api_key_id: int
    customer_identifier: str | None
    model: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A limit as calls meet it. `hard` and `soft` are values that the counter reaches; times are Unix milliseconds."""

    id: int
    public_id: str
    organization_id: int
    name: str
    compose: tuple[str, ...]
    values: Mapping[str, str]
    metric: str
    period: str = "minute"
    anchor_ms: int | None = None
    first_event: bool = False
    from_ms: int = 0
    until_ms: int = windows.NEVER_MS
    hard: int | None = None
    soft: tuple[int, ...] = ()
    revision: int = 1
    # The rows of the API key it is about, and of those that took its place.
    keys: frozenset[int] = field(default_factory=frozenset)

    @property
    def most(self) -> int | None:
        """Return how much may be used; None: any amount.

        A counter of calls blocks the call that would make it reach the value; tokens and cost are only known
        afterwards, so there the first call after the value is reached is blocked.
        """
        if self.hard is None or self.metric in (TOKENS, COST):
            return self.hard
        return max(self.hard - 1, 0)

    def window(self, now_ms: int) -> Window:
        """Return the window under way; one that begins with the first event begins now."""
        return windows.window(self.period, now_ms, anchor_ms=self.anchor_ms, first_event=self.first_event)

    def subject(self, facts: Facts, now_ms: int) -> str | None:
        """Return whom a call counts as, or None where it does not meet this limit."""
        if not self.from_ms <= now_ms < self.until_ms:
            return None
        found = []
        for scope in self.compose:
            value = self._value(scope, facts)
            if value is None:
                return None
            found.append(value)
        return named(found)

    def _value(self, scope: str, facts: Facts) -> str | None:
        """Return a call's value of one scope, or None where the limit is about another."""
        wanted = self.values.get(scope)
        if scope == "api_key_id":
            if wanted is None:
                return str(facts.api_key_id)
            return wanted if facts.api_key_id in self.keys else None
        if scope == "model":
            model = canonical(facts.model)
            return model if wanted is None or canonical(wanted) == model else None
        value = str(facts.organization_id) if scope == "organization_id" else getattr(facts, scope)
        return value if value is not None and (wanted is None or wanted == value) else None

    def fixed_subject(self) -> str | None:
        """Return the one whom this limit counts, or None where it counts each of them by himself."""
        found = []
        for scope in self.compose:
            value = str(self.organization_id) if scope == "organization_id" else self.values.get(scope)
            if value is None:
                return None
            found.append(canonical(value) if scope == "model" else value)
        return named(found)


def named(values: Sequence[str]) -> str:
    """Return the name of a counter's subject: no two lists of values have the same."""
    return msgspec.json.encode(values).decode()


@lru_cache(maxsize=4_096)
def _canonical(name: str, _: int) -> str:
    found = catalog().find(name)
    return (found[0].full_name if found else name)[:_MAX_MODEL]


def canonical(name: str) -> str:
    """Return one spelling for all names of a model."""
    return _canonical(name, id(catalog()))


def of_request(organization_id: int, per_minute: int) -> Policy:
    """Return the limit that a request brings along for its customer (`customer_params.rate_limit`)."""
    return Policy(
        id=0,
        public_id="",
        organization_id=organization_id,
        name="customer_params.rate_limit",
        compose=("customer_identifier",),
        values={},
        metric=REQUESTS,
        hard=per_minute + 1,
    )


def per(policy: Policy) -> str:
    """Return the time a limit is about, as it stands behind an amount."""
    if policy.metric == CONCURRENCY:
        return ""
    if policy.period.isdigit():
        return f" in {policy.period} s"
    return f" a {policy.period}" if policy.period else " in all"


def shown(metric: str, value: int) -> int | str:
    """Return an amount as people and programs read it: a cost in USD as text, anything else as the number it is."""
    if metric != COST:
        return value
    return f"{value // 1_000_000_000}.{value % 1_000_000_000:09d}".rstrip("0").rstrip(".")


# --- What this process remembers --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Cached:
    policies: tuple[Policy, ...]
    read_at: float
    # When the database is to be asked again; later than `read_at` + FRESH_S while it does not answer.
    ask_at: float


_cache: dict[int, _Cached] = {}
_fetches: Shared[tuple[int, int], tuple[Policy, ...]] = Shared()
# Counts local changes: an answer that was under way during one is not kept.
_changes = 0

_COLUMNS = (
    "id, public_id, organization_id, name, compose, scope_values, metric, period, anchor, anchor_at, effective_at,"
    " expires_at, rules, revision"
)
_SELECT = f"""
SELECT {_COLUMNS} FROM gateway_limitpolicy
WHERE organization_id = %s AND is_active AND (expires_at IS NULL OR expires_at > now()) ORDER BY priority DESC, id
"""  # noqa: S608  (constants)
# A rotated key goes on under another row.
_HEIRS = """
WITH RECURSIVE heirs(first, id, next) AS (
    SELECT id, id, replaced_by_id FROM accounts_apikey WHERE organization_id = %s AND id = ANY(%s)
    UNION SELECT heirs.first, key.id, key.replaced_by_id FROM heirs JOIN accounts_apikey key ON key.id = heirs.next)
SELECT first, array_agg(id) FROM heirs GROUP BY first
"""


async def of(organization_id: int, *, now: float | None = None) -> tuple[Policy, ...]:
    """Return an organization's limits in force, the first to be asked first. Never fails.

    `now` is in seconds of `time.monotonic()`.
    """
    now = time.monotonic() if now is None else now
    cached = _cache.get(organization_id)
    if cached is not None and now < cached.ask_at:
        return cached.policies
    seen = _changes
    try:
        policies = await _fetches.get((organization_id, seen), lambda: _fetch(organization_id))
    except psycopg.Error as error:
        log.warning("limits_not_read", error=type(error).__name__)
        return _remembered(organization_id, cached, now)
    if seen == _changes:
        _remember(organization_id, policies, now)
    return policies


def forget(organization_id: int) -> None:
    """Drop what this process remembers of an organization, after a change."""
    global _changes
    _changes += 1
    _cache.pop(organization_id, None)


def _remember(organization_id: int, policies: tuple[Policy, ...], now: float) -> None:
    if len(_cache) >= _MAX_CACHED:
        _cache.clear()
    _cache[organization_id] = _Cached(policies, now, now + FRESH_S)


def _remembered(organization_id: int, cached: _Cached | None, now: float) -> tuple[Policy, ...]:
    """Return what was last read, else no limit, and spare the calls of the next seconds a wait for the database."""
    if cached is None or now - cached.read_at > STALE_S:
        _remember(organization_id, (), now)
        return ()
    cached.ask_at = now + FRESH_S
    return cached.policies


async def _fetch(organization_id: int) -> tuple[Policy, ...]:
    async with pool.connection() as connection:
        rows = await (await connection.execute(_SELECT, [organization_id])).fetchall()
        about = [int(key) for row in rows if (key := row[5].get("api_key_id"))]
        heirs: dict[int, list[int]] = {}
        if about:
            heirs = dict(await (await connection.execute(_HEIRS, [organization_id, about])).fetchall())
    return tuple(built(row, heirs) for row in rows)


def built(row: Sequence[Any], heirs: Mapping[int, Sequence[int]]) -> Policy:
    """Return a row of `_COLUMNS` as calls meet it; `heirs` are the keys that took the place of a key."""
    (id, public_id, organization_id, name, compose, values, metric, period, anchor, anchor_at, *rest) = row
    effective_at, expires_at, rules, revision = rest
    key = values.get("api_key_id")
    hard = [rule["value"] for rule in rules if rule["severity"] == HARD]
    return Policy(
        id=id,
        public_id=public_id,
        organization_id=organization_id,
        name=name,
        compose=tuple(compose),
        values=values,
        metric=metric,
        period=period,
        anchor_ms=_ms(anchor_at) if anchor == "explicit_ts" and anchor_at is not None else None,
        first_event=anchor == "first_event",
        from_ms=_ms(effective_at) if effective_at is not None else 0,
        until_ms=_ms(expires_at) if expires_at is not None else windows.NEVER_MS,
        hard=min(hard, default=None),
        soft=tuple(sorted(rule["value"] for rule in rules if rule["severity"] == SOFT)),
        revision=revision,
        keys=frozenset({int(key), *heirs.get(int(key), ())}) if key else frozenset(),
    )


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
