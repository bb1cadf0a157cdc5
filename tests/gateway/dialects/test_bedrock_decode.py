"""Promises of `bedrock_decode`: what Converse answers as the middle form, however its stream is cut; never a crash."""

import base64
import json
import struct
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects import bedrock_decode, blocks
from gateway.dialects.bedrock_decode import JSON_TOOL, StreamDecoder, answer
from gateway.dialects.blocks import (
    ArgumentsDelta,
    CitationDelta,
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
    SignatureDelta,
    Started,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
)
from gateway.dialects.wire import InvalidStream

RECORDED = {
    row["name"]: row
    for line in (Path(__file__).parents[2] / "recordings" / "bedrock_streams.jsonl").read_text("utf-8").splitlines()
    for row in [json.loads(line)]
}


def framed(name, payload, kind="event"):
    """One frame of AWS's event stream, as Bedrock sends it: each payload with its padding."""
    text = json.dumps({**payload, "p": "abcdefgh"}).encode()
    named = {":message-type": kind, f":{kind}-type": name, ":content-type": "application/json"}
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for key, value in named.items()
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(text), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + text
    return message + struct.pack(">I", crc32(message))


def start(index, **use):
    return framed("contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": use} if use else {}})


def delta(index, **given):
    return framed("contentBlockDelta", {"contentBlockIndex": index, "delta": given})


def stop(index):
    return framed("contentBlockStop", {"contentBlockIndex": index})


BEGIN = framed("messageStart", {"role": "assistant"})
USAGE = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}
METADATA = framed("metadata", {"usage": USAGE, "metrics": {"latencyMs": 1}})
METERED = Metered(Usage(input_tokens=10, output_tokens=5))


def finish(reason="end_turn", **fields):
    return framed("messageStop", {"stopReason": reason, **fields})


def decoded(*frames):
    decoder = StreamDecoder()
    return [event for frame in frames for event in decoder.feed(frame)] + decoder.end()


def gathered(events):
    gatherer = blocks.Gatherer(1_000_000)
    for event in events:
        gatherer.take(event)
    return gatherer.answer


def assert_in_order(events):
    """Assert the invariants of `blocks`: blocks never overlap, and nothing comes after the end."""
    open_index, count, is_over = None, 0, False
    for event in events:
        assert not is_over
        if isinstance(event, Opened):
            assert (open_index, event.index) == (None, count)
            open_index, count = event.index, count + 1
        elif isinstance(event, Closed):
            assert event.index == open_index
            open_index = None
        elif hasattr(event, "index"):
            assert event.index == open_index
        is_over = isinstance(event, Ended | Failed)
    assert not is_over or open_index is None or isinstance(events[-1], Failed)


def stream_of(name):
    row = RECORDED[name]
    if "base64" in row:
        return base64.b64decode(row["base64"])
    return b"".join(framed(kind, payload) for event in row["events"] for kind, payload in event.items())


# --- Recorded streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_is_read_the_same_however_it_is_cut(name):
    stream = stream_of(name)
    events = decoded(stream)
    assert_in_order(events)
    assert isinstance(events[-1], Ended)
    for size in (1, 13, 100):
        assert decoded(*[stream[at : at + size] for at in range(0, len(stream), size)]) == events


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_that_was_cut_off_never_looks_whole(name):
    stream = stream_of(name)
    for at in range(0, len(stream) - 1, 37):
        with suppress(InvalidStream):
            events = decoded(stream[:at])
            assert_in_order(events)
            assert not any(isinstance(event, Ended) for event in events) or any(
                isinstance(event, Finished) for event in events
            )


def test_what_recorded_streams_say():
    said = gathered(decoded(stream_of("claude writes text")))
    assert said.blocks == [Text("The capital of France is Paris. Hope this helps!")]
    assert said.finish == Finish(reason="stop", native="end_turn")
    assert said.usage == Usage(input_tokens=37, output_tokens=14)
    called = gathered(decoded(stream_of("claude calls a tool")))
    assert called.blocks[1] == ToolCall(
        id="tooluse_yypYDr71TwCwByoyao4-Vg", name="get_weather", arguments='{"location": "Barcelona"}'
    )
    assert called.finish == Finish(reason="tool_calls", native="tool_use")
    hidden = gathered(decoded(stream_of("a guardrail hides parts")))
    assert hidden.finish == Finish(reason="content_filter", native="guardrail_intervened")
    thought = gathered(decoded(stream_of("claude thinks"))).blocks
    assert [type(block) for block in thought] == [Thinking, Text]
    assert thought[0].text.startswith("Let me count the r's")
    assert len(thought[0].signature) > 100
    assert thought[0].dialect == "bedrock"


# --- Streams --------------------------------------------------------------------------------------------------------


