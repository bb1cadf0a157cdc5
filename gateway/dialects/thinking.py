"""Pure: a request without what is bound to the model that was asked first, for when another one takes its place.

Responsible for reasoning, signatures and ids that only the first model (or its account) can read: another one refuses
them, or believes what it should not. Within one dialect single members are replaced and all others keep their bytes;
between dialects the blocks are taken out of the middle form. Never decides who takes over, never touches what was said.
Neighbours: `gateway.call` (asks before a fallback), `wire.patched`, `gemini_encode` (Google's word for "unsigned").

Sources: https://platform.claude.com/docs/en/build-with-claude/extended-thinking (thinking blocks belong to the model
that wrote them), https://ai.google.dev/gemini-api/docs/thought-signatures (2026-11),
https://platform.openai.com/docs/guides/reasoning (an item names the reasoning it came with by its id).
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.dialects import blocks, wire
from gateway.dialects.gemini_encode import UNSIGNED

Raw = msgspec.Raw
Members = dict[str, Raw]

_LIST = msgspec.json.Decoder(list[Raw])
_OBJECT = msgspec.json.Decoder(Members)
_ANY = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode

# An assistant's turn in chat completions: its reasoning by every vendor's name, and where signatures travel.
_CHAT = frozenset(
    {
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "reasoning_opaque",
        "thinking_blocks",
        "provider_specific_fields",
        "extra_content",
    }
)
_CHAT_SIGNED = frozenset({"provider_specific_fields", "extra_content"})
_CHAT_SAID = ("content", "tool_calls", "function_call", "refusal", "audio")
_EMPTY = (b"null", b'""', b"[]", b"{}")
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
_SIGNATURES = frozenset({"thoughtSignature", "thought_signature"})
_CALLS = frozenset({"functionCall", "function_call"})
# Items of the Responses API whose id is of no use to their sender, and ties them to the reasoning before them.
_WITH_IDS = frozenset({"message", "function_call", "custom_tool_call"})
# What only the first account knows, and nothing can stand for: by dialect, members of the body; then types of items.
_KEPT_THERE: Mapping[str, tuple[str, ...]] = {
    "openai_responses": ("previous_response_id", "conversation"),
    "gemini": ("cachedContent", "cached_content"),
    "anthropic": ("container",),
}
_KEPT_ITEMS = frozenset({"item_reference", "compaction"})
_STORED_PROMPT = b'"pmpt_'
# What is left where reasoning was all there was: an empty conversation is refused.
_NOTHING = "."
_NOTHING_AT_ALL = {
    "messages": b'[{"role":"user","content":"."}]',
    "input": b'[{"role":"user","content":"."}]',
    "contents": b'[{"role":"user","parts":[{"text":"."}]}]',
}
_NULL = Raw(b"null")


def stripped_body(dialect: str, asked: wire.Asked) -> bytes | None:
    """Return a client's body without what only its first model can read; None where there is nothing of it."""
    name, change = _DIALECTS.get(dialect, ("", _chat))
    turns = _each(asked.members.get(name, _NULL), change)
    if turns is None:
        return None
    members: dict[str, bytes] = {name: turns if bytes(turns) != b"[]" else _NOTHING_AT_ALL[name]}
    drop: list[str] = []
    if dialect == "anthropic" and _misses_thought(asked.members, turns):
        drop.append("thinking")
        members |= _uncleared(asked.members)
    return wire.patched(asked, drop=drop, set_members=members)


def strip(request: blocks.Request) -> None:
    """Take reasoning and signatures out of a request in the middle form."""
    for message in request.messages:
        if message.role == "assistant":
            message.blocks = [_unsigned(block) for block in message.blocks if not _is_thought(block)]
    # A turn that was nothing but reasoning is none.
    request.messages = [message for message in request.messages if message.blocks or message.role != "assistant"]
    if not request.messages:
        request.messages = [blocks.Message("user", [blocks.Text(_NOTHING)])]


def kept_there(dialect: str, asked: wire.Asked) -> str | None:
    """Return the member that only the account asked first can resolve: no other can take over. None: there is none."""
    for name in _KEPT_THERE.get(dialect, ()):
        if bytes(asked.members.get(name, _NULL)) != b"null":
            return name
    if dialect != "openai_responses":
        return None
    if _STORED_PROMPT in bytes(asked.members.get("prompt", _NULL)):  # Respan has a parameter of this name too
        return "prompt"
    items = _ANY.decode(asked.members.get("input", _NULL))
    kinds = (_item_kind(item) for item in items) if isinstance(items, list) else ()
    return next((f"input[{index}]" for index, kind in enumerate(kinds) if kind in _KEPT_ITEMS), None)


def _item_kind(item: dict[str, Any]) -> str:
    return str(item.get("type") or ("message" if "role" in item else "item_reference"))


def _is_thought(block: blocks.Block) -> bool:
    return isinstance(block, blocks.Thinking | blocks.Redacted)


def _unsigned(block: blocks.Block) -> blocks.Block:
    if isinstance(block, blocks.ToolCall) and block.signature is not None:
        block.signature = block.dialect = None
    return block


# --- One dialect at both ends ---------------------------------------------------------------------------------------

