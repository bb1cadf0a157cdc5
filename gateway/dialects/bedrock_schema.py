"""Pure: what Converse has to be told about tools, the answer's format and reasoning: these three depend on each other.

Responsible for which of them wins where they exclude each other (a forced tool and thinking), for tool names and ids in
Converse's alphabet, and for the tool that stands in for a JSON schema where a model knows none. What a model can do is
catalogue data (`blocks.Facts`). Neighbour: `bedrock_encode.py`, which puts the results into the body.

Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/tool-use.html,
https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-extended-thinking.html and
claude-messages-adaptive-thinking.html, https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from gateway.dialects import blocks
from gateway.dialects.bedrock_decode import JSON_TOOL

Value = TypeVar("Value")

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_USE_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_LONGEST = 64

# Both make signatures the models on Bedrock know.
_SIGNERS = ("bedrock", "anthropic")
# Ways to think that exclude a forced tool.
_EXCLUSIVE = ("budget", "adaptive")

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# Where the catalogue names no efforts: what every model that knows any knows.
_USUAL_EFFORTS = ("low", "medium", "high")
# The tokens an effort is worth where a model wants a budget, and the smallest it takes.
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
_LEAST_BUDGET = 1024

# Members of a JSON Schema that hold schemas by name, and those that hold a schema or a list of them.
_OF_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_SCHEMAS = frozenset({"items", "anyOf", "allOf", "oneOf", "prefixItems"})

_HINT = "Respond with one valid JSON object and nothing else: no explanation, no Markdown."
_JSON_TOOL_TEXT = "Call this tool to give your final answer. Its input is the answer."


class Notes:
    """A request on its way out, and what is noted of it: what was left out, and which tools got another name."""

    def __init__(self, request: blocks.Request, order: blocks.Order) -> None:
        self.request = request
        self.order = order
        self.thinks = False  # the model will think: it may not be sampled freely
        self.dropped: list[str] = []
        self.taken: set[str] = set()  # of `extra`
        self.names: dict[str, str] = {}  # ours -> the client's

    def drop(self, name: str) -> None:
        if name not in self.dropped:
            self.dropped.append(name)

    def wanted(self, name: str, value: Value | None, *, allowed: bool = True) -> Value | None:
        """Return a parameter's value, or None and note it where the model does not take it."""
        if value is None or value == []:
            return None
        if not allowed or name in self.order.model.unsupported:
            self.drop(name)
            return None
        return value

    def reprices(self, name: str) -> bool:
        return self.order.credits and name in self.order.repriced_by

    def native(self, name: str) -> dict[str, Any] | None:
        """Return an object the client sent by Converse's own name; on credits none: its price is not known."""
        value = self.request.extra.get(name)
        if not isinstance(value, dict) or self.order.credits:
            return None
        self.taken.add(name)
        return value

    def cache_point(self, ttl: blocks.CacheTtl | None) -> list[dict[str, Any]]:
        """Return what follows a block that ends a prefix worth caching: nothing where the model has no cache."""
        if ttl is None or "caching" not in self.order.model.capabilities:
            return []
        # Five minutes is what is meant without a word, and what older models know.
        return [{"cachePoint": {"type": "default"} | ({"ttl": ttl} if ttl == "1h" else {})}]

    def name(self, name: str) -> str:
        """Return a tool's name as Converse takes it."""
        if name != JSON_TOOL and _NAME.fullmatch(name):
            return name
        changed = _changed(name, r"[^a-zA-Z0-9_-]")
        self.names[changed] = name
        return changed


def use_id(id: str) -> str:
    """Return the id of a tool's use as Converse takes it: the same for a call and its result."""
    return id if _USE_ID.fullmatch(id) else _changed(id, r"[^a-zA-Z0-9_.:-]")


