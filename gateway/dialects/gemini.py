"""Pure: Gemini's `generateContent` as bytes. What a client asked, what to send on, what came back, how to say no.

Responsible for checking a request without re-serialising it, for reading usage and text beside an answer or a stream
on its way to the client (server-sent events or a JSON array), and for errors in Google's shape. The address names the
model, not the body. Never opens a socket, never prices. Neighbours: `gemini_answer.py` (the pieces of an answer),
`gemini_decode.py` and `gemini_encode.py` (the middle form), `gemini_operations.py` (counting tokens, embeddings).

Source: https://ai.google.dev/api/generate-content (2026-11). Members may be written in snake_case too.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from billing.usage import Usage
from gateway.dialects import blocks, gemini_answer, wire
from gateway.dialects.gemini_answer import Frames, Object, Said, objects, whole, written
from gateway.dialects.gemini_seal import MARK
from gateway.dialects.openai_answer import lenient
from gateway.dialects.wire import Answer, InvalidBody
from gateway.framing import Event

_MEMBERS = msgspec.json.Decoder(wire.Members)
_encode = msgspec.json.Encoder().encode

# Raw JSON of these goes into the prompt beside the contents.
_PROMPT_MEMBERS = ("systemInstruction", "system_instruction", "tools", "generationConfig", "generation_config")
# Of a part: bytes of a file, or where one is. Counted as one image; see `_measured`.
_FILES = frozenset({"inlineData", "inline_data", "fileData", "file_data"})
_NOT_TEXT = _FILES | {"thoughtSignature", "thought_signature"}
_SETTINGS = ("generationConfig", "generation_config")
_LIMITS = ("maxOutputTokens", "max_output_tokens")
# Where Gemini keeps a parameter, by chat completions' name; the settings' own names are these in camelCase.
_PLACES = {
    "stop": "stopSequences",
    "n": "candidateCount",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
    "reasoning_effort": "thinkingConfig",
    "modalities": "responseModalities",
    "audio": "speechConfig",
}
# Google charges for a search beside the tokens.
SEARCHES = frozenset(
    {"googleSearch", "googleSearchRetrieval", "enterpriseWebSearch", "googleMaps", "parallelAiSearch", "exaAiSearch"}
)


# --- Requests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. `members` are the raw bytes of its top level, `contents` and `settings` are decoded.

    `settings` is `generationConfig`; `sse` tells whether a stream is server-sent events or one JSON array.
    """

    body: bytes
    members: wire.Members
    contents: list[Object]
    settings: Object
    model: str
    stream: bool
    sse: bool
    n: int
    max_output: int | None
    # UTF-8 bytes of everything that becomes prompt text; images are counted, not measured.
    input_bytes: int
    images: int
    has_tools: bool
    # Gemini always reports usage.
    include_usage: bool = True

    @property
    def message_count(self) -> int:
        return len(self.contents)

    @property
    def shows_thoughts(self) -> bool:
        """Whether the client wants to see what the model thought; Gemini shows it only when asked."""
        config = either(self.settings, "thinkingConfig")
        return type(config) is dict and either(config, "includeThoughts") is True


def read(body: bytes, *, named: wire.Named | None = None) -> Request:
    """Decode and check a request. Raises: InvalidBody."""
    members = wire.top_level(body, measured="contents")
    contents = _contents(members)
    settings = _settings(members)
    strings, images = measured(contents)
    return Request(
        body=body,
        members=members,
        contents=contents,
        settings=settings,
        model=model_name(named.model) if named else wire.model_name(members).removeprefix("models/"),
        stream=named.stream if named else False,
        sse=named.sse if named else True,
        n=_count(settings, "candidateCount", wire.MAX_CHOICES) or 1,
        max_output=_count(settings, "maxOutputTokens", wire.MAX_OUTPUT_TOKENS),
        input_bytes=strings.bytes() + sum(len(bytes(members[name])) for name in _PROMPT_MEMBERS if name in members),
        images=images,
        has_tools=_has_tools(members),
    )


def input_text(request: Request) -> str:
    """Return the text of the prompt, for a tokenizer: no images, no files, tools as their JSON."""
    strings, _ = measured(request.contents, files=False)
    more = [bytes(request.members[name]).decode() for name in _PROMPT_MEMBERS[:3] if name in request.members]
    return "\n".join([*strings.strings, *more])


