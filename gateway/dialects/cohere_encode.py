"""Pure: the middle form as a request to Cohere's chat API, version 2.

Responsible for Cohere's own ways: one message for each tool result, the plan before tool calls (`tool_plan`), a choice
without names, penalties without a minus. Never downloads, never signs. Neighbours: `cohere_decode.py`, `blocks.py`.

What a model says before it calls tools is text in the middle form and `tool_plan` here, in both directions: clients
send text back, so that the model sees its plan again; as reasoning most of them would lose it.

Source: https://docs.cohere.com/v2/reference/chat (2026-11), the types of Cohere's SDK 7.3, and recorded traffic.
"""

from typing import Any

import msgspec

from gateway.dialects import blocks

_encode = msgspec.json.Encoder().encode

# Stands where Cohere wants text and a tool answered nothing.
NO_OUTPUT = "(no output)"
# Stands where a conversation has only instructions.
PLACEHOLDER = "."
# The tokens an effort is worth: Cohere's models want a budget.
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
MAX_STOPS = 5

# Whose reasoning may be text only: Cohere's own, and what chat completions carry as `reasoning_content`.
_UNSIGNED = (None, "cohere", "openai_chat")

_JSON_HINT = "Respond with one valid JSON object and nothing else."
# Cohere's own parameters, passed on by a client that knows them.
_NATIVE = {"documents": list, "citation_options": dict, "safety_mode": str, "strict_tools": bool, "priority": int}


def request(request: blocks.Request, order: blocks.Order) -> blocks.Sent:
    """Return what to send. Raises: blocks.Unsupported."""
    _refuse(request)
    writing = _Writing(request, order)
    messages = writing.messages()
    tools, choice = writing.tools()
    shape = writing.response_format(has_tools=bool(tools))
    body = {
        "model": order.model.upstream,
        "messages": writing.system(shape) + messages,
        "stream": request.stream,
        "tools": tools or None,
        "tool_choice": choice,
        "strict_tools": _all_strict(request, tools),
        "response_format": shape,
        **writing.parameters(),
        **writing.extras(),
    }
    return blocks.Sent(
        body=_encode({name: value for name, value in body.items() if value is not None}),
        path="/chat",
        dropped=writing.dropped,
    )


def _refuse(request: blocks.Request) -> None:
    if request.n is not None and request.n > 1:
        raise blocks.Unsupported("n", "Cohere writes one answer to a request: n must be 1.")
    if any(kind != "text" for kind in request.modalities or ()):
        raise blocks.Unsupported("modalities", "Cohere answers with text only.")


