"""Promises of `cohere_encode`: any client's request as Cohere's chat wants it, and a word for all that was left out."""

import json

import pytest
from cohere import types
from hypothesis import HealthCheck, given, settings

from gateway.dialects import blocks, cohere_encode
from gateway.dialects.blocks import (
    Audio,
    Choice,
    Document,
    Format,
    Image,
    Message,
    Opaque,
    Reasoning,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Unsupported,
)
from tests.gateway.dialects.any_request import orders, requests
from tests.gateway.dialects.test_bedrock_encode import WEATHER, Model, asked, assistant, user

FACTS = Model(upstream="command-a-reasoning-08-2025", max_output_tokens=8_000, thinking="budget")


def sent(request, facts=FACTS, **order):
    return cohere_encode.request(request, blocks.Order(model=facts, **order))


def body(request, facts=FACTS, **order):
    return json.loads(sent(request, facts, **order).body)


def messages(*turns, **parameters):
    return body(asked(*turns, **parameters))["messages"]


def dropped(request, facts=FACTS, **order):
    return sent(request, facts, **order).dropped


# --- Messages -------------------------------------------------------------------------------------------------------


def test_a_simple_request_is_a_recorded_one():
    # The body of a recorded call (openllmetry, test_cohere_v2_chat).
    assert body(asked("Tell me a joke, pirate style"), Model(upstream="command")) == {
        "model": "command",
        "messages": [{"role": "user", "content": "Tell me a joke, pirate style"}],
        "stream": False,
    }
    assert sent(asked()).path == "/chat"


def test_a_turn_of_tools_is_as_recorded():
    # The messages of a recorded call (openllmetry, test_cohere_v2_chat_legacy_with_tool_calls).
    calls = [
        ToolCall(id="get_time_dp3men9jrvhf", name="get_time", arguments='{"location":"Tokyo"}'),
        ToolCall(id="get_weather_d7arjgsc96yf", name="get_weather", arguments=""),
    ]
    results = [
        ToolResult(id="get_time_dp3men9jrvhf", content=[Text("4:20 PM")]),
        ToolResult(id="get_weather_d7arjgsc96yf", content=[Text("Sunny "), Document(text="20 degrees")]),
    ]
    assert messages("Tokyo?", assistant("I will look.", *calls), user(*results, "And Kyoto?")) == [
        {"role": "user", "content": "Tokyo?"},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "get_time_dp3men9jrvhf",
                    "type": "function",
                    "function": {"name": "get_time", "arguments": '{"location":"Tokyo"}'},
                },
                {
                    "id": "get_weather_d7arjgsc96yf",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": "{}"},
                },
            ],
            "tool_plan": "I will look.",
        },
        {"role": "tool", "tool_call_id": "get_time_dp3men9jrvhf", "content": "4:20 PM"},
        {"role": "tool", "tool_call_id": "get_weather_d7arjgsc96yf", "content": "Sunny 20 degrees"},
        {"role": "user", "content": "And Kyoto?"},
    ]


def test_system_texts_are_one_message_and_later_ones_stay_where_they_are():
    written = messages(
        "a", Message("system", [Text("Be kind.")]), "b", system=[Text("Be brief."), Text(""), Text("Be good.")]
    )
    assert [(message["role"], message["content"]) for message in written] == [
        ("system", "Be brief.\n\nBe good."),
        ("user", "a"),
        ("system", "Be kind."),
        ("user", "b"),
    ]


def test_a_tool_that_answered_nothing_is_said_to_have():
    assert messages(user(ToolResult(id="1")))[0]["content"] == "(no output)"


def test_pictures_go_by_url_or_as_data():
    content = messages(
        user(
            "look",
            Image(url="https://example.com/a.png", detail="low"),
            Image(media_type="image/gif", data="R0lG", detail="original"),
        )
    )[0]["content"]
    assert content == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lG"}},
    ]


def test_a_picture_in_a_tools_result_follows_as_the_users():
    result = ToolResult(id="1", content=[Text("here"), Image(url="https://example.com/a.png")])
    written = messages(user(result))
    assert [message["role"] for message in written] == ["tool", "user"]
    assert written[1]["content"][0]["type"] == "image_url"


def test_a_text_with_citations_is_a_document_and_one_without_is_text():
    request = asked(
        user(
            "sum up", Document(text="AI helps.", name="benefits.txt", citations=True), Document(text="Aha.", name="n")
        ),
        extra={"documents": ["more"]},
    )
    written = body(request)
    assert written["documents"] == [
        {"id": "doc:0", "data": {"title": "benefits.txt", "text": "AI helps."}},
        "more",
    ]
    assert [part["text"] for part in written["messages"][0]["content"]] == ["sum up", "n\n\nAha."]


