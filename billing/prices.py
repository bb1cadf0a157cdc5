"""Which rates a call is held and charged at: versioned rows that never change, cached in each process.

`publish` writes a new version where the catalogue's price changed, `current` gives the hot path the newest of each
model, `by_id` gives the worker the version a call was answered under. Never computes an amount.
Neighbours: `usage.py` (Rates), the gateway's catalogue (the source of prices), `respan.pool`.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, TypeAlias

import psycopg
from django.db import connection, transaction

from billing.models import ModelRates
from billing.usage import Rates
from respan import pool
from respan.errors import Error
from respan.shared import Shared

logger = logging.getLogger(__name__)

FRESH_S = 30.0
# With the database down the cached rates stay in use, and it is asked again this often.
RETRY_S = 2.0

_CLASSES = tuple(field.name for field in fields(Rates))
_NEWEST = (
    f"SELECT DISTINCT ON (provider, model) provider, model, id, {', '.join(_CLASSES)} FROM billing_modelrates"  # noqa: S608
    " ORDER BY provider, model, id DESC"
)


class PricesUnavailable(Error):
    """A process that has just started could not read the rates."""

    status = 503
    code = "prices_unavailable"
    message = "Prices cannot be read at the moment, so the call was not made. Try again in a second."


@dataclass(frozen=True, slots=True)
class Price:
    """What a catalogue says of a model."""

    provider: str
    model: str
    rates: Rates


@dataclass(frozen=True, slots=True)
class Priced:
    """Rates, and the version they are."""

    rates_id: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Version:
    """Rates and since when they are charged."""

    rates_id: int
    rates: Rates
    since: datetime


PriceList: TypeAlias = Mapping[tuple[str, str], Priced]


def _by_model(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[str, str], Priced]:
    return {
        (provider, model): Priced(id_, Rates(**dict(zip(_CLASSES, prices, strict=True))))
        for provider, model, id_, *prices in rows
    }


def publish(rows: Iterable[Price]) -> int:
    """Write a new version of each model whose rates changed; return how many. Two of them take turns."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE billing_modelrates IN SHARE ROW EXCLUSIVE MODE")
            cursor.execute(_NEWEST)
            known = _by_model(cursor.fetchall())
        wanted = {(row.provider, row.model): row.rates for row in rows}
        changed = [
            ModelRates(provider=provider, model=model, **asdict(rates))
            for (provider, model), rates in wanted.items()
            if (provider, model) not in known or known[provider, model].rates != rates
        ]
        ModelRates.objects.bulk_create(changed)
    return len(changed)


@dataclass
class _Cache:
    """The newest rates as this process knows them."""

    prices: dict[tuple[str, str], Priced] | None = None
    ask_again_at: float = 0.0
    # The refresh under way: a strong reference, or the loop could drop it halfway.
    refresh: "asyncio.Task[None] | None" = None


_cache = _Cache()
_first: Shared[None, None] = Shared()


async def current() -> PriceList:
    """Return the newest rates of each (provider, model), at most half a minute old; older when the database is down.

    Raises: PricesUnavailable when this process never had any.
    """
    if _cache.prices is None:
        try:
            await _first.get(None, refresh)
        except psycopg.Error as error:
            raise PricesUnavailable(headers={"Retry-After": "1"}) from error
    elif time.monotonic() >= _cache.ask_again_at:
        _cache.ask_again_at = time.monotonic() + RETRY_S
        _cache.refresh = asyncio.create_task(_refresh_quietly())
    assert _cache.prices is not None  # noqa: S101  (just read)
    return _cache.prices


async def refresh() -> None:
    """Read the newest rates now. Raises: psycopg.Error."""
    async with pool.connection() as lent:
        cursor = await lent.execute(_NEWEST)
        _cache.prices = _by_model(await cursor.fetchall())
    _cache.ask_again_at = time.monotonic() + FRESH_S


async def _refresh_quietly() -> None:
    """Refresh beside the calls: none of them waits for a database that does not answer."""
    try:
        await refresh()
    except psycopg.Error as error:
        logger.warning("rates not refreshed: %s", type(error).__name__)


_versions: dict[int, Rates] = {}


def by_id(ids: Iterable[int]) -> dict[int, Rates]:
    """Return the rates of these versions; unknown ones are left out. Rows never change, so they are cached for good."""
    wanted = set(ids)
    if missing := wanted - _versions.keys():
        for id_, *prices in ModelRates.objects.filter(pk__in=missing).values_list("pk", *_CLASSES):
            _versions[id_] = Rates(**dict(zip(_CLASSES, prices, strict=True)))
    return {id_: _versions[id_] for id_ in wanted if id_ in _versions}


def history(provider: str, model: str, *, limit: int = 50) -> list[Version]:
    """Return the versions of a model's rates, the newest (which is charged now) first."""
    rows = ModelRates.objects.filter(provider=provider, model=model).order_by("-id")
    found = rows.values_list("pk", "valid_from", *_CLASSES)[:limit]
    return [Version(id_, Rates(**dict(zip(_CLASSES, prices, strict=True))), since) for id_, since, *prices in found]
