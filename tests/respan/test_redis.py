"""What Redis costs when it is away, slow or wrong: 50 ms a call, then nothing; and never somebody else's answer."""

import asyncio
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from respan import redis

REDIS_URL = "redis://127.0.0.1:6379/0"


def _is_there() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", 6379), timeout=0.5):
            return True
    except OSError:
        return False


needs_redis = pytest.mark.skipif(not _is_there(), reason="no Redis runs on this machine")


@pytest.fixture
def closed_port() -> Iterator[int]:
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
async def mute(settings: Any) -> Any:
    """A server that takes connections and never says a word; it counts them."""
    held: list[asyncio.StreamWriter] = []

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    settings.REDIS_URL = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    yield held
    for writer in held:
        writer.close()
    server.close()


def ping(client: Any) -> Awaitable[Any]:
    return client.ping()


async def _refused(operation: Callable[[Any], Awaitable[Any]] = ping) -> float:
    begun = time.monotonic()
    with pytest.raises(redis.Unavailable):
        await redis.run(operation)
    return time.monotonic() - begun


async def test_without_the_setting_nothing_is_asked(settings):
    settings.REDIS_URL = ""

    assert not redis.configured()
    await _refused()
    with pytest.raises(redis.Unavailable):
        await asyncio.to_thread(redis.run_now, ping)


async def test_a_refused_connection_is_no_error_of_a_driver(settings, closed_port):
    settings.REDIS_URL = f"redis://127.0.0.1:{closed_port}/0"

    assert redis.configured()
    await _refused()


async def test_a_mute_server_is_left_alone_after_five_failures(mute):
    for _ in range(redis.FAILURES):
        assert await _refused() >= 0.9 * redis.TICKS * redis.TICK_S
    asked = len(mute)

    for _ in range(50):
        await _refused()
    assert len(mute) == asked


async def test_after_a_while_one_asks_again_and_the_others_stay_away(mute):
    for _ in range(redis.FAILURES):
        await _refused()
    asked = len(mute)
    redis._here().ask_at = time.monotonic()

    await asyncio.gather(*(_refused() for _ in range(20)))
    assert len(mute) - asked <= 2  # one operation, which replaces its connection once


@needs_redis
async def test_it_is_asked_again_as_soon_as_it_answers(settings):
    settings.REDIS_URL = REDIS_URL
    here = redis._here()
    here.failures, here.ask_at = redis.FAILURES, time.monotonic()

    assert await redis.run(ping)
    assert here.failures == 0


@needs_redis
async def test_an_operation_given_up_leaves_its_answer_to_nobody_else(settings):
    """A connection with an unread answer must not serve the next one."""
    settings.REDIS_URL = REDIS_URL
    name = f"test:{uuid.uuid4().hex}"
    await _refused(lambda client: client.blpop([name], timeout=1))

    values = [uuid.uuid4().hex for _ in range(20)]
    answers = await asyncio.gather(*(redis.run(lambda client, value=value: client.echo(value)) for value in values))
    assert [answer.decode() for answer in answers] == values


@needs_redis
async def test_a_caller_who_leaves_takes_no_connection_with_him(settings):
    settings.REDIS_URL = REDIS_URL
    for _ in range(2 * redis.MAX_CONNECTIONS):
        caller = asyncio.create_task(redis.run(lambda client: client.blpop([f"test:{uuid.uuid4().hex}"], timeout=1)))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)

    assert await redis.run(ping)


@needs_redis
async def test_a_stall_of_our_own_loop_is_not_taken_for_an_outage(settings):
    settings.REDIS_URL = REDIS_URL
    await redis.run(ping)
    asked = asyncio.create_task(redis.run(ping))
    await asyncio.sleep(0)
    time.sleep(2 * redis.TICKS * redis.TICK_S)  # noqa: ASYNC251  (the stall)

    assert await asked


@needs_redis
def test_a_page_asks_on_a_connection_of_its_own(settings):
    settings.REDIS_URL = REDIS_URL

    assert redis.run_now(ping)
