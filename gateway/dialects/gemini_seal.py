"""Pure: what has to come back unchanged, dressed so that Gemini's wire format carries it: signatures, base64.

A client of Google's sends thoughts back as it got them, with their signature, which is base64 to its SDK. Reasoning
that another vendor signed or encrypted travels in that signature, sealed: whose it is stands inside, so that it reaches
its vendor again and nobody else. Never checks a signature. Neighbours: `gemini_write` (seals), `gemini_decode` (opens),
`gemini.forward` (keeps sealed thoughts from Google).
"""

import base64
import binascii

import msgspec

from gateway.dialects import blocks

# What sealed signatures begin with, in base64: both alphabets write it the same way.
MARK = "cmVzcGFu"
_INSIDE = b"respan:"

_encode = msgspec.json.Encoder().encode


class _Sealed(msgspec.Struct, omit_defaults=True):
    """What is inside: whose it is, a signature, or encrypted reasoning with its id."""

    dialect: str
    signature: str | None = None
    data: str | None = None
    id: str | None = None


_sealed = msgspec.json.Decoder(_Sealed).decode


def sealed(block: blocks.Thinking | blocks.Redacted) -> str | None:
    """Return the thought signature of a block for a client of Google's; None where it has nothing to keep."""
    if isinstance(block, blocks.Redacted):
        inside = _Sealed(dialect=block.dialect, data=block.data, id=block.id)
    elif not block.signature:
        return None
    elif block.dialect == "gemini":
        return block.signature
    else:
        inside = _Sealed(dialect=block.dialect or "", signature=block.signature)
    return base64.b64encode(_INSIDE + _encode(inside)).decode()


def unsealed(signature: str, text: str) -> blocks.Thinking | blocks.Redacted | None:
    """Return another vendor's reasoning out of a thought signature (`standard`); None where it is Google's own."""
    if not signature.startswith(MARK):
        return None
    try:
        inside = _sealed(base64.b64decode(signature, validate=True).removeprefix(_INSIDE))
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None
    if inside.data is not None:
        return blocks.Redacted(data=inside.data, dialect=inside.dialect, id=inside.id, text=text)
    return blocks.Thinking(text=text, signature=inside.signature, dialect=inside.dialect or None)


def standard(data: str) -> str:
    """Return base64 in the standard alphabet, padded, without line breaks: Google's SDKs write the other one."""
    data = "".join(data.split()) if any(mark in data for mark in " \r\n\t") else data
    data = data.replace("-", "+").replace("_", "/")
    return data + "=" * (-len(data) % 4)
