"""The response cache on the real database: who shares an answer, what is kept, and one call for many that ask."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from gateway import cache, cache_entries, cache_store
from gateway.call_settings import Settings
from gateway.models import CachedAnswer
from respan import pool, redis
from tests.conftest import make_organization
from tests.gateway.asking import CHAT, answer, asking, brought, caller
from tests.respan.test_redis import REDIS_URL
from tests.respan.test_redis import _is_there as is_there

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True, params=["postgres", "redis"])
async def store(request: Any, settings: Any) -> AsyncIterator[str]:
    """Where answers are looked up: every promise holds with Redis and without it."""
    if request.param == "redis" and not is_there():
        pytest.skip("no Redis runs on this machine")
    settings.REDIS_URL = REDIS_URL if request.param == "redis" else ""
    yield str(request.param)
    await cache.settled()


async def an_organization() -> Any:
    return await sync_to_async(make_organization)(f"Cache {uuid.uuid4().hex[:6]}")


async def somebody(**facts: Any) -> Any:
    return caller((await an_organization()).pk, **facts)


async def kept(who: Any) -> list[CachedAnswer]:
    """Return the rows of an organization, those being waited for too."""
    return [row async for row in CachedAnswer.objects.filter(organization_id=who.organization_id)]


async def test_an_answer_is_given_again() -> None:
    who = await somebody()
    first = asking(who)
    await brought(first)
    hit = await cache.look(asking(who))
    assert isinstance(hit, cache.Hit)
    response = hit.response()
    assert response.content == answer()
    assert response["X-Respan-Cache"] == "hit"
    assert 0 <= int(response["Age"]) < 30
    assert response["Content-Type"] == "application/json"
    assert hit.log_id == first.id
    await cache.settled()
    (row,) = await kept(who)
    assert (row.hit_count, row.input_tokens, row.output_tokens, row.response_model) == (1, 7, 3, "m-1")
    assert (row.prompt_text, row.answer_text) == ("Hello", "Hi")
    assert hit.cache_key == bytes(row.key).hex()


async def test_nothing_is_done_for_calls_that_do_not_ask() -> None:
    who = await somebody()
    assert await cache.look(asking(who, settings=Settings())) is None
    assert await cache.look(asking(who, {**CHAT, "cache_enabled": False})) is None
    assert await kept(who) == []


async def test_a_request_may_ask_where_the_organization_does_not() -> None:
    who = await somebody()
    await brought(asking(who, {**CHAT, "cache_enabled": True}, settings=Settings()))
    assert isinstance(await cache.look(asking(who, {**CHAT, "cache_enabled": True}, settings=Settings())), cache.Hit)
    assert await cache.look(asking(who, settings=Settings())) is None


async def test_two_organizations_and_two_environments_share_nothing() -> None:
    one, two = await somebody(), await somebody()
    test = caller(one.organization_id, environment="test")
    await brought(asking(one), answer("canary-of-one"))
    for other in (two, test):
        assert isinstance(await cache.look(asking(other)), cache.Flight)
    assert isinstance(await cache.look(asking(one)), cache.Hit)


@pytest.mark.parametrize(
    ("options", "other", "is_shared"),
    [
        ({}, {"customer_identifier": "b"}, True),
        ({}, {"model": "n"}, True),
        ({"cache_by_customer": True}, {"customer_identifier": "b"}, False),
        ({"is_cached_by_model": True}, {"model": "n"}, False),
    ],
    ids=str,
)
async def test_customers_and_models_share_unless_told_apart(
    options: dict[str, Any], other: dict[str, Any], is_shared: bool
) -> None:
    who = await somebody()
    body = {**CHAT, "customer_identifier": "a", "cache_options": options}
    await brought(asking(who, body))
    found = await cache.look(asking(who, {**body, **other}))
    assert isinstance(found, cache.Hit) is is_shared
    assert isinstance(await cache.look(asking(who, body)), cache.Hit)


@pytest.mark.parametrize(
    "body",
    [
        {"credential_override": {"m": {"api_key": "sk-own"}}},
        {"customer_credentials": {"openai": {"api_key": "sk-own"}}},
        {"disable_log": True},
    ],
    ids=lambda body: next(iter(body)),
)
async def test_what_must_not_be_kept_is_not(body: dict[str, Any]) -> None:
    who = await somebody()
    call = asking(who, {**CHAT, "cache_enabled": True, **body})
    assert await cache.look(call) is None
    assert any("cache was not used" in warning for warning in call.params.warnings)
    assert await kept(who) == []


async def test_zero_retention_and_no_store_keep_nothing_and_are_given_nothing() -> None:
    who = await somebody()
    await brought(asking(who))
    silent = caller(who.organization_id, zero_retention=True)
    assert await cache.look(asking(silent)) is None
    assert await cache.look(asking(who, HTTP_CACHE_CONTROL="No-Store")) is None
    assert len(await kept(who)) == 1


async def test_an_answer_has_its_lifetime() -> None:
    who = await somebody()
    await brought(asking(who, {**CHAT, "cache_ttl": 100}))
    (row,) = await kept(who)
    assert 90 <= (row.expires_at - row.created_at).total_seconds() <= 100
    await sync_to_async(cache_entries.expire)(row, at=row.created_at, now=row.created_at)
    again = await cache.look(asking(who))
    assert isinstance(again, cache.Flight)
    again.filled(answer("Newer"), "application/json", None)
    hit = await cache.look(asking(who))
    assert isinstance(hit, cache.Hit)
    assert hit.response().content == answer("Newer")


@pytest.mark.parametrize(
    "body",
    [b'{"error": {"message": "no"}}', b"<html>", b"[]", json.dumps({"choices": ["x" * cache.MAX_KEPT_BYTES]}).encode()],
    ids=["an error", "no JSON", "no object", "too large"],
)
async def test_what_is_no_good_answer_is_not_kept(body: bytes) -> None:
    who = await somebody()
    flight = await cache.look(asking(who))
    assert isinstance(flight, cache.Flight)
    flight.filled(body, "application/json", None)
    await cache.settled()
    assert await kept(who) == []


async def test_a_call_that_gave_up_leaves_nothing_and_cannot_fill_any_more() -> None:
    who = await somebody()
    flight = await cache.look(asking(who))
    assert isinstance(flight, cache.Flight)
    flight.gave_up()
    flight.filled(answer(), "application/json", None)
    await cache.settled()
    assert await kept(who) == []


# --- Many at a time ---------------------------------------------------------------------------------------------------


async def test_a_hundred_who_ask_the_same_send_one_call() -> None:
    who = await somebody()
    calls = [asking(who, {**CHAT, "stream": number % 2 == 0}) for number in range(100)]
    looks = [asyncio.ensure_future(cache.look(call)) for call in calls]
    done, waiting = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
    (leader,) = [look.result() for look in done]
    assert isinstance(leader, cache.Flight)
    leader.filled(answer(), "application/json", None)
    found = await asyncio.gather(*waiting)
    assert sum(isinstance(each, cache.Hit) for each in found) == 99
    await cache.settled()
    (row,) = await kept(who)
    assert row.hit_count == 99


async def test_where_answers_fail_others_try_by_twos_and_fours_and_never_all_at_once() -> None:
    who = await somebody()
    looks = {asyncio.ensure_future(cache.look(asking(who))) for _ in range(100)}
    tried = []
    while looks:
        done, looks = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.05)
        more = {look for look in looks if look.done()}
        looks -= more
        found = [look.result() for look in done | more]
        tried.append(len(found))
        leaders = [each for each in found if isinstance(each, cache.Flight)]
        assert len(leaders) == 1
        assert all(each is None for each in found if each is not leaders[0])
        leaders[0].gave_up()
    assert tried == [1, 2, 4, 8, 16, 32, 37]
    await cache.settled()
    assert await kept(who) == []


async def test_who_waits_and_leaves_takes_nobody_with_him() -> None:
    who = await somebody()
    leader = await cache.look(asking(who))
    assert isinstance(leader, cache.Flight)
    gone, alone, next_one, last = (asyncio.ensure_future(cache.look(asking(who))) for _ in range(4))
    await asyncio.sleep(0)
    leader.gave_up()
    gone.cancel()  # whose turn it was
    with pytest.raises(asyncio.CancelledError):
        await gone
    found = await next_one
    assert isinstance(found, cache.Flight)
    assert await alone is None
    found.filled(answer(), "application/json", None)
    assert isinstance(await last, cache.Hit)


async def test_nobody_waits_longer_than_half_of_his_time() -> None:
    who = await somebody()
    leader = await cache.look(asking(who))
    assert isinstance(leader, cache.Flight)
    assert await cache.look(asking(who, within_s=0.2)) is None
    leader.gave_up()


async def test_another_process_that_fetches_is_waited_for() -> None:
    who = await somebody()
    flight = await cache.look(asking(who))
    assert isinstance(flight, cache.Flight)
    cache._lines.clear()  # as if it were another process's
    waiting = asyncio.ensure_future(cache.look(asking(who)))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    flight.filled(answer("From afar"), "application/json", None)
    hit = await waiting
    assert isinstance(hit, cache.Hit)
    assert hit.response().content == answer("From afar")


async def test_another_process_that_died_is_waited_for_until_its_deadline() -> None:
    who = await somebody()
    await cache.look(asking(who, within_s=0.4))
    cache._lines.clear()
    assert isinstance(await cache.look(asking(who)), cache.Flight)


async def test_another_process_that_gives_up_lets_us_try() -> None:
    who = await somebody()
    flight = await cache.look(asking(who))
    assert isinstance(flight, cache.Flight)
    cache._lines.clear()
    waiting = asyncio.ensure_future(cache.look(asking(who)))
    await asyncio.sleep(0.1)
    flight.gave_up()
    assert isinstance(await waiting, cache.Flight)


# --- What is kept, swept and forgotten -------------------------------------------------------------------------------


async def test_expired_answers_are_swept_and_others_stay() -> None:
    who = await somebody()
    await brought(asking(who))
    await brought(asking(who, {**CHAT, "seed": 1}))
    rows = await kept(who)
    await CachedAnswer.objects.filter(key=rows[0].key).aupdate(expires_at=rows[0].created_at)
    await sync_to_async(cache_entries.sweep)()
    assert [row.key for row in await kept(who)] == [rows[1].key]


async def test_what_is_deleted_is_answered_by_the_model_again() -> None:
    who = await somebody()
    await brought(asking(who))
    found = cache_entries.entries(who.organization_id, environment=None)
    assert await sync_to_async(cache_entries.delete)(found) == 1
    assert isinstance(await cache.look(asking(who)), cache.Flight)


async def test_without_redis_nothing_is_half_deleted(settings: Any) -> None:
    who = await somebody()
    await brought(asking(who))
    await redis.close()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    found = cache_entries.entries(who.organization_id, environment=None)
    with pytest.raises(cache_entries.CacheNotCleared):
        await sync_to_async(cache_entries.delete)(found)
    assert len(await kept(who)) == 1


async def test_a_redis_that_forgot_is_given_it_again(store: str, settings: Any) -> None:
    who = await somebody()
    await brought(asking(who))
    if store == "redis":
        (row,) = await kept(who)
        await redis.run(lambda client: cache_store.drop(client, [bytes(row.key)]))
    for _ in range(2):
        assert isinstance(await cache.look(asking(who)), cache.Hit)
        await cache.settled()
    if store == "redis":
        assert await redis.run(lambda client: client.exists(cache_store.names(bytes(row.key))[0])) == 1


async def test_a_redis_that_is_away_leaves_the_rows(settings: Any) -> None:
    who = await somebody()
    await brought(asking(who))
    await redis.close()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert isinstance(await cache.look(asking(who)), cache.Hit)


async def test_a_deleted_organization_leaves_no_answers() -> None:
    who = await somebody()
    await brought(asking(who))
    await sync_to_async(cache_entries.forget)(who.organization_id)
    assert await kept(who) == []


async def test_a_database_that_is_away_is_a_miss_and_holds_up_nobody(settings: Any, monkeypatch: Any) -> None:
    who = await somebody()
    await pool.close()
    monkeypatch.setitem(settings.DATABASES["default"], "PORT", "1")
    flight = await asyncio.wait_for(cache.look(asking(who)), 5)
    assert isinstance(flight, cache.Flight)
    flight.filled(answer(), "application/json", None)
    await asyncio.wait_for(cache.settled(), 10)
    await pool.close()
    monkeypatch.undo()
    monkeypatch.setattr(cache_store, "_away_until", 0.0)
    assert await kept(who) == []
