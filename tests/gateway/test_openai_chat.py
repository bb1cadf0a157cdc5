"""Promises of `gateway.dialects.openai_chat`: requests stay the bytes they were, odd answers are understood."""

import contextlib
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects import openai_answer, openai_chat
from gateway.dialects.openai_chat import StreamReader, read, read_json
from gateway.dialects.wire import InvalidBody, InvalidStream, patched

RECORDINGS = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "recordings" / "chat_streams.jsonl").read_text().splitlines()
]
HELLO = [{"role": "user", "content": "hello"}]


def body(**members):
    return json.dumps({"model": "m", "messages": HELLO} | members).encode()


def refusal(raw):
    with pytest.raises(InvalidBody) as caught:
        read(raw)
    return caught.value


# --- requests: reading ----------------------------------------------------------------------------------------------


def test_a_request_tells_what_a_gateway_needs_to_know():
    asked = read(
        body(
            stream=True,
            n=2,
            max_tokens=50,
            max_completion_tokens=70,
            stream_options={"include_usage": True},
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    )

    assert (asked.model, asked.stream, asked.n, asked.max_output) == ("m", True, 2, 70)
    assert (asked.include_usage, asked.has_tools, asked.message_count, asked.images) == (True, True, 1, 0)


def test_what_is_left_out_or_null_has_its_default():
    for asked in (read(body()), read(body(stream=None, n=None, max_tokens=None, stream_options=None, tools=None))):
        assert (asked.stream, asked.n, asked.max_output, asked.include_usage) == (False, 1, None, False)
        assert asked.has_tools is False


def test_max_tokens_counts_where_max_completion_tokens_is_missing():
    assert read(body(max_tokens=5)).max_output == 5


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": "a\u0000b"}, "model"),
        ({"model": "m" * 300}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": [*HELLO, "hi"]}, "messages[1]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": 3}]}, "messages[0].role"),
        ({"messages": HELLO * 10_001}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"tools": {}}, "tools"),
    ],
)
def test_a_wrong_member_is_refused_by_name(members, param):
    error = refusal(body(**members))

    assert error.param == param
    assert str(error).startswith(param.partition(".")[0].partition("[")[0])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b'{"model":"m"',
        b"model=m",
        body() + b"x",
        b"\xff\xfe{}",
        body().replace(b"hello", b"\xff"),
        body().replace(b"hello", b"\xed\xa0\xbd"),
        body().replace(b"hello", b"\\ud83d"),
        body().replace(b"hello", b"\\ud83d and much more text after it"),
        body().replace(b"hello", b"\\ude00 low first"),
        body(extra="x").replace(b'"x"', b'"\\ud83d and more"'),
        body().replace(b"hello", b"\x01"),
        body(extra=1).replace(b"1", b"NaN"),
    ],
)
def test_what_is_no_json_object_is_refused(raw):
    refusal(raw)


def nested(depth, opening=b"[", closing=b"]"):
    return body(extra="DEEP").replace(b'"DEEP"', opening * depth + closing * depth)


@pytest.mark.parametrize("depth", [64, 200, 1_000, 100_000, 1_000_000])
def test_hostile_nesting_is_refused(depth):
    assert "nested" in str(refusal(nested(depth)))
    assert "nested" in str(refusal(nested(max(depth // 2, 33), b'{"a":[', b"]}")))
    deep = b"[" * depth + b"]" * depth
    assert "nested" in str(refusal(b'{"model":"m","messages":[{"role":"user","content":' + deep + b"}]}"))
    for name in (b"role", b"image_url", b"type", b"x"):
        hidden = b'{"role":"user","' + name + b'":[' + deep + b"]}"
        refusal(b'{"model":"m","messages":[' + hidden + b"]}")
    refusal(b'{"model":' + b"[" * depth)


def test_brackets_inside_strings_are_no_nesting():
    text = '[{"\\' * 500 + '"' * 7 + "\\" * 9
    messages = [{"role": "user", "content": text}, {"role": "user", "content": "]}" * 99, "[[": '"{"', "\\": '"'}]
    asked = read(body(messages=messages * 3, extra=["[", "[[", '"', "]", '\\"[']))

    assert asked.messages == messages * 3
    read(nested(63))
    for around in ('"]]]]', "]" * 80, '\\"' + "]" * 80):
        refusal(nested(70, b"[" + json.dumps(around).encode() + b","))


def test_wide_bodies_are_read_quickly_or_refused():
    read(body(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}] * 20_000}]))
    read(body(messages=[{"role": "user", "content": "{[" * 1_000_000}]))
    assert "too many" in str(refusal(body(extra=[[]] * 130_000)))
    assert "too many" in str(refusal(body(messages=[{"role": "user", "content": [[]] * 130_000}])))


