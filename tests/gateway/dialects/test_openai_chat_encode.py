"""Promises of `openai_chat_encode`'s requests: what every OpenAI-compatible server takes, and nothing lost unseen."""

import json

import pytest
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

from gateway.dialects import openai_chat, openai_chat_decode, openai_chat_encode
from gateway.dialects.blocks import (
    Audio,
    Choice,
    Document,
    Format,
    Image,
    Message,
    Opaque,
    Order,
    Reasoning,
    Redacted,
    Refusal,
    Request,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Unsupported,
)
from tests.gateway.dialects.facts import Facts

PARAMS = TypeAdapter(completion_create_params.CompletionCreateParamsNonStreaming)


USER = Message(role="user", blocks=[Text("hi")])
TOOL = Tool(name="f", description="d", parameters={"type": "object"})


def sent(*messages, facts=None, order=None, **members):
    asked = {"dialect": "anthropic", "model": "m", "messages": list(messages) or [USER]} | members
    return openai_chat_encode.request(Request(**asked), order or Order(model=facts or Facts()))


def body(*messages, **members):
    value = json.loads(sent(*messages, **members).body)
    vendors = {"reasoning_content", "reasoning_details"}
    typed = [{name: each for name, each in turn.items() if name not in vendors} for turn in value["messages"]]
    PARAMS.validate_python({"messages": typed} | {k: v for k, v in value.items() if k not in ("messages", "top_k")})
    return value


def turns(*messages, **members):
    return body(*messages, **members)["messages"]


# --- Messages -------------------------------------------------------------------------------------------------------


def test_system_is_one_message_and_texts_are_strings():
    assert turns(
        Message(role="user", blocks=[Text("a", "5m"), Text(""), Text("b")]),
        system=[Text("be"), Text("kind", "1h")],
    ) == [{"role": "system", "content": "be\n\nkind"}, {"role": "user", "content": "a\n\nb"}]


def test_tool_results_stand_at_once_behind_the_calls_before_all_else():
    call = Message(
        role="assistant",
        blocks=[
            Text("Looking."),
            ToolCall(id="a", name="f", arguments='{"x":1}'),
            ToolCall(id="b", name="f"),
        ],
    )
    picture = Image(media_type="image/png", data="aGk=")
    answer = Message(
        role="user",
        blocks=[
            Text("and now?"),
            ToolResult(id="a", content=[Text("1"), picture]),
            ToolResult(id="b", content=[picture]),
        ],
    )
    more = Message(role="user", blocks=[ToolResult(id="c", content=[Text("3")])])
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}

    assert turns(USER, call, answer, tools=[TOOL])[1:] == [
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
                {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "The result is attached to the next message."},
        {"role": "user", "content": [shown, shown, {"type": "text", "text": "and now?"}]},
    ]
    results_only = Message(role="user", blocks=answer.blocks[1:])
    assert [turn["role"] for turn in turns(USER, call, results_only, more)] == [
        *("user", "assistant", "tool", "tool", "tool", "user"),
    ]


def test_an_assistants_message_without_text_has_no_content():
    [_, assistant] = turns(USER, Message(role="assistant", blocks=[ToolCall(id="a", name="f")]))

    assert assistant["content"] is None


def test_messages_of_one_role_become_one():
    calls = [Message(role="assistant", blocks=[ToolCall(id=id, name="f")]) for id in "ab"]

    [user, assistant] = turns(USER, Message(role="user", blocks=[Text("there")]), *calls)
    assert user["content"] == "hi\n\nthere"
    assert [call["id"] for call in assistant["tool_calls"]] == ["a", "b"]
    named = [Message(role="user", blocks=[Text("x")], name=name) for name in ("ann", "bob")]
    assert [turn["name"] for turn in turns(*named)] == ["ann", "bob"]


def test_reasoning_goes_back_only_to_the_dialect_that_made_it():
    thoughts = [
        Thinking(text="secret", signature="s", dialect="anthropic"),
        Redacted(data="x", dialect="openai_responses"),
        Thinking(text="own", dialect="openai_chat"),
    ]

    assert turns(USER, Message(role="assistant", blocks=[*thoughts, Text("4")]))[1] == {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "own",
    }
    assert turns(USER, Message(role="assistant", blocks=thoughts[:1]), USER)[1:] == []


def test_signed_reasoning_goes_back_as_the_details_it_came_as():
    encrypted = {"type": "reasoning.encrypted", "data": "xyz", "format": "openai-responses-v1"}
    thoughts = [
        Thinking(text="hm", signature="s", dialect="openai_chat"),
        Redacted(data=json.dumps(encrypted), dialect="openai_chat"),
    ]
    [_, assistant] = turns(USER, Message(role="assistant", blocks=[*thoughts, Text("4")]))

    assert assistant["reasoning_details"] == [
        {"type": "reasoning.text", "text": "hm", "signature": "s", "format": "anthropic-claude-v1", "index": 0},
        encrypted,
    ]


