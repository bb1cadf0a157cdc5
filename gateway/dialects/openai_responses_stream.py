"""Pure: a provider's stream of Responses events -> events of the middle form, however it was cut.

Responsible for one block at a time: items that a provider interleaves wait for the one that is open. Tolerant to
servers that leave events out: a text, arguments or a summary that only a `done` event (or only the terminal one) has is
taken from there. Neighbours: `gateway.framing`, `openai_responses_answer` (what events hold), `_decode`.
"""

from typing import Any

from gateway.dialects import openai_logprobs, wire
from gateway.dialects import openai_responses_answer as reading
from gateway.dialects.blocks import (
    ArgumentsDelta,
    CitationDelta,
    Closed,
    Ended,
    Event,
    Failed,
    Finish,
    Finished,
    Image,
    LogprobsDelta,
    Metered,
    Opaque,
    Opened,
    Reason,
    Redacted,
    Refusal,
    Started,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
)
from gateway.dialects.openai_answer import storable
from gateway.dialects.openai_responses_seal import OURS
from gateway.framing import SSE, FramingError

_SHOWN = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
_ARGUMENTS = frozenset({"response.function_call_arguments.delta", "response.custom_tool_call_input.delta"})
_ARGUMENTS_DONE = frozenset({"response.function_call_arguments.done", "response.custom_tool_call_input.done"})
_SAID = frozenset({"response.output_text.delta", "response.refusal.delta"})
_SAID_DONE = frozenset({"response.output_text.done", "response.refusal.done"})
_CALLS = frozenset({"function_call", "custom_tool_call"})
# What an error's code says of its status, where a stream has none.
_STATUSES = {"rate_limit_exceeded": 429, "insufficient_quota": 429, "server_error": 500, "server_is_overloaded": 503}


def citation(mark: object, text: str) -> dict[str, Any] | None:
    """Return an annotation as a citation of the middle form; None where it cites no address."""
    if not isinstance(mark, dict) or mark.get("type") != "url_citation" or not isinstance(mark.get("url"), str):
        return None
    start, end = mark.get("start_index"), mark.get("end_index")
    return {
        "start_index": start if isinstance(start, int) else 0,
        "end_index": end if isinstance(end, int) else len(text),
        "title": reading.text_of(mark.get("title")) or mark["url"],
        "url": mark["url"],
    }


def call_of(item: dict[str, Any], *, custom: bool, empty: bool = False) -> ToolCall:
    """Return a call as a block; `empty`: its arguments are still to come."""
    given = item.get("input" if custom else "arguments")
    if not isinstance(given, str):
        given = "" if given is None else _json(given)
    id = reading.text_of(item.get("call_id")) or reading.text_of(item.get("id"))
    name = reading.text_of(item.get("name"))
    return ToolCall(id=id, name=name, arguments="" if empty else given, custom=custom)


def _json(value: object) -> str:
    return reading.encoded(value).decode()


