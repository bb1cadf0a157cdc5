"""Recorded real traffic through a running gateway: every row is served by a replaying provider, over HTTP.

`test_recordings.py` puts the rows to the dialects' functions; here the same has to hold with the server around them:
routes, own keys, errors, streams that break off, and the endpoints that are only passed on. Long; `RESPAN_RECORDINGS`
names the folder. Neighbours: `replay.py` (the provider), `truth.py` (what an answer says).
"""

import http.client
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import override_settings

from gateway.dialects.registry import CLIENTS, TARGETS
from tests.drills import exam, replay, truth
from tests.drills.exam import Verdict
from tests.drills.replay import Replay, Row
from tests.drills.test_recordings import Tally, reason, recorded
from tests.stack import call, connect

pytestmark = [recorded, pytest.mark.long]
SPLIT = 7
_FILE = """
id = "replay-{dialect}"
name = "Replay {dialect}"
dialect = "{dialect}"
transport = "http"
base_url = "{base_url}"
auth = "bearer"
credential_fields = ["api_key"]
max_tokens_field = "max_tokens"
usage_in_stream = true
models = [{models}]
"""
_HELLO = [{"role": "user", "content": "Hello"}]
# What a model is for, by the endpoint.
_KINDS = {
    "completions": "completion",
    "embeddings": "embedding",
    "images/generations": "image",
    "audio/transcriptions": "transcription",
    ":embedContent": "embedding",
    ":batchEmbedContents": "embedding",
}


