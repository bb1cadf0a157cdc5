"""Limits as people set them: what makes one, who changed it, what is left of its counter.

Responsible for the checks, the rows and the audit log; one function for each change, in one transaction. Never counts
(`counters.py`). Neighbours: `limits.py` (what calls know of them), `limit_api.py` and `limit_views.py` (who ask),
`entered.py`, which does the same for provider keys.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

from django.db import IntegrityError, transaction

from accounts import audit
from accounts.models import ApiKey, Organization, User
from billing.usage import nano_from_usd
from gateway import counters, limits, windows
from gateway.counters import Key, Take
from gateway.dialects import gemini_operations, openai_rest, registry
from gateway.limits import COST, HARD, SCOPES, SOFT, Policy
from gateway.models import LimitPolicy
from gateway.providers import catalog
from respan import ids
from respan.errors import Error

MOST: Final = 200
MAX_NAME: Final = 120
MAX_RULES: Final = 5
MAX_VALUE: Final = 1 << 50
MAX_IDENTIFIER: Final = 254
_CLIENTS: Final = (registry.OPENAI_CHAT, registry.OPENAI_RESPONSES, registry.ANTHROPIC, registry.GEMINI)
ENDPOINTS: Final = tuple(
    dict.fromkeys(
        (
            *(client.operation for client in _CLIENTS),
            "completions",
            *(operation.name for operation in openai_rest.OPERATIONS.values()),
            *gemini_operations.OPERATIONS,
        )
    )
)


class InvalidLimit(Error):
    """What was entered makes no limit; `param` names the member."""

    status = 400
    code = "invalid_limit"


class TooManyLimits(Error):
    """Every call is held against every limit: there is a most of them."""

    status = 409
    code = "too_many_limits"
    message = f"An organization has at most {MOST} limits. Delete one first."


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What happens when the counter reaches `value`: a number, of a cost an amount in USD."""

    severity: str
    value: Any
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A limit as somebody enters it; `values` names an API key by its public id."""

    name: str
    compose: Sequence[str]
    metric: str
    rules: Sequence[Rule]
    values: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    period: str = ""
    anchor: str = "calendar"
    anchor_at: datetime | None = None
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    priority: int = 0
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a limit is used up. `used` is None where each of those it counts has a counter of his own, or unknown."""

    row: LimitPolicy
    policy: Policy
    starts_ms: int
    ends_ms: int
    used: int | None

    @property
    def counts_each(self) -> bool:
        return self.policy.fixed_subject() is None


# --- Checks -----------------------------------------------------------------------------------------------------------


def check(organization: Organization, draft: Draft) -> dict[str, Any]:
    """Return the columns a draft is kept in. Raises: InvalidLimit naming the member."""
    name = draft.name.replace("\x00", "").strip()
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidLimit(f"A limit needs a name of at most {MAX_NAME} characters.", param="name")
    if draft.metric not in LimitPolicy.Metric.values:
        raise InvalidLimit(f"“metric” is one of {', '.join(LimitPolicy.Metric.values)}.", param="metric")
    if not -1_000 <= draft.priority <= 1_000:
        raise InvalidLimit("“priority” is a whole number from -1000 to 1000.", param="priority")
    if len(draft.label) > MAX_NAME:
        raise InvalidLimit(f"“scope” has at most {MAX_NAME} characters.", param="scope")
    compose = _composed(draft.compose)
    return {
        "name": name,
        "label": draft.label.replace("\x00", ""),
        "compose": compose,
        "scope_values": _values(organization, compose, draft.values),
        "metric": draft.metric,
        "priority": draft.priority,
        "is_active": draft.is_active,
        "rules": _rules(draft),
        **_times(draft),
    }


def _composed(compose: Sequence[str]) -> list[str]:
    if "user_id" in compose:
        raise InvalidLimit("A call has no user_id: it is made with an API key. Use api_key_id.", param="compose")
    if not compose or set(compose) - set(SCOPES) or len(set(compose)) != len(compose):
        raise InvalidLimit(f"“compose” is a list of one or more of {', '.join(SCOPES)}.", param="compose")
    return [scope for scope in SCOPES if scope in compose]


def _values(organization: Organization, compose: Sequence[str], values: Mapping[str, str]) -> dict[str, str]:
    kept = {}
    for scope, value in values.items():
        if scope not in compose:
            raise InvalidLimit(f"“scope_value” names {scope[:60]}, which is not in “compose”.", param="scope_value")
        kept[scope] = _value(organization, scope, value.replace("\x00", "").strip())
    kept.pop("organization_id", None)  # there is one
    return kept


