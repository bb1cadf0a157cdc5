"""Embeddings, sound, pictures, moderations and plain completions: bytes kept, usage read, nothing large remembered."""

import base64
import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse, ImagesResponse

from gateway.dialects import blocks, openai_completions, openai_rest, wire
from gateway.dialects.openai_rest import (
    EMBEDDINGS,
    IMAGE_EDITS,
    IMAGES,
    MODERATIONS,
    SPEECH,
    TRANSCRIPTIONS,
)

MODEL = SimpleNamespace(upstream="upstream-model", unsupported=frozenset({"dimensions"}))
TYPE = "multipart/form-data; boundary=xYz"


def order(**given):
    return blocks.Order(model=MODEL, ours=frozenset({"metadata", "respan_params", "customer_identifier"}), **given)


def form(*parts):
    written = b""
    for name, content, *head in parts:
        more = "".join(head)
        written += f'--xYz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"
    return written + b"--xYz--\r\n"


SOUND = ("file", b"RIFF\x00\r\n\xff", '; filename="a.wav"\r\nContent-Type: audio/wav')


# --- Embeddings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "size", "count", "text"),
    [
        ("café", 5, 1, "café"),
        (["a", "bc"], 3, 2, "a\nbc"),
        ([1, 2, 3], 3, 1, " a a a"),
        ([[1, 2], [3]], 3, 2, " a a a"),
        ([{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:x"}}], 2, 2, "hi"),
    ],
)
def test_every_shape_of_input_is_measured(given, size, count, text):
    asked = EMBEDDINGS.read(json.dumps({"model": "m", "input": given}).encode())
    assert (asked.input_bytes, asked.message_count, EMBEDDINGS.input_text(asked)) == (size, count, text)
    assert asked.images == ("image_url" in str(given))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "input"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "input": None}, "input"),
        ({"model": "m", "input": 5}, "input"),
        ({"model": "m", "input": ["a", 5]}, "input[1]"),
        ({"model": "m", "input": [1, "a"]}, "input"),
        ({"model": "m", "input": [[]]}, "input[0]"),
        ({"model": "m", "input": [True]}, "input[0]"),
        ({"input": "a"}, "model"),
        ({"model": "", "input": "a"}, "model"),
    ],
)
def test_a_wrong_body_is_refused_by_the_name_of_the_member(body, param):
    with pytest.raises(wire.InvalidBody) as refused:
        EMBEDDINGS.read(json.dumps(body).encode())
    assert refused.value.param == param


def test_commas_of_a_text_are_no_values():
    text = '\\",' * (openai_rest.MAX_VALUES + 1)
    assert EMBEDDINGS.read(json.dumps({"model": "m", "input": ["a", text]}).encode()).input_bytes == 1 + len(text)
    numbers = ",1" * (openai_rest.MAX_VALUES + 1)
    for many in (f"[1{numbers}]", f'["a",[1{numbers}]]'):
        with pytest.raises(wire.InvalidBody):
            EMBEDDINGS.read(f'{{"model":"m","input":{many}}}'.encode())


def test_an_untouched_body_goes_on_as_the_same_bytes():
    body = b'{"input": ["a"],  "model":"upstream-model","encoding_format":"base64","dimensions":3}'
    sent = EMBEDDINGS.forward(EMBEDDINGS.read(body), order())
    assert sent.body is body
    assert (sent.path, sent.dropped) == ("/embeddings", [])


def test_only_the_model_and_our_own_members_change():
    body = b'{"metadata":{"a":1},"input": [ [1,2] ],"model":"m","dimensions":3}'
    sent = EMBEDDINGS.forward(EMBEDDINGS.read(body), order())
    assert sent.body == b'{"input":[ [1,2] ],"model":"upstream-model","dimensions":3}'


