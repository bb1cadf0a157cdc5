"""Pure: Anthropic's messages as bytes. What a client asked, what to send on, what came back, how to say no.

Responsible for checking a request without re-serialising it (betas, `cache_control`, the order of keys and blocks of
types nobody knows yet go on as they came), for taking Respan's parameters out of `metadata`, for reading usage and text
out of answers and streams, and for errors in Anthropic's shape. Never opens a socket, never prices. Neighbours:
`gateway.call`, `gateway.framing`, `anthropic_answer` (what an answer said, piece by piece), `anthropic_credits` (what
only an own key may do), `anthropic_decode` and `anthropic_encode` (the middle form).

Source: https://platform.claude.com/docs/en/api/messages (2026-11), and recorded traffic.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from billing.usage import Usage
from gateway.dialects import anthropic_answer, anthropic_credits, anthropic_seal, blocks, wire
from gateway.dialects.anthropic_answer import Gathered, failure
from gateway.dialects.openai_answer import lenient, storable
from gateway.dialects.wire import Answer, InvalidBody, InvalidStream
from gateway.framing import SSE, Event, FramingError

PATH = "/messages"
COUNT_PATH = "/messages/count_tokens"
# `max_tokens` is required by Anthropic; Respan documents this default.
DEFAULT_MAX_TOKENS = 4_096
# Google serves these models with the version in the body and the model in the address.
VERTEX_VERSION = "vertex-2023-10-16"
VERTEX_COUNT_PATH = "/models/count-tokens:rawPredict"
# What keeps a silent connection alive.
PING = b'event: ping\ndata: {"type": "ping"}\n\n'

_MEMBERS = msgspec.json.Decoder(wire.Members)
_ANY = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode

# Respan's parameters inside `metadata`, for SDKs that send no members of their own.
_CARRIERS = ("respan_params", "keywordsai_params")
# Further headers for the provider, of the same origin: never sent on.
_HEADERS = "extra_headers"
# Raw JSON of these goes into the prompt beside the messages.
_PROMPT_MEMBERS = ("system", "tools", "output_config", "output_format")
# What Anthropic itself puts into a prompt, in tokens, at most: for tools at all, for each of its own tools, for a
# schema of the answer.
_TOKENS_FOR_TOOLS = 1_000
_TOKENS_FOR_OWN_TOOL = 1_500
_TOKENS_FOR_FORMAT = 500
_NOT_COUNTED_TEXT = frozenset(
    {"type", "role", "id", "tool_use_id", "signature", "cache_control", "encrypted_content", "encrypted_index"}
)

# Members by chat completions' names, where they differ.
_CHAT_NAMES = {"stop_sequences": "stop"}
_REQUIRED = frozenset({"model", "messages", "max_tokens", "stream", "system"})


# --- Requests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. `members` are the raw bytes of its top level, in order; `messages` is decoded."""

    body: bytes
    members: wire.Members
    messages: list[dict[str, Any]]
    model: str
    stream: bool
    max_output: int | None
    # An upper bound of the tokens of everything that becomes prompt text; images are counted, not measured.
    input_bytes: int
    images: int
    # Documents whose pages the provider also looks at: their bytes say little about their tokens.
    documents: int
    has_tools: bool

    @property
    def n(self) -> int:
        return 1

    @property
    def include_usage(self) -> bool:
        return True

    @property
    def message_count(self) -> int:
        return len(self.messages)


def read(body: bytes, *, named: wire.Named | None = None) -> Request:
    """Decode and check a request. Respan's parameters become members of their own. Raises: InvalidBody."""
    members = _uncarried(wire.top_level(body, measured="messages"))
    messages = _messages(members)
    measure = _Measure(_NOT_COUNTED_TEXT)
    measure.take(messages)
    has_tools = _is_filled_list(members, "tools")
    return Request(
        body=body,
        members=members,
        messages=messages,
        model=wire.model_name(members),
        stream=bool(wire.member(members, "stream", bool, "true or false")),
        max_output=_max_tokens(members),
        input_bytes=_input_bound(members, measure) + (_tools_bound(members) if has_tools else 0),
        images=measure.images,
        documents=measure.documents,
        has_tools=has_tools,
    )


