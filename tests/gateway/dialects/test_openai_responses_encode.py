"""Promises of the Responses dialect's encoding: requests to providers; answers and streams, judged by OpenAI's SDK."""

import json

import httpx2
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from billing.usage import Usage
from gateway.dialects import blocks
from gateway.dialects.blocks import (
    Answer,
    ArgumentsDelta,
    CitationDelta,
    Closed,
    Document,
    Ended,
    Failed,
    Finish,
    Finished,
    Image,
    Message,
    Metered,
    Opened,
    Reasoning,
    Redacted,
    Refusal,
    ServerTool,
    SignatureDelta,
    Started,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.dialects.openai_responses import read
from gateway.dialects.openai_responses_decode import StreamDecoder
from gateway.dialects.openai_responses_decode import request as decode_request
from gateway.dialects.openai_responses_encode import StreamWriter, answer, request
from gateway.dialects.wire import Context
from tests.gateway.dialects.facts import Gpt

OURS = "openai_responses"
CONTEXT = Context(call_id="0a1b2c", created=1_700_000_000)
EVENT = TypeAdapter(ResponseStreamEvent)


def written(*messages, model=None, order=None, **members):
    """Return what is sent for a conversation, and the `Sent` itself."""
    turns = list(messages) or [Message("user", [Text("hi")])]
    asked = blocks.Request(dialect="openai_chat", model="m", messages=turns, **members)
    sent = request(asked, blocks.Order(model=model or Gpt(), **(order or {})))
    return json.loads(sent.body), sent


def items(*messages, **members):
    return written(*messages, **members)[0]["input"]


# --- requests -------------------------------------------------------------------------------------------------------


def test_a_conversation_becomes_items_in_order():
    body, sent = written(
        Message("user", [Text("hi"), Image(media_type="image/png", data="QQ==", detail="low")]),
        Message(
            "assistant",
            [
                Thinking(text="foreign", signature="S", dialect="anthropic"),
                Redacted(data="E", dialect=OURS, id="rs_1", text="hm"),
                Text("a"),
                ToolCall(id="c1", name="f", arguments='{"a":1}'),
                ToolCall(id="c2", name="g", arguments="free", custom=True),
                ToolCall(id="c3", name="f", arguments=""),
            ],
        ),
        Message(
            "user",
            [
                ToolResult(id="c1", content=[Text("one")]),
                ToolResult(id="c2", content=[Text("two"), Image(url="https://x.test/a.png")]),
                ToolResult(id="c3"),
                Text("go on"),
            ],
        ),
        Message("system", [Text("be brief")]),
        system=[Text("A"), Text("B")],
        stream=True,
    )
    image = {"type": "input_image", "detail": "low", "image_url": "data:image/png;base64,QQ=="}
    shown = {"type": "input_image", "detail": "auto", "image_url": "https://x.test/a.png"}
    assert body["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}, image]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "E",
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "free"},
        {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}, shown]},
        {"type": "function_call_output", "call_id": "c3", "output": ""},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go on"}]},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be brief"}]},
    ]
    assert (body["instructions"], body["stream"], body["store"]) == ("A\n\nB", True, False)
    assert (sent.path, sent.dropped) == ("/responses", [])


def test_reasoning_without_what_followed_it_is_left_out():
    assert items(Message("assistant", [Text("a"), Redacted(data="E", dialect=OURS)]), Message("user", [Text("b")])) == [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}]},
    ]


def test_a_summary_that_came_as_a_block_of_its_own_returns_with_its_reasoning():
    thought = [Thinking(text="hm", dialect=OURS), Redacted(data="E", dialect=OURS), Text("a")]
    assert items(Message("assistant", thought))[0] == {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "hm"}],
        "encrypted_content": "E",
    }


def test_a_request_of_system_messages_alone_has_an_input():
    asked = blocks.Request(dialect="openai_chat", model="m", messages=[], system=[Text("Say hi.")])
    body = json.loads(request(asked, blocks.Order(model=Gpt())).body)
    assert body["input"][0]["role"] == "developer"
    assert "instructions" not in body


