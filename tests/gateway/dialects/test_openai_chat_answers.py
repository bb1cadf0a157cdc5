"""Promises of chat completions' answers, to blocks and from them: nothing is lost or overlaps, SDKs understand it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from billing.usage import Usage
from gateway.dialects import blocks, openai_chat, openai_chat_decode, openai_chat_encode, translation, wire
from gateway.dialects.blocks import (
    Answer,
    Closed,
    Ended,
    Failed,
    Finish,
    Finished,
    Image,
    Metered,
    Opened,
    Redacted,
    Refusal,
    Started,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
)
from gateway.dialects.openai_chat_lanes import MAX_WAITING

CONTEXT = wire.Context("abc", 1_700_000_000)
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def asked(**members):
    body = {"model": "asked-model", "messages": [{"role": "user", "content": "x"}], "stream": True} | members
    return openai_chat.read(json.dumps(body).encode())


WITH_USAGE = asked(stream_options={"include_usage": True})


def chunk(delta=None, reason=None, **members):
    choices = [] if delta is None and reason is None else [{"index": 0, "delta": delta or {}, "finish_reason": reason}]
    value = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": choices}
    return b"data: " + json.dumps(value | members).encode() + b"\n\n"


def call(index, id=None, name=None, arguments=None, **members):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{"index": index, "function": function, **({"id": id} if id else {}), **members}]}


def events(*parts, done=True):
    decoder = openai_chat_decode.StreamDecoder()
    found = decoder.feed(b"".join(parts) + (openai_chat.DONE if done else b"")) + decoder.end()
    check_order(found)
    return found


def check_order(found):
    """Blocks are numbered from 0 and never overlap; the end comes once and last."""
    opened = None
    count = 0
    for position, event in enumerate(found):
        if isinstance(event, Opened):
            assert opened is None
            assert event.index == count
            opened, count = count, count + 1
        elif isinstance(event, Closed):
            assert event.index == opened
            opened = None
        elif hasattr(event, "index"):
            assert event.index == opened
        elif isinstance(event, Finished | Ended):
            assert opened is None
            assert isinstance(event, Finished) or position == len(found) - 1


def gathered(found):
    gatherer = blocks.Gatherer(wire.MAX_KEPT_BYTES)
    for event in found:
        gatherer.take(event)
    return gatherer.answer


def streamed(found, request=WITH_USAGE):
    """Return the chunks that a client gets for events, each checked against the SDK's own type."""
    writer = openai_chat_encode.StreamWriter(request, CONTEXT)
    body = b"".join(writer.write(event) for event in found)
    assert body.endswith(b"\n\n")
    parts = body.split(b"\n\n")[:-1]
    chunks = [json.loads(part.removeprefix(b"data: ")) for part in parts if part != b"data: [DONE]"]
    for value in chunks:
        if "error" not in value:
            ChatCompletionChunk.model_validate(value)
    return chunks


def accumulated(chunks):
    """Return what the SDK's own accumulator makes of chunks."""
    state = ChatCompletionStreamState()
    for value in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(value))
    return state.current_completion_snapshot.model_dump()


def written(answer, request=WITH_USAGE):
    return json.loads(openai_chat_encode.answer(answer, request, CONTEXT))


# --- Reading a stream -----------------------------------------------------------------------------------------------


def test_a_stream_of_text():
    found = events(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk(reason="stop"),
        chunk(usage=USAGE),
    )

    assert found == [
        Started("chatcmpl-1", "m", 5),
        Opened(0, Text()),
        TextDelta(0, "Hel"),
        TextDelta(0, "lo"),
        Metered(Usage(input_tokens=7, output_tokens=5)),
        Closed(0),
        Finished(Finish(reason="stop", native="stop")),
        Ended(),
    ]


