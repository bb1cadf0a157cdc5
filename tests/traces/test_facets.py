"""Facets and the strip: counts that agree with the list, from the roll-ups or from the newest spans."""

import re
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from django.db import connection

from accounts import keys
from tests.traces.rows import insert_span
from traces import facets, query, reading
from traces.facets import FACETS
from traces.query import SpanQuery

fill = import_module("traces.migrations.0004_usage_by_day_and_part").fill

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 5, 4, 15, 20, tzinfo=UTC)
HOUR = NOW.replace(minute=0)


def span(organization, **values):
    return insert_span(organization_id=organization.pk, **{"started_at": NOW - timedelta(minutes=5), **values})


def roll_up(organization):
    """Fill the roll-ups from the spans, as loading does."""
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO traces_usage_hour (organization_id, bucket, environment, provider, model, api_key_id, status,
                   paid_by, n, errors, duration_histogram, ttft_histogram)
               SELECT organization_id, date_trunc('hour', started_at), environment, coalesce(provider, ''),
                   request_model, api_key_id, status, paid_by, count(*), count(*) FILTER (WHERE status <> 'ok'),
                   array_fill(0, array[40]), array_fill(0, array[40])
               FROM traces_span WHERE organization_id = %s GROUP BY 1, 2, 3, 4, 5, 6, 7, 8""",
            [organization.pk],
        )
        for statement in fill(f"organization_id = {organization.pk}"):
            cursor.execute(statement)


def asked(since=HOUR - timedelta(hours=23), until=NOW, *, text="", **filters):
    conditions = [(name, "in", values, "AND") for name, values in filters.items()]
    return SpanQuery(since=since, until=until, text=text, conditions=query.parse_conditions(conditions, api_keys={}))


def counted(organization, name, spans=None, **options):
    found = facets.values(
        organization_id=organization.pk, facet=FACETS[name], query=spans or asked(), now=NOW, **options
    )
    return {each.value: each.calls for each in found.counts}


@pytest.fixture
def calls(organization):
    """Seven calls of the last day, one of the week before."""
    for number in range(3):
        span(organization, request_model="gpt-5", started_at=NOW - timedelta(hours=number))
    span(organization, request_model="claude", provider="anthropic", status="error", environment="test")
    span(organization, request_model="claude", provider="anthropic", paid_by="own_key", customer_identifier="anna")
    span(organization, request_model="llama_3", provider=None, status="aborted", paid_by="nobody", api_key_id=2)
    span(organization, request_model="llama_3", provider="groq", customer_identifier="Anna & sons")
    span(organization, request_model="old", started_at=NOW - timedelta(days=7))
    roll_up(organization)
    return organization


def test_values_are_counted_most_first(calls):
    found = facets.values(organization_id=calls.pk, facet=FACETS["model"], query=asked(), now=NOW)
    assert [(each.value, each.calls) for each in found.counts] == [("gpt-5", 3), ("claude", 2), ("llama_3", 2)]
    assert not found.is_sample
    assert counted(calls, "provider") == {"openai": 3, "anthropic": 2, "groq": 1}
    assert counted(calls, "status") == {"ok": 5, "error": 1, "aborted": 1}
    assert counted(calls, "environment") == {"production": 6, "test": 1}
    assert counted(calls, "paid_by") == {"credits": 5, "own_key": 1, "nobody": 1}
    assert counted(calls, "key") == {1: 6, 2: 1}
    assert counted(calls, "customer") == {"anna": 1, "Anna & sons": 1}


@pytest.mark.parametrize("name", ["model", "provider", "status", "environment", "paid_by", "key"])
@pytest.mark.parametrize("days", [1, 8, 30])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"status": ["ok"]},
        {"failed": [True]},
        {"model": ["claude", "llama_3"]},
        {"environment": ["production"]},
        {"provider": ["anthropic"], "environment": ["production"]},
    ],
)
def test_roll_ups_and_spans_agree(calls, name, filters, days):
    since = HOUR - timedelta(days=days)
    from_rollups = counted(calls, name, asked(since=since, **filters))
    # A window that begins within an hour cannot be answered from the roll-ups.
    from_spans = counted(calls, name, asked(since=since + timedelta(seconds=1), **filters))
    assert from_rollups == from_spans
    assert from_rollups


def test_the_roll_ups_answer_alone_where_they_can(calls, organization):
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM traces_span WHERE organization_id = %s", [organization.pk])
    assert sum(counted(calls, "model").values()) == 7
    assert counted(calls, "model", asked(text="Hello")) == {}
    assert counted(calls, "model", asked(customer_identifier=["anna"])) == {}


def test_typing_finds_values_that_contain_it(calls):
    assert counted(calls, "model", find="GPT") == {"gpt-5": 3}
    assert counted(calls, "customer", find="anna") == {"anna": 1, "Anna & sons": 1}
    assert counted(calls, "model", find="_") == {"llama_3": 2}, "not a pattern"
    assert counted(calls, "model", find="%") == {}
    assert counted(calls, "model", asked(model=["claude"]), find="l") == {"claude": 2}


def test_another_organization_is_not_counted(calls, other_organization):
    assert counted(other_organization, "model") == {}
    assert counted(other_organization, "customer") == {}
    strip = facets.strip(organization_id=other_organization.pk, query=asked(), now=NOW)
    assert sum(each.calls for each in strip.buckets) == 0


@pytest.mark.parametrize("length", [timedelta(hours=1), timedelta(hours=23), timedelta(days=8), timedelta(days=40)])
def test_the_strip_counts_every_call_of_the_list_once(calls, length):
    for spans in (asked(since=HOUR - length), asked(since=NOW - length), asked(since=HOUR - length, status=["ok"])):
        strip = facets.strip(organization_id=calls.pk, query=spans, now=NOW)
        listed = reading.logs(organization_id=calls.pk, query=spans, limit=100).logs
        assert sum(each.calls for each in strip.buckets) == len(listed)
        assert sum(each.errors for each in strip.buckets) == sum(log.status != "ok" for log in listed)
        assert 1 <= len(strip.buckets) <= facets.MAX_BARS + 2
        for one, following in zip(strip.buckets, strip.buckets[1:], strict=False):
            assert one.until + timedelta(microseconds=1) == following.since
            assert one.calls == sum(one.since <= log.started_at <= one.until for log in listed)


def test_the_window_of_a_strip_is_bounded(organization):
    for since, until in (
        (datetime(1, 1, 1, tzinfo=UTC), NOW),
        (NOW, datetime(9999, 12, 31, tzinfo=UTC)),
        (NOW, NOW),
    ):
        strip = facets.strip(organization_id=organization.pk, query=asked(since=since, until=until), now=NOW)
        assert 1 <= len(strip.buckets) <= facets.MAX_BARS + 2


# --- On the page ------------------------------------------------------------------------------------------------------


@pytest.fixture
def get(client, cast):
    def fetch(path, *, user=None, htmx=False, **params):
        client.force_login(user or cast.member)
        headers = {"HX-Request": "true"} if htmx else {}
        return client.get(f"/platform/logs/{path}", params, headers=headers)

    return fetch


def choices(html):
    """Return (value, calls, is ticked) of a facet's list."""
    return [
        (value, int(calls.replace(",", "")) if calls else None, bool(checked))
        for value, checked, calls in re.findall(
            r'<li><input[^>]* value="([^"]*)"( checked)?[^>]*>.*?num">([\d,]*)</span></li>', html, re.DOTALL
        )
    ]


