"""Every SDK against every kind of model, whole and streamed: what was said arrives, what came back is understood.

The models are strict fakes (`tests/vendors/`): what the real vendor would refuse they refuse, and their answers say
back what they were told. Prices, tokens and the wallet are compared with what the vendor itself reported. Neighbours:
`speakers.py` (the SDKs), `money.py` (what a call must cost).
"""

import json

import pytest

from tests.sdk.money import metered
from tests.sdk.speakers import CITY, PDF, PERSON, SPEAKERS, AdaptiveMessages, Question, Told
from tests.stack import new_tenant
from tests.vendors import mind

MODELS = ["fake-chat/gpt", "fake-responses/gpt-newest", "fake-anthropic/claude", "fake-gemini/gemini"]
THINKING = [
    "fake-responses/gpt-newest",
    "fake-anthropic/claude-budget",
    "fake-anthropic/claude-adaptive",
    "fake-gemini/gemini-budget",
    "fake-gemini/gemini-level",
]
pair = pytest.mark.parametrize("model", MODELS)
every_way = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
every_speaker = pytest.mark.parametrize("speaker", SPEAKERS, indirect=True)


@pytest.fixture(scope="module")
def customer(stack, django_db_blocker):
    with django_db_blocker.unblock():
        return new_tenant(stack, credits_usd="50")


@pytest.fixture(scope="module")
def speakers(stack, customer):
    """Every SDK, connected once: a client takes longer to make than to ask."""
    made = {name: speaker(stack.base_url, customer.key) for name, speaker in SPEAKERS.items()}
    made["adaptive"] = AdaptiveMessages(stack.base_url, customer.key)
    yield made
    for speaker in made.values():
        speaker.close()
    customer.close()


@pytest.fixture
def speaker(request, speakers):
    return speakers[request.param]


def sent(customer, model):
    """Return the last request the vendor got."""
    return customer.stack.vendors.of(model).last


@every_way
@pair
@every_speaker
def test_a_text_arrives_and_its_answer_is_understood(speaker, customer, model, streamed):
    told = speaker.ask(model, Question("Hello there, ça va? 世界 🎉"), streamed=streamed)
    assert told.text == "You said: Hello there, ça va? 世界 🎉"
    assert (told.finish, told.calls) == ("stop", [])
    usage = metered(sent(customer, model).usage)
    assert told.usage == (usage.input, usage.output)


@every_way
@pair
@every_speaker
def test_a_picture_and_a_document_arrive(speaker, customer, model, streamed):
    told = speaker.ask(model, Question("What is this?", image=True, pdf=True), streamed=streamed)
    seen = {"I see an image/png of 85 bytes", f"I see {mind.pdf(PDF)}"}
    assert told.text.split(" | ")[0] == "You said: What is this?"
    assert set(told.text.split(" | ")[1:]) == seen


@every_way
@pair
@every_speaker
def test_tools_go_round(speaker, customer, model, streamed):
    question = Question("What is the weather in Paris and Rome?", tools=("get_time", "get_weather"))
    told = speaker.ask(model, question, streamed=streamed)
    assert [(name, arguments) for _, name, arguments in told.calls] == [
        ("get_time", {"city": "Paris"}),
        ("get_time", {"city": "Rome"}),
    ]
    assert (told.text, told.finish) == ("Let me look.", "tool_calls")
    again = speaker.answer(model, question, told, ["noon", "late"], streamed=streamed)
    assert again.text == "You said:  | The tool said noon | The tool said late"
    assert (again.finish, again.calls) == ("stop", [])


@every_way
@pair
@every_speaker
def test_a_tool_can_be_forced(speaker, customer, model, streamed):
    question = Question("Go to Rome and Oslo", tools=("get_time", "get_weather"), forced="get_weather")
    told = speaker.ask(model, question, streamed=streamed)
    assert [(name, arguments["city"]) for _, name, arguments in told.calls] == [
        ("get_weather", "Rome"),
        ("get_weather", "Oslo"),
    ]
    assert told.finish == "tool_calls"


@pair
@every_speaker
def test_any_tool_can_be_forced(speaker, customer, model):
    told = speaker.ask(model, Question("Go to Lima", tools=("get_time",), forced="any"), streamed=False)
    assert [(name, arguments) for _, name, arguments in told.calls] == [("get_time", {"city": "Lima"})]


@pytest.mark.parametrize("model", [model for model in MODELS if "gemini" not in model])
@pytest.mark.parametrize("speaker", ["chat", "responses", "messages"], indirect=True)
def test_one_call_at_a_time_can_be_asked_for(speaker, customer, model):
    question = Question("The weather in Rome and Oslo?", tools=("get_weather",), parallel=False)
    told = speaker.ask(model, question, streamed=False)
    assert [arguments for _, _, arguments in told.calls] == [{"city": "Rome"}]


