"""Promises of `gateway.dialects.anthropic_encode` towards Anthropic: what it refuses is not sent, and what is left out
is said.
"""

import base64
import itertools
import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import anthropic_decode, anthropic_encode, blocks
from gateway.dialects.anthropic_schema import closed
from gateway.dialects.blocks import (
    Audio,
    Choice,
    Document,
    Format,
    Image,
    Message,
    Opaque,
    Reasoning,
    Redacted,
    Refusal,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from tests.gateway.dialects.facts import Facts

PNG = "iVBORw0KGgoAAAA="
PDF = "JVBERi0xLjQ="
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
LOOK = Tool(name="look", description="Looks.", parameters={"type": "object", "properties": {}})


@dataclass(frozen=True)
class Model(Facts):
    """A Claude that does not think."""

    upstream: str = "claude-x"
    max_output_tokens: int | None = 64_000
    capabilities: frozenset[str] = frozenset({"tools", "json_schema"})


def user(*content, name=None):
    return Message(role="user", blocks=[Text(item) if isinstance(item, str) else item for item in content], name=name)


def assistant(*content):
    return Message(role="assistant", blocks=[Text(item) if isinstance(item, str) else item for item in content])


def system(text):
    return Message(role="system", blocks=[Text(text)])


def sent(messages=None, *, order=None, **members):
    facts = {name: members.pop(name) for name in list(members) if name in Model.__dataclass_fields__}
    request = blocks.Request(dialect="openai_chat", model="x", messages=messages or [user("hello")], **members)
    return anthropic_encode.request(request, blocks.Order(model=Model(**facts), **(order or {})))


def body(messages=None, **members):
    return json.loads(sent(messages, **members).body)


def spoken(*messages, **members):
    return body(list(messages), **members)["messages"]


def dropped(**members):
    return sent(**members).dropped


def refused(*content, **members):
    with pytest.raises(blocks.Unsupported) as caught:
        sent([user(*content)] if content else None, **members)
    return caught.value.param


# --- the conversation -----------------------------------------------------------------------------------------------


def test_a_plain_question():
    out = sent(system=[Text("be kind")], max_output=50, stream=True)
    assert json.loads(out.body) == {
        "model": "claude-x",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "be kind"}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        "stream": True,
    }
    assert (out.path, out.headers, out.dropped) == ("/messages", {"anthropic-version": "2023-06-01"}, [])


def test_google_has_the_model_in_the_address():
    out = sent(order={"variant": "vertex"}, upstream="claude-x@1", stream=True)
    assert out.path == "/models/claude-x@1:streamRawPredict"
    assert out.headers == {}
    assert json.loads(out.body)["anthropic_version"] == "vertex-2023-10-16"
    assert "model" not in json.loads(out.body)


def test_empty_text_is_not_sent():
    assert spoken(user("", "hello", " \n"), assistant("")) == [
        {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    ]


def test_nobody_speaks_twice():
    roles = [turn["role"] for turn in spoken(user("a"), user("b"), assistant("c"), assistant("d"), user("e"))]
    assert roles == ["user", "assistant", "user"]


def test_a_user_begins():
    assert spoken(assistant("hi"), user("hello"))[0]["role"] == "user"
    assert body([system("only this")])["messages"][0]["role"] == "user"


def test_an_answer_to_be_continued_does_not_end_in_space():
    assert spoken(user("a"), assistant("The answer is \n"))[-1]["content"][0]["text"] == "The answer is"


def test_results_of_tools_come_first_in_the_order_of_their_calls():
    turns = spoken(
        user("go"),
        assistant("ok", ToolCall(id="t1", name="look"), ToolCall(id="t2", name="look", arguments='{"a": 1}')),
        user(ToolResult(id="t2", content=[Text("two")])),
        user("by the way"),
        user(ToolResult(id="t1", content=[Text("one")], is_error=True)),
    )
    assert [block["type"] for block in turns[1]["content"]] == ["text", "tool_use", "tool_use"]
    assert [block["input"] for block in turns[1]["content"][1:]] == [{}, {"a": 1}]
    assert turns[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "t1", "content": "one", "is_error": True},
        {"type": "tool_result", "tool_use_id": "t2", "content": "two"},
        {"type": "text", "text": "by the way"},
    ]


