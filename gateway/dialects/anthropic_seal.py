"""Pure: reasoning of other vendors in the clothes of Anthropic's, and back.

A client that speaks Anthropic's dialect sends reasoning back as it got it: `thinking` with its `signature`. What
another vendor signed or encrypted (Gemini's thought signatures, encrypted reasoning of the Responses API) travels in
that signature, sealed: whose it is stands inside, so that it reaches its vendor again and nobody else. A `tool_use`
has no signature: there it travels in the id. Never checks a signature, never decides what is sent to whom.
Neighbours: `anthropic_encode` (seals), `anthropic_decode` (opens), `anthropic` (keeps sealed blocks from Anthropic).
"""

import base64
import binascii
import re
from typing import Any

import msgspec

from gateway.dialects import blocks

# Whose signatures need no seal here.
OWNER = "anthropic"
SEAL = "respan-sealed."
MARK = SEAL.encode()
# Between a tool call's own id and whose signature it carries. Ids may hold letters, digits, `_` and `-` only.
_SIGNED_ID = re.compile(r"(.*?)__thought__([a-z_]+?)__([A-Za-z0-9_-]+)", re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_TO_URL = str.maketrans("+/", "-_")
_FROM_URL = str.maketrans("-_", "+/")

_encode = msgspec.json.Encoder().encode


class _Sealed(msgspec.Struct, omit_defaults=True):
    """What is inside: whose it is, a signature, or encrypted reasoning and its id."""

    dialect: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None


_sealed = msgspec.json.Decoder(_Sealed).decode


def signature_of(block: blocks.Thinking | blocks.Redacted) -> str:
    """Return what stands as the signature of reasoning: Anthropic's own as it is, another vendor's sealed."""
    if isinstance(block, blocks.Thinking) and block.dialect == OWNER and block.signature:
        return block.signature
    if isinstance(block, blocks.Redacted):
        inside = _Sealed(dialect=block.dialect, data=block.data, id=block.id)
    else:
        inside = _Sealed(dialect=block.dialect, signature=block.signature)
    return SEAL + base64.urlsafe_b64encode(_encode(inside)).decode()


def is_sealed(block: Any) -> bool:
    """Tell whether a block of content is reasoning that Anthropic has not signed, but we have sealed."""
    return (
        isinstance(block, dict)
        and block.get("type") == "thinking"
        and isinstance(block.get("signature"), str)
        and block["signature"].startswith(SEAL)
    )


def reasoning(text: str, signature: str) -> blocks.Thinking | blocks.Redacted:
    """Return reasoning as a client sends it back: its vendor's, where we sealed it, else Anthropic's own."""
    if not signature.startswith(SEAL):
        return blocks.Thinking(text=text, signature=signature or None, dialect=OWNER if signature else None)
    try:
        inside = _sealed(base64.urlsafe_b64decode(signature[len(SEAL) :]))
    except (msgspec.DecodeError, binascii.Error, ValueError):
        return blocks.Thinking(text=text)
    if inside.data is not None and inside.dialect is not None:
        return blocks.Redacted(data=inside.data, dialect=inside.dialect, id=inside.id, text=text)
    return blocks.Thinking(text=text, signature=inside.signature, dialect=inside.dialect)


def signed_id(id: str, signature: str | None, dialect: str | None) -> str:
    """Return a tool call's id that carries its signature; the id itself where there is none, or none that fits in."""
    if not signature or not dialect or not _BASE64.fullmatch(signature) or len(signature) % 4:
        return id
    return f"{id}__thought__{dialect}__{signature.rstrip('=').translate(_TO_URL)}"


def own_id(id: str) -> tuple[str, str | None, str | None]:
    """Return a tool call's own id, its signature and whose that is (None, None where it carries none)."""
    if "__thought__" not in id or (match := _SIGNED_ID.fullmatch(id)) is None:
        return id, None, None
    signature = match[3].translate(_FROM_URL)
    return match[1], signature + "=" * (-len(signature) % 4), match[2]
