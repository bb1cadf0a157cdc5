"""Pure: what Amazon Bedrock's Converse API answers, whole or as an AWS event stream, as the middle form.

Responsible for blocks that begin without an event (text, reasoning), for usage that comes after the end, for errors in
mid-stream, and for turning the stand-in tool of a JSON schema back into text. Never sees a request or a header of HTTP.
Neighbours: `bedrock_encode.py`, `gateway.framing` (frames), `blocks.py`.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html (2026-11), botocore's
model of bedrock-runtime, and recorded traffic.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects import blocks
from gateway.dialects.openai_answer import MAX_TOKENS, lenient, storable
from gateway.dialects.wire import InvalidStream
from gateway.dialects.wire import a_dict as _dict
from gateway.dialects.wire import dicts as _dicts
from gateway.framing import EventStream, Frame, FramingError

DIALECT = "bedrock"
# The tool that stands in for a JSON schema where a model knows none: its input is the answer.
JSON_TOOL = "json_answer"

# What may be held back of blocks that come interleaved.
MAX_HELD_BYTES = 4 * 1024 * 1024

_REASONS: dict[str, blocks.Reason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "malformed_model_output": "error",
    "malformed_tool_use": "error",
}
# botocore's model has these statuses; the message of an unknown exception is passed on without one.
_STATUSES = {
    "throttlingException": 429,
    "validationException": 400,
    "internalServerException": 500,
    "modelStreamErrorException": 424,
    "modelTimeoutException": 408,
    "serviceUnavailableException": 503,
}
_encode = msgspec.json.Encoder().encode


def error_message(body: bytes) -> str | None:
    """Return the message of an error's body; None when there is none (its kind stands in a header)."""
    value = _dict(lenient(body))
    message = value.get("message") or value.get("Message")
    return message[:2_000] if isinstance(message, str) else None


# --- Whole answers --------------------------------------------------------------------------------------------------


def answer(body: bytes) -> blocks.Answer:
    """Read a whole answer. Never raises: what is no answer has an `error`."""
    value = lenient(body)
    if not isinstance(value, dict):
        return blocks.Answer(error="The provider's answer is not JSON.")
    message = _dict(_dict(value.get("output")).get("message"))
    if not message and "stopReason" not in value:
        return blocks.Answer(error=error_message(body) or "The provider's answer has no message.")
    given = [block for part in _dicts(message.get("content")) for block in _blocks(part)]
    finish = _finish(value, called=any(isinstance(block, blocks.ToolCall) for block in given))
    return blocks.Answer(
        model=_model(value),
        blocks=given,
        finish=finish,
        usage=_usage(value.get("usage")),
        service_tier=_tier(value),
        error=finish.message if finish.reason == "error" else None,
    )


def _blocks(part: dict[str, Any]) -> Iterator[blocks.Block]:
    """Yield the block of a part of the content; a part may also be none."""
    if isinstance(part.get("text"), str):
        if part["text"]:
            yield blocks.Text(part["text"])
    elif isinstance(part.get("toolUse"), dict):
        yield _call(part["toolUse"])
    elif isinstance(part.get("reasoningContent"), dict):
        yield from _reasoning(part["reasoningContent"])
    elif isinstance(part.get("citationsContent"), dict):
        yield _cited(part["citationsContent"])
    elif isinstance(part.get("image"), dict):
        yield from _image(part["image"])
    elif "toolResult" in part:
        yield blocks.Opaque(dialect=DIALECT, value=part)


def _call(use: dict[str, Any]) -> blocks.Block:
    if use.get("type") == "server_tool_use":
        return blocks.Opaque(dialect=DIALECT, value={"toolUse": use})
    given = use.get("input")
    # A few models' inputs are JSON in a string.
    arguments = given if isinstance(given, str) else _encode({} if given is None else given).decode()
    if use.get("name") == JSON_TOOL:
        return blocks.Text(arguments)
    return blocks.ToolCall(id=_text(use.get("toolUseId")), name=_text(use.get("name")), arguments=arguments or "{}")


