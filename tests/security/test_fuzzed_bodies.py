"""Bodies that no SDK would send, on every route of the gateway: refused or answered, never a failure of our own.

Seeds are valid requests of each dialect; a number chooses route, model and damage, so that a failure can be repeated.
What the vendor behind would say is its own affair (`tests/vendors/` refuses what is malformed with 400). 500 bodies in
each run, 10,000 in the long one.
"""

import copy
import http.client
import json
import random
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.sdk.speakers import CITY, PDF, PERSON, PNG

MODELS = [
    "sandbox/echo",
    "fake/chat",
    "fake-chat/gpt",
    "fake-responses/gpt-newest",
    "fake-anthropic/claude-budget",
    "fake-anthropic/claude-adaptive",
    "fake-gemini/gemini-level",
]
_IMAGE = f"data:image/png;base64,{PNG}"
_CHAT = {
    "model": "",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "The weather in Paris?"},
                {"type": "image_url", "image_url": {"url": _IMAGE, "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}],
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "w", "arguments": '{"city":"a"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
    ],
    "tools": [{"type": "function", "function": {"name": "w", "description": "d", "parameters": CITY, "strict": False}}],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, "strict": True}},
    "max_completion_tokens": 300,
    "temperature": 0.5,
    "n": 1,
    "logprobs": True,
    "top_logprobs": 2,
    "stop": ["x"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "variables": {"a": {"_type": "image_url", "value": _IMAGE}},
    "respan_params": {"customer_identifier": "jo", "metadata": {"a": "b"}},
}
_RESPONSE = {
    "model": "",
    "instructions": "Be brief.",
    "input": [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": _IMAGE}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "x",
        },
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "w", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sun"},
    ],
    "tools": [{"type": "function", "name": "w", "parameters": CITY, "strict": False}],
    "tool_choice": {"type": "function", "name": "w"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "p", "schema": PERSON, "strict": True}},
    "max_output_tokens": 300,
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "top_logprobs": 2,
    "store": False,
    "stream": True,
}
_MESSAGE = {
    "model": "",
    "max_tokens": 3000,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                {"type": "tool_use", "id": "toolu_1", "name": "w", "input": {"city": "a"}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sun"}]},
    ],
    "tools": [{"name": "w", "description": "d", "input_schema": CITY}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "metadata": {"user_id": "u", "respan_params": {"customer_identifier": "jo"}},
    "stop_sequences": ["x"],
    "stream": True,
}
_CONTENT = {
    "contents": [
        {"role": "user", "parts": [{"text": "Hi"}, {"inlineData": {"mimeType": "image/png", "data": PNG}}]},
        {
            "role": "model",
            "parts": [{"functionCall": {"name": "w", "args": {"city": "a"}}, "thoughtSignature": "c2ln"}],
        },
        {"role": "user", "parts": [{"functionResponse": {"name": "w", "response": {"result": "sun"}}}]},
    ],
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "tools": [{"functionDeclarations": [{"name": "w", "description": "d", "parametersJsonSchema": CITY}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["w"]}},
    "generationConfig": {
        "maxOutputTokens": 300,
        "temperature": 0.5,
        "candidateCount": 1,
        "responseLogprobs": True,
        "logprobs": 2,
        "stopSequences": ["x"],
        "thinkingConfig": {"includeThoughts": True},
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
    },
}
_GOOGLE = "/api/google/gemini/v1beta/models/{model}:"
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat/completions", _CHAT),
    ("/api/responses", _RESPONSE),
    ("/api/anthropic/v1/messages?beta=true", _MESSAGE),
    ("/api/anthropic/v1/messages/count_tokens", {name: _MESSAGE[name] for name in ("model", "messages", "system")}),
    (_GOOGLE + "generateContent", _CONTENT),
    (_GOOGLE + "streamGenerateContent?alt=sse", _CONTENT),
    (_GOOGLE + "streamGenerateContent", _CONTENT),
    (_GOOGLE + "countTokens", {"contents": _CONTENT["contents"]}),
    ("/api/completions", {"model": "", "prompt": ["Hi"], "max_tokens": 9, "stream": True}),
    ("/api/embeddings", {"model": "", "input": ["Hi", "there"], "encoding_format": "base64", "dimensions": 4}),
    ("/api/images/generations", {"model": "", "prompt": "a dot", "n": 1, "size": "1024x1024"}),
    ("/api/audio/speech", {"model": "", "input": "Hi", "voice": "alloy"}),
    ("/api/moderations", {"model": "", "input": ["Hi"]}),
    ("/api/openai/v1/chat/completions", _CHAT),
]
_ODD: list[Any] = [
    None, True, False, 0, -1, 1, 0.1, 1e308, 10**30, -(10**18), "", " ", "x", "\x00", "\ud83d", "é" * 50, "a" * 5000,
    [], {}, [[]], [None], {"": ""}, {"type": "text"}, {"type": None}, {"type": []}, [{}], "data:image/png;base64,",
    "data:,", "data:image/png;base64,@@@", "https://[", "file_1", "null", "{", '{"a":', "auto", "required", "tool",
]  # fmt: skip


def damaged(number: int) -> tuple[str, bytes]:
    """Return the path and the body of a number."""
    dice = random.Random(number)  # noqa: S311  (the same for the same number)
    path, seed = ROUTES[number % len(ROUTES)]
    model = dice.choice(MODELS)
    body = copy.deepcopy(seed)
    if "model" in body:
        body["model"] = model
    if dice.random() < 0.5:
        body.pop("stream", None)
        body.pop("stream_options", None)
    for _ in range(dice.choice((0, 1, 1, 2, 3))):
        _hit(body, dice)
    raw = json.dumps(body).encode()
    return path.format(model=model), _cut(raw, dice) if dice.random() < 0.1 else raw


def _hit(body: dict[str, Any], dice: random.Random) -> None:
    """Damage one place of a body: another value, another name, nothing, the same again, or itself far deeper."""
    places = _places(body)
    if not places:
        return
    holder, name = dice.choice(places)
    value = holder[name]
    match dice.randrange(7):
        case 0 | 1 | 2:
            holder[name] = copy.deepcopy(dice.choice(_ODD))
        case 3:
            del holder[name]
        case 4 if isinstance(holder, dict):
            holder[dice.choice(("x", "role", "type", "content", f"{name}x", "name"))] = holder.pop(name)
        case 5:
            holder[name] = [copy.deepcopy(value)] * dice.choice((1, 2, 40))
        case _:
            for _ in range(dice.choice((1, 3, 70))):
                value = {"type": "object", "properties": {"a": value}} if dice.random() < 0.5 else [value]
            holder[name] = value


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    names = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for name in names:
        found += [(value, name), *_places(value[name])]
    return found


def _cut(raw: bytes, dice: random.Random) -> bytes:
    """Damage the bytes themselves."""
    at = dice.randrange(len(raw))
    match dice.randrange(4):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :]
        case 2:
            return raw[:at] + dice.choice((b"\xff\xfe", b"\\ud800", b"NaN", b"\x00", b"}", b"[" * 300)) + raw[at:]
    return dice.choice((b"", b"null", b"[]", b'"x"', b"1", b"{}", b'{"model":1}', b"\xef\xbb\xbf{}"))


