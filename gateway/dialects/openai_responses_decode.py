"""Pure: the Responses API -> the middle form: a client's request, a provider's answer.

Refuses what lives at OpenAI only (stored responses, conversations, prompts, work in the background): a provider of
another dialect has none of it. Never raises on an answer. Neighbours: `openai_responses_items` (the input),
`openai_responses_tools`, `openai_responses_stream` (a provider's stream), `openai_responses_answer`.
"""

import math
from typing import Any

from gateway.dialects import openai_logprobs
from gateway.dialects import openai_responses_answer as reading
from gateway.dialects import openai_responses_items as items
from gateway.dialects import openai_responses_tools as tools
from gateway.dialects.blocks import (
    Answer,
    Block,
    Finish,
    Format,
    Image,
    Logprob,
    Opaque,
    Reasoning,
    Redacted,
    Refusal,
    Request,
    Text,
    Thinking,
)
from gateway.dialects.openai_answer import lenient, storable
from gateway.dialects.openai_chat import error_message
from gateway.dialects.openai_responses import LOGPROBS
from gateway.dialects.openai_responses_seal import OURS
from gateway.dialects.openai_responses_stream import StreamDecoder, call_of, citation
from gateway.dialects.wire import Asked, InvalidBody, Members, dicts, member

__all__ = ["StreamDecoder", "answer", "request"]

# Whatever these say, only OpenAI has it.
_STATEFUL = ("previous_response_id", "conversation", "background")
# Read into the middle form, or of no meaning elsewhere (what Codex tells of itself, what a response keeps of its call).
_READ = frozenset(
    {
        "model",
        "input",
        "instructions",
        "stream",
        "stream_options",
        "max_output_tokens",
        "temperature",
        "top_p",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "service_tier",
        "user",
        "safety_identifier",
        "include",
        "metadata",
        "client_metadata",
        "prompt",
    }
)


# --- Requests -------------------------------------------------------------------------------------------------------


def request(asked: Asked) -> Request:
    """Return a client's request. Raises: wire.InvalidBody."""
    members = asked.members
    _check_state(members)
    given: Any = getattr(asked, "input", "")
    system, turns = items.messages(given)
    instructions = member(members, "instructions", str, "a text")
    if instructions:
        system.insert(0, Text(instructions))
    text = member(members, "text", dict, "an object") or {}
    weighs = LOGPROBS in (member(members, "include", list, "a list") or [])
    most = member(members, "top_logprobs", int, "a whole number")
    return Request(
        dialect=OURS,
        model=asked.model,
        messages=turns,
        system=system,
        stream=asked.stream,
        max_output=asked.max_output,
        temperature=_number(members, "temperature"),
        top_p=_number(members, "top_p"),
        logprobs=True if weighs else None,
        top_logprobs=most if weighs else None,
        tools=tools.tools(asked, given if isinstance(given, list) else []),
        choice=tools.choice(asked),
        parallel=member(members, "parallel_tool_calls", bool, "true or false"),
        format=_format(text),
        reasoning=_reasoning(members),
        service_tier=member(members, "service_tier", str, "a string"),
        verbosity=_word(text.get("verbosity")),
        user=member(members, "safety_identifier", str, "a string") or member(members, "user", str, "a string"),
        extra=_extra(members),
    )


def _check_state(members: Members) -> None:
    for name in _STATEFUL:
        if name in members and lenient(bytes(members[name])) not in (None, False):
            raise InvalidBody(f"{name} needs a model of OpenAI's: its responses are stored there.", name)
    prompt = lenient(bytes(members["prompt"])) if "prompt" in members else None
    if isinstance(prompt, dict) and str(prompt.get("id", "")).startswith("pmpt_"):
        raise InvalidBody("prompt is stored at OpenAI: it needs a model of OpenAI's.", "prompt")


