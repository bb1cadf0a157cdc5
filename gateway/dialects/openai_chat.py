"""Pure: OpenAI's chat completions as bytes. What a client asked, what to send on, what came back, how to say no.

Responsible for checking a request without re-serialising it, for reading usage and text out of answers and streams of
every OpenAI-compatible provider, odd ones included, and for errors in OpenAI's shape. Never knows which provider it
reads, never opens a socket, never prices. Neighbours: `gateway.call`, `gateway.framing`, `openai_answer` (what an
answer said, piece by piece).

Source: https://platform.openai.com/docs/api-reference/chat (2026-11), and recorded traffic of a dozen providers.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects import wire
from gateway.dialects.blocks import Order, Sent, Unsupported
from gateway.dialects.openai_answer import Choices, Meter, error_in, lenient, storable, usual, written
from gateway.dialects.wire import Answer, InvalidBody, InvalidStream, patched
from gateway.framing import SSE, Event, FramingError

PATH = "/chat/completions"
DONE = b"data: [DONE]\n\n"

_MEMBERS = msgspec.json.Decoder(wire.Members)
_ANY = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode

# Raw JSON of these goes into the prompt beside the messages.
_PROMPT_MEMBERS = ("tools", "functions", "response_format", "prediction")
# The template around a message, and images: both are bounded by the piece, not by their bytes.
_NOT_TEXT = frozenset({"role", "type", "image_url"})
_NOT_COUNTED_TEXT = _NOT_TEXT | {"file_data", "input_audio", "file_id", "id", "tool_call_id"}


# --- Requests -------------------------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True):
    """A checked request. `members` are the raw bytes of its top level, in order; `messages` is decoded."""

    body: bytes
    members: wire.Members
    messages: list[dict[str, Any]]
    model: str
    stream: bool
    n: int
    max_output: int | None
    include_usage: bool
    # UTF-8 bytes of everything that becomes prompt text; images are counted, not measured.
    input_bytes: int
    images: int
    has_tools: bool

    @property
    def message_count(self) -> int:
        return len(self.messages)


def read(body: bytes, *, named: wire.Named | None = None) -> Request:
    """Decode and check a request. Raises: InvalidBody."""
    members = wire.top_level(body, measured="messages")
    options = wire.member(members, "stream_options", dict, "an object")
    messages = _messages(members)
    measure = wire.Measure(_NOT_TEXT)
    measure.take(messages)
    return Request(
        body=body,
        members=members,
        messages=messages,
        model=wire.model_name(members),
        stream=bool(wire.member(members, "stream", bool, "true or false")),
        n=wire.count(members, "n", wire.MAX_CHOICES) or 1,
        max_output=wire.count(members, "max_completion_tokens", wire.MAX_OUTPUT_TOKENS)
        or wire.count(members, "max_tokens", wire.MAX_OUTPUT_TOKENS),
        include_usage=bool(_include_usage(options)),
        input_bytes=measure.bytes() + sum(len(bytes(members[name])) for name in _PROMPT_MEMBERS if name in members),
        images=measure.images,
        has_tools=_has_tools(members),
    )


def input_text(request: Request) -> str:
    """Return the text of the prompt, for a tokenizer: no images, no files, tools as their JSON."""
    measure = wire.Measure(_NOT_COUNTED_TEXT)
    measure.take(request.messages)
    tools = [bytes(request.members[name]).decode() for name in _PROMPT_MEMBERS if name in request.members]
    return "\n".join([*measure.strings, *tools])


def forward(asked: Request, order: Order) -> Sent:
    """Return the body for a provider of this dialect: the client's bytes where nothing has to change.

    Raises: blocks.Unsupported.
    """
    members, model = asked.members, order.model
    drop = members.keys() & order.ours
    if "metadata" in drop and members.get("store") == b"true":
        drop = drop - {"metadata"}  # OpenAI keeps it with a stored completion
    left_out = members.keys() & model.unsupported
    if "n" in left_out and asked.n > 1:
        raise Unsupported("n", "This model gives one answer at a time: ask for n = 1.")
    if order.credits:
        left_out |= members.keys() & order.repriced_by  # the price that is held and charged is the usual one
    set_members: dict[str, bytes] = {}
    limit = order.max_output or asked.max_output
    if limit is not None and (order.credits or model.max_tokens_field not in members):
        # The limit that was held is the only one that is sent, under the name this provider reads.
        drop = drop | (members.keys() & {"max_tokens", "max_completion_tokens"})
        set_members[model.max_tokens_field] = str(limit).encode()
    if asked.stream and order.usage_in_stream and not asked.include_usage:
        set_members["stream_options"] = with_usage(members.get("stream_options"))
    for old, new in order.rename.items():
        if old in members:
            set_members[new] = bytes(members[old])
            drop = drop | {old}
    body = patched(asked, model=model.upstream, drop=drop | left_out, set_members=set_members)
    return Sent(body=body, path=PATH, dropped=sorted(left_out))


def with_usage(stream_options: msgspec.Raw | None) -> bytes:
    """Return `stream_options` that ask for usage, with the client's other options kept."""
    options = _ANY.decode(stream_options) if stream_options is not None else None
    return _encode({**(options or {}), "include_usage": True})


