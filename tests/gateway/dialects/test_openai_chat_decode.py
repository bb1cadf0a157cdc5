"""Promises of `openai_chat_decode`'s requests: what clients of chat completions ask arrives in blocks."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import openai_chat, openai_chat_decode
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
from gateway.dialects.wire import InvalidBody

HELLO = {"role": "user", "content": "hello"}
PNG = "iVBORw0KGgo="
PDF = base64.b64encode(b"%PDF-1.4 example").decode()


def decoded(*messages, **members):
    body = json.dumps({"model": "m", "messages": list(messages) or [HELLO]} | members).encode()
    return openai_chat_decode.request(openai_chat.read(body))


def blocks_of(*messages):
    return [block for turn in decoded(*messages).messages for block in turn.blocks]


def part(**members):
    [block] = blocks_of({"role": "user", "content": [members]})
    return block


def refused(*messages, **members):
    with pytest.raises(InvalidBody) as caught:
        decoded(*messages, **members)
    assert str(caught.value).startswith(caught.value.param)
    return caught.value.param


# --- Messages -------------------------------------------------------------------------------------------------------


def test_what_stands_before_the_conversation_is_the_system_prompt():
    asked = decoded(
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]},
        HELLO,
        {"role": "system", "content": "later"},
    )

    assert asked.system == [Text("a"), Text("b", "5m")]
    assert asked.messages == [
        Message(role="user", blocks=[Text("hello")]),
        Message(role="system", blocks=[Text("later")]),
    ]


def test_a_turn_with_tools_keeps_order_ids_and_names():
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
        {"id": "call_2", "type": "custom", "custom": {"name": "shell", "input": "ls"}},
    ]
    asked = decoded(
        HELLO,
        {"role": "assistant", "content": "Let me look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "a"}, image("data:,x")]},
    )

    assert [turn.role for turn in asked.messages] == ["user", "assistant", "user", "user"]
    assert asked.messages[1].blocks == [
        Text("Let me look."),
        ToolCall(id="call_1", name="weather", arguments='{"city":"Rome"}'),
        ToolCall(id="call_2", name="shell", arguments="ls", custom=True),
    ]
    assert asked.messages[2].blocks == [ToolResult(id="call_1", name="weather", content=[Text("sunny")])]
    assert asked.messages[3].blocks[0].name == "shell"
    assert [type(block) for block in asked.messages[3].blocks[0].content] == [Text, Image]


def image(url, **members):
    return {"type": "image_url", "image_url": {"url": url, **members}}


def test_a_legacy_function_call_and_its_answer_belong_together():
    asked = decoded(
        HELLO,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
        {"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": "{}"}},
        {"role": "function", "name": "g", "content": "2"},
    )
    calls = [block for turn in asked.messages for block in turn.blocks if isinstance(block, ToolCall)]
    results = [block for turn in asked.messages for block in turn.blocks if isinstance(block, ToolResult)]

    assert [call.id for call in calls] == [result.id for result in results]
    assert len({call.id for call in calls}) == 2
    assert [result.name for result in results] == ["f", "g"]


def test_a_refusal_of_an_earlier_turn_is_kept_as_one():
    assert blocks_of({"role": "assistant", "content": None, "refusal": "no"}) == [Refusal("no")]
    assert part(type="refusal", refusal="no") == Refusal("no")


def test_a_mark_of_a_message_is_that_of_its_last_block():
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    assert blocks_of({"role": "user", "content": content, "cache_control": {"type": "ephemeral", "ttl": "1h"}}) == [
        Text("a"),
        Text("b", "1h"),
    ]


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ({"cache_control": {"type": "ephemeral"}}, "5m"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "1h"),
        ({"prompt_cache_breakpoint": {"mode": "explicit"}}, "5m"),
        ({"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}, "5m"),
        ({"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}, "1h"),
        ({"cache_control": None}, None),
    ],
)
def test_both_vendors_marks_of_a_cache_are_understood(mark, expected):
    assert part(type="text", text="a", **mark).cache == expected


# --- Parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/a.png", Image(url="https://example.org/a.png")),
        (f"data:image/png;base64,{PNG}", Image(media_type="image/png", data=PNG)),
        (f"data:image/png;charset=utf-8;base64,{PNG}", Image(media_type="image/png", data=PNG)),
        (f" data:image/PNG; base64, {PNG[:4]}\n{PNG[4:]} ", Image(media_type="image/png", data=PNG)),
        (f"data:image/png;base64,{PNG.rstrip('=')}", Image(media_type="image/png", data=PNG)),
        ("data:image/webp;base64,-_-_", Image(media_type="image/webp", data="+/+/")),
        ("data:image/svg+xml,%3Csvg/%3E", Image(media_type="image/svg+xml", data="PHN2Zy8+")),
        (f"data:application/pdf;base64,{PDF}", Document(media_type="application/pdf", data=PDF)),
        ("data:text/plain;base64,aGk=", Document(media_type="text/plain", text="hi")),
        ("data:audio/mpeg;base64,aGk=", Audio(data="aGk=", format="mp3")),
    ],
)
def test_an_address_is_what_it_holds(url, expected):
    assert part(**image(url)) == expected


def test_an_image_keeps_its_detail_and_may_be_a_plain_string():
    assert part(**image("https://example.org/a", detail="low")).detail == "low"
    assert part(type="image_url", image_url="https://example.org/a") == Image(url="https://example.org/a")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ({"file_id": "file-1"}, Document(file_id="file-1")),
        ({"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"}, Document(data=PDF, name="a.pdf")),
        ({"file_data": PDF}, Document(data=PDF)),
        ({"file_data": "aGk=", "filename": "a.txt"}, Document(media_type="text/plain", text="hi", name="a.txt")),
        ({"file_data": f"data:image/png;base64,{PNG}"}, Image(media_type="image/png", data=PNG)),
        ({"file_data": "https://example.org/a.pdf"}, Document(url="https://example.org/a.pdf")),
    ],
)
def test_a_file_is_a_document(file, expected):
    assert part(type="file", file=file) == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}}, Audio(data="aGk=", format="mp3")),
        ({"type": "input_audio", "input_audio": "aGk="}, Audio(data="aGk=", format="wav")),
        (
            {"type": "input_audio", "input_audio": {"data": "data:audio/x-wav;base64,aGk="}},
            Audio(data="aGk=", format="wav"),
        ),
        ({"type": "document_url", "document_url": "https://e.org/a"}, Document(url="https://e.org/a")),
        ({"type": "file_url", "file_url": {"url": "https://e.org/a"}}, Document(url="https://e.org/a")),
        ({"type": "thinking", "thinking": [{"text": "hm"}]}, Thinking(text="hm", dialect="openai_chat")),
        ({"type": "video_url"}, Opaque(dialect="openai_chat", value={"type": "video_url"})),
    ],
)
def test_vendors_parts_are_understood(sent, expected):
    assert part(**sent) == expected


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": [5]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": []}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].image_url"),
        ({"role": "user", "content": [image("")]}, "messages[0].content[0].image_url.url"),
        ({"role": "user", "content": [image("data:image/png;base64,?")]}, "messages[0].content[0].image_url.url"),
        ({"role": "user", "content": [image("data:image/png;base64,")]}, "messages[0].content[0].image_url.url"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[0].content[0].file"),
        (
            {"role": "user", "content": [{"type": "file", "file": {"file_data": "?"}}]},
            "messages[0].content[0].file.file_data",
        ),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[0].content[0].input_audio.data"),
        ({"role": "system", "content": [image("https://e.org")]}, "messages[0].content"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "function", "content": "x"}, "messages[0].name"),
        ({"role": "assistant", "tool_calls": {}}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [5]}, "messages[0].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "messages[0].tool_calls[0].function.name"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, "messages[0].tool_calls[0].id"),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"role": "assistant", "function_call": {"arguments": ""}}, "messages[0].function_call.name"),
    ],
)
def test_malformed_content_is_refused_by_its_place(message, param):
    assert refused(message) == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "text", "image_url", "data:x;base64,a", "f"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "text",
                    "image_url",
                    "url",
                    "file",
                    "file_data",
                    "function",
                    "name",
                    "id",
                    "arguments",
                    "thinking",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "tool", "function"])},
    optional=dict.fromkeys(
        ("content", "tool_calls", "function_call", "tool_call_id", "name", "thinking_blocks", "images"), JSON
    ),
)


@given(st.lists(MESSAGE, min_size=1, max_size=3), st.dictionaries(st.sampled_from(["tools", "tool_choice"]), JSON))
def test_any_content_is_read_or_refused_by_name(messages, members):
    param = "none"
    try:
        decoded(*messages, **members)
    except InvalidBody as error:
        param = error.param
    assert param


# --- Reasoning of earlier turns -------------------------------------------------------------------------------------


def test_thinking_blocks_come_first_and_their_signatures_are_anthropics():
    message = {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "two and two",
        "thinking_blocks": [
            {"type": "thinking", "thinking": "two and two", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        ],
    }

    assert blocks_of(message) == [
        Thinking(text="two and two", signature="c2ln", dialect="anthropic"),
        Redacted(data="ZGF0YQ==", dialect="anthropic"),
        Text("4"),
    ]


def test_reasoning_that_is_marked_belongs_to_who_made_it():
    entries = [
        {"type": "thinking", "thinking": "a", "signature": "s", "dialect": "gemini"},
        {"type": "redacted_thinking", "data": "d", "dialect": "openai_responses", "id": "rs_1", "summary": "short"},
    ]

    assert blocks_of({"role": "assistant", "content": None, "thinking_blocks": entries}) == [
        Thinking(text="a", signature="s", dialect="gemini"),
        Redacted(data="d", dialect="openai_responses", id="rs_1", text="short"),
    ]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_plain_reasoning_is_the_servers_that_wrote_it(name):
    assert blocks_of({"role": "assistant", "content": "4", name: "hm"})[0] == Thinking(text="hm", dialect="openai_chat")


def test_reasoning_details_keep_what_is_signed_or_encrypted():
    details = [
        {"type": "reasoning.text", "text": "hm", "signature": "s", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.encrypted", "data": "xyz", "id": "rs_1", "format": "openai-responses-v1", "index": 1},
    ]
    first, second = blocks_of({"role": "assistant", "content": None, "reasoning": "hm", "reasoning_details": details})

    assert first == Thinking(text="hm", signature="s", dialect="openai_chat")
    assert (second.dialect, json.loads(second.data)) == ("openai_chat", details[1])


@pytest.mark.parametrize(
    "where",
    [
        {"extra_content": {"google": {"thought_signature": "c2ln"}}},
        {"provider_specific_fields": {"thought_signature": "c2ln"}},
    ],
)
def test_geminis_signature_of_a_call_is_found(where):
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}

    for sent in (call | where, call | {"function": call["function"] | where}):
        [block] = blocks_of({"role": "assistant", "content": None, "tool_calls": [sent]})
        assert (block.signature, block.dialect) == ("c2ln", "gemini")


# --- Parameters -----------------------------------------------------------------------------------------------------


def test_parameters_keep_their_values_and_what_is_unknown_is_kept_apart():
    asked = decoded(
        temperature=0,
        top_p=0.5,
        top_k=40,
        stop="END",
        n=2,
        seed=7,
        presence_penalty=0.1,
        frequency_penalty=-1,
        logprobs=True,
        top_logprobs=3,
        max_tokens=5,
        service_tier="flex",
        verbosity="low",
        user="u",
        modalities=["text"],
        logit_bias={"1": 2},
        metadata=None,
    )

    assert (asked.temperature, asked.top_p, asked.top_k, asked.stop, asked.n) == (0.0, 0.5, 40, ["END"], 2)
    assert (asked.seed, asked.presence_penalty, asked.frequency_penalty, asked.max_output) == (7, 0.1, -1.0, 5)
    assert (asked.logprobs, asked.top_logprobs, asked.service_tier, asked.verbosity) == (True, 3, "flex", "low")
    assert (asked.user, asked.modalities, asked.extra) == ("u", ["text"], {"logit_bias": {"1": 2}})
    assert decoded(stop=["a", "b"], safety_identifier="s", user="u").stop == ["a", "b"]
    assert decoded(safety_identifier="s", user="u").user == "s"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": 1.5}, "top_k"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": 5}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"functions": [{}]}, "functions[0].name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {}}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice.allowed_tools.tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"thinking": {"type": "loud"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": "many"}}, "thinking.budget_tokens"),
    ],
)  # fmt: skip
def test_a_malformed_parameter_is_refused_by_name(members, param):
    assert refused(**members) == param


def test_tools_of_every_kind():
    schema = {"type": "object", "properties": {}}
    function = {"name": "f", "description": "d", "parameters": schema, "strict": True}
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: x"}}
    asked = decoded(
        tools=[
            {"type": "function", "function": function, "cache_control": {"type": "ephemeral"}},
            {"type": "function", **function},
            {"type": "custom", "custom": {"name": "c", "format": grammar}},
            {"type": "web_search_20250305", "name": "web_search"},
            {"type": "code_interpreter"},
        ],
        web_search_options={"user_location": {"type": "approximate", "approximate": {"city": "Rome"}}},
    )
    tool = Tool(name="f", description="d", parameters=schema, strict=True)
    kinds = [(each.kind, each.value["type"]) for each in asked.tools if isinstance(each, ServerTool)]

    assert asked.tools[:2] == [Tool(**{**struct(tool), "cache": "5m"}), tool]
    assert asked.tools[2].custom is True
    assert asked.tools[2].format == {"type": "grammar", "syntax": "lark", "definition": "start: x"}
    assert kinds == [
        ("web_search", "web_search_20250305"),
        ("other", "code_interpreter"),
        ("web_search", "web_search"),
    ]
    assert asked.tools[-1].value["user_location"] == {"type": "approximate", "city": "Rome"}


def struct(value):
    return {name: getattr(value, name) for name in value.__struct_fields__}


def test_functions_are_tools_of_a_client_that_takes_one_call():
    asked = decoded(functions=[{"name": "f"}], function_call={"name": "f"})

    assert asked.tools == [Tool(name="f")]
    assert asked.choice == Choice(mode="named", names=["f"])
    assert asked.parallel is False
    assert decoded(functions=[{"name": "f"}], function_call="none").choice == Choice(mode="none")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ("auto", Choice(mode="auto")),
        ("none", Choice(mode="none")),
        ("required", Choice(mode="required")),
        ("any", Choice(mode="required")),
        ({"type": "function", "function": {"name": "f"}}, Choice(mode="named", names=["f"])),
        ({"type": "custom", "custom": {"name": "f"}}, Choice(mode="named", names=["f"])),
        ({"type": "tool", "name": "f"}, Choice(mode="named", names=["f"])),
        ({"type": "any"}, Choice(mode="required")),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
            Choice(mode="allowed", names=["f"], required=True),
        ),
    ],
)
def test_a_choice_in_every_form(choice, expected):
    assert decoded(tool_choice=choice).choice == expected


def test_formats():
    schema = {"name": "n", "schema": {"type": "object"}, "strict": True, "description": "d"}

    assert decoded(response_format={"type": "text"}).format is None
    assert decoded(response_format={"type": "json_object"}).format == Format(kind="json_object")
    assert decoded(response_format={"type": "json_schema", "json_schema": schema}).format == Format(
        kind="json_schema", schema={"type": "object"}, name="n", strict=True, description="d"
    )


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, None),
        ({"reasoning_effort": "low"}, Reasoning(effort="low")),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Reasoning(mode="enabled", budget=2000)),
        ({"thinking": {"type": "disabled"}}, Reasoning(mode="disabled")),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, Reasoning(mode="adaptive", visible=False)),
        ({"reasoning": {"effort": "high"}}, Reasoning(effort="high")),
        ({"reasoning": {"max_tokens": 500, "exclude": True}}, Reasoning(mode="enabled", budget=500, visible=False)),
        ({"reasoning": {"enabled": False}}, Reasoning(mode="disabled")),
        ({"reasoning": {"enabled": True}}, Reasoning(effort="medium")),
        ({"include_reasoning": False}, Reasoning(visible=False)),
    ],
)
def test_reasoning_is_asked_for_in_many_ways(members, expected):
    assert decoded(**members).reasoning == expected
