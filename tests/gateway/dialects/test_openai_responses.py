"""Promises of `gateway.dialects.openai_responses`: requests stay the bytes they were, streams are read beside."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects import blocks
from gateway.dialects.openai_responses import (
    StreamReader,
    error_message,
    forward,
    input_text,
    read,
    read_json,
    stream_error,
)
from gateway.dialects.openai_responses_decode import answer
from gateway.dialects.openai_responses_seal import SEAL
from gateway.dialects.wire import InvalidBody
from tests.gateway.dialects.facts import Gpt

LINES = (Path(__file__).parents[2] / "recordings" / "responses_streams.jsonl").read_text().splitlines()
RECORDED = {row["name"]: row["stream"].encode() for row in map(json.loads, LINES)}
OURS = frozenset({"metadata", "prompt", "customer_identifier", "respan_params"})


def body(**members):
    return json.dumps({"model": "gpt-5", "input": "hello"} | members).encode()


def order(**members):
    return blocks.Order(**{"model": Gpt(), "ours": OURS} | members)


def sent(raw, **members):
    return json.loads(forward(read(raw), order(**members)).body)


def refused_on_credits(**members):
    with pytest.raises(blocks.Unsupported) as caught:
        forward(read(body(**members)), order(credits=True, max_output=100))
    return caught.value.param


# --- requests -------------------------------------------------------------------------------------------------------


def test_a_request_tells_what_a_gateway_needs_to_know():
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hé"}, {"type": "input_image", "image_url": "u"}]},
        {"type": "function_call_output", "call_id": "c", "output": "xyz"},
    ]
    asked = read(body(input=items, instructions="be", max_output_tokens=7, stream=True, tools=[{"type": "function"}]))

    assert (asked.model, asked.stream, asked.max_output, asked.has_tools) == ("gpt-5", True, 7, True)
    assert (asked.images, asked.message_count) == (1, 3)
    assert asked.input_bytes == len("hé".encode()) + len("xyz") + len('"be"') + len('[{"type": "function"}]')


def test_the_text_of_a_prompt_has_no_ids_files_or_images():
    items = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {"role": "user", "content": [{"type": "input_file", "file_data": "QUJD"}, {"type": "input_text", "text": "a"}]},
    ]
    assert input_text(read(body(input=items, instructions="Be brief."))) == "Be brief.\na"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"input": [{"type": 5}]}, "input[0].type"),
        ({"input": [{"role": "user"}, {"role": []}]}, "input[1].role"),
        ({"tools": {}}, "tools"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stream": 1}, "stream"),
        ({"model": ""}, "model"),
    ],
)
def test_a_request_that_cannot_be_understood_is_refused_by_its_member(members, param):
    with pytest.raises(InvalidBody) as caught:
        read(body(**members))
    assert caught.value.param == param


def test_a_stored_prompt_or_conversation_needs_no_input():
    for name in ("prompt", "previous_response_id", "conversation"):
        raw = json.dumps({"model": "m", name: {"id": "x"}}).encode()
        assert read(raw).input == []


# --- passing on -----------------------------------------------------------------------------------------------------


def test_an_untouched_request_is_the_same_bytes():
    raw = b'{ "model":"gpt-5","input":"hi",  "previous_response_id":"resp_1", "background":true,"store":true,"x":1 }'
    asked = read(raw)

    passed = forward(asked, order())

    assert passed.body is asked.body
    assert (passed.path, passed.dropped) == ("/responses", [])


def test_the_model_and_the_limit_are_the_gateways_and_its_own_members_stay_here():
    members = sent(body(customer_identifier="c", max_output_tokens=9), model=Gpt(upstream="up"), max_output=5)
    assert members == {"model": "up", "input": "hello", "max_output_tokens": 5}


def test_a_prompt_of_openais_goes_on_and_one_of_respans_does_not():
    assert "prompt" in sent(body(prompt={"id": "pmpt_1"}))
    assert "prompt" not in sent(body(prompt={"prompt_id": "042f5f", "variables": {}}))


def test_metadata_goes_on_only_with_a_response_that_is_stored():
    assert sent(body(metadata={"a": "b"}))["metadata"] == {"a": "b"}
    assert "metadata" not in sent(body(metadata={"a": "b"}, store=False))
    assert "metadata" not in sent(body(metadata={"a": {"not": "OpenAI's"}}))
    assert "metadata" not in sent(body(metadata={"a": "b"}), credits=True)


def test_what_the_model_refuses_is_dropped_by_this_apis_name_and_reported():
    model = Gpt(unsupported=frozenset({"temperature", "reasoning_effort", "max_tokens", "stop"}))
    passed = forward(read(body(temperature=1, reasoning={"effort": "low"}, max_output_tokens=5)), order(model=model))

    assert json.loads(passed.body) == {"model": "gpt-5", "input": "hello", "max_output_tokens": 5}
    assert passed.dropped == ["reasoning", "temperature"]


def test_reasoning_that_we_sealed_for_another_vendor_does_not_reach_openai():
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": SEAL + "abc"}
    own = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"}
    said = {"role": "user", "content": f"what is {SEAL}?"}

    assert sent(body(input=[sealed, own, said]))["input"] == [own, said]


def test_on_credits_nothing_is_stored_and_nothing_changes_the_price():
    raw = body(service_tier="priority", prompt_cache_options={"ttl": "12h"}, include=["x"], temperature=1)
    passed = forward(read(raw), order(credits=True, max_output=50, repriced_by=frozenset({"service_tier"})))

    assert json.loads(passed.body) == {
        "model": "gpt-5",
        "input": "hello",
        "temperature": 1,
        "store": False,
        "max_output_tokens": 50,
        "include": ["x", "reasoning.encrypted_content"],
    }
    assert passed.dropped == ["prompt_cache_options", "service_tier"]


def test_on_credits_encrypted_reasoning_is_asked_of_models_that_reason_only():
    model = Gpt(capabilities=frozenset({"streaming"}))
    assert "include" not in sent(body(), model=model, credits=True)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"tools": [{"type": "function", "name": "f"}, {"type": "file_search"}]}, "tools[1]"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tools[0]"),
        ({"tools": [{"type": "mcp", "server_url": "https://x.test"}]}, "tools[0]"),
        ({"tools": [{"type": "file_search"}]}, "tools[0]"),
        ({"input": [{"type": "item_reference", "id": "rs_1"}]}, "input[0]"),
        ({"input": [{"id": "rs_1"}]}, "input[0]"),
        ({"input": [{"type": "image_generation_call", "id": "ig_1"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
            "input[0].content[0].file_id",
        ),
        (
            {"input": [{"type": "function_call_output", "output": [{"type": "input_image", "file_id": "file-1"}]}]},
            "input[0].output[0].file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://x.test"}]}]},
            "input[0].content[0].file_url",
        ),
        (
            {"input": [{"role": "user", "content": [{"prompt_cache_breakpoint": {"ttl": "12h"}}]}]},
            "input[0].content[0].prompt_cache_breakpoint.ttl",
        ),
    ],
)
def test_on_credits_what_lives_in_the_operators_account_is_refused(members, param):
    assert refused_on_credits(**members) == param


def test_on_credits_a_search_the_model_may_make_is_left_out_and_reported():
    function = {"type": "function", "name": "f"}
    passed = forward(read(body(tools=[function, {"type": "web_search"}])), order(credits=True, max_output=100))
    assert (json.loads(passed.body)["tools"], passed.dropped) == ([function], ["tools.web_search"])


def test_on_credits_a_prompt_of_respans_is_no_stored_prompt():
    assert "prompt" not in sent(body(prompt={"prompt_id": "042f5f"}), credits=True)


# --- answers --------------------------------------------------------------------------------------------------------


def response(**members):
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 15,
    }
    return {"id": "resp_1", "model": "gpt-5", "status": "completed", "output": [], "usage": usage} | members


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"output": [SAID]}, "stop"),
        ({"output": [SAID, CALL]}, "tool_calls"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "queued"}, None),
        ({"status": "failed", "error": {"code": "server_error", "message": "no"}}, "error"),
    ],
)
def test_a_status_is_read_as_a_reason_to_finish(members, reason):
    assert read_json(json.dumps(response(**members)).encode()).finish_reason == reason


def test_usage_is_normalised():
    assert read_json(json.dumps(response()).encode()).usage == Usage(
        input_tokens=10,
        output_tokens=5,
        cache_read_input_tokens=4,
        cache_creation_input_tokens=2,
        reasoning_output_tokens=3,
    )


def test_without_usage_the_text_is_there_to_be_counted():
    answer = read_json(json.dumps(response(usage=None, output=[SAID, CALL])).encode())
    assert (answer.usage, answer.output_text) == (None, "Hif{}")


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"{}", b'{"error":{"message":"no"}}', b'{"detail":"no"}'])
def test_what_is_no_answer_has_an_error(raw):
    assert read_json(raw).error


JUNK = st.sampled_from(
    [None, True, -1, 2.5, "x", [], {}, [None], [{}], {"type": 5}, [{"type": "message", "content": 7}]]
)
NAMES = ("output", "usage", "error", "status", "model", "incomplete_details", "service_tier", "created_at")


@given(st.dictionaries(st.sampled_from(NAMES), JUNK))
@settings(max_examples=100, deadline=None)
def test_no_answer_makes_the_reader_raise(value):
    raw = json.dumps(response() | value).encode()
    read_json(raw)
    answer(raw)


# --- streams --------------------------------------------------------------------------------------------------------


def passed_through(raw, size):
    reader = StreamReader(include_usage=True)
    out = b"".join(reader.feed(raw[at : at + size]) for at in range(0, len(raw), size)) + reader.end()
    return reader, out


@pytest.mark.parametrize("size", [1, 7, 64, 1_000_000])
@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_passes_as_it_came_up_to_its_last_event(name, size):
    raw = RECORDED[name]
    reader, out = passed_through(raw, size)

    assert out == raw.partition(b"data: [DONE]")[0]
    assert reader.started is (name != "no money left")  # which failed before it said anything
    assert reader.complete is (name != "no money left")


def test_a_stream_tells_usage_model_and_why_it_ended():
    reader, _ = passed_through(RECORDED["a function call"], 100)
    answer = reader.answer()

    assert answer.finish_reason == "tool_calls"
    assert answer.model.startswith("gpt-4o")
    assert answer.usage.input_tokens > 0
    assert json.loads(reader.assembled())["output"][0]["type"] == "function_call"


def test_a_failed_stream_has_an_error_and_is_not_complete():
    reader, _ = passed_through(RECORDED["no money left"], 100)

    assert not reader.complete
    assert reader.error.startswith("You exceeded your current quota")
    assert reader.answer().error == reader.error


def test_a_stream_that_stopped_early_is_assembled_from_what_came():
    raw = RECORDED["a function call"]
    cut = raw.index(b"event: response.function_call_arguments.done")
    reader, _ = passed_through(raw[:cut], 64)

    whole = json.loads(reader.assembled())
    assert not reader.complete
    assert whole["status"] == "in_progress"
    assert whole["output"][0]["type"] == "function_call"
    assert reader.answer().output_text == whole["output"][0]["name"] + whole["output"][0]["arguments"]


def test_texts_that_were_cut_are_assembled_part_by_part():
    events = [
        {"type": "response.created", "response": {"id": "r", "model": "m", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "id": "rs"}},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 1, "delta": "b"},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "a"},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "Hel"},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "lo"},
    ]
    reader, _ = passed_through(b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events), 50)

    assert json.loads(reader.assembled())["output"] == [
        {
            "type": "reasoning",
            "id": "rs",
            "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}],
        },
        {"type": "message", "content": [{"type": "output_text", "text": "Hello", "annotations": []}]},
    ]
    assert reader.answer().output_text == "a\n\nbHello"


def test_an_event_that_was_cut_off_is_not_forwarded():
    raw = RECORDED["a function call"][:-40]
    reader, out = passed_through(raw, 1_000)
    assert out == raw[: raw.rindex(b"event: ")]
    assert not reader.complete


# --- errors ---------------------------------------------------------------------------------------------------------


def test_an_error_in_a_stream_is_seen_by_every_kind_of_client():
    out = stream_error(status=504, code="upstream_timeout", message="Too late.")
    first, last = [json.loads(part.split(b"data: ")[1]) for part in out.strip().split(b"\n\n")]

    assert (first["type"], first["code"], first["message"]) == ("error", "upstream_timeout", "Too late.")
    assert first["error"]["message"] == "Too late."
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "Too late."}


def test_a_providers_error_is_found_whatever_its_shape():
    assert error_message(b'{"error":{"message":"a"}}') == "a"
    assert error_message(b'{"detail":"b"}') == "b"
    assert error_message(b'{"id":"resp_1","error":null,"output":[]}') is None
