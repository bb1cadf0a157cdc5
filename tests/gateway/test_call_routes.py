"""Where calls go, from outside: fallbacks across dialects, shares by weight, exclusions, keys in a request."""

import base64
import json
from collections import Counter
from contextlib import suppress

import pytest
from django.test import override_settings

from gateway import credentials
from gateway.models import CallSettings, LoadBalanceGroup

CANARY = "sk-canary-77e0b1c9d4"
GPT = "gpt-4o-mini"
HELLO = {"messages": [{"role": "user", "content": "Hello there"}]}


def keys_seen(one):
    """Return the keys the fake provider was asked with, oldest first."""
    return [
        request.headers.get("api-key") or request.headers["authorization"].removeprefix("Bearer ")
        for request in one.stack.provider.requests
    ]


def connect(one, provider, name, *, secret, weight=1):
    with override_settings(RESPAN_UPSTREAM_ALLOW=[one.stack.provider.address]):
        return credentials.store(
            organization=one.organization,
            provider=provider,
            name=name,
            secret=secret,
            base_url=one.stack.provider.base_url,
            weight=weight,
            actor=None,
            address=None,
        )


# --- Fallbacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_fallback_of_another_dialect_answers_in_the_clients(tenant, stream):
    one = tenant(credits_usd="5")
    answer = one.chat("fake/broken", fallback_models=["fake-anthropic/claude"], stream=stream)
    assert answer.status == 200
    assert len(one.stack.vendors.anthropic.requests) == 1
    if stream:
        assert answer.body.endswith(b"data: [DONE]\n\n")
    else:
        assert answer.json["object"] == "chat.completion"
    assert one.log(answer.log_id)["fallback"] == 1
    assert "fallback_models" not in one.stack.vendors.anthropic.last.json


def test_a_message_of_anthropics_falls_back_to_chat_completions(tenant):
    one = tenant(credits_usd="5")
    body = {"model": "fake-anthropic/claude-overloaded", "max_tokens": 20, **HELLO}
    answer = one.post(
        body | {"respan_params": {"fallback_models": ["no-such-model", "fake/chat"]}},
        path="/api/anthropic/v1/messages",
    )
    assert (answer.status, answer.json["type"], answer.json["role"]) == (200, "message", "assistant")
    assert one.log(answer.log_id)["fallback"] == 2


def test_the_organizations_fallbacks_count_where_a_call_says_nothing(tenant):
    one = tenant(credits_usd="5")
    CallSettings.objects.update_or_create(
        organization=one.organization, defaults={"fallback_models": ["fake/chat"], "fallback_enabled": True}
    )
    assert one.chat("fake/broken").status == 200
    refused = one.chat("fake/broken", disable_fallback=True)
    assert refused.status >= 500


def test_a_list_that_cannot_serve_gives_the_primarys_error_and_says_why(tenant):
    one = tenant(credits_usd="5")
    answer = one.chat("fake/refused", fallback_models=["no-such-model", "fake/embedding"])
    assert answer.status >= 400
    assert "no-such-model was skipped: There is no model called no-such-model" in answer.error["message"]
    assert "fake/embedding was skipped" in answer.error["message"]
    assert len(one.stack.provider.requests) == 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"disable_fallback": True, "fallback_models": ["fake/chat"]}, "disable_fallback"),
        ({"retry_params": {"retries": 3}}, "retry_params"),
        ({"load_balance_group": {"group_id": "nobody's"}}, "load_balance_group"),
        ({"route_provider_override": "nobody"}, "route_provider_override"),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
def test_what_contradicts_itself_or_is_unknown_is_refused_before_anybody_is_asked(tenant, given, named):
    one = tenant(credits_usd="5")
    balance, entries = one.balance, one.entries()
    answer = one.chat("fake/chat", **given)
    assert (answer.status, answer.error["param"]) == (400, named)
    assert one.stack.provider.requests == []
    assert (one.balance, one.entries()) == (balance, entries)


# --- Shares ----------------------------------------------------------------------------------------------------------


def test_keys_of_one_provider_share_the_calls_by_their_weights(tenant):
    one = tenant()
    connect(one, "openai", "Heavy", secret="sk-heavy", weight=9)
    connect(one, "openai", "Light", secret="sk-light")
    for _ in range(40):
        assert one.chat(GPT).status == 200
    seen = Counter(keys_seen(one))
    assert set(seen) <= {"sk-heavy", "sk-light"}
    assert seen["sk-heavy"] > seen["sk-light"]


def test_a_group_of_the_organization_shares_its_calls(tenant):
    one = tenant(credits_usd="5")
    LoadBalanceGroup.objects.create(
        organization=one.organization,
        group_id="fast",
        name="Fast",
        members=[{"model": "fake/chat", "weight": 1}, {"model": "fake-gemini/gemini", "weight": 1, "credentials": []}],
    )
    for _ in range(12):
        assert one.chat("anything", load_balance_group={"group_id": "fast"}).status == 200
    here, there = len(one.stack.provider.requests), len(one.stack.vendors.gemini.requests)
    assert here + there == 12
    assert here
    assert there