def _reasoning(part: dict[str, Any]) -> Iterator[blocks.Block]:
    said = part.get("reasoningText")
    if isinstance(said, dict):
        signature = said.get("signature")
        yield blocks.Thinking(
            text=_text(said.get("text")),
            signature=signature if isinstance(signature, str) else None,
            dialect=DIALECT,
        )
    elif isinstance(part.get("redactedContent"), str):
        yield blocks.Redacted(data=part["redactedContent"], dialect=DIALECT)


def _cited(part: dict[str, Any]) -> blocks.Text:
    text = "".join(_text(piece.get("text")) for piece in _dicts(part.get("content")))
    found = (_citation(citation, 0, len(text)) for citation in _dicts(part.get("citations")))
    return blocks.Text(text, citations=[citation for citation in found if citation] or None)


def _citation(citation: dict[str, Any], start: int, end: int) -> dict[str, Any] | None:
    """Return a citation of text from `start` to `end`; None where it leads to a document of the request."""
    url = _text(_dict(_dict(citation.get("location")).get("web")).get("url")) or _text(citation.get("source"))
    if not url.startswith(("http://", "https://")):
        return None
    return {"start_index": start, "end_index": end, "title": _text(citation.get("title")), "url": url}


def _image(part: dict[str, Any]) -> Iterator[blocks.Block]:
    data = _dict(part.get("source")).get("bytes")
    if isinstance(data, str):
        yield blocks.Image(media_type=f"image/{_text(part.get('format')) or 'png'}", data=data)


# --- What whole answers and streams share ---------------------------------------------------------------------------


def _finish(value: dict[str, Any], *, called: bool) -> blocks.Finish:
    native = storable(value.get("stopReason"))
    reason = _REASONS.get(native or "", "stop")
    if reason in ("stop", "tool_calls"):  # the stand-in tool is no call; some models say `end_turn` after one
        reason = "tool_calls" if called else "stop"
    fields = _dict(value.get("additionalModelResponseFields"))
    sequence = fields.get("stop_sequence") or _dict(fields.get("delta")).get("stop_sequence")
    return blocks.Finish(
        reason=reason,
        native=native,
        stop_sequence=sequence if isinstance(sequence, str) else None,
        message=f"The model's answer was malformed ({native})." if reason == "error" else None,
    )


def _usage(value: object) -> Usage | None:
    """Return the usage, normalised: Bedrock counts what was read from and written to a cache apart."""
    reported = _dict(value)
    fresh, written = _tokens(reported.get("inputTokens")), _tokens(reported.get("outputTokens"))
    if fresh is None or written is None:
        return None
    cached = _tokens(reported.get("cacheReadInputTokens")) or 0
    stored = _tokens(reported.get("cacheWriteInputTokens")) or 0
    details = [item for item in _dicts(reported.get("cacheDetails")) if item.get("ttl") == "1h"]
    return Usage(
        input_tokens=fresh + cached + stored,
        output_tokens=written,
        cache_read_input_tokens=cached,
        cache_creation_input_tokens=stored,
        cache_creation_1h_input_tokens=min(stored, sum(_tokens(item.get("inputTokens")) or 0 for item in details)),
    )


def _model(value: dict[str, Any]) -> str | None:
    """Return the model a prompt router chose; an answer says its model nowhere else."""
    router = _dict(_dict(value.get("trace")).get("promptRouter"))
    return storable(_text(router.get("invokedModelId")).rpartition("/")[2])


def _tier(value: dict[str, Any]) -> str | None:
    return storable(_dict(value.get("serviceTier")).get("type"))


