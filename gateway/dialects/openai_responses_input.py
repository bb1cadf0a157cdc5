"""Pure: the conversation of the middle form -> the input items of a Responses request.

Responsible for the order of items, for encrypted reasoning going back in front of what followed it, and for names and
ids that fit the API's rules. Never decides about parameters. Neighbour: `openai_responses_encode`.
"""

import hashlib
import re
from typing import Any

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
    ToolCall,
    ToolResult,
    Unsupported,
)
from gateway.dialects.openai_responses_seal import OURS

MAX_NAME_LENGTH = 64
_NOT_NAME = re.compile(r"[^A-Za-z0-9_-]")
_OPENAI = frozenset({"openai_chat", OURS})
_OWN_KEY = "use a provider key of your own"


class Names:
    """Names of tools and ids of calls that fit: 64 letters, digits, `_` and `-`."""

    __slots__ = ("_sent", "changed")

    def __init__(self) -> None:
        self._sent: dict[str, str] = {}
        self.changed: dict[str, str] = {}  # what was sent -> the client's own

    def sent(self, name: str) -> str:
        """Return a tool's name as it is sent."""
        if name in self._sent:
            return self._sent[name]
        fitting = _fitting(name)
        while fitting in self._sent.values():
            fitting = _fitting(f"{fitting[:40]}_{_short_hash(fitting + name)}")
        self._sent[name] = fitting
        if fitting != name:
            self.changed[fitting] = name
        return fitting

    @staticmethod
    def id(id: str) -> str:
        """Return a call's id as it is sent: a long one (some carry a signature) by its hash."""
        return id if len(id) <= MAX_NAME_LENGTH else f"call_{hashlib.sha256(id.encode()).hexdigest()[:48]}"


def _fitting(name: str) -> str:
    clean = _NOT_NAME.sub("_", name)
    return clean if len(clean) <= MAX_NAME_LENGTH else f"{clean[:50]}_{_short_hash(name)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def items(request: Request, names: Names, *, credits: bool) -> list[dict[str, Any]]:
    """Return the items of a conversation. Raises: blocks.Unsupported."""
    writing = _Items(request, names, credits=credits)
    for message in request.messages:
        writing.take(message)
    return writing.items