def _messages(members: wire.Members) -> list[dict[str, Any]]:
    messages: list[Any] | None = wire.member(members, "messages", list, "a list of messages")
    if not messages:
        raise InvalidBody("messages is missing: give at least one message.", "messages")
    if len(messages) > wire.MAX_MESSAGES:
        raise InvalidBody(f"messages has more than {wire.MAX_MESSAGES} messages.", "messages")
    for index, message in enumerate(messages):
        if type(message) is not dict:
            raise InvalidBody(f"messages[{index}] must be an object.", f"messages[{index}]")
        if type(message.get("role")) is not str:
            raise InvalidBody(f"messages[{index}].role must be a string.", f"messages[{index}].role")
    return messages


def _has_tools(members: wire.Members) -> bool:
    """Tell whether there are tools, without decoding them: they can be most of a body."""
    raw = bytes(members.get("tools", b"null"))
    if raw == b"null":
        return False
    if not raw.startswith(b"["):
        raise InvalidBody("tools must be a list.", "tools")
    return raw[1:-1].strip() != b""


def _include_usage(options: dict[str, Any] | None) -> bool | None:
    asked = options.get("include_usage") if options else None
    if asked is not None and type(asked) is not bool:
        raise InvalidBody("stream_options.include_usage must be true or false.", "stream_options.include_usage")
    return asked


# --- Answers --------------------------------------------------------------------------------------------------------


def read_json(body: bytes) -> Answer:
    """Read a whole answer. Never raises: what is no answer has an `error`; the text is there when usage is not."""
    if (read_already := usual(body)) is not None:
        usage, model, finish_reason = read_already
        return Answer(usage, storable(model), finish_reason)
    value = lenient(body)
    if not isinstance(value, dict):
        return Answer(error="The provider's answer is not JSON.")
    choices = Choices()
    choices.take(value.get("choices"))
    meter = Meter()
    meter.take(value)
    failed = error_in(value)
    if failed is None and not isinstance(value.get("choices"), list):
        failed = "The provider's answer has no choices."
    return Answer(meter.usage, storable(value.get("model")), choices.finish_reason, choices.text(), failed)


