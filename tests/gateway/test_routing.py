"""Promises of `gateway.routing`: whose key, who pays, what is said when nobody can."""

from dataclasses import dataclass, replace

import pytest

from billing.usage import Rates
from gateway import routing
from gateway.providers import Model


@dataclass(frozen=True)
class Key:
    provider: str
    name: str = "main"
    models: tuple[str, ...] = ()
    weight: int = 1


RATES = Rates(input=1, output=1)


@dataclass(frozen=True)
class Price:
    rates_id: int = 1
    rates: Rates = RATES


GPT = Model(id="gpt", provider="openai", upstream="gpt", rates=RATES)
GPT_ELSEWHERE = Model(id="gpt", provider="other", upstream="gpt", rates=RATES)
ECHO = Model(id="echo", provider="sandbox", upstream="echo", free=True)
PRICED = Model(id="priced", provider="sandbox", upstream="priced", rates=RATES)


def custom(key, name):
    return Model(id=name, provider=key.provider, upstream=name)


def plan(name, *, matches=(), own=(), platform=(), prices=None):
    offer = routing.Offer(
        matches=matches,
        own=own,
        platform=platform,
        prices={("openai", "gpt"): Price(), ("sandbox", "priced"): Price()} if prices is None else prices,
        keyless=frozenset({"sandbox"}),
        custom=custom,
    )
    return routing.plan(name, offer, close_names=lambda: ["gpt-4o"])


def test_an_own_key_wins_over_credits():
    own, operator = Key("openai", "own"), Key("openai", "operator")
    targets = plan("gpt", matches=[GPT], own=[own], platform=[operator])
    assert [(target.key, target.paid_by) for target in targets] == [(own, "own_key"), (operator, "credits")]


@pytest.mark.parametrize("change", [{"rates": None}, {"unpriced": frozenset({"image_output"})}])
def test_what_lost_its_price_or_writes_what_has_none_is_not_sold(change):
    with pytest.raises(routing.NothingToPayWith):
        plan("gpt", matches=[replace(GPT, **change)], platform=[Key("openai")])


def test_an_own_key_that_does_not_allow_the_model_is_passed_over():
    targets = plan("gpt", matches=[GPT], own=[Key("openai", models=("another",))], platform=[Key("openai")])
    assert [target.paid_by for target in targets] == ["credits"]


def test_a_bare_name_goes_to_the_provider_whose_key_there_is():
    (target,) = plan("gpt", matches=[GPT, GPT_ELSEWHERE], own=[Key("other")])
    assert target.model.provider == "other"


def test_a_custom_provider_serves_names_under_its_own():
    key = Key("custom", "local")
    (target,) = plan("local/llama/7b", own=[key])
    assert (target.model.upstream, target.key, target.paid_by, target.price) == ("llama/7b", key, "own_key", None)


def test_a_custom_provider_serves_only_its_listed_models():
    with pytest.raises(routing.ModelNotFound):
        plan("local/other", own=[Key("custom", "local", models=("llama",))])


def test_a_custom_provider_serves_a_listed_bare_name():
    (target,) = plan("llama", own=[Key("custom", "local", models=("llama",))])
    assert target.model.upstream == "llama"


def test_the_sandbox_needs_no_key():
    (free,) = plan("sandbox/echo", matches=[ECHO])
    (priced,) = plan("sandbox/priced", matches=[PRICED])
    assert (free.key, free.paid_by) == (None, "free")
    assert (priced.key, priced.paid_by) == (None, "credits")


def test_a_model_without_a_price_is_never_sold():
    with pytest.raises(routing.NothingToPayWith):
        plan("gpt", matches=[GPT], platform=[Key("openai")], prices={})


def test_an_unknown_model_is_refused_with_close_names():
    with pytest.raises(routing.ModelNotFound, match="Did you mean gpt-4o"):
        plan("gpt-4", matches=[])


def test_a_model_without_any_key_says_what_to_add():
    with pytest.raises(routing.NothingToPayWith, match="provider key for openai"):
        plan("gpt", matches=[GPT])


# --- What a model can take -------------------------------------------------------------------------------------------

ABLE = frozenset({"streaming", "tools"})


@pytest.mark.parametrize(
    ("needs", "capability"),
    [
        (routing.Needs(images=True), "vision"),
        (routing.Needs(documents=True), "pdf"),
        (routing.Needs(sound=True), "audio"),
    ],
    ids=["images", "documents", "sound"],
)
def test_a_model_that_is_known_not_to_read_something_is_passed_over(needs, capability):
    assert "reads no" in routing.why_not(replace(GPT, capabilities=ABLE), needs)
    assert routing.why_not(replace(GPT, capabilities=ABLE | {capability}), needs) is None


@pytest.mark.parametrize("capabilities", [frozenset(), frozenset({"streaming"})], ids=["none", "streaming"])
def test_a_model_of_which_nothing_is_known_is_not_passed_over(capabilities):
    model = replace(GPT, capabilities=capabilities)
    assert routing.why_not(model, routing.Needs(images=True, documents=True, sound=True)) is None


def test_a_model_with_too_small_a_context_is_passed_over():
    small = replace(GPT, context_tokens=1000)
    assert routing.why_not(small, routing.Needs(input_tokens=1000)) is None
    assert "1000 tokens" in routing.why_not(small, routing.Needs(input_tokens=1001))
    assert routing.why_not(replace(GPT, context_tokens=None), routing.Needs(input_tokens=10**9)) is None
