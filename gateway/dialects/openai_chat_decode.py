"""Pure: a chat completion request -> blocks. And the door to the other way: what a provider of this dialect answered.

Responsible for the parameters, tools and choices, in OpenAI's words and in those that clients of LiteLLM, OpenRouter
and Respan use (`thinking`, `reasoning`, `top_k`). What is unknown is kept in `extra`: it is reported, not lost unseen.
Neighbours: `openai_chat_decode_messages.py` (the conversation), `openai_chat_decode_answer.py` (answers and streams),
`openai_chat_encode.py` (the other direction). Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from typing import Any

import msgspec

from gateway.dialects import openai_chat, wire
from gateway.dialects.blocks import Choice, Format, Reasoning, Request, ServerTool, Tool
from gateway.dialects.openai_chat_decode_answer import StreamDecoder, answer
from gateway.dialects.openai_chat_decode_messages import cache_of, messages, wrong
from gateway.dialects.openai_chat_reasoning import CHAT
from gateway.dialects.wire import member

__all__ = ["StreamDecoder", "answer", "request"]

_ANY = msgspec.json.Decoder()
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_MODES = frozenset({"enabled", "adaptive", "disabled", "between_tools"})
# Members that are read below, or that are nobody's business but this dialect's.
_READ = frozenset(
    (
        *("model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens"),
        *("temperature", "top_p", "top_k", "stop", "seed", "presence_penalty", "frequency_penalty"),
        *("logprobs", "top_logprobs", "tools", "tool_choice", "functions", "function_call", "parallel_tool_calls"),
        *("web_search_options", "response_format", "reasoning_effort", "reasoning", "thinking", "include_reasoning"),
        *("service_tier", "verbosity", "user", "safety_identifier", "modalities"),
    )
)


def request(asked: openai_chat.Request) -> Request:
    """Return a request in the middle form. Raises: wire.InvalidBody naming the member that is malformed."""
    members = asked.members
    system, turns = messages(asked.messages)
    return Request(
        dialect=CHAT,
        model=asked.model,
        system=system,
        messages=turns,
        stream=asked.stream,
        max_output=asked.max_output,
        temperature=_number(members, "temperature"),
        top_p=_number(members, "top_p"),
        top_k=member(members, "top_k", int, "a whole number"),
        stop=_stop(members),
        n=asked.n if asked.n > 1 else None,
        seed=member(members, "seed", int, "a whole number"),
        presence_penalty=_number(members, "presence_penalty"),
        frequency_penalty=_number(members, "frequency_penalty"),
        logprobs=member(members, "logprobs", bool, "true or false"),
        top_logprobs=member(members, "top_logprobs", int, "a whole number"),
        tools=_tools(members),
        choice=_choice(members),
        parallel=_parallel(members),
        format=_format(members),
        reasoning=_reasoning(members),
        service_tier=member(members, "service_tier", str, "a string"),
        verbosity=member(members, "verbosity", str, "a string"),
        user=member(members, "safety_identifier", str, "a string") or member(members, "user", str, "a string"),
        modalities=_words(members, "modalities"),
        extra=_extra(members),
    )


def _number(members: wire.Members, name: str) -> float | None:
    raw = members.get(name)
    if raw is None:
        return None
    value = _ANY.decode(raw)
    if value is not None and type(value) not in (int, float):
        raise wrong(name, "must be a number")
    return None if value is None else float(value)


def _words(members: wire.Members, name: str) -> list[str] | None:
    value: list[Any] | None = member(members, name, list, "a list of strings")
    if value is not None and not all(isinstance(word, str) for word in value):
        raise wrong(name, "must be a list of strings")
    return value


def _stop(members: wire.Members) -> list[str]:
    if bytes(members.get("stop", b"null")).startswith(b"["):
        return _words(members, "stop") or []
    one: str | None = member(members, "stop", str, "a string or a list of strings")
    return [one] if one else []


def _extra(members: wire.Members) -> dict[str, Any]:
    """Return what is not read here, without what says nothing."""
    rest = {name: _ANY.decode(raw) for name, raw in members.items() if name not in _READ}
    return {name: value for name, value in rest.items() if value is not None}


# --- Tools ----------------------------------------------------------------------------------------------------------


def _tools(members: wire.Members) -> list[Tool | ServerTool]:
    listed = member(members, "tools", list, "a list") or []
    found = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(listed)]
    for index, function in enumerate(member(members, "functions", list, "a list") or []):
        found.append(_function(function, f"functions[{index}]"))
    search: dict[str, Any] | None = member(members, "web_search_options", dict, "an object")
    if search is not None:
        found.append(ServerTool(dialect=CHAT, kind="web_search", value=_search(search)))
    return found


def _tool(tool: object, at: str) -> Tool | ServerTool:
    if not isinstance(tool, dict):
        raise wrong(at, "must be an object")
    kind = tool.get("type") or ("function" if "function" in tool or "parameters" in tool else None)
    if kind == "function":
        found = _function(tool.get("function", tool), f"{at}.function")
        found.cache = cache_of(tool) or found.cache
        return found
    if kind == "custom":
        return _custom(tool.get("custom", tool), f"{at}.custom")
    if not isinstance(kind, str):
        raise wrong(f"{at}.type", "must be a string")
    return ServerTool(dialect=CHAT, kind="web_search" if kind.startswith("web_search") else "other", value=tool)


def _function(function: object, at: str) -> Tool:
    if not isinstance(function, dict):
        raise wrong(at, "must be an object")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise wrong(f"{at}.parameters", "must be an object")
    strict = function.get("strict")
    return Tool(
        name=_tool_name(function, at),
        description=_text(function, "description", at),
        parameters=parameters,
        strict=strict if isinstance(strict, bool) else None,
        cache=cache_of(function),
    )


def _custom(custom: object, at: str) -> Tool:
    if not isinstance(custom, dict):
        raise wrong(at, "must be an object")
    format = custom.get("format")
    grammar = format.get("grammar") if isinstance(format, dict) else None
    if isinstance(grammar, dict):
        format = {"type": "grammar", **grammar}  # flat, as everybody else has it
    return Tool(
        name=_tool_name(custom, at),
        description=_text(custom, "description", at),
        custom=True,
        format=format if isinstance(format, dict) else None,
        cache=cache_of(custom),
    )


def _tool_name(value: dict[str, Any], at: str) -> str:
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise wrong(f"{at}.name", "must be a string that is not empty")
    return name


def _text(value: dict[str, Any], name: str, at: str) -> str | None:
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise wrong(f"{at}.{name}", "must be a string")
    return text


def _search(options: dict[str, Any]) -> dict[str, Any]:
    """Return web search as a tool, its place flat as every other dialect has it."""
    place = options.get("user_location")
    inner = place.get("approximate") if isinstance(place, dict) else None
    value = {"type": "web_search"} | {name: each for name, each in options.items() if each is not None}
    if isinstance(inner, dict):
        value["user_location"] = {"type": "approximate", **inner}
    return value


def _choice(members: wire.Members) -> Choice | None:
    name = "tool_choice" if "tool_choice" in members else "function_call"
    if name not in members:
        return None
    value = _ANY.decode(members[name])
    if value is None:
        return None
    if isinstance(value, str):
        return _choice_by_word(value, name)
    if not isinstance(value, dict):
        raise wrong(name, "must be a string or an object")
    if value.get("type") == "allowed_tools":
        return _allowed(value.get("allowed_tools", value), f"{name}.allowed_tools")
    for holder in (value.get("function"), value.get("custom"), value):
        if isinstance(holder, dict) and isinstance(holder.get("name"), str):
            return Choice(mode="named", names=[holder["name"]])
    if isinstance(value.get("type"), str):  # Anthropic's form of the words
        return _choice_by_word(value["type"], f"{name}.type")
    raise wrong(f"{name}.function.name", "must be a string")


def _choice_by_word(word: str, at: str) -> Choice:
    match word:
        case "auto":
            return Choice(mode="auto")
        case "none":
            return Choice(mode="none")
        case "required" | "any":
            return Choice(mode="required")
    raise wrong(at, "must be none, auto, required or the name of a tool")


def _allowed(value: object, at: str) -> Choice:
    listed = value.get("tools") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(listed, list):
        raise wrong(f"{at}.tools", "must be a list")
    names = []
    for index, tool in enumerate(listed):
        place = f"{at}.tools[{index}]"
        if not isinstance(tool, dict):
            raise wrong(place, "must be an object")
        holder = tool.get("function") or tool.get("custom") or tool
        if isinstance(holder, dict) and isinstance(holder.get("name"), str):
            names.append(holder["name"])
    return Choice(mode="allowed", names=names, required=value.get("mode") == "required")


def _parallel(members: wire.Members) -> bool | None:
    """Return whether several tools may be called at once; whoever sends `functions` can take one call only."""
    said: bool | None = member(members, "parallel_tool_calls", bool, "true or false")
    if said is None and "functions" in members and "tools" not in members:
        return False
    return said


# --- Formats and reasoning ------------------------------------------------------------------------------------------


def _format(members: wire.Members) -> Format | None:
    value: dict[str, Any] | None = member(members, "response_format", dict, "an object")
    kind = value.get("type") if value else None
    if value is None or kind == "text":
        return None
    if kind == "json_object":
        return Format(kind="json_object")
    if kind != "json_schema":
        raise wrong("response_format.type", "must be text, json_object or json_schema")
    inner = value.get("json_schema")
    if not isinstance(inner, dict) or not isinstance(inner.get("schema", {}), dict):
        raise wrong("response_format.json_schema", "must be an object with a schema")
    strict = inner.get("strict")
    return Format(
        kind="json_schema",
        schema=inner.get("schema", {}),
        name=_text(inner, "name", "response_format.json_schema"),
        description=_text(inner, "description", "response_format.json_schema"),
        strict=strict if isinstance(strict, bool) else None,
    )


def _reasoning(members: wire.Members) -> Reasoning | None:
    """Return how much to think. `thinking` says more than `reasoning`, which says more than `reasoning_effort`."""
    effort: str | None = member(members, "reasoning_effort", str, "a string")
    found = Reasoning(effort=_effort(effort, "reasoning_effort"))
    if member(members, "include_reasoning", bool, "true or false") is False:
        found.visible = False
    _openrouter(found, member(members, "reasoning", dict, "an object") or {})
    _anthropic(found, member(members, "thinking", dict, "an object") or {})
    return None if found == Reasoning() else found


def _effort(value: object, at: str) -> str | None:
    if value is not None and value not in _EFFORTS:
        raise wrong(at, f"must be one of {', '.join(_EFFORTS)}")
    return value if isinstance(value, str) else None


def _openrouter(found: Reasoning, value: dict[str, Any]) -> None:
    found.effort = _effort(value.get("effort"), "reasoning.effort") or found.effort
    found.budget = _budget(value.get("max_tokens"), "reasoning.max_tokens")
    if value.get("enabled") is False:
        found.mode = "disabled"
    elif found.budget is not None:
        found.mode = "enabled"
    elif value.get("enabled") is True and found.effort is None:
        found.effort = "medium"  # as documented there
    if isinstance(value.get("exclude"), bool):
        found.visible = not value["exclude"]


def _anthropic(found: Reasoning, value: dict[str, Any]) -> None:
    if not value:
        return
    mode = value.get("type")
    if mode not in _MODES:
        raise wrong("thinking.type", "must be enabled, adaptive or disabled")
    found.mode = mode
    found.budget = _budget(value.get("budget_tokens"), "thinking.budget_tokens") or found.budget
    if isinstance(value.get("display"), str):
        found.visible = value["display"] != "omitted"


def _budget(value: object, at: str) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= wire.MAX_OUTPUT_TOKENS:
        raise wrong(at, "must be a number of tokens")
    return value
