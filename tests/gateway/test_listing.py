"""What the two lists of models answer."""

import json
import time
from decimal import Decimal
from typing import Any

import pytest

from gateway import listing
from gateway.credentials import Stored
from gateway.providers import catalog


def key(provider: str, name: str = "Main", models: tuple[str, ...] = ()) -> Stored:
    return Stored("cred_1", 1, provider, name, "https://llm.example.com/v1", models, "v1.k1.x")


def listed(*own: Stored, platform: tuple[Stored, ...] = ()) -> dict[str, dict[str, Any]]:
    body = json.loads(listing.models(catalog(), own=own, platform=platform), parse_float=Decimal)
    assert body["object"] == "list"
    return {entry["id"]: entry for entry in body["data"]}


def test_the_list_is_openais_with_our_members_beside_it() -> None:
    entry = listed()["openai/gpt-4o-mini"]
    assert (entry["object"], entry["owned_by"], type(entry["created"])) == ("model", "openai", int)
    assert entry["model_name"] == "openai/gpt-4o-mini"
    assert entry["max_context_window"] == 128_000
    assert (entry["input_cost"], entry["output_cost"]) == (Decimal("0.15"), Decimal("0.6"))
    assert (entry["streaming_support"], entry["function_call"], entry["image_support"]) == (1, 1, 1)
    assert entry["provider"] == {
        "provider_name": "OpenAI",
        "provider_id": "openai",
        "moderation": "Unfiltered",
        "credential_fields": ["api_key"],
    }


def test_every_listed_name_can_be_called_and_every_price_is_exact() -> None:
    entries = listed()
    assert len(entries) == len(list(catalog().models()))
    for name, entry in entries.items():
        (model,) = catalog().find(name)
        if model.rates is None:
            assert entry["input_cost"] is entry["output_cost"] is None
        else:
            assert Decimal(entry["input_cost"]) * 10**9 == model.rates.input
            assert Decimal(entry["output_cost"]) * 10**9 == model.rates.output


def test_the_list_tells_what_a_key_reaches() -> None:
    def reached(*own: Stored, platform: tuple[Stored, ...] = ()) -> set[str]:
        return {name for name, entry in listed(*own, platform=platform).items() if entry["available_to_user"]}

    sandbox = {"sandbox/echo", "sandbox/priced"}
    assert reached() == sandbox
    assert reached(key("openai", models=("gpt-4o",))) == sandbox | {"openai/gpt-4o"}
    assert "groq/openai/gpt-oss-20b" in reached(platform=(key("groq"),))
    assert "openai/gpt-4o" not in reached(platform=(key("groq"),))


def test_the_models_of_ones_own_server_are_listed_under_its_name() -> None:
    entry = listed(key("custom", "my-llm", ("llama-3",)))["my-llm/llama-3"]
    assert entry["owned_by"] == "my-llm"
    assert entry["available_to_user"]
    assert entry["input_cost"] is None
    assert entry["max_context_window"] is None


@pytest.mark.parametrize("unnest", [True, False])
def test_the_public_list_is_bare_or_wrapped(unnest: bool) -> None:
    body = json.loads(listing.public(catalog(), unnest=unnest))
    entries = body if unnest else body["models"]
    assert len(entries) == len(list(catalog().models()))
    assert set(entries[0]) >= {
        "model_name", "max_context_window", "input_cost", "output_cost", "prompt_cost", "completion_cost", "rate_limit",
        "provider",
    }  # fmt: skip
    assert "available_to_user" not in entries[0]


def test_no_list_tells_anything_of_a_key() -> None:
    secretive = key("custom", "my-llm", ("llama-3",))
    body = listing.models(catalog(), own=[secretive], platform=[secretive])
    for hidden in (b"cred_1", b"llm.example.com", b"v1.k1"):
        assert hidden not in body


def test_three_thousand_models_are_listed_in_a_moment() -> None:
    listing.models(catalog(), own=(), platform=())
    started = time.process_time()
    for _ in range(10):
        listing.models(catalog(), own=(key("openai"),), platform=(key("groq"),))
        listing.public(catalog(), unnest=True)
    assert time.process_time() - started < 0.5  # loosely, for a busy machine: 3 ms each
