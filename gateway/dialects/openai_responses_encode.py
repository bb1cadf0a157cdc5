"""Pure: the middle form -> the Responses API: a request for a provider; answers and streams are `_write`'s.

The bridge for models whose chat completions refuse tools or reasoning: nothing is stored at the provider, reasoning
comes back encrypted and goes back with the conversation. What the API has no place for is left out and named; what
would change the meaning is refused. Never knows a model by name: `blocks.Facts` tell. Neighbours:
`openai_responses_input` (the conversation), `openai_responses_write` (what clients of this API get).

Source: https://platform.openai.com/docs/guides/migrate-to-responses (2026-11) and the types of openai-python 3.54.
"""

import hashlib
from typing import Any

import msgspec

from gateway.dialects import openai_responses_input as conversation
from gateway.dialects.blocks import Choice, Format, Order, Reasoning, Request, Sent, ServerTool, Tool, Unsupported
from gateway.dialects.openai_responses import ENCRYPTED, LOGPROBS, PATH
from gateway.dialects.openai_responses_seal import OURS
from gateway.dialects.openai_responses_write import StreamWriter, answer

__all__ = ["StreamWriter", "answer", "request"]

# OpenAI refuses less.
MIN_OUTPUT_TOKENS = 16
MAX_USER_LENGTH = 128
# What a client may have asked beside the middle form, and this API knows by the same name.
_SAME = frozenset({"prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "max_tool_calls"})
# Of these the price depends, whatever the catalogue says.
_REPRICED = frozenset({"prompt_cache_options"})
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# Budgets of tokens, up to which an effort stands for them.
_BUDGETS = ((0, "none"), (2_048, "low"), (8_192, "medium"))
_OWN_KEY = "it needs a provider key of your own"

_encode = msgspec.json.Encoder().encode


def request(request: Request, order: Order) -> Sent:
    """Return what goes to the provider. Raises: blocks.Unsupported."""
    return _Writing(request, order).sent()


class _Writing:
    """One request on its way to the provider: its body so far, and what was left out."""

    __slots__ = ("_body", "_dropped", "_names", "_order", "_request")

    def __init__(self, request: Request, order: Order) -> None:
        self._request = request
        self._order = order
        self._names = conversation.Names()
        self._body: dict[str, Any] = {"model": order.model.upstream}
        self._dropped: list[str] = []

    def sent(self) -> Sent:
        asked, order = self._request, self._order
        if asked.n is not None and asked.n > 1:
            raise Unsupported("n", "This model gives one answer to a call: n must be 1.")
        if asked.modalities and set(asked.modalities) - {"text"}:
            raise Unsupported("modalities", "This model answers with text only.")
        self._conversation()
        self._tools()
        self._reasoning()
        self._text()
        self._limits()
        self._sampling()
        self._rest()
        if asked.stream:
            self._body["stream"] = True
        renamed = {order.rename.get(name, name): value for name, value in self._body.items()}
        return Sent(body=_encode(renamed), path=PATH, dropped=self._dropped, names=self._names.changed)

    def _conversation(self) -> None:
        asked = self._request
        instructions = "\n\n".join(text.text for text in asked.system if text.text)
        items = conversation.items(asked, self._names, credits=self._order.credits)
        if instructions and items:
            self._body["instructions"] = instructions
        elif instructions:  # something has to be the input
            content = [{"type": "input_text", "text": instructions}]
            items = [{"type": "message", "role": "developer", "content": content}]
        self._body["input"] = items
        self._body["store"] = False

    # --- Tools ------------------------------------------------------------------------------------------------------

    def _tools(self) -> None:
        asked = self._request
        tools = [tool for given in asked.tools if (tool := self._tool(given)) is not None]
        if not tools:
            if asked.choice is not None and asked.choice.mode in ("required", "named"):
                raise Unsupported("tool_choice", "tool_choice asks for a tool, but there is none this model can use.")
            return
        self._body["tools"] = tools
        if asked.choice is not None:
            self._body["tool_choice"] = self._choice(asked.choice)
        if asked.parallel is not None and self._takes("parallel_tool_calls"):
            self._body["parallel_tool_calls"] = asked.parallel

    def _tool(self, tool: Tool | ServerTool) -> dict[str, Any] | None:
        if isinstance(tool, ServerTool):
            return self._server_tool(tool)
        told = {"description": tool.description} if tool.description else {}
        name = self._names.sent(tool.name)
        if tool.custom:
            grammar = {"format": tool.format} if tool.format else {}
            return {"type": "custom", "name": name, **told, **grammar}
        parameters = tool.parameters or {"type": "object", "properties": {}}
        # Left out, `strict` would mean true here.
        return {"type": "function", "name": name, **told, "parameters": parameters, "strict": bool(tool.strict)}

    def _server_tool(self, tool: ServerTool) -> dict[str, Any] | None:
        if tool.dialect != OURS and tool.kind != "web_search":
            self._dropped.append("tools")
            return None
        if self._order.credits:
            name = "web_search_options" if tool.dialect == "openai_chat" else "tools"
            if name in self._order.repriced_by:
                self._dropped.append(name)
                return None
            raise Unsupported(name, f"A tool that runs at the provider is not available on credits: {_OWN_KEY}.")
        return tool.value if tool.dialect == OURS else _web_search(tool.value)

    def _choice(self, choice: Choice) -> str | dict[str, Any]:
        if choice.mode == "named":
            return self._named(choice.names[0])
        if choice.mode == "allowed":
            mode = "required" if choice.required else "auto"
            return {"type": "allowed_tools", "mode": mode, "tools": [self._named(name) for name in choice.names]}
        return choice.mode

    def _named(self, name: str) -> dict[str, Any]:
        custom = any(isinstance(tool, Tool) and tool.custom and tool.name == name for tool in self._request.tools)
        return {"type": "custom" if custom else "function", "name": self._names.sent(name)}

    # --- Reasoning and text -----------------------------------------------------------------------------------------

    def _reasoning(self) -> None:
        asked, model = self._request.reasoning, self._order.model
        is_known = bool(model.capabilities - {"streaming"})
        thinks = model.thinking != "none" or "thinking" in model.capabilities
        if asked is not None and (thinks or not is_known) and self._takes("reasoning_effort"):
            effort = _effort(asked, model.efforts)
            reasoning = {"effort": effort} if effort else {}
            if asked.visible is not False and effort != "none":
                reasoning["summary"] = "auto"
            if reasoning:
                self._body["reasoning"] = reasoning
        elif asked is not None and is_known and asked.effort != "none" and asked.mode != "disabled":
            self._drop("reasoning_effort")
        if thinks or "reasoning" in self._body:
            self._body["include"] = [ENCRYPTED]

    def _thinks_hard(self) -> bool:
        """Tell whether reasoning was asked for: then sampling is refused."""
        effort: str = self._body.get("reasoning", {}).get("effort", "none")
        return effort != "none"

    def _text(self) -> None:
        asked = self._request
        text: dict[str, Any] = {}
        if asked.format is not None:
            text["format"] = _format(asked.format)
        if asked.verbosity is not None and self._takes("verbosity"):
            text["verbosity"] = asked.verbosity
        if text:
            self._body["text"] = text

    # --- Parameters -------------------------------------------------------------------------------------------------

    def _takes(self, name: str) -> bool:
        """Tell whether the model takes a parameter (by chat completions' name); one that it does not is dropped."""
        if name not in self._order.model.unsupported:
            return True
        self._drop(name)
        return False

    def _drop(self, name: str) -> None:
        if name not in self._dropped:
            self._dropped.append(name)

    def _limits(self) -> None:
        order = self._order
        most = order.max_output if order.max_output is not None else self._request.max_output
        if most is not None:
            self._body["max_output_tokens"] = most if order.credits else max(most, MIN_OUTPUT_TOKENS)

    def _sampling(self) -> None:
        asked = self._request
        for name, value in (("temperature", asked.temperature), ("top_p", asked.top_p)):
            if value is None:
                continue
            if self._thinks_hard():
                self._drop(name)
            elif self._takes(name):
                self._body[name] = value
        self._probabilities()
        left_out = {  # not of this API
            "top_k": asked.top_k,
            "stop": asked.stop or None,
            "seed": asked.seed,
            "presence_penalty": asked.presence_penalty or None,
            "frequency_penalty": asked.frequency_penalty or None,
        }
        for name, given in left_out.items():
            if given is not None:
                self._drop(name)

    def _probabilities(self) -> None:
        """Ask for how likely the tokens were; where reasoning was asked for, that is refused."""
        asked = self._request
        if not asked.logprobs:
            return
        if self._thinks_hard():
            self._drop("logprobs")
        elif self._takes("logprobs"):
            self._body["include"] = [*self._body.get("include", ()), LOGPROBS]
            if asked.top_logprobs is not None and self._takes("top_logprobs"):
                self._body["top_logprobs"] = asked.top_logprobs

    def _rest(self) -> None:
        asked, order = self._request, self._order
        repriced = order.repriced_by | _REPRICED if order.credits else frozenset()
        if asked.service_tier is not None:
            if "service_tier" in repriced:
                self._drop("service_tier")
            elif self._takes("service_tier"):
                self._body["service_tier"] = asked.service_tier
        if asked.user is not None and self._takes("user"):
            self._body["safety_identifier"] = _identifier(asked.user)
        for name, value in asked.extra.items():
            if name in order.ours or value is None:
                continue
            if name in _SAME and name not in repriced and name not in order.model.unsupported:
                self._body[name] = value
            else:
                self._drop(name)


def _effort(asked: Reasoning, known: tuple[str, ...]) -> str | None:
    """Return the effort that says the same, by the efforts the model knows; None: what the model does by itself."""
    wanted = asked.effort
    if asked.mode == "disabled":
        wanted = "none"
    elif wanted is None and asked.budget is not None and asked.budget >= 0:
        wanted = next((effort for most, effort in _BUDGETS if asked.budget <= most), "high")
    if wanted is None or not known or wanted in known or wanted not in _EFFORTS:
        return wanted
    place = _EFFORTS.index(wanted)
    return min(known, key=lambda effort: abs(_EFFORTS.index(effort) - place) if effort in _EFFORTS else len(_EFFORTS))


def _format(format: Format) -> dict[str, Any]:
    if format.kind == "json_object":
        return {"type": "json_object"}
    told: dict[str, Any] = {"description": format.description} if format.description else {}
    if format.strict is not None:
        told["strict"] = format.strict
    return {"type": "json_schema", "name": format.name or "answer", "schema": format.schema or {}, **told}


def _web_search(value: dict[str, Any]) -> dict[str, Any]:
    """Return another dialect's search of the web as this API's: where the user is, how much is read, which sites."""
    tool: dict[str, Any] = {"type": "web_search"}
    place = value.get("user_location")
    if isinstance(place, dict):
        inner = place.get("approximate")
        tool["user_location"] = {"type": "approximate", **(inner if isinstance(inner, dict) else place)}
    if isinstance(value.get("search_context_size"), str):
        tool["search_context_size"] = value["search_context_size"]
    if value.get("allowed_domains"):
        tool["filters"] = {"allowed_domains": value["allowed_domains"]}
    return tool


def _identifier(user: str) -> str:
    """Return a name of a user that fits: a longer one is told apart by its hash."""
    return user if len(user) <= MAX_USER_LENGTH else hashlib.sha256(user.encode()).hexdigest()