class _Items:
    """The items so far."""

    __slots__ = ("_credits", "_custom", "_is_openais", "_names", "items")

    def __init__(self, request: Request, names: Names, *, credits: bool) -> None:
        self.items: list[dict[str, Any]] = []
        self._names = names
        self._credits = credits
        self._is_openais = request.dialect in _OPENAI
        self._custom: set[str] = set()  # ids of calls of custom tools

    def take(self, message: Message) -> None:
        if message.role == "assistant":
            self._assistant(message.blocks)
        else:
            self._others("developer" if message.role == "system" else "user", message.blocks)

    def _others(self, role: str, given: list[Block]) -> None:
        """Write a message of the user, or of a system in mid-conversation; results of tools are items of their own."""
        content: list[dict[str, Any]] = []
        for block in given:
            if isinstance(block, ToolResult):
                self._result(block)
            elif isinstance(block, Opaque):
                if block.dialect == OURS:
                    self.items.append(block.value)
            elif (part := self._part(block)) is not None:
                content.append(part)
        if content:
            self.items.append({"type": "message", "role": role, "content": content})

    def _result(self, result: ToolResult) -> None:
        kind = "custom_tool_call_output" if result.id in self._custom else "function_call_output"
        self.items.append({"type": kind, "call_id": self._names.id(result.id), "output": self._output(result.content)})

    def _output(self, content: list[Block]) -> str | list[dict[str, Any]]:
        if len(content) == 1 and isinstance(content[0], Text):
            return content[0].text
        return [part for block in content if (part := self._part(block)) is not None] or ""

    def _part(self, block: Block) -> dict[str, Any] | None:
        """Return a part of a user's message, None for what is empty or only another dialect understands."""
        if isinstance(block, Text | Refusal):
            return {"type": "input_text", "text": block.text} if block.text else None
        if isinstance(block, Image):
            return self._image(block)
        if isinstance(block, Document):
            return self._document(block)
        if isinstance(block, Audio):
            return {"type": "input_audio", "input_audio": {"data": block.data, "format": block.format}}
        return None

    def _image(self, image: Image) -> dict[str, Any]:
        part: dict[str, Any] = {"type": "input_image", "detail": image.detail or "auto"}
        if image.data is not None:
            return {**part, "image_url": f"data:{image.media_type or 'image/png'};base64,{image.data}"}
        if image.url is not None:
            return {**part, "image_url": image.url}
        return {**part, "file_id": self._file_id(image.file_id)}

    def _document(self, document: Document) -> dict[str, Any]:
        if document.text is not None:
            head = [line for line in (document.name, document.context) if line]
            return {"type": "input_text", "text": "\n".join([*head, document.text])}
        if document.data is not None:
            name = document.name or ("document.pdf" if document.media_type == "application/pdf" else "document.txt")
            url = f"data:{document.media_type};base64,{document.data}"
            return {"type": "input_file", "filename": name, "file_data": url}
        if document.url is not None:
            if self._credits:
                raise Unsupported("file_url", f"A file behind a URL is not available on credits: {_OWN_KEY}.")
            return {"type": "input_file", "file_url": document.url}
        return {"type": "input_file", "file_id": self._file_id(document.file_id)}

    def _file_id(self, file_id: str | None) -> str:
        if file_id is None or not self._is_openais:
            raise Unsupported("file_id", "This file is not in an account of this provider: send its data instead.")
        if self._credits:
            message = f"Files of an account are not available on credits: send the data, or {_OWN_KEY}."
            raise Unsupported("file_id", message)
        return file_id

    # --- Assistant --------------------------------------------------------------------------------------------------

    def _assistant(self, given: list[Block]) -> None:
        """Write a turn. Reasoning may not be its last item: OpenAI refuses reasoning without what followed."""
        items: list[dict[str, Any]] = []
        summary = ""
        for block in given:
            if isinstance(block, Text | Refusal):
                self._say(items, block)
            elif isinstance(block, ToolCall):
                items.append(self._call(block))
            elif isinstance(block, Redacted | Thinking):
                items += _reasoning(block, summary)
            elif isinstance(block, Opaque):
                items += [block.value] if block.dialect == OURS else []
            elif (part := self._part(block)) is not None:  # an image it made: only users can show one
                items.append({"type": "message", "role": "user", "content": [part]})
            is_unsigned = isinstance(block, Thinking) and block.dialect == OURS and not block.signature
            summary = block.text if is_unsigned and isinstance(block, Thinking) else ""
        while items and items[-1].get("type") == "reasoning":
            items.pop()
        self.items += items

    @staticmethod
    def _say(items: list[dict[str, Any]], block: Text | Refusal) -> None:
        if not block.text:
            return
        if isinstance(block, Refusal):
            part: dict[str, Any] = {"type": "refusal", "refusal": block.text}
        else:
            part = {"type": "output_text", "text": block.text, "annotations": []}
        last = items[-1] if items else {}
        if last.get("type") == "message" and last.get("role") == "assistant":
            last["content"].append(part)
        else:
            items.append({"type": "message", "role": "assistant", "content": [part]})

    def _call(self, call: ToolCall) -> dict[str, Any]:
        id, name = self._names.id(call.id), self._names.sent(call.name)
        if call.custom:
            self._custom.add(call.id)
            return {"type": "custom_tool_call", "call_id": id, "name": name, "input": call.arguments}
        return {"type": "function_call", "call_id": id, "name": name, "arguments": call.arguments.strip() or "{}"}


def _reasoning(block: Redacted | Thinking, summary: str) -> list[dict[str, Any]]:
    """Return encrypted reasoning of this API's as an item; nobody else's is understood.

    `summary` is its text where it came as a block before it.
    """
    encrypted = block.data if isinstance(block, Redacted) else block.signature
    if block.dialect != OURS or not encrypted:
        return []
    text = block.text or summary
    item: dict[str, Any] = {"type": "reasoning"}
    if isinstance(block, Redacted) and block.id:
        item["id"] = block.id
    item["summary"] = [{"type": "summary_text", "text": text}] if text else []
    return [{**item, "encrypted_content": encrypted}]