def input_text(asked: Request) -> str:
    """Return the text of the prompt, for a tokenizer: no images, no files, tools as their JSON."""
    measure = _Measure(_NOT_COUNTED_TEXT)
    if "system" in asked.members:
        measure.take(_ANY.decode(asked.members["system"]))
    measure.take(asked.messages)
    tools = [bytes(asked.members["tools"]).decode()] if asked.has_tools else []
    return "\n".join([*measure.strings, *measure.inputs, *tools])


def _uncarried(members: wire.Members) -> wire.Members:
    """Return the members with what `metadata` carried for Respan as members of their own."""
    raw = members.get("metadata")
    if raw is None:
        return members
    try:
        metadata = _MEMBERS.decode(raw)
    except msgspec.DecodeError:
        return members  # no object: the provider says so
    carried = {name: metadata.pop(name) for name in _CARRIERS if name in metadata}
    if not carried and _HEADERS not in metadata:
        return members
    metadata.pop(_HEADERS, None)
    rest = {name: value for name, value in members.items() if name != "metadata" or metadata}
    if metadata:
        rest["metadata"] = msgspec.Raw(_encode(metadata))
    for name, value in carried.items():
        rest[name] = _joined(value, rest.get(name))
    return rest


def _joined(carried: msgspec.Raw, top: msgspec.Raw | None) -> msgspec.Raw:
    """Return the parameters of `metadata` and those of the top level, which win; no object: the top level's."""
    if top is None:
        return carried
    try:
        return msgspec.Raw(_encode(_MEMBERS.decode(carried) | _MEMBERS.decode(top)))
    except msgspec.DecodeError:
        return top


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


def _max_tokens(members: wire.Members) -> int | None:
    """Return the limit; 0 is one too: it asks for nothing but to fill the cache."""
    if bytes(members.get("max_tokens", b"")) == b"0":
        return 0
    return wire.count(members, "max_tokens", wire.MAX_OUTPUT_TOKENS)


def _is_filled_list(members: wire.Members, name: str) -> bool:
    """Tell whether there are tools, without decoding them: they can be most of a body."""
    raw = bytes(members.get(name, b"null"))
    if raw == b"null":
        return False
    if not raw.startswith(b"["):
        raise InvalidBody(f"{name} must be a list.", name)
    return raw[1:-1].strip() != b""


class _Measure(wire.Measure):
    """Gathers strings, the input of tool calls as JSON, and counts images and documents wherever they are."""

    __slots__ = ("documents", "encoded", "inputs")

    def __init__(self, skip: Iterable[str]) -> None:
        super().__init__(frozenset(skip), marks=frozenset())
        self.documents = 0
        self.encoded = 0  # characters of images as base64
        self.inputs: list[str] = []

    def take(self, value: Any, depth: int = 1) -> None:
        if type(value) is not dict:
            super().take(value, depth)
            return
        kind, source, given = value.get("type"), value.get("source"), value.get("input")
        if kind == "image":
            self.images += 1
        if kind in ("image", "document") and type(source) is dict:
            self._source(kind, source, depth + 1)
            value = {name: item for name, item in value.items() if name != "source"}
        elif type(given) is dict:
            wire.Measure(()).take(given, depth + 1)  # only how deep it goes
            self.inputs.append(_encode(given).decode())
            value = {name: item for name, item in value.items() if name != "input"}
        super().take(value, depth)

    def _source(self, kind: str, source: dict[str, Any], depth: int) -> None:
        data = source.get("data")
        if kind == "image" and isinstance(data, str):
            self.encoded += len(data)
            wire.Measure(("data",)).take(source, depth)
        elif kind == "document" and source.get("type") in ("base64", "url", "file"):
            self.documents += 1
            wire.Measure(("data",)).take(source, depth)
        else:
            super().take(source, depth)


