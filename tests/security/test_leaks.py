"""Clients that leave, in the middle of a stream or while they wait for JSON, leave nothing behind.

No socket, descriptor or task of the web process, no place in the upstream pool (its limit here is lower than the number
of calls that are given up, so that a lost place would soon be missed), no open hold; and each call has its one trace.
"""

import asyncio
import json
import os
import random
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET, socket
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from django.test import override_settings

from tests.servers import Server, wait_until
from tests.stack import Stack, Tenant

AT_ONCE = 20
PLACES = 30

pytestmark = pytest.mark.xdist_group("leaks")  # `narrow` is started once
COUNTS = [100, pytest.param(1000, marks=pytest.mark.long)]


@pytest.fixture(scope="module")
def narrow(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A web process of its own with few places for calls to providers; the worker is the stack's."""
    names = ("RESPAN_CATALOG_EXTRA", "RESPAN_UPSTREAM_ALLOW", "RESPAN_PLATFORM_KEY_FAKE")
    env = {name: stack.server.env[name] for name in names} | {"RESPAN_UPSTREAM_MAX_CONCURRENCY": str(PLACES)}
    with Server(data_dir=tmp_path_factory.mktemp("narrow"), shipper=True, env=env) as server:
        yield Stack(server, stack.provider, stack.vendors)


# --- Clients that leave -----------------------------------------------------------------------------------------------


@dataclass
class Leaver:
    """Calls again and again, and leaves each call before its end: half with a FIN, half with a RST."""

    base_url: str
    key: str
    model: str
    stream: bool

    async def leave(self, count: int) -> None:
        numbers = iter(range(count))
        async with asyncio.timeout(300), asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._caller(numbers))

    async def _caller(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(self.base_url).port)
            writer.write(self._request(number))
            if self.stream:
                await reader.readuntil(b"word3")
            else:
                await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311
            if number % 2:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def _request(self, number: int) -> bytes:
        messages = [{"role": "user", "content": f"call {number}."}]
        body = json.dumps({"model": self.model, "messages": messages, "stream": self.stream}).encode()
        head = f"POST /api/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


# --- What a process holds ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """Descriptors of a web process: connections of clients, to the provider, to the database, and others by name."""

    clients: int
    provider: int
    database: int
    others: Counter[str]


def held(narrow: Stack) -> Held:
    pid = narrow.server.pid()
    ends = _sockets(pid)
    database = urlsplit(os.environ["DATABASE_URL"]).port or 5432
    kinds: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except OSError:
            continue  # closed meanwhile
        local, remote = ends.get(target, (0, 0))
        if remote and local == urlsplit(narrow.base_url).port:
            kinds["clients"] += 1
        elif remote in (narrow.provider.port, database):
            kinds["database" if remote == database else "provider"] += 1
        elif not target.endswith(".seg"):  # of the spool: another one each second
            others[target.partition(":")[0]] += 1
    return Held(kinds["clients"], kinds["provider"], kinds["database"], others)


def _sockets(pid: int) -> dict[str, tuple[int, int]]:
    """Return the local and the remote port of each TCP socket, by the target of its descriptor's link."""
    ends = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            local, remote = (int(end.rpartition(":")[2], 16) for end in fields[1:3])
            ends[f"socket:[{fields[9]}]"] = (local, remote)
    return ends


# --- The promise ------------------------------------------------------------------------------------------------------


@pytest.fixture
def one(tenant: Any, narrow: Stack) -> Tenant:
    """A tenant with credits who calls the narrow web process."""
    made: Tenant = replace(tenant(credits_usd="1000"), stack=narrow)
    for _ in range(2):  # what the process opens once, it has opened
        answers = asyncio.run(_call_at_once(made, AT_ONCE))
        assert answers == [200] * AT_ONCE
    return made


async def _call_at_once(one: Tenant, count: int) -> list[int]:
    return list(await asyncio.gather(*(asyncio.to_thread(lambda: one.chat("fake/chat").status) for _ in range(count))))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("model", "stream"), [("fake/slow", True), ("fake/silent", False)], ids=["streams", "json"])
