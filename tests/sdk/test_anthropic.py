"""The real Anthropic SDK on its own route: what only this dialect has, on Anthropic's models and on others.

What it shares with every SDK is in `test_cross.py`.
"""

import json
import uuid

import anthropic
import pytest

from tests.sdk.money import metered
from tests.stack import call
from tests.vendors.catalogue import KEYS

CLAUDE = "fake-anthropic/claude"
HELLO = [{"role": "user", "content": "Hello there"}]


@pytest.fixture
def customer(tenant):
    return tenant(credits_usd="5")


@pytest.fixture
def client(customer):
    with anthropic.Anthropic(
        base_url=f"{customer.stack.base_url}/api/anthropic/", api_key=customer.key, max_retries=0
    ) as client:
        yield client


@pytest.fixture
def book():
    """A long text nobody has sent before: what the vendor has cached it keeps."""
    return f"{uuid.uuid4()} It is a truth universally acknowledged. " * 60


@pytest.fixture
def vendor(customer):
    return customer.stack.vendors.anthropic


def paid(customer, log_id, usage):
    """Check that a call was logged and charged as the vendor metered it."""
    log = customer.log(log_id)
    assert (log["prompt_tokens"], log["completion_tokens"]) == (usage.input, usage.output)
    assert int(log["cost_nano"]) == usage.cost_nano
    return log


def test_the_body_reaches_anthropic_as_it_was_sent(customer, vendor):
    """Unknown members, betas, key order and spaces: another byte would be another prompt for the cache."""
    system = '[{"type":"text","text":"Be brief — ça.",  "cache_control":{"ttl":"1h","type":"ephemeral"}}]'
    messages = '[ {"content":"Hello \\u00e9","role":"user"}]'
    body = f'{{"max_tokens": 64, "model":"{CLAUDE}",  "system": {system},\n "messages": {messages}}}'
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "one-2026-01-01,two-2026-02-02",
        "x-api-key": customer.key,
    }
    url = f"{customer.stack.base_url}/api/anthropic/v1/messages?beta=true"
    answer = call(url, body=body.encode(), headers=headers)
    assert answer.status == 200, answer.body
    assert system.encode() in vendor.last.body
    assert messages.encode() in vendor.last.body
    assert vendor.last.json == json.loads(body) | {"model": "claude"}
    assert vendor.last.headers["anthropic-beta"] == "one-2026-01-01,two-2026-02-02"
    assert vendor.last.headers["anthropic-version"] == "2023-06-01"
    assert vendor.last.headers["x-api-key"] == KEYS["fake-anthropic"]
    assert customer.key not in str(vendor.last.headers)


def test_prompt_caching_saves_money_and_the_cost_says_so(client, customer, book):
    system = [
        {"type": "text", "text": "You analyse literary works."},
        {"type": "text", "text": book, "cache_control": {"type": "ephemeral"}},
    ]
    made = []
    for _ in range(2):
        raw = client.messages.with_raw_response.create(model=CLAUDE, max_tokens=64, system=system, messages=HELLO)
        made.append((raw.headers["x-respan-log-id"], raw.parse().usage))
    (first, written), (second, read) = made
    assert written.cache_creation_input_tokens == read.cache_read_input_tokens > 300
    assert read.cache_creation_input_tokens == written.cache_read_input_tokens == 0
    costs = [int(customer.log(log_id)["cost_nano"]) for log_id in (first, second)]
    assert costs == [metered(usage.model_dump()).cost_nano for usage in (written, read)]
    assert costs[1] < costs[0] / 3
    assert customer.log(second)["prompt_cache_hit_tokens"] == read.cache_read_input_tokens
    assert customer.log(first)["prompt_cache_creation_tokens"] == written.cache_creation_input_tokens


