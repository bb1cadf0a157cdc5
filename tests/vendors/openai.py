"""A fake OpenAI: Responses, chat completions, files, embeddings, models; as strict as the real one.

The script behind the model's name: `status=429` refuses, `fail=N` reports an error after N deltas, `cut=N` ends a
stream after N deltas, `reasons` says that it is a reasoning model (no sampling, `max_completion_tokens` only),
`responses` that it calls tools in the Responses API only. Source of the rules:
https://platform.openai.com/docs/api-reference (2026-11).
Neighbours: `server.py`, `mind.py`, `openai_rules.py`, `openai_events.py`.
"""

import base64
import itertools
import json
import re
import struct
from dataclasses import dataclass
from typing import Any

from tests.provider import Script
from tests.vendors import mind, openai_events
from tests.vendors import openai_rules as rules
from tests.vendors.server import EVENTS, Refusal, Reply, Seen, Vendor, decoded, events, scripted

CREATED = 1_790_000_000
_KINDS = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_exceeded"}


@dataclass
class File:
    """An uploaded file and the key of the account it belongs to."""

    key: str
    name: str
    purpose: str
    content: bytes


class OpenAI(Vendor):
    """The server. A file can be used with the key it was uploaded with, a stored response likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, File] = {}
        self.stored: dict[str, list[dict[str, Any]]] = {}  # responses that were stored: id -> input and output items
        self._numbers = itertools.count(1)

    @property
    def base_url(self) -> str:
        return f"http://{self.address}/v1"

    def number(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers):024d}"

    def refuse(self, refusal: Refusal) -> dict[str, Any]:
        kind = _KINDS.get(refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error")
        error = {"message": str(refusal), "type": kind, "param": refusal.param, "code": refusal.kind}
        return {"error": error}

    def answer(self, seen: Seen) -> Reply:
        key = seen.headers.get("authorization", "").removeprefix("Bearer ")
        if not key:
            raise Refusal(401, "invalid_api_key", "You didn't provide an API key.")
        if seen.path.startswith("/v1/files"):
            return self._files(seen, key)
        if seen.path == "/v1/models":
            model = {"id": "gpt-fake", "object": "model", "created": CREATED, "owned_by": "fake"}
            return _reply({"object": "list", "data": [model]})
        routes = {
            "/v1/responses": self._responses,
            "/v1/chat/completions": self._chat,
            "/v1/embeddings": self._embeddings,
        }
        if seen.path not in routes:
            raise Refusal(404, "not_found", f"Invalid URL ({seen.method} {seen.path})")
        body = decoded(seen)
        name, script = scripted(body.get("model"))
        if status := int(script.number("status")):
            raise Refusal(status, "scripted", f"scripted {status}")
        return routes[seen.path](seen, body, name, script, key)

    # --- Responses ---------------------------------------------------------------------------------------------------

    def _responses(self, seen: Seen, body: dict[str, Any], name: str, script: Script, key: str) -> Reply:
        before: list[dict[str, Any]] = []
        if previous := body.get("previous_response_id"):
            if previous not in self.stored:
                raise Refusal(400, "previous_response_not_found", f"Previous response with id '{previous}' not found.")
            before = self.stored[previous]
        conversation = rules.check_response(body, name, script, before, self._file_of(key))
        response = self._response(body, name, conversation)
        seen.usage = response["usage"]
        if body.get("store", True):
            self.stored[response["id"]] = [*before, *rules.items_of(body), *response["output"]]
        if body.get("stream"):
            stream = openai_events.response(response, script)
            return Reply(events(stream, named=True), headers={"content-type": EVENTS})
        return _reply(response)

    def _response(self, body: dict[str, Any], name: str, conversation: rules.Conversation) -> dict[str, Any]:
        said = mind.answer(conversation.heard, conversation.wanted)
        output: list[dict[str, Any]] = []
        thought = mind.tokens(mind.THOUGHT) if conversation.thinks else 0
        if conversation.thinks:
            output.append(self._reasoning(body, name))
        if said.text:
            part = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
            message = {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
            output.append({"id": self.number("msg_")} | message)
        for tool, arguments in said.calls:
            call = {"name": tool, "arguments": json.dumps(arguments), "status": "completed"}
            call |= {"call_id": self.number("call_"), "id": self.number("fc_"), "type": "function_call"}
            output.append(call)
        written = mind.tokens(said.text) + sum(mind.tokens(arguments) for _, arguments in said.calls)
        limit = body.get("max_output_tokens")
        is_cut = limit is not None and written + thought > limit and not said.calls
        if is_cut:
            words = mind.pieces(said.text)[: max(limit - thought, 1)]
            output[-1]["content"][0]["text"] = "".join(words)
            output[-1]["status"] = "incomplete"
            written = max(limit - thought, 0)
        return rules.envelope(body, name, CREATED) | {
            "id": self.number("resp_"),
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": output,
            "usage": {
                "input_tokens": conversation.size,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": written + thought,
                "output_tokens_details": {"reasoning_tokens": thought},
                "total_tokens": conversation.size + written + thought,
            },
        }

    def _reasoning(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        summary = (body.get("reasoning") or {}).get("summary")
        item: dict[str, Any] = {"id": self.number("rs_"), "type": "reasoning", "summary": []}
        if summary:
            item["summary"] = [{"type": "summary_text", "text": mind.THOUGHT}]
        if "reasoning.encrypted_content" in (body.get("include") or []):
            item["encrypted_content"] = mind.signed(f"{item['id']}", name)
        return item

    # --- Chat completions --------------------------------------------------------------------------------------------

    def _chat(self, seen: Seen, body: dict[str, Any], name: str, script: Script, key: str) -> Reply:
        conversation = rules.check_chat(body, script, self._file_of(key))
        said = mind.answer(conversation.heard, conversation.wanted)
        calls = [
            {
                "id": self.number("call_"),
                "type": "function",
                "function": {"name": tool, "arguments": json.dumps(arguments)},
            }
            for tool, arguments in said.calls
        ]
        count = body.get("n") or 1
        thought = mind.tokens(mind.THOUGHT) if conversation.thinks else 0
        written = mind.tokens(said.text) + sum(mind.tokens(arguments) for _, arguments in said.calls)
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        reason = "tool_calls" if calls else "stop"
        if limit is not None and written + thought > limit and not calls:
            said.text, written = "".join(mind.pieces(said.text)[: max(limit - thought, 1)]), max(limit - thought, 0)
            reason = "length"
        usage = {
            "prompt_tokens": conversation.size,
            "completion_tokens": (written + thought) * count,
            "total_tokens": conversation.size + (written + thought) * count,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": thought * count, "audio_tokens": 0},
        }
        seen.usage = usage
        head = {"id": self.number("chatcmpl-"), "created": CREATED, "model": f"{name}-2026-01-01"}
        head |= {"service_tier": "default", "system_fingerprint": "fp_fake"}
        if body.get("stream"):
            with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            values = openai_events.chat(head, said.text, calls, reason, usage if with_usage else None, script)
            return Reply(values, headers={"content-type": EVENTS})
        message = {"role": "assistant", "content": said.text or None, "refusal": None, "annotations": []}
        if calls:
            message["tool_calls"] = calls
        choice = {"message": message, "logprobs": None, "finish_reason": reason}
        choices = [{"index": index} | choice for index in range(count)]
        return _reply(head | {"object": "chat.completion", "choices": choices, "usage": usage})

    def _embeddings(self, seen: Seen, body: dict[str, Any], name: str, script: Script, key: str) -> Reply:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        if not texts or any(text in ("", []) for text in texts):
            raise Refusal(400, "invalid_value", "'$.input' is invalid.", "input")
        data = []
        for index, text in enumerate(texts):
            vector = [len(text) / (place + 1) for place in range(int(body.get("dimensions", 4)))]
            packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            value = packed if body.get("encoding_format") == "base64" else vector
            data.append({"object": "embedding", "index": index, "embedding": value})
        size = sum(mind.tokens(text) for text in texts)
        seen.usage = {"prompt_tokens": size, "total_tokens": size}
        return _reply({"object": "list", "data": data, "model": name, "usage": seen.usage})

    # --- Files -------------------------------------------------------------------------------------------------------

    def _file_of(self, key: str) -> rules.FindFile:
        def find(id: str) -> bytes:
            file = self.files.get(id)
            if file is None or file.key != key:
                raise Refusal(404, "not_found", f"No such File object: {id}", "id")
            return file.content

        return find

    def _files(self, seen: Seen, key: str) -> Reply:
        id, _, part = seen.path.removeprefix("/v1/files").strip("/").partition("/")
        if not id and seen.method == "POST":
            return _reply(self._described(self._uploaded(seen, key)))
        if not id:
            mine = [self._described(id) for id, file in self.files.items() if file.key == key]
            return _reply({"object": "list", "data": mine, "has_more": False})
        content = self._file_of(key)(id)
        if part == "content":
            return Reply(content, headers={"content-type": "application/octet-stream"})
        if seen.method == "DELETE":
            del self.files[id]
            return _reply({"id": id, "object": "file", "deleted": True})
        return _reply(self._described(id))

    def _uploaded(self, seen: Seen, key: str) -> str:
        boundary = re.search(r'boundary="?([^";]+)', seen.headers.get("content-type", ""))
        if boundary is None:
            raise Refusal(400, "invalid_request", "expected multipart/form-data")
        fields: dict[str, bytes] = {}
        name = "upload"
        for part in seen.body.split(b"--" + boundary[1].encode())[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            field = re.search(rb'\bname="([^"]+)"', head)
            given = re.search(rb'filename="([^"]+)"', head)
            name = given[1].decode() if given else name
            fields[field[1].decode() if field else ""] = content.removesuffix(b"\r\n")
        if "file" not in fields or "purpose" not in fields:
            raise Refusal(400, "missing_required_parameter", "'file' and 'purpose' are required parameters")
        id = self.number("file-")
        self.files[id] = File(key, name, fields["purpose"].decode(), fields["file"])
        return id

    def _described(self, id: str) -> dict[str, Any]:
        file = self.files[id]
        facts = {"filename": file.name, "purpose": file.purpose, "bytes": len(file.content)}
        return {"id": id, "object": "file", "created_at": CREATED, "status": "processed", "expires_at": None} | facts


def _reply(value: dict[str, Any]) -> Reply:
    return Reply(
        json.dumps(value, ensure_ascii=False).encode(),
        headers={"content-type": "application/json", "x-request-id": str(value.get("id", "req"))},
    )
