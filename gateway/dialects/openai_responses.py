"""Pure: OpenAI's Responses API as bytes. What a client asked, what to send on, what came back, how to say no.

Responsible for checking a request without re-serialising it, for what may not be asked on credits, for reading usage
and text beside an answer or a stream that is passed on, and for errors in the shapes this API's clients read. Never
knows which provider it reads, never opens a socket, never prices. Neighbours: `gateway.call`, `gateway.framing`,
`openai_responses_answer` (what an answer said, piece by piece), `openai_responses_decode` and `_encode` (to and from
other dialects).

Source: https://platform.openai.com/docs/api-reference/responses (2026-11), the types of openai-python 3.54, and
recorded traffic.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.dialects import blocks, openai_chat, wire
from gateway.dialects import openai_responses_answer as reading
from gateway.dialects.openai_answer import lenient, storable
from gateway.dialects.openai_responses_seal import SEAL
from gateway.dialects.wire import Answer, InvalidBody, InvalidStream
from gateway.framing import SSE, Event, FramingError

PATH = "/responses"
ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"

_encode = msgspec.json.Encoder().encode
_ANY = msgspec.json.Decoder()
_SEALED = SEAL.encode()

# Raw JSON of these goes into the prompt beside the input.
_PROMPT_MEMBERS = ("tools", "text")
# What stands around a text, and images: bounded by the piece, not by their bytes.
_NOT_TEXT = frozenset({"role", "type", "image_url", "id", "call_id", "status", "detail"})
_NOT_COUNTED_TEXT = _NOT_TEXT | {"file_data", "input_audio", "file_id", "encrypted_content", "result"}


# --- Requests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. `members` are the raw bytes of its top level, in order; `input` is decoded: text or items."""

    body: bytes
    members: wire.Members
    input: str | list[dict[str, Any]]
    model: str
    stream: bool
    max_output: int | None
    # UTF-8 bytes of everything that becomes prompt text; images are counted, not measured.
    input_bytes: int
    images: int
    has_tools: bool
    n: int = 1
    include_usage: bool = True  # always in the terminal event of a stream

    @property
    def message_count(self) -> int:
        return 1 + (1 if isinstance(self.input, str) else len(self.input))


def read(body: bytes, *, named: wire.Named | None = None) -> Request:
    """Decode and check a request. Raises: InvalidBody."""
    members = wire.top_level(body, measured="input")
    given = _input(members)
    measure = wire.Measure(_NOT_TEXT)
    measure.take(given)
    instructions = members.get("instructions", b"")
    prompt = [len(bytes(members[name])) for name in _PROMPT_MEMBERS if name in members]
    return Request(
        body=body,
        members=members,
        input=given,
        model=wire.model_name(members),
        stream=bool(wire.member(members, "stream", bool, "true or false")),
        max_output=wire.count(members, "max_output_tokens", wire.MAX_OUTPUT_TOKENS),
        input_bytes=measure.bytes() + len(bytes(instructions)) + sum(prompt),
        images=measure.images,
        has_tools=_has_tools(members),
    )


def input_text(request: Request) -> str:
    """Return the text of the prompt, for a tokenizer: no images, no files, tools as their JSON."""
    measure = wire.Measure(_NOT_COUNTED_TEXT)
    if "instructions" in request.members:
        measure.take(_ANY.decode(request.members["instructions"]))
    measure.take(request.input)
    rest = [bytes(request.members[name]).decode() for name in _PROMPT_MEMBERS if name in request.members]
    return "\n".join([*measure.strings, *rest])


