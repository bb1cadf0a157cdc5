"""Promises of `gateway.params`: which carrier wins, what is cut, what is refused."""

import base64
import json

import msgspec
import pytest

from gateway import params


def members(**values):
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in values.items()}


def header(value):
    return {"HTTP_X_DATA_RESPAN_PARAMS": value}


def test_a_plain_request_has_no_parameters():
    assert params.gather(members(model="m", messages=[]), {}) is params.NONE


def test_respan_params_win_over_the_header_which_wins_over_the_top_level():
    body = members(custom_identifier="top", thread_identifier="top", respan_params={"custom_identifier": "object"})
    encoded = base64.b64encode(b'{"custom_identifier": "header", "thread_identifier": "header"}').decode()

    found = params.gather(body, header(encoded))

    assert (found.custom_identifier, found.thread_identifier) == ("object", "header")


def test_the_header_may_be_raw_json():
    assert params.gather({}, header('{"custom_identifier": "raw"}')).custom_identifier == "raw"


def test_the_older_names_still_count():
    assert params.gather(members(keywordsai_params={"custom_identifier": "old"}), {}).custom_identifier == "old"
    found = params.gather({}, {"HTTP_X_DATA_KEYWORDSAI_PARAMS": '{"custom_identifier": "old"}'})
    assert found.custom_identifier == "old"


def test_a_carrier_that_is_a_json_string_is_read():
    assert params.gather(members(respan_params='{"custom_identifier": "text"}'), {}).custom_identifier == "text"


@pytest.mark.parametrize("value", ["not base64!", "bm90IGpzb24=", "[1]", "", "/w=="])
def test_a_header_that_is_no_object_is_ignored(value):
    assert params.gather({}, header(value)).custom_identifier is None


@pytest.mark.parametrize("value", [[1], 7, None, "[]"])
def test_a_carrier_that_is_no_object_is_ignored_with_a_warning(value):
    found = params.gather(members(respan_params=value), {})
    assert found.warnings == ["respan_params is not an object and was ignored"]


def test_the_customer_of_customer_params_wins():
    found = params.gather(
        members(
            customer_identifier="outer",
            customer_params={"customer_identifier": "inner", "name": "Ada", "email": "a@b.c"},
        ),
        {},
    )
    assert (found.customer_identifier, found.customer_name, found.customer_email) == ("inner", "Ada", "a@b.c")


def test_long_identifiers_are_cut_with_a_warning():
    found = params.gather(members(customer_identifier="x" * 300), {})
    assert found.customer_identifier == "x" * 254
    assert found.warnings == ["customer_identifier was cut to 254 characters"]


def test_a_number_serves_as_an_identifier():
    assert params.gather(members(customer_identifier=42), {}).customer_identifier == "42"


def test_what_postgresql_cannot_store_is_taken_out():
    assert params.gather(members(custom_identifier="a\0b"), {}).custom_identifier == "ab"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("customer_identifier", ["x"]),
        ("metadata", [1]),
        ("disable_log", "yes"),
        ("customer_params", "x"),
        ("thread_identifier", True),
    ],
)
def test_a_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(params.InvalidRequest) as refused:
        params.gather(members(**{name: value}), {})
    assert refused.value.param == name


def test_metadata_values_become_text():
    found = params.gather(members(metadata={"a": 1, "b": True, "c": {"d": None}, "e": "text"}), {})
    assert found.metadata == {"a": "1", "b": "true", "c": '{"d":null}', "e": "text"}


def test_parameters_of_later_versions_are_named_in_a_warning():
    found = params.gather(members(fallback_models=["x"], cache_enabled=True), {})
    assert found.warnings == ["cache_enabled has no effect yet", "fallback_models has no effect yet"]