class StreamDecoder:
    """Reads a provider's stream."""

    def __init__(self) -> None:
        self._sse = SSE(wire.MAX_KEPT_BYTES)
        self._started = False
        self._over = False
        self._item: _Item | None = None  # the one that is open
        self._waiting: dict[int, list[reading.Event]] = {}  # events of the items that wait for it
        self._held = 0  # bytes that came while there were any
        self._seen: set[int] = set()  # items that are closed
        self._blocks = _Blocks()

    def feed(self, block: bytes) -> list[Event]:
        """Take a block of bytes, return the events that are complete now. Raises: wire.InvalidStream."""
        try:
            return self._read([event.data for event in self._sse.feed(block)])
        except FramingError as error:
            raise wire.InvalidStream(str(error)) from error

    def end(self) -> list[Event]:
        """Return what is left. Without a terminal event the answer has not ended. Raises: wire.InvalidStream."""
        try:
            return self._read([event.data for event in self._sse.end()])
        except FramingError as error:
            raise wire.InvalidStream(str(error)) from error

    def _read(self, lines: list[bytes]) -> list[Event]:
        for data in lines:
            if data and not self._over and (found := reading.event(data)) is not None:
                self._take(found)
                self._held += len(data) if self._waiting else 0
        if self._held > wire.MAX_KEPT_BYTES:
            raise wire.InvalidStream("The provider's stream mixes items that are too large to be put in order.")
        return self._blocks.taken()

    def _take(self, found: reading.Event) -> None:
        kind = found.type
        if kind == "error" or kind == "response.failed":
            self._fail(found)
        elif kind in reading.TERMINAL:
            self._finish(reading.response_of(found))
        elif found.response:
            self._start(reading.response_of(found))
        elif found.output_index is not None:
            self._start({})
            self._of_item(found, found.output_index)

    def _start(self, response: dict[str, Any]) -> None:
        if self._started:
            return
        self._started = True
        created = response.get("created_at")
        whole = int(created) if isinstance(created, int | float) else None
        self._blocks.say(Started(storable(response.get("id")), storable(response.get("model")), whole))

    def _of_item(self, found: reading.Event, index: int) -> None:
        """Let the open item take an event of its own; others wait, in the order in which they began."""
        if index in self._seen:
            return
        if self._item is None:
            self._item = _Item(index, self._blocks)
        if self._item.index != index:
            self._waiting.setdefault(index, []).append(found)
            return
        self._item.take(found)
        if found.type == "response.output_item.done":
            self._next()

    def _next(self) -> None:
        """Close the open item, and let the ones that waited have their turn."""
        if self._item is not None:
            self._item.close()
            self._seen.add(self._item.index)
            self._item = None
        while self._waiting and self._item is None:
            index = next(iter(self._waiting))
            for found in self._waiting.pop(index):
                self._of_item(found, index)

    def _fail(self, found: reading.Event) -> None:
        self._start({})
        message, code = reading.event_error(found)
        self._over = True
        self._blocks.say(Failed(message, code, _STATUSES.get(code or "")))

    def _finish(self, response: dict[str, Any]) -> None:
        self._start(response)
        while self._item is not None:
            self._next()
        if not self._seen:
            for index, item in enumerate(reading.items(response)):
                done = reading.Event(type="response.output_item.done", output_index=index, item=item)
                self._of_item(done, index)
        reason: Reason | None = reading.finish(response) or "stop"
        if reason == "stop" and self._blocks.called:
            reason = "tool_calls"  # a terminal event without the output it closes
        self._blocks.say(Finished(Finish(reason=reason or "stop", native=reading.native(response))))
        usage, tier = reading.usage(response.get("usage")), response.get("service_tier")
        if usage is not None:
            self._blocks.say(Metered(usage, tier if isinstance(tier, str) else None))
        self._over = True
        self._blocks.say(Ended())


class _Blocks:
    """The events so far, and the number of the open block."""

    __slots__ = ("_events", "_next", "called", "length", "open")

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._next = 0
        self.open: Any = None  # the block that is open
        self.length = 0  # how much was written into it
        self.called = False

    def taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def say(self, event: Event) -> None:
        self._events.append(event)

    def begin(self, block: Any) -> None:
        self.close()
        self.open, self.length = block, 0
        self.called = self.called or isinstance(block, ToolCall)
        self.say(Opened(self._next, block))

    def write(self, text: str) -> None:
        """Write text into the open block."""
        if not text:
            return
        self.length += len(text)
        if isinstance(self.open, ToolCall):
            self.say(ArgumentsDelta(self._next, text))
        elif isinstance(self.open, Thinking):
            self.say(ThinkingDelta(self._next, text))
        else:
            self.say(TextDelta(self._next, text))

    def weigh(self, listed: object) -> None:
        """Say how likely the tokens were that were written last, where that is told."""
        if logprobs := openai_logprobs.read(listed):
            self.say(LogprobsDelta(logprobs))

    def cite(self, found: dict[str, Any]) -> None:
        self.say(CitationDelta(self._next, found))

    def close(self) -> None:
        if self.open is not None:
            self.say(Closed(self._next))
            self.open = None
            self._next += 1


