"""Promises of `gateway.dialects.anthropic_writer`: a client of Anthropic's gets what its SDK understands, whoever
answered.
"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects import anthropic, anthropic_decode, anthropic_encode, translation, wire
from gateway.dialects.blocks import (
    Answer,
    ArgumentsDelta,
    Closed,
    Ended,
    Failed,
    Finish,
    Finished,
    Image,
    Metered,
    Opaque,
    Opened,
    Redacted,
    Refusal,
    SignatureDelta,
    Started,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
)

ASKED = anthropic.read(b'{"model":"gpt-x","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}')
CONTEXT = wire.Context("c0ffee", 1_700_000_000)
USAGE = Usage(
    input_tokens=100,
    output_tokens=20,
    cache_read_input_tokens=60,
    cache_creation_input_tokens=30,
    cache_creation_1h_input_tokens=10,
    reasoning_output_tokens=5,
)


def whole(*content, **members):
    return json.loads(anthropic_encode.answer(Answer(blocks=list(content), **members), ASKED, CONTEXT))


def written(*events):
    writer = anthropic_encode.StreamWriter(ASKED, CONTEXT)
    return b"".join(writer.write(event) for event in events)


def parsed(stream):
    """Read a stream as Anthropic's SDK does: by the names of its events."""
    found = []
    for part in stream.split(b"\n\n")[:-1]:
        name, data = part.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        found.append(event)
    return found


