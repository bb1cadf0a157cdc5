"""Pure: what an answer of Gemini said, piece by piece: frames of a stream, usage, why it ended, errors, partial calls.

Responsible for the oddities of the wire: streams that are server-sent events or one JSON array, finish reasons that are
numbers, errors inside a list, arguments that come as JSON paths. Never sees a request or another dialect.
Neighbours: `gemini.py` (passes answers on), `gemini_decode.py` (turns them into the middle form).

Source: https://ai.google.dev/api/generate-content (2026-11), and recorded traffic of AI Studio and Vertex.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects.blocks import Reason
from gateway.dialects.openai_answer import MAX_TOKENS, lenient, storable
from gateway.dialects.wire import Answer, InvalidStream
from gateway.framing import SSE, Event, FramingError

# One event holds a generated image as a whole, in base64.
MAX_EVENT_BYTES = 20 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
Object = dict[str, Any]


def read_object(data: bytes) -> Object | None:
    """Return the object of an event or an answer, the first one of a list; None when there is none."""
    try:
        value = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = lenient(data)
    if type(value) is list and value:
        value = value[0]
    return value if type(value) is dict else None


def objects(value: object) -> list[Object]:
    """Return the objects of a list; a single object counts as a list of one, as Google's own servers read it."""
    if type(value) is dict:
        return [value]
    return [item for item in value if type(item) is dict] if type(value) is list else []


# --- Frames ---------------------------------------------------------------------------------------------------------


class Frames:
    """Splits a stream into its events, whichever of the two formats it has: the first byte tells.

    `?alt=sse` asks for server-sent events; without it the answer is a JSON array, one element an event. An error may
    be a bare object, or an array, even where events were asked for.
    """

    __slots__ = ("_blank", "_source")

    def __init__(self) -> None:
        self._source: SSE | _Elements | None = None
        self._blank = b""

    def feed(self, block: bytes) -> list[Event]:
        """Return the events that are complete now. Raises: InvalidStream."""
        if self._source is None:
            block = self._blank + block
            seen = block.removeprefix(_BOM).lstrip()
            if not seen:
                self._blank = block[-1024:]
                return []
            self._source = _Elements() if seen[:1] in (b"[", b"{") else SSE(MAX_EVENT_BYTES)
        try:
            return self._source.feed(block)
        except FramingError as error:
            raise InvalidStream(str(error)) from error

    def end(self) -> list[Event]:
        """Return what is left: of server-sent events a last one without its blank line. Raises: InvalidStream."""
        try:
            return self._source.end() if self._source is not None else []
        except FramingError as error:
            raise InvalidStream(str(error)) from error


class _Elements:
    """Splits a JSON array (or objects one after another) into its elements, without decoding them.

    The `raw` of an event begins with what stands before its element; the end of the array is an event without data.
    """

    __slots__ = ("_base", "_begin", "_depth", "_in_text", "_pending", "_position")

    # What a search stops at: outside of a text, and inside.
    _MARK = re.compile(rb'["{}\[\]]')
    _TEXT_MARK = re.compile(rb'["\\]')

    def __init__(self) -> None:
        self._pending = bytearray()
        self._position = 0
        self._begin = 0  # of the element that is open
        self._depth = 0
        self._base = 0  # the depth that elements stand at: 1 in an array
        self._in_text = False

    def feed(self, block: bytes) -> list[Event]:
        self._pending += block
        pending = self._pending
        events: list[Event] = []
        taken = 0
        while (match := (self._TEXT_MARK if self._in_text else self._MARK).search(pending, self._position)) is not None:
            self._position = match.end()
            if self._stepped(match[0], match.start()):
                raw = bytes(pending[taken : self._position])
                events.append(Event(raw, raw[self._begin - taken :]))
                taken = self._position
        self._position = max(self._position, len(pending)) - taken
        self._begin = max(self._begin - taken, 0)
        del pending[:taken]
        if len(pending) > MAX_EVENT_BYTES:
            raise FramingError(f"An event of the stream is larger than {MAX_EVENT_BYTES} bytes.")
        return events

    def _stepped(self, mark: bytes, at: int) -> bool:
        """Take one mark; tell whether an element (or the array) ends with it."""
        if self._in_text:
            self._position += mark == b"\\"
            self._in_text = mark != b'"'
        elif mark == b'"':
            self._in_text = True
        elif mark in b"{[":
            if self._depth == 0 and mark == b"[":
                self._base = 1
            elif self._depth == self._base:
                self._begin = at
            self._depth += 1
        else:
            self._depth -= 1
            if self._depth == self._base:
                return True
            if self._depth < self._base:  # the array itself: no data
                self._base, self._depth, self._begin = 0, 0, self._position
                return True
        return False

    def end(self) -> list[Event]:
        """Return what stands behind the last element; nothing of one that was cut off."""
        return [Event(bytes(self._pending), b"")] if self._pending and not self._depth else []