def test_a_text_begins_without_an_event_of_its_own():
    events = decoded(BEGIN, delta(0, text="Hel"), delta(0, text="lo"), stop(0), finish(), METADATA)
    assert events == [
        Started(),
        Opened(0, Text()),
        TextDelta(0, "Hel"),
        TextDelta(0, "lo"),
        Closed(0),
        Finished(Finish(reason="stop", native="end_turn")),
        METERED,
        Ended(),
    ]


def test_a_call_without_arguments_has_an_empty_object():
    events = decoded(BEGIN, start(0, toolUseId="t", name="now"), delta(0, toolUse={"input": ""}), stop(0), finish())
    assert events[1:5] == [
        Opened(0, ToolCall(id="t", name="now")),
        ArgumentsDelta(0, "{}"),
        Closed(0),
        Finished(Finish(reason="tool_calls", native="end_turn")),
    ]


def test_calls_that_come_entangled_are_told_one_after_the_other():
    events = decoded(
        BEGIN,
        start(0, toolUseId="a", name="x"),
        start(1, toolUseId="b", name="y"),
        delta(1, toolUse={"input": '{"n"'}),
        delta(0, toolUse={"input": "{"}),
        delta(2, text="done"),
        delta(0, toolUse={"input": "}"}),
        stop(0),
        delta(1, toolUse={"input": ":1}"}),
        stop(1),
        finish("tool_use"),
        METADATA,
    )
    assert_in_order(events)
    first, second, text = gathered(events).blocks
    assert (first.id, first.arguments) == ("a", "{}")
    assert (second.id, second.arguments) == ("b", '{"n":1}')
    assert text == Text("done")


def test_what_waits_for_its_turn_is_bounded():
    piece = delta(1, toolUse={"input": "x" * 1_000_000})
    with pytest.raises(InvalidStream, match="entangled"):
        decoded(BEGIN, start(0, toolUseId="a", name="x"), *[piece] * 5)


def test_blocks_that_are_never_closed_end_with_the_message():
    events = decoded(
        BEGIN,
        start(0, toolUseId="a", name="x"),
        start(1, toolUseId="b", name="y"),
        start(2, toolUseId="c", name="z"),
        finish("tool_use"),
        METADATA,
    )
    assert_in_order(events)
    assert [block.arguments for block in gathered(events).blocks] == ["{}", "{}", "{}"]


def test_reasoning_has_its_signature_and_redacted_reasoning_its_data():
    events = decoded(
        BEGIN,
        delta(0, reasoningContent={"text": "Hm"}),
        delta(0, reasoningContent={"signature": "c2ln"}),
        stop(0),
        delta(1, reasoningContent={"redactedContent": "cmVk"}),
        stop(1),
        delta(2, text="A"),
        stop(2),
        finish(),
        METADATA,
    )
    assert events[1:9] == [
        Opened(0, Thinking(dialect="bedrock")),
        ThinkingDelta(0, "Hm"),
        SignatureDelta(0, "c2ln"),
        Closed(0),
        Opened(1, Redacted(data="cmVk", dialect="bedrock")),
        Closed(1),
        Opened(2, Text()),
        TextDelta(2, "A"),
    ]


def test_reasoning_that_is_not_shown_still_has_a_signature():
    events = decoded(BEGIN, delta(0, reasoningContent={"signature": "c2ln"}), stop(0), finish())
    assert gathered(events).blocks == [Thinking(text="", signature="c2ln", dialect="bedrock")]


def test_the_stand_in_tool_of_a_schema_is_the_answers_text():
    events = decoded(
        BEGIN,
        start(0, toolUseId="t", name=JSON_TOOL),
        delta(0, toolUse={"input": '{"a"'}),
        delta(0, toolUse={"input": ":1}"}),
        stop(0),
        finish("tool_use"),
        METADATA,
    )
    said = gathered(events)
    assert said.blocks == [Text('{"a":1}')]
    assert said.finish == Finish(reason="stop", native="tool_use")


def test_a_citation_of_the_web_is_about_the_text_so_far():
    cited = {"title": "Paris", "location": {"web": {"url": "https://example.com", "domain": "example.com"}}}
    events = decoded(
        BEGIN, delta(0, text="Paris"), delta(0, citation=cited), delta(0, citation={"title": "doc"}), stop(0)
    )
    assert events[3:] == [
        CitationDelta(0, {"start_index": 0, "end_index": 5, "title": "Paris", "url": "https://example.com"}),
        Closed(0),
    ]


def test_a_picture_is_a_block():
    events = decoded(BEGIN, delta(0, image={"source": {"bytes": "AAAA"}}), stop(0), finish())
    assert gathered(events).blocks == [Image(media_type="image/png", data="AAAA")]


