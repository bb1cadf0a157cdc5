"""Pure: answers of the middle form -> what clients of the Responses API get: a response object, or a stream of events.

Responsible for the whole sequence of events (openai-python's accumulator and Codex need every one), for ids that are
the same in all of them, and for reasoning of other vendors that comes back with the conversation (`_seal`). One
`StreamWriter` makes both forms, so that they cannot differ. Never has a clock: ids and times come from `wire.Context`.
Neighbours: `openai_responses_encode` (the provider's side), `openai_responses_tools` (calls as the client knows them).

Source: https://platform.openai.com/docs/api-reference/responses-streaming (2026-11), the types of openai-python 3.54.
"""

from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects import blocks, openai_logprobs, wire
from gateway.dialects import openai_responses_answer as reading
from gateway.dialects import openai_responses_seal as sealing
from gateway.dialects.openai_answer import lenient
from gateway.dialects.openai_responses import is_metadata
from gateway.dialects.openai_responses_tools import Shapes

_encode = msgspec.json.Encoder().encode

# What a response repeats of its request, as it came.
_ECHOED = (
    "instructions",
    "max_output_tokens",
    "parallel_tool_calls",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
    "user",
)
_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast", "ultrafast"})
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def answer(answer: blocks.Answer, asked: wire.Asked, context: wire.Context) -> bytes:
    """Return a whole answer as a response object."""
    writer = _Silent(asked, context)
    for event in blocks.events(answer):
        writer.write(event)
    return _encode(writer.response)


