"""The management API of the cache: Respan's shapes, the key's own organization and environment, what changes it."""

import json
import uuid
from typing import Any

import pytest
from django.test import Client

from accounts import keys
from gateway.models import CachedAnswer
from tests.gateway.asking import keep

pytestmark = pytest.mark.django_db
LONG_AGO, LATER = "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z"


class Api:
    """The API as one key sees it."""

    def __init__(self, organization: Any, owner: Any, *, scopes: Any = None, environment: str = "production") -> None:
        self.key = keys.issue(
            organization=organization, name="Api", environment=environment, created_by=owner, scopes=scopes
        ).secret

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        sent = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        headers = {"authorization": f"Bearer {self.key}"}
        return Client().generic(method, f"/api/caches/{path}", headers=headers, **sent)


@pytest.fixture
def api(cast: Any) -> Api:
    return Api(cast.organization, cast.owner)


def kept(organization: Any) -> int:
    return CachedAnswer.objects.filter(organization=organization).count()


def test_a_list_has_entries_and_what_they_saved(api: Api, organization: Any, other_organization: Any) -> None:
    entry = keep(organization)
    keep(organization, environment="test")
    keep(other_organization)
    listed = api("POST", "", {}).json()
    assert listed["summary"] == {
        "total_cost": 0.000003,
        "total_hit_count": 2,
        "total_tokens": 20,
        "total_time": 0.5,
    }
    assert listed["data"]["count"] == 1
    (row,) = listed["data"]["results"]
    assert row["cache_key"] == entry.public_key
    assert (row["prompt_content"], row["response_content"], row["hit_count"]) == ("Hello", "Hi", 2)
    assert row["prompt_messages"] == [{"role": "user", "content": "Hello"}]
    assert row["full_response"]["choices"][0]["message"]["content"] == "Hi"
    assert row["response_time"] == 0.25
    assert api("GET", f"{entry.public_key}/").json() == row


def test_pages_are_linked(api: Api, organization: Any) -> None:
    for _ in range(3):
        keep(organization)
    first = api("POST", "?page_size=2", {}).json()["data"]
    assert (first["count"], len(first["results"]), first["previous"]) == (3, 2, None)
    assert "page=2" in first["next"]
    second = api("POST", "?page_size=2&page=2", {}).json()["data"]
    assert (len(second["results"]), second["next"]) == (1, None)


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"cache_key_by_org_uuid": {"value": ["{key}"]}}, 1),
        ({"cache_key": {"operator": "not", "value": ["{key}"]}}, 1),
        ({"expiry_date": {"operator": "gte", "value": ["2020-01-01T00:00:00Z"]}}, 2),
        ({"model": {"operator": "icontains", "value": ["GPT"]}}, 1),
        ({"model": {"operator": "not_startswith", "value": ["openai"]}}, 1),
        ({"timestamp": [{"operator": "gte", "value": LONG_AGO}, {"operator": "lt", "value": [LATER]}]}, 0),
    ],
    ids=str,
)  # fmt: skip
def test_filters_narrow_list_and_summary(filters: Any, count: int, api: Api, organization: Any) -> None:
    entry = keep(organization)
    keep(organization, model="other")
    asked = json.loads(json.dumps(filters).replace("{key}", entry.public_key))
    assert api("POST", "", {"filters": asked}).json()["data"]["count"] == count
    assert api("POST", "summary/", {"filters": asked}).json()["total_count"] == count


@pytest.mark.parametrize(
    "filters",
    [
        {"expiry_date": {"operator": "contains", "value": ["2020-01-01T00:00:00Z"]}},
        {"expiry_date": {"operator": "gt", "value": ["yesterday"]}},
        {"model": {"operator": "?", "value": ["x"]}},
        {"secret": {"value": ["x"]}},
        [],
    ],
    ids=str,
)
def test_filters_that_make_no_sense_are_refused(filters: Any, api: Api) -> None:
    assert api("POST", "", {"filters": filters}).status_code == 400