def test_what_changes_the_price_is_left_out_on_credits_and_reported():
    body = b'{"input":"a","model":"m","service_tier":"priority"}'
    sent = EMBEDDINGS.forward(EMBEDDINGS.read(body), order(credits=True, repriced_by=frozenset({"service_tier"})))
    assert (sent.body, sent.dropped) == (b'{"input":"a","model":"upstream-model"}', ["service_tier"])


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "u"}}, {"image": "AAAA"}])
def test_pictures_are_not_sold_as_text(part):
    asked = EMBEDDINGS.read(json.dumps({"model": "m", "input": [{"type": "text", "text": "a"}, part]}).encode())
    assert asked.images == 1
    with pytest.raises(blocks.Unsupported) as refused:
        EMBEDDINGS.forward(asked, order(credits=True))
    assert refused.value.param == "input"
    assert EMBEDDINGS.forward(asked, order()).path == "/embeddings"


def test_usage_of_embeddings_is_read_past_vectors_of_both_formats():
    vector = base64.b64encode(b"\0" * 6_144).decode()
    for embedding in ([0.25, -1e-5], vector):
        body = {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": embedding}],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        }
        if isinstance(embedding, list):
            CreateEmbeddingResponse.model_validate(body)
        answer = EMBEDDINGS.read_json(json.dumps(body).encode())
        assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.error) == (8, 0, None)
        assert answer.model == "text-embedding-3-small"


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 12}, 12),
        ({"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10, "prompt_audio_seconds": None}, 10),
        ({"prompt_tokens": 9.0}, 9),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": "7"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_usage_is_read_as_other_providers_report_it(usage, tokens):
    answer = EMBEDDINGS.read_json(json.dumps({"data": [], "usage": usage}).encode())
    assert (answer.usage.input_tokens if answer.usage else None) == tokens


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"<html>", "The provider's answer is not JSON."),
        (b"", "The provider's answer is not JSON."),
        (b'{"embedding":[1]}', "The provider's answer has no data."),
        (b'{"error":{"message":"no such model"}}', "no such model"),
        (b'{"object":"error","message":"too long"}', "too long"),
        (b'{"detail":"Not Found"}', "Not Found"),
    ],
)
def test_what_is_no_answer_has_an_error(body, error):
    assert EMBEDDINGS.read_json(body).error == error


# --- Sound ----------------------------------------------------------------------------------------------------------


def test_a_transcription_keeps_every_byte_but_the_models_name():
    body = form(("model", b"whisper-1"), SOUND, ("metadata[team]", b"x"), ("customer_identifier", b"c1"))
    asked = TRANSCRIPTIONS.read(body, content_type=TYPE)
    sent = TRANSCRIPTIONS.forward(asked, order())
    assert sent.body == form(("model", b"upstream-model"), SOUND)
    assert (sent.headers["content-type"], sent.path) == (TYPE, "/audio/transcriptions")


def test_the_fields_of_a_form_are_members_for_who_reads_respans_parameters():
    body = form(
        ("model", b"123"), SOUND, ("metadata[team]", b"x"), ("metadata[no]", b"1"), ("disable_log", b"true"),
        ("respan_params", b'{"customer_identifier":"c"}'), ("prompt", b"true"),
    )  # fmt: skip
    asked = TRANSCRIPTIONS.read(body, content_type=TYPE)
    members = {name: json.loads(bytes(raw)) for name, raw in asked.members.items()}
    assert members == {
        "metadata": {"team": "x", "no": "1"},
        "model": "123",
        "disable_log": True,
        "respan_params": {"customer_identifier": "c"},
        "prompt": "true",
    }


def test_a_trace_keeps_names_and_sizes_of_files_and_nothing_of_ours():
    body = form(
        ("model", b"m"), SOUND, ("respan_params", b'{"customer_credentials":"sk-1"}'),
        ("timestamp_granularities[]", b"word"), ("timestamp_granularities[]", b"segment"),
    )  # fmt: skip
    stored = TRANSCRIPTIONS.stored(TRANSCRIPTIONS.read(body, content_type=TYPE), ours={"respan_params"})
    assert json.loads(stored) == {
        "model": "m",
        "timestamp_granularities[]": ["word", "segment"],
        "file": [{"filename": "a.wav", "type": "audio/wav", "bytes": 8}],
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (form(("model", b"m")), "file"),
        (form(SOUND), "model"),
        (form(SOUND, ("model", b"a"), ("model", b"b")), "model"),
        (form(SOUND, ("model", b"a"), ("stream", b"maybe")), "stream"),
        (form(("file", b"text instead of a file"), ("model", b"a")), "file"),
        (b"no form", None),
    ],
)
def test_a_wrong_form_is_refused_by_the_name_of_the_field(body, param):
    with pytest.raises(wire.InvalidBody) as refused:
        TRANSCRIPTIONS.read(body, content_type=TYPE)
    assert refused.value.param == param