class StreamWriter:
    """Writes a client's stream, item by item. Consecutive texts are parts of one message."""

    def __init__(self, asked: wire.Asked, context: wire.Context) -> None:
        self.response: dict[str, Any] = {}  # as it is after the last event
        self._asked = asked
        self._context = context
        self._shapes = Shapes(asked)
        self._sequence = 0
        self._items: list[dict[str, Any]] = []  # done
        self._open: _Text | _Thought | _Call | None = None  # the block that is open
        self.logprobs: list[blocks.Logprob] = []  # of the text that is still to come
        self._message: list[dict[str, Any]] | None = None  # the parts of the message that is open
        self._finish: blocks.Finish | None = None
        self._usage: Usage | None = None
        self._tier: str | None = None
        self._kept = 0
        self._over = False

    def write(self, event: blocks.Event) -> bytes:
        """Return the client's bytes for an event, often none."""
        if self._over:
            return b""
        kind = type(event)
        if kind is blocks.TextDelta or kind is blocks.ThinkingDelta or kind is blocks.ArgumentsDelta:
            text: str = event.text  # type: ignore[union-attr]
            if self._open is None or not text:
                return b""
            self._kept += len(text)
            if self._kept > wire.MAX_KEPT_BYTES:
                return self._fail("The answer is too long to be kept until its end.", None, None)
            return self._open.more(text)
        written = [] if self.response else [self._begin(event)]
        if isinstance(event, blocks.Opened):
            written.append(self._opened(event.block))
        elif isinstance(event, blocks.Closed):
            written.append(self._closed())
        else:
            written.append(self._noted(event))
        return b"".join(written)

    def event(self, kind: str, /, **members: Any) -> bytes:
        """Return an event with the next number."""
        self._sequence += 1
        return reading.sse(kind, {"type": kind, "sequence_number": self._sequence - 1, **members})

    # --- The response -----------------------------------------------------------------------------------------------

    def _begin(self, event: blocks.Event) -> bytes:
        started = event if isinstance(event, blocks.Started) else blocks.Started()
        self._usage = started.usage
        self.response = reading.skeleton(
            id=f"resp_{self._context.call_id}",
            model=started.model or self._asked.model,
            created=started.created or self._context.created,
            status="in_progress",
        )
        members = self._asked.members
        for name in _ECHOED:
            if name in members and bytes(members[name]) != b"null":
                self.response[name] = members[name]
        metadata = lenient(bytes(members["metadata"])) if "metadata" in members else None
        if is_metadata(metadata):
            self.response["metadata"] = metadata
        return self.event("response.created", response=self.response) + self.event(
            "response.in_progress", response=self.response
        )

    def _noted(self, event: blocks.Event) -> bytes:
        if isinstance(event, blocks.SignatureDelta):
            if isinstance(self._open, _Thought):
                self._open.signature += event.signature
        elif isinstance(event, blocks.CitationDelta):
            return self._open.cite(event.citation) if isinstance(self._open, _Text) else b""
        elif isinstance(event, blocks.LogprobsDelta):
            self.logprobs += event.logprobs
            return self._open.weigh() if isinstance(self._open, _Text) else b""
        elif isinstance(event, blocks.Metered):
            self._usage, self._tier = event.usage, event.service_tier or self._tier
        elif isinstance(event, blocks.Finished):
            self._finish = event.finish
            return self._last_words()
        elif isinstance(event, blocks.Ended):
            return self._end()
        elif isinstance(event, blocks.Failed):
            return self._fail(event.message, event.code, event.status)
        return b""

    def _last_words(self) -> bytes:
        """Close what is open; where a provider says only why it does not answer, say that."""
        reason = self._finish
        written = self._closed()
        if reason is not None and reason.reason == "content_filter" and reason.message and not self._has_text():
            written += self._opened(blocks.Refusal(reason.message)) + self._closed()
        return written + self._close_message()

    def _has_text(self) -> bool:
        return self._message is not None or any(item["type"] == "message" for item in self._items)

    def _end(self) -> bytes:
        finish = self._finish or blocks.Finish(reason="stop")
        written = self._last_words()
        if finish.reason == "error":
            return written + self._fail(finish.message or "The provider could not finish its answer.", None, None)
        self._over = True
        reason = _INCOMPLETE.get(finish.reason)
        status = "incomplete" if reason else "completed"
        self._settle(status)
        if reason:
            self.response["incomplete_details"] = {"reason": reason}
        else:
            self.response["completed_at"] = max(self.response["created_at"], self._context.created)
        return written + self.event(f"response.{status}", response=self.response)

    def _fail(self, message: str, code: str | None, status: int | None) -> bytes:
        self._over = True
        self._settle("failed")
        self.response["error"] = {"code": reading.error_code(code, status), "message": message}
        return self._failure(message, code or "upstream_error", status)

    def _failure(self, message: str, code: str, status: int | None) -> bytes:
        return reading.failure(
            response=self.response, code=code, message=message, status=status, sequence=self._sequence
        )

    def _settle(self, status: str) -> None:
        self.response |= {"status": status, "output": self._items, "usage": _usage(self._usage)}
        if self._tier in _TIERS:
            self.response["service_tier"] = self._tier

    # --- Items ------------------------------------------------------------------------------------------------------

    @property
    def index(self) -> int:
        """The number of the item that is open."""
        return len(self._items)

    def id(self, prefix: str) -> str:
        """Return the id of the item that is open."""
        return f"{prefix}_{self._context.call_id}_{self.index}"

    def added(self, item: dict[str, Any]) -> bytes:
        return self.event("response.output_item.added", output_index=self.index, item=item)

    def done(self, item: dict[str, Any]) -> bytes:
        written = self.event("response.output_item.done", output_index=self.index, item=item)
        self._items.append(item)
        return written

    def _opened(self, block: blocks.Block) -> bytes:
        written = self._closed()
        if isinstance(block, blocks.Text | blocks.Refusal):
            if self._message is None:
                self._message = []
                written += self.added(self._message_item("in_progress", []))
            self._open = _Text(self, self._message, block)
            return written + self._open.begin()
        written += self._close_message()
        if isinstance(block, blocks.Thinking | blocks.Redacted):
            self._open = _Thought(self, block)
            return written + self._open.begin()
        if isinstance(block, blocks.ToolCall):
            return written + self._called(block)
        item = self._rare(block)
        return written + (self.added(item) + self.done(item) if item else b"")

    def _called(self, call: blocks.ToolCall) -> bytes:
        written = b""
        encrypted = sealing.seal(call)
        if encrypted is not None:
            item = {"type": "reasoning", "id": self.id("rs"), "summary": [], "encrypted_content": encrypted}
            written = self.added({**item, "encrypted_content": None}) + self.done(item)
        self._open = _Call(self, self._shapes, call)
        return written + self._open.begin()

    def _rare(self, block: blocks.Block) -> dict[str, Any] | None:
        """Return an item that comes whole; None for what this API has no item for."""
        if isinstance(block, blocks.Image) and block.data is not None:
            form = (block.media_type or "image/png").removeprefix("image/")
            made = {"type": "image_generation_call", "id": self.id("ig"), "status": "completed"}
            return {**made, "result": block.data, "output_format": form}
        if isinstance(block, blocks.Opaque) and block.dialect == sealing.OURS:
            return block.value
        return None

    def _closed(self) -> bytes:
        if self._open is None:
            return b""
        written = self._open.end()
        self._open = None
        return written

    def _message_item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"type": "message", "id": self.id("msg"), "status": status, "role": "assistant", "content": content}

    def _close_message(self) -> bytes:
        if self._message is None:
            return b""
        cut = self._finish is not None and self._finish.reason in _INCOMPLETE
        item = self._message_item("incomplete" if cut else "completed", self._message)
        self._message = None
        return self.done(item)