def test_input_bytes_are_the_utf8_bytes_of_all_texts_and_tools_without_images():
    parts = [
        {"type": "text", "text": "häh?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    asked = read(
        body(
            messages=[
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": parts},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":1}'}}]},
            ],
            tools=tools,
        )
    )

    assert asked.images == 2
    texts = ["be kind", "häh?", "f", '{"a":1}', json.dumps(tools)]
    assert asked.input_bytes == sum(len(text.encode()) for text in texts)


def test_files_count_with_all_their_bytes_but_are_not_text_to_tokenize():
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "A" * 1_000}}
    asked = read(body(messages=[{"role": "user", "content": [part, {"type": "text", "text": "sum up"}]}]))

    assert asked.input_bytes > 1_000
    assert openai_chat.input_text(asked) == "a.pdf\nsum up"


def test_the_text_of_a_prompt_is_its_strings_and_its_tools():
    asked = read(b'{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[{"x":1}]}')

    assert openai_chat.input_text(asked) == 'hi\n[{"x":1}]'


# --- requests: patching ---------------------------------------------------------------------------------------------

ODD = b""" { "model" : "m" , "messages":[ {"role":"user","content":"h\\u00e9 \\/"} ],
  "temperature":1.0, "logit_bias":{"50256" : -100}, "big":123456789012345678901234567890, "e":1E+2 } """


def test_an_unchanged_request_is_the_bytes_as_they_came():
    for raw in (ODD, body(), body(x=[1, 2]).replace(b" ", b"")):
        assert patched(read(raw)) is raw
        assert patched(read(raw), model="m", drop={"absent"}, set_members={}) is raw


def test_setting_what_is_already_so_changes_nothing():
    raw = b'{"model":"m","messages":[{"role":"user"}],"max_tokens":5}'

    assert patched(read(raw), set_members={"max_tokens": b"5"}) is raw


def test_a_changed_request_keeps_every_other_member_byte_for_byte_and_in_order():
    changed = patched(
        read(ODD), model="vendor/m-2", drop={"temperature"}, set_members={"e": b"1", "stream_options": b'{"x":1}'}
    )

    assert changed == (
        b'{"model":"vendor/m-2","messages":[ {"role":"user","content":"h\\u00e9 \\/"} ],'
        b'"logit_bias":{"50256" : -100},"big":123456789012345678901234567890,"e":1,"stream_options":{"x":1}}'
    )


def test_a_member_that_is_dropped_and_set_is_set():
    raw = b'{"model":"m","messages":[{"role":"user"}],"max_tokens":5,"x":1}'

    assert patched(read(raw), drop={"max_tokens"}, set_members={"max_tokens": b"7"}) == raw.replace(b"5", b"7")