def test_a_result_may_be_nothing_or_an_image():
    turns = spoken(
        user("go"),
        assistant(ToolCall(id="t", name="look")),
        user(ToolResult(id="t", content=[Text("")]), ToolResult(id="t", content=[Text("x"), Image(data=PNG)])),
    )
    assert turns[2]["content"][0] == {"type": "tool_result", "tool_use_id": "t"}
    assert [block["type"] for block in turns[2]["content"][1]["content"]] == ["text", "image"]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [("", {}), (" ", {}), ('{"a":1}', {"a": 1}), ("[1]", {"__raw": "[1]"}), ('{"a":', {"__raw": '{"a":'})],
)
def test_arguments_become_an_object(arguments, given):
    turns = spoken(user("go"), assistant(ToolCall(id="t", name="look", arguments=arguments)))
    assert turns[1]["content"][0]["input"] == given


def test_ids_are_put_into_anthropics_alphabet_for_call_and_result_alike():
    turns = spoken(
        user("go"),
        assistant(ToolCall(id="call:1", name="a"), ToolCall(id="call_1", name="b"), ToolCall(id="", name="c")),
        user(ToolResult(id="call_1"), ToolResult(id="call:1"), ToolResult(id="")),
    )
    calls = [block["id"] for block in turns[1]["content"]]
    assert calls == ["call_1", "call_1_2", "call"]
    assert [block["tool_use_id"] for block in turns[2]["content"]] == calls


def test_calls_of_the_same_id_are_told_apart():
    turns = spoken(
        user("go"),
        assistant(ToolCall(id="call_0", name="a"), ToolCall(id="call_0", name="b")),
        user("so?", ToolResult(id="call_0", content=[Text("a")]), ToolResult(id="call_0", content=[Text("b")])),
        assistant(ToolCall(id="call_0", name="c")),
        user(ToolResult(id="call_0", content=[Text("c")])),
    )
    calls = [block["id"] for turn in turns for block in turn["content"] if block["type"] == "tool_use"]
    results = [block for turn in turns for block in turn["content"] if block["type"] == "tool_result"]
    assert len(set(calls)) == 3
    assert [(block["tool_use_id"], block["content"]) for block in results] == list(zip(calls, "abc", strict=True))


def test_names_are_put_into_anthropics_alphabet_and_can_be_put_back():
    tools = [Tool(name="a.b"), Tool(name="a_b"), Tool(name=anthropic_decode.JSON_TOOL), Tool(name="x" * 200)]
    out = sent(
        [user("go"), assistant(ToolCall(id="t", name="a.b"))], tools=tools, choice=Choice(mode="named", names=["a.b"])
    )
    names = [tool["name"] for tool in json.loads(out.body)["tools"]]
    assert len(set(names)) == 4
    assert all(len(name) <= 128 and "." not in name for name in names)
    assert anthropic_decode.JSON_TOOL not in names
    assert [out.names.get(name, name) for name in names] == [tool.name for tool in tools]
    assert json.loads(out.body)["tool_choice"]["name"] == names[0]
    assert json.loads(out.body)["messages"][1]["content"][0]["name"] == names[0]


def test_anthropics_own_reasoning_goes_back_and_no_other():
    own = [Thinking(text="a", signature="S", dialect="anthropic"), Redacted(data="R", dialect="anthropic")]
    foreign = [Thinking(text="b", signature="S", dialect="gemini"), Thinking(text="c"), Redacted(data="R", dialect="x")]
    out = sent([user("go"), assistant(*own, *foreign, "hi"), user("on")])
    assert [block["type"] for block in json.loads(out.body)["messages"][1]["content"]] == [
        "thinking",
        "redacted_thinking",
        "text",
    ]
    assert out.dropped == ["messages.thinking_blocks"]


