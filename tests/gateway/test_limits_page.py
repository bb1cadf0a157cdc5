"""The Limits page and the limits of a key on its own page: who may do what, what is shown, what is refused."""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import keys
from accounts.models import AuditEvent
from gateway import limit_events
from gateway.models import LimitCounter, LimitPolicy
from gateway.windows import NEVER_MS
from respan import ids
from tests.traces.rows import insert_span

pytestmark = pytest.mark.django_db
LIST = "/platform/api/limits/"


@pytest.fixture
def as_user(cast: Any) -> Callable[[str], Client]:
    def signed_in(name: str) -> Client:
        client = Client()
        client.force_login(getattr(cast, name))
        return client

    return signed_in


def form(**fields: Any) -> dict[str, Any]:
    usual = {"name": "All", "metric": "request_count", "period": "minute", "most": "100", "warn": ""}
    return usual | {"whom": "organization_id", "submission": str(uuid.uuid4())} | fields


def ago(**units: float) -> datetime:
    return timezone.now() - timedelta(**units)


def rows(organization: Any) -> list[Any]:
    return list(LimitPolicy.objects.filter(organization=organization).order_by("pk").values())


def only(organization: Any) -> LimitPolicy:
    return LimitPolicy.objects.get(organization=organization)


@pytest.mark.parametrize("name", ["owner", "admin"])
def test_owners_and_admins_set_change_and_delete_limits(
    name: str, as_user: Callable[[str], Client], organization: Any
) -> None:
    client = as_user(name)
    assert "No limit is set" in client.get(LIST).content.decode()
    assert client.get(reverse("limit-new")).status_code == 200
    assert client.post(LIST, form(warn="80"))["Location"] == LIST
    row = only(organization)
    assert [(rule["severity"], rule["value"]) for rule in row.rules] == [("hard", 101), ("soft", 80)]

    text = client.get(LIST).content.decode()
    for said in ("100 requests a minute", "warns from 80 requests", "the organization", "0 requests"):
        assert said in text
    page = reverse("limit", args=[row.public_id])
    assert 'value="100"' in client.get(page).content.decode()
    assert client.post(page, form(name="Fewer", most="1", metric="concurrency")).status_code == 302
    row.refresh_from_db()
    assert (row.name, row.period, row.rules[0]["value"], row.revision) == ("Fewer", "", 2, 2)

    confirm = reverse("limit-remove", args=[row.public_id])
    assert "1 call at once" in client.get(confirm).content.decode()
    assert rows(organization)
    assert client.post(confirm).status_code == 302
    assert rows(organization) == []
    events = AuditEvent.objects.filter(organization=organization, target=row.public_id).order_by("pk")
    assert [event.action for event in events] == ["limit.created", "limit.changed", "limit.deleted"]


def test_a_form_sent_twice_sets_one_limit(as_user: Callable[[str], Client], organization: Any) -> None:
    sent = form()
    for _ in range(2):
        assert as_user("owner").post(LIST, sent).status_code == 302

    assert len(rows(organization)) == 1


def test_a_member_reads_and_changes_nothing(as_user: Callable[[str], Client], organization: Any) -> None:
    as_user("owner").post(LIST, form(name="Ours"))
    row, before, member = only(organization), rows(organization), as_user("member")

    text = member.get(LIST).content.decode()
    assert "Ours" in text
    assert reverse("limit", args=[row.public_id]) not in text
    for path in (reverse("limit", args=[row.public_id]), reverse("limit-remove", args=[row.public_id])):
        assert (member.get(path).status_code, member.post(path, form()).status_code) == (403, 403)
    assert (member.post(LIST, form()).status_code, member.get(reverse("limit-new")).status_code) == (403, 403)
    assert rows(organization) == before


def test_an_outsider_finds_nothing(as_user: Callable[[str], Client], organization: Any) -> None:
    as_user("owner").post(LIST, form(name="Canary"))
    row, before, outsider = only(organization), rows(organization), as_user("outsider")

    assert "Canary" not in outsider.get(LIST).content.decode()
    for path in (reverse("limit", args=[row.public_id]), reverse("limit-remove", args=[row.public_id])):
        assert (outsider.get(path).status_code, outsider.post(path, form()).status_code) == (404, 404)
    assert rows(organization) == before


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("most", {"most": "many"}),
        ("most", {"most": "-1"}),
        ("most", {"most": "", "warn": ""}),
        ("name", {"name": ""}),
        ("value", {"whom": "model", "value": "no-such-model"}),
        ("value", {"whom": "endpoint", "value": "poems"}),
        ("key", {"whom": "api_key_id", "key": "key_of_somebody"}),
        ("submission", {"submission": "x"}),
    ],
)
def test_what_makes_no_limit_is_shown_beside_its_field(
    field: str, wrong: dict[str, Any], as_user: Callable[[str], Client], organization: Any
) -> None:
    answer = as_user("owner").post(LIST, form(**wrong))

    assert (answer.status_code, list(answer.context["form"].errors)) == (400, [field])
    assert rows(organization) == []