def _changed(text: str, bad: str) -> str:
    """Return a text without some characters and not too long. Two texts never become the same: it ends with a hash."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{re.sub(bad, '_', text)[: _LONGEST - len(digest) - 1]}_{digest}"


def parsed(arguments: str) -> dict[str, Any]:
    """Return the arguments of a call as the object Converse wants, whatever the model once wrote."""
    if not arguments.strip():
        return {}
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"__raw": arguments}


@dataclass(slots=True)
class Plan:
    """How tools, format and reasoning go into the body; `hint` goes behind the system prompt."""

    tools: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    hint: str | None = None
    max_tokens: int | None = None


def plan(notes: Notes) -> Plan:
    """Decide. A forced tool wins over thinking that can be left out, and loses to thinking that cannot."""
    made = Plan(max_tokens=_limit(notes))
    offered, choice = _offer(notes)
    if choice and not _can_force(notes):
        notes.drop("tool_choice")
        choice = None
    asked = notes.request.format
    stand_in = _format(notes, made, forced=bool(choice), is_free=not offered) if asked else None
    specs = [spec for tool in offered for spec in (_spec(notes, tool), *notes.cache_point(tool.cache))]
    if stand_in:
        specs.append(stand_in)
        choice = {"any": {}} if offered and not _is_choice_none(notes) else {"tool": {"name": JSON_TOOL}}
    _think(notes, made, forced=bool(choice))
    if specs:
        made.tools = {"tools": specs} | ({"toolChoice": choice} if choice else {})
    return made


def _limit(notes: Notes) -> int | None:
    limit = notes.order.max_output or notes.request.max_output
    most = notes.order.model.max_output_tokens
    return min(limit, most) if limit and most else limit


# --- Tools ----------------------------------------------------------------------------------------------------------


def _offer(notes: Notes) -> tuple[list[blocks.Tool], dict[str, Any] | None]:
    """Return the tools to offer and the choice that forces one, if any does."""
    request = notes.request
    tools = [tool for tool in request.tools if isinstance(tool, blocks.Tool)]
    for tool in request.tools:
        if isinstance(tool, blocks.ServerTool):
            notes.drop("web_search_options" if tool.kind == "web_search" else "tools")
    choice = request.choice
    if choice and choice.mode in ("named", "allowed"):
        among = [tool for tool in tools if tool.name in choice.names]
        if not among:
            raise blocks.Unsupported("tool_choice", "tool_choice names no tool that is among tools.")
        if choice.mode == "allowed":
            tools = among
    past = _past_tools(request)
    if _is_choice_none(notes):
        if not past:
            return [], None
        notes.drop("tool_choice")  # Converse has no `none`, and wants the tools of the past described
    if not tools and past:
        return [blocks.Tool(name=name) for name in past], None
    return tools, _forced(notes, choice, tools) if choice and tools else None


def _is_choice_none(notes: Notes) -> bool:
    return notes.request.choice is not None and notes.request.choice.mode == "none"


def _past_tools(request: blocks.Request) -> list[str]:
    """Return the names of the tools that were called so far, each once."""
    past = [block for message in request.messages for block in message.blocks]
    names = {block.name: None for block in past if isinstance(block, blocks.ToolCall)}
    if not names and any(isinstance(block, blocks.ToolResult) for block in past):
        return ["tool"]
    return list(names)


def _forced(notes: Notes, choice: blocks.Choice, tools: list[blocks.Tool]) -> dict[str, Any] | None:
    if choice.mode == "named":
        return {"tool": {"name": notes.name(next(tool.name for tool in tools if tool.name in choice.names))}}
    return {"any": {}} if choice.mode == "required" or (choice.mode == "allowed" and choice.required) else None


def _can_force(notes: Notes) -> bool:
    model = notes.order.model
    return model.thinking != "always_on" and "tool_choice" not in model.unsupported


def _spec(notes: Notes, tool: blocks.Tool) -> dict[str, Any]:
    parameters = tool.parameters or {}
    if tool.custom:  # its input is free text: the one string of a function
        parameters = {"properties": {"input": {"type": "string"}}, "required": ["input"]}
    spec: dict[str, Any] = {"name": notes.name(tool.name), "inputSchema": {"json": {"type": "object"} | parameters}}
    if tool.description and tool.description.strip():
        spec["description"] = tool.description
    if tool.strict:
        if "json_schema" in notes.order.model.capabilities:
            spec["strict"] = True
        else:
            notes.drop("strict")
    return {"toolSpec": spec}


# --- Format ---------------------------------------------------------------------------------------------------------


def _format(notes: Notes, made: Plan, *, forced: bool, is_free: bool) -> dict[str, Any] | None:
    """Put the format of the answer into the plan, or return the tool that stands in for it."""
    asked, model = notes.request.format, notes.order.model
    assert asked is not None  # noqa: S101  (its only caller has looked)
    schema = asked.schema if asked.kind == "json_schema" else None
    if schema is not None and "json_schema" in model.capabilities:
        made.output["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": _named_schema(asked, schema)}}
        return None
    if schema is not None and not forced and "tools" in model.capabilities and _can_force(notes):
        parameters = {"type": "object"} | schema
        return {"toolSpec": {"name": JSON_TOOL, "description": _JSON_TOOL_TEXT, "inputSchema": {"json": parameters}}}
    if not forced:  # else the answer is the call of a tool
        text = msgspec.json.encode(schema).decode() if schema is not None else ""
        made.hint = _HINT + (f" It must be valid against this JSON Schema: {text}" if text else "")
        if not is_free:
            made.hint = made.hint.replace("Respond", "When you do not call a tool, respond")
    return None


def _named_schema(asked: blocks.Format, schema: dict[str, Any]) -> dict[str, str]:
    text = msgspec.json.encode(_closed(schema)).decode()  # Converse wants it as text
    named = {"schema": text, "name": asked.name, "description": asked.description}
    return {name: value for name, value in named.items() if value}


def _closed(schema: Any) -> Any:
    """Return a schema whose objects say `additionalProperties: false` where they say nothing: models insist on it."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _OF_SCHEMAS and isinstance(value, dict):
            closed[name] = {key: _closed(inner) for key, inner in value.items()}
        else:
            closed[name] = _closed(value) if name in _SCHEMAS else value
    return {"additionalProperties": False, **closed} if closed.get("type") == "object" else closed


