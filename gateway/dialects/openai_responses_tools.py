"""Pure: the tools of a Responses request as the middle form knows them, and the way back for calls of them.

Three kinds have no counterpart elsewhere. A namespace's functions become functions called `namespace__name`. A custom
tool (free text) stays one, but comes back from most providers as a function with the one argument `input`. A search for
tools that the client runs itself becomes a function. `Shapes` writes calls of all three as the client knows them.
Neighbours: `openai_responses_decode` (requests), `openai_responses_write` (answers).
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.dialects.blocks import Choice, ServerTool, Tool, ToolCall
from gateway.dialects.openai_answer import lenient
from gateway.dialects.openai_responses_answer import text_of
from gateway.dialects.openai_responses_seal import OURS
from gateway.dialects.wire import Asked, InvalidBody, dicts, member

SEARCH = "tool_search"
_SEPARATOR = "__"
_WEB_SEARCH = "web_search"

_encode = msgspec.json.Encoder().encode


def joined(namespace: str, name: str) -> str:
    """Return the one name of a function of a namespace."""
    return namespace + name if namespace.endswith(_SEPARATOR) else namespace + _SEPARATOR + name


# --- What a client declares -----------------------------------------------------------------------------------------


def declared(asked: Asked, items: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the tools of a request, each with its place: its own, and those that items of its input bring.

    Raises: InvalidBody.
    """
    given: list[Any] = member(asked.members, "tools", list, "a list of tools") or []
    for index, tool in enumerate(given):
        yield f"tools[{index}]", tool
    for number, item in enumerate(items):
        if item.get("type") in ("additional_tools", "tool_search_output"):
            for index, tool in enumerate(dicts(item.get("tools"))):
                yield f"input[{number}].tools[{index}]", tool


def tools(asked: Asked, items: list[dict[str, Any]]) -> list[Tool | ServerTool]:
    """Return the tools of a request, each name once. Raises: InvalidBody."""
    found: dict[str, Tool | ServerTool] = {}
    for place, value in declared(asked, items):
        if not isinstance(value, dict):
            raise InvalidBody(f"{place} must be an object.", place)
        for tool in _tools(value, place):
            name = tool.name if isinstance(tool, Tool) else f"{place} "  # no tool has a name that ends in a space
            found.setdefault(name, tool)
    return list(found.values())


def _tools(value: dict[str, Any], place: str) -> Iterator[Tool | ServerTool]:
    kind = value.get("type", "function")
    if kind == "namespace":
        namespace = _name(value, place)
        for index, inner in enumerate(dicts(value.get("tools"))):
            for tool in _tools(inner, f"{place}.tools[{index}]"):
                if isinstance(tool, Tool):
                    tool.name = joined(namespace, tool.name)
                yield tool
    elif kind == "function":
        inner = value["function"] if isinstance(value.get("function"), dict) else value
        yield _function(inner, _name(inner, place), place)
    elif kind == "custom":
        name, grammar = _name(value, place), value.get("format")
        yield Tool(
            name=name,
            description=_word(value, "description"),
            custom=True,
            format=grammar if isinstance(grammar, dict) else None,
        )
    elif kind == SEARCH and value.get("execution") == "client":
        yield _function(value, SEARCH, place)
    else:
        is_search = isinstance(kind, str) and kind.startswith(_WEB_SEARCH)
        yield ServerTool(dialect=OURS, value=value, kind=_WEB_SEARCH if is_search else "other")


def _function(value: dict[str, Any], name: str, place: str) -> Tool:
    parameters, strict = value.get("parameters"), value.get("strict")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidBody(f"{place}.parameters must be an object.", f"{place}.parameters")
    return Tool(
        name=name,
        description=_word(value, "description"),
        parameters=parameters,
        strict=strict if isinstance(strict, bool) else None,
    )


def _name(value: dict[str, Any], place: str) -> str:
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidBody(f"{place}.name must be a string.", f"{place}.name")
    return name