class _Silent(StreamWriter):
    """A writer of which only the response is wanted."""

    def event(self, kind: str, /, **members: Any) -> bytes:
        return b""

    def _failure(self, message: str, code: str, status: int | None) -> bytes:
        return b""


class _Text:
    """A text or a refusal: a part of the open message."""

    __slots__ = ("_annotations", "_content", "_first", "_logprobs", "_place", "_refuses", "_texts", "_writer")

    def __init__(
        self, writer: StreamWriter, content: list[dict[str, Any]], block: blocks.Text | blocks.Refusal
    ) -> None:
        self._writer = writer
        self._content = content
        self._first = block
        self._refuses = isinstance(block, blocks.Refusal)
        self._texts: list[str] = []
        self._annotations: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []
        self._place = {"item_id": writer.id("msg"), "output_index": writer.index, "content_index": len(content)}

    def begin(self) -> bytes:
        written = self._writer.event("response.content_part.added", **self._place, part=self._part(""))
        if self._first.text:
            written += self.more(self._first.text)
        if self._writer.logprobs:
            written += self.weigh()
        for citation in (self._first.citations or ()) if isinstance(self._first, blocks.Text) else ():
            written += self.cite(citation)
        return written

    def _part(self, text: str) -> dict[str, Any]:
        if self._refuses:
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": self._annotations, "logprobs": self._logprobs}

    def more(self, text: str) -> bytes:
        self._texts.append(text)
        if self._refuses:
            return self._writer.event("response.refusal.delta", **self._place, delta=text)
        return self._writer.event("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def weigh(self) -> bytes:
        """Say how likely the tokens were that were written last: a delta without text."""
        if self._refuses:
            return b""
        found, self._writer.logprobs = self._writer.logprobs, []
        listed = openai_logprobs.written(found, spelled=True)
        self._logprobs += listed
        return self._writer.event("response.output_text.delta", **self._place, delta="", logprobs=listed)

    def cite(self, citation: dict[str, Any]) -> bytes:
        if self._refuses:
            return b""
        number, annotation = len(self._annotations), {"type": "url_citation", **citation}
        self._annotations.append(annotation)
        return self._writer.event(
            "response.output_text.annotation.added", **self._place, annotation_index=number, annotation=annotation
        )

    def end(self) -> bytes:
        text = "".join(self._texts)
        part = self._part(text)
        self._content.append(part)
        if self._refuses:
            written = self._writer.event("response.refusal.done", **self._place, refusal=text)
        else:
            logprobs = self._logprobs
            written = self._writer.event("response.output_text.done", **self._place, text=text, logprobs=logprobs)
        return written + self._writer.event("response.content_part.done", **self._place, part=part)


class _Thought:
    """Reasoning: an item whose text is its summary, which clients show and send back."""

    __slots__ = ("_block", "_place", "_texts", "_writer", "signature")

    def __init__(self, writer: StreamWriter, block: blocks.Thinking | blocks.Redacted) -> None:
        self._writer = writer
        self._block = block
        self._texts: list[str] = []
        self.signature = (block.signature or "") if isinstance(block, blocks.Thinking) else ""
        self._place = {"item_id": writer.id("rs"), "output_index": writer.index, "summary_index": 0}

    def begin(self) -> bytes:
        item = {"type": "reasoning", "id": self._place["item_id"], "summary": [], "encrypted_content": None}
        written = self._writer.added(item)
        return written + self.more(self._block.text) if self._block.text else written

    def more(self, text: str) -> bytes:
        written = b""
        if not self._texts:
            part = {"type": "summary_text", "text": ""}
            written = self._writer.event("response.reasoning_summary_part.added", **self._place, part=part)
        self._texts.append(text)
        return written + self._writer.event("response.reasoning_summary_text.delta", **self._place, delta=text)

    def end(self) -> bytes:
        text, written = "".join(self._texts), b""
        summary = [{"type": "summary_text", "text": text}] if text else []
        if text:
            written = self._writer.event("response.reasoning_summary_text.done", **self._place, text=text)
            written += self._writer.event("response.reasoning_summary_part.done", **self._place, part=summary[0])
        block = self._block
        if isinstance(block, blocks.Thinking):
            block = blocks.Thinking(signature=self.signature or None, dialect=block.dialect)
        encrypted = sealing.seal(block)
        item = {"type": "reasoning", "id": self._place["item_id"], "summary": summary, "encrypted_content": encrypted}
        return written + self._writer.done(item)


class _Call:
    """A call of a tool. One whose shape has to be changed for the client comes in one piece."""

    __slots__ = ("_call", "_id", "_is_plain", "_place", "_shapes", "_texts", "_writer")

    def __init__(self, writer: StreamWriter, shapes: Shapes, call: blocks.ToolCall) -> None:
        self._writer = writer
        self._shapes = shapes
        self._call = call
        self._is_plain = shapes.is_plain(call)
        self._texts: list[str] = []
        self._id = writer.id("")[1:]
        self._place: dict[str, Any] = {}

    def begin(self) -> bytes:
        item = self._item("", "in_progress")
        self._place = {"item_id": item["id"], "output_index": self._writer.index}
        written = self._writer.added(item)
        return written + self.more(self._call.arguments) if self._call.arguments else written

    def _item(self, arguments: str, status: str) -> dict[str, Any]:
        call = msgspec.structs.replace(self._call, arguments=arguments)
        return self._shapes.item(call, self._id, status)

    def more(self, text: str) -> bytes:
        self._texts.append(text)
        if self._is_plain:
            return self._writer.event("response.function_call_arguments.delta", **self._place, delta=text)
        if self._call.custom:
            return self._writer.event("response.custom_tool_call_input.delta", **self._place, delta=text)
        return b""

    def end(self) -> bytes:
        arguments, written = "".join(self._texts), b""
        if self._is_plain and not arguments.strip():
            arguments = "{}"
            written = self._writer.event("response.function_call_arguments.delta", **self._place, delta=arguments)
        item = self._item(arguments, "completed")
        if item["type"] == "function_call":
            name = "response.function_call_arguments.done"
            written += self._writer.event(name, **self._place, name=item["name"], arguments=arguments)
        elif item["type"] == "custom_tool_call":
            given = item["input"]
            if not self._call.custom:
                written += self._writer.event("response.custom_tool_call_input.delta", **self._place, delta=given)
            written += self._writer.event("response.custom_tool_call_input.done", **self._place, input=given)
        return written + self._writer.done(item)


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    inputs: dict[str, Any] = {
        "cached_tokens": usage.cache_read_input_tokens,
        "cache_write_tokens": usage.cache_creation_input_tokens,
    }
    if hour := usage.cache_creation_1h_input_tokens:
        short = usage.cache_creation_input_tokens - hour
        inputs["cache_write_tokens_details"] = {"ttl_30m_tokens": short, "ttl_12h_tokens": hour}
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": inputs,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_output_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
