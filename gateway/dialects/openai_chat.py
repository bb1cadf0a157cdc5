"""Pure: OpenAI's chat completions as bytes. What a client asked, what to send on, what came back, how to say no.

Responsible for checking a request without re-serialising it, for reading usage and text out of answers and streams of
every OpenAI-compatible provider, odd ones included, and for errors in OpenAI's shape. Never knows which provider it
reads, never opens a socket, never prices. Neighbours: `gateway.call`, `gateway.framing`, `openai_answer` (what an
answer said, piece by piece).

Source: https://platform.openai.com/docs/api-reference/chat (2026-11), and recorded traffic of a dozen providers.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects.openai_answer import Choices, Meter, error_in, lenient, storable, usual
from gateway.framing import SSE, Event, FramingError

MAX_DEPTH = 64
MAX_BRACKETS = 250_000
MAX_MESSAGES = 10_000
MAX_CHOICES = 128
MAX_MODEL_LENGTH = 256
# More than any model writes; keeps the arithmetic of a hold inside a BIGINT.
MAX_OUTPUT_TOKENS = 100_000_000
# What is remembered of a stream: more than any model writes, so that a broken provider cannot fill our memory.
MAX_KEPT_BYTES = 32 * 1024 * 1024

DONE = b"data: [DONE]\n\n"

_Members = dict[str, msgspec.Raw]
_MEMBERS = msgspec.json.Decoder(_Members)
_ANY = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode
_GAP = re.compile(rb"[ \t\r\n]*")

_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(byte for byte in range(256) if byte not in b'[]{}"')
# Raw JSON of these goes into the prompt beside the messages.
_PROMPT_MEMBERS = ("tools", "functions", "response_format", "prediction")
# The template around a message, and images: both are bounded by the piece, not by their bytes.
_NOT_TEXT = frozenset({"role", "type", "image_url"})
_NOT_COUNTED_TEXT = _NOT_TEXT | {"file_data", "input_audio", "file_id", "id", "tool_call_id"}


# --- Requests -------------------------------------------------------------------------------------------------------


class InvalidBody(ValueError):
    """A request that cannot be understood; `param` names the member to mend."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. `members` are the raw bytes of its top level, in order; `messages` is decoded."""

    body: bytes
    members: _Members
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


def read(body: bytes) -> Request:
    """Decode and check a request. Raises: InvalidBody."""
    members = _top_level(body)
    options = _member(members, "stream_options", dict, "an object")
    messages = _messages(members)
    measure = _Measure(_NOT_TEXT)
    measure.take(messages)
    return Request(
        body=body,
        members=members,
        messages=messages,
        model=_model(members),
        stream=bool(_member(members, "stream", bool, "true or false")),
        n=_count(members, "n", MAX_CHOICES) or 1,
        max_output=_count(members, "max_completion_tokens", MAX_OUTPUT_TOKENS)
        or _count(members, "max_tokens", MAX_OUTPUT_TOKENS),
        include_usage=bool(_include_usage(options)),
        input_bytes=measure.bytes() + sum(len(bytes(members[name])) for name in _PROMPT_MEMBERS if name in members),
        images=measure.images,
        has_tools=_has_tools(members),
    )


def input_text(request: Request) -> str:
    """Return the text of the prompt, for a tokenizer: no images, no files, tools as their JSON."""
    measure = _Measure(_NOT_COUNTED_TEXT)
    measure.take(request.messages)
    tools = [bytes(request.members[name]).decode() for name in _PROMPT_MEMBERS if name in request.members]
    return "\n".join([*measure.strings, *tools])


def patched(
    request: Request,
    *,
    model: str | None = None,
    drop: Collection[str] = (),
    set_members: Mapping[str, bytes] | None = None,
) -> bytes:
    """Return the body with another model, without the members `drop`, with `set_members` (JSON) set.

    Nothing to change: the bytes as they came. Otherwise each other member keeps its bytes and its place.
    """
    changes = {name: msgspec.Raw(value) for name, value in (set_members or {}).items()}
    if model is not None and model != request.model:
        changes["model"] = msgspec.Raw(_encode(model))
    members = request.members
    changes = {name: value for name, value in changes.items() if name not in members or members[name] != value}
    drop = [name for name in drop if name in members and not (set_members and name in set_members)]
    if not changes and not drop and _is_unambiguous(request):
        return request.body
    kept = {name: changes.pop(name, raw) for name, raw in members.items() if name not in drop}
    return _encode(kept | changes)


def with_usage(stream_options: msgspec.Raw | None) -> bytes:
    """Return `stream_options` that ask for usage, with the client's other options kept."""
    options = _ANY.decode(stream_options) if stream_options is not None else None
    return _encode({**(options or {}), "include_usage": True})


