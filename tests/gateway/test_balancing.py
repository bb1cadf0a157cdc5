"""Promises of `gateway.balancing`: shares are what the weights say, nothing is lost or doubled, who pays stays."""

import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage import Rates
from gateway import balancing
from gateway.providers import Model
from gateway.routing import Target

MODEL = Model(id="gpt", provider="openai", upstream="gpt")
ELSEWHERE = replace(MODEL, provider="azure")


@dataclass(frozen=True)
class Key:
    name: str
    weight: int = 1
    provider: str = "openai"
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Price:
    rates: Rates
    rates_id: int = 1


def target(name, *, weight=1, model=MODEL, paid_by="own_key", usd=None):
    price = None if usd is None else Price(Rates(input=usd, output=usd))
    return Target(model, Key(name, weight), price, paid_by)


def dice(seed):
    return random.Random(seed)  # noqa: S311  (the same numbers every time)


def names(targets):
    return [each.key.name for each in targets]


weights = st.lists(st.integers(1, 10_000), max_size=12)
seeds = st.integers(0, 2**32)


@given(weights, seeds)
def test_an_order_by_weight_loses_nothing_and_doubles_nothing(given_weights, seed):
    items = list(enumerate(given_weights))
    ordered = balancing.weighted_order(items, lambda item: item[1], random=dice(seed).random)
    assert sorted(ordered) == items


@given(weights, seeds)
def test_the_same_numbers_make_the_same_order(given_weights, seed):
    items = list(enumerate(given_weights))
    orders = [balancing.weighted_order(items, lambda item: item[1], random=dice(seed).random) for _ in range(2)]
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    "given_weights",
    [(1, 1), (9, 1), (1, 2, 3), (5, 3, 2), (1, 1, 1, 1), (100, 1), (7, 2, 1, 10)],
    ids=str,
)
def test_the_first_place_goes_by_weight(given_weights):
    numbers, draws = dice(7), 20_000
    items = list(enumerate(given_weights))
    first = Counter(
        balancing.weighted_order(items, lambda item: item[1], random=numbers.random)[0][0] for _ in range(draws)
    )
    for index, weight in items:
        share = weight / sum(given_weights)
        assert abs(first[index] / draws - share) < 0.015


def test_the_second_place_goes_by_the_weights_of_those_that_are_left():
    numbers = dice(11)
    orders = [balancing.weighted_order([5, 3, 1], lambda weight: weight, random=numbers.random) for _ in range(20_000)]
    after_five = Counter(order[1] for order in orders if order[0] == 5)
    assert abs(after_five[3] / after_five.total() - 3 / 4) < 0.02


def test_one_item_costs_no_number():
    assert balancing.weighted_order(["a"], lambda item: 1, random=lambda: pytest.fail("drawn")) == ["a"]
    assert balancing.spread([target("a")], random=lambda: pytest.fail("drawn")) == [target("a")]


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_every_number_a_generator_can_give_is_good(number):
    assert sorted(balancing.weighted_order([1, 2, 3], lambda weight: weight, random=lambda: number)) == [1, 2, 3]


def test_keys_share_a_models_calls_by_weight_and_providers_keep_their_order():
    targets = [
        target("a", weight=3),
        target("b"),
        target("elsewhere", model=ELSEWHERE, weight=10_000),
        target("operator", paid_by="credits", weight=10_000),
    ]
    numbers, first = dice(3), Counter()
    for _ in range(8_000):
        ordered = names(balancing.spread(targets, random=numbers.random))
        assert set(ordered[:2]) == {"a", "b"}
        assert ordered[2:] == ["elsewhere", "operator"]
        first[ordered[0]] += 1
    assert abs(first["a"] / 8_000 - 0.75) < 0.02


payers = st.sampled_from(["own_key", "free", "credits"])
some_targets = st.lists(
    st.builds(
        target,
        st.text("abcdef", min_size=1, max_size=3),
        weight=st.integers(1, 100),
        model=st.sampled_from([MODEL, ELSEWHERE]),
        paid_by=payers,
        usd=st.none() | st.integers(0, 50),
    ),
    max_size=10,
).map(lambda targets: sorted(targets, key=lambda each: ("own_key", "free", "credits").index(each.paid_by)))


@given(some_targets, seeds, st.sampled_from(["spread", "latency", "cost"]))
def test_no_strategy_loses_a_target_or_changes_who_pays_first(targets, seed, strategy):
    numbers = dice(seed)
    ordered = {
        "spread": lambda: balancing.spread(targets, random=numbers.random),
        "latency": lambda: balancing.by_latency(targets, lambda each: len(each.key.name), random=numbers.random),
        "cost": lambda: balancing.by_cost(targets, lambda price: price.rates.input),
    }[strategy]()
    assert Counter(map(id, ordered)) == Counter(map(id, targets))
    assert [each.paid_by for each in ordered] == [each.paid_by for each in targets]


@given(some_targets)
def test_by_cost_the_cheapest_of_a_payer_comes_first_and_unknown_prices_last(targets):
    ordered = balancing.by_cost(targets, lambda price: price.rates.input)
    for payer in ("own_key", "credits"):
        prices = [each.price and each.price.rates.input for each in ordered if each.paid_by == payer]
        known = [price for price in prices if price is not None]
        assert known == sorted(known)
        assert prices[: len(known)] == known


def test_by_latency_the_quickest_comes_first_and_the_unknown_last():
    seconds = {"slow": 2.0, "quick": 0.5, "new": None}
    targets = [target("new"), target("slow"), target("quick")]
    ordered = balancing.by_latency(targets, lambda each: seconds[each.key.name], random=lambda: 0.5)
    assert names(ordered) == ["quick", "slow", "new"]


def test_by_latency_one_call_in_twenty_goes_where_the_weights_say():
    targets = [target("new"), target("quick")]
    ordered = balancing.by_latency(targets, lambda each: {"quick": 0.1}.get(each.key.name), random=lambda: 0.01)
    assert names(ordered) == ["new", "quick"]
