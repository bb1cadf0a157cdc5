"""Promises of `gateway.dialects.gemini`: requests stay the bytes they were, streams of both formats are understood."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects import blocks, gemini, gemini_seal, wire
from gateway.dialects.gemini import StreamReader, read_json
from gateway.dialects.wire import InvalidBody, InvalidStream
from tests.gateway.dialects.gemini_cases import (
    HELLO,
    RECORDED,
    Model,
    array,
    asked,
    body,
    metered,
    order,
    pieces,
    said,
    sse,
)

NAMED = wire.Named("gemini-x", True)
# --- requests: reading ----------------------------------------------------------------------------------------------


def refusal(raw):
    with pytest.raises(InvalidBody) as caught:
        gemini.read(raw, named=NAMED)
    return caught.value


def test_a_request_tells_what_a_gateway_needs_to_know():
    request = asked(
        stream=True,
        sse=False,
        generationConfig={"candidateCount": 2, "maxOutputTokens": 70},
        tools=[{"functionDeclarations": [{"name": "f"}]}],
    )

    assert (request.model, request.stream, request.sse, request.n, request.max_output) == (
        "gemini-x", True, False, 2, 70,
    )  # fmt: skip
    assert (request.include_usage, request.has_tools, request.message_count, request.images) == (True, True, 1, 0)


def test_members_may_be_written_in_snake_case_and_numbers_as_googles_json_writes_them():
    request = asked(generation_config={"max_output_tokens": "70", "candidate_count": 2.0})

    assert (request.max_output, request.n) == (70, 2)


def test_single_objects_count_as_lists_of_one():
    request = gemini.read(b'{"contents": {"role": "user", "parts": {"text": "hello"}}}', named=NAMED)

    assert (request.message_count, request.input_bytes) == (1, 5)


def test_images_are_counted_and_other_files_measured_by_their_bytes():
    parts = [
        {"inlineData": {"mimeType": "image/png", "data": "A" * 1000}},
        {"inline_data": {"mime_type": "application/pdf", "data": "B" * 300}},
        {"fileData": {"fileUri": "gs://x/y.png"}},
        {"text": "four"},
    ]
    request = asked(contents=[{"parts": parts}])

    assert (request.images, request.input_bytes) == (3, 304)


def test_text_hidden_in_arguments_is_measured():
    call = {"functionCall": {"name": "f", "args": {"data": "x" * 500, "inlineData": {"data": "y" * 500}}}}

    assert asked(contents=[{"role": "model", "parts": [call]}]).input_bytes >= 1000


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"[]", None),
        (b'{"contents": []}', "contents"),
        (b"{}", "contents"),
        (b'{"contents": [1]}', "contents[0]"),
        (b'{"contents": [{"parts": 5}]}', "contents[0].parts"),
        (body(generationConfig={"maxOutputTokens": "many"}), "generationConfig.maxOutputTokens"),
        (body(generationConfig={"candidateCount": 0}), "generationConfig.candidateCount"),
        (body(generationConfig=[]), "generationConfig"),
    ],
)
def test_a_malformed_request_is_refused_by_the_name_of_its_member(raw, param):
    assert refusal(raw).param == param


def test_nesting_without_end_is_refused():
    deep = b'{"contents":[{"parts":[{"functionCall":{"name":"f","args":' + b'{"a":' * 80 + b"1" + b"}" * 80 + b"}}]}]}"

    assert "nested" in str(refusal(deep))


def test_the_text_for_a_tokenizer_holds_no_files():
    parts = [{"inlineData": {"mimeType": "application/pdf", "data": "JVBERi"}}, {"text": "read this"}]

    assert gemini.input_text(asked(contents=[{"parts": parts}])) == "read this"


# --- requests: forwarding -------------------------------------------------------------------------------------------


def test_an_untouched_request_is_the_identical_bytes():
    request = asked(stream=True, generationConfig={"temperature": 0.5}, newMember={"a": 1})
    sent = gemini.forward(request, order())

    assert sent.body is request.body
    assert (sent.path, sent.dropped) == ("/models/gemini-x:streamGenerateContent?alt=sse", [])


def test_a_stream_without_events_is_asked_for_as_one():
    sent = gemini.forward(asked(stream=True, sse=False), order())

    assert sent.path == "/models/gemini-x:streamGenerateContent"


@pytest.mark.parametrize(
    ("upstream", "path"),
    [
        ("gemini-x", "/models/gemini-x:generateContent"),
        ("tunedModels/mine", "/tunedModels/mine:generateContent"),
        ("../../x?y#z:w", "/models/..%2F..%2Fx%3Fy%23z%3Aw:generateContent"),
    ],
)
def test_a_models_name_cannot_leave_its_place_in_the_address(upstream, path):
    assert gemini.forward(asked(), order(Model(upstream=upstream))).path == path


def test_respans_own_members_and_repriced_ones_are_dropped():
    request = asked(respan_params={"a": 1}, serviceTier="priority", tools=[{"googleSearch": {}}, {"urlContext": {}}])
    sent = gemini.forward(
        request,
        order(credits=True, ours=frozenset({"respan_params"}), repriced_by=frozenset({"service_tier", "googleSearch"})),
    )

    assert json.loads(sent.body) == {"contents": HELLO, "tools": [{"urlContext": {}}]}
    assert sent.dropped == ["serviceTier", "googleSearch"]


def test_what_changes_the_price_is_dropped_by_googles_names_on_credits_only():
    request = asked(
        tools=[{"google_search": {}}, {"functionDeclarations": [{"name": "f"}]}],
        generationConfig={"response_modalities": ["IMAGE"], "temperature": 1},
    )
    repriced = frozenset({"web_search_options", "modalities"})
    paid = gemini.forward(request, order(credits=True, repriced_by=repriced))

    assert json.loads(paid.body) == {
        "contents": HELLO,
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
        "generationConfig": {"temperature": 1},
    }
    assert paid.dropped == ["google_search", "modalities"]
    assert gemini.forward(request, order(repriced_by=repriced)).body is request.body


def test_the_limit_that_was_held_replaces_the_clients():
    request = asked(generation_config={"max_output_tokens": 5, "temperature": 1})
    sent = gemini.forward(request, order(max_output=9))

    assert json.loads(sent.body) == {
        "contents": HELLO,
        "generationConfig": {"temperature": 1, "maxOutputTokens": 9},
    }
    assert json.loads(gemini.forward(asked(), order(max_output=9)).body)["generationConfig"] == {"maxOutputTokens": 9}


def test_what_a_model_refuses_is_dropped_and_reported():
    request = asked(generationConfig={"topK": 5, "stopSequences": ["x"], "maxOutputTokens": 3})
    sent = gemini.forward(request, order(Model(unsupported=frozenset({"top_k", "stop", "seed"}))))

    assert json.loads(sent.body)["generationConfig"] == {"maxOutputTokens": 3}
    assert sorted(sent.dropped) == ["stop", "top_k"]


def test_reasoning_of_another_vendor_does_not_reach_google():
    foreign = {"text": "hm", "thought": True, "thoughtSignature": gemini_seal.MARK + "Oi4u"}
    contents = [*HELLO, {"role": "model", "parts": [foreign, {"text": "hi"}]}, *HELLO]
    sent = gemini.forward(asked(contents=contents), order())

    assert json.loads(sent.body)["contents"][1]["parts"] == [{"text": "hi"}]


# --- answers --------------------------------------------------------------------------------------------------------


def test_usage_adds_up_to_the_total_that_is_reported():
    answer = read_json(
        json.dumps(
            metered(
                said({"text": "hm", "thought": True}, {"text": "hi"}, finishReason="STOP"),
                promptTokenCount=10,
                cachedContentTokenCount=4,
                toolUsePromptTokenCount=3,
                candidatesTokenCount=5,
                thoughtsTokenCount=6,
                totalTokenCount=24,
            )
        ).encode()
    )

    assert answer.usage == Usage(
        input_tokens=13, output_tokens=11, cache_read_input_tokens=4, reasoning_output_tokens=6
    )
    assert (answer.model, answer.finish_reason, answer.output_text, answer.error) == (
        "gemini-x-001", "stop", "hmhi", None,
    )  # fmt: skip


def test_stop_after_a_call_means_tool_calls():
    call = {"functionCall": {"name": "f", "args": {"a": 1}}}

    assert read_json(json.dumps(said(call, finishReason="STOP")).encode()).finish_reason == "tool_calls"


def test_a_refused_prompt_is_an_answer_without_candidates():
    answer = read_json(b'{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":7}}')

    assert (answer.finish_reason, answer.error) == ("content_filter", None)
    assert answer.usage == Usage(input_tokens=7)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'[{"error":{"code":429,"message":"Quota.","status":"RESOURCE_EXHAUSTED"}}]', "Quota."),
        (b'{"error":{"code":400,"message":"Bad.","status":"INVALID_ARGUMENT"}}', "Bad."),
        (b'{"error":"invalid_grant","error_description":"Expired."}', "Expired."),
        (b"{}", "The provider's answer has no candidates."),
        (b"<html>", "The provider's answer is not JSON."),
    ],
)
def test_what_is_no_answer_has_an_error(raw, message):
    assert read_json(raw).error == message


@given(st.binary(max_size=200))
def test_reading_an_answer_never_raises(raw):
    read_json(raw)


# --- streams --------------------------------------------------------------------------------------------------------


def passed(stream, size):
    reader = StreamReader(include_usage=True)
    out = b"".join(reader.feed(piece) for piece in pieces(stream, size))
    return reader, out + reader.end()


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("size", [1, 7, 64, 1_000_000])
def test_a_recorded_stream_passes_unchanged_however_it_was_cut(name, size):
    stream = RECORDED[name]
    reader, out = passed(stream, size)
    whole, _ = passed(stream, len(stream))

    assert out == stream
    assert (reader.complete, reader.saw_done, reader.started, reader.error) == (True, True, True, None)
    assert (reader.answer(), reader.assembled()) == (whole.answer(), whole.assembled())
    assert reader.answer().finish_reason == "tool_calls"


@pytest.mark.parametrize("frame", [sse, array])
def test_a_stream_is_one_answer_for_the_trace(frame):
    stream = frame(
        metered(said({"text": "hm", "thought": True}), promptTokenCount=3, totalTokenCount=4),
        said({"text": "Hel"}),
        said({"text": "lo \" [{]} \\"}),
        metered(said({"text": ""}, finishReason="STOP"), promptTokenCount=3, candidatesTokenCount=2, totalTokenCount=5),
    )  # fmt: skip
    reader, _ = passed(stream, 5)
    assembled = json.loads(reader.assembled())

    assert assembled["candidates"] == [
        {
            "content": {"parts": [{"text": "hm", "thought": True}, {"text": 'Hello " [{]} \\'}], "role": "model"},
            "index": 0,
            "finishReason": "STOP",
        }
    ]
    assert assembled["usageMetadata"]["candidatesTokenCount"] == 2
    assert reader.answer() == read_json(reader.assembled())


def test_the_probabilities_of_all_events_are_those_of_the_one_answer():
    reader = StreamReader()
    for token, logprob, more in (("Hi", -0.25, {}), (" there", -1, {"finishReason": "STOP"})):
        result = {"chosenCandidates": [{"token": token, "logProbability": logprob}], "logProbabilitySum": logprob}
        reader.feed(sse(said({"text": token}, logprobsResult=result, **more)))
    (candidate,) = json.loads(reader.assembled())["candidates"]
    assert [each["token"] for each in candidate["logprobsResult"]["chosenCandidates"]] == ["Hi", " there"]
    assert candidate["logprobsResult"]["logProbabilitySum"] == -1.25


def test_a_stream_that_never_says_why_it_ended_is_not_complete():
    reader, out = passed(sse(said({"text": "Hel"})) + b'data: {"candidates": [{"con', 1000)

    assert (reader.complete, reader.saw_done) == (False, False)
    assert out == sse(said({"text": "Hel"}))


def test_a_last_event_without_its_blank_line_counts():
    reader, out = passed(sse(said({"text": "a"})) + sse(said({"text": "b"}, finishReason="STOP")).rstrip(), 1000)

    assert reader.complete
    assert out.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("frame", [sse, array, lambda *events: json.dumps(events[-1]).encode()])
def test_an_error_in_a_stream_is_noticed(frame):
    reader, _ = passed(frame(said({"text": "a"}), {"error": {"code": 503, "message": "Overloaded."}}), 9)

    assert (reader.error, reader.complete) == ("Overloaded.", False)


@pytest.mark.parametrize("begin", [b"data: ", b'[{"a":"'])
def test_an_event_without_end_does_not_fill_the_memory(begin):
    reader = StreamReader()
    reader.feed(begin)
    mebibyte = b"x" * 1024 * 1024
    with pytest.raises(InvalidStream):
        [reader.feed(mebibyte) for _ in range(40)]


texts = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=20)


@given(st.lists(texts, min_size=1, max_size=6), st.sampled_from([sse, array]), st.integers(1, 40))
def test_any_text_survives_any_cut(words, frame, size):
    events = [said({"text": word}) for word in words]
    reader, out = passed(frame(*events, said(finishReason="STOP")), size)

    assert out == frame(*events, said(finishReason="STOP"))
    assert reader.answer().output_text == "".join(words)


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_no_bytes_break_the_reader(blocks):
    reader = StreamReader()
    for block in blocks:
        reader.feed(block)
    reader.end()
    reader.assembled()


# --- errors ---------------------------------------------------------------------------------------------------------


def test_an_error_has_googles_shape():
    value = json.loads(
        gemini.error(status=402, code="insufficient_credits", message="No.", param="model", extra={"a": 1})
    )

    assert value["error"]["code"] == 402
    assert value["error"]["status"] == "FAILED_PRECONDITION"
    assert value["error"]["details"][0]["reason"] == "insufficient_credits"
    assert value["error"]["details"][0]["metadata"] == {"a": "1"}
    assert value["error"]["details"][1]["fieldViolations"] == [{"field": "model", "description": "No."}]


def test_a_streams_error_can_be_read_as_one():
    event = gemini.stream_error(status=502, code="upstream_error", message="It broke.")
    reader, _ = passed(sse(said({"text": "a"})) + event, 1000)

    assert event.startswith(b'data: {"error":')
    assert reader.error == "It broke."
    assert json.loads(array(said())[:-3] + gemini.stream_error(status=502, code="x", message="y", sse=False))


def test_a_providers_error_is_recognised_in_a_list_too():
    raw = b'[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT"}}]'

    assert gemini.error_message(raw) == "API key not valid."
    assert gemini.is_error_body(raw)
    assert not gemini.is_error_body(b"<html>")
    assert gemini.error_message(b"<html>") is None


def test_on_credits_a_file_behind_an_address_is_refused():
    part = {"fileData": {"mimeType": "video/mp4", "fileUri": "https://www.youtube.com/watch?v=x"}}
    request = asked(contents=[{"role": "user", "parts": [{"text": "what?"}, part]}])
    with pytest.raises(blocks.Unsupported) as refused:
        gemini.forward(request, order(credits=True))
    assert refused.value.param == "contents[0].parts[1].fileData"