def _top_level(body: bytes) -> _Members:
    try:
        if not body.isascii():
            body.decode()
        members = _MEMBERS.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidBody("The body is not valid UTF-8.") from error
    except msgspec.ValidationError as error:
        raise InvalidBody("The body must be a JSON object.") from error
    except msgspec.DecodeError as error:
        raise InvalidBody(f"The body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise _too_deep() from error
    _check_shape(members)
    return members


def _check_shape(members: _Members) -> None:
    """Refuse what would trouble whoever decodes it: nesting (that of messages is seen when they are measured), and
    objects and lists without number.
    """
    raws = {name: bytes(raw) for name, raw in members.items()}
    messages = raws.pop("messages", b"")
    if messages.count(b"{") + messages.count(b"[") > MAX_BRACKETS // 2:
        _brackets(messages)  # many of them may stand in texts
    rest = b",".join(raws.values())
    if rest.count(b"{") + rest.count(b"[") < MAX_DEPTH:
        return
    brackets = _brackets(rest)
    for _ in range(MAX_DEPTH - 1):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # takes off the innermost level
    if brackets:
        raise _too_deep()


def _brackets(raw: bytes) -> bytes:
    """Return the brackets of JSON without those in its strings. Only passes that run in C; no objects made."""
    text = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    marks = text.translate(_AS_BRACKETS, _NO_MARKS).replace(b'""', b"")  # pairs of quotes change no other's parity
    brackets = b"".join(marks.split(b'"')[::2])
    if len(brackets) > MAX_BRACKETS:
        raise InvalidBody("The body has too many objects and lists.")
    return brackets


def _too_deep() -> InvalidBody:
    return InvalidBody(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _is_unambiguous(request: Request) -> bool:
    """Tell whether every reader of the original bytes sees the members we saw: no member twice, no escaped name."""
    body, members = request.body, request.members
    if _encode(members) == body:
        return True
    position = 0
    for index, (name, raw) in enumerate(members.items()):
        for expected in (b"," if index else b"{", _encode(name), b":", bytes(raw)):
            position = _GAP.match(body, position).end()  # type: ignore[union-attr]
            if not body.startswith(expected, position):
                return False
            position += len(expected)
    return body[position:].strip() == b"}"


def _member(members: _Members, name: str, kind: type, wanted: str) -> Any:
    """Return a decoded member, None when it is absent or null. Raises: InvalidBody when it is of another type."""
    raw = members.get(name)
    if raw is None:
        return None
    try:
        value = _ANY.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidBody(f"{name} is not valid JSON.", name) from error
    if value is not None and type(value) is not kind:
        raise InvalidBody(f"{name} must be {wanted}.", name)
    return value


def _model(members: _Members) -> str:
    model: str | None = _member(members, "model", str, "a string")
    if not model:
        raise InvalidBody("model is missing: name the model to call.", "model")
    if len(model) > MAX_MODEL_LENGTH or not model.isprintable():
        raise InvalidBody("model is not a model's name.", "model")
    return model


def _messages(members: _Members) -> list[dict[str, Any]]:
    messages: list[Any] | None = _member(members, "messages", list, "a list of messages")
    if not messages:
        raise InvalidBody("messages is missing: give at least one message.", "messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidBody(f"messages has more than {MAX_MESSAGES} messages.", "messages")
    for index, message in enumerate(messages):
        if type(message) is not dict:
            raise InvalidBody(f"messages[{index}] must be an object.", f"messages[{index}]")
        if type(message.get("role")) is not str:
            raise InvalidBody(f"messages[{index}].role must be a string.", f"messages[{index}].role")
    return messages


def _count(members: _Members, name: str, most: int) -> int | None:
    value: int | None = _member(members, name, int, "a whole number")
    if value is not None and not 1 <= value <= most:
        raise InvalidBody(f"{name} must be between 1 and {most}.", name)
    return value


def _has_tools(members: _Members) -> bool:
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


class _Measure:
    """Gathers the strings of messages and counts their images."""

    __slots__ = ("images", "skip", "strings")

    def __init__(self, skip: Collection[str]) -> None:
        self.skip = skip
        self.strings: list[str] = []
        self.images = 0

    def take(self, value: Any, depth: int = 1) -> None:
        """Gather from a value at a depth. Raises: InvalidBody when it goes too deep."""
        if type(value) is str:
            self.strings.append(value)
        elif type(value) is list:
            self._check(depth)
            for item in value:
                self.take(item, depth + 1)
        elif type(value) is dict:
            self._check(depth)
            self.images += "image_url" in value
            for name, item in value.items():
                if name not in self.skip:
                    self.take(item, depth + 1)
                elif type(item) is not str:
                    _Measure(()).take(item, depth + 1)  # only how deep it goes

    def _check(self, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise _too_deep()

    def bytes(self) -> int:
        return sum(len(text) if text.isascii() else len(text.encode()) for text in self.strings)


# --- Answers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer said. `error` is the message of an error that came with a status of success."""

    usage: Usage | None = None
    model: str | None = None
    finish_reason: str | None = None
    output_text: str = ""
    error: str | None = None


NOTHING = Answer()


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


class InvalidStream(ValueError):
    """A stream that is no server-sent events."""


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
        """Take a block, return what to forward. Raises: InvalidStream."""
        self._kept += len(block)
        try:
            events = self._sse.feed(block)
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        if len(events) == 1:
            return self._take(events[0])
        return b"".join([self._take(event) for event in events])

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
            if self._kept <= MAX_KEPT_BYTES:
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
