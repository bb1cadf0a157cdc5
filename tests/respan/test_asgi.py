"""The lean handler from outside, over raw sockets: bodies that dawdle, clients that leave or read nothing, shutdown."""

import json
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

from tests.provider import Provider
from tests.servers import wait_until
from tests.stack import OWN_KEY, call, environment

LIMITS = {
    "RESPAN_BODY_TIMEOUT_S": "0.5",
    "RESPAN_MAX_BODY_BYTES": "20000",
    "RESPAN_WRITE_STALL_TIMEOUT_S": "1",
}
PATH = "/api/chat/completions"


@pytest.fixture(scope="module")
def provider():
    started = Provider().start()
    yield started
    started.stop()


@pytest.fixture
def web(running, provider, tmp_path):
    """A web process with short limits."""
    provider.requests.clear()
    return running(env=environment(tmp_path, provider) | LIMITS, shipper=True, worker=True)


@pytest.fixture
def key(web, provider, cast, transactional_db, settings):
    """An API key of an organization with a custom provider called `local`."""
    from accounts import keys
    from gateway import credentials

    settings.RESPAN_UPSTREAM_ALLOW = [provider.address]
    credentials.store(
        organization=cast.organization,
        provider="custom",
        name="local",
        secret=credentials.Secret(OWN_KEY),
        base_url=provider.base_url,
        actor=cast.owner,
        address=None,
    )
    issued = keys.issue(organization=cast.organization, name="k", environment="production", created_by=cast.owner)
    return issued.secret


def connect(web):
    parts = urlsplit(web.base_url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def head(key, *fields, method="POST"):
    lines = [f"{method} {PATH} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def body(model, **members):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}], **members}).encode()


def read_all(connection):
    data = b""
    while block := connection.recv(65536):
        data += block
    return data


def test_the_handler_keeps_its_promises_on_the_wire(web, key, provider):
    check_methods_and_pipelining(web, key)
    check_a_body_that_does_not_arrive(web, key)
    check_a_body_that_is_too_large(web, key)
    check_a_body_in_pieces(web, key)
    check_a_client_that_leaves_before_the_answer(web, key, provider)
    check_a_client_that_reads_nothing(web, key)
    check_a_shutdown(web, key)


def check_methods_and_pipelining(web, key):
    content = body("sandbox/echo")
    post = head(key, f"Content-Length: {len(content)}") + content
    with connect(web) as connection:
        connection.sendall(post + post + head(key, method="PUT") + head(key, "Connection: close", method="OPTIONS"))
        answers = read_all(connection)
    statuses = [part.split(b" ")[0] for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"405", b"204"]


def check_a_body_that_does_not_arrive(web, key):
    began = time.monotonic()
    with connect(web) as connection:
        connection.sendall(head(key, "Content-Length: 100") + b"{")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer
    assert time.monotonic() - began < 5


def check_a_body_that_is_too_large(web, key):
    with connect(web) as connection:
        connection.sendall(head(key, "Transfer-Encoding: chunked"))
        answer = b""
        try:
            for _ in range(100):
                connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            answer = connection.recv(65536)
        except ConnectionError:
            pass  # closed while we were still sending
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413")
    assert call(f"{web.base_url}{PATH}", key=key, body=body("sandbox/echo")).status == 200


def check_a_body_in_pieces(web, key):
    content = body("sandbox/echo")
    with connect(web) as connection:
        connection.sendall(head(key, f"Content-Length: {len(content)}", "Connection: close"))
        for position in range(len(content)):
            connection.sendall(content[position : position + 1])
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200")


def check_a_client_that_leaves_before_the_answer(web, key, provider):
    provider.requests.clear()
    content = body("local/fake:silence")
    with connect(web) as connection:
        connection.sendall(head(key, f"Content-Length: {len(content)}") + content)
        wait_until(lambda: provider.requests, what="the provider to be called")
    left_at = time.monotonic()
    wait_until(lambda: provider.last.gone_at, timeout_s=5, what="the provider to be cancelled")
    assert provider.last.gone_at - left_at < 1


def check_a_client_that_reads_nothing(web, key):
    content = body("local/fake:chunks=60000", stream=True)
    with connect(web) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head(key, f"Content-Length: {len(content)}") + content)
        wait_until(lambda: aborted_streams(web, key) == 1, timeout_s=20, what="the client to be given up")


def aborted_streams(web, key):
    rows = call(f"{web.base_url}/api/request-logs/list/", key=key, body=b"{}").json["results"]
    return sum(1 for row in rows if row["stream"] and row["error_code"] == "client_closed")


def check_a_shutdown(web, key):
    """SIGTERM lets an open stream end; nobody new is let in."""
    content = body("local/fake:chunks=40,interval=0.05", stream=True)
    received = []

    def stream():
        received.append(call(f"{web.base_url}{PATH}", key=key, body=content))

    reader = threading.Thread(target=stream)
    reader.start()
    time.sleep(0.6)
    web.processes["web"].send_signal(signal.SIGTERM)
    reader.join(20)
    assert received[0].body.rstrip().endswith(b"data: [DONE]")
    assert web.processes["web"].wait(20) in (0, -signal.SIGTERM)