class _Writing:
    """One request on its way out; `dropped` names what was left out."""

    def __init__(self, request: blocks.Request, order: blocks.Order) -> None:
        self.dropped: list[str] = []
        self._request = request
        self._order = order
        self._documents: list[dict[str, Any]] = []

    def _drop(self, name: str) -> None:
        if name not in self.dropped:
            self.dropped.append(name)

    # --- Messages ---

    def system(self, shape: dict[str, Any] | None) -> list[dict[str, Any]]:
        texts = [text.text for text in self._request.system if text.text]
        if shape is not None:  # Cohere warns: without words for it a model may write white space for ever
            texts.append(_JSON_HINT)
        return [{"role": "system", "content": "\n\n".join(texts)}] if texts else []

    def messages(self) -> list[dict[str, Any]]:
        written = [part for message in self._request.messages for part in self._message(message)]
        if not written and any(text.text for text in self._request.system):
            return [{"role": "user", "content": PLACEHOLDER}]
        if not written:
            raise blocks.Unsupported("messages", "Cohere needs at least one message that is not empty.")
        return written

    def _message(self, message: blocks.Message) -> list[dict[str, Any]]:
        if message.role == "assistant":
            return self._assistant(message.blocks)
        if message.role == "system":
            text = "\n\n".join(block.text for block in message.blocks if isinstance(block, blocks.Text) and block.text)
            return [{"role": "system", "content": text}] if text else []
        return self._user(message.blocks)

    def _user(self, content: list[blocks.Block]) -> list[dict[str, Any]]:
        """Return the tool results of a turn, each a message, and behind them what else the user said."""
        results: list[dict[str, Any]] = []
        parts: list[dict[str, Any]] = []
        for block in content:
            if isinstance(block, blocks.ToolResult):
                texts, pictures = self._result(block)
                results.append({"role": "tool", "tool_call_id": block.id, "content": "".join(texts) or NO_OUTPUT})
                parts += pictures
            else:
                parts += self._part(block)
        if not parts:
            return results
        text_only = parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else None
        return [*results, {"role": "user", "content": text_only or parts}]

    def _result(self, block: blocks.ToolResult) -> tuple[list[str], list[dict[str, Any]]]:
        """Return a result's text, and its pictures: those have to stand in a user's message."""
        texts: list[str] = []
        pictures: list[dict[str, Any]] = []
        for inner in block.content:
            text = inner.text if isinstance(inner, blocks.Text | blocks.Refusal | blocks.Document) else None
            if text is not None:
                texts.append(text)
            else:
                pictures += self._part(inner)
        return texts, pictures

    def _part(self, block: blocks.Block) -> list[dict[str, Any]]:
        if isinstance(block, blocks.Text | blocks.Refusal):
            return [{"type": "text", "text": block.text}] if block.text.strip() else []
        if isinstance(block, blocks.Image):
            return [_image(block)]
        if isinstance(block, blocks.Document):
            return self._document(block)
        if isinstance(block, blocks.Audio):
            raise blocks.Unsupported("messages", "Cohere takes no sound.")
        self._drop("messages")
        return []

    def _document(self, block: blocks.Document) -> list[dict[str, Any]]:
        """Put a text with citations among Cohere's documents, one without into the message itself."""
        if block.text is None:
            raise blocks.Unsupported("messages", "Cohere takes documents as text only.")
        if not block.text.strip():
            return []
        if not block.citations:
            return [{"type": "text", "text": f"{block.name}\n\n{block.text}" if block.name else block.text}]
        data = {"title": block.name, "text": block.text, "context": block.context}
        self._documents.append(
            {
                "id": f"doc:{len(self._documents)}",
                "data": {name: value for name, value in data.items() if value},
            }
        )
        return []

    def _assistant(self, content: list[blocks.Block]) -> list[dict[str, Any]]:
        calls = [_call(block) for block in content if isinstance(block, blocks.ToolCall)]
        text = "".join(block.text for block in content if isinstance(block, blocks.Text | blocks.Refusal))
        parts = [
            {"type": "thinking", "thinking": block.text}
            for block in content
            if isinstance(block, blocks.Thinking) and self._is_own(block)
        ]
        if any(isinstance(block, blocks.Image | blocks.Document | blocks.Audio | blocks.Opaque) for block in content):
            self._drop("messages")
        message: dict[str, Any] = {"role": "assistant"}
        if calls:
            message |= {"tool_calls": calls} | ({"tool_plan": text} if text else {})
        elif text:
            parts.append({"type": "text", "text": text})
        if parts:
            message["content"] = text if text and not calls and len(parts) == 1 else parts
        return [message] if len(message) > 1 else []

    def _is_own(self, thought: blocks.Thinking) -> bool:
        """Tell whether reasoning is such a model's: it has no signature, and came from here, or nobody said whence."""
        return (
            self._order.model.thinking != "none"
            and thought.signature is None
            and thought.dialect in _UNSIGNED
            and bool(thought.text)
        )

    # --- Parameters ---

    def tools(self) -> tuple[list[dict[str, Any]], str | None]:
        """Return the tools and the choice. Cohere's has no names: a named tool is the only one that is offered."""
        request, choice = self._request, self._request.choice
        offered = [tool for tool in request.tools if isinstance(tool, blocks.Tool)]
        for tool in request.tools:
            if isinstance(tool, blocks.ServerTool):
                self._drop("web_search_options" if tool.kind == "web_search" else "tools")
        if choice and choice.mode in ("named", "allowed"):
            offered = [tool for tool in offered if tool.name in choice.names]
            if not offered:
                raise blocks.Unsupported("tool_choice", "tool_choice names no tool that is among tools.")
        tools = [_tool(tool) for tool in offered]
        if not tools or choice is None or choice.mode == "auto":
            return tools, None
        if choice.mode == "none":
            return tools, self._wanted("tool_choice", "NONE")
        is_forced = choice.mode in ("named", "required") or choice.required
        return tools, self._wanted("tool_choice", "REQUIRED") if is_forced else None

    def response_format(self, *, has_tools: bool) -> dict[str, Any] | None:
        asked = self._request.format
        if asked is None or not self._wanted("response_format", asked.kind):
            return None
        if has_tools or self._documents or isinstance(self._request.extra.get("documents"), list):
            self._drop("response_format")  # Cohere refuses it beside tools and documents
            return None
        return {"type": "json_object"} | ({"json_schema": asked.schema} if asked.schema else {})

    def parameters(self) -> dict[str, Any]:
        request = self._request
        limit = self._order.max_output or request.max_output
        most = self._order.model.max_output_tokens
        stop = self._wanted("stop", [text for text in request.stop if text]) or []
        if len(stop) > MAX_STOPS:
            self._drop("stop")
        if request.parallel is False:
            self._drop("parallel_tool_calls")
        for name in ("top_logprobs", "verbosity", "user"):
            if getattr(request, name):
                self._drop(name)
        if request.service_tier not in (None, "auto", "default", "standard_only"):
            self._drop("service_tier")
        return {
            "max_tokens": min(limit, most) if limit and most else limit,
            "stop_sequences": stop[:MAX_STOPS] or None,
            "temperature": self._wanted("temperature", request.temperature),
            "p": _within(self._wanted("top_p", request.top_p), 0.01, 0.99),
            "k": _within(self._wanted("top_k", request.top_k), 0, 500),
            "seed": self._seed(),
            "logprobs": self._wanted("logprobs", request.logprobs or None),
            "frequency_penalty": self._penalty("frequency_penalty", request.frequency_penalty),
            "presence_penalty": self._penalty("presence_penalty", request.presence_penalty),
            "thinking": self._thinking(),
        }

    def _wanted(self, name: str, value: Any) -> Any:
        """Return a parameter's value, or None and note it where the model does not take it."""
        if value is None or value == []:
            return None
        if name in self._order.model.unsupported:
            self._drop(name)
            return None
        return value

    def _seed(self) -> int | None:
        seed: int | None = self._wanted("seed", self._request.seed)
        if seed is not None and not 0 <= seed < 2**64:
            self._drop("seed")
            return None
        return seed

    def _penalty(self, name: str, value: float | None) -> float | None:
        if value is not None and value < 0:
            self._drop(name)  # Cohere's go from 0 to 1
            return None
        penalty: float | None = _within(self._wanted(name, value), 0, 1)
        return penalty

    def _thinking(self) -> dict[str, Any] | None:
        asked = self._request.reasoning
        if asked is None or not (asked.effort or asked.budget or asked.mode):
            return None
        is_off = asked.mode == "disabled" or (asked.effort == "none" and asked.budget is None)
        if self._order.model.thinking == "none" or "reasoning_effort" in self._order.model.unsupported:
            if not is_off:
                self._drop("reasoning_effort")
            return None
        if is_off:
            return {"type": "disabled"}
        budget = asked.budget or BUDGETS.get(asked.effort or "")
        return {"type": "enabled"} | ({"token_budget": budget} if budget else {})

    def extras(self) -> dict[str, Any]:
        """Return Cohere's own parameters; note all others."""
        known: dict[str, Any] = {}
        for name, value in self._request.extra.items():
            kind = _NATIVE.get(name)
            if kind is not None and type(value) is kind and not (self._order.credits and name == "priority"):
                known[name] = value
            elif name not in self._order.ours:
                self._drop(name)
        if self._documents:
            known["documents"] = self._documents + known.get("documents", [])
        return known


