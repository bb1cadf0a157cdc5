"""Promises of `bedrock_encode`: a request of any client as Converse wants it, and a word for all that was left out."""

import base64
import json
from dataclasses import dataclass
from urllib.parse import unquote

import pytest

from gateway.dialects import bedrock_encode, blocks
from gateway.dialects.bedrock_decode import JSON_TOOL
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
    Unsupported,
)
from tests.gateway.dialects.facts import Facts

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
PDF = base64.b64encode(b"%PDF-1.7").decode()
WEATHER = Tool(
    name="get_weather",
    description="The weather of a place.",
    parameters={"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
)
SCHEMA = {"type": "object", "properties": {"answer": {"type": "object", "properties": {}}}}


@dataclass(frozen=True)
class Model(Facts):
    """Facts of a model, as the catalogue states them."""

    upstream: str = "us.anthropic.claude-sonnet-4-20250514-v1:0"
    max_output_tokens: int | None = 64_000
    capabilities: frozenset[str] = frozenset({"streaming", "tools", "vision", "caching", "thinking"})
    thinking: str = "budget"


def model(*capabilities, **facts):
    return Model(capabilities=frozenset({"tools", *capabilities}), **facts)


def asked(*messages, **parameters):
    turns = [message if isinstance(message, Message) else user(message) for message in messages or ("Hi",)]
    return blocks.Request(dialect=parameters.pop("dialect", "openai_chat"), model="m", messages=turns, **parameters)


def user(*content):
    return Message("user", [Text(block) if isinstance(block, str) else block for block in content])


def assistant(*content):
    return Message("assistant", [Text(block) if isinstance(block, str) else block for block in content])


def sent(request, facts=None, **order):
    return bedrock_encode.request(request, blocks.Order(model=facts or Model(), **order))


def body(request, facts=None, **order):
    return json.loads(sent(request, facts, **order).body)


def turns(*messages, facts=None):
    return [(turn["role"], turn["content"]) for turn in body(asked(*messages), facts)["messages"]]


def dropped(request, facts=None, **order):
    return sent(request, facts, **order).dropped


# --- Addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_path_names_the_model_percent_encoded(stream):
    arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-20250514-v1:0"
    path = sent(asked(stream=stream), Model(upstream=arn)).path
    _, first, name, action = path.split("/")
    assert (first, unquote(name), action) == ("model", arn, "converse-stream" if stream else "converse")
    assert ":" not in name


def test_a_simple_request_is_as_small_as_a_recorded_one():
    # The body of a recorded call (openinference, should-handle-inference-config-in-converse-api).
    request = asked(
        "Explain machine learning briefly.", max_output=150, temperature=0.7, top_p=0.9, stop=["END", "STOP"]
    )
    assert body(request) == {
        "messages": [{"role": "user", "content": [{"text": "Explain machine learning briefly."}]}],
        "inferenceConfig": {"maxTokens": 150, "temperature": 0.7, "topP": 0.9, "stopSequences": ["END", "STOP"]},
    }
    assert sent(request).dropped == []


# --- Messages -------------------------------------------------------------------------------------------------------


def test_turns_of_one_role_become_one():
    assert turns(user("a"), user("b"), assistant("c"), assistant("d"), user("e")) == [
        ("user", [{"text": "a"}, {"text": "b"}]),
        ("assistant", [{"text": "c"}, {"text": "d"}]),
        ("user", [{"text": "e"}]),
    ]


def test_a_turn_without_words_goes_and_its_neighbours_become_one():
    assert turns(user("a"), assistant("", "  "), user("b", "\n")) == [("user", [{"text": "a"}, {"text": "b"}])]


def test_a_conversation_begins_with_the_user():
    assert turns(assistant("Hello"), user("Hi"))[0] == ("user", [{"text": "."}])


def test_a_conversation_of_nothing_is_refused():
    with pytest.raises(Unsupported) as caught:
        sent(asked(user(" ")))
    assert caught.value.param == "messages"


def test_the_beginning_of_an_answer_loses_the_white_space_at_its_end():
    assert turns(user("a"), assistant("Sure: \n"))[-1] == ("assistant", [{"text": "Sure:"}])


def test_tool_results_come_first_in_their_turn_in_their_order():
    calls = assistant(ToolCall(id="1", name="a", arguments="{}"), ToolCall(id="2", name="a", arguments='{"x": 1}'))
    results = [user(ToolResult(id="1", content=[Text("one")])), user("and", ToolResult(id="2", content=[Text("two")]))]
    written = turns(user("go"), calls, *results)
    assert written[1][1] == [
        {"toolUse": {"toolUseId": "1", "name": "a", "input": {}}},
        {"toolUse": {"toolUseId": "2", "name": "a", "input": {"x": 1}}},
    ]
    assert written[2][1] == [
        {"toolResult": {"toolUseId": "1", "content": [{"text": "one"}]}},
        {"toolResult": {"toolUseId": "2", "content": [{"text": "two"}]}},
        {"text": "and"},
    ]


@pytest.mark.parametrize("content", [[], [Text("")], [Text(" "), Opaque(dialect="anthropic", value={})]])
def test_a_tool_that_answered_nothing_is_said_to_have(content):
    result = turns(user(ToolResult(id="1", content=content, is_error=True)))[0][1][0]
    assert result == {"toolResult": {"toolUseId": "1", "content": [{"text": "(no output)"}], "status": "error"}}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}),
        (" ", {}),
        ('{"a": [1]}', {"a": [1]}),
        ("{bad", {"__raw": "{bad"}),
        ("[1]", {"__raw": "[1]"}),
        ("[" * 5000, {"__raw": "[" * 5000}),
    ],
)
def test_arguments_are_an_object_whatever_the_model_wrote(arguments, given):
    written = turns(user("go"), assistant(ToolCall(id="1", name="a", arguments=arguments)), user("x"))
    assert written[1][1][0]["toolUse"]["input"] == given