def _input_bound(members: wire.Members, measure: _Measure) -> int:
    """Return at most how many tokens the prompt is: no token is less than a byte of JSON."""
    raw = sum(len(bytes(members[name])) for name in ("messages", *_PROMPT_MEMBERS) if name in members)
    has_format = "output_config" in members or "output_format" in members
    return raw - measure.encoded + (_TOKENS_FOR_FORMAT if has_format else 0)


def _tools_bound(members: wire.Members) -> int:
    raw = bytes(members["tools"])
    own = raw.count(b"_20")  # every tool of Anthropic's has a date in its type
    return _TOKENS_FOR_TOOLS + _TOKENS_FOR_OWN_TOOL * own


# --- To the provider ------------------------------------------------------------------------------------------------


def forward(asked: Request, order: blocks.Order) -> blocks.Sent:
    """Return the body for a provider of this dialect: the client's bytes where nothing has to change.

    Raises: blocks.Unsupported for what credits cannot pay.
    """
    left_out = _unsupported(asked, order)
    if order.credits:
        left_out |= _repriced(asked, order)
    limit = _limit(asked, order)
    set_members = {"max_tokens": str(limit).encode()} if limit != asked.max_output else {}
    return _sent(
        asked, order, path_of(order, stream=asked.stream), left_out, set_members, names_model=not _vertex(order)
    )


def count_tokens(asked: Request, order: blocks.Order) -> blocks.Sent:
    """Return the body for counting the tokens of a prompt, which costs nothing: no limit is added."""
    path = VERTEX_COUNT_PATH if _vertex(order) else COUNT_PATH
    return _sent(asked, order, path, _unsupported(asked, order), {}, names_model=True)


def path_of(order: blocks.Order, *, stream: bool) -> str:
    """Return where a message is asked for."""
    if not _vertex(order):
        return PATH
    specifier = "streamRawPredict" if stream else "rawPredict"
    return f"/models/{quote(order.model.upstream, safe='@')}:{specifier}"


def _vertex(order: blocks.Order) -> bool:
    return order.variant == "vertex"


def _sent(
    asked: Request,
    order: blocks.Order,
    path: str,
    left_out: set[str],
    set_members: dict[str, bytes],
    *,
    names_model: bool,
) -> blocks.Sent:
    # Anthropic has a `metadata` of its own; what was Respan's in it is already out.
    drop = (asked.members.keys() & order.ours) - {"metadata"} | left_out
    if _vertex(order) and "anthropic_version" not in asked.members:
        set_members["anthropic_version"] = _encode(VERTEX_VERSION)
    if not names_model:
        drop |= {"model"}
    if anthropic_seal.MARK in asked.body and (messages := _unsealed(asked.messages)) is not None:
        set_members["messages"] = _encode(messages)
    model = order.model.upstream if names_model else None
    body = wire.patched(asked, model=model, drop=drop, set_members=set_members)
    return blocks.Sent(body=body, path=path, dropped=sorted(left_out))


def _limit(asked: Request, order: blocks.Order) -> int:
    """Return the limit to send: never more than the client's own, which may be 0."""
    if asked.max_output is None:
        most = order.model.max_output_tokens or DEFAULT_MAX_TOKENS
        return min(DEFAULT_MAX_TOKENS, most) if order.max_output is None else order.max_output
    return asked.max_output if order.max_output is None else min(order.max_output, asked.max_output)


def _unsupported(asked: Request, order: blocks.Order) -> set[str]:
    refused = order.model.unsupported
    if not refused:
        return set()
    return {name for name in asked.members if name in refused or _CHAT_NAMES.get(name) in refused} - _REQUIRED


