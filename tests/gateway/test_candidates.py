"""Promises of `gateway.candidates`: which targets may answer a call, in which order, and why others may not.

The catalogue is the real one; keys, prices and settings are the test's.
"""

import json
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import Rates
from gateway import candidates, health, offers, outgoing, params, routing
from gateway.call_settings import DEFAULTS, Group
from gateway.credentials import GivenKey, Stored
from gateway.dialects import openai_chat
from gateway.dialects.registry import ANTHROPIC, CLIENTS, OPENAI_CHAT
from gateway.health import Place
from gateway.offers import NothingFits, Stock
from gateway.params import InvalidRequest, Member
from gateway.providers import catalog
from gateway.rest_api import COMPLETIONS
from respan.outbound import ForbiddenAddress

CANARY = "sk-canary-9c1e77ab40"


class Price(SimpleNamespace):
    """A price as `billing.prices` has it."""


def key(provider, name="main", *, models=(), weight=1, organization_id=1, base_url=None):
    return Stored(f"cred_{provider}_{name}", organization_id, provider, name, base_url, models, "", weight)


def priced(*full_names, input=1, output=1):
    models = [model for name in full_names for model in catalog().find(name)]
    return {(model.provider, model.id): Price(rates_id=1, rates=Rates(input=input, output=output)) for model in models}


def message(text="Hi", **content):
    return {"role": "user", "content": text if not content else [{"type": "text", "text": text}, content]}


def search(
    model, *, own=(), platform=(), prices=None, settings=DEFAULTS, client=OPENAI_CHAT, owners=(), demo=False,
    messages=None, headers=None, **given
):  # fmt: skip
    """Run a search as `find` does, of a chat completion with such members."""
    body = json.dumps({"model": model, "messages": messages or [message()], **given}).encode()
    asked = openai_chat.read(body)
    found = params.gather(asked.members, headers or {}, not_ours=client.keeps)
    call = SimpleNamespace(
        asked=asked,
        params=found,
        settings=settings,
        client=client,
        caller=SimpleNamespace(organization_id=1, is_demo=demo),
    )
    stock = Stock(tuple(own), tuple(platform), prices or {}, 1)
    if not found.routes and not settings.fallback_models:
        return candidates._Search(call, asked, stock, frozenset(owners)).plain()
    if found.routes:
        stock = offers.with_params(stock, found, is_demo=demo)
    return candidates._Search(call, asked, stock, frozenset(owners)).run()


def ways(found):
    """Return what is tried, in order: rank, provider, model, key."""
    return [
        (each.rank, each.target.model.provider, each.target.model.upstream, each.target.key and each.target.key.name)
        for each in found[0]
    ]


def names(found):
    """Return the names in the order they are tried, each once."""
    return list(dict.fromkeys(each.name for each in found[0]))


def skipped(found):
    return {each.name: each.why for each in found[1]}


OPENAI, ANTHROPIC_KEY, GOOGLE, AZURE = (
    key("openai"),
    key("anthropic"),
    key("google"),
    key("azure", base_url="https://a"),
)
ALL = (OPENAI, ANTHROPIC_KEY, GOOGLE, key("groq"))
GPT, CLAUDE, GEMINI = "gpt-4o", "claude-sonnet-4-20250514", "gemini-2.5-flash"


# --- Without parameters ----------------------------------------------------------------------------------------------


def test_a_plain_call_has_its_own_key_and_nothing_else():
    found = search(GPT, own=ALL, platform=[key("openai", "operator")], prices=priced(GPT))
    assert ways(found) == [(0, "openai", GPT, "main")]
    assert found[1] == []


def test_own_keys_never_go_on_to_credits_for_the_same_model():
    operator = key("openai", "operator", organization_id=None)
    (only,), _ = search(GPT, own=[OPENAI], platform=[operator], prices=priced("openai/gpt-4o"))
    assert only.target.paid_by == "own_key"
    (only,), _ = search(GPT, platform=[operator], prices=priced("openai/gpt-4o"))
    assert (only.target.paid_by, only.target.key) == ("credits", operator)


def test_all_own_keys_of_a_model_are_there_the_vendors_before_the_clouds():
    found = search(GPT, own=[AZURE, key("openai", "b"), OPENAI])
    assert {way[3] for way in ways(found)[:2]} == {"main", "b"}
    assert [(way[0], way[1]) for way in ways(found)] == [(0, "openai"), (0, "openai"), (0, "azure")]


def test_keys_of_one_provider_share_the_calls_by_their_weights():
    own = [key("openai", "a", weight=3), key("openai", "b"), key("openai", "other", models=("gpt-5.4",), weight=1000)]
    first = Counter(ways(search(GPT, own=own))[0][3] for _ in range(600))
    assert set(first) == {"a", "b"}
    assert 0.65 < first["a"] / 600 < 0.85


