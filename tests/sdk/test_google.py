"""The real google-genai SDK on its own route: what only this dialect has, on Gemini's models and on others.

What it shares with every SDK is in `test_cross.py`.
"""

import json

import pytest
from google import genai
from google.genai import errors, types

from tests.stack import call
from tests.vendors.catalogue import KEYS

GEMINI = "fake-gemini/gemini"
_ONCE = types.HttpRetryOptions(attempts=1)


@pytest.fixture
def customer(tenant):
    return tenant(credits_usd="5")


@pytest.fixture
def connect():
    """Make clients of tenants: `connect(tenant, api_version="v1beta")`."""
    made = []

    def client_of(tenant, **options):
        base_url = f"{tenant.stack.base_url}/api/google/gemini"
        http_options = types.HttpOptions(base_url=base_url, retry_options=_ONCE, **options)
        made.append(genai.Client(api_key=tenant.key, http_options=http_options))
        return made[-1]

    yield client_of
    for client in made:
        client.close()


@pytest.fixture
def client(customer, connect):
    return connect(customer)


@pytest.fixture
def vendor(customer):
    return customer.stack.vendors.gemini


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
def test_every_version_of_the_api_is_served(customer, connect, version):
    client = connect(customer, api_version=version)
    assert client.models.generate_content(model=GEMINI, contents="Hello").text == "You said: Hello"


def test_the_vertex_twin_is_served(customer):
    url = f"{customer.stack.base_url}/api/google/vertexai/v1beta/models/{GEMINI}:generateContent"
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}).encode()
    answer = call(url, body=body, headers={"x-goog-api-key": customer.key})
    assert answer.json["candidates"][0]["content"]["parts"][0]["text"] == "You said: Hello"


def test_the_body_reaches_gemini_as_it_was_sent(customer, vendor):
    body = (
        '{ "contents": [{"parts":[{"text":"H\\u00e9llo"}],"role":"user"}],\n"generation_config":{"temperature":0.50}}'
    )
    url = f"{customer.stack.base_url}/api/google/gemini/v1beta/models/{GEMINI}:generateContent"
    answer = call(url, body=body.encode(), headers={"x-goog-api-key": customer.key})
    assert answer.status == 200, answer.body
    for piece in (b'[{"parts":[{"text":"H\\u00e9llo"}],"role":"user"}]', b'"temperature":0.50'):
        assert piece in vendor.last.body
    assert vendor.last.headers["x-goog-api-key"] == KEYS["fake-gemini"]
    assert customer.key not in str(vendor.last.headers)


@pytest.mark.parametrize("model", [GEMINI, "fake-chat/gpt", "fake-anthropic/claude"])
def test_a_stream_without_alt_sse_is_an_array(customer, model):
    """As curl and older clients ask for it."""
    url = f"{customer.stack.base_url}/api/google/gemini/v1beta/models/{model}:streamGenerateContent"
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "Hello there"}]}]}).encode()
    answer = call(url, body=body, headers={"x-goog-api-key": customer.key})
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"].startswith("application/json")
    parts = [part for chunk in answer.json for part in chunk["candidates"][0]["content"].get("parts", [])]
    assert "".join(part["text"] for part in parts) == "You said: Hello there"


@pytest.mark.parametrize("model", ["fake-gemini/gemini-level", "fake-anthropic/claude", "fake-chat/gpt"])
def test_functions_are_called_by_the_sdk_itself(client, model):
    def get_weather(city: str) -> str:
        """Tell the weather of a city."""
        return f"sunny in {city}"

    chat = client.chats.create(model=model, config={"tools": [get_weather]})
    answer = chat.send_message("What is the weather in Paris and Rome?")
    assert answer.text == "You said:  | The tool said sunny in Paris | The tool said sunny in Rome"


@pytest.mark.parametrize("model", [GEMINI, "fake-chat/gpt", "fake-anthropic/claude"])
def test_a_chat_goes_on(client, model):
    chat = client.chats.create(model=model)
    for text in ("Hello", "And now?"):
        assert "".join(chunk.text or "" for chunk in chat.send_message_stream(text)) == f"You said: {text}"


def test_a_schema_of_googles_own_is_understood_everywhere(client):
    schema = types.Schema(
        type="OBJECT",
        properties={"name": types.Schema(type="STRING"), "age": types.Schema(type="INTEGER", nullable=True)},
        required=["name", "age"],
        property_ordering=["name", "age"],
    )
    config = {"response_mime_type": "application/json", "response_schema": schema}
    for model in (GEMINI, "fake-chat/gpt", "fake-anthropic/claude", "fake-responses/gpt-newest"):
        answer = client.models.generate_content(model=model, contents="Who?", config=config)
        assert json.loads(answer.text)["name"] == "Who?", model


@pytest.mark.parametrize("model", [GEMINI, "fake-anthropic/claude"])
def test_tokens_can_be_counted(client, model):
    assert 2 <= client.models.count_tokens(model=model, contents="Hello there").total_tokens <= 20


def test_with_an_own_key_the_vendor_counts(tenant, connect):
    one = tenant()
    one.connect("google", secret="AIza-own-of-the-counter", base_url=one.stack.vendors.gemini.base_url)
    client = connect(one)
    counted = client.models.count_tokens(model="gemini-2.5-flash", contents="Hello there")
    assert counted.total_tokens == 2


def test_texts_are_embedded(tenant, connect):
    one = tenant()
    one.connect("google", secret="AIza-own-of-the-embedder", base_url=one.stack.vendors.gemini.base_url)
    client = connect(one)
    answer = client.models.embed_content(model="gemini-embedding-001", contents=["Hello", "there"])
    assert [len(one.values) for one in answer.embeddings] == [4, 4]


def test_a_blocked_prompt_is_reported(client, customer):
    answer = client.models.generate_content(model="fake-gemini/gemini-blocked", contents="Hello")
    assert (answer.candidates, answer.prompt_feedback.block_reason.value) == (None, "PROHIBITED_CONTENT")
    chat = customer.chat("fake-gemini/gemini-blocked").json
    assert chat["choices"][0]["finish_reason"] == "content_filter"


def test_errors_are_the_sdks_own(client, connect, tenant):
    generate = client.models.generate_content
    with pytest.raises(errors.ClientError) as unknown:
        generate(model="no-such-model", contents="x")
    with pytest.raises(errors.ClientError) as limited:
        generate(model="fake-gemini/gemini-limited", contents="x")
    stranger = connect(tenant())
    with pytest.raises(errors.ClientError) as broke:
        stranger.models.generate_content(model=GEMINI, contents="x")
    assert (unknown.value.code, unknown.value.status) == (404, "NOT_FOUND")
    assert (limited.value.code, limited.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert broke.value.code == 402


# google-genai subclasses aiohttp's session, where that is installed.
@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_the_asynchronous_client(customer, connect):
    client = connect(customer)
    whole = await client.aio.models.generate_content(model=GEMINI, contents="Hello")
    stream = await client.aio.models.generate_content_stream(model="fake-anthropic/claude", contents="Hello")
    text = "".join([chunk.text or "" async for chunk in stream])
    await client.aio.aclose()
    assert whole.text == text == "You said: Hello"
