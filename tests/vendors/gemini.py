"""A fake Gemini API: generateContent (whole, streamed as events or as an array), countTokens, embeddings, models.

As strict as the real one about names it does not know, the order of function turns, schemas, and thought signatures.
The script behind the model's name: `status=429` refuses, `fail=N` ends a stream with an error after N chunks, `cut=N`
ends it without one, `blocked` blocks the prompt, `thinking=level|budget` says which kind of model it is. Source of the
rules: https://ai.google.dev/api/generate-content (2026-11). Neighbours: `server.py`, `mind.py`, `gemini_rules.py`.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from tests.provider import Script
from tests.vendors import gemini_rules as rules
from tests.vendors import mind
from tests.vendors.server import EVENTS, Refusal, Reply, Seen, Vendor, decoded, events, scripted

_STATUSES = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}


class Gemini(Vendor):
    """The server, at `/v1beta` and at a Vertex project's address alike."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)

    @property
    def base_url(self) -> str:
        return f"http://{self.address}/v1beta"

    def refuse(self, refusal: Refusal) -> dict[str, Any]:
        error: dict[str, Any] = {"code": refusal.status, "message": str(refusal), "status": refusal.kind}
        if refusal.status == 429:
            error["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]
        return {"error": error}

    def answer(self, seen: Seen) -> Reply:
        if not seen.headers.get("x-goog-api-key") and "authorization" not in seen.headers:
            raise Refusal(403, _STATUSES[403], "Method doesn't allow unregistered callers")
        if seen.method == "GET" and seen.path in ("/v1/models", "/v1beta/models"):
            return _reply({"models": [{"name": "models/gemini-fake", "displayName": "Gemini Fake"}]})
        place, colon, method = seen.path.rpartition(":")
        prefix, slash, model = place.partition("/models/")
        if not colon or not slash or prefix not in ("/v1", "/v1beta"):
            raise Refusal(404, _STATUSES[404], f"{seen.path} was not found")
        name, script = scripted(model)
        if status := int(script.number("status")):
            raise Refusal(status, _STATUSES.get(status, "INTERNAL"), f"scripted {status}")
        body = rules.camel(decoded(seen))
        match method:
            case "generateContent" | "streamGenerateContent":
                return self._generated(seen, body, name, script, is_stream=method.startswith("stream"))
            case "countTokens":
                return _reply({"totalTokens": rules.check(_counted(body), name, script).size})
            case "embedContent":
                return _reply({"embedding": {"values": _vector(body)}})
            case "batchEmbedContents":
                return _reply({"embeddings": [{"values": _vector(one)} for one in body["requests"]]})
        raise Refusal(404, _STATUSES[404], f"method {method} was not found")

    def _generated(self, seen: Seen, body: dict[str, Any], name: str, script: Script, *, is_stream: bool) -> Reply:
        conversation = rules.check(body, name, script)
        chunks = [self._envelope(name) | chunk for chunk in _chunks(body, name, script, conversation)]
        count = body.get("generationConfig", {}).get("candidateCount", 1)
        if is_stream and count > 1:
            raise Refusal(400, _STATUSES[400], "Multiple candidates is not enabled for streamGenerateContent")
        seen.usage = chunks[-1]["usageMetadata"]
        if not is_stream:
            whole = _several(_joined(chunks), count)
            seen.usage = whole["usageMetadata"]
            return _reply(whole)
        kept = list(_until(script, chunks))
        if seen.query.get("alt") == "sse":
            return Reply(events(kept, end=b"\r\n\r\n"), headers={"content-type": EVENTS})
        return Reply(json.dumps(kept).encode())

    def _envelope(self, name: str) -> dict[str, Any]:
        return {"modelVersion": name, "responseId": f"gemini{next(self._numbers):012d}"}


def _reply(value: dict[str, Any]) -> Reply:
    return Reply(json.dumps(value, ensure_ascii=False).encode())


def _counted(body: dict[str, Any]) -> dict[str, Any]:
    inner = body.get("generateContentRequest")
    return {key: value for key, value in inner.items() if key != "model"} if inner else body


def _vector(body: dict[str, Any]) -> list[float]:
    text = "".join(part["text"] for part in body["content"]["parts"])
    size = int(body.get("outputDimensionality") or body.get("embedContentConfig", {}).get("outputDimensionality") or 4)
    return [round(len(text) / (place + 1), 6) for place in range(size)]


def _chunks(
    body: dict[str, Any], name: str, script: Script, conversation: rules.Conversation
) -> Iterator[dict[str, Any]]:
    """Yield the answer's chunks: thoughts, text word by word, calls whole; usage on each, the reason on the last."""
    prompt = {"promptTokenCount": conversation.size}
    if "blocked" in script:
        yield {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": _total(prompt)}
        return
    said = mind.answer(conversation.heard, conversation.wanted)
    parts = list(_parts(name, said, conversation))
    thought = mind.tokens(mind.THOUGHT) if conversation.thinks else 0
    limit = body.get("generationConfig", {}).get("maxOutputTokens")
    written, reason = thought, "STOP"
    for place, part in enumerate(parts):
        written += 0 if part.get("thought") else mind.tokens(part.get("text") or part["functionCall"]["args"])
        if limit is not None and written >= limit and place < len(parts) - 1:
            reason, written = "MAX_TOKENS", limit
            parts = parts[: place + 1]
            break
    usage = prompt | {"candidatesTokenCount": max(written - thought, 0)}
    if thought:
        usage["thoughtsTokenCount"] = thought
    for place, part in enumerate(parts):
        candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}, "index": 0}
        if place == len(parts) - 1:
            candidate["finishReason"] = reason
        yield {"candidates": [candidate], "usageMetadata": _total(usage)}


