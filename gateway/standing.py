"""What a model's name means for an organization now: who would answer, who would pay, or why nobody can.

For pages that keep names of models (Fallback, Load balance). Never reads a database, a clock or a breaker: the
catalogue, both parties' keys, the balance and today's date are arguments. Neighbours: `listing.py` (the reach of keys),
`routing.py` (what a call does with the same facts), `settings_changes.py` (refuses names that mean nothing).
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from gateway.browsing import KINDS
from gateway.credentials import Stored
from gateway.listing import Reach
from gateway.providers import Catalog, Model
from gateway.routing import CUSTOM, PaidBy

# The ways in the order in which a call takes them.
_WAYS: Final[tuple[PaidBy, ...]] = ("own_key", "free", "credits")
# Named when nobody can serve a model that several providers have.
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """What a name means now. `way` is None where no call can be answered; `why` then says so in plain words."""

    name: str
    way: PaidBy | None
    # The provider that would answer, or the first that a key would be needed for; empty when the name means nothing.
    provider_id: str = ""
    provider: str = ""
    # The names of the organization's keys that could answer.
    keys: tuple[str, ...] = ()
    # Empty for chat models: what else it is for.
    kind: str = ""
    why: str = ""
    # Whether the catalogue, or a server of one's own, names it; else it is sent as it is written.
    is_listed: bool = True
    # Whether a key for that provider would help.
    wants_key: bool = False

    @property
    def is_known(self) -> bool:
        return bool(self.provider_id)


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to judge names by. `available_nano`: the credits that calls could still hold."""

    catalog: Catalog
    own: Sequence[Stored]
    platform: Sequence[Stored]
    available_nano: int
    today: date

    def of(self, name: str) -> Standing:
        """Tell what a name means."""
        servers = [key for key in self.own if _serves(key, name)]
        if servers:
            label = ", ".join(dict.fromkeys(key.name for key in servers))
            return Standing(name, "own_key", CUSTOM, label, tuple(key.name for key in servers))
        models = self.catalog.find(name)
        if not models:
            return self._unlisted(name)
        reach = Reach.of(own=self.own, platform=self.platform)
        ways = [(model, reach.way(model, self.catalog.providers[model.provider])) for model in models]
        for wanted in _WAYS:
            for model, way in ways:
                if way == wanted:
                    return self._answered(name, model, way)
        return self._unanswered(name, models)

    def can_serve(self, key: Stored, name: str) -> bool:
        """Tell whether a key may be used for a name."""
        models = self.catalog.find(name) or self._as_written(name)
        return _serves(key, name) or any(_opens(key, model) for model in models)

    def is_known(self, name: str) -> bool:
        """Tell whether a name means a model at all, whether or not anybody could answer it now."""
        return bool(self.catalog.find(name)) or self.of(name).is_known

    def close_names(self, name: str, limit: int = 3) -> list[str]:
        """Return names that look like a wrong one; of servers of one's own those that their keys list."""
        mine = [f"{key.name}/{model}" for key in self.own if key.provider == CUSTOM for model in key.models]
        found = difflib.get_close_matches(name[:80], mine[:500], n=limit, cutoff=0.6)
        return [*found, *self.catalog.close_names(name, limit)][:limit]

    def offered(self, limit: int) -> list[str]:
        """Return chat models that somebody would answer now, those of servers of one's own first."""
        mine = [f"{key.name}/{model}" for key in self.own if key.provider == CUSTOM for model in key.models]
        reach = Reach.of(own=self.own, platform=self.platform)
        listed = [
            (_WAYS.index(way), model.full_name)
            for model in self.catalog.models()
            if model.kind == "chat" and (way := reach.way(model, self.catalog.providers[model.provider]))
        ]
        # Stable: of each way in the order of the catalogue.
        listed.sort(key=lambda each: each[0])
        return list(dict.fromkeys([*mine, *(name for _, name in listed)]))[:limit]

    def _answered(self, name: str, model: Model, way: PaidBy) -> Standing:
        provider = self.catalog.providers[model.provider]
        keys = tuple(key.name for key in self.own if way == "own_key" and _opens(key, model))
        if model.retires_on is not None and model.retires_on <= self.today:
            why = f"{provider.name} switched it off on {model.retires_on:%-d %B %Y}."
            return Standing(name, None, provider.id, provider.name, keys, _kind(model), why)
        if way == "credits" and self.available_nano <= 0:
            why = "There are no credits left to pay for it."
            takes_key = "api_key" in provider.credential_fields
            return Standing(name, None, provider.id, provider.name, keys, _kind(model), why, wants_key=takes_key)
        return Standing(name, way, provider.id, provider.name, keys, _kind(model))

    def _unanswered(self, name: str, models: Sequence[Model]) -> Standing:
        providers = list(dict.fromkeys(model.provider for model in models))
        names = [self.catalog.providers[each].name for each in providers[:_NAMED]]
        why = f"No key can serve it: it needs one for {_either(names)}."
        return Standing(name, None, providers[0], names[0], (), _kind(models[0]), why, wants_key=True)

    def _unlisted(self, name: str) -> Standing:
        """Judge a name the catalogue does not have: a fine-tune, say, that an own key of its provider may know."""
        for model in self._as_written(name):
            provider = self.catalog.providers[model.provider]
            keys = tuple(key.name for key in self.own if _opens(key, model))
            if keys:
                return Standing(name, "own_key", provider.id, provider.name, keys, is_listed=False)
        return Standing(name, None, why=self._unknown(name))

    def _as_written(self, name: str) -> list[Model]:
        """Return the model that `provider/name` would be sent as, if there is such a provider."""
        prefix, _, rest = name.partition("/")
        provider = self.catalog.providers.get(prefix)
        return [provider.unlisted(rest)] if rest and provider is not None and prefix != CUSTOM else []

    def _unknown(self, name: str) -> str:
        prefix, _, rest = name.partition("/")
        if rest and any(key.provider == CUSTOM and key.name == prefix for key in self.own):
            return f"The server {prefix} lists its models, and this is none of them."
        return "No provider and no server of yours has a model of this name."


def _serves(key: Stored, name: str) -> bool:
    """Tell whether a name is a model of this server of one's own, as `routing.plan` reads it."""
    if key.provider != CUSTOM:
        return False
    prefix, _, rest = name.partition("/")
    return name in key.models or bool(rest and key.name == prefix and (not key.models or rest in key.models))


def _opens(key: Stored, model: Model) -> bool:
    return key.provider == model.provider and (key.allows(model.id) or model.full_name in key.models)


def _kind(model: Model) -> str:
    return "" if model.kind == "chat" else KINDS[model.kind]


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