def _input(members: wire.Members) -> str | list[dict[str, Any]]:
    raw = bytes(members.get("input", b"null"))
    if raw.startswith(b'"'):
        text: str = wire.member(members, "input", str, "a text or a list of items")
        return text
    items: list[Any] | None = wire.member(members, "input", list, "a text or a list of items")
    if items is None:
        if not members.keys() & {"prompt", "previous_response_id", "conversation"}:
            raise InvalidBody("input is missing: give a text or a list of items.", "input")
        return []
    if len(items) > wire.MAX_MESSAGES:
        raise InvalidBody(f"input has more than {wire.MAX_MESSAGES} items.", "input")
    for index, item in enumerate(items):
        _check_item(item, f"input[{index}]")
    return items


def _check_item(item: object, place: str) -> None:
    if type(item) is not dict:
        raise InvalidBody(f"{place} must be an object.", place)
    for name in ("type", "role"):
        if item.get(name) is not None and type(item[name]) is not str:
            raise InvalidBody(f"{place}.{name} must be a string.", f"{place}.{name}")


def _has_tools(members: wire.Members) -> bool:
    """Tell whether there are tools, without decoding them: they can be most of a body."""
    raw = bytes(members.get("tools", b"null"))
    if raw == b"null":
        return False
    if not raw.startswith(b"["):
        raise InvalidBody("tools must be a list.", "tools")
    return raw[1:-1].strip() != b""


# --- To the provider ------------------------------------------------------------------------------------------------

# Chat completions' names (the catalogue's) of what is called otherwise here.
_NAMES = {"reasoning_effort": "reasoning", "max_tokens": "", "max_completion_tokens": "", "response_format": ""}
MAX_METADATA_MEMBERS = 16

# On credits all calls share the operator's account: what is stored there could be another organization's.
_STATEFUL = ("previous_response_id", "conversation", "prompt", "background", "store")
# Members that make a response dearer, or change what is billed, beside the catalogue's.
_REPRICED = frozenset({"prompt_cache_options", "background_options", "access_programs", "moderation"})
# Tools that run at the client; all others run at OpenAI, billed apart and in the operator's account.
_CLIENT_TOOLS = frozenset({"function", "custom", "namespace", "local_shell", "apply_patch"})
_CLIENT_ITEMS = frozenset(
    {
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "local_shell_call",
        "local_shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "compaction",
    }
)
_OWN_KEY = "it needs a provider key of your own"


def forward(asked: Request, order: blocks.Order) -> blocks.Sent:
    """Return the client's own bytes with as little changed as possible. Raises: blocks.Unsupported."""
    members = asked.members
    set_members: dict[str, bytes] = {}
    unsupported = [_NAMES.get(name, name) for name in sorted(order.model.unsupported)]
    dropped = [name for name in unsupported if name in members]
    if order.credits:
        check_credits(asked)
        set_members |= _on_credits(asked, order.model)
        searching = _without_search(asked)
        if searching is not None:
            set_members["tools"] = _encode(searching)
            dropped.append("tools.web_search")
        dropped += [name for name in sorted(order.repriced_by | _REPRICED) if name in members and name not in dropped]
    if order.max_output is not None:
        set_members["max_output_tokens"] = _encode(order.max_output)
    if _SEALED in asked.body and not isinstance(asked.input, str):
        set_members["input"] = _unsealed(members["input"])
    ours = order.ours & members.keys()
    ours -= _openais(asked, credits=order.credits)
    body = wire.patched(
        asked, model=order.model.upstream, drop=[*sorted(ours), *dropped], set_members=set_members or None
    )
    return blocks.Sent(body=body, path=PATH, dropped=dropped)


def _unsealed(raw: msgspec.Raw) -> bytes:
    """Return the input without reasoning of other vendors, which we have sealed: OpenAI would refuse it."""
    items: list[msgspec.Raw] = msgspec.json.decode(raw, type=list[msgspec.Raw])
    return _encode([item for item in items if not _is_sealed(item)])


def _is_sealed(raw: msgspec.Raw) -> bool:
    if _SEALED not in bytes(raw):
        return False
    item = _ANY.decode(raw)
    return item.get("type") == "reasoning" and str(item.get("encrypted_content", "")).startswith(SEAL)


