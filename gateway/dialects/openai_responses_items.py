"""Pure: the input of a Responses request -> messages: items, their parts, results of tools, reasoning of earlier turns.

Tolerant to what real clients send (items without a type, a PDF as an image, an output that is no text), strict where
content would be lost: that is refused by its place, as `input[2].content[0]`. Never fetches anything. Neighbours:
`openai_responses_decode` (the parameters), `openai_responses_seal` (reasoning of other vendors).
"""

import re
from typing import Any

import msgspec

from gateway.dialects import openai_responses_answer as reading
from gateway.dialects import openai_responses_seal as sealing
from gateway.dialects.blocks import (
    Audio,
    Block,
    CacheTtl,
    Document,
    Image,
    Message,
    Opaque,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)
from gateway.dialects.openai_responses_tools import SEARCH, joined
from gateway.dialects.wire import InvalidBody

_DATA_URL = re.compile(r"\s*data:([^,]*),", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_PDF = "application/pdf"
# Documents by the end of their name, where nothing else says what they are.
_ENDINGS = {
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "xml": "text/xml",
}
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})
# Items that stand for what OpenAI keeps, or has encrypted: nobody else can know what they say.
_KEPT_AT_OPENAI = frozenset({"item_reference", "compaction"})
# What a client answers to calls that only OpenAI's models make.
_ANSWERS = frozenset(
    {
        "computer_call_output",
        "local_shell_call_output",
        "shell_call_output",
        "apply_patch_call_output",
        "mcp_approval_response",
    }
)
# Items that say something of the request, not of the conversation; tools are read elsewhere.
_SETTINGS = frozenset({"additional_tools", "configuration_update"})


def messages(given: str | list[dict[str, Any]]) -> tuple[list[Text], list[Message]]:
    """Return what stands before the conversation (system, developer), and the conversation. Raises: InvalidBody."""
    if isinstance(given, str):
        return [], [Message("user", [Text(given)])]
    history = _History()
    for index, item in enumerate(given):
        history.take(item, f"input[{index}]")
    return history.system, history.turns


class _History:
    """The conversation so far. Consecutive items of an assistant are one message, as are results of tools."""

    __slots__ = ("_names", "_signature", "system", "turns")

    def __init__(self) -> None:
        self.system: list[Text] = []
        self.turns: list[Message] = []
        self._names: dict[str, str] = {}  # of the tools, by the ids of their calls
        self._signature: sealing.CallSignature | None = None

    def take(self, item: dict[str, Any], place: str) -> None:
        """Add an item. Raises: InvalidBody."""
        kind = item.get("type") or ("message" if "role" in item else "item_reference")
        if kind == "message":
            self._message(item, place)
        elif kind == "reasoning":
            self._reasoning(item)
        elif kind in ("function_call", "custom_tool_call"):
            self._call(item, place, custom=kind == "custom_tool_call")
        elif kind in _OUTPUTS:
            self._result(item, place, parts(item.get("output"), f"{place}.output"))
        elif kind == "tool_search_call" and item.get("execution") == "client":
            found = {**item, "name": SEARCH, "arguments": _json(item.get("arguments") or {})}
            self._call(found, place, custom=False)
        elif kind == "tool_search_output" and item.get("call_id"):
            self._result(item, place, [Text(_json(item.get("tools") or []))])
        elif kind in _KEPT_AT_OPENAI:
            raise InvalidBody(f"{place}: an item {kind} can be read by OpenAI only.", place)
        elif kind not in _SETTINGS:
            block = Opaque(dialect=sealing.OURS, value=item)
            self._add("user" if kind in _ANSWERS else "assistant", block)

    def _message(self, item: dict[str, Any], place: str) -> None:
        role, content = item.get("role"), parts(item.get("content"), f"{place}.content")
        if not content:
            return
        if role == "assistant":
            for block in content:
                self._add("assistant", block)
        elif role in ("system", "developer"):
            texts = [block for block in content if isinstance(block, Text)]
            if self.turns:
                self.turns.append(Message("system", list(texts)))
            else:
                self.system += texts
        elif role == "user":
            self.turns.append(Message("user", content))
        else:
            raise InvalidBody(f"{place}.role must be user, assistant, system or developer.", f"{place}.role")

    def _reasoning(self, item: dict[str, Any]) -> None:
        id, encrypted = item.get("id"), item.get("encrypted_content")
        found = sealing.opened(
            reading.reasoning_text(item),
            encrypted if isinstance(encrypted, str) else None,
            id if isinstance(id, str) else None,
        )
        if isinstance(found, sealing.CallSignature):
            self._signature = found
        elif found is not None:
            self._add("assistant", found)

    def _call(self, item: dict[str, Any], place: str, *, custom: bool) -> None:
        id, name, namespace = _required(item, "call_id", place), _required(item, "name", place), item.get("namespace")
        if isinstance(namespace, str) and namespace:
            name = joined(namespace, name)
        given = item.get("input" if custom else "arguments")
        call = ToolCall(id=id, name=name, arguments=given if isinstance(given, str) else _json(given), custom=custom)
        if self._signature is not None:
            call.signature, call.dialect = self._signature.signature, self._signature.dialect
            self._signature = None
        self._names[id] = name
        self._add("assistant", call)

    def _result(self, item: dict[str, Any], place: str, content: list[Block]) -> None:
        id = _required(item, "call_id", place)
        self._add("user", ToolResult(id=id, content=content, name=self._names.get(id)))

    def _add(self, role: str, block: Block) -> None:
        last = self.turns[-1] if self.turns else None
        if last is not None and last.role == role and (role == "assistant" or _is_result(last.blocks[-1])):
            last.blocks.append(block)
        else:
            self.turns.append(Message("assistant" if role == "assistant" else "user", [block]))