def test_a_long_input_has_its_own_price():
    model = next(model for model in catalog().models() if model.long_rates is not None and model.kind == "chat")
    prices = priced(model.full_name)
    long = prices[model.provider, model.long_price_id] = Price(rates_id=2, rates=Rates(input=2, output=2))
    (only, *_), _ = search(model.full_name, own=[key(model.provider)], prices=prices)
    assert only.long_price is long


@pytest.mark.parametrize(
    ("model", "own", "error"),
    [
        ("gpt-4ooo", ALL, routing.ModelNotFound),
        (GPT, (GOOGLE,), routing.NothingToPayWith),
        ("text-embedding-3-small", ALL, outgoing.UnsupportedEndpoint),
    ],
)
def test_what_nobody_can_answer_is_refused_as_ever(model, own, error):
    with pytest.raises(error) as refusal:
        search(model, own=own)
    assert "skipped" not in refusal.value.message


def test_credits_do_not_pay_for_endpoints_that_are_not_sold():
    operator = key("openai", "operator", organization_id=None)
    embedding = next(model for model in catalog().models() if model.provider == "openai" and model.kind == "completion")
    with pytest.raises(routing.NothingToPayWith, match="do not cover"):
        search(embedding.full_name, platform=[operator], prices=priced(embedding.full_name), client=COMPLETIONS)


# --- Fallbacks -------------------------------------------------------------------------------------------------------


def test_fallbacks_follow_in_their_order_across_providers_and_dialects():
    found = search(GPT, own=ALL, fallback_models=[CLAUDE, GEMINI])
    assert ways(found) == [
        (0, "openai", GPT, "main"),
        (1, "anthropic", CLAUDE, "main"),
        (2, "google", GEMINI, "main"),
    ]


def test_the_organizations_list_counts_where_the_request_has_none():
    listed = replace(DEFAULTS, fallback_models=(CLAUDE,))
    assert names(search(GPT, own=ALL, settings=listed)) == [GPT, CLAUDE]
    assert names(search(GPT, own=ALL, settings=listed, fallback_models=[GEMINI])) == [GPT, GEMINI]
    assert names(search(GPT, own=ALL, settings=listed, fallback_models=[])) == [GPT]
    assert names(search(GPT, own=ALL, settings=listed, models=[GEMINI])) == [GPT, GEMINI]
    assert names(search(GPT, own=ALL, settings=listed, disable_fallback=True)) == [GPT]
    assert names(search(GPT, own=ALL, settings=replace(listed, fallback_enabled=False))) == [GPT]


def test_a_request_may_list_fallbacks_where_the_organization_has_switched_its_own_off():
    off = replace(DEFAULTS, fallback_models=(CLAUDE,), fallback_enabled=False)
    assert names(search(GPT, own=ALL, settings=off, fallback_models=[GEMINI])) == [GPT, GEMINI]


def test_models_beside_a_model_are_its_fallbacks_before_those_that_are_called_so():
    assert names(search(GPT, own=ALL, models=[GPT, GEMINI], fallback_models=[CLAUDE])) == [GPT, GEMINI, CLAUDE]


def test_the_same_target_is_tried_once():
    found = search(GPT, own=ALL, fallback_models=["openai/gpt-4o", GPT, CLAUDE, CLAUDE])
    assert [way[:3] for way in ways(found)] == [(0, "openai", GPT), (2, "anthropic", CLAUDE)]
    assert found[1] == []


def test_a_fallback_may_be_paid_by_credits():
    operator = key("anthropic", "operator", organization_id=None)
    found, _ = search(GPT, own=[OPENAI], platform=[operator], prices=priced(CLAUDE), fallback_models=[CLAUDE])
    assert [each.target.paid_by for each in found] == ["own_key", "credits"]


def test_a_primary_that_cannot_be_routed_gives_way_to_its_fallbacks():
    found = search("gpt-4ooo", own=ALL, fallback_models=["no-such-model", CLAUDE])
    assert ways(found) == [(2, "anthropic", CLAUDE, "main")]
    assert set(skipped(found)) == {"gpt-4ooo", "no-such-model"}


def test_when_nothing_can_serve_the_primarys_error_says_why_each_other_cannot():
    with pytest.raises(routing.NothingToPayWith) as refusal:
        search(GPT, own=[], fallback_models=["no-such-model", "text-embedding-3-small"])
    told = refusal.value.message
    assert told.startswith(f"No key can serve {GPT}")
    assert "no-such-model was skipped: There is no model called" in told
    assert "text-embedding-3-small was skipped:" in told


