"""Pure: a conversation in blocks -> the messages of a chat completion request.

Keeps to what all servers of the dialect agree on: one system message first, each tool result a message of its own at
once behind the call, what else a turn holds behind the results, texts as strings wherever there is nothing else. Images
a tool returned follow as a user's. Neighbours: `openai_chat_encode.py`, `openai_chat_decode_messages.py` (the reverse).
"""

import base64
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.dialects import openai_chat_reasoning as reasoning
from gateway.dialects.blocks import (
    Audio,
    Block,
    Document,
    Image,
    Message,
    Opaque,
    Redacted,
    Refusal,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)

_BETWEEN = "\n\n"
_SEE_BELOW = "The result is attached to the next message."
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME = 64


class Names:
    """Names of tools as OpenAI allows them; `changed` maps those that are others now to the client's own."""

    def __init__(self) -> None:
        self.changed: dict[str, str] = {}
        self._sent: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the name to send: the same one each time, no two alike."""
        known = self._sent.get(name)
        if known is not None:
            return known
        fitting = _NOT_IN_A_NAME.sub("_", name)[:_MAX_NAME] or "_"
        number = 1
        taken = set(self._sent.values())
        while fitting in taken:
            number += 1
            fitting = f"{fitting[: _MAX_NAME - 5]}_{number}"
        self._sent[name] = fitting
        if fitting != name:
            self.changed[fitting] = name
        return fitting


def messages(request: Request, names: Names, dropped: list[str]) -> list[dict[str, Any]]:
    """Return the messages; what had to be left out is added to `dropped`."""
    writing = _Writing(names, dropped)
    for tool in request.tools:
        if isinstance(tool, Tool):
            names.of(tool.name)  # tools first: theirs are the names that stay
    system = _BETWEEN.join(text.text for text in request.system if text.text)
    if system:
        writing.sent.append({"role": "system", "content": system})
    for message in request.messages:
        writing.take(message)
    writing.attach()
    return writing.sent


class _Writing:
    """Messages as they are written; `_attached` are parts that have to wait until all tool results are there."""

    def __init__(self, names: Names, dropped: list[str]) -> None:
        self.sent: list[dict[str, Any]] = []
        self._names = names
        self._dropped = dropped
        self._attached: list[dict[str, Any]] = []

    def take(self, message: Message) -> None:
        if message.role == "assistant":
            self.attach()
            self._assistant(message)
            return
        rest = []
        for block in message.blocks:
            if isinstance(block, ToolResult):
                self._result(block)
            else:
                rest.append(block)
        parts = self._parts(rest)
        if message.role == "user" and parts:  # else further results may follow
            parts, self._attached = self._attached + parts, []
        if parts:
            named = {"name": message.name} if message.name and message.role == "user" else {}
            self._send({"role": message.role, "content": _content(parts), **named})

    def attach(self) -> None:
        """Write what was attached to tool results."""
        if self._attached:
            self._send({"role": "user", "content": self._attached})
            self._attached = []

    def _parts(self, found: Sequence[Block]) -> list[dict[str, Any]]:
        parts = (self._part(block) for block in found)
        return [part for part in parts if part is not None]

    def _result(self, result: ToolResult) -> None:
        parts = self._parts(result.content)
        texts = [part["text"] for part in parts if part["type"] == "text"]
        others = [part for part in parts if part["type"] != "text"]
        content = _BETWEEN.join(texts) or (_SEE_BELOW if others else "")
        self._send({"role": "tool", "tool_call_id": result.id, "content": content})
        self._attached += others

    def _assistant(self, message: Message) -> None:
        thoughts: list[Thinking | Redacted] = []
        calls, rest = [], []
        for block in message.blocks:
            if isinstance(block, ToolCall):
                calls.append(self._call(block))
            elif isinstance(block, Thinking | Redacted):
                if block.dialect == reasoning.CHAT:  # another dialect's means nothing here
                    thoughts.append(block)
            else:
                rest.append(block)
        # Not every server knows `refusal`; every one knows what was said.
        content = "".join(block.text for block in rest if isinstance(block, Text | Refusal)) or None
        if content is not None or calls:
            told = {
                "reasoning_content": "".join(block.text for block in thoughts),
                "reasoning_details": reasoning.to_details(thoughts),
                "tool_calls": calls,
            }
            given = {name: value for name, value in told.items() if value}
            self._send({"role": "assistant", "content": content, **given})
        # An assistant cannot show anything: it follows as a user's.
        self._attached += self._parts([block for block in rest if not isinstance(block, Text | Refusal)])

    def _send(self, message: dict[str, Any]) -> None:
        """Add a message: to the last one, where that is of the same role, so that roles alternate."""
        last = self.sent[-1] if self.sent else None
        role = message["role"]
        if last is None or last["role"] != role or role == "tool" or last.get("name") != message.get("name"):
            self.sent.append(message)
            return
        for name, value in message.items():
            if name == "content":
                last[name] = _joined(last[name], value)
            elif isinstance(value, list):
                last[name] = [*last.get(name, ()), *value]
            elif name == "reasoning_content":
                last[name] = last.get(name, "") + value

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments = msgspec.json.encode({"input": call.arguments}).decode() if call.custom else call.arguments
        function = {"name": self._names.of(call.name), "arguments": arguments.strip() or "{}"}
        return {"id": call.id, "type": "function", "function": function}

    # --- Parts

    def _part(self, block: Block) -> dict[str, Any] | None:
        """Return a block as a part, None where there is nothing to say or nobody to understand it."""
        match block:
            case Text() | Refusal():
                return {"type": "text", "text": block.text} if block.text else None
            case Image():
                return self._image(block)
            case Audio():
                return {"type": "input_audio", "input_audio": {"data": block.data, "format": block.format}}
            case Document():
                return _document(block)
            case Opaque() if block.dialect == reasoning.CHAT and block.value.get("type") != "audio":
                return block.value
            case Opaque():
                self._drop(f"messages.{block.value.get('type', 'content')}")
        return None

    def _image(self, image: Image) -> dict[str, Any]:
        detail = {"detail": image.detail} if image.detail else {}
        if image.file_id is not None:
            return {"type": "file", "file": {"file_id": image.file_id}}
        url = image.url or f"data:{image.media_type or 'image/png'};base64,{image.data or ''}"
        return {"type": "image_url", "image_url": {"url": url, **detail}}

    def _drop(self, name: str) -> None:
        if name not in self._dropped:
            self._dropped.append(name)


def _content(parts: list[dict[str, Any]]) -> Any:
    """Return parts as plain text where they are: some servers take no list."""
    if all(part["type"] == "text" for part in parts):
        return _BETWEEN.join(part["text"] for part in parts)
    return parts


def _joined(first: Any, second: Any) -> Any:
    """Return two contents as one."""
    if isinstance(first, list) or isinstance(second, list):
        return [*_as_parts(first), *_as_parts(second)]
    return _BETWEEN.join(text for text in (first, second) if text) or None


def _as_parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _document(document: Document) -> dict[str, Any]:
    """Return a document as a file, or as text where it is text."""
    if document.text is not None:
        return {"type": "text", "text": _titled(document, document.text)}
    if document.data is not None and document.media_type.startswith("text/"):
        text = base64.b64decode(document.data).decode("utf-8", "replace")
        return {"type": "text", "text": _titled(document, text)}
    if document.file_id is not None:
        return {"type": "file", "file": {"file_id": document.file_id}}
    name = document.name or ("document.pdf" if document.media_type == "application/pdf" else "document")
    data = document.url or f"data:{document.media_type};base64,{document.data or ''}"
    return {"type": "file", "file": {"filename": name, "file_data": data}}


def _titled(document: Document, text: str) -> str:
    head = [f"# {document.name}"] if document.name else []
    told = [document.context] if document.context else []
    return _BETWEEN.join([*head, *told, text])
