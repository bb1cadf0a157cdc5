"""Promises of `gateway.breaker_sharing`: what one web process learns of a target, the others know within a second."""

import asyncio
import time
import uuid
from typing import Any

import pytest

from gateway import breaker_sharing, health
from gateway.health import Place
from respan import redis

URL = "redis://127.0.0.1:6379/9"


@pytest.fixture(autouse=True)
def shared(settings: Any) -> None:
    settings.REDIS_URL = URL
    try:
        redis.run_now(lambda client: client.ping())
    except redis.Unavailable:
        pytest.skip("no Redis runs here")


def place() -> Place:
    return Place("openai", "https://api.example.test/v1", f"model-{uuid.uuid4().hex}", "cred_a")


def tell(*places: Place, until: float | None = None) -> None:
    async def told() -> None:
        for each in places:
            if until is None:
                breaker_sharing.opened(each)
            else:
                await breaker_sharing._tell(each, until)
        await asyncio.gather(*breaker_sharing._tasks)
        await redis.close()

    asyncio.run(told())


def test_a_breaker_that_opened_elsewhere_is_open_here_and_shown() -> None:
    there = place()
    tell(there)
    assert health.at(there).state(time.monotonic()) == "closed"

    breaker_sharing.refresh_now()

    assert not health.at(there).enter(time.monotonic())
    (shown,) = [each for each in health.breakers("cred_a") if each.model == there.model]
    assert (shown.state, 0 < shown.until - time.time() <= health.OPEN_S) == ("open", True)


def test_calls_hear_of_it_without_waiting() -> None:
    there = place()
    tell(there)

    async def called() -> None:
        breaker_sharing.look(time.monotonic() + 10_000)
        await asyncio.gather(*breaker_sharing._tasks)
        await redis.close()

    asyncio.run(called())
    breaker_sharing._next_look = 0.0
    assert not health.at(there).enter(time.monotonic())


def test_what_is_over_or_lies_too_far_ahead_changes_nothing() -> None:
    over, far = place(), place()
    tell(over, until=time.time() - 1)
    tell(far, until=time.time() + 1_000)

    breaker_sharing.refresh_now()

    for each in (over, far):
        assert health.at(each).enter(time.monotonic())


def test_without_redis_a_breaker_is_this_processs_own(settings: Any) -> None:
    settings.REDIS_URL = ""
    there = place()
    tell(there)
    breaker_sharing.refresh_now()
    assert health.at(there).enter(time.monotonic())
