"""Keys that come with a request: which provider each is for, where it may be sent, and for which models.

Responsible for turning what a request says (`customer_credentials`, `credential_override`, a member's `credentials`)
into keys that a call can use, and for refusing addresses that Respan must not connect to. Such a key lives as long as
its call: it is never stored, never logged, and never goes to another provider than the one it was given for.
Neighbours: `routing_params.py` (reads them), `candidates.py` (chooses), `entered.py` (the same checks for stored keys).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from gateway.credentials import GivenKey
from gateway.entered import InvalidCredential, Secret, check_secret, get_provider
from gateway.param_values import InvalidRequest
from gateway.params import GivenAccount, GivenKeys, Params
from gateway.providers import Model, Provider, catalog
from gateway.routing import CUSTOM
from respan import outbound

_PUBLIC_ID = "in_request"
_NAME = "request"
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_UNFILLED = re.compile(r"(?<![A-Za-z])[A-Z]{4,}(?![A-Za-z])")


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys one request brings for its customer: each with what it says about models."""

    keys: tuple[tuple[GivenKey, GivenKeys], ...] = ()

    @property
    def providers(self) -> frozenset[str]:
        return frozenset(key.provider for key, _ in self.keys)

    def for_models(self, name: str, models: Sequence[Model]) -> list[GivenKey]:
        """Return the keys that may serve a name with some of these models, each limited to those."""
        found = []
        for key, said in self.keys:
            if key.provider == CUSTOM:
                if name.startswith(f"{CUSTOM}/"):
                    found.append(key)
                continue
            allowed = tuple(m.id for m in models if m.provider == key.provider and _permits(said, name, m))
            if allowed:
                found.append(replace(key, models=allowed))
        return found


NO_KEYS = Keyring()


def key(
    secret: Secret,
    provider: Provider,
    organization_id: int,
    *,
    base_url: str | None = None,
    models: tuple[str, ...] = (),
    weight: int = 1,
) -> GivenKey:
    """Return a key of a request's own; what it is allowed to reach was checked before."""
    # A server of one's own is asked for as `custom/<model>`: nobody has given it a name.
    name = CUSTOM if provider.id == CUSTOM else _NAME
    return GivenKey(_PUBLIC_ID, organization_id, provider.id, name, base_url, models, "", weight, secret)


def check(params: Params, *, is_demo: bool) -> None:
    """Check every address a request brings, used or not. Raises: respan.outbound.ForbiddenAddress naming it."""
    for name, account in _accounts(params):
        if account.base_url:
            _check_address(account.base_url, name, is_demo=is_demo)


def keyring(params: Params, organization_id: int, *, is_demo: bool) -> Keyring:
    """Return the keys of `customer_credentials`. Raises: InvalidRequest; ForbiddenAddress."""
    found = []
    for said in params.customer_credentials:
        for name, account in said.keys.items():
            param = f"customer_credentials.{name[:60]}"
            provider = _provider(name, param)
            found.append((made(account, provider, organization_id, param, is_demo=is_demo, weight=said.weight), said))
    return Keyring(tuple(found))


def made(
    account: GivenAccount,
    provider: Provider,
    organization_id: int,
    param: str,
    *,
    is_demo: bool,
    models: tuple[str, ...] = (),
    weight: int = 1,
) -> GivenKey:
    """Return the key of an account at a provider. Raises: InvalidRequest naming `param`; ForbiddenAddress."""
    try:
        check_secret(get_provider(provider.id), account.secret)
    except InvalidCredential as error:
        raise InvalidRequest(f"{param}: {error.message}", param=param) from None
    base_url = _base_url(account, provider, param)
    if base_url:
        _check_address(base_url, param, is_demo=is_demo)
    return key(account.secret, provider, organization_id, base_url=base_url, models=models, weight=weight)


def _provider(name: str, param: str) -> Provider:
    found = named_provider(name)
    if found is None:
        raise InvalidRequest(f"{param} names no provider of the catalogue.", param=param)
    return found


def named_provider(name: str) -> Provider | None:
    """Return the provider with this id or prefix, written with hyphens or underscores."""
    providers = catalog().providers
    spelled = {name, name.replace("_", "-"), name.lower()}
    for each in providers.values():
        if not spelled.isdisjoint((each.id, *each.prefixes)):
            return each
    return None


def _permits(said: GivenKeys, name: str, model: Model) -> bool:
    names = {name, model.id, model.full_name, *model.aliases}
    if not said.exclude_models.isdisjoint(names):
        return False
    return not said.available_models or not said.available_models.isdisjoint(names)


# --- Where it may be sent --------------------------------------------------------------------------------------------


def _accounts(params: Params) -> Iterator[tuple[str, GivenAccount]]:
    for model, account in params.credential_override.items():
        yield f"credential_override.{model[:60]}", account
    for said in params.customer_credentials:
        for provider, account in said.keys.items():
            yield f"customer_credentials.{provider[:60]}", account
    for member in params.load_balance.members if params.load_balance else ():
        if member.given is not None:
            yield f"credentials of {member.model[:60]}", member.given


def _check_address(base_url: str, param: str, *, is_demo: bool) -> None:
    try:
        outbound.check_url(base_url, outbound.Policy(loopback=is_demo))
    except outbound.ForbiddenAddress as error:
        error.param = f"{param}.api_base"
        raise


def _base_url(account: GivenAccount, provider: Provider, param: str) -> str | None:
    """Return where the account is reached; None where that is the catalogue's address. Raises: InvalidRequest."""
    given = account.base_url.strip().rstrip("/")
    usual = provider.base_url_help if account.places or not provider.base_url else provider.base_url
    usual = _filled(usual[max(usual.find("https://"), 0) :], account.places, param)
    if given:
        # Where every account has an address of its own, some clients write it without the path they all share.
        path = "" if provider.base_url or urlsplit(given).path else urlsplit(usual).path
        return given if _UNFILLED.search(path) else given + path
    if not usual or _UNFILLED.search(usual):
        wanted = provider.base_url_help or "the address of your server"
        raise InvalidRequest(f"{param} needs an api_base. {wanted}", param=param)
    return None if usual == provider.base_url else usual


def _filled(url: str, places: Mapping[str, str], param: str) -> str:
    for place, value in places.items():
        if not _PLACE.fullmatch(value):
            raise InvalidRequest(f"{param}: {place.lower()} is not a name.", param=param)
        url = url.replace(place, value)
    return url