def accumulated(stream) -> dict[str, Any]:
    """Put a stream together as Anthropic's SDK does, and insist on the order of its events."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    is_open = False
    for event in parsed(stream):
        kind = event["type"]
        if kind == "message_start":
            assert not message
            message = event["message"]
        elif kind == "content_block_start":
            assert (is_open, event["index"]) == (False, len(message["content"]))
            is_open = True
            message["content"].append(event["content_block"])
        elif kind == "content_block_delta":
            assert (is_open, event["index"]) == (True, len(message["content"]) - 1)
            _add(message["content"][-1], event, inputs)
        elif kind == "content_block_stop":
            assert (is_open, event["index"]) == (True, len(message["content"]) - 1)
            is_open = False
        elif kind == "message_delta":
            assert not is_open
            message |= event["delta"]
            message["usage"] |= event["usage"]
    return message


def _add(block, event, inputs):
    delta = event["delta"]
    if delta["type"] == "text_delta":
        block["text"] += delta["text"]
    elif delta["type"] == "thinking_delta":
        block["thinking"] += delta["thinking"]
    elif delta["type"] == "signature_delta":
        block["signature"] = delta["signature"]
    elif delta["type"] == "citations_delta":
        block.setdefault("citations", []).append(delta["citation"])
    else:
        inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
        try:
            block["input"] = json.loads(inputs[event["index"]])
        except ValueError:
            block["input"] = None


def streamed(answer):
    return translation.streamed(answer, anthropic_encode.StreamWriter(ASKED, CONTEXT))


# --- whole answers --------------------------------------------------------------------------------------------------


def test_an_answer_is_a_message():
    found = whole(Text("hi"), model="gpt-x-1", finish=Finish(reason="stop"), usage=USAGE)
    assert found == {
        "id": "msg_c0ffee",
        "type": "message",
        "role": "assistant",
        "model": "gpt-x-1",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 60,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
            "output_tokens": 20,
            "output_tokens_details": {"thinking_tokens": 5},
            "service_tier": "standard",
        },
    }


def test_without_a_model_and_usage_it_is_one_too():
    found = whole()
    assert (found["model"], found["content"], found["stop_reason"]) == ("gpt-x", [], "end_turn")
    assert found["usage"]["input_tokens"] == found["usage"]["output_tokens"] == 0


@pytest.mark.parametrize(
    ("finish", "calls", "reason"),
    [
        (Finish(reason="stop"), False, "end_turn"),
        (Finish(reason="stop", stop_sequence="END"), False, "stop_sequence"),
        (Finish(reason="length"), True, "max_tokens"),
        (Finish(reason="tool_calls"), True, "tool_use"),
        (Finish(reason="stop"), True, "tool_use"),
        (Finish(reason="tool_calls"), False, "end_turn"),
        (Finish(reason="content_filter"), False, "refusal"),
        (None, False, "end_turn"),
    ],
)
def test_why_it_ended(finish, calls, reason):
    content = [ToolCall(id="t", name="n")] if calls else [Text("x")]
    answer = Answer(blocks=list(content), finish=finish)
    assert whole(*content, finish=finish)["stop_reason"] == reason
    assert accumulated(streamed(answer))["stop_reason"] == reason


def test_a_refusal_says_why():
    found = whole(Refusal("I will not."), finish=Finish(reason="content_filter", message="not that"))
    assert found["content"] == [{"type": "text", "text": "I will not."}]
    assert found["stop_details"] == {"type": "refusal", "category": None, "explanation": "not that"}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [("", {}), ('{"a": 1}', {"a": 1}), ('{"a"', {"__raw": '{"a"'})],
)
def test_a_call_has_an_object(arguments, given):
    assert whole(ToolCall(id="call:1", name="n", arguments=arguments))["content"] == [
        {"type": "tool_use", "id": "call_1", "name": "n", "input": given}
    ]


def test_a_call_without_an_id_gets_one():
    assert whole(Text("x"), ToolCall(id="", name="n"))["content"][1]["id"] == "toolu_c0ffee_1"


def test_citations_lead_to_their_pages():
    cited = {"start_index": 0, "end_index": 5, "title": "T", "url": "https://example.org"}
    found = whole(Text("hello world", citations=[cited, {"url_citation": cited}]))["content"][0]["citations"]
    assert found[0] == found[1]
    assert (found[0]["url"], found[0]["cited_text"]) == ("https://example.org", "hello")


def test_an_image_is_shown():
    assert whole(Image(data="AAAA", media_type="image/png"))["content"][0]["text"] == (
        "![image](data:image/png;base64,AAAA)"
    )


def test_what_has_no_place_is_left_out():
    assert whole(Text(""), Opaque(dialect="gemini", value={"x": 1}))["content"] == []


# --- reasoning and signatures come back ----------------------------------------------------------------------------

REASONED = [
    Thinking(text="plain", dialect="openai_chat"),
    Thinking(text="signed", signature="c2ln", dialect="gemini"),
    Thinking(text="own", signature="EqQB", dialect="anthropic"),
    Thinking(text="", signature="c2ln", dialect="gemini"),
    Redacted(data="RRRR", dialect="anthropic"),
    Redacted(data="gAAA", dialect="openai_responses", id="rs_1", text="summary"),
    Redacted(data="gAAA", dialect="openai_responses"),
    ToolCall(id="call_1", name="look", arguments='{"a":1}', signature="c2ln", dialect="gemini"),
]


@pytest.mark.parametrize("block", REASONED, ids=str)
def test_what_a_client_sends_back_is_what_its_vendor_said(block):
    answer = Answer(blocks=[block])
    for message in (whole(block), accumulated(streamed(answer))):
        history = {"model": "m", "messages": [{"role": "assistant", "content": message["content"]}]}
        asked = anthropic.read(json.dumps(history).encode())
        assert anthropic_decode.request(asked).messages[0].blocks == [block]


def test_anthropics_own_reasoning_is_not_sealed():
    assert whole(REASONED[2])["content"] == [{"type": "thinking", "thinking": "own", "signature": "EqQB"}]
    assert whole(REASONED[4])["content"] == [{"type": "redacted_thinking", "data": "RRRR"}]


# --- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_has_anthropics_events_in_anthropics_order():
    stream = written(
        Started("x", "gpt-x-1", 5),
        Opened(0, Text()),
        TextDelta(0, "he"),
        TextDelta(0, "llo"),
        Closed(0),
        Finished(Finish(reason="stop")),
        Metered(USAGE),
        Ended(),
    )
    assert [event["type"] for event in parsed(stream)] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, end = parsed(stream)[0]["message"], parsed(stream)[-2]
    assert (start["model"], start["content"], start["usage"]["input_tokens"]) == ("gpt-x-1", [], 0)
    assert end["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (end["usage"]["input_tokens"], end["usage"]["cache_read_input_tokens"]) == (10, 60)
    assert (end["usage"]["cache_creation_input_tokens"], end["usage"]["output_tokens"]) == (30, 20)


def test_the_input_is_told_at_the_start_where_it_is_known():
    start = parsed(written(Started("x", "m", 5, USAGE)))[0]["message"]
    assert (start["usage"]["input_tokens"], start["usage"]["output_tokens"]) == (10, 0)


def test_calls_without_arguments_have_an_empty_object():
    stream = written(Opened(0, ToolCall(id="t", name="n")), Closed(0), Ended())
    assert accumulated(stream)["content"] == [{"type": "tool_use", "id": "t", "name": "n", "input": {}}]


def test_arguments_are_passed_on_piece_by_piece():
    stream = written(
        Opened(0, ToolCall(id="t", name="n")), ArgumentsDelta(0, '{"a"'), ArgumentsDelta(0, ":1}"), Closed(0), Ended()
    )
    pieces = [event["delta"]["partial_json"] for event in parsed(stream) if event["type"] == "content_block_delta"]
    assert pieces == ['{"a"', ":1}"]


def test_text_for_a_tool_is_a_json_object_piece_by_piece():
    stream = written(
        Opened(0, ToolCall(id="t", name="n", custom=True)),
        ArgumentsDelta(0, 'say "hi"\n'),
        ArgumentsDelta(0, "é"),
        Closed(0),
        Ended(),
    )
    assert accumulated(stream)["content"][0]["input"] == {"input": 'say "hi"\né'}


def test_blocks_the_client_does_not_see_leave_no_gap():
    stream = written(
        Started(),
        Opened(0, Text()),
        Closed(0),
        Opened(1, Thinking()),
        Closed(1),
        Opened(2, Opaque(dialect="x", value={})),
        Closed(2),
        Opened(3, Thinking(dialect="gemini")),
        ThinkingDelta(3, "hm"),
        SignatureDelta(3, "c2"),
        SignatureDelta(3, "ln"),
        Closed(3),
        Opened(4, Text()),
        TextDelta(4, "hi"),
        Closed(4),
        Ended(),
    )
    content = accumulated(stream)["content"]
    assert [block["type"] for block in content] == ["thinking", "text"]
    assert [event["index"] for event in parsed(stream) if event["type"] == "content_block_start"] == [0, 1]
    signatures = [event for event in parsed(stream) if event.get("delta", {}).get("type") == "signature_delta"]
    assert len(signatures) == 1  # clients keep the last one


def test_arguments_known_at_once_are_passed_on_too():
    stream = written(Opened(0, ToolCall(id="t", name="n", arguments='{"a":1}')), Closed(0), Ended())
    assert accumulated(stream)["content"][0]["input"] == {"a": 1}


def test_an_error_ends_a_stream():
    stream = written(Started(), Failed("Overloaded", "overloaded", 529), TextDelta(0, "x"), Ended())
    assert parsed(stream)[-1] == {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert [event["error"]["type"] for event in parsed(written(Failed("no")))] == ["api_error"]


def test_nothing_follows_the_end():
    assert written(Ended(), Opened(0, Text("x")), Ended()).count(b"message_stop") == 2  # the name and the type


_blocks = st.one_of(
    st.builds(Text, text=st.text(max_size=8)),
    st.builds(Refusal, text=st.text(max_size=8)),
    st.builds(
        Thinking,
        text=st.text(max_size=8),
        signature=st.none() | st.just("c2ln"),
        dialect=st.sampled_from(["gemini", "openai_chat"]),
    ),
    st.builds(Redacted, data=st.text(max_size=8), dialect=st.just("openai_responses"), text=st.text(max_size=8)),
    st.builds(
        ToolCall,
        id=st.text(max_size=4),
        name=st.text(min_size=1, max_size=4),
        arguments=st.dictionaries(st.text(max_size=2), st.integers()).map(json.dumps),
    ),
    st.builds(Image, url=st.just("https://example.org/a.png")),
    st.just(Opaque(dialect="gemini", value={})),
)


@given(st.lists(_blocks, max_size=6), st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
@settings(max_examples=300, deadline=None)
def test_a_stream_makes_up_the_same_message_as_a_whole_answer(content, reason):
    answer = Answer(blocks=content, finish=Finish(reason=reason), usage=USAGE, model="m")
    message = json.loads(anthropic_encode.answer(answer, ASKED, CONTEXT))
    stream = accumulated(streamed(answer))
    for block in (*message["content"], *stream["content"]):
        if block.get("id", "").startswith("toolu_c0ffee"):
            block["id"] = "made up"  # by its place, which differs
    assert stream == message
