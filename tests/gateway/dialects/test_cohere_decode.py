"""Promises of `cohere_decode`: what Cohere's chat answers as the middle form, however it is cut; never a crash."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects import blocks, cohere_decode
from gateway.dialects.blocks import (
    ArgumentsDelta,
    CitationDelta,
    Closed,
    Ended,
    Failed,
    Finish,
    Finished,
    Metered,
    Opened,
    Started,
    Text,
    TextDelta,
    Thinking,
    ToolCall,
)
from gateway.dialects.cohere_decode import StreamDecoder, answer
from gateway.dialects.wire import InvalidStream
from tests.gateway.dialects.test_bedrock_decode import assert_in_order, gathered, json_values

RECORDED = {
    row["name"]: row["stream"].encode()
    for line in (Path(__file__).parents[2] / "recordings" / "cohere_streams.jsonl").read_text("utf-8").splitlines()
    for row in [json.loads(line)]
}


def event(kind, message=None, **members):
    value = {"type": kind, **members} | ({"delta": {"message": message}} if message is not None else {})
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n".encode()


def text(written, index=0):
    return event("content-delta", {"content": {"text": written}}, index=index)


def opened(kind, index=0):
    return event("content-start", {"content": {"type": kind, kind: ""}}, index=index)


def call(arguments="", id="c", index=0):
    function = {"name": "f", "arguments": arguments}
    return event("tool-call-start", {"tool_calls": {"id": id, "type": "function", "function": function}}, index=index)


def more(arguments, index=0):
    return event("tool-call-delta", {"tool_calls": {"function": {"arguments": arguments}}}, index=index)


def cite(start, end, **members):
    cited = {"start": start, "end": end, "text": "x", "type": "TEXT_CONTENT", **members}
    return event("citation-start", {"citations": cited}, index=0)


BEGIN = event("message-start", {"role": "assistant"}, id="i")
UNITS = {"billed_units": {"input_tokens": 8, "output_tokens": 4}, "tokens": {"input_tokens": 500, "output_tokens": 6}}
CLOSE = event("content-end", index=0)
CALLED = event("tool-call-end", index=0)


def end(reason="COMPLETE", **members):
    return event("message-end", delta={"finish_reason": reason, "usage": UNITS, **members})


def decoded(*pieces):
    decoder = StreamDecoder()
    return [found for piece in pieces for found in decoder.feed(piece)] + decoder.end()


# --- Recorded streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_is_read_the_same_however_it_is_cut(name):
    stream = RECORDED[name]
    events = decoded(stream)
    assert_in_order(events)
    assert isinstance(events[-1], Ended)
    for size in (1, 13, 100):
        assert decoded(*[stream[at : at + size] for at in range(0, len(stream), size)]) == events


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_that_was_cut_off_has_no_end(name):
    stream = RECORDED[name]
    last = stream.index(b'{"type":"message-end"')
    for at in range(0, last, 37):
        events = decoded(stream[:at])
        assert_in_order(events)
        assert not any(isinstance(found, Ended | Finished) for found in events)


def test_what_recorded_streams_say():
    planned = gathered(decoded(RECORDED["plans and calls two tools"]))
    assert planned.blocks[0] == Text("I will search for the current time and weather in Tokyo.")
    assert [json.loads(block.arguments) for block in planned.blocks[1:]] == [{"location": "Tokyo"}] * 2
    assert [block.name for block in planned.blocks[1:]] == ["get_time", "get_weather"]
    assert planned.finish == Finish(reason="tool_calls", native="TOOL_CALL")
    assert planned.usage == Usage(input_tokens=62, output_tokens=28)
    bare = gathered(decoded(RECORDED["calls a tool without arguments"])).blocks[1]
    assert bare == ToolCall(id="currentTime_y46ar19t5gvw", name="currentTime", arguments="{}")
    thought = gathered(decoded(RECORDED["thinks"]))
    assert thought.blocks[0].text.startswith("The user is asking for the sum of 2 and 2.")
    assert thought.blocks[0].dialect == "cohere"
    assert thought.blocks[1] == Text("The answer to 2 + 2 is 4.")


# --- Streams --------------------------------------------------------------------------------------------------------


def test_a_text_stays_open_for_its_citations():
    source = {"type": "document", "id": "doc:0", "document": {"id": "doc:0", "title": "T", "url": "https://a.example"}}
    events = decoded(
        BEGIN, opened("text"), text("Paris"), CLOSE, cite(0, 5, sources=[source]), end(), b"data: [DONE]\n\n"
    )
    assert events == [
        Started(id="i"),
        Opened(0, Text()),
        TextDelta(0, "Paris"),
        CitationDelta(0, {"start_index": 0, "end_index": 5, "title": "T", "url": "https://a.example"}),
        Closed(0),
        Metered(Usage(input_tokens=8, output_tokens=4)),
        Finished(Finish(reason="stop", native="COMPLETE")),
        Ended(),
    ]


def test_citations_of_plans_and_of_other_blocks_are_passed_over():
    others = cite(0, 1, type="PLAN"), cite(0, 1, content_index=3), cite("0", 1)
    events = decoded(BEGIN, opened("text"), text("A"), *others, CLOSE, end())
    assert not any(isinstance(found, CitationDelta) for found in events)


@pytest.mark.parametrize("pieces", [[], ["null"], ["nu", "ll"], [" null ", " "], ["", ""]])
def test_a_call_without_arguments_has_an_empty_object(pieces):
    events = decoded(BEGIN, call(), *map(more, pieces), CALLED, end("TOOL_CALL"))
    assert [found for found in events if isinstance(found, ArgumentsDelta)] == [ArgumentsDelta(0, "{}")]


def test_arguments_are_passed_on_as_they_come():
    events = decoded(BEGIN, call("{"), more('"a"'), more(": null"), more("}"), CALLED, end("TOOL_CALL"))
    assert [found.text for found in events if isinstance(found, ArgumentsDelta)] == ["{", '"a"', ": null", "}"]


def test_blocks_follow_each_other_though_nothing_closes_them():
    plan = event("tool-plan-delta", {"tool_plan": "I will."})
    events = decoded(
        BEGIN, opened("thinking"), opened("text", 1), text("A", 1), plan, call(), call(id="d", index=1), end()
    )
    assert_in_order(events)
    assert [type(block) for block in gathered(events).blocks] == [Thinking, Text, Text, ToolCall, ToolCall]
    assert gathered(events).finish == Finish(reason="tool_calls", native="COMPLETE")


def test_a_stream_that_ends_with_an_error_fails():
    events = decoded(BEGIN, opened("text"), text("A"), end("ERROR", error="Out of luck."))
    assert events[-2:] == [Metered(Usage(input_tokens=8, output_tokens=4)), Failed("Out of luck.", "ERROR", 502)]
    assert decoded(BEGIN, end("TIMEOUT"))[-1].status == 504
    assert decoded(b'data: {"id": "i", "message": "trial limit"}\n\n') == [Failed("trial limit")]


def test_after_the_end_nothing_is_read():
    assert decoded(BEGIN, end(), text("late"), end())[-1] == Ended()
    assert decoded(BEGIN, text("A")).count(Ended()) == 0


def test_events_nobody_knows_are_passed_over():
    assert decoded(event("debug", prompt="p"), b": comment\n\n", b"data: nonsense\n\n", b"data: [1]\n\n") == []


def test_an_event_that_is_too_large_is_no_stream():
    with pytest.raises(InvalidStream, match="larger than"):
        decoded(b"data: " + b"x" * 2_000_000)


# --- Whole answers --------------------------------------------------------------------------------------------------


def whole(**members):
    return answer(json.dumps({"id": "i", "finish_reason": "COMPLETE", "usage": UNITS, **members}).encode())


def test_a_whole_answer_has_its_blocks_in_order():
    said = whole(
        finish_reason="TOOL_CALL",
        message={
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm"},
                {"type": "text", "text": "A"},
                {"type": "text", "text": ""},
            ],
            "tool_plan": "I will.",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "null"}},
                {"id": "2", "type": "function", "function": {"name": "g", "arguments": '{"a":1}'}},
            ],
        },
    )
    assert said.blocks == [
        Thinking(text="Hm", dialect="cohere"),
        Text("A"),
        Text("I will."),
        ToolCall(id="1", name="f", arguments="{}"),
        ToolCall(id="2", name="g", arguments='{"a":1}'),
    ]
    assert (said.id, said.finish) == ("i", Finish(reason="tool_calls", native="TOOL_CALL"))


def test_citations_belong_to_the_block_they_name_or_to_the_first_text():
    cited = [
        {"start": 0, "end": 1, "type": "TEXT_CONTENT", "sources": [{"type": "tool", "id": "t:0", "tool_output": {}}]},
        {"start": 2, "end": 3, "type": "TEXT_CONTENT", "content_index": 2, "sources": []},
        {"start": 4, "end": 5, "type": "THINKING_CONTENT", "sources": []},
    ]
    parts = [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    _, first, second = whole(message={"content": parts, "citations": cited}).blocks
    assert first.citations == [{"start_index": 0, "end_index": 1, "title": "t:0", "url": ""}]
    assert second.citations == [{"start_index": 2, "end_index": 3, "title": "", "url": ""}]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (UNITS, Usage(input_tokens=8, output_tokens=4)),
        ({"tokens": {"input_tokens": 5.0, "output_tokens": 6}}, Usage(input_tokens=5, output_tokens=6)),
        # Recorded: 577 tokens were read, 200 of them not billed, 576 from the cache.
        (
            {
                "billed_units": {"input_tokens": 377, "output_tokens": 90},
                "tokens": {"input_tokens": 577, "output_tokens": 90},
                "cached_tokens": 576,
            },
            Usage(input_tokens=377, output_tokens=90, cache_read_input_tokens=376),
        ),
        (
            {"tokens": {"input_tokens": 10, "output_tokens": 1}, "cached_tokens": 99},
            Usage(input_tokens=10, output_tokens=1, cache_read_input_tokens=10),
        ),
        ({}, None),
        (None, None),
        ({"tokens": {"input_tokens": -1, "output_tokens": "x"}}, None),
    ],
)
def test_usage_is_what_is_billed(usage, expected):
    assert whole(message={"content": []}, usage=usage).usage == expected


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("COMPLETE", "stop"),
        ("STOP_SEQUENCE", "stop"),
        ("MAX_TOKENS", "length"),
        ("ERROR_LIMIT", "length"),
        ("ERROR_TOXIC", "content_filter"),
        ("NEW", "stop"),
    ],
)
def test_reasons_to_finish(native, reason):
    assert whole(message={"content": "A"}, finish_reason=native).finish == Finish(reason=reason, native=native)


@pytest.mark.parametrize("native", ["ERROR", "TIMEOUT"])
def test_an_answer_that_failed_is_an_error(native):
    assert native in whole(message={"content": "A"}, finish_reason=native).error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"id": "i", "message": "model not found"}', "model not found"),
        (b'{"error": "no route"}', "no route"),
        (b"<html>", "not JSON"),
        (b"{}", "no message"),
    ],
)
def test_what_is_no_answer_says_so(body, message):
    assert message in answer(body).error


@pytest.mark.parametrize(
    ("body", "message"),
    [(b'{"id": "i", "message": "No."}', "No."), (b"", None), (b'{"message": ""}', None), (b"[]", None)],
)
def test_the_message_of_an_error(body, message):
    assert cohere_decode.error_message(body) == message


# --- Anything at all ------------------------------------------------------------------------------------------------

kinds = st.sampled_from([*cohere_decode._HANDLERS, "debug", "?"])
shaped = st.sampled_from(
    [
        opened("text"), opened("thinking", 1), text("a"), text("b", 1), CLOSE, call(), call("nu", index=1), more("ll"),
        more("{}"), CALLED, cite(0, 1), event("tool-plan-delta", {"tool_plan": "p"}), event("citation-end"), end(),
        end("ERROR"), event("content-delta", {"content": {"thinking": "t"}}, index=2), b"data: [DONE]\n\n",
    ]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_bytes_trouble_the_decoder(pieces):
    with suppress(InvalidStream):
        assert_in_order(decoded(*pieces))


@settings(deadline=None)
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_body_troubles_the_reader_of_answers(body):
    assert isinstance(answer(body), blocks.Answer)
    cohere_decode.error_message(body)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(kinds, json_values), max_size=8))
def test_no_events_trouble_the_decoder_or_the_order_of_blocks(events):
    assert_in_order(decoded(*[event(kind, value, index=0) for kind, value in events]))


@settings(max_examples=200, deadline=None)
@given(st.lists(shaped, max_size=14))
def test_blocks_never_overlap_whatever_the_order_of_events(events):
    assert_in_order(decoded(BEGIN, *events))
