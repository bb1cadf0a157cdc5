"""The ASGI application: the gateway's paths through a lean handler, the Docs MCP, everything else through stock Django.

The lean handler resolves the URL with Django's resolver and awaits the DRF view itself: a tenth of the CPU of Django's
own handler, which starts two threads a request and hops one for each refusal. It owns what Django's handler did for it:
the body (limit and time-out), unknown paths, the client's disconnect, a client that stops reading, and the finalizers
of streams. It never knows a dialect or an account. Neighbours: `gateway.urls`, `gateway.api`.

A stream is a response with a `relay`: an object with `__anext__` and an idempotent `aclose()`, which is always called
unless `close_at_once()` could do without waiting; a generator that never started would skip its own `finally`.
"""

import asyncio
import gc
import io
import os
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponseBase
from django.urls import Resolver404, ResolverMatch, URLResolver, get_resolver
from django.urls.resolvers import RegexPattern

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "respan.settings")
django_application = get_asgi_application()

import respan.celery  # noqa: E402, F401  (publishing goes to our broker)
from accounts import keys  # noqa: E402
from gateway import throttle  # noqa: E402
from respan import leaving, outbound, pool, redis  # noqa: E402
from respan.errors import Error  # noqa: E402
from traces import intake  # noqa: E402

if TYPE_CHECKING:
    from respan.mcp import Door

log = structlog.get_logger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class NotFound(Error):
    """No such path under /api/."""

    status = 404
    code = "not_found"
    message = "There is nothing at this address. Check the base URL: it ends in /api/."


class BadRequest(Error):
    """A request that cannot be read at all."""

    status = 400
    code = "bad_request"
    message = "The request could not be read."


class BodyTooLarge(Error):
    """A body over the limit: the connection is closed, the rest of it is not read."""

    status = 413
    code = "request_too_large"
    message = "The request body is larger than this gateway accepts (32 MB by default)."


class BodyTimeout(Error):
    """A body that does not arrive."""

    status = 408
    code = "request_timeout"
    message = "The request body did not arrive in time."


async def read_body(scope: Message, receive: Receive, *, limit: int | None = None) -> bytes | None:
    """Return the whole body, or None when the client left. The limit in bytes is the gateway's unless another is given.

    Raises: BodyTooLarge as soon as the announced or received size passes the limit; BodyTimeout.
    """
    limit = settings.RESPAN_MAX_BODY_BYTES if limit is None else limit
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > limit):
            raise BodyTooLarge
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  (an ASGI server always runs us in a task)
    late = False

    def give_up() -> None:
        nonlocal late
        late = True
        task.cancel()

    # By hand: `asyncio.timeout` costs as much as a task of its own, and nearly every body is here already.
    alarm = asyncio.get_running_loop().call_later(settings.RESPAN_BODY_TIMEOUT_S, give_up)
    try:
        return await _read_parts(receive, limit)
    except asyncio.CancelledError:
        if not late or task.uncancel():
            raise
        raise BodyTimeout from None
    finally:
        alarm.cancel()


async def _read_parts(receive: Receive, limit: int) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        if not message.get("more_body"):
            if size + len(part) > limit:
                raise BodyTooLarge
            return b"".join([*parts, part]) if parts else part
        size += len(part)
        if size > limit:
            raise BodyTooLarge
        parts.append(part)


