"""Which targets may answer a call, best first: the model asked for or its group, then the fallbacks.

Responsible for the order of names and of each name's targets, and for saying why a target was passed over. Never makes
an attempt and never writes. Neighbours: `offers.py` (what there is to answer a name with), `routing.py` (who pays),
`balancing.py` (which first), `call.py` and `attempts.py` (who ask the targets in this order).

Within one name only the best payer counts: a call with an own key never goes on to credits by itself, because nobody
has asked for that to be paid. A fallback may, if it has no own key.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from billing.prices import Priced
from billing.usage import MILLION
from gateway import balancing, files, health, offers, outgoing, routing
from gateway.call_settings import Strategy
from gateway.credentials import Stored
from gateway.dialects import file_ids
from gateway.dialects.wire import Asked
from gateway.offers import NothingFits, Stock, Wanted
from gateway.params import InvalidRequest, Member
from gateway.providers import Catalog, Model, catalog
from gateway.routing import Needs, Offer, Target
from respan.errors import Error

if TYPE_CHECKING:
    from gateway.call import Call

# About what a token is in UTF-8, across languages and code.
_BYTES_PER_TOKEN: Final = 4
# How long an answer is taken to be when prices are compared and nobody has set a limit.
_USUAL_OUTPUT: Final = 500
_DOCUMENTS: Final = re.compile(
    rb'"file_data"|application/pdf;base64|"(?:media_type|mime_?[tT]ype)"\s*:\s*"application/pdf"'
)
_SOUND: Final = re.compile(rb'"input_audio"|"(?:media_type|mime_?[tT]ype)"\s*:\s*"audio/')
# What says of a name that it cannot serve the call; everything else is the request's fault.
_PASSED_OVER: Final = (
    routing.ModelNotFound,
    routing.NothingToPayWith,
    outgoing.UnsupportedEndpoint,
    NothingFits,
)
_MAX_MESSAGE: Final = 2_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """One target, the name it was found by, and its place: rank 0 is the model asked for, n the n-th fallback."""

    target: Target[Stored, Priced]
    name: str
    rank: int
    # What the provider charges for a whole call with a long input.
    long_price: Priced | None
    # Whether an answer before in this conversation may be of another model. What only that one can read is taken out.
    is_other_model: bool = False
    # How it is spoken to, by the client's dialect and name and whether there are tools: found out by who asks first.
    ways: dict[tuple[str, str, bool], outgoing.Way] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A target, or all of a name's, that could not serve the request."""

    name: str
    provider: str | None
    why: str


@dataclass(frozen=True, slots=True)
class _Served:
    """A name and the targets that can serve the call under it, best first."""

    wanted: Wanted
    targets: list[Target[Stored, Priced]]


@dataclass(frozen=True, slots=True)
class _Plain:
    """The one candidate of a name that nobody has said anything about, and what it was found with."""

    stock: Stock
    catalog: Catalog
    candidate: Candidate

    def holds(self, stock: Stock) -> bool:
        """Tell whether the search would find the same now."""
        known = self.stock
        return (
            known.own is stock.own
            and known.platform is stock.platform
            and known.prices is stock.prices
            and self.catalog is catalog()
        )


# By organization, name, and what the endpoint is for. Most calls find here what the call before them has found.
_plain: dict[tuple[int, str, str, bool], _Plain] = {}
_MAX_PLAIN: Final = 10_000


async def find(call: "Call") -> tuple[list[Candidate], list[Skipped]]:
    """Return the targets of a call, best first and never none, and what was passed over.

    Raises: Error, the first name's, when no target can serve the call.
    """
    asked, organization_id = call.asked, call.caller.organization_id
    assert asked is not None  # noqa: S101  (it was read before)
    stock = await offers.stock(organization_id)
    is_plain = not call.params.routes
    if is_plain and not call.settings.fallback_models:
        key = (organization_id, asked.model, call.client.kind, call.client.sells)
        known = _plain.get(key)
        if known is not None and known.holds(stock):
            return [known.candidate], []
        found, skipped = _Search(call, asked, stock, await _owners(asked, organization_id)).plain()
        if len(found) == 1:
            if len(_plain) >= _MAX_PLAIN:
                _plain.clear()
            _plain[key] = _Plain(stock, catalog(), found[0])
        return found, skipped
    search = _Search(call, asked, stock, await _owners(asked, organization_id))
    if is_plain:
        return search.run()
    search.stock = offers.with_params(stock, call.params, is_demo=call.caller.is_demo)
    return search.run()


