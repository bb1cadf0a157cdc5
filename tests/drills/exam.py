"""One recorded answer put to one client dialect: what must hold, and what does not.

Pure: dialects' functions only, no server. An answer of the client's own dialect has to pass as it came; any other has
to be valid for the types of that client's SDK and to say the same (`truth.py` reads both). Neighbours: `replay.py`,
`test_recordings.py`.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError

from gateway.dialects import wire
from gateway.dialects.exchange import Exchange, Passing, Translating
from gateway.dialects.registry import CLIENTS, TARGETS
from tests.drills import truth
from tests.drills.replay import Row, blocks
from tests.drills.truth import Said

CONTEXT = wire.Context(call_id="0123456789abcdef0123456789abcdef", created=1_790_000_000)
_WHOLE = {
    "openai_chat": TypeAdapter(ChatCompletion),
    "openai_responses": TypeAdapter(Response),
    "anthropic": TypeAdapter(Message),
    "gemini": TypeAdapter(GenerateContentResponse),
}
_EVENT: dict[str, TypeAdapter[Any]] = {
    "openai_chat": TypeAdapter(ChatCompletionChunk),
    "openai_responses": TypeAdapter(ResponseStreamEvent),
    "anthropic": TypeAdapter(RawMessageStreamEvent),
    "gemini": TypeAdapter(GenerateContentResponse),
}
_SMALL = 16 * 1024
# An image that a model drew, in a dialect whose answers are text.
_DRAWN = re.compile(r"!\[[^\]]*\]\(data:[^)]*\)\s*")
_HELLO = [{"role": "user", "content": "Hello"}]
_REQUESTS: dict[str, dict[str, Any]] = {
    "openai_chat": {"messages": _HELLO, "stream_options": {"include_usage": True}},
    "openai_responses": {"input": "Hello"},
    "anthropic": {"messages": _HELLO, "max_tokens": 1024},
    "gemini": {
        "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
        "generationConfig": {"thinkingConfig": {"includeThoughts": True}},
    },
}


@dataclass(frozen=True)
class Heard:
    """What a client got: bytes, whether the answer is complete, and the error it was told."""

    body: bytes
    is_complete: bool
    error: str | None
    answer: wire.Answer


@dataclass(frozen=True)
class Verdict:
    """One thing that was looked at; `problem` says what is wrong with it."""

    feature: str
    problem: str | None = None


def examine(row: Row, client: str) -> list[Verdict]:
    """Put a row to a client: a verdict for each thing that the row has."""
    assert row.dialect is not None
    if row.status >= 400:
        return [Verdict("error", _told(row, client))]
    expected = truth.read(row.dialect, row.answer, is_stream=row.is_stream)
    heard = translated(row, client, 0)
    found = []
    if row.is_stream:
        sizes = (1, 7) if len(row.body) < _SMALL else (64,)
        is_same = all(translated(row, client, size).body == heard.body for size in sizes)
        found.append(Verdict("cut", None if is_same else "another answer when the stream is cut elsewhere"))
    if expected.error is not None or expected.finish is None:
        return [*found, _broken(row, expected, heard)]
    if heard.error is not None or not heard.is_complete:
        return [*found, Verdict("end", f"a whole answer was taken for a broken one: {heard.error}")]
    if row.dialect == client:
        return [*found, Verdict("same", _changed(row, heard)), *_metered(expected, heard.answer)]
    valid = Verdict("valid", invalid(client, heard.body, row.is_stream))
    got = truth.read(client, heard.body, is_stream=row.is_stream)
    return [
        *found,
        valid,
        *compared(expected, got),
        *_rare(client, row, expected, got),
        *_metered(expected, heard.answer),
    ]


def _rare(client: str, row: Row, expected: Said, got: Said) -> list[Verdict]:
    """Compare what not every dialect has: further answers (which are streamed one at a time) and probabilities."""
    found = []
    if expected.answers > 1 and client in ("openai_chat", "gemini") and not row.is_stream:
        is_same = expected.answers == got.answers
        found.append(Verdict("answers", None if is_same else f"{expected.answers} answers became {got.answers}"))
    if expected.likely and client != "anthropic":
        is_same = expected.likely == got.likely
        found.append(Verdict("likely", None if is_same else f"{_short(expected.likely)} became {_short(got.likely)}"))
    return found


def _told(row: Row, client: str) -> str | None:
    """Tell whether a provider's error message reaches the client's dialect."""
    message = _exchange(row, client).error_message(row.body)
    if not message or json.dumps(message, ensure_ascii=False)[1:-1] not in row.body.decode():
        return f"{row.body[:120]!r} became {message!r}"
    body = CLIENTS[client].errors.body(status=row.status, code="upstream_error", message=message)
    return None if message in str(json.loads(body)) else f"{message!r} is not in {body!r}"


def _broken(row: Row, expected: Said, heard: Heard) -> Verdict:
    """An answer that is an error, or breaks off, must not look complete."""
    if expected.error is not None:
        told = heard.error is not None
        return Verdict("error", None if told else f"an error passes as an answer: {expected.error[:80]}")
    is_told = not heard.is_complete or not row.is_stream
    return Verdict("end", None if is_told else f"a stream without an end looks complete: ...{row.body[-80:]!r}")


def translated(row: Row, client: str, size: int) -> Heard:
    """Return what a client of a dialect gets for a row, its stream cut into blocks of a size."""
    exchange = _exchange(row, client)
    if not row.is_stream:
        whole = exchange.whole(row.body, row.content_type)
        return Heard(whole.body, whole.answer.error is None, whole.answer.error, whole.answer)
    reader = exchange.reader()
    written = []
    try:
        for block in blocks(row.body, size):
            written.append(reader.feed(block))
            if reader.saw_done:
                break
        else:
            written.append(reader.end())
    except wire.InvalidStream as error:
        return Heard(b"".join(written), False, str(error), reader.answer())
    return Heard(b"".join(written), reader.complete, reader.error, reader.answer())


def _exchange(row: Row, client: str) -> Exchange:
    speaks, asked = CLIENTS[client], asked_by(client, row.is_stream)
    if client == row.dialect:
        return Passing(speaks, asked)
    assert speaks.translated is not None and row.dialect is not None  # noqa: PT018
    return Translating(speaks, TARGETS[row.dialect], asked, speaks.translated.decode(asked), CONTEXT)


@cache
def asked_by(client: str, stream: bool) -> wire.Asked:
    """Return a small request of a client."""
    if client == "gemini":
        named = wire.Named("some-model", stream=stream, sse=True)
        return CLIENTS[client].read(json.dumps(_REQUESTS[client]).encode(), named=named)
    return CLIENTS[client].read(json.dumps({"model": "some-model", "stream": stream} | _REQUESTS[client]).encode())


def _changed(row: Row, heard: Heard) -> str | None:
    """What was forwarded must be what came, event by event; only a missing `[DONE]` is added."""
    if not row.is_stream:
        return None if heard.body == row.body else "the body was changed"
    came, went = truth.sse(row.answer), truth.sse(heard.body)
    if went in (came, [*came, (None, "[DONE]")]):
        return None
    pairs = zip(came, went, strict=False)
    at = next((place for place, pair in enumerate(pairs) if pair[0] != pair[1]), min(len(came), len(went)))
    return f"event {at} of {len(came)} differs: {came[at : at + 1]} went as {went[at : at + 1]}"


def invalid(client: str, body: bytes, is_stream: bool) -> str | None:
    """Say why an answer does not fit the types of a client's SDK."""
    try:
        if is_stream:
            for name, data in truth.sse(body):
                _check_event(client, name, data)
        else:
            _WHOLE[client].validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{first['loc']}: {first['msg']}"
    except ValueError as error:
        return str(error)
    return None


