"""Pure: what Cohere's chat API (version 2) answers, whole or as a stream, as the middle form.

Responsible for its plan before tool calls (text here, see `cohere_encode.py`), for citations that come behind the text
they belong to, and for the two ways Cohere counts tokens. Never sees a request. Neighbours: `cohere_encode.py`,
`gateway.framing`, `blocks.py`.

Usage is what Cohere bills (`billed_units`): its `tokens` count its own preambles too, which nobody pays for. That is
also what OpenTelemetry's GenAI conventions ask for, where a provider reports both.

Source: https://docs.cohere.com/v2/reference/chat-stream (2026-11), the types of Cohere's SDK 7.3, and recorded traffic.
"""

from collections.abc import Callable, Iterator
from typing import Any

from billing.usage import Usage
from gateway.dialects import blocks, openai_logprobs
from gateway.dialects.openai_answer import MAX_TOKENS, lenient, storable
from gateway.dialects.wire import InvalidStream
from gateway.dialects.wire import a_dict as _dict
from gateway.dialects.wire import dicts as _dicts
from gateway.framing import SSE, Event, FramingError

DIALECT = "cohere"

_REASONS: dict[str, blocks.Reason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "TOOL_CALL": "tool_calls",
    "MAX_TOKENS": "length",
    "ERROR_LIMIT": "length",
    "ERROR_TOXIC": "content_filter",
    "ERROR": "error",
    "TIMEOUT": "error",
}
# Arguments of a call without any: Cohere's models write this for "no arguments".
_NULL = "null"


def error_message(body: bytes) -> str | None:
    """Return the message of an error's body; None when there is none."""
    value = _dict(lenient(body))
    message = value.get("message")
    if not isinstance(message, str) or not message:
        message = value.get("error")  # a gateway before the API
    return message[:2_000] if isinstance(message, str) and message else None


# --- Whole answers --------------------------------------------------------------------------------------------------


def answer(body: bytes) -> blocks.Answer:
    """Read a whole answer. Never raises: what is no answer has an `error`."""
    value = lenient(body)
    if not isinstance(value, dict):
        return blocks.Answer(error="The provider's answer is not JSON.")
    message = value.get("message")
    if not isinstance(message, dict):
        return blocks.Answer(error=error_message(body) or "The provider's answer has no message.")
    given = _content(message)
    given += [_call(call) for call in _dicts(message.get("tool_calls"))]
    finish = _finish(value, called=any(isinstance(block, blocks.ToolCall) for block in given))
    return blocks.Answer(
        id=storable(value.get("id")),
        blocks=given,
        finish=finish,
        usage=_usage(value.get("usage")),
        logprobs=_logprobs(value.get("logprobs")),
        error=finish.message if finish.reason == "error" else None,
    )


def _content(message: dict[str, Any]) -> list[blocks.Block]:
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    given: list[blocks.Block] = []
    cited = _dicts(message.get("citations"))
    for index, part in enumerate(_dicts(content)):
        if isinstance(part.get("thinking"), str) and part["thinking"]:
            given.append(blocks.Thinking(text=part["thinking"], dialect=DIALECT))
        elif isinstance(part.get("text"), str) and part["text"]:
            given.append(blocks.Text(part["text"], citations=_of_block(cited, index, content) or None))
    plan = message.get("tool_plan")
    if isinstance(plan, str) and plan:
        given.append(blocks.Text(plan))
    return given


def _of_block(cited: list[dict[str, Any]], index: int, content: object) -> list[dict[str, Any]]:
    """Return the citations of one block of text; without an index they are those of the first."""
    first = next((at for at, part in enumerate(_dicts(content)) if isinstance(part.get("text"), str)), index)
    mine = (citation for citation in cited if citation.get("content_index", first) == index)
    return [made for citation in mine if (made := _citation(citation))]


def _citation(cited: dict[str, Any]) -> dict[str, Any] | None:
    """Return a citation of the answer's text; None for those of plans and thoughts, and for what is none."""
    start, end = cited.get("start"), cited.get("end")
    if cited.get("type", "TEXT_CONTENT") != "TEXT_CONTENT" or type(start) is not int or type(end) is not int:
        return None
    sources = _dicts(cited.get("sources"))
    source = sources[0] if sources else {}
    told = _dict(source.get("document") or source.get("tool_output"))
    name = next((text for text in (told.get("title"), source.get("id")) if isinstance(text, str) and text), "")
    url = told.get("url")
    return {"start_index": start, "end_index": end, "title": name, "url": url if isinstance(url, str) else ""}


