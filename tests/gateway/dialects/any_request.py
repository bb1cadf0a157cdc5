"""Hypothesis strategies: requests in the middle form, also unreasonable ones, and orders of all kinds of models."""

import base64

from hypothesis import strategies as st

from gateway.dialects import blocks
from tests.gateway.dialects.test_bedrock_encode import Model

TEXTS = st.sampled_from(["", " ", "\n", "hello", "Grüße 👋", "x" * 300])
NAMES = st.sampled_from(
    ["get_weather", "get.weather", "wetter für morgen", "json_answer", "n" * 70, "mcp__server-1__do"]
)
IDS = st.sampled_from(["call_1", "toolu_01", "tool/use:2", "i" * 100, "é"])
CACHE = st.sampled_from([None, None, "5m", "1h"])
DATA = st.sampled_from([base64.b64encode(data).decode() for data in (b"\x89PNG\r\n", b"x", b"%PDF-1.7")])
SCHEMAS = st.sampled_from(
    [
        None,
        {},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        {"type": "object", "properties": {"type": {"type": "object", "properties": {}}}},
        {"$defs": {"x": {"type": "object"}}, "anyOf": [{"$ref": "#/$defs/x"}]},
    ]
)

plain = st.one_of(
    st.builds(blocks.Text, TEXTS, cache=CACHE),
    st.builds(blocks.Refusal, TEXTS),
    st.builds(
        blocks.Image, media_type=st.sampled_from(["image/png", "image/jpeg", "image/webp"]), data=DATA, cache=CACHE
    ),
    st.builds(
        blocks.Document,
        media_type=st.sampled_from(["application/pdf", "text/plain", "text/markdown; charset=utf-8"]),
        data=DATA,
        text=st.sampled_from([None, None, "", "words"]),
        name=st.sampled_from([None, "", "report.pdf", "Jahresbericht_2026 (final)!.pdf", "../../x", "日本", "n" * 300]),
        context=st.sampled_from([None, "", "context"]),
        citations=st.booleans(),
        cache=CACHE,
    ),
)
said = st.one_of(
    plain,
    st.builds(
        blocks.ToolCall,
        id=IDS,
        name=NAMES,
        arguments=st.sampled_from(["", "{}", '{"a": 1}', "[1]", "null", "{bad", '"text"']),
        custom=st.booleans(),
        cache=CACHE,
    ),
    st.builds(
        blocks.Thinking,
        text=TEXTS,
        signature=st.sampled_from([None, "c2ln"]),
        dialect=st.sampled_from([None, "bedrock", "anthropic", "gemini"]),
    ),
    st.builds(blocks.Redacted, data=DATA, dialect=st.sampled_from(["bedrock", "anthropic", "openai_responses"])),
    st.builds(blocks.Opaque, dialect=st.just("anthropic"), value=st.just({"type": "server_tool_use"})),
)
heard = st.one_of(
    plain,
    st.builds(blocks.ToolResult, id=IDS, content=st.lists(plain, max_size=3), is_error=st.booleans(), cache=CACHE),
)
messages = st.one_of(
    st.builds(blocks.Message, st.just("user"), st.lists(heard, max_size=4)),
    st.builds(blocks.Message, st.just("assistant"), st.lists(said, max_size=4)),
    st.builds(blocks.Message, st.just("system"), st.lists(st.builds(blocks.Text, TEXTS), max_size=2)),
)
tools = st.one_of(
    st.builds(
        blocks.Tool,
        name=NAMES,
        description=st.sampled_from([None, "", " ", "What it does."]),
        parameters=SCHEMAS,
        strict=st.sampled_from([None, True, False]),
        custom=st.booleans(),
        cache=CACHE,
    ),
    st.builds(blocks.ServerTool, dialect=st.just("openai_chat"), value=st.just({}), kind=st.just("web_search")),
)
choices = st.builds(
    blocks.Choice,
    mode=st.sampled_from(["auto", "none", "required", "named", "allowed"]),
    names=st.lists(NAMES, min_size=1, max_size=2),
    required=st.booleans(),
)
formats = st.builds(
    blocks.Format,
    kind=st.sampled_from(["json_object", "json_schema"]),
    schema=SCHEMAS,
    name=st.sampled_from([None, "", "answer"]),
)
reasonings = st.builds(
    blocks.Reasoning,
    effort=st.sampled_from([None, "none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"]),
    budget=st.sampled_from([None, 0, 1, 1024, 5000, 100_000]),
    mode=st.sampled_from([None, "enabled", "adaptive", "disabled"]),
    visible=st.sampled_from([None, True, False]),
)
numbers = st.sampled_from([None, 0, 0.5, 1, 2, -1])
limits = st.sampled_from([None, 1, 500, 2000, 50_000, 10_000_000])
requests = st.builds(
    blocks.Request,
    dialect=st.sampled_from(["openai_chat", "anthropic"]),
    model=st.just("m"),
    messages=st.lists(messages, max_size=6),
    system=st.lists(st.builds(blocks.Text, TEXTS, cache=CACHE), max_size=2),
    stream=st.booleans(),
    max_output=limits,
    temperature=numbers,
    top_p=numbers,
    top_k=st.sampled_from([None, 0, 40, 10_000]),
    stop=st.lists(st.sampled_from(["END", " ", ""]), max_size=3),
    seed=st.sampled_from([None, 7, -7, 2**70]),
    presence_penalty=numbers,
    frequency_penalty=numbers,
    logprobs=st.sampled_from([None, True]),
    tools=st.lists(tools, max_size=3),
    choice=st.none() | choices,
    parallel=st.sampled_from([None, True, False]),
    format=st.none() | formats,
    reasoning=st.none() | reasonings,
    service_tier=st.sampled_from([None, "auto", "flex", "priority", "scale"]),
    verbosity=st.sampled_from([None, "low"]),
    user=st.sampled_from([None, "user-1", "ü", "x" * 300]),
    extra=st.sampled_from([{}, {"logit_bias": {"1": 2}}, {"additionalModelRequestFields": {"a": 1}}]),
)
models = st.builds(
    Model,
    max_output_tokens=st.sampled_from([None, 4096, 64_000]),
    capabilities=st.frozensets(st.sampled_from(["tools", "json_schema", "caching", "system_anywhere"])),
    unsupported=st.frozensets(st.sampled_from(["temperature", "top_p", "stop", "tool_choice", "response_format"])),
    thinking=st.sampled_from(["none", "effort", "budget", "adaptive", "always_on", "level"]),
    efforts=st.sampled_from([(), ("low", "high"), ("none", "low", "medium", "high", "xhigh", "max")]),
)
orders = st.builds(blocks.Order, model=models, max_output=limits, credits=st.booleans())