def test_the_input_of_a_custom_tool_is_the_one_string_of_a_function():
    request = asked(
        user("go"), assistant(ToolCall(id="1", name="run", arguments="ls -l", custom=True)), user("x"),
        tools=[Tool(name="run", custom=True)],
    )  # fmt: skip
    assert body(request)["messages"][1]["content"][0]["toolUse"]["input"] == {"input": "ls -l"}
    schema = body(request)["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]
    assert schema == {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def test_system_texts_stay_apart_and_blank_ones_go():
    request = asked(system=[Text("Be brief."), Text(" "), Text("Be kind.", cache="5m")])
    point = {"cachePoint": {"type": "default"}}
    assert body(request)["system"] == [{"text": "Be brief."}, {"text": "Be kind."}, point]


def test_a_system_message_in_mid_conversation_is_never_hoisted():
    messages = user("a"), assistant("b"), Message("system", [Text("Be brief.")]), user("c")
    assert turns(*messages)[2] == ("user", [{"text": "<system>\nBe brief.\n</system>"}, {"text": "c"}])
    assert turns(*messages, facts=model("system_anywhere"))[2] == ("system", [{"text": "Be brief."}])


def test_signed_reasoning_of_bedrock_and_anthropic_goes_back_and_no_other():
    said = [
        Thinking(text="a", signature="s1", dialect="bedrock"),
        Thinking(text="", signature="s2", dialect="anthropic"),
        Redacted(data="cmVk", dialect="anthropic"),
        Thinking(text="b", signature="s3", dialect="gemini"),
        Thinking(text="unsigned", dialect="bedrock"),
        Redacted(data="cmVk", dialect="openai_responses"),
        Refusal("No."),
    ]
    assert turns(user("x"), assistant(*said), user("y"))[1][1] == [
        {"reasoningContent": {"reasoningText": {"text": "a", "signature": "s1"}}},
        {"reasoningContent": {"reasoningText": {"text": "", "signature": "s2"}}},
        {"reasoningContent": {"redactedContent": "cmVk"}},
        {"text": "No."},
    ]


def test_what_only_another_vendor_understands_is_left_out_and_reported():
    request = asked(
        user("x"), assistant(Opaque(dialect="anthropic", value={"type": "server_tool_use"}), "y"), user("z")
    )
    assert body(request)["messages"][1]["content"] == [{"text": "y"}]
    assert dropped(request) == ["messages"]


# --- Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image(media_type="image/png", data=PNG), "png"),
        (Image(media_type="image/jpg", data=PNG), "jpeg"),
        (Image(media_type="IMAGE/WEBP", data=PNG), "webp"),
        (Image(data=PNG), "png"),
        (Image(data="/9j/4AAQ"), "jpeg"),
    ],
)
def test_an_image_is_sent_as_its_bytes(image, kind):
    assert turns(user("look", image))[0][1][1] == {"image": {"format": kind, "source": {"bytes": image.data}}}


