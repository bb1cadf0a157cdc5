"""Promises of `gateway.dialects.gemini_encode`: calls that Gemini accepts, and answers that Google's clients read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import blocks, gemini, gemini_decode, gemini_encode, gemini_seal, wire
from gateway.dialects.blocks import Document, Image, Message, Text, Thinking, ToolCall, ToolResult
from tests.gateway.dialects.gemini_cases import (
    ANSWER,
    BUDGET,
    CONTEXT,
    HELLO,
    LEVEL,
    PLAIN,
    SHOWN,
    Model,
    asked,
    order,
)

HI = Message("user", [Text("hi")])
SCHEMA = {"type": "object", "properties": {"city": {"type": ["string", "null"]}}, "additionalProperties": False}
WEATHER = blocks.Tool(name="weather", description="The weather.", parameters=SCHEMA)


def sent(*messages, facts=BUDGET, credits=False, repriced_by=frozenset(), max_output=None, **members):
    request = blocks.Request(dialect="openai_chat", model="m", messages=list(messages) or [HI], **members)
    return gemini_encode.request(request, order(facts, credits=credits, repriced_by=repriced_by, max_output=max_output))


def written(*messages, **members):
    return json.loads(sent(*messages, **members).body)


def config(**members):
    return written(**members).get("generationConfig", {})


def refused(*messages, **members):
    with pytest.raises(blocks.Unsupported) as caught:
        sent(*messages, **members)
    return caught.value.param


# --- contents -------------------------------------------------------------------------------------------------------


def test_turns_alternate_and_begin_with_the_user():
    body = written(
        Message("assistant", [Text("Hello.")]),
        Message("user", [Text("a"), Text("")]),
        Message("system", [Text("Be brief.")]),
        Message("assistant", [Text("b")]),
        Message("assistant", [Text("c")]),
        system=[Text("Be kind."), Text("")],
    )

    assert body["systemInstruction"] == {"parts": [{"text": "Be kind."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "."}]},
        {"role": "model", "parts": [{"text": "Hello."}]},
        {"role": "user", "parts": [{"text": "a"}, {"text": "Be brief."}]},
        {"role": "model", "parts": [{"text": "b"}, {"text": "c"}]},
    ]


def test_a_request_of_a_system_message_alone_has_contents():
    assert written(Message("user", [Text("")]), system=[Text("x")])["contents"] == [
        {"role": "user", "parts": [{"text": "."}]}
    ]


CALLS = Message(
    "assistant",
    [
        Text("Looking."),
        ToolCall(id="c1", name="weather", arguments='{"city":"A"}'),
        ToolCall(id="c2", name="time", arguments=""),
        ToolCall(id="c3", name="odd", arguments="[1"),
    ],
)


def test_results_come_first_in_the_order_of_their_calls_with_their_names():
    body = written(
        HI,
        CALLS,
        Message("user", [Text("and?"), ToolResult(id="c2", content=[Text("noon")])]),
        Message("user", [ToolResult(id="c1", content=[Text('{"t":'), Text("3}")])]),
        Message("user", [ToolResult(id="c3", content=[Text("no")], is_error=True)]),
    )

    assert body["contents"][1]["parts"][1:] == [
        {"functionCall": {"name": "weather", "args": {"city": "A"}}},
        {"functionCall": {"name": "time", "args": {}}},
        {"functionCall": {"name": "odd", "args": {"__raw": "[1"}}},
    ]
    assert body["contents"][2]["parts"] == [
        {"functionResponse": {"name": "weather", "response": {"t": 3}}},
        {"functionResponse": {"name": "time", "response": {"result": "noon"}}},
        {"functionResponse": {"name": "odd", "response": {"error": "no"}}},
        {"text": "and?"},
    ]


def test_a_result_without_a_call_is_refused_unless_it_names_its_tool():
    assert refused(Message("user", [ToolResult(id="x")])) == "messages"
    body = written(Message("user", [ToolResult(id="x", name="f")]))
    assert body["contents"][0]["parts"] == [{"functionResponse": {"name": "f", "response": {"result": ""}}}]


def test_a_picture_in_a_result_goes_inside_or_behind_it_as_the_model_can():
    result = ToolResult(id="c1", content=[Text("see"), Image(media_type="image/png", data="iVBO")])
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBO"}}

    older = written(HI, CALLS, Message("user", [result]))["contents"][2]["parts"]
    newer = written(HI, CALLS, Message("user", [result]), facts=LEVEL)["contents"][2]["parts"]

    assert older == [{"functionResponse": {"name": "weather", "response": {"result": "see"}}}, picture]
    assert newer[0]["functionResponse"]["parts"] == [picture]


def test_models_that_insist_get_ids_and_a_signature_on_the_first_call_of_each_turn():
    signed = ToolCall(id="c9", name="f", signature="c2ln", dialect="gemini")
    foreign = ToolCall(id="c8", name="f", signature="c2ln", dialect="other")
    results = [ToolResult(id=f"c{number}", content=[Text("x")]) for number in (1, 2, 3)]
    contents = written(
        HI,
        CALLS,
        Message("user", list(results)),
        Message("assistant", [signed, foreign]),
        facts=LEVEL,
    )["contents"]

    first = [part for part in contents[1]["parts"] if "functionCall" in part]
    assert [part.get("thoughtSignature") for part in first] == [gemini_encode.UNSIGNED, None, None]
    assert [part["functionCall"]["id"] for part in first] == ["c1", "c2", "c3"]
    assert [part["functionResponse"]["id"] for part in contents[2]["parts"]] == ["c1", "c2", "c3"]
    assert [part.get("thoughtSignature") for part in contents[3]["parts"]] == ["c2ln", None]


def test_older_models_get_their_own_signatures_and_nothing_else():
    parts = written(HI, Message("assistant", [ToolCall(id="c", name="f", signature="c2ln", dialect="gemini")]))
    plain = written(HI, Message("assistant", [ToolCall(id="c", name="f")]))

    assert parts["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"
    assert plain["contents"][1]["parts"] == [{"functionCall": {"name": "f", "args": {}}}]


def test_reasoning_goes_back_to_the_vendor_it_came_from_only():
    parts = written(
        HI,
        Message(
            "assistant",
            [
                Thinking(text="hm", signature="c2ln", dialect="gemini"),
                Thinking(text="hm", dialect="gemini"),
                Thinking(text="hm", signature="x", dialect="anthropic"),
                blocks.Redacted(data="x", dialect="anthropic"),
                Text("a"),
                Thinking(signature="c2lnMg==", dialect="gemini"),
            ],
        ),
    )["contents"][1]["parts"]

    assert parts == [
        {"text": "hm", "thoughtSignature": "c2ln", "thought": True},
        {"text": "a"},
        {"text": "", "thoughtSignature": "c2lnMg=="},
    ]


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (Image(data="/9j/4AA"), {"inlineData": {"mimeType": "image/jpeg", "data": "/9j/4AA"}}),
        (Document(data="JVBE"), {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}}),
        (Document(text="words", name="a.txt"), {"text": "a.txt:\nwords"}),
        (blocks.Audio(data="AA", format="mp3"), {"inlineData": {"mimeType": "audio/mp3", "data": "AA"}}),
        (
            Document(file_id="files/abc"),
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        ),
        (Image(url="gs://bucket/a.png"), {"fileData": {"mimeType": "image/png", "fileUri": "gs://bucket/a.png"}}),
        (Document(url="https://youtu.be/x"), {"fileData": {"fileUri": "https://youtu.be/x"}}),
    ],
)
def test_files_go_as_bytes_or_as_an_address_that_google_reads(block, part):
    assert written(Message("user", [block]))["contents"][0]["parts"] == [part]


@pytest.mark.parametrize("block", [Image(url="https://x.example/a.png"), Document(file_id="file-abc"), Image()])
def test_a_file_that_google_cannot_read_is_refused(block):
    assert refused(Message("user", [block])) == "messages"


# --- tools ----------------------------------------------------------------------------------------------------------


def test_schemas_go_raw_where_the_model_takes_them_and_else_in_googles_subset():
    raw = written(tools=[WEATHER])["tools"][0]["functionDeclarations"][0]
    subset = written(tools=[WEATHER], facts=PLAIN)["tools"][0]["functionDeclarations"][0]

    assert raw == {"name": "weather", "description": "The weather.", "parametersJsonSchema": SCHEMA}
    assert subset["parameters"] == {"type": "OBJECT", "properties": {"city": {"type": "STRING", "nullable": True}}}


def test_a_function_without_parameters_has_none():
    tool = blocks.Tool(name="now", parameters={"type": "object", "properties": {}})

    assert written(tools=[tool])["tools"] == [{"functionDeclarations": [{"name": "now"}]}]


def test_a_tool_of_free_text_becomes_a_function_of_one_text():
    declaration = written(tools=[blocks.Tool(name="run", custom=True)])["tools"][0]["functionDeclarations"][0]

    assert declaration["parametersJsonSchema"]["required"] == ["input"]


@pytest.mark.parametrize(
    ("choice", "calling"),
    [
        (blocks.Choice(mode="auto"), None),
        (blocks.Choice(mode="none"), {"mode": "NONE"}),
        (blocks.Choice(mode="required"), {"mode": "ANY"}),
        (blocks.Choice(mode="named", names=["weather"]), {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
        (
            blocks.Choice(mode="allowed", names=["weather"], required=True),
            {"mode": "ANY", "allowedFunctionNames": ["weather"]},
        ),
    ],
)
def test_a_choice_of_tools_is_kept(choice, calling):
    found = written(tools=[WEATHER], choice=choice).get("toolConfig")

    assert (found or {}).get("functionCallingConfig") == calling


def test_tools_that_are_not_allowed_are_not_offered():
    body = written(tools=[WEATHER, blocks.Tool(name="other")], choice=blocks.Choice(mode="allowed", names=["weather"]))

    assert [each["name"] for each in body["tools"][0]["functionDeclarations"]] == ["weather"]


def test_a_forced_call_of_nothing_is_refused():
    assert refused(choice=blocks.Choice(mode="required")) == "tool_choice"
    assert refused(tools=[WEATHER], choice=blocks.Choice(mode="named", names=["x"])) == "tool_choice"


def test_names_that_google_refuses_are_changed_and_told():
    names = ["7up", "a b", "ok.name-1", "x" * 80, "y" * 80]
    found = sent(
        HI,
        Message("assistant", [ToolCall(id="c", name="7up")]),
        Message("user", [ToolResult(id="c")]),
        tools=[blocks.Tool(name=name) for name in names],
    )
    body = json.loads(found.body)
    declared = [each["name"] for each in body["tools"][0]["functionDeclarations"]]

    assert [found.names.get(name, name) for name in declared] == names
    assert len(set(declared)) == 5
    assert all(len(name) <= 64 and (name[0].isalpha() or name[0] == "_") for name in declared)
    assert body["contents"][1]["parts"][0]["functionCall"]["name"] == declared[0]
    assert body["contents"][2]["parts"][0]["functionResponse"]["name"] == declared[0]


SEARCH = blocks.ServerTool(dialect="openai_chat", value={}, kind="web_search")


def test_a_search_is_googles_where_it_stands_alone_and_may_be_paid():
    assert written(tools=[SEARCH])["tools"] == [{"googleSearch": {}}]
    assert sent(tools=[SEARCH, WEATHER]).dropped == ["web_search_options"]
    on_credits = sent(tools=[SEARCH], credits=True, repriced_by=frozenset({"web_search_options"}))
    assert ("tools" in json.loads(on_credits.body), on_credits.dropped) == (False, ["web_search_options"])


# --- settings -------------------------------------------------------------------------------------------------------


def test_parameters_have_googles_names():
    found = config(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        max_output=99,
        stop=["a", ""],
        seed=2**40 + 5,
        presence_penalty=0.1,
        frequency_penalty=0.2,
    )

    assert found == {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "seed": 5,
        "stopSequences": ["a"],
        "maxOutputTokens": 99,
    }


def test_what_is_left_out_is_named():
    found = sent(
        top_k=4,
        stop=list("abcdef"),
        parallel=False,
        tools=[WEATHER],
        logprobs=True,
        verbosity="low",
        extra={"logit_bias": {}, "metadata": {}},
        facts=Model(unsupported=frozenset({"top_k", "logprobs"})),
    )

    assert found.dropped == ["parallel_tool_calls", "top_k", "stop", "logprobs", "verbosity", "logit_bias"]
    assert json.loads(found.body)["generationConfig"]["stopSequences"] == list("abcde")


def test_the_limit_is_the_one_that_was_held_and_never_more_than_the_model_can():
    assert config(max_output=10**6)["maxOutputTokens"] == 65_536
    assert config(max_output=5)["maxOutputTokens"] == 5
    request = blocks.Request(dialect="x", model="m", messages=[HI], max_output=5)
    body = json.loads(gemini_encode.request(request, order(max_output=9)).body)
    assert body["generationConfig"] == {"maxOutputTokens": 9}


def test_an_answer_in_sound_is_refused():
    assert refused(modalities=["text", "audio"]) == "modalities"
    assert config(modalities=["text", "image"]) == {"responseModalities": ["TEXT", "IMAGE"]}


FORMAT = blocks.Format(kind="json_schema", schema={"$schema": "x", **SCHEMA}, name="a")


def test_a_format_of_the_answer_is_a_setting():
    assert config(format=FORMAT) == {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
    assert config(format=FORMAT, facts=PLAIN)["responseSchema"]["type"] == "OBJECT"
    assert config(format=blocks.Format(kind="json_object")) == {"responseMimeType": "application/json"}


def test_a_format_beside_functions_is_said_in_words_to_models_that_refuse_both():
    older = sent(format=FORMAT, tools=[WEATHER])
    newer = written(format=FORMAT, tools=[WEATHER], facts=LEVEL)

    assert older.dropped == ["response_format"]
    assert "additionalProperties" in json.loads(older.body)["systemInstruction"]["parts"][-1]["text"]
    assert newer["generationConfig"]["responseJsonSchema"] == SCHEMA


PRO = Model(efforts=("low", "medium", "high"))
NEWEST = Model(thinking="level", efforts=("low", "high", "xhigh"))


@pytest.mark.parametrize(
    ("facts", "reasoning", "found"),
    [
        (BUDGET, blocks.Reasoning(effort="none"), {"thinkingBudget": 0}),
        (PRO, blocks.Reasoning(effort="none"), {"thinkingBudget": 128}),
        (BUDGET, blocks.Reasoning(effort="low"), {"thinkingBudget": 1024, "includeThoughts": True}),
        (BUDGET, blocks.Reasoning(effort="medium"), {"thinkingBudget": 8192, "includeThoughts": True}),
        (BUDGET, blocks.Reasoning(effort="high", visible=False), {"thinkingBudget": 24576}),
        (BUDGET, blocks.Reasoning(budget=3000, mode="enabled"), {"thinkingBudget": 3000, "includeThoughts": True}),
        (BUDGET, blocks.Reasoning(budget=90_000), {"thinkingBudget": 24576, "includeThoughts": True}),
        (BUDGET, blocks.Reasoning(mode="adaptive"), {"thinkingBudget": -1, "includeThoughts": True}),
        (BUDGET, blocks.Reasoning(mode="disabled"), {"thinkingBudget": 0}),
        (LEVEL, blocks.Reasoning(effort="none"), {"thinkingLevel": "MINIMAL"}),
        (LEVEL, blocks.Reasoning(effort="max"), {"thinkingLevel": "HIGH", "includeThoughts": True}),
        (LEVEL, blocks.Reasoning(budget=9000), {"thinkingLevel": "HIGH", "includeThoughts": True}),
        (LEVEL, blocks.Reasoning(mode="adaptive"), {"includeThoughts": True}),
        (NEWEST, blocks.Reasoning(effort="minimal"), {"thinkingLevel": "LOW", "includeThoughts": True}),
        (NEWEST, blocks.Reasoning(effort="medium"), {"thinkingLevel": "LOW", "includeThoughts": True}),
        (NEWEST, blocks.Reasoning(effort="max"), {"thinkingLevel": "XHIGH", "includeThoughts": True}),
    ],
)
def test_how_to_think_is_said_in_the_models_way(facts, reasoning, found):
    assert config(reasoning=reasoning, facts=facts)["thinkingConfig"] == found


def test_a_model_that_does_not_think_is_not_told_to():
    found = sent(reasoning=blocks.Reasoning(effort="high"), facts=PLAIN)

    assert (found.dropped, "generationConfig" in json.loads(found.body)) == (["reasoning_effort"], False)


def test_googles_own_parameters_of_a_chat_completion_arrive():
    google = {"thinking_config": {"thinking_budget": 7}, "safety_settings": [{"category": "c"}]}
    body = written(extra={"extra_body": {"google": google}})

    assert body["generationConfig"]["thinkingConfig"] == {"thinking_budget": 7}
    assert body["safetySettings"] == [{"category": "c"}]


def test_a_tier_that_changes_the_price_is_not_sent_on_credits():
    assert written(service_tier="flex")["serviceTier"] == "flex"
    found = sent(service_tier="priority", credits=True, repriced_by=frozenset({"service_tier"}))
    assert ("serviceTier" in json.loads(found.body), found.dropped) == (False, ["service_tier"])


def test_a_call_goes_to_the_models_address():
    assert sent(stream=True).path == "/models/gemini-x:streamGenerateContent?alt=sse"
    assert sent().path == "/models/gemini-x:generateContent"


# --- answers for Google's clients -----------------------------------------------------------------------------------


def test_an_answer_of_another_vendor_is_one_that_googles_clients_read():
    value = json.loads(gemini_encode.answer(ANSWER, asked(generationConfig=SHOWN), CONTEXT))
    candidate = value["candidates"][0]
    thought, hidden, text, weather, time = candidate["content"]["parts"]

    assert (thought["text"], thought["thought"], hidden["text"]) == ("Let me think.", True, "")
    assert text == {"text": "Grüße: sunny."}
    assert weather == {"functionCall": {"id": "toolu_1", "name": "get_weather", "args": {"city": "Paris"}}}
    assert time["functionCall"]["args"] == {}
    assert (candidate["finishReason"], value["modelVersion"], value["responseId"]) == ("STOP", "claude-x", "msg_1")
    assert value["usageMetadata"] == {
        "promptTokenCount": 10,
        "candidatesTokenCount": 5,
        "totalTokenCount": 17,
        "thoughtsTokenCount": 2,
        "cachedContentTokenCount": 4,
    }
    support = candidate["groundingMetadata"]["groundingSupports"][0]
    assert support["segment"] == {"startIndex": 9, "endIndex": 14, "text": "sunny", "partIndex": 2}


def chunks(stream):
    return [json.loads(line[6:]) for line in stream.decode().split("\r\n") if line.startswith("data: ")]


def stream_of(answer, request):
    writer = gemini_encode.StreamWriter(request, CONTEXT)
    return b"".join(writer.write(event) for event in blocks.events(answer))


@pytest.mark.parametrize("shown", [SHOWN, {}])
def test_a_stream_says_the_same_as_the_whole_answer(shown):
    request = asked(stream=True, generationConfig=shown)
    parts = [
        part for chunk in chunks(stream_of(ANSWER, request)) for part in chunk["candidates"][0]["content"]["parts"]
    ]
    whole = json.loads(gemini_encode.answer(ANSWER, request, CONTEXT))

    def read(parts):
        return gemini_decode.request(asked(contents=[*HELLO, {"role": "model", "parts": parts}])).messages[1].blocks

    assert read(parts) == read(whole["candidates"][0]["content"]["parts"])
    last = chunks(stream_of(ANSWER, request))[-1]
    assert last["candidates"][0]["finishReason"] == "STOP"
    assert last["usageMetadata"] == whole["usageMetadata"]


def test_thoughts_are_shown_only_to_those_who_asked():
    hidden = stream_of(ANSWER, asked(stream=True)) + gemini_encode.answer(ANSWER, asked(), CONTEXT)

    assert b"Let me think." not in hidden
    assert gemini_seal.MARK.encode() in hidden


def test_a_stream_without_events_is_one_array():
    request = asked(stream=True, sse=False, generationConfig=SHOWN)
    value = json.loads(stream_of(ANSWER, request))

    assert value == chunks(stream_of(ANSWER, asked(stream=True, generationConfig=SHOWN)))


@pytest.mark.parametrize("sse", [True, False])
def test_an_error_ends_a_stream_and_nothing_follows(sse):
    writer = gemini_encode.StreamWriter(asked(stream=True, sse=sse), CONTEXT)
    stream = writer.write(blocks.Opened(0, Text())) + writer.write(blocks.TextDelta(0, "a"))
    stream += writer.write(blocks.Failed("It broke.", "overloaded", 503))
    last = (chunks(stream) if sse else json.loads(stream))[-1]

    assert (last["error"]["code"], last["error"]["message"]) == (503, "It broke.")
    assert writer.write(blocks.Ended()) == b""


def test_a_stream_that_fails_at_once_is_an_array_too():
    writer = gemini_encode.StreamWriter(asked(stream=True, sse=False), CONTEXT)

    assert len(json.loads(writer.write(blocks.Failed("It broke.")))) == 1


@pytest.mark.parametrize(
    ("reason", "native"),
    [("stop", "STOP"), ("length", "MAX_TOKENS"), ("content_filter", "SAFETY"), ("tool_calls", "STOP")],
)
def test_reasons_have_googles_words(reason, native):
    answer = blocks.Answer(blocks=[Text("a")], finish=blocks.Finish(reason=reason, message="why"))
    candidate = json.loads(gemini_encode.answer(answer, asked(), CONTEXT))["candidates"][0]

    assert (candidate["finishReason"], candidate["finishMessage"]) == (native, "why")


def test_a_picture_is_data_and_an_empty_answer_has_a_part():
    picture = blocks.Answer(blocks=[Image(media_type="image/png", data="iVBO")])

    def parts(answer):
        return json.loads(gemini_encode.answer(answer, asked(), CONTEXT))["candidates"][0]["content"]["parts"]

    assert parts(picture) == [{"inlineData": {"mimeType": "image/png", "data": "iVBO"}}]
    assert parts(blocks.Answer()) == [{"text": ""}]


NAMED = wire.Named("m", False)
odd = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["text", "parts", "role", "functionCall", "name", "args", "inlineData", "data", "mimeType",
                         "functionResponse", "response", "id", "fileData", "fileUri", "thoughtSignature", "type",
                         "functionDeclarations", "functionCallingConfig", "mode", "allowedFunctionNames", "properties",
                         "thinkingConfig", "thinkingBudget", "responseSchema", "responseMimeType", "items", "anyOf"]),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(odd, odd, odd, odd, st.sampled_from([BUDGET, LEVEL, PLAIN]))
def test_odd_requests_are_refused_or_understood(content, tools, tool_config, settings, facts):
    members = {"tools": tools, "toolConfig": tool_config, "systemInstruction": content, "generationConfig": settings}
    raw = json.dumps({"contents": [{"parts": [content]}, {"role": "model", "parts": content}], **members}).encode()
    try:
        request = gemini_decode.request(gemini.read(raw, named=NAMED))
    except (gemini.InvalidBody, blocks.Unsupported):
        return
    try:
        json.loads(gemini_encode.request(request, order(facts)).body)
    except blocks.Unsupported:
        return