def test_reasoning_text_and_calls_are_blocks_of_their_own():
    for name in ("reasoning", "reasoning_content"):
        answer = gathered(
            events(
                chunk({"role": "assistant", name: "hm"}),
                chunk({name: "m"}),
                chunk({"content": "a"}),
                chunk(call(0, "call_1", "f", "")),
                chunk(call(0, arguments='{"x":1}')),
                chunk(reason="tool_calls"),
            )
        )
        assert answer.blocks == [
            Thinking(text="hmm", dialect="openai_chat"),
            Text("a"),
            ToolCall(id="call_1", name="f", arguments='{"x":1}'),
        ]
        assert answer.finish.reason == "tool_calls"


def test_calls_one_after_the_other_are_not_held_back():
    decoder = openai_chat_decode.StreamDecoder()
    decoder.feed(chunk(call(0, "a", "f", '{"x": "}\\"{"')))
    decoder.feed(chunk(call(0, arguments="}")))

    assert decoder.feed(chunk(call(1, "b", "g", "{"))) == [
        Closed(0),
        Opened(1, ToolCall(id="b", name="g")),
        blocks.ArgumentsDelta(1, "{"),
    ]


def test_interleaved_calls_are_put_in_order():
    found = events(
        chunk(call(0, "a", "f", '{"x"')),
        chunk(call(1, "b", "g", "{")),
        chunk(call(0, arguments=":1")),
        chunk(call(1, arguments="}")),
        chunk({"content": "beside"}),
        chunk(call(0, arguments="}")),
        chunk(call(1, arguments=" ")),
        chunk(reason="tool_calls"),
    )

    assert gathered(found).blocks == [
        ToolCall(id="a", name="f", arguments='{"x":1}'),
        ToolCall(id="b", name="g", arguments="{} "),
        Text("beside"),
    ]


def test_a_call_without_arguments_holds_the_next_one_back_to_the_end():
    found = events(chunk(call(0, "a", "f")), chunk(call(1, "b", "g", "{}")), chunk(reason="tool_calls"))

    assert gathered(found).blocks == [ToolCall(id="a", name="f"), ToolCall(id="b", name="g", arguments="{}")]


