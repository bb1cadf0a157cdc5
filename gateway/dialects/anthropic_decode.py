"""Pure: Anthropic's messages dialect -> the middle form: a client's request, a provider's answer, its stream.

Responsible for the parameters, for tools, and for the events of a stream. What only Anthropic understands (server tools
and their results, betas) travels as `Opaque`, `ServerTool` or in `Request.extra`. Neighbours: `anthropic_content` (the
blocks of content), `anthropic` (the door, which has checked a request already), `anthropic_encode` (the other way).

Source: https://platform.claude.com/docs/en/api/messages (2026-11), and recorded traffic.
"""

from typing import Any

import msgspec

from gateway.dialects import anthropic, anthropic_answer, anthropic_content, blocks, wire
from gateway.dialects.anthropic_answer import GROWN, Meter, Piece, failure, failure_type
from gateway.dialects.anthropic_content import DIALECT
from gateway.dialects.openai_answer import lenient, storable
from gateway.dialects.wire import InvalidBody
from gateway.framing import SSE, Event, FramingError

# A tool of ours: a model that cannot be held to a schema is made to call it instead. Its arguments are the answer.
JSON_TOOL = "respan_json_answer"

_ANY = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode

_READ = frozenset(
    {
        "model",
        "messages",
        "system",
        "stream",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "output_format",
        "service_tier",
        "metadata",
        "respan_params",
        "keywordsai_params",
    }
)
# Claude Code tells Anthropic of itself in a first text that is another one each time: noise to all others, and the end
# of their prompt caches.
_BILLING = "x-anthropic-billing-header:"
_TIERS = {"auto": "auto", "standard_only": "default"}


# --- Requests -------------------------------------------------------------------------------------------------------


def request(asked: anthropic.Request) -> blocks.Request:
    """Return a client's request. Raises: InvalidBody, naming the member that is malformed."""
    members = asked.members
    system, messages = _conversation(asked)
    config = _object(members, "output_config")
    choice, parallel = _choice(_object(members, "tool_choice"))
    return blocks.Request(
        dialect=DIALECT,
        model=asked.model,
        messages=messages,
        system=system,
        stream=asked.stream,
        # 0 fills the cache and writes nothing: nobody else knows that.
        max_output=asked.max_output if asked.max_output is None else max(asked.max_output, 1),
        temperature=_number(members, "temperature"),
        top_p=_number(members, "top_p"),
        top_k=wire.member(members, "top_k", int, "a whole number"),
        stop=_strings(members, "stop_sequences"),
        tools=_tools(members),
        choice=choice,
        parallel=parallel,
        format=_format(config.get("format") or _object(members, "output_format")),
        reasoning=_reasoning(_object(members, "thinking"), config),
        service_tier=_TIERS.get(wire.member(members, "service_tier", str, "a string") or ""),
        user=_user(_object(members, "metadata")),
        extra={name: _ANY.decode(raw) for name, raw in members.items() if name not in _READ},
    )


def _object(members: wire.Members, name: str) -> dict[str, Any]:
    return wire.member(members, name, dict, "an object") or {}


def _number(members: wire.Members, name: str) -> float | None:
    raw = members.get(name)
    value = None if raw is None else _ANY.decode(raw)
    if value is not None and type(value) not in (int, float):
        raise InvalidBody(f"{name} must be a number.", name)
    return None if value is None else float(value)


def _strings(members: wire.Members, name: str) -> list[str]:
    values = wire.member(members, name, list, "a list of strings") or []
    if not all(isinstance(value, str) for value in values):
        raise InvalidBody(f"{name} must be a list of strings.", name)
    return list(values)


def _conversation(asked: anthropic.Request) -> tuple[list[blocks.Text], list[blocks.Message]]:
    """Return what comes first, and the conversation."""
    content = anthropic_content.Content()
    messages = [content.message(message, f"messages[{index}]") for index, message in enumerate(asked.messages)]
    system = _system(asked.members)
    while messages and messages[0].role == "system":
        system += [block for block in messages.pop(0).blocks if isinstance(block, blocks.Text)]
    return system, messages