def test_a_facet_offers_its_values_under_the_other_filters(cast, get):
    now = datetime.now(UTC)
    for model, customer in (("gpt-5", "anna"), ("gpt-5", "bob"), ("claude", "anna")):
        span(cast.organization, request_model=model, customer_identifier=customer, started_at=now)
    answer = get("by/model/", htmx=True, customer="anna", model="claude", range="1h")
    html = answer.content.decode()
    assert answer.status_code == 200
    assert "<html" not in html
    assert choices(html) == [("claude", 1, True), ("gpt-5", 1, False)], "its own filter does not narrow it"
    assert '<input type="hidden" name="customer" value="anna">' in html
    assert '<input type="hidden" name="range" value="1h">' in html
    page = get("by/model/", customer="anna", range="1h")
    assert "<h1>" in page.content.decode()
    assert choices(page.content.decode())[0][2] is False


def test_states_and_payers_are_all_offered(cast, get):
    span(cast.organization, started_at=datetime.now(UTC), status="aborted")
    found = {value: calls for value, calls, _ in choices(get("by/status/", range="1h").content.decode())}
    assert found == {"failed": 1, "aborted": 1, "ok": 0, "error": 0, "interrupted": 0}


def test_keys_are_found_by_name_and_foreign_ones_are_not(cast, get):
    ours, theirs = (
        keys.issue(organization=organization, name=name, environment="production", created_by=None).api_key
        for organization, name in ((cast.organization, "Our backend"), (cast.other_organization, "Their backend"))
    )
    span(cast.organization, started_at=datetime.now(UTC), api_key_id=ours.pk)
    span(cast.other_organization, started_at=datetime.now(UTC), api_key_id=theirs.pk)
    for find, expected in (("", True), ("BACK", True), ("nothing", False)):
        html = get("by/key/", range="1h", find=find).content.decode()
        assert ("Our backend" in html) is expected
        assert "Their backend" not in html
    html = get("by/key/", range="1h", key=theirs.public_id).content.decode()
    assert "Their backend" not in html


