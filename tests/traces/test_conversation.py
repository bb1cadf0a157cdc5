"""What was asked and answered in every dialect, as chat messages: in lists, on a log's page, over the API."""

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import keys
from respan import ids
from tests.traces.rows import insert_call
from traces import conversation, export, logs, snippets

PLACEHOLDER = {"sha256": "ab", "bytes": 3, "type": "text/plain"}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
}
# Each the same conversation: a system prompt, an image, a call, what it answered.
EXPECTED = [
    {"role": "system", "content": "be kind"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": PLACEHOLDER | {"type": "image/png"}}},
        ],
    },
    {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "user", "content": "thanks"},
]
ANTHROPIC = {
    "model": "m",
    "max_tokens": 9,
    "system": "be kind",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PLACEHOLDER}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "sunny"},
                {"type": "text", "text": "thanks"},
            ],
        },
    ],
}
RESPONSES = {
    "model": "m",
    "instructions": "be kind",
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": PLACEHOLDER | {"type": "image/png"}},
            ],
        },
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "x"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Rome"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"role": "user", "content": "thanks"},
    ],
}
GEMINI = {
    "systemInstruction": {"parts": [{"text": "be kind"}]},
    "contents": [
        {"role": "user", "parts": [{"text": "look"}, {"inlineData": {"mimeType": "image/png", "data": PLACEHOLDER}}]},
        {
            "role": "model",
            "parts": [
                {"text": "hm", "thought": True},
                {"text": "I look."},
                {"functionCall": {"id": "c1", "name": "weather", "args": {"city": "Rome"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c1", "name": "weather", "response": {"is": "sunny"}}},
                {"text": "thanks"},
            ],
        },
    ],
}
ANSWERS = {
    "messages": {
        "type": "message",
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "Sunny."},
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
        ],
    },
    "responses": {
        "object": "response",
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Sunny."}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Rome"}'},
        ],
    },
    "generateContent": {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "hm", "thought": True},
                        {"text": "Sunny."},
                        {"functionCall": {"id": "c1", "name": "weather", "args": {"city": "Rome"}}},
                    ],
                }
            }
        ]
    },
}
REQUESTS = {"messages": ANTHROPIC, "responses": RESPONSES, "generateContent": GEMINI}


@pytest.mark.parametrize("operation", REQUESTS)
def test_a_request_is_chat_messages_in_every_dialect(operation):
    found = conversation.asked(REQUESTS[operation], operation)
    expected = [dict(message) for message in EXPECTED]
    if operation == "generateContent":
        expected[3] = {"role": "tool", "tool_call_id": "c1", "content": '{"is":"sunny"}', "name": "weather"}

    assert found == expected
    assert found == conversation.asked(REQUESTS[operation]), "the shape tells enough"


@pytest.mark.parametrize("operation", ANSWERS)
def test_an_answer_is_a_chat_message_in_every_dialect(operation):
    assert conversation.answered(ANSWERS[operation]) == [
        {"role": "assistant", "content": "Sunny.", "reasoning_content": "hm", "tool_calls": [CALL]}
    ]


def test_a_chat_stays_what_it_is():
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "tool", "content": None}]
    answer = {"role": "assistant", "content": "x", "anything": 1}

    assert conversation.asked({"messages": messages}) == messages
    assert conversation.answered({"choices": [{"message": answer}, {}]}) == [answer]


def test_the_input_of_embeddings_is_no_conversation():
    assert conversation.asked({"model": "m", "input": "text"}, "embeddings") == []
    assert conversation.asked({"model": "m", "input": ["a", "b"]}, "embeddings") == []
    assert conversation.asked({"model": "m", "input": "text"}, "responses") == [{"role": "user", "content": "text"}]


def test_geminis_calls_without_ids_find_their_answers_by_name_and_order():
    call = {"functionCall": {"name": "f"}}
    answers = [{"functionResponse": {"name": "f", "response": {"n": number}}} for number in (1, 2)]
    request = {"contents": [{"role": "model", "parts": [call, call]}, {"role": "user", "parts": answers}]}
    [turn] = export.paired(export.turns(request, None))

    assert [part.results[0].text for part in turn.parts] == ['{"n":1}', '{"n":2}']


def test_documents_and_files_are_named_not_loaded():
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "J" * 900}
    blocks = [
        {"type": "document", "title": "a.pdf", "source": pdf},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
        {"type": "document", "source": {"type": "url", "url": "https://e.org/a.pdf"}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "unheard_of", "x": 1},
    ]
    [turn] = export.turns({"messages": [{"role": "user", "content": blocks}]}, None)

    assert [(part.kind, part.title) for part in turn.parts] == [
        ("file", "a.pdf"),
        ("text", ""),
        ("file", ""),
        ("image", ""),
        ("other", ""),
        ("other", ""),
    ]
    assert turn.parts[0].text == "data:application/pdf;base64, 928 characters"
    assert turn.parts[2].text == "https://e.org/a.pdf"
    assert "secret" not in turn.parts[4].text


def test_tools_that_the_provider_ran_itself_are_shown_with_what_they_found():
    content = [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "rome"}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"type": "web_search_result", "url": "u"}]},
        {"type": "text", "text": "Found."},
    ]
    [turn] = export.paired(export.turns(None, {"type": "message", "role": "assistant", "content": content}))

    assert [part.kind for part in turn.parts] == ["text", "tool call"]
    assert "web_search_result" in turn.parts[1].results[0].text


