"""Recorded real traffic: its rows, and a server that answers with them byte by byte as they were recorded.

A row is chosen by the provider key `replay:<id>`, or by the model: its id stands in the body or in the address. Rows
hold an answer as JSON, as text, as base64, or (fixtures of test suites) as a list of events; `stream` gives the bytes a
provider would send. Neighbours: `truth.py` (what a row says), `test_recordings.py`.
"""

import base64
import gzip
import json
import re
import struct
from binascii import crc32
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.vendors.server import JSON, Refusal, Reply, Seen, Vendor

EVENTS = "text/event-stream"
AWS_EVENTS = "application/vnd.amazon.eventstream"
# What the first object of an answer has in each dialect; a recording's own label is often wrong.
_MARKS: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
    ("openai_chat", lambda value: value.get("object") in ("chat.completion", "chat.completion.chunk")),
    ("openai_chat", lambda value: _is_choice(value, "message") or _is_choice(value, "delta")),
    # A first event of Azure's: nothing in it but what it thinks of the prompt.
    ("openai_chat", lambda value: "prompt_filter_results" in value and "choices" in value),
    ("openai_responses", lambda value: value.get("object") == "response" or _kind(value).startswith("response.")),
    ("anthropic", lambda value: _kind(value) in ("message", "message_start") and "delta" not in value),
    ("gemini", lambda value: bool({"candidates", "promptFeedback"} & value.keys()) or _is_metered(value)),
    ("bedrock", lambda value: "stopReason" in value and "output" in value),
    ("cohere", lambda value: _kind(value) == "message-start" or _is_cohere(value)),
)
# Where an error came from: errors look alike.
_BY_KIND = {
    "chat": "openai_chat",
    "responses": "openai_responses",
    "messages": "anthropic",
    "generateContent": "gemini",
    "converse": "bedrock",
}


_RESPONSE_ENDS = rb'data: ?\{"type": ?"response\.(?:completed|incomplete|failed)"'


def _kind(value: dict[str, Any]) -> str:
    return str(value.get("type") or "")


# Endpoints whose answers are passed on only: the kinds of their rows, and what their answers have.
PASSED: dict[str, tuple[set[str], Callable[[dict[str, Any]], bool]]] = {
    "completions": ({"completions", "completion"}, lambda value: _is_choice(value, "text") or "error" in value),
    "embeddings": ({"embeddings", "embedding", "responses"}, lambda value: bool({"data", "error"} & value.keys())),
    "images/generations": ({"images", "image"}, lambda value: bool({"data", "error"} & value.keys())),
    "audio/transcriptions": ({"audio", "transcription"}, lambda value: "text" in value),
    ":embedContent": ({"embeddings"}, lambda value: isinstance(value.get("embedding"), dict)),
    ":batchEmbedContents": ({"embeddings"}, lambda value: _is_vectors(value.get("embeddings"))),
}


def _is_vectors(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "values" in value[0]


def _is_metered(value: dict[str, Any]) -> bool:
    """Tell a last event of Gemini's from an embedding's answer."""
    return "usageMetadata" in value and "embeddings" not in value and "embedding" not in value


def _is_cohere(value: dict[str, Any]) -> bool:
    """Tell an answer of Cohere's second version from Ollama's."""
    return isinstance(value.get("message"), dict) and "finish_reason" in value and "done" not in value


def _is_choice(value: dict[str, Any], member: str) -> bool:
    choices = value.get("choices")
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict) and member in choices[0]


@dataclass(frozen=True)
class Row:
    """One recorded exchange. `request` is None where only the answer was kept."""

    id: str
    source: str
    provider: str
    kind: str
    path: str
    features: tuple[str, ...]
    status: int
    content_type: str
    body: bytes
    request: dict[str, Any] | None

    @property
    def key(self) -> str:
        """What names the row in an address: the last part of its id, letters and digits."""
        return self.id.rpartition(":")[2]

    @cached_property
    def dialect(self) -> str | None:
        """The dialect the answer is in; None for formats no provider dialect of ours reads."""
        if self.content_type == AWS_EVENTS:
            return "bedrock" if self.kind == "converse" else None
        if self.status >= 400 or any("error" in value and _kind(value) != "error" for value in self.objects[:1]):
            return "cohere" if (self.kind, self.provider) == ("native-chat", "cohere") else _BY_KIND.get(self.kind)
        fitting = (dialect for value in self.objects for dialect, fits in _MARKS if fits(value))
        return next(fitting, None)

    @cached_property
    def answer(self) -> bytes:
        """The first answer: some recordings hold all answers of a conversation, as no provider sends them."""
        marks = {"anthropic": rb'"type": ?"message_stop"', "openai_responses": _RESPONSE_ENDS}
        found = re.search(marks.get(self.dialect or "", rb"(?!)"), self.body) if self.is_stream else None
        end = re.compile(rb"\n\n|\r\n\r\n").search(self.body, found.end()) if found else None
        return self.body[: end.end()] if end else self.body

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """The first JSON objects of the answer: one, or a few of a stream's."""
        text = self.body.decode("utf-8", "replace")
        lines = [line.strip() for line in re.split(r"[\r\n]+", text)] if self.is_stream else []
        found = []
        for line in [line[5:] for line in lines if line.startswith("data:")][:5] or [text]:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            array = isinstance(value, list) and value and "candidates" in value[0]
            found.append(value[0] if array else value)
        return [value for value in found if isinstance(value, dict)]

    @cached_property
    def passed_at(self) -> str | None:
        """The endpoint that only passes such an answer on; None where no endpoint of ours has answers like it."""
        if self.dialect is not None or not self.objects:
            return None
        found = [path for path, (kinds, fits) in PASSED.items() if self.kind in kinds and fits(self.objects[0])]
        return found[0] if found else None

    @property
    def is_stream(self) -> bool:
        return self.content_type in (EVENTS, AWS_EVENTS)


def rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of every `*.jsonl.gz` and `*.rows.jsonl` of a folder."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from (_row(json.loads(line)) for line in file)
    for path in sorted(folder.glob("*.rows.jsonl")):
        with path.open(encoding="utf-8") as file:
            yield from (_row(json.loads(line)) for line in file)


def _row(value: dict[str, Any]) -> Row:
    response = value["response"]
    content_type, body = _body(value["kind"], response)
    asked = value.get("request") or {}
    return Row(
        id=value["id"],
        source=value.get("src", ""),
        provider=str(value.get("provider")),
        kind=value["kind"],
        path=asked.get("path", ""),
        features=tuple(value.get("feats") or ()),
        status=response.get("status", 200),
        content_type=content_type,
        body=body,
        request=asked.get("json"),
    )


def _body(kind: str, response: dict[str, Any]) -> tuple[str, bytes]:
    """Return an answer's content type and bytes. A type that was not recorded, or blackened, is told by the bytes."""
    said = str((response.get("headers") or {}).get("content-type") or "")
    if "events" in response:
        return _framed(kind, response["events"])
    if "json" in response:
        raw = json.dumps(response["json"], ensure_ascii=False).encode("utf-8", "surrogatepass")
    else:
        raw = base64.b64decode(response["b64"]) if "b64" in response else response.get("text", "").encode()
    if "amazon" in said or b":event-type" in raw[:64]:
        return AWS_EVENTS, raw
    if raw.lstrip().startswith((b"data:", b"event:", b":")):
        return EVENTS, raw
    return said if said.startswith(("image/", "audio/")) else JSON, raw


def _framed(kind: str, events: list[Any]) -> tuple[str, bytes]:
    """Put the frames around events that were stored without them."""
    if kind == "converse":
        return AWS_EVENTS, b"".join(_aws_frame(*pair) for event in events for pair in event.items())
    texts = [json.dumps(event, ensure_ascii=False) for event in events]
    if all("type" in event for event in events):
        pairs = zip(events, texts, strict=True)
        return EVENTS, "".join(f"event: {event['type']}\ndata: {text}\n\n" for event, text in pairs).encode()
    end = "data: [DONE]\n\n" if kind == "chat" else ""
    return EVENTS, ("".join(f"data: {text}\n\n" for text in texts) + end).encode()


def _aws_frame(name: str, payload: Any) -> bytes:
    headers = b""
    for field, value in ((":message-type", "event"), (":event-type", name), (":content-type", JSON)):
        headers += bytes([len(field)]) + field.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    data = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(data), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + data
    return message + struct.pack(">I", crc32(message))


def blocks(body: bytes, size: int) -> list[bytes]:
    """Cut a stream into blocks of a size, wherever that is; 0: after each event, as a provider sends it."""
    if size:
        return [body[start : start + size] for start in range(0, len(body), size)]
    return [piece for piece in re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", body) if piece]


class Replay(Vendor):
    """The server. `split` cuts every answer that is a stream into blocks of so many bytes."""

    def __init__(self, recorded: list[Row], *, split: int = 0) -> None:
        super().__init__()
        self.split = split
        self._rows = {row.key: row for row in recorded}

    def refuse(self, refusal: Refusal) -> dict[str, Any]:
        return {"error": {"message": str(refusal), "type": "replay_miss", "code": refusal.kind}}

    def answer(self, seen: Seen) -> Reply:
        row = self._rows.get(self._named(seen))
        if row is None:
            raise Refusal(599, "replay_miss", f"no row for {seen.path}")
        pieces = blocks(row.body, self.split) if row.is_stream else row.body
        return Reply(pieces, status=row.status, headers={"content-type": row.content_type})

    def _named(self, seen: Seen) -> str:
        keys = [seen.headers.get(name, "") for name in ("authorization", "x-api-key", "x-goog-api-key", "api-key")]
        for key in keys:
            if key.removeprefix("Bearer ").startswith("replay:"):
                return key.rpartition(":")[2]
        in_path = re.search(r"/models?/([0-9a-f]{16})", seen.path)
        if in_path:
            return in_path[1]
        in_form = re.search(rb'name="model"\r\n\r\n([0-9a-f]{16})', seen.body)
        return in_form[1].decode() if in_form else str(seen.json.get("model"))
