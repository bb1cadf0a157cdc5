"""The connection kept for one statement: what it answers, and how it is replaced when it is busy, lost or refused."""

import asyncio
import socket

import psycopg
import pytest
from django.conf import settings
from psycopg_pool import PoolTimeout

from respan import pool

pytestmark = pytest.mark.django_db(transaction=True)

WHO = "SELECT pg_backend_pid(), $1::bigint + 1, $2::text"
SLOW = "SELECT pg_backend_pid(), pg_sleep($1::float8)"
DIVIDE = "SELECT pg_backend_pid(), 1 / $1::bigint"


@pytest.fixture(autouse=True)
async def closed_pool():
    yield
    await pool.close()


async def test_a_statement_is_answered_on_the_same_connection_each_time():
    first = await pool.ask(WHO, (b"1", b"a"))
    second = await pool.ask(WHO, (b"41", "ä".encode()))

    assert (first[1:], second[1:]) == ([b"2", b"a"], [b"42", "ä".encode()])
    assert first[0] == second[0]


async def test_an_error_of_the_database_is_raised_and_the_connection_kept():
    with pytest.raises(psycopg.errors.DivisionByZero, match="division by zero"):
        await pool.ask(DIVIDE, (b"0",))
    before = await pool.ask(DIVIDE, (b"1",))
    with pytest.raises(psycopg.errors.DivisionByZero):
        await pool.ask(DIVIDE, (b"0",))

    assert before == await pool.ask(DIVIDE, (b"1",))


async def test_who_comes_while_it_is_busy_does_not_wait():
    slow = asyncio.create_task(pool.ask(SLOW, (b"1.5",)))
    await asyncio.sleep(0.2)
    quick = await asyncio.wait_for(pool.ask(SLOW, (b"0",)), 1.3)

    assert not slow.done()
    assert (await slow)[0] != quick[0]
    assert (await pool.ask(SLOW, (b"0",)))[0] == quick[0]


async def test_who_leaves_while_waiting_takes_no_later_answer_away():
    slow = asyncio.create_task(pool.ask(SLOW, (b"0.3",)))
    await asyncio.sleep(0.05)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)

    assert (await pool.ask(WHO, (b"1", b"x")))[1:] == [b"2", b"x"]
    await asyncio.sleep(0.1)
    assert len(await pool.ask(SLOW, (b"0",))) == 2


async def test_a_connection_that_was_closed_by_the_server_is_replaced():
    old = (await pool.ask(WHO, (b"1", b"x")))[0]
    async with pool.connection() as other:
        await other.execute("SELECT pg_terminate_backend(%s)", (int(old or b"0"),))
    await asyncio.sleep(0.1)

    assert (await pool.ask(WHO, (b"1", b"x")))[0] != old


async def test_a_connection_lost_in_flight_is_an_operational_error():
    slow = asyncio.create_task(pool.ask(SLOW, (b"5",)))
    await asyncio.sleep(0.2)
    async with pool.connection() as other:
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event = 'PgSleep'"
        )
    with pytest.raises(psycopg.OperationalError):
        await asyncio.wait_for(slow, 2)


async def test_a_database_that_is_away_is_told_within_a_second(monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setitem(settings.DATABASES["default"], "PORT", "1")
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(pool.ask(WHO, (b"1", b"x")), 3)


async def test_a_database_that_takes_no_connections_is_told_within_about_a_second(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent, monkeypatch.context() as elsewhere:
        elsewhere.setitem(settings.DATABASES["default"], "HOST", "127.0.0.1")
        elsewhere.setitem(settings.DATABASES["default"], "PORT", str(silent.getsockname()[1]))
        with pytest.raises(PoolTimeout):
            await asyncio.wait_for(pool.ask(WHO, (b"1", b"x")), 3)
