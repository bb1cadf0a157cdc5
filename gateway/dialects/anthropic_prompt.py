"""Pure: the middle form -> what Anthropic is given to read: system, messages, tools.

Responsible for the rules of a conversation (who speaks when, results of tools first and in the order of their calls, no
empty text), for ids and names in Anthropic's alphabet, and for the marks of its cache. What is left out is noted.
Neighbour: `anthropic_encode`, which writes the parameters around it.

Source: https://platform.claude.com/docs/en/api/messages (2026-11), and refusals seen in recorded traffic.
"""

import base64
import binascii
import re
from typing import Any

from gateway.dialects import anthropic_credits, blocks
from gateway.dialects.anthropic_answer import arguments
from gateway.dialects.anthropic_content import DIALECT
from gateway.dialects.anthropic_decode import JSON_TOOL
from gateway.dialects.anthropic_schema import closed

_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_FOREIGN = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME = 128
# The type of a tool of Anthropic's ends in a date: clients of other dialects name them too.
_FREE = frozenset({"auto", "none", "allowed"})
_DATED = re.compile(r"[a-z_]+_20\d{6}")
# More than so many marks of the cache are refused; so are more strict tools.
_MOST_MARKS = 4
_MOST_STRICT = 20
_PLACEHOLDER = "."

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
# How base64 of a file begins: what a client says of its type is often wrong, and then refused.
_BEGINNINGS = {
    "iVBORw0KGgo": "image/png",
    "/9j/": "image/jpeg",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
    "JVBERi0": "application/pdf",
}
_TEXTUAL = frozenset({"application/json", "application/xml", "application/yaml", "application/x-yaml"})
_FILE_ID = "file_"

_Content = list[dict[str, Any]]