def test_an_entry_is_given_another_end_and_deleted(api: Api, organization: Any) -> None:
    entry = keep(organization)
    changed = api("PATCH", f"{entry.public_key}/", {"expiry_date": "2026-12-01T00:00:00Z"})
    assert (changed.status_code, changed.json()["expiry_date"]) == (200, "2026-12-01T00:00:00Z")
    entry.refresh_from_db()
    assert entry.expires_at.isoformat() == "2026-12-01T00:00:00+00:00"
    assert api("PATCH", f"{entry.public_key}/", {"ttl": 60}).status_code == 200
    assert api("PATCH", f"{entry.public_key}/", {"expiry_date": None}).status_code == 200
    assert api("DELETE", f"{entry.public_key}").status_code == 204
    assert api("GET", f"{entry.public_key}").status_code == 404
    assert kept(organization) == 0


@pytest.mark.parametrize("body", [{}, {"expiry_date": "soon"}, {"ttl": "5"}, {"ttl": -1}, []], ids=str)
def test_an_end_that_makes_no_sense_is_refused(body: Any, api: Api, organization: Any) -> None:
    entry = keep(organization)
    assert api("PATCH", f"{entry.public_key}/", body).status_code == 400
    before = entry.expires_at
    entry.refresh_from_db()
    assert entry.expires_at == before


def test_several_and_all_are_deleted(api: Api, organization: Any, other_organization: Any) -> None:
    one, two, foreign = keep(organization), keep(organization), keep(other_organization)
    keep(organization)
    test = keep(organization, environment="test")
    named = [one.public_key, two.public_key, foreign.public_key, test.public_key, "nonsense"]
    assert api("DELETE", "bulk/", {"cache_keys": named}).json()["deleted_count"] == 2
    assert api("DELETE", "bulk/", {"all": True}).json()["deleted_count"] == 1
    assert (kept(organization), kept(other_organization)) == (1, 1)


@pytest.mark.parametrize("body", [{}, {"all": False}, {"all": True, "ids": ["x"]}, {"cache_keys": []}], ids=str)
def test_a_deletion_says_exactly_what(body: Any, api: Api, organization: Any) -> None:
    keep(organization)
    assert api("DELETE", "bulk/", body).status_code == 400
    assert kept(organization) == 1


def test_another_organization_finds_nothing(organization: Any, cast: Any) -> None:
    entry = keep(organization)
    foreign = Api(cast.other_organization, cast.outsider)
    assert foreign("POST", "", {}).json()["data"]["count"] == 0
    for method, body in (("GET", None), ("PATCH", {"ttl": 5}), ("DELETE", None)):
        assert foreign(method, f"{entry.public_key}/", body).status_code == 404
    assert kept(organization) == 1


def test_a_key_that_only_reads_changes_nothing(organization: Any, cast: Any) -> None:
    entry = keep(organization)
    reader = Api(organization, cast.owner, scopes=["logs"])
    assert reader("GET", f"{entry.public_key}/").status_code == 200
    assert reader("PATCH", f"{entry.public_key}/", {"ttl": 1}).status_code == 403
    assert reader("DELETE", f"{entry.public_key}/").status_code == 403
    assert reader("DELETE", "bulk/", {"all": True}).status_code == 403
    assert kept(organization) == 1
    caller = Api(organization, cast.owner, scopes=["call"])
    assert caller("POST", "", {}).status_code == 403
    assert Client().post("/api/caches/").status_code == 401


def test_a_key_of_the_test_environment_sees_its_own(organization: Any, cast: Any) -> None:
    keep(organization)
    entry = keep(organization, environment="test", request=None, prompt_text=str(uuid.uuid4()))
    (row,) = Api(organization, cast.owner, environment="test")("GET", "").json()["data"]["results"]
    assert (row["cache_key"], row["environment"], row["prompt_messages"]) == (entry.public_key, "test", None)
