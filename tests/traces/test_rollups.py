"""Every roll-up equals the sum of its spans, whatever is added, replaced, corrected or sent twice."""

import random
from datetime import timedelta
from importlib import import_module

import pytest
from django.db import connection, transaction

from billing.usage import Usage
from respan import ids
from tests.traces.test_store import assert_rollups_equal_spans, query, row, write
from traces import spans
from traces.store.postgres import Store
from traces.store.protocol import Charge
from traces.store.rollups import BOUNDS_US

pytestmark = pytest.mark.django_db

MIGRATION = import_module("traces.migrations.0004_usage_by_day_and_part")
CUSTOMERS_MIGRATION = import_module("traces.migrations.0007_customers_by_month")
HOUR_US = 3_600_000_000
SUMS = """
    sum(n), sum(errors), sum(input_tokens), sum(output_tokens), sum(cache_read_input_tokens),
    sum(cache_creation_input_tokens), sum(reasoning_output_tokens), sum(cost_nano), sum(charged_nano),
    sum(duration_us_sum), sum(cached_calls), sum(saved_nano)
"""
HISTOGRAMS = ", ".join(
    f"ARRAY[{', '.join(f'coalesce(sum({name}[{i}]), 0)' for i in range(1, 41))}]::int[]"
    for name in ("duration_histogram", "ttft_histogram")
)
DIMENSIONS = {"all": "''", "model": "model", "provider": "provider", "key": "api_key_id::text"}