@every_way
@pair
@every_speaker
def test_an_answer_fits_the_schema_that_was_asked_for(speaker, customer, model, streamed):
    told = speaker.ask(model, Question("Who?", schema=PERSON), streamed=streamed)
    assert json.loads(told.text) == {"name": "Who?", "age": 7}


@pytest.mark.parametrize("model", MODELS)
@every_speaker
def test_a_limit_ends_an_answer(speaker, customer, model):
    told = speaker.ask(model, Question("one two three four five six seven " * 9, limit=20), streamed=False)
    assert told.finish == "length"
    assert told.usage[1] == 20


@every_way
@pytest.mark.parametrize("model", THINKING)
@every_speaker
def test_thoughts_are_shown_and_go_back_with_the_tools_answer(speaker, speakers, customer, model, streamed):
    """The vendors sign thoughts and refuse a conversation in which a signature is missing or changed."""
    if speaker.name == "messages" and model.endswith("adaptive"):
        speaker = speakers["adaptive"]  # Anthropic's own newer models are asked to think in another way
    question = Question("What is the weather in Paris and Rome?", tools=("get_weather",), thinks=True)
    told = speaker.ask(model, question, streamed=streamed)
    assert told.thoughts == mind.THOUGHT
    assert [arguments["city"] for _, _, arguments in told.calls] == ["Paris", "Rome"]
    again = speaker.answer(model, question, told, ["sun", "rain"], streamed=streamed)
    assert again.text == "You said:  | The tool said sun | The tool said rain"
    assert signed_thoughts(customer, model), "the thoughts of the first turn were not sent back"


def signed_thoughts(customer, model):
    """Return whether the vendor got back what it had signed."""
    body = sent(customer, model).body.decode()
    if "gemini" in model:
        return "thoughtSignature" in body or "thought_signature" in body
    marks = {"fake-anthropic": '"signature"', "fake-responses": '"encrypted_content"'}
    return marks[model.partition("/")[0]] in body


@pytest.mark.parametrize(
    "model", ["fake-anthropic/claude-failing", "fake-gemini/gemini-failing", "fake-chat/gpt-failing"]
)
@every_speaker
def test_an_error_in_the_middle_is_the_sdks_own(speaker, customer, model):
    with pytest.raises(Exception) as caught:
        speaker.ask(model, Question("one two three four five six"), streamed=True)
    assert type(caught.value).__module__.split(".")[0] in ("openai", "anthropic", "google"), repr(caught.value)


@pytest.mark.parametrize("model", ["fake-anthropic/claude-overloaded", "fake-gemini/gemini-limited"])
@every_speaker
def test_a_refusal_is_the_sdks_own(speaker, customer, model):
    with pytest.raises(Exception) as caught:
        speaker.ask(model, Question("Hello"), streamed=False)
    status = getattr(caught.value, "status_code", None) or getattr(caught.value, "code", None)
    limited = model.endswith("limited")
    assert status in ((429,) if limited else (503, 529)), repr(caught.value)
    assert type(caught.value).__module__.split(".")[0] in ("openai", "anthropic", "google")


@every_way
@every_speaker
def test_every_call_is_logged_and_charged_to_the_nano_dollar(request, stack, tenant, speaker, streamed):
    """One conversation with each kind of model, then the books: tokens and cost are the vendors' own."""
    customer = tenant(credits_usd="5")
    speaker = type(speaker)(stack.base_url, customer.key)
    request.addfinalizer(speaker.close)
    before = customer.balance.posted
    made: list[tuple[Told, object]] = []
    for model in MODELS:
        question = Question("What is the weather in Paris?", tools=("get_weather",))
        told = speaker.ask(model, question, streamed=streamed)
        made.append((told, metered(sent(customer, model).usage)))
        again = speaker.answer(model, question, told, ["sun"], streamed=streamed)
        made.append((again, metered(sent(customer, model).usage)))
    for told, usage in made:
        log = customer.log(told.log_id)
        assert (log["prompt_tokens"], log["completion_tokens"]) == (usage.input, usage.output)
        assert told.usage == (usage.input, usage.output)
        assert (int(log["cost_nano"]), log["covered_by"]) == (usage.cost_nano, "credits")
        assert log["status"] == "success"
    spent = sum(usage.cost_nano for _, usage in made)
    assert (before - customer.balance.posted, customer.balance.held) == (spent, 0)


def test_the_schema_of_a_tool_arrives_whole(customer):
    """Members of a JSON schema that a vendor's subset does not know must not cost the request."""
    schema = CITY | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "additionalProperties": False,
        "properties": {
            "city": {"type": "string", "minLength": 1},
            "days": {"type": ["integer", "null"], "exclusiveMinimum": 0},
            "unit": {"anyOf": [{"const": "c"}, {"const": "f"}]},
            "where": {"$ref": "#/$defs/place"},
        },
        "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "number"}}}},
    }
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": schema}}
    for model in MODELS:
        answer = customer.chat(model, tools=[tool], tool_choice="required")
        assert answer.status == 200, answer.body
        assert answer.json["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
