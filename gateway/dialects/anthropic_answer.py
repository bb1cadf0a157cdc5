"""Pure: what an answer in Anthropic's messages dialect said, piece by piece: usage, stop reasons, errors, its content.

Responsible for gathering a stream to the message it makes up, and for normalising usage. Never sees server-sent events
or the client's side. Neighbours: `anthropic` (the door) and `anthropic_decode` (to the middle form), which both read
the same answers.

Source: https://platform.claude.com/docs/en/api/messages (2026-11), and recorded traffic.
"""

from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects import blocks
from gateway.dialects.openai_answer import MAX_TOKENS, error_in, lenient, storable
from gateway.dialects.wire import dicts as _dicts

# One event may carry a whole document that a server tool has fetched.
MAX_EVENT_BYTES = 8 * 1024 * 1024

# Anthropic's stop reasons in chat completions' words. `pause_turn` means: send the answer back as it is to go on.
REASONS: dict[str, blocks.Reason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "compaction": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

# The `type` of an error by its status; other 4xx are invalid_request_error, other 5xx api_error.
ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    424: "api_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STATUSES = {name: status for status, name in ERROR_TYPES.items()} | {
    "invalid_request_error": 400,
    "timeout_error": 504,
    "api_error": 500,
    "overloaded_error": 529,
}


def error_type(status: int) -> str:
    """Return Anthropic's name of an error with this status."""
    return ERROR_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")


def error_status(name: str | None) -> int | None:
    """Return the status that goes with Anthropic's name of an error."""
    return _STATUSES.get(name or "")


def failure(value: object) -> str | None:
    """Return the message of an error, in Anthropic's shape or in that of whoever serves its models; None without one.

    Vertex answers a failed stream with a list of one error.
    """
    if isinstance(value, list) and value:
        value = value[0]
    return error_in(value) if isinstance(value, dict) else None


def failure_type(value: object) -> str | None:
    """Return the `type` of an error's inner object."""
    inner = value.get("error") if isinstance(value, dict) else None
    return storable(inner.get("type")) if isinstance(inner, dict) else None


# --- Usage ----------------------------------------------------------------------------------------------------------


_INPUTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class Meter:
    """The usage of an answer. In a stream it is reported twice, cumulatively; what the second leaves out still holds.

    `input_tokens` leaves out what was read from and written to the cache. Where the provider compacted a conversation
    on the way, that was a call of its own, charged too, and told only in `iterations`.
    """

    __slots__ = ("reported",)

    def __init__(self) -> None:
        self.reported: dict[str, Any] = {}

    def take(self, usage: object) -> None:
        """Take a `usage` object; anything else is ignored."""
        if not isinstance(usage, dict):
            return
        said = {name: value for name, value in usage.items() if value is not None}
        if not any(said.get(name) for name in _INPUTS):  # imitations of the API report no input at the end, or 0
            said = {name: value for name, value in said.items() if name not in _INPUTS or name not in self.reported}
        self.reported.update(said)

    @property
    def usage(self) -> Usage | None:
        """The usage, normalised; None without usable totals."""
        reported = self.reported
        whole = _usage(reported)
        if whole is None:
            return None
        compacted = [_usage(one) for one in _dicts(reported.get("iterations")) if one.get("type") == "compaction"]
        for extra in compacted:
            if extra is not None:
                whole = _sum(whole, extra)
        return whole


def _usage(reported: dict[str, Any]) -> Usage | None:
    fresh, written = tokens(reported.get("input_tokens")), tokens(reported.get("output_tokens"))
    if fresh is None or written is None:
        return None
    split = reported.get("cache_creation")
    split = split if isinstance(split, dict) else {}
    hour = tokens(split.get("ephemeral_1h_input_tokens")) or 0
    created = tokens(reported.get("cache_creation_input_tokens"))
    if created is None:
        created = hour + (tokens(split.get("ephemeral_5m_input_tokens")) or 0)
    read = tokens(reported.get("cache_read_input_tokens")) or 0
    details = reported.get("output_tokens_details")
    thought = tokens(details.get("thinking_tokens")) if isinstance(details, dict) else None
    return Usage(
        input_tokens=fresh + created + read,
        output_tokens=written,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=created,
        cache_creation_1h_input_tokens=min(hour, created),
        reasoning_output_tokens=min(thought or 0, written),
    )


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cache_read_input_tokens=one.cache_read_input_tokens + other.cache_read_input_tokens,
        cache_creation_input_tokens=one.cache_creation_input_tokens + other.cache_creation_input_tokens,
        cache_creation_1h_input_tokens=one.cache_creation_1h_input_tokens + other.cache_creation_1h_input_tokens,
        reasoning_output_tokens=one.reasoning_output_tokens + other.reasoning_output_tokens,
    )


