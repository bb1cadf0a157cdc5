"""Lists and single logs out of real PostgreSQL: every operator, cursors, bounds, walls between organizations."""

import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db import connection

from respan import ids
from tests.traces.rows import insert_call, insert_span
from traces import query, reading
from traces.query import Sort, SpanQuery
from traces.reading import SearchTooSlow

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC).replace(microsecond=654_321)


@pytest.fixture
def organization_id():
    return uuid.uuid4().int >> 70


def spans(*filters, since=NOW - timedelta(days=1), until=NOW + timedelta(minutes=1), **options):
    rows_of_keys = {"key_seven": [7], "key_eight": [8]}
    return SpanQuery(
        since=since, until=until, conditions=query.parse_conditions(filters, api_keys=rows_of_keys), **options
    )


def names(organization_id, *filters, **options):
    """Return which rows match, by their span names."""
    page = reading.logs(organization_id=organization_id, query=spans(*filters, **options), limit=100)
    counted = reading.count(organization_id=organization_id, query=spans(*filters, **options))
    assert counted == reading.Count(len(page.logs), is_capped=False)
    return {log.name for log in page.logs}


@pytest.fixture
def three(organization_id):
    """Insert three rows: `a` succeeded on credits, `b` failed on an own key, `c` has nothing that is optional."""
    insert_span(
        organization_id=organization_id, name="a", started_at=NOW - timedelta(minutes=3), api_key_id=7, stream=True,
        request_model="gpt-4o-mini", provider="openai", customer_identifier="Anna", custom_identifier="x_1",
        thread_identifier="t1", cost_nano=10_000_000, duration_us=1_500_000, ttft_us=200_000, input_tokens=100,
        output_tokens=30, metadata={"plan": "pro", "count": "7"}, input_preview="100% sure", output_preview="Yes",
        trace_id=bytes.fromhex("ab" * 16), parent_span_id=bytes.fromhex("cd" * 8), customer_name="Anna A.",
    )  # fmt: skip
    insert_span(
        organization_id=organization_id, name="b", started_at=NOW - timedelta(minutes=2), api_key_id=8, status="error",
        http_status=502, request_model="claude-5", provider="anthropic", customer_identifier="anna", paid_by="own_key",
        environment="test", cost_nano=0, duration_us=40_000, ttft_us=None, input_tokens=5, output_tokens=0,
        error_code="upstream_error", error_message="The provider said 50_50", metadata={"plan": "free"},
        warnings=["stripped"], input_preview="100 percent", output_preview=None, finish_reason=None,
    )  # fmt: skip
    insert_span(
        organization_id=organization_id, name="c", started_at=NOW - timedelta(minutes=1), api_key_id=8,
        status="aborted", http_status=499, request_model="llama", provider=None, response_model=None, paid_by="nobody",
        cost_nano=None, charged_nano=0, duration_us=3_000_000, ttft_us=None, input_tokens=None, output_tokens=None,
        trace_id=bytes(16), input_preview=None, output_preview=None, finish_reason=None, usage_source="none",
    )  # fmt: skip
    return organization_id


