"""`Idempotency-Key` from outside: one upstream call and one charge for a key, the same bytes for who repeats it."""

import asyncio
import json
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.test import RequestFactory
from django.utils import timezone

from accounts import keys
from gateway import idempotency, urls
from gateway.models import IdempotentCall
from respan import pool
from tests.servers import wait_until
from tests.stack import call

MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "local/fake", "messages": MESSAGES}


def new_key():
    return {"Idempotency_Key": uuid.uuid4().hex}


def rows(one):
    return IdempotentCall.objects.filter(organization=one.organization)


def asked(one):
    return len(one.stack.provider.requests)


def is_replay(answer):
    return answer.headers.get("x-respan-replayed") == "true"


# --- One execution ---------------------------------------------------------------------------------------------------


def test_one_hundred_at_once_are_one_call_and_one_charge(tenant):
    one = tenant(credits_usd="1")
    body = {"model": "fake/exact-slow", "messages": MESSAGES, "max_tokens": 20}
    key = new_key()
    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(lambda _: one.post(body, **key), range(100)))

    assert asked(one) == 1
    assert {answer.status for answer in answers} <= {200, 409}
    given = [answer for answer in answers if answer.status == 200]
    assert len({answer.body for answer in given}) == 1
    assert sum(not is_replay(answer) for answer in given) == 1
    for answer in answers:
        if answer.status == 409:
            assert (answer.error["code"], answer.headers["retry-after"]) == ("idempotency_in_progress", "1")

    again = one.post(body, **key)
    assert (again.status, again.body, is_replay(again)) == (200, given[0].body, True)
    assert len({answer.log_id for answer in [*given, again]}) == 1
    one.log(again.log_id)
    wait_until(lambda: (one.balance.posted, one.balance.held) == (10**9 - 200_000, 0), what="the one charge")
    assert len(call(f"{one.stack.base_url}/api/request-logs/list/", key=one.key).json["results"]) == 1


def test_another_body_under_the_same_key_is_refused(tenant):
    one = tenant(local=True)
    key = new_key()
    first = one.post(CHAT, **key)
    other = one.post(CHAT | {"max_tokens": 3}, **key)
    assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")
    assert asked(one) == 1
    assert one.post(CHAT, **key).body == first.body


def test_the_same_json_in_another_order_is_the_same_body(tenant):
    one = tenant(local=True)
    key = new_key()
    first = one.post(CHAT, **key)
    turned = one.post(json.dumps(dict(reversed(CHAT.items())), indent=2).encode(), **key)
    assert (turned.body, is_replay(turned), asked(one)) == (first.body, True, 1)


def test_a_stream_is_replayed_as_the_events_that_were_sent(tenant):
    one = tenant(local=True)
    key = new_key()
    body = CHAT | {"model": "local/fake:chunks=20", "stream": True}
    first, again = one.post(body, **key), one.post(body, **key)
    assert first.body.endswith(b"data: [DONE]\n\n")
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert (again.log_id, is_replay(first), is_replay(again)) == (first.log_id, False, True)
    assert asked(one) == 1


def test_who_comes_while_the_first_is_answered_is_told_to_wait(tenant):
    one = tenant(local=True)
    key = new_key()
    body = CHAT | {"model": "local/fake:first=0.6"}
    first = threading.Thread(target=one.post, args=(body,), kwargs=key)
    first.start()
    wait_until(lambda: asked(one) == 1, what="the first call to be under way")
    second = one.post(body, **key)
    first.join()
    assert (second.status, second.error["code"]) == (409, "idempotency_in_progress")
    assert second.headers["retry-after"] == "1"
    assert is_replay(one.post(body, **key))
    assert asked(one) == 1


def test_a_key_means_something_to_one_api_key_and_one_address_only(tenant):
    one = tenant(local=True)
    key = new_key()
    one.post(CHAT, **key)
    second = keys.issue(organization=one.organization, name="Two", environment="production", created_by=one.owner)
    assert not is_replay(one.stack.post(CHAT, key=second.secret, **key))
    assert not is_replay(one.post(CHAT | {"input": "a"}, path="/api/embeddings", **key))
    assert asked(one) == 3
    other = tenant(local=True)
    assert not is_replay(other.post(CHAT, **key))
    assert asked(other) == 1


