"""What was asked and answered, in whatever dialect it was stored, as chat messages.

Pure. Bodies are kept as clients sent them: in the shape of OpenAI's chat completions or Responses, of Anthropic's
messages, of Gemini's contents. This puts the last three into the first, which the API and the pages show. Believes
nothing about a body and never raises over it: what it does not know stays as it is, in its place. All of it is text.
Neighbours: `export.py` (who shows it), `detail.py`, `snippets.py` (which shape a request has).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

# What a call of the Responses API is called in the logs: its `input` is not to be taken for that of embeddings.
RESPONSES: Final = "responses"

_TEXTS: Final = frozenset({"text", "input_text", "output_text"})
# Blocks that only Anthropic's messages have.
_ANTHROPICS: Final = frozenset(
    {"image", "document", "thinking", "redacted_thinking", "tool_use", "tool_result", "search_result"}
)
_CALLS: Final = frozenset({"function_call", "custom_tool_call", "mcp_call"})

Message = dict[str, Any]


def asked(request: Mapping[str, Any] | None, operation: str = "") -> list[Message]:
    """Return the messages of a request; `operation` is what its log calls it, where that is known."""
    if not isinstance(request, Mapping):
        return []
    if isinstance(request.get("messages"), list):
        return _messages(request)
    if _of(request, "contents") is not None:
        return _contents(request)
    told = request.get("input")
    if operation == RESPONSES or (not operation and (isinstance(told, list) or "instructions" in request)):
        return _items(told, request.get("instructions"))
    return []


def answered(response: Mapping[str, Any] | None) -> list[Message]:
    """Return the messages of an answer, one for each choice."""
    if not isinstance(response, Mapping):
        return []
    if isinstance(response.get("choices"), list):
        found = [_of(choice, "message") for choice in response["choices"]]
        return [message for message in found if isinstance(message, dict)]
    if isinstance(response.get("candidates"), list):
        each = (_of(candidate, "content") for candidate in response["candidates"])
        return [message for content in each for message in _turns([content], _Ids())]
    if isinstance(response.get("output"), list):
        return _items(response["output"])
    if isinstance(response.get("content"), list):
        return _blocks("assistant", response["content"])
    return []


# --- Anthropic's messages, and chat's own ---------------------------------------------------------------------------


def _messages(request: Mapping[str, Any]) -> list[Message]:
    system = request.get("system")
    found = [] if not system else [{"role": "system", "content": system if isinstance(system, str) else _texts(system)}]
    for message in request["messages"]:
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        if isinstance(content, list) and any(_is_anthropics(block) for block in content):
            found += _blocks(_str(message.get("role")), content)
        else:
            found.append(message)
    return found


def _is_anthropics(block: object) -> bool:
    kind = _of(block, "type")
    return isinstance(kind, str) and (kind in _ANTHROPICS or kind.endswith(("_tool_use", "_tool_result")))


def _blocks(role: str, content: Iterable[Any]) -> list[Message]:
    """Return what a turn of Anthropic's holds: what tools answered first, each a message of its own."""
    results: list[Message] = []
    said = _Said(role or "unknown")
    for block in content:
        kind = _str(_of(block, "type"))
        if kind.endswith("tool_result"):
            results.append(_tool(_of(block, "tool_use_id"), _of(block, "content")))
        elif kind == "thinking":
            said.think(_of(block, "thinking"))
        elif kind.endswith("tool_use"):
            said.call(_of(block, "id"), _of(block, "name"), _of(block, "input"))
        else:
            said.parts.append(_block(block))
    # A tool that the provider ran itself answered in the same turn: behind its call.
    said_now = [said.message()] if said.is_anything else []
    return said_now + results if role == "assistant" else results + said_now


def _block(block: Any) -> Any:
    """Return one block as a part of a chat message."""
    kind, source = _of(block, "type"), _of(block, "source")
    if kind == "image" and isinstance(source, dict):
        return _image(_source(source))
    if kind == "document" and isinstance(source, dict):
        if source.get("type") == "text" and isinstance(source.get("data"), str):
            return {"type": "text", "text": source["data"]}
        if source.get("type") == "content":
            return {"type": "text", "text": _text(source.get("content"))}
        return _file(_source(source), _of(block, "title"))
    if kind == "redacted_thinking":
        return {"type": "redacted_thinking"}  # nobody can read its data
    return {"type": "text", "text": block["text"]} if kind in _TEXTS and isinstance(block.get("text"), str) else block