def _call(call: dict[str, Any]) -> blocks.ToolCall:
    function = _dict(call.get("function"))
    arguments = _text(function.get("arguments")).strip()
    if arguments == _NULL:
        arguments = ""
    return blocks.ToolCall(id=_text(call.get("id")), name=_text(function.get("name")), arguments=arguments or "{}")


# --- What whole answers and streams share ---------------------------------------------------------------------------


def _finish(value: dict[str, Any], *, called: bool) -> blocks.Finish:
    native = storable(value.get("finish_reason"))
    reason = _REASONS.get(native or "", "stop")
    if reason == "stop" and called:
        reason = "tool_calls"
    message = None
    if reason == "error":
        message = storable(value.get("error")) or f"The provider could not finish its answer ({native})."
    return blocks.Finish(reason=reason, native=native, message=message)


def _logprobs(value: object) -> list[blocks.Logprob]:
    """Return how likely the pieces of the text were: those of a piece's tokens are told, the tokens themselves not."""
    found = []
    for piece in _each(value):
        told = piece.get("logprobs")
        numbers = [openai_logprobs.number(each) for each in told] if isinstance(told, list) else []
        known = [number for number in numbers if number is not None]
        if isinstance(piece.get("text"), str) and known:
            found.append(blocks.Logprob(piece["text"], sum(known)))
    return found


def _usage(value: object) -> Usage | None:
    """Return the billed tokens; without them those that were read and written."""
    reported = _dict(value)
    counted = _dict(reported.get("tokens"))
    total, fresh = (
        _tokens(counted.get("input_tokens")),
        _tokens(_dict(reported.get("billed_units")).get("input_tokens")),
    )
    written = _tokens(_dict(reported.get("billed_units")).get("output_tokens"))
    cached = _tokens(reported.get("cached_tokens")) or 0
    if fresh is None and written is None:
        fresh, written = total, _tokens(counted.get("output_tokens"))
    if fresh is None and written is None:
        return None
    # What is not billed stands before all else in the prompt, so the cache had that first.
    unbilled = max((total or 0) - (fresh or 0), 0)
    return Usage(
        input_tokens=fresh or 0,
        output_tokens=written or 0,
        cache_read_input_tokens=min(max(cached - unbilled, 0), fresh or 0),
    )


