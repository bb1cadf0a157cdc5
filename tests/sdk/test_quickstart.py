"""Every snippet of the quickstart, unchanged but for the address and the key, with the models it names.

The customer has keys of his own for OpenAI, Anthropic and Google, whose addresses are those of the fake vendors; all
else is the shipped catalogue. A client made by `point` stands for the snippet's own first lines.
"""

import base64
import json
import uuid

import anthropic
import openai
import pytest
from google import genai

from tests.sdk.speakers import PDF, PNG

OPENAI_KEY = "sk-own-of-the-quickstart"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["location"],
            },
        },
    }
]


@pytest.fixture
def customer(tenant):
    one = tenant()
    vendors = one.stack.vendors
    one.connect("openai", secret=OPENAI_KEY, base_url=vendors.openai.base_url)
    one.connect("anthropic", secret="sk-ant-own-of-the-quickstart", base_url=vendors.anthropic.base_url)
    one.connect("google", secret="AIza-own-of-the-quickstart", base_url=vendors.gemini.base_url)
    return one


@pytest.fixture
def client(customer):
    return customer.client


def test_a_basic_call(client, customer):
    response = client.chat.completions.create(model="gpt-5.4", messages=[{"role": "user", "content": "Hello!"}])
    assert response.choices[0].message.content == "You said: Hello!"
    assert customer.stack.vendors.openai.last.headers["authorization"] == f"Bearer {OPENAI_KEY}"


@pytest.mark.parametrize("model", ["gpt-5.4", "claude-sonnet-4-20250514", "gemini-2.5-flash"])
def test_another_model_is_another_word(client, model):
    response = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello!"}])
    assert response.choices[0].message.content == "You said: Hello!"


@pytest.mark.parametrize("model", ["gpt-5.4", "claude-sonnet-4-20250514", "gemini-2.5-flash"])
def test_streaming(client, model):
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Tell me a long story"}], stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == "You said: Tell me a long story"


@pytest.mark.parametrize("model", ["gpt-5.4", "claude-sonnet-4-20250514", "gemini-2.5-flash"])
def test_function_calling(client, model):
    response = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What's the weather like in Paris today?"}],
        tools=TOOLS,
        tool_choice="auto",
    )
    (called,) = response.choices[0].message.tool_calls
    assert called.function.name == "get_current_weather"
    assert json.loads(called.function.arguments) == {"location": "Paris", "unit": "celsius"}
    assert response.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_thinking(client, streamed):
    ask = {
        "model": "claude-sonnet-4-20250514",
        "max_tokens": 4000,
        "messages": [{"role": "user", "content": "What is 17 times 23?"}],
        "extra_body": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    }
    if streamed:
        deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(stream=True, **ask)]
        thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        signatures = [
            block["signature"]
            for delta in deltas
            for block in getattr(delta, "thinking_blocks", None) or []
            if block.get("signature")
        ]
        assert len(signatures) == 1
    else:
        message = client.chat.completions.create(**ask).choices[0].message
        thoughts = message.reasoning_content
        (block,) = message.thinking_blocks
        assert (block["type"], block["thinking"]) == ("thinking", thoughts)
        assert block["signature"]
    assert thoughts.startswith("The user wants an answer")


def test_reasoning_effort(client, customer):
    client.chat.completions.create(
        model="claude-sonnet-4-20250514", messages=[{"role": "user", "content": "Hi"}], reasoning_effort="low"
    )
    assert customer.stack.vendors.anthropic.last.json["thinking"]["type"] == "enabled"


def test_a_pdf_by_its_id_after_a_direct_upload(client, customer):
    direct = openai.OpenAI(base_url=customer.stack.vendors.openai.base_url, api_key=OPENAI_KEY)
    file = direct.files.create(file=("draconomicon.pdf", base64.b64decode(PDF)), purpose="user_data")
    direct.close()
    response = client.chat.completions.create(
        model="gpt-5.4",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "file", "file": {"file_id": file.id}},
                    {"type": "text", "text": "What is the first dragon in the book?"},
                ],
            }
        ],
    )
    assert response.choices[0].message.content.endswith(f"I see a PDF of {len(base64.b64decode(PDF))} bytes")


def test_a_file_of_openais_is_refused_before_another_vendor_is_asked(client, customer):
    content = [{"type": "text", "text": "x"}, {"type": "file", "file": {"file_id": "file-abc123"}}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="claude-sonnet-4-20250514", messages=[{"role": "user", "content": content}]
        )
    assert caught.value.param == "messages[0].content[1].file.file_id"
    assert not customer.stack.vendors.anthropic.requests


@pytest.mark.parametrize("model", ["gpt-5.4", "claude-sonnet-4-20250514", "gemini-2.5-flash"])
def test_a_pdf_by_its_data(client, model):
    response = client.chat.completions.create(
        model=model,
        messages=[
            {
                "role": "user",
                "content": [
                    {
                        "type": "file",
                        "file": {"filename": "draconomicon.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
                    },
                    {"type": "text", "text": "What is the first dragon in the book?"},
                ],
            }
        ],
    )
    assert response.choices[0].message.content.endswith(f"I see a PDF of {len(base64.b64decode(PDF))} bytes")


@pytest.mark.parametrize("model", ["gpt-5.4", "claude-sonnet-4-20250514"])
def test_an_image_by_its_address(client, model):
    content = [
        {"type": "text", "text": "What's in this image?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/boardwalk.jpg"}},
    ]
    response = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    assert response.choices[0].message.content.endswith("I see an image at https://example.com/boardwalk.jpg")


@pytest.mark.parametrize("model", ["gpt-5.4", "claude-sonnet-4-20250514", "gemini-2.5-flash"])
def test_an_image_as_prompt_variable(client, model):
    response = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Describe {{image}} for {{reader}}"}],
        extra_body={
            "variables": {
                "image": {"_type": "image_url", "value": f"data:image/png;base64,{PNG}"},
                "reader": "a child",
            }
        },
    )
    said, seen = response.choices[0].message.content.split(" | ")
    assert " ".join(said.split()) == "You said: Describe for a child"
    assert seen == "I see an image/png of 85 bytes"


@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-20250514' is deprecated:DeprecationWarning")
def test_prompt_caching(customer):
    client = anthropic.Anthropic(base_url=f"{customer.stack.base_url}/api/anthropic/", api_key=customer.key)
    book, usages = f"{uuid.uuid4()} Pride and Prejudice " * 400, []
    for _ in range(2):
        message = client.messages.create(
            model="claude-sonnet-4-20250514",
            max_tokens=1024,
            system=[
                {"type": "text", "text": "You are an AI assistant tasked with analyzing literary works."},
                {
                    "type": "text",
                    "text": book,
                    "cache_control": {"type": "ephemeral"},
                },
            ],
            messages=[{"role": "user", "content": "Analyze the major themes."}],
        )
        usages.append(message.usage)
    client.close()
    assert usages[0].cache_creation_input_tokens == usages[1].cache_read_input_tokens > 1000


def test_the_google_sdk(customer):
    client = genai.Client(
        api_key=customer.key, http_options={"base_url": f"{customer.stack.base_url}/api/google/gemini"}
    )
    response = client.models.generate_content(model="gemini-2.5-flash", contents="Tell me a story.")
    assert response.text == "You said: Tell me a story."
    client.close()