def test_a_member_given_twice_reaches_the_provider_once():
    """Otherwise the provider might take the one we did not see: a dearer model, a larger limit."""
    for raw in (
        b'{"model":"dear","messages":[{"role":"user"}],"model":"cheap"}',
        b'{"model":"cheap","messages":[{"role":"user"}],"max_tokens":100000 , "max_tokens":1}',
        b'{"mod\\u0065l":"dear","model":"cheap","messages":[{"role":"user"}]}',
    ):
        asked = read(raw)
        sent = json.loads(patched(asked), object_pairs_hook=list)
        names = [name for name, _ in sent]

        assert asked.model == "cheap"
        assert len(names) == len(set(names))
        assert dict(sent)["model"] == "cheap"
        assert dict(sent).get("max_tokens", 1) == 1


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(
    extra=st.dictionaries(st.text(max_size=6).map(lambda name: "x" + name), JSON_VALUES, max_size=5),
    spaced=st.booleans(),
    ascii_only=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_patching_never_changes_what_it_does_not_name(extra, spaced, ascii_only):
    value = {"model": "m", "messages": HELLO} | extra
    separators = (" , ", " : ") if spaced else (",", ":")
    raw = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode("utf-8", "surrogatepass")
    try:
        asked = read(raw)
    except InvalidBody:
        assert any(0xD800 <= ord(char) < 0xE000 for char in json.dumps(value, ensure_ascii=False))
        return

    sent = json.loads(patched(asked, model="other"))
    assert sent == json.loads(raw) | {"model": "other"}
    assert json.loads(patched(asked)) == json.loads(raw)


@given(raw=st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_no_bytes_whatsoever_raise_anything_but_invalid_body(raw):
    for candidate in (raw, b'{"model":"m","messages":[{"role":"user"}],"x":' + raw + b"}"):
        with contextlib.suppress(InvalidBody):
            patched(read(candidate), model="x")


def test_usage_is_asked_for_beside_the_other_options_of_a_stream():
    assert openai_chat.with_usage(None) == b'{"include_usage":true}'
    assert openai_chat.with_usage(msgspec.Raw(b"null")) == b'{"include_usage":true}'
    options = msgspec.Raw(b'{"include_obfuscation":false,"include_usage":false}')
    assert json.loads(openai_chat.with_usage(options)) == {"include_obfuscation": False, "include_usage": True}


# --- answers --------------------------------------------------------------------------------------------------------


def answer(**members):
    message = {"role": "assistant", "content": "Hello."}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps({"id": "1", "model": "m-1", "choices": choices} | members).encode()


def test_an_answer_is_read():
    found = read_json(answer(usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}))

    assert found.usage == Usage(input_tokens=5, output_tokens=2)
    assert (found.model, found.finish_reason, found.error) == ("m-1", "stop", None)


def test_the_text_of_an_answer_is_there_to_be_counted_when_usage_is_missing():
    found = read_json(answer())

    assert (found.usage, found.output_text) == (None, "Hello.")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.integers(-2, 60) | st.none()
            for name in (
                "prompt_tokens",
                "completion_tokens",
                "total_tokens",
                "cached_tokens",
                "prompt_cache_hit_tokens",
            )
        },
    )
)
def test_the_quick_reading_of_usage_agrees_with_the_full_one(reported):
    body = answer(usage=reported)
    full = json.loads(body)
    meter = openai_answer.Meter()
    meter.take(full)

    quick = openai_answer.usual(body)

    assert quick is None or quick[0] == meter.usage


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
            Usage(
                input_tokens=100,
                output_tokens=50,
                cache_read_input_tokens=60,
                cache_creation_input_tokens=30,
                reasoning_output_tokens=20,
            ),
        ),
        (  # xAI: the total says that reasoning lies outside
            {
                "prompt_tokens": 12,
                "completion_tokens": 1,
                "total_tokens": 303,
                "completion_tokens_details": {"reasoning_tokens": 290},
            },
            Usage(input_tokens=12, output_tokens=291, reasoning_output_tokens=290),
        ),
        (  # DeepSeek
            {"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2},
            Usage(input_tokens=10, output_tokens=2, cache_read_input_tokens=8),
        ),
        (  # Moonshot, Together
            {"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 4},
            Usage(input_tokens=10, output_tokens=2, cache_read_input_tokens=4),
        ),
        ({"prompt_tokens": 10.0, "completion_tokens": 2}, Usage(input_tokens=10, output_tokens=2)),
        ({"prompt_tokens": 10, "completion_tokens": 0}, Usage(input_tokens=10)),
        (  # cannot be: more from the cache than there was, more reasoning than was written
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 99, "cache_write_tokens": 99},
                "completion_tokens_details": {"reasoning_tokens": 99},
            },
            Usage(input_tokens=10, output_tokens=5, cache_read_input_tokens=10, reasoning_output_tokens=5),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -3}},
            Usage(input_tokens=10, output_tokens=5),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": "x"},
            Usage(input_tokens=10, output_tokens=5),
        ),
    ],
)
def test_usage_is_normalised(reported, usage):
    assert read_json(answer(usage=reported)).usage == usage


@pytest.mark.parametrize(
    "reported",
    [
        None,
        {},
        [],
        "many",
        {"total_tokens": 5},
        {"prompt_tokens": "12", "completion_tokens": "3"},
        {"prompt_tokens": -1, "completion_tokens": 3},
        {"prompt_tokens": 5, "completion_tokens": 10**15},
        {"prompt_tokens": 5, "completion_tokens": True},
        {"prompt_tokens": 5.5, "completion_tokens": 3},
        {"prompt_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": None},
    ],
)
def test_usage_that_cannot_be_is_no_usage(reported):
    assert read_json(answer(usage=reported)).usage is None


