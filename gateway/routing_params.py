"""Respan's parameters for where a call goes: fallbacks, load balancing, exclusions, and keys that come with a request.

Responsible for what they may hold and for contradictions among them; a provider's key becomes a `Secret` here, before
anything else sees it. Never chooses a target and never knows which models there are (`candidates.py`). Neighbours:
`params.py` (the carriers), `given_keys.py` (what becomes of the keys).

Source: Respan's public documentation of the gateway parameters, and the types of its SDK (2026-11).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.entered import MAX_SECRET_CHARS, Secret
from gateway.param_values import InvalidRequest, a_list, an_object, flag, members_of, whole, word, words

NAMES = frozenset(
    {
        "fallback_models",
        "disable_fallback",
        "models",
        "exclude_models",
        "exclude_providers",
        "load_balance_group",
        "load_balance_models",
        "loadbalance_models",
        "customer_credentials",
        "credential_override",
        "customer_api_keys",
        "model_name_map",
        "route_provider_override",
    }
)
MAX_WEIGHT = 10_000
_BALANCES = ("load_balance_group", "load_balance_models", "loadbalance_models")
# What may be said of an account beside its key: where it is, and the words of its address.
_BASES = ("api_base", "base_url")
_AWS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_PLACES = {
    "aws_region_name": "REGION",
    "aws_region": "REGION",
    "vertex_project": "PROJECT",
    "vertex_location": "LOCATION",
}
# Azure's dated versions: the API that is called has none.
_WITHOUT_EFFECT = ("api_version",)
_ACCOUNT = ("api_key", *_BASES, *_AWS, "vertex_credentials", *_PLACES, *_WITHOUT_EFFECT)


@dataclass(frozen=True, slots=True)
class GivenAccount:
    """An account as a request describes it; `places` are the words its address is completed with (REGION, …)."""

    secret: Secret
    base_url: str = ""
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GivenKeys:
    """Accounts by the name of their provider, and for which models they are; empty: for all."""

    keys: Mapping[str, GivenAccount]
    weight: int = 1
    available_models: frozenset[str] = frozenset()
    exclude_models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Member:
    """A model that shares calls with others. `credentials` are the keys it may use (empty: any); `given` a key of its
    own that came with the request.
    """

    model: str
    weight: int = 1
    credentials: tuple[str, ...] = ()
    given: GivenAccount | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """A group of the organization's by its id, or the members themselves, which then count instead."""

    group_id: str | None = None
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Routing:
    """All of this file's parameters of one request, under the names they have in `params.Params`."""

    fallback_models: tuple[str, ...] | None = None
    disable_fallback: bool = False
    models: tuple[str, ...] = ()
    exclude_models: frozenset[str] = frozenset()
    exclude_providers: frozenset[str] = frozenset()
    load_balance: Balance | None = None
    customer_credentials: tuple[GivenKeys, ...] = ()
    credential_override: Mapping[str, GivenAccount] = field(default_factory=dict)
    model_name_map: Mapping[str, str] = field(default_factory=dict)
    route_provider: str | None = None


def read(values: Mapping[str, Any], warnings: list[str]) -> Routing:
    """Read every parameter of this file. Raises: InvalidRequest."""
    fallbacks, pinned = values.get("fallback_models"), values.get("route_provider_override")
    found = Routing(
        fallback_models=None if fallbacks is None else words(fallbacks, "fallback_models"),
        disable_fallback=bool(flag(values.get("disable_fallback"), "disable_fallback")),
        models=words(values.get("models"), "models"),
        exclude_models=frozenset(words(values.get("exclude_models"), "exclude_models")),
        exclude_providers=frozenset(words(values.get("exclude_providers"), "exclude_providers")),
        load_balance=_balance(values, warnings),
        customer_credentials=_customer_credentials(values.get("customer_credentials"), warnings),
        credential_override=_overrides(values, warnings),
        model_name_map=_names(values.get("model_name_map")),
        route_provider=None if pinned in (None, "") else word(pinned, "route_provider_override"),
    )
    _check_agreement(found)
    return found


def _check_agreement(found: Routing) -> None:
    if found.disable_fallback and found.fallback_models:
        raise InvalidRequest(
            "disable_fallback and fallback_models contradict each other: send one of them.", param="disable_fallback"
        )
    if found.disable_fallback and len(found.models) > 1:
        raise InvalidRequest(
            "disable_fallback and models contradict each other: several models are fallbacks of each other.",
            param="disable_fallback",
        )
    if found.route_provider is not None and found.route_provider in found.exclude_providers:
        raise InvalidRequest(
            "route_provider_override and exclude_providers contradict each other: they name the same provider.",
            param="exclude_providers",
        )


def _names(value: Any) -> Mapping[str, str]:
    name = "model_name_map"
    return {word(model, name): word(meant, name) for model, meant in an_object(value, name).items()}


# --- Load balancing --------------------------------------------------------------------------------------------------


