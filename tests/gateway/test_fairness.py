"""Places of a process: one organization cannot take all of them, and who holds least goes first."""

import asyncio

import pytest

from gateway.fairness import Places, TooManyCalls

NOISY, QUIET, THIRD = 1, 2, 3


@pytest.fixture
def places(settings):
    """Twenty places, of which one organization may hold ten when others need them."""
    settings.RESPAN_UPSTREAM_MAX_CONCURRENCY = 20
    settings.RESPAN_TENANT_MAX_CONCURRENCY = 0
    return Places()


@pytest.fixture
def impatient(places):
    places.wait_s = 0.05


async def fill(places, organization_id, count):
    for _ in range(count):
        await places.enter(organization_id)


async def refused(places, organization_id):
    with pytest.raises(TooManyCalls) as error:
        await places.enter(organization_id)
    return error.value


async def test_one_organization_leaves_the_last_tenth_to_others(places, impatient):
    await fill(places, NOISY, 18)
    error = await refused(places, NOISY)
    assert (error.status, error.headers) == (429, {"Retry-After": "1"})

    await fill(places, QUIET, 2)
    assert (places.taken, dict(places.held), places.waiting) == (20, {NOISY: 18, QUIET: 2}, {})


async def test_the_setting_bounds_what_one_may_hold_when_places_are_few(settings):
    settings.RESPAN_UPSTREAM_MAX_CONCURRENCY, settings.RESPAN_TENANT_MAX_CONCURRENCY = 20, 19
    places = Places(wait_s=0.05)
    await fill(places, NOISY, 19)

    await refused(places, NOISY)
    await fill(places, QUIET, 1)


async def test_who_holds_least_goes_first(places):
    await fill(places, NOISY, 15)
    await fill(places, QUIET, 5)
    waiting = {name: asyncio.create_task(places.enter(name)) for name in (NOISY, QUIET, THIRD)}
    await asyncio.sleep(0)

    for expected in (THIRD, QUIET):
        places.leave(NOISY)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [name for name, task in waiting.items() if task.done()][-1] == expected or waiting[expected].done()
    assert not waiting[NOISY].done()
    for _ in range(4):
        places.leave(NOISY)
    await waiting[NOISY]
    assert places.waiting == {}


async def test_who_leaves_while_waiting_takes_no_place(places):
    await fill(places, NOISY, 18)
    waiting = [asyncio.create_task(places.enter(NOISY)) for _ in range(5)]
    await asyncio.sleep(0)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    assert (places.taken, places.waiting) == (18, {})
    await fill(places, QUIET, 2)


async def test_a_place_that_comes_as_one_leaves_is_not_lost(places):
    await fill(places, NOISY, 10)
    await fill(places, QUIET, 10)
    waiting = asyncio.create_task(places.enter(THIRD))
    await asyncio.sleep(0)
    places.leave(QUIET)  # the place is his before he runs again
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert places.taken == 19
    await places.enter(THIRD)


async def test_a_lone_organization_waits_for_nobody(places):
    for _ in range(100):
        await places.enter(NOISY)
        places.leave(NOISY)

    assert (places.taken, dict(places.held)) == (0, {})


async def test_a_process_of_one_place_has_one(settings):
    settings.RESPAN_UPSTREAM_MAX_CONCURRENCY = 1
    places = Places()
    await places.enter(NOISY)
    next_one = asyncio.create_task(places.enter(QUIET))
    await asyncio.sleep(0)
    places.leave(NOISY)
    await next_one

    assert places.taken == 1
