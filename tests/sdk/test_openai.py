"""The real OpenAI SDK, unchanged but for base URL and key: (a) the sandbox, (b) an own key, (c) credits.

Every call appears in Logs with its tokens and cost; on credits the balance moves by exactly that cost.
"""

import json

import openai
import pytest

RED_DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4"
    "//8/w38GIAXDIBKE0DHxgljNBAAO9TXL0Y4OHwAAAABJRU5ErkJggg=="
)
MODELS = ["sandbox/echo", "local/fake:chunks=6", "sandbox/priced", "fake/chat"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def settled(tenant, log, before):
    """Check that a call's cost is what the wallet lost, and nothing is held any more."""
    after = tenant.balance
    paid = int(log["cost_nano"]) if log["covered_by"] == "credits" else 0
    assert (before - after.posted, after.held) == (paid, 0)
    assert (log["covered_by"] != "credits") or paid > 0


@pytest.fixture
def customer(tenant):
    return tenant(credits_usd="5", local=True)


@pytest.mark.parametrize("model", MODELS)
def test_plain(customer, model):
    before = customer.balance.posted
    raw = customer.client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": "Say hello"}]
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    log = customer.log(raw.headers["x-respan-log-id"])
    assert (log["prompt_tokens"], log["completion_tokens"]) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    settled(customer, log, before)


@pytest.mark.parametrize("model", MODELS)
def test_streamed(customer, model):
    before = customer.balance.posted
    stream = customer.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "one two three four five"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    log_id = stream.response.headers["x-respan-log-id"]
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert text
    assert len(chunks) > 3
    log = customer.log(log_id)
    assert log["completion_message"]["content"] == text
    assert (log["prompt_tokens"], log["completion_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    settled(customer, log, before)


@pytest.mark.parametrize("model", ["sandbox/echo", "local/fake:tool", "sandbox/priced"])
def test_tools(customer, model):
    raw = customer.client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice="required",
    )
    answer = raw.parse()
    (tool_call,) = answer.choices[0].message.tool_calls
    assert tool_call.function.name == "get_weather"
    assert isinstance(json.loads(tool_call.function.arguments), dict)
    assert answer.choices[0].finish_reason == "tool_calls"
    log = customer.log(raw.headers["x-respan-log-id"])
    assert log["tool_calls"][0]["function"]["name"] == "get_weather"


@pytest.mark.parametrize("model", ["sandbox/echo", "local/fake:tool"])
def test_tools_streamed(customer, model):
    stream = customer.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice="required",
        stream=True,
    )
    pieces = [call for chunk in stream if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
    assert pieces[0].function.name == "get_weather"
    assert isinstance(json.loads("".join(piece.function.arguments or "" for piece in pieces)), dict)


@pytest.mark.parametrize("model", MODELS)
def test_an_image_url(customer, model):
    before = customer.balance.posted
    raw = customer.client.chat.completions.with_raw_response.create(
        model=model,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is in this image?"},
                    {"type": "image_url", "image_url": {"url": RED_DOT}},
                ],
            }
        ],
    )
    assert raw.parse().choices[0].message.content
    log = customer.log(raw.headers["x-respan-log-id"])
    assert "base64" not in json.dumps(log)
    settled(customer, log, before)


def test_models_list(customer):
    names = {model.id for model in customer.client.models.list()}
    assert {"sandbox/echo", "sandbox/priced", "fake/chat"} <= names


def test_errors_are_the_sdks_own(customer, tenant):
    message = [{"role": "user", "content": "x"}]
    create = customer.client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as unknown:
        create(model="no-such-model", messages=message)
    with pytest.raises(openai.BadRequestError) as wrong:
        create(model="sandbox/echo", messages=[])
    with pytest.raises(openai.RateLimitError):
        create(model="local/fake:status=429", messages=message)
    with pytest.raises(openai.APIStatusError) as broke:
        tenant().client.chat.completions.create(model="sandbox/priced", messages=message)
    with pytest.raises(openai.AuthenticationError):
        customer.client.with_options(api_key="rsp_live_wrong").chat.completions.create(
            model="sandbox/echo", messages=message
        )
    assert (unknown.value.code, wrong.value.param, broke.value.status_code) == ("model_not_found", "messages", 402)
    assert broke.value.code == "insufficient_credits"


def test_a_broken_stream_raises(customer):
    stream = customer.client.chat.completions.create(
        model="local/fake:chunks=9,cut=3", messages=[{"role": "user", "content": "x"}], stream=True
    )
    with pytest.raises(openai.APIError):
        list(stream)


async def test_the_asynchronous_client(customer):
    client = openai.AsyncOpenAI(base_url=f"{customer.stack.base_url}/api/", api_key=customer.key, max_retries=0)
    stream = await client.chat.completions.create(
        model="sandbox/echo", messages=[{"role": "user", "content": "Hello there"}], stream=True
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    await client.close()
    assert "Hello there" in text