def test_what_is_used_is_drawn(as_user: Callable[[str], Client], organization: Any) -> None:
    as_user("owner").post(LIST, form(metric="token_count", period="", most="4000"))
    row = only(organization)
    LimitCounter.objects.create(
        organization_id=organization.pk, policy_id=row.pk, revision=1, subject=f'["{organization.pk}"]', starts_ms=0,
        ends_ms=NEVER_MS, used=1_000,
    )  # fmt: skip

    text = as_user("member").get(LIST).content.decode()
    assert "1,000 tokens" in text
    assert 'value="25" aria-label="All: 25 %"' in text


def test_what_a_limit_did_lately_is_told(
    as_user: Callable[[str], Client], organization: Any, other_organization: Any
) -> None:
    """A soft limit refuses nothing: the page is where a person sees that it was reached."""
    client = as_user("owner")
    assert "Last 24 hours" not in client.get(LIST).content.decode()
    for name in ("Watch", "Quiet"):
        client.post(LIST, form(name=name, most="", warn="80"))
    refused = {"status": "error", "http_status": 429, "error_code": "rate_limit_exceeded", "limit_name": "Watch"}
    insert_span(organization_id=organization.pk, limit_name="Watch", started_at=ago(hours=25))
    insert_span(organization_id=organization.pk, limit_name="Watch", started_at=ago(hours=3), environment="test")
    insert_span(organization_id=organization.pk, started_at=ago(hours=2), **refused)
    last = insert_span(organization_id=organization.pk, limit_name="Watch", started_at=ago(hours=1))
    insert_span(organization_id=other_organization.pk, limit_name="Quiet")
    insert_span(organization_id=organization.pk)

    page = as_user("member").get(LIST)
    watch, quiet = (
        next(line for line in page.context["lines"] if line.row.name == name) for name in ("Watch", "Quiet")
    )
    assert (watch.event.refused, watch.event.warned) == (1, 2)
    assert watch.event.log_id == ids.encode("log", last)
    assert quiet.event is None
    text = page.content.decode()
    for said in ("Last 24 hours", "not reached", reverse("log", args=[ids.encode("log", last)])):
        assert said in text


def test_the_newest_calls_are_told_with_since_when(as_user: Callable[[str], Client], organization: Any) -> None:
    as_user("owner").post(LIST, form(name="Watch", most="", warn="80"))
    for hours in (5, 4, 3):
        insert_span(organization_id=organization.pk, limit_name="Watch", started_at=ago(hours=hours))
    now = timezone.now()

    found = limit_events.lately(organization, now=now, most=2)
    assert found is not None
    assert (found.is_day, found.events["Watch"].warned) == (False, 2)
    assert now - found.since < timedelta(hours=4, seconds=30)
    whole = limit_events.lately(organization, now=now, most=3)
    assert whole is not None
    assert (whole.is_day, whole.since, whole.events["Watch"].warned) == (True, now - timedelta(days=1), 3)


def test_names_are_text(as_user: Callable[[str], Client]) -> None:
    client = as_user("owner")
    client.post(LIST, form(name="<b>bold</b>", whom="customer_identifier", value="<i>ann</i>"))

    text = client.get(LIST).content.decode()
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "<b>bold" not in text
    assert "<i>ann" not in text


def test_a_limit_the_form_cannot_show_is_not_edited_there(as_user: Callable[[str], Client], organization: Any) -> None:
    client = as_user("owner")
    client.post(LIST, form())
    row = only(organization)
    row.compose = ["organization_id", "model"]
    row.save()

    assert client.get(reverse("limit", args=[row.public_id])).status_code == 404
    assert reverse("limit-remove", args=[row.public_id]) in client.get(LIST).content.decode()


def test_the_page_of_keys_shows_the_limits_of_each(
    as_user: Callable[[str], Client], organization: Any, other_organization: Any
) -> None:
    mine, free, foreign = (
        keys.issue(organization=each, name=name, environment="production", created_by=None).api_key
        for each, name in ((organization, "Mine"), (organization, "Free"), (other_organization, "Foreign"))
    )
    client = as_user("owner")
    assert reverse("api-key-limits") in client.get("/platform/api/api-keys/").content.decode()
    shown = client.get(f"{reverse('limit-new')}?key={mine.public_id}").context["form"]
    assert (shown.initial["whom"], shown.initial["key"]) == ("api_key_id", mine.public_id)
    client.post(LIST, form(whom="api_key_id", key=mine.public_id))
    path = f"{reverse('api-key-limits')}?key={mine.public_id}&key={free.public_id}&key={foreign.public_id}&key=%00"

    text = client.get(path).content.decode()
    assert text.count("100 requests a minute") == 1
    assert f'id="limits-{mine.public_id}"' in text
    assert f"{reverse('limit-new')}?key={free.public_id}" in text
    assert foreign.public_id not in text
    assert reverse("limit-new") not in as_user("member").get(path).content.decode()


def test_a_key_that_was_rotated_keeps_its_limit(as_user: Callable[[str], Client], organization: Any, cast: Any) -> None:
    old = keys.issue(organization=organization, name="Old", environment="production", created_by=None).api_key
    as_user("owner").post(LIST, form(whom="api_key_id", key=old.public_id))
    new = keys.rotate(api_key=old, overlap=timedelta(hours=1), actor=cast.owner, now=timezone.now()).api_key

    text = as_user("owner").get(f"{reverse('api-key-limits')}?key={new.public_id}").content.decode()
    assert "100 requests a minute" in text
