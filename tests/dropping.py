"""A proxy in front of a gateway under test that loses answers, as networks and load balancers do.

The first attempt of each call (`x-stainless-retry-count: 0`) loses its answer; retries pass. It runs in a thread and
counts what it lost. Neighbours: `servers.py`, `gateway/test_retried.py`, `drills/test_dropped_answers.py`.

    answer   the gateway has sent everything; the client gets nothing of it
    reset    as above, and the gateway sees a reset of the connection: nothing of its answer was read
    early    the connection ends while the call is under way, on both sides
"""

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class Dropping:
    """The proxy; `early_s` is how long the mode `early` waits before it ends the connections."""

    def __init__(self, target: str, *, mode: str = "answer", early_s: float = 0.1) -> None:
        parts = urlsplit(target)
        self.target = (parts.hostname or "", parts.port or 80)
        self.mode = mode
        self.early_s = early_s
        self.dropped = 0
        self.passed = 0
        self.base_url = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True, name="dropping")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stopped is not None
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, backlog=1024)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        async with server:
            await self._stopped.wait()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whatever ends it, its sockets are closed: one left to the collector fails the test it is found in.
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Carry one request and its answer; False when the answer was lost."""
        request = await _message(reader)
        gateway_reader, gateway_writer = await asyncio.open_connection(*self.target)
        is_lost = b"x-stainless-retry-count: 0" in request.lower()
        try:
            gateway_writer.write(request)
            if is_lost:
                self.dropped += 1
                await self._lose(gateway_reader, gateway_writer)
            else:
                self.passed += 1
                writer.write(await _message(gateway_reader))
                await writer.drain()
        finally:
            gateway_writer.close()
        return not is_lost

    async def _lose(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "early":
            await asyncio.sleep(self.early_s)
            return
        await _message(reader)
        if self.mode == "reset":
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Return one whole message of HTTP: its head, and its body by length or in chunks."""
    head = await reader.readuntil(b"\r\n\r\n")
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        parts = [head]
        while parts[-1] != b"0\r\n":
            parts.append(await reader.readuntil(b"\r\n"))
            parts.append(await reader.readexactly(int(parts[-1], 16) + 2))
            if parts[-2] == b"0\r\n":
                break
        return b"".join(parts)
    _, found, rest = lowered.partition(b"content-length:")
    return head + await reader.readexactly(int(rest.split(b"\r\n")[0]) if found else 0)