@pytest.mark.parametrize(
    "block",
    [
        Image(url="https://example.com/a.png"),
        Image(file_id="file-1"),
        Image(media_type="image/tiff", data=PNG),
        Image(data="AAAA"),
        Document(url="https://example.com/a.pdf"),
        Document(file_id="file-1"),
        Document(media_type="application/zip", data=PDF),
        Audio(data="AAAA", format="midi"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused(block):
    with pytest.raises(Unsupported) as caught:
        sent(asked(user("look", block)))
    assert caught.value.param == "messages"
    assert "Amazon Bedrock" in str(caught.value)


def test_documents_have_names_of_their_own_in_bedrocks_alphabet():
    names = ["Q3_report v2.pdf", "Q3_report v2.pdf", None, "日本.pdf", "a  b\tc.md", "../../etc/passwd"]
    written = turns(user("read", *[Document(data=PDF, name=name) for name in names]))[0][1][1:]
    assert [part["document"]["name"] for part in written] == [
        "Q3-report v2",
        "Q3-report v2 (2)",
        "document",
        "document (2)",
        "a b c",
        "etc-passwd",
    ]


def test_a_document_of_text_is_sent_as_a_text_file_with_context_and_citations():
    (document, text) = turns(user(Document(text="Ünicode", name="n", context="c", citations=True)))[0][1]
    assert document["document"] == {
        "format": "txt",
        "name": "n",
        "source": {"bytes": base64.b64encode("Ünicode".encode()).decode()},
        "context": "c",
        "citations": {"enabled": True},
    }
    assert text == {"text": "."}  # a document may not come alone


def test_sound_is_passed_on_to_models_that_hear():
    assert turns(user(Audio(data="AAAA", format="wav")))[0][1] == [
        {"audio": {"format": "wav", "source": {"bytes": "AAAA"}}}
    ]


def test_a_picture_in_a_tools_result_stays_in_it():
    result = ToolResult(id="1", content=[Text("here"), Image(media_type="image/png", data=PNG)])
    content = turns(user(result))[0][1][0]["toolResult"]["content"]
    assert [next(iter(part)) for part in content] == ["text", "image"]


def test_a_file_in_an_assistants_turn_is_left_out_and_reported():
    request = asked(user("x"), assistant("y", Image(media_type="image/png", data=PNG)), user("z"))
    assert body(request)["messages"][1]["content"] == [{"text": "y"}]
    assert dropped(request) == ["messages"]


# --- Caching --------------------------------------------------------------------------------------------------------


def test_a_cache_mark_becomes_a_point_behind_what_is_marked():
    request = asked(
        user(Text("long", cache="1h"), "short"),
        assistant(ToolCall(id="1", name="a", cache="5m")),
        user(ToolResult(id="1", content=[Text("r", cache="5m")])),
        tools=[Tool(name="a", cache="5m")],
    )
    written = body(request)
    assert written["messages"][0]["content"] == [
        {"text": "long"},
        {"cachePoint": {"type": "default", "ttl": "1h"}},
        {"text": "short"},
    ]
    point = {"cachePoint": {"type": "default"}}
    assert written["messages"][1]["content"][1:] == [point]
    assert written["messages"][2]["content"][1:] == [point]
    assert written["toolConfig"]["tools"][1:] == [point]
    assert b"cachePoint" not in sent(request, model()).body


# --- Tools ----------------------------------------------------------------------------------------------------------


def test_a_tool_is_described_with_its_schema():
    specs = body(asked(tools=[WEATHER, Tool(name="bare", description="")]))["toolConfig"]
    assert specs == {
        "tools": [
            {
                "toolSpec": {
                    "name": "get_weather",
                    "inputSchema": {"json": WEATHER.parameters},
                    "description": "The weather of a place.",
                }
            },
            {"toolSpec": {"name": "bare", "inputSchema": {"json": {"type": "object"}}}},
        ]
    }


@pytest.mark.parametrize("name", ["mcp.server/do", "n" * 65, "wetter für morgen", "", JSON_TOOL])
def test_a_name_bedrock_does_not_take_is_changed_alike_everywhere_and_can_be_told_back(name):
    request = asked(
        user("go"), assistant(ToolCall(id="1", name=name)), user("x"),
        tools=[Tool(name=name)], choice=Choice(mode="named", names=[name]),
    )  # fmt: skip
    written, written_names = body(request), sent(request).names
    changed = written["toolConfig"]["tools"][0]["toolSpec"]["name"]
    assert written["messages"][1]["content"][0]["toolUse"]["name"] == changed
    assert written["toolConfig"]["toolChoice"] == {"tool": {"name": changed}}
    assert written_names == {changed: name}
    assert len(changed) <= 64
    assert changed != JSON_TOOL


def test_an_id_bedrock_does_not_take_is_changed_alike_in_call_and_result():
    strange = "call/" + "é" * 80
    written = turns(user("go"), assistant(ToolCall(id=strange, name="a")), user(ToolResult(id=strange)))
    changed = written[1][1][0]["toolUse"]["toolUseId"]
    assert written[2][1][0]["toolResult"]["toolUseId"] == changed
    assert len(changed) == 64
    assert changed.isascii()


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (Choice(mode="auto"), None),
        (Choice(mode="required"), {"any": {}}),
        (Choice(mode="named", names=["get_weather"]), {"tool": {"name": "get_weather"}}),
        (Choice(mode="allowed", names=["get_weather"]), None),
        (Choice(mode="allowed", names=["get_weather"], required=True), {"any": {}}),
    ],
)
def test_a_choice_in_converses_words(choice, written):
    config = body(asked(tools=[WEATHER, Tool(name="b")], choice=choice))["toolConfig"]
    assert config.get("toolChoice") == written
    assert len(config["tools"]) == (1 if choice.mode == "allowed" else 2)


def test_a_choice_of_a_tool_that_is_not_there_is_refused():
    with pytest.raises(Unsupported) as caught:
        sent(asked(tools=[WEATHER], choice=Choice(mode="named", names=["other"])))
    assert caught.value.param == "tool_choice"


def test_no_tool_is_offered_where_none_may_be_called():
    assert "toolConfig" not in body(asked(tools=[WEATHER], choice=Choice(mode="none")))


def test_tools_stay_when_the_conversation_used_some_for_converse_insists():
    past = user("go"), assistant(ToolCall(id="1", name="get_weather")), user(ToolResult(id="1"))
    config = body(asked(*past, tools=[WEATHER], choice=Choice(mode="none")))["toolConfig"]
    assert config["tools"][0]["toolSpec"]["name"] == "get_weather"
    assert dropped(asked(*past, tools=[WEATHER], choice=Choice(mode="none"))) == ["tool_choice"]
    assert body(asked(*past))["toolConfig"] == {
        "tools": [{"toolSpec": {"name": "get_weather", "inputSchema": {"json": {"type": "object"}}}}]
    }


def test_a_tool_that_the_provider_runs_is_left_out_and_reported():
    tools = [ServerTool(dialect="openai_chat", value={}, kind="web_search")]
    assert "toolConfig" not in body(asked(tools=tools))
    assert dropped(asked(tools=tools)) == ["web_search_options"]


def test_strict_tools_where_the_model_can():
    tool = Tool(name="a", strict=True)
    assert body(asked(tools=[tool]), model("json_schema"))["toolConfig"]["tools"][0]["toolSpec"]["strict"] is True
    assert dropped(asked(tools=[tool]), model()) == ["strict"]


# --- Formats --------------------------------------------------------------------------------------------------------


def test_a_schema_is_sent_as_text_with_closed_objects():
    format = Format(kind="json_schema", schema=SCHEMA, name="reply", strict=True)
    written = body(asked(format=format), model("json_schema"))["outputConfig"]["textFormat"]
    inside = written["structure"]["jsonSchema"]
    assert (written["type"], inside["name"]) == ("json_schema", "reply")
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    assert json.loads(inside["schema"]) == {
        "type": "object",
        "properties": {"answer": closed},
        "additionalProperties": False,
    }


def test_a_property_named_like_a_keyword_is_no_keyword():
    schema = {"type": "object", "properties": {"type": {"type": "string"}, "items": {"enum": [{"type": "object"}]}}}
    written = body(asked(format=Format(kind="json_schema", schema=schema)), model("json_schema"))
    text = written["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"]
    assert json.loads(text) == {**schema, "additionalProperties": False}


def test_a_forced_tool_stands_in_for_a_schema_the_model_does_not_know():
    format = Format(kind="json_schema", schema=SCHEMA)
    config = body(asked(format=format), model())["toolConfig"]
    assert config["toolChoice"] == {"tool": {"name": JSON_TOOL}}
    assert config["tools"][0]["toolSpec"]["inputSchema"] == {"json": SCHEMA}
    beside = body(asked(format=format, tools=[WEATHER]), model())["toolConfig"]
    assert beside["toolChoice"] == {"any": {}}
    assert len(beside["tools"]) == 2


def test_words_stand_in_where_no_tool_can_be_forced():
    format = Format(kind="json_schema", schema=SCHEMA)
    for facts in (model(thinking="always_on"), Model(capabilities=frozenset())):
        written = body(asked(format=format), facts)
        assert json.dumps(SCHEMA, separators=(",", ":")) in written["system"][-1]["text"]
        assert "toolConfig" not in written
    assert "JSON object" in body(asked(format=Format(kind="json_object")))["system"][0]["text"]


def test_a_call_that_is_forced_anyway_needs_no_format():
    request = asked(tools=[WEATHER], choice=Choice(mode="required"), format=Format(kind="json_schema", schema=SCHEMA))
    assert body(request)["toolConfig"]["toolChoice"] == {"any": {}}
    assert "system" not in body(request)


# --- Reasoning ------------------------------------------------------------------------------------------------------


def fields(reasoning, thinking, **parameters):
    facts = Model(thinking=thinking, efforts=parameters.pop("efforts", ()))
    written = body(asked(reasoning=reasoning, **parameters), facts)
    return written.get("additionalModelRequestFields"), written.get("inferenceConfig")


@pytest.mark.parametrize(
    ("reasoning", "budget"),
    [
        (Reasoning(effort="minimal"), 1024),
        (Reasoning(effort="medium"), 2048),
        (Reasoning(effort="high"), 4096),
        (Reasoning(effort="max"), 16_384),
        (Reasoning(budget=5000, mode="enabled"), 5000),
        (Reasoning(budget=7), 1024),
        (Reasoning(mode="adaptive"), 2048),
    ],
)
def test_a_model_with_a_budget_gets_one(reasoning, budget):
    assert fields(reasoning, "budget")[0] == {"thinking": {"type": "enabled", "budget_tokens": budget}}


@pytest.mark.parametrize("reasoning", [None, Reasoning(effort="none"), Reasoning(mode="disabled"), Reasoning()])
def test_a_model_with_a_budget_does_not_think_unasked(reasoning):
    assert fields(reasoning, "budget")[0] is None


def test_the_budget_fits_below_the_limit():
    more, limits = fields(Reasoning(budget=4000), "budget", max_output=1000)
    assert (more["thinking"]["budget_tokens"], limits["maxTokens"]) == (4000, 5000)
    more, limits = fields(Reasoning(budget=90_000), "budget", max_output=1000)
    assert (more["thinking"]["budget_tokens"], limits["maxTokens"]) == (63_999, 64_000)


def test_a_limit_that_is_held_is_not_raised_for_thinking():
    request = asked(reasoning=Reasoning(budget=4000))
    written = body(request, max_output=2000)
    assert written["inferenceConfig"]["maxTokens"] == 2000
    assert written["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 1999
    assert "additionalModelRequestFields" not in body(request, max_output=1000)
    assert dropped(request, max_output=1000) == ["reasoning_effort"]


@pytest.mark.parametrize(
    ("reasoning", "efforts", "effort"),
    [
        (Reasoning(effort="xhigh"), (), "high"),
        (Reasoning(effort="xhigh"), ("low", "xhigh"), "xhigh"),
        (Reasoning(effort="minimal"), (), "low"),
        (Reasoning(budget=1000), (), "low"),
        (Reasoning(budget=8000), (), "medium"),
        (Reasoning(budget=9000), (), "high"),
    ],
)
def test_an_adaptive_model_gets_an_effort_it_knows(reasoning, efforts, effort):
    assert fields(reasoning, "adaptive", efforts=efforts)[0] == {
        "thinking": {"type": "adaptive", "display": "summarized"},
        "output_config": {"effort": effort},
    }


def test_an_adaptive_model_may_decide_alone_and_keep_its_thoughts():
    assert fields(Reasoning(mode="adaptive", visible=False), "adaptive")[0] == {
        "thinking": {"type": "adaptive", "display": "omitted"}
    }


def test_thinking_is_switched_off_where_that_is_possible():
    off = Reasoning(effort="none")
    assert fields(off, "adaptive")[0] == {"thinking": {"type": "disabled"}}
    assert fields(off, "always_on")[0]["output_config"] == {"effort": "low"}
    assert fields(off, "effort", efforts=("none", "low"))[0] == {"reasoning_effort": "none"}
    assert fields(off, "effort")[0] == {"reasoning_effort": "low"}
    assert fields(Reasoning(mode="disabled"), "level")[0] == {"reasoningConfig": {"type": "disabled"}}


def test_efforts_and_levels_of_other_families():
    assert fields(Reasoning(effort="max"), "effort")[0] == {"reasoning_effort": "high"}
    low = {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}
    assert fields(Reasoning(effort="low"), "level", max_output=9) == (low, {"maxTokens": 9})
    high, limits = fields(Reasoning(effort="high"), "level", max_output=9, temperature=0.5)
    assert (high["reasoningConfig"]["maxReasoningEffort"], limits) == ("high", None)


def test_a_model_with_a_budget_does_not_think_on_when_its_thoughts_were_lost():
    thought = Thinking(text="Hm", signature="s", dialect="anthropic")
    call, result = ToolCall(id="1", name="a"), user(ToolResult(id="1"))
    for said, thinks in ((assistant(call), False), (assistant(thought, call), True), (assistant("A"), True)):
        request = asked("go", said, result, reasoning=Reasoning(effort="low"))
        assert ("additionalModelRequestFields" in body(request)) is thinks
        assert dropped(request) == ([] if thinks else ["reasoning_effort"])


def test_a_model_that_thinks_is_not_sampled_freely():
    request = asked(reasoning=Reasoning(effort="low"), temperature=0.2, top_p=0.5, top_k=5)
    assert body(request).get("inferenceConfig") is None
    assert sorted(dropped(request)) == ["temperature", "top_k", "top_p"]
    assert body(asked(reasoning=Reasoning(effort="low"), top_p=0.98))["inferenceConfig"] == {"topP": 0.98}


def test_a_forced_tool_and_thinking_exclude_each_other():
    request = asked(tools=[WEATHER], choice=Choice(mode="required"), reasoning=Reasoning(effort="low"))
    for thinking in ("budget", "adaptive"):
        assert body(request, Model(thinking=thinking))["toolConfig"]["toolChoice"] == {"any": {}}
        assert dropped(request, Model(thinking=thinking)) == ["reasoning_effort"]
    always = Model(thinking="always_on")
    assert "toolChoice" not in body(request, always)["toolConfig"]
    assert dropped(request, always) == ["tool_choice"]


def test_a_model_that_cannot_think_is_not_told_to():
    assert dropped(asked(reasoning=Reasoning(effort="low")), Model(thinking="none")) == ["reasoning_effort"]
    assert dropped(asked(reasoning=Reasoning(effort="none")), Model(thinking="none")) == []


# --- Parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "name"), [({"n": 2}, "n"), ({"modalities": ["text", "audio"]}, "modalities")])
def test_what_would_change_the_meaning_is_refused(given, name):
    with pytest.raises(Unsupported) as caught:
        sent(asked(**given))
    assert caught.value.param == name


def test_what_converse_has_no_place_for_is_left_out_and_reported():
    request = asked(
        seed=7, presence_penalty=0.5, frequency_penalty=0, logprobs=True, top_logprobs=3, verbosity="low",
        parallel=False, service_tier="scale", stop=[" "], extra={"logit_bias": {}, "cache_enabled": True},
    )  # fmt: skip
    assert dropped(request, ours=frozenset({"cache_enabled"})) == [
        "stop", "service_tier", "seed", "presence_penalty", "logprobs", "top_logprobs", "verbosity",
        "parallel_tool_calls", "logit_bias",
    ]  # fmt: skip


def test_what_the_model_refuses_is_left_out_and_reported():
    facts = Model(unsupported=frozenset({"temperature", "top_p", "top_k", "stop"}))
    request = asked(temperature=1, top_p=1, top_k=1, stop=["x"], max_output=5)
    assert body(request, facts)["inferenceConfig"] == {"maxTokens": 5}
    assert sorted(dropped(request, facts)) == ["stop", "temperature", "top_k", "top_p"]


def test_limits_are_those_of_the_model_and_of_the_gateway():
    assert body(asked(max_output=999_999))["inferenceConfig"]["maxTokens"] == 64_000
    assert body(asked(max_output=10), max_output=20)["inferenceConfig"]["maxTokens"] == 20
    assert body(asked(temperature=1.7))["inferenceConfig"]["temperature"] == 1


def test_tier_user_and_members_of_converse_itself():
    request = asked(
        service_tier="fast", user="user-1", top_k=40,
        extra={"guardrailConfig": {"guardrailIdentifier": "g"}, "additionalModelRequestFields": {"x": 1}},
    )  # fmt: skip
    written = body(request)
    assert written["serviceTier"] == {"type": "priority"}
    assert written["requestMetadata"] == {"user": "user-1"}
    assert written["guardrailConfig"] == {"guardrailIdentifier": "g"}
    assert written["additionalModelRequestFields"] == {"top_k": 40, "x": 1}
    assert sent(request).dropped == []


def test_on_credits_nothing_goes_that_changes_the_price():
    request = asked(service_tier="flex", extra={"guardrailConfig": {}, "performanceConfig": {"latency": "optimized"}})
    options = {"credits": True, "repriced_by": frozenset({"service_tier"})}
    assert set(body(request, **options)) == {"messages"}
    assert dropped(request, **options) == ["service_tier", "guardrailConfig", "performanceConfig"]


def test_a_client_that_is_told_which_stop_sequence_it_was_has_it_asked_for():
    request = asked(dialect="anthropic", stop=["END"], stream=True)
    assert body(request)["additionalModelResponseFieldPaths"] == ["/delta/stop_sequence"]
    request.stream = False
    assert body(request)["additionalModelResponseFieldPaths"] == ["/stop_sequence"]


def test_instructions_alone_get_a_turn_to_answer():
    request = blocks.Request(dialect="openai_chat", model="m", messages=[], system=[Text("Count to three.")])
    assert body(request)["messages"] == [{"role": "user", "content": [{"text": "."}]}]
