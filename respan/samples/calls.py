"""Sample calls: fourteen days of an imaginary shop, as the records its calls would have left behind.

Makes `Finished` records from the facts in `calls.toml`, the catalogue and the prices in force; the same dice make the
same calls under new ids. Writes nothing and calls nobody. Neighbours: `respan/sample.py` (puts them into an
organization), `traces.seeding`.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from billing.usage import Usage
from gateway.providers import Model, catalog
from respan import ids
from traces.spans import ABORTED, ERROR, OK, Attempt, Finished

MARK: Final = {"sample": "true"}
DAYS: Final = 14
# How busy an hour of the day (UTC) and a day of the week (Monday first) is, and by how much each day is busier.
_HOURS: Final = (8, 6, 5, 5, 6, 10, 18, 34, 58, 78, 86, 84, 76, 82, 90, 88, 80, 66, 50, 42, 36, 28, 20, 12)
_WEEKDAYS: Final = (1.0, 1.06, 1.1, 1.04, 0.92, 0.42, 0.34)
_GROWTH: Final = 1.025
_LATEST: Final = timedelta(minutes=2)
_ABORTED_SHARE: Final = 0.012
_RETRIED_SHARE: Final = 0.7
_CHARS_PER_TOKEN: Final = 4.1
_TOKENS_PER_MESSAGE: Final = 4
_CACHED_BLOCK: Final = 128
_RELEASES: Final = ("2.14.0", "2.14.1", "2.15.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Whose calls these are: the API key of each environment, the version of the rates of each model, the time."""

    organization_id: int
    keys: Mapping[str, int]
    rates: Mapping[tuple[str, str], int]
    now: datetime


@dataclass(frozen=True, slots=True)
class _Ask:
    """One call of a conversation, before it is known how it ends."""

    app: Mapping[str, Any]
    name: str
    model: Model
    messages: Sequence[Mapping[str, Any]]
    answer: Mapping[str, Any]
    finish_reason: str
    thought: str
    labels: Mapping[str, Any]


def make(scene: Scene, *, dice: Random, count: int) -> list[Finished]:
    """Return so many calls of the last fourteen days, in the order they began."""
    facts = _facts()
    models = _known_models(facts)
    apps = [app for app in facts["apps"] if app["models"].keys() & models.keys()]
    hours = _weighted_hours(scene.now)
    calls: list[Finished] = []
    while len(calls) < count:
        app = dice.choices(apps, [app["weight"] for app in apps])[0]
        offered = {name: weight for name, weight in app["models"].items() if name in models}
        name = dice.choices(list(offered), list(offered.values()))[0]
        hour = dice.choices(list(hours), list(hours.values()))[0]
        begin = hour + timedelta(seconds=dice.uniform(0, 3_600))
        if begin < scene.now - _LATEST:
            calls += _conversation(scene, app, name, models[name], begin, dice)
    return sorted(calls[:count], key=lambda call: call.started_us)


@lru_cache(maxsize=1)
def _facts() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("calls.toml").read_text())


def _known_models(facts: Mapping[str, Any]) -> dict[str, Model]:
    """Return the models of the facts that the catalogue still lists."""
    found = {name: catalog().find(name) for name in facts["models"]}
    return {name: models[0] for name, models in found.items() if models}


def _weighted_hours(now: datetime) -> dict[datetime, float]:
    this = now.replace(minute=0, second=0, microsecond=0)
    hours = [this - timedelta(hours=back) for back in range(DAYS * 24)]
    return {
        hour: _HOURS[hour.hour] * _WEEKDAYS[hour.weekday()] * _GROWTH ** (-(this - hour).total_seconds() / 86_400)
        for hour in hours
    }


# --- A conversation: several calls, one after the other ---------------------------------------------------------------


def _conversation(
    scene: Scene, app: Mapping[str, Any], name: str, model: Model, begin: datetime, dice: Random
) -> Iterator[Finished]:
    """Yield the calls of one conversation, until it ends, fails for good or reaches the present."""
    at = begin
    for ask in _asks(app, name, model, dice):
        at += timedelta(seconds=dice.uniform(0.2, 1.2) if ask.messages[-1]["role"] == "tool" else dice.uniform(15, 120))
        failure = _failure(scene, name, at, dice)
        if failure is not None and at < scene.now - _LATEST:
            failed = _failed(scene, ask, failure, at, dice)
            yield failed
            if dice.random() > _RETRIED_SHARE:
                return
            at += timedelta(microseconds=failed.duration_us, seconds=dice.uniform(1, 4))
        if at >= scene.now - _LATEST:
            return
        call = _answered(scene, ask, at, dice)
        yield call
        if call.status == ABORTED:
            return
        at += timedelta(microseconds=call.duration_us)


