"""What an answer says, read by nothing of the product: the reference that translations are compared with.

One reader for each dialect, tolerant as providers are odd; a stream is first put together to the whole answer it is.
The same readers read what the gateway wrote for its clients. Source: wire formats as their vendors document them, and
the recordings themselves. Neighbours: `replay.py`, `test_recordings.py`.
"""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Pair = tuple[str | None, str]


@dataclass
class Said:
    """One answer: its text with refusals, its reasoning, its calls of the client's tools, why it ended, what it used.

    `usage` is (tokens in, tokens out), cache and reasoning included; None where nothing was reported.
    """

    text: str = ""
    thoughts: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    finish: str | None = None
    usage: tuple[int, int] | None = None
    # How many answers there are, and what the tokens of the first were, with the logarithms of their probabilities.
    answers: int = 1
    likely: list[tuple[str, float]] = field(default_factory=list)
    error: str | None = None
    # What a vendor says of a refusal beside the answer: others have no place for it but the text.
    explanation: str = ""


_ENDS = {
    # chat completions and those who speak it
    "stop": "stop", "eos": "stop", "eos_token": "stop", "": "stop", "length": "length", "model_length": "length",
    "maximum_tokens": "length", "tool_calls": "tool_calls", "function_call": "tool_calls", "tool_use": "tool_calls",
    "content_filter": "content_filter", "error": "error",
    # Anthropic, Bedrock
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length", "refusal": "content_filter", "compaction": "stop",
    "guardrail_intervened": "content_filter", "content_filtered": "content_filter",
    # Gemini
    "STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "RECITATION": "content_filter",
    "PROHIBITED_CONTENT": "content_filter", "BLOCKLIST": "content_filter", "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter", "MALFORMED_FUNCTION_CALL": "error", "UNEXPECTED_TOOL_CALL": "error",
    "OTHER": "error", "1": "stop",  # Vertex's own SDK writes the number
    # Cohere
    "COMPLETE": "stop", "STOP_SEQUENCE": "stop", "TOOL_CALL": "tool_calls", "ERROR": "error", "TIMEOUT": "error",
}  # fmt: skip


def _finish(native: Any, calls: list[Any]) -> str | None:
    """Return why an answer ended, in one vocabulary: a call of a tool ends it, whatever the provider called that."""
    if native is None:
        return None
    reason = _ENDS.get(str(native), str(native))
    return "tool_calls" if calls and reason == "stop" else reason


def arguments(text: Any) -> Any:
    """Return a call's arguments: as JSON where they are, as text where they are not."""
    if not isinstance(text, str):
        return text or {}
    if not text.strip():
        return {}
    try:
        return json.loads(text or "null") or {}
    except ValueError:
        return text


def sse(body: bytes) -> list[Pair]:
    """Return (event, data) of each event of a stream, as a browser would."""
    found: list[Pair] = []
    name, data = None, []
    for line in re.split(r"\r\n|\n|\r", body.decode("utf-8", "replace").removeprefix("\ufeff")):
        if not line:
            if data:
                found.append((name, "\n".join(data)))
            name, data = None, []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith("event:"):
            name = line[6:].removeprefix(" ")
    if data:
        found.append((name, "\n".join(data)))
    return found


def _objects(body: bytes) -> Iterator[dict[str, Any]]:
    for _, data in sse(body):
        try:
            value = json.loads(data)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


# --- Chat completions -------------------------------------------------------------------------------------------------


def chat(value: dict[str, Any]) -> Said:
    """Read a chat completion."""
    choices = value.get("choices") or []
    first = next((choice for choice in choices if choice.get("index", 0) == 0), choices[0] if choices else {})
    message = first.get("message") or {}
    said = Said(answers=len(choices), error=_error(value))
    said.text = _texts(message.get("content"), "text") + (message.get("refusal") or "")
    said.text += (message.get("audio") or {}).get("transcript") or ""
    said.thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
    said.thoughts = _texts(said.thoughts, "text") or _texts(message.get("content"), "thinking")
    for call in message.get("tool_calls") or []:
        function = call.get("function") or call.get("custom") or {}
        said.calls.append((function.get("name"), arguments(function.get("arguments", function.get("input")))))
    if message.get("function_call"):
        called = message["function_call"]
        said.calls.append((called.get("name"), arguments(called.get("arguments"))))
    said.finish = _finish(first.get("finish_reason"), said.calls)
    said.likely = _likely((first.get("logprobs") or {}).get("content"), "logprob")
    said.usage = _chat_usage(value.get("usage") or (value.get("x_groq") or {}).get("usage"))
    return said


