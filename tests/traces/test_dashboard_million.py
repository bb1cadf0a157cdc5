"""The Dashboard of an organization with a million calls of 10,000 customers answers as quickly as any other."""

import time
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from django.db import connection

from traces import figures
from traces.store.partitions import attach_partitions

pytestmark = [pytest.mark.long, pytest.mark.django_db, pytest.mark.timeout(1200)]

CALLS = 1_000_000
P95_S = 0.060
MIGRATION = import_module("traces.migrations.0004_usage_by_day_and_part")
PAGES = (
    "?range=24h", "?range=7d", "?range=30d", "?range=30d&by=provider", "?range=30d&by=key",
    "?range=24h&by=customer", "?range=7d&by=customer", "?range=30d&by=customer", "?range=30d&model=model-1",
    "?range=30d&model=model-1&by=key", "?range=30d&provider=openai&by=model", "?range=30d&customer=customer+9000",
    "?range=30d&customer=customer+9000&by=customer",
)  # fmt: skip

SPANS = """
    INSERT INTO traces_span (organization_id, id, started_at, environment, api_key_id, trace_id, name, log_type,
        duration_us, ttft_us, status, http_status, stream, provider, request_model, paid_by, input_tokens,
        output_tokens, usage_source, cost_nano, charged_nano, customer_identifier)
    SELECT %s, gen_random_uuid(), now() - random() * interval '30 days',
        CASE WHEN random() < 0.9 THEN 'production' ELSE 'test' END, 1 + (random() * 7)::int, '\\x00',
        'chat.completions', 'chat', (1000 * exp(5 + 3 * random()))::bigint, (1000 * exp(4 + 2 * random()))::bigint,
        CASE WHEN random() < 0.97 THEN 'ok' ELSE 'error' END, 200, true,
        (ARRAY['openai', 'groq', 'mistral'])[1 + n %% 3], 'model-' || (n %% 20), 'credits', (random() * 5000)::int,
        (random() * 800)::int, 'exact', (random() * 20000000)::int, (random() * 20000000)::int,
        'customer ' || (10000 * power(random(), 3))::int
    FROM generate_series(1, %s) AS n
"""


@pytest.fixture
def million(cast):
    """A million calls of the last thirty days, rolled up as the migration does it."""
    organization_id = cast.organization.pk
    attach_partitions(now=datetime.now(UTC), days_back=31)
    only = f"organization_id = {organization_id}"
    with connection.cursor() as cursor:
        cursor.execute(SPANS, [organization_id, CALLS])
        cursor.execute(
            f"""
            INSERT INTO traces_usage_hour
                (organization_id, bucket, environment, provider, model, api_key_id, status, paid_by,
                {MIGRATION.MEASURES})
            SELECT organization_id, date_trunc('hour', started_at, 'UTC'), environment, provider, request_model,
                api_key_id, status, paid_by, {MIGRATION.COUNTED}
            FROM traces_span WHERE {only} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
            """
        )
        for statement in MIGRATION.fill(only):
            cursor.execute(statement)
        cursor.execute("ANALYZE")
    return cast


def test_a_million_calls_are_shown_within_sixty_milliseconds(million, client):
    client.force_login(million.owner)
    now = datetime.now(UTC)
    total = figures.totals(organization_id=million.organization.pk, start=now - timedelta(days=31), end=now)
    assert total.calls == CALLS
    slow = {}
    for address in PAGES:
        path = f"/platform/dashboard/{address}"
        client.get(path)
        taken = []
        for _ in range(12):
            began = time.perf_counter()
            answer = client.get(path, HTTP_HX_REQUEST="true")
            taken.append(time.perf_counter() - began)
            assert answer.status_code == 200
        # The best of what a shared machine can do stands for the median; the second worst of twelve for the p95.
        median, p95 = sorted(taken)[6], sorted(taken)[-2]
        print(
            f"{address:50} p50 {median * 1000:6.1f} ms  p95 {p95 * 1000:6.1f} ms  {len(answer.content) / 1024:5.0f} kB"
        )
        if p95 > P95_S:
            slow[address] = round(p95 * 1000)
    assert slow == {}
