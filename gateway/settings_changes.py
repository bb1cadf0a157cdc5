"""How an organization's call settings and load balance groups are changed: checked, kept, recorded in the audit log.

Each change is one transaction that holds the organization's row, says in the audit log what was and what is, and makes
this process forget what it remembered. A change that changes nothing writes nothing, so that a form sent twice counts
once. Never decides who may (the views do) and never reads for calls (`call_settings.py` does). Neighbours: `models.py`,
`standing.py` (which names mean something), `call_settings_views.py`, `load_balance_views.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Final, TypedDict

from django.db import IntegrityError, transaction

from accounts import audit
from accounts.models import Organization, User
from billing import ledger
from gateway import call_settings, credentials
from gateway.entered import MAX_WEIGHT
from gateway.models import CallSettings, Credential, LoadBalanceGroup
from gateway.providers import catalog
from gateway.standing import Facts
from respan.errors import Error

MOST_FALLBACKS: Final = 10
MOST_RETRIES: Final = 2
LEAST_PAUSE_MS: Final = 50
MOST_PAUSE_MS: Final = 10_000
MOST_TTL_S: Final = 30 * 86_400
MOST_MEMBERS: Final = 20
MOST_GROUPS: Final = 100
_MODEL: Final = re.compile(r"[!-~]{1,200}")
_GROUP_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")
# The fields of the settings, as the audit log calls them.
_WORDS: Final = {
    "fallback_models": "fallback models",
    "fallback_enabled": "fallback",
    "retry_enabled": "retries",
    "num_retries": "number of retries",
    "retry_after_ms": "first pause in ms",
    "strategy": "strategy",
    "cache_enabled": "cache",
    "cache_ttl_s": "cache lifetime in s",
    "cache_by_customer": "cache by customer",
    "cache_by_model": "cache by model",
    "cache_omit_log": "no log of cache hits",
}


class InvalidCallSettings(Error):
    """Settings of calls that cannot be kept; `param` names the field."""

    status = 400
    code = "invalid_call_settings"


class UnknownModel(InvalidCallSettings):
    """A name that no provider and no server of the organization knows; the message has names like it."""

    code = "unknown_model"


class GroupIdTaken(InvalidCallSettings):
    """Two load balance groups of an organization cannot share an id."""

    code = "group_id_taken"
    message = "There is a group with this id already."


class GroupGone(Error):
    """Somebody deleted the group in the meantime."""

    status = 404
    code = "group_not_found"
    message = "There is no such group any more."


@dataclass(frozen=True, slots=True)
class By:
    """Who changes something, and from which address."""

    actor: User
    address: str | None


@dataclass(frozen=True, slots=True)
class Member:
    """A model of a group with its share; `credentials`: ids of the keys it may use, none means any that may.

    What a request can say of a member beside that is in `routing_params.Member`.
    """

    model: str
    weight: int
    credentials: tuple[str, ...] = ()


class KeptMember(TypedDict, total=False):
    """A member as its row keeps it."""

    model: str
    weight: int
    credentials: list[str]


# --- The settings -----------------------------------------------------------------------------------------------------


def read(organization: Organization) -> CallSettings:
    """Return an organization's settings as the database has them; without a row the defaults, not kept."""
    return CallSettings.objects.filter(organization=organization).first() or CallSettings(organization=organization)


def facts(organization: Organization, *, today: date) -> Facts:
    """Return what names of models are judged by for an organization now."""
    return Facts(
        catalog=catalog(),
        own=[credentials.of(row) for row in Credential.objects.filter(organization=organization)],
        platform=credentials.offered(),
        available_nano=ledger.balance(organization.pk).available,
        today=today,
    )


def switch_fallback(*, organization: Organization, enabled: bool, by: By) -> None:
    """Use the fallback list for calls that name none, or leave it unused."""
    _change(organization, by, lambda row: {"fallback_enabled": enabled})


def add_fallback(*, organization: Organization, model: str, facts: Facts, by: By) -> None:
    """Put a model at the end of the fallback list; one that is in it already stays where it is.

    Raises: UnknownModel; InvalidCallSettings.
    """
    check_model(model, facts)

    def added(row: CallSettings) -> Mapping[str, Any]:
        names = row.fallback_models
        if model not in names and len(names) >= MOST_FALLBACKS:
            raise InvalidCallSettings(f"A fallback list has at most {MOST_FALLBACKS} models.", param="model")
        return {"fallback_models": names if model in names else [*names, model]}

    _change(organization, by, added)


def move_fallback(*, organization: Organization, model: str, place: int, by: By) -> int | None:
    """Give a model of the fallback list another place, counted from 1; what is no place is the nearest one.

    Return the place it has then, None where it is not in the list (any more).
    """

    def moved(row: CallSettings) -> Mapping[str, Any]:
        if model not in row.fallback_models:
            return {}  # Removed in the meantime.
        names = [name for name in row.fallback_models if name != model]
        names.insert(max(place - 1, 0), model)
        return {"fallback_models": names}

    names = _change(organization, by, moved).fallback_models
    return names.index(model) + 1 if model in names else None


