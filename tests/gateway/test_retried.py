"""An SDK's own retry after a dropped answer: the first execution's answer, not a second charge."""

import json
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from anthropic import Anthropic
from openai import OpenAI

from accounts import keys
from gateway.models import IdempotentCall
from gateway.retried import GRACE_S
from tests.dropping import Dropping
from tests.servers import wait_until

COST_NANO = 20 * 10_000  # `fake/exact`: 20 output tokens at $10 a million


def chat(model="local/fake", **members):
    """Return a call like no other."""
    return {"model": model, "messages": [{"role": "user", "content": f"Hello {uuid.uuid4().hex}"}], **members}


def attempt(one, body, number, **headers):
    return one.post(body, **{"X-Stainless-Retry-Count": str(number)}, **headers)


def asked(one):
    return len(one.stack.provider.requests)


def is_replay(answer):
    return answer.headers.get("x-respan-replayed") == "true"


def ask_many(one, base_url, count, **options):
    """Make calls with the real SDK, a few at once; return what was answered."""
    body = {"model": "fake/exact", "max_tokens": 20} | options
    with (
        OpenAI(base_url=f"{base_url}/api/", api_key=one.key, max_retries=2) as client,
        ThreadPoolExecutor(10) as asking,
    ):
        create = client.chat.completions.create
        return list(asking.map(lambda _: create(**body, messages=chat()["messages"]), range(count)))


