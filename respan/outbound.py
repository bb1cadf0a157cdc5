"""The one safe way out: an httpx transport over one aiohttp session per event loop and policy.

Responsible for where a connection may go (checked on the address really dialled, never on a name), for the socket, for
timeouts per phase, and for turning every aiohttp failure into the httpx exception that says what happened. Never
follows a redirect, keeps a cookie, reads a proxy variable or decodes a body; knows no provider and no credential.
Neighbours: `gateway.upstream` sends calls through it; `gateway.credentials` asks `check_url` when a URL is saved.

`request.extensions["timeout"]` holds seconds: `connect` (name, TCP, TLS), `first_byte` (until the head, and again until
the first block of the body), `read` (between blocks), `total` (until the end of the body).
"""

import asyncio
import contextlib
import io
import ipaddress
import os
import re
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import aiohttp
import certifi
import httpx
from aiohttp.abc import AbstractResolver
from django.conf import settings
from multidict import CIMultiDict
from yarl import URL

from respan.errors import Error
from respan.loops import OfLoop
from respan.messages import Post, Reply

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PORTS = frozenset({443, 8443})
KEEPALIVE_S = 15.0
# How long a request waits for a free place under RESPAN_UPSTREAM_MAX_CONCURRENCY.
ADMISSION_TIMEOUT_S = 2.0
MAX_HEADER_BYTES = 64 * 1024
# Back-pressure: reading from a provider stops while twice this waits for a slow client.
READ_BUFFER_BYTES = 64 * 1024
# aiohttp wants larger bodies as a file, which it sends in pieces.
_LARGE_BODY_BYTES = 512 * 1024

# What every parser reads the same way: no userinfo, no escapes, no query, no fragment, nothing but ASCII.
_PLAIN_URL = re.compile(
    r"(?P<scheme>[a-z]+)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/[a-z0-9._~!$&'()*+,;=:@/-]*)?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # NAT64 (64:ff9b::/96), mapped and local addresses lie outside
_DENIED = (
    ipaddress.ip_network("2002::/16"),  # 6to4: wraps any IPv4 address, `is_global` does not look inside
    ipaddress.ip_network("2001::/23"),  # protocol assignments, Teredo among them
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays
)


class ForbiddenAddress(Error):
    """A URL points where Respan must not connect to."""

    status = 400
    code = "forbidden_address"


class AddressRefused(httpx.ConnectError):
    """The address behind a URL, as dialled, is one this policy forbids. Nothing was sent."""


class Dropped(httpx.RemoteProtocolError):
    """The other side ended the connection after the request was sent and before its answer was complete."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be dialled besides public addresses: `allow` lists `host:port`, `loopback` is this host, any port."""

    allow: frozenset[str] = frozenset()
    loopback: bool = False


PUBLIC = Policy()


def check_url(url: str, policy: Policy = PUBLIC) -> None:
    """Check a base URL that somebody wants to save. The address behind a name is checked when it is dialled.

    Raises: ForbiddenAddress, saying what to change.
    """
    match = _PLAIN_URL.fullmatch(url)
    if match is None:
        raise ForbiddenAddress(
            "Give a plain URL such as https://api.example.com/v1: no user name, no query, no percent signs, no spaces."
        )
    scheme = match["scheme"].lower()
    port = int(match["port"]) if match["port"] else 443 if scheme == "https" else 80
    _check_origin(scheme, match["host"].strip("[]").lower(), port, _effective(policy))


def transport(policy: Policy = PUBLIC) -> "Transport":
    """Return the transport for a policy; `RESPAN_UPSTREAM_ALLOW` is part of every policy."""
    return _transport(_effective(policy))


@lru_cache(maxsize=256)
def _transport(policy: Policy) -> "Transport":
    return Transport(policy)


async def close() -> None:
    """Close this loop's sessions (lifespan shutdown, end of a test)."""
    here = _here.pop()
    for session in here.sessions.values() if here else ():
        await session.close()


# --- Where a connection may go --------------------------------------------------------------------------------------


def _effective(policy: Policy) -> Policy:
    return _merged(policy, tuple(settings.RESPAN_UPSTREAM_ALLOW))


@lru_cache(maxsize=256)
def _merged(policy: Policy, allow: tuple[str, ...]) -> Policy:
    return Policy(frozenset(_entry(text) for text in (*policy.allow, *allow)), policy.loopback)


def _entry(text: str) -> str:
    host, _, port = text.strip().lower().rpartition(":")
    host = host.strip("[]")
    return f"{_literal(host) or host}:{port}"


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if any(address.version == network.version and address in network for network in _DENIED):
        return False
    return address.is_global and not address.is_multicast


def _permits(policy: Policy, address: Address, port: int) -> bool:
    """Tell whether the policy allows an address by itself, public or not."""
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    return (policy.loopback and address.is_loopback) or f"{address}:{port}" in policy.allow


@lru_cache(maxsize=4_096)
def _check_origin(scheme: str, host: str, port: int, policy: Policy) -> bool:
    """Check scheme, host and port; return whether the operator allowed this name and port by hand.

    Raises: ForbiddenAddress.
    """
    if scheme not in ("http", "https"):
        raise ForbiddenAddress("The URL must start with https://.")
    literal = _literal(host)
    if f"{literal or host}:{port}" in policy.allow:
        return True
    if literal is not None and _permits(policy, literal, port):
        return False
    if policy.loopback and (host == "localhost" or host.endswith(".localhost")):
        return False
    remedy = f"An operator can allow it with RESPAN_UPSTREAM_ALLOW={host}:{port}."
    if literal is not None and not _is_public(literal):
        raise ForbiddenAddress(f"{host} is not a public address. {remedy}")
    if literal is None and not _is_public_name(host):
        raise ForbiddenAddress(f"{host} is not a public host name. {remedy}")
    if scheme != "https":
        raise ForbiddenAddress(f"The URL must start with https://. {remedy}")
    if port not in PORTS:
        raise ForbiddenAddress(f"Port {port} is not allowed, only 443 and 8443. {remedy}")
    return False


def _is_public_name(host: str) -> bool:
    labels = host.split(".")
    return (
        len(labels) > 1
        and len(host) <= 253
        and all(_LABEL.fullmatch(label) for label in labels)
        and not _NUMBER.fullmatch(labels[-1])  # 0x7f.1 and its kin: some parsers read an address
        and labels[-1] != "localhost"
    )


def _socket_factory(policy: Policy) -> Callable[[Any], socket.socket]:
    """Return the function that makes each socket: it sees the address really dialled, after every lookup."""

    def make(info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, target = info
        address = ipaddress.ip_address(target[0])
        dial = _dial.get()
        if not (dial.named or _is_public(address) or _permits(policy, address, target[1])):
            dial.refused = True
            raise OSError(f"{address} is not a public address")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A model may think for minutes: keep what lies between awake, and notice a host that is gone.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5)):
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return made

    return make