# --- Pieces ---------------------------------------------------------------------------------------------------------


def _image(block: blocks.Image) -> dict[str, Any]:
    url = block.url
    if block.data is not None:
        url = f"data:{block.media_type or 'image/png'};base64,{block.data}"
    if url is None:
        raise blocks.Unsupported(
            "messages", "Cohere needs an image's URL or its data: files belong to another provider's account."
        )
    detail = {"detail": block.detail} if block.detail in ("auto", "low", "high") else {}
    return {"type": "image_url", "image_url": {"url": url} | detail}


def _call(block: blocks.ToolCall) -> dict[str, Any]:
    given = _encode({"input": block.arguments}).decode() if block.custom else block.arguments
    # Cohere reads the arguments as JSON.
    return {
        "id": block.id,
        "type": "function",
        "function": {"name": block.name, "arguments": given if given.strip() else "{}"},
    }


def _tool(tool: blocks.Tool) -> dict[str, Any]:
    parameters = tool.parameters or {}
    if tool.custom:  # its input is free text: the one string of a function
        parameters = {"properties": {"input": {"type": "string"}}, "required": ["input"]}
    function: dict[str, Any] = {"name": tool.name, "parameters": {"type": "object"} | parameters}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _all_strict(request: blocks.Request, tools: list[dict[str, Any]]) -> bool | None:
    """Return True when every tool is to be kept to strictly: Cohere knows only all or none.

    It wants a required parameter in each of them then.
    """
    strict = [tool.strict for tool in request.tools if isinstance(tool, blocks.Tool)]
    has_required = all(tool["function"]["parameters"].get("required") for tool in tools)
    return True if tools and all(strict) and has_required else None


def _within(value: Any, least: float, most: float) -> Any:
    return None if value is None else min(max(value, least), most)