@contextmanager
def under_way(one, body, number=0):
    """Send an attempt by hand; its client leaves when the block is over."""
    parts, content = urlsplit(one.stack.base_url), json.dumps(body).encode()
    head = (
        f"POST /api/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {one.key}\r\n"
        f"X-Stainless-Retry-Count: {number}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(head.encode() + content)
        wait_until(lambda: asked(one) >= 1, what="the provider to be called")
        yield


# --- With the real SDKs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["answer", "reset"])
def test_twenty_dropped_answers_are_twenty_calls_and_twenty_charges(tenant, mode):
    one = tenant(credits_usd="1")
    with Dropping(one.stack.base_url, mode=mode) as proxy:
        answers = ask_many(one, proxy.base_url, 20)
    assert (proxy.dropped, proxy.passed) == (20, 20)
    assert all(len(answer.choices[0].message.content.split()) == 20 for answer in answers)
    assert asked(one) == 20
    wait_until(
        lambda: (one.balance.posted, one.balance.held) == (10**9 - 20 * COST_NANO, 0), what="20 charges and no more"
    )


def test_a_retry_takes_over_a_call_whose_client_was_seen_leaving(tenant):
    one = tenant(credits_usd="1")
    with Dropping(one.stack.base_url, mode="early", early_s=0.1) as proxy:
        answers = ask_many(one, proxy.base_url, 5, model="fake/exact-late")
    assert (len(answers), proxy.dropped, proxy.passed) == (5, 5, 5)
    assert asked(one) == 5
    wait_until(
        lambda: (one.balance.posted, one.balance.held) == (10**9 - 5 * COST_NANO, 0), what="5 charges and no more"
    )


def test_a_dropped_stream_is_given_again(tenant):
    one = tenant(local=True)
    with (
        Dropping(one.stack.base_url) as proxy,
        OpenAI(base_url=f"{proxy.base_url}/api/", api_key=one.key, max_retries=2) as client,
    ):
        stream = client.chat.completions.create(**chat("local/fake:chunks=9"), stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == "".join(f"word{number} " for number in range(9))
    assert (proxy.dropped, asked(one)) == (1, 1)


def test_anthropics_sdk_attaches_too(tenant):
    one = tenant(local=True)
    with (
        Dropping(one.stack.base_url) as proxy,
        Anthropic(base_url=f"{proxy.base_url}/api/anthropic", api_key=one.key, max_retries=2) as client,
    ):
        message = client.messages.create(**chat(max_tokens=9))
    assert message.content[0].text
    assert (proxy.dropped, asked(one)) == (1, 1)


# --- What attaches to what -------------------------------------------------------------------------------------------


def test_a_retry_is_given_the_first_answer_byte_for_byte(tenant):
    one = tenant(local=True)
    body = chat()
    first, retry = attempt(one, body, 0), attempt(one, body, 1)
    assert (retry.status, retry.body, retry.log_id) == (200, first.body, first.log_id)
    assert (is_replay(first), is_replay(retry), asked(one)) == (False, True, 1)


def test_a_retry_waits_for_an_execution_that_is_under_way(tenant):
    one = tenant(local=True)
    body = chat("local/fake:first=0.5")
    answers = []
    first = threading.Thread(target=lambda: answers.append(attempt(one, body, 0)))
    first.start()
    wait_until(lambda: asked(one) == 1, what="the first attempt to be under way")
    retry = attempt(one, body, 1)
    first.join()
    assert (retry.status, retry.body, is_replay(retry)) == (200, answers[0].body, True)
    assert asked(one) == 1


def test_two_calls_that_are_both_the_first_share_nothing(tenant):
    one = tenant(local=True)
    body = chat()
    first, second = attempt(one, body, 0), attempt(one, body, 0)
    assert first.log_id != second.log_id
    # each has a retry of its own
    assert {attempt(one, body, 1).log_id, attempt(one, body, 1).log_id} == {first.log_id, second.log_id}
    assert not is_replay(attempt(one, body, 1))
    assert asked(one) == 3


def test_an_execution_is_attached_to_by_one_chain_of_retries(tenant):
    one = tenant(local=True)
    body = chat()
    log_ids = [attempt(one, body, number).log_id for number in (0, 1, 2)]
    assert len(set(log_ids)) == 1
    assert attempt(one, body, 2).log_id not in log_ids
    assert asked(one) == 2


def test_what_failed_is_executed_again(tenant):
    one = tenant(local=True)
    body = chat("local/fake:status=400")
    assert attempt(one, body, 0).log_id != attempt(one, body, 1).log_id
    assert asked(one) == 2


def test_a_retry_that_waited_for_a_failure_is_executed(tenant):
    one = tenant(local=True)
    body = chat("local/fake:first=0.4,status=400")
    first = threading.Thread(target=attempt, args=(one, body, 0))
    first.start()
    wait_until(lambda: asked(one) == 1, what="the first attempt to be under way")
    assert attempt(one, body, 1).status == 400
    first.join()
    assert asked(one) == 2


@pytest.mark.parametrize("headers", [{"X-Respan-No-Coalesce": "true"}, {"X-Data-Respan-Params": "{}"}])
def test_a_retry_that_says_otherwise_is_executed(tenant, headers):
    one = tenant(local=True)
    body = chat()
    attempt(one, body, 0)
    assert not is_replay(attempt(one, body, 1, **headers))
    assert asked(one) == 2


def test_another_body_or_another_api_key_shares_nothing(tenant):
    one = tenant(local=True)
    body = chat()
    attempt(one, body, 0)
    second = keys.issue(organization=one.organization, name="Two", environment="production", created_by=one.owner)
    count = {"X-Stainless-Retry-Count": "1"}
    assert not is_replay(attempt(one, body | {"max_tokens": 3}, 1))
    assert not is_replay(one.stack.post(body, key=second.secret, **count))
    assert asked(one) == 3


def test_an_answer_of_more_than_a_mebibyte_is_not_kept(tenant):
    one = tenant(local=True)
    body = chat(f"local/fake:huge={2**20}")
    assert (attempt(one, body, 0).status, attempt(one, body, 1).status) == (200, 200)
    assert asked(one) == 2


def test_a_retry_keeps_a_call_alive_that_its_client_has_left(tenant):
    one = tenant(local=True)
    body = chat("local/fake:first=1.5")
    with under_way(one, body):
        pass
    retry = attempt(one, body, 1)
    assert (retry.status, is_replay(retry), asked(one)) == (200, True, 1)
    assert one.stack.provider.last.gone_at is None


def test_a_client_that_leaves_for_good_cancels_the_provider(tenant):
    one = tenant(local=True)
    with under_way(one, chat("local/fake:silence")):
        pass
    wait_until(lambda: one.stack.provider.last.gone_at, timeout_s=10, what="the provider to be cancelled")
    assert GRACE_S < 1


def test_when_the_retry_has_left_as_well_the_provider_is_cancelled(tenant):
    one = tenant(local=True)
    body = chat("local/fake:silence")
    with under_way(one, body):
        pass
    with under_way(one, body, 1):
        pass
    wait_until(lambda: one.stack.provider.last.gone_at, timeout_s=10, what="the provider to be cancelled")
    assert asked(one) == 1


# --- Between processes -----------------------------------------------------------------------------------------------


def test_an_answer_that_nobody_read_is_left_for_the_other_processes(tenant):
    one = tenant(credits_usd="1")
    with Dropping(one.stack.base_url, mode="reset") as proxy:
        ask_many(one, proxy.base_url, 1)
    rows = IdempotentCall.objects.filter(organization=one.organization)
    wait_until(rows.exists, what="the dropped answer in the table")
    row = rows.get()
    assert (row.is_done, row.status, row.retry_count) == (True, 200, 0)
    assert 0 < (row.expires_at - row.created_at).total_seconds() <= 120


def test_of_a_key_without_retention_nothing_is_left(tenant):
    one = tenant(local=True)
    one.key = keys.issue(
        organization=one.organization, name="Z", environment="production", created_by=one.owner, zero_retention=True
    ).secret
    with Dropping(one.stack.base_url, mode="reset") as proxy:
        ask_many(one, proxy.base_url, 1, model="local/fake")
    assert asked(one) == 1
    assert not IdempotentCall.objects.filter(organization=one.organization).exists()
