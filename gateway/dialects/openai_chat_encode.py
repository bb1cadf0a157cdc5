"""Pure: blocks -> a chat completion request for a provider of OpenAI's dialect. And the door to the other way: answers.

Responsible for what most OpenAI-compatible servers take: `system` for developers, texts as plain strings, tool results
at once behind their calls, functions for free-text tools. What one provider wants otherwise is data of the catalogue
and done by `openai_chat.forward`, which every body goes through. What is left out is named. Never knows a model's name.
Neighbours: `openai_chat_encode_messages.py` (the conversation), `openai_chat_encode_answer.py` (to clients).
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.dialects import openai_chat, wire
from gateway.dialects.blocks import (
    Choice,
    Facts,
    Format,
    Order,
    Reasoning,
    Request,
    Sent,
    ServerTool,
    Tool,
    Unsupported,
)
from gateway.dialects.openai_chat_encode_answer import StreamWriter, answer
from gateway.dialects.openai_chat_encode_messages import Names, messages

__all__ = ["StreamWriter", "answer", "request"]

_encode = msgspec.json.Encoder().encode
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# What servers know that do not say what they know.
_USUAL_EFFORTS = ("low", "medium", "high")
_MAX_STOPS = 4
_MAX_USER = 64
# Without a schema of parameters some servers refuse a tool.
_NO_PARAMETERS = {"type": "object", "properties": {}}
# What a tool that takes free text becomes: a function of one text.
_FREE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The input of the tool, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}


def request(request: Request, order: Order) -> Sent:
    """Return the body for a provider. Raises: blocks.Unsupported."""
    dropped = [name for name in request.extra if name not in order.ours and name != "audio"]
    if request.stream and request.n is not None and request.n > 1:
        raise Unsupported(
            "n", "Several answers at once cannot be streamed from this model: ask without stream, or n = 1."
        )
    names = Names()
    body: dict[str, Any] = {"model": order.model.upstream}
    body["messages"] = messages(request, names, dropped)
    body |= _sampling(request)
    body |= _tools(request, names, order.model, dropped)
    body |= _reasoning(request.reasoning, order.model, dropped)
    body |= _rest(request, dropped)
    limit = order.max_output or _within(request.max_output, order.model.max_output_tokens)
    if limit is not None:
        body[order.model.max_tokens_field] = limit
    if request.stream:
        body["stream"] = True
    if not body["messages"]:
        raise Unsupported("messages", "There is nothing in the messages that this model could be sent.")
    try:
        sent = openai_chat.forward(openai_chat.read(_encode(body)), order)
    except wire.InvalidBody as error:
        raise Unsupported(error.param or "messages", str(error)) from error
    sent.dropped = sorted({*dropped, *sent.dropped})
    sent.names = names.changed
    return sent


def _within(limit: int | None, most: int | None) -> int | None:
    """Return a client's limit, no more than the model can write: clients of other dialects must always name one."""
    return limit if limit is None or most is None else min(limit, most)


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _sampling(request: Request) -> dict[str, Any]:
    return _given(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        n=request.n,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs if request.logprobs else None,
    )


def _rest(request: Request, dropped: list[str]) -> dict[str, Any]:
    if len(request.stop) > _MAX_STOPS:
        dropped.append("stop")
    # A tier by the name of "as usual" is not worth the trouble it makes with servers that have none.
    tier = request.service_tier if request.service_tier not in ("auto", "default") else None
    return _given(
        stop=request.stop[:_MAX_STOPS] or None,
        response_format=_format(request.format),
        service_tier=tier,
        verbosity=request.verbosity,
        user=_user(request.user),
        modalities=_modalities(request),
        audio=request.extra.get("audio"),
    )


def _user(user: str | None) -> str | None:
    """Return who asks, as short as OpenAI takes it: a longer name becomes its digest."""
    if user is None or len(user) <= _MAX_USER:
        return user
    return hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()


def _modalities(request: Request) -> list[str] | None:
    if "audio" in (request.modalities or ()) and "audio" not in request.extra:
        raise Unsupported("modalities", "Sound as an answer needs a voice, which only chat completions can name.")
    return request.modalities if request.modalities not in (None, [], ["text"]) else None