def test_blocks_only_anthropic_understands_go_back_to_anthropic():
    own = Opaque(dialect="anthropic", value={"type": "server_tool_use", "id": "s"})
    out = sent([user("go"), assistant(own, Opaque(dialect="gemini", value={}), Refusal("no"))])
    assert json.loads(out.body)["messages"][1]["content"] == [
        {"type": "server_tool_use", "id": "s"},
        {"type": "text", "text": "no"},
    ]
    assert out.dropped == ["messages.content"]


def test_a_system_message_stays_where_the_model_takes_it():
    able = {"capabilities": frozenset({"system_anywhere"})}
    assert [turn["role"] for turn in spoken(user("a"), system("b"), assistant("c"), user("d"), **able)][1] == "system"
    assert spoken(user("a"), system("b"), **able)[1] == {"role": "system", "content": [{"type": "text", "text": "b"}]}


@pytest.mark.parametrize(
    ("messages", "able"),
    [([user("a"), system("b")], False), ([user("a"), assistant("x"), system("b"), user("c")], True)],
)
def test_elsewhere_a_user_says_it(messages, able):
    turns = spoken(*messages, capabilities=frozenset({"system_anywhere"} if able else ()))
    assert [turn["role"] for turn in turns] == (["user"] if not able else ["user", "assistant", "user"])
    assert {"type": "text", "text": "<system>\nb\n</system>"} in turns[-1]["content"]


def test_marks_of_the_cache_are_kept_the_last_four():
    tools = [Tool(name="t", cache="1h")]
    out = body([user(*(Text(str(number), "5m") for number in range(4)))], tools=tools, system=[Text("s", "1h")])
    assert "cache_control" not in out["tools"][0]
    assert "cache_control" not in out["system"][0]
    assert [block["cache_control"] for block in out["messages"][0]["content"]] == [{"type": "ephemeral"}] * 4
    assert body(system=[Text("s", "1h")])["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "source"),
    [
        (Image(data=PNG, media_type="image/png"), {"type": "base64", "media_type": "image/png", "data": PNG}),
        (Image(data=PNG, media_type="image/jpeg"), {"type": "base64", "media_type": "image/png", "data": PNG}),
        (Image(data="AAAA", media_type="image/jpg"), {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}),
        (Image(url="https://x/a.png"), {"type": "url", "url": "https://x/a.png"}),
        (Image(file_id="file_1"), {"type": "file", "file_id": "file_1"}),
        (
            Image(data=PDF, media_type="application/pdf"),
            {"type": "base64", "media_type": "application/pdf", "data": PDF},
        ),
        (Document(data=PDF), {"type": "base64", "media_type": "application/pdf", "data": PDF}),
        (Document(url="https://x/a.pdf"), {"type": "url", "url": "https://x/a.pdf"}),
        (Document(text="t", media_type="text/plain"), {"type": "text", "media_type": "text/plain", "data": "t"}),
        (
            Document(data=base64.b64encode("é".encode()).decode(), media_type="text/csv"),
            {"type": "text", "media_type": "text/plain", "data": "é"},
        ),
    ],
)
def test_files_are_sent_as_what_they_are(block, source):
    assert spoken(user(block))[0]["content"][0]["source"] == source


def test_a_document_keeps_its_name_and_what_is_said_about_it():
    block = spoken(user(Document(data=PDF, name="a.pdf", context="c", citations=True)))[0]["content"][0]
    assert (block["title"], block["context"], block["citations"]) == ("a.pdf", "c", {"enabled": True})


