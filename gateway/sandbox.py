"""The provider inside Respan: answers chat completions in this process, without a network, always the same way.

Responsible for being a believable provider to try calls, streams, tools, JSON and credits with: the same request gets
the same bytes. Never random, never reads a clock, never keeps anything. Behind the same httpx interface as a real
provider (`gateway.upstream` sends to it); models and prices are in `catalog/sandbox.toml`.

What it answers, first that applies:
- a tool call, when `tool_choice` demands one, or when it may and the last user message names the tool; the arguments
  are sample values made from the tool's JSON schema;
- JSON that fits `response_format`;
- after a tool's result: that result; else the last user message again, with the number of images it saw.
The model `exact` writes exactly as many tokens as it may.

Its tokenizer: a token is up to six letters or digits, or one other sign, with the white space before it. A prompt is
the tokens of its texts and tools, 4 for each message and 258 for each image.
"""

import asyncio
import hashlib
import math
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from gateway.dialects import openai_chat, wire

TOKENS_PER_MESSAGE = 4
TOKENS_PER_IMAGE = 258
EXACT = "exact"
# What `exact` writes when nobody set a limit.
EXACT_DEFAULT = 256
# The same request must give the same bytes, so time stands still here: 1 January 2026.
CREATED = 1_767_225_600
MAX_OUTPUT_TOKENS = 16_384
MAX_INPUT_BYTES = 1_000_000
MAX_SAMPLE_DEPTH = 12
MAX_SAMPLE_VALUES = 1_000

_TOKEN = re.compile(r"\s*(?:\w{1,6}|[^\w\s])|\s+")
_encode = msgspec.json.Encoder().encode


def tokens(text: str) -> list[str]:
    """Cut a text into tokens; joined they are the text again."""
    return _TOKEN.findall(text)


class Transport(httpx.AsyncBaseTransport):
    """Answers `POST .../chat/completions`; `delay_s` passes before each chunk of a stream."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request; a bad one gets a 400 in OpenAI's shape."""
        if request.method != "POST" or not request.url.path.endswith("/chat/completions"):
            return _refusal(404, "not_found", "The sandbox only answers POST /chat/completions.")
        body = await request.aread()
        try:
            asked = openai_chat.read(body)
            options = msgspec.json.decode(body)
            completion = _completion(asked, options)
        except wire.InvalidBody as error:
            return _refusal(400, "invalid_request", str(error), error.param)
        headers = {"x-request-id": f"req_{completion.id[9:]}"}
        if asked.stream:
            headers["content-type"] = "text/event-stream; charset=utf-8"
            events = completion.events(include_usage=asked.include_usage)
            return httpx.Response(200, headers=headers, stream=_Stream(events, self.delay_s), request=request)
        headers["content-type"] = "application/json"
        return httpx.Response(200, headers=headers, content=_encode(completion.whole()), request=request)


TRANSPORT = Transport()


class _Stream(httpx.AsyncByteStream):
    """A stream, event by event; it may be left at any time."""

    def __init__(self, events: Iterator[bytes], delay_s: float) -> None:
        self._events = events
        self._delay_s = delay_s

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(self._delay_s)  # also with 0: others get their turn
        event = next(self._events, None)
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        self._events = iter(())


def _refusal(status: int, code: str, message: str, param: str | None = None) -> httpx.Response:
    body = openai_chat.error(status=status, code=code, message=message, param=param)
    return httpx.Response(status, headers={"content-type": "application/json"}, content=body)


# --- What to say ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Call:
    """A tool call: its name, and its arguments as tokens of JSON."""

    name: str
    arguments: list[str]