def sent(base_url: str, key: str, numbers: range) -> Counter[str]:
    """Send the bodies of these numbers; return how many answers there were by status. Fails with what must not be."""
    counts: Counter[str] = Counter()
    wrong = []
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=30)
    for number in numbers:
        path, body = damaged(number)
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        headers |= {"anthropic-version": "2023-06-01"} if "anthropic" in path else {}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        said = answer.read()
        counts[str(answer.status)] += 1
        if not _is_fine(answer.status, said):
            wrong.append(f"number {number}: {path} {answer.status} {said[-400:]!r}\n    {body[:1500]!r}")
    connection.close()
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong[:20])
    return counts


def _is_fine(status: int, said: bytes) -> bool:
    """Tell whether an answer is one, or a refusal in the shape of a dialect."""
    if status >= 500 or b"internal_error" in said:
        return False
    return status < 400 or "error" in json.loads(said)


@pytest.fixture
def customer(tenant):
    return tenant(credits_usd="50")


def test_five_hundred_damaged_bodies_meet_no_failure_of_ours(customer):
    counts = sent(customer.stack.base_url, customer.key, range(500))
    assert counts["200"] > 30
    assert counts["400"] > 100


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_thousand_damaged_bodies_meet_no_failure_of_ours(customer):
    counts = sent(customer.stack.base_url, customer.key, range(500, 10_500))
    print(f"\n10,000 damaged bodies on {len(ROUTES)} routes: {dict(sorted(counts.items()))}")
