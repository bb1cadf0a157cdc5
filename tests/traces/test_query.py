"""Filters become parameterised SQL, and nothing a caller writes becomes SQL."""

import re
import uuid
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respan import ids
from traces import query
from traces.query import Cursor, InvalidCursor, InvalidQuery, Sort, SpanQuery

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
EVERY_OPERATOR = sorted({operator for allowed in query._OPERATORS.values() for operator in allowed})
# Everything a compiled query may consist of: names, numbers of our own, and placeholders.
SAFE_SQL = re.compile(r"[A-Za-z0-9_ (),.<>=*+/'\[\]:|@-]*(?:%s[A-Za-z0-9_ (),.<>=*+/'\[\]:|@-]*)*")


def spans(*filters, **options):
    conditions = query.parse_conditions(filters, api_keys=options.pop("api_keys", {}))
    return SpanQuery(since=NOW - timedelta(hours=1), until=NOW, conditions=conditions, **options)


def compiled(*filters, **options):
    return query.where(spans(*filters, **options))


def asks(*filters, **options):
    """Return the compiled query, or None where it is refused (as it must be: with a 400)."""
    try:
        return compiled(*filters, **options)
    except InvalidQuery:
        return None


keys = st.text(min_size=1).map(lambda key: f"metadata__{key}")
values = st.text(max_size=40) | st.integers() | st.floats(allow_nan=True) | st.booleans() | st.none()
filters = st.tuples(
    st.sampled_from([*query.FIELDS, "metadata__plan"]) | keys,
    st.sampled_from(EVERY_OPERATOR),
    st.lists(values, max_size=4),
    st.sampled_from(["AND", "OR"]),
)


@given(asked=st.lists(filters, max_size=5), text=st.text(max_size=40))
def test_whatever_is_asked_the_sql_consists_of_our_own_names_and_placeholders(asked, text):
    fragment = asks(*asked, text=text)
    if fragment is not None:
        assert SAFE_SQL.fullmatch(fragment.sql), fragment.sql
        assert fragment.sql.count("%s") == len(fragment.params)


@given(
    first=st.text(min_size=1, max_size=40),
    second=st.text(min_size=1, max_size=40),
    operator=st.sampled_from(EVERY_OPERATOR),
)
def test_the_sql_does_not_depend_on_the_values(first, second, operator):
    fragments = [
        asks((field, operator, [value], "AND"), text=value)
        for field in ("model", "metadata__plan")
        for value in (first, second)
    ]
    if None not in fragments:
        assert fragments[0].sql == fragments[1].sql
        assert fragments[2].sql == fragments[3].sql


@pytest.mark.parametrize("payload", ["'; DROP TABLE traces_span; --", "%s", "{0}", "x' OR '1'='1", "\\'; --"])
def test_an_injection_stays_a_value_wherever_it_is_written(payload):
    fragment = compiled(
        ("model", "in", [payload], "AND"),
        ("customer_identifier", "contains", [payload], "AND"),
        (f"metadata__{payload}", "not_in", [payload], "OR"),
        text=payload,
    )
    assert "DROP" not in fragment.sql
    assert payload not in fragment.sql.replace("%s", "")
    assert fragment.sql.count("%s") == len(fragment.params)


@pytest.mark.parametrize("name", ["modell", "organization_id", "1=1; --", "metadata__", "", "x" * 5000])
def test_an_unknown_field_is_refused_by_name(name):
    with pytest.raises(InvalidQuery) as refusal:
        compiled((name, "in", ["x"], "AND"))
    assert refusal.value.param == name[:100]


@pytest.mark.parametrize(
    ("name", "operator", "asked"),
    [
        ("cost", "in", ["cheap"]),
        ("cost", "gt", [float("nan")]),
        ("cost", "gt", [float("inf")]),
        ("cost", "gt", ["1e400"]),
        ("cost", "gt", ["1e-400"]),
        ("cost", "gt", [True]),
        ("cost", "gt", [1, 2]),
        ("cost", "gt", []),
        ("cost", "contains", ["1"]),
        ("latency", "lt", [None]),
        ("latency", "lt", [{"a": 1}]),
        ("status", "in", ["fine"]),
        ("environment", "in", ["staging"]),
        ("stream", "in", ["perhaps"]),
        ("failed", "isnull", ["perhaps"]),
        ("start_time", "gt", ["yesterday"]),
        ("start_time", "gt", ["0001-01-01T00:00:00+14:00"]),
        ("model", "gt", ["gpt"]),
        ("model", "in", ["x\x00y"]),
        ("model", "in", ["\ud800"]),
        ("model", "in", ["x" * 1001]),
        ("model", "contains", ["x" * 201]),
        ("model", "in", ["x"] * 201),
        ("model", "in", [["nested"]]),
        ("metadata__\x00", "in", ["x"]),
    ],
)
def test_a_value_that_does_not_suit_its_field_is_refused_by_name(name, operator, asked):
    with pytest.raises(InvalidQuery) as refusal:
        compiled((name, operator, asked, "AND"))
    assert refusal.value.status == 400
    assert refusal.value.param in {name, "filters"}


def test_public_units_become_the_columns_units():
    conditions = query.parse_conditions(
        [
            ("cost", "gte", [0.01], "AND"),
            ("latency", "lt", ["1.5"], "AND"),
            ("status", "in", ["success", "failed"], "AND"),
            ("environment", "in", ["prod"], "AND"),
        ],
        api_keys={},
    )
    assert [condition.values for condition in conditions] == [
        (Decimal(10_000_000),), (Decimal(1_500_000),), ("ok", "error"), ("production",),
    ]  # fmt: skip


