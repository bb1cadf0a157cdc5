"""Pure: a model's reasoning as chat completions carry it, from and to blocks, for requests, answers and streams alike.

Three conventions meet here. `reasoning_content` (or `reasoning`) is the text. `thinking_blocks` is LiteLLM's, which
Respan documents: Anthropic's blocks as they are, so that their signatures come back; those of another dialect carry
a `dialect` of ours. `reasoning_details` is OpenRouter's. Gemini signs tool calls: in `extra_content`, or in
`provider_specific_fields`. Never decides who may see reasoning. Neighbours: the `openai_chat_*` modules.
"""

from typing import Any

import msgspec

from gateway.dialects.blocks import Redacted, Thinking, ToolCall
from gateway.dialects.wire import dicts

CHAT = "openai_chat"
# Whose signatures stand in `thinking_blocks` that say nothing else.
UNMARKED = "anthropic"
_MARK = "dialect"
# OpenRouter's word for Anthropic's format, which is also what a detail without one has.
_USUAL_FORMAT = "anthropic-claude-v1"


def reasoned(message: dict[str, Any]) -> list[Thinking | Redacted]:
    """Return the reasoning of an assistant's message. What is malformed in it is left out: it is never content."""
    found = [block for entry in dicts(message.get("thinking_blocks")) if (block := from_entry(entry)) is not None]
    text = text_of(message)
    if found:
        is_told = not text or any(block.text for block in found)
        return found if is_told else [Thinking(text=text, dialect=CHAT), *found]
    return from_details(message.get("reasoning_details"), text)


def text_of(message: dict[str, Any]) -> str:
    """Return the plain text of the reasoning in a message or a delta."""
    text = message.get("reasoning_content") or message.get("reasoning")
    return text if isinstance(text, str) else ""


# --- thinking_blocks ------------------------------------------------------------------------------------------------


def from_entry(entry: dict[str, Any]) -> Thinking | Redacted | None:
    """Return the block of an entry of `thinking_blocks`, None where it is none."""
    dialect = _word(entry, _MARK) or UNMARKED
    if entry.get("type") == "redacted_thinking":
        data = _word(entry, "data")
        text = _word(entry, "summary") or ""
        return Redacted(data=data, dialect=dialect, id=_word(entry, "id"), text=text) if data else None
    if entry.get("type") == "thinking" and isinstance(entry.get("thinking"), str):
        return Thinking(text=entry["thinking"], signature=_word(entry, "signature"), dialect=dialect)
    return None


def has_entry(block: Thinking) -> bool:
    """Tell whether reasoning is worth an entry: another dialect's, whose writer may want it back. Else text is all."""
    return block.signature is not None or block.dialect not in (None, CHAT)


def to_entry(block: Thinking | Redacted) -> dict[str, Any]:
    """Return a block as an entry of `thinking_blocks`."""
    mark = {} if block.dialect in (None, UNMARKED) else {_MARK: block.dialect}
    if isinstance(block, Redacted):
        told = {"id": block.id} if block.id else {}
        told |= {"summary": block.text} if block.text else {}
        return {"type": "redacted_thinking", "data": block.data, **mark, **told}
    signed = {"signature": block.signature} if block.signature is not None else {}
    return {"type": "thinking", "thinking": block.text, **signed, **mark}


# --- reasoning_details ----------------------------------------------------------------------------------------------


def from_details(value: object, text: str) -> list[Thinking | Redacted]:
    """Return the blocks of `reasoning_details`; `text` is the same reasoning as plain text, where there are none."""
    details = dicts(value)
    found = [block for detail in details if (block := from_detail(detail)) is not None]
    if text and not any(isinstance(block, Thinking) for block in found):
        found.insert(0, Thinking(text=text, dialect=CHAT))
    return found


def from_detail(detail: dict[str, Any]) -> Thinking | Redacted | None:
    """Return the block of one of `reasoning_details`: what is encrypted is kept whole, for the way back."""
    if detail.get("type") == "reasoning.encrypted":
        return Redacted(data=msgspec.json.encode(detail).decode(), dialect=CHAT) if detail.get("data") else None
    text = _word(detail, "text") or _word(detail, "summary") or ""
    signature = _word(detail, "signature")
    return Thinking(text=text, signature=signature, dialect=CHAT) if text or signature else None


def to_details(found: list[Thinking | Redacted]) -> list[dict[str, Any]]:
    """Return blocks that came as `reasoning_details` in that form again; nothing where none of them was signed."""
    if not any(isinstance(block, Redacted) or block.signature for block in found):
        return []
    return [_to_detail(block, index) for index, block in enumerate(found)]


def _to_detail(block: Thinking | Redacted, index: int) -> dict[str, Any]:
    if isinstance(block, Redacted):
        try:
            return msgspec.json.decode(block.data, type=dict)
        except msgspec.DecodeError:
            return {"type": "reasoning.encrypted", "data": block.data, "index": index}
    signed = {"signature": block.signature, "format": _USUAL_FORMAT} if block.signature else {}
    return {"type": "reasoning.text", "text": block.text, **signed, "index": index}


# --- Gemini's signatures of tool calls ------------------------------------------------------------------------------


def signature_of(call: dict[str, Any]) -> str | None:
    """Return the thought signature of a tool call, wherever a client or a server put it."""
    function = call.get("function")
    for place in (call, function if isinstance(function, dict) else {}):
        for holder in (_within(place, "extra_content", "google"), _within(place, "provider_specific_fields")):
            if (signature := _word(holder, "thought_signature")) is not None:
                return signature
    return None


def signed(call: ToolCall) -> dict[str, Any]:
    """Return the members that carry a tool call's signature to a client: both conventions."""
    if call.signature is None:
        return {}
    held = {"thought_signature": call.signature}
    return {"extra_content": {"google": held}, "provider_specific_fields": held}


def _within(value: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        inner = value.get(name)
        value = inner if isinstance(inner, dict) else {}
    return value


def _word(value: dict[str, Any], name: str) -> str | None:
    word = value.get(name)
    return word if isinstance(word, str) and word else None