async def offered(name: str, organization_id: int) -> Offer[Stored, Priced]:
    """Return what there is to answer a name with. Raises: Error, when not even what is remembered can be used."""
    return offers.offer(name, await offers.stock(organization_id))


async def _owners(asked: Asked, organization_id: int) -> frozenset[str]:
    """Return the keys whose accounts have the files that a request names, as far as they are known."""
    named = file_ids.named_in(asked)
    if not named:
        return frozenset()
    return frozenset((await files.owner_of(organization_id, [file.file_id for file in named])).values())


class _Search:
    """The search for one call's targets."""

    __slots__ = ("asked", "call", "group_strategy", "is_mixed", "needs", "owners", "skipped", "stock")

    def __init__(self, call: "Call", asked: Asked, stock: Stock, owners: frozenset[str]) -> None:
        self.call = call
        self.asked = asked
        self.stock = stock
        self.owners = owners
        # Who writes the members into the request has said by weights how they share.
        self.group_strategy: Strategy = "weighted"
        # Several models share the calls: nobody knows which of them answered the turn before.
        self.is_mixed = False
        self.skipped: list[Skipped] = []
        self.needs: Needs | None = None

    def plain(self) -> tuple[list[Candidate], list[Skipped]]:
        """Return the candidates where nobody has said anything about it, as of most calls. Raises: Error."""
        name = self.asked.model
        targets = self._best(name, offers.offer(name, self.stock), self.call.settings.strategy)
        return [self._candidate(target, name, 0) for target in targets], []

    def run(self) -> tuple[list[Candidate], list[Skipped]]:
        """Return candidates and what was passed over. Raises: Error."""
        served: list[_Served] = []
        seen: set[tuple[str, str, str]] = set()
        first: Error | None = None
        wanted = self._wanted()
        for each in wanted:
            try:
                is_asked_for = each is wanted[0]
                targets = self._targets(each, is_asked_for=is_asked_for)
                if not is_asked_for or each.member is not None:
                    targets = self._able(each, targets)
            except _PASSED_OVER as error:
                first = first or error
                self.skipped.append(Skipped(each.written, None, error.message))
                continue
            fresh = [target for target in targets if _identity(target) not in seen]
            seen.update(map(_identity, fresh))
            if fresh:
                served.append(_Served(each, fresh))
        if not served:
            assert first is not None  # noqa: S101  (something is always wanted)
            raise self._with_reasons(first)
        return self._ranked(wanted, self._balanced(served)), self.skipped

    # --- the names -----------------------------------------------------------------------------------------------

    def _wanted(self) -> list[Wanted]:
        """Return the names to look for, in order: the model asked for or its group, then the fallbacks."""
        params, settings = self.call.params, self.call.settings
        found = list(self._first())
        if not params.disable_fallback:
            found += [self._named(name, is_excludable=True) for name in params.models]
            if params.fallback_models is not None:
                found += [self._named(name, is_pinned=False) for name in params.fallback_models]
            elif settings.fallback_enabled and not params.models:
                found += [self._named(name, is_excludable=True) for name in settings.fallback_models]
        once: dict[tuple[str, int], Wanted] = {}
        for each in found:
            once.setdefault((each.name, id(each.member) if each.member else 0), each)
        return list(once.values())

    def _first(self) -> Iterator[Wanted]:
        """Yield the members of the group in the order they are to be asked, or the model asked for."""
        balance = self.call.params.load_balance
        if balance is None:
            yield self._named(self.asked.model)
            return
        members = balance.members
        if not members:
            group = self.call.settings.groups.get(balance.group_id or "")
            if group is None or not group.members:
                raise InvalidRequest(
                    "load_balance_group.group_id names no group of this organization with models in it.",
                    param="load_balance_group",
                )
            members, self.group_strategy = group.members, group.strategy
        self.is_mixed = len({member.model for member in members}) > 1
        for member in balancing.weighted_order(members, lambda each: each.weight, random=random.random):
            yield self._named(member.model, is_excludable=True, member=member)

    def _named(
        self, name: str, *, is_excludable: bool = False, is_pinned: bool = True, member: Member | None = None
    ) -> Wanted:
        meant = self.call.params.model_name_map.get(name, name)
        return Wanted(meant, name, is_excludable=is_excludable, is_pinned=is_pinned, member=member)

    # --- the targets of a name -----------------------------------------------------------------------------------

    def _targets(self, wanted: Wanted, *, is_asked_for: bool) -> list[Target[Stored, Priced]]:
        """Return the targets of a name, best first. Raises: one of `_PASSED_OVER`; InvalidRequest; ForbiddenAddress."""
        name, offer = offers.offer_for(wanted, self.stock, self.call.params)
        strategy = self.call.settings.strategy if wanted.member is None else self.group_strategy
        # Looking for close names takes milliseconds: not for each name of a list.
        return self._best(name, offer, strategy, says_close_names=is_asked_for)

    def _best(
        self, name: str, offer: Offer[Stored, Priced], strategy: Strategy, *, says_close_names: bool = True
    ) -> list[Target[Stored, Priced]]:
        close_names = (lambda: catalog().close_names(name)) if says_close_names else list
        targets = self._payable(self._of_this_kind(routing.plan(name, offer, close_names=close_names)))
        return targets if len(targets) < 2 else self._ordered(self._with_files(targets), strategy)

    def _of_this_kind(self, targets: list[Target[Stored, Priced]]) -> list[Target[Stored, Priced]]:
        """Return the targets this endpoint can use. Raises: UnsupportedEndpoint."""
        kind, first = self.call.client.kind, targets[0].model
        fitting = [target for target in targets if target.model.kind == kind or not _is_listed(target.model)]
        if not fitting:
            raise outgoing.UnsupportedEndpoint(
                f"{first.full_name} is for another endpoint: the catalogue lists it as {first.kind}.", param="model"
            )
        return fitting

    def _payable(self, targets: list[Target[Stored, Priced]]) -> list[Target[Stored, Priced]]:
        """Return the targets of the best payer. Raises: NothingToPayWith."""
        payer = targets[0].paid_by
        if payer == "credits" and not self.call.client.sells:
            raise routing.NothingToPayWith(
                f"Credits do not cover this endpoint: add a provider key for {targets[0].model.provider} under "
                "Integrations.",
                param="model",
            )
        return [target for target in targets if target.paid_by == payer]

    def _with_files(self, targets: list[Target[Stored, Priced]]) -> list[Target[Stored, Priced]]:
        """Return the targets whose accounts have the request's files, all where none is known to."""
        if not self.owners:
            return targets
        return [target for target in targets if target.key and target.key.public_id in self.owners] or targets

    def _ordered(self, targets: list[Target[Stored, Priced]], strategy: Strategy) -> list[Target[Stored, Priced]]:
        """Return targets that could all answer in the order they are to be asked."""
        targets = balancing.spread(targets, random=random.random)
        if strategy == "latency":
            return balancing.by_latency(targets, _latency_s, random=random.random)
        if strategy == "cost":
            return balancing.by_cost(targets, self._cost)
        return targets

    def _cost(self, price: Priced) -> int:
        tokens, output = self.asked.input_bytes // _BYTES_PER_TOKEN, self.asked.max_output or _USUAL_OUTPUT
        return (tokens * price.rates.input + output * price.rates.output) // MILLION + price.rates.request

    # --- what cannot serve ---------------------------------------------------------------------------------------

    def _able(self, wanted: Wanted, targets: list[Target[Stored, Priced]]) -> list[Target[Stored, Priced]]:
        """Return the targets that can take what the request holds; note why others cannot. Raises: NothingFits."""
        able: list[Target[Stored, Priced]] = []
        reasons: dict[tuple[str, str], None] = {}
        for target in targets:
            why = self._why_not(target)
            if why is None:
                able.append(target)
            else:
                reasons[target.model.provider, why] = None
        if not able:
            raise NothingFits("; ".join(f"{provider}: {why}" for provider, why in reasons) + ".", param="model")
        self.skipped += [Skipped(wanted.written, provider, why) for provider, why in reasons]
        return able

    def _why_not(self, target: Target[Stored, Priced]) -> str | None:
        if self.owners and (target.key is None or target.key.public_id not in self.owners):
            return "a file of the request is in the account of another provider key"
        if self.needs is None:
            self.needs = _needs(self.asked)
        return routing.why_not(target.model, self.needs)

    def _with_reasons(self, error: Error) -> Error:
        """Return the first name's error, with why each other one was passed over."""
        others = "; ".join(f"{each.name} was skipped: {each.why}" for each in self.skipped[1:])
        if others:
            error.message = f"{error.message} ({others})"[:_MAX_MESSAGE]
        return error

    # --- the order of names --------------------------------------------------------------------------------------

    def _balanced(self, served: list[_Served]) -> list[_Served]:
        """Return the names with the members of a group first, by the group's strategy."""
        members = [each for each in served if each.wanted.member is not None]
        if len(members) < 2 or self.group_strategy == "weighted":
            return served
        of_head = {id(each.targets[0]): each for each in members}
        heads = self._ordered([each.targets[0] for each in members], self.group_strategy)
        return [*(of_head[id(head)] for head in heads), *served[len(members) :]]

    def _ranked(self, wanted: Sequence[Wanted], served: list[_Served]) -> list[Candidate]:
        """Return the candidates. A fallback's rank is its place in the list, can those before it serve or not."""
        members = sum(each.wanted.member is not None for each in served)
        if members and self.call.params.disable_fallback:
            served = served[:1]
        fallbacks = [each for each in wanted if each.member is None]
        first_rank = 0 if len(fallbacks) == len(wanted) else max(members, 1)
        found: list[Candidate] = []
        for place, each in enumerate(served):
            rank = place if each.wanted.member is not None else first_rank + fallbacks.index(each.wanted)
            found += [self._candidate(target, each.wanted.written, rank) for target in each.targets]
        return found

    def _candidate(self, target: Target[Stored, Priced], name: str, rank: int) -> Candidate:
        model, long_price = target.model, None
        if model.long_rates is not None:
            long_price = self.stock.prices.get((model.provider, model.long_price_id))
        return Candidate(target, name, rank, long_price, is_other_model=rank > 0 or self.is_mixed)


def _is_listed(model: Model) -> bool:
    return model.id in catalog().providers[model.provider].models


def _identity(target: Target[Stored, Priced]) -> tuple[str, str, str]:
    """Return what makes two targets the same."""
    return (target.model.provider, target.model.upstream, target.key.identity if target.key else target.paid_by)


def _latency_s(target: Target[Stored, Priced]) -> float | None:
    return health.latency_s(target.model.provider, target.model.id, target.key.identity if target.key else None)


def _needs(asked: Asked) -> Needs:
    """Return what a model has to take in. Bytes of documents and of sound say nothing of tokens."""
    documents = _DOCUMENTS.search(asked.body) is not None
    sound = _SOUND.search(asked.body) is not None
    tokens = 0 if documents or sound else asked.input_bytes // _BYTES_PER_TOKEN
    return Needs(input_tokens=tokens, images=asked.images > 0, documents=documents, sound=sound)
