"""What there is to answer one name with: the models it means, and the keys that may be used for them.

Responsible for what a request's parameters change about that: a pinned provider, exclusions, keys of its own, names of
deployments. Never orders targets and never says who pays (`routing.py`). Neighbours: `candidates.py` (asks for each
name), `given_keys.py`, `credentials.py` (stored keys).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from billing import prices
from billing.prices import Priced
from gateway import credentials, given_keys
from gateway.credentials import GivenKey, Stored
from gateway.given_keys import NO_KEYS, Keyring
from gateway.params import GivenAccount, InvalidRequest, Member, Params
from gateway.providers import Model, Provider, catalog
from gateway.routing import CUSTOM, Offer
from respan.errors import Error


class NothingFits(Error):
    """What was asked for exists, but the request itself, or what its models can take, rules it out."""

    status = 400
    code = "no_target"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One name to find targets for. `written` is the name before `model_name_map`."""

    name: str
    written: str
    # Whether the request's exclusions hold for it, and whether it must be at the pinned provider.
    is_excludable: bool = False
    is_pinned: bool = True
    member: Member | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """The one provider a call may go to; `key_name` where it is a server of the organization's own."""

    provider: Provider
    key_name: str | None = None

    def allows(self, key: Stored) -> bool:
        return key.provider == self.provider.id and self.key_name in (None, key.name)


@dataclass(frozen=True, slots=True)
class Stock:
    """All that one call can draw on: both parties' keys, prices, and what came with the request."""

    own: tuple[Stored, ...]
    platform: tuple[Stored, ...]
    prices: Mapping[tuple[str, str], Priced]
    organization_id: int
    is_demo: bool = False
    ring: Keyring = NO_KEYS
    pin: Pin | None = None


async def stock(organization_id: int) -> Stock:
    """Return what an organization's calls can draw on. Raises: Error, when not even what is remembered can be used."""
    own, platform = await credentials.usable(organization_id), await credentials.platform()
    return Stock(own, platform, await prices.current(), organization_id)


def with_params(stock: Stock, params: Params, *, is_demo: bool) -> Stock:
    """Return what a request with such parameters can draw on. Raises: InvalidRequest; ForbiddenAddress."""
    given_keys.check(params, is_demo=is_demo)
    return replace(
        stock,
        is_demo=is_demo,
        ring=given_keys.keyring(params, stock.organization_id, is_demo=is_demo),
        pin=None if params.route_provider is None else _pin(params.route_provider, stock),
    )


def offer(name: str, stock: Stock) -> Offer[Stored, Priced]:
    """Return what there is to answer a name with, where the request says nothing about it."""
    own, platform = stock.own, stock.platform
    return _offer(_found(name, own, platform) or _unlisted(name, own), own, platform, stock)


def offer_for(wanted: Wanted, stock: Stock, params: Params) -> tuple[str, Offer[Stored, Priced]]:
    """Return the name to plan for, and what there is to answer it with. Raises: NothingFits; InvalidRequest."""
    own, platform = stock.own, stock.platform
    if wanted.member is not None and wanted.member.credentials:
        own, platform = _restricted(own, wanted.member), ()
    name, pin = wanted.name, stock.pin if wanted.is_pinned else None
    if pin is not None:
        name = _at_provider(name, pin)
        own, platform = tuple(filter(pin.allows, own)), tuple(filter(pin.allows, platform))
    own = _not_excluded_servers(own, wanted, params)
    matches = _found(name, own, platform)
    if pin is not None and wanted.is_excludable and not matches and name != wanted.name:
        raise NothingFits(f"{pin.key_name or pin.provider.id} alone may answer, and is not known to have it.")
    if not matches and (deployment := _deployment(wanted, name)) is not None:
        matches, platform = [deployment], ()  # what it costs is between its owner and the provider
    account = _account_for(wanted, params, matches)
    given = {name.partition("/")[0]} if account is not None else stock.ring.providers
    matches = _not_excluded(matches or _unlisted(name, own, given=given), wanted, params)
    keys = stock.ring.for_models(name, matches) if account is None else [_given_key(*account, name, matches, stock)]
    if keys:
        providers = {key.provider for key in keys}
        return name, _offer([model for model in matches if model.provider in providers], tuple(keys), (), stock)
    return name, _offer(matches, own, platform, stock)


def _offer(
    matches: Sequence[Model], own: tuple[Stored, ...], platform: tuple[Stored, ...], stock: Stock
) -> Offer[Stored, Priced]:
    return Offer(
        matches=matches, own=own, platform=platform, prices=stock.prices, keyless=_keyless(), custom=custom_model
    )


def custom_model(key: Stored, name: str) -> Model:
    """Return the model of a custom provider's key: the catalogue knows nothing about it."""
    return catalog().providers[key.provider].unlisted(name)


@lru_cache(maxsize=1)
def _keyless() -> frozenset[str]:
    """Return the providers that need no key (the sandbox)."""
    providers = catalog().providers.values()
    return frozenset(each.id for each in providers if each.auth == "none" and not each.credential_fields)


# --- Which models ----------------------------------------------------------------------------------------------------


