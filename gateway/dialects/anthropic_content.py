"""Pure: content in Anthropic's messages dialect -> blocks of the middle form.

Responsible for every block a client may send (strict: what is malformed is named) and every block an answer may hold
(tolerant: a provider's answer is never refused). A block of a type unknown here travels as `Opaque`.
Neighbour: `anthropic_decode`, which reads what is around the content.
"""

from typing import Any

import msgspec

from gateway.dialects import anthropic_seal, blocks
from gateway.dialects.wire import InvalidBody

DIALECT = "anthropic"
_encode = msgspec.json.Encoder().encode


# --- What a client sends --------------------------------------------------------------------------------------------


class Content:
    """Reads the messages of a request, one after the other: a tool's result gets its tool's name from before.

    Raises: InvalidBody, naming the member.
    """

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def message(self, message: dict[str, Any], path: str) -> blocks.Message:
        """Return one message."""
        role = message["role"]
        if role not in ("user", "assistant", "system"):
            raise InvalidBody(f"{path}.role must be user, assistant or system.", f"{path}.role")
        return blocks.Message(role=role, blocks=self.read(message.get("content"), f"{path}.content"))

    def read(self, content: object, path: str) -> list[blocks.Block]:
        """Return content: a string, or a list of blocks."""
        if isinstance(content, str):
            return [blocks.Text(content)] if content else []
        if not isinstance(content, list):
            raise InvalidBody(f"{path} must be a string or a list of blocks.", path)
        found: list[blocks.Block] = []
        for index, block in enumerate(content):
            where = f"{path}[{index}]"
            if not isinstance(block, dict) or not isinstance(block.get("type"), str):
                raise InvalidBody(f"{where} must be an object with a type.", where)
            found += self._block(block, where)
        return found

    def _block(self, block: dict[str, Any], path: str) -> list[blocks.Block]:
        kind = block["type"]
        if kind == "text":
            said = text(block, path)
            return [said] if said.text else []  # Anthropic refuses empty text itself
        if kind == "image":
            return [_image(block, path)]
        if kind == "document":
            return self._document(block, path)
        if kind == "search_result":
            return [_search_result(block, path)]
        if kind == "tool_use":
            return [self._tool_use(block, path)]
        if kind == "tool_result":
            return [self._tool_result(block, path)]
        if kind == "thinking":
            return [anthropic_seal.reasoning(string(block, "thinking", path), _or_empty(block.get("signature")))]
        if kind == "redacted_thinking":
            return [blocks.Redacted(data=string(block, "data", path), dialect=DIALECT)]
        return [blocks.Opaque(dialect=DIALECT, value=block)]

    def _tool_use(self, block: dict[str, Any], path: str) -> blocks.ToolCall:
        given = block.get("input", {})
        if not isinstance(given, dict):
            raise InvalidBody(f"{path}.input must be an object.", f"{path}.input")
        id, signature, dialect = anthropic_seal.own_id(string(block, "id", path))
        name = self._names[id] = string(block, "name", path)
        return blocks.ToolCall(
            id=id,
            name=name,
            arguments=_encode(given).decode(),
            signature=signature,
            dialect=dialect,
            cache=cache(block),
        )

    def _tool_result(self, block: dict[str, Any], path: str) -> blocks.ToolResult:
        id, _, _ = anthropic_seal.own_id(string(block, "tool_use_id", path))
        content = block.get("content")
        return blocks.ToolResult(
            id=id,
            content=[] if content is None else self.read(content, f"{path}.content"),
            name=self._names.get(id),
            is_error=block.get("is_error") is True,
            cache=cache(block),
        )

    def _document(self, block: dict[str, Any], path: str) -> list[blocks.Block]:
        source = _source(block, path)
        kind = source.get("type")
        citations = block.get("citations")
        document = blocks.Document(
            name=block.get("title") if isinstance(block.get("title"), str) else None,
            context=block.get("context") if isinstance(block.get("context"), str) else None,
            citations=isinstance(citations, dict) and citations.get("enabled") is True,
            cache=cache(block),
        )
        images: list[blocks.Block] = []
        if kind == "base64":
            document.data = string(source, "data", f"{path}.source")
            document.media_type = _or_empty(source.get("media_type")) or document.media_type
        elif kind == "text":
            document.text, document.media_type = string(source, "data", f"{path}.source"), "text/plain"
        elif kind == "content":
            parts = self.read(source.get("content"), f"{path}.source.content")
            document.text, document.media_type = _texts(parts), "text/plain"
            images = [part for part in parts if isinstance(part, blocks.Image)]
        elif kind == "url":
            document.url = string(source, "url", f"{path}.source")
        elif kind == "file":
            document.file_id = string(source, "file_id", f"{path}.source")
        else:
            raise _unknown_source(path)
        return [document, *images]