@pytest.mark.parametrize("text", ["", "a" * 256, "tab\there", "caf\u00e9"])
def test_a_key_that_is_none_is_refused(tenant, text):
    one = tenant(local=True)
    answer = one.post(CHAT, Idempotency_Key=text)
    assert (answer.status, answer.error["code"]) == (400, "invalid_idempotency_key")
    assert (asked(one), rows(one).count()) == (0, 0)


# --- Every POST ------------------------------------------------------------------------------------------------------

_FORM = (
    '--{0}\r\nContent-Disposition: form-data; name="model"\r\n\r\nlocal/fake\r\n'
    '--{0}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    '--{0}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nA cat\r\n'
    '--{0}\r\nContent-Disposition: form-data; name="{1}"; filename="a.mp3"\r\nContent-Type: audio/mpeg\r\n\r\n'
    "ID3\r\n--{0}--\r\n"
)
_CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
_GOOGLE = "/api/google/gemini/v1beta/models/"
# Name of the route -> its address, and a body, or the name of the file in a form.
ROUTES = {
    "chat-completions": ("/api/chat/completions", CHAT),
    "responses": ("/api/responses", {"model": "local/fake", "input": "Hello"}),
    "completions": ("/api/completions", {"model": "local/fake", "prompt": "Hello"}),
    "messages": ("/api/anthropic/v1/messages", CHAT | {"max_tokens": 9}),
    "count-tokens": ("/api/anthropic/v1/messages/count_tokens", CHAT),
    "generate-content": (f"{_GOOGLE}local/fake:generateContent", _CONTENTS),
    "gemini-count-tokens": (f"{_GOOGLE}local/fake:countTokens", _CONTENTS),
    "embed-content": (f"{_GOOGLE}gemini-embedding-001:embedContent", {"content": _CONTENTS["contents"][0]}),
    "embeddings": ("/api/embeddings", {"model": "local/fake", "input": "Hello"}),
    "moderations": ("/api/moderations", {"model": "local/fake", "input": "Hello"}),
    "audio-speech": ("/api/audio/speech", {"model": "local/fake", "input": "Hello", "voice": "alloy"}),
    "audio-transcriptions": ("/api/audio/transcriptions", "file"),
    "audio-translations": ("/api/audio/translations", "file"),
    "images-generations": ("/api/images/generations", {"model": "local/fake", "prompt": "A cat"}),
    "images-edits": ("/api/images/edits", "image"),
    "images-variations": ("/api/images/variations", "image"),
    "files": ("/api/files", "file"),
    "raw-chat": ("/api/local/v1/chat/completions", {"model": "fake", "messages": MESSAGES}),
}


def test_every_route_that_takes_a_post_is_tried():
    posts = {route.name for route in urls.urlpatterns if hasattr(route.callback.view_class, "post")}
    assert posts == ROUTES.keys()


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_every_route_answers_a_key_once(tenant, name):
    one = tenant(local=True)
    one.connect("google", secret="AIza-own-embedder", base_url=one.stack.vendors.gemini.base_url)
    path, body = ROUTES[name]
    key = new_key()

    def post():
        if isinstance(body, str):  # an SDK makes the boundary anew for each attempt
            boundary = uuid.uuid4().hex
            kind = {"Content-Type": f"multipart/form-data; boundary={boundary}", "X-Respan-Provider": "local"}
            return one.post(_FORM.format(boundary, body).encode(), path=path, **kind, **key)
        return one.post(body, path=path, **key)

    first, again = post(), post()
    assert first.status == 200, first.body
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers.get("x-respan-log-id") == first.headers.get("x-respan-log-id")
    assert (is_replay(first), is_replay(again)) == (False, True)
    assert asked(one) <= 1
    assert rows(one).count() == 1


# --- What is not kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["local/fake:status=400", "local/fake:status=401", "no/such-model"])
def test_a_call_that_failed_gives_its_key_back(tenant, model):
    one = tenant(local=True)
    key = new_key()
    first, again = (one.post(CHAT | {"model": model}, **key) for _ in range(2))
    assert first.status >= 400
    assert (again.status, is_replay(again)) == (first.status, False)
    assert first.log_id != again.log_id
    assert rows(one).count() == 0


