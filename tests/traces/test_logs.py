"""Previews of stored bodies."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import logs


def body(value) -> bytes:
    return json.dumps(value).encode()


def asked(*messages) -> bytes:
    return body({"model": "m", "messages": messages})


def answered(**message) -> bytes:
    return body({"choices": [{"message": {"role": "assistant", **message}}]})


@pytest.mark.parametrize(
    ("request_body", "preview"),
    [
        (None, None),
        (asked({"role": "user", "content": "Hi"}), "Hi"),
        (asked({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}), "a"),
        (asked({"role": "user", "content": "first"}, {"role": "user", "content": "  last \n word "}), "last word"),
        (asked({"role": "system", "content": "only a system"}), "only a system"),
        (
            asked(
                {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {}}]}
            ),
            "see [image_url]",
        ),
        (asked({"role": "user", "content": "x" * 300}), "x" * 200),
        (asked({"role": "user"}), ""),
        (b'{"messages": []}', '{"messages": []}'),
        (b'{"messages":[{"role":"user","content":"cut he', '{"messages":[{"role":"user","content":"cut he'),
        (b"[1, 2]", "[1, 2]"),
        (b'{"model": "m", "input": "to embed, or to answer"}', "to embed, or to answer"),
        (b'{"model": "m", "prompt": "to draw"}', "to draw"),
    ],
)
def test_request_shows_its_last_question(request_body, preview):
    assert logs.input_preview(request_body) == preview


@pytest.mark.parametrize(
    ("response_body", "preview"),
    [
        (None, None),
        (answered(content="Hello there"), "Hello there"),
        (answered(content=None, refusal="I will not"), "I will not"),
        (
            answered(content=None, tool_calls=[{"function": {"name": "weather", "arguments": '{"city":"Bern"}'}}]),
            'weather({"city":"Bern"})',
        ),
        (answered(content=None), ""),
        (body({"error": {"message": "No such model", "code": "x"}}), "No such model"),
        (body({"error": "plain"}), "plain"),
        (body({"error": {"code": 3}}), ""),
        (b"<html>oops</html>", "<html>oops</html>"),
        (
            b'{"choices":[{"message":{"content":"\\ud800 alone"}}]}',
            '{"choices":[{"message":{"content":"\\ud800 alone"}}]}',
        ),
    ],
)
def test_answer_shows_its_beginning(response_body, preview):
    assert logs.output_preview(response_body) == preview


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "choices", "message", "role", "content", "error", "tool_calls", "function", "text"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_json_makes_a_preview_fail(value):
    for preview in (logs.input_preview(body(value)), logs.output_preview(body(value))):
        assert preview is not None
        assert len(preview) <= logs.PREVIEW_CHARS


@given(st.binary(max_size=200))
def test_no_bytes_make_a_preview_fail(junk):
    logs.input_preview(junk)
    logs.output_preview(junk)
