"""A stored log as the outside sees it: Respan's public field names, and the conversation of a call as plain turns.

The one place where columns meet Respan's names. Reads JSON that customers wrote: believes nothing about its shape and
never raises over it. No database, no request. Neighbours: `reading.py` (the logs), `api.py`, `views.py`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from respan import ids
from traces import conversation, decisions
from traces.reading import Body, Log

_STATUS = {"ok": "success"}
# A longer data URL is named, not shown.
_MAX_ADDRESS: Final = 200
_ENVIRONMENT = {"production": "prod"}
# Members of a request that Respan repeats on the log.
_PARAMETERS = (
    *("temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "stop", "frequency_penalty"),
    *("presence_penalty", "seed", "reasoning_effort", "response_format", "tools", "tool_choice"),
)
# Fields that need the bodies; a list that asks for none of them is answered without reading any.
CONTENT_FIELDS: Final[frozenset[str]] = frozenset(
    {
        *("input", "output", "prompt_messages", "completion_message", "completion_messages"),
        *("full_request", "full_response", "tool_calls", "request_truncated", "response_truncated"),
        *_PARAMETERS,
    }
)


@dataclass(frozen=True, slots=True)
class KeyName:
    """How an API key is called outside."""

    public_id: str
    name: str


def public_id(log: Log) -> str:
    """Return a log's public id, `log_...`."""
    return ids.encode("log", log.id)


