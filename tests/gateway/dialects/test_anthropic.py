"""Promises of `gateway.dialects.anthropic`: requests stay the bytes they were, credits pay the usual price, usage is
exact.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage import Usage
from gateway import params
from gateway.dialects import anthropic, anthropic_seal, blocks
from gateway.dialects.anthropic import StreamReader, read, read_json
from gateway.dialects.wire import InvalidBody, InvalidStream
from tests.gateway.dialects.facts import Facts

RECORDINGS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "recordings" / "anthropic_streams.jsonl").read_text().splitlines()
]
BY_NAME = {row["name"]: row["stream"].encode() for row in RECORDINGS}
NAMES = sorted(BY_NAME)
HELLO = [{"role": "user", "content": "hello"}]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo" * 1000}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}}


@dataclass(frozen=True)
class Model(Facts):
    """A Claude that thinks within a budget."""

    upstream: str = "claude-x"
    max_output_tokens: int | None = 64_000
    capabilities: frozenset[str] = frozenset({"tools", "json_schema"})
    thinking: str = "budget"


def order(**members):
    facts = {name: members.pop(name) for name in list(members) if name in Model.__dataclass_fields__}
    return blocks.Order(model=Model(**facts), ours=frozenset(params.OURS), **members)


def body(**members):
    return json.dumps({"model": "claude-x", "max_tokens": 100, "messages": HELLO} | members).encode()


def sent(raw, **members):
    return anthropic.forward(read(raw), order(**members))


def sent_json(raw, **members):
    return json.loads(sent(raw, **members).body)


def refusal(raw):
    with pytest.raises(InvalidBody) as caught:
        read(raw)
    return caught.value


# --- reading a request ----------------------------------------------------------------------------------------------


def test_a_request_tells_what_a_gateway_needs_to_know():
    asked = read(body(stream=True, tools=[{"name": "t", "input_schema": {}}]))
    assert (asked.model, asked.stream, asked.max_output, asked.n) == ("claude-x", True, 100, 1)
    assert (asked.has_tools, asked.include_usage, asked.message_count) == (True, True, 1)


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"[]", None),
        (b"{", None),
        (body(messages=[]), "messages"),
        (body(messages="hello"), "messages"),
        (body(messages=["hello"]), "messages[0]"),
        (body(messages=[{"content": "hello"}]), "messages[0].role"),
        (body(model=""), "model"),
        (body(max_tokens=-1), "max_tokens"),
        (body(max_tokens="4"), "max_tokens"),
        (body(stream="yes"), "stream"),
        (body(tools={}), "tools"),
    ],
)
def test_what_cannot_be_understood_is_named(raw, param):
    assert refusal(raw).param == param


def test_a_limit_is_not_required():
    raw = json.dumps({"model": "claude-x", "messages": HELLO}).encode()
    assert read(raw).max_output is None


def test_a_limit_of_nothing_is_a_limit():
    assert read(body(max_tokens=0)).max_output == 0


def test_images_and_documents_are_counted_wherever_they_are():
    result = {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE, PDF]}
    asked = read(body(messages=[{"role": "user", "content": [IMAGE, PDF, result]}]))
    assert (asked.images, asked.documents) == (2, 2)


def test_an_image_is_no_prompt_text_but_a_document_is():
    with_image = read(body(messages=[{"role": "user", "content": [IMAGE]}]))
    assert with_image.input_bytes < 500
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 5000}}
    assert read(body(messages=[{"role": "user", "content": [document]}])).input_bytes > 5000


def test_the_bound_of_the_prompt_covers_keys_and_numbers_of_tool_calls():
    call = {"type": "tool_use", "id": "t", "name": "n", "input": {"k" * 1000: 10**300}}
    asked = read(body(messages=[*HELLO, {"role": "assistant", "content": [call]}]))
    assert asked.input_bytes > 1300


def test_the_bound_of_the_prompt_covers_what_tools_add_to_it():
    bare = read(body()).input_bytes
    assert read(body(tools=[{"name": "t", "input_schema": {}}])).input_bytes > bare + 900


def test_the_text_for_a_tokenizer_has_no_files_and_no_signatures():
    thought = {"type": "thinking", "thinking": "let me see", "signature": "S" * 500}
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "this"}}
    messages = [{"role": "user", "content": ["hi", IMAGE]}, {"role": "assistant", "content": [thought, call]}]
    text = anthropic.input_text(read(body(messages=messages, system=[{"type": "text", "text": "be kind"}])))
    assert "be kind" in text
    assert '{"at":"this"}' in text
    assert "iVBOR" not in text
    assert "SSSS" not in text


def test_a_nesting_without_end_is_refused_wherever_it_is():
    deep: dict = {}
    for _ in range(80):
        deep = {"a": deep}
    for block in ({"type": "tool_use", "input": deep}, {"type": "image", "source": deep}, {"type": "x", "y": deep}):
        assert "nested" in str(refusal(body(messages=[{"role": "user", "content": [block]}])))


# --- Respan's parameters --------------------------------------------------------------------------------------------


def test_parameters_in_metadata_become_members_and_are_not_sent():
    raw = body(metadata={"respan_params": {"customer_identifier": "c1"}, "extra_headers": {"x": "y"}, "user_id": "u"})
    asked = read(raw)
    assert params.gather(asked.members, {}).customer_identifier == "c1"
    assert sent_json(raw)["metadata"] == {"user_id": "u"}
    assert "respan_params" not in sent_json(raw)


def test_metadata_that_carried_nothing_else_is_not_sent():
    raw = body(metadata={"keywordsai_params": {"customer_identifier": "c1"}})
    assert params.gather(read(raw).members, {}).customer_identifier == "c1"
    assert sent_json(raw) == {"model": "claude-x", "max_tokens": 100, "messages": HELLO}


def test_headers_for_the_provider_are_dropped():
    assert "metadata" not in sent_json(body(metadata={"extra_headers": {"x": "y"}}))


def test_parameters_at_the_top_win_over_those_in_metadata():
    carried = {"customer_identifier": "in metadata", "thread_identifier": "t"}
    raw = body(metadata={"respan_params": carried}, respan_params={"customer_identifier": "at the top"})
    found = params.gather(read(raw).members, {})
    assert (found.customer_identifier, found.thread_identifier) == ("at the top", "t")


def test_parameters_that_are_no_object_do_no_harm():
    raw = body(metadata={"respan_params": 5}, respan_params={"customer_identifier": "c"})
    assert params.gather(read(raw).members, {}).customer_identifier == "c"
    assert params.gather(read(body(metadata={"respan_params": 5})).members, {}).warnings


@pytest.mark.parametrize("metadata", [{"user_id": "u"}, {}, None, "text"])
def test_anthropics_own_metadata_changes_nothing(metadata):
    raw = body(metadata=metadata)
    assert sent(raw).body is raw


# --- passing on -----------------------------------------------------------------------------------------------------

UNTOUCHED = [
    body(),
    body(stream=True, system=[{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]),
    body(messages=[*HELLO, {"role": "system", "content": "now be brief"}]),
    body(messages=[{"role": "user", "content": [{"type": "from_the_future", "x": [1.50, 1e3]}]}]),
    body(betas=["a"], context_management={"edits": []}, mcp_servers=[{}], speed="fast", unknown={"b": 1, "a": 2}),
    body(tools=[{"type": "web_search_20250305", "name": "web_search"}]),
    b' { "messages" : [ {"role":"user","content":"h\\u00e9"} ] ,\n "max_tokens":1e0, "model":"claude-x" } '.replace(
        b"1e0", b"7"
    ),
    body(max_tokens=0),
]


@pytest.mark.parametrize("raw", UNTOUCHED)
def test_a_request_goes_on_as_the_same_bytes(raw):
    assert sent(raw).body is raw


def test_another_name_of_the_model_changes_nothing_else():
    raw = body(tools=[{"name": "t", "input_schema": {"type": "object"}}], temperature=0.5)
    compact = b",".join(
        b'"%s":%s' % (name.encode(), json.dumps(value).encode()) for name, value in json.loads(raw).items()
    )
    assert sent(raw, upstream="claude-y").body == b"{" + compact.replace(b"claude-x", b"claude-y") + b"}"


def test_a_missing_limit_is_set_to_the_documented_default():
    raw = json.dumps({"model": "claude-x", "messages": HELLO}).encode()
    assert sent_json(raw)["max_tokens"] == 4096
    assert sent_json(raw, max_output_tokens=2000)["max_tokens"] == 2000
    assert sent_json(raw, max_output=300)["max_tokens"] == 300


def test_the_limit_that_is_held_replaces_a_larger_one_only():
    assert sent_json(body(max_tokens=900), max_output=300)["max_tokens"] == 300
    assert sent_json(body(max_tokens=0), max_output=300)["max_tokens"] == 0


def test_what_a_model_refuses_is_left_out_and_named():
    out = sent(body(temperature=0.5, stop_sequences=["x"], top_k=3), unsupported=frozenset({"temperature", "stop"}))
    assert out.dropped == ["stop_sequences", "temperature"]
    assert json.loads(out.body).keys() == {"model", "max_tokens", "messages", "top_k"}


def test_the_address_is_that_of_messages():
    assert (sent(body()).path, sent(body()).headers) == ("/messages", {})


def test_google_has_the_model_in_the_address_and_the_version_in_the_body():
    out = sent(body(stream=True), variant="vertex", upstream="claude-x@20250514")
    assert out.path == "/models/claude-x@20250514:streamRawPredict"
    assert json.loads(out.body) == {
        "max_tokens": 100,
        "messages": HELLO,
        "stream": True,
        "anthropic_version": "vertex-2023-10-16",
    }
    assert sent(body(), variant="vertex").path.endswith(":rawPredict")


def test_a_version_of_the_clients_own_stays_at_google():
    assert sent_json(body(anthropic_version="2026-10-21"), variant="vertex")["anthropic_version"] == "2026-10-21"


def test_reasoning_of_other_vendors_does_not_reach_anthropic():
    sealed = anthropic_seal.signature_of(blocks.Thinking(text="hm", signature="sig", dialect="gemini"))
    thought = {"type": "thinking", "thinking": "hm", "signature": sealed}
    own = {"type": "thinking", "thinking": "ah", "signature": "EqQBCg"}
    messages = [
        *HELLO,
        {"role": "assistant", "content": [thought, {"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [thought]},
        {"role": "assistant", "content": [own]},
    ]
    assert sent_json(body(messages=messages))["messages"] == [
        *HELLO,
        {"role": "assistant", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [own]},
    ]


# --- on credits -----------------------------------------------------------------------------------------------------


def test_what_changes_the_price_is_left_out_on_credits_and_named():
    out = sent(body(service_tier="auto", speed="fast", inference_geo="eu", new=1), credits=True, repriced_by={"new"})
    assert out.dropped == ["inference_geo", "new", "service_tier", "speed"]
    assert json.loads(out.body).keys() == {"model", "max_tokens", "messages"}


@pytest.mark.parametrize(
    "kind", ["web_search_20260318", "web_fetch_20260318", "code_execution_20260521", "mcp_toolset"]
)
def test_a_tool_the_provider_charges_is_refused_on_credits(kind):
    raw = body(tools=[{"name": "mine", "input_schema": {}}, {"type": kind, "name": "x"}])
    assert sent(raw).body is raw
    with pytest.raises(blocks.Unsupported, match="provider key of your own") as caught:
        sent(raw, credits=True)
    assert caught.value.param == "tools[1]"


@pytest.mark.parametrize("kind", [None, "custom", "bash_20250124", "text_editor_20250728", "memory_20250818"])
def test_a_tool_the_client_runs_may_be_used_on_credits(kind):
    raw = body(tools=[{"type": kind, "name": "x"} if kind else {"name": "x", "input_schema": {}}])
    assert sent(raw, credits=True).body is raw


@pytest.mark.parametrize(
    "block",
    [
        {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
    ],
)
def test_a_file_of_unknown_length_is_refused_on_credits_wherever_it_is(block):
    inner = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    with pytest.raises(blocks.Unsupported) as caught:
        sent(body(messages=[{"role": "user", "content": [inner]}]), credits=True)
    assert caught.value.param == "messages[0].content[0].content[0]"


def test_a_conversation_is_not_compacted_on_credits_but_may_be_cleared():
    compacting = body(context_management={"edits": [{"type": "compact_20260112"}]})
    clearing = body(context_management={"edits": [{"type": "clear_tool_uses_20250919"}]})
    assert sent(compacting, credits=True).dropped == ["context_management"]
    assert sent(clearing, credits=True).body is clearing


# --- counting, listing ----------------------------------------------------------------------------------------------


def test_counting_tokens_adds_nothing():
    raw = json.dumps({"model": "claude-x", "messages": HELLO}).encode()
    out = anthropic.count_tokens(read(raw), order())
    assert (out.body, out.path) == (raw, "/messages/count_tokens")
    out = anthropic.count_tokens(read(raw), order(variant="vertex"))
    assert out.path == "/models/count-tokens:rawPredict"
    assert json.loads(out.body)["model"] == "claude-x"


def test_a_count_is_an_answer():
    assert json.loads(anthropic.count_answer(14)) == {"input_tokens": 14}


def test_models_are_listed_as_anthropic_lists_them():
    items = [anthropic.Listed("a", "A", 0), anthropic.Listed("b", "B", 1_747_180_800, 200_000, 64_000)]
    page = json.loads(anthropic.models_page(items))
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("a", "b", False)
    assert page["data"][1] == json.loads(anthropic.model_info(items[1]))
    assert page["data"][1]["created_at"] == "2025-05-14T00:00:00Z"
    assert json.loads(anthropic.models_page([])) == {"data": [], "has_more": False, "first_id": None, "last_id": None}


# --- answers --------------------------------------------------------------------------------------------------------


def whole(**members):
    usage = {"input_tokens": 5, "output_tokens": 7}
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x-1",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": usage,
    }
    return json.dumps(answer | members).encode()


def test_an_answer_tells_usage_model_and_why_it_ended():
    answer = read_json(whole())
    assert answer.usage == Usage(input_tokens=5, output_tokens=7)
    assert (answer.model, answer.finish_reason, answer.error) == ("claude-x-1", "stop", None)


def test_the_input_is_what_was_read_and_written_and_the_rest():
    usage = {
        "input_tokens": 10,
        "output_tokens": 50,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 2000,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "output_tokens_details": {"thinking_tokens": 20},
    }
    expected = Usage(
        input_tokens=2310,
        output_tokens=50,
        cache_read_input_tokens=2000,
        cache_creation_input_tokens=300,
        cache_creation_1h_input_tokens=200,
        reasoning_output_tokens=20,
    )
    assert read_json(whole(usage=usage)).usage == expected
    # read in full, the same
    assert read_json(whole(usage=usage | {"iterations": [{"type": "message"}]})).usage == expected


def test_a_compaction_on_the_way_is_paid_too():
    compaction = {"type": "compaction", "input_tokens": 60_000, "output_tokens": 500}
    usage = {"input_tokens": 600, "output_tokens": 1000, "iterations": [compaction, {"type": "message"}]}
    assert read_json(whole(usage=usage)).usage == Usage(input_tokens=60_600, output_tokens=1500)


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": -1, "output_tokens": 1}, {"input_tokens": "5"}, 7])
def test_without_usable_usage_the_text_is_there_to_be_counted(usage):
    content = [{"type": "text", "text": "hi"}, {"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}}]
    answer = read_json(whole(usage=usage, content=content))
    assert answer.usage is None
    assert answer.output_text == 'hilook{"a":1}'


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("from_the_future", "from_the_future"),
    ],
)
def test_why_it_ended_is_said_in_chat_completions_words(native, reason):
    assert read_json(whole(stop_reason=native)).finish_reason == reason


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"<html>", "The provider's answer is not JSON."),
        (b'"x"', "The provider's answer is not JSON."),
        (b"{}", "The provider's answer has no content."),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', "Overloaded"),
        (b'[{"error":{"code":404,"message":"no such model"}}]', "no such model"),
        (b'{"detail":"no"}', "no"),
    ],
)
def test_what_is_no_answer_has_an_error(raw, message):
    assert read_json(raw).error == message


@given(st.binary(max_size=200) | st.from_regex(rb'\{"(type|usage|content|error)":.{0,40}\}', fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_reading_an_answer_never_raises(raw):
    read_json(raw)
    anthropic.error_message(raw)
    anthropic.is_error_body(raw)


# --- streams --------------------------------------------------------------------------------------------------------


def relayed(stream, size):
    reader = StreamReader(include_usage=True)
    forwarded = b"".join(reader.feed(stream[start : start + size]) for start in range(0, len(stream), size))
    return reader, forwarded + reader.end()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_a_recorded_stream_is_forwarded_as_it_came_however_it_was_cut(name, size):
    stream = BY_NAME[name]
    reader, forwarded = relayed(stream, size)
    end = (stream + b"\n\n").index(b"\n\n", stream.index(b'"message_stop"'))
    assert forwarded.rstrip(b"\n") == stream[:end].rstrip(b"\n")
    assert reader.complete
    assert reader.saw_done
    once, _ = relayed(stream, len(stream))
    assert (reader.answer(), reader.assembled()) == (once.answer(), once.assembled())


def test_the_usage_at_the_end_counts():
    reader, _ = relayed(BY_NAME["input reported at the end"], 1000)
    told = json.loads(reader.assembled())["usage"]
    assert reader.usage == Usage(input_tokens=told["input_tokens"], output_tokens=told["output_tokens"])
    assert told["output_tokens"] > 1


def test_what_the_end_leaves_out_was_said_at_the_start():
    reader, _ = relayed(BY_NAME["usage told once"], 1000)
    assert reader.usage == Usage(
        input_tokens=40, output_tokens=8, cache_read_input_tokens=5, cache_creation_input_tokens=10
    )


def test_an_imitation_that_reports_no_input_at_the_end_does_not_make_it_free():
    stream = BY_NAME["usage told once"].replace(
        b'"usage":{"output_tokens":8}', b'"usage":{"input_tokens":0,"output_tokens":8}'
    )
    reader, _ = relayed(stream, 1000)
    assert reader.usage is not None
    assert reader.usage.input_tokens == 40


def test_a_stream_that_breaks_off_has_no_usage_but_its_text():
    stream = BY_NAME["several tool calls"]
    reader, _ = relayed(stream[: stream.index(b"event: message_delta")], 50)
    assert reader.usage is None
    assert not reader.complete
    assert reader.started
    assert len(reader.answer().output_text) > 20


def test_a_stream_is_gathered_to_the_message_it_makes_up():
    reader, _ = relayed(BY_NAME["thinking, then a tool call"], 13)
    message = json.loads(reader.assembled())
    thought, call = message["content"]
    assert (thought["type"], thought["thinking"][:14], len(thought["signature"]) > 50) == (
        "thinking",
        "The user wants",
        True,
    )
    assert (call["type"], type(call["input"])) == ("tool_use", dict)
    assert message["stop_reason"] == "tool_use"
    assert reader.answer().finish_reason == "tool_calls"


def test_blocks_of_unknown_types_and_citations_are_gathered_too():
    reader, _ = relayed(BY_NAME["a search with citations"], 99)
    kinds = [block["type"] for block in json.loads(reader.assembled())["content"]]
    assert kinds[:2] == ["server_tool_use", "web_search_tool_result"]
    assert any(block.get("citations") for block in json.loads(reader.assembled())["content"])
    reader, _ = relayed(BY_NAME["a compacted conversation"], 99)
    assert json.loads(reader.assembled())["content"][0]["encrypted_content"].startswith("Ep")


def test_an_error_in_the_middle_ends_the_stream():
    start = BY_NAME["a refusal"].split(b"\n\n")[0] + b"\n\n"
    event = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    reader, forwarded = relayed(start + event + b'event: message_stop\ndata: {"type":"message_stop"}\n\n', 9)
    assert forwarded == start + event
    assert (reader.error, reader.complete, reader.saw_done) == ("Overloaded", False, True)
    assert json.loads(reader.assembled())["error"] == {"message": "Overloaded"}


def test_an_error_that_is_no_json_is_one_too():
    reader, _ = relayed(b"event: error\ndata: upstream gone\n\n", 5)
    assert reader.error == "upstream gone"


def test_the_last_event_may_lack_its_blank_line_but_not_more():
    stream = BY_NAME["a refusal"].rstrip(b"\n")
    reader, forwarded = relayed(stream, 64)
    assert forwarded == stream + b"\n\n"
    assert reader.complete
    reader, forwarded = relayed(stream[:-3], 64)
    assert not reader.complete
    assert stream.startswith(forwarded.rstrip(b"\n"))


def test_an_event_may_hold_a_document_but_not_fill_the_memory():
    event = b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"x":"%s"}}\n\n'
    reader = StreamReader(include_usage=True)
    assert reader.feed(event % (b"x" * 3_000_000))
    with pytest.raises(InvalidStream):
        reader.feed(b"data: " + b"x" * 9_000_000)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_an_error_has_anthropics_type(status, kind):
    raw = anthropic.error(status=status, code="c", message="m", param="p", extra={"affordable_max_tokens": 5})
    assert json.loads(raw)["error"] == {
        "type": kind,
        "message": "m",
        "code": "c",
        "param": "p",
        "affordable_max_tokens": 5,
    }
    assert anthropic.is_error_body(raw)
    assert anthropic.error_message(raw) == "m"


def test_an_error_in_a_stream_is_an_event_of_that_name():
    raw = anthropic.stream_error(status=502, code="c", message="m")
    assert raw.startswith(b"event: error\ndata: ")
    assert raw.endswith(b"}\n\n")
    reader, _ = relayed(raw, 7)
    assert reader.error == "m"
