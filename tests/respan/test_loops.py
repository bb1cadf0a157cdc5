"""`respan.loops`: what belongs to an event loop is found there again, and nowhere else.

Neighbour: `respan/loops.py`.
"""

import asyncio

from respan.loops import OfLoop


async def twice(places):
    return places(), places()


def test_each_loop_has_one_of_its_own():
    places = OfLoop(lambda: object())
    first, again = asyncio.run(twice(places))
    other, _ = asyncio.run(twice(places))
    assert first is again
    assert other is not first


def test_two_loops_that_take_turns_keep_their_own():
    places = OfLoop(lambda: object())

    async def ask():
        return places()

    one, two = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        seen = [loop.run_until_complete(ask()) for loop in (one, two, one, two)]
    finally:
        one.close()
        two.close()
    assert seen[0] is seen[2]
    assert seen[1] is seen[3]
    assert seen[0] is not seen[1]


def test_what_was_taken_away_is_made_anew():
    places = OfLoop(lambda: object())

    async def ask():
        first = places()
        assert places.pop() is first
        assert places.pop() is None
        return first, places()

    first, second = asyncio.run(ask())
    assert first is not second