def test_an_hour_of_caching_costs_its_own_price(client, customer, book):
    marked = {"type": "text", "text": book, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    raw = client.messages.with_raw_response.create(model=CLAUDE, max_tokens=64, system=[marked], messages=HELLO)
    usage = metered(raw.parse().usage.model_dump())
    assert usage.written_1h > 300
    paid(customer, raw.headers["x-respan-log-id"], usage)


def test_the_cache_is_used_through_chat_completions_too(customer, vendor, book):
    content = [{"type": "text", "text": book, "cache_control": {"type": "ephemeral"}}]
    messages = [{"role": "system", "content": content}, {"role": "user", "content": "Themes?"}]
    cached = [
        customer.client.chat.completions.create(
            model=CLAUDE, messages=messages, max_tokens=64
        ).usage.prompt_tokens_details.cached_tokens
        for _ in range(2)
    ]
    assert cached == [0, vendor.last.usage["cache_read_input_tokens"]]
    assert cached[1] > 300


def test_both_versions_of_the_api_are_served(customer, vendor):
    url = f"{customer.stack.base_url}/api/anthropic/v1/messages"
    body = {"model": CLAUDE, "max_tokens": 16, "messages": HELLO, "temperature": 0.5}
    for version, status in (("2023-06-01", 200), ("2026-10-21", 400)):
        headers = {"anthropic-version": version}
        answer = call(url, key=customer.key, body=json.dumps(body).encode(), headers=headers)
        assert answer.status == status, answer.body
        assert vendor.last.headers["anthropic-version"] == version
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_a_missing_limit_is_set(customer, vendor):
    """The quickstart's snippet names none."""
    url = f"{customer.stack.base_url}/api/anthropic/v1/messages"
    answer = call(url, key=customer.key, body=json.dumps({"model": CLAUDE, "messages": HELLO}).encode())
    assert answer.status == 200, answer.body
    assert vendor.last.json["max_tokens"] == 4096


def test_respan_parameters_in_metadata_stay_here(client, customer, vendor):
    raw = client.messages.with_raw_response.create(
        model=CLAUDE,
        max_tokens=64,
        messages=HELLO,
        metadata={"user_id": "u-1", "respan_params": {"customer_identifier": "jo", "metadata": {"plan": "free"}}},
    )
    log = customer.log(raw.headers["x-respan-log-id"])
    assert (log["customer_identifier"], log["metadata"]["plan"]) == ("jo", "free")
    assert vendor.last.json["metadata"] == {"user_id": "u-1"}


@pytest.mark.parametrize("model", [CLAUDE, "fake-chat/gpt", "fake-gemini/gemini"])
def test_tokens_can_be_counted(client, customer, model):
    counted = client.messages.count_tokens(model=model, messages=HELLO, system="Be brief.")
    assert 3 <= counted.input_tokens <= 30


def test_models_are_listed_in_anthropics_shape(client):
    names = {model.id for model in client.models.list(limit=1000)}
    assert {"fake-anthropic/claude", "sandbox/echo"} <= names


def test_errors_are_the_sdks_own(client, customer, tenant):
    create = client.messages.create
    with pytest.raises(anthropic.NotFoundError) as unknown:
        create(model="no-such-model", max_tokens=16, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError) as wrong:
        create(model=CLAUDE, max_tokens=16, messages=[])
    with pytest.raises(anthropic.BadRequestError) as theirs:
        create(model=CLAUDE, max_tokens=16, messages=[{"role": "user", "content": " "}])
    with pytest.raises(anthropic.APIStatusError) as broke:
        client.with_options(api_key=tenant().key).messages.create(model=CLAUDE, max_tokens=16, messages=HELLO)
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="rsp_live_wrong").messages.create(model=CLAUDE, max_tokens=16, messages=HELLO)
    assert unknown.value.body["error"]["type"] == "not_found_error"
    assert wrong.value.body["type"] == "error"
    assert "non-whitespace" in theirs.value.body["error"]["message"]
    assert (broke.value.status_code, broke.value.body["error"]["type"]) == (402, "billing_error")


def test_an_overloaded_model_is_told_in_the_stream(client):
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(
            model="fake-anthropic/claude-failing", max_tokens=64, messages=[{"role": "user", "content": "1 2 3 4 5 6"}]
        ) as stream,
    ):
        list(stream)
    assert caught.value.body["error"]["type"] == "overloaded_error"


def test_a_stream_that_breaks_off_is_no_answer(client):
    with (
        pytest.raises(anthropic.APIError),
        client.messages.stream(
            model="fake-anthropic/claude-cut", max_tokens=64, messages=[{"role": "user", "content": "1 2 3 4 5 6"}]
        ) as stream,
    ):
        list(stream)


def test_events_come_in_the_vendors_order_from_every_model(client):
    for model in (CLAUDE, "fake-chat/gpt", "fake-gemini/gemini", "fake-responses/gpt-newest"):
        with client.messages.create(model=model, max_tokens=256, messages=HELLO, stream=True) as stream:
            kinds = [event.type for event in stream if event.type != "ping"]
        opened = kinds.count("content_block_start")
        assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
        assert opened == kinds.count("content_block_stop") >= 1


async def test_the_asynchronous_client(customer):
    async with anthropic.AsyncAnthropic(
        base_url=f"{customer.stack.base_url}/api/anthropic/", api_key=customer.key, max_retries=0
    ) as client:
        message = await client.messages.create(model=CLAUDE, max_tokens=64, messages=HELLO)
        async with client.messages.stream(model="fake-gemini/gemini", max_tokens=64, messages=HELLO) as stream:
            streamed = await stream.get_final_text()
    assert message.content[0].text == streamed == "You said: Hello there"


def test_a_bearer_key_is_as_good(customer):
    with anthropic.Anthropic(
        base_url=f"{customer.stack.base_url}/api/anthropic/", auth_token=customer.key, api_key=None, max_retries=0
    ) as client:
        assert client.messages.create(model=CLAUDE, max_tokens=64, messages=HELLO).stop_reason == "end_turn"


def test_what_a_model_cannot_do_is_dropped_and_said(customer):
    url = f"{customer.stack.base_url}/api/anthropic/v1/messages"
    body = {"model": "fake-chat/gpt-reasons", "max_tokens": 64, "messages": HELLO, "top_k": 5, "temperature": 0.5}
    answer = call(url, key=customer.key, body=json.dumps(body).encode(), headers={"anthropic-version": "2023-06-01"})
    assert answer.status == 200, answer.body
    assert set(answer.headers["x-respan-dropped-params"].split(", ")) == {"temperature", "top_k"}