def test_documents_are_files_and_text_is_text():
    blocks = [
        Document(data="aGk=", name="a.pdf"),
        Document(text="words", name="a.txt", context="why", media_type="text/plain"),
        Document(file_id="file-1"),
        Audio(data="aGk=", format="mp3"),
        Image(url="https://e.org/a.png", detail="low"),
    ]
    [message] = turns(Message(role="user", blocks=blocks))

    assert message["content"] == [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
        {"type": "text", "text": "# a.txt\n\nwhy\n\nwords"},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
        {"type": "image_url", "image_url": {"url": "https://e.org/a.png", "detail": "low"}},
    ]


def test_what_an_assistant_showed_follows_as_a_users():
    picture = Image(media_type="image/png", data="aGk=")

    assert [turn["role"] for turn in turns(USER, Message(role="assistant", blocks=[Text("Here."), picture]), USER)] == [
        "user",
        "assistant",
        "user",
    ]


def test_a_refusal_is_said_again():
    assert turns(USER, Message(role="assistant", blocks=[Refusal("no")]))[1]["content"] == "no"


def test_a_system_message_in_mid_conversation_stays_where_it_is():
    assert [turn["role"] for turn in turns(USER, Message(role="system", blocks=[Text("now briefly")]), USER)] == [
        "user",
        "system",
        "user",
    ]


def test_blocks_that_nobody_else_understands_are_left_out_and_named():
    opaque = Opaque(dialect="anthropic", value={"type": "server_tool_use"})

    assert sent(USER, Message(role="assistant", blocks=[opaque, opaque, Text("4")])).dropped == [
        "messages.server_tool_use"
    ]
    with pytest.raises(Unsupported) as caught:
        sent(Message(role="user", blocks=[opaque]))
    assert caught.value.param == "messages"


# --- Tools ----------------------------------------------------------------------------------------------------------


