"""`manage.py build_catalog`: from litellm's entries to ours, exactly; corrections by hand are never lost."""

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import catalog_build, catalog_sources
from gateway.catalog_build import Row, corrected, rows, text, usd
from gateway.catalog_sources import Source
from gateway.providers import FOLDER, load_file
from gateway.tables import CatalogError

TODAY = date(2026, 11, 22)
HEAD = """
id = "acme"
name = "Acme"
dialect = "{dialect}"
transport = "http"
base_url = "https://api.acme.example/v1"
auth = "bearer"
credential_fields = ["api_key"]
max_tokens_field = "max_tokens"
usage_in_stream = true
image_tokens = 900
models = []
"""


def source(folder: Path, told: str = 'litellm = ["acme"]', dialect: str = "openai_chat") -> Source:
    """Return the source of a provider with this file of corrections."""
    (folder / "sources").mkdir(exist_ok=True)
    (folder / "acme.toml").write_text(HEAD.format(dialect=dialect))
    (folder / "sources" / "acme.toml").write_text(told)
    (found,) = catalog_sources.read(folder)
    return found


def built(folder: Path, entries: dict[str, Any], told: str = 'litellm = ["acme"]', **options: Any) -> dict[str, Row]:
    """Return the models of litellm's file, by id, as the generated file would hold them."""
    entries = {name: {"litellm_provider": "acme", "mode": "chat", **entry} for name, entry in entries.items()}
    path = folder / "litellm.json"
    path.write_text(json.dumps(entries))
    found = rows(catalog_build.read(path), source(folder, told, **options), today=TODAY)
    return {row["id"]: row for row in json.loads(text(found, source="test"))["models"]}


@pytest.mark.parametrize(
    ("per_token", "per_million"),
    [
        ("1.5e-07", "0.15"),
        ("3.0000000000000004e-07", "0.3"),
        ("7.5e-05", "75"),
        ("8.33333333333e-08", "0.083333333"),
        ("0.00012", "120"),
        ("0", "0"),
    ],
)
def test_a_price_is_written_exactly(per_token: str, per_million: str) -> None:
    assert usd(Decimal(per_token)) == per_million


@given(st.integers(min_value=0, max_value=10**12))
def test_every_price_of_at_most_nine_digits_comes_out_as_it_went_in(nano: int) -> None:
    assert Decimal(usd(Decimal(nano).scaleb(-15))) == Decimal(nano).scaleb(-9)


def test_a_models_facts_are_read(tmp_path: Path) -> None:
    entry = {
        "max_input_tokens": 200_000,
        "max_output_tokens": 64_000,
        "input_cost_per_token": 3e-06,
        "output_cost_per_token": 1.5e-05,
        "cache_read_input_token_cost": 3e-07,
        "cache_creation_input_token_cost": 3.75e-06,
        "cache_creation_input_token_cost_above_1hr": 6e-06,
        "input_cost_per_token_above_200k_tokens": 6e-06,
        "output_cost_per_token_above_200k_tokens": 2.25e-05,
        "supports_function_calling": True,
        "supports_response_schema": True,
        "supports_vision": True,
        "supports_pdf_input": False,
        "deprecation_date": "2027-05-01",
    }
    assert built(tmp_path, {"fast": entry}) == {
        "fast": {
            "id": "fast",
            "context_tokens": 200_000,
            "max_output_tokens": 64_000,
            "price": {"input": "3", "output": "15", "cache_read": "0.3", "cache_write": "3.75", "cache_write_1h": "6"},
            "price_above": {"tokens": 200_000, "input": "6", "output": "22.5"},
            "capabilities": ["tools", "json", "json_schema", "vision", "caching", "streaming"],
            "retires_on": "2027-05-01",
        }
    }


@pytest.mark.parametrize(
    ("entry", "thinking", "efforts"),
    [
        ({}, None, None),
        ({"supports_reasoning": True}, "effort", None),
        ({"supports_reasoning": True, "supports_none_reasoning_effort": True}, "effort", "none low medium high"),
        ({"supports_reasoning": True, "reasoning_effort_levels": ["max", "low"]}, "effort", "low max"),
        ({"supports_reasoning": True, "supports_adaptive_thinking": True}, "adaptive", None),
        (
            {"supports_reasoning": True, "supports_adaptive_thinking": True, "thinking_always_on": True,
             "supports_xhigh_reasoning_effort": True},
            "always_on",
            "low medium high xhigh",
        ),
    ],
)  # fmt: skip
def test_how_a_model_thinks_is_told(
    entry: dict[str, Any], thinking: str | None, efforts: str | None, tmp_path: Path
) -> None:
    row = built(tmp_path, {"m": entry}, 'litellm = ["acme"]\nthinking = "effort"')["m"]
    assert row.get("thinking") == thinking
    assert row.get("efforts") == (efforts.split() if efforts else None)


