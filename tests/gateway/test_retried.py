"""An SDK's own retry after a dropped answer: the first execution's answer, not a second charge."""

import asyncio
import json
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from anthropic import Anthropic
from asgiref.sync import sync_to_async
from django.utils import timezone
from openai import OpenAI

from accounts import keys
from gateway import retried
from gateway.models import IdempotentCall
from gateway.replays import Kept
from gateway.retried import ALIVE_S, GRACE_S
from tests.conftest import make_organization
from tests.dropping import Dropping
from tests.gateway.asking import caller
from tests.provider import Provider
from tests.servers import wait_until
from tests.stack import Stack, new_tenant

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


@pytest.fixture
def two(running, transactional_db):
    """A tenant at each of two web processes that share nothing but the database."""
    provider = Provider().start()
    env = {"RESPAN_UPSTREAM_ALLOW": provider.address, "RESPAN_WEB_PROCESSES": "2"}
    here, there = (Stack(running(env=env), provider, vendors=None) for _ in range(2))
    one = new_tenant(here, local=True)
    yield one, replace(one, stack=there)
    provider.stop()


def test_a_retry_keeps_a_call_alive_in_another_process(two):
    here, there = two
    body = chat(f"local/fake:first={ALIVE_S + 1}")
    with under_way(here, body):
        pass
    retry = attempt(there, body, 1)
    assert (retry.status, is_replay(retry), asked(here)) == (200, True, 1)
    assert here.stack.provider.last.gone_at is None


def test_a_retry_that_left_another_process_keeps_nothing_alive(two):
    here, there = two
    body = chat("local/fake:silence")
    with under_way(here, body):
        pass
    with under_way(there, body, 1):
        pass
    wait_until(lambda: here.stack.provider.last.gone_at, timeout_s=20, what="the provider to be cancelled")
    assert asked(here) == 1


def test_a_retry_elsewhere_of_what_failed_meanwhile_is_executed_at_once(two):
    here, there = two
    body = chat("local/fake:first=1,times=1:status=500")
    with under_way(here, body):
        pass
    begun = time.monotonic()
    retry = attempt(there, body, 1)
    assert (retry.status, is_replay(retry), asked(here)) == (200, False, 2)
    assert time.monotonic() - begun < 1 + 1 + ALIVE_S  # both calls, and no waiting for word to grow old


@pytest.fixture
async def execution(settings, transactional_db):
    """What another process is executing, whose word comes late."""
    settings.RESPAN_WEB_PROCESSES = 2

    @sync_to_async
    def made():
        organization = make_organization(f"Tenant {uuid.uuid4().hex[:8]}")
        issued = keys.issue(organization=organization, name="Test", environment="production", created_by=None)
        return replace(caller(organization.pk), api_key_id=issued.api_key.pk)

    return retried.Execution(await made(), uuid.uuid4().bytes * 2, 0)


async def test_a_retry_that_comes_before_the_word_of_its_client_having_left_finds_it(execution):
    kept = Kept(200, "application/json", {}, False, b"{}")
    looking = asyncio.create_task(retried._taken(execution.caller, execution.digest, 1))
    await asyncio.sleep(retried.LOOK_EVERY_S)
    await retried._saved(execution, None)
    await retried._saved(execution, kept)
    assert await looking == kept


async def test_alone_a_retry_waits_for_nobodys_word(execution, settings):
    settings.RESPAN_WEB_PROCESSES = 1
    looking = asyncio.create_task(retried._taken(execution.caller, execution.digest, 1))
    assert await looking is None
    assert not await sync_to_async(
        IdempotentCall.objects.filter(organization_id=execution.caller.organization_id).exists
    )()


async def test_word_is_taken_back_where_nobody_waits_and_kept_where_somebody_does(execution):
    await retried._saved(execution, None)
    rows = IdempotentCall.objects.filter(organization_id=execution.caller.organization_id)
    looking = asyncio.create_task(retried._taken(execution.caller, execution.digest, 1))
    async with asyncio.timeout(5):
        while not await rows.filter(retry_count=1).aexists():  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.01)
    assert await retried._wanted(execution)
    assert await rows.acount() == 1
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)

    await rows.aupdate(deadline_at=timezone.now() - timedelta(seconds=1))  # as if it had left a while ago
    assert not await retried._wanted(execution)
    assert await rows.acount() == 0
    assert await retried._taken(execution.caller, execution.digest, 2) is None
