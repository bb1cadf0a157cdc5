"""The second opinion on prices: what genai-prices says a model costs on a day, and where it differs from the first.

Only for building and testing the catalogue: genai-prices is installed with the tests' requirements and is never needed
to serve. Neighbours: `catalog_build.py` (the first opinion), `manage.py build_catalog` (compares them).

Source: https://github.com/pydantic/genai-prices (MIT).
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from gateway import catalog_build
from gateway.catalog_build import Entry, Row
from gateway.catalog_sources import Source

_CLASSES: Final = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
}


def version() -> str:
    """Return which release of genai-prices is asked."""
    from importlib.metadata import version as installed

    return installed("genai-prices")


@lru_cache(maxsize=1)
def _providers() -> dict[str, Any]:
    from genai_prices.data import providers

    return {provider.id: provider for provider in providers}


def price(provider: str, model: str, *, day: date) -> Row | None:
    """Return `price` and, with two steps, `price_above`; None where the model or its price is not known there.

    A provider that is cheaper at some hours costs what it costs at the others.
    """
    found = _providers()[provider].find_model(model)
    if found is None:
        return None
    hours = [found.get_prices(datetime.combine(day, time(hour), UTC)) for hour in range(24)]
    steps = max((_steps(each) for each in hours), key=lambda each: Decimal(each["price"].get("output", "0")))
    return steps if "input" in steps["price"] else None


def compared(rows: Iterable[Row], source: Source, *, day: date) -> tuple[list[Row], list[str]]:
    """Return the models with the price that holds, a note where sources differ, and the differences, a line each.

    A price that a rule states is not touched.
    """
    found, differences = [], []
    for row in rows:
        second = None if row.get("price_is_ours") else price(source.genai_prices, row["id"], day=day)
        if second is None or row["kind"] not in {"chat", "completion", "embedding"}:
            found.append(row)
            continue
        second["price"].setdefault("output", "0")
        row, difference = _settled(row, second, wins=source.genai_wins)
        found.append(row)
        if difference:
            differences.append(f"{row['id']}: {difference}")
    return found, differences


def _settled(row: Row, second: Row, *, wins: bool) -> tuple[Row, str]:
    first = {key: row[key] for key in ("price", "price_above") if row.get(key)}
    if _agree(first, second):
        return row, ""
    if not first:
        # A price we cannot express stays unknown; one that litellm does not tell is taken where the other is believed.
        if wins and row.get("note") in {catalog_build.NO_PRICE, catalog_build.NO_COST}:
            return {**row, **second, "note": ""}, "only genai-prices has a price"
        return row, ""
    if not wins:
        note = f"genai-prices says {_said(second)}"
        return {**row, "note": note}, f"{_said(first)} kept, {note}"
    price = {key: {**first.get(key, {}), **second[key]} for key in second}
    note = f"litellm says {_said(first)}"
    return {**row, "price_above": None, **price, "note": note}, f"{note}, {_said(second)} taken"


def _agree(first: Row, second: Row) -> bool:
    """Tell whether every figure of the second opinion is also one of the first."""
    return first.keys() == second.keys() and all(
        _is_same(name, first[key].get(name), value)
        for key in second
        for name, value in second[key].items()
        if not (name.startswith("cache") and name not in first[key] and value == second[key]["input"])
    )


def _is_same(name: str, one: str | int | None, other: str | int) -> bool:
    # "From 200,000 on" and "above 200,000" are one step.
    return one is not None and abs(Decimal(one) - Decimal(other)) <= (1 if name == "tokens" else 0)


def _said(steps: Row) -> str:
    parts = [f"{name} {value}" for name, value in steps.get("price", {}).items()]
    above = steps.get("price_above")
    more = [f"above {above['tokens']}: {above.get('input')}/{above.get('output')}"] if above else []
    return ", ".join([*parts, *more]) or "nothing"


# --- Providers litellm does not list ----------------------------------------------------------------------------------

_NO_PRICE: Final = "genai-prices has no price of it, or one with more than two steps"
_SEPARATORS: Final = re.compile(r"[^a-z0-9]+")


def listed(source: Source, entries: Mapping[str, Entry], *, day: date) -> list[Row]:
    """Return the models of a provider that resells others', as genai-prices lists them.

    What such a model can do is what its vendor's own can do, as litellm says; of the rest nothing is known.
    """
    known = _by_spelling(entries)
    found = []
    for model in _providers()[source.genai_prices].models:
        steps = price(source.genai_prices, model.id, day=day)
        # What has no price of output answers with no text.
        if model.deprecated or source.is_skipped(model.id) or (steps and "output" not in steps["price"]):
            continue
        like = known.get(_spelling(model.id))
        row = catalog_build.row(model.id, like, source) if like else _unknown(model.id)
        why = "" if steps else _NO_PRICE
        row |= {"price": None, "price_above": None, "note": why, "retires_on": None, **(steps or {})}
        row["context_tokens"] = model.context_window or row["context_tokens"]
        found.append(catalog_build.corrected(row, source.rules))
    return found


def _unknown(name: str) -> Row:
    return {"id": name, "upstream": name, "kind": "chat", "context_tokens": None, "capabilities": {"streaming"}}


def _by_spelling(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Map how models are called to the entry that tells most of them."""
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        spelling = _spelling(name)
        if entry.get("mode") == "chat" and len(entry) > len(found.get(spelling, ())):
            found[spelling] = entry
    return found


def _spelling(name: str) -> str:
    """Return the last part of a name, without dots and capitals: what vendors and resellers agree on."""
    return _SEPARATORS.sub("-", name.rpartition("/")[2].partition(":")[0].lower()).strip("-")


def _steps(prices: Any) -> Row:
    base: Row = {}
    above: Row = {}
    starts: set[int] = set()
    for ours, theirs in _CLASSES.items():
        value = getattr(prices, theirs, None)
        tiers = getattr(value, "tiers", [])
        starts |= {tier.start for tier in tiers}
        if value is not None:
            base[ours] = _text(value.base if tiers else value)
            above[ours] = _text(tiers[-1].price if tiers else value)
    # `price_above` stands for one step: with more of them it would be wrong for all but the last.
    if len(starts) == 1:
        return {"price": base, "price_above": {"tokens": starts.pop(), **above}}
    return {"price": {} if starts else base}


def _text(amount: Decimal) -> str:
    return catalog_build.usd(amount / 1_000_000)