def _number(members: Members, name: str) -> float | None:
    value = lenient(bytes(members[name])) if name in members else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidBody(f"{name} must be a number.", name)
    return float(value)


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _format(text: dict[str, Any]) -> Format | None:
    value = text.get("format")
    if value is None or not isinstance(value, dict) or value.get("type", "text") == "text":
        return None
    if value["type"] == "json_object":
        return Format(kind="json_object")
    inner = value["json_schema"] if isinstance(value.get("json_schema"), dict) else value  # as in chat completions
    schema, strict = inner.get("schema"), inner.get("strict")
    if value["type"] != "json_schema" or not isinstance(schema, dict):
        raise InvalidBody("text.format must be text, json_object or json_schema with a schema.", "text.format")
    return Format(
        kind="json_schema",
        schema=schema,
        name=_word(inner.get("name")),
        description=_word(inner.get("description")),
        strict=strict if isinstance(strict, bool) else None,
    )


def _reasoning(members: Members) -> Reasoning | None:
    value = member(members, "reasoning", dict, "an object")
    if not value:
        return None
    effort = _word(value.get("effort"))
    summary = _word(value.get("summary")) or _word(value.get("generate_summary"))
    if effort is None and summary is None:
        return None
    return Reasoning(effort=effort, visible=True if summary else None)


def _extra(members: Members) -> dict[str, Any]:
    """Return what else a client asked for, less what says no more than is done anyway."""
    extra = {name: lenient(bytes(raw)) for name, raw in members.items() if name not in _READ}
    usual = {"store": False, "truncation": "disabled", "background": False}
    return {name: value for name, value in extra.items() if value is not None and value != usual.get(name)}


# --- Answers --------------------------------------------------------------------------------------------------------


def answer(body: bytes) -> Answer:
    """Return a provider's whole answer. Never raises: `error` is set when it is none."""
    response = lenient(body)
    if not isinstance(response, dict):
        return Answer(error="The provider's answer is not JSON.")
    created, reason = response.get("created_at"), reading.finish(response)
    found = Answer(
        id=storable(response.get("id")),
        model=storable(response.get("model")),
        created=int(created) if isinstance(created, int | float) else None,
        blocks=[block for item in reading.items(response) for block in blocks_of(item)],
        finish=Finish(reason=reason, native=reading.native(response)) if reason else None,
        usage=reading.usage(response.get("usage")),
        service_tier=_word(response.get("service_tier")),
        logprobs=[each for item in reading.items(response) for each in _logprobs(item)],
    )
    failed = reading.error_of(response.get("error"))
    if failed is not None:
        found.error = failed[0]
    elif not isinstance(response.get("output"), list):
        found.error = error_message(body) or "The provider's answer has no output."
    elif reason in (None, "error"):
        found.error = f"The provider's answer is {str(response.get('status'))[:40]}."
    return found


def blocks_of(item: dict[str, Any]) -> list[Block]:
    """Return the blocks of one item of an answer."""
    kind = item.get("type")
    if kind == "message":
        return [_said(part) for part in dicts(item.get("content"))]
    if kind == "reasoning":
        return _thought(item)
    if kind in ("function_call", "custom_tool_call"):
        return [call_of(item, custom=kind == "custom_tool_call")]
    if kind == "image_generation_call" and isinstance(item.get("result"), str) and item["result"]:
        return [Image(media_type=f"image/{_word(item.get('output_format')) or 'png'}", data=item["result"])]
    return [Opaque(dialect=OURS, value=item)]


def _logprobs(item: dict[str, Any]) -> list[Logprob]:
    return [each for part in dicts(item.get("content")) for each in openai_logprobs.read(part.get("logprobs"))]


def _said(part: dict[str, Any]) -> Block:
    if part.get("type") == "refusal":
        return Refusal(reading.text_of(part.get("refusal")))
    text = reading.text_of(part.get("text"))
    found = [said for mark in dicts(part.get("annotations")) if (said := citation(mark, text)) is not None]
    return Text(text, citations=found or None)


def _thought(item: dict[str, Any]) -> list[Block]:
    text, encrypted = reading.reasoning_text(item), item.get("encrypted_content")
    shown: list[Block] = [Thinking(text=text, dialect=OURS)] if text else []
    if isinstance(encrypted, str) and encrypted:
        shown.append(Redacted(data=encrypted, dialect=OURS, id=_word(item.get("id"))))
    return shown
