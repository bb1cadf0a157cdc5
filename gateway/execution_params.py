"""Respan's parameters for how a call is carried out: retries, time limits, the cache.

Responsible for what they may hold and for contradictions among them. Never retries, waits or caches. Neighbours:
`params.py` (the carriers), `routing_params.py` (where a call goes), `retrying.py`, `cache.py`.

Source: Respan's public documentation of the gateway parameters; `RetryParams` and `CacheOptions` of its SDK (2026-11).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.param_values import InvalidRequest, flag, members_of, seconds, whole

NAMES = frozenset(
    {
        "retry_params",
        "timeout",
        "first_token_timeout",
        "cache_enabled",
        "cache_ttl",
        "cache_options",
        "request_breakdown",
    }
)
MAX_TIMEOUT_S = 590.0
_MAX_RETRIES = 100
_MAX_PAUSE_S = 60.0
_MAX_TTL_S = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Retry:
    """Whether, how often and how soon a failed attempt is made again at the same target."""

    enabled: bool = True
    num_retries: int = 3
    retry_after_s: float = 0.2


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a call may take, and how long until its answer begins; None: as usual."""

    total_s: float | None = None
    first_token_s: float | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """What a request says of the cache; None: as the organization has it."""

    enabled: bool | None = None
    ttl_s: int | None = None
    by_customer: bool | None = None
    by_model: bool | None = None
    omit_log: bool | None = None


def retry(values: Mapping[str, Any], warnings: list[str]) -> Retry | None:
    """Read `retry_params`. Raises: InvalidRequest."""
    if values.get("retry_params") is None:
        return None
    given = members_of(values["retry_params"], "retry_params", ("retry_enabled", "num_retries", "retry_after"))
    usual = Retry()
    enabled = flag(given.get("retry_enabled"), "retry_params.retry_enabled")
    count = whole(given.get("num_retries"), "retry_params.num_retries", least=1, most=_MAX_RETRIES)
    name = "retry_params.retry_after"
    pause = seconds(given.get("retry_after"), name, least=0.001, most=_MAX_PAUSE_S, warnings=warnings)
    return Retry(
        enabled=usual.enabled if enabled is None else enabled,
        num_retries=count or usual.num_retries,
        retry_after_s=pause or usual.retry_after_s,
    )


def timeouts(values: Mapping[str, Any], warnings: list[str]) -> Timeouts | None:
    """Read `timeout` and `first_token_timeout`, in seconds. Raises: InvalidRequest."""
    total = seconds(values.get("timeout"), "timeout", least=1, most=MAX_TIMEOUT_S, warnings=warnings)
    name = "first_token_timeout"
    first = seconds(values.get(name), name, least=1, most=MAX_TIMEOUT_S, warnings=warnings)
    if total is None and first is None:
        return None
    if total is not None and first is not None and first > total:
        raise InvalidRequest(f"{name} and timeout contradict each other: the first is longer.", param=name)
    return Timeouts(total, first)


def cache(values: Mapping[str, Any]) -> Cache | None:
    """Read `cache_enabled`, `cache_ttl` (seconds) and `cache_options`. Raises: InvalidRequest."""
    known = ("cache_by_customer", "is_cached_by_model", "omit_log")
    options = members_of(values.get("cache_options"), "cache_options", known)
    by_customer, by_model, omit_log = (flag(options.get(name), f"cache_options.{name}") for name in known)
    found = Cache(
        enabled=flag(values.get("cache_enabled"), "cache_enabled"),
        ttl_s=whole(values.get("cache_ttl"), "cache_ttl", least=1, most=_MAX_TTL_S),
        by_customer=by_customer,
        by_model=by_model,
        omit_log=omit_log,
    )
    return None if found == Cache() else found