def _tokens(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# --- Streams --------------------------------------------------------------------------------------------------------


class StreamDecoder:
    """Reads the events of a stream. A text stays open after its `content-end`: its citations come behind it."""

    __slots__ = ("_called", "_held", "_index", "_kind", "_over", "_source", "_sse")

    def __init__(self) -> None:
        self._sse = SSE()
        self._index = -1
        self._kind: type[blocks.Block] | None = None  # of the open block
        self._source: object = None  # Cohere's index of the open block, None for a plan
        # The arguments of the open call while they may still become `null`; None when they are something else.
        self._held: str | None = None
        self._called = False
        self._over = False

    def feed(self, block: bytes) -> list[blocks.Event]:
        """Take a block of bytes, return the events that are complete now. Raises: InvalidStream."""
        try:
            events = self._sse.feed(block)
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        return [event for each in events for event in self._take(each)]

    def end(self) -> list[blocks.Event]:
        """Return what an event without its blank line still says. Raises: InvalidStream."""
        try:
            events = self._sse.end()
        except FramingError as error:
            raise InvalidStream(str(error)) from error
        return [event for each in events for event in self._take(each)]

    def _take(self, event: Event) -> Iterator[blocks.Event]:
        if self._over or not event.data or event.data.startswith(b"[DONE]"):
            return
        value = lenient(event.data)
        if not isinstance(value, dict):
            return
        handler = _HANDLERS.get(_text(value.get("type")) or (event.event or b"").decode("ascii", "replace"))
        if handler is not None:
            yield from handler(self, value)
        elif "message" in value and "type" not in value:  # an error instead of an event
            self._over = True
            yield blocks.Failed(_text(value["message"])[:2_000] or "The provider reported an error.")

    def _message_start(self, value: dict[str, Any]) -> Iterator[blocks.Event]:
        yield blocks.Started(id=storable(value.get("id")))

    def _content_start(self, value: dict[str, Any]) -> Iterator[blocks.Event]:
        part = _dict(_message(value).get("content"))
        is_thought = part.get("type") == "thinking" or "thinking" in part
        yield from self._open(blocks.Thinking(dialect=DIALECT) if is_thought else blocks.Text(), value.get("index"))
        yield from self._content_delta(value)

    def _content_delta(self, value: dict[str, Any]) -> Iterator[blocks.Event]:
        part = _dict(_message(value).get("content"))
        thought, text = _text(part.get("thinking")), _text(part.get("text"))
        if thought:
            yield from self._ensure(blocks.Thinking(dialect=DIALECT), value.get("index"))
            yield blocks.ThinkingDelta(self._index, thought)
        if text:
            yield from self._ensure(blocks.Text(), value.get("index"))
            yield blocks.TextDelta(self._index, text)
        if logprobs := _logprobs(value.get("logprobs")):
            yield blocks.LogprobsDelta(logprobs)

    def _content_end(self, value: dict[str, Any]) -> Iterator[blocks.Event]:
        if self._kind is blocks.Thinking:
            yield from self._close()

    def _plan_delta(self, value: dict[str, Any]) -> Iterator[blocks.Event]:
        text = _text(_message(value).get("tool_plan"))
        if text:
            yield from self._ensure(blocks.Text(), None)
            yield blocks.TextDelta(self._index, text)

    def _call_start(self, value: dict[str, Any]) -> Iterator[blocks.Event]:
        call = _one(_message(value).get("tool_calls"))
        function = _dict(call.get("function"))
        self._called = True
        opened = blocks.ToolCall(id=_text(call.get("id")), name=_text(function.get("name")))
        yield from self._open(opened, value.get("index"))
        yield from self._write(_text(function.get("arguments")))

    def _call_delta(self, value: dict[str, Any]) -> Iterator[blocks.Event]:
        if self._kind is blocks.ToolCall:
            call = _one(_message(value).get("tool_calls"))
            yield from self._write(_text(_dict(call.get("function")).get("arguments")))

    def _call_end(self, value: dict[str, Any]) -> Iterator[blocks.Event]:
        if self._kind is blocks.ToolCall:
            yield from self._close()

    def _citation_start(self, value: dict[str, Any]) -> Iterator[blocks.Event]:
        if self._kind is not blocks.Text:
            return
        for cited in _each(_message(value).get("citations")):
            made = _citation(cited)
            if made and cited.get("content_index", self._source) == self._source:
                yield blocks.CitationDelta(self._index, made)

    def _message_end(self, value: dict[str, Any]) -> Iterator[blocks.Event]:
        delta = _dict(value.get("delta"))
        yield from self._close()
        self._over = True
        finish = _finish(delta, called=self._called)
        usage = _usage(delta.get("usage"))
        if usage is not None:
            yield blocks.Metered(usage)
        if finish.reason == "error":
            yield blocks.Failed(finish.message or "", code=finish.native, status=504 if _is_late(finish) else 502)
            return
        yield blocks.Finished(finish)
        yield blocks.Ended()

    def _write(self, text: str) -> Iterator[blocks.Event]:
        """Write arguments; what may become `null` (for none) is held back until it is clear."""
        if self._held is not None:
            text = self._held + text
            self._held = text if _NULL.startswith(text.strip()) else None
        if text and self._held is None:
            yield blocks.ArgumentsDelta(self._index, text)

    def _open(self, block: blocks.Block, source: object) -> Iterator[blocks.Event]:
        yield from self._close()
        self._index += 1
        self._kind, self._source, self._held = type(block), source, ""
        yield blocks.Opened(self._index, block)

    def _ensure(self, block: blocks.Block, source: object) -> Iterator[blocks.Event]:
        if self._kind is not type(block) or self._source != source:
            yield from self._open(block, source)

    def _close(self) -> Iterator[blocks.Event]:
        if self._kind is None:
            return
        if self._kind is blocks.ToolCall and self._held is not None:
            yield blocks.ArgumentsDelta(self._index, "{}")
        self._kind = None
        yield blocks.Closed(self._index)


_HANDLERS: dict[str, Callable[[StreamDecoder, dict[str, Any]], Iterator[blocks.Event]]] = {
    "message-start": StreamDecoder._message_start,
    "content-start": StreamDecoder._content_start,
    "content-delta": StreamDecoder._content_delta,
    "content-end": StreamDecoder._content_end,
    "tool-plan-delta": StreamDecoder._plan_delta,
    "tool-call-start": StreamDecoder._call_start,
    "tool-call-delta": StreamDecoder._call_delta,
    "tool-call-end": StreamDecoder._call_end,
    "citation-start": StreamDecoder._citation_start,
    "message-end": StreamDecoder._message_end,
}


def _message(value: dict[str, Any]) -> dict[str, Any]:
    return _dict(_dict(value.get("delta")).get("message"))


def _one(value: object) -> dict[str, Any]:
    """Return the object where Cohere sends one, or the first where it sends a list."""
    return next(iter(_each(value)), {})


def _each(value: object) -> list[dict[str, Any]]:
    return [value] if isinstance(value, dict) else _dicts(value)


def _is_late(finish: blocks.Finish) -> bool:
    return finish.native == "TIMEOUT"