def _openais(asked: Request, *, credits: bool) -> set[str]:
    """Return the members that are OpenAI's although Respan has parameters of the same name."""
    kept = set()
    prompt = _decoded(asked, "prompt")
    if isinstance(prompt, dict) and str(prompt.get("id", "")).startswith("pmpt_"):
        kept.add("prompt")
    if not credits and _decoded(asked, "store") is not False and is_metadata(_decoded(asked, "metadata")):
        kept.add("metadata")  # kept with the stored response, for its search
    return kept


def is_metadata(value: object) -> bool:
    """Tell whether a value is `metadata` as OpenAI takes it; Respan's own may hold more."""
    return (
        isinstance(value, dict)
        and len(value) <= MAX_METADATA_MEMBERS
        and all(isinstance(item, str) for item in value.values())
    )


def check_credits(asked: Request) -> None:
    """Refuse what would be stored in the operator's account, read from it, or billed apart.

    Raises: blocks.Unsupported.
    """
    for name in _STATEFUL:
        value = _decoded(asked, name)
        if name == "prompt" and isinstance(value, dict) and not str(value.get("id", "")).startswith("pmpt_"):
            continue  # Respan's own
        if value not in (None, False):
            raise blocks.Unsupported(name, f"{name} is not available on credits: {_OWN_KEY}.")
    reasoning = _decoded(asked, "reasoning")
    if isinstance(reasoning, dict) and reasoning.get("mode") not in (None, "standard"):
        raise blocks.Unsupported("reasoning.mode", f"reasoning.mode is not available on credits: {_OWN_KEY}.")
    for index, tool in enumerate(wire.dicts(_decoded(asked, "tools"))):
        if tool.get("type") not in _CLIENT_TOOLS and not _is_optional(tool, asked):
            message = f"The tool {str(tool.get('type'))[:40]} runs at the provider: {_OWN_KEY}."
            raise blocks.Unsupported(f"tools[{index}]", message)
    if not isinstance(asked.input, str):
        for index, item in enumerate(asked.input):
            _check_credits_item(item, f"input[{index}]")


def _is_optional(tool: dict[str, Any], asked: Request) -> bool:
    """Tell whether a tool may be left out: a search that the model was free to make. Codex always offers one."""
    is_search = str(tool.get("type")).startswith("web_search")
    return is_search and _decoded(asked, "tool_choice") in (None, "auto", "none")


def _without_search(asked: Request) -> list[dict[str, Any]] | None:
    """Return the tools without a search that may be left out; None where there is none."""
    tools = wire.dicts(_decoded(asked, "tools"))
    kept = [tool for tool in tools if not _is_optional(tool, asked)]
    return kept if len(kept) < len(tools) else None


def _check_credits_item(item: dict[str, Any], place: str) -> None:
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if kind not in _CLIENT_ITEMS:
        raise blocks.Unsupported(place, f"An item {str(kind)[:40]} is not available on credits: {_OWN_KEY}.")
    for name in ("content", "output"):
        for number, part in enumerate(wire.dicts(item.get(name))):
            _check_credits_part(part, f"{place}.{name}[{number}]")


def _check_credits_part(part: dict[str, Any], place: str) -> None:
    for name in ("file_id", "file_url"):
        if part.get(name):
            message = f"{name} is not available on credits: send the file's data, or use a provider key of your own."
            raise blocks.Unsupported(f"{place}.{name}", message)
    breakpoint_ = part.get("prompt_cache_breakpoint")
    if isinstance(breakpoint_, dict) and breakpoint_.get("ttl") not in (None, "30m"):
        name = f"{place}.prompt_cache_breakpoint.ttl"
        raise blocks.Unsupported(name, f"A longer cache is not available on credits: {_OWN_KEY}.")