# --- Sessions -------------------------------------------------------------------------------------------------------


class _Dial:
    """What one request learns of its connection; carried to the connector and its tasks by a context variable."""

    __slots__ = ("expired", "fresh", "head", "named", "refused", "reused", "transport")

    def __init__(self, *, named: bool) -> None:
        self.named = named  # the operator allowed this host and port by hand
        self.fresh = False  # insist on a new connection
        self.reused = False
        self.expired = False
        self.refused = False
        self.transport: asyncio.Transport | None = None
        self.head: aiohttp.ClientResponse | None = None

    def expire(self) -> None:
        """End the request: its total time is over."""
        self.expired = True
        if self.head is not None:
            self.head.content.set_exception(aiohttp.SocketTimeoutError("The answer took too long."))
            _abort(self.head)
        elif self.transport is not None:
            self.transport.abort()


_dial: ContextVar[_Dial] = ContextVar("_dial")


class _Connector(aiohttp.TCPConnector):
    """aiohttp's pool, telling each request whether its connection is a used one, or insisting on a new one."""

    def __init__(self, *, resolver: AbstractResolver, policy: Policy) -> None:
        super().__init__(
            limit=0,  # our own cap counts open answers, not sockets
            keepalive_timeout=KEEPALIVE_S,
            use_dns_cache=False,
            resolver=resolver,
            socket_factory=_socket_factory(policy),
            ssl=_tls(),
        )
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109  (aiohttp's signature)
        dial = _dial.get()
        dial.transport = None
        passed_over = []
        try:
            while True:
                connection = await super().connect(req, traces, timeout)
                dial.reused = connection.protocol in self._known
                if not (dial.fresh and dial.reused):
                    break
                passed_over.append(connection)
        finally:
            for other in passed_over:
                other.release()
        if not dial.reused:
            self._known.add(connection.protocol)
        dial.transport = connection.transport
        return connection


class _Here:
    """What belongs to one event loop: its sessions, and the places for open answers."""

    def __init__(self) -> None:
        self.sessions: dict[Policy, aiohttp.ClientSession] = {}
        self.places = asyncio.Semaphore(settings.RESPAN_UPSTREAM_MAX_CONCURRENCY)

    def session(self, policy: Policy) -> aiohttp.ClientSession:
        session = self.sessions.get(policy)
        if session is None:
            session = self.sessions[policy] = aiohttp.ClientSession(
                connector=_Connector(resolver=aiohttp.ThreadedResolver(), policy=policy),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                read_bufsize=READ_BUFFER_BYTES,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            )
        return session

    async def admit(self) -> None:
        """Take a place. Raises: httpx.PoolTimeout when none gets free in time."""
        if not self.places.locked():
            await self.places.acquire()
            return
        try:
            async with asyncio.timeout(ADMISSION_TIMEOUT_S):
                await self.places.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("Too many calls are open to providers.") from None


_here: OfLoop[_Here] = OfLoop(_Here)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Return the TLS context: the system's authorities and certifi's, or only those SSL_CERT_FILE/SSL_CERT_DIR name."""
    context = ssl.create_default_context()
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


# --- Sending --------------------------------------------------------------------------------------------------------


class Transport(httpx.AsyncBaseTransport):
    """Send requests under a policy. All transports of one policy share its session."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, and return the response with its body unread. Raises: httpx.TransportError and nothing else."""
        try:
            address = request.address if isinstance(request, Post) else str(request.url)
            url, named = _target(address, self.policy)
        except ForbiddenAddress as error:
            raise AddressRefused(error.message, request=request) from error
        limits: Mapping[str, float | None] = request.extensions.get("timeout") or {}
        dial = _Dial(named=named)
        here = _here()
        await here.admit()
        total_s = limits.get("total")
        # The one timer that ends a request as a whole, before its head or in the middle of its body.
        expiry = None if total_s is None else asyncio.get_running_loop().call_later(total_s, dial.expire)
        try:
            head = dial.head = await self._head(request, url, here.session(self.policy), limits, dial)
        except BaseException:
            here.places.release()
            if expiry is not None:
                expiry.cancel()
            raise
        body = Body(head, here.places.release, limits.get("read"), expiry)
        if head.headers.get("Content-Encoding", "identity") != "identity":
            await body.aclose()
            raise httpx.RemoteProtocolError("The answer is compressed although that was not offered.", request=request)
        return Reply(head.status, head.raw_headers, body, request)

    async def _head(
        self,
        request: httpx.Request,
        url: URL,
        session: aiohttp.ClientSession,
        limits: Mapping[str, float | None],
        dial: _Dial,
    ) -> aiohttp.ClientResponse:
        """Send and wait for the head; once more on a new connection if a used one was dropped before any of it came.

        An upstream that reads a request and then hangs up is called twice: the price of keep-alive.
        """
        headers = _headers(request)
        body = request.extensions.get("body")
        if body is None:
            body = await request.aread()
        connect, total = limits.get("connect"), limits.get("total")
        shorter = total is not None and (connect is None or total < connect)
        timeout = _timeout(total if shorter else connect, limits.get("first_byte"))
        try:
            try:
                return await _post(session, request.method, url, headers, body, timeout, dial)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if not _was_stale(error, dial):
                    raise
            dial.fresh = True
            return await _post(session, request.method, url, headers, body, timeout, dial)
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            raise _meaning(error, dial, request) from error


@lru_cache(maxsize=4_096)
def _target(text: str, policy: Policy) -> tuple[URL, bool]:
    """Parse and check a URL once; what is checked is what is dialled. Raises: ForbiddenAddress."""
    url = URL(text, encoded=True)  # as it was signed: never escaped a second time
    return url, _check_origin(url.scheme, (url.raw_host or "").lower(), url.port or 0, policy)


async def _post(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    headers: CIMultiDict[str],
    body: bytes,
    timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  (aiohttp's: connect and gap)
    dial: _Dial,
) -> aiohttp.ClientResponse:
    _dial.set(dial)
    data = body if len(body) <= _LARGE_BODY_BYTES else io.BytesIO(body)
    try:
        return await session.request(
            method, url, data=data or None, headers=headers, allow_redirects=False, timeout=timeout
        )
    except BaseException:
        # aiohttp closes politely, which waits for a peer that does not read; this request is over now.
        if dial.transport is not None:
            dial.transport.abort()
        raise


def _was_stale(error: Exception, dial: _Dial) -> bool:
    """Tell whether a used connection was dropped before any byte of the head."""
    if not dial.reused or dial.expired or isinstance(error, aiohttp.ClientConnectorError):
        return False
    return not isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(error.message, str)


def _headers(request: httpx.Request) -> CIMultiDict[str]:
    if isinstance(request, Post):
        given = list(request.given.items())
    else:
        given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    headers = CIMultiDict([each for each in given if each[0].lower() not in _FRAMING])
    headers["Accept-Encoding"] = "identity"
    return headers


# aiohttp writes these itself, from the URL and the body.
_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


@lru_cache(maxsize=256)
def _timeout(connect: float | None, first_byte: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_read=first_byte)


def _meaning(error: Exception, dial: _Dial, request: httpx.Request | None) -> httpx.TransportError:
    """Return the httpx exception that says what happened before the head of an answer was there."""
    text = str(error) or type(error).__name__
    if dial.refused:
        # Not which address: it would tell a tenant what names mean inside the operator's network.
        return AddressRefused("The host does not resolve to a public address.", request=request)
    if dial.expired:
        return httpx.ReadTimeout("The answer took too long.", request=request)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return httpx.ConnectTimeout(text, request=request)
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx.ConnectError(text, request=request)
    if isinstance(error, TimeoutError):
        kind = httpx.ConnectTimeout if dial.transport is None else httpx.ReadTimeout
        return kind(text, request=request)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return Dropped(text, request=request)
    if isinstance(error, aiohttp.ClientResponseError):
        return httpx.RemoteProtocolError(text, request=request)
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return httpx.UnsupportedProtocol(text, request=request)
    if isinstance(error, aiohttp.ClientError | OSError):
        kind_of_loss = httpx.ConnectError if dial.transport is None else httpx.ReadError
        return kind_of_loss(text, request=request)
    # ValueError: a header with a line break in it; RuntimeError: the session was closed under us.
    return httpx.LocalProtocolError(text, request=request)


class Body(httpx.AsyncByteStream):
    """The body of an answer, in blocks as they arrive.

    Read to its end it gives its connection back to the pool; closed before, the connection is aborted at once.
    """

    def __init__(
        self,
        head: aiohttp.ClientResponse,
        release: Callable[[], None],
        gap_s: float | None,
        expiry: asyncio.TimerHandle | None,
    ) -> None:
        self._head = head
        self._content = head.content
        self._release = release
        self._gap_s = gap_s
        self._started = False
        self._closed = False
        self._expiry = expiry
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._silence: asyncio.TimerHandle | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._closed:
            raise StopAsyncIteration
        self._waiting_since = self._loop.time()
        try:
            block = await self._content.readany()
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            self.close()
            raise _loss(error) from error
        self._waiting_since = None
        if not block:
            self.close()
            raise StopAsyncIteration
        if not self._started:
            self._started = True
            self._expect_gaps()
        return block

    @property
    def has_ended(self) -> bool:
        """Whether the whole body has come and was read, so that closing it breaks nothing off."""
        return self._closed or self._content.at_eof()

    async def aclose(self) -> None:
        self.close()

    def _expect_gaps(self) -> None:
        """From the first block on, count the time between blocks; aiohttp's timer would be set anew for every block."""
        connection = self._head.connection
        if connection is None or connection.protocol is None:
            return  # all of it is here
        connection.protocol.read_timeout = None
        connection.protocol.start_timeout()
        if self._gap_s is not None:
            self._silence = self._loop.call_later(self._gap_s, _look_for_silence, weakref.ref(self), self._gap_s)

    def look_for_silence(self, gap_s: float) -> None:
        since = self._waiting_since
        left = gap_s if since is None else since + gap_s - self._loop.time()
        if left > 0:
            self._silence = self._loop.call_later(left, _look_for_silence, weakref.ref(self), gap_s)
            return
        self._content.set_exception(aiohttp.SocketTimeoutError("The answer stopped coming."))
        _abort(self._head)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for timer in (self._expiry, self._silence):
            if timer is not None:
                timer.cancel()
        _abort(self._head)  # does nothing when the body was received whole: its connection is back in the pool
        self._head.close()
        self._release()

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.close()


def _look_for_silence(reference: "weakref.ref[Body]", gap_s: float) -> None:
    if (body := reference()) is not None:  # a timer must not keep alive what nobody reads any more
        body.look_for_silence(gap_s)


def _abort(head: aiohttp.ClientResponse) -> None:
    connection = head.connection
    if connection is not None and connection.protocol is not None:
        connection.protocol.abort()


def _loss(error: Exception) -> httpx.TransportError:
    """Return the httpx exception that says what happened in the middle of a body."""
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout(text)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Dropped(text)
    return httpx.ReadError(text)