def _source(source: Mapping[str, Any]) -> Any:
    """Return the address of what a source holds, or what is kept instead of its content."""
    if source.get("type") == "base64":
        return _data(source.get("data"), source.get("media_type"))
    return source.get("url") or source.get("file_id") or dict(source)


# --- OpenAI's Responses ---------------------------------------------------------------------------------------------


def _items(items: Any, instructions: Any = None) -> list[Message]:
    found: list[Message] = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else []
    if isinstance(items, str):
        return [*found, {"role": "user", "content": items}]
    said: _Said | None = None
    for item in items if isinstance(items, list) else []:
        role, kind = _str(_of(item, "role")), _str(_of(item, "type"))
        is_result = kind.endswith("_output") and "output" in item
        if role in ("", "assistant") and not is_result:
            said = said or _Said("assistant")
            _answer_item(said, item, kind)
            continue
        if said is not None:
            found.append(said.message())
            said = None
        if is_result:
            found.append(_tool(_of(item, "call_id"), _of(item, "output")))
        else:
            found.append({"role": role, "content": _texts(_of(item, "content"))})
    return found if said is None else [*found, said.message()]


def _answer_item(said: "_Said", item: Any, kind: str) -> None:
    """Add an item of the assistant's: what it said, thought, or called."""
    if kind in _CALLS or (kind.endswith("_call") and _str(_of(item, "call_id"))):
        given = _of(item, "arguments", "input", "action", "operation")
        said.call(item.get("call_id") or item.get("id"), item.get("name") or kind, given)
    elif kind == "reasoning":
        for part in (*_list(item.get("summary")), *_list(item.get("content"))):
            said.think(_of(part, "text"))
    elif kind in ("", "message") and isinstance(item, dict):
        content = _texts(item.get("content"))
        said.parts += content if isinstance(content, list) else [{"type": "text", "text": content}]
    else:
        said.parts.append(item)