def test_calls_that_are_given_up_leave_nothing(
    one: Tenant, narrow: Stack, model: str, stream: bool, count: int
) -> None:
    narrow.provider.requests.clear()
    before = held(narrow)
    asyncio.run(Leaver(narrow.base_url, one.key, model, stream).leave(count))

    wait_until(lambda: held(narrow).clients == 0, timeout_s=5, what="the connections of clients to be closed")
    wait_until(lambda: held(narrow).provider <= before.provider, timeout_s=5, what="the provider to be let go")
    wait_until(lambda: held(narrow).others <= before.others, timeout_s=5, what=f"nothing else to be open: {before}")
    after = held(narrow)
    assert after.database <= before.database + 8  # the pool may have grown
    reached = reached_the_provider(narrow)

    # The upstream pool is usable: more calls than it has places.
    assert asyncio.run(_call_at_once(one, PLACES + AT_ONCE)) == [200] * (PLACES + AT_ONCE)

    whole = 2 * AT_ONCE + PLACES + AT_ONCE
    wait_until(lambda: statuses(one)["ok"] == whole, timeout_s=60, what="the later calls, behind those given up")
    traces, words = traced(one)
    assert len(words) == traces - whole, "a call has two traces"
    assert reached <= words, "a call has no trace"
    assert len(words) == count or not stream  # a request that was taken back before it was read is none
    assert statuses(one) == {"ok": whole, "aborted": len(words)}
    wait_until(lambda: not open_holds(one), what="the holds to be resolved")
    assert (one.balance.posted, one.balance.held) == (1000 * 10**9 - charged(one), 0)
    print(f"{count} given up: {len(reached)} reached the provider, {len(words)} traced; {before} -> {after}")


def reached_the_provider(narrow: Stack) -> set[str]:
    contents = (request.json["messages"][0]["content"] for request in narrow.provider.requests)
    return {content for content in contents if content.startswith("call ")}


def traced(one: Tenant) -> tuple[int, set[str]]:
    """Return how many traces there are, and the words of the calls that were given up."""
    rows = _spans(one, "id, input_preview")
    return len(rows), {words for _, words in rows if words.startswith("call ")}


def statuses(one: Tenant) -> Counter[str]:
    return Counter(status for (status,) in _spans(one, "status"))


def charged(one: Tenant) -> int:
    return sum(amount or 0 for (amount,) in _spans(one, "charged_nano"))


def _spans(one: Tenant, columns: str) -> list[tuple[Any, ...]]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM traces_span WHERE organization_id = %s", [one.organization.pk])
        return cursor.fetchall()


def open_holds(one: Tenant) -> int:
    from billing.models import Hold

    return Hold.objects.filter(wallet_id=one.organization.pk, state="open").count()


# --- Tasks, which only the process itself can count -------------------------------------------------------------------


@pytest.fixture
def own_key(tenant: Any) -> Tenant:
    made: Tenant = tenant(local=True)
    return made


async def test_no_task_is_left(own_key: Tenant, stack: Stack) -> None:
    """Serve in this process's own loop, so that its tasks can be counted."""
    from respan import asgi, web

    listener = web.bind("127.0.0.1", 0)
    listener.listen()
    config = uvicorn.Config(asgi.application, http=web.Protocol, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    with override_settings(RESPAN_UPSTREAM_ALLOW=[stack.provider.address]):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await _leave_each_way(listener, own_key.key, 1)
        await asyncio.sleep(0.5)
        tasks = len(asyncio.all_tasks())

        await _leave_each_way(listener, own_key.key, 2 * AT_ONCE)

        assert await stack.provider.settled(lambda: len(asyncio.all_tasks()) <= tasks and not asgi.application.pending)
        server.should_exit = True
        await serving


async def _leave_each_way(listener: socket, key: str, count: int) -> None:
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    await Leaver(base_url, key, "local/fake:chunks=400,interval=0.02", stream=True).leave(count)
    await Leaver(base_url, key, "local/fake:silence", stream=False).leave(count)
