"""The prices we ship, beside those of genai-prices: equal for the four vendors that most calls go to."""

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from billing.usage import Rates, nano_from_usd
from gateway import catalog_build, catalog_prices, catalog_sources
from gateway.catalog_build import Row
from gateway.providers import FOLDER, Model, load

# The day the catalogue was built for: prices that are announced for later are not ours yet.
DAY = date(2026, 11, 22)
CATALOG = load([FOLDER])
OTHERS = {
    "mistral": "mistral",
    "deepseek": "deepseek",
    "xai": "x-ai",
    "togetherai": "together",
    "cohere": "cohere",
    "novita": "novita",
    "cerebras": "cerebras",
    "zai": "zai",
}


def rates(price: Row) -> dict[str, int]:
    return {name: nano_from_usd(value) for name, value in price.items() if name != "tokens"}


def differences(ours: Rates | None, theirs: Row) -> dict[str, tuple[int | None, int]]:
    assert ours is not None
    used = {
        "input": ours.input,
        "output": ours.output,
        "cache_read": ours.cache_read_or_input,
        "cache_write": ours.cache_write_or_input,
        "cache_write_1h": ours.cache_write_1h_or_input,
    }
    return {name: (used[name], value) for name, value in rates(theirs).items() if used[name] != value}


def compared(model: Model, second: Row) -> None:
    assert differences(model.rates, second["price"]) == {}, model.full_name
    above = second.get("price_above")
    assert (model.long_rates is None) == (above is None), model.full_name
    if above is not None:
        assert model.long_above_tokens == above["tokens"]
        assert differences(model.long_rates, above) == {}, model.full_name


@pytest.mark.parametrize(
    ("provider", "theirs", "least"),
    [("openai", "openai", 45), ("anthropic", "anthropic", 13), ("google", "google", 18), ("groq", "groq", 4)],
)
def test_prices_equal_those_of_genai_prices(provider: str, theirs: str, least: int) -> None:
    count = 0
    for model in CATALOG.providers[provider].models.values():
        second = catalog_prices.price(theirs, model.id, day=DAY) if model.kind in {"chat", "embedding"} else None
        # What has no single price of its tokens is not sold, whatever is said of it.
        if second is not None and model.rates is not None:
            compared(model, second)
            count += 1
    assert count >= least


def test_a_model_genai_prices_knows_is_never_dearer_by_much_elsewhere() -> None:
    """A misplaced decimal point would show here, at every provider that is compared."""
    for provider, theirs in OTHERS.items():
        for model in CATALOG.providers[provider].models.values():
            second = catalog_prices.price(theirs, model.id, day=DAY) if model.kind == "chat" else None
            if second is None or model.rates is None:
                continue
            ratio = Decimal(model.rates.input) / nano_from_usd(second["price"]["input"])
            assert Decimal("0.2") < ratio < 5, model.full_name


def test_a_cheaper_hour_does_not_count() -> None:
    price = catalog_prices.price("deepseek", "deepseek-v4-pro", day=DAY)
    assert price is not None
    assert price["price"]["input"] == "1.32"


def test_who_litellm_does_not_list_is_listed_by_genai_prices_with_what_its_vendor_can() -> None:
    models = CATALOG.providers["openrouter"].models
    assert len(models) > 500
    assert {"tools", "vision"} <= models["anthropic/claude-sonnet-4.5"].capabilities


def test_a_price_that_only_genai_prices_tells_is_taken_where_it_is_believed() -> None:
    believed = next(source for source in catalog_sources.read() if source.provider == "databricks")
    row = {"id": "system.ai.kimi-k3", "kind": "chat", "note": catalog_build.NO_PRICE}
    (taken,), (difference,) = catalog_prices.compared([row], believed, day=DAY)
    assert taken["price"] == {"input": "3", "output": "15", "cache_read": "0.3"}
    assert (taken["note"], difference) == ("", "system.ai.kimi-k3: only genai-prices has a price")
    for unknown, source in (
        (row | {"note": "reasoning has a price of its own"}, believed),
        (row | {"price_is_ours": True}, believed),
        (row, replace(believed, genai_wins=False)),
    ):
        assert catalog_prices.compared([unknown], source, day=DAY) == ([unknown], [])


def test_every_chat_model_without_a_price_says_why() -> None:
    rows = [row for path in FOLDER.glob("*.json") for row in json.loads(path.read_text("utf-8"))["models"]]
    unpriced = [row for row in rows if row.get("kind", "chat") == "chat" and not row.get("price")]
    assert 100 < len(unpriced) < 130
    assert [row["id"] for row in unpriced if not row.get("note")] == []