def text(block: dict[str, Any], path: str) -> blocks.Text:
    """Return a text block. Raises: InvalidBody."""
    written = string(block, "text", path)
    return blocks.Text(written, cache(block), citations(block.get("citations"), len(written)))


def _image(block: dict[str, Any], path: str) -> blocks.Image:
    source = _source(block, path)
    kind, where, marked = source.get("type"), f"{path}.source", cache(block)
    if kind == "base64":
        media_type = string(source, "media_type", where)
        return blocks.Image(media_type=media_type, data=string(source, "data", where), cache=marked)
    if kind == "url":
        return blocks.Image(url=string(source, "url", where), cache=marked)
    if kind == "file":
        return blocks.Image(file_id=string(source, "file_id", where), cache=marked)
    raise _unknown_source(path)


def _search_result(block: dict[str, Any], path: str) -> blocks.Document:
    """Return a search result as what it is to anybody else: a document of plain text from somewhere."""
    parts = [text(part, path) for part in block.get("content") or () if isinstance(part, dict)]
    citations = block.get("citations")
    return blocks.Document(
        media_type="text/plain",
        text=_texts(parts),
        name=_or_empty(block.get("title")) or None,
        context=_or_empty(block.get("source")) or None,
        citations=isinstance(citations, dict) and citations.get("enabled") is True,
        cache=cache(block),
    )


def _texts(parts: list[Any]) -> str:
    return "\n".join(part.text for part in parts if isinstance(part, blocks.Text))


def _source(block: dict[str, Any], path: str) -> dict[str, Any]:
    source = block.get("source")
    if not isinstance(source, dict):
        raise InvalidBody(f"{path}.source must be an object.", f"{path}.source")
    return source


def _unknown_source(path: str) -> InvalidBody:
    return InvalidBody(f"{path}.source.type is none that is known.", f"{path}.source.type")


def string(value: dict[str, Any], name: str, path: str) -> str:
    """Return a member that must be a string. Raises: InvalidBody."""
    found = value.get(name)
    if not isinstance(found, str):
        raise InvalidBody(f"{path}.{name} must be a string.", f"{path}.{name}")
    return found


def cache(block: dict[str, Any]) -> blocks.CacheTtl | None:
    """Return how long a prompt is to be cached up to here."""
    control = block.get("cache_control")
    if not isinstance(control, dict):
        return None
    return "1h" if control.get("ttl") == "1h" else "5m"


def _or_empty(value: object) -> str:
    return value if isinstance(value, str) else ""


# --- What a provider answers ----------------------------------------------------------------------------------------


def answered(block: dict[str, Any]) -> blocks.Block:
    """Return a block of a whole answer; never raises."""
    kind = block.get("type")
    if kind == "text" and isinstance(block.get("text"), str):
        return blocks.Text(block["text"], citations=citations(block.get("citations"), len(block["text"])))
    if kind == "thinking" and isinstance(block.get("thinking"), str):
        signature = _or_empty(block.get("signature")) or None
        return blocks.Thinking(text=block["thinking"], signature=signature, dialect=DIALECT)
    if kind == "redacted_thinking" and isinstance(block.get("data"), str):
        return blocks.Redacted(data=block["data"], dialect=DIALECT)
    if kind == "tool_use" and isinstance(block.get("name"), str):
        return blocks.ToolCall(
            id=_or_empty(block.get("id")), name=block["name"], arguments=_encode(block.get("input") or {}).decode()
        )
    return blocks.Opaque(dialect=DIALECT, value=block)


def citations(value: object, length: int) -> list[dict[str, Any]] | None:
    """Return the citations of a text that lead to a page of the web: they are about the whole of it."""
    if not isinstance(value, list):
        return None
    return [found for item in value if (found := citation(item, length)) is not None] or None


def citation(value: object, length: int) -> dict[str, Any] | None:
    """Return a citation as OpenAI's `url_citation`; None where it leads to a document of the request."""
    if not isinstance(value, dict):
        return None
    url = value.get("url") or value.get("source")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return None
    return {"start_index": 0, "end_index": length, "title": _or_empty(value.get("title")), "url": url}