def stream_type(request: Request) -> str:
    """Return the content type of a stream of this client."""
    return "text/event-stream" if request.sse else "application/json"


def either(value: Mapping[str, Any], name: str) -> Any:
    """Return a member by its camelCase name, or by the same in snake_case; None where it is missing."""
    found = value.get(name)
    return value.get(snake(name)) if found is None else found


def snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", lambda match: "_" + match[0].lower(), name)


def camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def measured(contents: Iterable[Object], *, files: bool = True) -> tuple[wire.Measure, int]:
    """Gather the strings of contents; return them and the number of images. Raises: InvalidBody (too deep).

    A file that is no image can be worth as many tokens as it has bytes: with `files` they are counted as text.
    """
    strings, images = wire.Measure(()), 0
    for content in contents:
        for part in objects(content.get("parts")):
            for name, value in part.items():
                if name not in _NOT_TEXT:
                    strings.take(value, 5)
                elif name in _FILES and type(value) is dict:
                    images += 1
                    data, kind = value.get("data"), either(value, "mimeType")
                    if files and isinstance(data, str) and not str(kind).startswith("image/"):
                        strings.strings.append(data)
    return strings, images


def model_name(name: str) -> str:
    if not name or len(name) > wire.MAX_MODEL_LENGTH or not name.isprintable():
        raise InvalidBody("The address names no model.", "model")
    return name


def _contents(members: wire.Members) -> list[Object]:
    value = _decoded(members, "contents")
    if type(value) is str:  # what no client of Google's sends, and tests by hand do
        value = [{"parts": [{"text": value}]}]
    contents = [value] if type(value) is dict else value
    if not contents or type(contents) is not list:
        raise InvalidBody("contents is missing: give at least one content.", "contents")
    if len(contents) > wire.MAX_MESSAGES:
        raise InvalidBody(f"contents has more than {wire.MAX_MESSAGES} contents.", "contents")
    for index, content in enumerate(contents):
        if type(content) is not dict:
            raise InvalidBody(f"contents[{index}] must be an object.", f"contents[{index}]")
        if content.get("parts") is not None and type(content["parts"]) not in (list, dict):
            raise InvalidBody(f"contents[{index}].parts must be a list.", f"contents[{index}].parts")
    return contents


def _settings(members: wire.Members) -> Object:
    for name in _SETTINGS:
        if (value := wire.member(members, name, dict, "an object")) is not None:
            settings: Object = value
            return settings
    return {}


def _decoded(members: wire.Members, name: str) -> Any:
    try:
        return msgspec.json.decode(members.get(name, msgspec.Raw(b"null")))
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidBody(f"{name} is not valid JSON.", name) from error


def _count(settings: Object, name: str, most: int) -> int | None:
    value = either(settings, name)
    if value is None:
        return None
    number = whole(value)
    if number is None or not 1 <= number <= most:
        raise InvalidBody(f"{name} must be a whole number between 1 and {most}.", f"generationConfig.{name}")
    return number


def _has_tools(members: wire.Members) -> bool:
    raw = bytes(members.get("tools", b"null")).strip()
    return raw not in (b"null", b"[]", b"{}") and raw[1:-1].strip() not in (b"", b"{}")


# --- What to send on ------------------------------------------------------------------------------------------------


