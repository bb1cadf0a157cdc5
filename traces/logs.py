"""What a list of logs shows of a call: the beginning of the last question and of the answer.

Pure. Reads stored bodies of every dialect (`conversation.py`); whatever else a body is, it shows its first characters
and never raises. Neighbours: `traces.store`, which keeps the previews beside each span.
"""

from typing import Any

import msgspec

from traces import conversation

PREVIEW_CHARS = 200
# Enough to fill a preview even when it is full of spaces.
_LOOKED_AT = 2_000


def input_preview(body: bytes | None) -> str | None:
    """Return the beginning of the last user message of a request."""
    if body is None:
        return None
    parsed = _parsed(body)
    messages = conversation.asked(parsed) if isinstance(parsed, dict) else []
    if not messages:
        # What is embedded, spoken or drawn, and a Responses call of one text.
        told = next((parsed[name] for name in ("input", "prompt") if isinstance(_get(parsed, name), str)), None)
        return _shown(told) if told else _beginning_of(body)
    last = next((message for message in reversed(messages) if message.get("role") == "user"), messages[-1])
    return _shown(_content(last))


def output_preview(body: bytes | None) -> str | None:
    """Return the beginning of an answer: its text, else its tool calls, else its error's message."""
    if body is None:
        return None
    answer = _parsed(body)
    messages = conversation.answered(answer) if isinstance(answer, dict) else []
    if messages:
        return _shown(_message(messages[0]))
    error = _get(answer, "error")
    if error is not None:
        message = _get(error, "message")
        return _shown(message if isinstance(message, str) else error if isinstance(error, str) else "")
    return _beginning_of(body)


def _parsed(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        # Cut at 256 KiB, most likely.
        return None


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _message(message: Any) -> str:
    text = _content(message) or _get(message, "refusal")
    if isinstance(text, str) and text:
        return text
    calls = _get(message, "tool_calls")
    return " ".join(_tool_call(call) for call in calls) if isinstance(calls, list) else ""


def _tool_call(call: Any) -> str:
    function = _get(call, "function")
    return f"{_get(function, 'name')}({_get(function, 'arguments') or ''})"


def _content(message: Any) -> str:
    """Return the text of a message; what is not text is named by its type, for example `[image_url]`."""
    content = _get(message, "content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return " ".join(_part(part) for part in content)


def _part(part: Any) -> str:
    for name in ("text", "refusal"):
        if isinstance(text := _get(part, name), str):
            return text
    kind = _get(part, "type")
    return f"[{kind}]" if isinstance(kind, str) else ""


def _beginning_of(body: bytes) -> str:
    return _shown(body[:_LOOKED_AT].decode(errors="replace"))


def _shown(text: str) -> str:
    return " ".join(text[:_LOOKED_AT].split())[:PREVIEW_CHARS]