@pytest.mark.parametrize(
    "block",
    [Document(data="JVBE"), Document(url="https://a.example"), Audio(data="A", format="wav"), Image(file_id="f")],
)
def test_a_file_that_cannot_be_sent_is_refused(block):
    with pytest.raises(Unsupported) as caught:
        sent(asked(user("x", block)))
    assert caught.value.param == "messages"


def test_a_conversation_of_nothing_is_refused():
    with pytest.raises(Unsupported):
        sent(asked(user(" "), assistant("")))


def test_reasoning_without_signature_goes_back_and_other_reasoning_does_not():
    thoughts = [
        Thinking(text="mine", dialect="cohere"),
        Thinking(text="whose?"),
        Thinking(text="theirs", signature="s", dialect="anthropic"),
        Thinking(text="theirs", dialect="gemini"),
    ]
    request = asked("x", assistant(*thoughts, "y"), "z")
    assert body(request)["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "mine"},
        {"type": "thinking", "thinking": "whose?"},
        {"type": "text", "text": "y"},
    ]
    assert body(request, Model(thinking="none"))["messages"][1] == {"role": "assistant", "content": "y"}


def test_what_only_another_vendor_understands_is_left_out_and_reported():
    foreign = Opaque(dialect="anthropic", value={})
    assert dropped(asked("x", assistant(foreign, "y"), user("z", foreign))) == ["messages"]


# --- Tools and formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "word", "count"),
    [
        (None, None, 2),
        (Choice(mode="auto"), None, 2),
        (Choice(mode="none"), "NONE", 2),
        (Choice(mode="required"), "REQUIRED", 2),
        (Choice(mode="named", names=["get_weather"]), "REQUIRED", 1),
        (Choice(mode="allowed", names=["get_weather"]), None, 1),
        (Choice(mode="allowed", names=["get_weather", "b"], required=True), "REQUIRED", 2),
    ],
)
def test_a_choice_in_coheres_words(choice, word, count):
    written = body(asked(tools=[WEATHER, Tool(name="b")], choice=choice))
    assert written.get("tool_choice") == word
    assert len(written["tools"]) == count
    assert written["tools"][0]["function"]["parameters"] == WEATHER.parameters


def test_a_choice_of_a_tool_that_is_not_there_is_refused():
    with pytest.raises(Unsupported) as caught:
        sent(asked(tools=[WEATHER], choice=Choice(mode="named", names=["other"])))
    assert caught.value.param == "tool_choice"


def test_a_tool_has_parameters_always_and_a_custom_tool_one_string():
    tools = body(asked(tools=[Tool(name="bare"), Tool(name="run", custom=True)]))["tools"]
    assert tools[0] == {"type": "function", "function": {"name": "bare", "parameters": {"type": "object"}}}
    assert tools[1]["function"]["parameters"]["required"] == ["input"]
    call = assistant(ToolCall(id="1", name="run", arguments="ls", custom=True))
    assert messages("x", call)[1]["tool_calls"][0]["function"]["arguments"] == '{"input":"ls"}'


def test_tools_are_strict_when_all_are_and_can_be():
    strict = Tool(name="a", parameters=WEATHER.parameters, strict=True)
    assert body(asked(tools=[strict]))["strict_tools"] is True
    assert "strict_tools" not in body(asked(tools=[strict, WEATHER]))
    assert "strict_tools" not in body(asked(tools=[Tool(name="a", strict=True)]))


def test_a_format_is_asked_for_in_words_too():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    written = body(asked(format=Format(kind="json_schema", schema=schema)))
    assert written["response_format"] == {"type": "json_object", "json_schema": schema}
    assert "JSON" in written["messages"][0]["content"]
    assert body(asked(format=Format(kind="json_object")))["response_format"] == {"type": "json_object"}


def test_a_format_beside_tools_is_left_out_and_reported():
    request = asked(format=Format(kind="json_object"), tools=[WEATHER])
    assert "response_format" not in body(request)
    assert dropped(request) == ["response_format"]
    cited = asked(user("x", Document(text="d", citations=True)), format=Format(kind="json_object"))
    assert dropped(cited) == ["response_format"]


# --- Parameters -----------------------------------------------------------------------------------------------------


