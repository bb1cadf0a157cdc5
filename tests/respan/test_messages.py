"""`respan.messages`: the request and the response of the hot path read as httpx's own do, made or not.

Neighbours: `respan/messages.py`, `test_outbound.py` (sends them over sockets).
"""

import httpx

from respan.messages import Post, Reply, raw_headers

ADDRESS = "https://api.example.com/v1/chat%20completions?beta=true"


class Closing(httpx.AsyncByteStream):
    def __init__(self):
        self.closed = 0

    async def __aiter__(self):
        yield b"one"
        yield b"two"

    async def aclose(self):
        self.closed += 1


def post():
    return Post(ADDRESS, headers={"content-type": "application/json"}, body=b"{}", limits={"total": 1.0})


def test_a_post_reads_as_a_request_of_httpx_does():
    request = post()
    usual = httpx.Request("POST", ADDRESS, headers={"content-type": "application/json"}, content=b"{}")
    assert (request.method, request.url, request.read()) == (usual.method, usual.url, usual.content)
    assert str(request.url) == ADDRESS
    assert request.headers["Content-Type"] == usual.headers["Content-Type"]
    assert request.extensions == {"timeout": {"total": 1.0}, "body": b"{}"}


def test_a_reply_reads_as_a_response_of_httpx_does():
    raw = ((b"Content-Type", b"text/plain"), (b"X-One", b"1"), (b"x-one", b"2"))
    reply = Reply(207, raw, Closing(), post())
    usual = httpx.Response(207, headers=list(raw))
    assert (reply.status_code, reply.headers) == (usual.status_code, usual.headers)
    assert raw_headers(reply) is raw
    assert raw_headers(usual) == list(raw)
    assert reply.request.method == "POST"
    assert not reply.is_error


async def test_a_reply_is_read_to_its_end_and_closed_once():
    stream = Closing()
    reply = Reply(200, (), stream, post())
    assert await reply.aread() == b"onetwo"
    await reply.aclose()
    await reply.aclose()
    assert stream.closed == 1
    assert reply.is_closed