def test_an_unknown_facet_is_not_found_and_a_bad_filter_is_explained(cast, get):
    span(cast.organization, started_at=datetime.now(UTC))
    assert get("by/nonsense/").status_code == 404
    answer = get("by/model/", range="1y")
    assert answer.status_code == 400
    assert "Choose one of the offered time ranges." in answer.content.decode()
    assert get("by/model/", find="a\x00b").status_code == 400
    assert get("by/model/", key="a\x00b").status_code == 400
    assert get("by/key/", key="a\x00b").status_code == 200


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("0001-01-01T00:00:00", "0001-01-02T00:00:00"),
        ("0001-01-01T00:00:00", ""),
        ("9999-12-31T23:59:59", "9999-12-31T23:59:59"),
        ("0001-01-01T00:00:00", "9999-12-31T23:59:59"),
        ("2999-01-01T00:00:00", "2999-02-01T00:00:00"),
        ("2020-01-01T00:00:00+14:00", "2020-01-01T00:00:00-11:00"),
    ],
)
def test_windows_at_the_ends_of_time_are_answered(cast, get, since, until):
    span(cast.organization, started_at=datetime.now(UTC))
    window = {"from": since} | ({"to": until} if until else {})
    for path in ("", "by/model/", "by/customer/"):
        assert get(path, **window).status_code == 200
        assert get(path, **window, customer="anna").status_code == 200


def test_a_bar_of_the_strip_leads_to_its_calls(cast, get):
    now = datetime.now(UTC)
    for hours in (0, 3, 3):
        span(cast.organization, started_at=now - timedelta(hours=hours), request_model="gpt-5")
    roll_up(cast.organization)
    html = get("", model="gpt-5").content.decode()
    bars = re.findall(r'<a href="([^"]*)" aria-label="([^"]*)"', html)
    [address] = [href for href, label in bars if "OK: 2" in label]
    assert "model=gpt-5" in address
    narrowed = get(address.removeprefix("/platform/logs/").replace("&amp;", "&")).content.decode()
    assert narrowed.count("<tr data-row>") == 2
    assert "Time (UTC)" in narrowed
