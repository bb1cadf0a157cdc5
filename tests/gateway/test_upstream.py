"""Promises of `gateway.upstream`: which error a client is told for each failure of a provider, and by when."""

import json
import time

import httpx
import pytest

from gateway import sandbox, upstream
from gateway.upstream import (
    UpstreamBusy,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from respan import outbound
from respan.outbound import ForbiddenAddress

LIMITS = {"connect": 2.0, "first_byte": 2.0, "read": 2.0, "total": 5.0}


def call(provider, script="", *, stream=False, limits=None):
    body = json.dumps({"model": f"fake:{script}", "stream": stream, "messages": []}).encode()
    url = f"{provider.base_url}/chat/completions"
    headers = {"content-type": "application/json"}
    return upstream.post(url, headers=headers, body=body, limits=LIMITS | (limits or {}))


async def send(request, *, seconds=5.0, policy=None):
    transport = outbound.transport(policy or outbound.Policy(loopback=True))
    return await upstream.send(request, transport=transport, deadline=time.monotonic() + seconds)


async def answer(request, **options):
    return await upstream.read(await send(request, **options), 1_000_000)


async def test_a_call_is_sent_and_its_answer_read(provider):
    response = await send(call(provider))
    body = await upstream.read(response, 1_000_000)

    assert response.status_code == 200
    assert json.loads(body)["choices"][0]["message"]["content"].startswith("word0")
    assert response.is_closed
    assert provider.last.json["model"] == "fake:"
    assert provider.last.headers["content-type"] == "application/json"


async def test_a_stream_is_read_in_blocks(provider):
    response = await send(call(provider, "chunks=4,interval=0.02", stream=True))
    blocks = [block async for block in upstream.blocks(response)]

    assert len(blocks) > 2
    assert b"".join(blocks).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("script", "error", "status", "code"),
    [
        ("drop,close", UpstreamDisconnected, 502, "upstream_disconnected"),
        ("reset=head", UpstreamDisconnected, 502, "upstream_disconnected"),
        ("silence", UpstreamTimeout, 504, "upstream_timeout"),
        ("think=9", UpstreamTimeout, 504, "upstream_timeout"),
        ("junk", UpstreamInvalid, 502, "upstream_invalid"),
        ("gzip", UpstreamInvalid, 502, "upstream_invalid"),
    ],
)
async def test_each_failure_has_its_status_and_code(provider, script, error, status, code):
    with pytest.raises(UpstreamError) as caught:
        await answer(call(provider, script, limits={"first_byte": 0.15}))

    assert type(caught.value) is error
    assert (caught.value.status, caught.value.code) == (status, code)
    assert "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("chunks=9,reset=3", UpstreamDisconnected),
        ("chunks=9,stall=3", UpstreamTimeout),
        ("cut_raw=2", UpstreamDisconnected),
    ],
)
async def test_failures_in_the_middle_of_a_stream_come_after_its_first_blocks(provider, script, error):
    response = await send(call(provider, script, stream=True, limits={"read": 0.15}))
    blocks = []

    async def read():
        async for block in upstream.blocks(response):
            blocks.append(block)

    with pytest.raises(error):
        await read()
    await response.aclose()

    assert b"word0" in b"".join(blocks)


async def test_a_provider_that_is_not_there_is_unreachable():
    request = httpx.Request("POST", "http://127.0.0.1:1/v1/chat/completions", content=b"{}")
    with pytest.raises(UpstreamUnreachable):
        await send(request)


async def test_a_forbidden_address_is_told_and_nothing_is_sent(provider):
    with pytest.raises(ForbiddenAddress) as caught:
        await send(call(provider), policy=outbound.PUBLIC)

    assert (caught.value.status, caught.value.code) == (400, "forbidden_address")
    assert provider.requests == []


async def test_the_deadline_of_the_call_wins_over_longer_limits(provider):
    begun = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        await answer(call(provider, "silence"), seconds=0.2)
    response = await send(call(provider, "chunks=1000,interval=0.02", stream=True), seconds=0.3)
    with pytest.raises(UpstreamTimeout):
        async for _ in upstream.blocks(response, deadline=begun + 60):
            pass

    assert time.monotonic() - begun < 10  # the stream would last 20 s


async def test_a_call_whose_deadline_is_over_is_not_sent(provider):
    with pytest.raises(UpstreamTimeout):
        await send(call(provider), seconds=-0.1)

    assert provider.requests == []


async def test_blocks_stop_at_their_own_deadline_whatever_the_transport_does():
    transport = sandbox.Transport(delay_s=0.05)
    body = b'{"model":"exact","messages":[{"role":"user","content":"x"}],"stream":true,"max_tokens":500}'
    request = upstream.post("sandbox://local/chat/completions", headers={}, body=body, limits={})
    response = await upstream.send(request, transport=transport, deadline=time.monotonic() + 5)
    with pytest.raises(UpstreamTimeout):
        async for _ in upstream.blocks(response, deadline=time.monotonic() + 0.2):
            pass


async def test_an_answer_above_the_limit_is_refused_and_its_connection_closed(provider):
    response = await send(call(provider, "huge=5000000"))
    with pytest.raises(UpstreamInvalid):
        await upstream.read(response, 100_000)

    assert response.is_closed
    assert await provider.settled(lambda: provider.open_connections == 0 or provider.last.answered_at)


async def test_a_full_process_says_when_to_come_back(provider, settings):
    settings.RESPAN_UPSTREAM_MAX_CONCURRENCY = 1
    held = await send(call(provider, "chunks=500,interval=0.02", stream=True))
    with pytest.raises(UpstreamBusy) as caught:
        await send(call(provider))
    await held.aclose()

    assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})


async def test_finishing_a_stream_keeps_its_connection_for_the_next_call(provider):
    before = provider.connections
    for _ in range(5):
        response = await send(call(provider, stream=True))
        async for block in upstream.blocks(response):
            if b"[DONE]" in block:
                break
        await upstream.finish(response)
        assert response.is_closed

    assert provider.connections == before + 1


async def test_finishing_does_not_wait_for_a_provider_that_goes_on(provider):
    response = await send(call(provider, "chunks=500,interval=0.02", stream=True))
    begun = time.monotonic()
    await upstream.finish(response)

    assert time.monotonic() - begun < 5  # the stream lasts 10 s
    assert response.is_closed
    assert await provider.settled(lambda: provider.last.gone_at is not None)


async def test_the_sandbox_is_sent_to_like_any_provider():
    body = b'{"model":"echo","messages":[{"role":"user","content":"hi there"}]}'
    request = upstream.post("sandbox://local/chat/completions", headers={}, body=body, limits=LIMITS)
    response = await upstream.send(request, transport=sandbox.TRANSPORT, deadline=time.monotonic() + 5)

    assert json.loads(await upstream.read(response, 100_000))["choices"][0]["message"]["content"] == "hi there"
