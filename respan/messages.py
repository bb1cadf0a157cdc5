"""httpx's request and response for the hot path: what nobody asks of them is never made.

Part of the floor. A `Post` takes its address and its headers as they are, a `Reply` the raw headers of an answer; the
forms of httpx are made when somebody looks (tests, the sandbox). Building them for each call took a twentieth of its
CPU. Never opens a socket. Neighbours: `outbound.py` (sends one, returns the other), `gateway.upstream`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import httpx

RawHeaders = Sequence[tuple[bytes, bytes]]


class Post(httpx.Request):
    """A POST. `address` is an URL as httpx would write it; `given` are headers, their names in lower case."""

    def __init__(
        self, address: str, *, headers: Mapping[str, str], body: bytes, limits: Mapping[str, float | None]
    ) -> None:
        self.method = "POST"
        self.address = address
        self.given = headers
        # The transport takes the bytes from here: reading a stream would copy them.
        self.extensions: dict[str, Any] = {"timeout": limits, "body": body}

    @cached_property
    def url(self) -> httpx.URL:  # type: ignore[override]
        return httpx.URL(self.address)

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        return httpx.Headers(self.given)

    @cached_property
    def stream(self) -> httpx.ByteStream:  # type: ignore[override]
        return httpx.ByteStream(self.extensions["body"])


class Reply(httpx.Response):
    """An answer with its body unread."""

    def __init__(
        self, status: int, raw_headers: RawHeaders, stream: httpx.AsyncByteStream, request: httpx.Request
    ) -> None:
        self.status_code = status
        self.raw_headers = raw_headers
        self.stream = stream
        self._request = request
        self.next_request = None
        self.extensions = {}
        self.history = []
        self.is_closed = self.is_stream_consumed = False
        self.default_encoding = "utf-8"
        self._num_bytes_downloaded = 0

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        return httpx.Headers(list(self.raw_headers))

    async def aclose(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            assert isinstance(self.stream, httpx.AsyncByteStream)  # noqa: S101  (for the type checker)
            await self.stream.aclose()


def raw_headers(response: httpx.Response) -> RawHeaders:
    """Return the headers of any answer as they came."""
    return response.raw_headers if isinstance(response, Reply) else response.headers.raw
