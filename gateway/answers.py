"""What goes back to the client: headers that may be seen, a provider's refusal without its keys, a stream.

Never decides what a call is or costs; `Relay` closes its call, with what the stream said, before the last byte leaves.
Neighbours: `call.py` (whose answers these are), `upstream.py` (blocks from the provider), `respan/asgi.py` (sends).
"""

import re
import time
from collections.abc import Callable, ItemsView
from functools import cached_property
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import httpx
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import ResponseHeaders

from gateway import breakdown, upstream
from gateway.dialects import wire
from gateway.dialects.registry import EVENTS
from respan.errors import Error
from respan.messages import raw_headers

if TYPE_CHECKING:
    from gateway.call import Call

LOG_ID = "X-Respan-Log-Id"
MAX_ERROR_BYTES = 256 * 1024
# Fragments of keys that providers put into their error messages.
_KEY_FRAGMENT = re.compile(rb"\b(?:sk|gsk|xai|pk|key)-?[A-Za-z0-9_-]*[*.]{2,}[A-Za-z0-9_-]*|\bsk-[A-Za-z0-9_-]{16,}")

_KEY_TROUBLE = frozenset({401, 402, 403})
_PASSED_ON = frozenset({b"retry-after", b"retry-after-ms", b"x-should-retry"})
# With an own key its account's headers are the caller's business too.
_PASSED_ON_WITH_OWN_KEY = frozenset({b"openai-processing-ms", b"openai-version"})
_LIMITS = (b"x-ratelimit-", b"anthropic-ratelimit-")
_REQUEST_IDS = frozenset({b"x-request-id", b"request-id", b"x-amzn-requestid", b"apim-request-id"})


class CallFailed(Error):
    """The provider answered with an error: same status family, its message, never a key.

    `body` is the provider's own body where it may be shown as it came.
    """

    code = "upstream_error"

    def __init__(self, status: int, message: str, *, body: bytes | None, headers: dict[str, str]) -> None:
        super().__init__(message, headers=headers)
        self.status = status  # type: ignore[misc]
        self.body = body
        self.upstream_status = status
        self.retry_after_s: float | None = None


async def refused(call: "Call", response: httpx.Response, *, provider: str, headers: dict[str, str]) -> CallFailed:
    """Turn a provider's refusal into ours.

    With an own key and one dialect its body goes on as it came, less what looks like a key. On credits the operator's
    troubles with a key (401, 402, 403) are not the caller's: 502, and nothing of the provider's text.
    """
    body = await upstream.read(response, MAX_ERROR_BYTES)
    status = response.status_code
    if status in _KEY_TROUBLE and call.target is not None and call.target.paid_by != "own_key":
        message = f"{provider} refused the operator's key ({status}). Tell the operator of this installation."
        return CallFailed(502, message, body=None, headers={})
    return failed(call, without_keys(body, call.secret), f"{provider} answered {status}.", headers, status=status)


def failed(call: "Call", body: bytes, message: str, headers: dict[str, str], *, status: int = 502) -> CallFailed:
    """Return the error that a provider's body tells of, or `message` where it tells nothing; keys are out already."""
    exchange, errors = call.exchange, call.client.errors
    told = exchange.error_message(body) if exchange is not None else None
    is_shown = exchange is not None and exchange.is_passed and errors.is_body(body)
    return CallFailed(status, told or message, body=body if is_shown else None, headers=headers)


def passed_on(response: httpx.Response, *, own_key: bool) -> dict[str, str]:
    """Return the provider's headers that a client may see. One pass: httpx's look-up by name costs a pass each."""
    headers = {}
    for raw_name, value in raw_headers(response):
        name = raw_name.lower()
        if name in _PASSED_ON or (own_key and (name in _PASSED_ON_WITH_OWN_KEY or name.startswith(_LIMITS))):
            headers[name.decode("ascii")] = value.decode("latin-1")
        elif own_key and name in _REQUEST_IDS:
            headers["X-Respan-Upstream-Request-Id"] = value.decode("latin-1")
    return headers


def content_type(response: httpx.Response) -> str:
    """Return what a provider calls its answer, JSON when it does not say."""
    for name, value in raw_headers(response):
        if name.lower() == b"content-type":
            return value.decode("latin-1")
    return "application/json"