def remove_fallback(*, organization: Organization, model: str, by: By) -> None:
    """Take a model out of the fallback list."""
    _change(organization, by, lambda row: {"fallback_models": [name for name in row.fallback_models if name != model]})


def change_retries(*, organization: Organization, enabled: bool, num_retries: int, pause_ms: int, by: By) -> None:
    """Say whether, how often and after which first pause a failed attempt is repeated. Raises: InvalidCallSettings."""
    _check_number("num_retries", num_retries, 0, MOST_RETRIES, "The number of retries")
    _check_number("retry_after_ms", pause_ms, LEAST_PAUSE_MS, MOST_PAUSE_MS, "The first pause in milliseconds")
    _change(
        organization,
        by,
        lambda row: {"retry_enabled": enabled, "num_retries": num_retries, "retry_after_ms": pause_ms},
    )


def choose_strategy(*, organization: Organization, strategy: str, by: By) -> None:
    """Say how one of several keys or providers is chosen. Raises: InvalidCallSettings."""
    _check_strategy(strategy)
    _change(organization, by, lambda row: {"strategy": strategy})


def change_cache(
    *,
    organization: Organization,
    enabled: bool,
    ttl_s: int,
    by_customer: bool,
    by_model: bool,
    omit_log: bool,
    by: By,
) -> None:
    """Say which answers are kept for the same question, and for how long. Raises: InvalidCallSettings."""
    _check_number("cache_ttl_s", ttl_s, 1, MOST_TTL_S, "The lifetime in seconds")
    _change(
        organization,
        by,
        lambda row: {
            "cache_enabled": enabled,
            "cache_ttl_s": ttl_s,
            "cache_by_customer": by_customer,
            "cache_by_model": by_model,
            "cache_omit_log": omit_log,
        },
    )


def check_model(name: str, facts: Facts, *, param: str = "model") -> None:
    """Check that a name means a model. Raises: UnknownModel with close names; InvalidCallSettings."""
    if not _MODEL.fullmatch(name):
        raise InvalidCallSettings("Write the name of a model: visible characters without blanks.", param=param)
    if facts.is_known(name):
        return
    close = facts.close_names(name)
    hint = f" Did you mean {' or '.join(close)}?" if close else " The page Models lists all."
    raise UnknownModel(f"There is no model called {name}.{hint}", param=param)


def _change(organization: Organization, by: By, change: Callable[[CallSettings], Mapping[str, Any]]) -> CallSettings:
    """Apply what `change` makes of the settings as they are now; keep and record it. Return them."""
    with transaction.atomic():
        _hold(organization)
        row = read(organization)
        before = {name: getattr(row, name) for name in _WORDS}
        after = {name: value for name, value in change(row).items() if value != before[name]}
        if not after:
            return row
        for name, value in after.items():
            setattr(row, name, value)
        row.save()
        parts = [f"{_WORDS[name]}: {_said(before[name])} to {_said(value)}" for name, value in after.items()]
        detail = {
            "name": organization.name,
            "note": "; ".join(parts),
            "before": {name: before[name] for name in after},
            "after": after,
        }
        _record(organization, "call_settings.changed", organization.public_id, detail, by)
    return row


def _hold(organization: Organization) -> None:
    """Let changes of an organization's settings happen one after the other; its keys and logs may go on naming it."""
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def _check_number(param: str, value: int, least: int, most: int, words: str) -> None:
    if not least <= value <= most:
        raise InvalidCallSettings(f"{words} is a whole number from {least:,} to {most:,}.", param=param)


def _check_strategy(strategy: str) -> None:
    if strategy not in CallSettings.Strategy.values:
        raise InvalidCallSettings("Choose one of the three strategies.", param="strategy")


# --- Load balance groups ----------------------------------------------------------------------------------------------


def store_group(
    *,
    organization: Organization,
    group_id: str,
    name: str,
    strategy: str,
    members: Sequence[Member],
    facts: Facts,
    by: By,
) -> LoadBalanceGroup:
    """Keep a new group. The same group once more (a form sent twice) is the one that is there.

    Raises: InvalidCallSettings naming the field; UnknownModel; GroupIdTaken.
    """
    if not _GROUP_ID.fullmatch(group_id):
        raise InvalidCallSettings(
            "An id has letters, digits, hyphens, dots and underscores, at most 60, and begins with a letter or digit.",
            param="group_id",
        )
    kept = _checked_group(name, strategy, members, facts)
    group = LoadBalanceGroup(organization=organization, group_id=group_id, name=name, strategy=strategy, members=kept)
    try:
        with transaction.atomic():
            _hold(organization)
            if twin := _twin(group):
                return twin
            if LoadBalanceGroup.objects.filter(organization=organization).count() >= MOST_GROUPS:
                raise InvalidCallSettings(f"An organization has at most {MOST_GROUPS} groups.")
            group.save(force_insert=True)
            _record_group(group, "created", by)
    except IntegrityError:
        raise GroupIdTaken(param="group_id") from None
    return group