@pytest.mark.parametrize(
    "entry",
    [
        {"input_cost_per_token": 0, "output_cost_per_token": 0},
        {"input_cost_per_token": 1e-06},
        {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "output_cost_per_reasoning_token": 9e-06},
        {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "input_cost_per_image": 0.001},
        {"mode": "image_generation", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06},
        {
            "input_cost_per_token": 1e-06,
            "output_cost_per_token": 2e-06,
            "input_cost_per_token_above_128k_tokens": 2e-06,
            "input_cost_per_token_above_256k_tokens": 3e-06,
        },
        {"tiered_pricing": [{"range": [0, 1], "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06}] * 3},
    ],
)
def test_a_price_that_is_not_the_whole_truth_is_left_unknown(entry: dict[str, Any], tmp_path: Path) -> None:
    assert "price" not in built(tmp_path, {"m": entry})["m"]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}, "litellm has it at no cost"),
        ({"output_cost_per_token": 2e-06}, "litellm has no price of it"),
        ({"input_cost_per_token": 1e-06, "output_cost_per_token": 0}, "litellm has no price of its output"),
    ],
)
def test_a_model_without_a_price_says_why(entry: dict[str, Any], why: str, tmp_path: Path) -> None:
    assert built(tmp_path, {"m": entry})["m"]["note"] == why


def test_two_steps_are_a_price_and_a_price_above(tmp_path: Path) -> None:
    tiers = [
        {"range": [0, 256000.0], "input_cost_per_token": 5e-08, "output_cost_per_token": 4e-07},
        {"range": [256000.0, 1000000.0], "input_cost_per_token": 2.5e-07, "output_cost_per_token": 2e-06},
    ]
    row = built(tmp_path, {"m": {"tiered_pricing": tiers}})["m"]
    assert row["price"] == {"input": "0.05", "output": "0.4"}
    assert row["price_above"] == {"tokens": 256_000, "input": "0.25", "output": "2"}


def test_what_costs_otherwise_than_the_price_says_is_named(tmp_path: Path) -> None:
    price = {"input_cost_per_token": 3e-07, "output_cost_per_token": 2.5e-06}
    row = built(tmp_path, {"m": {**price, "input_cost_per_audio_token": 1e-06, "supports_audio_input": True}})["m"]
    assert row["unpriced"] == ["audio"]
    assert "unpriced" not in built(tmp_path, {"m": {**price, "input_cost_per_audio_token": 3e-07}})["m"]


@pytest.mark.parametrize(
    "entry",
    [{"deprecation_date": "2026-11-22"}, {"mode": "realtime"}, {"mode": "video_generation"},
     {"supported_endpoints": ["/v1/realtime"]}, {"litellm_provider": "other"}],
)  # fmt: skip
def test_what_nobody_can_call_through_us_is_left_out(entry: dict[str, Any], tmp_path: Path) -> None:
    assert built(tmp_path, {"m": entry}) == {}


def test_a_model_of_the_responses_api_only_says_so(tmp_path: Path) -> None:
    assert "needs_responses" in built(tmp_path, {"m": {"mode": "responses"}})["m"]["capabilities"]
    both = {"supported_endpoints": ["/v1/chat/completions", "/v1/responses"]}
    assert "needs_responses" not in built(tmp_path, {"m": both})["m"]["capabilities"]


def test_names_lose_litellms_prefix_and_get_the_providers(tmp_path: Path) -> None:
    told = (
        'litellm = ["acme"]\nstrip = ["acme/"]\nstrict_names = true\nupstream_prefix = "accounts/a/"\nskip = ["old-*"]'
    )
    found = built(tmp_path, {"acme/fast": {}, "acme/old-1": {}, "fast": {"supports_vision": True}}, told)
    assert {name: row["upstream"] for name, row in found.items()} == {"fast": "accounts/a/fast"}
    assert "vision" not in found["fast"]["capabilities"]


def test_a_dated_name_is_sent_and_the_plain_one_is_typed(tmp_path: Path) -> None:
    told = 'litellm = ["acme"]\nmerge_dated = true'
    same = {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}
    found = built(tmp_path, {"m-20260101": same, "m": same, "n": same, "n-2026-01-01": {}}, told)
    assert list(found) == ["m", "n", "n-2026-01-01"]
    assert (found["m"]["upstream"], found["m"]["aliases"]) == ("m-20260101", ["m-20260101"])


def test_flags_of_another_format_are_not_taken_over(tmp_path: Path) -> None:
    entry = {"supports_assistant_prefill": True, "supports_mid_conversation_system": True}
    assert built(tmp_path, {"m": entry})["m"]["capabilities"] == ["streaming"]
    claude = built(tmp_path, {"m": entry}, dialect="anthropic")["m"]
    assert claude["capabilities"] == ["streaming", "prefill", "system_anywhere"]