def forward(request: Request, order: blocks.Order) -> blocks.Sent:
    """Return the client's own bytes with as little changed as possible. Raises: blocks.Unsupported."""
    if request.n > 1 and "n" in order.model.unsupported:
        place = "generationConfig.candidateCount"
        raise blocks.Unsupported(place, "This model gives one answer at a time: ask for one candidate.")
    drop = [name for name in request.members if name in order.ours]
    dropped: list[str] = []
    changes: dict[str, bytes] = {}
    if order.credits:
        _refuse_files(request.contents)
    repriced = _repriced(order)
    if repriced:
        dropped += [name for name in request.members if camel(name) in repriced]
        tools = objects(_decoded(request.members, "tools"))
        kept = [tool for tool in tools if repriced.isdisjoint(map(camel, tool))]
        if len(kept) < len(tools):
            if kept:
                changes["tools"] = _encode(kept)
            else:
                drop.append("tools")
            dropped += sorted({name for tool in tools for name in tool if camel(name) in repriced})
    settings = _patched_settings(request, order, dropped)
    if settings is not None:
        drop += [name for name in _SETTINGS[1:] if name in request.members]
        changes[_SETTINGS[0]] = settings
    if "model" in request.members:
        changes["model"] = _encode(resource(order.model.upstream))
    if MARK.encode() in request.body and (contents := _without_foreign_signatures(request.contents)) is not None:
        changes["contents"] = _encode(contents)
    body = wire.patched(
        request, drop=[*drop, *(name for name in dropped if name in request.members)], set_members=changes
    )
    return blocks.Sent(body=body, path=path(order.model, request.stream, sse=request.sse), dropped=dropped)


def _repriced(order: blocks.Order) -> frozenset[str]:
    """Return the members and tools that may not be sent on credits, by Google's names."""
    if not order.credits:
        return frozenset()
    names = frozenset(map(camel, order.repriced_by))
    return names | SEARCHES if "web_search_options" in order.repriced_by else names


def _refuse_files(contents: list[Object]) -> None:
    """Raise for files behind an address: nobody knows before what they cost. Raises: blocks.Unsupported."""
    for number, content in enumerate(contents):
        for place, part in enumerate(objects(content.get("parts"))):
            if either(part, "fileData"):
                raise blocks.Unsupported(
                    f"contents[{number}].parts[{place}].fileData",
                    "A file behind an address cannot be paid by credits: send its bytes as inlineData, or add a "
                    "provider key of your own under Integrations.",
                )


def path(model: blocks.Facts, stream: bool, *, sse: bool = True) -> str:
    """Return the path of a call behind the provider's base URL."""
    operation = ("streamGenerateContent?alt=sse" if sse else "streamGenerateContent") if stream else "generateContent"
    return f"/{resource(model.upstream)}:{operation}"


def resource(upstream: str) -> str:
    """Return the resource's name of a model: `models/...`, or a tuned model's; nothing in it can leave its place."""
    collection, _, name = upstream.partition("/")
    if name and collection in ("models", "tunedModels"):
        return f"{collection}/{quote(name, safe='')}"
    return f"models/{quote(upstream, safe='')}"


def _patched_settings(request: Request, order: blocks.Order, dropped: list[str]) -> bytes | None:
    """Return `generationConfig` with our limit and without what the model refuses; None where nothing changes."""
    name = next((name for name in _SETTINGS if name in request.members), None)
    raw = bytes(request.members[name]) if name else b"null"
    members: wire.Members = {} if raw == b"null" else _MEMBERS.decode(raw)
    before = dict(members)
    refused = order.model.unsupported | (order.repriced_by if order.credits else frozenset())
    for parameter in sorted(refused):
        place = _PLACES.get(parameter, camel(parameter))
        if place not in _LIMITS and (place in members or snake(place) in members):
            members.pop(place, None)
            members.pop(snake(place), None)
            dropped.append(parameter)
    if order.max_output is not None and request.max_output != order.max_output:
        members.pop(_LIMITS[1], None)
        members[_LIMITS[0]] = msgspec.Raw(_encode(order.max_output))
    return _encode(members) if members != before else None


def _without_foreign_signatures(contents: list[Object]) -> list[Object] | None:
    """Return contents without the reasoning of other vendors' models, which Google would refuse; None without any."""
    found = False
    kept = []
    for content in contents:
        parts = objects(content.get("parts"))
        own = [part for part in parts if not str(either(part, "thoughtSignature")).startswith(MARK)]
        if len(own) < len(parts):
            found = True
            content = {**content, "parts": own}
        if own or not parts:
            kept.append(content)
    return kept if found else None


# --- Answers --------------------------------------------------------------------------------------------------------


def read_json(body: bytes) -> Answer:
    """Read a whole answer, or the array of a stream. Never raises: what is no answer has an `error`."""
    said = Said()
    value = lenient(body)
    for item in objects(value):
        said.take(item)
    answer = said.answer()
    if answer.error is None and not said.started:
        problem = "has no candidates" if objects(value) else "is not JSON"
        return Answer(answer.usage, answer.model, error=f"The provider's answer {problem}.")
    return answer


