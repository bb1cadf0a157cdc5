"""Promises of `gateway.dialects.thinking`: what only the first model can read goes, everything else keeps its bytes."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import blocks, openai_chat, thinking, wire
from gateway.dialects.registry import CLIENTS
from tests.gateway.dialects import any_request

RECORDINGS = Path(__file__).resolve().parents[2] / "recordings"
CHAT, RESPONSES, ANTHROPIC, GEMINI = "openai_chat", "openai_responses", "anthropic", "gemini"
SKIP = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="


def asked(dialect, body):
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    named = wire.Named("gemini-3-pro", stream=False) if dialect == GEMINI else None
    return CLIENTS[dialect].read(raw, named=named)


def stripped(dialect, body):
    """Return a body as it goes to another model, decoded; None where it stays as it is."""
    found = thinking.stripped_body(dialect, asked(dialect, body))
    return None if found is None else json.loads(found)


# --- Anthropic ------------------------------------------------------------------------------------------------------

THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "ZGF0YQ=="}
USE = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"q": "thinking"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "found"}


def claude(*messages, **members):
    return {"model": "claude-a", "max_tokens": 4000, "messages": list(messages), **members}


def user(content="Hello"):
    return {"role": "user", "content": content}


def assistant(*content):
    return {"role": "assistant", "content": list(content)}


def test_anthropics_thoughts_go_and_the_rest_of_the_turn_stays():
    said = {"type": "text", "text": "Yes.", "citations": None}
    body = claude(user(), assistant(THOUGHT, REDACTED, said, USE), user([RESULT]))
    assert stripped(ANTHROPIC, body)["messages"] == [user(), assistant(said, USE), user([RESULT])]


def test_a_turn_of_thoughts_alone_goes_whole():
    assert stripped(ANTHROPIC, claude(user(), assistant(THOUGHT), user("And?")))["messages"] == [user(), user("And?")]


def test_a_conversation_is_never_left_empty():
    assert stripped(ANTHROPIC, claude(assistant(REDACTED)))["messages"] == [user(".")]
    assert stripped(RESPONSES, {"model": "m", "input": [{"type": "reasoning", "summary": []}]})["input"] == [user(".")]
    google = {"contents": [{"role": "model", "parts": [{"text": "x", "thought": True}]}]}
    assert stripped(GEMINI, google)["contents"] == [{"role": "user", "parts": [{"text": "."}]}]


def test_a_budget_goes_with_the_thought_before_a_tools_call():
    edits = [{"type": "clear_thinking_20251015"}, {"type": "clear_tool_uses_20250919"}]
    more = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "context_management": {"edits": edits}}
    body = stripped(ANTHROPIC, claude(user(), assistant(THOUGHT, USE), user([RESULT]), **more))
    assert "thinking" not in body
    assert body["context_management"] == {"edits": edits[1:]}


@pytest.mark.parametrize("kind", ["adaptive", "disabled", "between_tools"])
def test_only_a_budget_insists_on_the_thought(kind):
    body = claude(user(), assistant(THOUGHT, USE), user([RESULT]), thinking={"type": kind})
    assert stripped(ANTHROPIC, body)["thinking"] == {"type": kind}


def test_a_budget_stays_where_no_tool_is_being_called():
    asked_for = {"type": "enabled", "budget_tokens": 2000}
    body = claude(user(), assistant(THOUGHT, {"type": "text", "text": "Yes."}), user("And?"), thinking=asked_for)
    assert stripped(ANTHROPIC, body)["thinking"] == asked_for


def test_every_other_byte_stays_as_it_came():
    tools = b'[ {"name":"look", "input_schema":{"type" : "object"}} ]'
    said = b'{"type":"text",  "text":"caf\\u00e9"}'
    first = b'{ "role":"user","content":"thinking \\/ signature" }'
    body = (
        b'{"model":"claude-a", "max_tokens":9,\n "tools":' + tools + b', "messages":[' + first + b', {"role":'
        b'"assistant", "content":[{"type":"thinking","thinking":"x","signature":"y"}, ' + said + b"]}]}"
    )
    found = thinking.stripped_body(ANTHROPIC, asked(ANTHROPIC, body))
    assert found is not None
    assert tools in found
    assert first in found
    assert b'"content":[' + said + b"]" in found
    assert list(json.loads(found)) == ["model", "max_tokens", "tools", "messages"]


def test_what_the_user_says_about_thinking_is_no_thought():
    body = claude(user([{"type": "text", "text": '{"type":"thinking","signature":"x"}'}]), assistant(USE))
    assert stripped(ANTHROPIC, body) is None
    assert stripped(CHAT, {"model": "m", "messages": [{**user(), "reasoning_content": "mine"}]}) is None


# --- Chat completions -----------------------------------------------------------------------------------------------


def chat(**members):
    return {"model": "m", "messages": [user(), {"role": "assistant", **members}, user("And?")]}


@pytest.mark.parametrize(
    "member",
    [
        {"reasoning_content": "Hm."},
        {"reasoning": "Hm."},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]},
        {"thinking_blocks": [THOUGHT]},
        {"provider_specific_fields": {"thought_signatures": ["x"]}},
        {"extra_content": {"google": {"thought_signature": "x"}}},
    ],
    ids=lambda member: next(iter(member)),
)
def test_a_chats_reasoning_goes_by_every_name(member):
    assert stripped(CHAT, chat(content="Yes.", **member))["messages"][1] == {"role": "assistant", "content": "Yes."}


def test_a_chats_tool_calls_lose_their_signatures_only():
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    signed = deepcopy(call) | {"extra_content": {"google": {"thought_signature": "x"}}}
    signed["function"]["provider_specific_fields"] = {"thought_signature": "x"}
    other = call | {"id": "call_2"}
    found = stripped(CHAT, chat(content=None, tool_calls=[signed, other]))
    assert found["messages"][1] == {"role": "assistant", "content": None, "tool_calls": [call, other]}


def test_a_chats_parts_that_are_thoughts_go():
    part = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    said = {"type": "text", "text": "Yes."}
    assert stripped(CHAT, chat(content=[part, said]))["messages"][1]["content"] == [said]
    assert stripped(CHAT, chat(content=[part]))["messages"] == [user(), user("And?")]


def test_a_chats_turn_of_reasoning_alone_goes_whole():
    assert stripped(CHAT, chat(content="", reasoning_content="Hm."))["messages"] == [user(), user("And?")]


# --- The Responses API ----------------------------------------------------------------------------------------------


def test_reasoning_items_go_and_items_forget_the_ids_that_tie_them_to_it():
    items = [
        user(),
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "found"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    ]
    found = stripped(RESPONSES, {"model": "m", "input": items})["input"]
    assert found == [
        user(),
        {name: value for name, value in items[2].items() if name != "id"},
        {name: value for name, value in items[3].items() if name != "id"},
        *items[4:],
    ]


def test_a_text_as_input_stays():
    assert stripped(RESPONSES, {"model": "m", "input": "reasoning"}) is None


# --- Gemini ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thoughtSignature", "thought_signature"])
def test_geminis_thoughts_go_and_a_signed_call_says_that_it_is_not(name):
    call = {"functionCall": {"name": "look", "args": {}}}
    parts = [{"text": "Hm.", "thought": True}, {"text": "Yes.", name: "x"}, {**call, name: "y"}, call]
    body = {"contents": [{"role": "model", "parts": [*parts, {"text": "", name: "z"}]}]}
    assert stripped(GEMINI, body)["contents"] == [
        {"role": "model", "parts": [{"text": "Yes."}, {**call, "thoughtSignature": SKIP}, call]}
    ]


def test_geminis_turn_of_thoughts_alone_goes_whole():
    said = {"role": "user", "parts": [{"text": "Hello"}]}
    body = {"contents": [said, {"role": "model", "parts": [{"text": "Hm.", "thought": True}]}, said]}
    assert stripped(GEMINI, body)["contents"] == [said, said]


# --- What no other account can have ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "members", "name"),
    [
        (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
        (RESPONSES, {"conversation": "conv_1"}, "conversation"),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}}, "prompt"),
        (RESPONSES, {"prompt": {"prompt_id": "042f5f"}}, None),
        (RESPONSES, {"input": [user(), {"type": "item_reference", "id": "msg_1"}]}, "input[1]"),
        (RESPONSES, {"input": [{"id": "rs_1"}]}, "input[0]"),
        (RESPONSES, {"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0]"),
        (RESPONSES, {"previous_response_id": None}, None),
        (GEMINI, {"cachedContent": "cachedContents/1"}, "cachedContent"),
        (ANTHROPIC, {"container": "container_1"}, "container"),
        (CHAT, {}, None),
    ],
)
def test_what_only_the_first_account_knows_is_named(dialect, members, name):
    body = {"model": "m", "input": "Hi", "messages": [user()], "contents": [{"parts": [{"text": "Hi"}]}], **members}
    assert thinking.kept_there(dialect, asked(dialect, body)) == name


# --- All of them ----------------------------------------------------------------------------------------------------

texts = st.sampled_from(["", "Yes.", "signature", 'say "thinking"', "é😀"])
extras = st.dictionaries(st.sampled_from(["cache_control", "name", "x"]), texts, max_size=2)


def with_extras(value):
    return st.builds(lambda extra: {**extra, **value}, extras)


claude_blocks = st.one_of(
    with_extras(THOUGHT),
    with_extras(REDACTED),
    with_extras(USE),
    st.builds(lambda t: {"type": "text", "text": t}, texts),
)
claude_turns = st.one_of(
    st.builds(user, texts),
    st.builds(lambda content: {"role": "assistant", "content": content}, st.lists(claude_blocks, max_size=4) | texts),
)
chat_turns = st.one_of(
    st.builds(user, texts),
    st.builds(
        lambda content, more: {"role": "assistant", "content": content, **more},
        st.none() | texts | st.lists(claude_blocks, max_size=3),
        st.fixed_dictionaries(
            {},
            optional={
                "reasoning_content": texts,
                "thinking_blocks": st.just([THOUGHT]),
                "extra_content": st.just({"google": {"thought_signature": "x"}}),
                "tool_calls": st.just([{"id": "c", "function": {"name": "f"}, "provider_specific_fields": {"a": 1}}]),
            },
        ),
    ),
)
items = st.one_of(
    st.builds(user, texts),
    with_extras({"type": "reasoning", "id": "rs_1", "encrypted_content": "x"}),
    with_extras({"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}),
    with_extras({"type": "function_call_output", "call_id": "c", "output": "x"}),
)
parts = st.one_of(
    st.builds(lambda t: {"text": t}, texts),
    st.builds(lambda t: {"text": t, "thought": True}, texts),
    st.builds(lambda t: {"text": t, "thoughtSignature": "x"}, texts),
    st.just({"functionCall": {"name": "f"}, "thought_signature": "x"}),
)
contents = st.builds(
    lambda role, given: {"role": role, "parts": given}, st.sampled_from(["user", "model"]), st.lists(parts, max_size=3)
)
MARKS = ("redacted_thinking", "reasoning_content", "thinking_blocks", "extra_content", "encrypted_content", "rs_1")


@given(
    st.one_of(
        st.tuples(st.just((ANTHROPIC, "messages")), st.lists(claude_turns, min_size=1, max_size=5)),
        st.tuples(st.just((CHAT, "messages")), st.lists(chat_turns, min_size=1, max_size=5)),
        st.tuples(st.just((RESPONSES, "input")), st.lists(items, min_size=1, max_size=5)),
        st.tuples(st.just((GEMINI, "contents")), st.lists(contents, min_size=1, max_size=5)),
    ),
    st.booleans(),
)
def test_nothing_of_the_first_model_is_left_and_users_lose_nothing(given_, spaced):
    (dialect, name), turns = given_
    body = {"model": "m", "max_tokens": 9, name: turns, "x_unknown": {"a": [1.50, "thinking"]}}
    raw = json.dumps(body, separators=(" , ", ": ") if spaced else (",", ":"), ensure_ascii=spaced).encode()
    found = thinking.stripped_body(dialect, asked(dialect, raw))
    if found is None:
        return
    left = asked(dialect, found)
    assert thinking.stripped_body(dialect, left) is None  # once is enough
    assert bytes(left.members["x_unknown"]) == bytes(asked(dialect, raw).members["x_unknown"])
    after = json.loads(found)[name]
    assert after
    written = json.dumps([turn for turn in after if turn.get("role") != "user"])
    assert not any(f'"{mark}"' in written for mark in MARKS)
    said = [turn for turn in turns if turn.get("role") == "user"]
    if said:  # else nothing but thoughts may have been there, and something stands for them
        assert [turn for turn in after if turn.get("role") == "user"] == said


@given(any_request.requests)
def test_a_request_in_the_middle_form_keeps_all_but_thoughts(request_):
    wanted = [
        [block for block in message.blocks if not isinstance(block, blocks.Thinking | blocks.Redacted)]
        for message in request_.messages
        if message.role == "assistant"
    ]
    others = [message for message in request_.messages if message.role != "assistant"]
    thinking.strip(request_)
    kept = [message.blocks for message in request_.messages if message.role == "assistant"]
    assert kept == [turn for turn in wanted if turn]
    assert [message for message in request_.messages if message.role != "assistant"][: len(others)] == others
    assert request_.messages


def test_a_signed_call_in_the_middle_form_is_unsigned():
    call = blocks.ToolCall(id="c", name="f", signature="x", dialect=GEMINI)
    request = blocks.Request(dialect=CHAT, model="m", messages=[blocks.Message("assistant", [call])])
    thinking.strip(request)
    assert (call.signature, call.dialect) == (None, None)


def test_clients_without_a_conversation_have_nothing_to_lose():
    embedding = openai_chat.read(b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
    assert thinking.stripped_body("something_else", embedding) is None


# --- Recorded answers -----------------------------------------------------------------------------------------------


def remembered(answer):
    """Return the dialect of a recorded answer and a request that goes on after it; None where it is of no use here."""
    if isinstance(answer.get("choices"), list) and answer["choices"] and answer["choices"][0].get("message"):
        return CHAT, {"model": "m", "messages": [user(), answer["choices"][0]["message"], user("And?")]}
    if answer.get("type") == "message" and isinstance(answer.get("content"), list):
        return ANTHROPIC, claude(user(), assistant(*answer["content"]), user("And?"))
    if isinstance(answer.get("output"), list) and answer.get("object") == "response":
        return RESPONSES, {"model": "m", "input": [user(), *answer["output"], user("And?")]}
    if answer.get("candidates") and answer["candidates"][0].get("content"):
        said = answer["candidates"][0]["content"]
        return GEMINI, {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {**said, "role": "model"}]}
    return None


def test_recorded_answers_come_back_without_what_only_their_model_reads():
    seen: dict[str, list[bool]] = {}
    for line in (RECORDINGS / "answers.rows.jsonl").read_text().splitlines():
        answer = json.loads(line)["response"].get("json")
        if not isinstance(answer, dict) or (known := remembered(answer)) is None:
            continue
        dialect, body = known
        found = thinking.stripped_body(dialect, asked(dialect, body))
        seen.setdefault(dialect, []).append(found is not None)
        if found is not None:
            assert thinking.stripped_body(dialect, asked(dialect, found)) is None
            assert not any(f'"{mark}"' in found.decode() for mark in ("redacted_thinking", "encrypted_content", "rs_"))
    assert {dialect: any(changed) for dialect, changed in seen.items()} == {
        CHAT: True, ANTHROPIC: True, RESPONSES: True, GEMINI: True
    }  # fmt: skip
