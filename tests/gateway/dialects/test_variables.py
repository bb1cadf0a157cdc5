"""Promises of `gateway.dialects.variables`: names become values once, images take their place, the rest stays."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import openai_chat
from gateway.dialects.variables import filled
from gateway.dialects.wire import InvalidBody


def fill(content, variables, role="user"):
    messages = [{"role": role, "content": content}]
    asked = openai_chat.read(json.dumps({"model": "m", "messages": messages}).encode())
    new = filled(asked.members, asked.messages, variables)
    return None if new is None else json.loads(new)[0]["content"]


IMAGE = {"_type": "image_url", "value": "https://example.org/cat.png"}
PART = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}


@pytest.mark.parametrize(
    ("content", "variables", "expected"),
    [
        ("Hello {{name}}!", {"name": "Ada"}, "Hello Ada!"),
        ("{{ name }}{{name}}", {"name": "Ada"}, "AdaAda"),
        ("{{n}} of {{list}}", {"n": 3, "list": [1, "b"]}, '3 of [1,"b"]'),
        ("{{yes}} {{nothing}}", {"yes": True, "nothing": None}, "true null"),
        ("{{a}} and {{unknown}}", {"a": "x"}, "x and {{unknown}}"),
        ("{{a}}", {"a": ""}, ""),
        ("{{a}}", {"a": {"_type": "text", "value": "plain"}}, "plain"),
        ("{{a}}", {"a": {"_type": "json", "value": {"b": 1}}}, '{"b":1}'),
        ("{{a}}", {"a": {"b": 1}}, '{"b":1}'),
    ],
)
def test_a_name_becomes_its_value(content, variables, expected):
    assert fill(content, variables) == expected


@pytest.mark.parametrize("content", ["no names", "{{other}}", "{ {name} }", "{{}}", "{{a b}}", ""])
def test_what_holds_no_name_of_a_value_stays_untouched(content):
    assert fill(content, {"name": "Ada"}) is None


def test_without_variables_nothing_changes():
    assert fill("{{name}}", {}) is None


def test_a_value_is_never_a_template():
    assert fill("{{a}} {{b}}", {"a": "{{b}}", "b": "{{a}}"}) == "{{b}} {{a}}"
    assert fill("{{{{a}}}}", {"a": "b", "b": "secret"}) == "{{b}}"


def test_an_image_takes_the_place_of_its_name():
    assert fill("Before {{cat}} after", {"cat": IMAGE}) == [
        {"type": "text", "text": "Before "},
        PART,
        {"type": "text", "text": " after"},
    ]
    assert fill("{{cat}}", {"cat": IMAGE}) == [PART]


def test_an_image_may_have_a_detail_and_may_be_bare_base64():
    low = {"_type": "image_url", "value": {"url": "https://example.org/cat.png", "detail": "low"}}
    bare = {"_type": "image_url", "value": "iVBORw0KGgo="}

    assert fill("{{a}}", {"a": low})[0]["image_url"] == {"url": "https://example.org/cat.png", "detail": "low"}
    assert fill("{{a}}", {"a": bare})[0]["image_url"] == {"url": "data:image/png;base64,iVBORw0KGgo="}


def test_a_part_of_text_is_filled_and_its_mark_stays_at_its_end():
    marked = {"type": "text", "text": "See {{cat}}", "cache_control": {"type": "ephemeral"}}

    assert fill([{"type": "text", "text": "as it is"}, marked, PART], {"cat": IMAGE}) == [
        {"type": "text", "text": "as it is"},
        {"type": "text", "text": "See "},
        PART | {"cache_control": {"type": "ephemeral"}},
        PART,
    ]
    assert fill([marked], {"cat": "a cat"}) == [marked | {"text": "See a cat"}]


def test_a_system_message_shows_no_images_and_what_a_tool_said_is_no_template():
    assert fill("{{cat}} {{name}}", {"cat": IMAGE, "name": "Ada"}, role="system") == "{{cat}} Ada"
    assert fill("{{name}}", {"name": "Ada"}, role="tool") is None


def test_only_messages_with_names_change():
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "{{x}}", "name": "n"}]
    asked = openai_chat.read(json.dumps({"model": "m", "messages": messages}).encode())

    assert json.loads(filled(asked.members, asked.messages, {"x": "y"})) == [
        messages[0],
        {"role": "user", "content": "y", "name": "n"},
    ]
    assert asked.messages == messages


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"_type": "image_url"}, "variables.a.value"),
        ({"_type": "image_url", "value": ""}, "variables.a.value"),
        ({"_type": "image_url", "value": {"detail": "low"}}, "variables.a.value"),
        ({"_type": "video", "value": "x"}, "variables.a._type"),
    ],
)
def test_a_variable_without_the_value_of_its_type_is_refused_by_name(value, param):
    with pytest.raises(InvalidBody) as caught:
        fill("{{a}}", {"a": value})
    assert caught.value.param == param


PIECES = st.lists(st.sampled_from(["{{a}}", "{{b}}", "{{ c }}", "{", "}", "{{", "}}", "a", "é "])).map("".join)


@given(PIECES, st.dictionaries(st.sampled_from("abc"), PIECES))
def test_texts_are_filled_in_one_pass(text, variables):
    expected = re.sub(r"\{\{ ?([abc]) ?\}\}", lambda match: variables.get(match[1], match[0]), text)

    assert (fill(text, variables) or text) == expected or expected == ""