def test_documents_are_sent_as_files_or_text():
    given = [
        Document(data="QQ==", name="a.pdf"),
        Document(text="plain", name="b.txt"),
        Document(url="https://x.test/c"),
    ]
    assert items(Message("user", given))[0]["content"] == [
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ=="},
        {"type": "input_text", "text": "b.txt\nplain"},
        {"type": "input_file", "file_url": "https://x.test/c"},
    ]


def test_tools_say_whether_they_are_strict_because_silence_means_yes():
    body, _ = written(
        tools=[
            Tool(name="f", description="d", parameters={"type": "object"}),
            Tool(name="g", strict=True),
            Tool(name="h", custom=True, format={"type": "text"}),
            ServerTool(dialect="openai_chat", kind="web_search", value={"search_context_size": "low"}),
        ],
        choice=blocks.Choice(mode="allowed", names=["f", "h"], required=True),
        parallel=False,
    )
    assert body["tools"] == [
        {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False},
        {"type": "function", "name": "g", "parameters": {"type": "object", "properties": {}}, "strict": True},
        {"type": "custom", "name": "h", "format": {"type": "text"}},
        {"type": "web_search", "search_context_size": "low"},
    ]
    assert body["tool_choice"] == {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "h"}],
    }
    assert body["parallel_tool_calls"] is False


def test_names_and_ids_that_do_not_fit_are_changed_and_the_way_back_is_told():
    long, dotted = "n" * 80, "a.b"
    body, sent = written(
        Message("assistant", [ToolCall(id="i" * 90, name=dotted, arguments="{}")]),
        Message("user", [ToolResult(id="i" * 90, content=[Text("r")])]),
        tools=[Tool(name=dotted), Tool(name=long), Tool(name="a_b")],
        choice=blocks.Choice(mode="named", names=[dotted]),
    )
    names = [tool["name"] for tool in body["tools"]]
    assert len(set(names)) == 3
    assert all(len(name) <= 64 and "." not in name for name in names)
    assert {sent.names.get(name, name) for name in names} == {long, dotted, "a_b"}
    assert body["tool_choice"]["name"] == body["input"][0]["name"] == names[0]
    assert body["input"][0]["call_id"] == body["input"][1]["call_id"]
    assert len(body["input"][0]["call_id"]) <= 64


def test_without_tools_nothing_is_said_of_them():
    body, _ = written(choice=blocks.Choice(mode="auto"), parallel=True)
    assert not body.keys() & {"tools", "tool_choice", "parallel_tool_calls"}
    with pytest.raises(blocks.Unsupported):
        written(choice=blocks.Choice(mode="required"))


def test_parameters_have_their_place_and_the_rest_is_reported():
    body, sent = written(
        max_output=5,
        format=blocks.Format(kind="json_schema", schema={"type": "object"}, name="n", strict=True),
        verbosity="low",
        user="u" * 200,
        service_tier="flex",
        temperature=0.5,
        stop=["x"],
        seed=1,
        top_k=3,
        extra={"prompt_cache_key": "k", "logit_bias": {}, "respan_own": 1},
        order={"ours": frozenset({"respan_own"})},
    )
    assert body["max_output_tokens"] == 16
    assert body["text"] == {
        "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
        "verbosity": "low",
    }
    assert len(body["safety_identifier"]) == 64
    assert (body["service_tier"], body["temperature"], body["prompt_cache_key"]) == ("flex", 0.5, "k")
    assert sent.dropped == ["top_k", "stop", "seed", "logit_bias"]


@pytest.mark.parametrize(
    ("asked", "efforts", "reasoning"),
    [
        (Reasoning(effort="high"), (), {"effort": "high", "summary": "auto"}),
        (Reasoning(effort="max"), ("low", "high"), {"effort": "high", "summary": "auto"}),
        (Reasoning(effort="none"), (), {"effort": "none"}),
        (Reasoning(mode="disabled"), (), {"effort": "none"}),
        (Reasoning(mode="enabled", budget=4_000), (), {"effort": "medium", "summary": "auto"}),
        (Reasoning(effort="low", visible=False), (), {"effort": "low"}),
        (Reasoning(visible=True), (), {"summary": "auto"}),
    ],
)
def test_reasoning_is_asked_for_by_effort(asked, efforts, reasoning):
    body, _ = written(reasoning=asked, model=Gpt(efforts=efforts))
    assert body["reasoning"] == reasoning
    assert body["include"] == ["reasoning.encrypted_content"]


