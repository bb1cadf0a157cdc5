"""The real OpenAI SDK on the Responses API, embeddings and files: on OpenAI's models and, where it can be, others.

What it shares with every SDK is in `test_cross.py`.
"""

import io
import json

import openai
import pytest
from pydantic import BaseModel

from tests.sdk.money import metered

GPT = "fake-responses/gpt"
NEWEST = "fake-responses/gpt-newest"
OTHERS = ["fake-chat/gpt", "fake-anthropic/claude", "fake-gemini/gemini"]
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def customer(tenant):
    return tenant(credits_usd="5")


@pytest.fixture
def vendor(customer):
    return customer.stack.vendors.openai


def test_the_body_reaches_openai_as_it_was_sent(customer, vendor):
    body = b'{"model":"fake-responses/gpt", "input":[{"role":"user","content":"H\\u00e9llo  there"}],"store": false }'
    answer = customer.post(body, path="/api/responses")
    assert answer.status == 200, answer.body
    assert (vendor.last.path, vendor.last.json["input"]) == ("/v1/responses", json.loads(body)["input"])
    assert b'[{"role":"user","content":"H\\u00e9llo  there"}]' in vendor.last.body


def test_a_conversation_can_be_stored_in_the_account_of_an_own_key(tenant):
    owner = tenant()
    owner.connect("openai", secret="sk-own-of-the-talks", base_url=owner.stack.vendors.openai.base_url)
    create = owner.client.responses.create
    first = create(model="gpt-5.4", input="Hello")
    second = create(model="gpt-5.4", input="And now?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.output_text == "You said: And now?"


@pytest.mark.parametrize("model", OTHERS)
def test_who_stores_nothing_says_so(customer, model):
    with pytest.raises(openai.BadRequestError) as caught:
        customer.client.responses.create(model=model, input="And now?", previous_response_id="resp_123")
    assert caught.value.param == "previous_response_id"


@pytest.mark.parametrize("model", [GPT, NEWEST, *OTHERS])
def test_events_come_in_the_vendors_order_from_every_model(customer, model):
    stream = customer.client.responses.create(
        model=model, input="What is the weather in Oslo?", tools=[WEATHER], stream=True
    )
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done")
    done = next(event for event in events if event.type == "response.function_call_arguments.done")
    assert json.loads(done.arguments) == {"city": "Oslo"}
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == done.arguments
    whole = events[-1].response
    assert [item.type for item in whole.output if item.type != "reasoning"] == ["message", "function_call"]
    added = [event.item.id for event in events if event.type == "response.output_item.added"]
    assert added == [item.id for item in whole.output]


@pytest.mark.parametrize("model", [GPT, *OTHERS])
def test_the_sdk_parses_an_answer_into_a_class(customer, model):
    parsed = customer.client.responses.parse(model=model, input="Who?", text_format=Person)
    assert parsed.output_parsed == Person(name="Who?", age=7)


def test_chat_completions_of_the_newest_models_go_over_the_responses_api(customer, vendor):
    """They call tools nowhere else: the client asks as ever."""
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER["parameters"]}}
    raw = customer.client.chat.completions.with_raw_response.create(
        model=NEWEST,
        messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        tools=[tool],
        reasoning_effort="medium",
    )
    answer = raw.parse()
    assert vendor.last.path == "/v1/responses"
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"city": "Rome"}'
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    log = customer.log(raw.headers["x-respan-log-id"])
    assert int(log["cost_nano"]) == metered(vendor.last.usage).cost_nano


def test_without_tools_a_chat_completion_stays_one(customer, vendor):
    customer.chat(NEWEST)
    assert vendor.last.path == "/v1/chat/completions"


def test_an_error_in_the_middle_raises(customer):
    stream = customer.client.responses.create(model="fake-responses/gpt-failing", input="1 2 3 4 5 6", stream=True)
    kinds = [event.type for event in stream]
    assert kinds[-1] == "response.failed"
    with pytest.raises(openai.APIError):
        list(customer.client.responses.create(model="fake-anthropic/claude-failing", input="1 2 3 4 5", stream=True))


def test_errors_are_the_sdks_own(customer, tenant):
    create = customer.client.responses.create
    with pytest.raises(openai.NotFoundError) as unknown:
        create(model="no-such-model", input="x")
    with pytest.raises(openai.BadRequestError) as wrong:
        create(model="fake-anthropic/claude", input=[{"role": "user", "content": [{"type": "nonsense"}]}])
    with pytest.raises(openai.APIStatusError) as broke:
        tenant().client.responses.create(model=GPT, input="x")
    assert (unknown.value.code, broke.value.status_code) == ("model_not_found", 402)
    assert wrong.value.param.startswith("input[0].content[0]")


async def test_the_asynchronous_client(customer):
    async with openai.AsyncOpenAI(
        base_url=f"{customer.stack.base_url}/api/", api_key=customer.key, max_retries=0
    ) as client:
        whole = await client.responses.create(model="fake-anthropic/claude", input="Hello")
        stream = await client.responses.create(model="fake-gemini/gemini", input="Hello", stream=True)
        text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
    assert whole.output_text == text == "You said: Hello"


def test_files_live_in_the_account_of_an_own_key(tenant):
    owner = tenant()
    vendor = owner.stack.vendors.openai
    owner.connect("openai", secret="sk-own-of-the-files", base_url=vendor.base_url)
    files = owner.client.files
    made = files.create(file=("notes.pdf", io.BytesIO(b"%PDF-1.4 notes"), "application/pdf"), purpose="user_data")
    assert (made.filename, made.bytes) == ("notes.pdf", 14)
    assert vendor.files[made.id].key == "sk-own-of-the-files"
    assert files.retrieve(made.id).id == made.id
    assert made.id in [one.id for one in files.list()]
    assert files.content(made.id).read() == b"%PDF-1.4 notes"
    assert files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        files.retrieve(made.id)


def test_files_of_another_organization_cannot_be_reached(tenant):
    owner, stranger = tenant(), tenant()
    vendor = owner.stack.vendors.openai
    for one in (owner, stranger):
        one.connect("openai", secret=f"sk-own-{one.organization.pk}", base_url=vendor.base_url)
    made = owner.client.files.create(file=("a.pdf", b"%PDF-1.4 a"), purpose="user_data")
    with pytest.raises(openai.NotFoundError):
        stranger.client.files.content(made.id)


def test_texts_are_embedded_as_numbers_and_as_bytes(tenant):
    one = tenant()
    one.connect("openai", secret="sk-own-of-the-texts", base_url=one.stack.vendors.openai.base_url)
    create = one.client.embeddings.create
    vectors = [
        [item.embedding for item in create(model="text-embedding-3-small", input=["a", "bb"], **options).data]
        for options in ({}, {"encoding_format": "float"})
    ]
    for vector, length in zip(vectors[0] + vectors[1], (1, 2, 1, 2), strict=True):
        assert vector == pytest.approx([length / place for place in (1, 2, 3, 4)])