class Prompt:
    """Writes what is read. Raises: blocks.Unsupported where leaving out would change the meaning."""

    __slots__ = ("_answered", "_ids", "_marked", "_names", "_order", "_request", "_sent_names", "_unanswered",
                 "dropped", "names")  # fmt: skip

    def __init__(self, request: blocks.Request, order: blocks.Order) -> None:
        self._request = request
        self._order = order
        self._ids = _Taken()
        self._names = _Taken(JSON_TOOL, longest=_LONGEST_NAME)
        self._unanswered: dict[str, list[str]] = {}  # the client's id -> the ids that were sent
        self._answered: dict[str, str] = {}
        self._sent_names: dict[str, str] = {}  # the client's name -> the one that is sent
        self._marked: _Content = []  # what has a mark of the cache, in the order of the prompt
        self.names: dict[str, str] = {}  # the changed names, back to the client's
        self.dropped: list[str] = []

    def drop(self, name: str) -> None:
        """Note a parameter that was left out."""
        if name not in self.dropped:
            self.dropped.append(name)

    def unmark(self) -> None:
        """Take off the marks beyond those Anthropic allows, the shortest prefixes first."""
        for entry in self._marked[:-_MOST_MARKS]:
            del entry["cache_control"]

    def _mark(self, entry: dict[str, Any], ttl: blocks.CacheTtl | None) -> dict[str, Any]:
        if ttl is not None:
            entry["cache_control"] = {"type": "ephemeral"} if ttl == "5m" else {"type": "ephemeral", "ttl": ttl}
            self._marked.append(entry)
        return entry

    # --- tools -----------------------------------------------------------------------------------------------------

    def tools(self) -> _Content:
        """Return the tools that may be called."""
        choice = self._request.choice
        allowed = set(choice.names) if choice is not None and choice.mode == "allowed" else None
        strict = sum(isinstance(tool, blocks.Tool) and tool.strict is True for tool in self._request.tools)
        found = []
        for index, tool in enumerate(self._request.tools):
            if isinstance(tool, blocks.ServerTool):
                if self._order.credits and self._is_optional(tool):
                    self.drop("tools.web_search")
                else:
                    found.append(self._server_tool(tool, f"tools[{index}]"))
            elif allowed is None or tool.name in allowed:
                found.append(self._tool(tool, may_be_strict=strict <= _MOST_STRICT))
        return found

    def _tool(self, tool: blocks.Tool, *, may_be_strict: bool) -> dict[str, Any]:
        schema = {"type": "object", **(tool.parameters or {"properties": {}})}
        entry: dict[str, Any] = {"name": self.name(tool.name)}
        description = tool.description
        if tool.custom:
            schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
            description = _with_grammar(tool)
        if description:
            entry["description"] = description
        enforced = closed(schema) if tool.strict and may_be_strict and self._knows_schemas else None
        entry["input_schema"] = enforced or schema
        if enforced is not None:
            entry["strict"] = True
        elif tool.strict:
            self.drop("tools.strict")
        return self._mark(entry, tool.cache)

    @property
    def _knows_schemas(self) -> bool:
        return "json_schema" in self._order.model.capabilities

    def _is_optional(self, tool: blocks.ServerTool) -> bool:
        """Tell whether a tool may be left out: another vendor's search that the model was free to make."""
        choice = self._request.choice
        return tool.kind == "web_search" and tool.dialect != DIALECT and (choice is None or choice.mode in _FREE)

    def _server_tool(self, tool: blocks.ServerTool, path: str) -> dict[str, Any]:
        kind = tool.value.get("type") or next(iter(tool.value), "This")  # Google's tools are named by their member
        is_own = tool.dialect == DIALECT or (isinstance(kind, str) and _DATED.fullmatch(kind) is not None)
        if self._order.credits and (not is_own or anthropic_credits.charges(kind)):
            raise blocks.Unsupported(path, f"{kind} is run and charged by the provider: it needs a key of your own.")
        if is_own:
            return tool.value
        if tool.kind != "web_search":
            raise blocks.Unsupported(path, f"{kind} is a tool of another provider: this model cannot use it.")
        return _web_search(tool.value)

    def name(self, name: str) -> str:
        """Return a tool's name in Anthropic's alphabet."""
        sent = self._sent_names.get(name)
        if sent is None:
            sent = name if _NAME.fullmatch(name) else _FOREIGN.sub("_", name)[:_LONGEST_NAME] or "tool"
            sent = self._sent_names[name] = self._names.unlike(sent)
            if sent != name:
                self.names[sent] = name
        return sent

    def _call_id(self, id: str) -> str:
        """Return a tool call's id in Anthropic's alphabet, and unlike any other: some models count anew each turn."""
        sent = self._ids.unlike(id if _ID.fullmatch(id) else _FOREIGN.sub("_", id) or "call")
        self._unanswered.setdefault(id, []).append(sent)
        return sent

    def _result_id(self, id: str) -> str:
        """Return the id of the first call of that id which has no result yet."""
        waiting = self._unanswered.get(id)
        if waiting:
            self._answered[id] = waiting.pop(0)
        return self._answered.get(id) or _FOREIGN.sub("_", id) or "call"

    # --- system ----------------------------------------------------------------------------------------------------

    def system(self) -> _Content:
        """Return what comes before the conversation."""
        texts = [text for text in self._request.system if text.text.strip()]
        return [self._mark({"type": "text", "text": text.text}, text.cache) for text in texts]

    # --- messages --------------------------------------------------------------------------------------------------

    def messages(self) -> list[dict[str, Any]]:
        """Return the conversation: a user begins, nobody speaks twice, results of tools come first."""
        turns: list[tuple[str, _Content]] = []
        for index, message in enumerate(self._request.messages):
            if message.name:
                self.drop("messages.name")
            _add(turns, message.role, self._content(message, f"messages[{index}]"))
        turns = self._placed(turns)
        _strip_prefill(turns)
        if not turns or turns[0][0] != "user":
            turns.insert(0, ("user", [{"type": "text", "text": _PLACEHOLDER}]))
        called: list[str] = []
        for role, content in turns:
            if role == "user":
                _results_first(content, called)
            called = (
                [block["id"] for block in content if block["type"] == "tool_use"] if role == "assistant" else called
            )
        return [{"role": role, "content": content} for role, content in turns]

    def _placed(self, turns: list[tuple[str, _Content]]) -> list[tuple[str, _Content]]:
        """Keep system messages where the model takes them: after a user, before an assistant. Else a user says it."""
        found: list[tuple[str, _Content]] = []
        for index, (role, content) in enumerate(turns):
            after = turns[index + 1][0] if index + 1 < len(turns) else "assistant"
            before = turns[index - 1][0] if index else ""
            stays = "system_anywhere" in self._order.model.capabilities and (before, after) == ("user", "assistant")
            if role == "system" and not stays:
                for block in content:
                    if block["type"] == "text":
                        block["text"] = f"<system>\n{block['text']}\n</system>"
                role = "user"
            _add(found, role, content)
        return found

    def _content(self, message: blocks.Message, path: str) -> _Content:
        found: _Content = []
        for block in message.blocks:
            if message.role == "assistant" and isinstance(block, blocks.Image | blocks.Document | blocks.Audio):
                self.drop("messages.images" if isinstance(block, blocks.Image) else "messages.files")
                continue
            found += self._block(block, path)
        return found

    def _block(self, block: blocks.Block, path: str) -> _Content:
        if isinstance(block, blocks.Text | blocks.Refusal):
            ttl = block.cache if isinstance(block, blocks.Text) else None
            return [self._mark({"type": "text", "text": block.text}, ttl)] if block.text.strip() else []
        if isinstance(block, blocks.Image):
            return [self._mark(self._image(block, path), block.cache)]
        if isinstance(block, blocks.Document):
            return [self._mark(self._document(block, path), block.cache)]
        if isinstance(block, blocks.ToolCall):
            given = {"input": block.arguments} if block.custom else arguments(block.arguments)
            entry = {"type": "tool_use", "id": self._call_id(block.id), "name": self.name(block.name), "input": given}
            return [self._mark(entry, block.cache)]
        if isinstance(block, blocks.ToolResult):
            return [self._tool_result(block, path)]
        if isinstance(block, blocks.Audio):
            raise blocks.Unsupported(path, "This model does not hear: send a transcript instead.")
        return self._own(block)

    def _own(self, block: blocks.Thinking | blocks.Redacted | blocks.Opaque) -> _Content:
        """Return a block only Anthropic understands, where it is Anthropic's."""
        if block.dialect == DIALECT:
            if isinstance(block, blocks.Opaque):
                return [block.value]
            if isinstance(block, blocks.Redacted):
                return [{"type": "redacted_thinking", "data": block.data}]
            if block.signature:
                return [{"type": "thinking", "thinking": block.text, "signature": block.signature}]
        self.drop("messages.content" if isinstance(block, blocks.Opaque) else "messages.thinking_blocks")
        return []

    def _tool_result(self, block: blocks.ToolResult, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "tool_result", "tool_use_id": self._result_id(block.id)}
        content = [item for inner in block.content for item in self._block(inner, path)]
        if len(content) == 1 and content[0].keys() == {"type", "text"}:
            entry["content"] = content[0]["text"]
        elif content:
            entry["content"] = content
        if block.is_error:
            entry["is_error"] = True
        return self._mark(entry, block.cache)

    # --- files -----------------------------------------------------------------------------------------------------

    def _image(self, block: blocks.Image, path: str) -> dict[str, Any]:
        if block.data is not None:
            media_type = _media_type(block.data, block.media_type)
            if media_type == "application/pdf":
                return self._document(blocks.Document(data=block.data), path)
            if media_type not in _IMAGES:
                raise blocks.Unsupported(
                    path, f"An image of type {media_type} cannot be read: send JPEG, PNG, GIF or WebP."
                )
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": block.data}}
        return {"type": "image", "source": self._reference(block.url, block.file_id, path)}

    def _document(self, block: blocks.Document, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "document", "source": self._source(block, path)}
        if block.name:
            entry["title"] = block.name
        if block.context:
            entry["context"] = block.context
        if block.citations:
            entry["citations"] = {"enabled": True}
        return entry

    def _source(self, block: blocks.Document, path: str) -> dict[str, Any]:
        if block.text is not None:
            return {"type": "text", "media_type": "text/plain", "data": block.text}
        if block.data is None:
            if self._order.credits:
                raise blocks.Unsupported(path, "This file needs a provider key of your own: send its content instead.")
            return self._reference(block.url, block.file_id, path)
        media_type = _media_type(block.data, block.media_type)
        if media_type == "application/pdf":
            return {"type": "base64", "media_type": media_type, "data": block.data}
        text = _decoded(block.data) if media_type.startswith("text/") or media_type in _TEXTUAL else None
        if text is None:
            raise blocks.Unsupported(path, f"A file of type {media_type} cannot be read: send a PDF or plain text.")
        return {"type": "text", "media_type": "text/plain", "data": text}

    def _reference(self, url: str | None, file_id: str | None, path: str) -> dict[str, Any]:
        if url is not None:
            return {"type": "url", "url": url}
        if file_id is not None and file_id.startswith(_FILE_ID) and not self._order.credits:
            return {"type": "file", "file_id": file_id}
        raise blocks.Unsupported(path, "This file is in another provider's account: send its content instead.")