def _balance(values: Mapping[str, Any], warnings: list[str]) -> Balance | None:
    named = [name for name in _BALANCES if values.get(name) is not None]
    if len(named) > 1:
        raise InvalidRequest(f"{' and '.join(named)} contradict each other: send one of them.", param=named[1])
    if not named:
        return None
    (name,) = named
    if name != "load_balance_group":
        members = _members(values[name], name, warnings)
        return Balance(members=members) if members else None
    given = members_of(values[name], name, ("group_id", "models"))
    group_id = None if given.get("group_id") is None else word(given["group_id"], f"{name}.group_id")
    members = _members(given.get("models"), f"{name}.models", warnings)
    if group_id is None and not members:
        raise InvalidRequest(f"{name} must have a group_id or models.", param=name)
    return Balance(group_id, members)


def _members(value: Any, name: str, warnings: list[str]) -> tuple[Member, ...]:
    return tuple(_member(each, f"{name}[{index}]", warnings) for index, each in enumerate(a_list(value, name)))


def _member(value: Any, name: str, warnings: list[str]) -> Member:
    given = members_of(value, name, ("model", "weight", "credentials"))
    keys = given.get("credentials")
    weight = whole(given.get("weight"), f"{name}.weight", least=1, most=MAX_WEIGHT)
    return Member(
        model=word(given.get("model"), f"{name}.model"),
        weight=weight or 1,
        credentials=words(keys, f"{name}.credentials") if isinstance(keys, list) else (),
        given=_account(keys, f"{name}.credentials", warnings) if keys and not isinstance(keys, list) else None,
    )


# --- Keys in a request -----------------------------------------------------------------------------------------------


def _customer_credentials(value: Any, warnings: list[str]) -> tuple[GivenKeys, ...]:
    name = "customer_credentials"
    if isinstance(value, list):
        return tuple(_weighted(each, f"{name}[{index}]", warnings) for index, each in enumerate(a_list(value, name)))
    keys = _accounts(value, name, warnings)
    return (GivenKeys(keys),) if keys else ()


def _weighted(value: Any, name: str, warnings: list[str]) -> GivenKeys:
    given = members_of(value, name, ("credentials", "weight", "available_models", "exclude_models"))
    weight = whole(given.get("weight"), f"{name}.weight", least=1, most=MAX_WEIGHT)
    keys = _accounts(given.get("credentials"), f"{name}.credentials", warnings)
    if not keys:
        raise InvalidRequest(f"{name}.credentials must name a provider and its key.", param=name)
    return GivenKeys(
        keys,
        weight=weight or 1,
        available_models=frozenset(words(given.get("available_models"), f"{name}.available_models")),
        exclude_models=frozenset(words(given.get("exclude_models"), f"{name}.exclude_models")),
    )


def _accounts(value: Any, name: str, warnings: list[str]) -> Mapping[str, GivenAccount]:
    return {
        word(provider, name): _account(account, f"{name}.{provider[:60]}", warnings)
        for provider, account in an_object(value, name).items()
    }


def _overrides(values: Mapping[str, Any], warnings: list[str]) -> Mapping[str, GivenAccount]:
    """Read `credential_override`, and the older `customer_api_keys`: {model: key}, which it wins over."""
    older = an_object(values.get("customer_api_keys"), "customer_api_keys")
    found = {
        word(model, "customer_api_keys"): GivenAccount(_secret(key, "customer_api_keys"))
        for model, key in older.items()
    }
    return {**found, **_accounts(values.get("credential_override"), "credential_override", warnings)}


def _account(value: Any, name: str, warnings: list[str]) -> GivenAccount:
    """Read an account. Its key may be in the parts that AWS and Google give out. Raises: InvalidRequest."""
    given = members_of(value, name, _ACCOUNT)
    bases = {word(given[key], f"{name}.{key}") for key in _BASES if given.get(key)}
    if len(bases) > 1:
        raise InvalidRequest(f"{name} has two addresses: send api_base only.", param=name)
    for key in _WITHOUT_EFFECT:
        if given.get(key):
            warnings.append(f"{name}.{key} has no effect: the API without versions is called")
    return GivenAccount(
        secret=_secret(_key_of(given, name), name),
        base_url=bases.pop() if bases else "",
        places={place: word(given[key], f"{name}.{key}") for key, place in _PLACES.items() if given.get(key)},
    )


def _key_of(given: Mapping[str, Any], name: str) -> Any:
    aws = {key: given[key] for key in _AWS if given.get(key)}
    forms = [form for form in (given.get("api_key"), aws or None, given.get("vertex_credentials")) if form]
    if len(forms) > 1:
        raise InvalidRequest(f"{name} has more than one key.", param=name)
    return forms[0] if forms else None


def _secret(value: Any, name: str) -> Secret:
    """Return a key. What it looks like depends on its provider and is checked where that is known."""
    text = json.dumps(value) if isinstance(value, dict) else value
    if not isinstance(text, str) or not 1 <= len(text.strip()) <= MAX_SECRET_CHARS:
        raise InvalidRequest(f"{name} needs the provider's key as api_key.", param=name)
    return Secret(text.strip())
