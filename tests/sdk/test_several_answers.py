"""Several answers to one call, asked for with one vendor's SDK, given by another vendor's model, and what they cost."""

import openai
import pytest
from google import genai
from google.genai.errors import ClientError

from tests.sdk.money import metered
from tests.servers import wait_until

HELLO = [{"role": "user", "content": "Hello there"}]


@pytest.fixture
def customer(tenant):
    return tenant(credits_usd="5")


@pytest.fixture
def google(customer):
    options = {"base_url": f"{customer.stack.base_url}/api/google/gemini"}
    with genai.Client(api_key=customer.key, http_options=options) as client:
        yield client


def charged(customer, before, model):
    """Check that the books say what the vendor counted, and nothing is held any more."""
    cost = metered(customer.stack.vendors.of(model).last.usage).cost_nano
    assert cost > 0
    wait_until(
        lambda: (before - customer.balance.posted, customer.balance.held) == (cost, 0), what="the books to say so"
    )


def test_openais_sdk_gets_every_candidate_of_gemini(customer):
    before = customer.balance.posted
    answer = customer.client.chat.completions.create(model="fake-gemini/gemini", messages=HELLO, n=3, max_tokens=50)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"You said: Hello there"}
    assert answer.usage.completion_tokens % 3 == 0
    assert customer.stack.vendors.gemini.last.json["generationConfig"]["candidateCount"] == 3
    charged(customer, before, "fake-gemini/gemini")


def test_googles_sdk_gets_every_choice_of_a_chat_model(customer, google):
    before = customer.balance.posted
    answer = google.models.generate_content(
        model="fake-chat/gpt", contents="Hello there", config={"candidate_count": 2, "max_output_tokens": 50}
    )
    assert [candidate.index for candidate in answer.candidates] == [0, 1]
    assert {candidate.content.parts[0].text for candidate in answer.candidates} == {"You said: Hello there"}
    charged(customer, before, "fake-chat/gpt")


def test_where_nobody_gives_several_the_call_is_refused_and_nothing_is_asked_or_charged(customer, google):
    vendors, before = customer.stack.vendors, customer.balance
    vendors.forget()
    for model in ("fake-anthropic/claude", "fake-responses/gpt-newest"):
        with pytest.raises(openai.BadRequestError) as caught:
            customer.client.chat.completions.create(
                model=model, messages=HELLO, n=2, tools=[{"type": "function", "function": {"name": "f"}}]
            )
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "n")
    with pytest.raises(openai.BadRequestError) as caught:
        customer.client.chat.completions.create(model="fake-gemini/gemini", messages=HELLO, n=2, stream=True)
    assert caught.value.param == "n"
    with pytest.raises(ClientError) as refused:
        list(
            google.models.generate_content_stream(
                model="fake-chat/gpt", contents="Hello there", config={"candidate_count": 2}
            )
        )
    assert refused.value.code == 400
    assert [vendor.requests for vendor in (vendors.anthropic, vendors.gemini, vendors.openai)] == [[], [], []]
    wait_until(lambda: customer.balance.held == 0, what="the holds of the refused calls to be released")
    assert customer.balance.posted == before.posted
