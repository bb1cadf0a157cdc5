"""The key of a cached answer: what makes two requests the same, and what never does."""

import json
from typing import Any

import msgspec
import pytest

from gateway import cache_key, params
from gateway.dialects import openai_chat

SECRET = b"s" * 32
QUESTION = {"model": "a", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}


def key(body: Any = QUESTION, *, secret: bytes = SECRET, form: str | None = None, **scope: Any) -> bytes | None:
    text = body if isinstance(body, str) else json.dumps(body)
    whose = {"tenant": "org_1", "environment": "production", "dialect": "openai_chat", **scope}
    members = openai_chat.read(text.encode()).members
    return cache_key.build(secret, cache_key.Scope(**whose), members, drop=params.OURS, form=form)


def test_the_same_question_has_the_same_key_however_it_is_written() -> None:
    turned = {name: QUESTION[name] for name in reversed(QUESTION)}
    assert (
        key() == key(turned) == key(json.dumps(QUESTION, indent=3)) == key(json.dumps(QUESTION).replace("H", "\\u0048"))
    )
    assert len(key() or b"") == cache_key.SIZE


@pytest.mark.parametrize(
    "member",
    [
        {"cache_enabled": True},
        {"customer_identifier": "somebody"},
        {"metadata": {"run": "1"}},
        {"model": "b"},
        {"respan_params": {"cache_ttl": 5}},
        {"stream": True, "stream_options": {"include_usage": True}},
    ],
    ids=str,
)
def test_how_it_is_carried_out_is_no_part_of_the_question(member: dict[str, Any]) -> None:
    assert key(QUESTION | member) == key()


@pytest.mark.parametrize(
    "member",
    [
        {"max_tokens": 5},
        {"messages": [{"role": "user", "content": "Hello "}]},
        {"messages": [{"role": "system", "content": "Hello"}]},
        {"seed": 1},
        {"temperature": 0.1},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"unheard_of": 1},
        {"user": "somebody"},
    ],
    ids=str,
)
def test_every_other_member_is_part_of_the_question(member: dict[str, Any]) -> None:
    assert key(QUESTION | member) != key()


def test_the_order_of_a_list_is_part_of_the_question() -> None:
    one, two = {"role": "user", "content": "1"}, {"role": "user", "content": "2"}
    assert key(QUESTION | {"messages": [one, two]}) != key(QUESTION | {"messages": [two, one]})


@pytest.mark.parametrize(
    "scope",
    [
        {"customer": "c"},
        {"dialect": "anthropic"},
        {"environment": "test"},
        {"headers": ["beta"]},
        {"model": "a"},
        {"tenant": "org_2"},
    ],
    ids=str,
)
def test_another_scope_has_another_key(scope: dict[str, Any]) -> None:
    assert key(**scope) != key()


def test_another_form_and_another_installation_have_another_key() -> None:
    assert len({key(), key(form="stream"), key(secret=b"t" * 32)}) == 3


def test_no_scope_can_be_written_as_another() -> None:
    assert key(model="a", customer=None) != key(model=None, customer="a")
    assert key(model='a","b') != key(model="a", customer="b")
    assert key(headers=["a", "b"]) != key(headers=["ab"])


def test_a_tenant_cannot_be_left_out() -> None:
    with pytest.raises(TypeError):
        cache_key.Scope(environment="production", dialect="openai_chat")  # type: ignore[call-arg]


def test_what_cannot_be_read_has_no_key() -> None:
    whose = cache_key.Scope(tenant="org_1", environment="test", dialect="openai_chat")
    for raw in (b"{", b"[" * 5_000 + b"]" * 5_000):
        assert cache_key.build(SECRET, whose, {"x": msgspec.Raw(raw)}, drop=params.OURS) is None


@pytest.mark.parametrize("name", ["background", "conversation", "previous_response_id"])
def test_what_the_provider_remembers_is_told_from_what_is_asked(name: str) -> None:
    members = openai_chat.read(json.dumps(QUESTION | {name: "x"}).encode()).members
    empty = openai_chat.read(json.dumps(QUESTION | {name: None}).encode()).members
    assert cache_key.is_stateful(members)
    assert not cache_key.is_stateful(empty)


def test_several_choices_and_logprobs_are_bound_to_their_form() -> None:
    members = openai_chat.read(json.dumps(QUESTION).encode()).members
    assert not cache_key.is_bound_to_form(members, choices=1)
    assert cache_key.is_bound_to_form(members, choices=2)
    with_logprobs = openai_chat.read(json.dumps(QUESTION | {"logprobs": True}).encode()).members
    assert cache_key.is_bound_to_form(with_logprobs, choices=1)
    for settings, is_bound in (({"responseLogprobs": True}, True), ({"topK": 3}, False)):
        asked = {"contents": [], "generationConfig": settings}
        members = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in asked.items()}
        assert cache_key.is_bound_to_form(members, choices=1) is is_bound
