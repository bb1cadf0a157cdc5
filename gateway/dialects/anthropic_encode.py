"""Pure: the middle form -> Anthropic's messages dialect: what goes to a provider, and what a client gets.

Responsible for a request's parameters, and for what excludes what: a model that thinks is not sampled freely, and is
not forced to call a tool. What a model can do is catalogue data (`blocks.Facts`). Neighbours: `anthropic_prompt`
(system, messages, tools), `anthropic_writer` (answers and streams for clients, which are here by name too).

Source: https://platform.claude.com/docs/en/api/messages (2026-11), and refusals seen in recorded traffic.
"""

import hashlib
from typing import Any

import msgspec

from gateway.dialects import blocks
from gateway.dialects.anthropic import DEFAULT_MAX_TOKENS, VERTEX_VERSION, path_of
from gateway.dialects.anthropic_decode import JSON_TOOL
from gateway.dialects.anthropic_prompt import Prompt
from gateway.dialects.anthropic_schema import closed
from gateway.dialects.anthropic_writer import StreamWriter, answer

__all__ = ["StreamWriter", "answer", "request"]

VERSION = "2023-06-01"

_encode = msgspec.json.Encoder().encode

# Thinking in tokens, where a model is told a budget: what LiteLLM makes of the same words.
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
_LEAST_BUDGET = 1024
_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
_USUAL_EFFORTS = ("low", "medium", "high")
# An effort, where only a budget was said: up to so many tokens.
_BY_BUDGET = ((2_048, "low"), (8_192, "medium"))
# Below this `top_p` is refused while a model thinks.
_LEAST_THINKING_TOP_P = 0.95

_TIERS = {"auto": "auto", "default": "standard_only", "priority": "auto", "fast": "auto"}
# Parameters nothing here can follow, by the value that asks for nothing.
_NOTHING_LIKE_IT: dict[str, tuple[Any, ...]] = {
    "seed": (),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
}

_ANY_JSON = "Answer with one JSON object and nothing else: no other text, no code fence."
_THIS_JSON = "Answer with JSON that fits this JSON Schema and nothing else: no other text, no code fence.\n"
_TOOL_TEXT = "Give your final answer by calling this tool. Its input is the answer."


def request(request: blocks.Request, order: blocks.Order) -> blocks.Sent:
    """Return what to send for a client of another dialect.

    Raises: blocks.Unsupported where the model cannot do what was asked and leaving it out would change the meaning.
    """
    return _Body(request, order).sent()


