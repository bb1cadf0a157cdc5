"""One web process: uvicorn over `respan.asgi` on a listening socket given by `up`, or on HOST and PORT.

Adds what uvicorn lacks: a limit on the size of a request's head and on the time it takes to arrive. Knows no request
beyond its head. uvicorn's own `--fd` takes the socket for a Unix one, and TCP_NODELAY would be off.
Neighbours: `asgi.py`, `management/commands/up.py`.
"""

import asyncio
import os
import socket
import sys
from typing import Any, cast

import uvicorn
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from respan import leaving

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 20.0
GRACEFUL_SHUTDOWN_S = 10
# Longer than a usual load balancer's: the side that sends must be the one that closes first.
KEEP_ALIVE_S = 75

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 46\r\n\r\nThe head of the request is larger than 64 KiB."
)


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a bounded head; a head that arrives in one piece pays one comparison for it."""

    _head_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        cycle: Any = self.cycle  # None before the first request
        if cycle is None:
            return
        scope: dict[str, Any] = cycle.scope
        if not cycle.response_complete:
            leaving.lost(scope)
        elif exc is not None:
            # Reset instead of closed: what was sent last has not been read.
            leaving.goes_on(scope)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()
        leaving.promise(cast(dict[str, Any], self.scope))

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            if self._head_timer is not None:
                self._stop_timer()
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def _give_up(self) -> None:
        if self._in_head and not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def serve(listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then let running answers end."""
    settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # whitenoise warns of a missing folder
    config = uvicorn.Config(
        "respan.asgi:application",
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,  # ours is installed by Django's set-up
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whom to believe is RESPAN_TRUSTED_PROXIES' affair
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
    )
    uvicorn.Server(config).run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket (nobody is let in before a server listens on it).

    Raises: OSError when the address is taken or not ours.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def main(arguments: list[str]) -> None:
    """Run `python -m respan.web [--fd NUMBER]`."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "respan.settings")
    given = arguments[:1] == ["--fd"]
    serve(socket.socket(fileno=int(arguments[1])) if given else bind(settings.HOST, settings.PORT))


if __name__ == "__main__":
    main(sys.argv[1:])
