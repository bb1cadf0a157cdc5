"""The short way through a stream says and forwards exactly what the dialect's reader does, however it was cut."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.openai_chat import StreamReader

RECORDINGS = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "recordings" / "chat_streams.jsonl").read_text().splitlines()
]
TEXT = st.one_of(st.none(), st.text(max_size=5), st.integers(), st.lists(st.just({"type": "text", "text": "a"})))
ODD = st.one_of(st.none(), st.text(max_size=3), st.booleans(), st.just({}), st.just({"message": "no"}))
DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "content": TEXT,
        "reasoning_content": TEXT,
        "reasoning": TEXT,
        "refusal": TEXT,
        "role": st.just("assistant"),
        "tool_calls": st.sampled_from([None, [], [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]]),
        "function_call": st.sampled_from([None, {"name": "f"}]),
    },
)
CHOICES = st.fixed_dictionaries(
    {},
    optional={
        "index": st.sampled_from([0, 1, None, "0", -1]),
        "delta": st.one_of(DELTAS, ODD),
        "message": DELTAS,
        "finish_reason": st.sampled_from([None, "stop", "error", ""]),
        "error": ODD,
        "usage": st.sampled_from([None, {"prompt_tokens": 1, "completion_tokens": 2}]),
    },
)
CHUNKS = st.fixed_dictionaries(
    {"id": st.just("c")},
    optional={
        "choices": st.one_of(st.lists(CHOICES, max_size=2), ODD),
        "usage": st.sampled_from([None, {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}]),
        "error": ODD,
        "x_groq": st.sampled_from([None, {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}]),
        "obfuscation": st.text(max_size=3),
    },
)


class SlowReader(StreamReader):
    """The same reader without its short way: every event is read in full."""

    def _writes(self, data):
        return False


def said(reader, blocks):
    """Return all that a reader tells of a stream, and the bytes it forwards for each block."""
    forwarded = [*map(reader.feed, blocks), reader.end()]
    return forwarded, reader.assembled(), reader.answer(), reader.complete, reader.started, reader.error


def same(blocks, *, include_usage):
    blocks = list(blocks)
    quick = said(StreamReader(include_usage=include_usage), blocks)
    return quick == said(SlowReader(include_usage=include_usage), blocks)


def cut(stream, size):
    return [stream[start : start + size] for start in range(0, len(stream), size)]


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("row", RECORDINGS, ids=[row["name"] for row in RECORDINGS])
def test_recorded_streams_are_read_the_same(row, include_usage):
    stream = row["stream"].encode()
    by_event = [part + b"\n\n" for part in stream.split(b"\n\n") if part]

    assert same(by_event, include_usage=include_usage)
    for size in (1, 7, 1_000, 100_000):
        assert same(cut(stream, size), include_usage=include_usage)


@given(chunks=st.lists(CHUNKS, max_size=6), include_usage=st.booleans(), size=st.integers(1, 400))
@settings(max_examples=400, deadline=None)
def test_any_chunks_are_read_the_same(chunks, include_usage, size):
    first = {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
    events = [b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n" for chunk in [first, *chunks]]

    assert same(events, include_usage=include_usage)
    assert same([b"".join(events)], include_usage=include_usage)
    assert same(cut(b"".join(events), size), include_usage=include_usage)
