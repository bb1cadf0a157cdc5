"""Promises of the Responses dialect's decoding: requests of clients, answers and streams of providers."""

import gzip
import json
import os
from pathlib import Path

import pytest

from gateway.dialects import blocks
from gateway.dialects.blocks import (
    Audio,
    Document,
    Image,
    Message,
    Opaque,
    Redacted,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from gateway.dialects.openai_responses import read
from gateway.dialects.openai_responses_decode import StreamDecoder, answer, request
from gateway.dialects.openai_responses_seal import seal
from gateway.dialects.wire import InvalidBody

LINES = (Path(__file__).parents[2] / "recordings" / "responses_streams.jsonl").read_text().splitlines()
RECORDED = {row["name"]: row["stream"].encode() for row in map(json.loads, LINES)}
URL = "data:image/png;base64,QUJD"
PDF = "data:application/pdf;base64,QQ=="
TEXT_FILE = Document(data="QQ==", name="a.txt", media_type="text/plain")
OURS = "openai_responses"


def decoded(**members):
    return request(read(json.dumps({"model": "m", "input": "hello"} | members).encode()))


def turns(*items):
    return decoded(input=list(items)).messages


def refused(**members):
    with pytest.raises(InvalidBody) as caught:
        decoded(**members)
    return caught.value.param


# --- requests -------------------------------------------------------------------------------------------------------


def test_a_text_is_a_message_of_the_user():
    asked = decoded(instructions="Be brief.")
    assert asked.messages == [Message("user", [Text("hello")])]
    assert asked.system == [Text("Be brief.")]
    assert asked.dialect == OURS


def test_what_comes_before_the_conversation_is_system_and_later_it_stays_in_place():
    asked = decoded(
        instructions="A",
        input=[
            {"role": "developer", "content": "B"},
            {"role": "system", "content": [{"type": "input_text", "text": "C"}]},
            {"role": "user", "content": "hi"},
            {"role": "developer", "content": "D"},
        ],
    )
    assert [text.text for text in asked.system] == ["A", "B", "C"]
    assert asked.messages == [Message("user", [Text("hi")]), Message("system", [Text("D")])]


def test_items_of_one_turn_are_one_message_in_their_order():
    found = turns(
        {"role": "user", "content": "hi"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "x",
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "free"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        {"role": "user", "content": "and?"},
    )
    assert found == [
        Message("user", [Text("hi")]),
        Message(
            "assistant",
            [
                Redacted(data="x", dialect=OURS, id="rs_1", text="hm"),
                Text("a"),
                ToolCall(id="c1", name="f", arguments='{"a":1}'),
                ToolCall(id="c2", name="g", arguments="free", custom=True),
            ],
        ),
        Message(
            "user",
            [
                ToolResult(id="c1", name="f", content=[Text("one")]),
                ToolResult(id="c2", name="g", content=[Text("two")]),
            ],
        ),
        Message("user", [Text("and?")]),
    ]


def test_reasoning_of_another_vendor_is_that_vendors_again():
    thought = Thinking(signature="SIG", dialect="anthropic")
    hidden = Redacted(data="D", dialect="anthropic")
    call = ToolCall(id="c", name="f", signature="G", dialect="gemini")
    found = turns(
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "summary": [{"text": "hm"}], "encrypted_content": seal(thought)},
        {"type": "reasoning", "summary": [], "encrypted_content": seal(hidden), "content": None},
        {"type": "reasoning", "summary": [], "encrypted_content": seal(call)},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    )
    assert found[1].blocks == [
        Thinking(text="hm", signature="SIG", dialect="anthropic"),
        hidden,
        ToolCall(id="c", name="f", arguments="{}", signature="G", dialect="gemini"),
    ]


def test_a_broken_seal_leaves_the_text():
    found = turns({"type": "reasoning", "summary": [{"text": "hm"}], "encrypted_content": "respan-sealed.%%%"})
    assert found == [Message("assistant", [Thinking(text="hm")])]


def test_reasoning_without_anything_is_left_out():
    assert turns({"role": "user", "content": "hi"}, {"type": "reasoning", "id": "rs_1", "summary": []}) == [
        Message("user", [Text("hi")])
    ]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        ({"type": "input_image", "image_url": URL}, Image(media_type="image/png", data="QUJD")),
        ({"type": "input_image", "image_url": "https://x.t", "detail": "low"}, Image(url="https://x.t", detail="low")),
        ({"type": "input_image", "image_url": "https://x.test/a.png"}, Image(url="https://x.test/a.png")),
        ({"type": "input_image", "file_id": "file-1"}, Image(file_id="file-1")),
        ({"type": "input_image", "image_url": PDF}, Document(data="QQ==")),
        ({"type": "input_file", "file_data": PDF, "filename": "a.pdf"}, Document(data="QQ==", name="a.pdf")),
        ({"type": "input_file", "file_data": "QQ==", "filename": "a.txt"}, TEXT_FILE),
        ({"type": "input_file", "file_url": "https://x.test/a.pdf"}, Document(url="https://x.test/a.pdf")),
        ({"type": "input_file", "file_id": "file-1"}, Document(file_id="file-1")),
        ({"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}, Audio(data="QQ==", format="wav")),
        ({"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}, Text("a", cache="5m")),
        ({"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"ttl": "12h"}}, Text("a", cache="1h")),
        ({"type": "refusal", "refusal": "no"}, Refusal("no")),
    ],
)  # fmt: skip
def test_a_part_is_a_block(part, block):
    assert turns({"role": "user", "content": [part]}) == [Message("user", [block])]


def test_a_tool_may_answer_with_an_image_an_object_or_nothing():
    found = turns(
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image", "image_url": URL}]},
        {"type": "function_call_output", "call_id": "b", "output": {"content": "text", "success": True}},
        {"type": "function_call_output", "call_id": "c", "output": None},
    )
    assert [result.content for result in found[0].blocks] == [
        [Image(media_type="image/png", data="QUJD")],
        [Text("text")],
        [],
    ]


def test_items_only_openai_understands_stay_opaque_in_their_place():
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    approval = {"type": "mcp_approval_response", "approve": True, "approval_request_id": "m"}
    found = turns({"role": "user", "content": "hi"}, search, {"role": "assistant", "content": "a"}, approval)
    assert found[1:] == [
        Message("assistant", [Opaque(dialect=OURS, value=search), Text("a")]),
        Message("user", [Opaque(dialect=OURS, value=approval)]),
    ]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_place(members, param):
    assert refused(**members) == param


def test_parameters_have_their_place():
    asked = decoded(
        stream=True,
        max_output_tokens=50,
        temperature=0.5,
        top_p=1,
        parallel_tool_calls=False,
        reasoning={"effort": "high", "summary": "auto"},
        text={"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
        service_tier="flex",
        safety_identifier="u",
        store=False,
        metadata={"a": "b"},
        prompt_cache_key="k",
    )
    assert (asked.stream, asked.max_output, asked.temperature, asked.top_p) == (True, 50, 0.5, 1.0)
    assert (asked.parallel, asked.verbosity, asked.service_tier, asked.user) == (False, "low", "flex", "u")
    assert asked.reasoning == blocks.Reasoning(effort="high", visible=True)
    assert asked.format == blocks.Format(kind="json_schema", schema={}, name="n", strict=True)
    assert asked.extra == {"prompt_cache_key": "k"}


def test_tools_of_every_kind_are_known():
    parameters = {"type": "object"}
    asked = decoded(
        tools=[
            {"type": "function", "name": "f", "description": "d", "parameters": parameters, "strict": False},
            {"type": "custom", "name": "patch", "format": {"type": "grammar"}},
            {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "wait"}]},
            {"type": "tool_search", "execution": "client", "parameters": parameters},
            {"type": "web_search_preview", "search_context_size": "low"},
            {"type": "image_generation"},
        ],
        input=[
            {"type": "tool_search_call", "execution": "client", "call_id": "c", "arguments": {"goal": "x"}},
            {"type": "tool_search_output", "call_id": "c", "tools": [{"type": "function", "name": "found"}]},
        ],
    )
    tools = [tool for tool in asked.tools if isinstance(tool, blocks.Tool)]
    assert [tool.name for tool in tools] == ["f", "patch", "agents__wait", "tool_search", "found"]
    assert (tools[0].description, tools[0].parameters, tools[0].strict) == ("d", parameters, False)
    assert (tools[1].custom, tools[1].format) == (True, {"type": "grammar"})
    assert [tool.kind for tool in asked.tools if isinstance(tool, blocks.ServerTool)] == ["web_search", "other"]
    assert asked.messages[0].blocks == [ToolCall(id="c", name="tool_search", arguments='{"goal":"x"}')]


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ("required", blocks.Choice(mode="required")),
        ({"type": "function", "name": "f"}, blocks.Choice(mode="named", names=["f"])),
        ({"type": "function", "name": "f", "namespace": "n"}, blocks.Choice(mode="named", names=["n__f"])),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            blocks.Choice(mode="allowed", names=["f"], required=True),
        ),
    ],
)
def test_a_choice_of_tools_is_understood(given, choice):
    assert decoded(tool_choice=given).choice == choice


# --- answers --------------------------------------------------------------------------------------------------------


def test_an_answer_becomes_blocks_in_order():
    mark = {"type": "url_citation", "url": "https://x.test", "title": "X", "start_index": 0, "end_index": 2}
    found = answer(
        json.dumps(
            {
                "id": "resp_1",
                "model": "gpt-5",
                "created_at": 17.0,
                "status": "completed",
                "output": [
                    {
                        "type": "reasoning",
                        "id": "rs_1",
                        "summary": [{"text": "a"}, {"text": "b"}],
                        "encrypted_content": "E",
                    },
                    {"type": "message", "content": [{"type": "output_text", "text": "Hi", "annotations": [mark]}]},
                    {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]},
                    {"type": "function_call", "call_id": "c", "id": "fc", "name": "f", "arguments": "{}"},
                    {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
                    {"type": "image_generation_call", "result": "QUJD", "output_format": "jpeg"},
                    {"type": "web_search_call", "id": "ws"},
                ],
                "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
                "service_tier": "default",
            }
        ).encode()
    )
    cited = {"start_index": 0, "end_index": 2, "title": "X", "url": "https://x.test"}
    assert found.blocks == [
        Thinking(text="a\n\nb", dialect=OURS),
        Redacted(data="E", dialect=OURS, id="rs_1"),
        Text("Hi", citations=[cited]),
        Refusal("no"),
        ToolCall(id="c", name="f", arguments="{}"),
        ToolCall(id="d", name="g", arguments="x", custom=True),
        Image(media_type="image/jpeg", data="QUJD"),
        Opaque(dialect=OURS, value={"type": "web_search_call", "id": "ws"}),
    ]
    assert (found.id, found.model, found.created, found.service_tier) == ("resp_1", "gpt-5", 17, "default")
    assert (found.finish.reason, found.usage.input_tokens, found.error) == ("tool_calls", 3, None)


@pytest.mark.parametrize("raw", [b"", b"no", b"{}", b'{"output":[],"status":"queued"}', b'{"error":{"message":"a"}}'])
def test_an_answer_that_is_none_has_an_error(raw):
    assert answer(raw).error


# --- streams --------------------------------------------------------------------------------------------------------


def frames(*events):
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def events_of(raw, size=1_000_000):
    decoder = StreamDecoder()
    found = [event for at in range(0, len(raw), size) for event in decoder.feed(raw[at : at + size])]
    return found + decoder.end()


def gathered(raw, size=1_000_000):
    gatherer = blocks.Gatherer(1_000_000)
    for event in events_of(raw, size):
        gatherer.take(event)
    return gatherer.answer


def check_order(events):
    """Blocks are numbered from 0, never overlap, and what belongs to one stands between its ends."""
    current, following = None, 0
    for event in events:
        if isinstance(event, blocks.Opened):
            assert (current, following) == (None, event.index)
            current = event.index
        elif isinstance(event, blocks.Closed):
            assert event.index == current
            current, following = None, following + 1
        elif hasattr(event, "index"):
            assert event.index == current


@pytest.mark.parametrize("name", [name for name in RECORDED if name != "no money left"])
def test_a_recorded_stream_says_what_its_last_event_repeats(name):
    raw = RECORDED[name]
    data = [line[6:] for line in raw.splitlines() if line.startswith(b"data: {")]
    last = json.loads(data[-1])
    whole, found = answer(json.dumps(last["response"]).encode()), gathered(raw)

    assert found.blocks == whole.blocks
    assert (found.usage, found.finish, found.model) == (whole.usage, whole.finish, whole.model)
    check_order(events_of(raw))
    for size in (1, 7, 64):
        assert gathered(raw, size) == found


def test_an_error_fails_the_stream_once():
    found = events_of(RECORDED["no money left"])
    assert [type(event) for event in found] == [blocks.Started, blocks.Failed]
    assert (found[1].code, found[1].status) == ("insufficient_quota", 429)


CREATED = {"type": "response.created", "response": {"id": "r", "model": "m", "created_at": 5, "output": []}}


def completed(*output):
    return {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": list(output)}}


def item(index, value, *, done=False):
    kind = "response.output_item.done" if done else "response.output_item.added"
    return {"type": kind, "output_index": index, "item": value}


CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": ""}


def test_arguments_may_come_in_the_done_event_only():
    done = {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": '{"a":1}'}
    for last in (
        [done],
        [item(0, {**CALL, "arguments": '{"a":1}'}, done=True)],
        [done, item(0, {**CALL, "arguments": '{"a":1}'}, done=True)],
    ):
        found = gathered(frames(CREATED, item(0, CALL), *last, completed()))
        assert found.blocks == [ToolCall(id="c1", name="f", arguments='{"a":1}')]
        assert found.finish.reason == "tool_calls"


def test_a_call_begins_when_its_name_is_known():
    nameless = {"type": "function_call", "call_id": "c1", "arguments": ""}
    delta = {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{}"}
    raw = frames(CREATED, item(0, nameless), delta, item(0, {**CALL, "arguments": "{}"}, done=True), completed())
    assert gathered(raw).blocks == [ToolCall(id="c1", name="f", arguments="{}")]


def test_interleaved_items_wait_for_their_turn():
    def delta(index, text):
        return {"type": "response.function_call_arguments.delta", "output_index": index, "delta": text}

    other = {**CALL, "call_id": "c2", "name": "g"}
    raw = frames(
        CREATED,
        item(0, CALL),
        item(1, other),
        delta(1, "[1"),
        delta(0, "[0"),
        delta(1, "1]"),
        item(1, {**other, "arguments": "[11]"}, done=True),
        delta(0, "0]"),
        item(0, {**CALL, "arguments": "[00]"}, done=True),
        completed(),
    )
    found = gathered(raw)
    check_order(events_of(raw))
    assert [(block.id, block.arguments) for block in found.blocks] == [("c1", "[00]"), ("c2", "[11]")]


def test_text_without_part_events_and_an_output_only_at_the_end_are_understood():
    delta = {"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"}
    assert gathered(frames(delta, completed())).blocks == [Text("Hi")]
    said = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    assert gathered(frames(CREATED, completed(said))).blocks == [Text("Hi")]


def test_the_parts_of_a_summary_are_paragraphs_and_what_is_encrypted_follows():
    def delta(part, text):
        return {
            "type": "response.reasoning_summary_text.delta",
            "output_index": 0,
            "summary_index": part,
            "delta": text,
        }

    thought = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "cut"}
    whole = {**thought, "summary": [{"text": "ab"}, {"text": "c"}], "encrypted_content": "E"}
    raw = frames(
        CREATED, item(0, thought), delta(0, "a"), delta(0, "b"), delta(1, "c"), item(0, whole, done=True), completed()
    )
    assert gathered(raw).blocks == [
        Thinking(text="ab\n\nc", dialect=OURS),
        Redacted(data="E", dialect=OURS, id="rs"),
    ]


def test_a_stream_that_stops_has_not_ended():
    found = events_of(frames(CREATED, {"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"}))
    assert not any(isinstance(event, blocks.Ended | blocks.Finished) for event in found)


@pytest.mark.skipif("RESPAN_RECORDINGS" not in os.environ, reason="needs recorded traffic")
def test_every_recorded_stream_is_the_same_however_it_is_cut():
    count = 0
    for path in sorted(Path(os.environ["RESPAN_RECORDINGS"]).glob("*.jsonl.gz")):
        for row in map(json.loads, gzip.decompress(path.read_bytes()).splitlines()):
            raw = row["response"].get("text", "").encode() if row["kind"] == "responses" else b""
            if b"response.created" in raw:
                found = gathered(raw)
                check_order(events_of(raw))
                assert found.finish is not None
                assert found == gathered(raw, 7)
                count += 1
    assert count > 100
