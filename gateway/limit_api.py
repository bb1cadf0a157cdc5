"""The management API of limits, in Respan's shape: `/api/limit-policies/` and `/api/limit-policies/<id>/`.

Translates in, makes one domain call, translates out. Reading needs the scope “Read logs”, changing “Change limits”: a
key that only calls must not lift what bounds it. Neighbours: `limit_changes.py`, `respan.api`, `limit_schema.py`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from django.http import QueryDict
from django.utils.dateparse import parse_datetime
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import audit
from accounts.authentication import LogsKey, ManagingKey
from accounts.keys import Caller
from accounts.models import ApiKey, Organization
from gateway import limit_changes, limits
from gateway.limit_changes import Draft, InvalidLimit, Rule, Standing
from gateway.models import LimitPolicy
from respan.api import MalformedRequest, page_number, paginated
from respan.errors import Error

ALGORITHM: Final = "balance_fixed_window"
_SHORTHANDS: Final = {"max_requests": limits.REQUESTS, "max_concurrent": limits.CONCURRENCY}
_MEMBERS: Final = frozenset(
    (
        *("name", "scope", "compose", "scope_value", "metric", "algorithm", "period", "anchor", "anchor_at"),
        *("effective_at", "expires_at", "priority", "is_active", "rules", *_SHORTHANDS),
    )
)
_RULE_MEMBERS: Final = frozenset({"trigger", "severity", "description", "notification_method_id"})
_TEXTS: Final = {"name": "name", "scope": "label", "metric": "metric", "anchor": "anchor"}
_MOMENTS: Final = ("anchor_at", "effective_at", "expires_at")


class LimitNotFound(Error):
    """The organization has no limit with this id."""

    status = 404
    code = "limit_not_found"
    message = "Limit not found"


class _LimitView(APIView):
    """What both addresses share: who may read and who may change."""

    def get_authenticators(self) -> list[BaseAuthentication]:
        method = getattr(self.request, "method", "GET")
        return [LogsKey() if method in {"GET", "HEAD", "OPTIONS"} else ManagingKey()]


class LimitPolicies(_LimitView):
    """List the organization's limits, and set one."""

    def get(self, request: Request) -> Response:
        rows = LimitPolicy.objects.filter(organization_id=_caller(request).organization_id)
        page = page_number(request.query_params.dict())
        count = rows.count()
        shown = list(rows[page.offset : page.offset + page.size])
        has_next = page.offset + len(shown) < count
        keys = limit_changes.key_ids(shown)
        organization_id = _caller(request).organization_public_id
        return Response(
            paginated(
                request,
                [public(each, keys, organization_id) for each in limit_changes.standings(shown)],
                count=count,
                next_params={"page": str(page.number + 1)} if has_next else None,
                previous_params={"page": str(page.number - 1)} if page.number > 1 else None,
            )
        )

    def post(self, request: Request) -> Response:
        row = limit_changes.create(
            organization=Organization.objects.get(pk=_caller(request).organization_id),
            draft=read(_object(request)),
            actor=None,
            address=audit.client_address(request._request),
            by_key=_key_id(request),
        )
        return Response(_shown(request, row), status=201)


class Limit(_LimitView):
    """One limit: read it, change it, lift it."""

    def get(self, request: Request, public_id: str) -> Response:
        return Response(_shown(request, _found(request, public_id)))

    def patch(self, request: Request, public_id: str) -> Response:
        row = _found(request, public_id)
        changed = limit_changes.change(
            row=row,
            draft=read(_object(request), limit_changes.draft_of(row)),
            actor=None,
            address=audit.client_address(request._request),
            by_key=_key_id(request),
        )
        return Response(_shown(request, changed))

    def delete(self, request: Request, public_id: str) -> Response:
        row = _found(request, public_id)
        address = audit.client_address(request._request)
        limit_changes.remove(row=row, actor=None, address=address, by_key=_key_id(request))
        return Response(status=204)


def _caller(request: Request) -> Caller:
    return cast(Caller, request.auth)