@pytest.mark.parametrize(
    "block",
    [
        Image(data="AAAA", media_type="image/svg+xml"),
        Image(file_id="file-abc"),
        Document(file_id="files/abc"),
        Document(data="AAAA", media_type="application/msword"),
        Document(data="/w==", media_type="text/plain"),
        Audio(data="AAAA", format="wav"),
    ],
)
def test_what_cannot_be_read_is_refused(block):
    assert refused(block) == "messages[0]"


def test_a_file_of_unknown_length_is_refused_on_credits():
    assert refused(Document(url="https://x/a.pdf"), order={"credits": True}) == "messages[0]"
    assert refused(Image(file_id="file_1"), order={"credits": True}) == "messages[0]"


def test_an_assistant_shows_nothing():
    assert dropped(messages=[user("a"), assistant("b", Image(data=PNG)), user("c")]) == ["messages.images"]


# --- tools ----------------------------------------------------------------------------------------------------------


def test_tools_are_told():
    assert body(tools=[LOOK])["tools"] == [
        {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
    ]
    assert body(tools=[Tool(name="t")])["tools"][0]["input_schema"] == {"type": "object", "properties": {}}


def test_no_tools_are_no_list():
    out = body(tools=[], choice=Choice(mode="required"), parallel=False)
    assert "tools" not in out
    assert "tool_choice" not in out


def test_a_strict_tool_is_strict_where_its_schema_can_be_enforced():
    strict = body(tools=[Tool(name="t", parameters=SCHEMA, strict=True)])["tools"][0]
    assert strict["strict"] is True
    assert strict["input_schema"]["additionalProperties"] is False
    out = sent(tools=[Tool(name="t", parameters={"type": "object"}, strict=True)])
    assert "strict" not in json.loads(out.body)["tools"][0]
    assert out.dropped == ["tools.strict"]


def test_a_tool_that_takes_text_takes_it_as_input():
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /x+/"}
    tool = body(tools=[Tool(name="t", description="D", custom=True, format=grammar)])["tools"][0]
    assert tool["input_schema"]["required"] == ["input"]
    assert "start: /x+/" in tool["description"]
    turns = spoken(user("go"), assistant(ToolCall(id="t", name="t", arguments="xxx", custom=True)))
    assert turns[1]["content"][0]["input"] == {"input": "xxx"}


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (Choice(mode="auto"), None, {"type": "auto"}),
        (Choice(mode="none"), False, {"type": "none"}),
        (Choice(mode="required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (Choice(mode="named", names=["look"]), None, {"type": "tool", "name": "look"}),
        (Choice(mode="allowed", names=["look"]), None, {"type": "auto"}),
        (Choice(mode="allowed", names=["look"], required=True), None, {"type": "any"}),
    ],
)
def test_which_tools_may_be_called(choice, parallel, expected):
    out = body(tools=[LOOK, Tool(name="other")], choice=choice, parallel=parallel)
    assert out.get("tool_choice") == expected
    assert len(out["tools"]) == (1 if choice and choice.mode == "allowed" else 2)


def test_a_search_of_the_web_is_anthropics():
    openai = {
        "type": "web_search",
        "filters": {"allowed_domains": ["example.org"]},
        "user_location": {"type": "approximate", "approximate": {"country": "FR", "city": ""}},
    }
    assert body(tools=[ServerTool(dialect="openai_chat", value=openai, kind="web_search")])["tools"] == [
        {
            "type": "web_search_20250305",
            "name": "web_search",
            "allowed_domains": ["example.org"],
            "user_location": {"type": "approximate", "country": "FR"},
        }
    ]


def test_tools_of_other_providers_and_tools_on_credits_are_refused():
    other = ServerTool(dialect="openai_responses", value={"type": "file_search"})
    assert refused(tools=[LOOK, other]) == "tools[1]"
    own = ServerTool(
        dialect="anthropic", value={"type": "web_search_20250305", "name": "web_search"}, kind="web_search"
    )
    assert body(tools=[own])["tools"] == [own.value]
    assert refused(tools=[own], order={"credits": True}) == "tools[0]"
    named = ServerTool(dialect="openai_chat", value={"type": "code_execution_20250825", "name": "code_execution"})
    assert body(tools=[named])["tools"] == [named.value]
    assert refused(tools=[named], order={"credits": True}) == "tools[0]"
    mine = ServerTool(dialect="openai_chat", value={"type": "bash_20250124", "name": "bash"})
    assert body(tools=[mine], order={"credits": True})["tools"] == [mine.value]


# --- the form of the answer -----------------------------------------------------------------------------------------


def test_a_schema_is_enforced_where_the_model_can():
    out = body(format=Format(kind="json_schema", schema=SCHEMA, name="x"))
    form = out["output_config"]["format"]
    assert form["type"] == "json_schema"
    assert form["schema"]["additionalProperties"] is False
    assert form["schema"]["properties"]["a"] == {"type": "integer", "description": "{minimum: 1}"}


def test_elsewhere_a_tool_is_forced_whose_input_is_the_answer():
    out = body(format=Format(kind="json_schema", schema=SCHEMA, description="D"), capabilities=frozenset())
    assert out["tools"][0]["name"] == anthropic_decode.JSON_TOOL
    assert out["tools"][0]["input_schema"] == SCHEMA
    assert out["tool_choice"] == {
        "type": "tool",
        "name": anthropic_decode.JSON_TOOL,
        "disable_parallel_tool_use": True,
    }


def test_beside_other_tools_the_answer_is_one_of_the_calls():
    form = Format(kind="json_schema", schema=SCHEMA)
    out = body(format=form, capabilities=frozenset(), tools=[LOOK])
    assert [tool["name"] for tool in out["tools"]] == ["look", anthropic_decode.JSON_TOOL]
    assert out["tool_choice"] == {"type": "any"}
    out = body(format=form, capabilities=frozenset(), tools=[LOOK], choice=Choice(mode="none"))
    assert out["tool_choice"]["name"] == anthropic_decode.JSON_TOOL


@pytest.mark.parametrize(
    "members",
    [
        {"format": Format(kind="json_object")},
        {"format": Format(kind="json_schema", schema={"type": "array", "items": {}}), "capabilities": frozenset()},
        {"format": Format(kind="json_schema", schema=SCHEMA), "capabilities": frozenset(), "thinking": "always_on"},
    ],
)
def test_what_cannot_be_enforced_is_told(members):
    out = body(system=[Text("be kind")], **members)
    assert len(out["system"]) == 2
    assert "JSON" in out["system"][1]["text"]
    assert out.keys() == {"model", "max_tokens", "system", "messages"}


# --- thinking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("minimal", 1024), ("low", 1024), ("medium", 2048), ("high", 4096), ("xhigh", 8192), ("max", 16_384)],
)
def test_an_effort_is_a_budget_where_a_model_wants_one(effort, budget):
    out = body(reasoning=Reasoning(effort=effort), thinking="budget", max_output=20_000)
    assert out["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert out["max_tokens"] == 20_000


def test_the_limit_is_raised_above_the_budget_but_never_on_credits():
    members = {"reasoning": Reasoning(budget=5000), "thinking": "budget", "max_output": 3000}
    out = body(**members)
    assert (out["max_tokens"], out["thinking"]["budget_tokens"]) == (8000, 5000)
    out = body(**members, order={"credits": True, "max_output": 3000})
    assert (out["max_tokens"], out["thinking"]["budget_tokens"]) == (3000, 2999)
    out = body(**members, max_output_tokens=4000)
    assert (out["max_tokens"], out["thinking"]["budget_tokens"]) == (4000, 3999)
    small = sent(**(members | {"max_output": 500}), order={"credits": True, "max_output": 500})
    assert "thinking" not in json.loads(small.body)
    assert small.dropped == ["reasoning_effort"]


@pytest.mark.parametrize(
    ("kind", "reasoning", "thinking", "effort"),
    [
        ("adaptive", {"effort": "high"}, {"type": "adaptive", "display": "summarized"}, "high"),
        ("adaptive", {"effort": "minimal"}, {"type": "adaptive", "display": "summarized"}, "low"),
        ("adaptive", {"effort": "xhigh"}, {"type": "adaptive", "display": "summarized"}, "high"),
        ("adaptive", {"effort": "max"}, {"type": "adaptive", "display": "summarized"}, "max"),
        ("adaptive", {"mode": "adaptive", "visible": False}, {"type": "adaptive", "display": "omitted"}, None),
        ("adaptive", {"budget": 2000}, {"type": "adaptive", "display": "summarized"}, "low"),
        ("adaptive", {"budget": 9000}, {"type": "adaptive", "display": "summarized"}, "high"),
        ("adaptive", {"effort": "none"}, {"type": "disabled"}, None),
        ("adaptive", {"mode": "disabled", "effort": "low"}, {"type": "disabled"}, "low"),
        ("adaptive", {"mode": "between_tools"}, {"type": "between_tools"}, None),
        ("always_on", {"effort": "none"}, None, "low"),
        ("always_on", {"effort": "medium"}, {"type": "adaptive", "display": "summarized"}, "medium"),
        ("effort", {"effort": "medium"}, None, "medium"),
        ("none", {"mode": "enabled", "budget": 2000}, {"type": "enabled", "budget_tokens": 2000}, None),
        ("none", {"mode": "adaptive"}, {"type": "adaptive", "display": "summarized"}, None),
        ("budget", {"mode": "adaptive"}, {"type": "enabled", "budget_tokens": 2048}, None),
        ("budget", {"effort": "none"}, None, None),
    ],
)
def test_a_model_is_told_to_think_in_its_own_way(kind, reasoning, thinking, effort):
    out = body(reasoning=Reasoning(**reasoning), thinking=kind, efforts=("low", "medium", "high", "max"))
    assert out.get("thinking") == thinking
    assert out.get("output_config", {}).get("effort") == effort


def test_an_effort_stands_beside_the_form_of_the_answer():
    form = Format(kind="json_schema", schema=SCHEMA)
    out = body(reasoning=Reasoning(effort="low"), thinking="adaptive", format=form)
    assert out["output_config"].keys() == {"effort", "format"}


def test_a_model_that_does_not_think_says_so():
    assert dropped(reasoning=Reasoning(effort="high")) == ["reasoning_effort"]
    assert dropped(reasoning=Reasoning(effort="none")) == []


@pytest.mark.parametrize("kind", ["budget", "adaptive"])
def test_who_is_forced_to_call_a_tool_does_not_think(kind):
    out = sent(tools=[LOOK], choice=Choice(mode="required"), reasoning=Reasoning(effort="high"), thinking=kind)
    assert json.loads(out.body).get("thinking", {"type": "disabled"}) == {"type": "disabled"}
    assert json.loads(out.body)["tool_choice"] == {"type": "any"}
    assert out.dropped == ["reasoning_effort"]


def test_who_always_thinks_is_not_forced():
    out = sent(tools=[LOOK], choice=Choice(mode="required"), reasoning=Reasoning(effort="high"), thinking="always_on")
    assert json.loads(out.body)["tool_choice"] == {"type": "auto"}
    assert json.loads(out.body)["thinking"]["type"] == "adaptive"
    assert out.dropped == ["tool_choice"]


def test_a_turn_with_tools_whose_thoughts_are_lost_goes_on_without():
    call, result = ToolCall(id="t", name="look"), user(ToolResult(id="t"))
    members = {"reasoning": Reasoning(effort="high"), "thinking": "budget"}
    lost = sent([user("go"), assistant(call), result], **members)
    assert "thinking" not in json.loads(lost.body)
    assert lost.dropped == ["reasoning_effort"]
    kept = assistant(Thinking(text="a", signature="S", dialect="anthropic"), call)
    assert "thinking" in body([user("go"), kept, result], **members)
    assert "thinking" in body([user("go"), assistant(call), result, assistant("done"), user("next")], **members)


def test_who_thinks_is_not_sampled_freely():
    members = {"reasoning": Reasoning(effort="low"), "thinking": "budget"}
    out = sent(**members, temperature=0.2, top_k=5, top_p=0.5)
    assert json.loads(out.body).keys().isdisjoint({"temperature", "top_k", "top_p"})
    assert out.dropped == ["temperature", "top_k", "top_p"]
    assert dropped(**members, temperature=1, top_p=0.97) == []


# --- parameters -----------------------------------------------------------------------------------------------------


def test_the_smallest_limit_counts():
    assert body()["max_tokens"] == 64_000
    assert body(max_output_tokens=None)["max_tokens"] == 4096
    assert body(max_output=100_000)["max_tokens"] == 64_000
    assert body(max_output=100, order={"max_output": 50})["max_tokens"] == 50
    assert body(order={"max_output": 5000})["max_tokens"] == 5000


@pytest.mark.parametrize(
    ("temperature", "top_p", "out", "left_out"),
    [
        (1.7, None, {"temperature": 1.0}, []),
        (0.0, None, {"temperature": 0.0}, []),
        (None, 0.5, {"top_p": 0.5}, []),
        (0.5, 0.5, {"temperature": 0.5}, ["top_p"]),
        (0.5, 1, {"temperature": 0.5}, []),
        (1, 0.5, {"top_p": 0.5}, []),
    ],
)
def test_one_of_temperature_and_top_p(temperature, top_p, out, left_out):
    found = sent(temperature=temperature, top_p=top_p)
    assert {name: value for name, value in json.loads(found.body).items() if name in ("temperature", "top_p")} == out
    assert found.dropped == left_out


def test_what_the_model_refuses_is_left_out():
    refused = frozenset({"temperature", "top_p", "top_k", "stop", "service_tier"})
    out = sent(temperature=0.1, top_p=0.1, top_k=1, stop=["x"], service_tier="auto", unsupported=refused)
    assert json.loads(out.body).keys() == {"model", "max_tokens", "messages"}
    assert sorted(out.dropped) == sorted(refused)


def test_a_stop_of_nothing_but_space_is_left_out():
    out = sent(stop=["\n", "END", ""])
    assert json.loads(out.body)["stop_sequences"] == ["END"]
    assert out.dropped == ["stop"]
    assert "stop_sequences" not in body(stop=["\n"])


def test_who_asks_is_not_told():
    told = body(user="jane@example.org")["metadata"]["user_id"]
    assert "jane" not in told
    assert told == body(user="jane@example.org")["metadata"]["user_id"]


@pytest.mark.parametrize(
    ("tier", "expected"), [("auto", "auto"), ("default", "standard_only"), ("priority", "auto"), ("flex", None)]
)
def test_the_tier_has_other_names(tier, expected):
    assert body(service_tier=tier).get("service_tier") == expected
    out = sent(service_tier=tier, order={"credits": True})
    assert "service_tier" not in json.loads(out.body)
    assert out.dropped == ["service_tier"]


def test_what_nothing_here_can_follow_is_named():
    out = sent(
        seed=1,
        presence_penalty=0.5,
        frequency_penalty=0,
        logprobs=True,
        verbosity="low",
        extra={"prompt_cache_key": "k", "metadata": {}},
        order={"ours": frozenset({"metadata"})},
    )
    assert out.dropped == ["seed", "presence_penalty", "logprobs", "verbosity", "prompt_cache_key"]


def test_several_answers_and_sound_are_refused():
    assert refused(n=2) == "n"
    assert refused(modalities=["text", "audio"]) == "modalities"
    assert body(n=1, modalities=["text"])


# --- schemas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "object", "properties": {"a": {"$ref": "https://example.org/a"}}},
        {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
        {"enum": [{"a": 1}]},
        {"type": "array", "prefixItems": [{"type": "string"}]},
        {"type": "tuple"},
        {"type": "object", "properties": []},
        {"$defs": {str(number): {"type": "null"} for number in range(101)}, "type": "null"},
    ],
)
def test_a_schema_that_cannot_be_enforced_is_none(schema):
    assert closed(schema) is None


