"""The PostgreSQL store: every span once, roll-ups equal to the sum of the spans, no row that sinks its neighbours."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import zstandard
from django.db import connection, transaction

from billing.usage import Usage
from tests.traces.calls import finished, now_us
from traces import spans
from traces.spans import Attempt
from traces.store.postgres import Store, moment
from traces.store.protocol import Charge, Row

pytestmark = pytest.mark.django_db


AS_THEY_CAME = (
    "organization_id", "id", "environment", "api_key_id", "trace_id", "parent_span_id", "name", "log_type",
    "duration_us", "ttft_us", "status", "http_status", "stream", "provider", "request_model", "response_model",
    "credential", "paid_by", "rates_id", "finish_reason", "error_code", "error_message", "customer_identifier",
    "customer_name", "customer_email", "custom_identifier", "thread_identifier", "cached", "saved_nano", "fallback",
    "retries", "cache_key", "load_balance_group",
)  # fmt: skip


def row(*, cost_nano=13_500, charged_nano=0, source="exact", **values) -> Row:
    record = finished(**values)
    return Row(record=record, usage=record.usage, usage_source=source, cost_nano=cost_nano, charged_nano=charged_nano)


def write(*rows: Row) -> list:
    with transaction.atomic():
        return Store().write(rows)


def query(statement: str, *parameters) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall()


def span_of(id_: UUID) -> dict:
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM traces_span WHERE id = %s", [id_])
        (values,) = cursor.fetchall()
        return dict(zip([column.name for column in cursor.description], values, strict=True))


SUMS = """
    count(*), count(*) FILTER (WHERE status <> 'ok'), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
    coalesce(sum(cache_read_input_tokens), 0), coalesce(sum(cache_creation_input_tokens), 0),
    coalesce(sum(reasoning_output_tokens), 0), coalesce(sum(cost_nano), 0), sum(charged_nano), sum(duration_us),
    count(*) FILTER (WHERE cached), coalesce(sum(saved_nano), 0), count(duration_us), count(ttft_us)
"""
ROLLED_UP = """
    n, errors, input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens,
    reasoning_output_tokens, cost_nano, charged_nano, duration_us_sum, cached_calls, saved_nano,
    (SELECT coalesce(sum(x), 0) FROM unnest(duration_histogram) x),
    (SELECT coalesce(sum(x), 0) FROM unnest(ttft_histogram) x)