def _value(organization: Organization, scope: str, value: str) -> str:
    if scope == "organization_id":
        if value != organization.public_id:
            raise InvalidLimit("“scope_value” is the id of another organization.", param="scope_value")
    elif scope == "api_key_id":
        row = ApiKey.objects.filter(organization=organization, public_id=value).only("pk").first()
        if row is None:
            raise InvalidLimit("There is no such API key.", param="scope_value")
        return str(row.pk)
    elif scope == "endpoint" and value not in ENDPOINTS:
        raise InvalidLimit(f"An endpoint is one of {', '.join(ENDPOINTS)}.", param="scope_value")
    elif scope == "model" and "/" not in value and not catalog().find(value):
        raise InvalidLimit("No model is called so. Copy its name from Models.", param="scope_value")
    if not 0 < len(value) <= MAX_IDENTIFIER:
        raise InvalidLimit(f"“scope_value” has 1 to {MAX_IDENTIFIER} characters.", param="scope_value")
    return value


def _times(draft: Draft) -> dict[str, Any]:
    is_counted_now = draft.metric == limits.CONCURRENCY
    period = windows.parsed(draft.period) if draft.period else ""
    if period is None or (is_counted_now and period):
        text = (
            "Calls at once have no period."
            if is_counted_now
            else f"“period” is one of {', '.join(windows.PERIODS)}, a number of seconds, or null for a limit for life."
        )
        raise InvalidLimit(text, param="period")
    if draft.anchor not in LimitPolicy.Anchor.values:
        raise InvalidLimit(f"“anchor” is one of {', '.join(LimitPolicy.Anchor.values)}.", param="anchor")
    if (draft.anchor == "explicit_ts") != (draft.anchor_at is not None):
        raise InvalidLimit("“anchor_at” goes with the anchor explicit_ts, and only with it.", param="anchor_at")
    if draft.effective_at and draft.expires_at and draft.expires_at <= draft.effective_at:
        raise InvalidLimit("“expires_at” is not after “effective_at”.", param="expires_at")
    return {
        "period": period,
        "anchor": draft.anchor,
        "anchor_at": draft.anchor_at,
        "effective_at": draft.effective_at,
        "expires_at": draft.expires_at,
    }


def _rules(draft: Draft) -> list[dict[str, Any]]:
    if not 0 < len(draft.rules) <= MAX_RULES:
        raise InvalidLimit(f"A limit has 1 to {MAX_RULES} rules.", param="rules")
    kept = []
    for rule in draft.rules:
        if rule.severity not in (HARD, SOFT):
            raise InvalidLimit("The “severity” of a rule is hard or soft.", param="rules")
        text = rule.description.replace("\x00", "")[:400]
        kept.append({"severity": rule.severity, "value": _amount(draft.metric, rule.value), "description": text})
    return kept


def _amount(metric: str, value: Any) -> int:
    amount: int | None = None
    if metric == COST and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            amount = nano_from_usd(str(value))
        except ValueError:
            amount = None
    elif isinstance(value, int) and not isinstance(value, bool):
        amount = value
    if amount is None or not 0 < amount <= MAX_VALUE:
        kind = "an amount of USD above 0" if metric == COST else "a whole number from 1"
        raise InvalidLimit(f"Give {kind}: the value of a rule.", param="rules")
    return amount


# --- Changes ----------------------------------------------------------------------------------------------------------


def create(
    *,
    organization: Organization,
    draft: Draft,
    actor: User | None,
    address: str | None,
    submission: UUID | None = None,
    by_key: str = "",
) -> LimitPolicy:
    """Set a limit; the same `submission` (a form sent twice) sets one. Raises: InvalidLimit; TooManyLimits."""
    row = LimitPolicy(organization=organization, created_by=actor, **check(organization, draft))
    if submission is not None:
        row.public_id = ids.encode("limit", uuid5(submission, organization.public_id))
    try:
        with transaction.atomic():
            # Two at once would each count the other out.
            Organization.objects.select_for_update().only("pk").get(pk=organization.pk)
            if twin := LimitPolicy.objects.filter(organization=organization, public_id=row.public_id).first():
                return twin
            if LimitPolicy.objects.filter(organization=organization).count() >= MOST:
                raise TooManyLimits
            row.save(force_insert=True)
            _record(row, "limit.created", actor, address, by_key)
    except IntegrityError:  # the id is another organization's
        raise InvalidLimit("Load the page again, then send the form.", param="submission") from None
    return row


def change(*, row: LimitPolicy, draft: Draft, actor: User | None, address: str | None, by_key: str = "") -> LimitPolicy:
    """Put a draft in the place of a limit; what it counts begins anew where that is something else now.

    Raises: InvalidLimit.
    """
    with transaction.atomic():
        row = LimitPolicy.objects.select_for_update(of=("self",)).select_related("organization").get(pk=row.pk)
        before = _counted(row)
        for name, value in check(row.organization, draft).items():
            setattr(row, name, value)
        if _counted(row) != before:
            row.revision += 1
        row.save()
        _record(row, "limit.changed", actor, address, by_key)
    return row