def _likely(tokens: Any, name: str) -> list[tuple[str, float]]:
    return [(token["token"], token[name]) for token in tokens or []]


def _texts(content: Any, kind: str) -> str:
    """Return the text of a content, or (Mistral) the thinking in it."""
    if isinstance(content, str):
        return content if kind == "text" else ""
    found = []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and part.get("type") == kind == "text":
            found.append(part.get("text") or "")
        elif isinstance(part, dict) and part.get("type") == kind == "thinking":
            found.append(_texts(part.get("thinking"), "text"))
    return "".join(found)


def _chat_usage(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict) or usage.get("prompt_tokens") is None:
        return None
    prompt, written = usage["prompt_tokens"], usage.get("completion_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    if usage.get("total_tokens") == prompt + written + reasoning:
        written += reasoning  # counted apart (xAI)
    return prompt, written


def _error(value: dict[str, Any]) -> str | None:
    error = value.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(error) if error else None


def chat_stream(body: bytes) -> Said:
    """Read a stream of chat completions: the chunks put together to one."""
    whole: dict[int, dict[str, Any]] = {}
    usage: Any = None
    error: str | None = None
    for chunk in _objects(body):
        usage = chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage") or usage
        error = error or _error(chunk)
        for choice in chunk.get("choices") or []:
            one = whole.setdefault(choice.get("index", 0), {"message": {}, "calls": {}, "likely": []})
            one["likely"] += (choice.get("logprobs") or {}).get("content") or []
            _add_choice(one, choice)
            usage = choice.get("usage") or usage
    choices = []
    for index, one in sorted(whole.items()):
        one["message"]["tool_calls"] = list(one["calls"].values())
        choice = {"index": index, "message": one["message"], "finish_reason": one.get("finish_reason")}
        choices.append(choice | {"logprobs": {"content": one["likely"]}})
    said = chat({"choices": choices, "usage": usage})
    if said.finish is None and body.rstrip().endswith(b"[DONE]"):
        said.finish = _finish("stop", said.calls)
    said.error = error
    return said


def _add_choice(whole: dict[str, Any], choice: dict[str, Any]) -> None:
    delta, message = choice.get("delta") or {}, whole["message"]
    if choice.get("finish_reason") is not None:
        whole.setdefault("finish_reason", choice["finish_reason"])
    content = delta.get("content")
    message["content"] = message.get("content", "") + _texts(content, "text")
    thought = _texts(delta.get("reasoning_content") or delta.get("reasoning") or "", "text")
    message["reasoning_content"] = message.get("reasoning_content", "") + (thought or _texts(content, "thinking"))
    message["refusal"] = message.get("refusal", "") + (delta.get("refusal") or "")
    if delta.get("function_call"):
        called = message.setdefault("function_call", {"name": "", "arguments": ""})
        called["name"] += delta["function_call"].get("name") or ""
        called["arguments"] += delta["function_call"].get("arguments") or ""
    for place, call in enumerate(delta.get("tool_calls") or []):
        function = call.get("function") or call.get("custom") or {}
        index = call.get("index", place)
        made = whole["calls"].setdefault(index, {"function": {"name": "", "arguments": ""}})["function"]
        made["name"] = made["name"] or function.get("name") or ""
        made["arguments"] += function.get("arguments") or function.get("input") or ""


# --- Anthropic --------------------------------------------------------------------------------------------------------


def anthropic(value: dict[str, Any]) -> Said:
    """Read a message."""
    said = Said(error=_error(value))
    for block in value.get("content") or []:
        if block.get("type") == "text":
            said.text += block.get("text") or ""
        elif block.get("type") == "thinking":
            said.thoughts += block.get("thinking") or ""
        elif block.get("type") == "tool_use":
            said.calls.append((block.get("name"), arguments(block.get("input"))))
    said.finish = _finish(value.get("stop_reason"), said.calls)
    said.explanation = (value.get("stop_details") or {}).get("explanation") or ""
    said.usage = _anthropic_usage(value.get("usage") or {})
    return said


def _anthropic_usage(usage: dict[str, Any]) -> tuple[int, int] | None:
    if usage.get("input_tokens") is None:
        return None
    cached = (usage.get("cache_creation_input_tokens") or 0) + (usage.get("cache_read_input_tokens") or 0)
    total = usage["input_tokens"] + cached, usage.get("output_tokens") or 0
    # A compaction is billed beside what the totals say; other iterations are in them, or another model's.
    for one in usage.get("iterations") or []:
        if one.get("type") == "compaction":
            extra = _anthropic_usage(one) or (0, 0)
            total = total[0] + extra[0], total[1] + extra[1]
    return total


def anthropic_stream(body: bytes) -> Said:
    """Read the events of a message."""
    whole: dict[str, Any] = {"content": [], "usage": {}}
    error = None
    for event in _objects(body):
        match event.get("type"):
            case "message_start":
                whole["usage"] |= {k: v for k, v in (event["message"].get("usage") or {}).items() if v is not None}
            case "content_block_start":
                whole["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                _add_delta(whole["content"][-1], event["delta"])
            case "message_delta":
                whole |= {name: event["delta"].get(name) for name in ("stop_reason", "stop_details")}
                whole["usage"] |= {k: v for k, v in (event.get("usage") or {}).items() if v is not None}
            case "error":
                error = _error(event)
    for block in whole["content"]:
        if "partial" in block:
            block["input"] = arguments(block["partial"])
    said = anthropic(whole)
    said.error = error
    return said


def _add_delta(block: dict[str, Any], delta: dict[str, Any]) -> None:
    for name in ("text", "thinking"):
        if name in delta:
            block[name] = (block.get(name) or "") + delta[name]
    if "partial_json" in delta:
        block["partial"] = block.get("partial", "") + delta["partial_json"]


# --- Gemini -----------------------------------------------------------------------------------------------------------


def gemini(value: Any) -> Said:
    """Read an answer, or the array of answers that a stream without events is."""
    chunks = value if isinstance(value, list) else [value]
    said = Said(error=next((error for chunk in chunks if (error := _error(chunk))), None))
    native = None
    for chunk in chunks:
        candidates = chunk.get("candidates") or []
        said.answers = max(said.answers, len(candidates))
        for part in (candidates[0].get("content") or {}).get("parts") or [] if candidates else []:
            _add_part(said, part)
        native = (candidates[0].get("finishReason") if candidates else None) or native
        result = candidates[0].get("logprobsResult") or {} if candidates else {}
        said.likely += _likely(result.get("chosenCandidates"), "logProbability")
        if (chunk.get("promptFeedback") or {}).get("blockReason") and not candidates:
            native = "PROHIBITED_CONTENT"
        said.usage = _gemini_usage(chunk.get("usageMetadata")) or said.usage
    said.finish = _finish(native, said.calls)
    return said


def _add_part(said: Said, part: dict[str, Any]) -> None:
    if "functionCall" in part:
        called = part["functionCall"]
        if called.get("name"):
            said.calls.append((called["name"], called.get("args") or {}))
        for piece in called.get("partialArgs") or []:
            _put(said.calls[-1][1], piece)
    elif part.get("thought"):
        said.thoughts += part.get("text") or ""
    else:
        said.text += part.get("text") or ""


def _put(target: Any, piece: dict[str, Any]) -> None:
    """Add a piece of streamed arguments where its path says: `$.items[0].name`."""
    steps: list[Any] = [
        int(index) if index else name for name, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", piece["jsonPath"])
    ]
    value = next((piece[name] for name in ("stringValue", "numberValue", "boolValue") if name in piece), None)
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(target, list):
            target.extend([None] * (step + 1 - len(target)))
        before = target[step] if isinstance(target, list) else target.get(step)
        if following is None:
            target[step] = before + value if isinstance(before, str) and isinstance(value, str) else value
            return
        if before is None:
            target[step] = [] if isinstance(following, int) else {}
        target = target[step]


def _gemini_usage(usage: Any) -> tuple[int, int] | None:
    if not usage or usage.get("promptTokenCount") is None:
        return None
    written = (usage.get("candidatesTokenCount") or 0) + (usage.get("thoughtsTokenCount") or 0)
    return usage["promptTokenCount"] + (usage.get("toolUsePromptTokenCount") or 0), written


def gemini_stream(body: bytes) -> Said:
    """Read the events of an answer, or the array it was sent as."""
    return gemini(json.loads(body)) if body.lstrip().startswith(b"[") else gemini(list(_objects(body)))


# --- Responses --------------------------------------------------------------------------------------------------------


def responses(value: dict[str, Any]) -> Said:
    """Read a response."""
    said = Said(error=_error(value))
    for item in value.get("output") or []:
        match item.get("type"):
            case "message":
                parts = item.get("content") or []
                said.text += "".join(part.get("text") or part.get("refusal") or "" for part in parts)
                said.likely += [each for part in parts for each in _likely(part.get("logprobs"), "logprob")]
            case "reasoning":
                said.thoughts += _thoughts(item)
            case "function_call":
                said.calls.append((item.get("name"), arguments(item.get("arguments"))))
            case "custom_tool_call":
                said.calls.append((item.get("name"), item.get("input")))
    reason = (value.get("incomplete_details") or {}).get("reason")
    ends = {"max_output_tokens": "length", "max_messages": "length", "content_filter": "content_filter"}
    status = value.get("status")
    native = ends.get(reason, "stop") if status == "incomplete" else {"completed": "stop"}.get(str(status))
    said.finish = _finish(native, said.calls)
    usage = value.get("usage")
    if usage and usage.get("input_tokens") is not None:
        said.usage = usage["input_tokens"], usage.get("output_tokens") or 0
    return said


def _thoughts(item: dict[str, Any]) -> str:
    """Return a reasoning item's text: its summary, or where a server shows all of it, that."""
    parts = item.get("summary") or item.get("content") or []
    return "".join(part.get("text") or "" for part in parts)


def responses_stream(body: bytes) -> Said:
    """Read the events of a response: its last one has all of it, else what was done before."""
    last: dict[str, Any] = {}
    items: list[Any] = []
    error = None
    for event in _objects(body):
        kind = event.get("type", "")
        if kind == "error":
            error = str(event.get("message") or _error(event))
        elif kind == "response.output_item.done":
            items.append(event["item"])
        elif isinstance(event.get("response"), dict):
            last = event["response"]
    said = responses(last if last.get("output") else last | {"output": items})
    said.error = error or said.error
    return said


# --- Bedrock and Cohere -----------------------------------------------------------------------------------------------


def bedrock(value: dict[str, Any]) -> Said:
    """Read an answer of Converse."""
    said = Said(error=_error(value))
    for block in ((value.get("output") or {}).get("message") or {}).get("content") or []:
        said.text += block.get("text") or ""
        said.thoughts += ((block.get("reasoningContent") or {}).get("reasoningText") or {}).get("text") or ""
        if "toolUse" in block:
            said.calls.append((block["toolUse"].get("name"), arguments(block["toolUse"].get("input"))))
        for part in (block.get("citationsContent") or {}).get("content") or []:
            said.text += part.get("text") or ""
    said.finish = _finish(value.get("stopReason"), said.calls)
    usage = value.get("usage")
    if usage and usage.get("inputTokens") is not None and usage.get("outputTokens") is not None:
        cached = (usage.get("cacheReadInputTokens") or 0) + (usage.get("cacheWriteInputTokens") or 0)
        said.usage = usage["inputTokens"] + cached, usage["outputTokens"]
    return said


def bedrock_stream(body: bytes) -> Said:
    """Read the frames of a ConverseStream."""
    whole: dict[str, Any] = {}
    content: dict[int, dict[str, Any]] = {}
    for name, payload in aws_frames(body):
        block = content.setdefault(payload.get("contentBlockIndex", -1), {})
        match name:
            case "contentBlockStart":
                if "toolUse" in payload["start"]:
                    block.update({"toolUse": dict(payload["start"]["toolUse"], input="")})
            case "contentBlockDelta":
                _add_bedrock(block, payload["delta"])
            case "messageStop":
                whole["stopReason"] = payload.get("stopReason")
            case "metadata":
                whole["usage"] = payload.get("usage")
    content.pop(-1, None)
    whole["output"] = {"message": {"content": [content[index] for index in sorted(content)]}}
    return bedrock(whole)


def _add_bedrock(block: dict[str, Any], delta: dict[str, Any]) -> None:
    if "text" in delta:
        block["text"] = block.get("text", "") + delta["text"]
    if "toolUse" in delta:
        block["toolUse"]["input"] += delta["toolUse"]["input"]
    if "reasoningContent" in delta:
        inner = block.setdefault("reasoningContent", {}).setdefault("reasoningText", {})
        inner["text"] = inner.get("text", "") + (delta["reasoningContent"].get("text") or "")


def aws_frames(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (event type, payload) of each frame of AWS's event stream."""
    while body:
        total, headers = struct.unpack(">II", body[:8])
        name = re.search(rb":event-type\x07..([A-Za-z]+)", body[12 : 12 + headers], re.DOTALL)
        yield (name[1].decode() if name else ""), json.loads(body[12 + headers : total - 4])
        body = body[total:]


def cohere(value: dict[str, Any]) -> Said:
    """Read an answer of Cohere's second version."""
    message = value.get("message")
    if not isinstance(message, dict):
        return Said(error=str(message) if message else None)
    said = Said(text=_texts(message.get("content"), "text"), error=_error(value))
    parts = message.get("content") if isinstance(message.get("content"), list) else []
    said.thoughts = "".join(part.get("thinking") or "" for part in parts or [])
    said.text = (message.get("tool_plan") or "") + said.text
    for call in message.get("tool_calls") or []:
        said.calls.append((call["function"]["name"], arguments(call["function"].get("arguments"))))
    said.finish = _finish(value.get("finish_reason"), said.calls)
    usage = value.get("usage") or {}
    tokens = usage.get("billed_units") or usage.get("tokens") or {}
    if tokens.get("input_tokens") is not None:
        said.usage = int(tokens["input_tokens"]), int(tokens.get("output_tokens") or 0)
    return said


def cohere_stream(body: bytes) -> Said:
    """Read the events of Cohere's second version."""
    content: dict[int, dict[str, Any]] = {}
    calls: dict[int, dict[str, Any]] = {}
    end: dict[str, Any] = {}
    plan = ""
    for event in _objects(body):
        delta = event.get("delta") or {}
        message = delta.get("message") or {} if isinstance(delta, dict) else {}
        match event.get("type"):
            case "content-start":
                content[event["index"]] = dict(message["content"])
            case "content-delta":
                for name, text in message["content"].items():
                    if name in ("text", "thinking"):
                        content[event["index"]][name] = content[event["index"]].get(name, "") + text
            case "tool-plan-delta":
                plan += message["tool_plan"]
            case "tool-call-start":
                calls[event["index"]] = json.loads(json.dumps(message["tool_calls"]))
            case "tool-call-delta":
                made = calls[event["index"]]["function"]
                made["arguments"] = (made.get("arguments") or "") + message["tool_calls"]["function"]["arguments"]
            case "message-end":
                end = delta
    told = {"content": list(content.values()), "tool_calls": list(calls.values()), "tool_plan": plan}
    return cohere({"message": told, **end})


WHOLE = {
    "openai_chat": chat,
    "openai_responses": responses,
    "anthropic": anthropic,
    "gemini": gemini,
    "bedrock": bedrock,
    "cohere": cohere,
}
STREAMS = {
    "openai_chat": chat_stream,
    "openai_responses": responses_stream,
    "anthropic": anthropic_stream,
    "gemini": gemini_stream,
    "bedrock": bedrock_stream,
    "cohere": cohere_stream,
}


def read(dialect: str, body: bytes, *, is_stream: bool) -> Said:
    """Read an answer of a dialect."""
    return STREAMS[dialect](body) if is_stream else WHOLE[dialect](json.loads(body))