def _format(format: Format | None) -> dict[str, Any] | None:
    if format is None:
        return None
    if format.kind == "json_object":
        return {"type": "json_object"}
    schema = {"name": format.name or "answer", "schema": format.schema or {}}
    told = _given(description=format.description, strict=format.strict)
    return {"type": "json_schema", "json_schema": schema | told}


# --- Reasoning ------------------------------------------------------------------------------------------------------


def _reasoning(reasoning: Reasoning | None, model: Facts, dropped: list[str]) -> dict[str, Any]:
    """Return how much to think, as an effort: the only word for it that these servers share."""
    effort = _effort(reasoning)
    if effort is None:
        return {}
    known = model.efforts or _USUAL_EFFORTS
    if model.thinking != "none" and (effort != "none" or "none" in known):
        return {"reasoning_effort": _nearest(effort, known)}
    if effort != "none" or model.thinking != "none":  # not to think is what a model that cannot does anyway
        dropped.append("reasoning_effort")
    return {}


def _effort(reasoning: Reasoning | None) -> str | None:
    if reasoning is None:
        return None
    if reasoning.mode == "disabled":
        return "none"
    if reasoning.effort is not None or reasoning.budget is None:
        return reasoning.effort
    if reasoning.budget == 0:
        return "none"
    return "low" if reasoning.budget <= 2048 else "medium" if reasoning.budget <= 8192 else "high"


def _nearest(effort: str, known: Iterable[str]) -> str:
    """Return the effort itself, else the greatest that is less, else the least of all."""
    ranked = sorted(known, key=_EFFORTS.index)
    wanted = _EFFORTS.index(effort) if effort in _EFFORTS else _EFFORTS.index("medium")
    fitting = [each for each in ranked if _EFFORTS.index(each) <= wanted and (each != "none" or wanted == 0)]
    return fitting[-1] if fitting else next((each for each in ranked if each != "none"), ranked[0])


# --- Tools ----------------------------------------------------------------------------------------------------------


def _tools(request: Request, names: Names, model: Facts, dropped: list[str]) -> dict[str, Any]:
    """Return tools, choice and `parallel_tool_calls`: without tools none of them may be there."""
    choice = request.choice
    tools = [tool for tool in request.tools if isinstance(tool, Tool)]
    body = _search(request.tools, dropped)
    if choice is not None and choice.mode == "allowed":
        tools = [tool for tool in tools if tool.name in choice.names]
    if not tools:
        if choice is not None and (choice.mode in ("named", "required") or choice.required):
            raise Unsupported("tool_choice", "tool_choice demands a call, but there is no tool this model could call.")
        return body
    body["tools"] = [_tool(tool, names) for tool in tools]
    if choice is not None:
        body["tool_choice"] = _choice(choice, tools, names)
    # Yes is what every server does unasked.
    return body | _given(parallel_tool_calls=False if request.parallel is False else None)


def _tool(tool: Tool, names: Names) -> dict[str, Any]:
    function: dict[str, Any] = {"name": names.of(tool.name)}
    function |= _given(description=tool.description)
    function["parameters"] = _FREE_TEXT if tool.custom else tool.parameters or _NO_PARAMETERS
    return {"type": "function", "function": function | _given(strict=None if tool.custom else tool.strict)}


def _search(tools: list[Tool | ServerTool], dropped: list[str]) -> dict[str, Any]:
    """Return `web_search_options` for a search of another dialect; tools only their own provider runs are left out."""
    body: dict[str, Any] = {}
    for tool in tools:
        if not isinstance(tool, ServerTool):
            continue
        if tool.kind != "web_search":
            dropped.append("tools")
            continue
        place = tool.value.get("user_location")
        near = {name: value for name, value in place.items() if name != "type"} if isinstance(place, dict) else {}
        size = tool.value.get("search_context_size")
        body["web_search_options"] = _given(
            search_context_size=size if isinstance(size, str) else None,
            user_location={"type": "approximate", "approximate": near} if near else None,
        )
    return body


def _choice(choice: Choice, tools: list[Tool], names: Names) -> Any:
    if choice.mode != "named":
        return choice.mode if choice.mode != "allowed" else "required" if choice.required else "auto"
    if not any(tool.name in choice.names for tool in tools):
        raise Unsupported("tool_choice", "tool_choice names a tool that this model cannot call.")
    return {"type": "function", "function": {"name": names.of(choice.names[0])}}