def _repriced(asked: Request, order: blocks.Order) -> set[str]:
    """Return the members that would change the price. Raises: blocks.Unsupported where leaving out is no answer."""
    tools = _ANY.decode(asked.members["tools"]) if asked.has_tools else []
    anthropic_credits.refuse(tools, asked.messages)
    left_out = asked.members.keys() & (anthropic_credits.REPRICED | order.repriced_by)
    management = asked.members.get("context_management")
    if management is not None and anthropic_credits.compacts(_ANY.decode(management)):
        left_out |= {"context_management"}
    return left_out - _REQUIRED


def _unsealed(messages: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Return the messages without other vendors' reasoning, which Anthropic would refuse; None where there is none."""
    kept = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(map(anthropic_seal.is_sealed, content)):
            content = [block for block in content if not anthropic_seal.is_sealed(block)]
            message = message | {"content": content}
        if content:
            kept.append(message)
    return None if kept == messages else kept


# --- Answers --------------------------------------------------------------------------------------------------------


def read_json(body: bytes) -> Answer:
    """Read a whole answer. Never raises: what is no answer has an `error`; the text is there when usage is not."""
    if (read_already := anthropic_answer.usual(body)) is not None:
        usage, model, native = read_already
        return Answer(usage, storable(model), anthropic_answer.reason(native))
    value = lenient(body)
    failed = failure(value)
    if not isinstance(value, dict):
        return Answer(error=failed or "The provider's answer is not JSON.")
    if failed is None and not isinstance(value.get("content"), list):
        failed = "The provider's answer has no content."
    whole = anthropic_answer.gathered(value)
    finish = anthropic_answer.reason(whole.stop_reason)
    return Answer(whole.meter.usage, whole.model, finish, whole.text(), failed)


class StreamReader:
    """Reads a stream beside its way to the client: `feed` returns whole events, as they came, `ping` too.

    It is complete after `message_stop` only. Usage counts from `message_delta` on: what `message_start` says of the
    output is not what was written.
    """

    __slots__ = ("_gathered", "_kept", "_metered", "_sse", "_stopped", "error", "saw_done", "started")

    def __init__(self, *, include_usage: bool) -> None:
        self.saw_done = False
        self.started = False  # a first block of content has begun
        self.error: str | None = None
        self._sse = SSE(anthropic_answer.MAX_EVENT_BYTES)
        self._gathered = Gathered()
        self._metered = False
        self._stopped = False
        self._kept = 0

    def feed(self, block: bytes) -> bytes:
        """Take a block, return what to forward. Raises: InvalidStream."""
        self._kept += len(block)
        try:
            events = self._sse.feed(block)
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        return b"".join([event.raw for event in events if self._take(event)])

    def end(self) -> bytes:
        """Return what is still to forward when the provider has ended: an event that lacks nothing but its blank line.

        One that was cut off is not forwarded. Raises: InvalidStream.
        """
        try:
            events = self._sse.end()
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        whole = [event for event in events if isinstance(lenient(event.data), dict)]
        return b"".join([event.raw.rstrip(b"\r\n") + b"\n\n" for event in whole if self._take(event)])

    @property
    def complete(self) -> bool:
        """Whether the answer reached its end, without an error."""
        return self.error is None and self._stopped

    @property
    def usage(self) -> Usage | None:
        return self._gathered.meter.usage if self._metered else None

    def answer(self) -> Answer:
        """Return what the stream has said so far."""
        whole = self._gathered
        finish = anthropic_answer.reason(whole.stop_reason)
        return Answer(self.usage, whole.model, finish, whole.text(), self.error)

    def assembled(self) -> bytes:
        """Return the stream so far as one message, for the trace."""
        whole = self._gathered.message()
        if self.error is not None:
            whole["error"] = {"message": self.error}
        return _encode(whole)

    def _take(self, event: Event) -> bool:
        """Take an event, tell whether it is forwarded: nothing is after the end."""
        if self.saw_done:
            return False
        data = event.data
        if not data:
            return True
        delta = anthropic_answer.written(data) if self._kept <= wire.MAX_KEPT_BYTES else None
        if delta is not None:
            piece = self._gathered.piece(delta.index)
            if piece is not None:
                piece.write(delta.text)
            return True
        value = lenient(data)
        if isinstance(value, dict):
            self._note(value)
        if event.event == b"error" and self.error is None:
            self.error = failure(value) or data[:2_000].decode("utf-8", "replace")
            self.saw_done = True
        return True

    def _note(self, value: dict[str, Any]) -> None:
        kind = value.get("type")
        whole = self._gathered
        if kind == "content_block_delta":
            piece = whole.piece(value.get("index"))
            if piece is not None and isinstance(value.get("delta"), dict) and self._kept <= wire.MAX_KEPT_BYTES:
                piece.take(value["delta"])
        elif kind == "content_block_start":
            self.started = True
            if self._kept <= wire.MAX_KEPT_BYTES:
                whole.begin(value.get("index"), value.get("content_block"))
        elif kind == "message_start" and isinstance(value.get("message"), dict):
            whole.start(value["message"])
        elif kind == "message_delta":
            self._metered = self._metered or isinstance(value.get("usage"), dict)
            whole.finish(value)
        elif kind == "message_stop":
            self.started = self.saw_done = self._stopped = True
        elif kind == "error" or ("error" in value and kind is None):
            self.error = failure(value) or "The provider reported an error."
            self.saw_done = True


# --- Errors ---------------------------------------------------------------------------------------------------------


def error(
    *, status: int, code: str, message: str, param: str | None = None, extra: Mapping[str, Any] | None = None
) -> bytes:
    """Return the body of an error; `extra` holds further members of the error; `detail` repeats the message."""
    inner: dict[str, Any] = {"type": anthropic_answer.error_type(status), "message": message, "code": code}
    if param is not None:
        inner["param"] = param
    return _encode({"type": "error", "error": {**inner, **(extra or {})}, "detail": message})


def stream_error(*, status: int, code: str, message: str) -> bytes:
    """Return the event that ends a stream which cannot go on. No `message_stop` may follow it."""
    inner = {"type": anthropic_answer.error_type(status), "message": message, "code": code}
    return b"event: error\ndata: " + _encode({"type": "error", "error": inner}) + b"\n\n"


def error_message(body: bytes) -> str | None:
    """Return the message of a provider's error, whatever its shape; None when there is none."""
    return failure(lenient(body))


def is_error_body(body: bytes) -> bool:
    """Tell whether a body is an error in Anthropic's shape, fit to be passed on as it came."""
    value = lenient(body)
    inner = value.get("error") if isinstance(value, dict) and value.get("type") == "error" else None
    return isinstance(inner, dict) and isinstance(inner.get("type"), str) and isinstance(inner.get("message"), str)


# --- The endpoints beside ------------------------------------------------------------------------------------------


def count_answer(tokens: int) -> bytes:
    """Return the answer of `/messages/count_tokens`."""
    return _encode({"input_tokens": tokens})


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as Anthropic lists it; `created` is in seconds since the epoch."""

    id: str
    name: str
    created: int
    context_tokens: int | None = None
    max_output_tokens: int | None = None


def model_info(item: Listed) -> bytes:
    """Return the answer of `GET /v1/models/{id}`."""
    return _encode(_info(item))


def models_page(items: Iterable[Listed], *, has_more: bool = False) -> bytes:
    """Return the answer of `GET /v1/models`: one page of models."""
    data = [_info(item) for item in items]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return _encode({"data": data, "has_more": has_more, "first_id": first, "last_id": last})


def _info(item: Listed) -> dict[str, Any]:
    return {
        "type": "model",
        "id": item.id,
        "display_name": item.name,
        "created_at": datetime.fromtimestamp(item.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": item.context_tokens,
        "max_tokens": item.max_output_tokens,
    }