def _found(name: str, own: Sequence[Stored], platform: Sequence[Stored]) -> list[Model]:
    """Return the models that the catalogue lists by a name.

    A name that begins with one provider may be the id of a model at another (OpenRouter's `openai/x`): where nobody has
    a key for that one, a key for the first is asked.
    """
    matches = catalog().find(name)
    providers = {model.provider for model in matches}
    if not matches or not providers.isdisjoint((*_keyless(), *(key.provider for key in (*own, *platform)))):
        return matches
    return _unlisted(name, own) or matches


def _unlisted(name: str, own: Sequence[Stored], *, given: Collection[str] = ()) -> list[Model]:
    """Return a model the catalogue does not list (a fine-tune), where a key of its named provider may know it.

    `given` are providers that a key came for with the request.
    """
    prefix, _, rest = name.partition("/")
    provider = catalog().providers.get(prefix)
    if not rest or provider is None or prefix == CUSTOM:
        return []
    return [provider.unlisted(rest)] if prefix in given or any(key.provider == prefix for key in own) else []


def _at_provider(name: str, pin: Pin) -> str:
    """Return the name of the same model at the pinned provider."""
    prefix, _, rest = name.partition("/")
    bare = rest if rest and given_keys.named_provider(prefix) is not None else name
    return f"{pin.key_name or pin.provider.id}/{bare}"


def _deployment(wanted: Wanted, name: str) -> Model | None:
    """Return the model behind a deployment's name that only the request knows: what the catalogue has of the other."""
    prefix, _, deployment = name.partition("/")
    provider = given_keys.named_provider(prefix)
    if wanted.name == wanted.written or not deployment or provider is None or provider.id == CUSTOM:
        return None
    bare = wanted.written.rpartition("/")[2]
    known = next(iter(catalog().find(f"{provider.id}/{bare}")), None)
    return replace(known, upstream=deployment) if known else provider.unlisted(deployment)


def _not_excluded(matches: list[Model], wanted: Wanted, params: Params) -> list[Model]:
    """Return the models the request does not exclude. One asked for by name stays where nothing else is left of it.

    Raises: NothingFits.
    """
    if not params.exclude_models and not params.exclude_providers:
        return matches
    meant = {model.full_name for name in params.exclude_models for model in catalog().find(name)}
    kept = [model for model in matches if not _is_excluded(model, meant, params)]
    is_named = wanted.name in params.exclude_models
    if wanted.is_excludable and (is_named or (matches and not kept)):
        raise NothingFits(f"{wanted.name} is excluded by the request.", param="exclude_models")
    return kept or matches


def _is_excluded(model: Model, meant: Collection[str], params: Params) -> bool:
    provider = catalog().providers[model.provider]
    return model.full_name in meant or not params.exclude_providers.isdisjoint((provider.id, *provider.prefixes))


def _not_excluded_servers(own: tuple[Stored, ...], wanted: Wanted, params: Params) -> tuple[Stored, ...]:
    if not params.exclude_providers or not wanted.is_excludable:
        return own
    return tuple(
        key for key in own if key.provider != CUSTOM or params.exclude_providers.isdisjoint((CUSTOM, key.name))
    )


# --- Which keys ------------------------------------------------------------------------------------------------------


def _pin(name: str, stock: Stock) -> Pin:
    """Return the provider that a request wants to go to. Raises: InvalidRequest."""
    for key in stock.own:
        if key.provider == CUSTOM and key.name == name:
            return Pin(catalog().providers[CUSTOM], key.name)
    provider = given_keys.named_provider(name)
    if provider is None or provider.id == CUSTOM:
        raise InvalidRequest(
            "X-Respan-Route-Provider, or route_provider_override, names no provider: GET /api/models lists them.",
            param="route_provider_override",
        )
    return Pin(provider)


def _restricted(own: tuple[Stored, ...], member: Member) -> tuple[Stored, ...]:
    """Return the keys that a member of a group may use. Raises: NothingFits."""
    kept = tuple(key for key in own if key.public_id in member.credentials or key.name in member.credentials)
    if not kept:
        raise NothingFits(
            f"{member.model} has no credentials here that are provider keys of yours.", param="credentials"
        )
    return kept


def _account_for(wanted: Wanted, params: Params, matches: Sequence[Model]) -> tuple[str, GivenAccount] | None:
    """Return the account that came for a name, and the name the request has it under."""
    if wanted.member is not None and wanted.member.given is not None:
        return wanted.written, wanted.member.given
    overrides = params.credential_override
    if not overrides:
        return None
    full_names, ids = [model.full_name for model in matches], [model.id for model in matches]
    label = next((each for each in (wanted.written, wanted.name, *full_names, *ids) if each in overrides), None)
    return None if label is None else (label, overrides[label])


def _given_key(label: str, account: GivenAccount, name: str, matches: Sequence[Model], stock: Stock) -> GivenKey:
    """Return the key that came for a name. It is for one provider: the one named, else the first that has the model;
    an address of its own for a model nobody lists is a server that speaks OpenAI's chat completions.

    Raises: InvalidRequest; ForbiddenAddress.
    """
    param = f"credential_override.{label[:60]}"
    model = next((each for each in matches if each.full_name == label), next(iter(matches), None))
    if model is not None:
        provider, models = catalog().providers[model.provider], (model.id,)
    elif account.base_url:
        provider, models = catalog().providers[CUSTOM], (name,)
    else:
        raise InvalidRequest(f"{param}: no provider is known to have this model. Give its api_base.", param=param)
    return given_keys.made(account, provider, stock.organization_id, param, is_demo=stock.is_demo, models=models)