def test_usage_may_come_before_the_end_or_not_at_all():
    before = decoded(BEGIN, METADATA, finish())
    assert [type(event) for event in before] == [Started, Metered, Finished, Ended]
    assert [type(event) for event in decoded(BEGIN, finish())] == [Started, Finished, Ended]
    torn = decoded(BEGIN, finish(), METADATA[:-9])
    assert [type(event) for event in torn] == [Started, Finished, Ended]


def test_a_stream_without_an_end_has_none():
    assert decoded(BEGIN, delta(0, text="A"), METADATA)[-1] == METERED
    with pytest.raises(InvalidStream, match="inside a frame"):
        decoded(BEGIN, delta(0, text="A")[:-1])


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("throttlingException", 429),
        ("validationException", 400),
        ("serviceUnavailableException", 503),
        ("internalServerException", 500),
        ("modelStreamErrorException", 424),
        ("somethingNewException", None),
    ],
)
def test_an_exception_ends_the_stream_with_its_code_and_status(kind, status):
    wrong = framed(kind, {"message": "No."}, kind="exception")
    assert decoded(BEGIN, delta(0, text="A"), wrong, finish(), METADATA)[-1] == Failed("No.", kind, status)
    assert decoded(wrong) == [Failed("No.", kind, status)]


def test_an_exception_of_the_model_has_the_models_status():
    wrong = {"message": "No.", "originalStatusCode": 529, "originalMessage": "Overloaded"}
    frame = framed("modelStreamErrorException", wrong, kind="exception")
    assert decoded(frame) == [Failed("No.", "modelStreamErrorException", 529)]


def test_a_malformed_answer_is_a_failure_that_was_metered():
    events = decoded(BEGIN, delta(0, text="A"), stop(0), finish("malformed_tool_use"), METADATA)
    assert events[-2:] == [
        METERED,
        Failed("The model's answer was malformed (malformed_tool_use).", "malformed_tool_use", 502),
    ]


def test_after_the_end_nothing_is_read():
    decoder = StreamDecoder()
    decoder.feed(BEGIN + finish() + METADATA)
    assert decoder.feed(b"garbage" * 9) == []
    assert decoder.end() == []


def test_garbage_is_no_stream():
    with pytest.raises(InvalidStream, match="no AWS event stream"):
        decoded(b"<html>" * 9)
    prelude = struct.pack(">II", 17, 0)
    message = prelude + struct.pack(">I", crc32(prelude)) + b"x"
    with pytest.raises(InvalidStream, match="not JSON"):
        decoded(message + struct.pack(">I", crc32(message)))


def test_what_comes_after_the_end_of_the_message_is_passed_over():
    late = start(0, toolUseId="t", name="x"), delta(1, text="A"), finish("max_tokens")
    assert decoded(BEGIN, finish(), *late, METADATA) == decoded(BEGIN, finish(), METADATA)


def test_events_nobody_knows_are_passed_over():
    assert decoded(framed("initial-response", {}), framed("somethingNew", {"a": 1})) == [Started()]


# --- Whole answers --------------------------------------------------------------------------------------------------


def whole(*content, **members):
    value = {
        "output": {"message": {"role": "assistant", "content": list(content)}},
        "stopReason": "end_turn",
        "usage": USAGE,
        "metrics": {"latencyMs": 1},
    }
    return answer(json.dumps({**value, **members}).encode())


def test_a_whole_answer_has_its_blocks_in_order():
    said = whole(
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "c2ln"}}},
        {"reasoningContent": {"redactedContent": "cmVk"}},
        {"text": "A"},
        {"text": ""},
        {"toolUse": {"toolUseId": "t", "name": "get", "input": {"a": 1}}},
        {"toolUse": {"toolUseId": "u", "name": "now", "input": None}},
        {"toolUse": {"toolUseId": "v", "name": "web", "input": {}, "type": "server_tool_use"}},
        {"image": {"format": "webp", "source": {"bytes": "AAAA"}}},
        stopReason="tool_use",
    )
    assert said.blocks == [
        Thinking(text="Hm", signature="c2ln", dialect="bedrock"),
        Redacted(data="cmVk", dialect="bedrock"),
        Text("A"),
        ToolCall(id="t", name="get", arguments='{"a":1}'),
        ToolCall(id="u", name="now", arguments="{}"),
        Opaque(
            dialect="bedrock",
            value={"toolUse": {"toolUseId": "v", "name": "web", "input": {}, "type": "server_tool_use"}},
        ),
        Image(media_type="image/webp", data="AAAA"),
    ]
    assert said.finish == Finish(reason="tool_calls", native="tool_use")


def test_cited_text_is_text_with_citations():
    cited = {
        "content": [{"text": "Par"}, {"text": "is"}],
        "citations": [{"title": "T", "source": "https://a.example"}, {"title": "a document"}],
    }
    found = {"start_index": 0, "end_index": 5, "title": "T", "url": "https://a.example"}
    assert whole({"citationsContent": cited}).blocks == [Text("Paris", citations=[found])]


