"""The management API of limits: what can be set, what is refused, who may, and that nothing foreign is reached."""

import json
import uuid
from typing import Any

import pytest
from django.test import Client

from accounts import keys
from accounts.models import AuditEvent
from gateway.models import LimitPolicy

pytestmark = pytest.mark.django_db
LIST = "/api/limit-policies/"
RULE = {"trigger": {"counter": {"operator": "gte", "value": 101}}, "severity": "hard", "description": "Enough"}
BODY = {"name": "All", "compose": ["organization_id"], "metric": "request_count", "period": "minute", "rules": [RULE]}


def key_of(organization: Any, *scopes: str) -> str:
    return keys.issue(
        organization=organization, name="Ops", environment="production", created_by=None, scopes=scopes or None
    ).secret


class Api:
    """Asks as a key."""

    def __init__(self, key: str) -> None:
        self.client = Client()
        self.head = {"Authorization": f"Bearer {key}"}

    def __call__(self, method: str, path: str = LIST, body: Any = None) -> Any:
        data = b"" if body is None else json.dumps(body).encode()
        return self.client.generic(method, path, data, content_type="application/json", headers=self.head)


@pytest.fixture
def ask(organization: Any) -> Api:
    return Api(key_of(organization, "logs", "manage"))


def test_a_limit_is_set_read_changed_and_lifted(ask: Api, organization: Any) -> None:
    made = ask("POST", body=BODY)
    limit = made.json()
    path = f"{LIST}{limit['id']}/"
    assert made.status_code == 201
    assert limit["rules"] == [{**RULE, "notification_method_id": None}]
    assert (limit["max_requests"], limit["max_concurrent"], limit["algorithm"]) == (100, None, "balance_fixed_window")
    assert (limit["scope_value"], limit["current_state"]["current_value"]) == (organization.public_id, 0)
    assert limit["current_state"]["interval_end"] > limit["current_state"]["interval_start"]

    assert ask("GET", path).json() == limit
    assert ask("GET", path.rstrip("/")).json()["id"] == limit["id"]
    assert [each["id"] for each in ask("GET").json()["results"]] == [limit["id"]]

    changed = ask("PATCH", path, {"period": None, "is_active": False, "max_requests": 5}).json()
    assert (changed["period"], changed["is_active"], changed["max_requests"]) == (None, False, 5)
    assert changed["rules"][0]["trigger"]["counter"]["value"] == 6
    assert changed["current_state"]["meter_id"] != limit["current_state"]["meter_id"]

    assert ask("DELETE", path).status_code == 204
    assert ask("GET", path).status_code == 404
    events = AuditEvent.objects.filter(organization=organization, target=limit["id"]).order_by("pk")
    assert [event.action for event in events] == ["limit.created", "limit.changed", "limit.deleted"]
    assert events[0].detail["api_key"].startswith("key_")


def test_every_member_of_a_limit_is_kept(ask: Api, organization: Any) -> None:
    body = {
        "name": "Costs of one customer",
        "scope": "customers",
        "compose": ["model", "customer_identifier"],
        "scope_value": {"model": "sandbox/echo"},
        "metric": "cost",
        "algorithm": "balance_fixed_window",
        "period": 7200,
        "anchor": "explicit_ts",
        "anchor_at": "2026-01-01T00:30:00Z",
        "effective_at": "2026-01-01T00:00:00Z",
        "expires_at": "2036-01-01T00:00:00Z",
        "priority": 3,
        "is_active": True,
        "rules": [
            {"trigger": {"counter": {"operator": "gte", "value": 0.25}}, "severity": "soft"},
            {"trigger": {"counter": {"operator": "gte", "value": 1}}, "severity": "hard"},
        ],
    }
    limit = ask("POST", body=body).json()

    told = {name: limit[name] for name in body if name not in ("rules", "period", "compose")}
    assert told == {name: body[name] for name in told}
    assert (limit["period"], limit["compose"]) == ("7200", ["customer_identifier", "model"])
    assert [rule["trigger"]["counter"]["value"] for rule in limit["rules"]] == [0.25, 1]
    assert limit["current_state"] is None
    row = LimitPolicy.objects.get(organization=organization, public_id=limit["id"])
    assert [rule["value"] for rule in row.rules] == [250_000_000, 1_000_000_000]