def test_a_stream_that_broke_off_gives_its_key_back(tenant):
    one = tenant(local=True)
    answer = one.post(CHAT | {"model": "local/fake:chunks=9,cut=3", "stream": True}, **new_key())
    assert b"[DONE]" not in answer.body
    wait_until(lambda: rows(one).count() == 0, what="the key to be free")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_gives_its_key_back(tenant, stream):
    one = tenant(local=True)
    parts = urlsplit(one.stack.base_url)
    body = json.dumps(CHAT | {"model": "local/fake:chunks=3,stall=1,silence", "stream": stream}).encode()
    head = (
        f"POST /api/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {one.key}\r\nIdempotency-Key: k\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"{head}Idempotency-Key: k\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: asked(one) == 1, what="the provider to be called")
        assert rows(one).get().is_done is False
    wait_until(lambda: rows(one).count() == 0, what="the key to be free")


def test_an_answer_that_is_too_large_is_not_given_twice(tenant):
    one = tenant(local=True)
    key = new_key()
    body = CHAT | {"model": f"local/fake:huge={2**20}"}
    first, again = one.post(body, **key), one.post(body, **key)
    assert first.status == 200
    assert (again.status, again.error["code"]) == (409, "idempotency_answer_too_large")
    assert (again.log_id, again.headers["x-should-retry"]) == (first.log_id, "false")
    assert asked(one) == 1


def test_of_a_key_without_retention_only_the_outcome_is_kept(tenant):
    one = tenant(local=True)
    silent = keys.issue(
        organization=one.organization, name="Z", environment="production", created_by=one.owner, zero_retention=True
    ).secret
    key = new_key()
    first, again = (one.stack.post(CHAT, key=silent, **key) for _ in range(2))
    assert (again.status, again.error["code"], again.log_id) == (409, "idempotency_answer_not_kept", first.log_id)
    row = rows(one).get()
    assert (row.body, row.status, row.headers) == (None, 200, {"X-Respan-Log-Id": first.log_id})
    assert asked(one) == 1


# --- Time and trouble ------------------------------------------------------------------------------------------------


def test_what_a_dead_process_left_is_taken_over_after_its_deadline(tenant):
    one = tenant(local=True)
    key = new_key()
    one.post(CHAT, **key)
    rows(one).update(is_done=False, body=None)
    assert one.post(CHAT, **key).error["code"] == "idempotency_in_progress"
    rows(one).update(deadline_at=timezone.now() - timedelta(seconds=1))
    assert one.post(CHAT | {"max_tokens": 2}, **key).error["code"] == "idempotency_key_reused"
    assert one.post(CHAT, **key).status == 200
    assert asked(one) == 2
    assert is_replay(one.post(CHAT, **key))


def test_a_day_later_a_key_is_new_and_a_sweep_forgets_it(tenant):
    one = tenant(local=True)
    key = new_key()
    one.post(CHAT, **key)
    kept_s = (rows(one).get().expires_at - timezone.now()).total_seconds()
    assert 86_000 < kept_s <= 86_400
    rows(one).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert not is_replay(one.post(CHAT | {"max_tokens": 2}, **key))
    idempotency.forget_expired()
    assert rows(one).count() == 1
    rows(one).update(expires_at=timezone.now() - timedelta(seconds=1))
    idempotency.forget_expired()
    assert rows(one).count() == 0


async def test_without_the_database_nothing_is_executed(monkeypatch):
    monkeypatch.setitem(settings.DATABASES["default"], "PORT", "1")
    request = RequestFactory().post("/api/chat/completions", b"{}", "application/json", HTTP_IDEMPOTENCY_KEY="k")
    request.caller = keys.Caller(1, 1, "production", "org_1", False, "Test", None, False, frozenset())
    executed = []

    async def produce():
        executed.append(1)

    began = time.monotonic()
    try:
        with pytest.raises(idempotency.IdempotencyUnavailable) as refused:
            await asyncio.wait_for(idempotency.answer(request, produce), 10)
    finally:
        await pool.close()
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
    assert executed == []
    assert time.monotonic() - began < 10
