"""The arithmetic of money, against exact fractions."""

from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import (
    NANO,
    UNLIMITED_TOKENS,
    Rates,
    Usage,
    affordable_output,
    cost,
    explain,
    nano_from_usd,
    usd,
    worst,
)

prices = st.integers(0, 10**12)
optional_prices = st.none() | prices
tokens = st.integers(0, 10**9)
rates = st.builds(
    Rates, input=prices, output=prices, cache_read=optional_prices, cache_write=optional_prices,
    cache_write_1h=optional_prices, request=prices, image=prices,
)  # fmt: skip
amounts = st.integers(-(10**18), 10**18)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usage whose parts do not exceed the whole."""
    fresh, read, written, output = (draw(tokens) for _ in range(4))
    return Usage(
        input_tokens=fresh + read + written,
        output_tokens=output,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        cache_creation_1h_input_tokens=draw(st.integers(0, written)),
        reasoning_output_tokens=draw(st.integers(0, output)),
        images=draw(st.integers(0, 1000)),
    )


def exact(usage: Usage, rates: Rates) -> Fraction:
    """Return the cost as a fraction, written down independently of the code under test."""
    read_price = rates.input if rates.cache_read is None else rates.cache_read
    write_price = rates.input if rates.cache_write is None else rates.cache_write
    hour_price = write_price if rates.cache_write_1h is None else rates.cache_write_1h
    hour = usage.cache_creation_1h_input_tokens
    fresh = usage.input_tokens - usage.cache_read_input_tokens - usage.cache_creation_input_tokens
    return (
        Fraction(fresh * rates.input, 10**6)
        + Fraction(usage.cache_read_input_tokens * read_price, 10**6)
        + Fraction((usage.cache_creation_input_tokens - hour) * write_price, 10**6)
        + Fraction(hour * hour_price, 10**6)
        + Fraction(usage.output_tokens * rates.output, 10**6)
        + usage.images * rates.image
        + rates.request
    )


@given(usages(), rates)
@settings(max_examples=500)
def test_cost_is_the_exact_sum_rounded_up_once(usage: Usage, rates: Rates) -> None:
    charged = cost(usage, rates)
    assert charged == ceil(exact(usage, rates))
    assert 0 <= charged - exact(usage, rates) < 1


@given(usages(), rates)
def test_lines_of_an_explanation_add_up_to_the_cost(usage: Usage, rates: Rates) -> None:
    lines = explain(usage, rates)
    assert ceil(Fraction(sum(line.amount_micro_nano for line in lines), 10**6)) == cost(usage, rates)
    assert all(line.quantity > 0 for line in lines)
    for line in lines:
        shown = Fraction(line.amount.replace("$", "").replace(",", ""))
        assert shown == Fraction(line.quantity * line.price_nano, line.per * NANO)


@given(usages(), rates, st.integers(0, 10**6), st.integers(0, 10**6))
def test_worst_case_is_never_below_the_cost(usage: Usage, rates: Rates, more_in: int, more_out: int) -> None:
    bound = worst(
        input_tokens=usage.input_tokens + more_in,
        output_tokens=usage.output_tokens + more_out,
        images=usage.images,
        rates=rates,
    )
    assert cost(usage, rates) <= bound


@given(st.integers(0, 10**15), st.integers(0, 10**7), rates)
def test_affordable_output_is_the_largest_that_fits(available: int, input_tokens: int, rates: Rates) -> None:
    affordable = affordable_output(available=available, input_tokens=input_tokens, rates=rates)
    if affordable == UNLIMITED_TOKENS:
        return
    if affordable > 0:
        assert worst(input_tokens=input_tokens, output_tokens=affordable, rates=rates) <= available
    assert worst(input_tokens=input_tokens, output_tokens=affordable + 1, rates=rates) > available


def test_free_output_is_affordable_without_limit_if_the_input_fits() -> None:
    rates = Rates(input=10**6, output=0)
    assert affordable_output(available=5, input_tokens=5, rates=rates) == UNLIMITED_TOKENS
    assert affordable_output(available=4, input_tokens=5, rates=rates) == 0


def test_cost_of_a_known_call() -> None:
    # 900 x $0.15 + 100 x $0.075 + 20 x $0.60, each per million
    rates = Rates(input=150_000_000, output=600_000_000, cache_read=75_000_000)
    usage = Usage(input_tokens=1_000, cache_read_input_tokens=100, output_tokens=20)
    assert cost(usage, rates) == 135_000 + 7_500 + 12_000
    assert [(line.label, line.quantity, line.price, line.amount) for line in explain(usage, rates)] == [
        ("Input", 900, "$0.15", "$0.000135"),
        ("Input read from cache", 100, "$0.075", "$0.0000075"),
        ("Output", 20, "$0.60", "$0.000012"),
    ]


def test_a_fraction_of_a_nano_dollar_is_charged_as_one() -> None:
    assert cost(Usage(input_tokens=1), Rates(input=1, output=0)) == 1


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=-5, output_tokens=-7),
        Usage(input_tokens=10, cache_read_input_tokens=-3, cache_creation_input_tokens=-9),
        Usage(input_tokens=10, cache_read_input_tokens=30),
        Usage(cache_creation_1h_input_tokens=50),
        Usage(images=-1),
    ],
)
def test_wrong_usage_of_a_provider_never_costs_less_than_nothing(usage: Usage) -> None:
    assert cost(usage, Rates(input=10**6, output=10**6, image=10**6)) >= 0


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (310_000, "$0.00031"),
        (10_000_000, "$0.01"),
        (312_480_000_000, "$312.48"),
        (4_999_999_823, "$4.999999823"),
        (-5_000_000_000, "-$5.00"),
        (1_234_567 * NANO, "$1,234,567.00"),
    ],
)
def test_amounts_are_written_with_all_their_digits(nano: int, text: str) -> None:
    assert usd(nano) == text
    assert nano_from_usd(text) == nano


@given(amounts)
def test_an_amount_survives_being_written_and_read(nano: int) -> None:
    if abs(nano) < 10**15:
        assert nano_from_usd(usd(nano)) == nano
        assert nano_from_usd(Decimal(nano) / NANO) == nano
    assert (usd(nano) in {"$0.00", "-$0.00"}) == (nano == 0)


@pytest.mark.parametrize(
    "text", ["", "-", "$", "1,5", "1e3", "nan", "Infinity", "0.0000000001", "5 USD", "٣", "1_000", "99999999999999"]
)
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        nano_from_usd(text)