# --- Reasoning ------------------------------------------------------------------------------------------------------


def _think(notes: Notes, made: Plan, *, forced: bool) -> None:
    """Put into the plan how much the model shall think, in the words of the family the catalogue says it is of."""
    asked, kind = notes.request.reasoning, notes.order.model.thinking
    notes.thinks = kind == "always_on"
    if asked is None or not (asked.effort or asked.budget or asked.mode):
        return
    is_off = asked.mode == "disabled" or (asked.effort == "none" and asked.budget is None)
    if kind == "none" or "reasoning_effort" in notes.order.model.unsupported:
        if not is_off:
            notes.drop("reasoning_effort")
    elif not is_off and kind in _EXCLUSIVE and (forced or (kind == "budget" and _lost_thread(notes.request))):
        notes.drop("reasoning_effort")  # these models refuse both at once
    else:
        _WAYS[kind](notes, made, None if is_off else asked)


def _lost_thread(request: blocks.Request) -> bool:
    """Tell whether the last turn called tools without the reasoning before it: clients lose it, models insist on it."""
    last: list[blocks.Block] = []
    for message in reversed(request.messages):
        if message.role == "assistant":
            last = message.blocks + last
        elif last:
            break
    if not any(isinstance(block, blocks.ToolCall) for block in last):
        return False
    return not any(is_signed(block) for block in last)


def is_signed(block: blocks.Block) -> bool:
    """Tell whether a block is reasoning the models on Bedrock know as their own."""
    if isinstance(block, blocks.Thinking):
        return bool(block.signature) and block.dialect in _SIGNERS
    return isinstance(block, blocks.Redacted) and block.dialect in _SIGNERS


def _by_budget(notes: Notes, made: Plan, asked: blocks.Reasoning | None) -> None:
    if asked is None:
        return  # they do not think unasked
    budget = max(asked.budget or BUDGETS.get(asked.effort or "", BUDGETS["medium"]), _LEAST_BUDGET)
    held = notes.order.max_output
    if held is not None:  # the limit is fixed: the budget must fit into it
        budget = min(budget, (made.max_tokens or held) - 1)
    elif made.max_tokens is not None and made.max_tokens <= budget:
        most = notes.order.model.max_output_tokens
        made.max_tokens = min(budget + made.max_tokens, most or budget + made.max_tokens)
        budget = min(budget, made.max_tokens - 1)
    if budget < _LEAST_BUDGET:
        notes.drop("reasoning_effort")
        return
    notes.thinks = True
    made.fields["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _adaptively(notes: Notes, made: Plan, asked: blocks.Reasoning | None) -> None:
    if asked is None and notes.order.model.thinking == "adaptive":
        made.fields["thinking"] = {"type": "disabled"}
        return
    notes.thinks = True
    shown = "omitted" if asked is not None and asked.visible is False else "summarized"
    made.fields["thinking"] = {"type": "adaptive", "display": shown}
    if asked is None or asked.effort or asked.budget:
        # In the model's own words: Converse has `outputConfig.effort` too, but only of late.
        made.fields["output_config"] = {"effort": _effort(notes, asked)}


def _by_effort(notes: Notes, made: Plan, asked: blocks.Reasoning | None) -> None:
    made.fields["reasoning_effort"] = _effort(notes, asked)


def _by_level(notes: Notes, made: Plan, asked: blocks.Reasoning | None) -> None:
    """Amazon's own models: the highest level wants no limit and no sampling parameters."""
    if asked is None:
        made.fields["reasoningConfig"] = {"type": "disabled"}
        return
    level = _effort(notes, asked)
    if level == "high" and notes.order.max_output is not None:
        level = "medium"
    elif level == "high":
        notes.thinks = True
        if made.max_tokens is not None:
            made.max_tokens = None
            notes.drop("max_completion_tokens")
    made.fields["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": level}


_WAYS = {
    "budget": _by_budget,
    "adaptive": _adaptively,
    "always_on": _adaptively,
    "effort": _by_effort,
    "level": _by_level,
}


def _effort(notes: Notes, asked: blocks.Reasoning | None) -> str:
    """Return the effort the model knows that is nearest to what was asked, not above it if there is a choice."""
    known = [effort for effort in EFFORTS if effort in (notes.order.model.efforts or _USUAL_EFFORTS)]
    if asked is None:
        return known[0]
    wanted = asked.effort or _effort_of(asked.budget)
    return max(_up_to(wanted, known), key=EFFORTS.index, default=next(e for e in known if e != "none"))


def _up_to(wanted: str, known: list[str]) -> Iterator[str]:
    highest = EFFORTS.index(wanted) if wanted in EFFORTS else EFFORTS.index("medium")
    return (effort for effort in known if effort != "none" and EFFORTS.index(effort) <= highest)


def _effort_of(budget: int | None) -> str:
    if budget is None:
        return "medium"
    return "low" if budget <= 2048 else "medium" if budget <= 8192 else "high"