def _system(members: wire.Members) -> list[blocks.Text]:
    raw = members.get("system")
    value = None if raw is None else _ANY.decode(raw)
    if value is None or isinstance(value, str):
        return [blocks.Text(value)] if value else []
    found = anthropic_content.Content().read(value, "system")
    texts = [block for block in found if isinstance(block, blocks.Text)]
    if len(texts) != len(found):
        raise InvalidBody("system may hold text only.", "system")
    return [text for text in texts if not text.text.startswith(_BILLING)]


def _user(metadata: dict[str, Any]) -> str | None:
    user = metadata.get("user_id")
    return user if isinstance(user, str) else None


def _tools(members: wire.Members) -> list[blocks.Tool | blocks.ServerTool]:
    values = wire.member(members, "tools", list, "a list of tools") or []
    return [_tool(value, f"tools[{index}]") for index, value in enumerate(values)]


def _tool(value: object, path: str) -> blocks.Tool | blocks.ServerTool:
    if not isinstance(value, dict):
        raise InvalidBody(f"{path} must be an object.", path)
    kind = value.get("type")
    if kind is not None and kind != "custom":
        searches = isinstance(kind, str) and kind.startswith("web_search")
        return blocks.ServerTool(dialect=DIALECT, value=value, kind="web_search" if searches else "other")
    schema, description, strict = value.get("input_schema"), value.get("description"), value.get("strict")
    if schema is not None and not isinstance(schema, dict):
        raise InvalidBody(f"{path}.input_schema must be an object.", f"{path}.input_schema")
    return blocks.Tool(
        name=anthropic_content.string(value, "name", path),
        description=description if isinstance(description, str) else None,
        parameters=schema,
        strict=strict if isinstance(strict, bool) else None,
        cache=anthropic_content.cache(value),
    )


def _choice(value: dict[str, Any]) -> tuple[blocks.Choice | None, bool | None]:
    """Return which tools may be called, and whether several at once may be."""
    kind = value.get("type")
    parallel = False if value.get("disable_parallel_tool_use") is True else None
    if kind in ("auto", "none"):
        return blocks.Choice(mode=kind), parallel
    if kind == "any":
        return blocks.Choice(mode="required"), parallel
    if kind == "tool":
        return blocks.Choice(mode="named", names=[anthropic_content.string(value, "name", "tool_choice")]), parallel
    if kind is not None:
        raise InvalidBody("tool_choice.type must be auto, any, tool or none.", "tool_choice.type")
    return None, parallel


def _format(value: object) -> blocks.Format | None:
    if not isinstance(value, dict) or value.get("type") != "json_schema":
        return None
    schema = value.get("schema")
    if not isinstance(schema, dict):
        raise InvalidBody("output_config.format.schema must be an object.", "output_config.format.schema")
    return blocks.Format(kind="json_schema", schema=schema, name="answer", strict=True)


def _reasoning(thinking: dict[str, Any], config: dict[str, Any]) -> blocks.Reasoning | None:
    effort, budget, mode = config.get("effort"), thinking.get("budget_tokens"), thinking.get("type")
    display = thinking.get("display")
    found = blocks.Reasoning(
        effort=effort if isinstance(effort, str) else None,
        budget=budget if type(budget) is int else None,
        # `between_tools` is the least of models that cannot stop thinking.
        mode="disabled" if mode == "between_tools" else mode if isinstance(mode, str) else None,
        visible=None if display is None else display != "omitted",
    )
    return found if found != blocks.Reasoning() else None


# --- Answers --------------------------------------------------------------------------------------------------------


def answer(body: bytes) -> blocks.Answer:
    """Return a provider's whole answer; never raises."""
    value = lenient(body)
    failed = failure(value)
    if not isinstance(value, dict) or failed is not None:
        return blocks.Answer(error=failed or "The provider's answer is not JSON.")
    content = value.get("content")
    if not isinstance(content, list):
        return blocks.Answer(error="The provider's answer has no content.")
    found = [_unwrapped(anthropic_content.answered(block)) for block in content if isinstance(block, dict)]
    meter = Meter()
    meter.take(value.get("usage"))
    return blocks.Answer(
        id=storable(value.get("id")),
        model=storable(value.get("model")),
        blocks=found,
        finish=_finish(value, calls=any(isinstance(block, blocks.ToolCall) for block in found)),
        usage=meter.usage,
        service_tier=storable(meter.reported.get("service_tier")),
    )