def _asks(app: Mapping[str, Any], name: str, model: Model, dice: Random) -> Iterator[_Ask]:
    """Yield what is asked, call by call: each repeats the conversation so far, as chat clients do."""
    facts = _facts()
    drawn = {f"{{{slot}}}": dice.choice(choices) for slot, choices in facts["fill"].items()}
    labels = _labels(app, dice)
    messages: list[dict[str, Any]] = [{"role": "system", "content": app["system"]}] if app["system"] else []
    if articles := app.get("knowledge"):
        chosen = dice.sample(facts["knowledge"]["articles"], articles)
        messages[0]["content"] += "\n\n" + "\n\n".join(f"[{n}] {text}" for n, text in enumerate(chosen, 1))
    thought, trace_id = "", b""
    for turn in dice.choice(app["conversations"])["turns"]:
        role, text = turn[0], _filled(turn[-1], drawn)
        if role == "think":
            thought = text
            continue
        if role == "user":
            trace_id = dice.randbytes(16)
        if role == "result":
            messages.append({"role": "tool", "tool_call_id": messages[-1]["tool_calls"][0]["id"], "content": text})
        elif role == "user":
            messages.append({"role": "user", "content": text})
        else:
            answer = _tool_call(turn[1], text, dice) if role == "call" else {"role": "assistant", "content": text}
            reason = "tool_calls" if role == "call" else "stop"
            asked = labels | {"trace_id": trace_id}
            yield _Ask(app, name, model, tuple(messages), answer, reason, thought, asked)
            messages.append(answer)


def _filled(text: str, drawn: Mapping[str, str]) -> str:
    for slot, value in drawn.items():
        text = text.replace(slot, value)
    return text


def _tool_call(function: str, arguments: str, dice: Random) -> dict[str, Any]:
    call = {
        "id": f"call_{dice.getrandbits(96):024x}",
        "type": "function",
        "function": {"name": function, "arguments": arguments},
    }
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _labels(app: Mapping[str, Any], dice: Random) -> dict[str, Any]:
    """Return who called for what: customer, thread, metadata with the mark of sample data."""
    labels: dict[str, Any] = {"metadata": MARK | {"app": app["name"], "release": dice.choice(_RELEASES)}}
    if app.get("has_customers", True):
        customers = _facts()["customers"]
        customer = dice.choices(customers, [1 / (place + 1) for place in range(len(customers))])[0]
        labels |= {
            "customer_identifier": customer["id"],
            "customer_name": customer["name"],
            "customer_email": customer["email"],
        }
    if app.get("has_threads"):
        labels["thread_identifier"] = f"chat-{dice.getrandbits(40):010x}"
    return labels


# --- One call ---------------------------------------------------------------------------------------------------------


def _failure(scene: Scene, name: str, at: datetime, dice: Random) -> Mapping[str, Any] | None:
    """Draw whether a call of a model fails at this time, and how."""
    facts = _facts()
    incident = facts["incident"]
    since_incident = at - (scene.now - timedelta(days=incident["days_ago"]))
    is_on = timedelta() <= since_incident < timedelta(minutes=incident["minutes"])
    if is_on and name in incident["models"] and dice.random() < incident["share"]:
        return dict(incident)
    for failure in facts["failures"]:
        if name in failure["models"] and dice.random() < failure["share"]:
            return dict(failure)
    return None