# --- Usage ----------------------------------------------------------------------------------------------------------

_SERVICE_TIERS = {"standard": "default", "flex": "flex", "priority": "priority"}


def usage(value: object) -> Usage | None:
    """Return the usage of `usageMetadata`, normalised; None where it holds no number of input tokens.

    Thoughts are no part of the candidates' tokens, and what tools fed to the model none of the prompt's.
    """
    if type(value) is not dict:
        return None
    given = _tokens(value.get("promptTokenCount"))
    if given is None:
        return None
    given += _tokens(value.get("toolUsePromptTokenCount")) or 0
    thoughts = _tokens(value.get("thoughtsTokenCount")) or 0
    written = _tokens(value.get("candidatesTokenCount"))
    if written is None:
        written = max((_tokens(value.get("totalTokenCount")) or 0) - given - thoughts, 0)
    return Usage(
        input_tokens=given,
        output_tokens=written + thoughts,
        cache_read_input_tokens=min(_tokens(value.get("cachedContentTokenCount")) or 0, given),
        reasoning_output_tokens=thoughts,
    )


def usage_metadata(usage: Usage) -> dict[str, int]:
    """Return `usageMetadata` of a normalised usage."""
    metadata = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_output_tokens,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    if usage.reasoning_output_tokens:
        metadata["thoughtsTokenCount"] = usage.reasoning_output_tokens
    if usage.cache_read_input_tokens:
        metadata["cachedContentTokenCount"] = usage.cache_read_input_tokens
    return metadata


def service_tier(value: object) -> str | None:
    """Return the tier that `usageMetadata` names, in chat completions' words."""
    tier = value.get("serviceTier") if type(value) is dict else None
    return _SERVICE_TIERS.get(tier.lower()) if isinstance(tier, str) else None


def _tokens(value: object) -> int | None:
    number = whole(value)
    return number if number is not None and 0 <= number <= MAX_TOKENS else None


def whole(value: object) -> int | None:
    """Return a whole number as Google's JSON may write it: `5`, `5.0` or `"5"`."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return value if type(value) is int else None


# --- Why an answer ended --------------------------------------------------------------------------------------------

_REASONS: Mapping[str, Reason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "PUP_LIMITED_DISABLED": "content_filter",
    "OTHER": "error",
    "IMAGE_OTHER": "error",
    "NO_IMAGE": "error",
    "MALFORMED_FUNCTION_CALL": "error",
    "MALFORMED_RESPONSE": "error",
    "UNEXPECTED_TOOL_CALL": "error",
    "TOO_MANY_TOOL_CALLS": "error",
    "MISSING_THOUGHT_SIGNATURE": "error",
}
# The numbers that AI Studio and Vertex agree upon; some clients in between store answers with them.
_NUMBERS = {1: "STOP", 2: "MAX_TOKENS", 3: "SAFETY", 4: "RECITATION", 5: "OTHER"}
NATIVE: Mapping[str, str] = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "error": "OTHER",
}


def native_reason(value: object) -> str | None:
    """Return a finish reason's name, None where there is none yet."""
    if type(value) is int:
        return _NUMBERS.get(value, str(value)) if value else None
    if not isinstance(value, str) or not value or value == "FINISH_REASON_UNSPECIFIED":
        return None
    return value[:100]


def reason(native: str, *, calls_tools: bool) -> Reason:
    """Return why an answer ended: Gemini says STOP after calls of tools too. A word not known here counts as STOP."""
    meant = _REASONS.get(native, "stop")
    return "tool_calls" if calls_tools and meant == "stop" else meant


# --- Errors ---------------------------------------------------------------------------------------------------------


def error_in(value: Object) -> Object | None:
    """Return the error of an answer or an event as an object with a `message`; None where there is none."""
    inner = value.get("error")
    if not inner:
        return None
    if isinstance(inner, str):
        described = value.get("error_description")  # as OAuth says it
        return {"message": described if isinstance(described, str) else inner}
    if type(inner) is not dict:
        return {"message": "The provider reported an error."}
    message = inner.get("message")
    if not isinstance(message, str) or not message:
        message = str(inner.get("status") or "The provider reported an error.")
    return {**inner, "message": message[:2_000]}


# --- Function calls in pieces ---------------------------------------------------------------------------------------

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d{1,4})\]|\['([^']*)'\]|\[\"([^\"]*)\"\]")
_MAX_STEPS = 64


