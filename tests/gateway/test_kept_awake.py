"""A stream whose provider is silent for long is kept alive: with what its clients take no notice of, between events.

Neighbours: `respan/asgi.py` (sends it), `gateway/dialects/registry.py` (what each dialect takes).
"""

import json
from types import SimpleNamespace

import pytest
from anthropic import Anthropic
from google import genai
from google.genai.types import HttpOptions
from openai import OpenAI

from tests.stack import call

# Kept alive after two tenths of this many seconds.
STALL_S = 2
SLOW = "local/fake:chunks=3,interval=1.1"
SAID = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def slow(stack, running, tenant):
    """A tenant of a server that waits less long than it would."""
    one = tenant(local=True)
    names = ("RESPAN_CATALOG_EXTRA", "RESPAN_UPSTREAM_ALLOW")
    same = {name: stack.server.env[name] for name in names}
    server = running(env={**same, "RESPAN_WRITE_STALL_TIMEOUT_S": str(STALL_S)})
    return SimpleNamespace(base_url=server.base_url, key=one.key)


def streamed(slow, path, **members):
    body = json.dumps({"model": SLOW, "stream": True, **SAID, **members}).encode()
    answer = call(slow.base_url + path, key=slow.key, body=body, headers={"anthropic-version": "2023-06-01"})
    assert answer.status == 200
    return answer.body


def test_a_silent_stream_says_that_it_lives_between_two_events_and_its_sdk_reads_the_answer(slow):
    body = streamed(slow, "/api/chat/completions")
    events = body.split(b"\n\n")
    assert b": keep-alive" in events
    assert all(each.startswith(b"data: ") for each in events if each not in (b": keep-alive", b""))
    assert events[0].startswith(b"data: ")
    with OpenAI(base_url=f"{slow.base_url}/api/", api_key=slow.key, max_retries=0) as client:
        chunks = list(client.chat.completions.create(model=SLOW, stream=True, **SAID))
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_silent_messages_stream_pings_as_anthropic_does(slow):
    body = streamed(slow, "/api/anthropic/v1/messages", max_tokens=64)
    assert body.count(b"event: ping") > 1  # one of them stands behind every `message_start`
    with (
        Anthropic(base_url=f"{slow.base_url}/api/anthropic", api_key=slow.key, max_retries=0) as client,
        client.messages.stream(model=SLOW, max_tokens=64, **SAID) as stream,
    ):
        message = stream.get_final_message()
    assert message.stop_reason == "end_turn"


def test_a_silent_stream_of_googles_is_read_by_its_sdk(slow):
    options = HttpOptions(base_url=f"{slow.base_url}/api/google/gemini")
    with genai.Client(api_key=slow.key, http_options=options) as client:
        parts = list(client.models.generate_content_stream(model=SLOW, contents="Hi"))
    assert parts[-1].candidates[0].finish_reason == "STOP"


def test_a_stream_that_goes_on_is_sent_nothing_but_itself(slow):
    body = json.dumps({"model": "local/fake:chunks=9,interval=0.1", "stream": True, **SAID}).encode()
    answer = call(slow.base_url + "/api/chat/completions", key=slow.key, body=body)
    assert b"keep-alive" not in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")
