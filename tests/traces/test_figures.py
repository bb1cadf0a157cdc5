"""What figures say equals what SQL over the spans says; percentiles lie in the bucket of the exact ones."""

import random
from datetime import UTC, datetime, timedelta
from itertools import product
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, transaction

from billing.usage import Usage
from respan import ids
from tests.traces.test_store import query, row
from traces import figures, seeding
from traces.figures import Figures, Filters, Histogram, Scope
from traces.store.postgres import Store
from traces.store.removal import remove_spans

pytestmark = pytest.mark.django_db

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
# Histogram buckets are this much wider than the one before: no percentile is further off.
FACTOR = 2**0.5


def some_rows(organization_id: int, count: int, *, days: int, seed: int, metadata=None) -> list:
    """Make random calls of the last days, a few of them exactly at the edges of hours and days."""
    luck = random.Random(seed)  # noqa: S311  (the same calls each time)
    rows = []
    for number in range(count):
        at = NOON - timedelta(seconds=luck.randrange(days * 86_400))
        if number % 40 == 0:
            at = at.replace(hour=at.hour if number % 80 else 0, minute=0, second=0, microsecond=0)
        started_us = int(at.timestamp() * 1_000_000)
        cost = None if number % 11 == 0 else luck.randrange(10**7)
        rows.append(
            row(
                organization_id=organization_id,
                id=ids.new_uuid(started_us // 1000),
                started_us=started_us,
                provider=None if number % 13 == 0 else luck.choice(["openai", "groq"]),
                request_model=f"model-{min(luck.randrange(9), luck.randrange(9))}",
                api_key_id=luck.randrange(1, 4),
                environment=luck.choice(["production", "production", "test"]),
                status=luck.choice(["ok"] * 9 + ["error", "aborted"]),
                paid_by=luck.choice(["credits", "own_key"]),
                usage=None
                if number % 17 == 0
                else Usage(input_tokens=luck.randrange(100, 900), output_tokens=7, cache_read_input_tokens=50),
                cost_nano=cost,
                charged_nano=cost or 0 if number % 2 else 0,
                duration_us=int(luck.lognormvariate(13, 1)),
                ttft_us=int(luck.lognormvariate(12, 1)) if number % 3 else None,
                customer_identifier=None
                if number % 5 == 0
                else f"customer {min(luck.randrange(40), luck.randrange(40))}",
                cached=number % 10 == 0,
                saved_nano=number * 31 if number % 10 == 0 else None,
                metadata=metadata or {},
                request_body=None,
                response_body=None,
            )
        )
    return rows


def store(rows: list) -> None:
    with transaction.atomic():
        assert Store().write(rows) == []


@pytest.fixture
def tenant(organization) -> int:
    """An organization with 600 calls of nine days."""
    store(some_rows(organization.pk, 600, days=9, seed=7))
    return organization.pk


SUMS = """
    count(*), count(*) FILTER (WHERE status <> 'ok'), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
    coalesce(sum(cache_read_input_tokens), 0), coalesce(sum(cost_nano), 0), coalesce(sum(charged_nano), 0),
    count(*) FILTER (WHERE cached), coalesce(sum(saved_nano), 0)
"""
COLUMNS = {
    "model": "request_model",
    "provider": "coalesce(provider, '')",
    "key": "api_key_id::text",
    "customer": "customer_identifier",
}
FILTERS = {
    "nothing": (Filters(), "TRUE"),
    "a model": (Filters(model="model-1"), "request_model = 'model-1'"),
    "a provider": (Filters(provider="groq"), "provider = 'groq'"),
    "a key": (Filters(api_key_id=2), "api_key_id = 2"),
    "a customer": (Filters(customer="customer 3"), "customer_identifier = 'customer 3'"),
    "a model and a key": (Filters(model="model-1", api_key_id=2), "request_model = 'model-1' AND api_key_id = 2"),
    "a model and a customer": (
        Filters(model="model-0", customer="customer 3"),
        "request_model = 'model-0' AND customer_identifier = 'customer 3'",
    ),
    "nobody": (Filters(customer="no such customer"), "FALSE"),
}
WINDOWS = {
    "everything": (NOON - timedelta(days=12), NOON + timedelta(days=1)),
    "ends within days": (NOON - timedelta(days=6, hours=5), NOON - timedelta(hours=4)),
    "within one day": (NOON - timedelta(days=2, hours=3), NOON - timedelta(days=2, hours=-2)),
    "over one midnight": (NOON - timedelta(hours=14), NOON),
    "one whole day": (NOON.replace(hour=0) - timedelta(days=3), NOON.replace(hour=0) - timedelta(days=2)),
}


def sums(found: Figures) -> tuple:
    return (
        found.calls, found.errors, found.input_tokens, found.output_tokens, found.cached_tokens, found.cost_nano,
        found.charged_nano, found.cached_calls, found.saved_nano,
    )  # fmt: skip


def of_spans(what: str, tenant: int, window, condition="TRUE", more=""):
    return query(
        f"SELECT {what} FROM traces_span WHERE organization_id = %s AND started_at >= %s AND started_at < %s"
        f" AND {condition} {more}",
        tenant,
        *window,
    )


def test_totals_equal_the_spans(tenant):
    for window, (filters, condition), environment in product(WINDOWS.values(), FILTERS.values(), ["", "test"]):
        check_totals(tenant, window, filters, condition, environment)


def check_totals(tenant, window, filters, condition, environment):
    start, end = window
    found = figures.totals(organization_id=tenant, start=start, end=end, environment=environment, filters=filters)
    if environment:
        condition += f" AND environment = '{environment}'"
    ((*exact, durations, ttfts),) = of_spans(
        f"{SUMS}, array_agg(duration_us), array_agg(ttft_us)", tenant, (start, end), condition
    )
    assert sums(found) == tuple(exact)
    for histogram, values in ((found.latency, durations), (found.ttft, ttfts)):
        values = sorted(value for value in values or [] if value is not None)
        assert sum(histogram.counts) == len(values)
        for share in (0.5, 0.95, 0.99):
            wanted = values[max(0, -(-int(share * 10_000) * len(values) // 10_000) - 1)] if values else None
            assert_near(histogram.percentile_us(share), wanted)


def assert_near(found: float | None, exact: float | None) -> None:
    if exact is None:
        assert found is None
        return
    assert found is not None
    assert exact / FACTOR * 0.999 <= found <= exact * FACTOR * 1.001


def test_timeline_equals_the_spans(tenant):
    for bucket, (filters, condition) in product(["hour", "day", "week"], FILTERS.values()):
        check_timeline(tenant, bucket, filters, condition)


def check_timeline(tenant, bucket, filters, condition):
    start, end = WINDOWS["ends within days"]
    points = figures.timeline(organization_id=tenant, start=start, end=end, bucket=bucket, filters=filters)
    exact = {
        at: tuple(values)
        for at, *values in of_spans(
            f"date_trunc('{bucket}', started_at, 'UTC'), {SUMS}", tenant, (start, end), condition, "GROUP BY 1"
        )
    }
    assert {point.start: sums(point.figures) for point in points if point.figures.calls} == exact
    starts = [point.start for point in points]
    assert starts == sorted(set(starts))
    assert starts[0] <= start
    assert starts[-1] < end


def test_breakdown_equals_the_spans(tenant):
    for by, (filters, condition) in product(COLUMNS, FILTERS.values()):
        check_breakdown(tenant, by, filters, condition)


def test_customers_of_any_hours_equal_the_spans(tenant):
    windows = [
        *WINDOWS.values(),
        *((NOON - timedelta(hours=hours), NOON - timedelta(hours=1)) for hours in range(2, 60)),
    ]
    for start, end in windows:
        check_breakdown(tenant, "customer", Filters(), "TRUE", (start, end))


def check_breakdown(tenant, by, filters, condition, window=WINDOWS["ends within days"]):
    start, end = window
    found = figures.breakdown(organization_id=tenant, start=start, end=end, by=by, limit=3, filters=filters)
    check_shares(found, tenant, by, condition, (start, end))


def check_shares(found, tenant, by, condition, window):
    start, end = window
    exact = of_spans(
        f"{COLUMNS[by]}, {SUMS}, array_agg(duration_us)",
        tenant,
        (start, end),
        f"{condition} AND {COLUMNS[by]} IS NOT NULL",
        "GROUP BY 1 ORDER BY 2 DESC",
    )
    assert [share.figures.calls for share in found.shares] == [values[1] for values in exact[:3]]
    by_value = {values[0]: values[1:] for values in exact}
    for share in found.shares:
        *wanted, durations = by_value[share.value]
        assert sums(share.figures) == tuple(wanted)
        assert sum(share.figures.latency.counts) == len(durations)
    assert found.other_values == max(0, len(exact) - 3)
    everything = [sum(column) for column in zip(*(values[1:10] for values in exact), strict=True)] or [0] * 9
    listed = [sum(column) for column in zip(*(sums(share.figures) for share in found.shares), strict=True)] or [0] * 9
    assert sums(found.others) == tuple(total - part for total, part in zip(everything, listed, strict=True))


def test_series_by_dimension_add_up_to_the_whole(tenant):
    for by, metric in product(COLUMNS, ["calls", "errors", "cost", "charged", "tokens", "cached_tokens"]):
        check_series(tenant, by, metric)


def check_series(tenant, by, metric):
    start, end = WINDOWS["ends within days"]
    whole = figures.series(organization_id=tenant, start=start, end=end, metric=metric, bucket="day")
    parts = figures.series(
        organization_id=tenant, start=start, end=end, metric=metric, bucket="day", group_by=by, limit=2
    )
    assert parts.starts == whole.starts
    assert [each.is_rest for each in parts.series] == [False] * 2 + [True] * (len(parts.series) - 2)
    assert sum(parts.series[0].points) >= sum(parts.series[1].points)
    if by != "customer":  # some calls have none
        assert [sum(column) for column in zip(*(each.points for each in parts.series), strict=True)] == list(
            whole.series[0].points
        )


def test_spend_by_model_of_each_day_is_what_the_spans_say(tenant):
    start, end = WINDOWS["everything"]
    found = figures.series(
        organization_id=tenant, start=start, end=end, metric="cost", bucket="day", group_by="model", limit=5
    )
    exact = {}
    for at, model, cost in of_spans(
        "date_trunc('day', started_at, 'UTC'), request_model, sum(cost_nano)",
        tenant,
        (start, end),
        more="GROUP BY 1, 2",
    ):
        exact[at, model] = int(cost or 0)
    for each in found.series[:-1]:
        assert [exact.get((at, each.value), 0) for at in found.starts] == list(each.points)
    assert found.series[-1].is_rest


def test_latency_series_are_milliseconds_and_empty_without_calls(tenant):
    start, end = WINDOWS["everything"]
    found = figures.series(organization_id=tenant, start=start, end=end, metric="p95", bucket="day")
    assert found.series[0].points[0] is None
    assert 100 < next(value for value in found.series[0].points if value is not None) < 60_000
    with pytest.raises(ValueError, match="by dimension"):
        figures.series(organization_id=tenant, start=start, end=end, metric="p95", bucket="day", group_by="model")


def test_figures_of_another_organization_are_not_told(tenant, other_organization):
    start, end = WINDOWS["everything"]
    asked = {"organization_id": other_organization.pk, "start": start, "end": end}
    assert figures.totals(**asked) == Figures(latency=Histogram((0,) * 40), ttft=Histogram((0,) * 40))
    assert figures.breakdown(**asked, by="model") == figures.Breakdown((), Figures(), 0)
    assert figures.series(**asked, metric="calls", group_by="model", bucket="day").series == ()
    assert figures.values(**asked) == {"model": [], "provider": []}


def test_models_and_providers_come_with_the_most_called_first(tenant):
    start, end = WINDOWS["everything"]
    found = figures.values(organization_id=tenant, start=start, end=end)
    counts = dict(of_spans("request_model, count(*)", tenant, (start, end), more="GROUP BY 1"))
    assert [counts[model] for model in found["model"]] == sorted(counts.values(), reverse=True)
    assert sorted(found["provider"]) == ["groq", "openai"]


def test_week_begins_on_monday_in_utc():
    sunday = datetime(2026, 11, 22, 23, 59, tzinfo=UTC)
    assert figures.floor(sunday, "week") == datetime(2026, 11, 16, tzinfo=UTC)
    east = datetime(2026, 11, 23, 1, 0, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert figures.floor(east, "day") == datetime(2026, 11, 22, tzinfo=UTC)


def test_percentile_of_one_call_lies_in_its_bucket():
    counts = [0] * 40
    assert Histogram(tuple(counts)).percentile_us(0.95) is None
    counts[20] = 1
    assert 1_024_000 <= Histogram(tuple(counts)).percentile_us(0.95) <= 1_024_000 * FACTOR
    assert Histogram((1, *[0] * 39)).percentile_us(0.5) < 1_415


def test_figures_never_write(tenant):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION READ ONLY")
        start, end = WINDOWS["everything"]
        asked = {"organization_id": tenant, "start": start, "end": end}
        figures.totals(**asked)
        figures.breakdown(**asked, by="customer")
        figures.series(**asked, metric="cost", group_by="model", bucket="day")


# --- A page's figures at once -----------------------------------------------------------------------------------------


def check_report(tenant, window, *, is_open=False, environment="", filters=None, condition="TRUE"):
    """Everything a page shows of a window equals the spans, to the nano-USD."""
    start, end = window
    before = (start - timedelta(days=4), end - timedelta(days=4))
    scope = Scope(tenant, start, end, environment, filters or Filters(), is_open=is_open)
    if environment:
        condition += f" AND environment = '{environment}'"
    for by in COLUMNS:
        found = figures.report(scope, before=before, bucket="day", by=by, limit=3)
        ((*exact, _),) = of_spans(f"{SUMS}, 1", tenant, window, condition)
        assert sums(sum((point.figures for point in found.points), Figures())) == tuple(exact)
        ((*exact, _),) = of_spans(f"{SUMS}, 1", tenant, before, condition)
        assert sums(found.previous) == tuple(exact)
        by_day = of_spans(
            "date_trunc('day', started_at, 'UTC'), coalesce(sum(cost_nano), 0)", tenant, window, condition, "GROUP BY 1"
        )
        spend = [sum(amounts) for amounts in zip(*(each.points for each in found.spend.series), strict=True)]
        assert [(at, amount) for at, amount in zip(found.spend.starts, spend, strict=False) if amount] == sorted(
            (at, int(amount)) for at, amount in by_day if amount
        )
        check_shares(found.breakdown, tenant, by, condition, window)
        assert figures.totals(
            organization_id=tenant, start=start, end=end, environment=environment, filters=scope.filters
        ).cost_nano == sum(spend)


@pytest.mark.parametrize("name", WINDOWS)
def test_report_equals_the_spans(tenant, name):
    check_report(tenant, WINDOWS[name])
    check_report(tenant, WINDOWS[name], environment="test")


@pytest.mark.parametrize("name", [name for name in FILTERS if name != "nothing"])
def test_report_that_is_narrowed_equals_the_spans(tenant, name):
    filters, condition = FILTERS[name]
    check_report(tenant, WINDOWS["ends within days"], filters=filters, condition=condition)


def test_report_that_is_open_equals_the_spans_of_today_too(organization):
    now = datetime.now(UTC)
    end = figures.floor(now, "hour") + timedelta(hours=1)
    moments = [now - timedelta(minutes=37 * number) for number in range(120)]
    store(
        [
            row(
                organization_id=organization.pk,
                id=ids.new_uuid(int(at.timestamp() * 1000)),
                started_us=int(at.timestamp() * 1_000_000),
                cost_nano=number * 7,
                customer_identifier=f"customer {number % 9}",
                request_body=None,
                response_body=None,
            )
            for number, at in enumerate(moments)
        ]
    )
    for hours in (1, 5, 13, 24, 30, 70):
        check_report(organization.pk, (end - timedelta(hours=hours), end), is_open=True)


def test_calls_that_come_late_are_in_every_figure(organization):
    for seed, days in ((1, 2), (2, 45), (3, 20), (4, 45)):
        store(some_rows(organization.pk, 150, days=days, seed=seed))
        check_report(organization.pk, (NOON - timedelta(days=46), NOON))
        check_report(organization.pk, (NOON - timedelta(days=17, hours=3), NOON - timedelta(days=2, hours=9)))


def test_calls_that_are_taken_out_are_in_no_figure(organization):
    store(some_rows(organization.pk, 200, days=40, seed=5))
    store(some_rows(organization.pk, 200, days=40, seed=6, metadata={"sample": "true"}))
    assert seeding.remove(organization_id=organization.pk, api_key_ids=[1, 2, 3], mark={"sample": "true"}) == 200
    check_report(organization.pk, (NOON - timedelta(days=41), NOON))
    assert seeding.remove(organization_id=organization.pk, api_key_ids=[1, 2, 3], mark={}) == 200
    assert query("SELECT 1 FROM traces_usage_customer WHERE organization_id = %s", organization.pk) == []
    check_report(organization.pk, (NOON - timedelta(days=41), NOON))


def test_figures_stay_when_logs_are_deleted_after_their_retention(tenant):
    start, end = WINDOWS["everything"]
    asked = {"before": (start, end), "bucket": "day", "limit": 3}
    kept = {by: figures.report(Scope(tenant, start, end), by=by, **asked) for by in COLUMNS}
    assert remove_spans(organization_id=tenant, before=end, limit=1000) == 600
    assert {by: figures.report(Scope(tenant, start, end), by=by, **asked) for by in COLUMNS} == kept


def test_calls_to_read_are_those_that_no_roll_up_has(tenant):
    start, end = WINDOWS["everything"]
    ((everyone,),) = of_spans("count(*)", tenant, (start, end))
    ((of_three,),) = of_spans("count(*)", tenant, (start, end), "customer_identifier = 'customer 3'")

    def asked(by, **filters):
        return figures.calls_to_read(Scope(tenant, start, end, filters=Filters(**filters)), by)

    assert [asked(by) for by in COLUMNS] == [0, 0, 0, 0]
    assert asked("key", model="model-1", provider="groq") == 0
    assert asked("customer", model="model-1") == everyone
    assert asked("model", customer="customer 3") == of_three
    assert asked("customer", customer="customer 3", api_key_id=1) == of_three