def test_parameters_by_coheres_names():
    request = asked(
        max_output=50, temperature=0.3, top_p=1.0, top_k=40, stop=["a", ""], seed=7, frequency_penalty=0.5,
        presence_penalty=2, stream=True, extra={"safety_mode": "STRICT", "citation_options": {"mode": "OFF"}},
    )  # fmt: skip
    written = body(request)
    del written["messages"], written["model"]
    assert written == {
        "stream": True,
        "max_tokens": 50,
        "temperature": 0.3,
        "p": 0.99,
        "k": 40,
        "stop_sequences": ["a"],
        "seed": 7,
        "frequency_penalty": 0.5,
        "presence_penalty": 1,
        "safety_mode": "STRICT",
        "citation_options": {"mode": "OFF"},
    }
    assert dropped(request) == []


def test_what_cohere_does_not_know_is_left_out_and_reported():
    request = asked(
        seed=-1, presence_penalty=-0.5, top_logprobs=2, verbosity="low", user="u", parallel=False, service_tier="flex",
        stop=list("abcdef"), tools=[ServerTool(dialect="openai_chat", value={}, kind="web_search")],
        extra={"logit_bias": {}, "cache_enabled": True, "priority": 1, "safety_mode": 7},
    )  # fmt: skip
    assert set(dropped(request, ours=frozenset({"cache_enabled"}), credits=True)) == {
        "seed", "presence_penalty", "top_logprobs", "verbosity", "user", "parallel_tool_calls", "service_tier", "stop",
        "web_search_options", "logit_bias", "priority", "safety_mode",
    }  # fmt: skip
    assert body(request)["stop_sequences"] == list("abcde")


@pytest.mark.parametrize(("given", "name"), [({"n": 2}, "n"), ({"modalities": ["audio"]}, "modalities")])
def test_what_would_change_the_meaning_is_refused(given, name):
    with pytest.raises(Unsupported) as caught:
        sent(asked(**given))
    assert caught.value.param == name


def test_limits_are_those_of_the_model_and_of_the_gateway():
    assert body(asked(max_output=999_999))["max_tokens"] == 8_000
    assert body(asked(max_output=10), max_output=20)["max_tokens"] == 20
    refuses = Model(unsupported=frozenset({"temperature", "tool_choice"}))
    request = asked(temperature=1, tools=[WEATHER], choice=Choice(mode="required"))
    assert sorted(dropped(request, refuses)) == ["temperature", "tool_choice"]


@pytest.mark.parametrize(
    ("reasoning", "thinking"),
    [
        (Reasoning(), None),
        (Reasoning(effort="none"), {"type": "disabled"}),
        (Reasoning(mode="disabled"), {"type": "disabled"}),
        (Reasoning(effort="high"), {"type": "enabled", "token_budget": 4096}),
        (Reasoning(budget=500, mode="enabled"), {"type": "enabled", "token_budget": 500}),
        (Reasoning(mode="adaptive"), {"type": "enabled"}),
    ],
)
def test_reasoning_in_coheres_words(reasoning, thinking):
    assert body(asked(reasoning=reasoning)).get("thinking") == thinking


def test_a_model_that_cannot_think_is_not_told_to():
    assert dropped(asked(reasoning=Reasoning(effort="low")), Model(thinking="none")) == ["reasoning_effort"]
    assert "thinking" not in body(asked(reasoning=Reasoning(effort="none")), Model(thinking="none"))


# --- Anything at all ------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(requests, orders)
def test_whatever_is_asked_the_body_fits_the_types_of_coheres_sdk(request_, order):
    roles = {
        "user": types.UserChatMessageV2,
        "assistant": types.AssistantChatMessageV2,
        "system": types.SystemChatMessageV2,
        "tool": types.ToolChatMessageV2,
    }
    try:
        written = json.loads(cohere_encode.request(request_, order).body)
    except Unsupported as error:
        assert error.param  # noqa: PT017
        return
    for message in written["messages"]:
        assert_known(roles[message["role"]], message)
        assert message.get("content") or message.get("tool_calls")
        for call in message.get("tool_calls", ()):
            assert_known(types.ToolCallV2, call)
    for tool in written.get("tools", ()):
        assert_known(types.ToolV2, tool)
    if "thinking" in written:
        assert_known(types.Thinking, written["thinking"])
        assert written["thinking"].get("token_budget", 1) > 0
    assert written.get("tool_choice") in (None, "NONE", "REQUIRED")
    assert "tool_choice" not in written or written["tools"]
    assert "response_format" not in written or not {"tools", "documents"} & set(written)


def assert_known(model, value):
    """Assert that a value validates, and has no member the SDK's type does not name."""
    model.model_validate(value)
    assert set(value) <= set(model.model_fields), set(value) - set(model.model_fields)


def test_instructions_alone_get_a_turn_to_answer():
    request = blocks.Request(dialect="openai_chat", model="m", messages=[], system=[blocks.Text("Count to three.")])
    assert body(request)["messages"][-1] == {"role": "user", "content": "."}
