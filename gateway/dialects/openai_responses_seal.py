"""Pure: reasoning of other vendors in the clothes of the Responses API's, and back.

A client of this API sends a reasoning item back as it got it, with its `encrypted_content`. What another vendor signed
or encrypted (Anthropic's signatures, Gemini's thought signatures) travels in there, sealed: whose it is stands inside,
so that it reaches its vendor again and nobody else. A tool call has no place for a signature: it travels in a reasoning
item without text right before the call. Never checks a signature, never decides what is sent to whom.
Neighbours: `openai_responses_write` (seals), `openai_responses_decode` (opens).
"""

import base64
import binascii

import msgspec

from gateway.dialects import blocks

OURS = "openai_responses"
SEAL = "respan-sealed."


class CallSignature(msgspec.Struct):
    """The signature of the tool call that follows."""

    signature: str
    dialect: str | None


class _Sealed(msgspec.Struct, omit_defaults=True):
    """What is inside: whose it is, and a signature, or encrypted reasoning (and its id), or a call's signature."""

    dialect: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    call: str | None = None


_decode = msgspec.json.Decoder(_Sealed).decode


def seal(block: blocks.Thinking | blocks.Redacted | blocks.ToolCall) -> str | None:
    """Return what stands as `encrypted_content`; None where a block has nothing that must come back."""
    if isinstance(block, blocks.Redacted):
        if block.dialect == OURS:
            return block.data
        return _sealed(_Sealed(dialect=block.dialect, data=block.data, id=block.id))
    if isinstance(block, blocks.ToolCall):
        return _sealed(_Sealed(dialect=block.dialect, call=block.signature)) if block.signature else None
    if block.dialect == OURS:
        return block.signature
    if block.signature is None and block.dialect is None:
        return None
    return _sealed(_Sealed(dialect=block.dialect, signature=block.signature))


def _sealed(inside: _Sealed) -> str:
    return SEAL + base64.urlsafe_b64encode(msgspec.json.encode(inside)).decode()


def opened(
    text: str, encrypted: str | None, id: str | None
) -> blocks.Thinking | blocks.Redacted | CallSignature | None:
    """Return what a reasoning item is; None where it holds nothing. A broken seal leaves its text."""
    if encrypted is None or not encrypted:
        return blocks.Thinking(text=text, dialect=OURS) if text else None
    if not encrypted.startswith(SEAL):
        return blocks.Redacted(data=encrypted, dialect=OURS, id=id, text=text)
    try:
        inside = _decode(base64.urlsafe_b64decode(encrypted[len(SEAL) :]))
    except (msgspec.DecodeError, binascii.Error, ValueError):
        return blocks.Thinking(text=text) if text else None
    if inside.call is not None:
        return CallSignature(inside.call, inside.dialect)
    if inside.data is not None and inside.dialect is not None:
        return blocks.Redacted(data=inside.data, dialect=inside.dialect, id=inside.id, text=text)
    return blocks.Thinking(text=text, signature=inside.signature, dialect=inside.dialect)
