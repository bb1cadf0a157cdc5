"""A fake OpenAI-compatible provider over real HTTP, whose behaviour the caller scripts.

The script comes with the model's name or the API key, after a colon: `fake:chunks=20,interval=0.01`, `fake:status=429`.
In tests it is the fixture `provider` (a thread of this process); `python tests/provider.py PORT` serves drills, with
`GET /_requests` for what it has seen. Stdlib only; imports nothing of the product.

    chunks=5            tokens of the answer, one a chunk of a stream; `exact` writes exactly the asked maximum instead
    prompt=7            prompt tokens it reports
    interval=0          seconds between chunks; first=0: seconds before the head; think=0: between head and body
    status=200          an error status; retry_after=S; error=openai|flat|detail|html: the shape of its body
    leak                errors repeat the key they were asked with; shy: an error comes with status 200
    silence             never answers; stall=N: goes silent after N chunks
    reset=before|head|N resets the connection: before reading, after the head, after N chunks; drop: hangs up unanswered
    cut=head|N          closes cleanly after the head, or N chunks, no [DONE]; cut_raw=N: in the middle of chunk N
    short               a whole answer ends in its middle; drip=S: it comes in pieces, S seconds apart
    empty               an answer without content; garbled: JSON that ends in its middle; noise: no server-sent events
    sometimes=P:A=1;B   what follows holds for this share of the calls, as a seeded die falls; times=N:A=1;B for the
                        first N calls (of all with this text: make it one of your own)
    fail=N              sends an error chunk after N chunks
    done=no             leaves out [DONE]; close: closes after the answer; idle=S: closes an idle connection after S
    usage=asked|none|finish|null|each|groq|text|negative|huge     how it reports usage
    flavour=mistral|groq|azure|openrouter                         that provider's oddities
    Beside chat completions: embeddings, moderations, speech, transcriptions, images, files (by key, in memory).
    tool                calls the first tool; huge=BYTES: a large text; cookie, redirect, gzip, header=BYTES, junk
"""

import asyncio
import base64
import gzip
import json
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