def _is_result(block: Block) -> bool:
    return isinstance(block, ToolResult | Opaque)


def _required(item: dict[str, Any], name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidBody(f"{place}.{name} must be a string.", f"{place}.{name}")
    return value


def _json(value: object) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()


# --- Parts ----------------------------------------------------------------------------------------------------------


def parts(content: object, place: str) -> list[Block]:
    """Return the parts of a message, or of what a tool answered. Raises: InvalidBody."""
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Text(content)]
    if isinstance(content, dict):  # older clients: {"content": "...", "success": true}
        inner = content.get("content")
        return [Text(inner if isinstance(inner, str) else _json(content))]
    if not isinstance(content, list):
        return [Text(_json(content))]
    return [_part(part, f"{place}[{index}]") for index, part in enumerate(content)]


def _part(part: object, place: str) -> Block:
    if isinstance(part, str):
        return Text(part)
    if not isinstance(part, dict):
        raise InvalidBody(f"{place} must be an object.", place)
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text", "summary_text"):
        text = part.get("text")
        if not isinstance(text, str):
            raise InvalidBody(f"{place}.text must be a string.", f"{place}.text")
        return Text(text, cache=_cache(part))
    if kind == "refusal":
        return Refusal(reading.text_of(part.get("refusal")))
    if kind in ("input_image", "computer_screenshot", "image_url"):
        return _image(part, place)
    if kind == "input_file":
        return _file(part, place)
    if kind == "input_audio":
        return _audio(part, place)
    raise InvalidBody(f"{place}.type is not known: {str(kind)[:40]}.", f"{place}.type")


def _cache(part: dict[str, Any]) -> CacheTtl | None:
    mark = part.get("prompt_cache_breakpoint")
    if not isinstance(mark, dict):
        return None
    return "1h" if mark.get("ttl") == "12h" else "5m"


def _image(part: dict[str, Any], place: str) -> Block:
    url: Any = part.get("image_url")
    detail: Any = part.get("detail")
    if isinstance(url, dict):  # as in chat completions
        url, detail = url.get("url"), detail or url.get("detail")
    detail = detail if isinstance(detail, str) else None
    if isinstance(part.get("file_id"), str):
        return Image(file_id=part["file_id"], detail=detail, cache=_cache(part))
    if not isinstance(url, str) or not url:
        raise InvalidBody(f"{place}.image_url must be a URL.", f"{place}.image_url")
    inline = _inline(url, f"{place}.image_url")
    if inline is None:
        return Image(url=url, detail=detail, cache=_cache(part))
    if inline[0] == _PDF:
        return Document(media_type=_PDF, data=inline[1], cache=_cache(part))
    return Image(media_type=inline[0] or "image/png", data=inline[1], detail=detail, cache=_cache(part))


def _file(part: dict[str, Any], place: str) -> Document:
    name = part.get("filename")
    document = Document(name=name if isinstance(name, str) and name else None, cache=_cache(part))
    ending = (document.name or "").rpartition(".")[2].lower()
    document.media_type = _ENDINGS.get(ending, _PDF)
    if isinstance(part.get("file_data"), str) and part["file_data"]:
        inline = _inline(part["file_data"], f"{place}.file_data")
        media_type, data = inline or ("", _SPACE.sub("", part["file_data"]))
        document.data, document.media_type = data, media_type or document.media_type
    elif isinstance(part.get("file_url"), str) and part["file_url"]:
        document.url = part["file_url"]
    elif isinstance(part.get("file_id"), str) and part["file_id"]:
        document.file_id = part["file_id"]
    else:
        raise InvalidBody(f"{place} must have file_data, file_url or file_id.", place)
    return document


def _audio(part: dict[str, Any], place: str) -> Audio:
    inner = part.get("input_audio")
    sound = inner if isinstance(inner, dict) else part
    data, form = sound.get("data"), sound.get("format")
    if not isinstance(data, str) or not isinstance(form, str):
        raise InvalidBody(f"{place}.input_audio must have data and format.", f"{place}.input_audio")
    return Audio(data=data, format=form)


def _inline(url: str, place: str) -> tuple[str, str] | None:
    """Return media type and base64 of a data URL, None for another URL. Raises: InvalidBody."""
    match = _DATA_URL.match(url)
    if match is None:
        return None
    kind, *more = match[1].lower().split(";")
    if "base64" not in [word.strip() for word in more]:
        raise InvalidBody(f"{place} must be base64.", place)
    return kind.strip(), _SPACE.sub("", url[match.end() :])