def _common(scene: Scene, ask: _Ask, at: datetime, duration_us: int, *, stream: bool) -> dict[str, Any]:
    """Return the members of a record that do not depend on how the call ended."""
    started_us = int(at.timestamp() * 1_000_000)
    environment = ask.app["environment"]
    return {
        "id": ids.new_uuid(started_us // 1_000),
        "organization_id": scene.organization_id,
        "api_key_id": scene.keys[environment],
        "environment": environment,
        "started_us": started_us,
        "duration_us": duration_us,
        "request_model": ask.name,
        "paid_by": _facts()["models"][ask.name]["paid_by"],
        "stream": stream,
        "provider": ask.model.provider,
        "rates_id": scene.rates.get((ask.model.provider, ask.model.id)),
        "free": ask.model.free,
        "request_body": _request(ask, stream=stream),
        **ask.labels,
    }


def _request(ask: _Ask, *, stream: bool) -> bytes:
    body: dict[str, Any] = {"model": ask.name, "messages": ask.messages}
    if tools := ask.app.get("tools"):
        body["tools"] = msgspec.json.decode(tools)
    if shape := ask.app.get("format"):
        body["response_format"] = msgspec.json.decode(shape)
    if effort := ask.app.get("effort"):
        body["reasoning_effort"] = effort
    return msgspec.json.encode(body | ({"stream": True} if stream else {}))


def _failed(scene: Scene, ask: _Ask, failure: Mapping[str, Any], at: datetime, dice: Random) -> Finished:
    duration_us = int(failure["after_ms"] * 1_000 * dice.uniform(0.9, 1.3))
    stream = dice.random() < ask.app["stream"]
    common = _common(scene, ask, at, duration_us, stream=stream)
    has_body = failure["code"] == "upstream_error"
    attempt = Attempt(
        provider=ask.model.provider,
        model=ask.model.upstream,
        started_us=common["started_us"],
        duration_us=duration_us,
        status=failure["status"] if has_body else None,
        error=None if has_body else failure["code"],
    )
    return Finished(
        **common,
        status=ERROR,
        http_status=failure["status"],
        error_code=failure["code"],
        error_message=failure["message"],
        response_body=_error_body(failure) if has_body else None,
        attempts=[] if failure["status"] == 402 else [attempt],
    )


def _error_body(failure: Mapping[str, Any]) -> bytes:
    said = {
        "message": failure["message"],
        "type": failure["type"],
        "param": None,
        "code": failure["provider_code"] or None,
    }
    return msgspec.json.encode({"error": said})


def _answered(scene: Scene, ask: _Ask, at: datetime, dice: Random) -> Finished:
    """Return a call that was answered; now and then its client leaves in the middle of the stream."""
    pace = _facts()["models"][ask.name]
    stream = dice.random() < ask.app["stream"]
    is_aborted = stream and ask.finish_reason == "stop" and dice.random() < _ABORTED_SHARE
    answer = _cut(ask.answer, dice) if is_aborted else ask.answer
    usage = _usage(ask, answer, dice)
    speed = pace["tokens_per_second"] * dice.uniform(0.75, 1.2)
    wait_s = pace["first_token_ms"] / 1_000 * dice.lognormvariate(0, 0.35) + usage.input_tokens * 0.00004
    ttft_s = wait_s + usage.reasoning_output_tokens / speed
    duration_us = int((wait_s + usage.output_tokens / speed) * 1_000_000) + 900
    common = _common(scene, ask, at, duration_us, stream=stream)
    attempt = Attempt(
        provider=ask.model.provider,
        model=ask.model.upstream,
        started_us=common["started_us"] + 600,
        duration_us=duration_us - 600,
        status=200,
    )
    return Finished(
        **common,
        status=ABORTED if is_aborted else OK,
        http_status=499 if is_aborted else 200,
        error_code="client_closed" if is_aborted else None,
        response_model=ask.model.upstream,
        ttft_us=min(int(ttft_s * 1_000_000), duration_us) if stream else None,
        usage=usage,
        usage_source="counted" if is_aborted else "exact",
        finish_reason=None if is_aborted else ask.finish_reason,
        attempts=[attempt],
        response_body=_response(ask, answer, usage, at, dice),
    )


def _cut(answer: Mapping[str, Any], dice: Random) -> dict[str, Any]:
    text = answer["content"]
    return {**answer, "content": text[: int(len(text) * dice.uniform(0.15, 0.7))]}


def _usage(ask: _Ask, answer: Mapping[str, Any], dice: Random) -> Usage:
    """Return about as many tokens as these texts have."""
    asked = len(msgspec.json.encode(ask.messages)) + len(ask.app.get("tools", "")) + len(ask.app.get("format", ""))
    written = int(len(msgspec.json.encode(answer)) / _CHARS_PER_TOKEN) + 1
    reasoned = int((len(ask.thought) / _CHARS_PER_TOKEN + written) * ask.app["thinking"]) if ask.thought else 0
    tokens = int(asked / _CHARS_PER_TOKEN) + _TOKENS_PER_MESSAGE * len(ask.messages)
    may_be_cached = "caching" in ask.model.capabilities and "cached_from" in ask.app
    is_cached = may_be_cached and tokens >= 2 * _CACHED_BLOCK and dice.random() < 0.7
    return Usage(
        input_tokens=tokens,
        output_tokens=written + reasoned,
        cache_read_input_tokens=(tokens - 1) // _CACHED_BLOCK * _CACHED_BLOCK if is_cached else 0,
        reasoning_output_tokens=reasoned,
    )


def _response(ask: _Ask, answer: Mapping[str, Any], usage: Usage, at: datetime, dice: Random) -> bytes:
    message = {**answer, "reasoning_content": ask.thought} if ask.thought else answer
    return msgspec.json.encode(
        {
            "id": f"chatcmpl-{dice.getrandbits(96):024x}",
            "object": "chat.completion",
            "created": int(at.timestamp()),
            "model": ask.model.upstream,
            "choices": [{"index": 0, "message": message, "finish_reason": ask.finish_reason}],
            "usage": {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
                "prompt_tokens_details": {"cached_tokens": usage.cache_read_input_tokens},
                "completion_tokens_details": {"reasoning_tokens": usage.reasoning_output_tokens},
            },
        }
    )
