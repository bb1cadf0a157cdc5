"""Promises of `gateway.dialects.gemini_decode`: what Google's clients send and its models answer, as blocks."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects import blocks, gemini_decode, gemini_seal
from gateway.dialects.blocks import Document, Image, Message, Text, Thinking, ToolCall, ToolResult
from gateway.dialects.wire import InvalidBody
from tests.gateway.dialects.gemini_cases import HELLO, RECORDED, array, asked, metered, pieces, said, sse


def decoded(**members):
    return gemini_decode.request(asked(**members))


def messages(*contents):
    return decoded(contents=list(contents)).messages


def user(*parts):
    return {"role": "user", "parts": list(parts)}


def model(*parts):
    return {"role": "model", "parts": list(parts)}


# --- requests -------------------------------------------------------------------------------------------------------


def test_parameters_have_the_names_of_chat_completions():
    request = decoded(
        system_instruction={"parts": [{"text": "Be brief."}]},
        generationConfig={
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 40.0,
            "maxOutputTokens": 99,
            "stopSequences": ["END"],
            "seed": 7,
            "presencePenalty": 0.1,
            "frequency_penalty": 0.2,
            "responseModalities": ["TEXT"],
        },
        serviceTier="flex",
        safetySettings=[{"category": "x"}],
    )

    assert request.system == [Text("Be brief.")]
    assert (request.temperature, request.top_p, request.top_k, request.max_output) == (0.5, 0.9, 40, 99)
    assert (request.stop, request.seed, request.presence_penalty, request.frequency_penalty) == (["END"], 7, 0.1, 0.2)
    assert (request.service_tier, request.modalities) == ("flex", ["text"])
    assert request.extra == {"safetySettings": [{"category": "x"}]}


def test_a_call_without_an_id_is_found_by_its_result():
    found = messages(
        user({"text": "weather?"}),
        model(
            {"functionCall": {"name": "weather", "args": {"city": "A"}}},
            {"functionCall": {"name": "time"}},
            {"functionCall": {"name": "weather", "args": {"city": "B"}}},
        ),
        user(
            {"functionResponse": {"name": "weather", "response": {"result": "sun"}}},
            {"function_response": {"name": "weather", "response": {"t": 3}}},
            {"functionResponse": {"name": "time", "response": {"error": "none"}}},
        ),
    )
    calls, results = found[1].blocks, found[2].blocks

    assert [(call.id, call.name, call.arguments) for call in calls] == [
        ("call_1", "weather", '{"city":"A"}'),
        ("call_2", "time", "{}"),
        ("call_3", "weather", '{"city":"B"}'),
    ]
    assert results == [
        ToolResult(id="call_1", name="weather", content=[Text("sun")]),
        ToolResult(id="call_3", name="weather", content=[Text('{"t":3}')]),
        ToolResult(id="call_2", name="time", content=[Text("none")], is_error=True),
    ]


def test_ids_that_a_client_sends_are_kept():
    found = messages(
        model({"functionCall": {"id": "toolu_9", "name": "f"}}),
        user({"functionResponse": {"id": "toolu_9", "name": "f", "response": {}}}),
    )

    assert found[0].blocks[0].id == found[1].blocks[0].id == "toolu_9"


def test_files_become_blocks_with_standard_base64():
    raw = b"\xfb\xff\xfe"
    url_safe = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    found = messages(
        user(
            {"inlineData": {"mimeType": "image/png", "data": url_safe}},
            {"inline_data": {"mime_type": "application/pdf", "data": "JVBE", "display_name": "a.pdf"}},
            {"inlineData": {"mimeType": "audio/mpeg", "data": "AAAA"}},
            {"fileData": {"mimeType": "image/png", "fileUri": "https://x.example/a.png"}},
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        )
    )[0].blocks

    assert found == [
        Image(media_type="image/png", data=base64.b64encode(raw).decode()),
        Document(media_type="application/pdf", data="JVBE", name="a.pdf"),
        blocks.Audio(data="AAAA", format="mp3"),
        Image(media_type="image/png", url="https://x.example/a.png"),
        Document(file_id="https://generativelanguage.googleapis.com/v1beta/files/abc"),
    ]


def test_a_stream_that_an_sdk_kept_event_by_event_is_one_message():
    sealed = gemini_seal.sealed(Thinking(signature="sIg==", dialect="anthropic"))
    found = messages(
        *HELLO,
        model({"text": "Let me ", "thought": True}),
        model({"text": "think.", "thought": True}),
        model({"text": "", "thought": True, "thoughtSignature": sealed}),
        model({"text": "Hel"}),
        model({"text": "lo"}),
        model({"text": ""}),
    )

    assert found[1:] == [
        Message("assistant", [Thinking(text="Let me think.", signature="sIg==", dialect="anthropic"), Text("Hello")])
    ]


def test_a_seal_survives_the_other_alphabet_of_base64():
    block = blocks.Redacted(data="~~~???>>>", dialect="anthropic", id="r1")
    sent_back = gemini_seal.sealed(block).replace("+", "-").replace("/", "_").rstrip("=")

    assert messages(model({"text": "", "thought": True, "thoughtSignature": sent_back}))[0].blocks == [block]


def test_googles_own_signatures_stay_googles():
    found = messages(
        model(
            {"text": "hm", "thought": True, "thoughtSignature": "QUJD"},
            {"functionCall": {"name": "f"}, "thoughtSignature": "REVG"},
            {"text": "", "thoughtSignature": "R0hJ"},
        )
    )[0].blocks

    assert found == [
        Thinking(text="hm", signature="QUJD", dialect="gemini"),
        ToolCall(id="call_1", name="f", arguments="{}", signature="REVG", dialect="gemini"),
        Thinking(signature="R0hJ", dialect="gemini"),
    ]


def test_functions_and_googles_own_tools_are_told_apart():
    request = decoded(
        tools=[
            {
                "functionDeclarations": [
                    {"name": "a", "parameters": {"type": "OBJECT", "properties": {"x": {"type": "STRING"}}}},
                    {"name": "b", "parameters_json_schema": {"type": "object"}},
                ]
            },
            {"google_search": {}},
            {"codeExecution": {}},
        ]
    )

    assert request.tools == [
        blocks.Tool(name="a", parameters={"type": "object", "properties": {"x": {"type": "string"}}}),
        blocks.Tool(name="b", parameters={"type": "object"}),
        blocks.ServerTool(dialect="gemini", value={"googleSearch": {}}, kind="web_search"),
        blocks.ServerTool(dialect="gemini", value={"codeExecution": {}}),
    ]


@pytest.mark.parametrize(
    ("config", "choice"),
    [
        ({"mode": "AUTO"}, blocks.Choice(mode="auto")),
        ({"mode": "NONE"}, blocks.Choice(mode="none")),
        ({"mode": "ANY"}, blocks.Choice(mode="required")),
        ({"mode": "ANY", "allowedFunctionNames": ["f"]}, blocks.Choice(mode="named", names=["f"])),
        (
            {"mode": "any", "allowed_function_names": ["f", "g"]},
            blocks.Choice(mode="allowed", names=["f", "g"], required=True),
        ),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["f"]}, blocks.Choice(mode="allowed", names=["f"])),
    ],
)
def test_a_choice_of_functions_is_understood(config, choice):
    assert decoded(toolConfig={"functionCallingConfig": config}).choice == choice


@pytest.mark.parametrize(
    ("config", "reasoning"),
    [
        ({"thinkingBudget": 0}, blocks.Reasoning(effort="none", mode="disabled", visible=False)),
        ({"thinking_budget": -1}, blocks.Reasoning(mode="adaptive", visible=False)),
        ({"thinkingBudget": 900, "includeThoughts": True}, blocks.Reasoning(budget=900, mode="enabled", visible=True)),
        ({"thinkingLevel": "LOW"}, blocks.Reasoning(effort="low", visible=False)),
    ],
)
def test_how_to_think_is_understood(config, reasoning):
    assert decoded(generationConfig={"thinkingConfig": config}).reasoning == reasoning


def test_a_schema_of_the_answer_is_json_schema():
    config = {
        "response_mime_type": "application/json",
        "response_schema": {"type": "ARRAY", "items": {"type": "INTEGER", "nullable": True}, "minItems": "2"},
    }

    assert decoded(generationConfig=config).format == blocks.Format(
        kind="json_schema",
        name="answer",
        schema={"type": "array", "items": {"type": ["integer", "null"]}, "minItems": 2},
    )
    assert decoded(generationConfig={"responseMimeType": "application/json"}).format == blocks.Format(
        kind="json_object"
    )


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"contents": [{"role": "robot", "parts": []}]}, "contents[0].role"),
        ({"contents": [model({"functionCall": {}})]}, "contents[0].parts[0].functionCall.name"),
        ({"contents": [user({"inlineData": {}})]}, "contents[0].parts[0].inlineData.data"),
        ({"generationConfig": {"temperature": "hot"}}, "generationConfig.temperature"),
        ({"generationConfig": {"stopSequences": "x"}}, "generationConfig.stopSequences"),
        ({"tools": [{"functionDeclarations": [{}]}]}, "tools"),
    ],
)
def test_malformed_content_is_refused_by_the_name_of_its_member(members, param):
    with pytest.raises(InvalidBody) as caught:
        decoded(**members)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"cachedContent": "cachedContents/1"}, "cachedContent"),
        ({"contents": [user({"inlineData": {"mimeType": "video/mp4", "data": "AA"}})]}, "contents[0].parts[0]"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "generationConfig.responseMimeType"),
    ],
)
def test_what_only_google_can_do_is_refused_instead_of_left_out(members, param):
    with pytest.raises(blocks.Unsupported) as caught:
        decoded(**members)
    assert caught.value.param == param


# --- answers --------------------------------------------------------------------------------------------------------


def streamed(stream, size=1_000_000):
    decoder = gemini_decode.StreamDecoder()
    events = [event for piece in pieces(stream, size) for event in decoder.feed(piece)]
    return events + decoder.end()


def gathered(events):
    gatherer = blocks.Gatherer(10_000_000)
    for event in events:
        gatherer.take(event)
    return gatherer.answer


def answered(*parts, **candidate):
    return gemini_decode.answer(json.dumps(said(*parts, **{"finishReason": "STOP"} | candidate)).encode())


def test_an_answer_becomes_blocks_in_its_order():
    found = answered(
        {"text": "hm", "thought": True},
        {"text": "Hello", "thoughtSignature": "c2ln"},
        {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2lnMg=="},
        {"functionCall": {"id": "own", "name": "g"}},
        {"inlineData": {"mimeType": "image/png", "data": "iVBO"}},
        {"executableCode": {"code": "1"}},
    )

    assert found.blocks == [
        Thinking(text="hm", dialect="gemini"),
        Text("Hello"),
        Thinking(signature="c2ln", dialect="gemini"),
        ToolCall(id="call_Abc-123_x_1", name="f", arguments='{"a":1}', signature="c2lnMg==", dialect="gemini"),
        ToolCall(id="own", name="g", arguments="{}"),
        Image(media_type="image/png", data="iVBO"),
        blocks.Opaque(dialect="gemini", value={"executableCode": {"code": "1"}}),
    ]
    assert (found.id, found.model) == ("Abc-123_x", "gemini-x-001")
    assert found.finish == blocks.Finish(reason="tool_calls", native="STOP")


def test_ids_of_calls_are_the_same_each_time_and_differ_within_and_between_answers():
    call = {"functionCall": {"name": "f"}}
    first = gemini_decode.answer(json.dumps({"candidates": said(call, call)["candidates"]}).encode())
    second = gemini_decode.answer(json.dumps({"candidates": said(call, call, call)["candidates"]}).encode())
    again = gemini_decode.answer(json.dumps({"candidates": said(call, call)["candidates"]}).encode())
    ids = [block.id for block in first.blocks + second.blocks]

    assert len(set(ids)) == 5
    assert first == again
    assert all(len(id) <= 40 and id.replace("_", "a").replace("-", "a").isalnum() for id in ids)


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("STOP", "stop"),
        (1, "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("A_WORD_OF_TOMORROW", "stop"),
    ],
)
def test_reasons_have_the_words_of_chat_completions(native, reason):
    assert answered({"text": "a"}, finishReason=native).finish.reason == reason


@pytest.mark.parametrize("native", ["MALFORMED_FUNCTION_CALL", "OTHER", "MISSING_THOUGHT_SIGNATURE"])
def test_an_answer_the_model_could_not_finish_is_an_error(native):
    found = answered({"text": "a"}, finishReason=native, finishMessage="It went wrong.")
    last = streamed(sse(said({"text": "a"}, finishReason=native)))[-1]

    assert found.error == "It went wrong."
    assert isinstance(last, blocks.Failed)
    assert native in last.message


def test_a_refused_prompt_ends_by_the_content_filter():
    raw = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 7}}
    whole, stream = gemini_decode.answer(json.dumps(raw).encode()), gathered(streamed(sse(raw)))

    assert whole == stream
    assert whole.finish == blocks.Finish(reason="content_filter", native="SAFETY")
    assert whole.usage == Usage(input_tokens=7)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'[{"error":{"code":429,"message":"Quota.","status":"RESOURCE_EXHAUSTED"}}]', "Quota."),
        (b"{}", "The provider's answer has no candidates."),
        (b"<html>", "The provider's answer is not JSON."),
    ],
)
def test_what_is_no_answer_has_an_error(raw, message):
    assert gemini_decode.answer(raw).error == message


def test_citations_count_characters_where_google_counts_bytes():
    grounding = {
        "groundingChunks": [{"web": {"uri": "https://a.example", "title": "A"}}],
        "groundingSupports": [
            {"segment": {"startIndex": 8, "endIndex": 13, "text": "sunny"}, "groundingChunkIndices": [0, 7]}
        ],
    }
    event = said({"text": "Grüße sunny"}, groundingMetadata=grounding, finishReason="STOP")

    assert gathered(streamed(sse(event, event))).blocks[0].citations[0] == {
        "start_index": 6, "end_index": 11, "title": "A", "url": "https://a.example",
    }  # fmt: skip


def test_metadata_that_comes_twice_cites_once():
    grounding = {
        "groundingChunks": [{"web": {"uri": "https://a.example"}}],
        "groundingSupports": [{"segment": {"endIndex": 3}, "groundingChunkIndices": [0]}],
    }
    events = [
        said({"text": "abc"}, groundingMetadata=grounding),
        said(groundingMetadata=grounding, finishReason="STOP"),
    ]

    assert len(gathered(streamed(sse(*events))).blocks[0].citations) == 1


# --- streams --------------------------------------------------------------------------------------------------------


def check_order(events):
    """Blocks are numbered from 0 and never overlap; the end comes once, at the end."""
    is_open, last = None, -1
    for event in events:
        if isinstance(event, blocks.Opened):
            assert is_open is None
            assert event.index == last + 1
            is_open = last = event.index
        elif isinstance(event, blocks.Closed):
            assert event.index == is_open
            is_open = None
        elif isinstance(event, blocks.Finished | blocks.Ended):
            assert is_open is None
        elif hasattr(event, "index"):
            assert event.index == is_open
    assert [type(event) for event in events].count(blocks.Ended) <= 1


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_is_the_same_events_however_it_was_cut(name):
    events = streamed(RECORDED[name])
    check_order(events)

    assert isinstance(events[0], blocks.Started)
    assert isinstance(events[-1], blocks.Ended)
    assert gathered(events).finish.reason == "tool_calls"
    for size in (1, 7, 64):
        assert streamed(RECORDED[name], size) == events


def test_recorded_arguments_in_pieces_become_whole():
    calls = [
        block for block in gathered(streamed(RECORDED["arguments in pieces"])).blocks if isinstance(block, ToolCall)
    ]

    assert [(call.name, call.arguments) for call in calls] == [
        ("read_theme", "{}"),
        ("read_screen", '{"id":"A"}'),
        ("read_screen", '{"id":"B"}'),
        ("read_screen", '{"id":"C"}'),
    ]
    assert calls[0].signature


def test_paths_of_pieces_lead_into_lists_and_objects():
    def piece(*args, **more):
        return said({"functionCall": {"partialArgs": list(args), "willContinue": True} | more})

    events = streamed(
        sse(
            said({"functionCall": {"name": "cook", "willContinue": True}}),
            piece({"jsonPath": "$.a[1].b", "stringValue": "x", "willContinue": True}),
            piece({"jsonPath": "$.a[1].b", "stringValue": "y"}, {"jsonPath": "$['c d']", "numberValue": 2.0}),
            piece({"jsonPath": "$.a[0]", "boolValue": False}, {"jsonPath": "$.n", "nullValue": "NULL_VALUE"}),
            said({"functionCall": {}}, finishReason="STOP"),
        )
    )

    assert json.loads(gathered(events).blocks[0].arguments) == {"a": [False, {"b": "xy"}], "c d": 2, "n": None}


def test_a_stream_that_breaks_off_has_no_end():
    events = streamed(sse(said({"text": "Hel"})))

    assert not any(isinstance(event, blocks.Ended | blocks.Finished) for event in events)


def test_an_error_ends_a_stream():
    events = streamed(sse(said({"text": "a"}), {"error": {"code": 503, "message": "Busy.", "status": "UNAVAILABLE"}}))

    assert events[-1] == blocks.Failed("Busy.", "UNAVAILABLE", 503)


def test_usage_is_reported_whenever_it_changes_and_the_tier_with_it():
    first = metered(said({"text": "a"}), promptTokenCount=3, candidatesTokenCount=1, totalTokenCount=4)
    last = said(finishReason="STOP") | {
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "serviceTier": "standard"}
    }
    events = streamed(sse(first, first, last))
    meters = [event for event in events if isinstance(event, blocks.Metered)]

    assert [event.usage.output_tokens for event in meters] == [1, 2]
    assert meters[-1].service_tier == "default"


parts = st.one_of(
    st.builds(lambda text: {"text": text}, st.text(max_size=5)),
    st.builds(lambda text: {"text": text, "thought": True}, st.text(max_size=5)),
    st.builds(lambda text: {"text": text, "thoughtSignature": "QQ=="}, st.text(max_size=5)),
    st.just({"functionCall": {"name": "f", "args": {"a": 1}}}),
    st.just({"functionCall": {"name": "f", "willContinue": True}}),
    st.just({"functionCall": {"partialArgs": [{"jsonPath": "$.x", "stringValue": "y"}], "willContinue": True}}),
    st.just({"functionCall": {}}),
    st.just({"inlineData": {"mimeType": "image/png", "data": "AA"}}),
    st.just({"executableCode": {}}),
)


@given(st.lists(st.lists(parts, max_size=3), max_size=6), st.sampled_from([sse, array]), st.integers(1, 50))
def test_any_order_of_parts_keeps_the_order_of_events(events, frame, size):
    stream = frame(*[said(*each) for each in events], said(finishReason="STOP"))
    found = streamed(stream, size)
    check_order(found)

    assert isinstance(found[-1], blocks.Ended)
    whole = gemini_decode.answer(array(*[said(*each) for each in events], said(finishReason="STOP")))
    assert [type(block) for block in whole.blocks] == [type(block) for block in gathered(found).blocks]


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2)))
def test_odd_shapes_of_answers_never_raise(odd):
    for value in (
        {"candidates": odd},
        {"candidates": [{"content": odd}]},
        {"candidates": [{"content": {"parts": odd}}]},
    ):
        gemini_decode.answer(json.dumps(value).encode())
        streamed(sse(value | {"usageMetadata": odd, "promptFeedback": odd, "error": odd}))
