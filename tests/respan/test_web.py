"""The web process: a bounded head, and sockets that belong to nobody else."""

import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from respan import web

pytestmark = pytest.mark.django_db(transaction=True)


def _connect(server: Any) -> socket.socket:
    address = urlsplit(server.base_url)
    return socket.create_connection((address.hostname, address.port), timeout=10)


def _answer(client: socket.socket) -> bytes:
    """Read one whole answer (its head and its body may come apart)."""
    answer = b""
    while not answer.endswith(b"}"):
        answer += client.recv(4096)
    return answer


def test_endless_head_is_refused(server: Any) -> None:
    with _connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
        answer = b""
        try:
            for _ in range(100):
                client.sendall(b"a" * 8192)
                time.sleep(0.001)
        except OSError:
            pass
        try:
            answer = client.recv(4096)
        except ConnectionResetError:
            return  # the answer was overtaken by the reset; what matters is that nobody listens any more
        assert b"431" in answer


def test_usual_large_head_is_served(server: Any) -> None:
    with _connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * 30_000 + b"\r\n\r\n")
        assert _answer(client).startswith(b"HTTP/1.1 200")


def test_head_in_many_pieces_is_served(server: Any) -> None:
    with _connect(server) as client:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n":
            client.sendall(bytes([byte]))
        assert _answer(client).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert _answer(client).startswith(b"HTTP/1.1 200")


def test_server_does_not_tell_what_it_runs(server: Any) -> None:
    with _connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"\r\nserver:" not in _answer(client).lower()


def test_taken_port_is_refused() -> None:
    with web.bind("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(OSError, match="in use"):
            web.bind("127.0.0.1", first.getsockname()[1])


def test_two_processes_share_the_port_and_either_may_die(running: Callable[..., Any]) -> None:
    from tests.servers import status

    server = running(web_processes=2)
    server.kill("web-1")
    for _ in range(20):
        assert status(server.base_url, "/healthz") == 200