def _twin(group: LoadBalanceGroup) -> LoadBalanceGroup | None:
    """Return the group with this id if it is the same in all; None if there is none. Raises: GroupIdTaken."""
    found = LoadBalanceGroup.objects.filter(organization=group.organization, group_id=group.group_id).first()
    if found is not None and _facts(found) != _facts(group):
        raise GroupIdTaken(param="group_id")
    return found


def change_group(
    *, group: LoadBalanceGroup, name: str, strategy: str, members: Sequence[Member], facts: Facts, by: By
) -> LoadBalanceGroup:
    """Change all of a group but its id. Raises: GroupGone; InvalidCallSettings naming the field; UnknownModel."""
    with transaction.atomic():
        row = LoadBalanceGroup.objects.select_for_update(of=("self",)).select_related("organization")
        found = row.filter(pk=group.pk, organization=group.organization).first()
        if found is None:
            raise GroupGone
        before = _facts(found)
        found.members = _checked_group(name, strategy, members, facts)
        found.name, found.strategy = name, strategy
        if _facts(found) != before:
            found.save()
            _record_group(found, "changed", by, before=before)
    return found


def remove_group(*, group: LoadBalanceGroup, by: By) -> None:
    """Delete a group; calls that name it are refused from then on."""
    with transaction.atomic():
        deleted, _ = LoadBalanceGroup.objects.filter(pk=group.pk, organization=group.organization).delete()
        if deleted:
            _record_group(group, "deleted", by)


def _checked_group(name: str, strategy: str, members: Sequence[Member], facts: Facts) -> list[KeptMember]:
    """Return the members as they are kept. Raises: as `store_group`; a member's `param` is `members.<its place>`."""
    if not 1 <= len(name) <= 60 or not name.isprintable() or name != name.strip():
        raise InvalidCallSettings("Give the group a name of 1 to 60 characters.", param="name")
    _check_strategy(strategy)
    if not 1 <= len(members) <= MOST_MEMBERS:
        raise InvalidCallSettings(f"A group has 1 to {MOST_MEMBERS} models.", param="members")
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for place, member in enumerate(members):
        _check_member(member, facts, param=f"members.{place}")
        facets = (member.model, tuple(sorted(member.credentials)))
        if facets in seen:
            raise InvalidCallSettings(f"{member.model} is in the group already.", param=f"members.{place}")
        seen.add(facets)
    return [_kept(member) for member in members]


def _check_member(member: Member, facts: Facts, *, param: str) -> None:
    check_model(member.model, facts, param=param)
    if not 1 <= member.weight <= MAX_WEIGHT:
        raise InvalidCallSettings(f"A weight is a whole number from 1 to {MAX_WEIGHT:,}.", param=param)
    own = {key.public_id: key for key in facts.own}
    for public_id in member.credentials:
        if public_id not in own:
            raise InvalidCallSettings("One of these keys is there no more: choose again.", param=param)
    if member.credentials and not any(facts.can_serve(own[each], member.model) for each in member.credentials):
        raise InvalidCallSettings(f"None of these keys can serve {member.model}.", param=param)


def _kept(member: Member) -> KeptMember:
    kept: KeptMember = {"model": member.model, "weight": member.weight}
    if member.credentials:
        kept["credentials"] = list(dict.fromkeys(member.credentials))
    return kept


def members_of(group: LoadBalanceGroup) -> list[Member]:
    """Return a group's members as they are kept."""
    return [Member(each["model"], each["weight"], tuple(each.get("credentials", ()))) for each in group.members]


def _facts(group: LoadBalanceGroup) -> dict[str, Any]:
    return {
        "name": group.name,
        "strategy": group.strategy,
        "members": [asdict(member) for member in members_of(group)],
    }


def _record_group(group: LoadBalanceGroup, verb: str, by: By, *, before: Mapping[str, Any] | None = None) -> None:
    said = ", ".join(f"{member.model} × {member.weight}" for member in members_of(group))
    detail = {"name": group.name, "note": f"{group.group_id}, {group.strategy}: {said}", **_facts(group)}
    if before is not None:
        detail["before"] = dict(before)
    _record(group.organization, f"load_balance_group.{verb}", group.group_id, detail, by)


def _record(organization: Organization, action: str, target: str, detail: Mapping[str, Any], by: By) -> None:
    audit.record(
        organization=organization,
        actor=by.actor,
        action=action,
        target=target,
        detail=dict(detail),
        address=by.address,
    )
    organization_id = organization.pk
    transaction.on_commit(lambda: call_settings.forget(organization_id))