def test_other_items_of_responses_stay_as_they_are():
    output = [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "rome"}},
        {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}},
        {"type": "tool_search_output", "tools": []},
        "odd",
        None,
    ]
    [turn] = export.turns(None, {"output": output})

    assert [part.kind for part in turn.parts] == ["other", "other", "text", "other", "tool call"]
    assert turn.parts[-1].title == "local_shell_call"


KINDS = ["text", "image", "tool_use", "tool_result", "document", "reasoning", "function_call", "base64"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "role", "content", "parts", "text", "source", "data", "functionCall", "functionResponse"),
                    *("name", "id", "input", "output", "summary", "message", "thinking", "inlineData", "media_type"),
                    *("thought", "tool_calls", "function", "call_id"),
                ]
            ),
            inner | st.sampled_from(KINDS),
            max_size=5,
        )
    ),
    max_leaves=20,
)
REQUEST = st.dictionaries(
    st.sampled_from(["messages", "system", "input", "instructions", "contents", "systemInstruction"]), JSON
)
ANSWER = st.dictionaries(st.sampled_from(["choices", "content", "output", "candidates"]), JSON)


@given(REQUEST, ANSWER, st.sampled_from(["", "responses", "messages"]))
def test_whatever_stands_in_a_body_nothing_raises(request, answer, operation):
    for turn in export.paired(export.turns(request, answer, operation=operation)):
        assert isinstance(turn.role, str)
        assert all(isinstance(part.text, str) for part in turn.parts)
    assert logs.input_preview(json.dumps(request).encode()) is not None
    assert logs.output_preview(json.dumps(answer).encode()) is not None


# --- Where it is shown ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", REQUESTS)
def test_lists_show_the_last_question_and_the_answer(operation):
    assert logs.input_preview(json.dumps(REQUESTS[operation]).encode()) == "thanks"
    assert logs.output_preview(json.dumps(ANSWERS[operation]).encode()) == "Sunny."


@pytest.mark.django_db
@pytest.mark.parametrize("operation", REQUESTS)
def test_a_page_shows_the_conversation_and_code_for_the_same_call(cast, client, operation):
    span_id = insert_call(
        organization_id=cast.organization.pk,
        request=REQUESTS[operation],
        response=ANSWERS[operation],
        name=operation,
    )
    client.force_login(cast.member)
    html = client.get(f"/platform/logs/{ids.encode('log', span_id)}/").content.decode()
    shown = html.split('id="log-raw"')[0]

    for text in ("be kind", "look", "I look.", "hm", "weather", "thanks", "Sunny.", "not stored (sha256 ab)"):
        assert text in shown
    path = {"messages": "anthropic/v1/messages", "responses": "responses", "generateContent": "google/gemini/v1beta"}
    assert f"/api/{path[operation]}" in html


@pytest.mark.django_db
@pytest.mark.parametrize("operation", REQUESTS)
def test_nothing_in_a_conversation_is_markup(cast, client, operation):
    nasty = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    request, answer = (
        json.loads(
            json.dumps(each[operation])
            .replace("be kind", nasty)
            .replace("I look.", nasty)
            .replace("weather", nasty)
            .replace("Sunny.", nasty)
            .replace("sunny", nasty)
        )
        for each in (REQUESTS, ANSWERS)
    )
    span_id = insert_call(organization_id=cast.organization.pk, request=request, response=answer, name=operation)
    client.force_login(cast.member)
    html = client.get(f"/platform/logs/{ids.encode('log', span_id)}/").content.decode()

    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.django_db
@pytest.mark.parametrize("operation", REQUESTS)
def test_the_api_fills_respans_fields_for_every_dialect(cast, client, operation):
    key = keys.issue(organization=cast.organization, name="k", environment="production", created_by=None)
    span_id = insert_call(
        organization_id=cast.organization.pk,
        request=REQUESTS[operation],
        response=ANSWERS[operation],
        name=operation,
        api_key_id=key.api_key.pk,
    )
    address = f"/api/request-logs/{ids.encode('log', span_id)}/"
    row = client.get(address, headers={"Authorization": f"Bearer {key.secret}"}).json()

    assert row["prompt_messages"] == conversation.asked(REQUESTS[operation], operation)
    assert row["completion_message"]["content"] == "Sunny."
    assert row["completion_message"]["reasoning_content"] == "hm"
    assert row["tool_calls"] == [CALL]
    assert row["full_request"] == REQUESTS[operation]


def test_code_uses_the_sdk_of_the_dialect():
    base_url = "https://respan.example.test/api/"
    asked = ANTHROPIC | {"temperature": 1, "customer_identifier": "anna"}
    _, python, typescript = snippets.snippets(asked, base_url=base_url, operation="messages")
    tree = ast.parse(python.code)
    [create] = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")]

    assert "from anthropic import Anthropic" in python.code
    assert 'base_url="https://respan.example.test/api/anthropic"' in python.code
    assert {each.arg for each in create.keywords} == {"model", "max_tokens", "system", "messages", "extra_body"}
    assert 'import Anthropic from "@anthropic-ai/sdk"' in typescript.code

    _, python, typescript = snippets.snippets(RESPONSES | {"stream": True}, base_url=base_url, operation="responses")
    assert "client.responses.create(" in python.code
    assert "response.output_text.delta" in typescript.code
    ast.parse(python.code)

    curl, python = snippets.snippets(
        GEMINI, base_url=base_url, operation="generateContent", model="gemini 'x'", is_stream=True
    )
    assert "models/gemini%20%27x%27:streamGenerateContent?alt=sse" in curl.code
    ast.parse(python.code)