def test_a_schema_is_closed_everywhere():
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"e": {"type": "string", "enum": ["x", "y"]}},
        "type": "object",
        "properties": {
            "one": {"oneOf": [{"$ref": "#/$defs/e"}, {"type": "null"}]},
            "many": {"type": "array", "minItems": 3, "items": {"type": "object", "properties": {}}},
            "when": {"type": ["string", "null"], "format": "date", "description": "D", "pattern": "^2"},
        },
        "required": ["one"],
        "additionalProperties": True,
    }
    assert closed(schema) == {
        "$defs": {"e": {"type": "string", "enum": ["x", "y"]}},
        "type": "object",
        "properties": {
            "one": {"anyOf": [{"$ref": "#/$defs/e"}, {"type": "null"}]},
            "many": {
                "type": "array",
                "items": {"type": "object", "properties": {}, "additionalProperties": False},
                "description": "{minItems: 3}",
            },
            "when": {"type": ["string", "null"], "format": "date", "description": 'D\n\n{pattern: "^2"}'},
        },
        "required": ["one"],
        "additionalProperties": False,
    }


# --- whatever comes -------------------------------------------------------------------------------------------------

_texts = st.text(max_size=5).map(Text)
_calls = st.builds(ToolCall, id=st.text(max_size=4), name=st.text(max_size=4), arguments=st.text(max_size=4))
_results = st.builds(ToolResult, id=st.text(max_size=4), content=st.lists(_texts, max_size=2))
_turns = st.lists(
    st.builds(Message, role=st.just("user"), blocks=st.lists(_texts | _results, max_size=3))
    | st.builds(Message, role=st.just("assistant"), blocks=st.lists(_texts | _calls, max_size=3))
    | st.builds(Message, role=st.just("system"), blocks=st.lists(_texts, max_size=2)),
    max_size=6,
)