def _add(turns: list[tuple[str, _Content]], role: str, content: _Content) -> None:
    if content and turns and turns[-1][0] == role:
        turns[-1][1].extend(content)
    elif content:
        turns.append((role, content))


def _strip_prefill(turns: list[tuple[str, _Content]]) -> None:
    """Cut the space at the end of an answer that is to be continued: it is refused."""
    if not turns or turns[-1][0] != "assistant":
        return
    content = turns[-1][1]
    if content[-1]["type"] == "text":
        content[-1]["text"] = content[-1]["text"].rstrip()


def _results_first(content: _Content, called: list[str]) -> None:
    places = {id: place for place, id in enumerate(called)}

    def place(block: dict[str, Any]) -> int:
        if block["type"] != "tool_result":
            return len(called) + 1
        return places.get(block["tool_use_id"], len(called))

    content.sort(key=place)


class _Taken:
    """Names that are taken; a further one of the same gets a number."""

    __slots__ = ("_longest", "_numbers", "_taken")

    def __init__(self, *taken: str, longest: int | None = None) -> None:
        self._taken = set(taken)
        self._longest = longest
        self._numbers: dict[str, int] = {}  # the last number tried: thousands may want the same name

    def unlike(self, name: str) -> str:
        """Return the name, or one like it that is not taken, and take it."""
        found = name
        while found in self._taken:
            number = self._numbers[name] = self._numbers.get(name, 1) + 1
            ending = f"_{number}"
            found = (name[: self._longest - len(ending)] if self._longest else name) + ending
        self._taken.add(found)
        return found


