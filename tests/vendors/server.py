"""A fake vendor over real HTTP in a thread: what all of them share. Stdlib only; imports nothing of the product.

A vendor is strict as the real one is: what it would refuse it refuses with its own error, so that a wrong translation
fails a test instead of passing unseen. Its script comes with the model's name, after a colon (`claude:status=529`), as
that of `tests/provider.py`; what it tells of broken answers is played by `Mishap`. Neighbours: `anthropic.py`,
`gemini.py`, `openai.py` (the vendors), `mind.py` (what they answer), `tests/stack.py` (their catalogue files).
"""

import json
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.provider import Script

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


@dataclass
class Seen:
    """One request as it arrived, and the usage its answer reported."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    usage: dict[str, Any] | None = None
    refusal: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """An answer: a whole body, or pieces that are streamed."""

    body: bytes | Iterable[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": JSON})


class HangUp(Exception):
    """The connection ends here; `rude` with a reset, else it is only closed."""

    def __init__(self, *, rude: bool = False) -> None:
        super().__init__()
        self.rude = rude


class Silence(Exception):
    """Nothing more is said until the client goes."""


class Refusal(Exception):
    """What the vendor refuses: status, the vendor's word for it, and what it says."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param


class Vendor:
    """The server; `requests` holds what arrived, oldest first."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.rolls: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def last(self) -> Seen:
        return self.requests[-1]

    def start(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.vendor = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join(10)

    def answer(self, seen: Seen) -> Reply:
        """Answer a request. Raises: Refusal."""
        raise NotImplementedError

    def refuse(self, refusal: Refusal) -> dict[str, Any]:
        """Return a refusal in this vendor's shape."""
        raise NotImplementedError


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512
    vendor: Vendor

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End kept-alive connections: their threads wait for a next request."""
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                connection.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of our troubles."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""

    def do_POST(self) -> None:
        target = urlsplit(self.path)
        seen = Seen(
            method=self.command,
            path=unquote(target.path),
            query={name: values[0] for name, values in parse_qs(target.query, keep_blank_values=True).items()},
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self._body(),
        )
        vendor = self.server.vendor
        with vendor.lock:
            vendor.requests.append(seen)
        try:
            reply = vendor.answer(seen)
        except Refusal as refusal:
            reply = self._refused(refusal, seen)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # Members of other types than the rules expect: they say so with an exception of Python's.
            reply = self._refused(Refusal(400, "invalid_request_error", f"malformed request: {error!r}"), seen)
        except (HangUp, Silence) as end:
            return self._end(end)
        try:
            self._send(reply)
        except (HangUp, Silence) as end:
            self._end(end)

    def _end(self, end: HangUp | Silence) -> None:
        if isinstance(end, Silence):
            select.select([self.connection], [], [], 3600)
        elif end.rude:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def _refused(self, refusal: Refusal, seen: Seen) -> Reply:
        seen.refusal = str(refusal)
        return Reply(json.dumps(self.server.vendor.refuse(refusal)).encode(), status=refusal.status)

    do_GET = do_DELETE = do_POST

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _send(self, reply: Reply) -> None:
        whole = isinstance(reply.body, bytes)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if whole and "content-length" not in reply.headers:
            self.send_header("content-length", str(len(reply.body)))
        elif "content-length" in reply.headers:
            pass
        else:
            self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if whole:
            self.wfile.write(reply.body)
            return
        if "content-length" in reply.headers:  # a whole answer, piece by piece
            for piece in reply.body:
                self.wfile.write(piece)
            return
        for piece in reply.body:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


class Mishap:
    """What becomes of an answer whose script says that it does not arrive as it should (see `tests/provider.py`)."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def before(self, error: dict[str, Any]) -> Reply | None:
        """Return the refusal of a script, in the vendor's shape; None where the request is answered."""
        script = self.script
        if "silence" in script:
            raise Silence
        if script.text("reset") == "before":
            raise HangUp(rude=True)
        if "status" not in script:
            return None
        headers = {"retry-after": script.text("retry_after")} if "retry_after" in script else {}
        status = 200 if "shy" in script else int(script.number("status"))
        if script.text("error") == "html":
            page = b"<html><body><h1>Bad gateway</h1></body></html>"
            return Reply(page, status, {"content-type": "text/html", **headers})
        return Reply(json.dumps(error).encode(), status, {"content-type": JSON, **headers})

    def after(self, reply: Reply, noise: Iterable[bytes]) -> Reply:
        """Return an answer as the script lets it arrive; `noise` is a stream that cannot be read."""
        script = self.script
        if not isinstance(reply.body, bytes):
            if script.text("cut") == "head" or any(name in script for name in ("empty", "garbled", "noise")):
                reply.body = noise
            else:
                reply.body = self._paced(reply.body)
            return reply
        if "empty" in script:
            reply.body = b""
        elif "garbled" in script:
            reply.body = reply.body[: len(reply.body) // 2]
        elif "short" in script or "drip" in script:
            reply.headers = {**reply.headers, "content-length": str(len(reply.body))}
            reply.body = self._dripping(reply.body)
        return reply

    def _paced(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield a stream; `stall`, `reset` and `cut_raw` count its events."""
        script = self.script
        for number, piece in enumerate(pieces):
            if "stall" in script and number > script.number("stall"):
                raise Silence
            if script.text("reset").isdigit() and number > script.number("reset"):
                raise HangUp(rude=True)
            if "cut_raw" in script and number > script.number("cut_raw"):
                yield piece[: len(piece) // 2]
                raise HangUp
            yield piece
            time.sleep(script.number("interval"))

    def _dripping(self, body: bytes) -> Iterator[bytes]:
        for number, byte in enumerate(body):
            if "short" in self.script and number > len(body) // 2:
                raise HangUp
            yield bytes([byte])
            time.sleep(self.script.number("drip"))


def words(text: str) -> frozenset[str]:
    """Return the words of a text: names that a vendor knows."""
    return frozenset(text.split())


def decoded(seen: Seen) -> dict[str, Any]:
    """Return the JSON object of a body. Raises: Refusal."""
    try:
        value = json.loads(seen.body)
    except ValueError:
        raise Refusal(400, "invalid_request_error", "The request body is not valid JSON") from None
    if not isinstance(value, dict):
        raise Refusal(400, "invalid_request_error", "The request body must be an object")
    return value


# What kind of models those are that bear a real one's name.
_KNOWN = {
    "claude-sonnet-4-20250514": "thinking=budget",
    "gpt-5.4": "reasons",
    "gemini-2.5-flash": "thinking=budget",
}


def scripted(model: Any) -> tuple[str, Script]:
    """Return a model's name without its script, and the script."""
    name = str(model).partition(":")[0]
    return name, Script.of({"model": f"{name}:{_KNOWN[name]}" if name in _KNOWN else model}, "")


def events(values: Iterable[dict[str, Any]], *, named: bool = False, end: bytes = b"\n\n") -> Iterator[bytes]:
    """Write server-sent events, `named`: with their `type` as the event's name."""
    for value in values:
        name = f"event: {value['type']}\n".encode() if named else b""
        yield name + b"data: " + json.dumps(value, ensure_ascii=False).encode() + end