def without_keys(body: bytes, secret: str) -> bytes:
    """Return a provider's error without the key it was sent and without fragments of keys."""
    if secret:
        body = body.replace(secret.encode(), b"***")
    return _KEY_FRAGMENT.sub(b"***", body)


# Told once when a stream is over: whether it was complete, and its bytes where they were kept and not too many.
OnEnd = Callable[[bool, bytes | None], None]


class Copy:
    """The bytes of a stream that went to the client, as long as they are at most `limit`."""

    __slots__ = ("_parts", "_size", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self.limit:
            self._parts.append(part)
        else:
            self._parts.clear()

    def bytes(self) -> bytes | None:
        """Return what was kept; None when it was too much."""
        return b"".join(self._parts) if self._size <= self.limit else None


def _told(error: httpx.TransportError | wire.InvalidStream) -> Error:
    """Return what a client is told of a stream that broke."""
    if isinstance(error, httpx.TransportError):
        return upstream.failure(error)
    return upstream.UpstreamInvalid(str(error))


class Relay:
    """A provider's stream on its way to the client. `aclose()` is called whether it was ever started or not."""

    __slots__ = ("call", "copy", "ended", "next_block", "on_end", "pending", "reader", "response")

    def __init__(self, call: "Call", response: httpx.Response, reader: wire.StreamReader) -> None:
        self.call = call
        self.response = response
        self.reader = reader
        self.next_block = upstream.next_block(response)
        self.ended = False
        self.pending = b""  # read before the answer began
        self.copy: Copy | None = None
        self.on_end: list[OnEnd] = []

    def keep(self, limit: int, on_end: OnEnd) -> None:
        """Keep what goes to the client, up to `limit` bytes, and tell `on_end` once, when the stream is over."""
        self.copy = Copy(max(limit, self.copy.limit if self.copy else 0))
        self.on_end.append(on_end)

    async def begin(self) -> None:
        """Read until the answer itself has begun: before that another target may answer instead.

        Raises: Error, for a provider that fails before; it is closed then.
        """
        try:
            await self._read_beginning()
        except StopAsyncIteration:
            await self._give_up(self._unfinished())
        except (httpx.TransportError, wire.InvalidStream) as error:
            await self._give_up(_told(error))
        except BaseException:
            await self.response.aclose()
            raise
        # What fails with its first events in one block has begun all the same: when it comes in two must not matter.
        if self.reader.error is not None and not self.reader.started:
            message = without_keys(self.reader.error.encode(), self.call.secret).decode()
            await self._give_up(CallFailed(502, message, body=None, headers={}))
        if self._is_nothing():
            await self._give_up(upstream.UpstreamInvalid("The provider ended its stream without an answer."))

    def _is_nothing(self) -> bool:
        """Tell whether the stream says that it is complete, and has said nothing else."""
        if self.call.client.kind != "chat" or not self.reader.complete:
            return False
        said = self.reader.answer()
        return said.finish_reason is None and not said.output_text

    async def _read_beginning(self) -> None:
        reader, call = self.reader, self.call
        while not (reader.started or reader.saw_done or reader.error is not None):
            if time.monotonic() > call.deadline:
                raise upstream.UpstreamTimeout
            self.pending += reader.feed(await self.next_block())
        call.ttft_us = int((time.monotonic() - call.started) * 1_000_000)

    async def _give_up(self, error: Error) -> None:
        self.ended = True
        await self.response.aclose()
        raise error

    def _unfinished(self) -> Error:
        return upstream.UpstreamDisconnected("The provider ended its stream before the answer's end.")

    def __aiter__(self) -> "Relay":
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes for the client; the call is closed before the last of them are released."""
        reader, call = self.reader, self.call
        if self.pending:
            return self._begun()
        while not self.ended:
            try:
                # The transport stops a silent provider; one that never ends is stopped here.
                if time.monotonic() > call.deadline:
                    return self._broken(upstream.UpstreamTimeout())
                forward = reader.feed(await self.next_block())
                if reader.error is not None:
                    forward = self._shown(forward)
            except StopAsyncIteration:
                return self._finish(self._shown(reader.end()))
            except (httpx.TransportError, wire.InvalidStream) as error:
                return self._broken(_told(error))
            if reader.saw_done:
                return self._finish(forward)
            if forward:
                if self.copy is not None:
                    self.copy.add(forward)
                return forward
        raise StopAsyncIteration

    def _begun(self) -> bytes:
        """Return what was read before the answer began."""
        first, self.pending = self._shown(self.pending), b""
        if self.reader.saw_done:
            return self._finish(first)
        if self.copy is not None:
            self.copy.add(first)
        return first

    def _finish(self, last: bytes) -> bytes:
        self.ended = True
        if self.reader.complete:
            self._close("ok")
            if breakdown.is_wanted(self.call):
                found = breakdown.of(self.call, self.reader.answer(), kept=self.reader.assembled())
                last = breakdown.in_events(last, found)
            if self.on_end:
                self._tell_end(last)
            return last
        if self.reader.error is not None:  # the provider said so itself, and the client has read it
            message = self._shown(self.reader.error.encode()).decode()
            self._close("error", CallFailed(502, message, body=None, headers={}))
            return last
        return last + self._broken(self._unfinished())

    def _tell_end(self, last: bytes | None) -> None:
        """Tell once how the stream has ended; `last` are the last bytes of a complete one."""
        told, self.on_end = self.on_end, []
        if last is not None and self.copy is not None:
            self.copy.add(last)
        kept = self.copy.bytes() if self.copy is not None and last is not None else None
        for on_end in told:
            on_end(last is not None, kept)

    def _shown(self, data: bytes) -> bytes:
        """Return what may be seen: once the provider tells of an error, it may repeat the key it was sent."""
        return data if self.reader.error is None else without_keys(data, self.call.secret)

    def _broken(self, error: Error) -> bytes:
        """End in-band and without `[DONE]`: a truncated answer must not look complete."""
        self.ended = True
        self._close("error", error)
        return self.call.client.errors.in_stream(status=error.status, code=error.code, message=error.message)

    def _close(self, status: str, error: Error | None = None) -> None:
        if status != "ok":
            if self.on_end:
                self._tell_end(None)
            self.call.stumbled(status)
        body = self._shown(self.reader.assembled()) if not self.call.params.disable_log else None
        self.call.close(status=status, error=error, answer=self.reader.answer(), response_body=body)

    def close_at_once(self) -> bool:
        """Close if that needs no waiting, as after a whole answer; tell whether it did. Else `aclose` has to."""
        return self.call.closed and self.reader.saw_done and upstream.finish_at_once(self.response)

    async def aclose(self) -> None:
        """Close the call, as aborted if its end was not reached, and cancel the provider if it still sends."""
        if not self.call.closed:
            self.ended = True
            self._close("aborted")
        if self.reader.saw_done:
            await upstream.finish(self.response)
        else:
            await self.response.aclose()


class WholeAnswer(HttpResponse):
    """A whole answer whose headers are taken as they are; Django's form of them is made only for who asks."""

    def __init__(self, content: bytes, *, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.given = headers
        self._container = [content]
        self._charset = self._reason_phrase = self._handler_class = None
        self._resource_closers: list[Any] = []
        self.closed = False

    @cached_property
    def headers(self) -> ResponseHeaders:  # type: ignore[override]
        return ResponseHeaders(self.given)

    @cached_property
    def cookies(self) -> SimpleCookie:  # type: ignore[override]
        return SimpleCookie()

    def items(self) -> ItemsView[str, str]:
        return self.headers.items() if "headers" in self.__dict__ else self.given.items()


class StreamAnswer(StreamingHttpResponse):
    """A streamed answer the lean handler relays block by block; Django's own handler can serve it too."""

    def __init__(self, relay: Relay, *, headers: dict[str, str], content_type: str) -> None:
        super().__init__(relay, content_type=content_type, headers=headers)
        self.relay = relay
        # What the handler sends while the provider is silent; never within a stream of sound.
        self.filler = relay.call.client.filler if content_type.startswith(EVENTS) else b""
        self["X-Accel-Buffering"] = "no"
        self["Cache-Control"] = "no-cache"
