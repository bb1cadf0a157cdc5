"""Pure: the middle form -> what a client that speaks Anthropic's messages dialect gets: answers and streams.

Responsible for the order of events (one block after the other, usage at the end), and for what Anthropic has no words
for: other vendors' reasoning is sealed into `signature`, a signature of a tool call into its id, an image is Markdown.
Neighbours: `anthropic_encode` (which names both), `anthropic_seal`, `anthropic_decode` (reads it all again when the
client sends it back).

Source: https://platform.claude.com/docs/en/build-with-claude/streaming (2026-11), and anthropic-python's accumulation.
"""

import re
from typing import Any, TypeGuard

import msgspec

from billing.usage import Usage
from gateway.dialects import anthropic_answer, anthropic_seal, blocks, wire

_encode = msgspec.json.Encoder().encode
_FOREIGN = re.compile(r"[^a-zA-Z0-9_-]")

_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "error": "end_turn",
}
_NO_USAGE = Usage()


# --- Whole answers --------------------------------------------------------------------------------------------------


def answer(answer: blocks.Answer, asked: wire.Asked, context: wire.Context) -> bytes:
    """Return a whole answer as a message."""
    content = [
        entry for index, block in enumerate(answer.blocks) if (entry := _entry(block, index, context)) is not None
    ]
    message = _message(answer.model or asked.model, context)
    calls = any(isinstance(block, blocks.ToolCall) for block in answer.blocks)
    usage = answer.usage or _NO_USAGE
    message |= {"content": content, **_stop(answer.finish, calls=calls), "usage": _usage(usage, answer.service_tier)}
    if answer.error is not None:
        message["error"] = {"type": "api_error", "message": answer.error}
    return _encode(message)


