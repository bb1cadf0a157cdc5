"""Pure: which dialects there are, and by which functions each is read and written. A new one is a line here.

`CLIENTS` are formats that clients speak to us, `TARGETS` formats that providers speak. A call whose client's dialect is
among those its provider speaks is passed through (`Client.forward`, `Client.reader`); any other goes through the middle
form, for which both sides bring their own half. Neighbours: the dialects' modules, `gateway.call`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from gateway.dialects import (
    anthropic,
    anthropic_decode,
    anthropic_encode,
    bedrock_decode,
    bedrock_encode,
    blocks,
    cohere_decode,
    cohere_encode,
    gemini,
    gemini_decode,
    gemini_encode,
    gemini_operations,
    openai_chat,
    openai_chat_decode,
    openai_chat_encode,
    openai_responses,
    openai_responses_decode,
    openai_responses_encode,
    wire,
)
from gateway.dialects.translation import Encode

EVENTS = "text/event-stream"
AWS_EVENTS = "application/vnd.amazon.eventstream"


class Read(Protocol):
    """Reads and checks a request. Raises: wire.InvalidBody."""

    def __call__(self, body: bytes, *, named: wire.Named | None = None) -> wire.Asked: ...


class WriteError(Protocol):
    """Writes the body of an error; `extra` holds further members."""

    def __call__(
        self,
        *,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> bytes: ...


class WriteStreamError(Protocol):
    """Writes the event that ends a stream which cannot go on."""

    def __call__(self, *, status: int, code: str, message: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Errors:
    """How a client dialect says no, and what it understands of a provider's no."""

    body: WriteError
    in_stream: WriteStreamError
    message: Callable[[bytes], str | None]
    is_body: Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Translated:
    """A client dialect's half of the middle form."""

    decode: Callable[[Any], blocks.Request]
    encode: Encode
    writer: Callable[[Any, wire.Context], blocks.Writer]


@dataclass(frozen=True, slots=True)
class Client:
    """A format that clients speak. `operation` names its calls in traces; `dialect` is the providers' it is passed to.

    `kind` is what a model must be for (`providers.KINDS`); `sells` whether credits can pay: only what is priced by
    tokens and held before. Without `translated` only providers of its own dialect can answer.
    """

    id: str
    dialect: str
    operation: str
    read: Read
    input_text: Callable[[Any], str]
    forward: Callable[[Any, blocks.Order], blocks.Sent]
    read_json: Callable[[bytes], wire.Answer]
    reader: Callable[[Any], wire.StreamReader]
    errors: Errors
    translated: Translated | None = None
    log_type: str = "chat"
    kind: str = "chat"
    sells: bool = True
    # Whether an answer costs output tokens.
    writes: bool = True
    # Whether the worker may count tokens where the provider reports none.
    counts: bool = True
    # What may be kept of a request, and of an answer that is no JSON (its bytes and content type); None: as it came.
    stored: Callable[[Any], bytes] | None = None
    kept: Callable[[bytes, str], bytes] | None = None
    # Members that are this dialect's own although Respan has one of the same name.
    keeps: frozenset[str] = frozenset()
    stream_type: Callable[[Any], str] = lambda asked: EVENTS
    # What keeps a silent stream of events alive, between two of them; its clients take no notice of it.
    filler: bytes = b": keep-alive\n\n"


class ReadAnswer(Protocol):
    """Reads a provider's whole answer; never raises."""

    def __call__(self, body: bytes) -> blocks.Answer: ...


@dataclass(frozen=True, slots=True)
class Target:
    """A format that providers speak: the provider's half of the middle form."""

    encode: Callable[[blocks.Request, blocks.Order], blocks.Sent]
    answer: ReadAnswer
    decoder: Callable[[], blocks.Decoder]
    error_message: Callable[[bytes], str | None]
    # What behind a URL has to be sent as bytes.
    fetches: tuple[type[blocks.Block], ...] = ()
    stream_type: str = EVENTS


def _errors(door: Any) -> Errors:
    return Errors(door.error, door.stream_error, door.error_message, door.is_error_body)


def _client(id: str, operation: str, door: Any, decode: Any, encode: Any, **more: Any) -> Client:
    return Client(
        id=id,
        dialect=id,
        operation=operation,
        read=door.read,
        input_text=door.input_text,
        forward=door.forward,
        read_json=door.read_json,
        reader=lambda asked: door.StreamReader(include_usage=asked.include_usage),
        errors=_errors(door),
        translated=Translated(decode.request, encode.answer, encode.StreamWriter),
        **more,
    )


OPENAI_CHAT = _client("openai_chat", "chat.completions", openai_chat, openai_chat_decode, openai_chat_encode)
OPENAI_RESPONSES = _client(
    "openai_responses", "responses", openai_responses, openai_responses_decode, openai_responses_encode
)
ANTHROPIC = _client(
    "anthropic",
    "messages",
    anthropic,
    anthropic_decode,
    anthropic_encode,
    keeps=frozenset({"metadata"}),
    filler=b'event: ping\ndata: {"type": "ping"}\n\n',
)
GEMINI = _client(
    "gemini",
    "generateContent",
    gemini,
    gemini_decode,
    gemini_encode,
    stream_type=gemini.stream_type,
    filler=b"\r\n",  # Google's own SDK stumbles over comments
)
# Without `alt=sse` Google streams one JSON array: an error in it is a last element.
GEMINI_ARRAY = replace(GEMINI, errors=replace(GEMINI.errors, in_stream=partial(gemini.stream_error, sse=False)))


def _google(operation: gemini_operations.Operation) -> Client:
    return Client(
        id=f"gemini_{operation.name}",
        dialect="gemini",
        operation=operation.name,
        read=operation.read,
        input_text=operation.input_text,
        forward=operation.forward,
        read_json=operation.read_json,
        reader=lambda asked: gemini.StreamReader(),
        errors=GEMINI.errors,
        log_type="embedding",
        kind="embedding",
        sells=False,
        writes=False,
    )


GEMINI_EMBEDDINGS = {
    name: _google(gemini_operations.OPERATIONS[name]) for name in ("embedContent", "batchEmbedContents")
}

CLIENTS: Mapping[str, Client] = {client.id: client for client in (OPENAI_CHAT, OPENAI_RESPONSES, ANTHROPIC, GEMINI)}


def _target(encode: Any, decode: Any, error_message: Callable[[bytes], str | None], **more: Any) -> Target:
    return Target(encode.request, decode.answer, decode.StreamDecoder, error_message, **more)


TARGETS: Mapping[str, Target] = {
    "openai_chat": _target(
        openai_chat_encode, openai_chat_decode, openai_chat.error_message, fetches=(blocks.Document,)
    ),
    "openai_responses": _target(openai_responses_encode, openai_responses_decode, openai_responses.error_message),
    "anthropic": _target(anthropic_encode, anthropic_decode, anthropic.error_message),
    "gemini": _target(gemini_encode, gemini_decode, gemini.error_message, fetches=(blocks.Image, blocks.Document)),
    "bedrock": _target(
        bedrock_encode,
        bedrock_decode,
        bedrock_decode.error_message,
        fetches=(blocks.Image, blocks.Document),
        stream_type=AWS_EVENTS,
    ),
    "cohere": _target(cohere_encode, cohere_decode, cohere_decode.error_message),
}