def test_tools_and_choices():
    value = body(tools=[TOOL, Tool(name="g", strict=True)], choice=Choice(mode="named", names=["f"]), parallel=False)

    assert value["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
        {
            "type": "function",
            "function": {"name": "g", "parameters": {"type": "object", "properties": {}}, "strict": True},
        },
    ]
    assert value["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert value["parallel_tool_calls"] is False


@pytest.mark.parametrize("mode", ["auto", "none", "required"])
def test_a_choice_by_a_word(mode):
    assert body(tools=[TOOL], choice=Choice(mode=mode))["tool_choice"] == mode


def test_allowed_tools_are_the_only_ones_sent():
    allowed = Choice(mode="allowed", names=["g"], required=True)
    value = body(tools=[TOOL, Tool(name="g")], choice=allowed)

    assert [tool["function"]["name"] for tool in value["tools"]] == ["g"]
    assert value["tool_choice"] == "required"


def test_without_tools_nothing_is_said_about_them():
    value = body(choice=Choice(mode="auto"), parallel=False)

    assert value.keys().isdisjoint({"tools", "tool_choice", "parallel_tool_calls"})
    for choice in (Choice(mode="required"), Choice(mode="named", names=["f"])):
        with pytest.raises(Unsupported) as caught:
            sent(choice=choice)
        assert caught.value.param == "tool_choice"
    with pytest.raises(Unsupported):
        sent(tools=[TOOL], choice=Choice(mode="named", names=["other"]))


def test_a_tool_that_takes_text_becomes_a_function_of_one_text():
    call = Message(role="assistant", blocks=[ToolCall(id="a", name="shell", arguments='say "hi"', custom=True)])
    value = body(USER, call, tools=[Tool(name="shell", custom=True)])

    assert value["tools"][0]["function"]["parameters"]["required"] == ["input"]
    [told] = value["messages"][1]["tool_calls"]
    assert json.loads(told["function"]["arguments"]) == {"input": 'say "hi"'}


def test_names_that_openai_refuses_are_changed_and_remembered():
    names = ["mcp.server/tool", "mcp.server:tool", "x" * 80, "fine"]
    calls = Message(role="assistant", blocks=[ToolCall(id="a", name=names[0])])
    answer = sent(USER, calls, tools=[Tool(name=name) for name in names])
    value = json.loads(answer.body)
    told = [tool["function"]["name"] for tool in value["tools"]]

    assert told == ["mcp_server_tool", "mcp_server_tool_2", "x" * 64, "fine"]
    assert answer.names == dict(zip(told[:3], names[:3], strict=True))
    assert value["messages"][1]["tool_calls"][0]["function"]["name"] == "mcp_server_tool"


def test_a_search_is_translated_and_other_tools_of_providers_are_left_out():
    place = {"type": "approximate", "city": "Rome"}
    tools = [
        ServerTool(dialect="anthropic", kind="web_search", value={"type": "web_search_1", "user_location": place}),
        ServerTool(dialect="anthropic", value={"type": "bash"}),
    ]
    answer = sent(tools=tools)

    assert json.loads(answer.body)["web_search_options"] == {
        "user_location": {"type": "approximate", "approximate": {"city": "Rome"}}
    }
    assert answer.dropped == ["tools"]


# --- Parameters -----------------------------------------------------------------------------------------------------


def test_the_limit_goes_by_the_name_of_the_model_and_ours_counts():
    assert body(max_output=5)["max_tokens"] == 5
    assert body(max_output=5, order=Order(model=Facts(), max_output=3))["max_tokens"] == 3
    assert body(max_output=5, facts=Facts(max_tokens_field="max_completion_tokens"))["max_completion_tokens"] == 5
    assert body(max_output=5, facts=Facts(max_output_tokens=4))["max_tokens"] == 4


def test_a_stream_asks_for_its_usage_where_the_provider_can_tell():
    value = json.loads(sent(stream=True).body)

    assert (value["stream"], value["stream_options"]) == (True, {"include_usage": True})
    quiet = Order(model=Facts(), usage_in_stream=False)
    assert "stream_options" not in json.loads(sent(stream=True, order=quiet).body)


def test_quirks_of_a_provider_are_those_of_the_catalogue():
    facts = Facts(unsupported=frozenset({"top_k", "seed"}))
    answer = sent(top_k=5, seed=1, stop=["x"], order=Order(model=facts, rename={"stop": "stops"}))

    assert answer.dropped == ["seed", "top_k"]
    assert json.loads(answer.body) == {
        "model": "up",
        "messages": [{"role": "user", "content": "hi"}],
        "stops": ["x"],
    }


def test_parameters_arrive():
    value = body(
        temperature=0.0,
        top_p=0.5,
        top_k=4,
        n=2,
        seed=3,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logprobs=True,
        top_logprobs=2,
        verbosity="low",
        service_tier="flex",
        user="u" * 70,
        format=Format(kind="json_schema", schema={"type": "object"}, strict=True),
    )

    assert (value["temperature"], value["top_p"], value["top_k"], value["n"], value["seed"]) == (0.0, 0.5, 4, 2, 3)
    assert (value["verbosity"], value["service_tier"], len(value["user"])) == ("low", "flex", 64)
    assert value["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
    }
    assert body(format=Format(kind="json_object"))["response_format"] == {"type": "json_object"}
    assert "service_tier" not in body(service_tier="auto")


def test_what_only_the_clients_dialect_knows_is_left_out_and_named():
    order = Order(model=Facts(), ours=frozenset({"metadata"}))

    assert sent(extra={"metadata": {}, "container": "c"}, stop=list("abcde"), order=order).dropped == [
        "container",
        "stop",
    ]


def test_sound_as_an_answer_needs_what_other_dialects_cannot_say():
    with pytest.raises(Unsupported) as caught:
        sent(modalities=["audio"])
    assert caught.value.param == "modalities"
    assert "modalities" not in body(modalities=["text"])


@pytest.mark.parametrize(
    ("reasoning", "facts", "effort", "dropped"),
    [
        (Reasoning(effort="low"), Facts(thinking="effort"), "low", []),
        (Reasoning(mode="enabled", budget=1024), Facts(thinking="effort"), "low", []),
        (Reasoning(mode="enabled", budget=8000), Facts(thinking="effort"), "medium", []),
        (Reasoning(mode="enabled", budget=30_000), Facts(thinking="effort"), "high", []),
        (Reasoning(effort="max"), Facts(thinking="effort"), "high", []),
        (Reasoning(effort="minimal"), Facts(thinking="effort"), "low", []),
        (Reasoning(effort="max"), Facts(thinking="effort", efforts=("none", "low", "xhigh")), "xhigh", []),
        (Reasoning(mode="disabled"), Facts(thinking="effort", efforts=("none", "low")), "none", []),
        (Reasoning(effort="minimal"), Facts(thinking="effort", efforts=("none", "low")), "low", []),
        (Reasoning(mode="disabled"), Facts(thinking="effort"), None, ["reasoning_effort"]),
        (Reasoning(mode="adaptive"), Facts(thinking="effort"), None, []),
        (Reasoning(effort="high"), Facts(), None, ["reasoning_effort"]),
        (Reasoning(mode="disabled"), Facts(), None, []),
        (None, Facts(thinking="effort"), None, []),
    ],
)
def test_thinking_is_an_effort_here(reasoning, facts, effort, dropped):
    answer = sent(reasoning=reasoning, facts=facts)

    assert json.loads(answer.body).get("reasoning_effort") == effort
    assert answer.dropped == dropped


# --- There and back -------------------------------------------------------------------------------------------------


def test_a_request_of_this_dialect_means_the_same_after_it():
    original = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://e.org/a.png"}}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "user", "content": "and?"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "required",
        "temperature": 0.5,
        "stop": ["x"],
        "response_format": {"type": "json_object"},
    }
    request = openai_chat_decode.request(openai_chat.read(json.dumps(original).encode()))

    assert json.loads(openai_chat_encode.request(request, Order(model=Facts())).body) == original | {"model": "up"}
