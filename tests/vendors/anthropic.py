"""A fake Anthropic: messages (whole and streamed), token counting, models; as strict as the real one, caches included.

The script behind the model's name: `status=529` refuses, `fail=N` reports `overloaded_error` after N deltas, `cut=N`
ends a stream after N deltas, what else breaks an answer is `server.Mishap`'s, `thinking=budget|adaptive|always` says
which kind of model it is, `trusting` believes every signature. Source of the rules:
https://docs.anthropic.com/en/api/messages (2026-11). Neighbours: `server.py`,
`mind.py`, `anthropic_rules.py`.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

from tests.provider import Script
from tests.vendors import anthropic_rules as rules
from tests.vendors import mind
from tests.vendors.server import EVENTS, Mishap, Refusal, Reply, Seen, Vendor, decoded, events, scripted

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


class Anthropic(Vendor):
    """The server. What it has cached it remembers for good."""

    def __init__(self) -> None:
        super().__init__()
        self._cached: set[str] = set()
        self._numbers = itertools.count(1)

    @property
    def base_url(self) -> str:
        return f"http://{self.address}/v1"

    def refuse(self, refusal: Refusal) -> dict[str, Any]:
        return {
            "type": "error",
            "error": {"type": refusal.kind, "message": str(refusal)},
            "request_id": f"req_{len(self.requests)}",
        }

    def answer(self, seen: Seen) -> Reply:
        if not (seen.headers.get("x-api-key") or seen.headers.get("authorization", "").startswith("Bearer ")):
            raise Refusal(401, _KINDS[401], "x-api-key header is required")
        if "x-api-key" in seen.headers and "authorization" in seen.headers:
            raise Refusal(401, _KINDS[401], "one key, please: x-api-key or Authorization")
        version = seen.headers.get("anthropic-version")
        if version not in ("2023-06-01", "2026-10-21"):
            raise Refusal(400, _KINDS[400], f"anthropic-version: {version!r} is not a valid version")
        if seen.path == "/v1/models":
            return _reply({"data": [_model("claude-fake")], "has_more": False, "first_id": None, "last_id": None})
        if seen.path not in ("/v1/messages", "/v1/messages/count_tokens"):
            raise Refusal(404, _KINDS[404], f"not found: {seen.path}")
        body = decoded(seen)
        name, script = scripted(body.get("model"))
        with self.lock:
            script = script.rolled(self.rolls)
        mishap, status = Mishap(script), int(script.number("status"))
        refusal = Refusal(status, _KINDS.get(status, "api_error"), f"scripted {status}")
        if (refused := mishap.before(self.refuse(refusal))) is not None:
            seen.refusal = str(refusal)
            return refused
        is_count = seen.path.endswith("count_tokens")
        conversation = rules.check(body, name, script, version=version, is_count=is_count)
        if is_count:
            return _reply({"input_tokens": sum(size for _, size, _ in conversation.prompt)})
        usage = self._input_usage(seen, name, conversation)
        message = self._message(body, name, conversation, usage)
        seen.usage = message["usage"]
        head = {"content-type": EVENTS if body.get("stream") else "application/json", "request-id": message["id"]}
        whole = json.dumps(message, ensure_ascii=False).encode()
        return mishap.after(
            Reply(_stream(message, script) if body.get("stream") else whole, headers=head), _noise(script)
        )

    def _input_usage(self, seen: Seen, model: str, conversation: rules.Conversation) -> dict[str, Any]:
        """Tell how much of the prompt was read from the cache, written to it, and neither."""
        key = seen.headers.get("x-api-key") or seen.headers["authorization"]
        digest = hashlib.sha256(f"{key}\n{model}".encode())
        total = read = marked = 0
        written = {"5m": 0, "1h": 0}
        for canonical, size, ttl in conversation.prompt:
            digest.update(canonical.encode())
            total += size
            if ttl is None:
                continue
            if digest.hexdigest() in self._cached:
                read, marked, written = total, total, {"5m": 0, "1h": 0}
            else:
                self._cached.add(digest.hexdigest())
                written[ttl] += total - marked
                marked = total
        return {
            "input_tokens": total - marked,
            "cache_creation_input_tokens": sum(written.values()),
            "cache_read_input_tokens": read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": written["5m"],
                "ephemeral_1h_input_tokens": written["1h"],
            },
        }

    def _message(
        self, body: dict[str, Any], model: str, conversation: rules.Conversation, usage: dict[str, Any]
    ) -> dict[str, Any]:
        said = mind.answer(conversation.heard, conversation.wanted)
        content: list[dict[str, Any]] = []
        if conversation.thinks:
            content.append(
                {"type": "thinking", "thinking": mind.THOUGHT, "signature": mind.signed(mind.THOUGHT, model)}
            )
        if said.text:
            content.append({"type": "text", "text": said.text})
        for name, arguments in said.calls:
            id = f"toolu_{next(self._numbers):020d}"
            content.append({"type": "tool_use", "id": id, "name": name, "input": arguments})
        reason, sequence = ("tool_use" if said.calls else "end_turn"), None
        text = next((block for block in content if block["type"] == "text"), None)
        for stop in body.get("stop_sequences") or []:
            if text and stop in text["text"]:
                text["text"], reason, sequence = text["text"].partition(stop)[0], "stop_sequence", stop
        written = sum(mind.tokens(block.get("text") or block.get("input") or "") for block in content)
        thought = mind.tokens(mind.THOUGHT) if conversation.thinks else 0
        if text and not said.calls and written + thought > body["max_tokens"]:
            words = mind.pieces(text["text"])[: max(body["max_tokens"] - thought, 0)]
            text["text"], reason, written = "".join(words), "max_tokens", body["max_tokens"] - thought
        return {
            "id": f"msg_{next(self._numbers):020d}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "stop_details": None,
            "container": None,
            "usage": usage
            | {
                "output_tokens": written + thought,
                "output_tokens_details": {"thinking_tokens": thought},
                "service_tier": "standard",
                "server_tool_use": None,
                "inference_geo": "global",
            },
        }


def _reply(value: dict[str, Any]) -> Reply:
    return Reply(json.dumps(value).encode())


def _model(id: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": id,
        "display_name": "Claude Fake",
        "created_at": "2026-01-01T00:00:00Z",
        "max_input_tokens": 200000,
        "max_tokens": 64000,
    }


def _noise(script: Script) -> list[bytes]:
    """Return the pieces of a stream that is none."""
    end = b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
    if "garbled" in script:
        return [b'event: message_start\ndata: {"type": "message_start", "mess\n\n', end]
    if "noise" in script:
        return [b"You said ", b"\xff\xfe\x00nothing\n", b"data that is none\n\n"]
    return [end] if "empty" in script else []


def _stream(message: dict[str, Any], script: Script) -> Iterator[bytes]:
    return events(_until(script, _events(message)), named=True)


def _until(script: Script, values: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    deltas = 0
    for value in values:
        if "fail" in script and deltas >= script.number("fail"):
            yield {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
            return
        if "cut" in script and deltas >= script.number("cut"):
            return
        yield value
        deltas += value["type"] == "content_block_delta"


def _events(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    usage = message["usage"]
    begun = message | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage | {"output_tokens": 1}}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(message["content"]):
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}
        yield {"type": "content_block_start", "index": index, "content_block": block | empty[block["type"]]}
        if index == 0:
            yield {"type": "ping"}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {name: message[name] for name in ("stop_reason", "stop_sequence", "stop_details", "container")}
    yield {"type": "message_delta", "delta": delta, "usage": usage}
    yield {"type": "message_stop"}


def _deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] == "text":
        for piece in mind.pieces(block["text"]):
            yield {"type": "text_delta", "text": piece}
    elif block["type"] == "thinking":
        for piece in mind.pieces(block["thinking"]):
            yield {"type": "thinking_delta", "thinking": piece}
        yield {"type": "signature_delta", "signature": block["signature"]}
    else:
        text = json.dumps(block["input"], ensure_ascii=False)
        if block["input"]:
            yield {"type": "input_json_delta", "partial_json": ""}
            for start in range(0, len(text), 5):
                yield {"type": "input_json_delta", "partial_json": text[start : start + 5]}