class PartialCall:
    """A function call whose arguments come in pieces (`streamFunctionCallArguments`): JSON paths and their values."""

    __slots__ = ("_args", "id", "name", "signature")

    def __init__(self, call: Object, signature: str | None) -> None:
        self.name = str(call.get("name") or "")
        self.id = call.get("id")
        self.signature = signature
        self._args: Object = {}
        self.take(call)

    @property
    def args(self) -> Object:
        """The arguments as far as they have come."""
        whole: Object = _whole(self._args)
        return whole

    def take(self, call: Object) -> None:
        """Add the pieces of a further part."""
        if type(call.get("args")) is dict:
            self._args.update(call["args"])
        for piece in objects(call.get("partialArgs")):
            self._put(piece)

    def _put(self, piece: Object) -> None:
        place: Any = self._args
        steps = _steps(piece.get("jsonPath"))
        for step, following in pairwise(steps):
            fresh: Any = [] if isinstance(following, int) else {}
            place = _member(place, step, fresh)
        value = next((piece[name] for name in _VALUES if name in piece), None)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not steps:
            return
        grown = _member(place, steps[-1], _Pieces() if isinstance(value, str) else value)
        if isinstance(grown, _Pieces) and isinstance(value, str):
            grown.parts.append(value)


_VALUES = ("stringValue", "numberValue", "boolValue")