def test_another_organizations_group_is_unknown(tenant):
    one, other = tenant(credits_usd="5"), tenant(credits_usd="5")
    LoadBalanceGroup.objects.create(
        organization=one.organization, group_id="mine", name="Mine", members=[{"model": "fake/chat", "weight": 1}]
    )
    assert other.chat("fake/chat", load_balance_group={"group_id": "mine"}).status == 400


# --- Another route ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two_providers(tenant):
    """Make a tenant with keys of two providers that have the same model."""
    one = tenant()
    connect(one, "openai", "One", secret="sk-openai")
    connect(one, "azure", "Two", secret="sk-azure")
    return one


def test_the_header_sends_a_call_to_one_provider(two_providers):
    assert two_providers.chat(GPT).status == 200
    body = {"model": GPT, **HELLO}
    assert two_providers.post(body, x_respan_route_provider="azure").status == 200
    assert keys_seen(two_providers) == ["sk-openai", "sk-azure"]


def test_an_excluded_provider_is_left_out(two_providers):
    assert two_providers.chat(GPT, exclude_providers=["openai"]).status == 200
    assert two_providers.chat("openai/" + GPT, exclude_providers=["openai"]).status == 200
    assert keys_seen(two_providers) == ["sk-azure", "sk-openai"]


def test_a_name_can_mean_a_deployment(two_providers):
    assert two_providers.chat(GPT, model_name_map={GPT: "azure/my-deployment"}).status == 200
    assert two_providers.stack.provider.last.json["model"] == "my-deployment"
    assert keys_seen(two_providers) == ["sk-azure"]


# --- Keys in a request -----------------------------------------------------------------------------------------------


def in_every_carrier(given):
    encoded = base64.b64encode(json.dumps(given).encode()).decode()
    return [
        ({**given}, {}),
        ({"respan_params": given}, {}),
        ({"keywordsai_params": json.dumps(given)}, {}),
        ({}, {"x_data_respan_params": encoded}),
    ]


def test_a_customers_key_is_used_for_its_call_and_is_kept_nowhere(tenant):
    one = tenant()
    connect(one, "openai", "Own", secret="sk-own")
    account = {"api_key": CANARY, "api_base": one.stack.provider.base_url}
    logs = []
    for given in (
        {"customer_credentials": {"openai": account}},
        {"customer_credentials": [{"credentials": {"openai": account}, "weight": 2}]},
        {"credential_override": {GPT: account}},
        {"load_balance_models": [{"model": GPT, "credentials": account}]},
    ):
        for members, headers in in_every_carrier(given):
            answer = one.post({"model": GPT, **HELLO, **members}, **headers)
            assert answer.status == 200
            assert CANARY.encode() not in one.stack.provider.last.body + answer.body
            logs.append(one.log(answer.log_id))
    assert keys_seen(one) == [CANARY] * 16
    assert CANARY not in json.dumps(logs)
    assert {log["status_code"] for log in logs} == {200}
    assert CANARY not in one.stack.server.log("web") + one.stack.server.log("worker")
    kept = contents(one.stack.server.data_dir)
    assert kept
    assert [path.name for path, content in kept.items() if CANARY.encode() in content] == []


def contents(folder):
    """Return every file of a folder and what is in it; the shipper takes away what it has carried meanwhile."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                found[path] = path.read_bytes()
    return found


def test_a_provider_that_repeats_a_customers_key_does_not_get_it_to_anybody(tenant):
    one = tenant()
    secret = f"{CANARY}:status=401,leak"
    account = {"api_key": secret, "api_base": one.stack.provider.base_url}
    answer = one.chat(GPT, customer_credentials={"openai": account})
    assert answer.status >= 400
    assert keys_seen(one)[:1] == [secret]
    assert CANARY not in answer.body.decode() + json.dumps(one.log(answer.log_id))
    assert CANARY not in one.stack.server.log("web")


def test_a_customers_key_never_goes_to_a_fallback_at_another_provider(tenant):
    one = tenant(credits_usd="5")
    account = {"api_key": f"{CANARY}:status=500", "api_base": one.stack.provider.base_url}
    answer = one.chat(GPT, customer_credentials={"openai": account}, fallback_models=["fake/chat"])
    assert answer.status == 200
    assert CANARY not in keys_seen(one)[-1]
    assert one.log(answer.log_id)["fallback"] == 1


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254/latest", "https://10.1.2.3/v1", "http://127.0.0.1:1/v1", "https://localhost/v1"]
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_address_of_a_request_must_be_public(tenant, address, stream):
    one = tenant()
    connect(one, "openai", "Own", secret="sk-own")
    answer = one.chat(GPT, credential_override={GPT: {"api_key": CANARY, "api_base": address}}, stream=stream)
    assert (answer.status, answer.error["code"]) == (400, "forbidden_address")
    assert answer.error["param"] == f"credential_override.{GPT}.api_base"
    assert one.stack.provider.requests == []
    assert CANARY not in answer.body.decode() + json.dumps(one.log(answer.log_id))


def test_an_address_needs_a_key_of_its_own(tenant):
    one = tenant()
    connect(one, "openai", "Own", secret="sk-own")
    answer = one.chat(GPT, credential_override={GPT: {"api_base": "https://llm.example.com/v1"}})
    assert (answer.status, answer.error["param"]) == (400, f"credential_override.{GPT}")
    assert one.stack.provider.requests == []