def _word(value: dict[str, Any], name: str) -> str | None:
    word = value.get(name)
    return word if isinstance(word, str) and word else None


def choice(asked: Asked) -> Choice | None:
    """Return which tools may or must be called. Raises: InvalidBody."""
    raw = asked.members.get("tool_choice")
    value = lenient(bytes(raw)) if raw is not None else None
    if value is None:
        return None
    if value in ("auto", "none", "required"):
        return Choice(mode=value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("function", "custom"):
        return Choice(mode="named", names=[_chosen(value, "tool_choice")])
    if kind == "allowed_tools":
        names = [
            _chosen(tool, "tool_choice.tools")
            for tool in dicts(value.get("tools"))
            if tool.get("type") in ("function", "custom")
        ]
        return Choice(mode="allowed", names=names, required=value.get("mode") == "required")
    message = "tool_choice must be auto, none, required, a function, a custom tool or allowed_tools for this model."
    raise InvalidBody(message, "tool_choice")


def _chosen(value: dict[str, Any], place: str) -> str:
    name, namespace = _name(value, place), _word(value, "namespace")
    return joined(namespace, name) if namespace else name


# --- Calls of them --------------------------------------------------------------------------------------------------


class Shapes:
    """How a client knows the tools it declared, by the names they have in the middle form."""

    __slots__ = ("_custom", "_namespaced", "_searches")

    def __init__(self, asked: Asked) -> None:
        self._custom: set[str] = set()
        self._namespaced: dict[str, tuple[str, str]] = {}
        self._searches = False
        given = getattr(asked, "input", None)
        items = given if isinstance(given, list) else []
        for _, tool in declared(asked, items):
            if isinstance(tool, dict):
                self._note(tool)

    def _note(self, tool: dict[str, Any], namespace: str | None = None) -> None:
        kind, name = tool.get("type"), text_of(tool.get("name"))
        if kind == "namespace":
            for inner in dicts(tool.get("tools")):
                self._note(inner, name)
        elif kind == SEARCH:
            self._searches = self._searches or tool.get("execution") == "client"
        else:
            full = joined(namespace, name) if namespace else name
            if namespace:
                self._namespaced[full] = (namespace, name)
            if kind == "custom":
                self._custom.add(full)

    def is_plain(self, call: ToolCall) -> bool:
        """Tell whether a call is that of a function, whose arguments can be written as they come."""
        return not (call.custom or call.name in self._custom or self._is_search(call))

    def _is_search(self, call: ToolCall) -> bool:
        return self._searches and call.name == SEARCH

    def item(self, call: ToolCall, id: str, status: str) -> dict[str, Any]:
        """Return a call as an item of the client's, with all of its arguments."""
        namespace, name = self._namespaced.get(call.name, (None, call.name))
        own = {"namespace": namespace} if namespace else {}
        if self._is_search(call):
            found = lenient(call.arguments.encode())
            arguments = found if isinstance(found, dict) else {}
            search = {"type": "tool_search_call", "id": f"tsc_{id}", "call_id": call.id, "execution": "client"}
            return {**search, "arguments": arguments, "status": status}
        if self.is_plain(call):
            called = {"type": "function_call", "id": f"fc_{id}", "call_id": call.id, "name": name, **own}
            return {**called, "arguments": call.arguments, "status": status}
        text = call.arguments if call.custom else _only_input(call.arguments)
        called = {"type": "custom_tool_call", "id": f"ctc_{id}", "call_id": call.id, "name": name, **own}
        return {**called, "input": text, "status": status}


def _only_input(arguments: str) -> str:
    """Return what a model wrote to a custom tool that it was shown as a function with one argument."""
    value = lenient(arguments.encode())
    if isinstance(value, dict) and len(value) == 1:
        inner = next(iter(value.values()))
        return inner if isinstance(inner, str) else _encode(inner).decode()
    return arguments
