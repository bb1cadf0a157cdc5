"""Identifiers: UUIDs that sort by time, and their short prefixed public form (`log_01jd...`).

Pure but for the clock and randomness in `new_uuid`. Neighbours: every app that names a thing in a URL or an answer.
"""

import os
import time
import uuid

# Crockford's base 32 in lower case: no i, l, o, u.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {char: value for value, char in enumerate(_ALPHABET)}
_LENGTH = 26
# Two characters at a time: this runs once for each call.
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_SHIFTS = range(120, -1, -10)


# Random bytes fetched in advance: a system call for each id would be two percent of a call's CPU.
_POOL_BYTES = 2_500
_pool: list[bytes] = []
os.register_at_fork(after_in_child=_pool.clear)  # or parent and child would make the same ids


def _random_bytes() -> bytes:
    """Return ten of them."""
    try:
        return _pool.pop()
    except IndexError:
        fresh = os.urandom(_POOL_BYTES)
        _pool.extend(fresh[start : start + 10] for start in range(0, _POOL_BYTES, 10))
        return _pool.pop()


def new_span_id() -> bytes:
    """Return the 8 bytes of a new span. Not for secrets."""
    return _random_bytes()[:8]


def new_uuid(now_ms: int | None = None) -> uuid.UUID:
    """Return a UUID version 7: 48 bits of milliseconds, then 74 random bits. Not for secrets."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    value = (ms << 80) | int.from_bytes(_random_bytes(), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return uuid.UUID(int=value)


def encode(prefix: str, value: uuid.UUID) -> str:
    """Return the public form of a UUID, for example `log_01jd8x...` (26 characters after the prefix)."""
    number = value.int
    pairs = [_PAIRS[(number >> shift) & 1023] for shift in _SHIFTS]
    return f"{prefix}_{''.join(pairs)}"


def decode(prefix: str, text: str) -> uuid.UUID | None:
    """Return the UUID behind a public form, or None when the text is not one with this prefix."""
    head, _, body = text.partition("_")
    if head != prefix or len(body) != _LENGTH:
        return None
    number = 0
    for char in body:
        value = _VALUES.get(char)
        if value is None:
            return None
        number = (number << 5) | value
    return uuid.UUID(int=number) if number < 1 << 128 else None


def new(prefix: str) -> str:
    """Return a new public id, for example `key_01jd8x...`."""
    return encode(prefix, new_uuid())


class maker:  # (used like a function)
    """A deconstructible default for a model's field: `default=ids.maker("key")` makes `key_01jd8x...`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __call__(self) -> str:
        return new(self.prefix)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, maker) and other.prefix == self.prefix

    def __hash__(self) -> int:
        return hash(self.prefix)

    def deconstruct(self) -> tuple[str, list[str], dict[str, str]]:
        return "respan.ids.maker", [self.prefix], {}