def tokens(value: object) -> int | None:
    """Return a number of tokens; None for what is none: missing, negative, absurd, of another type."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


# --- Whole answers --------------------------------------------------------------------------------------------------


class _Split(msgspec.Struct):
    ephemeral_1h_input_tokens: int = 0


class _Reported(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _Split | None = None
    output_tokens_details: dict[str, Any] | None = None
    iterations: msgspec.UnsetType | None = msgspec.UNSET


class _Usual(msgspec.Struct, tag="message"):
    model: str
    stop_reason: str
    usage: _Reported
    error: msgspec.UnsetType = msgspec.UNSET


_usual = msgspec.json.Decoder(_Usual).decode


def usual(body: bytes) -> tuple[Usage, str, str] | None:
    """Return usage, model and stop reason of an answer in Anthropic's own shape; None for any other (read it in full).

    A small part of the time of the full reading, which builds the text too: needed only where usage is missing.
    """
    try:
        answer = _usual(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    reported = answer.usage
    created, read = reported.cache_creation_input_tokens or 0, reported.cache_read_input_tokens or 0
    figures = (reported.input_tokens, reported.output_tokens, created, read)
    hour = reported.cache_creation.ephemeral_1h_input_tokens if reported.cache_creation else 0
    if min(*figures, hour) < 0 or max(figures) > MAX_TOKENS or hour > created:
        return None
    usage = Usage(
        input_tokens=reported.input_tokens + created + read,
        output_tokens=reported.output_tokens,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=created,
        cache_creation_1h_input_tokens=hour,
        reasoning_output_tokens=_thought(reported),
    )
    return usage, answer.model, answer.stop_reason


def _thought(reported: _Reported) -> int:
    details = reported.output_tokens_details
    return min(tokens(details.get("thinking_tokens")) or 0, reported.output_tokens) if details else 0


def reason(native: object) -> str | None:
    """Return a stop reason in chat completions' words; one that is not known, as it is."""
    word = storable(native)
    return REASONS.get(word, word) if word else None


# --- Content --------------------------------------------------------------------------------------------------------

# The member of a block that a delta adds to, by the delta's type.
GROWN = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


class Piece:
    """One block of content on its way: as it began, and what its deltas have added."""

    __slots__ = ("_signature", "_start", "_written", "citations")

    def __init__(self, start: dict[str, Any]) -> None:
        self._start = start
        self._written: list[str] = []
        self._signature: list[str] = []
        self.citations: list[Any] = []

    @property
    def kind(self) -> str:
        """The type of the block."""
        kind = self._start.get("type")
        return kind if isinstance(kind, str) else ""

    def write(self, text: str) -> None:
        """Add text: of whichever member this kind of block has."""
        self._written.append(text)

    def sign(self, signature: str) -> None:
        """Add a signature; Anthropic sends it whole."""
        self._signature.append(signature)

    def take(self, delta: dict[str, Any]) -> None:
        """Add a delta. One of an unknown type brings members of the block (`compaction_delta` does)."""
        kind = str(delta.get("type"))
        text = delta.get(GROWN.get(kind, ""))
        if isinstance(text, str):
            self._written.append(text)
        elif kind == "signature_delta" and isinstance(delta.get("signature"), str):
            self._signature.append(delta["signature"])
        elif kind == "citations_delta" and isinstance(delta.get("citation"), dict):
            self.citations.append(delta["citation"])
        elif kind not in GROWN:
            self._start = self._start | {name: value for name, value in delta.items() if name != "type"}

    def written(self) -> str:
        """Return all that the model wrote here."""
        start = self._start
        begun = next((start[name] for name in ("text", "thinking", "name") if isinstance(start.get(name), str)), "")
        return begun + "".join(self._written)

    def block(self) -> dict[str, Any]:
        """Return the block as a whole answer has it."""
        block = dict(self._start)
        written = "".join(self._written)
        if self.kind == "text":
            block["text"] = _text(block.get("text")) + written
        elif self.kind == "thinking":
            block["thinking"] = _text(block.get("thinking")) + written
        elif written:
            block["input"] = arguments(written)
        if self._signature:
            block["signature"] = "".join(self._signature)
        if self.citations:
            block["citations"] = [*(block.get("citations") or ()), *self.citations]
        return block