def _tokens(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# --- Streams --------------------------------------------------------------------------------------------------------


class StreamDecoder:
    """Reads `application/vnd.amazon.eventstream`.

    Only tool calls and images begin with an event of their own; a block of another kind, or of another index, ends the
    open one. Usage comes in `metadata`, behind `messageStop` (some servers say it before), so the end is told there.
    """

    __slots__ = ("_called", "_finish", "_frames", "_held", "_held_bytes", "_over", "_pen", "_started", "_usage")

    def __init__(self) -> None:
        self._frames = EventStream()
        self._pen = _Pen()
        self._held: dict[int, list[tuple[str, dict[str, Any]]]] = {}  # of blocks whose turn has not come
        self._held_bytes = 0
        self._finish: blocks.Finish | None = None
        self._usage: Usage | None = None
        self._started = False
        self._over = False

    def feed(self, block: bytes) -> list[blocks.Event]:
        """Take a block of bytes, return the events that are complete now. Raises: InvalidStream."""
        if self._over:
            return []
        try:
            frames = self._frames.feed(block)
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        return [event for frame in frames for event in self._read(frame)]

    def end(self) -> list[blocks.Event]:
        """Return `Ended` when a reason to finish was seen but no usage. Raises: InvalidStream (cut inside a frame)."""
        if self._over:
            return []
        if self._finish is not None:  # what was cut off then is the usage
            return list(self._ended())
        try:
            self._frames.end()
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        return []

    def _read(self, frame: Frame) -> Iterator[blocks.Event]:
        if self._over:
            return
        kind = frame.header(":message-type")
        if kind in ("exception", "error"):
            self._over = True
            yield _failed(frame)
            return
        payload = lenient(frame.payload)
        if not isinstance(payload, dict):
            raise InvalidStream("An event of the provider's stream is not JSON.")
        if not self._started:
            self._started = True
            yield blocks.Started()
        yield from self._event(frame.header(":event-type"), payload, len(frame.payload))

    def _event(self, name: str, payload: dict[str, Any], size: int) -> Iterator[blocks.Event]:
        if name == "metadata":
            self._usage = _usage(payload.get("usage"))
            if self._usage is not None:
                yield blocks.Metered(self._usage, _tier(payload))
            if self._finish is not None:
                yield from self._ended()
        elif self._finish is not None:
            return
        elif name.startswith("contentBlock"):
            yield from self._content(name, payload, size)
        elif name == "messageStop":
            yield from self._all_held()
            yield from self._pen.close()
            self._finish = _finish(payload, called=self._pen.called)
            if self._finish.reason != "error":
                yield blocks.Finished(self._finish)
            if self._usage is not None:
                yield from self._ended()

    def _ended(self) -> Iterator[blocks.Event]:
        self._over = True
        if self._finish is not None and self._finish.reason == "error":
            yield blocks.Failed(self._finish.message or "", code=self._finish.native, status=502)
        else:
            yield blocks.Ended()

    def _content(self, name: str, payload: dict[str, Any], size: int) -> Iterator[blocks.Event]:
        """Take an event of a block. While a tool call is open, those of other blocks wait for its end."""
        index = payload.get("contentBlockIndex")
        index = index if type(index) is int else 0
        if self._pen.is_calling and index != self._pen.source:
            self._held_bytes += size
            if self._held_bytes > MAX_HELD_BYTES:
                raise InvalidStream("The blocks of the provider's stream are too much entangled.")
            self._held.setdefault(index, []).append((name, payload))
            return
        yield from self._pen.take(name, index, payload)
        if name == "contentBlockStop":
            yield from self._next_held()

    def _next_held(self) -> Iterator[blocks.Event]:
        """Let the next block have its turn; one that has ended already makes place for the next."""
        while self._held and not self._pen.is_calling:
            index = min(self._held)
            for name, payload in self._held.pop(index):
                yield from self._pen.take(name, index, payload)

    def _all_held(self) -> Iterator[blocks.Event]:
        while self._held:
            yield from self._pen.close()
            yield from self._next_held()


def _failed(frame: Frame) -> blocks.Failed:
    value = _dict(lenient(frame.payload))
    code = frame.header(":exception-type") or frame.header(":error-code")
    said = value.get("message") or value.get("Message") or value.get("originalMessage")
    message = said if isinstance(said, str) else frame.header(":error-message")
    original = value.get("originalStatusCode")
    return blocks.Failed(
        (message or code or "The provider reported an error.")[:2_000],
        code=storable(code),
        status=original if type(original) is int and 400 <= original <= 599 else _STATUSES.get(code),
    )


class _Pen:
    """Writes blocks one after the other: closes the open one where another begins."""

    __slots__ = ("_index", "_kind", "_length", "_wrote", "called", "source")

    def __init__(self) -> None:
        self._index = -1  # of the middle form
        self._kind: type[blocks.Block] | None = None  # of the open block
        self._length = 0  # of its text
        self._wrote = False  # arguments of the open call
        self.source = -1  # the provider's index of the open block
        self.called = False

    @property
    def is_calling(self) -> bool:
        return self._kind is blocks.ToolCall

    def take(self, name: str, source: int, payload: dict[str, Any]) -> Iterator[blocks.Event]:
        if name == "contentBlockStart":
            yield from self._start(source, _dict(payload.get("start")))
        elif name == "contentBlockDelta":
            yield from self._delta(source, _dict(payload.get("delta")))
        elif name == "contentBlockStop" and source == self.source:
            yield from self.close()

    def close(self) -> Iterator[blocks.Event]:
        if self._kind is None:
            return
        if self._kind is blocks.ToolCall and not self._wrote:
            yield blocks.ArgumentsDelta(self._index, "{}")
        self._kind, self.source = None, -1
        yield blocks.Closed(self._index)

    def _open(self, source: int, block: blocks.Block) -> Iterator[blocks.Event]:
        yield from self.close()
        self._index += 1
        self._kind, self._length, self._wrote, self.source = type(block), 0, False, source
        yield blocks.Opened(self._index, block)

    def _ensure(self, source: int, block: blocks.Block) -> Iterator[blocks.Event]:
        if self._kind is not type(block) or self.source != source:
            yield from self._open(source, block)

    def _start(self, source: int, start: dict[str, Any]) -> Iterator[blocks.Event]:
        use = start.get("toolUse")
        if not isinstance(use, dict) or use.get("type") == "server_tool_use":
            return
        if use.get("name") == JSON_TOOL:
            yield from self._open(source, blocks.Text())
            return
        self.called = True
        call = blocks.ToolCall(id=_text(use.get("toolUseId")), name=_text(use.get("name")))
        yield from self._open(source, call)

    def _delta(self, source: int, delta: dict[str, Any]) -> Iterator[blocks.Event]:
        text = delta.get("text")
        if isinstance(text, str):
            yield from self._text(source, text)
        elif isinstance(delta.get("toolUse"), dict):
            yield from self._input(source, delta["toolUse"].get("input"))
        elif isinstance(delta.get("reasoningContent"), dict):
            yield from self._reasoning(source, delta["reasoningContent"])
        elif isinstance(delta.get("citation"), dict) and self._kind is blocks.Text:
            if citation := _citation(delta["citation"], 0, self._length):
                yield blocks.CitationDelta(self._index, citation)
        elif isinstance(delta.get("image"), dict):
            yield from self._image(source, delta["image"])

    def _text(self, source: int, text: str) -> Iterator[blocks.Event]:
        if text:
            yield from self._ensure(source, blocks.Text())
            self._length += len(text)
            yield blocks.TextDelta(self._index, text)

    def _input(self, source: int, text: object) -> Iterator[blocks.Event]:
        if not isinstance(text, str) or not text or source != self.source:
            return
        if self._kind is blocks.ToolCall:
            self._wrote = True
            yield blocks.ArgumentsDelta(self._index, text)
        elif self._kind is blocks.Text:
            yield blocks.TextDelta(self._index, text)

    def _reasoning(self, source: int, part: dict[str, Any]) -> Iterator[blocks.Event]:
        text, signature, redacted = part.get("text"), part.get("signature"), part.get("redactedContent")
        if isinstance(redacted, str):
            yield from self._open(source, blocks.Redacted(data=redacted, dialect=DIALECT))
            yield from self.close()
            return
        if isinstance(text, str) and text:
            yield from self._ensure(source, blocks.Thinking(dialect=DIALECT))
            yield blocks.ThinkingDelta(self._index, text)
        if isinstance(signature, str) and signature:
            yield from self._ensure(source, blocks.Thinking(dialect=DIALECT))
            yield blocks.SignatureDelta(self._index, signature)

    def _image(self, source: int, part: dict[str, Any]) -> Iterator[blocks.Event]:
        for block in _image(part):
            yield from self._open(source, block)
            yield from self.close()