def test_sampling_is_dropped_where_reasoning_was_asked_for():
    body, sent = written(reasoning=Reasoning(effort="low"), temperature=0.5, top_p=0.9)
    assert not body.keys() & {"temperature", "top_p"}
    assert sent.dropped == ["temperature", "top_p"]


def test_a_model_that_does_not_reason_is_not_asked_to():
    model = Gpt(capabilities=frozenset({"streaming", "tools"}), thinking="none")
    body, sent = written(reasoning=Reasoning(effort="low"), model=model)
    assert not body.keys() & {"reasoning", "include"}
    assert sent.dropped == ["reasoning_effort"]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"n": 2}, "n"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"order": {"credits": True}, "tools": [ServerTool(dialect=OURS, value={"type": "mcp"})]}, "tools"),
    ],
)
def test_what_would_change_the_meaning_is_refused(members, param):
    with pytest.raises(blocks.Unsupported) as caught:
        written(**members)
    assert caught.value.param == param


def test_on_credits_no_file_of_an_account_is_named():
    for block in (Image(file_id="file-1"), Document(file_id="file-1"), Document(url="https://x.test")):
        with pytest.raises(blocks.Unsupported):
            written(Message("user", [block]), order={"credits": True})


def test_on_credits_the_price_stays_and_a_small_limit_stays_small():
    body, sent = written(
        max_output=9,
        service_tier="priority",
        extra={"prompt_cache_options": {"ttl": "12h"}},
        order={"credits": True, "max_output": 5, "repriced_by": frozenset({"service_tier"})},
    )
    assert body["max_output_tokens"] == 5
    assert "service_tier" not in body
    assert sent.dropped == ["service_tier", "prompt_cache_options"]


# --- answers --------------------------------------------------------------------------------------------------------


def asked(**members):
    return read(json.dumps({"model": "claude", "input": "hi", "stream": True} | members).encode())


USAGE = Usage(
    input_tokens=10,
    output_tokens=5,
    cache_read_input_tokens=4,
    cache_creation_input_tokens=3,
    cache_creation_1h_input_tokens=1,
    reasoning_output_tokens=2,
)
CITED = {"start_index": 0, "end_index": 5, "title": "X", "url": "https://x.test"}
EVENTS = [
    Started("msg_1", "claude", 1_700_000_001),
    Opened(0, Thinking(dialect="anthropic")),
    ThinkingDelta(0, "Let me"),
    ThinkingDelta(0, " see."),
    SignatureDelta(0, "SIG"),
    Closed(0),
    Opened(1, Text()),
    TextDelta(1, "Hello"),
    CitationDelta(1, CITED),
    Closed(1),
    Opened(2, Text()),
    TextDelta(2, " world"),
    Closed(2),
    Opened(3, Redacted(data="DATA", dialect="anthropic")),
    Closed(3),
    Opened(4, ToolCall(id="toolu_1", name="f", signature="GS", dialect="gemini")),
    ArgumentsDelta(4, '{"a"'),
    ArgumentsDelta(4, ":1}"),
    Closed(4),
    Opened(5, ToolCall(id="toolu_2", name="f")),
    Closed(5),
    Finished(Finish(reason="tool_calls", native="tool_use")),
    Metered(USAGE),
    Ended(),
]


def streamed(events, request=None):
    writer = StreamWriter(request or asked(), CONTEXT)
    return b"".join(writer.write(event) for event in events)


def parsed(raw):
    return [json.loads(frame.split(b"data: ", 1)[1]) for frame in raw.strip().split(b"\n\n")]


def test_every_event_is_valid_numbered_and_named():
    raw = streamed(EVENTS)
    found = parsed(raw)
    for number, event in enumerate(found):
        EVENT.validate_python(event, strict=True)
        assert event["sequence_number"] == number
    assert [line[7:].decode() for line in raw.splitlines() if line.startswith(b"event: ")] == [e["type"] for e in found]
    assert [event["type"] for event in found[:6]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.delta",
    ]
    assert found[-1]["type"] == "response.completed"