def test_a_key_is_named_by_its_public_id(ask: Api, organization: Any, cast: Any) -> None:
    from accounts.models import ApiKey

    mine = ApiKey.objects.filter(organization=organization).first()
    assert mine is not None
    limit = ask("POST", body={**BODY, "compose": ["api_key_id"], "scope_value": mine.public_id}).json()
    assert limit["scope_value"] == mine.public_id

    foreign = keys.issue(
        organization=cast.other_organization, name="K", environment="test", created_by=None
    ).api_key.public_id
    refused = ask("POST", body={**BODY, "compose": ["api_key_id"], "scope_value": foreign})
    assert (refused.status_code, refused.json()["param"]) == (400, "scope_value")
    assert LimitPolicy.objects.filter(organization=organization).count() == 1


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("burst", {"burst": 5}),
    ("name", {"name": ""}),
    ("name", {"name": 5}),
    ("metric", {"metric": "characters"}),
    ("compose", {"compose": []}),
    ("compose", {"compose": ["user_id"]}),
    ("compose", {"compose": ["model", "model"]}),
    ("compose", {"compose": "model"}),
    ("scope_value", {"scope_value": ["a"]}),
    ("scope_value", {"scope_value": "org_of_somebody"}),
    ("scope_value", {"compose": ["model"], "scope_value": "no-such-model"}),
    ("scope_value", {"compose": ["endpoint"], "scope_value": "poems"}),
    ("scope_value", {"compose": ["model"], "scope_value": {"endpoint": "embeddings"}}),
    ("algorithm", {"algorithm": "token_bucket"}),
    ("period", {"period": "fortnight"}),
    ("period", {"period": 0}),
    ("period", {"period": 1.5}),
    ("period", {"metric": "concurrency"}),
    ("anchor", {"anchor": "epoch"}),
    ("anchor_at", {"anchor": "explicit_ts"}),
    ("anchor_at", {"anchor_at": "2026-01-01T00:00:00Z"}),
    ("anchor_at", {"anchor": "explicit_ts", "anchor_at": "tomorrow"}),
    ("effective_at", {"effective_at": 5}),
    ("expires_at", {"effective_at": "2026-01-02T00:00:00Z", "expires_at": "2026-01-01T00:00:00Z"}),
    ("priority", {"priority": "high"}),
    ("priority", {"priority": 100_000}),
    ("is_active", {"is_active": 1}),
    ("rules", {"rules": []}),
    ("rules", {"rules": "hard"}),
    ("rules", {"rules": [{**RULE, "severity": "deadly"}]}),
    ("rules", {"rules": [{**RULE, "mail": "a@example.test"}]}),
    ("rules", {"rules": [{**RULE, "notification_method_id": "n1"}]}),
    ("rules", {"rules": [{**RULE, "trigger": {"counter": {"operator": "gt", "value": 5}}}]}),
    ("rules", {"rules": [{**RULE, "trigger": {"counter": {"operator": "gte", "value": 0}}}]}),
    ("rules", {"rules": [{**RULE, "trigger": {"counter": {"operator": "gte", "value": 1.5}}}]}),
    ("rules", {"rules": [{**RULE, "trigger": {"counter": {"operator": "gte", "value": True}}}]}),
    ("max_requests", {"max_requests": 5}),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_makes_no_limit_is_refused_and_named(ask: Api, organization: Any, number: int) -> None:
    param, members = WRONG[number]
    answer = ask("POST", body={**BODY, **members})

    assert (answer.status_code, answer.json()["param"]) == (400, param), answer.json()
    assert not LimitPolicy.objects.filter(organization=organization).exists()


@pytest.mark.parametrize("body", ["text", [], None])
def test_what_is_no_object_is_refused(ask: Api, organization: Any, body: Any) -> None:
    assert ask("POST", body=body).status_code == 400
    assert not LimitPolicy.objects.filter(organization=organization).exists()


def test_a_refused_change_changes_nothing(ask: Api, organization: Any) -> None:
    made = ask("POST", body=BODY).json()
    row = LimitPolicy.objects.filter(organization=organization).values().get()

    refused = ask("PATCH", f"{LIST}{made['id']}/", {"name": "Another", "period": "never"})
    assert refused.status_code == 400
    assert LimitPolicy.objects.filter(organization=organization).values().get() == row


def test_a_key_that_only_reads_or_calls_changes_no_limit(ask: Api, organization: Any) -> None:
    path = f"{LIST}{ask('POST', body=BODY).json()['id']}/"
    usual = Api(key_of(organization))
    assert usual("GET", path).status_code == 200
    for method, where in (("POST", LIST), ("PATCH", path), ("DELETE", path)):
        refused = usual(method, where, BODY)
        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert Api(key_of(organization, "call"))("GET", path).status_code == 403
    assert Api("rsp_live_nothing")("GET", path).status_code == 401
    assert LimitPolicy.objects.filter(organization=organization).count() == 1


def test_a_foreign_limit_is_not_there(ask: Api, organization: Any, other_organization: Any) -> None:
    path = f"{LIST}{ask('POST', body=BODY).json()['id']}/"
    row = LimitPolicy.objects.filter(organization=organization).values().get()
    stranger = Api(key_of(other_organization, "logs", "manage"))

    for method in ("GET", "PATCH", "DELETE"):
        refused = stranger(method, path, {"name": "Mine"})
        assert (refused.status_code, refused.json()["code"]) == (404, "limit_not_found")
    assert stranger("GET").json()["results"] == []
    assert LimitPolicy.objects.filter(organization=organization).values().get() == row


def test_lists_come_in_pages(ask: Api) -> None:
    for number in range(3):
        assert ask("POST", body={**BODY, "name": f"Limit {number}", "priority": number}).status_code == 201

    first = ask("GET", f"{LIST}?page_size=2").json()
    assert ([each["name"] for each in first["results"]], first["count"]) == (["Limit 2", "Limit 1"], 3)
    second = ask("GET", first["next"].partition("testserver")[2]).json()
    assert ([each["name"] for each in second["results"]], second["next"]) == (["Limit 0"], None)


def test_an_id_that_is_none_is_not_found(ask: Api) -> None:
    assert ask("GET", f"{LIST}limit_{uuid.uuid4().hex}/").status_code == 404