# What becomes of an element of a list, given raw and decoded: itself, another, or nothing.
_Change = Callable[[Raw, dict[str, Any]], Raw | None]


def _each(raw: Raw, change: _Change) -> Raw | None:
    """Return a list with its objects changed, None where nothing changes or it is none. The rest keeps its bytes."""
    if not bytes(raw).lstrip().startswith(b"["):
        return None
    before = _LIST.decode(raw)
    after = [change(one, decoded) if isinstance(decoded := _ANY.decode(one), dict) else one for one in before]
    if all(new is old for new, old in zip(after, before, strict=True)):
        return None
    return Raw(_encode([one for one in after if one is not None]))


def _chat(turn: Raw, said: dict[str, Any]) -> Raw | None:
    if said.get("role") != "assistant":
        return turn
    members = _OBJECT.decode(turn)
    changes = {
        name: changed
        for name, change in (("content", _unthought), ("tool_calls", _unsigned_call))
        if (changed := _each(members.get(name, _NULL), change)) is not None
    }
    if not changes and _CHAT.isdisjoint(members):
        return turn
    kept = {name: value for name, value in (members | changes).items() if name not in _CHAT}
    is_said = any(bytes(kept.get(name, _NULL)) not in _EMPTY for name in _CHAT_SAID)
    return Raw(_encode(kept)) if is_said else None


def _unthought(part: Raw, said: dict[str, Any]) -> Raw | None:
    return None if said.get("type") in _THOUGHTS else part


def _unsigned_call(call: Raw, said: dict[str, Any]) -> Raw | None:
    """Return a tool call of a chat completion without signatures, wherever they stand in it."""
    kept = _OBJECT.decode(call)
    function = said.get("function")
    if isinstance(function, dict) and not _CHAT_SIGNED.isdisjoint(function):
        inner = _OBJECT.decode(kept["function"])
        kept["function"] = Raw(_encode({name: inner[name] for name in inner if name not in _CHAT_SIGNED}))
    elif _CHAT_SIGNED.isdisjoint(kept):
        return call
    return Raw(_encode({name: value for name, value in kept.items() if name not in _CHAT_SIGNED}))


def _anthropic(turn: Raw, said: dict[str, Any]) -> Raw | None:
    if said.get("role") != "assistant":
        return turn
    members = _OBJECT.decode(turn)
    content = _each(members.get("content", _NULL), _unthought)
    if content is None:
        return turn
    return Raw(_encode(members | {"content": content})) if bytes(content) != b"[]" else None


def _misses_thought(members: Members, messages: Raw) -> bool:
    """Tell whether a tool is being called without the thought before it, which a budget for thinking insists on."""
    thinking = wire.a_dict(_ANY.decode(members.get("thinking", _NULL)))
    turns = [turn for turn in wire.dicts(_ANY.decode(messages)) if turn.get("role") == "assistant"]
    content = wire.dicts(turns[-1].get("content")) if turns else []
    return thinking.get("type") == "enabled" and any(part.get("type") == "tool_use" for part in content)


def _uncleared(members: Members) -> dict[str, bytes]:
    """Return `context_management` that clears no thoughts: Anthropic refuses that where none are asked for."""
    managed = wire.a_dict(_ANY.decode(members.get("context_management", _NULL)))
    edits = wire.dicts(managed.get("edits"))
    kept = [edit for edit in edits if not str(edit.get("type")).startswith("clear_thinking")]
    return {"context_management": _encode(managed | {"edits": kept})} if len(kept) < len(edits) else {}


def _gemini(content: Raw, said: dict[str, Any]) -> Raw | None:
    if said.get("role") != "model":
        return content
    members = _OBJECT.decode(content)
    parts = _each(members.get("parts", _NULL), _part)
    if parts is None:
        return content
    return Raw(_encode(members | {"parts": parts})) if bytes(parts) != b"[]" else None


def _part(part: Raw, said: dict[str, Any]) -> Raw | None:
    """Return a part of a model's turn that any model can read. A call that was signed says that it no longer is."""
    if said.get("thought") is True:
        return None
    if _SIGNATURES.isdisjoint(said) or said.get("thoughtSignature") == UNSIGNED:
        return part
    kept = {name: value for name, value in _OBJECT.decode(part).items() if name not in _SIGNATURES}
    if not _CALLS.isdisjoint(kept):
        kept["thoughtSignature"] = Raw(_encode(UNSIGNED))
    elif said.get("text") == "" or not kept:
        return None  # carried nothing but the signature
    return Raw(_encode(kept))


def _responses(item: Raw, said: dict[str, Any]) -> Raw | None:
    kind = _item_kind(said)
    if kind == "reasoning":
        return None
    if kind not in _WITH_IDS or "id" not in said:
        return item
    return Raw(_encode({name: value for name, value in _OBJECT.decode(item).items() if name != "id"}))


# Where each dialect keeps its turns, and what becomes of one of them.
_DIALECTS: Mapping[str, tuple[str, _Change]] = {
    "openai_chat": ("messages", _chat),
    "openai_responses": ("input", _responses),
    "anthropic": ("messages", _anthropic),
    "gemini": ("contents", _gemini),
}
