"""Sending a call to a provider: the deadline of the whole, and errors that a client can be told.

Responsible for turning what a transport raises into errors with a status and a stable code, and for reading a whole
answer within a limit. Never opens a socket itself (`respan.outbound`, `gateway.sandbox` do), never looks into a body
(`gateway.dialects` does), never chooses a provider. Neighbour: `gateway.call`.

    UpstreamError 502 upstream_error
    ├── UpstreamUnreachable   502 upstream_unreachable    nothing was sent: name, connection, certificate
    ├── UpstreamTimeout       504 upstream_timeout        no connection, head or block in time, or the call's deadline
    ├── UpstreamDisconnected  502 upstream_disconnected   dropped after sending, or in the middle of the answer
    ├── UpstreamInvalid       502 upstream_invalid        an answer that cannot be read
    └── UpstreamBusy          503 upstream_busy           too many calls are open in this process
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import httpx

from respan.errors import Error
from respan.messages import Post
from respan.outbound import AddressRefused, Body, Dropped, ForbiddenAddress

# Waiting for the end of a stream whose last event has come: it saves a new connection (and TLS) for the next call.
FINISH_GRACE_S = 0.05


class UpstreamError(Error):
    """The provider could not be made to answer."""

    status = 502
    code = "upstream_error"
    message = "The provider could not be called."


class UpstreamUnreachable(UpstreamError):
    """No connection: the name, the network, or the certificate. Nothing was sent."""

    code = "upstream_unreachable"
    message = "The provider cannot be reached."


class UpstreamTimeout(UpstreamError):
    """The provider took longer than the time-outs allow."""

    status = 504
    code = "upstream_timeout"
    message = "The provider did not answer in time."


class UpstreamDisconnected(UpstreamError):
    """The provider dropped the connection after the call was sent."""

    code = "upstream_disconnected"
    message = "The provider closed the connection before its answer was complete."


class UpstreamInvalid(UpstreamError):
    """The provider's answer cannot be read."""

    code = "upstream_invalid"
    message = "The provider's answer cannot be read."


class UpstreamBusy(UpstreamError):
    """This process has as many calls open as it may have."""

    status = 503
    code = "upstream_busy"
    message = "Too many calls are open to providers at the moment. Try again in a second."


def post(address: str, *, headers: Mapping[str, str], body: bytes, limits: Mapping[str, float | None]) -> httpx.Request:
    """Build a POST to an address as `outgoing` has written it; the names of headers are in lower case."""
    return Post(address, headers=headers, body=body, limits=limits)


async def send(request: httpx.Request, *, transport: httpx.AsyncBaseTransport, deadline: float) -> httpx.Response:
    """Send a request and return the response with its body unread; `deadline` is in seconds of `time.monotonic()`.

    The caller must `aclose()` the response. Raises: UpstreamError, ForbiddenAddress.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise UpstreamTimeout
    limits = request.extensions.get("timeout") or {}
    total = limits.get("total")
    request.extensions["timeout"] = {**limits, "total": left if total is None else min(left, total)}
    try:
        return await transport.handle_async_request(request)
    except httpx.TransportError as error:
        raise failure(error) from error


def next_block(response: httpx.Response) -> Callable[[], Awaitable[bytes]]:
    """Return the function that waits for the next block of a response's body.

    It raises what the transport raises (`failure` says what a client is told) and StopAsyncIteration at the end. Not an
    iterator of its own: each layer around a block is paid for each event of a stream.
    """
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101  (for the type checker)
    return aiter(response.stream).__anext__


class Blocks:
    """The body of a response, block by block, raising what a client can be told."""

    __slots__ = ("_deadline", "_next")

    def __init__(self, response: httpx.Response, deadline: float | None) -> None:
        self._deadline = deadline
        self._next = next_block(response)

    def __aiter__(self) -> "Blocks":
        return self

    async def __anext__(self) -> bytes:
        """Return the next block. Raises: StopAsyncIteration at the end, UpstreamError."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise UpstreamTimeout
        try:
            return await self._next()
        except httpx.TransportError as error:
            raise failure(error) from error


def blocks(response: httpx.Response, *, deadline: float | None = None) -> AsyncIterator[bytes]:
    """Return the body of a response as an iterator of blocks that raises UpstreamError.

    A silent provider is the transport's business; `deadline` (of `time.monotonic()`) also stops one that never ends.
    """
    return Blocks(response, deadline)


async def read(response: httpx.Response, limit: int) -> bytes:
    """Read a whole body of at most `limit` bytes and close the response. Raises: UpstreamError."""
    parts: list[bytes] = []
    size = 0
    try:
        async for block in blocks(response):
            size += len(block)
            if size > limit:
                raise UpstreamInvalid(f"The provider's answer is larger than {limit} bytes.")
            parts.append(block)
    finally:
        await response.aclose()
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def finish(response: httpx.Response) -> None:
    """Close a response whose last event was seen; its end gets a moment to arrive, so that the connection is kept."""
    try:
        async with asyncio.timeout(FINISH_GRACE_S):
            async for _ in blocks(response):
                pass
    except (TimeoutError, Error):
        pass
    finally:
        await response.aclose()


def finish_at_once(response: httpx.Response) -> bool:
    """Close a response whose end has arrived already, and tell whether it had: the usual case of `finish`."""
    stream = response.stream
    if not isinstance(stream, Body) or not stream.has_ended:
        return False
    stream.close()
    return True


def failure(error: httpx.TransportError) -> Error:
    """Return the error a client is told for what a transport raised. Never repeats a URL or an address of ours."""
    if isinstance(error, AddressRefused):
        return ForbiddenAddress(str(error))
    if isinstance(error, httpx.PoolTimeout):
        return UpstreamBusy(headers={"Retry-After": "1"})
    if isinstance(error, httpx.TimeoutException):
        return UpstreamTimeout()
    if isinstance(error, httpx.ConnectError):
        return UpstreamUnreachable()
    if isinstance(error, httpx.NetworkError | Dropped):
        return UpstreamDisconnected()
    if isinstance(error, httpx.RemoteProtocolError):
        return UpstreamInvalid()
    return UpstreamError()