def test_what_waits_is_bounded():
    decoder = openai_chat_decode.StreamDecoder()
    decoder.feed(chunk(call(0, "a", "f", "{")) + chunk(call(1, "b", "g", "{")))

    with pytest.raises(wire.InvalidStream):
        decoder.feed(chunk(call(1, arguments="x" * 1000)) * (MAX_WAITING // 1000))


def test_calls_that_all_have_the_index_0_or_none_are_told_apart():
    for index in (0, None):
        found = events(chunk(call(index, "a", "f", "{}")), chunk(call(index, "b", "g", "{}")), chunk(reason="stop"))
        answer = gathered(found)
        assert [block.id for block in answer.blocks] == ["a", "b"]
        assert answer.finish.reason == "tool_calls"


def test_a_call_whose_id_is_repeated_is_one_call():
    for index in (0, None):
        found = events(
            chunk(call(index, "a", "f", "{")), chunk(call(index, "a", arguments="}")), chunk(reason="tool_calls")
        )
        assert gathered(found).blocks == [ToolCall(id="a", name="f", arguments="{}")]


def test_a_call_without_an_id_gets_one_of_its_own():
    found = events(chunk(call(0, None, "f", "{}")), chunk(call(1, None, "g", "{}")), chunk(reason="tool_calls"))
    ids = [block.id for block in gathered(found).blocks]

    assert ids == ["call_chatcmpl-1_0", "call_chatcmpl-1_1"]


def test_a_name_that_comes_late_is_waited_for():
    found = events(
        chunk(call(0, "a", arguments="{")), chunk(call(0, name="f", arguments="}")), chunk(reason="tool_calls")
    )

    assert gathered(found).blocks == [ToolCall(id="a", name="f", arguments="{}")]


def test_a_legacy_function_call_is_a_tool_call():
    found = events(
        chunk({"function_call": {"name": "f", "arguments": ""}}),
        chunk({"function_call": {"arguments": "{}"}}),
        chunk(reason="function_call"),
    )
    answer = gathered(found)

    assert answer.blocks == [ToolCall(id="call_chatcmpl-1_0", name="f", arguments="{}")]
    assert answer.finish == Finish(reason="tool_calls", native="function_call")


def test_geminis_signature_of_a_call_is_kept():
    signed = call(0, "a", "f", "{}", extra_content={"google": {"thought_signature": "c2ln"}})

    assert gathered(events(chunk(signed), chunk(reason="stop"))).blocks == [
        ToolCall(id="a", name="f", arguments="{}", signature="c2ln", dialect="gemini")
    ]


def test_mistrals_lists_are_thinking_and_text():
    found = events(
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        chunk({"content": [{"type": "text", "text": "4"}]}),
        chunk(reason="stop"),
    )

    assert gathered(found).blocks == [Thinking(text="hm", dialect="openai_chat"), Text("4")]


def test_openrouters_details_images_and_second_reason_to_finish():
    found = events(
        chunk({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 0}]}),
        chunk({"reasoning_details": [{"type": "reasoning.text", "text": "", "signature": "s", "index": 0}]}),
        chunk({"content": "4", "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}),
        chunk(reason="stop"),
        chunk({"content": ""}, reason="stop", usage=USAGE),
    )

    assert gathered(found).blocks == [
        Thinking(text="hm", signature="s", dialect="openai_chat"),
        Text("4"),
        Image(media_type="image/png", data="aGk="),
    ]
    assert sum(isinstance(event, Finished) for event in found) == 1


def test_citations_are_those_of_the_text():
    citation = {"url": "https://e.org", "title": "E", "start_index": 0, "end_index": 1}
    found = events(
        chunk({"content": "a"}),
        chunk({"annotations": [{"type": "url_citation", "url_citation": citation}]}),
        chunk(reason="stop"),
    )

    assert gathered(found).blocks == [Text("a", citations=[citation])]


def test_azures_first_chunk_and_other_choices_say_nothing():
    first = b'data: {"id":"","object":"","model":"","created":0,"choices":[],"prompt_filter_results":[]}\n\n'
    other = chunk(choices=[{"index": 1, "delta": {"content": "B"}, "finish_reason": None}])
    found = events(first, chunk({"content": "a"}), other, chunk(reason="stop"))

    assert found[0] == Started("chatcmpl-1", "m", 5)
    assert gathered(found).blocks == [Text("a")]


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("content_filter", "content_filter"),
        ("function_call", "tool_calls"),
    ],
)
def test_reasons_to_finish_are_openais(native, reason):
    assert gathered(events(chunk({"content": "a"}), chunk(reason=native))).finish == Finish(
        reason=reason, native=native
    )


def test_an_end_without_a_last_word_counts_only_after_a_reason():
    whole = (chunk({"content": "a"}), chunk(reason="stop"))

    assert isinstance(events(*whole, done=False)[-1], Ended)
    assert not any(isinstance(event, Finished | Ended) for event in events(whole[0], done=False))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"error":{"message":"no","code":"bad","type":"x"}}', Failed("no", code="bad")),
        (b'{"error":{"message":"no","code":502}}', Failed("no", status=502)),
        (b'[{"error":{"message":"no","code":429}}]', Failed("no", status=429)),
        (b'{"error":"no"}', Failed("no")),
        (b'{"choices":[{"index":0,"delta":{},"error":{"message":"no"},"finish_reason":"error"}]}', Failed("no")),
        (b'{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}', Failed("The provider reported an error.")),
    ],
)
def test_an_error_ends_a_stream(data, expected):
    found = events(chunk({"content": "a"}), b"event: error\ndata: " + data + b"\n\n", chunk({"content": "b"}))

    assert found[-1] == expected