@pytest.mark.parametrize(
    ("fallback", "why"),
    [
        ("text-embedding-3-small", "another endpoint"),
        ("mistral-large-latest", "provider key"),
        ("no-such-model", "no model called"),
    ],
)
def test_a_fallback_that_cannot_serve_is_skipped_and_says_why(fallback, why):
    found = search(GPT, own=ALL, fallback_models=[fallback, CLAUDE])
    assert names(found) == [GPT, CLAUDE]
    assert why in skipped(found)[fallback]
    assert ways(found)[1][0] == 2


def blind():
    """Return a chat model of which it is known that it reads text only."""
    return next(
        model.full_name
        for model in catalog().providers["groq"].models.values()
        if model.kind == "chat"
        and "tools" in model.capabilities
        and not {"vision", "pdf", "audio"} & model.capabilities
    )


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


@pytest.mark.parametrize(
    ("part", "why"), [(PICTURE, "images"), (PDF, "documents"), (SOUND, "sound")], ids=["image", "pdf", "sound"]
)
def test_a_fallback_that_cannot_read_what_was_sent_is_skipped(part, why):
    messages = [message("What is this?", **part)]
    found = search(GPT, own=ALL, fallback_models=[blind()], messages=messages)
    assert names(found) == [GPT]
    assert f"reads no {why}" in skipped(found)[blind()]
    # The model asked for is never second-guessed.
    assert names(search(blind(), own=ALL, messages=messages)) == [blind()]
    assert names(search(GPT, own=ALL, fallback_models=[blind()])) == [GPT, blind()]


def test_a_fallback_with_too_small_a_context_is_skipped():
    small = min(
        (
            model
            for model in catalog().providers["openai"].models.values()
            if model.kind == "chat" and model.context_tokens
        ),
        key=lambda model: model.context_tokens,
    )
    long = [message("x" * (small.context_tokens * 4 + 8))]
    found = search("gpt-4.1", own=ALL, fallback_models=[small.full_name], messages=long)
    assert names(found) == ["gpt-4.1"]
    assert f"{small.context_tokens} tokens" in skipped(found)[small.full_name]
    assert names(search(small.full_name, own=ALL, messages=long)) == [small.full_name]


