"""Decisions where they are read: marks and filters of the list, the drawer, facets, the API, the tile of savings."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from django.db import connection, transaction

from accounts import keys
from respan import ids
from tests.traces.rows import insert_call, insert_span
from tests.traces.test_store import row
from traces import decisions, facets, query, tiles
from traces.facets import FACETS
from traces.figures import Figures
from traces.query import SpanQuery
from traces.store.postgres import Store

pytestmark = pytest.mark.django_db

LOGS = "/platform/logs/"
REQUEST = {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello"}]}
RESPONSE = {"choices": [{"message": {"role": "assistant", "content": "Hi"}}]}


@pytest.fixture
def reader(client, cast):
    client.force_login(cast.member)
    return client


@pytest.fixture
def span(cast):
    def insert(**values):
        return insert_span(organization_id=cast.organization.pk, **values)

    return insert


@pytest.fixture
def calls(span):
    """One call of each kind, named by its input."""
    return {
        "plain": span(input_preview="plain"),
        "cache": span(input_preview="cache", cached=True, saved_nano=1_500_000, cost_nano=0, charged_nano=0),
        "fallback": span(input_preview="fallback", fallback=2, retries=1, attempts=[{"reason": "fallback"}]),
        "retried": span(input_preview="retried", retries=1, attempts=[{"reason": "retry"}]),
        "both": span(input_preview="both", fallback=1, retries=2, attempts=[{"reason": "retry"}]),
        "limited": span(input_preview="limited", status="error", http_status=429, limit_name="60 requests a minute"),
    }


def text_of(html):
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def inputs(html):
    """Return the input column of the list, its marks first, newest first."""
    return [text_of(cell) for cell in re.findall(r'<td class="input-words">(.*?)</td>', html, re.DOTALL)]


# --- The list ---------------------------------------------------------------------------------------------------------


def test_rows_are_marked_with_a_word_and_an_icon(calls, reader):
    html = reader.get(LOGS).content.decode()
    assert inputs(html) == [
        "limited limited", "fallback retried both", "retried retried", "fallback fallback", "cache cache", "plain",
    ]  # fmt: skip
    [cell] = [
        each
        for each in re.findall(r'<td class="input-words">(.*?)</td>', html, re.DOTALL)
        if "zap" in each or ">cache<" in each
    ]
    assert 'data-state="cached"' in cell
    assert '<svg class="icon"' in cell


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("decision=cache", ["cache cache"]),
        ("decision=fallback", ["fallback retried both", "fallback fallback"]),
        ("decision=retried", ["fallback retried both", "retried retried"]),
        ("decision=limited", ["limited limited"]),
        ("decision=cache&decision=limited", ["limited limited", "cache cache"]),
        ("decision=fallback&status=error", []),
    ],
)
def test_the_list_is_narrowed_by_decisions(calls, reader, asked, found):
    assert inputs(reader.get(f"{LOGS}?{asked}").content.decode()) == found


def test_a_decision_in_force_stands_above_the_list_in_words(calls, reader):
    html = reader.get(f"{LOGS}?decision=cache").content.decode()
    assert [text_of(each) for each in re.findall(r'<li class="token">(.*?)</li>', html)] == ["Decision Cache hit"]


def test_a_decision_that_there_is_not_is_explained(calls, reader):
    answer = reader.get(f"{LOGS}?decision=luck")
    assert answer.status_code == 400
    assert "“decision” is one of cache, fallback, retried, limited." in answer.content.decode()


def test_the_facet_counts_each_decision_and_offers_all(calls, span, reader, other_organization):
    insert_span(organization_id=other_organization.pk, cached=True)
    span(cached=True, environment="test")
    html = reader.get(f"{LOGS}by/decision/").content.decode()
    shown = [text_of(each) for each in re.findall(r"<li><input[^>]*>(.*?)</li>", html, re.DOTALL)]
    assert sorted(shown) == ["Cache hit 2", "Fallback 2", "Limited 1", "Retried 2"]
    narrowed = reader.get(f"{LOGS}by/decision/?environment=test").content.decode()
    assert "Fallback 0" in text_of(narrowed)


def test_typing_in_the_facet_of_decisions_never_reaches_a_column(calls, reader):
    assert reader.get(f"{LOGS}by/decision/?find=cache").status_code == 200


def test_the_index_of_decided_calls_answers_each_decision(cast):
    """The list of rare calls among many must not read them all."""
    now = datetime.now(UTC)
    for name in query.DECISIONS:
        conditions = query.parse_conditions([("decision", "in", [name], "AND")], api_keys={})
        where = query.where(SpanQuery(since=now - timedelta(hours=1), until=now, conditions=conditions))
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("SET LOCAL enable_bitmapscan = off")
            # Without rows any index is as good; what counts is that the predicate is understood.
            cursor.execute(
                f"EXPLAIN SELECT id FROM traces_span_default WHERE organization_id = 1 AND {where.sql}"
                " ORDER BY started_at DESC, id DESC LIMIT 50",
                where.params,
            )
            plan = "\n".join(line for (line,) in cursor.fetchall())
            cursor.execute("SET LOCAL enable_seqscan = on")
            cursor.execute("SET LOCAL enable_bitmapscan = on")
        assert "traces_span_default_decided" in plan, (name, plan)


# --- The drawer -------------------------------------------------------------------------------------------------------


def answered_by_a_fallback(cast, **values):
    started_at = datetime.now(UTC) - timedelta(minutes=1)
    start_us = int(started_at.timestamp()) * 1_000_000 + started_at.microsecond
    attempts = [
        {"provider": "openai", "model": "gpt-5", "started_us": start_us + 1_000, "duration_us": 300_000, "status": 429,
         "error": "upstream_error", "message": "Slow down <b>please</b>", "next": "fallback: 429", "span_id": "ab" * 8,
         "credential": "cred_1", "credential_name": "Main & only"},
        {"provider": "groq", "model": "tiny", "started_us": start_us + 301_000, "duration_us": 0, "skipped": True,
         "reason": "fallback", "error": "its context is too short"},
        {"provider": "anthropic", "model": "claude", "started_us": start_us + 1_200_000, "duration_us": 700_000,
         "status": 200, "reason": "fallback", "span_id": "cd" * 8},
    ]  # fmt: skip
    return insert_call(
        organization_id=cast.organization.pk, request=REQUEST, response=RESPONSE, started_at=started_at,
        duration_us=1_900_000, attempts=attempts, fallback=2, retries=1, **values,
    )  # fmt: skip


def test_the_drawer_says_how_a_call_was_answered_and_why(cast, reader):
    span_id = answered_by_a_fallback(cast)
    html = reader.get(f"{LOGS}{ids.encode('log', span_id)}/", headers={"HX-Request": "true"}).content.decode()
    text = text_of(html)
    for shown in (
        "Answered by fallback 2 after 429, 1.2 s",
        "First try abab…abab openai gpt-5 with the key Main & only failed 429 upstream_error Slow down <b>please</b>",
        "fallback: 429 after 1.0 ms 300 ms 0 / 0, $0.00",
        "Passed over", "groq tiny passed over its context is too short not asked –",
        "Fallback cdcd…cdcd anthropic claude answered 200 after 1.20 s 700 ms 10 / 20 $0.0000135",
    ):  # fmt: skip
        assert shown in text, shown
    assert "<b>please" not in html


def test_a_hit_shows_what_it_saved_and_leads_to_the_call_that_filled_it(cast, reader):
    filled = insert_span(organization_id=cast.organization.pk)
    hit = insert_call(
        organization_id=cast.organization.pk, request=REQUEST, response=RESPONSE, cached=True, saved_nano=1_230_000,
        cache_log_id=filled, cache_key="k" * 64, cost_nano=0, charged_nano=0, provider=None, paid_by="free",
    )  # fmt: skip
    html = reader.get(f"{LOGS}{ids.encode('log', hit)}/").content.decode()
    text = text_of(html)
    assert "Answered from the cache, $0.00123 saved The call whose answer this was" in text
    assert f'href="{LOGS}{ids.encode("log", filled)}/"' in html
    assert "Saved by the cache $0.00123 = 1,230,000 nano-dollars" in text
    assert "no provider was asked, and nothing was charged" in text


def test_a_refusal_names_its_limit_as_text(cast, reader):
    span_id = insert_span(
        organization_id=cast.organization.pk, status="error", http_status=429, limit_name="<i>60</i> a minute",
        provider=None, paid_by="nobody",
    )  # fmt: skip
    html = reader.get(f"{LOGS}{ids.encode('log', span_id)}/").content.decode()
    assert "Refused by the limit <i>60</i> a minute" in text_of(html).replace("&lt;", "<")
    assert "<i>60" not in html


# --- The API ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(client, cast):
    issued = keys.issue(organization=cast.organization, name="Backend", environment="production", created_by=None)

    def send(path, **filters):
        asked = {"filters": filters} if filters else {}
        headers = {"Authorization": f"Bearer {issued.secret}"}
        if path.endswith("list/"):
            answer = client.post(path, json.dumps(asked), content_type="application/json", headers=headers)
        else:
            answer = client.get(path, headers=headers)
        return answer.status_code, answer.json()

    return send


def test_attempts_are_child_spans_of_the_call(cast, api):
    span_id = answered_by_a_fallback(cast, credential="cred_2", load_balance_group="fast")
    status, log = api(f"/api/request-logs/{ids.encode('log', span_id)}/")
    assert status == 200
    first, skipped, last = log["attempts"]
    assert log["span_unique_id"] == decisions.span_id(span_id)
    assert {each["parent_span_id"] for each in log["attempts"]} == {log["span_unique_id"]}
    assert (first["span_id"], last["span_id"]) == ("ab" * 8, "cd" * 8)
    assert len({each["span_id"] for each in log["attempts"]}) == 3
    assert (first["status"], first["error"], first["next"]) == (429, "upstream_error", "fallback: 429")
    assert (first["credential_name"], first["latency"]) == ("Main & only", 0.3)
    assert (skipped["skipped"], skipped["error"]) == (True, "its context is too short")
    assert [each["prompt_tokens"] for each in log["attempts"]] == [0, 0, 10]
    assert [each["cost"] for each in log["attempts"]] == [0, 0, log["cost"]]
    assert log["decision"] == "answered by fallback 2 after 429, 1.2 s"
    assert (log["fallback"], log["retries"], log["deployment_id"]) == (2, 1, "cred_2")
    assert log["load_balance_group_id"] == "fast"
    assert log["limit_info"] is None
    assert (log["cached"], log["cache_hit"], log["cache_bit"], log["cache_miss_bit"]) == (False, False, 0, 0)


def test_a_hit_and_a_miss_have_respans_members(cast, api):
    filled = insert_span(organization_id=cast.organization.pk, cache_key="k1")
    hit = insert_span(
        organization_id=cast.organization.pk, cache_key="k1", cached=True, saved_nano=1_500, cache_log_id=filled
    )
    _, log = api(f"/api/request-logs/{ids.encode('log', hit)}/")
    assert (log["cached"], log["cache_hit"], log["cache_bit"], log["cache_miss_bit"]) == (True, True, 1, 0)
    assert (log["cache_key"], log["saved"], log["saved_nano"]) == ("k1", 0.0000015, "1500")
    assert log["cache_log_id"] == ids.encode("log", filled)
    assert log["decision"] == "answered from the cache, $0.0000015 saved"
    _, missed = api(f"/api/request-logs/{ids.encode('log', filled)}/")
    assert (missed["cached"], missed["cache_bit"], missed["cache_miss_bit"]) == (False, 0, 1)


def test_limit_info_is_told_of_one_log_only(cast, api):
    refused = insert_span(
        organization_id=cast.organization.pk, status="error", http_status=429, limit_name="60 requests a minute"
    )
    _, log = api(f"/api/request-logs/{ids.encode('log', refused)}/")
    assert log["limit_info"] == {
        "is_allowed": False,
        "limits": [{"name": "60 requests a minute", "is_within_limit": False}],
    }
    assert (log["decision"], log["status_code"]) == ("refused by the limit 60 requests a minute", 429)
    _, listed = api("/api/request-logs/list/")
    assert "limit_info" not in listed["results"][0]
    assert listed["results"][0]["limit_name"] == "60 requests a minute"


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"cached": {"operator": "", "value": [True]}}, {"cache"}),
        ({"cache_hit": {"operator": "", "value": ["true"]}}, {"cache"}),
        ({"fallback": {"operator": "gte", "value": [1]}}, {"fallback", "both"}),
        ({"fallback": {"operator": "", "value": [2]}}, {"fallback"}),
        ({"retries": {"operator": "gt", "value": [1]}}, {"both"}),
        ({"decision": {"operator": "in", "value": ["retried", "cache"]}}, {"cache", "retried", "both"}),
        ({"decision": {"operator": "not_in", "value": ["fallback", "retried", "cache"]}}, {"plain", "limited"}),
        ({"limit_name": {"operator": "contains", "value": ["requests"]}}, {"limited"}),
        ({"saved": {"operator": "gte", "value": [0.001]}}, {"cache"}),
    ],
)
def test_logs_are_found_by_what_was_decided(calls, api, filters, found):
    status, body = api("/api/request-logs/list/", **filters)
    names = {span_id: name for name, span_id in calls.items()}
    assert status == 200
    assert {names[query.parse_log_id(each["id"])] for each in body["results"]} == found


@pytest.mark.parametrize("value", ["luck", "", None, 3])
def test_a_decision_that_there_is_not_is_a_400_that_names_it(calls, api, value):
    status, body = api("/api/request-logs/list/", decision={"operator": "in", "value": [value]})
    assert (status, body["param"]) == (400, "decision")


# --- Savings ----------------------------------------------------------------------------------------------------------


def test_dashboard_and_home_tell_what_the_cache_saved(cast, reader):
    organization = cast.organization
    hits = [
        row(organization_id=organization.pk, cached=True, saved_nano=2_000_000, cost_nano=0, cache_log_id=uuid.uuid4())
        for _ in range(3)
    ]
    with transaction.atomic():
        assert Store().write([*hits, row(organization_id=organization.pk)]) == []
    for page in ("/platform/dashboard/?range=24h", "/platform/"):
        text = text_of(reader.get(page).content.decode())
        assert re.search(r"Cache savings \$0\.006(00)? 75(\.0)? ?% of calls were hits", text), page


def test_the_tile_says_when_nothing_was_saved():
    tile = next(each for each in tiles.tiles(Figures(calls=3), Figures(), "yesterday") if each.name == "Cache savings")
    assert (tile.figure, tile.note) == ("$0", "No cache hits")


def test_every_decision_is_offered_as_a_facet():
    assert set(FACETS["decision"].choices) == set(query.DECISIONS)
    found = facets.FACETS["decision"]
    assert found.field in query.FIELDS