@pytest.mark.parametrize(
    ("field", "operator", "values", "expected"),
    [
        ("model", "in", ["gpt-4o-mini"], "a"),
        ("model", "in", ["gpt-4o-mini", "llama"], "ac"),
        ("model", "not_in", ["gpt-4o-mini"], "bc"),
        ("provider", "not_in", ["openai"], "bc"),
        ("model", "contains", ["a"], "bc"),
        ("model", "contains", ["A"], ""),
        ("model", "icontains", ["LAMA"], "c"),
        ("model", "not_contains", ["a"], "a"),
        ("model", "startswith", ["gpt"], "a"),
        ("model", "not_startswith", ["gpt"], "bc"),
        ("model", "endswith", ["mini"], "a"),
        ("model", "not_endswith", ["mini"], "bc"),
        ("customer_identifier", "in", ["Anna"], "a"),
        ("customer_identifier", "iexact", ["ANNA"], "ab"),
        ("customer_identifier", "isnull", [True], "c"),
        ("customer_identifier", "isnull", ["false"], "ab"),
        ("customer_identifier", "empty", [""], "c"),
        ("customer_identifier", "not_empty", [""], "ab"),
        ("customer_name", "contains", ["A."], "a"),
        ("custom_identifier", "contains", ["x_"], "a"),
        ("custom_identifier", "contains", ["xx"], ""),
        ("thread_identifier", "in", ["t1"], "a"),
        ("status", "in", ["success"], "a"),
        ("status", "in", ["error", "aborted"], "bc"),
        ("status", "not_in", ["success"], "bc"),
        ("failed", "in", [True], "bc"),
        ("failed", "in", ["false"], "a"),
        ("failed", "in", [True, False], "abc"),
        ("failed", "not_in", [True], "a"),
        ("failed", "not_in", [True, False], ""),
        ("status_code", "in", [200], "a"),
        ("status_code", "not_in", ["200"], "bc"),
        ("status_code", "gte", [500], "b"),
        ("error_code", "in", ["upstream_error"], "b"),
        ("error_message", "contains", ["50_50"], "b"),
        ("error_message", "contains", ["50x50"], ""),
        ("has_warnings", "in", [True], "b"),
        ("stream", "in", [True], "a"),
        ("used_custom_credential", "in", ["true"], "b"),
        ("covered_by", "in", ["nobody"], "c"),
        ("is_root_span", "in", [False], "a"),
        ("organization_key_id", "in", ["key_seven"], "a"),
        ("organization_key_id", "not_in", ["key_seven"], "bc"),
        ("organization_key_id", "in", ["key_of_somebody_else"], ""),
        ("environment", "in", ["test"], "b"),
        ("environment", "in", ["prod"], "ac"),
        ("cost", "in", [0.01], "a"),
        ("cost", "gt", [0.0099], "a"),
        ("cost", "gte", [0], "ab"),
        ("cost", "lt", ["0.01"], "b"),
        ("cost", "lte", ["0.01"], "ab"),
        ("cost", "isnull", [True], "c"),
        ("cost", "gt", [0.000_000_000_1], "a"),
        ("latency", "gt", [1.5], "c"),
        ("latency", "gte", [1.5], "ac"),
        ("latency", "lt", [0.05], "b"),
        ("time_to_first_token", "lte", [0.2], "a"),
        ("time_to_first_token", "empty", [""], "bc"),
        ("time_to_first_token", "not_empty", [""], "a"),
        ("tokens_per_second", "in", [20], "a"),
        ("prompt_tokens", "lt", [6], "b"),
        ("completion_tokens", "gt", [0], "a"),
        ("total_tokens", "in", [130], "a"),
        ("total_tokens", "lt", [1], "c"),
        ("trace_unique_id", "in", ["ab" * 16], "a"),
        ("trace_unique_id", "in", [("AB" * 16)], "a"),
        ("span_parent_id", "in", ["cd" * 8], "a"),
        ("start_time", "gt", [(NOW - timedelta(minutes=2)).isoformat()], "c"),
        ("start_time", "gte", [(NOW - timedelta(minutes=2)).isoformat()], "bc"),
        ("timestamp", "lte", [(NOW - timedelta(minutes=3) + timedelta(seconds=1.5)).isoformat()], "a"),
        ("input", "contains", ["100%"], "a"),
        ("output", "empty", [""], "bc"),
        ("metadata__plan", "in", ["pro"], "a"),
        ("metadata__plan", "in", ["pro", "free"], "ab"),
        ("metadata__plan", "not_in", ["pro"], "b"),
        ("metadata__plan", "contains", ["r"], "ab"),
        ("metadata__plan", "not_contains", ["pr"], "b"),
        ("metadata__plan", "isnull", [True], "c"),
        ("metadata__plan", "not_empty", [""], "ab"),
        ("metadata__count", "in", [7], "a"),
        ("metadata__it's", "in", ["'"], ""),
        ("metadata__%s", "in", ["%s"], ""),
    ],
)
def test_every_operator_finds_exactly_its_rows(three, field, operator, values, expected):
    assert names(three, (field, operator, values, "AND")) == set(expected)


