"""Pure: blocks -> a chat completion, whole or as a stream, for clients of OpenAI's SDKs.

Reasoning goes out as `reasoning_content` and, where it is signed, as `thinking_blocks`; images as OpenRouter does; what
only another dialect understands (a server tool's blocks) stays inside. Each list of a delta has an `index`, because
OpenAI's own accumulator demands it. Never reads a provider. Neighbours: `openai_chat_encode.py` (the door),
`openai_chat_reasoning.py`. Source: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from collections.abc import Callable
from copy import copy
from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects import blocks, openai_chat, openai_logprobs, wire
from gateway.dialects import openai_chat_reasoning as reasoning
from gateway.dialects.blocks import Audio, Image, Redacted, Refusal, Text, Thinking, ToolCall
from gateway.dialects.openai_answer import lenient

_encode = msgspec.json.Encoder().encode
# What the SDKs' types allow.
_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})


def answer(answer: blocks.Answer, asked: wire.Asked, context: wire.Context) -> bytes:
    """Return a whole `chat.completion`."""
    client = _Client(asked)
    whole: dict[str, Any] = {
        "id": answer.id or f"chatcmpl-{context.call_id}",
        "object": "chat.completion",
        "created": answer.created or context.created,
        "model": answer.model or asked.model,
        "choices": [_choice(each, index, client) for index, each in enumerate((answer, *answer.others))],
    }
    if answer.usage is not None:
        whole["usage"] = usage_of(answer.usage)
    if answer.service_tier in _TIERS:
        whole["service_tier"] = answer.service_tier
    if answer.error is not None:
        whole["error"] = {"message": answer.error}
    return _encode(whole)


def _choice(answer: blocks.Answer, index: int, client: "_Client") -> dict[str, Any]:
    finish = answer.finish
    return {
        "index": index,
        "message": _Message(client, answer.blocks).value(finish),
        "logprobs": _weighed(answer.logprobs) if answer.logprobs else None,
        "finish_reason": client.reason(finish, called=_calls(answer)) if finish else None,
    }


def _weighed(logprobs: list[blocks.Logprob]) -> dict[str, Any]:
    return {"content": openai_logprobs.written(logprobs), "refusal": None}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return usage in OpenAI's words."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens,
            "cache_write_tokens": usage.cache_creation_input_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_output_tokens},
    }


def explains(finish: blocks.Finish) -> bool:
    """Tell whether a reason to finish says why nothing was answered: what OpenAI calls a refusal."""
    return finish.reason == "content_filter" and bool(finish.message)


def _calls(answer: blocks.Answer) -> bool:
    return any(isinstance(block, ToolCall) for block in answer.blocks)


class _Client:
    """What of a request decides how its answer is written: `functions`, and tools that take free text."""

    __slots__ = ("custom", "is_legacy")

    def __init__(self, asked: wire.Asked) -> None:
        members = asked.members
        self.is_legacy = "functions" in members and not asked.has_tools
        self.custom: frozenset[str] = frozenset()
        tools = bytes(members.get("tools", b""))
        if b'"custom"' in tools:
            self.custom = frozenset(_custom_names(msgspec.json.decode(tools)))

    def reason(self, finish: blocks.Finish, *, called: bool) -> str:
        """Return why an answer ended; without a call the client can see it did not end for one."""
        if finish.reason != "tool_calls":
            return finish.reason
        return "stop" if not called else "function_call" if self.is_legacy else "tool_calls"

    def takes_text(self, call: ToolCall) -> bool:
        """Tell whether a call's arguments are an object around the text that the client's tool takes."""
        return not call.custom and call.name in self.custom


def _custom_names(tools: object) -> list[str]:
    holders = [tool.get("custom") for tool in wire.dicts(tools) if tool.get("type") == "custom"]
    return [holder["name"] for holder in holders if isinstance(holder, dict) and isinstance(holder.get("name"), str)]


def _unwrapped(arguments: str) -> str:
    """Return the text in `{"input": text}`, which a custom tool becomes where there are only functions."""
    value = lenient(arguments.encode("utf-8", "replace"))
    if isinstance(value, dict) and len(value) == 1:
        inner = next(iter(value.values()))
        return inner if isinstance(inner, str) else arguments
    return arguments


def _citation(citation: dict[str, Any], offset: int) -> dict[str, Any]:
    """Return an annotation whose offsets count from the beginning of the content."""
    inner = citation.get("url_citation")
    inner = inner if isinstance(inner, dict) else {name: value for name, value in citation.items() if name != "type"}
    moved = {
        name: inner[name] + offset if isinstance(inner.get(name), int) else 0 for name in ("start_index", "end_index")
    }
    named = {name: inner[name] if isinstance(inner.get(name), str) else "" for name in ("url", "title")}
    return {"type": "url_citation", "url_citation": {**inner, **moved, **named}}


def _image(image: Image) -> dict[str, Any]:
    url = image.url or f"data:{image.media_type or 'image/png'};base64,{image.data or ''}"
    return {"type": "image_url", "image_url": {"url": url}}


def _call(call: ToolCall, arguments: str) -> dict[str, Any]:
    """Return a tool call with arguments; without any it is called with an empty object."""
    if call.custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": arguments}}
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function, **reasoning.signed(call)}


# --- Whole ----------------------------------------------------------------------------------------------------------


class _Message:
    """The message of a whole answer: blocks sorted into its members."""

    def __init__(self, client: _Client, found: list[blocks.Block]) -> None:
        self._client = client
        self._texts: list[str] = []
        self._length = 0
        self._refusals: list[str] = []
        self._thoughts: list[str] = []
        self._lists: dict[str, list[dict[str, Any]]] = {}
        self._audio: dict[str, Any] | None = None
        for block in found:
            self._take(block)

    def _take(self, block: blocks.Block) -> None:
        if isinstance(block, Text):
            for citation in block.citations or ():
                self._list("annotations", _citation(citation, self._length))
            self._texts.append(block.text)
            self._length += len(block.text)
        elif isinstance(block, ToolCall):
            self._list("tool_calls", self._called(block))
        elif isinstance(block, Thinking | Redacted):
            self._thoughts.append(block.text)
            if isinstance(block, Redacted) or reasoning.has_entry(block):
                self._list("thinking_blocks", reasoning.to_entry(block))
        elif isinstance(block, Refusal):
            self._refusals.append(block.text)
        elif isinstance(block, Image):
            self._list("images", _image(block))
        elif isinstance(block, Audio):
            self._audio = {"id": "audio_0", "data": block.data, "expires_at": 0, "transcript": ""}

    def _list(self, name: str, value: dict[str, Any]) -> None:
        self._lists.setdefault(name, []).append(value)

    def _called(self, call: ToolCall) -> dict[str, Any]:
        if self._client.takes_text(call):
            custom = {"name": call.name, "input": _unwrapped(call.arguments)}
            return {"id": call.id, "type": "custom", "custom": custom}
        return _call(call, call.arguments or ("" if call.custom else "{}"))

    def value(self, finish: blocks.Finish | None) -> dict[str, Any]:
        text = "".join(self._texts)
        calls = self._lists.get("tool_calls")
        told = finish.message if finish is not None and explains(finish) else None
        refusal = "".join(self._refusals) or told
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not (calls or refusal) else None,
            "refusal": refusal,
        }
        if thought := "".join(self._thoughts):
            message["reasoning_content"] = thought
        message |= self._lists
        if calls and self._client.is_legacy:
            message["function_call"] = message.pop("tool_calls")[0].get("function")
        if self._audio is not None:
            message["audio"] = self._audio
        return message


# --- Stream ---------------------------------------------------------------------------------------------------------


class StreamWriter:
    """Writes a stream of chunks: role, deltas, one reason to finish, usage if it was asked for, `[DONE]`."""

    __slots__ = (
        *("_after", "_asked", "_before", "_block", "_client", "_content_before", "_context", "_counts", "_has_written"),
        *("_head", "_is_over", "_length", "_pieces", "_prefix", "_suffix", "_tier", "_usage"),
    )

    def __init__(self, asked: wire.Asked, context: wire.Context) -> None:
        self._asked = asked
        self._context = context
        self._client = _Client(asked)
        self._head = b""  # what each chunk begins with
        self._before = b""  # all of a chunk up to its delta, and what comes after it
        self._after = b""
        self._prefix = b""  # the same of a chunk that writes text
        self._suffix = b""
        self._block: blocks.Block | None = None  # that is open
        self._has_written = False  # something of its text
        self._pieces: list[str] = []  # its arguments, where they are written when it is closed
        self._counts: dict[str, int] = {}  # next index of each list
        self._length = 0  # characters of content, and those before the open block
        self._content_before = 0
        self._usage: Usage | None = None
        self._tier: str | None = None
        self._is_over = False

    def write(self, event: blocks.Event) -> bytes:
        """Return the client's bytes for an event, often none."""
        kind = type(event)
        if self._is_over:
            return b""
        if kind is blocks.TextDelta and type(self._block) is Text:
            text: str = event.text  # type: ignore[union-attr]
            self._length += len(text)
            return b"%b%b%b" % (self._prefix, _encode(text), self._suffix) if text else b""
        if kind is blocks.Started or kind is blocks.Failed or self._before:
            return _WRITE[kind](self, event)
        return self._started(blocks.Started()) + _WRITE[kind](self, event)

    def _started(self, event: blocks.Started) -> bytes:
        if self._before:
            return b""
        head = {
            "id": event.id or f"chatcmpl-{self._context.call_id}",
            "object": "chat.completion.chunk",
            "created": event.created or self._context.created,
            "model": event.model or self._asked.model,
        }
        self._head = b"data: " + _encode(head)[:-1]
        self._before = self._head + b',"choices":[{"index":0,"delta":'
        self._after = b"}]" + (b',"usage":null' if self._asked.include_usage else b"") + b"}\n\n"
        self._prefix = self._before + b'{"content":'
        self._suffix = b'},"finish_reason":null' + self._after
        return self._chunk({"role": "assistant", "content": ""})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        return b'%b%b,"finish_reason":%b%b' % (self._before, _encode(delta), _encode(reason), self._after)

    def _next(self, name: str) -> int:
        """Return the index of a new entry of a list."""
        index = self._counts.get(name, 0)
        self._counts[name] = index + 1
        return index

    def _last(self, name: str) -> int:
        return self._counts.get(name, 1) - 1

    # --- Blocks

    def _opened(self, event: blocks.Opened) -> bytes:
        block = self._block = copy(event.block)
        self._has_written = False
        if isinstance(block, ToolCall):
            return self._call_opened(block)
        if isinstance(block, Text | Refusal):
            self._content_before = self._length
            return self._text(blocks.TextDelta(event.index, block.text))
        if isinstance(block, Thinking):
            return self._thinking_opened(block)
        if isinstance(block, Image):
            return self._chunk({"images": [{"index": self._next("images"), **_image(block)}]})
        if isinstance(block, Audio):
            return self._chunk({"audio": {"id": "audio_0", "data": block.data}})
        return b""

    def _text(self, event: blocks.TextDelta) -> bytes:
        """Write text other than the usual: a refusal, or what a block held when it was opened."""
        if not event.text:
            return b""
        if isinstance(self._block, Refusal):
            return self._chunk({"refusal": event.text})
        if not isinstance(self._block, Text):
            return self._thought(event)
        self._length += len(event.text)
        return self._chunk({"content": event.text})

    def _cited(self, event: blocks.CitationDelta) -> bytes:
        annotation = {"index": self._next("annotations"), **_citation(event.citation, self._content_before)}
        return self._chunk({"annotations": [annotation]})

    def _closed(self, event: blocks.Closed) -> bytes:
        block, self._block = self._block, None
        if isinstance(block, ToolCall):
            return self._call_closed(block)
        if isinstance(block, Redacted):
            entry = {"index": self._next("thinking_blocks"), **reasoning.to_entry(block)}
            told = {"reasoning_content": block.text} if block.text and not self._has_written else {}
            return self._chunk({**told, "thinking_blocks": [entry]})
        return b""

    # --- Reasoning

    def _thinking_opened(self, block: Thinking) -> bytes:
        if not reasoning.has_entry(block):
            return self._chunk({"reasoning_content": block.text}) if block.text else b""
        entry = {"index": self._next("thinking_blocks"), **reasoning.to_entry(block)}
        told = {"reasoning_content": block.text} if block.text else {}
        return self._chunk({**told, "thinking_blocks": [entry]})

    def _thought(self, event: blocks.TextDelta | blocks.ThinkingDelta) -> bytes:
        block = self._block
        if not event.text:
            return b""
        told: dict[str, Any] = {"reasoning_content": event.text}
        if isinstance(block, Thinking) and reasoning.has_entry(block):
            entry = {"index": self._last("thinking_blocks"), "type": "thinking", "thinking": event.text}
            told["thinking_blocks"] = [entry]
        elif isinstance(block, Redacted):
            block.text += event.text
            self._has_written = True
        return self._chunk(told)

    def _signed(self, event: blocks.SignatureDelta) -> bytes:
        block = self._block
        if not isinstance(block, Thinking):
            return b""
        if reasoning.has_entry(block):
            piece = {"type": "thinking", "thinking": "", "signature": event.signature}
            return self._chunk({"thinking_blocks": [{"index": self._last("thinking_blocks"), **piece}]})
        block.signature, block.text = event.signature, ""
        entry = {"index": self._next("thinking_blocks"), **reasoning.to_entry(block)}
        return self._chunk({"thinking_blocks": [entry]})

    # --- Tool calls

    def _call_opened(self, call: ToolCall) -> bytes:
        index = self._next("tool_calls")
        self._has_written = bool(call.arguments)
        if self._client.takes_text(call):
            self._pieces = [call.arguments]
            return self._chunk({"tool_calls": [{"index": index, **_call(_as_custom(call), "")}]})
        if not self._client.is_legacy:
            return self._chunk({"tool_calls": [{"index": index, **_call(call, call.arguments)}]})
        # Who sends `functions` can take one call only.
        return self._chunk({"function_call": {"name": call.name, "arguments": call.arguments}}) if not index else b""

    def _arguments(self, event: blocks.ArgumentsDelta) -> bytes:
        call = self._block
        if not isinstance(call, ToolCall) or not event.text:
            return b""
        self._has_written = True
        if self._client.takes_text(call):
            self._pieces.append(event.text)
            return b""
        return self._argued(call, event.text)

    def _argued(self, call: ToolCall, text: str) -> bytes:
        index = self._last("tool_calls")
        if self._client.is_legacy:
            return self._chunk({"function_call": {"arguments": text}}) if not index else b""
        inner = {"custom": {"input": text}} if call.custom else {"function": {"arguments": text}}
        return self._chunk({"tool_calls": [{"index": index, **inner}]})

    def _call_closed(self, call: ToolCall) -> bytes:
        if self._client.takes_text(call):
            written, self._pieces = "".join(self._pieces), []
            return self._argued(_as_custom(call), _unwrapped(written))
        return b"" if self._has_written or call.custom else self._argued(call, "{}")

    # --- The end

    def _likely(self, event: blocks.LogprobsDelta) -> bytes:
        weighed = _encode(_weighed(event.logprobs))
        return b'%b{},"logprobs":%b,"finish_reason":null%b' % (self._before, weighed, self._after)

    def _metered(self, event: blocks.Metered) -> bytes:
        self._usage = event.usage
        self._tier = event.service_tier or self._tier
        return b""

    def _finished(self, event: blocks.Finished) -> bytes:
        finish = event.finish
        if finish.reason == "error":
            return self._failed(blocks.Failed(finish.message or "The provider could not finish its answer."))
        told = self._chunk({"refusal": finish.message}) if explains(finish) else b""
        return told + self._chunk({}, self._client.reason(finish, called="tool_calls" in self._counts))

    def _ended(self, event: blocks.Ended) -> bytes:
        self._is_over = True
        if not self._asked.include_usage or self._usage is None:
            return openai_chat.DONE
        tier = b',"service_tier":' + _encode(self._tier) if self._tier in _TIERS else b""
        usage = b',"choices":[],"usage":' + _encode(usage_of(self._usage))
        return self._head + usage + tier + b"}\n\n" + openai_chat.DONE

    def _failed(self, event: blocks.Failed) -> bytes:
        self._is_over = True
        code, status = event.code or "upstream_error", event.status or 502
        return openai_chat.stream_error(status=status, code=code, message=event.message)


def _as_custom(call: ToolCall) -> ToolCall:
    return ToolCall(id=call.id, name=call.name, custom=True)


_WRITE: dict[type, Callable[[StreamWriter, Any], bytes]] = {
    blocks.Started: StreamWriter._started,
    blocks.Opened: StreamWriter._opened,
    blocks.TextDelta: StreamWriter._text,
    blocks.ThinkingDelta: StreamWriter._thought,
    blocks.SignatureDelta: StreamWriter._signed,
    blocks.ArgumentsDelta: StreamWriter._arguments,
    blocks.CitationDelta: StreamWriter._cited,
    blocks.Closed: StreamWriter._closed,
    blocks.LogprobsDelta: StreamWriter._likely,
    blocks.Metered: StreamWriter._metered,
    blocks.Finished: StreamWriter._finished,
    blocks.Ended: StreamWriter._ended,
    blocks.Failed: StreamWriter._failed,
}
