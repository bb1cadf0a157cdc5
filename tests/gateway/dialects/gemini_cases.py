"""What the tests of Gemini's dialect share: recorded streams, facts of models, a client's request, a written answer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from billing.usage import Usage
from gateway.dialects import blocks, gemini, wire
from tests.gateway.dialects.facts import Facts

RECORDED = {
    row["name"]: row["stream"].encode()
    for row in map(
        json.loads, (Path(__file__).parents[2] / "recordings" / "gemini_streams.jsonl").read_text().splitlines()
    )
}
CONTEXT = wire.Context("call0123", 1_700_000_000)
HELLO = [{"role": "user", "parts": [{"text": "hello"}]}]


@dataclass(frozen=True)
class Model(Facts):
    """Facts of a model."""

    upstream: str = "gemini-x"
    max_output_tokens: int | None = 65_536
    capabilities: frozenset[str] = frozenset({"tools", "thinking"})
    thinking: str = "budget"


BUDGET = Model()
LEVEL = Model(thinking="level")
PLAIN = Model(thinking="none", capabilities=frozenset({"streaming"}))


def body(**members: Any) -> bytes:
    return json.dumps({"contents": HELLO} | members).encode()


def asked(*, stream: bool = False, sse: bool = True, **members: Any) -> gemini.Request:
    return gemini.read(body(**members), named=wire.Named("gemini-x", stream, sse))


def order(model: Model = BUDGET, **members: Any) -> blocks.Order:
    return blocks.Order(model=model, **members)


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events)


def array(*events: Any) -> bytes:
    return b"[" + b"\n,\r\n".join(json.dumps(event, indent=2).encode() for event in events) + b"\n]\n"


def said(*parts: Any, **candidate: Any) -> dict[str, Any]:
    """Return one event (or answer) of a model that says these parts."""
    content = {"parts": list(parts), "role": "model"}
    return {
        "candidates": [{"content": content, "index": 0} | candidate],
        "modelVersion": "gemini-x-001",
        "responseId": "Abc-123_x",
    }


def metered(event: dict[str, Any], **usage: int) -> dict[str, Any]:
    return event | {"usageMetadata": usage}


def pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


ANSWER = blocks.Answer(
    id="msg_1",
    model="claude-x",
    blocks=[
        blocks.Thinking(text="Let me think.", signature="sIg/+abc==", dialect="anthropic"),
        blocks.Redacted(data="EncRypted", dialect="anthropic"),
        blocks.Text(
            "Grüße: sunny.", citations=[{"start_index": 7, "end_index": 12, "url": "https://x.example", "title": "X"}]
        ),
        blocks.ToolCall(id="toolu_1", name="get_weather", arguments='{"city":"Paris"}'),
        blocks.ToolCall(id="toolu_2", name="get_time", arguments=""),
    ],
    finish=blocks.Finish(reason="tool_calls"),
    usage=Usage(input_tokens=10, output_tokens=7, reasoning_output_tokens=2, cache_read_input_tokens=4),
)
SHOWN = {"thinkingConfig": {"includeThoughts": True}}