def test_tool_calls_reasoning_and_lists_of_parts_are_text_that_was_written():
    message = {
        "content": [{"type": "text", "text": "A"}, {"type": "thinking", "thinking": [{"type": "text", "text": "B"}]}],
        "reasoning_content": "C",
        "refusal": "D",
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"x": 1}}}, {"function": {"name": "g"}}],
    }
    found = read_json(answer(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}]))

    for written in ("A", "B", "C", "D", "f", '{"x":1}', "g"):
        assert written in found.output_text


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "not JSON"),
        (b"{}", "no choices"),
        (b'{"error":{"message":"no more","code":429}}', "no more"),
        (b'{"error":"flat"}', "flat"),
        (b'{"error":{"code":402}}', "402"),
        (b'{"object":"error","message":"mistral"}', "mistral"),
        (b'{"detail":"missing"}', "missing"),
        (b'{"detail":[{"msg":"field required"}]}', "field required"),
        (b'{"base_resp":{"status_code":1004,"status_msg":"bad key"},"choices":null}', "bad key"),
        (b'{"choices":[{"error":{"message":"in the choice"},"finish_reason":"error"}]}', "in the choice"),
        (b'{"choices":[{"finish_reason":"error"}]}', "reported an error"),
    ],
)
def test_a_successful_status_with_an_error_inside_is_an_error(raw, message):
    assert message in read_json(raw).error