def test_bytes_of_a_document_say_nothing_of_a_context():
    large = {**PDF, "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "A" * 2_000_000}}
    found = search("gpt-4.1", own=ALL, fallback_models=[GPT], messages=[message("Sum up", **large)])
    assert names(found) == ["gpt-4.1", GPT]


def test_a_file_is_read_by_the_key_that_owns_it_alone():
    own = [OPENAI, key("openai", "owner"), ANTHROPIC_KEY]
    for _ in range(20):
        found = search(GPT, own=own, owners=["cred_openai_owner"], fallback_models=["gpt-4.1", CLAUDE])
        assert [(way[0], way[3]) for way in ways(found)] == [(0, "owner"), (1, "owner")]
        assert "another provider key" in skipped(found)[CLAUDE]


def test_a_file_whose_owner_is_gone_is_tried_with_what_there_is():
    assert ways(search(GPT, own=[OPENAI], owners=["cred_deleted"])) == [(0, "openai", GPT, "main")]


# --- Load balancing --------------------------------------------------------------------------------------------------


def members(*pairs):
    return [{"model": model, "weight": weight} for model, weight in pairs]


@pytest.mark.parametrize("name", ["load_balance_models", "loadbalance_models"])
def test_members_share_the_calls_by_weight_and_follow_each_other(name):
    first = Counter()
    for _ in range(500):
        found = search("no-such-model", own=ALL, **{name: members((GPT, 3), (CLAUDE, 1))})
        assert [way[0] for way in ways(found)] == [0, 1]
        assert sorted(names(found)) == sorted([GPT, CLAUDE])
        first[names(found)[0]] += 1
    assert 0.65 < first[GPT] / 500 < 0.85


def test_fallbacks_come_after_all_members():
    found = search(GPT, own=ALL, load_balance_models=members((GPT, 1), (CLAUDE, 1)), fallback_models=[GEMINI])
    assert names(found)[2] == GEMINI
    assert [way[0] for way in ways(found)] == [0, 1, 2]


def test_without_fallbacks_only_the_chosen_member_is_asked():
    for _ in range(20):
        found = search(GPT, own=ALL, load_balance_models=members((GPT, 1), (CLAUDE, 1)), disable_fallback=True)
        assert [way[0] for way in ways(found)] == [0]


def test_a_member_that_cannot_serve_is_not_chosen():
    for _ in range(20):
        given_members = members((blind(), 1000), ("no-such-model", 1000), (GPT, 1))
        picture = [message("What is this?", **PICTURE)]
        found = search(GPT, own=ALL, load_balance_models=given_members, messages=picture, fallback_models=[CLAUDE])
        assert [(way[0], way[2]) for way in ways(found)] == [(0, GPT), (1, CLAUDE)]
        assert set(skipped(found)) == {blind(), "no-such-model"}


def test_a_group_none_of_whose_members_can_serve_says_why():
    with pytest.raises(NothingFits, match="reads no images"):
        search(GPT, own=ALL, load_balance_models=members((blind(), 1)), messages=[message("Look", **PICTURE)])


def test_which_of_several_models_answered_before_is_unknown_but_of_one_it_is_known():
    def others(found):
        return [each.is_other_model for each in found[0]]

    assert others(search(GPT, own=ALL, fallback_models=[CLAUDE])) == [False, True]
    assert others(search(GPT, own=ALL, load_balance_models=members((GPT, 1), (CLAUDE, 1)))) == [True, True]
    assert others(search("x", own=ALL, settings=grouped(), load_balance_group={"group_id": "fast"})) == [True, True]
    two_keys = (OPENAI, key("openai", "second"))
    assert others(search(GPT, own=two_keys)) == [False, False]
    alone = [{"model": GPT, "weight": 1, "credentials": [name]} for name in ("main", "second")]
    found = search(GPT, own=two_keys, load_balance_models=alone)
    assert [way[3] for way in ways(found)] in (["main", "second"], ["second", "main"])
    assert others(found) == [False, True]  # the second one is asked as a fallback is


def grouped(strategy="weighted", *, group_members=None):
    group_members = group_members or (Member(GPT, 1), Member(CLAUDE, 1))
    return replace(DEFAULTS, groups={"fast": Group("fast", strategy, group_members)})


def test_a_group_is_the_organizations():
    found = search("x", own=ALL, settings=grouped(), load_balance_group={"group_id": "fast"})
    assert sorted(names(found)) == sorted([GPT, CLAUDE])


@pytest.mark.parametrize("settings_", [DEFAULTS, grouped(group_members=())], ids=["unknown", "empty"])
def test_an_unknown_group_is_refused(settings_):
    settings_ = (
        settings_ if settings_ is DEFAULTS else replace(DEFAULTS, groups={"fast": Group("fast", "weighted", ())})
    )
    with pytest.raises(InvalidRequest) as refusal:
        search(GPT, own=ALL, settings=settings_, load_balance_group={"group_id": "fast"})
    assert refusal.value.param == "load_balance_group"


def test_models_in_the_request_count_instead_of_the_groups():
    found = search(
        "x", own=ALL, settings=grouped(), load_balance_group={"group_id": "fast", "models": members((GEMINI, 1))}
    )
    assert names(found) == [GEMINI]


def test_a_member_uses_only_the_keys_it_names():
    own = [key("openai", "a"), key("openai", "b"), key("openai", "c")]
    limited = [{"model": GPT, "credentials": ["cred_openai_b"]}, {"model": GPT, "credentials": ["c"]}]
    operator = key("openai", "operator", organization_id=None)
    for _ in range(10):
        found = search(GPT, own=own, platform=[operator], prices=priced(GPT), load_balance_models=limited)
        assert sorted(way[3] for way in ways(found)) == ["b", "c"]
        assert [way[0] for way in ways(found)] == [0, 1]


def test_a_member_whose_keys_are_gone_is_passed_over_and_never_paid_by_credits():
    operator = key("openai", "operator", organization_id=None)
    limited = [{"model": GPT, "credentials": ["cred_gone"]}]
    with pytest.raises(NothingFits, match="credentials"):
        search(GPT, own=ALL, platform=[operator], prices=priced(GPT), load_balance_models=limited)


def test_a_member_may_bring_its_own_key():
    given_members = [{"model": GPT, "credentials": {"api_key": CANARY}}]
    (only,), _ = search(GPT, own=ALL, load_balance_models=given_members)
    assert isinstance(only.target.key, GivenKey)
    assert only.target.key.secret().reveal() == CANARY


# --- Strategies ------------------------------------------------------------------------------------------------------


@pytest.fixture
def latencies(monkeypatch):
    """Let targets have been as quick as given; no call goes where it is not its turn."""
    health.forget()
    monkeypatch.setattr(random, "random", lambda: 0.5)

    def seen(**seconds):
        for name, latency_s in seconds.items():
            health.at(Place("openai", "https://a", GPT, f"cred_openai_{name}")).passed(0.0, latency_s)

    yield seen
    health.forget()


def test_the_quickest_key_comes_first_and_one_of_which_nothing_is_known_last(latencies):
    latencies(a=2.0, b=0.3, c=1.0)
    own = [key("openai", name, weight=weight) for name, weight in (("new", 10_000), ("a", 10_000), ("b", 1), ("c", 1))]
    found = search(GPT, own=own, settings=replace(DEFAULTS, strategy="latency"))
    assert [way[3] for way in ways(found)] == ["b", "c", "a", "new"]


def test_the_cheapest_provider_comes_first_but_own_keys_before_credits():
    by_cost = replace(DEFAULTS, strategy="cost")
    prices = {
        ("openai", GPT): Price(rates_id=1, rates=Rates(input=500, output=500)),
        ("azure", GPT): Price(rates_id=2, rates=Rates(input=1_000_000, output=1_000_000)),
    }
    cheap = {name: prices[other] for name, other in zip(prices, reversed(prices), strict=True)}
    assert [way[1] for way in ways(search(GPT, own=[OPENAI, AZURE], prices=prices, settings=by_cost))] == [
        "openai",
        "azure",
    ]
    assert [way[1] for way in ways(search(GPT, own=[OPENAI, AZURE], prices=cheap, settings=by_cost))] == [
        "azure",
        "openai",
    ]
    operator = key("azure", "operator", organization_id=None)
    assert [way[1] for way in ways(search(GPT, own=[OPENAI], platform=[operator], prices=cheap, settings=by_cost))] == [
        "openai"
    ]


def test_a_groups_own_strategy_orders_its_members():
    prices = priced(GPT, input=10**12, output=10**12) | priced(CLAUDE)
    for _ in range(10):
        found = search(
            "x", own=ALL, prices=prices, settings=grouped("cost"), load_balance_group={"group_id": "fast"},
            fallback_models=[GEMINI],
        )  # fmt: skip
        assert names(found) == [CLAUDE, GPT, GEMINI]
        assert [way[0] for way in ways(found)] == [0, 1, 2]


def test_the_weights_of_a_request_count_more_than_the_organizations_strategy():
    prices = priced(GPT, input=10**12, output=10**12) | priced(CLAUDE)
    by_cost = replace(DEFAULTS, strategy="cost")
    pairs = members((GPT, 10_000), (CLAUDE, 1))
    first = Counter(
        names(search("x", own=ALL, prices=prices, settings=by_cost, load_balance_models=pairs))[0] for _ in range(30)
    )
    assert first[GPT] > first[CLAUDE]


# --- Exclusions, and a pinned provider -------------------------------------------------------------------------------


def test_an_excluded_provider_is_left_out_where_there_is_a_choice():
    assert [way[1] for way in ways(search(GPT, own=[OPENAI, AZURE], exclude_providers=["openai"]))] == ["azure"]
    assert [way[1] for way in ways(search(GPT, own=[OPENAI, AZURE], exclude_models=["openai/gpt-4o"]))] == ["azure"]


@pytest.mark.parametrize("given_", [{"exclude_providers": ["openai", "azure"]}, {"exclude_models": [GPT]}], ids=str)
def test_the_model_asked_for_and_the_fallbacks_a_request_lists_are_never_excluded(given_):
    assert names(search(GPT, own=[OPENAI], **given_)) == [GPT]
    assert names(search(CLAUDE, own=ALL, fallback_models=["openai/gpt-4o"], **given_)) == [CLAUDE, "openai/gpt-4o"]


@pytest.mark.parametrize(
    "given_",
    [{"exclude_providers": ["anthropic"]}, {"exclude_models": [CLAUDE]}, {"exclude_models": [f"anthropic/{CLAUDE}"]}],
    ids=str,
)
def test_candidates_and_the_organizations_fallbacks_are_excluded(given_):
    found = search(GPT, own=ALL, models=[CLAUDE, GEMINI], **given_)
    assert names(found) == [GPT, GEMINI]
    assert "excluded" in skipped(found)[CLAUDE]
    listed = replace(DEFAULTS, fallback_models=(CLAUDE, GEMINI))
    assert names(search(GPT, own=ALL, settings=listed, **given_)) == [GPT, GEMINI]


def test_an_own_server_can_be_excluded_by_its_name():
    local = Stored("cred_l", 1, "custom", "local", "https://llm.example.com/v1", (), "")
    found = search(GPT, own=[OPENAI, local], models=["local/llama"], exclude_providers=["local"])
    assert names(found) == [GPT]


@pytest.mark.parametrize("name", [GPT, "openai/gpt-4o", "azure/gpt-4o"])
def test_a_pinned_provider_has_the_same_model(name):
    found = search(name, own=[OPENAI, AZURE], headers={"HTTP_X_RESPAN_ROUTE_PROVIDER": "azure"})
    assert [way[1:3] for way in ways(found)] == [("azure", GPT)]
    assert names(found) == [name]


def test_a_pinned_provider_is_found_by_its_prefixes():
    vertex = key("vertex", base_url="https://v.example.com")
    found = search(GEMINI, own=[GOOGLE, vertex], route_provider_override="vertex_ai")
    assert [way[1] for way in ways(found)] == ["vertex"]


def test_an_own_server_can_be_pinned_by_its_name():
    local = Stored("cred_l", 1, "custom", "local", "https://llm.example.com/v1", (), "")
    found = search("llama", own=[OPENAI, local], route_provider_override="local")
    assert ways(found) == [(0, "custom", "llama", "local")]


def test_an_unknown_provider_to_go_to_is_refused():
    with pytest.raises(InvalidRequest) as refusal:
        search(GPT, own=ALL, route_provider_override="no-such-provider")
    assert refusal.value.param == "route_provider_override"


def test_a_pinned_provider_without_a_key_is_refused():
    with pytest.raises(routing.NothingToPayWith, match="azure"):
        search(GPT, own=[OPENAI], route_provider_override="azure")


def test_a_pinned_provider_without_the_model_is_refused_where_no_key_may_know_it():
    with pytest.raises(routing.ModelNotFound, match="anthropic/gpt-4o"):
        search(GPT, own=[OPENAI], route_provider_override="anthropic")


def test_fallbacks_that_a_request_lists_may_be_elsewhere_the_organizations_may_not():
    listed = replace(DEFAULTS, fallback_models=("mistral-large-latest",))
    own = [OPENAI, AZURE, key("mistral"), ANTHROPIC_KEY]
    found = search(GPT, own=own, settings=listed, route_provider_override="azure", fallback_models=[CLAUDE])
    assert [way[1] for way in ways(found)] == ["azure", "anthropic"]
    found = search(GPT, own=own, settings=listed, route_provider_override="azure")
    assert [way[1] for way in ways(found)] == ["azure"]
    assert "azure" in skipped(found)["mistral-large-latest"]


# --- Keys in a request -----------------------------------------------------------------------------------------------


def given_keys_of(found):
    return [
        (each.rank, each.target.model.provider, each.target.key.secret().reveal())
        for each in found[0]
        if isinstance(each.target.key, GivenKey)
    ]


def test_a_customers_key_is_used_instead_of_the_organizations():
    operator = key("openai", "operator", organization_id=None)
    found = search(
        GPT, own=[OPENAI, AZURE], platform=[operator], prices=priced(GPT),
        customer_credentials={"openai": {"api_key": CANARY}},
    )  # fmt: skip
    assert given_keys_of(found) == [(0, "openai", CANARY)]
    assert len(found[0]) == 1
    assert found[0][0].target.paid_by == "own_key"


def test_a_customers_key_never_goes_to_another_provider():
    found = search(
        GPT, own=ALL, fallback_models=[CLAUDE, "gpt-4.1"], customer_credentials={"openai": {"api_key": CANARY}}
    )
    assert given_keys_of(found) == [(0, "openai", CANARY), (2, "openai", CANARY)]
    assert ways(found)[1] == (1, "anthropic", CLAUDE, "main")


def test_a_customers_key_needs_no_key_of_the_organization():
    assert given_keys_of(search(GPT, customer_credentials={"openai": {"api_key": CANARY}})) == [(0, "openai", CANARY)]
    unlisted = search("openai/ft:gpt-4o:acme", customer_credentials={"openai": {"api_key": CANARY}})
    assert ways(unlisted) == [(0, "openai", "ft:gpt-4o:acme", "request")]


def test_customers_keys_share_the_calls_by_weight_and_models():
    given_ = [
        {"credentials": {"openai": {"api_key": "sk-heavy"}}, "weight": 3},
        {"credentials": {"openai": {"api_key": "sk-light"}}, "weight": 1},
        {"credentials": {"openai": {"api_key": "sk-other"}}, "weight": 900, "available_models": ["gpt-4.1"]},
        {"credentials": {"openai": {"api_key": "sk-not"}}, "weight": 900, "exclude_models": ["openai/gpt-4o"]},
    ]
    first = Counter()
    for _ in range(400):
        found = given_keys_of(search(GPT, own=ALL, customer_credentials=given_))
        assert {secret for _, _, secret in found} == {"sk-heavy", "sk-light"}
        first[found[0][2]] += 1
    assert 0.62 < first["sk-heavy"] / 400 < 0.88


def test_two_keys_that_came_with_requests_are_never_taken_for_each_other():
    def made(secret):
        return search(GPT, customer_credentials={"openai": {"api_key": secret}})[0][0].target.key

    one, other, again = made("sk-1"), made("sk-2"), made("sk-1")
    assert one.identity == again.identity != other.identity
    assert one.public_id == other.public_id == "in_request"
    assert "sk-1" not in one.identity + repr(one) + str(one)


@pytest.mark.parametrize("name", [GPT, "openai/gpt-4o"])
@pytest.mark.parametrize("label", [GPT, "openai/gpt-4o"])
def test_an_override_is_for_one_model_at_one_provider(name, label):
    given_ = {label: {"api_key": CANARY, "api_base": "https://llm.example.com/v1"}}
    found = search(
        name, own=[OPENAI, AZURE, ANTHROPIC_KEY], credential_override=given_, fallback_models=[CLAUDE, "gpt-4.1"]
    )
    assert given_keys_of(found) == [(0, "openai", CANARY)]
    assert found[0][0].target.key.effective_base_url() == "https://llm.example.com/v1"
    assert [way[3] for way in ways(found)] == ["request", "main", "main", "main"]


def test_an_override_goes_to_the_provider_its_name_says():
    given_ = {"azure/gpt-4o": {"api_key": CANARY, "api_base": "https://acme.openai.azure.com"}}
    found = search(GPT, own=[OPENAI], credential_override=given_)
    assert given_keys_of(found) == [(0, "azure", CANARY)]
    assert found[0][0].target.key.effective_base_url() == "https://acme.openai.azure.com/openai/v1"


def test_the_older_name_of_an_override_counts():
    assert given_keys_of(search(GPT, own=ALL, customer_api_keys={GPT: CANARY})) == [(0, "openai", CANARY)]


def test_an_override_with_an_address_makes_a_server_of_ones_own():
    given_ = {"my-llama": {"api_key": CANARY, "api_base": "https://llm.example.com/v1"}}
    (only,), _ = search("my-llama", own=ALL, credential_override=given_)
    assert (only.target.model.provider, only.target.model.upstream) == ("custom", "my-llama")
    with pytest.raises(InvalidRequest, match="api_base"):
        search("my-llama", own=ALL, credential_override={"my-llama": {"api_key": CANARY}})


FORBIDDEN = [
    "http://127.0.0.1:8080/v1",
    "http://169.254.169.254/latest",
    "https://10.0.0.7/v1",
    "https://[::1]/v1",
    "https://localhost/v1",
    "https://user:pass@llm.example.com/v1",
    "http://llm.example.com/v1",
    "https://llm.example.com:22/v1",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("address", FORBIDDEN)
@pytest.mark.parametrize("carrier", ["override", "unused", "customer", "member"])
def test_an_address_that_is_not_allowed_is_refused_used_or_not(address, carrier):
    account = {"api_key": CANARY, "api_base": address}
    given_ = {
        "override": {"credential_override": {GPT: account}},
        "unused": {"credential_override": {"never-asked-for": account}},
        "customer": {"customer_credentials": {"openai": account}},
        "member": {"load_balance_models": [{"model": GPT, "credentials": account}]},
    }[carrier]
    with pytest.raises(ForbiddenAddress) as refusal:
        search(GPT, own=ALL, **given_)
    assert CANARY not in refusal.value.message
    assert refusal.value.status == 400


def test_only_the_demo_may_call_this_machine():
    given_ = {"credential_override": {GPT: {"api_key": CANARY, "api_base": "http://127.0.0.1:9/v1"}}}
    assert given_keys_of(search(GPT, demo=True, **given_)) == [(0, "openai", CANARY)]


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ({"customer_credentials": {"no-such-provider": {"api_key": CANARY}}}, "no provider"),
        ({"customer_credentials": {"sandbox": {"api_key": CANARY}}}, "listed providers"),
        ({"customer_credentials": {"azure": {"api_key": CANARY}}}, "api_base"),
        ({"customer_credentials": {"openai": {"api_key": f"{CANARY} and more"}}}, "without blanks"),
        ({"customer_credentials": {"bedrock": {"api_key": CANARY, "aws_region": "../x"}}}, "region"),
        ({"customer_credentials": {"vertex": {"api_key": "{}"}}}, "vertex"),
    ],
)
def test_a_key_of_no_use_is_refused_without_a_word_of_it(given_, why):
    with pytest.raises(InvalidRequest, match=why) as refusal:
        search(GPT, own=ALL, **given_)
    assert refusal.value.param.startswith("customer_credentials")
    assert CANARY not in refusal.value.message