def _key_id(request: Request) -> str:
    """Return the public id of the key that asks: a change by an API names no person."""
    return ApiKey.objects.values_list("public_id", flat=True).get(pk=_caller(request).api_key_id)


def _found(request: Request, public_id: str) -> LimitPolicy:
    found = LimitPolicy.objects.select_related("organization")
    row = found.filter(organization_id=_caller(request).organization_id, public_id=public_id).first()
    if row is None:
        raise LimitNotFound
    return row


def _object(request: Request) -> Mapping[str, Any]:
    if not isinstance(request.data, dict) or isinstance(request.data, QueryDict):
        raise MalformedRequest
    return request.data


# --- In ---------------------------------------------------------------------------------------------------------------


def read(body: Mapping[str, Any], base: Draft | None = None) -> Draft:
    """Return the limit that a body describes; members it leaves out are those of `base`. Raises: InvalidLimit."""
    for name in body:
        if name not in _MEMBERS:
            raise InvalidLimit(f"“{str(name)[:60]}” is no member of a limit.", param=str(name)[:60])
    if body.get("algorithm", ALGORITHM) != ALGORITHM:
        raise InvalidLimit(f"“algorithm” is {ALGORITHM}.", param="algorithm")
    members: dict[str, Any] = {}
    if base is not None:
        members = {name: getattr(base, name) for name in Draft.__dataclass_fields__}
    members |= {"name": "", "compose": (), "metric": "", "rules": ()} if base is None else {}
    members |= {_TEXTS[name]: _text(body, name) for name in _TEXTS if name in body}
    members |= {name: _moment(body, name) for name in _MOMENTS if name in body}
    if "period" in body:
        members["period"] = _period(body["period"])
    if "priority" in body:
        members["priority"] = _whole(body, "priority")
    if "is_active" in body:
        members["is_active"] = _flag(body, "is_active")
    _read_scope(body, members)
    _read_rules(body, members)
    return Draft(**members)


def _read_scope(body: Mapping[str, Any], members: dict[str, Any]) -> None:
    """Read whom a limit counts; another `compose` forgets the values of the one before."""
    if "compose" in body:
        compose = body["compose"]
        if not isinstance(compose, list) or not all(isinstance(each, str) for each in compose):
            raise InvalidLimit("“compose” is a list of scopes.", param="compose")
        members |= {"compose": compose, "values": {}}
    if "scope_value" not in body:
        return
    value = body["scope_value"]
    if value is None:
        members["values"] = {}
    elif isinstance(value, str) and len(members["compose"]) == 1:
        members["values"] = {members["compose"][0]: value}
    elif isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        members["values"] = value
    else:
        text = "“scope_value” is text, or an object of one text for each scope of “compose” that is meant."
        raise InvalidLimit(text, param="scope_value")


def _read_rules(body: Mapping[str, Any], members: dict[str, Any]) -> None:
    if "rules" in body:
        rules = body["rules"]
        if not isinstance(rules, list):
            raise InvalidLimit("“rules” is a list.", param="rules")
        members["rules"] = [_rule(rule) for rule in rules]
    for name, metric in _SHORTHANDS.items():
        if body.get(name) is None:
            continue
        if "rules" in body or members["metric"] != metric:
            raise InvalidLimit(f"“{name}” goes with the metric {metric}, without “rules”.", param=name)
        # The counter blocks the call that makes it reach the value: that is the one after the last allowed.
        soft = [rule for rule in members["rules"] if rule.severity == limits.SOFT]
        members["rules"] = [Rule(severity=limits.HARD, value=_whole(body, name) + 1), *soft]


