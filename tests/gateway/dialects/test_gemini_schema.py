"""Promises of `gateway.dialects.gemini_schema`: JSON Schema in Gemini's subset, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.gemini_schema import has_properties, raw, to_json_schema, to_subset


@pytest.mark.parametrize(
    ("schema", "subset"),
    [
        ({"type": "string", "format": "email", "pattern": "a"}, {"type": "STRING", "pattern": "a"}),
        ({"type": "string", "format": "date-time"}, {"type": "STRING", "format": "date-time"}),
        ({"type": ["string", "null"]}, {"type": "STRING", "nullable": True}),
        ({"type": ["string", "integer"]}, {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, {"type": "NUMBER", "nullable": True}),
        ({"oneOf": [{"type": "number"}, {"type": "string"}]}, {"anyOf": [{"type": "NUMBER"}, {"type": "STRING"}]}),
        ({"const": "a"}, {"type": "STRING", "enum": ["a"], "format": "enum"}),
        ({"enum": ["a", "", None]}, {"type": "STRING", "nullable": True, "enum": ["a"], "format": "enum"}),
        ({"type": "integer", "enum": [1, 2]}, {"type": "INTEGER", "description": "One of: 1, 2."}),
        ({"type": "array"}, {"type": "ARRAY", "items": {"type": "STRING"}}),
        (
            {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]},
            {"type": "ARRAY", "items": {"anyOf": [{"type": "STRING"}, {"type": "NUMBER"}]}},
        ),
        ({"properties": {"a": True}}, {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}),
        (
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a", "gone"], "$id": "x"},
            {"type": "OBJECT", "properties": {"a": {"type": "BOOLEAN"}}, "required": ["a"]},
        ),
    ],
)
def test_a_schema_fits_the_subset(schema, subset):
    assert to_subset(schema) == subset


def test_references_are_written_out():
    schema = {
        "type": "object",
        "properties": {"home": {"$ref": "#/$defs/Address", "description": "Where."}},
        "$defs": {"Address": {"type": "object", "properties": {"street": {"type": "string"}}}},
    }

    assert to_subset(schema)["properties"]["home"] == {
        "type": "OBJECT",
        "description": "Where.",
        "properties": {"street": {"type": "STRING"}},
    }


def test_a_reference_to_itself_ends():
    schema = {"$ref": "#/$defs/Node", "$defs": {"Node": {"properties": {"next": {"$ref": "#/$defs/Node"}}}}}

    assert to_subset(schema)["properties"]["next"] == {"type": "OBJECT"}


def test_all_of_becomes_one_object():
    schema = {
        "allOf": [
            {"properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"$ref": "#/$defs/B"},
        ],
        "$defs": {"B": {"properties": {"b": {"type": "string"}}, "required": ["b"]}},
    }
    found = to_subset(schema)

    assert (set(found["properties"]), found["required"]) == ({"a", "b"}, ["a", "b"])


def test_references_that_multiply_do_not_make_a_huge_schema():
    definitions = {
        f"L{level}": {"properties": {name: {"$ref": f"#/$defs/L{level + 1}"} for name in "abcdefgh"}}
        for level in range(20)
    }

    assert len(str(to_subset({"$ref": "#/$defs/L0", "$defs": definitions}))) < 1_000_000


def test_what_google_has_no_field_for_is_taken_off_the_raw_schema():
    assert raw({"$schema": "x", "type": "object"}) == {"type": "object"}


@pytest.mark.parametrize(
    ("schema", "says_something"),
    [
        (None, False),
        ({"type": "object"}, False),
        ({"type": "object", "properties": {}}, False),
        ({"type": "object", "properties": {"a": {}}}, True),
        ({"$ref": "#/$defs/A"}, True),
    ],
)
def test_an_empty_object_says_nothing(schema, says_something):
    assert has_properties(schema) is says_something


def test_googles_schema_becomes_json_schema():
    schema = {
        "type": "OBJECT",
        "nullable": True,
        "property_ordering": ["a"],
        "properties": {
            "a": {"type": "STRING", "enum": ["x"], "format": "enum", "nullable": True},
            "b": {"any_of": [{"type": "NUMBER"}], "nullable": True},
            "c": {"type": "ARRAY", "items": {"type": "INTEGER"}, "maxItems": "3"},
        },
    }

    assert to_json_schema(schema) == {
        "type": ["object", "null"],
        "properties": {
            "a": {"type": ["string", "null"], "enum": ["x", None]},
            "b": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "c": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        },
    }


words = st.sampled_from(["type", "properties", "items", "anyOf", "allOf", "$ref", "enum", "const", "required", "$defs"])
odd = st.recursive(
    st.none() | st.booleans() | st.sampled_from(["string", "object", "array", "#", "#/$defs/a", "#/properties"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.just("a"), inner, max_size=4),
    max_leaves=25,
)


@given(st.dictionaries(words, odd, max_size=5))
def test_any_schema_can_be_written(schema):
    to_subset(schema)
    to_json_schema(schema)
    has_properties(schema)
