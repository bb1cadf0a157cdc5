"""The door of the Docs MCP, `/mcp/docs`: who may knock, how often, with how much. No authentication: docs are public.

It answers what needs no server (other methods, other hosts and origins, too much, no JSON) and hands the rest to the
server in `respan.mcp_server`, which is imported with the first request that gets so far: the SDK costs some 30 MB
and a second.
It never knows a page or a tool. Neighbours: `asgi.py` (asks for it), `mcp_server.py`, `docs.py`.
"""

import asyncio
import importlib
import io
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http.request import split_domain_port, validate_host

from accounts import audit
from respan import asgi

log = structlog.get_logger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES = 64 * 1024
# Kept addresses; more than that within a minute are no readers.
MAX_ADDRESSES = 10_000
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")

# JSON-RPC 2.0, section 5.1, and the first of the codes it leaves to servers.
PARSE_ERROR, INVALID_REQUEST, INTERNAL_ERROR, REFUSED = -32700, -32600, -32603, -32000

_NO_POST = {
    "GET": "SSE streams not supported in stateless mode. Use POST for tool calls.",
    "HEAD": "SSE streams not supported in stateless mode. Use POST for tool calls.",
    "DELETE": "Session management not supported in stateless mode.",
}
_NO_STORE = (b"cache-control", b"no-store")


class Refused(Exception):
    """A request that does not reach the server. Says an HTTP status, a JSON-RPC code and why."""

    def __init__(self, status: int, code: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


class Pace:
    """How many requests each address makes: so many a minute, all at once if it likes. One process's own count."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = max(1, per_minute)
        # address -> (requests it may still make, when that was so)
        self._left: dict[str, tuple[float, float]] = {}

    def wait_s(self, address: str, now: float) -> float:
        """Count one request; return 0, or the seconds after which the next one is welcome."""
        left, then = self._left.get(address, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - then) * self.per_minute / 60)
        if left < 1:
            return (1 - left) * 60 / self.per_minute
        if len(self._left) >= MAX_ADDRESSES and address not in self._left:
            self._forget(now)
        self._left[address] = (left - 1, now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Drop who has been silent for a minute, else everybody: memory is bounded, not justice."""
        self._left = {address: (left, then) for address, (left, then) in self._left.items() if now - then < 60}
        if len(self._left) >= MAX_ADDRESSES:
            self._left.clear()


class Door:
    """The ASGI application of `/mcp/docs`. One for a process; `close()` ends what the first request started."""

    def __init__(self) -> None:
        self.pace = Pace(settings.RESPAN_DOCS_MCP_PER_MINUTE)
        self._server: Any = None
        self._opening = asyncio.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        began = False

        async def passing_on(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                message["headers"] = [*message.get("headers", ()), _NO_STORE]
            await send(message)

        try:
            body = await self._admit(scope, receive)
            if body is not None:
                server = await self._opened()
                await server.answer(scope, _replay(body, receive), passing_on)
        except Refused as refused:
            await _refuse(refused, send)
        except Exception:
            log.exception("docs mcp failed")
            if not began:
                await _refuse(Refused(500, INTERNAL_ERROR, "Internal error"), send)

    async def close(self) -> None:
        """End the server, if one was started."""
        if self._server is not None:
            await self._server.close()
            self._server = None

    async def _admit(self, scope: Message, receive: Receive) -> bytes | None:
        """Return the body of a request for the server, None when the client left. Raises: Refused."""
        headers = dict(scope["headers"])
        _check_names(headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1"))
        self._check_pace(scope)
        method = scope["method"]
        if method != "POST":
            raise Refused(405, REFUSED, _NO_POST.get(method, "Use POST."), allow="POST")
        if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
            raise Refused(415, INVALID_REQUEST, "Content-Type must be application/json.")
        try:
            body = await asgi.read_body(scope, receive, limit=MAX_BODY_BYTES)
        except asgi.BodyTooLarge:
            message = f"The request is larger than {MAX_BODY_BYTES} bytes."
            raise Refused(413, INVALID_REQUEST, message, connection="close") from None
        except asgi.BodyTimeout as error:
            raise Refused(408, INVALID_REQUEST, error.message, connection="close") from None
        if body is not None:
            _check_json(body)
        return body

    def _check_pace(self, scope: Message) -> None:
        address = audit.client_address(ASGIRequest(dict(scope), io.BytesIO())) or ""
        if wait_s := self.pace.wait_s(_neighbourhood(address), asyncio.get_running_loop().time()):
            message = f"Rate limit exceeded: {self.pace.per_minute} requests a minute."
            raise Refused(429, REFUSED, message, retry_after=str(int(wait_s) + 1))

    async def _opened(self) -> Any:
        """Return the running server; the first time import it, in a thread: calls must not wait for it."""
        async with self._opening:
            if self._server is None or not self._server.is_alive:
                module = await asyncio.to_thread(importlib.import_module, "respan.mcp_server")
                self._server = await module.Embedded.start()
            return self._server


def _check_names(host: str, origin: str) -> None:
    """Refuse a page of another site that reaches us through a name of its own (DNS rebinding)."""
    allowed = [*settings.ALLOWED_HOSTS, *LOOPBACK_HOSTS]
    domain, _ = split_domain_port(host)
    if not domain or not validate_host(domain, allowed):
        raise Refused(421, REFUSED, "This server is not known by that Host.")
    if not origin:
        return  # no browser
    try:
        parts = urlsplit(origin)
        domain, _ = split_domain_port(parts.netloc)
    except ValueError:
        domain = ""
    if not domain or parts.scheme not in {"http", "https"} or not validate_host(domain, allowed):
        raise Refused(403, REFUSED, "Requests from that Origin are not allowed.")


def _check_json(body: bytes) -> None:
    """Refuse what is not one JSON object with a usable id.

    The SDK would answer most of this itself, but an id of five thousand digits with a 500.
    """
    try:
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError):
        raise Refused(400, PARSE_ERROR, "Parse error: the body is no JSON.") from None
    if not isinstance(message, dict):
        raise Refused(400, INVALID_REQUEST, "The body must be one JSON-RPC message; batches are not supported.")
    number = message.get("id", 0)
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise Refused(400, INVALID_REQUEST, "The id must be a string or an integer.")
    if len(number) > 256 if isinstance(number, str) else abs(number) >= 1 << 63:
        raise Refused(400, INVALID_REQUEST, "The id is too long.")


def _neighbourhood(address: str) -> str:
    """Return whom to count: an IPv4 address, or the /64 of an IPv6 address, which is one subscriber's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that says the body once and then what the client does."""
    said = False

    async def replayed() -> Message:
        nonlocal said
        if said:
            return await receive()
        said = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _refuse(refused: Refused, send: Send) -> None:
    error = {"jsonrpc": "2.0", "error": {"code": refused.code, "message": refused.message}, "id": None}
    content = json.dumps(error).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), _NO_STORE]
    await send({"type": "http.response.start", "status": refused.status, "headers": [*head, *refused.headers]})
    await send({"type": "http.response.body", "body": content})