@pytest.mark.parametrize("field", [*query.FIELDS, "metadata__plan"])
def test_every_field_with_each_of_its_operators_is_valid_sql(three, field):
    kind = query.field_of(field).kind
    value = {
        "number": 1, "flag": True, "moment": "2026-11-22", "status": "ok", "environment": "test",
        "log id": ids.new("log"), "hex": "ab", "api key": "key_seven", "decision": "cache",
    }.get(kind, "x")  # fmt: skip
    for operator in query._OPERATORS[kind]:
        names(three, (field, operator, [True if operator == "isnull" else value], "AND"))


def test_every_order_is_valid_sql_and_puts_missing_values_last(three):
    for key in query.SORTS:
        for descending in (True, False):
            page = reading.logs(organization_id=three, query=spans(sort=Sort(key, descending)), limit=10)
            assert len(page.logs) == 3
            if key == "cost":
                assert [log.name for log in page.logs] == (["a", "b", "c"] if descending else ["b", "a", "c"])


def test_conditions_on_one_field_make_a_range_and_or_widens(three):
    assert names(three, ("latency", "gt", [1], "AND"), ("latency", "lt", [2], "AND")) == {"a"}
    assert names(three, ("model", "in", ["llama"], "OR"), ("customer_identifier", "in", ["anna"], "AND")) == {"b", "c"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100%", "a"), ("100", "ab"), ("%", "a"), ("_", "b"), ("50_50", "b"), ("YES", "a"), ("\\", ""), ("' OR 1=1", "")],
)
def test_a_search_is_literal_and_ignores_case(three, text, expected):
    assert names(three, text=text) == set(expected)


def test_the_window_and_the_environment_bound_a_list(three):
    assert names(three, since=NOW - timedelta(minutes=2), until=NOW - timedelta(minutes=2)) == {"b"}
    assert names(three, environment="test") == {"b"}


