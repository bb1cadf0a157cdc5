"""Pure: from a model's name to the ordered attempts that may answer it, and who pays for each.

Never opens a socket, reads a clock or a database: the catalogue's matches, the organization's keys, the operator's keys
and the prices are arguments. Neighbours: `gateway.candidates` gathers the arguments, `gateway.balancing` chooses among
targets that could all answer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from respan.errors import Error

if TYPE_CHECKING:
    from billing.usage import Rates
    from gateway.providers import Model

PaidBy = Literal["own_key", "credits", "free"]
# The provider id of a server of an organization's own; its key's name is the prefix of its models.
CUSTOM = "custom"


# What a model may write unasked, whatever a request says of it.
WRITTEN = frozenset({"audio_output", "image_output"})
# A model with nothing but this is one of which nothing is known.
_OF_EVERY_MODEL = frozenset({"streaming"})


class ModelNotFound(Error):
    """No provider in the catalogue and no key of the organization knows this name."""

    status = 404
    code = "model_not_found"


class NothingToPayWith(Error):
    """The model is known, but there is neither an own key for it nor an operator's key that credits could use."""

    status = 400
    code = "no_credential"


class Key(Protocol):
    """What routing needs to know of a stored provider key."""

    @property
    def provider(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def models(self) -> tuple[str, ...]: ...
    @property
    def weight(self) -> int: ...


class PricedRates(Protocol):
    """What routing needs to know of a price."""

    @property
    def rates_id(self) -> int: ...
    @property
    def rates(self) -> "Rates": ...


K = TypeVar("K", bound=Key)
P = TypeVar("P", bound=PricedRates)


@dataclass(frozen=True, slots=True)
class Target(Generic[K, P]):
    """One attempt: this model with this key; `price` is None when it is unknown."""

    model: "Model"
    key: K | None
    price: P | None
    paid_by: PaidBy


@dataclass(frozen=True, slots=True)
class Offer(Generic[K, P]):
    """What there is to route with: catalogue matches in order, both parties' keys, current prices by (provider, model).

    `keyless` names the providers that need no key; `custom` makes a model for a custom provider's key and a name.
    """

    matches: Sequence["Model"]
    own: Sequence[K]
    platform: Sequence[K]
    prices: Mapping[tuple[str, str], P]
    keyless: frozenset[str]
    custom: "Callable[[K, str], Model]"


def plan(name: str, offer: Offer[K, P], *, close_names: Callable[[], Sequence[str]]) -> list[Target[K, P]]:
    """Return the attempts for a model's name, best first; never an empty list.

    An own key that allows the model wins and costs nothing; then what is free; then credits with the operator's key.
    Raises: ModelNotFound with close names; NothingToPayWith saying what to add.
    """
    targets = [*_custom(name, offer), *_own(offer), *_free(offer), *_credits(offer)]
    if targets:
        return targets
    if not offer.matches:
        raise ModelNotFound(_not_found(name, close_names()), param="model")
    providers = sorted({model.provider for model in offer.matches})
    raise NothingToPayWith(
        f"No key can serve {name}: add a provider key for {' or '.join(providers)} under Integrations, "
        "or ask the operator to offer the model on credits.",
        param="model",
    )


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model has to take in to answer a request."""

    input_tokens: int = 0  # about; 0: not known
    images: bool = False
    documents: bool = False
    sound: bool = False


def why_not(model: "Model", needs: Needs) -> str | None:
    """Return why a model cannot answer; None when nothing that is known of it speaks against it."""
    if model.context_tokens is not None and needs.input_tokens > model.context_tokens:
        return f"its context holds {model.context_tokens} tokens, the request has about {needs.input_tokens}"
    if model.capabilities <= _OF_EVERY_MODEL:
        return None
    for is_needed, capability, what in (
        (needs.images, "vision", "images"),
        (needs.documents, "pdf", "documents"),
        (needs.sound, "audio", "sound"),
    ):
        if is_needed and capability not in model.capabilities:
            return f"it reads no {what}"
    return None


def _custom(name: str, offer: Offer[K, P]) -> Iterator[Target[K, P]]:
    prefix, _, rest = name.partition("/")
    for key in offer.own:
        if key.provider != CUSTOM:
            continue
        if rest and key.name == prefix and (not key.models or rest in key.models):
            yield Target(offer.custom(key, rest), key, None, "own_key")
        elif name in key.models:
            yield Target(offer.custom(key, name), key, None, "own_key")


def _own(offer: Offer[K, P]) -> Iterator[Target[K, P]]:
    for model in offer.matches:
        for key in offer.own:
            if _allows(key, model):
                yield Target(model, key, offer.prices.get((model.provider, model.id)), "own_key")


def _free(offer: Offer[K, P]) -> Iterator[Target[K, P]]:
    for model in offer.matches:
        if model.free and model.provider in offer.keyless:
            yield Target(model, None, None, "free")


def _credits(offer: Offer[K, P]) -> Iterator[Target[K, P]]:
    for model in offer.matches:
        price = offer.prices.get((model.provider, model.id))
        if model.free or model.rates is None or price is None or model.unpriced & WRITTEN:
            continue  # What has no price (any more), or writes what has none, cannot be sold.
        if model.provider in offer.keyless:
            yield Target(model, None, price, "credits")
        for key in offer.platform:
            if _allows(key, model):
                yield Target(model, key, price, "credits")


def _allows(key: Key, model: "Model") -> bool:
    if key.provider != model.provider:
        return False
    return not key.models or model.id in key.models or f"{model.provider}/{model.id}" in key.models


def _not_found(name: str, close: Sequence[str]) -> str:
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    return f"There is no model called {name[:200]}.{hint} GET /api/models lists all."