def _media_type(data: str, said: str | None) -> str:
    """Return what a file in base64 is: by how it begins, else by what was said."""
    found = next((kind for beginning, kind in _BEGINNINGS.items() if data.startswith(beginning)), None)
    said = (said or "").partition(";")[0].strip().lower()
    return found or ("image/jpeg" if said == "image/jpg" else said) or "unknown"


def _decoded(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def _with_grammar(tool: blocks.Tool) -> str:
    """Return the description of a tool that takes free text, which here is the string `input` of a JSON object."""
    told = [tool.description] if tool.description else []
    definition = (tool.format or {}).get("definition") or ((tool.format or {}).get("grammar") or {}).get("definition")
    if isinstance(definition, str) and definition:
        told.append(f"`input` must match this grammar:\n{definition}")
    return "\n\n".join(told)


def _web_search(value: dict[str, Any]) -> dict[str, Any]:
    """Return a search of the web as Anthropic has it; what OpenAI says of it and Anthropic knows too goes along."""
    tool: dict[str, Any] = {"type": "web_search_20250305", "name": "web_search"}
    filters = value.get("filters")
    if isinstance(filters, dict) and isinstance(filters.get("allowed_domains"), list):
        tool["allowed_domains"] = filters["allowed_domains"]
    location = value.get("user_location")
    if isinstance(location, dict):
        inner = location.get("approximate")
        place = inner if isinstance(inner, dict) else location
        known = {name: place[name] for name in ("city", "region", "country", "timezone") if place.get(name)}
        if known:
            tool["user_location"] = {"type": "approximate", **known}
    return tool