def remove(*, row: LimitPolicy, actor: User | None, address: str | None, by_key: str = "") -> None:
    """Lift a limit."""
    with transaction.atomic():
        deleted, _ = LimitPolicy.objects.filter(pk=row.pk).delete()
        if deleted:
            _record(row, "limit.deleted", actor, address, by_key)


def _counted(row: LimitPolicy) -> tuple[Any, ...]:
    """Return what a counter is about: with another of these it would count something else."""
    return row.compose, row.scope_values, row.metric, row.period, row.anchor, row.anchor_at


def _record(row: LimitPolicy, action: str, actor: User | None, address: str | None, by_key: str) -> None:
    detail: dict[str, Any] = {"name": row.name, "metric": row.metric, "period": row.period or "lifetime"}
    detail["rules"] = [f"{rule['severity']} {limits.shown(row.metric, rule['value'])}" for rule in row.rules]
    if by_key:
        detail["api_key"] = by_key
    audit.record(
        organization=row.organization,
        actor=actor,
        action=action,
        target=row.public_id,
        detail=detail,
        address=address,
    )
    organization_id = row.organization_id
    transaction.on_commit(lambda: limits.forget(organization_id))


def draft_of(row: LimitPolicy, **changes: Any) -> Draft:
    """Return a limit as it could be entered, with some members changed."""
    values = dict(row.scope_values)
    if key := values.get("api_key_id"):
        values["api_key_id"] = key_ids([row]).get(int(key), "")
    rules = [
        Rule(
            severity=rule["severity"],
            value=limits.shown(row.metric, rule["value"]),
            description=rule["description"],
        )
        for rule in row.rules
    ]
    members: dict[str, Any] = {
        "name": row.name,
        "label": row.label,
        "compose": row.compose,
        "values": values,
        "metric": row.metric,
        "period": row.period,
        "anchor": row.anchor,
        "anchor_at": row.anchor_at,
        "effective_at": row.effective_at,
        "expires_at": row.expires_at,
        "priority": row.priority,
        "is_active": row.is_active,
        "rules": rules,
    }
    return Draft(**members | changes)


# --- Reading ----------------------------------------------------------------------------------------------------------


def listed(organization: Organization) -> list[LimitPolicy]:
    """Return an organization's limits, the first to be asked first."""
    return list(LimitPolicy.objects.filter(organization=organization).select_related("organization"))


def key_ids(rows: Sequence[LimitPolicy]) -> dict[int, str]:
    """Return the public ids of the API keys that limits are about."""
    wanted = {int(key) for row in rows if (key := row.scope_values.get("api_key_id"))}
    organizations = {row.organization_id for row in rows}
    found = ApiKey.objects.filter(pk__in=wanted, organization__in=organizations) if wanted else ApiKey.objects.none()
    return dict(found.values_list("pk", "public_id"))


def heirs(organization: Organization, key_id: int) -> set[int]:
    """Return the rows of an API key and of those that took its place."""
    found: set[int] = set()
    following: int | None = key_id
    while following is not None and following not in found:
        found.add(following)
        keys = ApiKey.objects.filter(organization=organization, pk=following)
        following = keys.values_list("replaced_by_id", flat=True).first()
    return found


def standings(rows: Sequence[LimitPolicy], *, now_ms: int | None = None) -> list[Standing]:
    """Return how far each limit is used up."""
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    policies = [limits.built(columns(row), {}) for row in rows]
    looks = {}
    for policy in policies:
        subject = policy.fixed_subject()
        if subject is not None:
            is_open = policy.first_event or policy.metric == limits.CONCURRENCY
            key = Key(policy.organization_id, policy.id, policy.revision, subject)
            looks[policy.id] = Take(key, policy.window(now_ms), 0, counters.ANY, is_open)
    found = counters.used_now(list(looks.values()), now_ms=now_ms) if looks else {}
    return [
        _standing(row, policy, looks.get(policy.id), found, now_ms) for row, policy in zip(rows, policies, strict=True)
    ]


def _standing(
    row: LimitPolicy, policy: Policy, look: Take | None, found: Mapping[Key, counters.Given] | None, now_ms: int
) -> Standing:
    window = policy.window(now_ms)
    if look is None or found is None:
        return Standing(row, policy, window.starts_ms, window.ends_ms, None)
    given = found.get(look.key)
    if given is None:
        return Standing(row, policy, window.starts_ms, window.ends_ms, 0)
    return Standing(row, policy, window.starts_ms, given.ends_ms, given.used)


def columns(row: LimitPolicy) -> tuple[Any, ...]:
    """Return a row as `limits.built` reads it."""
    return (
        *(row.pk, row.public_id, row.organization_id, row.name, row.compose, row.scope_values, row.metric, row.period),
        *(row.anchor, row.anchor_at, row.effective_at, row.expires_at, row.rules, row.revision),
    )
