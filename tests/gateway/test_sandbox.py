"""Promises of `gateway.sandbox`: a believable provider that says the same thing every time."""

import json
import re

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from gateway import sandbox
from gateway.dialects import openai_chat

CITY_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["celsius", "kelvin"]},
                "days": {"type": "integer"},
            },
        },
    },
}


async def post(path="chat/completions", **members):
    said = members.pop("said", "Tell me a joke.")
    value = {"model": "echo", "messages": [{"role": "user", "content": said}]} | members
    request = httpx.Request("POST", f"sandbox://local/{path}", content=json.dumps(value))
    response = await sandbox.TRANSPORT.handle_async_request(request)
    return response, b"".join([block async for block in response.stream])


async def whole(**members):
    response, body = await post(**members)
    assert response.status_code == 200, body
    return json.loads(body)


async def choice(**members):
    return (await whole(**members))["choices"][0]


async def streamed(**members):
    """Return the reader that read a stream, and its chunks."""
    response, body = await post(stream=True, **members)
    assert response.headers["content-type"].startswith("text/event-stream")
    reader = openai_chat.StreamReader(include_usage=True)
    reader.feed(body)
    return reader, [json.loads(part[6:]) for part in body.decode().split("\n\n") if part.startswith("data: {")]


async def test_the_last_user_message_comes_back():
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "second"}]},
    ]
    found = await choice(messages=messages)

    assert found["message"] == {"role": "assistant", "content": "second", "refusal": None}
    assert found["finish_reason"] == "stop"


async def test_the_same_request_gets_the_same_bytes_and_another_one_another_id():
    for members in ({}, {"stream": True}, {"tools": [CITY_TOOL], "tool_choice": "required"}):
        assert (await post(**members))[1] == (await post(**members))[1]

    assert (await whole())["id"] != (await whole(said="Another one."))["id"]


async def test_a_stream_says_the_same_as_a_whole_answer_word_by_word():
    reader, chunks = await streamed(stream_options={"include_usage": True})
    answer = await whole()

    (said,) = json.loads(reader.assembled())["choices"]
    assert said["message"]["content"] == answer["choices"][0]["message"]["content"]
    assert reader.complete
    assert len(chunks) > 4
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == answer["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_a_stream_reports_usage_only_when_asked():
    reader, chunks = await streamed()

    assert reader.usage is None
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_is_what_the_tokenizer_counts():
    answer = await whole(said="Tell me a joke.")
    found = openai_chat.read_json(json.dumps(answer).encode()).usage

    assert sandbox.tokens("Tell me a joke.") == ["Tell", " me", " a", " joke", "."]
    assert found == Usage(input_tokens=5 + 4, output_tokens=5)


@given(text=st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_tokens_are_the_text_and_never_more_than_its_bytes(text):
    tokens = sandbox.tokens(text)

    assert "".join(tokens) == text
    assert len(tokens) <= len(text.encode("utf-8", "surrogatepass"))


async def test_the_maximum_cuts_the_answer():
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        answer = await whole(said="one two three four", **limit)

        assert answer["choices"][0]["message"]["content"] == "one two three"[: len("one two three")]
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3
    assert (await choice(said="one two three", max_tokens=3))["finish_reason"] == "stop"


async def test_exact_writes_exactly_the_maximum():
    for most in (1, 7, 500):
        answer = await whole(model="exact", max_tokens=most)
        reader, _ = await streamed(model="exact", max_tokens=most, stream_options={"include_usage": True})

        assert answer["usage"]["completion_tokens"] == most
        assert reader.usage.output_tokens == most
    assert (await whole(model="exact"))["usage"]["completion_tokens"] == 256


@pytest.mark.parametrize("stop", ["two", ["x", " two", "three"]])
async def test_a_stop_sequence_ends_the_answer_before_it(stop):
    found = await choice(said="one two three", stop=stop)

    assert found["message"]["content"].strip() == "one"
    assert found["finish_reason"] == "stop"


async def test_several_choices_are_answered_and_counted():
    answer = await whole(said="one two", n=3)
    reader, _ = await streamed(said="one two", n=3, stream_options={"include_usage": True})

    assert [item["index"] for item in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 6
    assert reader.usage.output_tokens == 6
    assert [item["message"]["content"] for item in json.loads(reader.assembled())["choices"]] == ["one two"] * 3


async def test_images_are_seen_and_counted():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = [{"type": "text", "text": "What is this?"}, image]
    answer = await whole(messages=[{"role": "user", "content": content}])
    two = await choice(messages=[{"role": "user", "content": [image, image]}])

    assert answer["choices"][0]["message"]["content"] == "What is this? (1 image seen)"
    assert answer["usage"]["prompt_tokens"] == 4 + 4 + 258
    assert two["message"]["content"] == "(2 images seen)"


# --- tools ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "members",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        {"said": "Please call get_weather now."},
        {"said": "get_weather", "tool_choice": "auto"},
    ],
)
async def test_a_tool_is_called_when_it_must_or_is_named(members):
    found = await choice(tools=[CITY_TOOL], **members)
    (call,) = found["message"]["tool_calls"]

    assert found["finish_reason"] == "tool_calls"
    assert found["message"]["content"] is None
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "text", "unit": "celsius", "days": 1}


