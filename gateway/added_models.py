"""The models an operator adds while everything runs: how they get into each process' catalogue and into the price list.

A web process asks the database every few seconds, beside the calls: none of them waits for it, and with the database
down the catalogue stays as it was. Never judges what is typed (that is the form's) and never reads a file. Neighbours:
`models.py` (the table), `admin.py` (where they are typed), `providers.py` (the catalogue they join), `billing.prices`.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import fields
from decimal import Decimal
from typing import Any, Final

import psycopg
import structlog
from django.db import transaction

from billing import prices
from billing.usage import Rates, nano_from_usd
from gateway.models import AddedModel
from gateway.providers import Catalog, Model, Provider, catalog
from respan import pool

log = structlog.get_logger(__name__)

POLL_S: Final = 3.0

_COLUMNS: Final = (
    "provider", "model_id", "upstream", "name", "aliases", "kind", "context_tokens", "max_output_tokens",
    "capabilities", "thinking", "efforts", "unsupported", "image_tokens", "input_usd", "output_usd", "cache_read_usd",
    "cache_write_usd", "cache_write_1h_usd", "retires_on",
)  # fmt: skip
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM gateway_addedmodel ORDER BY id"  # noqa: S608  (our own names)


# --- From a row to a model --------------------------------------------------------------------------------------------


def _models(rows: Iterable[tuple[Any, ...]]) -> list[Model]:
    """Return the models of rows; those whose provider has left the catalogue are left out."""
    providers = catalog.listed().providers
    told = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    return [_model(each, providers[each["provider"]]) for each in told if each["provider"] in providers]


def _model(row: dict[str, Any], provider: Provider) -> Model:
    id = row["model_id"]
    return Model(
        id=id,
        provider=provider.id,
        upstream=row["upstream"] or id,
        name=row["name"] or id,
        aliases=tuple(row["aliases"]),
        context_tokens=row["context_tokens"],
        max_output_tokens=row["max_output_tokens"],
        rates=_rates(row),
        image_tokens=provider.image_tokens if row["image_tokens"] is None else row["image_tokens"],
        capabilities=frozenset(row["capabilities"]),
        max_tokens_field=provider.max_tokens_field,
        unsupported=provider.unsupported | frozenset(row["unsupported"]),
        retires_on=row["retires_on"],
        kind=row["kind"],
        thinking=row["thinking"],
        efforts=tuple(row["efforts"]),
    )


def _rates(row: dict[str, Any]) -> Rates | None:
    known = {field.name: row.get(f"{field.name}_usd") for field in fields(Rates)}
    if known["input"] is None or known["output"] is None:
        return None
    return Rates(**{name: _nano(amount) for name, amount in known.items() if amount is not None})


def _nano(amount: Decimal) -> int:
    return nano_from_usd(amount)


def read() -> list[Model]:
    """Return every added model, as the database has them now."""
    return _models(AddedModel.objects.order_by("id").values_list(*_COLUMNS))


# --- Changing them ----------------------------------------------------------------------------------------------------


def store(row: AddedModel) -> None:
    """Keep a model and publish its price. This process knows it at once, the others within `POLL_S`."""
    with transaction.atomic():
        row.save()
        _publish(row)


def remove(row: AddedModel) -> None:
    """Delete a model; a listed one that it stood for has its own price again."""
    with transaction.atomic():
        row.delete()
        _publish(row)


def _publish(row: AddedModel) -> None:
    whole = catalog.listed().with_models(read())
    model = whole.providers[row.provider].models.get(row.model_id) if row.provider in whole.providers else None
    if model is not None:
        prices.publish(price_list([model]))
    transaction.on_commit(refresh)


def refresh() -> None:
    """Bring this process' catalogue up to date; waits for the database."""
    catalog.add(read())


def price_list(models: Iterable[Model]) -> list[prices.Price]:
    """Return every price of the models, those of long inputs under a name of their own."""
    found = []
    for model in models:
        if model.rates is not None:
            found.append(prices.Price(model.provider, model.id, model.rates))
        if model.long_rates is not None:
            found.append(prices.Price(model.provider, model.long_price_id, model.long_rates))
    return found


def everything() -> Catalog:
    """Return the files' catalogue with the added models, as the database has them now."""
    return catalog.listed().with_models(read())


# --- Following them in a web process ----------------------------------------------------------------------------------


class _Follower:
    """The task of this process that asks for changes."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the models once, then ask again and again until `stop`."""
        await self._look()
        self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            await self._look()

    async def _look(self) -> None:
        try:
            async with pool.connection() as lent:
                cursor = await lent.execute(_SELECT)
                rows = await cursor.fetchall()
            if catalog.add(_models(rows)):
                # Their prices were published before they were seen.
                await prices.refresh()
        except psycopg.Error as error:
            log.warning("added_models_not_read", error=type(error).__name__)


follower: Final = _Follower()