def public_log(
    log: Log,
    body: Body | None,
    *,
    key: KeyName | None,
    organization_id: str,
    only: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return a log in Respan's shape; `only` names the fields to keep (`id` always stays)."""
    shape = {
        **_identity(log, key=key, organization_id=organization_id),
        **_outcome(log),
        **_cache(log),
        **_figures(log),
        **_content(log, body),
    }
    if only is None:
        return shape
    return {name: value for name, value in shape.items() if name in only or name in {"id", "unique_id"}}


def _identity(log: Log, *, key: KeyName | None, organization_id: str) -> dict[str, Any]:
    environment = _ENVIRONMENT.get(log.environment, log.environment)
    return {
        "id": public_id(log),
        "unique_id": public_id(log),
        "organization_id": organization_id,
        "unique_organization_id": organization_id,
        "organization_key_id": key.public_id if key else None,
        "organization_key_name": key.name if key else None,
        "environment": environment,
        "is_test": environment == "test",
        "log_type": log.log_type,
        "log_method": "inference",
        "span_name": log.name,
        "trace_unique_id": log.trace_id.hex() if log.trace_id else None,
        "span_unique_id": decisions.span_id(log.id),
        "span_parent_id": log.parent_span_id.hex() if log.parent_span_id else None,
        "customer_identifier": log.customer_identifier,
        "customer_name": log.customer_name,
        "customer_email": log.customer_email,
        "custom_identifier": log.custom_identifier,
        "thread_identifier": log.thread_identifier,
        "metadata": log.metadata,
    }


def _outcome(log: Log) -> dict[str, Any]:
    return {
        "status": _STATUS.get(log.status, log.status),
        "status_code": log.http_status,
        "failed": log.status != "ok",
        "error_code": log.error_code,
        "error_message": log.error_message,
        "finish_reason": log.finish_reason,
        "warnings": log.warnings,
        "has_warnings": bool(log.warnings),
        "model": log.request_model,
        "response_model": log.response_model,
        "provider_id": log.provider,
        "deployment_name": log.credential,
        "deployment_id": log.credential,
        "load_balance_group_id": log.load_balance_group,
        "used_custom_credential": log.paid_by == "own_key",
        "covered_by": log.paid_by,
        "attempts": [_attempt(log, each) for each in decisions.attempts(log)],
        "fallback": log.fallback,
        "retries": log.retries,
        "decision": decisions.sentence(log, started_us=_microseconds(log.started_at)) or None,
        "limit_name": log.limit_name,
        "stream": log.stream,
    }


def _attempt(log: Log, attempt: decisions.Attempt) -> dict[str, Any]:
    """Return an attempt as the child span it is; tokens and cost are the call's own, of the one that delivered."""
    delivered = attempt.is_delivering
    return {
        "span_id": attempt.span_id,
        "parent_span_id": decisions.span_id(log.id),
        "reason": attempt.reason,
        "skipped": attempt.is_skipped,
        "provider": attempt.provider,
        "model": attempt.model,
        "credential": attempt.credential,
        "credential_name": attempt.credential_name,
        "status": attempt.status,
        "error": attempt.error,
        "message": attempt.message,
        "started_us": attempt.started_us,
        "duration_us": attempt.duration_us,
        "latency": attempt.duration_us / 1_000_000,
        "prompt_tokens": (log.input_tokens or 0) if delivered else 0,
        "completion_tokens": (log.output_tokens or 0) if delivered else 0,
        "cost": _usd(log.cost_nano) if delivered else 0.0,
        "next": attempt.next,
    }


def _cache(log: Log) -> dict[str, Any]:
    return {
        "cached": log.cached,
        "cache_hit": log.cached,
        "cache_bit": int(log.cached),
        "cache_miss_bit": int(not log.cached and log.cache_key is not None),
        "cache_key": log.cache_key,
        "cache_log_id": ids.encode("log", log.cache_log_id) if log.cache_log_id else None,
        "saved": _usd(log.saved_nano),
        "saved_nano": None if log.saved_nano is None else str(log.saved_nano),
    }


def limit_info(log: Log) -> dict[str, Any] | None:
    """Return which limit refused a call or warned of it, in Respan's shape; None where none did."""
    if log.limit_name is None:
        return None
    return {
        "is_allowed": not decisions.is_refused(log),
        "limits": [{"name": log.limit_name, "is_within_limit": False}],
    }


def _figures(log: Log) -> dict[str, Any]:
    return {
        "start_time": _iso(log.started_at),
        "timestamp": _iso(log.ended_at),
        "latency": log.duration_us / 1_000_000,
        "time_to_first_token": None if log.ttft_us is None else log.ttft_us / 1_000_000,
        "tokens_per_second": _per_second(log),
        "prompt_tokens": log.input_tokens,
        "completion_tokens": log.output_tokens,
        "total_request_tokens": (log.input_tokens or 0) + (log.output_tokens or 0),
        "reasoning_tokens": log.reasoning_output_tokens,
        "prompt_cache_hit_tokens": log.cache_read_input_tokens,
        "prompt_cache_creation_tokens": log.cache_creation_input_tokens,
        "usage_source": log.usage_source,
        "cost": _usd(log.cost_nano),
        "cost_nano": None if log.cost_nano is None else str(log.cost_nano),
        "charged_nano": str(log.charged_nano),
        "absorbed_nano": str(log.absorbed_nano),
    }


def _usd(nano: int | None) -> float | None:
    """Return an amount as a number: exact up to a million dollars; the field in nano-USD is exact always."""
    return None if nano is None else float(Decimal(nano).scaleb(-9))


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def _per_second(log: Log) -> float | None:
    if log.output_tokens is None or not log.duration_us:
        return None
    return round(log.output_tokens * 1_000_000 / log.duration_us, 3)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _content(log: Log, body: Body | None) -> dict[str, Any]:
    request = parsed(body.request) if body else None
    response = parsed(body.response) if body else None
    messages = conversation.asked(request, log.name)
    answers = conversation.answered(response)
    tool_calls = [call for answer in answers for call in _list(answer.get("tool_calls"))]
    return {
        "input": _json(messages) if messages else log.input_preview,
        "output": _json(answers[0]) if answers else log.output_preview,
        "prompt_messages": messages or None,
        "completion_message": answers[0] if answers else None,
        "completion_messages": answers or None,
        "tool_calls": tool_calls or None,
        "full_request": request,
        "full_response": response,
        "request_truncated": bool(body and body.request_truncated),
        "response_truncated": bool(body and body.response_truncated),
        "is_log_omitted": not log.has_body,
        **{name: request[name] for name in _PARAMETERS if request and request.get(name) is not None},
    }


def parsed(body: bytes | None) -> dict[str, Any] | None:
    """Return a body as an object; None when there is none, when it is no object, or when it was cut."""
    try:
        value = msgspec.json.decode(body) if body else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# --- The conversation of a call -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a turn: its kind says how to present it, its text is to be shown as it is, never as markup.

    `link` is an address of the web where it has one; `results` are what the tool answered to a call.
    """

    kind: str  # text | image | audio | file | thinking | refusal | tool call | other
    text: str
    title: str = ""
    call_id: str = ""
    link: str = ""
    results: "tuple[Part, ...]" = ()
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """What one role said. `is_answer` marks what the model said in this call."""

    role: str
    parts: tuple[Part, ...]
    title: str = ""
    is_answer: bool = False
    call_id: str = ""


def turns(request: Mapping[str, Any] | None, response: Mapping[str, Any] | None, *, operation: str = "") -> list[Turn]:
    """Return the turns of a call in any dialect, the answers last; `operation` is what its log calls it."""
    asked = [_turn(message) for message in conversation.asked(request, operation)]
    return asked + [_turn(message, is_answer=True) for message in conversation.answered(response)]


def _turn(message: Mapping[str, Any], *, is_answer: bool = False) -> Turn:
    role = _str(message.get("role")) or ("assistant" if is_answer else "unknown")
    call_id = _str(message.get("tool_call_id"))
    return Turn(role, tuple(_parts(message)), _str(message.get("name")) or call_id, is_answer, call_id)


def paired(turns: Sequence[Turn]) -> list[Turn]:
    """Put what a tool answered under the call it answers; an answer without its call stays a turn of its own."""
    results: dict[str, tuple[Part, ...]] = {}
    called = {part.call_id for turn in turns for part in turn.parts if part.kind == "tool call" and part.call_id}
    left = []
    for turn in turns:
        if turn.call_id in called and turn.call_id not in results and turn.role == "tool":
            results[turn.call_id] = turn.parts
        else:
            left.append(turn)
    return [
        replace(turn, parts=tuple(replace(part, results=results.get(part.call_id, ())) for part in turn.parts))
        for turn in left
    ]


def _parts(message: Mapping[str, Any]) -> Iterator[Part]:
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name]:
            yield Part("thinking", message[name])
    content = message.get("content")
    if isinstance(content, str):
        if content:
            yield Part("text", content)
    elif isinstance(content, list):
        yield from (_part(each) for each in content)
    elif content is not None:
        yield Part("other", pretty(content))
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        yield Part("refusal", message["refusal"])
    calls = [
        *_list(message.get("tool_calls")),
        *([{"function": message["function_call"]}] if "function_call" in message else []),
    ]
    for call in calls:
        yield _tool_call(call)


def _part(part: Any) -> Part:
    if not isinstance(part, dict):
        return Part("text", part) if isinstance(part, str) else Part("other", pretty(part))
    match part.get("type"):
        case "text" if isinstance(part.get("text"), str):
            return Part("text", part["text"])
        case "refusal" if isinstance(part.get("refusal"), str):
            return Part("refusal", part["refusal"])
        case "image_url":
            image = part.get("image_url")
            return _media("image", image.get("url") if isinstance(image, dict) else image)
        case "input_audio":
            audio = part.get("input_audio")
            return _media("audio", audio.get("data") if isinstance(audio, dict) and "data" in audio else audio)
        case "file":
            file = part.get("file")
            data = file.get("file_data") if isinstance(file, dict) else None
            return _media("file", data if isinstance(data, dict | str) else file, _str(_get(file, "filename")))
    return Part("other", pretty(part))


def _media(kind: str, value: Any, title: str = "") -> Part:
    """Say what an image, a sound or a file was: its address, or what is kept instead of its content."""
    if isinstance(value, str):
        if value.startswith("data:") and len(value) > _MAX_ADDRESS:
            head = value[:_MAX_ADDRESS].partition(",")[0]
            return Part(kind, f"{head}, {len(value):,} characters", title)
        link = value if value.lower().startswith(("https://", "http://")) else ""
        return Part(kind, value, title, link=link)
    size, digest = _get(value, "bytes"), _get(value, "sha256")
    if isinstance(size, int) and isinstance(digest, str):
        return Part(kind, f"{_str(_get(value, 'type'))}, {size:,} bytes, not stored (sha256 {digest})", title)
    return Part(kind, pretty(value), title)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _tool_call(call: Any) -> Part:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return Part("other", pretty(call))
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else pretty(arguments)
    call_id = _str(call.get("id"))
    return Part("tool call", text, _str(function.get("name")) or call_id, call_id)


def _str(value: Any) -> str:
    return value if isinstance(value, str) else ""


def pretty(value: Any) -> str:
    """Return JSON with indentation, for reading."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def readable(body: bytes | None) -> str:
    """Return a stored body for reading: indented where it is JSON, else (it was cut) as it is."""
    if not body:
        return ""
    try:
        return msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
