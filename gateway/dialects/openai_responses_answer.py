"""Pure: what an answer of OpenAI's Responses API said, piece by piece: its items, usage, status, errors.

Responsible for reading a response object and the events of a stream, in every shape that servers of this API send.
Never sees server-sent events and never knows the client's side. Neighbours: `openai_responses` (the door),
`openai_responses_decode` (to the middle form).

Source: https://platform.openai.com/docs/api-reference/responses (2026-11), the types of openai-python 3.54, and
recorded traffic. The oddities: a `null` where the documentation has a list, details of usage left out, `[DONE]` at
the end (OpenRouter), a terminal event with an empty `output`.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from billing.usage import Usage
from gateway.dialects.blocks import Reason
from gateway.dialects.openai_answer import MAX_TOKENS, lenient
from gateway.dialects.wire import a_dict as _dict
from gateway.dialects.wire import dicts

# Items of a response that ask the client to do something: the answer ends with tool calls.
CLIENT_CALLS = frozenset(
    {"function_call", "custom_tool_call", "local_shell_call", "apply_patch_call", "computer_call", "tool_search_call"}
)
TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})

_NO_RAW = msgspec.Raw(b"")


class Event(msgspec.Struct):
    """An event of a stream, whatever its type: the members this API uses, absent ones as None."""

    type: str = ""
    delta: Any = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    item_id: str | None = None
    item: Any = None
    part: Any = None
    text: Any = None
    logprobs: Any = None
    arguments: Any = None
    input: Any = None
    name: Any = None
    refusal: Any = None
    annotation: Any = None
    response: msgspec.Raw = _NO_RAW
    # Of `error`: OpenAI sends the members of the error beside the type, or inside `error`.
    error: Any = None
    code: Any = None
    message: Any = None


_decode = msgspec.json.Decoder(Event).decode


def event(data: bytes) -> Event | None:
    """Read the data of an event; None for `[DONE]`, comments, and what is no event of this API."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    value = lenient(data)
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return None
    response = value.pop("response", None)
    try:
        found = msgspec.convert(value, Event, strict=False)
    except msgspec.ValidationError:
        found = Event(type=value["type"])
    if response is not None:
        found.response = msgspec.Raw(msgspec.json.encode(response))
    return found


def response_of(found: Event) -> dict[str, Any]:
    """Return the response object an event carries, empty where it carries none."""
    value = lenient(bytes(found.response)) if found.response else None
    return value if isinstance(value, dict) else {}


def part_type(found: Event) -> str:
    return text_of(found.part.get("type")) if isinstance(found.part, dict) else ""