def test_a_stream_is_read_the_same_however_it_is_cut():
    body = b"".join(
        [
            b": a comment\r\n\r\n",
            chunk({"role": "assistant", "reasoning_content": "ü\u2028"}).replace(b"\n", b"\r\n"),
            chunk({"content": "é😀"}),
            chunk(call(0, "a", "f", '{"x"')),
            chunk(call(1, "b", "g", "{}")),
            chunk(call(0, arguments=":1}")),
            chunk({}, "tool_calls", usage=USAGE),
            openai_chat.DONE,
        ]
    )
    expected = events(body, done=False)
    for size in range(1, len(body)):
        decoder = openai_chat_decode.StreamDecoder()
        found = [event for at in range(0, len(body), size) for event in decoder.feed(body[at : at + size])]
        assert found + decoder.end() == expected


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoder(noise):
    decoder = openai_chat_decode.StreamDecoder()
    found = decoder.feed(chunk({"content": "a"}))
    check_order(found + decoder.feed(b"data: " + noise + b"\n\n") + decoder.end())
    assert isinstance(openai_chat_decode.answer(noise), Answer)


# --- Reading a whole answer -----------------------------------------------------------------------------------------


def test_a_whole_answer():
    message = {
        "role": "assistant",
        "content": "a",
        "tool_calls": [{"id": "x", "type": "custom", "custom": {"name": "c", "input": "ls"}}],
    }
    answer = openai_chat_decode.answer(whole(message, "tool_calls", usage=USAGE, service_tier="flex"))

    assert (answer.id, answer.model, answer.created, answer.service_tier) == ("chatcmpl-1", "m", 5, "flex")
    assert answer.blocks == [Text("a"), ToolCall(id="x", name="c", arguments="ls", custom=True)]
    assert answer.finish == Finish(reason="tool_calls", native="tool_calls")
    assert answer.usage == Usage(input_tokens=7, output_tokens=5)
    assert answer.error is None


def whole(message, reason="stop", **members):
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    value = {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "m", "choices": choices}
    return json.dumps(value | members).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"error":{"message":"no"}}',
        b'{"base_resp":{"status_code":1,"status_msg":"no"}}',
        b'{"choices":[{"error":{"message":"no"},"index":0}]}',
    ],
)
def test_what_is_no_answer_says_why(body):
    assert openai_chat_decode.answer(body).error


# --- Writing --------------------------------------------------------------------------------------------------------