def test_the_items_of_a_stream_are_those_of_its_last_event():
    found = parsed(streamed(EVENTS))
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    added = [event["item"]["id"] for event in found if event["type"] == "response.output_item.added"]
    last = found[-1]["response"]

    assert last["output"] == done
    assert [item["id"] for item in done] == added
    assert [item["type"] for item in done] == [
        "reasoning",
        "message",
        "reasoning",
        "reasoning",
        "function_call",
        "function_call",
    ]
    assert [part["text"] for part in done[1]["content"]] == ["Hello", " world"]
    assert done[1]["content"][0]["annotations"] == [{"type": "url_citation", **CITED}]
    assert [(item["call_id"], item["arguments"]) for item in done[4:]] == [("toolu_1", '{"a":1}'), ("toolu_2", "{}")]
    assert last["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {
            "cached_tokens": 4,
            "cache_write_tokens": 3,
            "cache_write_tokens_details": {"ttl_30m_tokens": 2, "ttl_12h_tokens": 1},
        },
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }


def test_openais_sdk_puts_the_stream_together():
    raw = streamed(EVENTS)
    with client(raw, "text/event-stream").responses.stream(model="claude", input="hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()

    assert final.output_text == "Hello world"
    assert [item.arguments for item in final.output if item.type == "function_call"] == ['{"a":1}', "{}"]
    assert kinds.count("response.function_call_arguments.delta") == 3
    assert final.usage.total_tokens == 15


def client(raw, content_type):
    def handle(request):
        return httpx2.Response(200, content=raw, headers={"content-type": content_type})

    transport = httpx2.MockTransport(handle)
    return openai.OpenAI(api_key="k", base_url="http://x.test", http_client=httpx2.Client(transport=transport))


def test_what_a_client_sends_back_is_what_the_vendors_said():
    items = parsed(streamed(EVENTS))[-1]["response"]["output"]
    again = decode_request(asked(input=[{"role": "user", "content": "hi"}, *items]))

    assert again.messages[1].blocks == [
        Thinking(text="Let me see.", signature="SIG", dialect="anthropic"),
        Text("Hello"),
        Text(" world"),
        Redacted(data="DATA", dialect="anthropic"),
        ToolCall(id="toolu_1", name="f", arguments='{"a":1}', signature="GS", dialect="gemini"),
        ToolCall(id="toolu_2", name="f", arguments="{}"),
    ]


def gathered(events):
    gatherer = blocks.Gatherer(1_000_000)
    for event in events:
        gatherer.take(event)
    return gatherer.answer


def test_a_whole_answer_is_the_response_of_its_stream():
    whole = json.loads(answer(gathered(EVENTS), asked(), CONTEXT))
    Response.model_validate(whole)
    assert whole == parsed(streamed(EVENTS))[-1]["response"]


def test_a_stream_of_ours_can_be_read_again():
    decoder = StreamDecoder()
    read_again = gathered([*decoder.feed(streamed(EVENTS)), *decoder.end()])
    assert (read_again.usage, read_again.finish.reason) == (USAGE, "tool_calls")
    assert [block for block in read_again.blocks if isinstance(block, Text | ToolCall)] == [
        Text("Hello", citations=[CITED]),
        Text(" world"),
        ToolCall(id="toolu_1", name="f", arguments='{"a":1}'),
        ToolCall(id="toolu_2", name="f", arguments="{}"),
    ]


def test_a_response_repeats_its_request():
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}]
    request = asked(instructions="Be.", tools=tools, temperature=0.5, metadata={"a": "b"}, max_output_tokens=9)
    whole = json.loads(answer(Answer(blocks=[Text("a")]), request, CONTEXT))

    assert (whole["id"], whole["model"], whole["created_at"]) == ("resp_0a1b2c", "claude", 1_700_000_000)
    assert (whole["instructions"], whole["tools"], whole["metadata"]) == ("Be.", tools, {"a": "b"})
    assert (whole["temperature"], whole["max_output_tokens"], whole["store"]) == (0.5, 9, False)