class _Item:
    """An item of the output on its way: what of it has become blocks."""

    __slots__ = ("_blocks", "_call", "_cited", "_held", "_part", "_shown", "_summary", "_written", "index")

    def __init__(self, index: int, blocks: _Blocks) -> None:
        self.index = index
        self._blocks = blocks
        self._call: dict[str, Any] | None = None  # a call that has not begun, because its name is not known yet
        self._held: list[str] = []  # its arguments so far
        self._written = False  # whether a call's arguments are
        self._part = -1  # the part of a message that is open, or was the last
        self._cited = 0  # citations of it
        self._summary = 0  # the part of a summary that was written last
        self._shown = False  # whether reasoning was written

    def take(self, found: reading.Event) -> None:
        kind = found.type
        if kind in _SAID:
            self._said(found, reading.text_of(found.delta), refusal=kind.startswith("response.refusal"))
        elif kind in _ARGUMENTS:
            self._argue(reading.text_of(found.delta))
        elif kind in _SHOWN:
            self._show(found.summary_index or found.content_index or 0, reading.text_of(found.delta))
        elif kind == "response.output_item.added" or kind == "response.output_item.done":
            if isinstance(found.item, dict):
                self._whole(found.item, done=kind.endswith("done"))
        else:
            self._rarer(found, kind)

    def close(self) -> None:
        self._begin_call({})
        self._blocks.close()

    def _rarer(self, found: reading.Event, kind: str) -> None:
        if kind in _SAID_DONE:
            refusal = kind.startswith("response.refusal")
            text = reading.text_of(found.refusal if refusal else found.text)
            if self._part != (found.content_index or 0) or not self._blocks.length:
                self._said(found, text, refusal=refusal)
        elif kind in _ARGUMENTS_DONE:
            self._arguments_done(found)
        elif kind == "response.output_text.annotation.added":
            self._annotated(found)
        elif kind == "response.content_part.added" and reading.part_type(found) in ("output_text", "refusal"):
            self._open_part(found.content_index or 0, refusal=reading.part_type(found) == "refusal")

    def _open_part(self, part: int, *, refusal: bool) -> None:
        if self._part != part or not isinstance(self._blocks.open, Text | Refusal):
            self._part, self._cited = part, 0
            self._blocks.begin(Refusal() if refusal else Text())

    def _said(self, found: reading.Event, text: str, *, refusal: bool) -> None:
        self._open_part(found.content_index or 0, refusal=refusal)
        self._blocks.write(text)
        if found.logprobs:
            self._blocks.weigh(found.logprobs)

    def _annotated(self, found: reading.Event) -> None:
        cited = citation(found.annotation, "")
        if cited is not None:
            self._open_part(found.content_index or 0, refusal=False)
            self._cited += 1
            self._blocks.cite(cited)

    def _show(self, part: int, text: str) -> None:
        if not isinstance(self._blocks.open, Thinking):
            self._blocks.begin(Thinking(dialect=OURS))
        elif part != self._summary and self._blocks.length:
            self._blocks.write("\n\n")
        self._summary, self._shown = part, True
        self._blocks.write(text)

    def _argue(self, text: str) -> None:
        self._begin_call({})
        if self._call is not None:
            self._held.append(text)
            return
        self._written = self._written or bool(text)
        self._blocks.write(text)

    def _arguments_done(self, found: reading.Event) -> None:
        """Take what only the `done` event has, as LM Studio sends it."""
        self._begin_call({"name": found.name})
        given = found.input if found.type.startswith("response.custom") else found.arguments
        if not self._written and not self._held and given:
            self._argue(given if isinstance(given, str) else _json(given))

    def _begin_call(self, more: dict[str, Any]) -> None:
        """Begin the call that was announced, as soon as its name is known."""
        if self._call is None:
            return
        self._call |= {name: value for name, value in more.items() if value}
        if not self._call.get("name"):
            return
        custom = self._call.get("type") == "custom_tool_call"
        self._blocks.begin(call_of(self._call, custom=custom, empty=True))
        self._call = None
        held, self._held = "".join(self._held), []
        self._argue(held)

    def _whole(self, item: dict[str, Any], *, done: bool) -> None:
        kind = item.get("type")
        if kind in _CALLS:
            self._called(item, done=done)
        elif done and kind == "message":
            self._message(item)
        elif done and kind == "reasoning":
            self._reasoned(item)
        elif done and kind == "image_generation_call" and isinstance(item.get("result"), str) and item["result"]:
            form = reading.text_of(item.get("output_format")) or "png"
            self._blocks.begin(Image(media_type=f"image/{form}", data=item["result"]))
        elif done:
            self._blocks.begin(Opaque(dialect=OURS, value=item))

    def _called(self, item: dict[str, Any], *, done: bool) -> None:
        if not isinstance(self._blocks.open, ToolCall) and self._call is None:
            self._call = {**item}
        self._begin_call(item)
        if done and not self._written:
            custom = item.get("type") == "custom_tool_call"
            self._held.clear()
            self._argue(call_of(item, custom=custom).arguments)

    def _message(self, item: dict[str, Any]) -> None:
        """Write the parts of a message that no event of their own has brought."""
        for index, part in enumerate(wire.dicts(item.get("content"))):
            if index < self._part:
                continue
            refusal = part.get("type") == "refusal"
            text = reading.text_of(part.get("refusal" if refusal else "text"))
            is_new = index > self._part or not self._blocks.length
            self._open_part(index, refusal=refusal)
            if is_new:
                self._blocks.write(text)
                self._blocks.weigh(part.get("logprobs"))
            marks = [said for mark in wire.dicts(part.get("annotations")) if (said := citation(mark, text))]
            for cited in marks[self._cited :] if isinstance(self._blocks.open, Text) else ():
                self._cited += 1
                self._blocks.cite(cited)

    def _reasoned(self, item: dict[str, Any]) -> None:
        text, encrypted = reading.reasoning_text(item), item.get("encrypted_content")
        if text and not self._shown:
            self._show(0, text)
        if isinstance(encrypted, str) and encrypted:
            id = reading.text_of(item.get("id")) or None
            self._blocks.begin(Redacted(data=encrypted, dialect=OURS, id=id))