def _texts(content: Any) -> Any:
    """Return content as text or as parts of a chat message."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else "" if content is None else [content]
    return [_part(part) for part in content]


def _part(part: Any) -> Any:
    match _of(part, "type"):
        case "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text":
            return {"type": "text", "text": part["text"]} if isinstance(part.get("text"), str) else part
        case "input_image":
            return _image(part.get("image_url") or part.get("file_id"))
        case "input_file":
            held = part.get("file_data") or part.get("file_url") or part.get("file_id")
            return _file(held, part.get("filename"))
    return _block(part) if _is_anthropics(part) else part


# --- Gemini's contents ----------------------------------------------------------------------------------------------


def _contents(request: Mapping[str, Any]) -> list[Message]:
    system, contents = _of(request, "systemInstruction", "system_instruction"), request["contents"]
    text = system if isinstance(system, str) else _text(_of(system, "parts"))
    found = [{"role": "system", "content": text}] if text else []
    return found + _turns(contents if isinstance(contents, list) else [contents], _Ids())


class _Ids:
    """Ids of function calls where Gemini has none: an answer belongs to the first call of its name without one."""

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}
        self._answers: dict[str, int] = {}

    def call(self, name: str) -> str:
        return self._next(self._calls, name)

    def answer(self, name: str) -> str:
        return self._next(self._answers, name)

    @staticmethod
    def _next(counts: dict[str, int], name: str) -> str:
        counts[name] = counts.get(name, 0) + 1
        return f"{name}#{counts[name]}"


def _turns(contents: Iterable[Any], ids: _Ids) -> list[Message]:
    found: list[Message] = []
    for content in contents:
        if isinstance(content, str):
            content = {"parts": [{"text": content}]}
        if not isinstance(content, dict):
            continue
        role = _str(content.get("role"))
        said = _Said("assistant" if role == "model" else role or "user")
        results: list[Message] = []
        for part in _list(content.get("parts")):
            _gemini_part(said, results, part, ids)
        found += results + ([said.message()] if said.is_anything or not results else [])
    return found


def _gemini_part(said: "_Said", results: list[Message], part: Any, ids: _Ids) -> None:
    call, result = _of(part, "functionCall", "function_call"), _of(part, "functionResponse", "function_response")
    data, file = _of(part, "inlineData", "inline_data"), _of(part, "fileData", "file_data")
    if isinstance(call, dict):
        name = _str(call.get("name"))
        said.call(call.get("id") or ids.call(name), name, call.get("args"))
    elif isinstance(result, dict):
        name = _str(result.get("name"))
        results.append(_tool(result.get("id") or ids.answer(name), result.get("response")) | {"name": name})
    elif isinstance(data, dict):
        media_type = _str(_of(data, "mimeType", "mime_type"))
        said.parts.append(_medium(media_type, _data(data.get("data"), media_type), _of(data, "displayName")))
    elif isinstance(file, dict):
        said.parts.append(_medium(_str(_of(file, "mimeType", "mime_type")), _of(file, "fileUri", "file_uri")))
    elif isinstance(_of(part, "text"), str) and part.get("thought") is True:
        said.think(part["text"])
    elif isinstance(_of(part, "text"), str):
        if part["text"]:
            said.parts.append({"type": "text", "text": part["text"]})
    else:
        said.parts.append(part)


# --- Messages of a chat ---------------------------------------------------------------------------------------------


class _Said:
    """What one role said, as it is gathered."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self.parts: list[Any] = []

    @property
    def is_anything(self) -> bool:
        return bool(self.parts or self._thoughts or self._calls)

    def think(self, text: Any) -> None:
        if isinstance(text, str) and text:
            self._thoughts.append(text)

    def call(self, id: Any, name: Any, arguments: Any) -> None:
        text = arguments if isinstance(arguments, str) else _json({} if arguments is None else arguments)
        function = {"name": _str(name), "arguments": text}
        self._calls.append({"id": _str(id), "type": "function", "function": function})

    def message(self) -> Message:
        """Return it as a chat message: text alone is a string."""
        texts = [part["text"] for part in self.parts if _of(part, "type") == "text" and isinstance(part["text"], str)]
        content: Any = self.parts
        if len(texts) == len(self.parts) and (len(texts) < 2 or self._role == "assistant"):
            content = "".join(texts) if texts or not self._calls else None
        message: Message = {"role": self._role, "content": content}
        if self._thoughts:
            message["reasoning_content"] = "\n\n".join(self._thoughts)
        if self._calls:
            message["tool_calls"] = self._calls
        return message


def _tool(id: Any, content: Any) -> Message:
    told = content if isinstance(content, str) else _texts(content) if isinstance(content, list) else _json(content)
    return {"role": "tool", "tool_call_id": _str(id), "content": told}


def _medium(media_type: str, held: Any, name: Any = None) -> dict[str, Any]:
    if media_type.startswith("image/"):
        return _image(held)
    if media_type.startswith("audio/"):
        return {"type": "input_audio", "input_audio": {"data": held}}
    return _file(held, name)


def _image(held: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": held}}


def _file(held: Any, name: Any) -> dict[str, Any]:
    named = {"filename": name} if isinstance(name, str) and name else {}
    return {"type": "file", "file": {**named, "file_data": held}}


def _data(data: Any, media_type: Any) -> Any:
    """Return content in base64 as a data URL, or what is kept instead of it, with what it was."""
    kind = _str(media_type)
    if isinstance(data, dict):
        return {**data, "type": kind or data.get("type")}
    return f"data:{kind};base64,{data}" if isinstance(data, str) else data


def _of(value: Any, *names: str) -> Any:
    """Return the first member of that name, None where there is none or the value is no object."""
    if isinstance(value, Mapping):
        for name in names:
            if name in value:
                return value[name]
    return None


def _text(parts: Any) -> str:
    if isinstance(parts, str):
        return parts
    texts = (_of(part, "text") for part in _list(parts))
    return "\n\n".join(text for text in texts if isinstance(text, str))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _str(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
