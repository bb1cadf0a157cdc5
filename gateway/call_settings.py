"""How an organization wants its calls carried out where a request says nothing: fallbacks, retries, balancing, cache.

Responsible for what this process remembers of it: at most 5 s old, ten minutes while the database is away, and without
anything remembered the defaults, because no call fails for want of settings. Never writes them. Neighbours: `models.py`
(the tables), `candidates.py`, `call.py` and `cache.py` (who act on them).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import psycopg
import structlog

from gateway.params import Member
from respan import pool
from respan.shared import Shared

log = structlog.get_logger(__name__)

FRESH_S = 5.0
STALE_S = 600.0
_MAX_CACHED = 10_000

Strategy = Literal["weighted", "latency", "cost"]


@dataclass(frozen=True, slots=True)
class Group:
    """Models that share the calls which name the group."""

    group_id: str
    strategy: Strategy
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an organization; the defaults are those of `models.CallSettings`."""

    fallback_models: tuple[str, ...] = ()
    fallback_enabled: bool = True
    retry_enabled: bool = True
    # Beside the first attempt, at the same target.
    num_retries: int = 2
    retry_after_s: float = 0.25
    strategy: Strategy = "weighted"
    cache_enabled: bool = False
    cache_ttl_s: int = 1_800
    cache_by_customer: bool = False
    cache_by_model: bool = False
    cache_omit_log: bool = False
    # By what a request writes as `load_balance_group.group_id`.
    groups: Mapping[str, Group] = field(default_factory=dict)


DEFAULTS = Settings()


@dataclass(slots=True)
class _Cached:
    settings: Settings
    read_at: float
    # When the database is to be asked again; later than `read_at` + FRESH_S while it does not answer.
    ask_at: float


_cache: dict[int, _Cached] = {}
_fetches: Shared[tuple[int, int], Settings] = Shared()
# Counts local changes: an answer that was under way during one is not kept.
_changes = 0

_SETTINGS_SQL = """
SELECT fallback_models, fallback_enabled, retry_enabled, num_retries, retry_after_ms / 1000.0::float8, strategy,
       cache_enabled, cache_ttl_s, cache_by_customer, cache_by_model, cache_omit_log
FROM gateway_callsettings WHERE organization_id = %s
"""
_GROUPS_SQL = "SELECT group_id, strategy, members FROM gateway_loadbalancegroup WHERE organization_id = %s ORDER BY id"


async def of(organization_id: int, *, now: float | None = None) -> Settings:
    """Return an organization's settings; `now` is in seconds of `time.monotonic()`. Never fails."""
    now = time.monotonic() if now is None else now
    cached = _cache.get(organization_id)
    if cached is not None and now < cached.ask_at:
        return cached.settings
    seen = _changes
    try:
        settings = await _fetches.get((organization_id, seen), lambda: _fetch(organization_id))
    except psycopg.Error as error:
        log.warning("call_settings_not_read", error=type(error).__name__)
        return _remembered(organization_id, cached, now)
    if seen == _changes:
        _remember(organization_id, settings, now)
    return settings


def forget(organization_id: int) -> None:
    """Drop what this process remembers of an organization, after a change."""
    global _changes
    _changes += 1
    _cache.pop(organization_id, None)


def _remember(organization_id: int, settings: Settings, now: float) -> None:
    if len(_cache) >= _MAX_CACHED:
        _cache.clear()
    _cache[organization_id] = _Cached(settings, now, now + FRESH_S)


def _remembered(organization_id: int, cached: _Cached | None, now: float) -> Settings:
    """Return what was last read, else the defaults, and spare the calls of the next seconds a wait for the database."""
    if cached is None or now - cached.read_at > STALE_S:
        _remember(organization_id, DEFAULTS, now)
        return DEFAULTS
    cached.ask_at = now + FRESH_S
    return cached.settings


async def _fetch(organization_id: int) -> Settings:
    async with pool.connection() as connection:
        row = await (await connection.execute(_SETTINGS_SQL, [organization_id])).fetchone()
        groups = await (await connection.execute(_GROUPS_SQL, [organization_id])).fetchall()
    if row is None and not groups:
        return DEFAULTS
    shared = {group_id: Group(group_id, strategy, _members(members)) for group_id, strategy, members in groups}
    return replace(DEFAULTS if row is None else _settings(*row), groups=shared)


def _settings(fallback_models: list[str], *others: Any) -> Settings:
    return Settings(tuple(fallback_models), *others)


def _members(rows: list[Any]) -> tuple[Member, ...]:
    return tuple(Member(row["model"], row.get("weight", 1), tuple(row.get("credentials") or ())) for row in rows)