@given(_turns, st.sampled_from([frozenset(), frozenset({"system_anywhere"})]))
@settings(max_examples=300, deadline=None)
def test_every_conversation_keeps_the_rules(turns, able):
    messages = spoken(*turns, capabilities=able)
    roles = [message["role"] for message in messages]
    assert roles[0] == "user"
    assert all(one != other for one, other in itertools.pairwise(roles))
    for before, message, after in zip([None, *roles], messages, [*roles[1:], "assistant"], strict=False):
        assert message["content"]
        if message["role"] == "system":
            assert (before, after) == ("user", "assistant")
        kinds = [block["type"] == "tool_result" for block in message["content"]]
        assert kinds == sorted(kinds, reverse=True)
        for block in message["content"]:
            assert block["type"] != "text" or block["text"].strip()
            assert block["type"] != "tool_use" or isinstance(block["input"], dict)


def test_on_credits_another_vendors_search_is_left_out_unless_it_is_forced():
    search = ServerTool(dialect="openai_responses", value={"type": "web_search"}, kind="web_search")
    free = sent(tools=[search], order={"credits": True})
    assert ("tools" not in json.loads(free.body) or not json.loads(free.body)["tools"], free.dropped) == (
        True,
        ["tools.web_search"],
    )
    with pytest.raises(blocks.Unsupported):
        sent(tools=[search], choice=blocks.Choice(mode="required"), order={"credits": True})


def test_a_schema_whose_type_is_no_word_is_not_said_natively():
    assert closed({"type": [[["object"]]]}) is None