@pytest.mark.parametrize(("word", "streams"), [(b"true", True), (b"False", False), (b"0", False), (b"", False)])
def test_a_form_asks_for_a_stream_in_a_word(word, streams):
    asked = TRANSCRIPTIONS.read(form(SOUND, ("model", b"m"), ("stream", word)), content_type=TYPE)
    assert asked.stream is streams


def test_a_transcription_is_read_in_json_and_in_plain_text():
    tokens = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
    said = TRANSCRIPTIONS.read_json(json.dumps({"text": "Hello", "usage": tokens}).encode())
    assert (said.output_text, said.usage.input_tokens, said.usage.output_tokens) == ("Hello", 14, 45)
    seconds = TRANSCRIPTIONS.read_json(b'{"text":"Hi","usage":{"type":"duration","seconds":7}}')
    assert (seconds.usage, seconds.error, seconds.output_text) == (None, None, "Hi")
    subtitles = b"1\n00:00:00,000 --> 00:00:02,000\nHello\n"
    assert TRANSCRIPTIONS.read_json(subtitles).output_text == subtitles.decode()
    assert json.loads(TRANSCRIPTIONS.kept(subtitles, "text/plain; charset=utf-8")) == {"text": subtitles.decode()}


def test_speech_is_passed_on_as_sound_unless_events_are_asked_for():
    asked = SPEECH.read(b'{"model":"m","input":"Hi","voice":"alloy"}')
    assert (asked.stream, SPEECH.stream_type(asked), asked.input_bytes) == (False, "audio/", 2)
    reader = SPEECH.reader(asked)
    assert (reader.feed(b"\xff\xfb"), reader.feed(b"{}"), reader.complete) == (b"\xff\xfb", b"{}", False)
    assert (reader.end(), reader.complete, reader.started) == (b"", True, True)
    assert json.loads(reader.assembled()) == {"audio": {"bytes": 4}}
    events = SPEECH.read(b'{"model":"m","input":"Hi","voice":"alloy","stream_format":"sse"}')
    assert (events.stream, SPEECH.stream_type(events)) == (True, "text/event-stream")


def test_nothing_but_the_size_of_sound_is_kept():
    assert json.loads(SPEECH.kept(b"\xff" * 10, "audio/mpeg")) == {"type": "audio/mpeg", "bytes": 10}
    assert SPEECH.read_json(b"{pcm that begins with a brace").error is None
    assert SPEECH.read_json(b'{"error":{"message":"no voice"}}').error == "no voice"


def test_sound_that_breaks_off_never_looks_whole():
    with pytest.raises(openai_rest.BrokenOff):
        openai_rest.broken_off(status=502, code="upstream_disconnected", message="gone")
    assert SPEECH.reader(SPEECH.read(b'{"model":"m","input":"Hi"}')).complete is False


# --- Pictures and moderations ---------------------------------------------------------------------------------------


def test_pictures_are_counted_by_their_tokens_and_kept_by_their_size():
    usage = {
        "input_tokens": 15,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 15},
        "output_tokens": 272,
        "total_tokens": 287,
    }
    whole = {"created": 1, "data": [{"b64_json": "A" * 4_000, "revised_prompt": "a cat"}], "usage": usage}
    ImagesResponse.model_validate(whole)
    body = json.dumps(whole).encode()
    assert IMAGES.read_json(body).usage.output_tokens == 272
    kept = json.loads(IMAGES.kept(body, "application/json"))
    assert kept["data"] == [{"b64_json": {"bytes": 3_000}, "revised_prompt": "a cat"}]


