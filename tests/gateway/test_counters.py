"""Counters of limits in PostgreSQL and in Redis: what many processes take together is never more than there is."""

import asyncio
import itertools
import time
import uuid

import pytest
from django.db import connection

from gateway import counters
from gateway.counters import ANY, Given, Hold, Key, Postgres, Redis, Take
from gateway.windows import FOREVER, Window, window
from tests.respan.test_redis import REDIS_URL, needs_redis

pytestmark = pytest.mark.django_db(transaction=True)

_numbers = itertools.count(uuid.uuid4().int % (1 << 50))


@pytest.fixture(params=["postgres", pytest.param("redis", marks=needs_redis)])
def store(request, settings):
    """Each place where counters can be."""
    if request.param == "postgres":
        return Postgres()
    settings.REDIS_URL = REDIS_URL
    return Redis()


def new_key(subject: str = '["a"]') -> Key:
    return Key(next(_numbers), 1, 1, subject)


def now_ms() -> int:
    return int(time.time() * 1000)


async def take(store, key, want=1, most=100, within=None):
    [given] = await store.ask([Take(key, within or window("day", now_ms()), want, most)])
    return given


def as_a_page(looks, now):
    try:
        return counters.used_now(looks, now_ms=now)
    finally:
        connection.close()  # this thread's


async def test_no_more_is_given_than_there_is(store):
    key = new_key()

    assert [(await take(store, key, 40)).granted for _ in range(4)] == [40, 40, 20, 0]
    assert (await take(store, key)).used == 100


async def test_all_who_ask_at_once_get_no_more_than_there_is(store):
    key = new_key()
    given = await asyncio.gather(*(take(store, key, want) for want in (1, 7, 30) * 10))

    assert sum(each.granted for each in given) == 100
    assert (await take(store, key)).used == 100


async def test_looking_takes_nothing(store):
    key = new_key()
    await take(store, key, 5)

    assert (await take(store, key, 0))[:2] == (0, 5)
    assert (await take(store, key, 1, ANY))[:2] == (1, 6)


async def test_a_lowered_limit_gives_nothing_and_takes_nothing_back(store):
    key = new_key()
    await take(store, key, 50)

    assert (await take(store, key, 1, 10))[:2] == (0, 50)


async def test_the_next_window_begins_at_nothing(store):
    key, now = new_key(), now_ms()
    first, second = Window(now - 60_000, now + 60_000), Window(now + 60_000, now + 120_000)
    await take(store, key, 100, within=first)

    assert (await take(store, key, 1, within=second)) == Given(1, 1, second.ends_ms)


async def test_a_window_of_the_first_event_is_everybodys(store):
    key, now = new_key(), now_ms()
    asks = [Take(key, window("90", now + later, first_event=True), 1, 2, first_event=True) for later in (0, 500, 900)]
    given = [(await store.ask([ask]))[0] for ask in asks]

    assert [each.granted for each in given] == [1, 1, 0]
    assert all(abs(each.ends_ms - now - 90_000) < 5_000 for each in given)


async def test_a_counter_without_end_goes_on(store):
    key = new_key()
    await take(store, key, 3, within=FOREVER)

    assert (await take(store, key, 1, within=FOREVER)).used == 4


async def test_whom_they_count_and_what_is_changed_keeps_counters_apart(store):
    base = new_key()
    others = [base._replace(organization_id=next(_numbers)), base._replace(policy_id=2), base._replace(revision=2)]
    others.append(base._replace(subject='["b"]'))
    await take(store, base, 100)

    given = await store.ask([Take(key, window("day", now_ms()), 1, 100) for key in others])
    assert [each.used for each in given] == [1, 1, 1, 1]


async def test_places_are_held_by_one_and_free_for_others(store):
    key, now = new_key(), now_ms()

    async def hold(owner, want, *, at=now, until=now + 30_000):
        [given] = await store.ask([Hold(key, owner, want, 5, at, until)])
        return given[:2]

    assert await hold("one", 3) == (3, 3)
    assert await hold("two", 4) == (2, 5)
    assert await hold("two", 2) == (2, 5)
    assert await hold("one", 1) == (1, 3)
    assert await hold("two", 9) == (4, 5)
    assert await hold("one", 0) == (0, 4)
    # Whoever does not renew loses them.
    assert await hold("one", 5, at=now + 30_001, until=now + 60_000) == (5, 5)


async def test_processes_never_hold_more_places_than_there_are(store):
    key, now = new_key(), now_ms()
    asks = [Hold(key, f"owner {n}", 3, 10, now, now + 30_000) for n in range(12)]
    given = [each for [each] in await asyncio.gather(*(store.ask([ask]) for ask in asks))]

    assert sum(each.granted for each in given) == 10


async def test_many_counters_are_asked_at_once_in_any_order(store):
    keys = [new_key() for _ in range(20)]
    rounds = [keys, keys[::-1]] * 5
    asks = [[Take(key, window("day", now_ms()), 1, 1_000) for key in some] for some in rounds]
    await asyncio.gather(*(store.ask(some) for some in asks))

    given = await store.ask([Take(key, window("day", now_ms()), 0, 1_000) for key in keys])
    assert [each.used for each in given] == [10] * 20


async def test_a_page_sees_what_was_used(store):
    counted, held, unknown, now = new_key(), new_key(), new_key(), now_ms()
    day = window("day", now)
    await store.ask([Take(counted, day, 7, 100), Hold(held, "one", 3, 5, now, now + 30_000)])
    looks = [Take(counted, day, 0, ANY), Take(held, FOREVER, 0, ANY, True), Take(unknown, day, 0, ANY)]

    found = await asyncio.to_thread(as_a_page, looks, now)
    assert found is not None
    assert (found[counted].used, found[held].used) == (7, 3)
    assert unknown not in found or found[unknown].used == 0


async def test_a_store_that_is_away_says_so(settings):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"

    with pytest.raises(counters.Unavailable):
        await take(Redis(), new_key())
    assert await asyncio.to_thread(as_a_page, [Take(new_key(), FOREVER, 0, ANY)], 0) is None
