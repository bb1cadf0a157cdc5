"""One recorded request put to one provider dialect: does it arrive as something the vendor would take?

Pure. The strict rules of the fake vendors (`tests/vendors/`) are the judge. Neighbours: `exam.py` (answers),
`test_recordings.py`.
"""

import json
from functools import cache
from typing import Any

from gateway.dialects import blocks, wire
from gateway.dialects.registry import CLIENTS, TARGETS, Client
from gateway.providers import Model
from tests.drills.exam import Verdict
from tests.drills.replay import Row
from tests.provider import Script
from tests.vendors import anthropic_rules, gemini_rules, openai_rules
from tests.vendors.server import Refusal, words

_CAN = words("tools parallel_tools json json_schema vision pdf audio thinking caching streaming prefill")
_NO_SAMPLING = words("temperature top_p top_k presence_penalty frequency_penalty logprobs logit_bias")


def _model(**facts: Any) -> Model:
    return Model("m", "p", "m", capabilities=_CAN, max_output_tokens=8192, **facts)


# What each provider's model is, and the script that says the same to the fake.
_MODELS = {
    "openai_chat": (_model(unsupported=frozenset({"top_k"}), max_tokens_field="max_tokens"), ""),
    "openai_responses": (_model(thinking="effort", unsupported=_NO_SAMPLING), "reasons"),
    "anthropic": (_model(thinking="budget"), "thinking=budget"),
    "gemini": (_model(thinking="budget"), "thinking=budget"),
    "bedrock": (_model(thinking="budget"), ""),
    "cohere": (_model(thinking="budget"), ""),
}
_PATHS = {
    "/chat/completions": "openai_chat",
    "/responses": "openai_responses",
    "/messages": "anthropic",
    "enerateContent": "gemini",
}


def asker(row: Row) -> Client | None:
    """Return the client dialect a recorded request is in."""
    found = (dialect for end, dialect in _PATHS.items() if row.path.endswith(end))
    dialect = next(found, None)
    return CLIENTS[dialect] if dialect and row.request is not None else None


def ask(row: Row, client: Client, target: str) -> Verdict:
    """Send a request to a provider of a dialect. Raises: blocks.Unsupported where the vendor cannot do it."""
    asked = _read(row, client)
    model, script = _MODELS[target]
    if client.dialect == target:
        order = blocks.Order(model=Model("m", "p", "m"))
        sent, asked_for = json.loads(client.forward(asked, order).body), dict(row.request or {})
        for name in ("model", "stream_options", "top_k", "max_tokens", "max_completion_tokens"):
            sent.pop(name, None)
            asked_for.pop(name, None)
        return Verdict("forwarded", None if sent == asked_for else "the body was changed on its way")
    assert client.translated is not None
    sent_on = TARGETS[target].encode(client.translated.decode(asked), blocks.Order(model=model))
    return Verdict("translated", _refused(target, json.loads(sent_on.body), script))


def _read(row: Row, client: Client) -> wire.Asked:
    body = dict(row.request or {})
    if client.id == "gemini":
        return client.read(json.dumps(body).encode(), named=wire.Named("m", stream="stream" in row.path, sse=True))
    return client.read(json.dumps(body | {"model": "m"}).encode())


def _refused(target: str, body: dict[str, Any], script: str) -> str | None:
    """Return what the vendor would say against a request."""
    told = Script.of({"model": f"m:{script},trusting"}, "")
    try:
        match target:
            case "anthropic":
                anthropic_rules.check(body, "m", told, version="2023-06-01")
            case "gemini":
                gemini_rules.check(gemini_rules.camel(body), "m", told)
            case "openai_chat":
                openai_rules.check_chat(body, told, _any_file)
            case "openai_responses":
                openai_rules.check_response(body, "m", told, [], _any_file)
    except Refusal as refusal:
        return str(refusal)
    return None


@cache
def _any_file(id: str) -> bytes:
    return b"%PDF-1.4"