def items(response: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the items of a response's output, those that are objects."""
    return dicts(response.get("output"))


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""


def encoded(value: object) -> bytes:
    return msgspec.json.encode(value)


# --- What it said ---------------------------------------------------------------------------------------------------


def reasoning_text(item: dict[str, Any]) -> str:
    """Return what a reasoning item shows: its summary, else (open models) the reasoning itself."""
    parts = dicts(item.get("summary")) or dicts(item.get("content"))
    return "\n\n".join(text for part in parts if (text := text_of(part.get("text"))))


def written(item: dict[str, Any]) -> Iterator[str]:
    """Yield all text a model wrote in an item: for a tokenizer, where no usage was reported."""
    kind = item.get("type")
    if kind == "message":
        for part in dicts(item.get("content")):
            yield text_of(part.get("text")) or text_of(part.get("refusal"))
    elif kind == "reasoning":
        yield reasoning_text(item)
    else:
        for name in ("name", "arguments", "input", "code"):
            yield text_of(item.get(name))


def finish(response: dict[str, Any]) -> Reason | None:
    """Return why a response ended, in chat completions' words; None where it has not ended (in the background)."""
    status = response.get("status")
    if status in ("failed", "cancelled"):
        return "error"
    if status == "incomplete":
        return _incomplete(response)
    if status in ("queued", "in_progress") or not isinstance(response.get("output"), list):
        return None
    return "tool_calls" if any(item.get("type") in CLIENT_CALLS for item in items(response)) else "stop"


def _incomplete(response: dict[str, Any]) -> Reason:
    reason = _dict(response.get("incomplete_details")).get("reason")
    if reason == "content_filter":
        return "content_filter"
    # `steered`: the client itself has cut the answer short. Anything else is a limit.
    return "stop" if reason == "steered" else "length"


def native(response: dict[str, Any]) -> str | None:
    """Return the provider's own word for why a response ended."""
    reason = _dict(response.get("incomplete_details")).get("reason")
    word = reason if isinstance(reason, str) else response.get("status")
    return word[:200] if isinstance(word, str) else None


def usage(reported: object) -> Usage | None:
    """Return usage, normalised; None without usable totals (missing, negative, absurd, of another type)."""
    members = _dict(reported)
    given, out = _tokens(members.get("input_tokens")), _tokens(members.get("output_tokens"))
    if given is None or out is None:
        return None
    inputs, outputs = _dict(members.get("input_tokens_details")), _dict(members.get("output_tokens_details"))
    reasoning = _tokens(outputs.get("reasoning_tokens")) or 0
    if reasoning and _tokens(members.get("total_tokens")) == given + out + reasoning:
        out += reasoning  # the total says that reasoning was not counted as output
    read = min(_tokens(inputs.get("cached_tokens")) or 0, given)
    kept = min(_tokens(inputs.get("cache_write_tokens")) or 0, given - read)
    long = _tokens(_dict(inputs.get("cache_write_tokens_details")).get("ttl_12h_tokens")) or 0
    return Usage(
        input_tokens=given,
        output_tokens=out,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=kept,
        cache_creation_1h_input_tokens=min(long, kept),
        reasoning_output_tokens=min(reasoning, out),
    )


def _tokens(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


# --- Errors ---------------------------------------------------------------------------------------------------------

# The codes a response's `error` may have by OpenAI's documentation, and those its API sends beside them.
_CODES = frozenset(
    {"server_error", "rate_limit_exceeded", "invalid_prompt", "context_length_exceeded", "insufficient_quota"}
)


def error_of(inner: object) -> tuple[str, str | None] | None:
    """Return message and code of an error's members (an `error` event, or `error` of a response), else None."""
    members = _dict(inner)
    if not members:
        return (inner[:2_000], None) if isinstance(inner, str) and inner else None
    code = members.get("code") or members.get("type")
    code = code[:200] if isinstance(code, str) else None if code is None else str(code)[:200]
    message = members.get("message")
    text = message if isinstance(message, str) and message else code
    return (text[:2_000] if text else "The provider reported an error.", code)


def event_error(found: Event) -> tuple[str, str | None]:
    """Return message and code of an `error` event, or of `response.failed`."""
    if found.type == "error":
        inner = found.error or {"code": found.code, "message": found.message}
    else:
        inner = response_of(found).get("error")
    return error_of(inner) or ("The provider reported an error.", None)


def error_code(code: str | None, status: int | None) -> str:
    """Return a code that a response's `error` may have."""
    if code in _CODES:
        return str(code)
    return "rate_limit_exceeded" if status == 429 else "server_error"


def skeleton(*, id: str, model: str, created: int, status: str) -> dict[str, Any]:
    """Return a response object with every member that the API's clients expect, and no output yet."""
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "status": status,
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": None,
    }


def failure(*, response: dict[str, Any], code: str, message: str, status: int | None, sequence: int) -> bytes:
    """Return the two events that end a stream which cannot go on; `response` is the one that fails.

    `error` has OpenAI's members at both places where it is read: openai-python and openai-node raise where the event
    has a truthy `error`, others look beside `type`. `response.failed` is for those that wait for a terminal event.
    """
    told: dict[str, Any] = {
        "type": "error",
        "code": code,
        "message": message,
        "param": None,
        "sequence_number": sequence,
    }
    told["error"] = {"type": "server_error", "code": code, "message": message, "param": None}
    failed = {**response, "status": "failed", "error": {"code": error_code(code, status), "message": message}}
    last = {"type": "response.failed", "sequence_number": sequence + 1, "response": failed}
    return sse("error", told) + sse("response.failed", last)


def sse(name: str, value: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"