def test_an_edit_counts_its_pictures():
    picture = ("image[]", b"\x89PNG", '; filename="a.png"\r\nContent-Type: image/png')
    asked = IMAGE_EDITS.read(
        form(picture, picture, ("prompt", b"a hat"), ("model", b"m"), ("n", b"2")), content_type=TYPE
    )
    assert (asked.images, asked.n, asked.input_bytes) == (2, 2, 5)
    with pytest.raises(wire.InvalidBody) as refused:
        IMAGE_EDITS.read(form(picture, ("prompt", b"a"), ("model", b"m"), ("n", b"many")), content_type=TYPE)
    assert refused.value.param == "n"


def test_a_model_that_is_not_named_is_the_one_the_gateway_names():
    asked = MODERATIONS.read(b'{"input":"I hate it"}', named=wire.Named("fake/watch", stream=False))
    assert asked.model == "fake/watch"
    assert json.loads(MODERATIONS.forward(asked, order()).body) == {"input": "I hate it", "model": "upstream-model"}
    same = SimpleNamespace(upstream="fake/watch")
    assert json.loads(MODERATIONS.forward(asked, blocks.Order(model=same)).body)["model"] == "fake/watch"


# --- Streams --------------------------------------------------------------------------------------------------------


def events(*values):
    return b"".join(b"event: %b\ndata: %b\n\n" % (v["type"].encode(), json.dumps(v).encode()) for v in values)


TRANSCRIBED = events(
    {"type": "transcript.text.delta", "delta": "I see "},
    {"type": "transcript.text.delta", "delta": "skies"},
    {
        "type": "transcript.text.done",
        "text": "I see skies",
        "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 3, "total_tokens": 17},
    },
)
DRAWN = events(
    {"type": "image_generation.partial_image", "b64_json": "B" * 8_000, "partial_image_index": 0},
    {
        "type": "image_generation.completed",
        "b64_json": "A" * 40_000,
        "usage": {"input_tokens": 5, "output_tokens": 100, "total_tokens": 105, "input_tokens_details": {}},
    },
)
SPOKEN = events(
    {"type": "speech.audio.delta", "audio": "A" * 400},
    {"type": "speech.audio.done", "usage": {"input_tokens": 3, "output_tokens": 20, "total_tokens": 23}},
)


@pytest.mark.parametrize(
    ("stream", "usage", "assembled"),
    [
        (TRANSCRIBED, (14, 3), {"text": "I see skies"}),
        (DRAWN, (5, 100), {"data": [{"b64_json": {"bytes": 30_000}}]}),
        (SPOKEN, (3, 20), {"audio": {"bytes": 300}}),
    ],
)
@pytest.mark.parametrize("done", [b"", b"data: [DONE]\n\n"])
@pytest.mark.parametrize("step", [1_000_000, 37])
def test_a_stream_goes_on_as_it_came_and_says_its_usage(stream, usage, assembled, done, step):
    body = stream + done
    reader = openai_rest.EventReader()
    forwarded = b"".join(reader.feed(body[start : start + step]) for start in range(0, len(body), step)) + reader.end()
    assert (forwarded, reader.complete, reader.started) == (body, True, True)
    said = reader.answer()
    assert (said.usage.input_tokens, said.usage.output_tokens) == usage
    whole = json.loads(reader.assembled())
    assert whole.pop("usage")["output_tokens"] == usage[1]
    assert whole == assembled


def test_a_stream_that_is_cut_off_is_not_complete():
    reader = openai_rest.EventReader()
    reader.feed(TRANSCRIBED[:-20])
    assert (reader.end(), reader.complete, reader.answer().output_text) == (b"", False, "I see skies")


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error":{"message":"boom"}}\n\n',
        b'event: error\ndata: {"type":"error","error":{"message":"boom"}}\n\n',
        b'event: error\ndata: {"type":"error","message":"boom"}\n\n',
    ],
)
def test_an_error_in_a_stream_is_the_providers(event):
    reader = openai_rest.EventReader()
    assert reader.feed(TRANSCRIBED + event) == TRANSCRIBED + event
    assert (reader.feed(b"data: [DONE]\n\n"), reader.error, reader.complete) == (b"", "boom", False)