def test_an_api_key_is_found_by_public_id_and_by_name_and_an_unknown_one_matches_nothing():
    rows = {"key_a": [7], "Backend": [7, 9]}
    known = compiled(("organization_key_id", "in", ["key_a"], "AND"), api_keys=rows)
    named = compiled(("organization_key_name", "in", ["Backend"], "AND"), api_keys=rows)
    unknown = compiled(("organization_key_id", "in", ["key_b"], "AND"), api_keys=rows)
    assert (known.params[2:], named.params[2:], unknown.params[2:]) == ((7,), (7, 9), (0,))


def test_connectors_join_each_condition_to_the_next_from_left_to_right():
    fragment = compiled(("model", "in", ["a"], "OR"), ("provider", "in", ["b"], "AND"), ("paid_by", "in", ["c"], "AND"))
    assert fragment.sql.endswith("((request_model IN (%s)) OR (provider IN (%s))) AND (paid_by IN (%s)))")
    assert fragment.params[2:] == ("a", "b", "c")


@pytest.mark.parametrize("text", ["100%", "under_score", "back\\slash", "%_\\%"])
def test_wildcards_of_a_search_are_escaped(text):
    pattern = compiled(text=text).params[-1]
    assert pattern[0] == pattern[-1] == "%"
    assert re.sub(r"\\(.)", r"\1", pattern[1:-1]) == text
    assert not re.search(r"(?<!\\)(?:\\\\)*[%_]", pattern[1:-1])


def test_a_text_search_needs_a_bounded_window_and_a_bounded_text():
    wide = {"since": NOW - timedelta(days=8), "until": NOW}
    SpanQuery(**wide)
    for options in (
        {"text": "x"},
        {"conditions": query.parse_conditions([("input", "contains", ["x"], "AND")], api_keys={})},
    ):
        with pytest.raises(InvalidQuery, match="7 days"):
            SpanQuery(**wide, **options)
    with pytest.raises(InvalidQuery, match="200 characters"):
        spans(text="x" * 201)
    with pytest.raises(InvalidQuery):
        spans(text="x\x00")


def test_a_window_that_ends_before_it_starts_is_refused():
    with pytest.raises(InvalidQuery) as refusal:
        SpanQuery(since=NOW, until=NOW - timedelta(seconds=1))
    assert refusal.value.param == "start_time"


def test_too_many_conditions_are_refused():
    with pytest.raises(InvalidQuery):
        spans(*[("model", "in", ["x"], "AND")] * 51)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T12:00:00Z", NOW),
        ("2026-11-22T13:00:00+01:00", NOW),
        ("2026-11-22T13:00:00 01:00", NOW),
        ("2026-11-22 12:00", NOW),
        ("2026-11-22", NOW.replace(hour=0)),
    ],
)
def test_moments_are_read_in_every_usual_spelling(text, moment):
    assert query.parse_moment(text, "start_time") == moment


def test_orders_are_total_and_unknown_ones_are_refused():
    assert query.order(query.parse_sort("-id")) == "started_at DESC, id DESC"
    assert query.order(query.parse_sort("timestamp")) == "started_at ASC, id ASC"
    assert query.order(query.parse_sort("-cost")) == "cost_nano DESC NULLS LAST, started_at DESC, id DESC"
    for text in ("", "-", "nonsense", "cost; DROP TABLE x", "--id", "scores__1"):
        with pytest.raises(InvalidQuery):
            query.parse_sort(text)


def test_log_ids_are_read_in_public_and_bare_form():
    span_id = ids.new_uuid()
    for text in (ids.encode("log", span_id), span_id.hex, str(span_id)):
        assert query.parse_log_id(text) == span_id
    for text in (
        "",
        "log_",
        ids.encode("key", span_id),
        span_id.hex[:-1],
        "x" * 32,
        "é" * 32,
        f"{{{span_id.hex[:30]}}}",
    ):
        assert query.parse_log_id(text) is None


moments = st.timedeltas(timedelta(), timedelta(days=365 * 2000)).map(lambda passed: query._EPOCH + passed)


@given(moment=moments, number=st.integers(0, 2**128 - 1), back=st.booleans())
def test_a_cursor_survives_its_text_form(moment, number, back):
    cursor = Cursor(moment, uuid.UUID(int=number), back)
    assert query.decode_cursor(query.encode_cursor(cursor, spans()), spans()) == cursor


@given(st.text(max_size=60))
def test_a_malformed_cursor_is_refused(text):
    with pytest.raises(InvalidCursor) as refusal:
        query.decode_cursor(text, spans())
    assert refusal.value.status == 400


def test_a_cursor_of_other_filters_or_of_another_order_is_refused():
    issued = query.encode_cursor(Cursor(NOW, ids.new_uuid()), spans(("model", "in", ["a"], "AND")))
    others = [
        spans(), spans(("model", "in", ["b"], "AND")), spans(("model", "in", ["a"], "AND"), environment="test"),
        spans(("model", "in", ["a"], "AND"), text="x"), spans(("model", "in", ["a"], "AND"), sort=Sort("id", False)),
        spans(("model", "in", ["a"], "AND"), sort=Sort("cost")),
    ]  # fmt: skip
    for other in others:
        with pytest.raises(InvalidCursor):
            query.decode_cursor(issued, other)
    moved = SpanQuery(
        since=NOW, until=NOW + timedelta(hours=1), conditions=spans(("model", "in", ["a"], "AND")).conditions
    )
    assert query.decode_cursor(issued, moved).started_at == NOW, "a window of time that moves keeps its cursors"


@given(st.binary(min_size=33, max_size=33))
def test_a_forged_cursor_is_refused_or_harmless(packed):
    with pytest.raises(InvalidCursor):
        query.decode_cursor(urlsafe_b64encode(packed).decode(), spans())