class _Pieces:
    """A text that grows: joined once, at the end."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[str] = []


def _steps(path: object) -> list[str | int]:
    """Return the names and places of a JSON path such as `$.steps[2].name`."""
    if not isinstance(path, str):
        return []
    found = _STEP.findall(path.removeprefix("$"))[:_MAX_STEPS]
    return [int(index) if index else name or quoted or double for name, index, quoted, double in found]


def _member(place: Any, step: str | int, fresh: Any) -> Any:
    """Return what is behind a step, `fresh` where nothing is yet; None where the path leads into a value."""
    if isinstance(step, int) and isinstance(place, list):
        place.extend(None for _ in range(len(place), step + 1))
        if place[step] is None:
            place[step] = fresh
        return place[step]
    return place.setdefault(str(step), fresh) if isinstance(place, dict) else None


def _whole(value: Any) -> Any:
    if isinstance(value, _Pieces):
        return "".join(value.parts)
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


# --- An answer, gathered --------------------------------------------------------------------------------------------


class _TextPart(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    thought: bool = False


class _TextContent(msgspec.Struct):
    parts: list[_TextPart]


class _Writing(msgspec.Struct, forbid_unknown_fields=True):
    """A candidate that does nothing but write text; null is all that other members of it may hold."""

    content: _TextContent
    index: int = 0
    finishReason: None = None
    safetyRatings: msgspec.Raw | None = None
    avgLogprobs: float | None = None


class Chunk(msgspec.Struct):
    candidates: list[_Writing]
    usageMetadata: msgspec.Raw = msgspec.Raw(b"")
    promptFeedback: None = None
    error: None = None


_chunk = msgspec.json.Decoder(Chunk).decode


# Members of a candidate that grow from event to event; the last one of any other counts.
_GATHERED = frozenset({"content", "logprobsResult"})


class _Candidate:
    """One candidate, gathered: neighbouring texts of a kind become one part."""

    __slots__ = ("calls", "likely", "native", "parts", "rest")

    def __init__(self) -> None:
        self.parts: list[tuple[bool, list[str]] | Object] = []
        self.calls = False
        self.native: str | None = None
        self.likely: Object = {}  # `logprobsResult` of all events
        self.rest: Object = {}

    def write(self, text: str, thought: bool) -> None:
        last = self.parts[-1] if self.parts else None
        if type(last) is tuple and last[0] == thought:
            last[1].append(text)
        elif text:
            self.parts.append((thought, [text]))

    def take(self, candidate: Object) -> None:
        content = candidate.get("content")
        for part in objects(content.get("parts")) if type(content) is dict else ():
            text = part.get("text")
            if isinstance(text, str) and part.keys() <= {"text", "thought"}:
                self.write(text, part.get("thought") is True)
            else:
                self.calls |= "functionCall" in part
                self.parts.append(part)
        if type(candidate.get("logprobsResult")) is dict:
            self._weigh(candidate["logprobsResult"])

    def _weigh(self, result: Object) -> None:
        """Add the probabilities of a further piece of the text."""
        for name, value in result.items():
            known = self.likely.get(name)
            if isinstance(known, list) and isinstance(value, list):
                known.extend(value)
            elif isinstance(known, int | float) and isinstance(value, int | float):
                self.likely[name] = known + value
            else:
                self.likely[name] = list(value) if isinstance(value, list) else value

    def note(self, candidate: Object) -> None:
        """Take why it ended, and what else is said of it."""
        self.native = native_reason(candidate.get("finishReason")) or self.native
        self.rest.update({name: value for name, value in candidate.items() if name not in _GATHERED})

    def written(self) -> str:
        texts = []
        for part in self.parts:
            if type(part) is tuple:
                texts += part[1]
            elif isinstance(part, dict):
                call = part.get("functionCall")
                texts.append(_called(call) if type(call) is dict else str(part.get("text") or ""))
        return "".join(texts)

    def assembled(self) -> Object:
        parts = []
        for part in self.parts:
            if isinstance(part, dict):
                parts.append(part)
            else:
                parts.append({"text": "".join(part[1])} | ({"thought": True} if part[0] else {}))
        more = {"logprobsResult": self.likely} if self.likely else {}
        return {"content": {"parts": parts, "role": "model"}, **self.rest, **more}


def _called(call: Object) -> str:
    pieces = "".join(str(piece.get("stringValue") or "") for piece in objects(call.get("partialArgs")))
    args = _encode(call["args"]).decode() if call.get("args") else ""
    return str(call.get("name") or "") + args + pieces


class Said:
    """What an answer has said so far, event by event."""

    __slots__ = ("_candidates", "_rest", "_usage", "error", "model", "started")

    def __init__(self) -> None:
        self._candidates: dict[int, _Candidate] = {}
        self._rest: Object = {}
        self._usage: msgspec.Raw | Object | None = None
        self.model: str | None = None
        self.error: Object | None = None
        self.started = False

    def write(self, chunk: Chunk) -> None:
        """Take an event that only writes text."""
        for writing in chunk.candidates:
            candidate = self._at(writing.index)
            for part in writing.content.parts:
                candidate.write(part.text, part.thought)
        if b"promptTokenCount" in bytes(chunk.usageMetadata):
            self._usage = chunk.usageMetadata

    def take(self, value: Object, *, keep: bool = True) -> None:
        """Take any event. Without `keep` its texts are not kept."""
        for candidate in objects(value.get("candidates")):
            gathered = self._at(whole(candidate.get("index")) or 0)
            if keep:
                gathered.take(candidate)
            gathered.note(candidate)
        if value.get("candidates") or value.get("promptFeedback"):
            self.started = True
        reported = value.get("usageMetadata")
        if type(reported) is dict and "promptTokenCount" in reported:
            self._usage = reported
        self.model = self.model or storable(value.get("modelVersion"))
        self.error = self.error or error_in(value)
        self._rest.update({name: item for name, item in value.items() if name not in ("candidates", "usageMetadata")})

    def _at(self, index: int) -> _Candidate:
        candidate = self._candidates.get(index)
        if candidate is None:
            candidate = self._candidates[index] = _Candidate()
        return candidate

    @property
    def reported(self) -> Object | None:
        if isinstance(self._usage, msgspec.Raw):
            value = lenient(bytes(self._usage))
            self._usage = value if type(value) is dict else None
        return self._usage

    @property
    def usage(self) -> Usage | None:
        return usage(self.reported)

    @property
    def blocked(self) -> str | None:
        """Why the prompt was refused; there are no candidates then."""
        feedback = self._rest.get("promptFeedback")
        reason = feedback.get("blockReason") if type(feedback) is dict else None
        return str(reason) if reason else None

    @property
    def finished(self) -> bool:
        candidates = self._candidates.values()
        return all(each.native for each in candidates) if candidates else self.blocked is not None

    @property
    def finish_reason(self) -> str | None:
        """Why the first candidate ended, in chat completions' words."""
        first = self._candidates.get(min(self._candidates, default=0))
        if first is None:
            return "content_filter" if self.blocked else None
        return reason(first.native, calls_tools=first.calls) if first.native else None

    @property
    def message(self) -> str | None:
        return self.error["message"] if self.error else None

    def text(self) -> str:
        return "".join(candidate.written() for _, candidate in sorted(self._candidates.items()))

    def answer(self) -> Answer:
        return Answer(self.usage, self.model, self.finish_reason, self.text(), self.message)

    def assembled(self) -> bytes:
        candidates = [candidate.assembled() for _, candidate in sorted(self._candidates.items())]
        value: Object = {"candidates": candidates} if candidates else {}
        if self.reported is not None:
            value["usageMetadata"] = self.reported
        return _encode(value | self._rest)


def written(data: bytes) -> Chunk | None:
    """Return an event that does nothing but write text; None for any other (read it in full)."""
    try:
        return _chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
