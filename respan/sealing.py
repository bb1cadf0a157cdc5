"""Texts sealed at rest: AES-256-GCM under the key ring `RESPAN_KEYS`, for one purpose, bound to what they belong to.

Each purpose has ciphers of its own, derived from the ring, and its texts carry associated data: a sealed text that is
moved to another row, or used for something else, does not open. Says nothing about what is sealed or where it is kept.
Neighbours: `gateway.credentials` (provider keys), `accounts.factor_sealing` (second factors), `respan.checks`.
"""

import base64
import binascii
import os
import re
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

FORMAT: Final = "v1"
_NONCE_BYTES: Final = 12
_KID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SEALED: Final = re.compile(r"v1\.[A-Za-z0-9_-]{1,32}\.[A-Za-z0-9_=-]+")


class InvalidKeyRing(Exception):
    """RESPAN_KEYS cannot be used. The message never shows a key."""


class Unreadable(Exception):
    """A sealed text does not open: it was tampered with or moved, or the key that sealed it is gone from the ring."""


def seal(text: str, *, purpose: str, binding: bytes) -> str:
    """Encrypt under the first key of the ring; the result is `v1.<kid>.<base64 of nonce and ciphertext>`.

    Raises: InvalidKeyRing.
    """
    kid, cipher = next(iter(_ciphers(settings.RESPAN_KEYS, purpose).items()))
    nonce = os.urandom(_NONCE_BYTES)
    ciphertext = cipher.encrypt(nonce, text.encode(), binding)
    return f"{FORMAT}.{kid}.{base64.urlsafe_b64encode(nonce + ciphertext).decode()}"


def unseal(sealed: str, *, purpose: str, binding: bytes) -> str:
    """Decrypt what `seal` made for the same purpose and binding.

    Raises: Unreadable, whatever is wrong with the text; InvalidKeyRing.
    """
    version, _, rest = sealed.partition(".")
    kid, _, body = rest.partition(".")
    cipher = _ciphers(settings.RESPAN_KEYS, purpose).get(kid)
    if version != FORMAT or cipher is None:
        raise Unreadable
    try:
        data = base64.b64decode(body, altchars=b"-_", validate=True)
        # The last character of base64 has spare bits: only the canonical spelling counts.
        if base64.urlsafe_b64encode(data).decode() != body:
            raise Unreadable
        return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], binding).decode()
    except (binascii.Error, ValueError, InvalidTag):
        raise Unreadable from None


def is_sealed(text: str) -> bool:
    """Tell whether a text looks like one that `seal` made."""
    return _SEALED.fullmatch(text) is not None


def begins_with(purpose: str) -> str:
    """Return what every text sealed under the first key of the ring begins with. Raises: InvalidKeyRing."""
    return f"{FORMAT}.{next(iter(_ciphers(settings.RESPAN_KEYS, purpose)))}."


@lru_cache(maxsize=2_000)
def binding(*parts: str) -> bytes:
    """Join texts to associated data, each with its length before it, so that no two lists come out the same."""
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)


@lru_cache(maxsize=8)
def _ciphers(ring: str, purpose: str) -> dict[str, AESGCM]:
    """Read `kid:base64 of 32 bytes, ...`; each cipher is derived for this purpose alone.

    Raises: InvalidKeyRing.
    """
    found: dict[str, AESGCM] = {}
    for number, entry in enumerate(filter(None, (part.strip() for part in ring.split(","))), start=1):
        kid, _, encoded = entry.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not _KID.fullmatch(kid) or len(key) != 32 or kid in found:
            raise InvalidKeyRing(f"RESPAN_KEYS: entry {number} is not `kid:base64 of 32 bytes` with a kid of its own")
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"respan {purpose}".encode()).derive(key)
        found[kid] = AESGCM(derived)
    if not found:
        raise InvalidKeyRing("RESPAN_KEYS is empty: nothing can be sealed. `manage.py up` generates one.")
    return found