def some_rows(organization_id: int, count: int, **values) -> list:
    luck = random.Random(count)  # noqa: S311  (the same calls each time)
    rows = []
    for number in range(count):
        started_us = values.get("started_us", 1_790_000_000_000_000) - luck.randrange(60) * HOUR_US
        rows.append(
            row(
                **{
                    "organization_id": organization_id,
                    "id": ids.new_uuid(started_us // 1000),
                    "started_us": started_us,
                    "request_model": f"m{number % 3}",
                    "provider": None if number % 7 == 0 else "openai",
                    "api_key_id": number % 2,
                    "status": ("ok", "error")[number % 5 == 0],
                    "usage": Usage(input_tokens=number, output_tokens=number * 3, cache_read_input_tokens=1),
                    "cost_nano": number * 1000,
                    "charged_nano": number,
                    "duration_us": number**3,
                    "ttft_us": None if number % 2 else number**2,
                    "customer_identifier": None if number % 4 == 0 else f"c{number % 5}",
                    "cached": number % 6 == 0,
                    "saved_nano": number * 700 if number % 6 == 0 else None,
                    **{name: value for name, value in values.items() if name != "started_us"},
                }
            )
        )
    return rows


def assert_all_rollups_agree(organization_id: int) -> None:
    """The hour equals the spans; the day and every dimension equal the hour; customers and those named the spans."""
    assert_rollups_equal_spans(organization_id)
    cross = "environment, provider, model, api_key_id, status, paid_by"
    by_day = f"""
        SELECT date_trunc('day', bucket, 'UTC') AS day, {cross}, {SUMS}, {HISTOGRAMS} FROM {{}}
        WHERE organization_id = %s GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
    """
    assert query(by_day.format("traces_usage_day"), organization_id) == query(
        by_day.format("traces_usage_hour"), organization_id
    )
    for resolution, table in (("h", "traces_usage_hour"), ("d", "traces_usage_day")):
        for dimension, value in DIMENSIONS.items():
            assert query(
                f"SELECT bucket, value, environment, {SUMS}, {HISTOGRAMS} FROM traces_usage_part WHERE dimension = %s"
                " AND resolution = %s AND organization_id = %s GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
                dimension,
                resolution,
                organization_id,
            ) == query(
                f"SELECT bucket, {value} AS value, environment, {SUMS}, {HISTOGRAMS} FROM {table}"
                " WHERE organization_id = %s GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
                organization_id,
            )
    for resolution, unit in (("h", "hour"), ("d", "day")):
        assert query(
            "SELECT bucket, value, environment, n, errors, input_tokens, cost_nano, charged_nano, duration_us_sum,"
            " (SELECT sum(x) FROM unnest(duration_histogram) x)"
            " FROM traces_usage_part WHERE dimension = 'customer' AND resolution = %s AND organization_id = %s"
            " ORDER BY 1, 2, 3",
            resolution,
            organization_id,
        ) == query(
            f"SELECT date_trunc('{unit}', started_at, 'UTC') AS bucket, customer_identifier, environment, count(*),"
            " count(*) FILTER (WHERE status <> 'ok'), coalesce(sum(input_tokens), 0), coalesce(sum(cost_nano), 0),"
            " sum(charged_nano), sum(duration_us), count(*) FROM traces_span WHERE organization_id = %s"
            " AND customer_identifier <> '' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
            organization_id,
        )

    assert_months_of_customers_equal_the_spans(organization_id)
    named = (
        "SELECT resolution, bucket, environment, {value}, {sums} FROM traces_usage_part"
        " WHERE dimension = %s AND organization_id = %s GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3"
    ).replace("{sums}", SUMS)
    assert query(named.format(value="value"), "named", organization_id) == query(
        named.format(value="''"), "customer", organization_id
    )


def assert_months_of_customers_equal_the_spans(organization_id: int) -> None:
    """Each slot is the number of calls from the first of the month to the end of its day; no row without a call."""
    until = ", ".join(
        f"count(*) FILTER (WHERE extract(day FROM started_at AT TIME ZONE 'UTC') <= {day})" for day in range(1, 32)
    )
    slots = ", ".join(f"coalesce(calls[{day}], 0)" for day in range(1, 32))
    assert query(
        f"SELECT bucket, customer, environment, {slots} FROM traces_usage_customer WHERE organization_id = %s"
        " ORDER BY 1, 2, 3",
        organization_id,
    ) == query(
        f"SELECT date_trunc('month', started_at, 'UTC'), customer_identifier, environment, {until} FROM traces_span"
        " WHERE organization_id = %s AND customer_identifier <> '' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        organization_id,
    )


def test_rollups_by_hour_day_and_dimension_agree(organization):
    rows = some_rows(organization.pk, 90)
    assert write(*rows[:50]) == []
    assert write(*rows[30:]) == []
    assert_all_rollups_agree(organization.pk)


def test_rows_that_come_again_are_not_counted_again(organization):
    rows = some_rows(organization.pk, 30)
    for _ in range(3):
        write(*rows)
    assert_all_rollups_agree(organization.pk)


def test_call_that_ended_after_all_leaves_no_trace_of_its_interruption(organization):
    late = some_rows(organization.pk, 6, customer_identifier="only here")
    lost = {
        "status": spans.INTERRUPTED,
        "usage": None,
        "request_model": "lost",
        "request_body": None,
        "response_body": None,
    }
    write(*[row(**{**_fields(each), **lost}) for each in late])
    assert write(*late) == []
    assert_all_rollups_agree(organization.pk)
    assert query("SELECT 1 FROM traces_usage_part WHERE organization_id = %s AND value = 'lost'", organization.pk) == []


def _fields(of) -> dict:
    return {name: getattr(of.record, name) for name in ("organization_id", "id", "started_us", "customer_identifier")}


def test_charge_that_came_out_differently_is_corrected_everywhere(organization):
    rows = some_rows(organization.pk, 12, customer_identifier="c")
    with transaction.atomic():
        Store().write(rows)
        Store().correct({rows[3].record.id: Charge(charged_nano=7, absorbed_nano=2)}, rows)
    assert_all_rollups_agree(organization.pk)


def test_text_of_strangers_is_a_value_like_any_other(organization):
    odd = ['"}, {"', "a\\b", "שלום", "<script>", "x" * 600, "{1,2}", "NULL", "a'b", "new\nline"]
    rows = [
        each for name in odd for each in some_rows(organization.pk, 2, customer_identifier=name, request_model=name)
    ]
    assert write(*rows) == []
    assert_all_rollups_agree(organization.pk)


def test_call_without_a_customer_or_with_an_empty_one_is_no_customers(organization):
    write(
        *some_rows(organization.pk, 3, customer_identifier=None), *some_rows(organization.pk, 4, customer_identifier="")
    )
    assert (
        query("SELECT 1 FROM traces_usage_part WHERE organization_id = %s AND dimension = 'customer'", organization.pk)
        == []
    )


def test_customers_of_two_months_and_of_calls_that_come_late_are_counted_by_day(organization):
    new_year_us = 1_798_761_600_000_000  # 2027-01-01
    months = (new_year_us + 30 * HOUR_US, new_year_us + 31 * 24 * HOUR_US, new_year_us - 5 * 24 * HOUR_US)
    for number, started_us in enumerate(months):
        assert write(*some_rows(organization.pk, 40 + number, started_us=started_us)) == []
        assert_all_rollups_agree(organization.pk)


def test_migration_fills_what_the_store_would_have_written(organization):
    # Of the response cache it knows nothing: no call of its time was answered from one.
    write(*some_rows(organization.pk, 90, cached=False, saved_nano=None))
    written = [everything(table, organization.pk) for table in FILLED]
    only = f"organization_id = {organization.pk}"
    with connection.cursor() as cursor:
        for table in FILLED:
            cursor.execute(f"DELETE FROM {table} WHERE {only}")
        for statement in (*MIGRATION.fill(only), *CUSTOMERS_MIGRATION.fill(only)):
            cursor.execute(statement)
    assert [everything(table, organization.pk) for table in FILLED] == written
    assert_all_rollups_agree(organization.pk)


# The tables that migrations fill, and their keys.
FILLED = {
    "traces_usage_day": "bucket, environment, provider, model, api_key_id, status, paid_by",
    "traces_usage_part": "dimension, resolution, bucket, value, environment",
    "traces_usage_customer": "bucket, customer, environment",
}


def everything(table: str, organization_id: int) -> list[tuple]:
    key = FILLED[table]
    if table == "traces_usage_customer":
        measures = ", ".join(f"sum(coalesce(calls[{day}], 0))" for day in range(1, 32))
    else:
        measures = f"{SUMS}, {HISTOGRAMS}"
    return query(
        f"SELECT {key}, {measures} FROM {table} WHERE organization_id = %s GROUP BY {key} ORDER BY {key}",
        organization_id,
    )


def test_bounds_are_where_histogram_buckets_begin():
    assert len(BOUNDS_US) == spans.HISTOGRAM_BUCKETS - 1
    for bucket, bound in enumerate(BOUNDS_US, 1):
        assert (spans.histogram_bucket(bound - 1), spans.histogram_bucket(bound)) == (bucket - 1, bucket)
    assert timedelta(microseconds=BOUNDS_US[-1]) > timedelta(minutes=10)
