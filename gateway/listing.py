"""What `GET /api/models` and `GET /api/models/public/` answer, as bytes.

Pure functions from the catalogue and an organization's credentials to JSON: OpenAI's list shape, each entry carrying
Respan's own members too. Prices leave as exact decimal numbers, in USD per million tokens. Neighbours: `api.py` serves
them, `providers.py` has the facts.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypedDict

import msgspec

from gateway.providers import Catalog, Model, Provider
from gateway.routing import CUSTOM, Key

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


@lru_cache(maxsize=4)
def public(catalog: Catalog, *, unnest: bool) -> bytes:
    """Return the catalogue for anyone: `{"models": [...]}`, or the bare array."""
    entries = [_entry(model, catalog.providers[model.provider]) for model in catalog.models()]
    return _encode(entries if unnest else {"models": entries})


def models(catalog: Catalog, *, own: Sequence[Key], platform: Sequence[Key]) -> bytes:
    """Return OpenAI's `{"object": "list", "data": [...]}` of the catalogue and of the organization's own servers.

    `available_to_user` tells whether a key of the organization or of the operator reaches the model.
    """
    keys = [*own, *platform]
    data = []
    for model in catalog.models():
        provider = catalog.providers[model.provider]
        data.append(_item(model.full_name, provider.id, _entry(model, provider), _reachable(model, provider, keys)))
    for key in own:
        if key.provider == CUSTOM:
            data += [_custom_item(key, name, catalog.providers[CUSTOM]) for name in key.models]
    return _encode({"object": "list", "data": data})


def _reachable(model: Model, provider: Provider, keys: Sequence[Key]) -> bool:
    if model.free or provider.auth == "none":
        return True
    return any(key.provider == model.provider and (not key.models or model.id in key.models) for key in keys)


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