def _unwrapped(block: blocks.Block) -> blocks.Block:
    is_answer = isinstance(block, blocks.ToolCall) and block.name == JSON_TOOL
    return blocks.Text(block.arguments) if is_answer else block  # type: ignore[union-attr]


def _finish(value: dict[str, Any], *, calls: bool) -> blocks.Finish | None:
    """Return why an answer ended; `calls` tells whether it calls a tool of the client's."""
    native = storable(value.get("stop_reason"))
    if native is None:
        return None
    details, sequence = value.get("stop_details"), value.get("stop_sequence")
    explanation = details.get("explanation") if isinstance(details, dict) else None
    found = anthropic_answer.REASONS.get(native, "stop")
    return blocks.Finish(
        reason="stop" if found == "tool_calls" and not calls else found,
        native=native,
        stop_sequence=sequence if isinstance(sequence, str) else None,
        message=explanation if isinstance(explanation, str) else None,
    )


# --- Streams --------------------------------------------------------------------------------------------------------


class StreamDecoder:
    """Reads a provider's stream. Blocks of the middle form are numbered anew: Anthropic's own never overlap.

    A block that is `Opaque` here is held back until it is whole. So are citations: they are about all of their text.
    """

    __slots__ = ("_calls", "_count", "_ended", "_finish", "_held", "_index", "_length", "_meter", "_open", "_sse")

    def __init__(self) -> None:
        self._sse = SSE(anthropic_answer.MAX_EVENT_BYTES)
        self._meter = Meter()
        self._finish: dict[str, Any] = {}
        self._calls = False  # a tool of the client's was called
        self._count = 0  # blocks opened so far
        self._ended = False
        # The open block: Anthropic's index, ours, what it is here, its text's length, what is gathered of it.
        self._index: int | None = None
        self._open: blocks.Block | None = None
        self._length = 0
        self._held: Piece | None = None

    def feed(self, block: bytes) -> list[blocks.Event]:
        """Take a block of bytes, return the events that are complete now. Raises: wire.InvalidStream."""
        try:
            events = self._sse.feed(block)
        except FramingError as error:
            raise wire.InvalidStream(str(error)) from error
        return self._taken(events)

    def end(self) -> list[blocks.Event]:
        """Return what is left: an event that lacked only its blank line. Raises: wire.InvalidStream."""
        try:
            events = self._sse.end()
        except FramingError as error:
            raise wire.InvalidStream(str(error)) from error
        return self._taken(events)

    def _taken(self, events: list[Event]) -> list[blocks.Event]:
        found: list[blocks.Event] = []
        for event in events:
            if self._ended:
                break
            if not event.data:
                continue
            delta = anthropic_answer.written(event.data)
            if delta is not None:
                if delta.index == self._index:
                    self._write(delta.text, found)
                continue
            value = lenient(event.data)
            if isinstance(value, dict):
                self._take(value, found)
            elif event.event == b"error":
                self._fail(value, event.data[:2_000].decode("utf-8", "replace"), found)
        return found

    def _write(self, text: str, found: list[blocks.Event]) -> None:
        kind = type(self._open)
        if not text:
            return
        if kind is blocks.Text:
            self._length += len(text)
            found.append(blocks.TextDelta(self._count, text))
        elif kind is blocks.Thinking:
            found.append(blocks.ThinkingDelta(self._count, text))
        elif kind is blocks.ToolCall:
            self._length += len(text)
            found.append(blocks.ArgumentsDelta(self._count, text))
        elif self._held is not None:
            self._held.write(text)

    def _take(self, value: dict[str, Any], found: list[blocks.Event]) -> None:
        kind = value.get("type")
        if kind == "message_start" and isinstance(value.get("message"), dict):
            self._start(value["message"], found)
        elif kind == "content_block_start" and isinstance(value.get("content_block"), dict):
            self._close(found)
            self._begin(value.get("index"), value["content_block"], found)
        elif kind == "content_block_delta" and isinstance(value.get("delta"), dict):
            self._add(value, found)
        elif kind == "content_block_stop":
            self._close(found)
        elif kind == "message_delta":
            self._finished(value, found)
        elif kind == "message_stop":
            self._stop(found)
        elif kind == "error" or ("error" in value and kind is None):
            self._fail(value, "The provider reported an error.", found)

    def _start(self, message: dict[str, Any], found: list[blocks.Event]) -> None:
        self._meter.take(message.get("usage"))
        # Its usage is not passed on: the output is not written yet, and an answer that breaks off is to be counted.
        found.append(blocks.Started(storable(message.get("id")), storable(message.get("model"))))

    def _begin(self, index: object, start: dict[str, Any], found: list[blocks.Event]) -> None:
        self._index = index if type(index) is int else None
        self._length = 0
        begun = _unwrapped(anthropic_content.answered(start))
        self._open, self._held = begun, Piece(start)
        if isinstance(begun, blocks.Opaque):
            return  # its input may still come
        if isinstance(begun, blocks.ToolCall):
            self._calls = True
            found.append(blocks.Opened(self._count, blocks.ToolCall(id=begun.id, name=begun.name)))
        elif isinstance(begun, blocks.Thinking):
            found.append(blocks.Opened(self._count, blocks.Thinking(dialect=DIALECT)))
            if begun.text:
                found.append(blocks.ThinkingDelta(self._count, begun.text))
            if begun.signature:
                found.append(blocks.SignatureDelta(self._count, begun.signature))
        elif isinstance(begun, blocks.Text):
            text = begun.text if start.get("type") == "text" else ""
            found.append(blocks.Opened(self._count, blocks.Text()))
            if text:
                self._length = len(text)
                found.append(blocks.TextDelta(self._count, text))
        else:
            found.append(blocks.Opened(self._count, begun))

    def _add(self, value: dict[str, Any], found: list[blocks.Event]) -> None:
        delta = value["delta"]
        if value.get("index") != self._index or self._held is None:
            return
        signature, text = delta.get("signature"), delta.get(GROWN.get(str(delta.get("type")), ""))
        if isinstance(text, str):
            self._write(text, found)
        elif isinstance(self._open, blocks.Thinking) and isinstance(signature, str) and signature:
            found.append(blocks.SignatureDelta(self._count, signature))
        else:
            self._held.take(delta)

    def _close(self, found: list[blocks.Event]) -> None:
        begun, held = self._open, self._held
        if begun is None or held is None:
            return
        if isinstance(begun, blocks.Opaque):
            found.append(blocks.Opened(self._count, blocks.Opaque(dialect=DIALECT, value=held.block())))
        elif isinstance(begun, blocks.ToolCall) and not self._length:
            found.append(blocks.ArgumentsDelta(self._count, begun.arguments))  # `{}`, or all of them at the start
        elif isinstance(begun, blocks.Text):
            if held.kind != "text" and not self._length:
                found.append(blocks.TextDelta(self._count, begun.text))
            cited = anthropic_content.citations(held.citations, self._length) or []
            found += [blocks.CitationDelta(self._count, citation) for citation in cited]
        found.append(blocks.Closed(self._count))
        self._count += 1
        self._index, self._open, self._held = None, None, None

    def _finished(self, value: dict[str, Any], found: list[blocks.Event]) -> None:
        self._close(found)
        if isinstance(value.get("delta"), dict):
            self._finish = self._finish | {name: item for name, item in value["delta"].items() if item is not None}
        if isinstance(value.get("usage"), dict):
            self._meter.take(value["usage"])
            self._metered(found)

    def _metered(self, found: list[blocks.Event]) -> None:
        usage = self._meter.usage
        if usage is not None:
            found.append(blocks.Metered(usage, storable(self._meter.reported.get("service_tier"))))

    def _stop(self, found: list[blocks.Event]) -> None:
        self._close(found)
        if not self._finish and not self._count:
            self._fail(None, "The provider ended its stream without an answer.", found)
            return
        finish = _finish(self._finish, calls=self._calls) or blocks.Finish(reason="stop")
        found += [blocks.Finished(finish), blocks.Ended()]
        self._ended = True

    def _fail(self, value: object, otherwise: str, found: list[blocks.Event]) -> None:
        name = failure_type(value)
        found.append(blocks.Failed(failure(value) or otherwise, name, anthropic_answer.error_status(name)))
        self._ended = True