def test_a_region_completes_the_address_of_an_account():
    given_ = {
        "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
        "aws_secret_access_key": "s" * 40,
        "aws_region_name": "eu-west-1",
    }
    model = next(model for model in catalog().providers["bedrock"].models.values() if model.kind == "chat")
    (only, *_), _ = search(model.full_name, customer_credentials={"bedrock": given_})
    assert only.target.key.effective_base_url() == "https://bedrock-runtime.eu-west-1.amazonaws.com"


# --- Deployments -----------------------------------------------------------------------------------------------------


def test_a_models_name_can_mean_a_deployment():
    operator = key("azure", "operator", organization_id=None)
    found = search(
        GPT, own=[AZURE], platform=[operator], prices=priced(GPT), model_name_map={GPT: "azure/my-deployment"}
    )
    (only,) = found[0]
    assert (only.name, only.target.model.id, only.target.model.upstream) == (GPT, GPT, "my-deployment")
    assert (only.target.model.provider, only.target.key) == ("azure", AZURE)
    with pytest.raises(routing.NothingToPayWith):
        search(GPT, platform=[operator], prices=priced(GPT), model_name_map={GPT: "azure/my-deployment"})


def test_a_deployment_may_be_of_a_model_nobody_lists():
    (only,), _ = search("mine", own=[AZURE], model_name_map={"mine": "azure/my-deployment"})
    assert only.target.model.upstream == "my-deployment"