def _on_credits(asked: Request, model: blocks.Facts) -> dict[str, bytes]:
    """Return what is set on credits: nothing is stored, so reasoning has to travel with the client."""
    members = {"store": b"false"}
    include = _decoded(asked, "include")
    include = include if isinstance(include, list) else []
    if "thinking" in model.capabilities and ENCRYPTED not in include:
        members["include"] = _encode([*include, ENCRYPTED])
    return members


def _decoded(asked: Request, name: str) -> Any:
    raw = asked.members.get(name)
    return None if raw is None else lenient(bytes(raw))


# --- Answers --------------------------------------------------------------------------------------------------------


def read_json(body: bytes) -> Answer:
    """Read a whole answer. Never raises: what is no answer has an `error`; the text is there when usage is not."""
    response = lenient(body)
    if not isinstance(response, dict):
        return Answer(error="The provider's answer is not JSON.")
    failed = reading.error_of(response.get("error"))
    if failed is None and not isinstance(response.get("output"), list):
        failed = (openai_chat.error_message(body) or "The provider's answer has no output.", None)
    return _said(response, failed[0] if failed else None)


def _said(response: dict[str, Any], error: str | None) -> Answer:
    usage = reading.usage(response.get("usage"))
    text = "" if usage else "".join(text for item in reading.items(response) for text in reading.written(item))
    return Answer(usage, storable(response.get("model")), reading.finish(response), text, error)


class StreamReader:
    """Reads a stream beside its way to the client. `feed` returns the bytes to forward: whole events, as they came.

    The terminal event is the last one that is forwarded (some servers send a `[DONE]` behind it).
    """

    def __init__(self, *, include_usage: bool = True) -> None:
        self.saw_done = False
        self.started = False  # a first item of the answer has come
        self.error: str | None = None
        # An event holds a whole response, which repeats its instructions and tools and may hold images.
        self._sse = SSE(wire.MAX_KEPT_BYTES)
        self._items = _Items()
        self._kept = 0
        self._first: msgspec.Raw | None = None  # the response as it began
        self._last: msgspec.Raw | None = None  # the response as it ended

    def feed(self, block: bytes) -> bytes:
        """Take a block, return what to forward. Raises: InvalidStream."""
        try:
            events = self._sse.feed(block)
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        return b"".join([self._take(event) for event in events])

    def end(self) -> bytes:
        """Return what is still to forward when the provider has ended; an event that was cut off is not.

        Raises: InvalidStream.
        """
        try:
            events = self._sse.end()
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        whole = [event for event in events if isinstance(lenient(event.data), dict)]
        return b"".join([self._take(event._replace(raw=event.raw.rstrip(b"\r\n") + b"\n\n")) for event in whole])

    @property
    def complete(self) -> bool:
        """Whether the answer reached its end, without an error."""
        return self.error is None and self.saw_done

    def answer(self) -> Answer:
        """Return what the stream has said so far."""
        return _said(self._whole(), self.error)

    def assembled(self) -> bytes:
        """Return the stream so far as one response, for the trace."""
        return _encode(self._whole())

    def _take(self, event: Event) -> bytes:
        if self.saw_done:
            return b""
        found = reading.event(event.data) if event.data else None
        if found is None:
            return event.raw
        kind = found.type
        if found.response:
            self._note(kind, found)
        elif kind == "error":
            self.error = self.error or reading.event_error(found)[0]
        elif found.output_index is not None:
            self.started = True
            self._kept += len(event.data)
            if self._kept <= wire.MAX_KEPT_BYTES:
                self._items.take(found)
        return event.raw

    def _note(self, kind: str, found: reading.Event) -> None:
        if kind in reading.TERMINAL:
            self._last = found.response
            self.saw_done = True
            if kind == "response.failed":
                self.error = self.error or reading.event_error(found)[0]
            else:
                self.started = True
        elif self._first is None:
            self._first = found.response

    def _whole(self) -> dict[str, Any]:
        """Return the response as it ended; cut short, as far as it had come."""
        raw = self._last or self._first
        response = lenient(bytes(raw)) if raw else None
        if not isinstance(response, dict):
            response = reading.skeleton(id="", model="", created=0, status="in_progress")
        if not reading.items(response):
            response["output"] = self._items.all()
        if self._last is None:
            response["status"] = "failed" if self.error else "in_progress"
        if self.error is not None and not response.get("error"):
            response["error"] = {"code": "server_error", "message": self.error}
        return response


