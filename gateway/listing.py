"""Which models an organization's keys reach, and what `GET /api/models` and `GET /api/models/public/` answer, as bytes.

Pure functions from the catalogue and an organization's credentials to JSON: OpenAI's list shape, each entry carrying
Respan's own members too. Prices leave as exact decimal numbers, in USD per million tokens. Neighbours: `api.py` serves
the lists, `browsing.py` and `cards.py` show the same on pages, `providers.py` has the facts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Self, TypedDict

import msgspec

from gateway.providers import Catalog, Model, Provider
from gateway.routing import CUSTOM, WRITTEN, Key, PaidBy

_encode = msgspec.json.Encoder(decimal_format="number").encode


class ProviderEntry(TypedDict):
    """A provider as the public lists show it."""

    provider_name: str
    provider_id: str
    moderation: str
    credential_fields: list[str]


class ModelEntry(TypedDict):
    """A model as the lists show it; costs are USD per million tokens, null where unknown."""

    model_name: str
    display_name: str
    max_context_window: int | None
    max_output_tokens: int | None
    input_cost: Decimal | None
    output_cost: Decimal | None
    prompt_cost: Decimal | None
    completion_cost: Decimal | None
    cache_hit_input_cost: Decimal | None
    cache_creation_input_cost: Decimal | None
    rate_limit: int | None
    streaming_support: int
    function_call: int
    image_support: int
    provider: ProviderEntry


@dataclass(frozen=True, slots=True)
class Reach:
    """What keys open: provider -> the models its keys name, None where one of them allows all."""

    own: dict[str, frozenset[str] | None]
    platform: dict[str, frozenset[str] | None]

    @classmethod
    def of(cls, *, own: Iterable[Key], platform: Iterable[Key]) -> Self:
        return cls(_opened_by(own), _opened_by(platform))

    def way(self, model: Model, provider: Provider) -> PaidBy | None:
        """Tell who would pay for a call of a model, as `routing.plan` decides; None: it cannot be called yet."""
        keyless = provider.auth == "none"
        if _opens(self.own, model):
            return "own_key"
        if model.free and keyless:
            return "free"
        is_sold = not model.free and model.rates is not None and not model.unpriced & WRITTEN
        if is_sold and (keyless or _opens(self.platform, model)):
            return "credits"
        return None


def _opened_by(keys: Iterable[Key]) -> dict[str, frozenset[str] | None]:
    opened: dict[str, frozenset[str] | None] = {}
    for key in keys:
        before = opened.get(key.provider, frozenset())
        opened[key.provider] = before | frozenset(key.models) if key.models and before is not None else None
    return opened


def _opens(opened: dict[str, frozenset[str] | None], model: Model) -> bool:
    if model.provider not in opened:
        return False
    names = opened[model.provider]
    return names is None or model.id in names or model.full_name in names


@lru_cache(maxsize=4)
def public(catalog: Catalog, *, unnest: bool) -> bytes:
    """Return the catalogue for anyone: `{"models": [...]}`, or the bare array."""
    entries = [_entry(model, catalog.providers[model.provider]) for model in catalog.models()]
    return _encode(entries if unnest else {"models": entries})


def models(catalog: Catalog, *, own: Sequence[Key], platform: Sequence[Key]) -> bytes:
    """Return OpenAI's `{"object": "list", "data": [...]}` of the catalogue and of the organization's own servers.

    `available_to_user` tells whether a key of the organization or of the operator reaches the model.
    """
    reach = Reach.of(own=own, platform=platform)
    data = [reached if reach.way(model, provider) else other for model, provider, reached, other in _items(catalog)]
    for key in own:
        if key.provider == CUSTOM:
            data += [_encode(_custom_item(key, name, catalog.providers[CUSTOM])) for name in key.models]
    return b'{"object":"list","data":[' + b",".join(data) + b"]}"


@lru_cache(maxsize=2)
def _items(catalog: Catalog) -> list[tuple[Model, Provider, bytes, bytes]]:
    """Return each model, its provider and its JSON where keys reach it and where none does.

    Written once for a catalogue: three thousand of them take 50 ms.
    """
    found = []
    for model in catalog.models():
        provider = catalog.providers[model.provider]
        entry = _entry(model, provider)
        written = [_encode(_item(model.full_name, provider.id, entry, is_reached)) for is_reached in (True, False)]
        found.append((model, provider, written[0], written[1]))
    return found


def _custom_item(key: Key, name: str, custom: Provider) -> dict[str, Any]:
    entry = _entry(custom.unlisted(name), custom)
    entry["model_name"] = entry["display_name"] = f"{key.name}/{name}"
    entry["provider"]["provider_name"] = entry["provider"]["provider_id"] = key.name
    return _item(f"{key.name}/{name}", key.name, entry, True)


def _item(name: str, owner: str, entry: ModelEntry, available: bool) -> dict[str, Any]:
    # OpenAI's own members first; when a model was made is not known, and 0 says so.
    return {"id": name, "object": "model", "created": 0, "owned_by": owner, **entry, "available_to_user": available}


def _entry(model: Model, provider: Provider) -> ModelEntry:
    rates = model.rates
    input_cost = _usd(rates.input) if rates else None
    output_cost = _usd(rates.output) if rates else None
    return {
        "model_name": model.full_name,
        "display_name": model.name,
        "max_context_window": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "input_cost": input_cost,
        "output_cost": output_cost,
        "prompt_cost": input_cost,
        "completion_cost": output_cost,
        "cache_hit_input_cost": _usd(rates.cache_read_or_input) if rates else None,
        "cache_creation_input_cost": _usd(rates.cache_write_or_input) if rates else None,
        "rate_limit": None,
        "streaming_support": int("streaming" in model.capabilities),
        "function_call": int("tools" in model.capabilities),
        "image_support": int("vision" in model.capabilities),
        "provider": _provider_entry(provider),
    }


def _provider_entry(provider: Provider) -> ProviderEntry:
    return {
        "provider_name": provider.name,
        "provider_id": provider.id,
        "moderation": "Unfiltered",
        "credential_fields": list(provider.credential_fields),
    }


def _usd(nano: int) -> Decimal:
    return Decimal(nano).scaleb(-9).normalize() + 0