def test_corrections_apply_in_order_and_stay_when_it_is_built_again(tmp_path: Path) -> None:
    told = """
litellm = ["acme"]
[[rules]]
match = ["m*"]
can = ["pdf", "vision"]
image_tokens = 1500
[[rules]]
match = ["m-2"]
cannot = ["pdf"]
price = { input = "1", output = "2" }
context_tokens = "unknown"
aliases = ["two"]
"""
    entry = {"max_input_tokens": 5, "input_cost_per_token": 1, "output_cost_per_token": 1}
    once = built(tmp_path, {"m-1": {}, "m-2": entry}, told)
    assert once["m-1"]["capabilities"] == ["vision", "pdf", "streaming"]
    assert once["m-2"] == {
        "id": "m-2", "aliases": ["two"], "price": {"input": "1", "output": "2"},
        "capabilities": ["vision", "streaming"], "image_tokens": 1500,
    }  # fmt: skip
    assert built(tmp_path, {"m-1": {}, "m-2": entry}, told) == once


@pytest.mark.parametrize(
    ("told", "key"),
    [
        ('litelm = ["acme"]', "litelm"),
        ('thinking = "hard"', "thinking"),
        ('[[rules]]\nmatch = ["*"]\ncan = ["flying"]', "flying"),
        ('[[rules]]\nmatch = ["*"]\nprize = "unknown"', "prize"),
        ('[[rules]]\nmatch = ["*"]\nprice = { input = 1.5 }', "input"),
        ('[[rules]]\nimage_tokens = 1', "match"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_corrections_is_refused_naming_the_key(told: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=rf"acme\.toml.*{key}"):
        source(tmp_path, told)


def test_a_generated_file_loads_beside_the_providers_and_hand_written_models_win(tmp_path: Path) -> None:
    told = source(tmp_path)
    entries = {
        name: {"litellm_provider": "acme", "mode": "chat", "input_cost_per_token": Decimal("0.000001"),
               "output_cost_per_token": Decimal("0.000002"), "supports_vision": True}
        for name in ("fast", "slow")
    }  # fmt: skip
    (tmp_path / "acme.json").write_text(text(rows(entries, told, today=TODAY), source="test"))
    by_hand = (
        '[[models]]\nid = "slow"\ncontext_tokens = 7\nmax_output_tokens = 7\nprice = "unknown"\ncapabilities = []\n'
    )
    (tmp_path / "acme.toml").write_text(HEAD.format(dialect="openai_chat").replace("models = []", by_hand))
    provider = load_file(tmp_path / "acme.toml")
    fast, slow = provider.models["fast"], provider.models["slow"]
    assert fast.rates is not None
    assert (fast.rates.input, fast.rates.output, fast.image_tokens) == (10**9, 2 * 10**9, 900)
    assert fast.max_tokens_field == "max_tokens"
    assert (slow.rates, slow.context_tokens) == (None, 7)


@pytest.mark.parametrize(
    "row",
    [
        '{"id":"m","colour":"red"}',
        '{"id":"m","capabilities":["flying"]}',
        '{"id":"m","kind":"dream"}',
        '{"id":"m","thinking":"hard"}',
        '{"id":"m","efforts":["some"]}',
        '{"id":"m","price":{"input":1,"output":"2"}}',
        '{"id":"m","price":{"input":"1e-3","output":"2"}}',
        '{"id":"m","price":{"input":"-1","output":"2"}}',
        '{"id":"m","price":{"input":"0.0000000001","output":"2"}}',
        '{"id":"m","retires_on":"soon"}',
        '{"id":"a b"}',
        '{"id":"m"},{"id":"n","aliases":["m"]}',
    ],
)
def test_a_mistake_in_a_generated_file_stops_the_start_naming_it(row: str, tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text(HEAD.format(dialect="openai_chat"))
    (tmp_path / "acme.json").write_text(f'{{"source":"x","models":[{row}]}}')
    with pytest.raises(CatalogError, match=r"acme\.json"):
        load_file(tmp_path / "acme.toml")


def test_every_source_we_ship_has_its_provider_and_its_models() -> None:
    for each in catalog_sources.read():
        assert (FOLDER / f"{each.provider}.toml").exists()
        assert json.loads((FOLDER / f"{each.provider}.json").read_bytes())["models"], each.provider


def test_a_rule_that_states_a_price_drops_the_price_of_long_inputs() -> None:
    rule = catalog_sources.Rule(match=("m",), facts={"price": None}, can=(), cannot=())
    row: Row = {"id": "m", "price": {"input": "1", "output": "1"}, "price_above": {"tokens": 5}}
    assert corrected(row, [rule])["price_above"] is None