def test_one_picture_larger_than_a_mebibyte_is_one_event():
    body = events({"type": "image_generation.completed", "b64_json": "A" * 3_000_000, "usage": {"input_tokens": 1}})
    reader = openai_rest.EventReader()
    assert b"".join(reader.feed(body[start : start + 65_536]) for start in range(0, len(body), 65_536)) == body
    assert (reader.end(), reader.complete) == (b"", True)


def test_our_own_error_is_one_that_the_sdk_raises():
    raw = openai_rest.stream_error(status=502, code="upstream_disconnected", message="gone")
    name, data, *_ = raw.split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["message"] == "gone"


@given(st.binary(max_size=400), st.sampled_from(list(openai_rest.OPERATIONS.values())))
def test_no_bytes_make_a_reader_of_answers_raise(body, operation):
    operation.read_json(body)
    operation.kept(body, "application/json")
    reader = openai_rest.EventReader()
    reader.feed(body)
    reader.end()
    reader.assembled()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=10,
)


@given(json_values, st.sampled_from(list(openai_rest.OPERATIONS.values())))
def test_any_json_is_read_or_refused(value, operation):
    body = json.dumps({"model": "m", "input": value, "prompt": value, "stream": value, "n": value}).encode()
    try:
        asked = operation.read(body, content_type=TYPE)
    except wire.InvalidBody:
        return
    assert json.loads(operation.forward(asked, order()).body)["model"] == "upstream-model"
    operation.input_text(asked)


# --- Plain completions ----------------------------------------------------------------------------------------------

COMPLETION = (
    b'data: {"id":"cmpl-1","object":"text_completion","created":1,"choices":[{"text":"Once","index":0,"logprobs":null,'
    b'"finish_reason":null}],"model":"babbage","usage":null}\n\n'
    b'data: {"id":"cmpl-1","object":"text_completion","created":1,"choices":[{"text":" upon","index":0,"logprobs":null,'
    b'"finish_reason":"length"}],"model":"babbage","usage":null}\n\n'
    b'data: {"id":"cmpl-1","object":"text_completion","created":1,"choices":[],"model":"babbage",'
    b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\n'
    b"data: [DONE]\n\n"
)


def test_a_plain_completion_streams_as_it_came_with_its_usage():
    reader = openai_completions.StreamReader(include_usage=True)
    assert reader.feed(COMPLETION) == COMPLETION
    said = reader.answer()
    assert (said.output_text, said.finish_reason, said.usage.output_tokens) == ("Once upon", "length", 2)
    whole = json.loads(reader.assembled())
    assert whole["object"] == "text_completion"
    assert whole["choices"] == [{"index": 0, "text": "Once upon", "finish_reason": "length"}]


def test_usage_that_was_not_asked_for_is_left_out_again():
    asked = openai_completions.read(b'{"model":"m","prompt":"Once","stream":true}')
    sent = json.loads(openai_completions.forward(asked, order()).body)
    assert sent["stream_options"] == {"include_usage": True}
    forwarded = openai_completions.StreamReader(include_usage=False).feed(COMPLETION)
    assert b"usage" not in forwarded
    assert forwarded.count(b"data: ") == 3


def test_every_prompt_is_answered_as_often_as_was_asked():
    asked = openai_completions.read(b'{"model":"m","prompt":["a","b"],"n":2,"best_of":3,"max_tokens":0}')
    assert (asked.n, asked.max_output, asked.message_count) == (6, None, 2)


def test_a_whole_plain_completion_is_read():
    said = openai_completions.read_json(
        b'{"choices":[{"text":"Hi","index":0,"finish_reason":"stop"}],"model":"m",'
        b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
    )
    assert (said.output_text, said.finish_reason, said.usage.input_tokens) == ("Hi", "stop", 1)
    assert openai_completions.read_json(b"{}").error == "The provider's answer has no choices."