@dataclass(frozen=True, slots=True)
class _Completion:
    """An answer, cut into tokens, and how to write it down."""

    id: str
    model: str
    n: int
    content: list[str]
    calls: list[_Call]
    finish_reason: str
    prompt_tokens: int

    def usage(self) -> dict[str, Any]:
        written = self.n * (len(self.content) + sum(len(call.arguments) + 1 for call in self.calls))
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": CREATED, "model": self.model}

    def _call_id(self, choice: int, number: int) -> str:
        return f"call_{hashlib.sha256(f'{self.id}/{choice}/{number}'.encode()).hexdigest()[:24]}"

    def whole(self) -> dict[str, Any]:
        """Return the answer as one `chat.completion`."""
        choices = [self._choice(index) for index in range(self.n)]
        return {**self._envelope("chat.completion"), "choices": choices, "usage": self.usage()}

    def _choice(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.content), "refusal": None}
        if self.calls:
            message["content"] = None
            message["tool_calls"] = [
                {
                    "id": self._call_id(index, number),
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for number, call in enumerate(self.calls)
            ]
        return {"index": index, "message": message, "logprobs": None, "finish_reason": self.finish_reason}

    def events(self, *, include_usage: bool) -> Iterator[bytes]:
        """Yield the answer as the events of a stream, a token an event; choices take turns."""
        envelope = self._envelope("chat.completion.chunk")
        last: dict[str, Any] = {"usage": None} if include_usage else {}
        for deltas in zip(*(self._deltas(index) for index in range(self.n)), strict=True):
            for index, delta in enumerate(deltas):
                reason = None if delta else self.finish_reason
                choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
                yield _event({**envelope, "choices": [choice], **last})
        if include_usage:
            yield _event({**envelope, "choices": [], "usage": self.usage()})
        yield openai_chat.DONE

    def _deltas(self, index: int) -> Iterator[dict[str, Any]]:
        """Yield the deltas of a choice; the last is empty and carries the finish reason."""
        yield {"role": "assistant", "content": None if self.calls else ""}
        for token in self.content:
            yield {"content": token}
        for number, call in enumerate(self.calls):
            function: dict[str, Any] = {"name": call.name, "arguments": ""}
            begun = {"index": number, "id": self._call_id(index, number), "type": "function", "function": function}
            yield {"tool_calls": [begun]}
            for token in call.arguments:
                yield {"tool_calls": [{"index": number, "function": {"arguments": token}}]}
        yield {}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _completion(asked: openai_chat.Request, options: dict[str, Any]) -> _Completion:
    """Decide what to answer. Raises: InvalidBody."""
    if asked.input_bytes > MAX_INPUT_BYTES:
        raise wire.InvalidBody(f"The sandbox reads at most {MAX_INPUT_BYTES} bytes of text.", "messages")
    if (asked.max_output or 0) > MAX_OUTPUT_TOKENS:
        raise wire.InvalidBody(f"The sandbox writes at most {MAX_OUTPUT_TOKENS} tokens.", "max_tokens")
    names = _chosen(asked, options)
    content: list[str] = []
    calls: list[_Call] = []
    if names:
        schemas = _schemas(options)
        calls = [_Call(name, tokens(_encode(sample(schemas[name])).decode())) for name in names]
    else:
        content = tokens(_stopped(_text(asked, options), options.get("stop")))
    content, calls, is_cut = _cut(content, calls, asked.max_output or MAX_OUTPUT_TOKENS)
    images = asked.images * TOKENS_PER_IMAGE
    return _Completion(
        id=f"chatcmpl-{hashlib.sha256(asked.body).hexdigest()[:24]}",
        model=asked.model,
        n=asked.n,
        content=content,
        calls=calls,
        finish_reason="length" if is_cut else "tool_calls" if calls else "stop",
        prompt_tokens=len(tokens(openai_chat.input_text(asked))) + TOKENS_PER_MESSAGE * asked.message_count + images,
    )


def _cut(content: list[str], calls: list[_Call], most: int) -> tuple[list[str], list[_Call], bool]:
    """Cut an answer to its maximum; a call's name is one token."""
    kept: list[_Call] = []
    left = most - len(content)
    for call in calls:
        if left <= 0:
            break
        kept.append(_Call(call.name, call.arguments[: left - 1]))
        left -= len(kept[-1].arguments) + 1
    is_cut = len(content) > most or kept != calls
    return content[:most], kept, is_cut


def _text(asked: openai_chat.Request, options: dict[str, Any]) -> str:
    if asked.model == EXACT:
        return "word" + " word" * ((asked.max_output or EXACT_DEFAULT) - 1)
    said = _last_text(asked.messages, "user")
    kind = options.get("response_format")
    kind = kind if isinstance(kind, dict) else {}
    if kind.get("type") == "json_object":
        return _encode({"echo": said}).decode()
    if kind.get("type") == "json_schema":
        schema = kind.get("json_schema")
        if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
            raise wire.InvalidBody("response_format.json_schema needs a schema.", "response_format.json_schema")
        return _encode(sample(schema["schema"])).decode()
    if asked.messages[-1]["role"] == "tool":
        return f"The tool answered: {_last_text(asked.messages, 'tool')}"
    if asked.images:
        seen = "1 image" if asked.images == 1 else f"{asked.images} images"
        return f"{said} ({seen} seen)".lstrip()
    return said


def _last_text(messages: list[dict[str, Any]], role: str) -> str:
    for message in reversed(messages):
        if message["role"] == role:
            content = message.get("content")
            if isinstance(content, str):
                return content
            parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
            return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return ""


def _stopped(text: str, stop: object) -> str:
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    found = [text.find(item) for item in stops if isinstance(item, str) and item]
    return text[: min((position for position in found if position >= 0), default=len(text))]


# --- Tools ----------------------------------------------------------------------------------------------------------


def _schemas(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each function tool's arguments by its name. Raises: InvalidBody."""
    schemas: dict[str, dict[str, Any]] = {}
    for number, tool in enumerate(options.get("tools") or []):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            raise wire.InvalidBody(f"tools[{number}].function.name is missing.", f"tools[{number}]")
        parameters = function.get("parameters")
        schemas[name] = parameters if isinstance(parameters, dict) else {}
    return schemas


def _chosen(asked: openai_chat.Request, options: dict[str, Any]) -> list[str]:
    """Return the names of the tools to call now. Raises: InvalidBody."""
    schemas = _schemas(options)
    choice = options.get("tool_choice")
    if choice is not None and not schemas:
        raise wire.InvalidBody("tool_choice needs tools.", "tool_choice")
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if name not in schemas:
            raise wire.InvalidBody("tool_choice names no tool of the request.", "tool_choice")
        return [name]
    if choice not in (None, "auto", "none", "required"):
        raise wire.InvalidBody("tool_choice must be auto, none, required or name a function.", "tool_choice")
    if choice == "none" or (choice != "required" and asked.messages[-1]["role"] != "user"):
        return []
    said = _last_text(asked.messages, "user")
    named = [name for name in schemas if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said)]
    if choice == "required" and not named:
        named = list(schemas)
    return named[:1] if choice == "required" or options.get("parallel_tool_calls") is False else named


def sample(schema: object) -> Any:
    """Return a value that fits a JSON schema, always the same one. What it does not understand becomes a string."""
    return _Sampler(schema).value(schema, MAX_SAMPLE_DEPTH)


class _Sampler:
    """Makes the sample; a schema that refers to itself ends at a depth, and at a number of values."""

    def __init__(self, root: object) -> None:
        self.root = root
        self.left = MAX_SAMPLE_VALUES

    def value(self, schema: object, depth: int) -> Any:
        self.left -= 1
        if not isinstance(schema, dict) or depth <= 0 or self.left < 0:
            return "text"
        for name in ("const", "default"):
            if name in schema:
                return schema[name]
        for name in ("enum", "examples"):
            if isinstance(schema.get(name), list) and schema[name]:
                return schema[name][0]
        if isinstance(schema.get("$ref"), str):
            return self.value(_resolved(schema["$ref"], self.root), depth - 1)
        for name in ("anyOf", "oneOf"):
            if isinstance(schema.get(name), list) and schema[name]:
                return self.value(schema[name][0], depth - 1)
        if isinstance(schema.get("allOf"), list):
            return self.value(_merged(schema["allOf"]), depth - 1)
        return self.of_type(schema, depth)

    def of_type(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else "string")
        if isinstance(kind, list):
            kind = next((item for item in kind if item != "null"), "null")
        if kind == "object":
            properties = schema.get("properties")
            members = properties.items() if isinstance(properties, dict) else ()
            return {name: self.value(member, depth - 1) for name, member in members}
        if kind == "array":
            count = max(_number(schema, "minItems", 1), 1) if "items" in schema else 0
            return [self.value(schema["items"], depth - 1) for _ in range(int(min(count, 20)))]
        if kind in ("integer", "number"):
            least = _number(schema, "minimum", _number(schema, "exclusiveMinimum", 0) + 1)
            value = min(least, _number(schema, "maximum", least))
            return int(value) if kind == "integer" else value
        if kind == "boolean":
            return True
        return None if kind == "null" else _string(schema)


def _merged(parts: list[Any]) -> dict[str, Any]:
    schemas = [part for part in parts if isinstance(part, dict)]
    merged = {key: value for part in schemas for key, value in part.items()}
    properties = [part["properties"] for part in schemas if isinstance(part.get("properties"), dict)]
    if properties:
        merged["properties"] = {name: member for members in properties for name, member in members.items()}
    return merged


def _string(schema: dict[str, Any]) -> str:
    formats = {
        "date": "2026-01-01",
        "date-time": "2026-01-01T00:00:00Z",
        "time": "00:00:00Z",
        "email": "ada@example.com",
        "uri": "https://example.com/",
        "uuid": "00000000-0000-4000-8000-000000000000",
    }
    text = formats.get(str(schema.get("format")), "text")
    text = text.ljust(int(min(_number(schema, "minLength", 0), 1_000)), "t")
    return text[: int(max(_number(schema, "maxLength", len(text)), 0))]


def _number(schema: dict[str, Any], name: str, otherwise: float) -> float:
    value = schema.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return otherwise
    return value


def _resolved(reference: str, root: object) -> object:
    """Follow a reference inside the schema, such as `#/$defs/City`."""
    value = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        value = value.get(part) if isinstance(value, dict) and part else value
    return value