@given(value=JSON_VALUES, raw=st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_answer_whatsoever_raises(value, raw):
    read_json(raw)
    read_json(json.dumps({"choices": [value], "usage": value}).encode())
    read_json(json.dumps({"choices": [{"message": value, "error": value}], "base_resp": value}).encode())


def test_halves_of_surrogate_pairs_and_nan_do_not_hide_the_usage():
    raw = answer(usage={"prompt_tokens": 5, "completion_tokens": 2}).replace(b"Hello.", b"\\ud83d \\ud83d\\ude00")
    found = read_json(raw.replace(b'"id": "1"', b'"id": NaN'))

    assert found.usage == Usage(input_tokens=5, output_tokens=2)
    assert found.output_text == " \U0001f600"


# --- streams --------------------------------------------------------------------------------------------------------


def event(value):
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def chunk(delta=None, *, reason=None, index=0, **members):
    choice = {"index": index, "delta": delta or {}, "finish_reason": reason}
    envelope = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m-1"}
    return event(envelope | {"choices": [choice]} | members)


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
ONLY_USAGE = event({"id": "c1", "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"


def run(stream, *, size=None, include_usage=True):
    """Read a stream in blocks; return the reader and all it forwarded."""
    reader = StreamReader(include_usage=include_usage)
    size = size or len(stream) or 1
    forwarded = b"".join(reader.feed(stream[i : i + size]) for i in range(0, len(stream), size))
    return reader, forwarded + reader.end()


@pytest.mark.parametrize("row", RECORDINGS, ids=[row["name"] for row in RECORDINGS])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_recorded_streams_go_through_unchanged_and_are_understood(row, size):
    stream = row["stream"].encode()
    reader, forwarded = run(stream, size=size)

    assert forwarded == stream
    assert reader.complete
    assert reader.usage is not None
    assert (reader.assembled(), reader.answer()) == (run(stream)[0].assembled(), run(stream)[0].answer())


EXPECTED = {
    "azure model router": ("assistant", Usage(input_tokens=15, output_tokens=78, reasoning_output_tokens=64)),
    "groq tool call": ('"tool_calls":[{"id":', Usage(input_tokens=210, output_tokens=15)),
    "mistral reasoning": ("2 + 2 = 4", Usage(input_tokens=10, output_tokens=46)),
    "mistral tool call": ('{\\"location\\": \\"San Francisco\\"}', Usage(input_tokens=124, output_tokens=22)),
    "moonshot": ("Thinking aloud. ", Usage(input_tokens=9, output_tokens=12, reasoning_output_tokens=7)),
    "openrouter tool call": ("tool_calls", Usage(input_tokens=57, output_tokens=17)),
    "openai with usage": ("length", Usage(input_tokens=12, output_tokens=100, reasoning_output_tokens=100)),
    "xai reasoning": (
        "First",
        Usage(input_tokens=12, output_tokens=291, reasoning_output_tokens=290, cache_read_input_tokens=11),
    ),
}


@pytest.mark.parametrize("row", RECORDINGS, ids=[row["name"] for row in RECORDINGS])
def test_recorded_usage_and_text_are_found(row):
    text, usage = EXPECTED[row["name"]]
    reader, _ = run(row["stream"].encode(), size=7)

    assert reader.usage == usage
    assert text in reader.assembled().decode()


@pytest.mark.parametrize("row", RECORDINGS, ids=[row["name"] for row in RECORDINGS])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_client_that_did_not_ask_for_usage_gets_everything_else(row, size):
    stream = row["stream"].encode()
    _, forwarded = run(stream, size=size, include_usage=False)
    sent = [json.loads(part[6:]) for part in forwarded.decode().split("\n\n") if part.startswith("data: {")]
    came = [json.loads(part[6:]) for part in row["stream"].split("\n\n") if part.startswith("data: {")]

    expected = [item for item in came if item.get("choices") or not item.get("usage")]
    for item in expected:
        if item.get("usage", 0) is None:
            del item["usage"]
    assert sent == expected
    assert forwarded.endswith(DONE)


def test_the_usage_chunk_and_null_usage_are_left_out_byte_for_byte():
    start, finish = chunk({"content": "hi"}, usage=None), chunk(reason="stop", usage=None)
    reader, forwarded = run(start + finish + ONLY_USAGE + DONE, include_usage=False)

    assert forwarded == chunk({"content": "hi"}) + chunk(reason="stop") + DONE
    assert reader.usage == Usage(input_tokens=5, output_tokens=2)


def test_null_usage_in_any_place_and_spacing_is_left_out():
    spaced = b'data: {"usage": null, "choices": [{"index": 0, "delta": {"content": "\\"usage\\":null"}}], "x": 1}\n\n'
    _, forwarded = run(spaced, include_usage=False)

    assert json.loads(forwarded[6:]) == {"choices": [{"index": 0, "delta": {"content": '"usage":null'}}], "x": 1}


def test_usage_a_provider_puts_on_a_chunk_with_a_choice_stays_there():
    stream = chunk({"content": "hi"}) + chunk(reason="stop", usage=USAGE) + DONE
    reader, forwarded = run(stream, include_usage=False)

    assert forwarded == stream
    assert reader.usage == Usage(input_tokens=5, output_tokens=2)


def test_usage_under_x_groq_and_inside_a_choice_is_found():
    groq, _ = run(chunk({"content": "a"}) + chunk(reason="stop", x_groq={"id": "r", "usage": USAGE}) + DONE)
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}
    moonshot, _ = run(chunk({"content": "a"}) + event({"choices": [choice]}) + DONE)

    assert groq.usage == moonshot.usage == Usage(input_tokens=5, output_tokens=2)


def test_usage_on_every_chunk_counts_once_with_its_largest_figures():
    growing = [{"prompt_tokens": 5, "completion_tokens": written} for written in (0, 1, 2)]
    stream = b"".join(chunk({"content": "a"}, usage=usage) for usage in growing) + DONE
    parts = [{"prompt_tokens": 5}, {"completion_tokens": 2}]
    split = b"".join(event({"choices": [], "usage": part}) for part in parts)

    assert run(stream)[0].usage == run(split)[0].usage == Usage(input_tokens=5, output_tokens=2)


@pytest.mark.parametrize("wrong", [{"prompt_tokens": "5", "completion_tokens": -1}, [], "x", {"prompt_tokens": 5}])
def test_absurd_usage_in_a_stream_is_no_usage(wrong):
    assert run(chunk({"content": "a"}, usage=wrong) + DONE)[0].usage is None


def test_a_stream_is_complete_with_done_or_with_a_finish_reason_for_each_choice():
    said = chunk({"content": "a"})
    assert run(said + DONE)[0].complete
    assert run(said + chunk(reason="stop"))[0].complete
    assert not run(said)[0].complete
    assert not run(b"")[0].complete
    both = said + chunk({"content": "b"}, index=1) + chunk(reason="stop", index=1)
    assert not run(both)[0].complete
    assert run(both + chunk(reason="stop"))[0].complete


def test_a_missing_done_is_added_to_a_complete_stream_and_only_there():
    said, ended = chunk({"content": "a"}), chunk(reason="stop")

    assert run(said + ended)[1] == said + ended + DONE
    assert run(said + ended + DONE)[1] == said + ended + DONE
    assert run(said)[1] == said
    assert run(said + ended + b"data: [DONE]")[1] == said + ended + DONE


def test_an_event_that_was_cut_off_is_not_forwarded():
    said = chunk({"content": "a"})

    assert run(said + b'data: {"id":"c1","choi')[1] == said
    assert run(said + chunk(reason="stop")[:-2])[1] == said + chunk(reason="stop") + DONE


def test_only_whole_events_are_forwarded_and_at_once():
    reader, said = StreamReader(include_usage=True), chunk({"content": "a"})

    assert reader.feed(said[:20]) == b""
    assert reader.feed(said[20:] + said[:5]) == said
    assert reader.feed(b": ping\n\n"[:0]) == b""


def test_comments_and_named_events_pass_and_start_nothing():
    reader = StreamReader(include_usage=True)
    comment = b": OPENROUTER PROCESSING\n\n"

    assert reader.feed(comment) == comment
    assert reader.started is False
    reader.feed(chunk({"role": "assistant", "content": ""}))
    assert reader.started is True


@pytest.mark.parametrize(
    "failure",
    [
        event({"error": {"message": "overloaded", "type": "server_error"}}),
        b"event: error\n" + event({"error": {"message": "overloaded"}}),
        event({"code": "x", "error": "overloaded"}),
        event({"object": "error", "message": "overloaded", "type": "x", "code": 3}),
        chunk(reason="error", error={"code": 502, "message": "overloaded"}),
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"message": "overloaded"}}]}),
    ],
)
def test_an_error_in_a_stream_is_forwarded_and_never_looks_complete(failure):
    said = chunk({"content": "a"})
    for include_usage in (True, False):
        reader, forwarded = run(said + failure + chunk(reason="stop") + DONE, include_usage=include_usage)

        assert reader.error == "overloaded"
        assert not reader.complete
        assert forwarded == said + failure + chunk(reason="stop")
        assert json.loads(reader.assembled())["error"] == {"message": "overloaded"}