class _Body:
    """A request on its way out, parameter by parameter."""

    __slots__ = ("_body", "_drop", "_facts", "_json_tool", "_limit", "_order", "_prompt", "_request", "_thinks")

    def __init__(self, request: blocks.Request, order: blocks.Order) -> None:
        self._request = request
        self._order = order
        self._facts = order.model
        self._prompt = Prompt(request, order)
        self._drop = self._prompt.drop
        self._json_tool: dict[str, Any] | None = None
        self._thinks = False
        self._limit = self._max_tokens()
        self._body: dict[str, Any] = {}

    def sent(self) -> blocks.Sent:
        self._refuse()
        body, vertex = self._body, self._order.variant == "vertex"
        tools, system, messages = self._prompt.tools(), self._prompt.system(), self._prompt.messages()
        hints = self._format()
        if self._json_tool is not None:
            tools.append(self._json_tool)
        choice = self._choice(tools)
        self._reasoning(messages, is_forced=choice.get("type") in ("any", "tool"))
        body |= {"anthropic_version": VERTEX_VERSION} if vertex else {"model": self._facts.upstream}
        body["max_tokens"] = self._limit
        if system or hints:
            body["system"] = system + hints
        body["messages"] = messages
        if tools:
            body["tools"] = tools
        if choice:
            body["tool_choice"] = choice
        self._sampling()
        self._rest()
        self._prompt.unmark()
        return self._made(vertex=vertex)

    def _made(self, *, vertex: bool) -> blocks.Sent:
        return blocks.Sent(
            body=_encode(self._body),
            path=path_of(self._order, stream=self._request.stream),
            headers={} if vertex else {"anthropic-version": VERSION},
            dropped=self._prompt.dropped,
            names=self._prompt.names,
        )

    def _refuse(self) -> None:
        if self._request.n is not None and self._request.n > 1:
            raise blocks.Unsupported("n", "This model gives one answer at a time: ask for n = 1.")
        if "audio" in (self._request.modalities or ()):
            raise blocks.Unsupported("modalities", "This model answers in text: leave audio out of modalities.")

    def _max_tokens(self) -> int:
        """Return the limit: the smallest of what is held, what the client wants and what the model can write."""
        most, held, wanted = self._facts.max_output_tokens, self._order.max_output, self._request.max_output
        limits = [limit for limit in (most, held, wanted) if limit is not None]
        if held is None and wanted is None and most is None:
            return DEFAULT_MAX_TOKENS
        return max(min(limits), 1)

    # --- the form of the answer ------------------------------------------------------------------------------------

    def _format(self) -> list[dict[str, Any]]:
        """Have the answer in the form that was asked for; return what the model has to be told about it."""
        wanted = self._request.format
        if wanted is None:
            return []
        if wanted.kind == "json_object" or wanted.schema is None:
            return [{"type": "text", "text": _ANY_JSON}]
        enforced = closed(wanted.schema) if "json_schema" in self._facts.capabilities else None
        if enforced is not None:
            self._body["output_config"] = {"format": {"type": "json_schema", "schema": enforced}}
            return []
        if wanted.schema.get("type") != "object" or self._facts.thinking == "always_on":
            return [{"type": "text", "text": _THIS_JSON + _encode(wanted.schema).decode()}]
        told = f"{_TOOL_TEXT}\n\n{wanted.description}" if wanted.description else _TOOL_TEXT
        self._json_tool = {"name": JSON_TOOL, "description": told, "input_schema": wanted.schema}
        return []

    # --- tools -----------------------------------------------------------------------------------------------------

    def _choice(self, tools: list[dict[str, Any]]) -> dict[str, Any]:
        """Return which tools may be called; nothing where that goes without saying."""
        if not tools:
            return {}
        if self._json_tool is not None and not self._offers_tools(tools):
            return {"type": "tool", "name": JSON_TOOL, "disable_parallel_tool_use": True}
        choice = self._wanted_choice()
        if choice.get("type") in ("any", "tool") and self._facts.thinking == "always_on":
            # Always thinking, it refuses to be forced.
            self._drop("tool_choice")
            choice = {"type": "auto"}
        if self._request.parallel is False and choice.get("type") != "none":
            choice = (choice or {"type": "auto"}) | {"disable_parallel_tool_use": True}
        return choice

    def _offers_tools(self, tools: list[dict[str, Any]]) -> bool:
        choice = self._request.choice
        return len(tools) > 1 and (choice is None or choice.mode != "none")

    def _wanted_choice(self) -> dict[str, Any]:
        choice = self._request.choice
        if choice is not None and choice.mode == "named" and choice.names:
            return {"type": "tool", "name": self._prompt.name(choice.names[0])}
        if self._json_tool is not None:
            return {"type": "any"}  # the answer is a call too
        if choice is None:
            return {}
        is_required = choice.mode == "required" or (choice.mode == "allowed" and choice.required)
        return {"type": "any" if is_required else "none" if choice.mode == "none" else "auto"}

    # --- thinking --------------------------------------------------------------------------------------------------

    def _reasoning(self, messages: list[dict[str, Any]], *, is_forced: bool) -> None:
        """Have the model think as much as was asked for, in the way it is told so."""
        wanted = self._request.reasoning
        kind = self._facts.thinking
        self._thinks = kind == "always_on"
        if wanted is None:
            return
        if not self._facts.unsupported.isdisjoint(("reasoning_effort", "thinking")):
            self._drop("reasoning_effort")
            return
        is_off = wanted.mode == "disabled" or (wanted.effort == "none" and wanted.mode is None)
        # Of a model the catalogue does not know, a client that uses Anthropic's own words knows more.
        is_told = kind == "none" and wanted.mode is not None
        if kind in ("adaptive", "always_on") or (is_told and wanted.mode in ("adaptive", "between_tools")):
            self._adaptive(wanted, is_off=is_off, is_forced=is_forced)
        elif kind in ("effort", "level"):
            self._set_effort("minimal" if is_off else wanted.effort or _effort_of(wanted.budget))
        elif is_off:
            return
        elif is_forced or not (kind == "budget" or is_told) or not _may_think(messages):
            self._drop("reasoning_effort")
        else:
            self._budget(wanted)

    def _adaptive(self, wanted: blocks.Reasoning, *, is_off: bool, is_forced: bool) -> None:
        always = self._facts.thinking == "always_on"
        if wanted.mode == "between_tools":
            self._body["thinking"] = {"type": "between_tools"}
        elif is_off and always:
            self._drop("reasoning_effort")  # it cannot stop: as little as it can
            self._set_effort("minimal")
        elif is_off or (is_forced and not always):
            self._body["thinking"] = {"type": "disabled"}
            if is_off:
                self._set_effort(wanted.effort)
            else:
                self._drop("reasoning_effort")
        else:
            display = "omitted" if wanted.visible is False else "summarized"
            self._body["thinking"] = {"type": "adaptive", "display": display}
            self._thinks = True
            self._set_effort(wanted.effort or _effort_of(wanted.budget))

    def _set_effort(self, effort: str | None) -> None:
        if effort not in _EFFORTS:
            return
        known = self._facts.efforts or _USUAL_EFFORTS
        usable = [one for one in _EFFORTS[: _EFFORTS.index(effort) + 1] if one in known]
        least = next((one for one in _EFFORTS if one in known), None)
        sent = usable[-1] if usable else least
        if sent is not None:
            self._body["output_config"] = {"effort": sent, **self._body.get("output_config", {})}

    def _budget(self, wanted: blocks.Reasoning) -> None:
        """Give thinking a budget, and the answer room beside it; on credits the limit is held and stays."""
        budget = wanted.budget or BUDGETS.get(wanted.effort or "", BUDGETS["medium"])
        budget = max(budget, _LEAST_BUDGET)
        most = self._limit if self._order.credits else self._facts.max_output_tokens
        if self._limit <= budget:
            self._limit = budget + self._limit if most is None else min(budget + self._limit, most)
            budget = min(budget, self._limit - 1)
        if budget < _LEAST_BUDGET:
            self._drop("reasoning_effort")
            return
        self._body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        self._thinks = True

    # --- all the rest ----------------------------------------------------------------------------------------------

    def _sampling(self) -> None:
        request = self._request
        temperature = self._known("temperature", request.temperature)
        top_p, top_k = self._known("top_p", request.top_p), self._known("top_k", request.top_k)
        if self._thinks:
            temperature = self._without("temperature", temperature, unless=temperature == 1)
            top_k = self._without("top_k", top_k)
            top_p = self._without("top_p", top_p, unless=top_p is not None and top_p >= _LEAST_THINKING_TOP_P)
        # Models of the last years take one of the two; 1 is what both are anyway.
        if temperature == 1 and top_p is not None:
            temperature = None
        if temperature is not None:
            top_p = self._without("top_p", top_p) if top_p != 1 else None
            self._body["temperature"] = min(max(temperature, 0.0), 1.0)
        if top_p is not None:
            self._body["top_p"] = top_p
        if top_k is not None:
            self._body["top_k"] = top_k

    def _known(self, name: str, value: Any) -> Any:
        return self._without(name, value) if name in self._facts.unsupported else value

    def _without(self, name: str, value: Any, *, unless: bool = False) -> Any:
        """Return a parameter's value only under a condition; else it is left out, and noted where it was there."""
        if value is None or unless:
            return value
        self._drop(name)
        return None

    def _rest(self) -> None:
        request, body = self._request, self._body
        stop = [sequence for sequence in request.stop if sequence.strip()]
        if len(stop) < len(request.stop):
            self._drop("stop")
        if stop and self._known("stop", True):
            body["stop_sequences"] = stop
        if request.stream:
            body["stream"] = True
        if request.user:
            # Who a person is, is nobody's business; that it is the same one may matter.
            body["metadata"] = {"user_id": hashlib.sha256(request.user.encode("utf-8", "replace")).hexdigest()}
        self._service_tier()
        for name, nothing in _NOTHING_LIKE_IT.items():
            value = getattr(request, name)
            if value is not None and value not in nothing:
                self._drop(name)
        for name in request.extra:
            if name not in self._order.ours:
                self._drop(name)

    def _service_tier(self) -> None:
        tier = self._request.service_tier
        if tier is None:
            return
        sent = None if self._order.credits or "service_tier" in self._facts.unsupported else _TIERS.get(tier)
        if sent is None:
            self._drop("service_tier")
        else:
            self._body["service_tier"] = sent


def _effort_of(budget: int | None) -> str | None:
    if budget is None:
        return None
    return next((effort for most, effort in _BY_BUDGET if budget <= most), "high")


def _may_think(messages: list[dict[str, Any]]) -> bool:
    """Tell whether a model with a budget may think now: not where a turn with tools goes on whose thoughts are lost."""
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), None)
    if last is None or not any(block["type"] == "tool_use" for block in last["content"]):
        return True
    if not any(block["type"] == "tool_result" for block in messages[-1]["content"]):
        return True
    return last["content"][0]["type"] in ("thinking", "redacted_thinking")