def _parts(name: str, said: mind.Said, conversation: rules.Conversation) -> Iterator[dict[str, Any]]:
    if conversation.shows_thoughts:
        yield from ({"text": piece, "thought": True} for piece in mind.pieces(mind.THOUGHT))
    yield from ({"text": piece} for piece in mind.pieces(said.text))
    for place, (tool, arguments) in enumerate(said.calls):
        part: dict[str, Any] = {"functionCall": {"name": tool, "args": arguments}}
        if place == 0 and conversation.thinks:
            part["thoughtSignature"] = rules.signature(name, tool, arguments)
        yield part


def _total(usage: dict[str, Any]) -> dict[str, Any]:
    details = [{"modality": "TEXT", "tokenCount": usage["promptTokenCount"]}]
    return usage | {"totalTokenCount": sum(usage.values()), "promptTokensDetails": details}


def _joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    whole = chunks[-1]
    if "candidates" not in whole:
        return whole
    parts: list[dict[str, Any]] = []
    for part in (part for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]):
        if parts and "text" in part and "text" in parts[-1] and part.get("thought") == parts[-1].get("thought"):
            parts[-1]["text"] += part["text"]
        else:
            parts.append(dict(part))
    whole["candidates"][0]["content"]["parts"] = parts
    return whole


def _several(whole: dict[str, Any], count: int) -> dict[str, Any]:
    """Return an answer with so many candidates, each counted."""
    if count == 1:
        return whole
    usage = {name: tokens for name, tokens in whole["usageMetadata"].items() if name.endswith("TokenCount")}
    del usage["totalTokenCount"]
    usage |= {name: usage[name] * count for name in usage.keys() - {"promptTokenCount"}}
    candidates = [whole["candidates"][0] | {"index": index} for index in range(count)]
    return whole | {"candidates": candidates, "usageMetadata": _total(usage)}


def _until(script: Script, chunks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, chunk in enumerate(chunks):
        if "fail" in script and number >= script.number("fail"):
            yield {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
            return
        if "cut" in script and number >= script.number("cut"):
            return
        yield chunk
