"""What a call came to, told in its own answer where the caller asked for it (`request_breakdown: true`).

A whole answer gains one member and keeps its other bytes; a stream of chat completions gains one chunk before its
`[DONE]`. Responses streams and other dialects have no place for it and stay as they are. Holds figures, names and what
the caller has said and read itself: no key, no header, no settings of the organization. Never decides anything of the
call. Neighbours: `call.py` and `answers.py` (which send it), `recording.py` (the same facts and the same `price`, for
the trace). Source of the shapes: Respan's public documentation of the gateway parameters.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.prices import Priced
from billing.usage import Usage, cost
from gateway.dialects import wire
from gateway.dialects.registry import EVENTS, OPENAI_CHAT, OPENAI_RESPONSES

if TYPE_CHECKING:
    from gateway.call import Call

_MEMBER: Final = "request_breakdown"
# A longer conversation is not said twice.
_MAX_ECHO_BYTES: Final = 64 * 1024
_DONE: Final = b"data: [DONE]"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Amounts are exact: a float would round them.
_encoder = msgspec.json.Encoder(decimal_format="number")


def is_wanted(call: "Call") -> bool:
    """Tell whether a call's answer has to hold a breakdown; almost none has."""
    if not call.params.request_breakdown or call.asked is None:
        return False
    if call.client.id == OPENAI_CHAT.id:
        return True
    return call.client.id == OPENAI_RESPONSES.id and not call.asked.stream


def of(call: "Call", answer: wire.Answer, *, kept: bytes = b"") -> dict[str, Any]:
    """Return what a call came to; `kept` is its answer in one piece, for the message in it."""
    asked, usage = call.asked, answer.usage
    latency_s = time.monotonic() - call.started
    ended_at = _EPOCH + timedelta(microseconds=call.started_us) + timedelta(seconds=latency_s)
    return {
        "log_id": call.log_id,
        "prompt_tokens": usage.input_tokens if usage else None,
        "completion_tokens": usage.output_tokens if usage else None,
        "cost": _usd(call, usage),
        "model": answer.model or (asked.model if asked else None),
        "provider_id": call.target.model.provider if call.target else None,
        "cached": call.hit is not None,
        "fallback": call.rank if call.target else 0,
        "retries": max(0, sum(not each.skipped for each in call.attempts) - 1),
        "status_code": 200,
        "stream": asked.stream if asked else False,
        "timestamp": ended_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "latency": round(latency_s, 6),
        "time_to_first_token": None if call.ttft_us is None else call.ttft_us / 1_000_000,
        "routing_time": _routing_s(call),
        "metadata": call.params.metadata,
        "prompt_messages": _messages(asked),
        "completion_message": _message(kept),
    }


def _usd(call: "Call", usage: Usage | None) -> Decimal | None:
    """Return the cost in USD, exact; None where nobody knows it yet (the log will, where the tokens are counted)."""
    if call.hit is not None or (call.target is not None and call.target.paid_by == "free"):
        return Decimal(0)
    found = price(call, usage)
    if usage is None or found is None:
        return None
    nano = cost(usage, found.rates)
    return Decimal(nano).scaleb(-9) if nano else Decimal(0)


def price(call: "Call", usage: Usage | None) -> Priced | None:
    """Return the rates a call is charged at: by its real input, where a long one costs more."""
    if call.target is None or call.target.price is None:
        return None
    above = call.target.model.long_above_tokens
    if call.long_price is not None and usage is not None and above is not None and usage.input_tokens > above:
        return call.long_price
    return call.target.price


def _routing_s(call: "Call") -> float | None:
    """Return the seconds until the first provider was asked."""
    tried = [each.started_us for each in call.attempts if not each.skipped]
    return max(0, tried[0] - call.started_us) / 1_000_000 if tried else None


def _messages(asked: wire.Asked | None) -> msgspec.Raw | None:
    messages = asked.members.get("messages") if asked is not None else None
    return None if messages is None or len(messages) > _MAX_ECHO_BYTES else msgspec.Raw(messages)


class _Choice(msgspec.Struct):
    message: msgspec.Raw = msgspec.Raw(b"")


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []


_completions = msgspec.json.Decoder(_Completion)


def _message(kept: bytes) -> msgspec.Raw | None:
    """Return the message of the first choice, as it stands in an answer."""
    try:
        choices = _completions.decode(kept).choices if kept else []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    message = choices[0].message if choices else msgspec.Raw(b"")
    return message if 0 < len(message) <= _MAX_ECHO_BYTES else None


# --- Into the answer --------------------------------------------------------------------------------------------------


def told(call: "Call", body: bytes, content_type: str, *, answer: wire.Answer, kept: bytes) -> bytes:
    """Return an answer with its breakdown in it."""
    found = of(call, answer, kept=kept)
    return in_events(body, found) if content_type.startswith(EVENTS) else in_whole(body, found)


def in_whole(body: bytes, breakdown: Mapping[str, Any]) -> bytes:
    """Append the breakdown to a JSON object, every other byte as it was; what is no object stays as it is."""
    text = body.rstrip()
    if not (text.lstrip().startswith(b"{") and text.endswith(b"}")):
        return body
    before = text[:-1]
    comma = b"" if before.rstrip().endswith(b"{") else b","
    member = _encoder.encode(_MEMBER) + b":" + _encoder.encode(breakdown)
    return before + comma + member + b"}" + body[len(text) :]


def in_events(body: bytes, breakdown: Mapping[str, Any]) -> bytes:
    """Put the breakdown before the `[DONE]` of a stream's last bytes; where it is not among them, leave it out."""
    place = body.rfind(_DONE)
    return body if place < 0 else body[:place] + event(breakdown) + body[place:]


def event(breakdown: Mapping[str, Any]) -> bytes:
    """Return the breakdown as the last chunk of a stream of chat completions."""
    message = breakdown.get("completion_message")
    chunk = {
        "id": _MEMBER,
        "choices": [
            {
                "delta": {"content": None, "role": "assistant"},
                "finish_reason": "stop",
                _MEMBER: breakdown,
                "index": 0,
                "message": {"role": "assistant", "content": None} if message is None else message,
            }
        ],
        "created": int(time.time()),
        "model": "extra_parameter",
        "object": "chat.completion.chunk",
        "system_fingerprint": None,
        "usage": {},
    }
    return b"data: " + _encoder.encode(chunk) + b"\n\n"