@dataclass
class Received:
    """One request as it arrived. Times are `time.monotonic()`."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float
    sent_chunks: int = 0
    answered_at: float | None = None
    gone_at: float | None = None  # the client left before the answer was complete

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Script:
    """What to do with one request."""

    options: dict[str, str]
    body: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, body: dict[str, Any], key: str) -> "Script":
        text = ",".join(part.partition(":")[2] for part in (str(body.get("model", "")), key) if ":" in part)
        return cls(dict(_option(part) for part in text.split(",") if part), body)

    def __contains__(self, name: str) -> bool:
        return name in self.options

    def rolled(self, rolls: Counter[str]) -> "Script":
        """Return the script with what holds `sometimes` or some `times` only; `rolls` counts the calls of each."""
        share, _, more = (self.text("sometimes") or self.text("times")).partition(":")
        if not share:
            return self
        rolls[more] += 1
        die = random.Random(f"{more} {rolls[more]}").random()  # noqa: S311
        if die >= float(share) if "sometimes" in self else rolls[more] > int(share):
            return self
        return Script(self.options | dict(_option(part) for part in more.split(";")), self.body)

    def text(self, name: str, default: str = "") -> str:
        return self.options.get(name, default)

    def number(self, name: str, default: float = 0) -> float:
        return float(self.options.get(name, default))

    @property
    def limit(self) -> int | None:
        return self.body.get("max_completion_tokens") or self.body.get("max_tokens")

    @property
    def tokens(self) -> int:
        if "exact" in self:
            return self.limit or 16
        wanted = int(self.number("chunks", 5))
        return min(wanted, self.limit) if self.limit else wanted

    @property
    def finish_reason(self) -> str:
        if "tool" in self:
            return "tool_calls"
        return "length" if self.limit and self.tokens >= self.limit else "stop"

    def usage(self) -> dict[str, Any]:
        prompt, written = int(self.number("prompt", 7)), self.tokens
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": int(self.number("cached", 0))},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        wrong = {"text": "12", "negative": -5, "huge": 10**15}.get(self.text("usage"))
        return usage if wrong is None else usage | {"prompt_tokens": wrong, "completion_tokens": wrong}


def _option(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return name.strip(), value.strip()


class Provider:
    """The server. `start()` runs it in a thread; `requests` holds what arrived, oldest first."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.requests: list[Received] = []
        # Files by the key they were uploaded with: authorization -> id -> (what is told of it, its bytes).
        self.files: dict[str, dict[str, tuple[dict[str, Any], bytes]]] = {}
        self.rolls: Counter[str] = Counter()
        self.connections = 0
        self.open_connections = 0
        self.transports: set[asyncio.Transport] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="fake-provider")

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def last(self) -> Received:
        return self.requests[-1]

    def start(self) -> "Provider":
        self._thread.start()
        self._started.wait(10)
        return self

    def stop(self) -> None:
        if self._loop is not None and self._stopped is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    async def settled(self, condition: Callable[[], Any], timeout_s: float = 2.0) -> bool:
        """Wait until a condition about what was received holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    def _run(self) -> None:
        asyncio.run(self.serve())

    async def serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=2048)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        async with server:
            await self._stopped.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for transport in list(self.transports):
            transport.abort()
        await asyncio.sleep(0.05)  # their sockets are closed on the loop's next turns


class _Connection(asyncio.Protocol):
    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.buffer = b""
        self.task: asyncio.Task[None] | None = None
        self.request: Received | None = None
        self.idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.provider.transports.add(self.transport)
        self.provider.connections += 1
        self.provider.open_connections += 1
        self.number = self.provider.connections

    def connection_lost(self, exc: Exception | None) -> None:
        self.provider.open_connections -= 1
        self.provider.transports.discard(self.transport)
        if self.request is not None and self.request.answered_at is None:
            self.request.gone_at = time.monotonic()
        if self.task is not None:
            self.task.cancel()
        if self.idle is not None:
            self.idle.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.idle is not None:
            self.idle.cancel()
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end or self.task is not None:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", 0))
        if len(rest) < size:
            if _script_of(b"", headers).text("reset") == "before":
                self.reset()
            return
        self.buffer = rest[size:]
        method, path, _ = first.split(" ")
        self.request = Received(method, path, headers, rest[:size], self.number, time.monotonic())
        self.task = asyncio.get_running_loop().create_task(self.answer(self.request))

    async def answer(self, request: Received) -> None:
        if request.path.startswith("/_requests"):
            seen = [vars(item) | {"body": item.body.decode("utf-8", "replace")} for item in self.provider.requests]
            self.whole(200, json.dumps(seen).encode())
        else:
            self.provider.requests.append(request)
            script = _script_of(request.body, request.headers).rolled(self.provider.rolls)
            await _Answer(self, request, script).run()
        request.answered_at = time.monotonic()
        self.task = None

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def whole(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        fields = {"content-type": JSON, "content-length": str(len(body)), **(headers or {})}
        self.write(_head(status, fields) + body)

    def reset(self) -> None:
        """End the connection with a RST."""
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def _script_of(body: bytes, headers: dict[str, str]) -> Script:
    try:
        value = json.loads(body)
    except ValueError:
        value = _form(body)
    key = headers.get("authorization", "").removeprefix("Bearer ")
    return Script.of(value if isinstance(value, dict) else {}, key)


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Fake", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Answer:
    """One answer, from its script."""

    def __init__(self, connection: _Connection, request: Received, script: Script) -> None:
        self.connection = connection
        self.request = request
        self.script = script

    async def run(self) -> None:
        script = self.script
        await asyncio.sleep(script.number("first"))
        if "silence" in script:
            await asyncio.sleep(3600)
        if script.text("reset") == "before":
            return self.connection.reset()
        if "drop" in script:
            return self.connection.transport.close()
        if "junk" in script:
            return self.connection.write(b"SSH-2.0-OpenSSH_9.2 this is no HTTP\r\n\r\n")
        await self.route()
        if "close" in script:
            self.connection.transport.close()
        elif "idle" in script:
            loop = asyncio.get_running_loop()
            self.connection.idle = loop.call_later(script.number("idle"), self.connection.transport.close)
        return None

    async def route(self) -> None:
        script = self.script
        if int(script.number("status", 200)) >= 400:
            return self.refuse(int(script.number("status")))
        if "redirect" in script:
            return self.connection.whole(307, b"", {"location": "http://127.0.0.1:1/elsewhere"})
        if self.request.path.endswith("/models"):
            models = {"object": "list", "data": [{"id": "fake", "object": "model", "created": 1, "owned_by": "fake"}]}
            return self.connection.whole(200, json.dumps(models).encode())
        answer = _Rest(self).find()
        if answer is not None:
            return await answer()
        if not self.request.path.endswith("/chat/completions"):
            return self.refuse(404)
        if script.body.get("stream") is True:
            return await self.stream()
        return await self.plain()

    def headers(self) -> dict[str, str]:
        number = len(self.connection.provider.requests)
        extra = {"x-request-id": f"req_{number}", "openai-organization": "org-of-the-key"}
        if "cookie" in self.script:
            extra["set-cookie"] = "session=of-another-tenant; Path=/"
        if "header" in self.script:
            extra["x-large"] = "a" * int(self.script.number("header"))
        return extra

    def refuse(self, status: int) -> None:
        shape = self.script.text("error", "openai")
        message = self.complaint(f"scripted {status}")
        body: Any = {"error": {"message": message, "type": "scripted", "param": None, "code": "scripted"}}
        if shape == "flat":
            body = {"code": "scripted", "error": message}
        elif shape == "detail":
            body = {"detail": message}
        headers = self.headers()
        if "retry_after" in self.script:
            headers["retry-after"] = self.script.text("retry_after")
        status = 200 if "shy" in self.script else status
        if shape == "html":
            page = f"<html>{self.complaint('scripted')}</html>".encode()
            self.connection.whole(status, page, headers | {"content-type": "text/html"})
        else:
            self.connection.whole(status, json.dumps(body).encode(), headers)

    def complaint(self, text: str) -> str:
        return f"{text}: {self.request.headers.get('authorization')}" if "leak" in self.script else text

    def words(self) -> list[str]:
        if "huge" in self.script:
            return ["a" * int(self.script.number("huge"))]
        return [f"word{number} " for number in range(self.script.tokens)]

    async def plain(self) -> None:
        script = self.script
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.words()), "refusal": None}
        if "tool" in script:
            message |= {"content": None, "tool_calls": [_tool_call(script)]}
        body = _envelope("chat.completion", script) | {
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": script.finish_reason}]
        }
        if script.text("usage") != "none":
            body["usage"] = script.usage()
        content = json.dumps(body).encode()
        headers = self.headers()
        if "gzip" in script:
            content, headers = gzip.compress(content), headers | {"content-encoding": "gzip"}
        if "empty" in script:
            return self.connection.whole(200, b"", headers)
        if "garbled" in script:
            return self.connection.whole(200, content[: len(content) // 2], headers)
        if script.text("reset") == "head" or script.text("cut") == "head" or "short" in script:
            self.connection.write(_head(200, {"content-type": JSON, "content-length": str(len(content))}))
            self.connection.write(content[: len(content) // 2] if "short" in script else b"")
            await asyncio.sleep(0.02)
            return self.connection.reset() if "reset" in script else self.connection.transport.close()
        if "drip" in script:
            self.connection.write(_head(200, {"content-type": JSON, "content-length": str(len(content))}))
            for byte in content:
                self.connection.write(bytes([byte]))
                await asyncio.sleep(script.number("drip"))
            return None
        if "think" in script:
            self.connection.write(_head(200, {"content-type": JSON, "content-length": str(len(content))}))
            await asyncio.sleep(script.number("think"))
            return self.connection.write(content)
        return self.connection.whole(200, content, headers)

    # --- streams ----------------------------------------------------------------------------------------------

    async def stream(self) -> None:
        script = self.script
        fields = {"content-type": EVENTS, "transfer-encoding": "chunked", **self.headers()}
        self.connection.write(_head(200, fields))
        await asyncio.sleep(script.number("think"))
        if script.text("reset") == "head":
            await asyncio.sleep(0.02)
            return self.connection.reset()
        if any(name in script for name in ("empty", "garbled", "noise")) or script.text("cut") == "head":
            for data in self.unreadable():
                self.chunk(data)
            return self.connection.write(b"0\r\n\r\n")
        if script.text("flavour") == "azure":
            self.event({"id": "", "object": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
        if script.text("flavour") == "openrouter":
            self.chunk(b": OPENROUTER PROCESSING\n\n")
        if not await self.deltas():
            return None
        self.finish()
        if script.text("done") != "no":
            self.chunk(b"data: [DONE]\n\n")
        return self.connection.write(b"0\r\n\r\n")

    def unreadable(self) -> list[bytes]:
        """Return the pieces of a stream that is none."""
        if "garbled" in self.script:
            return [b'data: {"id":"chatcmpl-fake","choices":[{"index":0,"delta":{"cont\n\n', b"data: [DONE]\n\n"]
        if "noise" in self.script:
            return [b"word0 word1 ", b"\xff\xfe\x00word2\n", b"data word3\n\n"]
        return [b"data: [DONE]\n\n"] if "empty" in self.script else []

    async def deltas(self) -> bool:
        """Send the chunks with text. False when the script ended the connection."""
        script = self.script
        deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in self.words())]
        if "tool" in script:
            deltas = [{"role": "assistant", "content": None, "tool_calls": [_tool_call(script) | {"index": 0}]}]
        for number, delta in enumerate(deltas):
            if number > 1:
                await asyncio.sleep(script.number("interval"))
            if "stall" in script and number > script.number("stall"):
                await asyncio.sleep(3600)
            for name, act in self.ends().items():
                if script.text(name).isdigit() and number > int(script.text(name)):
                    await act()
                    return False
            self.event(self.delta(delta))
            self.request.sent_chunks = number
        return True

    def ends(self) -> dict[str, Callable[[], Awaitable[None]]]:
        async def reset() -> None:
            await asyncio.sleep(0.02)
            self.connection.reset()

        async def cut() -> None:
            self.connection.write(b"0\r\n\r\n")

        async def cut_raw() -> None:
            self.chunk(b'data: {"id":"cut in the mid')
            self.connection.transport.close()

        async def fail() -> None:
            name = b"event: error\n" if self.script.text("flavour") == "groq" else b""
            message = self.complaint("scripted failure")
            error = {"error": {"message": message, "type": "server_error", "code": "scripted"}}
            self.chunk(name + b"data: " + json.dumps(error).encode() + b"\n\n")
            self.connection.write(b"0\r\n\r\n")

        return {"reset": reset, "cut": cut, "cut_raw": cut_raw, "fail": fail}

    def delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        if self.script.text("flavour") == "mistral" and delta.get("content"):
            delta = {"content": [{"type": "text", "text": delta["content"]}]}
        chunk = _envelope("chat.completion.chunk", self.script)
        chunk["choices"] = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]
        if self.script.text("usage") == "each":
            chunk["usage"] = self.script.usage()
        elif self.script.text("usage") == "null" or self.asked:
            chunk["usage"] = None
        return chunk

    @property
    def asked(self) -> bool:
        options = self.script.body.get("stream_options") or {}
        return self.script.text("usage", "asked") == "asked" and options.get("include_usage") is True

    def finish(self) -> None:
        usage = self.script.text("usage", "asked")
        chunk = _envelope("chat.completion.chunk", self.script)
        chunk["choices"] = [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": self.script.finish_reason}]
        if self.script.text("flavour") == "groq" or usage == "groq":
            chunk["x_groq"] = {"id": "req_1", "usage": self.script.usage()}
        elif usage in ("finish", "each", "text", "negative", "huge") or self.script.text("flavour") == "mistral":
            chunk["usage"] = self.script.usage()
        elif self.asked or usage == "null":
            chunk["usage"] = None
        self.event(chunk)
        if self.asked and "usage" in chunk and chunk["usage"] is None:
            self.event(_envelope("chat.completion.chunk", self.script) | {"choices": [], "usage": self.script.usage()})

    def event(self, value: dict[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.connection.write(b"%x\r\n%b\r\n" % (len(data), data))


class _Rest:
    """What OpenAI's API has besides chat completions."""

    def __init__(self, answer: _Answer) -> None:
        self.answer = answer
        self.connection = answer.connection
        self.script = answer.script
        self.request = answer.request
        self.path = answer.request.path.partition("?")[0].removeprefix("/v1")

    def find(self) -> Callable[[], Awaitable[None]] | None:
        if self.path.startswith("/files"):
            return self.files
        return {
            "/completions": self.completions,
            "/embeddings": self.embeddings,
            "/moderations": self.moderations,
            "/audio/speech": self.speech,
            "/audio/transcriptions": self.transcriptions,
            "/audio/translations": self.transcriptions,
            "/images/generations": self.images,
            "/images/edits": self.images,
            "/images/variations": self.images,
        }.get(self.path)

    def json(self, value: dict[str, Any], status: int = 200) -> None:
        self.connection.whole(status, json.dumps(value).encode(), self.answer.headers())

    async def events(self, *values: dict[str, Any]) -> None:
        head = {"content-type": EVENTS, "transfer-encoding": "chunked", **self.answer.headers()}
        self.connection.write(_head(200, head))
        for value in values:
            self.answer.event(value)
            await asyncio.sleep(self.script.number("interval"))
        self.connection.write(b"0\r\n\r\n")

    async def completions(self) -> None:
        whole = _envelope("text_completion", self.script)
        if self.script.body.get("stream") is not True:
            last = {"index": 0, "text": "".join(self.answer.words()), "finish_reason": "stop", "logprobs": None}
            return self.json(whole | {"choices": [last], "usage": self.script.usage()})
        words = [{"index": 0, "text": word, "finish_reason": None, "logprobs": None} for word in self.answer.words()]
        words[-1]["finish_reason"] = "stop"
        usage = [whole | {"choices": [], "usage": self.script.usage()}] if self.answer.asked else []
        return await self.events(*(whole | {"choices": [word], "usage": None} for word in words), *usage)

    async def embeddings(self) -> None:
        body = self.script.body
        given = body["input"]
        count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
        numbers = [0.5, -0.25, 1e-05]
        packed = base64.b64encode(struct.pack("<3f", *numbers)).decode()
        vector = packed if body.get("encoding_format") == "base64" else numbers
        used = int(self.script.number("prompt", 7))
        usage = {"usage": {"prompt_tokens": used, "total_tokens": used}} if self.script.text("usage") != "none" else {}
        items = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
        self.json({"object": "list", "data": items, "model": str(body["model"]).partition(":")[0], **usage})

    async def moderations(self) -> None:
        result = {"flagged": False, "categories": {}, "category_scores": {}, "category_applied_input_types": {}}
        self.json({"id": "modr-fake", "model": str(self.script.body.get("model")), "results": [result]})

    async def speech(self) -> None:
        usage = {"input_tokens": 4, "output_tokens": 30, "total_tokens": 34}
        if self.script.body.get("stream_format") == "sse":
            delta = {"type": "speech.audio.delta", "audio": base64.b64encode(SOUND).decode()}
            return await self.events(delta, {"type": "speech.audio.done", "usage": usage})
        head = {"content-type": "audio/mpeg", "transfer-encoding": "chunked", **self.answer.headers()}
        self.connection.write(_head(200, head))
        for number in range(4):
            if self.script.text("cut_raw") and number > self.script.number("cut_raw"):
                return self.connection.transport.close()
            self.answer.chunk(SOUND)
            await asyncio.sleep(self.script.number("interval"))
        return self.connection.write(b"0\r\n\r\n")

    async def transcriptions(self) -> None:
        fields = self.script.body
        usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 3, "total_tokens": 17}
        if fields.get("stream") == "true":
            deltas = [{"type": "transcript.text.delta", "delta": text} for text in ("Hello ", "there")]
            done = {"type": "transcript.text.done", "text": "Hello there", "usage": usage}
            return await self.events(*deltas, done)
        if fields.get("response_format") == "text":
            return self.connection.whole(200, b"Hello there\n", {"content-type": "text/plain; charset=utf-8"})
        return self.json({"text": "Hello there", "usage": usage})

    async def images(self) -> None:
        picture = base64.b64encode(b"\x89PNG" + b"\0" * int(self.script.number("huge", 30))).decode()
        details = {"image_tokens": 0, "text_tokens": 9}
        usage = {"input_tokens": 9, "input_tokens_details": details, "output_tokens": 100, "total_tokens": 109}
        if self.script.body.get("stream") is True:
            seen = {"b64_json": picture, "created_at": 1, "size": "auto", "quality": "low", "background": "auto"}
            first = {"type": "image_generation.partial_image", "partial_image_index": 0, "output_format": "png", **seen}
            last = {"type": "image_generation.completed", "usage": usage, "output_format": "png", **seen}
            return await self.events(first, last)
        return self.json({"created": 1, "data": [{"b64_json": picture}], "usage": usage})

    async def files(self) -> None:
        mine = self.connection.provider.files.setdefault(self.request.headers.get("authorization", ""), {})
        _, _, rest = self.path.partition("/files")
        file_id, _, what = rest.strip("/").partition("/")
        if self.request.method == "POST":
            fields = self.script.body
            number = sum(len(files) for files in self.connection.provider.files.values())
            told = {"id": f"file-fake{number}", "object": "file", "created_at": 1, "status": "processed"}
            told |= {"filename": fields["file"][0], "bytes": len(fields["file"][1]), "purpose": fields["purpose"]}
            mine[told["id"]] = (told, fields["file"][1])
            return self.json(told)
        if not file_id:
            return self.json({"object": "list", "data": [told for told, _ in mine.values()], "has_more": False})
        if file_id not in mine:
            error = {"message": f"No such File object: {file_id}", "type": "invalid_request_error", "param": "id"}
            return self.json({"error": {**error, "code": None}}, status=404)
        if what == "content":
            head = {"content-type": "application/octet-stream"}
            return self.connection.whole(200, mine[file_id][1], head)
        if self.request.method == "DELETE":
            del mine[file_id]
            return self.json({"id": file_id, "object": "file", "deleted": True})
        return self.json(mine[file_id][0])