def test_tool_calls_are_put_together_from_their_pieces():
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
    other = {"index": 1, "id": "call_2", "type": "custom", "custom": {"name": "run", "input": "ls"}}
    stream = (
        chunk({"role": "assistant", "content": None, "tool_calls": [first]})
        + chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]})
        + chunk({"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": "1}"}}, other]})
        + chunk(reason="tool_calls")
        + DONE
    )
    reader, _ = run(stream, size=7)

    assert json.loads(reader.assembled())["choices"][0] == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
                {"id": "call_2", "type": "custom", "custom": {"name": "run", "input": "ls"}},
            ],
        },
        "finish_reason": "tool_calls",
    }
    assert reader.delivered_text == 'look{"a":1}runls'


def test_tool_calls_without_an_index_are_told_apart_by_their_ids():
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    reader, _ = run(chunk({"tool_calls": calls}) + chunk({"tool_calls": [{"function": {"arguments": "x"}}]}))
    made = json.loads(reader.assembled())["choices"][0]["message"]["tool_calls"]

    assert [(call["id"], call["function"]["arguments"]) for call in made] == [("a", "{}"), ("b", "{}x")]


def test_choices_that_take_turns_are_kept_apart():
    stream = b"".join(chunk({"content": text}, index=index) for index, text in [(1, "b"), (0, "a"), (1, "B"), (0, "A")])
    reader, _ = run(stream + chunk(reason="stop") + chunk(reason="length", index=1) + DONE)
    choices = json.loads(reader.assembled())["choices"]

    assert [choice["message"]["content"] for choice in choices] == ["aA", "bB"]
    assert reader.answer().finish_reason == "stop"


def test_an_assembled_stream_is_one_completion():
    stream = chunk({"role": "assistant", "content": "Hel"}, system_fingerprint="fp") + chunk({"content": "lo"})
    stream += chunk({"reasoning": "hm"}) + chunk({"refusal": "no"}) + chunk(reason="stop") + ONLY_USAGE + DONE
    reader, _ = run(stream)

    assert json.loads(reader.assembled()) == {
        "id": "c1",
        "object": "chat.completion",
        "created": 7,
        "model": "m-1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "reasoning_content": "hm", "refusal": "no"},
                "finish_reason": "stop",
            }
        ],
        "system_fingerprint": "fp",
        "usage": USAGE,
    }
    assert reader.answer() == openai_chat.Answer(Usage(input_tokens=5, output_tokens=2), "m-1", "stop", "hmHellono")