def test_usage_counts_the_cache_as_input():
    usage = {
        **USAGE,
        "cacheReadInputTokens": 100,
        "cacheWriteInputTokens": 30,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 20}, {"ttl": "5m", "inputTokens": 10}],
    }
    assert whole(usage=usage).usage == Usage(
        input_tokens=140,
        output_tokens=5,
        cache_read_input_tokens=100,
        cache_creation_input_tokens=30,
        cache_creation_1h_input_tokens=20,
    )


@pytest.mark.parametrize("usage", [None, {}, {"inputTokens": -1, "outputTokens": 1}, {"inputTokens": "1"}, [1]])
def test_usage_that_is_none_is_none(usage):
    assert whole(usage=usage).usage is None


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_reasons_to_finish(native, reason):
    assert whole({"text": "A"}, stopReason=native).finish == Finish(reason=reason, native=native)


def test_the_stop_sequence_is_told_where_it_was_asked_for():
    said = whole({"text": "A"}, stopReason="stop_sequence", additionalModelResponseFields={"stop_sequence": "END"})
    assert said.finish.stop_sequence == "END"
    last = finish("stop_sequence", additionalModelResponseFields={"delta": {"stop_sequence": "END"}})
    assert gathered(decoded(BEGIN, last)).finish.stop_sequence == "END"


def test_the_stand_in_tool_of_a_whole_answer_is_its_text():
    said = whole({"toolUse": {"toolUseId": "t", "name": JSON_TOOL, "input": {"a": 1}}}, stopReason="tool_use")
    assert said.blocks == [Text('{"a":1}')]
    assert said.finish.reason == "stop"


def test_tier_and_routed_model_are_told():
    arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.amazon.nova-lite-v1:0"
    said = whole(serviceTier={"type": "flex"}, trace={"promptRouter": {"invokedModelId": arn}})
    assert (said.service_tier, said.model) == ("flex", "us.amazon.nova-lite-v1:0")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message": "The provided model identifier is invalid."}', "The provided model identifier is invalid."),
        (b'{"Message": "Denied"}', "Denied"),
        (b"<html>", "not JSON"),
        (b"[]", "not JSON"),
        (b"{}", "no message"),
    ],
)
def test_what_is_no_answer_says_so(body, message):
    assert message in answer(body).error


def test_a_malformed_answer_is_an_error():
    assert "malformed_model_output" in whole({"text": "A"}, stopReason="malformed_model_output").error


@pytest.mark.parametrize(
    ("body", "message"),
    [(b'{"message": "No."}', "No."), (b'{"Message": "No."}', "No."), (b"", None), (b'{"message": 1}', None)],
)
def test_the_message_of_an_error(body, message):
    assert bedrock_decode.error_message(body) == message


# --- Anything at all ------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["text", "toolUse", "reasoningContent", "reasoningText", "signature", "redactedContent", "content", "input",
             "citation", "citationsContent", "citations", "location", "web", "url", "source", "bytes", "image", "name",
             "toolUseId", "start", "delta", "contentBlockIndex", "stopReason", "usage", "inputTokens", "outputTokens",
             "cacheDetails", "message", "output", "trace", "promptRouter", "serviceTier", "type", "title"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
names = st.sampled_from(
    ["messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata", "other"]
)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_bytes_trouble_the_decoder(pieces):
    with suppress(InvalidStream):
        decoded(*pieces)


@settings(deadline=None)
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_body_troubles_the_reader_of_answers(body):
    assert isinstance(answer(body), blocks.Answer)
    bedrock_decode.error_message(body)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            names, st.dictionaries(st.sampled_from(["contentBlockIndex", "delta", "start", "usage"]), json_values)
        ),
        max_size=8,
    )
)
def test_no_events_trouble_the_decoder_or_the_order_of_blocks(events):
    with suppress(InvalidStream):
        assert_in_order(decoded(*[framed(name, payload) for name, payload in events]))


shaped = st.one_of(
    st.integers(0, 2).map(lambda index: start(index, toolUseId=f"t{index}", name="x")),
    st.integers(0, 2).map(lambda index: start(index, toolUseId="j", name=JSON_TOOL)),
    st.integers(0, 2).map(lambda index: delta(index, text="a")),
    st.integers(0, 2).map(lambda index: delta(index, toolUse={"input": "1"})),
    st.integers(0, 2).map(lambda index: delta(index, reasoningContent={"text": "b"})),
    st.integers(0, 2).map(lambda index: delta(index, reasoningContent={"redactedContent": "cmVk"})),
    st.integers(0, 2).map(stop),
    st.sampled_from([finish(), finish("tool_use"), METADATA]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(shaped, max_size=14))
def test_blocks_never_overlap_whatever_the_order_of_events(frames):
    assert_in_order(decoded(BEGIN, *frames))