def _check_event(client: str, name: str | None, data: str) -> None:
    if data == "[DONE]" and client == "openai_chat":
        return
    value = json.loads(data)
    if client in ("anthropic", "openai_responses") and name != value.get("type"):
        raise ValueError(f"an event {value.get('type')} is named {name}")
    if value.get("type") != "ping":
        _EVENT[client].validate_python(value)


def _metered(expected: Said, answer: wire.Answer) -> list[Verdict]:
    """The usage that is billed must be the provider's."""
    if expected.usage is None:
        return []
    got = (answer.usage.input_tokens, answer.usage.output_tokens) if answer.usage else None
    return [Verdict("billed", None if got == expected.usage else f"{expected.usage} tokens were billed as {got}")]


def compared(expected: Said, got: Said) -> list[Verdict]:
    """Compare two readings of one answer, in what the first of them has."""
    told = _DRAWN.sub("", got.text)
    is_same = {
        "text": told in (expected.text, expected.text + expected.explanation),
        "finish": expected.finish == got.finish,
    }
    if expected.thoughts or got.thoughts:  # where a thought has paragraphs, dialects part them differently
        is_same["thoughts"] = "".join(expected.thoughts.split()) == "".join(got.thoughts.split())
    if expected.calls or got.calls:
        is_same["calls"] = _same_calls(expected.calls, got.calls)
    if expected.usage is not None:
        is_same["usage"] = expected.usage == got.usage
    return [
        Verdict(name, None if good else f"{_short(getattr(expected, name))} became {_short(getattr(got, name))}")
        for name, good in is_same.items()
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:100]}...{text[-95:]}"


def _same_calls(expected: list[tuple[str, Any]], got: list[tuple[str, Any]]) -> bool:
    return [name for name, _ in expected] == [name for name, _ in got] and all(
        _alike(*pair) for pair in zip(expected, got, strict=True)
    )


def _alike(one: tuple[str, Any], other: tuple[str, Any]) -> bool:
    """Tell whether two calls have the same arguments. Free text, and JSON that is none, has to be in there whole."""
    if one[1] == other[1] or truth.arguments(one[1]) == truth.arguments(other[1]):
        return True
    return isinstance(one[1], str) and isinstance(other[1], dict) and one[1] in other[1].values()