class StreamReader:
    """Reads a stream beside its way to the client.

    `feed` returns the bytes to forward: whole events, as they came. When the client did not ask for usage, the chunk
    that holds nothing else and `"usage":null` are left out, because it was us who asked.
    """

    def __init__(self, *, include_usage: bool) -> None:
        self.saw_done = False
        self.started = False  # a first chunk with a choice has come
        self.error: str | None = None
        self._include_usage = include_usage
        self._sse = SSE()
        self._choices = Choices()
        self._meter = Meter()
        self._first: dict[str, Any] = {}
        self._model: str | None = None
        self._kept = 0

    def feed(self, block: bytes) -> bytes:
        """Take a block, return what to forward. Nearly all of a stream are events that only write text: those take a
        short way. Raises: InvalidStream.
        """
        self._kept += len(block)
        data = self._sse.sole(block)
        if data is not None:
            return block if self._writes(data) else self._take(Event(block, data))
        try:
            events = self._sse.feed(block)
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        return b"".join([event.raw if self._writes(event.data) else self._take(event) for event in events])

    def _writes(self, data: bytes) -> bool:
        if not self.started or self.saw_done or self._kept > wire.MAX_KEPT_BYTES:
            return False
        choices = written(data, usage_may_show=self._include_usage)
        if not choices:
            return False
        self._choices.write(choices)
        return True

    def end(self) -> bytes:
        """Return what is still to forward when the provider has ended: `[DONE]` too, if only that was missing.

        An event that was cut off is not forwarded. Raises: InvalidStream.
        """
        try:
            events = self._sse.end()
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        last = b""
        for event in events:
            if event.data.startswith(b"[DONE]") or isinstance(lenient(event.data), dict):
                whole = event.raw.rstrip(b"\r\n") + b"\n\n"
                last += self._take(event._replace(raw=whole))
        if self.complete and not self.saw_done:
            self.saw_done = True
            last += DONE
        return last

    @property
    def complete(self) -> bool:
        """Whether the answer reached its end: `[DONE]`, or a finish reason for each choice; and no error."""
        return self.error is None and (self.saw_done or self._choices.finished)

    @property
    def delivered_text(self) -> str:
        """All that was written so far: reasoning, text, refusals and tool calls."""
        return self._choices.text()

    @property
    def usage(self) -> Usage | None:
        return self._meter.usage

    def answer(self) -> Answer:
        """Return what the stream has said so far."""
        return Answer(self._meter.usage, self._model, self._choices.finish_reason, self._choices.text(), self.error)

    def assembled(self) -> bytes:
        """Return the stream so far as one `chat.completion`, for the trace."""
        whole: dict[str, Any] = {
            "id": self._first.get("id"),
            "object": "chat.completion",
            "created": self._first.get("created"),
            "model": self._first.get("model"),
            "choices": self._choices.assembled(),
        }
        for name in ("system_fingerprint", "service_tier"):
            if self._first.get(name) is not None:
                whole[name] = self._first[name]
        if self._meter.reported is not None:
            whole["usage"] = self._meter.reported
        if self.error is not None:
            whole["error"] = {"message": self.error}
        return _encode(whole)

    def _take(self, event: Event) -> bytes:
        data = event.data
        if self.saw_done:
            return b""
        if not data:
            return event.raw
        if data.startswith(b"[DONE]"):
            self.saw_done = True
            # After an error a `[DONE]` would make a broken answer look whole.
            return b"" if self.error is not None else event.raw
        try:
            chunk = _ANY.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            chunk = lenient(data)
        return self._chunk(event, chunk) if type(chunk) is dict else event.raw

    def _chunk(self, event: Event, chunk: dict[str, Any]) -> bytes:
        choices = chunk.get("choices")
        if choices:
            if not self.started:
                self._begin(chunk)
            if self._kept <= wire.MAX_KEPT_BYTES:
                self._choices.take(choices)
            else:
                self._choices.take_reasons(choices)
        if not choices or "error" in chunk or self._choices.failed:
            self.error = self.error or error_in(chunk)
        if "usage" in chunk or "x_groq" in chunk or self._choices.metered:
            self._meter.take(chunk)
            if not self._include_usage:
                return self._without_usage(event, chunk)
        return event.raw

    def _begin(self, chunk: dict[str, Any]) -> None:
        self.started = True
        self._first = chunk
        self._model = storable(chunk.get("model"))

    def _without_usage(self, event: Event, chunk: dict[str, Any]) -> bytes:
        if "usage" not in chunk or self.error is not None:
            return event.raw
        if chunk["usage"] is not None:
            return event.raw if chunk.get("choices") else b""
        raw = event.raw
        if raw.count(b'"usage"') == 1 and b',"usage":null' in raw:
            return raw.replace(b',"usage":null', b"")
        try:
            members = _MEMBERS.decode(event.data)
        except msgspec.DecodeError:
            return raw  # only leniently JSON: not ours to write anew
        del members["usage"]
        name = b"event: " + event.event + b"\n" if event.event else b""
        return name + b"data: " + _encode(members) + b"\n\n"


# --- Errors ---------------------------------------------------------------------------------------------------------

# The `type` of an error by its status; other 4xx are invalid_request_error, other 5xx server_error.
ERROR_TYPES = {
    401: "authentication_error",
    402: "insufficient_credits",
    403: "permission_error",
    408: "timeout",
    429: "rate_limit_exceeded",
    503: "overloaded",
    504: "timeout",
}


def error(
    *, status: int, code: str, message: str, param: str | None = None, extra: Mapping[str, Any] | None = None
) -> bytes:
    """Return the body of an error; `extra` holds further members of the error; `detail` repeats the message."""
    inner = {"message": message, "type": _type(status), "param": param, "code": code, **(extra or {})}
    return _encode({"error": inner, "detail": message})


def stream_error(*, status: int, code: str, message: str) -> bytes:
    """Return the event that ends a stream which cannot go on. No `[DONE]` may follow it.

    openai-python raises on any chunk with a truthy `error`; the finish reason is for clients that do not look there.
    """
    chunk = {
        "id": "",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "",
        "error": {"message": message, "type": _type(status), "param": None, "code": code},
        "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}],
    }
    return b"data: " + _encode(chunk) + b"\n\n"


def error_message(body: bytes) -> str | None:
    """Return the message of a provider's error, whatever its shape; None when there is none."""
    value = lenient(body)
    return error_in(value) if isinstance(value, dict) else None


def is_error_body(body: bytes) -> bool:
    """Tell whether a body is an error in OpenAI's shape, fit to be passed on as it came."""
    value = lenient(body)
    inner = value.get("error") if isinstance(value, dict) else None
    return isinstance(inner, dict) and isinstance(inner.get("message"), str)


def _type(status: int) -> str:
    return ERROR_TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