def arguments(text: str) -> Any:
    """Return the arguments of a tool call as its `input`; what is no JSON object is kept under a name of its own."""
    if not text.strip():
        return {}
    value = lenient(text.encode("utf-8", "replace"))
    return value if isinstance(value, dict) else {"__raw": text}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


class Gathered:
    """A stream, gathered to the message it makes up."""

    __slots__ = ("_message", "_pieces", "meter", "stop_reason")

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._pieces: dict[int, Piece] = {}
        self.meter = Meter()
        self.stop_reason: str | None = None

    @property
    def model(self) -> str | None:
        return storable(self._message.get("model"))

    def start(self, message: dict[str, Any]) -> None:
        """Take the message of `message_start`."""
        self._message = self._message or message
        self.meter.take(message.get("usage"))

    def begin(self, index: object, block: object) -> None:
        """Take a `content_block_start`."""
        if type(index) is int and isinstance(block, dict):
            self._pieces[index] = Piece(block)

    def piece(self, index: object) -> Piece | None:
        """Return the block of that index."""
        return self._pieces.get(index) if type(index) is int else None

    def finish(self, event: dict[str, Any]) -> None:
        """Take a `message_delta`."""
        delta = event.get("delta")
        if isinstance(delta, dict):
            self._message = self._message | {name: value for name, value in delta.items() if value is not None}
            self.stop_reason = storable(delta.get("stop_reason")) or self.stop_reason
        self.meter.take(event.get("usage"))

    def text(self) -> str:
        """Return all that was written so far."""
        return "".join(piece.written() for _, piece in sorted(self._pieces.items()))

    def message(self) -> dict[str, Any]:
        """Return the message so far."""
        content = [piece.block() for _, piece in sorted(self._pieces.items())]
        whole = {"type": "message", "role": "assistant", **self._message, "content": content}
        if self.meter.reported:
            whole["usage"] = self.meter.reported
        return whole


def gathered(message: dict[str, Any]) -> Gathered:
    """Return a whole answer as if it had been gathered."""
    whole = Gathered()
    whole.start(message)
    whole.finish({"delta": {"stop_reason": message.get("stop_reason")}})
    for index, block in enumerate(_dicts(message.get("content"))):
        whole.begin(index, block)
        if isinstance(block.get("input"), dict) and block["input"]:
            piece = whole.piece(index)
            assert piece is not None  # noqa: S101  (begun in the line before)
            piece.write(msgspec.json.encode(block["input"]).decode())
    return whole


# --- The delta that makes up nearly all of a stream ------------------------------------------------------------------


class _Text(msgspec.Struct, tag="text_delta"):
    text: str


class _Thinking(msgspec.Struct, tag="thinking_delta"):
    thinking: str


class _Json(msgspec.Struct, tag="input_json_delta"):
    partial_json: str


class Delta(msgspec.Struct, tag="content_block_delta"):
    """A `content_block_delta` that only writes."""

    index: int
    delta: _Text | _Thinking | _Json

    @property
    def text(self) -> str:
        delta = self.delta
        kind = type(delta)
        if kind is _Text:
            return delta.text  # type: ignore[union-attr]
        return delta.thinking if kind is _Thinking else delta.partial_json  # type: ignore[union-attr]


_delta = msgspec.json.Decoder(Delta).decode


def written(data: bytes) -> Delta | None:
    """Return an event that does nothing but write; None for any other (read it in full)."""
    try:
        return _delta(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
