"""An organization with a million calls: every part of the Logs page stays quick (run by `make test-long`).

The spans are made by SQL, 30 days of them in their day partitions, with the roll-ups that loading would have written.
Times are of the whole page as the server makes it, through Django's test client.
"""

import statistics
import time
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from django.db import connection

from respan import ids
from tests.conftest import make_organization, make_user
from traces import facets
from traces.store.partitions import attach_partitions

fill = import_module("traces.migrations.0004_usage_by_day_and_part").fill

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CALLS = 1_000_000
DAYS = 30
ROUNDS = 25
# Of the server's time; the budget for a page.
BUDGET_MS = 60
# What reads more than a page of an index: bounded by its sample and the statement's time limit, not by the budget.
BOUNDED_MS = 400

_SPANS = """
INSERT INTO traces_span (organization_id, id, started_at, environment, api_key_id, trace_id, name, log_type,
    duration_us, ttft_us, status, http_status, stream, provider, request_model, response_model, paid_by,
    input_tokens, output_tokens, usage_source, cost_nano, charged_nano, finish_reason, error_code, error_message,
    customer_identifier, metadata, input_preview, output_preview)
SELECT %(organization)s,
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3)
        || '8' || substr(md5(n::text), 4, 15))::uuid,
    at, CASE WHEN n %% 23 %% 7 = 6 THEN 'test' ELSE 'production' END, n %% 23 %% 7 + 1, decode(md5(n::text), 'hex'),
    'chat.completions', 'chat', 200000 + n %% 3000000, 90000, CASE WHEN n %% 50 = 0 THEN 'error' ELSE 'ok' END,
    CASE WHEN n %% 50 = 0 THEN 502 ELSE 200 END, false, (ARRAY['openai', 'anthropic', 'groq'])[n %% 23 %% 3 + 1],
    'model-' || n %% 23, 'model-' || n %% 23, 'credits', 800, 120, 'exact', 13500, 13500, 'stop', NULL, NULL,
    'customer-' || n %% 5000, '{"plan": "pro"}', 'What is the answer to question ' || n, 'It is ' || n
FROM (SELECT n, %(now)s - n * (interval '30 days' / %(calls)s) AS at FROM generate_series(1, %(calls)s) AS n) AS calls
"""
_ROLL_UPS = """
INSERT INTO traces_usage_hour (organization_id, bucket, environment, provider, model, api_key_id, status, paid_by,
    n, errors, duration_histogram, ttft_histogram)
SELECT organization_id, date_trunc('hour', started_at, 'UTC'), environment, coalesce(provider, ''), request_model,
    api_key_id, status, paid_by, count(*), count(*) FILTER (WHERE status <> 'ok'), array_fill(0, array[40]),
    array_fill(0, array[40])
FROM traces_span WHERE organization_id = %s GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""


@pytest.fixture(scope="module")
def crowded(django_db_setup, django_db_blocker):
    """The owner of an organization with a million calls."""
    now = datetime.now(UTC)
    with django_db_blocker.unblock():
        attach_partitions(now=now, days_back=DAYS)
        owner = make_user("crowded")
        organization = make_organization("Crowded", owner=owner)
        with connection.cursor() as cursor:
            cursor.execute(_SPANS, {"organization": organization.pk, "now": now, "calls": CALLS})
            cursor.execute(_ROLL_UPS, [organization.pk])
            for statement in fill(f"organization_id = {organization.pk}"):
                if "'customer'" not in statement:  # nothing here reads customers from a roll-up
                    cursor.execute(statement)
            cursor.execute("ANALYZE traces_span, traces_usage_hour, traces_usage_day, traces_usage_part")
    return owner


@pytest.mark.django_db(transaction=True)
def test_a_million_calls_leave_the_logs_page_quick(crowded, client):
    client.force_login(crowded)
    list_ = "/platform/logs/"
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM traces_span WHERE organization_id = %s LIMIT 1", [_organization(crowded)])
        [span_id] = cursor.fetchone()
    deep = client.get(f"{list_}?range=30d&to={datetime.now(UTC) - timedelta(days=20):%Y-%m-%dT%H:%M:%S}")
    after = deep.content.decode().partition('rel="next" href="?')[2].partition('"')[0].replace("&amp;", "&")
    within = {
        "the newest calls": list_,
        "thirty days": f"{list_}?range=30d",
        "a page far back": f"{list_}?{after}",
        "failed calls": f"{list_}?status=failed&range=30d",
        "a model": f"{list_}?model=model-7&range=30d",
        "a model and a key, several values": f"{list_}?model=model-7&model=model-9&status=error&range=7d",
        "the last hour": f"{list_}?range=1h",
        "one log": f"{list_}{ids.encode('log', span_id)}/",
        "models to choose from": f"{list_}by/model/?range=30d",
        "models found by typing": f"{list_}by/model/?range=30d&find=del-1",
        "states to choose from": f"{list_}by/status/?range=30d",
    }
    bounded = {
        "a customer": f"{list_}?customer=customer-77&range=30d",
        "customers to choose from": f"{list_}by/customer/?range=30d",
        "a word of the day": f"{list_}?text=question%20777&range=24h",
        "models of a customer": f"{list_}by/model/?customer=customer-77&range=30d",
    }
    slow = []
    print(f"\n{'':40}{'p50':>8}{'p95':>8}  ms")
    for pages, budget in ((within, BUDGET_MS), (bounded, BOUNDED_MS)):
        for name, path in pages.items():
            p50, p95 = _measure(client, path)
            print(f"{name:40}{p50:8.1f}{p95:8.1f}")
            slow += [f"{name}: {p95:.0f} ms"] if p95 > budget else []
    assert not slow


def _organization(owner):
    return owner.organizations.get().pk


def _measure(client, path):
    """Return the median and the 95th percentile of a page, in ms."""
    took = []
    for number in range(ROUNDS + 3):
        started = time.perf_counter()
        answer = client.get(path)
        if number >= 3:
            took.append((time.perf_counter() - started) * 1000)
        assert answer.status_code == 200, path
        assert len(answer.content) < 200_000
    return statistics.median(took), statistics.quantiles(took, n=20)[-1]


@pytest.mark.django_db(transaction=True)
def test_the_counts_of_a_million_are_exact_or_say_that_they_are_a_sample(crowded, client):
    client.force_login(crowded)
    html = client.get("/platform/logs/by/status/?range=30d").content.decode()
    assert "Counted in the newest" not in html
    html = client.get("/platform/logs/by/customer/?range=30d").content.decode()
    assert f"Counted in the newest {facets.SAMPLE:,} calls" in html