@dataclass
class Line:
    """A connection that stays open, and the key that speaks over it."""

    connection: http.client.HTTPConnection
    key: str

    def post(self, path: str, body: dict[str, Any] | bytes) -> tuple[int, bytes]:
        kind = "application/json" if isinstance(body, dict) else "multipart/form-data; boundary=cut"
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"content-type": kind, "authorization": f"Bearer {self.key}"}
        self.connection.request("POST", path, data, headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(replay.rows(Path(os.environ["RESPAN_RECORDINGS"])))


@pytest.fixture
def line(rows: list[Row], running: Callable[..., Any], transactional_db: None, tmp_path: Path) -> Iterator[Line]:
    """A gateway whose providers replay the rows, one for each dialect, with keys of an organization's own."""
    server = Replay(rows, split=SPLIT).start()
    folder = tmp_path / "catalogue"
    folder.mkdir()
    others = [row for row in rows if row.passed_at]
    for dialect in TARGETS:
        listed = ", ".join(_listed(row) for row in others if _place(row)[0] == dialect)
        text = _FILE.format(dialect=dialect, base_url=f"http://{server.address}/v1", models=listed)
        (folder / f"{dialect}.toml").write_text(text)
    gateway = running(env={"RESPAN_CATALOG_EXTRA": str(folder), "RESPAN_UPSTREAM_ALLOW": server.address})
    connection = http.client.HTTPConnection(urlsplit(gateway.base_url).netloc, timeout=30)
    yield Line(connection, _key(server, folder))
    connection.close()
    server.stop()


def _place(row: Row) -> tuple[str, str]:
    """Return the dialect of the provider that answers with a row which is only passed on, and the client's path."""
    if str(row.passed_at).startswith(":"):
        return "gemini", f"/api/google/gemini/v1beta/models/replay-gemini/{row.key}{row.passed_at}"
    return "openai_chat", f"/api/{row.passed_at}"


def _listed(row: Row) -> str:
    facts = f'id = "{row.key}", kind = "{_KINDS[str(row.passed_at)]}", context_tokens = "unknown", price = "unknown"'
    return f'{{ {facts}, max_output_tokens = "unknown", capabilities = ["streaming"] }}'


def _key(server: Replay, folder: Path) -> str:
    """Make an organization with its own keys for the replaying providers; return its API key."""
    from accounts import keys
    from gateway.providers import catalog
    from tests.conftest import make_organization, make_user

    owner = make_user("owner")
    organization = make_organization("Replay", owner=owner)
    catalog.cache_clear()  # for a moment this process knows the providers too: a key is sealed with their address
    with override_settings(RESPAN_CATALOG_EXTRA=[folder]):
        for dialect in TARGETS:
            connect(organization, f"replay-{dialect}", secret="a-key", base_url=f"http://{server.address}/v1")
    catalog.cache_clear()
    return keys.issue(organization=organization, name="Test", environment="production", created_by=owner).secret


def requested(client: str, row: Row) -> tuple[str, dict[str, Any]]:
    """Return path and body of a small request of a client's to a row's provider."""
    model = f"replay-{row.dialect}/{row.key}"
    stream = {"stream": True} if row.is_stream else {}
    match client:
        case "openai_chat":
            more = {"stream_options": {"include_usage": True}} if row.is_stream else {}
            return "/api/chat/completions", {"model": model, "messages": _HELLO, **stream, **more}
        case "openai_responses":
            return "/api/responses", {"model": model, "input": "Hello", **stream}
        case "anthropic":
            return "/api/anthropic/v1/messages", {"model": model, "messages": _HELLO, "max_tokens": 1024, **stream}
    method = "streamGenerateContent?alt=sse" if row.is_stream else "generateContent"
    body = {
        "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
        "generationConfig": {"thinkingConfig": {"includeThoughts": True}},
    }
    return f"/api/google/gemini/v1beta/models/{model}:{method}", body


def judged(row: Row, client: str, status: int, body: bytes) -> list[Verdict]:
    """Compare what came over HTTP with what was recorded."""
    expected = truth.read(row.dialect or "", row.answer, is_stream=row.is_stream) if row.status < 400 else None
    if expected is None or expected.error is not None or expected.finish is None:
        return [Verdict("error", _refused(row, client, status, body))]
    if status != 200:
        return [Verdict("status", f"{status} {body[:200]!r}")]
    if row.dialect == client:
        same = body == row.body if not row.is_stream else _events(body) == _events(row.answer)
        return [Verdict("same", None if same else "what came is not what was recorded")]
    got = truth.read(client, body, is_stream=row.is_stream)
    return [Verdict("valid", exam.invalid(client, body, row.is_stream)), *exam.compared(expected, got)]


def _events(body: bytes) -> list[truth.Pair]:
    return [pair for pair in truth.sse(body) if pair[1] != "[DONE]"]


def _refused(row: Row, client: str, status: int, body: bytes) -> str | None:
    """An error keeps its family of status; one in a stream is told in it; neither looks like an answer."""
    if row.status >= 400:
        return None if status == row.status else f"{row.status} became {status}: {body[:120]!r}"
    if row.is_stream and status == 200:
        told = b'"error"' in body or b"response.failed" in body
        return None if told else f"looks complete: ...{body[-120:]!r}"
    is_told = status >= 400 or row.dialect == client
    return None if is_told else f"an error came with {status}: {body[:120]!r}"


def test_every_recorded_answer_reaches_every_client(rows: list[Row], line: Line) -> None:
    tally = Tally()
    read = [row for row in rows if row.dialect is not None]
    for row in read:
        for client in CLIENTS:
            status, body = line.post(*requested(client, row))
            for verdict in judged(row, client, status, body):
                tally.take(
                    row.provider, row, client, verdict, reason(row, client, verdict) if verdict.problem else None
                )
    print(
        f"\n{len(read)} answers over HTTP to {len(CLIENTS)} clients, streams cut every {SPLIT} bytes\n{tally.table()}"
    )
    assert not tally.failures, "\n".join(tally.failures[:40])


def test_what_is_only_passed_on_arrives_as_it_was_recorded(rows: list[Row], line: Line) -> None:
    """Plain completions, embeddings, images: the answer's bytes, or the same events."""
    counts: Counter[str] = Counter()
    failures = []
    for row in rows:
        if row.passed_at is None:
            continue
        status, body = line.post(_place(row)[1], _asked(row))
        is_same = _events(body) == _events(row.body) if row.is_stream else body == row.body
        is_error = any("error" in value for value in row.objects)
        good = status >= 400 if is_error else is_same and status == row.status
        counts[f"{row.kind:<14}{row.provider:<12}{'passed' if good else 'failed'}"] += 1
        if not good:
            failures.append(f"{row.id}: {row.status} became {status}: {row.body[:120]!r} became {body[:160]!r}")
    print("", *(f"{count:>4} {what}" for what, count in sorted(counts.items())), sep="\n")
    assert not failures, "\n".join(failures[:30])


def _asked(row: Row) -> dict[str, Any] | bytes:
    """Return a request for a row's answer: the recorded one, or a small one."""
    model = f"replay-openai_chat/{row.key}"
    text = {"parts": [{"text": "Hello"}]}
    match row.passed_at:
        case "audio/transcriptions":
            fields = {'"model"': model, '"file"; filename="a.wav"': "RIFF"}
            parts = [f"--cut\r\nContent-Disposition: form-data; name={n}\r\n\r\n{v}\r\n" for n, v in fields.items()]
            return "".join([*parts, "--cut--\r\n"]).encode()
        case ":embedContent":
            return {"content": text}
        case ":batchEmbedContents":
            return {"requests": [{"model": f"models/replay-gemini/{row.key}", "content": text}]}
    asked = {"input" if row.passed_at == "embeddings" else "prompt": "Hello"} | (row.request or {})
    if row.is_stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return asked | {"model": model}


def test_a_row_is_chosen_by_the_key(rows: list[Row]) -> None:
    """As it is documented: the provider key `replay:<id>`."""
    row = next(row for row in rows if row.dialect == "openai_chat" and not row.is_stream and row.status == 200)
    server = Replay(rows).start()
    answer = call(f"http://{server.address}/v1/chat/completions", key=f"replay:{row.id}", body=b"{}")
    server.stop()
    assert answer.body == row.body
