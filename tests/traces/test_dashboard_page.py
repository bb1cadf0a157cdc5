"""The Dashboard: what it shows of whose calls, state in the address, comparison, empty and refused questions."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from importlib import import_module

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import keys
from respan import ids
from tests.traces.test_store import row, write
from traces import tiles
from traces.figures import Figures

pytestmark = pytest.mark.django_db

DASHBOARD = "/platform/dashboard/"
CUSTOMERS_MIGRATION = import_module("traces.migrations.0007_customers_by_month")
EVIL = "<script>alert(1)</script>\"'{{ 7|add:7 }}"


@pytest.fixture
def page(client):
    """Fetch the page as somebody and return (status, text without tags, HTML)."""

    def fetch(user, htmx=False, **params):
        client.force_login(user)
        response = client.get(DASHBOARD, params, **({"HTTP_HX_REQUEST": "true"} if htmx else {}))
        html = response.content.decode()
        return response.status_code, " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split()), html

    return fetch


def calls(cast, count=1, *, ago=timedelta(), **values):
    started_us = int((datetime.now(UTC) - ago).timestamp() * 1_000_000)
    rows = [
        row(
            **{
                "organization_id": cast.organization.pk,
                "id": ids.new_uuid(started_us // 1000),
                "started_us": started_us,
                "request_body": None,
                "response_body": None,
                **values,
            }
        )
        for _ in range(count)
    ]
    assert write(*rows) == []


@pytest.mark.parametrize("role", ["owner", "admin", "member"])
def test_every_role_sees_the_dashboard(cast, page, role):
    calls(cast, 3)
    status, text, _ = page(getattr(cast, role))
    assert status == 200
    assert "gpt-4o-mini" in text


def test_nobody_sees_it_without_signing_in(cast, client):
    response = client.get(DASHBOARD)
    assert (response.status_code, response["Location"].startswith("/accounts/login/")) == (302, True)


def test_calls_of_another_organization_are_not_shown(cast, page):
    calls(cast, 3, request_model="secret-model", customer_identifier="secret-customer")
    status, _, html = page(cast.outsider, by="customer")
    assert status == 200
    assert "secret" not in html


def test_without_any_call_it_leads_to_the_first_one(cast, page):
    _, text, html = page(cast.owner)
    assert "Nothing to add up yet" in text
    assert 'href="/platform/"' in html


def test_a_time_without_calls_says_so(cast, page):
    calls(cast, ago=timedelta(days=12))
    assert "No calls in this time" in page(cast.owner, range="24h")[1]
    assert "Nothing matches these filters" in page(cast.owner, range="30d", model="no such model")[1]


def test_figures_are_compared_with_the_time_before(cast, page):
    calls(cast, 6)
    calls(cast, 2, status="error", http_status=500)
    calls(cast, 4, ago=timedelta(days=7))
    _, text, _ = page(cast.owner, range="7d")
    assert "100 % more than the 7 days before" in text
    assert "25.0 %" in text


def test_htmx_gets_only_the_part_below_the_frame(cast, page):
    calls(cast)
    _, _, html = page(cast.owner, htmx=True, range="30d")
    assert "<html" not in html
    assert "<h1>Dashboard</h1>" in html


def test_environment_switch_and_address_narrow_the_calls(cast, page, client):
    calls(cast, 3, request_model="in-production")
    calls(cast, 2, request_model="in-test", environment="test")
    _, text, _ = page(cast.owner, environment="test")
    assert ("in-test" in text, "in-production" in text) == (True, False)
    session = client.session
    session["environment"] = "production"
    session.save()
    text = client.get(DASHBOARD).content.decode()
    assert ("in-test" in text, "in-production" in text) == (False, True)
    both = client.get(DASHBOARD, {"environment": ""}).content.decode()
    assert "in-test" in both
    assert "in-production" in both


def test_rows_and_bars_lead_to_their_calls(cast, page, client):
    key = keys.issue(organization=cast.organization, name="Backend", environment="production", created_by=None).api_key
    calls(cast, 2, request_model="a/model", api_key_id=key.pk, customer_identifier="Zoë & co")
    for by, expected in (("model", "a/model"), ("key", "Backend"), ("customer", "Zoë & co"), ("provider", "openai")):
        _, text, html = page(cast.owner, by=by)
        assert expected in text
        addresses = [unescape(each) for each in re.findall(r'<th scope="row"><span[^>]*><a href="([^"]*)"', html)]
        assert len(addresses) == 1
        assert addresses[0].startswith("/platform/logs/?")
        listed = client.get(addresses[0]).content.decode()
        assert listed.count("<tr data-row") == 2, by


def test_filters_narrow_everything_and_stay_in_the_address(cast, page):
    calls(cast, 3, request_model="one", customer_identifier="c")
    calls(cast, 5, request_model="two")
    _, text, html = page(cast.owner, model="one", range="30d", by="provider")
    assert "openai 3 100.0 %" in text
    assert "range=30d&amp;by=customer&amp;model=one" in html
    _, text, _ = page(cast.owner, model="one", customer="c", by="key")
    assert "3 100.0 %" in text


def test_ten_thousand_customers_are_twenty_and_the_others(cast, page):
    calls(cast, 2, customer_identifier="the first")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO traces_usage_part (organization_id, dimension, resolution, bucket, value, environment, n,"
            " duration_histogram, ttft_histogram) SELECT %s, 'customer', r, date_trunc(u, now(), 'UTC'), 'c ' || c,"
            " 'production', 1, '{}', '{}' FROM generate_series(1, 9999) c,"
            " (VALUES ('h', 'hour'), ('d', 'day')) x(r, u)",
            [cast.organization.pk],
        )
        for table, condition in (("traces_usage_customer", "TRUE"), ("traces_usage_part", "dimension = 'named'")):
            cursor.execute(f"DELETE FROM {table} WHERE organization_id = %s AND {condition}", [cast.organization.pk])
        for statement in CUSTOMERS_MIGRATION.fill(f"organization_id = {cast.organization.pk}"):
            cursor.execute(statement)
    _, text, html = page(cast.owner, by="customer")
    assert "9,980 other customers" in text
    assert len(html) < 400_000


@pytest.mark.parametrize(
    "params",
    [
        {"range": "century"},
        {"range": "custom", "from": "yesterday"},
        {"from": "2026-02-30"},
        {"from": "2026-11-20", "to": "2026-11-10"},
        {"from": "2020-01-01", "to": "2026-01-01"},
        {"from": "0001-01-01", "to": "0001-01-02"},
        {"model": "a\x00b"},
        {"customer": "x" * 2000},
    ],
)
def test_question_that_makes_no_sense_is_refused_in_words(cast, page, params):
    calls(cast)
    status, text, html = page(cast.owner, **params)
    assert status == 400
    assert "This cannot be shown" in text
    assert 'role="alert"' in html


def test_own_days_are_shown_and_days_to_come_are_left_out(cast, page):
    calls(cast, 4)
    today = datetime.now(UTC).date()
    status, text, _ = page(cast.owner, **{"from": str(today), "to": str(today + timedelta(days=3))})
    assert status == 200
    assert "gpt-4o-mini 4" in text
    assert page(cast.owner, range="custom")[0] == 200
    assert "No calls in this time" in page(cast.owner, **{"from": "2020-01-01", "to": "2020-03-01"})[1]


def test_unknown_key_shows_nothing_and_says_so(cast, page):
    calls(cast)
    _, text, _ = page(cast.owner, key="key_of_somebody_else")
    assert "Unknown key" in text
    assert "No calls in this time" in text


def test_text_of_strangers_is_only_text(cast, page):
    calls(cast, request_model=EVIL, customer_identifier=f"{EVIL}{'x' * 300}")
    for by in ("model", "customer"):
        _, _, html = page(cast.owner, by=by, model=EVIL)
        assert "<script>alert" not in html
        assert unescape(html).count(EVIL) >= 2
        assert " style=" not in html


def test_calls_without_usage_or_price_count_as_nothing(cast, page):
    calls(cast, 2, usage=None, cost_nano=None, customer_identifier="c")
    for by in ("model", "customer"):
        status, text, _ = page(cast.owner, by=by, customer="c")
        assert status == 200
        assert "2 100.0 %" in text


def test_unknown_provider_and_missing_customer_have_words(cast, page):
    calls(cast, 2, provider=None)
    assert "No provider was reached" in page(cast.owner, by="provider")[1]
    assert "2 calls named no customer" in page(cast.owner, by="customer")[1]


def test_number_of_queries_does_not_grow_with_what_is_shown(cast, client):
    client.force_login(cast.owner)

    def queries(by):
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert client.get(DASHBOARD, {"by": by}).status_code == 200
        return len(captured)

    calls(cast, request_model="one", customer_identifier="one")
    few = {by: queries(by) for by in ("model", "key", "customer")}
    for number in range(30):
        key = keys.issue(organization=cast.organization, name=f"k{number}", environment="production", created_by=None)
        calls(cast, request_model=f"m{number}", customer_identifier=f"c{number}", api_key_id=key.api_key.pk)
    assert {by: queries(by) for by in few} == few


def test_page_is_one_statement_of_figures(cast, client):
    calls(cast, 3, customer_identifier="c")
    client.force_login(cast.owner)
    for params in ({}, {"by": "customer"}, {"model": "gpt-4o-mini", "by": "key"}, {"customer": "c", "by": "customer"}):
        with CaptureQueriesContext(connection) as captured:
            assert client.get(DASHBOARD, params).status_code == 200
        asked = [each["sql"] for each in captured if "traces_usage" in each["sql"] or "traces_span" in each["sql"]]
        assert len(asked) <= 1 + ("customer" in params) * 2, params


def test_calls_that_no_figures_are_kept_of_are_added_up_after_the_page_came(cast, page, client):
    calls(cast, 3, request_model="one", customer_identifier="c")
    calls(cast, 2, request_model="two", customer_identifier="c")
    with connection.cursor() as cursor:  # as if there were thousands
        cursor.execute(
            "UPDATE traces_usage_part SET n = n + 5000 WHERE organization_id = %s AND dimension IN ('customer', 'all')",
            [cast.organization.pk],
        )
    for params in ({"customer": "c", "by": "model"}, {"model": "one", "by": "customer"}):
        status, text, html = page(cast.owner, range="30d", **params)
        assert status == 200
        assert "5,005 calls are read one by one" in text
        assert "Calls by" not in text
        [address] = set(re.findall(r'<a class="btn" data-variant="outline" href="([^"]*)">Add them up', html))
        assert f'hx-get="{DASHBOARD}{address}" hx-trigger="load"' in html
        whole = " ".join(
            unescape(re.sub(r"<[^>]*>", " ", client.get(DASHBOARD + unescape(address)).content.decode())).split()
        )
        assert ("one 3" if "customer" in params else "c 3") in whole
        assert "wait=1" not in client.get(DASHBOARD + unescape(address)).content.decode().partition("<main")[2]
    # Few calls are read at once.
    assert "read one by one" not in page(cast.owner, range="30d", customer="c", by="customer", environment="test")[1]


def test_change_says_which_way_and_whether_that_is_good():
    slow, fast = Figures(calls=10, errors=4), Figures(calls=10, errors=2)
    worse = tiles.tiles(slow, fast, "yesterday")[1].change
    assert (worse.icon, worse.tone, worse.text) == ("arrow-up", "bad", "100 % more often than yesterday")
    better = tiles.tiles(fast, slow, "yesterday")[1].change
    assert (better.icon, better.tone, better.text) == ("arrow-down", "good", "50 % less often than yesterday")
    assert tiles.tiles(fast, fast, "yesterday")[0].change.text == "the same as yesterday"
    assert tiles.tiles(fast, Figures(), "yesterday")[0].change.text == "none in yesterday"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10.0 k"), (123_456, "123 k"), (1_200_000, "1.2 M"), (3 * 10**9, "3.0 G")],
)
def test_large_counts_are_written_short(number, text):
    assert tiles.compact(number) == text
