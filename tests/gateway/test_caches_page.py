"""The Caches page: who reads and who changes, what it shows, and that deleting deletes."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import AuditEvent
from gateway.models import CachedAnswer, CallSettings
from tests.gateway.asking import keep

pytestmark = pytest.mark.django_db
PAGE = "/platform/api/caches/"
CLEAR = f"{PAGE}clear/"
SETTINGS = {"enabled": "on", "ttl_s": "60", "by_model": "on"}


@pytest.fixture
def as_user(cast: Any) -> Callable[[str], Client]:
    def signed_in(name: str) -> Client:
        client = Client()
        client.force_login(getattr(cast, name))
        return client

    return signed_in


def kept(organization: Any) -> int:
    return CachedAnswer.objects.filter(organization=organization).count()


def events(organization: Any) -> list[str]:
    found = AuditEvent.objects.filter(organization=organization).order_by("pk")
    return [event.action for event in found if event.action.startswith(("cache", "call_settings"))]


def test_an_empty_cache_says_how_it_is_filled(as_user: Any) -> None:
    page = as_user("member").get(PAGE).content.decode()
    assert "Nothing is kept yet" in page
    assert "cache_enabled" in page
    assert 'action="/platform/api/caches/"' not in page  # a member changes nothing


def test_entries_and_savings_are_shown(as_user: Any, organization: Any, other_organization: Any) -> None:
    entry = keep(organization, prompt_text="<b>What is it?</b>")
    keep(organization, environment="test", hit_count=5, cost_nano=None)
    keep(organization, prompt_text="Long ago", expires_at=timezone.now() - timedelta(seconds=1))
    keep(other_organization, prompt_text="canary-question")
    page = as_user("owner").get(PAGE).content.decode()
    assert "&lt;b&gt;What is it?&lt;/b&gt;" in page
    assert 'value="3000"' in page  # two hits at 1,500 nano-USD
    assert "Long ago" not in page
    assert "canary-question" not in page
    detail = as_user("member").get(f"{PAGE}{entry.public_key}/").content.decode()
    assert entry.public_key in detail
    assert "/delete/" not in detail


@pytest.mark.parametrize("name", ["admin", "owner"])
def test_owners_and_admins_change_the_settings(name: str, as_user: Any, organization: Any) -> None:
    answer = as_user(name).post(PAGE, SETTINGS)
    assert (answer.status_code, answer["Location"]) == (302, PAGE)
    row = CallSettings.objects.get(organization=organization)
    assert (row.cache_enabled, row.cache_ttl_s, row.cache_by_customer) == (True, 60, False)
    assert (row.cache_by_model, row.cache_omit_log) == (True, False)
    assert events(organization) == ["call_settings.changed"]


@pytest.mark.parametrize("ttl", ["", "-1", "0", "99999999", "many"])
def test_a_lifetime_that_makes_no_sense_is_refused(ttl: str, as_user: Any, organization: Any) -> None:
    answer = as_user("owner").post(PAGE, {**SETTINGS, "ttl_s": ttl})
    assert answer.status_code == 400
    assert 'aria-invalid="true"' in answer.content.decode()
    assert not CallSettings.objects.filter(organization=organization).exists()
    assert events(organization) == []


def test_members_change_and_delete_nothing(as_user: Any, organization: Any) -> None:
    entry = keep(organization)
    client = as_user("member")
    for path, data in ((PAGE, SETTINGS), (CLEAR, {"confirmed": "on"}), (f"{PAGE}{entry.public_key}/delete/", {})):
        assert client.post(path, data).status_code == 403
    assert kept(organization) == 1
    assert events(organization) == []
    assert not CallSettings.objects.filter(organization=organization).exists()


def test_outsiders_find_no_entry_and_delete_none(as_user: Any, organization: Any) -> None:
    entry = keep(organization)
    client = as_user("outsider")
    assert client.get(f"{PAGE}{entry.public_key}/").status_code == 404
    assert client.post(f"{PAGE}{entry.public_key}/delete/").status_code == 404
    assert client.post(CLEAR, {"confirmed": "on"}).status_code == 302
    assert kept(organization) == 1


def test_one_answer_is_deleted(as_user: Any, organization: Any) -> None:
    entry, other = keep(organization), keep(organization)
    assert as_user("admin").post(f"{PAGE}{entry.public_key}/delete/").status_code == 302
    assert [bytes(row.key) for row in CachedAnswer.objects.filter(organization=organization)] == [other.key]
    assert events(organization) == ["cached_answer.deleted"]


def test_all_answers_of_an_environment_are_deleted_when_confirmed(as_user: Any, organization: Any) -> None:
    keep(organization)
    keep(organization, environment="test")
    client = as_user("owner")
    client.post("/platform/environment/", {"environment": "production"})
    asked = client.get(CLEAR).content.decode()
    assert "1 answer " in asked
    assert client.post(CLEAR).status_code == 400
    assert (kept(organization), events(organization)) == (2, [])
    assert client.post(CLEAR, {"confirmed": "on"}).status_code == 302
    assert [row.environment for row in CachedAnswer.objects.filter(organization=organization)] == ["test"]
    assert events(organization) == ["cache.cleared"]


@pytest.mark.parametrize("page", ["0", "2", "999999", "x"])
def test_pages_beyond_the_end_are_pages(page: str, as_user: Any, organization: Any) -> None:
    keep(organization)
    assert as_user("member").get(PAGE, {"page": page}).status_code == 200


def test_nonsense_keys_are_not_found(as_user: Any) -> None:
    for key in ("x", "0" * 64, "F" * 64, "clear-all"):
        assert as_user("owner").get(f"{PAGE}{key}/").status_code == 404