def test_a_stream_that_was_left_early_tells_what_was_delivered():
    reader = StreamReader(include_usage=True)
    reader.feed(chunk({"content": "Hel"}) + chunk({"content": "lo"})[:-2])

    assert reader.delivered_text == "Hel"
    assert json.loads(reader.assembled())["choices"][0]["finish_reason"] is None


def test_strange_chunks_pass_without_harm():
    strange = b"".join(
        [
            b"data: not json\n\n",
            b"data: [1,2]\n\n",
            b"data: {}\n\n",
            event({"choices": "x"}),
            event({"choices": [None, 3, {"index": "x", "delta": 5}, {"delta": {"content": 5, "tool_calls": [1, {}]}}]}),
            event({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": "x"}], "audio": {"data": "AAAA"}}}]}),
            b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}],"usage":null}\n\n',
            b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n',
            b"data: " + b"[" * 50_000 + b"\n\n",
            b"id: 1\nretry: 5\n\n",
        ]
    )
    for include_usage in (True, False):
        reader, forwarded = run(strange + chunk(reason="stop") + DONE, include_usage=include_usage)

        assert reader.complete
        assert forwarded.endswith(chunk(reason="stop") + DONE)
        reader.assembled()


@given(values=st.lists(JSON_VALUES, max_size=4), include_usage=st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_stream_of_json_raises(values, include_usage):
    wrapped = [*values, *({"choices": [value], "usage": value} for value in values)]
    wrapped += [{"choices": [{"delta": value, "finish_reason": value}], "error": value} for value in values]
    reader, _ = run(b"".join(event(value) for value in wrapped), include_usage=include_usage)
    json.loads(reader.assembled())
    reader.answer()


def test_an_endless_event_is_an_invalid_stream():
    reader = StreamReader(include_usage=True)
    with pytest.raises(InvalidStream):
        reader.feed(b"data: " + b"x" * (2 * 1024 * 1024))


def test_what_is_remembered_of_a_stream_is_limited_and_its_end_is_still_seen():
    reader = StreamReader(include_usage=True)
    part = chunk({"content": "x" * 1_000_000})
    for _ in range(40):
        reader.feed(part)
    reader.feed(chunk(reason="stop") + ONLY_USAGE + DONE)

    assert len(reader.delivered_text) < 34_000_000
    assert reader.complete
    assert reader.usage == Usage(input_tokens=5, output_tokens=2)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "insufficient_credits"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_exceeded"),
        (500, "server_error"),
        (502, "server_error"),
        (503, "overloaded"),
        (504, "timeout"),
    ],
)
def test_an_error_has_openai_s_shape_and_a_type_by_its_status(status, kind):
    made = json.loads(openai_chat.error(status=status, code="c", message="m", param="p", extra={"needed_nano": "5"}))

    assert made == {
        "error": {"message": "m", "type": kind, "param": "p", "code": "c", "needed_nano": "5"},
        "detail": "m",
    }
    assert openai_chat.is_error_body(json.dumps(made).encode())


def test_an_error_in_a_stream_is_one_event_with_an_error_and_a_finish_reason():
    raw = openai_chat.stream_error(status=502, code="upstream_disconnected", message="gone")
    made = json.loads(raw.removeprefix(b"data: "))

    assert raw.endswith(b"}\n\n")
    assert made["error"] == {"message": "gone", "type": "server_error", "param": None, "code": "upstream_disconnected"}
    assert made["choices"][0]["finish_reason"] == "error"
    assert run(raw)[0].error == "gone"


@pytest.mark.parametrize(
    ("raw", "message", "is_openai"),
    [
        (b'{"error":{"message":"m","type":"t"}}', "m", True),
        (b'{"error":"m"}', "m", False),
        (b'{"detail":"m"}', "m", False),
        (b'[{"error":{"message":"m"}}]', None, False),
        (b"<html>", None, False),
        (b"", None, False),
        (b"{}", None, False),
    ],
)
def test_the_message_of_a_provider_s_error_is_found(raw, message, is_openai):
    assert openai_chat.error_message(raw) == message
    assert openai_chat.is_error_body(raw) is is_openai