def _rule(rule: Any) -> Rule:
    if not isinstance(rule, dict):
        raise InvalidLimit("A rule is an object.", param="rules")
    for name in rule:
        if name not in _RULE_MEMBERS:
            raise InvalidLimit(f"“{str(name)[:60]}” is no member of a rule.", param="rules")
    trigger = rule.get("trigger")
    counter = trigger.get("counter") if isinstance(trigger, dict) and trigger.keys() == {"counter"} else None
    if not isinstance(counter, dict) or counter.keys() != {"operator", "value"} or counter["operator"] != "gte":
        text = "The “trigger” of a rule is {“counter”: {“operator”: “gte”, “value”: …}}."
        raise InvalidLimit(text, param="rules")
    if rule.get("notification_method_id") is not None:
        raise InvalidLimit("There are no notification methods yet: leave “notification_method_id” out.", param="rules")
    severity, description = rule.get("severity"), rule.get("description") or ""
    if not isinstance(severity, str) or not isinstance(description, str):
        raise InvalidLimit("“severity” and “description” of a rule are text.", param="rules")
    return Rule(severity=severity, value=counter["value"], description=description)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body[name] or "" if name == "scope" else body[name]
    if not isinstance(value, str):
        raise InvalidLimit(f"“{name}” is text.", param=name)
    return value


def _whole(body: Mapping[str, Any], name: str) -> int:
    value = body[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidLimit(f"“{name}” is a whole number.", param=name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    if not isinstance(body[name], bool):
        raise InvalidLimit(f"“{name}” is true or false.", param=name)
    return bool(body[name])


def _period(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return "?"  # which is no period
    return str(value)


def _moment(body: Mapping[str, Any], name: str) -> datetime | None:
    value = body[name]
    if value is None:
        return None
    try:
        moment = parse_datetime(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise InvalidLimit(f"“{name}” is a time such as 2026-11-23T00:00:00Z, or null.", param=name)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# --- Out --------------------------------------------------------------------------------------------------------------


def _shown(request: Request, row: LimitPolicy) -> dict[str, Any]:
    [standing] = limit_changes.standings([row])
    return public(standing, limit_changes.key_ids([row]), _caller(request).organization_public_id)


def public(standing: Standing, keys: Mapping[int, str], organization_id: str) -> dict[str, Any]:
    """Return a limit in the shape of the API; `keys` are the public ids of API keys."""
    row, policy = standing.row, standing.policy
    return {
        "id": row.public_id,
        "name": row.name,
        "scope": row.label or None,
        "compose": row.compose,
        "scope_value": _scope_value(row, keys, organization_id),
        "metric": row.metric,
        "algorithm": ALGORITHM,
        "period": row.period or None,
        "anchor": row.anchor,
        "anchor_at": _iso(row.anchor_at),
        "effective_at": _iso(row.effective_at),
        "expires_at": _iso(row.expires_at),
        "priority": row.priority,
        "is_active": row.is_active,
        "rules": [
            {
                "trigger": {"counter": {"operator": "gte", "value": _number(row.metric, rule["value"])}},
                "severity": rule["severity"],
                "description": rule["description"],
                "notification_method_id": None,
            }
            for rule in row.rules
        ],
        **{name: policy.most if row.metric == metric else None for name, metric in _SHORTHANDS.items()},
        "current_state": _state(standing),
        "created_at": _iso(row.created_at),
        "updated_at": _iso(row.changed_at),
    }


def _scope_value(row: LimitPolicy, keys: Mapping[int, str], organization_id: str) -> Any:
    values = dict(row.scope_values)
    if "api_key_id" in values:
        values["api_key_id"] = keys.get(int(values["api_key_id"]), "")
    if "organization_id" in row.compose:
        values["organization_id"] = organization_id
    return values.get(row.compose[0]) if len(row.compose) == 1 else values or None


def _state(standing: Standing) -> dict[str, Any] | None:
    if standing.used is None:
        return None
    row = standing.row
    is_bounded = bool(row.period)
    return {
        "meter_id": f"{row.public_id}.{row.revision}",
        "interval_start": _iso(_at(standing.starts_ms)) if is_bounded else None,
        "interval_end": _iso(_at(standing.ends_ms)) if is_bounded else None,
        "current_value": _number(row.metric, standing.used),
    }


def _number(metric: str, value: int) -> int | float:
    shown = limits.shown(metric, value)
    return float(shown) if isinstance(shown, str) else shown


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment is not None else None