def test_fallbacks_are_named_by_the_map_too():
    found = search(
        CLAUDE, own=[ANTHROPIC_KEY, AZURE], fallback_models=[GPT], model_name_map={GPT: "azure/my-deployment"}
    )
    assert ways(found)[1] == (1, "azure", "my-deployment", "main")


# --- Whatever is asked -----------------------------------------------------------------------------------------------

some_names = st.sampled_from([GPT, CLAUDE, GEMINI, "openai/gpt-4o", "azure/gpt-4o", "no-such-model", "gpt-4.1"])
listed = st.lists(some_names, max_size=4)
requests = st.fixed_dictionaries(
    {"model": some_names},
    optional={
        "fallback_models": listed,
        "models": listed,
        "exclude_providers": st.lists(st.sampled_from(["openai", "azure", "anthropic"]), max_size=2),
        "exclude_models": listed,
        "load_balance_models": st.lists(
            st.fixed_dictionaries({"model": some_names, "weight": st.integers(1, 9)}), max_size=3
        ),
        "customer_credentials": st.sampled_from([{}, {"openai": {"api_key": CANARY}}]),
        "model_name_map": st.sampled_from([{}, {GPT: CLAUDE}, {CLAUDE: "azure/deployed"}]),
    },
)
strategies = st.sampled_from(["weighted", "latency", "cost"])
organizations = st.builds(
    lambda strategy, fallback_models: replace(DEFAULTS, strategy=strategy, fallback_models=tuple(fallback_models)),
    strategies,
    listed,
)