SOUND = b"\xff\xfb\x90\x00" * 100


def _form(body: bytes) -> dict[str, Any]:
    """Return the fields of a form; a file is its name and its bytes."""
    boundary = body.partition(b"\r\n")[0]
    fields: dict[str, Any] = {}
    for part in body.split(boundary)[1:-1] if boundary.startswith(b"--") else ():
        head, _, content = part.partition(b"\r\n\r\n")
        names = dict(re.findall(r' (\w+)="([^"]*)"', head.decode("latin-1")))
        text = content.removesuffix(b"\r\n")
        fields[names["name"]] = (names["filename"], text) if "filename" in names else text.decode("latin-1")
    return fields


def _envelope(kind: str, script: Script) -> dict[str, Any]:
    model = str(script.body.get("model", "fake")).partition(":")[0]
    envelope = {"id": "chatcmpl-fake", "object": kind, "created": 1_700_000_000, "model": f"{model}-2024-01-01"}
    return envelope | ({"service_tier": "on_demand"} if script.text("flavour") == "groq" else {})


def _tool_call(script: Script) -> dict[str, Any]:
    tools = script.body.get("tools") or [{"function": {"name": "look_up"}}]
    call = {"id": "call_fake", "function": {"name": tools[0]["function"]["name"], "arguments": '{"city":"Paris"}'}}
    return call if script.text("flavour") == "mistral" else call | {"type": "function"}


if __name__ == "__main__":
    served = Provider(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(f"fake provider on 127.0.0.1:{served.port}", flush=True)
    asyncio.run(served.serve())
