"""Promises of `gateway.dialects.anthropic_decode`: what a client of Anthropic's says reaches others."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects import anthropic, anthropic_decode, anthropic_seal, blocks
from gateway.dialects.wire import InvalidBody

STREAMS = {
    row["name"]: row["stream"].encode()
    for line in (Path(__file__).parents[2] / "recordings" / "anthropic_streams.jsonl").read_text().splitlines()
    for row in [json.loads(line)]
}
HELLO = [{"role": "user", "content": "hello"}]


def request(**members):
    raw = json.dumps({"model": "claude-x", "max_tokens": 100, "messages": HELLO} | members).encode()
    return anthropic_decode.request(anthropic.read(raw))


def said(*content, role="user"):
    return request(messages=[{"role": role, "content": list(content)}]).messages[0].blocks


def refused(**members):
    with pytest.raises(InvalidBody) as caught:
        request(**members)
    return caught.value.param


# --- requests -------------------------------------------------------------------------------------------------------


def test_the_parameters_are_read():
    found = request(
        stream=True,
        temperature=1,
        top_p=0.5,
        top_k=40,
        stop_sequences=["\n\nHuman:"],
        service_tier="standard_only",
        metadata={"user_id": "u1"},
        context_management={"edits": []},
    )
    assert (found.dialect, found.model, found.stream, found.max_output) == ("anthropic", "claude-x", True, 100)
    assert (found.temperature, found.top_p, found.top_k, found.stop) == (1.0, 0.5, 40, ["\n\nHuman:"])
    assert (found.service_tier, found.user) == ("default", "u1")
    assert found.extra == {"context_management": {"edits": []}}


def test_respans_parameters_are_nobody_elses():
    assert request(respan_params={"a": 1}, metadata={"keywordsai_params": {}}).extra == {}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        ({"system": [{"type": "image", "source": {"type": "url", "url": "u"}}]}, "system"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"name": "a", "input_schema": []}]}, "tools[0].input_schema"),
        ({"tools": [{}]}, "tools[0].name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": [1]}, "stop_sequences"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ],
)
def test_what_is_malformed_is_named(members, param):
    assert refused(**members) == param


def test_system_text_keeps_its_marks_of_the_cache():
    found = request(system=[{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}])
    assert found.system == [blocks.Text("a", "1h")]
    assert request(system="a").system == [blocks.Text("a")]
    assert request(system="").system == []


def test_what_claude_code_tells_anthropic_of_itself_is_for_nobody_else():
    texts = [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}, {"type": "text", "text": "You are ..."}]
    assert request(system=texts).system == [blocks.Text("You are ...")]


def test_a_system_message_stays_where_it_is_unless_it_is_first():
    messages = [{"role": "system", "content": "first"}, *HELLO, {"role": "system", "content": "later"}]
    found = request(messages=messages, system="zero")
    assert [text.text for text in found.system] == ["zero", "first"]
    assert [message.role for message in found.messages] == ["user", "system"]


def test_images_and_documents_come_with_what_they_are():
    marked = {"cache_control": {"type": "ephemeral"}}
    found = said(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}, **marked},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "BB=="},
            "title": "T",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}, "context": "C"},
        {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_2"}, "citations": {"enabled": True}},
    )
    assert found == [
        blocks.Image(media_type="image/png", data="AA==", cache="5m"),
        blocks.Image(url="https://example.org/a.png"),
        blocks.Image(file_id="file_1"),
        blocks.Document(data="BB==", name="T"),
        blocks.Document(media_type="text/plain", text="plain", context="C"),
        blocks.Document(url="https://example.org/a.pdf"),
        blocks.Document(file_id="file_2", citations=True),
    ]


def test_a_document_made_of_blocks_and_a_search_result_are_plain_text_to_others():
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = said(
        {"type": "document", "source": {"type": "content", "content": content}},
        {"type": "search_result", "source": "https://example.org", "title": "T", "content": content},
    )
    assert [block.text for block in found] == ["a\nb", "a\nb"]
    assert (found[1].name, found[1].context) == ("T", "https://example.org")


def test_a_tools_result_gets_the_name_of_its_tool():
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": [1, 2]}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen", "is_error": True}
    empty = {"type": "tool_result", "tool_use_id": "toolu_1"}
    found = request(messages=[{"role": "assistant", "content": [call]}, {"role": "user", "content": [result, empty]}])
    assert found.messages[0].blocks == [blocks.ToolCall(id="toolu_1", name="look", arguments='{"at":[1,2]}')]
    assert found.messages[1].blocks[0] == blocks.ToolResult(
        id="toolu_1", name="look", content=[blocks.Text("seen")], is_error=True
    )
    assert found.messages[1].blocks[1].content == []


def test_reasoning_keeps_its_signature_and_whose_it_is():
    sealed = anthropic_seal.signature_of(blocks.Thinking(text="t", signature="sig==", dialect="gemini"))
    encrypted = anthropic_seal.signature_of(blocks.Redacted(data="e", id="rs_1", dialect="openai_responses", text="t"))
    found = said(
        {"type": "thinking", "thinking": "a", "signature": "EqQB"},
        {"type": "redacted_thinking", "data": "R"},
        {"type": "thinking", "thinking": "b", "signature": sealed},
        {"type": "thinking", "thinking": "c", "signature": encrypted},
        {"type": "thinking", "thinking": "d", "signature": "respan-sealed.broken"},
        role="assistant",
    )
    assert found == [
        blocks.Thinking(text="a", signature="EqQB", dialect="anthropic"),
        blocks.Redacted(data="R", dialect="anthropic"),
        blocks.Thinking(text="b", signature="sig==", dialect="gemini"),
        blocks.Redacted(data="e", id="rs_1", dialect="openai_responses", text="c"),
        blocks.Thinking(text="d"),
    ]


@given(st.binary(min_size=1, max_size=60), st.from_regex(r"[a-zA-Z0-9_-]{1,40}", fullmatch=True))
def test_a_tool_call_keeps_its_signature_in_its_id(data, id):
    signature = base64.b64encode(data).decode()
    if "__thought__" in id:
        return
    signed = anthropic_seal.signed_id(id, signature, "gemini")
    assert anthropic_seal.own_id(signed) == (id, signature, "gemini")
    assert all(letter.isalnum() or letter in "_-" for letter in signed)


def test_a_signed_id_is_that_of_its_result_too():
    signed = anthropic_seal.signed_id("call_1", "AAAA", "gemini")
    call = {"type": "tool_use", "id": signed, "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": signed}
    found = request(messages=[{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}])
    assert found.messages[0].blocks[0] == blocks.ToolCall(
        id="call_1", name="look", arguments="{}", signature="AAAA", dialect="gemini"
    )
    assert found.messages[1].blocks[0].id == "call_1"


def test_what_only_anthropic_understands_travels_closed():
    use = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    assert said(use, role="assistant") == [blocks.Opaque(dialect="anthropic", value=use)]


def test_tools_of_the_client_and_of_the_provider_are_told_apart():
    search = {"type": "web_search_20250305", "name": "web_search"}
    found = request(
        tools=[
            {"name": "a", "description": "A", "input_schema": {"type": "object"}, "strict": True},
            {"type": "custom", "name": "b", "input_schema": {}, "cache_control": {"type": "ephemeral"}},
            search,
            {"type": "bash_20250124", "name": "bash"},
        ]
    ).tools
    assert found[0] == blocks.Tool(name="a", description="A", parameters={"type": "object"}, strict=True)
    assert found[1] == blocks.Tool(name="b", parameters={}, cache="5m")
    assert found[2] == blocks.ServerTool(dialect="anthropic", value=search, kind="web_search")
    assert found[3].kind == "other"


@pytest.mark.parametrize(
    ("value", "choice", "parallel"),
    [
        (None, None, None),
        ({"type": "auto"}, blocks.Choice(mode="auto"), None),
        ({"type": "none"}, blocks.Choice(mode="none"), None),
        ({"type": "any", "disable_parallel_tool_use": True}, blocks.Choice(mode="required"), False),
        ({"type": "tool", "name": "a"}, blocks.Choice(mode="named", names=["a"]), None),
    ],
)
def test_which_tools_may_be_called(value, choice, parallel):
    found = request(tool_choice=value)
    assert (found.choice, found.parallel) == (choice, parallel)


@pytest.mark.parametrize(
    ("members", "reasoning"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, {"mode": "enabled", "budget": 2000}),
        ({"thinking": {"type": "disabled"}}, {"mode": "disabled"}),
        ({"thinking": {"type": "between_tools"}}, {"mode": "disabled"}),
        ({"output_config": {"effort": "high"}}, {"effort": "high"}),
        (
            {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "low"}},
            {"mode": "adaptive", "effort": "low", "visible": False},
        ),
    ],
)
def test_how_much_to_think(members, reasoning):
    assert request(**members).reasoning == (blocks.Reasoning(**reasoning) if reasoning else None)


def test_the_form_of_the_answer():
    schema = {"type": "object", "properties": {}}
    form = {"type": "json_schema", "schema": schema}
    for members in ({"output_config": {"format": form}}, {"output_format": form}):
        found = request(**members).format
        assert (found.kind, found.schema, found.strict) == ("json_schema", schema, True)


# --- answers --------------------------------------------------------------------------------------------------------


def answer(*content, **members):
    value = {"type": "message", "id": "msg_1", "model": "claude-x", "content": list(content), "stop_reason": "end_turn"}
    return anthropic_decode.answer(json.dumps(value | members).encode())


def test_an_answer_keeps_the_order_of_its_blocks():
    found = answer(
        {"type": "thinking", "thinking": "hm", "signature": "S"},
        {"type": "redacted_thinking", "data": "R"},
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}},
        {"type": "tool_use", "id": "t2", "name": "rest", "input": {}},
        {"type": "server_tool_use", "id": "s", "name": "x", "input": {}},
        stop_reason="tool_use",
        usage={"input_tokens": 1, "output_tokens": 2, "service_tier": "priority"},
    )
    assert found.blocks == [
        blocks.Thinking(text="hm", signature="S", dialect="anthropic"),
        blocks.Redacted(data="R", dialect="anthropic"),
        blocks.Text("hi"),
        blocks.ToolCall(id="t1", name="look", arguments='{"a":1}'),
        blocks.ToolCall(id="t2", name="rest", arguments="{}"),
        blocks.Opaque(dialect="anthropic", value={"type": "server_tool_use", "id": "s", "name": "x", "input": {}}),
    ]
    assert found.finish == blocks.Finish(reason="tool_calls", native="tool_use")
    assert (found.usage, found.service_tier) == (Usage(input_tokens=1, output_tokens=2), "priority")


def test_a_refusal_says_why():
    details = {"type": "refusal", "category": "bio", "explanation": "not that"}
    found = answer(stop_reason="refusal", stop_details=details).finish
    assert found == blocks.Finish(reason="content_filter", native="refusal", message="not that")


def test_a_pause_can_be_told_from_an_end():
    assert answer(stop_reason="pause_turn").finish == blocks.Finish(reason="stop", native="pause_turn")


def test_a_citation_leads_to_its_page():
    cited = {"type": "web_search_result_location", "url": "https://example.org", "title": "E", "cited_text": "x"}
    page = {"type": "page_location", "document_index": 0, "cited_text": "y"}
    found = answer({"type": "text", "text": "hello", "citations": [page, cited]}).blocks[0]
    assert found.citations == [{"start_index": 0, "end_index": 5, "title": "E", "url": "https://example.org"}]


def test_an_answer_by_the_tool_that_stands_for_a_schema_is_text():
    call = {"type": "tool_use", "id": "t", "name": anthropic_decode.JSON_TOOL, "input": {"a": 1}}
    found = answer(call, stop_reason="tool_use")
    assert found.blocks == [blocks.Text('{"a":1}')]
    assert found.finish.reason == "stop"


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"{}", b'{"type":"error","error":{"message":"no"}}'])
def test_what_is_no_answer_has_an_error(raw):
    assert anthropic_decode.answer(raw).error


# --- streams --------------------------------------------------------------------------------------------------------


def events(stream, size=100_000):
    decoder = anthropic_decode.StreamDecoder()
    found = [event for at in range(0, len(stream), size) for event in decoder.feed(stream[at : at + size])]
    return found + decoder.end()


def gathered(stream):
    gatherer = blocks.Gatherer(1_000_000)
    for event in events(stream):
        gatherer.take(event)
    return gatherer.answer


def wire_of(*items):
    return b"".join(b"event: %s\ndata: %s\n\n" % (item["type"].encode(), json.dumps(item).encode()) for item in items)


def block_of(index, block, *deltas):
    return (
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    )


START = {
    "type": "message_start",
    "message": {"id": "m", "model": "c", "usage": {"input_tokens": 9, "output_tokens": 1}},
}
END = (
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"},
)


@pytest.mark.parametrize("name", sorted(STREAMS))
@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_events_do_not_depend_on_how_a_stream_was_cut(name, size):
    assert events(STREAMS[name], size) == events(STREAMS[name])


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_a_stream_says_what_its_answer_would(name):
    reader = anthropic.StreamReader(include_usage=True)
    reader.feed(STREAMS[name])
    reader.end()
    from_stream, from_answer = gathered(STREAMS[name]), anthropic_decode.answer(reader.assembled())
    assert from_stream.usage == from_answer.usage
    assert from_stream.finish == from_answer.finish
    for block in (*from_stream.blocks, *from_answer.blocks):
        if isinstance(block, blocks.ToolCall):
            block.arguments = json.dumps(json.loads(block.arguments))  # models write more spaces than we do
    assert from_stream.blocks == from_answer.blocks


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_blocks_never_overlap_and_the_end_comes_once(name):
    is_open, index = False, -1
    found = events(STREAMS[name])
    for event in found:
        if isinstance(event, blocks.Opened):
            assert not is_open
            assert event.index == index + 1
            is_open, index = True, event.index
        elif isinstance(event, blocks.Closed):
            assert (is_open, event.index) == (True, index)
            is_open = False
    assert [type(event) for event in found].count(blocks.Ended) == 1
    assert isinstance(found[-1], blocks.Ended)


def test_a_tool_call_without_arguments_has_an_empty_object():
    found = gathered(STREAMS["a tool call without arguments"])
    assert [block.arguments for block in found.blocks if isinstance(block, blocks.ToolCall)] == ["{}"]


def test_arguments_that_came_at_the_start_are_not_lost():
    stream = wire_of(START, *block_of(0, {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 1}}), *END)
    assert gathered(stream).blocks == [blocks.ToolCall(id="t", name="n", arguments='{"a":1}')]


def test_usage_is_told_only_when_the_output_is_written():
    stream = wire_of(START, *block_of(0, {"type": "text", "text": "a"}, {"type": "text_delta", "text": "b"}), *END)
    cut = stream[: stream.index(b"event: message_delta")]
    assert gathered(cut).usage is None
    assert gathered(stream).usage == Usage(input_tokens=9, output_tokens=4)
    assert gathered(stream).blocks == [blocks.Text("ab")]


def test_a_stream_that_breaks_off_has_no_end():
    stream = STREAMS["several tool calls"]
    assert not any(isinstance(event, blocks.Ended) for event in events(stream[: stream.index(b"event: message_stop")]))


def test_an_error_says_what_kind_it_is():
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert events(wire_of(START, error, *END))[1:] == [blocks.Failed("Overloaded", "overloaded_error", 529)]
    assert events(b"event: error\ndata: gone\n\n") == [blocks.Failed("gone")]


def test_a_block_left_open_is_closed_before_the_next():
    opened = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "a"}}
    other = {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "b"}}
    assert gathered(wire_of(START, opened, other, *END)).blocks == [blocks.Text("a"), blocks.Text("b")]


def test_an_answer_by_the_tool_that_stands_for_a_schema_is_streamed_as_text():
    call = {"type": "tool_use", "id": "t", "name": anthropic_decode.JSON_TOOL, "input": {}}
    pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", '{"a"', ":1}")]
    end = ({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}}, END[1])
    found = gathered(wire_of(START, *block_of(0, call, *pieces), *end))
    assert found.blocks == [blocks.Text('{"a":1}')]
    assert found.finish.reason == "stop"


def test_a_server_tool_is_whole_when_it_comes():
    found = gathered(STREAMS["a search with citations"]).blocks
    assert [block.value["type"] for block in found[:2]] == ["server_tool_use", "web_search_tool_result"]
    assert found[0].value["input"].keys() == {"query"}
    texts = [block for block in found if isinstance(block, blocks.Text) and block.citations]
    assert texts[0].citations[0]["end_index"] == len(texts[0].text)


@given(
    st.lists(st.sampled_from([*STREAMS["several tool calls"].split(b"\n\n"), b"data: {", b"event: error"]), max_size=12)
)
@settings(max_examples=200, deadline=None)
def test_a_stream_out_of_order_does_no_harm(parts):
    events(b"\n\n".join(parts) + b"\n\n", 37)


def test_half_a_surrogate_pair_does_not_stop_a_stream():
    half = "a\ud83d"  # written as `\\ud83d`, as models cut in the middle of a letter do
    stream = wire_of(START, *block_of(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": half}), *END)
    assert b"ud83d" in stream
    assert gathered(stream).blocks == [blocks.Text("a")]
    assert anthropic.StreamReader(include_usage=True).feed(stream) == stream