@given(
    requests, organizations, st.sampled_from([(), (OPENAI,), ALL, (OPENAI, AZURE), (*ALL, AZURE, key("openai", "b"))])
)
@settings(max_examples=250, deadline=None)
def test_whatever_is_asked_no_target_comes_twice_and_ranks_only_rise(request, organization, own):
    try:
        found, passed_over = search(**request, own=own, settings=organization)
    except (routing.ModelNotFound, routing.NothingToPayWith, NothingFits):
        return
    assert found
    assert CANARY not in repr(found) + repr(passed_over)
    places = [(each.target.model.provider, each.target.model.upstream, each.target.key.identity) for each in found]
    assert len(set(places)) == len(places)
    ranks = [each.rank for each in found]
    assert ranks == sorted(ranks)
    assert all(each.why for each in passed_over)
    by_rank = {each.rank: each.target.paid_by for each in found}
    assert all(by_rank[each.rank] == each.target.paid_by for each in found)
    assert all(each.target.model.provider == "openai" for each in found if isinstance(each.target.key, GivenKey))


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_respans_parameters_are_in_no_dialects_way(name):
    kept = CLIENTS[name].keeps
    found = params.gather({"fallback_models": msgspec.Raw(b'["a"]')}, {}, not_ours=kept)
    assert found.fallback_models == ("a",)
    assert ANTHROPIC.keeps == {"metadata"}


def test_a_name_that_another_provider_has_as_an_id_goes_where_a_key_is():
    name = "openai/gpt-3.5-turbo-instruct"
    assert {model.provider for model in catalog().find(name)}.isdisjoint({"openai"})
    lister = catalog().find(name)[0].provider
    alone = search(name, own=[key("openai")])
    assert ways(alone) == [(0, "openai", "gpt-3.5-turbo-instruct", "main")]
    both = search(name, own=[key("openai"), key(lister)])
    assert [way[1] for way in ways(both)] == [lister]
    with pytest.raises(routing.NothingToPayWith):
        search(name, own=[key("mistral")])