class Lean:
    """The application. `pending` holds finalizers until they are done, whatever happens to their callers."""

    def __init__(self, django: Callable[..., Awaitable[None]]) -> None:
        self.django = django
        self.pending: set[asyncio.Task[Any]] = set()
        self.gateway = URLResolver(RegexPattern(r"^/"), "gateway.urls")
        # Every spelling of the few paths without arguments, once it was asked for.
        self.matches: dict[str, ResolverMatch] = {}
        self.docs_mcp: Door | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.lifespan(receive, send)
        if scope["type"] != "http":
            return None
        match = self.match(scope["path"])
        if match is None:
            other = self.django if scope["path"] not in _DOCS_MCP else self.docs_door()
            return await other(scope, receive, send)
        await Exchange(self, scope, match, receive, send).run()
        return None

    def match(self, path: str) -> ResolverMatch | None:
        """Return the view of a gateway path; `_nothing_here` for what nobody serves under /api/; else None.

        The resolver knows the gateway's own paths only: the root's would walk every app's.
        """
        known = self.matches.get(path)
        if known is not None:
            return known
        try:
            match = self.gateway.resolve(path)
        except Resolver404:
            pass
        else:
            if len(self.matches) < 100 and not match.kwargs and not match.args:
                self.matches[path] = match
            return match
        if path.startswith(("/api/", "/v1/")):
            try:
                get_resolver().resolve(path)
            except Resolver404:
                return _NOTHING_HERE
        return None

    def docs_door(self) -> "Door":
        """Return the Docs MCP, made when it is asked for first."""
        if self.docs_mcp is None:
            from respan.mcp import Door

            self.docs_mcp = Door()
        return self.docs_mcp

    def finish(self, work: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
        """Run to its end whatever happens to the caller; awaited again at shutdown."""
        task = asyncio.get_running_loop().create_task(work)
        self.pending.add(task)
        task.add_done_callback(self.pending.discard)
        return asyncio.shield(task)

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """Load what calls need before the first one; at the end wait for the finalizers, then close."""
        await receive()
        try:
            _warm_up()
            await pool.warm_up()
            await _follow_added_models()
        except Exception as error:
            log.exception("start failed")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        while self.pending:
            await asyncio.wait(self.pending, timeout=30)
        await _answers_written()
        await _follow_added_models(stop=True)
        if self.docs_mcp is not None:
            await self.docs_mcp.close()
        await keys.flush_last_used()
        await _settle_cache()
        await throttle.close()
        await outbound.close()
        await pool.close()
        await redis.close()
        intake.close()
        await send({"type": "lifespan.shutdown.complete"})


class Request(ASGIRequest):
    """Django's request with its body here already, and with the names of its headers translated once for all."""

    def __init__(self, scope: Message, body: bytes) -> None:
        """Raises: UnicodeDecodeError."""
        self.scope = scope
        self._post_parse_error = self._read_started = False
        self._body = body
        self._stream = io.BytesIO(body)
        self.resolver_match = None
        self.path = self.path_info = scope["path"]
        self.script_name = ""
        self.method = scope["method"]
        client, server = scope.get("client") or ("", 0), scope.get("server") or ("unknown", 0)
        self.META = {
            "REQUEST_METHOD": self.method,
            "QUERY_STRING": scope["query_string"].decode(),
            "SCRIPT_NAME": "",
            "PATH_INFO": self.path,
            "REMOTE_ADDR": client[0],
            "SERVER_NAME": server[0],
            "SERVER_PORT": str(server[1]),
        }
        meta = self.META
        for raw_name, value in scope["headers"]:
            name = _meta_name(raw_name)
            if name in meta:
                meta[name] += "," + value.decode("latin-1")
            elif name:
                meta[name] = value.decode("latin-1")
        if meta.get("CONTENT_TYPE") == "application/json":
            self.content_type, self.content_params = "application/json", {}
        else:
            self._set_content_type_params(meta)  # type: ignore[attr-defined]


@lru_cache(maxsize=1_000)
def _meta_name(header: bytes) -> str:
    """Return what Django calls a header; nothing for one that could be taken for another (`a_b` for `a-b`)."""
    name = header.decode("latin-1")
    if "_" in name:
        return ""
    name = name.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


@lru_cache(maxsize=1_000)
def _header_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "alarm", "app", "filling", "gone", "is_sending", "match", "over", "receive", "scope", "send", "sent", "task",
    )  # fmt: skip

    def __init__(self, app: Lean, scope: Message, match: ResolverMatch, receive: Receive, send: Send) -> None:
        self.app = app
        self.scope = scope
        self.match = match
        self.receive = receive
        self.send = send
        self.over = False
        self.gone = False
        self.is_sending = False
        self.sent = 0
        self.alarm: asyncio.TimerHandle | None = None
        self.filling: asyncio.Task[None] | None = None

    async def run(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (an ASGI server always runs us in a task)
        self.task = task
        try:
            body = await read_body(self.scope, self.receive)
        except Error as error:
            return await self.answer(_refusal(error, self.scope["path"], close=True))
        if body is None:
            return None
        watcher = None
        if not leaving.listen(self.scope, self.lost):
            watcher = asyncio.get_running_loop().create_task(self.watch())
        response: HttpResponseBase | None = None
        try:
            response = await self.respond(body)
            await self.answer(response)
        except asyncio.CancelledError:
            if not self.gone:  # the server stops
                raise
        finally:
            self.over = True
            if watcher is not None:
                watcher.cancel()
            relay = getattr(response, "relay", None)
            if relay is not None and not relay.close_at_once():
                await self.app.finish(relay.aclose())
        return None

    def lost(self) -> None:
        """Cancel the work when the client leaves, unless it goes on for somebody else."""
        if not self.over:
            self.gone = True
            if not leaving.goes_on(self.scope):
                self.task.cancel()

    async def watch(self) -> None:
        """Wait for a client to leave, where the server does not tell by itself.

        After the last send uvicorn also says `http.disconnect`: `lost` knows.
        """
        await self.receive()
        self.lost()

    async def respond(self, body: bytes) -> HttpResponseBase:
        try:
            request = Request(self.scope, body)
            request.resolver_match = self.match
            response: HttpResponseBase = await self.match.func(request, *self.match.args, **self.match.kwargs)
            return response
        except UnicodeDecodeError:
            return _refusal(BadRequest(), self.scope["path"])
        except Exception:
            log.exception("gateway view failed", path=self.scope["path"])
            return _refusal(Error(), self.scope["path"])

    async def answer(self, response: HttpResponseBase) -> None:
        headers = [(_header_name(name), value.encode("latin-1")) for name, value in response.items()]
        relay = getattr(response, "relay", None)
        if relay is None:
            content: bytes = response.content  # type: ignore[attr-defined]
            headers.append((b"content-length", str(len(content)).encode()))
            if self.scope["method"] == "HEAD":
                content = b""
            await self.send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            await self.send({"type": "http.response.body", "body": content})
            return
        send = self.send
        self.watch_progress(0, 0, -1, getattr(response, "filler", b""))
        try:
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for block in relay:
                self.is_sending = True
                await send({"type": "http.response.body", "body": block, "more_body": True})
                self.is_sending = False
                self.sent += 1
            self.over = self.is_sending = True
            await send({"type": "http.response.body", "body": b""})
        finally:
            if self.alarm is not None:
                self.alarm.cancel()
            if self.filling is not None:
                self.filling.cancel()
            self.over = True

    def watch_progress(self, stalled: int, silent: int, seen: int, filler: bytes) -> None:
        """Give up on a client that reads nothing, and keep a stream alive whose provider says nothing.

        The first would hold its call, and its credits, for ever; the second would be cut by a proxy on its way. Looked
        at from beside: a clock read for each event of a stream would cost more than the looking.
        """
        stalled = stalled + 1 if self.is_sending and self.sent == seen else 0
        silent = silent + 1 if not self.is_sending and self.sent == seen > 0 else 0
        if stalled >= 10:
            self.gone = True
            self.task.cancel()
            return
        loop = asyncio.get_running_loop()
        if silent >= 2 and filler and (self.filling is None or self.filling.done()):
            silent = 0
            self.filling = loop.create_task(self.fill(filler))
        step = settings.RESPAN_WRITE_STALL_TIMEOUT_S / 10
        self.alarm = loop.call_later(step, self.watch_progress, stalled, silent, self.sent, filler)

    async def fill(self, filler: bytes) -> None:
        """Send what says nothing, unless something is said at last."""
        if not (self.over or self.is_sending):
            await self.send({"type": "http.response.body", "body": filler, "more_body": True})


async def _nothing_here(request: ASGIRequest) -> HttpResponseBase:
    return _refusal(NotFound(), request.path)


_NOTHING_HERE = ResolverMatch(_nothing_here, (), {})
_DOCS_MCP = ("/mcp/docs", "/mcp/docs/")


def _refusal(error: Error, path: str, *, close: bool = False) -> HttpResponseBase:
    from gateway.api import refusal, spoken_at

    response = refusal(error, spoken_at(path))
    if close:
        response["Connection"] = "close"
    return response


def _warm_up() -> None:
    """Import every view and load the catalogue, then move all of it out of the collector's sight.

    Without the freeze a full collection costs 30 ms now and then (p99 at 32 connections 29 -> 8 ms). A call makes some
    hundred objects and no cycles: looking at the young ones every 700 would cost a tenth of its time.
    """
    from gateway.providers import catalog

    catalog()
    intake.owner()
    _ = get_resolver().url_patterns
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


async def _answers_written() -> None:
    """Let answers that may be asked for again reach the database."""
    from gateway import replays

    await replays.written(timeout_s=2)


async def _settle_cache() -> None:
    """Let answers that were just brought be kept, and hits be counted."""
    from gateway import cache

    await cache.settled()


async def _follow_added_models(*, stop: bool = False) -> None:
    """Let the catalogue have what the operator adds to it, from now on or no longer."""
    from gateway.added_models import follower

    await (follower.stop() if stop else follower.start())


application = Lean(django_application)