"""


def assert_rollups_equal_spans(organization_id: int) -> None:
    key = "environment, coalesce(provider, ''), request_model, api_key_id, status, paid_by"
    from_spans = query(
        f"SELECT date_trunc('hour', started_at), {key}, {SUMS} FROM traces_span WHERE organization_id = %s"
        " GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7",
        organization_id,
    )
    from_rollups = query(
        f"SELECT bucket, environment, provider, model, api_key_id, status, paid_by, {ROLLED_UP} FROM traces_usage_hour"
        " WHERE organization_id = %s ORDER BY 1, 2, 3, 4, 5, 6, 7",
        organization_id,
    )
    assert from_spans == from_rollups


@pytest.fixture
def tenant(organization) -> int:
    return organization.pk


def test_every_column_is_stored(tenant):
    call = row(
        organization_id=tenant,
        parent_span_id=b"\x01" * 8,
        trace_id=b"\x02" * 16,
        usage=Usage(
            input_tokens=11, output_tokens=12, cache_read_input_tokens=3, cache_creation_input_tokens=4,
            reasoning_output_tokens=5,
        ),
        charged_nano=9,
        stream=True,
        credential="cred_1",
        rates_id=77,
        error_code="x",
        error_message="went wrong",
        customer_identifier="c",
        customer_name="Zoë",
        customer_email="z@example.test",
        custom_identifier="ci",
        thread_identifier="t",
        warnings=["careful"],
        environment="test",
        cached=True,
        saved_nano=42,
        fallback=2,
        retries=1,
        limit="requests_per_minute",
        cache_key="abc",
        cache_log_id=UUID(int=5),
        load_balance_group="fast",
    )  # fmt: skip
    assert write(call) == []
    span, record = span_of(call.record.id), call.record
    for name in AS_THEY_CAME:
        assert span[name] == getattr(record, name), name
    assert span["started_at"] == moment(record.started_us)
    assert [span[f"{name}_tokens"] for name in ("input", "output", "cache_read_input", "reasoning_output")] == [
        11,
        12,
        3,
        5,
    ]
    assert (span["cost_nano"], span["charged_nano"], span["absorbed_nano"]) == (13_500, 9, 0)
    assert (span["input_preview"], span["output_preview"], span["has_body"]) == ("Hello", "Hi there", True)
    assert (span["limit_name"], span["cache_log_id"]) == ("requests_per_minute", UUID(int=5))
    assert span["metadata"] == '{"team": "red"}'
    assert span["warnings"] == '["careful"]'
    assert '"provider": "openai"' in span["attempts"]


def test_attempts_are_stored_as_child_spans_with_readable_ids(tenant):
    first = Attempt(
        provider="openai", model="m", started_us=1, duration_us=2, span_id=b"\xab" * 8, status=429,
        error="upstream_error", message="slow down", credential_name="Main", next="fallback: 429",
    )  # fmt: skip
    passed_over = Attempt(provider="groq", model="n", started_us=3, duration_us=0, skipped=True, error="too long")
    call = row(organization_id=tenant, attempts=[first, passed_over], fallback=10**6, retries=-1)
    assert write(call) == []
    span = span_of(call.record.id)
    assert json.loads(span["attempts"]) == [
        {
            "provider": "openai", "model": "m", "started_us": 1, "duration_us": 2, "span_id": "ab" * 8, "status": 429,
            "error": "upstream_error", "message": "slow down", "credential_name": "Main", "next": "fallback: 429",
        },
        {"provider": "groq", "model": "n", "started_us": 3, "duration_us": 0, "skipped": True, "error": "too long"},
    ]  # fmt: skip
    assert (span["fallback"], span["retries"]) == (32_767, 0), "no number is a reason to lose a call"


def test_record_of_the_version_before_is_stored_without_decisions(tenant):
    call = row(organization_id=tenant)
    assert write(call) == []
    span = span_of(call.record.id)
    assert (span["cached"], span["saved_nano"], span["fallback"], span["retries"]) == (False, None, 0, 0)
    assert (span["limit_name"], span["cache_key"], span["cache_log_id"]) == (None, None, None)


def test_bodies_are_stored_compressed_and_apart(tenant):
    call = row(organization_id=tenant, request_truncated=True)
    bare = row(organization_id=tenant, request_body=None, response_body=None)
    write(call, bare)
    ((request, response, cut_request, cut_response),) = query(
        "SELECT request, response, request_truncated, response_truncated FROM traces_body WHERE id = %s", call.record.id
    )
    assert zstandard.decompress(bytes(request)) == call.record.request_body
    assert zstandard.decompress(bytes(response)) == call.record.response_body
    assert (cut_request, cut_response) == (True, False)
    assert query("SELECT 1 FROM traces_body WHERE id = %s", bare.record.id) == []
    assert not span_of(bare.record.id)["has_body"]


def test_call_without_a_trace_is_the_root_of_its_own(tenant):
    call = row(organization_id=tenant, trace_id=None)
    write(call)
    assert bytes(span_of(call.record.id)["trace_id"]) == call.record.id.bytes


def test_rollups_equal_the_sum_of_the_spans(tenant):
    hour_us = 3_600_000_000
    rows = [
        row(
            organization_id=tenant,
            started_us=now_us() - (number % 3) * hour_us,
            provider=None if number % 7 == 0 else "openai",
            status=("ok", "error", "aborted")[number % 3],
            api_key_id=number % 2,
            usage=None if number % 5 == 0 else Usage(input_tokens=number, output_tokens=number * 3),
            cost_nano=None if number % 4 == 0 else number * 1_000,
            charged_nano=number,
            duration_us=number**3,
            ttft_us=None if number % 2 else number,
        )
        for number in range(90)
    ]
    write(*rows[:40])
    write(*rows[30:])
    assert query("SELECT count(*) FROM traces_span WHERE organization_id = %s", tenant) == [(90,)]
    assert_rollups_equal_spans(tenant)


def test_same_rows_again_change_nothing(tenant):
    rows = [row(organization_id=tenant) for _ in range(5)]
    write(*rows)
    assert write(*rows) == []
    assert query("SELECT count(*) FROM traces_span WHERE organization_id = %s", tenant) == [(5,)]
    assert_rollups_equal_spans(tenant)


def test_same_call_of_two_organizations_is_two_spans(tenant, other_organization):
    call = row(organization_id=tenant)
    write(call)
    write(row(organization_id=other_organization.pk, id=call.record.id, started_us=call.record.started_us))
    assert query("SELECT count(*) FROM traces_span WHERE id = %s", call.record.id) == [(2,)]


def test_late_finished_call_supersedes_its_interrupted_span(tenant):
    interrupted = row(
        organization_id=tenant, status=spans.INTERRUPTED, usage=None, cost_nano=0, request_body=None, response_body=None
    )
    write(interrupted, row(organization_id=tenant))
    late = row(organization_id=tenant, id=interrupted.record.id, started_us=interrupted.record.started_us)
    write(late, row(organization_id=tenant))
    assert span_of(late.record.id)["status"] == "ok"
    assert query("SELECT count(*) FROM traces_body WHERE id = %s", late.record.id) == [(1,)]
    assert query("SELECT count(*) FROM traces_span WHERE organization_id = %s", tenant) == [(3,)]
    assert_rollups_equal_spans(tenant)
    assert query("SELECT 1 FROM traces_usage_hour WHERE organization_id = %s AND status = 'interrupted'", tenant) == []


def test_interrupted_never_supersedes_a_finished_call(tenant):
    call = row(organization_id=tenant)
    write(call)
    late = row(
        organization_id=tenant,
        id=call.record.id,
        started_us=call.record.started_us,
        status=spans.INTERRUPTED,
        usage=None,
    )
    write(late)
    assert span_of(call.record.id)["status"] == "ok"
    assert_rollups_equal_spans(tenant)


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param({"http_status": 70_000}, id="smallint"),
        pytest.param({"organization_id": 2**70}, id="bigint"),
        pytest.param({"started_us": 10**18}, id="beyond the calendar"),
        pytest.param({"api_key_id": None}, id="null"),
    ],
)
def test_row_the_database_refuses_does_not_sink_its_neighbours(tenant, poison):
    good = [row(organization_id=tenant) for _ in range(9)]
    bad = row(**{"organization_id": tenant, **poison})
    refused = write(*good[:6], bad, *good[6:])
    assert [one.row for one in refused] == [bad]
    assert refused[0].reason
    assert query("SELECT count(*) FROM traces_span WHERE organization_id = %s", tenant) == [(9,)]
    assert query("SELECT 1 FROM traces_body WHERE id = %s", bad.record.id) == []
    assert_rollups_equal_spans(tenant)


def test_refused_row_leaves_the_interrupted_span_it_would_have_replaced(tenant):
    interrupted = row(organization_id=tenant, status=spans.INTERRUPTED, usage=None)
    write(interrupted)
    bad = row(
        organization_id=tenant, id=interrupted.record.id, started_us=interrupted.record.started_us, http_status=70_000
    )
    (refused,) = write(bad, row(organization_id=tenant))
    assert refused.row is bad
    assert span_of(interrupted.record.id)["status"] == spans.INTERRUPTED
    assert_rollups_equal_spans(tenant)


def test_texts_postgresql_cannot_hold_are_mended(tenant):
    call = row(
        organization_id=tenant,
        customer_identifier="a\0b" + "x" * 5_000,
        error_message="m" * 9_000,
        metadata={"k\0": "v\0", "s": "\U0001f600" * 3_000},
        warnings=["\0"],
        request_body=b'{"messages":[{"role":"user","content":"\\u0000nul"}]}',
        usage=Usage(input_tokens=1, output_tokens=1),
    )
    assert write(call) == []
    span = span_of(call.record.id)
    assert span["customer_identifier"] == "a\ufffdb" + "x" * 497
    assert len(span["error_message"]) == 4_000
    assert span["input_preview"] == "\ufffdnul"
    assert_rollups_equal_spans(tenant)


def test_charge_that_came_out_differently_is_corrected(tenant):
    call, other = row(organization_id=tenant, charged_nano=13_500), row(organization_id=tenant, charged_nano=13_500)
    with transaction.atomic():
        Store().write([call, other])
        Store().correct({call.record.id: Charge(charged_nano=10_000, absorbed_nano=3_500)}, [call, other])
    span = span_of(call.record.id)
    assert (span["charged_nano"], span["absorbed_nano"]) == (10_000, 3_500)
    assert span_of(other.record.id)["charged_nano"] == 13_500
    assert_rollups_equal_spans(tenant)


def test_call_of_a_day_without_partition_is_kept(tenant):
    long_ago = datetime.now(UTC) - timedelta(days=20)
    call = row(organization_id=tenant, started_us=int(long_ago.timestamp() * 1_000_000))
    assert write(call) == []
    ((table,),) = query("SELECT tableoid::regclass::text FROM traces_span WHERE id = %s", call.record.id)
    assert table == "traces_span_default"