class StreamReader:
    """Reads a stream beside its way to the client. `feed` returns the bytes to forward: whole events, as they came.

    The format has no terminator: at the end of the stream the answer is whole if it said why it ended.
    """

    def __init__(self, *, include_usage: bool = True) -> None:
        self.saw_done = False
        self._said = Said()
        self._frames = Frames()
        self._kept = 0

    def feed(self, block: bytes) -> bytes:
        """Take a block, return what to forward. Raises: InvalidStream."""
        self._kept += len(block)
        return b"".join([self._take(event) for event in self._frames.feed(block)])

    def end(self) -> bytes:
        """Return what is still to forward when the provider has ended; nothing of an event that was cut off.

        Raises: InvalidStream.
        """
        last = b""
        for event in self._frames.end():
            if not event.data:
                last += event.raw
            elif isinstance(lenient(event.data), dict):
                last += self._take(event._replace(raw=event.raw.rstrip(b"\r\n") + b"\r\n\r\n"))
        self.saw_done = self.complete
        return last

    def _take(self, event: Event) -> bytes:
        if not event.data:
            return event.raw
        said = self._said
        keep = self._kept <= wire.MAX_KEPT_BYTES
        if said.started and keep and (chunk := written(event.data)) is not None:
            said.write(chunk)
        elif (value := gemini_answer.read_object(event.data)) is not None:
            said.take(value, keep=keep)
        return event.raw

    @property
    def started(self) -> bool:
        """Whether the first event with a candidate (or a refusal of the prompt) has come."""
        return self._said.started

    @property
    def error(self) -> str | None:
        return self._said.message

    @property
    def complete(self) -> bool:
        """Whether every candidate said why it ended, or the prompt was refused; and no error."""
        return self._said.error is None and self._said.finished

    @property
    def usage(self) -> Usage | None:
        return self._said.usage

    def answer(self) -> Answer:
        """Return what the stream has said so far."""
        return self._said.answer()

    def assembled(self) -> bytes:
        """Return the stream so far as one answer, for the trace."""
        return self._said.assembled()


# --- Errors ---------------------------------------------------------------------------------------------------------

# Google's words by status; other 4xx are FAILED_PRECONDITION, other 5xx INTERNAL.
# https://cloud.google.com/apis/design/errors#error_payloads
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPE = "type.googleapis.com/google.rpc."


def error(
    *, status: int, code: str, message: str, param: str | None = None, extra: Mapping[str, Any] | None = None
) -> bytes:
    """Return the body of an error: our code is the `reason`, `extra` its metadata (texts, as Google's are)."""
    metadata = {name: str(value) for name, value in (extra or {}).items()}
    info: Object = {"@type": _TYPE + "ErrorInfo", "reason": code, "domain": "respan"}
    details = [info | ({"metadata": metadata} if metadata else {})]
    if param:
        details.append({"@type": _TYPE + "BadRequest", "fieldViolations": [{"field": param, "description": message}]})
    return _encode({"error": {"code": status, "message": message, "status": _status(status), "details": details}})


def stream_error(*, status: int, code: str, message: str, sse: bool = True) -> bytes:
    """Return the event that ends a stream which cannot go on; without `sse` a last element and the array's end.

    google-genai raises on an event that begins with `{"error":`.
    """
    body = error(status=status, code=code, message=message)
    return b"data: " + body + b"\r\n\r\n" if sse else b",\r\n" + body + b"]"


def error_message(body: bytes) -> str | None:
    """Return the message of a provider's error; None when there is none."""
    failed = _error_of(body)
    return failed["message"] if failed else None


def is_error_body(body: bytes) -> bool:
    """Tell whether a body is an error in Google's shape, fit to be passed on as it came."""
    failed = _error_of(body)
    return failed is not None and isinstance(failed.get("code"), int)


def _error_of(body: bytes) -> Object | None:
    value = gemini_answer.read_object(body)
    return gemini_answer.error_in(value) if value is not None else None


def _status(status: int) -> str:
    return STATUSES.get(status) or ("INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