def _message(model: str, context: wire.Context) -> dict[str, Any]:
    return {
        "id": f"msg_{context.call_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop(finish: blocks.Finish | None, *, calls: bool) -> dict[str, Any]:
    """Return why it ended. Some providers say `stop` of an answer that calls tools, or `tool_calls` of one without."""
    finish = finish or blocks.Finish(reason="stop")
    reason = _REASONS[finish.reason]
    if reason in ("end_turn", "tool_use"):
        reason = "tool_use" if calls else "end_turn"
    if finish.stop_sequence is not None and reason == "end_turn":
        reason = "stop_sequence"
    said: dict[str, Any] = {
        "stop_reason": reason,
        "stop_sequence": finish.stop_sequence if reason == "stop_sequence" else None,
    }
    if reason == "refusal":
        said["stop_details"] = {"type": "refusal", "category": None, "explanation": finish.message}
    return said


def _usage(usage: Usage, tier: str | None) -> dict[str, Any]:
    """Return the usage: here `input_tokens` leave out what was read from and written to a cache."""
    read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    hour = min(usage.cache_creation_1h_input_tokens, written)
    said: dict[str, Any] = {
        "input_tokens": max(usage.input_tokens - read - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written - hour, "ephemeral_1h_input_tokens": hour},
        "output_tokens": usage.output_tokens,
        "service_tier": "priority" if tier == "priority" else "standard",
    }
    if usage.reasoning_output_tokens:
        said["output_tokens_details"] = {"thinking_tokens": usage.reasoning_output_tokens}
    return said


def _entry(block: blocks.Block, index: int, context: wire.Context) -> dict[str, Any] | None:
    """Return a block of content; None for what has no place in an answer here."""
    if isinstance(block, blocks.Text | blocks.Refusal):
        if not block.text:
            return None  # sent back, it would be refused
        cited = (
            [_citation(item, block.text) for item in block.citations or ()] if isinstance(block, blocks.Text) else []
        )
        return {"type": "text", "text": block.text, **({"citations": cited} if cited else {})}
    if _is_redacted(block):
        return {"type": "redacted_thinking", "data": block.data}
    if isinstance(block, blocks.Thinking | blocks.Redacted):
        if isinstance(block, blocks.Thinking) and not block.text and not block.signature:
            return None
        return {"type": "thinking", "thinking": block.text, "signature": anthropic_seal.signature_of(block)}
    if isinstance(block, blocks.ToolCall):
        given = {"input": block.arguments} if block.custom else anthropic_answer.arguments(block.arguments)
        return {"type": "tool_use", "id": _id(block, index, context), "name": block.name, "input": given}
    if isinstance(block, blocks.Image):
        return {"type": "text", "text": _markdown(block)}
    return None


def _is_redacted(block: blocks.Block) -> TypeGuard[blocks.Redacted]:
    """Tell whether this is encrypted reasoning of Anthropic's own, from somebody else's machines."""
    return isinstance(block, blocks.Redacted) and block.dialect == anthropic_seal.OWNER


def _id(block: blocks.ToolCall, index: int, context: wire.Context) -> str:
    """Return a tool call's id, in Anthropic's alphabet and with the signature it has to keep."""
    id = _FOREIGN.sub("_", block.id) or f"toolu_{context.call_id}_{index}"
    return anthropic_seal.signed_id(id, block.signature, block.dialect)


def _markdown(block: blocks.Image) -> str:
    url = block.url or f"data:{block.media_type or 'image/png'};base64,{block.data or ''}"
    return f"![image]({url})"


def _citation(item: dict[str, Any], text: str) -> dict[str, Any]:
    inner = item.get("url_citation")
    found = inner if isinstance(inner, dict) else item
    start, end = found.get("start_index"), found.get("end_index")
    is_place = type(start) is int and type(end) is int and 0 <= start <= end
    return {
        "type": "web_search_result_location",
        "url": str(found.get("url") or ""),
        "title": found.get("title") if isinstance(found.get("title"), str) else None,
        "cited_text": text[start:end] if is_place else "",
        "encrypted_index": "",
    }


# --- Streams --------------------------------------------------------------------------------------------------------


class StreamWriter:
    """Writes a client's stream. A block is opened with its first content, so that none is empty; tool calls at once.

    The length of the input is often known only at the end: then `message_start` says 0 and `message_delta` all of it.
    """

    __slots__ = ("_asked", "_calls", "_context", "_custom", "_finish", "_index", "_is_over", "_open",
                 "_signature", "_started", "_tier", "_usage", "_wrote")  # fmt: skip

    def __init__(self, asked: wire.Asked, context: wire.Context) -> None:
        self._asked = asked
        self._context = context
        self._started = False
        self._is_over = False
        self._calls = False
        self._usage = _NO_USAGE
        self._tier: str | None = None
        self._finish: blocks.Finish | None = None
        self._index = 0  # of the client's blocks: some of the provider's have no place here
        # The open block; whether the client knows it is; whether anything was written into it.
        self._open: blocks.Block | None = None
        self._wrote = False
        self._custom = False
        self._signature = ""

    def write(self, event: blocks.Event) -> bytes:
        """Return the client's bytes for an event, often none."""
        if self._is_over:
            return b""
        kind = type(event)
        if kind is blocks.TextDelta or kind is blocks.ThinkingDelta or kind is blocks.ArgumentsDelta:
            return self._write(event.text)  # type: ignore[union-attr]
        if isinstance(event, blocks.Started):
            return self._start(event)
        if self._started or isinstance(event, blocks.Failed):
            return self._take(event)
        return self._start(blocks.Started()) + self._take(event)

    def _take(self, event: blocks.Event) -> bytes:
        if isinstance(event, blocks.Opened):
            return self._begin(event.block)
        if isinstance(event, blocks.Closed):
            return self._close()
        if isinstance(event, blocks.SignatureDelta):
            self._signature += event.signature
        elif isinstance(event, blocks.CitationDelta):
            return self._cite(event.citation)
        elif isinstance(event, blocks.Metered):
            self._usage, self._tier = event.usage, event.service_tier or self._tier
        elif isinstance(event, blocks.Finished):
            self._finish = event.finish
        elif isinstance(event, blocks.Ended):
            return self._end()
        elif isinstance(event, blocks.Failed):
            self._is_over = True
            return _failed(event)
        return b""

    def _start(self, event: blocks.Started) -> bytes:
        if self._started:
            return b""
        self._started = True
        message = _message(event.model or self._asked.model, self._context)
        usage = _usage(event.usage or _NO_USAGE, None)
        started = _event("message_start", {"message": message | {"usage": usage | {"output_tokens": 0}}})
        return started + _event("ping", {})  # as Anthropic does

    # --- blocks ----------------------------------------------------------------------------------------------------

    def _begin(self, block: blocks.Block) -> bytes:
        self._open, self._wrote, self._signature = block, False, ""
        if isinstance(block, blocks.ToolCall):
            self._calls, self._custom = True, block.custom
            id = _id(block, self._index, self._context)
            start = self._opened({"type": "tool_use", "id": id, "name": block.name, "input": {}})
            custom = self._delta({"type": "input_json_delta", "partial_json": '{"input":"'}) if block.custom else b""
            return start + custom + self._write(block.arguments)
        if isinstance(block, blocks.Image):
            return self._write_text(_markdown(block))
        if _is_redacted(block):
            self._wrote = True
            return self._opened({"type": "redacted_thinking", "data": block.data})
        if isinstance(block, blocks.Thinking):
            self._signature = block.signature or ""
        if isinstance(block, blocks.Text | blocks.Refusal | blocks.Thinking | blocks.Redacted) and block.text:
            return self._write(block.text)
        return b""

    def _write(self, text: str) -> bytes:
        block = self._open
        if not text or block is None:
            return b""
        if isinstance(block, blocks.Text | blocks.Refusal):
            return self._write_text(text)
        if isinstance(block, blocks.Thinking | blocks.Redacted):
            return self._think() + self._delta({"type": "thinking_delta", "thinking": text})
        if isinstance(block, blocks.ToolCall):
            self._wrote = True
            piece = _encode(text)[1:-1].decode() if self._custom else text
            return self._delta({"type": "input_json_delta", "partial_json": piece})
        return b""

    def _write_text(self, text: str) -> bytes:
        begun = b""
        if not self._wrote:
            self._wrote = True
            begun = self._opened({"type": "text", "text": ""})
        return begun + self._delta({"type": "text_delta", "text": text})

    def _think(self) -> bytes:
        if self._wrote:
            return b""
        self._wrote = True
        return self._opened({"type": "thinking", "thinking": "", "signature": ""})

    def _cite(self, citation: dict[str, Any]) -> bytes:
        is_text = self._wrote and isinstance(self._open, blocks.Text)
        return self._delta({"type": "citations_delta", "citation": _citation(citation, "")}) if is_text else b""

    def _close(self) -> bytes:
        block, self._open = self._open, None
        last = b""
        if isinstance(block, blocks.Thinking | blocks.Redacted) and not _is_redacted(block):
            last = self._signed(block)
        elif isinstance(block, blocks.ToolCall):
            closing = '"}' if self._custom else "" if self._wrote else "{}"
            last = self._delta({"type": "input_json_delta", "partial_json": closing}) if closing else b""
            self._wrote = True
        if not self._wrote:
            return b""  # nothing the client has seen
        last += _event("content_block_stop", {"index": self._index})
        self._index += 1
        return last

    def _signed(self, block: blocks.Thinking | blocks.Redacted) -> bytes:
        """Return the end of reasoning: its signature, in one piece, because clients take the last one for all of it."""
        if isinstance(block, blocks.Thinking):
            if not self._wrote and not self._signature:
                return b""
            block = blocks.Thinking(signature=self._signature or None, dialect=block.dialect)
        signature = anthropic_seal.signature_of(block)
        return self._think() + self._delta({"type": "signature_delta", "signature": signature})

    def _opened(self, block: dict[str, Any]) -> bytes:
        return _event("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    # --- the end ---------------------------------------------------------------------------------------------------

    def _end(self) -> bytes:
        self._is_over = True
        stop = _stop(self._finish, calls=self._calls)
        usage = _usage(self._usage, self._tier)
        usage.pop("service_tier")
        return _event("message_delta", {"delta": stop, "usage": usage}) + _event("message_stop", {})


def _failed(event: blocks.Failed) -> bytes:
    kind = anthropic_answer.error_type(event.status) if event.status else "api_error"
    return _event("error", {"error": {"type": kind, "message": event.message}})


def _event(kind: str, members: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encode({"type": kind, **members}))