# What a delta adds to: the list it is in (None: a member of the item itself), the type of the part, its member.
_GROWS: dict[str, tuple[str | None, str, str]] = {
    "response.output_text.delta": ("content", "output_text", "text"),
    "response.refusal.delta": ("content", "refusal", "refusal"),
    "response.reasoning_text.delta": ("content", "reasoning_text", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_text", "text"),
    "response.function_call_arguments.delta": (None, "function_call", "arguments"),
    "response.mcp_call_arguments.delta": (None, "mcp_call", "arguments"),
    "response.custom_tool_call_input.delta": (None, "custom_tool_call", "input"),
    "response.code_interpreter_call_code.delta": (None, "code_interpreter_call", "code"),
}
_Key = tuple[str | None, str, str, int]


class _Items:
    """The items of a stream: those that are done as they came, an unfinished one from its deltas."""

    __slots__ = ("_done", "_open", "_pieces")

    def __init__(self) -> None:
        self._done: dict[int, dict[str, Any]] = {}
        self._open: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, dict[_Key, list[str]]] = {}

    def take(self, found: reading.Event) -> None:
        index = found.output_index or 0
        grows = _GROWS.get(found.type)
        if grows is not None and isinstance(found.delta, str):
            key = (*grows, found.content_index or found.summary_index or 0)
            self._pieces.setdefault(index, {}).setdefault(key, []).append(found.delta)
        elif isinstance(found.item, dict):
            if found.type == "response.output_item.done":
                self._open.pop(index, None)
                self._pieces.pop(index, None)
                self._done[index] = found.item
            else:
                self._open[index] = found.item

    def all(self) -> list[dict[str, Any]]:
        indexes = sorted(self._done.keys() | self._open.keys() | self._pieces.keys())
        return [self._done[index] if index in self._done else self._unfinished(index) for index in indexes]

    def _unfinished(self, index: int) -> dict[str, Any]:
        item = dict(self._open.get(index, {}))
        for (place, kind, name, _), pieces in sorted(self._pieces.get(index, {}).items(), key=lambda pair: pair[0][3]):
            text = "".join(pieces)
            if place is None:
                item[name] = text
                item.setdefault("type", kind)
            else:
                annotations: dict[str, Any] = {"annotations": []} if kind == "output_text" else {}
                item[place] = [*(item.get(place) or ()), {"type": kind, name: text, **annotations}]
                item.setdefault("type", "message" if kind in ("output_text", "refusal") else "reasoning")
        return item


# --- Errors ---------------------------------------------------------------------------------------------------------


def error(
    *, status: int, code: str, message: str, param: str | None = None, extra: Mapping[str, Any] | None = None
) -> bytes:
    """Return the body of an error: the shape is that of chat completions."""
    return openai_chat.error(status=status, code=code, message=message, param=param, extra=extra)


def stream_error(*, status: int, code: str, message: str) -> bytes:
    """Return the events that end a stream which cannot go on: `error`, then `response.failed`."""
    response = reading.skeleton(id="", model="", created=0, status="failed")
    return reading.failure(response=response, code=code, message=message, status=status, sequence=0)


def error_message(body: bytes) -> str | None:
    """Return the message of a provider's error, whatever its shape; None when there is none."""
    return openai_chat.error_message(body)


def is_error_body(body: bytes) -> bool:
    """Tell whether a body is an error in OpenAI's shape, fit to be passed on as it came."""
    return openai_chat.is_error_body(body)