@pytest.mark.parametrize("members", [{}, {"said": "call get_weather", "tool_choice": "none"}, {"said": "get_weathers"}])
async def test_no_tool_is_called_otherwise(members):
    assert "tool_calls" not in (await choice(tools=[CITY_TOOL], **members))["message"]


async def test_a_streamed_tool_call_is_the_same_call():
    members = {"tools": [CITY_TOOL], "tool_choice": "required"}
    reader, _ = await streamed(**members)

    (streamed_call,) = json.loads(reader.assembled())["choices"][0]["message"]["tool_calls"]
    (call,) = (await choice(**members))["message"]["tool_calls"]

    assert streamed_call["function"] == call["function"]
    assert streamed_call["id"].startswith("call_")
    assert reader.answer().finish_reason == "tool_calls"


async def test_several_named_tools_are_called_together_unless_that_is_forbidden():
    other = {"type": "function", "function": {"name": "get_time"}}
    members = {"tools": [CITY_TOOL, other], "said": "get_weather and get_time"}

    assert len((await choice(**members))["message"]["tool_calls"]) == 2
    assert len((await choice(parallel_tool_calls=False, **members))["message"]["tool_calls"]) == 1


async def test_after_a_tool_s_result_the_result_is_told():
    messages = [
        {"role": "user", "content": "get_weather"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "get_weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]

    assert (await choice(messages=messages, tools=[CITY_TOOL]))["message"]["content"] == "The tool answered: sunny"


async def test_a_tool_call_is_cut_by_the_maximum_like_text():
    answer = await whole(tools=[CITY_TOOL], tool_choice="required", max_tokens=3)

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


# --- JSON -----------------------------------------------------------------------------------------------------------


async def test_json_is_answered_when_json_is_asked():
    found = await choice(response_format={"type": "json_object"})

    assert json.loads(found["message"]["content"]) == {"echo": "Tell me a joke."}


async def test_json_fits_the_schema():
    schema = {
        "$defs": {"Name": {"type": "string", "minLength": 6}},
        "type": "object",
        "properties": {
            "name": {"$ref": "#/$defs/Name"},
            "kind": {"const": "cat"},
            "age": {"type": ["integer", "null"], "minimum": 3},
            "weight": {"type": "number", "maximum": 0.5},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
            "born": {"type": "string", "format": "date"},
            "owner": {"anyOf": [{"type": "object", "properties": {"ok": {"type": "boolean"}}}, {"type": "null"}]},
            "both": {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "null"}}}]},
        },
    }
    found = await choice(response_format={"type": "json_schema", "json_schema": {"name": "cat", "schema": schema}})

    assert json.loads(found["message"]["content"]) == {
        "name": "texttt",
        "kind": "cat",
        "age": 3,
        "weight": 0.5,
        "tags": ["text", "text"],
        "born": "2026-01-01",
        "owner": {"ok": True},
        "both": {"a": 1, "b": None},
    }


def test_a_schema_that_refers_to_itself_ends():
    schema = {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefghij"}}

    assert len(json.dumps(sandbox.sample(schema))) < 100_000


KEYWORDS = """
    type properties items enum const default anyOf allOf $ref minItems minimum maximum minLength maxLength format
    examples exclusiveMinimum
"""
KEYWORDS = re.findall(r"\S+", KEYWORDS)


@given(
    schema=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(KEYWORDS) | st.text(max_size=3),
                inner | st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null", "#/a"]),
                max_size=4,
            )
        ),
        max_leaves=15,
    )
)
@settings(max_examples=500, deadline=None)
def test_no_schema_whatsoever_breaks_the_sandbox(schema):
    json.dumps(sandbox.sample(schema))


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"model": 3}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1_000_000}, "max_tokens"),
        ({"said": "x" * 1_000_001}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [3]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CITY_TOOL], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [CITY_TOOL], "tool_choice": {"function": {"name": "other"}}}, "tool_choice"),
        ({"tools": [CITY_TOOL], "tool_choice": {"function": 3}}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
async def test_a_bad_request_gets_a_400_in_openai_s_shape(members, param):
    response, body = await post(**members)
    error = json.loads(body)["error"]

    assert response.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_other_paths_are_not_found():
    response, body = await post("embeddings")

    assert response.status_code == 404
    assert json.loads(body)["error"]["code"] == "not_found"


async def test_a_stream_can_be_left_at_any_time():
    value = {"model": "exact", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 16_000}
    request = httpx.Request("POST", "sandbox://local/chat/completions", json=value)
    response = await sandbox.TRANSPORT.handle_async_request(request)
    async for _ in response.stream:
        break
    await response.aclose()

    assert [block async for block in response.stream] == []
