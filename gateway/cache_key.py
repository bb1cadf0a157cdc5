"""Pure: the key of a cached answer: who asked, and what, in a form in which two requests that mean the same are equal.

The tenant is a required part of every key, under a secret of this installation: no two organizations can meet, and
nobody who reads keys can find out what was asked. Never knows where answers are kept. Neighbours: `cache.py` (whose
secret and requests these are), `cache_store.py` (which keeps answers by these keys).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

# Changed when keys are made in another way: what was kept before is not found any more.
VERSION = 1
SIZE = 32

# How an answer is delivered is no part of the question; the model is one only where `Scope.model` says so.
DELIVERY = frozenset({"stream", "stream_options", "model"})
# What an answer has more than one form for, or what only its own form can carry: those are kept as they were asked.
_BOUND_TO_FORM = frozenset({"logprobs", "top_logprobs", "modalities", "audio"})
# A conversation that the provider keeps: the same words mean something else the next time.
_STATEFUL = frozenset({"previous_response_id", "conversation", "background"})

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose answer it is: the more is said here, the fewer requests share one."""

    # The organization's public id: a row's number may come again with another database.
    tenant: str
    environment: str
    dialect: str
    model: str | None = None
    customer: str | None = None
    # Headers that change what the provider does.
    headers: Sequence[str] = ()


def build(
    secret: bytes, scope: Scope, members: Mapping[str, msgspec.Raw], *, drop: frozenset[str], form: str | None = None
) -> bytes | None:
    """Return the key of a request, 32 bytes; None for one that cannot be told from others.

    `members` is the top level of its body, `drop` Respan's own parameters, `form` how it wants the answer where an
    answer in one form cannot be turned into another.
    """
    said = [VERSION, scope.tenant, scope.environment, scope.dialect, scope.model, scope.customer, *scope.headers, form]
    try:
        asked = {name: _decode(raw) for name, raw in members.items() if name not in drop and name not in DELIVERY}
        question = msgspec.json.encode(asked, order="sorted")
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    digest = hashlib.blake2b(key=secret, digest_size=SIZE, person=b"respan-cache")
    # JSON without line breaks: where the one ends and the other begins is no matter of opinion.
    digest.update(msgspec.json.encode(said))
    digest.update(b"\n")
    digest.update(question)
    return digest.digest()


def is_stateful(members: Mapping[str, msgspec.Raw]) -> bool:
    """Tell whether a request goes on with something that the provider remembers."""
    return any(name in members and bytes(members[name]) not in {b"null", b"false"} for name in _STATEFUL)


def is_bound_to_form(members: Mapping[str, msgspec.Raw], *, choices: int) -> bool:
    """Tell whether an answer has to be given again in the form it came in: streamed, or whole."""
    if choices > 1 or not _BOUND_TO_FORM.isdisjoint(members):
        return True
    settings = members.get("generationConfig")  # Google's place for them
    return settings is not None and b"ogprobs" in bytes(settings)