def test_a_stream_is_written_as_openai_writes_it():
    usage = Usage(input_tokens=9, output_tokens=4, cache_read_input_tokens=3, reasoning_output_tokens=2)
    found = [
        Started(),
        Opened(0, Text()),
        TextDelta(0, "Hi"),
        Closed(0),
        Finished(Finish(reason="stop")),
        Metered(usage, "flex"),
        Ended(),
    ]
    first, text, finish, last = streamed(found)

    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (first["id"], first["model"], first["created"]) == ("chatcmpl-abc", "asked-model", 1_700_000_000)
    assert text["choices"] == [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]
    assert finish["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert all(part["usage"] is None for part in (first, text, finish))
    assert (last["choices"], last["service_tier"]) == ([], "flex")
    assert last["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert all("usage" not in part for part in streamed(found, asked()))


def test_only_tool_calls_of_the_client_have_an_index():
    opaque = blocks.Opaque(dialect="anthropic", value={"type": "server_tool_use"})
    answer = Answer(
        blocks=[opaque, ToolCall(id="a", name="f", arguments='{"x":1}'), opaque, ToolCall(id="b", name="g")],
        finish=Finish(reason="tool_calls"),
    )
    message = accumulated(streamed(blocks.events(answer)))["choices"][0]["message"]

    assert [(each["id"], each["function"]["arguments"]) for each in message["tool_calls"]] == [
        ("a", '{"x":1}'),
        ("b", "{}"),
    ]
    assert [each["function"] for each in written(answer)["choices"][0]["message"]["tool_calls"]] == [
        {"name": "f", "arguments": '{"x":1}'},
        {"name": "g", "arguments": "{}"},
    ]


def test_reasoning_is_written_so_that_it_can_come_back():
    thoughts = [
        Thinking(text="hm", signature="c2ln", dialect="anthropic"),
        Redacted(data="ZGF0YQ==", dialect="anthropic"),
        Redacted(data="e30=", dialect="openai_responses", id="rs_1", text="short"),
    ]
    answer = Answer(blocks=[*thoughts, Text("4")], finish=Finish(reason="stop"))
    message = accumulated(streamed(blocks.events(answer)))["choices"][0]["message"]
    unary = written(answer)["choices"][0]["message"]

    assert message["reasoning_content"] == unary["reasoning_content"] == "hmshort"
    assert unary["thinking_blocks"] == [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {
            "type": "redacted_thinking",
            "data": "e30=",
            "dialect": "openai_responses",
            "id": "rs_1",
            "summary": "short",
        },
    ]
    for said in (message, unary):  # the message goes back as it came
        body = {"model": "m", "messages": [{"role": "assistant"} | said]}
        request = openai_chat_decode.request(openai_chat.read(json.dumps(body).encode()))
        assert request.messages[0].blocks == [*thoughts, Text("4")]


def test_reasoning_without_a_signature_is_only_text():
    answer = Answer(blocks=[Thinking(text="hm", dialect="openai_chat")], finish=Finish(reason="stop"))

    assert written(answer)["choices"][0]["message"] == {
        "role": "assistant",
        "content": "",
        "refusal": None,
        "reasoning_content": "hm",
    }
    assert not any("thinking_blocks" in str(part) for part in streamed(blocks.events(answer)))


def test_a_signature_of_gemini_goes_out_in_both_places():
    answer = Answer(blocks=[ToolCall(id="a", name="f", arguments="{}", signature="c2ln", dialect="gemini")])
    [unary] = written(answer)["choices"][0]["message"]["tool_calls"]

    assert unary["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    assert unary["provider_specific_fields"] == {"thought_signature": "c2ln"}


def test_citations_count_from_the_beginning_of_the_content():
    citation = {"url": "https://e.org", "title": "E", "start_index": 0, "end_index": 3}
    answer = Answer(blocks=[Text("first "), Text("two", citations=[citation])], finish=Finish(reason="stop"))
    expected = citation | {"start_index": 6, "end_index": 9}

    assert written(answer)["choices"][0]["message"]["annotations"] == [
        {"type": "url_citation", "url_citation": expected}
    ]
    [sent] = accumulated(streamed(blocks.events(answer)))["choices"][0]["message"]["annotations"]
    assert sent["url_citation"] == expected


def test_a_refusal_is_one_and_content_is_null_beside_it():
    refused = Answer(blocks=[Refusal("no")], finish=Finish(reason="stop"))
    explained = Answer(finish=Finish(reason="content_filter", message="because"))

    assert (message_of(refused)["refusal"], message_of(refused)["content"]) == ("no", None)
    assert message_of(explained)["refusal"] == "because"
    assert accumulated(streamed(blocks.events(explained)))["choices"][0]["message"]["refusal"] == "because"


def message_of(answer, request=WITH_USAGE):
    return written(answer, request)["choices"][0]["message"]


def test_who_sends_functions_gets_a_function_call():
    request = asked(functions=[{"name": "f"}])
    answer = Answer(
        blocks=[ToolCall(id="a", name="f", arguments='{"x":1}'), ToolCall(id="b", name="f")],
        finish=Finish(reason="tool_calls"),
    )
    value = written(answer, request)
    final = accumulated(streamed(blocks.events(answer), request))["choices"][0]

    assert value["choices"][0]["finish_reason"] == final["finish_reason"] == "function_call"
    assert value["choices"][0]["message"]["function_call"] == {"name": "f", "arguments": '{"x":1}'}
    assert final["message"]["function_call"] == {"name": "f", "arguments": '{"x":1}'}
    assert not final["message"].get("tool_calls")


def test_a_tool_that_takes_text_gets_text_where_it_had_become_a_function():
    request = asked(tools=[{"type": "custom", "custom": {"name": "shell"}}])
    answer = Answer(
        blocks=[ToolCall(id="a", name="shell", arguments='{"input":"ls -l"}')], finish=Finish(reason="tool_calls")
    )
    expected = {"name": "shell", "input": "ls -l"}

    assert message_of(answer, request)["tool_calls"] == [{"id": "a", "type": "custom", "custom": expected}]
    writer = openai_chat_encode.StreamWriter(request, CONTEXT)
    body = b"".join(writer.write(event) for event in blocks.events(answer))
    assert gathered(events(body, done=False)).blocks == [ToolCall(id="a", name="shell", arguments="ls -l", custom=True)]


def test_images_and_sound_go_out():
    answer = Answer(
        blocks=[Image(media_type="image/png", data="aGk="), blocks.Audio(data="aGk=", format="wav")],
        finish=Finish(reason="stop"),
    )
    message = message_of(answer)

    assert message["images"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]
    assert message["audio"]["data"] == "aGk="
    ChatCompletion.model_validate(written(answer))
    assert accumulated(streamed(blocks.events(answer)))["choices"][0]["message"]["images"][0]["image_url"]


def test_a_failure_is_in_the_stream_and_the_last_of_it():
    writer = openai_chat_encode.StreamWriter(WITH_USAGE, CONTEXT)
    body = writer.write(Failed("gone", code="overloaded", status=529))

    assert json.loads(body[6:])["error"]["message"] == "gone"
    assert writer.write(Ended()) == b""
    assert streamed([Started(), Finished(Finish(reason="error", message="bad call"))])[-1]["error"]["message"] == (
        "bad call"
    )


def test_text_that_is_written_while_it_comes_is_not_held_back():
    writer = openai_chat_encode.StreamWriter(asked(), CONTEXT)
    decoder = openai_chat_decode.StreamDecoder()
    decoder.feed(chunk({"role": "assistant", "content": ""}))

    for number in range(3):
        written_now = b"".join(writer.write(event) for event in decoder.feed(chunk({"content": str(number)})))
        assert json.loads(written_now.split(b"\n\n")[-2][6:])["choices"][0]["delta"] == {"content": str(number)}


# --- There and back -------------------------------------------------------------------------------------------------

WORDS = st.text(min_size=1, max_size=12)
NAMES = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
OBJECTS = st.dictionaries(WORDS, WORDS | st.integers() | st.lists(WORDS, max_size=2), max_size=3).map(json.dumps)
SIGNED = st.builds(
    Thinking, text=st.text(max_size=9), signature=WORDS, dialect=st.sampled_from(["anthropic", "gemini"])
)
SEALED = st.builds(
    Redacted, data=WORDS, dialect=st.sampled_from(["anthropic", "openai_responses"]), id=st.none() | NAMES, text=WORDS
)
CITATIONS = st.lists(
    st.fixed_dictionaries(
        {
            "url": WORDS,
            "title": WORDS,
            "start_index": st.integers(0, 9),
            "end_index": st.integers(0, 9),
        }
    ),
    min_size=1,
    max_size=2,
)
TEXTS = st.builds(Text, text=WORDS, citations=st.none() | CITATIONS)
IMAGES = st.builds(Image, media_type=st.just("image/png"), data=st.just("aGk="))
CALLS = st.builds(ToolCall, id=NAMES, name=NAMES, arguments=OBJECTS, custom=st.just(False)) | st.builds(
    ToolCall,
    id=NAMES,
    name=NAMES,
    arguments=OBJECTS,
    custom=st.just(False),
    signature=WORDS,
    dialect=st.just("gemini"),
)
USAGES = st.builds(
    lambda read, wrote, rest, thought, said: Usage(
        input_tokens=read + wrote + rest,
        output_tokens=thought + said,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=wrote,
        reasoning_output_tokens=thought,
    ),
    *[st.integers(0, 9) for _ in range(4)],
    st.integers(1, 9),
)


@st.composite
def answers(draw):
    """Answers whose blocks stand in the order that a chat message has."""
    calls = draw(st.lists(CALLS, max_size=3, unique_by=lambda call: call.id))
    text = draw(st.lists(TEXTS, max_size=1))
    images = draw(st.lists(IMAGES, max_size=2))
    thoughts = draw(st.lists(SIGNED | SEALED, max_size=3))
    return Answer(
        id="chatcmpl-9",
        model="m",
        created=5,
        blocks=[*thoughts, *text, *images, *calls],
        finish=Finish(reason="tool_calls" if calls else "stop", native="tool_calls" if calls else "stop"),
        usage=draw(USAGES),
    )


@given(answers())
def test_an_answer_comes_back_as_it_went_out(answer):
    body = openai_chat_encode.answer(answer, WITH_USAGE, CONTEXT)

    ChatCompletion.model_validate_json(body)
    assert openai_chat_decode.answer(body) == answer


@given(answers(), st.integers(1, 200))
def test_a_stream_comes_back_as_it_went_out(answer, size):
    body = translation.streamed(answer, openai_chat_encode.StreamWriter(WITH_USAGE, CONTEXT))
    decoder = openai_chat_decode.StreamDecoder()
    found = [event for at in range(0, len(body), size) for event in decoder.feed(body[at : at + size])]
    found += decoder.end()

    check_order(found)
    assert gathered(found) == answer


@given(answers())
def test_the_sdk_puts_a_stream_together_to_the_same_message(answer):
    message = accumulated(streamed(blocks.events(answer)))["choices"][0]["message"]
    request = openai_chat_decode.request(
        openai_chat.read(json.dumps({"model": "m", "messages": [{"role": "assistant"} | message]}).encode())
    )
    expected = [Text(block.text) if isinstance(block, Text) else block for block in answer.blocks]

    assert request.messages[0].blocks == expected


@given(st.lists(TEXTS | SIGNED | CALLS, max_size=6))
def test_a_stream_keeps_any_order_of_blocks(found):
    answer = Answer(id="a", model="m", created=5, blocks=found, finish=Finish(reason="stop"))
    body = translation.streamed(answer, openai_chat_encode.StreamWriter(WITH_USAGE, CONTEXT))
    again = events(body, done=False)

    assert [block for block in gathered(again).blocks if not isinstance(block, Text)] == [
        block for block in found if not isinstance(block, Text)
    ]
    assert [event.text for event in again if isinstance(event, TextDelta)] == [
        block.text for block in found if isinstance(block, Text)
    ]
    assert "".join(event.text for event in again if isinstance(event, ThinkingDelta)) == "".join(
        block.text for block in found if isinstance(block, Thinking)
    )


def test_who_sees_no_call_is_not_told_that_the_answer_ended_for_one():
    answer = Answer(blocks=[Text("done")], finish=Finish(reason="tool_calls", native="apply_patch"))
    whole_answer = json.loads(openai_chat_encode.answer(answer, asked(), CONTEXT))
    assert whole_answer["choices"][0]["finish_reason"] == "stop"
    writer = openai_chat_encode.StreamWriter(asked(), CONTEXT)
    stream = b"".join(writer.write(event) for event in blocks.events(answer))
    assert b'"finish_reason":"stop"' in stream
    assert b"tool_calls" not in stream


def test_a_choice_that_was_filtered_away_is_an_answer():
    body = b'{"choices":[{"index":0,"finish_reason":"content_filter","content_filter_results":{}}]}'
    answer = openai_chat_decode.answer(body)
    assert (answer.error, answer.finish.reason) == (None, "content_filter")
