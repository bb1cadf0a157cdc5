"""What the Integrations page shows: of each provider a card, of each stored key a line.

Puts facts of the catalogue, of credentials and of circuit breakers side by side; writes nothing and never opens a key.
Neighbours: `views.py` (the pages), `credentials.py`, `health.py`, `providers.py`, `listing.py` (the same reach for the
API).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gateway import credentials, health
from gateway.credentials import Stored
from gateway.models import Credential
from gateway.providers import RANK, Catalog, Provider
from gateway.routing import CUSTOM

_URL: Final = re.compile(r"https?://[^\s<>\"]+[^\s<>\".,;)]")
# How many models a card names.
_NAMED: Final = 3
# How many cards are shown before all of them are asked for.
FIRST: Final = 24
# What servers of one's own are called, so that a search finds where to add them.
_SERVERS: Final = "vllm llama.cpp ollama lm studio tgi sglang litellm local self-hosted"


@dataclass(frozen=True, slots=True)
class KeyLine:
    """A stored key without the key."""

    credential: Credential
    provider_name: str
    base_url: str
    is_custom: bool
    # Whether calls go elsewhere than the catalogue says.
    is_elsewhere: bool
    # Its circuit breakers that are not closed.
    paused: tuple["Pause", ...] = ()

    @property
    def state(self) -> str:
        """Return what is known of its health, as a state of the page's dots: ok, error or nothing."""
        return {True: "ok", False: "error", None: ""}[self.credential.test_passed]

    @property
    def is_open(self) -> bool:
        """Tell whether calls of some model are kept from it altogether now."""
        return any(not pause.is_probed for pause in self.paused)


@dataclass(frozen=True, slots=True)
class Pause:
    """A model that calls with a key are kept from for a while: too many have failed."""

    model: str
    # Whether some calls are let through again, to see how they fare.
    is_probed: bool
    until: datetime


@dataclass(frozen=True, slots=True)
class Card:
    """A provider of the catalogue, with the organization's keys for it."""

    id: str
    name: str
    prefix: str
    models: tuple[str, ...]
    key_url: str
    docs_url: str
    takes_key: bool
    is_custom: bool
    # Whether the operator offers it on credits, and for how many models.
    offered_count: int
    rank: int = RANK
    # Prefixes of its models that are no name of it.
    words: str = ""
    lines: list[KeyLine] = field(default_factory=list)

    @property
    def named(self) -> tuple[str, ...]:
        return self.models[:_NAMED]

    @property
    def unnamed_count(self) -> int:
        return len(self.models) - len(self.named)


def line(credential: Credential, provider: Provider | None) -> KeyLine:
    """Return the line of a stored key; its provider may have left the catalogue."""
    return KeyLine(
        credential=credential,
        provider_name=provider.name if provider else credential.provider,
        base_url=credentials.of(credential).effective_base_url(),
        is_custom=credential.provider == CUSTOM,
        is_elsewhere=bool(credential.base_url),
        paused=tuple(map(_pause, health.breakers(credential.public_id))),
    )


def _pause(breaker: health.Breaker) -> Pause:
    return Pause(breaker.model, breaker.state == "half_open", datetime.fromtimestamp(breaker.until, UTC))


def cards(catalog: Catalog, *, stored: Iterable[Credential], offered: Sequence[Stored]) -> list[Card]:
    """Return a card per provider: servers of one's own, vendors, those who serve them, last what needs no key."""
    found = {provider.id: _card(provider, offered) for provider in catalog.providers.values()}
    for credential in stored:
        provider = catalog.providers.get(credential.provider)
        card = found.get(credential.provider) or found.setdefault(credential.provider, _gone(credential))
        card.lines.append(line(credential, provider))
    return sorted(found.values(), key=_place)


def _place(card: Card) -> tuple[bool, bool, int, str]:
    return (not card.is_custom, not card.takes_key, card.rank, card.name.casefold())


def matching(found: Iterable[Card], text: str) -> list[Card]:
    """Return the cards whose name, id or prefixes have a text in them."""
    wanted = text.casefold()
    return [card for card in found if wanted in f"{card.name} {card.id} {card.words}".casefold()]


def _card(provider: Provider, offered: Sequence[Stored]) -> Card:
    keys = [stored for stored in offered if stored.provider == provider.id]
    sold = [model for model in provider.models.values() if not model.free and model.rates]
    return Card(
        id=provider.id,
        name=provider.name,
        prefix="" if provider.id == CUSTOM else f"{provider.id}/",
        models=tuple(provider.models),
        key_url=key_url(provider),
        docs_url=provider.docs_url if provider.docs_url.startswith("https://") else "",
        takes_key="api_key" in provider.credential_fields,
        is_custom=provider.id == CUSTOM,
        offered_count=sum(1 for model in sold if any(key.allows(model.id) for key in keys)),
        rank=provider.rank,
        words=_SERVERS if provider.id == CUSTOM else " ".join(provider.prefixes),
    )


def _gone(credential: Credential) -> Card:
    return Card(credential.provider, credential.provider, "", (), "", "", False, False, 0)


def key_url(provider: Provider) -> str:
    """Return where the provider's keys are made, as its file says; empty when it names no address."""
    found = _URL.search(provider.key_help)
    return found[0] if found else ""