def walk(organization_id, asked, *, limit):
    """Return every row from the first page to the last, following cursors."""
    found, cursor = [], None
    while True:
        page = reading.logs(organization_id=organization_id, query=asked, cursor=cursor, limit=limit)
        found += page.logs
        if page.next is None:
            return found
        cursor = page.next


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 40, 41])
def test_pages_by_cursor_are_the_whole_list_without_gap_or_repetition(organization_id, descending, limit):
    # Several rows share each moment, so that the id has to break ties.
    inserted = {
        insert_span(organization_id=organization_id, started_at=NOW - timedelta(seconds=number // 4))
        for number in range(40)
    }
    found = walk(organization_id, spans(sort=Sort("id", descending)), limit=limit)
    assert len(found) == 40
    assert {log.id for log in found} == inserted
    positions = [(log.started_at, log.id) for log in found]
    assert positions == sorted(positions, reverse=descending)


def test_rows_that_arrive_while_paging_neither_repeat_nor_hide_others(organization_id):
    before = {
        insert_span(organization_id=organization_id, started_at=NOW - timedelta(minutes=1, seconds=number))
        for number in range(30)
    }
    found, cursor = [], None
    for _ in range(100):
        page = reading.logs(organization_id=organization_id, query=spans(), cursor=cursor, limit=4)
        found += [log.id for log in page.logs]
        insert_span(organization_id=organization_id, started_at=NOW)
        insert_span(organization_id=organization_id, started_at=NOW - timedelta(hours=1))
        if page.next is None or before <= set(found):
            break
        cursor = page.next
    assert before <= set(found)
    assert len(found) == len(set(found))


def test_going_back_leads_over_the_same_pages(organization_id):
    for number in range(11):
        insert_span(organization_id=organization_id, started_at=NOW - timedelta(seconds=number))
    forward, cursor = [], None
    while True:
        page = reading.logs(organization_id=organization_id, query=spans(), cursor=cursor, limit=4)
        forward.append(page)
        if page.next is None:
            break
        cursor = page.next
    assert [len(page.logs) for page in forward] == [4, 4, 3]
    assert forward[0].previous is None
    middle = reading.logs(organization_id=organization_id, query=spans(), cursor=forward[2].previous, limit=4)
    assert middle.logs == forward[1].logs
    first = reading.logs(organization_id=organization_id, query=spans(), cursor=middle.previous, limit=4)
    assert (first.logs, first.previous) == (forward[0].logs, None)
    assert reading.logs(organization_id=organization_id, query=spans(), cursor=first.next, limit=4).logs == middle.logs


def test_counts_stop_at_their_limit(organization_id):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO traces_span (organization_id, id, started_at, environment, api_key_id, trace_id, name,"
            " log_type, duration_us, status, http_status, stream, request_model, paid_by, usage_source)"
            " SELECT %s, gen_random_uuid(), %s, 'production', 1, '', 'x',"
            " 'chat', 1, 'ok', 200, false, 'm', 'free', 'none'"
            " FROM generate_series(1, 10500)",
            [organization_id, NOW],
        )
    assert reading.count(organization_id=organization_id, query=spans()) == reading.Count(10_001, is_capped=True)


def test_nothing_of_one_organization_is_reachable_from_another(three):
    stranger = three + 1
    mine = reading.logs(organization_id=three, query=spans(), limit=2)
    assert names(stranger) == set()
    assert names(stranger, ("model", "in", ["x"], "OR"), ("model", "not_in", ["x"], "AND")) == set()
    assert reading.logs(organization_id=stranger, query=spans(), cursor=mine.next, limit=10).logs == ()
    assert reading.log(organization_id=stranger, id=mine.logs[0].id) is None
    assert reading.bodies(organization_id=stranger, logs=mine.logs) == {}
    assert reading.has_logs(organization_id=three)
    assert not reading.has_logs(organization_id=stranger)
    assert reading.spend_by_key(organization_id=stranger, since=NOW - timedelta(days=1)) == {}


def test_spend_is_summed_by_key(three):
    assert reading.spend_by_key(organization_id=three, since=NOW - timedelta(days=1)) == {7: 13_500, 8: 13_500}


def test_a_log_comes_with_its_bodies_decompressed(organization_id):
    span_id = insert_call(
        organization_id=organization_id, request={"messages": []}, response=b'{"cut', response_truncated=True
    )
    detail = reading.log(organization_id=organization_id, id=span_id)
    assert detail is not None
    assert detail.body == reading.Body(
        request=b'{"messages":[]}', response=b'{"cut', request_truncated=False, response_truncated=True
    )


def test_a_log_without_bodies_has_none_and_its_json_columns_are_values(three):
    [log] = reading.logs(
        organization_id=three, query=spans(("failed", "in", [True], "AND"), environment="test"), limit=9
    ).logs
    assert reading.log(organization_id=three, id=log.id) == reading.LogDetail(log, None)
    assert (log.metadata, log.warnings, log.attempts) == ({"plan": "free"}, ["stripped"], [])
    assert log.ended_at - log.started_at == timedelta(milliseconds=40)


def test_ids_that_no_log_has_are_not_found(three):
    for number in (0, 2**128 - 1, uuid.uuid4().int, ids.new_uuid().int, (2**48 - 1) << 80 | 7 << 76 | 2 << 62):
        assert reading.log(organization_id=three, id=uuid.UUID(int=number)) is None


def test_a_list_reads_as_many_bodies_as_its_memory_allows(organization_id):
    for number in range(60):
        insert_call(
            organization_id=organization_id, started_at=NOW - timedelta(seconds=number),
            request=b"x" * reading._MAX_BODY_BYTES, response=None,
        )  # fmt: skip
    logs = reading.logs(organization_id=organization_id, query=spans(), limit=60).logs
    found = reading.bodies(organization_id=organization_id, logs=logs)
    assert list(found) == [log.id for log in logs[: reading._MAX_LIST_BYTES // reading._MAX_BODY_BYTES]]


@pytest.mark.django_db(transaction=True)
def test_a_search_that_takes_too_long_is_ended_with_a_clear_error():
    settings = connection.settings_dict
    with psycopg.connect(
        host=settings["HOST"], port=settings["PORT"] or None, user=settings["USER"], password=settings["PASSWORD"],
        dbname=settings["NAME"],
    ) as blocker:  # fmt: skip
        blocker.execute("LOCK TABLE traces_span IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SearchTooSlow) as refusal:
            reading.logs(organization_id=2**40, query=spans(text="anything"), limit=10)
    assert refusal.value.status == 400
    assert reading.logs(organization_id=2**40, query=spans(text="anything"), limit=10).logs == ()
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",), "the limit ends with the search"