@pytest.mark.parametrize(
    ("reason", "kind", "details"),
    [
        ("stop", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_why_an_answer_ended_is_its_status(reason, kind, details):
    events = [Opened(0, Text()), TextDelta(0, "a"), Closed(0), Finished(Finish(reason=reason)), Ended()]
    last = parsed(streamed(events))[-1]
    assert (last["type"], last["response"]["status"]) == (f"response.{kind}", kind)
    assert last["response"]["incomplete_details"] == details
    assert last["response"]["output"][0]["status"] == kind


def test_a_refusal_is_a_part_of_its_own_kind():
    events = [Started(), Opened(0, Refusal()), TextDelta(0, "No."), Closed(0), Finished(Finish(reason="stop")), Ended()]
    found = parsed(streamed(events))
    for event in found:
        EVENT.validate_python(event, strict=True)
    assert found[-1]["response"]["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]


def test_a_provider_that_only_says_why_it_refuses_is_heard():
    finish = Finish(reason="content_filter", message="Against the rules.")
    last = parsed(streamed([Started(), Finished(finish), Ended()]))[-1]["response"]
    assert last["output"][0]["content"] == [{"type": "refusal", "refusal": "Against the rules."}]


def test_a_failure_is_an_error_for_the_sdk_and_a_failed_response():
    raw = streamed([Started(), Opened(0, Text()), TextDelta(0, "a"), Failed("Overloaded.", "overloaded", 503)])
    with pytest.raises(openai.APIError, match="Overloaded"):
        list(client(raw, "text/event-stream").responses.create(model="m", input="hi", stream=True))

    found = parsed(raw)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert (found[-1]["type"], found[-1]["response"]["id"]) == ("response.failed", "resp_0a1b2c")
    for event in found:
        EVENT.validate_python(event, strict=True)


def test_nothing_is_written_after_the_end():
    writer = StreamWriter(asked(), CONTEXT)
    for event in EVENTS:
        writer.write(event)
    assert writer.write(Opened(9, Text())) == writer.write(Ended()) == b""


def test_a_custom_tool_that_was_shown_as_a_function_comes_back_as_one():
    request = asked(tools=[{"type": "custom", "name": "patch"}])
    call = [
        Opened(0, ToolCall(id="c", name="patch")),
        ArgumentsDelta(0, '{"inp'),
        ArgumentsDelta(0, 'ut":"*** Begin"}'),
    ]
    found = parsed(streamed([*call, Closed(0), Finished(Finish(reason="tool_calls")), Ended()], request))
    for event in found:
        EVENT.validate_python(event, strict=True)

    assert [event["type"] for event in found[2:6]] == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ]
    item = found[-1]["response"]["output"][0]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", "*** Begin")


def test_a_call_of_a_namespace_and_a_search_for_tools_are_as_the_client_knows_them():
    request = asked(
        tools=[
            {
                "type": "namespace",
                "name": "agents",
                "description": "d",
                "tools": [{"type": "function", "name": "wait"}],
            },
            {"type": "tool_search", "execution": "client"},
        ]
    )
    made = Answer(
        blocks=[
            ToolCall(id="c1", name="agents__wait", arguments="{}"),
            ToolCall(id="c2", name="tool_search", arguments='{"goal":"x"}'),
        ],
        finish=Finish(reason="tool_calls"),
    )
    whole = json.loads(answer(made, request, CONTEXT))
    Response.model_validate(whole)
    first, second = whole["output"]

    assert (first["namespace"], first["name"]) == ("agents", "wait")
    assert (second["type"], second["arguments"], second["call_id"]) == ("tool_search_call", {"goal": "x"}, "c2")


def test_an_image_that_was_made_is_an_item():
    whole = json.loads(answer(Answer(blocks=[Image(media_type="image/png", data="QQ==")]), asked(), CONTEXT))
    Response.model_validate(whole)
    assert (whole["output"][0]["type"], whole["output"][0]["result"]) == ("image_generation_call", "QQ==")
