"""Token counts without a network, and the rules of who pays what."""

import pytest

from billing.usage import Rates, Usage, cost
from tests.traces.calls import finished
from traces import counting
from traces.spans import Counting

RATES = Rates(input=150_000_000, output=600_000_000)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("hello world", 2),
        ("tiktoken is great!", 6),
        ("antidisestablishmentarianism", 6),
        ("2 + 2 = 4", 7),
        ("お誕生日おめでとう", 8),
        ("<|endoftext|>", 7),
    ],
)
def test_counts_are_those_of_o200k_base(text, tokens):
    """The figures of OpenAI's cookbook where it has the text (How to count tokens with tiktoken, o200k_base)."""
    assert counting.count(text) == tokens


@pytest.mark.parametrize("text", [" " * 1_200_000, "a" * 300_000, "\n" * 300_000, "😀" * 60_000, "^" * 300_000])
def test_texts_made_to_break_a_tokenizer_are_counted(text):
    assert 0 < counting.count(text) <= len(text.encode())


def test_long_text_counts_like_its_parts():
    sentence = " The quick brown fox jumps over the lazy dog."
    assert counting.count(sentence * 20_000) == 20_000 * counting.count(sentence)


def test_text_beyond_any_context_is_estimated_from_its_beginning():
    assert counting.count("hello " * 1_000_000) == pytest.approx(1_000_000, rel=0.01)


def test_usage_of_the_provider_is_exact():
    usage = Usage(input_tokens=3, output_tokens=4)
    assert counting.usage_of(finished(usage=usage, counting=Counting(input_text="x"))) == (usage, "exact")


def test_usage_is_counted_where_the_provider_was_silent():
    record = finished(
        usage=None, counting=Counting(input_text="hello world", output_text="tiktoken is great!", images=2)
    )
    assert counting.usage_of(record) == (Usage(input_tokens=2_002, output_tokens=6), "counted")


def test_usage_is_unknown_where_there_is_nothing_to_count():
    assert counting.usage_of(finished(usage=None)) == (None, "none")


def test_figures_no_column_could_hold_are_bounded():
    usage, _ = counting.usage_of(finished(usage=Usage(input_tokens=10**15, output_tokens=-4)))
    assert usage == Usage(input_tokens=2**31 - 1, output_tokens=0)


USAGE = Usage(input_tokens=1_000, output_tokens=200)
NO_OUTPUT = Usage(input_tokens=1_000)
# Whoever leaves before the first token pays for the input the provider has taken.
INPUT_ONLY = cost(NO_OUTPUT, RATES)
FULL = cost(USAGE, RATES)


@pytest.mark.parametrize(
    ("values", "usage", "rates", "expected"),
    [
        pytest.param({"paid_by": "credits"}, USAGE, RATES, FULL, id="completed"),
        pytest.param({"paid_by": "own_key"}, USAGE, RATES, FULL, id="own key, for information"),
        pytest.param({"paid_by": "credits", "free": True}, USAGE, RATES, 0, id="free by rule"),
        pytest.param({"paid_by": "free"}, USAGE, RATES, 0, id="free model"),
        pytest.param({"paid_by": "nobody", "status": "error"}, None, None, 0, id="refused before any attempt"),
        pytest.param({"paid_by": "own_key"}, USAGE, None, None, id="unknown price"),
        pytest.param({"paid_by": "own_key"}, None, RATES, None, id="unknown usage"),
        pytest.param({"paid_by": "credits"}, None, RATES, 0, id="nothing proves a delivery"),
        pytest.param({"paid_by": "credits", "status": "error"}, NO_OUTPUT, RATES, 0, id="failed before any output"),
        pytest.param({"paid_by": "credits", "status": "error"}, USAGE, RATES, FULL, id="failed after partial output"),
        pytest.param(
            {"paid_by": "credits", "status": "aborted", "finish_reason": None}, USAGE, RATES, FULL, id="aborted"
        ),
        pytest.param(
            {"paid_by": "credits", "status": "aborted", "finish_reason": None},
            NO_OUTPUT,
            RATES,
            INPUT_ONLY,
            id="aborted early",
        ),
        pytest.param({"paid_by": "credits", "finish_reason": None}, NO_OUTPUT, RATES, 0, id="zero completion"),
        pytest.param(
            {"paid_by": "credits", "finish_reason": "error"}, NO_OUTPUT, RATES, 0, id="zero completion, error"
        ),
        pytest.param(
            {"paid_by": "credits", "finish_reason": "length"},
            NO_OUTPUT,
            RATES,
            cost(NO_OUTPUT, RATES),
            id="ended properly",
        ),
    ],
)
def test_who_pays_what(values, usage, rates, expected):
    assert counting.cost_of(finished(**values), usage, rates) == expected
